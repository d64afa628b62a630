"""Witnesses of the statements in `stability.symbolic.paths`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...ensembles.simulate import simulate
from ...flow import Flow
from ...noise import Noise
from ...objectives.base import Objective
from ..statement import Statement
from .base import (
    PATHS,
    Case,
    Recomputed,
    StationaryVariance,
    Values,
    Witness,
    apart,
    value,
    variance,
    witness,
    z_of_mean,
)


class Cubic(Objective):
    """A polynomial of third degree about the origin with given gradient, Hessian and third derivative."""

    reference = None

    def __init__(self, gradient: np.ndarray, hessian: np.ndarray, third: np.ndarray):
        self.g, self.h, self.k, self.dim = gradient, hessian, third, len(gradient)

    def value(self, w: Any) -> np.ndarray:
        w = np.asarray(w, dtype=float)
        return (
            w @ self.g
            + np.einsum("...i,ij,...j->...", w, self.h, w) / 2
            + np.einsum("...i,...j,...k,ijk->...", w, w, w, self.k) / 6
        )

    def gradient(self, w: Any) -> np.ndarray:
        w = np.asarray(w, dtype=float)
        return self.g + w @ self.h + np.einsum("...i,...j,ijk->...k", w, w, self.k) / 2

    def hessian(self, w: Any) -> np.ndarray:
        return self.h + np.einsum("...i,ijk->...jk", np.asarray(w, dtype=float), self.k)

    def third(self, w: Any, v: Any) -> np.ndarray:
        return np.einsum("...i,ijk->...jk", np.asarray(v, dtype=float), self.k)


@witness("trajectory-noise")
class TrajectoryNoise(Recomputed):
    axis = ("h", 1e-2, 10.0)

    def draw(self, case: Case, rng: np.random.Generator, gentle: bool) -> Values:
        return {
            "h": rng.choice([-1, 1]) * rng.uniform(0.3, 2.0),
            "g": rng.normal(),
            "k": rng.normal(),
            "S": 0.3,
            "step": 0.1,
            "sigma": 1.5,
        }

    def wanted(self, case: Case, values: Values) -> Values:
        return values

    def sensible(self, case: Case, values: Values) -> bool:
        return bool(abs(case.method.gain(values["h"])) < 5)

    def numeric(self, case: Case, values: Values) -> float:
        objective = Cubic(np.array([values["g"]]), np.array([[values["h"]]]), np.array([[[values["k"]]]]))
        return float(Flow(objective, case.ranked(1), step=1.0).jacobian(np.zeros(1))[0, 0])

    def also(self, case: Case, values: Values) -> dict[str, float]:
        gain = float(case.method.gain(values["h"]))
        return {
            "noise-growth": 2 * self.numeric(case, values) * values["S"]
            + values["step"] * (gain * values["sigma"]) ** 2
        }

    def ensemble(self, theorem: Statement, case: Case, values: Values, seed: int) -> float:
        """The variance after two steps away from equilibrium: J carries the first step's noise along."""
        dt, sigma = 0.2, 1e-3
        first = -dt * case.method.gain(values["h"]) * values["g"]
        # The path stays clear of the kink.
        k = values["k"] * min(1.0, 0.3 * abs(values["h"] / (values["k"] * first)))
        objective = Cubic(np.array([values["g"]]), np.array([[values["h"]]]), np.array([[[k]]]))
        there = {"g": float(objective.gradient(np.array([first]))[0]), "h": values["h"] + k * first, "k": k}
        # The first step's noise sits at `first`, so the second multiplies it by 1 + dt J there.
        carried = case.method.gain(values["h"]) * (1 + dt * value(theorem, case, there))
        predicted = (dt * sigma) ** 2 * (carried**2 + case.method.gain(there["h"]) ** 2)
        flow = Flow(objective, case.ranked(1), Noise(gradient=sigma), step=dt)
        ens = simulate(flow, start=[0.0], t_end=2 * dt, paths=4 * PATHS, seed=seed)
        mean = first + float(flow.drift(np.array([first]))[0]) * dt
        return z_of_mean((ens.states[-1][:, 0] - mean) ** 2, predicted)


