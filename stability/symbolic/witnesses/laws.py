"""Witnesses of the statements in `stability.symbolic.laws`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy

from ...ensembles.simulate import simulate
from ...exact.mode import exact_mode
from ...exits.exit_time import exit_time
from ...flow import Flow
from ...linear.linearize import linearize
from ...methods.method import Method
from ...noise import Noise
from ...objectives.quadratic import quadratic
from ..laws import poles
from ..statement import Statement, number
from .base import (
    Case,
    Recomputed,
    Values,
    Witness,
    curvature_noise,
    simulated,
    strengths,
    value,
    variance,
    witness,
    z_of_mean,
)


@witness("student-t")
class StudentT(Recomputed):
    noise: Values

    def draw(self, case: Case, rng: np.random.Generator, gentle: bool) -> Values:
        self.noise = curvature_noise(rng)
        # The noise is that of the draws: sigma is of the batch, as s_g is.
        return {
            "lam": rng.uniform(0.3, 2.0),
            "step": rng.uniform(0.05, 0.3),
            "sigma": 1.0,
            **strengths(self.noise),
        }

    def numeric(self, case: Case, values: Values) -> float:
        return linearize(case.alone().flow(values, **self.noise)).tail_index

    def also(self, case: Case, values: Values) -> dict[str, float]:
        """Scale and variance, where there is one: ``M = s^2 nu / (nu - 2)``."""
        linear = linearize(case.alone().flow(values, **self.noise))
        if linear.tail_index <= 2.01:
            return {}
        M = variance(linear, 0)
        return {"variance": M, "scale-squared": M * (linear.tail_index - 2) / linear.tail_index}

    def ensemble(self, theorem: Statement, case: Case, values: Values, seed: int) -> float:
        """How often the SDE is within the predicted quartiles: half of the time, whatever the tail."""
        nu, scale = value(theorem, case, values), math.sqrt(value(theorem, case, values, "scale-squared"))
        flow = case.alone().flow(values, **self.noise)
        rate = abs(linearize(flow).rates[0])
        # The Student t is the law of the SDE: the chain's differs by a relative order of |a| dt.
        dt = min(0.02 / rate, values["step"])
        ens = simulated(flow, math.ceil(6 / rate / dt), seed, dt=dt)
        return z_of_mean(
            (np.abs(ens.states[-1][:, 0]) < scale * scipy.stats.t.ppf(0.75, nu)).astype(float), 0.5
        )


@witness("heavy-tailed-newton")
class HeavyTailedNewton(Witness):
    tolerance = 1e-5  # of a limit, taken where the gain is large

    def draw(self, case: Case, rng: np.random.Generator, gentle: bool) -> Values:
        return {"lam": rng.uniform(0.3, 1.0), "s_h": rng.uniform(0.4, 1.0)}

    def sensible(self, case: Case, values: Values) -> bool:
        return True

    def exceeds(self, theorem: Statement, case: Case, values: Values, level: float) -> float:
        """``P(|phi(lambda + E_h)| > level)``: edges around each pole, found on the numeric gain."""
        total = 0.0
        for place, _, _ in poles(theorem.mode):
            x = float(
                number(
                    place,
                    {
                        name: np.asarray(case.method.parameters[key])
                        for key, name in theorem.mode.names.items()
                    },
                )
            )
            near, far = (self._edge(case.method, x, side, level) for side in (-1, 1))
            density = scipy.stats.norm(values["lam"], values["s_h"])
            # Edges far below rounding of x: the density times the width is then exact.
            total += (
                (density.cdf(x + far) - density.cdf(x - near))
                if far > 1e-8
                else density.pdf(x) * (near + far)
            )
        return float(total)

    @staticmethod
    def _edge(method: Method, place: float, side: int, level: float) -> float:
        # In logarithms: the edge may lie as far as 1, or as near as 1e-290, from the pole.
        def below(log_distance: float) -> float:
            return math.log(level) - math.log(
                abs(method.gain(np.float64(place + side * math.exp(log_distance))))
            )

        return math.exp(
            scipy.optimize.brentq(below, math.log(1e-15 * abs(place) if place else 1e-290), 0.0, xtol=1e-13)
        )

    def deviation(self, theorem: Statement, case: Case, values: Values) -> float:
        # A mode's own noise is a diagonal GOE entry, of variance 2 tau^2.
        mode = exact_mode(
            case.method, curvature=values["lam"], noise=Noise(curvature=values["s_h"] / math.sqrt(2))
        )
        index = value(theorem, case, values, "tail-index")
        limit = value(theorem, case, values)
        if math.isinf(index):
            return 0.0 if limit == 0 and math.isfinite(mode.gain_moment(3.0).value) else math.inf
        # E|phi|^q is finite exactly for q below the tail index.
        agreed = math.isfinite(mode.gain_moment(0.9 * index).value) and math.isinf(
            mode.gain_moment(1.1 * index).value
        )
        place, _, _ = poles(theorem.mode)[0]
        own = {name: np.asarray(case.method.parameters[key]) for key, name in theorem.mode.names.items()}
        # As large as the gain is this close to a pole: the limit is reached to the square of the distance.
        level = abs(float(case.method.gain(np.float64(number(place, own) + 1e-4 * values["s_h"]))))
        return (
            abs(self.exceeds(theorem, case, values, level) * level**index / limit - 1) if agreed else math.inf
        )

    def ensemble(self, theorem: Statement, case: Case, values: Values, seed: int) -> float:
        index = value(theorem, case, values, "tail-index")
        if math.isinf(index):
            return math.nan
        limit = value(theorem, case, values)
        level = (limit / 0.02) ** (1 / index)  # exceeded two times in a hundred
        gains = case.method.gain(
            values["lam"] + values["s_h"] * np.random.default_rng(seed).standard_normal(50_000)
        )
        return z_of_mean((np.abs(gains) > level).astype(float), 0.02)


@witness("bounded-sfn-step")
class BoundedStep(Recomputed):
    axis = ("gamma", 1e-2, 1.0)

    def draw(self, case: Case, rng: np.random.Generator, gentle: bool) -> Values:
        return {}

    def sensible(self, case: Case, values: Values) -> bool:
        return True

    def numeric(self, case: Case, values: Values) -> float:
        """The largest gain on a grid of both signs, narrowed again and again; inf beyond 10^8."""
        return max(
            self._largest(formula)
            for formula in (
                case.method.gain,
                *([case.method.tail_gain] if case.method.rank is not None else []),
            )
        )

    @staticmethod
    def _largest(gain: Callable[[np.ndarray], Any]) -> float:
        size = np.geomspace(1e-18, 1e6, 4001)
        x, largest = np.concatenate([-size[::-1], [0.0], size]), 0.0
        for _ in range(30):
            with np.errstate(all="ignore"):
                y = np.abs(np.asarray(gain(x) + 0 * x, dtype=float))
            if not np.isfinite(y).all() or y.max() > 1e8:
                return math.inf
            top, largest = int(np.argmax(y)), max(largest, float(y.max()))
            # Between the neighbours of the largest value: fifty times closer in every round.
            x = np.linspace(x[max(top - 1, 0)], x[min(top + 1, len(x) - 1)], 101)
        return largest

    def ensemble(self, theorem: Statement, case: Case, values: Values, seed: int) -> float:
        """No sampled step exceeds the bound."""
        bound = value(theorem, case, values)
        if math.isinf(bound):
            return math.nan
        flow = Flow(quadratic([0.3, 0.05]), case.ranked(1), Noise(gradient=1.0, curvature=1.0), step=1.0)
        sample = flow.draw(2000, np.random.default_rng(seed), level="iteration")
        moved = flow.update(np.zeros((2000, 2)), sample)
        ratio = np.linalg.norm(moved, axis=1) / np.linalg.norm(sample[0], axis=1)
        return 0.0 if np.max(ratio) <= bound * (1 + 1e-12) else math.inf


@witness("saddle-attraction")
class SaddleAttraction(Recomputed):
    sign = -1.0

    def draw(self, case: Case, rng: np.random.Generator, gentle: bool) -> Values:
        drawn = {
            key: value for key, value in super().draw(case, rng, gentle).items() if key in ("lam", "lam_next")
        }
        return {**drawn, "t": rng.uniform(0.1, 1.0), "delta": rng.normal()}

    def numeric(self, case: Case, values: Values) -> float:
        linear, index = case.linear({**values, "step": 0.1})
        return float(linear.rates[index])

    def also(self, case: Case, values: Values) -> dict[str, float]:
        linear, index = case.linear({**values, "step": 0.1})
        q = linear.vectors[:, index]
        return {"growth": float(q @ linear.moments(values["t"], values["delta"] * q, time="continuous")[0])}

    def ensemble(self, theorem: Statement, case: Case, values: Values, seed: int) -> float:
        """The mean of paths started beside the saddle, after twenty steps of the chain."""
        linear, index = case.linear({**values, "step": 0.1, "sigma": 0.3})
        # An eigenvector comes with either sign; the paths start at +1 in every coordinate.
        q = linear.vectors[:, index] * np.sign(linear.vectors[:, index].sum())
        ens = simulated(linear.flow, 20, seed, start=1.0)
        return z_of_mean(ens.states[-1] @ q, (1 + 0.1 * value(theorem, case, values)) ** 20)


@witness("escape-time")
class EscapeTime(Recomputed):
    sign = -1.0
    axis = ("lam", 1e-2, 10.0)

    def draw(self, case: Case, rng: np.random.Generator, gentle: bool) -> Values:
        values = super().draw(case, rng, gentle)
        self.rate, self.diffusion = self._law(case, values)
        # Up to the size at which a stable method's exits still happen: |mu| R^2 / D below 3.
        return {
            **values,
            "R": math.sqrt(self.diffusion / abs(self.rate) * rng.uniform(0.5, 2.0 if gentle else 3.0)),
        }

    def _law(self, case: Case, values: Values) -> tuple[float, float]:
        linear, index = case.linear(values)
        return float(linear.rates[index]), values["step"] * float(linear.gains[index]) ** 2 * values[
            "sigma"
        ] ** 2

    def numeric(self, case: Case, values: Values) -> float:
        rate, diffusion = self._law(case, values)
        return exit_time(rate=rate, diffusion=diffusion, radius=values["R"]).mean

    def also(self, case: Case, values: Values) -> dict[str, float]:
        rate, diffusion = self._law(case, values)
        return {
            "rate": rate,
            "diffusion": diffusion,
            "log-mean": exit_time(rate=rate, diffusion=diffusion, radius=values["R"]).log_mean,
        }

    def ensemble(self, theorem: Statement, case: Case, values: Values, seed: int) -> float:
        """Exits of the chain, watched every dt: corrected for that."""
        rate, diffusion = self._law(case, values)
        dt = 2e-3 / abs(rate)
        linear, index = case.linear(values)
        q = linear.vectors[:, index]
        ens = simulate(
            linear.flow,
            start=np.zeros(linear.flow.dim),
            t_end=12_000 * dt,
            dt=dt,
            paths=512,
            seed=seed,
            exit=lambda w: np.abs(w @ q) < values["R"],
            radius=1e12,
        )
        times = np.where(np.isnan(ens.exit_times), ens.times[-1], ens.exit_times)
        # The chain's exit over the equation's: from the numeric theory, as what is tested is the statement.
        law = exit_time(rate=rate, diffusion=diffusion, radius=values["R"])
        return z_of_mean(times, value(theorem, case, values) * law.chain(dt).mean / law.mean)
