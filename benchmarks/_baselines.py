"""The contenders at equal work: what is tried of each, how the best is chosen, how it is judged."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from _tasks import Problem, Task

import stability as st
from stability.lowrank.operator import BadProducts

TUNING_SEEDS, FINALISTS = (1000, 1001), 3
"""Every configuration is run on the first tuning seed, the best few on the second one too; neither is a final
seed.
"""
LOOKS = 1.1
"""How much later than the last one the next look at the validation samples is, for methods that may stop
early.
"""
AVERAGE = 0.2
SCHEDULES = {
    f"constant, mean of the last {AVERAGE:.0%}": {"average": AVERAGE},
    "linear decay": {"decay": "linear"},
}


@dataclass(frozen=True)
class Configuration:
    """One way to run a contender.

    Attributes
    ----------
    label : str
    options : dict
        Of `st.minimize`.
    tuned : dict
        The tuned numbers by name: a choice at the edge of the grid is reported.
    share : float
        Of the training samples; at equal work fewer samples are more passes.
    early : bool
        Return the iterate that was best on the validation samples, at no charge.
    """

    label: str
    options: dict[str, Any] = field(default_factory=dict)
    tuned: dict[str, float] = field(default_factory=dict)
    share: float = 1.0
    early: bool = False


@dataclass(frozen=True)
class Outcome:
    """One run, judged."""

    validation: float
    test: float
    sweeps: float
    products: int
    seconds: float
    diverged: bool


def run(task: Task, configuration: Configuration, seed: int) -> Outcome:
    """One run on one seed; one that ends at no finite numbers, or worse than it began, has diverged."""
    problem = task.make(seed)
    objective = problem.objective if configuration.share == 1 else problem.portion(configuration.share)
    options: dict[str, Any] = {
        "sweeps": task.sweeps / configuration.share,
        "seed": seed,
        "dtype": task.dtype,
        **configuration.options,
    }
    best = _Best(problem) if configuration.early else None
    if not isinstance(options.get("method"), str):
        options["batch"] = task.batch
    with np.errstate(all="ignore"):
        try:
            history = st.minimize(objective, problem.start, callback=best, **options)
        except BadProducts:  # far from anything sensible, where a Hessian is rounding errors
            return Outcome(math.inf, math.inf, math.nan, 0, math.nan, True)
        if best is not None:
            best.look(history.final)
        w = history.final if best is None else best.w
        validation, test, start = problem.validation(w), problem.test(w), problem.test(problem.start)
    diverged = history.diverged or not math.isfinite(test) or test > 1.001 * start
    return Outcome(
        validation=validation if math.isfinite(validation) else math.inf,
        test=test if math.isfinite(test) else math.inf,
        sweeps=history.stats["sweeps"] * configuration.share,
        products=history.stats["hessian_products"],
        seconds=history.stats["seconds"],
        diverged=diverged,
    )


class _Best:
    """A callback that keeps the iterate with the lowest validation value, looked at ever more rarely."""

    def __init__(self, problem: Problem):
        self.problem, self.next = problem, 0.0
        self.w, self.value = problem.start, math.inf

    def __call__(self, progress: Any) -> None:
        if progress.sweeps >= self.next:
            self.next = LOOKS * progress.sweeps
            self.look(progress.w)

    def look(self, w: np.ndarray) -> None:
        value = self.problem.validation(w)
        if value < self.value:
            self.w, self.value = np.array(w), value


# -- grids: sixteen to eighteen configurations each, ten where a method chooses its own steps ------


def _stepped(low: float, high: float, **options: Any) -> list[Configuration]:
    return [
        Configuration(f"step {step:.3g}, {name}", {**options, "step": step, **schedule}, {"step": step})
        for step, (name, schedule) in itertools.product(
            np.geomspace(low, high, 9).tolist(), SCHEDULES.items()
        )
    ]


def _whole(name: str) -> list[Configuration]:
    return [
        Configuration(
            f"{share:.3g} of the samples{', stopped early' if early else ''}",
            {"method": name},
            {"share": share},
            share=share,
            early=early,
        )
        for share, early in itertools.product((1.0, 0.25, 0.0625, 0.015625, 0.00390625), (False, True))
    ]


def _published() -> list[Configuration]:
    """A new cold decomposition at every step, on small Hessian batches, with a small fixed damping."""
    return [
        Configuration(
            f"rank {rank}, Hessian batch {size}, step {step:.3g}",
            {
                "method": st.LRSFN(rank=rank, damping=1e-3),
                "step": step,
                "hessian_batch": size,
                "refresh": 1,
                "warm": False,
                "eigensolver": "double-pass",
            },
            {"step": step},
        )
        for (rank, size), step in itertools.product(((10, 8), (20, 32)), np.geomspace(1e-5, 1, 8).tolist())
    ]


def _lazy() -> list[Configuration]:
    """The library's defaults: refreshes within 15 % of the gradient work, warm starts; damping, step tuned.

    With the schedule of `auto`.
    """
    return [
        Configuration(
            f"damping {damping:.3g}, step {step:g}",
            {
                "method": st.LRSFN(rank=20, damping=damping),
                "step": step,
                "hessian_batch": 96,
                "momentum": 0.9,
                "decay": "sqrt",
                "average": AVERAGE,
            },
            {"damping": damping},
        )
        for damping, step in itertools.product(np.geomspace(1e-6, 10, 8).tolist(), (0.03, 0.1))
    ]


CONTENDERS: dict[str, Callable[[Task], list[Configuration]]] = {
    "SGD": lambda task: _stepped(0.01 * task.unit_step, 100 * task.unit_step, method=st.SGD()),
    "momentum": lambda task: _stepped(
        0.001 * task.unit_step, 10 * task.unit_step, method=st.SGD(), momentum=0.9
    ),
    "Adam": lambda task: _stepped(1e-4 * task.weight_size, 1.0 * task.weight_size, method=st.Adam()),
    "L-BFGS": lambda task: _whole("L-BFGS-B"),
    "Newton-CG": lambda task: _whole("Newton-CG"),
    "LRSFN as published": lambda task: _published(),
    "LRSFN tuned": lambda task: _lazy(),
    "auto": lambda task: [Configuration("nothing tuned", {"step": "auto"})],
}


# -- choosing and judging --------------------------------------------------------------------------


def measured(
    task: Task, contender: str, seeds: Sequence[int], *, tried: slice = slice(None)
) -> dict[str, Any]:
    """The configuration chosen on validation values of those `tried`, and its test values on other seeds."""
    grid = CONTENDERS[contender](task)
    grid = grid[tried] or grid
    chosen, tuning = _chosen(task, grid)
    outcomes = [run(task, chosen, seed) for seed in seeds]
    tests = [outcome.test for outcome in outcomes]
    return {
        "task": task.name,
        "contender": contender,
        "chosen": chosen.label,
        "edge": _at_an_edge(chosen, grid),
        "tuning": {label: _short(value) for label, value in tuning.items()},
        "tests": [_short(test) for test in tests],
        "mean": _short(float(np.mean(tests))),
        "std": _short(float(np.std(tests, ddof=1)))
        if len(tests) > 1 and np.all(np.isfinite(tests))
        else None,
        "diverged": sum(outcome.diverged for outcome in outcomes),
        "sweeps": _short(float(np.mean([outcome.sweeps for outcome in outcomes]))),
        "products": round(float(np.mean([outcome.products for outcome in outcomes]))),
        "seconds": _short(float(np.median([outcome.seconds for outcome in outcomes]))),
    }


def _at_an_edge(chosen: Configuration, grid: list[Configuration]) -> bool:
    """Whether a tuned number is the smallest or largest tried; more than all samples there are not."""
    for name, value in chosen.tuned.items():
        tried = {configuration.tuned[name] for configuration in grid}
        if value in (min(tried), max(tried)) and (name, value) != ("share", 1.0):
            return True
    return False


def _chosen(task: Task, grid: list[Configuration]) -> tuple[Configuration, dict[str, float]]:
    if len(grid) == 1:
        return grid[0], {}
    first, second = TUNING_SEEDS
    values = {configuration.label: run(task, configuration, first).validation for configuration in grid}
    ranked = sorted(grid, key=lambda configuration: values[configuration.label])[:FINALISTS]
    finals = {
        c.label: 0.5 * (values[c.label] + run(task, c, second).validation)
        for c in ranked
        if math.isfinite(values[c.label])
    }
    return min(ranked, key=lambda configuration: finals.get(configuration.label, math.inf)), values


def _short(value: float) -> float | None:
    """Five digits; None for what is not finite, as JSON has no such numbers."""
    return float(f"{value:.5g}") if math.isfinite(value) else None


def with_sweeps(task: Task, share: float) -> Task:
    """The same task with a part of its budget."""
    return replace(task, sweeps=share * task.sweeps)
