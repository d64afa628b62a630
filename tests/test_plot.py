"""A picture shows the numbers of its result and no others, for every kind of result, as PNG and SVG."""

import io

import numpy as np
import pytest
from scipy.stats import norm

import stability as st
from stability.linear.trust import VALID
from stability.pictures.curves import apart
from stability.pictures.style import COLORS, MARKERS, SIZES
from stability.spectra.estimation import spectrum
from stability.training.history import History

NAMES = np.array(["SGD", "Newton", "damped Newton", "SFN", "LRSFN"])


def flow(spectrum=(1.0, 0.1), method=None, noise=None, step=0.1):
    return st.Flow(st.quadratic(spectrum), method or st.SGD(), noise or st.Noise(gradient=1.0), step=step)


def ensemble(a_flow=None, **options):
    a_flow = a_flow or flow()
    return st.simulate(
        a_flow, **{"start": np.zeros(a_flow.dim), "t_end": 2.0, "paths": 60, "seed": 0, **options}
    )


def drawn(axis, color=None):
    """(x, y) of the lines of an axis, in the order of drawing."""
    return [
        np.column_stack(line.get_data()).astype(float)
        for line in axis.lines
        if color in (None, line.get_color())
    ]


def holds(axis, x, y):
    """Whether one of the axis's lines is (x, y) exactly; nan equals nan."""
    wanted = np.column_stack(np.broadcast_arrays(x, y)).astype(float)
    return any(
        found.shape == wanted.shape and np.array_equal(found, wanted, equal_nan=True) for found in drawn(axis)
    )


def texts(legend):
    """What a legend says."""
    return [text.get_text() for text in legend.get_texts()]


