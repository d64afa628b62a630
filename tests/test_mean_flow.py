"""The flow of metrics that follow the noise: mean drift, Jacobian, noise, and the tube along its path."""

import math

import numpy as np
import pytest
import scipy.special

import stability as st

F = st.expression("x^4/4 - x^2/2 + y^2 + x*y/3", ["x", "y"])
W = np.array([[0.7, 0.4], [-1.3, 0.2]])
SIGMA = np.array([[0.3, 0.1], [0.1, 0.2]])
LOOSE, APART = st.Noise(gradient=SIGMA), st.Noise(gradient=[0.5, 0.2])
STEP = 0.05
CASES = {
    "sign": (st.SignSGD(), APART),
    "rmsprop": (st.RMSprop(eps=0.1), LOOSE),
    "adam": (st.Adam(), LOOSE),
    "adamw": (st.Adam(weight_decay=0.3), LOOSE),
    "adam + L2": (st.Adam(weight_decay=0.3, decoupled=False), LOOSE),
    "rmsprop + nesterov": (st.Momentum(st.RMSprop(weight_decay=0.2), 0.8, nesterov=True), APART),
    "sign + momentum": (st.Momentum(st.SignSGD(), 0.8), APART),
}


def made(name, step=STEP):
    method, noise = CASES[name]
    return st.Flow(F, method, noise, step=step)


def states(flow):
    """Whole states near rest, and positions alone where they are enough."""
    whole = flow.rest(W, level="sde")
    whole = whole * (1 + 0.1 * np.random.default_rng(0).uniform(size=whole.shape))
    return [whole] if flow.memory is not None else [whole, W]


