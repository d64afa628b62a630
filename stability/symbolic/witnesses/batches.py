"""Witnesses of the statements in `stability.symbolic.batches`."""

from __future__ import annotations

import math

import numpy as np

from ...ensembles.simulate import simulate
from ...flow import Flow
from ...linear.linearize import LinearFlow, linearize
from ...methods.method import SGD, Method
from ...methods.response import SpectralResponse
from ...noise import Noise
from ...objectives.quadratic import quadratic
from ..statement import Statement
from .base import (
    PATHS,
    Case,
    Recomputed,
    Values,
    apart,
    best_step,
    simulated,
    value,
    witness,
    z_of_mean,
)
from .moments import ExcessRisk


@witness("noise-exponent")
class NoiseExponent(ExcessRisk):
    def draw(self, case: Case, rng: np.random.Generator, gentle: bool) -> Values:
        values = super().draw(case, rng, gentle)
        del values["sigma"]
        return {**values, "c": rng.uniform(0.2, 2.0), "g": rng.uniform(-1.0, 3.0)}

    def sensible(self, case: Case, values: Values) -> bool:
        pull = float(np.max(np.abs(self.under(case, values, case.method).rates)))
        return super().sensible(case, values) and pull * float(values["step"]) < 1.8

    def under(self, case: Case, values: Values, method: Method) -> LinearFlow:
        """Another method with the same noise."""
        objective = quadratic(case.spectrum(values))
        noise = Noise.aligned(objective, scale=values["c"], exponent=values["g"])
        return linearize(Flow(objective, method, noise, step=values["step"]))

    def linear(self, case: Case, values: Values) -> tuple[LinearFlow, int]:
        linear = self.under(case, values, case.method)
        return linear, int(np.argmin(np.abs(linear.eigenvalues - values["lam"])))

    def also(self, case: Case, values: Values) -> dict[str, float]:
        """The exponent by the gain's numeric derivative: zero in a tail, which its own mode does not move."""
        response = SpectralResponse(case.method, np.array(case.spectrum(values)))
        bend = float(response.divided[-1, -1] / response.gains[-1])
        return {"slope": values["g"] + values["lam"] * bend}

    def deviation(self, theorem: Statement, case: Case, values: Values) -> float:
        ours, sgd = self.under(case, values, case.method), self.under(case, values, SGD())
        given = {**values, "lam": ours.eigenvalues}
        ratio = ours.excess_risk("continuous") / sgd.excess_risk("continuous")
        return max(
            super().deviation(theorem, case, values),
            apart(value(theorem, case, given, "amplification"), ratio),
        )


@witness("damping-removes-the-edge")
class DampingRemovesTheEdge(Recomputed):
    def draw(self, case: Case, rng: np.random.Generator, gentle: bool) -> Values:
        return {"lam": math.exp(rng.uniform(-2.0, 6.0 if not gentle else 1.0))}

    def sensible(self, case: Case, values: Values) -> bool:
        return True

    def linear(self, case: Case, values: Values, step: float) -> LinearFlow:
        return linearize(case.alone().flow({**values, "sigma": 1.0, "step": step}))

    def numeric(self, case: Case, values: Values) -> float:
        return self.linear(case, values, 1.0).step_limit("mean")

    def also(self, case: Case, values: Values) -> dict[str, float]:
        """At a curvature beside which damping is nothing."""
        return {"whatever-the-curvature": self.linear(case, {"lam": 1e15}, 1.0).step_limit("mean")}

    def ensemble(self, theorem: Statement, case: Case, values: Values, seed: int) -> float:
        """At the limit the mode turns its sign at every step: undamped, its noise adds up."""
        limit, steps = value(theorem, case, values), 21
        linear = self.linear(case, values, limit)
        ens = simulated(linear.flow, steps, seed)
        gain = float(linear.amplification[0])
        return z_of_mean(ens.states[-1][:, 0] ** 2, steps * (limit * gain) ** 2)


@witness("critical-batch")
class CriticalBatch(Recomputed):
    axis = ("b", 1.0, 1e4)

    def draw(self, case: Case, rng: np.random.Generator, gentle: bool) -> Values:
        values = super().draw(case, rng, gentle)
        del values["step"]
        return {**values, "g": rng.uniform(0.2, 2.0), "b": float(rng.integers(1, 64))}

    def flow(self, case: Case, values: Values, step: float) -> Flow:
        # The flow's sigma is that of a batch.
        sigma = values["sigma"] / math.sqrt(values["b"])
        return case.flow({**values, "sigma": sigma}, step=step)

    def slope(self, linear: LinearFlow, values: Values) -> np.ndarray:
        """The gradient (d,), along the mode spoken of alone."""
        index = int(np.argmin(np.abs(linear.eigenvalues - values["lam"])))
        return values["g"] * linear.vectors[:, index]

    def best(self, case: Case, values: Values) -> tuple[float, float]:
        """Step and decrease of the mode; the noise of the others lowers no step of its own."""
        linear = linearize(self.flow(case, values, 1.0))
        index = int(np.argmin(np.abs(linear.eigenvalues - values["lam"])))
        noise = np.zeros((len(linear.eigenvalues),) * 2)
        noise[index, index] = values["sigma"] ** 2 / values["b"]
        covariance = linear.vectors @ noise @ linear.vectors.T

        def at(step: float) -> LinearFlow:
            return linearize(Flow(linear.flow.objective, case.method, Noise(gradient=covariance), step=step))

        return best_step(at, self.slope(linear, values))

    def numeric(self, case: Case, values: Values) -> float:
        return self.best(case, values)[0]

    def also(self, case: Case, values: Values) -> dict[str, float]:
        step, fall = self.best(case, values)
        most, _ = self.best(case, {**values, "b": math.inf})
        return {"critical-batch": values["b"] * (most / step - 1), "decrease": fall}

    def ensemble(self, theorem: Statement, case: Case, values: Values, seed: int) -> float:
        """The objective along the mode after one step of that length."""
        step = value(theorem, case, values)
        linear = linearize(self.flow(case, values, step))
        slope = self.slope(linear, values)
        index = int(np.argmax(np.abs(linear.vectors.T @ slope)))
        start = slope / values["lam"]
        ens = simulate(linear.flow, start=start, t_end=step, paths=PATHS, seed=seed, level="iteration")
        height = 0.5 * values["lam"] * (ens.states[-1] @ linear.vectors[:, index]) ** 2
        before = 0.5 * values["g"] ** 2 / values["lam"]
        return z_of_mean(height, before - value(theorem, case, values, "decrease"))