def assert_draws(figure):
    """Once, without a warning; `reproduce` saves them all."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.set_layout_engine("none")
    figure.set_dpi(40)
    FigureCanvasAgg(figure).draw()


def assert_saves(figure):
    """As PNG and as SVG, without a warning."""
    for kind, magic in (("png", b"\x89PNG"), ("svg", b"<?xml")):
        stream = io.BytesIO()
        figure.savefig(stream, format=kind, dpi=40)
        assert stream.getvalue().startswith(magic)


class TestLinearFlow:
    def test_at_a_minimum_shows_gains_and_rates_by_curvature(self):
        linear = st.linearize(flow((1.0, 0.5, 0.01), st.SFN(damping=0.2)))
        figure = st.plot(linear)
        gains, rates = figure.axes
        assert holds(gains, linear.eigenvalues, linear.gains)
        assert holds(rates, linear.eigenvalues, linear.rates)
        assert (gains.get_xscale(), gains.get_yscale()) == ("log", "log")
        assert_saves(figure)

    def test_at_a_saddle_marks_negative_curvature_apart(self):
        linear = st.linearize(flow((1.0, -0.5, 0.1), st.Newton()))
        figure = st.plot(linear)
        gains, rates = figure.axes
        up = linear.eigenvalues > 0
        for axis, values in ((gains, linear.gains), (rates, linear.rates)):
            assert holds(axis, linear.eigenvalues[up], values[up])
            assert holds(axis, -linear.eigenvalues[~up], values[~up])
        assert [text.get_text() for text in gains.get_legend().get_texts()] == [
            r"$\lambda > 0$",
            r"$\lambda < 0$",
        ]
        assert gains.get_yscale() == "symlog"
        assert_draws(figure)

    @pytest.mark.parametrize("spectrum", [(1.0,), (-1.0, -0.1), (1.0, 0.0), (0.0, 0.0)], ids=str)
    def test_unusual_spectra_are_drawn(self, spectrum):
        linear = st.linearize(flow(spectrum))
        figure = st.plot(linear)
        left, right = figure.axes[1].get_xlim()
        shown = np.concatenate([x for x, _ in (line.get_data() for line in figure.axes[1].lines[:-1])])
        np.testing.assert_array_equal(np.sort(shown), np.sort(np.abs(linear.eigenvalues)))
        assert left <= shown.min() <= shown.max() <= right

    def test_bounds_show_every_methods_limit_and_amplification(self):
        methods = [st.SGD(), st.Newton(), st.SFN(damping=0.1)]
        noise = st.Noise(gradient=0.1, curvature=0.1, reference=[0.0, 0.0])
        table = st.bounds(st.quadratic([1.0, 0.1]), noise, methods, step=0.1)
        limits, gains = st.plot(table).axes
        for name, axis in (("step_limit", limits), ("step_limit_L2", limits), ("amplification", gains)):
            values = {getattr(row, name) for row in table.rows if np.isfinite(getattr(row, name))}
            assert values <= {float(x) for line in axis.lines for x in line.get_xdata()}
        assert [label.get_text() for label in limits.get_yticklabels()] == [row.method for row in table.rows]
        hollow = [line for line in limits.lines if line.get_fillstyle() == "none" and len(line.get_xdata())]
        assert bool(hollow) == (not all(row.valid for row in table.rows)) is True

    def test_an_infinite_validity_is_written_out(self):
        linear = st.linearize(flow((1.0, 1.0), st.LRSFN(rank=1, damping=0.1), st.Noise(curvature=1.0)))
        assert "validity inf" in st.plot(linear).get_suptitle()


class TestEnsemble:
    def test_with_snapshots_shows_mean_spread_and_paths(self):
        ens = ensemble(save=5)
        figure = st.plot(ens)
        assert len(figure.axes) == 2
        for i, axis in enumerate(figure.axes):
            assert holds(axis, ens.times, ens.mean[:, i])
            assert holds(axis, ens.times, ens.states[:, 0, i])
            assert len(axis.lines) == 41  # the mean, and no more than 40 paths
            band = axis.collections[0].get_paths()[0].vertices
            for sign in (-2, 2):
                edge = np.column_stack([ens.times, ens.mean[:, i] + sign * np.sqrt(ens.covariance[:, i, i])])
                assert all(np.isclose(band, point).all(axis=1).any() for point in edge)
        assert_saves(figure)

    def test_at_one_time_shows_the_density(self):
        ens = ensemble()
        figure = st.plot(ens)
        for i, axis in enumerate(figure.axes):
            heights, edges = np.histogram(ens.states[-1, :, i], bins=60, density=True)
            np.testing.assert_allclose([bar.get_height() for bar in axis.patches], heights)
            np.testing.assert_allclose([bar.get_x() for bar in axis.patches], edges[:-1])
        assert_draws(figure)

    def test_steps_of_a_schedule_and_averages_are_told(self):
        flow = st.Flow(st.quadratic([1.0]), st.SGD(), st.Noise(gradient=0.1), step=[0.1, 0.2])
        figure = st.plot(st.simulate(flow, start=[1.0], t_end=0.3, paths=5, seed=0, average=0.5))
        assert figure.get_suptitle() == "5 paths, sde, steps of a schedule, averaged with decay 0.5"

    @pytest.mark.parametrize("save", [None, 5])
    def test_diverged_paths_are_counted_and_left_out(self, save):
        ens = ensemble(radius=0.8, save=save)
        lost = int(ens.diverged.sum())
        assert 0 < lost < 60
        figure = st.plot(ens)
        assert f"; {lost} diverged, not drawn" in figure.get_suptitle()
        if save:
            shown = [line.get_ydata() for line in figure.axes[0].lines]
            assert not any(
                np.array_equal(path, ens.states[:, k, 0])
                for path in shown
                for k in np.flatnonzero(ens.diverged)
            )
        assert_draws(figure)

    @pytest.mark.parametrize("save", [None, 5])
    @pytest.mark.parametrize("radius", [1e-9, None], ids=["all-diverged", "none"])
    @pytest.mark.parametrize("paths", [1, 3])
    def test_few_or_no_paths_are_drawn_without_a_warning(self, save, radius, paths):
        assert st.plot(ensemble(radius=radius, save=save, paths=paths)).axes

    def test_no_more_than_four_axes_are_drawn(self):
        assert len(st.plot(ensemble(flow(np.ones(6)), save=2)).axes) == 4


class TestComparison:
    @pytest.mark.parametrize("save", [None, 3])
    @pytest.mark.slow
    def test_shows_measured_against_predicted_moments(self, save):
        a_flow = flow()
        comparison = st.compare(st.linearize(a_flow), ensemble(a_flow, save=save))
        figure = st.plot(comparison)
        mean, covariance, z, *densities = figure.axes
        assert holds(mean, comparison.predicted_mean.ravel(), comparison.measured_mean.ravel())
        upper = np.triu_indices(2)
        predicted, measured = (
            part[:, *upper].ravel()
            for part in (comparison.predicted_covariance, comparison.measured_covariance)
        )
        assert holds(covariance, predicted, measured)
        error = comparison.covariance_error[:, *upper].ravel()
        segments = covariance.containers[0].lines[2][0].get_segments()
        np.testing.assert_allclose(
            [part[:, 1] for part in segments], np.column_stack([measured - 2 * error, measured + 2 * error])
        )
        assert f"largest |z| = {comparison.max_z:.2f}" in figure.get_suptitle()
        assert holds(z, [1, 2], comparison.mean_z[-1])
        assert holds(z, [3, 4, 5], comparison.covariance_z[-1, *upper])
        if save:
            earlier = comparison.covariance_z[:-1, *upper]
            assert holds(z, np.tile([3, 4, 5], len(earlier)), earlier.ravel())
        assert len(densities) == 2
        assert_saves(figure)

    def test_shows_the_predicted_density_over_the_paths(self):
        a_flow = st.Flow(st.expression("x^2/2 + y^2/20"), st.SGD(), st.Noise(gradient=1.0), step=0.1)
        ens = ensemble(a_flow, start=[1.0, 0.0], paths=400, save=2)
        comparison = st.compare(st.linearize(a_flow, at=[0, 0]), ens)
        figure = st.plot(comparison)
        for i, axis in enumerate(figure.axes[3:]):
            heights, edges = np.histogram(ens.states[-1, :, i], bins=60, density=True)
            bars = axis.patches[0].get_data()
            np.testing.assert_allclose(bars.values, heights)
            np.testing.assert_allclose(bars.edges, edges)
            (curve,) = drawn(axis)
            mean, variance = comparison.predicted_mean[-1, i], comparison.predicted_covariance[-1, i, i]
            np.testing.assert_allclose(curve[:, 1], norm.pdf(curve[:, 0], mean, np.sqrt(variance)))
            assert axis.get_xlabel() == ("$x$", "$y$")[i]
        assert texts(figure.axes[3].get_legend()) == ["paths", "predicted"]

    def test_where_only_moments_were_kept_there_is_no_density(self):
        a_flow = flow()
        figure = st.plot(st.compare(st.linearize(a_flow), ensemble(a_flow, keep="moments")))
        assert len(figure.axes) == 3
        assert_draws(figure)


@pytest.fixture
def numbers():
    return np.random.default_rng(5)


def condition_number(rng):
    arrays = {
        "methods": NAMES,
        "kappa": np.geomspace(1, 1e4, 7),
        "theory": rng.uniform(1, 2, (2, 5, 7, 2, 3)),
        "validity": np.where(rng.random((2, 5, 7)) < 0.5, 0.01, 0.5),
        "measured_kappa": np.array([[1.0, 10.0, 100.0], [1.0, 10.0, np.nan]]),
        "measured": rng.uniform(1, 2, (2, 5, 3, 2, 3, 3)),
        "measured_validity": np.where(rng.random((2, 5, 3)) < 0.5, 0.01, 0.5),
    }
    arrays["measured"][1, :, 2] = np.nan
    return st.Study("condition-number", arrays, {"step": 0.2, "dim": 4, "damping": 0.2, "rank": 2})


def equal_rates(rng):
    arrays = {
        "methods": NAMES,
        "kappa": np.geomspace(1, 1e4, 7),
        "theory": rng.uniform(1, 2, (5, 7, 3)),
        "step": rng.uniform(1, 2, (5, 7)),
    }
    arrays |= {"measured_kappa": np.array([1.0, 10.0]), "measured": rng.uniform(1, 2, (5, 2, 2, 3, 3))}
    return st.Study("equal-rates", arrays, {})


def step_limit(rng):
    arrays = {"methods": NAMES, "kappa": np.geomspace(1.05, 1e3, 6), "tau": np.geomspace(1e-3, 3, 5)}
    arrays |= {
        name: np.geomspace(1e-2, 1e2, 30).reshape(5, 6) * rng.uniform(1, 1.1, (5, 5, 6))
        for name in ("limit", "exact_limit", "chain_radius", "iteration_radius")
    }
    return st.Study(
        "step-limit",
        arrays | {"exponent": rng.uniform(-1, 1, (5, 5, 6)), "exponent_error": np.full((5, 5, 6), 0.1)},
        {"step": 0.5, "damping": 0.1},
    )


def real_data(rng):
    fields = np.array(
        ["validity", "limit", "predicted", "predicted_L2", "measured", "error", "max_z", "diverged"]
    )
    table = rng.uniform(0.05, 0.2, (2, 4, len(fields)))
    arrays = {
        "methods": NAMES[[0, 2, 3, 4]],
        "fields": fields,
        "table": table,
        "variances": rng.uniform(1, 2, (2, 4, 2, 6)),
    }
    arrays["variances"][0, 1, 0] = np.nan
    return st.Study("real-data", arrays | {"settings": np.array([[32, 8, 0.3], [64, 256, 0.3]])}, {})


def errorbars(axis):
    """Measured values with their bars: rows of (x, y, lower end, upper end, marker, face)."""
    rows = []
    for bar in axis.containers:
        line, (segment,) = bar.lines[0], [part for group in bar.lines[2:] for part in group]
        low, high = segment.get_segments()[0][:, 1]
        rows.append(
            (
                line.get_xdata()[0],
                line.get_ydata()[0],
                low,
                high,
                line.get_marker(),
                line.get_markerfacecolor(),
                line.get_color(),
            )
        )
    return rows


def expected_bars(names, kappa, measured, trusted):
    """The same, written from a study's arrays: methods, points, levels, (value, error)."""
    rows = []
    for m, name in enumerate(names):
        for level, shift in ((0, 0.93), (1, 1.07)):
            for k in range(len(kappa)):
                value, error = measured[m, k, level, :2]
                if np.isfinite(value):
                    face = COLORS[name] if level == 0 and trusted[m, k] else "white"
                    low = value - min(2 * error, 0.9 * value)
                    rows.append(
                        (
                            kappa[k] * shift,
                            value,
                            low,
                            value + 2 * error,
                            MARKERS[name] if level == 0 else "x",
                            face,
                            COLORS[name],
                        )
                    )
    return rows