class TestDrift:
    def test_of_positions_it_is_that_of_means_that_have_settled(self):
        g, variances = F.gradient(W), np.diag(SIGMA)
        expected = -g / (np.sqrt(g**2 + variances) + 0.1)
        np.testing.assert_allclose(made("rmsprop").drift(W), expected, rtol=1e-14)
        adam = st.Flow(F, st.Adam(eps=0.1), LOOSE, step=STEP)
        np.testing.assert_allclose(adam.drift(W), expected, rtol=1e-14)

    def test_of_a_sign_it_is_its_mean(self):
        expected = -scipy.special.erf(F.gradient(W) / (math.sqrt(2) * np.array([0.5, 0.2])))
        np.testing.assert_allclose(made("sign").drift(W), expected, rtol=1e-14)

    def test_of_whole_states_the_mean_square_follows(self):
        flow, v = made("rmsprop"), np.array([0.9, 0.4])
        g = F.gradient(W[0])
        found = flow.drift(np.concatenate([W[0], v]))
        follows = 0.01 / STEP * (g**2 + np.diag(SIGMA) - v)
        np.testing.assert_allclose(found, np.concatenate([-g / (np.sqrt(v) + 0.1), follows]), rtol=1e-14)

    @pytest.mark.parametrize("name", CASES)
    def test_the_jacobian_is_its_derivative(self, name):
        flow, h = made(name), 1e-5
        for w in states(flow):
            nudges = h * np.eye(w.shape[1])
            measured = np.stack([(flow.drift(w + e) - flow.drift(w - e)) / (2 * h) for e in nudges], axis=-1)
            np.testing.assert_allclose(flow.jacobian(w), measured, atol=1e-8 * np.abs(measured).max())

    @pytest.mark.parametrize("name", CASES)
    def test_drift_and_noise_are_those_of_a_short_step(self, name):
        flow, dt = made(name), 1e-7
        (w, *_), drawn = states(flow), flow.draw(2, np.random.default_rng(1), level="sde")
        sample, own = (drawn.sample, drawn.own) if flow.own_normals else (drawn, None)
        calm = type(sample)(*(0 * part for part in sample))
        still = flow.euler(w, type(drawn)(calm, 0 * own) if flow.own_normals else calm, dt)
        scale = np.abs(flow.drift(w)).max()
        np.testing.assert_allclose((still - w) / dt, flow.drift(w), atol=2e-6 * scale)
        kicked = (flow.euler(w, drawn, dt) - still) / math.sqrt(STEP * dt)
        np.testing.assert_allclose(kicked, flow.noise(w, drawn), atol=2e-6 * np.abs(kicked).max())

    def test_the_diffusion_is_the_noises_own(self):
        flow, g, v = st.Flow(F, st.RMSprop(), APART, step=STEP), F.gradient(W[0]), np.array([0.9, 0.4])
        found = flow.diffusion(np.concatenate([W[0], v]))
        sigma, rate = np.array([0.25, 0.04]), 0.01 / STEP
        np.testing.assert_allclose(np.diag(found)[:2], STEP * sigma / v, rtol=1e-7)
        squares = STEP * rate**2 * (4 * g**2 * sigma + 2 * sigma**2)
        np.testing.assert_allclose(np.diag(found)[2:], squares, rtol=1e-12)
        across = -STEP * rate * 2 * g * sigma / np.sqrt(v)
        np.testing.assert_allclose(np.diag(found[:2, 2:]), across, rtol=1e-7)

    def test_settled_the_noise_moves_the_metric_too(self):
        """``-g / sqrt(g^2 + s)``: its answer to a change of the gradient, as slow motion feels it."""
        flow, g = st.Flow(F, st.Adam(eps=0.0), APART, step=STEP), F.gradient(W[0])
        sigma = np.array([0.25, 0.04])
        v = g**2 + sigma
        bend = g / (2 * v**1.5)
        expected = STEP * (sigma * (1 / np.sqrt(v) - 2 * g * bend) ** 2 + 2 * sigma**2 * bend**2)
        np.testing.assert_allclose(np.diag(flow.diffusion(W[0])), expected, rtol=1e-12)

    def test_what_is_no_state_is_told(self):
        with pytest.raises(ValueError, match=r"\(\.\.\., 6\).*Use flow.rest\(w, level='sde'\)"):
            made("rmsprop + nesterov").drift(W)
        flow = made("rmsprop + nesterov")
        assert flow.drift(flow.rest(W, level="sde")).shape == (2, 6)
        with pytest.raises(ValueError, match=r"\(\.\.\., 4\).*Use flow.rest\(w\), which"):
            made("rmsprop").iterate(W, np.random.default_rng(0))

    def test_noise_that_its_equation_does_not_know_is_refused(self):
        flow = st.Flow(F, st.Adam(), st.Noise.streaming(np.eye(2), reference=[0.0, 0.0]), step=STEP)
        for ask in (flow.drift, flow.jacobian, flow.diffusion, lambda w: st.trajectory(flow, w, 1.0)):
            with pytest.raises(ValueError, match=r"known for Gaussian noise.*Use st.simulate"):
                ask(W[0])


def test_its_curvatures_have_the_decay_that_joins_the_gradient():
    flow = st.Flow(F, st.Adam(weight_decay=0.3, decoupled=False), APART, step=STEP)
    slope = F.gradient(W[0]) + 0.3 * W[0]
    scale = 1 / (np.sqrt(slope**2 + np.array([0.5, 0.2]) ** 2) + 1e-8)
    expected = np.linalg.eigvals(scale[:, None] * (F.hessian(W[0]) + 0.3 * np.eye(2)))
    np.testing.assert_allclose(flow.pulls(W)[0], np.sort(expected), rtol=1e-12)


