"""Advice on networks and its watch: what is told, what is left untouched, what is refused."""

import copy
import importlib
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from networks import (  # noqa: E402, F401
    Caches,
    Once,
    Output,
    Unheard,
    assert_same,
    classes,
    cnn,
    images,
    mean,
    mlp,
    per_sample,
    seeded,
    sgd,
    stepped,
    whole_state,
)
from torch import nn  # noqa: E402

import stability as st  # noqa: E402
from stability.torch import LRSFN, Watch, advise  # noqa: E402
from stability.torch.place import NetworkPlace  # noqa: E402
from stability.torch.watch import SHARE  # noqa: E402

OPT = torch.optim


# -- nothing is touched ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "loss", "data"),
    [(cnn, per_sample, images), (Caches, per_sample, classes), (lambda: cnn().eval(), per_sample, images)],
    ids=["batch norm and dropout", "a module with a memory", "evaluation mode"],
)
def test_the_model_the_optimizer_and_all_generators_are_left_as_they_were(make, loss, data):
    model, data = make(), data()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loss(model, data).mean().backward()
    optimizer.step()
    before = whole_state(model, optimizer)
    advise(model, loss, data, optimizer, batch=4)
    assert_same(before, whole_state(model, optimizer))


class Keeps(nn.Module):
    """A module that keeps what it sees in lists, dicts, plain tensors, and draws from its own generator."""

    def __init__(self):
        super().__init__()
        self.inner, self.calls, self.seen = mlp(), [], {"times": 0, "sums": [torch.zeros(2)]}
        self.plain, self.drawn = torch.zeros(2), torch.Generator().manual_seed(0)

    def forward(self, x):
        self.calls.append(x.shape)
        self.seen["times"] += 1
        self.seen["sums"][0] += 1
        self.plain += torch.rand(2, generator=self.drawn)
        return self.inner(x)


def test_what_a_module_keeps_is_put_back():
    model, data = Keeps(), classes()
    model(data[0])
    before = copy.deepcopy([model.calls, model.seen, model.plain, model.drawn.get_state()])
    same = [id(a) for a in (model.calls, model.seen, model.plain, model.seen["sums"][0])]
    advise(model, per_sample, data, sgd(model), batch=4)
    after = [model.calls, model.seen, model.plain, model.drawn.get_state()]
    assert_same({"kept": before}, {"kept": after})
    assert same == [id(a) for a in (model.calls, model.seen, model.plain, model.seen["sums"][0])]


def test_samples_that_are_two_or_all_alike():
    x = torch.randn(2, 3).double()
    net, y = nn.Linear(3, 1).double(), torch.randn(2, 1).double()

    def loss(m, b):
        return ((m(b[0]) - b[1]) ** 2).mean(1)

    alike = advise(net, loss, (x[:1].expand(10, 3), y[:1].expand(10, 1)), sgd(net), batch=2)
    assert alike.step_limit == pytest.approx(1 / float(x[0] @ x[0] + 1))
    for seed in range(4):  # signs of two samples cancel for some
        advice = advise(net, loss, (x, y), sgd(net), batch=1, seed=seed)
        assert advice.noise_floor < math.inf
        assert math.isnan(advice.noise_exponent)


def test_an_interrupt_leaves_what_is_known_and_the_model_as_it_was(monkeypatch):
    def pressed(self, V):
        raise KeyboardInterrupt

    monkeypatch.setattr(NetworkPlace, "along", pressed)
    model, data, loss = mlp(), classes(), per_sample
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = whole_state(model, optimizer)
    advice = advise(model, loss, data, optimizer, batch=4)
    assert "Interrupted" in str(advice)
    assert advice.sharpness > 0
    assert math.isnan(advice.step_limit)
    assert_same(before, whole_state(model, optimizer))


# -- the advice ------------------------------------------------------------------------------------


@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_on_a_quadratic_the_limit_is_that_of_the_dense_second_moments(momentum):
    """Least squares: the radius of ``E[B kron B]`` is 1 at the limit."""
    x = torch.randn(30, 3).double() * torch.tensor([2.0, 1.0, 0.5]).double()
    y, net = x.sum(1, keepdim=True) + 0.1 * torch.randn(30, 1).double(), nn.Linear(3, 1, bias=False).double()
    optimizer = OPT.SGD(net.parameters(), lr=0.01, momentum=momentum)
    advice = advise(
        net,
        lambda model, batch: ((model(batch[0]) - batch[1]) ** 2).sum(1) / 2,
        (x, y),
        optimizer,
        batch=4,
    )
    assert radius(x.numpy(), 4, float(advice.step_limit), momentum) == pytest.approx(1, abs=1e-6)
    assert advice.exact
    assert advice.deterministic_limit == pytest.approx(
        2 * (1 + momentum) / np.linalg.eigvalsh(x.numpy().T @ x.numpy() / 30)[-1], rel=1e-8
    )


