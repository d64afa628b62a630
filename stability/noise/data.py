"""Noise of a data objective's minibatches, estimated from all its samples."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from .. import _check
from .._array import like, matvec, namespace
from .._estimate import Estimate
from .alignment import exponent_of
from .factors import MAX_FACTOR_NUMBERS, Sample, blocks, join, numbers, per_sample_factors
from .model import Noise

WHOLE = 34
"""Largest dimension in which data's law is made of whole matrices though samples tell it by a few rows."""


class Minibatches(NamedTuple):
    """Sample indices of the gradient batches (m, b) and the Hessian batches (m, b_h)."""

    gradient: np.ndarray
    hessian: np.ndarray


class DataNoise(Noise, made_by=("from_data",)):
    """Minibatch noise of a data objective; see `Noise.from_data`.

    `sample` draws Gaussian noise with the estimated second moments, as the SDE needs; `draw_batches` draws
    the index sets of real minibatches, which the stochastic iteration uses with nothing linearised.
    """

    has_curvature = True

    def __init__(
        self, F: Any, at: Any, batch: int, *, hessian_batch: int | None, replacement: bool, coupling: str
    ):
        wanted = ("per_sample_gradient", "per_sample_hessian", "n_samples")
        if missing := [name for name in wanted if getattr(F, name, None) is None]:
            raise _check.lacking(
                "F", F, missing, "Noise.from_data", "Use st.logistic, st.least_squares or st.mlp."
            )
        most = None if replacement else F.n_samples
        batch = _check.count("batch", batch, most=most, why="drawn without replacement" if most else "")
        hessian_batch = batch if hessian_batch is None else hessian_batch
        hessian_batch = _check.count(
            "hessian_batch", hessian_batch, most=most, why="drawn without replacement" if most else ""
        )
        reference = F.reference if at is None else _check.shaped("at", at, (F.dim,))
        if reference is None:
            raise ValueError("`at` must be given: the objective has no reference point.")
        super().__init__(batch=batch, hessian_batch=hessian_batch, coupling=coupling, reference=reference)
        self.objective, self.replacement = F, bool(replacement)
        if not self.by_samples:
            self._dense  # noqa: B018 - built here, so that what is too large is refused before it is used

    @property
    def by_samples(self) -> bool:
        """Whether theory takes each sample's curvature by its few rows, `samples`, not by a matrix."""
        own = all(
            getattr(type(self), name) is getattr(DataNoise, name) for name in ("sample", "combine", "factors")
        )
        F: Any = self.objective
        return own and hasattr(F, "hessian_factors") and F.dim > WHOLE

    @property
    def samples_shape(self) -> tuple[int, int]:
        """How many samples there are, and rows of `samples` to each."""
        F: Any = self.objective
        return F.n_samples, F.outputs

    @functools.cached_property
    def samples(self) -> np.ndarray:
        """Rows Z (n, o, d) at the reference, the curvature of sample s being ``Z_s^T Z_s`` + a constant."""
        return self.objective.hessian_factors(self.reference)  # type: ignore[attr-defined]

    @functools.cached_property
    def _dense(self) -> tuple[np.ndarray, np.ndarray]:
        assert self.reference is not None
        return per_sample_factors(self.objective, self.reference)

    @property
    def _zeta(self) -> np.ndarray:
        return self._dense[0]

    @property
    def _curvature(self) -> np.ndarray:
        return self._dense[1]

    @functools.cached_property
    def _flat(self) -> np.ndarray:
        """The curvatures' factors as columns (d d, k)."""
        count, dim, _ = self._curvature.shape
        return self._curvature.reshape(count, dim**2).T

    def _kept(self) -> dict[str, Any]:
        at = {"F": self.objective, "at": self.reference}
        batches = {"batch": int(self.batch), "hessian_batch": int(self.hessian_batch)}
        return at | batches | {"replacement": self.replacement, "coupling": self.coupling}

    def shrink(self, size: float) -> float:
        n = self.objective.n_samples  # type: ignore[attr-defined]
        if self.replacement:
            return 1 / size
        # The finite population's correction: a batch of all samples has no noise.
        return (n - size) / (size * (n - 1)) if n > 1 else 0.0

    def normals(self, dim: int) -> int:
        # Where the factors are too large to be made, batches can still be drawn, and ask how many they were.
        width = numbers(dim)
        n = self.objective.n_samples  # type: ignore[attr-defined]
        count = len(self._zeta) if width**2 <= MAX_FACTOR_NUMBERS else min(n, width)
        return count * (2 if self.mixing().rest else 1)

    def combine(self, normals: Any, dim: int) -> Sample:
        """Gaussian samples with the minibatches' second moments: coordinates along the factors."""
        xp, count, size = namespace(normals), len(self._zeta), normals.shape[1]
        gradient, across, rest = self.mixing()
        flat = like(self._flat, normals)
        first = normals[:count, :]
        bend = across * first + rest * normals[count:, :] if rest else across * first

        def matrices(coordinates: Any) -> Any:
            return xp.permute_dims(xp.reshape(flat @ coordinates, (dim, dim, size)), (2, 0, 1))

        zeta = gradient * (like(self._zeta.T, normals) @ first)
        return Sample(zeta.T, gradient * matrices(first), matrices(bend))

    def law(self, w: np.ndarray) -> Sample:
        return self.factors(w) if type(self).factors is DataNoise.factors else super().law(w)

    def factors(self, w: np.ndarray) -> Sample:
        self._require_law()
        gradient, across, rest = self.mixing()
        zeta, D = self._zeta, self._curvature
        blocks = [Sample(gradient * zeta, gradient * D, across * D)]
        if rest:
            blocks.append(Sample(0 * zeta, 0 * D, rest * D))
        return join(blocks)

    def gradient_covariance(self, w: np.ndarray, reference: np.ndarray | None = None) -> np.ndarray:
        self._require_law()
        # Gradient noise away from the reference point: the same factors, carried along the curvature's.
        offset = _check.floats("w", w) - self.reference
        if not self.by_samples:
            shift = self._zeta + matvec(self._curvature, offset)
            return self.scales[0] * shift.T @ shift
        total = np.zeros((len(offset),) * 2)
        for rows in self._deviations(offset):
            total += rows.T @ rows
        return self.scales[0] / self.objective.n_samples * total  # type: ignore[attr-defined]

    def _deviations(self, offset: np.ndarray) -> Iterator[np.ndarray]:
        """Samples' gradients less their mean at the reference + `offset`, in blocks of rows (., d)."""
        F: Any = self.objective
        # Gradients move by each sample's own curvature: Z_s^T Z_s times the offset, never as a matrix.
        along = self.samples @ offset
        mean = F.gradient(self.reference) + np.einsum("sod,so->d", self.samples, along) / F.n_samples
        for part in blocks(F.n_samples, F.dim):
            batch = np.arange(part.start, part.stop)
            rows = F.per_sample_gradient(self.reference, batch=batch)
            rows = _check.returned("per_sample_gradient", rows, offset, (len(batch), F.dim))
            yield rows + np.einsum("sod,so->sd", self.samples[part], along[part]) - mean

    def gradients(self) -> np.ndarray:
        """Samples' gradients less their mean, (n, d), at the reference."""
        return np.concatenate(list(self._deviations(np.zeros(self.objective.dim))))  # type: ignore[attr-defined]

    @functools.cached_property
    def exponent(self) -> Estimate:
        """``g`` of ``Sigma ~ c H^g`` at the reference, and its standard error.

        The slope of the noise's variances along the Hessian's eigenvectors with their curvatures, both in
        logarithms, over the modes of positive curvature; `reason` says if those are not all. The error is
        that of the samples (a jackknife over forty parts of them), with what the curvatures' own errors take
        from a slope; it is infinite where the curvatures hardly differ by more than these.

        Raises
        ------
        ValueError
            If there are no two samples, or no two modes with different positive curvatures and with noise.

        Examples
        --------
        Label noise of a least-squares problem has exponent 1:

        >>> import numpy as np, stability as st
        >>> rng = np.random.default_rng(0)
        >>> X = rng.normal(size=(2000, 4)) * [1.0, 0.5, 0.2, 0.1]
        >>> exponent = st.Noise.from_data(st.least_squares(X, rng.normal(size=2000))).exponent
        >>> abs(exponent.value - 1) < 3 * exponent.error < 0.2
        True
        """
        return exponent_of(self.objective, self.reference)

    def draw_batches(self, size: int, rng: np.random.Generator) -> Minibatches:
        """Index sets of `size` real minibatches: gradient (size, b), Hessian (size, b_h)."""
        b, h = int(self.batch), int(self.hessian_batch)
        gradient = self._draw(size, b, rng)
        # An unordered draw's first h entries are themselves a uniform sub-batch: that is the nested batch.
        return Minibatches(
            gradient, gradient[:, :h] if self.coupling == "nested" else self._draw(size, h, rng)
        )

    def _draw(self, size: int, count: int, rng: np.random.Generator) -> np.ndarray:
        n = self.objective.n_samples  # type: ignore[attr-defined]
        if self.replacement:
            return rng.integers(n, size=(size, count))
        # Of large batches too many indices would clash; a sort of random keys has none.
        if count > n // 8:
            return np.argsort(rng.random((size, n)), axis=1)[:, :count]
        return _distinct(rng, n, size, count)

    def __repr__(self) -> str:
        how = "with" if self.replacement else "without"
        return (
            f"Noise.from_data({self.objective!r}, batch={self.batch:g}, "
            f"hessian_batch={self.hessian_batch:g}, {how} replacement, coupling={self.coupling!r})"
        )


def _distinct(rng: np.random.Generator, n: int, size: int, count: int) -> np.ndarray:
    """`size` rows of `count` distinct indices in random order, for batches much smaller than the data.

    Each clash is drawn again.
    """
    rows = rng.integers(n, size=(size, count))
    for column in range(1, count):
        while True:
            clash = (rows[:, :column] == rows[:, column : column + 1]).any(axis=1)
            if not clash.any():
                break
            # The later of two only, over and over: what is settled before it stays, and every set is as
            # likely as any.
            rows[clash, column] = rng.integers(n, size=int(clash.sum()))
    return rows
