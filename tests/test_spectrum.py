"""Spectral sums from products alone, by matrices of known eigenvalues; what cannot be summed is refused."""

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.special

import stability as st
from stability.lowrank.operator import BadProducts
from stability.spectra import lanczos
from stability.spectra.estimation import spectrum
from stability.spectra.result import Spectrum

N = 200
TURN = np.linalg.qr(np.random.default_rng(3).standard_normal((N, N)))[0]
POSITIVE = np.geomspace(1e-2, 1.0, N)
INDEFINITE = np.where(np.arange(N) % 2, -1, 1) * 0.97 ** np.arange(N)
NETWORK = np.concatenate([np.geomspace(10, 1, 10), 0.05 * np.linspace(-1, 2, N - 10)])
SPECTRA = {"positive": POSITIVE, "indefinite": INDEFINITE, "network-like": NETWORK}


def matrix(eigenvalues):
    H = (TURN[: len(eigenvalues), : len(eigenvalues)] if len(eigenvalues) < N else TURN).copy()
    H = np.linalg.qr(H)[0]
    H = (H * eigenvalues) @ H.T
    return 0.5 * (H + H.T)


def sampled(eigenvalues, **options):
    H = matrix(eigenvalues)
    return spectrum(lambda V: H @ V, n=len(eigenvalues), **options)


def smooth(lam):
    return 1 / (np.abs(lam) + 0.3)


class TestSums:
    @pytest.mark.parametrize("deflate", [0, 10])
    @pytest.mark.parametrize("name", SPECTRA)
    def test_agree_with_the_eigenvalues_within_their_error(self, name, deflate):
        lams = SPECTRA[name]
        s = sampled(lams, probes=20, deflate=deflate, seed=1)
        for f in (lambda lam: lam, lambda lam: lam**2, smooth, np.cos):
            estimate = s.sum(f)
            assert abs(estimate.value - f(lams).sum()) < 4 * estimate.error
            assert estimate.error < 0.2 * np.abs(f(lams)).sum()

    def test_errors_are_neither_too_small_nor_too_large(self):
        H = matrix(POSITIVE)
        runs = [spectrum(lambda V: H @ V, n=N, steps=30, probes=10, seed=seed) for seed in range(60)]
        z = np.array(
            [(e.value - t) / e.error for s in runs for e, t in [(s.sum(smooth), smooth(POSITIVE).sum())]]
        )
        assert abs(z.mean()) * math.sqrt(60) < 4
        assert 0.8 < z.std() < 1.6  # Student's t with 9 degrees of freedom: 1.13

    def test_of_a_bad_basis_are_not_biased(self):
        # A cluster cut through by the deflation: its vectors are no eigenvectors, and still nothing is lost.
        lams = np.concatenate([np.linspace(1.0, 1.2, 60), np.linspace(-0.1, 0.1, N - 60)])
        H = matrix(lams)
        z = []
        for seed in range(40):
            s = spectrum(lambda V: H @ V, n=N, deflate=20, probes=10, steps=20, seed=seed)
            estimate = s.sum(lambda lam: lam**4)
            z.append((estimate.value - (lams**4).sum()) / estimate.error)
        assert abs(np.mean(z)) * math.sqrt(40) < 4

    def test_of_deflated_vectors_are_their_own_and_not_those_of_eigenvectors(self):
        H = matrix(POSITIVE)
        s = spectrum(lambda V: H @ V, n=N, deflate=20)
        vectors = st.randomized_eigh(lambda V: H @ V, N, 20).vectors
        found = (s.weights[:20] * s.nodes[:20] ** 2).sum(axis=1)
        np.testing.assert_allclose(found, np.sum((H @ vectors) ** 2, axis=0), rtol=1e-12)

    def test_find_an_outlier_once(self):
        assert np.array_equal((np.abs(sampled(NETWORK).nodes - 10) < 1e-3).sum(axis=1), np.ones(8))

    def test_deflation_takes_the_variance_of_outliers_away(self):
        plain, deflated = (sampled(NETWORK, deflate=k, seed=2).trace.error for k in (0, 10))
        assert deflated < plain / 5

    def test_of_polynomials_have_no_quadrature_error(self):
        s = sampled(POSITIVE, steps=8)
        assert s.quadrature_error(lambda lam: lam**7) < 1e-10
        assert s.quadrature_error(lambda lam: lam**9) > 1e-10
        assert s.sum(lambda lam: 1 / lam).error >= s.quadrature_error(lambda lam: 1 / lam) > 0.01

    def test_count_dimensions_exactly(self):
        one = sampled(INDEFINITE, deflate=3).sum(lambda lam: 1.0)
        assert one.value == pytest.approx(N, rel=1e-12)
        assert one.error < 1e-9

    def test_same_seed_same_numbers_another_seed_others(self):
        first, again, other = (sampled(POSITIVE, seed=seed).nodes for seed in (0, 0, 1))
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)

    def test_do_not_depend_on_how_many_probes_go_together(self, monkeypatch):
        together = sampled(POSITIVE, steps=20)
        widths = []
        H = matrix(POSITIVE)
        monkeypatch.setattr(lanczos, "BASIS_BYTES", 3 * N * 20 * 8)
        apart = spectrum(lambda V: widths.append(V.shape[1]) or H @ V, n=N, steps=20)
        assert set(widths) == {3, 2}
        np.testing.assert_allclose(apart.sum(smooth).value, together.sum(smooth).value, rtol=1e-12)


