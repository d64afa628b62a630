"""Leaving a saddle: how long, by flatness, noise, method and rank; distributions; other saddles."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from .._saving import Study, provenance
from ..exits.escape import escape
from ..exits.exit_time import ExitTime, exit_time
from ..exits.result import Escape
from ..flow import Flow
from ..linear.linearize import linearize
from ..methods.method import LRSFN, Method
from ..noise import Noise
from ..objectives.base import Objective
from ..objectives.expression import expression
from ..objectives.landscapes import landscape
from ..objectives.quadratic import quadratic
from ._common import Check, Report, method_names, methods

LEVELS = (("sde", 0.5), ("iteration", 1.0))
"""Level of simulation and its time step over `step`."""
FIELDS = ("mean", "error", "predicted", "p", "left", "t_end")
"""Of one ensemble: mean of min(T, t_end), its error, the exact law's, Kolmogorov-Smirnov p, share left."""
STEP, DAMPING, STIFF, RADIUS, SIGMA = 0.05, 0.05, 2.0, 1.0, 0.05
FLAT, NOISE = 0.3, 0.3
"""The unstable mode of the panels against noise and of the survival curves; the noise of the latter."""
SPECTRUM = (2.0, 1.0, 0.5, 0.25, -0.12, 0.06)
AFFORDABLE = 1e5
"""Time steps that a mean exit time may take to be simulated."""
SADDLES = ("double_well", "coupled_quartic", "monkey_saddle", "tilted up", "tilted down")
TILT = 1e-6
"""The monkey saddle plus or minus ``TILT |w|^2 / 2``."""
# Its Hessian has the eigenvalues +-6 |w|, equal in size: which one rank 1 keeps, the tilt decides.
WATCHED = 20.0
"""Until when the landscapes are watched."""
SURE = 4.0
"""Standard errors that a difference is claimed at."""


def escape_study(*, quick: bool = False, seed: int = 0, report: Report = lambda text: None) -> Study:
    """First exits from a saddle at equal step and noise: theory, SDE (``dt = step / 2``) and iteration.

    Two modes, stiff and unstable, and a slab along the unstable one: mean exit time against its flatness and
    against the noise, and whole survival curves. LRSFN has rank 1, which keeps the stiff mode. Six modes:
    LRSFN of every rank, with both tails. Saddles that are not quadratic, from a ball: simulated only.
    """
    paths = 200 if quick else 600
    compared = methods(DAMPING, 1)
    lams, sigmas = np.geomspace(1e-3, 1.0, 91), np.geomspace(0.01, 1.0, 61)
    marked = [1e-2, 0.1, 1.0] if quick else [1e-3, 3e-3, 1e-2, 0.03, 0.1, 0.3, 1.0]
    noisy = [0.1, 0.7] if quick else [0.03, 0.1, 0.3, 0.5, 0.7, 1.0]
    report("escape, flatness")
    arrays = {"methods": method_names(compared), "fields": np.array(FIELDS), "lam": lams, "sigma": sigmas}
    arrays |= {"measured_lam": np.array(marked), "measured_sigma": np.array(noisy)}
    laws = [[_law(_saddle(lam, SIGMA, method)) for lam in lams] for method in compared]
    arrays |= {
        name: np.array([[getattr(law, name) for law in row] for row in laws])
        for name in ("rate", "kappa", "log_mean")
    }
    arrays["noise_log_mean"] = np.array(
        [[_law(_saddle(FLAT, sigma, method)).log_mean for sigma in sigmas] for method in compared]
    )
    seeds = itertools.count(1000 * seed)  # one for every ensemble: their z-scores are then independent
    arrays["flatness"] = np.array(
        [[_both(_saddle(lam, SIGMA, method), paths, next(seeds)) for lam in marked] for method in compared]
    )
    report("escape, noise")
    arrays["noise"] = np.array(
        [[_both(_saddle(FLAT, sigma, method), paths, next(seeds)) for sigma in noisy] for method in compared]
    )
    report("escape, survival")
    arrays |= _survivals(compared, 500 if quick else 4000, seeds)
    report("escape, rank")
    arrays |= _ranks(paths, seeds)
    report("escape, landscapes")
    arrays |= _landscapes(compared, paths, 2 * next(seeds))
    parameters: dict[str, Any] = {
        "step": STEP,
        "damping": DAMPING,
        "rank": 1,
        "stiff": STIFF,
        "radius": RADIUS,
        "sigma": SIGMA,
        "paths": paths,
        "seed": seed,
    }
    parameters |= {"flat": FLAT, "noise": NOISE, "spectrum": list(SPECTRUM), "saddles": list(SADDLES)}
    return Study("escape", arrays, parameters, provenance())


