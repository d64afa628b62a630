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
STEP = 1 - MOMENTUM  # a unit step once the velocity has gathered
SMALL_BATCH = 32


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

    def gains(self, eig: LowRank) -> tuple[np.ndarray, float]:
        noise = np.where(np.isfinite(self.sampling), self.sampling, 0.0)
        size = np.abs(eig.eigenvalues) + self.margin * noise
        self.scale = max(size[-1], MEMORY * self.scale, FLOOR * abs(eig.eigenvalues[0]), np.finfo(float).tiny)
        return 1 / np.maximum(size, self.scale), 1 / self.scale

    def slopes(self, lam: np.ndarray) -> np.ndarray:
        return np.where(self.kept < 1 / self.scale, -np.sign(lam) * self.kept**2, 0.0)

    def small_batch_factor(self, batch: int) -> float:
        """What a step is divided by where batches are small."""
        return 1 + self.effective_dimension() / batch if batch < SMALL_BATCH else 1.0

    def effective_dimension(self) -> float:
        """``tr(P |H|)``, as far as it is known: how many directions a unit step moves by their whole length."""
        assert self.eig is not None
        return float(np.sum(np.abs(self.eig.eigenvalues) * self.kept))

    def state(self) -> dict[str, Any]:
        return {**super().state(), "scale": self.scale}

    def restore(self, state: dict[str, Any], backend: Any) -> None:
        self.scale = state.get("scale", 0.0)
        super().restore({key: value for key, value in state.items() if key != "scale"}, backend)
