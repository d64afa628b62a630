"""Statistics of samples that are seen one block at a time: moments, moments with control variates, quantiles.

Every class is made from a block, `merge` joins two of them as if their samples had been one block, and nothing keeps a sample. Samples must be
finite: the caller takes diverged paths out first, and a nan raises here, because it would turn every later number into nan. Layer 0: NumPy only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

# Samples beyond 1e75 have fourth powers beyond any float: what needs them is infinite or nan, without a word.
# As a decorator only: one errstate object can be entered by one thread at a time.
_quiet = np.errstate(over="ignore", invalid="ignore")


@dataclass(frozen=True)
class Moments:
    """Mean and covariance with their standard errors, at several times at once; made by `Moments.of`.

    Exact for any split into blocks, up to rounding: sums are kept about the mean and moved to the joint mean on merging (Chan, Golub and
    LeVeque 1983; Pebay 2008 for higher orders). All results are nan below two samples.

    Attributes
    ----------
    count : int
    center : array (times, d)
        The samples' mean (zero without samples), about which the sums are: ``c = sample - center``.
    m11, m21, m22 : arrays (times, d, d)
        Sums of ``c_i c_j``, ``c_i^2 c_j``, ``c_i^2 c_j^2``.
    """

    count: int
    center: np.ndarray
    m11: np.ndarray
    m21: np.ndarray
    m22: np.ndarray

    @classmethod
    @_quiet
    def of(cls, states: np.ndarray) -> Moments:
        """The moments of one block of samples, shape (times, samples, d); ValueError where one is not finite."""
        c = _columns(states)
        center = _subtract_mean(c)
        squares = c * c
        return cls(c.shape[-1], center, *(a @ np.swapaxes(b, 1, 2) for a, b in ((c, c), (squares, c), (squares, squares))))

    @_quiet
    def merge(self, other: Moments) -> Moments:
        """The moments of both objects' samples together."""
        _check_same("shape", self.center.shape, other.center.shape)
        if not self.count or not other.count:
            return self if self.count else other
        count = self.count + other.count
        apart = other.center - self.center
        back, forth = -apart * (other.count / count), apart * (self.count / count)
        return Moments(count, self.center - back, *(a + b for a, b in zip(self._moved(back), other._moved(forth), strict=True)))

    def _moved(self, shift: np.ndarray) -> tuple[np.ndarray, ...]:
        """The sums of the powers of ``c + shift``; sums of c itself vanish."""
        s, r = shift[:, :, None], shift[:, None, :]
        variance = np.diagonal(self.m11, axis1=1, axis2=2)
        v, w = variance[:, :, None], variance[:, None, :]
        m11 = self.m11 + self.count * (s * r)
        m21 = self.m21 + 2 * s * self.m11 + r * (v + self.count * s**2)
        m22 = self.m22 + 2 * (r * self.m21 + s * np.swapaxes(self.m21, 1, 2)) + 4 * s * r * self.m11
        m22 += r**2 * v + s**2 * (w + self.count * r**2)
        return m11, m21, m22

    @property
    def mean(self) -> np.ndarray:
        """Shape (times, d)."""
        return self.center if self.count > 1 else np.full_like(self.center, np.nan)

    @property
    def standard_error(self) -> np.ndarray:
        """Of the mean, shape (times, d)."""
        return np.sqrt(np.diagonal(self.covariance, axis1=1, axis2=2) / max(self.count, 1))

    @property
    def covariance(self) -> np.ndarray:
        """Unbiased, shape (times, d, d)."""
        return self.m11 / (self.count - 1) if self.count > 1 else np.full_like(self.m11, np.nan)

    @property
    @_quiet
    def covariance_error(self) -> np.ndarray:
        """Standard errors of the covariance's entries from fourth moments, shape (times, d, d)."""
        count = max(self.count, 1)
        return np.sqrt(np.maximum(self.m22 / count - self.covariance**2, 0.0) / count)


# Monomials of x = sample and y = control on one axis, as exponents; an entry (i, j) needs products of one on axis i and one on axis j.
_MONOMIALS = ((0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2))
_ONE, _X, _Y = range(3)
_MEAN = ((_ONE, _ONE), (_X, _ONE), (_Y, _ONE), (_Y, _Y))  # the constant, the quantity, its controls: x_i on y_i and y_i^2
_PRODUCT = ((_ONE, _ONE), (_X, _X), (_Y, _Y), (_Y, _ONE), (_ONE, _Y))  # x_i x_j on y_i y_j, y_i and y_j


