"""Blocks of paths: their random numbers, their steps, and what is kept of them.

A block is a fixed number of paths with its own random stream. Its numbers depend on the seed and its place
alone: not on workers, on how many steps are drawn at once, or on how many other blocks there are.
"""

from __future__ import annotations

import abc
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from .. import _check
from ..flow import Flow
from ..objectives.base import trait
from .control import ControlledMoments
from .normals import noise_of
from .plan import EnsemblePlan
from .streaming import Quantiles, SampleMoments

SQUARABLE = {"float64": 1e300, "float32": 1e36}  # squared distances that are far from overflow


class Recorder(abc.ABC):
    """What watches a block's paths as they are moved.

    Attributes
    ----------
    done : bool
        Whether nothing is left to be seen: the block may end early.
    """

    done = False

    def start(self, x: np.ndarray) -> None:  # noqa: B027 - most need none
        """Take note of the states (n, count) at time 0, of `plan.size` numbers, the positions first."""

    @abc.abstractmethod
    def follow(self, step: int, states: np.ndarray, unit: float) -> None:
        """Take note of the states (steps, n, width), in units, after `step`.

        What is put into the last of them stays: the paths go on from there.
        """

    def settle(self) -> None:  # noqa: B027 - most need none
        """Copy what is still needed of states: their memory is about to be used again."""


class Track:
    """A block's paths being moved, under a recorder's eyes."""

    def __init__(self, plan: EnsemblePlan, flow: Flow, number: int, recorder: Recorder):
        self.mover, self.recorder = plan.mover(flow), recorder
        start, full, unit = plan.first(flow, plan.rows(number)), plan.width(number), self.mover.unit
        count = len(start)
        # Compiled and vector code rounds alike for widths in steps of 64 paths.
        width = full if self.mover.full else min(full, math.ceil(count / 64) * 64)
        self.x = np.empty((plan.size, width), dtype=plan.dtype)
        # What fills up the width starts as the first path does: nothing undefined is computed on.
        self.x[:, :count], self.x[:, count:] = start.T / unit, start[0][:, None] / unit
        recorder.start(start.T)

    def follow(self, noise: Any, step: int, stop: threading.Event) -> bool:
        """Move through a chunk that starts at `step`; False if it was stopped."""
        for states in self.mover.run(self.x, noise, step):
            self.recorder.follow(step, states, self.mover.unit)
            step += len(states)
            if stop.is_set():
                return False
        self.recorder.settle()
        return True


