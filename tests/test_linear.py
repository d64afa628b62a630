"""The linear theory against literal closed forms, SciPy's equations and brute force, per result."""

from typing import ClassVar

import numpy as np
import pytest
import scipy.linalg
from conftest import GAMMA, LITERAL, all_methods, label, smooth_methods

import stability as st
from stability.linear import moments
from stability.methods.response import jumps
from stability.noise import DataNoise

LAM = np.array([1.0, 0.4, 0.15])
STEP, SIGMA = 0.1, 0.7


def linear(method, *, lam=LAM, noise=None, step=STEP, rotation=None, at=None):
    noise = st.Noise(gradient=SIGMA) if noise is None else noise
    return st.linearize(st.Flow(st.quadratic(lam, rotation_seed=rotation), method, noise, step=step), at)


def modes(lin, M):
    return np.diag(lin.vectors.T @ M @ lin.vectors)


class General(st.Noise):
    """The same noise without the shortcut for Gaussian matrices: the general path through `factors`."""


class TestRatesAndAmplification:
    @pytest.mark.parametrize("method", smooth_methods(), ids=label)
    def test_rates_are_minus_phi_lambda(self, method):
        lin = linear(method, rotation=1)
        np.testing.assert_allclose(lin.rates, -LITERAL[method.name][0](LAM) * LAM, rtol=1e-12)

    def test_newton_is_attracted_to_saddles_and_sfn_repelled_at_rate_one(self):
        lam = [1.0, -0.5, -0.01]
        np.testing.assert_allclose(linear(st.Newton(), lam=lam).rates, -1)
        np.testing.assert_allclose(linear(st.SFN(damping=1e-6), lam=lam).rates, [-1, 1, 1], rtol=1e-3)

    def test_amplification_is_the_gain_where_curvature_is_positive(self):
        lin = linear(st.SFN(damping=GAMMA), lam=[1.0, -0.5, 0.1])
        np.testing.assert_allclose(lin.amplification, [1 / (1 + GAMMA), np.nan, 1 / (0.1 + GAMMA)])

    def test_modes_are_ordered_by_magnitude(self):
        lin = linear(st.SGD(), lam=[0.1, -2.0, 1.0], rotation=3)
        np.testing.assert_allclose(lin.eigenvalues, [-2.0, 1.0, 0.1])
        H = lin.flow.objective.matrix
        np.testing.assert_allclose(lin.vectors * lin.eigenvalues @ lin.vectors.T, H, atol=1e-14)


class TestStationaryCovariance:
    CONTINUOUS: ClassVar = {  # per unit of step sigma^2 / 2
        "SGD": lambda x: 1 / x,
        "Newton": lambda x: 1 / x**2,
        "damped Newton": lambda x: 1 / (x * (x + GAMMA)),
        "SFN": lambda x: 1 / (x * (x + GAMMA)),
    }

    @pytest.mark.parametrize("method", smooth_methods(), ids=label)
    def test_continuous_variances_have_their_closed_form(self, method):
        lin = linear(method, rotation=1)
        np.testing.assert_allclose(
            modes(lin, lin.covariance("continuous")),
            0.5 * STEP * SIGMA**2 * self.CONTINUOUS[method.name](LAM),
            rtol=1e-12,
        )

    def test_the_truncated_tail_has_its_closed_form(self):
        lin = linear(st.LRSFN(rank=1, damping=GAMMA), rotation=1)
        np.testing.assert_allclose(
            modes(lin, lin.covariance("continuous"))[1:],
            0.5 * STEP * SIGMA**2 / (LAM[1:] * GAMMA),
            rtol=1e-12,
        )

    @pytest.mark.parametrize("method", smooth_methods(), ids=label)
    def test_discrete_variances_have_their_closed_form(self, method):
        lin, phi = linear(method, rotation=1), LITERAL[method.name][0](LAM)
        expected = STEP * SIGMA**2 * phi / (LAM * (2 - STEP * phi * LAM))
        np.testing.assert_allclose(modes(lin, lin.covariance("discrete")), expected, rtol=1e-12)
        np.testing.assert_allclose(modes(lin, lin.covariance("chain", dt=STEP)), expected, rtol=1e-12)

    def test_the_chain_has_the_euler_maruyama_variance(self):
        dt, a = 0.03, LAM
        expected = STEP * SIGMA**2 / (2 * a - a**2 * dt)
        lin = linear(st.SGD())
        np.testing.assert_allclose(modes(lin, lin.covariance("chain", dt=dt)), expected, rtol=1e-12)

    @pytest.mark.parametrize("method", all_methods(1), ids=label)
    def test_general_covariances_solve_lyapunov_and_stein(self, method, rng):
        root = rng.standard_normal((3, 3))
        lin = linear(method, rotation=2, noise=st.Noise(gradient=root @ root.T))
        P = lin.vectors * lin.gains @ lin.vectors.T
        A, C = -P @ lin.flow.objective.matrix, P @ root @ root.T @ P
        np.testing.assert_allclose(
            lin.covariance("continuous"), scipy.linalg.solve_continuous_lyapunov(A, -STEP * C), rtol=1e-10
        )
        stein = scipy.linalg.solve_discrete_lyapunov(np.eye(3) + STEP * A, STEP**2 * C)
        np.testing.assert_allclose(lin.covariance("discrete"), stein, rtol=1e-10)


