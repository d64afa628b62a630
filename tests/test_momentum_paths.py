"""Paths with momentum: the laws of chain and iteration by dense solves, states, exits, averages, devices."""

from dataclasses import replace

import numpy as np
import pytest

import stability as st
from stability.ensembles.steps import Averaged, Stepwise

STEP, BETA = 0.2, 0.7
FORMS = {"heavy ball": False, "Nesterov": True}
forms = pytest.mark.parametrize("nesterov", FORMS.values(), ids=FORMS)


WELL = "x**4/4 - x**2/2 + y**2"


def flow(method=None, *, nesterov=False, lam=(1.0, 0.4), noise=None, step=STEP, beta=BETA):
    noise = st.Noise(gradient=[[0.3, 0.1], [0.1, 0.2]]) if noise is None else noise
    method = st.Momentum(method or st.SFN(damping=0.5), beta=beta, nesterov=nesterov)
    return st.Flow(st.quadratic(lam, rotation_seed=1), method, noise, step=step)


def matrices(one, nesterov, step, ratio=1.0, beta=BETA):
    """``B`` and ``b`` of a flow's chain of time step ``ratio * step``, written out: w is the first block."""
    H = one.objective.hessian(np.zeros(one.dim))
    lam, Q = np.linalg.eigh(H)
    P = (Q * one.method.gains(lam)) @ Q.T
    A, eye, dt = P @ H, np.eye(one.dim), ratio * step
    keeps = 1 - (1 - beta) * ratio
    buffer = np.block([ratio * A, keeps * eye])  # the new buffer, of the old state
    if nesterov:
        positions = np.block([eye - dt * A, 0 * eye]) - dt * beta * buffer
    else:
        positions = np.block([eye, 0 * eye]) - dt * buffer
    kick = np.concatenate([dt * (1 + beta * ratio if nesterov else ratio) * P, -ratio * P]) / np.sqrt(ratio)
    return np.concatenate([positions, buffer]), kick, P, H


def stationary(B, Q):
    n = len(B)
    return np.linalg.solve(np.eye(n * n) - np.kron(B, B), Q.ravel()).reshape(n, n)


def settled(one, **options):
    options = {"t_end": 16.0, "paths": 2500, "seed": 3, "state": True, **options}
    return st.simulate(one, start=np.zeros(one.dim), **options)


def z_of(ens, covariance):
    return np.max(np.abs(ens.covariance[-1] - covariance) / ens.covariance_error[-1])


