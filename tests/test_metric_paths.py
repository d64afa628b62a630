"""Paths of sign steps, RMSprop and Adam: steps against loops of their own, the SDEs, what they refuse."""

import math

import numpy as np
import pytest
from scipy.linalg import solve_continuous_lyapunov

import stability as st
from stability._special import erf

STEP = 0.05


def well(method, noise=None, step=STEP):
    F = st.expression("x**4/4 - x**2/2 + x*y/3 + y**2", ["x", "y"])
    return st.Flow(F, method, st.Noise(gradient=[0.3, 0.5]) if noise is None else noise, step=step)


def sign(w, g, memory, k, step):
    return w - step * np.sign(g)


def rmsprop(w, g, memory, k, step, beta2=0.9, eps=1e-8):
    memory["v"] = beta2 * memory.get("v", 0.0) + (1 - beta2) * g * g
    return w - step * g / (np.sqrt(memory["v"]) + eps)


def heavy_rmsprop(w, g, memory, k, step):
    v = memory["v"] = 0.9 * memory.get("v", 0.0) + 0.1 * g * g
    u = memory["u"] = 0.8 * memory.get("u", 0.0) + g / (np.sqrt(v) + 1e-8)
    return w - step * u


def adam(w, g, memory, k, step, decay=0.0, ridge=0.0):
    g = g + ridge * w
    m = memory["m"] = 0.8 * memory.get("m", 0.0) + 0.2 * g
    v = memory["v"] = 0.95 * memory.get("v", 0.0) + 0.05 * g * g
    w = w * (1 - step * decay)
    return w - step * (m / (1 - 0.8**k)) / (np.sqrt(v / (1 - 0.95**k)) + 1e-8)


def adamw(w, g, memory, k, step):
    return adam(w, g, memory, k, step, decay=0.3)


def ridged(w, g, memory, k, step):
    return adam(w, g, memory, k, step, ridge=0.3)


LOOPS = {
    "sign": (st.SignSGD(), sign),
    "RMSprop": (st.RMSprop(beta2=0.9), rmsprop),
    "RMSprop + momentum": (st.Momentum(st.RMSprop(beta2=0.9), beta=0.8), heavy_rmsprop),
    "Adam": (st.Adam(beta1=0.8, beta2=0.95), adam),
    "AdamW": (st.Adam(beta1=0.8, beta2=0.95, weight_decay=0.3), adamw),
    "Adam, decay in the gradient": (
        st.Adam(beta1=0.8, beta2=0.95, weight_decay=0.3, decoupled=False),
        ridged,
    ),
}
loops = pytest.mark.parametrize(("method", "loop"), LOOPS.values(), ids=LOOPS)


