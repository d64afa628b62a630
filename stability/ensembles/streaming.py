"""Statistics of samples that are seen one block at a time: moments, moments with control variates, quantiles.

Every class is made from a block, `merge` joins two of them as if their samples had been one block, and
nothing keeps a sample. Samples must be finite: the caller takes diverged paths out first, and a nan raises
here, because it would turn every later number into nan.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

# Samples beyond 1e75 have fourth powers beyond any float: what needs them is infinite or nan, without a word.
# As a decorator only: one errstate object can be entered by one thread at a time.
_quiet = np.errstate(over="ignore", invalid="ignore")


@dataclass(frozen=True)
class SampleMoments:
    """Mean and covariance with their standard errors, at several times at once; made by `SampleMoments.of`.

    Exact for any split into blocks, up to rounding: sums are kept about the mean and moved to the joint mean
    on merging (Chan, Golub and LeVeque 1983; Pebay 2008 for higher orders). Results are nan below two
    samples, but for the mean, which one has too.

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
    def of(cls, states: np.ndarray) -> SampleMoments:
        """The moments of a block of samples (times, samples, d); ValueError where one is not finite."""
        c = _columns(states)
        center = _subtract_mean(c)
        squares = c * c
        return cls(
            c.shape[-1],
            center,
            *(a @ np.swapaxes(b, 1, 2) for a, b in ((c, c), (squares, c), (squares, squares))),
        )

    @_quiet
    def merge(self, other: SampleMoments) -> SampleMoments:
        """The moments of both objects' samples together."""
        _check_same("shape", self.center.shape, other.center.shape)
        if not self.count or not other.count:
            return self if self.count else other
        count = self.count + other.count
        apart = other.center - self.center
        # Each part's sums are moved by its own distance from the joint mean, the smaller part's by more.
        back, forth = -apart * (other.count / count), apart * (self.count / count)
        return SampleMoments(
            count,
            self.center - back,
            *(a + b for a, b in zip(self._moved(back), other._moved(forth), strict=True)),
        )

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
        return self.center if self.count else np.full_like(self.center, np.nan)

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
        """Standard errors of the covariance's entries from fourth moments, shape (times, d, d).

        ``Var C_ij = (E x_i^2 x_j^2 - C_ij^2 + (C_ii C_jj + C_ij^2) / (n - 1)) / n``: the last part matters
        where the first vanish, as for two wells.
        """
        count = max(self.count, 1)
        # Divided by n, as the fourth moments are: without the correction for the mean's own scatter.
        C = self.covariance * (count - 1) / count
        own = np.diagonal(C, axis1=-2, axis2=-1)
        rest = (own[..., :, None] * own[..., None, :] + C**2) / max(count - 1, 1)
        return np.sqrt((np.maximum(self.m22 / count - C**2, 0.0) + rest) / count)


_NEAREST, _FARTHEST = 1e-300, 1e300