class TestCoverage:
    """Nominal 95 % intervals, ``value +- 1.96 error``, of few probes."""

    @staticmethod
    def z(lams, f, **options):
        found = [
            spectrum(lambda V: lams[:, None] * V, n=len(lams), steps=12, seed=seed, **options).sum(f)
            for seed in range(200)
        ]
        return np.array([(one.value - f(lams).sum()) / one.error for one in found])

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("lams", "probes", "deflate"),
        [
            (np.r_[100.0, np.linspace(0, 1, 79)], 8, 0),
            (np.r_[100.0, np.linspace(0, 1, 79)], 2, 0),
            (np.r_[100.0, np.linspace(0, 1, 79)], 8, 1),
            (np.linspace(-1, 1, 80), 3, 0),
        ],
        ids=["an outlier", "two probes", "deflated roughly", "a bulk"],
    )
    def test_of_traces(self, lams, probes, deflate):
        """With their own spread 8 probes cover 82 %, 2 probes 57 %, where one eigenvalue leads."""
        z = self.z(lams, lambda lam: lam, probes=probes, deflate=deflate)
        assert 0.9 <= np.mean(np.abs(z) < 1.96) <= 0.98

    @pytest.mark.slow
    def test_of_smooth_sums_and_ratios(self):
        lams = np.geomspace(1e-2, 1, 24)
        assert 0.9 <= np.mean(np.abs(self.z(lams, smooth)) < 1.96) <= 0.98
        truth = (1 / lams / (lams + 0.3)).sum() / (1 / lams).sum()
        found = [
            spectrum(lambda V: lams[:, None] * V, n=24, steps=24, seed=s).amplification(st.SFN(damping=0.3))
            for s in range(200)
        ]
        z = np.array([(one.value - truth) / one.error for one in found])
        assert 0.9 <= np.mean(np.abs(z) < 1.96) <= 0.98

    def test_the_variance_of_a_probe_is_known_before_it_is_seen(self):
        """``2 N / (N + 2) tr (H - mean)^2``, by 4,000 uniform directions; one eigenvalue has 8 squares."""
        lams = np.r_[100.0, np.linspace(0, 1, 79)]
        u = np.random.default_rng(0).standard_normal((4000, 80))
        probes = 80 * (u**2 @ lams) / np.sum(u**2, axis=1)
        found = [
            spectrum(lambda V: lams[:, None] * V, n=80, steps=12, seed=seed).trace.error for seed in range(30)
        ]
        wide = scipy.special.stdtrit(8, 0.975) / 1.96
        assert np.sqrt(np.mean(np.square(found))) == pytest.approx(
            wide * probes.std() / math.sqrt(8), rel=0.1
        )


