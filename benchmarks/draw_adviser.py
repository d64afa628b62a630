"""The pictures of the adviser's benchmark, from its numbers: benchmarks/draw_adviser.py [JSON] [FOLDER]."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from _adviser_table import CELL, cells, ratio

HERE = Path(__file__).parent
STYLE = HERE.parent / "stability" / "stability.mplstyle"
COLORS = {"SGD": "0.45", "momentum": "#1b4f9c", "Adam": "#d1762c"}


def main() -> None:
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "results" / "adviser.json"
    folder = Path(sys.argv[2]) if len(sys.argv) > 2 else HERE / "results"
    if not source.exists():
        sys.exit(f"{source.name} does not exist; run python benchmarks/adviser.py first.")
    document = json.loads(source.read_text(encoding="utf-8"))
    if STYLE.exists():
        plt.style.use(STYLE)
    for name, picture in (("adviser", edges), ("batch_sharpness", sharpness)):
        picture(document).savefig(folder / f"{name}.png")
        print(f"Wrote {name}.png.")


def edges(document: dict[str, Any]) -> plt.Figure:
    """Every cell's edges over its predicted limit, and the noise floor beside what it was predicted to be."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 6.5), layout="constrained", width_ratios=(3, 2))
    _edges(left, cells(document, "network", "table"))
    _floors(right, cells(document, "network", "table", "check"))
    return figure


def _edges(axis: plt.Axes, found: dict[str, dict[str, Any]]) -> None:
    axis.axvspan(*CELL, color="0.92", label="goal")
    axis.axvline(1, color="0.6", linewidth=1)
    for row, cell in enumerate(found.values()):
        color = COLORS[cell["optimizer"]]
        crossed, failed = (_shown(ratio(cell, edge)) for edge in ("crosses 1.5", "fails"))
        peer = cell["deterministic"] / (cell["advice"]["limit"] or math.nan)
        label = row == 0
        axis.plot(crossed, row, "|", color=color, markersize=9, label="loss crosses 1.5 times" * label)
        axis.plot(failed, row, "x", color=color, markersize=5, label="fails" * label)
        axis.plot(peer, row, "D", color="none", markeredgecolor=color, label="2 (1 + β) / λ" * label)
        axis.plot(_shown(ratio(cell)), row, "o", color=color, markersize=7, label="leaves" * label)
    axis.set_yticks(range(len(found)), list(found))
    axis.invert_yaxis()
    axis.set(xscale="log", xlabel="step over the predicted limit", title="Where runs leave")
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=5)


def _shown(value: float) -> float:
    return value if 0 < value < math.inf else math.nan


def _floors(axis: plt.Axes, found: dict[str, dict[str, Any]]) -> None:
    ends = []
    for cell in found.values():
        drop, (value, error) = cell["drop"], cell["advice"]["floor"]
        if value is None or drop["drop"] <= 0:
            continue
        color = COLORS[cell["optimizer"]]
        axis.errorbar(drop["drop"], value, error, drop["error"], "o", color=color, markersize=5)
        ends += [drop["drop"], value]
    if ends:
        line = [min(ends) / 1.5, max(ends) * 1.5]
        axis.plot(line, line, color="0.6", linewidth=1)
    for name, color in COLORS.items():
        axis.plot([], [], "o", color=color, label=name)
    axis.set(xscale="log", yscale="log", title="The noise floor")
    axis.set(xlabel="measured drop of the loss, step annealed", ylabel="predicted")
    axis.legend()


def sharpness(document: dict[str, Any]) -> plt.Figure:
    """Batch sharpness along three trainings, beside where it is said to settle."""
    curves = document["studies"]["sharpness"]
    figure, axes = plt.subplots(1, len(curves), figsize=(12, 3.8), layout="constrained", squeeze=False)
    for axis, curve in zip(axes[0], curves, strict=True):
        color = COLORS[curve["optimizer"]]
        axis.errorbar(curve["steps"], curve["seen"], curve["error"], color=color, label="batch sharpness")
        axis.plot(curve["steps"], curve["full"], color="0.6", label="largest eigenvalue")
        axis.axhline(curve["at"], color="black", linestyle="--", linewidth=1, label=curve["plateau"])
        title = f"{curve['optimizer']}, batches of {curve['batch']}, α = {curve['lr']:g}"
        axis.set(xlabel="step", title=title, ylim=(0, None))
        axis.legend()
    return figure


if __name__ == "__main__":
    main()
