"""Derivatives along directions: pushed forward, or by two backward passes where forward mode is missing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch


def slope(function: Callable[[torch.Tensor], torch.Tensor], z: torch.Tensor) -> torch.Tensor:
    """The gradient of a scalar function, by an ordinary backward pass."""
    z = z.detach().requires_grad_()
    return torch.autograd.grad(function(z), z)[0]


def double(
    function: Callable[[torch.Tensor], torch.Tensor], w: torch.Tensor, v: torch.Tensor
) -> torch.Tensor:
    """A function's derivative along v by two backward passes, where forward mode is missing."""
    w = w if w.requires_grad else w.detach().requires_grad_()
    z = function(w)
    if not z.requires_grad:
        return torch.zeros_like(z)
    u = torch.zeros_like(z, requires_grad=True)
    (pulled,) = torch.autograd.grad(z, w, u, create_graph=True)
    return torch.autograd.grad(pulled, u, v, create_graph=True)[0]


def bent(function: Callable[[torch.Tensor], torch.Tensor], z: torch.Tensor, dz: torch.Tensor) -> torch.Tensor:
    """Products of a scalar function's Hessian with directions (k, ...)."""
    z = z.detach().requires_grad_()
    (first,) = torch.autograd.grad(function(z), z, create_graph=True)
    if not first.requires_grad:  # linear
        return torch.zeros_like(dz)
    return torch.stack([torch.autograd.grad(first, z, d, retain_graph=True)[0] for d in dz])


def host(t: torch.Tensor) -> np.ndarray:
    """As an array of doubles."""
    return t.detach().cpu().numpy().astype(float)
