"""Timing side by side: contenders take turns, medians count, and every contender's ensemble is checked."""

from __future__ import annotations

import gc
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, version

import numpy as np
from _problems import MAX_Z, Problem, expected, largest_z

PACKAGES = (
    "sfn-stability",
    "numpy",
    "scipy",
    "numba",
    "jax",
    "jaxlib",
    "diffrax",
    "torch",
    "torchsde",
    "sdeint",
)
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass(frozen=True)
class Contender:
    """Something that simulates (or draws) an ensemble.

    `run(seed)` returns the final states (paths, d), or None where there are none to check.
    """

    name: str
    variant: str
    run: Callable[[int], np.ndarray | None]
    paths: int
    steps: int

    def nanoseconds(self, seed: int) -> tuple[float, np.ndarray | None]:
        """Cost of one run per path-step, and what it returned."""
        gc.collect()
        began = time.perf_counter()
        states = self.run(seed)
        return (time.perf_counter() - began) * 1e9 / (self.paths * self.steps), states


def screened(
    variants: Iterable[Contender], near: float = 1.15, most: int = 2
) -> tuple[list[Contender], dict[str, float]]:
    """The variants of one library worth measuring, and every variant's cost in one run after warm-up.

    Those near its best in that run.
    """
    costs, kept = {}, []
    variants = list(variants)
    for contender in variants:
        contender.run(0)  # compiles
        costs[contender.variant] = contender.nanoseconds(1)[0] if len(variants) > 1 else 0.0
    for contender in sorted(variants, key=lambda c: costs[c.variant]):
        if costs[contender.variant] <= near * min(costs.values()) and len(kept) < most:
            kept.append(contender)
    return kept, costs


def side_by_side(problem: Problem, libraries: dict[str, list[Contender]], rounds: int) -> dict[str, dict]:
    """Medians over interleaved rounds: for each library that of its best variant."""
    chosen, screens = {}, {}
    for name, variants in libraries.items():
        chosen[name], screens[name] = screened(variants)
    costs: dict[tuple[str, str], list[float]] = {}
    finals: dict[tuple[str, str], np.ndarray | None] = {}
    for turn in range(rounds):
        for name, variants in chosen.items():
            for contender in variants:
                cost, finals[name, contender.variant] = contender.nanoseconds(2 + turn)
                costs.setdefault((name, contender.variant), []).append(cost)
    law = expected(problem) if any(states is not None for states in finals.values()) else None
    return {
        name: _best(name, variants, costs, finals, law, screens[name]) for name, variants in chosen.items()
    }


def _best(
    name: str,
    variants: list[Contender],
    costs: dict,
    finals: dict,
    law: dict | None,
    screen: dict[str, float],
) -> dict:
    best = min(variants, key=lambda c: float(np.median(costs[name, c.variant])))
    states = finals[name, best.variant]
    z = None if states is None or law is None else largest_z(states, law)
    return {
        **summary(costs[name, best.variant]),
        "variant": best.variant,
        "paths": best.paths,
        "steps": best.steps,
        "z": z,
        "right": z is None or z < MAX_Z,
        "screened": {variant: round(cost, 2) for variant, cost in screen.items()} if len(screen) > 1 else {},
    }


def summary(values: list[float]) -> dict:
    """Median and spread of repeated measurements, and the measurements."""
    return {
        "median": float(np.median(values)),
        "least": min(values),
        "most": max(values),
        "all": [float(f"{v:.5g}") for v in values],
    }


def pin(cores: int) -> None:
    """Confine this process, XLA's threads too, to `cores` cores; call it before NumPy's pools start."""
    if hasattr(os, "sched_setaffinity"):
        available = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, set(available[-cores:]))


def pinned_environment(cores: int) -> dict[str, str]:
    """Environment of a child process that may use `cores` threads."""
    flags = "--xla_cpu_multi_thread_eigen=false" if cores == 1 else ""
    return {
        **os.environ,
        **dict.fromkeys(THREAD_VARIABLES, str(cores)),
        "XLA_FLAGS": flags,
        "JAX_PLATFORMS": "cpu",
    }


def cores_available() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load_average() -> float | None:
    """How busy the machine is before anything is measured."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def environment() -> dict:
    """The machine and the versions, without names of hosts, people or folders."""
    return {
        "date": date.today().isoformat(),
        "cpu": _cpu(),
        "cores": cores_available(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "blas": _blas(),
        "pinning": "one child process per core count, confined by CPU affinity where the system has it (XLA "
        "sizes its thread pool by it); "
        + ", ".join(THREAD_VARIABLES)
        + " set to the core count; one core: --xla_cpu_multi_thread_eigen=false",
    }


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "from the source tree" if name == "sfn-stability" else "not installed"


def _blas() -> list[dict]:
    from threadpoolctl import threadpool_info

    wanted = (
        "internal_api",
        "version",
        "architecture",
        "threading_layer",
        "num_threads",
    )  # its other keys hold paths
    return [
        {key: pool[key] for key in wanted if pool.get(key) is not None}
        for pool in threadpool_info()
        if pool["user_api"] == "blas"
    ]


def say(message: str) -> None:
    """Progress, apart from the table."""
    print(message, file=sys.stderr, flush=True)
