"""The noise along a path: against closed forms, other roads to the same numbers, and ensembles."""

import dataclasses
import json
import sys

import numpy as np
import pytest
from scipy.integrate import quad, solve_ivp

import stability as st
from stability import _archive
from stability.trajectories.departure import _energy, _mean_distance, _null_kernel
from stability.trajectories.watch import Watch

METHODS = [
    st.SGD(),
    st.Newton(),
    st.DampedNewton(damping=0.3),
    st.SFN(damping=0.3),
    st.LRSFN(rank=2, damping=0.3),
    st.LRSFN(rank=1, damping=0.3, tail="flat"),
]
NOISES = [
    st.Noise(gradient=0.3),
    st.Noise(gradient=np.diag([0.3, 0.1, 0.2]), curvature=0.2, batch=4, hessian_batch=2, coupling="nested"),
]
COUPLED, WELL, VALLEY = (st.landscape(name) for name in ("coupled_quartic", "double_well", "rosenbrock"))


def flow(objective=COUPLED, method=None, *, noise=0.1, step=0.01, **options):
    return st.Flow(objective, method or st.SGD(), st.Noise(gradient=noise, **options), step=step)


def relative(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


class TestClosedForms:
    @pytest.mark.parametrize("method", METHODS, ids=lambda m: m.label)
    @pytest.mark.parametrize("noise", NOISES, ids=["additive", "with-curvature"])
    @pytest.mark.parametrize(
        "law",
        [{"time": "continuous"}, {"time": "chain", "dt": 0.1}, {"time": "discrete"}],
        ids=lambda law: law["time"],
    )
    def test_on_a_quadratic_it_is_the_linear_theory(self, method, noise, law):
        one = st.Flow(st.quadratic([1.0, -0.5, 0.1], rotation_seed=1), method, noise, step=0.2)
        start, covariance = [1.0, -0.4, 0.6], np.array([[0.1, 0.02, 0], [0.02, 0.05, 0.01], [0, 0.01, 0.2]])
        path = st.trajectory(one, start, 2.0, covariance=covariance, save=2, **law)
        linear = st.linearize(one)
        for i, t in enumerate(path.times):
            mean, spread = linear.moments(t, start, covariance, **law)
            assert relative(path.mean[i], mean) < 1e-9
            assert relative(path.covariance[i], spread) < 1e-9
        assert path.status == "ok"
        assert path.validity.max() < 1e-9

    def test_one_mode_with_a_nonlinear_drift(self):
        """``x' = -x^3``: ``x = a / sqrt(u)``, ``u = 1 + 2 a^2 t``, and ``S = C (u^4 - 1) / (8 a^2 u^3)``."""
        a, one = 1.3, flow(st.expression("x^4/4"), noise=0.7, step=0.02)
        path = st.trajectory(one, [a], 3.0, save=6)
        u = 1 + 2 * a**2 * path.times
        np.testing.assert_allclose(path.mean[:, 0], a / np.sqrt(u), rtol=1e-9)
        np.testing.assert_allclose(
            path.covariance[:, 0, 0], 0.02 * 0.49 * (u**4 - 1) / (8 * a**2 * u**3), rtol=1e-9, atol=1e-15
        )
        np.testing.assert_allclose(path.jacobian[:, 0, 0], -3 * path.mean[:, 0] ** 2, rtol=1e-12)
        np.testing.assert_allclose(path.growth, path.jacobian[:, 0, 0])
        np.testing.assert_allclose(path.amplification, 1.0)

    def test_newtons_mean_and_variance_where_the_gain_moves(self):
        """Newton on ``x^4/4``: ``x' = -x/3``, gain ``1/(3 x^2)``, ``x = a exp(-t/3)``.

        So ``S' = -2 S/3 + alpha sigma^2 / (9 x^4)``.
        """
        a, one = 1.3, flow(st.expression("x^4/4"), st.Newton(), noise=0.7, step=0.02)
        path = st.trajectory(one, [a], 2.0, save=4)
        t, strength = path.times, 0.02 * 0.49 / (9 * a**4)
        np.testing.assert_allclose(path.mean[:, 0], a * np.exp(-t / 3), rtol=1e-9)
        np.testing.assert_allclose(
            path.covariance[:, 0, 0],
            strength * (np.exp(4 * t / 3) - np.exp(-2 * t / 3)) / 2,
            rtol=1e-9,
            atol=1e-15,
        )
        np.testing.assert_allclose(path.amplification, 1 / (9 * path.mean[:, 0] ** 4), rtol=1e-9)

    def test_amplification_and_growth_at_a_point(self):
        one = flow(st.quadratic([1.0, -0.25]), st.SFN(damping=0.25), noise=1.0)
        path = st.trajectory(one, [1.0, 0.1], 1.0, save=1)
        np.testing.assert_allclose(path.amplification, (1 / 1.25**2 + 1 / 0.5**2) / 2)
        np.testing.assert_allclose(path.growth, 0.5)

    def test_validity_is_what_the_linear_drift_misses(self):
        """At ``x = 0`` of ``x^4/4 - x^2/2`` the drift is ``x - x^3``.

        Of its change at one standard deviation s the linear one misses ``s^2``.
        """
        path = st.trajectory(
            flow(st.expression("x^4/4 - x^2/2")), [0.0], 1.0, covariance=[[0.04]], save=[0.0]
        )
        np.testing.assert_allclose(path.validity, [0.04], rtol=1e-12)
        bent = st.trajectory(
            flow(st.expression("x^3/3 + x^2/2")), [0.0], 1.0, covariance=[[0.04]], save=[0.0]
        )  # -x - x^2
        np.testing.assert_allclose(bent.validity, [0.2 / np.sqrt(1 + 0.04)], rtol=1e-12)


class TestOtherRoads:
    CASES = (
        (COUPLED, st.SGD(), [0.2, 1.0]),
        (COUPLED, st.SFN(damping=0.3), [0.2, 1.0]),  # the lower eigenvalue changes its sign on the way
        (COUPLED, st.LRSFN(rank=1, damping=0.3, tail="flat"), [0.2, 1.0]),
        (COUPLED, st.DampedNewton(damping=2.0), [0.2, 1.0]),
        (VALLEY, st.SGD(), [-1.0, 0.9]),
        (WELL, st.DampedNewton(damping=1.5), [0.3, 1.0]),
    )

    @staticmethod
    def flown(one, w, start, stop):
        with np.errstate(all="ignore"):
            return solve_ivp(
                lambda _, y: one.drift(y), (start, stop), w, method="DOP853", rtol=1e-9, atol=1e-11
            ).y[:, -1]

    @pytest.mark.slow
    @pytest.mark.parametrize(("objective", "method", "start"), CASES, ids=lambda x: getattr(x, "label", ""))
    def test_without_noise_deviations_are_carried_as_by_the_flow_itself(self, objective, method, start):
        """Columns of the flow map's derivative by central differences, and ``S = Phi S_0 Phi^T``."""
        one, end, h = st.Flow(objective, method, step=0.1), 0.3 if objective is VALLEY else 1.5, 1e-4
        columns = [
            (self.flown(one, start + h * e, 0, end) - self.flown(one, start - h * e, 0, end)) / (2 * h)
            for e in np.eye(2)
        ]
        phi, S = np.stack(columns, axis=1), np.array([[2.0, 0.3], [0.3, 1.0]])
        path = st.trajectory(one, start, end, covariance=1e-12 * S, save=1)
        assert relative(path.covariance[-1], 1e-12 * phi @ S @ phi.T) < 1e-4

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("objective", "start", "end"),
        [(COUPLED, [0.1, 1.0], 0.3), (WELL, [0.1, 1.0], 1.0)],
        ids=["coupled", "well"],
    )
    def test_a_jump_of_the_drift_carries_the_covariance_across(self, objective, start, end):
        """LRSFN changes its direction, and the drift jumps by more than its size.

        The derivative of the flow map agrees.
        """
        one, h = st.Flow(objective, st.LRSFN(rank=1, damping=0.3), step=0.1), 1e-4
        columns = [
            (self.flown(one, start + h * e, 0, end) - self.flown(one, start - h * e, 0, end)) / (2 * h)
            for e in np.eye(2)
        ]
        phi = np.stack(columns, axis=1)
        path = st.trajectory(one, start, end, covariance=1e-12 * np.eye(2), save=1)
        assert any("carried across" in note for note in path.notes)
        assert relative(path.covariance[-1], 1e-12 * phi @ phi.T) < 1e-4
        assert path.status == "ok"

    @pytest.mark.parametrize("method", [st.SGD(), st.DampedNewton(damping=2.0)], ids=lambda m: m.label)
    def test_the_covariance_is_the_integral_of_what_the_noise_adds(self, method):
        """``S = int Phi(t, s) C(s) Phi(t, s)^T ds``, by the adjoint backward in time and by quadrature."""
        one, end = flow(method=method, curvature=0.0), 2.0
        path = solve_ivp(
            lambda _, m: one.drift(m),
            (0, end),
            [0.2, 1.0],
            method="DOP853",
            rtol=1e-12,
            atol=1e-14,
            dense_output=True,
        ).sol

        def backward(s, y):  # d Phi(t, s) / ds = -Phi(t, s) J(s)
            return -(y.reshape(2, 2) @ one.jacobian(path(s))).ravel()

        phi = solve_ivp(
            backward, (end, 0), np.eye(2).ravel(), method="DOP853", rtol=1e-12, atol=1e-14, dense_output=True
        ).sol

        def gained(s, i, j):
            return (phi(s).reshape(2, 2) @ one.diffusion(path(s)) @ phi(s).reshape(2, 2).T)[i, j]

        S = [
            [quad(gained, 0, end, args=(i, j), epsrel=1e-9, epsabs=0)[0] for j in range(2)] for i in range(2)
        ]
        assert relative(st.trajectory(one, [0.2, 1.0], end, save=1).covariance[-1], np.array(S)) < 1e-8

    @pytest.mark.slow
    def test_the_chain_tends_to_the_sde_at_first_order(self):
        one = flow(method=st.SFN(damping=1.0))
        exact = st.trajectory(one, [0.2, 1.0], 1.0, save=1).covariance[-1]
        errors = [
            np.linalg.norm(
                st.trajectory(one, [0.2, 1.0], 1.0, save=1, time="chain", dt=dt).covariance[-1] - exact
            )
            for dt in (0.02, 0.01, 0.005)
        ]
        np.testing.assert_allclose(np.log2(np.divide(errors[:-1], errors[1:])), 1, atol=0.1)

    @pytest.mark.slow
    def test_a_stiff_path(self):
        """Rosenbrock's valley with SGD, rates of a thousand, to t = 1, by SciPy's implicit Radau."""
        one = flow(VALLEY, noise=1.0, step=1e-3)

        def rate(_, y):
            S, J = y[2:].reshape(2, 2), one.jacobian(y[:2])
            return np.concatenate([one.drift(y[:2]), (J @ S + S @ J.T + 1e3 * one.diffusion(y[:2])).ravel()])

        found = solve_ivp(rate, (0, 1), [-1.0, 1.0, 0, 0, 0, 0], method="Radau", rtol=1e-7, atol=1e-10).y[
            :, -1
        ]
        path = st.trajectory(one, [-1.0, 1.0], 1.0, save=1)
        assert relative(path.mean[-1], found[:2]) < 1e-6
        assert relative(path.covariance[-1], 1e-3 * found[2:].reshape(2, 2)) < 1e-6