@forms
class TestLaws:
    @pytest.mark.parametrize("level", ["sde", "iteration"])
    def test_additive_noise(self, nesterov, level):
        one = flow(nesterov=nesterov)
        B, kick, _, _ = matrices(one, nesterov, STEP)
        assert z_of(settled(one, level=level), stationary(B, kick @ one.noise_model.gradient @ kick.T)) < 4

    def test_the_chain_at_a_shorter_time_step(self, nesterov):
        one = flow(nesterov=nesterov)
        B, kick, _, _ = matrices(one, nesterov, STEP, ratio=0.5)
        ens = settled(one, dt=STEP / 2)
        assert z_of(ens, stationary(B, kick @ one.noise_model.gradient @ kick.T)) < 4

    @pytest.mark.parametrize("level", ["sde", "iteration"])
    def test_curvature_noise(self, nesterov, level):
        """SGD's iteration is linear in the noise: chain and iteration have one law."""
        noise = st.Noise(gradient=0.3, curvature=0.25)
        one = flow(st.SGD(), nesterov=nesterov, noise=noise)
        B, kick, _, _ = matrices(one, nesterov, STEP)
        T, Q = np.kron(B, B), 0.09 * kick @ kick.T
        for E in noise.factors([0.0, 0.0]).Eg:  # of E[G (x) G]
            push = np.concatenate([-kick @ E, 0 * kick], axis=1)
            T = T + np.kron(push, push)
        wanted = np.linalg.solve(np.eye(16) - T, Q.ravel()).reshape(4, 4)
        assert z_of(settled(one, level=level), wanted) < 4

    def test_minibatches_of_data(self, nesterov):
        """Nothing is linearised; on least squares with SGD the second moments are known all the same."""
        rng = np.random.default_rng(2)
        X = rng.standard_normal((40, 2)) * [1.0, 0.6]
        F = st.least_squares(X, X @ [1.0, -1.0] + 0.5 * rng.standard_normal(40))
        noise = st.Noise.from_data(F, batch=4)
        one = st.Flow(F, st.Momentum(st.SGD(), beta=BETA, nesterov=nesterov), noise, step=STEP)
        B, kick, _, _ = matrices(one, nesterov, STEP)
        factors = noise.factors(F.reference)
        T = np.kron(B, B)
        source = np.zeros(16)
        across = np.zeros((16, 4))
        for zeta, E in zip(factors.zeta, factors.Eg, strict=True):
            push, add = np.concatenate([-kick @ E, 0 * kick], axis=1), -kick @ zeta
            T, source = T + np.kron(push, push), source + np.kron(add, add)
            across = across + np.kron(push, add[:, None]) + np.kron(add[:, None], push)
        wanted = np.linalg.solve(np.eye(16) - T, source).reshape(4, 4)  # the mean is zero
        ens = st.simulate(
            one, start=F.reference, t_end=14.0, paths=1500, seed=4, level="iteration", state=True
        )
        assert z_of(ens, wanted) < 4
        assert np.max(np.abs(ens.mean[-1] - one.rest(F.reference)) / ens.standard_error[-1]) < 4

    def test_the_exponential_scheme_has_the_equations_own_law(self, nesterov):
        """``M S + S M^T + Q = 0``, whatever the time step; the time step is ten of the iteration's."""
        one = flow(nesterov=nesterov)
        _, _, P, H = matrices(one, nesterov, STEP)
        A, eye = P @ H, np.eye(2)
        M = np.block([[-A, -BETA * eye] if nesterov else [0 * A, -eye], [A / STEP, -(1 - BETA) / STEP * eye]])
        kick = np.concatenate([P if nesterov else 0 * P, -P / STEP])
        Q = STEP * kick @ one.noise_model.gradient @ kick.T
        S = np.linalg.solve(np.kron(M, np.eye(4)) + np.kron(np.eye(4), M), -Q.ravel()).reshape(4, 4)
        assert z_of(settled(one, dt=10 * STEP, scheme="exponential", seed=1), S) < 4


class TestOneStep:
    """Steps against a loop of their own, on the same noise."""

    @forms
    def test_the_batchs_own_preconditioner_acts_inside_the_buffer(self, nesterov, rng):
        F = st.logistic(rng.standard_normal((30, 2)), rng.random(30) > 0.5, l2=0.1)
        inner = st.SFN(damping=0.3)
        noise = st.Noise.from_data(F, batch=5, hessian_batch=3)
        one = st.Flow(F, st.Momentum(inner, beta=BETA, nesterov=nesterov), noise, step=STEP)
        w, u = rng.standard_normal((2, 7, 2))
        batches = one.draw(7, np.random.default_rng(0), level="iteration")
        found = one.update(np.concatenate([w, u], axis=1), batches)
        for k in range(7):
            H = F.hessian(w[k], batch=batches.hessian[k])
            lam, Q = np.linalg.eigh(H)
            g = (Q * inner.gains(lam)) @ Q.T @ F.gradient(w[k], batch=batches.gradient[k])
            new = BETA * u[k] + g
            ahead = w[k] - STEP * (g + BETA * new if nesterov else new)
            np.testing.assert_allclose(found[k], [*ahead, *new], rtol=1e-12, atol=1e-14)

    @forms
    def test_the_chain_at_the_step_is_the_iteration_linear_in_the_noise(self, nesterov, rng):
        """With additive noise it is the iteration, on the noise of the other sign."""
        F, method = st.expression(WELL, ["x", "y"]), st.Momentum(st.SFN(damping=0.5), nesterov=nesterov)
        one = st.Flow(F, method, st.Noise(gradient=0.3), step=0.1)
        z = rng.standard_normal((9, 4))
        sample = one.draw(9, np.random.default_rng(0), level="sde")
        turned = sample._replace(zeta=-sample.zeta)
        np.testing.assert_allclose(one.euler(z, sample, 0.1), one.update(z, turned), rtol=1e-13, atol=1e-14)

    def test_without_memory_nothing_is_doubled(self):
        one = flow(beta=0.0)
        plain = st.Flow(one.objective, st.SFN(damping=0.5), one.noise_model, step=STEP)
        for level in ("sde", "iteration"):
            paths = [
                st.simulate(each, start=[1.0, 1.0], t_end=4.0, paths=50, seed=1, level=level).states
                for each in (one, plain)
            ]
            np.testing.assert_allclose(*paths, rtol=0, atol=1e-13)