class TestExactCases:
    def test_zero_operator(self):
        s = spectrum(lambda V: 0 * V, n=30, deflate=2)
        assert s.trace == (0.0, 0.0, "")
        assert s.sum(lambda lam: lam + 2).value == pytest.approx(60)
        assert "trace" in str(s)

    def test_few_distinct_eigenvalues_end_the_recurrence(self):
        lams = np.repeat([2.0, -1.0, 0.5], [50, 100, 50])
        s = sampled(lams, steps=40)
        assert set(s.lengths) == {3}
        assert s.stats["hessian_products"] == 3 * 8
        np.testing.assert_allclose(s.nodes[:, :3], np.tile([-1.0, 0.5, 2.0], (8, 1)), atol=1e-12)
        assert not s.weights[:, 3:].any()

    def test_one_dimension_needs_one_step(self):
        assert spectrum(lambda V: -3 * V, n=1, steps=1).trace.value == pytest.approx(-3)

    @pytest.mark.parametrize("deflate", [0, 5])
    def test_two_steps_have_a_quadrature_error(self, deflate):
        estimate = sampled(POSITIVE, steps=2, deflate=deflate).sum(np.log)
        assert abs(estimate.value - np.log(POSITIVE).sum()) < 4 * estimate.error

    def test_smaller_than_the_steps(self):
        lams = np.array([3.0, 1.0, -2.0, 0.5])
        s = sampled(lams, steps=64)
        np.testing.assert_allclose(s.nodes, np.tile(np.sort(lams), (8, 1)), atol=1e-10)

    def test_one_dimension(self):
        assert spectrum(lambda V: -3 * V, n=1).trace.value == pytest.approx(-3)

    def test_all_eigenvectors_deflated_leave_no_error(self):
        s = sampled(NETWORK[:12], deflate=12)
        assert s.probes == 0
        assert s.sum(smooth).value == pytest.approx(smooth(NETWORK[:12]).sum(), rel=1e-10)
        assert s.sum(smooth).error < 1e-9

    @pytest.mark.parametrize("unit", [1.0, 2.0**-600])
    def test_low_rank_operator_with_all_of_it_deflated(self, unit):
        lams = np.concatenate([[5.0, -4.0, 3.0], np.zeros(N - 3)])
        s = sampled(unit * lams, deflate=3)
        assert s.sum(lambda lam: np.exp(lam / unit)).value == pytest.approx(np.exp(lams).sum(), rel=1e-9)
        assert s.lengths[3:].max() == 1  # what is left is rounding

    def test_extremes_lie_within_the_spectrum_and_reach_its_ends(self):
        low, high = sampled(INDEFINITE).extremes
        assert low >= INDEFINITE.min() - 1e-12
        assert high <= INDEFINITE.max() + 1e-12
        np.testing.assert_allclose([low, high], [INDEFINITE.min(), INDEFINITE.max()], rtol=1e-6)


