"""Advice on networks: their places against dense derivatives, optimizers as they stand, what is "
"left untouched."""

import copy
import importlib
import math
import random

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402

import stability as st  # noqa: E402
from stability._streams import stream  # noqa: E402
from stability.torch import LRSFN, Watch, advise  # noqa: E402
from stability.torch.advise import here  # noqa: E402
from stability.torch.batches import look  # noqa: E402
from stability.torch.metric import read  # noqa: E402
from stability.torch.place import NetworkPlace  # noqa: E402
from stability.torch.still import untouched  # noqa: E402
from stability.torch.watch import SHARE  # noqa: E402
from stability.torch.whole import Whole  # noqa: E402

CPU, OPT = torch.device("cpu"), torch.optim


@pytest.fixture(autouse=True)
def seeded():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


# -- networks and data -----------------------------------------------------------------------------


def mlp():
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def classes(count=12):
    return torch.randn(count, 4).double(), torch.randint(0, 3, (count,))


def per_sample(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def mean(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


class Output:
    """What transformers return, in the small."""

    def __init__(self, loss, logits):
        self.loss, self.logits = loss, logits


class WithLoss(nn.Module):
    """A module that computes its own loss from a batch's entries."""

    def __init__(self, net, own=False):
        super().__init__()
        self.net, self.own = net, own

    def forward(self, x, labels):
        logits = self.net(x)
        if self.own:  # by operations that no cut knows
            return Output((logits.logsumexp(1) - logits.gather(1, labels[:, None])[:, 0]).mean(), logits)
        return Output(F.cross_entropy(logits, labels), logits)


def its_loss(model, batch):
    return model(**batch).loss


class Listing(WithLoss):
    """The same, with its outputs in a mapping: a mean loss beside what is put out for each sample."""

    def forward(self, x, labels):
        return vars(super().forward(x, labels))


def of_its_outputs(model, batch):
    return F.cross_entropy(model(**batch)["logits"], batch["labels"], reduction="none")


class Tokens(nn.Module):
    """Tied embeddings, attention, layer norm, dropout."""

    def __init__(self, words=7, width=4, dropout=0.0):
        super().__init__()
        self.embed = nn.Embedding(words, width)
        self.block = nn.TransformerEncoderLayer(width, 2, 8, dropout=dropout, batch_first=True)
        self.head = nn.Linear(width, words, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        return self.head(self.block(self.embed(ids)))


def next_words(model, batch):
    return F.cross_entropy(model(batch[:, :-1]).transpose(1, 2), batch[:, 1:], reduction="none").mean(1)


def cnn():
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.SiLU(), nn.Flatten(), nn.Dropout(0.2), nn.Linear(48, 3)
    ).double()


def images(count=12):
    return torch.randn(count, 1, 6, 6).double(), torch.randint(0, 3, (count,))


class Caches(nn.Module):
    """Counts, caches, and moves a buffer by itself."""

    def __init__(self):
        super().__init__()
        self.line, self.calls, self.cache = nn.Linear(4, 3).double(), 0, None
        self.register_buffer("middle", torch.zeros(4).double())

    def forward(self, x):
        self.calls, self.cache = self.calls + 1, self.line.weight * 2
        random.random(), np.random.rand()  # noqa: NPY002
        with torch.no_grad():
            self.middle.mul_(0.9).add_(x.mean(0), alpha=0.1)
        return self.line(x - self.middle)


def place(model, loss, data, batch=4, chosen=None, **options):
    looked = look(data, batch, 100, 0)
    return NetworkPlace(Whole(model, loss, chosen or list(model.parameters()), 0), looked, **options)


def _cut(place):
    return None if place.single.cut is None else place.single.cut.at


def directions(n, k):
    return torch.linalg.qr(torch.randn(n, k, generator=torch.Generator().manual_seed(1)).double())[0]


def order(count=12):
    """In which a place looks at so many samples."""
    return stream(0, 0).permutation(count)


def dense(net, loss, data):
    """Per-sample gradients (m, n) and Hessians (m, n, n), one by one."""
    names, params = zip(*net.named_parameters(), strict=True)
    sizes = [p.numel() for p in params]

    def at(w, s):
        pieces = {n: c.view(p.shape) for n, c, p in zip(names, w.split(sizes), params, strict=True)}
        row = tuple(t[s : s + 1] for t in data)
        return loss(lambda x: torch.func.functional_call(net, pieces, (x,)), row).sum()

    w, count = torch.cat([p.detach().reshape(-1) for p in params]), len(data[0])
    slopes = [torch.func.grad(lambda w, s=s: at(w, s))(w) for s in range(count)]
    bends = [torch.autograd.functional.hessian(lambda w, s=s: at(w, s), w) for s in range(count)]
    return torch.stack(slopes).numpy(), torch.stack(bends).numpy()


def assert_close(found, expected, tolerance=1e-10):
    expected = np.asarray(expected)
    np.testing.assert_allclose(np.asarray(found), expected, rtol=0, atol=tolerance * np.max(np.abs(expected)))


# -- the place -------------------------------------------------------------------------------------


PLACES = pytest.mark.parametrize(
    ("wrap", "loss", "named", "cut"),
    [
        (lambda net: net, per_sample, False, "model"),
        (lambda net: net, mean, False, "model"),
        (WithLoss, its_loss, True, "function"),
        (lambda net: WithLoss(net, own=True), its_loss, True, None),
        (Listing, of_its_outputs, True, "model"),
    ],
    ids=["per sample", "mean", "its own loss", "no cut", "a mean beside its outputs"],
)


@PLACES
def test_products_and_samples_are_those_of_dense_derivatives(wrap, loss, named, cut):
    net, (x, y) = mlp(), classes()
    slopes, bends = (each[order()] for each in dense(net, per_sample, (x, y)))
    model, V = wrap(net), directions(43, 4)
    with untouched(model, CPU):
        # So little memory that the samples are taken in several parts.
        here = place(model, loss, {"x": x, "labels": y} if named else (x, y), memory=5e3, pairs=100)
        assert (_cut(here), here.n, here.samples) == (cut, 43, 12)
        assert len(here.parts) > 1
        assert_close(here.product(V), bends.mean(0) @ V.numpy())
        rows = np.array([0, 5, 11])
        assert_close(here.product(V, rows), bends[rows].mean(0) @ V.numpy())
        assert_close(here.gradient(), slopes.mean(0))
        assert_close(here.gradient(rows), slopes[rows].mean(0))
        weights = np.random.default_rng(0).standard_normal(12)
        assert_close(here.signed_gradient(weights), weights @ slopes / 12)
        assert_close(here.second_moment(), (slopes**2).mean(0))
        seen = here.along(V)
    assert_close(seen.gradients, slopes @ V.numpy())
    assert_close(seen.curvatures, V.numpy().T @ bends @ V.numpy())
    assert seen.exact
    assert not seen.note


def test_samples_are_taken_together_by_what_each_of_them_keeps():
    """Weights and data are there anyway."""
    wide = nn.Sequential(nn.Linear(4, 300), nn.Tanh(), nn.Linear(300, 300), nn.Tanh(), nn.Linear(300, 3))
    with untouched(wide, CPU):
        parts = place(wide.double(), per_sample, classes(100), memory=1.2e6).parts
    assert 3 < parts[0].size < 30  # two layers keep 4,800 bytes for a sample, 16 times


def test_data_are_fetched_once():
    """But for a few samples on which the loss is tried."""

    class Counted(TensorDataset):
        fetched = 0

        def __getitem__(self, i):
            self.fetched += 1
            return super().__getitem__(i)

    net, data = mlp(), Counted(*classes(60))
    advise(net, per_sample, data, _sgd(net), batch=5)
    assert data.fetched == 60 + 2 * 5


def test_what_gauss_newton_leaves_out_is_measured_for_leading_pairs():
    net, data, V = mlp(), classes(), directions(43, 8)
    bends = dense(net, per_sample, data)[1][order()]
    with untouched(net, CPU):
        here = place(net, per_sample, data, pairs=6)
        price, before = here.price(8), here.work.total
        seen = here.along(V)
    truth = V.numpy().T @ bends @ V.numpy()
    right = np.abs(seen.curvatures - truth).max(0) < 1e-10
    assert not seen.exact
    assert "a few pairs" in seen.note
    assert right[0, 0]
    assert right.sum() == 4
    assert here.work.total - before == pytest.approx(price)


def twice(model, batch):
    """A network called more than once."""
    x, y = batch
    return ((model(x) - model(-x)) ** 2).sum(1) + F.cross_entropy(model(2 * x), y, reduction="none")


def penalized(model, batch):
    return per_sample(model, batch) + sum((p**4).sum() for p in model.parameters())


@pytest.mark.parametrize("loss", [twice, penalized])
def test_several_calls_and_penalties_are_cut_too(loss):
    net, data, V = nn.Linear(4, 3).double(), classes(), directions(15, 3)
    with untouched(net, CPU):
        here = place(net, loss, data, pairs=100)
        assert _cut(here) == "model"
        assert here.samples == 12
        seen = here.along(V)
        for s in (0, 7):  # products with one sample, and its gradient
            assert_close(seen.curvatures[s], V.T @ here.product(V, np.array([s])))
            assert_close(seen.gradients[s], V.T @ here.gradient(np.array([s])))


def test_a_mean_over_tokens_is_cut_and_its_weights_are_told():
    net, x = nn.Linear(4, 3).double(), torch.randn(12, 5, 4).double()
    short = torch.arange(5) > torch.arange(12)[:, None] % 5  # of each text the tokens that are none
    words = torch.randint(0, 3, (12, 5)).masked_fill(short, -100)

    def of_tokens(model, batch):
        return F.cross_entropy(model(batch[0]).transpose(1, 2), batch[1])

    with untouched(net, CPU):
        here = place(net, of_tokens, (x, words), batch=12)
        assert "weights samples unequally" in here.single.cut.notes[0]
        assert_close(here.along(directions(15, 2)).gradients.mean(0), directions(15, 2).T @ here.gradient())


def test_without_a_cut_fewer_samples_are_looked_at_along_directions():
    net, (x, y) = WithLoss(mlp(), own=True), classes(90)
    with untouched(net, CPU):
        here = place(net, its_loss, {"x": x, "labels": y}, pairs=2)
        seen = here.along(directions(43, 4))
        assert here.price(4) == pytest.approx((4 + 3 + 30) / 3 * 64 / 90)
    assert len(seen.curvatures) == 64
    assert "64 of 90" in seen.note


@pytest.mark.parametrize(
    "norm",
    [
        nn.LayerNorm(6),
        nn.GroupNorm(2, 6),
        nn.BatchNorm1d(6),
        nn.RMSNorm(6),
        nn.InstanceNorm1d(6, affine=True),
    ],
    ids=lambda norm: type(norm).__name__,
)
def test_normalisation_is_differentiated_with_its_statistics(norm):
    """torch's kernels take them for constants in nested forward mode."""
    turn = isinstance(norm, nn.InstanceNorm1d)
    inner = [nn.Unflatten(1, (6, 1)), nn.Conv1d(6, 6, 3, padding=2), norm, nn.Flatten()] if turn else [norm]
    net = nn.Sequential(nn.Linear(4, 6), *inner, nn.Tanh(), nn.Linear(18 if turn else 6, 3)).double()
    with untouched(net, CPU):
        here = place(net, per_sample, classes(), batch=6, pairs=100)
        V = directions(here.n, 3)
        seen, image = here.along(V), here.product(V)
        assert here.single.second == "forward"
    assert_close(seen.curvatures.mean(0), V.T @ image)
    assert_close(
        seen.gradients.mean(0), V.T @ here._gradient if here._gradient is not None else V.T @ here.gradient()
    )


@pytest.mark.parametrize("dim", [0, 1, None])
def test_weights_of_a_length_of_their_own_are_those_of_elementary_operations(dim):
    net = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 3), dim=dim)).double()
    data, params = classes(), list(net.parameters())  # bias, length, direction

    def plainly(w):
        bias, g, v = (
            c.view(p.shape) for c, p in zip(w.split([p.numel() for p in params]), params, strict=True)
        )
        square = (v**2).sum() if dim is None else (v**2).sum(1 - dim, keepdim=True)
        return F.cross_entropy(F.linear(data[0], v * g / square.sqrt(), bias), data[1])

    w = torch.cat([p.detach().reshape(-1) for p in params])
    with untouched(net, CPU):
        found = place(net, per_sample, data).product(torch.eye(len(w)).double())
    assert_close(found, torch.autograd.functional.hessian(plainly, w))


