"""How far the iteration is from its SDE: first order in the step, and a bias of Hessian noise.

The bias is ``E P(H + Eh) - P(H)``.
"""

import itertools
import math

import numpy as np
import pytest
import scipy.integrate

import stability as st
from stability.noise import Sample

SUBSTEPS = 16  # the SDE at dt = step / 16
STEPS = np.array([0.2, 0.1, 0.05, 0.025])


def order(sizes: np.ndarray, gaps: np.ndarray) -> float:
    return np.polyfit(np.log(sizes), np.log(np.abs(gaps)), 1)[0]


def coupled(
    flow: st.Flow, start: np.ndarray, t_end: float, paths: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The SDE and the iteration at `t_end`, (paths, d) each, on the same noise.

    One iteration's noise is the sum of its substeps' increments; its sign turns, since the step is ``-step *
    P (g + zeta)``.
    """
    rng = np.random.default_rng(seed)
    sde = np.tile(start, (paths, 1))
    iteration = sde.copy()
    for _ in range(round(t_end / flow.step)):
        total = [0.0, 0.0, 0.0]
        for _ in range(SUBSTEPS):
            sample = flow.noise_model.sample(start, paths, rng)
            sde = flow.euler(sde, sample, flow.step / SUBSTEPS)
            total = [a + b for a, b in zip(total, sample, strict=True)]
        iteration = flow.update(iteration, Sample(*(-part / math.sqrt(SUBSTEPS) for part in total)))
    return sde, iteration


def mean_and_error(sample: np.ndarray) -> tuple[float, float]:
    return sample.mean(), sample.std(ddof=1) / math.sqrt(len(sample))


# -- without Hessian noise: weak order one ---------------------------------------------------------

SIGMA = [[1.0, 0.3, 0.0], [0.3, 0.5, 0.1], [0.0, 0.1, 0.4]]
ADDITIVE, CURVED = st.Noise(gradient=SIGMA), st.Noise(gradient=0.5, curvature=0.3, hessian_batch=np.inf)
METHODS = [
    st.SGD(),
    st.Newton(),
    st.DampedNewton(damping=0.5),
    st.SFN(damping=0.5),
    st.LRSFN(rank=1, damping=0.5),
]
both_noises = pytest.mark.parametrize(
    "noise", [ADDITIVE, CURVED], ids=["additive", "gradient-batch curvature"]
)
all_methods = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)


def exact_gaps(method: st.Method, noise: st.Noise, what: str, steps: np.ndarray) -> list[float]:
    """Iteration minus SDE on a rotated quadratic, by the exact moments of both."""
    gaps = []
    for step in steps:
        linear = st.linearize(
            st.Flow(st.quadratic([1.0, 0.6, 0.3], rotation_seed=2), method, noise, step=step)
        )
        if what == "stationary":
            discrete, chain = linear.covariance("discrete"), linear.covariance("chain", step / SUBSTEPS)
        else:
            start = [1.0, -0.5, 0.7]
            (m, discrete), (n, chain) = (
                linear.moments(1.0, start),
                linear.moments(1.0, start, time="chain", dt=step / SUBSTEPS),
            )
            if what == "second moment":
                discrete, chain = discrete + np.outer(m, m), chain + np.outer(n, n)
        # Covariances are themselves of the order of the step: their gap is relative to them.
        gaps.append(
            np.linalg.norm(discrete - chain) / (1.0 if what == "second moment" else np.linalg.norm(chain))
        )
    return gaps


@both_noises
@all_methods
@pytest.mark.parametrize("what", ["second moment", "covariance", "stationary"])
def test_on_a_quadratic_the_gap_halves_with_the_step(method, noise, what):
    steps = STEPS / 8
    gaps = exact_gaps(method, noise, what, steps)
    assert order(steps, gaps) == pytest.approx(1.0, abs=0.15)
    assert min(gaps) > 1e-4


@both_noises
@pytest.mark.parametrize("method", [st.SGD(), st.SFN(damping=0.5)], ids=lambda method: method.name)
def test_the_simulated_gap_on_a_quadratic_is_the_exact_one(method, noise):
    step, start = 0.2, np.array([2.0, 2.0, 2.0])
    flow = st.Flow(st.quadratic([1.0, 0.6, 0.3], rotation_seed=2), method, noise, step=step)
    sde, iteration = coupled(flow, start, 1.0, 8000, seed=5)
    gap, error = mean_and_error(np.sum(iteration**2, axis=1) - np.sum(sde**2, axis=1))
    linear = st.linearize(flow)
    (m, discrete), (n, chain) = (
        linear.moments(1.0, start),
        linear.moments(1.0, start, time="chain", dt=step / SUBSTEPS),
    )
    expected = np.trace(discrete - chain) + m @ m - n @ n
    assert abs(gap - expected) < 4 * error
    assert abs(expected) > 10 * error


@pytest.mark.parametrize("curvature", [0.0, 0.3])
@pytest.mark.parametrize("method", [st.SGD(), st.SFN(damping=0.5)], ids=lambda method: method.name)
@pytest.mark.parametrize(("name", "start"), [("coupled_quartic", [1.5, 0.8]), ("double_well", [1.6])])
def test_on_a_nonlinear_landscape_the_gap_halves_with_the_step(name, start, method, curvature):
    objective, gaps = st.landscape(name, dim=len(start)), []
    noise = st.Noise(gradient=0.4, curvature=curvature, hessian_batch=np.inf, reference=np.eye(len(start))[0])
    for step in STEPS:
        sde, iteration = coupled(
            st.Flow(objective, method, noise, step=step), np.array(start), 1.0, 400, seed=6
        )
        gap, error = mean_and_error(np.sum(iteration**2, axis=1) - np.sum(sde**2, axis=1))
        assert error < 0.03 * abs(gap)
        gaps.append(gap)
    assert order(STEPS, gaps) == pytest.approx(1.0, abs=0.15)


def test_the_noise_driven_variance_around_a_nonlinear_minimum_differs_at_relative_order_one():
    """Started at the minimum of the double well there is no deterministic gap to hide behind."""
    gaps = []
    for step in STEPS:
        flow = st.Flow(
            st.landscape("double_well", dim=1), st.SFN(damping=0.5), st.Noise(gradient=0.4), step=step
        )
        sde, iteration = coupled(flow, np.array([1.0]), 2.0, 3000, seed=7)
        gap, _ = mean_and_error(np.sum((iteration - 1) ** 2, axis=1) - np.sum((sde - 1) ** 2, axis=1))
        gaps.append(gap / np.mean((sde - 1) ** 2))
    assert order(STEPS, gaps) == pytest.approx(1.0, abs=0.15)


# -- with Hessian noise: the bias E P(H + Eh) - P(H) -----------------------------------------------

LAM, GAMMA = 0.5, 0.2


def mean_gain(spread: float, lam: float = LAM) -> float:
    """``E phi(lam + E)`` of SFN for Gaussian E, by quadrature on both sides of the kink."""

    def integrand(e):
        return math.exp(-0.5 * (e / spread) ** 2) / (math.sqrt(2 * math.pi) * spread * (abs(lam + e) + GAMMA))

    pieces = [-12 * spread, max(-lam, -12 * spread), 0.0, 12 * spread]
    return sum(
        scipy.integrate.quad(integrand, a, b, epsabs=1e-14, epsrel=1e-12)[0]
        for a, b in itertools.pairwise(pieces)
        if b > a
    )


def scalar_flow(spread: float, step: float) -> st.Flow:
    """SFN on one mode with Hessian noise of this standard deviation (the GOE diagonal's is 2 tau^2)."""
    return st.Flow(
        st.quadratic([LAM]), st.SFN(damping=GAMMA), st.Noise(curvature=spread / math.sqrt(2)), step=step
    )


@pytest.mark.parametrize("spread", [0.05, 0.15, 0.4])
def test_the_iterations_mean_drift_is_that_of_the_mean_preconditioner(spread):
    flow = scalar_flow(spread, 0.1)
    sample = flow.noise_model.sample(np.zeros(1), 200_000, np.random.default_rng(8))
    drift = (flow.update(np.ones((len(sample.zeta), 1)), sample)[:, 0] - 1) / flow.step
    mean, error = mean_and_error(drift)
    assert abs(mean + mean_gain(spread) * LAM) < 4 * error


def extrapolated_gap(spread: float, steps: np.ndarray, paths: int) -> tuple[float, float, list[float]]:
    """Mean of iteration minus SDE at t = 1 as the step tends to zero, its error, and the gaps themselves.

    By two terms of Richardson.
    """
    ends = [
        coupled(scalar_flow(spread, step), np.ones(1), 1.0, paths, seed=9 + k) for k, step in enumerate(steps)
    ]
    gaps, errors = zip(*(mean_and_error((iteration - sde)[:, 0]) for sde, iteration in ends), strict=True)
    weights = np.array([1 / 3, -2.0, 8 / 3])  # removes the first and second order of steps h, h / 2, h / 4
    return float(weights @ gaps), float(np.linalg.norm(weights * errors)), list(gaps)


def test_with_hessian_noise_the_gap_tends_to_the_bias_and_not_to_zero():
    spread = 0.15
    limit, error, gaps = extrapolated_gap(spread, STEPS[:3], 8000)
    gain = 1 / (LAM + GAMMA)
    bias = math.exp(-LAM * mean_gain(spread)) - math.exp(-LAM * gain)
    assert abs(limit - bias) < 4 * error
    assert abs(bias) > 10 * error
    # Halving the step halves the distance from the bias, not from zero.
    assert order(STEPS[:3], np.array(gaps) - bias) == pytest.approx(1.0, abs=0.15)


def test_level_L2_holds_the_bias_up_to_the_fourth_power_of_the_noise():
    spreads, start, step = np.array([0.08, 0.04, 0.02]), [1.0], 0.1
    remainders, biases = [], []
    for spread in spreads:
        linear = st.linearize(scalar_flow(spread, step))
        second = -(linear.moments(step, start, order=2)[0][0] - 1) / (step * LAM)
        first = -(linear.moments(step, start, order=1)[0][0] - 1) / (step * LAM)
        remainders.append(second - mean_gain(spread))
        biases.append(first - mean_gain(spread))
    assert order(spreads, biases) == pytest.approx(2.0, abs=0.15)
    assert order(spreads, remainders) == pytest.approx(4.0, abs=0.15)


@pytest.mark.parametrize("coupling", ["independent", "nested"])
@pytest.mark.parametrize(
    "method",
    [
        st.DampedNewton(damping=GAMMA),
        st.SFN(damping=GAMMA),
        st.LRSFN(rank=1, damping=GAMMA),
        st.LRSFN(rank=1, damping=GAMMA, tail="flat"),
    ],
    ids=lambda method: method.label,
)
def test_the_drift_of_level_L2_is_the_iterations_mean_drift_by_brute_force(method, coupling):
    """On a rotated saddle; both signs of every draw, so that only the second order is left to average."""
    noise = st.Noise(curvature=0.006, batch=1, hessian_batch=1, coupling=coupling)
    flow = st.Flow(st.quadratic([1.0, -0.6, 0.3], rotation_seed=4), method, noise, step=0.1)
    linear = st.linearize(flow)
    drawn = noise.sample(np.zeros(3), 20_000, np.random.default_rng(10))
    for start in np.eye(3):
        w = np.tile(start, (len(drawn.zeta), 1))
        moved = 0.5 * (flow.update(w, drawn) + flow.update(w, Sample(*(-part for part in drawn))))
        shift = (moved - start) / flow.step - flow.drift(start)
        predicted = (
            linear.moments(flow.step, start, order=2)[0] - linear.moments(flow.step, start, order=1)[0]
        ) / flow.step
        error = shift.std(axis=0, ddof=1) / math.sqrt(len(shift))
        z = (shift.mean(axis=0) - predicted) / error
        assert np.abs(z).max() < 4
        assert np.abs(predicted / error).max() > 20
