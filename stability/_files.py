"""Files: written whole or not at all, read only where they are files, held by one run at a time."""

from __future__ import annotations

import functools
import os
import re
import secrets
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_HALF = re.compile(r"\.stability-[0-9a-f]{16}\.tmp")  # a file that is being written
_STALE = 3600.0  # seconds without a change after which nobody is writing it
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # of two letters at least: C:/ is a drive
_PATIENCE = (0.01, 0.05, 0.25, 1.0)  # seconds between tries where a reader is in the way
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def path_of(path: str | os.PathLike[str]) -> Path:
    """`path` with a ``~`` at its beginning as the home folder it stands for.

    A shell does that where it sees a word begin with it, but not in ``--out=~/run`` or in Python.

    Raises
    ------
    ValueError
        If it is no path, or nobody's home.
    """
    try:
        return Path(path).expanduser()
    except (TypeError, RuntimeError):
        raise ValueError(
            f"`path` must be the path of a file or a folder; got {str(path)!r}. Write it in full."
        ) from None


def named(path: str | Path) -> Path:
    """`path` if it can be a file's.

    Raises
    ------
    ValueError
        If it has no name, or one that no system takes.
    """
    found = path_of(path)
    if not found.name or "\0" in str(found):
        raise ValueError(f"`path` must name a file; got {str(path)!r}. Give one such as 'results/run'.")
    return found


def regular(path: str | Path) -> Path:
    """`path` if a file lies there, or a link to one; a pipe would be waited for, a device has no end.

    Raises
    ------
    ValueError
        If nothing lies there, or something that is no file.
    """
    path = path_of(path)
    try:
        kind = _kind(path)
    except FileNotFoundError:
        if _ADDRESS.match(str(path)):
            raise ValueError(
                f"{path} is an address, and nothing is fetched from a network. Download the file and give "
                "its path."
            ) from None
        raise ValueError(f"{path} does not exist.") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}).") from None
    if kind is not None:
        raise ValueError(f"{path} is {kind}, not a file. Give the path of a file.")
    return path


def _kind(path: Path) -> str | None:
    """What lies there, links followed, in words; None for a file."""
    mode = path.stat().st_mode
    return None if stat.S_ISREG(mode) else _KINDS.get(stat.S_IFMT(mode), "something else")


def write(path: str | Path, content: bytes) -> Path:
    """Write a file so that readers, and whoever comes after a kill, see it as it was or as it will be.

    Under a private name in the same folder first, then renamed; its permissions are those of a new file. A
    link at `path` is neither followed nor replaced (``/dev/stdout`` is one), one to its folder is followed.

    Raises
    ------
    ValueError
        If it cannot be written, or what lies there is a link or no file.
    """
    path = path_of(path)
    half = path.parent / f".stability-{secrets.token_hex(8)}.tmp"
    try:
        _refuse_other(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        _tidy(path.parent)
        try:
            with open(half, "xb") as stream:  # created anew: no link and no file of another is followed
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            _rename(half, path)
        finally:
            half.unlink(missing_ok=True)
        _settle(path.parent)
    except OSError as error:
        raise ValueError(f"{path} cannot be written ({error.strerror}). Choose another place.") from None
    return path


def ready(path: Path) -> None:
    """Find out before the work whether a file can be written there after it; makes the folder if need be.

    Raises
    ------
    ValueError
        If it cannot.
    """
    try:
        _refuse_other(path)
        writable(path.parent)
    except OSError as error:
        raise ValueError(f"{path} cannot be written ({error.strerror}). Choose another place.") from None


def _refuse_other(path: Path) -> None:
    """A rename would put a file in the place of a link or a device."""
    _refuse_address(path)
    if path.is_symlink():
        raise OSError(0, f"it is a link to {os.readlink(path)}")
    with suppress(FileNotFoundError):
        kind = _kind(path)
        if kind is not None:
            raise OSError(0, f"it is {kind}")


def _refuse_address(path: Path) -> None:
    """It would become a folder called "http:"."""
    if _ADDRESS.match(str(path)):
        raise OSError(0, "it is an address, and nothing is sent to a network")


def _rename(half: Path, path: Path) -> None:
    for pause in _PATIENCE:
        try:
            os.replace(half, path)
            return
        except PermissionError:  # under Windows also while somebody reads the file
            time.sleep(pause)
    os.replace(half, path)


def _settle(folder: Path) -> None:
    """Have the rename itself outlive a power cut, where folders can be synchronised."""
    with suppress(OSError):
        place = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(place)
        finally:
            os.close(place)


@functools.cache  # once in each folder: to list it for every file would be slow
def _tidy(folder: Path) -> None:
    """Remove what killed processes left of files that they were writing."""
    for left in folder.glob(".stability-*.tmp"):
        with suppress(OSError):
            if _HALF.fullmatch(left.name) and time.time() - left.lstat().st_mtime > _STALE:
                left.unlink()


def writable(folder: Path) -> None:
    """Make sure that files can be written there, and make the folder if need be; raises OSError."""
    _refuse_address(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):  # of a name that nobody else has
        pass


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold a lock, an empty file; it is let go with the process, however that ends.

    Raises
    ------
    BlockingIOError
        If another holds it, in this process or in another.
    OSError
        If something else lies there, or the place knows no locks.
    """
    import sqlite3  # whose locks are the same on every system

    _refuse_other(path)
    if path.exists() and path.stat().st_size:
        raise OSError(0, "it holds something")
    while True:
        lock = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            lock.execute("PRAGMA journal_mode = OFF")  # nothing is ever written, so nothing lies beside
            lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.Error as error:
            lock.close()
            if getattr(error, "sqlite_errorname", "").startswith("SQLITE_BUSY"):
                raise BlockingIOError(0, "it is in use") from None
            raise OSError(0, str(error)) from None
        if path.exists():
            break
        lock.close()  # whoever held it before removed the file that was locked here
    try:
        yield
    finally:
        with suppress(OSError):  # under Windows a file that is open stays
            path.unlink()
        lock.close()
