"""Running a plan's blocks on threads or on a device, and gathering what they leave, in order, until there is enough."""

from __future__ import annotations

import functools
import math
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice, takewhile
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from ._array import Backend, block_count
from ._control import ControlledMoments
from ._engine import Fleet, Part, Plan, Signals, run_block
from ._streaming import Moments, Quantiles

FIRST_GUESS = 2.0
"""A Gaussian variance has relative standard error sqrt(2 / n): the paths predicted before any is run, times error^2."""

ENOUGH = 500
"""Paths below which no standard error is believed, ..."""
DOUBTED, MARGIN = 2000, 1.3
"""... and below which it must be met with a margin: a control variate's is low by up to that (measured)."""


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

    def __init__(self, plan: Plan, goal: float | None):
        self.goal, self.interrupted, self.closed, self.seconds = goal, False, False, 0.0
        self.noise_seconds = self.block_seconds = 0.0
        self.moments: Moments | None = None
        self.controlled: ControlledMoments | None = None
        self.sketch: Quantiles | None = None
        self.observed: Moments | None = None
        self.predicted: list[int] = []
        self._prepare(plan)

    def _prepare(self, plan: Plan) -> None:
        self.plan, self.count, self.uncontrolled = plan, 0, plan.control is None
        self._states = np.empty((len(plan.saved), plan.paths if plan.keep_states else 0, plan.flow.dim), dtype=plan.dtype)
        self._diverged_at = np.empty(plan.paths)
        self._exit_times = np.empty(plan.paths if plan.inside else 0)

    def add(self, part: Part) -> None:
        """Take one block's leavings; blocks must come in order, for sums round by it.

        A block that was stopped ends the ensemble, unless it is the very first: then it is all there is.
        """
        if part.plan is not self.plan:
            self.closed = True
            if self.count == 0 and part.plan.steps:
                self._prepare(part.plan)
                self._take(part)
        elif not self.closed:
            self._take(part)

    def _take(self, part: Part) -> None:
        rows = slice(self.count, self.count + len(part.diverged_at))
        if part.states is not None:
            self._states[:, rows] = part.states
        self._diverged_at[rows] = part.diverged_at
        if self.plan.inside:
            self._exit_times[rows] = part.exit_times
        self.count = rows.stop
        self.moments = part.moments if self.moments is None else self.moments.merge(part.moments)
        if part.controlled is None:
            self.uncontrolled = True
        else:
            self.controlled = part.controlled if self.controlled is None else self.controlled.merge(part.controlled)
        if part.observed is not None:
            self.observed = part.observed if self.observed is None else self.observed.merge(part.observed)
        if part.sketch is not None:
            self.sketch = part.sketch if self.sketch is None else self.sketch.merge(part.sketch)
        self.noise_seconds += part.noise_seconds
        self.block_seconds += part.seconds

    @property
    def best(self) -> Moments | ControlledMoments:
        """The sharpest moments that may be trusted: with the control variate only if no path diverged."""
        assert self.moments is not None
        return self.moments if self.uncontrolled or self.controlled is None else self.controlled

    @property
    def reduction(self) -> tuple[np.ndarray, np.ndarray]:
        """Factors by which the control variate cut the variances of mean (times, d) and covariance (times, d, d)."""
        best = self.best
        if isinstance(best, ControlledMoments):
            return best.variance_reduction
        return np.ones(best.mean.shape), np.ones(best.covariance.shape)

    @property
    def error(self) -> float:
        """The largest relative standard error of a variance at the last time."""
        variances, errors = (np.diagonal(x[-1]) for x in (self.best.covariance, self.best.covariance_error))
        if not np.isfinite(variances).all():
            return math.inf
        return float(np.max(np.where(variances > 0, errors, 0.0) / np.where(variances > 0, variances, 1.0)))

    @property
    def met(self) -> bool:
        """Whether the wanted accuracy is reached, by paths enough to tell."""
        if self.goal is None or self.count < min(ENOUGH, self.plan.paths):
            return False
        return self.error * (MARGIN if self.count < DOUBTED else 1.0) <= self.goal

    @property
    def states(self) -> np.ndarray:
        kept = self._states[:, : self.count]
        return kept if kept.shape[1] == self._states.shape[1] else kept.copy()

    @property
    def diverged_at(self) -> np.ndarray:
        return self._diverged_at[: self.count]

    @property
    def exit_times(self) -> np.ndarray:
        """First exits (paths,); a view of one nan where none are timed."""
        return self._exit_times[: self.count] if self.plan.inside else np.broadcast_to(np.nan, (self.count,))

    def quantiles(self) -> np.ndarray:
        """At the plan's levels, (times, levels, d); exact where all states were kept and no path diverged."""
        if self.sketch is None:
            return np.empty((len(self.plan.saved), 0, self.plan.flow.dim))
        return self.sketch.quantile(self.plan.quantiles)

    def wanted(self) -> int:
        """Paths to have in all, as far as can be told now."""
        assert self.goal is not None
        if not self.count:
            return math.ceil(FIRST_GUESS / self.goal**2)
        if not math.isfinite(self.error):
            return self.plan.paths
        return max(ENOUGH, self.count + 1, math.ceil(1.05 * self.count * (self.error / self.goal) ** 2))

    def stats(self) -> dict[str, Any]:
        work, lost = self.count * self.plan.steps, int(np.isfinite(self.diverged_at).sum())
        found: dict[str, Any] = {
            "path_steps": work,
            "seconds": self.seconds,
            "path_steps_per_second": work / self.seconds if self.seconds else math.inf,
            "noise_share": self.noise_seconds / self.block_seconds if self.block_seconds else math.nan,
            "diverged": lost,
            "compiled": self.plan.compiled,
        }
        if self.goal is not None:
            found |= {"target_error": self.goal, "error": self.error, "predicted_paths": self.predicted, "target_met": self.met}
        if self.interrupted:
            found["interrupted"] = True
        return found


