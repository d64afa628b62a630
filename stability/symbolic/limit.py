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
    """Stop with a sentence after some seconds, or where SymPy fails on what it was given.

    There is a limit where the system has an alarm and this is the main thread.

    Raises
    ------
    ValueError
        If the time is over, or SymPy raised something else than a sentence of ours.
    """
    try:
        with _alarm(what, seconds):
            yield
    # Sentences of ours, `vanishes`'s ArithmeticError among them, pass as they are.
    except (ValueError, ArithmeticError):
        raise
    except Exception as error:  # SymPy's algorithms fail in many ways on gains with poles and switches
        raise ValueError(
            f"SymPy cannot derive {what} for this gain ({type(error).__name__}: {error}). Use st.linearize "
            "or st.exact_mode for numbers."
        ) from error


@contextmanager
def _alarm(what: str, seconds: float) -> Iterator[None]:
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
        # In this order: an alarm after the caller's handler is back would be taken for the caller's own.
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
