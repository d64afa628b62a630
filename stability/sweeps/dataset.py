"""Datasets: the records of a grid as labelled arrays, with units and provenance, and as NetCDF."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _saving
from . import boundary as boundaries
from .boundary import Boundary, Found
from .grid import Grid, labels
from .records import DONE, FAILED, MISSING, UNSTABLE, Record

if TYPE_CHECKING:
    import xarray

LONG_NAMES = {
    "kappa": "condition number",
    "step": "learning rate",
    "damping": "damping of the Hessian",
    "rank": "eigenpairs kept",
    "batch": "samples in a gradient batch",
    "hessian_batch": "samples in a Hessian batch",
    "beta": "momentum",
    "limit": "largest stable step",
    "amplification": "noise gain over SGD",
    "risk": "excess risk",
    "radius": "spectral radius",
    "seed": "seed of the repeat",
    "status": "what became of the point",
    "reason": "why it is not done, or what is odd about it",
}
"""What the names that this package uses mean, unless the user says otherwise."""
PLAIN = "1"
"""The unit of pure numbers, which nearly all numbers here are."""


def require_xarray() -> None:
    """Raise where the extra is missing, before anything is computed.

    Raises
    ------
    ValueError
        If it is.
    """
    try:
        import h5netcdf  # noqa: F401
        import xarray  # noqa: F401
    except ImportError as error:
        raise ValueError(f"`st.sweep` needs {error.name}: pip install 'sfn-stability[sweep]'.") from None


def assemble(grid: Grid, records: Sequence[Record | None], about: Mapping[str, Any]) -> xarray.Dataset:
    """The records of a grid's points, in their order, as one dataset.

    `about` holds ``units``, ``long_names``, ``provenance`` and ``damaged``.
    """
    import xarray

    dims, shape = tuple(axis.dim for axis in grid.axes), grid.shape
    status = np.array([MISSING if record is None else record.status for record in records])
    reasons = ["" if record is None else record.reason for record in records]
    variables: dict[str, Any] = {}
    returned = dict.fromkeys(name for record in records if record for name in record.values)
    names = [*returned, *dims, *grid.names]
    for name in returned:
        found = [record.values.get(name) if record else None for record in records]
        values = _filled(name, found, reasons, status == DONE)
        inner = tuple(_free(f"{name}_{k}", names) for k in range(values.ndim - 1))
        own = _free(name, [dim for dim in dims if dim not in grid.names])
        variables[own] = ((*dims, *inner), values.reshape(shape + values.shape[1:]))
    variables["status"] = (dims, status.reshape(shape))
    variables["reason"] = (dims, np.array(reasons, dtype=str).reshape(shape))
    coords: dict[str, Any] = {}
    for axis in grid.axes:
        coords |= {name: (axis.dim, labels(axis.column(name))) for name in axis.names}
    coords |= {name: labels([value])[0] for name, value in grid.fixed.items()}
    dataset = xarray.Dataset(variables, coords)
    counts = {kind: int(np.sum(status == kind)) for kind in (DONE, UNSTABLE, FAILED, MISSING)}
    dataset.attrs = {"points": len(status), **counts, **_flat(about["provenance"])}
    described(dataset, about)
    return dataset


def _free(name: str, taken: Sequence[str]) -> str:
    """The name, with a line behind it where it stands for something else already."""
    return _free(f"{name}_", taken) if name in taken else name


def described(dataset: xarray.Dataset, about: Mapping[str, Any]) -> None:
    """Give its variables units and long names."""
    names = LONG_NAMES | about["long_names"]
    for name, variable in dataset.variables.items():
        variable.attrs["long_name"] = names.get(str(name), str(name).replace("_", " "))
        if variable.dtype.kind in "fiu":
            variable.attrs["units"] = about["units"].get(str(name), PLAIN)


def _flat(told: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes as NetCDF can hold them: numbers and texts."""
    return {
        name: value if isinstance(value, (str, int, float)) else json.dumps(_saving.jsonable(value))
        for name, value in told.items()
    }


