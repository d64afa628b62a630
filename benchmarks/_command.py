"""The command line of a benchmark of the solver: one child process, pinned; a document with rows; a table."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from _goals import Goal, rows, table
from _measure import environment, load_average, pin, pinned_environment

RESULTS = Path(__file__).parent / "results"


def command(
    script: str, about: str, measured: Callable[[bool], dict[str, Any]], goals: list[Goal], *, cores: int = 1
) -> None:
    """Run `measured(quick)` in a child process on so many cores and print the rows that its cells give.

    Parameters
    ----------
    script : str
        The calling file; a full run is written to results/, under its name.
    about : str
        For ``--help``.
    measured : callable
        ``quick -> {"cells": ..., "notes": ..., anything else to keep}``.
    """
    result = RESULTS / f"{Path(script).stem}.json"
    arguments = _arguments(about, result)
    if arguments.child:
        pin(cores)
        arguments.out.write_text(
            json.dumps({"environment": environment(), **measured(arguments.quick)}), encoding="utf-8"
        )
        return
    if find_spec("stability") is None:
        sys.exit(
            "stability is not importable here: install it (pip install -e .) or set PYTHONPATH to the "
            "repository."
        )
    document = _from_child(script, arguments.quick, cores)
    document["rows"] = rows(document["cells"], goals)
    out = arguments.out or (None if arguments.quick else result)
    if out is not None:
        from stability._files import write  # known to be importable by now

        write(out, (json.dumps(document, indent=1) + "\n").encode())
    print(table(document))


def _arguments(about: str, result: Path) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="fewer rounds and seeds; the figures are rougher"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help=f"where to write the numbers (a full run: {result.parent.name}/{result.name})",
    )
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _from_child(script: str, quick: bool, cores: int) -> dict[str, Any]:
    began, load = time.perf_counter(), load_average()
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / "part.json"
        line = [sys.executable, script, "--child", "--out", str(part), *["--quick"] * quick]
        if subprocess.run(line, env=pinned_environment(cores), check=False).returncode:
            sys.exit("The measurement stopped; its message is above.")
        document = json.loads(part.read_text(encoding="utf-8"))
    document["environment"]["load"] = load
    return {**document, "quick": quick, "seconds": round(time.perf_counter() - began)}