def _saddle(lam: float, sigma: float, method: Method) -> Flow:
    return Flow(quadratic([STIFF, -lam]), method, Noise(gradient=sigma), step=STEP)


def _law(flow: Flow) -> ExitTime:
    """The unstable mode's, in continuous time."""
    linear = linearize(flow)
    mode = int(np.argmin(linear.eigenvalues))
    rate = float(linear.rates[mode])
    diffusion = float(linear.vectors[:, mode] @ flow.diffusion(linear.at) @ linear.vectors[:, mode])
    return exit_time(rate=rate, diffusion=diffusion, radius=RADIUS)


def _both(flow: Flow, paths: int, seed: int) -> list[list[float]]:
    """An ensemble at each level (2, fields); nan where leaving would take too long to wait for."""
    rows, law = [], _law(flow)
    for k, (level, part) in enumerate(LEVELS):
        dt = part * flow.step
        if law.log_mean - math.log(dt) > math.log(AFFORDABLE):
            rows.append([math.nan] * len(FIELDS))
            continue
        # Where steps are coarse the chain takes longer than the continuous law.
        t_end = dt * (50 + math.ceil(law.quantile(0.999) / dt))
        # 2 s and 2 s + 1 for the two levels: no two ensembles share their noise.
        rows.append(_row(_escaped(flow, level, dt, t_end, paths, 2 * seed + k)))
    return rows


def _escaped(flow: Flow, level: str, dt: float, t_end: float, paths: int, seed: int) -> Escape:
    """First exits from the slab; the iteration takes no `dt`, its own is `step`."""
    when: dict[str, Any] = {"t_end": t_end} | ({"dt": dt} if level == "sde" else {})
    return escape(flow, radius=RADIUS, along="unstable", paths=paths, seed=seed, level=level, **when)


def _row(found: Escape) -> list[float]:
    predicted = math.nan if found.chain is None else found.chain.mean(round(found.until / found.dt))
    return [*found.mean, predicted, found.kolmogorov_smirnov[1], float(found.left.mean()), found.t_end]


def _survivals(compared: list[Method], paths: int, seeds: Iterator[int]) -> dict[str, np.ndarray]:
    """Survival curves on a common time grid: measured (methods, levels, times), and the law of each level."""
    t = np.linspace(0.0, 20.0, 101)
    measured, law = np.empty((2, len(compared), 2, len(t)))
    rows = np.empty((len(compared), 2, len(FIELDS)))
    for m, method in enumerate(compared):
        flow = _saddle(FLAT, NOISE, method)
        for k, (level, part) in enumerate(LEVELS):
            found = _escaped(flow, level, part * STEP, t[-1], paths, 2 * next(seeds) + k)
            assert found.chain is not None  # a quadratic, additive noise, an eigenvector
            measured[m, k] = found.survival(t)
            law[m, k] = found.chain.survival(np.round(t / found.dt).astype(int))
            rows[m, k] = _row(found)
    return {
        "survival_t": t,
        "survival": measured,
        "survival_law": law,
        "survival_rows": rows,
        "survival_paths": np.array(paths),
    }


def _ranks(paths: int, seeds: Iterator[int]) -> dict[str, np.ndarray]:
    """LRSFN by tail and rank: (2, ranks, levels, fields)."""
    ranks = np.arange(1, len(SPECTRUM) + 1)

    def flow(rank: int, tail: str) -> Flow:
        method = LRSFN(rank=rank, damping=DAMPING, tail=tail)
        return Flow(quadratic(SPECTRUM), method, Noise(gradient=SIGMA), step=STEP)

    found = [
        [_both(flow(int(rank), tail), paths, next(seeds)) for rank in ranks] for tail in ("damping", "flat")
    ]
    rates = [[_law(flow(int(rank), tail)).rate for rank in ranks] for tail in ("damping", "flat")]
    return {"ranks": ranks, "rank": np.array(found), "rank_rate": np.array(rates)}


def _objective(name: str) -> Objective:
    sign = {"tilted up": "+", "tilted down": "-"}.get(name)
    if sign is None:
        return landscape(name)
    return expression(f"x**3 - 3*x*y**2 {sign} {TILT}*(x**2 + y**2)/2", ["x", "y"])


