"""The PyTorch optimizer in training loops as people write them: what works, and what is told."""

import warnings

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from networks import seeded  # noqa: E402, F401
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

import stability as st  # noqa: E402
from stability.torch.optimizer import LRSFN  # noqa: E402
from stability.torch.products import hessian_products  # noqa: E402


def net(*sizes):
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1)).double()


def data(count=32):
    x = torch.randn(count, 4).double()
    return x, x[:, :1] ** 2 - x[:, 1:2]


def squares(model, x, y):
    return lambda rows: ((model(x[rows]) - y[rows]) ** 2).mean(1)


def same(one, other):
    return all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))


def test_more_eigenpairs_than_parameters_are_all_of_them():
    model = nn.Linear(3, 1).double()
    x = torch.randn(20, 3).double()
    opt = LRSFN([{"params": [model.weight]}, {"params": [model.bias], "rank": 7}])
    for _ in range(3):
        opt.step(squares(model, x, x.sum(1, keepdim=True)))
    assert [len(opt.report(i).eigenvalues) for i in (0, 1)] == [3, 1]
    assert opt.report().refreshes == 1
    LRSFN([{"params": [model.weight]}, {"params": [model.bias]}]).load_state_dict(opt.state_dict())


# -- backward, and step() --------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph=True")
def test_a_backward_and_a_step_are_the_step_with_a_closure():
    one = net()
    other = net()
    other.load_state_dict(one.state_dict())
    x, y = data()
    options = {"rank": 4, "refresh": 2, "lr": 0.5, "momentum": 0.5}
    closed, left = LRSFN(one, **options), LRSFN(other, **options)
    graphs = []
    for _ in range(5):
        closed.step(lambda: F.mse_loss(one(x), y))
        left.zero_grad()
        graphs.append(left.due)
        F.mse_loss(other(x), y).backward(create_graph=left.due)
        assert left.step() is None
    assert graphs == [True, False, True, False, True]
    assert same(one, other)
    assert not any(p.grad.requires_grad for p in other.parameters())  # no graph is held
    assert left.report(closure=lambda: F.mse_loss(other(x), y)).step_limit > 0


@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph=True")
def test_clipped_gradients_are_what_is_stepped_along():
    model = net()
    x, y = data()
    opt = LRSFN(model, rank=2, tail="damping", damping=1.0, lr=1.0)
    F.mse_loss(model(x), y).backward(create_graph=opt.due)
    nn.utils.clip_grad_norm_(model.parameters(), 1e-6)
    before = [p.detach().clone() for p in model.parameters()]
    opt.step()
    moved = torch.sqrt(
        sum(((p.detach() - b) ** 2).sum() for p, b in zip(model.parameters(), before, strict=True))
    )
    assert 0 < float(moved) <= 1.01e-6


def test_without_gradients_or_their_graph_it_says_what_to_call():
    model = net()
    x, y = data()
    opt = LRSFN(model, rank=2)
    with pytest.raises(
        ValueError, match=r"there are none. Call loss.backward\(create_graph=opt.due\) before"
    ):
        opt.step()
    F.mse_loss(model(x), y).backward()
    with pytest.raises(ValueError, match="The first step needs curvature: the gradients have no graph"):
        opt.step()


@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph=True")
def test_curvature_that_cannot_be_renewed_is_told_once():
    model = net()
    x, y = data()
    opt = LRSFN(model, rank=2, refresh=2)
    F.mse_loss(model(x), y).backward(create_graph=True)
    opt.step()

    def go_on():
        for _ in range(3):
            opt.zero_grad()
            F.mse_loss(model(x), y).backward()
            opt.step()

    with pytest.warns(st.StabilityWarning, match="Curvature is 2 steps old, and the gradients have no graph"):
        go_on()


def test_gradients_are_left_and_clipping_them_for_nothing_is_told():
    model = net()
    x, y = data()
    opt = LRSFN(model, rank=2)
    expected = torch.autograd.grad(F.mse_loss(model(x), y), list(model.parameters()))
    opt.step(squares(model, x, y))
    for p, g in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, g)
    opt.zero_grad(set_to_none=False)
    opt.step(squares(model, x, y))
    nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
    with pytest.warns(st.StabilityWarning, match="reads nothing of what was done to `.grad`") as told:
        opt.step(squares(model, x, y))
    assert len(told) == 1


# -- what is differentiated ------------------------------------------------------------------------


def test_a_head_that_a_batch_does_not_use_is_no_error():
    trunk, heads = nn.Linear(4, 3).double(), nn.ModuleList([nn.Linear(3, 1).double() for _ in range(2)])
    x, y = data()
    opt = LRSFN([*trunk.parameters(), *heads.parameters()], rank=4, refresh=1, lr=0.5, momentum=0.0)
    for i in range(60):
        loss = opt.step(lambda rows, i=i: ((heads[i % 2](trunk(x[rows]).tanh()) - y[rows]) ** 2).mean(1))
        first = loss if i == 0 else first  # noqa: F821
    assert loss < 0.7 * first
    assert heads[1].weight.grad.abs().sum() > 0
    assert heads[0].weight.grad is None


def test_a_parameter_that_no_loss_depends_on_is_told():
    model, idle = net(), nn.Parameter(torch.ones(2).double())
    x, y = data()
    opt = LRSFN([*model.parameters(), idle], rank=2, refresh=5)
    for _ in range(19):
        opt.step(squares(model, x, y))
    with pytest.warns(st.StabilityWarning, match=r"No loss of the last 20 steps depends on parameter 4"):
        opt.step(squares(model, x, y))
    torch.testing.assert_close(idle.detach(), torch.ones(2).double())


