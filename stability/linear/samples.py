"""Second moments from samples: what all samples' Hessians do together, with no matrix per sample.

The Hessian of sample s is ``Z_s^T Z_s`` + a constant, with few rows ``Z_s`` (o, d): one for regression. In
the eigenbasis of the mean Hessian, whose part from the samples is ``diag(h)``, the deviation ``E_s = Z_s^T
Z_s - diag(h)`` enters second moments as ``E[E M E] = mean_s Z_s^T C_s Z_s - diag(h) M diag(h)``, ``C_s = Z_s
M Z_s^T``: one small matrix, the *sample weight*, per sample, and two products with all samples.

The Hessian batch bends the preconditioner by ``DP[E] = Phi o E``, entry by entry: where `aligned` says so the
same map serves, else `Slices` or `Frames` have its square as cheaply as Phi allows.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np

from ..noise import blocks

SLICE_BYTES = 2e9
"""Memory that `Slices` may take; `Frames` take none, and time instead."""
_SINGLE = 2**26  # numbers above which slices are kept in single precision
_MODERATE = 1e15  # sizes up to this, and from one over it on: single precision has the products of four
_BLOCK = 256  # columns at once: they stay in the processor's cache
_CACHED = 2**17  # numbers that do
_HELD = 2.5e7  # numbers that are kept instead of computed anew
_NEGLIGIBLE = 1e-14  # of the largest: terms of Phi that are rounding


class Samples:
    """All samples' Hessians on the modes.

    Attributes
    ----------
    rows : array (n, o, d)
        ``Z``.
    mean : array (d,) or (d, d)
        ``h``, the diagonal of ``mean_s Z_s^T Z_s``, which has no other entries in the eigenbasis; on modes
        that are not orthonormal (`skew`) the matrix.
    """

    def __init__(self, rows: np.ndarray, *, skew: bool = False):
        self.rows, self.skew = rows, skew
        self.n, self.rank, self.dim = rows.shape
        if skew:
            flat = rows.reshape(-1, self.dim).astype(float, copy=False)
            self.mean = flat.T @ flat / self.n
        else:
            self.mean = np.einsum("sod,sod->d", rows, rows, dtype=float) / self.n
        self._slices: dict[int, np.ndarray] = {}
        self._squares: dict[int, np.ndarray] = {}

    @classmethod
    def along(cls, rows: np.ndarray, vectors: np.ndarray, *, skew: bool = False) -> Samples:
        """From rows in the original coordinates (n, o, d), and modes as columns (d, d)."""
        return cls(_times(rows, vectors), skew=skew)

    @property
    def moderate(self) -> bool:
        """Whether single precision has room for products of four rows."""
        return moderate(self.mean)

    @functools.cached_property
    def single(self) -> Samples:
        """The same in single precision, which takes half the time."""
        return Samples(self.rows.astype(np.float32), skew=self.skew)

    def parts(self, copies: int = 1) -> Iterator[np.ndarray]:
        """Blocks of samples (., o, d), small where a sample takes `copies` times its rows."""
        return (self.rows[part] for part in blocks(self.n, copies * self.rank * self.dim))

    def feed(self, M: np.ndarray) -> np.ndarray:
        """``mean_s Z_s^T Z_s M Z_s^T Z_s`` for symmetric M (d, d)."""
        total, lower = np.zeros(M.shape, self.rows.dtype), self._lower(M)
        for Z in self.parts():
            _spread(total, Z, _weights(Z, lower))
        total /= self.n
        return _mirrored(total)

    def spread(self, weights: np.ndarray) -> np.ndarray:
        """``mean_s Z_s^T C_s Z_s`` of symmetric weights (n, o, o)."""
        total = np.zeros((self.dim,) * 2, self.rows.dtype)
        _spread(total, self.rows, weights)
        total /= self.n
        return _mirrored(total)

    def _lower(self, M: np.ndarray) -> np.ndarray:
        """L of ``M = L + L^T``, lower triangular: products with it are half the work of those with M."""
        lower = np.tril(M.astype(self.rows.dtype, copy=False))
        lower[np.diag_indices_from(lower)] /= 2
        return lower

    @functools.cached_property
    def _square(self) -> np.ndarray:
        return np.outer(self.mean, self.mean).astype(self.rows.dtype)

    def centred(self, M: np.ndarray) -> np.ndarray:
        """``mean_s E_s M E_s`` for symmetric M (d, d)."""
        return self.feed(M) - self._between(M)

    def _between(self, M: np.ndarray) -> np.ndarray:
        """``h M h``."""
        return self._between_skew(M) if self.skew else self._square * M

    def _between_skew(self, M: np.ndarray) -> np.ndarray:
        mean = self.mean.astype(self.rows.dtype, copy=False)
        return mean @ M.astype(mean.dtype, copy=False) @ mean

    def pulled(self, m: np.ndarray) -> np.ndarray:
        """``h m`` (d,)."""
        return self.mean @ m if self.skew else self.mean * m

    def share(self, M: np.ndarray, scale: np.ndarray) -> float:
        """Trace of ``diag(scale) mean_s E_s M E_s diag(scale)``: the weights tell it alone."""
        seen, lower, squares = 0.0, self._lower(M), (scale**2).astype(self.rows.dtype)
        for Z in self.parts():
            seen += float(np.sum(_weights(Z, lower) * _products(Z * squares, Z), dtype=float))
        if self.skew:
            return seen / self.n - float(scale**2 @ np.diag(self._between(M)))
        return seen / self.n - float((scale * self.mean) ** 2 @ np.diag(M))

    @functools.cached_property
    def variances(self) -> np.ndarray:
        """Variances (d, d) of the entries of ``E_s``."""
        total = np.zeros((self.dim,) * 2)
        for Z in self.parts(self.rank):
            pairs = (Z[:, :, None] * Z[:, None]).reshape(-1, self.dim)
            total += pairs.T @ pairs
        own = self.mean**2 if self.skew else np.diag(self.mean**2)
        # A difference of two sums: below zero it is rounding.
        return np.maximum(total / self.n - own, 0.0)

    def moments(self, entry: int) -> np.ndarray:
        """``mean_s (Z_s^T Z_s)_ii Z_s^T Z_s`` (d, d) at ``i = entry``."""
        rows = self.rows * np.linalg.norm(self.rows[:, :, entry], axis=1)[:, None, None]
        flat = rows.reshape(-1, self.dim)
        return flat.T @ flat / self.n

    def squares(self, entry: int) -> np.ndarray:
        """``mean_s (E_s)_.k (E_s)_k.^T`` (d, d) at ``k = entry``."""
        if (known := self._squares.get(entry)) is not None:
            return known
        rows = np.einsum("so,sod->sd", self.rows[:, :, entry], self.rows)
        result = rows.T @ rows / self.n
        result[entry, entry] -= self.mean[entry] ** 2
        if self.dim**3 <= _HELD:  # methods share them
            self._squares[entry] = result
        return result

    def slices(self, kept: int) -> np.ndarray:
        """``mean_s (Z_s^T Z_s)_i. (Z_s^T Z_s)_k.^T`` of the first modes i <= k, (pairs, d, d)."""
        if kept not in self._slices:
            self._slices = {kept: self._sliced(kept)}  # of one rank, which several methods share
        return self._slices[kept]

    def _sliced(self, kept: int) -> np.ndarray:
        pairs = _pairs(kept)
        result: np.ndarray = np.zeros((len(pairs), self.dim, self.dim), self._slice_type(kept))
        for Z in self.parts():
            Z = Z.astype(result.dtype, copy=False)
            for total, (i, k) in zip(result, pairs, strict=True):
                if self.rank == 1:  # symmetric: half the work
                    _add_gram(total, Z[:, 0], Z[:, 0, i] * Z[:, 0, k])
                else:
                    left, right = ((Z[:, :, None, m] * Z).sum(axis=1) for m in (i, k))
                    total += left.T @ right
        for total in result:
            total /= self.n
            if self.rank == 1:
                _mirrored(total)
        return result

    def _slice_type(self, kept: int) -> type:
        many = len(_pairs(kept)) * self.dim**2 > _SINGLE
        return np.float32 if many and self.moderate else np.float64

    def slice_bytes(self, kept: int) -> int:
        """Memory of the slices of so many kept modes, in bytes."""
        return len(_pairs(kept)) * self.dim**2 * np.dtype(self._slice_type(kept)).itemsize


def _times(rows: np.ndarray, M: np.ndarray) -> np.ndarray:
    """``rows @ M`` (n, o, d) as one product, not as a small one for every sample."""
    return (rows.reshape(-1, rows.shape[-1]) @ M).reshape(*rows.shape[:-1], M.shape[-1])


def _products(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """``one_s other_s^T`` (n, o, o) of rows (n, o, d)."""
    if one.shape[1] == 1:
        return np.einsum("sod,sod->so", one, other)[:, None]
    return one @ other.transpose(0, 2, 1)


def _weights(Z: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """``Z_s M Z_s^T`` (n, o, o) of ``M = lower + lower^T``."""
    import scipy

    trmm = scipy.linalg.blas.get_blas_funcs("trmm", (lower, Z))
    # BLAS reads columns: transposed, what lies row by row here is in its order, and nothing is copied.
    turned = trmm(1.0, lower.T, Z.reshape(-1, Z.shape[2]).T, lower=0).T
    half = _products(turned.reshape(Z.shape), Z)
    return half + half.transpose(0, 2, 1)


def _spread(total: np.ndarray, Z: np.ndarray, C: np.ndarray) -> None:
    """Add ``sum_s Z_s^T C_s Z_s`` for symmetric ``C_s`` (n, o, o) to the lower triangle of `total` (d, d)."""
    if Z.shape[1] == 1:
        _add_gram(total, Z[:, 0], C[:, 0, 0])
        return
    values, turn = np.linalg.eigh(C)
    _add_gram(total, (turn.transpose(0, 2, 1) @ Z).reshape(-1, Z.shape[2]), values.ravel())


def _add_gram(total: np.ndarray, rows: np.ndarray, weights: np.ndarray) -> None:
    """Add ``rows^T diag(weights) rows`` to the lower triangle of `total`: half the work of a product."""
    _add_lower(total, rows * weights[:, None], rows)


def _add_lower(total: np.ndarray, left: np.ndarray, right: np.ndarray) -> None:
    """Add the symmetric ``left^T right`` to the lower triangle of `total`.

    The square below both halves is one product, as large as can be: those run fastest, and on all cores.
    """
    half = len(total) // 2
    if len(total) <= _BLOCK:
        total += left.T @ right
        return
    total[half:, :half] += left[:, half:].T @ right[:, :half]
    for part in (slice(half), slice(half, None)):
        _add_lower(total[part, part], left[:, part], right[:, part])


def _mirrored(lower: np.ndarray) -> np.ndarray:
    """The symmetric matrix whose lower triangle is given, in its place."""
    for start in range(0, len(lower), _BLOCK):
        stop = start + _BLOCK
        lower[start:stop, stop:] = lower[stop:, start:stop].T
        own = lower[start:stop, start:stop]
        own += np.tril(own, -1).T - np.triu(own, 1)
    return lower


def aligned(gains: np.ndarray, divided: np.ndarray) -> float | None:
    """The number c of ``Phi = -c phi phi^T``, or None where Phi (d, d) is not of this form.

    It is for Newton, damped Newton and the saddle-free method at a minimum. Then ``DP[E] = -c P E P``, and
    everything is one application of the gradient batch's own map.
    """
    outer = np.outer(gains, gains)
    scale = -float(np.sum(divided * outer) / np.sum(outer**2))
    return None if np.any(np.abs(divided + scale * outer) > 1e-10 * abs(scale) * np.abs(outer)) else scale


class Bend:
    """What samples do to the preconditioner, ``DP[E_s] = Phi o E_s`` + the motion of a flat tail.

    Parameters
    ----------
    samples : Samples
    divided : array (d, d)
        ``Phi``.
    kept : int
        Of a truncated method: Phi is zero off the first `kept` rows and columns. d for any other.
    tail : tuple of int and float, optional
        Of a flat tail: the first mode left out, and the slope of the tail's gain with its eigenvalue.
    nested : bool
        Whether `cross` will be asked for.
    """

    def __init__(
        self,
        samples: Samples,
        divided: np.ndarray,
        kept: int,
        tail: tuple[int, float] | None = None,
        *,
        nested: bool = False,
    ):
        self.samples, self.divided, self.kept = samples, divided, kept
        self.mean = np.diag(divided) * samples.mean  # DP of the mean is diagonal
        self.tail = None if tail is None else np.where(np.arange(samples.dim) < kept, 0.0, tail[1])
        if self.tail is not None and tail is not None:
            self.next = tail[0]
            self.mean = self.mean + self.tail * samples.mean[self.next]
            self.moving = samples.moments(self.next)
        # Slices pay where few modes are kept; and they know no product of E_s with DP[E_s], which nested
        # batches need.
        whole = kept == samples.dim or nested or 2 * samples.slice_bytes(kept) > SLICE_BYTES
        self.form: Slices | Frames = (Frames if whole else Slices)(samples, divided, kept)

    def square(self, N: np.ndarray) -> np.ndarray:
        """``mean_s DP[E_s] N DP[E_s]`` for symmetric N (d, d)."""
        total = self.form.square(N)
        total -= self._square.astype(N.dtype, copy=False) * N
        if self.tail is None:
            return total
        mixed = self._mixed(N, self.tail.astype(N.dtype))
        total += mixed
        total += mixed.T
        square = self.moving[self.next, self.next] * np.outer(self.tail, self.tail)
        return total + square.astype(N.dtype, copy=False) * N

    def _mixed(self, N: np.ndarray, tail: np.ndarray) -> np.ndarray:
        """``(Phi o moving) N diag(tail)``: Phi has few rows and columns, and the product few operations."""
        one, result, kept = self._moved.astype(N.dtype, copy=False), np.empty_like(N), self.kept
        result[:kept] = one[:kept] @ N
        result[kept:] = one[kept:, :kept] @ N[:kept]
        result *= tail
        return result

    @functools.cached_property
    def _moved(self) -> np.ndarray:
        return self.divided * self.moving

    @functools.cached_property
    def _square(self) -> np.ndarray:
        return np.outer(self.mean, self.mean)

    def cross(self, M: np.ndarray) -> np.ndarray:
        """``mean_s E_s M DP[E_s]`` for any M (d, d); of nested batches."""
        assert isinstance(self.form, Frames)
        total = self.form.cross(M) - np.outer(self.samples.mean, self.mean) * M
        return total if self.tail is None else total + (self.moving @ M) * self.tail

    def turned(self, vectors: np.ndarray) -> np.ndarray:
        """``DP[E_s] v_s`` for a vector of every sample, (n, d) -> (n, d)."""
        Z = self.samples.rows
        total = np.einsum("sod,sod->sd", Z, _times(Z * vectors[:, None], self.divided)) - self.mean * vectors
        if self.tail is None:
            return total
        return total + np.sum(Z[:, :, self.next] ** 2, axis=1)[:, None] * self.tail * vectors


class Slices:
    """``X_s = Phi o Z_s^T Z_s`` of a truncated method, by fourth moments with two of its kept modes.

    ``X_s = sum_i e_i b_i^T + b_i e_i^T`` over the r kept modes, so that ``T_ik = mean_s b_i b_k^T`` is all
    that a square asks for: r (r + 1) / 2 matrices, made once.
    """

    def __init__(self, samples: Samples, divided: np.ndarray, kept: int):
        self.slices, self.pairs, self.kept = samples.slices(kept), _pairs(kept), kept
        psi = divided[:kept].copy()
        psi[:, :kept] /= 2  # entries between kept modes come twice
        self.psi = psi.astype(self.slices.dtype)

    def square(self, N: np.ndarray) -> np.ndarray:
        r, dim, psi = self.kept, len(N), self.psi
        N = N.astype(psi.dtype, copy=False)
        inner, rows, outer = np.zeros((r, r)), np.zeros((r, dim)), np.zeros_like(N)
        step = max(1, _CACHED // dim)
        for part in (slice(start, start + step) for start in range(0, dim, step)):
            for S, (i, k) in zip(self.slices, self.pairs, strict=True):
                T = S[part] * psi[k]
                T *= psi[i, part, None]
                inner[i, k] += np.vdot(T, N[part])
                rows[i] += N[k, part] @ T
                if i != k:
                    rows[k, part] += T @ N[i]
                T *= N[i, k] if i != k else N[i, k] / 2
                outer[part] += T
        total = outer + outer.T
        total[:r, :r] += inner + np.triu(inner, 1).T
        total[:r] += rows
        total[:, :r] += rows.T
        return total


class Frames:
    """``X_s = Phi o Z_s^T Z_s`` of any Phi: with ``Phi = sum_a c_a u_a u_a^T``, as ``R_s^T diag(c) R_s``.

    The rows ``R_s`` are ``u_a o Z_s``: exact, at as many times the cost of the gradient batch's own map as
    Phi has rank.
    """

    def __init__(self, samples: Samples, divided: np.ndarray, kept: int):
        values, vectors = np.linalg.eigh(divided)
        chosen = np.abs(values) > _NEGLIGIBLE * np.max(np.abs(values))
        self.samples, self.vectors = samples, vectors[:, chosen].T
        self.signs = np.repeat(values[chosen], samples.rank)

    def _parts(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for Z in self.samples.parts(len(self.vectors)):
            yield Z, (self.vectors[None, :, None] * Z[:, None]).reshape(len(Z), -1, self.samples.dim)

    def square(self, N: np.ndarray) -> np.ndarray:
        total = np.zeros_like(N)
        for _, R in self._parts():
            C = self.signs[:, None] * (_times(R, N) @ R.transpose(0, 2, 1)) * self.signs
            total += R.reshape(-1, len(N)).T @ (C @ R).reshape(-1, len(N))
        return total / self.samples.n

    def cross(self, M: np.ndarray) -> np.ndarray:
        """``mean_s Z_s^T Z_s M X_s``."""
        total = np.zeros_like(M)
        for Z, R in self._parts():
            C = (_times(Z, M) @ R.transpose(0, 2, 1)) * self.signs
            total += Z.reshape(-1, len(M)).T @ (C @ R).reshape(-1, len(M))
        return total / self.samples.n


def _pairs(kept: int) -> list[tuple[int, int]]:
    return [(i, k) for i in range(kept) for k in range(i, kept)]


def moderate(sizes: np.ndarray) -> bool:
    """Whether the largest of some numbers is of a size with whose square single precision still computes."""
    return bool(1 / _MODERATE < np.max(np.abs(sizes)) < _MODERATE)
