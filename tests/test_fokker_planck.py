"""Stationary densities: closed forms, SciPy's quadrature, ensembles against their own chain's exact law."""

import itertools
from functools import cache

import numpy as np
import pytest
import scipy.stats
from scipy.integrate import quad

import stability as st
from stability import claims
from stability.densities import kernel
from stability.densities.elimination import hitting_times, stationary
from stability.densities.kernel import closed
from stability.densities.plane import selling

STEP = 0.1
WELL = st.landscape("double_well", dim=1)


def flow(objective=WELL, method=None, noise=None, step=STEP):
    return st.Flow(objective, method or st.SGD(), noise or st.Noise(gradient=1.0), step=step)


def masses(density, edges):
    """Cell masses of a density, by SciPy, normalised."""
    parts = np.array(
        [quad(density, a, b, epsabs=1e-13, epsrel=1e-12)[0] for a, b in itertools.pairwise(edges)]
    )
    return parts / parts.sum()


def variation(p, q):
    return 0.5 * np.abs(p - q).sum()


class TestContinuousOnALine:
    @pytest.mark.parametrize("method", [st.SGD(), st.Newton(), st.SFN(damping=0.1)], ids=lambda m: m.name)
    def test_a_quadratic_has_its_gaussian(self, method):
        one = flow(st.quadratic([2.0]), method)
        found = st.stationary_density(one, 3, cells=101)
        variance = st.linearize(one).covariance("continuous")[0, 0]
        law = scipy.stats.norm(scale=np.sqrt(variance))
        np.testing.assert_allclose(found.covariance, [[variance]], rtol=1e-11)
        np.testing.assert_allclose(found.mass, np.diff(law.cdf(found.edges["w1"])), atol=1e-12)
        np.testing.assert_allclose(found.density, law.pdf(found.centers[0]), rtol=1e-10, atol=1e-300)
        assert found.status == "ok"
        assert found.error < 1e-10

    def test_curvature_noise_gives_students_law(self):
        one = flow(st.quadratic([1.0]), noise=st.Noise(gradient=1.0, curvature=1.0))  # D = step (1 + 2 x^2)
        degrees = 1 + 2 / (STEP * 2)
        assert st.linearize(one).tail_index == pytest.approx(degrees)
        law = scipy.stats.t(degrees, scale=np.sqrt(1 / (2 * degrees)))
        found = st.stationary_density(one, 3)
        inside = np.diff(law.cdf(found.edges["w1"]))
        np.testing.assert_allclose(found.mass, inside / inside.sum(), rtol=1e-8, atol=1e-13)
        assert found.lost == pytest.approx(2 * law.sf(3) / inside.sum(), rel=1e-6)
        assert found.tail_index == pytest.approx(degrees, rel=0.02)
        assert f"moments of order {found.tail_index:.4g} and more are infinite" in found.status

    def test_hessian_noise_too(self):
        """Newton with a subsampled Hessian: D = step (sigma^2 + (s_g^2 + s_h^2) x^2) / lambda^2.

        So nu = 1 + 2 / (step s^2 / lambda^2).
        """
        one = flow(st.quadratic([2.0]), st.Newton(), st.Noise(gradient=1.0, curvature=1.0, hessian_batch=2))
        degrees = 1 + 2 / (STEP * 3 / 4)
        law = scipy.stats.t(degrees, scale=np.sqrt(1 / (3 * degrees)))
        found = st.stationary_density(one, 4, cells=40)
        np.testing.assert_allclose(found.mass, np.diff(law.cdf(found.edges["w1"])), atol=1e-9)

    @pytest.mark.parametrize(
        ("method", "potential", "power"),
        [
            (st.SGD(), lambda F, g, h: F, lambda h: 1.0),
            (st.DampedNewton(damping=1.5), lambda F, g, h: 1.5 * F + g * g / 2, lambda h: (h + 1.5) ** 2),
            (st.Newton(), lambda F, g, h: g * g / 2, lambda h: h * h),
        ],
        ids=["SGD", "damped Newton", "Newton"],
    )
    def test_double_well_in_closed_form(self, method, potential, power):
        """Damped Newton's density is ``(F'' + gamma)^2 exp(-2 (gamma F + F'^2 / 2) / eps)``.

        In one dimension, with constant gradient noise.
        """

        def density(x):
            F, g, h = (x * x - 1) ** 2 / 4, x**3 - x, 3 * x * x - 1
            return power(h) * np.exp(-2 * potential(F, g, h) / STEP)

        found = st.stationary_density(flow(method=method), 2.5, cells=60)
        np.testing.assert_allclose(found.mass, masses(density, found.edges["w1"]), atol=1e-11)
        assert found.error < 1e-9
        assert ("gain is infinite" in found.status) == (method.name == "Newton")

    def test_sfn_with_its_kink_against_scipy(self):
        def slope(z):
            return 2 * (z**3 - z) * (abs(3 * z * z - 1) + 0.3) / STEP

        def density(x):
            return (abs(3 * x * x - 1) + 0.3) ** 2 * np.exp(
                -quad(slope, 1, x, points=[3**-0.5] if x < 3**-0.5 else None, epsabs=1e-13)[0]
            )

        edges = np.linspace(0, 2, 21)
        found = st.stationary_density(flow(method=st.SFN(damping=0.3)), edges)
        np.testing.assert_allclose(found.mass, masses(density, edges), atol=1e-9)
        np.testing.assert_allclose(found.quadrature["breaks"], [3**-0.5], atol=1e-5)

    def test_newton_gives_each_critical_point_a_mass_like_its_curvature(self):
        """Wells 2 and maximum -1: two fifths each and one fifth, whatever their heights."""
        found = st.stationary_density(flow(method=st.Newton(), step=0.01), 2)
        at = 3**-0.5
        edges = np.array([-2, -at, at, 2])
        np.testing.assert_allclose(
            np.histogram(found.centers[0], edges, weights=found.mass)[0], [0.4, 0.2, 0.4], atol=2e-3
        )

    def test_it_is_the_same_on_another_grid(self):
        narrow, wide = (st.stationary_density(flow(), grid, cells=40) for grid in (2.5, (-4, 4)))
        assert wide.covariance[0, 0] == pytest.approx(narrow.covariance[0, 0], rel=1e-10)

    @pytest.mark.parametrize("scale", [1e-6, 1e6])
    @pytest.mark.parametrize("law", [{}, {"time": "chain"}], ids=["continuous", "chain"])
    def test_units_do_not_matter(self, scale, law):
        """In units of `scale` with gains in units of ``scale^2``: the same law."""
        one = flow(method=st.SFN(damping=0.3))
        other = flow(
            st.expression(f"((x/{scale!r})^2 - 1)^2/4"),
            st.SFN(damping=0.3 / scale**2),
            st.Noise(gradient=1 / scale),
        )
        first, second = (
            st.stationary_density(one, 2.2, cells=60, **law),
            st.stationary_density(other, 2.2 * scale, cells=60, **law),
        )
        np.testing.assert_allclose(second.mass, first.mass, atol=1e-9)
        assert second.covariance[0, 0] == pytest.approx(first.covariance[0, 0] * scale**2, rel=1e-8)
        assert (first.status, second.status) == ("ok", "ok")
        assert second.error < 10 * first.error + 1e-10