def radius(X, batch, step, beta):
    """Of the map of second moments under fresh batches without replacement, heavy ball."""
    (n, d), H = X.shape, X.T @ X / len(X)
    share = (n - batch) / (batch * (n - 1))
    spread = share * (sum(np.kron(np.outer(r, r), np.outer(r, r)) for r in X) / n - np.kron(H, H))
    eye = np.eye(d)
    B = np.block([[eye - step * H, -step * beta * eye], [H, beta * eye]])
    kick = np.vstack([-step * eye, eye])
    first = np.hstack([eye, np.zeros((d, d))])
    T = np.kron(B, B) + np.kron(kick, kick) @ spread @ np.kron(first, first)
    return max(abs(np.linalg.eigvals(T)))


def test_it_costs_no_more_than_it_may():
    net, data, optimizer = stepped(lambda p: OPT.Adam(p, lr=1e-2), data=classes(300))
    advice = advise(net, per_sample, data, optimizer, batch=16)
    assert advice.stats["gradients"] <= 62
    assert advice.step_limit > 0
    assert "the largest stable one (" in str(advice)


def test_what_the_metric_and_clipping_cost_is_counted(monkeypatch):
    module, places = importlib.import_module("stability.torch.advise"), []
    examine = module.examine
    monkeypatch.setattr(module, "examine", lambda p, **options: places.append(p) or examine(p, **options))
    net = mlp()
    advice = advise(net, per_sample, classes(300), OPT.Adam(net.parameters()), batch=16, clip=1.0)
    assert advice.stats["gradients"] == pytest.approx(places[0].work.total)
    assert places[0].work.gradients < 6  # second moments are found once


def test_modes_precision_clipping_and_accumulation_are_told():
    net, data = cnn(), images()
    optimizer = OPT.SGD(net.parameters(), lr=0.1)
    text = str(advise(net, per_sample, data, optimizer, batch=4, accumulate=2, clip=1e-3))
    assert "statistics from batches of 4" in text
    assert "mask of its own" in text
    assert "2 batches of 4 make a step of 8" in text
    assert "Clipping at 0.001 shortens" in text
    text = str(advise(net.eval(), per_sample, data, optimizer, batch=4, clip=1e3))
    assert "Dropout is off" in text
    assert "seldom acts" in text


def test_a_network_of_straight_pieces_has_no_limit_and_says_why():
    net, data = nn.Linear(4, 3).double(), classes(40)
    straight = advise(net, lambda m, b: m(b[0]).abs().mean(1), data, sgd(net), batch=4)
    assert straight.sharpness == 0
    assert math.isnan(straight.step_limit)
    assert "no direction of positive curvature" in straight.reasons["step_limit"]
    assert "The loss is straight here" in str(straight)


def test_a_sum_is_refused_and_its_samples_times_the_batch_are_the_fix():
    net, data = mlp(), classes(40)

    def limit(loss):
        return advise(net, loss, data, sgd(net), batch=4).step_limit

    with pytest.raises(ValueError, match=r"Return one for each sample; .* times the samples in a batch"):
        limit(lambda m, b: per_sample(m, b).sum())
    assert limit(lambda m, b: 4 * per_sample(m, b)) == pytest.approx(limit(per_sample) / 4)


@pytest.mark.parametrize("how", ["weights", "autocast", "cast"])
def test_half_precision_is_replaced(how):
    net, (x, y) = mlp().float(), classes()
    x = x.float()
    loss = per_sample
    reference = advise(net, per_sample, (x, y), OPT.SGD(net.parameters(), lr=0.1), batch=4)
    if how == "weights":
        for p in net.parameters():  # numbers that both precisions hold
            p.data = p.data.bfloat16().float()
        x = x.bfloat16().float()
        reference = advise(net, per_sample, (x, y), OPT.SGD(net.parameters(), lr=0.1), batch=4)
        net, x = net.bfloat16(), x.bfloat16()
    elif how == "autocast":

        def loss(model, batch):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return per_sample(model, batch)
    else:

        def loss(model, batch):
            return per_sample(lambda z: model(z.bfloat16().to(torch.bfloat16).float()), batch)

    advice = advise(net, loss, (x, y), OPT.SGD(net.parameters(), lr=0.1), batch=4)
    assert "single precision" in str(advice)
    assert advice.sharpness == pytest.approx(reference.sharpness, rel=1e-4)


