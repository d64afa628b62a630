"""Metrics under noise that depends on the place: its variances, what they do to drift, noise and paths."""

import math

import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

import stability as st
from stability.methods.gradients import GradientLaw

COVARIANCE = np.array([[0.2, 0.1], [0.1, 0.3]])
METHODS = {
    "sign": st.SignSGD(),
    "RMSprop": st.RMSprop(beta2=0.95),
    "Adam": st.Adam(beta1=0.8, beta2=0.95),
    "AdamW": st.Adam(beta1=0.8, beta2=0.95, weight_decay=0.3),
    "RMSprop + momentum": st.Momentum(st.RMSprop(beta2=0.95), beta=0.5),
}
methods = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


def regression():
    rng = np.random.default_rng(3)
    X = rng.normal(size=(60, 2)) * [1.0, 0.6]
    return st.least_squares(X, X @ [1.0, -0.5] + 0.7 * rng.normal(size=60))


def curved(method, step=0.05):
    F = st.expression("x**4/4 + x**2/2 + x*y/3 + y**2", ["x", "y"])
    noise = st.Noise(gradient=COVARIANCE, curvature=0.6, batch=2, reference=[0.0, 0.0])
    return st.Flow(F, method, noise, step=step)


def measured(method, step=0.05):
    F = regression()
    return st.Flow(F, method, st.Noise.from_data(F, batch=4), step=step)


FLOWS = {"curvature": curved, "data": measured}
flows = pytest.mark.parametrize("flow", FLOWS.values(), ids=FLOWS)


def variances(flow, w):
    """Of the gradient's entries at one state, written out or from all data."""
    if flow.noise_model.objective is None:
        s = flow.noise_model
        o = w - s.reference
        return np.diag(COVARIANCE) / s.batch + (o @ o + o**2) * s.curvature**2 / s.batch
    F, b = flow.objective, 4
    rows = F.per_sample_gradient(w)
    return rows.var(axis=0) * (60 - b) / (b * 59)


class TestLaw:
    @flows
    def test_variances_at_a_state_are_those_of_the_batches_gradients(self, flow):
        one = flow(st.RMSprop(eps=0.0))
        for w in ([0.6, 0.1], [-1.0, 2.0]):
            g, v = one.objective.gradient(np.array(w)), variances(one, np.array(w))
            np.testing.assert_allclose(one.rest(w, "sde")[2:], g**2 + v, rtol=1e-10)
            np.testing.assert_allclose(one.drift(w), -g / np.sqrt(g**2 + v), rtol=1e-10)
            lean = np.vectorize(math.erf)(g / np.sqrt(2 * v))
            np.testing.assert_allclose(flow(st.SignSGD()).drift(w), -lean, rtol=1e-10)

    @flows
    @methods
    def test_the_jacobian_is_the_drifts(self, flow, method):
        one, h = flow(method), 1e-5
        w = one.rest(np.array([0.6, 0.1]), "sde") + 0.01
        sides = [one.drift(w + h * e) - one.drift(w - h * e) for e in np.eye(len(w))]
        np.testing.assert_allclose(one.jacobian(w), np.stack(sides, axis=1) / (2 * h), rtol=1e-6, atol=1e-8)
        if method.memory is None:  # means that settle at once follow the noise too
            sides = [one.drift(w[:2] + h * e) - one.drift(w[:2] - h * e) for e in np.eye(2)]
            np.testing.assert_allclose(one.jacobian(w[:2]), np.stack(sides, axis=1) / (2 * h), rtol=1e-6)

    @flows
    @methods
    def test_the_diffusion_is_that_of_the_drawn_noise(self, flow, method):
        one, count = flow(method), 40_000
        w = one.rest(np.array([0.6, 0.1]), "sde")
        drawn = one.draw(count, np.random.default_rng(0), level="sde")
        kicks = math.sqrt(one.step) * one.noise(np.broadcast_to(w, (count, len(w))), drawn)
        wanted = one.diffusion(w)
        size = np.sqrt(np.diag(wanted))
        size[size == 0] = 1.0
        np.testing.assert_allclose(
            (kicks.T @ kicks / count - wanted) / np.outer(size, size), 0, atol=5 * math.sqrt(2 / count)
        )

    @pytest.mark.parametrize("correlation", [0.3, -0.8, 0.97])
    def test_correlated_signs_have_their_own_covariance(self, correlation):
        covariance = np.array([[4.0, 2 * correlation], [2 * correlation, 1.0]])
        law = GradientLaw(covariance)
        for height in ([0.0, 0.0], [0.5, -1.0], [2.0, 1.5]):
            spread = np.sqrt(4 * norm.cdf(height) * norm.sf(height))
            turn = law.signs(np.array(height), spread)
            both = multivariate_normal.cdf(height, cov=[[1, correlation], [correlation, 1]])
            across = 4 * (both - np.prod(norm.cdf(height)))
            wanted = [[spread[0] ** 2, across], [across, spread[1] ** 2]]
            np.testing.assert_allclose(turn @ covariance @ turn.T, wanted, rtol=1e-9, atol=1e-9)

    def test_one_covariance_at_many_states_is_the_same_everywhere(self, rng):
        many = GradientLaw(np.broadcast_to(COVARIANCE, (5, 2, 2)), everywhere=False)
        one, normals = GradientLaw(COVARIANCE), rng.standard_normal((200_000, 2))
        height, spread = rng.standard_normal((5, 2)), np.full((5, 2), 0.7)
        np.testing.assert_allclose(many.signs(height, spread), one.signs(height, spread), rtol=1e-12)
        at_once = GradientLaw(np.broadcast_to(COVARIANCE, (200_000, 2, 2)), everywhere=False)
        for law in (one, at_once):
            np.testing.assert_allclose(np.cov(law.square(normals).T), 2 * COVARIANCE**2, atol=5e-3)


