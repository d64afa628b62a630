"""Results show themselves: what `repr` gives is the table that `print` shows, and Jupyter shows a table."""

import dataclasses
import re
import xml.etree.ElementTree

import numpy as np
import pytest

import stability as st
from stability._display import Grid, Shown, number, point, settled
from stability._saving import Result


def parsed(page):
    """The HTML as a tree: it must be well-formed."""
    return xml.etree.ElementTree.fromstring(f"<div>{page}</div>")


class TestNumbers:
    @pytest.mark.parametrize(
        ("value", "spec", "shown"),
        [
            (0.0, ".4g", "0"),
            (-0.0, ".4g", "0"),
            (0.0, ".1e", "0"),
            (0.0, ".2f", "0.00"),
            (np.nan, ".4g", "-"),
            (-np.inf, ".4g", "-inf"),
            (np.float32(0.5), ".4g", "0.5"),
            (12345678, ".4g", "1.235e+07"),
        ],
    )
    def test_a_number_as_a_cell(self, value, spec, shown):
        assert number(value, spec) == shown

    def test_rounding_is_zero_beside_what_it_was_computed_from(self):
        assert settled([3.1e-112, -2e-17, 1e-9, np.nan], of=1.0).tolist()[:3] == [0.0, 0.0, 1e-9]
        assert settled(3.1e-112, of=1e-111) == 3.1e-112

    def test_a_long_point_is_cut(self):
        assert point(np.arange(6)) == "(0, 1, 2, 3, 4, 5)"
        assert point(np.arange(7)) == "(0, 1, 2, 3, 4, 5, ...)"


class TestGrid:
    def test_columns_are_as_wide_as_their_widest_cell(self):
        grid = Grid([("name", ""), ("value", ".3g")], [("a long name", 1.0), ("b", None), ("c", "none")])
        assert grid.text().splitlines() == [
            "name         value",
            "a long name      1",
            "b",
            "c             none",
        ]

    def test_cells_are_escaped(self):
        tree = parsed(Grid([("a < b", "")], [("<script>&",)]).html())
        assert [cell.text for cell in tree.iter("td")] == ["<script>&"]
        assert [cell.text for cell in tree.iter("th")] == ["a < b"]

    def test_a_long_table_is_cut_and_says_so(self):
        grid = Grid([("i", "g")], [(i,) for i in range(1000)])
        assert len(grid.text().splitlines()) == 62
        assert "... and 940 more" in grid.text()
        assert "... and 940 more" in grid.html()


class TestResult:
    def test_its_repr_is_what_print_shows(self):
        table = st.bounds(st.quadratic([1.0]), st.Noise(), [st.SGD()], step=0.1)
        assert repr(table) == str(table)
        assert "Bounds(" not in repr(table)

    def test_every_result_does_so(self):
        for name in st.results.__all__:
            kind = getattr(st.results, name)
            assert issubclass(kind, Shown) or name == "Network", name
            assert kind.__repr__ is Shown.__repr__ or name == "Network", name

    def test_fields_are_shown_where_there_is_no_table(self):
        (row,) = st.bounds(st.quadratic([1.0]), st.Noise(), [st.SGD()], step=0.1).rows
        shown = [line.split() for line in repr(row).splitlines()[:3]]
        assert shown == [["Bound"], ["method", "SGD"], ["step_limit", "2"]]
        assert [cell.text for cell in parsed(row._repr_html_()).iter("td")][:4] == [
            "method",
            "SGD",
            "step_limit",
            "2",
        ]

    def test_arrays_are_shown_by_their_shape(self):
        @dataclasses.dataclass(frozen=True)
        class Large(st.Study):
            more: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((1000, 1000)))

        assert len(repr(Large("s", {}, {}))) < 500

    def test_an_estimate_reads_as_a_number_and_unpacks(self):
        value, error, reason = estimate = st.results.Estimate(2.0, 0.5)
        assert (value, error, reason) == (2.0, 0.5, "")
        assert repr(estimate) == "2 +- 0.5"
        assert repr(st.results.Estimate(np.inf, 0.0, "a pole")) == "inf +- 0 (a pole)"