class TestExcessRisk:
    def test_sgd_does_not_depend_on_conditioning(self):
        for kappa in (1, 100):
            lin = linear(st.SGD(), lam=[1.0, 1 / kappa])
            assert np.isclose(lin.excess_risk("continuous"), STEP * SIGMA**2 * 2 / 4)

    def test_newton_sums_inverse_eigenvalues(self):
        assert np.isclose(
            linear(st.Newton()).excess_risk("continuous"), STEP * SIGMA**2 / 4 * np.sum(1 / LAM)
        )

    def test_damping_bounds_it(self):
        lin = linear(st.SFN(damping=GAMMA), lam=np.geomspace(1, 1e-8, 3))
        assert lin.excess_risk("continuous") <= STEP * SIGMA**2 * 3 / (4 * GAMMA)

    def test_noise_aligned_with_curvature_is_not_amplified(self):
        # Sigma = sigma^2 H: the variance is step sigma^2 phi / 2, so Newton's excess risk is step sigma^2 d /
        # 4 at any conditioning.
        for kappa in (1, 1e4):
            lam = np.array([1.0, 1 / kappa])
            lin = linear(st.Newton(), lam=lam, noise=st.Noise(gradient=SIGMA**2 * np.diag(lam)))
            assert np.isclose(lin.excess_risk("continuous"), STEP * SIGMA**2 * 2 / 4)

    def test_at_equal_slowest_rate_newton_is_not_noisier(self):
        lam = np.array([1.0, 0.01])
        sgd = linear(st.SGD(), lam=lam, step=0.5).excess_risk("continuous")
        assert linear(st.Newton(), lam=lam, step=0.5 * 0.01).excess_risk("continuous") <= sgd * 1.02


def literal_K(method, lam, noise):
    """theory.md's K with its flat-tail terms, written out entry by entry."""
    own, c, other = (s * noise.curvature**2 for s in noise.scales)
    phi, Phi, d = method.gains(lam), method.divided_differences(lam), len(lam)
    K = np.empty((d, d))
    for i in range(d):
        for j in range(d):
            V = 2 if i == j else 1
            K[i, j] = V * (
                phi[i] ** 2 * own + 2 * phi[i] * Phi[i, j] * lam[j] * c + Phi[i, j] ** 2 * lam[j] ** 2 * other
            )
    if getattr(method, "tail", "") == "flat":
        r = method.rank
        slope = -np.sign(lam[r]) / (abs(lam[r]) + method.damping) ** 2
        for i in range(r, d):
            K[i, i] += 2 * other * lam[i] ** 2 * slope**2
        K[r, r] += 4 * phi[r] * slope * lam[r] * c
    return K


COUPLINGS = [
    {"batch": 4, "hessian_batch": 2},
    {"batch": 4, "hessian_batch": 2, "coupling": "nested"},
    {"batch": 4, "coupling": "nested"},
]


@pytest.mark.parametrize("options", COUPLINGS, ids=["independent", "nested", "same"])
@pytest.mark.parametrize("method", all_methods(1), ids=label)
class TestCurvatureNoise:
    def noise(self, options, kind=st.Noise):
        return kind(gradient=SIGMA, curvature=0.05, **options)

    def test_the_diagonal_of_the_second_moment_follows_the_literal_K(self, method, options):
        lin, noise = linear(method, noise=self.noise(options)), self.noise(options)
        K = literal_K(method, LAM, noise)
        phi = lin.gains
        balance = np.diag(-2 * lin.rates) - STEP * K
        expected = np.linalg.solve(balance, STEP * phi**2 * SIGMA**2 / noise.batch)
        np.testing.assert_allclose(np.diag(lin.covariance("continuous")), expected, rtol=1e-11)
        balance -= STEP * np.diag(lin.rates**2)
        expected = np.linalg.solve(balance, STEP * phi**2 * SIGMA**2 / noise.batch)
        np.testing.assert_allclose(np.diag(lin.covariance("discrete")), expected, rtol=1e-11)

    def test_the_step_limit_is_where_the_diagonal_map_has_radius_one(self, method, options):
        lin, K = linear(method, noise=self.noise(options)), literal_K(method, LAM, self.noise(options))
        a = np.diag(lin.rates)

        def at(step):
            B = np.eye(3) + step * a
            return np.abs(np.linalg.eigvals(B @ B + step**2 * K)).max()

        limit = lin.step_limit()
        assert np.isclose(at(limit), 1, atol=1e-10)
        assert at(0.99 * limit) < 1 < at(1.01 * limit)
        assert np.isclose(
            limit, 1 / np.abs(np.linalg.eigvals(np.linalg.solve(-2 * a, a @ a + K))).max(), rtol=1e-10
        )

    def test_the_shortcut_for_gaussian_matrices_is_the_general_map(self, method, options, rng):
        short, general = (
            linear(method, noise=self.noise(options, kind), rotation=3) for kind in (st.Noise, General)
        )
        M = rng.standard_normal((3, 3))
        M = M + M.T
        np.testing.assert_allclose(
            short._dynamics.noise.kick(M), general._dynamics.noise.kick(M), atol=1e-14 * np.abs(M).max()
        )
        np.testing.assert_allclose(short.covariance(), general.covariance(), rtol=1e-10)
        assert np.isclose(short.validity, general.validity, rtol=1e-10)

    def test_the_map_is_the_mean_over_drawn_noise(self, method, options, rng):
        lin = linear(method, noise=self.noise(options))
        _, Eg, Eh = lin.flow.noise_model.sample(np.zeros(3), 20_000, rng)
        G = np.stack(
            [
                lin.flow.noise(
                    np.broadcast_to(e, (20_000, 3)), st.noise.Sample(np.zeros((20_000, 3)), Eg, Eh)
                )
                for e in np.eye(3)
            ],
            axis=-1,
        )
        M = np.diag([1.0, 2.0, 3.0])
        products = G @ M @ np.swapaxes(G, 1, 2)
        error = products.std(axis=0) / np.sqrt(len(G))
        expected = lin.vectors @ lin._dynamics.noise.kick(lin.vectors.T @ M @ lin.vectors) @ lin.vectors.T
        assert np.max(np.abs(products.mean(axis=0) - expected) / np.where(error > 1e-14, error, 1)) < 4


