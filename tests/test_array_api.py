"""Objectives, gains and divided differences on every library's arrays: NumPy's numbers, type and device."""

import operator
from dataclasses import replace

import numpy as np
import pytest

import stability as st
from stability._array import Backend, as_floats, diagonal_matrix, moved, namespace, take_rows
from stability.methods.divided import Divided
from stability.methods.response import SpectralResponse

TOLERANCE = {"float64": 1e-13, "float32": 2e-5}
DTYPES = pytest.mark.parametrize("dtype", TOLERANCE)


def data():
    rng = np.random.default_rng(5)
    return rng.standard_normal((30, 3)), rng.standard_normal(30)


def objectives():
    X, y = data()
    return {
        "quadratic": st.quadratic([1.0, -0.5, 0.1], rotation_seed=2),
        "diagonal_quadratic": st.quadratic([1.0, -0.5, 0.1]),
        "double_well": st.landscape("double_well", dim=3),
        "double_well_1": st.landscape("double_well", dim=1),
        "coupled_quartic": st.landscape("coupled_quartic", dim=3),
        "monkey_saddle": st.landscape("monkey_saddle"),
        "rosenbrock": st.landscape("rosenbrock", dim=4),
        "michalewicz": st.landscape("michalewicz", dim=3),
        "logistic": st.logistic(X, y > 0, l2=0.1),
        "least_squares": st.least_squares(X, y, l2=0.1),
        "three classes": st.logistic(X, np.digitize(y, [-0.4, 0.4]), l2=0.1),
    }


DIAGONAL = {"diagonal_quadratic", "double_well", "double_well_1", "michalewicz"}
REGRESSIONS = ("logistic", "least_squares", "three classes")
LANDSCAPES = ("double_well", "double_well_1", "coupled_quartic", "monkey_saddle", "rosenbrock", "michalewicz")


def rounded(values, dtype):
    """Host numbers that `dtype` holds exactly, so that inputs are the same everywhere."""
    return np.asarray(values, dtype=dtype).astype(float)


def assert_agree(backend, got, expected, beside):
    """`got` is an array like `beside`, with the numbers `expected`, up to the rounding of its type."""
    assert type(got) is type(beside)
    assert got.dtype == beside.dtype
    assert got.device == beside.device
    assert got.shape == np.shape(expected)
    tolerance = TOLERANCE[backend.dtype]
    np.testing.assert_allclose(
        backend.host(got), expected, rtol=tolerance, atol=tolerance * np.max(np.abs(expected), initial=1e-3)
    )


def states(backend, layout, dim, rng):
    """Host states and the same on the backend: one, five, or five as the transpose of a (d, 5) array."""
    host = rounded(rng.uniform(0.2, 1.4, (dim,) if layout == "one" else (5, dim)), backend.dtype)
    return host, backend.asarray(host.T).T if layout == "transposed" else backend.asarray(host)


