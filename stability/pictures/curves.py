"""Curves that lie on each other are told apart, in every picture alike."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

_SAME, _STRETCH = 0.006, 0.3
"""Curves are one where nearer than this share of the axes; told apart if so on this share of one of them."""
_STEP, _DASH = 0.003, 4.0
"""Distance of the points at which curves are compared, in shares of the axes; points of a dash."""


def apart(axis: Axes) -> None:
    """Dash curves that lie on each other, so that each is seen: of n, each shows its part of the way.

    The one that has most of its way to itself stays whole, below the others.
    """
    axis.get_xlim(), axis.get_ylim()  # the scales of what was drawn, which are lazy
    traced = {line: _traced(axis, line) for line in axis.lines if line.get_linestyle() == "-"}
    groups: list[set[Line2D]] = []
    shared = dict.fromkeys(traced, 0)
    for one, other in itertools.permutations(traced, 2):
        along = _along(one, traced[one], other, traced[other])
        shared[one] = max(shared[one], along)
        if along > _STRETCH * len(traced[one]):
            touched = [group for group in groups if one in group or other in group]
            groups = [group for group in groups if group not in touched] + [{one, other}.union(*touched)]
    for group in groups:
        alone = {line: len(traced[line]) - shared[line] for line in axis.lines if line in group}
        # By tenths of the axes: of curves that are alone about as long the order of drawing decides.
        for k, line in enumerate(sorted(alone, key=lambda line: -round(alone[line] * _STEP, 1))):
            length = _DASH / line.get_linewidth()
            line.set_zorder(line.get_zorder() + 0.01 * k)
            if k:
                # The higher a curve lies, the shorter its dashes: those below show through its gaps.
                line.set_linestyle((0, ((len(group) - k) * length, k * length)))


def _traced(axis: Axes, line: Line2D) -> np.ndarray:
    """Points (n, 2) along what is seen of a line, close to each other, in shares of the axes."""
    with np.errstate(all="ignore"):
        points = (axis.transScale + axis.transLimits).transform(line.get_xydata())
    points = points[np.isfinite(points).all(axis=1)]
    if len(points) < 2 or line.get_transform() != axis.transData:  # a mark, or a line across the axes
        return np.empty((0, 2))
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    at = np.linspace(0, along[-1], 2 + min(2000, int(along[-1] / _STEP)))
    traced = np.column_stack([np.interp(at, along, points[:, i]) for i in range(2)])
    return traced[((traced >= 0) & (traced <= 1)).all(axis=1)]


def _along(one: Line2D, traced: np.ndarray, other: Line2D, beside: np.ndarray) -> int:
    """At how many of its points a line runs along another of its width, but of another colour."""
    if one.get_color() == other.get_color() or one.get_linewidth() != other.get_linewidth():
        return 0
    near = np.abs(traced[:, None] - beside).max(axis=2, initial=0.0) < _SAME
    return int(near.any(axis=1).sum())
