"""Boundaries: where along one axis a study's answer changes, by bisection between points of the grid."""

from __future__ import annotations

import itertools
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import _check
from .grid import Axis, Grid, Point
from .records import DONE, FAILED, Record

_CONDITION = re.compile(r"\s*(?P<name>[^\W\d]\w*)\s*((?P<sign><=|>=|<|>)\s*(?P<level>[-+.\w]+)\s*)?")
_SIGNS: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
PENDING = "not computed yet"
Side = bool | str | None
"""Of a point: on which side of the boundary; that it is pending; None where it has failed."""
MOST_ROUNDS = 200
"""Bisections of one bracket: more than any two floating-point numbers allow."""


@dataclass(frozen=True)
class Found:
    """Where the answer changes in one column of the grid.

    Attributes
    ----------
    low, high : float
        It changes between these neighbours; nan where it does not.
    reason : str
        Why there is none, or that there are several.
    stopped : bool
        It cannot be told more closely.
    """

    low: float = math.nan
    high: float = math.nan
    reason: str = ""
    stopped: bool = False


@dataclass(frozen=True)
class Boundary:
    """What is asked of a column: along which axis, of what, and how closely.

    Attributes
    ----------
    axis : str
    condition : str
        As ``"radius < 1"``, or the name of a truth value; "" for whether the point is stable.
    tolerance : float
        The bracket's width over its larger end.
    """

    axis: str
    condition: str
    tolerance: float

    def holds(self, record: Record) -> bool | None:
        """Whether a point is on the near side; None where it has failed."""
        if record.status == FAILED:
            return None
        # Unstable is an answer, and the far side of whatever was asked about.
        if record.status != DONE:
            return False
        if not self.condition:
            return _is_stable(record.values)
        told = _CONDITION.fullmatch(self.condition)
        assert told is not None
        if told["name"] not in record.values:
            raise ValueError(
                f"`refine` must ask for what the study returns; got {told['name']!r}. It returns "
                f"{', '.join(record.values) or 'nothing'}."
            )
        value = record.values[told["name"]]
        if np.ndim(value) or isinstance(value, str):
            raise ValueError(
                f"`refine` must ask for a single number; `{told['name']}` is {_check.shown(value)}."
            )
        return bool(_SIGNS[told["sign"]](value, float(told["level"])) if told["sign"] else value)

    def values(self, grid: Grid) -> list[Any]:
        """The values of the axis from low to high."""
        return sorted(grid.axis(self.axis).column(self.axis))

    def rounds(self, grid: Grid) -> int:
        """Bisections that the widest bracket takes."""
        values, count = self.values(grid), 0
        for low, high in itertools.pairwise(values):
            # The lower half, every time: the tolerance is relative, so that no other takes more rounds.
            one, k = Found(low, high), 0
            while (middle := _middle(self, one)) is not None:
                one, k = Found(one.low, middle), k + 1
            count = max(count, k)
        return count


def _is_stable(values: Mapping[str, Any]) -> bool:
    """Of a study that is asked for nothing in particular: are truth values true, and numbers finite?"""
    for value in values.values():
        if isinstance(value, bool):
            if not value:
                return False
        elif not isinstance(value, str) and not np.all(np.isfinite(value)):
            return False
    return True


def read(refine: Any, tolerance: Any, grid: Grid) -> Boundary | None:
    """What a user gave as `refine`.

    Raises
    ------
    ValueError
        If it names no axis of numbers with two values at least, or no condition.
    """
    tolerance = _check.positive("tolerance", tolerance)
    if refine is None:
        return None
    if isinstance(refine, str):
        refine = {refine: ""}
    if not isinstance(refine, Mapping) or len(refine) != 1:
        raise ValueError(
            "`refine` must be an axis, as 'step', or one with a condition, as {'step': 'radius < 1'}; got "
            f"{_check.shown(refine)}."
        )
    ((name, condition),) = refine.items()
    values = grid.axis(name).column(name)
    if len(values) < 2 or not all(type(value) in (int, float) and math.isfinite(value) for value in values):
        raise ValueError(
            f"`refine` must name an axis of two finite numbers at least; {name!r} has "
            f"{_check.shown(values)}. Give its ends: '{name}': [low, high]."
        )
    condition = condition or ""
    told = _CONDITION.fullmatch(condition) if isinstance(condition, str) else None
    if condition and (told is None or not _is_number(told["level"])):
        raise ValueError(
            "`refine` must have a condition such as 'radius < 1', or the name of a truth value that the "
            f"study returns; got {_check.shown(condition)}."
        )
    return Boundary(name, condition, tolerance)


