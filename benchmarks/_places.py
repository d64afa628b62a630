"""Small networks and heavy-tailed tables, trained to a plateau: the places that the adviser looks at."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import nn
from torch.func import functional_call, grad, grad_and_value, jvp, vmap
from torch.nn import functional as F

from stability import datasets

BLOCK, FLAT, MOST = 1000, 0.97, 5_000
"""Training goes on until the mean loss of a block of so many steps is no less than this share of the last
block's, or so many steps were taken.
"""
MODES, SHARE = 10, 0.1
"""Leading modes: at most so many, with at least this share of the largest curvature."""
BETA = {"SGD": 0.0, "momentum": 0.9, "Adam": 0.9}
MAKE: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": torch.optim.SGD,
    "momentum": functools.partial(torch.optim.SGD, momentum=BETA["momentum"]),
    "Adam": torch.optim.Adam,
}


# -- data and losses -------------------------------------------------------------------------------


def smoothed(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each sample with labels smoothed by a tenth, which has a minimum."""
    return F.cross_entropy(outputs, targets, reduction="none", label_smoothing=0.1)


def letters(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each text, the mean over its letters."""
    return F.cross_entropy(outputs.transpose(1, 2), targets, reduction="none").mean(1)


def squares(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Half the squared error of each sample, summed over its outputs."""
    return 0.5 * ((outputs - targets) ** 2).flatten(1).sum(1)


def logistic(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Logistic loss of each sample."""
    return F.binary_cross_entropy_with_logits(outputs, targets, reduction="none").flatten(1).sum(1)


@functools.cache
def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """1,797 images of 8 by 8."""
    data = datasets.digits()
    return torch.tensor(data.X, dtype=torch.float32), torch.tensor(data.y)


@functools.cache
def mnist() -> tuple[torch.Tensor, torch.Tensor]:
    """5,000 images of 28 by 28."""
    data = datasets.mnist()
    return torch.tensor(data.X, dtype=torch.float32), torch.tensor(data.y)


@functools.cache
def small_mnist() -> tuple[torch.Tensor, torch.Tensor]:
    """Every second of them, 14 by 14."""
    X, y = mnist()
    return F.avg_pool2d(X.reshape(-1, 1, 28, 28), 2).flatten(1)[::2], y[::2]


@functools.cache
def reproduced() -> tuple[torch.Tensor, torch.Tensor]:
    """Digits, to be reproduced."""
    return digits()[0], digits()[0]


LENGTH = 16
LETTERS = " .abcdefghijklmnopqrstuvwxyz"


@functools.cache
def text() -> tuple[torch.Tensor, torch.Tensor]:
    """2,000 pieces of generated sentences; the letter after each letter is to be found."""
    rng = np.random.default_rng(0)
    words = (
        ["the", "a", "one", "my", "this"],
        ["small", "red", "old", "happy", "wise", "young"],
        ["cat", "dog", "bird", "child", "teacher", "sailor", "river"],
        ["sees", "likes", "follows", "hears", "finds", "remembers"],
    )
    order = (0, 1, 2, 3, 0, 2)
    sentences = [" ".join(rng.choice(words[part]) for part in order) + ". " for _ in range(2_000)]
    line = np.array([LETTERS.index(letter) for letter in "".join(sentences)])
    starts = rng.choice(len(line) - LENGTH - 1, 2_000, replace=False)
    pieces = torch.tensor(line[starts[:, None] + np.arange(LENGTH + 1)])
    return pieces[:, :-1], pieces[:, 1:]


@functools.cache
def diabetes() -> tuple[torch.Tensor, torch.Tensor]:
    """442 samples of 285 standardised cubic features, and the standardised target."""
    from sklearn.datasets import load_diabetes
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler

    X, y = load_diabetes(return_X_y=True)
    cubic = PolynomialFeatures(3, include_bias=False).fit_transform(StandardScaler().fit_transform(X))
    X = StandardScaler().fit_transform(cubic)
    return torch.tensor(X), torch.tensor((y - y.mean()) / y.std())[:, None]


@functools.cache
def gaussian() -> tuple[torch.Tensor, torch.Tensor]:
    """4,000 Gaussian samples with 20 variances falling like 1/i, and a noisy linear target."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((4_000, 20)) / np.sqrt(np.arange(1, 21))
    y = X @ rng.standard_normal(20) + 0.3 * rng.standard_normal(len(X))
    return torch.tensor(X), torch.tensor(y)[:, None]


RARE = 0.005


@functools.cache
def rare() -> tuple[torch.Tensor, torch.Tensor]:
    """4,000 samples of 200 standardised columns, each of which 0.5 % have, and a noisy linear target."""
    rng = np.random.default_rng(0)
    X = (rng.random((4_000, 200)) < RARE) - RARE
    X = X / math.sqrt(RARE * (1 - RARE))
    y = X @ rng.normal(0, 0.1, X.shape[1]) + rng.normal(0, 0.5, len(X))
    return torch.tensor(X), torch.tensor(y)[:, None]


@functools.cache
def rare_labels() -> tuple[torch.Tensor, torch.Tensor]:
    """The same columns; the target's sign is to be found."""
    X, y = rare()
    return X, (y > 0).double()


# -- networks --------------------------------------------------------------------------------------


def mlp(*sizes: int, activation: type[nn.Module]) -> nn.Module:
    """Dense layers with an activation between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), activation()]
    return nn.Sequential(*layers[:-1])


def cnn(side: int, width: int, activation: type[nn.Module]) -> nn.Module:
    """Two convolutions, each with a pooling, and a dense layer."""
    return nn.Sequential(
        nn.Unflatten(1, (1, side, side)),
        nn.Conv2d(1, width, 3, padding=1),
        activation(),
        nn.AvgPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1),
        activation(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(2 * width * (side // 4) ** 2, 10),
    )


class Transformer(nn.Module):
    """One block of causal attention with two heads, and one of dense layers, on letters."""

    def __init__(self, width: int = 16, heads: int = 2):
        super().__init__()
        self.heads, size = heads, len(LETTERS)
        self.letter = nn.Embedding(size, width)
        self.place = nn.Parameter(0.1 * torch.randn(LENGTH, width))
        self.mix, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dense = mlp(width, 4 * width, width, activation=nn.GELU)
        self.head = nn.Linear(width, size)
        self.register_buffer("past", torch.tril(torch.ones(LENGTH, LENGTH, dtype=torch.bool)))

    def forward(self, pieces: torch.Tensor) -> torch.Tensor:
        x = self.letter(pieces) + self.place
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.mix(self.first(x)).chunk(3, dim=-1)
        )
        scores = (q @ k.transpose(-1, -2)) / math.sqrt(q.shape[-1])
        seen = torch.softmax(scores.masked_fill(~self.past, -1e9), -1) @ v
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        return self.head(x + self.dense(self.second(x)))


# -- cells -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """A network on data, with an optimizer and its step, at a batch size; steps were not searched for.

    `kind` is "network", "table" (linear, with heavy tails), or "check": linear, to try the criterion on.
    """

    name: str
    data: Callable[[], tuple[torch.Tensor, torch.Tensor]]
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    network: Callable[[], nn.Module]
    optimizer: str
    batch: int
    lr: float
    kind: str = "network"

    @property
    def id(self) -> str:
        return f"{self.name} {self.optimizer} {self.batch}"


def _three(
    name: str,
    data: Callable,
    loss: Callable,
    network: Callable,
    batches: tuple[int, int, int],
    scale: float = 1.0,
) -> Iterator[Cell]:
    """A network with each optimizer at its usual step; of losses that are sums, at a share of it."""
    steps = {"SGD": 0.1 * scale, "momentum": 0.02 * scale, "Adam": 1e-3}
    for (optimizer, lr), batch in zip(steps.items(), batches, strict=True):
        yield Cell(name, data, loss, network, optimizer, batch, lr)


CELLS = (
    *_three("digits-mlp", digits, smoothed, lambda: mlp(64, 32, 10, activation=nn.Tanh), (32, 128, 8)),
    *_three("digits-cnn", digits, smoothed, lambda: cnn(8, 8, nn.ReLU), (8, 32, 128)),
    *_three("mnist-mlp", mnist, smoothed, lambda: mlp(784, 128, 10, activation=nn.ReLU), (128, 8, 32)),
    *_three("mnist-cnn", small_mnist, smoothed, lambda: cnn(14, 4, nn.GELU), (32, 128, 8)),
    *_three(
        "digits-autoencoder",
        reproduced,
        squares,
        lambda: mlp(64, 24, 8, 24, 64, activation=nn.Tanh),
        (8, 32, 128),
        0.2,
    ),
    *_three("text-transformer", text, letters, Transformer, (32, 8, 128)),
    Cell("cubic-diabetes", diabetes, squares, lambda: nn.Linear(285, 1), "SGD", 32, 0.004, "table"),
    Cell("cubic-diabetes", diabetes, squares, lambda: nn.Linear(285, 1), "momentum", 128, 0.002, "table"),
    Cell("rare-columns", rare, squares, lambda: nn.Linear(200, 1), "SGD", 32, 0.02, "table"),
    Cell("rare-columns", rare, squares, lambda: nn.Linear(200, 1), "Adam", 8, 1e-3, "table"),
    Cell("rare-logistic", rare_labels, logistic, lambda: nn.Linear(200, 1), "SGD", 32, 0.1, "table"),
    Cell("gaussian", gaussian, squares, lambda: nn.Linear(20, 1), "SGD", 4, 0.1, "check"),
    Cell("gaussian", gaussian, squares, lambda: nn.Linear(20, 1), "momentum", 32, 0.02, "check"),
)
QUICK = ("digits-mlp SGD 32", "digits-mlp Adam 8", "cubic-diabetes SGD 32")


class Problem:
    """A cell's data and network, with the parameters as one vector (n,).

    Attributes
    ----------
    X, y : arrays (N, ...)
    start : array (n,)
    """

    def __init__(self, cell: Cell):
        self.cell, (self.X, self.y) = cell, cell.data()
        torch.manual_seed(0)
        self.module = cell.network().to(self.X.dtype if self.X.is_floating_point() else torch.float32)
        self.shapes = {name: p.shape for name, p in self.module.named_parameters()}
        self.start = torch.cat([p.detach().flatten() for p in self.module.parameters()])
        self.size, self.samples = len(self.start), len(self.X)

    def parts(self, w: torch.Tensor) -> dict[str, torch.Tensor]:
        """The vector's pieces, by the parameters' names."""
        pieces = w.split([shape.numel() for shape in self.shapes.values()])
        return {
            name: piece.view(shape) for (name, shape), piece in zip(self.shapes.items(), pieces, strict=True)
        }

    def losses(self, w: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Of every sample."""
        return self.cell.loss(functional_call(self.module, self.parts(w), (x,)), y)

    def mean(self, w: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Their mean."""
        return self.losses(w, x, y).mean()

    def total(self, w: torch.Tensor) -> float:
        """The mean loss of all samples."""
        with torch.no_grad():
            return float(self.mean(w, self.X, self.y))

    def product(self, w: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """The Hessian of the mean loss of all samples, times v."""
        return jvp(grad(lambda u: self.mean(u, self.X, self.y)), (w,), (v,))[1]

    def slopes(self, w: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Every sample's derivative along v."""
        return jvp(lambda u: self.losses(u, self.X, self.y), (w,), (v,))[1]

    def curvatures(self, w: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Every sample's second derivative along v."""
        return jvp(lambda u: self.slopes(u, v), (w,), (v,))[1]


# -- runs side by side -----------------------------------------------------------------------------


class Runs:
    """Runs of PyTorch's own optimizer from one start, each with its step and its batches, side by side.

    Parameters
    ----------
    problem : Problem
    lrs, seeds : sequences (R,)
        Runs of equal seeds see the same batches.
    weights : array (n,), optional
    state : dict, optional
        Of the optimizer, for one parameter that is the whole vector.
    hold : bool
        Whether Adam's second moments stay as they are.
    """

    def __init__(
        self,
        problem: Problem,
        lrs: list[float],
        seeds: list[int],
        weights: torch.Tensor | None = None,
        state: dict[str, torch.Tensor] | None = None,
        *,
        hold: bool = False,
    ):
        self.problem, self.lrs = problem, lrs
        start = problem.start if weights is None else weights
        self.runs = [nn.Parameter(start.clone()) for _ in lrs]
        groups = [{"params": [run], "lr": lr} for run, lr in zip(self.runs, lrs, strict=True)]
        self.optimizer = MAKE[problem.cell.optimizer](groups)
        for run in self.runs if state else []:
            self.optimizer.state[run] = {name: value.clone() for name, value in state.items()}
            if hold:
                self._hold(self.optimizer.state[run])
        kinds = sorted(set(seeds))
        self.lane = torch.tensor([kinds.index(seed) for seed in seeds])
        self.generators = [torch.Generator().manual_seed(1000 + seed) for seed in kinds]
        self.together = vmap(grad_and_value(problem.mean))

    def _hold(self, state: dict[str, torch.Tensor]) -> None:
        """As good as no decay, long after the start, when no correction is made for it."""
        state["exp_avg_sq"] /= 1 - 0.999 ** float(state["step"])
        state["step"].fill_(1e12)
        for group in self.optimizer.param_groups:
            group["betas"] = (group["betas"][0], 1 - 1e-9)

    @property
    def weights(self) -> torch.Tensor:
        """All runs' (R, n)."""
        return torch.stack([run.detach() for run in self.runs])

    def state(self, run: int = 0) -> dict[str, torch.Tensor]:
        """The optimizer's, of one run."""
        return {name: value.clone() for name, value in self.optimizer.state[self.runs[run]].items()}

    def slopes(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Gradients (R, n) and losses (R,) of the runs' batches."""
        if len(self.runs) > 1:
            return self.together(self.weights, x, y)
        loss = self.problem.mean(self.runs[0], x[0], y[0])  # a single run is faster without vmap
        return torch.autograd.grad(loss, self.runs[0])[0][None], loss.detach()[None]

    def step(self, share: float = 1.0) -> torch.Tensor:
        """One step of all runs, at a share of their learning rates; their batches' losses (R,)."""
        problem, batch = self.problem, self.problem.cell.batch
        rows = torch.stack([torch.randperm(problem.samples, generator=g)[:batch] for g in self.generators])[
            self.lane
        ]
        slopes, values = self.slopes(problem.X[rows], problem.y[rows])
        for lr, group, run, slope in zip(
            self.lrs, self.optimizer.param_groups, self.runs, slopes, strict=True
        ):
            run.grad, group["lr"] = slope, lr * share
        self.optimizer.step()
        return values.detach()


# -- places ----------------------------------------------------------------------------------------


@dataclass
class Place:
    """Where training has come to rest, and the curvature there.

    Attributes
    ----------
    weights : array (n,)
    state : dict
        The optimizer's.
    trained : int
        Steps.
    change : float
        Mean loss of the last block over the block before.
    root : array (n,)
        Of the optimizer's metric, ``P = diag(root^2)``.
    values, vectors : arrays (k,), (n, k)
        Leading eigenpairs of ``P^(1/2) H P^(1/2)``.
    """

    problem: Problem
    weights: torch.Tensor
    state: dict[str, torch.Tensor]
    trained: int
    change: float
    root: torch.Tensor
    values: np.ndarray
    vectors: torch.Tensor


def trained(cell: Cell, most: int = MOST) -> Place:
    """Train until the loss is flat, and look at the curvature there."""
    runs, blocks = Runs(Problem(cell), [cell.lr], [0]), [math.inf]
    while len(blocks) * BLOCK <= most:
        blocks.append(float(torch.stack([runs.step()[0] for _ in range(BLOCK)]).mean()))
        if blocks[-1] >= FLAT * blocks[-2]:
            break
    change = blocks[-1] / blocks[-2] if len(blocks) > 2 else 1.0
    return looked_at(runs.problem, runs.weights[0], runs.state(), BLOCK * (len(blocks) - 1), change)


def looked_at(
    problem: Problem, weights: torch.Tensor, state: dict[str, torch.Tensor], steps: int, change: float
) -> Place:
    """The place where a run stands."""
    root = rooted(weights, state)
    values, vectors = leading(problem, weights, root, MODES)
    kept = values >= SHARE * values[0]
    return Place(problem, weights, state, steps, change, root, values[kept], vectors[:, torch.tensor(kept)])


def kept(cell: Cell, folder: Path | None, most: int = MOST) -> Place:
    """The cell's place from a file in a folder, or trained and kept there."""
    path = None if folder is None else folder / f"{cell.id.replace(' ', '-')}.pt"
    if path is not None and path.exists():
        found = torch.load(path, weights_only=True)
        return looked_at(Problem(cell), found["weights"], found["state"], found["trained"], found["change"])
    place = trained(cell, most)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({name: getattr(place, name) for name in ("weights", "state", "trained", "change")}, path)
    return place


def in_hand(place: Place) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The network and its optimizer as a user has them at a place."""
    problem, cell = place.problem, place.problem.cell
    module = problem.module
    with torch.no_grad():
        for p, value in zip(module.parameters(), problem.parts(place.weights).values(), strict=True):
            p.copy_(value)
    optimizer = MAKE[cell.optimizer](module.parameters(), lr=cell.lr)
    for name, value in place.state.items():
        pieces = problem.parts(value).values() if value.shape == place.weights.shape else None
        for i, p in enumerate(module.parameters()):
            optimizer.state[p][name] = (value if pieces is None else list(pieces)[i]).clone()
    return module, optimizer


def rooted(weights: torch.Tensor, state: dict[str, torch.Tensor]) -> torch.Tensor:
    """The root (n,) of the optimizer's metric as it stands: Adam's, or ones."""
    if "exp_avg_sq" not in state:
        return torch.ones_like(weights)
    step = float(state["step"])
    scale = (state["exp_avg_sq"] / (1 - 0.999**step)).sqrt() + 1e-8
    return ((1 - 0.9**step) * scale).rsqrt()


def leading(
    problem: Problem, w: torch.Tensor, root: torch.Tensor, count: int
) -> tuple[np.ndarray, torch.Tensor]:
    """The largest eigenvalues of the preconditioned Hessian, falling, and their vectors, by SciPy."""

    def product(v: np.ndarray) -> np.ndarray:
        v = torch.as_tensor(v.ravel(), dtype=w.dtype)
        return (root * problem.product(w, root * v)).numpy().astype(float)

    operator = LinearOperator((problem.size,) * 2, matvec=product, dtype=float)
    start = np.random.default_rng(0).standard_normal(problem.size)
    values, vectors = eigsh(operator, count, which="LA", tol=1e-3, v0=start)
    return values[::-1], torch.tensor(vectors[:, ::-1].copy(), dtype=w.dtype)


def deterministic(cell: Cell, curvature: float) -> float:
    """The limit without batch noise: ``2 (1 + beta) / curvature``, of an average over ``1 - beta``."""
    return 2 * (1 + BETA[cell.optimizer]) / (curvature * weight(cell))


def weight(cell: Cell) -> float:
    """Of a new gradient in the optimizer's buffer."""
    return 1 - BETA[cell.optimizer] if cell.optimizer == "Adam" else 1.0


def spread(problem: Problem) -> float:
    """Variance of a batch's mean over a sample's, batches drawn without replacement."""
    N, b = problem.samples, problem.cell.batch
    return (N - b) / (b * (N - 1))


def expected(place: Place) -> float:
    """Where the edge is to be looked for: the mean-square limit of the leading mode by itself."""
    problem, cell = place.problem, place.problem.cell
    quotients = problem.curvatures(place.weights, place.root * place.vectors[:, 0])
    h, s2, beta = float(quotients.mean()), float(quotients.var()) * spread(problem), BETA[cell.optimizer]
    return 2 * (1 - beta**2) * h / ((1 + beta) * s2 + (1 - beta) * h**2) / weight(cell)
