"""The one way in for arrays, and for what a user's functions give: nothing is lost on it without a word."""

import copy
import math
import pickle
import warnings
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest

import stability as st
from stability import _check
from stability.objectives.gate import Gated, bare, gated


class Users(st.Objective):
    """F = (w1^2 + w2^2 / 10) / 2, whose gradient a test replaces."""

    dim = 2
    scale = np.array([1.0, 0.1])

    def value(self, w):
        return 0.5 * np.sum(self.scale * w**2, axis=-1)

    def gradient(self, w):
        return self.scale * w

    def hessian(self, w):
        return np.broadcast_to(np.diag(self.scale), (*w.shape, 2))

    def hvp(self, w, V):
        return self.scale[:, None] * V


def users(**members):
    F = Users()
    for name, member in members.items():
        setattr(F, name, member)
    return F


def descend(F, **options):
    options = {"method": st.SGD(), "step": 0.1, "iterations": 3, **options}
    return st.minimize(F, [1.0, 0.5], **options)


def simulate(F, method=None, **options):
    flow = st.Flow(F, method or st.SGD(), st.Noise(gradient=0.1), step=0.1)
    return st.simulate(flow, start=[1.0, 0.5], t_end=1.0, paths=20, seed=0, **options)


MASKED = np.ma.masked_array([1.0, 1e6], [False, True])
ARRAYS = {
    "list": [1.0, 0.5],
    "tuple": (1.0, 0.5),
    "series": pd.Series([1.0, 0.5]),
    "float32": np.array([1.0, 0.5], np.float32),
    "float16": np.array([1.0, 0.5], np.float16),
    "longdouble": np.array([1.0, 0.5], np.longdouble),
    "objects": np.array([1.0, Fraction(1, 2)], object),
    "decimals": [Decimal(1), Decimal("0.5")],
    "strided": np.array([1.0, 0.0, 0.5])[::2],
    "big-endian": np.array([1.0, 0.5], ">f8"),
    "no mask": np.ma.masked_array([1.0, 0.5]),
}
NO_ARRAYS = {
    "masked": (MASKED, r"without a mask; 1 of its entries are masked.*numpy\.ma\.filled"),
    "masked in a list": ([np.ma.masked, 1.0], "without a mask; 1"),
    "masked rows": ([MASKED, MASKED], "without a mask; 2"),
    "complex": (np.array([1.0 + 0j, 0.5]), r"complex ones\. Pass \.real"),
    "complex objects": (np.array([1j, 0.5], object), "must be an array of numbers"),
    "text": (["1", "0.5"], r"must be an array of numbers; got \['1', '0.5'\]"),
    "dates": (np.array(["2020-01-01", "2020-01-02"], "M8[D]"), "must be an array of numbers"),
    "None": ([None, 1.0], "must be an array of numbers"),
    "missing": (pd.Series([1.0, None], dtype="Float64").astype(object), "must be an array of numbers"),
    "ragged": ([[1.0], [1.0, 2.0]], "must be an array of numbers"),
    "structured": (np.zeros(2, [("x", float)]), "structured_to_unstructured"),
}


class TestArrays:
    @pytest.mark.parametrize("value", ARRAYS.values(), ids=ARRAYS)
    def test_numbers_of_every_kind_are_read_and_not_written(self, value):
        kept = copy.deepcopy(value)
        found = _check.array("x", value)
        np.testing.assert_array_equal(found, [1.0, 0.5])
        assert found.dtype == float
        found += 1
        np.testing.assert_array_equal(np.asarray(value, dtype=float), np.asarray(kept, dtype=float))

    @pytest.mark.parametrize(("value", "message"), NO_ARRAYS.values(), ids=NO_ARRAYS)
    def test_what_would_lose_something_is_refused(self, value, message):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(ValueError, match=message):
                _check.array("x", value)

    def test_fixes_that_messages_name_work(self):
        assert _check.array("x", np.ma.filled(MASKED, 0.0))[1] == 0.0
        from numpy.lib.recfunctions import structured_to_unstructured

        assert _check.array("x", structured_to_unstructured(np.zeros(2, [("x", float)]))).shape == (2, 1)
        sparse = pytest.importorskip("scipy.sparse").csr_array(np.eye(2))
        with pytest.raises(ValueError, match=r"Pass a dense array: \.toarray\(\)"):
            st.quadratic(sparse)
        assert st.quadratic(sparse.toarray()).dim == 2

    def test_sparse_tensors_are_refused_with_the_fix(self):
        torch = pytest.importorskip("torch")
        sparse = torch.eye(2).to_sparse()
        with pytest.raises(ValueError, match=r"got tensor\(.*\. Pass a dense one: \.to_dense\(\)"):
            st.quadratic(sparse)
        assert st.quadratic(sparse.to_dense()).dim == 2

    def test_torch_tensors_are_read_whatever_their_type_and_graph(self):
        torch = pytest.importorskip("torch")
        for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
            given = torch.tensor([1.0, 0.5], dtype=dtype, requires_grad=True)
            np.testing.assert_array_equal(_check.array("x", given), [1.0, 0.5])
        np.testing.assert_array_equal(_check.array("x", torch.nn.Parameter(torch.ones(2))), [1.0, 1.0])
        with pytest.raises(ValueError, match=r"on the host; got one on meta\. Pass it as \.cpu\(\)"):
            _check.array("x", torch.ones(2, device="meta"))

    def test_masks_are_seen_wherever_arrays_are_given(self):
        table = np.ma.masked_greater(np.arange(12.0).reshape(6, 2), 10.0)
        for call in (
            lambda: st.least_squares(table, np.ones(6)),
            lambda: st.mlp(table, np.array([0, 1] * 3)),
            lambda: st.minimize(Users(), MASKED, method=st.SGD(), step=0.1, iterations=1),
            lambda: st.Noise(gradient=MASKED),
            lambda: st.tail_index(np.ma.masked_less(np.random.default_rng(0).normal(size=500), -2)),
        ):
            with pytest.raises(ValueError, match="without a mask"):
                call()