def _filled(name: str, found: Sequence[Any], reasons: list[str], done: np.ndarray) -> np.ndarray:
    """The values of one name at all points: nan, or an empty text, where there is none.

    Arrays that are shorter than the longest end with nan; those of another number of axes than most are left
    away. Both are told in the points' reasons.
    """
    arrays = [None if value is None else np.asarray(value) for value in found]
    there = [array for array in arrays if array is not None]
    axes = _commonest([array.ndim for array in there])
    text = any(array.dtype.kind == "U" for array in there)
    shape = tuple(np.max([array.shape for array in there if array.ndim == axes], axis=0)) if axes else ()
    whole = all(array is not None and array.shape == shape for array in arrays)
    kinds = {array.dtype.kind for array in there}
    # Whole numbers and truth values stay what they are only where every point has one: nan is a float.
    if whole and kinds in ({"b"}, {"i"}, {"u"}):
        return np.array(arrays)
    result = np.full((len(arrays), *shape), "" if text else np.nan, dtype=object if text else float)
    for k, array in enumerate(arrays):
        if array is None:
            if done[k]:
                _told(reasons, k, f"`{name}` is not there")
        elif array.ndim != axes:
            _told(reasons, k, f"`{name}` has {array.ndim} axes, and {axes} elsewhere")
        else:
            # A shorter answer fills the beginning of its row, the rest stays nan, and its reason says so.
            place: tuple[Any, ...] = (k, *map(slice, array.shape))
            result[place] = array
            if array.shape != shape:
                _told(reasons, k, f"`{name}` is ragged: shape {array.shape}, and {_plain(shape)} elsewhere")
    return result.astype(str) if text else result


def _plain(shape: tuple[Any, ...]) -> tuple[int, ...]:
    return tuple(map(int, shape))


def _commonest(numbers: Sequence[int]) -> int:
    # Sorted: of two that are as common the smaller one, whatever the order of the set.
    return max(sorted(set(numbers)), key=numbers.count)


def _told(reasons: list[str], place: int, what: str) -> None:
    reasons[place] = f"{reasons[place]}; {what}" if reasons[place] else what


def with_boundary(
    dataset: xarray.Dataset, boundary: Boundary, grid: Grid, found: Sequence[Found], about: Mapping[str, Any]
) -> None:
    """Add where the answer changes along the refined axis: ``AXIS_boundary``, its bracket and its reason."""
    axis, rest = grid.axis(boundary.axis), grid.without(boundary.axis)
    dims, shape = tuple(one.dim for one in rest.axes), rest.shape
    condition = boundary.condition or "the point is stable"
    columns: dict[str, tuple[Callable[[Found], Any], str]] = {
        "boundary": (
            lambda one: boundaries.at(axis, one),
            f"{axis.dim} where it changes whether {condition}",
        ),
        "boundary_low": (lambda one: float(one.low), "lower end of the bracket"),
        "boundary_high": (lambda one: float(one.high), "upper end of the bracket"),
        "boundary_reason": (lambda one: one.reason, "why there is none, or that there are several"),
    }
    for name, (read, long_name) in columns.items():
        values = np.array([read(one) for one in found]).reshape(shape)
        attrs = {"long_name": long_name}
        if values.dtype.kind == "f":
            attrs["units"] = about["units"].get(axis.dim, PLAIN)
        dataset[_free(f"{axis.dim}_{name}", list(map(str, dataset.variables)))] = (dims, values, attrs)
    dataset.attrs |= {"refined": axis.dim, "condition": condition, "tolerance": boundary.tolerance}


def is_whole(dataset: xarray.Dataset) -> bool:
    """Whether nothing is pending: no point, and no boundary."""
    reasons = [one for name, one in dataset.data_vars.items() if str(name).endswith("_boundary_reason")]
    return not dataset.attrs[MISSING] and not any(bool((one == boundaries.PENDING).any()) for one in reasons)


def to_bytes(dataset: xarray.Dataset) -> bytes:
    """The dataset as NetCDF; the same one gives the same bytes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries about each other
        return bytes(dataset.to_netcdf(engine="h5netcdf"))
