"""What real signals leave of the command line's work, and a disk that is full."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import stability as st
from stability import claims

if os.name != "posix":
    pytest.skip("signals as POSIX has them", allow_module_level=True)


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """How every command of `stopped.py` ended, and where its files are."""
    place = tmp_path_factory.mktemp("stopped")
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("stopped.py"), place], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return {name: (place / name, found) for name, found in json.loads(done.stdout).items()}


@pytest.mark.parametrize(
    ("name", "code"), [("Ctrl-C", 1), ("SIGTERM", 143), ("SIGTERM where Ctrl-C is ignored", 143)]
)
def test_training_keeps_what_was_done_and_goes_on_from_there(ended, name, code):
    folder, found = ended[name]
    assert found["code"] == code
    assert found["told"] == (
        "Interrupted: the 5 iterations that were done are in run.npz. The same command goes on from the "
        "checkpoint state.\n"
    )
    assert found["files"] == ["run.json", "run.npz", "state.b.npz"]
    assert len(st.load(folder / "run").losses) == 5
    assert st.load(folder / "state.b").values["iteration"] == 5


def test_a_second_ctrl_c_does_not_wait_and_still_says_what_was_saved(ended):
    folder, found = ended["Ctrl-C twice"]
    assert found["code"] == 1
    done = len(st.load(folder / "run").losses)
    assert found["told"] == f"Interrupted: the {done} iterations that were done are in run.npz.\n"


def test_one_that_comes_while_the_picture_is_drawn_says_that_the_numbers_are_kept(ended):
    folder, found = ended["Ctrl-C, then SIGTERM while drawing"]
    assert found["code"] == 143
    assert found["told"] == (
        "Interrupted: the numbers are in run.npz, the picture is not drawn. The same command goes on from "
        "the checkpoint state.\n"
    )
    assert found["files"] == ["run.json", "run.npz", "state.b.npz"]
    assert len(st.load(folder / "run").losses) == 5


def test_an_ensemble_keeps_the_paths_that_were_finished(ended):
    folder, found = ended["SIGTERM in an ensemble"]
    assert found["code"] == 143
    paths = len(st.load(folder / "run").diverged)
    assert paths
    assert found["told"] == f"Interrupted: the {paths} paths that were finished are in run.npz.\n"


def test_the_studies_that_were_finished_are_there(ended):
    _, found = ended["SIGTERM in the studies"]
    assert found["code"] == 143
    name = next(iter(claims.STUDIES))
    assert f"1 of {len(claims.STUDIES)} studies were finished and are in out/." in found["told"]
    assert found["files"] == [f"out/data/{name}.json", f"out/data/{name}.npz"]


def test_where_nothing_is_saved_that_is_said(ended):
    assert ended["SIGTERM where nothing is saved"][1] == {
        "code": 143,
        "told": "Interrupted: nothing was saved.\n",
        "files": [],
    }


def test_a_library_call_leaves_sigterm_alone(ended):
    assert ended["SIGTERM in a library call"][1]["code"] == -15


def test_with_a_full_disk_the_numbers_are_kept_and_one_sentence_says_so(ended):
    folder, found = ended["a full disk"]
    assert found["code"] == 2
    assert found["told"] == (
        "Error: run.png cannot be written (File too large). Choose another place. The numbers are in "
        "run.npz.\n"
    )
    assert found["files"] == ["run.json", "run.npz"]
    assert st.load(folder / "run").status == "done"


def test_where_nothing_can_be_written_nothing_is_left(ended):
    _, found = ended["no disk at all"]
    assert found["code"] == 2
    assert found["told"] == "Error: run.npz cannot be written (File too large). Choose another place.\n"
    assert found["files"] == []