class TestEveryKind:
    def test_there_is_one_of_each(self, every_result):
        shown = {name for name in st.results.__all__ if issubclass(getattr(st.results, name), Result)}
        assert shown <= every_result.keys()
        assert set(st.results.__all__) - shown == {"Network", "Progress"}

    def test_it_is_short_and_has_no_raw_array(self, every_result):
        for name, result in every_result.items():
            shown = repr(result)
            assert shown == str(result)
            assert 10 < len(shown) < 5000, name
            assert "array(" not in shown, name

    def test_jupyter_gets_the_same_cells_in_a_table_without_a_style_from_elsewhere(self, every_result):
        for name, result in every_result.items():
            page = result._repr_html_()
            tree = parsed(page)
            cells = [cell.text for cell in tree.iter("td") if cell.text]
            assert len(page) < 30_000
            assert not re.search("<script|<style|http|class=", page)
            assert name == "Theorem" or all(cell in repr(result) for cell in cells), name
            assert cells or name in ("Dataset", "Estimate"), name

    def test_it_is_saved_and_comes_back(self, every_result, tmp_path):
        for name, result in every_result.items():
            loaded = st.load(result.save(tmp_path / name))
            assert type(loaded) is type(result)
            assert repr(loaded) == repr(result), name


def test_rounding_in_a_result_shows_as_zero():
    """A deterministic run that has long arrived: 0.5^1000, and a mean far below its own spread."""
    still = st.Flow(st.quadratic([1.0, 0.5]), st.SGD(), step=0.5)
    shown = repr(st.simulate(still, start=[1.0, 1.0], t_end=500.0, paths=2, seed=0))
    assert not re.search(r"e-\d{2}", shown)
    rounded = st.quadratic([1.0, 1e-17, 0.0], rotation_seed=0)  # of a diagonal Hessian 1e-17 would be exact
    linear = st.linearize(st.Flow(rounded, st.SGD(), step=0.5))
    assert [line.split()[1] for line in repr(linear).splitlines()[2:5]] == ["1", "0", "0"]


def test_errors_of_what_nothing_random_is_in_show_as_zero():
    """Of exponents without curvature noise, and of sums that every probe has exactly."""
    still = st.Flow(st.quadratic([1.0, 0.5]), st.SFN(damping=0.1), step=0.1)
    products = st.lyapunov_exponents(still, iterations=50)
    assert [line.split()[2] for line in repr(products).splitlines()[2:4]] == ["0", "0"]
    trace = repr(st.spectrum(lambda V: V / 3, n=5)).splitlines()[3]
    assert trace.split() == ["trace", "1.66667", "0"]


def test_ipython_and_a_notebook_show_it():
    formatter = pytest.importorskip("IPython.core.formatters", reason="IPython is not installed")
    table = st.bounds(st.quadratic([1.0]), st.Noise(), [st.SGD()], step=0.1)
    data, _ = formatter.DisplayFormatter().format(table)
    assert data["text/html"].startswith("<table>")
    assert data["text/plain"] == str(table)
    data, _ = formatter.DisplayFormatter().format(st.theorem("damping"))
    assert data["text/latex"].startswith(r"\begin{align*}")


def test_a_formulas_variables_name_the_axes_of_tables_and_datasets():
    pytest.importorskip("xarray", reason="xarray is not installed")
    flow = st.Flow(st.expression("x^2/2 + y^2"), st.SGD(), st.Noise(gradient=1.0), step=0.1)
    ens = st.simulate(flow, start=[1, 0], t_end=1, paths=20)
    assert [line.split()[0] for line in str(ens).splitlines()[-2:]] == ["x", "y"]
    assert list(ens.to_frame()["axis"]) == ["x", "y"]
    assert list(ens.to_xarray()["mean"].sel(coordinate="y").dims) == ["time"]
    beside = st.compare(st.linearize(flow, at=[0, 0]), ens)
    assert list(beside.to_frame()["moment"]) == ["mean[x]", "mean[y]", "cov[x,x]", "cov[x,y]", "cov[y,y]"]
    assert set(st.stationary_density(flow, 2.0).to_xarray()["density"].dims) == {"x", "y"}
