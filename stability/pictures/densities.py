"""Pictures of stationary densities."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from .._saving import Study
from ..densities.result import StationaryDensity
from .style import COLORS, MARKERS, SIZES, coordinates, handle, method_legend, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DEPTH = 16.0  # of the effective potential that is shown: exp(-16) of the largest density


def density(result: StationaryDensity) -> Figure:
    """On a line potentials, drift with noise, and density; in a plane the density with its current."""
    return _line(result) if result.dim == 1 else _plane(result)


def _line(result: StationaryDensity) -> Figure:
    figure, axes = panels(1, 3, 3.3, 2.8)
    (x,), color = result.centers, COLORS["SFN"]
    shown = result.effective_potential < _DEPTH
    potential, drift, heights = axes[0]
    potential.plot(
        x,
        np.where(shown, result.effective_potential, np.nan),
        color=color,
        label=r"$-\log p$, from its minimum",
    )
    (name,) = coordinates(result.provenance, 1)
    potential.set(xlabel=name, ylabel=r"effective potential")
    if np.isfinite(result.potential).any():
        other = potential.twinx()
        other.plot(x, np.where(shown, result.potential, np.nan), color="0.5", ls="--")
        other.set_ylabel("objective (dashed)")
    drift.plot(x, np.where(shown, result.drift[:, 0], np.nan), color=color, label="drift $f$")
    spread = np.sqrt(result.diffusion[:, 0, 0])
    drift.plot(x, np.where(shown, spread, np.nan), color=COLORS["Newton"], label=r"noise $\sqrt{D}$")
    drift.axhline(0, color="0.5", lw=0.8)
    drift.set(xlabel=name)
    drift.legend()
    heights.fill_between(x, result.density, color=color, alpha=0.25)
    heights.plot(x, result.density, color=color)
    heights.set(xlabel=name, ylabel="density", ylim=(0, None))
    _title(figure, result)
    return figure


def _plane(result: StationaryDensity) -> Figure:
    figure, axes = panels(1, 1, 4.6, 4.0)
    axis, (x, y) = axes[0, 0], result.centers
    first, second = result.edges.values()
    mesh = axis.pcolormesh(first, second, result.density.T, cmap="Blues", rasterized=True)
    figure.colorbar(mesh, ax=axis, label="density")
    size = np.linalg.norm(result.current, axis=-1)
    carried = np.linalg.norm(result.drift, axis=-1) * result.density
    # What is left of balance is the grid's error.
    if size.max() > 1e-2 * carried[np.isfinite(carried)].max(initial=0.0):
        strength = 0.3 + 1.7 * size.T / size.max()
        axis.streamplot(
            x,
            y,
            result.current[..., 0].T,
            result.current[..., 1].T,
            color=COLORS["Newton"],
            linewidth=strength,
            density=0.9,
            arrowsize=0.8,
        )
        axis.legend(handles=[handle(color=COLORS["Newton"], label="current")], loc="upper right")
    across, up = coordinates(result.provenance, 2)
    axis.set(xlabel=across, ylabel=up, xlim=(first[0], first[-1]), ylim=(second[0], second[-1]))
    _title(figure, result)
    return figure


def _title(figure: Figure, result: StationaryDensity) -> None:
    law = "continuous time" if result.time == "continuous" else f"Euler-Maruyama chain, dt = {result.dt:g}"
    doubt = "" if result.status == "ok" else "; read the status"
    figure.suptitle(
        f"Stationary density, {law}{', with its current' if result.dim == 2 else ''}{doubt}", fontsize=10
    )


def _study(study: Study) -> Figure:
    figure, axes = panels(2, 2, 4.2, 3.0)
    _drifts(axes[0, 0], study)
    _potentials(axes[0, 1], study)
    _histograms(axes[1, 0], study)
    _times(axes[1, 1], study)
    extra = [
        handle(color="0.3", lw=1, label="chain (left); exact (right)"),
        handle(color="0.3", ls=":", lw=1.2, label="continuous time (left); Kramers (right)"),
    ]
    method_legend(figure, study["methods"], extra)
    p = study.parameters
    damped = rf"SFN $\gamma = {p['damping']:g}$, damped Newton $\gamma = {p['large_damping']:g}$"
    figure.suptitle(
        rf"Double well, equal step $\alpha = {p['step']:g}$ and gradient noise; {damped}", fontsize=10
    )
    return figure


def _drifts(axis: Axes, study: Study) -> None:
    for m, name in enumerate(study["methods"]):
        axis.plot(
            study["x"], np.where(np.abs(study["drift"][m]) < 3, study["drift"][m], np.nan), color=COLORS[name]
        )
    axis.axhline(0, color="0.5", lw=0.8)
    axis.set(xlim=(-1.7, 1.7), ylim=(-2, 2), xlabel="$x$", ylabel="drift $-P F'$")


def _potentials(axis: Axes, study: Study) -> None:
    for m, name in enumerate(study["methods"]):
        with np.errstate(divide="ignore"):
            level = -np.log(study["density"][m])
        axis.plot(study["x"], level - level.min(), color=COLORS[name])
    axis.set(xlim=(-1.7, 1.7), ylim=(-0.3, 12), xlabel="$x$", ylabel=r"effective potential $-\log p$")


def _histograms(axis: Axes, study: Study) -> None:
    bins = study["bins"]
    for m, counts in enumerate(study["counts"]):
        name = study["methods"][m]
        total = study.parameters["paths"] * np.diff(bins)
        axis.plot(study["x"], study["chain_density"][m], color=COLORS[name], lw=1)
        axis.plot(study["x"], study["density"][m], color=COLORS[name], ls=":", lw=1.2)
        filled = counts > 0
        # A count's standard deviation is its root.
        height, error = (counts / total)[filled], (2 * np.sqrt(counts) / total)[filled]
        middle = (0.5 * (bins[1:] + bins[:-1]))[filled]
        axis.errorbar(
            middle,
            height,
            # On a logarithmic axis a bar must not reach zero.
            [np.minimum(error, 0.9 * height), error],
            fmt=MARKERS[name],
            color=COLORS[name],
            ms=0.6 * SIZES[name],
            lw=0.7,
        )
    axis.set(yscale="log", xlim=(-1.7, 1.7), ylim=(1e-4, 10), xlabel="$x$", ylabel="density")


def _times(axis: Axes, study: Study) -> None:
    inverse = 1 / study["noise"]
    for m in range(len(study["log_time"])):
        name = study["methods"][m]
        axis.plot(inverse, np.exp(study["log_time"][m]), color=COLORS[name], lw=1)
        axis.plot(inverse, np.exp(study["log_kramers"][m]), color=COLORS[name], ls=":", lw=1.2)
        value, error, _ = study["measured"][m].T
        axis.errorbar(inverse, value, 2 * error, fmt=MARKERS[name], color=COLORS[name], ms=3.5, lw=0.9)
    axis.set(
        xlim=(0, 21),
        ylim=(1, 1e7),
        yscale="log",
        xlabel=r"$1/(\alpha\sigma^2)$",
        ylabel="mean time from $-1$ to $1$",
    )


STUDIES: dict[str, Callable[[Study], Figure]] = {"density": _study}