@dataclass(frozen=True)
class ControlledMoments:
    """Mean and covariance of paths v by way of control paths u under the same noise, of known mean and covariance; made by `of`.

    With ``y = u - E u``, the mean of ``v_i`` is estimated by that of ``v_i - beta . (y_i, y_i^2 - C_ii)`` and the covariance by the mean of
    ``(v_i - mean_i)(v_j - mean_j) - beta . (y_i y_j - C_ij, y_i, y_j)``. Each half of the samples (even and odd positions of every block)
    takes its beta from the other half, so the mean is unbiased and its error honest; the covariance is biased by -Cov(mean) = O(1/n), less than
    its error by a factor of order sqrt(n). What the controls leave has heavy tails: scores of a covariance look normal only from some 10^4 samples
    where v = u + 0.1 u^2 + 0.05 u^3 and u has unit variance (at 1000 their standard deviation is 1.1 to 1.3). All results are nan while a half has
    less than two samples. Source: Glasserman, Monte Carlo Methods in Financial Engineering (2003), 4.1; halves: Avramidis and Wilson 1993.

    Attributes
    ----------
    counts : (int, int)
        Samples in each half.
    center : array (times, d)
        Near the mean of v: ``x = v - center``. Only rounding depends on it.
    control_mean, control_covariance : arrays (times, d) and (times, d, d)
        E u and C.
    sums : array (2, times, 6, 6, d, d)
        For each half, entry [p, q, i, j] sums monomial p of (x_i, y_i) times monomial q of (x_j, y_j): 36 matrices per time, for d up to ~100.
    """

    counts: tuple[int, int]
    center: np.ndarray
    control_mean: np.ndarray
    control_covariance: np.ndarray
    sums: np.ndarray

    @classmethod
    @_quiet
    def of(cls, paths: np.ndarray, controls: np.ndarray, *, control_mean: np.ndarray, control_covariance: np.ndarray) -> ControlledMoments:
        """One block: v and u, shapes (times, samples, d); E u, (times, d), and its covariance, (times, d, d). ValueError where not finite."""
        _check_same("shape", np.shape(paths), np.shape(controls))
        known = np.array(control_mean, dtype=float), np.array(control_covariance, dtype=float)
        x, y = _columns(paths), _columns(controls) - known[0][..., None]
        _check_finite(y)
        center, samples = _subtract_mean(x), x.shape[-1]
        sums = np.stack([_pair_sums(x[..., half::2], y[..., half::2]) for half in (0, 1)])
        return cls(((samples + 1) // 2, samples // 2), center, *known, sums)

    @property
    def count(self) -> int:
        """Samples in both halves."""
        return sum(self.counts)

    def merge(self, other: ControlledMoments) -> ControlledMoments:
        """The moments of both objects' samples together."""
        if not (np.array_equal(self.control_mean, other.control_mean) and np.array_equal(self.control_covariance, other.control_covariance)):
            raise ValueError("`other` must have the same control_mean and control_covariance. Merge only ensembles under one control.")
        large, small = (self, other) if self.count >= other.count else (other, self)
        counts = (self.counts[0] + other.counts[0], self.counts[1] + other.counts[1])
        sums = large.sums + _moved(small.sums, small.center - large.center)
        return ControlledMoments(counts, large.center, self.control_mean, self.control_covariance, sums)

    @cached_property
    def _mean(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean of x, its variance and the plain mean's, (times, d)."""
        variance = np.diagonal(self.control_covariance, axis1=1, axis2=2)
        known = np.stack([np.zeros_like(variance), variance], axis=-1)
        return _controlled(np.diagonal(self.sums, axis1=-2, axis2=-1), self.counts, _MEAN, known)

    @cached_property
    def _covariance(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        # About the mean that was found: the mean's own error then has no first-order effect, and no mean mean^T is left to subtract.
        known = self.control_covariance[..., None] * np.array([1.0, 0.0, 0.0])
        return _controlled(_moved(self.sums, -self._mean[0]), self.counts, _PRODUCT, known)

    @property
    def mean(self) -> np.ndarray:
        """Unbiased, shape (times, d)."""
        return self.center + self._mean[0]

    @property
    def standard_error(self) -> np.ndarray:
        """Of the mean, shape (times, d)."""
        return np.sqrt(self._mean[1])

    @property
    def covariance(self) -> np.ndarray:
        """Shape (times, d, d)."""
        return self._covariance[0]

    @property
    def covariance_error(self) -> np.ndarray:
        """Standard errors of the covariance's entries, shape (times, d, d)."""
        return np.sqrt(self._covariance[1])

    @property
    def variance_reduction(self) -> tuple[np.ndarray, np.ndarray]:
        """Variance of the plain estimator over that of the controlled one, (times, d) and (times, d, d); nan where both vanish."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return self._mean[2] / self._mean[1], self._covariance[2] / self._covariance[1]


def _pair_sums(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Sums over samples of all products of monomials, (times, 6, 6, d, d); x and y are (times, d, samples)."""
    times, d, samples = x.shape
    monomials = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1).reshape(times, 6 * d, samples)
    return np.moveaxis((monomials @ np.swapaxes(monomials, 1, 2)).reshape(times, 6, d, 6, d), 2, 3)


@_quiet
def _moved(sums: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """The sums for ``x + shift``: its monomials are linear in those of x."""
    move = np.zeros((*shift.shape, 6, 6)) + np.eye(6)
    move[..., 1, 0] = move[..., 4, 2] = shift
    move[..., 3, 0], move[..., 3, 1] = shift**2, 2 * shift
    return np.einsum("tipq,ftqrij,tjsr->ftpsij", move, sums, move, optimize=True)


@_quiet
def _controlled(
    sums: np.ndarray, counts: tuple[int, int], functions: Sequence[tuple[int, int]], known: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The mean of functions[1] under the controls functions[2:] of known means, its variance, and the plain mean's variance."""
    if min(counts) < 2:
        return (np.full(known.shape[:-1], np.nan),) * 3
    total = sum(counts)
    grams = [_gram(half, functions) / n for half, n in zip(sums, counts, strict=True)]
    means = [gram[..., 0, 1:] for gram in grams]
    covariances = [gram[..., 1:, 1:] - mean[..., :, None] * mean[..., None, :] for gram, mean in zip(grams, means, strict=True)]
    betas = [_slopes(covariance, gram) for covariance, gram in zip(covariances, grams, strict=True)]
    estimate, variance, plain = (np.zeros(known.shape[:-1]) for _ in range(3))
    for n, mean, covariance, beta in zip(counts, means, covariances, betas[::-1], strict=True):
        weights = np.concatenate([np.ones_like(beta[..., :1]), -beta], axis=-1)
        spread = np.einsum("...p,...pq,...q->...", weights, covariance, weights)
        estimate += n / total * (mean[..., 0] - np.sum(beta * (mean[..., 1:] - known), axis=-1))
        variance += (n / total) ** 2 * np.maximum(spread, 0.0) / (n - 1)
        plain += (n / total) ** 2 * covariance[..., 0, 0] / (n - 1)
    return estimate, variance, plain


def _gram(sums: np.ndarray, functions: Sequence[tuple[int, int]]) -> np.ndarray:
    """Sums of products of functions, (times, ..., functions, functions); a function is a monomial on axis i and one on axis j."""

    def times(p: int, q: int) -> int:
        return _MONOMIALS.index((_MONOMIALS[p][0] + _MONOMIALS[q][0], _MONOMIALS[p][1] + _MONOMIALS[q][1]))

    rows = [[sums[:, times(f[0], g[0]), times(f[1], g[1])] for g in functions] for f in functions]
    return np.moveaxis(np.array(rows), (0, 1), (-2, -1))


def _slopes(covariance: np.ndarray, gram: np.ndarray) -> np.ndarray:
    """Least squares of the first quantity on the others, (..., controls); zero on controls that do not vary, shared by collinear ones."""
    variance, square = (np.diagonal(matrix, axis1=-2, axis2=-1)[..., -covariance.shape[-1] + 1 :] for matrix in (covariance, gram))
    varies = variance > 1e-12 * square  # below: rounding of a constant control
    scale = np.where(varies, 1 / np.sqrt(np.where(varies, variance, 1.0)), 0.0)
    correlation = covariance[..., 1:, 1:] * scale[..., :, None] * scale[..., None, :]
    inverse = np.linalg.pinv(np.nan_to_num(correlation), rcond=1e-10, hermitian=True)  # it raises on nan, which the means carry on
    return scale * (inverse @ (scale * covariance[..., 1:, 0])[..., None])[..., 0]


_NEAREST, _FARTHEST = 1e-300, 1e300


@dataclass(frozen=True)
class Quantiles:
    """A sketch of every marginal's distribution; start with `Quantiles.around`, then `add` blocks.

    Counts samples in logarithmic buckets of their signed distance from a center, so quantiles are wrong by at most `tolerance` times their
    distance from it (plus rounding), whatever the distribution; distances below 1e-300 count as none and above 1e300 as 1e300. Counts are
    integers: merging is exact and its order is of no effect. Memory is two integers per bucket in use, at most one per sample and 1.4e6 per
    marginal at a tolerance of 1e-3 (some 9 000 for a million Gaussian samples). Source: DDSketch, Masson, Rim and Lee 2019.

    Attributes
    ----------
    center : array (times, d)
    tolerance : float
    count : int
        Samples.
    keys, hits : arrays (buckets,)
        Increasing numbers of the buckets in use (marginal by marginal, from the lowest value up), and the samples in each.
    """

    center: np.ndarray
    tolerance: float
    count: int
    keys: np.ndarray
    hits: np.ndarray

    @classmethod
    def around(cls, center: np.ndarray, *, tolerance: float = 1e-3) -> Quantiles:
        """An empty sketch around a center, shape (times, d)."""
        if not 1e-9 <= tolerance < 1:
            raise ValueError(f"`tolerance` must be in [1e-9, 1); got {tolerance!r}. 1e-3 resolves three digits of the distance from the center.")
        _check_finite(center)
        return cls(np.array(center, dtype=float), tolerance, 0, np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))

    @property
    def _log_ratio(self) -> float:
        """Bucket k holds distances in ``(ratio^(k-1), ratio^k]``, where ``ratio = (1 + tolerance) / (1 - tolerance)``."""
        return math.log1p(self.tolerance) - math.log1p(-self.tolerance)

    @property
    def _side(self) -> int:
        """The buckets of one side of the center are k = 1 - side to side - 1."""
        return math.ceil(math.log(_FARTHEST) / self._log_ratio) + 1

    @property
    def _span(self) -> int:
        """Buckets of a marginal: both sides and the center itself."""
        return 4 * self._side - 1

    @_quiet
    def add(self, states: np.ndarray) -> Quantiles:
        """With the samples of a block, shape (times, samples, d); ValueError where one is not finite."""
        distance = _columns(states)
        _check_same("shape (times, d)", self.center.shape, distance.shape[:2])
        _check_finite(distance)
        distance -= self.center[..., None]
        size = np.abs(distance)
        k = np.ceil(np.log(np.clip(size, _NEAREST, _FARTHEST)) / self._log_ratio).astype(np.int64)
        bucket = np.where(size < _NEAREST, 0, np.where(distance < 0, -1, 1) * (k + self._side)) + (2 * self._side - 1)
        marginal = np.arange(self.center.size).reshape(*self.center.shape, 1)
        keys, hits = np.unique(marginal * self._span + bucket, return_counts=True)
        return self.merge(Quantiles(self.center, self.tolerance, distance.shape[-1], keys, hits))

    def merge(self, other: Quantiles) -> Quantiles:
        """The sketch of both objects' samples together."""
        if not np.array_equal(self.center, other.center) or self.tolerance != other.tolerance:
            raise ValueError("`other` must have the same center and tolerance. Merge only sketches that started alike.")
        keys, hits = np.concatenate([self.keys, other.keys]), np.concatenate([self.hits, other.hits])
        order = np.argsort(keys, kind="stable")  # linear on two sorted runs
        keys = keys[order]
        first = np.flatnonzero(np.append(True, np.diff(keys) != 0)[: len(keys)])
        return Quantiles(self.center, self.tolerance, self.count + other.count, keys[first], np.add.reduceat(hits[order], first))

    def quantile(self, levels: Any) -> np.ndarray:
        """Values at levels in [0, 1], shape (times, levels, d), by NumPy's "inverted_cdf"; nan without samples."""
        levels = np.atleast_1d(np.asarray(levels, dtype=float))
        if not ((levels >= 0) & (levels <= 1)).all():
            raise ValueError(f"`levels` must be in [0, 1]; got {levels}.")
        if not self.count:
            return np.full((len(self.center), len(levels), self.center.shape[1]), np.nan)
        rank = np.maximum(np.ceil(self.count * levels - 1), 0).astype(np.int64)
        marginal = np.arange(self.center.size).reshape(len(self.center), 1, -1)
        place = np.searchsorted(np.cumsum(self.hits), marginal * self.count + rank[:, None], side="right")
        bucket = self.keys[place] - marginal * self._span - (2 * self._side - 1)
        distance = (1 - self.tolerance) * np.exp((np.abs(bucket) - self._side) * self._log_ratio)  # midway in the relative sense
        return self.center[:, None] + np.sign(bucket) * distance


def _columns(states: np.ndarray) -> np.ndarray:
    """A float64 copy, (times, d, samples): sums run along memory, and the numbers do not depend on the layout that came in."""
    return np.array(np.swapaxes(states, 1, 2), dtype=float, order="C")


def _subtract_mean(c: np.ndarray) -> np.ndarray:
    """Center in place over the last axis; the mean. Twice, as a large mean leaves its rounding behind."""
    center = np.zeros(c.shape[:-1])
    for _ in range(2 if c.shape[-1] else 0):
        rest = c.mean(axis=-1)
        _check_finite(rest)
        c -= rest[..., None]
        center += rest
    return center


def _check_finite(numbers: np.ndarray) -> None:
    if not np.isfinite(numbers).all():
        raise ValueError("Samples must be finite; got nan or infinity. Take diverged paths out first.")


def _check_same(name: str, ours: Any, theirs: Any) -> None:
    if ours != theirs:
        raise ValueError(f"Both must have the same {name}; got {ours} and {theirs}.")
