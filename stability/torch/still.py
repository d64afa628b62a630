"""Evaluations of a network that leave no trace in it, and that can be differentiated twice."""

from __future__ import annotations

import copy
import random
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from .._interrupts import undisturbed

HALVES = (torch.float16, torch.bfloat16)


class Still(TorchFunctionMode):
    """What a few functions do while curvature is measured.

    Nothing is computed in half precision, whoever asks for it; running means of batches stay as they are,
    gradients of embeddings are dense, and normalisation is made of operations that may be differentiated as
    often as one likes.

    Attributes
    ----------
    dtype : torch.dtype
        Stands for every half precision that is asked for.
    widened : bool
        Whether one was.
    tap : callable or None
        Given every function and its arguments, it returns the arguments to use.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype):
        super().__init__()
        self.device, self.dtype, self.widened = device.type, dtype, False
        self.tap: Callable[..., Any] | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if any(isinstance(a, torch.dtype) and a in HALVES for a in (*args, *kwargs.values())):
            self.widened = True
            args = tuple(self._wide(a) for a in args)
            kwargs = {key: self._wide(a) for key, a in kwargs.items()}
        if func in (torch.Tensor.half, torch.Tensor.bfloat16):
            self.widened = True
            return args[0].to(self.dtype)
        func = _INSTEAD.get(func, func)
        if self.tap is not None:
            args, kwargs = self.tap(func, args, kwargs)
        if torch.is_autocast_enabled(self.device):
            self.widened = True
            with torch.autocast(self.device, enabled=False):
                return func(*args, **kwargs)
        return func(*args, **kwargs)

    def _wide(self, a: Any) -> Any:
        return self.dtype if isinstance(a, torch.dtype) and a in HALVES else a


def _normalized(x: torch.Tensor, axes: Sequence[int], eps: float) -> torch.Tensor:
    """Mean 0 and variance 1 over some axes, by elementary operations.

    Forward mode inside forward mode takes the statistics of torch's own kernels for constants (2.13).
    """
    middle = x - x.mean(tuple(axes), keepdim=True)
    return middle * torch.rsqrt((middle**2).mean(tuple(axes), keepdim=True) + eps)


def _affine(x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None) -> torch.Tensor:
    """Scaled and moved, channel by channel."""
    shape = (1, -1, *([1] * (x.ndim - 2)))
    x = x if weight is None else x * weight.reshape(shape)
    return x if bias is None else x + bias.reshape(shape)


def _batch_norm(
    input: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> torch.Tensor:
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    # By a batch's own statistics; the running ones stay as they are.
    return _affine(_normalized(input, [0, *range(2, input.ndim)], eps), weight, bias)


def _instance_norm(
    input: Any,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> torch.Tensor:
    if not use_input_stats:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    return _affine(_normalized(input, range(2, input.ndim), eps), weight, bias)


def _group_norm(
    input: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> torch.Tensor:
    grouped = input.reshape(input.shape[0], num_groups, -1)
    return _affine(_normalized(grouped, [2], eps).reshape(input.shape), weight, bias)


def _layer_norm(
    input: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> torch.Tensor:
    x = _normalized(input, range(input.ndim - len(normalized_shape), input.ndim), eps)
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def _weight_norm(v: torch.Tensor, g: torch.Tensor, dim: int = 0) -> torch.Tensor:
    """A weight of length `g` along `v`; torch's own kernel has no right second derivative (2.13)."""
    axes = [axis for axis in range(v.ndim) if axis != dim % v.ndim] if dim != -1 else list(range(v.ndim))
    return v * (g * torch.rsqrt((v**2).sum(axes, keepdim=True)))


