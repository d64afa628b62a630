"""Phase portraits: where flow lines end, by SciPy's integrators and by what is known of each landscape."""

import numpy as np
import pytest
from scipy.integrate import solve_ivp

import stability as st
from stability.portraits.flowlines import LEFT, SINGULAR, UNDECIDED, UNDEFINED, follow

METHODS = [
    st.SGD(),
    st.Newton(),
    st.DampedNewton(damping=0.3),
    st.SFN(damping=0.1),
    st.LRSFN(rank=1, damping=0.3, tail="flat"),
]


@pytest.fixture(scope="module")
def wells():
    return st.portrait(st.landscape("double_well"), 1.6, METHODS, resolution=33, paths=2, t_end=2.0)


def column(seen, name):
    return list(seen.methods).index(name)


class TestFlowLines:
    @pytest.mark.slow
    @pytest.mark.parametrize("method", METHODS[:1] + METHODS[3:4], ids=lambda m: m.name)
    @pytest.mark.parametrize("name", ["coupled_quartic", "rosenbrock"])
    def test_they_end_where_scipys_do(self, name, method, rng):
        F = st.landscape(name)
        flow, region = st.Flow(F, method, step=0.1), np.array([[-2.0, 2.0], [-1.0, 3.0]])
        states = st.critical_points(F, region).states
        starts = rng.uniform(region[:, 0], region[:, 1], (12, 2))
        ends, _ = follow(flow, starts, region, [(k, state, 0.02) for k, state in enumerate(states)])
        for start, end in zip(starts, ends, strict=True):
            far = solve_ivp(
                lambda t, w: flow.drift(w),
                (0, 3000 if method.name == "SGD" else 300),
                start,
                method="LSODA",
                rtol=1e-9,
                atol=1e-11,
            ).y[:, -1]
            assert end == np.argmin(np.linalg.norm(states - far, axis=1))
            assert np.linalg.norm(states[end] - far) < 1e-3

    def test_a_line_is_the_solution(self):
        """Newton's flow on a quadratic goes straight to the minimum; gradient flow bends as exp(-H t)."""
        F, region = st.quadratic([1.0, 0.25]), np.array([[-2.0, 2.0]] * 2)
        for method, power in ((st.Newton(), 1.0), (st.SGD(), 4.0)):
            _, lines = follow(
                st.Flow(F, method, step=0.1),
                np.array([[1.5, 1.5]]),
                region,
                [(0, np.zeros(2), 1e-6)],
                keep=True,
            )
            x, y = (lines[np.isfinite(lines[:, 0, 0]), 0] / 1.5).T
            assert len(x) > 30
            np.testing.assert_allclose(x, y**power, atol=2e-3)

    @pytest.mark.slow
    def test_newton_is_cut_by_its_poles(self, wells):
        """Of the double well they are at x = +-1/sqrt(3): what starts between them ends at the saddle."""
        newton, x = column(wells, "Newton"), wells.x
        middle = np.abs(x) < 3**-0.5
        saddle = int(np.flatnonzero(wells.kinds == "saddle")[0])
        assert (wells.basins[newton][:, middle] == saddle).all()
        assert not (wells.basins[newton][:, ~middle] == saddle).any()

    @pytest.mark.slow
    def test_the_others_fall_to_either_side(self, wells):
        for name in ("SGD", "SFN", "LRSFN(1) flat tail"):
            basins = wells.basins[column(wells, name)]
            np.testing.assert_allclose(wells.points[basins[:, wells.x < -0.01], 0], -1)
            np.testing.assert_allclose(wells.points[basins[:, wells.x > 0.01], 0], 1)
            saddle = int(np.flatnonzero(wells.kinds == "saddle")[0])
            assert (
                basins[:, np.abs(wells.x) < 0.01] == saddle
            ).all()  # the stable manifold itself, which is on the grid

    def test_damped_newton_ends_at_its_pole(self):
        """On the monkey saddle it is drawn to the curve where the smallest curvature is minus the damping."""
        F = st.landscape("monkey_saddle")
        flow, region = st.Flow(F, st.DampedNewton(damping=0.3), step=0.1), np.array([[-1.5, 1.5]] * 2)
        ends, lines = follow(
            flow, np.array([[1.0, 0.3], [-0.5, 1.2]]), region, [(0, np.zeros(2), 1e-5)], keep=True
        )
        assert (ends == SINGULAR).all()
        for k in range(2):
            last = lines[np.isfinite(lines[:, k, 0]), k][-1]
            assert np.linalg.eigvalsh(F.hessian(last))[0] == pytest.approx(
                -0.3, abs=0.2
            )  # it stops within a step of it, where curvatures go down to -9

    def test_what_leaves_and_what_does_not_end(self):
        F, region = st.expression("x + y^2"), np.array([[-1.0, 1.0]] * 2)
        flow = st.Flow(F, st.SGD(), step=0.1)
        assert follow(flow, np.zeros((1, 2)), region, [])[0].tolist() == [LEFT]
        assert follow(flow, np.zeros((1, 2)), region, [], rounds=3)[0].tolist() == [UNDECIDED]


