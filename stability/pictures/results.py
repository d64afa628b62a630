"""Pictures of the linear theory, of ensembles, and of one held against the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..comparison import Comparison
from ..ensembles.result import Ensemble
from ..linear.bounds import Bounds
from ..linear.result import LinearFlow
from .style import COLORS, coordinates, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def linear_flow(result: LinearFlow) -> Figure:
    """Gains and rates against curvature."""
    figure, axes = panels(1, 2, 4.0, 3.0)
    magnitude = np.abs(result.eigenvalues)
    negative = result.eigenvalues < 0
    for axis, values, label in zip(
        axes[0],
        (result.gains, result.rates),
        (r"gain $\varphi_i$", r"rate $a_i = -\varphi_i\lambda_i$"),
        strict=True,
    ):
        axis.plot(magnitude[~negative], values[~negative], "o", color=COLORS["SFN"], label=r"$\lambda > 0$")
        if negative.any():
            axis.plot(
                magnitude[negative], values[negative], "s", color=COLORS["Newton"], label=r"$\lambda < 0$"
            )
        axis.set(xscale="log" if (magnitude > 0).all() else "linear", xlabel=r"$|\lambda_i|$", ylabel=label)
    axes[0, 0].set_yscale("log" if (result.gains > 0).all() else "symlog")
    axes[0, 1].axhline(0, color="0.5", lw=0.8)
    axes[0, 0].legend()
    figure.suptitle(
        f"{result.flow.method.name}, step {result.flow.step:g}, validity {result.validity:.2g}", fontsize=10
    )
    return figure


def bounds(result: Bounds) -> Figure:
    """Every method's step limit and noise amplification; hollow where the row is no bound."""
    figure, axes = panels(1, 2, 4.4, 0.8 + 0.32 * len(result.rows))
    places = np.arange(len(result.rows))[::-1]
    for axis, names, label in zip(
        axes[0],
        (("step_limit", "step_limit_L2"), ("amplification",)),
        (r"largest stable step $\alpha$", "noise amplification over SGD"),
        strict=True,
    ):
        for name, marker, order in zip(names, "os", ("first order", "second order (L2)"), strict=False):
            values = np.array([getattr(row, name) for row in result.rows])
            for valid in (True, False):
                drawn = np.array([row.valid is valid for row in result.rows]) & np.isfinite(values)
                axis.plot(
                    values[drawn],
                    places[drawn],
                    marker,
                    color=COLORS["SFN"] if marker == "o" else COLORS["Newton"],
                    fillstyle="full" if valid else "none",
                    label=order if valid and len(names) > 1 else None,
                )
        axis.set(xlabel=label, xscale="log", ylim=(-0.6, len(places) - 0.4), yticks=places)
    axes[0, 0].axvline(result.step, color="0.6", lw=0.8, label="step asked for")
    axes[0, 0].set_yticklabels([row.method for row in result.rows])
    axes[0, 1].set_yticklabels([])
    axes[0, 0].legend()
    if not all(row.valid for row in result.rows):
        figure.suptitle("hollow: the linearisation is not to be trusted as a bound", fontsize=9)
    return figure


def ensemble(result: Ensemble) -> Figure:
    """Paths with mean and spread, or the final states' density."""
    # Where only moments were kept there is no path to draw.
    kept = result.states[:, ~result.diverged] if result.states.shape[1] else result.states
    figure, axes = panels(1, min(kept.shape[-1], 4), 3.0, 2.6)
    draw = _paths if len(result.times) > 1 else _last_density
    for i, axis in enumerate(axes[0]):
        draw(axis, result, kept, i)
    if len(result.times) > 1:
        axes[0, 0].legend()
    lost = int(result.diverged.sum())
    steps = f"dt = {result.dt:g}" if result.dt > 0 else "steps of a schedule"
    averaged = "" if result.average is None else f", averaged with decay {result.average:g}"
    figure.suptitle(
        f"{len(result.diverged)} paths, {result.level}, {steps}{averaged}"
        + (f"; {lost} diverged, not drawn" if lost else ""),
        fontsize=10,
    )
    return figure


def _paths(axis: Axes, result: Ensemble, kept: np.ndarray, i: int) -> None:
    """Coordinate `i` against time: paths, mean and spread."""
    for k, path in enumerate(kept[:, :40, i].T):
        axis.plot(result.times, path, color="0.75", lw=0.5, label=None if k else "paths")
    axis.plot(result.times, result.mean[:, i], color=COLORS["SFN"], label="mean")
    spread = np.sqrt(result.covariance[:, i, i])
    axis.fill_between(
        result.times,
        result.mean[:, i] - 2 * spread,
        result.mean[:, i] + 2 * spread,
        color=COLORS["SFN"],
        alpha=0.2,
        label=r"$\pm 2$ sd",
    )
    axis.set(xlabel=r"$t = k\alpha$", ylabel=coordinates(result.provenance, result.mean.shape[-1])[i])


