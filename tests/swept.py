"""Sweeps that real faults stop: `python tests/swept.py FOLDER FAULTS COUNT` prints what became of them.

The package is loaded once. Each driver is a process forked from this one, at the head of a group of its own;
its workers are forked from it.
"""

import concurrent.futures
import contextlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import h5netcdf  # noqa: F401 - once for all
import sweeping
import xarray  # noqa: F401

import stability as st
import stability.cli

POINTS = 24
SECONDS = 0.02


def grid(log, points=POINTS):
    return {"x": [float(x) for x in range(points)], "log": "", "seconds": SECONDS} | {"log": str(log)}


def sweep(folder, **options):
    """Two workers that are forked, which takes milliseconds."""
    context = multiprocessing.get_context("fork")
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as executor:
        return st.sweep(
            grid(folder / "log"), sweeping.waits, store=folder / "store", executor=executor, **options
        )


def driver(work):
    """A process that does this work in a group of its own; its end is the process's, whatever happens."""
    pid = os.fork()
    if pid:
        with contextlib.suppress(PermissionError):
            os.setpgid(pid, pid)
        return pid
    code = 70
    try:
        os.setpgid(0, 0)
        warnings.simplefilter("ignore")
        code = work() or 0
    except SystemExit as stopped:
        code = stopped.code
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)


def ended(pid, seconds=60):
    """The exit code, waited for at most so long."""
    for _ in range(int(seconds / 0.002)):
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.killpg(pid, signal.SIGKILL)
    raise TimeoutError


def files(folder):
    """The bytes of everything in a store."""
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def calls(folder):
    log = folder / "log"
    return log.stat().st_size if log.exists() else 0


def records(folder):
    return len(list((folder / "store").glob("*/[0-9a-f]*.json")))


def undisturbed(folder):
    """The same points in this process, with nothing to disturb them."""
    st.sweep(grid(folder / "log"), sweeping.waits, store=folder / "alone", workers=0)
    (folder / "log").unlink()
    return files(folder / "alone")


def kills(folder, count):
    """The whole group is killed at random moments, and the sweep begun anew each time."""
    expected = undisturbed(folder)
    chance, killed, moments, twice, same = random.Random(19), 0, [], 0, True
    while True:
        pid, there = driver(lambda: sweep(folder) and None), records(folder)
        if killed < count:
            wanted, code = there + chance.randrange(8), None
            while records(folder) < wanted and (found := os.waitpid(pid, os.WNOHANG)) == (0, 0):
                time.sleep(0.001)
            if records(folder) < wanted:
                code = os.waitstatus_to_exitcode(found[1])
            else:
                time.sleep(chance.uniform(0.0, 0.03))
                moments.append(records(folder))
                os.killpg(pid, signal.SIGKILL)
                code = ended(pid)
            killed += code == -signal.SIGKILL
            if code == 0:  # it was finished before: once more from the beginning
                twice, same = max(twice, calls(folder) - POINTS), same and whole(folder) == expected
                shutil.rmtree(folder / "store")
                (folder / "log").unlink()
            continue
        code = ended(pid)
        twice, same = max(twice, calls(folder) - POINTS), same and whole(folder) == expected
        return {"code": code, "killed": killed, "moments": len(set(moments)), "same": same, "twice": twice}


def whole(folder):
    """The bytes of a store, but for what a kill may leave: half a file under a private name, a lock."""
    found = files(folder / "store")
    return {name: content for name, content in found.items() if not name.endswith((".tmp", ".lock"))}


def loky(folder, count):
    """As above with loky's workers, which take seconds to begin."""
    expected = undisturbed(folder)
    work = lambda: st.sweep(grid(folder / "log"), sweeping.waits, store=folder / "store", workers=2) and None  # noqa: E731
    killed = 0
    for _ in range(count):
        pid, before = driver(work), records(folder)
        for _ in range(10_000):
            if records(folder) > before + 2:
                break
            time.sleep(0.002)
        os.killpg(pid, signal.SIGKILL)
        killed += ended(pid) == -signal.SIGKILL
    left = left_alone(lambda: st.sweep({"x": [1.0], "seconds": 60.0}, sweeping.waits, workers=1) and None)
    code = ended(driver(work))
    return {
        "code": code,
        "killed": killed,
        "left": left,
        "same": whole(folder) == expected,
        "twice": calls(folder) - POINTS,
    }


