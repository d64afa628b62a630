"""One formula, three readers: numbers, symbols and divided differences read the same gain."""

import math

import mpmath
import numpy as np
import pytest
import sympy
from conftest import GAMMA, LITERAL, all_methods, label, smooth_methods

import stability as st
from stability import _fast
from stability.methods.divided import Divided
from stability.methods.formula import read
from stability.methods.response import SpectralResponse, singular_directions

SPECTRUM = np.array([2.0, -1.3, 0.7, 0.25, -0.1])


@pytest.mark.parametrize("method", smooth_methods(), ids=label)
class TestGain:
    def test_numbers_follow_the_literal_closed_form(self, method):
        np.testing.assert_allclose(method.gain(SPECTRUM), LITERAL[method.name][0](SPECTRUM), rtol=1e-15)

    def test_symbols_follow_the_literal_closed_form(self, method):
        x = sympy.Symbol("lambda", real=True)
        function = sympy.lambdify(x, method.gain(x), "numpy")
        np.testing.assert_allclose(
            function(SPECTRUM) + 0 * SPECTRUM, LITERAL[method.name][0](SPECTRUM), rtol=1e-15
        )

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
    np.testing.assert_allclose(
        st.LRSFN(rank=2, damping=GAMMA).gains(SPECTRUM[order]), np.array(expected)[order]
    )


def test_methods_of_ones_own_are_shown_by_their_names():
    assert repr(st.gallery.rsfn(eps=0.1)) == "Method(name='R-SFN', eps=0.1)"
    assert repr(st.Method(lambda lam, eps: 1 / (abs(lam) + eps), eps=0.1)) == "Method(eps=0.1)"
    assert repr(st.SFN(damping=0.1)) == "SFN(damping=0.1)"


def test_tail_gain_is_read_by_symbols_too():
    x = sympy.Symbol("lambda", real=True)
    assert st.LRSFN(rank=1, damping=GAMMA).tail_gain(x) == 1 / GAMMA
    assert (
        sympy.simplify(st.LRSFN(rank=1, damping=0.5, tail="flat").tail_gain(x) - 1 / (sympy.Abs(x) + 0.5))
        == 0
    )


def test_full_rank_is_saddle_free_newton():
    np.testing.assert_array_equal(
        st.LRSFN(rank=5, damping=GAMMA).gains(SPECTRUM), st.SFN(damping=GAMMA).gains(SPECTRUM)
    )


def test_across_the_truncation_divided_differences_have_their_closed_form():
    lam = np.array([1.0, 0.6, 0.4, 0.1])
    got = st.LRSFN(rank=2, damping=GAMMA).divided_differences(lam)
    assert np.isclose(abs(got[1, 2]), 0.6 / (GAMMA * (0.6 + GAMMA) * (0.6 - 0.4)))
    assert got[2, 3] == got[2, 2] == 0


def preconditioner(method, H):
    lam, Q = np.linalg.eigh(H)
    return Q * SpectralResponse(method, lam).gains @ Q.T


@pytest.mark.parametrize(
    "method",
    [*all_methods(2), st.LRSFN(rank=1, damping=GAMMA, tail="flat"), st.LRSFN(rank=4, damping=GAMMA)],
    ids=label,
)
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
        bend = (
            preconditioner(method, H + h * E)
            + preconditioner(method, H - h * E)
            - 2 * preconditioner(method, H)
        ) / (2 * h * h)
        got = (
            rotation
            @ SpectralResponse(method, SPECTRUM).second_derivative(rotation.T @ E @ rotation)
            @ rotation.T
        )
        np.testing.assert_allclose(got, bend, atol=2e-5 * max(1.0, np.abs(bend).max()))


