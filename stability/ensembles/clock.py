"""Time, where a flow's step is a schedule: the sum of the steps."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import _check
from ..flow import Flow

NEAR = 1e-9
"""Relative: times so close to one of a schedule's are meant to be it."""
MOST = 10**7
"""Iterations that a schedule is followed for: a few seconds of asking a function."""


@dataclass(frozen=True)
class Schedule:
    """The steps of a flow that has one for each iteration, and the times after each time step.

    Attributes
    ----------
    steps : array (iterations,)
    halvings : int
        Of an iteration's time: 2 to this power are its time steps.
    """

    steps: np.ndarray
    halvings: int = 0

    def at(self, done: int) -> tuple[float, float]:
        """The flow's step and the time step after so many time steps."""
        step = float(self.steps[done >> self.halvings])
        return step, step / 2**self.halvings

    @functools.cached_property
    def times(self) -> np.ndarray:
        """Before the first and after each time step, (time steps + 1,)."""
        count = 2**self.halvings
        return np.concatenate([[0.0], np.cumsum(np.repeat(self.steps / count, count))])

    def numbers(self, name: str, times: np.ndarray) -> np.ndarray:
        """The time steps after which these times come; ValueError for one that none ends at."""
        after = np.searchsorted(self.times, times)
        near = np.clip(np.stack([after - 1, after]), 0, len(self.times) - 1)
        gaps = np.abs(self.times[near] - times)
        chosen = np.where(gaps[0] <= gaps[1], near[0], near[1])
        apart = np.flatnonzero(np.min(gaps, axis=0) > NEAR * np.maximum(times, self.times[1]))
        if len(apart):
            k = apart[0]
            low, high = self.times[near[:, k]]
            raise ValueError(
                f"`{name}` must be sums of the schedule's first steps; got {times[k]:.10g}. The nearest are "
                f"{low:.12g} and {high:.12g}."
            )
        return chosen


def scheduled(flow: Flow, t_end: float, halvings: int) -> Schedule:
    """The schedule of a flow up to a time, which must be the sum of its first steps."""
    steps: list[float] = []
    clock = 0.0
    for step in _steps(flow):
        if clock >= t_end * (1 - NEAR):
            break
        if not (step > 0 and math.isfinite(step)):
            until = f", or end there: t_end={clock:.12g}" if steps else ""
            raise ValueError(
                f"`step` must be a finite number > 0 at every iteration; got {step:g} at iteration "
                f"{len(steps)}, counted from 0. Keep it above 0{until}."
            )
        if len(steps) == MOST:
            raise ValueError(
                f"`t_end` = {t_end:g} is more than {MOST:.0e} iterations away: after so many the schedule's "
                f"t is {clock:.4g}. Take a smaller t_end or longer steps."
            )
        steps.append(step)
        clock += step
    if clock < t_end * (1 - NEAR):
        raise ValueError(
            f"`step` must have a step for every iteration to `t_end` = {t_end:g}; its {len(steps)} end at "
            f"{clock:.12g}. Give more of them, or t_end={clock:.12g}."
        )
    found = Schedule(np.array(steps), halvings)
    found.numbers("t_end", np.array([t_end]))
    return found


def _steps(flow: Flow) -> Iterator[float]:
    """A flow's steps as its schedule gives them; nan for what is no number."""
    schedule: Any = flow.schedule
    if not callable(schedule):
        yield from schedule.tolist()
        return
    for k in range(MOST + 2):
        step = _check.number(schedule(k))
        yield float(step) if isinstance(step, (int, float)) else math.nan
