"""What the adviser says at a place, and what its answers cost beside training."""

from __future__ import annotations

import itertools
import multiprocessing
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from _criterion import told
from _edges import STEPS, described, flatter, held, measured, short
from _noise import AFTER, ANNEALED, curves, drop
from _places import MAKE, Place, in_hand, mlp, mnist, smoothed
from peers_curvature import products
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from stability.torch import Watch, advise

SIZES = {"1e4": (13,), "1e5": (128,), "1e6": (800, 460)}
"""Hidden layers of networks on MNIST, by their number of parameters."""
BATCH = 32
FIRST = 210
"""Steps that hold a watch's first look."""


def asked(place: Place) -> dict[str, Any]:
    """The advice at a place, by the call that a user makes."""
    cell, problem = place.problem.cell, place.problem
    module, optimizer = in_hand(place)
    loader = DataLoader(TensorDataset(problem.X, problem.y), batch_size=cell.batch, shuffle=True)

    def loss(model: nn.Module, batch: Any) -> torch.Tensor:
        return cell.loss(model(batch[0]), batch[1])

    advice = advise(module, loss, loader, optimizer, horizon=AFTER)
    floor = advice.noise_floor
    return {
        "limit": short(advice.step_limit),
        "bracket": short(advice.step_limit_bracket),
        "deterministic": short(advice.deterministic_limit),
        "share": short(advice.share),
        "floor": [short(floor.value), short(floor.error)],
        "sample_share": short(advice.sample_share),
        "without_heaviest": short(advice.limit_without_heaviest),
        "gradients": short(advice.stats["gradients"]),
        "seconds": short(advice.stats["seconds"]),
        "reasons": dict(advice.reasons),
    }


PARTS: dict[str, Callable[[Place, dict[str, Any], int], dict[str, Any]]] = {
    "runs": lambda place, done, share: {**described(place), **measured(place, steps=STEPS // share)},
    "advice": lambda place, done, share: {"advice": asked(place)},
    "flatter": lambda place, done, share: {"flatter": flatter(place, told(done)["leaves"], STEPS // share)},
    "held": lambda place, done, share: {"held": held(place, STEPS // share)},
    "drop": lambda place, done, share: {"drop": drop(place, annealed=ANNEALED // share)},
}
"""Of a cell: the place, what was found before, and by how much to shorten runs."""


# -- what it costs ---------------------------------------------------------------------------------


def cost(quick: bool) -> dict[str, Any]:
    """The processor's seconds, gradients and memory of an answer beside an epoch; a process for each size."""
    found = {}
    context = multiprocessing.get_context("spawn")
    for name in list(SIZES)[: 1 if quick else None]:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            found[name] = pool.submit(_costs, name, quick).result()
    return found


def _costs(name: str, quick: bool) -> dict[str, Any]:
    torch.set_num_threads(1)
    X, y = mnist()
    torch.manual_seed(0)
    model = mlp(784, *SIZES[name], 10, activation=nn.ReLU)
    optimizer = MAKE["Adam"](model.parameters(), lr=1e-3)
    loader = DataLoader(TensorDataset(X, y), batch_size=BATCH, shuffle=True)

    def loss(model: nn.Module, batch: Any) -> torch.Tensor:
        return smoothed(model(batch[0]), batch[1])

    def train(steps: int, watch: Any = None) -> float:
        began, batches = time.process_time(), itertools.chain.from_iterable(itertools.repeat(loader))
        for batch in itertools.islice(batches, steps):
            optimizer.zero_grad()
            loss(model, batch).mean().backward()
            optimizer.step()
            if watch is not None:
                watch.step()
        return time.process_time() - began

    few = mlp(784, 5, 10, activation=nn.ReLU)
    some = DataLoader(TensorDataset(X[:256], y[:256]), batch_size=BATCH)
    advise(few, loss, some, torch.optim.SGD(few.parameters(), lr=0.1))  # loads code, which is no vectors
    train(10)
    epoch, alone = train(len(loader)), _peak()
    began = time.process_time()
    advice = advise(model, loss, loader, optimizer)
    taken, seconds = _peak() - alone, time.process_time() - began
    steps = 400 if quick else 800
    plain = train(steps)
    watch = Watch(model, loss, loader, optimizer)
    train(FIRST, watch)  # its first look is no usual one
    watched = train(steps, watch)
    n = sum(p.numel() for p in model.parameters())
    return {
        "parameters": n,
        "epoch": short(epoch),
        "seconds": short(seconds),
        "gradients": short(advice.stats["gradients"]),
        "samples": advice.samples,
        "plain": short(plain),
        "watched": short(watched),
        "training_megabytes": short(alone),
        "megabytes": short(taken),
        "vectors": short(taken * 1e6 / (4 * n)),
        "modes": len(advice.curvatures),
    }


def _peak() -> float:
    """The largest resident memory of this process so far, in megabytes."""
    try:  # where Linux tells: the other figure starts from that of the process that started this one
        status = Path("/proc/self/status").read_text()
        return float(status.split("VmHWM:")[1].split()[0]) / 1e3
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


STUDIES: dict[str, Callable[[bool, Path], Any]] = {
    "sharpness": lambda quick, folder: curves(quick),
    "cost": lambda quick, folder: cost(quick),
    "products": products,
}
"""By name: quick or not, and the folder of the places."""