@pytest.mark.usefixtures("no_sync")
class TestObjectives:
    @pytest.mark.parametrize("layout", ["one", "five", "transposed"])
    @DTYPES
    @pytest.mark.parametrize("name", objectives())
    def test_derivatives_are_numpys(self, xp_backend, name, dtype, layout, rng):
        backend, host = replace(xp_backend, dtype=dtype), objectives()[name]
        here = moved(host, backend)
        w0, w = states(backend, layout, host.dim, rng)
        v0, V0 = (
            rounded(rng.standard_normal(w0.shape), dtype),
            rounded(rng.standard_normal((*w0.shape, 2)), dtype),
        )
        v, V = backend.asarray(v0), backend.asarray(V0)
        for part, got in (
            ("value", here.value(w)),
            ("gradient", here.gradient(w)),
            ("hessian", here.hessian(w)),
        ):
            assert_agree(
                backend,
                got if part != "value" or layout != "one" else namespace(w).asarray(got),
                getattr(host, part)(w0),
                w,
            )
        assert_agree(backend, here.third(w, v), host.third(w0, v0), w)
        assert_agree(backend, here.hvp(w, V), host.hvp(w0, V0), w)
        np.testing.assert_array_equal(backend.host(w), w0)  # nothing wrote into the states

    @pytest.mark.parametrize("layout", ["one", "five", "transposed"])
    @DTYPES
    @pytest.mark.parametrize("name", sorted(DIAGONAL))
    def test_diagonal_hessians(self, xp_backend, name, dtype, layout, rng):
        backend, host = replace(xp_backend, dtype=dtype), objectives()[name]
        w0, w = states(backend, layout, host.dim, rng)
        assert_agree(
            backend,
            moved(host, backend).hessian_diagonal(w),
            np.diagonal(host.hessian(w0), axis1=-2, axis2=-1),
            w,
        )

    @pytest.mark.parametrize("shared", [True, False])
    @DTYPES
    @pytest.mark.parametrize("name", REGRESSIONS)
    def test_batches_of_samples(self, xp_backend, name, dtype, shared, rng):
        backend, host = replace(xp_backend, dtype=dtype), objectives()[name]
        here = moved(host, backend)
        w0, w = states(backend, "five", host.dim, rng)
        v0, V0 = (rounded(rng.standard_normal((5, host.dim, *k)), dtype) for k in ((), (2,)))
        v, V = backend.asarray(v0), backend.asarray(V0)
        batch0 = rng.integers(0, 30, 4 if shared else (5, 4))
        batch = backend.indices(batch0)
        for part in ("value", "gradient", "hessian", "per_sample_gradient", "per_sample_hessian"):
            assert_agree(
                backend, getattr(here, part)(w, batch=batch), getattr(host, part)(w0, batch=batch0), w
            )
        assert_agree(backend, here.third(w, v, batch=batch), host.third(w0, v0, batch=batch0), w)
        assert_agree(backend, here.hvp(w, V, batch=batch), host.hvp(w0, V0, batch=batch0), w)
        assert_agree(backend, here.per_sample_gradient(w), host.per_sample_gradient(w0), w)


@pytest.mark.parametrize("name", objectives())
def test_the_hessian_is_called_diagonal_where_it_is(name, rng):
    objective = objectives()[name]
    w = rng.uniform(0.2, 1.4, (5, objective.dim))
    hessian = objective.hessian(w)
    assert objective.diagonal_hessian == (name in DIAGONAL)
    assert objective.diagonal_hessian == np.array_equal(hessian, hessian * np.eye(objective.dim))
    assert st.check_derivatives(objective, w[0]).ok
    if not objective.diagonal_hessian:
        with pytest.raises(TypeError, match="lacks hessian_diagonal"):
            objective.hessian_diagonal(w)


def test_a_users_diagonal_hessian_needs_its_diagonal_only():
    class Quartic(st.Objective):
        dim, diagonal_hessian = 2, True

        def hessian_diagonal(self, w):
            return 3 * w**2

    np.testing.assert_array_equal(Quartic().hessian(np.array([[1.0, 2.0]])), [[[3.0, 0.0], [0.0, 12.0]]])
    with pytest.raises(TypeError, match=r"lacks hessian, .*Give it hessian\(w\) of shape"):
        st.Objective().hessian(np.zeros(2))


@pytest.mark.parametrize("name", LANDSCAPES)
def test_gradients_lie_in_memory_as_their_states_do(name, rng):
    objective = objectives()[name]
    states = rng.uniform(0.2, 1.4, (objective.dim, 5)).T
    for found in (
        objective.gradient(states),
        objective.hessian_diagonal(states) if objective.diagonal_hessian else states,
    ):
        assert found.T.flags.c_contiguous
        assert found.flags.owndata or found is states
    assert objective.gradient(np.ascontiguousarray(states)).flags.c_contiguous