GRADIENTS = {
    "list": lambda w: w.tolist(),
    "column": lambda w: w[:, None],
    "row": lambda w: w[None],
    "one number": lambda w: np.array([5.0]),
    "number": lambda w: 5.0,
    "too many": lambda w: np.ones(3),
    "nothing": lambda w: None,
    "complex": lambda w: w + 5j,
    "masked": lambda w: np.ma.masked_array(w, [True, False]),
    "text": lambda w: w.astype(str),
}


class TestGate:
    @pytest.mark.parametrize("method", [st.SGD(), st.Adam(), st.SFN(damping=0.1)], ids=lambda m: m.label)
    @pytest.mark.parametrize(
        "gradient", [g for name, g in GRADIENTS.items() if name != "list"], ids=list(GRADIENTS)[1:]
    )
    def test_minimize_refuses_a_gradient_that_it_would_have_to_guess_at(self, gradient, method):
        with pytest.raises(ValueError, match=r"`gradient` must"):
            descend(users(gradient=gradient), method=method, check=False)

    def test_the_shape_that_a_message_names_works(self):
        with pytest.raises(ValueError, match=r"Return it with \.reshape\(\(2,\)\)"):
            descend(users(gradient=lambda w: (Users.scale * w)[:, None]))
        fixed = users(gradient=lambda w: (Users.scale * w)[:, None].reshape((2,)))
        np.testing.assert_array_equal(descend(fixed).final, descend(Users()).final)

    @pytest.mark.parametrize(
        "kind",
        [list, lambda g: g.astype(np.longdouble), lambda g: g.astype(object), pd.Series, np.asfortranarray],
        ids=["list", "longdouble", "objects", "series", "fortran"],
    )
    def test_what_can_be_read_gives_the_same_run(self, kind):
        F = users(gradient=lambda w: kind(Users.scale * w))
        for method in (st.SGD(), st.Adam(), st.LRSFN(rank=1, damping=0.1)):
            found, plain = (descend(one, method=method) for one in (F, Users()))
            np.testing.assert_array_equal(found.final, plain.final)
            assert found.final.dtype == float

    def test_torch_gradients_with_a_graph_give_the_same_run(self):
        torch = pytest.importorskip("torch")
        scale = torch.tensor(Users.scale, requires_grad=True)
        F = users(
            gradient=lambda w: scale * torch.tensor(w),
            value=lambda w: 0.5 * (scale * torch.tensor(w) ** 2).sum(-1),
            hvp=lambda w, V: scale[:, None] * torch.tensor(V),
            hessian=lambda w: torch.diag(scale).expand(*w.shape, 2),
        )
        for method in (st.SGD(), st.SFN(damping=0.1), st.LRSFN(rank=1, damping=0.1)):
            np.testing.assert_array_equal(
                descend(F, method=method).final, descend(Users(), method=method).final
            )
        np.testing.assert_array_equal(simulate(F).states, simulate(Users()).states)

    def test_whole_numbers_and_narrow_states_keep_their_type(self):
        whole = users(gradient=lambda w: np.ones(w.shape, int), value=lambda w: np.sum(w, axis=-1))
        np.testing.assert_allclose(descend(whole).final, [0.7, 0.2])
        wide = users(gradient=lambda w: (Users.scale * w).astype(np.float64))
        assert descend(wide, dtype="float32").final.dtype == np.float32

    @pytest.mark.parametrize(
        ("member", "wrong"),
        [
            ("hessian", lambda w: np.diag([1.0, 0.1]) + 0j),
            ("hessian", lambda w: np.ones((3, 3))),
            ("value", lambda w: np.array([1.0])),
            ("value", lambda w: 1j),
            ("value", lambda w: None),
        ],
    )
    def test_every_member_passes_it(self, member, wrong):
        with pytest.raises(ValueError, match=f"`{member}` must"):
            descend(users(**{member: wrong}), method=st.SFN(damping=0.1))

    def test_third_hvp_products_and_diagonals_pass_it_too(self):
        flow = st.Flow(users(third=lambda w, v: np.zeros(2)), st.SFN(damping=0.1), step=0.1)
        with pytest.raises(ValueError, match=r"`third` must have shape \(2, 2\)"):
            flow.jacobian([1.0, 1.0])
        with pytest.raises(ValueError, match="`hvp` must be an array of numbers; got complex"):
            descend(users(hvp=lambda w, V: V + 0j), method=st.LRSFN(rank=1, damping=0.1))
        F = users(products=lambda w: lambda V: V[:1])
        with pytest.raises(ValueError, match="`products` must have shape"):
            descend(F, method=st.LRSFN(rank=1, damping=0.1))
        with pytest.raises(ValueError, match="`products` must have shape"):
            st.spectrum(F, [1.0, 1.0])
        diagonal = users(diagonal_hessian=True, hessian_diagonal=lambda w: 1.0)
        with pytest.raises(ValueError, match="`hessian_diagonal` must have shape"):
            st.Flow(diagonal, st.SFN(damping=0.1), step=0.1).local(np.ones(2), bends=False)

    def test_samples_of_a_noise_class_pass_it(self):
        class Own(st.Noise):
            answer = staticmethod(
                lambda size: (np.zeros((size, 2)), np.zeros((size, 2, 2)), np.zeros((size, 2, 2)))
            )

            def sample(self, w, size, rng):
                return self.answer(size)

        def run(answer):
            noise = Own()
            noise.answer = answer
            flow = st.Flow(st.quadratic([1.0, 0.1]), st.SGD(), noise, step=0.1)
            return st.simulate(flow, start=[1.0, 0.5], t_end=1.0, paths=20)

        whole = Own().answer
        run(whole)
        for answer, message in (
            (lambda size: whole(size)[0], r"must give \(zeta, Eg, Eh\), three arrays; got ndarray"),
            (lambda size: (np.zeros(size), *whole(size)[1:]), r"`sample: zeta` must have shape"),
            (
                lambda size: (1j * whole(size)[0], *whole(size)[1:]),
                "`sample: zeta` must be an array of numbers",
            ),
            (lambda size: (*whole(size)[:2], np.ma.masked_equal(whole(size)[2], 0)), "`sample: Eh`.*mask"),
        ):
            with pytest.raises(ValueError, match=message):
                run(answer)

    def test_a_region_may_answer_with_a_tensor(self):
        torch = pytest.importorskip("torch", reason="torch is not installed")
        expected = simulate(Users(), exit=lambda w: np.abs(w[:, 0]) < 0.97).exit_times
        tensor = simulate(Users(), exit=lambda w: torch.as_tensor(np.abs(w[:, 0]) < 0.97))
        np.testing.assert_array_equal(tensor.exit_times, expected)

    @pytest.mark.parametrize(
        ("answer", "message"),
        [
            (lambda f: f + 1j, "must be an array of numbers; got complex"),
            (lambda f: np.ma.masked_array(f, mask=True), "must be an array without a mask"),
            (lambda f: np.atleast_1d(f), r"must have shape \(\); got shape \(1,\)\. Return it with .reshape"),
            (str, "must be an array of numbers; got '"),
            (np.float32, "must be computed in float64, as quadrature needs; got float32"),
            (np.log, r"must be >= 0; got -.* at E_h = .* Give the density itself, not its logarithm"),
        ],
    )
    def test_densities_pass_it(self, answer, message):
        def density(e):
            with np.errstate(all="ignore"):
                return answer(2.0 * math.exp(-min(4.0 * math.pi * e * e, 700.0)))

        noise = st.Noise(curvature=0.1)
        with pytest.raises(ValueError, match=f"`density` {message}"):
            st.exact_mode(st.SGD(), curvature=1.0, noise=noise, density=density)

    def test_a_density_may_have_constants_in_float32(self):
        def limit(spread):
            return st.exact_mode(
                st.SFN(damping=0.1),
                curvature=1.0,
                noise=st.Noise(curvature=0.1),
                density=lambda e: np.exp(-0.5 * (e / spread) ** 2) / (spread * math.sqrt(2 * math.pi)),
            ).mean_square_limit

        assert limit(np.float32(0.25)) == pytest.approx(limit(0.25), rel=1e-12)

    def test_regions_observables_and_random_matrices_pass_it(self):
        with pytest.raises(ValueError, match=r"`observables\['m'\]` must be an array without a mask"):
            simulate(Users(), observables={"m": lambda w: np.ma.masked_greater(w[:, 0], 0.0)})
        with pytest.raises(ValueError, match="`exit` must be an array without a mask"):
            simulate(Users(), exit=lambda w: np.ma.masked_greater(w[:, 0], 0.0) < 1)
        expected = simulate(Users(), exit=lambda w: w[:, 0] > 0.5).exit_times
        listed = simulate(Users(), exit=lambda w: [bool(x) for x in w[:, 0] > 0.5])
        np.testing.assert_array_equal(listed.exit_times, expected)
        with pytest.raises(ValueError, match="must be an array of numbers; got complex"):
            st.lyapunov_exponents(lambda rng, size: 1j * rng.normal(size=(size, 2, 2)), iterations=200)
        with pytest.raises(ValueError, match="`hvp` must be an array without a mask"):
            st.randomized_eigh(lambda V: np.ma.masked_greater(V, 0.0), 9, 2)

    def test_gains_pass_it(self):
        with pytest.raises(ValueError, match="`gain` must be an array of numbers; got complex ones"):
            st.Method(gain=lambda lam, eps: 1j / (lam + eps), eps=0.1)

        class Imaginary(st.SGD):
            is_identity = False

            def gain(self, lam):
                return 1j * lam

        with pytest.raises(ValueError, match="`gain` must be an array of numbers; got complex ones"):
            simulate(Users(), Imaginary())
        with pytest.raises(ValueError, match="`gain` must be an array of numbers; got complex ones"):
            st.exact_mode(Imaginary(), curvature=1.0, noise=st.Noise(curvature=0.5))

        class Short(Imaginary):
            def gain(self, lam):
                return np.ones(5)

        with pytest.raises(ValueError, match=r"`gain` must give one number per eigenvalue, shape \(2,\)"):
            st.linearize(st.Flow(st.quadratic([1.0, 0.1]), Short(), step=0.1))

    def test_per_sample_derivatives_pass_it(self):
        F = st.least_squares(np.random.default_rng(0).normal(size=(20, 2)), np.ones(20))
        F.reference  # noqa: B018 - found before the gradient is spoilt
        F.per_sample_gradient = lambda w, batch: np.zeros((len(batch), 1))
        with pytest.raises(ValueError, match=r"`per_sample_gradient` must have shape \(\d+, 2\)"):
            st.linearize(st.Flow(F, st.SGD(), st.Noise.from_data(F, batch=4), step=0.1)).covariance()

    def test_objectives_of_the_package_need_no_gate_and_others_are_themselves_behind_it(self):
        F, own = st.quadratic([1.0]), Users()
        assert gated(F) is F
        assert bare(gated(own)) is own
        assert repr(gated(own)) == repr(own)
        twice = gated(gated(own))
        assert bare(twice) is own
        assert gated(own).scale is Users.scale
        assert isinstance(copy.copy(gated(own)), Gated)
        sent = pickle.loads(pickle.dumps(gated(own)))  # noqa: S301 - our own bytes
        np.testing.assert_array_equal(sent.gradient(np.ones(2)), Users.scale)


