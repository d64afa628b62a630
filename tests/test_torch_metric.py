"""Optimizers of PyTorch as they stand: metric, memory, weight decay."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from networks import Unheard, assert_close, classes, dense, mlp, per_sample, seeded, stepped  # noqa: E402, F401
from torch import nn  # noqa: E402

import stability as st  # noqa: E402
from stability.torch import LRSFN, advise  # noqa: E402
from stability.torch.advise import here  # noqa: E402
from stability.torch.batches import look  # noqa: E402
from stability.torch.metric import read  # noqa: E402
from stability.torch.place import NetworkPlace  # noqa: E402
from stability.torch.whole import Whole  # noqa: E402

OPT = torch.optim


def as_it_stands(make, *, steps=3, batch=4, metric=None, momentum=None):
    net, data, optimizer = stepped(make, steps)
    with here(net, per_sample, optimizer) as chosen:
        spot = NetworkPlace(Whole(net, per_sample, chosen.params, 0), look(data, batch, 100, 0))
        found = read(chosen, spot, batch, metric, momentum)
        ones = torch.ones(spot.n, 1).double()
        P = torch.ones(spot.n) if found.root is None else (found.root(ones)[:, 0] ** 2)
    flat = torch.cat([torch.as_tensor(_square(optimizer, p)).reshape(-1) for p in net.parameters()])
    return found, P.numpy(), flat.numpy()


def _square(optimizer, p):
    state = optimizer.state.get(p, {})
    return next(
        (state[n] for n in ("exp_avg_sq", "square_avg", "exp_inf") if n in state), torch.zeros_like(p)
    )


@pytest.mark.parametrize(
    ("make", "memory", "metric"),
    [
        (lambda p: OPT.SGD(p, lr=0.1), (0.0, False, False), lambda v: np.ones_like(v)),
        (lambda p: OPT.SGD(p, lr=0.1, momentum=0.9), (0.9, False, False), lambda v: np.ones_like(v)),
        (
            lambda p: OPT.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
            (0.9, True, False),
            lambda v: np.ones_like(v),
        ),
        (
            lambda p: OPT.SGD(p, lr=0.1, momentum=0.9, dampening=0.7),
            (0.9, False, False),
            lambda v: np.full_like(v, 0.3),
        ),
        (
            lambda p: OPT.Adam(p, lr=0.1, betas=(0.8, 0.9), eps=1e-3),
            (0.8, False, True),
            lambda v: 1 / (np.sqrt(v / (1 - 0.9**3)) + 1e-3) / (1 - 0.8**3),
        ),
        (
            lambda p: OPT.AdamW(p, lr=0.1, betas=(0.8, 0.9), eps=1e-3),
            (0.8, False, True),
            lambda v: 1 / (np.sqrt(v / (1 - 0.9**3)) + 1e-3) / (1 - 0.8**3),
        ),
        (
            lambda p: OPT.NAdam(p, lr=0.1, betas=(0.8, 0.9), eps=1e-3),
            (0.8, True, True),
            lambda v: 1 / (np.sqrt(v / (1 - 0.9**3)) + 1e-3),
        ),
        (
            lambda p: OPT.RMSprop(p, lr=0.1, momentum=0.5, eps=1e-3),
            (0.5, False, False),
            lambda v: 1 / (np.sqrt(v) + 1e-3),
        ),
        (lambda p: OPT.Adamax(p, lr=0.1), (0.9, False, True), lambda v: 1 / v / (1 - 0.9**3)),
    ],
    ids=["SGD", "heavy ball", "Nesterov", "dampened", "Adam", "AdamW", "NAdam", "RMSprop", "Adamax"],
)
def test_the_metric_and_memory_are_read(make, memory, metric):
    found, P, v = as_it_stands(make)
    beta, nesterov, average = memory
    assert (found.memory is None) == (beta == 0)
    if beta:
        held = found.memory
        assert (held.beta, held.nesterov, held.average) == (beta, nesterov, average)
    np.testing.assert_allclose(P, metric(v), rtol=1e-12)


def test_centered_and_amsgrad():
    net, data, optimizer = stepped(lambda p: OPT.RMSprop(p, lr=0.1, centered=True))
    advice = advise(net, per_sample, data, optimizer, batch=4)
    _, P, v = as_it_stands(lambda p: OPT.RMSprop(p, lr=0.1, centered=True))
    assert advice.step_limit > 0
    assert np.all(1 / (np.sqrt(v) + 1e-8) < P)
    net, data, optimizer = stepped(lambda p: OPT.Adam(p, lr=0.1, amsgrad=True, betas=(0.9, 0.5)))
    with here(net, per_sample, optimizer) as chosen:
        spot = NetworkPlace(Whole(net, per_sample, chosen.params, 0), look(data, 4, 100, 0))
        P = read(chosen, spot, 4).root(torch.ones(spot.n, 1).double())[:, 0] ** 2
    largest = chosen.flat([optimizer.state[p]["max_exp_avg_sq"] for p in chosen.params], P)
    assert torch.allclose(P, 1 / ((largest / (1 - 0.5**3)).sqrt() + 1e-8) / (1 - 0.9**3))


@pytest.mark.parametrize(("kind", "decay"), [("Adam", 0.0), ("Adam", 0.3), ("AdamW", 3.0)])
@pytest.mark.parametrize("steps", [1, 5])
def test_young_adam_is_that_of_the_dense_second_moments(kind, decay, steps):
    x = torch.randn(12, 2).double()
    data, net = (x, x.sum(1, keepdim=True) + torch.randn(12, 1)), nn.Linear(2, 1).double()

    def loss(m, b):
        return ((m(b[0]) - b[1]) ** 2).mean(1)

    optimizer = getattr(OPT, kind)(net.parameters(), lr=1e-3, weight_decay=decay)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(net, data).mean().backward()
        optimizer.step()
    advice = advise(net, loss, data, optimizer, batch=3)
    z = np.c_[x.numpy(), np.ones(12)]
    samples = 2 * z[:, :, None] * z[:, None, :]
    v = np.concatenate([optimizer.state[p]["exp_avg_sq"].numpy().ravel() for p in net.parameters()])
    P, one = np.diag(1 / (np.sqrt(v / (1 - 0.999**steps)) + 1e-8)) / (1 - 0.9**steps), np.eye(3)
    apart = kind == "AdamW"

    def chain(H, lr):
        force = 0.1 * (H if apart else H + decay * one)
        keeps = (1 - lr * decay) * one if apart else one
        return np.block([[keeps - lr * P @ force, -lr * P * 0.9], [force, 0.9 * one]])

    def radius(lr):
        mean = chain(samples.mean(0), lr)
        spreads = [np.kron(D, D) for D in (chain(H, lr) - mean for H in samples)]
        return np.abs(np.linalg.eigvals(np.kron(mean, mean) + 9 / 33 * np.mean(spreads, axis=0))).max()

    assert radius(advice.step_limit * (1 - 1e-6)) < 1 < radius(advice.step_limit * (1 + 1e-6))
    assert "young momentum" in str(advice)


def test_weight_decay_of_its_own_in_each_group_is_told():
    net, data = mlp(), classes()
    groups = [{"params": net[0].parameters(), "weight_decay": 0.1}, {"params": net[2].parameters()}]
    advice = advise(net, per_sample, data, OPT.AdamW(groups, lr=1e-3, weight_decay=0.0), batch=4)
    assert "Weight decay differs between groups" in str(advice)


def test_before_the_first_step_second_moments_are_those_of_batches_here():
    found, P, _ = as_it_stands(lambda p: OPT.Adam(p, lr=0.1, eps=1e-3), steps=0)
    torch.manual_seed(0)
    slopes, _ = dense(mlp(), per_sample, classes())
    squares = slopes.mean(0) ** 2 + slopes.var(0) / 4
    np.testing.assert_allclose(P, 1 / (np.sqrt(squares) + 1e-3), rtol=1e-8)
    assert "Before its first step" in found.notes[0]


def test_groups_have_their_own_steps_and_decay():
    net, data = mlp(), classes()
    first, second = list(net[0].parameters()), list(net[2].parameters())
    optimizer = OPT.AdamW(
        [{"params": first, "lr": 0.1}, {"params": second, "lr": 0.02, "weight_decay": 0.5}], weight_decay=0.1
    )
    with here(net, per_sample, optimizer) as chosen:
        spot = NetworkPlace(Whole(net, per_sample, chosen.params, 0), look(data, 4, 100, 0))
        found = read(chosen, spot, 4)
    assert (found.steps, found.weight_decay, found.decoupled) == ((0.1, 0.02), (0.1, 0.5), True)
    assert found.groups.tolist() == [0] * 25 + [1] * 18
    advice = advise(net, per_sample, data, optimizer, batch=4)
    assert np.shape(advice.step_limit) == (2,)
    assert advice.step_limit[0] / advice.step_limit[1] == pytest.approx(5)


def test_parameters_in_another_order_than_the_models():
    net, data = mlp(), classes()
    slopes, _ = dense(net, per_sample, data)
    backwards = OPT.SGD(reversed(list(net.parameters())), lr=0.1)
    with here(net, per_sample, backwards) as chosen:
        spot = NetworkPlace(Whole(net, per_sample, chosen.params, 0), look(data, 4, 100, 0))
        parts = np.split(slopes.mean(0), np.cumsum([20, 5, 15]))
        assert_close(spot.gradient(), np.concatenate(parts[::-1]))


def test_low_rank_newton_is_read():
    net, (x, y) = mlp(), classes()
    optimizer = LRSFN(net, rank=3, lr=0.1, momentum=0.5)
    optimizer.step(lambda rows: per_sample(net, (x[rows], y[rows])))
    with here(net, per_sample, optimizer) as chosen:
        spot = NetworkPlace(Whole(net, per_sample, chosen.params, 0), look((x, y), 4, 100, 0))
        found = read(chosen, spot, 4)
        P = found.root(found.root(torch.eye(spot.n).double())).numpy()
    report, state = optimizer.report(), optimizer.state[next(net.parameters())]
    U = state["vectors"].numpy()
    expected = U @ np.diag(report.gains - report.tail_gain) @ U.T + report.tail_gain * np.eye(spot.n)
    assert_close(P, expected)
    assert found.memory.beta == 0.5
    assert found.label == "LRSFN"


HOOK = {"metric": lambda p, state, group: 1 / (state["s"] + group["eps"]), "momentum": 0.9}


def test_other_optimizers_are_told_of():
    found, P, _ = as_it_stands(Unheard, **HOOK)
    assert found.memory.beta == 0.9
    assert not found.memory.average
    torch.manual_seed(0)
    net, _, optimizer = stepped(Unheard)
    s = torch.cat([optimizer.state[p]["s"].reshape(-1) for p in net.parameters()])
    np.testing.assert_allclose(P, 1 / (s + 1e-3))
    names = dict(net.named_parameters())
    by_name, P, _ = as_it_stands(
        Unheard, metric={n: torch.full_like(p, 2.0) for n, p in names.items()}, momentum=st.Adam(beta1=0.8)
    )
    assert by_name.memory.average
    assert by_name.memory.beta == 0.8
    np.testing.assert_allclose(P, 2.0)
    listed, P, _ = as_it_stands(Unheard, metric=[torch.tensor(3.0)] * 4, momentum=0)
    assert listed.memory is None
    np.testing.assert_allclose(P, 3.0)


@pytest.mark.parametrize(
    ("package", "name", "square"),
    [
        ("pytorch_optimizer", "AdaBelief", "exp_avg_var"),
        ("pytorch_optimizer", "AdamP", "exp_avg_sq"),
    ],
)
def test_optimizers_of_other_packages(package, name, square):
    module = pytest.importorskip(package, reason=f"{package} is not installed")
    net, data, optimizer = stepped(lambda p: getattr(module, name)(p, lr=1e-3))
    with pytest.raises(ValueError, match="metric="):
        advise(net, per_sample, data, optimizer, batch=4)

    def metric(p, state, group):
        return 1 / (state[square].sqrt() + 1e-8)

    advice = advise(net, per_sample, data, optimizer, batch=4, metric=metric, momentum=st.Adam(beta1=0.9))
    assert advice.step_limit > 0
    assert advice.label == type(optimizer).__name__


def test_groups_that_do_not_move_are_told_of_and_empty_ones_are_not():
    net, data = mlp(), classes()
    alone = advise(net, per_sample, data, OPT.SGD(net.parameters(), lr=0.1), batch=4)
    groups = [{"params": net[0].parameters()}, {"params": net[2].parameters()}, {"params": []}]
    told = advise(net, per_sample, data, OPT.SGD(groups, lr=0.1), batch=4)
    assert np.max(told.step_limit) == pytest.approx(alone.step_limit, rel=0.2)  # other probes
    assert "left out" not in str(told)
    groups = [{"params": net[0].parameters()}, {"params": net[2].parameters(), "lr": 0.0}, {"params": []}]
    told = advise(net, per_sample, data, OPT.SGD(groups, lr=0.1), batch=4)
    assert "Parameters that do not move are left out: 1 group." in str(told)
