"""The studies "escape" and "toys": their statements hold on their numbers, and fail when these are spoilt."""

import numpy as np
import pytest

import stability as st
from stability import claims
from stability.claims.escape import _objective
from stability.claims.toys import _run, _Runner, _shown


@pytest.fixture(scope="module")
def escapes():
    return claims.run("escape", quick=True, seed=3)


@pytest.fixture(scope="module")
def toys():
    return claims.run("toys", quick=True)


def spoilt(study, **changes):
    """Which statements fail once arrays are changed by these functions (in place, on copies)."""
    arrays = dict(study.arrays)
    for name, change in changes.items():
        arrays[name] = arrays[name].copy()
        change(arrays[name])
    return [
        k
        for k, one in enumerate(claims.check(st.Study(study.name, arrays, study.parameters)))
        if not one.passed
    ]


@pytest.mark.slow
class TestEscape:
    def test_all_statements_hold(self, escapes):
        checks = claims.check(escapes)
        assert len(checks) == 10
        assert [one.statement for one in checks if not one.passed] == []

    def test_every_method_and_level_was_simulated(self, escapes):
        assert escapes["flatness"].shape == (5, 3, 2, 6)
        simulated = np.isfinite(escapes["flatness"][..., 0]).all(axis=2)
        names = list(escapes["methods"])
        assert simulated[names.index("SGD")].all()
        assert simulated[names.index("SFN")].all()
        assert simulated[names.index("Newton")].tolist() == [
            True,
            False,
            False,
        ]  # trapped but where the mode is flattest
        assert escapes["rank"].shape == (2, 6, 2, 6)
        assert np.isfinite(escapes["rank"]).all()

    def test_theory_is_that_of_the_rates(self, escapes):
        names, lam, gamma = list(escapes["methods"]), escapes["lam"], escapes.parameters["damping"]
        rate = dict(zip(names, escapes["rate"], strict=True))
        np.testing.assert_allclose(rate["SGD"], lam)
        np.testing.assert_allclose(rate["SFN"], lam / (lam + gamma))
        np.testing.assert_allclose(rate["LRSFN"], lam / gamma)
        np.testing.assert_allclose(rate["Newton"], -1)
        np.testing.assert_allclose(rate["damped Newton"], lam / (gamma - lam))
        kappa = dict(zip(names, escapes["kappa"], strict=True))
        scale = escapes.parameters["radius"] ** 2 / (
            escapes.parameters["step"] * escapes.parameters["sigma"] ** 2
        )
        np.testing.assert_allclose(
            kappa["SFN"], lam * (lam + gamma) * scale
        )  # noise is preconditioned too: flat modes are left by noise
        np.testing.assert_allclose(kappa["Newton"], -(lam**2) * scale)

    def test_a_mean_off_its_law_is_noticed(self, escapes):
        def shift(rows):
            rows[0, 1, 1, 0] += 6 * rows[0, 1, 1, 1]

        assert 0 in spoilt(escapes, flatness=shift)

    def test_a_wrong_distribution_is_noticed(self, escapes):
        def shift(rows):
            rows[0, 0, 3] = 1e-9

        assert spoilt(escapes, survival_rows=shift) == [1]

    def test_another_exponent_is_noticed(self, escapes):
        def flat(rows):
            rows[0, :, 1, [0, 2]] = 5.0

        def steep(rows):
            rows[3, :, 1, 0] /= escapes["measured_lam"]

        assert 2 in spoilt(escapes, flatness=flat)
        assert 3 in spoilt(escapes, flatness=steep)

    def test_newton_leaving_is_noticed(self, escapes):
        def leave(rows):
            rows[1, :, 4] = 0.1

        def expected(law):
            law[1, :, -1] = 0.5

        assert spoilt(escapes, survival_rows=leave) == [4]
        assert spoilt(escapes, survival_law=expected) == [4]

    def test_flattest_and_rank(self, escapes):
        def slow(rows):
            rows[1, 0, 1, 0] = 1e6

        def blind(rows):
            rows[0, 0, 1, 0] = 1e3

        def seen(rows):
            rows[1, 1, 1, 0] = rows[1, 4, 1, 0]

        assert 5 in spoilt(escapes, flatness=slow)
        assert 6 in spoilt(escapes, rank=blind)
        assert 7 in spoilt(escapes, rank=seen)

    def test_the_tie(self, escapes):
        names, saddles = list(escapes["methods"]), escapes.parameters["saddles"]

        def sfn(table):
            table[saddles.index("tilted up"), names.index("SFN"), 0] += 3

        def lrsfn(table):
            table[saddles.index("tilted down"), names.index("LRSFN")] = table[
                saddles.index("tilted up"), names.index("LRSFN")
            ]

        assert spoilt(escapes, landscapes=sfn) == [8]
        assert spoilt(escapes, landscapes=lrsfn) == [9]

    def test_the_tie_by_hand(self):
        """The Hessian of x^3 - 3 x y^2 has the eigenvalues +-6 |w|.

        Its tilt adds the same to both, and rank 1 keeps the larger in size.
        """
        for name, sign in (("tilted up", 1), ("tilted down", -1)):
            H = _objective(name).hessian(np.array([0.3, 0.4]))
            np.testing.assert_allclose(
                np.linalg.eigvalsh(H), np.array([-3, 3]) + sign * 1e-6, rtol=0, atol=1e-12
            )
            gains = st.LRSFN(rank=1, damping=0.05).gains(np.linalg.eigvalsh(H))
            assert (gains[1] < gains[0]) == (sign > 0)
        np.testing.assert_array_equal(_objective("monkey_saddle").hessian(np.zeros(2)), 0)

    def test_its_table_and_picture(self, escapes):
        table = claims.summary(escapes)
        assert table.count("\n") == 27
        assert max(map(len, table.splitlines())) <= 120
        assert "monkey_saddle    Newton             singular there" in table
        axes = st.plot(escapes).axes
        assert len(axes) == 4
        assert axes[0].get_xscale() == axes[0].get_yscale() == "log"


