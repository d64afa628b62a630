"""Gradients that a backward pass has left in the parameters, and what is told of them and of losses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from .. import _check
from .products import Products

PATIENCE = 3
"""Steps in a row that are not taken before that is told; the first one is where none was taken yet."""
IDLE = 20
"""Steps that need nothing of a parameter before that is told, or as many as lie between two refreshes."""
LOST = 1e3
"""Times the first losses: a loss beyond that is told."""
FIRST = 10
"""Steps whose losses are the first ones."""

_NO_GRAPH = (
    "the gradients have no graph to find curvature from. Call loss.backward(create_graph=opt.due) before "
    "step(), or step(closure)"
)


class Left:
    """What `step` asks of a batch, where a backward pass has left its gradient in the parameters."""

    takes_rows, closure, losses = False, None, None

    def __init__(self, size: int | None):
        self.size = None if size is None else _check.count("batch_size", size)

    def gradient(self, params: Sequence[torch.Tensor], names: Sequence[str]) -> list[torch.Tensor | None]:
        """Each parameter's gradient, None where it has none."""
        parts = [p.grad if p.requires_grad else None for p in params]
        if all(part is None for part in parts):
            raise ValueError(
                "step() without a closure takes the gradients that a backward pass has left in `.grad`; "
                "there are none. Call loss.backward(create_graph=opt.due) before it, or step(closure)."
            )
        return [None if part is None else part.detach().to_dense() for part in parts]

    def curved(self, params: Sequence[torch.Tensor]) -> bool:
        """Whether curvature can be found."""
        return any(p.grad is not None and p.grad.requires_grad for p in params)

    def products(
        self, rows: torch.Tensor | None, params: Sequence[torch.Tensor], names: Sequence[str], shift: float
    ) -> Products:
        """Products with the Hessian of the loss whose gradients were left."""
        if not self.curved(params):
            raise ValueError(f"The first step needs curvature: {_NO_GRAPH}.")
        # Clipping rescales gradients in place, without a graph: curvature is that of the loss itself.
        return Products.of_gradients([p.grad if p.requires_grad else None for p in params], params, shift)


class Notices:
    """What a training loop is told once, for it would go on and seem well."""

    def __init__(self) -> None:
        self.idle: dict[int, int] = {}  # steps since a loss has depended on a parameter, by its identity
        self.in_a_row = 0  # steps not taken
        self.first: list[float] = []  # losses
        self.left: dict[int, tuple[torch.Tensor, int]] = {}  # what was put into `.grad`, in which version
        self.told: set[str] = set()

    def say(self, key: str, message: str) -> None:
        """Warn, once for each key."""
        if key not in self.told:
            self.told.add(key)
            _check.warn(message)

    def unread(self, params: Sequence[torch.Tensor]) -> None:
        """Tell of gradients that were clipped, or left by a backward pass, for a step that has its own."""
        for p in params:
            # What another optimizer has left before the first step was not meant for this one.
            if p.grad is None or id(p) not in self.left or self._untouched(p):
                continue
            self.say(
                "unread",
                "step(closure) finds its own gradient, and reads nothing of what was done to `.grad` before "
                "it, such as clipping. Call loss.backward(create_graph=opt.due), clip, and then step() "
                "without a closure; or zero_grad() where nothing was meant by it.",
            )
            return

    def _untouched(self, p: torch.Tensor) -> bool:
        grad, version = self.left[id(p)]
        # Zeros that were written in place are zero_grad's, and mean nothing.
        return p.grad is grad and (grad._version == version or not bool(grad.any()))

    def leave(self, params: Sequence[torch.Tensor], parts: Sequence[torch.Tensor | None]) -> None:
        """Put the step's gradient into `.grad`, where loggers look for it."""
        for p, part in zip(params, parts, strict=True):
            p.grad = part
        self.left = {id(p): (p.grad, p.grad._version) for p in params if p.grad is not None}

    def used(
        self,
        params: Sequence[torch.Tensor],
        names: Sequence[str],
        parts: Sequence[torch.Tensor | None],
        period: int,
    ) -> None:
        """Tell of parameters that no loss has depended on for long."""
        for p, name, part in zip(params, names, parts, strict=True):
            self.idle[id(p)] = self.idle.get(id(p), 0) + 1 if part is None and p.requires_grad else 0
            if self.idle[id(p)] >= max(IDLE, period):
                self.say(
                    f"idle {id(p)}",
                    f"No loss of the last {self.idle[id(p)]} steps depends on {name}, which stays as it is. "
                    "Leave it out of the optimizer, or check what the model makes of it.",
                )

    def missing(self, module: torch.nn.Module | None, known: set[int]) -> None:
        """Tell of parameters of the module that are in no group."""
        if module is None:
            return
        lost = [name for name, p in module.named_parameters() if p.requires_grad and id(p) not in known]
        if lost:
            self.say(
                f"missing {lost}",
                f"The optimizer does not move {', '.join(lost[:4])}: unfrozen or new since it was made. Call "
                "opt.add_param_group({'params': [...]}) with them, or make the optimizer anew.",
            )

    def skipped(self, why: str, taken: int) -> None:
        """Tell of steps that are not taken."""
        self.in_a_row += 1
        if self.in_a_row == (1 if not taken else PATIENCE):
            many = "The first step was" if not taken else f"{self.in_a_row} steps in a row were"
            self.told.discard("skipped")
            self.say(
                "skipped",
                f"{many} not taken: {why}. The parameters stay as they are until a step can be; "
                "opt.skipped counts.",
            )

    def lost(self, loss: torch.Tensor | None) -> None:
        """Tell of a loss that explodes, though every step is finite."""
        self.in_a_row = 0
        if loss is None:
            return
        value = float(loss)
        if len(self.first) < FIRST:
            self.first.append(value)
        top = max(map(abs, self.first))
        if math.isfinite(value) and value > LOST * top > 0:
            self.say(
                "lost",
                f"The loss has risen to {value:.3g}, from {self.first[0]:.3g}: these steps are too large, "
                "though all of them were finite. Lower `lr`, or raise `damping`.",
            )

    def stale(self, steps: int) -> None:
        """Tell of curvature that could not be renewed."""
        self.say("stale", f"Curvature is {steps} steps old, and {_NO_GRAPH}.")


def detached(params: Sequence[torch.Tensor]) -> None:
    """Let go of the graphs behind gradients, which hold the parameters in turn."""
    for p in params:
        if p.grad is not None and p.grad.requires_grad:
            p.grad = p.grad.detach()


def notices(optimizer: Any) -> Notices:
    """Of an optimizer; a copied or unpickled one has none yet."""
    if not hasattr(optimizer, "_notices"):
        optimizer._notices = Notices()
    return optimizer._notices
