"""The exponential scheme with momentum: positions and buffer together, the linear part exactly.

Each mode's state is a pair, moved by a 2 x 2 matrix; states are (2 d,), the positions first.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from ..methods.memory import Memory


@dataclass(frozen=True)
class DoubledModes:
    """The underdamped equation linearised at a critical point: what `Modes` is without momentum.

    Attributes
    ----------
    rates : array (d,)
        Of the flow without momentum.
    vectors : array (d, d)
        Eigenvectors, as columns.
    memory : Memory
    step : float
    """

    rates: np.ndarray
    vectors: np.ndarray
    memory: Memory
    step: float

    draws = 2
    """Independent noise samples of a step: over a time step position and buffer gather different noise."""

    @functools.cached_property
    def _matrices(self) -> np.ndarray:
        """The drift of every mode's pair, (d, 2, 2)."""
        return self.memory.motion(self.step, 0.0).matrices(-self.rates)

    def _outward(self, blocks: np.ndarray) -> np.ndarray:
        """The matrix (2 d, 2 d) that has these blocks (d, 2, 2) on the modes."""
        V, size = self.vectors, 2 * len(self.rates)
        return np.einsum("im,mab,jm->aibj", V, blocks, V).reshape(size, size)

    def growth(self, dt: float) -> np.ndarray:
        """``exp(M dt)``."""
        return self._outward(_expm(self._matrices * dt))

    def drift(self, dt: float) -> np.ndarray:
        """``dt phi_1(M dt)``, which integrates a constant drift exactly."""
        return self._outward(_integral(self._matrices * dt, np.broadcast_to(dt * np.eye(2), (2, 2))))

    def _gathered(self, dt: float) -> np.ndarray:
        """Covariances (d, d, 2, 2) of two modes' pairs, of one and the same unit noise gathered over `dt`."""
        kick, B, one = self.memory.motion(self.step, 0.0).kick, self._matrices, np.eye(2)
        pairs = np.einsum("jac,bd->jabcd", B, one)[:, None] + np.einsum("ac,kbd->kabcd", one, B)[None]
        count = len(B)
        source = dt * np.outer(kick, kick).reshape(4, 1)
        found = _integral(pairs.reshape(count, count, 4, 4) * dt, source)
        return found.reshape(count, count, 2, 2)

    def diffusion(self, covariance: np.ndarray, dt: float) -> np.ndarray:
        """Covariance (2 d, 2 d) of what additive noise of this covariance (d, d) adds in `dt`: exact."""
        turned = self.vectors.T @ covariance @ self.vectors
        V, size = self.vectors, 2 * len(self.rates)
        found = np.einsum("ij,jkab,jk,lk->aibl", V, self._gathered(dt), turned, V, optimize=True)
        return found.reshape(size, size)

    def noise(self, dt: float) -> tuple[np.ndarray, np.ndarray]:
        """Matrices (2 d, d) that take two independent noise samples to what every mode's pair gathers."""
        index = np.arange(len(self.rates))
        (xx, xu), (_, uu) = np.moveaxis(self._gathered(dt)[index, index], 0, -1)
        first = np.sqrt(xx)
        # The noise enters the buffer with the sign that `Memory.motion` gives the force: against the state.
        across = np.divide(xu, first, out=np.zeros_like(xu), where=first > 0)
        rest = np.sqrt(np.maximum(uu - across**2, 0.0))
        V = self.vectors
        turned = [(V * values) @ V.T for values in (first, across, 0 * rest, rest)]
        return np.concatenate(turned[:2]), np.concatenate(turned[2:])


def _expm(matrices: np.ndarray) -> np.ndarray:
    from scipy.linalg import expm

    return np.asarray(expm(matrices))


def _integral(matrices: np.ndarray, source: np.ndarray) -> np.ndarray:
    """``int_0^1 exp(A s) ds B`` of matrices A (..., n, n) and B (n, k), also where A is singular."""
    n, k = source.shape
    whole = np.zeros((*matrices.shape[:-2], n + k, n + k))
    whole[..., :n, :n], whole[..., :n, n:] = matrices, source
    return _expm(whole)[..., :n, n:]


def root(covariance: np.ndarray) -> np.ndarray:
    """A square root of a covariance whose variances may differ by many orders."""
    size = np.sqrt(np.diag(covariance))
    scale = np.where(size > 0, size, 1.0)
    values, vectors = np.linalg.eigh(covariance / np.outer(scale, scale))
    return size[:, None] * vectors * np.sqrt(np.maximum(values, 0.0))
