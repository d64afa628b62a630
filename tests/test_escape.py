"""Exit times: mpmath's 2F2, a collocation of the backward equation, simulated exits with their z-scores."""

from functools import cache

import mpmath
import numpy as np
import pytest
import scipy.linalg
import scipy.stats
from scipy.integrate import quad

import stability as st
from stability.exits.exit_time import ExitTime, exit_time

R, D = 1.3, 0.7


def law(kappa, radius=R, diffusion=D):
    return exit_time(rate=kappa * diffusion / radius**2, diffusion=diffusion, radius=radius)


def exact_mean(one):
    rate, diffusion, radius = (mpmath.mpf(v) for v in (one.rate, one.diffusion, one.radius))
    with mpmath.workdps(40):
        return (
            radius**2 / diffusion * mpmath.hyp2f2(1, 1, mpmath.mpf(3) / 2, 2, -rate * radius**2 / diffusion)
        )


def collocated_survival(one, times, n=60):
    """u(0, t) of ``u_t = D u'' / 2 + rate y u'``, ``u(+-R) = 0``, ``u = 1`` at first.

    By Chebyshev collocation and a matrix exponential.
    """
    y = np.cos(np.pi * np.arange(n + 1) / n)
    c = np.r_[2, np.ones(n - 1), 2] * (-1.0) ** np.arange(n + 1)
    first = np.outer(c, 1 / c) / (np.subtract.outer(y, y) + np.eye(n + 1))
    first -= np.diag(first.sum(axis=1))
    generator = (0.5 * one.diffusion / one.radius**2 * first @ first + one.rate * y[:, None] * first)[
        1:-1, 1:-1
    ]
    return [(scipy.linalg.expm(t * generator) @ np.ones(n - 1))[n // 2 - 1] for t in times]


def inverted_survival(one, times):
    """Talbot's inversion of ``(1 - E exp(-p T)) / p``.

    ``E exp(-p T) = 1 / 1F1(-p / (2 rate); 1/2; -kappa)`` (Darling and Siegert 1953).
    """
    rate, kappa = mpmath.mpf(one.rate), mpmath.mpf(one.kappa)

    def transform(p):
        return (1 - 1 / mpmath.hyp1f1(-p / (2 * rate), mpmath.mpf(1) / 2, -kappa)) / p

    with mpmath.workdps(40):
        return [float(mpmath.invertlaplace(transform, t, method="talbot", degree=50)) for t in times]


class TestMean:
    @pytest.mark.parametrize("sign", [1, -1])
    def test_it_is_the_hypergeometric_function(self, sign):
        for x in [*np.geomspace(1e-6, 30, 60), 0.9999, 1.0001, 5.9999, 6.0001]:
            one = law(sign * x**2)
            assert one.log_mean == pytest.approx(float(mpmath.log(exact_mean(one))), rel=1e-13, abs=1e-13)
            if np.isfinite(one.mean):
                assert abs(one.mean / exact_mean(one) - 1) < 1e-12

    @pytest.mark.parametrize("sign", [1, -1])
    def test_its_logarithm_does_not_overflow(self, sign):
        for x in (30, 1e2, 1e3):
            one = law(sign * x**2)
            assert one.log_mean == pytest.approx(float(mpmath.log(exact_mean(one))), rel=1e-13)
        assert law(-1e12).log_mean == pytest.approx(1e12, rel=1e-9)
        assert law(-9e199).log_mean == pytest.approx(9e199)
        assert law(-1e3).mean == np.inf

    def test_it_is_continuous_at_rate_zero(self):
        brownian = R**2 / D
        assert exit_time(rate=0, diffusion=D, radius=R).mean == brownian
        for kappa in (1e-300, 1e-12, 1e-6, 1e-4):
            for sign in (1, -1):
                small = sign * kappa  # 2F2 = 1 - k/3 + 4 k^2/45 - ...
                assert law(small).mean == pytest.approx(
                    brownian * (1 - small / 3 + 4 * small**2 / 45), rel=1e-12
                )

    @pytest.mark.parametrize("kappa", [-300, -40, -3, -1e-3, 0, 5e-9, 1e-3, 0.5, 40, 1e4, 1e9])
    def test_three_forms_agree(self, kappa):
        forms = law(kappa).forms()
        assert forms["hypergeometric"] == pytest.approx(law(kappa).mean, rel=1e-12)
        assert forms["quadrature"] == pytest.approx(law(kappa).mean, rel=1e-12)
        if kappa == 0:
            assert forms["asymptotic"] == law(kappa).mean

    def test_beyond_overflow_the_forms_are_infinite(self):
        assert set(law(-1e4).forms().values()) == {np.inf}
        assert law(-1e4).log_asymptotic == pytest.approx(law(-1e4).log_mean, abs=1e-4)

    @pytest.mark.parametrize("kappa", [50.0, 400.0, 3000.0])
    def test_the_asymptotic_forms_have_the_stated_error(self, kappa):
        unstable, stable = law(kappa), law(-kappa)
        assert (unstable.asymptotic - unstable.mean) * 4 * unstable.rate * kappa == pytest.approx(
            1, abs=3 / kappa
        )
        assert (stable.log_mean - stable.log_asymptotic) * 2 * kappa == pytest.approx(1, abs=3 / kappa)
        assert unstable.log_asymptotic == np.log(unstable.asymptotic)
        assert np.isnan(law(0.1).log_asymptotic)

    def test_leaving_against_the_drift_is_exponentially_long_in_one_over_the_noise(self):
        rate, radius = -1.0, 0.5
        levels = np.array([1e-2, 3e-3, 1e-3, 1e-4])
        log_mean = np.array([exit_time(rate=rate, diffusion=d, radius=radius).log_mean for d in levels])
        slope = np.diff(log_mean) / np.diff(1 / levels)
        prefactor = (
            0.5 * np.diff(np.log(levels)) / np.diff(1 / levels)
        )  # the mean is exp(R^2 |rate| / D) sqrt(D) times a constant
        np.testing.assert_allclose(slope, radius**2 + prefactor, rtol=3e-4)

    def test_nothing_overflows(self):
        for kappa in (-9e199, -1e9, -700, -36, -1e-300, 0, 1e-300, 36, 700, 1e9, 9e199):
            one = law(kappa)
            assert np.isfinite(one.log_mean)
            assert not np.isnan(one.survival([0, 1e-300, 1, 1e300, np.inf])).any()
            assert str(one)


class TestSurvival:
    @pytest.mark.parametrize("rate", [-2.0, -0.5, 0.0, 0.7, 3.0])
    def test_it_solves_the_backward_equation(self, rate):
        one = exit_time(rate=rate, diffusion=D, radius=R)
        times = one.mean * np.array([0.05, 0.1, 0.3, 1, 3, 8])
        np.testing.assert_allclose(one.survival(times), collocated_survival(one, times), atol=1e-10)

    @pytest.mark.parametrize(
        ("kappa", "error"),
        [
            (-36.01, 1e-13),
            (-35.99, 1e-13),
            (-8, 1e-13),
            (20, 1e-12),
            (35.99, 1e-9),
            (36.01, 1e-9),
            (60, 1e-12),
        ],
    )
    def test_its_laplace_transform_is_kummers_function(self, kappa, error):
        one = law(kappa)
        times = one.mean * (
            np.array([0.4, 0.5, 0.6, 0.8, 1, 1.3, 2, 4]) if kappa > 0 else np.array([1e-3, 0.1, 1, 3])
        )
        np.testing.assert_allclose(one.survival(times), inverted_survival(one, times), atol=error)

    @pytest.mark.parametrize("kappa", [-30.0, -8.0, -1.0, 0.0, 1e-9, 1.0, 10.0, 33.0, 40.0, 300.0, 1e6])
    def test_its_integral_is_the_mean(self, kappa):
        one = law(kappa)
        area = sum(
            quad(one.survival, a * one.mean, b * one.mean, epsabs=0, epsrel=1e-11, limit=300)[0]
            for a, b in [(0, 0.5), (0.5, 1), (1, 2), (2, 5), (5, 40)]
        )
        assert area == pytest.approx(one.mean, rel=1e-9)

    @pytest.mark.parametrize("kappa", [-300.0, -36.5, -35.5, -1.0, 0.0, 2.0, 20.0, 35.5, 36.5, 1e4])
    def test_it_falls_from_one_to_zero(self, kappa):
        one = law(kappa)
        times = np.geomspace(1e-6, 100, 4000) * min(one.mean, R**2 / D)
        values = one.survival(times)
        assert one.survival(0) == values[0] == 1
        assert one.survival(np.inf) == 0
        assert values.min() >= 0
        assert values.max() <= 1
        assert np.diff(values).max() < 1e-10

    def test_at_early_times_no_more_leaves_than_reflection_allows(self):
        one = law(0.0)
        for t in (
            np.array([0.005, 0.01, 0.02, 0.04]) * R**2 / D
        ):  # Brownian: 1 - S = 2 erfc(R / sqrt(2 D t)), up to the second image
            np.testing.assert_allclose(
                1 - one.survival(t), 2 * scipy.special.erfc(R / np.sqrt(2 * D * t)), rtol=1e-3, atol=1e-13
            )

    def test_a_high_barrier_is_left_at_an_exponential_time_even_if_its_mean_overflows(self):
        one = law(-2000.0)
        assert one.mean == np.inf
        assert one.survival(1e300) == 1
        assert law(-690.0).survival(law(-690.0).mean) == pytest.approx(np.exp(-1), rel=1e-12)
        assert law(-2000.0).quantile(0.5) == np.inf

    def test_shapes_are_those_of_the_times(self):
        one = law(1.0)
        assert isinstance(one.survival(1), float)
        assert one.survival([]).shape == (0,)
        grid = np.arange(6).reshape(2, 3)
        np.testing.assert_allclose(
            one.survival(grid), [[one.survival(int(t)) for t in row] for row in grid], rtol=1e-14
        )

    @pytest.mark.parametrize("kappa", [-300.0, -5.0, 0.0, 5.0, 300.0])
    def test_quantiles_invert_it(self, kappa):
        one, p = law(kappa), [1e-3, 0.5, 0.999]
        np.testing.assert_allclose([1 - one.survival(one.quantile(q)) for q in p], p, rtol=1e-9)


# One mode with lambda = -0.5: SGD leaves at rate 0.5, SFN at 0.5 / 0.6, Newton is attracted at rate -1 and
# leaves by noise alone.
STEP, LAM, PATHS = 0.1, 0.5, 1536
METHODS = {
    "SGD": (st.SGD(), 1.0, 0.05, 26.0),
    "SFN": (st.SFN(damping=0.1), 1 / (LAM + 0.1), 0.02, 18.0),
    "Newton": (st.Newton(), -1 / LAM, 0.01, 24.0),
}
CASES = [
    ("SGD", 0.2, 0.3),
    ("SGD", 0.1, 0.3),
    ("SGD", 0.05, 0.3),
    ("SFN", 0.2, 0.3),
    ("SFN", 0.1, 0.3),
    ("SFN", 0.05, 0.3),
]
CASES += [("Newton", 0.3, 0.15), ("Newton", 0.25, 0.15), ("Newton", 0.2, 0.15)]


@cache
def simulated(name, sigma, radius):
    """A simulated ensemble's exit times, the diffusion that its chain samples exactly, and the time step."""
    method, gain, dt, t_end = METHODS[name]
    flow = st.Flow(st.quadratic([-LAM]), method, st.Noise(gradient=sigma), step=STEP)
    ens = st.simulate(
        flow,
        start=[0.0],
        t_end=t_end,
        paths=PATHS,
        seed=CASES.index((name, sigma, radius)),
        dt=dt,
        exit=radius,
        radius=1e30,
    )
    rate, diffusion = gain * LAM, STEP * gain**2 * sigma**2
    assert rate == pytest.approx(st.linearize(flow).rates[0])
    grown = np.log1p(rate * dt) / dt  # a step multiplies by 1 + rate dt and adds variance diffusion dt
    return (
        ens.exit_times,
        exit_time(rate=grown, diffusion=diffusion * 2 * grown / (rate * (2 + rate * dt)), radius=radius),
        dt,
    )


def z_score(times, mean):
    return (times.mean() - mean) / (times.std(ddof=1) / np.sqrt(len(times)))


class TestSimulation:
    @pytest.mark.parametrize(("name", "sigma", "radius"), CASES)
    def test_exits_take_the_time_of_a_monitored_path(self, name, sigma, radius):
        times, one, dt = simulated(name, sigma, radius)
        assert np.isfinite(times).all()
        assert abs(z_score(times, one.monitored(dt).mean)) < 4

    @pytest.mark.parametrize(("name", "sigma", "radius"), CASES)
    def test_exits_have_the_law_of_a_monitored_path(self, name, sigma, radius):
        times, one, dt = simulated(name, sigma, radius)
        assert scipy.stats.kstest(times, lambda t: 1 - one.monitored(dt).survival(t)).pvalue > 1e-3

    @pytest.mark.parametrize(("name", "sigma", "radius"), CASES)
    def test_the_chains_own_law_is_that_embedding(self, name, sigma, radius):
        _, one, dt = simulated(name, sigma, radius)
        gain = METHODS[name][1]
        ours = exit_time(rate=gain * LAM, diffusion=STEP * gain**2 * sigma**2, radius=radius).chain(dt)
        assert ours.mean == pytest.approx(one.monitored(dt).mean, rel=1e-12)

    def test_the_chain_of_a_brownian_motion_is_only_monitored(self):
        assert law(0.0).chain(0.01) == law(0.0).monitored(0.01)

    def test_a_chain_that_overshoots_is_refused(self):
        with pytest.raises(
            ValueError,
            match=r"`dt` must be < 0\.5 for the rate -2: the chain overshoots at each step; got 0\.5",
        ):
            exit_time(rate=-2.0, diffusion=D, radius=R).chain(0.5)

    def test_without_the_correction_for_monitoring_the_mean_is_refuted(self):
        times, one, _ = simulated("Newton", 0.3, 0.15)
        assert z_score(times, one.mean) > 6
        assert scipy.stats.kstest(times, lambda t: 1 - one.survival(t)).pvalue < 1e-6

    def test_the_correction_is_zeta_of_a_half(self):
        grown = law(1.0).monitored(0.01).radius - R
        assert grown == pytest.approx(
            float(-mpmath.zeta(0.5) / mpmath.sqrt(2 * mpmath.pi)) * np.sqrt(D * 0.01), rel=1e-12
        )


class TestMessages:
    @pytest.mark.parametrize("rate", [np.nan, np.inf, "1", True, None, 1j])
    def test_the_rate(self, rate):
        with pytest.raises(ValueError, match="`rate` must be a finite number; got"):
            exit_time(rate=rate, diffusion=1, radius=1)

    @pytest.mark.parametrize("name", ["diffusion", "radius"])
    @pytest.mark.parametrize("value", [0, -1.0, np.nan, np.inf, "1", True])
    def test_diffusion_and_radius(self, name, value):
        with pytest.raises(ValueError, match=f"`{name}` must be a finite number > 0; got"):
            exit_time(**{"rate": 1.0, "diffusion": 1.0, "radius": 1.0, name: value})

    @pytest.mark.parametrize(
        ("rate", "diffusion", "radius"),
        [(1, 1, 1e200), (1, 1, 1e-200), (1e200, 1, 1e100), (0, 1e-300, 1e100)],
    )
    def test_their_ratio(self, rate, diffusion, radius):
        with pytest.raises(
            ValueError,
            match=r"`radius` must give a finite radius\^2 / diffusion > 0, and at most 1e200 times the rate; "
            r"got",
        ):
            exit_time(rate=rate, diffusion=diffusion, radius=radius)

    @pytest.mark.parametrize("t", [-1.0, np.nan, [0.0, -1e-300], "1", None, 1j])
    def test_times(self, t):
        with pytest.raises(ValueError, match="`t` must hold numbers >= 0, and no nan; got"):
            law(1.0).survival(t)

    def test_the_probability_of_a_quantile(self):
        for p, message in (
            (0, "`p` must be a finite number > 0"),
            (1, r"`p` must be a probability in \(0, 1\); got 1"),
        ):
            with pytest.raises(ValueError, match=message):
                law(1.0).quantile(p)

    def test_the_time_between_observations(self):
        with pytest.raises(ValueError, match="`dt` must be a finite number > 0"):
            law(1.0).monitored(0)


def test_it_prints_what_a_teacher_would_read():
    text = str(exit_time(rate=-1.0, diffusion=1e-4, radius=1.0))
    assert "stable: it leaves against the drift" in text
    assert "mean exit time        exp(9995.27)" in text
    lines = str(exit_time(rate=1.0, diffusion=0.25, radius=1.0)).splitlines()
    assert [line.split()[-1] for line in lines[2:4]] == ["4", "1.59237"]
    assert "(Brownian)" in str(exit_time(rate=0.0, diffusion=1.0, radius=1.0))


def test_it_is_frozen():
    one = law(1.0)
    with pytest.raises(AttributeError):
        one.rate = 2.0
    assert one == ExitTime(one.rate, one.diffusion, one.radius)
