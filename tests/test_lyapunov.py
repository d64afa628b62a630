"""Lyapunov exponents: quadrature in one mode, published values, exact identities, the mean-square rate."""

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as hst

import stability as st
from stability import claims
from stability.claims import lyapunov as lyapunov_claim
from stability.lyapunov import exponents, limit, matrices, mean_square
from stability.lyapunov.limit import top_exponents
from stability.noise import Minibatches, Sample

pytestmark = pytest.mark.delicate

METHODS = pytest.mark.parametrize(
    "method", [st.SGD(), st.SFN(damping=0.1), st.DampedNewton(damping=0.1), st.Newton()], ids=lambda m: m.name
)
NOISE = st.Noise(curvature=0.3)


def one_mode(method, lam=0.3, noise=NOISE, step=0.5):
    return st.Flow(st.quadratic([lam]), method, noise, step=step)


def two_modes(method, noise=NOISE, step=0.5):
    return st.Flow(st.quadratic([1.0, 0.1], rotation_seed=3), method, noise, step=step)


def regression(n=40, dim=2, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, dim))
    return st.least_squares(X, X @ np.ones(dim) + 0.1 * rng.standard_normal(n))


def always(matrix):
    return lambda rng, size: np.broadcast_to(np.asarray(matrix, dtype=float), (size, *np.shape(matrix)))


def z(measured, error, exact):
    return np.max(np.abs((measured - np.asarray(exact)) / error))


def cauchy_rate(tau):
    """Growth per unit of t of Newton's iteration with ``H = I`` in two dimensions as the step goes to 0."""

    def over_gaps(
        f,
    ):  # eigenvalues 1 + mean + gap, the mean Gaussian and the gap Rayleigh of either sign, both of scale tau
        return scipy.integrate.quad(
            lambda r: abs(r) / tau**2 * math.exp(-0.5 * (r / tau) ** 2) * f(1 + r),
            -12 * tau,
            12 * tau,
            points=[0],
        )[0]

    def size(mean, spread):  # E|x| of a Gaussian
        return spread * math.sqrt(2 / math.pi) * math.exp(-0.5 * (mean / spread) ** 2) + mean * math.erf(
            mean / spread / math.sqrt(2)
        )

    inverse = over_gaps(lambda x: math.sqrt(2) / tau * scipy.special.dawsn(x / tau / math.sqrt(2)))
    at_zero = over_gaps(lambda x: math.exp(-0.5 * (x / tau) ** 2) / tau / math.sqrt(2 * math.pi))
    kick = scipy.integrate.quad(
        lambda a: size(math.cos(a), tau * math.sqrt(1 + math.cos(a) ** 2)) * math.sin(a), 0, math.pi / 2
    )[0]
    return -0.5 * inverse + math.pi * at_zero * kick * 2 / math.pi


class TestOneMode:
    @METHODS
    def test_the_iteration_against_quadrature(self, method):
        for lam in (1.0, 0.3):
            found = st.lyapunov_exponents(one_mode(method, lam), seed=4)
            assert (
                z(
                    found.exponents[0],
                    found.errors[0],
                    st.exact_mode(method, curvature=lam, noise=NOISE).lyapunov(0.5).value,
                )
                < 4
            )

    @pytest.mark.slow
    @METHODS
    def test_its_largest_step_against_quadrature(self, method):
        found = st.almost_sure_limit(one_mode(method), iterations=200, seed=2)
        assert (
            z(found.limit, found.error, st.exact_mode(method, curvature=0.3, noise=NOISE).almost_sure_limit)
            < 4
        )
        assert 0 < found.error < 0.03 * found.limit
        assert found.status == "ok"

    @pytest.mark.slow
    def test_the_errors_are_as_large_as_the_deviations(self):
        exact = st.exact_mode(st.SFN(damping=0.1), curvature=0.3, noise=NOISE)
        found = [
            st.almost_sure_limit(one_mode(st.SFN(damping=0.1)), iterations=60, products=50, seed=seed)
            for seed in range(40)
        ]
        deviations = np.array([(one.limit - exact.almost_sure_limit) / one.error for one in found])
        assert 0.7 < deviations.std() < 1.4
        assert abs(deviations.mean()) < 4 / math.sqrt(40)

    @pytest.mark.parametrize("dt", [0.5, 0.25, 0.125])
    def test_the_chain_against_quadrature(self, dt):
        flow = one_mode(st.SGD(), lam=1.0, noise=st.Noise(curvature=0.8))
        strength = 0.8 * math.sqrt(2 * 0.5 * dt)
        exact = scipy.integrate.quad(
            lambda x: math.exp(-x * x / 2) / math.sqrt(2 * math.pi) * math.log(abs(1 - dt + strength * x)),
            -12,
            12,
            points=[(dt - 1) / strength],
            limit=400,
        )[0]
        found = st.lyapunov_exponents(flow, level="sde", dt=dt, seed=2)
        assert z(found.rates[0], found.rate_errors[0], exact / dt) < 4
        assert z(found.exponents[0], found.errors[0], exact * 0.5 / dt) < 4

    def test_as_dt_goes_to_zero_it_is_itos(self):
        """``a - step K / 2``, ``K = s^2``: the chain's is that plus O(dt), taken away by extrapolation."""
        flow = one_mode(st.SGD(), lam=1.0, noise=st.Noise(curvature=0.5))
        coarse, fine = (
            st.lyapunov_exponents(flow, level="sde", dt=dt, iterations=3000, seed=3)
            for dt in (1 / 64, 1 / 128)
        )
        limit, error = (
            2 * fine.rates[0] - coarse.rates[0],
            math.hypot(2 * fine.rate_errors[0], coarse.rate_errors[0]),
        )
        assert error < 0.03
        assert z(limit, error, -1 - 0.5 * 2 * 0.25 / 2) < 4

    def test_the_second_moment_of_one_mode_is_exact(self):
        found = st.lyapunov_exponents(one_mode(st.SFN(damping=0.1)))
        moment = st.exact_mode(st.SFN(damping=0.1), curvature=0.3, noise=NOISE).moment(2, 0.5).value
        assert found.mean_square == pytest.approx(0.5 * math.log(moment), rel=1e-12)


