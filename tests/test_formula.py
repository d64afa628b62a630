"""One formula, three readers: numbers, symbols and divided differences read the same gain."""

import numpy as np
import pytest
import sympy
from conftest import GAMMA, LITERAL, all_methods, label, smooth_methods

import stability as st
from stability._divided import Divided
from stability.methods import SpectralResponse, singular_directions

SPECTRUM = np.array([2.0, -1.3, 0.7, 0.25, -0.1])


@pytest.mark.parametrize("method", smooth_methods(), ids=label)
class TestGain:
    def test_numbers_follow_the_literal_closed_form(self, method):
        np.testing.assert_allclose(method.gain(SPECTRUM), LITERAL[method.name][0](SPECTRUM), rtol=1e-15)

    def test_symbols_follow_the_literal_closed_form(self, method):
        x = sympy.Symbol("lambda", real=True)
        function = sympy.lambdify(x, method.gain(x), "numpy")
        np.testing.assert_allclose(function(SPECTRUM) + 0 * SPECTRUM, LITERAL[method.name][0](SPECTRUM), rtol=1e-15)

    def test_divided_differences_follow_the_literal_closed_form(self, method):
        gain, slope, _ = LITERAL[method.name]
        phi, gap = gain(SPECTRUM), SPECTRUM[:, None] - SPECTRUM[None, :] + np.eye(5)
        expected = (phi[:, None] - phi[None, :]) / gap + np.diag(slope(SPECTRUM))
        np.testing.assert_allclose(method.divided_differences(SPECTRUM), expected, rtol=1e-13, atol=1e-14)

    def test_repeated_eigenvalues_take_the_limit(self, method):
        close = 0.7 * (1 + np.array([0.0, 0.0, 1e-9, -3e-13]))
        slope = LITERAL[method.name][1](np.array(0.7))
        np.testing.assert_allclose(method.divided_differences(close), np.full((4, 4), slope), rtol=1e-8)

    def test_second_divided_difference_is_half_the_second_derivative(self, method):
        table = method.gain(Divided.variable(*[np.array(0.7)] * 3))
        np.testing.assert_allclose(table.second + 0.0, LITERAL[method.name][2](np.array(0.7)) / 2, rtol=1e-13)


def test_rank_truncated_gains_keep_the_largest_magnitudes():
    expected = [1 / (2 + GAMMA), 1 / (1.3 + GAMMA), 1 / GAMMA, 1 / GAMMA, 1 / GAMMA]
    np.testing.assert_allclose(st.LRSFN(rank=2, damping=GAMMA).gains(SPECTRUM), expected)
    flat = [1 / (2 + GAMMA), 1 / (1.3 + GAMMA)] + [1 / (0.7 + GAMMA)] * 3
    np.testing.assert_allclose(st.LRSFN(rank=2, damping=GAMMA, tail="flat").gains(SPECTRUM), flat)
    order = [3, 0, 4, 1, 2]
    np.testing.assert_allclose(st.LRSFN(rank=2, damping=GAMMA).gains(SPECTRUM[order]), np.array(expected)[order])


def test_tail_gain_is_read_by_symbols_too():
    x = sympy.Symbol("lambda", real=True)
    assert st.LRSFN(rank=1, damping=GAMMA).tail_gain(x) == 1 / GAMMA
    assert sympy.simplify(st.LRSFN(rank=1, damping=0.5, tail="flat").tail_gain(x) - 1 / (sympy.Abs(x) + 0.5)) == 0


def test_full_rank_is_saddle_free_newton():
    np.testing.assert_array_equal(st.LRSFN(rank=5, damping=GAMMA).gains(SPECTRUM), st.SFN(damping=GAMMA).gains(SPECTRUM))


def test_across_the_truncation_divided_differences_have_their_closed_form():
    lam = np.array([1.0, 0.6, 0.4, 0.1])
    got = st.LRSFN(rank=2, damping=GAMMA).divided_differences(lam)
    assert np.isclose(abs(got[1, 2]), 0.6 / (GAMMA * (0.6 + GAMMA) * (0.6 - 0.4)))
    assert got[2, 3] == got[2, 2] == 0


