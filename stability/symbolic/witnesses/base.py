"""Witnesses: admissible values for every statement, another way to its number, a simulation it predicts."""

from __future__ import annotations

import abc
import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...ensembles.result import Ensemble
from ...ensembles.simulate import simulate
from ...flow import Flow
from ...linear.linearize import linearize
from ...linear.result import LinearFlow
from ...methods.memory import Memory
from ...methods.method import Method
from ...noise import Noise
from ...objectives.quadratic import quadratic
from ..statement import Statement

PATHS = 1024
Values = dict[str, Any]
WITNESSES: dict[str, type[Witness]] = {}


def witness(name: str) -> Callable[[type[Witness]], type[Witness]]:
    """Register the witness of a statement."""

    def keep(kind: type[Witness]) -> type[Witness]:
        WITNESSES[name] = kind
        return kind

    return keep


@dataclass(frozen=True)
class Case:
    """A method with drawn parameters, and which branch of it a statement is about."""

    method: Method
    branch: str
    dim: int | None = None
    memory: Memory | None = None

    @property
    def nesterov(self) -> bool:
        """Whether the statement is about Nesterov's step; where no buffer was given, it is heavy ball's."""
        return self.memory is not None and self.memory.nesterov

    @classmethod
    def drawn(cls, theorem: Statement, rng: np.random.Generator) -> Case:
        """The theorem's method with its parameters scaled at random."""
        assert theorem.method is not None
        # What a metric has beside its formula are decays, below one: those stay. A buffer's own is a value.
        method = getattr(theorem.method, "method", theorem.method)
        scaled = {key: value * rng.uniform(0.5, 2.0) for key, value in method.parameters.items()}
        drawn = method.with_parameters(**scaled) if method.spectral else method
        memory = theorem.mode.memory
        case = cls(drawn, theorem.mode.branch, theorem.dim, memory)
        return (
            case
            if theorem.dim is None
            else cls(case.ranked(min(case.method.rank or 1, theorem.dim)), case.branch, theorem.dim, memory)
        )

    def ranked(self, rank: int) -> Method:
        """The method keeping so many modes, where it is one that keeps only some."""
        method = copy.copy(self.method)
        method.rank = method.rank and rank
        return method

    def alone(self) -> Case:
        """The method on one or two modes, the first of which it keeps."""
        return Case(self.ranked(1), self.branch, self.dim, self.memory)

    def spectrum(self, values: Values) -> list[float]:
        """Curvatures of a quadratic whose last mode is the one spoken of.

        It is kept, or all that are kept are above it.
        """
        lam, kept = float(values["lam"]), self.method.rank or 1
        if self.branch == "kept":
            return [lam * (1 + 0.1 * k) for k in range(kept - 1, 0, -1)] + [lam]
        following = float(values.get("lam_next", lam))
        # Well above what is left out: which modes are kept must not hang on rounding.
        top = 1.5 * max(following, abs(lam))
        return [
            *(top * (1 + 0.1 * k) for k in range(kept - 1, -1, -1)),
            *([following] if following != lam else []),
            lam,
        ]

    def flow(self, values: Values, *, aligned: bool = False, step: float | None = None, **noise: Any) -> Flow:
        """The flow on that quadratic, with gradient noise of the mode's sigma."""
        spectrum = np.array(self.spectrum(values))
        sigma = float(values.get("sigma", 0.0))
        gradient = (
            np.diag(sigma**2 * np.abs(spectrum)) if aligned else np.diag(np.full(len(spectrum), sigma**2))
        )
        batch = noise.get("batch", 1)
        return Flow(
            quadratic(spectrum),
            self.method,
            # `Noise` is told the covariance of one sample, while sigma is that of the batch.
            Noise(gradient=gradient * batch, **noise),
            step=float(values["step"]) if step is None else step,
        )

    def linear(self, values: Values, **options: Any) -> tuple[LinearFlow, int]:
        """The linearised flow and the index of the mode among its eigenvalues."""
        linear = linearize(self.flow(values, **options))
        return linear, int(np.argmin(np.abs(linear.eigenvalues - values["lam"])))