class TestEnsembles:
    CASES = (
        (COUPLED, st.SGD(), [0.3, 1.0], 2.0),
        (COUPLED, st.SFN(damping=1.0), [0.3, 1.0], 1.0),
        (VALLEY, st.LRSFN(rank=1, damping=20.0), [-0.5, 0.5], 1.0),
        (WELL, st.DampedNewton(damping=3.0), [0.3, 1.0], 2.0),
    )

    @staticmethod
    def pair(one, start, t_end, dt, *, paths=4000, save=2, seed=1, **options):
        ens = st.simulate(one, start=start, t_end=t_end, dt=dt, paths=paths, seed=seed, save=save, **options)
        return st.trajectory(one, start, t_end, time="chain", dt=dt, save=ens.times), ens

    @pytest.mark.parametrize(
        ("objective", "method", "start", "end"), CASES, ids=lambda x: getattr(x, "label", "")
    )
    def test_in_small_noise_the_whole_law_agrees(self, objective, method, start, end):
        path, ens = self.pair(flow(objective, method, noise=1e-3), start, end, 0.05)
        found = st.compare(path, ens)
        assert found.max_z < 4
        assert found.law == "chain along the path"
        assert found.times.tolist() == [end / 2, end]
        assert np.abs(path.departure(ens).z).max() < 4
        assert path.status == "ok"
        assert not found.notes

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("objective", "method", "start", "end"), CASES, ids=lambda x: getattr(x, "label", "")
    )
    def test_the_covariances_error_is_proportional_to_step(self, objective, method, start, end):
        """The same noise at a step that leaves the linear response alone is the control variate."""
        scale = {"LRSFN(1)": 20.0, "damped Newton": 1.0}.get(method.label, 0.3)

        def covariance(step):
            one = st.Flow(objective, method, st.Noise(gradient=scale), step=step)
            ens = st.simulate(one, start=start, t_end=end, dt=0.05, paths=40_000, seed=3)
            blocks = np.array_split(ens.states[-1], 20)
            return np.array([np.cov(block.T) for block in blocks]) / step

        predicted = st.trajectory(
            st.Flow(objective, method, st.Noise(gradient=scale), step=1.0), start, end, time="chain", dt=0.05
        ).covariance[-1]
        linear = covariance(1e-10)
        i, j = np.unravel_index(np.abs(np.mean(covariance(0.02) - linear, axis=0)).argmax(), (2, 2))
        steps = np.array([0.01, 0.005, 0.0025])
        misses = np.array([(covariance(step) - linear)[:, i, j] for step in steps]) / predicted[i, j]
        mean = misses.mean(axis=1)
        drops = np.log(np.array([np.delete(misses, b, axis=1).mean(axis=1) for b in range(20)]) / mean[0])
        slopes = (
            np.log(mean[-1] / mean[0]) / np.log(steps[-1] / steps[0]),
            (drops[:, -1] - drops[:, 0]) / np.log(steps[-1] / steps[0]),
        )
        error = np.sqrt(19 * np.var(slopes[1]))
        assert abs(mean[0] / misses[0].std() * np.sqrt(20)) > 4  # there is something to see
        assert abs(slopes[0] - 1) < 0.05 + 3 * error
        assert error < 0.15

    def test_paths_that_split_at_a_saddle_are_seen_by_the_law_not_by_a_mean(self):
        path, ens = self.pair(flow(WELL, noise=0.3, step=0.1), [0.0, 1.0], 6.0, 0.1, save=3)
        assert np.abs(st.compare(path, ens).mean_z[:, 0]).max() < 4
        departure = path.departure(ens)
        assert departure.z[-1] > 40
        assert departure.shift[-1] > 0.4
        assert path.validity[-1] > 0.5
        assert path.status.startswith("outside validity")
        assert not path.valid

    def test_a_law_with_the_right_moments_and_another_shape_is_told_apart(self):
        """Signs instead of normals have a Gaussian's mean and variance."""
        one = flow(st.quadratic([1.0]), noise=1.0)
        path, ens = self.pair(one, [0.0], 1.0, 0.1, save=[1.0])
        signs = np.sqrt(path.covariance[-1, 0, 0]) * np.resize([[1.0], [-1.0]], ens.states[-1:].shape)
        two_points = replaced(ens, states=signs)
        assert path.departure(two_points).z[0] > 50
        assert abs(path.departure(ens).z[0]) < 4

    def test_the_null_level_is_calibrated(self):
        """Over 40 ensembles of the predicted law itself, z has mean 0 and at most unit variance."""
        path, ens = self.pair(
            flow(st.quadratic([1.0, 0.3]), noise=1.0), [0.0, 1.0], 1.0, 0.1, save=[1.0], paths=128
        )
        root = np.linalg.cholesky(path.covariance[-1])
        rng = np.random.default_rng(5)
        z = []
        for _ in range(40):
            states = path.mean[-1] + rng.standard_normal((1, 2000, 2)) @ root.T
            many = replaced(ens, states=states, diverged=np.zeros(2000, dtype=bool))
            z.append(path.departure(many).z[0])
        assert abs(np.mean(z)) < 4 / np.sqrt(40)
        assert 0.5 < np.std(z) < 1.2

    def test_the_iteration_with_additive_noise(self):
        one = flow(noise=0.05, step=0.1)
        ens = st.simulate(one, start=[0.3, 1.0], t_end=1.0, level="iteration", paths=4000, seed=2)
        path = st.trajectory(one, [0.3, 1.0], 1.0, time="discrete", save=ens.times)
        assert st.compare(path, ens).max_z < 4
        assert st.compare(path, ens).law == "discrete along the path"

    def test_curvature_noise_feeds_the_tube_through_its_width(self):
        """Without gradient noise nothing enters at the reference point: its change keeps the tube open."""
        one = st.Flow(COUPLED, st.SGD(), st.Noise(curvature=0.9, reference=[1.0, 0.0]), step=0.1)
        path, ens = (
            st.trajectory(one, [1.0, 0.0], 1.0, covariance=1e-6 * np.eye(2), time="chain", dt=0.1, save=2),
            st.simulate(
                one,
                start=np.random.default_rng(0).normal([1.0, 0.0], 1e-3, (20_000, 2)),
                t_end=1.0,
                paths=20_000,
                seed=1,
                save=2,
            ),
        )
        assert st.compare(path, ens).max_z < 4
        assert path.covariance[-1, 1, 1] > 1.05e-6 * 0.9**20  # more than its decay alone leaves

    def test_the_exponential_scheme_is_held_against_continuous_time(self):
        one = flow(st.quadratic([1.0, 0.2]), noise=1.0)
        ens = st.simulate(one, start=[1.0, 1.0], t_end=2.0, dt=0.5, scheme="exponential", paths=4000, seed=1)
        found = st.compare(st.trajectory(one, [1.0, 1.0], 2.0, save=ens.times), ens)
        assert found.max_z < 4
        assert any("exponential" in note for note in found.notes)

    def test_diverged_paths_are_told(self):
        one = flow(WELL, noise=0.3, step=0.1)
        path, ens = self.pair(one, [0.0, 1.0], 3.0, 0.1, radius=1.2)
        lost = int(ens.diverged.sum())
        assert 0 < lost < 4000
        for notes in (st.compare(path, ens).notes, path.departure(ens).notes):
            assert (
                notes[0] == f"{lost} of 4000 paths diverged: what is measured is conditional on the others."
            )
        assert "validity indicator" in st.compare(path, ens).notes[1]

    def test_another_flow_is_told(self):
        path, _ = self.pair(flow(noise=0.1), [0.3, 1.0], 1.0, 0.1)
        _, ens = self.pair(flow(noise=0.2), [0.3, 1.0], 1.0, 0.1)
        assert any("of another flow" in note for note in st.compare(path, ens).notes)