def assert_same_bars(found, wanted):
    assert [row[4:] for row in found] == [row[4:] for row in wanted]
    np.testing.assert_allclose([row[:4] for row in found], [row[:4] for row in wanted], rtol=1e-12)


@pytest.mark.slow
class TestStudies:
    def test_condition_number_shows_its_arrays(self, numbers):
        study = condition_number(numbers)
        figure = st.plot(study)
        axes = np.array(figure.axes).reshape(3, 2)
        for column in range(2):
            trusted = study["measured_validity"][column] < VALID
            for row in range(3):
                axis = axes[row, column]
                for m in range(5):
                    level, second = study["theory"][column, m, :, :, row].T
                    inside = study["validity"][column, m] < VALID
                    assert holds(axis, study["kappa"], level)
                    assert holds(axis, study["kappa"], np.where(inside, level, np.nan))
                    assert holds(axis, study["kappa"], np.where(inside, second, np.nan)) == bool(column)
                measured = study["measured"][column, :, :, :, row]
                assert_same_bars(
                    errorbars(axis), expected_bars(NAMES, study["measured_kappa"][column], measured, trusted)
                )
        assert_draws(figure)

    def test_equal_rates_shows_its_arrays(self, numbers):
        study = equal_rates(numbers)
        figure = st.plot(study)
        for row, axis in enumerate(figure.axes):
            assert all(holds(axis, study["kappa"], study["theory"][m, :, row]) for m in range(5))
            bars = expected_bars(
                NAMES, study["measured_kappa"], study["measured"][:, :, :, row], np.ones((5, 2), dtype=bool)
            )
            assert_same_bars(errorbars(axis), bars)
        assert_draws(figure)

    def test_step_limit_shows_its_radii_and_the_boundaries_over_them(self, numbers):
        study = step_limit(numbers)
        figure = st.plot(study)
        for m, axis in enumerate(figure.axes[:5]):
            assert axis.get_title() == NAMES[m]
            mesh = axis.collections[0]
            np.testing.assert_allclose(
                np.asarray(mesh.get_array()).ravel(), np.log10(study["chain_radius"][m]).ravel()
            )
            # Each boundary crosses each row of the grid between neighbours of which one limit is above the
            # step and one below.
            for lines, name in ((axis.collections[1], "limit"), (axis.collections[2], "exact_limit")):
                boundary = np.concatenate([path.vertices for path in lines.get_paths()])
                log_limit = np.log10(study[name][m] / study.parameters["step"])
                crossed = [
                    (i, k) for i in range(5) for k in range(5) if log_limit[i, k] * log_limit[i, k + 1] < 0
                ]
                assert crossed
                for i, k in crossed:
                    at_row = boundary[np.isclose(boundary[:, 1], study["tau"][i]), 0]
                    assert ((at_row > study["kappa"][k]) & (at_row < study["kappa"][k + 1])).any()
        assert_draws(figure)

    def test_step_limit_without_any_boundary_is_drawn_without_a_warning(self, numbers):
        study = step_limit(numbers)
        flat = {
            name: np.full((5, 5, 6), 0.1)
            for name in ("limit", "exact_limit", "chain_radius", "iteration_radius", "exponent")
        }
        assert st.plot(
            st.Study(
                study.name, {**study.arrays, **flat, "limit": np.full((5, 5, 6), np.inf)}, study.parameters
            )
        ).axes

    def test_real_data_shows_its_arrays_hollow_outside_validity(self, numbers):
        study = real_data(numbers)
        figure = st.plot(study)
        for s, axis in enumerate(figure.axes):
            for m, name in enumerate(study["methods"]):
                assert holds(axis, *study["variances"][s, m])
                face = COLORS[name] if study["table"][s, m, 0] < VALID else "white"
                assert axis.lines[m].get_markerfacecolor() == face
                assert f"validity {study['table'][s, m, 0]:.2f}" in axis.lines[m].get_label()
            assert "b = " in axis.get_title()
        assert_draws(figure)

    def test_drawing_changes_no_number(self, numbers):
        for make in (condition_number, equal_rates, step_limit, real_data):
            study = make(numbers)
            for array in study.arrays.values():
                array.flags.writeable = False
            assert st.plot(study).axes

    def test_colours_and_markers_tell_all_methods_apart(self):
        drawn = {*NAMES, "momentum", "Adam"}
        assert set(COLORS) == set(MARKERS) == set(SIZES) == drawn
        assert len(set(COLORS.values())) == len(set(MARKERS.values())) == len(drawn)


