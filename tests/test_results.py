"""A saved result is read back as it was, or refused with a sentence; a cut-off write loses nothing."""

import dataclasses
import hashlib
import io
import json
import math
import os
import pickle
import shutil
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import sympy

import stability as st
from stability import _archive, _saving

KEPT = Path(__file__).parent / "kept"
"""Pairs of files, as the first format had them."""


@pytest.fixture(scope="module")
def flow():
    return st.Flow(st.quadratic([1.0, 0.1]), st.SGD(), st.Noise(gradient=1.0), step=0.1)


@pytest.fixture(scope="module")
def ensemble(flow):
    """Some paths diverge and some leave the region, so that the arrays hold nan."""
    return st.simulate(flow, start=[0.0, 0.0], t_end=2.0, save=4, paths=50, seed=0, radius=0.8, exit=0.7)


@pytest.fixture
def study():
    arrays = {
        "a": np.array([0.1, math.nan, -math.inf]),
        "whole/part": np.arange(6).reshape(2, 3),
        "methods": np.array(["SGD", "Newton"]),
        "none": np.zeros((0, 2)),
    }
    return st.Study(
        "a study",
        arrays,
        {"step": 0.1, "seed": 3, "settings": [{"b": 1}], "quick": True, "empty": None},
        {"versions": {"numpy": "2"}},
    )


@pytest.fixture
def saved(study, tmp_path):
    """A saved study's file."""
    return st.save(study, tmp_path / "study")


def record_of(path):
    """What a saved result holds beside its arrays."""
    arrays, text = _archive.unpack(path)
    return arrays, json.loads(text)


def rewrite(path, record):
    """Put another record, or any text, in a saved result, sealed as a forger would."""
    arrays, _ = record_of(path)
    text = record if isinstance(record, str) else json.dumps(record)
    path.write_bytes(_archive.pack(arrays, text))
    return path


def same(a, b):
    """Equal values of equal kinds, arrays to the last bit; nan equals nan."""
    if isinstance(a, np.ndarray):
        return (
            isinstance(b, np.ndarray)
            and a.dtype == b.dtype
            and a.shape == b.shape
            and a.tobytes() == b.tobytes()
        )
    if dataclasses.is_dataclass(a):
        return type(a) is type(b) and all(
            same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a)
        )
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and (a == b or (a != a and b != b))


