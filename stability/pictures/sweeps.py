"""Pictures of datasets over a grid: a heat map over two axes, lines over one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .style import COLORS, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_PANELS = 12
WIDE = 30.0
"""An axis whose values, all positive, span so much is logarithmic."""
MARKS = "osD^vPX"
_TOLD = ("status", "reason")


@dataclass(frozen=True)
class _Roles:
    """What is drawn: along which axes, of which numbers.

    Attributes
    ----------
    x : str
    y : str
        The second axis of a heat map; "" of lines.
    values : str
    hue : str
        The axis whose values lines stand for; "".
    panel : str
        The axis along which there is a panel for each value; "".
    """

    x: str
    y: str
    values: str
    hue: str
    panel: str


def dataset(data: Any, x: str | None = None, y: str | None = None, hue: str | None = None) -> Figure:
    """A dataset of `st.sweep` over one or two of its axes; see `stability.plot`.

    Raises
    ------
    ValueError
        If a name is none of its, or it has more axes than can be drawn.
    """
    roles = _roles(data, x, y, hue)
    places = list(range(data.sizes[_dim(data, roles.panel)])) if roles.panel else [None]
    columns = min(3, len(places))
    rows = -(-len(places) // columns)
    figure, axes = panels(rows, columns, 4.2, 3.3)
    shown = [float(v) for v in np.ravel(data[roles.values]) if np.isfinite(v)]
    for place, axis in zip(places, axes.flat, strict=False):
        part = data if place is None else data.isel({_dim(data, roles.panel): place})
        if roles.y:
            _heat_map(figure, axis, part, roles, shown)
        else:
            _lines(axis, part, roles, shown)
        if place is not None:
            axis.set_title(f"{_short(data, roles.panel)} = {_value(data[roles.panel].values[place])}")
    for axis in axes.flat[len(places) :]:
        axis.axis("off")
    return figure


def _roles(data: Any, x: str | None, y: str | None, hue: str | None) -> _Roles:
    """Who is drawn as what: an axis as `y` makes a heat map of the numbers `hue`, numbers as `y` lines."""
    axes = [str(name) for name, one in data.coords.items() if one.ndim == 1]
    varying = [name for name in axes if data.sizes[_dim(data, name)] > 1] or axes
    numbers = [str(name) for name, one in data.data_vars.items() if _is_drawn(name, one, data, axes)]
    for role, name in (("x", x), ("y", y), ("hue", hue)):
        known = axes if role == "x" else [*axes, *numbers]
        if name is not None and name not in known:
            raise ValueError(f"`{role}` must be one of {', '.join(known)}; got {name!r}.")
    if not numbers or not axes:
        raise ValueError("`result` must have numbers over an axis; got a dataset with none to draw.")
    ordered = sorted(varying, key=lambda name: data[name].dtype.kind not in "iuf")
    x = x or next(name for name in ordered if name not in (y, hue))
    free = [
        name for name in ordered if _dim(data, name) not in {_dim(data, n) for n in (x, y, hue) if n in axes}
    ]
    map_wanted = hue in numbers or (hue is None and free and data[free[0]].dtype.kind in "iuf")
    if y is None and free and map_wanted:
        y = free.pop(0)
    if y in axes:
        if hue in axes:
            raise ValueError(f"`hue` must be numbers where `y` is an axis; it may be {', '.join(numbers)}.")
        return _Roles(x, y, hue or numbers[0], "", _last(data, free, x, y))
    if hue in numbers:
        raise ValueError(f"`hue` must be an axis where `y` is none; it may be {', '.join(axes)}.")
    hue = hue or (free.pop(0) if free else "")
    return _Roles(x, "", y or numbers[0], hue, _last(data, free, x, hue))


def _is_drawn(name: Any, one: Any, data: Any, axes: list[str]) -> bool:
    dims = {_dim(data, axis) for axis in axes}
    return name not in _TOLD and one.dtype.kind in "iufb" and bool(one.dims) and set(one.dims) <= dims


def _last(data: Any, free: list[str], *drawn: str) -> str:
    """The axis that is left, for panels."""
    free = [name for k, name in enumerate(free) if _dim(data, name) not in [_dim(data, n) for n in free[:k]]]
    if len(free) > 1 or (free and data.sizes[_dim(data, free[0])] > MOST_PANELS):
        chosen = ", ".join(f"{name!r}: 0" for name in free)
        raise ValueError(
            f"`result` must have at most one axis of {MOST_PANELS} values beside "
            f"{', '.join(filter(None, drawn))}; it has {', '.join(free)}. Choose values, "
            f"dataset.isel({{{chosen}}}), or take a mean, dataset.mean({free[-1]!r}, numeric_only=True)."
        )
    return free[0] if free else ""


def _dim(data: Any, name: str | None) -> Any:
    """The dimension along which a parameter varies."""
    return data[name].dims[0] if name in data.coords and data[name].ndim else name


def _heat_map(figure: Figure, axis: Axes, data: Any, roles: _Roles, shown: list[float]) -> None:
    from matplotlib.colors import LogNorm, Normalize

    dims = _dim(data, roles.y), _dim(data, roles.x)
    values = np.asarray(data[roles.values].transpose(*dims).values, dtype=float)
    (x, y), ends = (
        (_places(data, name) for name in (roles.x, roles.y)),
        (min(shown, default=0), max(shown, default=1)),
    )
    norm = (LogNorm if _is_wide(shown) else Normalize)(*ends)
    order = np.argsort(x), np.argsort(y)
    x, y, values = x[order[0]], y[order[1]], values[np.ix_(order[1], order[0])]
    edges = _edges(data, roles.x, x), _edges(data, roles.y, y)
    image = axis.pcolormesh(*edges, np.ma.masked_invalid(values), norm=norm, rasterized=True)
    axis.set_facecolor("0.85")  # where there is no number
    axis.grid(False)
    figure.colorbar(image, ax=axis, label=_label(data, roles.values))
    _border(axis, data, roles, x, y, order)
    for name, setter in ((roles.x, "x"), (roles.y, "y")):
        _dress(axis, data, name, setter)


def _edges(data: Any, name: str, places: np.ndarray) -> np.ndarray:
    """Where cells around these places begin and end: half way to the next, on the axis's own scale."""
    values = data[name].values
    wide = values.dtype.kind in "iuf" and _is_wide(values)
    at = np.log(places) if wide else places
    if len(at) == 1:
        found = at[0] + np.array([-0.5, 0.5])
    else:
        middles = 0.5 * (at[1:] + at[:-1])
        found = np.concatenate([[2 * at[0] - middles[0]], middles, [2 * at[-1] - middles[-1]]])
    return np.exp(found) if wide else found