@witness("weak-order")
class WeakOrder(Witness):
    tolerance = 0.15  # of the order one

    def draw(self, case: Case, rng: np.random.Generator, gentle: bool) -> Values:
        values = super().draw(case, rng, gentle)
        return {**values, "t": 1.0, "delta_0": rng.uniform(1.0, 2.0)}

    def sensible(self, case: Case, values: Values) -> bool:
        gain = (
            case.method.tail_gain(values.get("lam_next", 1.0))
            if case.branch == "tail"
            else case.method.gain(values["lam"])
        )
        # At rate 2 / t ... the next order happens to vanish; stiff modes have decayed by then.
        return bool(0.1 < gain * values["lam"] < 1.2)

    def gap(self, case: Case, values: Values, step: float) -> float:
        """Second moment of iteration minus SDE at time t over the step, by the exact moments of both."""
        linear, index = case.linear(values, step=step)
        q = linear.vectors[:, index]
        found = [
            linear.moments(values["t"], linear.at + values["delta_0"] * q, time=time)
            for time in ("discrete", "continuous")
        ]
        (m, S), (n, C) = found
        return float(q @ (S - C) @ q + (q @ m) ** 2 - (q @ n) ** 2) / step

    def deviation(self, theorem: Statement, case: Case, values: Values) -> float:
        """How far from one the order is in which the gap over the step tends to the statement."""
        limit = value(theorem, case, values)
        steps = np.array([0.01, 0.005])
        rest = np.array([abs(self.gap(case, values, step) - limit) for step in steps])
        # The second order happens to vanish: the limit is met all the better.
        if rest.max() < 1e-3 * abs(limit):
            return 0.0
        return abs(float(np.log(rest[0] / rest[1]) / math.log(2)) - 1)

    def ensemble(self, theorem: Statement, case: Case, values: Values, seed: int) -> float:
        """The iteration's second moment at a small step, predicted by the SDE's and the first-order gap."""
        step = 0.02
        linear, index = case.linear({**values, "sigma": 1.0}, step=step)
        q, target = linear.vectors[:, index], linear.at
        n, C = linear.moments(values["t"], target + values["delta_0"] * q, time="continuous")
        predicted = float(q @ C @ q + (q @ n) ** 2) + step * value(theorem, case, values)
        start = target + values["delta_0"] * q
        ens = simulate(linear.flow, start=start, t_end=values["t"], paths=PATHS, seed=seed, level="iteration")
        return z_of_mean((ens.states[-1] @ q) ** 2, predicted)


@witness("averaging")
class Averaging(StationaryVariance):
    batch = 32.0
    spectrum: np.ndarray

    def numeric(self, case: Case, values: Values) -> float:
        """The sum over all lags of the iteration's covariances: ``M (1 + rho) / (1 - rho)``."""
        linear, index = case.linear(values)
        rho = 1 + values["step"] * float(linear.rates[index])
        return variance(linear, index, "discrete") * (1 + rho) / (1 - rho)

    def also(self, case: Case, values: Values) -> dict[str, float]:
        """Streaming least squares' risk from the balance of all modes, solved as a linear system."""
        self.spectrum = values["lam"] * np.geomspace(1.0, 0.1, 3 + (case.method.rank or 0))
        spectrum, batch = self.spectrum, self.batch
        # With p = alpha phi lambda and M_i each mode's variance, the balance of all modes
        # is (2 p - p^2 (1 + 1/b)) M = p^2 / lambda (sum_j lambda_j M_j + sigma^2) / b.
        pull = values["step"] * case.method.gains(spectrum) * spectrum
        system = (
            np.diag(2 * pull - pull**2 * (1 + 1 / batch)) - np.outer(pull**2 / spectrum, spectrum) / batch
        )
        risk = float(
            0.5 * spectrum @ np.linalg.solve(system, pull**2 / spectrum * values["sigma"] ** 2 / batch)
        )
        # Beyond streaming's own limit there is no risk to compare; the factor keeps clear of the pole there.
        return {"streaming-risk": risk} if 0 < risk < 10 * values["sigma"] ** 2 else {}

    def deviation(self, theorem: Statement, case: Case, values: Values) -> float:
        streaming = self.also(case, values)
        given = {**values, "lam": self.spectrum, "b": self.batch}
        worst = max(
            (apart(value(theorem, case, given, name), risk) for name, risk in streaming.items()), default=0.0
        )
        return max(worst, apart(value(theorem, case, values), self.numeric(case, values)))

    def ensemble(self, theorem: Statement, case: Case, values: Values, seed: int) -> float:
        """The mean of the last half of the iterates; N is large enough for its own end to be one percent."""
        linear, index = case.linear(values)
        slow = values["step"] * abs(float(linear.rates[index]))
        count = math.ceil(100 / slow)
        times = values["step"] * np.arange(count + 1, 2 * count + 1)
        ens = simulate(
            linear.flow,
            start=linear.at,
            t_end=times[-1],
            save=times,
            paths=PATHS,
            seed=seed,
            level="iteration",
        )
        means = (ens.states @ linear.vectors[:, index]).mean(axis=0)
        rho = 1 - slow
        # What N iterates are short of the limit.
        end = 1 - 2 * rho * (1 - rho**count) / (count * (1 - rho**2))
        return z_of_mean(count * means**2, end * value(theorem, case, values))