class TestRoundTrip:
    def test_an_ensemble_comes_back_exactly(self, ensemble, tmp_path):
        assert 0 < ensemble.diverged.sum() < 50
        assert np.isnan(ensemble.exit_times).any()
        st.save(ensemble, tmp_path / "ensemble")
        assert same(ensemble, st.load(tmp_path / "ensemble"))

    def test_a_comparison_comes_back_exactly(self, flow, ensemble, tmp_path):
        comparison = st.compare(st.linearize(flow), ensemble)
        assert comparison.notes
        st.save(comparison, tmp_path / "comparison")
        loaded = st.load(tmp_path / "comparison")
        assert same(comparison, loaded)
        assert str(loaded) == str(comparison)

    def test_a_study_comes_back_exactly(self, study, tmp_path):
        st.save(study, tmp_path / "study")
        assert same(study, st.load(tmp_path / "study"))

    def test_an_empty_study_comes_back(self, tmp_path):
        st.save(st.Study("empty", {}, {}), tmp_path / "study")
        assert same(st.Study("empty", {}, {}), st.load(tmp_path / "study"))

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf], ids=str)
    def test_numbers_that_are_not_finite_come_back_as_numbers(self, ensemble, study, tmp_path, value):
        st.save(
            dataclasses.replace(ensemble, stats={"rate": value, "of": [1.0, value]}), tmp_path / "ensemble"
        )
        assert same(st.load(tmp_path / "ensemble").stats, {"rate": value, "of": [1.0, value]})
        st.save(dataclasses.replace(study, parameters={"limit": value}), tmp_path / "study")
        assert same(st.load(tmp_path / "study").parameters, {"limit": value})

    @pytest.mark.parametrize(
        "name", ["run", "run.json", "run.npz", "step0.5", "step0.5.json", "Größe λ", "n" * 251]
    )
    def test_with_an_ending_or_without_it_is_one_file(self, study, tmp_path, name):
        path = st.save(study, tmp_path / "new" / name)
        base = name.removesuffix(".json").removesuffix(".npz")
        assert path == tmp_path / "new" / f"{base}.npz"
        for spelled in (base, base + ".json", base + ".npz"):
            assert same(study, st.load(tmp_path / "new" / spelled))
        assert [p.name for p in path.parent.iterdir()] == [path.name]

    def test_numpy_opens_the_file_too(self, saved, study):
        with np.load(saved, allow_pickle=False) as arrays:
            assert arrays["arrays/methods"].tolist() == study["methods"].tolist()
            assert np.array_equal(arrays["arrays/a"], study["a"], equal_nan=True)

    def test_the_json_is_strict_and_says_what_it_holds(self, study, tmp_path):
        def refuse(name):
            raise AssertionError(f"{name} is not JSON")

        path = st.save(study, tmp_path / "study", readable=True)
        text = path.with_suffix(".json").read_bytes()
        assert _archive.unpack(path)[1] == text
        record = json.loads(text, parse_constant=refuse)
        assert record["kind"] == "Study"
        assert record["format"] == _saving.FORMAT
        assert record["values"]["parameters"]["seed"] == 3
        path.with_suffix(".json").write_text("{}")  # the copy is never read back
        assert same(study, st.load(path))

    def test_a_copy_is_written_again_with_its_result_and_a_users_json_is_not(self, study, tmp_path):
        other = dataclasses.replace(study, parameters={"seed": 4})
        copy, theirs = tmp_path / "study.json", tmp_path / "theirs.json"
        st.save(study, tmp_path / "study", readable=True)
        theirs.write_text('{"kind": "mine"}')
        for name in ("study", "theirs"):
            st.save(other, tmp_path / name)
        assert json.loads(copy.read_text())["values"]["parameters"]["seed"] == 4
        assert theirs.read_text() == '{"kind": "mine"}'

    @pytest.mark.parametrize(
        "parameters",
        [
            {"float": "nan"},
            {"array": "arrays/a"},
            {"kept": "Study", "values": {}},
            {"tuple": [1], "x": ({"tuple": [1]},)},
            {"mapping": [[1, 2]]},
            {1: "a", "1": "b", 2.5: None, (1, "x"): True, math.inf: 0},
            {"pair": (1, (2.0, [3]), ()), "list": [(1,)]},
            {"arrays": {"a": np.ones(2), "": np.zeros(1), "../a": np.ones((2, 0)), "a\0b": np.array(3)}},
        ],
        ids=str,
    )
    def test_words_of_the_format_keys_of_any_kind_and_tuples_come_back(self, study, tmp_path, parameters):
        one = dataclasses.replace(study, parameters=parameters)
        loaded = st.load(st.save(one, tmp_path / "study"))
        assert same(one, loaded)
        assert loaded == one

    @pytest.mark.parametrize(
        "array",
        [
            np.asfortranarray(np.arange(6.0).reshape(2, 3)),
            np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2),
            np.arange(10)[::-2],
            np.array(2.5),
            np.zeros((3, 0, 2)),
            np.array(["", ""]),
            np.array(["2020-01-01"], dtype="datetime64[D]"),
            np.array([(1, 2.0)], dtype=[("n", "i4"), ("x", "f8")]),
            np.array([1.0, 2.0], dtype=">f4"),
            np.array([1 + 2j]),
        ],
        ids=lambda array: f"{array.dtype}{array.shape}",
    )
    def test_arrays_of_every_layout_and_kind(self, tmp_path, array):
        one = st.Study("arrays", {"a": array, "": array, "a/b": array, "λ/..": array}, {})
        loaded = st.load(st.save(one, tmp_path / "study"))
        assert same(one, loaded)
        assert loaded["a"].flags.writeable
        assert _saving.digest(one) == _saving.digest(loaded)

    def test_json_terms_of_numpy_values_are_plain(self):
        value = {
            1: np.float32(0.5),
            "a": np.int64(2),
            "b": np.bool_(True),
            "c": (np.nan, np.inf, -np.inf),
            "d": np.arange(2),
            "e": {3},
        }
        assert _saving.jsonable(value) == {
            "1": 0.5,
            "a": 2,
            "b": True,
            "c": [None, "inf", "-inf"],
            "d": [0, 1],
            "e": "{3}",
        }

    def test_provenance_names_versions_and_parameters(self):
        found = _saving.provenance(seed=3, radius=math.inf)
        assert found["versions"]["numpy"] == np.__version__
        assert (found["seed"], found["radius"]) == (3, "inf")


