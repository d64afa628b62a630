"""Parameter studies: grids, what a point may return, what is computed anew, and what is told."""

import concurrent.futures
import os
import re
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import sweeping

import stability as st
from stability.sweeps import records, study

pytest.importorskip("xarray", reason="xarray is not installed")
pytest.importorskip("joblib", reason="joblib is not installed")


def calls(log):
    return log.stat().st_size if log.exists() else 0


def sweep(grid, function=sweeping.square, **options):
    return st.sweep(grid, function, **{"workers": 0, **options})


class TestGrids:
    def test_all_combinations_in_the_order_of_the_axes(self):
        found = sweep({"x": [1, 2, 3], "y": np.array([0.5, 1.0])}, sweeping.plane)
        assert found["sum"].dims == ("x", "y")
        np.testing.assert_array_equal(found["sum"], [[1.5, 2.0], [2.5, 3.0], [3.5, 4.0]])
        assert found["sum"].sel(x=2, y=0.5) == 2.5
        assert found.stable.dtype == bool
        assert found.word.sel(x=3, y=1.0) == "3-1.0"
        assert found.path.dims == ("x", "y", "path_0")
        np.testing.assert_array_equal(found.path.sel(x=3, y=0.5), [3.0, 0.5, 1.5])
        assert (found.status == "done").all()

    def test_axes_that_vary_together(self):
        found = sweep({("x", "y"): [(1, 10), (2, 20)]}, sweeping.plane)
        assert found["sum"].dims == ("x_y",)
        np.testing.assert_array_equal(found["sum"], [11, 22])
        np.testing.assert_array_equal(found.x, [1, 2])
        np.testing.assert_array_equal(found.y, [10, 20])

    def test_a_list_of_points(self):
        found = sweep([{"x": 1, "y": 5}, {"x": 7, "y": 2}], sweeping.plane)
        assert found["sum"].dims == ("point",)
        np.testing.assert_array_equal(found["sum"], [6, 9])

    def test_one_value_for_all_points(self):
        found = sweep({"x": [1, 2], "y": 3.0}, sweeping.plane)
        assert found["sum"].dims == ("x",)
        assert found.y == 3.0

    def test_one_point(self):
        assert sweep({"x": 3}).y == 18.0

    def test_an_axis_with_one_float_is_one_of_floats(self):
        assert sweep({"x": [1, 2.5], "y": [1]}, sweeping.plane).word.values[0, 0] == "1.0-1"

    def test_methods_by_their_labels(self):
        methods = [st.SGD(), st.SFN(damping=0.1), st.SFN(damping=0.5), st.Momentum(st.SGD(), 0.9)]
        found = sweep({"kappa": [10.0], "method": methods}, sweeping.method)
        assert list(found.method.values) == [
            "SGD",
            "SFN (damping 0.1)",
            "SFN (damping 0.5)",
            "SGD + momentum 0.9",
        ]
        np.testing.assert_allclose(found.limit[0], [2.0, 2.2, 3.0, 3.8])

    def test_a_tuple_as_a_value(self):
        found = sweep({"x": [(1, 2), (3,)]}, sweeping.length)
        assert list(found.x.values) == ["(1, 2)", "(3,)"]
        assert list(found.y.values) == [2, 1]


class TestRandomNumbers:
    def test_a_points_numbers_depend_on_nothing_else(self):
        whole = sweep({"x": [1, 2, 3], "seed": range(4)}, sweeping.draws)
        part = sweep({"seed": [3, 1], "x": [3, 2]}, sweeping.draws)
        np.testing.assert_array_equal(
            part.normals.transpose("x", "seed", ...), whole.normals.sel(x=[3, 2], seed=[3, 1])
        )
        assert len(np.unique(whole.normals)) == 3 * 4 * 3

    def test_nor_on_the_workers(self):
        grid = {"x": [1, 2, 3], "seed": range(2)}
        alone, workers = (
            sweep(grid, sweeping.draws, seed=5),
            st.sweep(grid, sweeping.draws, seed=5, workers=2),
        )
        assert alone.identical(workers)

    def test_another_seed_gives_others(self):
        one, other = (sweep({"x": [1]}, sweeping.draws, seed=seed) for seed in (0, 1))
        assert not np.any(one.normals.values == other.normals.values)

    def test_the_whole_digest_enters(self):
        from stability.sweeps.compute import generator

        one, other = (generator(f"{n:064x}").random() for n in (1, 1 + 2**255))
        assert one != other


