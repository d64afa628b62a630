"""Commands that real signals stop: `python tests/stopped.py FOLDER` prints how each ended, as JSON.

The package is loaded once; every command runs in a process of its own, forked from this one.
"""

import json
import os
import resource
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pandas  # noqa: F401 - once for all

import stability as st
import stability.cli
import stability.pictures.plot as pictures
from stability import _interrupts, claims
from stability.ensembles import gather
from stability.training.problem import Problem

TABLE = "x,y,kind\n" + "".join(f"{i % 7},{i % 5},{'ab'[i % 7 > 3]}\n" for i in range(40))
TRAIN = ["train", "--data", "table.csv", "--target", "kind", "--optimizer", "sgd", "--hidden", "4"]
TRAIN += ["--batch", "8", "--sweeps", "4000", "--out", "run", "--checkpoint", "state"]
WELL = ["simulate", "--expression", "x^4/4 - x^2/2", "--step", "0.1", "--t-end", "2", "--paths", "20000"]


def until(heard):
    """Wait for what a signal does, for a minute at most."""
    for _ in range(6000):
        if heard():
            return
        time.sleep(0.01)
    os._exit(99)


def at_gradient(number, then):
    """Do something at the gradient with this number."""
    genuine, count = Problem.loss_and_gradient, [0]

    def watched(self, w, rows):
        count[0] += 1
        if count[0] == number:
            then()
        return genuine(self, w, rows)

    Problem.loss_and_gradient = watched


def draws_nothing():
    """It takes a second, and is looked at elsewhere."""
    pictures.plot = pictures.write = lambda *arguments: None


def waits(tell):
    """In the middle of an iteration: the signal comes, and waits for its end."""
    draws_nothing()
    at_gradient(6, lambda: (tell(), until(lambda: _interrupts._sections[0])))


def does_not_wait_twice(tell):
    """The first signal waits, the second one does not."""
    draws_nothing()
    at_gradient(6, lambda: (tell(), until(lambda: _interrupts._sections[0]), tell(), until(lambda: False)))


def is_drawing(tell):
    """The first one stops the run; the second comes while the picture of what was done is drawn."""
    waits(tell)
    pictures.write = lambda *arguments: (tell(), until(lambda: False))


def is_ignored(tell):
    """As a shell starts what runs in its background."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    waits(tell)


def has_a_full_disk(tell):
    """No file may be longer than its numbers are."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (15_000, 15_000))


def has_no_disk_at_all(tell):
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))


def has_finished_a_block(tell):
    draws_nothing()
    genuine, add = gather.simulated_block, gather.Gathered.add

    def first_alone(plan, number, signals):
        if number:
            signals.stop.wait(60)
        return genuine(plan, number, signals)

    def added(self, part):
        add(self, part)
        tell()

    gather.simulated_block, gather.Gathered.add = first_alone, added


def has_finished_a_study(tell):
    draws_nothing()

    def run(name, **options):
        if name != next(iter(claims.STUDIES)):
            tell()
            until(lambda: False)
        return st.Study(name, {"x": np.ones(2)}, {})

    claims.run = run
    claims.check, claims.summary = (lambda study: []), (lambda study: "")


def computes(tell):
    stability.linear.bounds.bounds = lambda *arguments, **options: (tell(), until(lambda: False))


def is_a_library_call(tell):
    """Not the command line: SIGTERM ends the process, as it does by default."""
    at_gradient(6, lambda: (tell(), until(lambda: False)))
    F = st.least_squares(np.ones((5, 1)), np.ones(5))
    st.minimize(F, [0.0], method=st.SGD(), step=0.1, iterations=100, checkpoint="state")


INT, TERM = signal.SIGINT, signal.SIGTERM
CASES = {
    "Ctrl-C": (TRAIN, waits, [INT]),
    "SIGTERM": (TRAIN, waits, [TERM]),
    "Ctrl-C twice": (TRAIN, does_not_wait_twice, [INT, INT]),
    "Ctrl-C, then SIGTERM while drawing": (TRAIN, is_drawing, [INT, TERM]),
    "SIGTERM where Ctrl-C is ignored": (TRAIN, is_ignored, [TERM]),
    "a full disk": ([*TRAIN[:11], "--sweeps", "20", "--out", "run"], has_a_full_disk, []),
    "no disk at all": ([*TRAIN[:11], "--sweeps", "4", "--out", "run"], has_no_disk_at_all, []),
    "SIGTERM in an ensemble": ([*WELL, "--out", "run"], has_finished_a_block, [TERM]),
    "SIGTERM in the studies": (["reproduce", "--out", "out"], has_finished_a_study, [TERM]),
    "SIGTERM where nothing is saved": (
        ["bound", "--csv", "table.csv", "--target", "kind", "--model", "logistic"],
        computes,
        [TERM],
    ),
    "SIGTERM in a library call": (None, is_a_library_call, [TERM]),
}


def ended(folder, arguments, prepare, signals):
    """Run one command in a folder, send it the signals when it tells, and say how it ended."""
    folder.mkdir()
    (folder / "table.csv").write_text(TABLE)
    told, tell = os.pipe()
    child = os.fork()
    if not child:
        os.chdir(folder)
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(name, os.O_CREAT | os.O_WRONLY), number)
        prepare(lambda: os.write(tell, b"."))
        if arguments:
            stability.cli.main(arguments)
        os._exit(0)
    os.close(tell)
    for number in signals:
        assert os.read(told, 1) == b".", (folder / "stderr").read_text()
        os.kill(child, number)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.close(told)
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return {"code": status, "told": (folder / "stderr").read_text(), "files": files[: files.index("stderr")]}


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    place = Path(sys.argv[1])
    print(json.dumps({name: ended(place / name, *case) for name, case in CASES.items()}))