def test_maximizing_is_minimizing_minus_the_loss():
    net, data = mlp(), classes()
    up = advise(
        net, lambda m, b: -per_sample(m, b), data, OPT.SGD(net.parameters(), lr=0.1, maximize=True), batch=4
    )
    down = advise(net, per_sample, data, OPT.SGD(net.parameters(), lr=0.1), batch=4)
    assert up.step_limit == pytest.approx(down.step_limit, rel=1e-6)


# -- a watch in the loop ---------------------------------------------------------------------------


def watched(steps=40, make=None, **options):
    net, data = mlp(), classes(40)
    optimizer = make(net) if make else OPT.SGD(net.parameters(), lr=0.1)
    watch = Watch(net, per_sample, data, optimizer, **{"every": 10, "batch": 8, "share": None, **options})
    for _ in range(steps):
        optimizer.zero_grad()
        per_sample(net, data).mean().backward()
        optimizer.step()
        watch.step()
    return net, data, optimizer, watch


def test_a_watch_follows_the_limit(tmp_path):
    net, data, optimizer, watch = watched(samples=40, modes=43)  # all samples, all modes
    history = watch.history
    assert history.iterations.tolist() == [10, 20, 30, 40]
    assert np.all(history.steps == 0.1)
    assert np.all(np.diff(history.losses) < 0)
    advice = advise(net, per_sample, data, optimizer, batch=8, budget=60)
    assert watch.last["iteration"] == 40
    assert watch.last["step_limit"] == pytest.approx(advice.step_limit, rel=0.1)
    assert watch.last["deterministic_limit"] == pytest.approx(advice.deterministic_limit, rel=0.01)
    assert watch.last["share"] == pytest.approx(0.1 / watch.last["step_limit"])
    assert all(isinstance(value, (int, float)) for value in watch.last.values())
    assert math.isnan(watch.advice.step_limit_bracket[0])  # a start that was chosen bounds nothing
    history.save(tmp_path / "watched")
    assert st.load(tmp_path / "watched").step_limits.tolist() == history.step_limits.tolist()
    assert "SGD watched 4 times" in str(history)
    below = st.plot(history).axes[1]
    assert any(np.array_equal(line.get_ydata(), history.step_limits) for line in below.lines)


def test_a_few_directions_track_the_leading_curvature():
    *_, watch = watched(steps=60, samples=40, modes=4)
    torch.manual_seed(0)
    *_, whole = watched(steps=60, samples=40, modes=12)
    np.testing.assert_allclose(watch.history.sharpness, whole.history.sharpness, rtol=0.02)


def test_a_watch_changes_nothing_and_repeats_itself():
    net, _, optimizer, watch = watched(make=lambda net: OPT.Adam(net.parameters(), lr=0.01))
    torch.manual_seed(0)
    again, *_, other = watched(make=lambda net: OPT.Adam(net.parameters(), lr=0.01))
    assert watch.history.step_limits.tolist() == other.history.step_limits.tolist()
    torch.manual_seed(0)
    unwatched, *_ = watched(make=lambda net: OPT.Adam(net.parameters(), lr=0.01), every=1000)
    for p, q, r in zip(net.parameters(), again.parameters(), unwatched.parameters(), strict=True):
        assert torch.equal(p, q)
        assert torch.equal(p, r)
    before = whole_state(net, optimizer)
    watch.look()
    assert_same(before, whole_state(net, optimizer))


def test_a_look_is_put_off_where_it_costs_too_much(monkeypatch):
    clock = iter(range(10**6))
    monkeypatch.setattr("stability.torch.watch.time.perf_counter", lambda: float(next(clock)))
    *_, watch = watched(share=1e-9)
    # The first is free, the second paid for by none that follows.
    assert watch.history.iterations.tolist() == [10, 20]


def test_samples_are_as_many_as_a_look_may_cost():
    assert watched(steps=0, every=200)[-1]._samples == 2048  # a small network's cost no time that counts
    net, data = nn.Linear(20000, 1), (torch.zeros(4, 20000), torch.zeros(4, 1))
    assert Watch(net, per_sample, data, OPT.SGD(net.parameters(), lr=0.1), batch=2)._samples == 64
    net, data = nn.Sequential(nn.Linear(4, 2000), nn.Tanh(), nn.Linear(2000, 3)).double(), classes(4000)
    watch = Watch(net, per_sample, data, OPT.SGD(net.parameters(), lr=0.1), batch=512)
    gradients = SHARE * 200 * 512
    assert watch._samples == pytest.approx(gradients / watch._price, abs=1)
    assert watch._samples * watch._price <= gradients


