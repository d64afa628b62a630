"""Runs restarted from a place at many steps, and how their deviation from it and their losses go."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from _criterion import Record, edge, exact_limit, growth, told, variance
from _places import (
    BETA,
    Place,
    Runs,
    deterministic,
    expected,
    leading,
    logistic,
    rooted,
    spread,
    weight,
)

STEPS, WINDOW, END = 300, 10, 50
MULTIPLES = 2.0 ** (np.arange(-4, 7) / 2)
"""Of the expected limit: a quarter to eight times."""
MOST = 1e6
"""A larger loss has diverged."""


def restarted(
    place: Place, lrs: np.ndarray, seeds: range, steps: int = STEPS, *, hold: bool = False
) -> Record:
    """Go on from the place at each step, with each seed's batches."""
    runs = Runs(
        place.problem,
        [float(lr) for lr in lrs for _ in seeds],
        [seed for _ in lrs for seed in seeds],
        place.weights,
        place.state,
        hold=hold,
    )
    across = place.vectors / place.root[:, None]
    losses, deviations = [], []
    for _ in range(steps):
        losses.append(runs.step().double().numpy())
        deviations.append(((runs.weights - place.weights) @ across).double().numpy())
    shape = (len(lrs), len(seeds))
    curves, Z = np.array(losses), np.array(deviations)
    smooth = np.apply_along_axis(np.convolve, 0, curves, np.ones(WINDOW) / WINDOW, "valid")
    return Record(
        np.asarray(lrs, float),
        variance(Z[: steps // 2], place.values).reshape(shape),
        variance(Z[steps // 2 :], place.values).reshape(shape),
        _bounded(smooth.max(0)).reshape(shape),
        _bounded(curves[-END:].mean(0)).reshape(shape),
    )


def _bounded(values: np.ndarray) -> np.ndarray:
    return np.minimum(np.nan_to_num(values, nan=np.inf, posinf=np.inf), 1e30)


def usual(place: Place) -> float:
    """Variance of the leading modes, weighted by curvature, that gradient noise makes, per small step."""
    problem, cell = place.problem, place.problem.cell
    noise = sum(float(problem.slopes(place.weights, place.root * v).var()) for v in place.vectors.T)
    return spread(problem) * noise * weight(cell) / (2 * (1 - BETA[cell.optimizer]))


def measured(
    place: Place, seeds: range = range(3), steps: int = STEPS, *, hold: bool = False
) -> dict[str, Any]:
    """What runs restarted from a place do, as what a JSON document holds; losses are over their level.

    The grid goes on downwards until its smallest steps are well below where runs leave, and upwards until one
    is beyond.
    """
    cell, around, makes = place.problem.cell, expected(place), usual(place)
    control = restarted(place, np.array([cell.lr]), seeds, steps)
    level = float(control.end.mean())
    record = restarted(place, around * MULTIPLES, seeds, steps, hold=hold)
    for _ in range(3):
        leaves = edge(record.lrs, growth(record, makes))
        if leaves < 2 * record.lrs[0]:
            more = record.lrs[0] * MULTIPLES[:4] / MULTIPLES[4]
        elif leaves == math.inf:
            more = record.lrs[-1] * MULTIPLES[5:9]
        else:
            break
        record = record.joined(restarted(place, more, seeds, steps, hold=hold))
    return {
        "level": short(level),
        "usual": short(makes),
        "expected": short(around),
        "control": {"highest": short(control.highest / level), "late": short(control.late)},
        "runs": {
            "lrs": short(record.lrs),
            "early": short(record.early),
            "late": short(record.late),
            "highest": short(record.highest / level),
            "end": short(record.end / level),
        },
    }


def held(place: Place, steps: int = STEPS) -> float | None:
    """Where runs leave whose second moments stay those of the place; None of other optimizers than Adam."""
    if place.problem.cell.optimizer != "Adam":
        return None
    return short(told(measured(place, steps=steps, hold=True))["leaves"])


def described(place: Place) -> dict[str, Any]:
    """The place itself."""
    cell = place.problem.cell
    return {
        "network": cell.name,
        "optimizer": cell.optimizer,
        "batch": cell.batch,
        "lr": cell.lr,
        "kind": cell.kind,
        "parameters": place.problem.size,
        "samples": place.problem.samples,
        "trained": place.trained,
        "change": short(place.change),
        "curvatures": short(place.values),
        "deterministic": short(deterministic(cell, float(place.values[0]))),
        "exact": None if cell.kind == "network" else short(exact(place)),
    }


def flatter(place: Place, leaves: float, steps: int = STEPS) -> dict[str, float | None]:
    """The deterministic limit where runs at two and four times the edge end, over the place's own.

    None where they have diverged.
    """
    if not 0 < leaves < math.inf:
        return {}
    problem, found = place.problem, {}
    runs = Runs(problem, [2 * leaves, 4 * leaves], [0, 0], place.weights, place.state)
    for _ in range(steps):
        runs.step()
    for i, times in enumerate((2, 4)):
        w = runs.weights[i]
        if not torch.isfinite(w).all() or problem.total(w) > MOST:
            found[str(times)] = None
            continue
        here = leading(problem, w, rooted(w, runs.state(i)), 1)[0][0]
        found[str(times)] = short(float(place.values[0]) / here) if here > 0 else None
    return found


def exact(place: Place) -> float:
    """The mean-square limit of a linear cell in its optimizer's metric, from dense algebra."""
    problem, cell = place.problem, place.problem.cell
    rows = torch.cat([problem.X, torch.ones(problem.samples, 1)], 1)
    if cell.loss is logistic:
        chance = torch.sigmoid(rows @ place.weights)
        rows = rows * (chance * (1 - chance)).sqrt()[:, None]
    limit = exact_limit((rows * place.root).numpy(), spread(problem), BETA[cell.optimizer])
    return limit / weight(cell)


def short(values: Any, digits: int = 5) -> Any:
    """Rounded, for a document; None for what is not finite."""
    if np.ndim(values):
        return [short(value, digits) for value in values]
    return float(f"{float(values):.{digits}g}") if np.isfinite(values) else None
