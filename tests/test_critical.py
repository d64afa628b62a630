"""Critical points: found where they are known, classified, and doubted where they should be."""

import numpy as np
import pytest

import stability as st

MUELLER_BROWN = (
    "-200*exp(-(x - 1)^2 - 10*y^2) - 100*exp(-x^2 - 10*(y - 0.5)^2) - 170*exp(-6.5*(x + 0.5)^2 + 11*(x + "
    "0.5)*(y - 1.5) - 6.5*(y - 1.5)^2)"
    "+ 15*exp(0.7*(x + 1)^2 + 0.6*(x + 1)*(y - 1) + 0.7*(y - 1)^2)"
)


def found(text, region, **options):
    return st.critical_points(st.expression(text), region, **options)


class TestKnown:
    def test_mueller_and_browns_surface(self):
        """Three minima and two saddles; Mueller and Brown, Theor. Chim. Acta 53, 75 (1979)."""
        points = found(MUELLER_BROWN, [(-1.5, 1.2), (-0.2, 2.0)])
        known = [
            (-0.558, 1.442, -146.70, 0),
            (0.623, 0.028, -108.17, 0),
            (-0.050, 0.467, -80.77, 0),
            (0.212, 0.293, -72.25, 1),
            (-0.822, 0.624, -40.66, 1),
        ]
        assert points.status == "ok"
        assert [point.index for point in points] == [index for *_, index in known]
        np.testing.assert_allclose(
            [[*point.w, point.value] for point in points], [row[:3] for row in known], atol=6e-3
        )

    def test_the_double_wells(self):
        points = st.critical_points(st.landscape("double_well", dim=3), 2)
        assert [(p.kind, p.index, p.condition) for p in points] == [
            ("minimum", 0, 2),
            ("minimum", 0, 2),
            ("saddle", 1, 1),
        ]
        np.testing.assert_allclose(points.states, [[-1, 0, 0], [1, 0, 0], [0, 0, 0]], atol=1e-12)
        assert points.unseen == 0

    def test_the_coupled_quartic(self):
        points = st.critical_points(st.landscape("coupled_quartic"), 2)
        assert [point.kind for point in points] == ["minimum", "minimum", "saddle"]
        np.testing.assert_allclose(points.states, [[-1, 0], [1, 0], [0, 0]], atol=1e-12)
        np.testing.assert_allclose(points.eigenvalues, [[1, 2], [1, 2], [-1, 0.5]], atol=1e-12)

    def test_eigenvalues_that_are_zero_to_rounding_are_exactly_so(self):
        (point,) = st.critical_points(st.landscape("monkey_saddle"), 1)
        assert point.eigenvalues.tolist() == [0, 0]
        assert point.index == 0
        rows = {
            line.split("  ")[0]: line.split()
            for line in point.methods([st.SGD(), st.Newton()]).splitlines()[1:]
        }
        assert rows["SGD"][1] == "flat"
        assert rows["Newton"][1] == "singular"

    def test_minima_saddles_and_maxima_of_a_wave(self):
        points = found("sin(x)*sin(y)", [(-2, 2), (-2, 4)])
        kinds = [point.kind for point in points]
        assert (kinds.count("minimum"), kinds.count("saddle"), kinds.count("maximum")) == (2, 2, 2)
        for point in points:
            assert point.kind == {-1: "minimum", 0: "saddle", 1: "maximum"}[round(point.value)]

    def test_rosenbrocks_second_minimum(self):
        points = st.critical_points(st.landscape("rosenbrock", dim=5), 2)
        assert [point.kind for point in points] == ["minimum", "minimum", "saddle"]
        np.testing.assert_allclose(points[0].w, 1, atol=1e-9)
        assert points[1].value == pytest.approx(3.9308, abs=1e-3)

    def test_gradients_vanish_and_eigenvalues_are_the_hessians(self):
        F = st.expression("x^4 - 3*x*y + y^3 + z^2*(1 + x^2)")
        for point in st.critical_points(F, 2):
            assert np.linalg.norm(F.gradient(point.w)) < 1e-9
            np.testing.assert_allclose(point.eigenvalues, np.linalg.eigvalsh(F.hessian(point.w)), atol=1e-9)


