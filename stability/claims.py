"""The abstract's claims as runnable studies: each returns the numbers behind one picture, draws nothing.

Every study runs the public pieces (`Flow`, `linearize`, `simulate`) and nothing else, and records theory and
measurement side by side. ``quick=True`` is the small form of the same computation.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ._check import Unstable
from .exact import exact_mode
from .flow import Flow
from .linear import VALID, LinearFlow, linearize
from .methods import LRSFN, SFN, SGD, DampedNewton, Method, Newton
from .noise import Noise, Sample
from .objectives import logistic, quadratic
from .results import Study, provenance
from .simulate import simulate

Report = Callable[[str], None]
QUANTITIES = ("excess", "stiffest", "flattest")


def methods(damping: float, rank: int) -> list[Method]:
    """The five methods that every study compares."""
    return [SGD(), Newton(), DampedNewton(damping=damping), SFN(damping=damping), LRSFN(rank=rank, damping=damping)]


def _names(compared: Iterable[Method]) -> np.ndarray:
    return np.array([method.name for method in compared])


def _spectrum(kappa: float, dim: int) -> np.ndarray:
    return np.geomspace(1.0, 1.0 / kappa, dim)


def _predicted(linear: LinearFlow, level: str) -> np.ndarray:
    """Stationary excess risk and variances (3,) of the iteration; nan where the theory has none."""
    try:
        variances = np.diag(linear.covariance(level=level))
    except (Unstable, ValueError):
        return np.full(3, np.nan)
    return _three(linear, variances)


def _three(linear: LinearFlow, squares: np.ndarray) -> np.ndarray:
    """Excess risk, stiffest and flattest variance (..., 3) from squared states (..., d) of a diagonal quadratic."""
    risk = 0.5 * squares @ np.diag(linear.flow.objective.hessian(linear.at))
    return np.stack([risk, squares[..., 0], squares[..., -1]], axis=-1)


def _stationary_steps(linear: LinearFlow) -> int:
    """Iterations until the slowest variance is within one percent of its limit."""
    slowest = float(np.min(np.abs(linear.rates)))
    return max(20, math.ceil(0.5 * math.log(100.0) / slowest / linear.flow.step))


LEVELS = (("sde", "chain", 0.5), ("iteration", "discrete", 1.0))
"""Level of simulation, the law it follows, and its time step over `step`."""


def _ensembles(linear: LinearFlow, *, paths: int, seed: int) -> np.ndarray:
    """(2 levels, 3 quantities, 3): measured, its standard error, and predicted at that very time; started at the optimum."""
    flow, result = linear.flow, np.full((2, 3, 3), np.nan)
    t_end = _stationary_steps(linear) * flow.step
    for i, (level, law, part) in enumerate(LEVELS):
        dt = None if level == "iteration" else part * flow.step
        ens = simulate(flow, start=linear.at, t_end=t_end, dt=dt, paths=paths, seed=seed, level=level)
        samples = _three(linear, ens.states[-1][~ens.diverged] ** 2)
        if len(samples) > 1:
            result[i, :, 0], result[i, :, 1] = samples.mean(axis=0), samples.std(axis=0, ddof=1) / math.sqrt(len(samples))
        # The iteration with a sampled Hessian is predicted at level L2, everything else exactly at level L.
        best = "L2" if level == "iteration" and linear.validity > 0 else "L"
        result[i, :, 2] = _three(linear, np.diag(linear.moments(t_end, time=law, dt=dt, level=best)[1]))
    return result


def condition_number(*, quick: bool = False, seed: int = 0, report: Report = lambda text: None) -> Study:
    """Condition number against noise at equal step length.

    A quadratic with eigenvalues spread geometrically over ``[1/kappa, 1]``, isotropic gradient noise; once with the
    exact Hessian, once with a subsampled one. Stationary excess risk and the variances of the stiffest and of the
    flattest mode: theory (levels L and L2), Euler-Maruyama at ``dt = step / 2``, and the stochastic iteration.
    """
    dim, step, damping, rank, paths = 4, 0.2, 0.2, 2, 256 if quick else 512
    compared = methods(damping, rank)
    kappas = np.geomspace(1, 1e4, 61)
    exact, sampled = Noise(gradient=1.0), Noise(gradient=16.0, curvature=0.02, batch=256, hessian_batch=4)
    marked: list[list[float]] = [[1, 10, 100], [1, 10, 100]] if quick else [[1, 10, 100, 1e3, 1e4], [1, 10, 100, 1e3]]
    theory = np.full((2, len(compared), len(kappas), 2, 3), np.nan)
    validity = np.full((2, len(compared), len(kappas)), np.nan)
    shape = (2, len(compared), max(map(len, marked)))
    measured, trusted = np.full((*shape, 2, 3, 3), np.nan), np.full(shape, np.nan)
    for column, noise in enumerate((exact, sampled)):
        for m, method in enumerate(compared):
            report(f"condition number, {'subsampled' if column else 'exact'} Hessian, {method.name}")

            def at(kappa: float, method: Method = method, noise: Noise = noise) -> LinearFlow:
                return linearize(Flow(quadratic(_spectrum(kappa, dim)), method, noise, step=step))

            for k, kappa in enumerate(kappas):
                linear = at(kappa)
                theory[column, m, k] = [_predicted(linear, level) for level in ("L", "L2")]
                validity[column, m, k] = linear.validity
            for k, kappa in enumerate(marked[column]):
                linear = at(kappa)
                trusted[column, m, k] = linear.validity
                if np.isfinite(_predicted(linear, "L")).all():
                    measured[column, m, k] = _ensembles(linear, paths=paths, seed=seed)
    points = np.full((2, shape[2]), np.nan)
    for column, values in enumerate(marked):
        points[column, : len(values)] = values
    arrays = {
        "methods": _names(compared),
        "kappa": kappas,
        "theory": theory,
        "validity": validity,
        "measured_kappa": points,
        "measured": measured,
        "measured_validity": trusted,
    }
    parameters = {"dim": dim, "step": step, "damping": damping, "rank": rank, "paths": paths, "seed": seed, "noise": [repr(exact), repr(sampled)]}
    return Study("condition-number", arrays, parameters, provenance())


def equal_rates(*, quick: bool = False, seed: int = 0, report: Report = lambda text: None) -> Study:
    """The same noise at equal *rates*: each method's step gives its slowest mode the same decay per iteration as SGD's."""
    dim, sgd_step, damping, rank, paths = 4, 0.2, 0.2, 2, 256 if quick else 512
    compared = methods(damping, rank)
    kappas, marked = np.geomspace(1, 1e4, 61), [1.0, 10.0, 100.0] if quick else [1.0, 10.0, 100.0, 1e3]
    noise = Noise(gradient=1.0)
    theory = np.full((len(compared), len(kappas), 3), np.nan)
    steps = np.full((len(compared), len(kappas)), np.nan)
    measured = np.full((len(compared), len(marked), 2, 3, 3), np.nan)
    for m, method in enumerate(compared):
        report(f"equal rates, {method.name}")

        def at(kappa: float, method: Method = method) -> LinearFlow:
            objective = quadratic(_spectrum(kappa, dim))
            slowest = float(np.min(np.abs(linearize(Flow(objective, method, noise, step=1.0)).rates)))
            return linearize(Flow(objective, method, noise, step=sgd_step / kappa / slowest))

        for k, kappa in enumerate(kappas):
            linear = at(kappa)
            theory[m, k], steps[m, k] = _predicted(linear, "L"), linear.flow.step
        for k, kappa in enumerate(marked):
            linear = at(kappa)
            if np.isfinite(_predicted(linear, "L")).all():
                measured[m, k] = _ensembles(linear, paths=paths, seed=seed)
    arrays = {
        "methods": _names(compared),
        "kappa": kappas,
        "theory": theory,
        "step": steps,
        "measured_kappa": np.array(marked),
        "measured": measured,
    }
    parameters = {"dim": dim, "sgd_step": sgd_step, "damping": damping, "rank": rank, "paths": paths, "seed": seed, "noise": repr(noise)}
    return Study("equal-rates", arrays, parameters, provenance())


def step_limit(*, quick: bool = False, seed: int = 0, report: Report = lambda text: None) -> Study:
    """Hessian noise against the largest stable step in the plane (condition number, curvature noise).

    For a two-mode quadratic ``(1, 1/kappa)`` with independent batches of equal size: the linearised chain's largest
    mean-square step; the smaller of the two modes' limits without linearisation; the measured spectral radius of the
    one-step second-moment map of chain and iteration (the same drawn noise everywhere); the measured almost-sure exponent.
    """
    step, damping, rank = 0.5, 0.1, 1
    points, samples = (13, 1000) if quick else (25, 4000)
    compared = methods(damping, rank)
    kappas, taus = np.geomspace(1.05, 1e3, points), np.geomspace(1e-3, 3.0, points)
    shape = (len(compared), len(taus), len(kappas))
    limit, exact, chain, iteration, exponent, error = (np.full(shape, np.nan) for _ in range(6))
    draws = np.random.default_rng(seed).standard_normal((2, samples // 2, 2, 2))
    unit = (draws + np.swapaxes(draws, -1, -2)) / math.sqrt(2)  # GOE with unit off-diagonal variance
    # Both signs of every draw, in a shuffled order: the sample mean of the noise is then exactly zero, as its mean is.
    order = np.random.default_rng(seed + 1).permutation(samples)
    unit = np.concatenate([unit, -unit], axis=1)[:, order]
    for m, method in enumerate(compared):
        report(f"step limit, {method.name}")
        for j, kappa in enumerate(kappas):
            objective = quadratic([1.0, 1.0 / kappa])
            for i, tau in enumerate(taus):
                flow = Flow(objective, method, Noise(curvature=tau), step=step)
                limit[m, i, j] = linearize(flow).step_limit()
                exact[m, i, j] = min(_exact_limit(method, lam, tau, rank) for rank, lam in enumerate((1.0, 1.0 / kappa), 1))
                sample = Sample(np.zeros((samples, 2)), tau * unit[0], tau * unit[1])
                chain[m, i, j] = _second_moment_radius(_one_step(flow, sample, "sde"))
                factors = _one_step(flow, sample, "iteration")
                iteration[m, i, j] = _second_moment_radius(factors)
                exponent[m, i, j], error[m, i, j] = _almost_sure_exponent(factors)
    arrays = {"methods": _names(compared), "kappa": kappas, "tau": taus, "limit": limit, "exact_limit": exact, "chain_radius": chain}
    arrays |= {"iteration_radius": iteration, "exponent": exponent, "exponent_error": error}
    parameters = {"step": step, "damping": damping, "rank": rank, "samples": samples, "seed": seed}
    return Study("step-limit", arrays, parameters, provenance())


@functools.lru_cache(maxsize=4096)
def _exact_limit(method: Method, lam: float, tau: float, rank: int) -> float:
    """The mean-square step limit of one mode of the iteration itself, the mode's rank in the spectrum given."""
    own = method if method.rank is None or rank <= method.rank else Method(gain=lambda x: 0 * x + method.tail_gain(lam))
    return exact_mode(own, curvature=lam, noise=Noise(curvature=tau)).mean_square_limit