class Snapshots(Recorder):
    """Watches the paths of an ensemble: their states at the saved times, divergence, first exits."""

    def __init__(self, plan: EnsemblePlan, count: int):
        self.plan = plan
        self.saved = np.empty((len(plan.saved), plan.width_shown, count), dtype=plan.dtype)
        self.diverged_at, self.exit_times = np.full(count, np.nan), np.full(count, np.nan)
        self.lost = np.zeros(count, dtype=bool)
        self.any_lost, self.slot, self.step = False, 0, 0
        # No path can be too far while all of them together are not, whatever else their states hold: one
        # product instead of a distance for each.
        room = max(0.0, plan.radius - float(np.linalg.norm(plan.center)))
        self.safe = min(room * room, SQUARABLE[plan.dtype])

    def start(self, x: np.ndarray) -> None:
        self.last = x.astype(self.plan.dtype)
        if self.plan.inside is not None:
            self.exit_times[~self.plan.inside(self.last[: self.plan.flow.dim].T)] = 0.0
        self._save(0, x)

    def follow(self, step: int, states: np.ndarray, unit: float) -> None:
        if self._skim(step, states, unit):
            return
        for ahead, x in enumerate(states[:, :, : self.lost.size], start=step + 1):
            self._see(ahead, x if unit == 1.0 else x * unit)
        if self.any_lost:  # so that they do not overflow in the next stretch
            states[-1, :, : self.lost.size][:, self.lost] = self.last[:, self.lost] / unit

    def settle(self) -> None:
        self.last = self.last.copy()

    def _skim(self, step: int, states: np.ndarray, unit: float) -> bool:
        """Take note of a stretch as a whole, if nothing needs to be looked at step by step."""
        flat = states.reshape(-1)
        # `not ... <=`, never `>`: a nan must count as unsafe.
        if self.any_lost or self.plan.inside is not None or not np.dot(flat, flat) * unit**2 <= self.safe:
            return False
        count, ahead = self.lost.size, step + len(states)
        while self.slot < len(self.plan.saved) and self.plan.saved[self.slot] <= ahead:
            now = self.plan.saved[self.slot]
            self._save(now, states[now - step - 1, :, :count], unit)
        self.last, self.step = states[-1, :, :count], ahead
        if unit != 1.0:
            self.last = self.last * unit
        return True

    def _see(self, step: int, x: np.ndarray) -> None:
        """Take note of the states `x` (n, count) after `step`; lost ones are put back where they were."""
        dim = self.plan.flow.dim
        flat, probe, before = x.ravel(), x[:dim], self.lost
        if self.any_lost or not np.dot(flat, flat) <= self.safe:
            # A path may leave the region at the step that loses it.
            probe = np.where(np.isfinite(x[:dim]).all(axis=0), x[:dim], self.last[:dim])
            before = self.lost.copy()
            self._freeze(step, x)
        if self.plan.inside is not None:
            out = ~self.plan.inside(probe.T) & np.isnan(self.exit_times) & ~before
            self.exit_times[out] = self.plan.time(step)
        self._save(step, x)
        self.last, self.step = x, step

    def _freeze(self, step: int, x: np.ndarray) -> None:
        offset = x[: self.plan.flow.dim] - self.plan.center[:, None]
        distance = np.einsum("ij,ij->j", offset, offset)
        near = (distance <= self.plan.radius * self.plan.radius) & np.isfinite(distance)
        new = ~near & ~self.lost  # nan is not near
        if new.any():
            self.diverged_at[new] = self.plan.time(step)
            self.lost |= new
            self.any_lost = True
        if self.any_lost:
            x[:, self.lost] = self.last[:, self.lost]

    def _save(self, step: int, x: np.ndarray, unit: float = 1.0) -> None:
        if self.slot < len(self.plan.saved) and self.plan.saved[self.slot] == step:
            self.saved[self.slot] = x[self.plan.shown] * unit
            self.slot += 1

    def cut_short(self) -> EnsemblePlan:
        """The plan of what was done so far; where the paths are now becomes the last snapshot."""
        done = self.plan.saved[: self.slot]
        self.saved = self.saved[: self.slot]
        if not len(done) or done[-1] < self.step:
            last = self.last[None, self.plan.shown]
            done, self.saved = np.append(done, self.step), np.concatenate([self.saved, last])
        return replace(self.plan, saved=done, steps=self.step, quantiles=(), control=None)


@dataclass
class Part:
    """What one block leaves behind; states (times, m, d) only where they are kept."""

    states: np.ndarray | None
    moments: SampleMoments
    controlled: ControlledMoments | None
    sketch: Quantiles | None
    observed: Observed | None
    diverged_at: np.ndarray
    exit_times: np.ndarray
    noise_seconds: float
    seconds: float
    plan: EnsemblePlan  # the one that was asked for, or what of it was done when the block was stopped


class Observed(NamedTuple):
    """Moments of the observables (times, k), and where (times, k) one was not finite on some state."""

    moments: SampleMoments
    broken: np.ndarray


@dataclass
class Signals:
    """What running blocks listen to and report to."""

    advance: Callable[[int], None] = lambda steps: None
    stop: threading.Event = field(default_factory=threading.Event)
    sketch: Quantiles | None = None  # empty, around the first block's mean


class Run(NamedTuple):
    """How a block went: whether to its end, when it began, and the seconds spent on its noise."""

    finished: bool
    began: float
    noise_seconds: float


def run_block(
    plan: EnsemblePlan, number: int, signals: Signals, recorder: Recorder, beside: Recorder | None = None
) -> Run:
    """Move one block's paths as long as its recorder has something to see and `signals.stop` is not set.

    The control's paths go `beside`, on the same noise, under a recorder of their own.
    """
    began, source, width = time.perf_counter(), noise_of(plan, number), plan.width(number)
    with np.errstate(all="ignore"):  # paths that overflow are the recorder's to notice
        main = Track(plan, plan.flow, number, recorder)
        other = Track(plan, plan.control.flow, number, beside) if plan.control and beside else None
        step = 0
        while step < plan.steps and not recorder.done:
            size = min(plan.chunk(width), plan.steps - step)
            noise: Any = source.draw(size)
            if other is not None:
                other.follow(noise.copy(), step, signals.stop)  # a mover may use its noise up
            if not main.follow(noise, step, signals.stop):
                return Run(False, began, source.seconds)
            step += size
            signals.advance(size)
    return Run(True, began, source.seconds)


