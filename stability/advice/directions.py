"""Directions in blocks, scaled one by one: all of them together would take as much memory once more."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from .._array import Backend

PIECE = 2**16
"""Entries of vectors that are worked on at a time."""


class Directions:
    """Columns (n, k) of a place's own kind, which a place asks for as ``V[:, i]`` and ``V[:, i:j]``.

    Parameters
    ----------
    backend : Backend
    blocks : sequence of arrays (n, .)
    scale : callable, optional
        (n, .) -> (n, .), of each column by itself: what is asked for is scaled then.

    Examples
    --------
    >>> import numpy as np
    >>> from stability._array import Backend
    >>> from stability.advice.directions import Directions
    >>> V = Directions(Backend("numpy", np), [np.eye(3)[:, :1], np.eye(3)[:, 1:2]], lambda v: 2 * v)
    >>> V.shape, V[:, 1]
    ((3, 2), array([0., 2., 0.]))
    """

    def __init__(self, backend: Backend, blocks: Sequence[Any], scale: Callable[[Any], Any] | None = None):
        self.backend, self.blocks, self.scale = backend, list(blocks), scale
        ends = np.cumsum([0, *(block.shape[1] for block in self.blocks)])
        self._spans = list(zip(ends[:-1], ends[1:], self.blocks, strict=True))
        self.shape = (int(self.blocks[0].shape[0]), int(ends[-1]))

    def __getitem__(self, at: tuple[slice, Any]) -> Any:
        _, columns = at
        if not isinstance(columns, slice):
            return self[:, slice(columns, columns + 1)][:, 0]
        start, stop, _ = columns.indices(self.shape[1])
        parts = [
            block[:, max(start - low, 0) : stop - low]
            for low, high, block in self._spans
            if low < stop and start < high
        ]
        found = parts[0] if len(parts) == 1 else self.backend.xp.concat(parts, axis=1)
        return found if self.scale is None else self.scale(found)

    def joined(self, block: Any) -> Directions:
        """These and some more."""
        return Directions(self.backend, [*self.blocks, block], self.scale)

    def scaled(self, scale: Callable[[Any], Any]) -> Directions:
        """The same columns, each to be scaled when it is asked for."""
        return Directions(self.backend, self.blocks, scale)

    def gram(self, image: Callable[[Any], Any]) -> np.ndarray:
        """``V^T A V`` (k, k) of what a symmetric matrix makes of single columns (n, 1)."""
        return np.column_stack([self._along(image(column)) for column in self._each()])

    def combined(self, weights: np.ndarray) -> Any:
        """``V c`` (n, j) of weights (k, j)."""
        return -self._less(self.backend.xp.zeros_like(self.blocks[0][:, : weights.shape[1]]), weights)

    def off(self, W: Any, passes: int = 2, *, fresh: bool = False) -> Any:
        """W (n, j) without what lies along the columns, which are orthonormal; twice, for rounding.

        What is fresh is written into.
        """
        W = W if fresh else self.backend.xp.asarray(W, copy=True)
        for _ in range(passes):
            W = self._less(W, self._along(W))
        return W

    def _less(self, W: Any, weights: np.ndarray) -> Any:
        """``W - V c``, written into W piece by piece."""
        shares = [self.backend.asarray(weights[low:high]) for low, high, _ in self._spans]
        for i in range(0, self.shape[0], PIECE):
            piece = slice(i, i + PIECE)
            for block, share in zip(self.blocks, shares, strict=True):
                W[piece, :] -= block[piece, :] @ share
        return W

    def _each(self) -> Iterator[Any]:
        for block in self.blocks:
            for i in range(block.shape[1]):
                yield block[:, i : i + 1]

    def _along(self, W: Any) -> np.ndarray:
        """``V^T W`` (k, j)."""
        return np.concatenate([self.backend.host(block.T @ W) for block in self.blocks])
