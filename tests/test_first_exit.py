"""Leaving a critical point: simulated exits against the chain's exact law, censoring, every refusal.

Censoring is checked by hand and against SciPy.
"""

import math
import os
import signal
import sys
import time
from dataclasses import replace
from fractions import Fraction
from functools import cache

import numpy as np
import pytest
import scipy.stats
from scipy.integrate import quad

import stability as st
from stability.ensembles.block import run_block
from stability.exits import escape as exits
from stability.exits.chain import ChainExit, _returns
from stability.exits.exit_time import exit_time

SIGMA, STEP, PATHS = 0.3, 0.05, 3000
METHODS = {
    "SGD": (st.SGD(), 1.0),
    "SFN": (st.SFN(damping=0.1), 1 / 0.3),
    "LRSFN tail": (st.LRSFN(rank=1, damping=0.1), 10.0),
    "LRSFN": (st.LRSFN(rank=3, damping=0.1), 1 / 0.3),
    "damped Newton": (st.DampedNewton(damping=0.5), 1 / 0.3),
    "damped Newton, attracted": (st.DampedNewton(damping=0.1), -10.0),
    "Newton": (st.Newton(), -5.0),
}
"""Method and its gain at the unstable eigenvalue -0.2."""
SPECTRA = {1: [-0.2], 2: [1.0, -0.2], 3: [1.0, 0.5, -0.2]}


def saddle(name, dim, sigma=SIGMA, step=STEP):
    method = METHODS[name][0]
    if method.rank is not None and dim < 3:
        method = st.LRSFN(rank=min(method.rank, dim), damping=0.1)
    return st.Flow(
        st.quadratic(SPECTRA[dim], rotation_seed=5 if dim > 1 else None),
        method,
        st.Noise(gradient=sigma),
        step=step,
    )


@cache
def left(name, dim, level):
    seed = 100 * list(METHODS).index(name) + 10 * dim + (level == "sde")
    dt = 0.5 * STEP if level == "sde" else None
    along = None if dim == 1 else "unstable"
    return st.escape(saddle(name, dim), radius=0.5, along=along, paths=PATHS, seed=seed, level=level, dt=dt)


CASES = [
    (name, dim, level)
    for name in METHODS
    for dim in (1, 2, 3)
    for level in ("sde", "iteration")
    if not (name == "LRSFN tail" and dim == 1)
]


class TestAgainstTheLaw:
    @pytest.mark.slow
    @pytest.mark.parametrize(("name", "dim", "level"), CASES)
    def test_mean_and_distribution(self, name, dim, level):
        found = left(name, dim, level)
        gain = METHODS[name][1]
        assert found.rate == pytest.approx(gain * 0.2)
        assert found.diffusion == pytest.approx(STEP * gain**2 * SIGMA**2)
        assert found.exact
        assert found.left.mean() > 0.99
        assert abs(found.z) < 4
        assert found.kolmogorov_smirnov[1] > 1e-3 / len(CASES)

    @pytest.mark.parametrize("level", ["sde", "iteration"])
    def test_a_wrong_rate_or_noise_is_far_outside(self, level):
        found = left("SFN", 3, level)
        for wrong in (
            replace(found, rate=1.4 * found.rate),
            replace(found, diffusion=2 * found.diffusion),
            replace(found, radius=0.8 * found.radius),
        ):
            assert abs(wrong.z) > 6
            assert wrong.kolmogorov_smirnov[1] < 1e-6

    def test_the_continuous_limit_is_far_outside_at_a_coarse_step(self):
        flow = st.Flow(st.quadratic([-2.0]), st.SGD(), st.Noise(gradient=0.1), step=0.5)
        found = st.escape(flow, radius=3.0, paths=20000, seed=1, level="iteration")
        value, error = found.mean
        assert value - found.mode.mean > 100 * error  # the iteration is not the equation
        assert (
            value - found.mode.chain(0.5).mean > 30 * error
        )  # nor is it that equation watched every step, corrected to first order
        assert abs(found.z) < 4
        assert found.kolmogorov_smirnov[1] > 1e-3

    def test_brownian_motion(self):
        flow = st.Flow(st.quadratic([1.0, 0.0], rotation_seed=2), st.SGD(), st.Noise(gradient=1.0), step=0.04)
        found = st.escape(flow, radius=1.0, along=1, paths=4000, seed=3)
        assert found.rate == pytest.approx(0, abs=1e-15)
        assert found.mode.mean == pytest.approx(25)
        assert abs(found.z) < 4

    def test_both_sides_are_alike(self):
        found = left("SGD", 2, "sde")
        forwards = found.shares[0, 0] * PATHS
        assert abs(forwards - PATHS / 2) < 4 * math.sqrt(PATHS / 4)
        assert found.shares.sum() == pytest.approx(1)
        assert found.shares[0, 0] == ((found.exits @ found.along) > 0).sum() / found.left.sum()

    def test_correlated_noise_is_projected(self):
        covariance = np.array([[0.5, 0.3], [0.3, 0.4]])
        flow = st.Flow(
            st.quadratic([1.0, -0.3], rotation_seed=1),
            st.SFN(damping=0.2),
            st.Noise(gradient=covariance),
            step=0.05,
        )
        found = st.escape(flow, radius=1.0, along="unstable", paths=4000, seed=8)
        v = found.along
        assert found.diffusion == pytest.approx(0.05 * (v @ covariance @ v) / 0.5**2)
        assert abs(found.z) < 4


