"""A flow: drift, Jacobian at any state, noise map, and one step of the true iteration."""

import numpy as np
import pytest
from conftest import all_methods, label

import stability as st
from stability.noise import Sample

METHODS = pytest.mark.parametrize("method", all_methods(1), ids=label)
STATE = np.array([0.9, 0.35])


def noisy(objective, method, **options):
    return st.Flow(
        objective, method, st.Noise(gradient=0.3, curvature=0.2, reference=[1.0, 0.0], **options), step=0.1
    )


def literal_step(flow, H, v):
    """``P(H) v`` the slow way, one state at a time."""
    lam, Q = np.linalg.eigh(H)
    return Q @ (flow.method.gains(lam) * (Q.T @ v))


@METHODS
@pytest.mark.parametrize("name", ["double_well", "coupled_quartic", "rosenbrock"])
def test_the_jacobian_agrees_with_finite_differences_away_from_critical_points(method, name):
    flow, h = st.Flow(st.landscape(name), method, step=0.1), 1e-6
    slopes = [(flow.drift(STATE + h * e) - flow.drift(STATE - h * e)) / (2 * h) for e in np.eye(2)]
    expected = np.stack(slopes, axis=-1)
    np.testing.assert_allclose(flow.jacobian(STATE), expected, atol=1e-7 * max(1.0, np.abs(expected).max()))


@METHODS
def test_at_a_critical_point_the_jacobian_is_minus_P_H(method):
    flow, at = st.Flow(st.landscape("coupled_quartic"), method, step=0.1), np.array([1.0, 0.0])
    H = flow.objective.hessian(at)
    expected = -np.stack([literal_step(flow, H, column) for column in H.T], axis=-1)
    np.testing.assert_allclose(flow.jacobian(at), expected, atol=1e-14)


@METHODS
def test_drift_and_jacobian_take_leading_axes(method, rng):
    flow = st.Flow(st.landscape("rosenbrock"), method, step=0.1)
    w = STATE + 0.1 * rng.standard_normal((2, 3, 2))
    assert flow.jacobian(w).shape == (2, 3, 2, 2)
    np.testing.assert_allclose(flow.drift(w)[1, 2], flow.drift(w[1, 2]), rtol=1e-12)
    np.testing.assert_allclose(flow.jacobian(w)[1, 2], flow.jacobian(w[1, 2]), rtol=1e-10)


@METHODS
def test_the_noise_map_is_the_derivative_of_the_true_step(method, rng):
    flow = noisy(st.landscape("coupled_quartic"), method)
    sample = flow.noise_model.sample(STATE, 1, rng)
    h = 1e-6
    forward, backward = (
        flow.update(STATE[None], Sample(*(s * h * part for part in sample))) for s in (1, -1)
    )
    slope = -(forward - backward)[0] / (2 * h) / flow.step
    np.testing.assert_allclose(
        flow.noise(STATE, Sample(*(part[0] for part in sample))),
        slope,
        atol=1e-7 * max(1.0, np.abs(slope).max()),
    )


@METHODS
def test_an_euler_step_is_drift_plus_noise(method, rng):
    flow, dt = noisy(st.landscape("coupled_quartic"), method), 0.02
    w = STATE + 0.1 * rng.standard_normal((7, 2))
    sample = flow.draw(7, rng, level="sde")
    expected = w + dt * flow.drift(w) + np.sqrt(flow.step * dt) * flow.noise(w, sample)
    np.testing.assert_allclose(flow.euler(w, sample, dt), expected, rtol=1e-12)


@METHODS
def test_one_iteration_is_the_stated_formula(method, rng):
    flow = noisy(st.landscape("coupled_quartic"), method)
    w = STATE + 0.1 * rng.standard_normal((4, 2))
    zeta, Eg, Eh = flow.draw(4, rng, level="iteration")
    moved = flow.update(w, Sample(zeta, Eg, Eh))
    for i in range(4):
        g = flow.objective.gradient(w[i]) + zeta[i] + Eg[i] @ (w[i] - [1.0, 0.0])
        np.testing.assert_allclose(
            moved[i],
            w[i] - flow.step * literal_step(flow, flow.objective.hessian(w[i]) + Eh[i], g),
            rtol=1e-11,
        )