class TestDoubts:
    @pytest.mark.parametrize("text", ["x^4 + y^2", "x^3 - 3*x*y^2", "x^2*y^2 + x^4 + y^4"])
    def test_a_singular_hessian_is_flagged(self, text):
        points = found(text, 1)
        assert [point.kind for point in points] == ["degenerate"]
        assert np.isinf(points[0].condition)
        assert points.status.startswith("1 degenerate")

    def test_a_point_that_is_approached_slowly_is_one(self):
        points = found("x^4 - 3*x*y + y^3 + z^2*x", 2)
        assert [point.kind for point in points] == ["minimum", "degenerate"]
        # On the curve x = y^2, y = z^2 / 3 the gradient is 2 z^5 / 9 along z: below eps it says nothing.
        assert np.abs(points[1].w).max() < (4.5 * np.finfo(float).eps) ** 0.2
        assert points[1].hits > 300

    @pytest.mark.parametrize(
        "text",
        ["(x*y - 1)^2", "x^2 + 0*y", pytest.param("(x^2 + y^2 - 1)^2", marks=pytest.mark.slow), "x^2*y^2"],
    )
    def test_a_valley_is_not_a_list_of_points(self, text):
        assert (
            found(text, 2).status.startswith("not isolated")
            if "0*y" not in text
            else found(text, 2, starts=99).status.startswith("not isolated")
        )

    def test_none(self):
        points = found("x + y^2", 1)
        assert len(points) == 0
        assert points.status == "no critical point was found in this region"
        assert np.isnan(points.unseen)
        assert "512 starts" in str(points)

    def test_outside_the_domain(self):
        assert found("log(x) + y^2", [(-2, -1), (-1, 1)]).status.startswith(
            "the gradient is not finite at any start"
        )
        points = found("sqrt(x)*(x - 1) + y^2", 2)
        assert [point.kind for point in points] == ["minimum"]
        assert points.status.startswith("ok; ")
        assert points.status.endswith("of 512 starts lie outside the domain")
        np.testing.assert_allclose(points[0].w, [1 / 3, 0], atol=1e-9)

    @pytest.mark.parametrize(
        "text", ["sqrt(x^2 + y^2)", "abs(x - 0.3) + abs(y + 0.2) + 0.1*x", "abs(x)^1.5 + abs(y)"]
    )
    def test_a_minimum_at_a_corner_is_not_passed_over(self, text):
        assert "where the gradient does not vanish: a corner?" in found(text, 1).status

    @pytest.mark.slow
    def test_few_starts_on_many_points_are_not_ok(self):
        assert found("cos(10*x)*cos(10*y)", 3).status.startswith(
            "not all: another start would find a new point"
        )

    def test_a_corner_is_not_called_a_minimum(self):
        assert found("abs(x) + y^2", 1).status.startswith("1 not smooth")

    def test_points_outside_the_region_are_counted_not_listed(self):
        points = found("(x - 3)^2 + y^2", 1)
        assert len(points) == 0
        assert points.left == points.starts


class TestResult:
    def test_it_is_a_sequence_that_prints_and_is_saved(self, tmp_path):
        points = st.critical_points(st.landscape("double_well"), 2)
        assert len(points) == len(list(points)) == len(points[:]) == 3
        text = str(points)
        assert text.splitlines()[0].split() == ["kind", "index", "value", "condition", "hits", "at"]
        assert "another start would find a new point with probability 0" in text
        again = st.load(st.save(points, tmp_path / "points"))
        assert str(again) == text

    def test_two_calls_give_the_same(self):
        np.testing.assert_array_equal(found(MUELLER_BROWN, 2).states, found(MUELLER_BROWN, 2).states)

    def test_what_methods_do_at_a_saddle(self):
        saddle = st.critical_points(st.landscape("double_well"), 2)[2]
        rows = {
            line.split("  ")[0]: line
            for line in saddle.methods([st.SGD(), st.Newton(), st.SFN(damping=1.0)]).splitlines()[1:]
        }
        assert "no" in rows["SGD"]
        assert "yes" in rows["Newton"]
        assert "no" in rows["SFN"]
        assert rows["Newton"].split()[-1] == "2"
        minimum = st.critical_points(st.landscape("double_well"), 2)[0]
        assert minimum.methods([st.SGD()]).splitlines()[1].split()[-1] == "1"  # 2 / lambda_1
        alike = minimum.methods([st.Newton()]).splitlines()[1]
        assert alike.split()[2] == "-1"  # not "-1 ... -1"

    def test_its_table_of_methods_shows_itself(self):
        """A plain text would show as one line with ``\\n`` below a cell."""
        table = st.critical_points(st.landscape("double_well"), 2)[2].methods([st.SGD(), st.Newton()])
        assert repr(table) == str(table) == table
        assert table._repr_html_().count("<tr>") == 3


@pytest.mark.parametrize(
    ("region", "message"),
    [
        ([1, 0], "low < high"),
        ([[0, 1]], r"shape \(2, 2\)"),
        ([[0, 1], [0, np.nan]], "`region`"),
        (0, "low < high"),
        ("all", "`region`"),
    ],
    ids=str,
)
def test_bad_regions(region, message):
    with pytest.raises(ValueError, match=message):
        found("x^2 + y^2", region)


def test_bad_objectives():
    with pytest.raises(ValueError, match=r"lacks dim, value, gradient, hessian, which st\.critical_points"):
        st.critical_points(object(), 1)
    with pytest.raises(ValueError, match="`starts`"):
        found("x^2", 1, starts=0)
