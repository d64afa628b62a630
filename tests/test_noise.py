"""Noise: its law by simulation, its factors against its samples, its couplings."""

import itertools
import math

import numpy as np
import pytest

import stability as st
from stability.noise import Noise, Sample

COUPLINGS = [
    {"batch": 4, "hessian_batch": 2},
    {"batch": 4, "hessian_batch": 2, "coupling": "nested"},
    {"batch": 4, "coupling": "nested"},
    {"batch": 2, "hessian_batch": 4},
]


def flatten(sample):
    upper = np.triu_indices(sample.Eg.shape[-1])
    return np.concatenate([sample.zeta, sample.Eg[:, *upper], sample.Eh[:, *upper]], axis=1)


def z_scores(samples, covariance):
    """z of every entry of the sample second moment of mean-zero samples (m, n)."""
    products = samples[:, :, None] * samples[:, None, :]
    error = products.std(axis=0) / np.sqrt(len(samples))
    gap = products.mean(axis=0) - covariance
    return gap[error > 0] / error[error > 0], gap[error == 0]


@pytest.mark.parametrize("options", COUPLINGS, ids=str)
def test_samples_have_the_second_moments_of_the_factors(options):
    noise = Noise(gradient=[[1.0, 0.4], [0.4, 0.5]], curvature=0.3, **options)
    drawn = noise.sample(np.zeros(2), 20_000, np.random.default_rng(3))
    factors = flatten(noise.factors(np.zeros(2)))
    z, exact = z_scores(flatten(drawn), factors.T @ factors)
    assert np.abs(z).max() < 4
    np.testing.assert_allclose(exact, 0, atol=1e-12)


@pytest.mark.parametrize(("coupling", "c"), [("independent", 0.0), ("nested", 0.3**2 / 8)])
def test_goe_entries_have_their_stated_variances(coupling, c):
    noise = Noise(curvature=0.3, batch=8, hessian_batch=2, coupling=coupling)
    _, Eg, Eh = noise.factors(np.zeros(3))
    assert np.isclose(np.sum(Eg[:, 0, 1] ** 2), 0.3**2 / 8)
    assert np.isclose(np.sum(Eg[:, 1, 1] ** 2), 2 * 0.3**2 / 8)
    assert np.isclose(np.sum(Eh[:, 0, 1] ** 2), 0.3**2 / 2)
    assert np.isclose(np.sum(Eg[:, 0, 2] * Eh[:, 0, 2]), c)
    assert np.isclose(np.sum(Eg[:, 0, 2] * Eh[:, 0, 1]), 0)


def test_a_nested_batch_of_the_same_size_is_the_same_batch():
    drawn = Noise(curvature=1.0, batch=8, coupling="nested").sample(np.zeros(2), 5, np.random.default_rng(0))
    np.testing.assert_array_equal(drawn.Eg, drawn.Eh)


@pytest.mark.parametrize(
    ("gradient", "expected"),
    [
        (2.0, np.eye(2)),
        ([2.0, 4.0], np.diag([1.0, 4.0])),
        ([[4.0, 2.0], [2.0, 8.0]], [[1.0, 0.5], [0.5, 2.0]]),
    ],
)
def test_gradient_noise_is_a_number_a_vector_or_a_matrix(gradient, expected):
    np.testing.assert_allclose(
        Noise(gradient=gradient, batch=4).gradient_covariance(np.zeros(2)), expected, atol=1e-15
    )


def test_away_from_the_reference_curvature_noise_adds_to_the_gradients():
    noise, w = Noise(gradient=0.5, curvature=0.3, batch=2, reference=[1.0, 0.0]), np.array([0.0, 2.0])
    zeta, Eg, _ = noise.sample(w, 40_000, np.random.default_rng(1))
    z, _ = z_scores(zeta + Eg @ (w - [1.0, 0.0]), noise.gradient_covariance(w))
    assert np.abs(z).max() < 4


@pytest.mark.parametrize("options", COUPLINGS, ids=str)
def test_second_moment_is_the_mean_of_G_M_G(options, rng):
    noise = Noise(curvature=0.3, **options)
    A, B, M = rng.standard_normal((3, 3, 3))
    M = M @ M.T

    def apply_G(Eg, Eh):
        return A @ Eg + Eh @ B

    _, Eg, Eh = noise.sample(np.zeros(3), 20_000, rng)
    G = apply_G(Eg, Eh)
    products = G @ M @ np.swapaxes(G, 1, 2)
    z = (products.mean(axis=0) - noise.second_moment(apply_G, M)) / (products.std(axis=0) / np.sqrt(len(G)))
    assert np.abs(z).max() < 4