class TestPortrait:
    def test_what_methods_do(self, wells):
        told = dict(zip(wells.methods, wells.attracts.tolist(), strict=True))
        assert wells.kinds.tolist() == ["minimum", "minimum", "saddle"]
        assert told["SGD"] == told["SFN"] == ["attracts", "attracts", "passes"]
        assert told["Newton"] == told["damped Newton"] == ["attracts"] * 3

    def test_a_degenerate_point_is_flat_or_singular(self):
        seen = st.portrait(
            st.landscape("monkey_saddle"),
            1,
            [st.SGD(), st.Newton(), st.SFN(damping=0.1)],
            resolution=8,
            paths=0,
        )
        assert seen.attracts.tolist() == [["flat"], ["singular"], ["flat"]]
        assert seen.share(1, 0) == 1  # Newton's flow there is w' = -w/2
        assert seen.share(0, LEFT) == 1
        assert seen.paths.shape[2] == 0

    def test_a_maximum_repels(self):
        seen = st.portrait(st.expression("-x^2 - y^2/2"), 1, [st.SGD(), st.Newton()], resolution=8, paths=0)
        assert seen.attracts.tolist() == [["repels"], ["attracts"]]

    def test_it_prints_and_is_saved(self, wells, tmp_path):
        text = str(wells)
        assert "saddle (0, 0)" in text
        assert "attracts 5" in text or "attracts 4" in text
        assert text.endswith("status: ok")
        again = st.load(st.save(wells, tmp_path / "wells"))
        assert str(again) == text
        np.testing.assert_array_equal(again.lines, wells.lines)

    def test_paths_are_simulates(self, wells):
        flow = st.Flow(st.landscape("double_well"), METHODS[3], st.Noise(gradient=1.0), step=0.05)
        ens = st.simulate(flow, start=wells.start, t_end=2.0, dt=0.05 / 8, paths=2, seed=0, save=wells.times)
        np.testing.assert_array_equal(wells.paths[3], ens.states)

    def test_it_is_drawn(self, wells):
        figure = st.plot(wells)
        shown = [axis for axis in figure.axes if axis.axison]
        assert [axis.get_title() for axis in shown] == list(wells.methods)
        assert len(shown) == 5
        told = {text.get_text() for text in figure.axes[5].get_legend().get_texts()}
        assert told == {
            "critical point that attracts",
            "passes: in one way, out another",
            "leads to (-1, 0)",
            "leads to (1, 0)",
            "leads to (0, 0)",
            "flow lines",
            "level sets",
            "noisy paths of the SDE",
            "where they start",
        }

    @pytest.mark.slow
    def test_the_legend_names_what_is_there(self):
        seen = st.portrait(st.expression("x + y^2"), 1, [st.SGD()], resolution=8, level="iteration")
        told = [text.get_text() for text in st.plot(seen).legends[0].get_texts()]
        assert told == [
            "leaves the region",
            "flow lines",
            "level sets",
            "noisy paths of the iteration",
            "where they start",
        ]
        many = st.portrait(st.expression("cos(x)*cos(y)"), 6, [st.SGD()], resolution=12, paths=0)
        told = [text.get_text() for text in st.plot(many).legends[0].get_texts()]
        assert "colours: to the point among them" in told
        assert not [entry for entry in told if entry.startswith("leads to") or "paths" in entry]

    def test_a_landscape_without_points_is_drawn_too(self):
        seen = st.portrait(st.expression("x + y^2"), 1, [st.SGD()], resolution=8)
        assert seen.status == "no critical point was found in this region"
        assert st.plot(seen).axes[0].get_title() == "SGD"

    def test_outside_the_domain(self):
        seen = st.portrait(
            st.expression("log(x) + y^2"), 1, [st.SGD()], resolution=8, start=[0.5, 0.5], t_end=4.0
        )
        assert np.isnan(seen.values[:, 0]).all()
        assert (seen.basins[0][:, seen.x < 0] == UNDEFINED).all()
        assert (seen.basins[0][:, seen.x > 0] != UNDEFINED).all()
        assert not (seen.paths[0, ..., 0] < 0).any()  # they end at the domain's edge
        assert np.isnan(seen.paths[0, -1]).any()
        assert "outside the domain" in str(seen)
        st.plot(seen)

    def test_a_method_that_is_singular_everywhere_does_not_hide_the_others(self):
        seen = st.portrait(st.expression("x + y"), 1, resolution=8)
        assert (seen.basins[1] == SINGULAR).all()
        assert (seen.basins[[0, 2]] == LEFT).all()
        assert "no paths of Newton: The curvature is singular" in seen.status
        st.plot(seen)

    @pytest.mark.slow
    def test_a_step_beyond_the_scheme_is_told_in_the_status_and_hides_nothing(self):
        seen = st.portrait(st.landscape("rosenbrock"), 2, [st.SGD(), st.SFN(damping=0.1)], resolution=8)
        assert "paths of SGD grow where the flow does not: give a smaller `step`" in seen.status
        assert "SFN" not in seen.status
        assert np.isfinite(seen.paths[1]).all()

    @pytest.mark.slow
    def test_lines_to_points_just_outside_leave(self):
        seen = st.portrait(st.expression("cos(x)*cos(y)"), 6, [st.SGD()], resolution=12, paths=0)
        assert (seen.basins == LEFT).mean() > 0.2
        assert (seen.basins == UNDECIDED).mean() < 0.05