class TestDoubts:
    def test_a_saddle_does_not_confine(self):
        found = st.stationary_density(flow(st.quadratic([-1.0])), 2)
        assert "no stationary law on the whole line: nothing holds the mass back beyond -2" in found.status
        assert "beyond 2" in found.status

    @pytest.mark.parametrize("text", ["cos(x)", "x^3 - x", "0*x"])
    def test_neither_do_these(self, text):
        assert (
            "no stationary law on the whole line"
            in st.stationary_density(flow(st.expression(text, ["x"])), 2).status
        )

    def test_a_small_grid_says_what_it_misses(self):
        variance = STEP / 4
        found = st.stationary_density(flow(st.quadratic([2.0])), (-0.3, 1))
        law = scipy.stats.norm(scale=np.sqrt(variance))
        assert found.lost == pytest.approx(law.cdf(-0.3) / law.sf(-0.3), rel=1e-6)
        assert "of the mass lies beyond -0.3: take a larger grid" in found.status

    def test_an_infinite_variance_is_seen(self):
        """nu = 1 + 2 / (step s^2) = 1.5."""
        found = st.stationary_density(
            flow(st.quadratic([1.0]), noise=st.Noise(gradient=1.0, curvature=np.sqrt(20.0))), 30
        )
        assert found.tail_index == pytest.approx(1.5, rel=0.02)
        law = scipy.stats.t(1.5, scale=np.sqrt(1 / (40 * 1.5)))
        assert found.lost == pytest.approx(2 * law.sf(30) / (1 - 2 * law.sf(30)), rel=1e-3)

    def test_no_noise(self):
        with pytest.raises(
            ValueError, match="no stationary density on this grid: there is no noise near w = "
        ):
            st.stationary_density(st.Flow(WELL, st.SGD(), step=STEP), 2)

    def test_noise_that_vanishes_at_a_point(self):
        with pytest.raises(
            st.Unstable, match=r"the noise vanishes at w = .*, and all of the mass collapses onto that point"
        ):
            st.stationary_density(flow(st.quadratic([1.0]), noise=st.Noise(curvature=1.0)), (-1, 2))

    def test_outside_the_domain(self):
        with pytest.raises(ValueError, match="the flow is not finite near w = -"):
            st.stationary_density(flow(st.expression("x - log(x)")), (-1, 3))
        assert st.stationary_density(flow(st.expression("x - log(x)")), (1e-3, 4)).status == "ok"

    def test_noise_that_lets_paths_through_one_way(self):
        """D vanishes at 3, where the drift is -24: whatever was beyond has left.

        Below, ``p ~ exp(2 int f / D) / D`` with D = c (x - 3)^2, c = 2 / 40.
        """
        one = flow(st.expression("x^4/4 - x^2/2"), noise=st.Noise(curvature=0.5, reference=[3.0]))

        def density(x):
            return np.exp(-40 * quad(lambda y: (y**3 - y) / (y - 3) ** 2, 0, x)[0]) / (x - 3) ** 2

        edges = np.linspace(-5, 5, 41)
        found = st.stationary_density(one, edges)
        assert found.mass[edges[:-1] >= 3].sum() == 0
        inside = edges <= 2
        np.testing.assert_allclose(found.mass[:28], masses(density, edges[inside]), atol=1e-8)
        assert found.mass[28:].sum() < 1e-6

    def test_a_drift_that_overwhelms_the_noise(self):
        """F = |x|^(3/2): the drift falls like a root, the noise like x."""
        with pytest.raises(
            st.Unstable, match=r"the drift overwhelms the noise near w = .*, and all mass collapses there"
        ):
            st.stationary_density(
                flow(st.expression("abs(x)^1.5"), noise=st.Noise(curvature=1.0, reference=[0.0])), (-1, 2)
            )

    def test_exponential_tails_are_not_heavy(self):
        """``p ~ x^(2 a / eps) exp(-2 x / eps)``: the slope, 27 where the density is 1e-20, still grows."""
        assert st.stationary_density(flow(st.expression("x - 0.2*log(x)")), (0, 3)).tail_index == np.inf

    def test_an_end_of_the_domain_that_paths_reach(self):
        found = st.stationary_density(flow(st.expression("x - 0.01*log(x)")), (0, 3))
        assert (
            found.status == "the domain ends at 0, and paths reach it: this density is for a reflecting end"
        )
        np.testing.assert_allclose(
            found.mass, np.diff(scipy.stats.gamma(1.2, scale=0.05).cdf(found.edges["w1"])), atol=1e-7
        )

    def test_a_density_that_falls_out_of_all_numbers(self):
        """F = x + 1 / x from 0: the exponent runs to minus infinity, and there is nothing to follow."""
        found = st.stationary_density(flow(st.expression("1/x + x")), (0, 5), cells=50)
        np.testing.assert_allclose(
            found.mass,
            masses(lambda x: np.exp(-20 * (x + 1 / x - 2)) if x > 0 else 0.0, found.edges["w1"]),
            atol=1e-10,
        )
        assert found.density[0] == pytest.approx(0, abs=1e-100)
        with pytest.raises(ValueError, match="`start` must be where the density is not zero"):
            found.passage_time(1e-6, 1)
        wide = st.stationary_density(flow(), (-1.8, 1e4))
        assert wide.covariance[0, 0] == pytest.approx(
            st.stationary_density(flow(), (-1.8, 3)).covariance[0, 0], rel=1e-10
        )

    def test_rounding_in_a_formula_is_not_a_corner(self):
        """Curvatures of 80 that cancel: second derivatives have 1e-12 of rounding where they are small."""
        found = st.stationary_density(
            flow(st.expression("x^2/2 + cos(20*x)/5"), st.SFN(damping=0.2)), 4, cells=40
        )
        assert found.status == "ok"
        assert found.error < 1e-8

    def test_poles_of_the_gain_are_said(self):
        damped = flow(method=st.DampedNewton(damping=0.3))
        assert (
            "the gain is infinite near w = -0.485, 0.485," in st.stationary_density(damped, 2).status
        )  # the cells of 0.4830
        assert (
            "infinite near w = 0," in st.stationary_density(flow(st.expression("x^4"), st.Newton()), 2).status
        )
        plane = flow(st.landscape("double_well", dim=2), st.Newton())
        assert "infinite where an eigenvalue is near" in st.stationary_density(plane, 1.8, cells=60).status
        assert (
            st.stationary_density(flow(plane.objective, st.DampedNewton(damping=1.5)), 1.8, cells=60).status
            == "ok"
        )

    def test_too_little_noise(self):
        with pytest.raises(ValueError, match="The noise is too small for this grid"):
            st.stationary_density(flow(noise=st.Noise(gradient=1e-4)), 3)

    def test_a_drift_that_is_infinite_alone(self):
        """F = |x|^(1/2) + x^2: D is constant and p ~ exp(-2 F / eps) has a cusp."""
        found = st.stationary_density(flow(st.expression("sqrt(abs(x)) + x^2"), step=1.0), 3, cells=30)
        np.testing.assert_allclose(
            found.mass, masses(lambda x: np.exp(-2 * (np.sqrt(abs(x)) + x * x)), found.edges["w1"]), atol=1e-6
        )