class TestResults:
    @pytest.mark.parametrize(
        ("kind", "status", "reason"),
        [
            ("ragged", "failed", "its rows differ in length"),
            ("nan", "done", "not finite: y"),
            ("told", "done", "it diverged"),
            ("text", "failed", "must return a mapping"),
            ("complex", "failed", r"Pass \.real"),
            ("own name", "failed", "'kind' is a parameter"),
            ("reserved", "failed", "'status' is none"),
            ("many", "failed", "100,000 numbers"),
        ],
    )
    def test_what_cannot_be_kept_is_told_at_its_point(self, kind, status, reason):
        found = sweep({"kind": [kind, "number"]}, sweeping.returns)
        assert found.status.values[0] == status
        assert re.search(reason, str(found.reason.values[0]))
        assert found.value.values[1] == 3.0

    def test_an_estimate_is_a_number_and_its_error(self):
        found = sweep({"kind": ["estimate"]}, sweeping.returns)
        assert found.y.values[0] == 0.25
        assert np.isfinite(found.y_error.values[0])

    def test_nothing_is_nothing(self):
        found = sweep({"kind": ["exit"]}, sweeping.returns)
        assert list(found.data_vars) == ["status", "reason"]

    def test_arrays_of_different_lengths_end_with_nan(self):
        found = sweep({"n": [2, 3]}, sweeping.lengths)
        np.testing.assert_array_equal(found.y, [[1, 1, np.nan], [1, 1, 1]])
        assert found.reason.values[0] == "`y` is ragged: shape (2,), and (3,) elsewhere"
        assert found.reason.values[1] == ""

    def test_arrays_of_other_axes_are_left_away(self):
        points = [{"n": 2, "deep": False}, {"n": 2, "deep": True}, {"n": 3, "deep": False}]
        found = sweep(points, sweeping.lengths)
        assert found.reason.values[1] == "`y` has 2 axes, and 1 elsewhere"
        assert np.isnan(found.y.values[1]).all()

    def test_an_unstable_point_is_an_answer_and_an_exception_a_failure(self):
        found = sweep({"rate": [1.0], "step": [0.5, 3.0]}, sweeping.stable)
        assert list(found.status.values[0]) == ["done", "unstable"]
        assert found.reason.values[0, 1] == "the step 3 is beyond 2"
        assert np.isnan(found.radius.values[0, 1])
        found = sweep({"x": [1, 2]}, sweeping.fails)
        assert found.status.values[1] == "failed"
        assert re.fullmatch(r"RuntimeError: no such thing \(sweeping\.py, line \d+\)", found.reason.values[1])
        assert found.attrs["failed"] == 1

    def test_one_that_stops_python_is_a_failure(self):
        assert sweep({"x": [1]}, sweeping.stops).status.values[0] == "failed"

    def test_names_and_texts_that_no_file_holds_as_they_are(self, tmp_path):
        points = {("k", "seed"): [(0, 2**100), (1, 3)]}
        found = sweep(points, sweeping.odd, store=tmp_path)
        assert found.a.dims == ("k_seed", "a_0_")  # the study has an a_0 of its own
        assert found.a_0.dims == found.k_seed_.dims == ("k_seed",)
        assert list(found.seed.values) == [str(2**100), "3"]
        assert found.text.values[0] == "x\\0y\\udc80"
        assert (tmp_path / "results.nc").exists()

    def test_units_and_long_names(self):
        found = sweep({"x": [1.0]}, units={"x": "m", "y": "m2"}, long_names={"y": "area"})
        assert found.x.attrs["units"] == "m"
        assert found.y.attrs == {"units": "m2", "long_name": "area"}
        assert "units" not in found.status.attrs
        found = sweep({"kappa": [10.0], "method": [st.SGD()]}, sweeping.method)
        assert found.kappa.attrs == {"long_name": "condition number", "units": "1"}


