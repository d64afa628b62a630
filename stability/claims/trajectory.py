"""Noise along a path, beside ensembles: the tube, the noise each method lets in, the error by step."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .._saving import Study, provenance
from ..comparison import compare
from ..ensembles.result import Ensemble
from ..ensembles.simulate import simulate
from ..flow import Flow
from ..linear.trust import VALID
from ..methods.method import SFN, SGD, DampedNewton, Method
from ..noise import Noise
from ..objectives.landscapes import landscape
from ..trajectories.path import trajectory
from ..trajectories.result import Trajectory
from ._common import Check, Report, method_names

START, DT, SIGMA = (0.3, 1.0), 0.05, 0.3
LARGE, SMALL, LINEAR = 0.05, 1e-6, 1e-10
"""Steps: of the picture, of the comparison, and where only the linear response is left."""
EARLY = 1.0  # before any curvature changes its sign: SFN's kink would add an error that falls more slowly
BATCHES = 20


def trajectory_study(*, quick: bool = False, seed: int = 0, report: Report = lambda text: None) -> Study:
    """From beside the coupled quartic's saddle to its minimum: the tube against ensembles of the SDE's chain.

    Four measurements for each method: mean and covariance along the path at a step where noise is large;
    z-scores at a step where it is small; the whole law's departure; and the relative error of the covariance
    against the step, with its slope. The last is sharpened by the same noise at a step so small that only the
    linear response is left, whose covariance is itself held against theory.
    """
    compared: list[Method] = [SGD(), DampedNewton(damping=1.5), SFN(damping=1.0)]
    paths, t_end, times = (8_000 if quick else 40_000), 4.0, 8
    steps = np.array([0.04, 0.02, 0.01, 0.005, 0.0025])
    shape = (len(compared), times)
    tube = {
        name: np.full((*shape, *own), np.nan)
        for name, own in (("mean", (2,)), ("covariance", (2, 2)), ("measured_mean", (2,)))
    }
    tube |= {
        name: np.full((*shape, *own), np.nan)
        for name, own in (("measured_covariance", (2, 2)), ("shift", ()), ("shift_z", ()), ("seen", ()))
    }
    fine, small, errors, slopes, linear = [], [], [], [], []
    for m, method in enumerate(compared):
        report(f"trajectory, {method.name}")
        ensemble, path = _both(method, LARGE, t_end, times, paths, seed)
        departure = path.departure(ensemble)
        moments = path.mean, path.covariance, ensemble.mean, ensemble.covariance
        rows = [part[1:] for part in moments]
        rows += [departure.shift, departure.z, np.maximum.accumulate(path.validity[1:])]
        for name, values in zip(tube, rows, strict=True):
            tube[name][m] = values
        fine.append(trajectory(_flow(method, LARGE), START, t_end, time="chain", dt=DT))
        quiet, narrow = _both(method, SMALL, t_end, times, paths, seed + 1)
        still = compare(narrow, quiet)
        covariance_z = still.covariance_z[:, *np.triu_indices(2)]
        small.append(np.concatenate([still.mean_z.ravel(), covariance_z.ravel()]))
        order = _order(method, steps, 10 * paths, seed + 2)
        linear.append(order.linear_z)
        errors.append(order.errors)
        slopes.append(order.slope)
    arrays = {"methods": method_names(compared), "times": path.times[1:], **tube}
    arrays |= {"fine_times": fine[0].times, "steps": steps}
    arrays |= {
        f"fine_{name}": np.stack([getattr(one, name) for one in fine])
        for name in ("mean", "covariance", "amplification", "growth", "validity")
    }
    arrays |= {
        "small_z": np.stack(small),
        "errors": np.stack(errors),
        "slopes": np.array(slopes),
        "linear_z": np.array(linear),
    }
    parameters = {
        "step": LARGE,
        "small_step": SMALL,
        "dt": DT,
        "sigma": SIGMA,
        "start": list(START),
        "early": EARLY,
        "paths": paths,
        "seed": seed,
    }
    return Study("trajectory", arrays, parameters, provenance())


def _flow(method: Method, step: float) -> Flow:
    return Flow(landscape("coupled_quartic"), method, Noise(gradient=SIGMA), step=step)


def _both(
    method: Method, step: float, t_end: float, save: int, paths: int, seed: int
) -> tuple[Ensemble, Trajectory]:
    flow = _flow(method, step)
    ensemble = simulate(flow, start=START, t_end=t_end, dt=DT, paths=paths, seed=seed, save=save)
    return ensemble, trajectory(flow, START, t_end, time=ensemble.law, save=ensemble.times)


class _Order(NamedTuple):
    """How the covariance's relative error falls with the step."""

    errors: np.ndarray  # (steps, 2): value, standard error
    slope: tuple[float, float]  # on the three smallest steps, and its standard error
    linear_z: np.ndarray  # (3,) of the linear response's covariance, which all are measured from