def run(refreshes=3, **changes):
    """A history whose every number is its own."""
    rng = np.random.default_rng(1)
    fields = {
        "losses": np.geomspace(2, 0.1, 20),
        "sweeps": np.linspace(0.5, 6, 20),
        "seconds": np.linspace(0, 1, 20),
        "steps": np.linspace(0.9, 0.1, 20),
        "final": np.zeros(4),
        "loss": 0.07,
        "states": np.zeros((0, 4)),
        "kept_at": np.zeros(0, dtype=int),
        "eigenvalues": np.array([4.0, -2.0, 1.0]) * rng.uniform(1, 2, (refreshes, 3)),
        "noise": rng.uniform(0.1, 0.2, (refreshes, 3)),
        "step_limits": np.linspace(1.1, 1.4, refreshes),
        "refreshed_at": np.linspace(0.5, 5, refreshes),
        "skipped": np.zeros(0, dtype=int),
        "status": "done",
        "provenance": {"method": "LRSFN(3)", "objective": "Quadratic"},
    }
    return History(**{**fields, **changes})


class TestHistory:
    def test_shows_losses_steps_limits_and_curvature_with_its_noise(self):
        history = run()
        figure = st.plot(history)
        loss, curvature, step = figure.axes
        assert holds(loss, history.sweeps, history.losses)
        assert holds(loss, history.sweeps[-1:], history.loss)
        assert (loss.get_yscale(), step.get_yscale(), curvature.get_yscale()) == ("log", "log", "symlog")
        linear = np.log10(curvature.yaxis.get_transform().linthresh)
        assert linear == round(linear)  # else a tick's label is written over the zero's
        assert holds(step, history.sweeps, history.steps)
        until = history.sweeps[-1:]  # the last limit holds until the end
        assert holds(
            step,
            np.append(history.refreshed_at, until),
            np.append(history.step_limits, history.step_limits[-1]),
        )
        assert step.lines[1].get_drawstyle() == "steps-post"
        for i, bar in enumerate(curvature.containers):
            values, noise = history.eigenvalues[:, i], history.noise[:, i]
            np.testing.assert_array_equal(bar.lines[0].get_ydata(), values)
            ends = [segment[:, 1] for segment in bar.lines[2][0].get_segments()]
            np.testing.assert_allclose(ends, np.column_stack([values - noise, values + noise]))
        assert len(curvature.containers) == 3
        assert "LRSFN(3): done" in figure.get_suptitle()
        assert_saves(figure)

    def test_no_line_crosses_the_work_of_a_refresh(self):
        """At 3 of 6 sweeps curvature costs 2 sweeps, at 1 it costs none to speak of."""
        sweeps = np.concatenate([np.linspace(0.3, 3.0, 10), np.linspace(5.3, 8.0, 10)])
        held = np.array([[0.9, 0.5], [2.7, 0.4], [5.6, 0.3], [8.0, 0.2]])
        history = run(sweeps=sweeps, refreshed_at=np.array([1.0, 5.0, 5.1]), held_back=held)
        loss, _, step = st.plot(history).axes
        for axis, values in ((loss, history.losses), (step, history.steps)):
            assert holds(axis, np.insert(sweeps, 10, np.nan), np.insert(values, 10, np.nan))
        assert holds(loss, np.insert(held[:, 0], 2, np.nan), np.insert(held[:, 1], 2, np.nan))
        assert "samples held back" in texts(loss.get_legend())

    def test_of_first_order_has_no_curvature(self):
        figure = st.plot(run(refreshes=0))
        assert len(figure.axes) == 2
        assert_draws(figure)

    def test_steps_not_taken_are_marked_and_not_drawn_as_zero(self):
        steps, losses = np.full(20, 0.5), np.geomspace(2, 0.1, 20)
        steps[7], losses[7] = 0, np.nan
        history = run(steps=steps, losses=losses, skipped=np.array([7]))
        loss, _, step = st.plot(history).axes
        assert holds(loss, history.sweeps[[7]], history.loss)
        assert holds(step, history.sweeps, np.where(steps > 0, steps, np.nan))

    @pytest.mark.parametrize(
        "changes",
        [
            {name: np.zeros(0) for name in ("losses", "sweeps", "seconds", "steps")} | {"refreshes": 0},
            {"loss": float("nan"), "losses": np.full(20, np.nan)},
            {"losses": -np.ones(20)},
            {"noise": np.full((3, 3), np.nan), "step_limits": np.full(3, np.inf)},
            {"eigenvalues": np.zeros((3, 3)), "steps": np.zeros(20), "step_limits": np.full(3, np.nan)},
            {"refreshes": 1},
        ],
        ids=[
            "no iteration",
            "nothing finite",
            "negative losses",
            "noise not known",
            "no curvature",
            "one refresh",
        ],
    )
    @pytest.mark.slow
    def test_unusual_runs_are_drawn_without_a_warning(self, changes):
        assert_draws(st.plot(run(**changes)))

    def test_a_real_run_has_a_picture(self):
        history = st.minimize(
            st.quadratic([10.0, 1.0, -0.1]),
            [1.0, 1.0, 0.1],
            method=st.LRSFN(rank=2, damping=0.1),
            step=0.5,
            iterations=5,
        )
        assert holds(st.plot(history).axes[0], history.sweeps, history.losses)