class TestPublished:
    @pytest.mark.slow
    def test_random_fibonacci(self):
        """Viswanath, Math. Comp. 69 (2000) 1131: 1.13198824...

        Signs on one entry, and ``log golden ratio / 2`` for the mean square.
        """

        def draw(rng, size):
            B = np.broadcast_to([[0.0, 1.0], [1.0, 0.0]], (size, 2, 2)).copy()
            B[:, 1, 1] = rng.choice([-1.0, 1.0], size)
            return B

        found = st.lyapunov_exponents(draw, iterations=2000, seed=1)
        assert z(found.exponents, found.errors, math.log(1.13198824) * np.array([1, -1])) < 4
        assert found.errors[0] < 1e-3
        assert z(found.mean_square, found.mean_square_error, 0.5 * math.log((1 + math.sqrt(5)) / 2)) < 4
        assert "unstable" in found.verdict

    @pytest.mark.parametrize("dim", [2, 4])
    def test_gaussian_matrices(self, dim):
        """``(log 2 + digamma((d - i + 1) / 2)) / 2``; C. M. Newman, Commun. Math. Phys. 103 (1986) 121."""
        found = st.lyapunov_exponents(
            lambda rng, size: rng.standard_normal((size, dim, dim)), iterations=300, seed=2
        )
        exact = 0.5 * (math.log(2) + scipy.special.digamma((dim - np.arange(dim)) / 2))
        assert z(found.exponents, found.errors, exact) < 4
        assert z(found.mean_square, found.mean_square_error, 0.5 * math.log(dim)) < 4
        few = st.lyapunov_exponents(
            lambda rng, size: rng.standard_normal((size, dim, dim)), rank=1, iterations=300, seed=2
        )
        assert len(few.exponents) == 1
        assert z(few.exponents, few.errors, exact[:1]) < 4

    def test_triangular_matrices(self):
        """The exponents are the means of the diagonal's logarithms, whatever is above it."""

        def draw(rng, size):
            B = np.triu(rng.standard_normal((size, 3, 3)))
            B[:, range(3), range(3)] = np.exp(rng.standard_normal((size, 3)) * 0.3 + [-1.0, 0.2, -0.4])
            return B

        found = st.lyapunov_exponents(draw, seed=3)
        assert z(found.exponents, found.errors, [0.2, -0.4, -1.0]) < 4

    def test_commuting_matrices(self):
        turn = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0]
        found = st.lyapunov_exponents(
            lambda rng, size: (
                turn * np.exp(0.5 * rng.standard_normal((size, 1, 3)) + [0.3, -0.1, -0.8]) @ turn.T
            ),
            seed=5,
        )
        assert z(found.exponents, found.errors, [0.3, -0.1, -0.8]) < 4

    def test_one_matrix_over_and_over(self):
        """The logarithms of its eigenvalues' sizes, however far from normal it is."""
        matrix = np.array([[0.9, 3.0, 1.0], [0.0, 0.5, -2.0], [0.0, 0.0, 0.25]])
        found = st.lyapunov_exponents(always(matrix), iterations=300)
        np.testing.assert_allclose(found.exponents, np.log([0.9, 0.5, 0.25]), atol=1e-9)
        assert found.mean_square == pytest.approx(math.log(0.9), abs=1e-9)
        assert found.status == "ok"

    def test_what_rounding_leaves_of_a_singular_matrix_is_zero(self):
        for matrix in (np.ones((2, 2)), [[0.0, 1.0], [0.0, 0.0]], [[1.0, 2.0], [2.0, 4.0]], np.zeros((2, 2))):
            found = st.lyapunov_exponents(always(matrix), iterations=50)
            radius = np.max(np.abs(np.linalg.eigvals(np.asarray(matrix, dtype=float))))
            assert found.mean_square == pytest.approx(math.log(radius) if radius else -math.inf, abs=1e-12)
            assert found.exponents[0] == pytest.approx(found.mean_square, abs=1e-12)
            assert np.isneginf(found.exponents[1])

    @pytest.mark.parametrize("unit", [1e-200, 1e200])
    @pytest.mark.parametrize("count", [1, 2])
    def test_units_do_not_matter(self, unit, count):
        """Squares of such entries are no floats."""
        small, large = (
            st.lyapunov_exponents(
                lambda rng, size, c=c: c * rng.standard_normal((size, 2, 2)), rank=count, iterations=50
            )
            for c in (1.0, unit)
        )
        np.testing.assert_allclose(large.exponents, small.exponents + math.log(unit), rtol=1e-12)
        assert large.mean_square == pytest.approx(small.mean_square + math.log(unit), rel=1e-12)

    def test_small_entries_are_not_zero(self):
        found = st.lyapunov_exponents(always(np.diag([1.0, 1e-40])), iterations=50)
        np.testing.assert_allclose(found.exponents, [0, math.log(1e-40)], atol=1e-9)