def replaced(ensemble, **changes):
    return dataclasses.replace(ensemble, **changes)


class TestEnergyDistance:
    @pytest.mark.slow
    @pytest.mark.parametrize("dim", [1, 2, 5, 40])
    def test_the_gaussians_part_is_exact(self, dim):
        """``E|x - Z|`` against a million draws, near and far."""
        z = np.random.default_rng(0).standard_normal((200_000, dim))
        for size in (0.0, 0.7, 3.0, 400.0):
            lengths = np.linalg.norm(z - size * np.eye(dim)[0], axis=1)
            found = _mean_distance(np.array([size]), 1.0, dim)[0]
            assert abs(found - lengths.mean()) < 4 * lengths.std() / np.sqrt(len(z))

    def test_of_a_shifted_normal_law_it_is_the_known_one(self):
        """In one dimension ``4 (phi(s/sqrt 2) sqrt 2 + s Phi(s/sqrt 2) - s/2) - 4/sqrt(pi)``.

        That is ``2 E|Z + s - Z'| - 2 E|Z - Z'|``.
        """
        from scipy.stats import norm

        s, r = 0.5, 0.5 / np.sqrt(2)
        exact = 2 * (2 * np.sqrt(2) * norm.pdf(r) + s * (2 * norm.cdf(r) - 1)) - 4 / np.sqrt(np.pi)
        x = np.random.default_rng(1).standard_normal((40, 1500, 1)) + s
        found = [_energy(block) for block in x]
        assert abs(np.mean(found) - exact) < 4 * np.std(found) / np.sqrt(40)

    def test_the_null_kernels_mean_square_in_one_dimension(self):
        """Another million pairs, drawn apart."""
        rng = np.random.default_rng(7)
        x, y = rng.standard_normal((2, 1_000_000, 1))
        kernel = (
            _mean_distance(np.abs(x[:, 0]), 1.0, 1)
            + _mean_distance(np.abs(y[:, 0]), 1.0, 1)
            - np.abs(x - y)[:, 0]
            - _mean_distance(np.zeros(1), 2.0, 1)
        )
        assert _null_kernel(1) == pytest.approx(np.sqrt(np.mean(kernel**2)), rel=0.05)


