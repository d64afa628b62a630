"""What a method makes of a double well: its stationary density, and the time over the barrier."""

from __future__ import annotations

import math

import numpy as np

from .._saving import Study, provenance
from ..densities.density import stationary_density
from ..densities.result import StationaryDensity
from ..ensembles.simulate import simulate
from ..flow import Flow
from ..methods.method import SFN, SGD, DampedNewton, Newton
from ..noise import Noise
from ..objectives.landscapes import landscape
from ._common import Check, Report, method_names, worst

_STEP, _DAMPING, _LARGE = 0.1, 0.3, 1.5
_GRID, _CELLS = 2.4, 480
_FAR = 2.8  # where SFN's steps from the inflection points, wide as they are at the largest noise, still end
_METHODS = (SGD(), SFN(damping=_DAMPING), DampedNewton(damping=_LARGE), Newton())
"""Damped Newton's damping is beyond the largest negative curvature, 1: else its gain has a pole."""
_PATHWISE = 3
"""Only the first are simulated: Newton's paths jump from its poles, where no grid can hold them."""


def density_study(*, quick: bool = False, seed: int = 0, report: Report = lambda text: None) -> Study:
    """Stationary densities on ``(x^2 - 1)^2 / 4`` under the same gradient noise, and times over the barrier.

    Three witnesses of one law: the Fokker-Planck solution in continuous time, the stationary law of the
    Euler-Maruyama chain from its kernel, and the chain's paths. The passage from one minimum to the other:
    exact, by Kramers' formula, for the chain, and simulated.
    """
    arrays = _laws(8_000 if quick else 60_000, seed, report)
    arrays |= _passages(quick, 200 if quick else 1_000, seed + 100, report)
    parameters = {
        "step": _STEP,
        "damping": _DAMPING,
        "large_damping": _LARGE,
        "noise": 1.0,
        "paths": 8_000 if quick else 60_000,
        "seed": seed,
    }
    return Study("density", arrays, parameters, provenance())


def _flow(method: int, noise: float) -> Flow:
    """With diffusion `noise` under SGD: ``D = noise phi^2``."""
    amplitude = math.sqrt(noise / _STEP)
    return Flow(landscape("double_well", dim=1), _METHODS[method], Noise(gradient=amplitude), step=_STEP)


def _laws(paths: int, seed: int, report: Report) -> dict[str, np.ndarray]:
    exact, chains, variations, counts = [], [], [], []
    start = np.where(np.arange(paths) % 2, 1.0, -1.0)[:, None]  # half in each well, as in the stationary law
    for m, method in enumerate(_METHODS):
        report(f"density, {method.name}")
        exact.append(stationary_density(_flow(m, _STEP), _GRID, cells=_CELLS))
        if m < _PATHWISE:
            chains.append(stationary_density(_flow(m, _STEP), _GRID, cells=_CELLS, time="chain"))
            ens = simulate(_flow(m, _STEP), start=start, t_end=20.0, paths=paths, seed=seed + m)
            found = [law.total_variation(ens) for law in (chains[-1], exact[-1])]
            variations.append([[one.value, one.expected, one.bound] for one in found])
            counts.append(np.histogram(ens.states[-1, :, 0], exact[0].edges["w1"][::8])[0])
    return {
        "methods": method_names(_METHODS),
        "x": exact[0].centers[0],
        "objective": exact[0].potential,
        "drift": np.array([one.drift[:, 0] for one in exact]),
        "density": np.array([one.density for one in exact]),
        "chain_density": np.array([one.density for one in chains]),
        "bins": exact[0].edges["w1"][::8],
        "counts": np.array(counts),
        "variation": np.array(variations),  # method, (chain, continuous), (value, expected, bound)
        "between": np.array([_between(one) for one in exact]),
        "newton_masses": _newton_masses(),
    }


def _between(one: StationaryDensity) -> float:
    """The mass between the inflection points, where the curvature is negative."""
    # F'' = 3 x^2 - 1 changes its sign there.
    return float(one.mass[np.abs(one.centers[0]) < 3**-0.5].sum())


def _newton_masses() -> np.ndarray:
    """Newton's masses of left well, maximum and right well for weak noise."""
    # Newton's density is F''^2 exp(-F'^2 / noise) up to a factor: around each zero of F' a mass like |F''|.
    weak = stationary_density(_flow(3, 0.01), _GRID, cells=_CELLS)
    inflection = 3**-0.5
    return np.histogram(weak.centers[0], [-_GRID, -inflection, inflection, _GRID], weights=weak.mass)[0]


def _passages(quick: bool, paths: int, seed: int, report: Report) -> dict[str, np.ndarray]:
    levels = np.geomspace(0.5, 0.02, 6 if quick else 15)
    shape = (_PATHWISE, len(levels))
    exact, kramers, barrier, prefactor = (np.full(shape, np.nan) for _ in range(4))
    measured = np.full((*shape, 3), np.nan)
    for m in range(_PATHWISE):
        for k, noise in enumerate(levels):
            report(f"time over the barrier, {_METHODS[m].name}, noise {noise:.3g}")
            one = stationary_density(_flow(m, noise), _GRID, cells=100)
            formula = one.kramers(-1, 1)
            exact[m, k], kramers[m, k] = one.log_passage_time(-1, 1), formula.log_mean
            barrier[m, k], prefactor[m, k] = formula.barrier, formula.prefactor
            # Longer waits would take the study's time, not its point.
            if exact[m, k] < math.log(45.0 if quick else 110.0):
                measured[m, k] = _measured(m, float(noise), paths, seed + 100 * m + k)
    return {
        "noise": levels,
        "log_time": exact,
        "log_kramers": kramers,
        "barrier": barrier,
        "prefactor": prefactor,
        "measured": measured,
    }