class TestFlows:
    @METHODS
    @pytest.mark.parametrize("coupling", ["independent", "nested"])
    def test_the_matrices_are_the_flows_own_steps(self, method, coupling):
        flow = two_modes(method, st.Noise(curvature=0.05, batch=2, hessian_batch=1, coupling=coupling))
        linear, size = st.linearize(flow), 5
        X, _ = matrices.rates(linear, "iteration", 1.0)(np.random.default_rng(1), size)
        sample = flow.draw(size, np.random.default_rng(1), level="iteration")
        for e in np.eye(2):
            stepped = flow.update(
                np.broadcast_to(e, (size, 2)), Sample(np.zeros((size, 2)), sample.Eg, sample.Eh)
            )
            np.testing.assert_allclose(e - 0.5 * X @ e, stepped, rtol=1e-10, atol=1e-12)
        X, _ = matrices.rates(linear, "sde", 0.4)(np.random.default_rng(1), size)
        for e in np.eye(2):
            stepped = flow.euler(
                np.broadcast_to(e, (size, 2)), Sample(np.zeros((size, 2)), sample.Eg, sample.Eh), 0.2
            )
            turned = (linear.vectors @ (np.eye(2) - 0.2 * X) @ linear.vectors.T) @ e
            np.testing.assert_allclose(turned, stepped, rtol=1e-10, atol=1e-12)

    @METHODS
    @pytest.mark.parametrize("level", ["iteration", "sde"])
    def test_the_exponents_sum_to_the_mean_log_determinant(self, method, level):
        flow = two_modes(method)
        found = st.lyapunov_exponents(flow, level=level, iterations=300, seed=6)
        X, _ = matrices.rates(st.linearize(flow), level, 1.0)(np.random.default_rng(100), 50_000)
        logs = np.linalg.slogdet(np.eye(2) - 0.5 * X)[1]
        gap = found.exponents.sum() - logs.mean()
        own = found.samples.sum(axis=1).std(ddof=1) / math.sqrt(len(found.samples))
        assert abs(gap) < 4 * math.hypot(own, logs.std() / math.sqrt(len(logs)))

    def test_dimensions_that_do_not_couple(self):
        """The same batch and Newton's method: ``B = (1 - step) I`` whatever the noise."""
        flow = two_modes(st.Newton(), st.Noise(curvature=0.3, coupling="nested"), step=0.25)
        found = st.lyapunov_exponents(flow, iterations=100)
        np.testing.assert_allclose(found.exponents, math.log(0.75), atol=1e-9)
        assert found.verdict == "almost surely stable and mean-square stable"
        assert st.almost_sure_limit(flow, iterations=50).limit == pytest.approx(2, abs=1e-6)

    def test_one_step_to_the_critical_point(self):
        flow = two_modes(st.Newton(), st.Noise(curvature=0.3, coupling="nested"), step=1.0)
        found = st.lyapunov_exponents(flow, iterations=100)
        assert np.isneginf(found.exponents).all()
        assert np.isneginf(found.mean_square)
        assert found.verdict == "almost surely stable and mean-square stable"
        assert np.isneginf(top_exponents(flow, [1.0])[0]).all()
        alone = st.lyapunov_exponents(
            one_mode(st.Newton(), noise=st.Noise(curvature=0.3, coupling="nested"), step=1.0), iterations=100
        )
        assert np.isneginf([alone.exponents[0], alone.mean_square]).all()

    def test_one_step_to_a_subspace(self):
        """Newton's gain on the larger eigenvalue, one batch for both: gone at step 1; the other stays."""
        method = st.Method(gain=lambda lam: 1 / lam, rank=1, tail_gain=lambda lam: 1 + 0 * lam)
        found = st.lyapunov_exponents(
            two_modes(method, st.Noise(curvature=0.02, coupling="nested"), step=1.0), iterations=10
        )
        assert abs(found.exponents[0] - math.log(0.9)) < 0.05
        assert np.isneginf(found.samples[:, 1]).all()

    def test_without_noise_they_are_the_modes(self):
        flow = st.Flow(st.quadratic([1.0, -0.2]), st.SGD(), step=0.5)
        found = st.lyapunov_exponents(flow, level="sde", dt=0.1, iterations=400)
        np.testing.assert_allclose(found.rates, np.log([1.02, 0.9]) / 0.1, rtol=1e-6)
        assert found.mean_square == pytest.approx(5 * math.log(1.02), rel=1e-12)
        assert found.verdict.startswith("unstable")

    @pytest.mark.parametrize("rotation_seed", [None, 3])
    @pytest.mark.parametrize(
        "noise",
        [st.Noise(), st.Noise(gradient=0.3), st.Noise(curvature=0.3, batch=math.inf)],
        ids=["none", "gradient", "whole batch"],
    )
    def test_without_curvature_noise_nothing_is_left_to_chance(self, noise, rotation_seed):
        """However close the modes: a product of one matrix has its eigenvalues."""
        flow = st.Flow(
            st.quadratic([1.0, 0.99, -0.2], rotation_seed=rotation_seed), st.SGD(), noise, step=0.5
        )
        found = st.lyapunov_exponents(flow, iterations=10, products=10)
        np.testing.assert_allclose(found.exponents, np.log([1.1, 0.505, 0.5]), rtol=1e-12)
        assert np.max(found.errors) < 1e-15
        assert found.mean_square == pytest.approx(math.log(1.1), rel=1e-12)
        assert found.status == "ok"
        values, errors = top_exponents(flow, [0.5, 1.0], iterations=10, products=10)
        np.testing.assert_allclose(values, np.log([1.1, 1.2]), rtol=1e-12)
        assert not errors.any()

    def test_a_small_step_is_told_from_no_step(self):
        found = st.lyapunov_exponents(
            st.Flow(st.quadratic([1.0]), st.SGD(), st.Noise(curvature=0.1), step=1e-11), iterations=50
        )
        assert found.verdict == "almost surely stable and mean-square stable"

    def test_steps_whose_squares_are_no_floats(self):
        huge, large = (
            st.lyapunov_exponents(two_modes(st.SGD(), step=step), iterations=50) for step in (1e200, 1e6)
        )
        np.testing.assert_allclose(huge.exponents, large.exponents + math.log(1e194), rtol=1e-5)
        assert huge.mean_square == pytest.approx(large.mean_square + math.log(1e194), rel=1e-5)
        wide, narrow = (
            st.lyapunov_exponents(two_modes(st.SGD()), level="sde", dt=dt, iterations=10, products=10)
            for dt in (1e200, 1e100)
        )
        assert wide.mean_square * 2e200 == pytest.approx(
            narrow.mean_square * 2e100 + math.log(1e100), rel=1e-9
        )

    def test_a_pole_kicks_across_at_every_small_step(self):
        """Newton's method, equal curvatures h: what the pole adds to the exponent per unit of t.

        It goes to ``-h PV E tr (H + Eh)^-1 / 2 + pi rho(0) E|u (H + Eg) v| sin(u, v)``.

        The gain has Cauchy's tails, ``rho`` eigenvalues of ``H + Eh`` per unit at zero: kicks of all sizes up
        to the reciprocal of the step, whose part across the path, ``PV int log|v - y u| dy / y^2 = pi sin(u,
        v)``, shrinks no faster than the drift does. One mode has none; from ``tau = 0.54 h`` two grow almost
        surely, however small the step.
        """
        for tau in (0.3, 1.0):
            flow = st.Flow(st.quadratic([1.0, 1.0]), st.Newton(), st.Noise(curvature=tau), step=0.1)
            values, errors = top_exponents(flow, [0.01, 0.02], iterations=250, products=1000)
            assert z(2 * values[0] / 0.01 - values[1] / 0.02, 3 * errors[0] / 0.01, cauchy_rate(tau)) < 4
        assert cauchy_rate(0.5) < 0 < cauchy_rate(0.6)
        assert errors[0] / 0.01 < 0.1 * cauchy_rate(1.0)

    def test_so_it_has_no_step_that_contracts(self):
        """Where the linearised chain has a mean-square limit of 0.117."""
        flow = two_modes(st.Newton(), st.Noise(curvature=0.2))
        assert 0.11 < st.linearize(flow).step_limit() < 0.12
        assert st.almost_sure_limit(flow, iterations=200).limit == 0

    def test_a_chain_between_two_limits_is_the_band(self):
        flow = st.Flow(st.quadratic([1.0]), st.SGD(), st.Noise(curvature=1.0), step=0.8)
        assert st.linearize(flow).step_limit() < 0.8 < st.almost_sure_limit(flow, level="sde").limit
        found = st.lyapunov_exponents(flow, level="sde")
        assert found.verdict == "paths contract but second moments explode"

    @METHODS
    def test_the_chains_mean_square_rate_vanishes_at_its_limit(self, method):
        limit = st.linearize(two_modes(method)).step_limit()
        found = st.lyapunov_exponents(two_modes(method, step=limit), level="sde", iterations=10, products=10)
        assert found.mean_square == pytest.approx(0, abs=1e-10)
        assert found.mean_square_error == 0

    @METHODS
    def test_it_is_measured_from_the_same_matrices(self, method):
        flow = two_modes(method, st.Noise(curvature=0.1))
        exact = st.lyapunov_exponents(flow, level="sde", iterations=10, products=10).mean_square
        draw = matrices.factors(matrices.rates(st.linearize(flow), "sde", 1.0), 0.5)
        measured, error, doubt = mean_square._measured(draw, 2, np.random.default_rng(7))
        assert abs(measured - exact) < 4 * error
        assert doubt == ""

    def test_a_pole_of_the_gain_leaves_no_second_moment(self):
        for method in (st.Newton(), st.DampedNewton(damping=0.1)):
            found = st.lyapunov_exponents(two_modes(method, st.Noise(curvature=0.05)), iterations=200)
            assert found.mean_square == math.inf
            assert found.verdict == "paths contract but second moments explode"
            assert "no second moment" in found.status

    @pytest.mark.slow
    def test_many_dimensions(self):
        flow = st.Flow(st.quadratic(np.linspace(0.5, 1, 35)), st.SGD(), st.Noise(curvature=0.02), step=0.5)
        found = st.lyapunov_exponents(flow, rank=1, iterations=20, products=10)
        linear = 0.5 * math.log(1 - 2 * 0.5 * 0.5 + 0.25 * 0.25)
        assert found.exponents[0] < found.mean_square + 3 * found.mean_square_error
        assert abs(found.mean_square - linear) < 0.05

    @pytest.mark.parametrize(
        "method",
        [st.LRSFN(rank=1, damping=0.2), st.LRSFN(rank=1, damping=0.2, tail="flat")],
        ids=lambda m: m.label,
    )
    def test_truncated_methods(self, method):
        found = st.lyapunov_exponents(two_modes(method, st.Noise(curvature=0.02)), iterations=300)
        rates = st.linearize(two_modes(method)).rates
        np.testing.assert_allclose(found.exponents, np.sort(np.log(1 + 0.5 * rates))[::-1], atol=0.05)