def test_a_flat_tail_that_begins_with_a_multiple_eigenvalue_has_no_second_derivative():
    def linear(tail):
        method = st.LRSFN(rank=1, damping=0.3, tail=tail)
        noise = st.Noise(gradient=1.0, curvature=0.05)
        return st.linearize(st.Flow(st.quadratic([2.0, 1.0, 1.0]), method, noise, step=0.1))

    with pytest.raises(st.Unstable, match=r"\(1\) is a multiple one.* Use order=1, or tail='damping'"):
        linear("flat").covariance(order=2)
    assert np.isfinite(linear("flat").covariance(order=1)).all()
    assert np.isfinite(linear("damping").covariance(order=2)).all()


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
        with pytest.raises(ValueError, match="may raise to fixed powers only"):
            st.Method(gain=lambda x: x**x)
        with pytest.raises(ValueError, match="`gain` must be a function"):
            st.Method(gain=3.0)

    def test_a_sympy_gain_that_cannot_be_read_is_refused(self):
        x, y = sympy.symbols("x y", real=True)
        with pytest.raises(ValueError, match=r"one free symbol, the eigenvalue; got x, y\. Give .*, y="):
            st.Method(gain=x / y)
        with pytest.raises(ValueError, match=r"may use \+ - \* / \*\*, Abs, .* Piecewise; got sin"):
            st.Method(gain=sympy.sin(x))
        with pytest.raises(ValueError, match="may raise to fixed powers"):
            st.Method(gain=2**x)

    def test_rank_and_tail_gain_go_together_and_names_do_not_clash(self):
        with pytest.raises(ValueError, match="both `rank` and `tail_gain`"):
            st.Method(gain=lambda x: x, rank=2)
        with pytest.raises(ValueError, match="may not be called 'label'"):
            st.Method(gain=lambda x, label: x, label=1.0)
        with pytest.raises(ValueError, match="`eps` must be finite"):
            st.Method(gain=lambda x, eps: x + eps, eps=np.nan)
        with pytest.raises(ValueError, match="`parameter` must be one of damping"):
            st.SFN(damping=0.1).with_parameters(gamma=1.0)


X = sympy.Symbol("x", real=True)
PAIRS = [  # the same gain as a function and as a SymPy expression
    (lambda x: 1 / np.sqrt(x**2 + 0.25), 1 / sympy.sqrt(X**2 + sympy.Rational(1, 4))),
    (lambda x: abs(x) ** -0.3, abs(X) ** sympy.Rational(-3, 10)),
    (lambda x: (2 * x - 1) / (x**2 + 3), (2 * X - 1) / (X**2 + 3)),
    (lambda x: 1 / (abs(x) + 0.3), 1 / (abs(X) + sympy.Rational(3, 10))),
]


@pytest.mark.parametrize(("function", "expression"), PAIRS, ids=["root", "power", "rational", "abs"])
class TestTwoLanguages:
    """A formula in arithmetic read on a symbol, and a SymPy expression on numbers, are the same gain."""

    def test_the_function_reads_as_the_expression(self, function, expression):
        assert sympy.simplify(read(st.Method(gain=function).gain, X) - expression) == 0

    def test_the_expression_gives_the_functions_numbers_and_differences(self, function, expression):
        ours, theirs = st.Method(gain=function), st.Method(gain=expression)
        np.testing.assert_allclose(theirs.gains(SPECTRUM), ours.gains(SPECTRUM), rtol=1e-14)
        np.testing.assert_allclose(
            theirs.divided_differences(SPECTRUM), ours.divided_differences(SPECTRUM), rtol=1e-12
        )
        assert read(theirs.gain, X) == expression


