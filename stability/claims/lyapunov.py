"""Almost-sure against mean-square stability: where paths contract and second moments explode."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._saving import Study, provenance
from ..exact.mode import exact_mode
from ..flow import Flow
from ..linear.linearize import linearize
from ..lyapunov.limit import top_exponents
from ..methods.method import SFN, SGD, DampedNewton, Method, Newton
from ..noise import Noise, Sample
from ..objectives.quadratic import quadratic
from ._common import Check, Report, method_names, worst

SPECTRUM = (1.0, 0.1)
LINE = 0.3
"""The curvature of the one mode on which exponents are held against quadrature."""


def lyapunov_study(*, quick: bool = False, seed: int = 0, report: Report = lambda text: None) -> Study:
    """Two modes in the plane (step, curvature noise): where paths contract, where their second moment does.

    The iteration's top exponent, with the same random numbers at every step; the mean-square limit of the
    linearised chain from theory, and that of the iteration from a measured second-moment map (none where the
    gain has a pole). And one mode, against quadrature.
    """
    damping = 0.1
    points, products, iterations, samples = (13, 60, 120, 4000) if quick else (29, 150, 250, 40_000)
    size: dict[str, Any] = {"iterations": iterations, "products": products}
    compared: list[Method] = [SGD(), Newton(), DampedNewton(damping=damping), SFN(damping=damping)]
    steps, taus = np.geomspace(0.03, 6.0, 2 * points - 1), np.geomspace(3e-3, 1.0, points)
    shape = (len(compared), len(taus))
    exponent, error = np.full((2, *shape, len(steps)), np.nan)
    linear, square = np.full((2, *shape), np.nan)
    line_taus, line_steps = np.geomspace(0.02, 0.5, 4), np.array([0.2, 0.5, 1.0])
    line = np.full((len(compared), len(line_taus), len(line_steps), 3), np.nan)
    for m, method in enumerate(compared):
        report(f"almost-sure stability, {method.name}")
        for i, tau in enumerate(taus):
            flow = Flow(quadratic(SPECTRUM), method, Noise(curvature=tau), step=0.5)
            exponent[m, i], error[m, i] = top_exponents(flow, steps, seed=seed, **size)
            linear[m, i], square[m, i] = linearize(flow).step_limit(), _mean_square_limit(flow, samples, seed)
        for i, tau in enumerate(line_taus):
            noise = Noise(curvature=tau)
            flow = Flow(quadratic([LINE]), method, noise, step=0.5)
            measured = top_exponents(flow, line_steps, seed=seed + 1, **size)
            exact = exact_mode(method, curvature=LINE, noise=noise)
            line[m, i] = np.stack([*measured, [exact.lyapunov(step).value for step in line_steps]], axis=-1)
    arrays = {
        "methods": method_names(compared),
        "step": steps,
        "tau": taus,
        "exponent": exponent,
        "error": error,
        "linear_limit": linear,
    }
    arrays |= {"square_limit": square, "line_tau": line_taus, "line_step": line_steps, "line": line}
    parameters = {
        "spectrum": list(SPECTRUM),
        "damping": damping,
        "line": LINE,
        "products": products,
        "iterations": iterations,
        "seed": seed,
    }
    return Study("lyapunov", arrays, parameters, provenance())


def _mean_square_limit(flow: Flow, samples: int, seed: int) -> float:
    """The least step at which the iteration's measured second-moment map has radius one; 0 where infinite."""
    noise = flow.noise_model
    # Infinite at one step is infinite at all of them: X itself then has no second moment.
    if exact_mode(flow.method, curvature=SPECTRUM[0], noise=noise).moment(2, 0.5).reason:
        return 0.0
    X = _step_rates(flow, samples, seed)
    one, mean = np.eye(flow.dim), X.mean(axis=0)
    turn = np.kron(mean, one) + np.kron(one, mean)
    square = np.einsum("kij,klm->iljm", X, X, optimize=True).reshape(2 * (flow.dim**2,)) / samples
    # E[B (x) B] = I - s turn + s^2 square, and a positive map reaches radius one first where turn and s
    # square balance.
    balance = np.linalg.eigvals(np.linalg.solve(turn, square))
    return float(1 / np.max(np.abs(balance)))


def _step_rates(flow: Flow, samples: int, seed: int) -> np.ndarray:
    """Draws (samples, d, d) of ``X`` in ``w+ = w - step X w``, both signs of each, by the flow."""
    half = flow.draw(samples // 2, np.random.default_rng(seed), level="iteration")
    assert isinstance(half, Sample)
    # Odd moments of the drawn noise are then exactly zero, as those of its law are.
    sample = Sample(*(np.concatenate([part, -part]) for part in half))
    ahead = [flow.update(np.broadcast_to(e, (samples, flow.dim)), sample) for e in np.eye(flow.dim)]
    return (np.eye(flow.dim) - np.stack(ahead, axis=-1)) / flow.step


def check_lyapunov(study: Study) -> list[Check]:
    """Exponents agree with quadrature, a band lies between the limits, the linearised one is no bound."""
    names, steps = list(study["methods"]), study["step"]
    largest, count = worst(study["line"], np.array(True))
    surely = study["exponent"] < -3 * study["error"]
    inside = steps < 0.95 * study["square_limit"][..., None]
    band = surely & (steps > study["square_limit"][..., None])
    share = {name: band[m].mean() for m, name in enumerate(names)}
    poles = [m for m, name in enumerate(names) if name in ("Newton", "damped Newton")]
    said = (study["exponent"] > 3 * study["error"]) & (steps < study["linear_limit"][..., None])
    return [
        Check(
            "one mode's exponents agree with quadrature (|z| < 4.5)",
            largest < 4.5,
            f"largest |z| of {count}: {largest:.2f}",
        ),
        Check(
            "where the iteration's second moment contracts, so do its paths (steps within 5 % of the limit "
            "left out)",
            bool((study["exponent"] < 4 * study["error"])[inside].all()),
            f"{int(inside.sum())} points",
        ),
        Check(
            "every method has a band where paths contract and second moments explode; the poles of Newton's "
            "and damped Newton's gains leave them nothing else",
            bool(min(share.values()) > 0 and (study["square_limit"][poles] == 0).all()),
            ", ".join(f"{name} {value:.0%}" for name, value in share.items()) + " of the plane",
        ),
        Check(
            "under strong noise the linearised mean-square limit admits steps at which Newton's and damped "
            "Newton's paths diverge, and never SFN's or SGD's",
            bool(said[poles].any(axis=(1, 2)).all() and not np.delete(said, poles, axis=0).any()),
            "from tau = "
            + ", ".join(
                f"{study['tau'][said[m].any(axis=1)].min():.2g} ({names[m]})" for m in poles if said[m].any()
            ),
        ),
    ]