class TestData:
    def test_real_minibatches(self):
        """Against a loop over the data set's own batches, one at a time."""
        F = regression()
        flow = st.Flow(F, st.SFN(damping=0.1), st.Noise.from_data(F, batch=4, hessian_batch=6), step=0.5)
        X, _ = matrices.rates(st.linearize(flow), "iteration", 1.0)(np.random.default_rng(2), 6)
        batches = flow.draw(6, np.random.default_rng(2), level="iteration")
        assert isinstance(batches, Minibatches)
        for x, gradient, hessian in zip(X, *batches, strict=True):
            lam, Q = np.linalg.eigh(F.hessian(F.reference, batch=hessian))
            np.testing.assert_allclose(
                x,
                Q @ np.diag(1 / (np.abs(lam) + 0.1)) @ Q.T @ F.hessian(F.reference, batch=gradient),
                rtol=1e-9,
            )

    def test_the_mean_square_limit_of_ma_and_ying(self):
        """SGD without replacement: the measured second moment against the exact one of its Gaussian chain."""
        F = regression()
        flow = st.Flow(F, st.SGD(), st.Noise.from_data(F, batch=3), step=0.4)
        found = st.lyapunov_exponents(flow, iterations=200, seed=3)
        chain = st.lyapunov_exponents(flow, level="sde", iterations=200)
        assert z(found.mean_square, found.mean_square_error, chain.mean_square) < 4
        assert chain.mean_square_error == 0

    def test_flat_directions_of_an_interpolating_minimum_are_left_out(self):
        X = np.random.default_rng(1).standard_normal((3, 5))
        F = st.least_squares(X, X @ np.ones(5))
        flow = st.Flow(F, st.SGD(), st.Noise.from_data(F, np.ones(5), batch=2), step=0.1)
        found = st.lyapunov_exponents(flow, [1.0] * 5, iterations=100)
        assert (found.flat, len(found.exponents)) == (2, 3)
        assert found.verdict == "almost surely stable and mean-square stable"
        assert "2 flat directions" in str(found)
        assert st.almost_sure_limit(flow, [1.0] * 5, iterations=50).limit > 0.1

    def test_a_singular_batch_is_told(self):
        F = regression(n=12, dim=3)
        flow = st.Flow(F, st.Newton(), st.Noise.from_data(F, batch=2), step=0.1)
        with pytest.raises(ValueError, match="The gain is singular, to working precision, on"):
            st.lyapunov_exponents(flow, iterations=20)
        with pytest.raises(ValueError, match="The gain is singular"):
            st.almost_sure_limit(flow)
        damped = st.Flow(F, st.SFN(damping=0.1), flow.noise_model, step=0.1)
        assert st.lyapunov_exponents(damped, iterations=20).status == "ok"