class TestChain:
    @pytest.mark.parametrize("dt", [0.02, 0.1, 0.5])
    def test_an_ornstein_uhlenbeck_chain_has_its_own_variance(self, dt):
        one = flow(st.quadratic([2.0]), st.SFN(damping=0.5))
        found = st.stationary_density(one, 2, time="chain", dt=dt)
        np.testing.assert_allclose(found.covariance, st.linearize(one).covariance("chain", dt=dt), rtol=1e-9)
        assert found.status == "ok"
        law = scipy.stats.norm(scale=np.sqrt(found.covariance[0, 0]))
        np.testing.assert_allclose(found.mass, np.diff(law.cdf(found.edges["w1"])), atol=1e-10)

    @pytest.mark.parametrize("method", [st.SGD(), st.SFN(damping=0.5)], ids=lambda m: m.name)
    def test_it_tends_to_continuous_time_at_first_order(self, method):
        limit = st.stationary_density(flow(method=method), 1.8, cells=40)
        gaps = [
            variation(
                st.stationary_density(flow(method=method), 1.8, cells=40, time="chain", dt=dt).mass,
                limit.mass,
            )
            for dt in (0.08, 0.04, 0.02)
        ]
        orders = np.log2(gaps[:-1]) - np.log2(gaps[1:])
        assert abs(orders[-1] - 1) < 0.1
        assert abs(orders[0] - 1) < 0.25

    def test_rare_passages_keep_the_masses_of_two_wells(self):
        """A barrier of 20: the wells' masses are the continuous law's up to O(dt), without a subtraction."""
        one = flow(st.expression("(x^2 - 1)^2/4 + x/100"), step=0.025)
        chain, limit = (
            st.stationary_density(one, 2, cells=20, **law) for law in ({"time": "chain", "dt": 0.01}, {})
        )
        left = [found.mass[:10].sum() / found.mass[10:].sum() for found in (chain, limit)]
        assert limit.mass[:10].sum() > 0.8
        assert left[0] == pytest.approx(left[1], rel=0.05)

    def test_passages_as_rare_as_exp_minus_40(self):
        """Tilted: the wells weigh 3:1. Linear solvers lose weights and times to rounding there."""
        one = flow(st.expression("x^4/4 - x^2/2 + 0.00335*x"), noise=st.Noise(gradient=0.5), step=0.05)
        chain, limit = (st.stationary_density(one, 1.9, cells=20, **law) for law in ({"time": "chain"}, {}))
        left = [found.mass[:10].sum() for found in (chain, limit)]
        assert left[1] == pytest.approx(0.75, abs=0.01)
        assert left[0] == pytest.approx(left[1], abs=0.05)
        assert chain.status == "ok"
        times = [found.log_passage_time(1, -1) for found in (chain, limit)]
        assert times[1] > 36
        assert times[0] == pytest.approx(times[1], abs=0.5)
        there = chain.log_passage_time(-1, 1) - times[0]
        assert there == pytest.approx(np.log(left[0] / (1 - left[0])), abs=0.02)  # two states in balance

    def test_the_work_is_bounded(self, monkeypatch):
        """Narrow kernels beside wide ones: as many nodes as are allowed, and what that left is said."""
        assert kernel.MOST_NODES <= 4000
        one = flow(st.expression("x^4/4 - x^2/2"), st.Newton())
        monkeypatch.setattr(kernel, "MOST_NODES", 600)
        assert (
            "no second resolution fits: the accuracy is not known"
            in st.stationary_density(one, 2, time="chain", cells=40).status
        )

    def test_a_refinement_that_still_changes_the_law_is_said(self, monkeypatch):
        monkeypatch.setattr(kernel, "_WIDTHS", (40.0, 20.0))
        found = st.stationary_density(flow(method=st.SFN(damping=0.3)), 2, time="chain", cells=40)
        assert found.error > 1e-6
        assert "the last refinement still changed" in found.status

    @pytest.mark.parametrize("size", [2, 60, 250])
    def test_elimination_in_blocks(self, size):
        moves = np.random.default_rng(size).uniform(size=(size, size)) ** 6
        moves /= moves.sum(axis=1, keepdims=True)
        share = stationary(moves)
        np.testing.assert_allclose(share @ moves, share, rtol=1e-12)
        stay = 0.9 * moves
        times = np.linalg.solve(np.eye(size) - stay, np.full(size, 0.1))
        np.testing.assert_allclose(hitting_times(stay, 1 - stay.sum(axis=1), 0.1), times, rtol=1e-12)

    def test_elimination_keeps_small_numbers(self):
        """Two states that swap with 1e-30 and 2e-30: thirds, where subtractions would leave rounding.

        From the first the second takes 1e30 steps.
        """
        moves = np.array([[1 - 1e-30, 1e-30], [2e-30, 1 - 2e-30]])
        np.testing.assert_allclose(stationary(moves), [2 / 3, 1 / 3], rtol=1e-14)
        np.testing.assert_allclose(hitting_times(np.ones((1, 1)), np.array([1e-30]), 0.5), [5e29], rtol=1e-14)

    def test_rounding_does_not_decide_between_two_wells(self):
        """Four states in pairs that mix at once and swap with 1e-16 and 2e-16: a third in the second pair."""
        pair, swap = np.full((2, 2), 0.5), np.array([[1e-16, 0.0], [0.0, 0.0]])
        share = stationary(np.block([[pair, swap], [2 * swap, pair]]))
        np.testing.assert_allclose(share, [1 / 3, 1 / 3, 1 / 6, 1 / 6], rtol=1e-12)

    def test_states_that_are_never_entered_have_no_mass(self):
        np.testing.assert_allclose(
            stationary(np.array([[0.0, 0.0, 1.0], [0.0, 0.5, 0.5], [0.0, 1.0, 0.0]])),
            [0, 2 / 3, 1 / 3],
            rtol=1e-14,
        )

    def test_a_step_that_always_leaves_is_brought_to_the_nearest_node(self):
        nodes, mean = np.array([0.0, 1.0, 2.0]), np.array([0.5, 9.0, -7.0])
        moves = np.array([[1.0, 3.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
        np.testing.assert_array_equal(
            closed(moves, nodes, mean, np.ones(3)), [[0.25, 0.75, 0], [0, 0, 1], [1, 0, 0]]
        )

    def test_steps_out_of_the_grid_are_counted(self):
        found = st.stationary_density(flow(st.quadratic([2.0])), 0.3, time="chain")
        assert "a step leaves the grid with probability" in found.status
        assert found.lost > 1e-3

    def test_steps_too_short_for_the_grid(self):
        with pytest.raises(ValueError, match="`dt` must be larger for time='chain' on this grid"):
            st.stationary_density(flow(), 2, time="chain", dt=1e-6)

    def test_a_chain_that_cannot_return(self):
        with pytest.raises(ValueError, match="passages between parts of the grid are too rare for numbers"):
            stationary(np.eye(3))


CASES = {
    "SGD": flow(),
    "SFN": flow(method=st.SFN(damping=0.3)),
    "SGD, curvature noise": flow(noise=st.Noise(gradient=0.7, curvature=0.4, reference=[0.0])),
    "SFN, curvature noise": flow(
        method=st.SFN(damping=0.5), noise=st.Noise(gradient=0.7, curvature=0.3, reference=[0.0])
    ),
}


@cache
def ensemble(name, paths=8192):
    start = np.where(np.arange(paths) % 2, 1.0, -1.0)[:, None]
    return st.simulate(CASES[name], start=start, t_end=15.0, paths=paths, seed=sorted(CASES).index(name))


class TestEnsembles:
    @pytest.mark.slow
    @pytest.mark.parametrize("name", CASES)
    def test_the_sde_has_the_chains_law(self, name):
        exact = st.stationary_density(CASES[name], 2.6, time="chain")
        result = exact.total_variation(ensemble(name))
        assert result.agrees
        assert result.value < result.expected + 4 * 0.31 / np.sqrt(
            result.samples
        )  # about four standard deviations: var <= (1 - 2 / pi) / (4 n)
        pooled = exact.total_variation(ensemble(name), bins=12)
        assert pooled.agrees
        assert (
            abs(ensemble(name).covariance[-1, 0, 0] - exact.covariance[0, 0])
            < 4 * ensemble(name).covariance_error[-1, 0, 0]
        )

    def test_a_wrong_density_is_far_outside(self):
        wrong = st.stationary_density(CASES["SGD"], 2.6, time="chain").total_variation(ensemble("SFN"))
        assert not wrong.agrees
        assert wrong.value > 5 * wrong.bound
        assert "DISAGREES" in str(wrong)

    def test_ignoring_dt_is_seen(self):
        many = ensemble("SGD", 32768)
        results = [
            st.stationary_density(CASES["SGD"], 2.6, **law).total_variation(many)
            for law in ({"time": "chain"}, {})
        ]
        excess = [(one.value - one.expected) * np.sqrt(one.samples) / 0.31 for one in results]
        assert excess[0] < 4 < excess[1]

    def test_the_expected_variation_is_that_of_samples(self):
        exact = st.stationary_density(CASES["SGD"], 2.6, cells=50)
        rng, values = np.random.default_rng(3), []
        for _ in range(200):
            cells = rng.choice(50, size=300, p=exact.mass)
            values.append(exact.total_variation(exact.centers[0][cells], bins=15))
        found = np.array([one.value for one in values])
        assert abs(found.mean() - values[0].expected) < 4 * found.std(ddof=1) / np.sqrt(200)
        assert all(one.agrees for one in values)

    def test_the_expected_variation_is_a_sum_of_binomials(self):
        exact = st.stationary_density(CASES["SGD"], 2.6, cells=50)
        result, n, k = exact.total_variation(np.linspace(-1, 1, 7), bins=4), 7, np.arange(8)
        rows = np.concatenate([[0], np.searchsorted(np.cumsum(exact.mass), [0.25, 0.5, 0.75]) + 1])
        p = np.add.reduceat(exact.mass, rows)
        assert result.bins == len(p)
        assert result.expected == pytest.approx(
            0.5 * sum(np.abs(k / n - q) @ scipy.stats.binom.pmf(k, n, q) for q in p), rel=1e-12
        )

    def test_samples_outside_are_counted(self):
        exact = st.stationary_density(CASES["SGD"], 2.6)
        result = exact.total_variation(np.array([0.9, 1.1, 50.0, -1.0]))
        assert (result.outside, result.samples) == (1, 4)
        assert str(result).splitlines()[-1].split() == ["samples", "outside", "the", "grid", "1"]


class TestPassage:
    def test_against_a_double_integral(self):
        eps = 0.4
        one = st.stationary_density(flow(step=eps), 3)

        def inner(y):
            return quad(
                lambda z: np.exp(((y * y - 1) ** 2 - (z * z - 1) ** 2) / (2 * eps)),
                -3,
                y,
                epsabs=0,
                epsrel=1e-11,
            )[0]

        expected = 2 / eps * quad(inner, -1.2, 0.7, epsabs=0, epsrel=1e-10)[0]
        assert one.passage_time(-1.2, 0.7) == pytest.approx(expected, rel=1e-9)
        assert one.passage_time(1.2, -0.7) == pytest.approx(expected, rel=1e-9)
        assert one.passage_time(0.5, 0.5) == 0

    def test_brownian_motion_from_a_reflecting_end(self):
        """``(b^2 - a^2) / D`` from a to b with a mirror at 0."""
        one = st.stationary_density(flow(st.expression("0*x", ["x"]), step=0.5), (0, 3))
        assert one.passage_time(1, 2) == pytest.approx(3 / 0.5, rel=1e-12)

    def test_kramers_is_reached_with_the_known_correction(self):
        """``T / T_K = 1 + 3 eps / 4 + O(eps^2)``.

        A quarter (5 V3^2 / 3 V2^3 - V4 / V2^2) at the well, likewise at the top, times eps / 4.

        At the well a quarter of (5 V3^2 / 3 V2^3 - V4 / V2^2), likewise at the top, times eps.
        """
        ratios = []
        for eps in (0.02, 0.01, 0.005):
            one = st.stationary_density(flow(step=eps), (-1.8, 1.8), cells=100)
            kramers = one.kramers(-1, 1)
            assert kramers.prefactor == pytest.approx(2 * np.pi / np.sqrt(2), rel=1e-9)
            assert kramers.barrier == pytest.approx(0.5 / eps, rel=1e-9)
            ratios.append((np.exp(one.log_passage_time(-1, 1) - kramers.log_mean) - 1) / eps)
        assert 2 * ratios[2] - ratios[1] == pytest.approx(0.75, abs=2e-3)
        assert ratios[0] == pytest.approx(0.75, abs=0.05)

    @pytest.mark.parametrize(
        "method", [st.SFN(damping=0.5), st.DampedNewton(damping=1.5)], ids=lambda m: m.name
    )
    def test_kramers_with_noise_that_depends_on_the_state(self, method):
        """Barrier ``2 int F' / (eps phi)``: gamma dF / (eps / 2), and for SFN twice the largest F'^2 more."""
        eps = 0.01
        one = st.stationary_density(flow(method=method, step=eps), (-1.6, 1.6), cells=100)
        kramers = one.kramers(-1, 1)
        extra = 4 / 27 if method.name == "SFN" else 0.0
        assert kramers.barrier == pytest.approx(2 * (method.damping / 4 + extra) / eps, rel=1e-9)
        well, top = method.gain(2.0), method.gain(-1.0)
        assert kramers.prefactor == pytest.approx(2 * np.pi * top / well / np.sqrt(2 * well * top), rel=1e-8)
        assert one.log_passage_time(-1, 1) == pytest.approx(kramers.log_mean, abs=0.05)

    def test_times_beyond_all_numbers_have_a_logarithm(self):
        one = st.stationary_density(flow(step=5e-4), 1.5)
        assert one.passage_time(-1, 1) == np.inf
        assert one.log_passage_time(-1, 1) == pytest.approx(one.kramers(-1, 1).log_mean, abs=1e-3)
        assert one.kramers(1, -1).mean == np.inf

    @pytest.mark.slow
    def test_a_chain_takes_its_own_time(self):
        """Without any correction for dt: the same steps are simulated."""
        one = flow(step=0.4)
        exact = st.stationary_density(one, 3, time="chain").passage_time(-1, 1)
        ens = st.simulate(
            one, start=[-1.0], t_end=400.0, paths=6000, seed=5, exit=lambda w: w[:, 0] < 1, keep="moments"
        )
        times = ens.exit_times
        assert np.isfinite(times).all()
        assert abs(times.mean() - exact) < 4 * times.std(ddof=1) / np.sqrt(len(times))
        continuous = st.stationary_density(one, 3).passage_time(-1, 1)
        assert abs(times.mean() - continuous) > 4 * times.std(ddof=1) / np.sqrt(len(times))

    def test_a_chains_times_are_one_step_longer_than_those_from_where_it_leads(self):
        one = flow(step=0.4)
        exact = st.stationary_density(one, 3, time="chain")
        nodes, weights = np.polynomial.hermite_e.hermegauss(120)
        ahead = 0.3 + 0.4 * one.drift([0.3])[0] + 0.4 * nodes  # the spread is sqrt(D dt) = 0.4
        low = np.linspace(-3, 1, 40)
        times = np.interp(
            ahead,
            low,
            [exact.passage_time(x, 1) for x in low[:-1]] + [exact.passage_time(1 - 1e-9, 1)],
            right=0.0,
        )
        assert exact.passage_time(0.3, 1) == pytest.approx(0.4 + weights @ times / weights.sum(), rel=5e-3)

    def test_a_chain_watched_at_its_steps_overshoots_as_a_gaussian_walk(self):
        """Broadie, Glasserman and Kou's 0.5826 sqrt(D dt) takes out the half order; the first remains."""
        one = flow(step=0.2)
        limit = st.stationary_density(one, 3)
        left, bare = [], []
        for dt in (0.04, 0.02, 0.01):
            time = st.stationary_density(one, 3, time="chain", dt=dt).passage_time(-1, 1)
            left.append(abs(time - limit.passage_time(-1, 1 + 0.5825971579390106 * np.sqrt(0.2 * dt))))
            bare.append(abs(time - limit.passage_time(-1, 1)))
        assert abs(np.log2(left[1] / left[2]) - 1) < 0.15

    def test_a_chain_in_the_other_direction(self):
        one = st.stationary_density(flow(st.expression("(x^2 - 1)^2/4 + x/20"), step=0.2), 3, time="chain")
        mirror = st.stationary_density(flow(st.expression("(x^2 - 1)^2/4 - x/20"), step=0.2), 3, time="chain")
        assert one.passage_time(1, -1) == pytest.approx(mirror.passage_time(-1, 1), rel=1e-8)
        assert one.passage_time(1, -1) < one.passage_time(-1, 1)
        assert one.passage_time(1, 1) == 0

    def test_where_there_is_no_barrier(self):
        one = st.stationary_density(flow(st.quadratic([1.0])), 2)
        with pytest.raises(ValueError, match="needs a well and a barrier between -1 and 1"):
            one.kramers(-1, 1)
        flat = st.stationary_density(flow(st.expression("x^2*(x^2 - 2)*(1 - x^4) + x^8"), step=1.0), 2)
        with pytest.raises(ValueError, match="needs a"):
            flat.kramers(0, 0.1)

    def test_a_flat_top_has_no_formula(self):
        one = st.stationary_density(flow(st.expression("-x^4 + x^6"), step=0.1), 1.4)
        with pytest.raises(ValueError, match="needs a well and a top that are narrow beside their distance"):
            one.kramers(-0.8, 0.8)

    def test_points_off_the_grid(self):
        one = st.stationary_density(flow(), 2)
        for name, points in (("start", (-3, 1)), ("end", (0, 3))):
            with pytest.raises(ValueError, match=rf"`{name}` must be on the grid, in \[-2, 2\]; got"):
                one.passage_time(*points)


PLANE = st.expression("(x^2 - 1)^2/4 + y^2/2 + x*y/4")


class TestPlane:
    def test_a_gradient_flow_has_boltzmanns_law(self):
        gaps = []
        for cells in (32, 64, 128):
            found = st.stationary_density(flow(PLANE, step=0.5), 2.6, cells=cells)
            x, y = np.meshgrid(
                *[np.linspace(-2.6, 2.6, 10 * cells + 1)[1::2]] * 2, indexing="ij"
            )  # five by five points in each cell
            exact = (
                np.exp(-4 * PLANE.value(np.stack([x, y], axis=-1)))
                .reshape(cells, 5, cells, 5)
                .sum(axis=(1, 3))
            )
            gaps.append(variation(found.mass, exact / exact.sum()))
            assert found.status == "ok"
        assert abs(np.log2(gaps[1] / gaps[2]) - 2) < 0.15
        assert gaps[2] < 2e-3
        assert found.error == pytest.approx(gaps[2], rel=0.5)
        assert np.abs(found.current).max() < 0.02 * (np.abs(found.drift) * found.density[..., None]).max()

    @pytest.mark.parametrize("correlated", [False, True], ids=["diagonal noise", "correlated noise"])
    def test_a_linear_flow_has_its_gaussian_and_its_current(self, correlated):
        """P and noise do not commute with H: a current ``(A + D S^-1 / 2) w p`` turns around the minimum."""
        covariance = np.array([[1.0, 0.6], [0.6, 2.0]]) if correlated else np.diag([1.0, 3.0])
        one = flow(st.quadratic([1.0, 0.4], rotation_seed=3), noise=st.Noise(gradient=covariance), step=0.1)
        linear = st.linearize(one)
        exact = linear.covariance("continuous")
        gaps, turns = [], []
        for cells in (60, 120):
            found = st.stationary_density(one, 4, cells=cells)
            gaps.append(np.abs(found.covariance - exact).max() / exact.max())
            points = np.stack(np.meshgrid(*found.centers, indexing="ij"), axis=-1)
            matrix = one.jacobian(np.zeros(2)) + 0.5 * one.diffusion(np.zeros(2)) @ np.linalg.inv(exact)
            current = (points @ matrix.T) * scipy.stats.multivariate_normal([0, 0], exact).pdf(points)[
                ..., None
            ]
            turns.append(np.abs(found.current - current).max() / np.abs(current).max())
        assert gaps[1] < 0.02
        assert np.log2(gaps[0] / gaps[1]) > 1.6
        assert np.log2(turns[0] / turns[1]) > 1.2
        assert turns[1] < 0.1
        np.testing.assert_allclose(found.mean, 0, atol=1e-10)

    def test_an_ensemble_agrees(self):
        one = flow(
            st.landscape("double_well", dim=2), st.SFN(damping=0.7), st.Noise(gradient=[1.0, 0.7]), step=0.2
        )
        exact = st.stationary_density(one, [(-2.2, 2.2), (-1.8, 1.8)], cells=140)
        start = np.where(np.arange(4096)[:, None] % 2, [1.0, 0.0], [-1.0, 0.0])
        ens = st.simulate(one, start=start, t_end=10.0, dt=0.01, paths=4096, seed=2)
        result = exact.total_variation(ens, bins=6)
        assert result.agrees
        sgd = st.stationary_density(flow(one.objective, step=0.2), [(-2.2, 2.2), (-1.8, 1.8)], cells=60)
        assert sgd.total_variation(ens, bins=6).value > 2 * result.bound

    def test_masses_and_densities_are_positive_whatever_the_drift(self):
        found = st.stationary_density(flow(PLANE, step=0.01), 2, cells=40)
        assert found.mass.min() >= 0
        assert found.mass.sum() == pytest.approx(1, rel=1e-12)
        assert "the cells are too coarse" in found.status

    def test_wells_that_rounding_weighs(self):
        """Tilted so that the left well holds 0.6; for a barrier of 22 that is found to five digits.

        For one of 45 (a passage in 1e20) it is not known, and said so.
        """
        grid = [(-1.9, 1.9), (-1.5, 1.5)]
        left = [st.expression(f"x^4/4 - x^2/2 + y^2/2 + x*y/4 + {tilt}*x") for tilt in (0.0025, 0.00125)]
        known, unknown = (
            st.stationary_density(flow(F, step=10 * tilt), grid, cells=100)
            for F, tilt in zip(left, (0.0025, 0.00125), strict=True)
        )
        assert known.mass[:50].sum() == pytest.approx(0.6008, abs=2e-4)
        assert "rounding decides" not in known.status
        assert "left so rarely that rounding decides how the mass is shared among them" in unknown.status

    def test_a_flow_that_does_not_confine(self):
        assert (
            "of the mass lies in the outermost cells"
            in st.stationary_density(flow(st.quadratic([1.0, -1.0])), 2, cells=40).status
        )

    def test_odd_cells_have_no_error_estimate(self):
        assert np.isnan(st.stationary_density(flow(PLANE, step=0.5), 2.5, cells=41).error)

    def test_strongly_correlated_noise(self):
        """Jumps beyond the neighbours: D = [[1, .9], [.9, .9]] is far from diagonally dominant."""
        one = flow(st.quadratic([1.0, 0.5]), noise=st.Noise(gradient=[[1.0, 0.9], [0.9, 0.9]]))
        exact = st.linearize(one).covariance("continuous")
        gaps = [
            np.abs(
                st.stationary_density(one, [(-1.1, 1.1), (-1.3, 1.3)], cells=cells).covariance - exact
            ).max()
            / exact.max()
            for cells in (60, 120)
        ]
        assert np.log2(gaps[0] / gaps[1]) > 1.6
        assert gaps[1] < 0.02
        wide = st.stationary_density(
            one, [(-1.5, 1.5), (-1.8, 1.8)], cells=40
        )  # no jump fits into two of its corners
        assert wide.mass[0, -1] == wide.mass[-1, 0] == 0

    @pytest.mark.parametrize("damping", [0.3, 0.7])
    def test_moments_that_do_not_change(self, damping):
        """``E[f . grad phi + D : Hess phi / 2] = 0`` for any phi: the Ito equation's own balance.

        With noise that depends on the state and is correlated.
        """
        one = flow(st.landscape("coupled_quartic", dim=2), st.SFN(damping=damping), step=0.2)
        left = []
        for cells in (40, 80):
            found = st.stationary_density(one, [(-2, 2), (-1.9, 1.9)], cells=cells)
            (x, y), (f, g), D = (
                np.meshgrid(*found.centers, indexing="ij"),
                np.moveaxis(found.drift, -1, 0),
                found.diffusion,
            )
            balances = {
                "x^2": (2 * x * f, D[..., 0, 0]),
                "y^2": (2 * y * g, D[..., 1, 1]),
                "x^2 y": (2 * x * y * f + x * x * g, D[..., 0, 0] * y + 2 * D[..., 0, 1] * x),
                "x^2 y^2": (
                    2 * x * y * (y * f + x * g),
                    D[..., 0, 0] * y * y + D[..., 1, 1] * x * x + 4 * D[..., 0, 1] * x * y,
                ),
            }
            left.append(
                [
                    abs(np.sum(found.mass * (drift + noise))) / np.sum(found.mass * np.abs(drift))
                    for drift, noise in balances.values()
                ]
            )
        assert max(left[1]) < 0.01
        assert max(left[1]) < 0.4 * max(left[0])

    def test_an_ensemble_with_correlated_noise_agrees(self):
        one = flow(st.landscape("coupled_quartic", dim=2), st.SFN(damping=0.3), step=0.2)
        exact = st.stationary_density(one, 2.2, cells=100)
        rows = np.random.default_rng(1).choice(exact.mass.size, size=6000, p=exact.mass.ravel())
        start = np.stack([axis.ravel()[rows] for axis in np.meshgrid(*exact.centers, indexing="ij")], axis=-1)
        ens = st.simulate(one, start=start, t_end=2.0, dt=0.005, paths=6000, seed=4)
        result = exact.total_variation(ens, bins=6)
        assert result.agrees
        assert result.value < result.expected + 4 * 0.31 / np.sqrt(6000)
        assert (np.abs(ens.covariance[-1] - exact.covariance) < 4 * ens.covariance_error[-1]).all()

    def test_noise_along_one_axis_only(self):
        with pytest.raises(
            ValueError,
            match=r"needs noise in every direction everywhere on it; at \[-1\.98 -1\.98\] there is none",
        ):
            st.stationary_density(flow(st.quadratic([1.0, 1.0]), noise=st.Noise(gradient=[1.0, 0.0])), 2)

    def test_noise_along_almost_one_line(self):
        one = flow(
            st.quadratic([1.0, 1.0]), noise=st.Noise(gradient=[[1.0, 0.70710678], [0.70710678, 0.5 + 1e-7]])
        )
        with pytest.raises(
            ValueError, match="The noise is too correlated, or too unequal along two directions"
        ):
            st.stationary_density(one, 2, cells=40)

    def test_a_matrix_is_the_sum_of_its_jumps(self):
        matrices = (factors := np.random.default_rng(0).normal(size=(200, 2, 2))) @ factors.swapaxes(
            -1, -2
        ) + 0.1 * np.eye(2)
        weights, directions = selling(matrices)
        np.testing.assert_allclose(
            np.einsum("mk,mki,mkj->mij", weights, directions, directions), matrices, rtol=1e-9, atol=1e-9
        )
        assert weights.min() >= 0

    def test_outside_the_domain(self):
        with pytest.raises(ValueError, match=r"The flow is not finite at \d+ points of the grid"):
            st.stationary_density(flow(st.expression("x^2 + y - log(y)")), [1, (-1, 3)])

    def test_no_passage_times(self):
        with pytest.raises(ValueError, match="Passage times are for one dimension"):
            st.stationary_density(flow(PLANE, step=0.5), 2.5, cells=20).passage_time(0, 1)


class TestResult:
    def test_it_prints_a_table(self):
        text = str(st.stationary_density(flow(), 2))
        assert "continuous time; grid [-2, 2] in 400 cells" in text
        assert text.splitlines()[2].split() == ["axis", "mean", "variance"]
        assert sum(abs(float(line.split()[0])) in (0.995, 1.005) for line in text.splitlines()[5:7]) == 2
        assert text.splitlines()[-1] == "status: ok"
        assert "Euler-Maruyama chain, dt = 0.1" in str(st.stationary_density(flow(), 2, time="chain"))
        kramers = str(st.stationary_density(flow(), 2).kramers(-1, 1))
        assert [line.split()[-1] for line in kramers.splitlines()[1:3]] == ["-1", "0"]  # no 5e-18

    def test_it_is_saved_and_still_answers(self, tmp_path):
        for number, found in enumerate(
            (st.stationary_density(flow(), 2), st.stationary_density(flow(PLANE, step=0.5), 2.5, cells=20))
        ):
            again = st.load(st.save(found, tmp_path / str(number)))
            assert str(again) == str(found)
            np.testing.assert_array_equal(again.current, found.current)
        chain = st.stationary_density(flow(), 2, time="chain")
        assert st.load(st.save(chain, tmp_path / "chain")).passage_time(-1, 1) == chain.passage_time(-1, 1)

    def test_peaks_of_a_plane(self):
        found = st.stationary_density(flow(PLANE, step=0.3), 2.5, cells=100)
        at = np.array(
            [[axis[i] for axis, i in zip(found.centers, cell, strict=True)] for cell, _ in found.peaks()]
        )
        np.testing.assert_allclose(
            np.sort(at, axis=0), np.sort(st.critical_points(PLANE, 2).states[:2], axis=0), atol=0.06
        )

    def test_an_objective_without_values(self):
        class Bare(st.Objective):
            dim = 1
            gradient = staticmethod(lambda w: np.asarray(w))
            hessian = staticmethod(lambda w: np.ones((*np.shape(w), 1)))
            third = staticmethod(lambda w, v: np.zeros((*np.shape(w), 1)))

        assert np.isinf(st.stationary_density(flow(Bare()), 2).potential).all()


class TestPicture:
    def test_a_line_shows_its_arrays(self):
        found = st.stationary_density(flow(method=st.SFN(damping=0.3)), 2)
        figure = st.plot(found)
        potential, drift, heights = figure.axes[:3]
        shown = found.effective_potential < 16
        np.testing.assert_array_equal(potential.lines[0].get_ydata()[shown], found.effective_potential[shown])
        np.testing.assert_array_equal(drift.lines[0].get_ydata()[shown], found.drift[shown, 0])
        np.testing.assert_array_equal(
            drift.lines[1].get_ydata()[shown], np.sqrt(found.diffusion[shown, 0, 0])
        )
        np.testing.assert_array_equal(heights.lines[0].get_ydata(), found.density)
        np.testing.assert_array_equal(figure.axes[3].lines[0].get_ydata()[shown], found.potential[shown])
        assert "continuous time" in figure.get_suptitle()
        assert "read the status" not in figure.get_suptitle()

    def test_a_plane_shows_its_density_and_a_doubt(self):
        found = st.stationary_density(
            flow(PLANE, noise=st.Noise(gradient=[1.0, 2.0]), step=0.3), 1.5, cells=40
        )
        figure = st.plot(found)
        mesh = figure.axes[0].collections[0]
        np.testing.assert_array_equal(np.asarray(mesh.get_array()), found.density.T)
        assert figure.get_suptitle().endswith("with its current; read the status")
        figure.draw_without_rendering()

    def test_the_chain_is_named(self):
        assert (
            "Euler-Maruyama chain, dt = 0.1"
            in st.plot(st.stationary_density(flow(), 2, time="chain")).get_suptitle()
        )


@pytest.fixture(scope="module")
def study():
    return claims.run("density", quick=True)


@pytest.mark.slow
class TestStudy:
    def test_its_claims_hold(self, study):
        checks = claims.check(study)
        assert all(one.passed for one in checks), [one for one in checks if not one.passed]

    @pytest.mark.parametrize(
        ("name", "factor", "which"),
        [
            ("variation", 3, 0),
            ("measured", 2, 1),
            ("log_kramers", 1.1, 2),
            ("barrier", [[1], [1.1], [1]], 3),
            ("density", [[0], [1], [1], [1]], 4),
            ("newton_masses", 1.1, 5),
        ],
        ids=str,
    )
    def test_each_claim_can_fail(self, study, name, factor, which):
        wrong = study[name] * (
            np.array([3.0, 1.0, 1.0])[:, None, None] if name == "variation" else np.array(factor)
        )
        if name == "variation":
            wrong[..., 1:] = study[name][..., 1:]
        if name == "measured":
            wrong[..., 1:] = study[name][..., 1:]
        checks = claims.check(st.Study(study.name, {**study.arrays, name: wrong}, study.parameters))
        assert [one.passed for one in checks].index(False) == which

    def test_the_picture_shows_its_arrays(self, study):
        figure = st.plot(study)
        drift, potential, heights, times = figure.axes
        for m in range(3):
            np.testing.assert_array_equal(heights.lines[3 * m].get_ydata(), study["chain_density"][m])
            np.testing.assert_array_equal(heights.lines[3 * m + 1].get_ydata(), study["density"][m])
            np.testing.assert_array_equal(times.lines[3 * m].get_ydata(), np.exp(study["log_time"][m]))
            np.testing.assert_array_equal(times.lines[3 * m + 1].get_ydata(), np.exp(study["log_kramers"][m]))
        counts = study["counts"][1]
        np.testing.assert_allclose(
            heights.lines[5].get_ydata(),
            (counts / study.parameters["paths"] / np.diff(study["bins"]))[counts > 0],
        )
        assert len(potential.lines) == 4
        assert len(drift.lines) == 5
        figure.draw_without_rendering()

    def test_its_table(self, study):
        lines = claims.summary(study).splitlines()
        assert lines[0].startswith("method")
        assert sum(line.startswith("SGD") for line in lines) >= 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"region": 0}, "`region` must be a finite number > 0; got 0"),
        ({"region": (1, -1)}, "`region` must increase"),
        ({"region": [0.0, 1.0, 1.0, 2.0, 3.0]}, "`region` must increase"),
        ({"region": [0.0, 1.0, 2.0]}, "between 5 and 10001 edges; got 3"),
        ({"region": "wide"}, "`region` must be an array of numbers"),
        ({"region": [(-1, 1), (-1, 1)]}, "one entry for each of the 1 axes; got 2"),
        ({"region": 2, "cells": 2}, "`cells` must be an integer >= 4"),
        ({"region": 2, "time": "discrete"}, "`time` must be one of continuous, chain"),
        ({"region": 2, "dt": 0.1}, "`dt` belongs to time='chain'"),
        ({"region": 2, "time": "chain", "dt": -1}, "`dt` must be a finite number > 0"),
    ],
    ids=str,
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        st.stationary_density(flow(), **options)


