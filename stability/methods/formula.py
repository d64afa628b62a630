"""Reading one formula in two languages: a SymPy expression on numbers, and plain arithmetic on SymPy symbols.

SymPy is never imported here until a symbol is asked for: an expression is known by its own attributes.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .divided import ARITHMETIC, COMPARISONS, Condition, Stand, chosen

LARGEST = 100
"""Operations in a gain that SymPy is asked to work with, a power counting as many as its exponent."""


def is_expression(value: Any) -> bool:
    """Whether `value` is a SymPy expression."""
    return hasattr(value, "free_symbols") and hasattr(value, "xreplace")


class Formula:
    """A SymPy expression in one symbol as a function in plain arithmetic, of numbers, arrays or symbols.

    The expression's tree is walked; no text is made of it and none is run.

    Parameters
    ----------
    expression : SymPy expression
    parameters : mapping of str to float
        Symbols of these names are the method's parameters; the one that is left is the eigenvalue.
    """

    def __init__(self, expression: Any, parameters: Mapping[str, float]):
        free = sorted(expression.free_symbols, key=str)
        self.parameters = {symbol.name: symbol for symbol in free if symbol.name in parameters}
        rest = [symbol for symbol in free if symbol.name not in parameters]
        if len(rest) > 1:
            listed = ", ".join(map(str, rest))
            other = next((one for one in rest if one.name not in ("lam", "lambda", "lamda", "x")), rest[0])
            raise ValueError(
                f"A SymPy `gain` must have one free symbol, the eigenvalue; got {listed}. Give the others "
                f"numbers by name: st.Method(gain=..., {other}=...)."
            )
        if any(symbol.is_nonnegative or symbol.is_nonpositive for symbol in rest):
            raise ValueError(
                f"The eigenvalue of a SymPy `gain` takes both signs, yet {rest[0]} is assumed to have one. "
                f"Use sympy.Symbol({str(rest[0])!r}, real=True)."
            )
        for name, symbol in self.parameters.items():
            value = parameters[name]
            if (symbol.is_positive and value <= 0) or (symbol.is_nonnegative and value < 0):
                raise ValueError(f"`{name}` must be what its symbol assumes, > 0; got {value:g}.")
        self.expression, self.symbol = expression, rest[0] if rest else None
        self._check(expression)

    def _check(self, node: Any) -> None:
        kind = type(node).__name__
        leaf = node.is_Symbol or (node.is_number and not node.args)
        if not leaf and kind not in _WALKED:
            raise ValueError(f"A SymPy `gain` may use {_SYMPYS}; got {kind}.")
        if kind == "Pow" and not node.exp.is_number:
            raise ValueError(f"A SymPy `gain` may raise to fixed powers; got {node}.")
        parts = node.args if kind != "Piecewise" else [part for pair in node.args for part in pair.args]
        for part in parts:
            if part.is_Boolean is not True or part.args:  # the last branch is under `True`
                self._check(part)

    def __call__(self, lam: Any, **parameters: Any) -> Any:
        values = {symbol: parameters[name] for name, symbol in self.parameters.items()}
        if isinstance(lam, Symbolic):
            own = {symbol: exact(value) for symbol, value in values.items()}
            return Symbolic(self.expression.xreplace({self.symbol: lam.expression, **own}))
        return self._walk(self.expression, {self.symbol: lam, **values})

    def _walk(self, node: Any, values: Mapping[Any, Any]) -> Any:
        if node.is_Symbol:
            return values[node]
        kind = type(node).__name__
        if kind == "Piecewise":
            return self._branches(node, values)
        if node.is_number:
            return float(node)
        if kind == "Pow":
            base = self._walk(node.base, values)
            # SymPy has no division: 1/x comes as x^-1, and is computed as it was written.
            return 1 / base if node.exp == -1 else base ** float(node.exp)
        parts = [self._walk(part, values) for part in node.args]
        return functools.reduce(_WALKED[kind], parts) if len(parts) > 1 else _WALKED[kind](*parts)

    def _branches(self, node: Any, values: Mapping[Any, Any]) -> Any:
        """The first branch whose condition holds, nan where none does."""
        result: Any = math.nan
        # From the last branch on, each earlier one overwrites
        # where its condition holds: the first true one wins.
        for branch, condition in reversed(node.args):
            value = self._walk(branch, values)
            always = type(condition).__name__ == "BooleanTrue"
            result = value if always else np.where(self._walk(condition, values), value, result)
        return result


_SYMPYS = "+ - * / **, Abs, sqrt, exp, log, tanh, sign, Max, Min and Piecewise"
_WALKED: dict[str, Callable] = {
    "Add": operator.add,
    "Mul": operator.mul,
    "Pow": operator.pow,
    "Piecewise": np.where,
    "Abs": abs,
    "exp": np.exp,
    "log": np.log,
    "tanh": np.tanh,
    "sign": np.sign,
    "Max": np.maximum,
    "Min": np.minimum,
    "StrictLessThan": operator.lt,
    "LessThan": operator.le,
    "StrictGreaterThan": operator.gt,
    "GreaterThan": operator.ge,
    "Equality": operator.eq,
    "Unequality": operator.ne,
    "And": operator.and_,
    "Or": operator.or_,
    "Not": np.logical_not,
}
"""SymPy's classes to the functions that numbers, arrays and divided differences read."""


