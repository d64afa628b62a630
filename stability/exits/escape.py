"""Leaving a ball or a slab around a critical point: first exits of an ensemble, beside the exact law."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from .. import _check
from .._check import Interrupted
from .._saving import provenance
from ..ensembles.block import Recorder, Signals, run_block
from ..ensembles.clock import scheduled
from ..ensembles.plan import EnsemblePlan
from ..ensembles.request import Request, compiled, threads
from ..ensembles.threads import in_order
from ..flow import Flow
from ..linear.linearize import linearize
from ..linear.result import LinearFlow
from ..methods.response import check_cut
from .chain import watched
from .exit_time import ExitTime, exit_time
from .result import FEW, Escape

WORK = 2e7
"""Path-steps that a default `t_end` may take, about ten seconds; ..."""
MOST_WORK = 1e11
"""... and what any may take, more than an hour."""
LEFT = 0.999
"""A default `t_end` is the time by which the law says that so many have left."""
FAR = 1e8
"""A path so many radii away, yet inside its slab, is given up: rounding of its large part would move the
small one.
"""


@_check.by_name
def escape(
    flow: Flow,
    at: Any = None,
    *,
    radius: float,
    paths: int,
    seed: int = 0,
    t_end: float | None = None,
    dt: float | None = None,
    level: str = "sde",
    along: Any = None,
    workers: int | None = None,
) -> Escape:
    """Time how an ensemble leaves a critical point, and hold that against the exact law.

    Examples
    --------
    >>> import stability as st
    >>> flow = st.Flow(st.quadratic([1.0, -0.1]), st.SFN(damping=0.1), st.Noise(gradient=0.1), step=0.1)
    >>> found = st.escape(flow, radius=1.0, along="unstable", paths=400, seed=0)
    >>> found.mode.rate, bool(abs(found.z) < 4)
    (0.5, True)

    Parameters
    ----------
    flow : Flow
    at : array (d,), optional
        The critical point; the objective's reference by default.
    radius : float
        The region is ``|w - at| < radius``, or with `along` ``|v.(w - at)| < radius``.
    paths : int
    seed : int
        0 by default. As for `simulate`, with the same numbers whatever the number of workers: the exit times
        are those of ``simulate(..., exit=...)``.
    t_end : float, optional
        When to stop watching, a multiple of `dt`. By default when the law says that 99.9 % have left, but no
        more than about ten seconds' work. With a schedule it must be given, a sum of its first steps.
    dt : float, optional
        Time step of the SDE; `step` by default.
    level : {"sde", "iteration"}
    along : int, "unstable" or array (d,), optional
        A mode of ``linearize(flow, at)`` (largest ``|lam|`` first), the eigenvector of the smallest
        eigenvalue, or any direction. A metric's modes are not orthogonal: a slab along one is bounded in the
        mode's own share of ``w - at``.
    workers : int, optional
        Threads; by default one per core where a step is long enough to share, else one.

    Returns
    -------
    Escape

    Raises
    ------
    ValueError
        If an argument is out of range, `at` is not critical, the gain is singular there, the noise has a
        `sample` of its own but no `factors`, no noise moves a path that starts there, or `t_end` would take
        more than 1e11 path-steps.
    Interrupted
        On Ctrl-C; its `result` holds the paths that were finished.

    Notes
    -----
    Every path starts at `at` and is watched after each time step until it leaves. The law is known for a slab
    along an eigenvector of the Hessian with additive noise, or in one dimension: the component along it is
    then a process of its own. On a quadratic it is the law of these very paths; elsewhere of the linearised
    flow, and `status` says so. A metric's law is of steps under the mean square that the noise has at `at`.
    With momentum, a running mean of gradients, a schedule, or weight decay that draws elsewhere, no law is
    known, and `reason` says why. A ball in more dimensions is only simulated (see `Escape.bounds`).
    """
    if not isinstance(flow, Flow):
        raise ValueError(f"`flow` must be a st.Flow(objective, method, noise, step=...); got {flow!r:.60}.")
    steady = flow if flow.schedule is None else _first_of(flow, t_end)
    # A buffer moves neither the critical point nor its modes.
    linear = linearize(steady.without_memory(), at)
    setting = _Setting(linear, along, _check.positive("radius", radius), flow, level)
    paths = _check.count("paths", paths)
    if t_end is None:
        t_end = setting.horizon(paths, flow.step if dt is None else _check.positive("dt", dt))
    request = Request(
        flow, setting.linear.at, t_end, seed=seed, paths=paths, dt=dt, level=level, keep="moments"
    )
    # Paths that never leave would be followed to the end: hours, for a slip of the pen.
    if float(request.steps) * paths > MOST_WORK:
        raise ValueError(
            f"`t_end` = {t_end:g} is {request.steps:.2g} time steps of {paths} paths; at most "
            f"{MOST_WORK:.0e} path-steps are taken. "
            "Take a shorter `t_end`, fewer paths or a larger `dt`: those that stay are counted as such."
        )
    plan = EnsemblePlan(
        flow=flow,
        start=request.start,
        steps=request.steps,
        dt=request.dt,
        saved=np.array([request.steps]),
        seed=request.seed,
        level=level,
        center=request.center,
        radius=math.inf,
        compiled=compiled(None),
        schedule=request.schedule,
    )
    done: list[_Watch] = []
    try:
        for part in _blocks(setting, plan, threads(plan, workers)):
            done.append(part)
    except KeyboardInterrupt:
        if not done:
            raise
        count = sum(len(part.times) for part in done)
        raise Interrupted(
            f"Interrupted: the {count} paths that were finished are in this exception's `.result`.",
            _result(setting, plan, done),
        ) from None
    return _result(setting, plan, done)


def _first_of(flow: Flow, t_end: float | None) -> Flow:
    """The flow at the first step of its schedule."""
    if t_end is None:
        raise ValueError(
            "`t_end` must be given where the flow's `step` is a schedule: no law sets the clock. Use "
            "st.escape(..., t_end=...), a sum of its first steps."
        )
    return flow.at_step(float(scheduled(flow, _check.positive("t_end", t_end), 0).steps[0]))


class _Setting:
    """What is left, and what theory says of it before any path is simulated."""

    def __init__(self, linear: LinearFlow, along: Any, radius: float, flow: Flow, level: str):
        self.linear, self.radius = linear, radius
        if linear.flow.bends:  # asked first, lest the noise be told of instead
            check_cut(linear.flow.method, linear.eigenvalues)
        self.modes = _Modes(linear)
        self.direction = _direction(along, self.modes)
        # A buffer adds up steps: once it has filled, momentum is the flow without it at a longer step.
        self.speed = 1.0 if flow.memory is None else flow.memory.weight / (1 - flow.memory.beta)
        diffusion = self.modes.diffusion
        if not np.trace(diffusion) > 0:
            raise ValueError(
                "No noise moves a path that starts at the critical point: it stays there. Give the flow "
                "st.Noise(gradient=...)."
            )
        # Of each mode alone: what noise shares between modes does not move any of them by itself.
        normals = self.modes.normals
        self.diffusions = np.einsum("ji,jk,ki->i", normals, diffusion, normals)
        self.rate, self.diffusion, self.reason = _projected(self.modes, self.direction)
        if other := _unlike(flow, linear, level):
            self.rate = self.diffusion = math.nan
            self.reason = other
        self.known = not math.isnan(self.rate)
        self.guess = (
            exit_time(rate=self.rate, diffusion=self.diffusion, radius=radius)
            if self.known
            else self._first()
        )
        model = linear.flow.noise_model
        self.quadratic = linear.flow.constant_hessian and linear.metric is None
        self.exact = self.quadratic and not model.has_curvature and model.linear and not other

    def _first(self) -> ExitTime:
        """The law of the mode that leads out first, to set the clock by."""
        modes, overlap = self.diffusions, self.modes.reach
        if self.direction is not None:
            overlap = overlap * np.abs(self.linear.vectors.T @ self.direction)
        # Modes that noise moves, and that lead anywhere along the direction.
        able = np.flatnonzero((modes > 1e-20 * modes.max()) & (overlap > 1e-6))
        if not len(able):  # noise reaches the direction only by way of others, if at all
            able, overlap = np.array([int(np.argmax(modes))]), np.ones(len(modes))
        laws = [
            # Alone, a mode is at the slab's edge where its own amplitude is radius / overlap.
            exit_time(
                rate=self.speed * self.linear.rates[i],
                diffusion=self.speed**2 * modes[i],
                radius=self.radius / overlap[i],
            )
            for i in able
        ]
        return min(laws, key=lambda law: law.log_mean)

    def horizon(self, paths: int, dt: float) -> float:
        """When to stop by default, a multiple of dt: later where the law is only a guess."""
        # The clock is set by the law of paths seen every dt: they leave later than the equation's.
        late = watched(self.guess, dt).quantile(LEFT) * (1 if self.known else 4)
        return dt * max(1, math.ceil(min(late / dt, WORK / paths)))

    def bent(self) -> float:
        """How far the drift at ``at +- radius v`` is from the linearised one, relative to that."""
        assert self.direction is not None  # the law is known
        flow, gaps = self.linear.flow, []
        # At the edge, where paths leave: what bends the drift further in matters less.
        for side in (self.radius * self.direction, -self.radius * self.direction):
            straight = self.rate * side
            try:
                gap = flow.drift(self.linear.at + side) - straight
            except ValueError:  # the gain is singular there
                gaps.append(math.inf)
                continue
            if self.linear.metric is not None:  # whose modes are not orthogonal: only what leads out counts
                gap = gap @ self.direction
            gaps.append(float(np.linalg.norm(gap)) / max(float(np.linalg.norm(straight)), 1e-300))
        return max(gaps)

    def status(self, times: np.ndarray, lost: np.ndarray) -> str:
        """What is to be known before the numbers are believed."""
        told, count = [], int(np.isfinite(times).sum())
        stayed = len(times) - count - int(lost.sum())
        if stayed == len(times):
            told.append("nobody left by t_end: there is a survival curve, and no exit time")
        elif stayed:
            told.append(f"{stayed} of {len(times)} had not left by t_end")
        if 0 < count < FEW:
            told.append(f"only {count} left: standard errors and z are rough")
        if lost.any():
            told.append(
                f"{int(lost.sum())} given up before they left: not finite, or more than {FAR:.0e} radii away "
                "along other directions; counted as censored"
            )
        if self.linear.eigenvalues.min() >= 0:
            told.append("no negative eigenvalue: a minimum, or degenerate")
        if self.guess.rate < 0:
            mean = f"{self.guess.mean:.4g}" if self.guess.log_mean < 20 else f"exp({self.guess.log_mean:.4g})"
            told.append(
                f"attracted at rate {-self.guess.rate:.4g}: noise alone leads out, in continuous time after "
                f"{mean} in the mean"
            )
        if self.known and not self.quadratic:
            told.append(
                "the law is of the linearised flow, whose drift at the region's edge is off by "
                f"{self.bent():.2g} of itself"
            )
        return "; ".join(told) or "ok"


class _Modes:
    """The modes at the critical point, as what leaves a slab sees them.

    Attributes
    ----------
    linear : LinearFlow
    normals : array (d, d)
        Unit columns ``n``: what ``n.(w - at)`` is moves by itself. The eigenvectors; of a metric, whose modes
        are not orthogonal, the left ones.
    reach : array (d,)
        How far a path along a mode is for each unit of that.
    diffusion : array (d, d)
        What noise adds at the point, per unit of t.
    """

    def __init__(self, linear: LinearFlow):
        self.linear, frame = linear, linear._dynamics.frame
        if frame.orthonormal:
            self.normals, self.reach = linear.vectors, np.ones(len(linear.at))
            self.diffusion = linear.flow.diffusion(linear.at)
            return
        self.reach = np.linalg.norm(frame.inverse, axis=1)
        self.normals = frame.inverse.T / self.reach
        self.diffusion = linear.flow.step * frame.outward(linear._dynamics.source)

    @property
    def drift(self) -> np.ndarray:
        """The Jacobian of the drift (d, d)."""
        return (self.linear.vectors * self.linear.rates) @ self.linear._dynamics.frame.inverse


def _unlike(flow: Flow, linear: LinearFlow, level: str) -> str:
    """Why the way out is not that of a linear flow of positions alone; empty where it is."""
    if flow.schedule is not None:
        return "the step is a schedule, and the noise changes with it"
    if flow.inertia is not None:
        whose = "buffer's" if flow.memory is not None else "running mean's"
        return f"with momentum the way out depends on the speed too, which is the {whose}"
    if flow.metric is not None and flow.metric.means and level == "iteration":
        return "an iteration starts with a mean square of zero: its first steps are long"
    if linear._dynamics.offset.any():
        return "weight decay draws the paths to another point"
    return ""


def _direction(along: Any, modes: _Modes) -> np.ndarray | None:
    """The slab's unit vector (d,); in one dimension a ball is a slab."""
    dim = len(modes.reach)
    if along is None:
        return np.ones(1) if dim == 1 else None
    if isinstance(along, str):
        _check.choice("along", along, ("unstable",))
        return modes.normals[:, int(np.argmin(modes.linear.eigenvalues))]
    if isinstance(along, (int, np.integer)) and not isinstance(along, bool):
        return modes.normals[:, _check.count("along", along, least=0, most=dim - 1, why="a mode")]
    vector = _check.shaped("along", along, (dim,))
    if not vector.any():
        raise ValueError("`along` must be a direction, not the zero vector.")
    return vector / np.linalg.norm(vector)