class TestStepLimits:
    def noise(self, tau_g, tau_h):
        return st.Noise(curvature=1.0, batch=1 / tau_g**2, hessian_batch=1 / tau_h**2)

    def test_one_mode_has_its_closed_forms(self):
        lam, sg, sh, g = 0.5, 0.2, 0.3, GAMMA
        noise = self.noise(sg / np.sqrt(2), sh / np.sqrt(2))
        assert np.isclose(
            linear(st.Newton(), lam=[lam], noise=noise).step_limit(), 2 / (1 + (sg**2 + sh**2) / lam**2)
        )
        assert np.isclose(linear(st.SGD(), lam=[lam], noise=noise).step_limit(), 2 * lam / (lam**2 + sg**2))
        damped = (
            2
            * (lam / (lam + g))
            / (lam**2 / (lam + g) ** 2 + sg**2 / (lam + g) ** 2 + lam**2 * sh**2 / (lam + g) ** 4)
        )
        assert np.isclose(linear(st.DampedNewton(damping=g), lam=[lam], noise=noise).step_limit(), damped)

    def test_newton_with_independent_batches_has_two_over_one_plus_rho(self):
        noise = st.Noise(curvature=0.05, batch=2, hessian_batch=3)
        rho = np.abs(np.linalg.eigvals(literal_K(st.Newton(), LAM, noise))).max()
        assert np.isclose(linear(st.Newton(), noise=noise).step_limit(), 2 / (1 + rho))

    def test_newtons_limit_falls_like_kappa_squared_once_noise_dominates(self):
        limits = [
            linear(st.Newton(), lam=[1, 1 / k], noise=st.Noise(curvature=0.1)).step_limit()
            for k in (1e3, 1e4)
        ]
        assert np.isclose(limits[0] / limits[1], 100, rtol=1e-3)

    def test_the_same_batch_cancels_newtons_noise(self):
        assert np.isclose(
            linear(st.Newton(), noise=st.Noise(curvature=0.5, coupling="nested")).step_limit(), 2
        )

    def test_damping_lifts_newtons_limit(self):
        noise = st.Noise(curvature=0.1)
        assert (
            linear(st.DampedNewton(damping=0.1), lam=[1, 0.01], noise=noise).step_limit()
            > 10 * linear(st.Newton(), lam=[1, 0.01], noise=noise).step_limit()
        )

    def test_truncation_limits_the_step_and_a_flat_tail_lifts_it(self):
        assert np.isclose(linear(st.LRSFN(rank=1, damping=0.05)).step_limit("mean"), 2 * 0.05 / LAM[1])
        assert np.isclose(linear(st.LRSFN(rank=1, damping=0.05)).step_limit(), 2 * 0.05 / LAM[1])
        flat = linear(st.LRSFN(rank=1, damping=1e-9, tail="flat"))
        assert np.isclose(flat.step_limit(), 2, rtol=1e-8)

    @pytest.mark.parametrize("method", [st.SGD(), st.SFN(damping=GAMMA)], ids=label)
    def test_flat_directions_at_an_interpolating_minimum_are_left_out(self, method, rng):
        X, w = rng.standard_normal((4, 6)), rng.standard_normal(6)
        F = st.least_squares(X, X @ w)
        lin = st.linearize(st.Flow(F, method, st.Noise.from_data(F, w, 2), step=0.01), w)
        narrow = st.least_squares(X @ (seen := np.linalg.svd(X)[2][:4].T), X @ w)
        inside = st.linearize(
            st.Flow(narrow, method, st.Noise.from_data(narrow, seen.T @ w, 2), step=0.01), seen.T @ w
        )
        for kind in ("mean", "mean-square"):
            assert np.isclose(lin.step_limit(kind), inside.step_limit(kind), rtol=1e-9)
        assert np.isclose(lin.step_limit(order=2), inside.step_limit(order=2), rtol=1e-9)

    @pytest.mark.parametrize("order", [1, 2])
    def test_an_interpolating_minimum_has_a_covariance_where_it_has_a_limit(self, order, rng):
        """Zero: no noise is left there, and flat directions stay where they are."""
        X, w = rng.standard_normal((4, 6)), rng.standard_normal(6)
        F = st.least_squares(X, X @ w)
        lin = st.linearize(st.Flow(F, st.SGD(), st.Noise.from_data(F, w, 2), step=0.01), w)
        assert 0.01 < lin.step_limit(order=order) < np.inf
        np.testing.assert_allclose(lin.covariance(order=order), 0, atol=1e-25)
        assert abs(lin.excess_risk(order=order)) < 1e-25
        assert lin.tail_exceeds_two
        assert not lin.mean_shift.any()
        beyond = st.linearize(st.Flow(F, st.SGD(), st.Noise.from_data(F, w, 2), step=2.0), w)
        with pytest.raises(st.Unstable, match="A stationary covariance does not exist"):
            beyond.covariance()

    def test_noise_in_some_directions_leaves_flat_ones_alone(self):
        noise = st.Noise(gradient=np.array([0.5, 0.0, 0.3]))
        lin = linear(st.SGD(), lam=[1.0, 0.0, 0.5], noise=noise)
        alone = linear(st.SGD(), lam=[1.0, 0.5], noise=st.Noise(gradient=np.array([0.5, 0.3])))
        found = lin.covariance()
        np.testing.assert_allclose(found[np.ix_([0, 2], [0, 2])], alone.covariance(), rtol=1e-12)
        assert not found[1].any()

    def test_where_nothing_moves_any_step_will_do(self):
        lin = linear(st.SGD(), lam=[0.0, 0.0], noise=st.Noise())
        assert (
            lin.step_limit("mean")
            == lin.step_limit()
            == lin.step_limit(order=2)
            == lin.limit().step
            == np.inf
        )

    def test_a_flat_direction_that_noise_enters_has_no_limit(self):
        with pytest.raises(st.Unstable, match="1 of 2 modes do not decay"):
            linear(st.SGD(), lam=[1.0, 0.0]).step_limit()

    def test_without_noise_the_two_limits_agree(self):
        lin = linear(st.SGD())
        assert np.isclose(lin.step_limit("mean"), 2) and np.isclose(lin.step_limit("mean-square"), 2)  # noqa: PT018

    def test_what_limits_the_step_is_named(self):
        assert linear(st.SGD()).limit().cause == "curvature"
        noisy = linear(st.Newton(), lam=[1, 0.05], noise=self.noise(0.01, 0.5)).limit()
        assert (noisy.cause, noisy.mode) == ("Hessian batch", 1)
        assert linear(st.SGD(), lam=[1, 0.05], noise=self.noise(3.0, 0.1)).limit().cause == "gradient batch"
        assert np.isclose(sum(noisy.shares.values()), 1)

    @pytest.mark.parametrize("options", COUPLINGS, ids=["independent", "nested", "same"])
    def test_the_shares_do_not_depend_on_how_they_are_computed(self, options):
        short, general = (
            linear(st.SFN(damping=GAMMA), noise=kind(curvature=0.1, **options)).limit()
            for kind in (st.Noise, General)
        )
        assert short.shares == pytest.approx(general.shares, abs=1e-10)

    def test_limits_are_named_in_a_hundred_dimensions(self):
        found = linear(
            st.Newton(),
            lam=np.geomspace(1, 0.1, 100),
            noise=st.Noise(curvature=0.1, batch=100, hessian_batch=1),
        ).limit()
        assert (found.cause, found.mode) == ("Hessian batch", 99)


