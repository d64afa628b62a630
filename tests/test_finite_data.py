"""Finite data and noise that does not commute: the linear theory against closed forms and brute force.

Closed forms of the literature; brute force over all minibatches.
"""

import itertools

import numpy as np
import pytest
import scipy.linalg

import stability as st

SAMPLES, DIM = 7, 3


def table(noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Inputs of unequal size, and targets that a linear model fits exactly (noise = 0) or not."""
    rng = np.random.default_rng(11)
    X = rng.standard_normal((SAMPLES, DIM)) * np.geomspace(0.4, 2.0, SAMPLES)[:, None]
    return X, X @ [1.0, -2.0, 0.5] + noise * rng.standard_normal(SAMPLES)


def minibatches(batch: int, replacement: bool) -> np.ndarray:
    """Every minibatch there is, each as likely as the others: index sets (m, batch)."""
    if replacement:
        return np.array(list(itertools.product(range(SAMPLES), repeat=batch)))
    return np.array(list(itertools.combinations(range(SAMPLES), batch)))


def ma_ying_limit(X: np.ndarray, p: float) -> float:
    """``2 / lambda_max(C^+ D)``, literally."""
    n, d = X.shape
    H, eye = X.T @ X / n, np.eye(d)
    C = 0.5 * (np.kron(H, eye) + np.kron(eye, H))
    D = (1 - p) * np.kron(H, H) + p / n * sum(np.kron(np.outer(x, x), np.outer(x, x)) for x in X)
    return 2 / np.max(np.linalg.eigvals(np.linalg.pinv(C) @ D).real)


def batch_hessians(X: np.ndarray, batch: int, replacement: bool) -> np.ndarray:
    rows = X[minibatches(batch, replacement)]
    return np.swapaxes(rows, 1, 2) @ rows / batch


def second_moment_radius(hessians: np.ndarray, step: float) -> float:
    """Spectral radius of ``M -> E[(I - step H_B) M (I - step H_B)]`` over all minibatches."""
    factors = np.eye(DIM) - step * hessians
    return np.max(np.abs(np.linalg.eigvals(np.mean([np.kron(B, B) for B in factors], axis=0))))


def sgd(X: np.ndarray, y: np.ndarray, batch: int, replacement: bool, step: float = 0.01) -> st.Flow:
    F = st.least_squares(X, y)
    return st.Flow(F, st.SGD(), st.Noise.from_data(F, None, batch, replacement=replacement), step=step)


CASES = [(b, False) for b in (1, 2, 3, 6, 7)] + [(b, True) for b in (1, 2, 4)]


@pytest.mark.parametrize(("batch", "replacement"), CASES)
def test_the_mean_square_limit_from_data_is_the_closed_form_of_ma_and_ying(batch, replacement):
    X, y = table(0.0)
    p = 1 / batch if replacement else (SAMPLES - batch) / (batch * (SAMPLES - 1))
    assert st.linearize(sgd(X, y, batch, replacement)).step_limit() == pytest.approx(
        ma_ying_limit(X, p), rel=1e-8
    )


@pytest.mark.parametrize(("batch", "replacement"), CASES)
def test_the_second_moment_over_all_minibatches_stops_contracting_exactly_at_that_limit(batch, replacement):
    X, y = table(0.0)
    limit = st.linearize(sgd(X, y, batch, replacement)).step_limit()
    hessians = batch_hessians(X, batch, replacement)
    below, at, above = (
        second_moment_radius(hessians, factor * limit) for factor in (1 - 1e-4, 1.0, 1 + 1e-4)
    )
    assert below < 1 - 1e-5
    assert at == pytest.approx(1, abs=1e-9)
    assert above > 1 + 1e-5


def test_the_limit_grows_with_the_batch_up_to_that_of_full_gradient_descent():
    X, y = table(0.0)
    limits = [st.linearize(sgd(X, y, batch, False)).step_limit() for batch in range(1, SAMPLES + 1)]
    assert (np.diff(limits) > 0).all()
    assert limits[-1] == pytest.approx(2 / np.linalg.norm(X.T @ X / SAMPLES, 2), rel=1e-12)
    assert limits[0] < 0.5 * limits[-1]


def test_a_larger_table_with_many_directions_has_the_same_closed_form():
    rng = np.random.default_rng(12)
    X = rng.standard_normal((60, 8)) @ np.diag(
        np.geomspace(1, 0.05, 8)
    )  # 36 second moments: the sparse eigensolver
    limit = st.linearize(sgd(X, X @ rng.standard_normal(8), 4, False)).step_limit()
    assert limit == pytest.approx(ma_ying_limit(X, 56 / (4 * 59)), rel=1e-8)


def brute_force_covariance(
    X: np.ndarray, y: np.ndarray, batch: int, replacement: bool, step: float
) -> np.ndarray:
    """Stationary covariance of SGD from all minibatches: ``M = E[B M B^T] + step^2 E[g_B g_B^T]``."""
    w, chosen = np.linalg.lstsq(X, y)[0], minibatches(batch, replacement)
    gradients = np.mean((X[chosen] @ w - y[chosen])[..., None] * X[chosen], axis=1)
    factors = np.eye(DIM) - step * batch_hessians(X, batch, replacement)
    contraction = np.mean([np.kron(B, B) for B in factors], axis=0)
    source = step**2 * gradients.T @ gradients / len(chosen)
    return np.linalg.solve(np.eye(DIM**2) - contraction, source.ravel()).reshape(DIM, DIM)


@pytest.mark.parametrize(("batch", "replacement"), [(1, False), (3, False), (2, True)])
def test_the_stationary_covariance_of_minibatch_sgd_on_least_squares_is_exact(batch, replacement):
    X, y = table(0.7)
    limit = st.linearize(sgd(X, y, batch, replacement)).step_limit()
    flow = sgd(X, y, batch, replacement, step=0.5 * limit)
    assert st.linearize(flow).covariance("discrete") == pytest.approx(
        brute_force_covariance(X, y, batch, replacement, flow.step), rel=1e-9
    )


# -- every method, real gradient and Hessian batches, linear in their noise ------------------------

GAMMA = 0.2


def literal(name: str, H: np.ndarray) -> np.ndarray:
    """``P(H)`` from its definition."""
    lam, Q = np.linalg.eigh(H)
    order = np.argsort(-np.abs(lam))
    lam, Q = lam[order], Q[:, order]
    gain = {"Newton": 1 / lam, "damped Newton": 1 / (lam + GAMMA)}.get(name, 1 / (np.abs(lam) + GAMMA))
    if name == "LRSFN":
        gain[1:] = 1 / GAMMA
    if name == "LRSFN, flat tail":
        gain[1:] = gain[1]
    return Q * gain @ Q.T


EVERY = {
    "Newton": st.Newton(),
    "damped Newton": st.DampedNewton(damping=GAMMA),
    "SFN": st.SFN(damping=GAMMA),
    "LRSFN": st.LRSFN(rank=1, damping=GAMMA),
    "LRSFN, flat tail": st.LRSFN(rank=1, damping=GAMMA, tail="flat"),
}


def linear_steps(name: str, X: np.ndarray, batch: int, hessian_batch: int, coupling: str) -> np.ndarray:
    """``P H + P Eg + DP[Eh] H`` for every pair of batches, (pairs, d, d); ``DP`` by central differences."""
    H, h = X.T @ X / SAMPLES, 1e-5
    P = literal(name, H)
    gradient, hessian = batch_hessians(X, batch, False) - H, batch_hessians(X, hessian_batch, False) - H
    slopes = np.array([literal(name, H + h * E) - literal(name, H - h * E) for E in hessian]) / (2 * h) @ H
    if coupling == "independent":
        pairs = itertools.product(range(len(gradient)), range(len(hessian)))
    else:
        sets, inside = (minibatches(size, False) for size in (batch, hessian_batch))
        pairs = [(i, j) for i, g in enumerate(sets) for j, other in enumerate(inside) if set(other) <= set(g)]
    return np.array([P @ H + P @ gradient[i] + slopes[j] for i, j in pairs])


@pytest.mark.parametrize(
    ("batch", "hessian_batch", "coupling"), [(2, 3, "independent"), (4, 2, "nested"), (3, 3, "nested")]
)
@pytest.mark.parametrize("name", EVERY)
def test_every_methods_mean_square_limit_is_that_of_all_pairs_of_minibatches_to_first_order(
    name, batch, hessian_batch, coupling
):
    X, y = table(0.0)
    F = st.least_squares(X, y)
    noise = st.Noise.from_data(F, None, batch, hessian_batch=hessian_batch, coupling=coupling)
    limit = st.linearize(st.Flow(F, EVERY[name], noise, step=0.01)).step_limit()
    factors = np.eye(DIM) - limit * linear_steps(name, X, batch, hessian_batch, coupling)
    radius = np.max(np.abs(np.linalg.eigvals(np.mean([np.kron(B, B) for B in factors], axis=0))))
    assert radius == pytest.approx(1, abs=1e-6)


# -- gradient noise that does not commute with the curvature ---------------------------------------

STEP, DAMPING = 0.3, 0.2
HESSIAN = st.quadratic([2.0, 0.9, 0.3, 0.05], rotation_seed=3).hessian(np.zeros(4))
ROOT = np.random.default_rng(4).standard_normal((4, 4))
SIGMA = ROOT @ ROOT.T


def projector(rank: int) -> np.ndarray:
    vectors = scipy.linalg.svd(HESSIAN)[0][:, :rank]
    return vectors @ vectors.T


def preconditioners() -> dict[str, tuple[st.Method, np.ndarray]]:
    """Each method with its ``P``, from matrix functions that know nothing of gains."""
    eye, kept = np.eye(4), projector(2)
    sfn = scipy.linalg.inv(scipy.linalg.sqrtm(HESSIAN @ HESSIAN).real + DAMPING * eye)
    return {
        "SGD": (st.SGD(), eye),
        "Newton": (st.Newton(), scipy.linalg.inv(HESSIAN)),
        "damped Newton": (st.DampedNewton(damping=DAMPING), scipy.linalg.inv(HESSIAN + DAMPING * eye)),
        "SFN": (st.SFN(damping=DAMPING), sfn),
        "LRSFN": (st.LRSFN(rank=2, damping=DAMPING), kept @ sfn + (eye - kept) / DAMPING),
        "LRSFN, flat tail": (
            st.LRSFN(rank=2, damping=DAMPING, tail="flat"),
            kept @ sfn + (eye - kept) / (0.3 + DAMPING),
        ),
    }


@pytest.fixture(params=preconditioners())
def preconditioned(request) -> tuple[st.results.LinearFlow, np.ndarray]:
    method, P = preconditioners()[request.param]
    flow = st.Flow(st.quadratic(HESSIAN), method, st.Noise(gradient=SIGMA, batch=2), step=STEP)
    return st.linearize(flow), P


def test_the_noise_of_these_tests_does_not_commute_with_the_curvature():
    assert np.linalg.norm(HESSIAN @ SIGMA - SIGMA @ HESSIAN) > 0.5 * np.linalg.norm(HESSIAN @ SIGMA)


def test_the_continuous_covariance_solves_the_lyapunov_equation_of_mandt_hoffman_and_blei(preconditioned):
    linear, P = preconditioned
    expected = scipy.linalg.solve_continuous_lyapunov(P @ HESSIAN, STEP * P @ (SIGMA / 2) @ P.T)
    assert linear.covariance("continuous") == pytest.approx(
        expected, rel=1e-10, abs=1e-12 * np.abs(expected).max()
    )


def test_the_discrete_covariance_solves_the_equation_of_liu_ziyin_and_ueda(preconditioned):
    """``A S + S A^T - step A S A^T = step P Sigma P``, solved as one linear system."""
    linear, P = preconditioned
    A, eye = P @ HESSIAN, np.eye(4)
    system = np.kron(A, eye) + np.kron(eye, A) - STEP * np.kron(A, A)
    expected = np.linalg.solve(system, (STEP * P @ (SIGMA / 2) @ P.T).ravel()).reshape(4, 4)
    assert linear.covariance("discrete") == pytest.approx(
        expected, rel=1e-10, abs=1e-12 * np.abs(expected).max()
    )


def test_the_chain_with_half_the_time_step_lies_between_the_two(preconditioned):
    linear, P = preconditioned
    A = P @ HESSIAN
    S, dt = linear.covariance("chain", 0.5 * STEP), 0.5 * STEP
    assert A @ S + S @ A.T - dt * A @ S @ A.T == pytest.approx(
        STEP * P @ (SIGMA / 2) @ P.T, rel=1e-9, abs=1e-11
    )
    assert np.trace(linear.covariance("continuous")) < np.trace(S) < np.trace(linear.covariance("discrete"))