def _projected(modes: _Modes, direction: np.ndarray | None) -> tuple[float, float, str]:
    """Rate and diffusion of the component along the direction, or nan and why it has no law of its own."""
    if direction is None:
        return (
            math.nan,
            math.nan,
            "a ball in more than one dimension; `bounds` holds it between the modes' own laws on a quadratic",
        )
    noise, reason, drift = modes.linear.flow.noise_model, "", modes.drift
    diffusion = modes.diffusion
    rate, strength = float(direction @ drift @ direction), float(direction @ diffusion @ direction)
    if noise.has_curvature:
        reason = "curvature noise grows with the distance, and mixes the modes"
    elif not noise.linear:
        reason = "the noise draws its own samples, whose law is not known to be Gaussian"
    elif np.linalg.norm(direction @ drift - rate * direction) > 1e-9 * np.max(np.abs(modes.linear.rates)):
        reason = "the direction is not an eigenvector: other modes drive the component along it"
    elif strength <= 1e-20 * float(np.trace(diffusion)):
        reason = "no noise reaches the component along this direction"
    return (math.nan, math.nan, reason) if reason else (rate, strength, "")


def _result(setting: _Setting, plan: EnsemblePlan, parts: list[_Watch]) -> Escape:
    times, seen, exits, lost = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("times", "seen", "exits", "lost")
    )
    linear, flow, t_end = setting.linear, plan.flow, plan.time(plan.steps)
    return Escape(
        times=times,
        seen=seen,
        exits=exits,
        lost=lost,
        at=linear.at,
        along=np.zeros(flow.dim) if setting.direction is None else setting.direction,
        radius=setting.radius,
        t_end=t_end,
        dt=plan.dt,
        eigenvalues=linear.eigenvalues,
        vectors=linear.vectors,
        rates=linear.rates,
        diffusions=setting.diffusions,
        rate=setting.rate,
        diffusion=setting.diffusion,
        exact=setting.exact,
        level=plan.level,
        method=flow.method.label,
        reason=setting.reason,
        status=setting.status(times, lost),
        stats={
            "path_steps": int(np.sum(_steps_to(plan, seen))),
            "left": int(np.isfinite(times).sum()),
            "lost": int(lost.sum()),
        },
        provenance=provenance(
            seed=plan.seed, paths=len(times), flow=repr(flow), radius=setting.radius, t_end=t_end, dt=plan.dt
        ),
    )


