"""Quadratics with a chosen spectrum."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _check
from .._array import as_floats, matvec, namespace
from .._saving import Kept
from .base import Objective


class Quadratic(Objective, Kept):
    """``F(w) = w^T H w / 2``; see `quadratic`."""

    constant_hessian = True

    def __init__(self, matrix: np.ndarray):
        self.matrix = matrix
        self.dim = len(matrix)
        self.reference = np.zeros(self.dim)
        self.diagonal_hessian = bool(np.count_nonzero(matrix) == np.count_nonzero(np.diagonal(matrix)))

    def value(self, w: np.ndarray) -> np.ndarray:
        w = as_floats(w)
        return 0.5 * namespace(w).sum(w * self.gradient(w), axis=-1)

    def gradient(self, w: np.ndarray) -> np.ndarray:
        w = as_floats(w)
        return w * self._diagonal if self.diagonal_hessian else matvec(self.matrix, w)

    def hessian(self, w: np.ndarray) -> np.ndarray:
        # A view: one matrix for all states, not a copy for each.
        return namespace(self.matrix).broadcast_to(self.matrix, (*as_floats(w).shape, self.dim))

    def hessian_diagonal(self, w: np.ndarray) -> np.ndarray:
        if not self.diagonal_hessian:
            return super().hessian_diagonal(w)
        return namespace(self.matrix).broadcast_to(self._diagonal, as_floats(w).shape)

    @property
    def _diagonal(self) -> np.ndarray:
        return namespace(self.matrix).linalg.diagonal(self.matrix)

    def third(self, w: np.ndarray, v: np.ndarray) -> np.ndarray:
        w, v = as_floats(w), as_floats(v)
        return namespace(w).zeros(
            (*np.broadcast_shapes(w.shape, v.shape), self.dim), dtype=w.dtype, device=w.device
        )

    def __repr__(self) -> str:
        return f"quadratic in {_check.counted(self.dim, 'dimension')}"


class QuadraticModel(Quadratic):
    """``(w - w*)^T H (w - w*) / 2``: an objective's second-order model at a critical point ``w*``."""

    def __init__(self, matrix: np.ndarray, reference: np.ndarray):
        super().__init__(matrix)
        self.reference = reference

    def value(self, w: np.ndarray) -> np.ndarray:
        return super().value(as_floats(w) - self.reference)

    def gradient(self, w: np.ndarray) -> np.ndarray:
        return super().gradient(as_floats(w) - self.reference)


@_check.by_name
def quadratic(spectrum: Any, *, rotation_seed: int | None = None) -> Quadratic:
    """A quadratic with chosen eigenvalues; its minimum or saddle is at 0.

    Parameters
    ----------
    spectrum : array, shape (d,) or (d, d)
        The Hessian's eigenvalues, of any sign, or the symmetric Hessian itself.
    rotation_seed : int, optional
        Rotate the eigenvectors by a random (Haar) orthogonal matrix drawn from this seed.

    Raises
    ------
    ValueError
        If `spectrum` is not finite, has another shape, or is a matrix that is not symmetric.

    Examples
    --------
    >>> import stability as st
    >>> st.quadratic([1.0, 0.1]).gradient([1.0, 1.0])
    array([1. , 0.1])
    """
    given = _check.array("spectrum", spectrum, ndim=(1, 2), shape="(d,) or (d, d)")
    if given.size == 0:
        raise ValueError("`spectrum` must have at least one eigenvalue; got none.")
    _check.room(
        "The Hessian needs", len(given) ** 2, advice="Write an st.Objective with `hvp`, for st.minimize."
    )
    # As it came: its type says how far rounding may have moved it from symmetric.
    matrix = np.diag(given) if given.ndim == 1 else _check.symmetric("spectrum", spectrum)
    if rotation_seed is not None:
        _check.seed(rotation_seed, "rotation_seed")
        basis = _rotation(len(matrix), rotation_seed)
        # Rounding leaves Q D Q^T a little unsymmetric; the check also takes the mean with the transpose.
        matrix = _check.symmetric("spectrum", basis @ matrix @ basis.T)
    return Quadratic(matrix)


def _rotation(dim: int, seed: int) -> np.ndarray:
    factor, triangle = np.linalg.qr(np.random.default_rng(seed).standard_normal((dim, dim)))
    return factor * np.sign(np.diag(triangle))  # the sign makes the law Haar
