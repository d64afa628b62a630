"""The preconditioner at many states at once: one gain, applied the cheapest way that the Hessian's form allows."""

from __future__ import annotations

from typing import Any

from ._array import matvec, namespace, transpose
from ._spectral import SpectralResponse
from .methods import Method


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
        return matvec(self.vectors, matvec(self.response.derivative(turned), matvec(transpose(self.vectors), v)))


class Diagonal:
    """A Hessian that is diagonal in the given coordinates, from its diagonals (..., d)."""

    def __init__(self, method: Method, diagonal: Any):
        self.response = SpectralResponse(method, diagonal)

    def apply(self, v: Any) -> Any:
        """``P v``, (..., d) -> (..., d)."""
        return self.response.gains * v


class Planar:
    """Two dimensions in closed form: ``P = level I + slope (H - mean I)`` through both eigenvalues ``mean -+ radius``.

    Rounding in `slope` is divided by the radius and multiplied by it again, so nearly equal eigenvalues lose nothing.
    """

    def __init__(self, method: Method, hessian: Any):
        xp = namespace(hessian)
        first, last = hessian[..., 0, 0], hessian[..., 1, 1]
        self.cross = hessian[..., 0, 1]
        self.half = 0.5 * (first - last)
        mean = 0.5 * (first + last)
        radius = xp.sqrt(self.half * self.half + self.cross * self.cross)
        # Paths last, so that each eigenvalue's row is contiguous; ascending, as eigenvalues are everywhere else.
        self.response = SpectralResponse(method, xp.stack([mean - radius, mean + radius], axis=0).T)
        low, high = self.response.gains[..., 0], self.response.gains[..., 1]
        self.level = 0.5 * (low + high)
        apart = radius > 0
        self.slope = xp.where(apart, 0.5 * (high - low) / xp.where(apart, radius, radius + 1.0), 0.0 * radius)

    def apply(self, v: Any) -> Any:
        """``P v``, (m, 2) -> (m, 2)."""
        x, y = v[..., 0], v[..., 1]
        xp = namespace(x)
        first = self.level * x + self.slope * (self.half * x + self.cross * y)
        second = self.level * y + self.slope * (self.cross * x - self.half * y)
        return xp.stack([first, second], axis=0).T
