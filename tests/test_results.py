"""A saved result is read back as it was, or refused with a sentence; a cut-off write loses nothing."""

import dataclasses
import json
import math
import os
import pickle
import subprocess
import sys
import zipfile
import zlib

import numpy as np
import pytest
import scipy.stats
import sympy

import stability as st
from stability import _saving


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
    """A saved study's base, its npz and its json."""
    base = tmp_path / "study"
    st.save(study, base)
    return base, tmp_path / "study.npz", tmp_path / "study.json"


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

    @pytest.mark.parametrize("name", ["run", "run.json", "run.npz", "step0.5", "step0.5.json"])
    def test_either_files_name_or_their_base_will_do(self, study, tmp_path, name):
        path = st.save(study, tmp_path / "new" / name)
        assert path.suffix == ".json"
        base = str(path).removesuffix(".json")
        for spelled in (base, base + ".json", base + ".npz"):
            assert same(study, st.load(spelled))
        assert sorted(p.name for p in path.parent.iterdir()) == [
            os.path.basename(base) + ".json",
            os.path.basename(base) + ".npz",
        ]

    def test_the_json_is_strict_and_says_what_it_holds(self, saved):
        def refuse(name):
            raise AssertionError(f"{name} is not JSON")

        record = json.loads(saved[2].read_text(), parse_constant=refuse)
        assert record["kind"] == "Study"
        assert record["format"] == _saving.FORMAT
        assert record["values"]["parameters"]["seed"] == 3

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
        record = json.loads(path.read_text())
        record["values"]["flow"]["values"]["method"]["values"]["gain"]["operations"] = operations
        path.write_text(json.dumps(record))
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
        path.write_text(path.read_text().replace('"norm"', f'"{law}"'))
        with pytest.raises(ValueError, match=f"'{law}' is no distribution"):
            st.load(path)

    @pytest.mark.parametrize("method", [None, st.LRSFN(rank=2, damping=0.1)], ids=["any", "LRSFN"])
    def test_theorems_verdicts_and_tables_come_back(self, method, tmp_path):
        theorem = st.theorem("truncation-limit", method=method)
        table = st.method_table(method and [method])
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
        [3, st.Adam(), type("Study", (st.Study,), {})("own", {}, {})],
        ids=lambda r: type(r).__name__,
    )
    def test_what_cannot_be_saved_is_named(self, result, tmp_path):
        with pytest.raises(
            ValueError,
            match=rf"one of this package's results; got a {type(result).__name__}, which cannot be saved",
        ):
            st.save(result, tmp_path / "result")
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("half", [1, 2], ids=["npz", "json"])
    def test_a_missing_half_is_named(self, saved, half):
        saved[half].unlink()
        with pytest.raises(
            ValueError,
            match=rf"{saved[half].name} does not exist: a result is a \.npz and a \.json side by side",
        ):
            st.load(saved[0])

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
            '{"kind": "Study", "format": 1, "values": [1]}',
            '{"kind": "Study", "format": 1, "values": {"other": 1}}',
            b"\xff\xfe\x00",
        ],
        ids=str,
    )
    def test_a_damaged_or_unknown_json(self, saved, text):
        saved[2].write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(ValueError, match=rf"{saved[0].name} is not a saved"):
            st.load(saved[0])

    @pytest.mark.parametrize("values", [{}, {"other": 1}], ids=["too-few", "too-many"])
    def test_values_that_do_not_make_the_result(self, saved, values):
        record = json.loads(saved[2].read_text())
        saved[2].write_text(json.dumps({**record, "values": values}))
        with pytest.raises(ValueError, match=r"study is not a saved Study \("):
            st.load(saved[0])

    def test_a_half_that_cannot_be_read(self, saved):
        saved[2].unlink()
        saved[2].mkdir()
        with pytest.raises(ValueError, match=r"study cannot be read \(Is a directory\)"):
            st.load(saved[0])

    def test_a_newer_format_whatever_its_kind(self, saved):
        for kind in ("Study", "Later"):
            saved[2].write_text(json.dumps({"kind": kind, "format": _saving.FORMAT + 1, "values": {}}))
            with pytest.raises(
                ValueError, match=r"has format 2, newer than this version reads \(1\)\. Update the package"
            ):
                st.load(saved[0])

    @pytest.mark.parametrize(
        "damage",
        [
            lambda b: b"",
            lambda b: b[: len(b) // 2],
            lambda b: b"junk" * 100,
            pickle.dumps,
            lambda b: b[:40] + b"\xff" + b[41:],
        ],
        ids=["empty", "half", "junk", "pickle", "byte"],
    )
    def test_a_damaged_npz(self, saved, damage):
        saved[1].write_bytes(damage(saved[1].read_bytes()))
        with pytest.raises(ValueError, match=rf"{saved[0].name} is not a saved result"):
            st.load(saved[0])

    def test_every_single_damaged_byte_is_refused_or_harmless(self, saved, study):
        whole = saved[1].read_bytes()
        for k in range(0, len(whole), 17):
            saved[1].write_bytes(whole[:k] + bytes([whole[k] ^ 0xFF]) + whole[k + 1 :])
            try:
                loaded = st.load(saved[0])
            except ValueError:
                continue
            assert same(study, loaded)

    def test_a_pickle_inside_the_npz_is_never_run(self, saved, tmp_path):
        class Trap:
            def __reduce__(self):
                return (os.mkdir, (str(tmp_path / "sprung"),))

        array = np.empty((), dtype=object)
        array[()] = Trap()
        with open(tmp_path / "trap.npy", "wb") as stream:
            np.save(stream, array, allow_pickle=True)
        with zipfile.ZipFile(saved[1], "w") as archive:
            archive.write(tmp_path / "trap.npy", "arrays/a.npy")
        record = json.loads(saved[2].read_text())
        saved[2].write_text(json.dumps({**record, "crc32": zlib.crc32(saved[1].read_bytes())}))
        with pytest.raises(ValueError, match=r"is not a saved result .*allow_pickle"):
            st.load(saved[0])
        assert not (tmp_path / "sprung").exists()

    def test_arrays_of_objects_are_not_saved(self, saved):
        before = saved[1].read_bytes()
        with pytest.raises(ValueError, match=r"[Oo]bject arrays cannot be saved"):
            st.save(st.Study("objects", {"a": np.array([{}])}, {}), saved[0])
        assert saved[1].read_bytes() == before


class Interrupt(BaseException):
    """Ctrl-C, or as good as a kill."""


class TestInterrupted:
    def files(self, saved):
        return {path.name: path.read_bytes() for path in saved[0].parent.iterdir()}

    @pytest.mark.parametrize(
        "call", [(np, "savez_compressed"), (json, "dumps"), (os, "replace")], ids=["arrays", "text", "rename"]
    )
    def test_a_write_that_fails_leaves_the_old_files_and_no_others(self, saved, study, monkeypatch, call):
        before = self.files(saved)

        def fail(target, *rest, **options):
            if hasattr(target, "write"):
                target.write(b"half")
            raise Interrupt

        with monkeypatch.context() as patch:
            patch.setattr(*call, fail)
            with pytest.raises(Interrupt):
                st.save(st.Study("another", {"a": np.ones(3)}, {}), saved[0])
        assert self.files(saved) == before
        assert same(study, st.load(saved[0]))

    def test_cut_off_between_its_two_files_a_result_is_refused_not_mixed(self, saved, study, monkeypatch):
        other = dataclasses.replace(study, arrays={**study.arrays, "a": np.zeros(3)}, parameters={"seed": 4})
        calls, replace = [], os.replace

        def once(*paths):
            calls.append(paths)
            if len(calls) > 1:
                raise Interrupt
            replace(*paths)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", once)
            with pytest.raises(Interrupt):
                st.save(other, saved[0])
        assert len(calls) == 2
        with pytest.raises(ValueError, match="do not belong together"):
            st.load(saved[0])

    def test_writing_again_replaces_the_result(self, saved):
        again = st.Study("again", {"b": np.ones(3)}, {})
        st.save(again, saved[0])
        assert same(again, st.load(saved[0]))
        assert set(self.files(saved)) == {"study.npz", "study.json"}


class TestUnwritable:
    def test_a_place_under_a_file(self, study, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(ValueError, match=r"file/study cannot be written \(.+\)\. Choose another place"):
            st.save(study, tmp_path / "file" / "study")

    def test_a_folder_in_the_way(self, study, tmp_path):
        (tmp_path / "study.npz").mkdir()
        with pytest.raises(ValueError, match=r"study cannot be written \(Is a directory\)"):
            st.save(study, tmp_path / "study")
        assert [p.name for p in tmp_path.iterdir()] == ["study.npz"]

    def test_a_folder_is_not_a_result(self, tmp_path):
        with pytest.raises(ValueError, match="does not exist: a result is"):
            st.load(tmp_path)