def test_a_kernel_that_nests_wrongly_is_found_out():
    class Wrong(nn.Module):
        def forward(self, x):
            return torch.native_layer_norm(x, [5], None, None, 1e-5)[0]

    net = nn.Sequential(nn.Linear(4, 5), Wrong(), nn.Linear(5, 3)).double()
    with untouched(net, CPU):
        here = place(net, per_sample, classes(), pairs=100)
        V = directions(here.n, 3)
        seen, image = here.along(V), here.product(V)
        slope = here.gradient()
    assert here.single.second is None
    assert not seen.exact
    assert "not measured" in seen.note
    assert_close(seen.gradients.mean(0), V.T @ slope)
    assert image.shape == V.shape


def test_without_forward_mode_two_backward_passes_do():
    class Cube(torch.autograd.Function):  # an old one: without what forward mode and vmap need
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        def backward(ctx, slope):
            return 3 * ctx.saved_tensors[0] ** 2 * slope

    class Cubes(nn.Module):
        def forward(self, x):
            return Cube.apply(x)

    net, data = nn.Sequential(nn.Linear(4, 5), Cubes(), nn.Linear(5, 3)).double(), classes()
    with untouched(net, CPU):
        here = place(net, per_sample, data, pairs=100)
        V = directions(here.n, 3)
        seen, slope, image = here.along(V), here.gradient(), here.product(V)
        assert here.single.first == "reverse"
    assert_close(seen.gradients.mean(0), V.T @ slope)
    assert_close(seen.curvatures.mean(0), V.T @ image)


