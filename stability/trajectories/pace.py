"""Which flow moves a path when: one throughout, or with a schedule one for each of its steps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np

from .. import _check
from ..ensembles.clock import Schedule
from ..flow import Flow

MAX_STEPS = 100_000
"""Of a chain."""
MAX_STRETCHES = 1_000
"""Of different steps in continuous time: some hundredths of a second's work each."""


class Pace:
    """The flows of a path, by the time.

    Parameters
    ----------
    flow : Flow
    schedule : Schedule or None
        Of the flow's steps, where it has one.
    dt : float
        A chain's time step, 0 in continuous time; with a schedule nan, the steps being its own.
    """

    def __init__(self, flow: Flow, schedule: Schedule | None, dt: float):
        self.schedule, self.dt = schedule, dt
        self.flow = flow
        self._paced: dict[float, Flow] = {}
        self.first = flow if schedule is None else self._at_step(float(schedule.steps[0]))

    def _at_step(self, step: float) -> Flow:
        if step not in self._paced:
            self._paced[step] = self.flow.at_step(step)
        return self._paced[step]

    @property
    def step(self) -> float:
        """The flow's step; nan where it is a schedule."""
        return self.first.step if self.schedule is None else math.nan

    def before(self, t: float) -> Flow:
        """The flow that has led to the time t, or that begins at 0."""
        if self.schedule is None:
            return self.first
        last = int(np.searchsorted(self.schedule.times[1:], t * (1 - 1e-12)))
        return self._at_step(float(self.schedule.steps[min(last, len(self.schedule.steps) - 1)]))

    def chain(self, t_end: float) -> Iterator[tuple[Flow, float, float]]:
        """For each step of a chain the flow, the time step, and the time after it."""
        if self.schedule is None:
            for k in range(round(t_end / self.dt)):
                yield self.first, self.dt, (k + 1) * self.dt
            return
        for step, after in zip(self.schedule.steps.tolist(), self.schedule.times[1:].tolist(), strict=True):
            yield self._at_step(step), step, after

    def stretches(self, t_end: float) -> Iterator[tuple[Flow, float]]:
        """In continuous time: the flows in turn, and until when. Steps that are alike are one stretch."""
        if self.schedule is None:
            yield self.first, t_end
            return
        steps, done = self.schedule.steps, 0
        changes = 1 + int(np.count_nonzero(np.diff(steps)))
        if changes > MAX_STRETCHES:
            raise ValueError(
                f"The schedule's step changes {changes} times until `t_end` = {t_end:g}; in continuous time "
                f"{MAX_STRETCHES} stretches of one step are the most. Use time='chain'."
            )
        for step, run in itertools.groupby(steps.tolist()):
            done += len(list(run))
            yield self._at_step(step), float(self.schedule.times[done])

    def numbers(self, t_end: float) -> int:
        """How many steps of a chain lead to `t_end`."""
        advice = " Use time='continuous'."
        if self.schedule is None:
            return _check.whole_steps("t_end", t_end, self.dt, most=MAX_STEPS, advice=advice)
        count = len(self.schedule.steps)
        if count > MAX_STEPS:
            raise ValueError(
                f"`t_end` = {t_end:g} is {count} iterations of the schedule away; {MAX_STEPS} are the most. "
                "Take a smaller t_end."
            )
        return count

    def saved(self, t_end: float, times: np.ndarray) -> np.ndarray:
        """Times of a user's, those after steps of a chain where it is one."""
        if self.schedule is None or not self.dt:
            return _check.saved_times("save", times, self.dt, t_end)
        return self.schedule.times[
            self.schedule.numbers("save", _check.saved_times("save", times, 0.0, t_end))
        ]

    def after(self, counts: np.ndarray) -> np.ndarray:
        """The times after so many steps of a chain."""
        return counts * self.dt if self.schedule is None else self.schedule.times[counts]
