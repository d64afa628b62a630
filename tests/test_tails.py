"""Tail indices: SciPy's fits, samples of known index, Kesten's root of what was simulated, no false alarm."""

import dataclasses
import functools
import math

import numpy as np
import pytest
import scipy.optimize
import scipy.stats

import stability as st
from stability._special import gaussian_log_moment
from stability.ensembles import student as student_t
from stability.ensembles import tails


def student(nu, n=4000, seed=0):
    return np.random.default_rng(seed).standard_t(nu, n)


def joint(nu, n=3000, seed=0, dim=3):
    shape = scipy.stats.wishart(dim + 2, np.eye(dim), seed=1).rvs()
    return scipy.stats.multivariate_t(np.arange(dim), shape, df=nu, seed=seed).rvs(n), shape


@functools.cache
def chain(share, paths=20_000, curvature=0.8, gradient=0.3):
    """One SGD mode at ``dt = share * step``, long after its start.

    Linear theory, ensemble, tail index, and Kesten's root for this chain.
    """
    flow = st.Flow(st.quadratic([1.0]), st.SGD(), st.Noise(gradient=gradient, curvature=curvature), step=0.5)
    dt, spread = 0.5 * share, curvature * math.sqrt(2)
    root = scipy.optimize.brentq(
        lambda s: float(
            gaussian_log_moment(s, np.array([1 - dt]), np.array([spread * math.sqrt(0.5 * dt)]))[0]
        ),
        0.01,
        100,
    )
    ensemble = st.simulate(flow, start=[0.0], t_end=12.0, dt=dt, paths=paths, seed=5)
    return st.linearize(flow), ensemble, st.tail_index(ensemble), root


class TestStudent:
    @pytest.mark.parametrize("nu", [1, 2.5, 5])
    def test_it_is_scipys_fit(self, nu):
        sample = 3 + 2 * student(nu)
        found, (other, location, scale) = st.tail_index(sample), scipy.stats.t.fit(sample)
        assert found.nu == pytest.approx(other, rel=2e-3)
        assert found.location[0] == pytest.approx(location, abs=2e-3)
        assert math.sqrt(found.scatter[0, 0]) == pytest.approx(scale, rel=1e-3)
        assert abs(found.nu - nu) < 4 * found.nu_error

    @pytest.mark.slow
    def test_its_errors_are_those_of_many_samples(self):
        found = [st.tail_index(student(3, n=1000, seed=seed)) for seed in range(50)]
        for deviations in (
            [(one.nu - 3) / one.nu_error for one in found],
            [one.location[0] / one.location_error[0] for one in found],
            [(one.scatter[0, 0] - 1) / one.scatter_error[0, 0] for one in found],
        ):
            assert 0.75 < np.std(deviations) < 1.3
            assert abs(np.mean(deviations)) < 4 / math.sqrt(50)

    def test_the_information_is_the_scores_covariance(self):
        """Of location, log scale and nu at nu = 3, by quadrature over SciPy's density."""
        x, weight = np.polynomial.legendre.leggauss(300)
        x, weight = np.tan(0.5 * np.pi * x), weight * 0.5 * np.pi / np.cos(0.5 * np.pi * x) ** 2
        h = 1e-5

        def score(i):
            ahead, behind = np.array([3.0, 0, 1]), np.array([3.0, 0, 1])
            ahead[i] += h
            behind[i] -= h
            return (scipy.stats.t.logpdf(x, *ahead) - scipy.stats.t.logpdf(x, *behind)) / (2 * h)

        scores = np.stack([score(i) for i in range(3)])
        inverse = np.linalg.inv((scores * weight * scipy.stats.t.pdf(x, 3)) @ scores.T)
        location, scatter = student_t.errors(3.0, np.eye(1), np.eye(1), 1)
        assert location[0] ** 2 == pytest.approx(inverse[1, 1], rel=1e-5)
        assert scatter[0, 0] ** 2 == pytest.approx(4 * inverse[2, 2], rel=1e-5)

    def test_many_dimensions(self):
        sample, shape = joint(3.0)
        found = st.tail_index(sample)
        assert found.dim == 3
        assert abs(found.nu - 3) < 4 * found.nu_error
        assert np.max(np.abs(found.location - np.arange(3)) / found.location_error) < 4
        assert np.max(np.abs(found.scatter - shape) / found.scatter_error) < 4
        assert found.status.startswith("below 4")

    def test_units_do_not_matter(self):
        sample, _ = joint(3.0, n=1000)
        turn = np.diag([1e-8, 1.0, 1e8]) @ np.array([[1, 0.5, 0], [0, 1, 0.5], [0.3, 0, 1]])
        one, other = (
            st.tail_index(sample, center=np.zeros(3)),
            st.tail_index(sample @ turn.T, center=np.zeros(3)),
        )
        assert other.nu == pytest.approx(one.nu, rel=1e-4)
        assert other.hill == pytest.approx(one.hill, rel=1e-3)
        np.testing.assert_allclose(other.scatter, turn @ one.scatter @ turn.T, rtol=1e-2)

    def test_directions_without_spread_are_left_out(self):
        x = student(3, n=500)
        flat = st.tail_index(np.stack([x, 2 * x, np.ones(500)], axis=1))
        alone = st.tail_index(x)
        assert flat.dim == 1
        assert flat.nu == pytest.approx(alone.nu, rel=1e-4)
        np.testing.assert_allclose(
            flat.scatter, alone.scatter[0, 0] * np.outer([1, 2, 0], [1, 2, 0]), rtol=1e-3, atol=1e-12
        )


