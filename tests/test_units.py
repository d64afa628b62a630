"""Only ratios mean something: the same problem in other units has the same answer in those units."""

import math

import numpy as np
import pytest
import scipy.stats

import stability as st

UNITS = [2.0**-40, 2.0**-20, 1.0, 2.0**20, 2.0**40]


class TestPlacesThatHadAnAbsoluteNumber:
    @pytest.mark.parametrize("h", [2.0**-40, 2.0**40])
    def test_the_almost_sure_limit_is_as_sharp_in_any_unit(self, h):
        mode = st.exact_mode(st.SGD(), curvature=h, noise=st.Noise(curvature=0.5 * h))
        assert mode.almost_sure_limit * h == pytest.approx(2.083476754206, rel=1e-11)

    @pytest.mark.parametrize("noise", [1e-6, 1e-12, 1e-30])
    def test_hessian_noise_may_be_as_small_as_it_likes(self, noise):
        mode = st.exact_mode(st.SGD(), curvature=1.0, noise=st.Noise(gradient=1.0, curvature=noise))
        assert mode.mean_square_limit == pytest.approx(2.0, rel=4 * noise**2 + 1e-12)
        assert mode.variance(1.0) == pytest.approx(1.0, rel=4 * noise**2 + 1e-12)

    def test_a_slow_mode_decays_and_a_flat_one_does_not(self):
        def linear(*eigenvalues):
            flow = st.Flow(st.quadratic(eigenvalues), st.SGD(), st.Noise(gradient=1e-7), step=0.1)
            return st.linearize(flow)

        assert linear(9e-14).step_limit() == pytest.approx(2 / 9e-14, rel=1e-12)
        assert linear(9e-14, 1e-20).covariance()[1, 1] == pytest.approx(0.1 * 1e-14 / 2e-20, rel=1e-6)
        for flat in ([0.0], [1.0, 0.0], [1e-14, 0.0]):
            with pytest.raises(st.Unstable, match=r"1 of [12] modes do not decay"):
                linear(*flat).step_limit()

    def test_a_gradient_is_small_beside_the_problem_not_beside_one(self):
        tiny = st.expression("(x/a)**4/4 - (x/a)**2/2".replace("a", "1e-9"), ["x"])
        with pytest.raises(ValueError, match="`at` must be a critical point"):
            st.linearize(st.Flow(tiny, st.SGD(), step=1e-20), at=[0.5e-9])
        assert st.linearize(st.Flow(tiny, st.SGD(), step=1e-20), at=[1e-18]).rates[0] > 0
        large = st.expression("(x/1e9)**4/4 - (x/1e9)**2/2", ["x"])
        # The minimum as a search finds it, to rounding; the saddle within a millionth of the landscape.
        for at, sign in ((1e9 * (1 + 4e-16), -1), (1e-3, 1)):
            assert np.sign(st.linearize(st.Flow(large, st.SGD(), step=1e17), at=[at]).rates[0]) == sign

    @pytest.mark.parametrize("unit", UNITS)
    def test_what_has_diverged_does_not_hang_on_the_unit(self, unit):
        def ended(step, noise):
            flow = st.Flow(st.quadratic([1.0]), st.SGD(), st.Noise(gradient=noise * unit), step=step)
            return st.simulate(flow, start=[unit], t_end=60 * step, paths=20, level="iteration")

        assert not ended(0.1, 1e7).diverged.any()
        lost = ended(2.5, 0.1)
        assert lost.diverged.all()
        assert np.median(lost.diverged_at) == pytest.approx(35 * 2.5)  # (3/2)^k exceeds a million there

    @pytest.mark.parametrize("unit", [1.0, 1e7])
    def test_a_path_that_leaves_a_saddle_for_a_far_minimum_has_not_diverged(self, unit):
        well = st.expression(f"(x/{unit:g})**4/4 - (x/{unit:g})**2/2", ["x"])
        flow = st.Flow(well, st.SGD(), st.Noise(gradient=1e-9 / unit), step=0.1 * unit**2)
        ens = st.simulate(flow, start=[0.0], t_end=40 * unit**2, paths=20, seed=0)
        assert not ens.diverged.any()
        assert np.abs(ens.states[-1] / unit) == pytest.approx(1.0, rel=1e-2)


