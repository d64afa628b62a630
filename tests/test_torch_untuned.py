"""The PyTorch optimizer with nothing tuned, its adaptive tail, and the rule that steps are judged by."""

import copy
import io
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from networks import assert_close, seeded  # noqa: E402, F401
from torch import nn  # noqa: E402

from stability.advice.untuned import LEAST, Trust  # noqa: E402
from stability.torch import LRSFN, advise  # noqa: E402
from stability.torch.tail import DECAY, EPS, FARTHEST, SHARE  # noqa: E402


def least_squares(scales=(3.0, 1.0, 0.5, 0.2, 0.1), count=64):
    scales = torch.tensor(scales, dtype=torch.float64)
    x = torch.randn(count, len(scales), dtype=torch.float64) * scales
    w = nn.Parameter(torch.zeros(len(scales), dtype=torch.float64))
    y = x.sum(1)
    return w, x, (lambda rows: 0.5 * (x[rows] @ w - y[rows]) ** 2)


def net():
    return nn.Sequential(nn.Linear(4, 12), nn.Tanh(), nn.Linear(12, 1)).double()


def drawn(model, steps, opt, batch=16, schedule=True):
    """Train on batches of a smooth function; returns the loss of all samples before and after."""
    x = torch.randn(160, 4, dtype=torch.float64)
    y = torch.sin(2 * x[:, :1]) + x[:, 1:2] * x[:, 2:3]
    whole = lambda: float(((model(x) - y) ** 2).mean().detach())  # noqa: E731
    before, rate = whole(), torch.optim.lr_scheduler.LambdaLR(opt, lambda t: math.sqrt(max(0, 1 - t / steps)))
    for t in range(steps):
        i = torch.arange(batch) + batch * (t % (160 // batch))
        opt.step(lambda rows, i=i: ((model(x[i][rows]) - y[i][rows]) ** 2).mean(1))
        if schedule:
            rate.step()
    return before, whole()


# -- the adaptive tail -----------------------------------------------------------------------------


def dense(opt, w, H):
    """The preconditioner of an adaptive tail, by its formula."""
    state, report = opt.state[w], opt.report()
    U = state["vectors"].numpy()
    D = state["second"].numpy() / (1 - DECAY ** state["observed"])
    off = np.eye(len(U)) - U @ U.T
    tail = report.tail_gain * off @ np.diag(1 / (np.sqrt(D) + EPS)) @ off
    return U @ np.diag(report.gains) @ U.T + tail


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_off_the_kept_vectors_it_is_adams_metric(momentum):
    w, x, loss = least_squares()
    H = (x.T @ x / len(x)).numpy()
    opt = LRSFN([w], lr=0.5, rank=2, damping=0.01, tail="adaptive", momentum=momentum, refresh=100)
    velocity = np.zeros(5)
    for _ in range(3):
        g = H @ (w.detach().numpy() - 1)
        before = w.detach().numpy().copy()
        opt.step(loss)
        velocity = momentum * velocity + dense(opt, w, H) @ g
        assert_close(w.detach().numpy(), before - 0.5 * velocity, 1e-9)


def test_its_scale_is_what_the_largest_curvature_in_its_metric_allows():
    w, x, loss = least_squares()
    H = (x.T @ x / len(x)).numpy()
    opt = LRSFN([w], lr=1e-4, rank=2, damping=0.01, tail="adaptive", refresh=1)
    for _ in range(12):  # one iteration each goes on from the last
        opt.step(loss)
    state, P = opt.state[w], dense(opt, w, H)
    beyond = P - state["vectors"].numpy() @ np.diag(opt.report().gains) @ state["vectors"].numpy().T
    assert np.linalg.eigvals(beyond @ H).real.max() == pytest.approx(SHARE, rel=0.02)
    state["top"] = 1e-12
    opt.param_groups[0]["lr"] = 0.5
    assert opt.report().tail_gain == pytest.approx(FARTHEST / 0.5)  # no coordinate goes further


def test_the_reported_limit_is_that_of_the_whole_step():
    w, x, loss = least_squares()
    H = (x.T @ x / len(x)).numpy()
    opt = LRSFN([w], lr=0.1, rank=2, damping=0.01, tail="adaptive", momentum=0.3)
    opt.step(loss)
    report = opt.report()
    top = np.linalg.eigvals(dense(opt, w, H) @ H).real.max()
    assert report.deterministic_limit == pytest.approx(2 * 1.3 / top, rel=1e-6)
    assert math.isnan(report.tail_limit)


def test_an_adviser_that_needs_a_symmetric_root_says_what_to_ask():
    model = nn.Linear(4, 1).double()
    data = (torch.randn(32, 4).double(), torch.randn(32, 1).double())
    opt = LRSFN(model)
    own = lambda model, batch: ((model(batch[0]) - batch[1]) ** 2).mean(1)  # noqa: E731
    opt.step(lambda rows: own(model, (data[0][rows], data[1][rows])))
    with pytest.raises(ValueError, match=r"Ask optimizer.report\(closure=...\), or make it with tail='flat'"):
        advise(model, own, data, opt, batch=8)
    assert opt.report(closure=lambda: own(model, data)).deterministic_limit > 0
    flat = LRSFN(model, lr="auto", tail="flat")
    flat.step(lambda rows: own(model, (data[0][rows], data[1][rows])))
    assert advise(model, own, data, flat, batch=8).step_limit > 0


# -- nothing tuned ---------------------------------------------------------------------------------


def test_no_number_is_needed():
    model = net()
    opt = LRSFN(model)
    group = opt.param_groups[0]
    assert (group["lr"], group["untuned"], group["tail"]) == (1.0, True, "adaptive")
    before, after = drawn(model, 300, opt)
    assert after < 0.05 * before
    report = opt.report()
    assert report.refreshes < 20  # curvature that goes on to be right is kept for longer
    assert opt.state[group["params"][0]]["trust"]["every"] > 10


@pytest.mark.parametrize("unit", [1e-4, 1e4])
def test_it_does_not_depend_on_the_unit_of_the_loss(unit):
    one, other = net(), net()
    other.load_state_dict(one.state_dict())
    x = torch.randn(24, 4, dtype=torch.float64)
    losses = []
    for model, scale in ((one, 1.0), (other, unit)):
        opt = LRSFN(model, lr="auto", tail="flat")
        closure = lambda rows, m=model, c=scale: c * (m(x[rows]) - x[rows, :1]).square().mean(1)  # noqa: E731
        for _ in range(40):
            opt.step(closure)
        losses.append(float(closure(slice(None)).mean().detach()) / scale)
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.parametrize("tail", ["adaptive", "flat"])
def test_where_a_few_samples_carry_the_curvature_it_does_not_explode(tail):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((120, 30)) ** 3  # heavy columns
    x = torch.from_numpy(X / X.std(axis=0))
    y = x @ torch.ones(30, dtype=torch.float64) / 5
    model = nn.Linear(30, 1, bias=False).double()
    nn.init.zeros_(model.weight)
    opt = LRSFN(model, lr="auto", tail=tail)
    order = torch.Generator().manual_seed(0)
    for _ in range(25):
        for i in torch.randperm(120, generator=order).split(12):
            opt.step(lambda rows, i=i: (model(x[i][rows])[:, 0] - y[i][rows]) ** 2)
    assert ((model(x)[:, 0] - y) ** 2).mean() < 0.2 * (y**2).mean()


def test_a_run_that_is_lost_goes_back_to_its_best():
    model = net()
    opt = LRSFN(model)
    drawn(model, 60, opt, schedule=False)
    best = opt.state[model[0].weight]["best"].clone()
    share = opt.state[model[0].weight]["trust"]["share"]
    opt.step(lambda: model(torch.ones(1, 4).double()).mean() * math.inf)
    now = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    assert torch.equal(now, best)
    assert opt.skipped == 1
    assert opt.state[model[0].weight]["trust"]["share"] == pytest.approx(share / 2)
    assert opt.due
    assert "the loss had left the best one so far" in str(
        opt.report(closure=lambda: model(torch.eye(4).double()).square().mean())
    )


def test_resumed_is_bit_equal():
    one = net()
    opt = LRSFN(one)
    torch.manual_seed(3)
    drawn(one, 25, opt, schedule=False)
    file = io.BytesIO()
    torch.save(opt.state_dict(), file)
    file.seek(0)
    other = copy.deepcopy(one)
    again = LRSFN(other)
    again.load_state_dict(torch.load(file, weights_only=True))
    for model, optimizer in ((one, opt), (other, again)):
        torch.manual_seed(4)
        drawn(model, 25, optimizer, schedule=False)
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))