class TestTheory:
    noise = st.Noise(gradient=0.5, batch=4)
    step, strength = 0.2, 0.2 * 0.5**2 / 4

    @pytest.mark.parametrize("time", ["continuous", "discrete"])
    @pytest.mark.parametrize(
        "method",
        [st.SGD(), st.Newton(), st.SFN(damping=0.3), st.LRSFN(rank=4, damping=0.3)],
        ids=lambda m: m.label,
    )
    def test_variance_and_excess_risk_are_those_of_the_linear_theory(self, method, time):
        s = sampled(POSITIVE, deflate=5, probes=20, seed=4)
        lin = st.linearize(
            st.Flow(st.quadratic(POSITIVE), method, self.noise, step=self.step), at=np.zeros(N)
        )
        asked = {"step": self.step, "noise": self.noise, "time": time}
        for estimate, truth in (
            (s.variance(method, **asked), np.trace(lin.covariance(time))),
            (s.excess_risk(method, **asked), lin.excess_risk(time)),
        ):
            # Deflated eigenvalues are only as good as their solver: the truncation is of the vectors found.
            assert abs(estimate.value - truth) < 4 * estimate.error + 1e-3 * truth
            assert estimate.error < 0.2 * truth

    def test_closed_forms(self):
        s = sampled(POSITIVE)
        assert s.excess_risk(st.SGD(), step=self.step, noise=self.noise).value == pytest.approx(
            self.strength * N / 4
        )
        assert s.effective_dimension(0.3).value == pytest.approx(s.sum(lambda lam: lam / (lam + 0.3)).value)

    def test_amplification_is_the_ratio_of_variances(self):
        s = sampled(POSITIVE, probes=20, seed=5)
        method = st.SFN(damping=0.3)
        truth = (1 / POSITIVE / (POSITIVE + 0.3)).sum() / (1 / POSITIVE).sum()
        found = s.amplification(method)
        assert abs(found.value - truth) < 4 * found.error
        assert found.error < 0.05 * truth
        assert s.amplification(st.SGD()) == (1.0, 0.0, "")

    def test_amplification_is_over_the_directions_where_sgd_is_stationary(self):
        found = sampled(np.array([2.0, 1.0, -1.0]), deflate=3).amplification(
            st.Newton(), stationary_only=True
        )
        assert found.value == pytest.approx((1 / 4 + 1) / (1 / 2 + 1))
        assert "1 of 3 directions" in found.reason

    def test_negative_curvature_is_refused_and_counted(self):
        s = sampled(NETWORK, deflate=11, probes=20)
        negative = (NETWORK < 0).sum()
        assert abs(s.negative.value - negative) < 4 * s.negative.error
        for ask in (s.variance, s.excess_risk):
            with pytest.raises(
                st.Unstable,
                match=r"About .* of 200 directions have no stationary law under SFN: curvature -0.0.* "
                r"stationary_only=True",
            ):
                ask(st.SFN(damping=0.1), step=0.1, noise=self.noise)
        with pytest.raises(st.Unstable, match="under SGD"):
            s.amplification(st.Newton())
        partial = s.excess_risk(st.SGD(), step=self.step, noise=self.noise, stationary_only=True)
        assert partial.reason.startswith("left out: ")
        assert abs(partial.value - self.strength * (N - negative) / 4) < 4 * partial.error

    def test_too_long_a_step_is_refused_in_discrete_time(self):
        s = sampled(POSITIVE)
        with pytest.raises(st.Unstable, match=r"curvature 0\.9"):
            s.variance(st.SGD(), step=2.1, noise=self.noise, time="discrete")
        assert s.variance(st.SGD(), step=2.1, noise=self.noise).value > 0

    def test_flat_directions_have_risk_but_no_variance(self):
        s = sampled(np.concatenate([np.ones(150), np.zeros(50)]), probes=20)
        with pytest.raises(st.Unstable, match="of 200 directions"):
            s.variance(st.SGD(), step=self.step, noise=self.noise)
        risk = s.excess_risk(st.SGD(), step=self.step, noise=self.noise)
        assert risk.reason == ""
        assert abs(risk.value - self.strength * 150 / 4) < 4 * risk.error
        with pytest.raises(st.Unstable, match="under Newton"):
            s.excess_risk(st.Newton(), step=self.step, noise=self.noise)

    def test_a_truncated_method_needs_its_eigenvalues(self):
        with pytest.raises(
            ValueError,
            match=r"`deflate` must be at least 5 for LRSFN\(4\).*got 4. Call spectrum\(..., deflate=5\)",
        ):
            sampled(POSITIVE, deflate=4).variance(st.LRSFN(rank=4, damping=0.1), step=0.1, noise=self.noise)

    @pytest.mark.parametrize("deflate", [0, 3])
    @pytest.mark.parametrize("steps", [8, 30])
    def test_the_largest_eigenvalue_is_bounded_from_both_sides(self, deflate, steps):
        for lams in (np.linspace(0.01, 2.0, N), np.r_[5.0, np.linspace(-1.0, 2.0, N - 1)]):
            below, above = sampled(lams, deflate=deflate, steps=steps).highest
            assert below <= lams.max() * (1 + 1e-12) <= above * (1 + 2e-12)
            assert above <= 1.5 * lams.max()
        assert sampled(lams, steps=N).highest == pytest.approx((5.0, 5.0))
        assert sampled(lams, deflate=N).highest == pytest.approx((5.0, 5.0))

    @pytest.mark.parametrize("method", [st.SGD(), st.Momentum(st.SGD(), 0.5)], ids=repr)
    def test_a_step_that_the_nodes_alone_would_allow_has_no_law_without_a_doubt(self, method):
        """Nodes lie inside the spectrum: beyond the limit a sum over them was finite, with a small error."""
        lams = np.linspace(0.01, 2.0, N)
        s = sampled(lams, steps=10)
        limit = 2 * (1 + method.memory.beta if method.memory else 1) / 2.0
        allowed = limit * 2.0 / s.extremes[1]
        beyond = 0.5 * (limit + allowed)
        assert beyond > limit * (1 + 1e-6)
        for asked in (s.variance, s.excess_risk):
            found = asked(method, step=beyond, noise=self.noise, time="discrete")
            assert found.error == np.inf
            assert "there may be no stationary law: the largest curvature lies between" in found.reason
            with pytest.raises(st.Unstable, match="have no stationary law"):
                asked(method, step=1.01 * allowed, noise=self.noise, time="discrete")
            low = asked(method, step=0.7 * limit, noise=self.noise, time="discrete")
            assert low.reason == ""
            assert np.isfinite(low.error)

    @pytest.mark.parametrize("tail", ["flat", "damping"])
    def test_kept_eigenvalues_that_have_not_converged_are_a_part_of_the_error(self, tail):
        """Without a gap a flat tail's sum was 80 % too large, with an error of 0.2 %."""
        method, lams = st.LRSFN(rank=20, damping=0.1, tail=tail), 1.05 - np.cos(2 * np.pi * np.arange(N) / N)
        s = sampled(lams, deflate=21, probes=20)
        gains = method.gains(np.sort(lams)[::-1])
        asked = {"step": self.step, "noise": self.noise}
        risk, truth = s.excess_risk(method, **asked), self.strength / 4 * gains.sum()
        assert abs(risk.value - truth) < 2 * risk.error
        assert abs(risk.value - truth) > 0.001 * truth
        spread = s.variance(method, **asked)
        assert abs(spread.value - self.strength / 2 * (gains / np.sort(lams)[::-1]).sum()) < 2 * spread.error
        ratio = s.amplification(method)
        assert abs(ratio.value - (gains / np.sort(lams)[::-1]).sum() / (1 / lams).sum()) < 2 * ratio.error

    def test_the_flat_tail_takes_the_next_eigenvalue(self):
        method = st.LRSFN(rank=4, damping=0.3, tail="flat")
        s = sampled(NETWORK + 0.1, deflate=11, probes=20)
        lams = np.sort(NETWORK + 0.1)[::-1]
        truth = self.strength / 4 * method.gains(lams).sum()
        assert s.excess_risk(method, step=self.step, noise=self.noise).value == pytest.approx(truth, rel=1e-3)