WRONG = {
    "twice": lambda w: 2 * Users.scale * w,
    "sign": lambda w: -Users.scale * w,
    "zero": lambda w: 0 * w,
    "one part": lambda w: Users.scale * w * [1.0, 1.2],
    "offset": lambda w: Users.scale * w + 0.01,
}


class TestProbe:
    @pytest.mark.parametrize("gradient", WRONG.values(), ids=WRONG)
    @pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
    def test_a_gradient_of_another_function_is_told(self, gradient, scale):
        F = users(
            value=lambda w: Users.value(Users, w / scale),
            gradient=lambda w: gradient(w / scale) / scale,
            hessian=lambda w: Users.hessian(Users, w) / scale**2,
        )
        start = scale * np.array([1.0, 0.5])
        with pytest.warns(
            st.StabilityWarning, match=r"`gradient` is not the derivative of `value`.*check=False"
        ):
            st.minimize(F, start, method=st.SGD(), step=1e-3 * scale**2, iterations=1)
        flow = st.Flow(F, st.SGD(), step=1e-3 * scale**2)
        with pytest.warns(st.StabilityWarning, match="`gradient` is not the derivative"):
            st.simulate(flow, start=start, t_end=flow.step, paths=2)

    def test_it_can_be_switched_off_and_is_not_counted(self):
        asked = []
        F = users(value=lambda w: asked.append(1) or Users.value(Users, w))
        found = descend(F)
        assert found.stats["gradients"] == 3
        assert 0 < len(asked) - 5 <= 40
        asked.clear()
        assert descend(F, check=False).stats["sweeps"] == found.stats["sweeps"]
        assert len(asked) == 5  # of three iterations, the start and the end
        np.testing.assert_array_equal(descend(F).final, descend(F, check=False).final)
        wrong = users(gradient=lambda w: -Users.scale * w)
        descend(wrong, check=False)
        simulate(wrong, check=False)
        with pytest.raises(ValueError, match="`check` must be True or False; got 'no'"):
            simulate(Users(), check="no")
        with pytest.raises(ValueError, match="`check` must be True or False; got 'no'"):
            descend(Users(), check="no")

    @pytest.mark.parametrize(
        ("value", "gradient"),
        [
            (lambda w: np.sum(np.abs(w), axis=-1), np.sign),
            (lambda w: np.sum(np.abs(w), axis=-1), lambda w: np.ones(np.shape(w))),  # another subgradient
            (lambda w: np.random.default_rng().normal() + np.sum(w, axis=-1), np.sign),
            (lambda w: np.sum(w, axis=-1).astype(np.float32), lambda w: np.ones(np.shape(w))),
            (lambda w: np.sum(np.float32(w) ** 4, axis=-1) + 1e3, lambda w: 4 * w**3),
            (lambda w: np.sum(np.exp(w), axis=-1), np.exp),
            (lambda w: np.sum(np.round(w), axis=-1), lambda w: np.zeros(np.shape(w))),
            (lambda w: np.full(np.shape(w)[:-1], np.nan), lambda w: np.full(np.shape(w), np.nan)),
        ],
        ids=["abs", "subgradient", "noisy", "float32", "float32 with an offset", "exp", "steps", "nan"],
    )
    @pytest.mark.parametrize("start", [[0.0, 0.0], [1.0, 0.5], [1e-8, 3.0], [300.0, 1.0]])
    def test_it_says_nothing_where_values_do_not_contradict(self, value, gradient, start):
        from stability.objectives.gate import probe

        with warnings.catch_warnings():
            warnings.simplefilter("error")
            probe(gated(users(value=value, gradient=gradient)), np.array(start))

    def test_a_start_outside_the_domain_is_told(self):
        barrier = users(
            value=lambda w: np.sum(w**2 / 2 - np.log(np.where(w > 0, w, np.nan)), axis=-1),
            gradient=lambda w: w - 1 / w,
            hessian=lambda w: (1 + 1 / w**2)[..., None] * np.eye(2),
        )
        flow = st.Flow(barrier, st.SGD(), step=0.1)
        with pytest.warns(
            st.StabilityWarning, match=r"`value` is nan at the start.*Start inside.*check=False"
        ):
            st.simulate(flow, start=[1.0, -2.0], t_end=0.1, paths=2)
        st.simulate(flow, start=[1.0, 2.0], t_end=0.1, paths=2)
        st.simulate(flow, start=[1.0, -2.0], t_end=0.1, paths=2, check=False)

    def test_functions_that_write_into_the_state_are_found_out(self):
        def gradient(w):
            w *= Users.scale
            return w

        with pytest.raises(ValueError, match=r"must leave the state as it is.*w = w\.copy\(\)"):
            descend(users(gradient=gradient))
        mended = users(gradient=lambda w: gradient(w.copy()))
        np.testing.assert_array_equal(descend(mended).final, descend(Users()).final)

    def test_a_gradient_may_be_one_array_written_again_and_again(self):
        buffer = np.empty(2)
        F = users(gradient=lambda w: np.multiply(Users.scale, w, out=buffer))
        for options in (
            {"momentum": 0.9},
            {"method": st.Adam()},
            {"method": st.SFN(damping=0.1), "momentum": 0.5},
        ):
            found, plain = (descend(one, **{"iterations": 6, **options}).final for one in (F, Users()))
            np.testing.assert_array_equal(found, plain)

    def test_simulate_needs_no_value(self):
        class NoValue(Users):
            value = st.Objective.value

        simulate(NoValue())

        class Raises(Users):
            def value(self, w):
                raise NotImplementedError

        simulate(Raises())


