"""Path by path: our Euler-Maruyama against sdeint on the same Brownian increments, and its strong order."""

import math
from collections.abc import Callable

import numpy as np
import pytest

import stability as st
from stability.noise import Sample

STEP, DT, STEPS, PATHS = 0.1, 0.04, 200, 3
NOISES = {
    "additive": st.Noise(gradient=0.6),
    "independent": st.Noise(gradient=0.3, curvature=0.1, batch=2, hessian_batch=1),
    "nested": st.Noise(gradient=0.3, curvature=0.1, batch=4, hessian_batch=2, coupling="nested"),
}


def problems() -> dict[str, tuple[st.Objective, int, np.ndarray]]:
    """Objective, rank, and starts (paths, d).

    The quadratic has a saddle direction, the double well starts where it is convex.
    """
    rng = np.random.default_rng(21)
    well = np.stack([rng.uniform(0.9, 1.5, PATHS), rng.uniform(-0.5, 0.5, PATHS)], axis=1)
    return {
        "quadratic": (
            st.quadratic([1.0, 0.6, -0.4, 0.25, 0.15], rotation_seed=5),
            2,
            rng.standard_normal((PATHS, 5)),
        ),
        "double well": (st.landscape("double_well"), 1, well),
    }


def methods(rank: int) -> dict[str, st.Method]:
    return {
        "SGD": st.SGD(),
        "Newton": st.Newton(),
        "damped Newton": st.DampedNewton(damping=0.1),
        "SFN": st.SFN(damping=0.1),
        "LRSFN": st.LRSFN(rank=rank, damping=0.1),
        "LRSFN, flat tail": st.LRSFN(rank=rank, damping=0.1, tail="flat"),
    }


def clearance(flow: st.Flow, path: np.ndarray) -> float:
    """How near, in curvature, a path (times, d) comes to a pole or kink of its gain or to a swap of ranks."""
    lams, method = np.linalg.eigvalsh(flow.objective.hessian(path)), flow.method
    if isinstance(method, st.SGD):
        return np.inf
    nearest = np.abs(lams + (method.damping if isinstance(method, st.DampedNewton) else 0.0)).min()
    if method.rank is not None:
        sizes = -np.sort(-np.abs(lams), axis=-1)
        nearest = min(nearest, (sizes[:, method.rank - 1] - sizes[:, method.rank]).min())
    return nearest


def combine(factors: Sample, coordinates: np.ndarray) -> Sample:
    """The noise samples (m, ...) with the given coordinates (m, K) along the noise's factors."""
    return Sample(*(np.tensordot(coordinates, part, axes=1) for part in factors))


def euler_paths(flow: st.Flow, factors: Sample, starts: np.ndarray, dW: np.ndarray, dt: float) -> np.ndarray:
    """Our Euler-Maruyama on given increments (times, paths, K): (times + 1, paths, d)."""
    path = [starts]
    for increment in dW:
        path.append(flow.euler(path[-1], combine(factors, increment / np.sqrt(dt)), dt))
    return np.stack(path)


@pytest.fixture(scope="module")
def comparisons() -> Callable[[str, str, str], tuple[np.ndarray, np.ndarray]]:
    """Clearance and largest relative difference (paths,) of a problem, noise and method, each found once."""
    sdeint, cache = pytest.importorskip("sdeint"), {}

    def run(problem: str, noise: str, method: str) -> tuple[np.ndarray, np.ndarray]:
        objective, rank, starts = problems()[problem]
        flow = st.Flow(objective, methods(rank)[method], NOISES[noise], step=STEP)
        factors = NOISES[noise].factors(np.zeros(flow.dim))
        count = len(factors.zeta)
        dW = np.sqrt(DT) * np.random.default_rng(22).standard_normal((STEPS, PATHS, count))

        def G(w: np.ndarray, t: float) -> np.ndarray:
            return np.sqrt(STEP) * flow.noise(np.broadcast_to(w, (count, flow.dim)), factors).T

        times = DT * np.arange(STEPS + 1)
        ours = euler_paths(flow, factors, starts, dW, DT)
        theirs = np.stack(
            [
                sdeint.itoEuler(lambda w, t: flow.drift(w), G, start, times, dW=dW[:, k])
                for k, start in enumerate(starts)
            ],
            axis=1,
        )
        clear = np.array([clearance(flow, ours[:, k]) for k in range(PATHS)])
        return clear, np.max(np.linalg.norm(ours - theirs, axis=-1) / np.linalg.norm(theirs, axis=-1), axis=0)

    def cached(*key: str) -> tuple[np.ndarray, np.ndarray]:
        if key not in cache:
            cache[key] = run(*key)
        return cache[key]

    return cached


