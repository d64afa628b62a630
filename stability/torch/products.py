"""Losses over some of a batch's samples, and block products with their Hessian by batched double backward."""

from __future__ import annotations

import inspect
import reprlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from typing import Any

import array_api_compat.torch
import torch

from .. import _check
from .._array import Backend
from .still import twice

_TWICE = (
    "Products with the Hessian differentiate the loss twice: use operations that allow it. Of the kernels "
    "for attention only one does: `from torch.nn.attention import sdpa_kernel, SDPBackend`, and compute the "
    "loss under `with sdpa_kernel(SDPBackend.MATH):` inside the closure."
)

CHUNK = 8
"""Columns differentiated at once: on a CPU, as fast as any larger number, and it bounds the memory."""


class Batch:
    """The samples behind a closure: its mean loss over all of them, or over some rows.

    Attributes
    ----------
    size : int or None
        Samples, once the whole batch was evaluated; None where neither the losses nor `batch_size` tell.
    losses : tensor (b,) or None
        Of the whole batch, as evaluated last, without their graph; None where the closure gives their mean.
    """

    def __init__(self, closure: Callable[..., Any], batch_size: int | None = None):
        if not callable(closure):
            raise ValueError(
                f"`closure` must be a function that returns the loss; got {closure!r}. Call step(lambda "
                "rows: ...), without backward."
            )
        self.closure, self.takes_rows = closure, _takes_rows(closure)
        self.size = None if batch_size is None else _check.count("batch_size", batch_size)
        self.told = self.size is not None  # by the caller, who may be wrong
        self.losses: torch.Tensor | None = None

    def curved(self, params: Sequence[torch.Tensor]) -> bool:
        """Whether curvature can be found."""
        return True

    def products(
        self, rows: torch.Tensor | None, params: Sequence[torch.Tensor], names: Sequence[str], shift: float
    ) -> Products:
        """Products with the Hessian of some rows (k,), or of the whole batch."""
        return Products(self.loss(rows, bent=True), params, names, shift=shift, partly=True)

    @torch.no_grad()
    def again(self, drawn: torch.Tensor) -> float:
        """The whole batch's mean loss at the parameters as they are now, with what was drawn before."""
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(drawn)
            given = {"rows": slice(None)} if self.takes_rows else {}
            return float(self.closure(**given).mean())

    def loss(self, rows: torch.Tensor | None = None, *, bent: bool = False) -> torch.Tensor:
        """The mean loss of the rows (k,), or of the whole batch, with its graph.

        `bent` says that it is to be differentiated twice.
        """
        with torch.enable_grad(), twice() if bent else nullcontext():
            # A slice for the whole batch: indexing by it copies nothing.
            given = {"rows": slice(None) if rows is None else rows} if self.takes_rows else {}
            try:
                losses = _differentiable(self.closure(**given))
            except IndexError as error:
                if rows is None or not self.told:
                    raise
                what = f"got {self.size}, and the closure has no such `rows`"
                raise ValueError(
                    f"`batch_size` must be the number of samples in the batch; {what}. Pass len(x) of this "
                    "batch."
                ) from error
            self._count(losses, rows)
            if rows is None:
                self.losses = losses.detach() if losses.ndim else None
            return losses.mean()

    def _count(self, losses: torch.Tensor, rows: torch.Tensor | None) -> None:
        expected = self.size if rows is None else len(rows)
        if losses.ndim == 0 or (expected is not None and len(losses) == expected):
            return
        if expected is not None:
            what, fix = f"{expected} `rows`", "Let it return the losses of `rows` alone"
            if rows is None:
                what, fix = f"`batch_size`={expected}", "Pass len(x) of this batch, or leave it out"
            raise ValueError(
                f"`closure` must return one loss per sample, or their mean; got {len(losses)} losses for "
                f"{what}. {fix}."
            )
        self.size = len(losses)