def _steps_to(plan: EnsemblePlan, times: np.ndarray) -> np.ndarray:
    """How many time steps lead to these times."""
    return np.round(times / plan.dt) if plan.schedule is None else plan.schedule.numbers("times", times)


class _Watch(Recorder):
    """A block's first exits.

    Paths that left, or were given up, are put back to the critical point, where they are harmless.
    """

    def __init__(self, plan: EnsemblePlan, count: int, direction: np.ndarray | None, radius: float):
        self.plan, self.direction, self.size = plan, direction, radius
        self.inside, self.lost = np.ones(count, dtype=bool), np.zeros(count, dtype=bool)
        self.times, self.seen = np.full(count, np.nan), np.full(count, plan.time(plan.steps))
        self.exits = np.full((count, plan.flow.dim), np.nan)

    def follow(self, step: int, states: np.ndarray, unit: float) -> None:
        dim, states = self.plan.flow.dim, states[:, :, : len(self.inside)]
        self._look(step + 1, states[:, :dim], unit)
        states[-1][:dim, ~self.inside] = self.plan.center[:, None] / unit

    def _look(self, step: int, states: np.ndarray, unit: float) -> None:
        """Take note of who left in states (steps, d, count), the first of them after `step`."""
        # Of those that are still watched: most of a long run is a few late paths.
        rows = np.flatnonzero(self.inside)
        offset = states[:, :, rows] * unit - self.plan.center[:, None]
        squared = np.einsum("kij,kij->kj", offset, offset)
        distance = (
            np.sqrt(squared)
            if self.direction is None
            else np.abs(np.einsum("kij,i->kj", offset, self.direction))
        )
        out = (distance >= self.size) & np.isfinite(distance)
        gone = out | ~(squared < (FAR * self.size) ** 2)  # not a number is gone, and then lost
        # The first step at which each was gone; 0 also for those that never were.
        when = np.argmax(gone, axis=0)
        moved, column = gone.any(axis=0), np.arange(len(rows))
        left = moved & out[when, column]
        given_up = moved & ~left
        self.seen[rows[moved]] = self.plan.clock(step + when[moved])
        self.times[rows[left]] = self.seen[rows[left]]
        self.exits[rows[left]] = offset[when[left], :, column[left]]
        self.lost[rows[given_up]] = True
        self.inside[rows[moved]] = False
        self.done = not self.inside.any()


def _blocks(setting: _Setting, plan: EnsemblePlan, workers: int) -> Iterator[_Watch]:
    """Blocks of paths in order, each until all have left; those that an interrupt stopped are left out."""
    signals = Signals()

    def watched_block(number: int) -> tuple[_Watch, bool]:
        watch = _Watch(plan, plan.count(number), setting.direction, setting.radius)
        return watch, run_block(plan, number, signals, watch).finished

    for watch, finished in in_order(watched_block, range(plan.blocks), workers, signals.stop):
        if finished:
            yield watch
