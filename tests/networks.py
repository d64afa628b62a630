"""Networks, data, optimizers and dense derivatives that the tests of `stability.torch` share."""

import copy
import random

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from stability._streams import stream  # noqa: E402
from stability.torch.batches import look  # noqa: E402
from stability.torch.place import NetworkPlace  # noqa: E402
from stability.torch.whole import Whole  # noqa: E402

OPT = torch.optim


@pytest.fixture(autouse=True)
def seeded():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


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


def cut_of(place):
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


def stepped(make, steps=3, net=None, data=None):
    net, data = net or mlp(), data or classes()
    optimizer = make(net.parameters())
    for _ in range(steps):
        optimizer.zero_grad()
        per_sample(net, data).mean().backward()
        optimizer.step()
    return net, data, optimizer


class Unheard(OPT.Optimizer):
    """``w -= lr * g / (s + eps)`` with a buffer: nothing that anybody knows."""

    def __init__(self, params):
        super().__init__(params, {"lr": 0.1, "eps": 1e-3})

    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["s"] = p.grad.abs()


def sgd(net, **options):
    return OPT.SGD(net.parameters(), lr=0.1, **options)


class Once(torch.autograd.Function):
    """A square that may be differentiated once."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, slope):
        return 2 * ctx.saved_tensors[0] * slope