def test_a_state_of_an_earlier_version_is_read():
    model = net()
    opt = LRSFN(model, lr=0.1, rank=3)
    drawn(model, 3, opt, schedule=False)
    old = opt.state_dict()
    for group in old["param_groups"]:
        del group["untuned"]
    for name in ("second", "observed", "probe", "top", "length", "best", "trust"):
        del old["state"][0][name]
    again = LRSFN(model, lr=0.1, rank=3)
    again.load_state_dict(old)
    assert again.report(closure=lambda: model(torch.eye(4).double()).square().mean()).refreshes == 1


def test_masks_that_a_loss_draws_are_drawn_again_where_a_step_is_looked_at():
    model = nn.Sequential(nn.Linear(4, 30), nn.Tanh(), nn.Dropout(0.5), nn.Linear(30, 1)).double()
    opt = LRSFN(model)
    before, after = drawn(model, 120, opt)
    assert (
        opt.state[model[0].weight]["trust"]["share"] > 0.1
    )  # by other masks every second step would be poor
    assert after < before


def test_auto_is_of_the_hessian_and_measures_damping():
    with pytest.raises(ValueError, match="lr='auto' measures `damping` of the Hessian: leave `damping` out"):
        LRSFN(net(), lr="auto", damping=0.1)
    with pytest.raises(ValueError, match="leave curvature out, or give a number as `lr`"):
        LRSFN(net(), lr="auto", curvature="gauss-newton")
    assert LRSFN(net(), lr="auto", rank=5, momentum=0.5).param_groups[0]["rank"] == 5


