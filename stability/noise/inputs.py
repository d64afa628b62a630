"""Noise of least squares on fresh Gaussian inputs: every batch a Wishart matrix."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from .. import _check
from .factors import Sample, join, symmetric_basis
from .model import Noise, sample_count


class GaussianInputs(Noise, made_by=("streaming", "wishart")):
    """Least squares on fresh Gaussian inputs; see `Noise.streaming` and `Noise.wishart`."""

    def __init__(
        self,
        covariance: Any = None,
        *,
        label_noise: float = 0.0,
        batch: float = 1,
        hessian_batch: float | None = None,
        coupling: str = "independent",
        reference: Any = None,
    ):
        batch = sample_count("batch", batch)
        super().__init__(
            batch=batch,
            hessian_batch=batch if hessian_batch is None else sample_count("hessian_batch", hessian_batch),
            coupling=coupling,
            reference=reference,
        )
        self.label_noise = _check.nonnegative("label_noise", label_noise)
        self.covariance = None if covariance is None else _check.covariance("covariance", covariance)

    @property
    def has_curvature(self) -> bool:
        return not all(math.isinf(size) for size in (self.batch, self.hessian_batch))

    def of(self, objective: Any) -> Noise:
        if self.covariance is not None:
            if len(self.covariance) != objective.dim:
                raise ValueError(
                    f"`covariance` was given for {len(self.covariance)} inputs; the objective has "
                    f"{_check.counted(objective.dim, 'dimension')}. Leave it out to take the objective's "
                    "Hessian."
                )
            return self
        at = getattr(objective, "reference", None) if self.reference is None else self.reference
        if at is None:
            raise ValueError(
                f"`covariance` must be given: {objective!r} has no reference point whose Hessian it could be."
            )
        hessian = _check.returned("hessian", objective.hessian(at), at, (objective.dim,) * 2)
        # Rounding may leave a flat direction slightly negative; a saddle is another matter.
        low, high = np.linalg.eigvalsh(hessian)[[0, -1]]
        if low < -1e-10 * abs(high):
            raise ValueError(
                "The objective's Hessian at the reference is no covariance of inputs: its smallest curvature "
                f"is {low:.3g}. Pass `covariance`, or a minimum as `reference`."
            )
        return GaussianInputs(**{**self._kept(), "covariance": hessian})

    def _inputs(self, w: Any) -> np.ndarray:
        """The covariance of the inputs (d, d), for states (..., d)."""
        if self.covariance is None:
            raise ValueError(
                "The inputs' covariance is not known yet. Pass `covariance`, or put the noise into st.Flow, "
                "which takes the objective's Hessian."
            )
        dim = np.shape(w)[-1]
        if len(self.covariance) != dim:
            raise ValueError(
                f"`covariance` was given for {len(self.covariance)} inputs; the state has {dim}."
            )
        return self.covariance

    @functools.cached_property
    def _half(self) -> np.ndarray:
        """A square root of the inputs' covariance: symmetric, so that a batch keeps the symmetry."""
        assert self.covariance is not None
        values, vectors = np.linalg.eigh(self.covariance)
        return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T

    def sample(self, w: np.ndarray, size: int, rng: np.random.Generator) -> Sample:
        mean, nothing = self._inputs(w), np.zeros((size, *self._inputs(w).shape))
        # A nested Hessian batch is drawn first, and then what the gradient batch has beside it.
        nested = self.coupling == "nested" and not math.isinf(self.hessian_batch)
        hessian = self._rows(self.hessian_batch, size, rng)
        rest = self._rows(self.batch - self.hessian_batch if nested else self.batch, size, rng)
        parts = [hessian, rest] if nested else [rest]
        Eg, zeta = nothing, np.zeros((size, len(mean)))
        if not math.isinf(self.batch):
            Eg = sum((_squares(part) for part in parts), nothing) / self.batch - mean
            for part in parts if self.label_noise else []:
                # With Bartlett's triangle in place of the inputs, sum x n has the same law: given the
                # inputs it is normal with covariance L L^T.
                labels = rng.standard_normal((size, part.shape[2]))
                zeta += self.label_noise / self.batch * np.einsum("sij,sj->si", part, labels)
        exact = math.isinf(self.hessian_batch)
        return Sample(zeta, Eg, nothing if exact else _squares(hessian) / self.hessian_batch - mean)

    def _rows(self, count: float, size: int, rng: np.random.Generator) -> np.ndarray:
        """Matrices L (size, d, k) for which ``L L^T`` and ``L n``, n normal, have the law of `count` inputs.

        ``sum x x^T`` and ``sum x n`` together. Of more inputs than dimensions Bartlett's triangle (Anderson
        2003, section 7.2) is as many numbers as a matrix has, whatever their count.
        """
        dim = len(self._half)
        if math.isinf(count) or count == 0:
            return np.zeros((size, dim, 0))
        if count <= dim:
            return self._half @ rng.standard_normal((size, dim, int(count)))
        triangle = np.tril(rng.standard_normal((size, dim, dim)), -1)
        index = np.arange(dim)
        triangle[:, index, index] = np.sqrt(rng.chisquare(count - index, (size, dim)))
        return self._half @ triangle

    def factors(self, w: np.ndarray) -> Sample:
        self._require_law()
        dim = len(self._inputs(w))
        # Of a normal z, z z^T - I has the covariance of a GOE matrix.
        basis = self._half @ symmetric_basis(dim) @ self._half
        gradient, across, rest = self.mixing()
        still, none = np.zeros((dim, dim, dim)), np.zeros((len(basis), dim))
        blocks = [Sample(self.label_noise * gradient * self._half, still, still)]
        blocks.append(Sample(none, gradient * basis, across * basis))
        if rest:
            blocks.append(Sample(none, 0 * basis, rest * basis))
        return join(blocks)

    def gradient_covariance(self, w: np.ndarray, reference: np.ndarray | None = None) -> np.ndarray:
        C = self._inputs(w)
        center = self.reference if self.reference is not None else reference
        result = self.label_noise**2 * C
        if center is not None:
            moved = C @ (np.asarray(w, dtype=float) - center)
            # Isserlis: E (x x^T - C) o o^T (x x^T - C) = C o o^T C + (o^T C o) C.
            result = result + np.outer(moved, moved) + (moved @ (np.asarray(w) - center)) * C
        return self.scales[0] * result

    def __repr__(self) -> str:
        C = self.covariance
        inputs = "" if C is None else f"covariance of shape {C.shape}, "
        if math.isinf(self.batch):
            return f"Noise.wishart({inputs}samples={self.hessian_batch:g})"
        return (
            f"Noise.streaming({inputs}label_noise={self.label_noise:g}, batch={self.batch:g}, "
            f"hessian_batch={self.hessian_batch:g}, coupling={self.coupling!r})"
        )


def _squares(rows: np.ndarray) -> np.ndarray:
    """``L L^T`` (size, d, d) of matrices (size, d, k)."""
    return rows @ rows.transpose(0, 2, 1)