@METHODS
def test_on_data_one_iteration_is_a_real_minibatch_step(method, rng):
    X, y = rng.standard_normal((30, 2)), rng.random(30) < 0.5
    F = st.logistic(X, y, l2=0.2)
    flow = st.Flow(F, method, st.Noise.from_data(F, None, 5, hessian_batch=7), step=0.1)
    w = STATE + 0.1 * rng.standard_normal((4, 2))
    batches = flow.draw(4, rng, level="iteration")
    moved = flow.update(w, batches)
    for i in range(4):
        g = F.per_sample_gradient(w[i])[batches.gradient[i]].mean(axis=0)
        H = F.per_sample_hessian(w[i])[batches.hessian[i]].mean(axis=0)
        np.testing.assert_allclose(moved[i], w[i] - 0.1 * literal_step(flow, H, g), rtol=1e-11)


def test_iterate_draws_its_own_noise_and_keeps_the_shape():
    flow = noisy(st.quadratic([1.0, 0.5]), st.SFN(damping=0.2))
    w = np.zeros((2, 3, 2))
    first, second = (flow.iterate(w, np.random.default_rng(5)) for _ in range(2))
    assert first.shape == (2, 3, 2)
    np.testing.assert_array_equal(first, second)
    assert len(np.unique(first)) == 12


def test_newton_is_attracted_to_a_saddle_and_sfn_is_not():
    F, near = st.landscape("coupled_quartic"), np.array([0.05, 0.05])
    assert st.Flow(F, st.Newton(), step=0.1).drift(near)[0] < 0
    assert st.Flow(F, st.SFN(damping=0.1), step=0.1).drift(near)[0] > 0
    assert st.Flow(F, st.SGD(), step=0.1).drift(near)[0] > 0


def test_a_users_own_objective_and_gain_flow():
    class Cubic(st.Objective):
        dim, reference = 1, np.zeros(1)

        def gradient(self, w):
            return np.asarray(w) + np.asarray(w) ** 3

        def hessian(self, w):
            return (1 + 3 * np.asarray(w) ** 2)[..., None]

        def third(self, w, v):
            return (6 * np.asarray(w) * np.asarray(v))[..., None]

    flow = st.Flow(
        Cubic(), st.Method(gain=lambda x: 1 / np.sqrt(x**2 + 0.25)), st.Noise(gradient=0.1), step=0.1
    )
    assert np.isclose(flow.drift([2.0])[0], -10 / np.sqrt(13**2 + 0.25))
    assert np.isclose(st.linearize(flow).rates[0], -1 / np.sqrt(1.25))


@pytest.mark.parametrize("curvature", [0.0, 0.2])
def test_one_state_takes_many_noise_samples(curvature, rng):
    noise = st.Noise(gradient=0.3, curvature=curvature)
    flow = st.Flow(st.quadratic([1.0, 0.5]), st.SFN(damping=0.2), noise, step=0.1)
    sample = noise.sample(STATE, 4, rng)
    many = flow.noise(STATE, sample)
    assert many.shape == (4, 2)
    np.testing.assert_allclose(many[2], flow.noise(STATE, tuple(part[2] for part in sample)), rtol=1e-13)


def test_the_noise_map_takes_any_sample_even_where_the_model_draws_none():
    flow = st.Flow(st.quadratic([1.0, 0.5]), st.SGD(), st.Noise(gradient=0.1), step=0.1)
    np.testing.assert_array_equal(flow.noise([1.0, 1.0], (np.zeros(2), np.eye(2), np.eye(2))), [1.0, 1.0])
    nowhere = st.Flow(st.landscape("michalewicz"), st.SGD(), st.Noise(gradient=0.1), step=0.1)
    with pytest.raises(ValueError, match="Curvature noise needs a reference point"):
        nowhere.noise([1.0, 1.0], (np.zeros(2), np.eye(2), np.eye(2)))


