"""Pictures of the noise along a path."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from .._saving import Study
from ..linear.trust import VALID
from ..trajectories.result import Trajectory
from .style import COLORS, MARKERS, SIZES, coordinates, handle, method_legend, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


MEASURED = "#CC3377"


def trajectory(result: Trajectory) -> Figure:
    """The path with its tube; below, spread, amplification, growth and validity against time."""
    figure, axes = panels(2, 4, 2.5, 2.3)
    color = next(
        (COLORS[name] for name in sorted(COLORS, key=len, reverse=True) if result.method.startswith(name)),
        "C0",
    )
    dim = result.mean.shape[1]
    top = _stretched(axes[0], 3 if dim == 2 else min(dim, 4))
    if dim == 2:
        _plane(top.pop(0), result, color)
    for i, axis in enumerate(top):
        _tube(axis, result, i, color)
    top[0].legend()
    labels = (
        r"spread $\sqrt{\mathrm{tr}\,S}$",
        "noise let in, over SGD's",
        "fastest growth of a deviation",
        "validity (trusted below 0.1)",
    )
    rows = (result.spread, result.amplification, result.growth, result.validity)
    for axis, values, label in zip(axes[1], rows, labels, strict=True):
        axis.plot(result.times, values, color=color)
        axis.set(xlabel=r"$t = k\alpha$", ylabel=label)
    axes[1, 2].axhline(0, color="0.5", lw=0.8)
    axes[1, 3].axhline(VALID, color="0.5", lw=0.8, ls="--")
    figure.suptitle(
        "\n".join(textwrap.wrap(f"{result.method}, {result.told_step}: {result.status}", 150)[:3]),
        fontsize=9,
    )
    figure.set_layout_engine("constrained", w_pad=0.1)
    return figure


def _stretched(row: np.ndarray, count: int) -> list[Axes]:
    """The last `count` axes of a row, the first of them in place of those that go."""
    kept, grid = row[len(row) - count :], row[0].get_gridspec()
    # A wide first panel in place of two: a path in the plane needs the room.
    kept[0].set_subplotspec(grid[0, : len(row) - count + 1])
    for axis in row[: len(row) - count]:
        axis.remove()
    return list(kept)


def _ellipse(mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Points (2, 65) two standard deviations around a mean."""
    values, vectors = np.linalg.eigh(covariance)
    angle = np.linspace(0, 2 * np.pi, 65)
    return mean[:, None] + 2 * (vectors * np.sqrt(np.maximum(values, 0.0))) @ np.array(
        [np.cos(angle), np.sin(angle)]
    )


def _plane(axis: Axes, result: Trajectory, color: str) -> None:
    """A path in the plane with some of its ellipses."""
    axis.plot(*result.mean.T, color=color)
    for i in np.unique(np.linspace(0, len(result.mean) - 1, 12).round().astype(int)):
        axis.plot(*_ellipse(result.mean[i], result.covariance[i]), color=color, lw=0.8, alpha=0.7)
    x, y = coordinates(result.provenance, 2)
    axis.set(xlabel=x, ylabel=y)


def _tube(axis: Axes, result: Trajectory, i: int, color: str) -> None:
    """Coordinate `i` against time, with two standard deviations."""
    mean, spread = result.mean[:, i], np.sqrt(result.covariance[:, i, i])
    axis.plot(result.times, mean, color=color, label="mean")
    axis.fill_between(
        result.times, mean - 2 * spread, mean + 2 * spread, color=color, alpha=0.2, label=r"$\pm 2$ sd"
    )
    axis.set(xlabel=r"$t = k\alpha$", ylabel=coordinates(result.provenance, result.mean.shape[1])[i])


def _study(study: Study) -> Figure:
    figure, axes = panels(2, 3, 3.7, 3.0)
    names, p = study["methods"], study.parameters
    for m, (name, axis) in enumerate(zip(names, axes[0], strict=False)):
        axis.plot(*study["fine_mean"][m].T, color=COLORS[name], lw=1)
        for k in range(len(study["times"])):
            axis.plot(*_ellipse(study["mean"][m, k], study["covariance"][m, k]), color=COLORS[name], lw=1)
            axis.plot(
                *_ellipse(study["measured_mean"][m, k], study["measured_covariance"][m, k]),
                color=MEASURED,
                lw=1,
                ls=":",
            )
        axis.set(xlabel="$w_1$", ylabel="$w_2$", title=name, xlim=(0.0, 1.4), ylim=(-0.15, 1.1))
    for m, name in enumerate(names):
        axes[1, 0].plot(study["fine_times"], study["fine_amplification"][m], color=COLORS[name])
        axes[1, 1].plot(study["fine_times"], study["fine_validity"][m], color=COLORS[name])
        axes[1, 1].plot(
            study["times"],
            np.maximum(study["shift"][m], 1e-3),
            MARKERS[name],
            color=COLORS[name],
            ms=SIZES[name],
        )
        value, error = study["errors"][m].T
        slope, own = study["slopes"][m]
        label = rf"{name}: slope {slope:.2f} $\pm$ {own:.2f}"
        axes[1, 2].errorbar(
            study["steps"],
            value,
            2 * error,
            fmt=MARKERS[name],
            color=COLORS[name],
            ms=SIZES[name],
            lw=0.9,
            label=label,
        )
        # Slope one through the measurement at the smallest step.
        axes[1, 2].plot(
            study["steps"], value[-1] * study["steps"] / study["steps"][-1], color=COLORS[name], lw=0.8
        )
    axes[1, 0].set(xlabel=r"$t = k\alpha$", ylabel="noise let in, over SGD's", yscale="log")
    axes[1, 1].axhline(VALID, color="0.5", lw=0.8, ls="--")
    axes[1, 1].set(
        xlabel=r"$t = k\alpha$", ylabel="validity; departure as a shift [sd]", yscale="log", ylim=(1e-3, 5)
    )
    axes[1, 2].set(
        xscale="log",
        yscale="log",
        xlabel=r"step $\alpha$",
        ylabel=rf"relative error of $S$ at $t = {p['early']:g}$",
    )
    axes[1, 2].set_xticks(study["steps"], [f"{step:g}" for step in study["steps"]])
    axes[1, 2].minorticks_off()
    axes[1, 2].legend(fontsize=7, loc="upper left")
    extra = [
        handle(color="0.3", lw=1, label="predicted, 2 sd"),
        handle(color=MEASURED, ls=":", lw=1, label="measured, 2 sd"),
    ]
    method_legend(figure, names, [*extra, handle(color="0.3", marker="o", ls="", label="measured departure")])
    figure.set_layout_engine("constrained", w_pad=0.1)
    figure.suptitle(
        rf"Noise along a path from beside a saddle: coupled quartic, $\alpha = {p['step']:g}$, $\sigma = "
        rf"{p['sigma']:g}$",
        fontsize=10,
    )
    return figure


STUDIES: dict[str, Callable[[Study], Figure]] = {"trajectory": _study}