@pytest.mark.slow
@pytest.mark.parametrize("method", methods(1))
@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("problem", problems())
def test_euler_maruyama_equals_sdeint_on_the_same_increments(comparisons, problem, noise, method):
    clear, difference = comparisons(problem, noise, method)
    kept = clear > 1e-3
    assert kept.sum() >= PATHS - 1
    assert difference[kept].max() < 1e-12


@pytest.mark.slow
def test_hardly_any_path_comes_near_a_singular_or_rank_swapping_surface(comparisons):
    clear = [
        comparisons(problem, noise, method)[0]
        for problem in problems()
        for noise in NOISES
        for method in methods(1)
    ]
    assert np.sum(np.array(clear) <= 1e-3) <= 2
    assert np.min(clear) < 0.1  # and the paths are not all harmless either


# -- strong order: against sdeint's SRI2, of strong order 1 in general, at a much smaller step -----
#
# The reference integrates literal formulas of the SDE: drift and noise map are checked with the order.

FINE, COARSE = 256, np.array([8, 16, 32, 64])


def order(steps: np.ndarray, errors: np.ndarray) -> float:
    return -np.polyfit(np.log(steps), np.log(errors), 1)[0]


def coarser(increments: np.ndarray, steps: int) -> np.ndarray:
    """The same Brownian paths (fine steps, paths, K) seen in fewer steps."""
    return increments.reshape(steps, -1, *increments.shape[1:]).sum(axis=1)


