"""Condition number against noise on quadratics, at equal step and at equal rate."""

from __future__ import annotations

import math

import numpy as np

from .._check import Unstable
from .._saving import Study, provenance
from ..ensembles.simulate import simulate
from ..flow import Flow
from ..linear.linearize import linearize
from ..linear.result import LinearFlow
from ..linear.trust import VALID
from ..methods.method import Method
from ..noise import Noise
from ..objectives.quadratic import quadratic
from ._common import Check, Report, agreement, method_names, methods, popular

SLOW = 100
"""Largest condition number at which methods without a closed step are simulated."""
LEVELS = (("sde", 0.5), ("iteration", 1.0))
"""Level of simulation, and its time step over `step`."""


def condition_number(*, quick: bool = False, seed: int = 0, report: Report = lambda text: None) -> Study:
    """Condition number against noise at equal step length.

    A quadratic with eigenvalues spread geometrically over ``[1/kappa, 1]``, isotropic gradient noise; once
    with the exact Hessian, momentum and Adam beside, once with a subsampled one. Stationary excess risk and
    the variances of the stiffest and of the flattest mode: theory (levels L and L2), Euler-Maruyama at ``dt =
    step / 2``, and the stochastic iteration.
    """
    dim, step, damping, rank, paths = 4, 0.2, 0.2, 2, 256 if quick else 512
    compared = [*methods(damping, rank), *popular()]
    kappas = np.geomspace(1, 1e4, 61)
    exact, sampled = Noise(gradient=1.0), Noise(gradient=16.0, curvature=0.02, batch=256, hessian_batch=4)
    marked: list[list[float]] = [[1, 10, 100], [1, 10, 100]]
    if not quick:
        marked = [[1, 10, 100, 1e3, 1e4], [1, 10, 100, 1e3]]
    theory = np.full((2, len(compared), len(kappas), 2, 3), np.nan)
    validity = np.full((2, len(compared), len(kappas)), np.nan)
    shape = (2, len(compared), max(map(len, marked)))
    measured, trusted = np.full((*shape, 2, 3, 3), np.nan), np.full(shape, np.nan)
    for column, noise in enumerate((exact, sampled)):
        # A subsampled Hessian is the business of those that take one.
        for m, method in enumerate(methods(damping, rank) if column else compared):
            report(f"condition number, {'subsampled' if column else 'exact'} Hessian, {method.name}")

            def at(kappa: float, method: Method = method, noise: Noise = noise) -> LinearFlow:
                return linearize(Flow(quadratic(_spectrum(kappa, dim)), method, noise, step=step))

            for k, kappa in enumerate(kappas):
                linear = at(kappa)
                theory[column, m, k] = [_predicted(linear, order) for order in (1, 2)]
                validity[column, m, k] = linear.validity
            for k, kappa in enumerate(marked[column]):
                linear = at(kappa)
                trusted[column, m, k] = linear.validity
                if kappa > SLOW and not method.spectral:
                    continue  # no closed step stands for its chain
                if np.isfinite(_predicted(linear, 1)).all():
                    measured[column, m, k] = _ensembles(linear, paths=paths, seed=seed)
    points = np.full((2, shape[2]), np.nan)
    for column, values in enumerate(marked):
        points[column, : len(values)] = values
    arrays = {
        "methods": method_names(compared),
        "kappa": kappas,
        "theory": theory,
        "validity": validity,
        "measured_kappa": points,
        "measured": measured,
        "measured_validity": trusted,
    }
    parameters = {
        "dim": dim,
        "step": step,
        "damping": damping,
        "rank": rank,
        "paths": paths,
        "seed": seed,
        "noise": [repr(exact), repr(sampled)],
    }
    return Study("condition-number", arrays, parameters, provenance())


