"""Divided differences of a formula without cancellation.

A formula written in plain arithmetic can be read on a `Divided`, which stands for the function ``f`` seen at
two or three nodes and carries ``f[x, y]`` and ``f[x, y, z]`` beside the values. Each operation has an exact
rule (Leibniz for products, the chain rule for divided differences), so equal or nearly equal nodes need no
tolerance: ``f[x, x]`` comes out as the derivative. This is how a method's gain, written once, yields the
Daleckii-Krein matrix of its preconditioner. The nodes may be arrays of any namespace: at one node the
formula's values come out, written with NumPy's functions though it may be.

A formula may also decide by its node: `maximum`, `minimum`, and `where` on a comparison. Nodes on one side of
a switch have that side's differences; at a kink itself they are the mean of both sides', as of ``|x|``.
"""

from __future__ import annotations

import abc
import functools
import operator
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np

from .._array import namespace
from . import elementary

_PAIRS = ((0, 1), (1, 2), (0, 2))
READ = "+ - * / **, abs, comparisons, numpy.sqrt, exp, log, tanh, sign, maximum, minimum, clip and where"


class Unreadable(TypeError):
    """A formula asks for what cannot be read exactly; the message is in the words of its writer."""


class Stand(abc.ABC):
    """What a formula is read on in place of a number: NumPy's functions find it, and come here by name."""

    __slots__ = ()
    rules: Any = {}  # noqa: RUF012 - NumPy's functions to what they mean here; each class has its own

    def __array_ufunc__(self, function: Any, how: str, *inputs: Any, **options: Any) -> Any:
        return self._called(function, inputs, options or how != "__call__")

    def __array_function__(self, function: Any, types: Any, inputs: Any, options: Any) -> Any:
        return self._called(function, inputs, options)

    def _called(self, function: Any, inputs: tuple, options: Any) -> Any:
        rule = self.rules.get(function)
        if rule is None or options:
            raise Unreadable(f"it uses {function.__name__}{' with options' if rule else ''}")
        return rule(self.lift(inputs[0]), *inputs[1:])

    @abc.abstractmethod
    def lift(self, value: Any) -> Any:
        """A constant of the formula, as what stands for numbers."""

    def __bool__(self) -> NoReturn:
        raise Unreadable("it decides with `if`, `and`, `or` or `max`; use numpy.where(lam > 0, ..., ...)")


class Node(Stand):
    """What stands for a number at nodes, where Python may not ask for that number.

    `Symbolic` does not refuse: SymPy takes a thing with ``__float__`` for a number, and would ask.
    """

    __slots__ = ()

    def __float__(self) -> NoReturn:
        raise Unreadable("it asks for the eigenvalue as a float, as functions of `math` do; use numpy's")

    __int__ = __index__ = __complex__ = __float__


class Condition(Stand):
    """A comparison in a formula, which `where` decides by; in a product it counts as 1 or 0."""

    __slots__ = ()

    @abc.abstractmethod
    def where(self, yes: Any, no: Any) -> Any:
        """One formula where the comparison holds, another elsewhere."""

    @abc.abstractmethod
    def joined(self, how: Callable, *others: Any) -> Condition:
        """This and other comparisons under ``&``, ``|`` or ``~``."""

    def lift(self, value: Any) -> Any:
        return value

    def __and__(self, other: Any) -> Condition:
        return self.joined(operator.and_, other)

    def __or__(self, other: Any) -> Condition:
        return self.joined(operator.or_, other)

    def __invert__(self) -> Condition:
        return self.joined(operator.invert)

    def __mul__(self, other: Any) -> Any:
        return self.where(other, 0.0)

    def __add__(self, other: Any) -> Any:
        return self.where(1.0, 0.0) + other

    def __rsub__(self, other: Any) -> Any:
        return other - self.where(1.0, 0.0)

    __rand__, __ror__, __rmul__, __radd__ = __and__, __or__, __mul__, __add__


def chosen(condition: Any, yes: Any, no: Any) -> Any:
    """`numpy.where`; a condition that does not depend on the node chooses a branch for all nodes."""
    if isinstance(condition, Condition):
        return condition.where(yes, no)
    return yes if condition else no