def test_bad_flows():
    with pytest.raises(ValueError, match="dimension 1 or 2; got 3"):
        st.stationary_density(flow(st.quadratic([1.0, 1.0, 1.0])), 2)
    with pytest.raises(ValueError, match=r"`flow` must be an st\.Flow"):
        st.stationary_density(WELL, 2)
    with pytest.raises(ValueError, match="time='chain' is for one dimension"):
        st.stationary_density(flow(PLANE), 2, time="chain")
    with pytest.raises(ValueError, match="`region` must have equal cells in two dimensions"):
        st.stationary_density(flow(PLANE), [2, np.geomspace(1, 3, 20)])

    class Uniform(st.Noise):
        def sample(self, w, size, rng):
            return st.noise.Sample(
                rng.uniform(-1, 1, (size, 1)), np.zeros((size, 1, 1)), np.zeros((size, 1, 1))
            )

    with pytest.raises(ValueError, match="a noise made of standard normals"):
        st.stationary_density(flow(noise=Uniform(gradient=1.0)), 2, time="chain")


@pytest.mark.parametrize(
    ("sample", "options", "message"),
    [
        (np.zeros((3, 2)), {}, r"`sample` must have shape \(m, 1\) with m > 0; got \(3, 2\)"),
        (np.zeros(0), {}, "with m > 0"),
        ("none", {}, "`sample` must be an array"),
        ([0.0], {"risk": 1.0}, r"`risk` must be a probability in \(0, 1\); got 1"),
        ([0.0], {"bins": 0}, "`bins`"),
    ],
    ids=str,
)
def test_bad_samples(sample, options, message):
    with pytest.raises(ValueError, match=message):
        st.stationary_density(flow(), 2).total_variation(sample, **options)


