"""Reading one formula in two languages: a SymPy expression on numbers, and plain arithmetic on SymPy symbols.

SymPy is never imported here until a symbol is asked for: an expression is known by its own attributes.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from .divided import ARITHMETIC

LARGEST = 100
"""Operations in a gain that SymPy is asked to work with, a power counting as many as its exponent."""


def is_expression(value: Any) -> bool:
    """Whether `value` is a SymPy expression."""
    return hasattr(value, "free_symbols") and hasattr(value, "xreplace")


class Formula:
    """A SymPy expression in one symbol as a function in plain arithmetic, of numbers, arrays or symbols.

    The expression's tree is walked; no text is made of it and none is run.
    """

    def __init__(self, expression: Any):
        free = sorted(expression.free_symbols, key=str)
        if len(free) > 1:
            listed = ", ".join(map(str, free))
            raise ValueError(
                f"A SymPy `gain` must have one free symbol, the eigenvalue; got {listed}. Substitute numbers "
                "for the others."
            )
        if any(symbol.is_nonnegative or symbol.is_nonpositive for symbol in free):
            raise ValueError(
                f"The eigenvalue of a SymPy `gain` takes both signs, yet {free[0]} is assumed to have one. "
                f"Use sympy.Symbol({str(free[0])!r}, real=True)."
            )
        self.expression, self.symbol = expression, free[0] if free else None
        self._check(expression)

    def _check(self, node: Any) -> None:
        if not (
            node.is_Symbol
            or (node.is_number and not node.args)
            or type(node).__name__ in ("Add", "Mul", "Pow", "Abs")
        ):
            raise ValueError(f"A SymPy `gain` may use + - * / ** and Abs; got {type(node).__name__}.")
        if type(node).__name__ == "Pow" and not node.exp.is_number:
            raise ValueError(f"A SymPy `gain` may raise to fixed powers; got {node}.")
        for part in node.args:
            self._check(part)

    def __call__(self, lam: Any) -> Any:
        if isinstance(lam, Symbolic):
            return Symbolic(self.expression.xreplace({self.symbol: lam.expression}))
        return self._walk(self.expression, lam)

    def _walk(self, node: Any, lam: Any) -> Any:
        if node.is_Symbol:
            return lam
        if node.is_number:
            return float(node)
        parts = [self._walk(part, lam) for part in node.args if not (node.is_Pow and part is node.exp)]
        kind = type(node).__name__
        if kind == "Pow":
            return 1 / parts[0] if node.exp == -1 else parts[0] ** float(node.exp)
        return (
            abs(parts[0])
            if kind == "Abs"
            else functools.reduce(operator.add if kind == "Add" else operator.mul, parts)
        )


class Symbolic:
    """A SymPy expression that NumPy's functions can be applied to: what a gain in plain arithmetic is read
    on.

    It counts its operations as it grows: a formula that uses an intermediate result twice doubles them, and
    SymPy would not come back from a few dozen such doublings.
    """

    __slots__ = ("expression", "size")

    def __init__(self, expression: Any, size: int = 0):
        self.expression, self.size = expression, _bounded(size)

    def __abs__(self) -> Symbolic:
        return Symbolic(abs(self.expression), self.size + 1)

    def __neg__(self) -> Symbolic:
        return Symbolic(-self.expression, self.size + 1)

    def __pos__(self) -> Symbolic:
        return self

    def __array_ufunc__(self, ufunc: Any, how: str, *inputs: Any, **options: Any) -> Any:
        rule = _UFUNCS.get(ufunc)
        if rule is None or how != "__call__" or options:
            return NotImplemented
        return rule(*(part if isinstance(part, Symbolic) else Symbolic(exact(part)) for part in inputs))


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
        size = _bounded(self.size + degree + (other.size if isinstance(other, Symbolic) else 0))
        pair = self.expression, exact(other)
        return Symbolic(rule(*(pair[::-1] if swapped else pair)), size)

    return apply


for _name in ("add", "sub", "mul", "truediv", "pow"):
    setattr(Symbolic, f"__{_name}__", _binary(getattr(operator, _name)))
    setattr(Symbolic, f"__r{_name}__", _binary(getattr(operator, _name), swapped=True))


def _root(value: Symbolic) -> Any:
    import sympy

    return Symbolic(sympy.sqrt(value.expression), value.size + 1)


_UFUNCS = {**ARITHMETIC, np.sqrt: _root}


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