def gather(plan: Plan, backend: Backend, workers: int, goal: float | None, *, host_noise: bool, progress: bool) -> Gathered:
    """Run the plan's blocks, or as many of them as `goal` needs; after Ctrl-C with those that were finished.

    Raises KeyboardInterrupt itself if there is nothing to give.
    """
    gathered, began = Gathered(plan, goal), time.perf_counter()
    with _bar(progress, plan) as bar:
        signals = Signals(advance=bar.advance)
        try:
            for blocks in _rounds(gathered, bar):
                for part in _host(plan, blocks, workers, signals) if backend.name == "numpy" else _device(plan, backend, blocks, signals, host_noise):
                    gathered.add(part)
        except KeyboardInterrupt:
            if not gathered.count:
                raise
            gathered.interrupted = True
    gathered.seconds = time.perf_counter() - began
    return gathered


def _rounds(gathered: Gathered, bar: _Bar) -> Iterator[range]:
    """Ranges of blocks to run next: all at once, or a first one to learn from and then what the goal needs."""
    plan, done = gathered.plan, 0
    if gathered.goal is None and not plan.quantiles:
        yield range(plan.blocks)
        return
    if gathered.goal is None:
        yield range(1)
        if plan.blocks > 1:
            yield range(1, plan.blocks)
        return
    end = 1
    while done < end:
        gathered.predicted.append(min(gathered.wanted(), plan.paths))
        bar.expect(gathered.predicted[-1], gathered)
        yield range(done, end)
        done = end
        if not gathered.met:
            end = min(plan.blocks, max(done + 1, block_count(gathered.wanted(), plan.flow.dim)))


def _host(plan: Plan, blocks: range, workers: int, signals: Signals) -> Iterator[Part]:
    """The blocks' parts, in order. After an interrupt what was done comes first, then it is raised again."""
    # Our own threads share the cores: BLAS threads under them would only compete.
    with _blas("scipy.linalg" in sys.modules).limit(limits=1), ThreadPoolExecutor(max_workers=min(workers, len(blocks))) as pool:
        waiting, running = iter(blocks), deque[Future[Part]]()
        try:
            for _ in blocks:
                # Few at a time: a block's states would otherwise wait in memory for their turn.
                running += _submitted(pool, plan, list(islice(waiting, 4 * workers - len(running))), signals)
                running[0].result()
                yield running.popleft().result()
        except BaseException as error:  # Ctrl-C too: let the running blocks end at their next step
            signals.stop.set()
            for future in running:
                future.cancel()
            pool.shutdown(wait=True)
            if isinstance(error, KeyboardInterrupt):
                yield from (future.result() for future in takewhile(lambda f: not f.cancelled() and f.exception() is None, running))
            raise


@functools.cache
def _blas(with_scipy: bool) -> ThreadpoolController:
    """The BLAS libraries that are loaded; SciPy brings its own. Looking for them takes milliseconds."""
    return ThreadpoolController()


def _submitted(pool: ThreadPoolExecutor, plan: Plan, blocks: list[int], signals: Signals) -> list[Future[Part]]:
    """The blocks' futures, in order; the last, which are the largest, start first, so that threads end together."""
    return [pool.submit(run_block, plan, number, signals) for number in reversed(blocks)][::-1]


def _device(plan: Plan, backend: Backend, blocks: range, signals: Signals, host_noise: bool) -> Iterator[Part]:
    yield from Fleet(plan, backend, blocks, host_noise=host_noise).run(signals)


class _Bar:
    """A progress bar over blocks and steps, or nothing."""

    def __init__(self, plan: Plan, shown: bool):
        self.plan, self.lock, self.done, self.drawn = plan, threading.Lock(), 0, 0
        self.total = plan.blocks * plan.steps
        self.bar: Any = None
        if shown:
            from rich.progress import Progress

            self.bar = Progress(transient=True)
            self.task = self.bar.add_task("paths", total=self.total)

    def advance(self, steps: int) -> None:
        """One block took `steps` steps."""
        if self.bar is None:
            return
        with self.lock:
            self.done += steps
            if self.done - self.drawn >= self.total / 200:
                self.bar.update(self.task, completed=self.done)
                self.drawn = self.done

    def expect(self, paths: int, gathered: Gathered) -> None:
        """Say how many paths will be needed, before they are run."""
        if self.bar is None:
            return
        self.total = block_count(paths, self.plan.flow.dim) * self.plan.steps
        rate = gathered.block_seconds / gathered.count if gathered.count else math.nan
        cost = "" if math.isnan(rate) else f", about {rate * max(0, paths - gathered.count):.3g} s of one core"
        self.bar.console.print(f"To reach {gathered.goal:g}: {paths} paths{cost}.")
        self.bar.update(self.task, total=self.total)


@contextmanager
def _bar(shown: bool, plan: Plan) -> Iterator[_Bar]:
    bar = _Bar(plan, shown)
    if bar.bar is None:
        yield bar
    else:
        with bar.bar:
            yield bar