class Divided(Node):
    """A function at nodes ``x[, y[, z]]``: its values, and its divided differences.

    Attributes
    ----------
    nodes, value : tuples
    first : tuple
        ``f[x, y]`` at two nodes; ``f[x, y], f[y, z], f[x, z]`` at three.
    second : array or None
        ``f[x, y, z]``.
    """

    __slots__ = ("first", "nodes", "second", "value")

    def __init__(self, nodes: tuple, value: tuple, first: tuple, second: Any = None):
        self.nodes, self.value, self.first, self.second = nodes, value, first, second

    @classmethod
    def variable(cls, *nodes: Any) -> Divided:
        """The identity function at one, two or three broadcastable nodes."""
        return cls(nodes, nodes, (1.0,) * (0, 1, 3)[len(nodes) - 1], 0.0 if len(nodes) == 3 else None)

    @classmethod
    def of(cls, formula: Callable[[Any], Any], *nodes: Any) -> Divided:
        """A formula in plain arithmetic with its divided differences, also where it is constant."""
        variable = cls.variable(*nodes)
        result = formula(variable)
        return result if isinstance(result, cls) else variable * 0.0 + result

    def lift(self, value: Any) -> Any:
        """A constant as a function of the same nodes."""
        if isinstance(value, Stand):
            return value
        if isinstance(value, np.generic):  # would turn float32 into float64; other namespaces refuse it
            value = value.item()
        second = None if self.second is None else 0.0
        return Divided(self.nodes, (value,) * len(self.value), (0.0,) * len(self.first), second)

    def _compose(self, outer: Callable, outer1: Callable, outer2: Callable) -> Divided:
        f, d = self.value, self.first
        first = tuple(outer1(f[i], f[j]) * d[k] for k, (i, j) in enumerate(_PAIRS[: len(d)]))
        second = None
        if self.second is not None:
            # (g o f)[x,y,z] = g[fx,fy] f[x,y,z] + g[fx,fy,fz] f[x,z] f[y,z].
            second = outer1(f[0], f[1]) * self.second + outer2(*f) * d[2] * d[1]
        return Divided(self.nodes, tuple(outer(v) for v in f), first, second)

    def __add__(self, other: Any) -> Divided:
        g = self.lift(other)
        second = None if self.second is None else self.second + g.second
        return Divided(
            self.nodes,
            tuple(a + b for a, b in zip(self.value, g.value, strict=True)),
            tuple(a + b for a, b in zip(self.first, g.first, strict=True)),
            second,
        )

    def __mul__(self, other: Any) -> Divided:
        if isinstance(other, Condition):
            return other.where(self, 0.0)
        g = self.lift(other)
        f, df, h, dh = self.value, self.first, g.value, g.first
        first = tuple(f[i] * dh[k] + df[k] * h[j] for k, (i, j) in enumerate(_PAIRS[: len(df)]))
        second = None
        if self.second is not None:
            # Leibniz: (f h)[x,y,z] = f(x) h[x,y,z] + f[x,y] h[y,z] + f[x,y,z] h(z).
            second = f[0] * g.second + df[0] * dh[1] + self.second * h[2]
        return Divided(self.nodes, tuple(a * b for a, b in zip(f, h, strict=True)), first, second)

    def reciprocal(self) -> Divided:
        return self._compose(lambda a: 1 / a, lambda a, b: -1 / (a * b), lambda a, b, c: 1 / (a * b * c))

    def sqrt(self) -> Divided:
        return self._compose(elementary.root, elementary.root1, elementary.root2)

    def __abs__(self) -> Divided:
        return self._compose(abs, elementary.abs1, elementary.abs2)

    def __pow__(self, power: Any) -> Divided:
        if isinstance(power, Stand):
            raise Unreadable("a gain may raise to fixed powers only")
        # By products, which take nodes of either sign and 0;
        # the quadrature of other powers needs positive nodes.
        if power == int(power):
            result, square, rest = self.lift(1.0), self, abs(int(power))
            while rest:
                if rest & 1:
                    result = result * square
                rest >>= 1
                square = square * square if rest else square
            return result if power >= 0 else result.reciprocal()
        # Half powers by a root, whose differences are a quotient: nothing is integrated.
        if 2 * power == int(2 * power):
            return self.sqrt() ** int(2 * power)
        power = float(power)
        return self._compose(
            lambda a: a**power,
            lambda a, b: elementary.power1(a, b, power),
            lambda a, b, c: elementary.power2(a, b, c, power),
        )

    __radd__ = __add__
    __rmul__ = __mul__

    def __rpow__(self, base: Any) -> Divided:
        return self.lift(base) ** self

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

    # -- decisions ---------------------------------------------------------------------------------

    def _compared(self, other: Any, how: Callable) -> Switch:
        pairs = zip(self.value, self.lift(other).value, strict=True)
        return Switch(self, tuple(how(a, b) for a, b in pairs))

    def maximum(self, other: Any) -> Divided:
        """The larger of two functions at every node."""
        g = self.lift(other)
        lead = tuple(self._full(a - b, k) for k, (a, b) in enumerate(zip(self.value, g.value, strict=True)))
        xp = namespace(*lead)
        pairs = enumerate(zip(self.value, g.value, strict=True))
        value = tuple(xp.maximum(self._full(a, k), self._full(b, k)) for k, (a, b) in pairs)

        def across(k: int, i: int, j: int) -> Any:
            # Of f and g with f - g > 0 at one node and < 0 at the other, each share of the slope by its lead.
            total = abs(lead[i]) + abs(lead[j])
            ours, theirs = (_positive(s * lead[i]) + _positive(s * lead[j]) for s in (1.0, -1.0))
            mixed = (ours * self.first[k] + theirs * g.first[k]) / total
            # A lead without bound, as over a pole, leaves the quotient of the values.
            return xp.where(xp.isfinite(mixed), mixed, self._quotient(value, i, j))

        return self._selected(g, tuple(xp.sign(u) for u in lead), value, across)

    def minimum(self, other: Any) -> Divided:
        """The smaller of two functions at every node."""
        return -(-self).maximum(-self.lift(other))

    def clip(self, low: Any, high: Any) -> Divided:
        """The function kept between two bounds, either of which may be None."""
        raised = self if low is None else self.maximum(low)
        return raised if high is None else raised.minimum(high)

    def _selected(self, other: Divided, sides: tuple, value: tuple, across: Callable) -> Divided:
        """This function on its `sides` of a switch (1), another on the other (-1), their mean at it (0)."""
        with np.errstate(all="ignore"):  # what is not picked need not be finite
            return self._picked(other, sides, value, across)

    def _picked(self, other: Divided, sides: tuple, value: tuple, across: Callable) -> Divided:
        xp = namespace(*sides)

        def pick(total: Any, f: Any, g: Any, rest: Any) -> Any:
            # 0 * total: a constant branch is a plain number, and takes the shape of the nodes here.
            return xp.where(total > 0, f + 0 * total, xp.where(total < 0, g + 0 * total, rest))

        first = []
        for k, (i, j) in enumerate(_PAIRS[: len(self.first)]):
            tied = (sides[i] == 0) & (sides[j] == 0)
            f, g = self.first[k], other.first[k]
            rest = xp.where(tied, 0.5 * (f + g) + 0 * (sides[i] + sides[j]), across(k, i, j))
            # The sum of two sides is +-2 or +-1: a node exactly at the switch joins the other's side.
            first.append(pick(sides[i] + sides[j], f, g, rest))
        if self.second is None:
            return Divided(self.nodes, value, tuple(first))
        low, _, high = elementary.ordered(*sides)
        whole = xp.where(low * high < 0, 0.0, low + high)  # 0 where the nodes lie on both sides
        rest = xp.where(low == high, 0.5 * (self.second + other.second) + 0 * whole, self._widest(first))
        return Divided(self.nodes, value, tuple(first), pick(whole, self.second, other.second, rest))

    def _full(self, value: Any, k: int) -> Any:
        """A value that came out as a number, as an array like the k-th node."""
        return value + 0 * self.nodes[k]

    def _quotient(self, value: tuple, i: int, j: int) -> Any:
        gap = self.nodes[i] - self.nodes[j]
        return (value[i] - value[j]) / namespace(gap).where(gap == 0, 1.0, gap)

    def _widest(self, first: list) -> Any:
        """``f[x, y, z]`` as a quotient of first differences over the widest of the gaps between nodes."""
        (x, y, z), (xy, yz, xz) = self.nodes, first
        xp = namespace(x, y, z)
        gaps, rises = (z - x, z - y, y - x), (yz - xy, xz - xy, yz - xz)
        sizes = [abs(gap) + 0 * (x + y + z) for gap in gaps]
        each = [rise / xp.where(gap == 0, 1.0, gap) for rise, gap in zip(rises, gaps, strict=True)]
        # The rounding of first differences is divided by the gap: over the widest it weighs least.
        best = xp.where(sizes[1] > sizes[2], each[1], each[2])
        return xp.where(sizes[0] >= xp.maximum(sizes[1], sizes[2]), each[0], best)


