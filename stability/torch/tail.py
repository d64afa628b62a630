"""Adam's metric off the kept eigenvectors: ``P = U phi U^T + c (I - U U^T) D^-1/2 (I - U U^T)``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

DECAY = 0.99
"""Of the mean of squares ``D`` of what gradients have off the kept eigenvectors."""
EPS = 1e-8
SHARE = 0.45
"""Of ``1 / top``, where `top` is the largest curvature in this metric: a few iterations do not quite reach
it, and it grows between refreshes.
"""
FARTHEST = 0.1
"""How far a coordinate moves in a step at most, once momentum has gathered."""
FIRST, LATER = 4, 1
"""Power iterations for `top` at the first refresh and at each later one, which goes on from the last."""


def off(U: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """What a vector (n,) or block (n, k) has off the kept eigenvectors."""
    return v - U @ (U.T @ v)


def observe(state: dict[str, Any], g: torch.Tensor) -> None:
    """Take a gradient (n,) into the mean of squares."""
    beyond = off(state["vectors"], g)
    second = torch.zeros_like(g) if state["second"] is None else state["second"]
    state["second"] = DECAY * second + (1 - DECAY) * beyond**2
    state["observed"] += 1


def metric(state: dict[str, Any]) -> torch.Tensor:
    """The diagonal of ``D^-1/2`` (n,)."""
    return 1 / (torch.sqrt(state["second"] / (1 - DECAY ** state["observed"])) + EPS)


def measure(state: dict[str, Any], products: Sequence[Callable[[Any], Any]], start: torch.Tensor) -> int:
    """Find the largest curvature in the metric off the kept vectors; returns the products that it took."""
    half, U = torch.sqrt(metric(state)), state["vectors"]
    first = state["probe"] is None
    probe = start if first else state["probe"]
    for _ in range(FIRST if first else LATER):
        moved = off(U, half * probe)
        moved = sum(one(moved[:, None])[:, 0] for one in products) / len(products)
        moved = half * off(U, moved)
        size = torch.linalg.vector_norm(moved)
        state["top"] = float(size / torch.linalg.vector_norm(probe))
        if not (math.isfinite(state["top"]) and state["top"] > 0):
            state["probe"], state["top"] = None, 0.0
            break
        probe = moved / size
        state["probe"] = probe
    return FIRST if first else LATER


def gain(group: dict[str, Any], state: dict[str, Any]) -> float:
    """``c``: a step as long as curvature allows, but no coordinate goes further than may be."""
    farthest = FARTHEST * (1 - group["momentum"]) / max(group["lr"], 1e-12)
    return min(SHARE * state["length"] / state["top"], farthest) if state["top"] > 0 else farthest


def direction(state: dict[str, Any], g: torch.Tensor, gains: torch.Tensor, tail: float) -> torch.Tensor:
    """``P g`` (n,)."""
    U = state["vectors"]
    along = U.T @ g
    return U @ (gains * along) + tail * off(U, metric(state) * (g - U @ along))


class Root:
    """``R`` with ``P = R R^T``, from r + n numbers to n: no symmetric root of P is at hand."""

    def __init__(self, state: dict[str, Any], gains: torch.Tensor, tail: float):
        self.U, self.kept = state["vectors"], torch.sqrt(gains)[:, None]
        self.half = math.sqrt(tail) * torch.sqrt(metric(state))[:, None]
        self.width = sum(self.U.shape)

    def __call__(self, V: torch.Tensor) -> torch.Tensor:
        """``R V``, (r + n, k) to (n, k)."""
        r = self.U.shape[1]
        return self.U @ (self.kept * V[:r]) + off(self.U, self.half * V[r:])

    def back(self, V: torch.Tensor) -> torch.Tensor:
        """``R^T V``, (n, k) to (r + n, k)."""
        return torch.cat([self.kept * (self.U.T @ V), self.half * off(self.U, V)])
