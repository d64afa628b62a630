"""Losses of single samples and their sums, whether a loss returns one for each sample or their mean."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch.func import vmap

from .batches import Part, mapped, tensors
from .whole import Tap, Whole, described

NEAR = 1e-3
"""Relative difference up to which two ways to the same single-precision numbers agree."""


class Losses:
    """A model's loss at parameters (n,), sample by sample.

    Parameters
    ----------
    whole : Whole
    first : Part
        Some samples, to see on what the loss returns.

    Attributes
    ----------
    mean : bool
        Whether it returns the mean of a batch alone.

    Raises
    ------
    ValueError
        If it returns no losses.
    """

    def __init__(self, whole: Whole, first: Part):
        self.whole, self.mean = whole, returns_mean(whole, first)

    def each(self, w: torch.Tensor, part: Part) -> torch.Tensor:
        """One loss for each sample of a part (size,); of means, by batches of one sample."""
        if not self.mean:
            return self.whole(w, part)
        if part.size == 1:
            return self.whole(w, part).reshape(1)
        places = [t.ndim > 0 and len(t) == part.size for t in tensors(part.batch)]

        def single(*leaves: torch.Tensor) -> torch.Tensor:
            return self.whole(w, _of_one(part, leaves, places))

        leaves = tensors(part.batch)
        along = tuple(0 if own else None for own in places)
        return vmap(single, in_dims=along, randomness="different")(*leaves)

    def total(self, w: torch.Tensor, part: Part, tap: Tap | None = None) -> torch.Tensor:
        """The sum of a part's losses."""
        found = self.whole(w, part, tap)
        return found * part.size if self.mean else found.sum()


def returns_mean(whole: Whole, part: Part) -> bool:
    """Whether a loss returns the mean of a batch alone; raises where it returns no losses."""
    with torch.no_grad():
        found = whole(whole.w, part)
    if not isinstance(found, torch.Tensor) or not found.is_floating_point():
        hint = "Return its .loss." if hasattr(found, "loss") else "Return the tensor, without .item()."
        raise ValueError(
            f"`loss` must return a tensor, one loss per sample or their mean; got {described(found)}. {hint}"
        )
    if found.ndim == 0:
        _require_mean(whole, part)
        return True
    if found.shape == (part.size,):
        return False
    raise ValueError(
        f"`loss` must return one loss per sample, shape ({part.size},) for {part.size} samples, or their "
        f"mean; got {described(found)}. Take the mean over the other axes, losses.flatten(1).mean(1)."
    )


def _require_mean(whole: Whole, part: Part) -> None:
    """That a number is a mean over samples: it stays where each of them comes twice."""
    twice = part.only(torch.arange(part.size).repeat(2), 2 * part.size)
    with torch.no_grad(), evaluating(whole.model):
        once, again = (float(whole(whole.w, one)) for one in (part, twice))
    if abs(again - once) > 10 * NEAR * abs(once) and math.isfinite(again):
        raise ValueError(
            f"`loss` must return one loss per sample, or their mean; over {part.size} samples it is "
            f"{once:.4g}, and where each of them comes twice {again:.4g}. Return one for each sample; where "
            "training takes their sum, times the samples in a batch."
        )


def keeps_batch_statistics(model: torch.nn.Module) -> bool:
    """Whether samples of a batch meet in normalisation, as in training mode."""
    kinds = (torch.nn.modules.batchnorm._BatchNorm,)
    return any(isinstance(m, kinds) and (m.training or m.running_mean is None) for m in model.modules())


def drops(model: torch.nn.Module) -> bool:
    """Whether dropout draws masks, as in training mode."""
    kinds = (torch.nn.modules.dropout._DropoutNd,)
    return any(isinstance(m, kinds) and m.training and m.p > 0 for m in model.modules())


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """All modules in evaluation mode: samples by themselves are what they are in a batch."""
    modes = [(m, m.training) for m in model.modules()]
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _of_one(part: Part, leaves: Sequence[torch.Tensor], own: Sequence[bool]) -> Part:
    """A batch of one sample, from what a batched evaluation hands on."""
    pieces = iter([leaf[None] if mine else leaf for leaf, mine in zip(leaves, own, strict=True)])
    return Part(mapped(lambda t: next(pieces), part.batch), 1, part.index)