def test_watching_takes_no_more_than_its_share(monkeypatch):
    now, spent = [0.0], []
    monkeypatch.setattr("stability.torch.watch.time.perf_counter", lambda: now[0])
    found = Watch._examined

    def slow(self):
        now[0] += 100.0 if not spent else 3.0
        spent.append(now[0])
        return found(self)

    monkeypatch.setattr(Watch, "_examined", slow)
    _, _, _, watch = watched(steps=0, every=1, share=0.1, samples=8)
    for _ in range(200):
        now[0] += 1.0
        watch.step()
    assert 0.08 * 200 <= 3.0 * (len(spent) - 1) <= 0.1 * 200


def test_a_watch_follows_a_single_sample_that_carries_the_limit():
    source = torch.Generator().manual_seed(0)
    x = torch.cat([2 * torch.randn(200, 24, generator=source), torch.zeros(200, 6)], dim=1)
    x[17, 24] = 40.0
    net = nn.Linear(30, 1)
    optimizer = OPT.SGD(net.parameters(), lr=1e-3)
    data = (x, torch.randn(200, 1, generator=source))

    def loss(model, batch):
        return torch.nn.functional.mse_loss(model(batch[0]), batch[1], reduction="none").mean(1)

    advice = advise(net, loss, data, optimizer, batch=1)
    watch = Watch(net, loss, data, optimizer, batch=1, samples=200)
    for _ in range(3):
        watch.look()
        assert watch.last["step_limit"] == pytest.approx(advice.step_limit, rel=0.1)
        assert watch.last["sample_share"] > 0.5
        assert watch.last["step_limit_error"] == 0  # all samples were looked at
    few = Watch(net, loss, data, optimizer, batch=1, samples=64)
    few.look()
    assert few.last["samples"] == 64
    assert 0 < few.last["step_limit_error"] < 2 * few.last["step_limit"]


MEETING = {
    "dropout": lambda: nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 3)).double(),
    "batch norm": lambda: nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)
    ).double(),
}


@pytest.mark.parametrize("name", MEETING)
def test_masks_and_mates_are_drawn_anew_and_no_look_at_all_samples_knows_them(name):
    net, data, optimizer = stepped(lambda p: OPT.SGD(p, lr=0.1), net=MEETING[name](), data=classes(48))
    told = [advise(net, per_sample, data, optimizer, batch=16, budget=15, seed=seed) for seed in range(2)]
    for one in told:
        low, high = one.step_limit_bracket
        assert not one.exact
        assert math.isnan(one.confidence)
        assert all(low < other.step_limit < high for other in told)
    assert math.isinf(told[0].population) == (name == "dropout")
    watch = Watch(net, per_sample, data, optimizer, batch=16)
    for _ in range(2):
        watch.look()
        assert low / 1.5 < watch.last["step_limit"] < 1.5 * high  # a few directions allow somewhat more
        assert watch.last["step_limit_error"] > 0
    net.eval()
    quiet = advise(net, per_sample, data, optimizer, batch=16, budget=15)
    assert quiet.population == len(data[0])
    note = {"dropout": "Dropout is off", "batch norm": "Batch norm takes its running means"}[name]
    assert note in str(quiet)


def test_before_an_adaptive_first_step_a_watch_guesses_from_more_samples():
    net, data = nn.Sequential(nn.Linear(4, 2000), nn.Tanh(), nn.Linear(2000, 3)).double(), classes(400)
    optimizer = OPT.Adam(net.parameters(), lr=1e-3)
    watch = Watch(net, per_sample, data, optimizer, batch=8, every=10)
    watch.look()
    assert watch.last["samples"] == 400
    assert "Before its first step" in str(watch.advice)
    per_sample(net, data).mean().backward()
    optimizer.step()
    watch.look()
    assert watch.last["samples"] == 64