# -- the rule --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gained", "slope", "share", "undone"),
    [
        (-0.9, -1.0, 0.6, False),  # as good as the slope: more is trusted
        (-0.5, -1.0, 0.5, False),
        (-0.1, -1.0, 0.35, False),  # poor
        (0.1, -1.0, 0.35, False),
        (1.1, -1.0, 0.125, True),  # rose by more than it should have fallen
        (math.nan, -1.0, 0.125, True),
        (0.1, 0.1, 0.5, False),  # uphill by momentum, as curvature said
        (1.0, 0.1, 0.125, True),
    ],
)
def test_steps_are_judged_by_what_they_bring(gained, slope, share, undone):
    trust = Trust(share=0.5)
    assert trust.judge(gained, slope, 0.01, age=8) is undone
    assert trust.share == pytest.approx(share)
    assert trust.renew == (share < 0.5)


def test_trust_has_bounds_and_curvature_is_renewed_within_its_work():
    trust = Trust(share=1.0)
    trust.judge(-0.9, -1.0, 0.1, age=8)
    assert (trust.share, trust.every) == (1.0, 15)
    for _ in range(20):
        trust.judge(2.0, -1.0, 0.1, age=2)
    assert (trust.share, trust.every) == (LEAST, 10)
    assert trust.due(1)
    trust.renewed(0.0)
    assert [trust.due(age) for age in (9, 10)] == [False, True]
    trust.renewed(100.0)
    assert not trust.due(50)  # refreshes cost half of what gradients did, at most
    trust.gradient_work = 200.0
    assert trust.due(50)
    assert [age for age in range(1, 40) if trust.looks(age)] == [1, 2, 4, 8, 16, 32]


def test_a_spike_among_losses_shortens_steps():
    trust = Trust()
    for loss in (1.0, 1.1, 0.9, 1.0, 1.05, 0.95):
        trust.hear(loss, 64)
    assert trust.share == 1.0
    trust.hear(2.3, 64)
    assert (trust.share, trust.renew) == (0.5, True)
    assert Trust.of(trust.state()) == trust