class TestIteration:
    @loops
    def test_it_is_the_plain_loop_on_the_same_noise(self, method, loop, rng):
        one = well(method)
        w, memory = rng.standard_normal((5, 2)), {}
        z = one.rest(w)
        for k in range(1, 31):
            sample = one.draw(5, rng, level="iteration")
            w = loop(w, one.objective.gradient(w) + sample.zeta, memory, k, STEP)
            before = z.copy()
            ahead = one.update(z, sample, k - 1)
            np.testing.assert_array_equal(z, before)  # nothing was renewed in place
            z = ahead
            np.testing.assert_allclose(z[:, :2], w, rtol=1e-12, atol=1e-13)

    @loops
    def test_and_on_minibatches_of_data(self, method, loop, rng):
        F = st.logistic(rng.standard_normal((30, 2)), rng.random(30) > 0.5, l2=0.1)
        one = st.Flow(F, method, st.Noise.from_data(F, batch=4), step=STEP)
        w, memory = rng.standard_normal((5, 2)), {}
        z = one.rest(w)
        for k in range(1, 11):
            batches = one.draw(5, rng, level="iteration")
            w = loop(w, F.gradient(w, batch=batches.gradient), memory, k, STEP)
            z = one.update(z, batches, k - 1)
            np.testing.assert_allclose(z[:, :2], w, rtol=1e-12, atol=1e-13)

    @loops
    @pytest.mark.parametrize("level", ["iteration", "sde"])
    def test_the_numbers_do_not_depend_on_workers_or_on_how_many_paths(self, method, loop, level):
        options = {"start": [1.0, 0.5], "t_end": 0.5, "level": level, "seed": 2, "state": True}
        first, second, fewer = (
            st.simulate(well(method), paths=paths, workers=workers, **options).states
            for paths, workers in ((600, 1), (600, 3), (300, 1))
        )
        np.testing.assert_array_equal(first, second)
        np.testing.assert_array_equal(first[:, :300], fewer)

    def test_iterate_takes_and_gives_whole_states(self):
        one = well(st.Adam())
        z = one.rest([1.0, 0.5])
        assert one.remembered == ("mean gradient", "mean square")
        first = one.iterate(z, np.random.default_rng(0))
        assert first.shape == (6,)
        # Corrected for its start, the first step is the gradient's sign.
        np.testing.assert_allclose(np.abs(first[:2] - z[:2]), STEP, rtol=1e-6)
        later = one.iterate(z, np.random.default_rng(0), done=10**6)
        assert np.max(np.abs(later[:2] - z[:2])) > 2 * STEP
        with pytest.raises(
            ValueError, match=r"shape \(\.\.\., 6\), positions and mean gradient, mean square.*flow\.rest"
        ):
            one.iterate([1.0, 0.5], np.random.default_rng(0))

    def test_states_are_named(self):
        F = st.expression("x**2 + y**2", ["x", "y"])
        one = st.Flow(F, st.Momentum(st.RMSprop()), st.Noise(gradient=0.1), step=0.1)
        ens = st.simulate(one, start=[1.0, 1.0], t_end=1.0, paths=5, level="iteration", state=True)
        names = ["x", "y", "buffer of x", "buffer of y", "mean square of x", "mean square of y"]
        assert ens.to_frame()["axis"].tolist() == names


def theory(H, covariance, step, signs=False):
    """The stationary covariance to first order in the step."""
    D = np.diag(np.diag(covariance) ** -0.5)
    if signs:
        C = np.arcsin(np.clip(D @ covariance @ D, -1, 1)) * 2 / np.pi
        return solve_continuous_lyapunov(-math.sqrt(2 / np.pi) * D @ H, -step * C)
    return solve_continuous_lyapunov(-D @ H, -step * D @ covariance @ D)


KINDS = {
    "sign": (st.SignSGD(), True),
    "RMSprop": (st.RMSprop(beta2=0.99), False),
    "Adam": (st.Adam(beta2=0.99), False),
}


