"""Witnesses of the statements in `stability.symbolic.memory`: the doubled state once more, in numbers."""

from __future__ import annotations

import math

import numpy as np
import scipy

from ..statement import Statement
from .base import PATHS, Case, Recomputed, Values, curvature_noise, strengths, value, witness, z_of_mean


def step_of(step: float, beta: float, nesterov: bool, pull: float, kept: float = 1.0) -> np.ndarray:
    """``(w, u)`` after a step of force ``pull w``, as a matrix; `kept` = 0 leaves what the force adds."""
    fresh = np.array([pull, kept * beta])
    ahead = np.array([pull, 0.0]) + beta * fresh if nesterov else fresh
    return np.array([[kept, 0.0] - step * ahead, fresh])


def second_moments(step: float, beta: float, nesterov: bool, pull: float, spread: float) -> np.ndarray:
    """The map (4, 4) of second moments of (w, u) where the pull has this variance."""
    mean, noise = step_of(step, beta, nesterov, pull), step_of(step, beta, nesterov, 1.0, 0.0)
    return np.kron(mean, mean) + spread * np.kron(noise, noise)


def radius_of(*about: float) -> float:
    """The spectral radius of `second_moments`."""
    return float(np.max(np.abs(np.linalg.eigvals(second_moments(*about)))))  # type: ignore[arg-type]


def largest(beta: float, nesterov: bool, pull: float, spread: float) -> float:
    """Where the radius of the map is one, by a root finder."""
    size = pull * (1 + spread / pull**2)
    low, high = 0.5 * (1 - beta) / size, 4.5 / pull

    def beyond(step: float) -> float:
        return radius_of(step, beta, nesterov, pull, spread) - 1

    return float(scipy.optimize.brentq(beyond, low, high, xtol=1e-14 * low, rtol=1e-14))


def stationary_of(
    step: float, beta: float, nesterov: bool, pull: float, spread: float, added: float
) -> float:
    """``E w^2`` of the iteration under additive noise of this variance."""
    kicked = step_of(step, beta, nesterov, 1.0, 0.0)[:, 0]
    grown = second_moments(step, beta, nesterov, pull, spread)
    return float(np.linalg.solve(np.eye(4) - grown, added * np.kron(kicked, kicked))[0])


def flowing(step: float, beta: float, pull: float, spread: float, added: float, t: float = math.inf) -> float:
    """``E w^2`` of the underdamped SDE at t, from rest at the mean."""
    rest = 1 - beta
    A = np.array([[0.0, -1.0], [pull / step, -rest / step]])
    rates = np.kron(A, np.eye(2)) + np.kron(np.eye(2), A)
    rates[3, 0] += spread / step
    end = np.linalg.solve(rates, [0.0, 0.0, 0.0, -added / step])
    return float(end[0] if math.isinf(t) else (end - scipy.linalg.expm(rates * t) @ end)[0])


@witness("momentum")
class Momentum(Recomputed):
    def draw(self, case: Case, rng: np.random.Generator, gentle: bool) -> Values:
        values = super().draw(case, rng, gentle)
        values |= strengths(curvature_noise(rng))
        # Near one more often than not: there the mode swings.
        values |= {
            "beta": rng.uniform(0.0, 0.8) if gentle else 1 - math.exp(rng.uniform(-4.5, 0.0)),
            "t": 2.0,
        }
        values["step"] *= 0.2 / (1 + 10 * values["beta"])
        return values

    def sensible(self, case: Case, values: Values) -> bool:
        """Both kinds are stable at twice the step."""
        pull, spread, _ = self.parts(case, values)
        return super().sensible(case, values) and all(
            radius_of(2 * values["step"], values["beta"], kind, pull, spread) < 1 for kind in (False, True)
        )

    def parts(self, case: Case, values: Values) -> tuple[float, float, float]:
        """The mode's pull, and the variances of what multiplies it and of what is added."""
        lam, gain = float(values["lam"]), float(case.method.gain(values["lam"]))
        slope = float(case.ranked(1).divided_differences(np.array([lam]))[0, 0])
        law = np.array([[values["s_g"] ** 2, values["c_gh"]], [values["c_gh"], values["s_h"] ** 2]])
        weights = np.array([gain, slope * lam])
        return gain * lam, float(weights @ law @ weights), (gain * values["sigma"]) ** 2

    def numeric(self, case: Case, values: Values) -> float:
        return largest(values["beta"], case.nesterov, *self.parts(case, values)[:2])

    def also(self, case: Case, values: Values) -> dict[str, float]:
        pull, spread, added = self.parts(case, values)
        beta, about = values["beta"], (values["step"], values["beta"])
        found = {}
        if not case.nesterov:
            found["underdamped"] = flowing(*about, pull, spread, added)
            found["nesterov-mean-square"] = largest(beta, True, pull, spread)
        for prefix, kind in (("", case.nesterov), *([("nesterov-", True)] if not case.nesterov else [])):
            found[f"{prefix}mean"] = largest(beta, kind, pull, 0.0)
            found[f"{prefix}variance"] = stationary_of(*about, kind, pull, spread, added)
        if not case.nesterov and 4 * values["step"] * pull > (1 - beta) ** 2:
            share = (flowing(*about, pull, 0.0, added, t) for t in (values["t"], math.inf))
            found["relaxation"] = next(share) / next(share)
        return found

    def ensemble(self, theorem: Statement, case: Case, values: Values, seed: int) -> float:
        """The steps themselves, with Gaussian noise of those strengths, until they are stationary."""
        pull, spread, added = self.parts(case, values)
        step, beta = values["step"], values["beta"]
        slowest = radius_of(step, beta, case.nesterov, pull, spread)
        rng, w, u = np.random.default_rng(seed), np.zeros(4 * PATHS), np.zeros(4 * PATHS)
        for _ in range(math.ceil(-8 / math.log(slowest))):
            drawn = rng.standard_normal((2, len(w)))
            force = (pull + math.sqrt(spread) * drawn[0]) * w + math.sqrt(added) * drawn[1]
            u = beta * u + force
            w = w - step * (force + beta * u if case.nesterov else u)
        return z_of_mean(w**2, value(theorem, case, values, "variance"))