@pytest.mark.parametrize("power", [-0.3, 0.7, 2.6, -1.9])
@pytest.mark.parametrize(
    "nodes", [(0.4, 0.4, 0.4), (0.4, 0.4 + 1e-9, 0.43), (0.4, 3.0, 0.7), (1.0, 1.15, 1.24), (0.8, 1.0, 1.0)]
)
def test_general_powers_have_exact_divided_differences(power, nodes):
    table = Divided.variable(*map(np.array, nodes)) ** power
    x, y, z = (mpmath.mpf(node) for node in nodes)
    with mpmath.workdps(60):
        f = [node**power for node in (x, y, z)]
        slope = lambda a, b, fa, fb: power * a ** (power - 1) if a == b else (fa - fb) / (a - b)  # noqa: E731
        first = [slope(x, y, f[0], f[1]), slope(y, z, f[1], f[2])]
        if x == z:
            second = power * (power - 1) * x ** (power - 2) / 2
        elif y == z:
            second = (first[0] - first[1]) / (x - z)
        else:
            second = (slope(x, z, f[0], f[2]) - first[0]) / (z - y)
    np.testing.assert_allclose([float(v) for v in table.first[:2]], [float(v) for v in first], rtol=1e-14)
    np.testing.assert_allclose(float(table.second), float(second), rtol=1e-13)


LAM = np.array([2.0, -1.3, 0.7, 0.25, -0.4])
CHOICES = {  # a gain with a function or a choice in it: its literal form, slope and half second derivative
    "exp": (
        lambda x: np.exp(-(x**2)),
        lambda x: np.exp(-(x**2)),
        lambda x: -2 * x * np.exp(-(x**2)),
        lambda x: (2 * x**2 - 1) * np.exp(-(x**2)),
    ),
    "tanh": (
        lambda x: np.tanh(x / 0.3),
        lambda x: np.tanh(x / 0.3),
        lambda x: 1 / (0.3 * np.cosh(x / 0.3) ** 2),
        lambda x: -np.tanh(x / 0.3) / (0.09 * np.cosh(x / 0.3) ** 2),
    ),
    "log": (
        lambda x: np.log(2 + x),
        lambda x: np.log(2 + x),
        lambda x: 1 / (2 + x),
        lambda x: -0.5 / (2 + x) ** 2,
    ),
    "sign": (lambda x: np.sign(x) * x**2, lambda x: x * abs(x), lambda x: 2 * abs(x), lambda x: np.sign(x)),
    "minimum": (
        lambda x: np.minimum(1 / abs(x), 2.0),
        lambda x: 1 / np.clip(abs(x), 0.5, None),
        lambda x: np.where(abs(x) > 0.5, -np.sign(x) / x**2, 0.0),
        lambda x: (abs(x) > 0.5) / abs(x) ** 3,
    ),
    "maximum": (
        lambda x: 1 / np.maximum(abs(x), 0.5),
        lambda x: 1 / np.clip(abs(x), 0.5, None),
        lambda x: np.where(abs(x) > 0.5, -np.sign(x) / x**2, 0.0),
        lambda x: (abs(x) > 0.5) / abs(x) ** 3,
    ),
    "clip": (
        lambda x: np.clip(x, -0.5, 1.0) ** 2,
        lambda x: np.select([x < -0.5, x > 1], [0.25, 1.0], x**2),
        lambda x: np.where((x < -0.5) | (x > 1), 0.0, 2 * x),
        lambda x: np.where((x < -0.5) | (x > 1), 0.0, 1.0),
    ),
    "where": (
        lambda x: np.where(x > 0, 1 / (x + 0.1), 10.0 + x),
        lambda x: np.select([x > 0], [1 / (x + 0.1)], 10 + x),
        lambda x: np.select([x > 0], [-1 / (x + 0.1) ** 2], 1.0),
        lambda x: np.select([x > 0], [1 / (x + 0.1) ** 3], 0.0),
    ),
    "indicator": (
        lambda x: (x > 0.5) * x + 3.0 * ((x <= 0.5) & ~(x < -1)),
        lambda x: np.select([x > 0.5, x < -1], [x, 0.0], 3.0),
        lambda x: np.select([x > 0.5], [1.0], 0.0),
        lambda x: 0.0 * x,
    ),
}