class TestEquation:
    """Drift, noise and their derivatives, of positions and buffer together."""

    @pytest.fixture(params=FORMS)
    def one(self, request):
        F = st.landscape("coupled_quartic", dim=2)
        noise = st.Noise(gradient=0.3, curvature=0.1, reference=[0.5, 0.5])
        method = st.Momentum(st.SFN(damping=0.5), beta=BETA, nesterov=FORMS[request.param])
        return st.Flow(F, method, noise, step=STEP)

    def test_the_drift_is_what_short_steps_do(self, one, rng):
        z, still = rng.standard_normal((5, 4)), st.Flow(one.objective, one.method, step=STEP)
        sample, dt = still.draw(5, rng, level="sde"), 1e-7
        found = (still.euler(z, sample, dt) - z) / dt
        np.testing.assert_allclose(found, one.drift(z), rtol=1e-5, atol=1e-5)
        inner = one.without_memory()
        buffer = -inner.drift(z[:, :2]) / STEP - (1 - BETA) / STEP * z[:, 2:]
        np.testing.assert_allclose(one.drift(z)[:, 2:], buffer, rtol=1e-13)

    def test_the_jacobian_is_the_drifts(self, one, rng):
        z, size = rng.standard_normal((3, 4)), 1e-6
        sides = [(one.drift(z + size * e) - one.drift(z - size * e)) / (2 * size) for e in np.eye(4)]
        np.testing.assert_allclose(one.jacobian(z), np.stack(sides, axis=-1), rtol=1e-6, atol=1e-7)

    def test_noise_and_diffusion_are_the_steps_own(self, one, rng):
        z = one.rest(rng.standard_normal((1, 2)))
        sample = one.draw(1, rng, level="sde")
        turned = sample._make(-part for part in sample)
        dt = 1e-8
        there, back = (one.euler(z, each, dt) for each in (sample, turned))
        found = (there - back) / (2 * np.sqrt(STEP * dt))
        np.testing.assert_allclose(found, one.noise(z, sample), rtol=1e-6, atol=1e-6)
        law = one.noise_model.factors(z[0, :2])
        many = np.repeat(z, len(law.zeta), axis=0)
        b = one.noise(many, law)
        np.testing.assert_allclose(one.diffusion(z)[0], STEP * b.T @ b, rtol=1e-12)

    def test_positions_alone_are_refused_with_what_to_do(self, one):
        rng = np.random.default_rng(0)
        for ask in (one.drift, one.jacobian, one.diffusion, lambda w: one.iterate(w, rng)):
            with pytest.raises(ValueError, match=r"positions and buffer.*flow\.rest"):
                ask([1.0, 1.0])
        assert one.drift(one.rest([1.0, 1.0])).shape == (4,)
        assert one.iterate(one.rest([1.0, 1.0]), np.random.default_rng(0)).shape == (4,)


