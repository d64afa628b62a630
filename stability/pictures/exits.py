"""Pictures of leaving a saddle, and of the toy problems."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from .._saving import Study
from .style import COLORS, MARKERS, SIZES, colored, handle, method_legend, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LONGEST = 3e4
"""Exit times beyond this are off the picture: they are exponentials of anything."""
CURVES = 5
"""At most in a panel of the toys; the rest stand in a table."""
TAILS = (("damping", "#009E73", "v"), ("flat", "#CC79A7", "P"))


def _escape(study: Study) -> Figure:
    figure, axes = panels(2, 2, 5.0, 3.5)
    p = study.parameters
    _times(axes[0, 0], study, "lam", "log_mean", "flatness", r"flatness of the unstable mode $|\lambda|$")
    _times(axes[0, 1], study, "sigma", "noise_log_mean", "noise", r"gradient noise $\sigma$")
    axes[0, 0].axvline(p["damping"], color="0.6", lw=0.8, ls=":")
    axes[0, 0].set_title(rf"$\sigma = {p['sigma']:g}$; dotted: $|\lambda| = \gamma$", fontsize=9)
    axes[0, 1].set_title(rf"$|\lambda| = {p['flat']:g}$", fontsize=9)
    _curves(axes[1, 0], study)
    _by_rank(axes[1, 1], study)
    extra = [
        handle(color="0.3", marker="o", ls="", label="SDE (filled)"),
        handle(color="0.3", marker="x", ls="", label="iteration"),
    ]
    extra.append(handle(color="0.3", ls=":", lw=1, label="iteration's own law"))
    method_legend(figure, study["methods"], extra)
    figure.suptitle(
        rf"First exit along the unstable mode, equal step $\alpha = {p['step']:g}$, equal gradient noise "
        rf"($\gamma = {p['damping']:g}$, $R = {p['radius']:g}$)",
        fontsize=10,
    )
    return figure


def _times(axis: Axes, study: Study, x: str, law: str, measured: str, label: str) -> None:
    """Mean exit times: in continuous time (lines), of the iteration's law (dotted), measured (markers)."""
    with np.errstate(over="ignore"):
        lines = np.exp(study[law])
    for m, name in enumerate(study["methods"]):
        # A little beyond the axis, so that a curve leaves the picture at its edge.
        axis.plot(study[x], np.where(lines[m] < 10 * LONGEST, lines[m], np.nan), **colored(str(name)))
        # Side by side, or one level's mark would hide the other's.
        for level, shift in ((0, 0.95), (1, 1.05)):
            rows = study[measured][m, :, level]
            if level:
                axis.plot(study[f"measured_{x}"], rows[:, 2], color=COLORS[str(name)], ls=":", lw=1)
            _bars(
                axis,
                study[f"measured_{x}"] * shift,
                rows[:, 0],
                rows[:, 1],
                COLORS[str(name)],
                "x" if level else str(name),
            )
    axis.set(xscale="log", yscale="log", xlabel=label, ylabel=r"mean exit time, $t = k\alpha$")
    axis.set_ylim(0.02, LONGEST)


def _bars(axis: Axes, x: np.ndarray, value: np.ndarray, error: np.ndarray, color: str, marker: str) -> None:
    keep = np.isfinite(value)
    fmt, size = MARKERS.get(marker, marker), SIZES.get(marker, 4)
    axis.errorbar(x[keep], value[keep], 2 * error[keep], fmt=fmt, ms=size, color=color, lw=0.9, ls="")


def _curves(axis: Axes, study: Study) -> None:
    """Survival: the law as a line, the iteration as points with two standard errors."""
    t, paths = study["survival_t"], float(study["survival_paths"])
    for m, name in enumerate(study["methods"]):
        shares = study["survival"][m, 1, ::3]
        axis.plot(t, study["survival_law"][m, 1], color=COLORS[str(name)], lw=1.3)
        _bars(
            axis,
            t[::3],
            shares,
            np.sqrt(shares * (1 - shares) / paths),
            COLORS[str(name)],
            str(name),
        )
    p = study.parameters
    axis.set(xlabel=r"$t = k\alpha$", ylabel="share that has not left", ylim=(-0.02, 1.05))
    axis.set_title(
        rf"$|\lambda| = {p['flat']:g}$, $\sigma = {p['noise']:g}$: whole distributions (iteration)",
        fontsize=9,
    )


def _by_rank(axis: Axes, study: Study) -> None:
    for k, (tail, color, marker) in enumerate(TAILS):
        rows = study["rank"][k]
        axis.plot(study["ranks"], rows[:, 1, 2], color=color, lw=1, label=f"tail: {tail}")
        _bars(axis, study["ranks"] - 0.05, rows[:, 0, 0], rows[:, 0, 1], color, marker)
        _bars(axis, study["ranks"] + 0.05, rows[:, 1, 0], rows[:, 1, 1], color, "x")
    sees = 1 + int(np.argmin(study.parameters["spectrum"]))
    axis.axvline(sees, color="0.6", lw=0.8, ls=":")
    axis.set(yscale="log", xlabel="rank of LRSFN", ylabel=r"mean exit time, $t = k\alpha$")
    axis.set_title(
        "spectrum "
        + ", ".join(f"{lam:g}" for lam in study.parameters["spectrum"])
        + "; dotted: sees the negative one",
        fontsize=9,
    )
    axis.legend()