def test_an_infinite_batch_switches_its_noise_off():
    drawn = Noise(gradient=1.0, curvature=1.0, batch=4, hessian_batch=np.inf).sample(
        np.zeros(2), 3, np.random.default_rng(0)
    )
    assert np.all(drawn.Eh == 0)
    assert np.all(drawn.Eg != 0)
    assert not Noise(gradient=1.0, curvature=1.0, batch=np.inf).has_curvature


class TestLawsThatAreNotDrawn:
    """A class of one's own that states a law and draws another has no paths."""

    class Doubled(Noise):
        def factors(self, w):
            return Sample(*(2 * part for part in super().factors(w)))

    class Wider(Noise):
        def gradient_covariance(self, *at):
            return 4 * super().gradient_covariance(*at)

    @pytest.mark.parametrize("level", ["sde", "iteration"])
    @pytest.mark.parametrize(("law", "name"), [(Doubled, "factors"), (Wider, "gradient_covariance")])
    def test_they_are_refused_where_paths_are_asked_for(self, law, name, level):
        flow = st.Flow(st.quadratic([1.0]), st.SGD(), law(gradient=0.1), step=0.1)
        assert st.linearize(flow).covariance() > 0
        with pytest.raises(ValueError, match=rf"has `{name}` of its own and no `sample`: .* Give it `sample"):
            st.simulate(flow, start=[0.0], t_end=0.2, paths=3, seed=0, level=level)

        class Drawn(law):
            def sample(self, w, size, rng):
                one = super().sample(w, size, rng)
                return one._replace(zeta=2 * one.zeta)

        flow = st.Flow(st.quadratic([1.0]), st.SGD(), Drawn(gradient=0.1), step=0.1)
        ens = st.simulate(flow, start=[0.0], t_end=0.2, paths=3, seed=0, level="iteration")
        assert np.isfinite(ens.states).all()


class TestFromData:
    """Tiny data, all batches enumerated: nothing is estimated in the test."""

    def objective(self, n=5):
        rng = np.random.default_rng(4)
        return st.logistic(rng.standard_normal((n, 2)), np.arange(n) % 2, l2=0.3)

    def enumerate(self, F, at, b, h, coupling, replacement):
        n, each, hessians = F.n_samples, F.per_sample_gradient(at), F.per_sample_hessian(at)
        rows = []
        draw = (
            (lambda k: itertools.product(range(n), repeat=k))
            if replacement
            else (lambda k: itertools.permutations(range(n), k))
        )
        for batch in draw(b):
            for other in [batch[:h]] if coupling == "nested" else draw(h):
                g, i = list(batch), list(other)
                rows.append(
                    (
                        each[g].mean(axis=0),
                        hessians[g].mean(axis=0) - F.hessian(at),
                        hessians[i].mean(axis=0) - F.hessian(at),
                    )
                )
        zeta, Eg, Eh = (np.array(part) for part in zip(*rows, strict=True))
        flat = flatten(Sample(zeta - F.gradient(at), Eg, Eh))
        return flat.T @ flat / len(flat)

    @pytest.mark.parametrize("replacement", [False, True])
    @pytest.mark.parametrize(
        ("b", "h", "coupling"),
        [(3, 2, "independent"), (3, 2, "nested"), (3, 3, "nested"), (2, 3, "independent")],
    )
    @pytest.mark.slow
    def test_factors_are_the_minibatches_exact_law(self, b, h, coupling, replacement):
        F, at = self.objective(), np.array([0.4, -0.2])
        noise = Noise.from_data(F, at, b, hessian_batch=h, coupling=coupling, replacement=replacement)
        factors = flatten(noise.factors(at))
        np.testing.assert_allclose(
            factors.T @ factors, self.enumerate(F, at, b, h, coupling, replacement), atol=1e-15
        )

    def test_many_samples_are_compressed_without_loss(self):
        rng = np.random.default_rng(6)
        F, at = (
            st.logistic(rng.standard_normal((400, 2)), rng.random(400) < 0.5, l2=0.1),
            np.array([0.1, 0.3]),
        )
        noise = Noise.from_data(F, at, 10, replacement=True)
        factors = flatten(noise.factors(at))
        upper = np.triu_indices(2)
        each = np.concatenate(
            [
                F.per_sample_gradient(at),
                F.per_sample_hessian(at)[:, *upper],
                F.per_sample_hessian(at)[:, *upper],
            ],
            axis=1,
        )
        covariance = np.cov(each.T, ddof=0) / 10
        covariance[:5, 5:] = covariance[5:, :5] = 0  # independent batches
        assert len(factors) <= 2 * 5
        np.testing.assert_allclose(factors.T @ factors, covariance, atol=1e-15)

    @pytest.mark.parametrize(("n", "b", "h"), [(200, 6, 3), (9, 6, 3)], ids=["few-of-many", "most-of-few"])
    def test_batches_are_distinct_and_uniform(self, n, b, h):
        F = self.objective(n)
        drawn = Noise.from_data(F, np.zeros(2), b, hessian_batch=h).draw_batches(
            4000, np.random.default_rng(8)
        )
        for part, size in ((drawn.gradient, b), (drawn.hessian, h)):
            assert part.shape == (4000, size)
            assert all(len(set(row)) == size for row in part.tolist())
            counts = np.bincount(part.ravel(), minlength=n)
            expected, p = 4000 * size / n, size / n
            assert np.abs((counts - expected) / np.sqrt(4000 * p * (1 - p))).max() < 4.5

    def test_a_nested_batch_lies_inside(self):
        drawn = Noise.from_data(
            self.objective(40), np.zeros(2), 6, hessian_batch=3, coupling="nested"
        ).draw_batches(50, np.random.default_rng(8))
        assert all(
            set(h) <= set(g) for g, h in zip(drawn.gradient.tolist(), drawn.hessian.tolist(), strict=True)
        )

    def test_the_whole_data_set_makes_no_noise(self):
        F = self.objective(6)
        factors = Noise.from_data(F, np.zeros(2), 6).factors(np.zeros(2))
        assert max(np.abs(part).max(initial=0) for part in factors) == 0


