"""The samples that are looked at: some of what a DataLoader draws batches from, or of tensors."""

from __future__ import annotations

import copy
import itertools
import math
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    default_collate,
)

from .. import _check
from .._streams import stream

UNBOUNDED = math.inf
"""What stands for the number of samples where they are drawn with replacement, or it is not known."""


def mapped(change: Callable[[torch.Tensor], Any], batch: Any) -> Any:
    """A batch with every tensor in it changed; what is no tensor stays."""
    if isinstance(batch, torch.Tensor):
        return change(batch)
    if isinstance(batch, Mapping):
        return _changed_mapping(change, batch)
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        # A named tuple takes its fields one by one, others a list.
        return type(batch)(*(mapped(change, item) for item in batch))
    if isinstance(batch, (list, tuple)):
        return type(batch)(mapped(change, item) for item in batch)
    return batch


def _changed_mapping(change: Callable[[torch.Tensor], Any], batch: Mapping[Any, Any]) -> Any:
    items = {key: mapped(change, value) for key, value in batch.items()}
    if type(batch) is dict:
        return items
    # A mapping of a tokenizer's own has attributes besides.
    whole: Any = copy.copy(batch)
    for key, value in items.items():
        whole[key] = value
    return whole


def tensors(batch: Any) -> list[torch.Tensor]:
    """All tensors in a batch, in order."""
    found: list[torch.Tensor] = []
    mapped(found.append, batch)
    return found


def size_of(batch: Any) -> int:
    """Samples in a batch: the first axis of its tensors."""
    sizes = [len(t) for t in tensors(batch) if t.ndim]
    if not sizes:
        raise ValueError(
            "`data` must hold batches of tensors whose first axis is the samples; got "
            f"{reprlib.repr(batch)}, of type {type(batch).__name__}. Give tensors, or let `collate_fn` stack "
            "the samples."
        )
    return sizes[0]


def rows(batch: Any, size: int, chosen: Any) -> Any:
    """Some samples of a batch of `size`: what has another first axis is shared by all."""
    return mapped(lambda t: t[chosen] if t.ndim and len(t) == size else t, batch)


@dataclass(frozen=True)
class Part:
    """Samples that are evaluated together."""

    batch: Any
    size: int
    index: int

    def only(self, chosen: Any, size: int) -> Part:
        """Some of them."""
        return Part(rows(self.batch, self.size, chosen), size, self.index)


@dataclass(frozen=True)
class Looked:
    """The samples looked at.

    Attributes
    ----------
    batch : int
        Samples in a batch of the optimizer's.
    population : float
        Samples that its batches are drawn from.
    samples : int
        Looked at: all, or a random subset.
    fetch : callable
        Given a number, yields batches of about so many samples, always in the same order.
    """

    batch: int
    population: float
    samples: int
    fetch: Callable[[int], Iterator[Any]]

    def parts(self, most: int) -> list[Part]:
        """All of them, in parts of at most so many."""
        return list(self._parts(most))

    def first(self, most: int) -> Part:
        """Some of them, no more than a batch: the others are not fetched."""
        return next(self._parts(min(most, self.batch, self.samples)))

    def _parts(self, most: int) -> Iterator[Part]:
        index = itertools.count()
        for batch in self.fetch(most):
            size = size_of(batch)
            for start in range(0, size, most):
                number = min(most, size - start)
                yield Part(rows(batch, size, slice(start, start + number)), number, next(index))


def look(data: Any, batch: int | None, samples: int, seed: int) -> Looked:
    """Read `data` and choose the samples to look at; nothing of it, nor of any generator, is changed."""
    samples = _check.count("samples", samples, least=2)
    if isinstance(data, DataLoader):
        return _loader(data, batch, samples, seed)
    if isinstance(data, (IterableDataset, Iterator)):
        raise ValueError(
            f"`data` must be read again and again; got {reprlib.repr(data)}, of type {type(data).__name__}. "
            "Give a DataLoader, or tensors."
        )
    if isinstance(data, Dataset):
        if batch is None:
            raise ValueError(
                "`batch` must be given where `data` is a Dataset: the samples of one step of the optimizer. "
                "Give batch=32, say, or the DataLoader itself."
            )
        return _dataset(data, default_collate, _check.count("batch", batch), samples, seed)
    if not isinstance(data, (torch.Tensor, Mapping)) and isinstance(data, Iterable):
        items = list(data)
        if items and not any(isinstance(item, torch.Tensor) for item in items):
            return _iterated(lambda: items, batch, samples, sum(map(size_of, items)))
    return _in_memory(data, batch, samples, seed)


