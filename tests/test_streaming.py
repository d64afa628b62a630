"""Streaming statistics: the numbers of all samples in memory, honest errors, quantiles as promised."""

import dataclasses

import numpy as np
import pytest
from conftest import assert_close, blocks_of, merged, results

from stability.ensembles.streaming import Quantiles, SampleMoments

pytestmark = pytest.mark.delicate


def skewed(*shape, seed=0):
    """Samples whose third moments do not vanish, and whose axes are correlated."""
    z = np.random.default_rng(seed).exponential(size=shape)
    return z + 0.5 * z[..., ::-1] ** 2 + np.arange(shape[-1])


def numpy_moments(states):
    """Mean, covariance and their standard errors of shape (n, d), entry by entry from NumPy."""
    n, d = states.shape
    c = states - states.mean(axis=0)
    covariance = np.cov(states.T, ddof=1).reshape(d, d)
    fourth = np.array([[np.mean(c[:, i] ** 2 * c[:, j] ** 2) for j in range(d)] for i in range(d)])
    biased = covariance * (n - 1) / n
    rest = (np.outer(np.diag(biased), np.diag(biased)) + biased**2) / (n - 1)
    return (
        states.mean(axis=0),
        np.sqrt(np.diag(covariance) / n),
        covariance,
        np.sqrt((fourth - biased**2 + rest) / n),
    )