QUICK = [("curvature", "sign"), ("curvature", "RMSprop"), ("data", "Adam")]
PAIRS = [
    pytest.param(
        FLOWS[noise], method, id=f"{noise}-{name}", marks=[] if (noise, name) in QUICK else pytest.mark.slow
    )
    for noise in FLOWS
    for name, method in METHODS.items()
]


@pytest.mark.parametrize(("flow", "method"), PAIRS)
def test_the_tube_is_the_paths(flow, method):
    """Means, and covariances, of the whole state: they are the chain's own up to orders of the step."""
    if method.means:  # the tube is of small noise, of mean squares too
        slow = {"beta2": 0.998}
        inner = getattr(method, "method", method).with_parameters(**slow)
        method = st.Momentum(inner, beta=0.5) if method.memory is not None else inner
    one = flow(method, step=0.001)
    start, t_end = [1.0, -0.5], 0.05
    ens = st.simulate(one, start=start, t_end=t_end, paths=1_000, seed=3, state=True)
    path = st.trajectory(one, start, t_end, save=1, time="chain", state=True)
    assert np.max(np.abs(ens.mean[-1] - path.mean[-1]) / ens.standard_error[-1]) < 4
    assert np.max(np.abs(ens.covariance[-1] - path.covariance[-1]) / ens.covariance_error[-1]) < 4


def test_and_the_iterations():
    """Signs of gradients whose curvature is a Gaussian matrix: nothing of it is linearised."""
    one = curved(st.SignSGD(), step=0.01)
    ens = st.simulate(one, start=[1.0, -0.5], t_end=0.4, paths=1_000, seed=4, level="iteration")
    path = st.trajectory(one, [1.0, -0.5], 0.4, save=1, time="discrete")
    assert np.max(np.abs(ens.mean[-1] - path.mean[-1]) / ens.standard_error[-1]) < 4
    assert np.max(np.abs(ens.covariance[-1] - path.covariance[-1]) / ens.covariance_error[-1]) < 4


@flows
@pytest.mark.parametrize("method", [st.SignSGD(), st.RMSprop()])
@pytest.mark.slow
def test_pictures_and_exits_follow_it(flow, method):
    one = flow(method)
    where, options = [(-2, 2), (-2, 2)], {"noise": one.noise_model, "step": one.step}
    found = st.portrait(
        one.objective, where, [method], resolution=8, start=[0.5, 0.4], paths=0, t_end=0.2, **options
    )
    rates = np.linalg.eigvals(one.jacobian(found.points[0])).real
    np.testing.assert_allclose(np.sort(found.rates[0, 0]), np.sort(rates), rtol=1e-6)
    escape = st.escape(one, at=found.points[0], radius=0.3, t_end=1.0, paths=50)
    assert len(escape.times) == 50


def test_on_a_line_too():
    """The stationary density under curvature noise, against a long ensemble of the same equation."""
    F = st.expression("x**2/2", ["x"])
    noise = st.Noise(gradient=0.5, curvature=0.3, reference=[0.0])
    found = st.profile(
        F, [(-2, 2)], [st.SignSGD(), st.RMSprop()], noise=noise, step=0.1, paths=100, t_end=0.5
    )
    assert len(found.methods) == 2
    flow = st.Flow(F, st.SignSGD(), noise, step=0.3)
    density = st.stationary_density(flow, [(-4, 4)])
    ens = st.simulate(flow, start=[0.0], t_end=6.0, dt=0.03, paths=2_000, seed=1)
    assert density.total_variation(ens.states[-1]).agrees


def test_singular_noise_is_refused_for_signs():
    flow = st.Flow(st.quadratic([1.0, 0.5]), st.SignSGD(), st.Noise(gradient=np.ones((2, 2))), step=0.1)
    with pytest.raises(ValueError, match=r"noise in every direction.*singular.*'iteration'.*diagonal"):
        st.simulate(flow, start=[0.6, 0.1], t_end=0.1, paths=5)
    st.simulate(flow, start=[0.6, 0.1], t_end=0.1, paths=5, level="iteration")