class TestHill:
    def test_pareto(self):
        sample = np.random.default_rng(1).pareto(2.5, 20_000) + 1
        for tail, k in ((500, 500), (0.1, 2000), (None, 141)):
            found = st.tail_index(sample, center=0, tail=tail)
            assert found.k == k
            assert abs(found.hill - 2.5) < 4 * found.hill_error
            assert found.hill_error == pytest.approx(found.hill / math.sqrt(k))
            assert abs(found.index - 2.5) < 4 * found.error
        assert not found.fits
        assert found.source == "Pareto"

    def test_the_formula(self):
        radii = np.array([8.0, 4.0, 2.0, 1.0])
        assert tails._hill(radii, np.array([2]))[0] == pytest.approx(1 / (0.5 * (math.log(4) + math.log(2))))
        assert (
            tails._hill(np.full(9, 2.1), np.array([7]))[0] == math.inf
        )  # equal radii, where rounding varies

    def test_in_more_dimensions_it_is_of_the_radius(self):
        sample, _ = joint(1.5, n=20_000)
        found = st.tail_index(sample)
        assert abs(found.hill - 1.5) < 4 * found.hill_error
        assert found.status.startswith("below 2")

    def test_tylers_scatter_is_that_of_an_elliptical_law(self):
        sample, shape = joint(1.0, n=20_000)
        centered = sample - np.arange(3)
        radii = tails._radii(centered)
        exact = np.sqrt(np.einsum("ni,ij,nj->n", centered, np.linalg.inv(shape), centered))
        np.testing.assert_allclose(radii, exact / np.median(exact), rtol=0.06)


def streaming(step, dim, points, iterations, seed=0):
    """SGD on streaming least squares, batch of one, isotropic inputs and noise: its tail index is known."""
    rng = np.random.default_rng(seed)
    w = np.zeros((points, dim))
    for _ in range(iterations):
        x = rng.standard_normal((points, dim))
        w = w - step * x * np.sum(x * w, axis=1, keepdims=True) + step * rng.standard_normal((points, dim))
    return w


