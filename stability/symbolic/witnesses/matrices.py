"""The witness of every statement derived with full matrices."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
from scipy.linalg import solve_continuous_lyapunov

from ...flow import Flow
from ...linear.linearize import linearize
from ...linear.result import LinearFlow
from ...noise import Noise
from ...objectives.quadratic import quadratic
from ...objectives.regression import least_squares
from ..statement import Statement
from .base import Case, Values, Witness, best_step, curvature_noise, value
from .paths import Cubic


class MatrixWitness(Witness):
    """Statements with full matrices, against the numeric theory in as many dimensions."""

    tolerance = 1e-9

    def draw(self, case: Case, rng: np.random.Generator, gentle: bool) -> Values:
        dim = int(case.dim or 1)
        self.curvatures = np.sort(rng.uniform(0.3, 2.0, dim))[::-1]
        root = rng.normal(size=(dim, dim))
        self.sigma = root @ root.T
        self.noise = curvature_noise(rng)
        raw = rng.normal(size=(dim,) * 3)
        # A third derivative is symmetric in all three of its indices.
        self.third = np.sum([np.transpose(raw, order) for order in itertools.permutations(range(3))], axis=0)
        self.gradient = rng.normal(size=dim)
        self.step = rng.uniform(0.02, 0.1)
        own = 1 / self.noise["batch"]
        tau = self.noise["curvature"]
        values = {f"lam_{i + 1}": x for i, x in enumerate(self.curvatures)} | {
            "step": self.step,
            "sigma": 1.0,
            "dt": self.step,
            "b": self.noise["batch"],
        }
        values |= {f"Sigma_{i + 1}{j + 1}": self.sigma[i, j] for i in range(dim) for j in range(i, dim)}
        values |= {f"g_{i + 1}": x for i, x in enumerate(self.gradient)}
        values |= {
            f"k_{i + 1}{j + 1}{k + 1}": self.third[i, j, k]
            for i in range(dim)
            for j in range(i, dim)
            for k in range(j, dim)
        }
        self.rows = rng.normal(size=(3, dim))
        samples = self.rows[:, :, None] * self.rows[:, None, :]
        curvatures, Q = np.linalg.eigh(samples.mean(axis=0))
        self.hessian = (Q * self.curvatures) @ Q.T  # in coordinates of its own, as a metric sees it
        entries = {"H": self.hessian}
        if case.method.spectral:
            entries["P"] = self.P = Q * case.method.gains(curvatures) @ Q.T
        else:
            self.squares = np.diag(self.sigma) * rng.uniform(1.0, 1.5, dim)
            values |= {f"V_{i + 1}": x for i, x in enumerate(self.squares)}
        for name, entry in entries.items():
            values |= {f"{name}_{i + 1}{j + 1}": entry[i, j] for i in range(dim) for j in range(i, dim)}
        lean = rng.normal(size=(dim, dim))
        self.moment = lean @ lean.T
        values |= {f"M_{i + 1}{j + 1}": self.moment[i, j] for i in range(dim) for j in range(i, dim)}
        values |= {
            f"h{k + 1}_{i + 1}{j + 1}": samples[k, i, j]
            for k in range(3)
            for i in range(dim)
            for j in range(i, dim)
        }
        self.batch = {"tau_g": tau * math.sqrt(own), "tau_h": tau / math.sqrt(self.noise["hessian_batch"])}
        return values | self.batch | {"c": tau**2 * own if self.noise["coupling"] == "nested" else 0.0}

    def sensible(self, case: Case, values: Values) -> bool:
        return not case.method.spectral or bool(np.all(np.abs(case.method.gains(self.curvatures)) < 50))

    def deviation(self, theorem: Statement, case: Case, values: Values) -> float:
        ours, theirs = (
            np.asarray(value(theorem, case, values)),
            np.asarray(getattr(self, "_" + theorem.name.replace("-", "_"))(case)),
        )
        return float(np.max(np.abs(ours - theirs)) / np.max(np.abs(theirs)))

    def _linear(self, case: Case, *, step: float | None = None, **noise: Any) -> LinearFlow:
        return linearize(
            Flow(
                quadratic(self.curvatures),
                case.method,
                Noise(**(noise or {"gradient": self.sigma})),
                step=self.step if step is None else step,
            )
        )

    def _noise_amplification(self, case: Case) -> np.ndarray:
        return self._linear(case).covariance("continuous")

    def _discrete_vs_continuous(self, case: Case) -> np.ndarray:
        return self._linear(case).covariance("discrete")

    def _excess_risk(self, case: Case) -> float:
        return self._linear(case).excess_risk("continuous")

    def _aligned_noise(self, case: Case) -> np.ndarray:
        return self._linear(case, gradient=np.diag(self.curvatures)).covariance("continuous")

    def _mean_square_step_limit(self, case: Case) -> float:
        return self._linear(case, **self.noise).step_limit()

    def _same_batch_cancellation(self, case: Case) -> float:
        return self._linear(
            case, **{**self.noise, "hessian_batch": self.noise["batch"], "coupling": "nested"}
        ).step_limit()

    def _noise_floor(self, case: Case) -> float:
        """Of the samples' metric, which does not commute with the Hessian here."""
        drift, kicks = self.P @ np.diag(self.curvatures), self.P @ self.sigma @ self.P
        if case.memory is None:
            covariance = solve_continuous_lyapunov(drift, self.step * kicks)
        else:  # dw = -u dt, step du = (drift w - (1 - beta) u) dt + noise
            eye, none = np.eye(len(drift)), np.zeros_like(drift)
            whole = np.block([[none, eye], [-drift / self.step, (1 - case.memory.beta) / self.step * eye]])
            source = np.block([[none, none], [none, kicks / self.step]])
            covariance = solve_continuous_lyapunov(whole, source)[: len(drift), : len(drift)]
        return 0.5 * float(self.curvatures @ np.diag(covariance))

    def _batch_sharpness(self, case: Case) -> float:
        """Of the samples' metric, by the noise's own second moment."""
        drawn = {**self.noise, "hessian_batch": math.inf, "coupling": "independent"}
        H, noise = np.diag(self.curvatures), Noise(**drawn)
        spread = noise.second_moment(lambda Eg, Eh: Eg, self.moment)
        gradients = H @ self.moment @ H
        fed = np.trace(self.P @ H @ self.P @ (gradients + spread))
        return float(fed / np.trace(self.P @ gradients))

    def _streaming_limit(self, case: Case) -> float:
        noise = Noise.streaming(batch=self.noise["batch"], hessian_batch=math.inf)
        return linearize(Flow(quadratic(self.curvatures), case.method, noise, step=1.0)).step_limit()

    def _adaptive_metric(self, case: Case) -> np.ndarray:
        """The balance as one linear system in the entries, signs' correlations by their orthant."""
        eye, dim = np.eye(len(self.sigma)), len(self.sigma)
        root = np.sqrt(np.diag(self.sigma))
        if case.method.linear:  # type: ignore[attr-defined]
            scale = case.method.scale(self.squares)  # type: ignore[attr-defined]
            kicks = np.outer(scale, scale) * self.sigma
        else:
            scale = math.sqrt(2 / math.pi) / root
            correlation = np.clip(self.sigma / np.outer(root, root), -1, 1)
            np.fill_diagonal(correlation, 1.0)  # near one rounding grows to its root
            kicks = 1 - 2 * np.arccos(correlation) / math.pi
        decay = case.method.weight_decay * (eye if case.method.decoupled else np.diag(scale))
        A = scale[:, None] * self.hessian + decay
        system = np.kron(A, eye) + np.kron(eye, A)
        return np.linalg.solve(system, self.step * kicks.ravel()).reshape(dim, dim)

    def _critical_batch(self, case: Case) -> float:
        noise = {"gradient": self.sigma, "batch": self.noise["batch"]}
        return best_step(lambda step: self._linear(case, step=step, **noise), self.gradient)[0]

    def _trajectory_noise(self, case: Case) -> np.ndarray:
        objective = Cubic(self.gradient, np.diag(self.curvatures), self.third)
        return Flow(objective, case.method, step=1.0).jacobian(np.zeros(len(self.curvatures)))

    def _finite_data_limit(self, case: Case) -> float:
        objective = least_squares(self.rows, self.rows @ np.ones(self.rows.shape[1]))
        # All three samples: the preconditioner is then exact, as the statement wants it.
        noise = Noise.from_data(objective, np.ones(self.rows.shape[1]), 2, hessian_batch=3)
        return linearize(
            Flow(objective, case.method, noise, step=1.0), at=np.ones(self.rows.shape[1])
        ).step_limit()
