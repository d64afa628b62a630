"""Ensembles, this library against its peers, side by side.

python benchmarks/ensembles.py [--quick] [--only PATTERN] [--out FILE]

Every cell (a problem on one core or on all) is measured in one child process, pinned to its cores, where we
and the peers take turns. A full run writes benchmarks/results/ensembles.json; --quick and --only write only
where --out says.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from _goals import CORES, goals, rows, table
from _measure import cores_available, environment, load_average, pin, pinned_environment, say, side_by_side
from _problems import Problem

RESULT = Path(__file__).parent / "results" / "ensembles.json"
PEERS = ("diffrax", "torchsde", "sdeint")
STEPS, ROUNDS, TARGET = 64, 5, 0.01
SIZES = ((2, 98_304), (16, 20_480), (128, 4_096))  # dimension, paths


def problems(quick: bool) -> dict[str, Problem]:
    """Large enough that the cost of starting an ensemble does not count."""
    found = {f"ou-{d}": Problem("ou", d, paths, STEPS) for d, paths in SIZES}
    found |= {f"ou-{d}-diagonal": Problem("ou", d, paths, STEPS, diagonal=True) for d, paths in SIZES}
    found |= {"sfn-2": Problem("sfn", 2, 20_480, 64), "sfn-8": Problem("sfn", 8, 4_096, 36)}
    return {name: problem.smaller() for name, problem in found.items()} if quick else found


def cells(which: str, quick: bool) -> list[str]:
    """Names of the cells of the child that has one core, or all."""
    plain = [f"ou-{d}" for d in (2, 16, 128)]
    if quick:
        few = (
            ["ou-2", "threads-16"]
            if which == "all"
            else ["ou-2", "ou-16", "sfn-2", "sfn-8", "covariance-0.05"]
        )
        return [f"{name}/{which}" for name in few]
    if which == "all":
        return [f"{name}/all" for name in ["threads-16", "threads-128", *plain, "scaling-threads"]]
    one = [
        "ou-2",
        "ou-16",
        "sfn-2",
        "sfn-8",
        "covariance-0.01",
        "covariance-0.05",
        "ou-128",
        "ou-2-diagonal",
        "scaling",
    ]
    return [f"{name}/one" for name in one]


def main() -> None:
    arguments = _arguments()
    if arguments.child:
        _child(arguments)
        return
    if find_spec("stability") is None:
        sys.exit(
            "stability is not importable here: install it (pip install -e .) or set PYTHONPATH to the "
            "repository."
        )
    if arguments.only and not any(re.search(arguments.only, name) for name in _names()):
        sys.exit(f"--only {arguments.only!r} matches no cell; the cells are: {', '.join(_names())}.")
    began, load = time.perf_counter(), load_average()
    parts = [_measured(which, arguments) for which in CORES]
    document = _document(parts, arguments.quick, load, time.perf_counter() - began)
    out = arguments.out or (None if arguments.quick or arguments.only else RESULT)
    if out is not None:
        from stability._files import write  # known to be importable by now

        write(out, (json.dumps(document, indent=1) + "\n").encode())
    print(table(document))


def _names() -> list[str]:
    """Every cell, in the order they are measured in."""
    return [name for which in CORES for name in cells(which, quick=False)]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="smaller ensembles, some minutes; the figures are rougher"
    )
    parser.add_argument(
        "--only",
        metavar="PATTERN",
        help="a regular expression for names of cells, such as 'ou-2/' or 'sfn|covariance'",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help=f"where to write the numbers (a full run: {RESULT.parent.name}/{RESULT.name})",
    )
    parser.add_argument("--child", choices=list(CORES), help=argparse.SUPPRESS)
    return parser.parse_args()


def _measured(which: str, arguments: argparse.Namespace) -> dict:
    """What a child process with one core, or all, measured."""
    cores = 1 if which == "one" else cores_available()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "part.json"
        command = [sys.executable, __file__, "--child", which, "--out", str(out)]
        command += ["--quick"] * arguments.quick + (["--only", arguments.only] if arguments.only else [])
        if (
            subprocess.run(command, env=pinned_environment(cores), check=False).returncode
            and not out.exists()
        ):
            sys.exit(f"The measurement on {CORES[which]} stopped; its message is above.")
        return json.loads(out.read_text(encoding="utf-8"))


def _document(parts: list[dict], quick: bool, load: float, seconds: float) -> dict:
    joined = {name: cell for part in parts for name, cell in part["cells"].items()}
    return {
        "environment": {
            **parts[-1]["environment"],
            "load": load,
            "blas": {
                CORES[which]: part["environment"]["blas"] for which, part in zip(CORES, parts, strict=True)
            },
        },
        "quick": quick,
        "rounds": ROUNDS,
        "seconds": round(seconds),
        "notes": sorted({note for part in parts for note in part["notes"]}),
        "rows": rows(joined, goals()),
        "cells": joined,
        "scaling": [curve for part in parts for curve in part["scaling"]],
    }


# --- in the child ---


def _child(arguments: argparse.Namespace) -> None:
    cores = 1 if arguments.child == "one" else cores_available()
    pin(cores)
    result: dict = {
        "cells": {},
        "scaling": [],
        "notes": _notes(arguments.child, cores),
        "environment": environment(),
    }
    _keep(result, arguments.out)  # `--only` may name cells of the other child alone
    for name in cells(arguments.child, arguments.quick and not arguments.only):
        if arguments.only and not re.search(arguments.only, name):
            continue
        began = time.perf_counter()
        _cell(name, cores, arguments.quick, result)
        say(f"{name}: {time.perf_counter() - began:.0f} s")
        _keep(result, arguments.out)  # after every cell: a run that is stopped keeps what it has


def _keep(result: dict, out: Path) -> None:
    """Write what a child measured."""
    out.write_text(json.dumps(result), encoding="utf-8")


def _notes(which: str, cores: int) -> list[str]:
    from peers_ensembles import missing

    found = [note for note in map(missing, PEERS) if note]
    found.append(
        "torchsde* is torchsde with fresh normals at every query, a Brownian motion of ours that it does not "
        "ship."
    )
    return (
        [*found, "Only one core here: two threads over one cannot be measured."]
        if which == "all" and cores < 2
        else found
    )


def _cell(name: str, cores: int, quick: bool, result: dict) -> None:
    """Measure one cell into `result`."""
    import _ours

    kind = name.split("/")[0]
    if kind.startswith("scaling"):
        result["scaling"] += (_ours.thread_scaling if kind.endswith("threads") else _ours.scaling)(
            quick, cores
        )
    elif kind.startswith("covariance"):
        result["cells"][name] = _covariance(float(kind.split("-", 1)[1]), quick)
    elif kind.startswith("threads"):
        result["cells"][name] = _threads(problems(quick)[kind.replace("threads", "ou")], cores)
    else:
        result["cells"][name] = _race(kind, problems(quick)[kind], cores, quick)


def _race(kind: str, problem: Problem, cores: int, quick: bool) -> dict:
    """Our engines and the peers on one problem."""
    import _ours
    from peers_ensembles import contenders, missing

    absent = {engine: why for engine in _ours.ENGINES if (why := _ours.unavailable(engine))}
    libraries = {
        engine: [_ours.contender(problem, engine, cores)] for engine in _ours.ENGINES if engine not in absent
    }
    for peer in _opponents(kind, cores):
        if why := missing(peer):
            absent[peer] = why
        else:
            libraries[peer] = contenders(peer, problem, cores, most=2 if quick else None)
    return _cell_of("ns/path-step", side_by_side(problem, libraries, ROUNDS), absent)


def _opponents(kind: str, cores: int) -> list[str]:
    single = kind in ("ou-2", "ou-16") and cores == 1
    return ["draw"] * kind.startswith("ou") + ["diffrax", "torchsde", "torchsde*"] + ["sdeint"] * single


def _threads(problem: Problem, cores: int) -> dict:
    """Two of our threads against one."""
    import _ours

    libraries, absent = {}, {}
    for engine in _ours.ENGINES:
        for count in (1, 2):
            if why := _ours.unavailable(engine) or ("one core only" if cores < 2 else None):
                absent[f"{engine} x{count}"] = why
            else:
                libraries[f"{engine} x{count}"] = [_ours.contender(problem, engine, count)]
    return _cell_of("ns/path-step", side_by_side(problem, libraries, ROUNDS), absent)


def _covariance(step: float, quick: bool) -> dict:
    import _ours

    race = _ours.covariance_race(step, 2 * TARGET if quick else TARGET, 3 if quick else ROUNDS)
    kinds = {
        kind: {**race.pop(kind), "right": race["right"]} for kind in ("plain", "controlled") if kind in race
    }
    absent = {} if race.pop("control") else {"controlled": "st.simulate has no `control` yet."}
    return {**_cell_of("s", kinds, absent), **race}


def _cell_of(unit: str, contenders: dict, absent: dict) -> dict:
    return {"unit": unit, "contenders": contenders, "absent": absent}


if __name__ == "__main__":
    main()
