"""Hessian products for each correct leading eigenvalue, beside curvlinops and hessian-eigenthings.

A leading eigenvalue is correct if it and all larger ones are within 1 % of those of a long run. Ours are the
adviser's Ritz values, by default and with a larger budget, for the products of its Lanczos run and for all
curvature products of the answer. SciPy's `eigsh` asks their operators for five to 1 %; hessian-eigenthings'
own Lanczos method is asked for five, and for ten, with its defaults.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _places import CELLS, Place, in_hand, kept, leading
from scipy.sparse.linalg import LinearOperator, eigsh
from torch.utils.data import DataLoader, TensorDataset

from stability.torch import advise

CORRECT, WANTED, LONG, SAMPLES = 0.01, 5, 20, 2000
LARGE = 50
"""Of the adviser's budget, in products."""
PEERS = ("curvlinops", "hessian_eigenthings")


def products(quick: bool, folder: Path) -> dict[str, Any]:
    """Of each network that SGD trained: products and correct eigenvalues by contender."""
    absent = [name for name in PEERS if find_spec(name) is None]
    found: dict[str, Any] = {"absent": absent, "networks": {}}
    asked = [cell for cell in CELLS if cell.kind == "network" and cell.optimizer == "SGD"]
    for cell in asked[: 1 if quick else None]:
        place = kept(cell, None, 1000) if quick else kept(cell, folder)
        problem = place.problem
        problem.X, problem.y = problem.X[:SAMPLES], problem.y[:SAMPLES]
        problem.samples = len(problem.X)
        truth, _ = leading(problem, place.weights, torch.ones_like(place.weights), LONG)
        found["networks"][cell.name] = {
            name: {"products": count, "correct": correct(values, truth)}
            for name, (count, values) in _contenders(place, absent).items()
        }
    return found


class Mean(torch.nn.Module):
    """A cell's mean loss, as curvlinops wants it."""

    reduction = "mean"

    def __init__(self, loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]):
        super().__init__()
        self.loss = loss

    def forward(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return self.loss(outputs, targets).mean()


def correct(values: np.ndarray, truth: np.ndarray) -> int:
    """How many of the leading values are within 1 %, up to the first that is not."""
    count = min(len(values), len(truth))
    off = np.abs(np.sort(values)[::-1][:count] - truth[:count]) > CORRECT * np.abs(truth[:count])
    return int(np.argmax(off)) if off.any() else count


def _contenders(place: Place, absent: list[str]) -> dict[str, tuple[int, np.ndarray]]:
    module, optimizer = in_hand(place)
    cell, problem = place.problem.cell, place.problem
    data = [(problem.X, problem.y)]

    def loss(model: torch.nn.Module, batch: Any) -> torch.Tensor:
        return cell.loss(model(batch[0]), batch[1])

    def mean(model: torch.nn.Module, batch: Any) -> torch.Tensor:
        return loss(model, batch).mean()

    loader = DataLoader(TensorDataset(*data[0]), batch_size=cell.batch)
    found = {}
    for name, options in (("advise", {}), (f"advise({LARGE})", {"budget": LARGE})):
        advice = advise(module, loss, loader, optimizer, **options)
        values = np.asarray(advice.curvatures)
        found[f"{name}, Lanczos"] = len(values), values
        found[f"{name}, all"] = round(advice.stats["hessian_products"]), values
    if "curvlinops" not in absent:
        from curvlinops import HessianLinearOperator

        operator = HessianLinearOperator(
            module,
            Mean(cell.loss),
            list(module.parameters()),
            data,
            check_deterministic=False,
            num_data=problem.samples,
        )
        found["curvlinops eigsh"] = _eigsh(lambda v: operator @ v, problem.size)
    if "hessian_eigenthings" not in absent:
        import hessian_eigenthings as peer

        theirs = peer.HessianOperator(module, data, mean)
        found["hessian-eigenthings eigsh"] = _eigsh(theirs.matvec, problem.size)
        for wanted in (WANTED, 2 * WANTED):
            result = peer.lanczos(theirs, k=wanted, which="LA", seed=0)
            values = result.eigenvalues.numpy()
            found[f"hessian-eigenthings lanczos({wanted})"] = int(result.iterations), values
    return found


def _eigsh(product: Callable[[torch.Tensor], torch.Tensor], n: int) -> tuple[int, np.ndarray]:
    count = 0

    def matvec(v: np.ndarray) -> np.ndarray:
        nonlocal count
        count += 1
        return product(torch.as_tensor(v.ravel(), dtype=torch.float32)).detach().numpy().astype(float)

    start = np.random.default_rng(0).standard_normal(n)
    operator = LinearOperator((n, n), matvec=matvec, dtype=float)
    values, _ = eigsh(operator, WANTED, which="LA", tol=CORRECT, v0=start)
    return count, values
