"""The preconditioner at many states at once: one gain, applied the cheapest way that the Hessian allows."""

from __future__ import annotations

import functools
import math
import threading
from typing import Any

import numpy as np

from .. import _fast
from .._array import like, matvec, namespace, transpose
from .method import Method
from .response import SpectralResponse

COMPILED_DIM = _fast.MAX_DIM
"""The compiled reduction beats LAPACK's eigenvectors wherever it works (measured: 5 to 12 times)."""


class Identity:
    """``P = I``: no spectrum is needed."""

    response = None

    def apply(self, v: Any) -> Any:
        """``P v``, (..., d) -> (..., d)."""
        return v

    def derivative(self, noise: Any, v: Any) -> Any:
        """``DP[E] v`` for noise (..., d, d)."""
        return 0.0 * v


class Spectral:
    """By eigenvectors (..., d, d), as columns: works everywhere, and alone knows the derivative of ``P``."""

    def __init__(self, vectors: Any, response: SpectralResponse):
        self.vectors, self.response = vectors, response

    def apply(self, v: Any) -> Any:
        """``P v``, (..., d) -> (..., d)."""
        return matvec(self.vectors, self.response.gains * matvec(transpose(self.vectors), v))

    def derivative(self, noise: Any, v: Any) -> Any:
        """``DP[E] v`` for noise (..., d, d)."""
        turned = transpose(self.vectors) @ noise @ self.vectors
        return matvec(
            self.vectors, matvec(self.response.derivative(turned), matvec(transpose(self.vectors), v))
        )


class Diagonal:
    """A Hessian that is diagonal in the given coordinates, from its diagonals (..., d)."""

    def __init__(self, method: Method, diagonal: Any):
        self.response = SpectralResponse(method, diagonal)

    def apply(self, v: Any) -> Any:
        """``P v``, (..., d) -> (..., d)."""
        return self.response.gains * v


class Planar:
    """Two dimensions in closed form: ``P = level I + slope (H - mean I)`` through both eigenvalues.

    Rounding in `slope` is divided by the radius and multiplied by it again, so nearly equal eigenvalues lose
    nothing.
    """

    def __init__(self, method: Method, hessian: Any):
        xp = namespace(hessian)
        first, last = hessian[..., 0, 0], hessian[..., 1, 1]
        self.cross = hessian[..., 0, 1]
        self.half = 0.5 * (first - last)
        mean = 0.5 * (first + last)
        radius = xp.sqrt(self.half * self.half + self.cross * self.cross)
        # Paths last, so that each eigenvalue's row is contiguous; ascending, as eigenvalues are everywhere
        # else.
        self.response = SpectralResponse(method, xp.stack([mean - radius, mean + radius], axis=0).T)
        low, high = self.response.gains[..., 0], self.response.gains[..., 1]
        self.level = 0.5 * (low + high)
        apart = radius > 0
        self.slope = xp.where(apart, 0.5 * (high - low) / xp.where(apart, radius, radius + 1.0), 0.0 * radius)

    def apply(self, v: Any) -> Any:
        """``P v``, (m, 2) -> (m, 2)."""
        x, y = v[..., 0], v[..., 1]
        # H - mean I is [[half, cross], [cross, -half]].
        first = self.level * x + self.slope * (self.half * x + self.cross * y)
        second = self.level * y + self.slope * (self.cross * x - self.half * y)
        return namespace(x).stack([first, second], axis=0).T


class CompiledPlanar:
    """`Planar` in two compiled passes over the paths, with the gain read between them."""

    def __init__(self, method: Method, hessian: np.ndarray):
        count = len(hessian)
        self.cross = hessian[:, 0, 1]
        lams, self.shape = np.empty((2, count)), np.empty((2, count))
        _fast.planar_eigenvalues(hessian[:, 0, 0], self.cross, hessian[:, 1, 1], lams, self.shape)
        # The kernel's first row is the larger eigenvalue; everywhere else they ascend.
        self.response = SpectralResponse(method, lams[::-1].T)

    def apply(self, v: np.ndarray) -> np.ndarray:
        """``P v``, (m, 2) -> (m, 2)."""
        gains = np.ascontiguousarray(self.response.gains.T[::-1])
        out = np.zeros((2, len(v)))
        _fast.planar_step(
            self.cross, self.shape, gains, np.ascontiguousarray(v.T), out, np.empty((4, len(v)))
        )
        return out.T


class CompiledSpectral:
    """A few dimensions without eigenvectors: the Hessian is reduced again for every vector.

    Rotations act on that vector alone.
    """

    response = None

    def __init__(self, method: Method, hessian: np.ndarray):
        self.method, self.hessian = method, hessian

    def apply(self, v: np.ndarray) -> np.ndarray:
        """``P v``, (m, d) -> (m, d)."""
        return _fast.spectral_apply(
            self.hessian,
            v,
            lambda lams: SpectralResponse(self.method, lams).gains,
            self._workspace(v.shape[-1]),
        )

    _kept = threading.local()

    def _workspace(self, dim: int) -> _fast.Tridiagonal:
        """This thread's own: making one at every step would have threads wait for memory."""
        if getattr(self._kept, "dim", None) != dim:
            self._kept.dim, self._kept.work = dim, _fast.Tridiagonal(dim, paths=512)
        return self._kept.work


def preconditioner(method: Method, hessian: Any, *, compiled: bool) -> Any:
    """The cheapest form of ``P`` at Hessians (m, d, d) that needs no derivative."""
    dim = hessian.shape[-1]
    if dim == 2:
        return CompiledPlanar(method, hessian) if compiled else Planar(method, hessian)
    if compiled and 2 < dim <= COMPILED_DIM:
        return CompiledSpectral(method, hessian)
    return spectral(method, hessian)


@functools.cache
def _eye(dim: int) -> np.ndarray:
    return np.eye(dim)  # one for all: `like` keeps its copy on a device


def spectral(method: Method, hessian: Any) -> Spectral:
    """``P`` by eigendecomposition at Hessians (..., d, d); nan where one is not finite."""
    xp = namespace(hessian)
    finite = xp.all(xp.all(xp.isfinite(hessian), axis=-1), axis=-1)
    whole = xp is np and finite.all()
    if not whole:  # LAPACK refuses nan for the whole batch; such a state has no preconditioner
        hessian = xp.where(finite[..., None, None], hessian, like(_eye(hessian.shape[-1]), hessian))
    values, vectors = xp.linalg.eigh(hessian)
    if not whole:
        vectors = xp.where(finite[..., None, None], vectors, xp.full_like(vectors, math.nan))
    return Spectral(vectors, SpectralResponse(method, values))
