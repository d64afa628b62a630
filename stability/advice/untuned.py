"""What decides a step where nobody chose a number: for `minimize` and for the optimizer of PyTorch."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np

from ..linear.modes import mode_limits

NOISE_MARGIN = 4.0
"""Standard deviations over batches that a kept eigenvalue's size is raised by."""
MEMORY = 0.5
"""Share of the tail's scale that outlives a refresh."""
FLOOR = 1e-4
"""Of the largest size: the least that anything counts with."""
SEEN = 1e-6
"""Of the largest eigenvalue: what is smaller is rounding, in float32 too."""
MOMENTUM = 0.9
LOST = 0.1
"""Share of the way down that may be lost before a run goes back."""
WATCHED, WATCHED_SAMPLES = 10, 640
"""Iterations and samples that the watched loss is smoothed over, at least."""
HOPELESS = 1e3
"""Times the first loss: no smoothing is waited for."""

SHORTEST, LONGEST, LENGTHEN = 10, 100, 1.5
"""Steps between refreshes: at first, at most, and how these grow where curvature goes on to be right."""
WORK = 0.5
"""Of gradients' work: what refreshes after the first may cost."""
SPARSE = 16
"""Steps between looks at a step's own batch, once a refresh is that old; before, at ages 1, 2, 4, 8."""
POOR, GOOD = 0.3, 0.6
"""Shares of the slope's decrease: what a step should bring on its own batch, and from where it is trusted."""
SHORTEN, CUT, REGAIN = 0.7, 0.25, 1.2
"""What the trusted share of a step is multiplied by: after a poor step, after a rise, after a good step."""
LEAST = 1e-3
"""The smallest share."""
RECENT, SPIKE, TELLING = 20, 2.0, 5
"""A loss beyond twice all of so many before it is a spike, once there are a few."""


class Course(StrEnum):
    """What a batch's loss says of the run."""

    UNTOLD = ""
    BEST = "best"  # the iterate is the best so far
    LOST = "lost"  # the run goes back to the best one


def floor(sizes: np.ndarray, eigenvalues: np.ndarray, before: float) -> float:
    """The least size that anything counts with: what a small batch does not show is no flatness.

    Parameters
    ----------
    sizes, eigenvalues : arrays (r,)
        With and without the margin of noise, largest first.
    before : float
        At the last refresh.
    """
    largest = abs(float(eigenvalues[0]))
    # Beyond the rank of a batch lies what it does not show.
    seen = np.abs(eigenvalues) > SEEN * largest
    last = float(sizes[seen][-1]) if seen.any() else 0.0
    return max(last, MEMORY * before, FLOOR * largest, float(np.finfo(float).tiny))


def step_length(
    turned: np.ndarray, spread: np.ndarray, batch: float, beyond: float = 0.0, *, most: float
) -> float:
    """``min(most / (1 + d_r / b), limit)``: how far a step on noisy curvature and gradients may go.

    `limit` is the mean-square limit of a mode with ``P H = 1`` and the relative noise ``rho`` as measured,
    but no larger than Gaussian inputs would have, ``rho^2 = 2 / b``: noise in one direction excites all of
    them, and a gradient of ``P H = I`` on ``d`` directions has variance ``rho^2 (d + 1) / 2``.

    Parameters
    ----------
    turned : array (r,)
        ``phi_i |lam_i|``: how far a unit of step undoes a mode; their sum is ``d_r``.
    spread : array (r,)
        ``phi_i s_i`` over gradient batches; nan where not known.
    batch : float
        Samples; inf where there is no chance in it.
    beyond : float
        ``tr P H`` off the kept modes, as far as it counts.
    """
    known = np.isfinite(spread)
    least = np.finfo(float).tiny
    relative = np.sum(spread[known] ** 2) / max(np.sum(turned[known] ** 2), least)
    noise = min(0.5 * relative, 1 / batch) * (np.sum(turned) + beyond + 1)
    limit = float(mode_limits(np.ones(1), np.ones(1), gradient=noise, momentum=MOMENTUM)[0])
    return min(most / (1 + float(np.sum(turned)) / batch), limit)