def test_what_goes_wrong_later_is_recorded_and_training_goes_on():
    net, _, _, watch = watched(steps=10)
    with torch.no_grad():
        net[0].bias[0] = math.nan
    assert watch.look() is None
    assert "must be finite" in watch.last["reason"]
    assert math.isnan(watch.history.step_limits[-1])
    with pytest.raises(ValueError, match="first look; 3 of 10 steps"):
        _ = watched(steps=3)[-1].history
    with torch.no_grad():
        net[0].bias[0] = 0.0
    assert watch.look().step_limit > 0
    assert "reason" not in watch.last


def test_a_watch_passes_ctrl_c_on_and_keeps_what_is_known(monkeypatch):
    net, data = mlp(), classes()
    watch = Watch(net, per_sample, data, sgd(net), every=1, batch=4, share=None)

    def pressed(self, V):
        raise KeyboardInterrupt

    monkeypatch.setattr(NetworkPlace, "along", pressed)
    with pytest.raises(KeyboardInterrupt):
        watch.step()
    assert watch.last["deterministic_limit"] > 0
    assert watch.advice.interrupted


def test_a_watch_accumulates_no_more_than_there_is():
    net, data = mlp(), classes()
    watch = Watch(net, per_sample, data, sgd(net), every=1, batch=4, accumulate=4)
    with pytest.raises(ValueError, match="`accumulate` must be at most 3"):
        watch.look()


# -- refused ---------------------------------------------------------------------------------------


