"""Real minibatches of scikit-learn's breast-cancer table: their noise, and the iteration's stationary law."""

import functools
import itertools

import numpy as np
import pytest

import stability as st
from stability.claims.real_data import breast_cancer
from stability.noise import DataNoise, Sample

pytest.importorskip("sklearn", reason="the breast-cancer table comes with scikit-learn")

COUPLINGS = ["independent", "nested"]
REPLACEMENTS = [False, True]


@functools.cache
def logistic(columns: int) -> st.Objective:
    return st.logistic(*breast_cancer(columns), l2=0.1)


@functools.cache
def least_squares(columns: int) -> st.Objective:
    return st.least_squares(*breast_cancer(columns), l2=0.1)


# -- the noise of minibatches ----------------------------------------------------------------------


def flatten(sample: Sample) -> np.ndarray:
    upper = np.triu_indices(sample.Eg.shape[-1])
    return np.concatenate([sample.zeta, sample.Eg[:, *upper], sample.Eh[:, *upper]], axis=1)


def deviations(noise: DataNoise, gradient: np.ndarray, hessian: np.ndarray) -> Sample:
    """What minibatches (m, b) and (m, b_h) do to gradient and Hessians at the reference, per sample."""
    F, w = noise.objective, noise.reference
    each, curvature = F.per_sample_gradient(w) - F.gradient(w), F.per_sample_hessian(w) - F.hessian(w)
    return Sample(
        each[gradient].mean(axis=1), curvature[gradient].mean(axis=1), curvature[hessian].mean(axis=1)
    )


def every_minibatch(
    n: int, b: int, h: int, replacement: bool, coupling: str
) -> tuple[np.ndarray, np.ndarray]:
    """All equally likely (gradient batch, Hessian batch) pairs of a table with n rows."""

    def draws(size):
        return list(
            itertools.product(range(n), repeat=size)
            if replacement
            else itertools.permutations(range(n), size)
        )

    pairs = [(g, other) for g in draws(b) for other in ([g[:h]] if coupling == "nested" else draws(h))]
    gradient, hessian = zip(*pairs, strict=True)
    return np.array(gradient), np.array(hessian)


@pytest.fixture(
    params=itertools.product(REPLACEMENTS, COUPLINGS),
    ids=lambda pair: f"{'with' if pair[0] else 'without'} replacement, {pair[1]}",
)
def tiny(request) -> tuple[DataNoise, Sample]:
    """Five rows of the table: the noise's law, and the deviations of every minibatch there is."""
    replacement, coupling = request.param
    X, y = breast_cancer(1)
    rows = [0, 19, 50, 100, 37]
    F = st.logistic(X[rows], y[rows], l2=0.1)
    noise = st.Noise.from_data(F, None, 3, hessian_batch=2, replacement=replacement, coupling=coupling)
    return noise, deviations(noise, *every_minibatch(5, 3, 2, replacement, coupling))


def test_the_factors_hold_the_second_moments_of_all_minibatches(tiny):
    noise, batches = tiny
    found, expected = flatten(noise.factors(noise.reference)), flatten(batches)
    assert found.T @ found == pytest.approx(expected.T @ expected / len(expected), rel=1e-10, abs=1e-14)


def test_the_gradient_covariance_is_that_of_all_minibatches_away_from_the_reference_too(tiny):
    noise, batches = tiny
    offset = np.array([0.7, -1.3])
    force = batches.zeta + batches.Eg @ offset
    found = noise.gradient_covariance(noise.reference + offset)
    assert found == pytest.approx(force.T @ force / len(force), rel=1e-10)
    assert not np.allclose(found, noise.gradient_covariance(noise.reference), rtol=0.1)


def test_the_second_moment_map_is_the_mean_over_all_minibatches(tiny, rng):
    noise, batches = tiny
    A, B, M = rng.standard_normal((3, 2, 2))

    def apply_G(Eg, Eh):
        return A @ Eg + Eh @ B

    G = apply_G(batches.Eg, batches.Eh)
    expected = np.mean(G @ M @ np.swapaxes(G, 1, 2), axis=0)
    assert noise.second_moment(apply_G, M) == pytest.approx(expected, rel=1e-10)


def test_least_squares_minibatch_gradients_have_the_gradient_covariance_at_any_state():
    """The gradient is then linear in w: nothing is neglected."""
    X, y = breast_cancer(1)
    F, w = st.least_squares(X[:7], y[:7]), np.array([2.0, -1.0])
    noise = st.Noise.from_data(F, None, 3)
    chosen = np.array(list(itertools.combinations(range(7), 3)))
    gradients = F.gradient(w, batch=chosen)
    assert noise.gradient_covariance(w) == pytest.approx(np.cov(gradients.T, ddof=0), rel=1e-10)


