"""Random streams and blocks of paths: the same numbers whatever the workers."""

from __future__ import annotations

import numpy as np


def block_size(dim: int) -> int:
    """Paths per random stream in `dim` dimensions: a power of two whose state fits a fast cache.

    A stored constant: changing it changes every seeded number.
    """
    return max(128, min(2048, 2**15 >> (dim - 1).bit_length()))


SMALLEST_BLOCK = 256


def block_rows(number: int, dim: int) -> range:
    """The paths of one block: a small one first, each as large as all before it, then blocks of full size.

    A stored rule too: a small ensemble draws few numbers in vain, a large one works in full blocks, and the
    first paths of every ensemble are the same.
    """
    first, full, growing = _growth(dim)
    if number > growing:
        return range((number - growing) * full, (number - growing + 1) * full)
    return range(0 if number == 0 else first << (number - 1), first << number)


def block_count(paths: int, dim: int) -> int:
    """How many blocks hold `paths` paths."""
    first, full, growing = _growth(dim)
    return growing + -(-paths // full) if paths > full else ((paths - 1) // first).bit_length() + 1


def _growth(dim: int) -> tuple[int, int, int]:
    """Paths of the first and of a full block, and the doublings between them."""
    full = block_size(dim)
    first = min(SMALLEST_BLOCK, full)
    return first, full, (full // first).bit_length() - 1


def stream(seed: int, block: int, *level: int) -> np.random.Generator:
    """The random stream of one block of paths (and, for refined Brownian paths, of one level of bridging).

    Each block has its own generator and always draws for all its paths, so that the numbers depend neither on
    how many workers share the blocks nor on how many paths are asked for.
    """
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence(seed, spawn_key=(block, *level))))