def sympy_gain():
    x, eps = sympy.Symbol("x", real=True), sympy.Symbol("eps", positive=True)
    return st.Method(1 / sympy.sqrt(x**2 + eps), eps=0.02, name="own")


METHODS = [
    st.SGD(),
    st.Newton(),
    st.DampedNewton(damping=0.2),
    st.LRSFN(rank=1, damping=0.1, tail="flat"),
    st.gallery.rsfn(eps=0.01),
    st.Momentum(st.SFN(damping=0.2), 0.8, True),
    st.gallery.newsamp(rank=1),
    st.gallery.natural_gradient(variance=0.5, eps=0.1),
    st.gallery.fractional(power=0.7),
    sympy_gain(),
    st.Method(lambda lam: np.where(lam > 0.5, 1 / lam, 2.0) * np.tanh(np.clip(lam, 0.1, None)), name="where"),
    st.Method(lambda lam: np.maximum(np.exp(-lam), 0.1) + (abs(lam) < 1) * lam**3, name="odd"),
]


class TestMethods:
    @pytest.mark.parametrize("method", METHODS, ids=lambda m: m.label)
    def test_a_gain_is_kept_as_its_operations_to_the_last_bit(self, method, tmp_path):
        flow = st.Flow(st.quadratic([2.0, 0.3]), method, st.Noise(gradient=0.1), step=0.05)
        loaded = st.load(st.linearize(flow).save(tmp_path / "linear")).flow.method
        lams = np.array([3.0, 1.7, 0.5, 0.02])
        assert type(loaded) is type(method)
        assert repr(loaded) == repr(method)
        assert loaded.gains(lams).tobytes() == method.gains(lams).tobytes()
        if method.rank is None:
            assert np.array_equal(loaded.divided_differences(lams), method.divided_differences(lams))

    def test_a_theorem_reads_the_gain_that_came_back(self, tmp_path):
        for method in (st.gallery.rsfn(eps=0.01), sympy_gain()):
            theorem = st.theorem("mean-square-step-limit", method=method)
            assert st.load(theorem.save(tmp_path / "theorem")).statement == theorem.statement

    def test_a_constant_gain_and_an_unchanged_curvature(self, tmp_path):
        for gain in (lambda lam: 2.0, lambda lam: lam):
            flow = st.Flow(st.quadratic([2.0]), st.Method(gain), st.Noise(gradient=0.1), step=0.05)
            loaded = st.load(st.linearize(flow).save(tmp_path / "linear"))
            assert loaded.gains.tolist() == [2.0]

    def test_a_gain_that_holds_more_than_numbers_is_refused(self, tmp_path):
        table = st.Method(lambda lam: 1 / (abs(lam) + np.array([0.1])), name="table")
        with pytest.raises(ValueError, match=r"`gain` of 'table' cannot be saved: it holds a ndarray"):
            st.linearize(st.Flow(st.quadratic([1.0]), table, step=0.1)).save(tmp_path / "table")

    @pytest.mark.parametrize(
        "operations",
        [[["os.system", 0]], [["add", 0, 2]], [["add", 0, -1]], [["__import__", 0]], ["add"]],
        ids=str,
    )
    def test_operations_that_no_gain_has_are_not_followed(self, operations, tmp_path):
        method = st.Method(lambda lam: 1 / (abs(lam) + 0.1))
        flow = st.Flow(st.quadratic([1.0]), method, st.Noise(gradient=0.1), step=0.1)
        path = st.linearize(flow).save(tmp_path / "linear")
        _, record = record_of(path)
        record["values"]["flow"]["values"]["method"]["values"]["gain"]["operations"] = operations
        rewrite(path, record)
        with pytest.raises(ValueError, match=r"is not a saved result .*is none of a gain's"):
            st.load(path)