class TestCounts:
    @pytest.mark.parametrize("deflate", [0, 10])
    @pytest.mark.parametrize("bound", [-0.5, -0.01, 0.0, 0.02, 0.5, 20.0])
    def test_lie_within_their_error(self, bound, deflate):
        for lams in SPECTRA.values():
            found = sampled(lams, deflate=deflate, probes=20).below(bound)
            assert abs(found.value - (lams < bound).sum()) <= 4 * found.error + 1e-9

    def test_within_an_unresolved_cluster_say_so(self):
        lams = np.concatenate([np.linspace(1, 2, 100), np.linspace(-1e-6, 1e-6, 100)])
        s = sampled(lams, steps=20)
        assert s.negative.error > 20
        assert s.below(0.5).error < 20

    @pytest.mark.parametrize("steps", [40, 50, 64])
    @pytest.mark.parametrize("turned", [False, True])
    def test_a_kernel_is_not_charged(self, steps, turned):
        """Zeros that have converged are zeros; charged to the bound they made 0 +- 137 negative ones."""
        lams = np.concatenate([np.zeros(137), np.geomspace(1e-2, 1.0, 63)])
        H = matrix(lams) if turned else np.diag(lams)
        found = spectrum(lambda V: H @ V, n=N, steps=steps).negative
        assert found.value == 0
        assert found.error < 3

    def test_a_converged_node_is_not_charged_to_a_bound_in_a_gap(self):
        """A hundred and thirty-seven zeros are next to the bound, and 25 steps leave the others open."""
        lams = np.concatenate([np.zeros(137), np.linspace(0.4, 1.0, 63)])
        found = sampled(lams, probes=40, steps=25).below(0.1)
        assert abs(found.value - 137) < 4 * found.error
        assert found.error < 8

    def test_negative_eigenvalues_beside_a_kernel_are_counted(self):
        lams = np.concatenate([np.zeros(137), np.linspace(0.2, 1, 40), -np.linspace(0.2, 1, 23)])
        for steps in (25, 40, 64):
            found = sampled(lams, probes=20, steps=steps).negative
            assert abs(found.value - 23) < 4 * found.error
            assert found.error < 8

    def test_of_an_exhausted_space_are_bounded_by_sampling_alone(self):
        found = sampled(np.repeat([1.0, 3.0], [150, 50]), probes=40).below(2.0)
        assert abs(found.value - 150) < 4 * found.error < 30

    def test_need_a_number(self):
        with pytest.raises(ValueError, match="`bound` must be finite"):
            sampled(POSITIVE, steps=5).below(np.nan)