def check_condition_number(study: Study) -> list[Check]:
    """Ensembles agree with theory, and Newton amplifies the flattest mode by the condition number."""
    measured, trusted = study["measured"], study["measured_validity"] < VALID
    names, kappa = list(study["methods"]), study["kappa"]
    newton, sgd = (study["theory"][0, names.index(name), :, 0] for name in ("Newton", "SGD"))
    ratio = newton[-1] / sgd[-1]
    many, few = (study["theory"][0, names.index(name), :, 0, 2] / sgd[:, 2] for name in ("momentum", "Adam"))
    # The flattest variance in discrete time: sigma^2 a phi / (lam (2 - a phi lam)).
    flat = kappa[-1] * (2 - study.parameters["step"] / kappa[-1]) / (2 - study.parameters["step"])
    return [
        agreement("Euler-Maruyama ensembles", measured[:, :, :, 0], True),
        agreement("iterations within validity", measured[:, :, :, 1], trusted[..., None]),
        Check(
            "Newton amplifies the flattest mode's noise over SGD by kappa, up to the discrete factor",
            bool(np.isclose(ratio[2], flat, rtol=1e-9)),
            f"at kappa = {kappa[-1]:g}: {ratio[2]:.6g}, expected {flat:.6g}",
        ),
        Check(
            "momentum 0.9 has ten times the flattest mode's noise, whatever kappa; Adam no more than SGD",
            bool(np.all(np.abs(many - 10) < 0.6) and np.all(np.abs(few - 1) < 0.15)),
            f"momentum {many.min():.4g} ... {many.max():.4g}, Adam {few.min():.4g} ... {few.max():.4g}",
        ),
    ]


def equal_rates(*, quick: bool = False, seed: int = 0, report: Report = lambda text: None) -> Study:
    """The same noise at equal *rates*: each method's slowest mode has SGD's decay per iteration."""
    dim, sgd_step, damping, rank, paths = 4, 0.2, 0.2, 2, 256 if quick else 512
    compared = [*methods(damping, rank), *popular()]
    kappas, marked = np.geomspace(1, 1e4, 61), [1.0, 10.0, 100.0] if quick else [1.0, 10.0, 100.0, 1e3]
    noise = Noise(gradient=1.0)
    theory = np.full((len(compared), len(kappas), 3), np.nan)
    steps = np.full((len(compared), len(kappas)), np.nan)
    measured = np.full((len(compared), len(marked), 2, 3, 3), np.nan)
    for m, method in enumerate(compared):
        report(f"equal rates, {method.name}")

        def at(kappa: float, method: Method = method) -> LinearFlow | None:
            # SGD's slowest mode, 1 / kappa, decays by sgd_step / kappa an iteration; so shall the method's.
            flow = Flow(quadratic(_spectrum(kappa, dim)), method, noise, step=sgd_step)
            return _at_rate(flow, sgd_step / kappa)

        for k, kappa in enumerate(kappas):
            linear = at(kappa)
            if linear is not None:
                theory[m, k], steps[m, k] = _predicted(linear, 1), linear.flow.step
        for k, kappa in enumerate(marked):
            linear = at(kappa)
            if linear is None or (kappa > SLOW and not method.spectral):
                continue
            if np.isfinite(_predicted(linear, 1)).all():
                measured[m, k] = _ensembles(linear, paths=paths, seed=seed)
    arrays = {
        "methods": method_names(compared),
        "kappa": kappas,
        "theory": theory,
        "step": steps,
        "measured_kappa": np.array(marked),
        "measured": measured,
    }
    parameters = {
        "dim": dim,
        "sgd_step": sgd_step,
        "damping": damping,
        "rank": rank,
        "paths": paths,
        "seed": seed,
        "noise": repr(noise),
    }
    return Study("equal-rates", arrays, parameters, provenance())