class TestStore:
    def test_only_new_points_are_computed(self, tmp_path):
        log, store = tmp_path / "log", tmp_path / "store"
        sweep({"x": [1, 2], "log": str(log)}, store=store)
        assert calls(log) == 2
        found = sweep({"x": [1, 2, 3], "log": str(log)}, store=store)
        assert calls(log) == 3
        np.testing.assert_array_equal(found.y, [2, 8, 18])
        assert st.sweep.open(store).identical(found)

    def test_it_ends_with_netcdf(self, tmp_path):
        import xarray

        found = sweep({"x": [1, 2], "y": [3]}, sweeping.plane, store=tmp_path / "s")
        with xarray.open_dataset(tmp_path / "s/results.nc", engine="h5netcdf") as kept:
            assert kept.equals(found)
            assert kept.attrs["study"] == "sweeping:plane"
            assert '"numpy"' in kept.attrs["versions"]
            assert kept["sum"].attrs["units"] == "1"

    @pytest.mark.parametrize("change", ["half", "bit", "empty", "another"])
    def test_a_damaged_record_is_found_named_and_computed_anew(self, tmp_path, change):
        log, store = tmp_path / "log", tmp_path / "s"
        grid = {"x": [1, 2, 3], "log": str(log)}
        whole = sweep(grid, store=store)
        one, other = sorted(store.glob("*/[0-9a-f]*.json"))[:2]
        content = one.read_bytes()
        flipped = bytearray(content)
        flipped[content.index(b"}}}") - 1] ^= 1  # another digit: the text is as good as before
        one.write_bytes(
            {"half": content[:50], "bit": flipped, "empty": b"", "another": other.read_bytes()}[change]
        )
        with pytest.warns(st.StabilityWarning, match=f"{one.name} is damaged.*counts as missing"):
            assert st.sweep.open(store).attrs["missing"] == 1
        with pytest.warns(st.StabilityWarning, match=f"{one.name} is damaged.*computed anew"):
            assert sweep(grid, store=store).identical(whole)
        assert calls(log) == 4
        assert one.read_bytes() == content

    def test_a_damaged_manifest_is_told_and_written_anew(self, tmp_path):
        sweep({"x": [1]}, store=tmp_path)
        (tmp_path / "sweep.json").write_text("{}")
        with pytest.raises(ValueError, match=r"sweep\.json is damaged.*writes it anew"):
            st.sweep.open(tmp_path)
        with pytest.warns(st.StabilityWarning, match=r"sweep\.json is damaged"):
            sweep({"x": [1]}, store=tmp_path)
        assert st.sweep.open(tmp_path).y == 2.0

    def test_changed_code_is_told_and_never_mixed(self, tmp_path, monkeypatch):
        sweep({"x": [1, 2]}, store=tmp_path)
        monkeypatch.setattr(sweeping, "GAIN", 3.0)
        with pytest.warns(st.StabilityWarning, match="holds 2 points of other code.*code has changed"):
            found = sweep({"x": [1, 2]}, store=tmp_path)
        np.testing.assert_array_equal(found.y, [3, 12])

    def test_so_is_another_seed_of_a_study_that_draws(self, tmp_path):
        sweep({"x": [1, 2]}, sweeping.draws, store=tmp_path)
        with pytest.warns(st.StabilityWarning, match="the seed was 0, and is 1 now"):
            sweep({"x": [1, 2]}, sweeping.draws, store=tmp_path, seed=1)

    def test_and_of_one_that_does_not_it_does_not_matter(self, tmp_path):
        log = tmp_path / "log"
        for seed in (0, 1):
            sweep({"x": [1], "log": str(log)}, store=tmp_path / "s", seed=seed)
        assert calls(log) == 1

    def test_another_version_is_told(self, tmp_path, monkeypatch):
        from stability import _saving

        sweep({"x": [1]}, store=tmp_path)
        genuine = _saving.provenance()
        genuine["versions"]["sfn-stability"] = "99.0"
        monkeypatch.setattr(_saving, "provenance", lambda: genuine)
        with pytest.warns(st.StabilityWarning, match=r"the package was \S+, and is 99\.0 now"):
            sweep({"x": [1]}, store=tmp_path)

    def test_changed_parameters_are_told(self, tmp_path):
        sweep({"x": [1, 2], "y": 3}, sweeping.plane, store=tmp_path)
        with pytest.warns(
            st.StabilityWarning, match="holds 2 points of this study, none of them of this grid"
        ):
            sweep({"x": [1, 2], "y": 4}, sweeping.plane, store=tmp_path)

    def test_a_newer_format_is_refused(self, tmp_path, monkeypatch):
        monkeypatch.setattr(records, "FORMAT", 2)
        sweep({"x": [1]}, store=tmp_path)
        monkeypatch.setattr(records, "FORMAT", 1)
        for read in (lambda: st.sweep.open(tmp_path), lambda: sweep({"x": [1]}, store=tmp_path)):
            with pytest.raises(ValueError, match=r"has format 2, newer than this version reads \(1\)"):
                read()

    def test_failed_points_are_computed_again_on_request(self, tmp_path):
        log, until = tmp_path / "log", tmp_path / "mended"
        grid = {"x": [1, 2, 3], "log": str(log), "until": str(until)}
        for _ in range(2):
            assert sweep(grid, sweeping.fails, store=tmp_path / "s").attrs["failed"] == 1
        assert calls(log) == 3
        until.touch()
        found = sweep(grid, sweeping.fails, store=tmp_path / "s", retry=True)
        assert calls(log) == 4
        np.testing.assert_array_equal(found.y, [1, 2, 3])

    def test_shards_share_a_store(self, tmp_path):
        log = tmp_path / "log"
        grid = {"x": range(7), "log": str(log)}
        for part in (1, 2, 3):
            found = sweep(grid, store=tmp_path / "s", shard=(part, 3))
            assert found.attrs["missing"] == (4, 2, 0)[part - 1]
            assert (tmp_path / "s/results.nc").exists() == (part == 3)
        assert calls(log) == 7
        assert found.identical(sweep(grid, store=tmp_path / "s"))