@pytest.mark.parametrize(
    "ask",
    [
        lambda f, w: f.drift(w),
        lambda f, w: f.jacobian(w),
        lambda f, w: f.noise(w, f.noise_model.sample(w, 1, np.random.default_rng(0))),
    ],
)
def test_at_one_singular_state_the_error_names_the_directions(ask):
    with pytest.raises(ValueError, match="singular for Newton along 2 of 3 directions"):
        ask(st.Flow(st.quadratic([1.0, 0.0, 0.0]), st.Newton(), st.Noise(gradient=1.0), step=0.1), np.ones(3))


@pytest.mark.parametrize("level", ["sde", "iteration"])
def test_an_exact_hessian_may_be_cut_through_equal_eigenvalues(level):
    """There DP is infinite; without Hessian noise nothing may touch it."""
    noise = st.Noise(gradient=0.3, curvature=0.1, hessian_batch=np.inf)
    flow = st.Flow(st.quadratic([1.0, 1.0]), st.LRSFN(rank=1, damping=0.5), noise, step=0.1)
    ens = st.simulate(flow, start=[1.0, 1.0], t_end=8.0, paths=4000, seed=0, level=level)
    assert st.compare(st.linearize(flow), ens).max_z < 4
    assert np.isfinite(
        flow.noise(
            [1.0, 1.0], tuple(part[0] for part in noise.sample(np.zeros(2), 1, np.random.default_rng(0)))
        )
    ).all()


@METHODS
@pytest.mark.parametrize("coupling", ["independent", "nested"])
def test_the_diffusion_is_the_covariance_of_the_noise_map(method, coupling, rng):
    flow = noisy(st.landscape("coupled_quartic"), method, coupling=coupling, batch=4, hessian_batch=2)
    sample = flow.noise_model.sample(STATE, 40_000, rng)
    kicks = np.sqrt(flow.step) * flow.noise(np.broadcast_to(STATE, (40_000, 2)), sample)
    products = kicks[:, :, None] * kicks[:, None, :]
    error = products.std(axis=0) / 200
    assert (np.abs(products.mean(axis=0) - flow.diffusion(STATE)) < 4 * error).all()


@METHODS
def test_the_diffusion_takes_leading_axes(method, rng):
    flow = noisy(st.landscape("coupled_quartic"), method)
    w = STATE + 0.1 * rng.standard_normal((2, 3, 2))
    assert flow.diffusion(w).shape == (2, 3, 2, 2)
    np.testing.assert_allclose(flow.diffusion(w)[1, 2], flow.diffusion(w[1, 2]), rtol=1e-10)


def test_noise_that_draws_its_own_samples_must_say_its_law():
    class Uniform(st.Noise):
        def sample(self, w, size, rng):
            drawn = super().sample(w, size, rng)
            return drawn._replace(zeta=rng.uniform(-1, 1, drawn.zeta.shape))

    flow = st.Flow(st.quadratic([1.0, 0.5]), st.SGD(), Uniform(gradient=1.0), step=0.1)
    with pytest.raises(ValueError, match="second-order law of Uniform is not known"):
        flow.diffusion([0.0, 0.0])


@pytest.mark.parametrize("tail", ["damping", "flat"])
def test_the_jacobian_on_a_quadratic_needs_no_derivative_of_the_truncation(tail):
    """Rank 1 of two equal eigenvalues: ``P`` is not differentiable, but the Hessian does not move."""
    flow = st.Flow(st.quadratic([1.0, 1.0, 0.5]), st.LRSFN(rank=1, damping=0.1, tail=tail), step=0.1)
    w = np.array([[0.3, -0.2, 0.5], [1.0, 2.0, 3.0]])
    slopes = np.stack([flow.drift(w + e) - flow.drift(w) for e in np.eye(3)], axis=-1)  # the drift is linear
    np.testing.assert_allclose(flow.jacobian(w), slopes, atol=1e-14)
    assert flow.jacobian(w[0]).shape == (3, 3)
