"""`stability sweep`: what it says, what it leaves, and what of a file of a study is told."""

import json
import re
import sys

import numpy as np
import pytest
from click.testing import CliRunner

import stability as st
from stability import cli

pytest.importorskip("xarray", reason="xarray is not installed")

STUDY = """
from pathlib import Path

grid = {"x": [1, 2, 3], "kind": ["a", "b"]}
units = {"y": "m"}


def study(x, kind):
    if x == 2 and kind == "b" and not Path("mended").exists():
        raise RuntimeError("not yet")
    return {"y": x * x}
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs the command in a folder of its own, in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def call(*options, file="areas.py", text=STUDY):
        (tmp_path / file).write_text(text)
        for name in ("areas", "lines"):
            sys.modules.pop(name, None)
        return CliRunner().invoke(cli.main, ["sweep", file, "--workers", "0", *map(str, options)])

    return call


def test_it_computes_says_what_failed_and_goes_on(run, tmp_path):
    found = run()
    assert found.exit_code == 1
    assert re.fullmatch(
        r"6 points: 5 done, 1 failed\n"
        r"  failed 1: RuntimeError: not yet \(areas\.py, line 10\)\n"
        r"  --failed computes these once more\n"
        r"areas\.sweep/results\.nc\n",
        found.output,
    )
    (tmp_path / "mended").touch()
    assert run("--resume").exit_code == 1
    found = run("--failed")
    assert (found.exit_code, found.output) == (0, "6 points: 6 done\nareas.sweep/results.nc\n")
    kept = st.sweep.open("areas.sweep")
    np.testing.assert_array_equal(kept.y, [[1, 1], [4, 4], [9, 9]])
    assert kept.y.attrs["units"] == "m"
    found = run("--json")
    assert json.loads(found.output)["done"] == 6


def test_shards_need_no_scheduler(run):
    text = STUDY.replace("raise", "pass  # raise")
    found = run("--shard", "1/2", "--store", "both", text=text)
    assert found.output == "6 points: 3 done, 3 missing\nboth: the other shards' points are not there yet\n"
    assert run("--shard", "2/2", "--store", "both", text=text).output == "6 points: 6 done\nboth/results.nc\n"


def test_a_dry_run_counts_estimates_and_leaves_nothing(run, tmp_path):
    found = run("--dry-run")
    assert found.exit_code == 0
    assert re.fullmatch(
        r"6 points: 0 done, 0 failed, 6 ahead\nabout \S+ s with 1 worker: 4 points took \S+ s each\n",
        found.output,
    )
    assert not (tmp_path / "areas.sweep").exists()
    run()
    told = json.loads(run("--dry-run", "--json").output)
    assert (told["done"], told["failed"], told["ahead"]) == (5, 1, 0)


def test_a_boundary_is_counted_too(run):
    text = "GRID = {'a': [1.0, 2.0], 'b': [0.1, 10.0]}\nREFINE = 'b'\n"
    text += "def f(a, b):\n    return {'stable': a * b < 2}\n"
    # Two decades to a hundredth: nine halvings of each of two columns.
    assert "at most 18 more along the boundary" in run("--dry-run", file="lines.py", text=text).output
    assert run(file="lines.py", text=text).output == "4 points: 4 done\nlines.sweep/results.nc\n"
    np.testing.assert_allclose(st.sweep.open("lines.sweep").b_boundary, [2.0, 1.0], rtol=0.01)


BAD = {
    "no grid": ({"text": "def study(x):\n    pass\n"}, (), r"areas\.py must have grid = \{'parameter'"),
    "no function": (
        {"text": "grid = {'x': [1]}\n"},
        (),
        r"must have a function study\(\.\.\.\); it has none",
    ),
    "another function": ({}, ("--function", "f"), r"function f\(\.\.\.\); it has study\. Name another"),
    "an error inside": ({"text": "1 / 0\n"}, (), r"areas\.py cannot be imported: ZeroDivisionError"),
    "a name of Python's": ({"file": "random.py"}, (), "random is another module's as well. Rename the file"),
    "no Python": ({"file": "areas.txt"}, (), "must be a Python file"),
    "a shard": ({}, ("--shard", "0/3"), "counted from 1, as 3/16; got '0/3'"),
    "nothing to resume": (
        {},
        ("--resume",),
        "`--resume` goes on with a store, and areas.sweep does not exist",
    ),
    "a parameter too many": (
        {"text": STUDY.replace('"kind": ["a", "b"]', '"kind": ["a"], "z": [1]')},
        (),
        "got 'z'. It takes x, kind",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence(run, name):
    file, options, told = BAD[name]
    found = run(*options, **file)
    assert found.exit_code == 2
    assert re.search(told, found.output)
    assert found.output.startswith("Error: ")
    assert len(found.output.splitlines()) == 1


def test_missing_dask_is_named(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    found = run("--dask", "tcp://127.0.0.1:1")
    assert found.exit_code == 2
    assert "`--dask` needs dask: pip install 'sfn-stability[dask]'" in found.output


@pytest.mark.slow
def test_a_scheduler_that_does_not_answer_is_told(run, monkeypatch):
    pytest.importorskip("distributed", reason="dask is not installed")
    monkeypatch.setattr("stability.cli.sweeps.PATIENCE", 0.2)
    found = run("--dask", "tcp://127.0.0.1:1")
    assert found.exit_code == 2
    assert re.search(r"tcp://127\.0\.0\.1:1 does not answer", found.output)


def test_help_names_an_example(run):
    assert "stability sweep kappa.py --dry-run" in run("--help").output
