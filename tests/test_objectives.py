"""Objectives: derivatives against finite differences, closed forms, and any leading batch axes."""

import numpy as np
import pytest

import stability as st
from stability.objectives.base import Objective
from stability.portraits.flowlines import _differenced


def objectives():
    rng = np.random.default_rng(5)
    X, y = rng.standard_normal((30, 3)), rng.standard_normal(30)
    return {
        "quadratic": (st.quadratic([1.0, -0.5, 0.1], rotation_seed=2), 3),
        "double_well": (st.landscape("double_well", dim=3), 3),
        "coupled_quartic": (st.landscape("coupled_quartic", dim=3), 3),
        "monkey_saddle": (st.landscape("monkey_saddle"), 2),
        "rosenbrock": (st.landscape("rosenbrock", dim=4), 4),
        "michalewicz": (st.landscape("michalewicz", dim=3), 3),
        "logistic": (st.logistic(X, y > 0, l2=0.1), 3),
        "least_squares": (st.least_squares(X, y, l2=0.1), 3),
    }


CASES = pytest.mark.parametrize("name", objectives())


@CASES
def test_derivatives_agree_with_finite_differences(name, rng):
    objective, dim = objectives()[name]
    found = st.check_derivatives(objective, rng.uniform(0.2, 1.4, dim))
    assert found.ok, str(found)


