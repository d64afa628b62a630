"""What a run reports of its largest stable step, against dense algebra and against runs at that step."""

import dataclasses
import math

import numpy as np
import pytest

import stability as st
from stability.methods.memory import Memory
from stability.training.limits import SMALL, SPARE, Forecast
from stability.training.problem import Problem
from stability.training.rules import Curvature, DenseRule, LowRankRule

HOST = st.Backend("numpy", np)
N = 90
SPECTRA = {
    "whitened": np.linalg.svd(np.random.default_rng(0).standard_normal((2 * N, N)))[1] ** 2 / (2 * N),
    "slow": 1 / np.arange(1.0, N + 1),
    "outliers and a bulk": np.r_[50.0, 20.0, 10.0, np.linspace(0.01, 1, N - 3)],
    "indefinite": np.linspace(-3, 3, N),
    "clusters": np.r_[np.full(15, 3.0), np.full(15, 2.9), np.linspace(0, 1, N - 30)],
}


def refreshed(F, method, w, *, hessian_batch=None):
    """A direction rule that has seen the curvature of the first samples, or of all."""
    problem = Problem(F, HOST)
    rows = None if hessian_batch is None else np.arange(hessian_batch)
    made = (
        DenseRule(method, 1)
        if method.rank is None
        else LowRankRule(method, every=1, warm=True, margin=0.0, solver="block-krylov")
    )
    seen = Curvature(
        parts=[problem.products(w, rows)],
        dense=lambda: problem.hessian(w, rows),
        dim=problem.dim,
        gradient_batch=1,
        hessian_batch=hessian_batch or problem.samples,
        samples=problem.samples,
        backend=HOST,
        seed=0,
    )
    made.refresh(seen, 0)
    return problem, made


def metric(rule, dim):
    """``P`` (d, d), by what it makes of gradients."""
    return np.stack([rule.direction(e) for e in np.eye(dim)], axis=1)


@pytest.mark.parametrize("tail", ["flat", "damping"])
@pytest.mark.parametrize("name", SPECTRA)
def test_on_a_quadratic_it_is_below_the_true_one_and_near_it(name, tail):
    F = st.quadratic(SPECTRA[name], rotation_seed=1)
    w = np.ones(N)
    for options, beta, theta in (((20, 0.1), 0.0, 0.0), ((5, 1e-3), 0.9, 0.0), ((15, 1.0), 0.0, 0.2)):
        problem, rule = refreshed(F, st.LRSFN(rank=options[0], damping=options[1], tail=tail), w)
        memory = Memory(beta) if beta else None
        found = Forecast(problem, memory, theta, 0.0, 1, 0).at(w, rule.root())
        A = metric(rule, N) @ F.hessian(w) + theta * np.eye(N)
        true = 2 * (1 + beta) / np.linalg.eigvals(A).real.max()
        assert 0.9 * true < found.step <= true * (1 + 1e-9)


@pytest.mark.parametrize("tail", ["flat", "damping"])
def test_a_run_just_below_it_is_stable_where_ritz_values_allow_twice_as_much(tail):
    rng = np.random.default_rng(0)
    F = st.least_squares(rng.normal(size=(200, 100)), rng.normal(size=200))
    method = st.LRSFN(rank=12, damping=0.1, tail=tail)
    options = {"method": method, "batch": 200}
    limit = st.minimize(F, np.zeros(100), step=1e-6, iterations=5, **options).step_limits[-1]
    below, above = (
        st.minimize(F, np.zeros(100), step=factor * limit, iterations=200, refresh=10**6, **options)
        for factor in (0.97, 1.12)
    )
    assert below.done
    assert above.diverged


class Plain(st.Objective):
    """A regression that tells of single samples by their gradients and products alone."""

    def __init__(self, F):
        self.F, self.dim, self.n_samples = F, F.dim, F.n_samples

    def value(self, w, batch=None):
        return self.F.value(w, batch=batch)

    def gradient(self, w, batch=None):
        return self.F.gradient(w, batch=batch)

    def hvp(self, w, V, batch=None):
        return self.F.hvp(w, V, batch=batch)