def single(seed, d=6):
    """A symmetric matrix as float32 arithmetic leaves it: not quite symmetric."""
    A = np.random.default_rng(seed).normal(size=(d, d)).astype(np.float32)
    H = A @ A.T
    H[0, 1] *= np.float32(1 + 1e-6)
    return H


class TestPrecision:
    def test_float32_hessians_are_symmetric_up_to_their_own_rounding(self):
        H = single(0)
        for given in (H, H.astype(float), np.asfortranarray(H), H.tolist()):
            found = st.quadratic(given).hessian(np.zeros(6))
            np.testing.assert_array_equal(found, found.T)
            np.testing.assert_allclose(found, H, rtol=1e-6)

    def test_the_same_gap_between_float64_numbers_is_refused(self):
        H = single(0).astype(float) * (1 + 1e-12)
        with pytest.raises(ValueError, match=r"`spectrum` must be symmetric.*pass \(H \+ H\.T\) / 2"):
            st.quadratic(H)
        st.quadratic((H + H.T) / 2)

    def test_numbers_typed_by_hand_are_no_float32(self):
        for wrong in (
            [[1e6, 1.0], [1.25, 2.0]],
            [[1.0, 2_000_000.0], [2_000_001.0, 1.0]],
            [[8_388_607.0, 8_388_605.0], [8_388_603.0, 8_388_601.0]],  # exact in float32, of all its 24 bits
        ):
            with pytest.raises(ValueError, match="must be symmetric"):
                st.quadratic(wrong)
        with pytest.raises(ValueError, match="must be symmetric"):
            st.quadratic(np.array([[1.0, 0.5], [0.75, 1.0]], np.float32))

    def test_half_precision_is_known_by_its_type(self):
        H = single(1).astype(np.float16)
        H[0, 1] = np.nextafter(H[0, 1], np.float16(99), dtype=np.float16)
        assert np.linalg.eigvalsh(st.quadratic(H).hessian(np.zeros(6))).shape == (6,)
        F = users(dim=6, gradient=lambda w: w @ H, hessian=lambda w: np.broadcast_to(H, (*w.shape, 6)))
        H[0, 1] *= np.float16(1.01)
        assert len(st.linearize(st.Flow(F, st.SFN(damping=0.1), step=0.1), at=np.zeros(6)).rates) == 6
        torch = pytest.importorskip("torch")
        B = torch.tensor(single(1)).to(torch.bfloat16)
        B[0, 1] *= 1.01
        st.quadratic(B)

    def test_covariances_of_few_float32_samples_are_semidefinite(self):
        G = np.random.default_rng(0).normal(size=(32, 100)).astype(np.float32)
        G = G * np.logspace(0, -3, 100, dtype=np.float32)
        centered = G - G.mean(axis=0)
        C = centered.T @ centered / np.float32(31)
        assert np.linalg.eigvalsh(C.astype(float))[0] < -1e-10 * np.linalg.norm(C, 2)
        for given in (C, C.astype(float)):
            noise = st.Noise(gradient=given)
            np.testing.assert_allclose(noise.gradient, C, atol=1e-6)
            assert np.linalg.eigvalsh(noise.gradient)[0] > -1e-14
        with pytest.raises(ValueError, match="must be positive semidefinite"):
            st.Noise(gradient=np.array([[1.0, 0.3], [0.3, -1e-3]], np.float32))

    def test_derivatives_in_float32_are_compared_by_its_rounding(self):
        H = single(3)
        members = {
            "dim": 6,
            "value": lambda w: 0.5 * np.float32(w) @ H @ np.float32(w),
            "gradient": lambda w: np.float32(w) @ H,
            "hessian": lambda w: np.broadcast_to(H, (*w.shape, 6)),
            "hvp": lambda w, V: H @ np.float32(V),
        }
        for convert in (lambda x: x, lambda x: np.asarray(x, float)):
            F = users(**members | {"gradient": lambda w, convert=convert: convert(np.float32(w) @ H)})
            found = st.check_derivatives(F, np.ones(6))
            assert found.ok
            assert 1e-4 < found.tolerance < 1e-3
        wrong = users(**members | {"gradient": lambda w: np.float32(1.01) * (np.float32(w) @ H)})
        assert not st.check_derivatives(wrong, np.ones(6)).ok
        assert st.check_derivatives(QUADRATIC, [1.0, 1.0]).tolerance == 1e-6

    def test_a_float32_objective_runs_everywhere(self):
        H = single(2)
        F = users(
            dim=6,
            value=lambda w: 0.5 * np.einsum("...i,ij,...j->...", np.float32(w), H, np.float32(w)),
            gradient=lambda w: np.float32(w) @ H,
            hessian=lambda w: np.broadcast_to(H, (*w.shape, 6)),
            hvp=lambda w, V: H @ np.float32(V),
        )
        flow = st.Flow(F, st.SFN(damping=0.1), st.Noise(gradient=0.1), step=0.1)
        exact = st.Flow(st.quadratic(H), st.SFN(damping=0.1), st.Noise(gradient=0.1), step=0.1)
        np.testing.assert_allclose(
            st.linearize(flow, at=np.zeros(6)).eigenvalues, st.linearize(exact).eigenvalues, rtol=1e-5
        )
        st.simulate(flow, start=np.ones(6), t_end=0.5, paths=5)
        for method in (st.SFN(damping=0.1), st.LRSFN(rank=3, damping=0.1)):
            st.minimize(F, np.ones(6), method=method, step=0.1, iterations=5)

    def test_products_under_autocast_are_symmetric_up_to_theirs(self):
        torch = pytest.importorskip("torch")
        from stability.torch import hessian_products

        x = torch.randn(256, 8, generator=torch.Generator().manual_seed(0))
        model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))

        def loss():
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return ((model(x) - x[:, :1]) ** 2).mean(1)

        assert hessian_products(model, loss)[0].unit == 2.0**-7
        assert hessian_products(model, lambda: ((model(x) - 1) ** 2).mean())[0].unit == 2.0**-23

        def lopsided(V):  # by 3 %, as bfloat16 may be
            return V + 0.03 * torch.roll(V, 1, 0)

        here = st.Backend("torch", pytest.importorskip("array_api_compat.torch"), None, "float32")
        options = {"device": here, "dtype": "float32"}
        with pytest.raises(st.BadProducts):
            st.randomized_eigh(lopsided, 30, 3, **options)
        lopsided.unit = 2.0**-7
        st.randomized_eigh(lopsided, 30, 3, **options)
        lopsided.unit = 1.0
        with pytest.raises(st.BadProducts):
            st.randomized_eigh(lambda V: torch.triu(torch.ones(30, 30)) @ V, 30, 3, **options)


