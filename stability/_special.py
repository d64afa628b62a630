"""Special functions that SciPy does not have."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy

_FAR = 6.5  # beyond it the asymptotic series of Dawson's function is exact to rounding: exp(-6.5^2) = 4e-19
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(80)


def dawson_integral(x: Any) -> np.ndarray:
    """``int_0^x Dawson(s) ds``, even in x, relative error about 1e-14; shape of `x`.

    It is ``(x^2 / 2) 2F2(1, 1; 3/2, 2; -x^2)`` and, for Gaussian Z, ``E log|u + Z| = (log 2 + digamma(1/2)) / 2 + 2 * dawson_integral(u / sqrt 2)``.
    """
    size = np.abs(np.asarray(x, dtype=float))
    near = np.minimum(size, _FAR)
    nodes = 0.5 * near[..., None] * (_NODES + 1)
    result = 0.5 * near * (scipy.special.dawsn(nodes) @ _WEIGHTS)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        return np.where(size > _FAR, _far(np.maximum(size, _FAR)), result)


def _far(x: np.ndarray) -> np.ndarray:
    """The integral's asymptotic series: ``(log 4x^2 + euler) / 4 - sum_k (2k - 1)!! / (2^(k+1) 2k x^(2k))``."""
    total, term = 0.5 * np.log(2 * x) + 0.25 * np.euler_gamma, 0.5 * np.ones_like(x)
    for k in range(1, 30):
        term = term * (2 * k - 1) / (2 * x * x)
        total = total - term / (2 * k)
    return total