@pytest.mark.parametrize("scheme", ["euler", "exponential"])
def test_many_modes_move_one_by_one(scheme, monkeypatch):
    """A diagonal Hessian costs no product of matrices, and gives the numbers that they give."""
    noise = st.Noise(gradient=np.linspace(0.1, 0.3, 12))
    one = st.Flow(st.quadratic(np.linspace(1, 2, 12)), st.Momentum(st.SGD()), noise, step=STEP)
    options = {"start": np.ones(12), "t_end": 4.0, "paths": 40, "state": True, "scheme": scheme}
    found, seen = st.simulate(one, **options).states, []
    monkeypatch.setattr("stability.ensembles.steps._diagonals", lambda *asked: seen.append(asked))
    np.testing.assert_allclose(found, st.simulate(one, **options).states, rtol=1e-10, atol=1e-12)
    assert seen


class TestStates:
    def test_positions_are_what_is_seen(self):
        one = flow()
        ens, whole = (
            st.simulate(one, start=[1.0, 0.5], t_end=2.0, paths=40, save=2, state=state)
            for state in (False, True)
        )
        assert ens.states.shape == (3, 40, 2)
        assert whole.states.shape == (3, 40, 4)
        np.testing.assert_array_equal(whole.states[..., :2], ens.states)
        np.testing.assert_array_equal(whole.states[0, :, 2:], 0.0)
        np.testing.assert_array_equal(whole.start, whole.states[0])
        assert (whole.states[1:, :, 2:] != 0).all()
        assert "3" in str(whole)

    def test_observables_are_of_positions(self):
        one, seen = flow(), []

        def watch(w):
            seen.append(w.shape)
            return one.objective.value(w)

        st.simulate(one, start=[1.0, 0.5], t_end=2.0, paths=40, state=True, observables={"risk": watch})
        assert {shape[1:] for shape in seen} == {(2,)}

    @pytest.mark.parametrize("level", ["sde", "iteration"])
    @pytest.mark.parametrize("lam", [(1.0, 0.4), None])
    def test_the_numbers_do_not_depend_on_workers_or_on_how_many_paths(self, level, lam):
        one = flow(lam=lam) if lam else self.well()
        options = {"start": [1.0, 0.5], "t_end": 2.0, "level": level, "state": True, "seed": 2}
        first, second, fewer = (
            st.simulate(one, paths=paths, workers=workers, **options).states
            for paths, workers in ((1200, 1), (1200, 3), (300, 1))
        )
        np.testing.assert_array_equal(first, second)
        np.testing.assert_array_equal(first[:, :300], fewer)

    @staticmethod
    def well():
        F = st.expression(WELL, ["x", "y"])
        return st.Flow(F, st.Momentum(st.SFN(damping=0.5)), st.Noise(gradient=0.3), step=0.1)

    def test_a_diverged_path_stays_and_is_kept_out(self):
        F = st.expression("x**2/2 - x**4/4", ["x"])
        one = st.Flow(F, st.Momentum(st.SGD(), beta=0.5), st.Noise(gradient=1.0), step=0.1)
        ens = st.simulate(one, start=[0.0], t_end=60.0, paths=60, seed=1, radius=50.0, save=60, exit=0.9)
        assert 0 < ens.diverged.sum() < 60
        assert np.isfinite(ens.states).all()
        lost = np.flatnonzero(ens.diverged)[0]
        after = ens.times >= ens.diverged_at[lost]
        assert np.unique(ens.states[after, lost]).size == 1
        assert (ens.exit_times[ens.diverged] <= ens.diverged_at[ens.diverged]).all()

    def test_a_start_outside_has_left_at_once(self):
        ens = st.simulate(flow(), start=[3.0, 0.0], t_end=1.0, paths=3, exit=1.0)
        np.testing.assert_array_equal(ens.exit_times, 0.0)


