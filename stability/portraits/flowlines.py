"""Flow lines ``w' = -P(H) g`` in a plane, many at once, by an L-stable Rosenbrock method."""

from __future__ import annotations

import numpy as np

from ..flow import Flow
from ..objectives.base import defines

LEFT, SINGULAR, UNDECIDED, UNDEFINED = -1, -2, -3, -4
"""Ends that are no sink: out of the region, at an infinite drift, nowhere yet, where F is not defined."""
NEAREST = 1e-9
"""Of the region's width: a line this near a sink has arrived, wherever it heads."""
Sinks = list[tuple[int, np.ndarray, float]]
"""Points where flow lines may end: index, place, and how near (in the region's width) a line has arrived."""
_GAMMA = 1 - 0.5**0.5  # of ROS2, which is L-stable with it


def follow(
    flow: Flow, starts: np.ndarray, region: np.ndarray, sinks: Sinks, *, keep: bool = False, rounds: int = 600
) -> tuple[np.ndarray, np.ndarray]:
    """Flow lines from starts (n, 2) to their ends (sink, or -1 to -4) and, if kept, lines (steps, n, 2).

    A line ends near a sink it moves towards, a region's width out of the region, or at a pole of the gain,
    which no flow line crosses: where a gain changes its sign, or where the line halts at full speed.
    """
    width = region[:, 1] - region[:, 0]
    w, ends = np.array(starts), np.where(_undefined(flow, starts), UNDEFINED, UNDECIDED)
    (drift, signs), track = _drift(flow, w), [w.copy()]
    usual = np.linalg.norm(drift / width, axis=1)
    for _ in range(rounds):
        going = np.flatnonzero(ends == UNDECIDED)
        if not len(going):
            break
        ahead = _ahead(flow, w[going], drift[going], 0.01 * width)
        now, sign = _drift(flow, ahead)
        halted = np.max(np.abs(ahead - w[going]) / width, axis=1) < 1e-8
        fast = np.linalg.norm(now / width, axis=1) > usual[going]
        ends[going] = _ends(ahead, now, (sign != signs[going]) | (halted & fast), region, sinks)
        ends[going[_undefined(flow, ahead)]] = UNDEFINED
        w[going], drift[going], signs[going] = ahead, now, sign
        if keep:
            track.append(np.full_like(w, np.nan))
            track[-1][going] = ahead
    # Still going, but outside when the rounds are over: they are taken to stay there.
    ends[(ends == UNDECIDED) & ((w < region[:, 0]) | (w > region[:, 1])).any(axis=1)] = LEFT
    return ends, np.stack(track)


def _undefined(flow: Flow, w: np.ndarray) -> np.ndarray:
    """Whether states (n, 2) lie where the objective has no value, though its derivatives may."""
    with np.errstate(all="ignore"):
        return np.isnan(flow.objective.value(w))


def _drift(flow: Flow, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``-P g`` (n, 2), and how many gains are negative (n,)."""
    with np.errstate(all="ignore"):
        local, gradient = flow.local(w, bends=False), flow.objective.gradient(w)
        gains = 1.0 if local.response is None else local.response.gains
        return -local.apply(gradient), np.sum(gains + 0 * w < 0, axis=-1)


def _ahead(flow: Flow, w: np.ndarray, drift: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """States (n, 2) after one step of ROS2, as long as moves each at most by `reach` (2,)."""
    with np.errstate(all="ignore"):
        J = flow.jacobian(w) if defines(flow.objective, "third") else _differenced(flow, w, reach)
        J = np.where(np.isfinite(J).all(axis=(1, 2), keepdims=True), J, 0.0)
        # The larger eigenvalue of J: the rate at which neighbours part. Decay needs no short steps: the
        # method is L-stable.
        middle, product = 0.5 * (J[:, 0, 0] + J[:, 1, 1]), J[:, 0, 0] * J[:, 1, 1] - J[:, 0, 1] * J[:, 1, 0]
        growth = np.maximum(middle + np.sqrt(np.maximum(middle**2 - product, 0.0)), 0.0)
        # A step moves by `reach` at most, and lets neighbours part by a factor of e^(1/4) at most.
        pace = np.linalg.norm(drift / reach, axis=1) + 4 * growth
        dt = 1 / (pace + 1e-12 * np.linalg.norm(J, axis=(1, 2)) + 1e-300)  # finite where nothing moves
        # ROS2: Verwer, Spee, Blom and Hundsdorfer, SIAM J. Sci. Comput. 20 (1999) 1456.
        system = np.eye(2) - _GAMMA * dt[:, None, None] * J
        first = _solve(system, drift)
        second = _solve(system, _drift(flow, w + dt[:, None] * first)[0] - 2 * first)
        move = dt[:, None] * (1.5 * first + 0.5 * second)
        move = np.where(np.isfinite(move).all(axis=1, keepdims=True), move, dt[:, None] * drift)
        # A nonlinear drift may have thrown it farther than `reach`.
        return w + move / np.maximum(np.max(np.abs(move) / reach, axis=1), 1.0)[:, None]


def _differenced(flow: Flow, w: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """The Jacobian by differences, without third derivatives: ROS2 keeps its order with any Jacobian."""
    columns = []
    for e in np.diag(1e-5 * reach):
        columns.append((_drift(flow, w + e)[0] - _drift(flow, w - e)[0]) / (2 * np.sum(e)))
    return np.stack(columns, axis=-1)


def _solve(matrix: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """``matrix^-1 vector`` for (n, 2, 2) and (n, 2), in closed form: singular ones alone give inf."""
    (a, b), (c, d) = matrix[:, 0].T, matrix[:, 1].T
    x, y = vector.T
    return np.stack([d * x - b * y, a * y - c * x], axis=-1) / (a * d - b * c)[:, None]


def _ends(
    w: np.ndarray, drift: np.ndarray, stopped: np.ndarray, region: np.ndarray, sinks: Sinks
) -> np.ndarray:
    """What became of states (n, 2): the sink that they have reached, or why they end, or that they go on."""
    width = region[:, 1] - region[:, 0]
    ends = np.where(stopped | ~np.isfinite(drift).all(axis=1), SINGULAR, UNDECIDED)
    out = ((w < region[:, 0] - width) | (w > region[:, 1] + width)).any(axis=1)
    ends[out | ~np.isfinite(w).all(axis=1)] = LEFT
    for k, sink, reach in sinks:
        towards = np.sum((sink - w) * drift / width**2, axis=1) > 0
        near = (np.abs(w - sink) <= reach * width).all(axis=1)
        ends[near & (towards | (np.abs(w - sink) <= NEAREST * width).all(axis=1))] = k
    return ends
