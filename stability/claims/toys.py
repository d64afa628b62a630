"""The toy problems of the authors' public code, by our own iteration: Michalewicz and Rosenbrock.

Known of their protocol: Michalewicz d = 100, starts N(0, I), 100 iterations, step 1, SFN with damping 1e-4,
LRSFN with damping 1e-3 and ranks 10 to 90; Rosenbrock d = 10. All else is ours: Michalewicz's exponent (20),
everything about Rosenbrock, the seeds, no stopping rule. The numbers are ours, not the paper's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._saving import Study, provenance
from ..flow import Flow
from ..methods.method import LRSFN, SFN, SGD, DampedNewton, Method, Newton
from ..objectives.landscapes import landscape
from ._common import Check, Report

CURVES = 5
"""That a picture of one problem has at most."""
ITERATIONS, FAR = 100, 1e6
"""How many; a run farther than this from the mean start has diverged."""
PROBLEMS = {"michalewicz": (100, (10, 30, 50, 70, 90)), "rosenbrock": (10, (2, 5, 8, 10))}
STEPS = tuple(10.0**-k * factor for k in range(2, 7) for factor in (3.0, 1.0))
"""Gradient descent's, tried from the largest: from 3e-2 to 1e-6."""
INDEFINITE = 1e-3
"""LRSFN's damping: an end with an eigenvalue below minus this is called indefinite."""
FIELDS = ("step", "mean", "std", "median", "gradient", "smallest", "indefinite", "diverged", "size", "tail")
"""Of one method, over the starts that did not diverge: step; mean, standard deviation and median of the value
at the end; medians there of the gradient's norm, of the smallest eigenvalue and of the largest coordinate
(size); how many ends are indefinite, how many starts diverged, and `_tail`.
"""


@dataclass(frozen=True)
class _Runner:
    """One method from all starts, and what to call it."""

    name: str
    method: Method
    step: float = 1.0


def toys_study(*, quick: bool = False, seed: int = 0, report: Report = lambda text: None) -> Study:
    """Michalewicz and Rosenbrock with exact Hessians: 11 starts, 100 iterations at step 1.

    Starts have the seeds 0 to 10, shifted by `seed`.
    Gradient descent is given two steps of a grid: the largest at which no iterate of any start raises the
    value, and the one with the lowest median at the end.
    """
    starts = 3 if quick else 11
    arrays: dict[str, np.ndarray] = {"fields": np.array(FIELDS), "problems": np.array(list(PROBLEMS))}
    for name, (dim, ranks) in PROBLEMS.items():
        report(f"toys, {name}")
        objective = landscape(name, dim=dim)
        w = np.stack([np.random.default_rng(1000 * seed + k).standard_normal(dim) for k in range(starts)])
        runners = _second_order(ranks, dim) + _descents(objective, w)
        rows, values = zip(*(_carried_out(objective, one, w) for one in runners), strict=True)
        arrays |= {
            f"{name}_methods": np.array([one.name for one in runners]),
            f"{name}_table": np.array(rows),
            f"{name}_values": np.array(values),
            f"{name}_shown": np.array(_shown(runners, rows, dim)),
        }
    parameters = {
        "iterations": ITERATIONS,
        "starts": starts,
        "seed": seed,
        "dims": [dim for dim, _ in PROBLEMS.values()],
        "indefinite": INDEFINITE,
    }
    return Study("toys", arrays, parameters, provenance())


def _shown(runners: list[_Runner], rows: Sequence[list[float]], dim: int) -> list[str]:
    """The methods that a picture has curves for: of each kind the lowest median that some start reached."""
    medians = {one: row[FIELDS.index("median")] for one, row in zip(runners, rows, strict=True)}
    truncated = [one for one in runners if one.method.rank is not None and one.method.rank < dim]
    kinds = [[one] for one in runners if one.name in ("SFN", "Newton", "damped Newton", "SGD, best step")]
    for flat in (False, True):
        kinds.append([one for one in truncated if one.name.endswith("flat tail") is flat])
    reached = [[one for one in kind if np.isfinite(medians[one])] for kind in kinds]
    return [min(kind, key=lambda one: medians[one]).name for kind in reached if kind][:CURVES]


