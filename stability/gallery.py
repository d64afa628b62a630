"""Parts beside the core: methods from the literature, step rules of `minimize`, an autoencoder.

>>> import stability as st
>>> F = st.quadratic([6.0, 1.0])
>>> st.minimize(F, [1.0, 1.0], method=st.SGD(), step=st.gallery.Armijo(), iterations=2).steps
array([0.25, 0.25])
"""

from .methods.gallery import fractional, natural_gradient, newsamp, rsfn
from .objectives.network import autoencoder
from .training.options import Armijo, SpectralStep

__all__ = [
    "Armijo",
    "SpectralStep",
    "autoencoder",
    "fractional",
    "natural_gradient",
    "newsamp",
    "rsfn",
]