class TestTheory:
    def test_a_linear_flow_answers_as_before(self, tmp_path):
        F = st.expression("x^4/4 - x^2/2 + 0.3*y^2")
        noise = st.Noise(gradient=0.1, curvature=0.05, batch=4, reference=[1.0, 0.0])
        linear = st.linearize(st.Flow(F, st.SFN(damping=0.1), noise, step=0.05), [1.0, 0.0])
        loaded = st.load(linear.save(tmp_path / "linear"))
        assert str(loaded) == str(linear)
        assert loaded.step_limit() == linear.step_limit()
        assert np.array_equal(loaded.covariance(order=2), linear.covariance(order=2))
        assert loaded.flow.objective.text == F.text

    def test_with_noise_from_data_it_draws_the_same_batches(self, tmp_path):
        rng = np.random.default_rng(0)
        F = st.logistic(rng.normal(size=(60, 3)), rng.integers(2, size=60), l2=0.1)
        noise = st.Noise.from_data(F, batch=8, hessian_batch=16)
        linear = st.linearize(st.Flow(F, st.SFN(damping=0.1), noise, step=0.1))
        loaded = st.load(linear.save(tmp_path / "linear"))
        assert np.array_equal(loaded.covariance(), linear.covariance())
        steps = [one.flow.iterate(np.zeros(3), np.random.default_rng(1)) for one in (linear, loaded)]
        assert np.array_equal(*steps)

    def test_of_an_objective_of_ones_own_the_quadratic_model_is_kept(self, tmp_path):
        class Own(st.Objective):
            dim, reference = 2, np.zeros(2)

            def gradient(self, w):
                return w + w**3

            def hessian(self, w):
                return (1 + 3 * w[..., None] ** 2) * np.eye(2)

        linear = st.linearize(st.Flow(Own(), st.SFN(damping=0.1), st.Noise(gradient=0.1), step=0.1))
        loaded = st.load(linear.save(tmp_path / "linear"))
        assert np.array_equal(loaded.covariance(), linear.covariance())
        assert loaded.flow.objective.gradient([1.0, 0.0]).tolist() == [1.0, 0.0]

    def test_noise_of_ones_own_is_refused(self, tmp_path):
        class Own(st.Noise):
            pass

        flow = st.Flow(st.quadratic([1.0]), st.SGD(), Own(gradient=0.1), step=0.1)
        with pytest.raises(ValueError, match="got a Own, which cannot be saved"):
            st.linearize(flow).save(tmp_path / "linear")

    def test_bounds_limits_and_estimates_come_back(self, tmp_path):
        F, noise = st.quadratic([1.0, 0.1]), st.Noise(gradient=0.1)
        bounds = st.bounds(F, noise, [st.SGD(), st.Newton()], step=0.1)
        limit = st.linearize(st.Flow(F, st.SGD(), noise, step=0.1)).limit()
        for one in (bounds, bounds.rows[0], limit, st.results.Estimate(np.inf, 0.0, "a pole")):
            assert same(st.load(one.save(tmp_path / "one")), one)

    @pytest.mark.slow
    @pytest.mark.parametrize("density", [None, scipy.stats.norm(0, 0.1), scipy.stats.t(df=5, scale=0.05)])
    def test_an_exact_mode_answers_as_before(self, density, tmp_path):
        noise = st.Noise(gradient=0.1, curvature=0.1)
        mode = st.exact_mode(st.SFN(damping=0.1), curvature=0.5, noise=noise, density=density)
        loaded = st.load(mode.save(tmp_path / "mode"))
        assert str(loaded) == str(mode)
        assert loaded.tail_index(0.5) == mode.tail_index(0.5)

    def test_a_density_that_is_a_function_is_refused(self, tmp_path):
        def box(e):
            return 5.0 * (abs(e) < 0.1)

        mode = st.exact_mode(st.SGD(), curvature=0.5, noise=st.Noise(gradient=0.1), density=box)
        with pytest.raises(ValueError, match="`density` is a function cannot be saved"):
            mode.save(tmp_path / "mode")

    @pytest.mark.parametrize("law", ["kstest", "gaussian_kde", "nothing"])
    def test_only_distributions_are_taken_from_scipy(self, law, tmp_path):
        density = scipy.stats.norm(0, 0.1)
        mode = st.exact_mode(st.SGD(), curvature=0.5, noise=st.Noise(gradient=0.1), density=density)
        path = mode.save(tmp_path / "mode")
        rewrite(path, json.dumps(record_of(path)[1]).replace('"norm"', f'"{law}"'))
        with pytest.raises(ValueError, match=f"'{law}' is no distribution"):
            st.load(path)

    @pytest.mark.parametrize("method", [None, st.LRSFN(rank=2, damping=0.1)], ids=["any", "LRSFN"])
    @pytest.mark.slow
    def test_theorems_verdicts_and_tables_come_back(self, method, tmp_path):
        theorem = st.theorem("truncation-limit", method=method)
        table = st.gallery.method_table(method and [method])
        for one in (theorem, theorem.check(points=3, ensemble=False), table):
            assert str(st.load(one.save(tmp_path / "one"))) == str(one)

    def test_in_a_fresh_session_a_theorem_is_found(self, tmp_path):
        path = st.theorem("escape-time").save(tmp_path / "theorem")
        code = f"import stability as st; print(st.load({str(path)!r}).name)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "escape-time"