LAWS = {
    "gamma": scipy.stats.gamma(0.1, scale=0.5),
    "arcsine": scipy.stats.beta(0.5, 0.5, loc=-0.5),
    "two edges": scipy.stats.beta(0.1, 0.2, loc=-0.5),
    "far edge": scipy.stats.beta(0.5, 0.5, loc=0.5),
}
FORMULAS = {  # density of a unit s, mean, variance
    "edge at 0": (lambda e: 0.5 / math.sqrt(e) if 0 < e < 1 else 0.0, 1 / 3, 4 / 45),
    "edge elsewhere": (lambda e: 0.5 / math.sqrt(e - 0.3) if 0.3 < e < 1.3 else 0.0, 19 / 30, 4 / 45),
    "both edges": (lambda e: 1 / (math.pi * math.sqrt(0.25 - e * e)) if abs(e) < 0.5 else 0.0, 0, 1 / 8),
    "pole inside": (
        lambda e: 0.25 / math.sqrt(abs(e - 0.3)) if 0 < abs(e - 0.3) < 1 else 0.0,
        0.3,
        1 / 5,
    ),
    "gap": (lambda e: 0.5 if 0.5 < abs(e) < 1.5 else 0.0, 0, 13 / 12),
    "Gaussian": (lambda e: math.exp(-0.5 * e * e) / math.sqrt(2 * math.pi), 0, 1),
    "heavy tail": (lambda e: 0.375 * (1 + e * e / 4) ** -2.5, 0, 2),
}
SAME = st.Noise(curvature=1.0, coupling="nested")  # one batch for both: E_g = E_h has the density too


def limit(density, curvature, mean, variance):
    """The mean-square limit over the exact ``2 E X / E X^2`` of ``X = curvature + E_h``, and its error."""
    mode = st.exact_mode(st.SGD(), curvature=curvature, noise=SAME, density=density)
    exact = 2 * (curvature + mean) / ((curvature + mean) ** 2 + variance)
    return mode.mean_square_limit / exact, mode.mean_square_error / exact


class TestDensitiesSingularAtTheirEdges:
    """The stated error covers the true one, in any unit."""

    @pytest.mark.parametrize("unit", [2.0**-40, 1.0, 2.0**20])
    @pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
    def test_of_scipy(self, law, unit):
        name, options = law.dist, dict(law.kwds)
        scaled = name(*law.args, loc=unit * options.get("loc", 0.0), scale=unit * options.get("scale", 1.0))
        ratio, error = limit(scaled, unit, unit * law.mean(), unit**2 * law.var())
        assert abs(ratio - 1) <= 4 * error + 1e-14
        assert error < 1e-6

    @pytest.mark.parametrize("unit", [2.0**-40, 1.0, 2.0**20])
    @pytest.mark.parametrize(("density", "mean", "variance"), FORMULAS.values(), ids=FORMULAS)
    def test_of_a_formula(self, density, mean, variance, unit):
        ratio, error = limit(lambda e: density(e / unit) / unit, unit, unit * mean, unit**2 * variance)
        assert abs(ratio - 1) <= 4 * error + 1e-14
        assert error < 1e-9

    def test_a_density_far_smaller_than_the_curvature(self):
        ratio, error = limit(lambda e: 1e12 * FORMULAS["both edges"][0](1e12 * e), 1.0, 0.0, 1e-24 / 8)
        assert abs(ratio - 1) <= 4 * error + 1e-14

    def test_nowhere_positive_is_told(self):
        with pytest.raises(ValueError, match=r"`density` must integrate to 1; got 0 at 6401 points"):
            st.exact_mode(st.SGD(), curvature=1.0, noise=SAME, density=lambda e: 0.0)
