"""Flow lines in a plane, of positions or whole states, many at once, by an L-stable Rosenbrock method."""

from __future__ import annotations

import numpy as np

from ..flow import Flow
from ..objectives.base import defines

LEFT, SINGULAR, UNDECIDED, UNDEFINED = -1, -2, -3, -4
"""Ends that are no sink: out of the region, at an infinite drift, nowhere yet, where F is not defined."""
NEAREST = 1e-9
"""Of the region's width: a line this near a sink has arrived, wherever it heads."""
ROUNDS, SWINGING = 600, 2400
"""Steps that a line may take; more where it swings about a point before it settles."""
Sinks = list[tuple[int, np.ndarray, float]]
"""Points where flow lines may end: index, place, and how near (in the region's width) a line has arrived."""
_GAMMA = 1 - 0.5**0.5  # of ROS2, which is L-stable with it


def follow(
    flow: Flow,
    starts: np.ndarray,
    region: np.ndarray,
    sinks: Sinks,
    *,
    keep: bool = False,
    rounds: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Flow lines from starts (n, 2) to their ends (sink, or -1 to -4) and, if kept, lines (steps, n, 2).

    A line ends near a sink it moves towards, a region's width out of the region, or at a pole of the gain,
    which no flow line crosses: where a gain changes its sign, or where the line halts at full speed. With
    memory, lines are those of whole states from rest, and end where they would stop near a sink.
    """
    width = region[:, 1] - region[:, 0]
    with np.errstate(all="ignore"):
        w = np.array(flow.rest(starts, level="sde"))
    ends = np.where(_undefined(flow, starts), UNDEFINED, UNDECIDED)
    (drift, signs), track = _drift(flow, w), [w[:, :2].copy()]
    usual = _speed(drift, width)
    for _ in range(rounds or (SWINGING if flow.coasting else ROUNDS)):
        going = np.flatnonzero(ends == UNDECIDED)
        if not len(going):
            break
        ahead = _ahead(flow, w[going], drift[going], 0.01 * width)
        now, sign = _drift(flow, ahead)
        halted = np.max(np.abs(ahead - w[going])[:, :2] / width, axis=1) < 1e-8
        fast = _speed(now, width) > usual[going]
        # A metric, which the noise bounds, has no poles.
        stopped = (sign != signs[going]) | (halted & fast & (flow.metric is None))
        ends[going] = _ends(ahead[:, :2], now[:, :2], flow.coasting, stopped, region, sinks)
        ends[going[_undefined(flow, ahead[:, :2])]] = UNDEFINED
        w[going], drift[going], signs[going] = ahead, now, sign
        if keep:
            track.append(np.full((len(w), 2), np.nan))
            track[-1][going] = ahead[:, :2]
    # Still going, but outside when the rounds are over: they are taken to stay there.
    out = (w[:, :2] < region[:, 0]) | (w[:, :2] > region[:, 1])
    ends[(ends == UNDECIDED) & out.any(axis=1)] = LEFT
    return ends, np.stack(track)


def _speed(drift: np.ndarray, width: np.ndarray) -> np.ndarray:
    """How fast positions move (n,), in the region's widths."""
    return np.linalg.norm(drift[:, :2] / width, axis=1)


def _undefined(flow: Flow, w: np.ndarray) -> np.ndarray:
    """Whether states (n, 2) lie where the objective has no value, though its derivatives may."""
    with np.errstate(all="ignore"):
        return np.isnan(flow.objective.value(w))


def _drift(flow: Flow, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The drift of whole states (n, s), ``-P g`` of positions alone, and how many gains are negative (n,)."""
    with np.errstate(all="ignore"):
        if flow.metric is not None:
            return flow.drift(w), np.zeros(len(w), dtype=int)
        x = w[:, :2]
        local, gradient = flow.local(x, bends=False), flow.objective.gradient(x)
        gains = 1.0 if local.response is None else local.response.gains
        push, signs = -local.apply(gradient), np.sum(gains + 0 * x < 0, axis=-1)
        return push if flow.memory is None else flow.gained(push, w[:, 2:], 0.0), signs


def _ahead(flow: Flow, w: np.ndarray, drift: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """States (n, s) after one step of ROS2, as long as moves each at most by `reach` (2,)."""
    with np.errstate(all="ignore"):
        known = flow.metric is not None or defines(flow.objective, "third")
        J = flow.jacobian(w) if known else _differenced(flow, w, reach)
        J = np.where(np.isfinite(J).all(axis=(1, 2), keepdims=True), J, 0.0)
        # A step moves by `reach` at most, and lets neighbours part by a factor of e^(1/4) at most.
        pace = np.linalg.norm(drift[:, :2] / reach, axis=1) + 4 * _growth(J)
        if w.shape[1] > 2:
            # What comes to move, from rest or where a swing turns, is held by its acceleration.
            turn = np.einsum("nij,nj->ni", J[:, :2], drift)
            pace = pace + np.sqrt(np.linalg.norm(turn / reach, axis=1))
        pace = pace + 4 * _renewal(flow, w, drift)  # and by so much at most a metric may change
        dt = 1 / (pace + 1e-12 * np.linalg.norm(J, axis=(1, 2)) + 1e-300)  # finite where nothing moves
        # ROS2: Verwer, Spee, Blom and Hundsdorfer, SIAM J. Sci. Comput. 20 (1999) 1456.
        system = np.eye(w.shape[1]) - _GAMMA * dt[:, None, None] * J
        first = _solve(system, drift)
        second = _solve(system, _drift(flow, w + dt[:, None] * first)[0] - 2 * first)
        move = dt[:, None] * (1.5 * first + 0.5 * second)
        move = np.where(np.isfinite(move).all(axis=1, keepdims=True), move, dt[:, None] * drift)
        # A nonlinear drift may have thrown it farther than `reach`.
        return w + move / np.maximum(np.max(np.abs(move)[:, :2] / reach, axis=1), 1.0)[:, None]


def _renewal(flow: Flow, w: np.ndarray, drift: np.ndarray) -> np.ndarray:
    """The rate (n,) at which a metric's mean squares change, relative to themselves; 0 without any.

    What is below ``eps^2`` the metric does not see: a mean square may be 0 where a coordinate has no noise.
    """
    if flow.metric is None or "mean square" not in flow.remembered:
        return np.zeros(len(w))
    start = 2 * (1 + flow.remembered.index("mean square"))
    squares, least = slice(start, start + 2), flow.metric.parameters["eps"] ** 2
    return np.max(np.abs(drift[:, squares]) / (w[:, squares] + least), axis=1)


def _growth(J: np.ndarray) -> np.ndarray:
    """The rate (n,) at which neighbours part: J's largest eigenvalue, 0 where all are negative.

    Decay needs no short steps: the method is L-stable.
    """
    if J.shape[1] > 2:
        return np.maximum(np.linalg.eigvals(J).real.max(axis=1), 0.0)
    middle, product = 0.5 * (J[:, 0, 0] + J[:, 1, 1]), J[:, 0, 0] * J[:, 1, 1] - J[:, 0, 1] * J[:, 1, 0]
    return np.maximum(middle + np.sqrt(np.maximum(middle**2 - product, 0.0)), 0.0)


def _differenced(flow: Flow, w: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """The Jacobian by differences, without third derivatives: ROS2 keeps its order with any Jacobian."""
    columns = []
    # A buffer acts linearly: by however much it is moved.
    for e in np.diag(np.append(1e-5 * reach, np.ones(w.shape[1] - 2))):
        columns.append((_drift(flow, w + e)[0] - _drift(flow, w - e)[0]) / (2 * np.sum(e)))
    return np.stack(columns, axis=-1)


def _solve(matrix: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """``matrix^-1 vector`` for (n, s, s) and (n, s); in a plane in closed form: singular ones give inf."""
    if matrix.shape[1] > 2:
        return np.linalg.solve(matrix, vector[..., None])[..., 0]
    (a, b), (c, d) = matrix[:, 0].T, matrix[:, 1].T
    x, y = vector.T
    return np.stack([d * x - b * y, a * y - c * x], axis=-1) / (a * d - b * c)[:, None]


def _ends(
    w: np.ndarray,
    drift: np.ndarray,
    coasting: float,
    stopped: np.ndarray,
    region: np.ndarray,
    sinks: Sinks,
) -> np.ndarray:
    """What became of states (n, 2): the sink that they have reached, or why they end, or that they go on."""
    width = region[:, 1] - region[:, 0]
    ends = np.where(stopped | ~np.isfinite(drift).all(axis=1), SINGULAR, UNDECIDED)
    out = ((w < region[:, 0] - width) | (w > region[:, 1] + width)).any(axis=1)
    ends[out | ~np.isfinite(w).all(axis=1)] = LEFT
    for k, sink, reach in sinks:
        off = np.abs(w - sink)
        towards = np.sum((sink - w) * drift / width**2, axis=1) > 0
        near, there = (off <= reach * width).all(axis=1), (off <= NEAREST * width).all(axis=1)
        if coasting:  # where its motion alone would carry it
            ahead = np.abs(w + coasting * drift - sink)
            towards = (ahead <= reach * width).all(axis=1)
            there &= (ahead <= NEAREST * width).all(axis=1)
        ends[near & (towards | there)] = k
    return ends
