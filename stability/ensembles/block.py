"""Blocks of paths: their random numbers, their steps, and what is kept of them.

A block is a fixed number of paths with its own random stream. Its numbers depend on the seed and its place
alone: not on workers, on how many steps are drawn at once, or on how many other blocks there are.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..flow import Flow
from ..noise import Minibatches, Sample
from .control import ControlledMoments
from .normals import Normals
from .plan import EnsemblePlan, _mover
from .planar import PlanarChunks, PlanarSteps
from .steps import Affine, Stepwise
from .streaming import Quantiles, SampleMoments

SQUARABLE = {"float64": 1e300, "float32": 1e36}  # squared distances that are far from overflow


class Track:
    """A block's paths being moved: affine flows by whole chunks of normals, others step by step."""

    def __init__(self, plan: EnsemblePlan, flow: Flow, start: np.ndarray, full: int):
        count = len(start)
        self.flow, self.plan, self.count = flow, plan, count
        self.mover = plan.movers.get(id(flow)) or _mover(plan, flow)
        self.unit = self.mover.unit if isinstance(self.mover, Affine) else 1.0
        # Matrix products round alike only for like shapes: affine blocks are always full, others in steps of
        # 64 paths.
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
                kind = Minibatches if isinstance(one, Minibatches) else Sample
                yield kind(*(part[: self.width] for part in one))


class Recorder:
    """Watches a block of paths: snapshots, divergence, first exits."""

    def __init__(self, plan: EnsemblePlan, count: int):
        self.plan = plan
        self.saved = np.empty((len(plan.saved), plan.flow.dim, count), dtype=plan.dtype)
        self.diverged_at, self.exit_times = np.full(count, np.nan), np.full(count, np.nan)
        self.lost = np.zeros(count, dtype=bool)
        self.any_lost, self.slot, self.step = False, 0, 0
        # No path can be too far while all of them together are not: one product instead of a distance for
        # each.
        room = max(0.0, plan.radius - float(np.linalg.norm(plan.center)))
        self.safe = min(room * room, SQUARABLE[plan.dtype])

    def start(self, x: np.ndarray) -> None:
        self.last = x.astype(self.plan.dtype)
        if self.plan.inside is not None:
            self.exit_times[~self.plan.inside(self.last.T)] = 0.0
        self._save(0, x)

    def see(self, step: int, x: np.ndarray) -> None:
        """Take note of the states `x` (d, count) after `step`; diverged paths are put back where they were
        last.
        """
        flat, probe, before = x.ravel(), x, self.lost
        if self.any_lost or not np.dot(flat, flat) <= self.safe:
            probe = np.where(
                np.isfinite(x).all(axis=0), x, self.last
            )  # a path may leave the region at the step that loses it
            before = self.lost.copy()
            self._freeze(step, x)
        if self.plan.inside is not None:
            out = ~self.plan.inside(probe.T) & np.isnan(self.exit_times) & ~before
            self.exit_times[out] = step * self.plan.dt
        self._save(step, x)
        self.last, self.step = x, step

    def skim(self, step: int, states: np.ndarray, unit: float) -> bool:
        """Take note of a chunk of states (steps, d, width), in units, if nothing needs to be looked at step
        by step.
        """
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
        new = (
            ~((distance <= self.plan.radius * self.plan.radius) & np.isfinite(distance)) & ~self.lost
        )  # written so that nan counts as lost
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
    moments: SampleMoments
    controlled: ControlledMoments | None
    sketch: Quantiles | None
    observed: tuple[SampleMoments, np.ndarray] | None
    diverged_at: np.ndarray
    exit_times: np.ndarray
    noise_seconds: float
    seconds: float
    plan: EnsemblePlan  # the one that was asked for, or what of it was done when the block was stopped


@dataclass
class Signals:
    """What running blocks listen to and report to."""

    advance: Callable[[int], None] = lambda steps: None
    stop: threading.Event = field(default_factory=threading.Event)
    sketch: Quantiles | None = None  # empty, around the first block's mean


def run_block(plan: EnsemblePlan, number: int, signals: Signals) -> Part:
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


def _noise(plan: EnsemblePlan, source: Normals, full: int, steps: int) -> Any:
    if not plan.draws_samples:
        return source.draw(steps)
    return (plan.flow.draw(full, source.streams[0], level=plan.level) for _ in range(steps))


def make_part(
    plan: EnsemblePlan,
    seen: Recorder,
    beside: Recorder | None,
    signals: Signals,
    noise_seconds: float,
    began: float,
) -> Part:
    """What a recorded block leaves behind."""
    states = np.swapaxes(seen.saved, 1, 2)
    kept = states if not seen.any_lost else states[:, ~seen.lost]
    moments, sketch = SampleMoments.of(kept), None
    if plan.quantiles:
        if signals.sketch is None:  # the first block, which runs alone
            signals.sketch = Quantiles.around(moments.center)
        sketch = signals.sketch.add(kept)
    controlled = None
    control = plan.control
    if (
        beside is not None
        and control is not None
        and not seen.any_lost
        and np.isfinite(beside.saved).all()
        and np.isfinite(control.covariance).all()
    ):
        other = np.swapaxes(beside.saved, 1, 2)
        controlled = ControlledMoments.of(
            kept, other, mean=control.mean, covariance=control.covariance, gaussian=control.gaussian
        )
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


def _stopped(
    plan: EnsemblePlan, seen: Recorder, signals: Signals, noise_seconds: float, began: float
) -> Part:
    """A block that was stopped: its snapshots so far, and where its paths are now."""
    done = plan.saved[: seen.slot]
    if not len(done) or done[-1] < seen.step:
        done, seen.saved = (
            np.append(done, seen.step),
            np.concatenate([seen.saved[: seen.slot], seen.last[None]]),
        )
    short = replace(plan, saved=done, steps=seen.step, quantiles=(), control=None)
    return make_part(short, seen, None, signals, noise_seconds, began)


def _observe(plan: EnsemblePlan, kept: np.ndarray) -> tuple[SampleMoments, np.ndarray] | None:
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
                raise ValueError(
                    f"`observables[{name!r}]` must give one real number per state; {len(w)} states gave "
                    f"{values.dtype} {values.shape}."
                )
            found[time_, :, i] = values
    # What is not finite on some state has no mean; the others keep theirs.
    return SampleMoments.of(np.where(np.isfinite(found), found, 0.0)), np.any(~np.isfinite(found), axis=1)
