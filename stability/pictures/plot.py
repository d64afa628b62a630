"""Pictures of results: draws what it is given and computes nothing.

The only package that imports matplotlib, and only when a picture is drawn.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import singledispatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import _check
from .._saving import Study
from ..advice.result import Advice
from ..advice.watched import Watched
from ..comparison import Comparison
from ..densities.result import StationaryDensity
from ..ensembles.result import Ensemble
from ..ensembles.tails import TailIndex
from ..linear.bounds import Bounds
from ..linear.result import LinearFlow
from ..lyapunov.exponents import LyapunovExponents
from ..lyapunov.limit import AlmostSureLimit
from ..portraits.line import Profile
from ..portraits.plane import Portrait
from ..training.history import History
from ..trajectories.result import Trajectory
from . import advice, densities, exits, landscapes, paths, products, results, studies, sweeps, training
from .style import COLORS, MARKERS
from .theme import context, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["COLORS", "MARKERS", "plot", "write"]

_STUDIES = (
    studies.STUDIES
    | training.STUDIES
    | landscapes.STUDIES
    | exits.STUDIES
    | densities.STUDIES
    | products.STUDIES
    | paths.STUDIES
)


@_check.by_name
def plot(result: Any, *, x: str | None = None, y: str | None = None, hue: str | None = None) -> Figure:
    """Draw a result: whatever this package computes and prints has a picture, but for a few.

    Parameters
    ----------
    result : a result of this package, or a dataset of `stability.sweep`
    x, y, hue : str, optional
        Of a dataset: with an axis as `y` a heat map of the numbers `hue` and the boundary of what is stable,
        with numbers as `y` lines over `x`, one for each value of the axis `hue`. An axis that is left has a
        panel for each value.

    Returns
    -------
    matplotlib.figure.Figure
        A notebook displays it, ``show()`` opens a window from a script, ``savefig`` writes PNG, SVG or PDF.
        No other reference to it is kept.

    Raises
    ------
    TypeError
        If there is no picture for this kind of result, or axes are chosen of what is no dataset.
    ValueError
        If a dataset has no such axis, or more than can be drawn.

    Examples
    --------
    >>> import stability as st
    >>> flow = st.Flow(st.quadratic([1.0, 0.1]), st.SGD(), st.Noise(gradient=1.0), step=0.1)
    >>> st.plot(st.linearize(flow)).axes[0].get_xscale()
    'log'
    """
    chosen = {"x": x, "y": y, "hue": hue}
    if type(result).__module__.partition(".")[0] == "xarray" and hasattr(result, "data_vars"):
        return styled(functools.partial(sweeps.dataset, **chosen))(result)
    if any(name is not None for name in chosen.values()):
        raise TypeError(
            f"`x`, `y` and `hue` choose axes of a dataset of st.sweep; got a {type(result).__name__}."
        )
    return _drawn(result)


@singledispatch
def _drawn(result: Any) -> Figure:
    """The picture of a result whose class has one."""
    # What has no picture of its own says what to draw of it.
    if hasattr(result, "data") and isinstance(study := result.data(), Study):
        return plot(study)
    drawn = ", ".join(sorted(kind.__name__ for kind in _PICTURES))
    raise TypeError(
        f"There is no picture for {type(result).__name__}; there is for {drawn}, Theorem, ExactMode, "
        "ExitTime, Spectrum and the datasets of st.sweep."
    )


def _study(result: Study) -> Figure:
    if result.name not in _STUDIES:
        raise TypeError(
            f"There is no picture for the study {result.name!r}; there is for {', '.join(_STUDIES)}."
        )
    return _STUDIES[result.name](result)


_PICTURES: dict[type, Callable[..., Figure]] = {
    LinearFlow: results.linear_flow,
    Bounds: results.bounds,
    Ensemble: results.ensemble,
    Comparison: results.comparison,
    History: training.history,
    Watched: training.watched,
    Portrait: landscapes.portrait,
    Profile: landscapes.profile,
    LyapunovExponents: products.lyapunov_exponents,
    AlmostSureLimit: products.almost_sure_limit,
    TailIndex: products.tail_index,
    StationaryDensity: densities.density,
    Trajectory: paths.trajectory,
    Study: _study,
    Advice: advice.advice,
}
for _kind, _draw in _PICTURES.items():
    # `singledispatch` picks the nearest class: what has no entry falls to `_drawn` itself.
    _drawn.register(_kind, styled(_draw))


def write(figure: Figure, base: Path) -> None:
    """Save a picture as ``BASE.png`` and ``BASE.svg``; the same numbers give the same bytes.

    Raises
    ------
    ValueError
        If one cannot be written; what lay there stays as it was.
    """
    with context():
        # matplotlib would write its version into the PNG and the date into the SVG.
        for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None})):
            figure.savefig(base.with_name(base.name + suffix), metadata=metadata)
