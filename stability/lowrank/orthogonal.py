"""Orthonormal bases of tall blocks, from their Gram matrices.

Tall products are taken on the device, small algebra in float64 on the host.

Blocks of k vectors are kept as rows, (k, n): any leading part of a basis is then contiguous in every library.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .._array import Backend

PASSES = 8
Normals = Callable[[tuple[int, int]], Any]


def couplings(basis: Any, rows: Any, backend: Backend) -> np.ndarray:
    """Inner products of two sets of rows, (K, n) and (k, n): shape (K, k), float64 on the host."""
    return np.asarray(backend.host(basis @ rows.T), dtype=np.float64)


def combined(basis: Any, weights: np.ndarray, backend: Backend) -> Any:
    """Combinations (k, n) of rows (K, n), one for each column of `weights` (K, k) on the host."""
    return backend.asarray(weights.T) @ basis


def orthonormalize(
    rows: Any, basis: Any, backend: Backend, normals: Normals, known: np.ndarray | None = None
) -> tuple[Any, np.ndarray]:
    """Orthonormal rows W, orthogonal to the orthonormal `basis`, with ``rows = C.T basis + R.T W``.

    Each pass projects and normalises at once from one Gram matrix. It squares the condition number, and is
    repeated until what that leaves is below a hundredth of the root of the rounding unit (1e-10, or 3e-6 in
    float32). What lies below the rounding of the first pass is only lifted, for the next to see. Directions
    that a second pass still cannot see are not in the block; random ones take their places, and have zero
    rows in R.

    Parameters
    ----------
    rows : array, shape (k, n)
        Not changed.
    basis : array, shape (K, n)
        K = 0 for none.
    normals : callable
        Standard normals on the device, by shape.
    known : array, shape (K, k), optional
        The couplings of `basis` and `rows` where they are at hand.

    Returns
    -------
    W : array, shape (k, n)
    R : array, shape (k, k), on the host
    """
    factor, n = np.eye(rows.shape[0]), rows.shape[1]
    unit = float(np.finfo(backend.dtype).eps)
    for attempt in range(PASSES):
        along = couplings(basis, rows, backend) if known is None or attempt else known
        whole = couplings(rows, rows, backend)
        rest = whole - along.T @ along
        squares, turn = np.linalg.eigh(0.5 * (rest + rest.T))
        largest = float(np.max(np.diag(whole)))
        floor = 100 * unit * largest
        lost = squares <= floor
        lengths = np.sqrt(np.where(lost, floor if floor > 0 else 1.0, squares))
        factor = (lengths[:, None] * turn.T) @ factor
        rows = combined(rows, turn / lengths, backend)
        if along.size:
            rows -= combined(basis, along @ (turn / lengths), backend)
        if attempt and lost.any():
            gone = int(np.count_nonzero(lost))  # eigh sorts: they come first
            # Of about unit length, so that the next pass sees them as large as the others.
            rows[:gone, :] = normals((gone, n)) / n**0.5
            factor[:gone] = 0.0
        elif unit * largest < 0.01 * unit**0.5 * squares[0]:
            break
    return rows, factor