class TestMoments:
    @pytest.mark.parametrize("sizes", [(), (500,), (1, 998), (0, 3, 0, 990), tuple([1] * 40)], ids=str)
    def test_any_split_gives_numpys_moments_of_all_samples(self, sizes):
        states = skewed(3, 1000, 4)
        found = merged(SampleMoments.of(block) for block in blocks_of(states, *sizes))
        assert found.count == 1000
        for time in range(3):
            for ours, expected in zip(results(found), numpy_moments(states[time]), strict=True):
                assert_close(ours[time], expected)

    def test_the_error_of_a_variance_does_not_vanish_with_its_first_order(self, rng):
        """At +-1 with equal chance ``x^4 = (x^2)^2``: the variance varies at second order.

        By ``sqrt(2) / n``.
        """
        samples = rng.choice([-1.0, 1.0], size=(2000, 400))
        variances = samples.var(axis=1, ddof=1)
        found = np.array(
            [SampleMoments.of(one[None, :, None]).covariance_error[0, 0, 0] for one in samples[:50]]
        )
        true = float(np.sqrt(np.mean((variances - 1) ** 2)))
        assert true == pytest.approx(np.sqrt(2) / 400, rel=0.1)
        assert true < np.mean(found) < 2 * true  # each sample's own skewness adds to it
        balanced = np.repeat([-1.0, 1.0], 200)  # has none, and no first order at all
        assert SampleMoments.of(balanced[None, :, None]).covariance_error[0, 0, 0] == pytest.approx(
            np.sqrt(2) / 400, rel=0.01
        )

    def test_merging_is_associative_and_commutative_to_rounding(self):
        a, b, c = (SampleMoments.of(block) for block in blocks_of(skewed(2, 600, 3), 7, 400))
        first = dataclasses.astuple(a.merge(b).merge(c))
        for other in (a.merge(b.merge(c)), c.merge(a).merge(b)):
            for ours, theirs in zip(first, dataclasses.astuple(other), strict=True):
                assert_close(ours, theirs)

    @pytest.mark.parametrize(
        ("sizes", "rtol"), [((), 1e-12), ((1000, 1, 500), 1e-7)], ids=["one block", "merged"]
    )
    def test_a_mean_far_larger_than_the_spread_costs_no_digits_but_its_own(self, sizes, rtol):
        small = np.round(skewed(1, 4000, 2) * 2**20) / 2**20  # so that adding 1e8 is exact
        found = merged(SampleMoments.of(block + 1e8) for block in blocks_of(small, *sizes))
        _, error, covariance, covariance_error = numpy_moments(small[0])
        assert_close(found.mean[0] - 1e8, small[0].mean(axis=0), rtol=3e-8)  # the spacing of numbers near 1e8
        for ours, expected in (
            (found.standard_error, error),
            (found.covariance, covariance),
            (found.covariance_error, covariance_error),
        ):
            assert_close(ours[0], expected, rtol=rtol)

    def test_known_answer_by_hand(self):
        found = SampleMoments.of(np.array([[[0.0, 0.0], [2.0, 4.0]]]))
        np.testing.assert_array_equal(found.mean, [[1.0, 2.0]])
        np.testing.assert_array_equal(found.covariance, [[[2.0, 4.0], [4.0, 8.0]]])
        np.testing.assert_array_equal(found.standard_error, [[1.0, 2.0]])
        np.testing.assert_array_equal(found.m21, [[[0.0, 0.0], [0.0, 0.0]]])
        np.testing.assert_array_equal(found.m22, [[[2.0, 8.0], [8.0, 32.0]]])

    def test_the_memory_layout_has_no_effect_and_single_precision_is_summed_in_double(self):
        states = skewed(2, 900, 3).astype(np.float32)
        transposed = np.swapaxes(np.ascontiguousarray(np.swapaxes(states, 1, 2)), 1, 2)
        for other in (transposed, states.astype(float)):
            for ours, theirs in zip(
                results(SampleMoments.of(states)), results(SampleMoments.of(other)), strict=True
            ):
                np.testing.assert_array_equal(ours, theirs)

    @pytest.mark.parametrize("count", [0, 1])
    def test_less_than_two_samples_are_nan_and_harmless_in_a_merge(self, count):
        few, many = SampleMoments.of(skewed(2, count, 3)), SampleMoments.of(skewed(2, 50, 3))
        found = results(few)
        assert [ours.shape for ours in found] == [(2, 3), (2, 3), (2, 3, 3), (2, 3, 3)]
        assert all(np.isnan(ours).all() for ours in found[count:])
        if count:  # one sample has a mean
            np.testing.assert_array_equal(found[0], skewed(2, 1, 3)[:, 0])
        assert np.isfinite(results(few.merge(many))[3]).all()
        assert few.merge(many).count == many.merge(few).count == 50 + count

    def test_constant_samples_have_no_spread(self):
        found = merged([SampleMoments.of(np.full((1, 9, 2), 0.1))] * 3)
        np.testing.assert_array_equal(found.mean, [[0.1, 0.1]])
        assert max(np.abs(result).max() for result in results(found)[1:]) < 1e-16

    def test_fourth_powers_too_large_for_a_float_are_an_infinite_error(self):
        found = merged(SampleMoments.of(block * 1e100) for block in blocks_of(skewed(1, 50, 2), 20))
        assert np.isfinite(found.covariance).all()
        assert not np.isfinite(found.covariance_error).any()

    def test_misuse_is_named(self):
        for bad in ([0.0, np.nan], [np.inf, 0.0], [np.inf, -np.inf], [1.7e308, 1.7e308]):
            with pytest.raises(ValueError, match="finite"):
                SampleMoments.of(np.array(bad)[None, :, None])
        with pytest.raises(ValueError, match="shape"):
            SampleMoments.of(np.zeros((1, 3, 2))).merge(SampleMoments.of(np.zeros((2, 3, 2))))

    def test_high_dimension_needs_a_few_matrices(self):
        import tracemalloc

        states = np.random.default_rng(0).standard_normal((1, 64, 400))
        tracemalloc.start()
        one = SampleMoments.of(states)
        one.merge(one)
        assert tracemalloc.get_traced_memory()[1] < 14 * 8 * 400**2
        tracemalloc.stop()


LEVELS = [0.0, 0.001, 0.025, 0.1, 0.25, 0.3, 0.5, 0.75, 0.975, 1.0]


