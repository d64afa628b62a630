"""Leaving a critical point: first exits of an ensemble from a ball or a slab around it, beside the exact law where there is one."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from . import _check
from ._chain_exit import ChainExit, watched
from ._check import Interrupted
from ._engine import Normals, Plan, Recorder, Track, _noise
from ._request import Request, compiled
from .escape import ExitTime, exit_time
from .flow import Flow
from .linear import LinearFlow, linearize
from .results import Study, jsonable, provenance, register

WORK = 2e7
"""Path-steps that a default `t_end` may take, about ten seconds; ..."""
MOST_WORK = 1e11
"""... and what any may take, more than an hour."""
FEW = 20
"""Exits fewer than these give no standard error to rely on: that of the survival, which counts them, is itself off by a fifth then."""
LEFT = 0.999
"""A default `t_end` is the time by which the law says that so many have left."""
FAR = 1e8
"""A path so many radii away, yet inside its slab, is given up: rounding of its large part would move the small one."""


@register
@dataclass(frozen=True)
class Escape:
    """First exits from a region around a critical point; made by `escape`. Times are in units of ``t = iteration * step``.

    Attributes
    ----------
    times : array (paths,)
        First exits; nan for paths that had not left when they were last seen.
    seen : array (paths,)
        Until when each was watched: its exit, `t_end`, or when it was given up.
    exits : array (paths, d)
        ``w - at`` at the exit; nan for those that stayed.
    lost : array of bool (paths,)
        Given up before they left: not finite, or far away along other directions. Censored then, as if that had nothing to do with leaving.
    at, along : arrays (d,)
        The critical point, and the slab's unit vector; zeros for a ball.
    radius, t_end, dt : float
    eigenvalues, rates, diffusions : arrays (d,)
        Of the Hessian at `at`, largest ``|lam|`` first; of each mode, ``-phi lam`` and the variance that noise adds per unit of t.
    vectors : array (d, d)
        Eigenvectors, as columns.
    rate, diffusion : float
        Of the motion along `along`; nan where it has no law of its own, and `reason` says why.
    exact : bool
        Whether the law is that of the very paths simulated: a quadratic with additive Gaussian noise. Else of the linearised flow.
    level : {"sde", "iteration"}
    method, reason, status : str
    stats, provenance : dict
    """

    times: np.ndarray
    seen: np.ndarray
    exits: np.ndarray
    lost: np.ndarray
    at: np.ndarray
    along: np.ndarray
    radius: float
    t_end: float
    dt: float
    eigenvalues: np.ndarray
    vectors: np.ndarray
    rates: np.ndarray
    diffusions: np.ndarray
    rate: float
    diffusion: float
    exact: bool
    level: str
    method: str
    reason: str
    status: str
    stats: dict[str, Any]
    provenance: dict[str, Any]

    @property
    def left(self) -> np.ndarray:
        """Which paths (paths,) left."""
        return np.isfinite(self.times)

    @cached_property
    def curve(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Kaplan and Meier's survival after each exit time to `until`, and Greenwood's standard error: times, survival, errors (k,), from time 0 on."""
        moments, hazard, variance = self._falls
        survival = np.cumprod(1 - hazard)
        return np.append(0.0, moments), np.append(1.0, survival), np.append(0.0, survival * np.sqrt(np.cumsum(variance)))

    @cached_property
    def _falls(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Distinct exit times, the share of those still watched that left then, and what that adds to the variance of the survival's logarithm."""
        moments, exits = np.unique(self.times[self.times <= self.until], return_counts=True)
        at_risk = len(self.seen) - np.searchsorted(np.sort(self.seen), moments, side="left")
        stay = at_risk - exits  # where none stay the survival is zero, and so is its error
        return moments, exits / at_risk, np.where(stay > 0, exits / (at_risk * np.maximum(stay, 1.0)), 0.0)

    def survival(self, t: Any) -> np.ndarray:
        """The share that has not left by times `t`, by Kaplan and Meier; nan beyond `until`."""
        t, (moments, survival, _) = np.asarray(t, dtype=float), self.curve
        share = survival[np.searchsorted(moments, t, side="right") - 1]
        return np.where((t <= self.until) | self.left.all(), share, np.nan)

    @cached_property
    def mean(self) -> tuple[float, float]:
        """The restricted mean ``E min(T, until)``, the area under the survival curve, and its standard error."""
        moments, survival, _ = self.curve
        areas = survival * np.diff(np.append(moments, self.until))
        later = np.cumsum(areas[::-1])[::-1][1:]
        return float(areas.sum()), float(np.sqrt(np.sum(later**2 * self._falls[2])))

    @property
    def median(self) -> float:
        """The time by which half have left; nan where fewer did."""
        moments, survival, _ = self.curve
        return float(moments[np.argmax(survival <= 0.5)]) if survival[-1] <= 0.5 else math.nan

    @property
    def mode(self) -> ExitTime | None:
        """The law in continuous time, of ``d x = rate x dt + sqrt(diffusion) dW``; None where there is none (see `reason`)."""
        return exit_time(rate=self.rate, diffusion=self.diffusion, radius=self.radius) if math.isfinite(self.rate) else None

    @cached_property
    def chain(self) -> ChainExit | None:
        """The law that `z` and `kolmogorov_smirnov` compare with: of the very chain that was simulated, at its own times. None as `mode`."""
        return None if self.mode is None else ChainExit(self.mode, self.dt, self._steps)

    @property
    def until(self) -> float:
        """Up to when the survival curve is used: `t_end`, or where paths were given up, as long as 20 (of fewer than 40: half of them) were watched.

        Beyond, few paths would stand for the many that were given up, and neither error nor p could be relied on.
        """
        enough = min(FEW, (len(self.seen) + 1) // 2)
        return float(np.sort(self.seen)[-enough]) if self.lost.any() else self.t_end

    @property
    def _steps(self) -> int:
        return round(self.until / self.dt)

    @property
    def z(self) -> float:
        """``(measured - predicted) / error`` of the restricted mean; nan without a law, or where nobody left.

        The error is estimated from the same exits: with few of them z is skewed (see `status`).
        """
        value, error = self.mean
        return (value - self.chain.mean(self._steps)) / error if self.chain is not None and error > 0 else math.nan

    @cached_property
    def kolmogorov_smirnov(self) -> tuple[float, float]:
        """Largest distance of the survival curve from the law at the chain's own times up to `until`, and its p-value.

        Where paths were given up, distances are weighted as by Hall and Wellner (1980), which makes Kolmogorov's law hold for them too; else the
        weights are one. His law is that of a continuous time seen to its end: p is conservative for whole steps, the more the fewer they are.
        nan without a law.
        """
        from scipy.stats import kstwo

        if self.chain is None:
            return math.nan, math.nan
        moments, survival, error = self.curve
        count, some = len(self.times), survival > 0
        weight = 1 / (survival[some] + count * error[some] ** 2 / survival[some])
        weight = np.append(weight, weight[-1])[: len(survival)]  # the end, where nobody is left, has its predecessor's
        steps = np.round(moments / self.dt).astype(int)
        before = np.append(steps[1:], self._steps + 1) - 1  # the survival falls after these, and the law until then
        distance = max(float(np.max(weight * np.abs(survival - self.chain.survival(k)))) for k in (steps, before))
        return distance, float(kstwo.sf(distance, count))

    @property
    def shares(self) -> np.ndarray:
        """Of those that left a ball, the share (d, 2) that was farthest along each eigenvector, forwards and backwards; of a slab, its two sides (1, 2)."""
        axes = self.along[:, None] if self.along.any() else self.vectors
        parts = self.exits[self.left] @ axes
        if not len(parts):
            return np.full((axes.shape[1], 2), np.nan)
        widest = np.argmax(np.abs(parts), axis=1)
        forward = parts[np.arange(len(parts)), widest] > 0
        return np.stack([[np.mean((widest == i) & (forward == side)) for side in (True, False)] for i in range(axes.shape[1])])

    def bounds(self, t: Any) -> tuple[np.ndarray, np.ndarray]:
        """Between what the survival of a ball of a linear flow lies: lower and upper bound at times `t`, by the modes' own laws.

        A path in the ball is in every mode's slab of that radius; a path in all slabs of ``radius / sqrt(d)`` is in the ball, d the number of
        modes that noise moves. That has at least the product of their probabilities: paths are Gaussian, and a slab is a convex set of them that
        is symmetric about 0 (the Gaussian correlation inequality, Royen 2014).

        Raises
        ------
        ValueError
            If the region is a slab, or the law is not that of a quadratic with additive Gaussian noise.
        """
        if self.along.any() and len(self.along) > 1:
            raise ValueError("`bounds` holds for a ball; here a slab was left. Call `escape` without `along`.")
        if not self.exact:
            raise ValueError(f"`bounds` holds for a quadratic with additive Gaussian noise; here {self.reason or 'the law is of the linearised flow'}.")
        steps, driven = self._whole(t), np.flatnonzero(self.diffusions > 1e-20 * self.diffusions.max())

        def laws(radius: float) -> list[np.ndarray]:
            modes = (exit_time(rate=self.rates[i], diffusion=self.diffusions[i], radius=radius) for i in driven)
            return [ChainExit(mode, self.dt, int(steps.max(initial=1))).survival(steps) for mode in modes]

        return np.prod(laws(self.radius / math.sqrt(len(driven))), axis=0), np.min(laws(self.radius), axis=0)

    def _whole(self, t: Any) -> np.ndarray:
        """The time steps that are over at `t`."""
        return np.floor(np.asarray(t, dtype=float) / self.dt + 1e-6).astype(int)

    def data(self) -> Study:
        """The survival curve with its errors and the law, for `stability.plot`."""
        moments, survival, error = self.curve
        t = np.linspace(0, self.until, 201)
        law = np.full(201, np.nan) if self.chain is None else self.chain.survival(self._whole(t))
        arrays = {"t": np.append(moments, self.until), "survival": np.append(survival, survival[-1]), "error": np.append(error, error[-1])}
        about = {"method": self.method, "region": self._region, "z": self.z, "p": self.kolmogorov_smirnov[1], "exact": self.exact}
        return Study("exits", {**arrays, "law_t": t, "law": law}, jsonable(about), provenance())

    @property
    def _region(self) -> str:
        if not self.along.any():
            return f"|w - at| < {self.radius:g}"
        overlap = np.abs(self.vectors.T @ self.along)
        mode = f"mode {np.argmax(overlap)}" if overlap.max() > 1 - 1e-9 else "the given direction"
        return f"|v.(w - at)| < {self.radius:g} along {mode}"

    def __str__(self) -> str:
        value, error = self.mean
        lines = [f"{self.method}, {'SDE' if self.level == 'sde' else 'iteration'}, dt = {self.dt:g}: first exits from {self._region}, to t = {self.t_end:g}"]
        lines.append(
            f"{int(self.left.sum())} of {len(self.times)} paths left" + (f", half of all by t = {self.median:.5g}" if math.isfinite(self.median) else "")
        )
        lines.append(f"{'':<22} {'measured':>11} {'std. error':>11} {'law':>11} {'z':>6}")
        predicted = math.nan if self.chain is None else self.chain.mean(self._steps)
        lines.append(f"{f'mean of min(T, {self.until:.5g})':<22} {value:>11.5g} {error:>11.2g} {predicted:>11.5g} {self.z:>6.2f}")
        share, last = float(self.curve[1][-1]), math.nan if self.chain is None else float(self.chain.survival(self._steps))
        lines.append(f"{'share still inside':<22} {share:>11.4g} {self.curve[2][-1]:>11.2g} {last:>11.4g}")
        lines.append(self._fit())
        return "\n".join([*lines, *self._sides(), f"status: {self.status}"])

    def _fit(self) -> str:
        if self.chain is None:
            return f"no law: {self.reason}"
        distance, p = self.kolmogorov_smirnov
        rough = f"; the law is a closed form, off by at most {self.chain.error:.0e}" if self.chain.error > 1e-6 else ""
        return f"Kolmogorov-Smirnov distance {distance:.3g}, p = {p:.2g}{rough}"

    def _sides(self) -> list[str]:
        if not self.left.any():
            return []
        named = (lambda i: "v") if self.along.any() else (lambda i: f"mode {i} (lambda = {self.eigenvalues[i]:.3g})")
        order = np.argsort(-self.shares.sum(axis=1))[:4]
        return ["left along " + ", ".join(f"+{named(i)} {self.shares[i, 0]:.1%}, - {self.shares[i, 1]:.1%}" for i in order if self.shares[i].any())]


def escape(
    flow: Flow,
    at: Any = None,
    *,
    radius: float,
    paths: int,
    seed: int,
    t_end: float | None = None,
    dt: float | None = None,
    level: str = "sde",
    along: Any = None,
) -> Escape:
    """Time how an ensemble leaves a critical point, and hold that against the exact law.

    Every path starts at `at` and is watched after each time step until it leaves. The law is known for a slab along an eigenvector of the
    Hessian with additive noise, or in one dimension: the component along it is then a process of its own. On a quadratic it is the law of
    these very paths; elsewhere of the linearised flow, and `status` says so. A ball in more dimensions is only simulated (see `Escape.bounds`).

    Parameters
    ----------
    flow : Flow
    at : array (d,), optional
        The critical point; the objective's reference by default.
    radius : float
        The region is ``|w - at| < radius``, or with `along` ``|v.(w - at)| < radius``.
    paths, seed : int
        As for `simulate`, with the same numbers: the exit times are those of ``simulate(..., exit=...)``.
    t_end : float, optional
        When to stop watching, a multiple of `dt`. By default when the law says that 99.9 % have left, but no more than about ten seconds' work.
    dt : float, optional
        Time step of the SDE; `step` by default.
    level : {"sde", "iteration"}
    along : int, "unstable" or array (d,), optional
        A mode of ``linearize(flow, at)`` (largest ``|lam|`` first), the eigenvector of the smallest eigenvalue, or any direction.

    Returns
    -------
    Escape

    Raises
    ------
    ValueError
        If an argument is out of range, `at` is not critical, the gain is singular there, the noise has a `sample` of its own but no `factors`,
        no noise moves a path that starts there, or `t_end` would take more than 1e11 path-steps.
    Interrupted
        On Ctrl-C; its `result` holds the paths that were finished.

    Examples
    --------
    >>> import stability as st
    >>> flow = st.Flow(st.quadratic([1.0, -0.1]), st.SFN(damping=0.1), st.Noise(gradient=0.1), step=0.1)
    >>> found = st.escape(flow, radius=1.0, along="unstable", paths=400, seed=0)
    >>> found.mode.rate, bool(abs(found.z) < 4)
    (0.5, True)
    """
    if not isinstance(flow, Flow):
        raise ValueError(f"`flow` must be a st.Flow(objective, method, noise, step=...); got {flow!r:.60}.")
    setting = _Setting(linearize(flow, at), along, _check.positive("radius", radius))
    paths, horizon = _check.count("paths", paths), t_end
    if t_end is None:
        horizon = setting.horizon(paths, flow.step if dt is None else _check.positive("dt", dt))
    request = Request(flow, setting.linear.at, horizon, seed, paths, dt, level, "euler", None, 0, "moments")  # type: ignore[arg-type]
    if float(request.steps) * paths > MOST_WORK:
        raise ValueError(
            f"`t_end` = {horizon:g} is {request.steps:.2g} time steps of {paths} paths; at most {MOST_WORK:.0e} path-steps are taken. "
            "Take a shorter `t_end`, fewer paths or a larger `dt`: those that stay are counted as such."
        )
    saved = np.array([request.steps])
    plan = Plan(flow, request.start, request.steps, request.dt, saved, request.seed, level, request.center, math.inf, compiled=compiled(None))
    done: list[_Watch] = []
    try:
        for part in _blocks(plan, setting.direction, setting.radius):
            done.append(part)
    except KeyboardInterrupt:
        if not done:
            raise
        count = sum(len(part.times) for part in done)
        raise Interrupted(f"Interrupted: the {count} paths that were finished are in this exception's `.result`.", _result(setting, plan, done)) from None
    return _result(setting, plan, done)


class _Setting:
    """What is left, and what theory says of it before any path is simulated."""

    def __init__(self, linear: LinearFlow, along: Any, radius: float):
        self.linear, self.radius = linear, radius
        self.direction = _direction(along, linear)
        diffusion = linear.flow.diffusion(linear.at)
        if not np.trace(diffusion) > 0:
            raise ValueError("No noise moves a path that starts at the critical point: it stays there. Give the flow st.Noise(gradient=...).")
        self.diffusions = np.einsum("ji,jk,ki->i", linear.vectors, diffusion, linear.vectors)
        self.rate, self.diffusion, self.reason = _projected(linear, self.direction, diffusion)
        self.known = not math.isnan(self.rate)
        self.guess = exit_time(rate=self.rate, diffusion=self.diffusion, radius=radius) if self.known else self._first()
        model = linear.flow.noise_model
        self.quadratic = bool(getattr(linear.flow.objective, "constant_hessian", False))
        self.exact = self.quadratic and not model.has_curvature and model.linear

    def _first(self) -> ExitTime:
        """The law of the mode that leads out first, to set the clock by."""
        modes = self.diffusions
        overlap = np.ones(len(modes)) if self.direction is None else np.abs(self.linear.vectors.T @ self.direction)
        able = np.flatnonzero((modes > 1e-20 * modes.max()) & (overlap > 1e-6))
        if not len(able):  # noise reaches the direction only by way of others, if at all
            able, overlap = np.array([int(np.argmax(modes))]), np.ones(len(modes))
        laws = [exit_time(rate=self.linear.rates[i], diffusion=modes[i], radius=self.radius / overlap[i]) for i in able]
        return min(laws, key=lambda law: law.log_mean)

    def horizon(self, paths: int, dt: float) -> float:
        """When to stop by default, a multiple of dt: later where the law is only a guess."""
        late = watched(self.guess, dt).quantile(LEFT) * (1 if self.known else 4)
        return dt * max(1, math.ceil(min(late / dt, WORK / paths)))

    def bent(self) -> float:
        """How far the drift at ``at +- radius v`` is from the linearised one, relative to that."""
        assert self.direction is not None  # the law is known
        flow, gaps = self.linear.flow, []
        for side in (self.radius * self.direction, -self.radius * self.direction):
            straight = self.rate * side
            try:
                gaps.append(float(np.linalg.norm(flow.drift(self.linear.at + side) - straight)) / max(float(np.linalg.norm(straight)), 1e-300))
            except ValueError:  # the gain is singular there
                gaps.append(math.inf)
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
                f"{int(lost.sum())} given up before they left: not finite, or more than {FAR:.0e} radii away along other directions; counted as censored"
            )
        if self.linear.eigenvalues.min() >= 0:
            told.append("no negative eigenvalue: a minimum, or degenerate")
        if self.guess.rate < 0:
            mean = f"{self.guess.mean:.4g}" if self.guess.log_mean < 20 else f"exp({self.guess.log_mean:.4g})"
            told.append(f"attracted at rate {-self.guess.rate:.4g}: noise alone leads out, in continuous time after {mean} in the mean")
        if self.known and not self.quadratic:
            told.append(f"the law is of the linearised flow, whose drift at the region's edge is off by {self.bent():.2g} of itself")
        return "; ".join(told) or "ok"


def _direction(along: Any, linear: LinearFlow) -> np.ndarray | None:
    """The slab's unit vector (d,); in one dimension a ball is a slab."""
    dim = len(linear.at)
    if along is None:
        return np.ones(1) if dim == 1 else None
    if isinstance(along, str):
        _check.choice("along", along, ("unstable",))
        return linear.vectors[:, int(np.argmin(linear.eigenvalues))]
    if isinstance(along, (int, np.integer)) and not isinstance(along, bool):
        return linear.vectors[:, _check.count("along", along, least=0, most=dim - 1, why="a mode")]
    vector = _check.shaped("along", along, (dim,))
    if not vector.any():
        raise ValueError("`along` must be a direction, not the zero vector.")
    return vector / np.linalg.norm(vector)


def _projected(linear: LinearFlow, direction: np.ndarray | None, diffusion: np.ndarray) -> tuple[float, float, str]:
    """Rate and diffusion of the component along the direction, or nan and why it has no law of its own."""
    if direction is None:
        return math.nan, math.nan, "a ball in more than one dimension; `bounds` holds it between the modes' own laws on a quadratic"
    noise, reason = linear.flow.noise_model, ""
    drift = (linear.vectors * linear.rates) @ linear.vectors.T
    rate, strength = float(direction @ drift @ direction), float(direction @ diffusion @ direction)
    if noise.has_curvature:
        reason = "curvature noise grows with the distance, and mixes the modes"
    elif not noise.linear:
        reason = "the noise draws its own samples, whose law is not known to be Gaussian"
    elif np.linalg.norm(drift @ direction - rate * direction) > 1e-9 * np.max(np.abs(linear.rates)):
        reason = "the direction is not an eigenvector: other modes drive the component along it"
    elif strength <= 1e-20 * float(np.trace(diffusion)):
        reason = "no noise reaches the component along this direction"
    return (math.nan, math.nan, reason) if reason else (rate, strength, "")


def _result(setting: _Setting, plan: Plan, parts: list[_Watch]) -> Escape:
    times, seen, exits, lost = (np.concatenate([getattr(part, name) for part in parts]) for name in ("times", "seen", "exits", "lost"))
    linear, flow, t_end = setting.linear, plan.flow, plan.steps * plan.dt
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
        stats={"path_steps": int(np.sum(np.round(seen / plan.dt))), "left": int(np.isfinite(times).sum()), "lost": int(lost.sum())},
        provenance=provenance(seed=plan.seed, paths=len(times), flow=repr(flow), radius=setting.radius, t_end=t_end, dt=plan.dt),
    )