def _second_order(ranks: tuple[int, ...], dim: int) -> list[_Runner]:
    runners = [_Runner("SFN", SFN(damping=1e-4))]
    for tail in ("damping", "flat"):
        runners += [
            _Runner(
                f"LRSFN({r})" + (" flat tail" if tail == "flat" else ""),
                LRSFN(rank=r, damping=1e-3, tail=tail),
            )
            for r in ranks
            if r < dim or tail == "damping"
        ]
    return [*runners, _Runner("Newton", Newton()), _Runner("damped Newton", DampedNewton(damping=1e-3))]


def _descents(objective: Any, w: np.ndarray) -> list[_Runner]:
    """Gradient descent at the two chosen steps."""
    ends: dict[float, float] = {}
    monotone = STEPS[-1]
    for step in STEPS:
        states, lost = _run(objective, SGD(), step, w)
        values = objective.value(states)
        if lost.any():
            continue
        ends[step] = float(np.median(values[-1]))
        # Beyond rounding: at its end a descent may wander by that.
        if not (np.diff(values, axis=0) > 1e-12 * np.abs(values[:-1])).any():
            monotone = max(monotone, step)
    best = min(ends, key=lambda step: ends[step])
    return [_Runner("SGD, monotone", SGD(), monotone), _Runner("SGD, best step", SGD(), best)]


