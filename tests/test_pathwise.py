"""Path by path: our Euler-Maruyama against sdeint on the same Brownian increments, and its strong order."""

from collections.abc import Callable

import numpy as np
import pytest

import stability as st
from stability.noise import Sample

STEP, DT, STEPS, PATHS = 0.1, 0.04, 200, 6
NOISES = {
    "additive": st.Noise(gradient=0.6),
    "independent": st.Noise(gradient=0.6, curvature=0.3, batch=2, hessian_batch=1),
    "nested": st.Noise(gradient=0.6, curvature=0.3, batch=4, hessian_batch=2, coupling="nested"),
}


def problems() -> dict[str, tuple[st.Objective, int, np.ndarray]]:
    """Objective, rank, and starts (paths, d): the quadratic has a saddle direction, the double well starts where it is convex."""
    rng = np.random.default_rng(21)
    well = np.stack([rng.uniform(0.9, 1.5, PATHS), rng.uniform(-0.5, 0.5, PATHS)], axis=1)
    return {
        "quadratic": (st.quadratic([1.0, 0.6, -0.4, 0.25, 0.15], rotation_seed=5), 2, rng.standard_normal((PATHS, 5))),
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
    """Clearance and largest relative difference (paths,) of one problem, noise and method, each computed once."""
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
        theirs = np.stack([sdeint.itoEuler(lambda w, t: flow.drift(w), G, start, times, dW=dW[:, k]) for k, start in enumerate(starts)], axis=1)
        clear = np.array([clearance(flow, ours[:, k]) for k in range(PATHS)])
        return clear, np.max(np.linalg.norm(ours - theirs, axis=-1) / np.linalg.norm(theirs, axis=-1), axis=0)

    def cached(*key: str) -> tuple[np.ndarray, np.ndarray]:
        if key not in cache:
            cache[key] = run(*key)
        return cache[key]

    return cached


@pytest.mark.parametrize("method", methods(1))
@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("problem", problems())
def test_euler_maruyama_equals_sdeint_on_the_same_increments(comparisons, problem, noise, method):
    clear, difference = comparisons(problem, noise, method)
    kept = clear > 1e-3
    print(f"{problem} {noise} {method} clear {clear.min():.3g} kept {kept.sum()} diff {difference[kept].max():.2g}")
    assert kept.sum() >= PATHS - 1
    assert difference[kept].max() < 1e-12
