"""The operator behind the eigensolvers: its products are counted and checked, its cores kept on the host."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import _check
from .._array import Backend
from .orthogonal import combined, couplings, orthonormalize


class BadProducts(ValueError):
    """The products are not those of one symmetric matrix, or not finite numbers of their type.

    Examples
    --------
    >>> import numpy as np, stability as st
    >>> try:
    ...     st.randomized_eigh(lambda V: np.triu(np.ones((9, 9))) @ V, 9, 2)
    ... except st.BadProducts as error:
    ...     print(str(error)[:36])
    `hvp` must be one symmetric operator
    """


class NotFinite(BadProducts):
    """Some products are nan or infinite, too small for their type, or have squares too large for it."""


@dataclass
class Operator:
    """The mean of the sub-batches' operators, each known by its block products.

    Attributes
    ----------
    columns : int
        Products so far.
    scale : float
        A power of two that the images are multiplied by, so that squares neither underflow nor overflow; 0
        before the first that is not zero.
    unit : float
        The rounding unit of the arithmetic behind the products: that of their type, or a coarser one that
        they carry as `unit`, as under autocast, or were converted from; 0 before the first.
    """

    parts: Sequence[Callable[[Any], Any]]
    n: int
    backend: Backend
    normals: Callable[[tuple[int, int]], Any]
    columns: int = 0
    scale: float = 0.0
    unit: float = 0.0

    def image(self, rows: Any, basis: Any) -> tuple[Any, np.ndarray]:
        """``scale H`` times rows (k, n); the sub-batches' couplings with the basis (m, K, k), on the host."""
        self.columns += rows.shape[0]
        total: Any = None
        cores = []
        # Where there is nothing to project on, one row still finds what is not finite.
        against = basis if basis.shape[0] else rows[:1, :]
        for number, part in enumerate(self.parts):
            product = self._product(part, rows.T).T
            with np.errstate(over="ignore", invalid="ignore"):  # found below
                cores.append(couplings(against, product, self.backend))
                # The first product may be the caller's own array: never written.
                total = product if number == 0 else _plus(total, product, fresh=number > 1)
        if not np.isfinite(cores).all():
            if bool(self.backend.xp.all(self.backend.xp.isfinite(total))):
                raise self._too_large()
            raise NotFinite(
                "`hvp` must give finite products; some are nan or infinite. Check the objective at this "
                "point: has the iteration diverged?"
            )
        mean = total if len(cores) == 1 else total / len(cores)
        self.scale = self.scale or self._scale_of(mean)
        if self.factor == 1.0:
            return mean, np.stack(cores)
        with np.errstate(over="ignore"):
            scaled = np.stack(cores) * self.scale
            if not np.isfinite(scaled).all():
                raise self._too_large()
            return mean * self.scale, scaled

    @property
    def factor(self) -> float:
        """What the images are multiplied by so far."""
        return self.scale or 1.0

    def _scale_of(self, image: Any) -> float:
        """1 where the squares of rounding errors are far from underflow, and of images from overflow.

        Else no more than is needed.
        """
        xp, limits = self.backend.xp, np.finfo(self.backend.dtype)
        tiny, eps, large = float(limits.tiny), float(limits.eps), float(limits.max) ** 0.5
        peak = max(float(xp.max(image)), -float(xp.min(image)))
        if 0.0 < peak < self.n**0.5 * tiny / eps:
            raise NotFinite(
                f"`hvp` must give products well above the smallest {self.backend.dtype} numbers; got "
                f"{peak:.2g} at most. Scale the objective up."
            )
        if peak > large * eps:  # the images of other vectors may be as much larger again
            return 2.0 ** -math.ceil(math.log2(peak))
        enough = tiny**0.5 / eps
        # Half way to 1 only, in powers of two: later images may be larger, and their squares overflow.
        return 2.0 ** math.ceil(math.log2(enough**0.5 / peak)) if 0.0 < peak < enough else float(peak > 0.0)

    def _product(self, part: Callable[[Any], Any], block: Any) -> Any:
        product = part(block)
        if isinstance(block, np.ndarray) and type(product) is not np.ndarray and hasattr(product, "shape"):
            product = _check.numbers_of("hvp", product)
        if getattr(product, "shape", None) is None or tuple(product.shape) != tuple(block.shape):
            raise ValueError(
                f"`hvp` must map (n, k) to (n, k); got {_described(product)} for shape {tuple(block.shape)}."
            )
        if product.dtype != block.dtype:
            raise ValueError(
                f"`hvp` must keep the type of its argument, {block.dtype}; got {product.dtype}. Convert the "
                "data, or choose `dtype`."
            )
        self.unit = self.unit or max(getattr(part, "unit", 0.0), _check.unit(product))
        return product

    def filled(self, start: Any, width: int) -> Any:
        """The first columns of `start` (n, K), and random ones up to this width, as rows."""
        have = 0 if start is None else min(width, start.shape[1])
        if have == width:
            return start[:, :width].T
        fresh = self.normals((width - have, self.n)) / self.n**0.5
        return fresh if have == 0 else self.backend.xp.concat([start[:, :have].T, fresh], axis=0)

    def squares(self, rows: Any) -> np.ndarray:
        """The Gram matrix of rows, finite."""
        with np.errstate(over="ignore", invalid="ignore"):
            gram = couplings(rows, rows, self.backend)
        if not np.isfinite(gram).all():
            raise self._too_large()
        return gram

    def orthonormal(
        self, rows: Any, basis: Any = None, known: np.ndarray | None = None
    ) -> tuple[Any, np.ndarray]:
        """Orthonormal rows for these off the basis, and their factor."""
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                return orthonormalize(
                    rows, rows[:0, :] if basis is None else basis, self.backend, self.normals, known
                )
        except np.linalg.LinAlgError:  # a Gram matrix that is not finite
            raise self._too_large() from None

    def _too_large(self) -> NotFinite:
        return NotFinite(
            f"`hvp` must give products whose squares are finite in {self.backend.dtype}. Scale the objective "
            "down."
        )