class TestBoundary:
    def test_it_is_where_the_study_stops_being_stable(self, tmp_path):
        grid = {"rate": [0.5, 1.0, 4.0], "step": [0.1, 10.0]}
        found = sweep(grid, sweeping.stable, refine="step", tolerance=1e-3, store=tmp_path)
        np.testing.assert_allclose(found.step_boundary, [4.0, 2.0, 0.5], rtol=1e-3)
        assert (found.step_boundary_low * found.rate < 2).all()
        assert (found.step_boundary_high * found.rate >= 2).all()
        # To a thousandth over two decades a grid has 4,600 steps.
        assert len(list(tmp_path.glob("*/[0-9a-f]*.json"))) <= 3 * 16
        assert found.radius.shape == (3, 2)
        assert st.sweep.open(tmp_path).identical(found)

    def test_of_a_condition(self):
        grid = {"rate": [1.0, 4.0], "step": [0.1, 10.0]}
        found = sweep(grid, sweeping.radius, refine={"step": "radius < 3"})
        np.testing.assert_allclose(found.step_boundary, [4.0, 1.0], rtol=0.01)

    def test_of_a_truth_value_and_whole_numbers(self):
        found = sweep({"x": [1, 1000], "y": 0.01}, sweeping.plane, refine={"x": "stable"}, tolerance=1e-9)
        assert (found.x_boundary_low, found.x_boundary_high) == (199, 200)

    def test_where_there_is_none_or_several_it_says_so(self):
        grid = {"rate": [0.01, 1.0, 50.0], "step": [0.1, 1.0, 3.0]}
        found = sweep(grid, sweeping.stable, refine="step")
        assert list(found.step_boundary_reason.values) == [
            "holds at all values of step",
            "",
            "does not hold at all values of step",
        ]
        assert np.isnan(found.step_boundary.values[[0, 2]]).all()
        several = sweep(
            {"rate": [1.0], "step": [0.1, 1.0, 1.9]}, sweeping.radius, refine={"step": "radius < 0.5"}
        )
        assert several.step_boundary_reason.values[0] == "changes 2 times; this is the first"
        assert several.step_boundary.values[0] == pytest.approx(0.5, rel=0.01)

    def test_a_failed_point_leaves_no_answer(self):
        found = sweep({"x": [1, 2]}, sweeping.fails, refine="x")
        assert found.x_boundary_reason == "there is no answer at x = 2"


