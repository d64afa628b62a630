"""Witnesses of the statements in `stability.symbolic.moments`."""

from __future__ import annotations

import math

import numpy as np

from ...flow import Flow
from ...linear.linearize import linearize
from ...linear.result import LinearFlow
from ...methods.method import SGD, Newton
from ...noise import Noise
from ...objectives.quadratic import quadratic
from ..statement import Statement
from .base import (
    Case,
    Recomputed,
    StationaryVariance,
    Values,
    apart,
    simulated,
    value,
    variance,
    witness,
    z_of_mean,
)


@witness("noise-amplification")
class NoiseAmplification(StationaryVariance):
    def deviation(self, theorem: Statement, case: Case, values: Values) -> float:
        """Of the variance, and of the covariance with a second mode of the same branch."""
        worst = super().deviation(theorem, case, values)
        spectrum = case.spectrum(values)
        spectrum += [0.7 * spectrum[-1]]
        method = case.ranked(len(spectrum) if case.branch == "kept" else case.method.rank or 1)
        covariance = np.eye(len(spectrum))
        covariance[-1, -2] = covariance[-2, -1] = 0.4
        theirs = linearize(
            Flow(quadratic(spectrum), method, Noise(gradient=covariance), step=values["step"])
        ).covariance("continuous")
        ours = value(theorem, case, {**values, "lam_j": spectrum[-1], "Sigma_ij": 0.4}, "coupling")
        return max(worst, apart(ours, float(theirs[-1, -2])))

    def also(self, case: Case, values: Values) -> dict[str, float]:
        linear, index = case.linear(values)
        return {"amplification": float(linear.amplification[index])}


@witness("aligned-noise")
class AlignedNoise(StationaryVariance):
    aligned = True

    def also(self, case: Case, values: Values) -> dict[str, float]:
        return {"excess-risk": 0.5 * values["lam"] * self.numeric(case, values)}


@witness("excess-risk")
class ExcessRisk(StationaryVariance):
    def numeric(self, case: Case, values: Values) -> float:
        return 0.5 * values["lam"] * super().numeric(case, values)

    def predicted(self, theorem: Statement, case: Case, values: Values) -> float:
        return super().predicted(theorem, case, values) * 2 / values["lam"]

    def deviation(self, theorem: Statement, case: Case, values: Values) -> float:
        linear, _ = self.linear(case, values)
        total = value(theorem, case, {**values, "lam": linear.eigenvalues}, "total")
        whole = abs(total / self.excess(linear, case, values) - 1)
        return max(whole, super().deviation(theorem, case, values))

    def excess(self, linear: LinearFlow, case: Case, values: Values) -> float:
        """Of all modes."""
        return linear.excess_risk("continuous")


@witness("equal-rates")
class EqualRates(Recomputed):
    def draw(self, case: Case, rng: np.random.Generator, gentle: bool) -> Values:
        lam_min = math.exp(rng.uniform(-4.0, 0.0))
        values = {
            "lam": lam_min * math.exp(rng.uniform(0.0, 3.0)),
            "lam_min": lam_min,
            "step": 0.1,
            "sigma": 1.0,
        }
        if case.branch == "tail":
            # Rank one keeps lam; the first one left out is the slowest mode itself.
            values["lam_next"] = lam_min
        return {
            key: value for key, value in self.wanted(case, values).items() if key not in ("step", "sigma")
        }

    def sensible(self, case: Case, values: Values) -> bool:
        return True

    def pair(self, case: Case, values: Values) -> tuple[LinearFlow, LinearFlow]:
        """The method, at the step that gives its slowest mode SGD's rate, and SGD."""
        spectrum, noise = quadratic([values["lam"], values["lam_min"]]), Noise(gradient=1.0)
        method = case.ranked(1 if case.branch == "tail" else 2)
        sgd = linearize(Flow(spectrum, SGD(), noise, step=0.1))
        slowest = float(np.min(np.abs(linearize(Flow(spectrum, method, noise, step=1.0)).rates)))
        return linearize(Flow(spectrum, method, noise, step=0.1 * values["lam_min"] / slowest)), sgd

    def numeric(self, case: Case, values: Values) -> float:
        ours, sgd = self.pair(case, values)
        return variance(ours, 0) / variance(sgd, 0)

    def ensemble(self, theorem: Statement, case: Case, values: Values, seed: int) -> float:
        ours, sgd = self.pair(case, values)
        ens = simulated(ours.flow, math.ceil(6 / abs(ours.rates[0]) / ours.flow.step), seed)
        predicted = value(theorem, case, values) * variance(sgd, 0) * 2 / (2 + ours.flow.step * ours.rates[0])
        return z_of_mean((ens.states[-1] @ ours.vectors[:, 0]) ** 2, predicted)


@witness("discrete-vs-continuous")
class DiscreteVsContinuous(StationaryVariance):
    def draw(self, case: Case, rng: np.random.Generator, gentle: bool) -> Values:
        values = super().draw(case, rng, gentle)
        return {**values, "dt": values["step"] * rng.choice([0.25, 0.5, 1.0])}

    def numeric(self, case: Case, values: Values) -> float:
        return variance(*case.linear(values), "chain", values["dt"])

    def also(self, case: Case, values: Values) -> dict[str, float]:
        linear, index = case.linear(values)
        factor = 1 + values["step"] * float(linear.rates[index])
        # No Ornstein-Uhlenbeck process turns its sign at a step.
        found = {"embedding": -math.log(factor) / values["step"]} if factor > 0 else {}
        if values["step"] * float(np.max(np.abs(linear.rates))) < 2:
            discrete = variance(linear, index, "discrete")
            found |= {"iteration": discrete, "ratio": discrete / variance(linear, index)}
        return found

    def ensemble(self, theorem: Statement, case: Case, values: Values, seed: int) -> float:
        linear, index = case.linear(values)
        ens = simulated(
            linear.flow, math.ceil(6 / abs(linear.rates[index]) / values["dt"]), seed, dt=values["dt"]
        )
        return z_of_mean((ens.states[-1] @ linear.vectors[:, index]) ** 2, value(theorem, case, values))


@witness("damping")
class Damping(StationaryVariance):
    def numeric(self, case: Case, values: Values) -> float:
        newton, index = Case(Newton(), "kept").linear({**values, "lam": values["lam"]})
        return super().numeric(case, values) / variance(newton, index)

    def also(self, case: Case, values: Values) -> dict[str, float]:
        # The gain falls with curvature: the smallest size stands for the limit of none.
        size = np.array([1e-14, 1e-7, *np.geomspace(1e-3, 1e3, 200)])
        gains = (
            case.method.tail_gain(values.get("lam_next", 1.0))
            if case.branch == "tail"
            else case.method.gain(size)
        )
        return {
            "largest-gain": float(np.max(gains)),
            "excess-risk-bound": values["step"] * values["sigma"] ** 2 / 4 * float(np.max(gains)),
        }

    def predicted(self, theorem: Statement, case: Case, values: Values) -> float:
        newton = 0.5 * values["step"] * values["sigma"] ** 2 / values["lam"] ** 2
        return super().predicted(theorem, case, values) * newton
