"""The account of kept modes: gains, noise and step limits of a few known eigenvalues and of all the rest."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from ..methods.divided import Divided
from ..methods.method import Method
from .modes import mode_limits


@dataclass(frozen=True)
class KeptModes:
    """A truncated method on measured curvature: what it does to each kept mode, and off the kept vectors.

    Attributes
    ----------
    method : Method
        With a `rank`: its gain is read on the kept eigenvalues, its tail gain on the first one left out.
    eigenvalues : array (r,)
    beyond : float
        The first eigenvalue left out, or what stands for it.
    sampling, hessian_sampling : arrays (r,)
        Standard deviations of the eigenvalues over gradient and over Hessian batches; nan where not known.
    margin : float
        How many standard deviations over gradient batches each eigenvalue's size is raised by.
    floor : float
        The least size that anything counts with.
    """

    method: Method
    eigenvalues: np.ndarray
    beyond: float
    sampling: np.ndarray
    hessian_sampling: np.ndarray
    margin: float = 0.0
    floor: float = 0.0

    @property
    def sizes(self) -> np.ndarray:
        """``|lam_i|`` with the margin of noise (r,)."""
        sizes = np.abs(self.eigenvalues)
        return sizes + self.margin * self.sampling if self.margin else sizes

    @functools.cached_property
    def _places(self) -> np.ndarray:
        """Where the gain is read (r,)."""
        return np.copysign(np.maximum(self.sizes, self.floor), self.eigenvalues)

    @functools.cached_property
    def gains(self) -> np.ndarray:
        """``phi_i`` on the kept eigenvectors (r,)."""
        return np.asarray(self.method.gain(self._places), dtype=float)

    @functools.cached_property
    def tail_gain(self) -> float:
        """The gain off the kept eigenvectors."""
        place = math.copysign(max(abs(self.beyond), self.floor), self.beyond)
        return float(self.method.tail_gain(place))  # a NumPy scalar would turn float32 steps into float64

    @property
    def slopes(self) -> np.ndarray:
        """Derivatives of the gains (r,): zero where the floor, and not the eigenvalue, decides."""
        slope = Divided.of(self.method.gain, self._places, self._places).first[0]
        return np.where(self.sizes < self.floor, 0.0, slope)

    def step_limits(
        self, momentum: float, *, nesterov: bool = False, weight_decay: float = 0.0
    ) -> np.ndarray:
        """Largest mean-square-stable step of each kept mode alone (r,); noise not known counts as none.

        No bound on a run's step: what was kept are Ritz vectors, and modes together bear less.
        """
        gradient, hessian = (np.nan_to_num(s) ** 2 for s in (self.sampling, self.hessian_sampling))
        return mode_limits(
            self.gains,
            self.eigenvalues,
            slopes=self.slopes,
            gradient=gradient,
            hessian=hessian,
            momentum=momentum,
            nesterov=nesterov,
            weight_decay=weight_decay,
        )

    def tail_limit(self, momentum: float, *, nesterov: bool = False, weight_decay: float = 0.0) -> float:
        """The same off the kept eigenvectors, for a mode of the size of `beyond`; larger may be there."""
        # Behind a negative eigenvalue, positive ones of nearly its size may follow.
        gain, following = np.array([self.tail_gain]), np.array([abs(self.beyond)])
        found = mode_limits(gain, following, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay)
        return float(found[0])


def over_batches(spread: np.ndarray, batch: int | None, samples: int | None = None) -> np.ndarray:
    """Standard deviation over batches from that over single samples; nan where the batch is not known.

    With `samples`, batches are drawn from so many without replacement: none is left over all of them.
    """
    if batch is None:
        return np.full_like(spread, np.nan)
    share = 1.0 if samples is None else (samples - batch) / samples
    return spread * math.sqrt(share / batch) if share > 0 else np.zeros_like(spread)