class Crooked(torch.autograd.Function):
    """Its derivative's derivative is another function's."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, slope):
        (x,) = ctx.saved_tensors
        return 2 * slope * (x + x.roll(1, -1) - x.roll(1, -1).detach())


class OnceModule(nn.Module):
    def forward(self, x):
        return Once.apply(x)


def _not_finite():
    net = mlp()
    with torch.no_grad():
        net[0].bias[0] = math.nan
    return net, per_sample, classes(), sgd(net), {}


def _changed():
    net, data, optimizer = stepped(lambda p: OPT.Adam(p, lr=0.1))
    for p in net[2].parameters():
        p.data = torch.zeros(2, *p.shape[1:]).double()
    return net, per_sample, (data[0], data[1] % 2), optimizer, {}


def _meta():
    net = nn.Linear(4, 3, device="meta")
    return net, per_sample, classes(), sgd(net), {}


def _meta_frozen():
    net = nn.Sequential(nn.Linear(4, 4, device="meta"), nn.Linear(4, 3))
    return net, per_sample, classes(), sgd(net[1]), {}


def _lazy():
    net = nn.Sequential(nn.LazyLinear(3))
    return net, per_sample, classes(), sgd(net), {}


class Rated(torch.optim.Optimizer):
    def __init__(self, params):
        super().__init__(params, {"rate": 0.1})


def _with(loss=per_sample, data=None, optimizer=sgd, net=mlp, **options):
    def case():
        model = net()
        return model, loss, classes() if data is None else data(), optimizer(model), options

    return case


def _dataset():
    return torch.utils.data.TensorDataset(*classes())


def _elsewhere():
    net = mlp()
    return net, per_sample, classes(), sgd(mlp()), {}


def _spread():
    net = mlp()
    net.device_ids = [0, 1]
    return net, per_sample, classes(), sgd(net), {}


def _compiled():
    net = mlp()
    whole = nn.Sequential(net)
    whole._orig_mod = net  # as torch.compile leaves it
    return whole, per_sample, classes(), sgd(net), {}


def _sparse():
    net = nn.Linear(4, 3).double()
    net.weight = nn.Parameter(net.weight.detach().to_sparse())
    return net, per_sample, classes(), sgd(net), {}


REFUSED = {
    "no function of the parameters": (_with(lambda m, b: b[0].sum(1)), "must depend on the parameters"),
    "detached": (_with(lambda m, b: per_sample(m, b).detach()), "must depend on the parameters"),
    "a graph of something else": (
        _with(lambda m, b: b[0].sum(1) * torch.ones((), requires_grad=True).double()),
        "must depend on the parameters",
    ),
    "no second derivative": (
        _with(net=lambda: nn.Sequential(nn.Linear(4, 3), OnceModule()).double()),
        r"not in 1 \(OnceModule\)",
    ),
    "no second derivative of the loss": (
        _with(lambda m, b: Once.apply(per_sample(m, b))),
        "not in the loss itself",
    ),
    "a crooked derivative": (_with(lambda m, b: Crooked.apply(m(b[0])).sum(1)), "gradgradcheck"),
    "a second derivative without end": (
        _with(lambda m, b: per_sample(m, b) + (m(b[0]) - m(b[0]).detach()).abs().pow(1.5).sum(1)),
        "finite second derivative",
    ),
    "a mean of samples that meet": (_with(mean, net=Caches), "cannot be told apart"),
    "one sample": (_with(data=lambda: classes(1)), "two samples at least"),
    "not finite": (_not_finite, "must be finite"),
    "an unknown metric": (_with(optimizer=lambda net: Unheard(net.parameters())), "metric=lambda p, state"),
    "half told": (
        _with(optimizer=lambda net: Unheard(net.parameters()), metric=1.0),
        "momentum=0 where it has none",
    ),
    "LBFGS": (_with(optimizer=lambda net: OPT.LBFGS(net.parameters())), "evaluates its closure"),
    "a closure": (_with(lambda: 0.0), "function of the model and a batch"),
    "meta": (_meta, "to_empty"),
    "lazy": (_lazy, "Call the model on a batch once"),
    "meta though frozen": (_meta_frozen, "0.weight is on the meta"),
    "no lr": (
        _with(optimizer=lambda net: Rated(net.parameters()), metric=1.0, momentum=0),
        "group\\['lr'\\]",
    ),
    "memory": (_with(memory="much"), "`memory` must be a finite number > 0"),
    "too many accumulated": (_with(accumulate=4), "`accumulate` must be at most 3"),
    "changed shapes": (_changed, "Build the optimizer anew"),
    "compiled": (_compiled, r"Pass what was compiled, model\._orig_mod"),
    "several devices": (_spread, "model.module"),
    "sparse": (_sparse, "to_dense"),
    "a Dataset without a batch": (_with(data=_dataset, batch=None), "`batch` must be given"),
    "a batch beyond the data": (_with(batch=13), "at most 12"),
    "an iterator": (_with(data=lambda: iter([classes()])), "read again"),
    "no tensors": (_with(data=lambda: ["a", "b"]), "batches of tensors"),
    "several lengths": (_with(data=lambda: (torch.ones(4, 4), torch.ones(3))), "one first axis"),
    "another model": (_elsewhere, "parameters of `model`"),
    "no model": (lambda: (3, per_sample, classes(), None, {}), "torch.nn.Module"),
    "no optimizer": (_with(optimizer=lambda net: 0.1), "torch.optim.Optimizer"),
    "nothing to move": (_with(optimizer=lambda net: OPT.SGD(net.parameters(), lr=0.0)), "move something"),
    "a number": (_with(lambda m, b: float(mean(m, b))), "without .item"),
    "an output": (
        _with(lambda m, b: Output(mean(m, b), None)),
        "Return its .loss",
    ),
    "a criterion": (_with(nn.MSELoss()), r"got MSELoss\(\), of outputs and targets"),
    "a small budget": (_with(budget=3), "at least 10 Hessian products; got 3. Leave it out for 30"),
    "losses of tokens": (_with(lambda m, b: m(b[0])), "mean over the other axes"),
    "two kinds of momentum": (
        _with(
            optimizer=lambda net: OPT.SGD(
                [{"params": net[0].parameters()}, {"params": net[2].parameters(), "momentum": 0.9}], lr=0.1
            )
        ),
        "same kind of momentum",
    ),
    "a metric of another shape": (_with(metric=[torch.ones(7)] * 4), "must have the shape"),
    "too few metrics": (_with(metric=[1.0]), "for each of 4 parameters"),
    "a missing metric": (_with(metric={}), "0.weight is missing"),
    "no positive metric": (_with(metric=0.0), "positive and finite"),
    "no momentum": (_with(momentum="much"), "stability.Adam"),
    "Newton before a step": (_with(optimizer=lambda net: LRSFN(net, rank=2)), "must have taken a step"),
    "Adagrad before a step": (_with(optimizer=lambda net: OPT.Adagrad(net.parameters())), "sums all squares"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_advised_on_is_refused_with_a_fix(case):
    make, match = REFUSED[case]
    model, loss, data, optimizer, options = make()
    with pytest.raises(ValueError, match=match):
        advise(model, loss, data, optimizer, **{"batch": 4, **options})


def test_tensors_without_a_batch_are_seen_whole_at_every_step_which_is_told():
    net, data = mlp(), classes()
    with pytest.warns(st.StabilityWarning, match="to see all 12 samples, without batch noise"):
        found = advise(net, per_sample, data, sgd(net))
    assert found.step_limit == advise(net, per_sample, data, sgd(net), batch=12).step_limit
    assert found.step_limit > advise(net, per_sample, data, sgd(net), batch=2).step_limit
    assert found.noise_floor == 0