class TestRefused:
    @pytest.mark.parametrize(
        "result",
        [3, st.gallery.Armijo(), type("Study", (st.Study,), {})("own", {}, {})],
        ids=lambda r: type(r).__name__,
    )
    def test_what_cannot_be_saved_is_named(self, result, tmp_path):
        with pytest.raises(
            ValueError,
            match=rf"one of this package's results; got a {type(result).__name__}, which cannot be saved",
        ):
            st.save(result, tmp_path / "result")
        assert not list(tmp_path.iterdir())

    def test_what_no_file_holds_without_loss_is_named(self, tmp_path):
        loop, deep = [], []
        loop.append(loop)
        for _ in range(200):
            deep = [deep]
        for value, told in (
            (loop, "more than 100 lists"),
            (deep, "more than 100 lists"),
            (1 + 2j, "holds a complex"),
            (np.complex64(1j), "holds a complex64"),
            ({1, 2}, "holds a set"),
            (np.ma.masked_array([1.0], [True]), r"its mask would be lost\. Save x\.filled"),
            ("x" * (_archive.MAX_TEXT + 1), r"20,000,\d+ bytes; at most 20,000,000"),
        ):
            with pytest.raises(ValueError, match=told):
                st.save(st.Study("one", {}, {"value": value}), tmp_path / "one")
        assert not list(tmp_path.iterdir())

    def test_a_missing_file_is_named(self, saved):
        saved.unlink()
        with pytest.raises(ValueError, match=r"study\.npz does not exist"):
            st.load(saved)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "[]",
            "{}",
            "3",
            '{"kind": "Study"',
            '{"kind": "Study", "format": 1}',
            '{"kind": "Secret", "format": 1, "values": {}}',
            '{"kind": ["Study"], "format": 1, "values": {}}',
            '{"kind": "Study", "format": "1", "values": {}}',
            '{"kind": "Study", "format": 2, "values": [1]}',
            '{"kind": "Study", "format": 2, "values": {"other": 1}}',
            '{"kind": "Study", "format": 2, "values": {"name": NaN}}',
            "[" * 200_000,
            '{"a":' * 200_000,
            '{"kind": "Study", "format": 2, "values": {"name": %s}}' % ("[" * 5000 + "]" * 5000),
            '{"kind": "Study", "format": 2, "values": {"name": %s}}' % ("9" * 5000),
            '{"kind": "Study", "format": 2, "values": {"mapping": [[[], 1]]}}',
            '{"kind": "Study", "format": 2, "values": {"kept": "Study", "values": 3}}',
            '{"kind": "Ensemble", "format": 2, "values": {"times": 3}}',
        ],
        ids=lambda text: text[:60],
    )
    def test_a_text_that_makes_no_result_is_refused_though_its_seal_fits(self, saved, text):
        rewrite(saved, text)
        with pytest.raises(ValueError, match=r"study\.npz is not a saved result"):
            st.load(saved)

    def test_a_newer_format_whatever_its_kind(self, saved):
        for kind in ("Study", "Later"):
            rewrite(saved, {"kind": kind, "format": _saving.FORMAT + 1, "values": {}})
            with pytest.raises(
                ValueError, match=r"has format 3, newer than this version reads \(2\)\. Update the package"
            ):
                st.load(saved)

    @pytest.mark.parametrize(
        "damage",
        [
            lambda b: b"",
            lambda b: b[: len(b) // 2],
            lambda b: b[:-1],
            lambda b: b + b"\0",
            lambda b: b"junk" * 100,
            pickle.dumps,
            lambda b: b[:40] + b"\xff" + b[41:],
        ],
        ids=["empty", "half", "cut", "longer", "junk", "pickle", "byte"],
    )
    def test_a_damaged_file(self, saved, damage):
        saved.write_bytes(damage(saved.read_bytes()))
        with pytest.raises(ValueError, match=r"study\.npz is damaged"):
            st.load(saved)

    @pytest.mark.parametrize(
        ("beside", "flips"), [(False, 100), (True, 50), pytest.param(False, 600, marks=pytest.mark.slow)]
    )
    def test_a_flipped_bit_anywhere_is_refused(self, study, tmp_path, beside, flips):
        path = st.save(study, tmp_path / "study", readable=beside)
        whole = path.read_bytes()
        seal = 8 * len(_archive._MARK) + 8 * _archive._DIGITS
        anywhere = np.random.default_rng(0).permutation(8 * len(whole))
        places = [*anywhere[:flips], *(anywhere[anywhere >= 8 * len(whole) - seal])[:flips]]
        for place in places:
            damaged = bytearray(whole)
            damaged[place // 8] ^= 1 << place % 8
            path.write_bytes(damaged)
            with pytest.raises(ValueError, match=r"is damaged|do not belong together"):
                st.load(path)

    def test_a_pickle_inside_is_never_run(self, saved, tmp_path):
        class Trap:
            def __reduce__(self):
                return (os.mkdir, (str(tmp_path / "sprung"),))

        array = np.empty((), dtype=object)
        array[()] = Trap()
        stream = io.BytesIO()
        np.save(stream, array, allow_pickle=True)
        forge(saved, {"arrays/a.npy": stream.getvalue()})
        with pytest.raises(ValueError, match="objects, which nothing here unpickles"):
            st.load(saved)
        assert not (tmp_path / "sprung").exists()

    def test_arrays_of_objects_are_not_saved(self, saved):
        before = saved.read_bytes()
        with pytest.raises(ValueError, match=r"[Oo]bject arrays cannot be saved"):
            st.save(st.Study("objects", {"a": np.array([{}])}, {}), saved)
        assert saved.read_bytes() == before


def forge(path, members):
    """Replace what a saved result holds by these members, and seal it."""
    _, record = record_of(path)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.comment = _archive._MARK + _archive._DIGITS * b"0"
        for name, content in ({"record.json": json.dumps(record)} | members).items():
            archive.writestr(name, content)
    body = stream.getvalue()[: -_archive._DIGITS]
    path.write_bytes(body + hashlib.sha256(body).hexdigest().encode())


def header(text, size=118):
    """An array file's beginning, whatever it says."""
    return b"\x93NUMPY\x01\x00" + size.to_bytes(2, "little") + text.ljust(size - 1).encode() + b"\n"


def test_arrays_whose_places_read_alike_are_kept_apart(tmp_path):
    one = st.Study("alike", {}, {"a/b": np.arange(3.0), "a": {"b": np.ones(2)}})
    found = st.load(st.save(one, tmp_path / "alike")).parameters
    np.testing.assert_array_equal(found["a/b"], np.arange(3.0))
    np.testing.assert_array_equal(found["a"]["b"], np.ones(2))


class TestTraps:
    @pytest.mark.parametrize(
        ("text", "content", "told"),
        [
            ("(10000000000000,)", b"", r"header for 80,000,000,000,000 bytes .* and 0 follow"),
            ("(3,)", bytes(16), "header for 24 bytes .* and 16 follow"),
            ("(2,)", bytes(24), "header for 16 bytes .* and 24 follow"),
            ("(-1, -3)", bytes(24), r"header for 24 bytes of shape \(-1, -3\)"),
            ("(((((", b"", "is not a saved result"),
            ("-" * 9000 + "1", b"", "is not a saved result"),
        ],
        ids=["huge", "longer", "shorter", "negative", "open", "deep"],
    )
    def test_a_header_that_lies(self, saved, text, content, told):
        said = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {text}, }}"
        forge(saved, {"arrays/a.npy": header(said, max(118, len(said) + 1)) + content})
        with pytest.raises(ValueError, match=told):
            st.load(saved)

    @pytest.mark.parametrize(
        ("content", "told"),
        [
            (
                header("{'descr': ('<f8', (2,)), 'fortran_order': False, 'shape': (1,), }") + bytes(16),
                "objects",
            ),
            (b"\x93NUMPY\x09\x00" + header("{}")[8:], r"a\.npy has the unknown format \(9, 0\)"),
        ],
        ids=["nested", "version"],
    )
    def test_an_array_of_another_kind(self, saved, content, told):
        forge(saved, {"arrays/a.npy": content})
        with pytest.raises(ValueError, match=told):
            st.load(saved)

    def test_a_part_that_ends_before_its_size(self):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            said = "{'descr': '<f8', 'fortran_order': False, 'shape': (3,), }"
            archive.writestr("a.npy", header(said) + bytes(16))
            archive.infolist()[0].file_size += 8  # the directory at the end is believed
        with pytest.raises(EOFError, match="an array was cut off"):
            _archive.arrays_of(zipfile.ZipFile(stream))

    def test_a_bomb_is_refused_by_its_size(self, saved, monkeypatch):
        monkeypatch.setattr(_archive, "MAX_UNPACKED", 1_000_000)
        said = "{'descr': '|u1', 'fortran_order': False, 'shape': (5000000,), }"
        forge(saved, {"arrays/a.npy": header(said) + bytes(5_000_000)})
        with pytest.raises(ValueError, match=r"its [\d,]+ bytes would unpack to 5,00\d,\d{3}, more"):
            st.load(saved)

    def test_a_text_that_is_too_long(self, saved, monkeypatch):
        monkeypatch.setattr(_archive, "MAX_TEXT", 100)
        with pytest.raises(ValueError, match=r"its text has [\d,]+ bytes, and at most 100 are read"):
            st.load(saved)

    def test_two_parts_of_one_name(self, saved):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            archive.writestr("a.npy", b"")
            with pytest.warns(UserWarning, match="Duplicate name"):
                archive.writestr("a.npy", b"")
        with pytest.raises(ValueError, match="two of its parts have one name"):
            _archive.arrays_of(zipfile.ZipFile(stream))

    def test_a_result_of_zeros_is_no_bomb(self, tmp_path, monkeypatch):
        monkeypatch.setattr(_archive, "MAX_UNPACKED", 1_000_000)
        one = st.Study("zeros", {"a": np.zeros(1_000_000)}, {})
        assert same(one, st.load(st.save(one, tmp_path / "zeros")))