def _toys(study: Study) -> Figure:
    problems = [str(name) for name in study["problems"]]
    figure, axes = panels(2, len(problems), 4.7, 3.0)
    for column, problem, dim in zip(axes.T, problems, study.parameters["dims"], strict=True):
        names, values, axis = study[f"{problem}_methods"], study[f"{problem}_values"], column[0]
        shown = study.arrays.get(f"{problem}_shown", names[:CURVES])  # older studies do not say
        positive = np.nanmin(values) >= 0
        # A median over the starts still there; one that diverges leaves the picture with a cross.
        for k in (list(names).index(name) for name in shown):
            name, kept = names[k], np.isfinite(values[k]).any(axis=1)
            middle = np.array([np.nanmedian(row) for row in values[k][kept]])
            style = _style(str(name), k)
            axis.plot(
                np.flatnonzero(kept),
                # A minimum of zero that is met exactly has no place on a logarithmic axis.
                np.maximum(middle, 1e-20) if positive else middle,
                label=str(name),
                **style,
            )
            if len(middle) and len(middle) < values.shape[1]:
                axis.plot(len(middle) - 1, middle[-1], "x", color=style["color"], ms=6, clip_on=True)
        axis.set(
            xlabel="iteration",
            ylabel="value, median over the starts",
            title=f"{problem}, $d = {dim}$",
            xlim=(-1, study.parameters["iterations"] + 1),
        )
        if positive:
            axis.set(yscale="log", ylim=(1e-21, 1e10))
        else:
            axis.set_ylim(
                1.15
                * float(
                    np.nanmin(
                        np.nanmedian(values[:, -1], axis=-1) if np.isfinite(values[:, -1]).all() else values
                    )
                ),
                16,
            )
        axis.legend(fontsize=7, ncol=2, loc="upper right")
        _others(column[1], study, problem, [str(name) for name in names if name not in shown])
    figure.suptitle(
        rf"Toy protocols at step 1, exact Hessians, {study.parameters['starts']} starts (ours, not the "
        r"paper's numbers; crosses: diverged)",
        fontsize=10,
    )
    return figure


def _others(axis: Axes, study: Study, problem: str, names: list[str]) -> None:
    """What became of the methods that have no curve, as a table."""
    rows = dict(zip(map(str, study[f"{problem}_methods"]), study[f"{problem}_table"], strict=True))
    fields, starts = [str(name) for name in study["fields"]], study.parameters["starts"]
    cells = []
    for name in names:
        row = dict(zip(fields, rows[name], strict=True))
        left = starts - row["diverged"]
        ends = [f"{row['median']:.4g}", f"{row['indefinite']:g} of {left:g}"] if left > 0 else ["", ""]
        lost = "singular at a start" if np.isnan(left) else f"{row['diverged']:g} of {starts}"
        cells.append([name, *ends, lost])
    axis.set_axis_off()
    heads = ["other methods", "median at the end", "end at a saddle", "diverge"]
    table = axis.table(cells, colLabels=heads, loc="upper center", edges="horizontal", cellLoc="center")
    table.auto_set_font_size(False)
    table.set_fontsize(7)
    for cell in table.get_celld().values():
        cell.set(edgecolor="0.8", linewidth=0.6)
    table.auto_set_column_width(list(range(len(heads))))


def _style(name: str, k: int) -> dict[str, Any]:
    """A method's color; the ranks of LRSFN by their shade, its flat tail dashed."""
    import matplotlib

    if not name.startswith("LRSFN"):
        known = next(method for method in sorted(COLORS, key=len, reverse=True) if name.startswith(method))
        return {"color": COLORS[known], "ls": ":" if name.endswith("best step") else "-", "lw": 1.5}
    flat = name.endswith("flat tail")
    # k counts the runners, of which SFN is the first and the
    # ranks follow; from 0.4 on shades are dark enough to see.
    shade = matplotlib.colormaps["PuRd" if flat else "Greens"](0.4 + 0.14 * ((k - 1) % 5))
    return {"color": shade, "ls": "--" if flat else "-", "lw": 1.2}


def _exits(study: Study) -> Figure:
    figure, axes = panels(1, 1, 4.6, 3.4)
    axis, p = axes[0, 0], study.parameters
    t, survival, error = study["t"], study["survival"], study["error"]
    axis.step(t, survival, where="post", color=COLORS["SFN"], label="measured (Kaplan-Meier)")
    axis.fill_between(
        t,
        survival - 2 * error,
        survival + 2 * error,
        step="post",
        color=COLORS["SFN"],
        alpha=0.25,
        lw=0,
        label="two standard errors",
    )
    if np.isfinite(study["law"]).any():
        axis.plot(
            study["law_t"],
            study["law"],
            color=COLORS["Newton"],
            lw=1.2,
            ls="--",
            label="law" if p["exact"] else "law of the linearised flow",
        )
    axis.set(xlabel=r"$t = k\alpha$", ylabel="share that has not left", ylim=(-0.02, 1.05))
    axis.legend()
    figure.suptitle(f"{p['method']}: first exit from {p['region']}", fontsize=9)
    return figure


STUDIES: dict[str, Callable[[Study], Figure]] = {"escape": _escape, "toys": _toys, "exits": _exits}
