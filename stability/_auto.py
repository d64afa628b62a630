"""The untuned rule: step, damping, rank, refresh and schedule from the curvature and its sampling noise, as measured."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ._descent import LowRankRule
from .lowrank import LowRank
from .methods import LRSFN

RANKS = (5, 60)
PASSES_PER_RANK = 120  # a cold start of rank r on 3 r samples costs 12 r^2 passes: with r = sqrt(W / 120) a tenth of the W planned ones
BATCH_PER_RANK, SMALLEST_BATCH = 3, 32
NOISE_MARGIN = 4.0
MEMORY = 0.5
FLOOR = 1e-4
MOMENTUM = 0.9
STEP = 0.2  # twice a unit step once the velocity has gathered
WATCHED = 10  # iterations that the watched loss is smoothed over
OWN = ("scale", "reduction", "smooth", "worst")


def auto_rank(passes: float, dim: int) -> int:
    """How many eigenpairs are worth their products in a run of so many passes over single samples."""
    low, high = RANKS
    return int(min(max(low, min(high, math.sqrt(passes / PASSES_PER_RANK))), max(1, dim // 2)))


def auto_hessian_batch(rank: int, samples: int) -> int:
    """Samples of a Hessian batch: a multiple of four, so that four sub-batches tell its noise."""
    size = max(BATCH_PER_RANK * rank, SMALLEST_BATCH)
    return samples if size >= samples else size - size % -4


class AutoRule(LowRankRule):
    """Low-rank saddle-free Newton whose damping is what it measured beyond the kept eigenvalues.

    A kept mode is divided by ``max(|lam_i| + 4 s_i, mu)``, everything else by ``mu = max(|lam_r| + 4 s_r, mu_before / 2,
    1e-4 |lam_1|)``, where ``s_i`` is the sampling noise of a gradient batch: a noisy pair is damped, never dropped.
    """

    def __init__(self, rank: int):
        super().__init__(LRSFN(rank=rank, damping=1.0), every=None, warm=True, margin=NOISE_MARGIN)
        self.scale = 0.0  # mu
        self.reduction = 1.0
        self.smooth: float | None = None  # of the losses
        self.worst: float | None = None

    def gains(self, eig: LowRank) -> tuple[np.ndarray, float]:
        noise = np.where(np.isfinite(self.sampling), self.sampling, 0.0)
        size = np.abs(eig.eigenvalues) + self.margin * noise
        self.scale = max(size[-1], MEMORY * self.scale, FLOOR * abs(eig.eigenvalues[0]), np.finfo(float).tiny)
        return 1 / np.maximum(size, self.scale), 1 / self.scale

    def slopes(self, lam: np.ndarray) -> np.ndarray:
        return np.where(self.kept < 1 / self.scale, -np.sign(lam) * self.kept**2, 0.0)

    def step(self, batch: int) -> float:
        """The step before the schedule: shorter where a batch is small against the directions that a step moves."""
        return self.reduction * STEP / (1 + self.effective_dimension() / batch)

    def effective_dimension(self) -> float:
        """``tr(P |H|)`` on the kept eigenvectors: how many of them a unit step moves by their whole length."""
        assert self.eig is not None
        return float(np.sum(np.abs(self.eig.eigenvalues) * self.kept))

    def watch(self, loss: float) -> bool:
        """Whether the run has become worse than its start: the step is halved from here on."""
        self.smooth = loss if self.smooth is None else self.smooth + (loss - self.smooth) / WATCHED
        self.worst = 2 * abs(loss) if self.worst is None else self.worst
        if not self.smooth > self.worst:
            return False
        self.smooth, self.reduction = None, 0.5 * self.reduction
        return True

    def state(self) -> dict[str, Any]:
        return {**super().state(), **{name: getattr(self, name) for name in OWN}}

    def restore(self, state: dict[str, Any], backend: Any) -> None:
        for name in OWN:
            setattr(self, name, state[name])
        super().restore({key: value for key, value in state.items() if key not in OWN}, backend)