def variance(linear: LinearFlow, index: int, time: str = "continuous", dt: float | None = None) -> float:
    """A mode's stationary variance by the numeric theory."""
    q = linear.vectors[:, index]
    return float(q @ linear.covariance(time, dt) @ q)


def simulated(flow: Flow, steps: int, seed: int, *, dt: float | None = None, start: float = 0.0) -> Ensemble:
    """An ensemble of the SDE's chain, from the same offset in every coordinate."""
    dt = flow.step if dt is None else dt
    return simulate(flow, start=np.full(flow.dim, start), t_end=steps * dt, dt=dt, paths=PATHS, seed=seed)


def z_of_mean(sample: np.ndarray, predicted: float) -> float:
    """How many standard errors a sample's mean is off."""
    error = float(np.std(sample, ddof=1)) / math.sqrt(len(sample))
    return (
        (float(np.mean(sample)) - predicted) / error
        if error
        else (0.0 if np.isclose(np.mean(sample), predicted, rtol=1e-9) else math.inf)
    )


def value(theorem: Statement, case: Case, values: Values, quantity: str | None = None) -> Any:
    """The theorem at those of the values that it takes."""
    given = {**values, **{theorem.mode.names[key]: number for key, number in case.method.parameters.items()}}
    return theorem.evaluate(quantity, **{key: given[key] for key in given if theorem.takes(key)})


def apart(ours: float, theirs: float) -> float:
    """Relative difference; infinities agree with themselves."""
    if not math.isfinite(theirs):
        return 0.0 if ours == theirs else math.inf
    # A number that is zero has no relative error; below this it counts as one.
    return abs(ours - theirs) / max(abs(theirs), 1e-12)


class Witness(abc.ABC):
    """Another way to a theorem's number."""

    tolerance = 1e-10
    axis = ("lam", 1e-2, 10.0)  # what `Theorem.data` varies, and its range
    sign = 1.0

    def draw(self, case: Case, rng: np.random.Generator, gentle: bool) -> Values:
        """Random values; with `gentle`, such that a short simulation shows something."""
        values = {
            "lam": self.sign * rng.uniform(0.3, 2.0),
            "step": rng.uniform(0.05, 0.3),
            "sigma": rng.uniform(0.2, 2.0),
        }
        if case.branch == "tail":
            values["lam_next"] = abs(values["lam"]) * rng.uniform(1.0, 1.5)
        return self.wanted(case, values)

    def wanted(self, case: Case, values: Values) -> Values:
        """Only a flat tail, or NewSamp's, depends on the first curvature left out."""
        if case.branch == "tail" and case.method.tail_gain(1.0) == case.method.tail_gain(2.0):
            values.pop("lam_next", None)
        return values

    def sensible(self, case: Case, values: Values) -> bool:
        """Whether the number can be reached the other way too: away from poles and stiff chains."""
        if not case.method.spectral:
            return True
        gains = case.method.gain(np.array(case.spectrum(values)))
        return bool(
            np.all(np.abs(gains) < 50)
            and np.all(np.abs(gains * np.array(case.spectrum(values))) * values.get("step", 0.0) < 1.8)
        )

    @abc.abstractmethod
    def deviation(self, theorem: Statement, case: Case, values: Values) -> float:
        """How far the theorem is from the other way to its number, in units that `tolerance` is in."""

    def ensemble(self, theorem: Statement, case: Case, values: Values, seed: int) -> float:
        """The z-score of a simulation against the statement; nan where there is nothing random."""
        return math.nan


class Recomputed(Witness):
    """A witness that computes the same number."""

    @abc.abstractmethod
    def numeric(self, case: Case, values: Values) -> float:
        """The number by the numeric theory."""

    def deviation(self, theorem: Statement, case: Case, values: Values) -> float:
        """Relative to the number itself."""
        pairs = [(value(theorem, case, values), self.numeric(case, values))]
        pairs += [
            (value(theorem, case, values, name), theirs) for name, theirs in self.also(case, values).items()
        ]
        return max(apart(ours, theirs) for ours, theirs in pairs)

    def also(self, case: Case, values: Values) -> dict[str, float]:
        """The corollaries' numbers by the numeric theory."""
        return {}


