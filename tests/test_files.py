"""Files are written whole or not at all, read only where they are files, and held by one run at a time."""

import ast
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from sources import FILES, nodes

import stability as st
from stability import _check, _files

needs_posix = pytest.mark.skipif(os.name != "posix", reason="pipes, devices and permissions are POSIX's")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


class TestWriting:
    def test_a_file_is_there_whole_and_nothing_else(self, tmp_path):
        path = _files.write(tmp_path / "deep" / "er" / "Größe λ.bin", b"abc")
        assert path.read_bytes() == b"abc"
        assert names(path.parent) == ["Größe λ.bin"]

    @needs_posix
    @pytest.mark.parametrize("mask", [0o022, 0o077])
    def test_its_permissions_are_those_of_a_new_file(self, tmp_path, mask):
        before = os.umask(mask)
        try:
            path = _files.write(tmp_path / "file", b"abc")
        finally:
            os.umask(before)
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask

    def test_an_address_is_no_folder(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        study = st.Study("study", {"t": np.arange(3.0)}, {"seed": 0})
        for place in ("https://example.org/run", "s3:/bucket/run"):
            with pytest.raises(ValueError, match="it is an address, and nothing is sent to a network"):
                study.save(place)
        assert names(tmp_path) == []

    def test_a_home_folder_is_found_wherever_a_path_comes_in(self, tmp_path, monkeypatch):
        from stability.cli import _output

        home, here = tmp_path / "home", tmp_path / "here"
        home.mkdir(), here.mkdir()
        monkeypatch.setenv("HOME", str(home))
        monkeypatch.setenv("USERPROFILE", str(home))
        monkeypatch.chdir(here)
        study = st.Study("study", {"t": np.arange(3.0)}, {"seed": 0})
        assert study.save("~/runs/one") == home / "runs" / "one.npz"
        assert st.load("~/runs/one") == study
        st.save(study, Path("~") / "two", readable=True)
        st.plot(st.linearize(st.Flow(st.quadratic([1.0]), st.SGD(), step=0.1))).savefig("~/three.png")
        st.minimize(st.quadratic([1.0]), [1.0], method=st.SGD(), step=0.1, iterations=1, checkpoint="~/four")
        (home / "table.csv").write_text("a,y\n1,0\n2,1\n4,1\n3,0\n")
        assert st.datasets.read_table("~/table.csv", target="y", model="logistic").X.shape == (4, 2)
        assert _output.place(Path("~/five")) == home / "five"
        assert _check.folder("~/six") == home / "six"
        with pytest.raises(ValueError, match="which is none"):
            st.datasets.cifar("~/nothing")
        assert names(here) == []
        assert {"runs", "two.npz", "three.png", "six"} <= set(names(home))
        with pytest.raises(ValueError, match="`path` must be the path of a file or a folder; got '~nobody"):
            st.load("~nobody-of-this-name/run")

    @pytest.mark.parametrize("path", ["", ".", "a\0b"])
    def test_what_names_no_file_is_told(self, path):
        flow = st.Flow(st.quadratic([1.0]), st.SGD(), step=0.1)
        for use in (
            st.linearize(flow).save,
            st.load,
            lambda path: st.minimize(
                st.quadratic([1.0]), [1.0], method=st.SGD(), step=0.1, iterations=1, checkpoint=path
            ),
        ):
            with pytest.raises(ValueError, match=r"`path` must name a file; got .* such as 'results/run'"):
                use(path)

    @needs_posix
    def test_a_link_is_neither_followed_nor_replaced(self, tmp_path):
        (tmp_path / "target").write_bytes(b"theirs")
        (tmp_path / "link").symlink_to(tmp_path / "target")
        (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
        for name in ("link", "dangling"):
            with pytest.raises(ValueError, match=r"\(it is a link to .*\)\. Choose another place"):
                _files.write(tmp_path / name, b"ours")
            assert (tmp_path / name).is_symlink()
        assert (tmp_path / "target").read_bytes() == b"theirs"
        assert names(tmp_path) == ["dangling", "link", "target"]

    @needs_posix
    def test_a_linked_folder_is_followed(self, tmp_path):
        (tmp_path / "folder").mkdir()
        (tmp_path / "link").symlink_to(tmp_path / "folder")
        _files.write(tmp_path / "link" / "file", b"abc")
        assert names(tmp_path / "folder") == ["file"]

    def test_no_file_that_lies_under_a_name_of_ours_is_followed(self, tmp_path, monkeypatch):
        """As another user of the same folder would guess one: a link there is not written through."""
        monkeypatch.setattr(_files.secrets, "token_hex", lambda n: "0" * 16)
        (tmp_path / "target").write_bytes(b"theirs")
        (tmp_path / f".stability-{'0' * 16}.tmp").symlink_to(tmp_path / "target")
        with pytest.raises(ValueError, match="cannot be written"):
            _files.write(tmp_path / "file", b"ours")
        assert (tmp_path / "target").read_bytes() == b"theirs"

    def test_a_name_as_long_as_the_system_allows(self, tmp_path):
        _files.write(tmp_path / ("x" * 255), b"abc")
        with pytest.raises(ValueError, match=r"cannot be written \(File name too long\)\. Choose another"):
            _files.write(tmp_path / ("x" * 256), b"abc")

    @needs_posix
    def test_no_device_pipe_or_folder_is_replaced(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "folder").mkdir()
        os.mknod(tmp_path / "socket", stat.S_IFSOCK | 0o600)
        for name, kind in (("pipe", "a pipe"), ("folder", "a folder"), ("socket", "a socket")):
            with pytest.raises(ValueError, match=rf"{name} cannot be written \(it is {kind}\)"):
                _files.write(tmp_path / name, b"abc")
        assert names(tmp_path) == ["folder", "pipe", "socket"]

    @needs_posix
    def test_what_cannot_be_written_after_the_work_is_found_out_before_it(self, tmp_path):
        (tmp_path / "folder").mkdir()
        (tmp_path / "link").symlink_to(tmp_path / "folder" / "file")
        for name, told in (("folder", "a folder"), ("link", "a link to"), ("x" * 256, "name too long")):
            with pytest.raises(ValueError, match=rf"cannot be written \(.*{told}"):
                _files.ready(tmp_path / name)
        _files.ready(tmp_path / "new" / "file")
        assert names(tmp_path / "new") == []

    def test_what_fails_leaves_the_old_file_and_nothing_else(self, tmp_path, monkeypatch):
        path = _files.write(tmp_path / "file", b"old")

        def full(place):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(ValueError, match=r"cannot be written \(No space left on device\)"):
            _files.write(path, b"new")
        assert path.read_bytes() == b"old"
        assert names(tmp_path) == ["file"]

    def test_a_reader_in_the_way_is_waited_for(self, tmp_path, monkeypatch):
        """As under Windows, where no open file can be replaced."""
        replace, tries = os.replace, []

        def busy(*paths):
            tries.append(paths)
            if len(tries) < 3:
                raise PermissionError(13, "Access is denied")
            replace(*paths)

        monkeypatch.setattr(os, "replace", busy)
        assert _files.write(tmp_path / "file", b"abc").read_bytes() == b"abc"
        assert len(tries) == 3

    def test_what_a_kill_left_is_removed_once_it_is_old_and_nothing_of_others(self, tmp_path):
        old = time.time() - 2 * 3600
        left, fresh = (f".stability-{digit * 16}.tmp" for digit in "01")
        theirs = [".stability-mine.tmp", ".write-test", "a.tmp"]
        for name in (left, fresh, *theirs):
            (tmp_path / name).write_text("")
            if name != fresh:
                os.utime(tmp_path / name, (old, old))
        _files.write(tmp_path / "file", b"abc")
        assert names(tmp_path) == sorted([fresh, *theirs, "file"])


class TestReading:
    @needs_posix
    def test_pipes_devices_and_folders_are_refused_at_once(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        for path, kind in ((tmp_path / "pipe", "a pipe"), ("/dev/zero", "a device"), (tmp_path, "a folder")):
            with pytest.raises(ValueError, match=rf"is {kind}, not a file\. Give the path of a file"):
                _files.regular(path)

    def test_a_file_and_a_link_to_one(self, tmp_path):
        path = _files.write(tmp_path / "file", b"")
        (tmp_path / "link").symlink_to(path)
        assert _files.regular(path) == path
        assert _files.regular(str(tmp_path / "link")) == tmp_path / "link"

    @pytest.mark.parametrize("address", ["http://a.org/x.csv", "ftp://a.org/x", "http:/a", "s3://b/x"])
    def test_addresses_are_not_fetched(self, address):
        with pytest.raises(ValueError, match=r"is an address, and nothing is fetched.*Download the file"):
            _files.regular(address)

    def test_what_is_missing_and_what_cannot_be_looked_at(self, tmp_path):
        for path, told in (("C:/no", "does not exist"), (tmp_path / ("x" * 300), "cannot be read")):
            with pytest.raises(ValueError, match=told):
                _files.regular(path)

    @needs_posix
    @pytest.mark.parametrize("name", ["data_batch_1.bin", "batches.meta.txt"])
    def test_a_pipe_in_a_folder_of_images_is_not_waited_for(self, name, tmp_path):
        for one in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"):
            (tmp_path / one).write_bytes(bytes(3073))
        (tmp_path / "batches.meta.txt").write_text("\n".join("abcdefghij"))
        (tmp_path / name).unlink()
        os.mkfifo(tmp_path / name)
        with pytest.raises(ValueError, match=rf"{name} is a pipe, not a file"):
            st.datasets.cifar(tmp_path)

    @needs_posix
    def test_a_pipe_instead_of_a_pickle_is_not_waited_for(self, tmp_path):
        (tmp_path / "data_batch_1").write_bytes(b"")
        os.mkfifo(tmp_path / "batches.meta")
        with pytest.raises(ValueError, match="is a pipe, not a file"):
            st.datasets.cifar(tmp_path)


class TestFolders:
    def test_a_users_file_stays_where_a_folder_is_tried(self, tmp_path):
        (tmp_path / ".write-test").write_text("mine")
        _check.folder(tmp_path)
        assert (tmp_path / ".write-test").read_text() == "mine"
        assert names(tmp_path) == [".write-test"]

    def test_many_may_try_one_folder_at_once(self, tmp_path):
        failed = []

        def often():
            try:
                for _ in range(50):
                    _check.folder(tmp_path / "new")
            except ValueError as error:
                failed.append(error)

        threads = [threading.Thread(target=often) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed
        assert names(tmp_path / "new") == []


HOLDS = """
import sys, time
from pathlib import Path
from stability import _files
with _files.held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


class TestLocks:
    def test_one_at_a_time_and_let_go_with_the_process(self, tmp_path):
        lock = tmp_path / "lock"
        other = subprocess.Popen([sys.executable, "-c", HOLDS, str(lock)], stdout=subprocess.PIPE)
        try:
            assert other.stdout.readline() == b"held\n"
            with pytest.raises(BlockingIOError), _files.held(lock):
                pass
        finally:
            other.kill()
            other.wait()
            other.stdout.close()
        with _files.held(lock):
            with pytest.raises(BlockingIOError), _files.held(lock):  # in one process too
                pass
            assert names(tmp_path) == ["lock"]
        assert names(tmp_path) == []

    def test_a_file_of_anothers_is_left_alone(self, tmp_path):
        (tmp_path / "lock").write_text("data" * 1000)
        (tmp_path / "link").symlink_to(tmp_path / "empty")
        for name, told in (("lock", "it holds something"), ("link", "it is a link to")):
            with pytest.raises(OSError, match=told), _files.held(tmp_path / name):
                pass
        assert (tmp_path / "lock").read_text() == "data" * 1000
        assert names(tmp_path) == ["link", "lock"]


WRITES = {"write_text", "write_bytes", "savez", "savez_compressed", "tofile", "touch", "to_csv", "to_html"}
WRITES |= {"replace", "rename", "unlink", "remove", "rmtree", "mkdir", "makedirs", "mkstemp"}
NETWORK = {
    "aiohttp",
    "ftplib",
    "http",
    "httpx",
    "requests",
    "smtplib",
    "socket",
    "ssl",
    "urllib",
    "webbrowser",
}
POSIX = {"fcntl", "grp", "posix", "pwd", "resource", "termios", "tty"}


def imported(path):
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.split(".")[0]


def writing(path):
    """Calls that change files: by the names of modules and methods, and `open` for anything but reading."""
    for call in nodes(path):
        if not isinstance(call, ast.Call):
            continue
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        if name == "open":
            modes = [*call.args[1:], *(k.value for k in call.keywords if k.arg == "mode")]
            if any(isinstance(m, ast.Constant) and set("wax+") & set(str(m.value)) for m in modes):
                yield ast.unparse(call)
        elif name in WRITES and isinstance(call.func, ast.Attribute):
            if name in ("replace", "remove") and ast.unparse(call.func.value) != "os":
                continue  # of texts, dataclasses and lists
            yield ast.unparse(call)


@pytest.mark.slow
def test_every_file_is_written_by_the_one_writer():
    found = {path.name: [*writing(path)] for path in FILES}
    assert len(found.pop("_files.py")) >= 5
    found = {name: calls for name, calls in found.items() if calls}
    # An archive is opened for writing in memory.
    assert found.keys() == {"_archive.py"}
    assert [call.split("(")[0] for call in found["_archive.py"]] == ["archive.open"]


def test_nothing_that_reaches_a_network_is_imported():
    assert not {name for path in FILES for name in imported(path)} & NETWORK


def test_nothing_that_other_systems_lack_is_imported():
    assert not {name for path in FILES for name in imported(path)} & POSIX


OFFLINE = """
import sys
def watch(event, arguments):
    if event.split(".")[0] in ("socket", "urllib", "http", "ftplib", "smtplib", "webbrowser"):
        raise SystemExit(f"{event} {arguments}")
import numpy as np, pandas, stability as st
sys.addaudithook(watch)
for address in ("http://127.0.0.1/x.csv", "ftp://127.0.0.1/x.csv", "s3://a/b.csv", "//127.0.0.1/x.csv"):
    for read in (
        lambda: st.load(address),
        lambda: st.datasets.read_table(address, target="y", model="logistic"),
        lambda: st.datasets.cifar(address),
    ):
        try:
            read()
        except ValueError:
            continue
        raise SystemExit(f"{address} was read")
F = st.logistic(np.eye(4)[:, :2], [0, 1, 0, 1], l2=0.1)
run = st.minimize(F, np.zeros(2), sweeps=4, checkpoint=f"{sys.argv[1]}/state")
st.plot(run).savefig(f"{sys.argv[1]}/run.png")
st.load(run.save(f"{sys.argv[1]}/run"))
print("done")
"""


@pytest.mark.slow
def test_no_network_is_touched(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, str(tmp_path)], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stdout.endswith("done\n"), done.stderr