class TestSecondOrder:
    def test_one_mode_replaces_phi_by_its_second_order_mean(self):
        lam, g, s, step = 0.5, 0.1, 0.15, 0.2
        noise = st.Noise(gradient=1e6, curvature=s / np.sqrt(2), batch=1e12, hessian_batch=1)
        lin = linear(st.SFN(damping=g), lam=[lam], noise=noise, step=step)
        mean = 1 / (lam + g) + s**2 / (lam + g) ** 3
        square = 1 / (lam + g) ** 2 + 3 * s**2 / (lam + g) ** 4
        expected = step**2 * square / (1 - (1 - 2 * step * lam * mean + step**2 * lam**2 * square))
        assert np.isclose(lin.covariance(order=2)[0, 0], expected, rtol=1e-9)
        assert np.isclose(lin.covariance()[0, 0], 0.3657, atol=5e-5)

    def test_without_hessian_noise_both_levels_agree(self):
        for noise in (st.Noise(gradient=1.0), st.Noise(gradient=1.0, curvature=0.05, hessian_batch=np.inf)):
            lin = linear(st.SFN(damping=GAMMA), noise=noise)
            np.testing.assert_allclose(lin.covariance(order=2), lin.covariance(), rtol=1e-10)
            assert np.isclose(lin.step_limit(order=2), lin.step_limit(), rtol=1e-10)

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "method",
        [
            st.SFN(damping=GAMMA),
            st.LRSFN(rank=1, damping=GAMMA),
            st.LRSFN(rank=1, damping=GAMMA, tail="flat"),
        ],
        ids=label,
    )
    @pytest.mark.parametrize("coupling", ["independent", "nested"])
    def test_the_map_is_the_iterations_to_second_order(self, method, coupling):
        """The mean of X M X over drawn noise, less level L2, falls with the noise's fourth power."""
        M, gaps = np.diag([0.5, 1.0, 2.0]), []
        draws = st.Noise(curvature=1.0, batch=2, hessian_batch=1, coupling=coupling).sample(
            np.zeros(3), 150_000, np.random.default_rng(2)
        )
        for scale in (0.02, 0.04):
            noise = st.Noise(curvature=scale, batch=2, hessian_batch=1, coupling=coupling)
            lin, mean = linear(method, noise=noise), 0.0
            for sign in (1, -1):  # both signs: odd orders drop out
                Eg, Eh = sign * scale * draws.Eg, sign * scale * draws.Eh
                values, vectors = np.linalg.eigh(np.diag(LAM) + Eh)
                X = (
                    (vectors * method.gains(values)[:, None, :])
                    @ np.swapaxes(vectors, 1, 2)
                    @ (np.diag(LAM) + Eg)
                )
                mean = mean + 0.5 * np.mean(X @ M @ np.swapaxes(X, 1, 2), axis=0)
            predicted = lin._dynamics.noise.second_order[1](M)
            first_order = np.outer(lin.rates, lin.rates) * M + lin._dynamics.noise.kick(M)
            assert np.abs(mean - predicted).max() < 0.35 * np.abs(mean - first_order).max()
            gaps.append(np.abs(mean - predicted).max())
        assert gaps[0] < 0.4 * gaps[1]


