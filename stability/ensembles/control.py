"""Moments with a control variate: paths beside others under the same noise, whose law is known exactly."""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .streaming import check_finite

MAX_CONTROLS = 64
"""Polynomials of the control up to degree four, as many as this allows; of degree two in any case."""
MAX_FEATURES = 1500
# Samples too large for their fourth powers: their errors are infinite or nan.
_quiet = np.errstate(over="ignore", invalid="ignore")
SAMPLES_PER_CONTROL = 8
"""Of the samples that slopes are taken from: with fewer their noise would cost more than they save."""


@dataclass(frozen=True)
class ControlledMoments:
    """Mean and covariance of paths v by way of control paths u under the same noise; made by `of`.

    The control's whitened state z has mean 0 and covariance I, so products of normalised Hermite polynomials
    of its entries have mean zero: exactly for degrees up to two, and for all degrees where u is Gaussian. The
    mean of ``X = v_i`` and ``X = v_i v_j`` is estimated by that of ``X - beta . h(z)``. Each half of the
    samples (even and odd positions of every block) takes its beta from the other half, so these means are
    unbiased and their errors honest; the covariance is biased by -Cov(mean) = O(1/n). Results are nan while a
    half has fewer than two samples.

    Source: Glasserman, Monte Carlo Methods in Financial Engineering (2003), 4.1; cross-fitting: Avramidis and
    Wilson 1993.

    Attributes
    ----------
    counts : (int, int)
        Samples in each half.
    center : array (times, d)
        Near the mean of v: ``x = v - center``. Only rounding depends on it.
    degree : int
        Of the polynomials.
    gram : array (2, times, f, f)
        For each half, sums of products of the features ``(1, h(z), x_i, x_i x_j)``.
    """

    counts: tuple[int, int]
    center: np.ndarray
    degree: int
    gram: np.ndarray

    @classmethod
    @_quiet
    def of(
        cls,
        paths: np.ndarray,
        controls: np.ndarray,
        *,
        mean: np.ndarray,
        covariance: np.ndarray,
        gaussian: bool,
    ) -> ControlledMoments:
        """One block: v and u (times, samples, d), and u's exact moments, (times, d) and (times, d, d).

        Raises ValueError where a sample is not finite or there are too many dimensions.
        """
        x, u = (np.array(np.swapaxes(w, 1, 2), dtype=float) for w in (paths, controls))
        check_finite(x)
        check_finite(u)
        # About its own mean, or fourth powers would lose their digits far from the origin.
        center = x.mean(axis=-1) if x.shape[-1] else np.zeros(x.shape[:2])
        x, u = x - center[..., None], u - np.asarray(mean, dtype=float)[..., None]
        degree = polynomial_degree(x.shape[1], gaussian)
        z = np.stack([whitener @ one for whitener, one in zip(_whiteners(covariance), u, strict=True)])
        rows, columns = np.triu_indices(x.shape[1])
        features = np.concatenate(
            [np.ones_like(x[:, :1]), hermite(z, degree), x, x[:, rows] * x[:, columns]], axis=1
        )
        halves = [features[..., half::2] for half in (0, 1)]
        gram = np.stack([half @ np.swapaxes(half, 1, 2) for half in halves])
        return cls((halves[0].shape[-1], halves[1].shape[-1]), center, degree, gram)

    @_quiet
    def merge(self, other: ControlledMoments) -> ControlledMoments:
        """The moments of both objects' samples together, under the same control."""
        if not sum(self.counts):
            return other
        counts = (self.counts[0] + other.counts[0], self.counts[1] + other.counts[1])
        # Features about the other block's mean are linear in those about ours: no sample is needed again.
        move = self._shift(other.center - self.center)
        return ControlledMoments(
            counts, self.center, self.degree, self.gram + move @ other.gram @ np.swapaxes(move, -1, -2)
        )

    def _shift(self, by: np.ndarray) -> np.ndarray:
        """The matrix (times, f, f) that turns features of x into those of ``x + by``, linear in them."""
        d, (rows, columns) = self._dim, np.triu_indices(self._dim)
        first = math.comb(d + self.degree, self.degree)
        move = np.tile(np.eye(self.gram.shape[-1]), (len(by), 1, 1))
        move[:, first : first + d, 0] = by
        products = first + d + np.arange(len(rows))
        # (x_i + b_i)(x_j + b_j): two statements, for where i =
        # j both parts fall on one entry and add up to 2 b_i.
        move[:, products, first + columns] += by[:, rows]
        move[:, products, first + rows] += by[:, columns]
        move[:, products, 0] = by[:, rows] * by[:, columns]
        return move

    @property
    def _dim(self) -> int:
        return self.center.shape[1]

    @property
    def _controls(self) -> int:
        """How many polynomials the samples are enough for: all up to some degree."""
        # By whole degrees: which polynomials of one degree are used must not depend on the axes' order.
        sizes = [math.comb(self._dim + p, p) - 1 for p in range(self.degree + 1)]
        return max(size for size in sizes if size == 0 or size * SAMPLES_PER_CONTROL <= min(self.counts))

    @cached_property
    @_quiet
    def _means(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Means (times, t) of x_i and x_i x_j, their covariance (times, t, t), and that of plain means."""
        controls = range(1, 1 + self._controls)
        first = math.comb(self._dim + self.degree, self.degree)  # after the constant and all polynomials
        targets = range(first, self.gram.shape[-1])
        count = sum(self.counts)
        if min(self.counts) < 2:
            shape = (len(self.center), len(targets))
            return (
                np.full(shape, np.nan),
                np.full((*shape, len(targets)), np.nan),
                np.full((*shape, len(targets)), np.nan),
            )
        halves = []
        # Slopes from one half are used on the other: fitted and used on the same samples they flatter.
        for half in (0, 1):
            slopes = _slopes(self.gram[1 - half], controls, targets)
            halves.append(_residual(self.gram[half] / self.counts[half], controls, targets, slopes))
        total, spread = (
            sum(n / count * part for n, part in zip(self.counts, parts, strict=True))
            for parts in zip(*halves, strict=True)
        )
        whole = self.gram.sum(axis=0) / count
        plain = (
            _residual(whole, range(1, 1), targets, np.zeros((len(self.center), 0, len(targets))))[1] / count
        )
        return total, spread / count, plain

    @cached_property
    def _errors(self) -> tuple[np.ndarray, np.ndarray]:
        return self._variances(self._means[1])

    @_quiet
    def _variances(self, covariances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Variances of the mean (times, d) and, to first order, of the covariance's entries (times, d, d)."""
        d, (rows, columns) = self._dim, np.triu_indices(self._dim)
        mean = self._means[0][:, :d]
        # cov_ij = E[x_i x_j] - m_i m_j, whose error is that of x_i x_j - m_j x_i - m_i x_j.
        weights = np.zeros((len(mean), len(rows), d + len(rows)))
        index = np.arange(len(rows))
        weights[:, index, d + index] = 1.0
        weights[:, index, rows] -= mean[:, columns]
        weights[:, index, columns] -= mean[:, rows]
        variances = np.sum((weights @ covariances) * weights, axis=-1)
        return np.maximum(np.diagonal(covariances, axis1=1, axis2=2)[:, :d], 0.0), np.maximum(
            self._square(variances), 0.0
        )

    def _square(self, upper: np.ndarray) -> np.ndarray:
        rows, columns = np.triu_indices(self._dim)
        full = np.empty((len(upper), self._dim, self._dim))
        full[:, rows, columns] = full[:, columns, rows] = upper
        return full

    @property
    def mean(self) -> np.ndarray:
        """Unbiased, shape (times, d)."""
        return self.center + self._means[0][:, : self._dim]

    @property
    def standard_error(self) -> np.ndarray:
        """Of the mean, shape (times, d)."""
        return np.sqrt(self._errors[0])

    @property
    @_quiet
    def covariance(self) -> np.ndarray:
        """Shape (times, d, d)."""
        mean = self._means[0][:, : self._dim]
        return self._square(self._means[0][:, self._dim :]) - mean[:, :, None] * mean[:, None, :]

    @property
    def covariance_error(self) -> np.ndarray:
        """Standard errors of the covariance's entries, shape (times, d, d)."""
        return np.sqrt(self._errors[1])

    @property
    def variance_reduction(self) -> tuple[np.ndarray, np.ndarray]:
        """Variance of the plain estimator over the controlled one's, (times, d) and (times, d, d).

        nan where both vanish.
        """
        plain, controlled = self._variances(self._means[2]), self._errors
        with np.errstate(divide="ignore", invalid="ignore"):
            return plain[0] / controlled[0], plain[1] / controlled[1]


def feature_count(dim: int) -> int:
    """Features of a Gaussian control: one, the polynomials, and the means and moments that are wanted."""
    degree = polynomial_degree(dim, gaussian=True)
    return math.comb(dim + degree, degree) + dim + dim * (dim + 1) // 2


def polynomial_degree(dim: int, gaussian: bool) -> int:
    """The largest degree whose polynomials in `dim` variables are few enough.

    ValueError where not even two is.
    """
    if math.comb(dim + 2, 2) * 2 > MAX_FEATURES:
        raise ValueError(
            f"A control variate handles up to {math.isqrt(MAX_FEATURES) - 2} dimensions; got {dim}. Use "
            "control=False."
        )
    return max([2] + [p for p in (3, 4) if gaussian and math.comb(dim + p, p) - 1 <= MAX_CONTROLS])


@functools.lru_cache(maxsize=16)
def _exponents(dim: int, degree: int) -> tuple[tuple[int, ...], ...]:
    """Exponents of all monomials in `dim` variables up to `degree`, by degree, the constant left out."""
    found = []
    for total in range(1, degree + 1):
        for chosen in itertools.combinations_with_replacement(range(dim), total):
            found.append(tuple(chosen.count(axis) for axis in range(dim)))
    return tuple(found)


def hermite(z: np.ndarray, degree: int) -> np.ndarray:
    """Products of normalised Hermite polynomials, (times, d, samples) -> (times, k, samples).

    They are orthonormal for independent standard normals.

    An entry that is zero throughout (a direction without variance) makes its polynomials zero.
    """
    single = [np.ones_like(z), z]
    for n in range(2, degree + 1):
        # The recurrence of He_n / sqrt(n!).
        single.append((z * single[-1] - math.sqrt(n - 1) * single[-2]) / math.sqrt(n))
    alive = np.any(z != 0, axis=-1, keepdims=True)
    single[1:] = [np.where(alive, h, 0.0) for h in single[1:]]
    products = []
    for exponents in _exponents(z.shape[1], degree):
        factors = [single[n][:, axis] for axis, n in enumerate(exponents) if n]
        products.append(functools.reduce(np.multiply, factors))
    return np.stack(products, axis=1)


def _whiteners(covariance: np.ndarray) -> np.ndarray:
    """Matrices (times, d, d) that turn a state of each covariance into one of covariance I.

    Directions without variance are turned into zero.
    """
    values, vectors = np.linalg.eigh(np.asarray(covariance, dtype=float))
    # A direction that no noise reaches is not to be divided by.
    alive = values > 1e-12 * np.max(np.abs(values), axis=-1, keepdims=True)
    scale = np.where(alive, 1 / np.sqrt(np.where(alive, values, 1.0)), 0.0)
    return scale[..., None] * np.swapaxes(vectors, -1, -2)


def _slopes(gram: np.ndarray, controls: range, targets: range) -> np.ndarray:
    """Regression slopes (times, k, t) of the targets on the controls."""
    mean = gram[:, 0, :] / gram[:, 0, 0][:, None, None].reshape(-1, 1)
    centred = gram / gram[:, 0, 0][:, None, None] - mean[:, :, None] * mean[:, None, :]
    inner = centred[:, controls.start : controls.stop, controls.start : controls.stop]
    # Samples too large for their powers: LAPACK would raise.
    lost = ~np.isfinite(inner).all(axis=(-2, -1))[:, None, None]
    # A pseudo-inverse: polynomials of a direction without variance are zero.
    inverse = np.where(lost, np.nan, np.linalg.pinv(np.where(lost, 0.0, inner), rcond=1e-10, hermitian=True))
    return inverse @ centred[:, controls.start : controls.stop, targets.start : targets.stop]


def _residual(
    gram: np.ndarray, controls: range, targets: range, slopes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean (times, t) and covariance (times, t, t) of targets less controls, from features' products."""
    c, t = slice(controls.start, controls.stop), slice(targets.start, targets.stop)
    turned = np.swapaxes(slopes, 1, 2)
    mean = gram[:, 0, t] - (turned @ gram[:, c, 0][..., None])[..., 0]
    cross = turned @ gram[:, c, t]
    second = gram[:, t, t] - cross - np.swapaxes(cross, 1, 2) + turned @ gram[:, c, c] @ slopes
    return mean, second - mean[:, :, None] * mean[:, None, :]
