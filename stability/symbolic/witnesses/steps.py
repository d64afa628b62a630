"""Witnesses of the statements in `stability.symbolic.steps`."""

from __future__ import annotations

import math
import warnings

import numpy as np

from ..._check import StabilityWarning
from ...flow import Flow
from ...linear.linearize import linearize
from ...methods.response import SpectralResponse
from ...noise import Noise
from ...objectives.quadratic import quadratic
from ...objectives.regression import least_squares
from ..statement import Statement
from .base import (
    Case,
    Recomputed,
    Values,
    curvature_noise,
    doubled,
    simulated,
    strengths,
    value,
    witness,
    z_of_mean,
)


@witness("mean-square-step-limit")
class MeanSquareStepLimit(Recomputed):
    noise: Values

    def draw(self, case: Case, rng: np.random.Generator, gentle: bool) -> Values:
        self.noise = curvature_noise(rng)
        values = {"lam": rng.uniform(0.3, 2.0), **strengths(self.noise)}
        # Of the tail, the first mode: the only one whose own noise moves a flat tail's gain.
        return self.wanted(case, {**values, "lam_next": values["lam"]} if case.branch == "tail" else values)

    def numeric(self, case: Case, values: Values) -> float:
        return self.limit(case, values, self.noise)

    def limit(self, case: Case, values: Values, noise: Values) -> float:
        if case.branch == "kept":
            return linearize(case.alone().flow({**values, "step": 1.0}, **noise)).step_limit()
        response = SpectralResponse(case.method, np.array(case.spectrum(values)))
        # A mode of the tail is never alone in a flow: its own
        # limit is 2 |a| / (a^2 + K), K by the numeric derivatives.
        rate = float(response.gains[-1] * values["lam"])
        return 2 * rate / (rate**2 + float(self.fed(response, noise)[-1, -1]))

    @staticmethod
    def fed(response: SpectralResponse, noise: Values, source: int = -1) -> np.ndarray:
        """``E[G M G^T]`` of a unit variance in one mode, from the numeric gains and derivatives."""
        lams, unit = response.lams, np.zeros((len(response.lams),) * 2)
        unit[source, source] = 1.0
        return Noise(**noise).second_moment(
            lambda Eg, Eh: response.gains[:, None] * Eg + response.derivative(Eh) * lams, unit
        )

    def also(self, case: Case, values: Values) -> dict[str, float]:
        """Other batches, and how a second mode feeds this one."""
        # An infinite Hessian batch has no noise of its own, nested or not.
        quiet = {**self.noise, "hessian_batch": math.inf, "coupling": "independent"}
        apart = {**self.noise, "coupling": "independent"}
        return {
            "independent-batches": self.limit(case, values, apart),
            "exact-Hessian": self.limit(case, values, quiet),
        }

    def deviation(self, theorem: Statement, case: Case, values: Values) -> float:
        worst = super().deviation(theorem, case, values)
        if theorem.name != "mean-square-step-limit" or case.branch == "tail":
            return worst
        response = SpectralResponse(case.ranked(2), np.array([values["lam"], 0.7 * values["lam"]]))
        own, tau = 1 / self.noise["batch"], self.noise["curvature"]
        given = {
            "tau_g": tau * math.sqrt(own),
            "tau_h": tau / math.sqrt(self.noise["hessian_batch"]),
            "lam_j": 0.7 * values["lam"],
        }
        given["c"] = tau**2 * own if self.noise["coupling"] == "nested" else 0.0
        ours, theirs = (
            value(theorem, case, {**values, **given}, "coupling"),
            float(self.fed(response, self.noise)[0, 0]),
        )
        return max(worst, abs(ours - theirs) / max(abs(theirs), 1e-6))

    def ensemble(self, theorem: Statement, case: Case, values: Values, seed: int) -> float:
        """At the limit one step leaves the mean square as it was."""
        if case.branch == "tail":  # a mode of the tail is never alone
            return math.nan
        limit = value(theorem, case, values)
        return z_of_mean(doubled(case.alone().flow({**values, "step": limit}, **self.noise), seed), 1.0)


@witness("same-batch-cancellation")
class SameBatchCancellation(MeanSquareStepLimit):
    def draw(self, case: Case, rng: np.random.Generator, gentle: bool) -> Values:
        self.noise = {
            "curvature": rng.uniform(0.05, 0.5),
            "batch": 4.0,
            "hessian_batch": 4.0,
            "coupling": "nested",
        }
        return {"lam": rng.uniform(0.3, 2.0), "s_g": strengths(self.noise)["s_g"]}

    def also(self, case: Case, values: Values) -> dict[str, float]:
        response = SpectralResponse(case.ranked(1), np.array([values["lam"]]))
        return {"noise": float(self.fed(response, self.noise)[0, 0])}


@witness("truncation-gap")
class TruncationGap(Recomputed):
    axis = ("lam", 1.02, 10.0)

    def draw(self, case: Case, rng: np.random.Generator, gentle: bool) -> Values:
        following = rng.uniform(0.3, 1.0)
        return {"lam": following * rng.uniform(1.05, 3.0), "lam_next": following}

    def sensible(self, case: Case, values: Values) -> bool:
        return True

    def numeric(self, case: Case, values: Values) -> float:
        return float(case.ranked(1).divided_differences(np.array([values["lam"], values["lam_next"]]))[0, 1])

    def ensemble(self, theorem: Statement, case: Case, values: Values, seed: int) -> float:
        """Hessian noise turns a gradient along the last kept mode into the next one: ``Phi E lambda``."""
        noise = Noise(curvature=0.1, batch=math.inf, hessian_batch=1)
        flow = Flow(quadratic([values["lam"], values["lam_next"]]), case.ranked(1), noise, step=0.1)
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
        return Flow(quadratic([2.0, values["lam_next"]]), case.ranked(1), Noise(gradient=1.0), step=step)

    def numeric(self, case: Case, values: Values) -> float:
        linear = linearize(self.flow(case, values, 1.0))
        return 2 / abs(float(linear.rates[1]))

    def ensemble(self, theorem: Statement, case: Case, values: Values, seed: int) -> float:
        """At the limit the tail's mode turns its sign at every step: undamped, its noise adds up.

        ``M_k = k step^2 phi^2 sigma^2``.
        """
        limit = value(theorem, case, values)
        flow = self.flow(case, values, limit)
        # The kept mode may be beyond its own limit here: only the tail's is looked at.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", StabilityWarning)
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
        return Flow(objective, case.ranked(1), noise, step=step)

    def sensible(self, case: Case, values: Values) -> bool:
        return bool(abs(case.method.gain(values["lam"])) < 50)

    def numeric(self, case: Case, values: Values) -> float:
        return linearize(self.flow(case, values, 1.0), at=[0.7]).step_limit()

    def ensemble(self, theorem: Statement, case: Case, values: Values, seed: int) -> float:
        """Real minibatch steps at the limit, nothing linearised: a quadratic with all data's Hessian."""
        flow = self.flow(case, values, value(theorem, case, values))
        return z_of_mean(doubled(flow, seed, level="iteration"), 1.0)