class TestEngines:
    """Whatever computes them, points have the same bytes."""

    GRID: ClassVar = {"x": [1, 2, 3], "seed": range(2)}

    def test_the_same_bytes(self, tmp_path):
        def stored(name, **options):
            st.sweep(self.GRID, sweeping.draws, store=tmp_path / name, **options)
            return {path.name: path.read_bytes() for path in (tmp_path / name).rglob("*.*")}

        here = stored("here", workers=0)
        assert len(here) == 6 + 2
        assert stored("loky", workers=2) == here
        with concurrent.futures.ThreadPoolExecutor(2) as executor:
            assert stored("threads", executor=executor) == here

    def test_a_worker_that_dies_costs_its_point_only(self):
        found = st.sweep({"x": [1, 2, 3, 4]}, sweeping.dies, workers=2)
        assert list(found.status.values) == ["done", "failed", "done", "done"]
        assert "its worker died" in str(found.reason.values[1])

    def test_there_are_no_more_workers_than_cores(self):
        from stability.sweeps import engine

        assert engine.chosen(None, 10_000).width == engine.chosen(None, None).width <= os.cpu_count()

    def test_a_point_keeps_to_one_core(self):
        for workers in (0, 1):
            found = st.sweep({"x": [1]}, sweeping.threads, workers=workers)
            assert (int(found.blas[0]), int(found.cores[0])) == (1, 1)
        from stability._cores import _alone

        assert not _alone

    def test_an_executor_that_breaks_is_told_and_what_was_done_is_kept(self, tmp_path):
        class Breaks(concurrent.futures.ThreadPoolExecutor):
            left = 2

            def submit(self, *arguments):
                self.left -= 1
                if self.left < 0:
                    raise concurrent.futures.BrokenExecutor("gone")
                return super().submit(*arguments)

        with (
            Breaks(1) as executor,
            pytest.raises(RuntimeError, match=r"\(BrokenExecutor: gone\)\. 2 of 4 points"),
        ):
            st.sweep({"x": [1, 2, 3, 4]}, sweeping.square, executor=executor, workers=1, store=tmp_path)
        assert st.sweep.open(tmp_path).attrs["done"] == 2

    def test_ctrl_c_hands_over_what_was_done(self, tmp_path, monkeypatch):
        def pressed(x):
            if x == 3:
                raise KeyboardInterrupt
            return {"y": x}

        monkeypatch.setattr("random.Random.shuffle", lambda self, points: None)
        with pytest.raises(st.Interrupted, match=r"Interrupted: 2 of 4 points were done") as stopped:
            sweep({"x": [1, 2, 3, 4]}, pressed)
        assert list(stopped.value.result.status.values) == ["done", "done", "missing", "missing"]