def test_curvature_noise_without_a_reference_has_no_covariance_to_give():
    noise = Noise(gradient=1.0, curvature=1.0)
    with pytest.raises(ValueError, match="grows with the distance from its reference point"):
        noise.gradient_covariance([1.0, 1.0])
    np.testing.assert_allclose(noise.gradient_covariance([1.0, 1.0], [0.0, 0.0]), [[4.0, 1.0], [1.0, 4.0]])


class TestAligned:
    @pytest.mark.parametrize("exponent", [0, 0.5, 1, 2, -1])
    def test_the_covariance_is_a_power_of_the_hessian(self, exponent):
        F = st.quadratic([2.0, 0.5, 0.1], rotation_seed=3)
        values, vectors = np.linalg.eigh(F.hessian(np.zeros(3)))
        noise = st.Noise.aligned(F, scale=1.5, exponent=exponent, batch=4)
        expected = 1.5 / 4 * (vectors * values**exponent) @ vectors.T
        np.testing.assert_allclose(noise.gradient_covariance(np.zeros(3)), expected, rtol=1e-12, atol=1e-14)

    def test_it_is_taken_where_it_is_asked_for(self):
        F = st.expression("x**4 + y**2", ["x", "y"])
        noise = st.Noise.aligned(F, [1.0, 0.0], scale=1.0, exponent=0.5)
        np.testing.assert_allclose(noise.gradient_covariance(np.ones(2)), np.diag([12**0.5, 2**0.5]))

    def test_flat_and_negative_curvature(self):
        flat, saddle = st.quadratic([1.0, 0.0]), st.quadratic([1.0, -0.5])
        still = st.Noise.aligned(flat, exponent=0.5).gradient_covariance(np.zeros(2))
        np.testing.assert_array_equal(still, np.diag([1.0, 0.0]))
        even = st.Noise.aligned(saddle, exponent=2).gradient_covariance(np.zeros(2))
        np.testing.assert_allclose(even, np.diag([1.0, 0.25]))
        with pytest.raises(ValueError, match=r"vanishes along 1 of 2 directions, where H\^-1 is infinite"):
            st.Noise.aligned(flat, exponent=-1)
        with pytest.raises(
            ValueError, match=r"smallest curvature is -0\.5\. Give a minimum as `at`, or an even"
        ):
            st.Noise.aligned(saddle, exponent=1)

    def test_bad_input(self):
        F = st.quadratic([1.0])
        with pytest.raises(ValueError, match="`scale` must be a finite number >= 0; got -1"):
            st.Noise.aligned(F, scale=-1)
        with pytest.raises(ValueError, match="`exponent` must be finite"):
            st.Noise.aligned(F, exponent=np.inf)
        with pytest.raises(ValueError, match=r"`at` must be given: the objective has no reference point"):
            st.Noise.aligned(st.expression("x**4 - x**2", ["x"]))