def _landscapes(compared: list[Method], paths: int, seed: int) -> dict[str, np.ndarray]:
    """From a ball around saddles that are no quadratics, by the iteration.

    Mean of min(T, 20) from radius 1/2, its error, share that left, share lost.

    All are given the same noise, so that small changes of the landscape show.
    """
    table = np.full((len(SADDLES), len(compared), 4), np.nan)
    for i, name in enumerate(SADDLES):
        for m, method in enumerate(compared):
            flow = Flow(_objective(name), method, Noise(gradient=SIGMA), step=STEP)
            try:
                found = escape(
                    flow, np.zeros(2), radius=0.5, paths=paths, seed=seed, level="iteration", t_end=WATCHED
                )
            except ValueError:  # Newton where the Hessian vanishes: there is no step
                continue
            table[i, m] = [*found.mean, found.left.mean(), found.lost.mean()]
    return {"landscapes": table}


def check_escape(study: Study) -> list[Check]:
    """Exits follow the exact law; flatness, noise and rank change them as it says."""
    return [
        *_check_laws(study),
        *_check_slopes(study),
        _check_trapped(study),
        _check_flattest(study),
        *_check_rank(study),
        *_check_tie(study),
    ]


def _check_laws(study: Study) -> list[Check]:
    rows = np.concatenate(
        [study[name].reshape(-1, len(FIELDS)) for name in ("flatness", "noise", "survival_rows", "rank")]
    )
    rows = rows[np.isfinite(rows[:, 0]) & (rows[:, 1] > 0)]
    z, p = (rows[:, 0] - rows[:, 2]) / rows[:, 1], rows[:, 3]
    told = "so do their distributions (Kolmogorov-Smirnov, p > 0.001 after Bonferroni)"
    return [
        Check(
            "mean exit times agree with the exact law (|z| < 4.5)",
            bool(np.max(np.abs(z)) < 4.5),
            f"largest |z| of {len(z)}: {np.max(np.abs(z)):.2f}",
        ),
        Check(told, bool(np.min(p) * len(p) > 1e-3), f"smallest p of {len(p)}: {np.min(p):.2g}"),
    ]


def _check_slopes(study: Study) -> list[Check]:
    """The iteration's exit time goes as the same power of ``|lam|`` as its exact law, where theory puts it.

    SGD: ``E T = (2 / lam) int_0^x Dawson``, x growing with lam: falling, but no faster than ``1 / lam``. SFN:
    by the asymptotic ``(log 4 kappa + 0.577) / (2 rate)``, the exponent is ``-gamma / (lam + gamma)``, from
    the rate, and at most ``2 / (log 4 kappa + 0.577)``, from kappa.
    """
    about, lam = study.parameters, study["measured_lam"]
    gamma, least = about["damping"], 2 * about["damping"]
    kappa = least * (least + gamma) * about["radius"] ** 2 / (about["step"] * about["sigma"] ** 2)
    most = 2 / (math.log(4 * kappa) + np.euler_gamma)
    sgd = "SGD's exit time grows with flatness, no faster than 1/|lam|"
    sfn = "SFN's hardly depends on it from |lam| = 2 gamma on"
    return [
        _check_slope(study, "SGD", lam > 0, -1.0, 0.0, sgd),
        _check_slope(study, "SFN", lam >= least, -gamma / (least + gamma), most, sfn),
    ]


def _check_slope(study: Study, name: str, kept: np.ndarray, low: float, high: float, statement: str) -> Check:
    rows = study["flatness"][list(study["methods"]).index(name), kept, 1]
    # The logarithm of a time has the standard error error / value: the weights of the fitted line.
    x, weight = np.log(study["measured_lam"][kept]), (rows[:, 0] / rows[:, 1]) ** 2
    x = x - np.average(x, weights=weight)
    measured, predicted = (
        float(np.sum(weight * x * np.log(rows[:, k])) / np.sum(weight * x**2)) for k in (0, 2)
    )
    error = float(np.sum(weight * x**2) ** -0.5)
    right = abs(measured - predicted) < SURE * error and low < measured + SURE * error < high
    return Check(
        f"{statement} (exponent in [{low:.2f}, {high:.2f}])",
        bool(right),
        f"{measured:.3f} +- {error:.3f}, the exact law's {predicted:.3f}",
    )


def _check_trapped(study: Study) -> Check:
    """Next to nobody leaves by the law; no more than by chance did (binomial, p > 1e-4)."""
    from scipy.stats import binom

    newton, paths = list(study["methods"]).index("Newton"), int(study["survival_paths"])
    left = np.round(study["survival_rows"][newton, :, 4] * paths)
    expected = 1 - study["survival_law"][newton, :, -1]
    right = np.all(expected < 0.01) and np.all(binom.sf(left - 1, paths, expected) > 1e-4)
    detail = (
        f"{left.sum():g} of {2 * paths} left by t = {study['survival_t'][-1]:g}, where the law expects "
        f"{paths * expected.sum():.2g}"
    )
    return Check(
        "Newton stays at a saddle whose barrier |lam|^2 R^2 / (step sigma^2) is high", bool(right), detail
    )


