"""What a command leaves in files, and what it says of them where it is stopped."""

from __future__ import annotations

import shlex
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .. import _check, _files
from .._interrupts import press, undisturbed
from .._saving import save

TERMINATED = 128 + signal.SIGTERM
"""The exit code of what was asked to end, as shells have it."""


OTHERS = (".pdf", ".eps", ".ps", ".jpg", ".jpeg", ".tif", ".tiff", ".gif", ".csv", ".tsv", ".txt", ".xlsx")
"""Endings of files that are not written: a name may have dots, but not one of these behind the last."""


class Stopped(KeyboardInterrupt):
    """Ctrl-C, with a sentence about what was saved."""


@contextmanager
def termination() -> Iterator[list[int]]:
    """SIGTERM, by which schedulers and shutdowns end a program, is heard as Ctrl-C; yields what was heard."""
    heard: list[int] = []

    def hear(number: int, frame: Any) -> None:
        heard.append(number)
        press(number, frame)

    # Who has it ignored, or handles it, is left alone; only the main thread may handle signals.
    ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    )
    if ours:
        signal.signal(signal.SIGTERM, hear)
    try:
        yield heard
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def place(out: Path | None) -> Path | None:
    """Where results go, without an ending; found out before the computing starts."""
    if out is None:
        return None
    out = _files.path_of(out)
    ending = out.suffix.lower()
    if ending in OTHERS:
        raise ValueError(
            f"`--out` must be a name without an ending: pictures are .png and .svg, numbers .npz and .json; "
            f"got {str(out)!r}. Write --out {shlex.quote(str(out.with_suffix('')))}."
        )
    out = out.with_suffix("") if ending in (".json", ".npz", ".png", ".svg") else out
    _check.folder(out.parent)
    # Before hours of computing, not after them.
    ready(out, out)
    return out


def written(out: Path, drawn: bool = True) -> str:
    """The line that names the files of `keep`."""
    return f"{out}{'.png, .svg, ' if drawn else ''}.json, .npz"


def ready(out: Path, picture: Path) -> None:
    """Find out before the computing whether everything that `keep` writes can be written after it."""
    for base, endings in ((out, (".npz", ".json")), (picture, (".png", ".svg"))):
        for ending in endings:
            _files.ready(base.with_name(base.name + ending))


def keep(result: Any, out: Path, picture: Path | None) -> None:
    """Save a result, and then draw it, at `picture`: numbers are kept where the picture cannot be.

    Raises
    ------
    ValueError
        If one cannot be written.
    Stopped
        At Ctrl-C, which waits until the numbers are written.
    """
    from ..pictures.plot import plot, write

    saved = False
    try:
        # Ctrl-C waits until the numbers are whole; the picture can be drawn again.
        with undisturbed():
            save(result, out, readable=True)
            saved = True
        if picture is not None:
            write(plot(result), picture)
    except KeyboardInterrupt:
        told = f"the numbers are in {out}.npz, the picture is not drawn" if saved else "nothing was saved"
        raise Stopped(f"Interrupted: {told}.") from None
    except ValueError as error:
        raise ValueError(f"{error} The numbers are in {out}.npz." if saved else str(error)) from None
