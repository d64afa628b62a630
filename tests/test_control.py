"""Control variates: unbiased, honest errors, exact where the control is everything, no harm where nothing."""

from functools import reduce

import numpy as np
import pytest
from conftest import assert_close, blocks_of, merged, results

from stability.ensembles.control import ControlledMoments, hermite, polynomial_degree
from stability.ensembles.streaming import SampleMoments

pytestmark = pytest.mark.delicate

COVARIANCE = np.array([[1.0, 0.3], [0.3, 1.0]])
ROOT = np.linalg.cholesky(COVARIANCE)


def bent(u):
    """A weakly nonlinear flow of the linear one's state."""
    return u + 0.1 * u**2 + 0.05 * u**3


def expectation(spread):
    """Mean and covariance of `bent` for a Gaussian u of covariance spread^2 COVARIANCE.

    By Gauss-Hermite quadrature, exact for cubics.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(8)
    grid = np.stack(np.meshgrid(nodes, nodes, indexing="ij"), axis=-1).reshape(-1, 2) @ ROOT.T * spread
    weights = np.outer(weights, weights).ravel() / weights.sum() ** 2
    mean = weights @ bent(grid)
    return mean, ((bent(grid) - mean).T * weights) @ (bent(grid) - mean)


def controlled(paths, controls, spread=1.0, shift=0.0):
    """With ``E u = shift``."""
    times = len(paths)
    return ControlledMoments.of(
        paths,
        controls,
        mean=np.full((times, 2), shift),
        covariance=np.tile(COVARIANCE * spread**2, (times, 1, 1)),
        gaussian=True,
    )


def replicate(kind, *, samples, spread=1.0, replications=400, seed=3):
    """Replications in the place of times, in blocks: moments, true mean, true covariance."""
    rng = np.random.default_rng(seed)

    def gauss():
        return rng.standard_normal((replications, 1000, 2))

    def block():
        u = gauss() @ ROOT.T * spread
        paths = bent(u) + 0.05 * gauss() if kind == "bent" else bent(gauss() @ ROOT.T * spread)
        return controlled(paths, u, spread)

    mean, covariance = expectation(spread)
    return (
        merged(block() for _ in range(samples // 1000)),
        mean,
        covariance + (0.05**2 * np.eye(2) if kind == "bent" else 0.0),
    )


def worst(scores):
    """Of standard scores, replications first: the z of their mean, and of their standard deviation."""
    n, spread = len(scores), scores.std(axis=0)
    return np.abs(scores.mean(axis=0) / spread).max() * np.sqrt(n), np.abs(spread - 1).max() * np.sqrt(2 * n)


class TestControlledMoments:
    # Residuals of cubics have heavy tails: where u is wide, covariances need many samples to look normal.
    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("kind", "spread", "samples"), [("bent", 0.5, 12_000), ("independent", 0.5, 4000)]
    )
    def test_errors_are_honest_in_400_replications(self, kind, spread, samples):
        found, mean, covariance = replicate(kind, samples=samples, spread=spread)
        assert max(worst((found.mean - mean) / found.standard_error)) < 4
        assert max(worst((found.covariance - covariance) / found.covariance_error)) < 4

    @pytest.mark.parametrize("kind", ["bent", "independent"])
    def test_unbiased_and_the_squared_errors_are_the_variance_even_with_heavy_tails(self, kind):
        found, *truths = replicate(kind, samples=2000)
        for estimate, error, truth in (
            (found.mean, found.standard_error, truths[0]),
            (found.covariance, found.covariance_error, truths[1]),
        ):
            wrong = (estimate - truth).reshape(400, -1)
            assert np.abs(wrong.mean(axis=0) / wrong.std(axis=0)).max() * 20 < 4
            np.testing.assert_allclose(
                wrong.var(axis=0), np.mean(error.reshape(400, -1) ** 2, axis=0), rtol=4 * np.sqrt(2 / 400)
            )

    def test_a_mean_stays_unbiased_with_few_samples(self):
        """A beta from the samples that it is used on would bias the mean by -24/n.

        Slope and mean of u^2 are correlated where v = u^4 (E v = 3).
        """
        u = np.random.default_rng(8).standard_normal((4000, 40, 2)) @ ROOT.T
        wrong = controlled(u**4, u).mean - 3
        assert np.abs(wrong.mean(axis=0) / wrong.std(axis=0)).max() * np.sqrt(4000) < 4

    def test_the_variance_falls_by_what_theory_says(self):
        """v_i = u_i + a u_i^2 + noise of sd s: the mean's residual is the noise alone."""
        rng = np.random.default_rng(0)
        u = rng.standard_normal((1, 40_000, 2)) @ ROOT.T
        found = controlled(u + 0.1 * u**2 + 0.05 * rng.standard_normal(u.shape), u)
        np.testing.assert_allclose(
            found.variance_reduction[0], (1 + 2 * 0.1**2 + 0.05**2) / 0.05**2, rtol=0.05
        )

    def test_weakly_nonlinear_flows_gain_much_and_independent_controls_lose_nothing(self):
        mean, covariance = replicate("bent", samples=20_000, replications=4)[0].variance_reduction
        assert mean.min() > 70
        assert covariance.min() > 6
        for reduction in replicate("independent", samples=20_000, replications=4)[0].variance_reduction:
            np.testing.assert_allclose(reduction, 1, atol=0.01)

    def test_without_a_varying_control_it_is_the_plain_estimator(self):
        paths = np.random.default_rng(0).exponential(size=(1, 301, 2))
        found = ControlledMoments.of(
            paths,
            np.full((1, 301, 2), 0.1),
            mean=np.full((1, 2), 0.3 - 0.2),
            covariance=np.zeros((1, 2, 2)),
            gaussian=True,
        )
        plain = SampleMoments.of(paths)
        assert_close(found.mean, plain.mean)
        assert_close(found.covariance, plain.m11 / 301)
        np.testing.assert_allclose(found.standard_error, plain.standard_error, rtol=0.02)
        np.testing.assert_allclose(found.covariance_error, plain.covariance_error, rtol=0.05)

    def test_paths_that_are_the_control_are_exact(self):
        u = np.random.default_rng(1).standard_normal((2, 500, 2)) @ ROOT.T + 7.0
        found = controlled(u, u, shift=7.0)
        np.testing.assert_allclose(found.mean, 7.0, rtol=1e-14)
        np.testing.assert_allclose(found.covariance, np.tile(COVARIANCE, (2, 1, 1)), rtol=1e-13)
        assert max(found.standard_error.max(), found.covariance_error.max()) < 1e-7
        assert min(reduction.min() for reduction in found.variance_reduction) > 1e12

    def test_any_split_at_even_positions_gives_the_same_and_merging_is_associative(self):
        rng = np.random.default_rng(2)
        u = rng.standard_normal((2, 1000, 2)) @ ROOT.T
        v = bent(u) + rng.standard_normal(u.shape)
        whole = controlled(v, u)
        a, b, c = (controlled(*pair) for pair in zip(blocks_of(v, 2, 600), blocks_of(u, 2, 600), strict=True))
        empty = controlled(v[:, :0], u[:, :0])
        for other in (
            a.merge(b).merge(c),
            a.merge(b.merge(c)),
            c.merge(b).merge(a),
            empty.merge(whole),
            whole.merge(empty),
        ):
            assert other.counts == (500, 500)
            for ours, theirs in zip(results(other), results(whole), strict=True):
                assert_close(ours, theirs, rtol=1e-11)

    def test_paths_far_from_the_control_cost_no_digits(self):
        """A nonlinear flow can drift away from its control by many standard deviations.

        Squared errors are differences of mean products: `bent` is a polynomial of the control, so nothing is
        left of the variance of x_i, and what is found is the rounding of what was cancelled.
        """
        rng = np.random.default_rng(2)
        u = rng.standard_normal((1, 1000, 2)) @ ROOT.T
        shift = 2.0**17
        near, far = (
            merged(controlled(bent(block) + by, block) for block in blocks_of(u, 0, 300))
            for by in (0.0, shift)
        )
        sample = shift * np.finfo(float).eps  # what a shifted sample is rounded by, beside a spread of 1
        assert_close(far.mean - shift, near.mean, rtol=4 * sample)
        assert_close(far.covariance, near.covariance, rtol=4 * sample)
        cancelled = near._variances(near._means[2])  # what the plain estimators' squared errors are
        for ours, expected, whole in zip(far._errors, near._errors, cancelled, strict=True):
            rounding = near.gram.shape[-1] * np.finfo(float).eps * whole.max()
            np.testing.assert_allclose(ours, expected, rtol=64 * sample, atol=rounding)

    @pytest.mark.parametrize("samples", [0, 1, 3])
    def test_less_than_two_samples_a_half_are_nan(self, samples):
        u = np.random.default_rng(0).standard_normal((1, samples, 2))
        for found in (*results(controlled(u, u)), *controlled(u, u).variance_reduction):
            assert np.isnan(found).all()
        assert sum(controlled(u, u).counts) == samples

    def test_collinear_controls_and_samples_too_large_for_their_fourth_powers(self):
        u = np.random.default_rng(0).standard_normal((1, 200, 1)) @ np.ones((1, 2))
        found = ControlledMoments.of(
            bent(u), u, mean=np.zeros((1, 2)), covariance=np.ones((1, 2, 2)), gaussian=True
        )
        assert_close(found.covariance, np.broadcast_to(found.covariance[:, :1, :1], (1, 2, 2)), rtol=1e-9)
        assert not np.isfinite(controlled(u * 1e100, u * 1e100).covariance).any()

    def test_misuse_is_named(self):
        u = np.zeros((1, 4, 2))
        for paths, controls in (
            (u * np.nan, u),
            (u, u * np.nan),
            (u + np.array([[np.inf], [-np.inf], [0], [0]]), u),
        ):
            with pytest.raises(ValueError, match="finite"):
                controlled(paths, controls)