def group(pid):
    """The processes of a group."""
    return subprocess.run(["pgrep", "-g", str(pid)], capture_output=True, text=True).stdout.split()


def left_alone(work):
    """How many processes of a group are there ten seconds after its driver alone was killed."""
    pid = driver(work)
    while len(group(pid)) < 3:  # itself, loky's tracker, the worker
        time.sleep(0.01)
    time.sleep(3.0)  # the worker has begun
    os.kill(pid, signal.SIGKILL)
    ended(pid)
    for _ in range(100):
        if not group(pid):
            break
        time.sleep(0.1)
    return len(group(pid))


def two(folder, count):
    """Two drivers on one store, at once."""
    expected = undisturbed(folder)
    codes = [ended(pid) for pid in [driver(lambda: sweep(folder) and None) for _ in range(2)]]
    return {"codes": codes, "same": files(folder / "store") == expected, "twice": calls(folder) - POINTS}


def interrupted(folder, count):
    """Ctrl-C in a terminal, which every process of the group hears, while the command line computes."""
    study = folder / "study.py"
    study.write_text(
        "import time\nfrom sweeping import waits\ngrid = " + repr(grid(folder / "log")) + "\n"
        "def study(x, log, seconds):\n    return waits(x, log, seconds)\n"
    )
    told = folder / "told"

    def work():
        sys.stderr = open(told, "w")  # noqa: SIM115 - it ends with the process
        stability.cli.main(["sweep", str(study), "--store", str(folder / "store"), "--workers", "2"])

    pid = driver(work)
    for _ in range(20_000):
        if records(folder) > 3:
            break
        time.sleep(0.002)
    os.killpg(pid, signal.SIGINT)
    code = ended(pid)
    for _ in range(2000):  # nobody of the group is left
        try:
            os.killpg(pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.002)
    left = len(group(pid))
    done = records(folder)
    return {"code": code, "told": told.read_text(), "done": done, "twice": calls(folder) - done, "left": left}


def full(folder, count):
    """A disk that holds some of the records: a tmpfs of one's own, where the system lets one have it."""
    place = folder / "small"
    place.mkdir()
    size = "size=64k,nr_inodes=100"
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", size, "none", str(place)], capture_output=True
    ).returncode:
        return {"mounted": False}
    try:
        store, told = place / "store", folder / "told"

        def work():
            try:
                st.sweep(grid(folder / "log"), sweeping.waits, store=store, workers=0)
            except ValueError as error:
                told.write_text(str(error))

        code = ended(driver(work))
        kept = st.sweep.open(store).attrs
        subprocess.run(["mount", "-o", "remount,size=4m", str(place)], check=True)
        before = calls(folder)
        found = st.sweep(grid(folder / "log"), sweeping.waits, store=store, workers=0)
        computed = calls(folder) - before
        return {
            "mounted": True,
            "code": code,
            "told": told.read_text().replace(str(store), "STORE"),
            "done": kept["done"],
            "missing": kept["missing"],
            "then": found.attrs["done"],
            "computed": computed,
            "halves": len(list(store.rglob("*.tmp"))),
        }
    finally:
        subprocess.run(["umount", str(place)], check=True)


FAULTS = {"kills": kills, "loky": loky, "two": two, "interrupted": interrupted, "full": full}

if __name__ == "__main__":
    for name in sys.argv[2].split(","):
        place = Path(sys.argv[1]) / name
        place.mkdir()
        print(json.dumps([name, FAULTS[name](place, int(sys.argv[3]))]), flush=True)
