"""Which module of a network has no second derivative."""

from __future__ import annotations

from typing import Any

import torch

from .batches import Part, mapped, tensors
from .products import Products
from .whole import Whole


def culprit(whole: Whole, part: Part) -> str | None:
    """The first module, from the inside out, whose output has no second derivative; None where all have.

    Returns
    -------
    str
        Its name and class; ``"the loss itself"`` where every module has one.
    """
    calls: list[tuple[torch.nn.Module, Any, Any]] = []

    def note(module: torch.nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        calls.append((module, args, kwargs))

    names = {m: name for name, m in whole.model.named_modules()}
    handles = [m.register_forward_hook(note, with_kwargs=True) for m in names]
    try:
        with torch.no_grad():
            whole(whole.w, part)
    except (RuntimeError, ValueError):  # the loss cannot even be evaluated: that error says more
        return None
    finally:
        for handle in handles:
            handle.remove()
    for module, args, kwargs in calls:
        if not _bends(whole, module, args, kwargs):
            name = names[module]
            return f"{name} ({type(module).__name__})" if name else f"{type(module).__name__}.forward"
    return None if _whole_bends(whole, part) else "the loss itself"


def _bends(whole: Whole, module: torch.nn.Module, args: Any, kwargs: Any) -> bool:
    """Whether a module's output can be differentiated twice along its inputs and parameters."""

    def leaf(t: torch.Tensor) -> torch.Tensor:
        return t.detach().clone().requires_grad_() if t.is_floating_point() else t

    inputs, named = mapped(leaf, args), mapped(leaf, kwargs)
    own = {name: leaf(p) for name, p in module.named_parameters()}
    leaves = [t for t in (*tensors(inputs), *tensors(named), *own.values()) if t.requires_grad]
    try:
        with whole.still:
            output = torch.func.functional_call(module, own, inputs, named)
        ends = [t for t in tensors(output) if t.is_floating_point() and t.requires_grad]
        total = sum((t**2).sum() for t in ends)
        return not ends or _twice(total, leaves)
    except (RuntimeError, NotImplementedError, ValueError, TypeError):
        return False


def _whole_bends(whole: Whole, part: Part) -> bool:
    w = whole.w.clone().requires_grad_()
    try:
        return _twice((whole(w, part) ** 2).sum(), [w])
    except (RuntimeError, NotImplementedError, ValueError):
        return False


def _twice(total: Any, leaves: list[torch.Tensor]) -> bool:
    parts = torch.autograd.grad(total, leaves, create_graph=True, allow_unused=True)
    used = [leaf for leaf, part in zip(leaves, parts, strict=True) if part is not None]
    products = Products(total, used, [""] * len(used))
    products(torch.zeros((products.n, 1), dtype=used[0].dtype, device=used[0].device))
    return True