class Symbolic(Stand):
    """A SymPy expression that NumPy's functions can be applied to: what a gain is read on.

    It counts its operations as it grows: a formula that uses an intermediate result twice doubles them, and
    SymPy would not come back from a few dozen such doublings.
    """

    __slots__ = ("expression", "size")

    def __init__(self, expression: Any, size: int = 0):
        self.expression, self.size = expression, _bounded(size)

    def lift(self, value: Any) -> Any:
        return value if isinstance(value, Stand) else Symbolic(exact(value))

    def __abs__(self) -> Symbolic:
        return Symbolic(abs(self.expression), self.size + 1)

    def __neg__(self) -> Symbolic:
        return Symbolic(-self.expression, self.size + 1)

    def __pos__(self) -> Symbolic:
        return self

    def clip(self, low: Any, high: Any) -> Symbolic:
        """The expression kept between two bounds, either of which may be None."""
        raised = self if low is None else self.rules[np.maximum](self, low)
        return raised if high is None else self.rules[np.minimum](raised, high)


class Decision(Condition):
    """A SymPy condition that `numpy.where` decides by."""

    __slots__ = ("condition", "size")

    def __init__(self, condition: Any, size: int):
        self.condition, self.size = condition, _bounded(size)

    def joined(self, how: Callable, *others: Any) -> Decision:
        parts = [one.condition if isinstance(one, Decision) else one for one in others]
        size = self.size + 1 + sum(one.size for one in others if isinstance(one, Decision))
        return Decision(how(self.condition, *parts), size)

    def where(self, yes: Any, no: Any) -> Symbolic:
        import sympy

        yes, no = (one.where(1.0, 0.0) if isinstance(one, Condition) else one for one in (yes, no))
        size = self.size + 1 + sum(one.size for one in (yes, no) if isinstance(one, Symbolic))
        return Symbolic(sympy.Piecewise((exact(yes), self.condition), (exact(no), True)), size)


def _bounded(size: int) -> int:
    if size > LARGEST:
        raise ValueError(
            f"Symbolic derivations take gains of up to {LARGEST} operations. Use st.linearize or "
            "st.exact_mode for numbers."
        )
    return size


def _binary(rule: Callable[[Any, Any], Any], *, swapped: bool = False) -> Callable[[Symbolic, Any], Symbolic]:
    def apply(self: Symbolic, other: Any) -> Symbolic:
        # Before SymPy works on it; a whole power is a polynomial to be, of that degree.
        degree = (
            abs(int(other))
            if rule is operator.pow
            and not swapped
            and isinstance(other, (int, float))
            and other == int(other)
            else 1
        )
        size = _bounded(self.size + degree + getattr(other, "size", 0))
        if isinstance(other, Condition):  # counts as 1 or 0
            other = other.where(1.0, 0.0)
        pair = self.expression, exact(other)
        return Symbolic(rule(*(pair[::-1] if swapped else pair)), size)

    return apply


def _comparison(rule: Callable[[Any, Any], Any]) -> Callable[[Symbolic, Any], Decision]:
    import_name = {"eq": "Eq", "ne": "Ne"}.get(rule.__name__, "")

    def apply(self: Symbolic, other: Any) -> Decision:
        import sympy

        size = self.size + 1 + (other.size if isinstance(other, Symbolic) else 0)
        # `==` of two SymPy expressions asks whether they are written alike: an equation is made by name.
        how = getattr(sympy, import_name) if import_name else rule
        return Decision(how(self.expression, exact(other)), size)

    return apply


def _function(name: str) -> Callable[..., Symbolic]:
    """A function of SymPy's by name."""

    def apply(*parts: Any) -> Symbolic:
        import sympy

        size = 1 + sum(part.size for part in parts if isinstance(part, Symbolic))
        return Symbolic(getattr(sympy, name)(*map(exact, parts)), size)

    return apply


for _name in ("add", "sub", "mul", "truediv", "pow"):
    setattr(Symbolic, f"__{_name}__", _binary(getattr(operator, _name)))
    setattr(Symbolic, f"__r{_name}__", _binary(getattr(operator, _name), swapped=True))
for _name in ("lt", "le", "gt", "ge", "eq", "ne"):
    setattr(Symbolic, f"__{_name}__", _comparison(getattr(operator, _name)))
Symbolic.rules = {
    **ARITHMETIC,
    **COMPARISONS,
    np.sqrt: _function("sqrt"),
    np.exp: _function("exp"),
    np.log: _function("log"),
    np.tanh: _function("tanh"),
    np.sign: _function("sign"),
    np.maximum: _function("Max"),
    np.minimum: _function("Min"),
    np.clip: Symbolic.clip,
    np.where: lambda condition, yes, no: chosen(
        condition if isinstance(condition, Condition) else bool(condition.expression), yes, no
    ),
}


def exact(number: Any) -> Any:
    """A number as SymPy's: what is written 0.1 is read as 1/10."""
    import sympy

    if isinstance(number, Symbolic):
        return number.expression
    if is_expression(number):
        return sympy.nsimplify(number, rational=True)
    return sympy.Rational(repr(float(number))) if np.isfinite(float(number)) else sympy.Float(float(number))


def read(formula: Callable[[Any], Any], symbol: Any) -> Any:
    """A formula in plain arithmetic, read on a SymPy symbol or expression."""
    import sympy

    result = sympy.nsimplify(exact(formula(Symbolic(symbol))), rational=True)
    powers = sum(abs(int(power.exp)) for power in result.atoms(sympy.Pow) if power.exp.is_Integer)
    return Symbolic(result, int(result.count_ops()) + powers).expression
