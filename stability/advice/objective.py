"""Places of this package's objectives: with samples, and under a model of the noise."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .._array import Backend
from .._streams import stream
from ..noise import GaussianInputs, Noise
from ..objectives.base import defines, trait
from .place import Along, Unknown, Work

HOST = Backend("numpy", np)
_FACTORS = 2e8  # numbers: rows of all samples' curvature
_DRAWN = 1024  # samples that stand for a model of the noise
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

    redrawn = False

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
        V = V[:, :]
        if hasattr(self.objective, "per_sample_along"):
            self.work.forwards += 3 * V.shape[1]
            found = self.objective.per_sample_along(self.w, V, batch=self.rows)
            gradients, curvatures = (np.asarray(part, dtype=float) for part in found)
            return Along(gradients, curvatures)
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
        if hasattr(F, "per_sample_along"):
            return float(k)
        by_factors = hasattr(F, "hessian_factors") and F.n_samples * F.outputs * self.n <= _FACTORS
        return k / 3 if by_factors else k / 3 + 2 * k


class ModelPlace:
    """A state of an objective under a model of the noise, which samples are drawn from afresh.

    Parameters
    ----------
    objective : Objective
        With ``gradient`` and ``hvp`` or ``products``.
    w : array (n,)
    noise : Noise
        Gaussian of a given size, or of Gaussian inputs.
    seed : int

    Raises
    ------
    ValueError
        If the noise is of another class.
    """

    redrawn = False

    def __init__(self, objective: Any, w: np.ndarray, noise: Noise, seed: int = 0):
        if type(noise) not in (Noise, GaussianInputs):
            raise ValueError(
                f"In {len(w)} dimensions `noise` must be given by its size, or be streaming; got {noise!r}. "
                "Use st.Noise(gradient=..., curvature=...), or an objective with samples."
            )
        self.objective, self.w, self.noise = objective, w, noise
        self.backend, self.n, self.population = HOST, len(w), math.inf
        self.samples = _DRAWN
        self.work, self.rng = Work(), stream(seed, 1)
        reference = noise.reference if noise.reference is not None else trait(objective, "reference")
        self.offset = np.zeros(self.n) if reference is None else w - reference

    def product(self, V: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
        """The Hessian times V (n, k); a batch's own is not known."""
        if rows is not None and self.noise.has_curvature:
            raise Unknown("a model of the noise has no batches whose Hessians could be asked")
        self.work.products += V.shape[1] * (1.0 if rows is None else len(rows) / self.samples)
        if defines(self.objective, "products"):
            return np.asarray(self.objective.products(self.w)(V), dtype=float)
        return np.asarray(self.objective.hvp(self.w, V), dtype=float)

    def gradient(self, rows: np.ndarray | None = None) -> np.ndarray:
        """The gradient (n,), with the noise of as many samples as there are in `rows`."""
        self.work.gradients += 1.0 if rows is None else len(rows) / self.samples
        mean = np.asarray(self.objective.gradient(self.w), dtype=float)
        return mean if rows is None else mean + self._drawn() / math.sqrt(len(rows))

    def _drawn(self) -> np.ndarray:
        """One sample's gradient noise (n,) at this state."""
        noise, normal, offset = self.noise, self.rng.standard_normal, self.offset
        if isinstance(noise, GaussianInputs):
            C, half = noise._inputs(self.w), noise._half
            size = math.sqrt(noise.label_noise**2 + float(offset @ C @ offset))
            return size * (half @ normal(self.n)) + C @ offset * normal()
        own = noise._zeta_rows(normal((self.n, 1)), self.n)[:, 0] * math.sqrt(noise.batch)
        length = float(np.linalg.norm(offset))
        return own + noise.curvature * (length * normal(self.n) + offset * normal())

    def signed_gradient(self, signs: np.ndarray) -> np.ndarray:
        """``sum_s signs_s g_s / m`` (n,)."""
        self.work.gradients += 1
        mean = np.asarray(self.objective.gradient(self.w), dtype=float)
        size = float(np.linalg.norm(signs)) / self.samples
        return float(np.mean(signs)) * mean + size * self._drawn()

    def second_moment(self) -> np.ndarray:
        """``E g_s^2`` (n,)."""
        self.work.gradients += 1
        mean = np.asarray(self.objective.gradient(self.w), dtype=float)
        noise, offset = self.noise, self.offset
        if isinstance(noise, GaussianInputs):
            C = noise._inputs(self.w)
            size = noise.label_noise**2 + float(offset @ C @ offset)
            return mean**2 + size * np.diag(C) + (C @ offset) ** 2
        own = np.diag(noise.gradient) if noise.gradient.ndim == 2 else noise.gradient**2
        return mean**2 + own + noise.curvature**2 * (offset @ offset + offset**2)

    def along(self, V: np.ndarray) -> Along:
        """Gradients and curvatures of drawn samples along V (n, k)."""
        V = V[:, :]
        noise, k, m = self.noise, V.shape[1], self.samples
        mean, slope = V.T @ self.product(V), V.T @ np.asarray(self.objective.gradient(self.w), dtype=float)
        normal = self.rng.standard_normal
        frame = np.column_stack([V, self.offset])
        if isinstance(noise, GaussianInputs):
            rows = normal((m, k + 1)) @ _root(frame.T @ noise._inputs(self.w) @ frame).T
            bent = rows[:, :, None] * rows[:, None] - frame.T @ noise._inputs(self.w) @ frame
            own = noise.label_noise * rows[:, :k] * normal((m, 1))
        else:
            square = normal((m, k + 1, k + 1))
            root = _root(frame.T @ frame)
            bent = noise.curvature / math.sqrt(2) * root @ (square + square.transpose(0, 2, 1)) @ root.T
            size = noise.gradient
            own = normal((m, k)) @ _root(V.T @ (size @ V if size.ndim == 2 else (size**2 * V.T).T)).T
        gradients = slope + own + bent[:, :k, k]
        note = f"{m} samples were drawn from the model of the noise."
        return Along(gradients, mean + bent[:, :k, :k], note=note)

    def price(self, k: int) -> float:
        """Of `along`, in gradients."""
        return 2.0 * k


def _root(covariance: np.ndarray) -> np.ndarray:
    """A square root of a covariance."""
    values, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(np.maximum(values, 0.0))