def test_compiled_models_are_differentiated_twice_without_compilation():
    model = net()
    twin = net()
    twin.load_state_dict(model.state_dict())
    x, y = data()
    compiled = torch.compile(model, backend="aot_eager")
    one, other = LRSFN(model, rank=3, refresh=1), LRSFN(twin, rank=3, refresh=1)
    for _ in range(2):
        one.step(squares(compiled, x, y))
        other.step(squares(twin, x, y))
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q)
    assert one.report().step_limit == pytest.approx(other.report().step_limit)


@pytest.mark.parametrize("kind", ["embedding", "sum", "mean", "offsets"])
def test_sparse_embeddings(kind):
    i, y = torch.randint(0, 9, (20, 3)), torch.randn(20, 2).double()
    starts = torch.arange(20) * 3

    def made(sparse):
        torch.manual_seed(1)
        if kind == "embedding":
            return nn.Embedding(9, 2, sparse=sparse).double()
        return nn.EmbeddingBag(
            9, 2, sparse=sparse, mode="sum" if kind == "sum" else "mean", padding_idx=2
        ).double()

    def closure(table):
        def out():
            if kind == "embedding":
                return table(i).sum(1)
            return table(i.reshape(-1), starts) if kind == "offsets" else table(i)

        return lambda: ((out().tanh() - y) ** 2).mean()

    sparse, plain = made(True), made(False)
    opt, reference = LRSFN(sparse, rank=3, lr=0.5), torch.optim.SGD(plain.parameters(), lr=1.0)
    closure(plain)().backward()
    opt.step(closure(sparse))
    torch.testing.assert_close(sparse.weight.grad, plain.weight.grad)
    hvp, n = hessian_products(sparse, closure(sparse))
    at = sparse.weight.detach().clone()
    v = torch.randn(n, 1).double()
    slopes = []
    for sign in (1, -1):
        with torch.no_grad():
            plain.weight.copy_(at + sign * 1e-5 * v.view_as(at))
        reference.zero_grad()
        closure(plain)().backward()
        slopes.append(plain.weight.grad.reshape(-1))
    torch.testing.assert_close(hvp(v)[:, 0], (slopes[0] - slopes[1]) / 2e-5, atol=1e-6, rtol=1e-5)


def test_weight_norm_has_its_right_second_derivative():
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)), nn.Tanh(), nn.Linear(3, 1))
    x = torch.randn(16, 4)
    opt = LRSFN(model, rank=3)
    opt.step(squares(model, x, x[:, :1]))
    assert opt.skipped == 0


# -- parameters that change after the optimizer was made -------------------------------------------


def test_unfrozen_and_new_parameters_are_told_and_can_be_added():
    model = net()
    model[0].requires_grad_(False)
    x, y = data()
    opt = LRSFN(model, rank=2)
    opt.step(squares(model, x, y))
    model[0].requires_grad_(True)
    with pytest.warns(
        st.StabilityWarning, match=r"does not move 0.weight, 0.bias: unfrozen or new .* Call opt"
    ):
        opt.step(squares(model, x, y))
    before = model[0].weight.detach().clone()
    opt.add_param_group({"params": list(model[0].parameters())})
    opt.step(squares(model, x, y))
    assert not torch.equal(model[0].weight, before)
    assert opt.report(1).refreshes == 1


def test_what_is_frozen_later_stays_as_it_is():
    model = net()
    x, y = data()
    opt = LRSFN(model, rank=3, refresh=2, momentum=0.9, weight_decay=0.1)
    opt.step(squares(model, x, y))
    model[0].weight.requires_grad_(False)
    before, other = model[0].weight.clone(), model[2].weight.detach().clone()
    for _ in range(4):
        opt.step(squares(model, x, y))
    assert torch.equal(model[0].weight, before)
    assert not torch.equal(model[2].weight, other)


def test_a_model_in_another_precision_goes_on():
    model = net()
    x, y = data()
    opt = LRSFN(model, rank=3, momentum=0.5)
    opt.step(squares(model, x, y))
    model.float()
    opt.step(squares(model, x.float(), y.float()))
    assert (opt.skipped, opt.report().steps, opt.report().refreshes) == (0, 2, 1)


# -- what goes wrong -------------------------------------------------------------------------------


def test_steps_that_are_not_taken_are_told():
    model = nn.Linear(4, 1)
    nn.init.zeros_(model.weight)
    x = torch.randn(40, 4)
    opt = LRSFN(model, rank=2)
    kinked = lambda rows: (model(x[rows]) - 1).pow(2).mean(1) + torch.linalg.norm(model.weight)  # noqa: E731
    with pytest.warns(st.StabilityWarning, match=r"The first step was not taken: .*Hessian's products"):
        opt.step(kinked)
    smooth = lambda rows: (model(x[rows]) - 1).pow(2).mean(1)  # noqa: E731
    opt.step(smooth)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # one bad batch is no news
        opt.step(lambda: model(x).mean() * float("nan"))
        opt.step(lambda: model(x).mean() * float("nan"))
        opt.step(smooth)
        opt.step(lambda: model(x).mean() * float("nan"))
        opt.step(lambda: model(x).mean() * float("nan"))
    with pytest.warns(st.StabilityWarning, match="3 steps in a row were not taken: the loss or its gradient"):
        opt.step(lambda: model(x).mean() * float("nan"))
    assert opt.skipped == 6


def test_a_loss_that_explodes_in_finite_steps_is_told():
    w = nn.Parameter(torch.ones(3).double())
    opt = LRSFN([w], lr=3.0, rank=1, damping=1e-3, refresh=100)
    scales = torch.tensor([3.0, 1.0, 1.0]).double()

    def explode():
        for _ in range(30):
            opt.step(lambda: (scales * w**2).sum() / 2)

    with pytest.warns(st.StabilityWarning, match=r"The loss has risen to .*, from 2.5: these steps are too"):
        explode()