class TestSpectrum:
    @pytest.mark.parametrize("deflate", [0, 2, 60])
    @pytest.mark.slow
    def test_shows_density_counts_and_outliers(self, deflate):
        lams = np.concatenate([[30.0, -20.0], np.linspace(-0.1, 1.0, 58)])
        s = spectrum(st.quadratic(lams), deflate=deflate)
        study = s.data()
        figure = st.plot(s)
        left, right = figure.axes
        assert holds(left, study["grid"], study["density"])
        assert (left.get_xscale(), left.get_yscale()) == ("symlog", "log")
        marks = [line.get_xdata() for line in left.lines if line.get_marker() == "|"]
        assert [list(mark) for mark in marks] == ([list(s.outliers)] if deflate else [])
        for counts in study["counts"]:
            assert holds(right, study["sizes"], np.where(counts >= 0.5, counts, np.nan))
        assert f"60 eigenvalues from {s.stats['hessian_products']} products" in figure.get_suptitle()
        assert_draws(figure)

    @pytest.mark.parametrize("scale", [0.0, 1.0, -1e-12])
    def test_operators_of_one_eigenvalue_are_drawn_without_a_warning(self, scale):
        assert_draws(st.plot(spectrum(lambda V: scale * V, n=9)))


class TestCurvesThatCoincide:
    def axis(self, *curves, **style):
        from matplotlib.figure import Figure

        axis = Figure().subplots()
        for k, (x, y) in enumerate(curves):
            axis.plot(x, y, color=f"C{k}", **style)
        apart(axis)
        return axis

    def styles(self, axis):
        return [line.get_linestyle() for line in axis.lines]

    def test_are_dashed_so_that_each_shows_its_part(self):
        x = np.linspace(0, 1, 9)
        lines = self.axis((x, x**2), (x, x**2), (x, x**2 + 1e-4), lw=2.0).lines
        dashes = [line._unscaled_dash_pattern for line in lines]
        assert dashes == [(0, None), (0, (4.0, 2.0)), (0, (2.0, 4.0))]
        assert lines[0].zorder < lines[1].zorder < lines[2].zorder

    @pytest.mark.parametrize("scale", ["linear", "log"])
    def test_are_told_from_those_that_only_meet(self, scale):
        x = np.linspace(0.01, 1, 50)
        from matplotlib.figure import Figure

        axis = Figure().subplots()
        axis.set(yscale=scale)
        for k, y in enumerate((x, 1.01 - x, x + 0.1, 0.9 * x)):
            axis.plot(x, y, color=f"C{k}")
        apart(axis)
        assert self.styles(axis) == ["-"] * 4

    def test_the_one_that_goes_its_own_way_for_longest_stays_whole(self):
        x = np.linspace(0, 1, 100)
        axis = self.axis((x, 0 * x), (x, 0 * x), (x, np.maximum(0.5 - x, 0)))
        assert self.styles(axis) == ["--", "--", "-"]
        assert axis.lines[2].zorder < axis.lines[0].zorder < axis.lines[1].zorder

    def test_one_colour_is_one_curve_and_marks_are_none(self):
        x = np.linspace(0, 1, 9)
        axis = self.axis((x, x))
        axis.plot(x, x, color="C0")  # the same method's
        axis.plot(x, x, "o", color="C1")
        axis.plot(x, np.full(9, np.nan), color="C2")
        axis.plot(x, 1 - x, color="C3")
        axis.axhline(0.5, color="C4")
        axis.axvline(0.5, color="C5")
        apart(axis)
        assert self.styles(axis) == ["-", "-", "None", "-", "-", "-", "-"]

    def test_damped_newton_is_seen_below_sfn(self, numbers):
        """As at equal rates, where both gains differ by a factor that the step takes back."""
        study = equal_rates(numbers)
        study["theory"][...] *= 10.0 ** np.arange(5)[:, None, None]
        study["theory"][2] = study["theory"][3]
        for axis in st.plot(study).axes:
            dashed = {line.get_color() for line in axis.lines if line.get_linestyle() == "--"}
            assert dashed == {COLORS["SFN"]}