class TestQuantiles:
    @pytest.mark.parametrize("tolerance", [0.2, 1e-3, 1e-6])
    @pytest.mark.parametrize("draw", ["normal", "cauchy", "lattice", "scales"])
    def test_within_the_tolerance_of_numpys_inverted_cdf(self, draw, tolerance):
        rng = np.random.default_rng(4)
        shape = (3, 1000, 2)
        states = {
            "normal": lambda: rng.standard_normal(shape),
            "cauchy": lambda: rng.standard_cauchy(shape),
            "lattice": lambda: rng.integers(-3, 4, shape).astype(float),
            "scales": lambda: rng.choice([-1.0, 1.0], shape) * 10.0 ** rng.uniform(-290, 290, shape),
        }[draw]()
        center = np.array([[0.0, 1.0], [-2.0, 0.5], [0.0, 30.0]]) * (draw != "scales")
        found = merged(
            Quantiles.around(center, tolerance=tolerance).add(block) for block in blocks_of(states, 0, 1, 700)
        ).quantile(LEVELS)
        exact = np.moveaxis(np.quantile(states, LEVELS, axis=1, method="inverted_cdf"), 0, 1)
        assert found.shape == exact.shape == (3, len(LEVELS), 2)
        allowed = (
            tolerance * np.abs(exact - center[:, None]) * (1 + 1e-9)
            + 1e-12 * np.abs(exact)
            + 1e-13 * np.abs(center[:, None])
        )
        assert (np.abs(found - exact) <= allowed).all()

    def test_the_tolerance_is_used_and_not_wasted(self):
        """Errors reach both ends of the promise: buckets are as wide as they may be."""
        states = np.geomspace(1, 2, 5001)[None, :, None]
        found = Quantiles.around(np.zeros((1, 1)), tolerance=0.01).add(states)
        wrong = found.quantile(np.arange(1, 5002) / 5001)[0, :, 0] / states[0, :, 0] - 1
        np.testing.assert_allclose([wrong.min(), wrong.max()], [-0.01, 0.01], rtol=0.02)
        assert len(found.keys) == np.ceil(np.log(2) / np.log(1.01 / 0.99)) + 1

    def test_merging_is_exact_in_any_order(self):
        blocks = blocks_of(skewed(2, 900, 3) - 2, 0, 1, 500)
        start = Quantiles.around(np.ones((2, 3)))
        parts = [start.add(block) for block in blocks]
        first = merged(parts)
        for other in (
            merged(parts[::-1]),
            parts[0].merge(parts[1].merge(parts[2].merge(parts[3]))),
            start.add(np.concatenate(blocks, axis=1)),
        ):
            assert other.count == first.count == 900
            np.testing.assert_array_equal(other.keys, first.keys)
            np.testing.assert_array_equal(other.hits, first.hits)
        assert (np.diff(first.keys) > 0).all()

    def test_samples_at_the_center_are_exact(self):
        found = Quantiles.around(np.full((1, 2), 0.1)).add(np.full((1, 5, 2), 0.1))
        np.testing.assert_array_equal(found.quantile(LEVELS), np.full((1, len(LEVELS), 2), 0.1))
        assert len(found.keys) == 2

    def test_extreme_distances_are_clipped_and_one_level_keeps_its_axis(self):
        found = Quantiles.around(np.zeros((1, 1))).add(
            np.array([[[1e-310], [-1e-310], [1.5e308], [-1.5e308], [0.0]]])
        )
        np.testing.assert_allclose(
            found.quantile([0, 0.4, 0.6, 0.8, 1])[0, :, 0], [-1e300, 0, 0, 0, 1e300], rtol=2.1e-3
        )
        assert found.quantile(0.5).shape == (1, 1, 1)
        far = Quantiles.around(np.full((1, 1), -1e308)).add(np.full((1, 2, 1), 1.5e308))
        np.testing.assert_allclose(far.quantile(0.5), -1e308)

    def test_without_samples_all_is_nan(self):
        empty = Quantiles.around(np.zeros((2, 3)))
        for found in (empty, empty.add(np.zeros((2, 0, 3))), empty.merge(empty)):
            assert found.quantile(LEVELS).shape == (2, len(LEVELS), 3)
            assert np.isnan(found.quantile(LEVELS)).all()

    def test_memory_is_bounded_by_buckets_not_samples(self):
        sketch, rng = Quantiles.around(np.zeros((1, 1))), np.random.default_rng(0)
        for _ in range(10):
            sketch = sketch.add(rng.standard_normal((1, 20_000, 1)))
        assert len(sketch.keys) < 9000
        assert sketch.hits.sum() == sketch.count == 200_000

    def test_misuse_is_named(self):
        start = Quantiles.around(np.zeros((1, 1)))
        with pytest.raises(ValueError, match="finite"):
            start.add(np.array([[[np.nan]]]))
        with pytest.raises(ValueError, match="finite"):
            Quantiles.around(np.array([[np.inf]]))
        with pytest.raises(ValueError, match="shape"):
            start.add(np.zeros((1, 3, 2)))
        with pytest.raises(ValueError, match="tolerance"):
            Quantiles.around(np.zeros((1, 1)), tolerance=0.0)
        for other in (Quantiles.around(np.ones((1, 1))), Quantiles.around(np.zeros((1, 1)), tolerance=0.1)):
            with pytest.raises(ValueError, match="center and tolerance"):
                start.merge(other)
        for level in (-0.1, 1.1, np.nan):
            with pytest.raises(ValueError, match="levels"):
                start.add(np.zeros((1, 3, 1))).quantile(level)
