"""LRSFN(model) with nothing tuned beside AdamW, at equal work: `python benchmarks/untuned.py` (minutes).

Work is counted in passes over single samples: a gradient one, a Hessian product two, a look at a step half of
one. AdamW's rate falls along a cosine, LRSFN's multiplier as the root of what is left. The best of AdamW's
rates is chosen by seed 0 of the same loss, which favours AdamW. Reported: medians over seeds.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from stability.torch import LRSFN

RATES = (1e-3, 3e-3, 1e-2, 3e-2)
SEEDS = range(3)


class Task(NamedTuple):
    """A model, its losses of rows, rows to train on and to judge by, samples in a batch, and passes."""

    model: nn.Module
    losses: Callable[[torch.Tensor], torch.Tensor]
    train: int
    judged: torch.Tensor
    batch: int
    epochs: int


def factorization(seed: int) -> Task:
    """Held-out entries of a 40 x 30 matrix of rank 4, by factors of rank 6."""
    g = torch.Generator().manual_seed(5)
    scales = torch.diag(torch.tensor([2.0, 1.0, 0.5, 0.2]))
    A = torch.randn(40, 4, generator=g) @ scales @ torch.randn(4, 30, generator=g)
    order = torch.randperm(1200, generator=g)
    i, j = order // 30, order % 30
    torch.manual_seed(seed)
    model = nn.ParameterList([0.1 * torch.randn(40, 6), 0.1 * torch.randn(30, 6)])
    u, v = model
    losses = lambda rows: ((u[i[rows]] * v[j[rows]]).sum(1) - A[i[rows], j[rows]]) ** 2  # noqa: E731
    return Task(model, losses, 1000, torch.arange(1000, 1200), 50, 60)


def saddle(seed: int) -> Task:
    """A deep linear network that starts near the saddle at zero."""
    g = torch.Generator().manual_seed(2)
    X, W = torch.randn(512, 10, generator=g), torch.randn(10, 10, generator=g) / 3
    torch.manual_seed(seed)
    model = nn.Sequential(*(nn.Linear(10, 10, bias=False) for _ in range(3)))
    for layer in model:
        nn.init.normal_(layer.weight, std=0.03)
    return Task(model, lambda r: ((model(X[r]) - X[r] @ W) ** 2).mean(1), 512, torch.arange(512), 32, 60)


class Sine(nn.Module):
    """One layer of a SIREN."""

    def __init__(self, inputs: int, outputs: int, bound: float):
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        nn.init.uniform_(self.linear.weight, -bound, bound)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(30 * self.linear(x))


def siren(seed: int) -> Task:
    """A smooth picture of 32 x 32 points."""
    line = torch.linspace(-1, 1, 32)
    x = torch.cartesian_prod(line, line)
    y = (torch.sin(5 * x[:, 0] * x[:, 1]) + torch.cos(9 * x[:, 0])) / 2
    torch.manual_seed(seed)
    model = nn.Sequential(Sine(2, 24, 0.5), Sine(24, 24, 0.5 / 30), nn.Linear(24, 1))
    return Task(model, lambda r: (model(x[r])[:, 0] - y[r]) ** 2, 1024, torch.arange(1024), 64, 60)


def _digits() -> tuple[torch.Tensor, torch.Tensor]:
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    order = torch.randperm(len(X), generator=torch.Generator().manual_seed(3))
    return torch.tensor(X / 16, dtype=torch.float32)[order], torch.tensor(y)[order]


def classifier(seed: int) -> Task:
    """Test cross-entropy of 64-24-10 on digits."""
    X, y = _digits()
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 24), nn.Tanh(), nn.Linear(24, 10))
    losses = lambda r: F.cross_entropy(model(X[r]), y[r], reduction="none")  # noqa: E731
    return Task(model, losses, 1300, torch.arange(1300, 1797), 64, 20)


def autoencoder(seed: int) -> Task:
    """Test error of 64-24-6-24-64 on digits."""
    X, _ = _digits()
    torch.manual_seed(seed)
    sizes = ((64, 24), (24, 6), (6, 24), (24, 64))
    first, second, third, last = (nn.Linear(*size) for size in sizes)
    model = nn.Sequential(first, nn.Tanh(), second, third, nn.Tanh(), last)
    return Task(model, lambda r: ((model(X[r]) - X[r]) ** 2).mean(1), 1300, torch.arange(1300, 1797), 64, 40)


TASKS = (factorization, saddle, siren, classifier, autoencoder)


def batches(task: Task, seed: int):
    """Rows of shuffled epochs, without end."""
    g = torch.Generator().manual_seed(100 + seed)
    while True:
        parts = torch.randperm(task.train, generator=g).split(task.batch)
        yield from (part for part in parts if len(part) == task.batch)


def judged(task: Task) -> float:
    with torch.no_grad():
        return float(task.losses(task.judged).mean())


def adamw(make: Callable[[int], Task], seed: int, rate: float) -> float:
    """The final loss of AdamW."""
    task = make(seed)
    steps, rows = task.epochs * (task.train // task.batch), batches(task, seed)
    opt = torch.optim.AdamW(task.model.parameters(), lr=rate)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(opt, steps)
    for _ in range(steps):
        opt.zero_grad()
        task.losses(next(rows)).mean().backward()
        opt.step()
        falling.step()
    return judged(task)


def untuned(make: Callable[[int], Task], seed: int, falling: bool) -> float:
    """The final loss of LRSFN(model), after as much work."""
    task = make(seed)
    total, rows, work, looks = task.epochs * (task.train // task.batch), batches(task, seed), 0.0, 0
    opt = LRSFN(task.model)
    for steps in range(1, total + 1):
        if falling:
            opt.param_groups[0]["lr"] = math.sqrt(1 - work / total)
        part = next(rows)
        calls = []

        def closure(rows, part=part, calls=calls):
            calls.append(isinstance(rows, slice))
            return task.losses(part[rows])

        opt.step(closure)
        looks += sum(calls) - 1  # the whole batch is asked once for the step, and again for a look
        work = steps + 0.5 * looks + 2 * opt.state[opt.param_groups[0]["params"][0]]["products"]
        if work >= total:
            break
    return judged(task)


def main() -> None:
    torch.set_num_threads(1)
    chosen = [task for task in TASKS if not sys.argv[1:] or task.__name__ in sys.argv[1:]]
    print(
        "| task | AdamW, 0.001 | AdamW, best of four rates | LRSFN(model), falling | LRSFN(model), constant |"
    )
    print("|---|--:|--:|--:|--:|")
    for make in chosen:
        first = {rate: adamw(make, 0, rate) for rate in RATES}
        best = min(first, key=first.get)
        columns = [
            [first[rate], *(adamw(make, seed, rate) for seed in SEEDS if seed)] for rate in (RATES[0], best)
        ]
        columns += [[untuned(make, seed, falling) for seed in SEEDS] for falling in (True, False)]
        told = [f"{statistics.median(column):.2g}" for column in columns]
        told[1] += f" ({best:g})"
        print(f"| {make.__name__} | {' | '.join(told)} |", flush=True)


if __name__ == "__main__":
    main()
