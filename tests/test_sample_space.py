"""Gauss-Newton in sample space: the dual solves against dense algebra, dampings against refitted samples."""

import numpy as np
import pytest

import stability as st
from stability._array import Backend
from stability.lowrank.operator import NotFinite
from stability.lowrank.sample_space import DEAF, GRID, PATIENCE, WATCHED, Dual, Ridge, Rows, SampleSpace

HERE = Backend("numpy", np)


def made(values, jacobian, k=1):
    return Rows(values, jacobian, ((len(values) // k, k),), HERE, 0.5 * values @ values)


def rows(m=12, n=30, k=1, seed=0, dtype=float):
    rng = np.random.default_rng(seed)
    J = rng.standard_normal((m, n)) * np.geomspace(1, 1e-2, n)
    return made(rng.standard_normal(m), J.astype(dtype), k)


def dense(one, damping, right=None, ridge=0.0, w=None):
    """``(J^T J + (damping + ridge) I)^-1 (J^T r + ridge w)``, with matrices of the parameters' size."""
    J = np.asarray(one.jacobian, dtype=float)
    H = J.T @ J + (damping + ridge) * np.eye(J.shape[1])
    g = J.T @ (one.values if right is None else right)
    return np.linalg.solve(H, g if w is None else g + ridge * w)


class TestSteps:
    @pytest.mark.parametrize("damping", [1e-6, 0.3, 1e3])
    def test_the_step_is_that_of_the_dense_matrix(self, damping):
        one = rows()
        space = SampleSpace(fixed=damping, drawn=True)
        found = space.step(one, Dual(one.couplings(), one.blocks), None)
        np.testing.assert_allclose(found.direction, dense(one, damping), rtol=1e-8)
        assert found.damping == damping

    def test_a_ridge_joins_the_gradient_and_the_curvature(self):
        one, w = rows(), np.random.default_rng(1).standard_normal(30)
        space = SampleSpace(fixed=0.2, drawn=False)
        found = space.step(one, Dual(one.couplings(), one.blocks), None, Ridge(0.5, w))
        np.testing.assert_allclose(found.direction, dense(one, 0.2, ridge=0.5, w=w), rtol=1e-9)

    def test_memory_starts_from_a_share_of_the_last_direction(self):
        """SPRING: the minimizer of ``|r - J d|^2 + gamma |d - mu p|^2``, ridge included."""
        one, rng = rows(), np.random.default_rng(2)
        p, w = rng.standard_normal((2, 30))
        space = SampleSpace(fixed=0.2, memory=0.8, drawn=True, guarded=False)
        found = space.step(one, Dual(one.couplings(), one.blocks), p, Ridge(0.1, w)).direction
        J = one.jacobian
        H = J.T @ J + 0.3 * np.eye(30)
        np.testing.assert_allclose(
            found, np.linalg.solve(H, J.T @ one.values + 0.1 * w + 0.2 * 0.8 * p), rtol=1e-8
        )

    def test_couplings_are_double_whatever_the_jacobian(self):
        one = rows(n=3, dtype=np.float32)._replace(
            jacobian=np.float32([[1, 1e-4, 0], [1, 0, 0], [0, 1, 0]]), values=np.ones(3), blocks=((3, 1),)
        )
        exact = np.asarray(one.jacobian, dtype=float) @ np.asarray(one.jacobian, dtype=float).T
        assert one.couplings()[0, 0] == exact[0, 0] != np.float32(1.0)

    def test_more_couplings_than_fit_a_chunk_are_the_same(self, monkeypatch):
        one = rows()
        whole = one.couplings()
        monkeypatch.setattr("stability.lowrank.sample_space.CHUNK", 30)
        np.testing.assert_allclose(one.couplings(), whole, rtol=1e-13)

    def test_what_is_not_finite_is_refused(self):
        one = rows()
        one.jacobian[3, 4] = np.inf
        with pytest.raises(NotFinite, match="gradients must be finite"):
            one.couplings()


class TestLeaveOneOut:
    @pytest.mark.parametrize("k", [1, 3])
    def test_it_is_the_fit_without_the_sample(self, k):
        one, dampings = rows(m=12, k=k), np.array([1e-3, 0.1, 10.0])
        found = Dual(one.couplings(), one.blocks).left_out(one.values, dampings)
        for damping, total in zip(dampings, found, strict=True):
            left = 0.0
            for i in range(0, 12, k):
                others = np.r_[0:i, i + k : 12]
                rest = one._replace(values=one.values[others], jacobian=one.jacobian[others])
                left += np.sum((one.values[i : i + k] - one.jacobian[i : i + k] @ dense(rest, damping)) ** 2)
            assert total == pytest.approx(left, rel=1e-8)

    def test_blocks_of_several_kinds_add_up(self):
        one = rows(m=10)
        both = Dual(one.couplings(), ((4, 1), (2, 3))).left_out(one.values, GRID[20:22])
        singles = Dual(one.couplings(), ((10, 1),)).left_out(one.values, GRID[20:22])
        assert both.shape == (2,)
        assert not np.allclose(both, singles)

    def test_noise_asks_for_more_damping_than_signal(self):
        """Residuals that the curvature explains leave little damping; independent ones ask for much."""
        rng = np.random.default_rng(3)
        J = rng.standard_normal((40, 6))
        told = made(J @ rng.standard_normal(6), J)
        noise = told._replace(values=rng.standard_normal(40))
        chosen = []
        for one in (told, noise):
            space = SampleSpace(drawn=True)
            dual = Dual(one.couplings(), one.blocks)
            chosen.append(space.step(one, dual, None).damping / dual.mean)
        assert chosen[0] < 1e-6 < 0.1 < chosen[1]


class TestTrust:
    def test_the_damping_follows_the_gain_ratio(self):
        space = SampleSpace(trust=1.0)
        assert space.judge(1.0, 0.1, 0.9)
        assert space.trust == pytest.approx(1 / 3)
        assert space.judge(1.0, 0.5, 1.0)
        assert space.trust == pytest.approx(1 / 3)
        assert space.judge(1.0, 0.9, 1.0)
        assert space.trust == pytest.approx(2 / 3)
        assert not space.judge(1.0, 1.1, 0.5)
        assert space.trust == pytest.approx(8 / 3)
        assert not space.judge(1.0, np.nan, 0.5)

    def test_samples_that_say_nothing_of_each_other_are_found_out(self):
        """Batches with gradients of their own and fresh noise: memory would add up what helps nobody."""
        rng, space, previous = np.random.default_rng(4), SampleSpace(drawn=True), None
        for _ in range(PATIENCE + 2 * WATCHED):
            one = made(rng.standard_normal(8), np.eye(8, 200)[:, rng.permutation(200)])
            previous = space.step(one, Dual(one.couplings(), one.blocks), previous).direction
        assert space.guarded
        assert space.deaf
        assert space.alone > DEAF

    def test_samples_that_do_are_left_alone(self):
        rng, w = np.random.default_rng(5), np.ones(10)
        space, previous = SampleSpace(drawn=True), None
        for _ in range(3 * WATCHED):
            X = rng.standard_normal((8, 10))
            one = made(X @ w / 8**0.5, X / 8**0.5)
            previous = space.step(one, Dual(one.couplings(), one.blocks), previous).direction
            w = w - 0.5 * previous
        assert not space.guarded
        assert np.linalg.norm(w) < 1e-6

    def test_a_loss_that_rises_is_laid_to_the_memory(self):
        space = SampleSpace(drawn=True)
        for loss, alone in [(1.0, 0.1)] * 6 + [(50.0, 0.7)]:
            assert space.start == 1.0 or space.count == 0
            space._note(loss, alone)
        assert space.guarded
        assert space.start == 1.0

    def test_guarded_memory_is_what_the_batch_asks_for(self):
        one = rows()
        p = dense(one, 1e-8)
        space = SampleSpace(fixed=1.0, drawn=True, guarded=True)
        assert space._share(one.values, one.along(p)) == pytest.approx(0.9)
        assert space._share(one.values, one.along(4 * p)) == pytest.approx(0.25, rel=1e-5)
        assert space._share(one.values, one.along(-p)) == 0.0


class TestTheory:
    """`st.theorem("sample-space")` of steps that the code takes, not of its own witness."""

    def step(self, X, residuals, damping, length=1.0):
        one = made(residuals / len(X) ** 0.5, X / len(X) ** 0.5)
        space = SampleSpace(fixed=damping, memory=0.0, drawn=True)
        return length * space.step(one, Dual(one.couplings(), one.blocks), None).direction

    @pytest.mark.parametrize("damping", [1e-8, 0.5])
    def test_no_path_grows_up_to_two_and_some_do_beyond(self, damping):
        rng, w = np.random.default_rng(0), np.ones(6)
        largest, beyond = 0.0, 0.0
        for size in (1, 3, 20):
            X = 10 ** rng.uniform(-2, 3) * rng.standard_normal((size, 6))
            turned = self.step(X, X @ w, damping)
            largest = max(largest, np.linalg.norm(w - 2 * turned) / np.linalg.norm(w))
            top = np.linalg.svd(X)[2][0]  # along the batch's largest curvature
            at = self.step(X, X @ top, 1e-8)
            beyond = max(beyond, np.linalg.norm(top - 2.01 * at))
        assert largest <= 1 + 1e-12 < 1.005 < beyond

    def test_label_noise_leaves_the_inverse_wishart_floor(self):
        d, b, length, sigma = 3, 20, 0.8, 0.7
        rng, w = np.random.default_rng(1), np.zeros(3)
        spectrum, risks = np.array([1.0, 1e-2, 1e-4]), []
        for _ in range(600):
            X = rng.standard_normal((b, d)) * np.sqrt(spectrum)
            w = w - self.step(X, X @ w - sigma * rng.standard_normal(b), 1e-14, length)
            risks.append(0.5 * spectrum @ w**2)
        told = st.theorem("sample-space", method=st.Newton())
        predicted = told.evaluate("wishart-floor", step=length, b=b, d=d, sigma=sigma)
        blocks = np.mean(np.reshape(risks[100:], (25, 20)), axis=1)  # 20 steps forget what was before
        assert abs(blocks.mean() - predicted) < 4 * blocks.std(ddof=1) / np.sqrt(len(blocks))

    def test_large_batches_have_the_risk_of_streaming_least_squares(self):
        given = {"step": 0.4, "b": 1e6, "sigma": 0.7}
        own = st.theorem("sample-space", method=st.Newton()).evaluate("wishart-floor", d=3, **given)
        spectrum = [1.0, 0.1, 0.01]
        streaming = st.theorem("averaging", method=st.Newton()).evaluate(
            "streaming-risk", lam=spectrum, **given
        )
        assert own == pytest.approx(streaming, rel=1e-5)

    def test_it_speaks_of_gains_that_a_damped_batch_has(self):
        assert st.theorem("sample-space", method=st.SFN(damping=0.5)).evaluate(lam=1.0) == 3.0
        with pytest.raises(ValueError, match="says nothing about SGD"):
            st.theorem("sample-space", method=st.SGD())