class TestEquation:
    """The SDEs at level "sde"."""

    def test_the_error_function_elsewhere_is_scipys(self):
        strict = pytest.importorskip("array_api_strict")
        x = np.linspace(-7, 7, 501)
        found = np.asarray(erf(strict.asarray(x), strict)._array)
        np.testing.assert_allclose(found, erf(x), rtol=0, atol=3e-15)

    def test_a_signs_step(self, rng):
        one, dt = well(st.SignSGD()), 0.02
        w, sample = rng.standard_normal((40, 2)), one.draw(40, rng, level="sde")
        sizes = np.array([0.3, 0.5])
        lean = np.vectorize(math.erf)(one.objective.gradient(w) / sizes / math.sqrt(2))
        kick = np.sqrt(STEP * dt * (1 - lean**2)) * sample.zeta / sizes
        np.testing.assert_allclose(one.euler(w, sample, dt), w - dt * lean + kick, rtol=1e-9, atol=1e-12)

    def test_steps_of_running_means(self, rng):
        """Written out, at a time step of a quarter iteration."""
        covariance = np.array([[0.2, 0.1], [0.1, 0.3]])
        values, vectors = np.linalg.eigh(2 * covariance**2)
        root = vectors * np.sqrt(values)  # of the squares' covariance, by Isserlis
        dt, ratio, v0 = STEP / 4, 0.25, np.diag(covariance)
        for method in (st.RMSprop(beta2=0.95), st.Adam(beta1=0.8, beta2=0.95, weight_decay=0.3)):
            one = well(method, st.Noise(gradient=covariance))
            z, noise = one.rest(rng.standard_normal((7, 2)), "sde"), one.draw(7, rng, level="sde")
            w, *_, v = np.split(z, one.state_dim // 2, axis=1)
            g, zeta = one.objective.gradient(w), noise.sample.zeta
            squares = noise.own @ root.T - 2 * g * zeta
            after = v + 0.05 * (ratio * (g**2 + v0 - v) + np.sqrt(ratio) * squares)
            if isinstance(method, st.Adam):
                m = z[:, 2:4] + 0.2 * (ratio * (g - z[:, 2:4]) - np.sqrt(ratio) * zeta)
                wanted = [w - dt * (m / (np.sqrt(after) + 1e-8) + 0.3 * w), m, after]
            else:
                wanted = [w + (np.sqrt(STEP * dt) * zeta - dt * g) / (np.sqrt(v) + 1e-8), after]
            np.testing.assert_allclose(one.euler(z, noise, dt), np.concatenate(wanted, axis=1), rtol=1e-11)

    def test_mean_and_spread_of_a_signs_step_are_the_iterations(self):
        one = well(st.SignSGD())
        w = np.broadcast_to([0.6, 0.1], (60_000, 2))
        rng = np.random.default_rng(0)
        drawn = {level: one.draw(len(w), rng, level=level) for level in ("sde", "iteration")}
        there, here = one.euler(w, drawn["sde"], STEP), one.update(w, drawn["iteration"])
        error = np.sqrt((there.var(axis=0) + here.var(axis=0)) / len(w))
        assert np.all(np.abs(there.mean(axis=0) - here.mean(axis=0)) < 4 * error)
        np.testing.assert_allclose(there.var(axis=0), here.var(axis=0), rtol=0.04)

    @pytest.mark.parametrize("method", [st.RMSprop(beta2=0.95), st.Adam(beta1=0.8, beta2=0.95)])
    def test_moments_of_a_step_are_the_iterations(self, method):
        """Of all that a state has, at ``dt = step``; of RMSprop's positions to O(1 - beta2)."""
        noise = st.Noise(gradient=[[0.2, 0.1], [0.1, 0.3]])
        one, count = well(method, noise), 60_000
        z = np.broadcast_to(one.rest([0.6, 0.1], "sde"), (count, one.state_dim))
        rng = np.random.default_rng(1)
        drawn = {level: one.draw(count, rng, level=level) for level in ("sde", "iteration")}
        there, here = one.euler(z, drawn["sde"], STEP), one.update(z, drawn["iteration"], 10**6)
        for a, b in ((there, here), (there[:, 2:], here[:, 2:])):
            spread = np.sqrt(np.maximum(b.var(axis=0), 1e-30))
            slack = 0.1 if a is there else 5 / math.sqrt(count)
            assert np.all(np.abs(a.mean(axis=0) - b.mean(axis=0)) < slack * spread)
            np.testing.assert_allclose(
                np.cov(a.T) / np.outer(spread, spread),
                np.cov(b.T) / np.outer(spread, spread),
                rtol=0,
                atol=0.15 if a is there else 0.04,
            )

    def test_means_start_where_they_would_settle(self):
        one = well(st.Adam())
        g = one.objective.gradient(np.array([0.6, 0.1]))
        rest = one.rest([0.6, 0.1], "sde")
        np.testing.assert_allclose(rest, [0.6, 0.1, *g, *(g**2 + [0.09, 0.25])], rtol=1e-14)
        np.testing.assert_array_equal(one.rest([0.6, 0.1]), [0.6, 0.1, 0, 0, 0, 0])

    @pytest.mark.slow
    @pytest.mark.parametrize("level", ["sde", "iteration"])
    @pytest.mark.parametrize(("method", "signs"), KINDS.values(), ids=KINDS)
    def test_the_stationary_covariance_is_theorys_at_first_order(self, method, signs, level):
        """Rotated H: what is left falls with the step, twice as small at half of it, up to its error bar."""
        F = st.quadratic([1.0, 0.5], rotation_seed=3)
        H, covariance = F.hessian(np.zeros(2)), np.diag([1.0, 0.25])
        gaps, errors = [], []
        for step in (0.16, 0.04):
            one = st.Flow(F, method, st.Noise(gradient=covariance), step=step)
            t_end = step * math.ceil(12 / step)
            ens = st.simulate(one, start=[0.0, 0.0], t_end=t_end, paths=12_000, level=level, seed=4)
            wanted = theory(H, covariance, step, signs)
            gaps.append(np.trace(ens.covariance[-1]) / np.trace(wanted) - 1)
            errors.append(np.trace(ens.covariance_error[-1]) / np.trace(wanted))
        assert abs(gaps[1] - gaps[0] / 4) < 4 * math.hypot(errors[1], errors[0] / 4) + 0.02
        assert abs(gaps[1]) < 4 * errors[1] + 0.04


@pytest.mark.parametrize("level", ["sde", "iteration"])
@loops
def test_other_libraries_give_numpys_paths(xp_backend, method, loop, level):
    options = {"start": [0.6, 0.1], "t_end": 1.0, "paths": 20, "seed": 5, "save": 2, "level": level}
    here = st.simulate(well(method), device=xp_backend, rng="host", state=True, **options)
    wanted = st.simulate(well(method), state=True, **options)
    np.testing.assert_allclose(here.states, wanted.states, rtol=1e-9, atol=1e-10)


class TestRefused:
    def run(self, method, noise=None, **options):
        return st.simulate(well(method, noise), start=[0.6, 0.1], t_end=0.1, **{"paths": 5, **options})

    def test_noise_that_an_sde_does_not_know(self):
        class Own(st.Noise):
            def sample(self, w, size, rng):
                return super().sample(w, size, rng)

        own = Own(gradient=0.3)
        with pytest.raises(ValueError, match=r"Gaussian noise; .*draws its own.*'iteration'"):
            self.run(st.RMSprop(), own)
        with pytest.raises(ValueError, match=r"the gradient's entry 1 has none.*'iteration'"):
            self.run(st.SignSGD(), st.Noise(gradient=[0.3, 0.0]))
        with pytest.raises(ValueError, match=r"entry 1 has no noise.*infinite there.*`eps` > 0"):
            self.run(st.Adam(eps=0.0), st.Noise(gradient=[0.3, 0.0]))
        with pytest.raises(ValueError, match=r"`beta2` must be >= 0\.9; got 0\.5.*'iteration'"):
            self.run(st.RMSprop(beta2=0.5))
        for method, noise in ((st.RMSprop(), own), (st.RMSprop(beta2=0.5), None)):
            self.run(method, noise, level="iteration")

    def test_schemes_and_controls_that_are_linear(self):
        with pytest.raises(ValueError, match=r"one linear part.*RMSprop.*scheme='euler'"):
            self.run(st.RMSprop(), scheme="exponential")
        with pytest.raises(ValueError, match=r"`control` needs a linearised flow.*control=False"):
            self.run(st.RMSprop(), control=True)
        assert np.isnan(self.run(st.Adam(), exit=0.7, level="iteration").exit_times).all()

    def test_time_steps_that_are_too_long_are_told(self):
        one = st.Flow(st.quadratic([1.0, 0.5]), st.SignSGD(), st.Noise(gradient=0.01), step=0.1)
        with pytest.warns(st.StabilityWarning, match=r"limit 0\.02507.*Take a smaller dt\."):
            st.simulate(one, start=[0.0, 0.0], t_end=0.1, paths=3)