class TestToys:
    @pytest.mark.slow
    def test_all_statements_hold(self, toys):
        assert [one.statement for one in claims.check(toys) if not one.passed] == []
        assert len(claims.check(toys)) == 5

    def test_the_protocol(self, toys):
        assert toys["michalewicz_values"].shape[1:] == (101, 3)
        steps = dict(zip(toys["michalewicz_methods"], toys["michalewicz_table"][:, 0], strict=True))
        assert {steps[name] for name in steps if not name.startswith("SGD")} == {1.0}
        F, w = st.landscape("michalewicz", dim=100), np.random.default_rng(0).standard_normal(100)
        k = list(toys["michalewicz_methods"]).index("SFN")
        assert toys["michalewicz_values"][k, 0, 0] == F.value(w)
        w = w - F.gradient(w) / (np.abs(np.diag(F.hessian(w))) + 1e-4)  # the Hessian is diagonal
        assert toys["michalewicz_values"][k, 1, 0] == pytest.approx(F.value(w), rel=1e-12)

    def test_truncation_by_hand(self, toys):
        F, w = st.landscape("rosenbrock", dim=10), np.random.default_rng(1).standard_normal(10)
        lam, turn = np.linalg.eigh(F.hessian(w))
        order = np.argsort(-np.abs(lam))
        gain = np.full(10, 1e3)
        gain[order[:8]] = 1 / (np.abs(lam[order[:8]]) + 1e-3)
        k = list(toys["rosenbrock_methods"]).index("LRSFN(8)")
        assert toys["rosenbrock_values"][k, 1, 1] == pytest.approx(
            F.value(w - turn @ (gain * (turn.T @ F.gradient(w)))), rel=1e-9
        )

    def test_gradient_descent_is_given_a_stable_step(self, toys):
        for problem in ("michalewicz", "rosenbrock"):
            names, values = list(toys[f"{problem}_methods"]), toys[f"{problem}_values"]
            monotone, best = (values[names.index(name)] for name in ("SGD, monotone", "SGD, best step"))
            assert (np.diff(monotone, axis=0) <= 1e-12 * np.abs(monotone[:-1])).all()
            assert np.median(best[-1]) <= np.median(monotone[-1])

    def test_divergence_is_counted_and_leaves_no_values(self, toys):
        fields, names = list(toys["fields"]), list(toys["rosenbrock_methods"])
        row = dict(zip(fields, toys["rosenbrock_table"][names.index("LRSFN(2)")], strict=True))
        assert row["diverged"] == 3
        assert np.isnan([row[name] for name in ("mean", "std", "median", "gradient", "size")]).all()
        values = toys["rosenbrock_values"][names.index("LRSFN(2)")]
        assert np.isnan(values[-1]).all()
        assert np.isfinite(values[0]).all()

    def test_the_table_is_of_the_values(self, toys):
        names, fields = list(toys["michalewicz_methods"]), list(toys["fields"])
        row = dict(zip(fields, toys["michalewicz_table"][names.index("SFN")], strict=True))
        final = toys["michalewicz_values"][names.index("SFN"), -1]
        assert (row["mean"], row["std"], row["median"]) == pytest.approx(
            (final.mean(), final.std(ddof=1), np.median(final))
        )

    @pytest.mark.parametrize(
        ("method", "field", "value", "failing"),
        [
            ("LRSFN(10)", "diverged", 2, [0]),
            ("LRSFN(10)", "tail", 1, [0]),
            ("LRSFN(10) flat tail", "diverged", 3, [1]),
            ("damped Newton", "indefinite", 0, [2]),
            ("SFN", "indefinite", 3, [2]),
        ],
    )
    def test_spoilt_numbers_are_noticed(self, toys, method, field, value, failing):
        def change(table):
            table[list(toys["michalewicz_methods"]).index(method), list(toys["fields"]).index(field)] = value

        assert spoilt(toys, michalewicz_table=change) == failing

    def test_its_table_and_picture(self, toys):
        table = claims.summary(toys)
        assert table.count("ours, not the paper's numbers") == 2
        newton = next(line for line in table.splitlines() if line.startswith("Newton"))
        assert " 3/3 " in newton  # it ends where the Hessian is indefinite
        assert "3/3" in table
        assert max(map(len, table.splitlines())) <= 120
        figure = st.plot(toys)
        for problem, curves, table in zip(toys["problems"], figure.axes[:2], figure.axes[2:], strict=True):
            shown = [line.get_label() for line in curves.lines if not line.get_label().startswith("_")]
            assert shown == list(toys[f"{problem}_shown"])
            assert len(shown) == 5
            assert (
                not np.isnan(toys[f"{problem}_values"][np.isin(toys[f"{problem}_methods"], shown), -1])
                .all(1)
                .any()
            )
            cells = table.tables[0].get_celld()
            rest = [cells[row, 0].get_text().get_text() for row in range(1, max(r for r, _ in cells) + 1)]
            assert sorted(rest + shown) == sorted(toys[f"{problem}_methods"])
        assert [axis.get_title() for axis in figure.axes[:2]] == [
            "michalewicz, $d = 100$",
            "rosenbrock, $d = 10$",
        ]

    def test_five_kinds_have_curves_the_best_of_each_and_only_what_some_start_reached(self):
        runners = [
            _Runner("SFN", st.SFN(damping=1e-4)),
            *(_Runner(f"LRSFN({r})", st.LRSFN(rank=r, damping=1e-3)) for r in (2, 4, 6)),
            _Runner("LRSFN(2) flat tail", st.LRSFN(rank=2, damping=1e-3, tail="flat")),
            _Runner("Newton", st.Newton()),
            _Runner("damped Newton", st.DampedNewton(damping=1e-3)),
            _Runner("SGD, monotone", st.SGD()),
            _Runner("SGD, best step", st.SGD()),
        ]
        medians = [0.0, np.nan, -3.0, -9.0, -1.0, 5.0, 4.0, 3.0, 2.0]
        rows = [[1.0, 0.0, 0.0, median] for median in medians]
        assert _shown(runners, rows, 6) == ["SFN", "Newton", "damped Newton", "SGD, best step", "LRSFN(4)"]
        rows[5][3] = np.nan
        best = ["SFN", "damped Newton", "SGD, best step", "LRSFN(4)", "LRSFN(2) flat tail"]
        assert _shown(runners, rows, 6) == best

    def test_a_run_that_leaves_is_frozen_where_it_was(self):
        states, lost = _run(st.quadratic([1.0]), st.SGD(), 3.0, np.array([[1.0], [0.0]]))
        assert lost.tolist() == [True, False]
        assert np.abs(states).max() <= 1e6
        assert (states[-30:, 0] == states[-1, 0]).all()
