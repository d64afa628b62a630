"""Batch sharpness of a network while it trains: the plateaus of theory, those reached and those not."""

from __future__ import annotations

import numpy as np

from .. import datasets
from .._saving import Study, provenance
from ..methods.method import SGD, Method
from ..methods.momentum import Momentum
from ..objectives.network import Network, mlp
from ..training.minimize import minimize
from ..training.sharpness import batch_sharpness
from ._common import Check, Report

BETA, SAMPLES = 0.9, 256
BATCHES = (2, 8, 64, SAMPLES)
STEPS = ((4.0, 8.0, 12.0, 12.0), (0.6, 1.5, 12.0, 6.0))
"""Without momentum and with it, by batch: of a few that were tried, long ones at which no run diverges."""
WINDOWS = 16
"""Into which a run is cut; over the later half of them it is held to have settled."""


def sharpness_study(*, quick: bool = False, seed: int = 0, report: Report = lambda text: None) -> Study:
    """Batch sharpness over 1 / step in training: SGD and heavy ball, batches from two samples to all.

    256 of the digits, 64-24-10, tanh, squared loss. Over each window of a run it is the ratio of two means
    over its states and a batch at each; with all samples in a batch it is seen only while a run at its edge
    leaves and returns.
    """
    network, iterations = _digits(), 1600 if quick else 4000
    chosen = [0, len(BATCHES) - 1] if quick else list(range(len(BATCHES)))
    course = np.empty((2, len(chosen), WINDOWS))
    late, ends = np.empty((2, len(chosen), 2)), np.empty((2, len(chosen)), dtype=bool)
    for m, method in enumerate((SGD(), Momentum(SGD(), BETA))):
        for k, place in enumerate(chosen):
            report(f"sharpness: {method.label}, batches of {BATCHES[place]}")
            batch, step = BATCHES[place], STEPS[m][place]
            course[m, k], late[m, k], ends[m, k] = _run(network, method, batch, step, iterations, seed)
    arrays = {
        "betas": np.array([0.0, BETA]),
        "batch": np.array(BATCHES)[chosen],
        "step": np.array(STEPS)[:, chosen],
        "iteration": (np.arange(WINDOWS) + 0.5) * iterations / WINDOWS,
        "course": course,
        "late": late,
        "ended": ends,
    }
    parameters = {"samples": SAMPLES, "iterations": iterations, "seed": seed, "network": repr(network)}
    return Study("sharpness", arrays, parameters, provenance())


def _digits() -> Network:
    digits = datasets.digits()
    # Targets without their mean, which is a tenth: outputs that start near zero start near theirs.
    X, y = np.asarray(digits.X, dtype=float)[:SAMPLES], np.eye(10)[digits.y[:SAMPLES]] - 0.1
    return mlp(X - X.mean(axis=0), y, hidden=(24,), loss="squared", classes=None)


def _run(
    network: Network, method: Method, batch: int, step: float, iterations: int, seed: int
) -> tuple[np.ndarray, tuple[float, float], bool]:
    """Sharpness times step in each window, over the later half with its error, and whether the run ended."""
    run = minimize(
        network,
        network.initial(0),
        method=method,
        step=step,
        batch=batch,
        iterations=iterations,
        keep_every=4,
        sampling="independent",
        seed=seed,
    )
    course = np.full(WINDOWS, np.nan)
    if not run.done:
        return course, (np.nan, np.nan), False
    windows = np.array_split(run.states[1:], WINDOWS)
    # One batch at each state: the states of a window are many, and their scatter is the error wanted.
    course[:] = [step * batch_sharpness(network, states, batch, batches=1).value for states in windows]
    settled = batch_sharpness(network, np.concatenate(windows[WINDOWS // 2 :]), batch, batches=1)
    return course, (step * settled.value, step * settled.error), True


def check_sharpness(study: Study) -> list[Check]:
    """The plateaus of all samples, and with momentum that of two; without it small batches stay below."""
    (alone, held), beta = study["late"][:, :, 0], float(study["betas"][1])
    high, low = 2 * (1 + beta), 2 * (1 - beta)
    return [
        Check("no run diverges", bool(study["ended"].all()), f"{int(study['ended'].sum())} runs"),
        Check(
            "all samples, without momentum: 2 / step (within 5 %)",
            bool(abs(alone[-1] / 2 - 1) < 0.05),
            f"{alone[-1]:.3g} / step",
        ),
        Check(
            f"all samples, momentum {beta:g}: 0.85 to 1.05 of 2 (1 + beta) / step = {high:.3g} / step",
            bool(0.85 < held[-1] / high < 1.05),
            f"{held[-1]:.3g} / step",
        ),
        Check(
            f"two samples, momentum {beta:g}: 2 (1 - beta) / step = {low:.3g} / step (within 25 %)",
            bool(abs(held[0] / low - 1) < 0.25),
            f"{held[0]:.3g} / step",
        ),
        Check(
            "two samples, without momentum: in so many iterations 2 / step is not reached",
            bool(0.2 < alone[0] < 1.8),
            f"{alone[0]:.3g} / step",
        ),
    ]