def _border(axis: Axes, data: Any, roles: _Roles, x: np.ndarray, y: np.ndarray, order: Any) -> None:
    """The boundary: the one that was refined, or where points stop being stable."""
    for along, across in ((roles.y, roles.x), (roles.x, roles.y)):
        name = f"{along}_boundary"
        if name in data and set(data[name].dims) <= {_dim(data, across)}:
            values = np.broadcast_to(data[name].values, data[across].shape)[np.argsort(_places(data, across))]
            line = (np.sort(_places(data, across)), values)
            axis.plot(*(line if along == roles.y else line[::-1]), "k-", lw=1.8)
            return
    if min(len(x), len(y)) < 2:
        return
    dims = _dim(data, roles.y), _dim(data, roles.x)
    told = {str(name): one for name, one in data.data_vars.items() if set(one.dims) == set(dims)}
    sides = [one.values for one in (o.transpose(*dims) for o in told.values()) if one.dtype.kind == "b"]
    if "status" in told:
        sides.append(told["status"].transpose(*dims).values != "unstable")
    stable = np.all(sides, axis=0)[np.ix_(order[1], order[0])] if sides else np.array(True)
    if stable.any() and not stable.all():
        axis.contour(x, y, stable.astype(float), levels=[0.5], colors="k", linewidths=1.8)


def _lines(axis: Axes, data: Any, roles: _Roles, shown: list[float]) -> None:
    across = _dim(data, roles.hue) if roles.hue else None
    x = _places(data, roles.x)
    order = np.argsort(x)
    for (place, style), mark in zip(_styles(data, roles.hue), itertools.cycle(MARKS), strict=False):
        part = data[roles.values] if place is None else data[roles.values].isel({across: place})
        values = np.asarray(part.values, dtype=float)
        axis.plot(x[order], values[order], marker=mark, ms=4, **style)
    _dress(axis, data, roles.x, "x")
    axis.set_ylabel(_label(data, roles.values))
    if _is_wide(shown):
        axis.set_yscale("log")
    if roles.hue:
        axis.legend(title=_label(data, roles.hue), fontsize=8)


def _styles(data: Any, hue: str) -> Iterator[tuple[int | None, dict[str, Any]]]:
    """A line for each value of an axis: methods in their own colours, numbers along a scale."""
    if not hue:
        yield None, {"color": COLORS["SFN"]}
        return
    values = data[hue].values
    from matplotlib import colormaps

    others = itertools.cycle(color for name, color in COLORS.items() if name not in values)
    for place, value in enumerate(values):
        if values.dtype.kind in "iuf":
            color: Any = colormaps["cividis"](0.9 * place / max(1, len(values) - 1))
        else:
            color = COLORS.get(str(value)) or next(others)
        yield place, {"color": color, "label": _value(value)}


def _places(data: Any, name: str) -> np.ndarray:
    """Where an axis's values lie: numbers where they are, names one after the other."""
    values = data[name].values
    return values.astype(float) if values.dtype.kind in "iuf" else np.arange(float(len(values)))


def _dress(axis: Axes, data: Any, name: str, which: str) -> None:
    """Label, scale and ticks of an axis."""
    values = data[name].values
    getattr(axis, f"set_{which}label")(_label(data, name))
    if values.dtype.kind not in "iuf":
        getattr(axis, f"set_{which}ticks")(range(len(values)), [_value(value) for value in values])
    elif _is_wide(values):
        getattr(axis, f"set_{which}scale")("log")


def _is_wide(values: Any) -> bool:
    values = np.asarray(values, dtype=float)
    return bool(values.size and values.min() > 0 and values.max() >= WIDE * values.min())


def _label(data: Any, name: str) -> str:
    """The long name and the unit."""
    about = data[name].attrs
    unit = about.get("units", "1")
    return about.get("long_name", name) + (f" ({unit})" if unit != "1" else "")


def _short(data: Any, name: str) -> str:
    long = _label(data, name)
    return long if len(long) <= 20 else name


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, (float, np.floating)) else str(value)
