"""The training tasks at equal work: what is trained, for how long, and by which number it is judged."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit, ndtr

import stability as st
from stability import datasets
from stability.datasets.images import Dataset
from stability.objectives.network import autoencoder, mlp

TIE = 1e-3
"""Weight of the validation loss beside the validation error in percent: it decides between equal errors only.
"""
STREAM, SWEEPS, VALIDATION = 50_000, 2.0, 5_000
"""Samples of the linear tasks, passes over them (nearly a stream), and samples that steps are chosen on."""
NOISE = 0.3
"""Standard deviation of the targets' noise beside that of their signal, which is 1."""


@dataclass(frozen=True)
class Problem:
    """One seed of a task: data, start and judges.

    Another seed has other data or another split, another start, other batches.

    Attributes
    ----------
    objective : Objective
        On the training samples.
    start : array (d,)
    validation, test : callable
        ``w -> float``, lower is better.
    portion : callable
        ``share -> objective`` on the first samples: methods that need whole passes may choose fewer samples
        and more passes.
    """

    objective: Any
    start: np.ndarray
    validation: Callable[[np.ndarray], float]
    test: Callable[[np.ndarray], float]
    portion: Callable[[float], Any]


@dataclass(frozen=True)
class Task:
    """What is trained, with which batches, for how many passes over the training samples.

    Attributes
    ----------
    kind : {"nonlinear", "linear"}
    ill_conditioned : bool
        Of linear tasks: condition number above 1e4, in directions that are not the coordinates.
    held_out : bool
        Kept out of every choice of constants.
    unit : str
        Of the test value.
    build : callable
        ``seed -> Problem``.
    unit_step, weight_size : float
        Scales of the grids, of steps that multiply gradients (small ones where a loss is averaged over many
        outputs) and of Adam's, which are lengths.
    """

    name: str
    kind: str
    unit: str
    build: Callable[[int], Problem]
    sweeps: float
    batch: int = 32
    dtype: str = "float64"
    ill_conditioned: bool = False
    held_out: bool = False
    unit_step: float = 1.0
    weight_size: float = 1.0

    def make(self, seed: int) -> Problem:
        """The problem of a seed; the last few are kept."""
        return _kept(self.build, seed)


@functools.lru_cache(maxsize=2)
def _kept(build: Callable[[int], Problem], seed: int) -> Problem:
    return build(seed)


# -- networks --------------------------------------------------------------------------------------


@functools.cache
def _data(name: str) -> Dataset:
    return {"digits": datasets.digits, "mnist": datasets.mnist}[name]()


def _parts(name: str, seed: int) -> tuple[Dataset, Dataset, Dataset]:
    train, valid, test = _data(name).split((0.6, 0.2, 0.2), seed=seed)
    return train, valid, test


def _classifier(
    train: Dataset,
    valid: Dataset,
    test: Dataset,
    *,
    seed: int,
    hidden: tuple[int, ...],
    start: Any = None,
    **options: Any,
) -> Problem:
    objective = mlp(train.X, train.y, hidden, classes=len(train.classes), **options)
    others = [objective.on(part.X, part.y) for part in (valid, test)]

    def error(on: Any, w: np.ndarray) -> float:
        return 100 * (1 - float(on.accuracy(w)))

    return Problem(
        objective,
        objective.initial(seed) if start is None else start(objective),
        lambda w: error(others[0], w) + TIE * float(others[0].value(w)),
        lambda w: error(others[1], w),
        lambda share: objective.on(train.X[: _few(share, len(train))], train.y[: _few(share, len(train))]),
    )


def _few(share: float, samples: int) -> int:
    return max(1, round(share * samples))


def _reproduction(
    parts: list[tuple[np.ndarray, np.ndarray | None]], objective: Any, spread: float, seed: int
) -> Problem:
    """Squared error of training, validation and test samples, over the variance of what is to be found."""
    (X, Y), valid, test = parts
    judges = [objective.on(*part) for part in (valid, test)]

    def portion(share: float) -> Any:
        few = _few(share, len(X))
        return objective.on(X[:few], None if Y is None else Y[:few])

    relative = [lambda w, on=on: float(on.value(w)) / (0.5 * spread) for on in judges]
    return Problem(objective, objective.initial(seed), relative[0], relative[1], portion)