class TestTheNumbersAreSimulates:
    @pytest.mark.parametrize("level", ["sde", "iteration"])
    def test_slab_of_a_quadratic(self, level):
        found = left("SGD", 3, level)
        paths, dt = 600, 0.5 * STEP if level == "sde" else None
        v = found.along
        ens = st.simulate(
            saddle("SGD", 3), start=np.zeros(3), t_end=found.t_end, paths=paths, dt=dt, level=level,
            seed=found.provenance["seed"], radius=1e30, exit=lambda w: np.abs(w @ v) < 0.5,
        )  # fmt: skip
        np.testing.assert_array_equal(found.times[:paths], ens.exit_times)

    @pytest.mark.parametrize(
        ("name", "dim"), [("coupled_quartic", 2), ("coupled_quartic", 3), ("double_well", 2)]
    )
    def test_ball_on_a_landscape(self, name, dim):
        F = st.landscape(name, dim=dim)
        flow = st.Flow(F, st.SFN(damping=0.1), st.Noise(gradient=0.2), step=0.05)
        found = st.escape(flow, np.zeros(dim), radius=0.4, paths=300, seed=1, t_end=4.0)
        ens = st.simulate(
            flow,
            start=np.zeros(dim),
            t_end=4.0,
            paths=300,
            seed=1,
            exit=lambda w: np.sum(w * w, axis=-1) < 0.16,
        )
        np.testing.assert_array_equal(found.times, ens.exit_times)
        assert 0 < found.left.sum() < 300
        sizes = np.linalg.norm(found.exits[found.left], axis=1)
        assert sizes.min() >= 0.4
        assert sizes.max() < 0.9  # the first state outside, not a later one
        assert np.isnan(found.exits[~found.left]).all()

    def test_a_saddle_elsewhere(self):
        F = st.expression("sin(x)*sin(y)", ["x", "y"])
        at = np.array([math.pi, math.pi])
        flow = st.Flow(F, st.SGD(), st.Noise(gradient=0.3), step=0.1)
        found = st.escape(flow, at, radius=0.3, along="unstable", paths=2000, seed=4)
        assert abs(found.rate) == pytest.approx(1)
        assert not found.exact
        assert "the law is of the linearised flow" in found.status
        assert abs(found.z) < 6  # sin x = x to 1.5 % here
        assert np.abs(found.exits[found.left] @ found.along).max() < 0.8