class TestAverages:
    """``a+ = decay a + (1 - decay) w+``, beside every kind of step."""

    @pytest.mark.parametrize("level", ["sde", "iteration"])
    @pytest.mark.parametrize("kind", ["affine", "planar", "stepwise", "momentum"])
    def test_it_is_of_the_very_positions(self, kind, level):
        F = st.quadratic([1.0, 0.4]) if kind != "planar" else st.expression(WELL, ["x", "y"])
        noise = st.Noise(gradient=0.3, curvature=0.1 * (kind == "stepwise"), reference=[0.0, 0.0])
        one = st.Flow(F, st.Momentum(st.SGD()) if kind == "momentum" else st.SGD(), noise, step=0.1)
        options = {"start": [1.0, 0.5], "t_end": 3.0, "paths": 30, "seed": 1, "save": 30, "level": level}
        w, found = (st.simulate(one, average=average, **options) for average in (None, 0.8))
        a = w.states[0]
        for k in range(1, 31):
            a = 0.8 * a + 0.2 * w.states[k]
            np.testing.assert_allclose(found.states[k], a, rtol=1e-13, atol=1e-15)
        assert found.average == 0.8
        assert "averaged with decay 0.8" in str(found)

    def test_a_shorter_time_step_forgets_as_much_per_unit_of_time(self):
        options = {"start": [1.0, 0.5], "t_end": 1.0, "paths": 5, "dt": STEP / 2, "save": 10}
        w, found = (st.simulate(flow(), average=average, **options).states for average in (None, 0.25))
        a = w[0]
        for ahead in w[1:]:
            a = 0.5 * a + 0.5 * ahead
        np.testing.assert_allclose(found[-1], a, rtol=1e-13)

    def test_what_is_written_into_a_state_stays(self):
        mover = Averaged(Stepwise(flow(), STEP, "sde", None), 2, 0.5)
        x, normals = np.ones((6, 3)), np.zeros((2, 2, 3))
        for states in mover.run(x, normals, 0):
            states[-1] = 7.0
        np.testing.assert_array_equal(x, 7.0)

    def test_its_variance_is_the_noisy_quadratic_models(self):
        """Zhang and others 2019: decay .99, step .1, curvature and noise 1."""
        one = st.Flow(st.quadratic([1.0]), st.SGD(), st.Noise(gradient=1.0), step=0.1)
        ens = st.simulate(one, start=[0.0], t_end=80.0, paths=1500, level="iteration", average=0.99)
        assert abs(ens.covariance[-1, 0, 0] - 0.00458837) < 4 * ens.covariance_error[-1, 0, 0]

    def test_exits_and_divergence_are_the_positions_own(self):
        options = {"start": [1.0, 0.5], "t_end": 4.0, "paths": 40, "exit": 0.5, "radius": 1.6, "save": 20}
        one, other = (st.simulate(flow(), average=average, **options) for average in (None, 0.9))
        np.testing.assert_array_equal(one.exit_times, other.exit_times)
        np.testing.assert_array_equal(one.diverged_at, other.diverged_at)
        lost = np.flatnonzero(one.diverged)
        assert 0 < len(lost) < 40
        after = other.times >= other.diverged_at[lost[0]]
        assert np.unique(other.states[after, lost[0]], axis=0).shape[0] == 1


@forms
@pytest.mark.parametrize(
    "part", [{}, {"state": True}, {"average": 0.8}], ids=["positions", "states", "average"]
)
class TestTheory:
    """`linearize` speaks of the same paths."""

    def test_paths_agree_from_their_own_start(self, nesterov, part):
        one = flow(nesterov=nesterov)
        for level in ("sde", "iteration"):
            options = {"t_end": 3.0, "paths": 1500, "seed": 2, "save": 3, "level": level}
            ens = st.simulate(one, start=[1.0, 0.5], **options, **part)
            assert st.compare(st.linearize(one), ens).max_z < 4

    def test_a_control_sharpens_and_is_not_off(self, nesterov, part):
        F = st.expression("x**2/2 + x**4/40 + y**2", ["x", "y"])
        method = st.Momentum(st.SGD(), beta=BETA, nesterov=nesterov)
        one = st.Flow(F, method, st.Noise(gradient=0.3), step=STEP)
        options = {"start": [0.3, 0.2], "t_end": 3.0, "seed": 5, **part}
        plain = st.simulate(one, paths=3000, **options)
        ens = st.simulate(one, paths=1000, control=True, at=[0.0, 0.0], **options)
        assert ens.covariance_reduction[-1].min() > 3
        error = np.hypot(plain.covariance_error, ens.covariance_error)
        assert np.max(np.abs(plain.covariance - ens.covariance) / error) < 4


