"""First and second divided differences of elementary functions, to rounding at nodes however near.

``f[a, b]`` is written so that nothing cancels. ``f[a, b, c]`` is a difference quotient where the nodes lie
apart, and Hermite and Genocchi's integral of ``f''`` where not: so near, Gauss's rule has it to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .._array import namespace


def root(a: Any) -> Any:
    """The square root, in the namespace of its argument."""
    return namespace(a).sqrt(a)


def root1(a: Any, b: Any) -> Any:
    """``sqrt[a, b]``."""
    return 1 / (root(a) + root(b))


def root2(a: Any, b: Any, c: Any) -> Any:
    """``sqrt[a, b, c]``."""
    return -1 / ((root(a) + root(b)) * (root(b) + root(c)) * (root(a) + root(c)))


def abs1(a: Any, b: Any) -> Any:
    """``|x|[a, b]``; at 0 the derivative is taken as 0, the mean of both sides."""
    xp = namespace(a, b)
    total = abs(a) + abs(b)
    # (|a| - |b|) / (a - b), both multiplied by |a| + |b|: a^2 - b^2 divides out, and nothing cancels.
    return xp.where(total > 0, (a + b) / xp.where(total > 0, total, 1.0), 0.0)


def abs2(a: Any, b: Any, c: Any) -> Any:
    """``|x|[a, b, c]``: zero unless the nodes lie on both sides of 0."""
    low, middle, high = ordered(a, b, c)
    return _across(low, high, abs1(middle, high) - abs1(low, middle))


def sign(a: Any) -> Any:
    """-1, 0 or 1, in the namespace of its argument."""
    return namespace(a).sign(a)


def sign1(a: Any, b: Any) -> Any:
    """``sign[a, b]``; at 0 the derivative is taken as 0, though the jump is there."""
    xp = namespace(a, b)
    return (sign(a) - sign(b)) / xp.where(a == b, 1.0, a - b)


def sign2(a: Any, b: Any, c: Any) -> Any:
    """``sign[a, b, c]``."""
    low, middle, high = ordered(a, b, c)
    gap = high - low
    difference = sign1(middle, high) - sign1(low, middle)
    return difference / namespace(gap).where(gap > 0, gap, 1.0)


def exp(a: Any) -> Any:
    """The exponential, in the namespace of its argument."""
    return namespace(a).exp(a)


def exp1(a: Any, b: Any) -> Any:
    """``exp[a, b]``, from the larger node downwards: nothing overflows that need not."""
    xp = namespace(a, b)
    gap = abs(a - b)
    share = xp.where(gap > 0, -xp.expm1(-gap) / xp.where(gap > 0, gap, 1.0), 1.0)
    return xp.exp(xp.maximum(a, b)) * share


def exp2(a: Any, b: Any, c: Any) -> Any:
    """``exp[a, b, c]`` (NumPy only)."""
    return _second(exp1, np.exp, lambda low, high: high - low > 1, a, b, c)


def log(a: Any) -> Any:
    """The natural logarithm, in the namespace of its argument."""
    return namespace(a).log(a)


def log1(a: Any, b: Any) -> Any:
    """``log[a, b]`` for positive nodes."""
    xp = namespace(a, b)
    low, gap = xp.minimum(a, b), abs(a - b)
    return xp.where(gap > 0, xp.log1p(gap / low) / xp.where(gap > 0, gap, 1.0), 1 / low)


def log2(a: Any, b: Any, c: Any) -> Any:
    """``log[a, b, c]`` for positive nodes (NumPy only)."""
    return _second(log1, lambda x: -1 / x**2, _far_from_zero, a, b, c)


def tanh(a: Any) -> Any:
    """The hyperbolic tangent, in the namespace of its argument."""
    return namespace(a).tanh(a)


def tanh1(a: Any, b: Any) -> Any:
    """``tanh[a, b] = sinh(a - b) / ((a - b) cosh a cosh b)``, in exponentials that do not overflow."""
    xp = namespace(a, b)
    low, high = xp.minimum(a, b), xp.maximum(a, b)
    gap = high - low
    share = xp.where(gap > 0, -xp.expm1(-2 * gap) / xp.where(gap > 0, gap, 1.0), 2.0)
    # e^gap / (e^|a| e^|b|) in one exponent, which is never positive.
    decay = xp.exp(high - abs(high) - low - abs(low))
    return 2 * share * decay / ((1 + xp.exp(-2 * abs(high))) * (1 + xp.exp(-2 * abs(low))))


def tanh2(a: Any, b: Any, c: Any) -> Any:
    """``tanh[a, b, c]`` (NumPy only)."""
    return _second(tanh1, lambda x: -2 * np.tanh(x) * tanh1(x, x), lambda low, high: high - low > 1, a, b, c)


def power1(a: Any, b: Any, p: float) -> Any:
    """``x^p[a, b]`` for positive nodes: ``(ab)^((p-1)/2) sinh(p h) / sinh(h)``, ``h = log(a / b) / 2``."""
    xp = namespace(a, b)
    low, gap = xp.minimum(a, b), abs(a - b)
    h = 0.5 * xp.log1p(gap / low)
    ratio = xp.where(gap > 0, xp.sinh(p * h) / xp.where(gap > 0, xp.sinh(h), 1.0), p)
    # Not sqrt(a b), which over- or underflows where the roots do not.
    return (xp.sqrt(a) * xp.sqrt(b)) ** (p - 1) * ratio


def power2(a: Any, b: Any, c: Any, p: float) -> Any:
    """``x^p[a, b, c]`` for positive nodes (NumPy only)."""
    bend = lambda x: p * (p - 1) * x ** (p - 2)  # noqa: E731
    return _second(lambda x, y: power1(x, y, p), bend, _far_from_zero, a, b, c)


def _far_from_zero(low: Any, high: Any) -> Any:
    return high - low > 0.2 * high  # the singularity at 0 lies some gaps away from nodes nearer than that


def ordered(a: Any, b: Any, c: Any) -> tuple[Any, Any, Any]:
    """Three nodes in ascending order."""
    xp = namespace(a, b, c)
    low, high = xp.minimum(a, b), xp.maximum(a, b)
    return xp.minimum(low, c), xp.maximum(low, xp.minimum(high, c)), xp.maximum(high, c)


def _across(low: Any, high: Any, difference: Any) -> Any:
    """A difference of first divided differences over the gap, where the nodes lie on both sides of 0."""
    xp = namespace(low, high)
    kinked = (low < 0) & (high > 0)
    return xp.where(kinked, difference / xp.where(kinked, high - low, 1.0), 0.0)


_NODES, _WEIGHTS = (
    0.5 * (part + shift) for part, shift in zip(np.polynomial.legendre.leggauss(12), (1, 0), strict=True)
)


def _second(first: Callable, bend: Callable, apart: Callable, a: Any, b: Any, c: Any) -> Any:
    """``f[a, b, c]`` from ``f[., .]`` where the outer nodes lie `apart`, from ``f''`` (`bend`) where not."""
    low, middle, high = ordered(*np.broadcast_arrays(*(np.asarray(x, dtype=float) for x in (a, b, c))))
    with np.errstate(all="ignore"):  # each formula is evaluated everywhere, and trusted on its own side
        far = apart(low, high)
        quotient = (first(middle, high) - first(low, middle)) / np.where(far, high - low, 1.0)
        s, t = _NODES[:, None], _NODES[None, :]
        rise, climb = (middle - low)[..., None, None], (high - middle)[..., None, None]
        values = bend(low[..., None, None] + s * rise + s * t * climb)
        # The triangle of Hermite and Genocchi as the image of a square; s is the Jacobian of that map.
        weight = _WEIGHTS[:, None] * _WEIGHTS[None, :] * s
        return np.where(far, quotient, np.sum(weight * values, axis=(-2, -1)))