def looped(growth, spread, radius, steps):
    """``P(T > k)`` on a fine grid by the trapezoidal rule: another rule, another loop, no symmetry used."""
    y = np.linspace(-radius, radius, 2001)
    weights = np.full(len(y), y[1] - y[0])
    weights[[0, -1]] *= 0.5
    kernel = (
        np.exp(-0.5 * ((y - growth * y[:, None]) / spread) ** 2) / (math.sqrt(2 * math.pi) * spread) * weights
    )
    u, shares = np.ones(len(y)), [1.0]
    for _ in range(steps):
        u = kernel @ u
        shares.append(u[len(y) // 2])
    return np.array(shares)


class TestChainExit:
    @pytest.mark.parametrize(("rate", "dt"), [(2.0, 0.5), (0.3, 0.5), (0.0, 0.3), (-1.0, 0.5), (-1.0, 1.7)])
    def test_it_is_the_iterated_kernel(self, rate, dt):
        mode = exit_time(rate=rate, diffusion=0.4, radius=1.5)
        found = ChainExit(mode, dt, 60)
        np.testing.assert_allclose(
            found.survival(np.arange(61)),
            looped(1 + rate * dt, math.sqrt(0.4 * dt), 1.5, 60),
            rtol=0,
            atol=3e-6,
        )

    def test_two_steps_are_a_bivariate_normal_probability(self):
        mode, dt = exit_time(rate=0.7, diffusion=0.6, radius=1.1), 0.4
        g, s = 1.28, 0.6 * 0.4
        covariance = s * np.array([[1, g], [g, g * g + 1]])
        square = scipy.stats.multivariate_normal(np.zeros(2), covariance).cdf(
            [1.1, 1.1], lower_limit=[-1.1, -1.1]
        )
        assert ChainExit(mode, dt, 5).survival(2) == pytest.approx(square, abs=1e-7)

    def test_without_memory_it_is_geometric(self):
        mode = exit_time(rate=-1.0, diffusion=0.5, radius=1.2)
        stay = 2 * scipy.stats.norm.cdf(1.2 / math.sqrt(0.5)) - 1
        found = ChainExit(mode, 1.0, 10**6)
        k = np.array([0, 1, 2, 50, 1000])
        np.testing.assert_allclose(found.survival(k), stay**k, rtol=1e-10, atol=1e-300)
        assert found.mean(10**6) == pytest.approx(1 / (1 - stay), rel=1e-12)

    def test_an_overshooting_chain_has_the_law_of_its_size(self):
        over, under = (
            ChainExit(exit_time(rate=rate, diffusion=0.3, radius=1.0), 1.0, 100) for rate in (-1.6, -0.4)
        )
        np.testing.assert_allclose(over.survival(np.arange(100)), under.survival(np.arange(100)), rtol=1e-12)

    @pytest.mark.slow
    def test_a_trapped_chain_is_geometric_after_it_has_settled(self):
        mode = exit_time(rate=-1.0, diffusion=0.1, radius=1.0)
        found = ChainExit(mode, 0.1, 10**7)
        assert (
            40 / -math.log(0.9) + 50 <= len(found._shares) < 2000
        )  # constant ratios are not trusted before the chain has relaxed
        late = found.survival(np.array([10**5, 2 * 10**5, 3 * 10**5]))
        assert late[1] / late[0] == pytest.approx(late[2] / late[1], rel=1e-12)
        assert found.mean(10**7) == pytest.approx(0.1 * np.sum(found.survival(np.arange(10**7))), rel=1e-9)
        assert found.mean(700) == pytest.approx(0.1 * np.sum(found.survival(np.arange(700))), rel=1e-13)

    def test_long_before_the_first_exits_it_is_one_and_long_after_zero(self):
        mode, k = exit_time(rate=0.5, diffusion=5e-4, radius=0.46), np.array([100, 160, 4000])
        found = ChainExit(mode, 0.05, 4000)
        assert found.form == "iterated"
        np.testing.assert_allclose(found.survival(k), mode.chain(0.05).survival(0.05 * (k + 0.25)), atol=2e-3)

    @pytest.mark.parametrize("rate", [-0.4, 0.0, 0.6])
    def test_it_tends_to_the_continuous_law_and_the_correction_misses_a_quarter_of_a_step(self, rate):
        """Wald: ``E T = ((R + rho s)^2 + s^2 / 4) / D`` for a walk; `ExitTime.monitored` keeps the square."""
        mode, gaps = exit_time(rate=rate, diffusion=0.5, radius=1.0), []
        for dt in (0.04, 0.02, 0.01):
            found = ChainExit(mode, dt, 10**6)
            assert found.form == "iterated"
            gaps.append((found.mean(10**6) - mode.chain(dt).mean) / dt)
        assert gaps[-1] == pytest.approx(0.25, abs=0.05)
        assert abs(gaps[-1] - 0.25) <= abs(gaps[0] - 0.25) + 1e-3

    def test_where_it_would_take_too_long_the_continuity_correction_stands_for_it(self):
        mode = exit_time(rate=1e-3, diffusion=1e-4, radius=1.0)
        found = ChainExit(mode, 0.01, 10**7)
        assert found.form == "diffusing"
        t = 3000.0
        law = mode.chain(0.01)
        assert found.survival([0, round(t / 0.01)]) == pytest.approx([1, law.survival(t + 0.0025)], rel=1e-12)
        assert found.mean(round(t / 0.01)) == pytest.approx(
            quad(law.survival, 0, t, epsrel=1e-10, limit=300)[0], rel=1e-5
        )
        assert found.mean(10**9) == pytest.approx(law.mean + 0.0025, rel=1e-9)

    @pytest.mark.parametrize(("rate", "dt"), [(-0.8, 0.02), (0.0, 0.02), (1.0, 0.02), (0.3, 0.1)])
    def test_the_closed_form_that_stands_for_it_is_close(self, monkeypatch, rate, dt):
        mode, k = exit_time(rate=rate, diffusion=0.5, radius=1.0), np.arange(2000)
        exact, close = in_closed_form(monkeypatch, mode, dt)
        assert close.form == "diffusing"
        gap = np.abs(close.survival(k) - exact.survival(k)).max()
        assert gap < 5e-4
        assert (
            gap < np.abs(mode.chain(dt).survival(k * dt) - exact.survival(k)).max() / 8
        )  # without the quarter of a step
        for steps in (20, 100, 10**6):
            assert close.mean(steps) == pytest.approx(exact.mean(steps), abs=0.05 * dt)

    @pytest.mark.parametrize(("push", "gap"), [(0.55, 4e-4), (1.0, 1e-4), (2.0, 1e-5), (10.0, 1e-9)])
    def test_a_path_that_is_driven_out_seldom_comes_back(self, monkeypatch, push, gap):
        """Rate 1, radius 1, noise of a step 1/59 and drift at the edge `push` times that.

        Off by `gap`, where the continuity correction is off by more.
        """
        dt = push / 59
        exact, close = in_closed_form(
            monkeypatch, exit_time(rate=1.0, diffusion=1 / 59**2 / dt, radius=1.0), dt
        )
        assert close.form == "driven"
        k = np.arange(int(12 / dt))
        np.testing.assert_allclose(close.survival(k), exact.survival(k), rtol=0, atol=gap)
        for steps in (int(2 / dt), 10**5):
            assert close.mean(steps) == pytest.approx(
                exact.mean(steps), abs=2 * gap
            )  # the law is about 2 / rate wide
        if push >= 1:
            assert np.abs(exact.mode.chain(dt).survival((k + 0.25) * dt) - exact.survival(k)).max() > 3 * gap

    def test_driven_paths_are_not_iterated(self):
        found = ChainExit(exit_time(rate=1.0, diffusion=1 / 61**2 / 0.07, radius=1.0), 0.07, 2000)
        assert (found.form, found.error) == ("driven", 1e-8)
        shares = found._iterated(320, 2000, 2000)
        np.testing.assert_allclose(found.survival(np.arange(len(shares))), shares, rtol=0, atol=1e-8)

    def test_the_corrected_equation_misses_half_a_step_where_drift_dominates(self):
        for push, missing in ((0.5, 0.271), (1.0, 0.291), (4.0, 0.386), (40.0, 0.486)):
            dt = push / 59
            mode = exit_time(rate=1.0, diffusion=1 / 59**2 / dt, radius=1.0)
            exact = ChainExit(mode, dt, 10**5)
            assert exact.form == "iterated"
            assert (exact.mean(10**5) - mode.chain(dt).mean) / dt == pytest.approx(missing, abs=1e-3)

    def test_returns_of_a_walk_by_counting(self):
        walks = np.cumsum(np.random.default_rng(0).standard_normal((20000, 120)) + 0.8, axis=1)
        level = 30.0
        out = np.argmax(walks > level, axis=1)
        later = ((walks <= level) & (np.arange(120) > out[:, None])).sum(axis=1)
        assert abs(later.mean() - _returns(0.8)) < 4 * later.std() / math.sqrt(20000)


def in_closed_form(monkeypatch, mode, dt):
    """The law by iteration, and by what would stand for it."""
    exact = ChainExit(mode, dt, 10**5)
    monkeypatch.setattr("stability.exits.chain.EFFORT", 0)
    assert exact.form == "iterated"
    return exact, ChainExit(mode, dt, 10**5)


def watched(times, seen, t_end, dt=1.0):
    """An Escape of these exits (nan: censored at `seen`)."""
    base = left("SGD", 1, "sde")
    times, seen = np.asarray(times, dtype=float), np.asarray(seen, dtype=float)
    return replace(
        base,
        times=times,
        seen=seen,
        exits=np.full((len(times), 1), np.nan),
        lost=np.isnan(times) & (seen < t_end),
        t_end=t_end,
        dt=dt,
    )


class TestKaplanMeier:
    def test_seven_paths_by_hand(self):
        """Exits at 1, 2, 2 and 4; given up at 2 and 3; one watched to 5. Of each twenty.

        The one given up at 2 was there when two left.
        """
        gone, kept = [1, 2, 2, 4], [2, 3, 5]
        found = watched(np.tile(gone + [math.nan] * 3, 20), np.tile(gone + kept, 20), 5.0)
        moments, survival, error = found.curve
        np.testing.assert_array_equal(moments, [0, 1, 2, 4])
        np.testing.assert_allclose(survival, [1, 6 / 7, 4 / 7, 2 / 7], rtol=1e-14)  # 1 of 7, 2 of 6, 1 of 2
        terms = [Fraction(1, 20 * 7 * 6), Fraction(2, 20 * 6 * 4), Fraction(1, 20 * 2 * 1)]
        np.testing.assert_allclose(
            error[1:], [survival[k + 1] * math.sqrt(sum(terms[: k + 1])) for k in range(3)], rtol=1e-14
        )
        assert found.median == 4
        assert found.survival([0.5, 1, 3.9, 5]) == pytest.approx([1, 6 / 7, 4 / 7, 2 / 7])
        assert np.isnan(found.survival(6))
        areas = [Fraction(16, 7), Fraction(10, 7), Fraction(2, 7)]  # under the curve after each exit
        variance = sum(area**2 * term for area, term in zip(areas, terms, strict=True))
        assert found.mean == pytest.approx((23 / 7, math.sqrt(variance)), rel=1e-14)

    def test_it_is_scipys(self):
        rng = np.random.default_rng(1)
        out, end = (
            rng.integers(1, 30, 200).astype(float),
            np.minimum(rng.integers(5, 60, 200), 25).astype(float),
        )
        found = watched(np.where(out <= end, out, np.nan), np.minimum(out, end), 25.0)
        theirs = scipy.stats.ecdf(scipy.stats.CensoredData.right_censored(np.minimum(out, end), out > end)).sf
        moments, survival, error = found.curve
        np.testing.assert_allclose(survival, theirs.evaluate(moments), rtol=1e-12)
        interval = theirs.confidence_interval(0.5, method="linear")  # survival -+ 0.674 of Greenwood's error
        np.testing.assert_allclose(
            (interval.high.evaluate(moments) - survival)[1:],
            scipy.stats.norm.ppf(0.75) * error[1:],
            rtol=1e-9,
        )

    def test_with_too_few_watched_the_curve_ends(self):
        found = watched([*range(1, 50), math.nan], [*range(1, 50), 5], 60.0)
        assert found.until == 30  # 20 of the 50 are seen at 30 or later
        found = watched([1, 2, 6, math.nan], [1, 2, 6, 4], 9.0)
        assert found.until == 4
        np.testing.assert_array_equal(found.curve[0], [0, 1, 2])
        assert found.mean[0] == 1 + 0.75 + 0.5 * 2  # of min(T, 4): the exit at 6 is still watched then
        assert np.isnan(found.survival(5))

    def test_without_censoring_it_is_the_empirical_law(self):
        times = np.random.default_rng(0).integers(1, 40, 500).astype(float)
        found = watched(times, times, 60.0)
        t = np.arange(60)
        np.testing.assert_allclose(found.survival(t), [(times > x).mean() for x in t], atol=1e-12)
        assert found.mean == pytest.approx((times.mean(), times.std() / math.sqrt(500)), rel=1e-12)
        error = found.curve[2]
        share = found.curve[1]
        np.testing.assert_allclose(error, np.sqrt(share * (1 - share) / 500), atol=1e-12)

    def test_censoring_at_t_end_restricts_the_mean(self):
        flow = saddle("SGD", 2)
        for level, seed in (("sde", 7), ("iteration", 8)):
            whole = left("SGD", 2, level)
            short = st.escape(
                flow, radius=0.5, along="unstable", paths=PATHS, seed=seed, t_end=10.0, level=level
            )
            assert 0.2 < short.left.mean() < 0.8
            assert short.mean[0] < 0.85 * whole.mean[0]
            assert abs(short.z) < 4
            assert short.kolmogorov_smirnov[1] > 1e-3
            assert short.mean[0] == pytest.approx(
                np.minimum(np.where(short.left, short.times, 10.0), 10.0).mean()
            )
            assert short.status == f"{int((~short.left).sum())} of {PATHS} had not left by t_end"

    def test_an_exponential_wait_cut_short(self):
        flow = st.Flow(st.quadratic([0.5]), st.Newton(), st.Noise(gradient=0.25), step=0.1)
        found = st.escape(flow, radius=0.28, paths=PATHS, seed=2, t_end=6.0)
        assert 0.1 < found.left.mean() < 0.9
        law = found.mode.chain(0.1)
        restricted = quad(law.survival, 0, 6.0, epsrel=1e-10)[0]
        value, error = found.mean
        assert found.chain.mean(60) == pytest.approx(
            restricted, abs=0.06
        )  # the correction's own error is of the order of dt
        assert abs(value - found.chain.mean(60)) < 4 * error
        assert value > restricted - 4 * error

    def test_paths_given_up_are_censored(self):
        flow = st.Flow(st.quadratic([-1.0, -0.01]), st.SGD(), st.Noise(gradient=0.1), step=0.01)
        found = st.escape(flow, radius=0.12, along=1, paths=400, seed=1)
        assert 0 < found.lost.sum() < 400
        assert (found.seen[found.lost] < found.t_end).all()
        assert np.isnan(found.times[found.lost]).all()
        assert f"{found.lost.sum()} given up before they left" in found.status
        assert abs(found.z) < 4
        assert "counted as censored" in found.status

    def test_out_and_far_away_in_one_step_is_out(self):
        flow = st.Flow(st.quadratic([-1.0, -0.01]), st.SGD(), st.Noise(gradient=1e9), step=0.1)
        found = st.escape(flow, radius=0.1, along=1, paths=20, seed=1, t_end=1.0)
        np.testing.assert_array_equal(found.times, 0.1)
        assert not found.lost.any()

    def test_few_exits_are_told(self):
        flow = st.Flow(st.quadratic([-1.0]), st.SGD(), st.Noise(gradient=0.5), step=0.1)
        found = st.escape(flow, radius=0.5, paths=200, seed=0, t_end=0.8)
        assert 0 < found.left.sum() < 20
        assert f"only {found.left.sum()} left: standard errors and z are rough" in found.status


def groups(found, size):
    """The paths of one ensemble as many small ones."""
    for part in np.split(np.arange(len(found.times)), len(found.times) // size):
        yield replace(
            found,
            times=found.times[part],
            seen=found.seen[part],
            exits=found.exits[part],
            lost=found.lost[part],
        )


class TestCalibration:
    """Under the law itself z has mean 0 and deviation 1, and p is no smaller than it says.

    From 150 ensembles of 100 paths.
    """

    CASES = (
        ("all leave", [-0.5], {"radius": 0.3}, 0.05),
        ("coarse steps", [-1.0], {"radius": 1.0, "level": "iteration"}, 0.5),
        ("most are given up", [-1.0, -0.1], {"radius": 0.8, "along": 1, "t_end": 60.0}, 0.1),
    )

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("spectrum", "options", "step"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
    )
    def test_z_and_p(self, spectrum, options, step):
        flow = st.Flow(st.quadratic(spectrum), st.SGD(), st.Noise(gradient=0.5), step=step)
        calibrated(st.escape(flow, paths=15000, seed=11, **options))

    def test_given_up_at_random(self):
        """Those that have not left are given up at an exponential time, 60 % of the mean: three of four."""
        found = st.escape(saddle("SGD", 1), radius=0.5, paths=15000, seed=12)
        end = found.dt * np.ceil(np.random.default_rng(0).exponential(0.6 * found.mean[0], 15000) / found.dt)
        lost = end < found.times
        calibrated(
            replace(
                found,
                times=np.where(lost, np.nan, found.times),
                seen=np.where(lost, end, found.seen),
                lost=lost,
            )
        )


def calibrated(found):
    z, p = np.array([(one.z, one.kolmogorov_smirnov[1]) for one in groups(found, 100)]).T
    count = len(z)
    # Few exits leave z a skewness of order 1/10: its mean may be off by as much, besides its standard error.
    assert abs(z.mean()) < 0.1 + 4 / math.sqrt(count)
    assert 0.88 < np.mean(np.abs(z) < 1.96) < 0.99  # 95 % of 150, and what that deviation allows
    assert 1 - 4 / math.sqrt(2 * count) < z.std() < 1.1 + 4 / math.sqrt(2 * count)
    for level in (0.05, 0.2):
        assert (p < level).mean() < level + 4 * math.sqrt(level * (1 - level) / count)


class TestBounds:
    def test_a_ball_lies_between(self):
        covariance = np.array([[0.5, 0.2, 0.0], [0.2, 0.4, 0.1], [0.0, 0.1, 0.3]])
        flow = st.Flow(
            st.quadratic([0.5, -0.2, -0.1], rotation_seed=3),
            st.SFN(damping=0.2),
            st.Noise(gradient=covariance),
            step=0.05,
        )
        found = st.escape(flow, radius=1.0, paths=3000, seed=6)
        t = 0.05 * np.arange(0, 120, 4)
        low, high = found.bounds(t)
        measured = found.survival(t)
        error = np.sqrt(measured * (1 - measured) / 3000) + 1e-3
        assert (low <= high).all()
        assert (measured > low - 4 * error).all()
        assert (measured < high + 4 * error).all()
        assert (high - low).max() < 0.9
        assert np.isnan(found.z)
        assert found.mode is found.chain is None
        assert np.isnan(found.kolmogorov_smirnov).all()

    def test_in_one_dimension_they_meet(self):
        found = left("SGD", 1, "sde")
        t = found.dt * np.arange(0, 200, 20)
        low, high = found.bounds(t)
        np.testing.assert_allclose(low, high, rtol=1e-12)
        np.testing.assert_allclose(low, found.chain.survival(np.arange(0, 200, 20)), rtol=1e-9)

    def test_off_a_quadratic_there_are_none(self):
        flow = st.Flow(st.landscape("coupled_quartic"), st.SGD(), st.Noise(gradient=0.5), step=0.1)
        with pytest.raises(
            ValueError,
            match="`bounds` holds for a quadratic with additive Gaussian noise; here a ball in more than one "
            "dimension",
        ):
            st.escape(flow, radius=0.3, paths=5, seed=0).bounds([1.0])

    def test_of_a_slab_there_are_none(self):
        with pytest.raises(ValueError, match="`bounds` holds for a ball; here a slab was left"):
            left("SGD", 2, "sde").bounds([1.0])

    def test_modes_without_noise_do_not_loosen_them(self):
        flow = st.Flow(st.quadratic([0.5, -0.2]), st.SGD(), st.Noise(gradient=[0.0, 0.3]), step=0.05)
        found = st.escape(flow, radius=0.5, paths=20, seed=0)
        t = found.dt * np.arange(0, 200, 20)
        np.testing.assert_allclose(*found.bounds(t), rtol=1e-12)

    def test_a_ball_is_left_along_the_unstable_mode(self):
        flow = st.Flow(
            st.quadratic([1.0, -0.5, 0.2], rotation_seed=4),
            st.SFN(damping=0.1),
            st.Noise(gradient=0.02),
            step=0.05,
        )
        found = st.escape(flow, radius=1.0, paths=500, seed=0)
        mode = int(np.argmin(found.eigenvalues))
        assert found.shares.shape == (3, 2)
        assert found.shares[mode].sum() > 0.99
        assert found.shares.sum() == pytest.approx(1)


class TestStatus:
    def test_newton_is_attracted(self):
        flow = st.Flow(st.quadratic([1.0, -0.2]), st.Newton(), st.Noise(gradient=0.02), step=0.1)
        found = st.escape(flow, radius=0.5, along="unstable", paths=50, seed=0, t_end=20.0)
        assert not found.left.any()
        assert found.status.startswith(
            "nobody left by t_end: there is a survival curve, and no exit time; attracted at rate 1:"
        )
        assert found.mean == (20.0, 0.0)
        assert np.isnan(found.z)
        assert np.isnan(found.median)
        assert np.isnan(found.shares).all()
        assert found.kolmogorov_smirnov[1] == pytest.approx(1)
        assert "0 of 50 paths left\n" in str(found)

    def test_a_minimum_is_left_after_an_exponential_time(self):
        flow = st.Flow(st.quadratic([1.0, 0.5]), st.SGD(), st.Noise(gradient=0.5), step=0.1)
        found = st.escape(flow, radius=0.4, along="unstable", paths=1000, seed=1)
        assert "no negative eigenvalue: a minimum, or degenerate; attracted at rate 0.5" in found.status
        assert found.eigenvalues[np.argmax(np.abs(found.vectors.T @ found.along))] == 0.5
        assert abs(found.z) < 4

    def test_the_default_end_is_affordable(self, monkeypatch):
        monkeypatch.setattr(exits, "WORK", 1e4)
        flow = st.Flow(st.quadratic([1.0, -0.2]), st.Newton(), st.Noise(gradient=0.02), step=0.1)
        assert st.escape(flow, radius=0.5, along="unstable", paths=50, seed=0).t_end == pytest.approx(20.0)

    def test_how_far_the_landscape_bends(self):
        flow = st.Flow(st.landscape("double_well"), st.SGD(), st.Noise(gradient=0.1), step=0.05)
        found = st.escape(flow, np.zeros(2), radius=0.5, along="unstable", paths=50, seed=1)
        assert found.status.endswith(
            "whose drift at the region's edge is off by 0.25 of itself"
        )  # x^3 / x at 1/2
        damped = st.Flow(
            st.landscape("double_well"), st.DampedNewton(damping=0.25), st.Noise(gradient=0.1), step=0.01
        )
        assert (
            "off by inf"
            in st.escape(damped, np.zeros(2), radius=0.5, along="unstable", paths=5, seed=1, t_end=0.1).status
        )

    @pytest.mark.parametrize(
        ("noise", "along", "reason"),
        [
            (st.Noise(gradient=0.5), [1.0, 1.0], "the direction is not an eigenvector"),
            (st.Noise(gradient=0.5, curvature=0.1), "unstable", "curvature noise grows with the distance"),
            (st.Noise(gradient=[0.0, 0.5]), 0, "no noise reaches the component along this direction"),
            (st.Noise(gradient=0.5), None, "a ball in more than one dimension"),
        ],
        ids=str,
    )
    def test_why_there_is_no_law(self, noise, along, reason):
        flow = st.Flow(st.quadratic([-1.0, 0.5]), st.SGD(), noise, step=0.1)
        found = st.escape(flow, radius=0.3, along=along, paths=20, seed=0, t_end=2.0)
        assert found.mode is None
        assert found.reason.startswith(reason)
        assert f"no law: {reason}" in str(found)

    def test_noise_of_ones_own_has_no_law(self):
        class Signs(st.Noise):
            linear = False

            def sample(self, w, size, rng):
                one = super().sample(w, size, rng)
                return one._replace(zeta=np.sign(one.zeta) * 0.1)

        with pytest.raises(ValueError, match="The second-order law of Signs is not known"):
            st.escape(
                st.Flow(st.quadratic([-1.0]), st.SGD(), Signs(gradient=0.1), step=0.1),
                radius=0.3,
                paths=20,
                seed=0,
            )

        class Told(Signs):
            def factors(self, w):
                return super().factors(w)

        found = st.escape(
            st.Flow(st.quadratic([-1.0]), st.SGD(), Told(gradient=0.1), step=0.1),
            radius=0.3,
            paths=20,
            seed=0,
            t_end=5.0,
        )
        assert found.reason.startswith("the noise draws its own samples")
        assert found.left.any()

    def test_a_degenerate_saddle(self):
        flow = st.Flow(st.landscape("monkey_saddle"), st.SFN(damping=0.1), st.Noise(gradient=0.1), step=0.05)
        found = st.escape(flow, radius=0.3, paths=200, seed=0)
        assert found.left.mean() > 0.9
        np.testing.assert_allclose(found.rates, 0)

    def test_a_given_direction_is_scaled_and_named(self):
        flow = st.Flow(st.quadratic([-1.0, 0.5]), st.SGD(), st.Noise(gradient=0.5), step=0.1)
        one, other = (
            st.escape(flow, radius=0.3, along=along, paths=30, seed=0) for along in ([-3.0, 0.0], "unstable")
        )
        np.testing.assert_array_equal(one.times, other.times)
        assert one.rate == other.rate == 1
        assert "along mode 0" in str(one)
        assert "along the given direction" in str(st.escape(flow, radius=0.3, along=[1, 1], paths=5, seed=0))


class TestResult:
    def test_it_is_saved_and_prints(self, tmp_path):
        found = left("SFN", 2, "sde")
        again = st.load(st.save(found, tmp_path / "exits"))
        assert str(again) == str(found)
        text = str(found)
        assert text.startswith(
            "SFN, SDE, dt = 0.025: first exits from |v.(w - at)| < 0.5 along mode 1, to t = "
        )
        assert "half of all by t = " in text
        assert "mean of min(T, " in text
        assert "Kolmogorov-Smirnov distance" in text
        assert "left along +v " in text
        assert text.endswith(f"status: {found.status}")
        assert "closed form" not in text

    def test_a_law_that_is_not_exact_says_so(self, monkeypatch):
        monkeypatch.setattr("stability.exits.chain.EFFORT", 0)
        found = st.escape(saddle("SGD", 1), radius=0.5, paths=30, seed=0)
        assert str(found).splitlines()[-3].endswith("the law is a closed form, off by at most 5e-04")

    def test_a_ball_says_along_which_modes(self):
        flow = st.Flow(st.quadratic([1.0, -0.5]), st.SFN(damping=0.1), st.Noise(gradient=0.2), step=0.05)
        told = str(st.escape(flow, radius=0.5, paths=50, seed=0))
        assert "left along +mode 1 (lambda = -0.5) " in told
        assert "%, -mode 1 " in told

    def test_it_is_drawn(self):
        axis = st.plot(left("SFN", 2, "sde")).axes[0]
        assert [text.get_text() for text in axis.get_legend().get_texts()][-1] == "law"
        flow = st.Flow(st.landscape("coupled_quartic"), st.SGD(), st.Noise(gradient=0.5), step=0.1)
        axis = st.plot(st.escape(flow, radius=0.3, paths=20, seed=0)).axes[0]
        assert len(axis.get_legend().get_texts()) == 2

    def test_the_first_paths_of_more_are_the_same(self):
        many, few = (
            st.escape(saddle("SFN", 2), radius=0.5, along="unstable", paths=paths, seed=1, t_end=10.0)
            for paths in (700, 300)
        )
        np.testing.assert_array_equal(many.times[:300], few.times)

    @pytest.mark.parametrize("objective", [st.quadratic([1.0, -0.5]), st.landscape("coupled_quartic")])
    def test_workers_change_nothing(self, objective):
        flow = st.Flow(objective, st.SFN(damping=0.1), st.Noise(gradient=0.2), step=0.1)
        one, *others = (
            st.escape(flow, radius=0.3, paths=3000, t_end=20.0, workers=workers, **seed)
            for workers, seed in [(1, {"seed": 0}), (2, {}), (3, {}), (None, {})]  # seed 0 is the default
        )
        for name in ("times", "seen", "exits", "lost"):
            for other in others:
                np.testing.assert_array_equal(getattr(one, name), getattr(other, name))

    def test_a_block_that_an_interrupt_stopped_is_left_out(self, monkeypatch):
        """What it has seen so far is not what it would have seen."""
        options = {"radius": 0.5, "along": "unstable", "paths": 3000, "seed": 1, "t_end": 10.0}
        whole = st.escape(saddle("SFN", 2), **options)

        def stopped(plan, number, signals, recorder):
            if number == 1:
                time.sleep(0.3)  # the first block is taken
                os.kill(os.getpid(), signal.SIGINT)
                assert signals.stop.wait(60)
            return run_block(plan, number, signals, recorder)

        monkeypatch.setattr(sys.modules["stability.exits.escape"], "run_block", stopped)
        with pytest.raises(st.Interrupted) as error:
            st.escape(saddle("SFN", 2), workers=1, **options)
        np.testing.assert_array_equal(error.value.result.times, whole.times[:256])

    def test_ctrl_c_keeps_what_was_finished(self, monkeypatch):
        flow, options = (
            saddle("SFN", 2),
            {"radius": 0.5, "along": "unstable", "paths": 700, "seed": 1, "t_end": 10.0},
        )
        whole = st.escape(flow, **options)

        def interrupted(plan, number, *rest):
            if number == stop:
                raise KeyboardInterrupt
            return run_block(plan, number, *rest)

        monkeypatch.setattr(sys.modules["stability.exits.escape"], "run_block", interrupted)
        stop = 1
        with pytest.raises(
            st.Interrupted, match=r"the 256 paths that were finished are in this exception's `\.result`"
        ) as error:
            st.escape(flow, **options)
        np.testing.assert_array_equal(error.value.result.times, whole.times[:256])
        stop = 0
        with pytest.raises(KeyboardInterrupt) as error:
            st.escape(flow, **options)
        assert type(error.value) is KeyboardInterrupt


FLOW = st.Flow(st.quadratic([1.0, -0.5]), st.SGD(), st.Noise(gradient=0.5), step=0.1)


class TestMessages:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"at": [1.0, 0.0]}, "`at` must be a critical point; the gradient there has norm 1"),
            ({"at": [1.0]}, r"`at` must have shape \(2,\)"),
            ({"radius": 0}, "`radius` must be a finite number > 0; got 0"),
            ({"radius": -1.0}, "`radius` must be a finite number > 0"),
            ({"radius": math.inf}, "`radius` must be a finite number > 0"),
            ({"radius": 1e200, "along": 0}, r"`radius` must give a finite radius\^2 / diffusion"),
            ({"paths": 0}, "`paths` must be an integer >= 1"),
            ({"seed": -1}, "`seed` must be an integer >= 0"),
            ({"dt": 0.0}, "`dt` must be a finite number > 0"),
            ({"dt": 0.05, "level": "iteration"}, "`dt` is for level='sde'"),
            ({"level": "ode"}, "`level` must be one of sde, iteration; got 'ode'"),
            ({"t_end": 0.25}, r"`t_end` must be a multiple of the time step 0\.1; got 0\.25"),
            ({"t_end": -1.0}, "`t_end` must be a finite number > 0"),
            (
                {"t_end": 1e7, "paths": 10**4},
                r"`t_end` = 1e\+07 is 1e\+08 time steps of 10000 paths; at most 1e\+11 path-steps are taken",
            ),
            ({"along": "stable"}, "`along` must be one of unstable; got 'stable'"),
            ({"along": 2}, r"`along` must be an integer >= 0 and <= 1 \(a mode\); got 2"),
            ({"along": [0.0, 0.0]}, "`along` must be a direction, not the zero vector"),
            ({"along": [1.0]}, r"`along` must have shape \(2,\)"),
            ({"along": True}, r"`along` must have shape \(2,\)"),
            ({"workers": 0}, "`workers` must be an integer >= 1; got 0"),
        ],
        ids=str,
    )
    def test_bad_input(self, options, message):
        with pytest.raises(ValueError, match=message):
            st.escape(FLOW, **{"radius": 0.5, "paths": 10, "seed": 0, **options})

    def test_the_flow(self):
        with pytest.raises(ValueError, match=r"`flow` must be a st\.Flow"):
            st.escape(st.SGD(), radius=1.0, paths=10, seed=0)

    def test_without_noise_nothing_moves(self):
        for noise in (None, st.Noise(curvature=0.1)):
            flow = st.Flow(st.quadratic([1.0, -0.5]), st.SGD(), noise, step=0.1)
            with pytest.raises(
                ValueError, match="No noise moves a path that starts at the critical point: it stays there"
            ):
                st.escape(flow, radius=0.5, paths=10, seed=0)

    def test_a_singular_gain(self):
        flow = st.Flow(st.landscape("monkey_saddle"), st.Newton(), st.Noise(gradient=0.1), step=0.1)
        with pytest.raises(ValueError, match="The curvature is singular for Newton along 2 of 2 directions"):
            st.escape(flow, radius=0.5, paths=10, seed=0)

    def test_no_reference(self):
        flow = st.Flow(st.landscape("michalewicz"), st.SGD(), st.Noise(gradient=0.1), step=0.1)
        with pytest.raises(ValueError, match="`at` must be given"):
            st.escape(flow, radius=0.5, paths=10, seed=0)

    def test_a_time_step_beyond_the_schemes_limit_warns(self):
        flow = st.Flow(st.quadratic([30.0, -0.5]), st.SGD(), st.Noise(gradient=0.5), step=0.1)
        with pytest.warns(st.StabilityWarning, match="beyond the Euler scheme's stability limit"):
            st.escape(flow, radius=0.5, paths=10, seed=0, along="unstable")


