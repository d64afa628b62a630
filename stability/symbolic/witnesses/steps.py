"""Witnesses of the statements in `stability.symbolic.steps`."""

from __future__ import annotations

import copy
import math

import numpy as np

from ...flow import Flow
from ...linear import linearize
from ...noise import Noise
from ...objectives import least_squares, quadratic
from ..objects import Theorem
from .base import Case, Recomputed, Values, curvature_noise, doubled, simulated, strengths, value, witness, z_of_mean


@witness("mean-square-step-limit")
class MeanSquareStepLimit(Recomputed):
    noise: Values

    def draw(self, case: Case, rng: np.random.Generator, gentle: bool) -> Values:
        self.noise = curvature_noise(rng)
        return {"lam": rng.uniform(0.3, 2.0), **strengths(self.noise)}

    def numeric(self, case: Case, values: Values) -> float:
        return linearize(case.flow({**values, "step": 1.0}, **self.noise)).step_limit()

    def deviation(self, theorem: Theorem, case: Case, values: Values) -> float:
        """Of the limit, and of how a second mode feeds this one: the numeric second moment of ``P E_g + DP[E_h] H``."""
        worst = super().deviation(theorem, case, values)
        if theorem.name != "mean-square-step-limit":
            return worst
        method = copy.copy(case.method)
        method.rank = method.rank and 2
        tau, own = self.noise["curvature"], 1 / self.noise["batch"]
        lams = np.array([values["lam"], 0.7 * values["lam"]])
        noise, P, Phi = Noise(**self.noise), np.diag(method.gains(lams)), method.divided_differences(lams)
        fed = noise.second_moment(lambda Eg, Eh: P @ Eg + (Phi * Eh) * lams, np.diag([0.0, 1.0]))[0, 0]
        strength = {"tau_g": tau * math.sqrt(own), "tau_h": tau / math.sqrt(self.noise["hessian_batch"])}
        shared = tau**2 * own if self.noise["coupling"] == "nested" else 0.0
        ours = value(theorem, case, {**values, **strength, "c": shared, "lam_j": lams[1]}, "coupling")
        return max(worst, abs(ours / fed - 1) if fed > 1e-12 else abs(ours - fed))

    def ensemble(self, theorem: Theorem, case: Case, values: Values, seed: int) -> float:
        """At the limit one step leaves the mean square as it was."""
        limit = value(theorem, case, values)
        return z_of_mean(doubled(case.flow({**values, "step": limit}, **self.noise), seed), 1.0)


@witness("same-batch-cancellation")
class SameBatchCancellation(MeanSquareStepLimit):
    def draw(self, case: Case, rng: np.random.Generator, gentle: bool) -> Values:
        self.noise = {"curvature": rng.uniform(0.05, 0.5), "batch": 4.0, "hessian_batch": 4.0, "coupling": "nested"}
        return {"lam": rng.uniform(0.3, 2.0), "s_g": strengths(self.noise)["s_g"]}


@witness("truncation-gap")
class TruncationGap(Recomputed):
    axis = ("lam", 1.02, 10.0)

    def draw(self, case: Case, rng: np.random.Generator, gentle: bool) -> Values:
        following = rng.uniform(0.3, 1.0)
        return {"lam": following * rng.uniform(1.05, 3.0), "lam_next": following}

    def sensible(self, case: Case, values: Values) -> bool:
        return True

    def numeric(self, case: Case, values: Values) -> float:
        return float(case.method.divided_differences(np.array([values["lam"], values["lam_next"]]))[0, 1])

    def ensemble(self, theorem: Theorem, case: Case, values: Values, seed: int) -> float:
        """Hessian noise turns a gradient along the last kept mode into the first one left out: ``Phi E lambda``."""
        noise = Noise(curvature=0.1, batch=math.inf, hessian_batch=1)
        flow = Flow(quadratic([values["lam"], values["lam_next"]]), case.method, noise, step=0.1)
        sample = noise.sample(np.zeros(2), 20_000, np.random.default_rng(seed))
        turned = flow.noise(np.tile([1.0, 0.0], (20_000, 1)), sample)[:, 1]
        return z_of_mean(turned**2, (value(theorem, case, values) * 0.1 * values["lam"]) ** 2)


@witness("truncation-limit")
class TruncationLimit(Recomputed):
    axis = ("lam_next", 1e-2, 1.0)

    def draw(self, case: Case, rng: np.random.Generator, gentle: bool) -> Values:
        return {"lam_next": rng.uniform(0.3, 1.0)}

    def sensible(self, case: Case, values: Values) -> bool:
        return True

    def flow(self, case: Case, values: Values, step: float) -> Flow:
        return Flow(quadratic([2.0, values["lam_next"]]), case.method, Noise(gradient=1.0), step=step)

    def numeric(self, case: Case, values: Values) -> float:
        linear = linearize(self.flow(case, values, 1.0))
        return 2 / abs(float(linear.rates[1]))

    def ensemble(self, theorem: Theorem, case: Case, values: Values, seed: int) -> float:
        """At the limit the tail's mode turns its sign at every step: undamped, its noise adds up, ``M_k = k step^2 phi^2 sigma^2``."""
        limit = value(theorem, case, values)
        flow = self.flow(case, values, limit)
        ens, steps = simulated(flow, 21, seed), 21
        gain = 2 / limit / values["lam_next"]
        return z_of_mean(ens.states[-1][:, 1] ** 2, steps * (limit * gain) ** 2)


@witness("finite-data-limit")
class FiniteDataLimit(Recomputed):
    def draw(self, case: Case, rng: np.random.Generator, gentle: bool) -> Values:
        n = int(rng.integers(4, 40))
        self.rows = rng.normal(size=(n, 1)) * rng.uniform(0.5, 1.5)
        curvatures = self.rows[:, 0] ** 2
        return {"lam": curvatures.mean(), "V": curvatures.var(), "n": n, "b": int(rng.integers(1, n))}

    def flow(self, case: Case, values: Values, step: float) -> Flow:
        objective = least_squares(self.rows, self.rows @ np.array([0.7]))
        noise = Noise.from_data(objective, np.array([0.7]), values["b"], hessian_batch=values["n"])
        return Flow(objective, case.method, noise, step=step)

    def sensible(self, case: Case, values: Values) -> bool:
        return bool(abs(case.method.gain(values["lam"])) < 50)

    def numeric(self, case: Case, values: Values) -> float:
        return linearize(self.flow(case, values, 1.0), at=[0.7]).step_limit()

    def ensemble(self, theorem: Theorem, case: Case, values: Values, seed: int) -> float:
        """Real minibatch steps at the limit, nothing linearised: the objective is quadratic and the Hessian that of all data."""
        flow = self.flow(case, values, value(theorem, case, values))
        return z_of_mean(doubled(flow, seed, level="iteration"), 1.0)
