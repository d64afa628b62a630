"""Blocks of paths: their random numbers, their steps, and what is kept of them.

A block is a fixed number of paths with its own random stream. Its numbers depend on the seed and its place alone:
not on workers, on how many steps are drawn at once, or on how many other blocks there are.
"""

from __future__ import annotations

import functools
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from . import _fast
from ._array import Backend, block_count, block_rows, stream
from ._control import ControlledMoments
from ._planar import PlanarChunks, PlanarSteps
from ._program import Untraceable
from ._steps import Affine, Modes, Stepwise
from ._streaming import Moments, Quantiles
from .flow import Flow
from .noise import Batches, Sample

CHUNK = 2**17  # normals drawn at once: about a megabyte, between 16 and 256 steps, ...
SQUARABLE = {"float64": 1e300, "float32": 1e36}  # squared distances that are far from overflow
LARGEST_CHUNK = 2**22  # ... unless curvature noise takes so many a step that they would not fit


@dataclass(frozen=True)
class Control:
    """The tangent flow that runs beside, on the same noise, its exact moments at the saved times, (times, d) and (times, d, d), and whether they are all."""

    flow: Flow
    mean: np.ndarray
    covariance: np.ndarray
    gaussian: bool


@dataclass(frozen=True)
class Plan:
    """A checked simulation: what every block of paths is told."""

    flow: Flow
    start: np.ndarray  # (paths, d), perhaps a view of one row
    steps: int
    dt: float
    saved: np.ndarray  # step numbers
    seed: int
    level: str
    center: np.ndarray
    radius: float
    modes: Modes | None = None
    inside: Callable[[Any], Any] | None = None
    refine: int = 0
    dtype: str = "float64"
    compiled: bool = False
    keep_states: bool = True
    observables: dict[str, Callable[[Any], Any]] = field(default_factory=dict)
    quantiles: tuple[float, ...] = ()
    control: Control | None = None

    @property
    def paths(self) -> int:
        return len(self.start)

    @property
    def blocks(self) -> int:
        return block_count(self.paths, self.flow.dim)

    def width(self, number: int) -> int:
        """Paths of a block when it is full."""
        return len(block_rows(number, self.flow.dim))

    def rows(self, number: int) -> slice:
        """The paths of a block that are asked for."""
        rows = block_rows(number, self.flow.dim)
        return slice(rows.start, min(rows.stop, self.paths))

    @functools.cached_property
    def normals(self) -> int:
        """Standard normals of one path's step."""
        return self.flow.noise_model.normals(self.flow.dim)

    @functools.cached_property
    def movers(self) -> dict[int, Affine | PlanarChunks]:
        """By the flow's id, what moves its paths, where blocks can share it: it keeps nothing of them."""
        flows = [self.flow] + ([self.control.flow] if self.control else [])
        found = {id(flow): _mover(self, flow) for flow in flows}
        return {key: mover for key, mover in found.items() if isinstance(mover, (Affine, PlanarChunks))}

    @property
    def draws_samples(self) -> bool:
        """Whether noise comes as samples (real minibatches, a user's own noise) instead of standard normals."""
        model = self.flow.noise_model
        return not model.linear or (self.level == "iteration" and model.objective is not None)

    def chunk(self, width: int) -> int:
        """Steps whose noise is drawn at once for so many paths."""
        size = width * max(1, self.normals)
        return max(1, min(max(16, min(256, CHUNK // size)), LARGEST_CHUNK // size))

    def times(self) -> np.ndarray:
        return self.saved * self.dt


class Normals:
    """A block's standard normals, (steps, k, width) at a time, the same however they are divided into chunks.

    With `refine` halvings of the time step every increment is bridged: its two halves are
    ``(z + xi) / sqrt 2`` and ``(z - xi) / sqrt 2``, whose sum is the coarse path's increment.
    """

    def __init__(self, plan: Plan, number: int):
        self.shape, self.compiled = (plan.normals, plan.width(number)), plan.compiled
        self.streams = [stream(plan.seed, number), *(stream(plan.seed, number, level) for level in range(1, plan.refine + 1))]
        self.left = [np.empty((0, *self.shape)) for _ in self.streams]  # of every level, what is drawn and not used yet
        self.seconds = 0.0
        self.buffer = np.empty((0 if plan.refine else plan.chunk(plan.width(number)), *self.shape))

    def draw(self, steps: int) -> np.ndarray:
        """Normals of the next `steps` steps, (steps, k, width)."""
        began = time.perf_counter()
        z = self._level(len(self.streams) - 1, steps)
        self.seconds += time.perf_counter() - began
        return z

    def _level(self, level: int, steps: int) -> np.ndarray:
        """The next `steps` steps after so many halvings."""
        if level == 0:
            return self._fill(self.streams[0], steps)
        left = self.left[level]
        if len(left) < steps:
            coarse = self._level(level - 1, (steps - len(left) + 1) // 2)
            xi = self._fill(self.streams[level], len(coarse))
            halves = np.stack([coarse + xi, coarse - xi], axis=1).reshape(2 * len(coarse), *self.shape)
            left = np.concatenate([left, math.sqrt(0.5) * halves])
        self.left[level] = left[steps:].copy()
        return left[:steps]

    def _fill(self, rng: np.random.Generator, steps: int) -> np.ndarray:
        out = self.buffer[:steps] if len(self.buffer) >= steps else np.empty((steps, *self.shape))
        if self.compiled:
            _fast.fill(rng, out)
        else:
            rng.standard_normal(out=out)
        return out


class Track:
    """A block's paths being moved: affine flows by whole chunks of normals, others step by step."""

    def __init__(self, plan: Plan, flow: Flow, start: np.ndarray, full: int):
        count = len(start)
        self.flow, self.plan, self.count = flow, plan, count
        self.mover = plan.movers.get(id(flow)) or _mover(plan, flow)
        self.unit = self.mover.unit if isinstance(self.mover, Affine) else 1.0
        # Matrix products round alike only for like shapes: affine blocks are always full, others in steps of 64 paths.
        self.width = full if isinstance(self.mover, Affine) else min(full, math.ceil(count / 64) * 64)
        self.x = np.empty((flow.dim, self.width), dtype=plan.dtype)
        self.x[:, :count], self.x[:, count:] = start.T / self.unit, start[0][:, None] / self.unit

    def follow(self, noise: Any, step: int, recorder: Recorder, stop: threading.Event) -> bool:
        """Move through a chunk that starts at `step`; False if it was stopped."""
        if isinstance(self.mover, (Affine, PlanarChunks)):
            self._whole(self._chunk(noise), step, recorder)
            return not stop.is_set()
        for ahead, x in enumerate(self._each(noise), start=step + 1):
            recorder.see(ahead, x[:, : self.count])
            if stop.is_set():
                return False
        recorder.last = recorder.last.copy()  # the next chunk's buffers may be these
        return True

    def _chunk(self, noise: np.ndarray) -> np.ndarray:
        noise = noise[:, :, : self.width].astype(self.plan.dtype, copy=False)
        if isinstance(self.mover, Affine):
            return self.mover.run(self.x, noise, compiled=self.plan.compiled)
        assert isinstance(self.mover, PlanarChunks)
        return self.mover.whole(self.x, noise)

    def _whole(self, states: np.ndarray, step: int, recorder: Recorder) -> None:
        if recorder.skim(step, states, self.unit):
            return
        for ahead, x in enumerate(states, start=step + 1):
            recorder.see(ahead, x[:, : self.count] * self.unit)
        if recorder.any_lost:  # so that they do not overflow; what they are is the recorder's to say
            self.x[:, : self.count][:, recorder.lost] = recorder.last[:, recorder.lost] / self.unit

    def _each(self, noise: Any) -> Iterator[np.ndarray]:
        """The states (d, width) after each step; what is written into them stays."""
        if isinstance(self.mover, PlanarSteps):
            return self.mover.run(self.x, noise[:, :, : self.width])
        assert isinstance(self.mover, Stepwise)
        return self.mover.run(self.x, self._samples(noise))

    def _samples(self, noise: Iterable[Any]) -> Iterator[Any]:
        model, dtype = self.flow.noise_model, self.plan.dtype
        for one in noise:
            if isinstance(one, np.ndarray):
                yield model.combine(one[:, : self.width].astype(dtype, copy=False), self.flow.dim)
            else:
                kind = Batches if isinstance(one, Batches) else Sample
                yield kind(*(part[: self.width] for part in one))


def _mover(plan: Plan, flow: Flow) -> Affine | PlanarSteps | Stepwise:
    """The quickest way to move paths of a flow."""
    terms = (plan.dt, plan.level, plan.modes)
    affine = Affine.of(flow, *terms)
    if affine is not None:
        return affine if plan.dtype == "float64" else replace(affine, counted=False)
    if plan.dtype == "float64" and PlanarSteps.fit(flow, plan.modes):
        if plan.compiled:
            with suppress(Untraceable):
                return PlanarChunks(flow, plan.dt, plan.level)
        return PlanarSteps(flow, plan.dt, plan.level)
    return Stepwise(flow.on(Backend("numpy", np, None, plan.dtype), compiled=plan.compiled), *terms)


def useful_workers(plan: Plan) -> int:
    """Threads help while NumPy and compiled code work outside the interpreter's lock for long enough at a time."""
    flow = plan.flow
    mover = plan.movers.get(id(flow)) or _mover(plan, flow)
    fixed = flow.method.is_identity or (getattr(flow.objective, "constant_hessian", False) and not (plan.level == "iteration" and flow.bends))
    short = type(mover) is PlanarSteps or (isinstance(mover, Stepwise) and fixed and flow.dim < 16)
    return 1 if short else os.cpu_count() or 1


class Recorder:
    """Watches a block of paths: snapshots, divergence, first exits."""

    def __init__(self, plan: Plan, count: int):
        self.plan = plan
        self.saved = np.empty((len(plan.saved), plan.flow.dim, count), dtype=plan.dtype)
        self.diverged_at, self.exit_times = np.full(count, np.nan), np.full(count, np.nan)
        self.lost = np.zeros(count, dtype=bool)
        self.any_lost, self.slot, self.step = False, 0, 0
        # No path can be too far while all of them together are not: one product instead of a distance for each.
        room = max(0.0, plan.radius - float(np.linalg.norm(plan.center)))
        self.safe = min(room * room, SQUARABLE[plan.dtype])

    def start(self, x: np.ndarray) -> None:
        self.last = x.astype(self.plan.dtype)
        if self.plan.inside is not None:
            self.exit_times[~self.plan.inside(self.last.T)] = 0.0
        self._save(0, x)

    def see(self, step: int, x: np.ndarray) -> None:
        """Take note of the states `x` (d, count) after `step`; diverged paths are put back where they were last."""
        flat, probe, before = x.ravel(), x, self.lost
        if self.any_lost or not np.dot(flat, flat) <= self.safe:
            probe = np.where(np.isfinite(x).all(axis=0), x, self.last)  # a path may leave the region at the step that loses it
            before = self.lost.copy()
            self._freeze(step, x)
        if self.plan.inside is not None:
            out = ~self.plan.inside(probe.T) & np.isnan(self.exit_times) & ~before
            self.exit_times[out] = step * self.plan.dt
        self._save(step, x)
        self.last, self.step = x, step

    def skim(self, step: int, states: np.ndarray, unit: float) -> bool:
        """Take note of a chunk of states (steps, d, width), in units, if nothing needs to be looked at step by step."""
        flat = states.reshape(-1)
        if self.any_lost or self.plan.inside is not None or not np.dot(flat, flat) * unit**2 <= self.safe:
            return False
        count, ahead = self.lost.size, step + len(states)
        while self.slot < len(self.plan.saved) and self.plan.saved[self.slot] <= ahead:
            now = self.plan.saved[self.slot]
            self._save(now, states[now - step - 1, :, :count] * unit)
        self.last, self.step = states[-1, :, :count] * unit, ahead
        return True

    def _freeze(self, step: int, x: np.ndarray) -> None:
        offset = x - self.plan.center[:, None]
        distance = np.einsum("ij,ij->j", offset, offset)
        new = ~((distance <= self.plan.radius * self.plan.radius) & np.isfinite(distance)) & ~self.lost  # written so that nan counts as lost
        if new.any():
            self.diverged_at[new] = step * self.plan.dt
            self.lost |= new
            self.any_lost = True
        if self.any_lost:
            x[:, self.lost] = self.last[:, self.lost]

    def _save(self, step: int, x: np.ndarray) -> None:
        if self.slot < len(self.plan.saved) and self.plan.saved[self.slot] == step:
            self.saved[self.slot] = x
            self.slot += 1


@dataclass
class Part:
    """What one block leaves behind; states (times, m, d) only where they are kept."""

    states: np.ndarray | None
    moments: Moments
    controlled: ControlledMoments | None
    sketch: Quantiles | None
    observed: tuple[Moments, np.ndarray] | None
    diverged_at: np.ndarray
    exit_times: np.ndarray
    noise_seconds: float
    seconds: float
    plan: Plan  # the one that was asked for, or what of it was done when the block was stopped


@dataclass
class Signals:
    """What running blocks listen to and report to."""

    advance: Callable[[int], None] = lambda steps: None
    stop: threading.Event = field(default_factory=threading.Event)
    sketch: Quantiles | None = None  # empty, around the first block's mean


def run_block(plan: Plan, number: int, signals: Signals) -> Part:
    """Simulate one block of paths, or as much of it as there is time for before `signals.stop`."""
    began, rows = time.perf_counter(), plan.rows(number)
    start = plan.start[rows]
    count, full, source = len(start), plan.width(number), Normals(plan, number)
    main = Track(plan, plan.flow, start, full)
    beside = Track(plan, plan.control.flow, start, full) if plan.control else None
    # The control's law is known for all its paths: none may be stopped, and none is watched.
    seen, seen_beside = Recorder(plan, count), Recorder(replace(plan, radius=math.inf, inside=None), count)
    with np.errstate(all="ignore"):
        for track, recorder in ((main, seen), (beside, seen_beside)):
            if track is not None:
                recorder.start(start.T)
        step = 0
        while step < plan.steps:
            size = min(plan.chunk(full), plan.steps - step)
            noise = _noise(plan, source, full, size)
            if beside is not None:
                beside.follow(noise.copy(), step, seen_beside, signals.stop)
            if not main.follow(noise, step, seen, signals.stop):
                return _stopped(plan, seen, signals, source.seconds, began)
            step += size
            signals.advance(size)
        return make_part(plan, seen, seen_beside if beside else None, signals, source.seconds, began)


def _noise(plan: Plan, source: Normals, full: int, steps: int) -> Any:
    if not plan.draws_samples:
        return source.draw(steps)
    return (plan.flow.draw(full, source.streams[0], level=plan.level) for _ in range(steps))


def make_part(plan: Plan, seen: Recorder, beside: Recorder | None, signals: Signals, noise_seconds: float, began: float) -> Part:
    """What a recorded block leaves behind."""
    states = np.swapaxes(seen.saved, 1, 2)
    kept = states if not seen.any_lost else states[:, ~seen.lost]
    moments, sketch = Moments.of(kept), None
    if plan.quantiles:
        if signals.sketch is None:  # the first block, which runs alone
            signals.sketch = Quantiles.around(moments.center)
        sketch = signals.sketch.add(kept)
    controlled = None
    control = plan.control
    if beside is not None and control is not None and not seen.any_lost and np.isfinite(beside.saved).all() and np.isfinite(control.covariance).all():
        other = np.swapaxes(beside.saved, 1, 2)
        controlled = ControlledMoments.of(kept, other, mean=control.mean, covariance=control.covariance, gaussian=control.gaussian)
    return Part(
        states=states if plan.keep_states else None,
        moments=moments,
        controlled=controlled,
        sketch=sketch,
        observed=_observe(plan, kept),
        diverged_at=seen.diverged_at,
        exit_times=seen.exit_times,
        noise_seconds=noise_seconds,
        seconds=time.perf_counter() - began,
        plan=plan,
    )


def _stopped(plan: Plan, seen: Recorder, signals: Signals, noise_seconds: float, began: float) -> Part:
    """A block that was stopped: its snapshots so far, and where its paths are now."""
    done = plan.saved[: seen.slot]
    if not len(done) or done[-1] < seen.step:
        done, seen.saved = np.append(done, seen.step), np.concatenate([seen.saved[: seen.slot], seen.last[None]])
    short = replace(plan, saved=done, steps=seen.step, quantiles=(), control=None)
    return make_part(short, seen, None, signals, noise_seconds, began)


def _observe(plan: Plan, kept: np.ndarray) -> tuple[Moments, np.ndarray] | None:
    """Moments of the observables (times, k), and where (times, k) they were not finite on some state."""
    if not plan.observables:
        return None
    found = np.empty((*kept.shape[:2], len(plan.observables)))
    states = kept.view()
    states.flags.writeable = False
    for i, (name, observe) in enumerate(plan.observables.items()):
        for time_, w in enumerate(states):
            values = np.asarray(observe(w))
            if values.shape != w.shape[:1] or values.dtype.kind not in "fiub":
                raise ValueError(f"`observables[{name!r}]` must give one real number per state; {len(w)} states gave {values.dtype} {values.shape}.")
            found[time_, :, i] = values
    # What is not finite on some state has no mean; the others keep theirs.
    return Moments.of(np.where(np.isfinite(found), found, 0.0)), np.any(~np.isfinite(found), axis=1)