@pytest.mark.parametrize("name", CHOICES)
class TestFunctionsAndChoices:
    """NumPy's functions, comparisons and choices in a gain: every reader has the literal closed form."""

    def test_numbers_and_divided_differences(self, name):
        gain, literal, slope, _ = CHOICES[name]
        method = st.Method(gain)
        phi, gap = literal(LAM), LAM[:, None] - LAM[None, :] + np.eye(5)
        np.testing.assert_allclose(method.gains(LAM), phi, rtol=1e-15)
        expected = (phi[:, None] - phi[None, :]) / gap + np.diag(slope(LAM))
        np.testing.assert_allclose(method.divided_differences(LAM), expected, rtol=1e-13, atol=1e-15)

    def test_repeated_eigenvalues_take_the_limit(self, name):
        gain, _, slope, half = CHOICES[name]
        for x in LAM:
            close = x * (1 + np.array([0.0, 0.0, 1e-9, -3e-13]))
            expected = np.full((4, 4), slope(x))
            np.testing.assert_allclose(st.Method(gain).divided_differences(close), expected, rtol=1e-7)
            table = Divided.of(gain, *[np.array(x)] * 3)
            np.testing.assert_allclose(table.second + 0.0, half(x), rtol=1e-13, atol=1e-15)

    def test_symbols(self, name):
        gain, literal, slope, _ = CHOICES[name]
        formula = read(st.Method(gain).gain, X)
        for found, expected in ((formula, literal), (sympy.diff(formula, X), slope)):
            numbers = [float(found.subs(X, sympy.Rational(str(x)))) for x in LAM]
            np.testing.assert_allclose(numbers, expected(LAM) + 0 * LAM, rtol=1e-13, atol=1e-15)

    def test_a_sympy_gain_of_the_same_formula(self, name):
        gain, literal, _, _ = CHOICES[name]
        ours, theirs = st.Method(gain), st.Method(read(st.Method(gain).gain, X))
        np.testing.assert_allclose(theirs.gains(LAM), literal(LAM) + 0 * LAM, rtol=1e-14)
        np.testing.assert_allclose(
            theirs.divided_differences(LAM), ours.divided_differences(LAM), rtol=1e-12, atol=1e-14
        )
        assert read(theirs.gain, X) == read(ours.gain, X)

    def test_arrays_of_another_namespace(self, name):
        strict = pytest.importorskip("array_api_strict")
        gain, literal, slope, _ = CHOICES[name]
        response = SpectralResponse(st.Method(gain), strict.asarray(LAM))
        np.testing.assert_allclose(np.asarray(response.gains), literal(LAM) + 0 * LAM, rtol=1e-14)
        np.testing.assert_allclose(np.diag(np.asarray(response.divided)), slope(LAM) + 0 * LAM, rtol=1e-13)

    @pytest.mark.skipif(not _fast.available(), reason="Numba is not installed, or does not compile")
    @pytest.mark.filterwarnings("ignore::stability.StabilityWarning")
    def test_compiled_or_not_paths_have_the_same_bits(self, name):
        flow = st.Flow(
            st.landscape("double_well"), st.Method(CHOICES[name][0]), st.Noise(gradient=0.2), step=0.02
        )
        options = {"start": [0.9, 0.3], "t_end": 0.2, "paths": 64, "seed": 1, "radius": 5.0}
        found = [st.simulate(flow, accelerate=yes, **options).states for yes in (True, False)]
        np.testing.assert_array_equal(*found)


def exact_differences(function, nodes):
    """First and second divided difference in 90 digits; equal nodes are moved by 1e-25."""
    with mpmath.workdps(90):
        x = [mpmath.mpf(float(node)) * (1 + i * mpmath.mpf(10) ** -25) for i, node in enumerate(nodes)]
        f = [function(one) for one in x]
        first = [(f[1] - f[0]) / (x[1] - x[0]), (f[2] - f[1]) / (x[2] - x[1])]
        return float(first[0]), float((first[1] - first[0]) / (x[2] - x[0]))