def test_frozen_and_tied_parameters():
    net = Tokens().double()
    net.block.linear1.requires_grad_(False)
    words = torch.randint(0, 7, (10, 5))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with here(net, next_words, optimizer) as chosen:
        spot = NetworkPlace(Whole(net, next_words, chosen.params, 0), look(words, 5, 10, 0), pairs=100)
        expected = sum(p.numel() for p in net.parameters() if p.requires_grad)  # a tied one counts once
        assert spot.n == expected
        V = directions(spot.n, 2)
        seen, image = spot.along(V), spot.product(V)
        slope = spot.gradient()
    assert_close(seen.curvatures.mean(0), V.T @ image)
    next_words(net, words).mean().backward()
    assert_close(slope, torch.cat([p.grad.reshape(-1) for p in chosen.params]))


def test_embeddings_with_sparse_gradients():
    net = nn.Sequential(nn.Embedding(7, 2, sparse=True), nn.Flatten(), nn.Linear(6, 3)).double()
    data = torch.randint(0, 7, (12, 3)), torch.randint(0, 3, (12,))
    with untouched(net, CPU):
        spot = place(net, per_sample, data, pairs=100)
        V = directions(spot.n, 2)
        assert_close(spot.along(V).curvatures.mean(0), V.T @ spot.product(V))


