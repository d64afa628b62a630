"""A plan's blocks on threads or on a device: gathering what they leave, in order, until it is enough."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._array import Backend
from .._progress import Bar, progress_bar
from .._streams import block_count
from .block import Part, Signals, simulated_block
from .control import ControlledMoments
from .fleet import Fleet
from .plan import EnsemblePlan
from .streaming import Quantiles, SampleMoments
from .threads import in_order

FIRST_GUESS = 2.0
"""A Gaussian variance has relative standard error sqrt(2 / n): the paths predicted before any is run, times
error^2.
"""

DEVICE_BYTES = 2**31
"""What paths that move together on a device may take there, roughly."""

ENOUGH = 500
"""Paths below which no standard error is believed, ..."""
DOUBTED, MARGIN = 2000, 1.3
"""... and below which it must be met with a margin: a control variate's is low by up to that (measured)."""


@dataclass(frozen=True)
class Sums:
    """What blocks add up to.

    Replaced as a whole, so that an interrupt finds either the sums before or those after.
    """

    count: int
    moments: SampleMoments
    controlled: ControlledMoments | None  # None: not asked for, or not to be trusted
    sketch: Quantiles | None
    observed: SampleMoments | None
    broken: np.ndarray | None  # (times, k): observables that were not finite on some state
    noise_seconds: float
    seconds: float

    @classmethod
    def of(cls, part: Part) -> Sums:
        observed, broken = part.observed or (None, None)
        return cls(
            len(part.diverged_at),
            part.moments,
            part.controlled,
            part.sketch,
            observed,
            broken,
            noise_seconds=part.noise_seconds,
            seconds=part.seconds,
        )

    def add(self, other: Sums) -> Sums:
        """The sums of both; the order matters for rounding."""

        def joined(name: str) -> Any:
            ours, theirs = getattr(self, name), getattr(other, name)
            return None if ours is None or theirs is None else ours.merge(theirs)

        return Sums(
            count=self.count + other.count,
            moments=self.moments.merge(other.moments),
            controlled=joined("controlled"),
            sketch=joined("sketch"),
            observed=joined("observed"),
            broken=None if self.broken is None or other.broken is None else self.broken | other.broken,
            noise_seconds=self.noise_seconds + other.noise_seconds,
            seconds=self.seconds + other.seconds,
        )