class _Watch(Recorder):
    """A block's first exits; paths that left, or were given up, are put back to the critical point, where they are harmless."""

    def __init__(self, plan: Plan, count: int, direction: np.ndarray | None, radius: float):
        super().__init__(plan, count)
        self.direction, self.size = direction, radius
        self.inside = np.ones(count, dtype=bool)
        self.times, self.seen = np.full(count, np.nan), np.full(count, plan.steps * plan.dt)
        self.exits = np.full((count, plan.flow.dim), np.nan)

    def start(self, x: np.ndarray) -> None:
        self.last = x

    def see(self, step: int, x: np.ndarray) -> None:
        self._look(step, x[None])
        x[:, ~self.inside] = self.plan.center[:, None]
        self.last = x

    def skim(self, step: int, states: np.ndarray, unit: float) -> bool:
        self._look(step + 1, states[:, :, : len(self.inside)], unit)
        return True

    def _look(self, step: int, states: np.ndarray, unit: float = 1.0) -> None:
        """Take note of who left in states (steps, d, count), the first of them after `step`."""
        rows = np.flatnonzero(self.inside)
        offset = states[:, :, rows] * unit - self.plan.center[:, None]
        squared = np.einsum("kij,kij->kj", offset, offset)
        distance = np.sqrt(squared) if self.direction is None else np.abs(np.einsum("kij,i->kj", offset, self.direction))
        out = (distance >= self.size) & np.isfinite(distance)
        gone = out | ~(squared < (FAR * self.size) ** 2)  # not a number is gone, and then lost
        when = np.argmax(gone, axis=0)
        moved, column = gone.any(axis=0), np.arange(len(rows))
        left = moved & out[when, column]
        given_up = moved & ~left
        self.seen[rows[moved]] = (step + when[moved]) * self.plan.dt
        self.times[rows[left]] = self.seen[rows[left]]
        self.exits[rows[left]] = offset[when[left], :, column[left]]
        self.lost[rows[given_up]] = True
        self.inside[rows[moved]] = False


def _blocks(plan: Plan, direction: np.ndarray | None, radius: float) -> Iterator[_Watch]:
    """Blocks of paths in order, each until all have left: `run_block` with another recorder, on the same random numbers."""
    for number in range(plan.blocks):
        start, full, source, never = plan.start[plan.rows(number)], plan.width(number), Normals(plan, number), threading.Event()
        watch, track, step = _Watch(plan, len(start), direction, radius), Track(plan, plan.flow, start, full), 0
        with np.errstate(all="ignore"):
            watch.start(start.T)
            while step < plan.steps and watch.inside.any():
                size = min(plan.chunk(full), plan.steps - step)
                track.follow(_noise(plan, source, full, size), step, watch, never)
                track.x[:, : len(start)][:, ~watch.inside] = plan.center[:, None] / track.unit
                step += size
        yield watch
