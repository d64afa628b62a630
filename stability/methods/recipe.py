"""A formula as the list of its operations: what a file keeps of a gain, whoever wrote it.

A gain is read once on a `Mark`, which writes down every operator and NumPy function that it meets. Followed
in order on numbers, arrays, SymPy symbols or divided differences, the list gives what the formula gave, bit
for bit. No text is made of it and none is run: names are looked up in one table.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from .divided import ARITHMETIC, COMPARISONS, Stand, Unreadable

LONGEST = 10_000
"""Operations of a formula."""
_OPERATORS = ("add", "sub", "mul", "truediv", "pow", "and_", "or_")
_UNARY = ("neg", "pos", "abs", "invert")
_COMPARED = ("lt", "le", "gt", "ge", "eq", "ne")
_FUNCTIONS = (
    *ARITHMETIC,
    *COMPARISONS,
    *(np.sqrt, np.exp, np.log, np.tanh, np.sign, np.maximum, np.minimum, np.clip, np.where),
    *(np.logical_and, np.logical_or, np.logical_not, np.bitwise_and, np.bitwise_or),
)
OPERATIONS: dict[str, Callable[..., Any]] = {
    name: getattr(operator, name) for name in (*_OPERATORS, *_UNARY, *_COMPARED)
} | {f"numpy.{function.__name__}": function for function in _FUNCTIONS}
"""All that a recipe may do, by name."""


class Recipe:
    """A formula to be followed; the arguments are the first registers, every operation fills the next.

    Parameters
    ----------
    names : sequence of str
        The parameters, after the eigenvalue.
    operations : sequence of lists
        A name and the registers that it reads, or ``["number", x]``.
    result : int
        The register that the formula returns.

    Raises
    ------
    ValueError
        If an operation is not in the table, or reads a register that is not filled yet.
    """

    def __init__(self, names: Sequence[str], operations: Iterable[Sequence[Any]], result: int):
        self.names, self.operations, self.result = tuple(names), [list(one) for one in operations], result
        for filled, (name, *operands) in enumerate(self.operations, 1 + len(self.names)):
            # Registers that are filled already, counted from the first:
            # a file must not make it read ahead, or from the end.
            if name != "number" and not (name in OPERATIONS and all(0 <= i < filled for i in operands)):
                raise ValueError(f"operation {name!r} on {operands} is none of a gain's")

    def __call__(self, lam: Any, **parameters: Any) -> Any:
        values = [lam, *(parameters[name] for name in self.names)]
        for name, *operands in self.operations:
            if name == "number":
                values.append(operands[0])
            else:
                values.append(OPERATIONS[name](*(values[i] for i in operands)))
        return values[self.result]

    def kept(self) -> dict[str, Any]:
        """What the constructor takes, as JSON's values."""
        return {"names": list(self.names), "operations": self.operations, "result": self.result}


def recorded(formula: Callable[..., Any], names: Sequence[str]) -> Recipe:
    """A formula's operations.

    Raises
    ------
    Unreadable
        If it does what is not in the table, or too much.
    """
    if isinstance(formula, Recipe):
        return formula
    tape = Tape(1 + len(names))
    lam, *parameters = (Mark(tape, i) for i in range(tape.first))
    result = tape.lift(formula(lam, **dict(zip(names, parameters, strict=True))))
    return Recipe(names, tape.operations, result.place)


class Tape:
    """Operations as they happen; `first` is the register that the first of them fills."""

    def __init__(self, first: int):
        self.first = first
        self.operations: list[list[Any]] = []

    def emit(self, name: str, *operands: Any) -> Mark:
        """A new operation; its register."""
        if len(self.operations) >= LONGEST:
            raise Unreadable(f"it has more than {LONGEST} operations")
        places = [self.lift(one).place for one in operands]
        return self._filled([name, *places])

    def lift(self, value: Any) -> Mark:
        """A value as a register."""
        if isinstance(value, Mark):
            return value
        # NumPy's scalars are no numbers of JSON's.
        if isinstance(value, np.generic):
            value = value.item()
        if not (value is None or isinstance(value, (bool, int, float))):
            raise Unreadable(f"it holds a {type(value).__name__}, where a file keeps numbers")
        return self._filled(["number", value])

    def _filled(self, operation: list[Any]) -> Mark:
        self.operations.append(operation)
        return Mark(self, self.first + len(self.operations) - 1)


class Mark(Stand):
    """A register: what a formula is read on to learn its operations."""

    __slots__ = ("place", "tape")

    def __init__(self, tape: Tape, place: int):
        self.tape, self.place = tape, place

    def lift(self, value: Any) -> Mark:
        return self.tape.lift(value)

    def clip(self, low: Any, high: Any) -> Mark:
        """As NumPy's method."""
        return self.tape.emit("numpy.clip", self, low, high)

    def _called(self, function: Any, inputs: tuple, options: Any) -> Mark:
        name = f"numpy.{function.__name__}"
        if name not in OPERATIONS or options:
            raise Unreadable(f"it uses {function.__name__}{' with options' if options else ''}")
        return self.tape.emit(name, *inputs)


def _operation(name: str, *, swapped: bool = False) -> Callable[..., Mark]:
    def apply(self: Mark, *others: Any) -> Mark:
        return self.tape.emit(name, *((*others, self) if swapped else (self, *others)))

    return apply


for _name in (*_OPERATORS, *_UNARY, *_COMPARED):
    # `operator.and_` and `or_` are named so because of Python's
    # keywords; the methods are `__and__` and `__or__`.
    setattr(Mark, f"__{_name.rstrip('_')}__", _operation(_name))
for _name in _OPERATORS:
    setattr(Mark, f"__r{_name.rstrip('_')}__", _operation(_name, swapped=True))
