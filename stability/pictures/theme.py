"""The house style, for as long as a picture is drawn or saved: the user's own is left alone."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .curves import apart

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE = Path(__file__).parents[1] / "stability.mplstyle"


def context() -> AbstractContextManager[None]:
    """Where matplotlib has the house style."""
    import matplotlib.style

    return matplotlib.style.context(STYLE)


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """`draw` within the house style, and with curves that coincide told apart."""

    @functools.wraps(draw)
    def drawn(result: Any) -> Figure:
        with context():
            figure = draw(result)
            for axis in figure.axes:
                apart(axis)
            return figure

    return drawn