class StationaryVariance(Recomputed):
    """Statements about a stationary variance with an exact Hessian."""

    aligned = False

    def linear(self, case: Case, values: Values) -> tuple[LinearFlow, int]:
        """The linearised flow and the index of the mode."""
        return case.linear(values, aligned=self.aligned)

    def numeric(self, case: Case, values: Values) -> float:
        return variance(*self.linear(case, values))

    def predicted(self, theorem: Statement, case: Case, values: Values) -> float:
        """The chain's variance: the statement's, which is the SDE's, times ``2 / (2 - step phi lambda)``."""
        linear, index = self.linear(case, values)
        return value(theorem, case, values) * 2 / (2 + values["step"] * linear.rates[index])

    def ensemble(self, theorem: Statement, case: Case, values: Values, seed: int) -> float:
        linear, index = self.linear(case, values)
        # Six relaxation times from the mean: of the stationary variance all but about e^-12 is there.
        steps = math.ceil(6 / abs(linear.rates[index]) / values["step"])
        ens = simulated(linear.flow, steps, seed)
        mode = ens.states[-1] @ linear.vectors[:, index]
        return z_of_mean(mode**2, self.predicted(theorem, case, values))


def best_step(linear: Callable[[float], LinearFlow], gradient: np.ndarray) -> tuple[float, float]:
    """The step that lowers the objective most from where it has this gradient (d,), and by how much.

    The mean after one step is a parabola in the step, which three steps tell.
    """
    first = linear(1.0)
    offset = first.vectors @ ((first.vectors.T @ gradient) / first.eigenvalues)
    size = 1 / float(np.max(np.abs(first.rates)))
    heights = [0.5 * float(gradient @ offset)]
    for step in (size, 2 * size):
        one = linear(step)
        mean, covariance = one.moments(step, one.at + offset, time="discrete")
        second = one.vectors.T @ (covariance + np.outer(mean, mean)) @ one.vectors
        heights.append(0.5 * float(one.eigenvalues @ np.diag(second)))
    bend = (heights[2] - 2 * heights[1] + heights[0]) / size**2
    # The mean loss after a step is a parabola in it: three points are all of it.
    slope = (heights[1] - heights[0]) / size - 0.5 * bend * size
    return -slope / bend, 0.5 * slope**2 / bend


def curvature_noise(rng: np.random.Generator) -> Values:
    """Batches and the noise they make in one mode: a diagonal GOE entry has variance ``2 tau^2``."""
    batch, hessian_batch = float(rng.integers(1, 20)), float(rng.integers(1, 20))
    coupling = rng.choice(["independent", "nested"]) if hessian_batch <= batch else "independent"
    return {
        "curvature": rng.uniform(0.05, 0.5),
        "batch": batch,
        "hessian_batch": hessian_batch,
        "coupling": str(coupling),
    }


def strengths(noise: Values) -> Values:
    """Standard deviations of the two curvature noises in one mode, and their covariance."""
    tau = 2 * noise["curvature"] ** 2
    # The mean over a batch and the mean over a part of it have the whole batch's variance as covariance.
    shared = tau / noise["batch"] if noise["coupling"] == "nested" else 0.0
    return {
        "s_g": math.sqrt(tau / noise["batch"]),
        "s_h": math.sqrt(tau / noise["hessian_batch"]),
        "c_gh": shared,
    }


def doubled(flow: Flow, seed: int, *, level: str = "sde", draws: int = 20_000) -> np.ndarray:
    """Squares of one step from a unit offset without gradient noise, in one dimension."""
    sample = flow.draw(draws, np.random.default_rng(seed), level=level)
    start = np.full((draws, 1), 1.0) + (0.0 if flow.reference is None else flow.reference)
    moved = flow.euler(start, sample, flow.step) if level == "sde" else flow.update(start, sample)
    return (moved[:, 0] - (0.0 if flow.reference is None else flow.reference[0])) ** 2