def methods():
    root, constant = lambda lam: 1 / np.sqrt(lam**2 + 0.1), np.float64(0.1)
    return [
        st.SGD(),
        st.Newton(),
        st.DampedNewton(damping=0.3),
        st.SFN(damping=0.3),
        st.LRSFN(rank=1, damping=0.3),
        st.LRSFN(rank=1, damping=0.3, tail="flat"),
        st.LRSFN(rank=2, damping=0.3, tail="flat"),
        st.gallery.rsfn(eps=0.1),
        st.gallery.newsamp(rank=1),
        st.gallery.natural_gradient(variance=2.0, eps=0.1),
        st.gallery.fractional(power=0.3),
        st.gallery.fractional(power=0.5),
        st.Method(gain=root, name="root"),
        st.Method(gain=lambda lam: 2.0, name="constant"),
        st.Method(gain=lambda lam: constant / (constant + abs(lam) - constant**2), name="NumPy's numbers"),
        st.Method(gain=root, rank=2, tail_gain=root, name="truncated root"),
        st.Method(gain=root, rank=2, tail_gain=lambda lam: 2.0, name="constant tail"),
        st.Method(gain=lambda lam: 1 / (lam**2 + abs(lam) ** 1.5 - -lam + 2) - +lam, name="arithmetic"),
    ]


METHODS = pytest.mark.parametrize("method", methods(), ids=lambda m: m.label.replace(" ", "-"))
SPECTRA = {
    "one": np.array([0.1, -0.9, 0.7, 1.4]),
    "some": np.array([[0.1, -0.9, 0.7, 1.4], [3.0, 1.0, 2.0, -0.5], [-2.5, 0.3, -0.2, 1.1]]),
    "repeated": np.array([[0.2, 1.1, 0.2, -0.7], [0.2, 0.2, 1.9, 0.7]]),
}


@pytest.mark.usefixtures("no_sync")
class TestSpectra:
    @pytest.mark.parametrize("spectrum", SPECTRA)
    @DTYPES
    @METHODS
    def test_gains_and_derivatives_are_numpys(self, xp_backend, method, dtype, spectrum, rng):
        backend, lams0 = replace(xp_backend, dtype=dtype), rounded(SPECTRA[spectrum], dtype)
        noise0 = rounded(rng.standard_normal((*lams0.shape, 4)), dtype)
        lams, noise = backend.asarray(lams0), backend.asarray(noise0)
        here, host = SpectralResponse(method, lams), SpectralResponse(method, lams0)
        assert_agree(backend, here.gains, host.gains, lams)
        assert_agree(backend, here.divided, host.divided, lams)
        assert_agree(backend, here.derivative(noise), host.derivative(noise0), lams)
        assert here.flat is host.flat

    @pytest.mark.parametrize("tail", ["damping", "flat"])
    def test_equal_sizes_are_ranked_by_position(self, xp_backend, tail):
        method = st.LRSFN(rank=2, damping=0.5, tail=tail)
        lams = xp_backend.asarray([[1.0, -2.0, 2.0, -1.0], [-1.0, 1.0, -1.0, 1.0], [0.5, 1.0, -1.0, 1.0]])
        response, rest = (
            SpectralResponse(method, lams),
            {"damping": [2.0, 2.0, 2.0], "flat": [1 / 1.5] * 3}[tail],
        )
        kept = np.array([[False, True, True, False], [True, True, False, False], [False, True, True, False]])
        np.testing.assert_array_equal(xp_backend.host(response.kept), kept)
        np.testing.assert_array_equal(xp_backend.host(response.next), [0, 2, 3])
        expected = np.where(kept, 1 / (np.abs(xp_backend.host(lams)) + 0.5), np.array(rest)[:, None])
        np.testing.assert_allclose(xp_backend.host(response.gains), expected, rtol=1e-15)

    def test_noise_may_have_more_axes_than_the_spectrum(self, xp_backend, rng):
        method, lams0, noise0 = (
            st.LRSFN(rank=1, damping=0.3, tail="flat"),
            SPECTRA["one"],
            rng.standard_normal((3, 4, 4)),
        )
        lams = xp_backend.asarray(lams0)
        expected = SpectralResponse(method, lams0).derivative(noise0)
        assert_agree(
            xp_backend, SpectralResponse(method, lams).derivative(xp_backend.asarray(noise0)), expected, lams
        )