class TestWhereItIsNotSmooth:
    @pytest.mark.slow
    def test_a_pole_in_continuous_time_ends_the_path_there(self):
        """Newton on ``x^3/3 + x`` reaches 0 at ``t = log(1 + x_0^2)`` with infinite speed.

        ``x' = -(x^2 + 1)/(2 x)``.
        """
        path = st.trajectory(flow(st.expression("x^3/3 + x"), st.Newton()), [0.5], 5.0)
        assert path.times[-1] == pytest.approx(np.log(1.25), abs=1e-8)
        assert path.status.startswith("stopped at t = 0.223144: ")
        assert "pole" in path.status
        np.testing.assert_allclose(path.mean[:-1, 0], np.sqrt(1.25 * np.exp(-path.times[:-1]) - 1), rtol=1e-8)
        assert path.validity[-1] > 0.1

    def test_a_solver_that_stepped_over_a_pole_would_be_stopped(self):
        one = flow(st.expression("x^3/3 + x"), st.Newton())
        begin, behind = (0.0, np.array([0.5]), np.zeros((1, 1))), (0.1, np.array([-0.3]), np.zeros((1, 1)))
        watch = Watch(one, begin, continuous=True)
        assert not watch.passes(begin, behind)
        assert watch.stopped.startswith("stopped at t = 0: the path meets a pole of Newton's gain")

    @pytest.mark.slow
    def test_endless_jumps_end(self, monkeypatch):
        monkeypatch.setattr(sys.modules["stability.trajectories.walk"], "CROSSINGS", 1)
        path = st.trajectory(flow(WELL, st.LRSFN(rank=1, damping=0.3)), [0.1, 1.0], 2.0, save=2)
        assert path.status.startswith("stopped at t = 0.79")
        assert path.status.endswith("the drift has jumped 1 times")

    def test_a_chain_steps_over_a_pole_and_says_so(self):
        path = st.trajectory(flow(st.expression("x^3/3 + x"), st.Newton()), [0.5], 1.0, time="chain", dt=0.1)
        assert path.times[-1] == 1.0
        assert path.status.startswith("the mean path steps over a pole")
        assert any("steps over a pole" in note for note in path.notes)

    def test_a_chain_that_lands_on_a_pole(self):
        """Damped Newton, ``H = 2 x``, damping 1: from 1 a step of 3.375 leads to the pole at -1/2."""
        one = flow(st.expression("x^3/3"), st.DampedNewton(damping=1.0))
        path = st.trajectory(one, [1.0], 9.0, time="chain", dt=4.5)
        assert path.mean[-1, 0] == 1.0
        assert path.status.startswith("stopped at t = 0")

    @pytest.mark.slow
    def test_sfns_kink_is_named_and_harmless_to_a_narrow_tube(self):
        path = st.trajectory(flow(WELL, st.SFN(damping=0.3), noise=0.001), [0.1, 1.0], 3.0, save=3)
        (note,) = path.notes
        assert "kink" in note
        assert path.status == "ok"

    @pytest.mark.parametrize(("step", "ok"), [(1e-8, True), (1e-6, False), (3e-6, False)])
    def test_a_tube_that_straddles_a_kink_for_a_whole_step_is_doubted(self, step, ok):
        """A state lies within two deviations of the kink; paths on its other side take another Jacobian."""
        bent = st.expression("x^4/4 - x^2/2 + y^2/2 + 0.3*x*y + 0.1*x^2*y")
        one = st.Flow(bent, st.SFN(damping=0.4), st.Noise(gradient=1.0), step=step)
        ens = st.simulate(one, start=[0.4, 0.9], t_end=1.0, dt=0.05, paths=20_000, seed=1)
        path = st.trajectory(one, [0.4, 0.9], 1.0, time="chain", dt=0.05, save=1)
        worst = np.abs(st.compare(path, ens).covariance_z).max()
        assert (worst < 4) == ok
        assert (path.status == "ok") == ok
        assert ok or "straddles a kink of the gain: S may be off by" in path.status

    def test_a_chain_does_not_see_a_jump_and_says_so(self):
        path = st.trajectory(flow(WELL, st.LRSFN(rank=1, damping=0.3)), [0.1, 1.0], 2.0, time="chain", dt=0.1)
        assert "the drift jumps by" in path.status
        assert any("does not see" in note for note in path.notes)

    def test_a_flat_tail_does_not_jump(self):
        path = st.trajectory(
            flow(COUPLED, st.LRSFN(rank=1, damping=0.3, tail="flat"), noise=0.01), [0.1, 1.0], 1.0, save=2
        )
        assert any("keeps other directions; the drift does not jump" in note for note in path.notes)

    def test_where_the_drift_points_back_the_path_ends(self):
        """LRSFN on ``-cos x - cos y``: the flatter direction is not kept and moves faster.

        Until it is the steeper one; then the other is.
        """
        method = st.LRSFN(rank=1, damping=0.3)

        def gap(_, w):
            return w[0] - w[1]

        gap.terminal = True
        rate = solve_ivp(
            lambda _, w: [-np.sin(w[0]) / 0.3, -np.sin(w[1]) / (np.cos(w[1]) + 0.3)],
            (0, 9),
            [1.0, 0.8],
            rtol=1e-10,
            events=gap,
        )
        path = st.trajectory(flow(st.expression("-cos(x) - cos(y)"), method), [1.0, 0.8], 1.0, save=5)
        assert path.times[-1] == pytest.approx(rate.t[-1], abs=1e-6)
        assert path.status.startswith("stopped at")
        assert "slides along" in path.status
        np.testing.assert_allclose(path.mean[-1], rate.y[:, -1], atol=1e-5)

    @pytest.mark.slow
    @pytest.mark.parametrize("law", [{}, {"time": "chain", "dt": 0.1}], ids=["continuous", "chain"])
    def test_a_diverging_mean_path_is_cut_off(self, law):
        path = st.trajectory(flow(st.expression("x^3/3 + x")), [0.5], 10.0, **law)
        assert path.status.startswith(f"stopped at t = {path.times[-1]:.6g}: the mean path diverged")
        assert np.isfinite(path.covariance).all()
        if not law:  # x' = -(x^2 + 1): minus infinity at t = atan(1/2) + pi/2
            assert path.times[-1] == pytest.approx(np.arctan(0.5) + np.pi / 2, abs=1e-5)

    def test_an_exploding_chain(self):
        path = st.trajectory(flow(st.quadratic([1.0]), step=3.0), [1.0], 300.0, time="discrete")
        assert path.status.endswith("the mean path diverged")

    def test_a_covariance_that_overflows_while_the_mean_rests(self):
        path = st.trajectory(flow(st.quadratic([-1.0])), [0.0], 900.0, time="chain", dt=0.5)
        assert path.status.endswith("the covariance overflowed")

    def test_the_end_of_the_domain(self):
        path = st.trajectory(
            flow(st.expression("x*log(x) + 3*x"), st.SGD()), [0.5], 5.0, time="chain", dt=0.5
        )
        assert path.status.startswith("stopped at t = 0")

    CORNERS = (
        ("x + abs(x - y/2)/2 + y^2/2", st.SGD(), [0.5, 0.3], 0.7),
        ("x + abs(x - y/2)/2 + y^2/2 + x^2/3", st.SFN(damping=1.0), [0.5, 0.3], 1.2),
        (
            "x*x + 1.5*x + y^2/2 + (x - y/3)*abs(x - y/3)/2",
            st.SFN(damping=1.0),
            [0.5, 0.4],
            1.5,
        ),  # the Hessian jumps, the gradient does not
    )

    @pytest.mark.slow
    @pytest.mark.parametrize(("text", "method", "start", "end"), CORNERS)
    def test_a_corner_of_the_objective_carries_the_covariance_across(self, text, method, start, end):
        one, h = st.Flow(st.expression(text), method, step=0.1), 1e-4
        columns = [
            (
                TestOtherRoads.flown(one, start + h * e, 0, end)
                - TestOtherRoads.flown(one, start - h * e, 0, end)
            )
            / (2 * h)
            for e in np.eye(2)
        ]
        phi, path = (
            np.stack(columns, axis=1),
            st.trajectory(one, start, end, covariance=1e-12 * np.eye(2), save=1),
        )
        assert any("carried across" in note for note in path.notes)
        assert relative(path.covariance[-1], 1e-12 * phi @ phi.T) < 1e-4

    def test_a_corner_that_is_a_minimum_holds_the_path(self):
        path = st.trajectory(flow(st.expression("abs(x) + y^2")), [0.5, 1.0], 3.0, save=3)
        assert path.times[-1] == pytest.approx(0.5, abs=1e-6)
        assert "slides along" in path.status
        chain = st.trajectory(flow(st.expression("abs(x) + y^2")), [0.5, 1.0], 3.0, time="chain", dt=0.04)
        assert chain.status.startswith("the drift jumps by")

    def test_a_jump_of_the_gain_itself_is_doubted(self):
        """A gain of 3 on one side of zero and 1 on the other: where it jumps is not known to the path."""
        one = flow(st.expression("x^3/3 + x"), st.Method(gain=lambda lam: 2 + abs(lam) / lam))
        path = st.trajectory(one, [0.3], 0.4, save=1)
        assert path.status.startswith("the drift jumps by 0.67 of itself")
        assert any("which the mean path's Jacobian does not see" in note for note in path.notes)

    def test_a_swap_where_the_jacobian_is_infinite(self):
        """LRSFN on ``x^1.5 + y^2``: the solver ends on eigenvalues of equal size, 0.75/sqrt(x) = 2."""
        path = st.trajectory(
            flow(st.expression("x^1.5 + y^2"), st.LRSFN(rank=1, damping=0.3)), [0.5, 1.0], 0.2, save=1
        )
        assert path.times[-1] == 0.2
        assert "carried across" in path.notes[0]

    def test_a_chain_that_leaves_the_domain(self):
        """Beyond x = 1 the objective has no value, but its derivatives have."""
        one = flow(st.expression("y^2 - log(1 - x^2)"))
        path = st.trajectory(one, [0.99, 1.0], 3.0, time="chain", dt=0.05)
        assert path.status == "stopped at t = 0: the mean path leaves the domain of the objective"
        wide = st.trajectory(one, [0.9, 1.0], 0.1, covariance=0.04 * np.eye(2), save=[0.0])
        assert wide.validity[0] == 2.0

    def test_a_smooth_gain_has_no_kink(self):
        path = st.trajectory(
            flow(COUPLED, st.gallery.rsfn(eps=0.01)), [0.3, 1.0], 1.0, save=1, time="chain", dt=0.05
        )
        assert not path.notes

    def test_a_pole_that_keeps_its_sign(self):
        path = st.trajectory(
            flow(WELL, st.gallery.fractional(power=0.5)), [0.3, 1.0], 1.0, time="chain", dt=0.05
        )
        assert path.status.startswith(
            "the mean path steps over a pole of the gain at t = 0.55; outside validity"
        )

    def test_an_eigenvalue_that_a_truncation_does_not_read_has_no_pole(self):
        """NewSamp(1) reads the largest two of three curvatures; the third changes its sign."""
        path = st.trajectory(
            flow(st.expression("x^2 + y^2/2 + z^4/4 - z^2/20"), st.gallery.newsamp(rank=1)),
            [0.3, 0.1, 0.1],
            1.0,
            save=1,
        )
        assert path.status == "ok"

    def test_equal_eigenvalues_of_a_quadratic_are_no_obstacle(self):
        """Its preconditioner does not move: rank 1 keeps one of the two for good."""
        one = flow(st.quadratic([1.0, 1.0, 0.5]), st.LRSFN(rank=1, damping=0.3))
        path = st.trajectory(one, [0.3, 0.1, 0.2], 1.0, save=1)
        assert path.status == "ok"
        assert (
            relative(
                path.covariance[-1],
                st.linearize(one).moments(1.0, [0.3, 0.1, 0.2], np.zeros((3, 3)), time="continuous")[1],
            )
            < 1e-9
        )

    @pytest.mark.slow
    def test_a_fast_start_is_no_obstacle(self):
        """``x' = -exp(x)`` from 30: ``x = -log(t + exp(-30))``, first on a scale of 1e-13."""
        path = st.trajectory(flow(st.expression("exp(x)")), [30.0], 0.1, save=[0.1])
        assert path.mean[-1, 0] == pytest.approx(-np.log(0.1), rel=1e-8)

    def test_tiny_units(self):
        """The same problem in other units: without noise nothing but the mean sets the solver's tolerance."""
        near, far = (
            st.trajectory(
                st.Flow(st.expression(f"(x/{u})^4/4 - (x/{u})^2/2"), st.SGD(), step=0.1),
                [0.3 * u],
                3 * u**2,
                save=1,
            )
            for u in (1.0, 1e-20)
        )
        assert relative(far.mean, 1e-20 * near.mean) < 1e-9

    def test_a_solver_that_needs_too_long_says_so(self, monkeypatch):
        monkeypatch.setattr(sys.modules["stability.trajectories.walk"], "SOLVER_STEPS", 10)
        assert "has taken 10 steps and is not at the end" in st.trajectory(flow(), [0.3, 1.0], 1.0).status
        monkeypatch.setattr(sys.modules["stability.trajectories.equations"], "MAX_CALLS", 1)
        assert "makes no headway" in st.trajectory(flow(), [0.3, 1.0], 1.0).status

    @pytest.mark.slow
    def test_rank_equal_to_the_dimension_keeps_all(self):
        full, sfn = (
            st.trajectory(flow(COUPLED, m), [0.2, 1.0], 1.0, save=1)
            for m in (st.LRSFN(rank=2, damping=0.3), st.SFN(damping=0.3))
        )
        np.testing.assert_allclose(full.covariance, sfn.covariance, rtol=1e-9, atol=1e-15)

    def test_a_gain_that_passes_zero_has_no_pole(self):
        """``phi = lam`` descends ``|grad F|^2 / 2``; its sign changes with the curvature's."""
        path = st.trajectory(flow(WELL, st.Method(gain=lambda lam: lam)), [0.7, 1.0], 2.0, save=1)
        assert not path.notes
        path = st.trajectory(flow(WELL, st.Method(gain=lambda lam: lam)), [0.5, 1.0], 2.0, save=1)
        assert path.times[-1] == 2.0