def preconditioner(method, H):
    lam, Q = np.linalg.eigh(H)
    return Q * SpectralResponse(method, lam).gains @ Q.T


@pytest.mark.parametrize("method", [*all_methods(2), st.LRSFN(rank=1, damping=GAMMA, tail="flat"), st.LRSFN(rank=4, damping=GAMMA)], ids=label)
class TestPerturbation:
    def noise(self, rng):
        E = rng.standard_normal((5, 5))
        return E + E.T

    def test_first_derivative_agrees_with_finite_differences(self, method, rotation, rng):
        H, E, h = rotation * SPECTRUM @ rotation.T, self.noise(rng), 1e-5
        slope = (preconditioner(method, H + h * E) - preconditioner(method, H - h * E)) / (2 * h)
        got = rotation @ SpectralResponse(method, SPECTRUM).derivative(rotation.T @ E @ rotation) @ rotation.T
        np.testing.assert_allclose(got, slope, atol=3e-7 * max(1.0, np.abs(slope).max()))

    def test_second_derivative_agrees_with_finite_differences(self, method, rotation, rng):
        H, E, h = rotation * SPECTRUM @ rotation.T, self.noise(rng), 1e-4
        bend = (preconditioner(method, H + h * E) + preconditioner(method, H - h * E) - 2 * preconditioner(method, H)) / (2 * h * h)
        got = rotation @ SpectralResponse(method, SPECTRUM).second_derivative(rotation.T @ E @ rotation) @ rotation.T
        np.testing.assert_allclose(got, bend, atol=2e-5 * max(1.0, np.abs(bend).max()))


class TestUsersGain:
    def test_a_users_gain_gives_its_divided_differences(self):
        method = st.Method(gain=lambda x: 1 / np.sqrt(x**2 + 0.04))
        x, y = 0.5, -0.3
        got = method.divided_differences(np.array([x, y]))
        assert np.isclose(got[0, 1], (method.gain(x) - method.gain(y)) / (x - y))
        assert np.isclose(got[0, 0], -x / (x**2 + 0.04) ** 1.5)

    def test_powers_and_quotients_are_read_exactly(self):
        f = lambda x: (2 * x**3 - x) / (1 + x**2) + abs(x) ** 1.5 - (-x) ** -2  # noqa: E731
        x, y, z = np.array(0.4), np.array(1.7), np.array(-0.9)
        table = f(Divided.variable(x, y, z))
        d01, d12 = (f(x) - f(y)) / (x - y), (f(y) - f(z)) / (y - z)
        assert np.isclose(table.first[0], d01)
        assert np.isclose(table.first[1], d12)
        assert np.isclose(table.second, (d01 - d12) / (x - z))

    def test_a_constant_gain_is_a_method(self):
        np.testing.assert_array_equal(st.Method(gain=lambda x: 2.0).gains(SPECTRUM), np.full(5, 2.0))

    def test_what_plain_arithmetic_cannot_read_is_refused(self):
        with pytest.raises(ValueError, match=r"`gain` must be written in plain arithmetic"):
            st.Method(gain=lambda x: np.exp(-x))
        with pytest.raises(ValueError, match=r"whole and half powers; got 0\.3"):
            st.Method(gain=lambda x: abs(x) ** 0.3)
        with pytest.raises(ValueError, match="`gain` must be a function"):
            st.Method(gain=3.0)


def test_singular_directions_are_counted():
    lam = np.array([1.0, 0.5, 0.0, 1e-18])
    assert singular_directions(st.Newton(), lam) == 2
    assert singular_directions(st.DampedNewton(damping=0.5), np.array([1.0, -0.5])) == 1
    assert singular_directions(st.SFN(damping=1e-3), lam) == 0
