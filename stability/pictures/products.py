"""Pictures of random matrix products, of almost-sure stability, and of tails."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from .._saving import Study
from ..ensembles.tails import TailIndex
from ..lyapunov.exponents import LyapunovExponents
from ..lyapunov.limit import AlmostSureLimit
from .style import COLORS, handle, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SURE, SQUARE, LINEAR = "#CC3377", "#117733", "#000000"


def lyapunov_exponents(result: LyapunovExponents) -> Figure:
    """Every exponent with its error, the spread of single products, and the mean-square rate above them."""
    figure, axes = panels(1, 1, 4.6, 3.2)
    axis, shown = axes[0, 0], np.flatnonzero(np.isfinite(result.exponents))
    for i in shown:
        low, high = np.quantile(result.samples[:, i], [0.05, 0.95])
        axis.plot([i + 1, i + 1], [low, high], color=COLORS["SFN"], lw=4, alpha=0.25, solid_capstyle="butt")
    axis.errorbar(
        shown + 1,
        result.exponents[shown],
        2 * result.errors[shown],
        fmt="o",
        ms=4,
        color=COLORS["SFN"],
        label=r"exponents $\pm 2$ s.e.",
    )
    if np.isfinite(result.mean_square):
        axis.axhline(result.mean_square, color=SQUARE, ls="--", label="mean-square rate")
    axis.axhline(0.0, color="0.5", lw=0.8)
    ticks = np.arange(1, len(result.exponents) + 1, max(1, len(result.exponents) // 8))
    axis.set(
        xlabel="exponent (bar: 90 % of single products)",
        ylabel="per iteration",
        xticks=ticks,
        xlim=(0.4, len(result.exponents) + 0.6),
    )
    axis.legend()
    infinite = "" if np.isfinite(result.mean_square) else f"; mean-square rate {result.mean_square:g}"
    figure.suptitle(result.verdict + infinite, fontsize=9)
    return figure


def almost_sure_limit(result: AlmostSureLimit) -> Figure:
    """The top exponent against the step, with its limit."""
    figure, axes = panels(1, 1, 4.6, 3.2)
    axis, finite = axes[0, 0], np.isfinite(result.exponents)
    steps, values, errors = result.steps[finite], result.exponents[finite], result.errors[finite]
    axis.plot(steps, values, color=COLORS["SFN"], label=r"exponent $\pm 2$ s.e.")
    axis.fill_between(steps, values - 2 * errors, values + 2 * errors, color=COLORS["SFN"], alpha=0.25)
    axis.axhline(0.0, color="0.5", lw=0.8)
    if 0 < result.limit < np.inf:
        axis.axvline(result.limit, color=SURE, ls="--", lw=1.2, label="almost-sure limit")
    for k, (low, high) in enumerate(result.windows):
        label = None if k else "negative by 3 s.e."
        axis.axvspan(low, high, color=SQUARE, alpha=0.1, lw=0, label=label)
    axis.legend()
    axis.set(xscale="log", xlabel=r"step $\alpha$", ylabel="top exponent per iteration")
    figure.suptitle(_what_contracts(result), fontsize=9)
    return figure


def _what_contracts(result: AlmostSureLimit) -> str:
    if result.limit == 0:
        return "Paths contract at no small step"
    if not np.isfinite(result.limit):
        return (
            "Paths contract at every step tried"
            if result.limit > 0
            else "The exponent is not told from zero at any step"
        )
    return rf"Paths contract almost surely up to $\alpha = {result.limit:.4g} \pm {result.error:.1g}$"


def tail_index(result: TailIndex) -> Figure:
    """Hill's estimate by how many of the largest radii it uses; beside it the radii and the fitted power."""
    figure, axes = panels(1, 2, 3.8, 3.2)
    hill, survival = axes[0]
    # Hill's estimate from k radii has a relative standard error of 1 / sqrt(k).
    low, high = (result.indices * (1 + sign * 2 / np.sqrt(result.counts)) for sign in (-1, 1))
    hill.plot(result.counts, result.indices, color=COLORS["SFN"], label="Hill")
    hill.fill_between(result.counts, low, high, color=COLORS["SFN"], alpha=0.2)
    hill.errorbar(
        [result.k], [result.hill], [2 * result.hill_error], fmt="o", ms=4, color=COLORS["SFN"], label="taken"
    )
    if result.points and np.isfinite(result.index):
        hill.errorbar(
            [result.points], [result.index], [2 * result.error], fmt="s", ms=4, color=SURE, label="index"
        )
    if np.isfinite(result.nu):
        hill.axhline(
            result.nu,
            color=COLORS["Newton"],
            ls="--",
            label=rf"Student-t $\nu = {result.nu:.3g} \pm {result.nu_error:.1g}$",
        )
    for level in (2, 4):
        hill.axhline(level, color="0.5", lw=0.6)
    hill.set(
        xscale="log",
        xlabel="largest radii used",
        ylabel="tail index",
        ylim=(0, min(20.0, 1.3 * float(np.max(high)))),
    )
    hill.legend()
    n = len(result.radii)
    seen = result.radii > 0
    # The middle of each step of the empirical law, which never reaches zero on the logarithmic axis.
    share = (np.arange(n) + 0.5) / n
    survival.plot(result.radii[seen], share[seen], color=COLORS["SFN"], lw=1.2, label="radii")
    # Radii come largest first: the fitted power is drawn from the k-th on outwards, and through it.
    reach = result.radii[[0, result.k]]
    survival.plot(
        reach,
        share[result.k] * (reach / reach[1]) ** -result.hill,
        color=SURE,
        ls="--",
        label=f"power {-result.hill:.3g}",
    )
    survival.set(
        xscale="log",
        yscale="log",
        xlabel="radius, median 1",
        ylabel="share beyond",
        xlim=(0.1, 1.5 * reach[0]),
    )
    survival.legend()
    figure.suptitle(result.status, fontsize=9)
    return figure


