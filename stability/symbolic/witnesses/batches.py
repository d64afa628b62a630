"""Witnesses of the statements in `batches` and `floors`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy

from ...ensembles.simulate import simulate
from ...flow import Flow
from ...linear.linearize import linearize
from ...linear.result import LinearFlow
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
    curvature_noise,
    doubled,
    simulated,
    value,
    variance,
    witness,
    z_of_mean,
)
from .memory import flowing, largest, stationary_of
from .moments import ExcessRisk


@witness("noise-exponent")
class NoiseExponent(ExcessRisk):
    def draw(self, case: Case, rng: np.random.Generator, gentle: bool) -> Values:
        values = super().draw(case, rng, gentle)
        del values["sigma"]
        return {**values, "c": rng.uniform(0.2, 2.0), "g": rng.uniform(-1.0, 3.0)}

    def sensible(self, case: Case, values: Values) -> bool:
        pull = float(np.max(np.abs(self.under(case, values, case.method).rates)))
        # Off the edge of stability, where risks are large and their ratio loses digits.
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


@witness("noise-floor")
class NoiseFloor(ExcessRisk):
    def draw(self, case: Case, rng: np.random.Generator, gentle: bool) -> Values:
        return super().draw(case, rng, gentle) | {"beta": rng.uniform(0.0, 0.99)}

    def sensible(self, case: Case, values: Values) -> bool:
        linear, _ = self.linear(case, values)
        pull = float(np.max(np.abs(linear.rates))) * float(values["step"])
        return super().sensible(case, values) and pull < 1.8

    def share(self, case: Case, values: Values, discrete: bool) -> float:
        """A mode's part of the excess risk with a buffer, from the moments of the doubled state."""
        linear, index = self.linear(case, values)
        gain, pull = float(linear.gains[index]), -float(linear.rates[index])
        about, added = (values["step"], values["beta"]), (gain * values["sigma"]) ** 2
        found = (
            stationary_of(*about, False, pull, 0.0, added) if discrete else flowing(*about, pull, 0.0, added)
        )
        return 0.5 * float(values["lam"]) * found

    def numeric(self, case: Case, values: Values) -> float:
        return super().numeric(case, values) if case.memory is None else self.share(case, values, False)

    def also(self, case: Case, values: Values) -> dict[str, float]:
        found = {f"momentum{end}": self.share(case, values, bool(end)) for end in ("", "-discrete")}
        if case.memory is None:
            found["discrete"] = 0.5 * values["lam"] * variance(*self.linear(case, values), "discrete")
        return found

    def excess(self, linear: LinearFlow, case: Case, values: Values) -> float:
        held = 0.0 if case.memory is None else values["beta"]
        return super().excess(linear, case, values) / (1 - held)

    def ensemble(self, theorem: Statement, case: Case, values: Values, seed: int) -> float:
        return math.nan if case.memory is not None else super().ensemble(theorem, case, values, seed)


@witness("streaming-limit")
class StreamingLimit(Recomputed):
    def draw(self, case: Case, rng: np.random.Generator, gentle: bool) -> Values:
        # In a generic mode b may be any size; a noise counts samples.
        return {"lam": rng.uniform(0.3, 2.0), "b": float(rng.integers(1, 20))}

    def flow(self, spectrum: Any, method: Method, batch: float, step: float = 1.0) -> Flow:
        noise = Noise.streaming(batch=batch, hessian_batch=math.inf)
        return Flow(quadratic(spectrum), method, noise, step=step)

    def numeric(self, case: Case, values: Values) -> float:
        return linearize(self.flow([values["lam"]], case.ranked(1), values["b"])).step_limit()

    def deviation(self, theorem: Statement, case: Case, values: Values) -> float:
        """Of a spectrum: the sum is one at the limit, which the bound meets where all modes pull alike."""
        spectrum = values["lam"] * np.geomspace(1.0, 0.1, 3 + (case.method.rank or 0))
        linear = linearize(self.flow(spectrum, case.method, values["b"]))
        limit, pull = linear.step_limit(), np.abs(linear.rates)
        given = {**values, "lam": spectrum, "step": limit}
        most, d = value(theorem, case, given, "at-most"), len(spectrum)
        # Jensen's mean: all modes with the mean pull, by the numeric theory of SGD.
        alike = linearize(self.flow([pull.mean()] * d, SGD(), values["b"])).step_limit()
        return max(
            super().deviation(theorem, case, values),
            apart(value(theorem, case, given, "sum"), 1.0),
            apart(most, alike),
            max(limit / most - 1, 0.0),
        )

    def ensemble(self, theorem: Statement, case: Case, values: Values, seed: int) -> float:
        """At the limit one step of real batches leaves the mean square as it was."""
        limit = value(theorem, case, values)
        flow = self.flow([values["lam"]], case.ranked(1), values["b"], limit)
        return z_of_mean(doubled(flow, seed, level="iteration"), 1.0)