class TestGaussianInputs:
    @pytest.mark.parametrize("sizes", [(3, 2), (8, 8), (math.inf, 6), (5, math.inf)], ids=str)
    @pytest.mark.parametrize("coupling", ["independent", "nested"])
    def test_batches_have_the_second_moments_of_the_factors(self, sizes, coupling):
        batch, hessian_batch = sizes
        if coupling == "nested" and hessian_batch > batch:
            pytest.skip("a nested batch is a part")
        options = {"batch": batch, "hessian_batch": hessian_batch, "coupling": coupling}
        noise = Noise.streaming([[1.0, 0.4], [0.4, 0.5]], label_noise=0.7, **options)
        drawn = noise.sample(np.zeros(2), 20_000, np.random.default_rng(5))
        factors = flatten(noise.factors(np.zeros(2)))
        z, exact = z_scores(flatten(drawn), factors.T @ factors)
        assert np.abs(z).max() < 4
        np.testing.assert_allclose(exact, 0, atol=1e-12)

    def test_a_few_inputs_and_many_have_one_law(self):
        """Bartlett's triangle against inputs drawn one by one: third moments, which factors do not tell."""
        noise, C = Noise.streaming(np.diag([1.0, 0.3]), label_noise=1.0, batch=5), np.diag([1.0, 0.3])
        zeta, Eg, _ = noise.sample(np.zeros(2), 40_000, np.random.default_rng(1))
        rng = np.random.default_rng(2)
        x = rng.standard_normal((40_000, 5, 2)) @ np.sqrt(C)
        theirs = np.einsum("sbi,sb->si", x, rng.standard_normal((40_000, 5))) / 5
        other = np.einsum("sbi,sbj->sij", x, x) / 5 - C
        for ours, them in (
            (Eg[:, 0, 0] ** 3, other[:, 0, 0] ** 3),
            (Eg[:, 0, 1] ** 2 * Eg[:, 1, 1], other[:, 0, 1] ** 2 * other[:, 1, 1]),
            (zeta[:, 0] ** 2 * Eg[:, 0, 0], theirs[:, 0] ** 2 * other[:, 0, 0]),
            (zeta[:, 0] * zeta[:, 1] * Eg[:, 0, 1], theirs[:, 0] * theirs[:, 1] * other[:, 0, 1]),
        ):
            assert abs(ours.mean() - them.mean()) < 4 * np.hypot(ours.std(), them.std()) / 200

    def test_a_nested_batch_of_the_same_size_is_the_same_batch(self):
        noise = Noise.streaming(np.eye(2), batch=8, coupling="nested")
        drawn = noise.sample(np.zeros(2), 5, np.random.default_rng(0))
        np.testing.assert_array_equal(drawn.Eg, drawn.Eh)

    @pytest.mark.parametrize("coupling", ["independent", "nested"])
    @pytest.mark.parametrize(
        "method",
        [st.SGD(), st.Newton(), st.SFN(damping=0.1), st.LRSFN(rank=1, damping=0.3, tail="flat")],
        ids=lambda method: method.name,
    )
    def test_theory_on_common_axes_is_that_of_the_factors(self, method, coupling):
        class Stated(type(Noise.streaming())):
            """The same law, of which theory knows the factors alone."""

        F = st.quadratic([1.0, 0.5, 0.2], rotation_seed=2)
        options = {"label_noise": 0.3, "batch": 16, "hessian_batch": 9, "coupling": coupling}
        ours, theirs = (
            st.linearize(st.Flow(F, method, noise, step=0.05))
            for noise in (Noise.streaming(**options), Stated(F.hessian(np.zeros(3)), **options))
        )
        assert ours.step_limit() == pytest.approx(theirs.step_limit(), rel=1e-10)
        np.testing.assert_allclose(
            ours.covariance("discrete"), theirs.covariance("discrete"), rtol=1e-9, atol=1e-15
        )
        assert ours.validity == pytest.approx(theirs.validity, rel=1e-9)

    def test_the_gradients_covariance_at_a_distance(self):
        noise = Noise.streaming([[1.0, 0.4], [0.4, 0.5]], label_noise=0.7, batch=3, reference=[0.5, -1.0])
        w = np.array([1.0, 2.0])
        zeta, Eg, _ = noise.factors(w)
        kicks = zeta + Eg @ (w - noise.reference)
        np.testing.assert_allclose(noise.gradient_covariance(w), kicks.T @ kicks, rtol=1e-12)

    @pytest.mark.slow
    @pytest.mark.parametrize("level", ["sde", "iteration"])
    def test_paths_have_the_moments_of_theory_and_of_the_theorem(self, level):
        lam, step, batch = [1.0, 0.4], 0.4, 4
        flow = st.Flow(st.quadratic(lam), st.SGD(), Noise.streaming(label_noise=0.5, batch=batch), step=step)
        lin = st.linearize(flow)
        risk = st.theorem("averaging", method=st.SGD()).evaluate(
            "streaming-risk", lam=lam, step=step, sigma=0.5, b=batch
        )
        assert lin.excess_risk("discrete") == pytest.approx(risk, rel=1e-10)
        ens = st.simulate(flow, start=[1.0, -1.0], t_end=8.0, paths=4000, seed=3, level=level)
        assert st.compare(lin, ens).max_z < 4

    def test_a_flow_gives_them_its_hessian(self):
        F = st.quadratic([2.0, 0.5], rotation_seed=1)
        flow = st.Flow(F, st.Newton(), Noise.wishart(samples=40), step=0.1)
        np.testing.assert_array_equal(flow.noise_model.covariance, F.hessian(np.zeros(2)))
        assert "covariance of shape (2, 2), samples=40" in repr(flow.noise_model)

    def test_it_is_saved_with_its_flow(self, tmp_path):
        flow = st.Flow(
            st.quadratic([2.0, 0.5]), st.SGD(), Noise.streaming(label_noise=0.5, batch=4), step=0.1
        )
        lin = st.linearize(flow)
        again = st.load(lin.save(tmp_path / "lin"))
        np.testing.assert_array_equal(again.covariance(), lin.covariance())

    def test_bad_input(self):
        with pytest.raises(
            ValueError, match=r"`samples` must be a whole number of samples >= 1, or inf; got 2\.5"
        ):
            Noise.wishart(samples=2.5)
        with pytest.raises(ValueError, match="`batch` must be a number > 0; got 0"):
            Noise.streaming(batch=0)
        with pytest.raises(ValueError, match="`covariance` must be positive semidefinite"):
            Noise.streaming([[1.0, 2.0], [2.0, 1.0]])
        with pytest.raises(ValueError, match=r"covariance is not known yet\. Pass `covariance`, or put"):
            Noise.wishart(samples=4).sample(np.zeros(2), 1, np.random.default_rng(0))
        with pytest.raises(ValueError, match="given for 2 inputs; the state has 3"):
            Noise.wishart(np.eye(2), samples=4).factors(np.zeros(3))
        with pytest.raises(ValueError, match="given for 2 inputs; the objective has 1 dim"):
            st.Flow(st.quadratic([1.0]), st.SGD(), Noise.streaming(np.eye(2)), step=0.1)
        free = st.expression("x**4 - x**2", ["x"])
        with pytest.raises(ValueError, match="Curvature noise needs a reference point"):
            st.Flow(free, st.SGD(), Noise.streaming(), step=0.1)
        with pytest.raises(
            ValueError, match=r"smallest curvature is -2\. Pass `covariance`, or a minimum as"
        ):
            st.Flow(free, st.SGD(), Noise.streaming(reference=[0.0]), step=0.1)
        st.Flow(free, st.SGD(), Noise.streaming([[1.0]], reference=[0.0]), step=0.1)
        found = st.Flow(free, st.SGD(), Noise.streaming(reference=[0.5**0.5]), step=0.1).noise_model
        assert found.covariance[0, 0] == pytest.approx(4.0)


