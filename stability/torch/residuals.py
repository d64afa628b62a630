"""A closure's residuals and their gradients, one by one: what Gauss-Newton curvature is made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch.func import functional_call, jacrev, vmap

from .. import _check
from ..lowrank.sample_space import Rows
from .products import Batch, backend_of

LOSSES = ("mse", "cross-entropy")
FLOOR = 1e-6
"""Added to the probabilities that curvature is read at: no residual is then divided by more than its root."""
IGNORED = -100
"""The label that torch's cross-entropy leaves out."""
CHUNK = 16
"""Rows of a graph that are differentiated at once."""
TILE = 2**24
"""Numbers of a Jacobian that samples, one by one, are asked for at once."""
_RESIDUALS = (
    "Return residuals of shape (b, k), or a tuple of such blocks; or (outputs, targets), with loss='mse' or "
    "loss='cross-entropy' given to LRSFN."
)
_NORMS = (torch.nn.modules.batchnorm._BatchNorm,)


class Linear(NamedTuple):
    """Half squares with curvature ``J^T J``: `carriers` has the gradients J, `values` are the residuals.

    Of plain residuals both are the same.

    Attributes
    ----------
    carriers : tensor (b, k)
        With its graph.
    values : tensor (b, k)
        With ``J^T r`` the gradient of the samples' losses.
    losses : tensor (b,)
        Of the samples.
    """

    carriers: torch.Tensor
    values: torch.Tensor
    losses: torch.Tensor


class LossesOnly(ValueError):
    """The closure returns losses, of which nobody can tell residuals."""