def dense_limit(X, P, ridge, batch, beta=0.0, theta=0.0):
    """Of steps along ``P`` times gradients of batches, by the radius of the doubled map of moments."""
    n, d = X.shape
    Z, share = X @ np.linalg.cholesky(P), (n - batch) / (batch * (n - 1))
    H, middle = Z.T @ Z / n, np.linalg.cholesky(P).T @ np.linalg.cholesky(P)
    noise = np.einsum("si,sj,sk,sl->ikjl", Z, Z, Z, Z).reshape(d * d, d * d) / n - np.kron(H, H)
    H = H + ridge * middle

    def radius(step):
        eye = np.eye(d)
        B = np.block([[(1 - step * theta) * eye - step * H, -step * beta * eye], [H, beta * eye]])
        into = np.kron([[-step], [1.0]], eye)
        out = np.kron([[1.0, 0.0]], eye)
        whole = np.kron(B, B) + share * np.kron(into, into) @ noise @ np.kron(out, out)
        return np.abs(np.linalg.eigvals(whole)).max()

    low, high = 0.0, 2 * (1 + beta) / np.linalg.eigvalsh(H).max()
    for _ in range(22):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if radius(middle) < 1 else (low, middle)
    return low


@pytest.mark.parametrize(
    ("beta", "theta", "tail"),
    [(0.0, 0.0, "flat"), (0.0, 0.0, "damping"), (0.7, 0.0, "flat"), (0.0, 0.1, "flat")],
)
@pytest.mark.parametrize("factors", [True, False])
@pytest.mark.parametrize("kind", ["Gaussian", "few samples carry a column"])
def test_batch_noise_lowers_it_as_the_dense_map_says(kind, beta, theta, tail, factors):
    rng = np.random.default_rng(1)
    X = rng.standard_normal((150, 6)) / np.sqrt(np.arange(1, 7))
    if kind != "Gaussian":
        X[:, 4] = 8.0 * (rng.random(150) < 0.03)
    F = st.least_squares(X, rng.standard_normal(150), l2=0.02)
    F = F if factors else Plain(F)
    w = np.zeros(6)
    problem, rule = refreshed(F, st.LRSFN(rank=2, damping=0.1, tail=tail), w, hessian_batch=40)
    P = metric(rule, 6)
    forecast = Forecast(problem, Memory(beta) if beta else None, theta, 0.0, 8, 0, asked=True)
    found = forecast.at(w, rule.root())
    true = dense_limit(X, P, 0.02, 8, beta, theta)
    if factors:
        assert found.step == pytest.approx(true, rel=1e-4)
    assert 0.8 * true < found.step < 1.05 * true
    steady = dataclasses.replace(forecast, batch=150).at(w, rule.root()).step
    assert steady > 1.2 * found.step


def test_where_it_is_not_known_it_is_nan_and_the_reason_is_told():
    F = st.quadratic([3.0, -1.0, 0.5])
    w = np.ones(3)
    problem, rule = refreshed(F, st.Newton(), w)
    assert rule.root() is None
    forecast = Forecast(problem, None, 0.0, 0.0, 1, 0)
    told = forecast.at(w, None)
    assert math.isnan(told.step)
    assert "negative curvature" in told.unknown
    assert dataclasses.replace(forecast, asked=False).at(w, None).unknown == "limits=False"
    steps = st.minimize(F, w, method=st.Newton(), step=0.1, iterations=3)
    assert np.isnan(steps.step_limits).all()
    assert "largest stable one not known: the method divides" in str(
        st.minimize(
            F,
            w,
            method=st.Method(gain=lambda lam: 1 / lam, rank=2, tail_gain=lambda lam: 1.0),
            step=0.1,
            iterations=1,
        )
    )
    few = Plain(st.least_squares(np.ones((30, 2)) * [1, 2.0], np.ones(30), l2=0.1))
    run = st.minimize(few, np.zeros(2), method=st.LRSFN(rank=1, damping=0.1), step=0.1, batch=5, iterations=2)
    assert np.isnan(run.step_limits).all()
    assert run.stats["limit_unknown"] == "limits=True predicts it"
    told = st.minimize(
        few, np.zeros(2), method=st.LRSFN(rank=1, damping=0.1), step=0.1, batch=5, iterations=2, limits=True
    )
    assert np.isfinite(told.step_limits).all()
    np.testing.assert_array_equal(told.losses, run.losses)  # predictions are not counted and change nothing
    np.testing.assert_array_equal(told.sweeps, run.sweeps)
    with pytest.raises(ValueError, match="SGD knows no curvature: leave `limits` out"):
        st.minimize(few, np.zeros(2), method=st.SGD(), step=0.1, iterations=1, limits=True)
    with pytest.raises(ValueError, match="`limits` must be True or False"):
        st.minimize(few, np.zeros(2), method=st.LRSFN(rank=1, damping=0.1), step=0.1, iterations=1, limits=2)
    steep = Forecast(Problem(st.expression("x^4", ["x"]), HOST), None, 0.0, 0.0, 1, 0)
    assert "not finite" in steep.at(np.array([1e200]), lambda V: V).unknown


