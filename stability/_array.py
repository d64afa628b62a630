"""Host arrays and random streams: the one file that will know NumPy from other array libraries."""

from __future__ import annotations

import numpy as np

BLOCK = 512
"""Paths per random stream. A stored constant: changing it changes every seeded number."""


def stream(seed: int, block: int) -> np.random.Generator:
    """The random stream of one block of paths.

    Each block has its own generator and always draws for all its ``BLOCK`` paths, so that the numbers
    depend neither on how many workers share the blocks nor on how many paths are asked for.
    """
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence(seed, spawn_key=(block,))))


def matvec(matrix: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """``matrix @ vector`` over any leading axes: (..., d, d), (..., d) -> (..., d)."""
    if matrix.ndim == 2:  # one matrix for all: one GEMM instead of a loop of small products
        return vector @ matrix.T
    return (matrix @ vector[..., None])[..., 0]


def transpose(matrix: np.ndarray) -> np.ndarray:
    """The last two axes exchanged."""
    return np.swapaxes(matrix, -1, -2)
