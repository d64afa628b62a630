"""Lanczos recurrences from many start vectors at once, and the Gauss quadrature rules that they make."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._array import Backend
from ..lowrank.operator import Operator, check_symmetric

BASIS_BYTES = 2**30
"""Largest set of Lanczos bases held at a time: more start vectors take turns, at least two by two."""


@dataclass(frozen=True)
class Tridiagonals:
    """What Lanczos leaves of an operator: one tridiagonal matrix for each start vector.

    Attributes
    ----------
    diagonals, off_diagonals : arrays, shape (rows, steps)
        The last off-diagonal entry of a row couples to the vector that was not taken.
    lengths : array of int, shape (rows,)
        Steps before the row's Krylov space was exhausted: its entries beyond mean nothing.
    basis : array of the backend's, shape (rows, steps, n), or None
        The Lanczos vectors, where they were asked for.
    """

    diagonals: np.ndarray
    off_diagonals: np.ndarray
    lengths: np.ndarray
    basis: Any = None

    def rule(self, limits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Gauss rules of the first `limits` (rows,) steps: nodes and weights (rows, steps) that sum to one.

        A shorter row repeats its last node with weight zero.
        """
        nodes, weights = np.zeros((2, *self.diagonals.shape))
        for i, length in enumerate(np.minimum(self.lengths, limits)):
            values, vectors = self._solved(i, length)
            nodes[i, :length], nodes[i, length:] = values, values[-1]
            # Golub and Welsch: a Gauss rule's weights are the squared first components of the eigenvectors.
            weights[i, :length] = vectors[0] ** 2
        return nodes, weights

    def residuals(self, limits: np.ndarray) -> np.ndarray:
        """Of the nodes of `rule`, ``|H y - theta y|`` (rows, steps): an eigenvalue lies as near."""
        result = np.zeros_like(self.diagonals)
        for i, length in enumerate(np.minimum(self.lengths, limits)):
            result[i, :length] = self.off_diagonals[i, length - 1] * np.abs(self._solved(i, length)[1][-1])
        return result

    def _solved(self, row: int, length: int) -> tuple[np.ndarray, np.ndarray]:
        from scipy.linalg import eigh_tridiagonal

        return eigh_tridiagonal(self.diagonals[row, :length], self.off_diagonals[row, : length - 1])


def rounding(backend: Backend, n: int) -> float:
    """Relative size below which a number got from n-vectors cannot be told from zero."""
    return 10 * math.sqrt(n) * float(np.finfo(backend.dtype).eps)


def lanczos(
    operator: Operator,
    rows: Any,
    steps: int,
    size: float = 0.0,
    report: Callable[[int], None] = lambda products: None,
    *,
    keep: bool = False,
) -> Tridiagonals:
    """Run Lanczos from every one of the rows (k, n), unit vectors, with full reorthogonalization.

    Each row has its own recurrence, but the operator is applied to all of them as one block. Without
    reorthogonalization every outlying eigenvalue is found again and again, and each time costs a step: on a
    spectrum of ten outliers and a bulk, 256 steps were then worth 64. One pass suffices, since the recurrence
    has done most of it.

    Parameters
    ----------
    size : float
        Of the operator as far as it is known: what is small beside it is rounding.
    report : callable
        Told of the products, block by block.
    keep : bool
        Whether all rows advance together and leave their bases.
    """
    if keep:
        return _advance(operator, rows, steps, size, report, keep=True)
    count, width = rows.shape[0], operator.n * steps * np.dtype(operator.backend.dtype).itemsize
    together = max(2, BASIS_BYTES // width)
    parts = [
        _advance(operator, rows[k : min(k + together, count), :], steps, size, report)
        for k in range(0, count, together)
    ]
    return Tridiagonals(
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("diagonals", "off_diagonals", "lengths")
        )
    )


def _advance(
    operator: Operator,
    rows: Any,
    steps: int,
    size: float,
    report: Callable[[int], None],
    *,
    keep: bool = False,
) -> Tridiagonals:
    backend, count = operator.backend, rows.shape[0]
    xp, tiny = backend.xp, rounding(backend, operator.n)
    alphas, betas = np.zeros((2, count, steps))
    lengths, sizes = np.full(count, steps), np.zeros(count)
    basis = xp.zeros((count, steps, operator.n), dtype=rows.dtype, device=backend.device)
    last = xp.zeros_like(rows)
    for k in range(steps):
        basis[:, k, :] = rows
        # The couplings between different rows are not needed,
        # cost little, and show an operator that is not symmetric.
        image, (core,) = operator.image(rows, rows)
        if k == 0:  # only now the images' scale is known
            sizes += size * operator.factor
        check_symmetric([(core, core.T)], np.append(core, sizes), operator.unit)
        alphas[:, k] = np.diag(core)
        sizes = np.maximum(sizes, np.abs(alphas[:, k]))
        # At k = 0 index -1 is the last column, which is still zero, as it should be.
        rest = image - _each(alphas[:, k], backend) * rows - _each(betas[:, k - 1], backend) * last
        rest = _orthogonal(rest, basis[:, : k + 1, :], xp)
        betas[:, k] = backend.host(xp.sqrt(xp.sum(rest * rest, axis=1)))
        sizes = np.maximum(sizes, betas[:, k])
        over = betas[:, k] <= tiny * sizes
        lengths = np.where(over, np.minimum(lengths, k + 1), lengths)
        report(count)
        if over.all():
            break
        # A row that is done goes on as zeros: the block keeps its shape.
        grown = np.where(over, 0.0, 1 / np.where(over, 1.0, betas[:, k]))
        last, rows = rows, rest * _each(grown, backend)
    alphas, betas = alphas / operator.factor, betas / operator.factor
    return Tridiagonals(alphas, betas, lengths, basis if keep else None)


def _each(numbers: np.ndarray, backend: Backend) -> Any:
    """One number for each row (k, 1)."""
    return backend.asarray(numbers[:, None])


def _orthogonal(rows: Any, basis: Any, xp: Any) -> Any:
    """Each of the rows (k, n) without what lies in its own basis (k, steps, n)."""
    along = basis @ rows[:, :, None]
    return rows - (xp.matrix_transpose(basis) @ along)[:, :, 0]