def largest_z(drawn: np.ndarray, noise: DataNoise) -> float:
    """Of all entries of the second moment of mean-zero draws (m, k) against the factors'."""
    factors = flatten(noise.factors(noise.reference))
    products = drawn[:, :, None] * drawn[:, None, :]
    error = products.std(axis=0) / np.sqrt(len(drawn))
    gap = products.mean(axis=0) - factors.T @ factors
    constant = (
        error < 1e-12 * error.max()
    )  # an intercept's product with itself is the same loss curvature again
    assert np.abs(gap[constant]).max(initial=0.0) < 1e-12
    return np.abs(gap[~constant] / error[~constant]).max()


@pytest.mark.parametrize("coupling", COUPLINGS)
@pytest.mark.parametrize("replacement", REPLACEMENTS)
@pytest.mark.parametrize(
    ("batch", "hessian_batch"), [(16, 8), (120, 60)]
)  # drawn in two ways: few of 569, or many
def test_drawn_minibatches_and_gaussian_samples_have_the_second_moments_of_the_factors(
    batch, hessian_batch, replacement, coupling
):
    noise = st.Noise.from_data(
        logistic(2), None, batch, hessian_batch=hessian_batch, replacement=replacement, coupling=coupling
    )
    rng = np.random.default_rng(31)
    real = flatten(deviations(noise, *noise.draw_batches(6000, rng)))
    gaussian = flatten(noise.sample(noise.reference, 6000, rng))
    assert largest_z(real, noise) < 4
    assert largest_z(gaussian, noise) < 4


@pytest.mark.parametrize(("n", "batch"), [(24, 3), (24, 8)])  # n // 8 decides how batches are drawn
def test_without_replacement_every_minibatch_is_equally_likely_and_none_holds_a_sample_twice(n, batch):
    X, y = breast_cancer(1)
    noise = st.Noise.from_data(
        st.logistic(X[:n], y[:n], l2=0.1), None, batch, coupling="nested", hessian_batch=2
    )
    drawn = noise.draw_batches(20_000, np.random.default_rng(32))
    ordered = np.sort(drawn.gradient, axis=1)
    assert (np.diff(ordered, axis=1) > 0).all()
    # All pairs (first, second) of places: n (n - 1) equally likely outcomes, in the nested Hessian batch too.
    for pair in (drawn.gradient[:, :2], drawn.gradient[:, -2:], drawn.hessian):
        counts = np.bincount(n * pair[:, 0] + pair[:, 1], minlength=n * n).reshape(n, n)
        assert (np.diag(counts) == 0).all()
        cells = counts[~np.eye(n, dtype=bool)]
        expected = len(pair) / len(cells)
        chi2, freedom = np.sum((cells - expected) ** 2) / expected, len(cells) - 1
        assert abs(chi2 - freedom) < 4 * np.sqrt(2 * freedom)


# -- the stationary law of the actual iteration ----------------------------------------------------
#
# The first four columns and an intercept: curvatures 0.29, 0.24, 0.22, 0.101, 0.100: rank 3 ends at a gap.

COLUMNS = 4


