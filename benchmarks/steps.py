"""What a step of the solver costs beside its gradient and products: seconds, memory, a million parameters.

python benchmarks/steps.py [--quick] [--out FILE]

Everything runs in one child process on one core; `million` alone on all cores, in a process of its own. A
full run (some minutes) writes benchmarks/results/steps.json.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
from _command import command
from _goals import Goal
from _measure import cores_available, pinned_environment, say, summary

INPUTS, HIDDEN, CLASSES, RANK = 784, (128, 64), 5, 20  # n = 109,061
MILLION = (1000, 210)  # hidden layers of a perceptron with n = 1,000,000 or so
HESSIAN_BATCH = 256
NOTES = [
    "overhead: CPU seconds of LRSFN(rank=20), momentum 0.9, spent in neither gradients nor Hessian products, "
    "against those that are; "
    "perceptron 784-128-64-5 (n = 109,061), Hessian batch 256. lazy: the default, over 600 steps; often: a "
    "refresh every 10 steps, over 60.",
    "wall: CPU seconds of step='auto' against Adam's, 24 sweeps over 1,000 samples of the MNIST digits 0-4, "
    "batches of 32.",
    "memory: numbers held at once beyond those of the objective, at the peak of a refresh and a step, "
    "against n (r + 10).",
    "million: perceptron 784-1000-210-5 (n = 996,265), r = 20, float32, all cores; gradient and Hessian "
    "batches of 256; resident memory of the process.",
]


def goals() -> list[Goal]:
    lazy = [
        Goal(f"overhead-{batch}-{width}", "lazy", "evaluations", goal, "most")
        for batch, width, goal in OVERHEADS
    ]
    often = [
        Goal(f"overhead-{batch}-{width}-often", "often", "evaluations", None, "most")
        for batch, width, _ in OVERHEADS
    ]
    wall = [Goal(f"wall-{width}", "auto", "adam", 2.0, "most") for width in ("float32", "float64")]
    memory = [Goal(f"memory-{width}", "step", "n(r+10)", 5.0, "most") for width in ("float32", "float64")]
    million = [
        Goal("million-memory", "step", "4 GiB", 1.0, "most"),
        Goal("million-seconds", "refresh", "plain", None, "most"),
    ]
    return [*lazy, *often, *wall, *memory, *million]


OVERHEADS = (
    ("256", "float32", 0.10),
    ("256", "float64", 0.10),
    ("32", "float32", None),
    ("32", "float64", None),
)


class Clocked:
    """An objective that adds up the CPU seconds of its gradients and products."""

    def __init__(self, objective: Any):
        self._objective, self.spent = objective, [0.0]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # of `copy`, before there is an objective
            raise AttributeError(name)
        return getattr(self._objective, name)

    def clocked(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            began = time.process_time()
            answer = function(*arguments, **options)
            self.spent[0] += time.process_time() - began
            return answer

        return run

    def value_and_gradient(self, w: np.ndarray, **options: Any) -> Any:
        return self.clocked(self._objective.value_and_gradient)(w, **options)

    def products(self, w: np.ndarray, **options: Any) -> Callable[[np.ndarray], np.ndarray]:
        return self.clocked(self.clocked(self._objective.products)(w, **options))


def perceptron(width: str, samples: int = 1024, hidden: tuple[int, ...] = HIDDEN) -> Any:
    from stability.objectives.network import mlp

    rng = np.random.default_rng(0)
    return mlp(
        rng.standard_normal((samples, INPUTS)),
        rng.integers(0, CLASSES, samples),
        hidden,
        classes=CLASSES,
        dtype=width,
    )


def options(batch: int) -> dict[str, Any]:
    import stability as st

    return {
        "method": st.LRSFN(rank=RANK, damping=0.1),
        "step": 0.01,
        "momentum": 0.9,
        "batch": batch,
        "hessian_batch": HESSIAN_BATCH,
    }


def overhead_cell(batch: int, width: str, refresh: int | None, rounds: int) -> dict:
    import stability as st

    F = Clocked(perceptron(width))
    w, name = F.initial(0), "lazy" if refresh is None else "often"
    seconds: dict[str, list[float]] = {name: [], "evaluations": []}
    for turn in range(rounds + 1):
        F.spent[0], began = 0.0, time.process_time()
        history = st.minimize(
            F, w, iterations=600 if refresh is None else 60, refresh=refresh, dtype=width, **options(batch)
        )
        taken = time.process_time() - began - F.spent[0]
        if turn:  # the first warms up
            seconds[name].append(taken)
            seconds["evaluations"].append(F.spent[0])
    return cell("s", seconds, n=F.dim, refreshes=len(history.refreshed_at))


def wall_cell(width: str, rounds: int) -> dict:
    import stability as st
    from stability import datasets
    from stability.objectives.network import mlp

    digits = datasets.mnist().only(range(CLASSES))
    F = mlp(digits.X[:1000], digits.y[:1000], HIDDEN, classes=CLASSES, dtype=width)
    contenders: dict[str, dict[str, Any]] = {
        "auto": {"step": "auto"},
        "adam": {"method": st.Adam(), "step": 1e-3},
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        for name, chosen in contenders.items():
            began = time.process_time()
            st.minimize(F, F.initial(0), batch=32, sweeps=24, dtype=width, **chosen)
            if turn:
                seconds[name].append(time.process_time() - began)
    return cell("s", seconds, n=F.dim)


def memory_cell(width: str) -> dict:
    import stability as st

    F = perceptron(width)
    w = F.initial(0)
    st.minimize(
        F, w, iterations=2, dtype=width, **options(256)
    )  # what is loaded on the way stays out of the count
    tracemalloc.start()
    st.minimize(F, w, iterations=4, refresh=2, dtype=width, **options(256))
    numbers = tracemalloc.get_traced_memory()[1] / np.dtype(width).itemsize
    tracemalloc.stop()
    return cell("numbers", {"step": [numbers], "n(r+10)": [float(F.dim * (RANK + 10))]}, n=F.dim)


def million_cells() -> dict[str, dict]:
    """Measured apart: resident memory is that of a process."""
    line = [sys.executable, __file__, "--million"]
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
    found = subprocess.run(
        line, env=pinned_environment(cores_available()), check=True, capture_output=True, text=True
    )
    return json.loads(found.stdout)


def million() -> dict[str, dict]:
    import resource

    import stability as st

    F = perceptron("float32", samples=1024, hidden=MILLION)
    history = st.minimize(F, F.initial(0), iterations=16, refresh=4, dtype="float32", **options(256))
    seconds = np.diff(history.seconds, prepend=0.0)
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    refreshed = np.arange(16) % 4 == 0
    return {
        "million-memory": cell("GiB", {"step": [resident], "4 GiB": [4.0]}, n=F.dim),
        "million-seconds": cell(
            "s",
            {
                "refresh": seconds[refreshed][1:].tolist(),
                "plain": seconds[~refreshed].tolist(),
                "cold": seconds[:1].tolist(),
            },
            n=F.dim,
        ),
    }


def cell(unit: str, values: dict[str, list[float]], **more: object) -> dict:
    return {
        "unit": unit,
        "contenders": {name: {**summary(v), "right": True} for name, v in values.items()},
        "absent": {},
        **more,
    }


def measured(quick: bool) -> dict:
    rounds, cells = 2 if quick else 5, {}
    for batch, width, _ in OVERHEADS:
        cells[f"overhead-{batch}-{width}"] = overhead_cell(int(batch), width, None, rounds)
        cells[f"overhead-{batch}-{width}-often"] = overhead_cell(int(batch), width, 10, rounds)
        say(f"overhead, batch {batch}, {width} done")
    cells |= {f"wall-{width}": wall_cell(width, rounds) for width in ("float32", "float64")}
    say("wall done")
    cells |= {f"memory-{width}": memory_cell(width) for width in ("float32", "float64")}
    return {"cells": {**cells, **million_cells()}, "notes": NOTES}


if __name__ == "__main__":
    if "--million" in sys.argv:
        print(json.dumps(million()))
    else:
        command(__file__, __doc__, measured, goals())
