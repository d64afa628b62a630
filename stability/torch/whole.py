"""A model and its loss as one function of a vector of parameters, for `torch.func`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.func import functional_call
from torch.nn import functional as F

from .batches import Part, mapped
from .still import HALVES, Still, reseed

LOSSES = frozenset(
    {
        F.cross_entropy,
        F.nll_loss,
        F.mse_loss,
        F.l1_loss,
        F.smooth_l1_loss,
        F.huber_loss,
        F.binary_cross_entropy,
        F.binary_cross_entropy_with_logits,
        F.kl_div,
        F.soft_margin_loss,
        F.multilabel_soft_margin_loss,
    }
)
"""Functions whose first argument is what a network puts out."""


class _Evaluation(torch.nn.Module):
    """``loss(model, batch)`` as a module of its own, so that a functional call reaches all parameters."""

    def __init__(self, model: torch.nn.Module, loss: Callable[..., Any]):
        super().__init__()
        # In a tuple modules are not looked for: a loss that is one is registered below, once.
        self.model, self.function = model, (loss,)
        if isinstance(loss, torch.nn.Module):
            self.loss = loss

    def forward(self, batch: Any, tap: Tap | None = None) -> Any:
        model: Any = self.model if tap is None or tap.at != "model" else _Tapped(self.model, tap)
        return self.function[0](model, batch)


class Tap:
    """Where a loss is cut in two: reads what a network puts out there, or puts in other numbers.

    Attributes
    ----------
    at : {"model", "function"}
        At the model's own output, or at the first argument of one of torch's losses.
    answer : tensor (size, o), optional
        What to go on with, one row a sample.
    seen, outputs : lists
        All tensors that came by, and what they came in.
    """

    def __init__(self, at: str, answer: torch.Tensor | None = None, like: Any = None):
        self.at, self.answer, self.like = at, answer, like
        self.seen: list[torch.Tensor] = []
        self.outputs: list[Any] = []
        self._column = 0

    def passes(self, output: Any) -> Any:
        """The output, or the answer in its shape."""
        found: list[torch.Tensor] = []
        mapped(lambda t: found.append(t) if _per_sample(t) else None, output)
        self.seen += found
        self.outputs.append(output)
        if self.answer is None:
            return output
        before, size = self._column, self.answer.shape[0]
        self._column += sum(t.numel() // size for t in found)
        pieces = iter(_unrolled(self.answer[:, before : self._column], found))
        return mapped(lambda t: next(pieces) if _per_sample(t) else t, output)

    def __call__(self, func: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """The arguments that a function is to be called with."""
        if self.at != "function" or func not in LOSSES:
            return args, kwargs
        if args:
            return (self.passes(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "input": self.passes(kwargs["input"])}


def _per_sample(t: torch.Tensor) -> bool:
    """Whether a tensor may hold something of every sample: not a mean, as a loss beside the outputs is."""
    return t.is_floating_point() and t.ndim > 0


def rolled(tensors: Sequence[torch.Tensor], size: int) -> torch.Tensor:
    """One row for each sample, of all that was put out for it."""
    return torch.cat([t.reshape(size, -1) for t in tensors], dim=1)


def _unrolled(whole: torch.Tensor, like: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
    size = whole.shape[0]
    pieces = whole.split([t.numel() // size for t in like], dim=1)
    return (piece.reshape(t.shape) for piece, t in zip(pieces, like, strict=True))


class _Tapped:
    """Stands for a model in a loss, with a tap at its output."""

    def __init__(self, model: torch.nn.Module, tap: Tap):
        self._model, self._tap = model, tap

    @property  # type: ignore[misc]
    def __class__(self) -> Any:  # a loss may ask what it was given
        return type(self._model)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        # With an answer at hand the forward pass is needed for its shapes alone, which are known.
        if self._tap.answer is not None and self._tap.like is not None:
            return self._tap.passes(self._tap.like[len(self._tap.outputs)])
        return self._tap.passes(self._model(*args, **kwargs))

    forward = __call__

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


class Whole:
    """Losses of samples as a function of one vector of parameters.

    Attributes
    ----------
    w : tensor (n,)
        The parameters as they are, at least in single precision.
    names : list of str
        Of the parameters in `w`, in order.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        loss: Callable[..., Any],
        chosen: Sequence[torch.Tensor],
        seed: int,
    ):
        self.module = _Evaluation(model, loss)
        self.model, self.seed = model, seed
        known = {id(p): name for name, p in self.module.named_parameters()}
        self.names = [known[id(p)] for p in chosen]
        self.dtype = torch.float64 if any(p.dtype == torch.float64 for p in chosen) else torch.float32
        self.device = chosen[0].device
        self.still = Still(self.device, self.dtype)
        self.halves = any(
            t.dtype in HALVES for t in model.state_dict(keep_vars=True).values() if _is_tensor(t)
        )
        self.reread(chosen)

    def reread(self, chosen: Sequence[torch.Tensor]) -> None:
        """Take the parameters and buffers as they are now."""
        self.shapes = [p.shape for p in chosen]
        self.w = torch.cat([self._wide(p.detach()).reshape(-1) for p in chosen])
        moving = set(self.names)
        self._others = {
            n: self._wide(p.detach()) for n, p in self.module.named_parameters() if n not in moving
        }
        self._buffers = {n: self._wide(b) for n, b in self.module.named_buffers()}

    @property
    def n(self) -> int:
        """Parameters."""
        return self.w.shape[0]

    @property
    def sizes(self) -> list[int]:
        """Of the parameters."""
        return [shape.numel() for shape in self.shapes]

    def _wide(self, t: torch.Tensor) -> torch.Tensor:
        # Second derivatives in half precision are mostly rounding.
        return t.to(self.dtype) if t.is_floating_point() and t.dtype in HALVES else t

    def unflatten(self, w: torch.Tensor) -> dict[str, torch.Tensor]:
        """Views of a vector (n,) in the parameters' shapes, by name."""
        pieces = w.split([s.numel() for s in self.shapes])
        return {n: piece.view(s) for n, piece, s in zip(self.names, pieces, self.shapes, strict=True)}

    def placed(self, part: Part) -> Part:
        """A part where the parameters are, in their precision."""

        def placed(t: torch.Tensor) -> torch.Tensor:
            return (self._wide(t) if self.halves else t).to(self.device)

        return Part(mapped(placed, part.batch), part.size, part.index)

    def __call__(self, w: torch.Tensor, part: Part, tap: Tap | None = None) -> Any:
        """What the loss returns for a part's samples."""
        # Dropout draws the same at every evaluation of a part, or products would be of several functions.
        reseed(self.seed + part.index, self.device)
        # Buffers are written into by whoever wants to: into a copy.
        buffers = {n: b.clone() for n, b in self._buffers.items()}
        tensors = {**self._others, **buffers, **self.unflatten(w)}
        self.still.tap = tap
        try:
            with self.still:
                return functional_call(self.module, tensors, (part.batch,), {"tap": tap})
        finally:
            self.still.tap = None


def _is_tensor(t: Any) -> bool:
    return isinstance(t, torch.Tensor)


def takes_two(loss: Any) -> bool:
    """Whether a loss can be called with a model and a batch."""
    try:
        inspect.signature(loss).bind(None, None)
    except TypeError:
        return False
    except ValueError:  # a builtin may tell nothing of its arguments
        return True
    return True


def described(found: Any) -> str:
    """What a loss returned, in an error."""
    if isinstance(found, torch.Tensor):
        return f"a tensor of shape {tuple(found.shape)}"
    if isinstance(found, Mapping):
        return f"a mapping with {', '.join(map(str, list(found)[:4]))}"
    return f"{type(found).__name__}"