class Slopes:
    """Data whose samples' gradients at 0 have covariance ``H^g``, their Hessians being all the same."""

    def __init__(self, H, g, n, rng):
        values, vectors = np.linalg.eigh(H)
        self.H, self.dim, self.n_samples, self.reference = H, len(H), n, np.zeros(len(H))
        self.rows = rng.standard_normal((n, len(H))) @ (vectors * values ** (g / 2)).T

    def value(self, w, batch=None):
        return 0.5 * np.einsum("...i,ij,...j->...", w, self.H, w)

    def gradient(self, w, batch=None):
        return w @ self.H + self.rows[slice(None) if batch is None else batch].mean(axis=0)

    def hessian(self, w, batch=None):
        return self.H

    def per_sample_gradient(self, w, batch=None):
        return w @ self.H + self.rows[slice(None) if batch is None else batch]

    def per_sample_hessian(self, w, batch=None):
        return np.broadcast_to(
            self.H, (len(self.rows[slice(None) if batch is None else batch]), *self.H.shape)
        )


class TestExponent:
    H = st.quadratic([1.0, 0.3, 0.1, 0.03], rotation_seed=4).hessian(np.zeros(4))

    def labels(self, rng, n=300):
        X = rng.standard_normal((n, 4)) @ np.linalg.cholesky(self.H).T
        return st.least_squares(X, X @ np.ones(4) + 0.5 * rng.standard_normal(n))

    @pytest.mark.slow
    @pytest.mark.parametrize("g", [0.0, 0.5, 2.0, "labels"])
    def test_the_error_bar_covers_over_200_seeds(self, g):
        z = []
        for seed in range(200):
            rng = np.random.default_rng(seed)
            F = self.labels(rng) if g == "labels" else Slopes(self.H, g, 300, rng)
            value, error, reason = Noise.from_data(F).exponent
            assert reason == ""
            z.append((value - (1.0 if g == "labels" else g)) / error)
        # Of 95 %, and of a unit spread, four standard errors of 200 seeds.
        assert np.mean(np.abs(z) < 1.96) > 0.95 - 4 * (0.95 * 0.05 / 200) ** 0.5
        assert 0.8 < np.std(z) < 1.2

    @pytest.mark.parametrize("g", [0.0, 1.5])
    def test_it_is_the_exponent_of_the_noise(self, g):
        value, error, _ = Noise.from_data(Slopes(self.H, g, 5000, np.random.default_rng(0))).exponent
        assert abs(value - g) < 4 * error < 0.15

    def test_label_noise_has_exponent_one_whatever_the_units(self):
        F = self.labels(np.random.default_rng(1))
        value, error, _ = Noise.from_data(F).exponent
        assert abs(value - 1) < 4 * error < 0.5
        scaled = st.least_squares(1e6 * F.X, 1e-3 * F.y)
        assert Noise.from_data(scaled).exponent[:2] == pytest.approx((value, error), rel=1e-6)

    def test_flat_modes_are_left_out_and_told(self):
        rng = np.random.default_rng(2)
        flat = np.zeros((5, 5))
        flat[:4, :4] = self.H
        assert Noise.from_data(Slopes(flat, 1.0, 400, rng)).exponent.reason == "of 4 of 5 modes"

    @pytest.mark.parametrize("seed", range(4))
    def test_data_that_are_fitted_exactly_have_no_noise_but_rounding(self, seed):
        X = np.random.default_rng(seed).standard_normal((50, 3)) * [1.0, 0.3, 0.1] + [0.0, 5.0, 0.0]
        F = st.least_squares(X, X @ [1.0, -2.0, 3e3])
        with pytest.raises(ValueError, match="and 0 such modes"):
            _ = Noise.from_data(F).exponent

    def test_curvatures_that_differ_by_chance_give_no_exponent(self):
        rng = np.random.default_rng(3)
        F = st.least_squares(rng.standard_normal((300, 3)), rng.standard_normal(300))
        _, error, reason = Noise.from_data(F).exponent
        assert math.isinf(error)
        assert "hardly more than by their own sampling errors" in reason

    @pytest.mark.parametrize("dim", [1, 3])
    def test_no_two_curvatures(self, dim):
        F = Slopes(np.eye(dim), 1.0, 50, np.random.default_rng(0))
        with pytest.raises(ValueError, match="two modes with different positive curvatures"):
            _ = Noise.from_data(F, batch=4).exponent
