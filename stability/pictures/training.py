"""Pictures of optimizer runs and of the curvature that they see."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from .._saving import Study
from ..advice.watched import Watched
from ..training.history import History
from .style import COLORS, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RANKS_SHOWN = 6


def history(result: History) -> Figure:
    """Loss against work; beside it the kept eigenvalues, and the step below its predicted limit."""
    from .figure import Picture

    curved = result.eigenvalues.size > 0
    figure = Picture(figsize=(8.4, 4.2) if curved else (7.6, 3.0), layout="constrained")
    axes = figure.subplot_mosaic(
        [["loss", "curvature"], ["loss", "step"]]
        if curved
        else [["loss"] if result.by_scipy else ["loss", "step"]]
    )
    _loss(axes["loss"], result)
    if "step" in axes:
        _steps(axes["step"], result)
    if curved:
        _curvature(axes["curvature"], result)
        axes["curvature"].sharex(axes["step"])
    about = result.provenance
    figure.suptitle(
        f"{about.get('method', 'optimizer')}: {result.status}\n{about.get('objective', '')}", fontsize=9
    )
    return figure


def watched(result: Watched) -> Figure:
    """The step in use below the largest stable one, with and without batch noise; above it the loss."""
    figure, ((top,), (below,)) = panels(2, 1, 6.4, 2.4, sharex=True)
    positive = result.losses[np.isfinite(result.losses)] > 0
    top.plot(result.iterations, result.losses, ".-", color=COLORS["SFN"], label="loss")
    top.set(ylabel="loss", yscale="log" if len(positive) and positive.all() else "linear")
    lines = (
        (result.deterministic_limits, ":", COLORS["SGD"], "largest stable step without batch noise"),
        (result.step_limits, ".--", COLORS["Newton"], "largest stable step"),
        (result.steps, "-", COLORS["SFN"], "step in use"),
    )
    for values, style, color, label in lines:
        below.plot(result.iterations, values, style, color=color, label=label)
    limits, errors = result.step_limits, result.step_limit_errors
    # On a logarithmic axis: by how many times other samples would have moved it.
    factor = np.exp(errors / limits)
    below.fill_between(
        result.iterations, limits / factor, limits * factor, color=COLORS["Newton"], alpha=0.2, lw=0
    )
    over = result.shares > 1
    below.plot(result.iterations[over], result.steps[over], "x", color="k", label="beyond the limit")
    if not over.any():
        below.lines[-1].remove()
    below.set(xlabel="iteration", ylabel="step", yscale="log")
    figure.legend(*below.get_legend_handles_labels(), loc="outside lower center", ncol=3, fontsize=8)
    figure.suptitle(f"{result.label}, batches of {result.batch}", fontsize=9)
    return figure


def _loss(axis: Axes, result: History) -> None:
    label = "all samples, after the step" if result.by_scipy else "gradient batch, before the step"
    axis.plot(*_broken(result, result.sweeps, result.losses), color=COLORS["SFN"], lw=0.8, label=label)
    if len(result.held_back):
        axis.plot(
            *_broken(result, *result.held_back.T),
            ".-",
            color=COLORS["damped Newton"],
            lw=1.2,
            label="samples held back",
        )
    if len(result.sweeps):
        axis.plot(
            result.sweeps[-1:],
            [result.loss],
            "D",
            color=COLORS["Newton"],
            label=f"whole objective, at the end: {result.loss:.4g}",
        )
    skipped = result.skipped[result.skipped < len(result.sweeps)]
    if len(skipped):
        axis.plot(
            result.sweeps[skipped],
            # A step may have been refused for the very loss that is not finite: its cross needs a place.
            np.nan_to_num(result.losses[skipped], nan=result.loss),
            "x",
            color="k",
            label="step not taken",
        )
    finite = np.concatenate([result.losses, [result.loss], *result.held_back[:, 1:].T])
    finite = finite[np.isfinite(finite)]
    axis.set(
        xlabel="sweeps over the data",
        ylabel="loss",
        yscale="log" if len(finite) and finite.min() > 0 else "linear",
    )
    axis.legend()


def _broken(result: History, sweeps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points of a line, with nan where curvature was looked at: no step was taken on the way over there.

    Where curvature is looked at before every step, the line is whole.
    """
    gaps = np.diff(result.sweeps, prepend=0.0)
    usual = float(np.median(gaps)) if len(gaps) else 0.0
    before = result.refreshes
    before = before[(before > 0) & (before < len(gaps))]
    # Work on curvature shows as a gap much longer than a step.
    at = np.searchsorted(sweeps, result.sweeps[before[gaps[before] > 2 * usual]])
    at = np.unique(at[(at > 0) & (at < len(sweeps))])
    return np.insert(sweeps, at, np.nan), np.insert(values, at, np.nan)


