"""What a buffer of past gradients and a metric from the noise change: step limits, and a rotation."""

from __future__ import annotations

import math

import numpy as np
import scipy

from .._saving import Study, provenance
from ..ensembles.simulate import simulate
from ..flow import Flow
from ..linear.linearize import linearize
from ..linear.result import LinearFlow
from ..methods.method import SGD, Method, Newton
from ..methods.metrics import Adam
from ..methods.momentum import Momentum
from ..noise import Noise
from ..objectives.quadratic import quadratic
from ._common import Check, Report, agreement

BETAS = (0.0, 0.5, 0.9, 0.99)


def momentum_study(*, quick: bool = False, seed: int = 0, report: Report = lambda text: None) -> Study:
    """The largest mean-square-stable step with momentum, against the noise of a batch's curvature.

    One mode: the limit over that without momentum, in the plane (momentum, noise relative to the curvature).
    Streaming least squares on a spectrum: the limit by the batch, for heavy ball and Nesterov; the spectral
    radius of the sampled second-moment map beside it, by steps of real batches.
    """
    points, samples = (25, 20_000) if quick else (41, 100_000)
    betas, noises = 1 - np.geomspace(1.0, 0.01, points), np.geomspace(0.03, 10.0, points)
    report("momentum: one mode")
    plane = np.empty((len(noises), len(betas)))
    for i, noise in enumerate(noises):
        # A diagonal entry of this noise has twice the variance of one off the diagonal.
        flow = Flow(quadratic([1.0]), SGD(), Noise(curvature=noise / math.sqrt(2)), step=1.0)
        alone = linearize(flow).step_limit()
        for j, beta in enumerate(betas):
            plane[i, j] = linearize(flow).under(Momentum(SGD(), beta)).step_limit() / alone
    spectrum = 1 / np.arange(1.0, 5.0)
    batches = np.array([2.0**k for k in range(0, 15, 2 if quick else 1)])
    limits = np.empty((2, len(BETAS), len(batches)))
    for b, batch in enumerate(batches):
        report(f"momentum: batches of {batch:g}")
        point = linearize(Flow(quadratic(spectrum), SGD(), Noise.streaming(batch=batch), step=1.0))
        for kind in (0, 1):
            for k, beta in enumerate(BETAS):
                limits[kind, k, b] = point.under(Momentum(SGD(), beta, nesterov=bool(kind))).step_limit()
    asked = np.arange(0, len(batches), 2 if quick else 3)
    measured = np.empty((len(BETAS), len(asked)))
    for place, index in enumerate(asked):
        flow = Flow(quadratic(spectrum), SGD(), Noise.streaming(batch=batches[index]), step=1.0)
        drawn = flow.draw(samples, np.random.default_rng(seed), level="iteration")
        flat = drawn.Eg.reshape(samples, -1)
        spread = (flat.T @ flat / samples).reshape((len(spectrum),) * 4).transpose(0, 2, 1, 3)
        for k, beta in enumerate(BETAS):
            measured[k, place] = _measured_limit(spectrum, spread, beta)
    arrays = {"beta": betas, "noise": noises, "ratio": plane, "betas": np.array(BETAS), "batch": batches}
    arrays |= {"limit": limits, "measured_batch": batches[asked], "measured": measured}
    parameters = {"samples": samples, "seed": seed, "spectrum": spectrum.tolist()}
    return Study("momentum", arrays, parameters, provenance())


def _measured_limit(spectrum: np.ndarray, spread: np.ndarray, beta: float) -> float:
    """Where the second-moment map of heavy ball's state (w, u), with sampled E(Eg x Eg), has radius one."""
    d = len(spectrum)
    eye, H = np.eye(d), np.diag(spectrum)

    def beyond(step: float) -> float:
        mean = np.block([[eye - step * H, -step * beta * eye], [H, beta * eye]])
        adds = np.vstack([-step * eye, eye])  # what a batch's gradient does to (w, u)
        kicks = np.zeros((2 * d, 2 * d, 2 * d, 2 * d))
        kicks[:, :, :d, :d] = np.einsum("ai,bj,ijkl->abkl", adds, adds, spread)
        radius = np.kron(mean, mean) + kicks.reshape(4 * d * d, 4 * d * d)
        return float(np.max(np.abs(np.linalg.eigvals(radius)))) - 1

    top = 2 * (1 + beta) / spectrum[0]
    return float(scipy.optimize.brentq(beyond, 1e-4 * (1 - beta) * top, top, xtol=1e-6, rtol=1e-6))