class TestPairs:
    """Of files, as the first format had them."""

    @pytest.fixture
    def pair(self, tmp_path):
        for ending in ("npz", "json"):
            shutil.copy(KEPT / f"study.{ending}", tmp_path)
        return tmp_path / "study"

    def test_they_are_read_as_before(self, study, tmp_path):
        with pytest.warns(UserWarning, match=r"its half study\.json has no checksum.* save the result again"):
            loaded = st.load(KEPT / "study.json")
        assert same({**loaded.arrays}, {**study.arrays})
        assert loaded.parameters["limit"] == math.inf
        with pytest.warns(UserWarning, match="no checksum"):
            linear = st.load(KEPT / "linear")
        assert linear.flow.method.label == "SFN"
        np.testing.assert_allclose(linear.step_limit(), st.linearize(linear.flow, [1.0, 0.0]).step_limit())

    def test_saved_again_they_are_one_file_and_a_copy(self, pair):
        with pytest.warns(UserWarning, match="no checksum"):
            one = st.load(pair)
        st.save(one, pair)  # after which nothing is to be told
        assert same(one, st.load(pair))
        assert json.loads(pair.with_suffix(".json").read_text())["format"] == _saving.FORMAT
        pair.with_suffix(".json").unlink()
        assert same(one, st.load(pair))

    def test_a_missing_half_is_named(self, pair):
        pair.with_suffix(".json").unlink()
        with pytest.raises(ValueError, match=r"ends with no checksum\. .* in study\.json beside it"):
            st.load(pair)

    @pytest.mark.parametrize("change", [{"crc32": 1}, {"format": 2}], ids=str)
    def test_halves_of_two_pairs_are_refused_not_mixed(self, pair, change):
        text = pair.with_suffix(".json")
        text.write_text(json.dumps(json.loads(text.read_text()) | change))
        with pytest.raises(ValueError, match=r"study\.npz and study\.json do not belong together"):
            st.load(pair)

    @pytest.mark.parametrize("text", ["", "{}", "[]", "[" * 200_000, '{"format": 1}'], ids=lambda t: t[:20])
    def test_a_damaged_half_is_refused(self, pair, text):
        pair.with_suffix(".json").write_text(text)
        with pytest.raises(ValueError, match="is not a saved result"):
            st.load(pair)

    @pytest.mark.skipif(os.name != "posix", reason="pipes are POSIX's")
    def test_a_pipe_is_not_waited_for(self, pair):
        pair.with_suffix(".json").unlink()
        os.mkfifo(pair.with_suffix(".json"))
        with pytest.raises(ValueError, match="is a pipe, not a file"):
            st.load(pair)
        pair.with_suffix(".npz").unlink()
        os.mkfifo(pair.with_suffix(".npz"))
        with pytest.raises(ValueError, match="is a pipe, not a file"):
            st.load(pair)