class TestJensen:
    @settings(max_examples=10, deadline=None)
    @given(hst.integers(0, 10**6), hst.integers(1, 3), hst.floats(0.05, 2))
    def test_second_moments_grow_at_least_as_fast_as_paths(self, seed, dim, spread):
        center = np.random.default_rng(seed).standard_normal((dim, dim))
        found = st.lyapunov_exponents(
            lambda rng, size: center + spread * rng.standard_normal((size, dim, dim)),
            iterations=100,
            products=50,
            seed=seed,
        )
        assert found.exponents[0] - 4 * found.errors[0] <= found.mean_square + 4 * found.mean_square_error
        assert (np.diff(found.exponents) <= 0).all()

    @METHODS
    def test_so_the_mean_square_limit_is_the_smaller_one(self, method):
        flow = two_modes(method)
        found = st.almost_sure_limit(flow, level="sde", iterations=100, products=100)
        assert st.linearize(flow).step_limit() < found.limit + 4 * found.error


class TestLimit:
    def test_the_same_numbers_at_every_step(self):
        flow = two_modes(st.SFN(damping=0.1))
        values, errors = top_exponents(flow, [0.5, 0.6], seed=3)
        alone, _ = top_exponents(flow, [0.6], seed=3)
        assert values[1] == alone[0]
        single = st.lyapunov_exponents(flow, rank=1, seed=9)
        assert abs(values[0] - single.exponents[0]) < 4 * math.hypot(errors[0], single.errors[0])

    @pytest.mark.slow
    def test_at_the_limit_the_exponent_is_zero(self):
        limit = st.almost_sure_limit(two_modes(st.SFN(damping=0.1)), iterations=200, seed=1)
        found = st.lyapunov_exponents(two_modes(st.SFN(damping=0.1), step=limit.limit), seed=2)
        slope = np.interp(limit.limit, limit.steps[1:], np.diff(limit.exponents) / np.diff(limit.steps))
        assert abs(found.exponents[0]) < 4 * math.hypot(found.errors[0], slope * limit.error)
        assert "undecided" in found.verdict or abs(found.exponents[0]) > 3 * found.errors[0]

    def test_no_step_contracts_at_a_saddle(self):
        found = st.almost_sure_limit(st.Flow(st.quadratic([1.0, -0.5]), st.SGD(), NOISE, step=0.1))
        assert found.limit == 0
        assert "above zero at step" in found.status

    @pytest.mark.slow
    def test_a_saddle_is_told_at_steps_too_small_to_find_its_direction(self):
        """From random directions the first paths of a short run contract: 50 steps of 0.007 turn nothing."""
        for slope, iterations in ((-0.5, 50), (-0.05, 400), (-0.01, 400)):
            flow = st.Flow(
                st.quadratic([1.0, slope], rotation_seed=2), st.SGD(), st.Noise(curvature=0.03), step=0.1
            )
            assert st.almost_sure_limit(flow, iterations=iterations).limit == 0
            found = st.lyapunov_exponents(
                st.Flow(flow.objective, flow.method, flow.noise_model, step=1e-3), iterations=iterations
            )
            assert z(found.rates, found.rate_errors + 3e-4, [-slope, -1]) < 4
            values, errors = top_exponents(flow, [1e-3], iterations=iterations)
            assert abs(values[0] / 1e-3 + slope) < 4 * errors[0] / 1e-3 + 1e-3

    @pytest.mark.slow
    def test_small_steps_that_are_not_told_from_zero_do_not_decide(self):
        """Newton's exponents at small steps are smaller than their errors, and of either sign."""
        exact = st.exact_mode(st.Newton(), curvature=0.3, noise=NOISE).almost_sure_limit
        found = [
            st.almost_sure_limit(one_mode(st.Newton()), iterations=60, products=50, seed=seed)
            for seed in (3, 34, 40)
        ]
        assert all(one.exponents[0] > 0 and "not told from zero" in one.status for one in found)
        assert all(abs(one.limit - exact) < 4 * one.error for one in found)

    def test_a_flow_that_stands_still_is_never_told_from_zero(self):
        found = st.almost_sure_limit(
            st.Flow(st.quadratic([1.0]), st.Method(gain=lambda lam: 0 * lam), step=0.1), iterations=50
        )
        assert math.isnan(found.limit)
        assert found.status.endswith("take more iterations")

    def test_any_step_that_was_tried(self):
        """A step of Newton's method with one batch for both that is hardly a step."""
        crawl = st.Method(gain=lambda lam: 1e-9 / lam, name="crawl")
        flow = st.Flow(st.quadratic([1.0, 0.5]), crawl, step=0.1)
        assert st.almost_sure_limit(flow).limit == pytest.approx(2e9)

    def test_a_window_of_steps(self):
        """Rates 1 and 30, each half of the time: two ranges of steps contract.

        ``log|1 - s| + log|1 - 30 s|`` is negative, positive, and negative again near s = 1.
        """
        rate = np.array([[1.0], [30.0]])

        def draw(rng, size):
            return rate[rng.integers(2, size=size)][:, :, None], np.zeros(size)

        steps = np.geomspace(0.01, 10, 200)
        values, errors = limit._tops(
            matrices.Rates(draw, 1, 0, False, np.eye(1)), steps, iterations=200, products=100, seed=0
        )
        exact = 0.5 * (np.log(np.abs(1 - steps)) + np.log(np.abs(1 - 30 * steps)))
        assert z(values, errors, exact) < 4.5
        windows = limit._windows(steps, values, errors)
        assert len(windows) == 2
        assert windows[0, 1] < 0.07 < 0.9 < windows[1, 0] < 1 < windows[1, 1]


