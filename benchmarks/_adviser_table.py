"""The tables of the adviser's benchmark, and its verdict; needs nothing but the measured document."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from _criterion import told

CELL, MEAN = (0.7, 2.0), (0.9, 1.5)
"""Goals: where runs leave, over the predicted limit, in every cell and as a geometric mean."""
GRADIENTS, WATCH, VECTORS = 60, 0.10, 30
"""Goals: work of an answer, a watch's share of a run, vectors beyond the modes in memory."""
LARGE = 10**6
"""Parameters from which on vectors outweigh the code that the first answer loads."""
KINDS = {"network": "networks", "table": "heavy-tailed tables", "check": "checks of the criterion"}
CROSSINGS = ("crosses 1.3", "crosses 1.5", "crosses 2")

LOOKED: dict[str, str] = {
    "mnist-mlp momentum 8": "one sample carries 94 % of what sets the limit, and growth that comes with rare "
    "samples is slow: at 1.5 times the limit the deviation is 4.6 times the usual after a hundred steps and "
    "still grows. The loss crosses 1.5 times its level at 1.4.",
    "mnist-cnn Adam 8": "a flatter place is near: at 1.5 times the limit the Hessian in the same metric is "
    "0.56 of what it was after 10 steps and 0.17 after 30, before the deviation is five times the usual. "
    "Training had not come to rest (the loss fell by 6 % in the last thousand steps). The metric answers "
    "too, but is the smaller part: with second moments held, runs leave at 3.8 times the limit.",
    "digits-autoencoder Adam 128": "the metric answers: the leading mode lies in weights of pixels that are "
    "rarely lit, whose second moments are small. At 1.5 times the limit the Hessian stays as it was, but "
    "these moments rise, and the largest curvature in Adam's metric is 0.46 of what it was after 10 steps. "
    "With second moments held, runs leave at 1.06 times the limit.",
    "text-transformer momentum 8": "one of 2,000 texts carries 99 % of what sets the limit (its curvature is "
    "451, where the mean along its direction is 1.0). The mean square grows by rare visits to it, one in "
    "250 steps, and no run here shows that: training itself ran steadily at 1.8 times the limit.",
    "text-transformer Adam 128": "one text carries 20 % of what sets the limit, which is 0.37 of 2 / λ; runs "
    "leave at 1.4 times 2 / λ, and with second moments held at 1.1 times. Not looked at further.",
    "rare-columns Adam 8": "the metric answers: the limit is the exact one, with second moments held runs "
    "leave at 0.95 times it, and the loss ends above twice its level from 0.9 times on.",
    "rare-logistic SGD 32": "a logistic loss saturates: its gradients are bounded, runs wander off without "
    "growing faster, and no edge is sharp. The limit itself is 1.4 times the exact one, as 2,048 of 4,000 "
    "samples were looked at and few carry it (the bracket, 0.014 to 4.6, says so); of all of them it is 1.05 "
    "times.",
}
"""What was found by looking at cells outside the goal."""


def tables(document: dict[str, Any]) -> str:
    """Everything, as markdown."""
    parts = [
        _edges(document),
        _known(document),
        _floors(document),
        _cost(document),
        _products(document),
        verdict(document),
    ]
    return "\n\n".join(part for part in parts if part)


def cells(document: dict[str, Any], *kinds: str) -> dict[str, dict[str, Any]]:
    """The cells of these kinds that are measured and advised, with their edges."""
    return {
        name: {**cell, "edges": told(cell)}
        for name, cell in document["cells"].items()
        if {"runs", "flatter", "drop", "advice"} <= set(cell) and cell["kind"] in kinds
    }


def ratio(cell: dict[str, Any], edge: str = "leaves", over: str = "limit") -> float:
    """An edge over what was predicted; nan where nothing was."""
    return cell["edges"][edge] / (cell["advice"][over] or math.nan)


def within(value: float, goal: tuple[float, float]) -> bool:
    return goal[0] <= value <= goal[1]


def mean(values: Any) -> float:
    """The geometric mean."""
    return float(np.exp(np.mean(np.log(list(values)))))