def test_where_batch_noise_is_only_estimated_it_is_not_told():
    rng = np.random.default_rng(0)
    F = Plain(st.least_squares(rng.standard_normal((200, 60)), rng.standard_normal(200)))
    problem, rule = refreshed(F, st.LRSFN(rank=5, damping=0.1), np.zeros(60), hessian_batch=50)
    told = Forecast(problem, None, 0.0, 0.0, 2, 0, asked=True).at(np.zeros(60), rule.root())
    assert math.isnan(told.step)
    assert "exact on regression and in a few dimensions alone; st.advise estimates it, at" in told.unknown


def test_on_a_device_batch_noise_is_not_measured():
    strict = pytest.importorskip("array_api_strict", reason="array-api-strict is not installed")
    F = Plain(st.least_squares(np.eye(3), np.ones(3)))
    problem = Problem(F, st.Backend("array_api_strict", strict, strict.Device("device1")))
    told = Forecast(problem, None, 0.0, 0.0, 2, 0, asked=True).at(np.zeros(3), lambda V: V)
    assert told.unknown == "batch noise is measured on the host alone"


def test_with_batches_it_is_predicted_now_and_then_unless_it_is_asked_for():
    rng = np.random.default_rng(0)
    F = st.least_squares(rng.standard_normal((40, 3)), rng.standard_normal(40))
    options = {"method": st.LRSFN(rank=1, damping=0.1), "step": 0.1, "batch": 5, "refresh": 1}
    run = st.minimize(F, np.zeros(3), iterations=2 * SPARE + 1, **options)
    np.testing.assert_array_equal(np.flatnonzero(np.isfinite(run.step_limits)), [0, SPARE, 2 * SPARE])
    assert f"last predicted mean-square limit {run.step_limits[-1]:.3g}" in str(run)
    short = st.minimize(F, np.zeros(3), iterations=SPARE, **options)
    assert f"last predicted mean-square limit {short.step_limits[0]:.3g}" in str(short)
    assert "more often than every 16" in short.stats["limit_unknown"]
    lines = [one for axis in st.plot(short).axes for one in axis.lines]
    line = next(one for one in lines if one.get_label() == "predicted mean-square limit")
    np.testing.assert_array_equal(line.get_ydata(), np.full(SPARE + 1, short.step_limits[0]))
    asked = st.minimize(F, np.zeros(3), iterations=SPARE, limits=True, **options)
    assert np.isfinite(asked.step_limits).all()


def test_of_large_problems_it_is_predicted_where_that_is_asked_for():
    size = math.isqrt(SMALL) + 1
    spectrum = np.linspace(0, 1, size)
    F, method = st.quadratic(spectrum), st.LRSFN(rank=1, damping=0.1)
    run = st.minimize(F, np.ones(size), method=method, step=0.1, iterations=1)
    assert np.isnan(run.step_limits).all()
    asked = st.minimize(F, np.ones(size), method=method, step=0.1, iterations=1, limits=True)
    assert 0 < asked.step_limits[0] < np.inf


@pytest.mark.parametrize("method", [st.SFN(damping=0.1), st.Newton(), st.DampedNewton(damping=0.5)], ids=repr)
def test_of_whole_hessians_too(method):
    lam = np.array([4.0, 2.0, 0.5, 0.1])
    F = st.quadratic(lam, rotation_seed=0)
    run = st.minimize(F, np.ones(4), method=method, step=0.1, iterations=2, momentum=0.5)
    gains = {"SFN": 1 / (lam + 0.1), "Newton": 1 / lam, "damped Newton": 1 / (lam + 0.5)}[method.label]
    np.testing.assert_allclose(run.step_limits, 3 / np.max(gains * lam), rtol=1e-9)
