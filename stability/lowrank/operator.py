"""The operator behind the eigensolvers: its products are counted and checked, its cores kept on the host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .._array import Backend
from .._orthogonal import combined, couplings, orthonormalize


class BadProducts(ValueError):
    """The products are not those of one symmetric matrix: not finite, or not symmetric."""


@dataclass
class Operator:
    """The mean of the sub-batches' operators, each known by its block products."""

    parts: Sequence[Callable[[Any], Any]]
    n: int
    backend: Backend
    normals: Callable[[tuple[int, int]], Any]
    columns: int = 0

    def image(self, block: Any, basis: Sequence[Any]) -> tuple[Any, np.ndarray]:
        """``H block``, shape (n, k), and each sub-batch's ``basis.T H_j block``, shape (m, K, k) on the host."""
        self.columns += block.shape[1]
        total: Any = None
        cores = []
        for number, part in enumerate(self.parts):
            product = self._product(part, block)
            cores.append(couplings(basis, product, self.backend))
            # The first product may be the caller's own array: never written.
            total = product if number == 0 else _plus(total, product, fresh=number > 1)
        if not np.isfinite(cores).all():
            raise BadProducts("`hvp` must give finite products; some are nan or infinite. Check the objective at this point: has the iteration diverged?")
        return (total if len(cores) == 1 else total / len(cores)), np.stack(cores)

    def _product(self, part: Callable[[Any], Any], block: Any) -> Any:
        product = part(block)
        if getattr(product, "shape", None) is None or tuple(product.shape) != tuple(block.shape):
            raise ValueError(f"`hvp` must map (n, k) to (n, k); got {_described(product)} for shape {tuple(block.shape)}.")
        if product.dtype != block.dtype:
            raise ValueError(f"`hvp` must keep the type of its argument, {block.dtype}; got {product.dtype}. Convert the data, or choose `dtype`.")
        return product

    def filled(self, start: Any, width: int) -> Any:
        """The first columns of `start`, and random ones up to this width."""
        have = 0 if start is None else min(width, start.shape[1])
        if have == width:
            return start[:, :width]
        fresh = self.normals((self.n, width - have)) / self.n**0.5
        return fresh if have == 0 else self.backend.xp.concat([start[:, :have], fresh], axis=1)

    def orthonormal(self, block: Any, basis: Sequence[Any] = (), known: np.ndarray | None = None) -> tuple[Any, np.ndarray]:
        """Orthonormal columns for `block` off `basis`, and their factor."""
        return orthonormalize(block, basis, self.backend, self.normals, known)


def _plus(total: Any, product: Any, *, fresh: bool) -> Any:
    if not fresh:
        return total + product
    total += product
    return total


def _described(product: Any) -> str:
    return f"shape {tuple(product.shape)}" if hasattr(product, "shape") else type(product).__name__


@dataclass
class Space:
    """A growing orthonormal basis Q (a list of blocks) with the cores ``Q.T H_j Q`` and what of ``H Q`` lies off Q.

    Attributes
    ----------
    cores : array, shape (m, size, size)
        Symmetric; only the leading `filled` rows and columns hold numbers.
    loose : list of (slice, array)
        Columns of Q whose images are not in the span of Q, and the Gram matrix of what is left of them.
    """

    operator: Operator
    size: int
    basis: list[Any] = field(default_factory=list)
    filled: int = 0
    loose: list[tuple[slice, np.ndarray]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.cores = np.zeros((len(self.operator.parts), self.size, self.size))

    def extend(self, block: Any, expected: np.ndarray | None = None) -> Any:
        """Add orthonormal columns and return their image; `expected` is ``block.T H (the previous columns)``."""
        self.basis.append(block)
        image, along = self.operator.image(block, self.basis)
        before, self.filled = self.filled, self.filled + block.shape[1]
        own = along[:, before:]
        self.cores[:, :before, before : self.filled] = along[:, :before]
        self.cores[:, before : self.filled, :before] = along[:, :before].transpose(0, 2, 1)
        self.cores[:, before : self.filled, before : self.filled] = 0.5 * (own + own.transpose(0, 2, 1))
        pairs = [(own.mean(axis=0), own.mean(axis=0).T)]
        if expected is not None:
            pairs.append((along.mean(axis=0)[before - expected.shape[1] : before], expected.T))
        check_symmetric(pairs, self.core, self.operator.backend.dtype)
        return image

    def next_block(self, image: Any, fill: Any = None) -> tuple[Any, np.ndarray]:
        """Orthonormal columns for the last block's image off the basis (and `fill` beside it), and their factor."""
        width = image.shape[1]
        known = self._last_couplings(width) if fill is None else None
        beside = image if fill is None else self.operator.backend.xp.concat([image, fill], axis=1)
        block, factor = self.operator.orthonormal(beside, self.basis, known)
        return block, factor[:, :width]

    def leave(self, image: Any) -> np.ndarray:
        """Note what of the last block's image lies off the basis, where it will not be followed; its Gram matrix."""
        width, backend = image.shape[1], self.operator.backend
        rest = image - combined(self.basis, self._last_couplings(width), backend)
        gram = couplings([rest], rest, backend)
        self.loose.append((slice(self.filled - width, self.filled), gram))
        return gram

    def _last_couplings(self, width: int) -> np.ndarray:
        return self.core[:, self.filled - width : self.filled]

    @property
    def core(self) -> np.ndarray:
        """``Q.T H Q`` of the mean, shape (filled, filled)."""
        return self.cores[:, : self.filled, : self.filled].mean(axis=0)


def check_symmetric(pairs: Sequence[tuple[np.ndarray, np.ndarray]], core: np.ndarray, dtype: str) -> None:
    """Compare blocks of ``Q.T H Q`` with what their transposes were found to be, beside the size of the whole core."""
    gap = max(np.max(np.abs(found - transposed), initial=0.0) for found, transposed in pairs)
    size = np.max(np.abs(core), initial=0.0)
    if gap > 20 * np.finfo(dtype).eps ** 0.5 * size:
        raise BadProducts(
            f"`hvp` must be one symmetric operator; its products disagree with their transposes by {gap / size:.2g} of their size. "
            "If it draws a new batch at every call, fix the batch; else check the derivative."
        )
