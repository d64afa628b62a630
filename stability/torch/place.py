"""A network's place: products with its Hessian, and per-sample curvature along directions."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import array_api_compat.torch
import numpy as np
import torch

from .. import _check
from .._array import Backend
from .._streams import stream
from ..advice.directions import Directions
from ..advice.place import Along, Work
from .along import PAIRS, Samples
from .batches import Looked, Part, joined, tensors
from .batches import rows as rows_of
from .derivatives import slope
from .losses import Losses, drops, keeps_batch_statistics
from .products import CHUNK, DTYPES, Products
from .whole import Whole

MEMORY = 2.0**26
"""Bytes for what an evaluation keeps, by default; more where vectors of parameters are larger than that."""
VECTORS = 16
"""As many vectors of parameters, then."""
FEW = 64
"""Samples at least whose curvature is measured along all pairs of directions, where nothing spares them."""
SQUARES = 128
"""Groups of samples whose gradients are squared."""


class NetworkPlace:
    """A network's loss at its present parameters, for `stability.advice`.

    Everything is computed by functional calls: nothing in the model changes. The methods are to be called
    under `untouched`.

    Parameters
    ----------
    whole : Whole
    looked : Looked
        The samples.
    memory : float, optional
        Bytes that an evaluation may keep for its derivatives; always at least one sample's. `MEMORY` by
        default, or `VECTORS` vectors of parameters if they take more.
    pairs : float
        How many pairs of directions are worth an evaluation each where Gauss-Newton curvature misses
        something.

    Attributes
    ----------
    backend, n, samples, population, redrawn, work
        As in `stability.advice.place.Place`.
    losses : Losses
    single : Samples
        What is known of single samples along directions, and how.
    """

    def __init__(self, whole: Whole, looked: Looked, *, memory: float | None = None, pairs: float = PAIRS):
        self.whole, self.work, self.n = whole, Work(), whole.n
        # Infinitely many where samples come again, or come with masks that are drawn anew.
        self.population: Any = math.inf if drops(whole.model) else looked.population
        meet = keeps_batch_statistics(whole.model) and looked.batch < looked.population
        self.redrawn = meet or math.isinf(self.population)
        self.backend = Backend("torch", array_api_compat.torch, whole.device, DTYPES[whole.dtype])
        first = whole.placed(looked.first(8))
        self.losses = Losses(whole, first)
        default = max(MEMORY, VECTORS * self.n * whole.w.element_size())
        memory = default if memory is None else _check.positive("memory", memory)
        # With batch norm the loss is of batches as they are drawn: another size has other statistics.
        size = looked.batch if keeps_batch_statistics(whole.model) else self._affordable(first, memory)
        self._together = size
        self._take(looked)
        self.single = Samples(self.losses, first, pairs)

    def _take(self, looked: Looked) -> None:
        self.batch, self.parts = looked.batch, looked.parts(self._together)
        self.samples = sum(part.size for part in self.parts)
        self._starts = np.cumsum([0, *(part.size for part in self.parts)])
        self._gradient: torch.Tensor | None = None
        self._squares: torch.Tensor | None = None
        self._graph: Products | None = None

    def again(self, chosen: Sequence[torch.Tensor], looked: Looked) -> None:
        """The same network a while later, at its present parameters, by other samples."""
        self.whole.reread(chosen)
        self._take(looked)

    def mean_loss(self) -> torch.Tensor:
        """Over the samples looked at, ()."""
        with torch.no_grad():
            totals = [self.losses.total(self.whole.w, self.whole.placed(part)) for part in self.parts]
            return torch.stack(totals).sum() / self.samples

    def _affordable(self, part: Part, memory: float) -> int:
        """How many samples may be evaluated together."""
        w, kept = self.whole.w.clone().requires_grad_(), {}
        # Parameters and data are there anyway: what is counted grows with the samples.
        there = (w, *self.whole.module.parameters(), *tensors(part.batch))
        own = {t.untyped_storage().data_ptr() for t in there}

        def pack(t: torch.Tensor) -> torch.Tensor:
            pointer = t.untyped_storage().data_ptr()
            if pointer not in own:
                kept[pointer] = t.untyped_storage().nbytes()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            self.losses.total(w, part)
        one = sum(kept.values()) / part.size
        # A second derivative keeps about twice what a gradient does, for each direction.
        return int(np.clip(memory / (2 * CHUNK * one + 1), 1, 2**20))

    # -- what the adviser asks ---------------------------------------------------------------------

    def product(self, V: torch.Tensor, rows: np.ndarray | None = None) -> torch.Tensor:
        """The mean Hessian of the looked-at samples, or of some rows, times V (n, k)."""
        parts, count = self._chosen(rows)
        # What fits into memory as one part stays there, and saves a product its first two passes.
        if rows is None and len(parts) == 1:
            self._graph = self._graph or self._products(parts[0])
            result = self._graph(V)
        else:
            result = torch.zeros_like(V)
            for part in parts:
                result += self._products(part)(V)
        self.work.products += V.shape[1] * count / self.samples
        return result / count

    def _products(self, part: Part) -> Products:
        """Products with a part's total Hessian, with the graph that they need."""
        w = self.whole.w.clone().requires_grad_()
        return Products(self.losses.total(w, self.whole.placed(part)), [w], ["w"])

    def gradient(self, rows: np.ndarray | None = None) -> torch.Tensor:
        """The mean gradient (n,), of all looked-at samples or of some rows."""
        if rows is None and self._gradient is not None:
            return self._gradient
        parts, count = self._chosen(rows)
        self.work.gradients += count / self.samples
        found = self._summed(self.losses.total, parts) / count
        if rows is None:
            self._gradient = found
        return found

    def signed_gradient(self, signs: np.ndarray) -> torch.Tensor:
        """``sum_s signs_s g_s / m`` (n,)."""
        weights = torch.as_tensor(np.asarray(signs), dtype=self.whole.dtype, device=self.whole.device)

        def weighted(w: torch.Tensor, part: Part) -> torch.Tensor:
            start = int(self._starts[part.index])
            mine = weights[start : start + part.size]
            if not self.losses.mean or (cut := self.single.cut) is None:
                return mine @ self.losses.each(w, part)
            # A mean tells samples apart by what the network put out for each.
            z = cut.outputs(w, part)
            through = (mine[:, None] * slope(cut.remainder(part), z) * z).sum()
            return through + mine.mean() * cut.beside(part, z)(w) if cut.aside else through

        self.work.gradients += 1
        return self._summed(weighted, self.parts) / self.samples

    def second_moment(self) -> torch.Tensor:
        """``mean_s g_s^2`` (n,): of single samples, or estimated without bias from groups of them."""
        if self._squares is None:
            self._squares = self._second_moment()
        return self._squares

    def _second_moment(self) -> torch.Tensor:
        groups = min(SQUARES, self.samples)
        total, squares = torch.zeros_like(self.whole.w), torch.zeros_like(self.whole.w)
        # At random: data may lie in order.
        for rows in np.array_split(stream(self.whole.seed, 1).permutation(self.samples), groups):
            parts, count = self._chosen(rows)
            g = self._summed(self.losses.total, parts)
            total += g
            squares += g**2 / count
        self.work.gradients += 1
        mean = total / self.samples
        # Means of groups spread by what their samples do, over the groups' size: `count` takes it back.
        spread = (squares - self.samples * mean**2) / max(groups - 1, 1)
        return mean**2 + spread.clamp_min(0) * (self.samples - 1) / self.samples

    def along(self, V: torch.Tensor | Directions) -> Along:
        """Every sample's gradient and curvature along the columns of V (n, k)."""
        k = V.shape[1]
        seen = self.single.along(map(self.whole.placed, self._seen_along(k)), V)
        self.work.forwards += 3 * self.price(k)
        return dataclasses.replace(seen, note=self._told(k, len(seen.curvatures)))

    def price(self, k: int) -> float:
        """What `along` costs with k directions, in gradients."""
        return (k + 3 + 3 * len(self.single.pairs(k))) / 3 * self._few(k) / self.samples

    def _few(self, k: int) -> int:
        """How many samples are looked at along directions: the first ones, where no cut spares all pairs."""
        pairs, most = len(self.single.pairs(k)), self.single.most
        if self.single.cut is not None or pairs <= most:
            return self.samples
        return min(self.samples, max(FEW, int(self.samples * most / pairs)))

    def _seen_along(self, k: int) -> Iterator[Part]:
        left = self._few(k)
        for part in self.parts:
            if left > 0:
                yield part if part.size <= left else part.only(slice(0, left), left)
            left -= part.size

    # -- parts -------------------------------------------------------------------------------------

    def _chosen(self, rows: np.ndarray | None) -> tuple[Sequence[Part], int]:
        """The parts that hold some samples, together where they fit."""
        if rows is None:
            return self.parts, self.samples
        rows = np.sort(np.asarray(rows))
        owners = np.searchsorted(self._starts, rows, side="right") - 1
        pieces = []
        for i in np.unique(owners):
            mine = rows[owners == i] - self._starts[i]
            pieces.append(self.parts[i].only(torch.from_numpy(mine), len(mine)))
        return list(_together(pieces, self.parts[0].size)), len(rows)

    def _summed(
        self, function: Callable[[torch.Tensor, Part], torch.Tensor], parts: Sequence[Part]
    ) -> torch.Tensor:
        """The sum of a function's gradients (n,) over parts."""
        total = torch.zeros_like(self.whole.w)
        for part in map(self.whole.placed, parts):
            w = self.whole.w.clone().requires_grad_()
            total += torch.autograd.grad(function(w, part), w)[0]
        return total

    def _told(self, k: int, seen: int) -> str:
        """What stands in for what, in words that are the same for any number of directions."""
        if seen < self.samples:
            return (
                f"Curvature of single samples was measured for {seen} of {self.samples}: the loss is not a "
                "function of what model(...) returns, which would spare most of that work."
            )
        if self.single.exact(k):
            return ""
        return (
            "Samples' curvature is Gauss-Newton's, through what the network puts out; what that leaves out "
            f"was {'measured for a few pairs of directions' if self.single.second else 'not measured'}."
        )


def _together(pieces: Sequence[Part], most: int) -> Iterator[Part]:
    """Parts as few as they fit into."""
    sizes = [piece.size for piece in pieces]
    whole = joined([piece.batch for piece in pieces], sizes)
    if whole is None:
        yield from pieces
        return
    size = sum(sizes)
    for start in range(0, size, most):
        number = min(most, size - start)
        yield Part(rows_of(whole, size, slice(start, start + number)), number, pieces[0].index)
