"""A network's place against dense derivatives, and the samples that are looked at."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from networks import (  # noqa: E402, F401
    Listing,
    Tokens,
    WithLoss,
    assert_close,
    classes,
    cut_of,
    dense,
    directions,
    its_loss,
    mean,
    mlp,
    next_words,
    of_its_outputs,
    order,
    per_sample,
    place,
    seeded,
    sgd,
)
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402

from stability.advice.directions import Directions  # noqa: E402
from stability.torch import advise  # noqa: E402
from stability.torch.advise import here  # noqa: E402
from stability.torch.batches import look  # noqa: E402
from stability.torch.place import NetworkPlace  # noqa: E402
from stability.torch.still import untouched  # noqa: E402
from stability.torch.whole import Whole  # noqa: E402

CPU = torch.device("cpu")


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
        assert (cut_of(here), here.n, here.samples) == (cut, 43, 12)
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


@pytest.mark.parametrize("penalty", [False, True])
def test_directions_in_blocks_are_scaled_few_at_a_time(penalty, monkeypatch):
    """Large ones one by one: a copy of all would take their memory again."""
    net, V, asked = mlp(), directions(43, 10), []

    def loss(model, batch):
        beside = sum((p**4).sum() for p in model.parameters()) if penalty else 0.0
        return per_sample(model, batch) + beside

    def twice(columns):
        asked.append(columns.shape[1])
        return 2 * columns

    monkeypatch.setattr("stability.torch.along.TOGETHER", 1)
    with untouched(net, CPU):
        here = place(net, loss, classes())
        whole = here.along(2 * V)
        found = here.along(Directions(here.backend, [V[:, :4], V[:, 4:5], V[:, 5:]], twice))
    assert_close(found.gradients, whole.gradients)
    assert_close(found.curvatures, whole.curvatures)
    assert max(asked) == (8 if penalty else 1)


def test_samples_are_taken_together_by_what_each_of_them_keeps():
    """Weights and data are there anyway."""
    wide = nn.Sequential(nn.Linear(4, 300), nn.Tanh(), nn.Linear(300, 300), nn.Tanh(), nn.Linear(300, 3))
    with untouched(wide, CPU):
        parts = place(wide.double(), per_sample, classes(100), memory=1.2e6).parts
    assert 3 < parts[0].size < 30  # two layers keep 4,800 bytes for a sample, 16 times


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


@pytest.mark.parametrize("seed", [0, 1, 4])
def test_where_gauss_newton_stands_in_the_bracket_holds_the_limit_of_all_modes(seed):
    """Of all directions, the mean's curvature is known; that of samples is for a few pairs."""
    torch.manual_seed(seed)
    x = torch.randn(16, 3).double() * torch.tensor([2.0, 1.0, 0.5])
    net = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1)).double()
    data = x, torch.sin(2 * x[:, :1]) * (3 if seed % 2 else 1)

    def loss(model, batch):
        return ((model(batch[0]) - batch[1]) ** 2).sum(1)

    optimizer = torch.optim.SGD(net.parameters(), lr=0.02)
    for _ in range(150):
        optimizer.zero_grad()
        loss(net, data).mean().backward()
        optimizer.step()
    advice = advise(net, loss, data, optimizer, batch=4)
    bends = dense(net, loss, data)[1]
    values, vectors = np.linalg.eigh(bends.mean(0))
    vectors = vectors[:, values > 1e-9 * values[-1]]
    bends = vectors.T @ bends @ vectors
    H, one = bends.mean(0), np.eye(len(bends[0]))
    noise = 12 / (4 * 15) * np.mean([np.kron(E, E) for E in bends - H], axis=0)

    def grows(step):
        A = one - step * H
        return np.abs(np.linalg.eigvals(np.kron(A, A) + step**2 * noise)).max() >= 1

    low, high = advice.step_limit_bracket
    assert not grows(low)
    assert grows(high)
    assert high > 1.02 * low
    assert math.isnan(advice.confidence)
    assert not advice.exact


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
        assert cut_of(here) == "model"
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
    with untouched(net, CPU):
        spot = place(net, per_sample, data)
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


def test_data_are_fetched_once():
    """But for a few samples on which the loss is tried."""

    class Counted(TensorDataset):
        fetched = 0

        def __getitem__(self, i):
            self.fetched += 1
            return super().__getitem__(i)

    net, data = mlp(), Counted(*classes(60))
    advise(net, per_sample, data, sgd(net), batch=5)
    assert data.fetched == 60 + 2 * 5
