"""Gauss-Newton curvature in `st.minimize`: residuals of the objectives, runs on samples and batches."""

import numpy as np
import pytest

import stability as st


def table(n=60, d=5, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)) * np.geomspace(1, 1e-2, d), rng


def objectives():
    X, rng = table()
    y = X @ np.ones(5) + 0.1 * rng.standard_normal(60)
    three = rng.integers(0, 3, 60)
    return {
        "least squares": st.least_squares(X, y, l2=0.01),
        "logistic": st.logistic(X, y > 0, l2=0.01),
        "classes": st.logistic(X, three, l2=0.01),
        "squared network": st.mlp(X, np.stack([y, y**2], axis=1), hidden=(4,), loss="squared", l2=0.01),
        "classifier": st.mlp(X, three, hidden=(4,), l2=0.01),
        "softmax": st.mlp(X, three, hidden=(), l2=0.01),
    }


GN = st.LRSFN(curvature="gauss-newton")


class TestResiduals:
    @pytest.mark.parametrize("name", objectives())
    def test_they_have_the_gradient_and_where_predictions_are_linear_the_hessian(self, name):
        F = objectives()[name]
        w, batch = 0.3 * np.random.default_rng(1).standard_normal(F.dim), np.array([3, 5, 5, 40])
        for given in ({}, {"batch": batch}):
            r, J = F.residuals(w, **given)
            assert J.shape == (*r.shape, F.dim) == (len(r), F.outputs, F.dim)
            slope = np.einsum("bkd,bk->d", J, r) / len(r) + F.l2 * w
            np.testing.assert_allclose(slope, F.gradient(w, **given), atol=1e-12)
            if name not in ("squared network", "classifier"):
                curvature = np.einsum("bkd,bke->de", J, J) / len(r) + F.l2 * np.eye(F.dim)
                allowed = 1e-4 if name == "softmax" else 1e-12  # the floor of the probabilities
                np.testing.assert_allclose(curvature, F.hessian(w, **given), atol=allowed)

    def test_a_networks_are_the_derivatives_of_its_outputs(self):
        F = objectives()["squared network"]
        w = F.initial(0)
        _, J = F.residuals(w)
        for i in (0, 7, F.dim - 1):
            nudge = 1e-6 * np.eye(F.dim)[i]
            moved = (F.predict(w + nudge, F.X) - F.predict(w - nudge, F.X)) / 2e-6
            np.testing.assert_allclose(J[..., i], moved / np.sqrt(2), atol=1e-8)

    def test_fitted_labels_have_finite_residuals(self):
        F = st.logistic([[1.0], [-1.0]], [1, 0])
        r, J = F.residuals(np.array([200.0]))
        assert np.isfinite(r).all()
        assert np.isfinite(J).all()


class TestRuns:
    def test_least_squares_on_all_samples_is_solved_at_once(self):
        F = objectives()["least squares"]
        # As long as a step's decrease is more than rounding, which no ratio of decreases is told by.
        run = st.minimize(F, np.zeros(5), method=GN, iterations=3)
        np.testing.assert_allclose(run.final, F.reference, atol=1e-6)
        assert run.stats["damping"] < 1e-4

    @pytest.mark.parametrize("name", ["logistic", "classes"])
    def test_regression_of_classes_reaches_its_minimizer(self, name):
        F = objectives()[name]
        run = st.minimize(F, np.zeros(F.dim), method=GN, sweeps=40)
        np.testing.assert_allclose(run.final, F.reference, atol=1e-5)

    def test_a_network_on_all_samples_only_goes_down(self):
        F = objectives()["squared network"]
        run = st.minimize(F, F.initial(0), method=GN, iterations=40)
        assert (np.diff(run.losses[run.steps > 0]) <= 0).all()  # again from the best where a step led up
        assert run.loss < 0.4 * run.losses[0]

    def test_fresh_batches_of_consistent_data_go_to_the_solution(self):
        X, _ = table(400)
        F = st.least_squares(X, X @ np.ones(5))
        run = st.minimize(F, np.zeros(5), method=GN, batch=20, sweeps=20)
        assert run.loss < 1e-12 * run.losses[0]
        assert run.stats["samples_left_out"] < 1.01
        assert run.steps[0] == pytest.approx(0.5, rel=0.01)
        assert run.steps[-1] < 0.05

    def test_work_is_a_gradient_and_one_pass_for_each_output(self):
        F = objectives()["classes"]
        run = st.minimize(F, np.zeros(F.dim), method=GN, batch=10, iterations=6)
        assert run.sweeps[-1] == pytest.approx(6 * (1 + 2) * 10 / 60)

    def test_a_damping_and_a_step_that_are_given_are_the_dense_step(self):
        F = objectives()["least squares"]
        method = st.LRSFN(curvature="gauss-newton", damping=0.3)
        run = st.minimize(F, np.ones(5), method=method, step=0.7, iterations=1)
        direction = np.linalg.solve(F.hessian(np.ones(5)) + 0.3 * np.eye(5), F.gradient(np.ones(5)))
        np.testing.assert_allclose(run.final, np.ones(5) - 0.7 * direction, atol=1e-12)

    def test_single_precision_runs_in_its_own(self):
        F = st.mlp(
            *[a.astype("float32") for a in (table()[0], np.ones(60))],
            hidden=(4,),
            loss="squared",
            dtype="float32",
        )
        run = st.minimize(F, F.initial(0), method=GN, batch=10, sweeps=4)
        assert run.loss < 0.1 * run.losses[0]

    def test_a_checkpoint_goes_on_as_if_nothing_had_happened(self, tmp_path):
        F = objectives()["classifier"]
        options = {"method": GN, "batch": 10, "sweeps": 9, "seed": 3}
        whole = st.minimize(F, F.initial(0), **options)
        st.minimize(
            F,
            F.initial(0),
            checkpoint=tmp_path / "run",
            callback=lambda p: p.iteration == 5,
            **options,
        )
        assert list(tmp_path.iterdir())
        again = st.minimize(F, F.initial(0), checkpoint=tmp_path / "run", **options)
        np.testing.assert_array_equal(again.final, whole.final)

    def test_labels_without_a_rule_are_told_of(self):
        """One weight for each sample, targets of pure noise: no sample says anything of another."""
        rng = np.random.default_rng(0)
        F = st.least_squares(np.eye(400), rng.standard_normal(400))
        run = st.minimize(F, np.zeros(400), method=GN, batch=8, iterations=75, sampling="independent")
        assert run.stats["guarded"]
        assert "samples did not speak for each other" in run.status