class Switch(Condition, Node):
    """A comparison at the nodes of `owner`: whether it holds at each."""

    __slots__ = ("holds", "owner")

    def __init__(self, owner: Divided, holds: tuple):
        self.owner, self.holds = owner, holds

    def joined(self, how: Callable, *others: Any) -> Switch:
        masks = [one.holds if isinstance(one, Switch) else (one,) * len(self.holds) for one in others]
        return Switch(self.owner, tuple(how(*parts) for parts in zip(self.holds, *masks, strict=True)))

    def where(self, yes: Any, no: Any) -> Divided:
        f, g = (self.owner.lift(part) for part in (yes, no))
        f, g = (part.where(1.0, 0.0) if isinstance(part, Condition) else part for part in (f, g))
        ones = [1.0 + 0 * node for node in self.owner.nodes]
        xp = namespace(*ones)
        sides = tuple(xp.where(held, one, -one) for held, one in zip(self.holds, ones, strict=True))
        value = tuple(
            xp.where(side > 0, f._full(a, k), g._full(b, k))
            for k, (side, a, b) in enumerate(zip(sides, f.value, g.value, strict=True))
        )
        return f._selected(g, sides, value, lambda k, i, j: f._quotient(value, i, j))


def _positive(u: Any) -> Any:
    return namespace(u).where(u > 0, u, 0 * u)