def _takes_rows(closure: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(closure).parameters.values()
    except (TypeError, ValueError):  # a builtin may tell nothing of its arguments
        return False
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    # By name: `lambda x=x, y=y: ...` is how loops bind their variables, and asks for no rows.
    needed = [
        p.name for p in parameters if p.default is p.empty and p.kind not in optional and p.name != "rows"
    ]
    if needed:
        raise ValueError(
            "`closure` must take no argument, or one called `rows`; got one that needs "
            f"{', '.join(needed)}. Bind what else it needs by defaults: lambda rows, x=x: ..."
        )
    return any(p.name == "rows" for p in parameters)


def _differentiable(losses: Any) -> torch.Tensor:
    if not isinstance(losses, torch.Tensor):
        raise ValueError(
            f"`closure` must return the loss as a tensor; got {losses!r} of type {type(losses).__name__}. "
            "Return it without .item()."
        )
    if losses.ndim > 1 or losses.numel() == 0:
        raise ValueError(
            "`closure` must return a number, or one loss per sample, shape (b,) with b >= 1; got shape "
            f"{tuple(losses.shape)}. "
            + ("Take losses.flatten(1).mean(1)." if losses.numel() else "Leave out batches of no samples.")
        )
    if not losses.requires_grad:
        raise ValueError(
            "`closure` must return a loss that can be differentiated; got one without a graph. Compute it "
            "from the parameters, without detach(), argmax or torch.no_grad()."
        )
    return losses


def gradient(
    loss: torch.Tensor,
    params: Sequence[torch.Tensor],
    names: Sequence[str],
    *,
    create_graph: bool = False,
    partly: bool = False,
) -> list[torch.Tensor | None]:
    """Gradients in the parameters' shapes, None for frozen ones.

    A loss has to depend on all the others, or on one of them at least where it may do so `partly`: it is None
    for those that it does not depend on.
    """
    asked = [p for p in params if p.requires_grad]
    try:
        found = iter(torch.autograd.grad(loss, asked, create_graph=create_graph, allow_unused=True))
    except RuntimeError as error:
        # A backward leaves gradients in the parameters, where nothing here puts any, and has freed the graph.
        if all(p.grad is None for p in params):
            raise
        raise ValueError(
            "`closure` must return the loss and not call backward, which torch.optim.LBFGS asks for. Remove "
            "backward() from it."
        ) from error
    parts = [next(found) if p.requires_grad else None for p in params]
    unused = [
        name for name, p, part in zip(names, params, parts, strict=True) if part is None and p.requires_grad
    ]
    if unused and not (partly and len(unused) < len(asked)):
        raise ValueError(
            f"The loss must depend on every parameter; it does not on {', '.join(unused[:4])}. Leave such "
            "parameters out of the optimizer."
        )
    # Embeddings may have a sparse one.
    return [
        part.to_dense() if part is not None and part.layout is not torch.strided else part for part in parts
    ]


def flatten(tensors: Iterable[torch.Tensor]) -> torch.Tensor:
    """All entries in one vector (n,)."""
    return torch.cat([t.reshape(-1) for t in tensors])


class Products:
    """``V -> (H + shift I) V`` for the Hessian of one loss, on tensors (n, k).

    The loss's graph is kept, and read once per chunk of columns.
    """

    def __init__(
        self,
        loss: torch.Tensor,
        params: Sequence[torch.Tensor],
        names: Sequence[str],
        *,
        shift: float = 0.0,
        partly: bool = False,
    ):
        # The gradient's own graph is what the products differentiate.
        parts = gradient(loss, params, names, create_graph=True, partly=partly)
        self._differentiate(parts, params, shift, _coarsest(loss))

    @classmethod
    def of_gradients(
        cls, parts: Sequence[torch.Tensor | None], params: Sequence[torch.Tensor], shift: float
    ) -> Products:
        """Of the loss that has these gradients, with their graph; None where it does not depend on one."""
        made = cls.__new__(cls)
        made._differentiate(parts, params, shift, max(map(_coarsest, filter(_has_graph, parts)), default=0.0))
        return made

    def _differentiate(
        self,
        parts: Sequence[torch.Tensor | None],
        params: Sequence[torch.Tensor],
        shift: float,
        unit: float,
    ) -> None:
        self.params, self.shift, self.batched, self.unit = list(params), shift, True, unit
        self.asked = [p for p in params if p.requires_grad]
        # Where a loss is linear in a parameter, its gradient has no graph and adds nothing to any product.
        self.curved = [_has_graph(part) for part in parts]
        self.parts = [part for part in parts if part is not None and part.requires_grad]
        self.n = sum(p.numel() for p in self.params)
        _check_twice(self.parts)

    @property
    def backend(self) -> Backend:
        """The arrays that it takes, for `stability.randomized_eigh` and `stability.spectrum`."""
        return backend_of(self.params[0])

    def __call__(self, block: torch.Tensor) -> torch.Tensor:
        if not isinstance(block, torch.Tensor):
            raise ValueError(
                f"The Hessian's products take a tensor of shape ({self.n}, k); got type "
                f"{type(block).__name__}. Convert it: torch.as_tensor(...)."
            )
        if block.ndim != 2 or block.shape[0] != self.n:
            raise ValueError(
                f"The Hessian's products take a block of shape ({self.n}, k); got shape {tuple(block.shape)}."
            )
        result = self.shift * block
        if self.parts:
            for start in range(0, block.shape[1], CHUNK):
                columns = slice(start, start + CHUNK)
                self._add(block[:, columns], result[:, columns])
        return result

    def _add(self, block: torch.Tensor, result: torch.Tensor) -> None:
        rows = torch.split(block.detach(), [p.numel() for p in self.params])
        # Columns of a block become leading axes, over which torch batches its backward.
        seeds = [
            r.T.reshape(-1, *p.shape)
            for r, p, curved in zip(rows, self.params, self.curved, strict=True)
            if curved
        ]
        outputs = torch.split(result, [p.numel() for p in self.params])
        for output, image in zip(outputs, self._images(seeds), strict=True):
            if image is not None:
                output += image.reshape(output.shape[1], -1).T

    def _images(self, seeds: list[torch.Tensor]) -> Sequence[torch.Tensor | None]:
        if self.batched:
            try:
                images = torch.autograd.grad(
                    self.parts,
                    self.asked,
                    seeds,
                    is_grads_batched=True,
                    retain_graph=True,
                    allow_unused=True,
                )
                return self._for_all(images)
            except RuntimeError:  # an operation that vmap cannot batch, or too little memory for a chunk
                self.batched = False
        try:
            columns = [
                torch.autograd.grad(self.parts, self.asked, column, retain_graph=True, allow_unused=True)
                for column in zip(*seeds, strict=True)
            ]
        except RuntimeError as error:
            error.add_note(_TWICE)
            raise
        return self._for_all(
            [None if one[0] is None else torch.stack(one) for one in zip(*columns, strict=True)]
        )

    def _for_all(self, images: Sequence[torch.Tensor | None]) -> list[torch.Tensor | None]:
        """Images for all parameters: of frozen ones there are none."""
        found = iter(images)
        return [next(found) if p.requires_grad else None for p in self.params]


def _has_graph(part: torch.Tensor | None) -> bool:
    return part is not None and part.requires_grad


DTYPES = {torch.float32: "float32", torch.float64: "float64"}


def backend_of(p: torch.Tensor) -> Backend:
    """Tensors of a parameter's type on its device."""
    return Backend("torch", array_api_compat.torch, p.device, DTYPES[p.dtype])


def _coarsest(loss: torch.Tensor) -> float:
    """The rounding unit of the coarsest arithmetic in a loss's graph, as autocast puts it there."""
    waiting, seen, unit = [loss.grad_fn], set(), float(torch.finfo(loss.dtype).eps)
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        # The types of a node's outputs have no public name yet.
        for output in getattr(node, "_input_metadata", ()):
            if output.dtype in (torch.float16, torch.bfloat16):
                unit = max(unit, float(torch.finfo(output.dtype).eps))
        waiting += [following for following, _ in node.next_functions]
    return unit


def _check_twice(gradients: Sequence[torch.Tensor]) -> None:
    """Raise where an operation is marked as differentiable once: its second would come out as 0."""
    waiting, seen = [g.grad_fn for g in gradients], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        if node.name().endswith("::Error"):
            raise ValueError(
                "The loss must be differentiable twice; it holds an operation marked `once_differentiable`. "
                "Replace that operation."
            )
        seen.add(node)
        waiting += [following for following, _ in node.next_functions]


def trainable(params: torch.nn.Module | Iterable[Any]) -> Any:
    """A module's trainable parameters with their names; anything else as it is."""
    if not isinstance(params, torch.nn.Module):
        return params
    named = list(params.named_parameters())
    kept = [(name, p) for name, p in named if p.requires_grad]
    if not kept:
        whose = f"{type(params).__name__}'s {len(named)} parameters"
        raise ValueError(
            f"`params` must hold tensors that require gradients; none of {whose} does. Call requires_grad_() "
            "on those to train."
        )
    return kept


def _named(params: Any) -> list[tuple[str, torch.Tensor]]:
    """Tensors with what errors call them."""
    single = isinstance(params, torch.Tensor) or not isinstance(params, (torch.nn.Module, Iterable))
    named = []
    for i, item in enumerate([params] if single else trainable(params)):
        name, p = item if isinstance(item, tuple) and len(item) == 2 else ("", item)
        if not isinstance(p, torch.Tensor):
            raise ValueError(
                f"`params` must be a module or tensors; got {reprlib.repr(p)}, of type {type(p).__name__}. "
                "Pass the module, or its parameters()."
            )
        named.append((name or f"parameter {i} of shape {tuple(p.shape)}", p))
    return named


def hessian_products(
    params: torch.nn.Module | torch.Tensor | Iterable[torch.Tensor], closure: Callable[..., Any]
) -> tuple[Products, int]:
    """Products with the Hessian of a loss at the parameters' present values.

    They are what `stability.randomized_eigh` and `stability.spectrum` take.

    Parameters
    ----------
    params : torch.nn.Module, tensor, or iterable of tensors
        A module's frozen parameters are left out.
    closure : callable
        Returns the loss, or one loss per sample, and does not call backward; evaluated once.

    Returns
    -------
    hvp : callable
        Maps a tensor of shape (n, k) to one of the same shape, on the parameters' device; parameters one
        after the other, each flattened.
    n : int

    Raises
    ------
    ValueError
        If `params` are no tensors that require gradients, of one type, or the loss cannot be differentiated
        or does not depend on one.

    Examples
    --------
    >>> import torch
    >>> from stability.torch import hessian_products
    >>> w = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> hvp, n = hessian_products([w], lambda: (torch.tensor([3.0, -1.0]) * w**2).sum() / 2)
    >>> hvp(torch.eye(n))
    tensor([[ 3.,  0.],
            [ 0., -1.]])
    >>> from stability import randomized_eigh
    >>> randomized_eigh(hvp, n, 1).eigenvalues
    array([3.])
    """
    named = _named(params)
    frozen = [name for name, p in named if not p.requires_grad]
    if frozen or not named:
        raise ValueError(
            "`params` must hold tensors that require gradients; got "
            f"{f'{frozen[0]}, which does not' if frozen else 'none'}. Give those that are trained, [p for p "
            "in ... if p.requires_grad], or the module itself."
        )
    other = [
        f"{name} is {p.dtype} on {p.device}"
        for name, p in named
        if p.dtype not in DTYPES or (p.dtype, p.device) != (named[0][1].dtype, named[0][1].device)
    ]
    if other:
        raise ValueError(
            f"`params` must all be float32 or all float64, on one device; {other[0]}. Convert the model with "
            ".float()."
        )
    hvp = Products(Batch(closure).loss(bent=True), [p for _, p in named], [name for name, _ in named])
    return hvp, hvp.n
