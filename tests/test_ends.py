"""The upper end of a spectrum between two bounds, against spectra that are known."""

import numpy as np
import pytest

import stability as st
from stability.spectra.ends import DOUBT, above, steps_for, top

HOST = st.Backend("numpy", np)
SPECTRA = {
    "whitened": np.linalg.svd(np.random.default_rng(0).standard_normal((400, 200)))[1] ** 2 / 400,
    "slow": 1 / np.arange(1.0, 401),
    "outliers and a bulk": np.r_[30.0, 20.0, np.linspace(0, 1, 300)],
    "indefinite": np.linspace(-5, 3, 400),
    "clusters": np.r_[np.full(20, 3.0), np.full(20, 2.99), np.linspace(0, 2, 300)],
    "a cycle": 1 - np.cos(2 * np.pi * np.arange(400) / 400),
    "one just above a bulk": np.r_[1.05, np.linspace(0, 1, 600)],
    "negative": -np.linspace(1, 3, 300),
}


def end(spectrum, **options):
    return top(lambda V: spectrum[:, None] * V, len(spectrum), HOST, **options)


@pytest.mark.parametrize("name", SPECTRA)
def test_the_largest_eigenvalue_lies_between_the_bounds_whatever_the_spectrum(name):
    spectrum = SPECTRA[name]
    largest, width = spectrum.max(), np.ptp(spectrum)
    missed = 0
    for seed in range(20):
        found = end(spectrum, seed=seed)
        assert found.below <= largest + 1e-12 * width
        assert found.above - found.below <= 0.1 * width
        missed += found.above < largest
    assert missed <= 3  # of 20, at a probability of at most 0.05


def test_what_was_searched_through_is_exact():
    few = end(np.repeat([2.0, -1.0, 0.5], 40))  # three different eigenvalues: three steps
    assert few.above == few.below == pytest.approx(2.0, rel=1e-12)
    assert few.products == 3
    small = end(np.linspace(1.0, 2.0, 7))
    assert small.above == small.below == pytest.approx(2.0, rel=1e-12)
    assert end(np.zeros(30)).above == 0


def test_a_preconditioners_root_is_on_both_sides():
    rng = np.random.default_rng(0)
    H, S = (A + A.T for A in rng.standard_normal((2, 12, 12)))
    found = top(lambda V: H @ V, 12, HOST, root=lambda V: S @ V)
    assert found.above == pytest.approx(np.linalg.eigvalsh(S @ H @ S).max(), rel=1e-10)


def test_few_steps_say_nothing_above():
    assert above(0.0, 1.0, 10**6, 5) == np.inf
    assert 1.0 < above(0.0, 1.0, 10**6, 60) < above(0.0, 1.0, 10**6, 30) < above(-1.0, 1.0, 10**6, 30)
    assert steps_for(5) == 5
    # Kuczynski and Wozniakowski: at half the doubt, since an indefinite operator has two ends.
    off = (np.log(1.648 * 1e3 / (DOUBT / 2)) / 59) ** 2
    assert above(0.0, 1.0, 10**6, 30) == pytest.approx(1 + off / (1 - 2 * off), rel=1e-12)


def test_products_that_are_not_finite_are_refused():
    with pytest.raises(st.BadProducts, match="finite"):
        top(lambda V: np.nan * V, 60, HOST)


def test_on_every_array_library(xp_backend):
    spectrum = xp_backend.asarray(SPECTRA["whitened"])
    found = top(lambda V: spectrum[:, None] * V, 200, xp_backend)
    assert found.below < SPECTRA["whitened"].max() < found.above


def test_in_single_precision():
    spectrum = SPECTRA["whitened"].astype(np.float32)
    found = top(lambda V: spectrum[:, None] * V, 200, st.Backend("numpy", np, None, "float32"))
    assert found.below * (1 - 1e-5) < SPECTRA["whitened"].max() < found.above
