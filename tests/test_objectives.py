"""Objectives: derivatives against finite differences, closed forms, and any leading batch axes."""

import re

import numpy as np
import pytest

import stability as st
from stability.objectives.base import Objective
from stability.objectives.regression import Multinomial
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
        "three classes": (st.logistic(X, np.digitize(y, [-0.4, 0.4]), l2=0.1), 6),
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


def three_classes(X, y, l2=0.0):
    return st.logistic(X, np.digitize(X[:, 0] + y, [-0.2, 0.9]), l2=l2)


def minimum_with_ridges(F, ridges):
    """Newton's method, each column with a ridge of its own."""
    w, ridges = np.zeros(F.dim), np.resize(ridges, F.dim)
    for _ in range(30):
        w = w - np.linalg.solve(F.hessian(w) + np.diag(ridges), F.gradient(w) + ridges * w)
    return w


class TestData:
    def data(self):
        rng = np.random.default_rng(9)
        X = rng.standard_normal((40, 3))
        return X, (rng.random(40) < 1 / (1 + np.exp(-X @ [1.0, -1.0, 0.5]))).astype(float)

    @pytest.mark.parametrize("build", [st.logistic, st.least_squares, three_classes])
    def test_the_objective_is_the_mean_of_its_samples(self, build):
        F = build(*self.data(), l2=0.2)
        w = np.resize([0.3, -0.2, 0.9, 0.1], F.dim)
        np.testing.assert_allclose(F.per_sample_gradient(w).mean(axis=0), F.gradient(w), atol=1e-15)
        np.testing.assert_allclose(F.per_sample_hessian(w).mean(axis=0), F.hessian(w), atol=1e-15)

    @pytest.mark.parametrize("build", [st.logistic, st.least_squares, three_classes])
    def test_a_sample_s_derivatives_are_those_by_its_predictions(self, build):
        F = build(*self.data(), l2=0.2)
        w = np.resize([[0.3, -0.2, 0.9, 0.1], [0.4, 0.2, -0.5, 0.3]], (2, F.dim))
        for batch in (None, np.array([[4, 1, 7], [0, 2, 2]])):
            rows = F.X if batch is None else F.X[batch]
            slopes, curves = F.slopes(w, batch=batch), F.curvatures(w, batch=batch)
            assert curves.shape == (*slopes.shape, F.outputs)
            gradients = (slopes[..., :, None] * rows[..., None, :]).reshape(*slopes.shape[:-1], F.dim)
            np.testing.assert_allclose(
                gradients + 0.2 * w[:, None], F.per_sample_gradient(w, batch=batch), atol=1e-15
            )
            one = np.kron(curves[1, 2], np.outer(*2 * (rows[2] if batch is None else rows[1, 2],)))
            np.testing.assert_allclose(
                one + 0.2 * np.eye(F.dim), F.per_sample_hessian(w, batch=batch)[1, 2], atol=1e-15
            )

    @pytest.mark.parametrize("build", [st.logistic, st.least_squares, three_classes])
    def test_a_batch_is_the_mean_of_its_samples(self, build):
        F = build(*self.data(), l2=0.2)
        w = np.resize([[0.3, -0.2, 0.9, 0.1], [0.4, 0.2, -0.5, 0.3]], (2, F.dim))
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
            V = np.ones((2, F.dim, 1))
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

    def test_more_classes_agree_with_scikit_learn_and_with_a_network_without_hidden_layers(self):
        X, _ = self.data()
        y = np.random.default_rng(2).integers(0, 4, 40)
        F, w = st.logistic(X, y), np.random.default_rng(3).standard_normal(9)
        assert (F.dim, F.outputs, F.classes) == (9, 3, 4)
        network = st.mlp(X, y, hidden=())
        weights = np.zeros((3, 4))
        weights[:, 1:] = w.reshape(3, 3).T  # class 0 predicts 0
        state = np.concatenate([weights.ravel(), np.zeros(4)])
        np.testing.assert_allclose(F.value(w), network.value(state), rtol=1e-13)
        slope = network.gradient(state)[:12].reshape(3, 4)[:, 1:].T.ravel()
        np.testing.assert_allclose(F.gradient(w), slope, atol=1e-15)
        linear_model = pytest.importorskip("sklearn.linear_model")
        peer = linear_model.LogisticRegression(
            C=1e12, fit_intercept=False, tol=1e-13, max_iter=1000, solver="newton-cholesky"
        ).fit(X, y)
        np.testing.assert_allclose(
            F.reference.reshape(3, 3), peer.coef_[1:] - peer.coef_[0], rtol=1e-6, atol=1e-9
        )

    def test_two_classes_of_the_many_are_logistic_regression(self):
        X, y = self.data()
        F, two, w = (
            Multinomial(X, y, classes=2, l2=0.1),
            st.logistic(X, y, l2=0.1),
            np.array([0.3, -2.0, 1.0]),
        )
        v = np.array([0.2, 0.7, -0.4])
        np.testing.assert_allclose(F.hessian(w), two.hessian(w), rtol=1e-13)
        np.testing.assert_allclose(F.third(w, v), two.third(w, v), rtol=1e-12, atol=1e-16)
        assert type(st.logistic(X, y, classes=2)) is type(two)

    def test_classes_that_the_labels_do_not_show(self):
        X, y = self.data()
        F = st.logistic(X, y, classes=3, l2=0.1)
        assert F.dim == 6
        assert F.reference[3:] @ X.mean(axis=0) < 0  # the class that never occurs is unlikely
        with pytest.raises(
            ValueError, match=r"`y` must hold class numbers from 0 to 2; got -1 to 1\. Number"
        ):
            st.logistic(X, 2 * y - 1, classes=3)

    def test_labels_that_are_numbers_are_refused_and_the_advice_works(self):
        X, _ = self.data()
        many = np.arange(40) % 25
        for y in (np.arange(40.0), np.linspace(0, 1, 40) * (np.arange(40) % 5), many):
            with pytest.raises(ValueError, match=r"two values, or whole numbers, at most 20 .*`classes`"):
                st.logistic(X, y, l2=0.1)
            st.least_squares(X, y)
        assert st.logistic(X, many, classes=25, l2=0.1).dim == 72

    def test_tails_keep_every_digit(self):
        """1 - p has none left where p is nearly 1."""
        two, three = st.logistic([[1.0], [-1.0]], [1, 0]), st.logistic([[1.0]] * 6, [0, 0, 0, 0, 1, 2])
        small = np.exp(-300.0)
        np.testing.assert_allclose(two.gradient([300.0]), [-small], rtol=1e-12)
        np.testing.assert_allclose(two.hessian([300.0]), [[small]], rtol=1e-12)
        np.testing.assert_allclose(two.third([300.0], [1.0]), [[-small]], rtol=1e-12)
        at = np.array([300.0, 0.0])  # class 1 is all but certain
        np.testing.assert_allclose(three.hessian(at), [[2 * small, -small], [-small, small]], rtol=1e-12)
        np.testing.assert_allclose(three.hvp(at, np.eye(2)), three.hessian(at), rtol=1e-12)

    @pytest.mark.parametrize("size", [1e-150, 1e-9, 1e6, 1e9, 1e12, 1e150])
    @pytest.mark.parametrize("kind", ["two", "three", "number"])
    def test_a_column_of_any_size_has_its_minimum_in_the_users_units(self, kind, size):
        X, y = self.data()
        y = y if kind == "two" else np.digitize(X[:, 0] + y, [-0.2, 0.9]).astype(float)
        build = st.least_squares if kind == "number" else st.logistic
        X, units = np.c_[X[:, :2], np.ones(40)], np.array([size, 1.0, 1.0])
        found = build(X * units, y, l2=0.01).reference.reshape(-1, 3)
        if size < 1:  # its ridge is all there is
            assert np.all(np.abs(found[:, 0]) < 1e3 * size)
            units, X = units[1:], X[:, 1:]
            found = found[:, 1:]
        expected = minimum_with_ridges(build(X, y), 0.01 / units**2)
        np.testing.assert_allclose((found * units).ravel(), expected, rtol=1e-9)

    @pytest.mark.parametrize(("size", "l2"), [(1e-200, 0.0), (1e200, 0.1)])
    def test_sizes_whose_squares_cannot_be_held_are_named(self, size, l2):
        X, y = self.data()
        with pytest.raises(ValueError, match=r"sizes from .* Divide each column by its largest entry"):
            _ = st.logistic(X * [size, 1, 1], y, l2=l2).reference
        _ = st.logistic(X / np.abs(X).max(axis=0), y, l2=l2).reference

    def test_a_time_stamp_beside_an_intercept_has_its_minimum(self):
        # Reference: Newton's method in 60 digits (mpmath), on the same data.
        rng = np.random.default_rng(0)
        z = rng.normal(size=200)
        y = (z + rng.normal(size=200) > 0).astype(float)
        X = np.c_[1.6e9 + 1e7 * rng.random(200), z, np.ones(200)]
        expected = [-1.499974174e-10, 1.493771285, 0.002339972097]
        np.testing.assert_allclose(st.logistic(X, y, l2=0.01).reference, expected, rtol=1e-9)

    @pytest.mark.parametrize("l2", [0.0, 1e-300])
    @pytest.mark.parametrize("size", [1e-6, 1.0, 1e9])
    @pytest.mark.parametrize("kind", ["twins", "dependent", "separable"])
    def test_where_no_minimum_can_be_told_every_advice_works(self, kind, size, l2):
        X, y = self.data()
        if kind == "twins":
            X = X[:, [0, 0, 1]]
        elif kind == "dependent":
            X = np.c_[X[:, 0], 3 - X[:, 0], np.ones(40)]
        else:
            y = X[:, 0] > 0
        X = X * [size, 1, 1]
        cause = "separable classes" if kind == "separable" else "collinear columns: 0, 1"
        with pytest.raises(ValueError, match=cause) as refusal:
            _ = st.logistic(X, y, l2=l2).reference
        enough = float(re.search(r"(?:such as|use l2 =|Use l2 =) (\S+)\.$", str(refusal.value)).group(1))
        assert np.isfinite(st.logistic(X, y, l2=enough).reference).all()
        if "Drop one of them" in str(refusal.value):
            assert np.isfinite(st.logistic(X[:, 1:], y, l2=l2).reference).all()

    @pytest.mark.parametrize("seed", [253, 265, 337])
    def test_columns_that_rounding_alone_tells_apart_have_no_minimum(self, seed):
        """Found by trying: without a bound on the condition number Newton's method settles somewhere."""
        rng = np.random.default_rng(seed)
        n, d = rng.integers(5, 40), rng.integers(1, 4)
        X = rng.normal(size=(n, d))
        X = np.c_[X, X @ rng.normal(size=(d, 1))]
        with pytest.raises(ValueError, match=r"no isolated minimum .*collinear columns: 0, 1"):
            _ = st.least_squares(X, rng.normal(size=n)).reference

    def test_separable_classes_have_no_minimum_without_a_ridge(self):
        with pytest.raises(ValueError, match=r"separable classes.*Use l2 > 0"):
            _ = st.logistic([[1.0], [2.0], [-1.0]], [1, 1, 0]).reference