def test_second_moments_of_many_samples_are_estimated_without_bias():
    net, data = mlp(), classes(600)
    slopes, _ = dense(net, per_sample, tuple(t[:1] for t in data))
    with untouched(net, CPU):
        spot = place(net, per_sample, data)
        spot.samples  # noqa: B018
        found = spot.second_moment().numpy()
        per = torch.func.vmap(
            torch.func.grad(
                lambda w, x, y: spot.whole(w, type(spot.parts[0])((x[None], y[None]), 1, 0)).sum()
            ),
            in_dims=(None, 0, 0),
        )(spot.whole.w, *(torch.cat([p.batch[i] for p in spot.parts]) for i in (0, 1)))
    truth = (per**2).mean(0).numpy()
    ratio = found / truth
    assert abs(ratio.mean() - 1) < 0.05
    assert ratio.std() < 0.25
    assert slopes.shape == (1, 43)


# -- nothing is touched ----------------------------------------------------------------------------


def whole_state(model, optimizer):
    tensors = [*model.parameters(), *model.buffers()]
    return {
        "tensors": [t.detach().clone() for t in tensors],
        "same": [id(t) for t in tensors],
        "versions": [t._version for t in tensors],
        "grads": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "modes": [m.training for m in model.modules()],
        "attributes": [{k: id(v) for k, v in vars(m).items()} for m in model.modules()],
        "optimizer": copy.deepcopy(optimizer.state_dict()),
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state()[1].copy(),  # noqa: NPY002
        "random": random.getstate(),
    }


def assert_same(one, other):
    assert one.keys() == other.keys()
    for key, value in one.items():
        flat, again = torch.utils._pytree.tree_leaves(value), torch.utils._pytree.tree_leaves(other[key])
        assert len(flat) == len(again), key
        for a, b in zip(flat, again, strict=True):
            if isinstance(a, (torch.Tensor, np.ndarray)):
                assert np.array_equal(np.asarray(a), np.asarray(b)), key
            else:
                assert a == b, key


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
    advise(model, per_sample, data, _sgd(model), batch=4)
    after = [model.calls, model.seen, model.plain, model.drawn.get_state()]
    assert_same({"kept": before}, {"kept": after})
    assert same == [id(a) for a in (model.calls, model.seen, model.plain, model.seen["sums"][0])]