def _of_tensors(batch: int | None, number: int) -> int:
    """Samples of a step where `data` is tensors: all, as a loop without batches takes them."""
    if batch is not None:
        return _check.count("batch", batch)
    _check.warn(
        f"`batch` was not given: each step is taken to see all {number} samples, without batch noise, which "
        "allows the largest steps. Give batch=32, say, if it draws fewer."
    )
    return number


def _enough(number: int, batch: int) -> None:
    if number < 2:
        raise ValueError(
            f"`data` must hold two samples at least; got {_check.counted(number, 'sample')}, of which no "
            "batch noise can be measured. Give more, or use stability.spectrum for the curvature alone."
        )
    if batch > number:
        raise ValueError(f"`batch` must be at most {number}, the samples; got {batch}. Give a smaller one.")


def _subset(number: int, samples: int, seed: int) -> torch.Tensor:
    # In any order, when all are looked at too: data may lie sorted, and first ones stand for all.
    return torch.from_numpy(stream(seed, 0).permutation(number)[:samples].copy())


def _in_memory(data: Any, batch: int | None, samples: int, seed: int) -> Looked:
    number = size_of(data)
    wrong = [tuple(t.shape) for t in tensors(data) if t.ndim == 0 or len(t) != number]
    if wrong:
        raise ValueError(
            f"`data` must hold tensors with one first axis, the samples; got {number} and a shape {wrong[0]}."
            " Give the samples of all of them along the first axis."
        )
    _enough(number, size := _of_tensors(batch, number))
    chosen = _subset(number, samples, seed)

    def fetch(most: int) -> Iterator[Any]:
        for piece in chosen.split(most):
            yield rows(data, number, piece)

    return Looked(size, number, len(chosen), fetch)


def _dataset(data: Any, collate: Any, batch: int, samples: int, seed: int, population: float = 0) -> Looked:
    number = len(data)
    _enough(number, batch)
    chosen = _subset(number, samples, seed).tolist()

    def fetch(most: int) -> Iterator[Any]:
        for start in range(0, len(chosen), most):
            yield collate([data[i] for i in chosen[start : start + most]])

    return Looked(batch, population or number, len(chosen), fetch)


def _loader(loader: DataLoader[Any], batch: int | None, samples: int, seed: int) -> Looked:
    drawn = getattr(loader, "batch_size", None)
    size = _check.count("batch", batch) if batch is not None else drawn
    plain = isinstance(loader.sampler, (RandomSampler, SequentialSampler)) and drawn is not None
    if plain and size is not None and not isinstance(loader.dataset, IterableDataset):
        again = bool(getattr(loader.sampler, "replacement", False))
        population = UNBOUNDED if again else 0
        return _dataset(loader.dataset, loader.collate_fn, size, samples, seed, population)
    # A sampler of one's own says how often each sample comes: it is asked, and its generators are put back.
    number = len(loader.dataset) if hasattr(loader.dataset, "__len__") else UNBOUNDED
    return _iterated(lambda: _undrawn(loader), size, samples, number)


def _undrawn(loader: DataLoader[Any]) -> Iterator[Any]:
    """The batches of a loader, whose generators are as they were when it is left."""
    owners = (loader, loader.sampler, loader.batch_sampler)
    generators = [g for owner in owners if (g := getattr(owner, "generator", None)) is not None]
    states = [g.get_state() for g in generators]
    try:
        yield from loader
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


def _iterated(batches: Callable[[], Iterable[Any]], batch: int | None, samples: int, number: float) -> Looked:
    kept, seen = [], 0
    for item in batches():
        size = size_of(item)
        kept.append(rows(item, size, slice(0, samples - seen)))
        seen += min(size, samples - seen)
        if seen >= samples:
            break
    first = size_of(kept[0]) if kept else 0
    size = _check.count("batch", batch) if batch is not None else first
    _enough(seen, size if seen < samples and math.isfinite(number) else 0)
    return Looked(size, max(number, seen), seen, lambda most: itertools.chain(kept))


def joined(batches: list[Any], sizes: list[int]) -> Any | None:
    """Several batches as one; None where their tensors do not fit together."""
    leaves = [tensors(batch) for batch in batches]
    own = [t.ndim > 0 and len(t) == sizes[0] for t in leaves[0]]
    try:
        whole = iter(
            [
                torch.cat(column) if mine else column[0]
                for mine, column in zip(own, zip(*leaves, strict=True), strict=True)
            ]
        )
    except (RuntimeError, ValueError):  # padded to different lengths
        return None
    return mapped(lambda t: next(whole), batches[0])