class TestDensity:
    @pytest.mark.parametrize("scale", [None, 0.05])
    def test_integrates_to_the_dimension(self, scale):
        s = sampled(NETWORK, deflate=10)
        y = np.linspace(-8, 8, 2001)
        grid = 2.0 * y if scale is None else scale * np.sinh(y)
        assert np.trapezoid(s.density(grid, 0.05, scale=scale), grid) == pytest.approx(N, rel=1e-3)

    def test_follows_the_eigenvalues(self):
        s = sampled(np.repeat([1.0, 3.0], [150, 50]), probes=40)
        low, high = s.density([1.0, 3.0], 0.1) * 0.1 * math.sqrt(2 * math.pi)
        assert abs(low - 150) < 10
        assert low + high == pytest.approx(200)

    def test_data_for_the_picture_are_saved_and_hold_the_outliers(self, tmp_path):
        s = sampled(NETWORK, deflate=10)
        study = st.load(st.save(s.data(), tmp_path / "study"))
        assert study.name == "spectrum"
        assert np.array_equal(study["outliers"], s.outliers)
        assert np.trapezoid(study["density"], study["grid"]) == pytest.approx(N, rel=1e-2)
        assert study["counts"].shape == (2, len(study["sizes"]))
        assert study["counts"][:, 0].sum() == pytest.approx(N, rel=0.01)