def _one_step(flow: Flow, sample: Sample, level: str) -> np.ndarray:
    """The matrices (m, d, d) of one step around the reference point, measured by stepping each unit vector."""
    assert flow.reference is not None
    columns = []
    for e in np.eye(flow.dim):
        w = np.broadcast_to(flow.reference + e, (len(sample.zeta), flow.dim))
        moved = flow.euler(w, sample, flow.step) if level == "sde" else flow.update(w, sample)
        columns.append(moved - flow.reference)
    return np.stack(columns, axis=-1)


def _second_moment_radius(factors: np.ndarray) -> float:
    """Spectral radius of the sample mean of ``B (x) B``."""
    dim = factors.shape[-1]
    flat = factors.reshape(len(factors), -1)
    mean = (flat.T @ flat / len(factors)).reshape((dim,) * 4).transpose(0, 2, 1, 3).reshape(dim**2, dim**2)
    return float(np.max(np.abs(np.linalg.eigvals(mean))))


def _almost_sure_exponent(factors: np.ndarray) -> tuple[float, float]:
    """Mean growth ``log |B_k ... B_1 v| / k`` of the random product, and its standard error from ten stretches."""
    stretches = 10
    runs = factors[: len(factors) // stretches * stretches].reshape(stretches, -1, *factors.shape[1:])
    v, growth = np.full((stretches, factors.shape[-1]), factors.shape[-1] ** -0.5), np.zeros(stretches)
    burn = min(20, runs.shape[1] // 5)  # steps for the direction to forget its start
    for k in range(runs.shape[1]):
        v = (runs[:, k] @ v[..., None])[..., 0]
        size = np.linalg.norm(v, axis=1)
        v = v / size[:, None]
        if k >= burn:
            growth += np.log(size)
    growth /= runs.shape[1] - burn
    return float(growth.mean()), float(growth.std(ddof=1) / math.sqrt(stretches))


REAL_SETTINGS = (
    {"batch": 32, "hessian_batch": 8, "damping": 0.3},
    {"batch": 64, "hessian_batch": 256, "damping": 0.3},
)


def breast_cancer(columns: int = 30) -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's breast-cancer table, standardized, with an intercept column: X (569, columns + 1), y (569,)."""
    try:
        from sklearn.datasets import load_breast_cancer
    except ImportError:
        raise ValueError('The breast-cancer table comes with scikit-learn: pip install "sfn-stability[data]".') from None
    data = load_breast_cancer()
    X = data.data[:, :columns]
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    return np.hstack([X, np.ones((len(X), 1))]), data.target.astype(float)


def real_data(*, quick: bool = False, seed: int = 0, report: Report = lambda text: None) -> Study:
    """Logistic regression on the breast-cancer table: predicted against measured covariance of real minibatch steps.

    Nothing is linearised in the measurement: batches are drawn without replacement, their Hessians decomposed. The
    excess risk compared is ``tr(H S) / 2``. Two settings: a small Hessian batch, where the validity indicator says
    that the theory is not to be trusted, and a large one.
    """
    columns, step, l2, rank = (10 if quick else 30), 0.1, 0.1, 5
    paths, snapshots = (256, 2) if quick else (512, 4)
    objective = logistic(*breast_cancer(columns), l2=l2)
    compared = [method for method in methods(1.0, rank) if not isinstance(method, Newton)]
    fields = ("validity", "limit", "predicted", "predicted_L2", "measured", "error", "max_z", "diverged")
    table = np.full((len(REAL_SETTINGS), len(compared), len(fields)), np.nan)
    pairs = np.full((len(REAL_SETTINGS), len(compared), 2, objective.dim), np.nan)
    for s, setting in enumerate(REAL_SETTINGS):
        noise = Noise.from_data(objective, None, int(setting["batch"]), hessian_batch=int(setting["hessian_batch"]))
        for m, method in enumerate([x for x in methods(setting["damping"], rank) if not isinstance(x, Newton)]):
            report(f"real data, batches {setting['batch']} and {setting['hessian_batch']}, {method.name}")
            linear = linearize(Flow(objective, method, noise, step=step))
            row, predicted, measured = _real_row(linear, paths, snapshots, seed)
            table[s, m], pairs[s, m] = row, (predicted, measured)
    arrays = {"methods": _names(compared), "fields": np.array(fields), "table": table, "variances": pairs}
    arrays["settings"] = np.array([[v["batch"], v["hessian_batch"], v["damping"]] for v in REAL_SETTINGS])
    parameters = {"columns": columns, "step": step, "l2": l2, "rank": rank, "paths": paths, "snapshots": snapshots, "seed": seed}
    return Study("real-data", arrays, parameters, provenance())


def _real_row(linear: LinearFlow, paths: int, snapshots: int, seed: int) -> tuple[list[float], np.ndarray, np.ndarray]:
    flow = linear.flow
    nan = np.full(flow.dim, np.nan)
    try:
        covariance, limit = linear.covariance(), linear.step_limit()
    except Unstable:
        covariance, limit = np.diag(nan), math.nan
    try:
        second = linear.excess_risk(level="L2")
    except Unstable:
        second = math.nan
    rest = _stationary_steps(linear)
    apart = max(1, rest // 3)  # one decay time between snapshots
    times = flow.step * (rest + apart * np.arange(snapshots))
    ens = simulate(flow, start=linear.at, t_end=times[-1], save=times, paths=paths, seed=seed, level="iteration")
    offsets = (ens.states[:, ~ens.diverged] - linear.at) @ linear.vectors
    offsets = offsets - offsets.mean(axis=(0, 1))
    # Snapshots of one path are correlated: average them first, then take the error over paths.
    squares = np.mean(offsets**2, axis=0)
    risks = 0.5 * squares @ linear.eigenvalues
    variances, errors = squares.mean(axis=0), squares.std(axis=0, ddof=1) / math.sqrt(len(squares))
    predicted = np.diag(linear.vectors.T @ covariance @ linear.vectors)
    z = float(np.max(np.abs(variances - predicted) / errors))
    risk = float(0.5 * linear.eigenvalues @ predicted)
    row = [linear.validity, limit, risk, second, risks.mean(), risks.std(ddof=1) / math.sqrt(len(risks)), z, ens.diverged.mean()]
    return [float(value) for value in row], predicted, variances


STUDIES: dict[str, Callable[..., Study]] = {
    "condition-number": condition_number,
    "step-limit": step_limit,
    "equal-rates": equal_rates,
    "real-data": real_data,
}


@dataclass(frozen=True)
class Check:
    """One statement that a study's numbers bear out, or not."""

    statement: str
    passed: bool
    detail: str


def check(study: Study) -> list[Check]:
    """The statements that a study stands for, tested on its own numbers."""
    return _CHECKS[study.name](study)


def _worst(measured: np.ndarray, keep: np.ndarray) -> tuple[float, int]:
    """Largest ``|z|`` of measured entries (..., 3: value, error, predicted) where `keep`, and how many there are."""
    z = (measured[..., 0] - measured[..., 2]) / measured[..., 1]
    z = z[np.isfinite(z) & np.broadcast_to(keep, z.shape)]
    return float(np.max(np.abs(z))), len(z)


def _agreement(what: str, measured: np.ndarray, keep: Any) -> Check:
    worst, count = _worst(measured, np.asarray(keep))
    return Check(f"{what} agree with theory (|z| < 4.5)", worst < 4.5, f"largest |z| of {count}: {worst:.2f}")


def _check_condition_number(study: Study) -> list[Check]:
    measured, trusted = study["measured"], study["measured_validity"] < VALID
    names, kappa = list(study["methods"]), study["kappa"]
    newton, sgd = (study["theory"][0, names.index(name), :, 0] for name in ("Newton", "SGD"))
    ratio = newton[-1] / sgd[-1]
    # The flattest variance in discrete time: sigma^2 a phi / (lam (2 - a phi lam)).
    flat = kappa[-1] * (2 - study.parameters["step"] / kappa[-1]) / (2 - study.parameters["step"])
    return [
        _agreement("Euler-Maruyama ensembles", measured[:, :, :, 0], True),
        _agreement("iterations within validity", measured[:, :, :, 1], trusted[..., None]),
        Check(
            "Newton amplifies the flattest mode's noise over SGD by kappa, up to the discrete factor",
            bool(np.isclose(ratio[2], flat, rtol=1e-9)),
            f"at kappa = {kappa[-1]:g}: {ratio[2]:.6g}, expected {flat:.6g}",
        ),
    ]


def _check_equal_rates(study: Study) -> list[Check]:
    names, ratio = list(study["methods"]), study["theory"][:, :, 0] / study["theory"][0, :, 0]
    full, truncated = float(np.nanmax(ratio[:4])), ratio[names.index("LRSFN")]
    above = study["kappa"][truncated > 1 + 1e-9]
    return [
        _agreement("ensembles", study["measured"], True),
        Check("at equal slowest rate Newton, damped Newton and SFN have no more excess risk than SGD", full <= 1 + 1e-9, f"largest ratio {full:.6g}"),
        Check(
            "LRSFN has more only at small condition numbers, where its tail moves faster than its slowest mode",
            bool(len(above) and above.max() < 10),
            f"ratio up to {np.nanmax(truncated):.3g}, above one for kappa <= {above.max() if len(above) else 0:.3g}",
        ),
    ]


def _check_step_limit(study: Study) -> list[Check]:
    step, limit, radius = study.parameters["step"], study["limit"], study["chain_radius"]
    clear = np.abs(np.log(limit / step)) > math.log(1.3)
    agree = (limit < step) == (radius > 1)
    share = float(agree[clear].mean())
    return [
        Check(
            "the measured second moment grows exactly where theory says (limits within 30 % of the step left out)",
            share == 1.0,
            f"{share:.4%} of {int(clear.sum())} points",
        )
    ]


def _check_real_data(study: Study) -> list[Check]:
    fields = list(study["fields"])
    column = {name: study["table"][..., fields.index(name)] for name in fields}
    trusted = column["validity"] < VALID
    gap = (np.abs(column["measured"] / column["predicted_L2"] - 1) - 2 * column["error"] / column["measured"])[trusted]
    return [
        Check(
            "within validity, the measured excess risk of real minibatch steps is within 10 % (and 2 s.e.) of level L2's",
            bool(np.max(gap) < 0.1),
            f"{int(trusted.sum())} of {trusted.size} rows valid; largest gap beyond 2 s.e. {max(float(np.max(gap)), 0.0):.1%}",
        )
    ]


_CHECKS: dict[str, Callable[[Study], list[Check]]] = {
    "condition-number": _check_condition_number,
    "step-limit": _check_step_limit,
    "equal-rates": _check_equal_rates,
    "real-data": _check_real_data,
}


def summary(study: Study) -> str:
    """The study's table for the terminal, where it has one."""
    if study.name != "real-data":
        return ""
    head = (
        f"{'batches':<8} {'method':<13} {'validity':>8} {'predicted':>10} {'(L2)':>10} {'measured':>10} {'+-':>8} {'variances':>9} {'|z|':>4} {'diverged':>8}"
    )
    lines = [head]
    for setting, rows, pairs in zip(study["settings"], study["table"], study["variances"], strict=True):
        for name, row, (predicted, measured) in zip(study["methods"], rows, pairs, strict=True):
            validity, _, first, second, value, error, z, lost = row
            gap = float(np.linalg.norm(measured - predicted) / np.linalg.norm(predicted))
            cells = f"{validity:>8.2f} {first:>10.3e} {second:>10.3e} {value:>10.3e} {error:>8.1e} {gap:>9.1%} {z:>4.1f} {lost:>8.1%}"
            lines.append(f"{f'{setting[0]:g}, {setting[1]:g}':<8} {name:<13} {cells}")
    return "\n".join([*lines, "variances: |measured - predicted| / |predicted| over the modes' stationary variances; |z|: the largest of them (level L)"])


def run(name: str, **options: Any) -> Study:
    """Run one study by name."""
    return STUDIES[name](**options)
