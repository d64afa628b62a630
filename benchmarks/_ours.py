"""This library as a contender: ensembles, covariances to a given accuracy, and how the cost scales."""

from __future__ import annotations

import functools
import inspect
import math
import time
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
from _measure import Contender, summary
from _problems import DAMPING, MAX_Z, Problem

import stability as st

ENGINES = {"numba": True, "numpy": False}
"""Values of `accelerate`."""


@functools.cache
def takes(argument: str) -> bool:
    """Whether this version of `st.simulate` has the argument: some are named by its docstring alone."""
    return f"\n{argument} : " in inspect.getdoc(st.simulate)


def unavailable(engine: str) -> str | None:
    """Why an engine cannot be measured; None if it can. Without `accelerate` there is NumPy only."""
    if engine == "numba" and not takes("accelerate"):
        return "st.simulate has no `accelerate` yet: there is the NumPy engine only."
    if engine == "numba" and find_spec("numba") is None:
        return "numba is not installed (extra `fast`)."
    return None


def options(engine: str) -> dict:
    return {"accelerate": ENGINES[engine]} if takes("accelerate") else {}


def contender(problem: Problem, engine: str, workers: int) -> Contender:
    """One of our engines on one problem."""
    flow, start = problem.flow(), problem.start

    def run(seed: int) -> np.ndarray:
        return simulate(flow, start, problem, seed, engine, workers).states[-1]

    return Contender(engine, f"{workers} thread{'s' * (workers > 1)}", run, problem.paths, problem.steps)


def simulate(flow, start, problem: Problem, seed: int, engine: str, workers: int) -> st.results.Ensemble:
    return st.simulate(
        flow,
        start=start,
        t_end=problem.t_end,
        dt=problem.dt,
        paths=problem.paths,
        seed=seed,
        workers=workers,
        **options(engine),
    )


# --- covariance to a given accuracy ---


def covariance_race(step: float, target: float, rounds: int) -> dict:
    """Seconds until a weakly nonlinear flow's variances are known to `target`, with and without control."""
    control = takes("control")
    minimum = [1.0, 0.0]
    linearized = {"control": True} | (
        {"at": minimum} if takes("at") else {}
    )  # the objective's own reference is its saddle
    kinds = {"plain": {}} | ({"controlled": linearized} if control else {})
    flow = st.Flow(
        st.landscape("coupled_quartic"), st.SFN(damping=DAMPING), st.Noise(gradient=0.5), step=step
    )
    slowest = float(np.min(np.abs(st.linearize(flow, at=minimum).rates)))
    t_end = math.ceil(10 / slowest / step) * step
    run = functools.partial(_variances, flow, t_end)
    paths = {kind: _paths_needed(functools.partial(run, **extra), target) for kind, extra in kinds.items()}
    found: dict[str, list] = {kind: [] for kind in kinds}
    for turn in range(rounds):
        for kind, extra in kinds.items():
            began = time.perf_counter()
            variance, error = run(seed=1 + turn, paths=paths[kind], **extra)
            found[kind].append((time.perf_counter() - began, variance, error))
    result = {kind: _covered(rows, paths[kind]) for kind, rows in found.items()}
    agree = not control or _agree(found["plain"], found["controlled"])
    return {"step": step, "target": target, "t_end": t_end, "control": control, "right": agree, **result}


def _variances(
    flow: st.Flow, t_end: float, *, seed: int, paths: int, **extra
) -> tuple[np.ndarray, np.ndarray]:
    """Stationary variances and their standard errors, one thread."""
    ens = st.simulate(flow, start=[1.0, 0.0], t_end=t_end, paths=paths, seed=seed, workers=1, **extra)
    return np.diag(ens.covariance[-1]).copy(), np.diag(ens.covariance_error[-1]).copy()


