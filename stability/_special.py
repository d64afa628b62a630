"""Special functions that SciPy does not have."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

_FAR = 6.5  # beyond it the asymptotic series of Dawson's function is exact to rounding: exp(-6.5^2) = 4e-19


@functools.cache
def gauss(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of the Gauss-Legendre rule on [-1, 1]."""
    return np.polynomial.legendre.leggauss(count)


def dawson_integral(x: Any) -> np.ndarray:
    """``int_0^x Dawson(s) ds``, even in x, relative error about 1e-14; shape of `x`.

    It is ``(x^2 / 2) 2F2(1, 1; 3/2, 2; -x^2)``, and for a standard normal Z
    ``E log|u + Z| = (log 2 + digamma(1/2)) / 2 + 2 dawson_integral(u / sqrt 2)``.
    """
    import scipy

    size = np.abs(np.asarray(x, dtype=float))
    near = np.minimum(size, _FAR)
    nodes, weights = gauss(80)
    result = 0.5 * near * (scipy.special.dawsn(0.5 * near[..., None] * (nodes + 1)) @ weights)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        return np.where(size > _FAR, _far(np.maximum(size, _FAR)), result)


def erf(x: Any, xp: Any = np) -> Any:
    """The error function on arrays of namespace `xp`, absolute error about 1e-15; shape of `x`."""
    if xp is np:
        import scipy

        return scipy.special.erf(x)
    size = xp.abs(x)
    # erfc(s) = t exp(p(t) - s^2), t = 2 / (2 + s), with a polynomial p on 0 < t <= 1: Clenshaw's sum for it.
    t = 2 / (2 + size)
    last, now = 0.0 * t, 0.0 * t
    for c in _erfc_series()[:0:-1]:
        last, now = now, (4 * t - 2) * now - last + c
    tail = t * xp.exp((2 * t - 1) * now - last + _erfc_series()[0] - size * size)
    return xp.sign(x) * (1 - tail)


@functools.cache
def _erfc_series() -> list[float]:
    """Chebyshev coefficients of ``log(erfc(s) exp(s^2) / t)`` in ``2 t - 1``."""
    import scipy

    def height(y: Any) -> Any:
        t = np.maximum(0.5 * (y + 1), 1e-6)
        return np.log(scipy.special.erfcx(2 / t - 2) / t)

    return np.polynomial.chebyshev.chebinterpolate(height, 40).tolist()


def _far(x: np.ndarray) -> np.ndarray:
    """Its asymptotic series ``(log 4x^2 + euler) / 4 - sum_k (2k - 1)!! / (2^(k+1) 2k x^(2k))``."""
    total, term = 0.5 * np.log(2 * x) + 0.25 * np.euler_gamma, 0.5 * np.ones_like(x)
    for k in range(1, 30):
        term = term * (2 * k - 1) / (2 * x * x)
        total = total - term / (2 * k)
    return total


def gaussian_log_moment(order: float, mean: Any, spread: Any) -> np.ndarray:
    """``log E|N(mean, spread^2)|^order``, shape of `mean`; relative error of the moment about 1e-13."""
    import scipy

    mean, spread = np.broadcast_arrays(np.abs(mean), np.abs(spread))
    if order == 2:
        return 2 * np.log(np.hypot(mean, spread))
    sharp = spread <= 1e-150 * mean  # the square of the ratio would overflow, and the spread is no news
    ratio = np.where(sharp, 0.0, mean / np.where(sharp, 1.0, spread))
    wide = ~sharp & (ratio > 14 + 3 * order)
    near = ~sharp & (ratio < 14) & (order <= 60)
    far = ~sharp & ~near & ~wide
    result = order * np.log(np.where(sharp, mean, spread))

    # Kummer's function grows as exp(z), which is taken back in the logarithm.
    z, a = 0.5 * ratio[near] ** 2, 0.5 * (1 + order)
    constant = 0.5 * order * math.log(2) + scipy.special.gammaln(a) - 0.5 * math.log(math.pi)
    result[near] += constant + np.log(scipy.special.hyp1f1(a, 0.5, z)) - z

    result[far] += _log_moment_far(order, ratio[far])

    # The sum over even j of binomial(order, j) (j - 1)!! / ratio^j, an asymptotic series.
    term = total = np.ones(int(np.sum(wide)))
    for j in range(0, 32, 2):
        term = term * (order - j) * (order - j - 1) / ((j + 2) * ratio[wide] ** 2)
        total = total + term
    result[wide] += order * np.log(ratio[wide]) + np.log(total)
    return result


def _log_moment_far(order: float, ratio: np.ndarray) -> np.ndarray:
    """``log E|ratio + Z|^order`` for large orders or ratios, by the trapezoidal rule in log u.

    The integrand is entire, and the rule on it exact to rounding.
    """
    import scipy

    ratio = ratio[..., None]
    peak = 0.5 * (ratio + np.sqrt(ratio**2 + 4 * (order + 1)))
    # Where u^(order + 1) exp(-(u - ratio)^2 / 2) has fallen by exp(-39) from its peak, or a little further.
    low = np.log(np.maximum(1 - 9 / peak, math.exp(-0.5 - 39 / (order + 1))))
    y = low + (np.log1p(9 / peak) - low) * np.linspace(0, 1, 129)
    u = peak * np.exp(y)
    offset = (order + 1) / peak + peak * np.expm1(y)  # u - ratio without cancellation
    # log1p adds the other sign of u, so that the integral is over u > 0 alone.
    heights = (order + 1) * (np.log(peak) + y) - 0.5 * offset**2 + np.log1p(np.exp(-2 * u * ratio))
    spacing = np.log(y[..., 1] - y[..., 0])
    return scipy.special.logsumexp(heights, axis=-1) + spacing - 0.5 * math.log(2 * math.pi)


def gaussian_mean_log(mean: Any, spread: Any) -> np.ndarray:
    """``E log|N(mean, spread^2)|``."""
    import scipy

    mean, spread = np.broadcast_arrays(np.abs(mean), np.abs(spread))
    # Here the two differ by 5e-21. A mean is 1 less something: what is below 1e-17 is rounding.
    sharp = spread <= 1e-10 * np.maximum(mean, 1e-17)
    width = np.where(sharp, 1.0, spread)
    smooth = np.log(width) + 0.5 * (math.log(2) + scipy.special.digamma(0.5))
    near = ~sharp
    smooth[near] += 2 * dawson_integral(mean[near] / (width[near] * math.sqrt(2)))
    return np.where(sharp, np.log(np.where(sharp, np.maximum(mean, 1e-17), 1.0)), smooth)