class Measured:
    """Moments of the real minibatch iteration at equilibrium, in the eigenbasis.

    Each path's snapshots are averaged before errors are taken.
    """

    def __init__(self, linear: st.results.LinearFlow, *, paths: int = 512, seed: int = 33):
        slowest = np.abs(linear.rates).min() * linear.flow.step
        rest, apart = (
            int(np.ceil(2.5 / slowest)),
            int(np.ceil(0.5 / slowest)),
        )  # variances within exp(-5) of their limits
        times = linear.flow.step * (rest + apart * np.arange(5))
        ens = st.simulate(
            linear.flow,
            start=linear.at,
            t_end=times[-1],
            save=times,
            paths=paths,
            seed=seed,
            level="iteration",
        )
        assert not ens.diverged.any()
        offsets = (ens.states - linear.at) @ linear.vectors
        self.mean, self.mean_error = self._average(offsets.mean(axis=0))
        offsets = offsets - self.mean
        self.covariance, self.error = self._average(
            np.mean(offsets[..., :, None] * offsets[..., None, :], axis=0)
        )

    @staticmethod
    def _average(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return values.mean(axis=0), values.std(axis=0, ddof=1) / np.sqrt(len(values))

    def z(self, linear: st.results.LinearFlow, **law) -> np.ndarray:
        return (self.covariance - linear.vectors.T @ linear.covariance(**law) @ linear.vectors) / self.error


@functools.cache
def trained(
    method: st.Method,
    batch: int,
    hessian_batch: int,
    step: float,
    objective=logistic,
    coupling: str = "independent",
) -> st.results.LinearFlow:
    F = objective(COLUMNS)
    noise = st.Noise.from_data(F, None, batch, hessian_batch=hessian_batch, coupling=coupling)
    return st.linearize(st.Flow(F, method, noise, step=step))


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [st.SGD(), st.DampedNewton(damping=0.3), st.SFN(damping=0.3), st.LRSFN(rank=3, damping=0.3)],
    ids=lambda method: method.name,
)
def test_within_validity_the_covariance_of_the_actual_iteration_is_the_predicted_one(method):
    """Every entry within 4 standard errors.

    A standard error is 3 to 4 % of a variance; neglected are the second order of the Hessian noise (level L2
    differs by less than 1 %) and the objective's nonlinearity: it moves the mean by less than a tenth of a
    standard deviation, hence variances by about its square.
    """
    linear = trained(method, 16, 192, 0.2)
    assert linear.valid
    measured = Measured(linear)
    variances, second = (
        np.diag(linear.vectors.T @ linear.covariance(order=order) @ linear.vectors) for order in (1, 2)
    )
    assert np.abs(second / variances - 1).max() < 0.01
    assert np.abs(measured.mean / np.sqrt(variances)).max() < 0.1
    assert (np.diag(measured.error) / variances).max() < 0.045
    assert np.abs(measured.z(linear)).max() < 4
    assert np.abs(measured.z(linear, order=2)).max() < 4


def test_another_methods_prediction_would_be_rejected():
    measured = Measured(trained(st.SFN(damping=0.3), 16, 192, 0.2), paths=384)
    assert np.abs(measured.z(trained(st.LRSFN(rank=3, damping=0.3), 16, 192, 0.2))).max() > 4
    assert np.abs(measured.z(trained(st.SFN(damping=0.4), 16, 192, 0.2))).max() > 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "hessian_batch"),
    [(st.LRSFN(rank=2, damping=0.3), 192), (st.DampedNewton(damping=0.05), 4), (st.SFN(damping=0.05), 4)],
    ids=["LRSFN, rank inside a cluster", "damped Newton", "SFN"],
)
def test_where_validity_fails_the_indicator_says_so_and_the_discrepancy_is_real(method, hessian_batch):
    linear = trained(method, 16, hessian_batch, 0.2)
    measured = Measured(linear, paths=1024)
    ratios = np.diag(measured.covariance) / np.diag(linear.vectors.T @ linear.covariance() @ linear.vectors)
    assert linear.validity > 0.2
    assert not linear.valid
    assert np.abs(measured.z(linear)).max() > 4
    assert np.abs(ratios - 1).max() > 0.1


def test_where_the_theory_sees_no_stationary_law_at_all_real_steps_bounded_by_the_damping_may_have_one():
    """Four samples cannot tell the kept directions: to first order the noise diverges.

    A true step is at most ``|g| / damping``.
    """
    linear = trained(st.LRSFN(rank=2, damping=0.1), 16, 4, 0.2)
    assert linear.validity > 1
    with pytest.raises(st.Unstable, match="second-moment map"):
        linear.covariance()
    spread = np.sqrt(np.diag(Measured(linear).covariance))
    assert np.isfinite(spread).all()
    assert spread.max() < 1


# -- the same batch for gradient and Hessian -------------------------------------------------------
#
# Least squares, so that no nonlinearity of the objective moves the mean.


@pytest.mark.slow
def test_nested_minibatches_shift_the_mean_by_the_predicted_amount():
    """By half a standard deviation here."""
    linear = trained(st.SFN(damping=0.5), 256, 256, 0.2, least_squares, "nested")
    assert linear.valid
    measured = Measured(linear, paths=400)
    predicted = linear.vectors.T @ linear.mean_shift
    assert np.abs((measured.mean - predicted) / measured.mean_error).max() < 4
    assert np.abs(predicted / measured.mean_error).max() > 10


def test_independent_minibatches_do_not_shift_the_mean():
    linear = trained(st.SFN(damping=0.5), 16, 32, 0.2, least_squares)
    measured = Measured(linear, paths=256)
    assert (linear.mean_shift == 0).all()
    assert np.abs(measured.mean / measured.mean_error).max() < 4