class Residuals:
    """The residuals of one batch, as a closure returns them.

    Parameters
    ----------
    closure : callable
        As `LRSFN.step` takes it.
    loss : {None, "mse", "cross-entropy"}
        What the closure's outputs and targets are compared by; None where it returns residuals.
    params : sequence of tensors
    module : torch.nn.Module, optional
        Whose parameters they are: samples of a closure with `rows` are then differentiated side by side.
    """

    def __init__(
        self,
        closure: Callable[..., Any],
        loss: str | None,
        params: Sequence[torch.Tensor],
        module: torch.nn.Module | None = None,
    ):
        self.batch, self.loss, self.params, self.module = Batch(closure), loss, list(params), module
        self.n = sum(p.numel() for p in self.params)
        self.seen: list[Linear] = []
        if module is not None:
            _check_modes(module)

    def evaluated(self) -> list[Linear]:
        """The blocks of the whole batch, with their graphs."""
        given = {"rows": slice(None)} if self.batch.takes_rows else {}
        with torch.enable_grad():
            return self._read(self.batch.closure(**given))

    def _read(self, returned: Any) -> list[Linear]:
        """A closure's answer as blocks."""
        if self.loss is not None:
            return [compared(self.loss, returned)]
        blocks = returned if isinstance(returned, (tuple, list)) else (returned,)
        for i, block in enumerate(blocks):
            _check_block(block, i, len(blocks))
        return [Linear(block, block.detach(), 0.5 * (block**2).sum(dim=1)) for block in blocks]

    def value(self) -> tuple[float, torch.Tensor]:
        """The loss at the parameters as they are, and all residuals (m,), scaled as in `rows`."""
        blocks = self.evaluated()
        loss = sum(float(block.losses.detach().double().mean()) for block in blocks)
        return loss, torch.cat([_scaled(block.values) for block in blocks])

    def rows(self, check: bool = False) -> Rows:
        """The batch linearized.

        Of a closure with `rows` each sample is evaluated alone; with `check` they are compared with the
        batch.

        Raises
        ------
        ValueError
            If the closure returns no residuals, they do not depend on the parameters, samples depend on each
            other, or their gradients do not fit into memory.
        LossesOnly
            If it returns losses.
        """
        blocks = self.evaluated()
        shapes = [tuple(block.values.shape) for block in blocks]
        m = sum(b * k for b, k in shapes)
        self._check_room(shapes, m)
        self.losses = torch.cat([block.losses.detach() for block in blocks])
        loss = sum(float(block.losses.detach().double().mean()) for block in blocks)
        values = torch.cat([_scaled(block.values) for block in blocks])
        jacobian, order = self._alone(blocks, check), None
        if jacobian is None:
            jacobian, order = self._together(blocks, m), tuple(shapes)
        else:  # sample by sample, all blocks of one beside each other
            values = torch.cat(
                [block.values / math.sqrt(len(block.values)) for block in blocks], dim=1
            ).reshape(-1)
            order = ((shapes[0][0], m // shapes[0][0]),)
        backend = backend_of(self.params[0])
        return Rows(backend.host(values).astype(float), jacobian, order, backend, loss)

    def _check_room(self, shapes: list[tuple[int, int]], m: int) -> None:
        numbers = float(m) * self.n
        what = " + ".join(f"{b} samples x {k} outputs" for b, k in shapes)
        told = f"The gradients of {m} residuals ({what}) by {self.n} parameters need"
        least = max(k for _, k in shapes)
        width = self.params[0].element_size()
        advice = (
            "Take smaller batches, or curvature='hessian', which asks for no gradient of a single sample."
        )
        free = _free(self.params[0].device)
        if free is not None and numbers * width > 0.5 * free:
            most = int(0.5 * free / (width * self.n * least))
            raise ValueError(
                f"{told} {numbers * width / 1e9:.1f} GB of {free / 1e9:.1f} GB: at most {most} samples fit. "
                f"{advice}"
            )
        if free is None:
            _check.room(told, numbers, width=width, advice=advice)
        _check.room(f"The couplings of {m} residuals ({what}) need", 4.0 * m * m, advice=advice)

    def _alone(self, blocks: list[Linear], check: bool) -> torch.Tensor | None:
        """Gradients (m, n) of samples side by side, each by itself; None where that cannot be done."""
        b = len(blocks[0].values)
        if not self.batch.takes_rows or self.module is None or any(len(one.values) != b for one in blocks):
            return None
        names = {id(p): name for name, p in self.module.named_parameters()}
        if not all(id(p) in names for p in self.params):
            return None
        given = {names[id(p)]: p.detach() for p in self.params}
        caller = _Caller(self.module, self.batch.closure)

        def one(weights: dict[str, torch.Tensor], row: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            answer = functional_call(caller, {f"module.{k}": w for k, w in weights.items()}, (row[None],))
            found = self._read(answer)
            return tuple(torch.cat([getattr(x, at)[0] for x in found]) for at in ("carriers", "values"))

        k = sum(block.values.shape[1] for block in blocks)
        each = vmap(
            jacrev(one, has_aux=True),
            in_dims=(None, 0),
            randomness="different",
            # Each sample has k rows of a Jacobian, as wide as the parameters are many.
            chunk_size=max(1, TILE // (k * self.n)),
        )
        try:
            found, values = each(given, torch.arange(b))
        except (RuntimeError, IndexError, TypeError, NotImplementedError):
            return None  # operations that have no rule for many samples at once, or rows that are no tensor
        if check:
            self._compare(torch.cat([block.values for block in blocks], dim=1), values)
        parts = [found[names[id(p)]].reshape(b * k, -1) for p in self.params]
        return torch.cat(parts, dim=1).div_(math.sqrt(b))

    def _compare(self, whole: torch.Tensor, single: torch.Tensor) -> None:
        """Raise where samples alone have other residuals than in their batch, and nothing is random."""
        allowed = 1e-3 * float(whole.abs().max()) + 1e-6
        if not bool((whole - single).abs().max() > allowed):
            return
        # A second look at the same batch tells dropout, which may differ, from samples that feel each other.
        again = torch.cat([block.values for block in self.evaluated()], dim=1)
        if bool((whole - again).abs().max() <= allowed):
            gap = float((whole - single).abs().max())
            raise ValueError(
                "Gauss-Newton curvature needs the residuals of single samples, and here they change by up to "
                f"{gap:.2g} where a sample is evaluated without the rest of its batch. Use "
                "curvature='hessian'."
            )

    def _together(self, blocks: list[Linear], m: int) -> torch.Tensor:
        """Gradients (m, n) of all residuals by the batch's own graph, some rows at once."""
        first = self.params[0]
        jacobian = torch.zeros(m, self.n, dtype=first.dtype, device=first.device)
        start = 0
        for block in blocks:
            flat = _scaled(block.carriers)
            for i in range(0, len(flat), CHUNK):
                picked = torch.eye(len(flat), dtype=flat.dtype, device=flat.device)[i : i + CHUNK]
                target = jacobian[start + i : start + i + len(picked)]
                column = 0
                for p, part in zip(self.params, self._pulled(flat, picked), strict=True):
                    if part is not None:
                        target[:, column : column + p.numel()] = part.reshape(len(picked), -1)
                    column += p.numel()
            start += len(flat)
        return jacobian

    def _pulled(self, flat: torch.Tensor, picked: torch.Tensor) -> Sequence[torch.Tensor | None]:
        options: dict[str, Any] = {"retain_graph": True, "allow_unused": True}
        try:
            return torch.autograd.grad(flat, self.params, picked, is_grads_batched=True, **options)
        except RuntimeError as error:
            # A backward of one's own may have no rule for many rows at once; one at a time needs none.
            if "vmap" not in str(error) and "batch" not in str(error):
                raise
            rows = [torch.autograd.grad(flat, self.params, one, **options) for one in picked]
            return [None if p[0] is None else torch.stack(p) for p in zip(*rows, strict=True)]


class _Caller(torch.nn.Module):
    """A closure as a module, whose parameters `torch.func` can exchange while it is called."""

    def __init__(self, module: torch.nn.Module, call: Callable[..., Any]):
        super().__init__()
        self.module, self.call = module, call

    def forward(self, rows: torch.Tensor) -> Any:
        return self.call(rows=rows)


def _scaled(block: torch.Tensor) -> torch.Tensor:
    """Residuals (b, k) as (b k,), over the root of the batch: the mean over samples is then a sum."""
    return block.reshape(-1) / math.sqrt(len(block))


def _check_modes(module: torch.nn.Module) -> None:
    for name, part in module.named_modules():
        if isinstance(part, _NORMS) and part.training:
            raise ValueError(
                "Gauss-Newton curvature needs the residuals of single samples, and "
                f"`{name or type(part).__name__}` normalizes each by its whole batch in train mode. Put it "
                "into eval mode, or use curvature='hessian'."
            )


def _check_block(block: Any, index: int, count: int) -> None:
    """Raise unless a block holds residuals; losses, which have no second axis, are told apart."""
    what = "The closure" if count == 1 else f"Block {index + 1} of the closure's residuals"
    if not isinstance(block, torch.Tensor):
        raise ValueError(f"{what} must be tensors; got type {type(block).__name__}. {_RESIDUALS}")
    if count == 1 and block.ndim < 2:
        raise LossesOnly(f"got shape {tuple(block.shape)}")
    if block.ndim != 2 or not block.numel() or not block.dtype.is_floating_point:
        raise ValueError(
            f"{what} must be residuals of shape (b, k), real numbers; got {block.dtype} of shape "
            f"{tuple(block.shape)}. {_RESIDUALS}"
        )
    if not block.requires_grad:
        raise ValueError(f"{what} must depend on the parameters; got residuals without a graph. {_RESIDUALS}")


def compared(loss: str, returned: Any) -> Linear:
    """Outputs and targets as squares whose curvature is the Gauss-Newton one of their loss.

    The mean squared error of the samples' outputs has the residuals ``sqrt(2 / k) (z - y)``. The Hessian of
    cross-entropy by the scores is ``S S^T`` with ``S = diag(sqrt p) - p sqrt(p)^T``, and ``r = (p - y) / sqrt
    p`` has ``S r = p - y``: it is curvature's p that is kept away from 0, and the gradient stays exact.

    Raises
    ------
    ValueError
        If they are not two tensors whose shapes go together.
    LossesOnly
        If losses were returned.
    """
    if isinstance(returned, torch.Tensor):
        raise LossesOnly(f"got shape {tuple(returned.shape)}")
    if not isinstance(returned, (tuple, list)) or len(returned) != 2:
        raise ValueError(
            f"With loss={loss!r} the closure must return (outputs, targets); got type "
            f"{type(returned).__name__}. Return both, without comparing them."
        )
    outputs, targets = returned
    if not all(isinstance(part, torch.Tensor) for part in returned) or not outputs.requires_grad:
        raise ValueError(
            f"With loss={loss!r} the closure must return (outputs, targets) as tensors, outputs with their "
            "graph. Return the model's output as it is."
        )
    if loss == "mse":
        return _squares(outputs, targets)
    return _softmax(outputs, targets)


def _squares(outputs: torch.Tensor, targets: torch.Tensor) -> Linear:
    if outputs.shape != targets.shape or outputs.ndim == 0:
        raise ValueError(
            f"`outputs` and `targets` must have one shape (b, ...); got {tuple(outputs.shape)} and "
            f"{tuple(targets.shape)}. Reshape the targets."
        )
    gap = (outputs - targets).reshape(len(outputs), -1)
    residuals = gap * math.sqrt(2 / gap.shape[1])
    return Linear(residuals, residuals.detach(), 0.5 * (residuals**2).sum(dim=1))


def _softmax(scores: torch.Tensor, targets: torch.Tensor) -> Linear:
    if scores.ndim != 2 or targets.shape not in (scores.shape[:1], scores.shape):
        raise ValueError(
            f"Cross-entropy needs scores (b, classes) and labels (b,) or probabilities (b, classes); got "
            f"{tuple(scores.shape)} and {tuple(targets.shape)}. Flatten positions into samples."
        )
    losses = torch.nn.functional.cross_entropy(scores, targets, reduction="none")
    wanted = targets
    if targets.ndim == 1:
        # Compared with all classes, for one-hot codes of labels that a function transform holds.
        classes = torch.arange(scores.shape[1], device=scores.device)
        wanted = (targets[:, None] == classes).to(scores.dtype)
    p = torch.softmax(scores, dim=1).detach()
    held = (p + FLOOR) / (1 + FLOOR * p.shape[1])
    root = held.sqrt()
    carriers = root * (scores - (held * scores).sum(dim=1, keepdim=True))
    values = (p - wanted) / root
    if targets.ndim == 1:  # positions that torch leaves out have no residual either
        counts = (targets != IGNORED)[:, None].to(scores.dtype)
        carriers, values = carriers * counts, values * counts
    return Linear(carriers, values, losses)


def _free(device: torch.device) -> float | None:
    """Free memory of a CUDA device, in bytes; None elsewhere."""
    return float(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else None