def check_equal_rates(study: Study) -> list[Check]:
    """At equal slowest rate only truncated methods are noisier than SGD, at small condition numbers."""
    names, ratio = list(study["methods"]), study["theory"][:, :, 0] / study["theory"][0, :, 0]
    truncated = ratio[names.index("LRSFN")]
    full = float(np.nanmax(np.delete(ratio, names.index("LRSFN"), axis=0)))
    above = study["kappa"][truncated > 1 + 1e-9]
    return [
        agreement("ensembles", study["measured"], True),
        Check(
            "at equal slowest rate none of them but LRSFN has more excess risk than SGD",
            full <= 1 + 1e-9,
            f"largest ratio {full:.6g}",
        ),
        Check(
            "LRSFN has more only at small condition numbers, where its tail moves faster than its slowest "
            "mode",
            bool(len(above) and above.max() < 10),
            f"ratio up to {np.nanmax(truncated):.3g}, above one for kappa <= "
            f"{above.max() if len(above) else 0:.3g}",
        ),
    ]


def _at_rate(flow: Flow, decay: float) -> LinearFlow | None:
    """The flow at the step at which its slowest mode loses this share in an iteration; None where none is."""
    linear = linearize(flow)
    # A metric follows the iterates, and these the step: a few rounds settle both.
    for _ in range(1 if flow.method.spectral else 4):
        slowest, memory = float(np.min(np.abs(linear.rates))), linear.memory
        if memory is None:
            step = decay / slowest
        elif decay < 1 - math.sqrt(memory.beta):
            # z^2 - (1 + beta - h) z + beta vanishes at z = 1 - decay, the slower of its roots.
            pull = decay * (1 - memory.beta - decay) / (1 - decay)
            step = pull / memory.weight / slowest
        else:
            return None  # a buffer forgets no faster than by the root of beta
        linear = linearize(flow.at_step(step))
    return linear


def _spectrum(kappa: float, dim: int) -> np.ndarray:
    return np.geomspace(1.0, 1.0 / kappa, dim)


def _predicted(linear: LinearFlow, order: int) -> np.ndarray:
    """Stationary excess risk and variances (3,) of the iteration; nan where the theory has none."""
    try:
        variances = np.diag(linear.covariance(order=order))
    except (Unstable, ValueError):
        return np.full(3, np.nan)
    return _three(linear, variances)


def _three(linear: LinearFlow, squares: np.ndarray) -> np.ndarray:
    """Excess risk, stiffest and flattest variance (..., 3) from squared states (..., d) of a diagonal one."""
    risk = 0.5 * squares @ np.diag(linear.flow.objective.hessian(linear.at))
    return np.stack([risk, squares[..., 0], squares[..., -1]], axis=-1)


def stationary_steps(linear: LinearFlow) -> int:
    """Iterations until the slowest variance is within one percent of its limit."""
    slowest, memory = float(np.min(np.abs(linear.rates))), linear.memory
    if memory is not None:
        rest = 1 - memory.beta
        slowest = min(slowest * memory.weight / rest, rest / 2 / linear.flow.step)
    # A variance relaxes at twice its mode's rate.
    return max(20, math.ceil(0.5 * math.log(100.0) / slowest / linear.flow.step))


def _ensembles(linear: LinearFlow, *, paths: int, seed: int) -> np.ndarray:
    """(2 levels, 3 quantities, 3): measured from the optimum, its standard error, and predicted for then."""
    flow, result = linear.flow, np.full((2, 3, 3), np.nan)
    t_end = stationary_steps(linear) * flow.step
    for i, (level, part) in enumerate(LEVELS):
        dt = None if level == "iteration" else part * flow.step
        ens = simulate(flow, start=linear.at, t_end=t_end, dt=dt, paths=paths, seed=seed, level=level)
        samples = _three(linear, ens.states[-1][~ens.diverged] ** 2)
        if len(samples) > 1:
            result[i, :, 0] = samples.mean(axis=0)
            result[i, :, 1] = samples.std(axis=0, ddof=1) / math.sqrt(len(samples))
        # The iteration with a sampled Hessian is predicted at level L2, everything else exactly at level L.
        best = 2 if level == "iteration" and linear.validity > 0 else 1
        result[i, :, 2] = _three(linear, np.diag(linear.moments(t_end, time=ens.law, order=best)[1]))
    return result
