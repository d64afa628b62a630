"""Witnesses of the statements in `stability.symbolic.metrics`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy

from ..statement import Statement
from .base import PATHS, Case, Values, Witness, apart, value, witness, z_of_mean


@witness("adaptive-metric")
class AdaptiveMetric(Witness):
    tolerance = 1e-8  # of integrals and roots found in numbers

    def draw(self, case: Case, rng: np.random.Generator, gentle: bool) -> Values:
        values = {
            "lam": rng.uniform(0.3, 2.0),
            "step": rng.uniform(0.05, 0.3),
            "sigma": rng.uniform(0.3, 2.0),
        }
        if gentle:
            values["step"] = 0.004 * values["sigma"] / values["lam"]  # the statement is of first order
        values |= {"rho": rng.uniform(-1, 1), "delta": rng.normal()}
        # Far away the decay's pull is most of the mean square; near, the noise is.
        values["w_0"] = 0.0 if gentle else rng.normal()
        return values

    def settled(self, case: Case, values: Values) -> dict[str, float]:
        """Mean square, variance and center of a mode where each is what the others make it."""
        method: Any = case.method
        lam, decay = values["lam"], method.weight_decay
        ridge = 0.0 if method.decoupled else decay

        def given(square: float) -> dict[str, float]:
            scale = float(method.scale(square))
            rate = scale * lam + (decay if method.decoupled else scale * decay)
            return {
                "variance": values["step"] * (scale * values["sigma"]) ** 2 / (2 * rate),
                "center": scale * lam * values["w_0"] / rate,
            }

        def missing(square: float) -> float:
            here = given(square)
            bias = lam * (here["center"] - values["w_0"]) + ridge * here["center"]
            return square - values["sigma"] ** 2 - (lam + ridge) ** 2 * here["variance"] - bias**2

        low = values["sigma"] ** 2
        high = next(low * 4.0**k for k in range(1, 200) if missing(low * 4.0**k) > 0)
        square = float(scipy.optimize.brentq(missing, low, high, xtol=1e-14, rtol=1e-14))
        found = {**given(square), "V": square}
        return found if decay else {key: x for key, x in found.items() if key != "center"}

    def deviation(self, theorem: Statement, case: Case, values: Values) -> float:
        method: Any = case.method
        if not method.linear:
            return self.signs(theorem, case, values)
        found = self.settled(case, values)
        given = {**values, "V": found["V"]}
        pairs = [(value(theorem, case, given, name), x) for name, x in found.items() if name != "V"]
        pairs.append((value(theorem, case, given, "mean-square"), found["V"]))
        # The statement itself is the limit of small steps, where the decay's own center is the minimum.
        tiny = self.settled(case, {**values, "step": 1e-9, "w_0": 0.0})["variance"]
        pairs.append((value(theorem, case, {**values, "step": 1e-9}), tiny))
        return max(apart(ours, theirs) for ours, theirs in pairs)

    def signs(self, theorem: Statement, case: Case, values: Values) -> float:
        """By Gaussian integrals in numbers: of one sign, its slope, and two signs together."""
        lam, sigma = values["lam"], values["sigma"]
        normal = scipy.stats.norm(loc=0.0, scale=sigma)

        def mean(delta: float) -> float:
            return float(1 - 2 * normal.cdf(-lam * delta))

        slope = 2 * lam * float(normal.pdf(0.0))
        law = scipy.stats.multivariate_normal([0.0, 0.0], [[1.0, values["rho"]], [values["rho"], 1.0]])
        pairs = [
            (value(theorem, case, values), values["step"] / (2 * slope)),
            (value(theorem, case, values, "drift"), -mean(values["delta"])),
            (value(theorem, case, values, "correlation"), 4 * float(law.cdf([0.0, 0.0])) - 1),
        ]
        return max(apart(ours, theirs) for ours, theirs in pairs)

    def ensemble(self, theorem: Statement, case: Case, values: Values, seed: int) -> float:
        """The iteration itself, from where the metric has settled, for five relaxation times."""
        method: Any = case.method
        lam, sigma, step = values["lam"], values["sigma"], values["step"]
        if method.linear:
            start = self.settled(case, values)["V"]
            given = {**values, "V": start}
            predicted, rate = value(theorem, case, given, "variance"), float(method.scale(start)) * lam
        else:
            start, predicted = sigma**2, value(theorem, case, values)
            rate = float(method.scale(sigma**2)) * lam
        first, second = getattr(method, "beta1", 0.0), getattr(method, "beta2", 0.0)
        beside, within = (method.weight_decay, 0.0) if method.decoupled else (0.0, method.weight_decay)
        rng, shape = np.random.default_rng(seed), 2 * PATHS
        w, m, v = np.zeros(shape), np.zeros(shape), np.full(shape, start)
        for _ in range(math.ceil(3 / rate / step)):
            g = (lam + within) * w + sigma * rng.standard_normal(shape)
            m, v = first * m + (1 - first) * g, second * v + (1 - second) * g**2
            moved = m * method.scale(v) if method.linear else np.sign(g)
            w = (1 - step * beside) * w - step * moved
        return z_of_mean(w**2, predicted)