class TestOtherMethods:
    """Metrics, weight decay and schedules: what has a law keeps it, and what has none says why."""

    TURNED = st.quadratic([1.0, -0.4], rotation_seed=3)
    NOISE = st.Noise(gradient=[0.5, 0.8])

    def left(self, method, **options):
        flow = st.Flow(self.TURNED, method, self.NOISE, step=0.01)
        return st.escape(flow, **{"radius": 0.2, "paths": 300, "seed": 1, "along": "unstable"} | options)

    @pytest.mark.parametrize(
        "method",
        [st.SignSGD(), st.RMSprop(weight_decay=0.1), st.SFN(damping=0.1, weight_decay=0.2)],
        ids=repr,
    )
    def test_along_its_own_mode_each_has_a_law(self, method):
        found = self.left(method)
        assert abs(found.z) < 4
        assert found.kolmogorov_smirnov[1] > 1e-3
        metric = {
            "SignSGD": np.sqrt(2 / np.pi) / np.array([0.5, 0.8]),
            "RMSprop + decay 0.1": 1 / (np.array([0.5, 0.8]) + 1e-8),
        }.get(found.method)
        assert found.exact == (metric is None)
        if metric is not None:  # rates, and what is left along, by SciPy's left eigenvectors
            A = -metric[:, None] * self.TURNED.hessian(np.zeros(2))
            values, normals, _ = scipy.linalg.eig(A, left=True)
            k = np.argmax(values.real)
            assert found.rate == pytest.approx(values[k].real - (0.1 if "decay" in found.method else 0))
            assert abs(normals[:, k] @ found.along) == pytest.approx(1)
            assert float(found.status.split("off by ")[1].split()[0]) < 0.02

    @pytest.mark.parametrize(
        ("method", "options", "reason"),
        [
            (st.Adam(), {}, "the running mean's"),
            (st.Momentum(st.RMSprop()), {}, "the buffer's"),
            (st.RMSprop(), {"level": "iteration"}, "starts with a mean square of zero"),
        ],
        ids=repr,
    )
    def test_what_has_no_law_says_why(self, method, options, reason):
        found = self.left(method, paths=50, t_end=2.0, **options)
        assert reason in found.reason
        assert found.left.any()

    def test_weight_decay_that_draws_elsewhere_has_none_either(self):
        well = st.expression("-0.2*(x - 1)^2", ["x"])
        flow = st.Flow(well, st.SGD(weight_decay=0.1), st.Noise(gradient=0.5), step=0.05)
        found = st.escape(flow, [1.0], radius=0.3, paths=50)
        assert found.reason == "weight decay draws the paths to another point"

    def test_with_a_schedule_the_exits_are_simulates(self):
        steps = 0.1 / np.sqrt(1 + np.arange(200))
        flow = st.Flow(self.TURNED, st.SGD(), self.NOISE, step=steps)
        found = st.escape(flow, radius=0.3, paths=100, t_end=steps.sum())
        ens = st.simulate(flow, start=[0, 0], t_end=steps.sum(), paths=100, seed=0, exit=0.3)
        np.testing.assert_array_equal(found.times, ens.exit_times)
        assert found.reason.startswith("the step is a schedule")
        text = str(found)
        assert "SGD, SDE, a schedule: first exits" in text
        when = np.searchsorted(np.cumsum(steps), found.seen * (1 - 1e-12)) + 1
        assert found.stats["path_steps"] == when.sum()
        with pytest.raises(ValueError, match=r"`t_end` must be given .* a schedule"):
            st.escape(flow, radius=0.3, paths=100)