@pytest.mark.parametrize(
    ("function", "exact"),
    [
        (np.exp, mpmath.exp),
        (np.tanh, mpmath.tanh),
        (lambda x: np.log(abs(x)), lambda x: mpmath.log(abs(x))),
        (lambda x: np.sqrt(abs(x)), lambda x: mpmath.sqrt(abs(x))),
        (lambda x: abs(x) ** -0.3, lambda x: abs(x) ** mpmath.mpf(-0.3)),
        (lambda x: np.maximum(x, 0.3), lambda x: max(x, mpmath.mpf(0.3))),
        (lambda x: np.minimum(x * x, 0.3), lambda x: min(x * x, mpmath.mpf(0.3))),
        (lambda x: np.where(x < 0.3, x * x, np.exp(x)), lambda x: x * x if x < 0.3 else mpmath.exp(x)),
    ],
    ids=["exp", "tanh", "log", "sqrt", "power", "maximum", "minimum", "where"],
)
@pytest.mark.parametrize(
    "nodes",
    [
        (0.7, 0.7, 0.7),
        (0.7, 0.7 + 1e-9, 0.7 - 3e-12),
        (-2.0, -2.0, -1.3),
        (-1.0, 0.25, 4.0),
        (5.0, 1e-10, 2e-3),
        (0.35, 0.29, 0.31),
        (-9.0, -9.5, -8.9),
    ],
    ids=str,
)
def test_functions_have_divided_differences_to_rounding(function, exact, nodes):
    table = Divided.of(function, *map(np.array, nodes))
    first, second = exact_differences(exact, nodes)
    np.testing.assert_allclose(float(table.first[0] + 0.0), first, rtol=1e-14, atol=1e-300)
    # Of a second difference whose terms cancel, the digits are those of the terms.
    scale = max(abs(float(v + 0.0)) for v in table.first) / max(np.ptp(nodes), 0.1)
    np.testing.assert_allclose(float(table.second + 0.0), second, rtol=1e-13, atol=1e-14 * scale)


class TestKinks:
    def test_at_a_kink_the_slope_is_the_mean_of_both_sides(self):
        for gain, slope in (
            (lambda x: np.maximum(x, 0.5), 0.5),
            (lambda x: np.minimum(x, 0.5), 0.5),
            (lambda x: np.maximum(3 * x, 1 + x), 2.0),
        ):
            assert Divided.of(gain, *[np.array(0.5)] * 2).first[0] == slope

    def test_a_clipped_newton_gain_is_regular_at_zero(self):
        method = st.Method(lambda x: np.minimum(1 / abs(x), 10.0), name="clipped Newton")
        with np.errstate(divide="ignore"):
            found = method.divided_differences(np.array([0.0, 0.0, 1.0]))
        np.testing.assert_allclose(found, [[0, 0, -9.0], [0, 0, -9.0], [-9.0, -9.0, -1.0]], rtol=1e-15)
        flow = st.Flow(st.quadratic([1.0, 0.01]), method, st.Noise(gradient=0.1, curvature=0.01), step=0.1)
        assert st.linearize(flow).step_limit() > 0

    @pytest.mark.slow
    def test_theorems_hold_for_a_gain_with_a_choice_and_a_function(self):
        for gain in (
            lambda lam, c: 1 / np.maximum(abs(lam), c),
            lambda lam, c: 1 / (lam * np.tanh(lam / c) + c),
            lambda lam, c: np.where(lam > 0, 1 / (lam + c), 1 / c),
        ):
            method = st.Method(gain, c=0.2)
            for name in ("noise-amplification", "mean-square-step-limit", "saddle-attraction"):
                assert st.theorem(name, method=method).check(points=5, ensemble=False)

    def test_a_parameter_may_stand_before_the_eigenvalue(self):
        for gain in (
            lambda lam, c: 1 / (c * lam + 0.1),
            lambda lam, c: np.exp(-c * abs(lam)),
            lambda lam, c: np.where(c > lam, 1.0, 2.0),
            lambda lam, c: (c >= lam) * 1.0 + c * (c < lam),
        ):
            assert st.theorem("noise-amplification", method=st.Method(gain, c=0.7)).check(
                points=3, ensemble=False
            )

    def test_what_sympy_fails_on_is_a_sentence_and_a_pole_in_a_branch_holds_nowhere(self):
        method = st.Method(lambda lam: (lam > 0) * 1.0 + 2 * ((lam <= 0) & (lam > -5)))
        with pytest.raises(ValueError, match=r"SymPy cannot derive 'bounded-sfn-step' .*Use st\.linearize"):
            st.theorem("bounded-sfn-step", method=method)
        assert st.theorem("saddle-attraction", method=method).check(points=5, ensemble=False)