class TestIndex:
    """The generalised Pareto law of the largest radii, whose error bar holds whatever the bulk."""

    def test_a_student_t_that_fits_is_not_believed(self):
        """Its likelihood is 7 errors off; the index of the chain is 4.541 (a root of moments)."""
        points = streaming(0.15, 10, 4000, 250)
        found = st.tail_index(points)
        assert found.nu > 4.541 + 4 * found.nu_error
        assert np.abs(found.misfit[0]) < tails.MISFIT[0]  # nothing is wrong in the bulk
        parts = [found, *(st.tail_index(points[i : i + 1000]) for i in range(0, 4000, 1000))]
        assert max(abs(one.index - 4.541) / one.error for one in parts) < 3

    def test_units_do_not_matter(self):
        sample = student(3, 1000)
        one, other = (st.tail_index(unit * sample) for unit in (1.0, 2.0**-300))
        assert other.index == pytest.approx(one.index, rel=1e-9)

    def test_a_pareto_law_with_an_origin_of_its_own(self):
        """``P(q > x) = ((t + x) / (t + 1))^(-nu / p)`` by quantiles: what is put in comes out."""
        share = (np.arange(500) + 0.5) / 500
        for power, origin, nu in ((2, 0.7, 3.0), (1, -0.4, 1.5), (2, 30.0, 8.0)):
            excess = (1 + origin) * (share ** (-power / nu) - 1)
            index, error = tails._pareto(np.r_[(1 + excess) ** (1 / power), 1.0], 500, power)
            assert index == pytest.approx(nu, rel=0.05)
            assert error == pytest.approx(1.01 * index * (1 + index / power) / math.sqrt(500))

    def test_no_power_has_no_index(self):
        share = (np.arange(500) + 0.5) / 500
        for radii in (
            np.r_[np.sqrt(1 - np.log(share)), 1.0],
            np.r_[1 + 0.5 * (1 - share), 1.0],
            np.ones(501),
        ):
            assert tails._pareto(radii, 500, 2) == (math.inf, math.inf)

    def test_one_sided_samples_have_their_own_origin(self):
        """Lomax's law has its power in ``1 + x``: squares of distances would say 2.2 +- .3."""
        sample = np.random.default_rng(0).pareto(3.0, 4000)
        found = st.tail_index(sample)
        assert abs(found.index - 3) < 3 * found.error
        squares = tails._pareto(found.radii, found.points, 2)
        assert abs(squares[0] - 3) > 2 * squares[1]

    def test_estimates_that_disagree_are_told(self):
        """One point in a hundred is Cauchy's, the others Gaussian: only the very largest show the power."""
        rng = np.random.default_rng(5)
        sample = np.where(rng.random(20_000) < 0.01, rng.standard_cauchy(20_000), rng.standard_normal(20_000))
        found = st.tail_index(sample)
        assert not found.agrees
        assert found.status.startswith("no index: the 705 largest radii and the very largest disagree")
        assert abs(found.index - 1) < 1.5 * found.error  # wide enough for both
        assert abs(st.tail_index(sample, tail=35).index - 1) < 2 * st.tail_index(sample, tail=35).error

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("draw", "index"),
        [
            (lambda seed: student(3, 400, seed), 3),
            (lambda seed: many_chains()[500 * seed : 500 * (seed + 1)], 4.643),
        ],
        ids=["Student-t", "streaming"],
    )
    def test_nominal_intervals_cover(self, draw, index):
        """95 % intervals cover 90 to 98 % over 200 seeds, and few are beyond three errors."""
        found = [st.tail_index(draw(seed)) for seed in range(200)]
        z = np.array([(one.index - index) / one.error for one in found if math.isfinite(one.index)])
        refused = len(found) - len(z)
        assert 0.9 <= (np.count_nonzero(np.abs(z) < 1.96) + refused) / len(found) <= 0.985
        assert refused < 0.15 * len(found)
        assert np.mean(np.abs(z) > 3) < 0.04

    @pytest.mark.slow
    @pytest.mark.parametrize("nu", [3, 5])
    def test_of_the_fewest_points_too(self, nu):
        """A hundred, told from a Gaussian's or not; without a word they were believed from fifty on."""
        found = [st.tail_index(student(nu, tails.LEAST, seed)) for seed in range(150)]
        told = [one for one in found if math.isfinite(one.index)]
        covers = sum(abs(one.index - nu) < 1.96 * one.error for one in told)
        assert covers + len(found) - len(told) >= 0.9 * len(found)
        assert covers >= 0.8 * len(told)

    def test_an_index_hardly_told_from_a_gaussians_has_a_long_error(self):
        """``1 / index`` is the gain's root of its errors away from zero."""
        found = next(
            one
            for one in (st.tail_index(student(4, 150, seed)) for seed in range(100))
            if tails.LIGHT < one.gain < 8 and math.isfinite(one.index)
        )
        assert found.error >= found.index / (math.sqrt(found.gain) - 1.96)
        assert found.index + 1.96 * found.error > 4

    def test_nominal_intervals_of_one_sided_samples_cover(self):
        """Of Lomax's law, whose middle is nowhere near its origin."""
        z = []
        for seed in range(300):
            sample = np.random.default_rng(seed).pareto(2.0, 500)
            radii = np.sort(np.abs(sample - np.median(sample)))[::-1]
            index, error = tails._pareto(radii, 50, 1)
            z.append((index - 2) / error if math.isfinite(index) else 0.0)
        assert 0.9 <= np.mean(np.abs(z) < 1.96) <= 0.98