TILTED = st.expression("x^4/4 - x^2/2 + y^2 + x*y/3", ["x", "y"])
LOOSE = st.Noise(gradient=0.4)


KINDS = [st.Momentum(st.SFN(damping=0.2), 0.8, nesterov=True), st.Adam(), st.RMSprop(), st.SignSGD()]


@pytest.fixture(scope="module")
def remembering():
    return st.portrait(TILTED, 1.6, KINDS, noise=LOOSE, resolution=8, paths=2, t_end=0.5)


class TestMemory:
    """Flow lines of whole states, from rest."""

    @pytest.mark.parametrize(("beta", "crossings"), [(0.9, 2), (0.2, 0)], ids=["swings", "creeps"])
    def test_a_swing_is_the_damped_oscillators(self, beta, crossings):
        lam, start, step = np.array([1.0, 4.0]), np.array([0.9, -0.6]), 0.02
        flow, square = st.Flow(st.quadratic(lam), st.Momentum(st.SGD(), beta), step=step), [[-1.0, 1.0]] * 2
        ends, lines = follow(flow, start[None], np.array(square), [(0, np.zeros(2), 0.02)], keep=True)
        assert ends.tolist() == [0]
        line = lines[np.isfinite(lines[:, 0, 0]), 0]
        # x'' + Gamma x' + lam x / step = 0 from rest.
        t, half = np.linspace(0, 8, 40_000)[:, None], 0.5 * (1 - beta) / step
        omega = np.sqrt(lam / step - half**2 + 0j)
        exact = (start * np.exp(-half * t) * (np.cos(omega * t) + half / omega * np.sin(omega * t))).real
        gaps = [np.min(np.linalg.norm(exact - at, axis=1)) for at in line]
        assert max(gaps) < 0.01  # of a region 2 wide, in steps of 0.02
        assert np.sum(np.diff(np.sign(line[:, 0])) != 0) == crossings

    @pytest.mark.parametrize("m", [0, 1, 2])
    @pytest.mark.slow
    def test_a_basin_is_where_the_whole_state_settles(self, remembering, m):
        flow = st.Flow(TILTED, KINDS[m], LOOSE, step=0.05)
        for i, j in ((3, 4), (7, 3)):
            start = flow.rest(np.array([remembering.x[j], remembering.y[i]]), level="sde")
            found = solve_ivp(lambda t, z: flow.drift(z), (0, 30), start, method="LSODA")
            nearest = np.argmin(np.linalg.norm(remembering.points - found.y[:2, -1], axis=1))
            assert remembering.basins[m, i, j] == nearest

    def test_a_swing_passes_a_shallow_well(self):
        F = st.expression("x^4/4 - x^2/2 - x/5 + y^2", ["x", "y"])
        found = st.critical_points(F, 2)
        deep, shallow = np.argsort([point.value for point in found])[:2]
        sinks = [(k, found.states[k], 0.02) for k in (deep, shallow)]
        start, ends = np.array([[-1.8, 0.0]]), []
        for method in (st.SGD(), st.Momentum(st.SGD(), 0.95)):
            flow = st.Flow(F, method, step=0.2)
            ends.append(follow(flow, start, found.region, sinks)[0][0])
        assert ends == [shallow, deep]
        path = solve_ivp(lambda t, z: flow.drift(z), (0, 60), flow.rest(start[0]), rtol=1e-8)
        assert np.linalg.norm(path.y[:2, -1] - found.states[deep]) < 0.1

    def test_a_mean_square_that_falls_a_million_times_stays_one(self):
        seen = st.portrait(st.landscape("rosenbrock"), 2, [st.Adam()], step=0.01, paths=0, resolution=8)
        assert (seen.basins == 0).all()

    @pytest.mark.parametrize("method", [st.RMSprop(eps=0.1), st.Momentum(st.RMSprop(eps=0.1), 0.5)], ids=repr)
    def test_a_mean_square_may_be_zero(self, method):
        """Where neither noise nor slope is in a coordinate: there for ever, and where a line begins."""
        valley, square = st.expression("x^4/4 - x^2/2 + y^2", ["x", "y"]), np.array([[-2.0, 2.0]] * 2)
        for landscape, start in ((valley, [0.5, 0.0]), (TILTED, [0.75, -0.125])):
            assert landscape.gradient(start)[1] == 0
            flow = st.Flow(landscape, method, st.Noise(gradient=[1.0, 0.0]), step=0.05)
            end = max((point.w for point in st.critical_points(landscape, 2)), key=lambda w: w[0])
            assert follow(flow, np.array([start]), square, [(3, end, 0.02)])[0].tolist() == [3]

    def test_without_third_derivatives_too(self):
        class Bare:
            dim, reference = 2, None
            value = staticmethod(TILTED.value)
            gradient = staticmethod(TILTED.gradient)
            hessian = staticmethod(TILTED.hessian)

        starts, square = np.array([[1.5, 1.2], [-0.3, -1.4]]), np.array([[-1.6, 1.6]] * 2)
        flows = [
            st.Flow(F, st.Momentum(st.SFN(damping=0.2), 0.8), LOOSE, step=0.05) for F in (Bare(), TILTED)
        ]
        found = [follow(flow, starts, square, [], keep=True, rounds=40)[1] for flow in flows]
        np.testing.assert_allclose(*found, atol=1e-3)

    def test_rates_are_of_the_whole_flow(self, remembering):
        """Real parts of its Jacobian's eigenvalues at rest, the larger of the two of each mode."""
        assert remembering.attracts.tolist() == [["attracts", "attracts", "passes"]] * 4
        for m, method in enumerate(KINDS):
            flow = st.Flow(TILTED, method, LOOSE, step=0.05)
            for k, at in enumerate(remembering.points):
                values = np.linalg.eigvals(flow.jacobian(flow.rest(at, level="sde"))).real
                assert np.abs(values[:, None] - remembering.rates[m, k]).min(axis=0).max() < 1e-8

    def test_paths_are_simulates_and_the_legend_says_that_lines_cross(self, remembering):
        about = {"start": remembering.start, "t_end": 0.5, "dt": 0.05 / 8, "paths": 2, "seed": 0}
        ens = st.simulate(st.Flow(TILTED, KINDS[2], LOOSE, step=0.05), save=remembering.times, **about)
        np.testing.assert_array_equal(remembering.paths[2], ens.states)
        figure = st.plot(remembering)
        legends = [*figure.legends, *(axis.get_legend() for axis in figure.axes if axis.get_legend())]
        told = [text.get_text() for text in legends[0].get_texts()]
        assert "flow lines, from rest: may cross" in told

    @pytest.mark.parametrize(
        ("method", "noise", "message"),
        [
            (st.Adam(weight_decay=0.1), LOOSE, r"no weight decay: st.portrait .* Use Adam\(beta1=0.9, "),
            (st.SignSGD(), st.Noise(), "needs noise in every coordinate.*give it some"),
            (
                st.Adam(),
                st.Noise.streaming(np.eye(2), reference=[0.0, 0.0]),
                r"known for Gaussian noise.* st.Noise\(gradient=",
            ),
            (st.RMSprop(beta2=0.5), LOOSE, "`beta2` must be >= 0.9; got 0.5"),
        ],
        ids=repr,
    )
    def test_what_has_no_flow_is_told(self, method, noise, message):
        with pytest.raises(ValueError, match=message):
            st.portrait(TILTED, 1.6, [method], noise=noise)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resolution": 7}, "`resolution`"),
        ({"methods": []}, "at least one method"),
        ({"start": [1.0]}, r"`start` must have shape \(2,\)"),
        ({"paths": -1}, "`paths`"),
        ({"step": 0}, "`step`"),
        ({"t_end": -1}, "`t_end`"),
        ({"region": [1, 0]}, "low < high"),
    ],
    ids=str,
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        st.portrait(st.landscape("double_well"), **({"region": 1, "resolution": 8} | options))


def test_other_dimensions():
    with pytest.raises(ValueError, match=r"needs two dimensions; .* has 3"):
        st.portrait(st.landscape("double_well", dim=3), 1)
    with pytest.raises(ValueError, match=r"Give 1 of them a number, as in .*, a=1\.0\).* --set a=1\. In one"):
        st.portrait(st.expression("a*x^2 + y^2"), 1)