class TestResult:
    def test_prints_a_table_and_is_saved(self, tmp_path):
        path = st.trajectory(flow(WELL, st.SFN(damping=0.3), noise=0.001), [0.45, 1.0], 1.0)
        text = str(path)
        assert text.startswith("SFN along a path, step 0.01: the SDE, to t = 1\n")
        assert text.endswith("status: ok")
        assert "kink" in text
        again = st.load(st.save(path, tmp_path / "path"))
        assert str(again) == text
        assert isinstance(again.notes, tuple)

    def test_a_departure_prints_and_is_saved(self, tmp_path):
        path, ens = TestEnsembles.pair(flow(noise=0.01), [0.3, 1.0], 1.0, 0.1, paths=200)
        departure = path.departure(ens)
        assert "law of 200 paths" in str(departure)
        assert str(st.load(st.save(departure, tmp_path / "departure"))) == str(departure)

    def test_a_saved_path_can_be_compared(self, tmp_path):
        path, ens = TestEnsembles.pair(flow(noise=0.01), [0.3, 1.0], 1.0, 0.1)
        again = st.load(st.save(path, tmp_path / "path"))
        assert st.compare(again, ens).max_z == st.compare(path, ens).max_z

    @pytest.mark.parametrize(
        ("seen", "start", "followed"),
        [
            (flow(noise=0.01), [0.3, 1.0], True),
            (flow(WELL, noise=0.3, step=0.1), [0.0, 1.0], True),  # outside validity
            (flow(st.expression("abs(x) + y^2")), [0.5, 1.0], False),  # stopped
        ],
    )
    def test_what_speaks_against_a_path_is_known_of_those_saved_before_it_was_told_apart(
        self, seen, start, followed, tmp_path
    ):
        path = st.trajectory(seen, start, 3.0, save=3)
        assert path.followed is followed
        assert path.valid is (path.status == "ok")
        file = st.save(path, tmp_path / "path")
        arrays, text = _archive.unpack(file)
        record = json.loads(text)
        del record["values"]["followed"]
        file.write_bytes(_archive.pack(arrays, json.dumps(record)))
        assert st.load(file).followed is followed

    def test_the_comparison_says_why_a_path_is_doubted_unless_it_is_validity_alone(self):
        path, ens = TestEnsembles.pair(flow(WELL, noise=0.3, step=0.1), [0.0, 1.0], 3.0, 0.1, save=3)
        assert path.followed
        assert not path.valid
        assert not any(note.startswith("The path:") for note in st.compare(path, ens).notes)
        doubted = dataclasses.replace(path, followed=False, status="doubted.")
        assert "The path: doubted." in st.compare(doubted, ens).notes

    def test_times_to_save(self):
        one = flow(WELL)
        assert len(st.trajectory(one, [0.3, 1.0], 1.0).times) == 101
        np.testing.assert_allclose(st.trajectory(one, [0.3, 1.0], 1.0, save=4).times, [0, 0.25, 0.5, 0.75, 1])
        np.testing.assert_allclose(st.trajectory(one, [0.3, 1.0], 1.0, save=[0.2, 0.7]).times, [0.2, 0.7])
        np.testing.assert_allclose(
            st.trajectory(one, [0.3, 1.0], 1.0, time="chain", dt=0.25).times, [0, 0.25, 0.5, 0.75, 1]
        )
        np.testing.assert_allclose(
            st.trajectory(one, [0.3, 1.0], 1.0, time="chain", dt=0.1, save=[0.3, 1.0]).times, [0.3, 1.0]
        )

    def test_in_between_times_are_as_accurate_as_the_last(self):
        one = flow(noise=0.1)
        path = st.trajectory(one, [0.3, 1.0], 3.0, save=7)
        np.testing.assert_allclose(path.times, np.linspace(0, 3, 8))
        for i in (1, 4):
            assert (
                relative(
                    path.covariance[i],
                    st.trajectory(one, [0.3, 1.0], float(path.times[i]), save=1).covariance[-1],
                )
                < 1e-8
            )

    def test_validity_between_saved_times_is_not_lost(self):
        one = flow(WELL, st.SFN(damping=0.3), noise=0.3)
        fine, coarse = (st.trajectory(one, [0.1, 1.0], 5.0, time="chain", dt=0.05, save=n) for n in (100, 2))
        assert coarse.validity.max() == pytest.approx(fine.validity.max())
        assert fine.validity[-1] < 0.1 < fine.validity.max()

    def test_without_noise_there_is_no_tube(self):
        path = st.trajectory(st.Flow(COUPLED, st.SGD(), step=0.1), [0.2, 1.0], 1.0)
        assert not path.covariance.any()
        assert np.isnan(path.amplification).all()
        assert path.status == "ok"
        ens = st.simulate(
            st.Flow(COUPLED, st.SGD(), step=0.1), start=[0.2, 1.0], t_end=1.0, paths=128, seed=0
        )
        quiet = st.trajectory(
            st.Flow(COUPLED, st.SGD(), step=0.1), [0.2, 1.0], 1.0, time="chain", save=ens.times
        )
        assert np.isnan(quiet.departure(ens).distance).all()
        assert st.compare(quiet, ens).max_z == 0

    def test_noise_in_one_direction_only(self):
        one = flow(st.quadratic([1.0, 0.5]), noise=np.array([1.0, 0.0]))
        path, ens = TestEnsembles.pair(one, [0.0, 1.0], 1.0, 0.1)
        departure = path.departure(ens)
        assert departure.rank.tolist() == [1, 1]
        assert np.abs(departure.z).max() < 4