@functools.cache
def many_chains():
    return streaming(0.3, 2, 100_000, 120)


class TestStatus:
    @pytest.mark.parametrize(
        ("sample", "status"),
        [
            (student(1.0), "below 2: no variance"),
            (student(2.8, 20_000), "below 4: covariances exist"),
            (student(2.1), "below 4; whether there is a variance is within the error"),
            (student(4.0), "whether the index exceeds 4 is within the error"),
            (student(8.0, 20_000), "above 4: covariances and their error bars exist"),
            (np.random.default_rng(0).standard_normal(4000), "light-tailed: not told from Gaussian"),
            (np.random.default_rng(0).random(4000), "light-tailed: not told from Gaussian"),
        ],
    )
    def test_what_it_means(self, sample, status):
        assert st.tail_index(sample).status.startswith(status)

    @pytest.mark.slow
    def test_gaussian_samples_are_seldom_told_heavy(self):
        rng = np.random.default_rng(3)
        heavy = sum(not st.tail_index(rng.standard_normal(300)).light for _ in range(100))
        assert heavy <= 6  # 1 % is what LIGHT stands for; more than 6 of 100 has probability 1e-4

    def test_a_gaussian_has_its_own_moments(self):
        sample = np.random.default_rng(4).standard_normal((500, 2)) @ np.array([[1, 0.5], [0, 2]])
        found = st.tail_index(np.clip(sample, -2, 2))
        assert found.nu == math.inf
        np.testing.assert_allclose(found.location, np.clip(sample, -2, 2).mean(axis=0), atol=1e-12)
        np.testing.assert_allclose(found.scatter, np.cov(np.clip(sample, -2, 2).T, ddof=0), rtol=1e-9)

    def test_a_law_that_is_no_student_t_is_found_out(self):
        found = st.tail_index(np.random.default_rng(0).laplace(size=20_000))
        assert not found.fits
        assert "does not fit" in str(found)

    @pytest.mark.slow
    def test_a_sample_of_a_student_t_is_seldom_said_not_to_fit(self):
        assert sum(not st.tail_index(student(3, n=500, seed=seed)).fits for seed in range(40)) <= 7


class TestLumps:
    @pytest.mark.parametrize(("share", "n"), [(0.05, 300), (0.01, 2000)])
    def test_paths_in_another_well_are_no_tail(self, share, n):
        """Five in a hundred have left: Hill's 17 largest then say 1.5 or so, of a law with all moments."""
        rng = np.random.default_rng(6)
        found = [
            st.tail_index(np.where(rng.random(n) < share, 2, 0) + 0.2 * rng.standard_normal(n))
            for _ in range(12)
        ]
        assert sum(one.index + 2 * one.error < 4 and not one.lumps for one in found) <= 1

    def test_nor_is_one_point_far_away(self):
        found = st.tail_index(np.r_[np.random.default_rng(0).standard_normal(500), 1e100])
        assert found.gap > 0.9
        assert found.status.startswith("no power tail: the largest radii come in lumps")

    def test_power_tails_are_seldom_said_to_have_them(self):
        """One in a hundred; more than 6 of 100 has probability 1e-4."""
        gaps = [tails._gap(np.sort(np.abs(student(2, n=300, seed=seed)))[::-1], 17) for seed in range(100)]
        assert sum(tails._gap_probability(gap, 17) < tails.LUMPS for gap in gaps) <= 6

    def test_the_probability_of_a_gap(self):
        """Fisher's sum ``sum_j (-1)^(j-1) C(k, j) (1 - j g)^(k-1)``, its first term, and the share itself."""
        for k, g in ((10, 0.55), (44, 0.2)):
            whole = sum(
                (-1) ** (j - 1) * math.comb(k, j) * (1 - j * g) ** (k - 1) for j in range(1, int(1 / g) + 1)
            )
            assert tails._gap_probability(g, k) == pytest.approx(whole, rel=0.01)
        assert tails._gap(np.array([8.0, 4.0, 1.0]), 2) == pytest.approx(2 * math.log(4) / math.log(2 * 4**2))
        assert tails._gap(np.ones(11), 10) == 1