def _run(objective: Any, method: Method, step: float, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """States (iterations + 1, starts, d), frozen where a run diverged, and which did."""
    flow, center = Flow(objective, method, step=step), w.mean(axis=0)
    rng = np.random.default_rng(0)  # there is no noise to draw
    for start in w:
        flow.drift(start)  # an error where the method is singular
    states, lost = [w], np.zeros(len(w), dtype=bool)
    with np.errstate(all="ignore"):
        for _ in range(ITERATIONS):
            ahead = flow.iterate(states[-1], rng)
            # The denied comparison counts nan as lost.
            lost = lost | ~(np.linalg.norm(ahead - center, axis=-1) <= FAR)
            states.append(np.where(lost[:, None], states[-1], ahead))
    return np.stack(states), lost


def _carried_out(objective: Any, one: _Runner, w: np.ndarray) -> tuple[list[float], np.ndarray]:
    """A row of the table and the values (iterations + 1, starts), nan from where a run diverged.

    All nan where the method is singular at a start.
    """
    try:
        states, lost = _run(objective, one.method, one.step, w)
    except ValueError:  # the curvature is singular
        return [one.step, *[np.nan] * (len(FIELDS) - 1)], np.full((ITERATIONS + 1, len(w)), np.nan)
    values, kept = objective.value(states), ~lost
    moved = np.any(np.diff(states[:, lost], axis=0) != 0, axis=-1)
    for start, still in zip(np.flatnonzero(lost), moved.T, strict=True):
        # Move m leads from state m to m + 1: the state after the last move's is the first that was frozen.
        values[np.flatnonzero(still)[-1] + 2 if still.any() else 1 :, start] = np.nan
    ends = states[-1][kept]
    gradient = np.linalg.norm(objective.gradient(ends), axis=-1)
    smallest = np.linalg.eigvalsh(objective.hessian(ends))[:, 0]
    final = values[-1, kept] if kept.any() else np.array([np.nan])
    spread = float(final.std(ddof=1)) if len(final) > 1 else np.nan
    row = [one.step, float(final.mean()), spread, float(np.median(final))]
    row += [_median(gradient), _median(smallest), float(np.sum(smallest < -INDEFINITE))]
    row += [float(lost.sum()), _median(np.abs(ends).max(axis=-1))]
    return [*row, _tail(objective, one, w)], values


def _median(values: np.ndarray) -> float:
    return float(np.median(values)) if len(values) else np.nan


def _tail(objective: Any, one: _Runner, w: np.ndarray) -> float:
    """Step times gain times the largest positive eigenvalue off the kept ones, at the median start.

    Gradient descent there is unstable above 2.
    """
    if one.method.rank is None or one.method.rank >= w.shape[-1]:
        return np.nan
    lams = np.linalg.eigvalsh(objective.hessian(w))
    lams = np.take_along_axis(lams, np.argsort(-np.abs(lams), axis=-1), axis=-1)[:, one.method.rank :]
    gain = np.asarray(one.method.tail_gain(lams[:, 0]))
    return float(np.median(one.step * gain * np.maximum(lams.max(axis=-1), 0)))


def check_toys(study: Study) -> list[Check]:
    """What diverges, and what ends at saddles, by counts of starts."""
    return [check for problem in study["problems"] for check in _checks(study, str(problem))]


def _checks(study: Study, problem: str) -> list[Check]:
    """The tail is gradient descent at ``step / gamma``: which ranks diverge at step 1, and which do not.

    Stable below ``step lam / gamma = 2``; a flat tail's gain keeps it below 1 at step 1.
    """
    fields, starts = [str(name) for name in study["fields"]], study.parameters["starts"]
    row = {
        str(name): dict(zip(fields, values, strict=True))
        for name, values in zip(study[f"{problem}_methods"], study[f"{problem}_table"], strict=True)
    }
    least = PROBLEMS[problem][1][0]
    damped, flat = row[f"LRSFN({least})"], row[f"LRSFN({least}) flat tail"]
    checks = [
        Check(
            f"{problem}: LRSFN({least}) diverges at step 1 from every start, its tail beyond gradient "
            "descent's limit 2",
            bool(damped["diverged"] == starts and damped["tail"] > 2),
            f"{damped['diverged']:g} of {starts} starts, step x tail's largest rate there "
            f"{damped['tail']:.1g} (median)",
        ),
        Check(
            f"{problem}: with the flat tail from fewer",
            bool(flat["diverged"] < damped["diverged"]),
            f"{flat['diverged']:g} of {starts} starts",
        ),
    ]
    if problem == "michalewicz":
        sfn, newton = row["SFN"], row["damped Newton"]
        detail = (
            f"of {starts} ends indefinite: damped Newton {newton['indefinite']:g}, SFN {sfn['indefinite']:g}"
        )
        checks.append(
            Check(
                "michalewicz: damped Newton, which saddles attract, ends at more of them than SFN",
                bool(newton["indefinite"] > sfn["indefinite"]),
                detail,
            )
        )
    return checks


def toys_table(study: Study) -> str:
    """The values at the end and what kind of point it is."""
    starts, lines = study.parameters["starts"], []
    for problem, dim in zip(study["problems"], study.parameters["dims"], strict=True):
        lines.append(
            f"{problem}, d = {dim}, {starts} starts, {study.parameters['iterations']} iterations (ours, not "
            "the paper's numbers)"
        )
        lines.append(
            f"{'method':<20} {'step':>7} {'mean':>10} {'+- std':>10} {'median':>10} {'|g|':>8} "
            f"{'min. eig':>9} {'indefinite':>10} {'lost':>6} {'max |x|':>8}"
        )
        for name, row in zip(study[f"{problem}_methods"], study[f"{problem}_table"], strict=True):
            lines.append(f"{name:<20} {row[0]:>7.1g} {_cells(row, starts)}")
    lines.append(
        "values at the end over the starts that did not diverge; |g|, min. eig, max |x|: medians there"
    )
    return "\n".join(
        [*lines, f"indefinite: ends with an eigenvalue below -{INDEFINITE:g}; lost: starts that diverged"]
    )


def _cells(row: np.ndarray, starts: int) -> str:
    _, mean, spread, median, gradient, smallest, indefinite, lost, size, _ = row
    if np.isnan(lost):
        return "singular at a start"
    if lost == starts:
        return f"{'':>60} {f'{lost:g}/{starts}':>6}"
    kinds = (
        f"{gradient:>8.1e} {smallest:>9.1e} {f'{indefinite:g}/{starts - lost:g}':>10} "
        f"{f'{lost:g}/{starts}':>6} {size:>8.2g}"
    )
    return f"{mean:>10.4g} {spread:>10.3g} {median:>10.4g} {kinds}"
