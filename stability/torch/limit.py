"""The largest stable step of an optimizer as it stands, on a loss that can be asked once more."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from ..lowrank.operator import BadProducts
from ..spectra.ends import top
from .gradients import Left
from .products import Batch, Products

ALIKE = 0.5
"""Least correlation of two steps' losses, sample by sample, for batches that count as the same one."""
TELLING = 16
"""Samples from which a correlation tells two batches apart."""

_AGAIN = "Call report(closure=...) with the loss that every step sees."
_NONE = f"this optimizer has taken no step since it was made or loaded. {_AGAIN}"
DRAWN = (
    "steps see different batches, and what their noise takes from it, rare samples' above all, does not show "
    "in one of them. Ask stability.torch.advise(model, loss, data, optimizer), which looks at all samples."
)


class StepLimit(NamedTuple):
    """A largest stable step between two bounds, on one loss; and why nothing is known where it is not."""

    lower: float
    upper: float
    unknown: str = ""


UNKNOWN = StepLimit(math.nan, math.nan)


class Seen:
    """What is kept of the last two steps: the closure, and every sample's loss."""

    def __init__(self) -> None:
        self.closure: Callable[..., Any] | None = None
        self.losses: list[torch.Tensor | None] = []

    def note(self, batch: Batch | Left) -> None:
        """A step has been taken on this batch."""
        self.closure = batch.closure
        self.losses = [*self.losses[-1:], batch.losses]

    @property
    def drawn(self) -> bool:
        """Whether the steps' losses tell that their batches are drawn anew.

        Of the same samples they move little from one step to the next; of others they have nothing to do with
        one another. Nothing is told by a single step, or by mean losses.
        """
        if len(self.losses) < 2 or any(losses is None for losses in self.losses):
            return False
        before, now = self.losses
        assert before is not None
        assert now is not None
        if before.shape != now.shape:
            return True
        if len(now) < TELLING:
            return False
        together = torch.stack([before, now]).double()
        together = together - together.mean(dim=1, keepdim=True)
        gram = together @ together.T
        return bool(gram[0, 1] < ALIKE * torch.sqrt(gram[0, 0] * gram[1, 1]))


@dataclass(frozen=True)
class Block:
    """A parameter group as far as its linearised step goes.

    Attributes
    ----------
    root : callable
        ``V -> R V`` to the group's parameters, (m, k) to (n, k), with ``P = R R^T``; where it is no symmetric
        root, with its transpose `back` and the width `m`.
    share : float
        The group's learning rate, in units of that which the limit is told in.
    """

    params: Sequence[torch.Tensor]
    names: Sequence[str]
    root: Callable[[torch.Tensor], torch.Tensor]
    momentum: float
    weight_decay: float
    share: float


def largest_step(closure: Callable[..., Any] | None, blocks: Sequence[Block], seed: int) -> StepLimit:
    """The largest stable learning rate of all groups together, on the closure's loss, without batch noise.

    All groups' rates grow in proportion: one group's curvature alone, without what it shares with the others,
    would allow more. With heavy-ball momentum the first mode to be lost turns around at every step, where ``P
    H = 2 (1 + beta) / lr``, also where groups have momenta of their own.
    """
    if closure is None:
        return UNKNOWN._replace(unknown=_NONE)
    device = blocks[0].params[0].device
    try:
        # What is drawn in the closure, as by dropout, does not move the random numbers of the training.
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            loss = Batch(closure).loss(bent=True)
        operator = _Joint(loss, blocks)
        end = top(operator, sum(operator.widths), operator.backend, seed=seed)
    except BadProducts as error:
        return UNKNOWN._replace(unknown=f"its curvature cannot be used here. {error}")
    except Exception as error:
        told = f"{type(error).__name__}: {error}".rstrip(".")
        return UNKNOWN._replace(unknown=f"the loss of the last step cannot be asked again ({told}). {_AGAIN}")
    lower, upper = (2 / value if value > 0 else math.inf for value in (end.above, end.below))
    return StepLimit(lower, upper)


class _Joint:
    """``R^T H R`` for the Hessian of all groups, and the roots of all groups' steps together."""

    def __init__(self, loss: torch.Tensor, blocks: Sequence[Block]):
        self.blocks = blocks
        params, names = ([one for b in blocks for one in getattr(b, part)] for part in ("params", "names"))
        self.products = Products(loss, params, names, partly=True)
        self.backend = self.products.backend
        self.sizes = [sum(p.numel() for p in block.params) for block in blocks]
        pairs = list(zip(blocks, self.sizes, strict=True))
        self.widths = [getattr(block.root, "width", size) for block, size in pairs]
        self.scales = [math.sqrt(block.share / (1 + block.momentum)) for block in blocks]
        self.unit = self.products.unit

    def __call__(self, V: torch.Tensor) -> torch.Tensor:
        """``R^T H R V``."""
        pieces = zip(self.blocks, self.scales, V.split(self.widths), strict=True)
        at = torch.cat([scale * block.root(piece) for block, scale, piece in pieces])
        moved = self.products(at)
        found = []
        for block, scale, part, image in zip(
            self.blocks, self.scales, at.split(self.sizes), moved.split(self.sizes), strict=True
        ):
            whole = image + block.weight_decay * part if block.weight_decay else image
            found.append(scale * getattr(block.root, "back", block.root)(whole))
        return torch.cat(found)