def strong_errors(
    flow: st.Flow, drift: Callable, columns: list[Callable], start: np.ndarray, t_end: float, paths: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """SRI2 minus ours at `t_end` for each of `COARSE` (4, paths, d), and what it is made from.

    The reference (times, paths, d), its increments and iterated integrals.
    """
    sdeint, rng, h = pytest.importorskip("sdeint"), np.random.default_rng(23), t_end / FINE
    dW = math.sqrt(h) * rng.standard_normal((FINE, paths, len(columns)))
    areas = np.stack([sdeint.Ikpw(dW[:, k], h, generator=rng)[1] for k in range(paths)], axis=1)
    times = h * np.arange(FINE + 1)
    reference = np.stack(
        [sdeint.itoSRI2(drift, columns, start, times, dW=dW[:, k], I=areas[:, k]) for k in range(paths)],
        axis=1,
    )
    factors = flow.noise_model.factors(start)
    ends = [
        euler_paths(flow, factors, np.tile(start, (paths, 1)), coarser(dW, n), t_end / n)[-1] for n in COARSE
    ]
    return reference[-1] - ends, reference, dW, areas


def size(difference: np.ndarray) -> np.ndarray:
    """Root mean square over paths: (..., paths, d) -> (...)."""
    return np.sqrt(np.mean(np.sum(difference**2, axis=-1), axis=-1))


@pytest.mark.slow
def test_with_additive_noise_the_strong_order_is_one():
    """SGD on the coupled quartic, two dimensions: constant noise, so no iterated integral enters."""

    def drift(w, t):
        return -np.array([w[0] ** 3 - w[0] + 0.5 * w[0] * w[1] ** 2, 0.5 * (1 + w[0] ** 2) * w[1]])

    step, sigma = 0.5, 0.3
    columns = [lambda w, t, e=e: math.sqrt(step) * sigma * e for e in np.eye(2)]
    flow = st.Flow(st.landscape("coupled_quartic"), st.SGD(), st.Noise(gradient=sigma), step=step)
    errors = size(strong_errors(flow, drift, columns, np.array([1.0, 0.5]), 1.0, 48)[0])
    assert order(COARSE, errors) == pytest.approx(1.0, abs=0.1)


class Slope:
    """SFN on logistic regression with one weight, literally: gradient, gain, the SDE's noise columns."""

    l2, damping, sigma, tau, step = 0.05, 0.3, 1.0, 0.6, 0.25

    def __init__(self, curvature: bool):
        self.F = st.logistic(np.full((4, 1), 2.0), [1.0, 1.0, 1.0, 0.0], l2=self.l2)
        self.reference = float(self.F.reference[0])
        self.columns = (
            [self.gradient_noise, self.gradient_curvature, self.hessian_curvature]
            if curvature
            else [self.gradient_noise]
        )
        noise = st.Noise(gradient=self.sigma, curvature=self.tau if curvature else 0.0)
        self.flow = st.Flow(self.F, st.SFN(damping=self.damping), noise, step=self.step)

    def local(self, w: np.ndarray) -> tuple[float, float]:
        p = 1 / (1 + math.exp(-2 * w[0]))
        return 2 * (p - 0.75) + self.l2 * w[0], 1 / (4 * p * (1 - p) + self.l2 + self.damping)

    def drift(self, w, t):
        gradient, gain = self.local(w)
        return np.array([-gain * gradient])

    def gradient_noise(self, w, t=0.0):
        return np.array([math.sqrt(self.step) * self.local(w)[1] * self.sigma])

    def gradient_curvature(self, w, t=0.0):
        return np.array([math.sqrt(2 * self.step) * self.tau * self.local(w)[1] * (w[0] - self.reference)])

    def hessian_curvature(self, w, t=0.0):
        gradient, gain = self.local(w)
        return np.array([-math.sqrt(2 * self.step) * self.tau * gain**2 * gradient])

    def left_out(self, reference: np.ndarray, dW: np.ndarray, areas: np.ndarray, steps: int) -> np.ndarray:
        """What Euler-Maruyama leaves out first, ``sum_ij g_j' g_i I_ij`` over a path's steps, (paths,)."""
        W = np.cumsum(dW.reshape(steps, -1, *dW.shape[1:]), axis=1)
        before = np.concatenate([np.zeros_like(W[:, :1]), W[:, :-1]], axis=1).reshape(dW.shape)
        inside = (
            before[..., :, None] * dW[..., None, :] + areas
        )  # I_ij of the coarse steps, from the fine ones
        integrals, e = coarser(inside, steps), np.array([1e-5])
        total = np.zeros(dW.shape[1])
        for n, states in enumerate(reference[:: FINE // steps][:-1]):
            for k, w in enumerate(states):
                values = [g(w)[0] for g in self.columns]
                slopes = [(g(w + e)[0] - g(w - e)[0]) / (2 * e[0]) for g in self.columns]
                total[k] += values @ integrals[n, k] @ slopes
        return total


@pytest.mark.slow
@pytest.mark.parametrize("curvature", [False, True], ids=["one noise", "three noises that do not commute"])
def test_with_multiplicative_noise_the_error_is_the_missing_iterated_integral(curvature):
    """One dimension, where gradient noise alone is multiplicative through ``P(H(w))``.

    With curvature noise sdeint supplies the Levy areas.

    Path by path: the time is so short that an error is hardly changed once made; what remains is of relative
    order sqrt(dt).
    """
    case, t_end = Slope(curvature), 1 / 32
    errors, *reference = strong_errors(
        case.flow, case.drift, case.columns, np.array([1.0]), t_end, 80 if curvature else 160
    )
    remainder = errors[-1, :, 0] - case.left_out(*reference, COARSE[-1])
    assert size(remainder[:, None]) < 0.3 * size(errors[-1])
    if not curvature:  # three noises have rare large errors: their order is measured below, on more paths
        assert order(COARSE, size(errors)) == pytest.approx(0.5, abs=0.1)


@pytest.mark.slow
def test_with_hessian_noise_the_strong_order_is_one_half_against_the_exact_solution():
    """SFN on one mode, both curvatures from the same batch: geometric Brownian motion.

    Its noise is ``(phi + phi' lam) E w``.
    """
    lam, damping, step, tau, paths = 0.1, 0.1, 0.5, 0.4, 4000
    noise = st.Noise(curvature=tau, coupling="nested")
    flow = st.Flow(st.quadratic([lam]), st.SFN(damping=damping), noise, step=step)
    rate, strength = lam / (lam + damping), math.sqrt(2 * step) * tau * damping / (lam + damping) ** 2
    steps = 2 ** np.arange(5, 11)
    dW = np.random.default_rng(24).standard_normal((steps[-1], paths, 1)) / math.sqrt(steps[-1])
    exact = np.exp(-rate - 0.5 * strength**2 + strength * dW.sum(axis=0))
    factors = Sample(np.zeros((1, 1)), *(np.full((1, 1, 1), math.sqrt(2) * tau) for _ in range(2)))
    errors = [
        np.sqrt(
            np.mean((euler_paths(flow, factors, np.ones((paths, 1)), coarser(dW, n), 1 / n)[-1] - exact) ** 2)
        )
        for n in steps
    ]
    assert order(steps, errors) == pytest.approx(0.5, abs=0.1)