class Interrupt(BaseException):
    """Ctrl-C, or as good as a kill."""


class TestInterrupted:
    @pytest.mark.parametrize(
        "call",
        [(_archive, "pack"), (json, "dumps"), (os, "fsync"), (os, "replace")],
        ids=["arrays", "text", "file", "rename"],
    )
    def test_a_write_that_fails_leaves_the_old_file_and_no_other(self, saved, study, monkeypatch, call):
        before = saved.read_bytes()

        def fail(*arguments, **options):
            raise Interrupt

        with monkeypatch.context() as patch:
            patch.setattr(*call, fail)
            with pytest.raises(Interrupt):
                st.save(st.Study("another", {"a": np.ones(3)}, {}), saved)
        assert saved.read_bytes() == before
        assert same(study, st.load(saved))
        assert [path.name for path in saved.parent.iterdir()] == ["study.npz"]

    def test_writing_again_replaces_the_result(self, saved):
        again = st.Study("again", {"b": np.ones(3)}, {})
        st.save(again, saved)
        assert same(again, st.load(saved))

    def test_many_writers_and_readers_at_once(self, tmp_path):
        """Every reader sees one whole result of one writer."""
        failed = []
        numbers = np.random.default_rng(0).normal(size=2000)

        def work(do):
            try:
                for turn in range(30):
                    do(turn)
            except Exception as error:
                failed.append(error)

        def read(turn):
            seen = st.load(tmp_path / "one")
            assert seen["x"].tobytes() == (numbers + seen.parameters["k"]).tobytes()

        def writer(own):
            return lambda turn: st.save(
                st.Study("one", {"x": numbers + (k := 100 * own + turn)}, {"k": k}), tmp_path / "one"
            )

        writer(9)(0)
        tasks = [*(writer(own) for own in range(3)), read, read]
        threads = [threading.Thread(target=work, args=(task,)) for task in tasks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed
        assert [path.name for path in tmp_path.iterdir()] == ["one.npz"]


KILLS = """
import itertools, os, random, signal, sys, time
import numpy as np
from stability._saving import Study, load, save
place, kills = sys.argv[1], int(sys.argv[2])
x = np.random.default_rng(0).normal(size=2_000)
random.seed(kills)
seen = set()
for turn in range(kills):
    told, tell = os.pipe()
    child = os.fork()  # Python and the package are loaded once for all of them
    if not child:
        for k in itertools.count(1000 * turn):
            save(Study("one", {"x": x + k}, {"k": k}), place)
            os.write(tell, b".")
    os.read(told, 1)
    time.sleep(random.uniform(0, 0.02))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    one = load(place)
    assert one["x"].tobytes() == (x + one.parameters["k"]).tobytes()
    seen.add(one.parameters["k"] // 1000)
    os.close(told), os.close(tell)
print(seen == set(range(kills)))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills as POSIX has them")
@pytest.mark.parametrize("kills", [10, pytest.param(60, marks=pytest.mark.slow)])
def test_killed_while_it_is_overwritten_a_result_is_the_old_one_or_the_new_one(kills, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", KILLS, str(tmp_path / "one.npz"), str(kills)], capture_output=True, text=True
    )
    assert done.stdout == "True\n", done.stderr


class TestUnwritable:
    def test_a_place_under_a_file(self, study, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(
            ValueError, match=r"file/study\.npz cannot be written \(.+\)\. Choose another place"
        ):
            st.save(study, tmp_path / "file" / "study")

    def test_a_folder_in_the_way(self, study, tmp_path):
        (tmp_path / "study.npz").mkdir()
        with pytest.raises(ValueError, match=r"study\.npz cannot be written \(it is a folder\)"):
            st.save(study, tmp_path / "study")
        assert [p.name for p in tmp_path.iterdir()] == ["study.npz"]

    def test_a_copy_that_has_no_place_costs_no_result(self, study, tmp_path):
        (tmp_path / "study.json").mkdir()
        with pytest.raises(ValueError, match=r"study\.json cannot .* The result itself is in .*study\.npz"):
            st.save(study, tmp_path / "study", readable=True)
        assert same(study, st.load(tmp_path / "study"))

    def test_a_folder_is_not_a_result(self, tmp_path):
        with pytest.raises(ValueError, match="does not exist"):
            st.load(tmp_path)
        (tmp_path / "study.npz").mkdir()
        with pytest.raises(ValueError, match=r"study\.npz is a folder, not a file"):
            st.load(tmp_path / "study")

    def test_an_address_is_not_fetched(self):
        with pytest.raises(ValueError, match="is an address, and nothing is fetched from a network"):
            st.load("http://example.org/run.npz")
