"""Sweeps that are stopped in every way: what is kept, what is said, what is computed once more."""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sweeping

import stability as st

pytest.importorskip("xarray", reason="xarray is not installed")
pytest.importorskip("joblib", reason="joblib is not installed")
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
HERE = Path(__file__).parent
POINTS = 24
MOUNTED = ["unshare", "--mount"]
"""Where a small disk of one's own can be mounted and is gone with the process."""


def faults(folder, names, count, before=()):
    command = [*before, sys.executable, "-W", "ignore", HERE / "swept.py", folder, names, str(count)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(line) for line in done.stdout.splitlines())


def mounts():
    with contextlib.suppress(OSError):
        return subprocess.run([*MOUNTED, "true"], capture_output=True).returncode == 0
    return False


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    names = "kills,two,interrupted" + (",full" if mounts() else "")
    return faults(tmp_path_factory.mktemp("faults"), names, 3, MOUNTED if mounts() else ())


class TestKilled:
    """kill -9 of the driver with all its workers, at random moments."""

    def test_resumed_it_ends_with_the_bytes_of_an_undisturbed_run(self, ended):
        found = ended["kills"]
        assert (found["code"], found["killed"]) == (0, 3)
        assert found["same"]
        # Two workers are at a point each, and two points wait for them.
        assert found["twice"] <= 3 * 4

    @pytest.mark.slow
    def test_killed_often_too(self, tmp_path):
        found = faults(tmp_path, "kills", 24)["kills"]
        assert (found["code"], found["killed"]) == (0, 24)
        assert found["moments"] >= 8
        assert found["same"]
        assert found["twice"] <= 24 * 4

    @pytest.mark.slow
    def test_and_with_lokys_workers(self, tmp_path):
        found = faults(tmp_path, "loky", 2)["loky"]
        assert found["left"] == 0  # workers end with their driver, also if it alone is killed
        assert (found["code"], found["killed"]) == (0, 2)
        assert found["same"]
        assert found["twice"] <= 2 * 2


def test_two_drivers_on_one_store_share_the_work(ended):
    found = ended["two"]
    assert found["codes"] == [0, 0]
    assert found["same"]
    assert found["twice"] <= 2 * 4  # points that both had in flight when they met


def test_ctrl_c_in_the_command_line_says_what_is_kept_and_leaves_no_worker(ended):
    found = ended["interrupted"]
    assert found["code"] == 1
    assert re.fullmatch(
        rf"Interrupted: {found['done']} of {POINTS} points are in \S+store; the same call goes on from "
        r"there\.\n",
        found["told"],
    )
    assert 4 <= found["done"] < POINTS
    assert found["twice"] <= 2
    assert found["left"] == 0


def test_a_full_disk_keeps_what_was_done_and_with_room_it_goes_on(ended):
    if "full" not in ended or not ended["full"]["mounted"]:
        pytest.skip("this system lets nobody but root mount a small disk")
    found = ended["full"]
    assert found["code"] == 0
    assert re.fullmatch(
        r"STORE/\w+/\w+\.json cannot be written \(No space left on device\)\. Choose another place\. "
        rf"{found['done']} of {POINTS} points are in STORE; the same call goes on from there\.",
        found["told"],
    )
    assert 0 < found["done"] < POINTS
    assert found["missing"] == POINTS - found["done"] == found["computed"]
    assert found["then"] == POINTS
    assert found["halves"] == 0


class Cluster:
    """A dask scheduler and two workers, each a process, on the loopback device."""

    def __init__(self, folder):
        self.processes = {}
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
        self._folder = folder
        port = self.address.rpartition(":")[2]
        self.start("scheduler", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", port)
        for k in (1, 2):
            here = "--local-directory", str(folder / f"worker-{k}"), "--host", "127.0.0.1"
            self.start(f"worker-{k}", "distributed.cli.dask_worker", self.address, *here, "--no-nanny")

    def start(self, name, module, *arguments):
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE)])}
        quiet = () if "scheduler" in name else ("--nthreads", "1")
        code = f"import sys; sys.argv = ['dask', *sys.argv[1:]]; from {module} import main; main()"
        options = [*arguments, "--no-dashboard", *quiet]
        with open(self._folder / f"{name}.log", "w") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-c", code, *options],
                env=environment,
                stdout=log,
                stderr=log,
                cwd=self._folder,
            )

    def stop(self):
        for process in self.processes.values():
            process.kill()
            process.wait()


@pytest.fixture
def cluster(tmp_path):
    pytest.importorskip("distributed", reason="dask is not installed")
    found = Cluster(tmp_path)
    yield found
    found.stop()


@contextlib.contextmanager
def client_of(cluster):
    from distributed import Client

    client = Client(cluster.address, timeout=60, set_as_default=False)
    try:
        client.wait_for_workers(2, timeout=60)
        yield client
    finally:
        with contextlib.suppress(Exception):
            client.close(timeout=1)


def stored(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def when(count, log, then):
    """Do something once so many points were begun."""
    import threading

    def watch():
        while not log.exists() or log.stat().st_size < count:
            time.sleep(0.005)
        then()

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_on_dask_points_have_the_same_bytes_and_its_faults_cost_points_in_flight_only(cluster, tmp_path):
    log = tmp_path / "log"
    grid = {"x": [float(x) for x in range(POINTS)], "log": str(log), "seconds": 0.05}
    st.sweep(grid, sweeping.waits, store=tmp_path / "here", workers=0)
    with client_of(cluster) as client:
        log.unlink()
        executor = client.get_executor()
        found = st.sweep(grid, sweeping.waits, store=tmp_path / "dask", executor=client)
        assert stored(tmp_path / "dask") == stored(tmp_path / "here")
        assert log.stat().st_size == POINTS

        # A worker dies: another computes what it was at, and what it had not handed over.
        log.unlink()
        watching = when(4, log, cluster.processes["worker-1"].kill)
        again = st.sweep(grid, sweeping.waits, store=tmp_path / "one-less", executor=executor)
        watching.join()
        assert again.identical(found)
        assert log.stat().st_size <= POINTS + 8

        # The scheduler goes away: what was done is kept, and is gone on from without it.
        log.unlink()
        watching = when(8, log, cluster.processes["scheduler"].kill)
        with pytest.raises(
            RuntimeError, match=r"`executor` stopped working .* of 24 points are in .*goes on"
        ):
            st.sweep(grid, sweeping.waits, store=tmp_path / "lost", executor=executor)
        watching.join()
    done = st.sweep.open(tmp_path / "lost").attrs["done"]
    assert 0 < done < POINTS
    before = log.stat().st_size
    assert st.sweep(grid, sweeping.waits, store=tmp_path / "lost", workers=0).identical(found)
    assert log.stat().st_size == before + POINTS - done
    assert stored(tmp_path / "lost") == stored(tmp_path / "here")


def test_a_worker_without_the_study_is_told(tmp_path, monkeypatch):
    """As on a cluster whose machines have other files."""
    from stability.sweeps import compute, study

    class Elsewhere:
        def submit(self, function, task):
            import concurrent.futures

            study._HERE.clear()
            (tmp_path / "other.py").write_text("def f(x):\n    return {'y': 2 * x}\n")
            sys.modules.pop("other", None)
            future = concurrent.futures.Future()
            future.set_result(function(task))
            return future

        def shutdown(self):
            pass

    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "other.py").write_text("def f(x):\n    return {'y': x}\n")
    import other

    with pytest.raises(ValueError, match=r"a worker has another version of other:f\. Bring the same files"):
        st.sweep({"x": [1]}, other.f, executor=Elsewhere())
    assert compute.drivers == set()
