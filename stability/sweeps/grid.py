"""Grids: the points of a study as products of axes, zipped axes, lists of points and fixed values."""

from __future__ import annotations

import itertools
import math
import numbers
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import _check, _saving
from ..methods.method import Method, told_apart
from ..noise import Noise

MOST = 1_000_000
"""Points of one grid: each leaves a file."""
RECORD = 4096
"""Bytes that a record takes at least on most disks."""

RESERVED = ("status", "reason")
"""What a sweep says of each point."""

Point = dict[str, Any]
"""The parameters of one point, by name."""


@dataclass(frozen=True)
class Axis:
    """One dimension: parameters that vary together, and their values, a tuple at each place.

    Attributes
    ----------
    dim : str
        What the dimension is called in the result.
    names : tuple of str
    values : tuple of tuples
    """

    dim: str
    names: tuple[str, ...]
    values: tuple[tuple[Any, ...], ...]

    def column(self, name: str) -> list[Any]:
        """The values of one of its parameters."""
        place = self.names.index(name)
        return [row[place] for row in self.values]


@dataclass(frozen=True)
class Grid:
    """The points of a study.

    Attributes
    ----------
    axes : tuple of Axis
        The points are their product, the last one varying fastest.
    fixed : dict
        Parameters that are the same at all points.
    """

    axes: tuple[Axis, ...]
    fixed: Point

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes."""
        return tuple(len(axis.values) for axis in self.axes)

    @property
    def names(self) -> list[str]:
        """All parameters."""
        return [*self.fixed, *itertools.chain.from_iterable(axis.names for axis in self.axes)]

    def __len__(self) -> int:
        return math.prod(self.shape)

    def points(self) -> Iterator[Point]:
        """The points, in the order of the result."""
        for rows in itertools.product(*(axis.values for axis in self.axes)):
            point = dict(self.fixed)
            for axis, row in zip(self.axes, rows, strict=True):
                point.update(zip(axis.names, row, strict=True))
            yield point

    def axis(self, name: str) -> Axis:
        """The axis of this one parameter.

        Raises
        ------
        ValueError
            If it has none of its own.
        """
        own = {axis.names[0]: axis for axis in self.axes if len(axis.names) == 1}
        if name not in own:
            raise ValueError(
                f"`refine` must name an axis of the grid; got {name!r}. It has "
                f"{', '.join(own) or 'none of a single parameter'}."
            )
        return own[name]

    def without(self, name: str) -> Grid:
        """The grid of the other axes."""
        return Grid(tuple(axis for axis in self.axes if axis.names != (name,)), self.fixed)


def read(grid: Any) -> Grid:
    """What a user gave as a grid.

    Raises
    ------
    ValueError
        If it is none, has more than a million points, or one of them twice.
    """
    if isinstance(grid, Mapping):
        found = _product(grid)
    elif isinstance(grid, Sequence) and not isinstance(grid, (str, bytes)):
        found = Grid((_listed(grid),), {})
    else:
        raise ValueError(
            "`grid` must be a mapping {name: values}, or a list of points {name: value}; got "
            f"{_check.shown(grid)}. Write {{'step': [0.1, 0.2]}}."
        )
    twice = {name for name in found.names if found.names.count(name) > 1}
    if twice:
        raise ValueError(f"`grid` must name each parameter once; it has {min(twice)!r} on two axes.")
    for axis in found.axes:
        _require_different(axis)
    return found


def _product(grid: Mapping[Any, Any]) -> Grid:
    """Axes and fixed values by name; a tuple of names is an axis along which they vary together."""
    given = {name: values for name, values in grid.items() if not _is_single(values)}
    _require_names(itertools.chain.from_iterable(_names(name) for name in grid))
    single = {name: values for name, values in grid.items() if name not in given}
    fixed = {str(name): _value(name, value) for name, value in single.items()}
    # Before any value is looked at: a slip of the pen may be a grid of billions.
    _require_few([_size(name, values) for name, values in given.items()])
    axes: list[Axis] = []
    for name, values in given.items():
        names = _names(name)
        rows = [_row(names, row) for row in values] if isinstance(name, tuple) else [(row,) for row in values]
        axes.append(_axis("_".join(names), names, rows))
    return Grid(tuple(axes), fixed)


def _listed(points: Sequence[Any]) -> Axis:
    """A list of points: one dimension, along which all parameters vary."""
    if not points:
        raise ValueError("`grid` must have points; got an empty list.")
    _require_few([len(points)])
    first = points[0]
    for point in points:
        if not isinstance(point, Mapping) or point.keys() != first.keys():
            raise ValueError(
                "`grid` must be a list of points with the same parameters {name: value}; got "
                f"{_check.shown(point)} beside {_check.shown(first)}."
            )
    names = tuple(first)
    _require_names(names)
    return _axis("point", names, [tuple(point[name] for name in names) for point in points])


def _axis(dim: str, names: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> Axis:
    columns = [_column(name, values) for name, values in zip(names, zip(*rows, strict=True), strict=True)]
    return Axis(dim, names, tuple(zip(*columns, strict=True)))


def _column(name: str, values: Iterable[Any]) -> list[Any]:
    """Values along an axis: all of them floats where one is, as NumPy has it."""
    found = [_value(name, value) for value in values]
    # Exact types: True is a kind of int, and no number of an axis.
    plain = all(type(value) in (int, float) for value in found)
    return [float(v) for v in found] if plain and any(type(v) is float for v in found) else found


def _names(name: Any) -> tuple[Any, ...]:
    return name if isinstance(name, tuple) else (name,)


def _require_names(names: Iterable[Any]) -> None:
    for name in names:
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(
                "`grid` must have names of parameters as its keys, or tuples of names for axes that vary "
                f"together; got {_check.shown(name)}."
            )
        if name in RESERVED:
            raise ValueError(
                f"`grid` must not have {name!r}, which the result has itself. Rename the parameter."
            )


def _is_single(values: Any) -> bool:
    """Whether a value is one for all points, and no axis."""
    if isinstance(values, (str, bytes, numbers.Number, bool, type(None), Method, Noise, np.generic)):
        return True
    # A number of any array library.
    return getattr(values, "shape", None) == ()


def _size(name: Any, values: Any) -> int:
    """How many values an axis has, before any of them is looked at."""
    ordered = isinstance(values, (Sequence, np.ndarray)) or hasattr(values, "__array__")
    if not ordered or isinstance(values, Mapping):
        raise ValueError(
            f"`grid[{name!r}]` must be a list or an array of values, or one value for all points; got "
            f"{_check.shown(values)}. Make a list of it."
        )
    if not len(values):
        raise ValueError(f"`grid[{name!r}]` must have values; got none. Leave it out, or give one.")
    return len(values)


def _row(names: tuple[str, ...], row: Any) -> tuple[Any, ...]:
    """The values of axes that vary together, at one place."""
    if isinstance(row, (str, bytes)) or not isinstance(row, (Sequence, np.ndarray)) or len(row) != len(names):
        raise ValueError(
            f"`grid[{names!r}]` must be a list of tuples of {len(names)} values, one for each name; got "
            f"{_check.shown(row)}. Write list(zip({', '.join(names)}))."
        )
    return tuple(row)


def _require_few(sizes: Iterable[int]) -> None:
    sizes = list(sizes)
    count = math.prod(sizes)
    if count > MOST:
        days = count * 1e-3 / 86400
        raise ValueError(
            f"`grid` must have at most {MOST:,} points; got {' x '.join(map(str, sizes))} = {count:,}, which "
            f"would leave {count * RECORD / 1e12:,.2g} TB of records and take {days:,.2g} days at 1 ms each. "
            "Take fewer values; `refine=` finds a boundary along one axis with a tenth of the points."
        )


def _value(name: Any, value: Any) -> Any:
    """One parameter at one point, in Python's own numbers: what a study is called with.

    Raises
    ------
    ValueError
        If it is none of number, text, truth value, None, method, noise, or a tuple of these.
    """
    if isinstance(value, (np.bool_, np.str_)):
        value = value.item()
    # Noise of data would need the data: a subclass, which no file holds exactly.
    if value is None or isinstance(value, (bool, str, Method)) or type(value) is Noise:
        return value
    if isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim):
        return tuple(_value(name, part) for part in value)
    try:
        found = _check.number(value)
    except ValueError:
        found = None
    if isinstance(found, numbers.Real):
        found = int(found) if isinstance(found, numbers.Integral) else float(found)
        if not math.isnan(found):
            return found
        raise ValueError(f"`grid[{name!r}]` must hold numbers; got nan. Leave it out, or pass None.")
    raise ValueError(
        f"`grid[{name!r}]` must hold numbers, text, None, tuples of these, and this package's methods and "
        f"noise; got {_check.shown(value)}. Name it by a text, and make it inside the study."
    )


def _require_different(axis: Axis) -> None:
    seen = set()
    for row in axis.values:
        # Two methods may show themselves alike and differ in their formulas; digests see those.
        mark = tuple(_saving.digest(value) if _saving.keeps(value) else repr(value) for value in row)
        if mark in seen:
            what = axis.names[0] if len(axis.names) == 1 else axis.names
            value = row[0] if len(row) == 1 else row
            raise ValueError(
                f"`grid` must have each point once; {what!r} has {_check.shown(value)} twice. For repeats, "
                "add an axis 'seed': range(10), and let the study take `rng` or `seed`."
            )
        seen.add(mark)


def labels(values: Sequence[Any]) -> np.ndarray:
    """What a parameter's values are called along its axis: numbers as they are, anything else as text."""
    if all(type(value) in (int, float) for value in values) or all(type(v) is bool for v in values):
        found = np.array(values)
        if found.dtype.kind != "O":  # of whole numbers that no file holds
            return found
    if all(isinstance(value, Method) for value in values):
        names = told_apart(values)
        return np.array(names if len(set(names)) == len(set(map(repr, values))) else list(map(repr, values)))
    return np.array([value if isinstance(value, str) else repr(value) for value in values])