class TestCoverage:
    """Nominal 95 % intervals, ``value +- 1.96 error``, over 200 seeds."""

    spread = 0.5 * math.sqrt(2)
    flow = st.Flow(st.quadratic([1.0]), st.SGD(), st.Noise(curvature=0.5), step=1.5)

    @classmethod
    def exponent(cls, step):
        """``E log |1 - step (1 + e)|``: of a noncentral chi-squared, a Poisson sum of central ones."""
        size, shift = step * cls.spread, (1 - step) / (step * cls.spread)
        j = np.arange(200)
        share = scipy.stats.poisson.pmf(j, 0.5 * shift**2)
        return math.log(size) + 0.5 * float(share @ (scipy.special.digamma(0.5 + j) + math.log(2)))

    @staticmethod
    def covers(z):
        assert 0.9 <= np.mean(np.abs(z) < 1.96) <= 0.98

    @pytest.mark.slow
    def test_of_exponents_from_few_products(self):
        truth = self.exponent(1.5)
        found = [
            st.lyapunov_exponents(self.flow, seed=s, iterations=40, products=12) for s in range(300, 500)
        ]
        self.covers(np.array([(one.exponents[0] - truth) / one.errors[0] for one in found]))

    @pytest.mark.slow
    def test_of_the_mean_square_of_matrices_of_ones_own(self):
        """``E B M B^T = .36 M + .25 tr(M) I``, whose radius is .86."""

        def draw(rng, size):
            return 0.6 * np.eye(2) + 0.5 * rng.standard_normal((size, 2, 2))

        found = [st.lyapunov_exponents(draw, seed=s, iterations=10, products=10) for s in range(200)]
        self.covers(
            np.array([(one.mean_square - 0.5 * math.log(0.86)) / one.mean_square_error for one in found])
        )

    @pytest.mark.slow
    def test_of_the_almost_sure_limit(self):
        truth = scipy.optimize.brentq(self.exponent, 1.5, 3)
        found = [st.almost_sure_limit(self.flow, seed=s, iterations=30, products=30) for s in range(200)]
        self.covers(np.array([(one.limit - truth) / one.error for one in found]))