class TestExits:
    def test_the_ensembles_exits_are_timed_and_have_no_law(self):
        one = flow(lam=(1.0, -0.3), noise=st.Noise(gradient=0.2))
        found = st.escape(one, radius=1.0, paths=300, along="unstable", seed=2)
        assert np.isnan(found.rate)
        assert "with momentum" in found.reason
        v = st.linearize(one.without_memory()).vectors[:, 1]
        ens = st.simulate(
            one, start=[0.0, 0.0], t_end=found.t_end, paths=300, seed=2, exit=lambda w: np.abs(w @ v) < 1.0
        )
        np.testing.assert_allclose(found.times, ens.exit_times, rtol=1e-12)
        assert np.mean(found.left) > 0.99
        with pytest.raises(ValueError, match="with momentum the way out depends on the speed"):
            st.escape(one, radius=1.0, paths=20).bounds([1.0])


class TestBadInput:
    def test_what_does_not_belong_together(self):
        one = flow()
        with pytest.raises(ValueError, match=r"`state` keeps positions and buffer.*one of the two"):
            st.simulate(one, start=[0.0, 0.0], t_end=1.0, state=True, average=0.5)
        with pytest.raises(ValueError, match=r"`average` must be in \[0, 1\)"):
            st.simulate(one, start=[0.0, 0.0], t_end=1.0, average=1.0)
        with pytest.raises(ValueError, match=r"draws two samples a step.*scheme='euler'"):
            st.simulate(one, start=[0.0, 0.0], t_end=1.0, scheme="exponential", refine=1)

    def test_comparisons_of_what_theory_does_not_tell(self):
        adam = st.Flow(st.quadratic([1.0]), st.Adam(), st.Noise(gradient=1.0), step=0.1)
        ens = st.simulate(adam, start=[0.0], t_end=1.0, paths=5, level="iteration", state=True)
        with pytest.raises(ValueError, match=r"a metric is of positions.*state=False"):
            st.compare(st.linearize(adam), ens)
        plain = st.Flow(st.quadratic([1.0]), st.SGD(), st.Noise(gradient=1.0), step=0.1)
        with pytest.raises(ValueError, match=r"A trajectory tells of positions.*state=False"):
            st.compare(st.trajectory(plain, [0.0], 1.0), ens)
        far = st.simulate(adam, start=[9.0], t_end=1.0, paths=5, level="iteration")
        notes = st.compare(st.linearize(adam), far).notes
        assert any("the gradient is 9 times its noise" in note for note in notes)
        assert any("Until t = 500 or so the running mean of squares" in note for note in notes)
        one, options = flow(), {"average": 0.5, "scheme": "exponential", "control": True}
        with pytest.raises(ValueError, match=r"law of an `average` with scheme='euler' only"):
            st.simulate(one, start=[0.0, 0.0], t_end=1.0, **options)

    @forms
    def test_time_steps_beyond_the_chains_own_limit_are_told(self, nesterov):
        """At the step itself it is the iteration's: 2 (1 + beta) / h, and with Nesterov's form less."""
        pull = 2 * (1 + BETA) / (1 + 2 * BETA if nesterov else 1)
        for share, warns in ((0.99, False), (1.01, True)):
            one = flow(
                st.SGD(), nesterov=nesterov, lam=(1.0,), noise=st.Noise(gradient=0.3), step=share * pull
            )
            if warns:
                with pytest.warns(st.StabilityWarning, match=f"stability limit {pull / 1.01:.1f}"):
                    st.simulate(one, start=[0.0], t_end=one.step, paths=3)
            else:
                st.simulate(one, start=[0.0], t_end=one.step, paths=3)