def check_momentum(study: Study) -> list[Check]:
    """Momentum lengthens steps where noise is small; where it is large it wins nothing."""
    betas, batch, limit = study["betas"], study["batch"], study["limit"][0]
    noise, beta, ratio = study["noise"][:, None], study["beta"], study["ratio"]
    told = (noise**2 < (1 - beta) / (1 + beta)) == (ratio > 1)
    told |= np.abs(ratio - 1) < 1e-9
    apart = np.abs(np.log(study["measured"] / limit[:, np.isin(batch, study["measured_batch"])]))
    # A step of momentum counts 1 / (1 - beta) times: its gradient is used so often.
    whole = limit / (1 - betas[:, None]) / limit[0]
    return [
        Check(
            "one mode: momentum allows a longer step exactly where s^2 / h^2 < (1 - beta) / (1 + beta)",
            bool(told.all()),
            f"{told.mean():.4%} of {told.size} points",
        ),
        Check(
            "sampled second moments are marginal where theory says (within 5 %)",
            float(apart.max()) < 0.05,
            f"largest deviation of {apart.size}: {apart.max():.2%}",
        ),
        Check(
            "batches of one: beta = 0.9 allows a step about (1 - beta) times as long, so nothing is won",
            bool(1.0 <= whole[2, 0] < 1.5),
            f"step over that of SGD {limit[2, 0] / limit[0, 0]:.3g}, times 1 / (1 - beta) {whole[2, 0]:.3g}",
        ),
        Check(
            "large batches: 1 + beta times as long",
            bool(np.allclose(limit[:, -1] / limit[0, -1], 1 + betas, rtol=0.1)),
            ", ".join(
                f"beta = {b:g}: {x:.3g}" for b, x in zip(betas, limit[:, -1] / limit[0, -1], strict=True)
            ),
        ),
    ]


KAPPA, START = 100.0, 2.0
EXPONENTS = (0.0, 1.0, 2.0)


def metrics_study(*, quick: bool = False, seed: int = 0, report: Report = lambda text: None) -> Study:
    """A quadratic turned against its coordinates, in two dimensions: SGD does not see it, Adam does.

    The condition number of ``P H``, largest over smallest rate, by the angle and by the exponent g of the
    noise ``Sigma = H^g``; and the mean loss from a point on the flat axis, at equal fastest rate, aligned and
    at 45 degrees: theory, and real steps.
    """
    angles = np.linspace(0.0, 45.0, 16 if quick else 46)
    paths = 300 if quick else 2000
    names, fastest = ["SGD", "Adam", "Newton"], 0.02
    kappas = np.full((len(names), len(EXPONENTS), len(angles)), np.nan)
    for m, method in enumerate((SGD(), Adam(), Newton())):
        report(f"metrics: {method.name}")
        for g, exponent in enumerate(EXPONENTS):
            for a, angle in enumerate(angles):
                rates = np.abs(_turned(method, angle, exponent, 1e-3).rates)
                kappas[m, g, a] = rates.max() / rates.min()
    iterations = np.unique(np.geomspace(1, 6000, 40).round())
    marked = np.array([300.0, 1000.0, 3000.0])  # after the start of Adam's means, which are zero there
    shown = np.array([0.0, 45.0])
    curves = np.empty((2, len(shown), len(iterations)))
    measured = np.empty((2, len(shown), len(marked), 3))
    for m, method in enumerate((SGD(), Adam())):
        for a, angle in enumerate(shown):
            report(f"metrics: {method.name} at {angle:g} degrees")
            linear = _at_fastest(method, angle, fastest)
            flat = START * _axes(angle)[:, 1]
            curves[m, a] = [_loss(linear, flat, n) for n in iterations]
            measured[m, a] = _losses(linear, flat, marked, paths, seed)
    arrays = {"names": np.array(names), "angle": angles, "exponent": np.array(EXPONENTS), "kappa": kappas}
    arrays |= {
        "shown": shown,
        "iteration": iterations,
        "loss": curves,
        "marked": marked,
        "measured": measured,
    }
    parameters = {"kappa": KAPPA, "fastest": fastest, "paths": paths, "seed": seed}
    return Study("metrics", arrays, parameters, provenance())


