"""Lanczos recurrences from many start vectors at once, and the Gauss quadrature rules that they make."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._array import Backend
from ..lowrank.operator import BadProducts

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
    """

    diagonals: np.ndarray
    off_diagonals: np.ndarray
    lengths: np.ndarray

    def rule(self, limits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Gauss rules of the first `limits` (rows,) steps: nodes and weights (rows, steps), each row's
        weights summing to one.

        A shorter row repeats its last node with weight zero.
        """
        from scipy.linalg import eigh_tridiagonal

        nodes, weights = np.zeros((2, *self.diagonals.shape))
        for i, length in enumerate(np.minimum(self.lengths, limits)):
            values, vectors = eigh_tridiagonal(
                self.diagonals[i, :length], self.off_diagonals[i, : length - 1]
            )
            nodes[i, :length], nodes[i, length:] = values, values[-1]
            weights[i, :length] = vectors[0] ** 2
        return nodes, weights


def rounding(backend: Backend, n: int) -> float:
    """Relative size below which a number got from n-vectors cannot be told from zero."""
    return 10 * math.sqrt(n) * float(np.finfo(backend.dtype).eps)


class Products:
    """The operator: its products counted and checked.

    Attributes
    ----------
    columns : int
        Products so far.
    """

    def __init__(self, hvp: Callable[[Any], Any], n: int, backend: Backend):
        self.hvp, self.n, self.backend, self.columns = hvp, n, backend, 0

    def of(self, block: Any, size: np.ndarray) -> tuple[Any, np.ndarray]:
        """``H block`` (n, k), and the diagonal of ``block.T H block`` (k,) on the host; all of that must be
        symmetric beside `size`.
        """
        image = self.hvp(block)
        self.columns += block.shape[1]
        if tuple(getattr(image, "shape", ())) != tuple(block.shape):
            raise ValueError(
                f"`operator` must map (n, k) to (n, k); got shape {tuple(getattr(image, 'shape', ()))} for "
                f"{tuple(block.shape)}."
            )
        if image.dtype != block.dtype:
            raise ValueError(
                f"`operator` must keep the type of its argument, {block.dtype}; got {image.dtype}. Convert "
                "the data, or choose `dtype`."
            )
        core = np.asarray(self.backend.host(block.T @ image), dtype=float)
        if not np.isfinite(core).all():
            raise BadProducts(
                "`operator` must give finite products; some are nan or infinite. Check the objective at this "
                "point."
            )
        gap, size = np.abs(core - core.T).max(), np.maximum(np.abs(core).max(), size.max())
        if gap > 20 * np.finfo(self.backend.dtype).eps ** 0.5 * size:
            raise BadProducts(
                f"`operator` must be symmetric; <u, H v> and <H u, v> differ by {gap / size:.2g} of their "
                "size. "
                "If it draws a new batch at every call, fix the batch; else check the derivative."
            )
        return image, np.diag(core)


def lanczos(
    products: Products,
    start: Any,
    steps: int,
    size: float = 0.0,
    report: Callable[[int], None] = lambda products: None,
) -> Tridiagonals:
    """Run Lanczos from every column of `start` (n, k), unit vectors, with full reorthogonalization.

    Each column has its own recurrence, but the operator is applied to all of them as one block. Without
    reorthogonalization every outlying eigenvalue is found again and again, and each time costs a step: on a
    spectrum of ten outliers and a bulk, 256 steps were then worth 64. One pass suffices, since the recurrence
    has done most of it.

    Parameters
    ----------
    size : float
        Of the operator as far as it is known: what is small beside it is rounding.
    report : callable
        Told of the products, block by block.
    """
    columns, width = start.shape[1], products.n * steps * np.dtype(products.backend.dtype).itemsize
    together = max(2, BASIS_BYTES // width)
    parts = [
        _advance(products, start[:, k : min(k + together, columns)], steps, size, report)
        for k in range(0, columns, together)
    ]
    return Tridiagonals(
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("diagonals", "off_diagonals", "lengths")
        )
    )


def _advance(
    products: Products, block: Any, steps: int, size: float, report: Callable[[int], None]
) -> Tridiagonals:
    backend, columns = products.backend, block.shape[1]
    xp, tiny = backend.xp, rounding(backend, products.n)
    alphas, betas = np.zeros((2, columns, steps))
    lengths, scale = np.full(columns, steps), np.full(columns, size)
    basis = xp.zeros((columns, steps, products.n), dtype=block.dtype, device=backend.device)
    last = xp.zeros_like(block)
    for k in range(steps):
        basis[:, k, :] = block.T
        image, alphas[:, k] = products.of(block, scale)
        scale = np.maximum(scale, np.abs(alphas[:, k]))
        rest = image - backend.asarray(alphas[:, k]) * block - backend.asarray(betas[:, k - 1]) * last
        rest = _orthogonal(rest, basis[:, : k + 1, :], xp)
        betas[:, k] = backend.host(xp.sqrt(xp.sum(rest * rest, axis=0)))
        scale = np.maximum(scale, betas[:, k])
        over = betas[:, k] <= tiny * scale
        lengths = np.where(over, np.minimum(lengths, k + 1), lengths)
        report(columns)
        if over.all():
            break
        # A column that is done goes on as zeros: the block keeps its shape.
        last, block = block, rest * backend.asarray(np.where(over, 0.0, 1 / np.where(over, 1.0, betas[:, k])))
    return Tridiagonals(alphas, betas, lengths)


def _orthogonal(block: Any, basis: Any, xp: Any) -> Any:
    """Each column of `block` (n, k) without what lies in its own basis (k, steps, n)."""
    along = basis @ block.T[:, :, None]
    return block - (xp.matrix_transpose(basis) @ along)[:, :, 0].T
