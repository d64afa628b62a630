"""Gauss-Newton curvature of `stability.torch.LRSFN`: residuals by every way, steps against NumPy."""

import copy
import itertools
import math
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import stability as st  # noqa: E402
from stability._array import Backend  # noqa: E402
from stability.lowrank.sample_space import Dual, Ridge, Rows, SampleSpace  # noqa: E402
from stability.torch import LRSFN  # noqa: E402
from stability.torch.residuals import Residuals  # noqa: E402


def net(outputs=1, dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, outputs)).to(dtype)


def data(outputs=1, b=16, seed=1):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(b, 3, generator=g, dtype=torch.float64)
    return x, torch.randn(b, outputs, generator=g, dtype=torch.float64)


def slope(loss, model):
    return torch.cat(
        [g.reshape(-1) for g in torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)]
    )


def linearized(closure, model, loss=None, alone=True):
    return Residuals(closure, loss, list(model.parameters()), model if alone else None).rows(check=True)


class TestResiduals:
    @pytest.mark.parametrize("loss", [None, "mse", "cross-entropy"])
    def test_one_by_one_and_together_are_the_same(self, loss):
        model, (x, y) = net(3), data(3)
        labels = torch.arange(16) % 3

        def closure(rows):
            if loss is None:
                return model(x[rows]) - y[rows]
            return model(x[rows]), (y if loss == "mse" else labels)[rows]

        one = linearized(closure, model, loss)
        other = linearized(lambda: closure(slice(None)), model, loss)
        np.testing.assert_allclose(one.jacobian, other.jacobian, atol=1e-12)
        np.testing.assert_allclose(one.values, other.values, atol=1e-12)
        assert one.blocks == other.blocks == ((16, 3),)
        assert one.loss == pytest.approx(other.loss, rel=1e-12)

    @pytest.mark.parametrize("soft", [False, True])
    def test_cross_entropy_has_torchs_gradient_and_the_softmax_curvature(self, soft):
        model, (x, _) = net(4), data()
        labels = torch.arange(16) % 4
        targets = torch.softmax(torch.randn(16, 4, dtype=torch.float64), dim=1) if soft else labels
        one = linearized(lambda rows: (model(x[rows]), targets[rows]), model, "cross-entropy")
        loss = torch.nn.functional.cross_entropy(model(x), targets)
        assert one.loss == pytest.approx(float(loss.detach()), rel=1e-12)
        np.testing.assert_allclose(
            one.jacobian.T @ torch.from_numpy(one.values), slope(loss, model), atol=1e-12
        )
        J = torch.stack([slope(z, model) for z in model(x).reshape(-1)]).reshape(16, 4, -1)
        p = torch.softmax(model(x), dim=1).detach()
        inner = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
        curvature = (J.transpose(1, 2) @ inner @ J).mean(dim=0)
        gap = one.jacobian.T @ one.jacobian - curvature
        assert gap.abs().max() < 1e-5 * curvature.abs().max()  # the floor of the probabilities

    def test_sure_and_wrong_scores_keep_their_gradient(self):
        scores = torch.tensor([[80.0, 0.0, -80.0]], requires_grad=True)
        found = Residuals(lambda: (scores, torch.tensor([2])), "cross-entropy", [scores]).rows()
        back = found.jacobian.T.double() @ torch.from_numpy(found.values)
        np.testing.assert_allclose(back, [1.0, 0.0, -1.0], atol=1e-4)

    def test_labels_that_torch_leaves_out_are_left_out(self):
        model, (x, _) = net(4), data()
        labels = torch.arange(16) % 4
        labels[::2] = -100
        one = linearized(lambda rows: (model(x[rows]), labels[rows]), model, "cross-entropy")
        loss = torch.nn.functional.cross_entropy(model(x), labels, reduction="none").mean()
        np.testing.assert_allclose(
            one.jacobian.T @ torch.from_numpy(one.values), slope(loss, model), atol=1e-12
        )

    def test_mean_squares_are_torchs(self):
        model, (x, y) = net(3), data(3)
        one = linearized(lambda rows: (model(x[rows]), y[rows]), model, "mse")
        loss = torch.nn.functional.mse_loss(model(x), y)
        assert one.loss == pytest.approx(float(loss.detach()), rel=1e-12)
        np.testing.assert_allclose(
            one.jacobian.T @ torch.from_numpy(one.values), slope(loss, model), atol=1e-12
        )

    def test_blocks_of_several_lengths_and_derivatives_inside(self):
        """Terms of a differential equation: each is averaged over its own samples."""
        model = net(1)

        def closure():
            x = torch.linspace(0.0, 1.0, 12, dtype=torch.float64).reshape(4, 3).requires_grad_()
            (pulled,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
            return pulled - 1.0, model(x.detach()[:2])

        one = linearized(closure, model)
        inside, edge = closure()
        loss = 0.5 * (inside**2).sum(1).mean() + 0.5 * (edge**2).sum(1).mean()
        assert one.blocks == ((4, 3), (2, 1))
        assert one.loss == pytest.approx(float(loss.detach()), rel=1e-12)
        np.testing.assert_allclose(
            one.jacobian.T @ torch.from_numpy(one.values), slope(loss, model), atol=1e-12
        )

    def test_rows_that_cannot_go_side_by_side_go_together(self):
        model, (x, y) = net(), data()
        table = x.numpy()

        def closure(rows):  # NumPy knows no function transforms
            return model(torch.from_numpy(table[rows])) - y[rows]

        one = linearized(closure, model)
        other = linearized(lambda: model(x) - y, model)
        np.testing.assert_allclose(one.jacobian, other.jacobian, atol=1e-12)

    def test_a_parameter_that_no_residual_needs_has_zero_columns(self):
        model, (x, y) = net(), data()
        model.register_parameter("spare", torch.nn.Parameter(torch.ones(2, dtype=torch.float64)))
        for given in (lambda: model(x) - y, lambda rows: model(x[rows]) - y[rows]):
            one = linearized(given, model)
            names = [name for name, _ in model.named_parameters()]
            assert not one.jacobian[:, :2].any() if names[0] == "spare" else True
            assert one.jacobian.shape[1] == 28


class TestSteps:
    def test_every_step_is_that_of_numpy(self):
        """The same controller on NumPy's arrays, with a Jacobian by another way: ten drawn batches."""
        torch.manual_seed(0)
        model = torch.nn.Linear(6, 2, bias=False).double()
        X = torch.randn(80, 6, dtype=torch.float64) * torch.logspace(0, -3, 6, dtype=torch.float64)
        Y = X @ torch.randn(6, 2, dtype=torch.float64) + 0.01 * torch.randn(80, 2, dtype=torch.float64)
        opt = LRSFN(model, curvature="gauss-newton", weight_decay=1e-3)
        w, space, previous, here = (
            model.weight.detach().numpy().copy().ravel(),
            SampleSpace(),
            None,
            Backend("numpy", np),
        )
        for i in range(10):
            part = slice(8 * i, 8 * i + 8)
            opt.step(lambda rows, part=part: model(X[part][rows]) - Y[part][rows])
            x, y = X[part].numpy(), Y[part].numpy()
            J = np.stack([np.kron(np.eye(2)[k], x[s]) for s in range(8) for k in range(2)]) / 8**0.5
            one = Rows(J @ w - y.ravel() / 8**0.5, J, ((8, 2),), here, 0.0)
            one = one._replace(loss=0.5 * one.values @ one.values)
            space.drawn = None if i == 0 else True
            found = space.step(one, Dual(one.couplings(), one.blocks), previous, Ridge(1e-3, w))
            previous = found.direction
            w = w - 0.5 * previous
            np.testing.assert_allclose(model.weight.detach().numpy().ravel(), w, rtol=1e-10, atol=1e-12)
        assert opt.report().drawn

    def test_a_batch_that_stays_goes_to_rest_by_its_gain_ratio(self):
        model, (x, y) = net(), data(b=12)
        opt = LRSFN(model, curvature="gauss-newton")
        losses = [float(opt.step(lambda: model(x) - y)) for _ in range(60)]
        assert all(b <= a for a, b in itertools.pairwise(losses[1:]))
        assert losses[-1] < 1e-8 * losses[0]
        report = opt.report()
        assert report.drawn is False
        assert report.length == 1.0
        assert math.isnan(report.alone)
        assert "gain ratio" in str(report)

    def test_drawn_batches_are_told_from_one_that_stays(self):
        model, (x, y) = net(), data(b=64)
        opt = LRSFN(model, curvature="gauss-newton", loss="mse")
        for i in range(3):
            part = slice(16 * i, 16 * i + 16)
            opt.step(lambda rows, part=part: (model(x[part][rows]), y[part][rows]))
        report = opt.report()
        assert report.drawn
        assert report.length == 0.5
        assert report.step_limit == 4.0
        assert 0 < report.alone <= 1.2
        assert "left out" in str(report)

    def test_a_damping_and_a_rate_that_are_given_are_taken_as_they_are(self):
        model, (x, y) = net(), data()
        flat = torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()
        one = linearized(lambda: model(x) - y, model)
        LRSFN(model, curvature="gauss-newton", damping=0.3, lr=0.7).step(lambda: model(x) - y)
        J = one.jacobian.numpy()
        step = np.linalg.solve(J.T @ J + 0.3 * np.eye(26), J.T @ one.values)
        moved = torch.nn.utils.parameters_to_vector(model.parameters()).detach() - flat
        np.testing.assert_allclose(moved.numpy(), -0.7 * step, atol=1e-12)

    def test_it_goes_on_from_a_file_as_if_there_had_been_no_break(self, tmp_path):
        model, (x, y) = net(), data(b=96)

        def run(model, opt, start, stop):
            for i in range(start, stop):
                part = slice(16 * i, 16 * i + 16)
                opt.step(lambda rows, part=part: model(x[part][rows]) - y[part][rows])

        opt = LRSFN(model, curvature="gauss-newton")
        run(model, opt, 0, 3)
        other = copy.deepcopy(model)
        torch.save(opt.state_dict(), tmp_path / "opt")
        run(model, opt, 3, 6)
        again = LRSFN(other, curvature="gauss-newton")
        again.load_state_dict(torch.load(tmp_path / "opt"))
        run(other, again, 3, 6)
        for p, q in zip(model.parameters(), other.parameters(), strict=True):
            assert torch.equal(p, q)

    def test_samples_that_say_nothing_of_each_other_are_told_of(self):
        """A table of one number per sample, with labels that change: no step serves the next batch."""
        torch.manual_seed(0)
        table = torch.nn.Embedding(400, 1).double()
        torch.nn.init.zeros_(table.weight)
        g = torch.Generator().manual_seed(0)
        opt = LRSFN(table, curvature="gauss-newton")

        def train():
            for _ in range(75):
                drawn = torch.randint(400, (8,), generator=g)
                y = torch.randn(8, 1, generator=g, dtype=torch.float64)
                opt.step(lambda drawn=drawn, y=y: table(drawn) - y)

        with pytest.warns(st.StabilityWarning, match="have not spoken for each other"):
            train()
        assert opt.report().guarded
        assert "may serve better" in str(opt.report())

    @pytest.mark.slow
    def test_a_poisson_network_is_solved_untuned(self):
        """u'' = f by a network, with nothing chosen: a relative error below 1e-3 in 60 steps."""
        torch.manual_seed(1000)
        tanh = torch.nn.Tanh()
        model = torch.nn.Sequential(
            torch.nn.Linear(1, 24), tanh, torch.nn.Linear(24, 24), tanh, torch.nn.Linear(24, 1)
        ).double()
        x = torch.linspace(-1, 1, 32, dtype=torch.float64)[:, None]
        ends = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
        force = math.pi**2 * torch.sin(math.pi * x)

        def closure():
            z = x.clone().requires_grad_()
            (first,) = torch.autograd.grad(model(z).sum(), z, create_graph=True)
            (second,) = torch.autograd.grad(first.sum(), z, create_graph=True)
            return math.sqrt(2e-2) * (second + force), math.sqrt(20.0) * model(ends)

        opt = LRSFN(model, curvature="gauss-newton")
        for _ in range(60):
            opt.step(closure)
        true = torch.sin(math.pi * x)
        with torch.no_grad():
            assert (model(x) - true).norm() < 1e-3 * true.norm()


class TestRefusals:
    def test_losses_keep_the_hessian_and_it_is_said(self):
        model, (x, y) = net(), data()
        opt = LRSFN(model, curvature="gauss-newton", rank=3)
        with pytest.warns(
            st.StabilityWarning, match="goes on with curvature='hessian': the closure returns losses"
        ):
            opt.step(lambda rows: ((model(x[rows]) - y[rows]) ** 2).mean(dim=1))
        plain = LRSFN(model, curvature="gauss-newton")
        with pytest.warns(st.StabilityWarning, match="goes on"):
            plain.step(lambda rows: ((model(x[rows]) - y[rows]) ** 2).mean(dim=1))
        assert plain.param_groups[0]["untuned"]
        other = LRSFN(net(), rank=3)
        assert all(opt.param_groups[0][k] == other.param_groups[0][k] for k in ("lr", "damping", "momentum"))
        assert opt.report().eigenvalues.shape == (3,)

    def test_losses_later_are_an_error(self):
        model, (x, y) = net(), data()
        opt = LRSFN(model, curvature="gauss-newton")
        opt.step(lambda: model(x) - y)
        with pytest.raises(ValueError, match="must return residuals at every step"):
            opt.step(lambda: ((model(x) - y) ** 2).mean())

    @pytest.mark.parametrize(
        ("loss", "returned", "message"),
        [
            (None, lambda z, y: z.detach(), "must depend on the parameters"),
            (None, lambda z, y: (z, 3.0), "Block 2 of the closure's residuals must be tensors"),
            (None, lambda z, y: z[:, None], r"residuals of shape \(b, k\)"),
            ("mse", lambda z, y: (z, y[:, 0]), "must have one shape"),
            ("mse", lambda z, y: (z, y, y), r"must return \(outputs, targets\)"),
            ("mse", lambda z, y: (z.detach(), y), "with their graph"),
            ("cross-entropy", lambda z, y: (z[:, 0], y), "needs scores"),
        ],
    )
    def test_what_holds_no_residuals_is_told_what_is_needed(self, loss, returned, message):
        model, (x, y) = net(), data()
        with pytest.raises(ValueError, match=message):
            LRSFN(model, curvature="gauss-newton", loss=loss).step(lambda: returned(model(x), y))

    def test_batch_norm_in_train_mode_is_refused_and_in_eval_mode_taken(self):
        x, y = data()
        model = torch.nn.Sequential(
            torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1)
        ).double()
        opt = LRSFN(model, curvature="gauss-newton")
        with pytest.raises(ValueError, match="`1` normalizes each by its whole batch in train mode"):
            opt.step(lambda: model(x) - y)
        model.eval()
        opt.step(lambda rows: model(x[rows]) - y[rows])
        assert opt.report().steps == 1

    def test_samples_that_depend_on_their_batch_are_found_out(self):
        model, (x, y) = net(), data()

        def closure(rows):
            z = model(x[rows])
            return z - z.mean(dim=0) - y[rows]

        with pytest.raises(ValueError, match="evaluated without the rest of its batch"):
            LRSFN(model, curvature="gauss-newton").step(closure)

    def test_dropout_is_no_coupling(self):
        x, y = data()
        model = torch.nn.Sequential(
            torch.nn.Linear(3, 40), torch.nn.Dropout(0.5), torch.nn.Linear(40, 1)
        ).double()
        opt = LRSFN(model, curvature="gauss-newton")
        opt.step(lambda rows: model(x[rows]) - y[rows])
        assert opt.report().steps == 1

    def test_gradients_beyond_memory_are_refused_with_their_number(self, monkeypatch):
        model, (x, y) = net(), data()
        monkeypatch.setattr("stability._check.memory", lambda: 4e3)
        with pytest.raises(
            ValueError, match=r"16 residuals \(16 samples x 1 outputs\) by 26 parameters need"
        ) as told:
            LRSFN(model, curvature="gauss-newton").step(lambda: model(x) - y)
        assert "Take smaller batches" in str(told.value)

    def test_gradients_that_are_not_finite_are_an_error_at_first_and_skipped_later(self):
        model, (x, y) = net(), data()
        broken = x.clone()
        broken[2] = math.inf
        with pytest.raises(ValueError, match="residuals and their gradients must be finite"):
            LRSFN(model, curvature="gauss-newton").step(lambda: model[2](broken @ model[0].weight.T) - y)
        opt = LRSFN(model, curvature="gauss-newton")
        opt.step(lambda: model(x) - y)
        before = copy.deepcopy(model.state_dict())
        opt.step(lambda: model[2](broken @ model[0].weight.T) - y)
        assert opt.skipped == 1
        assert "finite" in opt.report().failure
        assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())

    def test_options_that_are_not_there(self):
        with pytest.raises(ValueError, match="`curvature` must be one of"):
            LRSFN(net(), curvature="fisher")
        with pytest.raises(ValueError, match="`loss` must be one of"):
            LRSFN(net(), curvature="gauss-newton", loss="l1")
        with pytest.raises(ValueError, match="`loss` is for curvature='gauss-newton'"):
            LRSFN(net(), rank=3, loss="mse")
        with pytest.raises(ValueError, match="no curvature to report before the first step"):
            LRSFN(net(), curvature="gauss-newton").report()

    def test_groups_share_all_but_their_rates(self):
        model, (x, y) = net(), data()
        groups = [{"params": model[0].parameters()}, {"params": model[2].parameters(), "damping": 0.1}]
        with pytest.raises(ValueError, match="`damping` must be the same for all groups"):
            LRSFN(groups, curvature="gauss-newton").step(lambda: model(x) - y)
        groups = [{"params": model[0].parameters()}, {"params": model[2].parameters(), "lr": 0.5}]
        held = model[2].weight.detach().clone()
        opt = LRSFN(groups, curvature="gauss-newton")
        opt.param_groups[1]["lr"] = 0.0  # as schedulers leave it
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            opt.step(lambda: model(x) - y)
        assert torch.equal(model[2].weight, held)
        assert opt.report().steps == 1