@witness("wishart-newton")
class WishartNewton(Recomputed):
    axis = ("m", 14.0, 1e4)

    def draw(self, case: Case, rng: np.random.Generator, gentle: bool) -> Values:
        d = int(rng.integers(1, 6))
        # The square of a step's square has a mean from d + 8 samples on.
        return {"d": d, "m": float(d + rng.integers(16 if gentle else 4, 60))}

    def sensible(self, case: Case, values: Values) -> bool:
        return True

    def moments(self, values: Values) -> tuple[float, float]:
        """Of the inverse of a Wishart matrix over m, by SciPy: the mean, and the mean of its square."""
        d, m = int(values["d"]), values["m"]
        law = scipy.stats.invwishart(df=m, scale=np.eye(d))
        mean, spread = np.atleast_2d(law.mean()), np.atleast_2d(law.var())
        return m * float(mean[0, 0]), m**2 * float(np.sum(spread[0] + mean[0] ** 2))

    def numeric(self, case: Case, values: Values) -> float:
        first, second = self.moments(values)
        return 2 * first / second

    def also(self, case: Case, values: Values) -> dict[str, float]:
        first, second = self.moments(values)
        return {"best-step": first / second, "contraction": 1 - first**2 / second}

    def ensemble(self, theorem: Statement, case: Case, values: Values, seed: int) -> float:
        """What one real step leaves of the objective, in the mean, whatever the condition number."""
        spectrum = np.geomspace(1.0, 1e-3, int(values["d"]))
        step = value(theorem, case, values, "best-step")
        flow = Flow(quadratic(spectrum), case.method, Noise.wishart(samples=int(values["m"])), step=step)
        start = np.tile(1 / np.sqrt(spectrum), (20_000, 1))
        sample = flow.draw(len(start), np.random.default_rng(seed), level="iteration")
        left = np.sum(spectrum * flow.update(start, sample) ** 2, axis=1) / len(spectrum)
        return z_of_mean(left, value(theorem, case, values, "contraction"))


@witness("batch-sharpness")
class BatchSharpness(Recomputed):
    noise: Noise

    def draw(self, case: Case, rng: np.random.Generator, gentle: bool) -> Values:
        noise = {**curvature_noise(rng), "hessian_batch": math.inf, "coupling": "independent"}
        self.noise = Noise(**noise)
        own = math.sqrt(2 * noise["curvature"] ** 2 / noise["batch"])
        values = {"lam": rng.uniform(0.3, 2.0), "s_g": own, "b": float(rng.integers(1, 20))}
        return values | {"beta": rng.uniform(0.0, 0.99)}

    def numeric(self, case: Case, values: Values) -> float:
        """By the noise's own second moment."""
        square = values["lam"] ** 2 + float(self.noise.second_moment(lambda Eg, Eh: Eg, np.eye(1))[0, 0])
        return float(case.method.gain(values["lam"])) * square / values["lam"]

    def also(self, case: Case, values: Values) -> dict[str, float]:
        gain, lam = float(case.method.gain(values["lam"])), values["lam"]
        law, pull = scipy.stats.chi2(values["b"]), gain * lam
        own = float(law.moment(3) / law.moment(2)) / values["b"]
        reached = largest(values["beta"], case.nesterov, pull, (gain * values["s_g"]) ** 2)
        flow = Flow(quadratic([lam]), case.ranked(1), self.noise, step=1.0)
        return {
            "step-limit": linearize(flow).step_limit() if case.memory is None else reached,
            "own": own * pull,
            "with-momentum": reached * self.numeric(case, values),
            "large-batches": largest(values["beta"], case.nesterov, pull, 0.0) * pull,
        }

    def deviation(self, theorem: Statement, case: Case, values: Values) -> float:
        """The plateau of small batches by the formula for all: where noise is everything no radius tells."""
        noisy = value(theorem, case, {**values, "s_g": 1e9 * values["lam"]}, "with-momentum")
        least = apart(value(theorem, case, values, "small-batches"), noisy)
        return max(super().deviation(theorem, case, values), least)

    def ensemble(self, theorem: Statement, case: Case, values: Values, seed: int) -> float:
        """Curvature along real batches' gradients."""
        gain, lam = float(case.method.gain(values["lam"])), values["lam"]
        drawn = self.noise.sample(np.zeros(1), 20_000, np.random.default_rng(seed)).Eg[:, 0, 0]
        return z_of_mean(gain * (lam + drawn) ** 2 / lam, value(theorem, case, values))