def _last_density(axis: Axes, result: Ensemble, kept: np.ndarray, i: int) -> None:
    """Coordinate `i` at the only time kept: the paths' histogram, or the Gaussian of the moments."""
    if kept.shape[1]:
        axis.hist(kept[-1, :, i], bins=60, density=True, color=COLORS["SFN"], alpha=0.7)
    elif result.covariance[-1, i, i] > 0:
        curve = _gaussian(result.mean[-1, i], result.covariance[-1, i, i])
        axis.plot(*curve, color=COLORS["SFN"], label="Gaussian, same moments")
        axis.legend()
    axis.set(xlabel=coordinates(result.provenance, result.mean.shape[-1])[i], ylabel="density")


def comparison(result: Comparison) -> Figure:
    """Measured against predicted moments, their z-scores, and the last time's predicted density."""
    from .figure import Picture

    drawn = len(result.counts)
    figure = Picture(figsize=(9.0, 5.4 if drawn else 3.0), layout="constrained")
    grid = figure.add_gridspec(2 if drawn else 1, 1)
    *moments, scores = grid[0].subgridspec(1, 3).subplots(squeeze=False)[0]
    rows, columns = np.triu_indices(result.mean_z.shape[1])
    parts = (
        ("mean", result.predicted_mean, result.measured_mean, result.standard_error),
        (
            "covariance",
            result.predicted_covariance[:, rows, columns],
            result.measured_covariance[:, rows, columns],
            result.covariance_error[:, rows, columns],
        ),
    )
    for axis, (name, predicted, measured, error) in zip(moments, parts, strict=True):
        # Two standard errors: where theory is right about 95 % of the bars reach the line.
        axis.errorbar(
            predicted.ravel(), measured.ravel(), 2 * error.ravel(), fmt="o", ms=3, lw=0.8, color=COLORS["SFN"]
        )
        ends = [min(predicted.min(), measured.min()), max(predicted.max(), measured.max())]
        axis.plot(ends, ends, color="0.4", lw=0.8, label="equal")
        axis.set(xlabel=f"predicted {name}", ylabel=r"measured $\pm 2$ s.e.")
        axis.locator_params(nbins=5)
        axis.legend()
    _z_scores(scores, result.mean_z, result.covariance_z[:, rows, columns])
    densities = grid[1].subgridspec(1, drawn).subplots(squeeze=False)[0] if drawn else []
    for i, axis in enumerate(densities):
        _predicted_density(axis, result, i)
    figure.suptitle(f"{result.law}; largest |z| = {result.max_z:.2f}", fontsize=10)
    return figure


def _z_scores(axis: Axes, mean: np.ndarray, covariance: np.ndarray) -> None:
    """z of every moment at every time, the last one's filled; by chance 95 % lie within the band."""
    axis.axhspan(-2, 2, color="0.92", lw=0, label=r"$|z| < 2$")
    axis.axhline(0, color="0.5", lw=0.8)
    begin = 0
    for name, z, color in (("mean", mean, "SFN"), ("covariance", covariance, "Newton")):
        at = np.arange(begin, begin + z.shape[1]) + 1
        axis.plot(
            np.broadcast_to(at, z.shape)[:-1].ravel(),
            z[:-1].ravel(),
            "o",
            mfc="none",
            ms=3,
            color=COLORS[color],
        )
        axis.plot(at, z[-1], "o", ms=4, color=COLORS[color], label=name)
        begin += z.shape[1]
    axis.set(
        xlabel="moment, in the table's order", ylabel="z" + (" (last time filled)" if len(mean) > 1 else "")
    )
    finite = np.abs(np.concatenate([mean.ravel(), covariance.ravel()]))
    # Room above the points for the legend, and the band never fills the panel.
    reach = 1.4 * max(3.0, float(np.max(finite[np.isfinite(finite)], initial=0.0)))
    axis.set(ylim=(-reach, reach), xticks=np.arange(1, begin + 1) if begin <= 12 else [])
    axis.legend(ncol=3, loc="upper center", columnspacing=1.0, handletextpad=0.4)


def _predicted_density(axis: Axes, result: Comparison, i: int) -> None:
    """The paths' histogram of coordinate `i` at the last time, below the predicted Gaussian."""
    edges, counts = result.edges[i], result.counts[i]
    axis.stairs(
        counts / (counts.sum() * np.diff(edges)),
        edges,
        fill=True,
        color=COLORS["SFN"],
        alpha=0.4,
        label="paths",
    )
    mean, variance = result.predicted_mean[-1, i], result.predicted_covariance[-1, i, i]
    if variance > 0:
        axis.plot(*_gaussian(mean, variance), color=COLORS["Newton"], label="predicted")
    axis.set(xlabel=coordinates({"variables": result.variables}, result.mean_z.shape[1])[i], ylim=(0, None))
    if i == 0:
        axis.set_ylabel(f"density at t = {result.times[-1]:g}")
        axis.legend()


def _gaussian(mean: float, variance: float) -> tuple[np.ndarray, np.ndarray]:
    """Points of a density with these moments, four standard deviations to each side."""
    z = np.linspace(-4, 4, 201)
    return mean + np.sqrt(variance) * z, np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi * variance)