@dataclass(frozen=True)
class Quantiles:
    """A sketch of every marginal's distribution; start with `Quantiles.around`, then `add` blocks.

    Counts samples in logarithmic buckets of their signed distance from a center, so quantiles are wrong by at
    most `tolerance` times their distance from it (plus rounding), whatever the distribution; distances below
    1e-300 count as none and above 1e300 as 1e300. Counts are integers: merging is exact and its order is of
    no effect. Memory is two integers per bucket in use, at most one per sample and 1.4e6 per marginal at a
    tolerance of 1e-3 (some 9 000 for a million Gaussian samples). Source: DDSketch, Masson, Rim and Lee 2019.

    Attributes
    ----------
    center : array (times, d)
    tolerance : float
    count : int
        Samples.
    keys, hits : arrays (buckets,)
        Increasing numbers of the buckets in use (marginal by marginal, from the lowest value up), and the
        samples in each.
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
            raise ValueError(
                f"`tolerance` must be in [1e-9, 1); got {tolerance!r}. 1e-3 resolves three digits of the "
                "distance from the center."
            )
        check_finite(center)
        return cls(
            np.array(center, dtype=float),
            tolerance,
            0,
            np.empty(0, dtype=np.int64),
            np.empty(0, dtype=np.int64),
        )

    @property
    def _log_ratio(self) -> float:
        """The logarithm of ``ratio = (1 + tolerance) / (1 - tolerance)``.

        Bucket k holds distances in ``(ratio^(k-1), ratio^k]``.
        """
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
        check_finite(distance)
        distance -= self.center[..., None]
        size = np.abs(distance)
        k = np.ceil(np.log(np.clip(size, _NEAREST, _FARTHEST)) / self._log_ratio).astype(np.int64)
        bucket = np.where(size < _NEAREST, 0, np.where(distance < 0, -1, 1) * (k + self._side)) + (
            2 * self._side - 1
        )
        # One number names marginal and bucket: a single sort counts them all.
        marginal = np.arange(self.center.size).reshape(*self.center.shape, 1)
        keys, hits = np.unique(marginal * self._span + bucket, return_counts=True)
        return self.merge(Quantiles(self.center, self.tolerance, distance.shape[-1], keys, hits))

    def merge(self, other: Quantiles) -> Quantiles:
        """The sketch of both objects' samples together."""
        if not np.array_equal(self.center, other.center) or self.tolerance != other.tolerance:
            raise ValueError(
                "`other` must have the same center and tolerance. Merge only sketches that started alike."
            )
        keys, hits = np.concatenate([self.keys, other.keys]), np.concatenate([self.hits, other.hits])
        order = np.argsort(keys, kind="stable")  # linear on two sorted runs
        keys = keys[order]
        first = np.flatnonzero(np.append(True, np.diff(keys) != 0)[: len(keys)])
        return Quantiles(
            self.center,
            self.tolerance,
            self.count + other.count,
            keys[first],
            np.add.reduceat(hits[order], first),
        )

    def quantile(self, levels: Any) -> np.ndarray:
        """Values at levels in [0, 1], (times, levels, d), by NumPy's "inverted_cdf"; nan without samples."""
        levels = np.atleast_1d(np.asarray(levels, dtype=float))
        if not ((levels >= 0) & (levels <= 1)).all():
            raise ValueError(f"`levels` must be in [0, 1]; got {levels}.")
        if not self.count:
            return np.full((len(self.center), len(levels), self.center.shape[1]), np.nan)
        rank = np.maximum(np.ceil(self.count * levels - 1), 0).astype(np.int64)
        marginal = np.arange(self.center.size).reshape(len(self.center), 1, -1)
        # Counts run on through all marginals, each of which has `count` samples.
        place = np.searchsorted(np.cumsum(self.hits), marginal * self.count + rank[:, None], side="right")
        bucket = self.keys[place] - marginal * self._span - (2 * self._side - 1)
        # Midway in the bucket in the relative sense: off by `tolerance` at most from both of its ends.
        distance = (1 - self.tolerance) * np.exp((np.abs(bucket) - self._side) * self._log_ratio)
        return self.center[:, None] + np.sign(bucket) * distance


def _columns(states: np.ndarray) -> np.ndarray:
    """A float64 copy, (times, d, samples): sums run along memory, whatever the layout that came in."""
    return np.array(np.swapaxes(states, 1, 2), dtype=float, order="C")


def _subtract_mean(c: np.ndarray) -> np.ndarray:
    """Center in place over the last axis; the mean. Twice, as a large mean leaves its rounding behind."""
    center = np.zeros(c.shape[:-1])
    for _ in range(2 if c.shape[-1] else 0):
        rest = c.mean(axis=-1)
        check_finite(rest)
        c -= rest[..., None]
        center += rest
    return center


def check_finite(numbers: np.ndarray) -> None:
    """ValueError where a sample is nan or infinite: every later number would be."""
    if not np.isfinite(numbers).all():
        raise ValueError("Samples must be finite; got nan or infinity. Take diverged paths out first.")


def _check_same(name: str, ours: Any, theirs: Any) -> None:
    if ours != theirs:
        raise ValueError(f"Both must have the same {name}; got {ours} and {theirs}.")
