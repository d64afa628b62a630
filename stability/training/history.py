"""What an optimizer run leaves behind: losses against work, the curvature it saw, and how it ended."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np

from .._display import Grid, number
from .._frames import Framed
from .._saving import Result


class End(StrEnum):
    """How a run came to its end: the words that its status begins with."""

    DONE = "done"
    STOPPED = "ended by the callback"
    GAVE_UP = "ended by SciPy"
    INTERRUPTED = "interrupted"
    DIVERGED = "diverged"
    LOST = "lost"  # the untuned rule's, whose start is returned


class Ending(NamedTuple):
    """How a run came to its end, for programs and for people."""

    end: End
    status: str


@dataclass(frozen=True)
class History(Result, Framed):
    """A run of `minimize`.

    Work is counted in *sweeps*: a gradient passes once over its batch, a Hessian product twice over the
    Hessian batch, a line search's value half; one sweep is one pass over all samples.

    Attributes
    ----------
    losses : array (iterations,)
        Of the gradient batch, before the step; with SciPy's optimizers of all samples, after it.
    sweeps, seconds : arrays (iterations,)
        Work and wall time when the step had been taken.
    steps : array (iterations,)
        The step length; 0 where the step was not taken, nan where it is not known: SciPy's optimizers keep
        theirs to themselves.
    final : array (d,)
        The last iterate, or the mean of the last ones where the run averages: with ``step="auto"`` of the
        last fifth. ``st.advise(F, run.final, method=..., step=..., batch=...)`` asks there.
    loss : float
        The whole objective there (not charged).
    states : array (kept, d)
        Iterates kept by ``keep_every``, and their iterations in `kept_at`.
    eigenvalues : array (refreshes, rank)
        Kept Hessian eigenvalues, largest magnitude first, at each refresh; rank 0 with a whole Hessian.
    noise : array (refreshes, rank)
        Standard deviation of their Rayleigh quotients due to the gradient batch's sampling, by the spread of
        the Hessian batch's four parts, which do not show what rare samples carry (nan: not known).
    step_limits : array (refreshes,)
        The largest mean-square-stable step at each, of all modes together, with the metric as it stood there
        and the run's momentum and weight decay. Exact on regression of moderate size. Else, of steps on all
        samples, a lower bound at most 10 % below the limit and above it with a probability of 0.05
        (Kuczynski and Wozniakowski). inf where nothing bounds it; nan where it is not known: it was not asked
        for (``limits=True``), batch noise would have to be estimated, which `st.advise` does, or P is not
        positive, as Newton's at a saddle (``stats["limit_unknown"]`` says which). None of methods that look
        at no curvature (SGD, Adam and the other metrics).
    refreshed_at : array (refreshes,)
        When, in sweeps.
    skipped : array of int
        Iterations whose step would not have been finite: it was not taken.
    status : str
        ``"done"``, or why the run ended early, in words; programs ask `end`, `done`, `diverged`, `lost`.
    stats : dict
        Gradients, Hessian products, sweeps, seconds, and what a rule decided by itself.
    provenance : dict
    end : End
        The kind of ending.
    held_back : array (checks, 2)
        Sweeps, and the loss then of samples held back, where there were some (not charged).
    advice : dict of arrays (asked,)
        What `st.advise` said of the iterate after each of ``advise_every`` iterations: `iteration`, `sweeps`,
        the `step` just taken, and by their names there `step_limit`, `deterministic_limit`, `share`,
        `noise_floor`, `critical_batch`, `sharpness`, `preconditioned_sharpness`, `batch_sharpness` and
        `noise_exponent`; nan where not known, and ``stats["advice_unknown"]`` says why there is no limit.
        ``pandas.DataFrame(run.advice)`` is its table. Empty where nothing was asked.
    """

    losses: np.ndarray
    sweeps: np.ndarray
    seconds: np.ndarray
    steps: np.ndarray
    final: np.ndarray
    loss: float
    states: np.ndarray
    kept_at: np.ndarray
    eigenvalues: np.ndarray
    noise: np.ndarray
    step_limits: np.ndarray
    refreshed_at: np.ndarray
    skipped: np.ndarray
    status: str
    stats: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    end: End = End.DONE
    held_back: np.ndarray = field(default_factory=lambda: np.empty((0, 2)))
    advice: Mapping[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def _restored(cls, **values: Any) -> Any:
        # Histories were once saved with their status alone, which begins with what `end` is now.
        told = next((end for end in End if str(values.get("status")).startswith(end)), End.DONE)
        return cls(**values | {"end": End(values.get("end", told))})

    @property
    def done(self) -> bool:
        """Whether the run went as far as it was asked to, wherever the loss went."""
        return self.end is End.DONE

    @property
    def diverged(self) -> bool:
        """Whether nothing finite was left to do, or the loss ended far above its start."""
        return self.end is End.DIVERGED

    @property
    def lost(self) -> bool:
        """Whether the untuned rule found nothing better than the start, which is returned."""
        return self.end is End.LOST

    @property
    def refreshes(self) -> np.ndarray:
        """The iterations that began with renewed curvature (refreshes,).

        Their work jumps by that of the refresh: a line across it would tell of steps that nobody took. Past
        the end where a run was interrupted between the refresh and its step.
        """
        return np.searchsorted(self.sweeps, self.refreshed_at)

    @property
    def times(self) -> np.ndarray:
        """The theory's ``t`` after each iteration (iterations,), the sum of steps; nan where not known."""
        return np.cumsum(self.steps)

    @property
    def by_scipy(self) -> bool:
        """Whether an optimizer of SciPy's ran, whose steps are not known."""
        return len(self.steps) > 0 and bool(np.isnan(self.steps).all())

    def _columns(self) -> Mapping[str, Any]:
        names = {"sweeps": self.sweeps, "seconds": self.seconds, "loss": self.losses, "step": self.steps}
        return {"iteration": np.arange(1, len(self.losses) + 1)} | names

    def _page(self) -> Iterator[str | Grid]:
        about = self.provenance
        yield f"{about.get('method', 'optimizer')} on {about.get('objective', 'an objective')}: {self.status}"
        spent, time = (
            self.stats.get(name, column[-1] if len(column) else 0.0)
            for name, column in (("sweeps", self.sweeps), ("seconds", self.seconds))
        )
        yield (
            f"{len(self.losses)} iterations, {spent:.4g} sweeps ({self.stats.get('gradients', 0)} gradients, "
            f"{self.stats.get('hessian_products', 0)} Hessian products), {time:.3g} s"
        )
        first = "loss after the first iteration" if self.by_scipy else "loss"
        came = f"{self.losses[0]:.5g} -> " if len(self.losses) else ""
        yield f"{first if came else 'loss'} {came}{self.loss:.5g}"
        if len(self.steps) > 1:
            yield self._course()
        if self.eigenvalues.size:
            last = self.eigenvalues[-1]
            least = f"lambda_{len(last)} = {last[-1]:.3g}, " if len(last) > 1 else ""
            yield (
                f"curvature seen last: lambda_1 = {last[0]:.3g}, {least}"
                f"{int(np.sum(last < 0))} negative; "
                f"largest step of the run {np.max(self.steps, initial=0.0):.3g}, {self._limit}"
            )
        if self.advice:
            yield self._advised
        if len(self.skipped):
            yield (
                f"{len(self.skipped)} steps were not finite and not taken, the first at iteration "
                f"{self.skipped[0]}"
            )

    @property
    def _limit(self) -> str:
        """What was predicted last of the largest stable step."""
        known, why = self.step_limits[~np.isnan(self.step_limits)], self.stats.get("limit_unknown")
        if not len(known):
            return f"largest stable one not known{f': {why}' if why else ''}"
        return f"last predicted mean-square limit {known[-1]:.3g}"

    @property
    def _advised(self) -> str:
        """What was advised last."""
        last = {name: column[-1] for name, column in self.advice.items()}
        if np.isnan(last["step_limit"]):
            return f"advised after iteration {last['iteration']}: the largest stable step is not known"
        return (
            f"advised after iteration {last['iteration']}: step {last['step']:.3g} is {last['share']:.2g} of "
            f"the largest stable one, {number(last['step_limit'], '.3g')}; noise floor "
            f"{number(last['noise_floor'], '.3g')}, critical batch {number(last['critical_batch'], '.3g')}"
        )

    def _course(self) -> Grid:
        """A few iterations from the first to the last."""
        columns = (self.sweeps, self.losses, self.steps)
        shown = np.unique(np.linspace(0, min(map(len, columns)) - 1, 5).round().astype(int))
        rows = [(i + 1, *(column[i] for column in columns)) for i in shown]
        loss = "loss" if self.by_scipy else "batch loss"  # above stands that of all samples at the end
        return Grid([("iteration", "g"), ("sweeps", ".4g"), (loss, ".5g"), ("step", ".3g")], rows)