class TestSources:
    def test_objectives_by_their_reference_and_by_a_point(self):
        F = st.quadratic(POSITIVE, rotation_seed=2)
        assert spectrum(F).trace == spectrum(F, at=np.ones(N)).trace
        assert spectrum(F).trace.value == pytest.approx(
            spectrum(lambda V: F.hvp(F.reference, V), n=N).trace.value, rel=1e-12
        )

    def test_objectives_on_a_batch(self, rng):
        X = rng.standard_normal((60, 5))
        F = st.logistic(X, rng.integers(0, 2, 60), l2=0.1)
        rows, w = np.arange(20), rng.standard_normal(5)
        for batch, H in ((rows, np.mean(F.per_sample_hessian(w)[:20], axis=0)), (None, F.hessian(w))):
            s = spectrum(F, w, batch=batch, deflate=5)
            assert s.trace.value == pytest.approx(np.trace(H))

    def test_reusable_products_are_used(self):
        class Network:
            dim, calls = N, 0

            def products(self, w):
                self.calls += 1
                return lambda V: w[:, None] * V

        network = Network()
        assert spectrum(network, at=POSITIVE).trace.value == pytest.approx(POSITIVE.sum(), rel=0.2)
        assert network.calls == 1

    def test_on_any_array_library(self, xp_backend):
        H = matrix(NETWORK)
        here = xp_backend.asarray(H)
        s = spectrum(lambda V: here @ V, n=N, device=xp_backend, deflate=4, seed=1)
        assert abs(s.sum(smooth).value - smooth(NETWORK).sum()) < 4 * s.sum(smooth).error
        narrow = replace(xp_backend, dtype="float32")
        here = narrow.asarray(H)
        s = spectrum(lambda V: here @ V, n=N, device=narrow, dtype="float32", seed=1)
        wide = sampled(NETWORK, seed=1)
        assert s.sum(smooth).value == pytest.approx(wide.sum(smooth).value, rel=1e-3)

    def test_torch_module_through_its_products(self):
        torch = pytest.importorskip("torch", reason="torch is not installed")
        from stability.torch.products import hessian_products

        torch.manual_seed(0)
        x, y = torch.randn(40, 4, dtype=torch.float64), torch.randint(0, 3, (40,))
        model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3)).double()
        shapes = [(name, p.shape) for name, p in model.named_parameters()]

        def loss(flat):
            parts = flat.split([shape.numel() for _, shape in shapes])
            given = {name: part.reshape(shape) for (name, shape), part in zip(shapes, parts, strict=True)}
            return torch.nn.functional.cross_entropy(torch.func.functional_call(model, given, (x,)), y)

        hvp, n = hessian_products(model, lambda: torch.nn.functional.cross_entropy(model(x), y))
        assert n == hvp.n
        s = spectrum(hvp, deflate=6, probes=20)
        w = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
        lams = torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, w)).numpy()
        for f in (lambda lam: lam, smooth):
            assert abs(s.sum(f).value - f(lams).sum()) < 4 * s.sum(f).error

    def test_progress_shows_and_changes_nothing(self, capsys):
        assert sampled(POSITIVE, progress=True).trace == sampled(POSITIVE).trace

    @pytest.mark.parametrize(("dtype", "factor"), [("float64", 2.0**-600), ("float32", 2.0**-80)])
    @pytest.mark.parametrize("deflate", [0, 3])
    def test_of_an_operator_whose_squares_underflow(self, dtype, factor, deflate):
        options = {"n": 60, "dtype": dtype, "deflate": deflate, "steps": 20}
        lam = np.concatenate([[9.0, -7.0, 5.0], np.linspace(0.1, 1.0, 57)]).astype(dtype)[:, None]
        small, s = (
            spectrum(lambda V, c=c: (lam * np.asarray(c, dtype)) * V, **options) for c in (factor, 1.0)
        )
        assert small.trace.value == pytest.approx(s.trace.value * factor, rel=1e-4)
        assert small.trace.error == pytest.approx(s.trace.error * factor, rel=1e-4)

    def test_the_old_name_of_its_products_is_accepted_for_one_version(self):
        with pytest.warns(DeprecationWarning, match="`operator` is called `hvp` now"):
            assert spectrum(operator=lambda V: V, n=20).trace.value == pytest.approx(20)


class TestResult:
    def test_is_saved_and_loaded(self, tmp_path):
        s = sampled(NETWORK, deflate=3)
        again = st.load(st.save(s, tmp_path / "s"))
        assert isinstance(again, Spectrum)
        assert again.sum(smooth) == s.sum(smooth)
        assert str(again) == str(s)

    def test_prints_what_a_teacher_would_read(self):
        text = str(sampled(NETWORK, deflate=3))
        for part in (
            "spectrum of 200 eigenvalues: 8 probes, 3 deflated",
            "Ritz values",
            "to 10",
            "trace",
            "negative eigenvalues",
            "effective dimension at",
        ):
            assert part in text

    def test_counts_its_products(self):
        calls = []
        H = matrix(NETWORK)
        s = spectrum(lambda V: calls.append(V.shape[1]) or H @ V, n=N, deflate=6, probes=4, steps=10)
        assert s.stats["hessian_products"] == sum(calls)


