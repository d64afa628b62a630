"""Is the advised step limit true? Where runs leave a place, beside what `stability.torch.advise` says there.

python benchmarks/adviser.py [--quick] [--compare-only] [--only PATTERN] [--again] [--table] [--out FILE]

A cell is a network or table with an optimizer at a batch size: trained to a plateau, restarted there at many
steps (`_edges.py`, judged by `_criterion.py`), and asked about. Each part is written when it is done, and a
run that was stopped goes on where it was; `--again` measures the matching ones once more. Experiments need no
advice and are kept: `--compare-only` takes them from the document and asks again (plateaus from out/adviser/,
or trained anew). A full run writes benchmarks/results/adviser.json and adviser.md; --quick takes three cells
and half the steps, and writes only where --out says.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import re
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULT, PLACES = HERE / "results" / "adviser.json", HERE.parent / "out" / "adviser"
FEW = 1000
"""Steps of training, with --quick."""


def main() -> None:
    arguments = _arguments()
    for name in ("stability", "torch"):
        if find_spec(name) is None:
            sys.exit(f"{name} is not importable here: pip install -e '.[torch,data]'.")
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"  # before NumPy and PyTorch are loaded
    import torch

    torch.set_num_threads(1)
    from _adviser_table import tables

    document = _opened(arguments)
    if not arguments.table:
        _measure(document, arguments)
    print(tables(document))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="three cells, less training and shorter runs")
    parser.add_argument("--compare-only", action="store_true", help="ask again; no experiments")
    parser.add_argument("--only", default="", metavar="PATTERN", help="cells and studies whose name matches")
    parser.add_argument("--again", action="store_true", help="measure matching cells even if they are there")
    parser.add_argument("--table", action="store_true", help="measure nothing, print the tables of --out")
    parser.add_argument("--out", type=Path, help=f"default: results/{RESULT.name}; with --quick: nowhere")
    arguments = parser.parse_args()
    if arguments.out is None and not arguments.quick:
        arguments.out = RESULT
    return arguments


def _opened(arguments: argparse.Namespace) -> dict[str, Any]:
    """The document to go on with, or a new one."""
    if arguments.out is not None and arguments.out.exists():
        return json.loads(arguments.out.read_text(encoding="utf-8"))
    from importlib.metadata import version

    from _measure import environment, load_average

    machine = {**environment(), "load": load_average(), "pinning": "one process, one thread"}
    names = ("scikit-learn", "mlxtend")
    machine["packages"] |= {name: version(name) for name in names}
    return {"environment": machine, "quick": arguments.quick, "seconds": 0, "cells": {}, "studies": {}}


def _measure(document: dict[str, Any], arguments: argparse.Namespace) -> None:
    from _measure import say

    for name, part, work in _tasks(document, arguments):
        began = sum(os.times()[:4])
        found = work()
        spent = sum(os.times()[:4]) - began  # of processors, children's too
        document["seconds"] = round(document["seconds"] + spent)
        place = document["studies"] if part == "study" else document["cells"][name]
        place.update(found)
        say(f"{name}: {part}, {spent:.0f} s of the processor")
        _write(document, arguments.out)


def _tasks(document: dict[str, Any], arguments: argparse.Namespace) -> Iterator[tuple[str, str, Any]]:
    """What is left to do: name, part, and the work, which gives what to add to the document."""
    from _places import CELLS, QUICK
    from _studies import PARTS, STUDIES

    share = 2 if arguments.quick else 1
    cells = [cell for cell in CELLS if cell.id in QUICK or not arguments.quick]
    for part, work in PARTS.items():
        for cell in (cell for cell in cells if re.search(arguments.only, cell.id)):
            done = document["cells"].setdefault(cell.id, {})
            wanted = part not in done or arguments.again
            if arguments.compare_only:
                wanted = part == "advice"
            if wanted:
                yield (
                    cell.id,
                    part,
                    lambda cell=cell, done=done, work=work: work(_place(cell, arguments.quick), done, share),
                )
    for name, study in STUDIES.items():
        wanted = name not in document["studies"] or arguments.again
        if re.search(arguments.only, name) and wanted and not arguments.compare_only:
            yield name, "study", lambda name=name, study=study: {name: study(arguments.quick, PLACES)}


@functools.cache
def _place(cell: Any, quick: bool) -> Any:
    from _places import kept

    return kept(cell, None, FEW) if quick else kept(cell, PLACES)


def _write(document: dict[str, Any], path: Path | None) -> None:
    """As a whole or not at all: a run may be stopped at any time."""
    if path is None:
        return
    from _adviser_table import tables

    from stability._files import write

    write(path, (json.dumps(document, indent=1, allow_nan=False) + "\n").encode())
    write(path.with_suffix(".md"), (tables(document) + "\n").encode())


if __name__ == "__main__":
    main()