def _plus(total: Any, product: Any, *, fresh: bool) -> Any:
    if not fresh:
        return total + product
    total += product
    return total


def _described(product: Any) -> str:
    return f"shape {tuple(product.shape)}" if hasattr(product, "shape") else type(product).__name__


@dataclass
class Space:
    """A growing orthonormal basis Q with the cores ``Q.T H_j Q``, and what of ``H Q`` lies off Q.

    Attributes
    ----------
    rows : array, shape (size, n)
        The basis vectors; the leading `filled` are there.
    cores : array, shape (m, size, size)
        Symmetric, on the host.
    loose : list of (slice, array)
        Basis vectors whose images are not in the span of Q, and the Gram matrix of what is left of these.
    """

    operator: Operator
    size: int
    filled: int = 0
    loose: list[tuple[slice, np.ndarray]] = field(default_factory=list)

    def __post_init__(self) -> None:
        operator, backend = self.operator, self.operator.backend
        self.rows = backend.xp.empty(
            (self.size, operator.n), dtype=getattr(backend.xp, backend.dtype), device=backend.device
        )
        self.cores = np.zeros((len(operator.parts), self.size, self.size))

    @property
    def basis(self) -> Any:
        """The vectors that are there, as rows (filled, n)."""
        return self.rows[: self.filled, :]

    @property
    def core(self) -> np.ndarray:
        """``Q.T H Q`` of the mean, shape (filled, filled)."""
        return self.cores[:, : self.filled, : self.filled].mean(axis=0)

    def extend(self, block: Any, expected: np.ndarray | None = None) -> Any:
        """Add orthonormal rows and return their image.

        `expected` are their couplings with the previous rows' image, known from its factor.
        """
        before, self.filled = self.filled, self.filled + block.shape[0]
        self.rows[before : self.filled, :] = block
        del block  # freed where the caller keeps none
        image, along = self.operator.image(self.rows[before : self.filled, :], self.basis)
        own = along[:, before:]
        self.cores[:, :before, before : self.filled] = along[:, :before]
        self.cores[:, before : self.filled, :before] = along[:, :before].transpose(0, 2, 1)
        self.cores[:, before : self.filled, before : self.filled] = 0.5 * (own + own.transpose(0, 2, 1))
        pairs = [(own.mean(axis=0), own.mean(axis=0).T)]
        if expected is not None:
            # The block before had the image ... + R^T block, so that
            # its couplings with this block's image must be R^T.
            pairs.append((along.mean(axis=0)[before - expected.shape[1] : before], expected.T))
        check_symmetric(pairs, self.core, self.operator.unit)
        return image

    def next_block(self, image: Any, fill: Any = None) -> tuple[Any, np.ndarray]:
        """Orthonormal rows for the last image (and `fill` below it) off the basis, and the image's factor."""
        width = image.shape[0]
        if fill is None:
            return self.operator.orthonormal(image, self.basis, self.last_couplings(width))
        block, factor = self.operator.orthonormal(
            self.operator.backend.xp.concat([image, fill], axis=0), self.basis
        )
        return block, factor[:, :width]

    def make_room(self, more: int) -> None:
        """For so many vectors beyond those that are there."""
        old, cores, self.size = self.basis, self.cores[:, : self.filled, : self.filled], self.filled + more
        self.__post_init__()
        self.rows[: self.filled, :] = old
        self.cores[:, : self.filled, : self.filled] = cores

    def leave(self, image: Any) -> None:
        """Note what of the last block's image lies off the basis, where it will not be followed."""
        width, operator, backend = image.shape[0], self.operator, self.operator.backend
        along, whole = self.last_couplings(width), operator.squares(image)
        # Pythagoras: the basis is orthonormal, and the image itself is not projected.
        gram = whole - along.T @ along
        if np.trace(gram) < 1e5 * np.finfo(backend.dtype).eps * np.trace(whole):
            # So little is left that a difference of squares would be rounding.
            rest = image - combined(self.basis, along, backend)
            gram = operator.squares(rest)
        self.loose.append((slice(self.filled - width, self.filled), gram))

    def last_couplings(self, width: int) -> np.ndarray:
        """``Q.T H`` times the last so many vectors."""
        return self.core[:, self.filled - width :]


def check_symmetric(pairs: Sequence[tuple[np.ndarray, np.ndarray]], beside: np.ndarray, unit: float) -> None:
    """Compare blocks of ``Q.T H Q`` with what their transposes were found to be: equal, for their size.

    Up to the root of the rounding unit, and never farther apart than a quarter.
    """
    gap = max(np.max(np.abs(found - transposed), initial=0.0) for found, transposed in pairs)
    size = np.max(np.abs(beside), initial=0.0)
    if gap > min(20 * unit**0.5, 0.25) * size:
        raise BadProducts(
            "`hvp` must be one symmetric operator; its products disagree with their transposes by "
            f"{gap / size if size else math.inf:.2g} of their size. "
            "If it draws a new batch at every call, fix the batch; else check the derivative."
        )