class TestTrajectory:
    @pytest.mark.parametrize(
        ("name", "step"), [("sign", 0.01), ("rmsprop", 0.01), ("adamw", 0.01), ("sign + momentum", 0.001)]
    )
    def test_paths_keep_to_its_mean_and_tube(self, name, step):
        method, _ = CASES[name]
        flow = st.Flow(F, method, st.Noise(gradient=[0.4, 0.3]), step=step)
        ens = st.simulate(flow, start=[1.6, 0.8], t_end=40 * step, paths=2000, seed=3, save=2)
        path = st.trajectory(flow, [1.6, 0.8], 40 * step, time=ens.law, save=ens.times)
        assert path.valid
        assert np.abs((ens.mean - path.mean) / np.maximum(ens.standard_error, 1e-300))[1:].max() < 4
        off = (ens.covariance - path.covariance) / np.maximum(ens.covariance_error, 1e-300)
        assert np.abs(off)[1:].max() < 4

    @pytest.mark.parametrize("name", ["rmsprop + nesterov", "adam", "sign"])
    def test_the_chain_is_the_step_that_paths_take(self, name):
        """Its mean without noise, and its covariance by differences of that very step."""
        flow = made(name)
        path = st.trajectory(flow, W[0], STEP, time="chain", state=True)
        z = flow.rest(W[:1], level="sde")
        drawn = flow.draw(1, np.random.default_rng(0), level="sde")
        own = flow.own_normals

        def step(normals):
            sample = (drawn.sample if own else drawn)._replace(zeta=normals[None, :2])
            return flow.euler(z, type(drawn)(sample, normals[None, 2:]) if own else sample, STEP)[0]

        np.testing.assert_allclose(path.mean[-1], step(np.zeros(2 + own)), rtol=1e-13)
        h, (_, noise) = 1e-6, CASES[name]
        kicks = [(step(h * e) - step(-h * e)) / (2 * h) for e in np.eye(2 + own)]
        root = np.linalg.cholesky(noise.gradient_covariance(W[0]))
        kicks = np.concatenate([root.T @ np.stack(kicks[:2]), np.stack(kicks).reshape(-1, z.shape[1])[2:]])
        np.testing.assert_allclose(path.covariance[-1], kicks.T @ kicks, rtol=1e-6, atol=1e-10)

    @pytest.mark.parametrize("name", ["rmsprop + nesterov", "adam"])
    def test_scattered_starts_have_means_of_their_own(self, name):
        """Each at rest: means lie where they would settle, and vary with the positions."""
        flow, h, spread = made(name), 1e-6, np.array([[0.02, 0.01], [0.01, 0.03]])
        path = st.trajectory(flow, W[0], STEP, time="chain", covariance=spread, state=True)
        rests = [flow.rest(W[0] + sign * h * e, level="sde") for e in np.eye(2) for sign in (1, -1)]
        slope = np.stack([(rests[0] - rests[1]), (rests[2] - rests[3])], axis=-1) / (2 * h)
        np.testing.assert_allclose(path.covariance[0], slope @ spread @ slope.T, rtol=1e-7, atol=1e-12)

    def test_the_chain_goes_to_the_equation(self):
        flow = st.Flow(F, st.Adam(beta2=0.95), APART, step=0.1)
        whole = {"covariance": 0.01 * np.eye(2), "save": [0.4]}
        exact = st.trajectory(flow, W[0], 0.4, **whole)
        gaps = []
        for dt in (0.1 / 8, 0.1 / 16):
            chain = st.trajectory(flow, W[0], 0.4, time="chain", dt=dt, **whole)
            gaps.append(np.abs(chain.covariance - exact.covariance).max())
        assert math.log2(gaps[0] / gaps[1]) == pytest.approx(1, abs=0.15)

    def test_with_weight_decay_it_is_the_linear_theory(self):
        flow = st.Flow(
            st.quadratic([1.0, 0.4], rotation_seed=1), st.SFN(damping=0.3, weight_decay=0.2), APART, step=0.1
        )
        path = st.trajectory(flow, [1.0, -0.5], 2.0, save=[2.0])
        mean, covariance = st.linearize(flow).moments(2.0, [1.0, -0.5], time="continuous")
        np.testing.assert_allclose(path.mean[-1], mean, rtol=1e-8)
        np.testing.assert_allclose(path.covariance[-1], covariance, rtol=1e-7)

    def test_what_it_cannot_follow_is_told(self):
        with pytest.raises(ValueError, match=r"time='discrete' is not known of Adam.*time='chain'"):
            st.trajectory(made("adam"), W[0], 1.0, time="discrete")
        wide = st.Flow(st.quadratic(np.ones(40)), st.Adam(), st.Noise(gradient=1.0), step=STEP)
        with pytest.raises(ValueError, match=r"100 numbers of a whole state.*got 120 in 40"):
            st.trajectory(wide, np.ones(40), 1.0)
