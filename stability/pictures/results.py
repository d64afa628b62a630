"""Pictures of the linear theory, of ensembles, and of one held against the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..comparison import Comparison
from ..ensembles.result import Ensemble
from ..linear.linearize import LinearFlow
from .style import COLORS, panels

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
    figure.suptitle(
        f"{len(result.diverged)} paths, {result.level}, dt = {result.dt:g}"
        + (f"; {lost} diverged, not drawn" if lost else ""),
        fontsize=10,
    )
    return figure


def _paths(axis: Axes, result: Ensemble, kept: np.ndarray, i: int) -> None:
    """Coordinate `i` against time: paths, mean and spread."""
    axis.plot(result.times, kept[:, :40, i], color="0.75", lw=0.5)
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
    axis.set(xlabel=r"$t = k\alpha$", ylabel=f"$w_{i + 1}$")


def _last_density(axis: Axes, result: Ensemble, kept: np.ndarray, i: int) -> None:
    """Coordinate `i` at the only time kept: the paths' histogram, or the Gaussian of the moments."""
    if kept.shape[1]:
        axis.hist(kept[-1, :, i], bins=60, density=True, color=COLORS["SFN"], alpha=0.7)
    elif result.covariance[-1, i, i] > 0:
        spread = np.sqrt(result.covariance[-1, i, i])
        z = np.linspace(-4, 4, 201)
        height = np.exp(-(z**2) / 2) / (spread * np.sqrt(2 * np.pi))
        axis.plot(
            result.mean[-1, i] + spread * z, height, color=COLORS["SFN"], label="Gaussian, same moments"
        )
        axis.legend()
    axis.set(xlabel=f"$w_{i + 1}$", ylabel="density")


def comparison(result: Comparison) -> Figure:
    """Measured against predicted moments, and their z-scores."""
    figure, axes = panels(1, 2, 3.6, 3.2)
    dim = result.mean_z.shape[1]
    rows, columns = np.triu_indices(dim)
    parts = (
        ("mean", result.predicted_mean, result.measured_mean, result.standard_error),
        (
            "covariance",
            result.predicted_covariance[:, rows, columns],
            result.measured_covariance[:, rows, columns],
            result.covariance_error[:, rows, columns],
        ),
    )
    for axis, (name, predicted, measured, error) in zip(axes[0], parts, strict=True):
        axis.errorbar(
            predicted.ravel(), measured.ravel(), 2 * error.ravel(), fmt="o", ms=3, lw=0.8, color=COLORS["SFN"]
        )
        ends = [min(predicted.min(), measured.min()), max(predicted.max(), measured.max())]
        axis.plot(ends, ends, color="0.4", lw=0.8)
        axis.set(xlabel=f"predicted {name}", ylabel=r"measured $\pm 2$ s.e.")
    figure.suptitle(f"{result.law}; largest |z| = {result.max_z:.2f}", fontsize=10)
    return figure
