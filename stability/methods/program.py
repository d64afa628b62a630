"""A formula in plain arithmetic as instructions, which compiled code follows without knowing it.

A gain, or an objective's `planar`, is read once on a `Traced`; each operation becomes one instruction on
numbered registers. Followed in order they round exactly as NumPy does on the same formula.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .divided import ARITHMETIC

ADD, SUBTRACT, MULTIPLY, DIVIDE, NEGATE, ABSOLUTE, ROOT = range(7)
LONGEST = 64
"""Instructions of a formula; longer ones are left to NumPy."""


class Untraceable(TypeError):
    """The formula is no list of operations: it asks for a number, or for a function without instruction."""


class Program:
    """Instructions on registers: first the arguments, then the constants, then one for every instruction.

    Attributes
    ----------
    code : int array (n, 4)
        Operation, target register and both operands.
    constants : array (c,)
        In the registers after the arguments'.
    results : int array (r,)
        The registers that hold what the formula returns.
    registers : int
    """

    def __init__(self, formula: Callable[..., Any], arguments: int):
        self._instructions: list[tuple[int, int, int]] = []
        self._constants: dict[bytes, int] = {}
        values: list[float] = []
        self._values = values
        given = [Traced(self, ("argument", i)) for i in range(arguments)]
        try:
            found = formula(*given)
        except Untraceable:
            raise
        except Exception as error:  # a user's formula may fail in any way on what is no number
            raise Untraceable(f"{type(error).__name__}: {error}") from None
        names = [self.lift(one).name for one in (found if isinstance(found, tuple) else (found,))]
        # Only now is it known how many constants come before the results.
        first = arguments + len(values)
        place = {"argument": 0, "constant": arguments, "result": first}

        def register(name: tuple[str, int]) -> int:
            return place[name[0]] + name[1]

        rows = [
            (kind, first + i, register(a), register(b))  # type: ignore[arg-type]
            for i, (kind, a, b) in enumerate(self._instructions)
        ]
        self.code = np.array(rows, dtype=np.int64).reshape(-1, 4)
        self.constants = np.array(values)
        self.results = np.array([register(name) for name in names], dtype=np.int64)
        self.registers = first + len(self._instructions)

    def lift(self, value: Any) -> Traced:
        """A value as a register: a number becomes a constant."""
        if isinstance(value, Traced):
            return value
        if not isinstance(value, (int, float, np.integer, np.floating)) or isinstance(value, bool):
            raise Untraceable(f"{type(value).__name__} is no number")
        key = np.float64(value).tobytes()  # by bits: 0.0 and -0.0 differ
        if key not in self._constants:
            self._constants[key] = len(self._values)
            self._values.append(float(value))
        return Traced(self, ("constant", self._constants[key]))

    def emit(self, kind: int, a: Any, b: Any) -> Traced:
        """A new instruction."""
        if len(self._instructions) == LONGEST:
            raise Untraceable(f"more than {LONGEST} operations")
        self._instructions.append((kind, self.lift(a).name, self.lift(b).name))  # type: ignore[arg-type]
        return Traced(self, ("result", len(self._instructions) - 1))


class Traced:
    """A number to be: what a formula is read on to learn its instructions."""

    __slots__ = ("name", "program")

    def __init__(self, program: Program, name: tuple[str, int]):
        self.program, self.name = program, name

    def __add__(self, other: Any) -> Traced:
        return self.program.emit(ADD, self, other)

    def __radd__(self, other: Any) -> Traced:
        return self.program.emit(ADD, other, self)

    def __sub__(self, other: Any) -> Traced:
        return self.program.emit(SUBTRACT, self, other)

    def __rsub__(self, other: Any) -> Traced:
        return self.program.emit(SUBTRACT, other, self)

    def __mul__(self, other: Any) -> Traced:
        return self.program.emit(MULTIPLY, self, other)

    def __rmul__(self, other: Any) -> Traced:
        return self.program.emit(MULTIPLY, other, self)

    def __truediv__(self, other: Any) -> Traced:
        return self.program.emit(DIVIDE, self, other)

    def __rtruediv__(self, other: Any) -> Traced:
        return self.program.emit(DIVIDE, other, self)

    def __neg__(self) -> Traced:
        return self.program.emit(NEGATE, self, self)

    def __pos__(self) -> Traced:
        return self

    def __abs__(self) -> Traced:
        return self.program.emit(ABSOLUTE, self, self)

    def __pow__(self, power: Any) -> Traced:
        # The powers that NumPy takes by one operation too; of others its rounding is its own.
        if isinstance(power, (int, float)) and power == 2:
            return self * self
        if isinstance(power, (int, float)) and power == 0.5:
            return self.program.emit(ROOT, self, self)
        raise Untraceable(f"power {power!r}")

    def __bool__(self) -> bool:
        raise Untraceable("the formula decides by a value")

    __float__ = __int__ = __index__ = __lt__ = __le__ = __gt__ = __ge__ = __bool__

    def __array_ufunc__(self, ufunc: Any, how: str, *inputs: Any, **options: Any) -> Any:
        rule = _UFUNCS.get(ufunc)
        if rule is None or how != "__call__" or options:
            return NotImplemented
        return rule(*(self.program.lift(one) for one in inputs))


_UFUNCS = {**ARITHMETIC, np.sqrt: lambda x: x.program.emit(ROOT, x, x)}
