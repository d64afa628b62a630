"""Results show themselves: what `repr` gives is the table that `print` shows, and Jupyter shows a table."""

import dataclasses
import xml.etree.ElementTree

import numpy as np
import pytest

import stability as st
from stability._display import Grid, Shown, number, point, settled


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
        assert repr(row).splitlines()[:3] == ["Bound", "method          SGD", "step_limit      2"]
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
