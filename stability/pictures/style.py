"""What all pictures share: methods' colours and markers, axes, legends, measured points with their bars."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

# Okabe and Ito's colours, told apart by all common kinds of colour blindness; markers repeat the distinction.
COLORS = {
    "SGD": "#000000",
    "Newton": "#D55E00",
    "damped Newton": "#E69F00",
    "SFN": "#0072B2",
    "LRSFN": "#009E73",
    "momentum": "#CC79A7",
    "Adam": "#56B4E9",
}
MARKERS = {"SGD": "o", "Newton": "s", "damped Newton": "^", "SFN": "D", "LRSFN": "v"}
MARKERS |= {"momentum": "P", "Adam": "X"}
# The later one is drawn, the smaller it is: where several lie on one point, all are seen.
SIZES = {"SGD": 5.5, "Newton": 5.0, "damped Newton": 6.5, "SFN": 4.5, "LRSFN": 3.5}
SIZES |= {"momentum": 5.5, "Adam": 4.0}


def panels(rows: int, columns: int, width: float, height: float, **options: Any) -> tuple[Figure, np.ndarray]:
    """A figure of (rows, columns) axes, each of this size in inches; outside pyplot, which would keep it."""
    from .figure import Picture

    figure = Picture(figsize=(width * columns, height * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def handle(**style: Any) -> Line2D:
    """An entry for a legend."""
    from matplotlib.lines import Line2D

    return Line2D([], [], **style)


def coordinates(about: Mapping[str, Any], dim: int) -> list[str]:
    """What to call the state's coordinates: as the formula does, if the result's provenance has its names."""
    names = list(about.get("variables") or [])[:dim]
    if not names and dim == 1:
        return ["$w$"]
    return [_typeset(name) for name in names] + [f"$w_{{{i + 1}}}$" for i in range(len(names), dim)]


def _typeset(name: str) -> str:
    """A variable's name: a letter, with a number after it or not, in italics; a word as it stands."""
    letter, number = name[:1], name[1:].lstrip("_")
    if letter.isalpha() and number.isdecimal():
        return f"${letter}_{{{number}}}$"
    return f"${name}$" if len(name) == 1 else name


def colored(name: str) -> dict[str, Any]:
    """A method's color and label."""
    return {"color": COLORS[name], "label": name}


def marks(axis: Axes, name: str, kappa: np.ndarray, measured: np.ndarray, trusted: np.ndarray) -> None:
    """SDE (filled) and iteration (crosses) with two standard errors; hollow where theory is not valid."""
    kappa = np.broadcast_to(kappa, measured.shape[:1])
    for level, shift in ((0, 0.93), (1, 1.07)):
        value, error = measured[:, level, 0], measured[:, level, 1]
        for k in np.flatnonzero(np.isfinite(value)):
            face = COLORS[name] if level == 0 and trusted[k] else "white"
            below = min(2 * error[k], 0.9 * value[k])  # the axis is logarithmic
            axis.errorbar(
                kappa[k] * shift,
                value[k],
                [[below], [2 * error[k]]],
                fmt=MARKERS[name] if level == 0 else "x",
                color=COLORS[name],
                mfc=face,
                ms=4.5 if level else SIZES[name],
                lw=0.9,
                alpha=1.0 if trusted[k] else 0.45,
            )


def method_legend(figure: Figure, names: Iterable[str], extra: list[Line2D]) -> None:
    """One legend for all panels, below them."""
    lines = [handle(color=COLORS[n], marker=MARKERS[n], ms=SIZES[n], label=n) for n in names]
    figure.legend(handles=lines + extra, loc="outside lower center", ncol=5, fontsize=8)