QUADRATIC = st.quadratic([1.0, 0.1])
FLOW = st.Flow(QUADRATIC, st.SGD(), st.Noise(gradient=0.1), step=0.1)


def saved(save, **options):
    return st.simulate(FLOW, start=[1.0, 1.0], t_end=1.0, paths=3, save=save, **options)


class TestMessages:
    """Each names the cause, and what it says to do works."""

    @pytest.mark.parametrize(
        ("save", "message"),
        [
            ([0.02, 0.04], r"`save` must hold multiples of the time step 0\.1; got 0\.02"),
            ([0.4, 0.2], r"increasing times in \[0, 1\]; got 0\.2 after 0\.4\. Pass sorted\(set\(save\)\)"),
            (0.5, r"whole number of times, or times; got 0\.5\. For this one time pass \[0\.5\]"),
            ([0.2, 0.2], r"increasing times in \[0, 1\]; got 0\.2 after 0\.2"),
            ([0.5, 1.5], r"increasing times in \[0, 1\]; got 1\.5"),
            ([-0.5, 0.5], r"increasing times in \[0, 1\]; got -0\.5"),
            ([], "got none"),
        ],
    )
    @pytest.mark.parametrize("along", [False, True], ids=["simulate", "trajectory"])
    def test_save_times(self, save, message, along):
        with pytest.raises(ValueError, match=message):
            st.trajectory(FLOW, [1.0, 1.0], 1.0, save=save, time="chain") if along else saved(save)

    def test_what_is_said_of_save_times_works(self):
        save = [0.22, 0.24, 0.41]
        nearest = np.unique(np.round(np.divide(save, 0.1))) * 0.1
        np.testing.assert_allclose(saved(nearest).times, [0.2, 0.4])
        assert len(saved([0.02, 0.04], dt=0.02).times) == 2
        assert saved(sorted({0.4, 0.2})).times.tolist() == saved([0.2, 0.4]).times.tolist()

    @pytest.mark.parametrize("dt", [0.1, 1 / 3, 0.0123456789])
    def test_the_end_that_is_named_is_a_multiple(self, dt):
        with pytest.raises(ValueError, match=r"must be a multiple of the time step .* Try ") as told:
            st.simulate(FLOW, start=[1.0, 1.0], t_end=0.987, paths=3, dt=dt)
        end = float(str(told.value).rpartition("Try ")[2][:-1])
        assert st.simulate(FLOW, start=[1.0, 1.0], t_end=end, paths=3, dt=dt).times[-1] == pytest.approx(end)
        lin = st.linearize(FLOW)
        with pytest.raises(ValueError, match=r"`t` must be a multiple of .* Try ") as told:
            lin.moments(0.987, time="chain", dt=dt)
        lin.moments(float(str(told.value).rpartition("Try ")[2][:-1]), time="chain", dt=dt)

    def test_narrow_numbers_are_read_as_written(self):
        torch = pytest.importorskip("torch")
        plain = st.simulate(FLOW, start=[1.0, 1.0], t_end=1.0, paths=3)
        for step in (
            np.float32(0.1),
            np.array(0.1),
            np.float16(0.1),
            torch.tensor(0.1),
            np.longdouble("0.1"),
        ):
            flow = st.Flow(QUADRATIC, st.SGD(), st.Noise(gradient=0.1), step=step)
            assert flow.step == 0.1
            np.testing.assert_array_equal(
                st.simulate(flow, start=[1.0, 1.0], t_end=np.float32(1), paths=np.array(3)).states,
                plain.states,
            )
        for wrong in ("0.1", True, np.True_, 1j, None, np.ma.masked, np.nan, -1.0):
            with pytest.raises(ValueError, match="`step` must be a finite number > 0"):
                st.Flow(QUADRATIC, st.SGD(), step=wrong)
        with pytest.raises(
            ValueError, match=r"`paths` must be an integer >= 1; got 10000\.0\. Convert it: int"
        ):
            st.simulate(FLOW, start=[1.0, 1.0], t_end=1.0, paths=1e4)

    @pytest.mark.parametrize(
        "use",
        [
            lambda flow: st.simulate(flow, start=[0.0], t_end=1.0, paths=3),
            lambda flow: st.linearize(flow, at=[0.0]),
            lambda flow: st.trajectory(flow, [0.0], 1.0),
        ],
        ids=["simulate", "linearize", "trajectory"],
    )
    def test_a_point_outside_the_domain_is_named(self, use):
        flow = st.Flow(st.expression("log(x)"), st.SGD(), step=0.1)
        with pytest.raises(ValueError, match=r"must be finite.*Choose another point than \[0\.\]") as told:
            use(flow)
        assert "impute" not in str(told.value)

    def test_a_run_that_cannot_begin_is_told_so(self):
        for start in (0.0, -1.0):
            run = st.minimize(st.expression("log(x)"), [start], method=st.SGD(), step=0.1, iterations=20)
            assert run.status.startswith("diverged at the start: the loss, its derivatives or the step")
        late = st.minimize(st.quadratic([1.0]), [1e150], method=st.SGD(), step=50.0, iterations=40)
        assert "the first at iteration" in late.status

    def test_a_gain_that_is_no_number_is_not_called_singular(self):
        root = st.Method(gain=lambda lam: 1 / np.sqrt(lam))
        for use in (
            lambda flow: st.linearize(flow),
            lambda flow: st.simulate(flow, start=[1.0, 1.0], t_end=1.0, paths=3),
        ):
            with pytest.raises(ValueError, match=r"not a number at 1 of 2 eigenvalues, -0\.5.*abs\(lam\)"):
                use(st.Flow(st.quadratic([1.0, -0.5]), root, step=0.1))
            use(
                st.Flow(
                    st.quadratic([1.0, -0.5]), st.Method(gain=lambda lam: 1 / np.sqrt(abs(lam))), step=0.1
                )
            )
        with pytest.raises(ValueError, match="The curvature is singular"):
            st.linearize(
                st.Flow(st.quadratic([1.0, 0.0]), st.Method(gain=lambda lam: lam / lam**2), step=0.1)
            )

    def test_times_in_float32_are_read_up_to_their_rounding(self):
        found = saved(np.array([0.1, 0.3, 1.0], np.float32)).times
        np.testing.assert_array_equal(found, np.array([1, 3, 10]) * 0.1)
        assert len(descend(Users(), average=np.float32(0.5)).losses) == 3

    def test_public_maps_take_no_part_of_numbers(self):
        flow = st.Flow(Users(), st.SFN(damping=0.1), st.Noise(gradient=0.1), step=0.1)
        for call in (flow.drift, flow.jacobian, flow.diffusion, flow.method.gains, QUADRATIC.gradient):
            with pytest.raises(ValueError, match="complex"):
                call(np.array([1.0, 1j]))
        for call in (flow.drift, flow.method.gains, lambda w: flow.noise_model.gradient_covariance(w)):
            with pytest.raises(ValueError, match="mask"):
                call(MASKED)

    def test_the_number_of_paths_has_a_default(self):
        assert len(st.simulate(FLOW, start=[1.0, 1.0], t_end=0.1).diverged) == 1000
        assert len(st.simulate(FLOW, start=np.ones((7, 2)), t_end=0.1).diverged) == 7

    def test_an_exploded_tube_is_called_meaningless(self):
        flow = st.Flow(st.expression("x^4/4 - x^2/2"), st.SGD(), st.Noise(gradient=1.0), step=0.01)
        ens = st.simulate(flow, start=[0.0], t_end=8.0, paths=100, save=4)
        found = st.compare(st.trajectory(flow, [0.0], 8.0, save=ens.times, time=ens.law), ens)
        assert found.max_z > 1e6
        note = found.notes[0]
        assert note.startswith("From t = ")
        assert "theory's tube means nothing, nor do z-scores there" in note
        tame = st.simulate(FLOW, start=[1.0, 1.0], t_end=1.0, paths=100)
        path = st.trajectory(FLOW, [1.0, 1.0], 1.0, save=tame.times, time=tame.law)
        assert not st.compare(path, tame).notes

    def test_an_exit_of_another_kind(self):
        with pytest.raises(
            ValueError, match=r"`exit` must be a finite number > 0; got 'ball'\. .* a function of states"
        ):
            st.simulate(FLOW, start=[1.0, 1.0], t_end=1.0, paths=3, exit="ball")