def test_samples_that_are_two_or_all_alike():
    x = torch.randn(2, 3).double()
    net, y = nn.Linear(3, 1).double(), torch.randn(2, 1).double()

    def loss(m, b):
        return ((m(b[0]) - b[1]) ** 2).mean(1)

    alike = advise(net, loss, (x[:1].expand(10, 3), y[:1].expand(10, 1)), _sgd(net), batch=2)
    assert alike.step_limit == pytest.approx(1 / float(x[0] @ x[0] + 1))
    for seed in range(4):  # signs of two samples cancel for some
        advice = advise(net, loss, (x, y), _sgd(net), batch=1, seed=seed)
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


# -- data ------------------------------------------------------------------------------------------


def test_all_ways_to_give_data():
    x, y = torch.arange(20.0).reshape(20, 1), torch.arange(20)
    pairs = TensorDataset(x, y)
    shuffled = DataLoader(pairs, batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(3))
    drawn = DataLoader(pairs, batch_size=4, sampler=torch.utils.data.RandomSampler(pairs, replacement=True))
    own = torch.utils.data.WeightedRandomSampler([1.0] * 20, 12, generator=torch.Generator().manual_seed(0))
    cases = [
        (look((x, y), 5, 8, 0), 5, 20, 8),
        (look({"x": x}, 5, 100, 0), 5, 20, 20),
        (look(x, 5, 100, 0), 5, 20, 20),
        (look(pairs, 5, 8, 0), 5, 20, 8),
        (look(shuffled, None, 8, 0), 4, 20, 8),
        (look(shuffled, 10, 8, 0), 10, 20, 8),
        (look(drawn, None, 8, 0), 4, math.inf, 8),
        (look(DataLoader(pairs, batch_size=4, sampler=own), None, 10, 0), 4, 20, 10),
        (look([(x[:7], y[:7]), (x[7:], y[7:])], None, 100, 0), 7, 20, 20),
    ]
    for looked, batch, population, samples in cases:
        assert (looked.batch, looked.population, looked.samples) == (batch, population, samples)
        parts = looked.parts(3)
        assert sum(part.size for part in parts) == samples
        assert max(part.size for part in parts) <= 3
    some = mlp()
    states = shuffled.generator.get_state(), own.generator.get_state(), torch.get_rng_state()
    with untouched(some, CPU):  # a loader draws a seed from torch's own generator
        look(shuffled, None, 8, 0).parts(3)
        look(DataLoader(pairs, batch_size=4, sampler=own), None, 10, 0).parts(3)
    for state, again in zip(
        states,
        (shuffled.generator.get_state(), own.generator.get_state(), torch.get_rng_state()),
        strict=True,
    ):
        assert torch.equal(state, again)


def test_a_mapping_of_a_tokenizers_own():
    from collections import UserDict

    class Encoded(UserDict):
        def __init__(self, data, source):
            super().__init__(data)
            self.source = source

    batch = Encoded({"ids": torch.arange(6).reshape(6, 1), "shared": torch.zeros(2)}, "file")
    part = look([batch], None, 100, 0).parts(4)[1]
    assert isinstance(part.batch, Encoded)
    assert part.batch.source == "file"
    assert part.batch["ids"].flatten().tolist() == [4, 5]
    assert len(batch["ids"]) == 6
    assert part.batch["shared"].shape == (2,)


# -- optimizers as they stand ----------------------------------------------------------------------


def stepped(make, steps=3, net=None, data=None):
    net, data = net or mlp(), data or classes()
    optimizer = make(net.parameters())
    for _ in range(steps):
        optimizer.zero_grad()
        per_sample(net, data).mean().backward()
        optimizer.step()
    return net, data, optimizer


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
    net, data = mlp(), classes()
    torch.manual_seed(0)
    slopes, _ = dense(mlp(), per_sample, classes())
    squares = slopes.mean(0) ** 2 + slopes.var(0) / 4
    np.testing.assert_allclose(P, 1 / (np.sqrt(squares) + 1e-3), rtol=1e-8)
    assert "Before its first step" in found.notes[0]
    assert net is not None
    assert data is not None


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


class Unheard(OPT.Optimizer):
    """``w -= lr * g / (s + eps)`` with a buffer: nothing that anybody knows."""

    def __init__(self, params):
        super().__init__(params, {"lr": 0.1, "eps": 1e-3})

    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["s"] = p.grad.abs()


HOOK = {"metric": lambda p, state, group: 1 / (state["s"] + group["eps"]), "momentum": 0.9}


