"""Hessian noise against the largest stable step."""

from __future__ import annotations

import functools
import math

import numpy as np

from .._saving import Study, provenance
from ..exact.mode import exact_mode
from ..flow import Flow
from ..linear.linearize import linearize
from ..lyapunov.limit import top_exponents
from ..methods.method import Method
from ..noise import Noise, Sample
from ..objectives.quadratic import quadratic
from ._common import Check, Report, method_names, methods

PRODUCTS = 20
"""Random products that the almost-sure exponent is measured from."""


def step_limit(*, quick: bool = False, seed: int = 0, report: Report = lambda text: None) -> Study:
    """Hessian noise against the largest stable step in the plane (condition number, curvature noise).

    For a two-mode quadratic ``(1, 1/kappa)`` with independent batches of equal size: the linearised chain's
    largest mean-square step; the smaller of the two modes' limits without linearisation; the measured
    spectral radius of the one-step second-moment map of chain and iteration (the same drawn noise
    everywhere); the measured almost-sure exponent.
    """
    step, damping, rank = 0.5, 0.1, 1
    points, samples = (13, 1000) if quick else (25, 4000)
    compared = methods(damping, rank)
    kappas, taus = np.geomspace(1.05, 1e3, points), np.geomspace(1e-3, 3.0, points)
    shape = (len(compared), len(taus), len(kappas))
    limit, exact, chain, iteration, exponent, error = (np.full(shape, np.nan) for _ in range(6))
    draws = np.random.default_rng(seed).standard_normal((2, samples // 2, 2, 2))
    unit = (draws + np.swapaxes(draws, -1, -2)) / math.sqrt(2)  # GOE with unit off-diagonal variance
    # Both signs of every draw, in a shuffled order: the sample mean of the noise is then exactly zero, as its
    # mean is.
    order = np.random.default_rng(seed + 1).permutation(samples)
    unit = np.concatenate([unit, -unit], axis=1)[:, order]
    for m, method in enumerate(compared):
        report(f"step limit, {method.name}")
        for j, kappa in enumerate(kappas):
            objective = quadratic([1.0, 1.0 / kappa])
            for i, tau in enumerate(taus):
                flow = Flow(objective, method, Noise(curvature=tau), step=step)
                limit[m, i, j] = linearize(flow).step_limit()
                exact[m, i, j] = min(
                    _exact_limit(method, lam, tau, rank) for rank, lam in enumerate((1.0, 1.0 / kappa), 1)
                )
                sample = Sample(np.zeros((samples, 2)), tau * unit[0], tau * unit[1])
                chain[m, i, j] = _second_moment_radius(_one_step(flow, sample, "sde"))
                iteration[m, i, j] = _second_moment_radius(_one_step(flow, sample, "iteration"))
                (exponent[m, i, j],), (error[m, i, j],) = top_exponents(
                    flow, [step], iterations=samples // 25, products=PRODUCTS, seed=seed
                )
    arrays = {
        "methods": method_names(compared),
        "kappa": kappas,
        "tau": taus,
        "limit": limit,
        "exact_limit": exact,
        "chain_radius": chain,
    }
    arrays |= {"iteration_radius": iteration, "exponent": exponent, "exponent_error": error}
    parameters = {"step": step, "damping": damping, "rank": rank, "samples": samples, "seed": seed}
    return Study("step-limit", arrays, parameters, provenance())


def check_step_limit(study: Study) -> list[Check]:
    """The measured second moment grows exactly where the theory says."""
    step, limit, radius = study.parameters["step"], study["limit"], study["chain_radius"]
    # Near the limit a radius of one is told by chance.
    clear = np.abs(np.log(limit / step)) > math.log(1.3)
    agree = (limit < step) == (radius > 1)
    share = float(agree[clear].mean())
    return [
        Check(
            "the measured second moment grows exactly where theory says (limits within 30 % of the step left "
            "out)",
            share == 1.0,
            f"{share:.4%} of {int(clear.sum())} points",
        )
    ]


# Remembered, for on the grid the mode of curvature 1 comes again at every kappa.
@functools.lru_cache(maxsize=4096)
def _exact_limit(method: Method, lam: float, tau: float, rank: int) -> float:
    """The mean-square step limit of one mode of the iteration itself, given its rank in the spectrum."""
    if method.rank is not None and rank > method.rank:
        # A mode of the tail: its gain is a number, whatever the noise does to this mode.
        tail = method.tail_gain(lam)
        method = Method(gain=lambda x: 0 * x + tail)
    return exact_mode(method, curvature=lam, noise=Noise(curvature=tau)).mean_square_limit


def _one_step(flow: Flow, sample: Sample, level: str) -> np.ndarray:
    """The matrices (m, d, d) of one step around the reference point, by stepping each unit vector."""
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
