"""The picture of the benchmark, from its numbers alone: python benchmarks/draw.py [JSON] [PNG]."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
STYLE = HERE.parent / "stability" / "stability.mplstyle"
BARS = {
    "numba": ("stability, Numba", "#1b4f9c"),
    "numpy": ("stability, NumPy only", "#6fa3dc"),
    "draw": ("drawing the normals alone", "0.75"),
    "diffrax": ("diffrax, its best form", "#d1762c"),
    "torchsde": ("torchsde, its best form", "#b33a3a"),
    "torchsde*": ("torchsde given fresh normals", "#e09a9a"),
    "sdeint": ("sdeint", "#6b6b6b"),
}
PROBLEMS = {
    "ou-2/one": "OU\nd = 2",
    "ou-16/one": "OU\nd = 16",
    "ou-128/one": "OU\nd = 128",
    "sfn-2/one": "SFN flow\nd = 2",
    "sfn-8/one": "SFN flow\nd = 8",
}
LABELS = {"paths": "paths", "steps": "steps", "d": "dimension d", "threads": "threads"}


def main() -> None:
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "results" / "ensembles.json"
    target = Path(sys.argv[2]) if len(sys.argv) > 2 else source.with_suffix(".png")
    if not source.exists():
        sys.exit(f"{source.name} does not exist; run python benchmarks/ensembles.py first.")
    picture(json.loads(source.read_text(encoding="utf-8"))).savefig(target)
    print(f"Wrote {target.name}.")


def picture(document: dict) -> plt.Figure:
    """Bars of cost per path-step on the left, our scaling on the right."""
    if STYLE.exists():
        plt.style.use(STYLE)
    figure = plt.figure(figsize=(11, 5), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1.15, 1])
    _bars(left.subplots(), document["cells"])
    axes = right.subplots(2, 2, sharey=False)
    for axis, kind in zip(axes.flat, LABELS, strict=True):
        _curves(axis, kind, [curve for curve in document["scaling"] if curve["axis"] == kind])
    figure.suptitle(_caption(document))
    return figure


def _caption(document: dict) -> str:
    env = document["environment"]
    return f"{env['cpu']}, {env['date']}: medians of {document['rounds']} interleaved runs, float64" + (
        " (quick: rough)" if document["quick"] else ""
    )


def _bars(axis: plt.Axes, cells: dict) -> None:
    shown = [name for name in PROBLEMS if name in cells]
    width = 0.8 / len(BARS)
    for slot, (library, (label, color)) in enumerate(BARS.items()):
        points = [
            (i, cells[name]["contenders"][library])
            for i, name in enumerate(shown)
            if library in cells[name]["contenders"]
        ]
        if not points:
            continue
        heights = [cell["median"] for _, cell in points]
        spread = [
            [cell["median"] - cell["least"] for _, cell in points],
            [cell["most"] - cell["median"] for _, cell in points],
        ]
        places = [i + (slot - (len(BARS) - 1) / 2) * width for i, _ in points]
        axis.bar(places, heights, width, yerr=spread, color=color, label=label, error_kw={"linewidth": 0.7})
    axis.set(yscale="log", ylabel="ns per path-step, one core", title="One Euler–Maruyama step of one path")
    axis.set_xticks(range(len(shown)), [PROBLEMS[name] for name in shown])
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3)


def _curves(axis: plt.Axes, kind: str, curves: list[dict]) -> None:
    problems = list(dict.fromkeys(curve["problem"] for curve in curves))
    for curve in curves:
        color = f"C{problems.index(curve['problem'])}"
        engine = BARS[curve["engine"]][0].removeprefix("stability, ")
        line = "-" if curve["engine"] == "numba" else "--"
        axis.plot(
            curve["x"],
            curve["ns"],
            line,
            marker="o",
            markersize=3,
            color=color,
            label=f"{curve['problem']}, {engine}",
        )
    axis.set(xscale="log", yscale="log", xlabel=LABELS[kind], ylabel="ns per path-step")
    if kind in ("threads", "d") and curves:
        ticks = sorted({x for curve in curves for x in curve["x"]})
        axis.set_xticks(ticks, [str(x) if len(ticks) < 5 or i % 2 == 0 else "" for i, x in enumerate(ticks)])
        axis.minorticks_off()
    if curves:
        axis.legend(fontsize=6.5)


if __name__ == "__main__":
    main()