class TestTheorems:
    @pytest.mark.slow
    def test_the_sde_in_one_mode(self):
        """Student-t with ``nu = 1 + 2 |a| / (step K)`` (4.125 here), at a small dt."""
        linear, _, found, root = chain(1 / 16)
        assert abs(found.nu - linear.tail_index) < 4 * found.nu_error
        assert found.fits
        assert abs(root - linear.tail_index) < 0.2 * found.nu_error

    @pytest.mark.parametrize("share", [1, 1 / 4])
    def test_the_chains_own_kesten_root(self, share):
        """Hill's estimate against the root of ``E|1 + a dt + sqrt(K step dt) xi|^s = 1``."""
        _, _, found, root = chain(share)
        assert abs(found.hill - root) < 4 * found.hill_error

    def test_at_dt_equal_to_step_the_student_t_law_misleads(self):
        """The chain's law is none there: the likelihood's index is many errors off, Hill's one."""
        _, _, found, root = chain(1)
        assert abs(found.nu - root) > 4 * found.nu_error
        assert abs(found.hill - root) < 2 * found.hill_error

    def test_the_iteration(self):
        method, noise = st.SFN(damping=0.1), st.Noise(gradient=0.3, curvature=0.35)
        flow = st.Flow(st.quadratic([1.0]), method, noise, step=0.9)
        exact = st.exact_mode(method, curvature=1.0, noise=noise).tail_index(0.9)
        found = st.tail_index(
            st.simulate(flow, start=[0.0], t_end=27.0, paths=20_000, seed=3, level="iteration")
        )
        assert abs(found.hill - exact) < 4 * found.hill_error

    def test_two_coupled_modes_have_one_joint_index(self):
        """Where theory says that it exceeds two, or not."""
        for curvature, exceeds in ((0.25, True), (1.2, False)):
            flow = st.Flow(
                st.quadratic([1.0, 1.0]), st.SGD(), st.Noise(gradient=0.3, curvature=curvature), step=0.5
            )
            assert st.linearize(flow).tail_exceeds_two is exceeds
            found = st.tail_index(
                st.simulate(flow, start=[0.0, 0.0], t_end=15.0, dt=1 / 16, paths=4000, seed=2)
            )
            assert (found.index < 2) is not exceeds


class TestCompare:
    def test_heavy_tails_are_told(self):
        linear, ensemble, _, _ = chain(1 / 8, paths=3000, curvature=1.1)
        notes = st.compare(linear, ensemble).notes
        assert any("by theory, below 4" in note for note in notes)
        assert any("The measured tail index" in note and "below 4" in note for note in notes)

    def test_of_the_iteration_too(self):
        flow = st.Flow(
            st.quadratic([1.0]), st.SFN(damping=0.1), st.Noise(gradient=0.3, curvature=0.3), step=0.5
        )
        ensemble = st.simulate(flow, start=[0.0], t_end=20.0, paths=300, seed=2, level="iteration")
        assert any(
            "iteration's stationary law is 3.3 by theory" in note
            for note in st.compare(st.linearize(flow), ensemble).notes
        )

    def test_no_false_alarm(self):
        flow = st.Flow(st.quadratic([1.0, 0.5]), st.SGD(), st.Noise(gradient=0.3), step=0.2)
        linear = st.linearize(flow)
        for seed in range(15):
            assert (
                st.compare(linear, st.simulate(flow, start=[1.0, 1.0], t_end=4.0, paths=200, seed=seed)).notes
                == ()
            )

    def test_no_false_alarm_where_tails_are_heavy_but_not_that_heavy(self):
        flow = st.Flow(st.quadratic([1.0]), st.SGD(), st.Noise(gradient=0.3), step=0.2)
        ensemble = st.simulate(flow, start=[0.0], t_end=4.0, paths=2000, seed=0)
        for nu, told in ((6, False), (2.5, True)):
            notes = st.compare(
                st.linearize(flow), dataclasses.replace(ensemble, states=student(nu, 2000)[None, :, None])
            ).notes
            assert any("measured tail index" in note for note in notes) is told

    def test_no_false_alarm_where_a_few_paths_sit_in_another_well(self):
        flow = st.Flow(st.quadratic([1.0]), st.SGD(), st.Noise(gradient=0.3), step=0.2)
        ensemble = st.simulate(flow, start=[0.0], t_end=4.0, paths=300, seed=0)
        rng = np.random.default_rng(1)
        for _ in range(10):
            states = np.where(rng.random(300) < 0.05, 2, 0) + 0.2 * rng.standard_normal(300)
            assert (
                st.compare(
                    st.linearize(flow), dataclasses.replace(ensemble, states=states[None, :, None])
                ).notes
                == ()
            )

    def test_few_paths_and_still_ones_are_left_alone(self):
        flow = st.Flow(st.quadratic([1.0]), st.SGD(), step=0.2)
        for paths in (10, 300):
            assert (
                st.compare(
                    st.linearize(flow), st.simulate(flow, start=[1.0], t_end=2.0, paths=paths, seed=0)
                ).notes
                == ()
            )


