"""The gradient's noise as metrics see it: its variances at states, and what signs and squares make of it."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._array import joined, like, matvec, namespace, transpose
from .._special import gauss

NODES = 24
"""Of the quadrature over a correlation: at heights of some standard deviations it is exact to 1e-8."""
LEAST_CORRELATED = 1e-10
"""The least eigenvalue of a correlation matrix that is not singular but for rounding."""


@dataclass(frozen=True)
class GradientLaw:
    """Gaussian noise of the gradient, from its covariance at one state (d, d) or at many (..., d, d).

    Attributes
    ----------
    covariance : array (d, d) or (..., d, d)
    slopes : array (..., d, d) or None
        Of the entries' variances by the positions, row by row; None where noise is the same everywhere.
    everywhere : bool
        Whether noise is the same at all states; `covariance` is then one (d, d), on the host.
    """

    covariance: Any
    slopes: np.ndarray | None = None
    everywhere: bool = True

    def checked(self) -> GradientLaw:
        """This law; ValueError where it is not finite."""
        if not np.isfinite(self.covariance).all():
            raise ValueError(
                "The variance of the gradient's noise is beyond all floats, and metrics are made of it. "
                "Measure the objective in larger units."
            )
        return self

    @functools.cached_property
    def variances(self) -> Any:
        """Of the entries (..., d)."""
        if self.everywhere:
            return np.diag(self.covariance).copy()
        xp, dim = namespace(self.covariance), self.covariance.shape[-1]
        return xp.stack([self.covariance[..., i, i] for i in range(dim)], axis=-1)

    @functools.cached_property
    def sizes(self) -> Any:
        """Standard deviations of the entries (..., d)."""
        return namespace(self.variances).sqrt(self.variances)

    @functools.cached_property
    def diagonal(self) -> bool:
        """Whether the entries are independent at every state."""
        if self.everywhere:
            return not np.any(self.covariance - np.diag(self.variances))
        return self.covariance.shape[-1] == 1

    @functools.cached_property
    def _root(self) -> Any:
        """A square root of the covariance of the squares, which is twice the covariances' squares."""
        if self.diagonal:
            return math.sqrt(2) * self.variances
        if self.everywhere:  # any root will do, and this one is every saved path's
            values, vectors = np.linalg.eigh(2 * self.covariance**2)
            return vectors * np.sqrt(np.maximum(values, 0.0))
        return _power(2 * self.covariance**2, 0.5)

    def square(self, normals: Any) -> Any:
        """Gaussian noise (m, d) with the second moments that the squares have about their means."""
        root = like(self._root, normals) if self.everywhere else self._root
        return root * normals if self.diagonal else matvec(root, normals)

    @functools.cached_property
    def correlation(self) -> Any:
        """Of the entries (..., d, d)."""
        return self.covariance / (self.sizes[..., :, None] * self.sizes[..., None, :])

    @functools.cached_property
    def _white(self) -> Any:
        """Symmetric inverse square roots of the correlations (..., d, d)."""
        return _power(self.correlation, -0.5)

    def signs(self, height: Any, spread: Any) -> Any:
        """What makes of noise (..., d) that of the signs: entrywise (..., d), or as a matrix (..., d, d).

        Their covariance is exact: ``(2/pi) int_0^arcsin(rho) exp(-(h^2 + k^2 - 2 h k sin) / (2 cos^2))``
        for two gradients of heights h, k over their standard deviations and correlation rho (Plackett 1954).

        Parameters
        ----------
        height, spread : array (..., d)
            Mean gradient over its standard deviation, and the standard deviation of its sign.
        """
        sizes = like(self.sizes, height) if self.everywhere else self.sizes
        if self.diagonal:
            return spread / sizes
        correlation = like(self.correlation, height) if self.everywhere else self.correlation
        white = like(self._white, height) if self.everywhere else self._white
        xp = namespace(height)
        rows, columns, place = _pairs(height.shape[-1])
        one, other = (xp.take(height, like(index, height), axis=-1) for index in (rows, columns))
        batch, dim = correlation.shape[:-2], height.shape[-1]
        flat = xp.reshape(correlation, (*batch, dim * dim))
        ends = xp.asin(xp.clip(xp.take(flat, like(rows * dim + columns, height), axis=-1), -1.0, 1.0))
        squares, product, total = 0.5 * (one**2 + other**2), one * other, 0.0 * one
        for node, weight in zip(*(part.tolist() for part in gauss(NODES)), strict=True):
            sine = xp.sin(ends * (0.5 * (1 + node)))
            # Along the arc the integrand stays bounded as the correlation goes to one; along the correlation
            # itself it would not.
            total = total + 0.5 * weight * xp.exp((product * sine - squares) / (1 - sine**2))
        entries = joined((2 / math.pi) * ends * total, spread**2)
        covariance = xp.reshape(
            xp.take(entries, like(place, height), axis=-1), (*height.shape[:-1], dim, dim)
        )
        return (_power(covariance, 0.5) @ white) / sizes[..., None, :]


def _power(matrix: Any, exponent: float) -> Any:
    """Symmetric powers of covariances (..., d, d); nan where one is not finite."""
    xp = namespace(matrix)
    finite = xp.all(xp.all(xp.isfinite(matrix), axis=-1), axis=-1)[..., None, None]
    values, vectors = xp.linalg.eigh(xp.where(finite, matrix, like(_eye(matrix.shape[-1]), matrix)))
    # So that a negative power of what rounding left below zero is a number.
    values = xp.where(values > 1e-300, values, xp.full_like(values, 1e-300))
    found = (vectors * (values**exponent)[..., None, :]) @ transpose(vectors)
    return xp.where(finite, found, xp.full_like(found, math.nan))


@functools.cache
def _eye(dim: int) -> np.ndarray:
    return np.eye(dim)  # one for all: `like` keeps its copy on a device


@functools.cache
def _pairs(dim: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows and columns of a symmetric matrix's pairs, and where of pairs and diagonal its entries are."""
    rows, columns = np.triu_indices(dim, 1)
    place = np.zeros((dim, dim), dtype=int)
    place[rows, columns] = place[columns, rows] = np.arange(len(rows))
    np.fill_diagonal(place, len(rows) + np.arange(dim))
    return rows, columns, place.ravel()