@dataclass
class Guard:
    """Sees from batch losses that a run is being lost.

    Smoothed, they have then doubled, and risen by a tenth of the way down.
    """

    start: float = math.nan
    best: float = math.inf
    smooth: float = 0.0
    count: int = 0  # of losses since the beginning, or since it last spoke

    def watch(self, loss: float, batch: float) -> Course:
        """Whether the iterate is the best so far, or the run is lost and goes back to that."""
        memory = max(WATCHED, int(WATCHED_SAMPLES // batch))
        if math.isnan(self.start):
            self.start = loss
        self.count += 1
        self.smooth += (loss - self.smooth) / min(self.count, memory)
        if (
            not math.isfinite(loss)
            or loss > HOPELESS * abs(self.start)
            or (self.count >= memory and self.smooth > self._bound)
        ):
            # Nothing of a loss that is no number may stay in the mean.
            self.count, self.smooth = 0, 0.0
            return Course.LOST
        if self.count < memory or self.smooth >= self.best:
            return Course.UNTOLD
        self.best = self.smooth
        return Course.BEST

    @property
    def _bound(self) -> float:
        return self.best + max(LOST * (self.start - self.best), abs(self.best))


@dataclass
class Trust:
    """How much of a measured step is taken, and for how long measured curvature is believed.

    Both are learned from steps themselves: what a step brought on its own batch, beside what slope and
    curvature said. A spike among losses, and a loss that leaves the best one so far, count as bad steps.

    Attributes
    ----------
    share : float
        Of every step.
    every : int
        Steps between refreshes.
    renew : bool
        Whether curvature was seen to be wrong.
    gradient_work, hessian_work : float
        Passes over single samples since the first refresh.
    recent : list of float
        The last losses.
    """

    share: float = 1.0
    every: int = SHORTEST
    renew: bool = False
    gradient_work: float = 0.0
    hessian_work: float = 0.0
    recent: list[float] = field(default_factory=list)
    guard: Guard = field(default_factory=Guard)
    said: str = ""  # of the last loss, a `Course`

    def hear(self, loss: float, batch: float) -> Course:
        """What a batch's loss says, before the step."""
        said = self.guard.watch(loss, batch)
        spike = len(self.recent) > TELLING and loss > SPIKE * max(self.recent)
        self.recent = [*self.recent[1 - RECENT :], loss]
        if said is Course.LOST:
            self.recent = []
        if said is Course.LOST or spike:
            self._distrust(0.5)
        self.said = said.value
        return said

    def due(self, age: int) -> bool:
        """Whether curvature of this age is to be renewed."""
        return (self.renew or age >= self.every) and self.hessian_work <= WORK * self.gradient_work

    def renewed(self, work: float) -> None:
        """Curvature has been found anew; the first time is an investment."""
        self.renew = False
        self.hessian_work += work

    def looks(self, age: int) -> bool:
        """Whether the step that makes curvature so old is looked at on its own batch."""
        return age & (age - 1) == 0 or age % SPARSE == 0

    def judge(self, gained: float, slope: float, curved: float, age: int) -> bool:
        """Whether a step is to be taken back.

        Parameters
        ----------
        gained : float
            Loss of the batch after the step less that before.
        slope, curved : float
            Of that step: ``<g, s>`` and ``<s, B s> / 2`` for the curvature B that was believed.
        age : int
            Of the curvature.
        """
        uphill = slope >= 0  # momentum may lead there, by the noise of this batch
        poor = gained > slope + max(2 * curved, slope) if uphill else gained > POOR * slope
        if math.isfinite(gained) and not poor:
            if not uphill and gained < GOOD * slope:
                self.share = min(1.0, REGAIN * self.share)
            if 3 * age > self.every and abs(gained - slope) <= 3 * curved:
                self.every = min(LONGEST, int(LENGTHEN * self.every))
            return False
        rose = not gained <= abs(slope)
        self._distrust(CUT if rose else SHORTEN, renew=rose or age > TELLING)
        return rose

    def _distrust(self, factor: float, renew: bool = True) -> None:
        self.share, self.every = max(LEAST, factor * self.share), SHORTEST
        self.renew = self.renew or renew

    def state(self) -> dict[str, Any]:
        """Numbers and lists of numbers, to be saved."""
        return asdict(self)

    @classmethod
    def of(cls, state: dict[str, Any]) -> Trust:
        """From what `state` returned."""
        return cls(**{**state, "guard": Guard(**state["guard"])})
