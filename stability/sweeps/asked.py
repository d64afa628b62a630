"""What is asked for: a grid, a study, a seed, a boundary, and what the names mean."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .. import _check, _saving
from . import boundary as boundaries
from . import dataset as datasets
from . import grid as grids
from . import records
from .boundary import Boundary, Found
from .grid import Axis, Grid, Point
from .records import MISSING, Record
from .store import Store

if TYPE_CHECKING:
    import xarray


@dataclass(frozen=True)
class Asked:
    """Everything that a store's manifest says.

    Attributes
    ----------
    grid : Grid
    boundary : Boundary or None
    study, source, version : str
        The study's name, the digest of its source, and the package's version.
    seed : int or None
        None of a study that draws no random numbers.
    units, long_names : dict
    """

    grid: Grid
    boundary: Boundary | None
    study: str
    source: str
    version: str
    seed: int | None
    units: Mapping[str, str]
    long_names: Mapping[str, str]

    def manifest(self) -> dict[str, Any]:
        """As a store keeps it."""
        told = {name: getattr(self, name) for name in ("study", "source", "version", "seed")}
        axes = [[axis.dim, axis.names, axis.values] for axis in self.grid.axes]
        refine = self.boundary and [self.boundary.axis, self.boundary.condition, self.boundary.tolerance]
        about = {"units": dict(self.units), "long_names": dict(self.long_names)}
        return {**told, "axes": axes, "fixed": self.grid.fixed, "refine": refine, **about}

    @classmethod
    def read(cls, told: Mapping[str, Any]) -> Asked:
        """What a manifest says."""
        grid = Grid(tuple(Axis(*axis) for axis in told["axes"]), told["fixed"])
        boundary = Boundary(*told["refine"]) if told["refine"] else None
        names = ("study", "source", "version", "seed", "units", "long_names")
        return cls(grid, boundary, *(told[name] for name in names))

    @functools.cached_property
    def columns(self) -> list[Point]:
        """What is shared out among shards: points, or the lines along which a boundary is looked for."""
        rest = self.grid.without(self.boundary.axis) if self.boundary else self.grid
        return list(rest.points())

    def points(self, columns: list[Point]) -> list[Point]:
        """The points of the grid in these columns."""
        if self.boundary is None:
            return columns
        values = self.boundary.values(self.grid)
        return [{**column, self.boundary.axis: value} for column in columns for value in values]

    def find(self, store: Store, columns: list[Point], compute: Any) -> list[Found]:
        """The boundary in these columns, as `boundary.find` has it."""
        assert self.boundary is not None
        return boundaries.find(
            self.boundary, self.grid, columns, lambda point: store.get(records.key_of(point)), compute
        )

    def dataset(self, store: Store) -> xarray.Dataset:
        """What the records of a store say of the grid."""
        found: list[Record | None] = [store.get(records.key_of(point)) for point in self.grid.points()]
        about = {"units": self.units, "long_names": self.long_names, "provenance": self._provenance()}
        result = datasets.assemble(self.grid, found, about)
        if self.boundary is not None and result.attrs[MISSING] < len(found):
            boundary = self.find(store, self.columns, lambda points: None)
            datasets.with_boundary(result, self.boundary, self.grid, boundary, about)
        return result

    def _provenance(self) -> dict[str, Any]:
        told: dict[str, Any] = {"study": self.study, "source": self.source, "version": self.version}
        if self.seed is not None:
            told["seed"] = self.seed
        return {**_saving.provenance(), **told}


def texts(name: str, given: Any, known: list[str] | None = None) -> dict[str, str]:
    """Units or long names by name.

    Raises
    ------
    ValueError
        If they are no texts by name.
    """
    given = {} if given is None else given
    if not isinstance(given, Mapping) or not all(
        isinstance(part, str) for pair in given.items() for part in pair
    ):
        raise ValueError(
            f"`{name}` must be a mapping {{name: text}}; got {_check.shown(given)}. Write {{'step': '1'}}."
        )
    return dict(given)


def ask(
    grid: Any,
    study: str,
    source: str,
    seed: int | None,
    refine: Any,
    tolerance: Any,
    units: Any,
    long_names: Any,
) -> Asked:
    """What a user gave, checked."""
    found = grid if isinstance(grid, Grid) else grids.read(grid)
    version = _saving.provenance()["versions"]["sfn-stability"]
    boundary = boundaries.read(refine, tolerance, found)
    about = texts("units", units), texts("long_names", long_names)
    return Asked(found, boundary, study, source, version, seed, *about)