ARITHMETIC: dict[Any, Callable] = {
    np.add: operator.add,
    np.subtract: operator.sub,
    np.multiply: operator.mul,
    np.divide: operator.truediv,
    np.negative: operator.neg,
    np.positive: operator.pos,
    np.power: operator.pow,
    np.absolute: abs,
    np.fabs: abs,
    np.square: lambda f: f * f,
    np.reciprocal: lambda f: 1 / f,
}
"""NumPy's functions that are arithmetic: whatever has the operators has them too."""
COMPARISONS: dict[Any, Callable] = {
    np.less: operator.lt,
    np.less_equal: operator.le,
    np.greater: operator.gt,
    np.greater_equal: operator.ge,
    np.equal: operator.eq,
    np.not_equal: operator.ne,
}
_LOGIC = {
    np.logical_and: operator.and_,
    np.logical_or: operator.or_,
    np.logical_not: operator.invert,
    np.bitwise_and: operator.and_,
    np.bitwise_or: operator.or_,
}
Condition.rules = {**_LOGIC, np.where: chosen, np.multiply: lambda a, b: b * a, np.add: lambda a, b: b + a}
_COMPOSED = {
    np.sqrt: ("root", "root1", "root2"),
    np.sign: ("sign", "sign1", "sign2"),
    np.exp: ("exp", "exp1", "exp2"),
    np.log: ("log", "log1", "log2"),
    np.tanh: ("tanh", "tanh1", "tanh2"),
}


def _composed(names: tuple[str, ...]) -> Callable:
    parts = [getattr(elementary, name) for name in names]
    return lambda f: f._compose(*parts)


for _name in ("lt", "le", "gt", "ge", "eq", "ne"):
    _how = functools.partialmethod(Divided._compared, how=getattr(operator, _name))
    setattr(Divided, f"__{_name}__", _how)
Divided.rules = {
    **ARITHMETIC,
    **COMPARISONS,
    **{function: _composed(names) for function, names in _COMPOSED.items()},
    np.maximum: Divided.maximum,
    np.minimum: Divided.minimum,
    np.clip: Divided.clip,
    np.where: lambda condition, yes, no: chosen(
        condition if isinstance(condition, Condition) else condition.value[0], yes, no
    ),
}