class TestResult:
    def test_the_picture_says_where_there_is_no_limit(self):
        saddle, still = st.quadratic([1.0, -0.5]), st.Method(gain=lambda lam: 0 * lam)
        for flow, title in (
            (st.Flow(saddle, st.SGD(), NOISE, step=0.1), "Paths contract at no small step"),
            (st.Flow(st.quadratic([1.0]), still, step=0.1), "The exponent is not told from zero at any step"),
            (st.Flow(st.quadratic([1.0]), st.SGD(), step=0.1), r"up to $\alpha = 2 "),
        ):
            assert title in st.plot(st.almost_sure_limit(flow, iterations=50))._suptitle.get_text()

    def test_it_prints_saves_and_draws(self, tmp_path):
        for result in (
            st.lyapunov_exponents(two_modes(st.SGD()), iterations=50),
            st.almost_sure_limit(two_modes(st.SGD()), iterations=50),
        ):
            again = st.load(st.save(result, tmp_path / "result"))
            assert str(again) == str(result)
            assert "status: ok" in str(again)
            assert st.plot(again).axes
        many = st.lyapunov_exponents(
            lambda rng, size: rng.standard_normal((size, 14, 14)), iterations=20, products=10
        )
        assert len(str(many).splitlines()) == 2 + 12 + 3

    def test_the_same_seed_gives_the_same_numbers(self):
        first, second, third = (
            st.lyapunov_exponents(two_modes(st.SGD()), iterations=50, seed=seed).exponents
            for seed in (1, 1, 2)
        )
        assert np.array_equal(first, second)
        assert not np.array_equal(first, third)

    def test_a_run_that_has_not_settled_says_so(self):
        """A slow direction: both exponents within 1e-3, so 10 iterations of burn-in turn nothing."""
        found = st.lyapunov_exponents(always(np.diag([1.01, 1.0])), iterations=50)
        assert "not settled" in found.status

    @pytest.mark.parametrize(
        ("verdict", "numbers"),
        [
            ("unstable: paths grow almost surely", (0.1, 0.01, 0.2, 0.01)),
            ("undecided within the error: the top exponent is not told from zero", (-0.02, 0.01, 0.2, 0.01)),
            ("almost surely stable and mean-square stable", (-0.1, 0.01, -0.05, 0.01)),
            ("paths contract but second moments explode", (-0.1, 0.01, 0.05, 0.01)),
            (
                "paths contract; whether second moments do is undecided within the error",
                (-0.1, 0.01, 0.02, 0.01),
            ),
        ],
    )
    def test_verdicts(self, verdict, numbers):
        assert exponents._verdict(*numbers) == verdict

    def test_a_lump_is_told(self):
        def draw(rng, size):
            return np.exp(2.5 * rng.standard_normal((size, 1, 1)) ** 2)

        assert "is not measured" in st.lyapunov_exponents(draw, iterations=20).status
        found = st.lyapunov_exponents(lambda rng, size: 1e-4 * draw(rng, size), iterations=200)
        assert found.verdict == "paths contract; whether second moments do is undecided within the error"


class TestBadInput:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"iterations": 5}, "`iterations` must be an integer >= 10"),
            ({"products": 1}, "`products` must be an integer >= 10"),
            ({"seed": -1}, "`seed` must be an integer >= 0"),
            ({"rank": 3}, "`rank` must be an integer >= 1 and <= 2"),
            ({"level": "chain"}, "`level` must be one of iteration, sde"),
            ({"dt": 0.1}, "`dt` belongs to level='sde'"),
            ({"dt": -1.0, "level": "sde"}, "`dt` must be a finite number > 0"),
            ({"at": [1.0, 1.0]}, "`at` must be a critical point"),
        ],
    )
    def test_exponents(self, options, message):
        with pytest.raises(ValueError, match=message):
            st.lyapunov_exponents(two_modes(st.SGD()), **options)

    def test_functions(self):
        with pytest.raises(ValueError, match=r"`flow` must be a st\.Flow or a function"):
            st.lyapunov_exponents(3.0)
        with pytest.raises(ValueError, match="must give matrices of shape"):
            st.lyapunov_exponents(lambda rng, size: np.ones((size, 2, 3)))
        with pytest.raises(ValueError, match="must have shape"):
            st.lyapunov_exponents(lambda rng, size: np.ones((2, 2, 2)))
        with pytest.raises(ValueError, match="must be finite"):
            st.lyapunov_exponents(always([[np.nan]]))
        with pytest.raises(ValueError, match="`at` and `dt` belong to"):
            st.lyapunov_exponents(always([[1.0]]), [0.0])

    def test_limits(self):
        with pytest.raises(ValueError, match=r"`flow` must be a st\.Flow; got"):
            st.almost_sure_limit(always([[1.0]]))
        with pytest.raises(ValueError, match="`level` must be one of"):
            st.almost_sure_limit(two_modes(st.SGD()), level="x")
        with pytest.raises(ValueError, match="`steps` must be numbers > 0"):
            top_exponents(two_modes(st.SGD()), [0.0])
        with pytest.raises(ValueError, match="`steps` must be so small that one step does not overflow"):
            top_exponents(two_modes(st.SGD()), [0.5, 1e200])
        with pytest.raises(ValueError, match=r"The step, or `dt`, must be so small"):
            st.lyapunov_exponents(st.Flow(st.quadratic([1e200]), st.SGD(), NOISE, step=1e200))