class TestTails:
    def test_one_mode_has_the_student_index(self):
        lam, tau = 0.3, 0.05
        lin = linear(
            st.Newton(), lam=[lam], noise=st.Noise(gradient=1.0, curvature=tau, batch=1e8, hessian_batch=1)
        )
        assert np.isclose(lin.tail_index, 1 + 2 * lam**2 / (STEP * 2 * tau**2), rtol=1e-6)

    def test_the_variance_is_finite_exactly_where_the_index_exceeds_two(self):
        lam = 0.3
        for tau in (0.9, 1.1):
            edge = tau * lam / np.sqrt(STEP)  # nu = 1 + 1 / tau^2
            lin = linear(
                st.Newton(),
                lam=[lam],
                noise=st.Noise(gradient=1.0, curvature=edge, batch=1e9, hessian_batch=1),
            )
            assert (lin.tail_index > 2) == lin.tail_exceeds_two == (tau < 1)
            if tau > 1:
                with pytest.raises(st.Unstable, match="relative radius"):
                    lin.covariance("continuous")

    def test_without_curvature_noise_all_moments_are_finite(self):
        assert linear(st.SGD()).tail_index == np.inf

    @pytest.mark.parametrize("kind", [st.Noise, General])
    @pytest.mark.parametrize("lam", [1.0, 0.3, 0.07, 1e-6])
    @pytest.mark.parametrize("batch", [1, 7])
    def test_one_batch_that_undoes_the_other_leaves_no_tail(self, kind, lam, batch):
        """Newton on one and the same batch: nothing is left of the noise, not even a rounding below zero."""
        noise = kind(gradient=0.1, curvature=0.3, batch=batch, coupling="nested")
        assert linear(st.Newton(), lam=[lam], noise=noise).tail_index == np.inf
        assert linear(st.Newton(), lam=[lam, 2 * lam], noise=noise).step_limit() == pytest.approx(2, rel=1e-9)

    def test_coupled_modes_have_a_joint_index(self):
        lam = np.full(20, 1.0)
        lin = linear(
            st.Newton(),
            lam=lam,
            noise=st.Noise(gradient=1.0, curvature=np.sqrt(1 / 4.5 / STEP / 2), batch=1e9, hessian_batch=1),
        )
        one = linear(st.Newton(), lam=lam[:1], noise=lin.flow.noise_model)
        assert np.isclose(one.tail_index, 10, rtol=1e-6)
        assert np.isclose(lin.tail_index, 0.5, rtol=1e-6)  # 9 + (3 - d) / 2
        assert not lin.tail_exceeds_two


class TestValidity:
    def test_one_mode_is_the_noise_over_the_damped_curvature(self):
        lin = linear(st.SFN(damping=GAMMA), lam=[0.5], noise=st.Noise(curvature=0.1, hessian_batch=4))
        assert np.isclose(lin.validity, np.sqrt(2) * 0.1 / 2 / (0.5 + GAMMA))

    def test_a_truncation_inside_a_cluster_is_seen(self):
        noise = st.Noise(curvature=0.001)
        assert linear(st.LRSFN(rank=1, damping=GAMMA), lam=[1.0, 0.5, 0.1], noise=noise).valid
        close = linear(st.LRSFN(rank=1, damping=GAMMA), lam=[1.0, 0.995, 0.1], noise=noise)
        assert np.isclose(close.validity, max(close.validity, np.sqrt(2) * 0.001 / 0.005)) and not close.valid  # noqa: PT018
        swapped = linear(st.LRSFN(rank=1, damping=GAMMA), lam=[1.0, -0.999, 0.1], noise=noise)
        assert np.isclose(swapped.validity, np.sqrt(2) * 0.001 / 0.001)  # invisible to the first order

    def test_gradient_noise_alone_never_spoils_it(self):
        assert linear(st.Newton(), noise=st.Noise(gradient=100.0)).validity == 0
        assert linear(st.SGD(), noise=st.Noise(curvature=100.0)).validity == 0


def brute_force(lin, steps, dt, mean, M):
    """Mean and second moment by stepping the definition with the noise's factors."""
    zeta, Eg, Eh = lin.flow.noise_model.factors(lin.at)
    strength = lin.flow.step * dt
    A = np.stack([lin.flow.jacobian(lin.at) @ e for e in np.eye(3)], axis=-1)
    B = np.eye(3) + dt * A
    P = lin.vectors * lin.gains @ lin.vectors.T
    G = np.stack(
        [
            lin.flow.noise(np.broadcast_to(lin.at + e, (len(zeta), 3)), st.noise.Sample(0 * zeta, Eg, Eh))
            for e in np.eye(3)
        ],
        axis=-1,
    )
    Z = zeta @ P
    for _ in range(steps):
        cross = np.einsum("ki,kj->ij", Z, G @ mean)
        M = B @ M @ B.T + strength * (np.einsum("kij,jl,kml->im", G, M, G) + Z.T @ Z + cross + cross.T)
        mean = B @ mean
    return mean, M