def test_other_optimizers_are_told_of():
    found, P, _ = as_it_stands(Unheard, **HOOK)
    net, _, optimizer = stepped(Unheard)
    assert found.memory.beta == 0.9
    assert not found.memory.average
    torch.manual_seed(0)
    s = torch.cat([optimizer.state[p]["s"].reshape(-1) for p in net.parameters()])
    assert P.shape == s.shape
    assert P.max() <= 1e3
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
    straight = advise(net, lambda m, b: m(b[0]).abs().mean(1), data, _sgd(net), batch=4)
    assert straight.sharpness == 0
    assert math.isnan(straight.step_limit)
    assert "no direction of positive curvature" in straight.reasons["step_limit"]
    assert "The loss is straight here" in str(straight)


def test_a_sum_is_refused_and_its_samples_times_the_batch_are_the_fix():
    net, data = mlp(), classes(40)

    def limit(loss):
        return advise(net, loss, data, _sgd(net), batch=4).step_limit

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
    assert watched(steps=0, every=200)[-1]._samples == 64
    net, data = mlp(), classes(4000)
    watch = Watch(net, per_sample, data, OPT.SGD(net.parameters(), lr=0.1), batch=512)
    gradients = SHARE * 200 * 512
    assert watch._samples == pytest.approx(gradients / watch._price, abs=1)
    assert watch._samples * watch._price <= gradients


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
    watch = Watch(net, per_sample, data, _sgd(net), every=1, batch=4, share=None)

    def pressed(self, V):
        raise KeyboardInterrupt

    monkeypatch.setattr(NetworkPlace, "along", pressed)
    with pytest.raises(KeyboardInterrupt):
        watch.step()
    assert watch.last["deterministic_limit"] > 0
    assert watch.advice.interrupted


def test_a_watch_accumulates_no_more_than_there_is():
    net, data = mlp(), classes()
    watch = Watch(net, per_sample, data, _sgd(net), every=1, batch=4, accumulate=4)
    with pytest.raises(ValueError, match="`accumulate` must be at most 3"):
        watch.look()


# -- refused ---------------------------------------------------------------------------------------


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, slope):
        return 2 * ctx.saved_tensors[0] * slope


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


def _sgd(net, **options):
    return OPT.SGD(net.parameters(), lr=0.1, **options)


def _not_finite():
    net = mlp()
    with torch.no_grad():
        net[0].bias[0] = math.nan
    return net, per_sample, classes(), _sgd(net), {}


def _changed():
    net, data, optimizer = stepped(lambda p: OPT.Adam(p, lr=0.1))
    for p in net[2].parameters():
        p.data = torch.zeros(2, *p.shape[1:]).double()
    return net, per_sample, (data[0], data[1] % 2), optimizer, {}


def _meta():
    net = nn.Linear(4, 3, device="meta")
    return net, per_sample, classes(), _sgd(net), {}


def _meta_frozen():
    net = nn.Sequential(nn.Linear(4, 4, device="meta"), nn.Linear(4, 3))
    return net, per_sample, classes(), _sgd(net[1]), {}


def _lazy():
    net = nn.Sequential(nn.LazyLinear(3))
    return net, per_sample, classes(), _sgd(net), {}


class Rated(torch.optim.Optimizer):
    def __init__(self, params):
        super().__init__(params, {"rate": 0.1})


def _with(loss=per_sample, data=None, optimizer=_sgd, net=mlp, **options):
    def case():
        model = net()
        return model, loss, classes() if data is None else data(), optimizer(model), options

    return case


def _elsewhere():
    net = mlp()
    return net, per_sample, classes(), _sgd(mlp()), {}


def _spread():
    net = mlp()
    net.device_ids = [0, 1]
    return net, per_sample, classes(), _sgd(net), {}


def _compiled():
    net = mlp()
    whole = nn.Sequential(net)
    whole._orig_mod = net  # as torch.compile leaves it
    return whole, per_sample, classes(), _sgd(net), {}


def _sparse():
    net = nn.Linear(4, 3).double()
    net.weight = nn.Parameter(net.weight.detach().to_sparse())
    return net, per_sample, classes(), _sgd(net), {}


REFUSED = {
    "no function of the parameters": (_with(lambda m, b: b[0].sum(1)), "must depend on the parameters"),
    "detached": (_with(lambda m, b: per_sample(m, b).detach()), "must depend on the parameters"),
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
    "tensors without a batch": (_with(batch=None), "`batch` must be given"),
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