def test_an_ensemble_without_states():
    ens = st.simulate(flow(), start=[1.0], t_end=1.0, paths=10, seed=0, keep="moments")
    with pytest.raises(ValueError, match="kept no states"):
        st.stationary_density(flow(), 2).total_variation(ens)


def test_the_old_name_of_the_region_warns():
    with pytest.warns(DeprecationWarning, match="`grid` is called `region` now"):
        found = st.stationary_density(flow(), grid=1)
    assert found.edges["w1"][[0, -1]].tolist() == [-1, 1]


class TestOtherMethods:
    def test_weight_decay_and_signs_agree_with_linear_theory(self):
        noise = st.Noise(gradient=1.0)
        decayed = st.Flow(st.quadratic([2.0]), st.SFN(damping=0.5, weight_decay=0.3), noise, step=0.1)
        theory = st.linearize(decayed).covariance(time="continuous")
        np.testing.assert_allclose(st.stationary_density(decayed, 2).covariance, theory, rtol=1e-9)
        sign = st.Flow(st.quadratic([2.0]), st.SignSGD(), noise, step=1e-3)
        theory = st.linearize(sign).covariance(time="continuous")
        np.testing.assert_allclose(st.stationary_density(sign, 0.3).covariance, theory, rtol=2e-3)

    def test_signs_whose_noise_dies_out_have_the_density_of_a_narrower_grid(self):
        """At 3 the gradient is 24 deviations: one sign has a chance of 1e-127, and 1 - erf^2 is 0."""
        flow = st.Flow(st.expression("x^4/4 - x^2/2"), st.SignSGD(), st.Noise(gradient=1.0), step=0.1)

        def lean(x):
            return scipy.special.erf((x**3 - x) / np.sqrt(2))

        def density(x):
            fallen = quad(lambda s: lean(s) / (1 - lean(s) ** 2), 0, x)[0]
            return np.exp(-2 * fallen / 0.1) / (1 - lean(x) ** 2)

        whole, square = (quad(lambda x, k=k: x**k * density(x), -1.7, 1.7)[0] for k in (0, 2))
        found = st.stationary_density(flow, 3).covariance[0, 0]
        assert found == pytest.approx(square / whole, rel=1e-6)
        with pytest.raises(ValueError, match=r"no noise near w = .* Choose a narrower grid"):
            st.stationary_density(flow, 5)

    def test_momentum_is_told_what_has_its_density(self):
        quartic = st.expression("x^4/4")
        flow = st.Flow(quartic, st.Momentum(st.SGD(), 0.8), st.Noise(gradient=1.0), step=0.02)
        with pytest.raises(
            ValueError, match=r"no memory: .* flow.without_memory\(\).at_step\(0.1\): its density"
        ):
            st.stationary_density(flow, 2)
        ens = st.simulate(flow, start=np.zeros((2000, 1)), t_end=6.0, seed=1)
        law = st.stationary_density(flow.without_memory().at_step(0.1), 2)
        assert law.total_variation(ens.states[-1], bins=20).agrees

    @pytest.mark.parametrize(
        ("method", "noise"),
        [
            (st.Momentum(st.SGD(), 0.8, nesterov=True), st.Noise(gradient=1.0)),
            (st.Momentum(st.SFN(damping=0.1), 0.8), st.Noise(gradient=1.0)),
            (st.Momentum(st.SGD(), 0.8), st.Noise(gradient=[1.0, 2.0])),
            (st.RMSprop(), st.Noise(gradient=1.0)),
        ],
        ids=repr,
    )
    def test_where_no_density_is_known_simulation_is_named(self, method, noise):
        flow = st.Flow(st.quadratic([1.0, 2.0]), method, noise, step=0.1)
        with pytest.raises(ValueError, match=r"no memory: .*Use a histogram of st.simulate\(flow, "):
            st.stationary_density(flow, 2)