IDENTITY = {"hvp": lambda V: V, "n": 20}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"probes": 1}, ValueError, r"`probes` must be an integer >= 2 \(an error bar needs two\); got 1"),
        (
            {"steps": 0},
            ValueError,
            r"`steps` must be an integer >= 2 \(a quadrature error compares two rules\); got 0",
        ),
        ({"steps": 1}, ValueError, "`steps` must be an integer >= 2"),
        ({"steps": 0, "n": 1}, ValueError, "`steps` must be an integer >= 1"),
        (
            {"deflate": 21},
            ValueError,
            r"`deflate` must be an integer >= 0 and <= 20 \(the dimension\); got 21",
        ),
        ({"seed": -1}, ValueError, "`seed` must be an integer >= 0"),
        ({"dtype": "float16"}, ValueError, "`dtype` must be one of float64, float32"),
        ({"device": "tpu"}, ValueError, "`device` must be one of cpu, cuda"),
        ({"progress": "no"}, ValueError, "`progress` must be True or False"),
        ({"n": None}, ValueError, "`n`, the dimension, must be given with a callable"),
        ({"batch": [1]}, ValueError, "neither `at` nor `batch`"),
        ({"n": 0}, ValueError, "`n` must be an integer >= 1; got 0"),
        ({"hvp": 3}, ValueError, "`hvp` must be an objective with `hvp`, or a callable .* got 3"),
        (
            {"hvp": lambda V: V[:5]},
            ValueError,
            r"`hvp` must map \(n, k\) to \(n, k\); got shape \(5, 8\) for shape \(20, 8\)",
        ),
        (
            {"hvp": lambda V: V.astype("f4")},
            ValueError,
            "`hvp` must keep the type of its argument, float64; got float32",
        ),
        ({"hvp": lambda V: V * np.nan}, BadProducts, "`hvp` must give finite products"),
        (
            {"hvp": lambda V: np.triu(np.ones((20, 20))) @ V},
            BadProducts,
            "`hvp` must be one symmetric operator; its products disagree with their transposes by",
        ),
        (
            {"hvp": st.quadratic(np.ones(4)), "n": 5},
            ValueError,
            "`n` must be left out with an objective, whose dimension is 4; got 5",
        ),
        (
            {"hvp": st.quadratic(np.ones(4)), "n": None, "at": np.ones(3)},
            ValueError,
            r"`at` must have shape \(4,\); got shape \(3,\)",
        ),
        (
            {"hvp": st.landscape("rosenbrock", dim=3), "n": None, "at": [np.inf, 0, 0]},
            ValueError,
            "`at` must be finite",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_bad_input_is_refused(options, error, message):
    options = {**IDENTITY, **options}
    with pytest.raises(error, match=message):
        spectrum(options.pop("hvp"), **options)


def test_an_objective_without_a_reference_needs_a_point():
    class Bare(st.Objective):
        dim = 3

    with pytest.raises(
        ValueError, match=r"`at` must be given: .* has no reference point. Pass the parameters, shape \(3,\)"
    ):
        spectrum(Bare())


@pytest.mark.parametrize(
    ("f", "message"),
    [
        (
            lambda lam: 1 / (lam > 2),
            r"`f` must be finite on the spectrum; it is not at \d+ of \d+ nodes, the first",
        ),
        (
            math.exp,
            "`f` must map an array of eigenvalues to an array of numbers; got: .* Write it with NumPy's "
            "functions",
        ),
        (lambda lam: np.ones(3), "`f` must map an array of eigenvalues"),
    ],
    ids=["infinite", "scalar", "shape"],
)
def test_functions_that_cannot_be_summed_are_refused(f, message):
    with pytest.raises(ValueError, match=message):
        sampled(POSITIVE, steps=10).sum(f)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"method": "SFN"}, "`method` must be a st.Method; got 'SFN'"),
        ({"noise": 0.1}, "`noise` must be of the gradient alone, one number for all entries; got 0.1"),
        ({"noise": st.Noise(gradient=0.1, curvature=0.1)}, "`noise` must be of the gradient alone"),
        ({"noise": st.Noise(gradient=np.ones(N))}, "`noise` must be of the gradient alone"),
        ({"step": 0}, "`step` must be a finite number > 0"),
        ({"time": "chain"}, "`time` must be one of continuous, discrete"),
    ],
)
def test_the_theory_needs_white_noise(asked, message):
    asked = {"method": st.SGD(), "step": 0.1, "noise": st.Noise(gradient=1.0), **asked}
    with pytest.raises(ValueError, match=message):
        sampled(POSITIVE, steps=10).variance(asked.pop("method"), **asked)


@pytest.mark.parametrize(
    ("grid", "width", "scale"),
    [([0.0], 0, None), ([0.0], 0.1, -1.0), ([[0.0]], 0.1, None), ([np.nan], 0.1, None)],
)
def test_a_density_needs_a_grid_and_a_width(grid, width, scale):
    with pytest.raises(ValueError, match=r"`(grid|width|scale)` must"):
        sampled(POSITIVE, steps=5).density(grid, width, scale=scale)


def test_damping_must_be_positive():
    with pytest.raises(ValueError, match="`damping` must be a finite number > 0"):
        sampled(POSITIVE, steps=5).effective_dimension(0)
