"""What all pictures share: methods' colours and markers, axes, legends, measured points with their bars."""

from __future__ import annotations

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
}
MARKERS = {"SGD": "o", "Newton": "s", "damped Newton": "^", "SFN": "D", "LRSFN": "v"}


def panels(rows: int, columns: int, width: float, height: float, **options: Any) -> tuple[Figure, np.ndarray]:
    """A figure of (rows, columns) axes, each of this size in inches; outside pyplot, which would keep it."""
    from .figure import Picture

    figure = Picture(figsize=(width * columns, height * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def handle(**style: Any) -> Line2D:
    """An entry for a legend."""
    from matplotlib.lines import Line2D

    return Line2D([], [], **style)


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
                ms=4.5,
                lw=0.9,
                alpha=1.0 if trusted[k] else 0.45,
            )


def method_legend(figure: Figure, names: np.ndarray, extra: list[Line2D]) -> None:
    """One legend for all panels, below them."""
    lines = [handle(color=COLORS[n], marker=MARKERS[n], label=n) for n in names]
    figure.legend(handles=lines + extra, loc="outside lower center", ncol=5, fontsize=8)