def _steps(axis: Axes, result: History) -> None:
    taken = np.where(result.steps > 0, result.steps, np.nan)
    axis.plot(*_broken(result, result.sweeps, taken), color=COLORS["SFN"], label=r"step $\alpha$")
    limits = np.where(np.isfinite(result.step_limits), result.step_limits, np.nan)
    known = np.flatnonzero(np.isfinite(limits))
    if len(known):  # where none was predicted the one before stands on
        before = np.maximum(np.searchsorted(known, np.arange(len(limits)), side="right") - 1, 0)
        limits = np.where(np.arange(len(limits)) < known[0], np.nan, limits[known[before]])
    if np.isfinite(limits).any():
        axis.plot(
            np.append(result.refreshed_at, result.sweeps[-1:]),
            # The last limit holds to the end, if a step was taken at all.
            np.append(limits, limits[-1:][: len(result.sweeps)]),
            ".--",
            drawstyle="steps-post",  # known when curvature was looked at, and used until the next time
            color=COLORS["Newton"],
            lw=1,
            label="predicted mean-square limit",
        )
    if result.advice:
        advised = result.advice["step_limit"]
        seen = np.isfinite(advised)
        where = result.advice["sweeps"][seen]
        axis.plot(where, advised[seen], "o", color=COLORS["damped Newton"], ms=3, label="advised limit")
        limits = np.append(limits, advised[seen])
    positive = bool((np.append(taken, limits) > 0).any())
    axis.set(xlabel="sweeps over the data", ylabel="step", yscale="log" if positive else "linear")
    axis.legend()


def _curvature(axis: Axes, result: History) -> None:
    """A few of the kept eigenvalues with their batch's noise, the rest as dots, since ranks change hands."""
    from matplotlib import colormaps

    rank = result.eigenvalues.shape[1]
    shown = np.unique(np.geomspace(1, rank, min(RANKS_SHOWN, rank)).round().astype(int)) - 1
    axis.plot(result.refreshed_at, result.eigenvalues, ".", color="0.8", ms=2)
    if rank > len(shown):
        # One call draws a line for each eigenvalue; one label stands for all of them.
        axis.lines[0].set_label("the others")
    for position, i in enumerate(shown):
        color = colormaps["cividis"](position / max(1, len(shown) - 1) * 0.9)
        noise = np.nan_to_num(result.noise[:, i]) if result.noise.size else np.zeros(len(result.refreshed_at))
        axis.errorbar(
            result.refreshed_at,
            result.eigenvalues[:, i],
            noise,
            fmt="o",
            ms=2.5,
            lw=0.7,
            color=color,
            label=rf"$\lambda_{{{i + 1}}}$",
        )
    sizes = np.abs(result.eigenvalues[np.isfinite(result.eigenvalues) & (result.eigenvalues != 0)])
    if len(sizes):
        smallest = max(float(sizes.min()), 1e-6 * float(sizes.max()))
        # At a power of ten, where the ticks are: one inside the linear part would be written over the zero.
        axis.set_yscale("symlog", linthresh=10.0 ** np.floor(np.log10(smallest)))
    axis.axhline(0, color="0.5", lw=0.8)
    axis.set_ylabel(r"eigenvalue $\pm$ batch noise")
    axis.legend(ncol=2, fontsize=7)


def _spectrum(study: Study) -> Figure:
    figure, axes = panels(1, 2, 4.4, 3.2)
    left, right = axes[0]
    p, grid, density = study.parameters, study["grid"], study["density"]
    left.plot(grid, density, color=COLORS["SFN"], label="density, smoothed")
    low, high = (
        np.maximum(density - study["error"], p["floor"]),
        np.maximum(density + study["error"], p["floor"]),
    )
    left.fill_between(grid, low, high, color=COLORS["SFN"], alpha=0.25, lw=0, label=r"$\pm$ standard error")
    if len(study["outliers"]):
        left.plot(
            study["outliers"],
            np.full(len(study["outliers"]), 2 * p["floor"]),
            "|",
            color=COLORS["Newton"],
            ms=8,
            label="deflated eigenvalues",
        )
    left.set_xscale("symlog", linthresh=p["scale"])
    left.set(
        yscale="log",
        ylim=(p["floor"], 5 * max(float(density.max()), p["floor"])),
        xlabel=r"eigenvalue $\lambda$",
        ylabel=r"eigenvalues per unit of $\lambda$",
    )
    decades = 10.0 ** np.arange(np.ceil(np.log10(p["scale"])), np.log10(study["sizes"][-1]) + 1)
    # A few ticks on each side: their labels must not run into each other.
    decades = decades[:: 1 + len(decades) // 4]
    left.set_xticks([*-decades[::-1], 0.0, *decades])
    left.legend()
    for counts, sign, name in zip(study["counts"], (r"\lambda", r"-\lambda"), ("SFN", "Newton"), strict=True):
        if counts.max() >= 0.5:
            right.plot(
                study["sizes"],
                np.where(counts >= 0.5, counts, np.nan),
                color=COLORS[name],
                label=rf"${sign} \geq x$",
            )
    right.set(
        xscale="log",
        yscale="log",
        ylim=(0.5, 2 * p["n"]),
        xlabel="$x$",
        ylabel="eigenvalues at least so large",
    )
    if right.lines:
        right.legend()
    figure.suptitle(
        f"{p['n']} eigenvalues from {p['products']} products: "
        f"trace {p['trace']:.4g} ± {p['trace_error']:.2g}",
        fontsize=10,
    )
    return figure


STUDIES: dict[str, Callable[[Study], Figure]] = {"spectrum": _spectrum}