class TestMoments:
    START = np.array([0.4, -0.3, 0.2])

    def data_flow(self, method):
        rng = np.random.default_rng(3)
        F = st.least_squares(rng.standard_normal((50, 3)) * [1, 0.7, 0.4], rng.standard_normal(50), l2=0.1)
        size, coupling = (5, "nested") if method.name == "SFN" else (25, "independent")
        return st.linearize(
            st.Flow(
                F, method, st.Noise.from_data(F, None, 5, hessian_batch=size, coupling=coupling), step=STEP
            )
        )

    @pytest.mark.parametrize(
        "method", [st.SGD(), st.SFN(damping=GAMMA), st.LRSFN(rank=1, damping=GAMMA)], ids=label
    )
    @pytest.mark.parametrize("kind", ["isotropic", "general", "data"])
    @pytest.mark.parametrize("dt", [STEP, 0.05])
    def test_transients_follow_the_definition_step_by_step(self, method, kind, dt):
        if kind == "data":
            lin = self.data_flow(method)
        else:
            lin = linear(
                method,
                noise={"isotropic": st.Noise, "general": General}[kind](
                    gradient=SIGMA, curvature=0.1, batch=2, hessian_batch=4
                ),
                rotation=1,
            )
        cov0 = np.diag([0.1, 0.2, 0.3])
        mean, covariance = lin.moments(2.0, lin.at + self.START, cov0, time="chain", dt=dt)
        m, M = brute_force(lin, round(2.0 / dt), dt, self.START, cov0 + np.outer(self.START, self.START))
        np.testing.assert_allclose(mean - lin.at, m, rtol=1e-9)
        np.testing.assert_allclose(covariance, M - np.outer(m, m), rtol=1e-8, atol=1e-12)

    @pytest.mark.parametrize(
        "noise",
        [st.Noise(gradient=SIGMA), st.Noise(gradient=SIGMA, curvature=0.1)],
        ids=["additive", "curvature"],
    )
    @pytest.mark.parametrize("time", ["continuous", "discrete", "chain"])
    def test_transients_end_in_the_stationary_covariance(self, noise, time):
        lin = linear(st.SFN(damping=GAMMA), noise=noise, rotation=1)
        mean, covariance = lin.moments(400.0, self.START, time=time)
        np.testing.assert_allclose(covariance, lin.covariance(time), rtol=1e-9)
        np.testing.assert_allclose(mean, 0, atol=1e-9)

    def test_the_chain_tends_to_continuous_time_at_first_order(self):
        lin = linear(st.SGD(), noise=st.Noise(gradient=SIGMA, curvature=0.1), rotation=1)
        limit = lin.moments(2.0, self.START, time="continuous")[1]
        gaps = [
            np.abs(lin.moments(2.0, self.START, time="chain", dt=dt)[1] - limit).max() for dt in (0.02, 0.01)
        ]
        assert np.isclose(gaps[0] / gaps[1], 2, atol=0.02)

    def test_a_saddles_transient_exists_and_grows(self):
        lin = linear(st.SGD(), lam=[1.0, -0.5])
        _, covariance = lin.moments(10.0, [0, 0], time="continuous")
        assert np.isclose(covariance[1, 1], STEP * SIGMA**2 * np.expm1(2 * 0.5 * 10) / (2 * 0.5))

    def test_large_dimensions_take_the_same_answer_without_writing_the_map_out(self, monkeypatch):

        lin = linear(
            st.SFN(damping=GAMMA),
            noise=st.Noise(gradient=SIGMA, curvature=0.1),
            lam=np.geomspace(1, 0.1, 8),
            rotation=1,
        )
        start, wide = np.full(8, 0.3), {}
        for dense in (600, 5):
            monkeypatch.setattr(moments, "DENSE", dense)
            wide[dense] = [lin.moments(1.0, start, time=t)[1] for t in ("continuous", "discrete")] + [
                lin.covariance()
            ]
        for small, large in zip(wide[600], wide[5], strict=True):
            np.testing.assert_allclose(small, large, rtol=1e-8)

    def test_two_hundred_dimensions_are_practical(self):
        lam = np.geomspace(1, 0.01, 200)
        lin = linear(st.SFN(damping=GAMMA), lam=lam, noise=st.Noise(gradient=SIGMA, curvature=0.02))
        K = literal_K(st.SFN(damping=GAMMA), lam, lin.flow.noise_model)
        a = lin.rates
        expected = np.linalg.solve(np.diag(-2 * a - STEP * a**2) - STEP * K, STEP * lin.gains**2 * SIGMA**2)
        np.testing.assert_allclose(np.diag(lin.covariance()), expected, rtol=1e-8)
        assert np.isclose(
            lin.step_limit(),
            1 / np.abs(np.linalg.eigvals(np.linalg.solve(-2 * np.diag(a), np.diag(a**2) + K))).max(),
            rtol=1e-8,
        )


class TestMeanShift:
    def test_nested_batches_shift_the_mean_by_the_correlation_of_gradient_and_curvature(self):
        rng = np.random.default_rng(12)
        F = st.least_squares(rng.standard_normal((60, 2)) * [1, 0.5], rng.exponential(size=60), l2=0.1)
        flow = st.Flow(F, st.SFN(damping=GAMMA), st.Noise.from_data(F, None, 20, coupling="nested"), step=0.2)
        lin = st.linearize(flow)
        n, b = 60, 20
        f, at, P = (n - b) / (b * (n - 1)), F.reference, lin.vectors * lin.gains @ lin.vectors.T
        push = np.zeros(2)
        for g, H in zip(F.per_sample_gradient(at), F.per_sample_hessian(at), strict=True):
            h = 1e-6
            lam = [np.linalg.eigh(F.hessian(at) + s * h * (H - F.hessian(at))) for s in (1, -1)]
            DP = np.subtract(*[(v * flow.method.gains(x)) @ v.T for x, v in lam]) / (2 * h)
            push += f * DP @ g / n
        np.testing.assert_allclose(lin.mean_shift, -np.linalg.solve(P @ F.hessian(at), push), rtol=1e-6)

    def test_independent_batches_do_not(self):
        rng = np.random.default_rng(12)
        F = st.least_squares(rng.standard_normal((60, 2)), rng.exponential(size=60), l2=0.1)
        lin = st.linearize(st.Flow(F, st.SFN(damping=GAMMA), st.Noise.from_data(F, None, 20), step=0.2))
        np.testing.assert_allclose(lin.mean_shift, 0, atol=1e-18)


class TestDisplay:
    def test_it_prints_as_a_table(self):
        text = str(linear(st.SFN(damping=GAMMA), noise=st.Noise(gradient=1.0, curvature=0.01)))
        assert "SFN at a critical point" in text
        assert "step limit: mean 2.6, mean-square" in text
        assert "do not decay" in str(linear(st.SGD(), lam=[1.0, -1.0]))
        heavy = st.Momentum(st.SGD(), beta=0.9)
        assert "without momentum, which makes slow modes' 10 times larger" in str(linear(heavy))
        assert "without momentum" not in str(linear(st.Adam()))


