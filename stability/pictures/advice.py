"""The picture of advice: the limit beside the step in use, by batch size and by mode."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..advice.result import Advice
from .style import COLORS, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

LIMIT, QUIET, USED = COLORS["SFN"], "0.45", COLORS["Newton"]


def advice(result: Advice) -> Figure:
    """The largest stable step against the batch size, and what single modes would allow."""
    figure, (pair,) = panels(1, 2, 3.6, 3.0, sharey=True)
    left, right = pair
    used, limit, quiet = (
        float(np.max(value)) for value in (result.step, result.step_limit, result.deterministic_limit)
    )
    _by_batch(left, result, limit)
    _by_mode(right, result)
    if not np.isfinite(limit):  # lines alone have no room around them
        known = [used, quiet] if np.isfinite(quiet) else [used]
        left.set_ylim(min(known) / 10, 10 * max(known))
    for axis in pair:
        axis.axhline(used, color=USED, lw=1.6, label="in use")
        axis.axhline(quiet, color=QUIET, ls="--", lw=1.2, label="largest without batch noise")
    right.axhline(limit, color=LIMIT, lw=1.6, label="largest stable")
    left.set(ylabel="step (learning rate)")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncol=3, fontsize=8)
    _plain(left.yaxis)
    _plain(right.xaxis)
    figure.suptitle(_told(result), fontsize=9)
    return figure


def _told(result: Advice) -> str:
    if np.isnan(result.share):
        return f"{result.label}: the largest stable step is not known"
    many = "times" if result.share > 1 else "of"
    return f"{result.label}: the step in use is {result.share:.2g} {many} the largest stable one"


def _by_batch(axis: Axes, result: Advice, limit: float) -> None:
    low, high = (float(np.max(end)) for end in result.step_limit_bracket)
    sizes = result.batches if len(result.batches) else np.array([result.batch])
    limits = result.batch_limits * float(np.max(result.step)) if len(result.batches) else np.array([limit])
    axis.plot(sizes, limits, color=LIMIT, lw=1.6, label="largest stable")
    if np.isfinite([limit, low, high]).all():
        gap = np.array([[limit - low], [max(high - limit, 0.0)]])
        axis.errorbar([result.batch], [limit], gap, fmt="o", ms=5, capsize=3, color=LIMIT)
    axis.set(xscale="log", yscale="log", xlabel="batch size")
    axis.set_xticks(sizes, [f"{size:g}" for size in sizes], minor=False)
    axis.xaxis.minorticks_off()


def _by_mode(axis: Axes, result: Advice) -> None:
    floor = 1e-12 * np.max(result.curvatures, initial=0.0)  # below it is rounding
    seen = np.isfinite(result.mode_limits) & (result.curvatures > floor)
    axis.plot(result.curvatures[seen], result.mode_limits[seen], "o", ms=4, color=LIMIT)
    axis.set(xscale="log", xlabel="curvature of a leading mode, each by itself")


def _plain(axis: Axis) -> None:
    """Few plain numbers on a logarithmic axis."""
    from matplotlib.ticker import LogLocator, NullFormatter

    low, high = axis.get_data_interval()
    few = high < 1e6 * low  # of more decades their powers alone have room
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if few else (1.0,), numticks=12 if few else 6))
    axis.set_major_formatter(lambda value, _: f"{value:.3g}")
    axis.set_minor_formatter(NullFormatter())