def _order(method: Method, steps: np.ndarray, paths: int, seed: int) -> _Order:
    # With dt given, the mean path does not know the step, and
    # the predicted covariance is the step times this one.
    predicted: Trajectory = trajectory(_flow(method, 1.0), START, EARLY, time="chain", dt=DT, save=1)

    def covariances(step: float) -> np.ndarray:
        ensemble = simulate(_flow(method, step), start=START, t_end=EARLY, dt=DT, paths=paths, seed=seed)
        return np.stack([np.cov(part.T) for part in np.array_split(ensemble.states[-1], BATCHES)]) / step

    linear = covariances(LINEAR)
    gap = linear.mean(axis=0) - predicted.covariance[-1]
    spread = linear.std(axis=0, ddof=1) / np.sqrt(BATCHES)
    # The same noise at every step: in the difference the sampling error is of the order of the step too.
    misses = np.stack([covariances(step) - linear for step in steps])
    i, j = np.unravel_index(np.abs(misses[0].mean(axis=0)).argmax(), (2, 2))
    misses = misses[:, :, i, j] / np.linalg.norm(predicted.covariance[-1])
    value, error = np.abs(misses.mean(axis=1)), misses.std(axis=1, ddof=1) / np.sqrt(BATCHES)
    left_out = np.abs([_slope(steps, np.delete(misses, b, axis=1).mean(axis=1)) for b in range(BATCHES)])
    # Jackknife: the slope is no mean over batches, so each batch is left out in turn.
    slope = _slope(steps, value), float(np.sqrt((BATCHES - 1) * np.var(left_out)))
    return _Order(np.stack([value, error], axis=1), slope, (gap / spread)[np.triu_indices(2)])


def _slope(steps: np.ndarray, values: np.ndarray) -> float:
    return float(np.polyfit(np.log(steps[-3:]), np.log(np.abs(values[-3:])), 1)[0])


def check_trajectory(study: Study) -> list[Check]:
    """Theory along the path in small noise, its error's order, validity where the law departs."""
    worst = float(np.max(np.abs(study["small_z"])))
    (slope, error), anchor = study["slopes"].T, float(np.max(np.abs(study["linear_z"])))
    gone = (study["shift_z"] > 4) & (study["shift"] > 0.1)
    said = study["seen"] >= VALID
    return [
        Check(
            "in small noise mean and covariance along the path agree with theory (|z| < 4.5)",
            worst < 4.5,
            f"largest |z| of {study['small_z'].size}: {worst:.2f}",
        ),
        Check(
            "the covariance's relative error is proportional to the step (slope 1 within 0.05 and three "
            "standard errors), and vanishes with it (|z| < 4.5)",
            bool((np.abs(slope - 1) < 0.05 + 3 * error).all() and anchor < 4.5),
            ", ".join(
                f"{name} {a:.3f} +- {e:.3f}"
                for name, a, e in zip(study["methods"], slope, error, strict=True)
            )
            + f"; largest |z| {anchor:.2f}",
        ),
        Check(
            "where the law has departed by more than a tenth of a standard deviation, the validity indicator "
            "had said so",
            bool(gone.any() and said[gone].all()),
            f"{int((gone & said).sum())} of {int(gone.sum())} places; it also spoke at "
            f"{int((said & ~gone).sum())} of {int((~gone).sum())} others",
        ),
    ]
