"""The untuned rule: everything from the curvature and its sampling noise, as measured."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from .._streams import stream
from ..advice.untuned import NOISE_MARGIN, Guard, floor, step_length
from ..linear.kept import KeptModes
from ..lowrank.result import LowRank
from ..methods.method import Method
from .options import Prospect
from .rules import WORTH, Course, Curvature, LowRankRule

RANKS = (5, 60)
# A cold start of rank r on 3 r samples costs 12 r^2 passes: with r = sqrt(W / 120) a tenth of the W planned.
PASSES_PER_RANK, COLD = 120, 40
BATCH_PER_RANK, SMALLEST_BATCH = 3, 32
START_SHARE = 0.25  # of all work, at most, for the cold start of a short run
REFRESH_SHARE = 0.2  # of the rest, for later refreshes
EARLY = 2.0  # the k-th of K refreshes comes when (k / (K + 1))^2 of the run is over
STEP = 0.6  # six unit steps once the velocity has gathered
DECAY = "sqrt"
# The step need not fall fast: the mean of the last fifth takes its noise away, and is hardly behind the last.
AVERAGE = 0.2
WARMUP = 0.1  # share of the run, after the cold start, in which the step grows to its full length
PROBES = 3
TAIL_WEIGHT = 0.5  # of what lies off the kept eigenvectors, in the noise of a step
OWN = ("scale", "tail", "reduction", "batch", "refreshes")


def auto_rank(passes: float, dim: int, samples: float = math.inf) -> int:
    """How many eigenpairs are worth their products in a run of so many passes over single samples."""
    low, high = RANKS
    # Where there are fewer samples than such a Hessian batch has, a cold start costs 4 r of all of them.
    few = passes / (COLD * samples)
    rank = min(max(low, math.sqrt(passes / PASSES_PER_RANK), few), high, max(1, dim // 2))
    smallest = min(SMALLEST_BATCH, samples)
    return int(max(1, min(rank, START_SHARE * passes / (4 * smallest))))  # 4 r h passes


def auto_hessian_batch(rank: int, samples: int, passes: float) -> int:
    """Samples of a Hessian batch, where possible in four equal parts, whose spread tells its noise."""
    size = max(BATCH_PER_RANK * rank, SMALLEST_BATCH)
    size = max(4, min(size, int(START_SHARE * passes / (4 * rank)), samples))
    return min(samples, size if size == samples else size - size % 4)


def _undamped(lam: Any) -> Any:
    return 1 / abs(lam)


class AutoRule(LowRankRule):
    """Low-rank saddle-free Newton whose damping is what it measured beyond the kept eigenvalues.

    A kept mode is divided by ``max(|lam_i| + 4 s_i, mu)``, everything else by ``mu = max(|lam_r| + 4 s_r,
    mu_before / 2, 1e-4 |lam_1|)``, where ``s_i`` is the sampling noise of a gradient batch: a noisy pair is
    damped, never dropped. Where the Hessian batch has fewer than r nonzero eigenvalues, ``lam_r`` stands for
    the last of these: beyond lies what it does not show.
    """

    untuned = True

    def __init__(self, rank: int, passes: float = math.inf):
        saddle_free = Method(gain=_undamped, rank=rank, tail_gain=_undamped)
        super().__init__(saddle_free, every=None, warm=True, margin=NOISE_MARGIN, solver="block-krylov")
        self.passes, self.refreshes = passes, 0
        self.batch: float = 1
        self.scale = 0.0  # mu
        self.tail = 0.0  # trace of the Hessian off the kept eigenvectors
        self.reduction = 1.0
        self.guard = Guard()

    def _rescale(self, eig: LowRank) -> None:
        if self.scale == 0 and not eig.eigenvalues.any():
            raise ValueError(
                "step='auto' saw no curvature at the start: every Hessian product is zero. Use st.SGD(), "
                "st.Adam() or LRSFN with a number as `step`."
            )
        size = self._account(eig).sizes
        self.scale = floor(size, eig.eigenvalues, self.scale)

    def _account(self, eig: LowRank) -> KeptModes:
        return replace(super()._account(eig), sampling=np.nan_to_num(self.sampling))

    @property
    def _rest_of_the_run(self) -> float:
        """Passes after the cold start; a chosen rank and Hessian batch may leave none."""
        return max(1.0, self.passes - self.first)

    def due(self, iteration: int, gradient_work: float, hessian_work: float, left: float) -> bool:
        """Refreshes come early: curvature changes most at the beginning."""
        if self.eig is None:
            return True
        planned = self._rest_of_the_run
        affordable = math.floor(REFRESH_SHARE * planned / self.cost)
        return (
            self.refreshes <= affordable
            and WORTH * self.cost <= left
            and 1 - left / planned >= (self.refreshes / (affordable + 1)) ** EARLY
        )

    def refresh(self, curvature: Curvature, iteration: int) -> int:
        columns = super().refresh(curvature, iteration)
        # All samples at once, or an objective that has none, leave nothing to chance.
        self.batch = curvature.gradient_batch if curvature.gradient_batch < curvature.samples else math.inf
        self.refreshes += 1
        assert self.eig is not None
        self.tail = max(0.0, tail_trace(curvature, self.eig, PROBES))
        for name in ("cost", "first") if self.refreshes == 1 else ("cost",):
            setattr(self, name, getattr(self, name) + 2.0 * PROBES * curvature.hessian_batch)
        return columns + PROBES

    def step(self, spent: float) -> float:
        """The step after so many passes, before the schedule: see `step_length`."""
        assert self.eig is not None
        kept = self.modes.gains
        # phi |lam|, at most 1 with a damping: how far a unit of step undoes a mode.
        turned = np.abs(self.eig.eigenvalues) * kept
        length = step_length(
            turned,
            self.sampling * kept,
            self.batch,
            TAIL_WEIGHT * self.tail * self.modes.tail_gain,
            most=STEP,
        )
        # The first curvature is that of a place which the run leaves at once: its steps are trusted by and
        # by.
        warm = min(1.0, max(0.0, spent - self.first) / (WARMUP * self._rest_of_the_run))
        return warm * self.reduction * length

    def length(self, ahead: Prospect) -> float:
        """The step length at an iterate."""
        return min(self.step(ahead.passes), ahead.ceiling) * ahead.share

    def watch(self, loss: float, batch: int) -> Course:
        said = self.guard.watch(loss, batch if math.isfinite(self.batch) else self.batch)
        if said is Course.LOST:
            self.reduction *= 0.5  # of every step from here on
        return said

    def state(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in OWN}
        return {**super().state(), **own, "guard": vars(self.guard)}

    def restore(self, state: dict[str, Any], backend: Any) -> None:
        for name in OWN:
            setattr(self, name, state[name])
        self.guard = Guard(**state["guard"])
        super().restore({key: value for key, value in state.items() if key not in (*OWN, "guard")}, backend)


def tail_trace(curvature: Curvature, eig: LowRank, probes: int) -> float:
    """Hutchinson's estimate of the trace off the kept eigenvectors."""
    backend = curvature.backend
    # Signs have the least variance of all random vectors with unit covariance: a diagonal is exact.
    signs = stream(curvature.seed, 2).choice([-1.0, 1.0], size=(curvature.dim, probes))
    V = backend.asarray(signs)
    V = V - eig.vectors @ (eig.vectors.T @ V)
    return float(np.mean([float(backend.xp.sum(V * product(V))) for product in curvature.parts])) / probes