def _paths_needed(run, target: float) -> int:
    """Paths that bring the median standard error to the target, whatever the seed: from 128 on."""
    paths = 128
    while True:
        error = float(
            np.median(
                [
                    np.max(error / variance)
                    for variance, error in (
                        run(seed=100 + i, paths=paths) for i in range(5 if paths < 4096 else 1)
                    )
                ]
            )
        )
        if error <= target:
            return paths
        paths = max(math.ceil(1.2 * paths), min(4 * paths, math.ceil(paths * (error / target) ** 2)))


def _covered(rows: list, paths: int) -> dict:
    return {
        **summary([row[0] for row in rows]),
        "paths": paths,
        "relative_error": float(np.median([np.max(row[2] / row[1]) for row in rows])),
    }


def _agree(plain: list, controlled: list) -> bool:
    """Whether every controlled estimate agrees, within both errors, with the pooled plain estimate."""
    truth, doubt = (
        np.mean([row[1] for row in plain], axis=0),
        np.linalg.norm([row[2] for row in plain], axis=0) / len(plain),
    )
    return all(bool(np.all(np.abs(row[1] - truth) < MAX_Z * np.hypot(row[2], doubt))) for row in controlled)


# --- scaling ---


def scaling(quick: bool, threads: int) -> list[dict]:
    """Our cost per path-step along each size, on one thread."""
    shrink = 10 if quick else 1
    base = Problem("ou", 2, 10_000, 100)
    curves = {
        ("paths", "OU d = 2"): [(n, replace(base, paths=n)) for n in _decades(2, 5 if quick else 6)],
        ("steps", "OU d = 2"): [
            (n, replace(base, paths=4096, steps=n)) for n in _decades(1, 3 if quick else 4)
        ],
        ("d", "OU"): [(d, Problem("ou", d, _whole(200_000 // shrink // d), 50)) for d in _doublings(1, 256)],
        ("d", "SFN"): [(d, Problem("sfn", d, 2048, max(4, 128 // d))) for d in _doublings(2, 32)],
    }
    return [
        _curve(axis, name, engine, points)
        for (axis, name), points in curves.items()
        for engine in ENGINES
        if not unavailable(engine)
    ]


def thread_scaling(quick: bool, threads: int) -> list[dict]:
    """Our cost per path-step on 1 to `threads` threads."""
    shrink = 4 if quick else 1
    sizes = {
        "OU d = 16": ("ou", 16, 20_480),
        "OU d = 128": ("ou", 128, 4_096),
        "SFN d = 8": ("sfn", 8, 4_096),
    }
    problems = {name: Problem(*size, steps=48 // shrink) for name, size in sizes.items()}
    counts = sorted({1, *(n for n in _doublings(1, threads)), threads})
    return [
        _curve("threads", name, engine, [(count, problem) for count in counts], threads=True)
        for name, problem in problems.items()
        for engine in ENGINES
        if not unavailable(engine)
    ]


def _curve(axis: str, name: str, engine: str, points: list, threads: bool = False, rounds: int = 3) -> dict:
    """One curve; the points take turns, as contenders do."""
    runners = [contender(problem, engine, x if threads else 1) for x, problem in points]
    costs: list[list[float]] = [[] for _ in runners]
    for turn in range(rounds + 1):  # the first turn warms up
        for runner, own in zip(runners, costs, strict=True):
            own.append(runner.nanoseconds(turn)[0])
    medians = [float(np.median(own[1:])) for own in costs]
    return {"axis": axis, "problem": name, "engine": engine, "x": [x for x, _ in points], "ns": medians}


def _decades(first: int, last: int) -> list[int]:
    return [10**k for k in range(first, last + 1)]


def _whole(paths: int) -> int:
    """About `paths`, without a half-empty block at the end."""
    return max(1, round(paths / 2048)) * 2048


def _doublings(first: int, last: int) -> list[int]:
    found = [first]
    while found[-1] * 2 <= last:
        found.append(found[-1] * 2)
    return found