def _autoencoder(name: str, seed: int, *, hidden: tuple[int, ...], dtype: str) -> Problem:
    train, valid, test = _parts(name, seed)
    spread = float(np.mean(train.X.var(axis=0, dtype=np.float64)))
    return _reproduction(
        [(part.X, None) for part in (train, valid, test)],
        autoencoder(train.X, hidden, dtype=dtype),
        spread,
        seed,
    )


def _lower_half(seed: int) -> Problem:
    """The lower half of a digit from the upper one, under pixel noise."""
    rng = np.random.default_rng(seed)
    parts = [
        (part.X[:, :32] + 0.1 * rng.standard_normal((len(part), 32)), part.X[:, 32:])
        for part in _parts("digits", seed)
    ]
    spread = float(np.mean(parts[0][1].var(axis=0)))
    return _reproduction(parts, mlp(*parts[0], (64, 64), activation="softplus", loss="squared"), spread, seed)


def _transfer(seed: int) -> Problem:
    """From the digits 0-4 to 5-9: the whole network goes on with a new output layer, on 1,000 samples."""
    hidden, data = (128, 64), _data("mnist")
    first, second = data.only(range(5)), data.only(range(5, 10))
    source = mlp(first.X, first.y, hidden, dtype="float32")
    learned = st.minimize(
        source,
        source.initial(seed),
        method=st.Adam(),
        step=1e-3,
        decay="linear",
        batch=32,
        sweeps=5,
        seed=seed,
    ).final
    output = (hidden[-1] + 1) * len(second.classes)

    def start(objective: Any) -> np.ndarray:
        return np.concatenate([learned[:-output], objective.initial(seed)[-output:]])

    train, valid, test = second.split((0.4, 0.2, 0.4), seed=seed)
    return _classifier(train, valid, test, seed=seed, hidden=hidden, start=start, dtype="float32")


# -- linear models on data whose law is known ------------------------------------------------------