def _is_number(text: str | None) -> bool:
    try:
        return text is None or math.isfinite(float(text))
    except ValueError:
        return False


def find(
    boundary: Boundary,
    grid: Grid,
    columns: Iterable[Point],
    look: Callable[[Point], Record | None],
    compute: Callable[[list[Point]], None],
) -> list[Found]:
    """The boundary in each column: all brackets are halved at once, round after round.

    Parameters
    ----------
    columns : iterable of dict
        The other parameters.
    look : function
        The record of a point, where there is one.
    compute : function
        Sees to it that there is one for each of these points; may leave some away.
    """
    columns = list(columns)

    def side(column: Point, value: Any) -> Side:
        record = look({**column, boundary.axis: value})
        return PENDING if record is None else boundary.holds(record)

    found = [
        _bracket(boundary, boundary.values(grid), [side(c, v) for v in boundary.values(grid)])
        for c in columns
    ]
    # Fixed before the first halving: which side is kept does not depend on where a bracket has moved to.
    nears = [None if math.isnan(f.low) else side(c, f.low) for f, c in zip(found, columns, strict=True)]
    for _ in range(MOST_ROUNDS):
        middles = {i: _middle(boundary, one) for i, one in enumerate(found) if not math.isnan(one.low)}
        ahead = {i: middle for i, middle in middles.items() if middle is not None}
        if not ahead:
            break
        compute([{**columns[i], boundary.axis: middle} for i, middle in ahead.items()])
        for i, middle in ahead.items():
            found[i] = _halved(found[i], middle, side(columns[i], middle), nears[i])
    return found


def _bracket(boundary: Boundary, values: list[Any], sides: list[Side]) -> Found:
    """The first neighbours between which the answer changes."""
    if PENDING in sides:
        return Found(reason=PENDING)
    if None in sides:
        at = values[sides.index(None)]
        return Found(reason=f"there is no answer at {boundary.axis} = {at:g}")
    changes = [k for k in range(len(sides) - 1) if sides[k] != sides[k + 1]]
    if not changes:
        return Found(reason=f"{'holds' if sides[0] else 'does not hold'} at all values of {boundary.axis}")
    several = f"changes {len(changes)} times; this is the first" if len(changes) > 1 else ""
    return Found(values[changes[0]], values[changes[0] + 1], several)


def _middle(boundary: Boundary, found: Found) -> Any:
    """Where to look next; None where the bracket is narrow enough."""
    low, high = found.low, found.high
    if high - low <= boundary.tolerance * max(abs(low), abs(high)) or found.stopped:
        return None
    if isinstance(low, int) and isinstance(high, int):
        middle: Any = (low + high) // 2
    else:  # of a positive axis its digits are halved, not its length
        middle = math.sqrt(low) * math.sqrt(high) if low > 0 else low + (high - low) / 2
    # Between neighbouring floats there is none.
    return middle if low < middle < high else None


def _halved(found: Found, middle: Any, side: Side, near: Side) -> Found:
    if side == PENDING:
        return Found(found.low, found.high, PENDING, True)
    if side is None:
        return Found(found.low, found.high, f"there is no answer at {middle:g}", True)
    # The end that lies on the near side moves up; the other one down.
    return Found(middle, found.high, found.reason) if side == near else Found(found.low, middle, found.reason)


def at(axis: Axis, found: Found) -> float:
    """The boundary as one number: the middle of its bracket."""
    low, high = float(found.low), float(found.high)
    return math.sqrt(low) * math.sqrt(high) if low > 0 else low + (high - low) / 2