@pytest.mark.parametrize("lam", [0.0, 1e-17, 1e-12, 1e-6])
@pytest.mark.parametrize("steps", [1, 50])
def test_moments_of_the_chain_in_an_almost_flat_direction(lam, steps):
    """Growth minus one is rounding there: the noise must add up all the same."""
    flow = st.Flow(
        st.quadratic([1.0, lam], rotation_seed=3),
        st.DampedNewton(damping=0.4),
        st.Noise(gradient=np.array([1.0, 0.5])),
        step=0.13,
    )
    lin = st.linearize(flow)
    A, C = (
        np.eye(2) + 0.37 * (lin.vectors * lin.rates) @ lin.vectors.T,
        (lin.vectors * lin.gains) @ lin.vectors.T @ np.diag([1.0, 0.5]),
    )
    covariance = np.zeros((2, 2))
    for _ in range(steps):
        covariance = A @ covariance @ A.T + 0.13 * 0.37 * C @ C.T
    np.testing.assert_allclose(
        lin.moments(0.37 * steps, time="chain", dt=0.37)[1], covariance, rtol=1e-10, atol=1e-13
    )


def test_the_orders_old_name_is_read_and_told():
    noise = st.Noise(gradient=0.1, curvature=0.05)
    lin = st.linearize(st.Flow(st.quadratic([1.0, 0.3]), st.SFN(damping=0.1), noise, step=0.1))
    asks = (
        lambda **order: lin.covariance(**order),
        lambda **order: lin.excess_risk(**order),
        lambda **order: lin.step_limit(**order),
        lambda **order: lin.moments(1.0, **order)[1],
    )
    for ask in asks:
        for old, new in (("L", 1), ("L2", 2)):
            with pytest.warns(DeprecationWarning, match="`level` is called `order` now"):
                found = ask(level=old)
            np.testing.assert_array_equal(found, ask(order=new))
        assert not np.array_equal(ask(order=1), ask(order=2))
    with pytest.raises(ValueError, match=r"`order` must be one of 1, 2; got \[2\]"):
        lin.covariance(order=[2])


def test_a_mode_that_is_flat_up_to_rounding_is_told_as_zero():
    flat = st.quadratic([1.0, 0.1, 0.0], rotation_seed=1)
    lin = st.linearize(st.Flow(flat, st.SGD(), st.Noise(gradient=0.1), step=0.1))
    assert 0 < abs(lin.eigenvalues[2]) < 1e-15
    assert "mode 2 (lambda = 0, rate = 0)" in str(lin)
    saddle = st.Flow(st.landscape("monkey_saddle"), st.SGD(), st.Noise(gradient=0.1), step=0.1)
    with pytest.raises(st.Unstable, match=r"mode 0 \(lambda = 0, rate = 0\), 1 \(lambda = 0, rate = 0\)"):
        st.linearize(saddle, at=[0.0, 0.0]).step_limit()


class TestJumps:
    """A gain that jumps: the validity indicator sees it where no derivative does."""

    @staticmethod
    def validity(gain, lam, noise=0.01):
        flow = st.Flow(st.quadratic(lam), gain, st.Noise(gradient=0.1, curvature=noise), step=0.1)
        return st.linearize(flow).validity

    def test_it_is_the_spread_over_the_distance(self):
        spread = 0.01 * np.sqrt(2)  # of a diagonal entry
        jump = st.Method(lambda lam: np.where(lam < 1, 10.0, 1.0))
        assert np.isinf(self.validity(jump, [1.0]))
        for lam in (1.05, 0.95):
            distance = abs(lam - 1)
            height = min(1, 9 / (1 if lam > 1 else 10))
            assert np.isclose(self.validity(jump, [lam]), spread / distance * height, rtol=1e-9)
        assert self.validity(jump, [1.2]) == 0  # more than ten standard deviations away

    def test_a_kink_and_a_slope_are_no_jumps(self):
        for method in (st.SFN(damping=0.3), st.Method(lambda lam: np.maximum(lam, 0.5))):
            for lam in ([0.4], [0.5], [0.01, -0.02]):
                flow = st.Flow(st.quadratic(lam), method, st.Noise(gradient=0.1, curvature=0.01), step=0.1)
                distance, _ = jumps(flow.method, flow.objective.hessian(np.zeros(len(lam))).diagonal(), 0.2)
                assert np.isinf(distance).all()

    def test_a_pole_is_one_and_tells_what_the_slope_tells(self):
        assert np.isclose(self.validity(st.Newton(), [0.1]), 0.01 * np.sqrt(2) / 0.1)
        distance, height = jumps(st.Newton(), np.array([0.1]), np.array([0.2]))
        assert np.isclose(distance, 0.1)
        assert height > 1e6