def _embedding(
    input: Any,
    weight: Any,
    padding_idx: Any = None,
    max_norm: Any = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> torch.Tensor:
    return F.embedding(input, weight, padding_idx, max_norm, norm_type, scale_grad_by_freq, False)


def _embedding_bag(
    input: Any,
    weight: Any,
    offsets: Any = None,
    max_norm: Any = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Any = None,
    include_last_offset: bool = False,
    padding_idx: Any = None,
) -> torch.Tensor:
    """Sums and means of embeddings: torch's own have no second derivative (2.13)."""
    if mode == "max":
        rest = (per_sample_weights, include_last_offset, padding_idx)
        return F.embedding_bag(
            input, weight, offsets, max_norm, norm_type, scale_grad_by_freq, mode, False, *rest
        )
    if offsets is None:
        bags = len(input)
        of = torch.arange(bags, device=input.device).repeat_interleave(input.shape[1])
    else:
        starts = offsets[:-1] if include_last_offset else offsets
        bags = len(starts)
        # The last bag that starts at a row or before it is the row's; an empty one starts where the next
        # does.
        of = torch.searchsorted(starts, torch.arange(len(input), device=input.device), right=True) - 1
    rows = input.reshape(-1)
    found = F.embedding(rows, weight, padding_idx, max_norm, norm_type, scale_grad_by_freq)
    counted = torch.ones_like(rows, dtype=weight.dtype)
    if padding_idx is not None:
        counted = counted * (rows != padding_idx % len(weight))
    shares = counted if per_sample_weights is None else counted * per_sample_weights.reshape(-1)
    total = torch.zeros((bags, weight.shape[1]), dtype=weight.dtype, device=weight.device)
    total = total.index_add(0, of, found * shares[:, None])
    if mode == "sum":
        return total
    sizes = torch.zeros(bags, dtype=weight.dtype, device=weight.device).index_add(0, of, counted)
    # The mean over an empty bag is zero, as torch has it.
    return total / sizes.clamp(min=1)[:, None]


def _dropout(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
    return _masked(input, p, training, input.shape)


def _feature_dropout(
    input: Any, p: float = 0.5, training: bool = True, inplace: bool = False
) -> torch.Tensor:
    return _masked(input, p, training, (*input.shape[:2], *([1] * (input.ndim - 2))))


def _masked(x: Any, p: float, training: bool, shape: Sequence[int]) -> torch.Tensor:
    """Dropout whose mask depends on shapes alone, and not on how an array lies in memory."""
    if not training or p == 0:
        return x
    # At p = 1 nothing is kept that could be scaled.
    return x * (torch.rand(shape, device=x.device) >= p) / (1 - p if p < 1 else 1.0)


_INSTEAD: dict[Any, Callable[..., torch.Tensor]] = {
    F.batch_norm: _batch_norm,
    F.instance_norm: _instance_norm,
    F.group_norm: _group_norm,
    F.layer_norm: _layer_norm,
    torch._weight_norm: _weight_norm,
    F.embedding: _embedding,
    F.embedding_bag: _embedding_bag,
    F.dropout: _dropout,
    F.dropout1d: _feature_dropout,
    F.dropout2d: _feature_dropout,
    F.dropout3d: _feature_dropout,
}


class _Bent(TorchFunctionMode):
    """A few functions by operations that have a second derivative, and the right one."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return (_INSTEAD[func] if func in _TWICE else func)(*args, **(kwargs or {}))


_TWICE = {torch._weight_norm, F.embedding, F.embedding_bag}


@contextmanager
def twice() -> Iterator[None]:
    """A loss that is evaluated here can be differentiated twice wherever torch can do that at all."""
    with ExitStack() as stack:
        # What is compiled has one derivative. Where nothing is, asking would take seconds to import.
        if "torch._dynamo" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        # Of the kernels for attention this one alone has a second derivative.
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(_Bent())
        yield


@contextmanager
def untouched(model: torch.nn.Module, device: torch.device) -> Iterator[None]:
    """Whatever an evaluation leaves in a model's attributes and in random generators is undone."""
    contents: dict[int, tuple[Any, Callable[[], None]]] = {}
    for module in model.modules():
        _keep(vars(module), contents)
    # Nothing here draws from NumPy's global generator, but a model, a loss or a dataset of the user's may.
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    elsewhere = [] if device.type == "cpu" else [device]
    with ExitStack() as stack:
        stack.enter_context(
            torch.random.fork_rng(elsewhere, device_type=device.type if elsewhere else "cuda")
        )
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.autocast(device.type, enabled=False))
        # Of the kernels for attention this one alone has a second derivative.
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)  # it has no derivative at all
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
            with undisturbed():
                random.setstate(states[0])
                np.random.set_state(states[1])  # noqa: NPY002
                for _, restore in contents.values():
                    restore()


def _keep(value: Any, contents: dict[int, tuple[Any, Callable[[], None]]], deep: bool = True) -> None:
    """Note how to put back what an object holds, and what it holds in turn, once for each object."""
    restore = None if id(value) in contents else _restoring(value)
    if restore is None:
        return
    contents[id(value)] = value, restore
    if deep and isinstance(value, dict):
        for name, item in value.items():
            # Nothing writes into parameters and buffers, which are large: calls are functional.
            _keep(item, contents, deep=name not in ("_parameters", "_buffers"))
    elif deep and isinstance(value, (list, deque)):
        for item in value:
            _keep(item, contents)


def _restoring(value: Any) -> Callable[[], None] | None:
    """What makes a mutable object what it is now; None where that cannot be told, or nothing changes it."""
    if isinstance(value, (dict, set)):
        before = copy.copy(value)

        def refill() -> None:
            value.clear()
            value.update(before)

        return refill
    if isinstance(value, (list, deque)):
        items = list(value)

        def extend() -> None:
            value.clear()
            value.extend(items)

        return extend
    if isinstance(value, torch.Generator):
        state = value.get_state()

        def rewind() -> None:
            value.set_state(state)

        return rewind
    if isinstance(value, torch.Tensor) and not (
        isinstance(value, torch.nn.Parameter) or value.is_inference()
    ):
        return _written_back(value)
    return None


def _written_back(t: torch.Tensor) -> Callable[[], None]:
    """A tensor's numbers, put back where something was written into it."""
    version, numbers = t._version, t.detach().clone()

    def restore() -> None:
        if t._version != version:
            with torch.no_grad():
                t.copy_(numbers)

    return restore


def reseed(seed: int, device: torch.device) -> None:
    """The same masks of dropout in every evaluation of the same samples."""
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device.type).manual_seed(seed)
