"""Places of this package's objectives."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._array import Backend
from ..objectives.base import defines
from .place import Along, Work

HOST = Backend("numpy", np)
_FACTORS = 2e8  # numbers: rows of all samples' curvature
_MATRICES = 5e7  # numbers: Hessians of all samples


class ObjectivePlace:
    """A state of an objective with samples; see `stability.advice.place.Place`.

    Parameters
    ----------
    objective : Objective
        A mean over samples, behind the gate, with ``gradient`` and ``hvp`` or ``products``.
    w : array (n,)
    rows : array of int (m,)
        Samples to look at.
    population : float
        Samples that batches are drawn from; infinite if they are drawn with replacement.
    """

    def __init__(self, objective: Any, w: np.ndarray, rows: np.ndarray, population: float | None = None):
        self.objective, self.w, self.rows = objective, w, rows
        self.backend, self.n, self.samples = HOST, len(w), len(rows)
        self.population: Any = int(objective.n_samples) if population is None else population
        self._all = len(rows) == objective.n_samples
        self.work = Work()

    def _batch(self, rows: np.ndarray | None) -> dict[str, Any]:
        if rows is None:
            return {} if self._all else {"batch": self.rows}
        return {"batch": self.rows[rows]}

    def _share(self, rows: np.ndarray | None) -> float:
        return 1.0 if rows is None else len(rows) / self.samples

    def product(self, V: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
        """The mean Hessian of samples times V (n, k)."""
        self.work.products += V.shape[1] * self._share(rows)
        return self._product(V, self._batch(rows))

    def _product(self, V: np.ndarray, batch: dict[str, Any]) -> np.ndarray:
        if defines(self.objective, "products"):
            return np.asarray(self.objective.products(self.w, **batch)(V), dtype=float)
        return np.asarray(self.objective.hvp(self.w, V, **batch), dtype=float)

    def gradient(self, rows: np.ndarray | None = None) -> np.ndarray:
        """The mean gradient of samples (n,)."""
        self.work.gradients += self._share(rows)
        return np.asarray(self.objective.gradient(self.w, **self._batch(rows)), dtype=float)

    def signed_gradient(self, signs: np.ndarray) -> np.ndarray:
        """``sum_s signs_s g_s / m`` (n,)."""
        self.work.gradients += 1
        total = np.zeros(self.n)
        for part, rows in self._gradients():
            total += signs[part] @ rows
        return total / self.samples

    def second_moment(self) -> np.ndarray:
        """``mean_s g_s^2`` (n,)."""
        self.work.gradients += 1
        total = np.zeros(self.n)
        for _, rows in self._gradients():
            total += np.sum(rows**2, axis=0)
        return total / self.samples

    def _gradients(self) -> Any:
        """Samples' gradients (., n), block by block."""
        size = max(1, int(4e6) // self.n)
        for start in range(0, self.samples, size):
            part = slice(start, min(start + size, self.samples))
            batch = self.rows[part]
            if defines(self.objective, "per_sample_gradient"):
                rows = self.objective.per_sample_gradient(self.w, batch=batch)
            else:
                rows = np.stack(
                    [self.objective.gradient(self.w, batch=batch[i : i + 1]) for i in range(len(batch))]
                )
            yield part, np.asarray(rows, dtype=float)

    def along(self, V: np.ndarray) -> Along:
        """Every sample's gradient and curvature along V (n, k)."""
        self.work.forwards += V.shape[1]
        gradients = np.concatenate([rows @ V for _, rows in self._gradients()])
        return Along(gradients, self._curvatures(V))

    def _curvatures(self, V: np.ndarray) -> np.ndarray:
        F, k = self.objective, V.shape[1]
        if hasattr(F, "hessian_factors") and F.n_samples * F.outputs * self.n <= _FACTORS:
            rows = F.hessian_factors(self.w)[self.rows] @ V
            return rows.transpose(0, 2, 1) @ rows + float(F.l2) * V.T @ V
        found = np.empty((self.samples, k, k))
        if defines(F, "per_sample_hessian") and self.samples * self.n**2 <= _MATRICES:
            self.work.products += k
            size = max(1, int(4e6) // self.n**2)
            for start in range(0, self.samples, size):
                part = slice(start, start + size)
                found[part] = V.T @ F.per_sample_hessian(self.w, batch=self.rows[part]) @ V
        else:
            self.work.products += k
            for i in range(self.samples):
                found[i] = V.T @ self._product(V, {"batch": self.rows[i : i + 1]})
        return 0.5 * (found + found.transpose(0, 2, 1))

    def price(self, k: int) -> float:
        """Of `along`, in gradients."""
        F = self.objective
        by_factors = hasattr(F, "hessian_factors") and F.n_samples * F.outputs * self.n <= _FACTORS
        return k / 3 if by_factors else k / 3 + 2 * k
