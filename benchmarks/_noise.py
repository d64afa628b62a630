"""What noise costs, by experiment, and how sharp batches find a network while it trains."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from _edges import short
from _places import Cell, Place, Problem, Runs, digits, leading, mlp, squares
from torch import nn
from torch.func import grad, jvp, vmap
from torch.nn import functional as F

ANNEALED = 1000
"""Steps in which the learning rate falls to zero: as much movement as half of them at the full one."""
AFTER = ANNEALED // 2
WINDOW, EVERY = 150, 10
"""The level at the full rate is the mean within so many steps of half of them, of every tenth."""


def drop(place: Place, seeds: range = range(3), annealed: int = ANNEALED) -> dict[str, float]:
    """How far the loss of all samples falls when the step is annealed to zero, and its standard error.

    Runs that go on as they were are compared after as much movement, so that what training gains meanwhile is
    in both.
    """
    lr = [place.problem.cell.lr] * len(seeds)

    runs, levels = Runs(place.problem, lr, list(seeds), place.weights, place.state), []
    for step in range(annealed // 2 + WINDOW):
        runs.step()
        if step >= annealed // 2 - WINDOW and step % EVERY == 0:
            levels.append([place.problem.total(w) for w in runs.weights])
    high = np.mean(levels, axis=0)

    runs = Runs(place.problem, lr, list(seeds), place.weights, place.state)
    for step in range(annealed):
        runs.step(1 - step / annealed)
    low = np.array([place.problem.total(w) for w in runs.weights])
    error = np.hypot(high.std(ddof=1), low.std(ddof=1)) / len(seeds) ** 0.5
    return {
        "high": short(high.mean()),
        "low": short(low.mean()),
        "drop": short(high.mean() - low.mean()),
        "error": short(error),
    }


# -- batch sharpness while training ----------------------------------------------------------------

CURVES: tuple[tuple[str, int, float, str], ...] = (
    ("SGD", 32, 0.3, "2 / α"),
    ("momentum", 512, 0.2, "2 (1 + β) / α"),
    ("momentum", 8, 0.03, "2 (1 − β) / α"),
)
"""Optimizer, batch, step, and where batch sharpness is said to settle (Andreyev and Beneventano 2024; with
momentum Andreyev et al. 2026).
"""
LENGTH, LOOKS, BATCHES = 4000, 20, 64


def curves(quick: bool = False) -> list[dict[str, Any]]:
    """Batch sharpness and the Hessian's largest eigenvalue along three trainings of one network."""
    return [
        _curve(*one, steps=LENGTH // 8 if quick else LENGTH, looks=5 if quick else LOOKS) for one in CURVES
    ]


def onehot() -> tuple[torch.Tensor, torch.Tensor]:
    """Digits, with their labels as vectors."""
    X, y = digits()
    return X, F.one_hot(y, 10).float()


def _curve(optimizer: str, batch: int, lr: float, label: str, *, steps: int, looks: int) -> dict[str, Any]:
    network = lambda: mlp(64, 64, 64, 10, activation=nn.Tanh)  # noqa: E731
    problem = Problem(Cell("digits", onehot, squares, network, optimizer, batch, lr))
    runs, found = Runs(problem, [lr], [0]), {"steps": [], "seen": [], "error": [], "full": []}
    generator = torch.Generator().manual_seed(0)
    for step in range(steps + 1):
        if step % (steps // looks) == 0:
            w = runs.weights[0]
            value, error = batch_sharpness(problem, w, generator)
            full = float(leading(problem, w, torch.ones_like(w), 1)[0][0])
            for name, one in (("steps", step), ("seen", value), ("error", error), ("full", full)):
                found[name].append(short(one))
        runs.step()
    beta = 0.9 if optimizer == "momentum" else 0.0
    plateaus = {
        "2 / α": 2 / lr,
        "2 (1 + β) / α": 2 * (1 + beta) / lr,
        "2 (1 − β) / α": 2 * (1 - beta) / lr,
    }
    return {
        "optimizer": optimizer,
        "batch": batch,
        "lr": lr,
        "plateau": label,
        "at": short(plateaus[label]),
        **found,
    }


def batch_sharpness(problem: Problem, w: torch.Tensor, generator: torch.Generator) -> tuple[float, float]:
    """``E[g H g] / E[g g]`` over batches with their own gradients and Hessians, and its standard error."""
    batch = problem.cell.batch
    rows = torch.stack([torch.randperm(problem.samples, generator=generator)[:batch] for _ in range(BATCHES)])

    def one(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        slope = grad(problem.mean)
        g = slope(w, x, y)
        return g @ jvp(lambda u: slope(u, x, y), (w,), (g,))[1], g @ g

    bent, square = vmap(one)(problem.X[rows], problem.y[rows])
    value = float(bent.sum() / square.sum())
    rest = (bent - value * square) / square.mean()
    return value, float(rest.std()) / BATCHES**0.5