class TestSources:
    """What a change of is noticed, and of what not."""

    def digest(self, folder, text, monkeypatch, name="studied", beside=""):
        (folder / f"{name}.py").write_text(text)
        (folder / "besides.py").write_text(beside)
        monkeypatch.syspath_prepend(str(folder))
        # Bytecode is taken for fresh where a file of the same size was changed within the same second.
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        for module in (name, "besides"):
            sys.modules.pop(module, None)
        return study.source_digest(__import__(name).f)

    TEXT = (
        "import besides\nfrom besides import g\nA = 1\n"
        "def h(x):\n    return g(x)\ndef f(x):\n    return h(x) + A\n"
    )

    @pytest.mark.parametrize(
        ("old", "new", "same"),
        [
            ("def f(x):\n", "def f(x):\n    # a comment\n", True),
            ("def f(x):\n", 'def f(x):\n    """What it does."""\n', True),
            ("import besides\n", "import besides\nUNUSED = 3\n", True),
            ("+ A", "- A", False),
            ("A = 1", "A = 2", False),
            ("return g(x)", "return -g(x)", False),
            ("def f(x):", "def f(x, n=A):", False),
        ],
    )
    def test_of_the_study_and_what_it_uses(self, tmp_path, monkeypatch, old, new, same):
        beside = "def g(x):\n    return x\n"
        before = self.digest(tmp_path, self.TEXT, monkeypatch, beside=beside)
        after = self.digest(tmp_path, self.TEXT.replace(old, new), monkeypatch, beside=beside)
        assert (before == after) == same

    def test_and_of_modules_of_the_users_own(self, tmp_path, monkeypatch):
        one, other = (
            self.digest(tmp_path, self.TEXT, monkeypatch, beside=f"def g(x):\n    return {k} * x\n")
            for k in (1, 2)
        )
        assert one != other

    def test_arrays_and_methods_count_by_their_values(self, tmp_path, monkeypatch):
        text = "import numpy as np\nimport stability as st\nA = {}\ndef f(x):\n    return A\n"
        values = [
            "np.arange(3)",
            "np.arange(4)",
            "st.SFN(damping=0.1)",
            "st.SFN(damping=0.2)",
            "{'a': [1, (2,)]}",
        ]
        found = [self.digest(tmp_path, text.format(value), monkeypatch) for value in values]
        assert len(set(found)) == len(values)
        assert found[0] == self.digest(tmp_path, text.format("np.arange(3)"), monkeypatch)


def nested():
    def inner(x):
        return {"y": x}

    return inner


