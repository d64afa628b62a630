"""Orthonormal bases of tall blocks, from Gram matrices: tall products on the device, small algebra in float64 on the host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ._array import Backend

PASSES = 8


def couplings(basis: Sequence[Any], block: Any, backend: Backend) -> np.ndarray:
    """``basis.T @ block`` on the host in float64, for a basis kept as a list of blocks (n, k_j): shape (sum k_j, k)."""
    if not basis:
        return np.zeros((0, block.shape[1]))
    products = [one.T @ block for one in basis]
    joined = products[0] if len(products) == 1 else backend.xp.concat(products, axis=0)  # one copy to the host, not one for each block
    return np.asarray(backend.host(joined), dtype=np.float64)


def combined(basis: Sequence[Any], weights: np.ndarray, backend: Backend) -> Any:
    """``basis @ weights``, shape (n, k), for a basis kept as a list of blocks and weights on the host."""
    total, first = None, 0
    for one in basis:
        part = one @ backend.asarray(weights[first : first + one.shape[1]])
        total, first = part if total is None else _added(total, part), first + one.shape[1]
    return total


def _added(total: Any, part: Any) -> Any:
    total += part  # both are ours
    return total


Normals = Callable[[tuple[int, int]], Any]


def orthonormalize(block: Any, basis: Sequence[Any], backend: Backend, normals: Normals, known: np.ndarray | None = None) -> tuple[Any, np.ndarray]:
    """Orthonormal columns W, orthogonal to `basis`, with ``block = basis C + W R``.

    Each pass projects and normalises at once from one Gram matrix, and is repeated until its input was already nearly
    orthonormal, so that its output is so to rounding. A single pass squares the block's condition number: what lies below
    its rounding is only lifted to be seen by the next. Directions that a second pass still cannot see are not in the
    block; random ones take their places, and have zero rows in R.

    Parameters
    ----------
    block : array, shape (n, k)
        Not changed.
    basis : list of arrays (n, k_j), with orthonormal columns
    normals : callable
        Standard normals on the device, by shape.
    known : array, optional
        ``basis.T @ block`` where it is at hand.

    Returns
    -------
    W : array, shape (n, k)
    R : array, shape (k, k), on the host
    """
    remainder = np.eye(block.shape[1])
    resolution = 100 * float(np.finfo(backend.dtype).eps)
    for attempt in range(PASSES):
        along = couplings(basis, block, backend) if known is None or attempt else known
        whole = couplings([block], block, backend)
        squared, turn = np.linalg.eigh(_symmetric(whole - along.T @ along))
        floor = resolution * float(np.max(np.diag(whole)))
        lost = squared <= floor
        lengths = np.sqrt(np.where(lost, floor if floor > 0 else 1.0, squared))
        turned = turn / lengths
        remainder = (lengths[:, None] * turn.T) @ remainder
        orthonormal = max(np.linalg.norm(along), np.linalg.norm(whole - np.eye(len(whole)))) < 0.3
        # The sum with the basis last: rounding is then that of the remainder.
        own = block @ backend.asarray(turned)
        block = own if not basis else _subtracted(own, combined(basis, along @ turned, backend))
        if attempt and lost.any():
            gone = int(np.count_nonzero(lost))  # eigh sorts: they come first
            block[:, :gone] = normals((block.shape[0], gone)) / block.shape[0] ** 0.5
            remainder[:gone] = 0.0
        elif orthonormal and not lost.any():
            break
    return block, remainder


def _subtracted(total: Any, part: Any) -> Any:
    total -= part
    return total


def _symmetric(matrix: np.ndarray) -> np.ndarray:
    return 0.5 * (matrix + matrix.T)