@pytest.mark.parametrize("level", ["sde", "iteration"])
@pytest.mark.parametrize("additive", [True, False])
def test_other_libraries_give_numpys_paths(xp_backend, level, additive):
    noise = st.Noise(gradient=0.3) if additive else st.Noise(gradient=0.3, curvature=0.1)
    one, options = flow(noise=noise), {"start": [1.0, 0.5], "t_end": 2.0, "paths": 20, "seed": 5, "save": 2}
    options |= {"level": level, "rng": "host"}
    for more in ({"state": True}, {"average": 0.5}):
        here = st.simulate(one, device=replace(xp_backend), exit=0.6, **options, **more)
        wanted = st.simulate(one, exit=0.6, **options, **more)
        np.testing.assert_allclose(here.states, wanted.states, rtol=1e-11, atol=1e-12)
        np.testing.assert_array_equal(here.exit_times, wanted.exit_times)


@forms
class TestLimits:
    def test_the_equations_second_moments_are_the_iterations_to_first_order(self, nesterov):
        """Weak order one: the gap falls as the square of the step, which variances themselves follow."""
        gaps = []
        for step in (0.02, 0.01, 0.005):
            noise = st.Noise(gradient=1.0, curvature=0.2)
            lin = st.linearize(flow(st.SGD(), nesterov=nesterov, noise=noise, step=step))
            here, there = (lin.moments(2.0, [0.0, 0.0], time=time)[1] for time in ("discrete", "continuous"))
            gaps.append(np.linalg.norm(here - there))
        np.testing.assert_allclose([gaps[0] / gaps[1], gaps[1] / gaps[2]], 4.0, atol=0.2)

    @pytest.mark.slow
    def test_and_beyond_quadratics(self, nesterov):
        """On one Brownian path: the chain at the step is the iteration, at its sixteenth the equation."""
        gaps, errors = [], []
        for step in (0.2, 0.1):
            F, method = st.expression(WELL, ["x", "y"]), st.Momentum(st.SGD(), beta=0.5, nesterov=nesterov)
            one = st.Flow(F, method, st.Noise(gradient=1.0), step=step)
            options = {"start": [0.5, 0.5], "t_end": 2.0, "paths": 8000, "seed": 1}
            here, there = (st.simulate(one, refine=k, **options).states[-1] ** 2 for k in (0, 4))
            gaps.append(np.mean(there - here, axis=0))
            errors.append(np.std(there - here, axis=0) / np.sqrt(8000))
        assert np.max(np.abs(gaps[0]) / errors[0]) > 6
        slack = 4 * np.hypot(errors[1], errors[0] / 4) + 0.05 * np.max(np.abs(gaps[0]))
        assert np.all(np.abs(gaps[1] - gaps[0] / 4) < slack)

    def test_little_memory_is_hardly_any(self, nesterov):
        """The overdamped limit, path by path: off by a multiple of beta."""
        F, noise = st.expression(WELL, ["x", "y"]), st.Noise(gradient=0.3)
        options = {"start": [0.5, 0.5], "t_end": 2.0, "paths": 100, "seed": 1}
        plain = st.simulate(st.Flow(F, st.SGD(), noise, step=0.1), **options).states[-1]
        off = []
        for beta in (0.02, 0.01):
            method = st.Momentum(st.SGD(), beta=beta, nesterov=nesterov)
            ens = st.simulate(st.Flow(F, method, noise, step=0.1), **options)
            off.append(np.mean(np.abs(ens.states[-1] - plain)) / beta)
        assert off[0] > 0.01
        assert abs(off[0] / off[1] - 1) < 0.03