class TestUsersWords:
    """What cannot be read is told in the words of the formula's writer."""

    @pytest.mark.parametrize(
        ("gain", "message"),
        [
            (lambda lam: np.sin(lam), "it uses sin"),
            (lambda lam: np.linalg.norm(lam), "it uses norm"),
            (lambda lam: np.add(lam, 1.0, where=True), "it uses add with options"),
            (lambda lam: math.exp(lam), "as a float, as functions of `math` do; use numpy's"),
            (lambda lam: float(lam > 0), "as a float"),
            (lambda lam: 1.0 if lam > 0 else 2.0, r"it decides with `if`.*use numpy\.where"),
            (lambda lam: max(lam, 1.0), r"`max`; use numpy\.where"),
            (lambda lam: 0.1 < lam < 2, "it decides with"),
            (lambda lam: lam.real, r"it asks the eigenvalue for `\.real`"),
            (lambda lam: lam > 0, "must give a number; got a comparison"),
            (lambda lam: "x", "must give a number; got str"),
            (lambda lam: np.array([lam, lam]), "must give a number; got ndarray"),
            (lambda lam: nowhere(lam), "it raises NameError: name 'nowhere'"),  # noqa: F821
            (lambda lam, g: lam + g, "it raises TypeError: .*missing 1 required positional argument: 'g'"),
            (lambda lam: 2**lam, "may raise to fixed powers only"),
            (lambda lam: lam if isinstance(lam, np.ndarray) else {}[0], r"not as a formula \(KeyError\)"),
        ],
    )
    def test_messages(self, gain, message):
        with pytest.raises(ValueError, match=message) as caught:
            st.Method(gain)
        assert "Divided" not in str(caught.value)

    def test_the_gain_may_come_first_without_its_name(self):
        assert st.Method(lambda lam: 1 / (abs(lam) + 0.5)).gain(0.5) == 1.0
        with pytest.raises(TypeError, match="argument: 'gain'"):
            st.Method()


class TestSympyParameters:
    g, x = sympy.Symbol("g", positive=True), sympy.Symbol("lam", real=True)

    def test_a_sympy_gain_takes_named_parameters(self):
        ours, theirs = st.Method(1 / (abs(self.x) + self.g), g=0.1, name="mine"), st.SFN(damping=0.1)
        np.testing.assert_allclose(ours.gains(SPECTRUM), theirs.gains(SPECTRUM), rtol=1e-15)
        np.testing.assert_allclose(
            ours.divided_differences(SPECTRUM), theirs.divided_differences(SPECTRUM), rtol=1e-13
        )
        assert ours.parameters == {"g": 0.1}
        assert ours.with_parameters(g=0.3).gain(0.7) == pytest.approx(1.0)
        theorem = st.theorem("noise-amplification", method=ours)
        assert {s.name for s in theorem.statement.rhs.free_symbols} >= {"alpha", "sigma", "lambda"}
        assert theorem.evaluate(lam=0.4, step=0.1, sigma=1.0) == pytest.approx(0.1 / (2 * 0.4 * 0.5))
        assert theorem.evaluate(lam=0.4, step=0.1, sigma=1.0, **{theorem.mode.names["g"]: 0.6}) == (
            pytest.approx(0.1 / (2 * 0.4 * 1.0))
        )

    def test_a_truncated_sympy_method_shares_its_parameters(self):
        method = st.Method(1 / (abs(self.x) + self.g), tail_gain=1 / self.g, rank=1, g=0.5)
        np.testing.assert_allclose(method.gains([2.0, 0.1]), [0.4, 2.0])

    def test_an_equation_is_one_for_symbols_too(self):
        gain = lambda lam: np.where(lam == 0.25, 1.0, np.where(lam != 0.5, 2.0, 3.0))  # noqa: E731
        formula = read(st.Method(gain).gain, X)
        values = np.array([0.25, 0.5, 0.7])
        np.testing.assert_array_equal(st.Method(gain).gains(values), [1.0, 3.0, 2.0])
        assert [formula.subs(X, sympy.Rational(str(x))) for x in values] == [1, 3, 2]

    def test_parameters_that_do_not_fit_are_refused(self):
        with pytest.raises(ValueError, match=r"`h` must be a symbol of the gain; got 1/\(Abs\(lam\)"):
            st.Method(1 / (abs(self.x) + 0.1), h=0.1)
        with pytest.raises(ValueError, match=r"`g` must be what its symbol assumes, > 0; got -0\.1"):
            st.Method(1 / (abs(self.x) + self.g), g=-0.1)
        with pytest.raises(ValueError, match=r"`g` must be what its symbol assumes, > 0; got 0"):
            st.Method(1 / (abs(self.x) + self.g), g=0.0)


