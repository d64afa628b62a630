"""A result that is a table becomes a pandas frame, one with axes an xarray dataset; nothing is rounded."""

import builtins

import numpy as np
import pandas as pd
import pytest
from results import flow

import stability as st


@pytest.fixture(scope="module")
def ensemble(every_result):
    return every_result["Ensemble"]


ROWS = {
    "Ensemble": (3 * 2, "variance"),
    "Comparison": (2 * 5, "z"),
    "LinearFlow": (2, "rate"),
    "Bounds": (2, "valid"),
    "Departure": (2, "distance"),
    "Trajectory": (3, "mean[1]"),
    "CriticalPoints": (3, "w[1]"),
    "Portrait": (3, "SGD share"),
    "Profile": (1, "agrees"),
    "LyapunovExponents": (2, "per_t"),
    "AlmostSureLimit": (lambda limit: len(limit.steps), "exponent"),
    "Escape": (lambda escape: len(escape.curve[0]), "survival"),
    "LowRank": (2, "residual"),
    "History": (8, "loss"),
    "Verdict": (4, "passed"),
    "MethodTable": (4, "rate"),
    "DerivativeCheck": (5, "ok"),
    "Table": (2, "kind"),
    "Advice": (2, "step limit"),
    "Watched": (2, "share"),
}
"""Rows of a kind's frame, and one of its columns."""


@pytest.mark.parametrize("name", sorted(ROWS))
def test_a_table_becomes_a_frame(every_result, name):
    rows, column = ROWS[name]
    frame = every_result[name].to_frame()
    assert len(frame) == (rows(every_result[name]) if callable(rows) else rows) > 0
    assert column in frame
    assert not frame.columns.duplicated().any()


def test_every_kind_that_has_a_frame_is_tested():
    kinds = {name for name in st.results.__all__ if hasattr(getattr(st.results, name), "to_frame")}
    assert kinds == ROWS.keys()


def test_nothing_is_rounded_or_left_out(ensemble):
    frame = ensemble.to_frame()
    assert frame["mean"].tolist() == ensemble.mean.ravel().tolist()
    assert frame.loc[(frame["time"] == 2.0) & (frame["axis"] == 1), "variance"].tolist() == [
        ensemble.covariance[2, 1, 1]
    ]
    wide = st.linearize(st.Flow(st.quadratic(np.arange(1.0, 101.0)), st.SGD(), step=0.01))
    assert len(wide.to_frame()) == 100 > len(repr(wide).splitlines())


def test_a_comparison_has_all_times_and_their_z(ensemble):
    comparison = st.compare(st.linearize(flow()), ensemble)
    frame = comparison.to_frame()
    cross = frame[frame["moment"] == "cov[0,1]"]
    np.testing.assert_array_equal(cross["z"], comparison.covariance_z[:, 0, 1])
    np.testing.assert_array_equal(cross["time"], comparison.times)


def test_a_table_of_data_has_its_columns_and_the_target():
    X, y = np.array([[-1.0, 1.0], [1.0, 1.0]]), np.array([0, 1])
    table = st.results.Table(X, y, ("length", "intercept"), target="kind")
    frame = table.to_frame()
    assert frame.columns.tolist() == ["length", "intercept", "kind"]
    assert isinstance(frame, pd.DataFrame)
    assert "to predict: kind" in repr(table)


class TestXarray:
    @pytest.fixture(autouse=True)
    def needs_xarray(self):
        pytest.importorskip("xarray", reason="xarray is not installed (extra sweep)")

    @pytest.mark.parametrize("name", ["Ensemble", "Comparison", "Trajectory", "Portrait", "Profile"])
    def test_axes_have_names(self, every_result, name, tmp_path):
        found = every_result[name].to_xarray()
        shown = {key: dict(zip(array.dims, array.shape, strict=True)) for key, array in found.items()}
        assert all(shown.values())
        found.to_netcdf(tmp_path / "found.nc", engine="h5netcdf")
        assert (tmp_path / "found.nc").stat().st_size > 1000

    def test_an_ensemble_by_time_path_and_coordinate(self, ensemble):
        found = ensemble.to_xarray()
        assert found["states"].dims == ("time", "path", "coordinate")
        assert found["quantiles"].dims == ("time", "level", "coordinate")
        assert float(found["mean"].sel(time=1.0, coordinate=0)) == ensemble.mean[1, 0]
        assert found.attrs["dt"] == 0.1
        assert "F_error" in found

    def test_without_paths_or_quantiles_there_are_no_such_arrays(self):
        ensemble = st.simulate(flow(), start=[1.0, 0.0], t_end=1.0, paths=100, seed=0, keep="moments")
        assert not {"states", "quantiles"} & set(ensemble.to_xarray())

    def test_a_density_by_its_axes(self):
        line = st.Flow(st.quadratic([1.0]), st.SGD(), st.Noise(gradient=1.0), step=0.1)
        found = st.stationary_density(line, 2)
        (axis,) = found.edges
        assert found.to_xarray()["density"].dims == (axis,)
        assert float(found.to_xarray()["mass"].sum()) == pytest.approx(1.0)

    def test_a_missing_xarray_is_named_in_one_sentence(self, ensemble, monkeypatch):
        original = builtins.__import__

        def refuse(name, *rest, **options):
            if name == "xarray":
                raise ImportError(name)
            return original(name, *rest, **options)

        monkeypatch.setattr(builtins, "__import__", refuse)
        with pytest.raises(ValueError, match=r"needs xarray: pip install 'sfn-stability\[sweep\]'"):
            ensemble.to_xarray()