class Wide(st.Objective):
    """Half the square, in more dimensions than a matrix can have."""

    dim = 10**6
    diagonal_hessian = True

    def value(self, w):
        return 0.5 * np.sum(w**2, axis=-1)

    def gradient(self, w):
        return w

    def hessian_diagonal(self, w):
        return np.ones(np.shape(w))

    def hvp(self, w, V):
        return V


NOISY = st.Flow(QUADRATIC, st.SGD(), st.Noise(gradient=0.1, curvature=0.1), step=0.1)
WIDE = np.zeros(Wide.dim)
TOO_LARGE = {
    "quadratic": (lambda: st.quadratic(np.ones(10**6)), r"The Hessian needs 8000\.0 GB of \d+ GB\. .*`hvp`"),
    "landscape": (lambda: st.landscape("rosenbrock", dim=10**12), "Eight states need"),
    "network": (
        lambda: st.mlp(np.ones((4, 2)), [0, 1] * 2, hidden=(10**6, 10**6)),
        "A state of 1000",
    ),
    "paths": (
        lambda: st.simulate(FLOW, start=[1.0, 1.0], t_end=1.0, paths=10**12),
        "The states .*keep='moments'",
    ),
    "observables": (
        lambda: st.simulate(
            FLOW,
            start=[1.0, 1.0],
            t_end=1e5,
            paths=10,
            save=10**6,
            observables={str(i): lambda w: w[:, 0] for i in range(1000)},
        ),
        "Save fewer times, or give fewer `observables`",
    ),
    "wide paths": (
        lambda: st.simulate(st.Flow(Wide(), st.SGD(), step=0.1), start=WIDE, t_end=0.1, paths=1),
        "Take fewer dimensions: every path's Hessian",
    ),
    "exits": (
        lambda: st.escape(
            st.Flow(st.quadratic([-1.0]), st.SGD(), st.Noise(gradient=0.1), step=0.1),
            radius=1.0,
            paths=10**11,
        ),
        "The states need .* paths x 1",
    ),
    "linear": (
        lambda: st.linearize(st.Flow(Wide(), st.SGD(), step=0.1), at=WIDE),
        r"The Hessian and its eigenvectors .*st\.spectrum",
    ),
    "path": (lambda: st.trajectory(st.Flow(Wide(), st.SGD(), step=0.1), WIDE, 0.1), "at most 100 dimensions"),
    "eigenpairs": (lambda: st.randomized_eigh(lambda V: V, 10**10, 10), "About 40 vectors of 10000000000"),
    "spectrum": (lambda: st.spectrum(lambda V: V, n=10**10), "Two probes of 64 steps"),
    "starts": (
        lambda: st.critical_points(st.landscape("rosenbrock", dim=2), 2.0, starts=10**11),
        "The Hessians at 100000000000 starts .*Give fewer `starts`",
    ),
    "products": (lambda: st.lyapunov_exponents(FLOW, products=10**11), "100000000000 products of 2 x 2"),
    "almost sure": (
        lambda: st.almost_sure_limit(NOISY, products=10**11),
        "100000000000 products of 2 x 2 matrices at 49 steps need .*Take fewer `products`",
    ),
    "classes": (lambda: st.logistic(np.eye(3), [0, 1, 2], classes=10**12), "1000000000000 classes"),
    "iterates": (
        lambda: descend(QUADRATIC, iterations=10**12, keep_every=1),
        r"1e\+12 kept iterates .*Give a larger `keep_every`",
    ),
    "covariance": (lambda: st.Noise(gradient=0.1).gradient_covariance(WIDE), "The noise's covariance"),
    "factors": (lambda: st.Noise(curvature=0.1).factors(WIDE), "too many factors in 1000000 dimensions"),
    "differences": (lambda: st.check_derivatives(Wide(), WIDE), "Differences along 1000000 axes"),
}


class TestRoom:
    @pytest.mark.parametrize(("call", "message"), TOO_LARGE.values(), ids=TOO_LARGE)
    def test_what_no_memory_holds_is_refused_with_the_number(self, call, message):
        with pytest.raises(ValueError, match=message):
            call()

    def test_products_alone_need_no_matrix(self):
        found = st.minimize(Wide(), WIDE + 1, method=st.SGD(), step=0.1, iterations=2)
        assert found.status == "done"
