"""The tables of the study at equal work, and its verdict; needs nothing but the measured document."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

OURS = "auto"
TUNED = ("SGD", "momentum", "Adam", "L-BFGS", "Newton-CG")
CONTENDERS = (*TUNED, "LRSFN as published", "LRSFN tuned", OURS)
GROUPS = {
    "nonlinear": lambda task: task["kind"] == "nonlinear" and not task["held_out"],
    "rotated ill-conditioned": lambda task: task["ill_conditioned"] and not task["held_out"],
    "held out": lambda task: task["held_out"],
    "held out, nonlinear": lambda task: task["held_out"] and task["kind"] == "nonlinear",
    "held out, rotated": lambda task: task["held_out"] and task["ill_conditioned"],
}
GOALS = {
    ("nonlinear", "SGD"): 0.95,
    ("nonlinear", "Adam"): 1.10,
    ("rotated ill-conditioned", "SGD"): 0.12,
    ("rotated ill-conditioned", "Adam"): 0.12,
}


def tables(document: dict[str, Any]) -> str:
    """Everything, as markdown."""
    parts = [
        _results(document, False),
        _results(document, True),
        _means(document),
        _notes(document),
        _crossover(document),
    ]
    return "\n\n".join(part for part in parts if part)


def _cells(document: dict[str, Any], task: str) -> dict[str, dict]:
    return {cell["contender"]: cell for cell in document["cells"].values() if cell["task"] == task}


def _results(document: dict[str, Any], held_out: bool) -> str:
    tasks = [
        task for task in document["tasks"] if task["held_out"] == held_out and _cells(document, task["name"])
    ]
    if not tasks:
        return ""
    head = "held out" if held_out else "task"
    rows = [f"| {head} | measure | {' | '.join(CONTENDERS)} |", "|---|---|" + "--:|" * len(CONTENDERS)]
    for task in tasks:
        cells = _cells(document, task["name"])
        best = min((cell["mean"] for cell in cells.values() if cell["mean"] is not None), default=None)
        rows.append(
            f"| {task['name']} | {task['unit']} | "
            f"{' | '.join(_value(cells.get(name), best) for name in CONTENDERS)} |"
        )
    return "\n".join(rows)


def _value(cell: dict[str, Any] | None, best: float | None) -> str:
    """Mean ± standard deviation over the final seeds; the best in bold, what diverged in brackets."""
    if cell is None:
        return ""
    if cell["mean"] is None:
        return "diverged"
    text = f"{cell['mean']:.3g}" + ("" if cell["std"] is None else f" ± {cell['std']:.1g}")
    text = f"**{text}**" if cell["mean"] == best else text
    return text + (f" [{cell['diverged']} of {len(cell['tests'])} diverged]" if cell["diverged"] else "")


def ratios(document: dict[str, Any]) -> dict[tuple[str, str], tuple[float, int]]:
    """Geometric means over a group's tasks of our untuned mean over a tuned one; the number of tasks."""
    found = {}
    for group, belongs in GROUPS.items():
        rows = [_cells(document, task["name"]) for task in document["tasks"] if belongs(task)]
        rows = [cells for cells in rows if OURS in cells]
        for name in (*CONTENDERS[:-1], "best of the five"):
            pairs = [(cells[OURS]["mean"], _reference(cells, name)) for cells in rows]
            pairs = [(ours, theirs) for ours, theirs in pairs if ours is not None and theirs is not None]
            if pairs:
                found[group, name] = geometric_mean(ours / theirs for ours, theirs in pairs), len(pairs)
    return found


def _reference(cells: dict[str, dict], name: str) -> float | None:
    if name != "best of the five":
        return cells[name]["mean"] if name in cells else None
    return min(
        (cells[tuned]["mean"] for tuned in TUNED if tuned in cells and cells[tuned]["mean"] is not None),
        default=None,
    )


def geometric_mean(values: Iterable[float]) -> float:
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs))


def _means(document: dict[str, Any]) -> str:
    found = ratios(document)
    if not found:
        return ""
    names = (*CONTENDERS[:-1], "best of the five")
    rows = [f"| untuned auto over | {' | '.join(names)} |", "|---|" + "--:|" * len(names)]
    for group in GROUPS:
        if any((group, name) in found for name in names):
            rows.append(f"| {group} | {' | '.join(_ratio(found, group, name) for name in names)} |")
    return "\n".join(rows)


def _ratio(found: dict[tuple[str, str], tuple[float, int]], group: str, name: str) -> str:
    if (group, name) not in found:
        return ""
    ratio, goal = found[group, name][0], GOALS.get((group, name))
    return (
        f"{ratio:.3f}"
        if goal is None
        else f"{ratio:.3f} (goal {goal:g}: {'met' if ratio <= goal else 'MISSED'})"
    )


def _notes(document: dict[str, Any]) -> str:
    cells = document["cells"].values()
    ours = [cell for cell in cells if cell["contender"] == OURS]
    lines = (
        [
            f"auto diverged on {sum(cell['diverged'] for cell in ours)} of "
            f"{sum(len(cell['tests']) for cell in ours)} runs."
        ]
        if ours
        else []
    )
    every = [*cells, *document.get("crossover", {}).values()]
    if edges := [
        f"{cell['contender']} on {cell['task']} ({cell['chosen']})" for cell in every if cell["edge"]
    ]:
        lines.append(f"Chosen at the edge of its grid: {'; '.join(edges)}.")
    slower = [_slower(document, task["name"]) for task in document["tasks"]]
    if any(slower):
        lines.append(
            "Seconds of auto over Adam's at equal sweeps (two runs side by side): "
            f"{', '.join(text for text in slower if text)}."
        )
    return "\n".join(lines)


def _slower(document: dict[str, Any], task: str) -> str:
    cells = _cells(document, task)
    seconds = [cells[name]["seconds"] for name in (OURS, "Adam") if name in cells]
    return f"{task} {seconds[0] / seconds[1]:.2g}" if len(seconds) == 2 and all(seconds) else ""


def _crossover(document: dict[str, Any]) -> str:
    points = document.get("crossover", {})
    parts = []
    for model in dict.fromkeys(point["model"] for point in points.values()):
        conditions = sorted({point["condition"] for point in points.values() if point["model"] == model})
        rows = [
            f"| {model}, rotated: κ | {' | '.join(f'{condition:.3g}' for condition in conditions)} |",
            "|---|" + "--:|" * len(conditions),
        ]
        for name in dict.fromkeys(point["contender"] for point in points.values()):
            found = {
                point["condition"]: point
                for point in points.values()
                if point["model"] == model and point["contender"] == name
            }
            rows.append(
                f"| {name} | {' | '.join(_value(found.get(condition), None) for condition in conditions)} |"
            )
        parts.append("\n".join(rows))
    return "\n\n".join(parts)
