"""Frames: the modes into which a method's mean dynamics fall apart, whatever makes P of curvature and noise.

With ``P = V diag(gains) V^T`` and ``H = W^T diag(eigenvalues) W``, where ``W = V^-1``, the drift ``P H = V
diag(gains eigenvalues) W`` is diagonal in the coordinates ``y = W (w - center)``. A spectral method has the
Hessian's eigenvectors as V. A metric ``P = diag(p)`` has ``V = P^(1/2) Q``, where the columns of Q are the
eigenvectors of ``P^(1/2) H P^(1/2)``, here with columns of unit length: an eigenvalue is the curvature ``v^T
H v`` along its mode.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..methods.method import Method
from ..methods.response import SpectralResponse, check_regular


def along_axes(vectors: np.ndarray) -> bool:
    """Whether modes (d, d) are the coordinates: eigenvalues of a diagonal matrix are its entries."""
    return bool(np.count_nonzero(vectors) == len(vectors))


@dataclass(frozen=True)
class Frame:
    """The modes of a method at a critical point.

    Attributes
    ----------
    eigenvalues : array (d,)
        Curvatures along the modes, largest ``|lam|`` first.
    vectors : array (d, d)
        ``V``, unit columns.
    gains : array (d,)
    response : SpectralResponse or None
        Of a spectral method: ``P`` and its derivatives at this spectrum.
    metric : array (d,) or None
        The diagonal of a metric.
    """

    eigenvalues: np.ndarray
    vectors: np.ndarray
    gains: np.ndarray
    response: Any = None
    metric: np.ndarray | None = None

    @classmethod
    def spectral(cls, method: Method, eigenvalues: np.ndarray, vectors: np.ndarray) -> Frame:
        """Of a method that is a function of the Hessian's eigenvalues (d,), on its eigenvectors (d, d)."""
        check_regular(method, eigenvalues, exact=along_axes(vectors))
        response = SpectralResponse(method, eigenvalues)
        return cls(eigenvalues, vectors, np.array(response.gains), response)

    @classmethod
    def diagonal(cls, metric: np.ndarray, hessian: np.ndarray) -> Frame:
        """Of ``P = diag(metric)``, entries (d,) > 0."""
        root = np.sqrt(metric)
        # P H has the eigenvalues of P^(1/2) H P^(1/2), which is symmetric; its modes are that one's, times
        # P^(1/2).
        rates, Q = np.linalg.eigh(root[:, None] * hessian * root)
        vectors = root[:, None] * Q
        size = np.linalg.norm(vectors, axis=0)
        eigenvalues = rates / size**2
        order = np.argsort(-np.abs(eigenvalues), kind="stable")
        return cls(eigenvalues[order], (vectors / size)[:, order], size[order] ** 2, None, np.array(metric))

    @property
    def orthonormal(self) -> bool:
        """Whether the modes are a rotation of the coordinates."""
        return self.metric is None

    @functools.cached_property
    def inverse(self) -> np.ndarray:
        """``W``."""
        if self.metric is None:
            return self.vectors.T
        return self.gains[:, None] * self.vectors.T / self.metric

    def outward(self, M: np.ndarray) -> np.ndarray:
        """Second moments of modes (d, d), or of whole states (s d, s d), in the original coordinates."""
        V = _of_states(self.vectors, M)
        M = V @ M @ V.T
        # Products of three round differently on both sides of the diagonal.
        return 0.5 * (M + M.T)

    def inward(self, M: np.ndarray) -> np.ndarray:
        """The other way."""
        W = _of_states(self.inverse, M)
        return W @ M @ W.T


def _of_states(turn: np.ndarray, M: np.ndarray) -> np.ndarray:
    """The turn of positions (d, d), or for a matrix of whole states that of each of their parts."""
    parts = len(M) // len(turn)
    return turn if parts == 1 else np.kron(np.eye(parts), turn)