class Gathered:
    """What the finished blocks of a plan add up to.

    Attributes
    ----------
    states : array (times, paths, d)
        No path where states are not kept.
    diverged_at, exit_times : arrays (paths,)
    count : int
        Finished paths.
    interrupted : bool
    """

    def __init__(self, plan: EnsemblePlan, goal: float | None):
        self.goal, self.interrupted, self.closed, self.seconds = goal, False, False, 0.0
        self.predicted: list[int] = []
        self._prepare(plan)

    def _prepare(self, plan: EnsemblePlan) -> None:
        self.plan, self.sums = plan, None
        self._states, self._diverged_at, self._exit_times = self._room(plan.paths if self.goal is None else 0)

    sums: Sums | None

    def _room(self, paths: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        plan = self.plan
        states = np.empty(
            (len(plan.saved), paths if plan.keep_states else 0, plan.width_shown), dtype=plan.dtype
        )
        return states, np.empty(paths), np.empty(paths if plan.inside else 0)

    def _grow(self, paths: int) -> None:
        """Room for so many paths; without a goal all of it is made at once."""
        old, new = (self._states, self._diverged_at, self._exit_times), self._room(paths)
        if self.plan.keep_states:
            # Doubling (see `_take`) copies every path about once in all.
            new[0][:, : self.count] = old[0][:, : self.count]
        new[1][: self.count] = old[1][: self.count]
        if self.plan.inside:
            new[2][: self.count] = old[2][: self.count]
        self._states, self._diverged_at, self._exit_times = new

    @property
    def count(self) -> int:
        return 0 if self.sums is None else self.sums.count

    def add(self, part: Part) -> None:
        """Take one block's leavings; blocks must come in order, for sums round by it.

        A block that was stopped ends the ensemble, unless it is the very first: then it is all there is.
        """
        # Only a block that was stopped has another plan than the one it was given.
        if part.plan is not self.plan:
            self.closed = True
            if self.count == 0 and part.plan.steps:
                self._prepare(part.plan)
                self._take(part)
        elif not self.closed:
            self._take(part)

    def _take(self, part: Part) -> None:
        rows = slice(self.count, self.count + len(part.diverged_at))
        if rows.stop > len(self._diverged_at):
            self._grow(min(self.plan.paths, max(2 * self.count, rows.stop)))
        if part.states is not None:
            self._states[:, rows] = part.states
        self._diverged_at[rows] = part.diverged_at
        if self.plan.inside:
            self._exit_times[rows] = part.exit_times
        new = Sums.of(part)
        self.sums = new if self.sums is None else self.sums.add(new)

    @property
    def best(self) -> SampleMoments | ControlledMoments:
        """The sharpest moments that may be trusted: with the control if no path diverged, nor its own."""
        assert self.sums is not None
        return self.sums.moments if self.sums.controlled is None else self.sums.controlled

    @property
    def reduction(self) -> tuple[np.ndarray, np.ndarray]:
        """How many times the control cut the variances: of mean (times, d) and covariance (times, d, d)."""
        best = self.best
        if isinstance(best, ControlledMoments):
            return best.variance_reduction
        return np.ones(best.mean.shape), np.ones(best.covariance.shape)

    @property
    def error(self) -> float:
        """The largest relative standard error of a variance at the last time."""
        variances, errors = (np.diagonal(x[-1]) for x in (self.best.covariance, self.best.covariance_error))
        # Relative errors: an axis without variance is known exactly, not 0/0.
        exact = (variances == 0) & (errors == 0)  # an axis that no noise reaches
        if not (np.isfinite(errors).all() and ((variances > 0) | exact).all()):
            return math.inf
        return float(np.max(np.where(exact, 0.0, errors) / np.where(exact, 1.0, variances)))

    @property
    def met(self) -> bool:
        """Whether the wanted accuracy is reached, by paths enough to tell."""
        if self.goal is None or self.count < min(ENOUGH, self.plan.paths):
            return False
        return self.error * (MARGIN if self.count < DOUBTED else 1.0) <= self.goal

    @property
    def states(self) -> np.ndarray:
        kept = self._states[:, : self.count]
        # A view would keep all the room that was made for paths that never came.
        return kept if kept.shape[1] == self._states.shape[1] else kept.copy()

    @property
    def diverged_at(self) -> np.ndarray:
        return self._diverged_at[: self.count]

    @property
    def exit_times(self) -> np.ndarray:
        """First exits (paths,); a view of one nan where none are timed."""
        return self._exit_times[: self.count] if self.plan.inside else np.broadcast_to(np.nan, (self.count,))

    def quantiles(self) -> np.ndarray:
        """At the plan's levels, (times, levels, d)."""
        if self.sums is None or self.sums.sketch is None:
            return np.empty((len(self.plan.saved), 0, self.plan.width_shown))
        return self.sums.sketch.quantile(self.plan.quantiles)

    def observed(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Mean and standard error (times,) of every observable; nan where it was not finite on some state."""
        if self.sums is None or self.sums.observed is None or self.sums.broken is None:
            return {}
        mean, error = (
            np.where(self.sums.broken, np.nan, x)
            for x in (self.sums.observed.mean, self.sums.observed.standard_error)
        )
        return {name: (mean[:, i], error[:, i]) for i, name in enumerate(self.plan.observables)}

    def wanted(self) -> int:
        """Paths to have in all, as far as can be told now."""
        assert self.goal is not None
        if not self.count:
            return math.ceil(FIRST_GUESS / self.goal**2)
        if not math.isfinite(self.error):
            return self.count if self.count >= ENOUGH else ENOUGH
        # Errors fall with the square root of the paths; 5 % more spare most runs a further round.
        return max(ENOUGH, self.count + 1, math.ceil(1.05 * self.count * (self.error / self.goal) ** 2))

    def stats(self) -> dict[str, Any]:
        work, lost = self.count * self.plan.steps, int(np.isfinite(self.diverged_at).sum())
        found: dict[str, Any] = {
            "path_steps": work,
            "seconds": self.seconds,
            "path_steps_per_second": work / self.seconds if self.seconds else math.inf,
            "noise_share": self.sums.noise_seconds / self.sums.seconds
            if self.sums and self.sums.seconds
            else math.nan,
            "diverged": lost,
            "compiled": self.plan.compiled,
        }
        if self.goal is not None:
            found |= {
                "target_error": self.goal,
                "error": self.error,
                "predicted_paths": self.predicted,
                "target_met": self.met,
            }
        if self.interrupted:
            found["interrupted"] = True
        return found


def gather(
    plan: EnsemblePlan,
    backend: Backend,
    workers: int,
    goal: float | None,
    *,
    host_noise: bool,
    progress: bool,
) -> Gathered:
    """Run the plan's blocks, or as many of them as `goal` needs; after Ctrl-C with those that were finished.

    Raises KeyboardInterrupt itself if there is nothing to give.
    """
    gathered, began = Gathered(plan, goal), time.perf_counter()
    host = backend.name == "numpy"
    with progress_bar(progress, "paths", plan.blocks * plan.steps) as bar:
        signals = Signals(advance=bar.advance)
        block = functools.partial(simulated_block, plan, signals=signals)
        try:
            for blocks in _rounds(gathered, bar, first_alone=host and bool(plan.quantiles), told=progress):
                if host:
                    parts = in_order(block, blocks, workers, signals.stop)
                else:
                    parts = _device(plan, backend, blocks, signals, host_noise)
                for part in parts:
                    gathered.add(part)
        except KeyboardInterrupt:
            if not gathered.count:
                raise
            gathered.interrupted = True
    gathered.seconds = time.perf_counter() - began
    return gathered


def _rounds(gathered: Gathered, bar: Bar, *, first_alone: bool, told: bool) -> Iterator[range]:
    """Ranges of blocks to run next.

    All at once, or a first one to learn from and then the rest, or what the goal needs.
    """
    plan, done, end = gathered.plan, 0, 1
    if gathered.goal is None:
        # Quantile sketches merge only around one center, which the first block's mean is.
        if first_alone and plan.blocks > 1:
            yield range(1)
            done = 1
        yield range(done, plan.blocks)
        return
    while done < end:
        gathered.predicted.append(min(gathered.wanted(), plan.paths))
        bar.total = block_count(gathered.predicted[-1], plan.flow.dim) * plan.steps
        if told:
            print(_expected(gathered))
        yield range(done, end)
        done = end
        if not gathered.met and gathered.wanted() > gathered.count:
            end = min(plan.blocks, max(done + 1, block_count(gathered.wanted(), plan.flow.dim)))


def _expected(gathered: Gathered) -> str:
    """How many paths will be needed, before they are run."""
    paths, said = gathered.predicted[-1], ""
    if gathered.sums:
        rate = gathered.sums.seconds / gathered.count
        said = f", about {rate * max(0, paths - gathered.count):.3g} s of one core"
    return f"To reach {gathered.goal:g}: {paths} paths{said}."


def _device(
    plan: EnsemblePlan, backend: Backend, blocks: range, signals: Signals, host_noise: bool
) -> Iterator[Part]:
    """Fleets of as many blocks as fit in memory; after an interrupt those that were finished stay."""
    # States and steps' intermediates, Hessians among them, and the noise that is drawn ahead.
    per_path = 8.0 * (
        16 * plan.size
        + 8 * plan.flow.dim**2
        + plan.normals * (plan.chunk(plan.width(blocks[-1])) if host_noise else 2)
    )
    most, start = max(1.0, DEVICE_BYTES / per_path), blocks.start
    while start < blocks.stop:
        stop = start + 1
        while stop < blocks.stop and plan.rows(stop).stop - plan.rows(start).start <= most:
            stop += 1
        yield from Fleet(plan, backend, range(start, stop), host_noise=host_noise).run(signals)
        start = stop
