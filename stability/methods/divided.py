"""Divided differences of a formula without cancellation.

A formula written in plain arithmetic can be read on a `Divided`, which stands for the function ``f`` seen at
two or three nodes and carries ``f[x, y]`` and ``f[x, y, z]`` beside the values. Each operation has an exact
rule (Leibniz for products, the chain rule for divided differences), so equal or nearly equal nodes need no
tolerance: ``f[x, x]`` comes out as the derivative. This is how a method's gain, written once, yields the
Daleckii-Krein matrix of its preconditioner. The nodes may be arrays of any namespace: at one node the
formula's values come out, written with NumPy's functions though it may be.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from .._array import namespace

_PAIRS = ((0, 1), (1, 2), (0, 2))


class Divided:
    """A function at nodes ``x[, y[, z]]``: values, first (two nodes or more) and second divided difference
    (three).
    """

    __slots__ = ("first", "second", "value")

    def __init__(self, value: tuple, first: tuple, second: Any = None):
        self.value, self.first, self.second = value, first, second

    @classmethod
    def variable(cls, *nodes: Any) -> Divided:
        """The identity function at one, two or three broadcastable nodes."""
        return cls(nodes, (1.0,) * (0, 1, 3)[len(nodes) - 1], 0.0 if len(nodes) == 3 else None)

    @classmethod
    def of(cls, formula: Callable[[Any], Any], *nodes: Any) -> Divided:
        """A formula in plain arithmetic with its divided differences, also where it is constant."""
        variable = cls.variable(*nodes)
        result = formula(variable)
        return result if isinstance(result, cls) else variable * 0.0 + result

    def _like(self, constant: Any) -> Divided:
        if isinstance(
            constant, np.generic
        ):  # would turn float32 into float64, and other namespaces refuse it
            constant = constant.item()
        return Divided(
            (constant,) * len(self.value), (0.0,) * len(self.first), None if self.second is None else 0.0
        )

    def _compose(self, outer: Callable, outer1: Callable, outer2: Callable) -> Divided:
        f, d = self.value, self.first
        first = tuple(outer1(f[i], f[j]) * d[k] for k, (i, j) in enumerate(_PAIRS[: len(d)]))
        second = None
        if self.second is not None:
            second = outer1(f[0], f[1]) * self.second + outer2(*f) * d[2] * d[1]
        return Divided(tuple(outer(v) for v in f), first, second)

    def __add__(self, other: Any) -> Divided:
        g = other if isinstance(other, Divided) else self._like(other)
        second = None if self.second is None else self.second + g.second
        return Divided(
            tuple(a + b for a, b in zip(self.value, g.value, strict=True)),
            tuple(a + b for a, b in zip(self.first, g.first, strict=True)),
            second,
        )

    def __mul__(self, other: Any) -> Divided:
        g = other if isinstance(other, Divided) else self._like(other)
        f, df, h, dh = self.value, self.first, g.value, g.first
        first = tuple(f[i] * dh[k] + df[k] * h[j] for k, (i, j) in enumerate(_PAIRS[: len(df)]))
        second = None
        if self.second is not None:
            second = f[0] * g.second + df[0] * dh[1] + self.second * h[2]
        return Divided(tuple(a * b for a, b in zip(f, h, strict=True)), first, second)

    def reciprocal(self) -> Divided:
        return self._compose(lambda a: 1 / a, lambda a, b: -1 / (a * b), lambda a, b, c: 1 / (a * b * c))

    def sqrt(self) -> Divided:
        return self._compose(
            _root,
            lambda a, b: 1 / (_root(a) + _root(b)),
            lambda a, b, c: -1 / ((_root(a) + _root(b)) * (_root(b) + _root(c)) * (_root(a) + _root(c))),
        )

    def __abs__(self) -> Divided:
        return self._compose(abs, _abs1, _abs2)

    def __pow__(self, power: Any) -> Divided:
        if isinstance(power, Divided):
            raise TypeError("a gain may raise to fixed powers only")
        if power == int(power):
            result = self._like(1.0)
            for _ in range(abs(int(power))):
                result = result * self
            return result if power >= 0 else result.reciprocal()
        if 2 * power == int(2 * power):
            return self.sqrt() ** int(2 * power)
        power = float(power)
        return self._compose(
            lambda a: a**power, lambda a, b: _power1(a, b, power), lambda a, b, c: _power2(a, b, c, power)
        )

    __radd__ = __add__
    __rmul__ = __mul__

    def __neg__(self) -> Divided:
        return self * -1.0

    def __pos__(self) -> Divided:
        return self

    def __sub__(self, other: Any) -> Divided:
        return self + (-other)

    def __rsub__(self, other: Any) -> Divided:
        return (-self) + other

    def __truediv__(self, other: Any) -> Divided:
        return self * (other.reciprocal() if isinstance(other, Divided) else 1 / other)

    def __rtruediv__(self, other: Any) -> Divided:
        return self.reciprocal() * other

    def __array_ufunc__(self, ufunc: Any, how: str, *inputs: Any, **options: Any) -> Any:
        rule = _UFUNCS.get(ufunc)
        if rule is None or how != "__call__" or options:
            return NotImplemented
        head = inputs[0]
        return rule(head if isinstance(head, Divided) else self._like(head), *inputs[1:])


def _root(value: Any) -> Any:
    return namespace(value).sqrt(value)


def _abs1(a: Any, b: Any) -> Any:
    xp = namespace(a, b)
    total = abs(a) + abs(b)
    # At 0 the derivative of |x| is taken as 0, the mean of both sides.
    return xp.where(total > 0, (a + b) / xp.where(total > 0, total, 1.0), 0.0)


def _abs2(a: Any, b: Any, c: Any) -> Any:
    xp = namespace(a, b, c)
    low, high = xp.minimum(xp.minimum(a, b), c), xp.maximum(xp.maximum(a, b), c)
    middle = xp.maximum(xp.minimum(a, b), xp.minimum(xp.maximum(a, b), c))
    gap = high - low
    kinked = (low < 0) & (high > 0)
    return xp.where(kinked, (_abs1(middle, high) - _abs1(low, middle)) / xp.where(kinked, gap, 1.0), 0.0)


def _power1(a: Any, b: Any, p: float) -> Any:
    """``x^p[a, b]`` for positive nodes: ``(ab)^((p-1)/2) sinh(p h) / sinh(h)``, ``h = log(a / b) / 2``."""
    xp = namespace(a, b)
    h = xp.atanh((a - b) / (a + b))
    apart = h != 0
    ratio = xp.where(apart, xp.sinh(p * h) / xp.where(apart, xp.sinh(h), 1.0), p)
    return (xp.sqrt(a) * xp.sqrt(b)) ** (p - 1) * ratio


_NODES, _WEIGHTS = (
    0.5 * (part + shift) for part, shift in zip(np.polynomial.legendre.leggauss(12), (1, 0), strict=True)
)


def _power2(a: Any, b: Any, c: Any, p: float) -> Any:
    """``x^p[a, b, c]`` for positive nodes (NumPy only): a difference quotient where they lie apart, Hermite
    and Genocchi's integral where not.
    """
    a, b, c = np.sort(np.stack(np.broadcast_arrays(a, b, c)).astype(float), axis=0)
    apart = c - a > 0.2 * c
    quotient = (_power1(b, c, p) - _power1(a, b, p)) / np.where(apart, c - a, 1.0)
    s, t = _NODES[:, None], _NODES[None, :]
    inside = a[..., None, None] + s * (b - a)[..., None, None] + s * t * (c - b)[..., None, None]
    weight = _WEIGHTS[:, None] * _WEIGHTS[None, :] * s
    return np.where(apart, quotient, p * (p - 1) * np.sum(weight * inside ** (p - 2), axis=(-2, -1)))


ARITHMETIC: dict[Any, Callable] = {
    np.add: operator.add,
    np.subtract: operator.sub,
    np.multiply: operator.mul,
    np.divide: operator.truediv,
    np.negative: operator.neg,
    np.positive: operator.pos,
    np.power: operator.pow,
    np.absolute: abs,
    np.square: lambda f: f * f,
    np.reciprocal: lambda f: 1 / f,
}
"""NumPy's functions that are arithmetic: whatever has the operators has them too."""
_UFUNCS = {**ARITHMETIC, np.sqrt: Divided.sqrt}