class UnknownLaw(st.Noise):
    def sample(self, w, size, rng):
        return super().sample(w, size, rng)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start": [1.0]}, r"`start` must have shape \(2,\)"),
        ({"start": [1.0, np.nan]}, "`start` must be finite"),
        ({"t_end": 0.0}, "`t_end` must be a finite number > 0"),
        ({"t_end": -1.0}, "`t_end`"),
        ({"dt": 0.1}, "`dt` belongs to time='chain'"),
        ({"dt": 0.1, "time": "discrete"}, "`dt` belongs to time='chain'"),
        ({"dt": 0.0, "time": "chain"}, "`dt` must be"),
        ({"time": "euler"}, "`time` must be one of continuous, chain, discrete"),
        ({"dt": 0.3, "time": "chain"}, "`t_end` must be a multiple of the time step 0.3; got 1. Try 0.9"),
        ({"dt": 1e-7, "time": "chain"}, "at most 1e"),
        ({"save": 0}, "`save`"),
        ({"save": [0.5, 0.2]}, "`save` must hold increasing times"),
        ({"save": [2.0]}, "`save` must hold increasing times"),
        ({"save": [0.15], "dt": 0.1, "time": "chain"}, "`save` must hold multiples"),
        ({"save": 20, "dt": 0.1, "time": "chain"}, "`save`"),
        ({"covariance": [[1.0]]}, r"`covariance` must have shape \(2, 2\)"),
        ({"covariance": [[1.0, 0.0], [0.0, -1.0]]}, "positive semidefinite"),
        ({"flow": 3}, "`flow` must be a st.Flow"),
        (
            {"flow": flow(st.expression("x^4/4 + y^2/2"), st.Newton()), "start": [0.0, 1.0]},
            "curvature is singular for Newton",
        ),
        (
            {
                "flow": flow(st.expression("-cos(x) - cos(y)"), st.LRSFN(rank=1, damping=0.1)),
                "start": [0.5, 0.5],
            },
            "has no derivative at `start`: a truncation",
        ),
        (
            {"flow": flow(st.quadratic([1.0, 1.0]), st.LRSFN(rank=1, damping=0.1), curvature=0.1)},
            "linear noise of LRSFN.* has no variance at `start`",
        ),
        (
            {"flow": flow(st.expression("log(x) + y^2")), "start": [-1.0, 1.0]},
            "`start` must lie in the domain",
        ),
        ({"flow": st.Flow(COUPLED, st.SGD(), UnknownLaw(gradient=1.0), step=0.1)}, "give the class `factors"),
        ({"flow": flow(st.quadratic(np.ones(101))), "start": np.ones(101)}, "at most 100 dimensions"),
        ({"flow": flow(st.expression("log(x) + y^2")), "start": [0.0, 1.0]}, "`gradient`"),
    ],
    ids=str,
)
def test_bad_input(arguments, message):
    given = {"flow": flow(), "start": [0.2, 1.0], "t_end": 1.0, **arguments}
    with pytest.raises(ValueError, match=message):
        st.trajectory(given.pop("flow"), given.pop("start"), given.pop("t_end"), **given)