class TestNoiseOfOnesOwn:
    class Tripled(st.Noise):
        """Draws three times what its arguments say."""

        def sample(self, w, size, rng):
            one = super().sample(w, size, rng)
            return one._replace(zeta=3 * one.zeta)

    class Told(Tripled):
        def factors(self, w):
            one = st.Noise(gradient=float(self.gradient)).factors(w)
            return one._replace(zeta=3 * one.zeta)

    @pytest.mark.parametrize(
        "ask",
        [
            lambda lin: lin.covariance(),
            lambda lin: lin.covariance("continuous"),
            lambda lin: lin.excess_risk(),
            lambda lin: lin.moments(1.0),
            lambda lin: lin.flow.noise_model.factors(lin.at),
            lambda lin: lin.flow.noise_model.gradient_covariance(lin.at),
        ],
    )
    def test_without_its_law_nothing_of_it_is_said(self, ask):
        with pytest.raises(ValueError, match=r"second-order law of Tripled is not known.*Give it `factors"):
            ask(linear(st.SGD(), noise=self.Tripled(gradient=0.5)))

    def test_what_does_not_depend_on_it_is(self):
        lin = linear(st.SGD(), noise=self.Tripled(gradient=0.5))
        assert lin.step_limit() == pytest.approx(2)
        assert "law of Tripled" not in str(lin)

    def test_curvature_noise_of_ones_own_is_refused_too(self):
        lin = linear(st.SGD(), noise=self.Tripled(gradient=0.5, curvature=0.1))
        for ask in (lin.step_limit, lin.limit, lambda: lin.tail_exceeds_two):
            with pytest.raises(ValueError, match="law of Tripled is not known"):
                ask()

    def test_its_factors_are_its_law(self):
        found, plain = (
            linear(st.SGD(), noise=noise) for noise in (self.Told(gradient=0.5), st.Noise(gradient=1.5))
        )
        np.testing.assert_allclose(found.covariance(), plain.covariance(), rtol=1e-12)
        draws = found.flow.noise_model.sample(found.at, 4000, np.random.default_rng(0)).zeta
        np.testing.assert_allclose(np.diag(found.flow.noise_model.gradient_covariance(found.at)), 2.25)
        assert np.abs(draws.var(axis=0) / 2.25 - 1).max() < 0.1

    def test_drawn_from_data_by_a_class_of_ones_own(self, rng):
        class Halved(DataNoise):
            def sample(self, w, size, rng):
                one = super().sample(w, size, rng)
                return one._replace(zeta=0.5 * one.zeta)

        F = st.least_squares(rng.standard_normal((20, 3)), rng.standard_normal(20))
        options = {"hessian_batch": None, "replacement": False, "coupling": "independent"}
        lin = st.linearize(st.Flow(F, st.SGD(), Halved(F, None, 4, **options), step=0.05))
        with pytest.raises(ValueError, match="law of Halved is not known"):
            lin.covariance()

    @pytest.mark.parametrize("kind", [Tripled, Told])
    def test_one_mode_and_spectral_sums_take_the_arguments_law_alone(self, kind):
        noise = kind(gradient=0.5)
        with pytest.raises(ValueError, match=f"{kind.__name__} has a law of its own"):
            st.exact_mode(st.SGD(), curvature=1.0, noise=noise)
        with pytest.raises(ValueError, match="must be of the gradient alone"):
            st.spectrum(st.quadratic([1.0, 0.5])).excess_risk(st.SGD(), step=0.1, noise=noise)


class TestRawUnits:
    """Curvatures of a diagonal Hessian are its entries, however far apart."""

    @pytest.mark.parametrize("small", [1e-15, 1e-18, 1e-40])
    @pytest.mark.parametrize("method", [st.SGD(), st.Newton(), st.SFN(damping=1e-55)], ids=lambda m: m.name)
    def test_a_small_curvature_is_not_a_flat_one(self, small, method):
        flow = st.Flow(st.quadratic([1.0, small]), method, st.Noise(gradient=1.0), step=0.1)
        lin = st.linearize(flow)
        rates = np.array([1.0, small if method.is_identity else 1.0])
        np.testing.assert_allclose(-lin.rates, rates, rtol=1e-12)
        variances = 0.1 * lin.gains**2 / (rates * (2 - 0.1 * rates))
        np.testing.assert_allclose(np.diag(lin.covariance()), variances, rtol=1e-12)
        assert lin.step_limit() == pytest.approx(2.0)
        assert f"{small:.4g}" in str(lin)
        st.simulate(flow, start=[1.0, 1.0], t_end=0.1, paths=2)

    def test_one_that_is_rounding_of_the_largest_is_told_so(self):
        flow = st.Flow(st.quadratic([1e15, 1.0], rotation_seed=1), st.Newton(), step=0.1)
        with pytest.raises(
            st.Unstable, match=r"to rounding of the largest, 1e\+15, .* coordinates to one scale"
        ):
            st.linearize(flow)
        flat = st.Flow(st.quadratic([1e15, 0.0]), st.Newton(), step=0.1)
        with pytest.raises(st.Unstable, match="directions: its gain is infinite there; use"):
            st.linearize(flat)


def test_curvature_noise_is_centred_where_bounds_are_asked_for():
    F, noise = st.expression("x^4/4 - x^2/2 + y^2"), st.Noise(gradient=0.1, curvature=0.1)
    table = st.bounds(F, noise, [st.SGD(), st.SFN(damping=0.1)], step=0.1, at=[1.0, 0.0])
    told = st.Noise(gradient=0.1, curvature=0.1, reference=[1.0, 0.0])
    assert table == st.bounds(F, told, [st.SGD(), st.SFN(damping=0.1)], step=0.1, at=[1.0, 0.0])
    assert noise.reference is None
    other = st.Noise(gradient=0.1, curvature=0.1, reference=[-1.0, 0.0])
    with pytest.raises(ValueError, match="Curvature noise is centred 2 away"):
        st.bounds(F, other, [st.SGD()], step=0.1, at=[1.0, 0.0])


def test_a_comparison_at_many_times_tells_the_worst_of_each():
    flow = st.Flow(st.quadratic([1.0, 0.5]), st.SGD(), st.Noise(gradient=1.0), step=0.1)
    ens = st.simulate(flow, start=[1.0, 1.0], t_end=3.0, paths=50, save=30)
    found = st.compare(st.linearize(flow), ens)
    lines = str(found).splitlines()
    head = next(i for i, line in enumerate(lines) if "largest |z|  of" in line)
    rows = [line.split() for line in lines[head + 1 : head + 13]]
    assert [float(row[0]) for row in rows][::11] == [0.1, 3.0]
    upper = np.abs(found.covariance_z[-1][np.triu_indices(2)])
    assert float(rows[-1][1]) == pytest.approx(max(*np.abs(found.mean_z[-1]), *upper), abs=0.01)
    single = st.simulate(flow, start=[1.0, 1.0], t_end=3.0, paths=50)
    assert "largest |z|  of" not in str(st.compare(st.linearize(flow), single))
