"""A network's place: products with its Hessian, and per-sample curvature along directions."""

from __future__ import annotations

import functools
import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import array_api_compat.torch
import numpy as np
import torch
from torch.func import jvp, vmap

from .. import _check
from .._array import Backend
from .._streams import stream
from ..advice.place import Along, Work
from .batches import Looked, Part, joined, mapped, tensors
from .batches import rows as rows_of
from .products import DTYPES, Products
from .whole import Tap, Whole, described, rolled

CHUNK = 8
"""Directions at once: on a CPU as fast as any larger number."""
MEMORY = 2.0**26
"""Bytes for what an evaluation keeps, by default; more where vectors of parameters are larger than that."""
VECTORS = 16
"""As many vectors of parameters, then."""
PAIRS = 6
"""Pairs of directions along which curvature that Gauss-Newton leaves out is measured at most, by default.

On digits networks the limits without any were 0.1 to 6 % from those with all; of the mean nothing is missing,
which products know.
"""
FEW = 64
"""Samples at least whose curvature is measured along all pairs of directions, where nothing spares them."""
SQUARES = 128
"""Groups of samples whose gradients are squared."""
NEAR = 1e-3
"""Relative difference up to which two ways to the same single-precision numbers agree."""


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
    backend, n, samples, population, work
        As in `stability.advice.place.Place`.
    mean : bool
        Whether the loss returns the mean of a batch alone.
    """

    def __init__(self, whole: Whole, looked: Looked, *, memory: float | None = None, pairs: float = PAIRS):
        self.whole, self.pairs, self.work, self.n = whole, pairs, Work(), whole.n
        self.population: Any = looked.population  # infinite where samples come again
        self.backend = Backend("torch", array_api_compat.torch, whole.device, DTYPES[whole.dtype])
        first = whole.placed(looked.parts(min(looked.batch, 8, looked.samples))[0])
        self.mean = returns_mean(whole, first)
        default = max(MEMORY, VECTORS * self.n * whole.w.element_size())
        memory = default if memory is None else _check.positive("memory", memory)
        size = looked.batch if keeps_batch_statistics(whole.model) else self._affordable(first, memory)
        self._together = size
        self._take(looked)
        self._forward: str = "reverse"
        self._second: str | None = "forward"
        self._linear = self._aside = False
        self.cut, self.notes = self._find_cut(first)
        self._forward = self._find_forward(first)
        self._second = self._find_second(first)

    def _take(self, looked: Looked) -> None:
        self.batch, self.parts = looked.batch, looked.parts(self._together)
        self.samples = sum(part.size for part in self.parts)
        self._starts = np.cumsum([0, *(part.size for part in self.parts)])
        self._gradient: torch.Tensor | None = None
        self._graph: Products | None = None

    def again(self, chosen: Sequence[torch.Tensor], looked: Looked) -> None:
        """The same network a while later, at its present parameters, by other samples."""
        self.whole.reread(chosen)
        self._take(looked)

    def mean_loss(self) -> torch.Tensor:
        """Over the samples looked at, ()."""
        with torch.no_grad():
            totals = [self.total(self.whole.w, self.whole.placed(part)) for part in self.parts]
            return torch.stack(totals).sum() / self.samples

    # -- losses ------------------------------------------------------------------------------------

    def losses(self, w: torch.Tensor, part: Part) -> torch.Tensor:
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

    def _affordable(self, part: Part, memory: float) -> int:
        """How many samples may be evaluated together."""
        kept, own = {}, {t.untyped_storage().data_ptr() for t in (self.whole.w,)}

        def pack(t: torch.Tensor) -> torch.Tensor:
            pointer = t.untyped_storage().data_ptr()
            if pointer not in own:
                kept[pointer] = t.untyped_storage().nbytes()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            self.total(self.whole.w.clone().requires_grad_(), part)
        one = sum(kept.values()) / part.size
        # A second derivative keeps about four times what a gradient does.
        return int(np.clip(memory / (4 * one + 1), 1, 2**20))

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
        return Products(self.total(w, self.whole.placed(part)), [w], ["w"])

    def gradient(self, rows: np.ndarray | None = None) -> torch.Tensor:
        """The mean gradient (n,), of all looked-at samples or of some rows."""
        if rows is None and self._gradient is not None:
            return self._gradient
        parts, count = self._chosen(rows)
        self.work.gradients += count / self.samples
        found = self._summed(self.total, parts) / count
        if rows is None:
            self._gradient = found
        return found

    def signed_gradient(self, signs: np.ndarray) -> torch.Tensor:
        """``sum_s signs_s g_s / m`` (n,)."""
        weights = torch.as_tensor(np.asarray(signs), dtype=self.whole.dtype, device=self.whole.device)

        def weighted(w: torch.Tensor, part: Part) -> torch.Tensor:
            start = int(self._starts[part.index])
            mine = weights[start : start + part.size]
            if not self.mean or self.cut is None:
                return mine @ self.losses(w, part)
            # A mean tells samples apart by what the network put out for each.
            z = self._outputs(self.cut, w, part)
            slope = _slope(self._remainder(self.cut, part), z)
            through = (mine[:, None] * slope * z).sum()
            if not self._aside:
                return through
            return through + mine.mean() * self._aside_of(self.cut, part, z)(w)

        self.work.gradients += 1
        return self._summed(weighted, self.parts) / self.samples

    def second_moment(self) -> torch.Tensor:
        """``mean_s g_s^2`` (n,): of single samples, or estimated without bias from groups of them."""
        groups = min(SQUARES, self.samples)
        total, squares = torch.zeros_like(self.whole.w), torch.zeros_like(self.whole.w)
        # At random: data may lie in order.
        for rows in np.array_split(stream(self.whole.seed, 1).permutation(self.samples), groups):
            parts, count = self._chosen(rows)
            g = self._summed(self.total, parts)
            total += g
            squares += g**2 / count
        self.work.gradients += 1
        mean = total / self.samples
        # Means of groups spread by what their samples do, over the groups' size: `count` takes it back.
        spread = (squares - self.samples * mean**2) / max(groups - 1, 1)
        return mean**2 + spread.clamp_min(0) * (self.samples - 1) / self.samples

    def along(self, V: torch.Tensor) -> Along:
        """Every sample's gradient and curvature along the columns of V (n, k)."""
        columns, pairs = V.T.contiguous(), self._pairs(V.shape[1])
        found = [
            self._part_along(self.whole.placed(part), columns, pairs) for part in self._seen_along(len(pairs))
        ]
        self.work.forwards += 3 * self.price(V.shape[1])
        gradients, curvatures = (np.concatenate(each) for each in zip(*found, strict=True))
        k = len(columns)
        return Along(gradients, curvatures, self._all(k), self._told(k, len(curvatures)))

    def price(self, k: int) -> float:
        """What `along` costs with k directions, in gradients."""
        pairs = len(self._pairs(k))
        return (k + 3 + 3 * pairs) / 3 * self._few(pairs) / self.samples

    def _few(self, pairs: int) -> int:
        """How many samples are looked at along directions: the first ones, where no cut spares all pairs."""
        if self.cut is not None or pairs <= self.pairs:
            return self.samples
        return min(self.samples, max(FEW, int(self.samples * self.pairs / pairs)))

    def _seen_along(self, pairs: int) -> Iterator[Part]:
        left = self._few(pairs)
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

    # -- through what the network puts out ---------------------------------------------------------

    def _outputs(self, at: str, w: torch.Tensor, part: Part) -> torch.Tensor:
        """What the network puts out for each sample of a part, (size, o)."""
        tap = Tap(at)
        self.whole(w, part, tap)
        return rolled(tap.seen, part.size)

    def _remainder(self, at: str, part: Part) -> Callable[[torch.Tensor], torch.Tensor]:
        """The part's total loss as a function of what the network puts out, (size, o) -> ()."""
        like = None
        if at == "model":
            tap = Tap(at)
            with torch.no_grad():
                self.whole(self.whole.w, part, tap)
            like = tap.outputs
        return lambda z: self.total(self.whole.w, part, Tap(at, z, like))

    def _part_along(
        self, part: Part, columns: torch.Tensor, pairs: Sequence[tuple[int, int]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Gradients (b, k) and curvatures (b, k, k)."""
        k = len(columns)
        if self.cut is None:
            _, values = self._pushed(lambda w: self.losses(w, part), columns)
            curved = self._twice(lambda w: self.losses(w, part), columns, pairs)
            return _host(values.T), _filled(np.zeros((part.size, k, k)), pairs, curved)
        at = self.cut
        remainder = self._remainder(at, part)
        z, dz = self._pushed(lambda w: self._outputs(at, w, part), columns)
        slope = _slope(remainder, z)
        bent = _bent(remainder, z, dz)
        gradients = _host(torch.einsum("bo,kbo->bk", slope, dz))
        squares = _host(torch.einsum("ibo,jbo->bij", dz, bent))
        left = self._twice(lambda w: (slope * self._outputs(at, w, part)).sum(1), columns, pairs)
        curvatures = (squares + squares.transpose(0, 2, 1)) / 2
        if self._aside:
            straight, bowed = self._aside_along(part, z, columns)
            gradients, curvatures = gradients + straight, curvatures + bowed
        return gradients, _filled(curvatures, pairs, left)

    def _pairs(self, k: int) -> list[tuple[int, int]]:
        """The pairs of directions along which second derivatives are measured, the leading ones first."""
        every = sorted(
            itertools.combinations_with_replacement(range(k), 2), key=lambda pair: (pair[1], pair[0])
        )
        if self.cut is None:
            return every
        if self._second is None or self._linear:
            return []
        # Half as many as directions, or more with the budget: the price grows with k.
        most = min(self.pairs, k * self.pairs / (2 * PAIRS))
        if len(every) <= most:
            return every
        block = int((math.sqrt(4 * most + 1) - 1) / 2)
        leading = [pair for pair in every if pair[1] < block]
        rest = [(i, i) for i in range(block, k)]
        return (leading + rest)[: int(most)]

    def _all(self, k: int) -> bool:
        return self._linear or len(self._pairs(k)) == k * (k + 1) // 2

    def _told(self, k: int, seen: int) -> str:
        """What stands in for what, in words that are the same for any number of directions."""
        if seen < self.samples:
            return (
                f"Curvature of single samples was measured for {seen} of {self.samples}: the loss is not a "
                "function of what model(...) returns, which would spare most of that work."
            )
        if self._all(k):
            return ""
        return (
            "Samples' curvature is Gauss-Newton's, through what the network puts out; what that leaves out "
            f"was {'measured for a few pairs of directions' if self._second else 'not measured'}."
        )

    # -- forward mode ------------------------------------------------------------------------------

    def _pushed(
        self, function: Callable[[torch.Tensor], torch.Tensor], columns: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A function of w, and its derivatives along the rows of `columns` (k, n), shape (k, ...)."""
        w = self.whole.w
        if self._forward == "reverse":
            slopes = self._one_by_one(lambda v: _double(function, w, v), columns)
        else:
            slopes = self._each(lambda v: jvp(function, (w,), (v,))[1], columns)
        if self._forward != "vmap":
            with torch.no_grad():
                return function(w), slopes
        # Masks drawn inside a transform may differ from those outside: the value is that of the derivatives.
        ends: Any = (None, 0)  # one value for all of them
        passed: Any = vmap(lambda v: jvp(function, (w,), (v,)), out_dims=ends, randomness="same")(columns[:1])
        return passed[0], slopes

    def _twice(
        self,
        function: Callable[[torch.Tensor], torch.Tensor],
        columns: torch.Tensor,
        pairs: Sequence[tuple[int, int]],
    ) -> torch.Tensor:
        """Second derivatives of a function (b,) of w along pairs of directions, (p, b)."""
        if not pairs:
            return torch.zeros((0, 0), dtype=columns.dtype, device=columns.device)

        def second(u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            return self._push(lambda w: self._push(function, w, u), self.whole.w, v)

        one, other = (torch.tensor(index, device=columns.device) for index in zip(*pairs, strict=True))
        each = self._each if self._second == "forward" else self._one_by_one
        pieces = [
            each(second, columns[i], columns[j])
            for i, j in zip(one.split(CHUNK), other.split(CHUNK), strict=True)
        ]
        return torch.cat(pieces)

    def _push(
        self, function: Callable[[torch.Tensor], torch.Tensor], w: torch.Tensor, v: torch.Tensor
    ) -> torch.Tensor:
        if self._second == "backward":
            return _double(function, w, v)
        return jvp(function, (w,), (v,))[1]

    def _one_by_one(self, function: Callable[..., torch.Tensor], *columns: torch.Tensor) -> torch.Tensor:
        return torch.stack([function(*each).detach() for each in zip(*columns, strict=True)])

    def _each(self, function: Callable[..., torch.Tensor], *columns: torch.Tensor) -> torch.Tensor:
        """A function of vectors (n,) for every row of blocks (k, n)."""
        if self._forward == "vmap":
            return vmap(function, randomness="same", chunk_size=CHUNK)(*columns)
        return self._one_by_one(function, *columns)

    def _find_forward(self, part: Part) -> str:
        """How derivatives along directions are had: all at once, one by one, or by two backward passes."""
        columns = torch.zeros((2, self.n), dtype=self.whole.dtype, device=self.whole.device)
        # Convolutions of many weights at once are grouped ones, slower on a CPU than one after the other.
        slow = any(isinstance(m, torch.nn.modules.conv._ConvNd) for m in self.whole.model.modules())
        for how in ("loop", "reverse") if slow else ("vmap", "loop", "reverse"):
            self._forward = how
            try:
                with _unwarned():
                    self._part_along(part, columns, [])
            except (RuntimeError, NotImplementedError):
                continue
            return how
        if self.mean and self.cut is None:
            raise ValueError(
                "`loss` returns the mean of a batch alone, and its samples cannot be told apart: one "
                "by one they "
                "do not add up to it, or some operation refuses. Return one loss per sample, "
                "reduction='none'."
            )
        return "reverse"  # what is missing is told by the first product

    def _find_second(self, part: Part) -> str | None:
        """How second derivatives of single samples are had: some kernels are wrong in one way or both."""
        source = torch.Generator().manual_seed(self.whole.seed)
        v = torch.randn(self.n, dtype=self.whole.dtype, generator=source).to(self.whole.device)
        weights = torch.linspace(1, 2, part.size, dtype=v.dtype, device=v.device)

        def weighted(w: torch.Tensor) -> torch.Tensor:
            z = self.losses(w, part) if self.cut is None else self._outputs(self.cut, w, part).sum(1)
            return weights * z

        w = self.whole.w.clone().requires_grad_()
        truth = v @ Products(weighted(w).sum(), [w], ["w"])(v[:, None])[:, 0]
        # What is linear in the parameters, along a random direction, has no curvature along any.
        self._linear = self.cut is not None and float(truth) == 0
        for how in ("forward", "backward") if self._forward != "reverse" else ("backward",):
            self._second = how
            try:
                found = self._twice(weighted, v[None], [(0, 0)]).sum()
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

    # -- where to cut ------------------------------------------------------------------------------

    def _find_cut(self, part: Part) -> tuple[str | None, list[str]]:
        """Where the loss is cut in two, tested on a few samples; None where no place passes."""
        with evaluating(self.whole.model):
            for at in ("model", "function"):
                try:
                    return at, self._tested(at, part)
                except (_NoCut, RuntimeError, ValueError, NotImplementedError, KeyError, AttributeError):
                    continue
        return None, []

    def _alone(self, part: Part, w: torch.Tensor) -> torch.Tensor:
        return self.whole(w, part)

    def _tested(self, at: str, part: Part) -> list[str]:
        tap = Tap(at)
        self.whole(self.whole.w, part, tap)
        if not tap.seen or any(t.ndim == 0 or len(t) % part.size for t in tap.seen):
            raise _NoCut
        remainder = self._remainder(at, part)
        z = self._outputs(at, self.whole.w, part).detach().requires_grad_()
        # The loss sees the parameters through z, and beside it in what is the same for all z, as a penalty.
        beside = self._aside_slope(at, part, z)
        other = self._aside_slope(at, part, z + torch.randn_like(z))
        if bool((other - beside).abs().max() > NEAR * beside.abs().max()):
            raise _NoCut
        self._aside = bool(beside.any())
        v = torch.randn((3, self.n), dtype=self.whole.dtype, device=self.whole.device)
        slope = _slope(remainder, z)
        through = torch.stack(
            [(slope * _double(lambda w: self._outputs(at, w, part), self.whole.w, u)).sum(1) for u in v]
        )
        return self._agrees(through.detach() + (v @ beside / part.size)[:, None], v, part)

    def _aside_of(self, at: str, part: Part, z: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        """The part's total loss as a function of the parameters where what the network puts out is held."""
        like = None
        if at == "model":
            tap = Tap(at)
            with torch.no_grad():
                self.whole(self.whole.w, part, tap)
            like = tap.outputs
        return lambda w: self.total(w, part, Tap(at, z.detach(), like))

    def _aside_slope(self, at: str, part: Part, z: torch.Tensor) -> torch.Tensor:
        w = self.whole.w.clone().requires_grad_()
        aside = self._aside_of(at, part, z)(w)
        found = torch.autograd.grad(aside, w, allow_unused=True)[0] if aside.requires_grad else None
        return torch.zeros_like(self.whole.w) if found is None else found

    def _aside_along(
        self, part: Part, z: torch.Tensor, columns: torch.Tensor
    ) -> tuple[np.ndarray, np.ndarray]:
        """What a penalty adds to every sample's gradient (k,) and curvature (k, k)."""
        assert self.cut is not None
        w = self.whole.w.clone().requires_grad_()
        products = Products(self._aside_of(self.cut, part, z)(w) / part.size, [w], ["w"])
        slope = self._aside_slope(self.cut, part, z) / part.size
        return _host(columns @ slope), _host(columns @ products(columns.T.contiguous()))

    def _agrees(self, through: torch.Tensor, v: torch.Tensor, part: Part) -> list[str]:
        """Raise unless samples' slopes (3, size) along v are those of the samples' own losses."""
        if not self.mean:
            own = torch.stack([_double(lambda w: self.whole(w, part), self.whole.w, u) for u in v])
            if bool((own - through).abs().max() > NEAR * own.abs().max()):
                raise _NoCut
            return []
        ratios = []
        for s in {0, part.size - 1}:
            alone = part.only(slice(s, s + 1), 1)
            alone_losses = functools.partial(self._alone, alone)
            own = torch.stack([_double(alone_losses, self.whole.w, u).detach() for u in v])
            ratio = float((own @ through[:, s]) / (own @ own))
            if bool((through[:, s] - ratio * own).abs().max() > NEAR * through[:, s].abs().max()):
                raise _NoCut
            ratios.append(ratio)
        if max(abs(r - 1) for r in ratios) > 10 * NEAR:
            return ["The mean that the loss returns weights samples unequally, as where tokens are counted."]
        return []


class _NoCut(Exception):
    """The loss is not cut there."""


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


def _slope(function: Callable[[torch.Tensor], torch.Tensor], z: torch.Tensor) -> torch.Tensor:
    """The gradient of a scalar function, by an ordinary backward pass."""
    z = z.detach().requires_grad_()
    return torch.autograd.grad(function(z), z)[0]


def _double(
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


def _bent(
    function: Callable[[torch.Tensor], torch.Tensor], z: torch.Tensor, dz: torch.Tensor
) -> torch.Tensor:
    """Products of a scalar function's Hessian with directions (k, ...)."""
    z = z.detach().requires_grad_()
    (slope,) = torch.autograd.grad(function(z), z, create_graph=True)
    if not slope.requires_grad:  # linear
        return torch.zeros_like(dz)
    return torch.stack([torch.autograd.grad(slope, z, d, retain_graph=True)[0] for d in dz])


def _filled(curvatures: np.ndarray, pairs: Sequence[tuple[int, int]], values: torch.Tensor) -> np.ndarray:
    """Curvatures (b, k, k) with values (p, b) added at pairs, on both sides of the diagonal."""
    for (i, j), value in zip(pairs, _host(values), strict=True):
        curvatures[:, i, j] += value
        if i != j:
            curvatures[:, j, i] += value
    return curvatures


def _host(t: torch.Tensor) -> np.ndarray:
    return t.detach().cpu().numpy().astype(float)


@contextmanager
def _unwarned() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