def _check_flattest(study: Study) -> Check:
    """Not what the attraction suggests, since noise is preconditioned too.

    ``R^2 / D = lam^2 R^2 / (step sigma^2)`` is short where lam is small.
    """
    names, first = list(study["methods"]), study["flatness"][:, 0, 1]
    newton, sgd = first[names.index("Newton")], first[names.index("SGD")]
    detail = (
        f"at |lam| = {study['measured_lam'][0]:g}: Newton {newton[0]:.3g} +- {newton[1]:.1g}, SGD "
        f"{sgd[0]:.4g} +- {sgd[1]:.2g}"
    )
    return Check(
        "but its amplified noise throws Newton off a flat saddle before SGD leaves",
        _longer(sgd, newton),
        detail,
    )


def _longer(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether one measured time is longer than another, both with their standard errors."""
    return bool(one[0] - other[0] > SURE * math.hypot(one[1], other[1]))


def _check_rank(study: Study) -> list[Check]:
    """What a rank below five, which does not see the negative direction, does to the exit.

    It leaves at ``|lam| / gamma`` with the damping tail, ``|lam| / (|lam_(r+1)| + gamma)`` with the flat one,
    against ``|lam| / (|lam| + gamma)`` once it is seen: one more than that, the other less, rising with rank.
    """
    sees = 1 + int(np.argmin(study.parameters["spectrum"]))
    damped, flat = study["rank"][:, :, 1]
    sooner = all(_longer(damped[sees - 1], row) for row in damped[: sees - 1])
    # With rank four the first eigenvalue of the tail is the negative one: its gain is then the same.
    later = all(_longer(flat[k], flat[k + 1]) for k in range(sees - 2))
    seen = f"rank {sees} {damped[sees - 1, 0]:.3g}"
    return [
        Check(
            "a rank that misses the negative direction leaves sooner with the damping tail",
            sooner,
            f"rank 1 {damped[0, 0]:.3g}, {seen}",
        ),
        Check(
            "with the flat tail later, the more so the lower the rank",
            later,
            f"rank 1 {flat[0, 0]:.3g}, rank {sees - 2} {flat[sees - 3, 0]:.3g}, {seen}",
        ),
    ]


def _check_tie(study: Study) -> list[Check]:
    """A gain continuous in the Hessian cannot tell the tilted landscapes apart; the truncation can."""
    names, saddles = list(study["methods"]), list(study.parameters["saddles"])
    up, down = (study["landscapes"][saddles.index(name)] for name in ("tilted up", "tilted down"))
    same = [
        not (_longer(up[m], down[m]) or _longer(down[m], up[m]))
        for m in (names.index("SGD"), names.index("SFN"))
    ]
    k = names.index("LRSFN")
    detail = (
        f"mean of min(T, {WATCHED:g}): LRSFN(1) {up[k, 0]:.3g} and {down[k, 0]:.3g}, SFN "
        f"{up[names.index('SFN'), 0]:.4g} and {down[names.index('SFN'), 0]:.4g}"
    )
    return [
        Check(
            f"a tilt of +-{TILT:g} does not change how SGD and SFN leave the monkey saddle", all(same), detail
        ),
        Check(
            "it decides how LRSFN(1) does: which of two eigenvalues of one size is kept",
            _longer(down[k], up[k]),
            detail,
        ),
    ]


def escape_table(study: Study) -> str:
    """What was measured on the landscapes."""
    lines = [
        f"{'saddle':<16} {'method':<14} {f'mean of min(T, {WATCHED:g})':>18} {'+-':>8} {'left':>7} "
        f"{'given up':>9}"
    ]
    for name, rows in zip(study.parameters["saddles"], study["landscapes"], strict=True):
        for method, row in zip(study["methods"], rows, strict=True):
            cells = (
                f"{row[0]:>18.4g} {row[1]:>8.2g} {row[2]:>7.1%} {row[3]:>9.1%}"
                if np.isfinite(row[0])
                else f"{'singular there':>18}"
            )
            lines.append(f"{name:<16} {method:<14} {cells}")
    lines += [
        "ball of radius 1/2, iteration, simulated only: the law of a ball in two dimensions is not known in "
        "closed form",
        f"tilted: the monkey saddle with +-{TILT:g} |w|^2 / 2 added. LRSFN has rank 1: untilted, a tie "
        "decides what it keeps",
    ]
    return "\n".join(lines)
