"""Witness of the statement in `sampled`, by dense matrices of drawn batches."""

from __future__ import annotations

import math

import numpy as np
import scipy

from ...flow import Flow
from ...linear.linearize import linearize
from ...noise import Noise
from ...objectives.quadratic import quadratic
from ..statement import Statement
from .base import Case, Values, apart, value, variance, witness, z_of_mean
from .steps import SameBatchCancellation

ROWS, COLUMNS = 5, 7
PATHS = 2000


@witness("sample-space")
class SampleSpace(SameBatchCancellation):
    seed = dim = 0  # of what is drawn beside the values

    def draw(self, case: Case, rng: np.random.Generator, gentle: bool) -> Values:
        self.seed, self.dim = int(rng.integers(2**31)), int(rng.integers(2, 6))
        beside = {"sigma": rng.uniform(0.2, 2.0), "step": rng.uniform(0.2, 1.2)}
        return super().draw(case, rng, gentle) | beside | {"b": float(self.dim + rng.integers(9, 30))}

    def sensible(self, case: Case, values: Values) -> bool:
        return True

    def whole(self, values: Values) -> Values:
        """What the floor of all modes is of: no single curvature."""
        return {name: values[name] for name in ("b", "step", "sigma")} | {"d": self.dim}

    def pulled(self, case: Case, largest: float) -> float:
        """The largest eigenvalue of ``J^T (J J^T + gamma)^-1 J`` of a batch with this largest curvature."""
        J = np.random.default_rng(self.seed).standard_normal((ROWS, COLUMNS))
        J *= math.sqrt(largest) / np.linalg.norm(J, 2)
        damping = float(case.method.parameters.get("damping", 0.0))
        return float(np.linalg.norm(J.T @ np.linalg.solve(J @ J.T + damping * np.eye(ROWS), J), 2))

    def numeric(self, case: Case, values: Values) -> float:
        return 2 / self.pulled(case, values["lam"])

    def also(self, case: Case, values: Values) -> dict[str, float]:
        lam = values["lam"]
        noise = Noise(gradient=values["sigma"] * math.sqrt(lam), batch=values["b"], hessian_batch=math.inf)
        linear = linearize(Flow(quadratic([lam]), case.method, noise, step=values["step"]))
        return {
            "whatever-the-batch": 2 / self.pulled(case, 1e13),
            "linearized": super().numeric(case, values),
            "floor": 0.5 * lam * variance(linear, 0, "discrete"),
        }

    def deviation(self, theorem: Statement, case: Case, values: Values) -> float:
        """And in many dimensions: by SciPy's inverse Wishart mean, and by a projection of low rank."""
        step, law = values["step"], scipy.stats.invwishart(df=values["b"], scale=np.eye(self.dim))
        floor = 0.5 * step / (2 - step) * values["sigma"] ** 2 * float(np.trace(np.atleast_2d(law.mean())))
        X = np.random.default_rng(self.seed).standard_normal((ROWS, COLUMNS))
        left = float(np.sum((np.eye(COLUMNS) - step * np.linalg.pinv(X) @ X) ** 2)) / COLUMNS
        few = {"b": float(ROWS), "d": COLUMNS, "step": step}
        return max(
            super().deviation(theorem, case, values),
            apart(value(theorem, case, self.whole(values), "wishart-floor"), floor),
            apart(value(theorem, case, few, "projection"), left),
        )

    def ensemble(self, theorem: Statement, case: Case, values: Values, seed: int) -> float:
        """The excess risk of paths on fresh Gaussian batches with label noise, long after the start."""
        rng, (b, d), step = np.random.default_rng(seed), (int(values["b"]), self.dim), values["step"]
        spectrum = np.geomspace(1.0, 1e-3, d)
        at = np.zeros((PATHS, d))
        for _ in range(math.ceil(8 / (step * (2 - step)))):
            X = rng.standard_normal((PATHS, b, d)) * np.sqrt(spectrum)
            residuals = (X @ at[:, :, None])[..., 0] - values["sigma"] * rng.standard_normal((PATHS, b))
            flipped = np.swapaxes(X, 1, 2)
            at = at - step * np.linalg.solve(flipped @ X, flipped @ residuals[..., None])[..., 0]
        predicted = value(theorem, case, self.whole(values), "wishart-floor")
        return z_of_mean(0.5 * np.sum(spectrum * at**2, axis=1), predicted)