class TestGallery:
    """The literal closed forms once more, and that a truncated user's method is truncated as LRSFN is."""

    def test_gains(self):
        x = np.array([2.0, -0.5])
        np.testing.assert_allclose(st.gallery.rsfn(eps=0.04).gains(x), 1 / np.sqrt(x**2 + 0.04), rtol=1e-15)
        np.testing.assert_allclose(
            st.gallery.natural_gradient(variance=3.0, eps=0.2).gains(x), 1 / (3 * x + 0.2), rtol=1e-15
        )
        np.testing.assert_allclose(st.gallery.fractional(power=0.3).gains(x), np.abs(x) ** -0.3, rtol=1e-15)

    def test_newsamp_is_the_undamped_limit_of_the_flat_tail_on_positive_spectra(self):
        lam = np.array([2.0, 1.1, 0.4, 0.1])
        ours, theirs = st.gallery.newsamp(rank=2), st.LRSFN(rank=2, damping=1e-13, tail="flat")
        np.testing.assert_allclose(ours.gains(lam), [1 / 2.0, 1 / 1.1, 1 / 0.4, 1 / 0.4], rtol=1e-15)
        np.testing.assert_allclose(
            ours.divided_differences(lam), theirs.divided_differences(lam), rtol=1e-10, atol=1e-12
        )
        assert ours.label == "NewSamp(2)"
        with pytest.raises(TypeError, match="has no tail"):
            st.gallery.rsfn(eps=1.0).tail_gain(1.0)

    def test_bad_parameters_are_refused(self):
        for make in (
            lambda: st.gallery.rsfn(eps=0.0),
            lambda: st.gallery.natural_gradient(variance=-1.0, eps=1.0),
            lambda: st.gallery.fractional(power=np.inf),
            lambda: st.gallery.newsamp(rank=0),
        ):
            with pytest.raises(ValueError, match="must be"):
                make()


def test_a_flow_of_a_fractional_power_refuses_a_flat_direction():
    flow = st.Flow(
        st.quadratic([1.0, 0.0]), st.gallery.fractional(power=0.3), st.Noise(gradient=1.0), step=0.1
    )
    with pytest.raises(ValueError, match="singular for fractional power along 1 of 2"):
        st.linearize(flow, at=[0.0, 0.0])


def test_singular_directions_are_counted():
    lam = np.array([1.0, 0.5, 0.0, 1e-18])
    assert singular_directions(st.Newton(), lam) == 2
    assert singular_directions(st.DampedNewton(damping=0.5), np.array([1.0, -0.5])) == 1
    assert singular_directions(st.SFN(damping=1e-3), lam) == 0