def _measured(method: int, noise: float, paths: int, seed: int) -> tuple[float, float, float]:
    """The ensemble's mean time from -1 to 1 with its standard error, and the chain's own."""
    flow = _flow(method, noise)
    chain = stationary_density(flow, _FAR, cells=100, time="chain").passage_time(-1, 1)
    t_end = _STEP * math.ceil(14 * chain / _STEP)
    ens = simulate(
        flow, start=[-1.0], t_end=t_end, paths=paths, seed=seed, exit=lambda w: w[:, 0] < 1, keep="moments"
    )
    times = np.where(np.isfinite(ens.exit_times), ens.exit_times, t_end)  # one in a million is still there
    return float(times.mean()), float(times.std(ddof=1) / math.sqrt(paths)), chain


def check_density(study: Study) -> list[Check]:
    """Three witnesses of one law, times over the barrier, and where SFN and Newton put their mass."""
    variation, measured, gamma = study["variation"], study["measured"], study.parameters["damping"]
    values, _, bounds = variation[:, 0].T
    largest, count = worst(measured, np.isfinite(measured[..., 0]))
    gap = np.abs(np.expm1(study["log_time"] - study["log_kramers"]))
    last = float(np.expm1(study["log_time"] - study["log_kramers"])[0, -1] / study["noise"][-1])
    # A barrier is int F' / phi but for a common factor: SGD's is 1/4, SFN's gamma / 4 and
    # int |F''| F' = 4/27, which is the square of F' at the inflection point.
    ratio = float(study["barrier"][1, -1] / study["barrier"][0, -1])
    inflection = int(np.argmin(np.abs(study["x"] - 3**-0.5)))
    density = study["density"]
    mean = float(np.sum(study["between"][1]) / study["between"][0])
    return [
        Check(
            "ensembles have the chain's stationary law (total variation within its bound)",
            bool((values <= bounds).all()),
            ", ".join(
                f"{name} {value:.4f} <= {bound:.4f}"
                for name, value, bound in zip(study["methods"], values, bounds, strict=False)
            ),
        ),
        Check(
            "simulated times over the barrier are the chain's own (|z| < 4.5)",
            largest < 4.5,
            f"largest |z| of {count}: {largest:.2f}",
        ),
        Check(
            "Kramers' formula is reached for weak noise, with SGD's correction 3/4 of the noise",
            bool((gap[:, -1] < 0.1).all() and (gap[:, -1] < gap[:, -2]).all() and abs(last - 0.75) < 0.05),
            f"relative gaps {', '.join(f'{g:.3f}' for g in gap[:, -1])} at noise {study['noise'][-1]:g}; "
            f"SGD's over the noise: {last:.3f}",
        ),
        Check(
            "SFN's barrier is gamma + 16/27 times SGD's at the same noise: lower where the damping is below "
            "11/27",
            abs(ratio - gamma - 16 / 27) < 1e-6,
            f"ratio {ratio:.6f} at gamma = {gamma:g}",
        ),
        Check(
            "SFN empties the inflection points, where its gain is largest, though it lowers the barrier",
            bool(density[1, inflection] < 0.1 * density[0, inflection] and ratio < 1),
            f"density there {density[1, inflection]:.4g} against SGD's {density[0, inflection]:.4g}; mass "
            f"between them {mean:.2f} of SGD's",
        ),
        Check(
            "in continuous time Newton gives the maximum a mass like its curvature: 2/5, 1/5, 2/5 for "
            "curvatures 2, -1, 2",
            bool(np.abs(study["newton_masses"] - [0.4, 0.2, 0.4]).max() < 0.005),
            ", ".join(f"{mass:.4f}" for mass in study["newton_masses"]),
        ),
    ]


def density_table(study: Study) -> str:
    """Total variation and times for the terminal."""
    lines = [
        f"{'method':<14} {'TV to chain':>12} {'expected':>9} {'bound':>8} {'TV to continuous':>17} "
        f"{'mass |x| < 0.577':>17}"
    ]
    for m, rows in enumerate(study["variation"]):
        (value, expected, bound), (other, _, _) = rows
        lines.append(
            f"{study['methods'][m]:<14} {value:>12.4f} {expected:>9.4f} {bound:>8.4f} {other:>17.4f} "
            f"{study['between'][m]:>17.4f}"
        )
    lines.append(
        f"{'method':<14} {'noise':>12} {'exact time':>11} {'Kramers':>10} {'chain':>10} {'measured':>10} "
        f"{'+-':>7}"
    )
    for m, name in enumerate(study["methods"][:_PATHWISE]):
        for k in np.flatnonzero(np.isfinite(study["measured"][m, :, 0])):
            value, error, chain = study["measured"][m, k]
            exact, kramers = np.exp(study["log_time"][m, k]), np.exp(study["log_kramers"][m, k])
            lines.append(
                f"{name:<14} {study['noise'][k]:>12.4g} {exact:>11.4g} {kramers:>10.4g} {chain:>10.4g} "
                f"{value:>10.4g} {error:>7.2g}"
            )
    return "\n".join(lines)
