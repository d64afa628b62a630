"""From the literature: methods and their table, step rules, batch sharpness, an autoencoder.

>>> import stability as st
>>> F = st.quadratic([6.0, 1.0])
>>> st.minimize(F, [1.0, 1.0], method=st.SGD(), step=st.gallery.Armijo(), iterations=2).steps
array([0.25, 0.25])
"""

from typing import TYPE_CHECKING, Any

from .methods.gallery import fractional, natural_gradient, newsamp, rsfn
from .objectives.network import autoencoder
from .training.options import Armijo, SpectralStep
from .training.sharpness import batch_sharpness

if TYPE_CHECKING:
    from .symbolic.table import method_table

__all__ = [
    "Armijo",
    "SpectralStep",
    "autoencoder",
    "batch_sharpness",
    "fractional",
    "method_table",
    "natural_gradient",
    "newsamp",
    "rsfn",
]


def __getattr__(name: str) -> Any:
    """SymPy is heavy: the table that needs it is imported when it is first asked for."""
    if name == "method_table":
        from .symbolic.table import method_table

        return method_table
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
