"""A progress bar in a terminal or a notebook; in a pipe or a file nothing is drawn."""

from __future__ import annotations

import functools
import html
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

STRIDE = 1 / 200  # of the whole: drawing costs more than many a step


class Bar:
    """What running work tells how far it is, from any thread; without `draw` it keeps silent.

    Attributes
    ----------
    total : float
        Of the work, in units of its own.
    """

    def __init__(self, total: float, draw: Callable[..., Any] | None = None):
        self.total, self._draw = total, draw
        self._done, self._drawn, self._lock = 0.0, 0.0, threading.Lock()

    def advance(self, amount: float) -> None:
        """So much more is done."""
        if self._draw is None:
            return
        with self._lock:
            self._done += amount
            if self._done - self._drawn >= STRIDE * self.total:
                self._draw(completed=self._done, total=self.total)
                self._drawn = self._done

    def show(self, done: float, told: str) -> None:
        """So much is done in all, and what is to be read beside it."""
        if self._draw is not None:
            self._draw(completed=done, description=told)


@contextmanager
def progress_bar(asked: bool, name: str, total: float = 1.0) -> Iterator[Bar]:
    """A bar that is gone when the work is over; `rich` is loaded only if it is asked for."""
    if not asked:
        yield Bar(total)
        return
    from rich.console import Console
    from rich.progress import Progress

    console = Console()
    if console.is_jupyter:  # rich would ask for ipywidgets there, which few have
        with _below_the_cell(name) as draw:
            yield Bar(total, draw)
        return
    if not console.is_terminal:  # rich would leave an empty line there
        yield Bar(total)
        return
    with Progress(console=console, transient=True) as shown:
        yield Bar(total, functools.partial(shown.update, shown.add_task(name, total=total)))


@contextmanager
def _below_the_cell(name: str) -> Iterator[Callable[..., None]]:
    """The browser's own bar in a notebook, drawn anew in place."""
    from IPython.display import HTML, display

    place = display(HTML(""), display_id=True)

    def draw(*, completed: float, total: float | None = None, description: str = name) -> None:
        bar = f'<progress value="{completed:g}" max="{total or 1.0:g}"></progress>'
        place.update(HTML(f"{html.escape(description)} {bar}"))

    try:
        yield draw
    finally:
        place.update(HTML(""))
