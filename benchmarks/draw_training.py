"""The picture of when second order pays, from its numbers: benchmarks/draw_training.py [JSON] [PNG]."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
STYLE = HERE.parent / "stability" / "stability.mplstyle"
CURVES = {
    "SGD": ("SGD, tuned", "0.55"),
    "momentum": ("momentum, tuned", "#6b6b6b"),
    "Adam": ("Adam, tuned", "#d1762c"),
    "LRSFN tuned": ("LRSFN, damping and step tuned", "#6aa84f"),
    "auto": ("auto, nothing tuned", "#1b4f9c"),
}
MEASURES = {"least-squares": "excess risk, share of the start's", "logistic": "test error, %"}


def main() -> None:
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "results" / "training.json"
    target = Path(sys.argv[2]) if len(sys.argv) > 2 else HERE / "results" / "crossover.png"
    if not source.exists():
        sys.exit(f"{source.name} does not exist; run python benchmarks/training.py first.")
    points = list(json.loads(source.read_text(encoding="utf-8"))["crossover"].values())
    if not points:
        sys.exit(f"{source.name} holds no crossover; run python benchmarks/training.py --only crossover.")
    picture(points).savefig(target)
    print(f"Wrote {target.name}.")


def picture(points: list[dict[str, Any]]) -> plt.Figure:
    """Test values at equal work against the condition number, a panel a model; bars: over the seeds."""
    if STYLE.exists():
        plt.style.use(STYLE)
    models = [model for model in MEASURES if any(point["model"] == model for point in points)]
    figure, axes = plt.subplots(
        1, len(models), figsize=(5 * len(models), 4), layout="constrained", squeeze=False
    )
    for axis, model in zip(axes[0], models, strict=True):
        for name, (label, color) in CURVES.items():
            _curve(
                axis,
                [point for point in points if point["model"] == model and point["contender"] == name],
                label,
                color,
            )
        axis.set(
            xscale="log",
            yscale="log",
            xlabel="condition number κ",
            ylabel=MEASURES[model],
            title=f"{model}, rotated",
        )
    axes[0, 0].legend()
    return figure


def _curve(axis: plt.Axes, points: list[dict[str, Any]], label: str, color: str) -> None:
    points = sorted(
        (point for point in points if point["mean"] is not None), key=lambda point: point["condition"]
    )
    spreads = [point["std"] or 0.0 for point in points]
    axis.errorbar(
        [point["condition"] for point in points],
        [point["mean"] for point in points],
        spreads,
        marker="o",
        capsize=2,
        label=label,
        color=color,
    )


if __name__ == "__main__":
    main()