BAD = {
    "10^9 points": (
        {"x": range(1000), "y": range(10**6)},
        {},
        r"at most 1,000,000 points; got 1000 x 1000000 = 1,000,000,000, which would leave 4.1 TB .* 12 days",
    ),
    "no grid": (3, {}, "`grid` must be a mapping"),
    "no values": ({"x": []}, {}, r"`grid\['x'\]` must have values; got none"),
    "no points": ([], {}, "must have points; got an empty list"),
    "points of different parameters": ([{"x": 1}, {"y": 1}], {}, "points with the same parameters"),
    "a set": ({"x": {1, 2}}, {}, "must be a list or an array of values.*Make a list of it"),
    "an object": ({"x": [object()]}, {}, r"must hold numbers, text, None.*Name it by a text"),
    "nan": ({"x": [1.0, np.nan]}, {}, r"must hold numbers; got nan"),
    "twice": ({"x": [1, 1]}, {}, r"'x' has 1 twice\. For repeats, add an axis 'seed'"),
    "a name on two axes": ({"x": [1], ("x", "y"): [(1, 2)]}, {}, "it has 'x' on two axes"),
    "no name": ({"a b": [1]}, {}, "must have names of parameters"),
    "rows": ({("x", "y"): [(1, 2), (3,)]}, {}, r"list of tuples of 2 values.*list\(zip\(x, y\)\)"),
    "an unknown parameter": ({"x": [1], "z": [1]}, {}, "got 'z'. It takes x, log"),
    "seeds for nobody": ({"x": [1], "seed": [1]}, {}, "got 'seed'.*Let it take `rng` or `seed`"),
    "a missing parameter": ({"log": ["a"]}, {}, "must have a value for 'x'.*'x': value"),
    "no function": ({"x": [1]}, {"function": 3}, "`study` must be a function of named parameters"),
    "a lambda": ({"x": [1]}, {"function": lambda x: x, "workers": 2}, "<lambda>, which has no name"),
    "a function inside": ({"x": [1]}, {"function": nested(), "workers": 2}, "inside another function"),
    "no workers": ({"x": [1]}, {"workers": -1}, "`workers` must be an integer >= 0"),
    "no executor": ({"x": [1]}, {"executor": 3}, r"`executor` must be a concurrent\.futures\.Executor"),
    "an executor and none": (
        {"x": [1]},
        {"executor": concurrent.futures.ThreadPoolExecutor(), "workers": 0},
        "leave `executor` away",
    ),
    "shard 0": (
        {"x": [1]},
        {"shard": (0, 4), "store": "s"},
        r"`shard\[0\]` must be an integer >= 1 and <= 4",
    ),
    "a shard": ({"x": [1]}, {"shard": 3, "store": "s"}, r"`shard` must be \(k, n\)"),
    "a shard of nothing": ({"x": [1]}, {"shard": (1, 2)}, "`shard` needs a `store`"),
    "a boundary of nothing": (
        {"x": [1, 2]},
        {"refine": "z"},
        "must name an axis of the grid; got 'z'. It has x",
    ),
    "a boundary of one": ({"x": [1]}, {"refine": "x"}, "an axis of two finite numbers at least"),
    "two boundaries": ({"x": [1, 2]}, {"refine": {"x": "", "y": ""}}, "`refine` must be an axis, as 'step'"),
    "no condition": ({"x": [1, 2]}, {"refine": {"x": "y <> 2"}}, "a condition such as 'radius < 1'"),
    "a condition on nothing": ({"x": [1, 2]}, {"refine": {"x": "z < 2"}}, "got 'z'. It returns y"),
    "a name of the result's own": ({"status": [1]}, {}, "must not have 'status'.*Rename the parameter"),
    "no tolerance": ({"x": [1]}, {"tolerance": 0}, "`tolerance` must be"),
    "no units": ({"x": [1]}, {"units": {"x": 1}}, r"`units` must be a mapping \{name: text\}"),
    "no seed": ({"x": [1]}, {"function": sweeping.draws, "seed": -1}, "`seed` must be an integer >= 0"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_told(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    grid, options, told = BAD[name]
    with pytest.raises(ValueError, match=told):
        sweep(grid, **options)


def test_what_is_no_store_is_told(tmp_path):
    with pytest.raises(ValueError, match="nothing does not exist"):
        st.sweep.open(tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"has no sweep\.json"):
        st.sweep.open(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file cannot be written"):
        sweep({"x": [1]}, store=tmp_path / "file")


def test_a_positional_or_a_fixed_argument_is_told():
    import functools

    def placed(x, /):
        return x

    with pytest.raises(ValueError, match=r"takes 'x' by place\. Remove the /"):
        sweep({"x": [1]}, placed)
    with pytest.raises(ValueError, match="Give x in the grid, as name: value"):
        sweep({"x": [1]}, functools.partial(sweeping.square, x=1))
    with pytest.raises(ValueError, match="each point is given its own"):
        sweep({"x": [1], "rng": [1]}, sweeping.draws)


@pytest.mark.parametrize("name", ["xarray", "h5netcdf", "joblib"])
def test_a_missing_extra_is_named(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=rf"needs {name}.*: pip install 'sfn-stability\[sweep\]'"):
        st.sweep({"x": [1]}, sweeping.square)


def test_what_lies_in_the_files_is_readable(tmp_path):
    sweep({"x": [1.5]}, store=tmp_path)
    (path,) = tmp_path.glob("*/[0-9a-f]*.json")
    assert '"parameters": {"x": 1.5}' in path.read_text()
    assert Path(path).parent.parent == tmp_path


@pytest.fixture(scope="module")
def found():
    from stability.sweeps.examples import minimum

    methods = [st.SGD(), st.SFN(damping=0.1)]
    return sweep({"kappa": [1.0, 10.0, 100.0], "step": [0.1, 1.0, 3.0], "method": methods}, minimum)


class TestPictures:
    """What is drawn of a dataset: the artists are looked at."""

    def test_lines_over_an_axis(self, found):
        picture = st.plot(found, x="kappa", y="amplification", hue="method")
        axes = picture.axes
        assert [axis.get_title() for axis in axes[:3]] == [f"learning rate = {s}" for s in ("0.1", "1", "3")]
        lines = axes[0].get_lines()
        assert [line.get_label() for line in lines] == ["SGD", "SFN"]
        np.testing.assert_allclose(lines[1].get_xdata(), [1, 10, 100])
        np.testing.assert_allclose(lines[1].get_ydata(), [1 / 1.1, 5.0, 1 / 0.11])
        assert axes[0].get_xscale() == "log"
        assert axes[0].get_xlabel() == "condition number"
        assert axes[0].get_ylabel() == "noise gain over SGD"

    def test_a_heat_map_with_where_it_stops_being_stable(self, found):
        picture = st.plot(found.isel(method=0), x="kappa", y="step", hue="limit")
        assert picture.axes[-1].get_ylabel() == "largest stable step"
        assert len(picture.axes[0].collections) == 2  # the map and the contour of `stable`
        unstable = sweep({"rate": [1.0, 4.0], "step": [0.1, 1.0, 3.0]}, sweeping.stable)
        mesh, border = st.plot(unstable).axes[0].collections
        assert mesh.get_array().shape == (3, 2)
        assert mesh.get_array().mask.sum() == 3  # no number: at rate 1 beyond 2, at rate 4 beyond 0.5
        assert len(border.get_paths()) == 1

    def test_the_refined_boundary_is_drawn(self):
        found = sweep({"rate": [0.5, 1.0, 4.0], "step": [0.1, 1.0, 10.0]}, sweeping.stable, refine="step")
        (line,) = st.plot(found, x="rate", y="step").axes[0].get_lines()
        np.testing.assert_allclose(line.get_ydata(), found.step_boundary)
        (line,) = st.plot(found, x="step", y="rate").axes[0].get_lines()
        np.testing.assert_allclose(line.get_xdata(), found.step_boundary)

    def test_without_a_choice(self, found):
        assert st.plot(found).axes[0].get_ylabel() == "learning rate"  # two axes of numbers: a map
        one = st.plot(sweep({"x": [3, 1, 2]}))
        np.testing.assert_array_equal(one.axes[0].get_lines()[0].get_xdata(), [1, 2, 3])
        by_name = st.plot(found, x="method", y="limit").axes[0]
        assert [text.get_text() for text in by_name.get_xticklabels()] == ["SGD", "SFN"]

    @pytest.mark.parametrize(
        ("options", "told"),
        [
            ({"x": "nothing"}, "`x` must be one of kappa, step, method; got 'nothing'"),
            (
                {"y": "nothing"},
                "`y` must be one of kappa, step, method, limit, amplification, stable; got 'nothing'",
            ),
            ({"x": "kappa", "y": "step", "hue": "method"}, "`hue` must be numbers where `y` is an axis"),
            ({"x": "kappa", "y": "limit", "hue": "amplification"}, "`hue` must be an axis where `y` is none"),
        ],
    )
    def test_what_is_not_there_is_told(self, found, options, told):
        with pytest.raises(ValueError, match=told):
            st.plot(found, **options)

    def test_more_axes_than_can_be_drawn(self):
        grid = {"a": [1, 2], "b": [1, 2], "c": [1, 2], "d": [1, 2]}
        found = sweep(grid, sweeping.four)
        with pytest.raises(
            ValueError, match=r"it has c, d\. Choose values, dataset\.isel\(\{'c': 0, 'd': 0\}\)"
        ):
            st.plot(found)
        assert len(st.plot(found.isel({"c": 0, "d": 0})).axes) == 2
        with pytest.raises(TypeError, match=r"choose axes of a dataset of st\.sweep; got a Study"):
            st.plot(st.Study("decay", {}, {}), x="a")