class TestWhatDoesNotBelongTogether:
    def test_laws_starts_times_and_dimensions(self):
        path, ens = TestEnsembles.pair(flow(noise=0.1, step=0.1), [0.3, 1.0], 1.0, 0.1, paths=200)
        one = flow(noise=0.1, step=0.1)

        def made(start=(0.3, 1.0), **law):
            return st.trajectory(one, start, 1.0, save=ens.times, **law)

        cases = [
            (made(), ens, r"another law .* Use st.trajectory\(..., time='chain', dt=0.1\)"),
            (made(time="discrete"), ens, "another law"),
            (made(time="chain", dt=0.05), ens, "another law"),
            (
                path,
                st.simulate(one, start=[0.3, 1.0], t_end=1.0, level="iteration", paths=200, seed=0),
                "time='discrete'",
            ),
            (made((0.3, 1.1), time="chain"), ens, "starts at"),
            (made(time="chain", covariance=0.1 * np.eye(2)), ens, "starts at"),
            (st.trajectory(one, [0.3, 1.0], 1.0, time="chain", save=1), ens, "not saved at t = 0.5"),
            (
                st.trajectory(flow(st.quadratic([1.0]), step=0.1), [1.0], 1.0, time="chain"),
                ens,
                "2 dimensions; the trajectory has 1",
            ),
        ]
        for theory, measured, message in cases:
            with pytest.raises(ValueError, match=message):
                st.compare(theory, measured)
            with pytest.raises(ValueError, match=message):
                theory.departure(measured)

    def test_other_refusals(self):
        one = flow(noise=0.1, step=0.1)
        path, ens = TestEnsembles.pair(one, [0.3, 1.0], 1.0, 0.1, paths=200)
        with pytest.raises(ValueError, match="`order=2` is for a linear flow"):
            st.compare(path, ens, order=2)
        with pytest.raises(ValueError, match="`theory` must come from"):
            st.compare(ens, ens)
        with pytest.raises(ValueError, match="at time 0 only"):
            path.departure(st.simulate(one, start=[0.3, 1.0], t_end=1.0, paths=200, seed=0, save=[0.0]))
        with pytest.raises(ValueError, match="kept its moments only"):
            path.departure(
                st.simulate(one, start=[0.3, 1.0], t_end=1.0, paths=200, seed=0, save=2, keep="moments")
            )
        with pytest.raises(ValueError, match="At least 128 paths"):
            path.departure(st.simulate(one, start=[0.3, 1.0], t_end=1.0, paths=100, seed=0, save=2))


