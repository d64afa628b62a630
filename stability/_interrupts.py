"""Ctrl-C, and what stands for it: where it may come, and where it waits for the end of a piece of work."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_sections: list[list[int]] = []  # at most one: what was pressed while a piece of work is not to be disturbed


def press(number: int, frame: Any) -> None:
    """A signal's handler: raises KeyboardInterrupt, at the end of a section that is not to be disturbed.

    A second one in the same section does not wait.
    """
    if _sections and not _sections[0]:
        _sections[0].append(number)
        return
    raise KeyboardInterrupt


@contextmanager
def undisturbed() -> Iterator[None]:
    """Ctrl-C waits for the end of this section, where nobody else handles it; a second one does not wait."""
    inside = bool(_sections)  # another one, which waits for both
    if inside or threading.current_thread() is not threading.main_thread():  # others are never interrupted
        yield
        return
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    pressed: list[int] = []
    _sections.append(pressed)
    if ours:
        signal.signal(signal.SIGINT, press)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        _sections.clear()
    if pressed:
        raise KeyboardInterrupt