class TestSamples:
    def test_diverged_paths_are_left_out_and_said(self):
        _, ensemble, _, _ = chain(1 / 8, paths=3000, curvature=1.1)
        lost = np.zeros(3000, dtype=bool)
        lost[:100] = True
        found = st.tail_index(dataclasses.replace(ensemble, diverged=lost))
        assert (found.left_out, len(found.radii)) == (100, 2900)
        assert "100 diverged paths are left out" in str(found)

    def test_it_prints_saves_and_draws(self, tmp_path):
        for sample in (student(3, n=300), np.random.default_rng(1).standard_normal((300, 2))):
            found = st.tail_index(sample)
            again = st.load(st.save(found, tmp_path / "tail"))
            assert str(again) == str(found)
            assert len(st.plot(again).axes) == 2

    @pytest.mark.parametrize(
        ("sample", "options", "message"),
        [
            (np.ones(99), {}, "at least 100 points in 1 dimension; got 99"),
            (np.ones((110, 60)), {}, "at least 120 points in 60 dimensions; got 110"),
            (np.random.default_rng(0).random((100, 30)), {}, "at least 300 points in 30 dimensions; got 100"),
            (np.ones(100), {}, "`sample` must vary; 100 of its 100 points equal its center"),
            (np.r_[np.zeros(70), np.arange(30)], {}, "`sample` must vary; 71 of its 100 points"),
            (np.r_[np.nan, np.arange(99)], {}, "`sample` must be finite; 1 of its 100"),
            (np.zeros((2, 3, 4)), {}, r"`sample` must have shape \(n,\) or \(n, d\)"),
            (np.arange(100.0), {"tail": 5}, "`tail` must be an integer >= 10 and <= 50"),
            (np.arange(100.0), {"tail": 51}, "`tail` must be an integer >= 10 and <= 50"),
            (np.arange(100.0), {"tail": 0.9}, "`tail` must be an integer >= 10 and <= 50"),
            (np.arange(100.0), {"tail": 1.5}, "`tail` must be an integer"),
            (np.arange(100.0), {"center": "mean"}, "`center` must be an array of numbers"),
            (1e200 * np.arange(100.0), {}, "a spread that floats can square"),
            (np.r_[1e150, np.arange(99)], {}, "must not span more than 140 decades"),
            (np.r_[1e300, np.arange(99)], {}, "must not span more than 140 decades"),
            (
                np.c_[np.arange(100.0), np.arange(100) % 50 == 0],
                {},
                "`sample` must not have most of its points in a plane",
            ),
            (
                np.random.default_rng(0).random((100, 2)),
                {"center": [1, 2, 3]},
                r"`center` must have shape \(2,\)",
            ),
            ("abc", {}, "`sample` must be an array of numbers"),
        ],
    )
    def test_bad_input(self, sample, options, message):
        with pytest.raises(ValueError, match=message):
            st.tail_index(sample, **options)

    def test_an_ensemble_without_states(self):
        _, ensemble, _, _ = chain(1 / 8, paths=3000, curvature=1.1)
        with pytest.raises(ValueError, match="this ensemble kept moments only"):
            st.tail_index(dataclasses.replace(ensemble, states=ensemble.states[:, :0]))