@dataclass(frozen=True)
class Gaussian:
    """Inputs ``x ~ N(0, Sigma)`` of chosen eigenvalues, the same signal in every eigendirection.

    Its total variance is `signal`^2.
    """

    eigenvalues: tuple[float, ...]
    rotated: bool
    signal: float

    def draw(self, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A root of Sigma (d, d), true weights (d,), and inputs (n, d): for training, then for validation."""
        rng, d = np.random.default_rng([seed, 5]), len(self.eigenvalues)
        spread = np.sqrt(self.eigenvalues)
        basis = np.linalg.qr(rng.standard_normal((d, d)))[0] if self.rotated else np.eye(d)
        truth = basis @ (rng.choice([-1.0, 1.0], d) * self.signal / (np.sqrt(d) * spread))
        root = spread[:, None] * basis.T
        return root, truth, rng.standard_normal((STREAM + VALIDATION, d)) @ root


def least_squares(law: Gaussian, seed: int) -> Problem:
    """Noisy targets; judged by the exact excess risk as a share of that at the start, which is 0."""
    root, truth, X = law.draw(seed)
    y = X @ truth + NOISE * np.random.default_rng([seed, 6]).standard_normal(len(X))

    def excess(w: np.ndarray) -> float:
        return float(np.sum((root @ (w - truth)) ** 2)) / law.signal**2

    return _regression(st.least_squares, X, y, lambda on, w: float(on.value(w)), excess)


def logistic(law: Gaussian, seed: int) -> Problem:
    """Labels of a logistic model; judged by the exact probability of a wrong label, in percent."""
    root, truth, X = law.draw(seed)
    y = (np.random.default_rng([seed, 6]).random(len(X)) < expit(X @ truth)).astype(float)

    def wrong(on: Any, w: np.ndarray) -> float:
        return 100 * float(np.mean((on.X @ w > 0) != (on.y > 0))) + TIE * float(on.value(w))

    return _regression(st.logistic, X, y, wrong, lambda w: error_probability(root @ w, root @ truth))


def error_probability(found: np.ndarray, truth: np.ndarray) -> float:
    """In percent: how often the sign of ``found . e`` is not that of ``truth . e``, e standard normal."""
    size, signal = float(np.linalg.norm(found)), float(np.linalg.norm(truth))
    cosine = float(found @ truth) / (size * signal) if size > 0 else 0.0
    z = np.linspace(0, 9 * signal, 20_001)
    density = np.exp(-0.5 * (z / signal) ** 2) / (signal * np.sqrt(2 * np.pi))
    agree = ndtr(cosine * z / (signal * np.sqrt(max(1 - cosine**2, 1e-300))))
    return 200 * float(np.trapezoid(density * (expit(z) * (1 - agree) + expit(-z) * agree), z))


def _regression(
    model: Any,
    X: np.ndarray,
    y: np.ndarray,
    on_sample: Callable[[Any, np.ndarray], float],
    exact: Callable[[np.ndarray], float],
) -> Problem:
    train, valid = model(X[:STREAM], y[:STREAM]), model(X[STREAM:], y[STREAM:])

    def portion(share: float) -> Any:
        few = _few(share, STREAM)
        return model(X[:few], y[:few])

    return Problem(train, np.zeros(X.shape[1]), lambda w: on_sample(valid, w), exact, portion)


def powers(exponent: float, d: int) -> tuple[float, ...]:
    """Eigenvalues ``i^-exponent``, from 1 to ``d^-exponent``."""
    return tuple(np.arange(1.0, d + 1) ** -exponent)


def outliers() -> tuple[float, ...]:
    """Twenty eigenvalues between 1 and 0.1 above eighty around 1e-4."""
    return (*np.geomspace(1, 0.1, 20), *np.geomspace(2e-4, 0.5e-4, 80))


def _linear(name: str, model: Callable[[Gaussian, int], Problem], law: Gaussian, **options: Any) -> Task:
    scales: dict[str, Any] = {"unit": "excess risk", "weight_size": 100}
    if model is logistic:
        scales = {"unit": "error %", "unit_step": 100, "weight_size": 300}
    condition = law.eigenvalues[0] / law.eigenvalues[-1]
    return Task(
        name,
        "linear",
        build=functools.partial(model, law),
        sweeps=SWEEPS,
        ill_conditioned=law.rotated and bool(condition > 1e4),
        **scales,
        **options,
    )


TASKS = (
    Task(
        "digits-classifier",
        "nonlinear",
        "error %",
        lambda seed: _classifier(*_parts("digits", seed), seed=seed, hidden=(128, 64)),
        sweeps=40,
    ),
    Task(
        "digits-autoencoder",
        "nonlinear",
        "MSE / variance",
        lambda seed: _autoencoder("digits", seed, hidden=(32, 16, 32), dtype="float64"),
        60,
        unit_step=3,
    ),
    Task(
        "mnist-autoencoder",
        "nonlinear",
        "MSE / variance",
        lambda seed: _autoencoder("mnist", seed, hidden=(64, 16, 64), dtype="float32"),
        sweeps=15,
        dtype="float32",
        unit_step=10,
    ),
    Task("mnist-transfer", "nonlinear", "error %", _transfer, sweeps=24, dtype="float32"),
    _linear("least-squares-rotated", least_squares, Gaussian(powers(3, 34), rotated=True, signal=1.0)),
    _linear("least-squares-axes", least_squares, Gaussian(powers(3, 34), rotated=False, signal=1.0)),
    _linear("outliers-rotated", least_squares, Gaussian(outliers(), rotated=True, signal=1.0)),
    _linear("logistic-1e5-rotated", logistic, Gaussian(powers(3, 50), rotated=True, signal=10.0)),
    _linear("logistic-2e3-rotated", logistic, Gaussian(powers(2, 50), rotated=True, signal=10.0)),
    Task(
        "mnist-silu",
        "nonlinear",
        "error %",
        lambda seed: _classifier(
            *_parts("mnist", seed), seed=seed, hidden=(64,), activation="silu", dtype="float32"
        ),
        sweeps=15,
        dtype="float32",
        held_out=True,
    ),
    Task("lower-half", "nonlinear", "MSE / variance", _lower_half, sweeps=40, held_out=True),
    _linear(
        "logistic-geometric-rotated",
        logistic,
        Gaussian(tuple(0.75 ** np.arange(40)), rotated=True, signal=6.0),
        held_out=True,
    ),
)


def crossover(condition: float, model: str) -> Task:
    """A rotated linear task of any condition number: eigenvalues ``i^-p`` in 50 dimensions, p to fit."""
    build = {"least-squares": least_squares, "logistic": logistic}[model]
    law = Gaussian(
        powers(math.log(condition, 50), 50), rotated=True, signal=1.0 if model == "least-squares" else 10.0
    )
    return _linear(f"{model}-{condition:.3g}", build, law)
