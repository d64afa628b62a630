"""Batch sharpness: its closed form and its error; plateaus in training are the study `sharpness`."""

import numpy as np
import pytest
from conftest import assert_close

import stability as st


def line(seed=0, samples=40):
    """Least squares through the origin: at any w every sample's gradient is ``x^2 w``."""
    x = np.random.default_rng(seed).standard_normal((samples, 1))
    return st.least_squares(x, np.zeros(samples)), x[:, 0] ** 2


class TestItsValue:
    def test_in_one_mode_it_is_a_ratio_of_moments(self):
        F, h = line()
        found = st.gallery.batch_sharpness(F, [2.0], 1, batches=1500, seed=1)
        expected = np.mean(h**3) / np.mean(h**2)
        assert abs(found.value - expected) < 4 * found.error
        assert 0 < found.error < 0.1 * expected

    def test_of_all_samples_it_is_the_hessians_own_quotient(self):
        F = st.logistic(*_table(), l2=0.1)
        w = np.linspace(-1, 1, 5)
        g = F.gradient(w)
        expected = g @ F.hessian(w) @ g / (g @ g)
        assert_close(st.gallery.batch_sharpness(F, w, 30).value, expected)
        assert st.gallery.batch_sharpness(F, w, 30).error == 0.0

    def test_over_states_both_means_are_taken_over_all(self):
        F = st.logistic(*_table(), l2=0.1)
        states = np.random.default_rng(2).standard_normal((7, 5)) * np.arange(1, 8)[:, None]
        g = F.gradient(states)
        bent = np.einsum("ki,kij,kj->k", g, F.hessian(states), g)
        square = np.einsum("ki,ki->k", g, g)
        found = st.gallery.batch_sharpness(F, states, 30)
        assert_close(found.value, bent.sum() / square.sum())
        apart = [np.delete(bent, i).sum() / np.delete(square, i).sum() for i in range(7)]
        jackknife = np.sqrt(6 / 7 * np.sum((np.array(apart) - np.mean(apart)) ** 2))
        assert found.error == pytest.approx(jackknife, rel=0.5)

    def test_its_error_is_that_of_repeated_draws(self):
        F, _ = line()
        drawn = [st.gallery.batch_sharpness(F, [1.0], 4, batches=30, seed=seed) for seed in range(40)]
        spread = np.std([one.value for one in drawn], ddof=1)
        assert np.mean([one.error for one in drawn]) == pytest.approx(spread, rel=0.4)

    def test_where_every_gradient_is_zero_there_is_none(self):
        F, _ = line()
        found = st.gallery.batch_sharpness(F, [0.0], 4)
        assert np.isnan(found.value)
        assert found.reason == "every gradient is zero"


def _table():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((30, 5))
    return X, (X[:, 0] > 0).astype(float)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (
            lambda F: st.gallery.batch_sharpness(st.quadratic([1.0]), [1.0], 1),
            "has no samples to draw batches from",
        ),
        (lambda F: st.gallery.batch_sharpness(F, [1.0, 2.0], 1), r"`w` must have shape \(..., 1\)"),
        (
            lambda F: st.gallery.batch_sharpness(F, np.zeros((0, 1)), 1),
            "`w` must hold a state at least; got none",
        ),
        (lambda F: st.gallery.batch_sharpness(F, [np.nan], 1), "`w` must be finite"),
        (lambda F: st.gallery.batch_sharpness(F, [1.0], 41), "`batch` must be an integer >= 1 and <= 40"),
        (lambda F: st.gallery.batch_sharpness(F, [1.0], 1, batches=0), "`batches` must be"),
        (lambda F: st.gallery.batch_sharpness(F, [1.0], 1, seed=-1), "`seed` must be"),
    ],
)
def test_it_is_refused_with_the_reason(ask, message):
    with pytest.raises(ValueError, match=message):
        ask(line()[0])