def simulated_block(plan: EnsemblePlan, number: int, signals: Signals) -> Part:
    """Simulate one block of paths, or as much of it as there is time for before `signals.stop`."""
    seen, beside = Snapshots(plan, plan.count(number)), None
    if plan.control:  # its law is known for all its paths: none may be stopped, and none is watched
        beside = Snapshots(replace(plan, radius=math.inf, inside=None), plan.count(number))
    run = run_block(plan, number, signals, seen, beside)
    if run.finished:
        return make_part(plan, seen, beside, signals, run)
    return make_part(seen.cut_short(), seen, None, signals, run)


def make_part(
    plan: EnsemblePlan, seen: Snapshots, beside: Snapshots | None, signals: Signals, run: Run
) -> Part:
    """What a recorded block leaves behind."""
    _lose_outside(plan, seen)
    states = np.swapaxes(seen.saved, 1, 2)
    kept = states if not seen.any_lost else states[:, ~seen.lost]
    moments, sketch = SampleMoments.of(kept), None
    if plan.quantiles:
        if signals.sketch is None:  # the first block, which runs alone
            signals.sketch = Quantiles.around(moments.center)
        sketch = signals.sketch.add(kept)
    return Part(
        states=states if plan.keep_states else None,
        moments=moments,
        controlled=None if seen.any_lost else _controlled(plan, kept, beside),
        sketch=sketch,
        observed=_observe(plan, kept),
        diverged_at=seen.diverged_at,
        exit_times=seen.exit_times,
        noise_seconds=run.noise_seconds,
        seconds=time.perf_counter() - run.began,
        plan=plan,
    )


def _lose_outside(plan: EnsemblePlan, seen: Snapshots) -> None:
    """Count as diverged what stands outside the objective's domain, as one more step would have shown."""
    objective, shown = plan.flow.objective, len(seen.saved) and plan.average is None
    if not shown or plan.flow.constant_hessian or trait(objective, "n_samples") is not None:
        return
    with np.errstate(all="ignore"):
        gradient = np.asarray(objective.gradient(seen.saved[-1][: plan.flow.dim].T))
    outside = ~np.isfinite(gradient).all(axis=-1) & ~seen.lost
    if outside.any():
        seen.lost |= outside
        seen.diverged_at[outside] = plan.time(plan.saved[-1])
        seen.any_lost = True


def _controlled(plan: EnsemblePlan, kept: np.ndarray, beside: Snapshots | None) -> ControlledMoments | None:
    """The moments by way of the control; None without one, or where it left all bounds."""
    control = plan.control
    if beside is None or control is None:
        return None
    if not (np.isfinite(beside.saved).all() and np.isfinite(control.covariance).all()):
        return None
    return ControlledMoments.of(
        kept,
        np.swapaxes(beside.saved, 1, 2),
        mean=control.mean,
        covariance=control.covariance,
        gaussian=control.gaussian,
    )


def _observe(plan: EnsemblePlan, kept: np.ndarray) -> Observed | None:
    """What is measured of the kept states (times, m, d); each observable is asked once per saved time."""
    if not plan.observables:
        return None
    found = np.empty((*kept.shape[:2], len(plan.observables)))
    # With the buffers kept too, the positions come first.
    states = kept[..., : plan.flow.dim].view()
    # A user's function looks at what is going to be saved, and must not change it.
    states.flags.writeable = False
    for i, (name, observe) in enumerate(plan.observables.items()):
        for time_, w in enumerate(states):
            values = _check.numbers_of(f"observables[{name!r}]", observe(w))
            if values.shape != w.shape[:1]:
                raise ValueError(
                    f"`observables[{name!r}]` must give one number per state; {len(w)} states gave shape "
                    f"{values.shape}."
                )
            found[time_, :, i] = values
    # What is not finite on some state has no mean; the others keep theirs.
    return Observed(
        SampleMoments.of(np.where(np.isfinite(found), found, 0.0)), np.any(~np.isfinite(found), axis=1)
    )