def _edges(document: dict[str, Any]) -> str:
    lines = [
        "## Where runs leave, over the predicted limit",
        "",
        f"Goals: *leaves* within {CELL[0]:g} to {CELL[1]:g} in every cell; geometric mean within "
        f"{MEAN[0]:g} to {MEAN[1]:g}. The other edges are over the same limit; *of 2 / λ*: leaves over the "
        "deterministic limit. *Flatter*: the deterministic limit where a run at twice the leaving edge "
        "ended, over that of the place. *Sample*: what the heaviest sample carries of the noise that sets "
        "the limit; *without it*: leaves over the limit of the other samples, where that is more than half. "
        "*Held*: where runs leave whose second moments stay those of the place, over the limit.",
        "",
        "| cell | n | share in use | limit | **leaves** | met | of 2 / λ | moves on | 1.3 | 1.5 | 2 | fails "
        "| flatter | sample | without it | held |",
        "|---|--:|--:|--:|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for kind in ("network", "table"):
        found = cells(document, kind)
        lines += [_row(name, cell) for name, cell in found.items()]
        if found:
            middle = mean(ratio(cell) for cell in found.values())
            moved = mean(ratio(cell, "moves on") for cell in found.values())
            plain = mean(ratio(cell, over="deterministic") for cell in found.values())
            lines.append(
                f"| *{KINDS[kind]}, geometric mean* | | | | **{middle:.2f}** | | {plain:.2f} | {moved:.2f} | "
                "| | | | | | | |"
            )
    outside = [
        f"- {name}: {LOOKED.get(name, 'not looked at.')}"
        for name, cell in cells(document, "network", "table").items()
        if not within(ratio(cell), CELL)
    ]
    return "\n".join([*lines, *(["", "Outside:", *outside] if outside else [])])


def _row(name: str, cell: dict[str, Any]) -> str:
    leaves, advice = ratio(cell), cell["advice"]
    crossings = " | ".join(_number(ratio(cell, one)) for one in ("moves on", *CROSSINGS, "fails"))
    flatter = cell["flatter"].get("2", math.nan)
    return (
        f"| {name} | {cell['parameters']:,} | {_number(advice['share'])} | {_number(advice['limit'], 3)} | "
        f"**{_number(leaves)}** | {'yes' if within(leaves, CELL) else 'NO'} | "
        f"{_number(ratio(cell, over='deterministic'))} | {crossings} | "
        f"{'diverged' if flatter is None else _number(flatter)} | {_number(advice['sample_share'])} | "
        f"{_beside(cell['edges']['leaves'], advice.get('without_heaviest'))} | "
        f"{_beside(cell.get('held'), advice['limit'])} |"
    )


def _beside(edge: float | None, limit: float | None) -> str:
    """Of few cells: an edge over a limit."""
    return _number(edge / limit) if edge and limit else ""


def _number(value: float | None, digits: int = 2) -> str:
    """Short, for a table: "none" where runs crossed nothing, "all" where all did."""
    if value is None or math.isnan(value):
        return "?"
    if value in (0.0, math.inf):
        return "all" if value == 0 else "none"
    if value > 1000:
        return "> 1000"
    return f"{value:.{digits}g}" if value < 100 else f"{value:.0f}"


def _known(document: dict[str, Any]) -> str:
    """Linear cells, whose limit is known from dense algebra."""
    found = {name: cell for name, cell in cells(document, "table", "check").items() if cell["exact"]}
    if not found:
        return ""
    lines = [
        "## Linear cells, whose limit is known",
        "",
        "*Criterion*: where runs were seen to leave over the exact limit; *advice*: predicted over exact.",
        "",
        "| cell | exact limit | criterion | advice | 2 / λ over exact |",
        "|---|--:|--:|--:|--:|",
    ]
    for name, cell in found.items():
        exact, advice = cell["exact"], cell["advice"]
        lines.append(
            f"| {name} | {exact:.3g} | {_number(cell['edges']['leaves'] / exact)} | "
            f"{_number((advice['limit'] or math.nan) / exact, 3)} | {cell['deterministic'] / exact:.2f} |"
        )
    return "\n".join(lines)


def _floors(document: dict[str, Any]) -> str:
    lines = [
        "## The noise floor",
        "",
        "How far the loss of all samples falls when the step is annealed to zero, three seeds, beside the "
        "predicted excess loss from noise.",
        "",
        "| cell | measured drop | predicted | predicted / measured |",
        "|---|--:|--:|--:|",
    ]
    found = cells(document, "network", "table", "check")
    for name, cell in found.items():
        drop, (value, error) = cell["drop"], cell["advice"]["floor"]
        share = "?" if value is None else _number(value / drop["drop"]) if drop["drop"] > 0 else "no drop"
        told = "?" if value is None else f"{value:.3g} ± {error:.1g}"
        lines.append(f"| {name} | {drop['drop']:.3g} ± {drop['error']:.1g} | {told} | {share} |")
    return "\n".join(lines) if found else ""


def _cost(document: dict[str, Any]) -> str:
    found = document["studies"].get("cost")
    if not found:
        return ""
    lines = [
        "## What an answer costs",
        "",
        "Adam, batches of 32, 5,000 images, one thread; seconds are the processor's, memory is what an "
        "answer adds to training's peak once code is loaded. "
        f"Goals: at most {GRADIENTS} gradients of the samples looked at; `Watch` at its default at most "
        f"{WATCH:.0%} of a run; memory at most that of training and the modes and {VECTORS} vectors more.",
        "",
        "| parameters | gradients | seconds | an epoch's | Watch adds | MB more | MB training | vectors | "
        "modes |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for one in found.values():
        lines.append(
            f"| {one['parameters']:,} | {one['gradients']:.0f} | {one['seconds']:.1f} | {one['epoch']:.2f} | "
            f"{one['watched'] / one['plain'] - 1:.0%} | {one['megabytes']:.0f} | "
            f"{one['training_megabytes']:.0f} | {one['vectors']:.0f} | {one['modes']} |"
        )
    return "\n".join(lines)


def _products(document: dict[str, Any]) -> str:
    found = document["studies"].get("products")
    if not found:
        return ""
    networks = found["networks"]
    names = list(next(iter(networks.values())))
    lines = [
        "## Hessian products for a correct leading eigenvalue",
        "",
        "Products over correct values (within 1 %, from the largest on), and both numbers. Goal: the fewest "
        "of ours at most the fewest of theirs.",
        "",
        f"| network | {' | '.join(names)} |",
        "|---|" + "--:|" * len(names),
    ]
    for network, contenders in networks.items():
        figures = [f"{_each(one):.3g} ({one['products']}/{one['correct']})" for one in contenders.values()]
        lines.append(f"| {network} | {' | '.join(figures)} |")
    if found["absent"]:
        lines += ["", f"Not importable here, and left out: {', '.join(found['absent'])} (extra `peers`)."]
    return "\n".join(lines)


def _each(one: dict[str, int]) -> float:
    return one["products"] / one["correct"] if one["correct"] else math.inf


def _fewest(contenders: dict[str, dict[str, int]], ours: bool) -> float:
    """Products for a correct value; of ours all that the answer took are not asked for by the goal."""
    return min(
        (_each(one) for name, one in contenders.items() if name.startswith("advise") == ours),
        default=math.inf,
    )


def verdict(document: dict[str, Any]) -> str:
    """Which goals are missed, in a sentence."""
    goals = dict(_judged(document))
    missed = [name for name, met in goals.items() if not met]
    return f"Missed: {'; '.join(missed)}." if missed else f"Missed: none of {len(goals)}."


def _judged(document: dict[str, Any]) -> Iterator[tuple[str, bool]]:
    found = cells(document, "network", "table")
    for name, cell in found.items():
        yield f"{name} ({ratio(cell):.2f})", within(ratio(cell), CELL)
    if found:
        middle = mean(ratio(cell) for cell in found.values())
        yield f"geometric mean ({middle:.2f})", within(middle, MEAN)
    for name, one in document["studies"].get("cost", {}).items():
        yield f"gradients at {name}", one["gradients"] <= GRADIENTS
        yield f"Watch at {name}", one["watched"] <= (1 + WATCH) * one["plain"]
        if one["parameters"] >= LARGE:
            yield f"memory at {name}", one["vectors"] <= one["modes"] + VECTORS
    for name, one in document["studies"].get("products", {}).get("networks", {}).items():
        yield f"products at {name}", _fewest(one, True) <= _fewest(one, False)