class TestAgainstTorch:
    def test_every_step_down_is_that_of_the_torch_optimizer(self):
        torch = pytest.importorskip("torch")
        from stability.torch import LRSFN

        F = objectives()["classifier"]
        run = st.minimize(F, F.initial(0), method=GN, iterations=20)
        model = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3)).double()
        at = 0
        with torch.no_grad():
            for layer in (model[0], model[2]):
                shape = layer.weight.T.shape
                size = layer.weight.numel()
                layer.weight.copy_(torch.from_numpy(F.initial(0)[at : at + size].reshape(shape).T))
                layer.bias.zero_()
                at += size + layer.bias.numel()
        X, y = torch.from_numpy(F.X), torch.from_numpy(F.y)
        opt = LRSFN(model, curvature="gauss-newton", loss="cross-entropy", weight_decay=F.l2)
        opt._state(opt.param_groups[0])["sampled"] = {"drawn": False}  # as it finds out after one step
        theirs = []
        for _ in range(8):
            decay = 0.5 * F.l2 * sum(float((p.detach() ** 2).sum()) for p in model.parameters())
            theirs.append(float(opt.step(lambda rows: (model(X[rows]), y[rows]))) + decay)
        ours = list(dict.fromkeys(run.losses[run.steps > 0]))[:8]  # steps that led up begin again from there
        np.testing.assert_allclose(theirs, ours, rtol=1e-10)


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"hessian_batch": 5}, "leave `hessian_batch` out"),
            ({"momentum": 0.5}, "leave `momentum` out"),
            ({"refresh": 3}, "leave `refresh` out"),
            ({"limits": True}, "leave `limits` out"),
            ({"step": st.gallery.SpectralStep(1.0)}, "low-rank method"),
            ({"decay": "linear"}, "no `decay`"),
            ({"step": [0.5, 0.4]}, "judged by steps of one length"),
        ],
    )
    def test_what_would_be_ignored(self, options, message):
        F = objectives()["least squares"]
        with pytest.raises(ValueError, match=message):
            st.minimize(F, np.zeros(5), method=GN, iterations=2, **options)

    def test_momentum_around_it(self):
        F = objectives()["least squares"]
        with pytest.raises(ValueError, match=r"leave st\.Momentum out"):
            st.minimize(F, np.zeros(5), method=st.Momentum(GN), iterations=2)

    def test_objectives_without_residuals(self):
        with pytest.raises(ValueError, match="needs an objective made of residuals"):
            st.minimize(st.quadratic([1.0, 0.1]), np.zeros(2), method=GN, iterations=2)

    def test_gradients_beyond_memory(self, monkeypatch):
        F = objectives()["classes"]
        monkeypatch.setattr("stability._check.memory", lambda: 1e4)
        with pytest.raises(ValueError, match=r"120 residuals \(60 samples x 2 outputs\) by 10 weights need"):
            st.minimize(F, np.zeros(F.dim), method=GN, iterations=2)

    def test_the_method_by_itself(self):
        with pytest.raises(TypeError, match="LRSFN needs `rank`"):
            st.LRSFN(damping=0.1)
        with pytest.raises(TypeError, match="LRSFN needs `damping`"):
            st.LRSFN(rank=3)
        with pytest.raises(ValueError, match="needs no `rank`"):
            st.LRSFN(rank=3, curvature="gauss-newton")
        with pytest.raises(ValueError, match="needs no `tail`"):
            st.LRSFN(tail="flat", curvature="gauss-newton")
        with pytest.raises(ValueError, match="`curvature` must be one of"):
            st.LRSFN(rank=3, damping=0.1, curvature="fisher")
        with pytest.raises(ValueError, match="is measured by the run"):
            GN.gain(1.0)
        with pytest.raises(ValueError, match="is measured by the run"):
            st.linearize(st.Flow(st.quadratic([1.0]), GN, step=0.1), at=[0.0])

    def test_with_a_damping_it_is_saddle_free_newton_in_theory(self, tmp_path):
        method = st.LRSFN(curvature="gauss-newton", damping=0.5)
        assert method.gain(0.5) == 1.0
        assert repr(method) == "LRSFN(curvature='gauss-newton', damping=0.5)"
        assert repr(GN) == "LRSFN(curvature='gauss-newton')"
        assert st.theorem("sample-space", method=method).evaluate(lam=1.0) == 3.0
        st.save(method, tmp_path / "method")
        assert repr(st.load(tmp_path / "method.npz")) == repr(method)