WELL = st.expression("x1^4/4 - x1^2/2 + slow^2/8")


@pytest.mark.parametrize(
    ("result", "labels"),
    [
        (lambda flow: st.portrait(flow.objective, 2, [st.SGD()], resolution=8, paths=0), {"$x_{1}$", "slow"}),
        (lambda flow: st.trajectory(flow, [1.0, 0.5], 1.0), {"$x_{1}$", "slow"}),
        (lambda flow: st.stationary_density(flow, 2, cells=20), {"$x_{1}$", "slow"}),
        (lambda flow: ensemble(flow, save=2), {"$x_{1}$", "slow"}),
        (lambda flow: ensemble(flow), {"$x_{1}$", "slow"}),
        (
            lambda flow: st.profile(st.expression("u^2"), 1, [st.SGD()], paths=100, t_end=1.0),
            {"$u$"},
        ),
        (
            lambda flow: st.stationary_density(
                st.Flow(st.expression("u^2"), st.SGD(), st.Noise(gradient=1.0), step=0.1), 1
            ),
            {"$u$"},
        ),
        (
            lambda flow: st.portrait(st.landscape("double_well"), 2, [st.SGD()], resolution=8, paths=0),
            {"$w_{1}$", "$w_{2}$"},
        ),
    ],
    ids=["portrait", "trajectory", "density", "paths", "last", "profile", "line", "no formula"],
)
@pytest.mark.slow
def test_axes_carry_the_formulas_own_names(result, labels, tmp_path):
    made = result(st.Flow(WELL, st.SGD(), st.Noise(gradient=0.3), step=0.1))
    for one in (made, st.load(st.save(made, tmp_path / "kept"))):
        found = {
            label.split("\n")[0]
            for axis in st.plot(one).axes
            for label in (axis.get_xlabel(), axis.get_ylabel())
        }
        assert labels <= found
        assert not {"$w$", "$w_{1}$", "$w_{2}$"} & found - labels


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (
            3,
            "There is no picture for int; there is for .*Comparison, .*LinearFlow, .*Study, .*Theorem, "
            "ExactMode, ExitTime, Spectrum and the datasets",
        ),
        (st.quadratic([1.0]), "There is no picture for Quadratic; there is for .*Comparison, "),
        (
            st.Study("other", {}, {}),
            "There is no picture for the study 'other'; there is for condition-number, equal-rates, "
            "step-limit, momentum",
        ),
    ],
    ids=["number", "objective", "study"],
)
def test_what_has_no_picture_says_what_has(result, message):
    with pytest.raises(TypeError, match=message):
        st.plot(result)


