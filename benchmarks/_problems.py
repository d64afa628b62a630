"""What is simulated: the flows, how much of them, and what their ensembles must come out as."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

DT = {
    "ou": 0.125,
    "sfn": 0.0625,
}  # powers of two: every integrator then takes exactly the same number of steps
DAMPING = 0.1
MAX_Z = 5.0


@dataclass(frozen=True)
class Problem:
    """An ensemble: `paths` paths of `steps` steps of ``dW = -P g dt + sqrt(dt) sigma P dB`` (step = dt).

    `kind` is "ou" (SGD on a quadratic with eigenvalues logspace(0, -2, dim), in a rotated basis unless
    `diagonal`) or "sfn" (saddle-free Newton, damping 0.1, on the coupled quartic).
    """

    kind: str
    dim: int
    paths: int
    steps: int
    diagonal: bool = False
    sigma: float = 0.1

    @property
    def dt(self) -> float:
        return DT[self.kind]

    @property
    def t_end(self) -> float:
        return self.steps * self.dt

    @property
    def eigenvalues(self) -> np.ndarray:
        return np.logspace(0, -2, self.dim)

    @property
    def start(self) -> np.ndarray:
        """Off the critical point, so that a wrong drift shows; SFN's where the Hessian is indefinite."""
        if self.kind == "ou":
            return np.full(self.dim, 0.05)
        return np.append(0.3, np.full(self.dim - 1, 0.3 / np.sqrt(self.dim - 1)))

    def flow(self):
        """As a flow of this library."""
        import stability as st

        noise = st.Noise(gradient=self.sigma)
        if self.kind == "ou":
            return st.Flow(
                st.quadratic(self.eigenvalues, rotation_seed=None if self.diagonal else 0),
                st.SGD(),
                noise,
                step=self.dt,
            )
        return st.Flow(
            st.landscape("coupled_quartic", dim=self.dim), st.SFN(damping=DAMPING), noise, step=self.dt
        )

    def matrix(self) -> np.ndarray:
        """The Hessian (dim, dim) of the quadratic."""
        return np.array(self.flow().objective.matrix)

    def smaller(self) -> Problem:
        """About a fifth of the work.

        Whole multiples of 4096 paths, as everywhere here, so that nobody's blocks or threads go half empty.
        """
        if self.paths <= 4096:
            return replace(self, steps=self.steps // 3)
        return replace(self, paths=math.ceil(self.paths / 5 / 4096) * 4096)


def expected(problem: Problem) -> dict:
    """The law of the final states: the chain's closed form, or an ensemble by plain NumPy."""
    return _chain(problem) if problem.kind == "ou" else _reference(problem)


def _chain(problem: Problem) -> dict:
    values, vectors = np.linalg.eigh(problem.matrix())
    keep = 1 - values * problem.dt
    variance = (problem.dt * problem.sigma) ** 2 * (1 - keep ** (2 * problem.steps)) / (1 - keep**2)
    mean = keep**problem.steps * (vectors.T @ problem.start)
    return {
        "vectors": vectors,
        "mean": mean,
        "variance": variance,
        "mean_error": 0.0,
        "variance_error": 0.0,
        "exact": True,
    }


def _reference(problem: Problem) -> dict:
    """No closed form for SFN: the same chain, written a second time in its plainest form."""
    rng, w = np.random.default_rng(20), np.tile(problem.start, (min(problem.paths, 20_000), 1))
    for _ in range(problem.steps):
        gradient, hessian = quartic(w)
        values, vectors = np.linalg.eigh(hessian)
        force = -problem.dt * gradient + problem.dt * problem.sigma * rng.standard_normal(w.shape)
        turned = np.einsum("nij,ni->nj", vectors, force) / (np.abs(values) + DAMPING)
        w = w + np.einsum("nij,nj->ni", vectors, turned)
    return {
        "vectors": np.eye(problem.dim),
        **dict(zip(("mean", "variance", "mean_error", "variance_error"), moments(w), strict=True)),
        "exact": False,
    }


def quartic(w: np.ndarray, xp=np) -> tuple:
    """Gradient (..., d) and Hessian (..., d, d) of the coupled quartic, for NumPy and jax.numpy."""
    x, y = w[..., 0], w[..., 1:]
    square = xp.sum(y**2, axis=-1)
    side = 0.5 * (1 + x**2)
    gradient = xp.concatenate([(x**3 - x + 0.5 * x * square)[..., None], side[..., None] * y], axis=-1)
    row = xp.concatenate([(3 * x**2 - 1 + 0.5 * square)[..., None], x[..., None] * y], axis=-1)[..., None, :]
    below = side[..., None, None] * xp.eye(y.shape[-1]) + 0 * y[..., None]
    return gradient, xp.concatenate(
        [row, xp.concatenate([(x[..., None] * y)[..., None], below], axis=-1)], axis=-2
    )


def moments(states: np.ndarray) -> tuple[np.ndarray, ...]:
    """Mean, variance, and their standard errors (from fourth moments), per axis."""
    count = len(states)
    mean, variance = states.mean(axis=0), states.var(axis=0, ddof=1)
    fourth = np.mean((states - mean) ** 4, axis=0)
    return mean, variance, np.sqrt(variance / count), np.sqrt(np.maximum(fourth - variance**2, 0) / count)


def largest_z(states: np.ndarray, law: dict) -> float:
    """Largest deviation of mean and variance from the law, in standard errors; inf if not finite."""
    if not np.isfinite(states).all():
        return float("inf")
    mean, variance, mean_error, variance_error = moments(states @ law["vectors"])
    if law["exact"]:
        variance_error = law["variance"] * np.sqrt(
            2 / (len(states) - 1)
        )  # Gaussian: the law's own error, not the sample's
        mean_error = np.sqrt(law["variance"] / len(states))
    z = [np.abs(mean - law["mean"]) / np.hypot(mean_error, law["mean_error"])]
    z += [np.abs(variance - law["variance"]) / np.hypot(variance_error, law["variance_error"])]
    return float(np.max(z))
