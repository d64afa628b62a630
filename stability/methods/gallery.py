"""Methods from the literature beside the five of `stability.methods.method`, each as one formula.

>>> import stability as st
>>> st.gallery.fractional(power=0.5).gains([4.0, -0.25])
array([0.5, 2. ])
"""

from __future__ import annotations

import numpy as np

from .. import _check
from .method import Method


@_check.by_name
def rsfn(*, eps: float) -> Method:
    """Regularised saddle-free Newton, ``phi = (lam^2 + eps)^(-1/2)``: smooth at ``lam = 0`` too.

    Raises
    ------
    ValueError
        If `eps` is not a finite number > 0.

    Examples
    --------
    >>> import stability as st
    >>> st.gallery.rsfn(eps=9.0).gains([4.0, -4.0, 0.0]).round(3)
    array([0.2  , 0.2  , 0.333])
    """
    return Method(
        gain=lambda lam, eps: 1 / np.sqrt(lam**2 + eps), name="R-SFN", eps=_check.positive("eps", eps)
    )


@_check.by_name
def newsamp(*, rank: int) -> Method:
    """NewSamp (Erdogdu and Montanari 2015): Newton on `rank` eigenvalues, ``1 / lam_{r+1}`` on all others.

    Raises
    ------
    ValueError
        If `rank` < 1; where a spectrum has fewer than `rank` eigenvalues.

    Examples
    --------
    The largest two of three eigenvalues as by Newton's method, the third by the largest left out, itself:

    >>> import stability as st
    >>> st.gallery.newsamp(rank=2).gains([4.0, -2.0, 0.5])
    array([ 0.25, -0.5 ,  2.  ])
    """
    return Method(
        gain=lambda lam: 1 / lam, tail_gain=lambda lam_next: 1 / lam_next, rank=rank, name="NewSamp"
    )


@_check.by_name
def natural_gradient(*, variance: float, eps: float) -> Method:
    """The natural gradient for a gradient covariance ``variance * H``: ``phi = 1 / (variance * lam + eps)``.

    Raises
    ------
    ValueError
        If `variance` or `eps` is not a finite number > 0.

    Examples
    --------
    >>> import stability as st
    >>> st.gallery.natural_gradient(variance=0.5, eps=0.01).gains([4.0, 0.0]).round(3)
    array([  0.498, 100.   ])
    """
    variance, eps = _check.positive("variance", variance), _check.positive("eps", eps)
    return Method(
        gain=lambda lam, variance, eps: 1 / (variance * lam + eps),
        name="natural gradient",
        variance=variance,
        eps=eps,
    )


@_check.by_name
def fractional(*, power: float) -> Method:
    """A fractional power of the curvature, ``phi = |lam|^(-power)``.

    It lies between SGD (0) and saddle-free Newton without damping (1).

    Raises
    ------
    ValueError
        If `power` is not a finite number > 0.

    Examples
    --------
    >>> import stability as st
    >>> st.gallery.fractional(power=0.5).gains([4.0, -0.25])
    array([0.5, 2. ])
    """
    return Method(
        gain=lambda lam, power: abs(lam) ** (-power),
        name="fractional power",
        power=_check.positive("power", power),
    )
