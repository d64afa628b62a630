"""A time limit on symbolic work: some formulas, small to write, keep SymPy busy for hours."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SECONDS = 20.0


@contextmanager
def limited(what: str, seconds: float = SECONDS) -> Iterator[None]:
    """Stop with a sentence after some seconds, where the system has an alarm and this is the main thread;
    else there is no limit.

    Raises
    ------
    ValueError
        If the time is over.
    """
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def over(number: int, frame: Any) -> None:
        raise ValueError(
            f"SymPy did not derive {what} for this gain in {seconds:g} seconds. Use st.linearize or "
            "st.exact_mode for numbers."
        )

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