class TestPolynomials:
    @pytest.mark.parametrize(("dim", "degree"), [(1, 4), (2, 4), (3, 4), (5, 2)])
    def test_are_orthonormal_for_independent_normals(self, dim, degree):
        nodes, weights = np.polynomial.hermite_e.hermegauss(6)
        grid = np.stack(np.meshgrid(*[nodes] * dim, indexing="ij")).reshape(1, dim, -1)
        weight = reduce(np.multiply.outer, [weights] * dim).ravel()
        weight = weight / weight.sum()
        h = hermite(grid, degree)[0]
        np.testing.assert_allclose(h * weight @ h.T, np.eye(len(h)), atol=1e-12)
        np.testing.assert_allclose(h @ weight, 0, atol=1e-12)

    def test_their_degree_follows_the_dimension_and_the_law(self):
        assert [polynomial_degree(d, True) for d in (1, 2, 3, 4, 6, 30)] == [4, 4, 4, 3, 2, 2]
        assert polynomial_degree(2, gaussian=False) == 2
        with pytest.raises(ValueError, match="handles up to 36 dimensions; got 60"):
            polynomial_degree(60, gaussian=True)

    def test_degrees_beyond_two_are_not_used_where_the_control_is_not_gaussian(self):
        """A control of the right mean and variance, but skewed: its cubes' mean is not a Gaussian's."""
        u = np.random.default_rng(0).exponential(size=(300, 400, 1)) - 1
        found = {
            g: ControlledMoments.of(
                u**3, u, mean=np.zeros((300, 1)), covariance=np.ones((300, 1, 1)), gaussian=g
            )
            for g in (True, False)
        }
        z = {g: np.mean(one.mean - 2) / (np.std(one.mean) / np.sqrt(300)) for g, one in found.items()}
        assert abs(z[False]) < 4 < abs(z[True])
