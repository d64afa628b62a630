"""A network and its loss as an objective for `stability.minimize`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from .. import _check
from ..objectives.base import Objective
from .batches import Part, joined, look
from .losses import Losses
from .products import DTYPES, Products, trainable
from .still import untouched
from .whole import Whole, takes_two

ALL = 2**53
"""Samples to read: as many as there are."""
TOGETHER = 1024
"""Samples that are evaluated at once: more of them would only take memory."""


class ModelObjective(Objective):
    """The mean loss of a network over its data, as a function of its parameters; made by `objective`.

    Attributes
    ----------
    dim : int
        Parameters that require gradients.
    n_samples : int
    dtype : {"float64", "float32"}
        Of the parameters.
    start : array (dim,)
        Where the model was when this was made.
    """

    def __init__(self, model: torch.nn.Module, loss: Callable[..., Any], data: Any):
        self._params = [p for _, p in trainable(model)]
        self._model, self._whole = model, Whole(model, loss, self._params, seed=0)
        looked = look(data, 1, ALL, seed=0)
        parts = looked.parts(ALL)
        batch = (
            parts[0].batch if len(parts) == 1 else joined([p.batch for p in parts], [p.size for p in parts])
        )
        if batch is None:
            raise ValueError(
                "`data` must be batches that can be joined; here their shapes differ. Pad all samples to one "
                "shape."
            )
        self.dim, self.n_samples = self._whole.n, sum(part.size for part in parts)
        self.dtype = DTYPES[self._whole.dtype]
        with self._still():
            self._data = self._whole.placed(Part(batch, self.n_samples, 0))
            self._losses = Losses(self._whole, self._data.only(slice(0, 2), 2))
        self.start = self._whole.w.cpu().numpy().copy()

    def __repr__(self) -> str:
        return f"objective({type(self._model).__name__}, {self.dim} parameters, {self.n_samples} samples)"

    def _still(self) -> Any:
        return untouched(self._model, self._whole.device)

    def _parts(self, batch: Any) -> Iterator[Part]:
        """The samples that are asked for, as many as are evaluated at once."""
        rows = torch.arange(self._data.size) if batch is None else torch.as_tensor(np.asarray(batch))
        for piece in rows.to(self._whole.device).split(TOGETHER):
            yield self._data.only(piece, len(piece))

    def _at(self, w: Any) -> torch.Tensor:
        return torch.as_tensor(np.asarray(w), dtype=self._whole.dtype, device=self._whole.device)

    def _size(self, batch: Any) -> int:
        return self._data.size if batch is None else len(batch)

    def value(self, w: Any, batch: Any = None) -> Any:
        """The mean loss of some samples, of all by default."""
        with self._still(), torch.no_grad():
            at = self._at(w)
            total = sum(float(self._losses.total(at, part)) for part in self._parts(batch))
        return total / self._size(batch)

    def value_and_gradient(self, w: Any, batch: Any = None) -> tuple[float, Any]:
        """Both by one pass through the network."""
        total, gradient, size = 0.0, torch.zeros_like(self._whole.w), self._size(batch)
        with self._still():
            at = self._at(w).requires_grad_()
            for part in self._parts(batch):
                loss = self._losses.total(at, part)
                gradient += torch.autograd.grad(loss, at)[0]
                total += float(loss.detach())
        return total / size, (gradient / size).cpu().numpy()

    def gradient(self, w: Any, batch: Any = None) -> Any:
        """Of the mean loss of some samples (dim,)."""
        return self.value_and_gradient(w, batch)[1]

    def products(self, w: Any, batch: Any = None) -> Callable[[Any], Any]:
        """Block products with the Hessian of some samples' mean loss: one linearisation for all of them."""
        size = self._size(batch)
        with self._still():
            at = self._at(w).requires_grad_()
            found = [
                Products(self._losses.total(at, part) / size, [at], ["w"]) for part in self._parts(batch)
            ]

        def product(V: Any) -> Any:
            block = torch.as_tensor(np.asarray(V), dtype=self._whole.dtype, device=self._whole.device)
            columns = block.reshape(self.dim, -1)
            return sum(one(columns) for one in found).reshape(block.shape).cpu().numpy()

        return product

    def hvp(self, w: Any, V: Any, batch: Any = None) -> Any:
        """Block products with the Hessian (dim, k)."""
        return self.products(w, batch)(V)

    def load(self, w: Any) -> None:
        """Put parameters (dim,) into the model.

        Raises
        ------
        ValueError
            If they are of another shape.
        """
        w = _check.shaped("w", w, (self.dim,))
        with torch.no_grad():
            for p, piece in zip(self._params, self._whole.unflatten(self._at(w)).values(), strict=True):
                p.copy_(piece)


def objective(model: torch.nn.Module, loss: Callable[..., Any], data: Any) -> ModelObjective:
    """A network's mean loss over its data as an objective, which `stability.minimize` trains.

    Examples
    --------
    >>> import stability as st, torch
    >>> from stability.torch import objective
    >>> x = torch.linspace(-1, 1, 60)[:, None]
    >>> model = torch.nn.Sequential(torch.nn.Linear(1, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    >>> F = objective(model, lambda model, batch: (model(batch[0]) - batch[1]).square().mean(1), (x, x**3))
    >>> run = st.minimize(F, F.start, batch=20, sweeps=200)  # nothing to tune
    >>> F.load(run.final)
    >>> bool(run.loss < 0.05 * F.value(F.start))
    True

    The model itself moves at `load` alone. Dropout has the same masks at every evaluation, and batch
    normalisation in training mode leaves its running means as they are.

    Parameters
    ----------
    model : torch.nn.Module
    loss : callable
        ``loss(model, batch)`` returns one loss for each sample, shape (b,), or their mean.
    data : tensors, Dataset, DataLoader, or list of batches
        All of it is read, into memory. Tensors, alone or in a tuple or dict, have their samples along the
        first axis.

    Returns
    -------
    ModelObjective
        With ``start``, the parameters as they are, and ``load``, which puts others into the model.

    Raises
    ------
    ValueError
        If the loss is no function of a model and a batch, or returns no losses, or batches cannot be joined.
    """
    if not isinstance(model, torch.nn.Module):
        raise ValueError(f"`model` must be a torch.nn.Module; got {model!r}. Wrap its parameters in one.")
    if not callable(loss) or not takes_two(loss):
        raise ValueError(
            f"`loss` must be a function of the model and a batch; got {loss!r}. Write lambda model, batch: "
            "criterion(model(batch[0]), batch[1])."
        )
    # What torch.compile has wrapped is asked as it was: compiled code has one derivative.
    return ModelObjective(getattr(model, "_orig_mod", model), loss, data)