def test_the_users_own_style_is_left_alone():
    import matplotlib

    before = dict(matplotlib.rcParams)
    st.plot(st.linearize(flow()))
    assert dict(matplotlib.rcParams) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    "result",
    [
        st.exit_time(rate=0.5, diffusion=0.05, radius=1.0),
        st.exact_mode(st.SFN(damping=0.1), curvature=0.5, noise=st.Noise(curvature=0.2)),
        st.exact_mode(st.Newton(), curvature=0.5, noise=st.Noise(curvature=0.2)),
    ],
    ids=["exit time", "exact mode", "infinite second moment"],
)
def test_laws_beyond_linearisation_have_pictures(result, tmp_path):
    study = st.load(st.save(result.data(), tmp_path / "study"))
    st.plot(study).savefig(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 5000


def test_an_exit_that_takes_longer_than_any_float_has_no_picture():
    with pytest.raises(ValueError, match=r"The mean exit time is exp\(.*\): there is no time axis"):
        st.plot(st.exit_time(rate=-1.0, diffusion=1e-4, radius=1.0))


def test_an_exit_time_is_saved_and_loaded(tmp_path):
    law = st.exit_time(rate=0.5, diffusion=0.05, radius=1.0)
    assert st.load(st.save(law, tmp_path / "law")) == law
