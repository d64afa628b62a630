"""Gradients and curvatures of single samples along directions, in the way that a network allows."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import numpy as np
import torch
from torch.func import jvp, vmap

from ..advice.directions import Directions
from ..advice.place import Along
from .batches import Part
from .cut import find_cut
from .derivatives import double, host
from .losses import NEAR, Losses
from .products import CHUNK, Products

PAIRS = 6
"""Pairs of directions along which curvature that Gauss-Newton leaves out is measured at most, by default.

On digits networks the limits without any were 0.1 to 6 % from those with all; of the mean nothing is missing,
which products know.
"""

TOGETHER = 2**22
"""Bytes of directions that are pushed at once, up to `CHUNK`: in large networks each takes the memory of some
vectors of parameters, and a few at a time take no longer.
"""

Function = Callable[..., torch.Tensor]
Pairs = Sequence[tuple[int, int]]
Columns: TypeAlias = "torch.Tensor | Directions"


class Samples:
    """What single samples' losses do along directions.

    Parameters
    ----------
    losses : Losses
    part : Part
        Some samples, to try on what works.
    pairs : float
        How many pairs of directions are worth an evaluation each where Gauss-Newton curvature misses
        something.

    Attributes
    ----------
    cut : Cut or None
        Where the loss is cut in two.
    first : {"vmap", "loop", "reverse"}
        How derivatives along directions are had: all at once, one by one, or by two backward passes.
    second : {"forward", "backward"} or None
        How second derivatives are had; None where no way is right.
    linear : bool
        Whether the outputs have none.

    Raises
    ------
    ValueError
        If samples cannot be told apart, or have no second derivatives of their own.
    """

    def __init__(self, losses: Losses, part: Part, pairs: float):
        self.losses, self.whole, self.most = losses, losses.whole, pairs
        self.first: str = "reverse"
        self.second: str | None = "forward"
        self.linear = False
        self.cut = find_cut(losses, part)
        self.first = self._find_first(part)
        self.second = self._find_second(part)

    def along(self, parts: Iterable[Part], V: Columns) -> Along:
        """Gradients and curvatures of all samples in some parts along the columns of V (n, k)."""
        k = V.shape[1]
        pairs = self.pairs(k)
        found = [self._along(part, V, pairs) for part in parts]
        gradients, curvatures, left = (np.concatenate(each) for each in zip(*found, strict=True))
        known, missed = None, 0.0
        if not self.exact(k):
            known = _filled(np.zeros((1, k, k)), pairs, np.ones((1, len(pairs))))[0] > 0
            missed = math.sqrt(np.mean(left**2)) if pairs else math.nan
        return Along(gradients, _filled(curvatures, pairs, left), known, missed)

    def _along(self, part: Part, V: Columns, pairs: Pairs) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Gradients (b, k), curvatures through the outputs (b, k, k), and what is beside at pairs (b, p)."""
        cut, k = self.cut, V.shape[1]
        if cut is None:
            _, values = self._pushed(lambda w: self.losses.each(w, part), V)
            curved = self._twice(lambda w: self.losses.each(w, part), V, pairs)
            return host(values.T), np.zeros((part.size, k, k)), host(curved.T)
        z, dz = self._pushed(lambda w: cut.outputs(w, part), V)
        slope, gradients, curvatures = cut.along(part, z, dz, V)
        left = self._twice(lambda w: (slope * cut.outputs(w, part)).sum(1), V, pairs)
        return gradients, curvatures, host(left.T)

    def pairs(self, k: int) -> Pairs:
        """The pairs of directions along which second derivatives are measured, the leading ones first."""
        every = sorted(
            itertools.combinations_with_replacement(range(k), 2), key=lambda pair: (pair[1], pair[0])
        )
        if self.cut is None:
            return every
        if self.second is None or self.linear:
            return []
        # Half as many as directions, or more with the budget: the price grows with k.
        most = min(self.most, k * self.most / (2 * PAIRS))
        if len(every) <= most:
            return every
        # block (block + 1) = most: half of the pairs are all those of the leading directions.
        block = int((math.sqrt(4 * most + 1) - 1) / 2)
        leading = [pair for pair in every if pair[1] < block]
        rest = [(i, i) for i in range(block, k)]
        return (leading + rest)[: int(most)]

    def exact(self, k: int) -> bool:
        """Whether nothing stands in for curvature along k directions."""
        return self.linear or len(self.pairs(k)) == k * (k + 1) // 2

    # -- forward mode ------------------------------------------------------------------------------

    def _pushed(self, function: Function, V: Columns) -> tuple[torch.Tensor, torch.Tensor]:
        """A function of w, and its derivatives along the columns of V, shape (k, ...)."""
        w = self.whole.w
        if self.first == "reverse":
            slopes = self._one_by_one(lambda v: double(function, w, v), V, range(V.shape[1]))
        else:
            slopes = self._each(lambda v: jvp(function, (w,), (v,))[1], V, range(V.shape[1]))
        if self.first != "vmap":
            with torch.no_grad():
                return function(w), slopes
        # Masks drawn inside a transform may differ from those outside: the value is that of the derivatives.
        ends = (None, 0)  # one value for all of them
        pushed = vmap(lambda v: jvp(function, (w,), (v,)), out_dims=ends, randomness="same")
        return pushed(V[:, :1].T.contiguous())[0], slopes

    def _twice(self, function: Function, V: Columns, pairs: Pairs) -> torch.Tensor:
        """Second derivatives of a function (b,) of w along pairs of directions, (p, b)."""
        if not pairs:
            return torch.zeros((0, 0), dtype=self.whole.dtype, device=self.whole.device)

        def second(u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            return self._push(lambda w: self._push(function, w, u), self.whole.w, v)

        each = self._each if self.second == "forward" else self._one_by_one
        return each(second, V, *zip(*pairs, strict=True))

    def _push(self, function: Function, w: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        if self.second == "backward":
            return double(function, w, v)
        return jvp(function, (w,), (v,))[1]

    def _one_by_one(self, function: Function, V: Columns, *indices: Sequence[int]) -> torch.Tensor:
        return torch.stack(
            [function(*(V[:, i].contiguous() for i in each)).detach() for each in zip(*indices, strict=True)]
        )

    def _each(self, function: Function, V: Columns, *indices: Sequence[int]) -> torch.Tensor:
        """A function of vectors (n,) for every column, or for every pair of columns."""
        if self.first != "vmap":
            return self._one_by_one(function, V, *indices)
        together = vmap(function, randomness="same")
        # A few columns are copied at a time: copies of all take as much memory as the directions themselves.
        few = int(np.clip(TOGETHER / (self.whole.n * self.whole.w.element_size()), 1, CHUNK))
        starts = range(0, len(indices[0]), few)
        return torch.cat(
            [together(*(torch.stack([V[:, j] for j in one[i : i + few]]) for one in indices)) for i in starts]
        )

    # -- what works --------------------------------------------------------------------------------

    def _find_first(self, part: Part) -> str:
        """How derivatives along directions are had: all at once, one by one, or by two backward passes."""
        V = torch.zeros((self.whole.n, 2), dtype=self.whole.dtype, device=self.whole.device)
        # Convolutions of many weights at once are grouped ones, slower on a CPU than one after the other.
        slow = any(isinstance(m, torch.nn.modules.conv._ConvNd) for m in self.whole.model.modules())
        for how in ("loop", "reverse") if slow else ("vmap", "loop", "reverse"):
            self.first = how
            try:
                with _unwarned():
                    self._along(part, V, [])
            except (RuntimeError, NotImplementedError):
                continue
            return how
        if self.losses.mean and self.cut is None:
            raise ValueError(
                "`loss` returns the mean of a batch alone, and its samples cannot be told apart: one by one "
                "they do not add up to it, or some operation refuses. Return one loss per sample, "
                "reduction='none'."
            )
        return "reverse"  # what is missing is told by the first product

    def _find_second(self, part: Part) -> str | None:
        """How second derivatives of single samples are had: some kernels are wrong in one way or both."""
        source = torch.Generator().manual_seed(self.whole.seed)
        v = torch.randn(self.whole.n, dtype=self.whole.dtype, generator=source).to(self.whole.device)
        weights = torch.linspace(1, 2, part.size, dtype=v.dtype, device=v.device)

        def weighted(w: torch.Tensor) -> torch.Tensor:
            if self.cut is None:
                return weights * self.losses.each(w, part)
            return weights * self.cut.outputs(w, part).sum(1)

        w = self.whole.w.clone().requires_grad_()
        truth = v @ Products(weighted(w).sum(), [w], ["w"])(v[:, None])[:, 0]
        # What is linear in the parameters, along a random direction, has no curvature along any.
        self.linear = self.cut is not None and float(truth) == 0
        for how in ("forward", "backward") if self.first != "reverse" else ("backward",):
            self.second = how
            try:
                found = self._twice(weighted, v[:, None], [(0, 0)]).sum()
            except (RuntimeError, NotImplementedError):
                continue
            if bool((found - truth).abs() <= 10 * NEAR * truth.abs() + NEAR**2):
                return how
        if self.cut is None:
            raise ValueError(
                "`loss` must be computed from what `model` returns for its samples' second derivatives to be "
                "had: an operation in it is not differentiable three times. Return one loss per sample from "
                "model(...), called once."
            )
        return None


def _filled(curvatures: np.ndarray, pairs: Pairs, values: np.ndarray) -> np.ndarray:
    """Curvatures (b, k, k) with values (b, p) added at pairs, on both sides of the diagonal."""
    for (i, j), value in zip(pairs, values.T, strict=True):
        curvatures[:, i, j] += value
        if i != j:
            curvatures[:, j, i] += value
    return curvatures


@contextmanager
def _unwarned() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