@METHODS
def test_divided_differences_are_difference_quotients(method):
    lams = SPECTRA["one"]
    gains, table = method.gains(lams), SpectralResponse(method, lams)
    i, j = (0, 1) if method.rank is None else (1, 3)  # with a rank, across the cut or in the kept part
    np.testing.assert_allclose(
        table.divided[i, j], (gains[i] - gains[j]) / (lams[i] - lams[j]), rtol=1e-12, atol=1e-15
    )


def test_at_one_node_a_formula_has_values_only():
    table = methods()[-1].gain(Divided.variable(SPECTRA["one"]))
    np.testing.assert_allclose(table.value[0], methods()[-1].gain(SPECTRA["one"]), rtol=1e-14)
    assert (len(table.value), table.first, table.second) == (1, (), None)


def test_a_plain_gain_is_not_copied():
    lams, gains = np.array([[0.1, 2.0]]), np.array([[3.0, 4.0]])
    assert (
        SpectralResponse(
            st.Method(gain=lambda lam: gains if isinstance(lam, np.ndarray) else lam), lams
        ).gains
        is gains
    )


class TestMoving:
    def test_the_minimum_goes_along_once_it_is_known(self, xp_backend):
        host = objectives()["logistic"]
        with (
            pytest.raises(TypeError, match="read `reference` before the objective is moved")
            if xp_backend.name != "numpy"
            else np.errstate()
        ):
            _ = moved(host, xp_backend).reference
        expected = host.reference
        assert_agree(xp_backend, moved(host, xp_backend).reference, expected, xp_backend.asarray(expected))
        assert host.reference is expected

    def test_numbers_and_read_only_arrays_keep_their_shape(self, xp_backend):
        for values in (np.array(2.0), np.broadcast_to(1.5, (2, 3)), np.arange(6.0).reshape(2, 3).T):
            fixed = values.copy()
            fixed.flags.writeable = False
            assert_agree(xp_backend, xp_backend.asarray(fixed), values, xp_backend.asarray([0.0]))

    def test_rows_and_diagonals(self, xp_backend):
        table, index = np.arange(12.0).reshape(4, 3), np.array([[3, 0], [1, 1]])
        array = xp_backend.asarray(table)
        assert_agree(xp_backend, take_rows(array, xp_backend.indices(index)), table[index], array)
        assert_agree(xp_backend, diagonal_matrix(array), table[..., None] * np.eye(3), array)

    def test_a_float_stays_as_wide_as_it_is(self):
        assert as_floats(np.float32([1, 2])).dtype == np.float32
        assert (
            as_floats([1, 2]).dtype
            == as_floats(np.array([1, 2])).dtype
            == as_floats(np.int64(1)).dtype
            == np.float64
        )


class TestNothingIsReadFromTheDevice:
    """The fixture that the tests above run under, shown to bite."""

    @pytest.mark.parametrize("read", [float, int, bool, operator.index, np.asarray], ids=lambda f: f.__name__)
    @pytest.mark.usefixtures("no_sync")
    def test_reading_a_number_fails(self, read):
        strict = pytest.importorskip("array_api_strict")
        with pytest.raises(AssertionError, match="a number was read"):
            read(strict.asarray(1 if read is operator.index else 1.0))

    @pytest.mark.usefixtures("no_sync")
    def test_an_objective_that_looks_is_found_out(self):
        class Looking(st.Objective):
            dim = 1

            def gradient(self, w):
                return w if namespace(w).all(w > 0) else -w

        strict = pytest.importorskip("array_api_strict")
        with pytest.raises(AssertionError, match="a number was read"):
            Looking().gradient(Backend("array_api_strict", strict, strict.Device("device1")).asarray([1.0]))
