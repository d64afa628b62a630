"""Optimizers at equal work: every gradient and product charged, steps tuned for all but `auto`.

python benchmarks/training.py [--quick] [--only PATTERN] [--again] [--jobs 2] [--out FILE]

A cell is one contender on one task; each is written when it is done, and a run that was stopped goes on where
it was. A full run writes benchmarks/results/training.json; --quick (a few configurations, two seeds) only
where --out says. `--only` takes a regular expression on "task|contender" (crossover cells: "crossover
KAPPA|contender"); `--again` measures the matching cells once more; `--table` prints what has been measured.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import sys
import time
import zlib
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

RESULT = Path(__file__).parent / "results" / "training.json"
SEEDS, CROSSOVER_SEEDS = range(100, 105), range(100, 103)
"""That nothing was chosen on: constants of `auto` were tried on 0 to 9 and 200 to 207, the baselines'
settings on their own two.
"""
CONDITIONS = tuple(10.0**k for k in (1, 2, 3, 3.5, 4, 4.5, 5))
MODELS, CROSSING = ("least-squares", "logistic"), ("SGD", "momentum", "Adam", "LRSFN tuned", "auto")


def main() -> None:
    arguments = _arguments()
    if find_spec("stability") is None:
        sys.exit(
            "stability is not importable here: install it (pip install -e .) or set PYTHONPATH to the "
            "repository."
        )
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"  # before NumPy is loaded, here and in the processes that follow
    from _training_table import tables

    document = _opened(arguments)
    if not arguments.table:
        _measure(document, arguments)
    print(tables(document))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="every fifth configuration, two seeds, a fifth of the sweeps"
    )
    parser.add_argument("--only", default="", metavar="PATTERN", help="cells whose name matches")
    parser.add_argument(
        "--again", action="store_true", help="measure the matching cells even if they are there"
    )
    parser.add_argument("--table", action="store_true", help="measure nothing, print the tables of --out")
    parser.add_argument("--jobs", type=int, default=2, help="processes, one thread each")
    parser.add_argument("--out", type=Path, help=f"default: results/{RESULT.name}; with --quick: nowhere")
    arguments = parser.parse_args()
    if arguments.out is None and not arguments.quick:
        arguments.out = RESULT
    return arguments


def _cells() -> list[tuple[str, str, str, tuple[Any, ...]]]:
    """Every cell: its section of the document, its name, and what to measure; the longest first."""
    from _baselines import CONTENDERS
    from _tasks import TASKS

    order = sorted(CONTENDERS, key=lambda name: name != "LRSFN as published" and name != "LRSFN tuned")
    large = sorted(TASKS, key=lambda task: (task.dtype == "float64", task.kind == "linear"))
    cells: list[tuple[str, str, str, tuple[Any, ...]]] = [
        ("cells", f"{task.name}|{name}", name, (task.name,)) for task in large for name in order
    ]
    for model in MODELS:
        cells += [
            ("crossover", f"crossover {model} {k:.3g}|{name}", name, (model, k))
            for k in CONDITIONS
            for name in CROSSING
        ]
    return cells


def measure(section: str, contender: str, what: tuple[Any, ...], quick: bool) -> dict[str, Any]:
    """One cell, in a process of its own."""
    from _baselines import measured, with_sweeps
    from _tasks import TASKS, crossover

    task = (
        crossover(what[1], what[0])
        if section == "crossover"
        else next(task for task in TASKS if task.name == what[0])
    )
    seeds = (CROSSOVER_SEEDS if section == "crossover" else SEEDS)[: 2 if quick else None]
    began = time.perf_counter()
    tried = slice(1, None, 5) if quick else slice(None)
    found = measured(with_sweeps(task, 0.2) if quick else task, contender, seeds, tried=tried)
    if section == "crossover":
        found |= {"model": what[0], "condition": what[1]}
    return {**found, "took": round(time.perf_counter() - began, 1)}


def _measure(document: dict[str, Any], arguments: argparse.Namespace) -> None:
    wanted = [
        cell
        for cell in _cells()
        if re.search(arguments.only, cell[1]) and (arguments.again or cell[1] not in document[cell[0]])
    ]
    began = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(arguments.jobs, mp_context=context) as pool:
        running: dict[Future, tuple[str, str]] = {}
        for section, name, contender, what in wanted:
            running[pool.submit(measure, section, contender, what, arguments.quick)] = section, name
        try:
            for count, done in enumerate(as_completed(running), 1):
                section, name = running[done]
                document[section][name] = found = done.result()
                _write(document, arguments.out)
                share = f"[{count}/{len(wanted)}, {time.perf_counter() - began:.0f} s]"
                print(
                    f"{share} {name}: {found['mean']} ({found['chosen']}), {found['took']} s",
                    file=sys.stderr,
                    flush=True,
                )
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in (
                multiprocessing.active_children()
            ):  # what is done is written; what is not need not be waited for
                process.terminate()
            raise
    document["seconds"] = round(document.get("seconds", 0) + time.perf_counter() - began)
    _write(document, arguments.out)


def _opened(arguments: argparse.Namespace) -> dict[str, Any]:
    """The document to go on with, or a new one."""
    fresh = _document(arguments.quick)
    if arguments.out is None or not arguments.out.exists():
        return fresh
    found = json.loads(arguments.out.read_text(encoding="utf-8"))
    if found["settings"] != fresh["settings"] and not arguments.table:
        sys.exit(
            f"{arguments.out.name} was measured with other settings. Move it away, or choose another --out."
        )
    return {
        **found,
        "tasks": fresh["tasks"],
        "environment": found["environment"] if found["cells"] else fresh["environment"],
    }


def _document(quick: bool) -> dict[str, Any]:
    from _baselines import CONTENDERS, FINALISTS, TUNING_SEEDS
    from _measure import environment
    from _tasks import TASKS

    machine = environment()
    machine["packages"] |= {name: version(name) for name in ("scikit-learn", "mlxtend")}
    machine["pinning"] = "processes side by side, one BLAS thread each"
    grids = {
        name: zlib.crc32(repr([configurations(task) for task in TASKS]).encode())
        for name, configurations in CONTENDERS.items()
    }
    settings = {
        "quick": quick,
        "seeds": list(SEEDS),
        "tuning_seeds": list(TUNING_SEEDS),
        "finalists": FINALISTS,
        "grids": grids,
    }
    kept = ("name", "kind", "unit", "sweeps", "batch", "dtype", "ill_conditioned", "held_out")
    tasks = [{name: getattr(task, name) for name in kept} for task in TASKS]
    return {"settings": settings, "environment": machine, "tasks": tasks, "cells": {}, "crossover": {}}


def _write(document: dict[str, Any], path: Path | None) -> None:
    """As a whole or not at all: a run may be stopped at any time."""
    if path is None:
        return
    from stability._files import write  # NumPy comes along, whose threads are set before

    write(path, (json.dumps(document, indent=1, allow_nan=False) + "\n").encode())


if __name__ == "__main__":
    main()