@CASES
def test_leading_axes_are_batch(name, rng):
    objective, dim = objectives()[name]
    w, v, V = (
        rng.uniform(0.2, 1.4, (2, 3, dim)),
        rng.standard_normal((2, 3, dim)),
        rng.standard_normal((2, 3, dim, 2)),
    )
    for many, one in (
        (objective.value(w), objective.value),
        (objective.gradient(w), objective.gradient),
        (objective.hessian(w), objective.hessian),
    ):
        np.testing.assert_allclose(many[1, 2], one(w[1, 2]), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(
        objective.third(w, v)[1, 2], objective.third(w[1, 2], v[1, 2]), rtol=1e-12, atol=1e-14
    )
    np.testing.assert_allclose(
        objective.hvp(w, V)[0, 1], objective.hessian(w[0, 1]) @ V[0, 1], rtol=1e-12, atol=1e-14
    )
    assert objective.third(w[0], v[0, 0]).shape == (3, dim, dim)


@CASES
def test_the_reference_is_a_critical_point(name):
    objective, _ = objectives()[name]
    if objective.reference is not None:
        np.testing.assert_allclose(objective.gradient(objective.reference), 0, atol=1e-14)


class TestWrongDerivativesAreFound:
    class Wrong(Objective):
        dim = 2

        def value(self, w):
            return np.sum(np.asarray(w) ** 3, axis=-1)

        def gradient(self, w):
            return 3 * np.asarray(w) ** 2

        def hessian(self, w):
            return 6 * np.asarray(w)[..., :, None] * np.eye(2)

        def third(self, w, v):
            return 6 * np.asarray(v)[..., :, None] * np.eye(2)

    def test_the_correct_one_passes(self):
        assert st.check_derivatives(self.Wrong(), [0.5, -0.7]).ok

    @pytest.mark.parametrize("part", ["gradient", "hessian", "third"])
    def test_one_wrong_part_is_named(self, part, monkeypatch):
        right = getattr(self.Wrong, part)
        monkeypatch.setattr(self.Wrong, part, lambda *args: 1.001 * right(*args))
        found = st.check_derivatives(self.Wrong(), [0.5, -0.7])
        assert getattr(found, part) > 1e-4
        assert not found.ok
        assert "WRONG" in str(found)

    def test_an_asymmetric_hessian_is_found(self, monkeypatch):
        right = self.Wrong.hessian
        monkeypatch.setattr(
            self.Wrong, "hessian", lambda self, w: right(self, w) + np.array([[0, 1e-3], [0, 0]])
        )
        assert st.check_derivatives(self.Wrong(), [0.5, -0.7]).asymmetry > 1e-5


class Bare:
    """A double well with what a flow needs and nothing else: no base class, no value, no third derivative."""

    dim = 2

    def gradient(self, w):
        w = np.asarray(w)
        return np.stack([w[..., 0] ** 3 - w[..., 0], w[..., 1]], axis=-1)

    def hessian(self, w):
        w = np.asarray(w)
        zero = 0 * w[..., 0]
        rows = (3 * w[..., 0] ** 2 - 1, zero), (zero, zero + 1)
        return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


class Valued(Bare):
    def value(self, w):
        w = np.asarray(w)
        return w[..., 0] ** 4 / 4 - w[..., 0] ** 2 / 2 + w[..., 1] ** 2 / 2


def bare_flow(method=None, objective=None):
    method = st.SFN(damping=0.1) if method is None else method
    return st.Flow(objective or Bare(), method, st.Noise(gradient=0.1), step=0.1)


class TestMembersThatAreNotThere:
    """What an objective lacks is asked for only where it is needed, and then named."""

    def test_theory_and_ensembles_ask_for_two_derivatives(self):
        well, known = [1.0, 0.0], st.landscape("double_well")
        found = st.linearize(bare_flow(), at=well)
        expected = st.linearize(bare_flow(objective=known), at=well)
        np.testing.assert_allclose(found.covariance(), expected.covariance(), rtol=1e-12)
        assert st.bounds(Bare(), st.Noise(gradient=0.1), [st.SGD()], step=0.1, at=well).rows[0].valid
        options = {"start": well, "t_end": 1.0, "paths": 64, "seed": 3}
        ours, theirs = (st.simulate(bare_flow(objective=F), **options) for F in (Bare(), known))
        np.testing.assert_allclose(ours.states, theirs.states, rtol=1e-9)
        noisy = [st.Flow(F, st.SGD(), st.Noise(gradient=2.0), step=0.2) for F in (Bare(), known)]
        laws = [st.stationary_density(one, 2.0, cells=30) for one in noisy]
        np.testing.assert_allclose(laws[0].density, laws[1].density, rtol=1e-9)

    def test_descent_and_pictures_of_the_plane_ask_for_a_value_too(self):
        found = st.minimize(Valued(), [0.7, 0.3], method=st.SFN(damping=0.1), step=0.5, iterations=60)
        np.testing.assert_allclose(found.final, [1.0, 0.0], atol=1e-6)
        assert len(st.critical_points(Valued(), 2)) == 3
        options = {"methods": [st.SGD(), st.SFN(damping=0.1)], "resolution": 24}
        ours, theirs = (st.portrait(F, 1.5, **options) for F in (Valued(), st.landscape("double_well")))
        np.testing.assert_array_equal(ours.attracts, theirs.attracts)
        np.testing.assert_array_equal(ours.basins, theirs.basins)
        w, reach = np.array([[0.3, 0.4], [-0.9, 1.2]]), np.ones(2)
        exact = bare_flow(objective=st.landscape("double_well")).jacobian(w)
        np.testing.assert_allclose(_differenced(bare_flow(), w, reach), exact, atol=1e-8)
        with pytest.raises(ValueError, match=r"lacks value, which st\.minimize needs.*value\(w\) of shape"):
            st.minimize(Bare(), [0.7, 0.3], method=st.SGD(), step=0.5, iterations=1)

    def test_only_a_moving_preconditioner_asks_for_the_third_derivative(self):
        path = st.trajectory(bare_flow(st.SGD()), [1.2, 0.3], 1.0)
        expected = st.trajectory(bare_flow(st.SGD(), st.landscape("double_well")), [1.2, 0.3], 1.0)
        np.testing.assert_allclose(path.covariance, expected.covariance, rtol=1e-10)
        with pytest.raises(ValueError, match=r"lacks third, which .*st\.trajectory.*third\(w, v\).*st\.SGD"):
            st.trajectory(bare_flow(), [1.2, 0.3], 1.0)

    def test_a_subclass_lacks_what_it_does_not_define(self):
        class Plain(Bare, st.Objective):
            pass

        with pytest.raises(ValueError, match=r"lacks value, which st\.critical_points needs"):
            st.critical_points(Plain(), 2)
        with pytest.raises(ValueError, match="lacks third, which the Jacobian"):
            bare_flow(objective=Plain()).jacobian([0.5, 0.5])
        assert st.linearize(bare_flow(objective=Plain()), at=[1.0, 0.0]).valid
        np.testing.assert_array_equal(Plain().hvp(np.ones(2), np.eye(2)), [[2.0, 0.0], [0.0, 1.0]])

    def test_a_check_compares_what_there_is_and_names_the_rest(self):
        found = st.check_derivatives(Valued(), [0.4, -0.3])
        assert found.ok
        assert sorted(found.absent) == ["hvp", "third"]
        assert np.isnan(found.third)
        assert "third" in str(found)
        assert "not compared: the objective has no third" in str(found)
        assert sorted(st.check_derivatives(Bare(), [0.4, -0.3]).absent) == ["gradient", "hvp", "third"]
        with pytest.raises(ValueError, match=r"lacks gradient, which st\.check_derivatives needs"):
            st.check_derivatives(type("Flat", (), {"dim": 2, "hessian": Bare.hessian})(), [0.4, -0.3])

    def test_a_network_and_products_without_a_hessian_can_be_checked(self):
        X = np.random.default_rng(0).standard_normal((6, 2))
        net = st.mlp(X, X.sum(axis=1), hidden=(3,), loss="squared", activation="tanh")
        found = st.check_derivatives(net, net.initial(0))
        assert found.ok
        assert list(found.absent) == ["third"]
        products = type("Products", (), {"dim": net.dim, "gradient": net.gradient, "hvp": net.hvp})()
        assert st.check_derivatives(products, net.initial(0)).hvp < 1e-6
        products.hvp = lambda w, V: 1.001 * net.hvp(w, V)
        assert not st.check_derivatives(products, net.initial(0)).ok

    def test_a_derivative_that_is_nan_is_wrong_not_absent(self):
        F = Valued()
        F.third = lambda w, v: np.full((2, 2), np.nan)
        assert not st.check_derivatives(F, [0.4, -0.3]).ok


def test_quadratics_have_the_chosen_spectrum():
    lam = np.array([3.0, 1.0, -0.2])
    H = st.quadratic(lam, rotation_seed=4).hessian(np.zeros(3))
    np.testing.assert_allclose(np.sort(np.linalg.eigvalsh(H)), np.sort(lam), atol=1e-14)
    assert abs(H[0, 1]) > 1e-3


@pytest.mark.parametrize(
    ("name", "dim", "point", "spectrum"),
    [
        ("double_well", 2, [1, 0], [2, 1]),
        ("double_well", 2, [0, 0], [-1, 1]),
        ("coupled_quartic", 2, [0, 0], [-1, 0.5]),
        ("coupled_quartic", 3, [-1, 0, 0], [2, 1, 1]),
        ("monkey_saddle", 2, [0, 0], [0, 0]),
    ],
)
def test_critical_points_have_their_known_spectra(name, dim, point, spectrum):
    objective = st.landscape(name, dim=dim)
    np.testing.assert_allclose(objective.gradient(point), 0, atol=1e-15)
    np.testing.assert_allclose(np.linalg.eigvalsh(objective.hessian(point)), np.sort(spectrum), atol=1e-14)


def test_michalewicz_has_its_published_minimum_in_two_dimensions():
    # Minimum -1.8013 at (2.20, 1.57), the value quoted throughout the test-function literature.
    assert np.isclose(st.landscape("michalewicz").value([2.202906, 1.570796]), -1.8013, atol=5e-5)


class TestData:
    def data(self):
        rng = np.random.default_rng(9)
        X = rng.standard_normal((40, 3))
        return X, (rng.random(40) < 1 / (1 + np.exp(-X @ [1.0, -1.0, 0.5]))).astype(float)

    @pytest.mark.parametrize("build", [st.logistic, st.least_squares])
    def test_the_objective_is_the_mean_of_its_samples(self, build):
        F, w = build(*self.data(), l2=0.2), np.array([0.3, -0.2, 0.9])
        np.testing.assert_allclose(F.per_sample_gradient(w).mean(axis=0), F.gradient(w), atol=1e-15)
        np.testing.assert_allclose(F.per_sample_hessian(w).mean(axis=0), F.hessian(w), atol=1e-15)

    @pytest.mark.parametrize("build", [st.logistic, st.least_squares])
    def test_a_batch_is_the_mean_of_its_samples(self, build):
        F, w = build(*self.data(), l2=0.2), np.array([[0.3, -0.2, 0.9], [0.1, 0.2, 0.3]])
        own = np.array([[4, 1, 7], [0, 2, 2]])
        for batch in (own, own[0]):
            rows = np.broadcast_to(batch, (2, 3))
            for i in range(2):
                np.testing.assert_allclose(
                    F.gradient(w, batch=batch)[i],
                    F.per_sample_gradient(w[i])[rows[i]].mean(axis=0),
                    atol=1e-15,
                )
                np.testing.assert_allclose(
                    F.hessian(w, batch=batch)[i], F.per_sample_hessian(w[i])[rows[i]].mean(axis=0), atol=1e-15
                )
            V = np.ones((2, 3, 1))
            np.testing.assert_allclose(F.hvp(w, V, batch=batch), F.hessian(w, batch=batch) @ V, atol=1e-15)
            np.testing.assert_allclose(
                F.third(w, w, batch=batch)[0], F.third(w[0], w[0], batch=rows[0]), atol=1e-15
            )

    def test_least_squares_finds_the_normal_equations_solution(self):
        X, _ = self.data()
        y = X @ [1.0, 2.0, 3.0] + 0.1
        expected = np.linalg.solve(X.T @ X / 40 + 0.2 * np.eye(3), X.T @ y / 40)
        np.testing.assert_allclose(st.least_squares(X, y, l2=0.2).reference, expected, rtol=1e-13)

    def test_logistic_agrees_with_scikit_learn(self):
        linear_model = pytest.importorskip("sklearn.linear_model")
        X, y = self.data()
        peer = linear_model.LogisticRegression(
            C=1 / (40 * 0.2), fit_intercept=False, tol=1e-12, solver="newton-cholesky"
        ).fit(X, y)
        np.testing.assert_allclose(st.logistic(X, y, l2=0.2).reference, peer.coef_[0], rtol=1e-7)

    def test_logistic_does_not_overflow(self):
        F = st.logistic([[1.0], [-1.0]], [0, 1], l2=0.0)
        assert F.value([1e4]) == 1e4
        assert np.isfinite(F.gradient([1e4])).all()

    def test_separable_classes_have_no_minimum_without_a_ridge(self):
        with pytest.raises(ValueError, match=r"separable classes.*Use l2 > 0"):
            _ = st.logistic([[1.0], [2.0], [-1.0]], [1, 1, 0]).reference