def _lyapunov(study: Study) -> Figure:
    from matplotlib.colors import TwoSlopeNorm
    from matplotlib.patches import Patch

    names, p = study["methods"], study.parameters
    figure, axes = panels(2, 2, 3.9, 3.0, sharex=True, sharey=True)
    for m, (axis, name) in enumerate(zip(axes.flat, names, strict=True)):
        # Beyond one in size the colour says no more; an exponent may be -inf.
        values = np.clip(study["exponent"][m] / study["step"], -1, 1)
        axis.pcolormesh(
            study["step"],
            study["tau"],
            values,
            norm=TwoSlopeNorm(0.0, -1.0, 1.0),
            cmap="PuOr_r",
            shading="nearest",
            rasterized=True,
        )
        _band(axis, study, m)
        axis.set(
            xscale="log", yscale="log", title=name, xlim=study["step"][[0, -1]], ylim=study["tau"][[0, -1]]
        )
        axis.grid(False)
    for axis in axes[1]:
        axis.set_xlabel(r"step $\alpha$")
    for axis in axes[:, 0]:
        axis.set_ylabel(r"curvature noise $\tau$")
    figure.colorbar(
        axes[0, 0].collections[0], ax=axes, label="top exponent per unit of $t$", shrink=0.7, extend="both"
    )
    lines = [
        handle(color=LINEAR, lw=1.6, label="mean square, linearised (theory)"),
        handle(color=SQUARE, ls="--", lw=1.6, label="mean square, iteration (none: at no step)"),
        handle(color=SURE, ls="-.", lw=1.6, label="almost sure, iteration"),
        Patch(fc="white", ec="0.3", hatch="////", label="paths contract, second moments explode"),
    ]
    figure.legend(handles=lines, loc="outside lower center", ncol=2, fontsize=8)
    spectrum = ", ".join(f"{lam:g}" for lam in p["spectrum"])
    figure.suptitle(
        rf"Almost-sure against mean-square stability: two modes $({spectrum})$, $\gamma = {p['damping']:g}$",
        fontsize=10,
    )
    return figure


def _band(axis: Axes, study: Study, m: int) -> None:
    """The three limits of one method, and hatching between the last two."""
    tau, steps = study["tau"], study["step"]
    for key, color, dash in (("linear_limit", LINEAR, "-"), ("square_limit", SQUARE, "--")):
        limit = study[key][m]
        axis.plot(np.where(limit > 0, limit, np.nan), tau, lw=1.6, color=color, ls=dash)
    # matplotlib warns where a level is nowhere reached.
    if study["exponent"][m].min() < 0 < study["exponent"][m].max():
        axis.contour(
            steps, tau, study["exponent"][m], levels=[0.0], colors=SURE, linewidths=1.6, linestyles="-."
        )
    inside = (study["exponent"][m] < 0) & (steps > study["square_limit"][m][:, None])
    if inside.any():
        axis.contourf(steps, tau, inside.astype(float), levels=[0.5, 1.5], colors="none", hatches=["////"])


STUDIES: dict[str, Callable[[Study], Figure]] = {"lyapunov": _lyapunov}
