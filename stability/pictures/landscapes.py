"""Pictures of landscapes and of what methods do on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from .._saving import Study
from ..portraits.line import Profile
from ..portraits.plane import FATES, Portrait
from .style import COLORS, coordinates, handle, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

BASINS = ("#cfe3f3", "#fbe3c2", "#d3ecd9", "#f3d9e6", "#e4dcf1", "#f6f2bd")
FATE_COLORS = {-1: "#f2f2f2", -2: "#bdbdbd", -3: "#ffffff", -4: "#5a5a5a"}
POINTS: dict[str, dict[str, Any]] = {
    "attracts": {"marker": "o", "color": "#0072B2"},
    "passes": {"marker": "X", "color": "#D55E00"},
    "repels": {"marker": "^", "color": "#D55E00"},
    "flat": {"marker": "s", "color": "#E69F00"},
    "singular": {"marker": "*", "color": "#000000"},
}
"""Critical points by what a method does to them: colour and shape say the same."""
TOLD = {
    "attracts": "critical point that attracts",
    "passes": "passes: in one way, out another",
    "repels": "critical point that repels",
    "flat": "flat critical point",
    "singular": "singular: infinite gain",
}
PATH = "#CC3377"
KINDS = {"minimum": "o", "maximum": "^"}


def portrait(result: Portrait) -> Figure:
    """A panel for each method: basins, level sets, flow lines, sample paths, and critical points."""
    columns = min(len(result.methods), 3)
    rows = -(-len(result.methods) // columns)
    figure, axes = panels(rows, columns, 3.1, 3.1, sharex=True, sharey=True)
    x, y = coordinates(result.provenance, 2)
    for m, axis in enumerate(axes.ravel()):
        if m < len(result.methods):
            _panel(axis, result, m)
            axis.set_xlabel(x)
        else:
            axis.set_axis_off()
    for axis in axes[:, 0]:
        axis.set_ylabel(y)
    _explain(figure, axes.ravel()[len(result.methods) :], _legend(result))
    figure.suptitle(
        result.objective if len(result.objective) <= 90 else result.objective[:87] + "...", fontsize=9
    )
    return figure


def _explain(figure: Figure, free: np.ndarray, entries: list[Line2D]) -> None:
    """A legend in a place that no panel takes, or below all."""
    if len(free):
        free[0].legend(handles=entries, loc="center", fontsize=8)
    else:
        figure.legend(handles=entries, loc="outside lower center", ncol=3, fontsize=8)


def _legend(result: Portrait) -> list[Line2D]:
    """What colours and marks mean, of those that are there."""
    patch = {"ls": "", "marker": "s", "ms": 8, "mec": "0.6"}
    entries = [
        handle(ls="", ms=6, label=TOLD[name], **POINTS[name])
        for name in POINTS
        if (result.attracts == name).any()
    ]
    reached = [k for k in range(len(result.points)) if (result.basins == k).any()]
    # More points than colours: a colour comes again, and no list could tell them apart.
    if len(reached) > len(BASINS):
        entries.append(handle(**patch, color=BASINS[0], label="colours: to the point among them"))
        reached = []
    for k in reached:
        at = ", ".join(f"{0.0 if abs(x) < 1e-9 else x:.3g}" for x in result.points[k])
        entries.append(handle(**patch, color=BASINS[k % len(BASINS)], label=f"leads to ({at})"))
    entries += [
        handle(**patch, color=FATE_COLORS[end], label=FATES[end])
        for end in FATES
        if (result.basins == end).any()
    ]
    crossing = any(result.provenance.get("remembered", ()))
    entries += [
        handle(color="0.25", lw=0.8, label="flow lines" + (", from rest: may cross" if crossing else "")),
        handle(color="0.6", lw=0.6, label="level sets"),
    ]
    if result.paths.shape[2]:
        what = "the SDE" if result.provenance.get("level") == "sde" else "the iteration"
        entries += [
            handle(color=PATH, lw=1, label=f"noisy paths of {what}"),
            handle(ls="", marker="D", color="white", mec="k", ms=5, label="where they start"),
        ]
    return entries


def _panel(axis: Axes, result: Portrait, m: int) -> None:
    from matplotlib.colors import BoundaryNorm, ListedColormap

    colors = [FATE_COLORS[end] for end in (-4, -3, -2, -1)] + [
        BASINS[k % len(BASINS)] for k in range(max(len(result.points), 1))
    ]
    # The basins' numbers, from -4 on, one colour each: the edges are the halves between them.
    norm = BoundaryNorm(np.arange(-4.5, len(colors) - 3.5), len(colors))
    axis.pcolormesh(
        result.x,
        result.y,
        result.basins[m],
        cmap=ListedColormap(colors),
        norm=norm,
        shading="nearest",
        rasterized=True,
    )
    finite = result.values[np.isfinite(result.values)]
    # By quantiles of the values: level sets fill the panel evenly, however steep the walls are.
    levels = np.unique(np.quantile(finite, np.linspace(0, 1, 18)[1:-1])) if len(finite) else np.zeros(0)
    if len(levels) > 1:
        axis.contour(result.x, result.y, result.values, levels=levels, colors="0.45", linewidths=0.4)
    _lines(axis, result, m)
    for path in np.moveaxis(result.paths[m], 1, 0):
        axis.plot(path[:, 0], path[:, 1], color=PATH, lw=0.9, alpha=0.9)
    if result.paths.shape[2]:
        axis.plot(*result.start, "D", color="white", mec="k", ms=5)
    for point, told in zip(result.points, result.attracts[m], strict=True):
        axis.plot(*point, ls="", ms=7, mec="white", mew=0.8, **POINTS[str(told)])
    axis.set(
        xlim=(result.x[0], result.x[-1]),
        ylim=(result.y[0], result.y[-1]),
        title=str(result.methods[m]),
    )


def _lines(axis: Axes, result: Portrait, m: int) -> None:
    """Flow lines, each with an arrow near its start."""
    from matplotlib.collections import LineCollection

    lines = [line[np.isfinite(line).all(axis=1)] for line in np.moveaxis(result.lines[m], 1, 0)]
    axis.add_collection(LineCollection(lines, colors="0.25", linewidths=0.5), autolim=False)
    long = [line for line in lines if len(line) > 6]
    if long:
        # Near the start, and not at it: a direction needs a point on either side.
        at, ahead = np.array([line[5] for line in long]), np.array([line[6] - line[4] for line in long])
        ahead = ahead / np.maximum(np.linalg.norm(ahead, axis=1, keepdims=True), 1e-300)
        axis.quiver(
            *at.T,
            *ahead.T,
            color="0.25",
            angles="xy",
            scale=60,
            width=0.002,
            headwidth=9,
            headlength=11,
            headaxislength=10,
            minlength=0,
            pivot="mid",
        )


def profile(result: Profile) -> Figure:
    """The objective with its critical points, each method's drift, and its density by both witnesses."""
    columns = len(result.methods)
    figure, axes = panels(3, columns, max(2.2, min(3.6, 9.3 / columns)), 1.9, sharex=True)
    (x,) = coordinates(result.provenance, 1)
    for m, (top, middle, bottom) in enumerate(axes.T):
        color = COLORS.get(str(result.methods[m]), COLORS["SFN"])
        top.plot(result.x, result.values, color="0.3")
        inside = np.interp(result.points, result.x, result.values)
        for kind, at, value in zip(result.kinds, result.points, inside, strict=True):
            top.plot(at, value, KINDS.get(str(kind), "s"), color="k", ms=5)
        _drift(middle, result, m, color)
        total = result.counts[m].sum() + result.outside[m]
        bottom.stairs(
            result.counts[m] / (total * np.diff(result.edges)),
            result.edges,
            fill=True,
            color="0.8",
            label="paths, at the end",
        )
        bottom.plot(result.x, result.density[m], color=color, label="stationary density (Fokker-Planck)")
        told = (
            ""
            if np.isnan(result.variation[m, 0])
            else f"\ntotal variation {result.variation[m, 0]:.2g}, {result.variation[m, 1]:.2g} by chance"
        )
        top.set(title=str(result.methods[m]))
        bottom.set(xlabel=x + told, ylim=(0, None))
    for axis, label in zip(axes[:, 0], ("objective $F$", "drift $-P\\,g$", "density"), strict=True):
        axis.set_ylabel(label)
    entries = [
        handle(ls="", marker=KINDS.get(kind, "s"), color="k", ms=5, label=kind)
        for kind in dict.fromkeys(map(str, result.kinds))
    ]
    entries += axes[2, 0].get_legend_handles_labels()[0]
    figure.legend(handles=entries, loc="outside lower center", ncol=len(entries), fontsize=8)
    figure.suptitle(
        result.objective if len(result.objective) <= 90 else result.objective[:87] + "...", fontsize=9
    )
    return figure


def _drift(axis: Axes, result: Profile, m: int, color: str) -> None:
    """A method's drift, cut off where it grows beyond all others'."""
    finite = np.abs(result.drift[m][np.isfinite(result.drift[m])])
    # A quantile, for beside a pole the largest drift is a matter of the grid.
    largest = 3 * float(np.quantile(finite, 0.9)) if len(finite) else 1.0
    axis.plot(result.x, np.where(np.abs(result.drift[m]) <= largest, result.drift[m], np.nan), color=color)
    axis.axhline(0, color="0.5", lw=0.8)


def _portrait(study: Study) -> Figure:
    fields: dict[str, Any] = {name: study.parameters[name] for name in ("objective", "status")} | dict(
        study.arrays
    )
    about = {"level": study.parameters.get("level", "iteration")}  # what older studies' paths are of
    return portrait(Portrait(**fields, provenance=about | dict(study.provenance)))


STUDIES: dict[str, Callable[[Study], Figure]] = {"portrait": _portrait}