class TestStudy:
    @pytest.mark.slow
    def test_its_statements_hold_and_can_fail(self):
        study = claims.run("lyapunov", quick=True)
        assert [check.passed for check in claims.check(study)] == [True] * 4
        assert len(st.plot(study).axes) == 5
        wrong = dict(study.arrays) | {"exponent": -study["exponent"], "line": study["line"] + [0.1, 0, 0]}
        assert [check.passed for check in claims.check(st.Study("lyapunov", wrong, study.parameters))] == [
            False,
            False,
            True,
            False,
        ]
        wrong = dict(study.arrays) | {"square_limit": study["square_limit"] + 100}
        assert not claims.check(st.Study("lyapunov", wrong, study.parameters))[2].passed

    def test_the_mean_square_limit_is_that_of_one_mode_where_modes_do_not_couple(self):
        """SGD with equal eigenvalues: ``2 lam / (lam^2 + tau^2 (d + 1))``."""
        flow = st.Flow(st.quadratic([1.0, 1.0]), st.SGD(), st.Noise(curvature=0.3), step=0.5)
        assert lyapunov_claim._mean_square_limit(flow, 100_000, 0) == pytest.approx(
            2 / (1 + 3 * 0.09), rel=0.01
        )


class TestMomentum:
    """Matrices of whole states, positions and buffer."""

    SPECTRUM = np.array([1.0, 0.3])
    NOISE = st.Noise(curvature=0.4)

    @pytest.mark.parametrize("nesterov", [False, True])
    @pytest.mark.parametrize("beta", [0.8, 0.1])
    def test_without_noise_they_are_logarithms_of_eigenvalues(self, beta, nesterov):
        step, c, e = 0.5, (1 + beta if nesterov else 1), (beta**2 if nesterov else beta)
        flow = st.Flow(
            st.quadratic(self.SPECTRUM, rotation_seed=1), st.Momentum(st.SGD(), beta, nesterov), step=step
        )
        pairs = [[[1 - step * c * h, -step * e], [h, beta]] for h in self.SPECTRUM]
        expected = np.sort(np.log(np.abs(np.linalg.eigvals(pairs))).ravel())[::-1]
        found = st.lyapunov_exponents(flow)
        np.testing.assert_allclose(found.exponents, expected, rtol=1e-12)
        assert found.mean_square == pytest.approx(expected[0])
        limit = st.almost_sure_limit(flow).limit
        assert limit == pytest.approx(2 * (1 + beta) / (1 + 2 * beta if nesterov else 1), rel=1e-4)

    @pytest.mark.parametrize(
        ("method", "level", "dt"),
        [
            (st.Momentum(st.SFN(damping=0.3), 0.5, nesterov=True), "iteration", None),
            (st.Momentum(st.SGD(), 0.8, nesterov=True), "sde", 0.1),
        ],
        ids=["iteration", "sde"],
    )
    def test_paths_grow_at_the_top_exponent(self, method, level, dt):
        flow = st.Flow(st.quadratic(self.SPECTRUM), method, self.NOISE, step=0.4)
        found = st.lyapunov_exponents(flow, level=level, dt=dt, products=60, iterations=300, rank=1)
        rng, ratio, z, grown = np.random.default_rng(5), (dt or 0.4) / 0.4, np.ones((200, 4)), 0.0
        for k in range(round(300 / ratio)):
            sample = flow.draw(200, rng, level=level)
            z = flow.update(z, sample) if dt is None else flow.euler(z, sample, dt)
            size = np.linalg.norm(z, axis=1)
            grown, z = grown + np.log(size) * (k >= 60 / ratio), z / size[:, None]
        grown = grown / 240
        error = np.hypot(found.errors[0], grown.std(ddof=1) / np.sqrt(200))
        assert abs(found.exponents[0] - grown.mean()) < 4 * error

    def test_the_chains_mean_square_rate_is_zero_at_linear_theorys_limit(self):
        flow = st.Flow(st.quadratic(self.SPECTRUM), st.Momentum(st.SGD(), 0.8), self.NOISE, step=0.1)
        at_limit = flow.at_step(st.linearize(flow).step_limit("mean-square"))
        found = st.lyapunov_exponents(at_limit, level="sde", products=10, iterations=10)
        assert found.mean_square == pytest.approx(0, abs=1e-10)
        assert found.exponents[0] < 0

    def test_at_its_limit_the_top_exponent_is_zero(self):
        flow = st.Flow(st.quadratic(self.SPECTRUM), st.Momentum(st.SGD(), 0.8), self.NOISE, step=0.1)
        limit = st.almost_sure_limit(flow, products=20, iterations=100)
        assert limit.limit > 1.5 * st.linearize(flow).step_limit("mean-square")
        there = st.lyapunov_exponents(flow.at_step(limit.limit), products=60, iterations=300, rank=1)
        slope = np.gradient(limit.exponents, limit.steps)[np.argmin(np.abs(limit.steps - limit.limit))]
        assert abs(there.exponents[0]) < 4 * np.hypot(there.errors[0], slope * limit.error)

    def test_a_newton_batch_has_no_second_moment_with_momentum_either(self):
        flow = st.Flow(st.quadratic([1.0]), st.Momentum(st.Newton(), 0.5), self.NOISE, step=0.1)
        found = st.lyapunov_exponents(flow, products=10, iterations=10)
        assert found.mean_square == np.inf
        assert "no second moment" in found.status
