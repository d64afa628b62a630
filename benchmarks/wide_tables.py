"""Bounds of a table of thousands of columns: seconds and memory of every row, and what 2 / lambda says.

python benchmarks/wide_tables.py [--quick] [--out FILE]

10,000 rows of 2,000 sparse standardised columns with an intercept, logistic; gradient batches of 64, Hessian
batches of 256. One child process on all cores (at most two). A full run (some minutes) writes
benchmarks/results/wide_tables.json; --quick takes 2,000 rows of 300 columns and writes nothing.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from _command import command
from _goals import Goal
from _measure import say, summary

BATCH, HESSIAN_BATCH, RANK, DAMPING = 64, 256, 10, 0.1
NOTES = [
    "seconds: on the clock, beside the load in `environment`; processor: of all threads, which other work "
    "changes little.",
    "sgd-lrsfn: seconds of the fit, the spectrum and SGD's and LRSFN's rows; all: of every row; against 60 "
    "and 300 s on two idle cores.",
    "memory: resident memory at its peak, against 6 GB.",
    "deterministic: 2 / lambda over SGD's mean-square limit, for information.",
]


def goals() -> list[Goal]:
    return [
        Goal("sgd-lrsfn", "seconds", "60 s", 1.0, "most"),
        Goal("all", "seconds", "300 s", 1.0, "most"),
        Goal("memory", "peak", "6 GB", 1.0, "most"),
        Goal("deterministic", "limit", "2 / lambda", None),
    ]


def measured(quick: bool) -> dict[str, Any]:
    import stability as st

    F, methods = _objective(2_000, 300) if quick else _objective(10_000, 1_999), _methods(st)
    seconds, processor = {}, {}

    def timed(name: str, work: Callable[[], Any]) -> None:
        clock, used = time.perf_counter(), time.process_time()
        work()
        seconds[name], processor[name] = time.perf_counter() - clock, time.process_time() - used

    timed("fit", lambda: F.reference)
    noise = st.Noise.from_data(F, batch=BATCH, hessian_batch=HESSIAN_BATCH)
    point: list[Any] = []
    flow = st.Flow(F, st.SGD(), noise, step=0.01)
    timed("spectrum", lambda: point.append(st.linearize(flow)))
    limits = {}
    for name, method in methods.items():
        linear = point[0].under(method)
        timed(name, lambda linear=linear: _row(st, linear))
        limits[name] = linear.step_limit()
        say(
            f"{name}: limit {limits[name]:.6g}, {seconds[name]:.1f} s ({processor[name]:.1f} s of processors)"
        )
    first = sum(seconds[name] for name in ("fit", "spectrum", "SGD", "LRSFN", "LRSFN flat"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    cells = {
        "sgd-lrsfn": _cell("seconds", first, "60 s", 60.0),
        "all": _cell("seconds", sum(seconds.values()), "300 s", 300.0),
        "memory": _cell("peak", peak, "6 GB", 6.0, unit="GB"),
        "deterministic": _cell("limit", limits["SGD"], "2 / lambda", 2 / point[0].eigenvalues[0], unit=""),
    }
    return {"cells": cells, "notes": NOTES, "seconds": seconds, "processor": processor, "limits": limits}


def _objective(n: int, columns: int) -> Any:
    import stability as st

    rng = np.random.default_rng(1)
    X = (rng.random((n, columns)) < 0.05) * rng.lognormal(0, 0.5, (n, columns))
    X = np.hstack([(X - X.mean(axis=0)) / X.std(axis=0), np.ones((n, 1))])
    return st.logistic(X, X[:, :40].sum(axis=1) / 6 + rng.standard_normal(n) > 0, l2=0.01)


def _methods(st: Any) -> dict[str, Any]:
    lrsfn = {tail: st.LRSFN(rank=RANK, damping=DAMPING, tail=tail) for tail in ("damping", "flat")}
    rest = {"damped Newton": st.DampedNewton(damping=DAMPING), "SFN": st.SFN(damping=DAMPING)}
    return {
        "SGD": st.SGD(),
        "LRSFN": lrsfn["damping"],
        "LRSFN flat": lrsfn["flat"],
        **rest,
        "Newton": st.Newton(),
    }


def _row(st: Any, linear: Any) -> None:
    """What a row of `st.bounds` asks at order 1."""
    linear.limit()
    try:
        linear.excess_risk()
    except st.Unstable:
        say("no stationary covariance at this step")
    assert linear.valid_from >= 1


def _cell(ours: str, found: float, theirs: str, goal: float, *, unit: str = "s") -> dict[str, Any]:
    values = {ours: found, theirs: goal}
    contenders = {name: {**summary([value]), "right": True} for name, value in values.items()}
    return {"unit": unit, "contenders": contenders, "absent": {}}


if __name__ == "__main__":
    command(__file__, __doc__ or "", measured, goals(), cores=2)