class TestPicturesAndTheStudy:
    @pytest.mark.parametrize(
        "objective", [st.quadratic([1.0]), COUPLED, st.quadratic(np.ones(5))], ids=["1-d", "2-d", "5-d"]
    )
    def test_a_path_is_drawn_with_its_tube(self, objective):
        path = st.trajectory(flow(objective, st.SFN(damping=1.0)), np.full(objective.dim, 0.5), 1.0, save=10)
        figure = st.plot(path)
        top, bottom = figure.axes[:-4], figure.axes[-4:]
        tubes = top[1:] if objective.dim == 2 else top
        np.testing.assert_array_equal(tubes[0].lines[0].get_ydata(), path.mean[:, 0])
        edge = tubes[0].collections[0].get_paths()[0].vertices
        upper = path.mean[-1, 0] + 2 * np.sqrt(path.covariance[-1, 0, 0])
        assert np.isclose(edge, [path.times[-1], upper]).all(axis=1).any()
        for axis, values in zip(
            bottom, (path.spread, path.amplification, path.growth, path.validity), strict=True
        ):
            np.testing.assert_array_equal(axis.lines[0].get_ydata(), values)
        if objective.dim == 2:  # the ellipses lie two standard deviations away
            x, y = top[0].lines[-1].get_data()
            offset = np.stack([x, y]) - path.mean[-1][:, None]
            np.testing.assert_allclose(
                np.einsum("ik,ij,jk->k", offset, np.linalg.inv(path.covariance[-1]), offset), 4
            )
        figure.canvas.draw()

    @pytest.mark.slow
    def test_the_studys_statements_hold_and_can_fail(self):
        from stability import claims

        study = claims.run("trajectory", quick=True, seed=0)
        checks = claims.check(study)
        assert all(check.passed for check in checks), checks
        spoils = [
            (0, "small_z", lambda x: x + 5),
            (1, "slopes", lambda x: x - [0.6, 0.0]),
            (1, "linear_z", lambda x: x + 9),
            (2, "seen", lambda x: 0.1 * x),
        ]
        for k, name, spoil in spoils:
            spoiled = st.Study(study.name, {**study.arrays, name: spoil(study[name])}, study.parameters)
            assert [check.passed for check in claims.check(spoiled)] == [i != k for i in range(3)]
        assert len(st.plot(study).axes) == 6