def _axes(angle: float) -> np.ndarray:
    """The Hessian's eigenvectors as columns, the steepest first."""
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    return np.array([[c, -s], [s, c]])


def _turned(method: Method, angle: float, exponent: float, step: float) -> LinearFlow:
    Q = _axes(angle)
    H = (Q * np.array([1.0, 1.0 / KAPPA])) @ Q.T
    objective = quadratic(0.5 * (H + H.T))
    return linearize(Flow(objective, method, Noise.aligned(objective, exponent=exponent), step=step))


def _at_fastest(method: Method, angle: float, decay: float) -> LinearFlow:
    """At the step at which the fastest mode loses this share in an iteration."""
    linear = _turned(method, angle, 1.0, decay)
    for _ in range(4):  # a metric follows the iterates, and these the step
        linear = _turned(method, angle, 1.0, decay / float(np.max(np.abs(linear.rates))))
    return linear


def _loss(linear: LinearFlow, start: np.ndarray, iterations: float) -> float:
    """The mean loss after so many iterations, by linear theory."""
    mean, covariance = linear.moments(iterations * linear.flow.step, start, time="discrete")
    H = linear.flow.objective.hessian(linear.at)
    return 0.5 * float(np.sum(H * (covariance + np.outer(mean, mean))))


def _losses(linear: LinearFlow, start: np.ndarray, marked: np.ndarray, paths: int, seed: int) -> np.ndarray:
    """Mean losses of real steps (n, 3): measured, standard error, predicted."""
    step = linear.flow.step
    ens = simulate(
        linear.flow, start=start, t_end=marked[-1] * step, save=marked * step, paths=paths, seed=seed,
        level="iteration",
    )  # fmt: skip
    losses = linear.flow.objective.value(ens.states)
    error = losses.std(axis=1, ddof=1) / math.sqrt(paths)
    return np.stack([losses.mean(axis=1), error, [_loss(linear, start, n) for n in marked]], axis=-1)


def check_metrics(study: Study) -> list[Check]:
    """Turning the problem changes Adam's condition number, and no other's."""
    kappa, names = study["kappa"], list(study["names"])
    adam, still = kappa[names.index("Adam")], kappa[[names.index("SGD"), names.index("Newton")]]
    told = adam[:, 0] / KAPPA ** (1 - study["exponent"] / 2)
    turned = adam[:, -1] / KAPPA
    last = study["loss"][:, :, study["iteration"].searchsorted(1000)]
    return [
        Check(
            "SGD and Newton have one condition number at every angle",
            bool(np.allclose(still, still[..., :1], rtol=1e-6)),
            f"SGD {still[0, 1, 0]:.4g}, Newton {still[1, 1, 0]:.4g}",
        ),
        Check(
            "aligned, Adam has kappa^(1 - g/2) under noise H^g; at 45 degrees kappa (within 3 %)",
            bool(np.allclose([told, turned], 1.0, rtol=0.03)),
            f"{', '.join(f'{x:.3g}' for x in adam[:, 0])}; {', '.join(f'{x:.4g}' for x in adam[:, -1])}",
        ),
        Check(
            "after 1000 iterations Adam's loss is lower where axes are coordinates, not at 45 degrees",
            bool(last[1, 0] < 0.6 * last[0, 0] and last[1, 1] > 0.9 * last[0, 1]),
            f"over SGD's {last[1, 0] / last[0, 0]:.3g} aligned, {last[1, 1] / last[0, 1]:.3g} at 45 degrees",
        ),
        agreement("mean losses of real steps", study["measured"], True),
    ]
