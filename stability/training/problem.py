"""What is minimized, and the work that it has cost."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import _check
from .._array import Backend, namespace
from .._display import Shown
from ..lowrank.sample_space import Rows
from ..objectives.base import defines, trait

VALUE_COST = 0.5
"""Passes that a value costs; a gradient costs one, a Hessian product two."""


@dataclass
class Work:
    """What a run has asked of its objective, in passes over single samples."""

    gradients: int = 0
    products: int = 0
    values: int = 0
    gradient_passes: float = 0.0
    hessian_passes: float = 0.0
    seconds: float = 0.0

    @property
    def passes(self) -> float:
        """All passes over single samples."""
        return self.gradient_passes + self.hessian_passes


class Problem:
    """An objective on minibatches: one interface to those with samples and those without."""

    def __init__(self, objective: Any, backend: Backend):
        self.objective, self.backend = objective, backend
        self.sampled = trait(objective, "n_samples") is not None
        self.samples = int(objective.n_samples) if self.sampled else 1
        self.dim = int(objective.dim)

    def _options(self, rows: np.ndarray | None) -> dict[str, Any]:
        if rows is None:
            return {}
        return {"batch": rows if self.backend.name == "numpy" else self.backend.indices(rows)}

    def loss_and_gradient(self, w: Any, rows: np.ndarray | None) -> tuple[float, Any]:
        """Of a batch; all samples where `rows` is None."""
        options = self._options(rows)
        # Both at once where the objective can: a network passes its data through the layers once.
        if defines(self.objective, "value_and_gradient"):
            value, gradient = self.objective.value_and_gradient(w, **options)
        else:
            value, gradient = self.objective.value(w, **options), self.objective.gradient(w, **options)
        return float(value), gradient

    def value(self, w: Any, rows: np.ndarray | None = None) -> float:
        """The loss of a batch."""
        return float(self.objective.value(w, **self._options(rows)))

    def products(self, w: Any, rows: np.ndarray | None) -> Callable[[Any], Any]:
        """Block Hessian products of a batch at `w`."""
        options = self._options(rows)
        # One linearisation for all blocks of a solver; `hvp` begins anew with each.
        if defines(self.objective, "products"):
            return self.objective.products(w, **options)
        if not defines(self.objective, "hvp") and defines(self.objective, "hessian"):
            # Built once for all blocks: who has no products has a Hessian small enough to be kept.
            whole = self.objective.hessian(w, **options)
            return lambda V: whole @ V
        return lambda V: self.objective.hvp(w, V, **options)

    def residuals(self, w: Any, rows: np.ndarray | None) -> tuple[Rows, float]:
        """A batch's residuals with their gradients, over the batch's root; and the weight of the ridge."""
        count = self.samples if rows is None else len(rows)
        outputs = int(getattr(self.objective, "outputs", 1))
        _check.room(
            f"The gradients of {count * outputs} residuals ({count} samples x {outputs} outputs) by "
            f"{self.dim} weights need",
            float(count) * outputs * self.dim,
            advice="Give a smaller `batch`, or a method with curvature='hessian'.",
        )
        values, jacobian = self.objective.residuals(w, **self._options(rows))
        xp, share = namespace(jacobian), math.sqrt(count)
        host = self.backend.host(values).astype(float).reshape(-1) / share
        flat = xp.reshape(jacobian, (-1, self.dim)) / share
        half = 0.5 * float(host @ host)
        return Rows(host, flat, ((count, outputs),), self.backend, half), float(self.objective.l2)

    def hessian(self, w: Any, rows: np.ndarray | None) -> Any:
        """The whole Hessian of a batch."""
        return self.objective.hessian(w, **self._options(rows))


@dataclass(frozen=True)
class Progress(Shown):
    """What a callback is shown after every iteration; returning True ends the run.

    Attributes
    ----------
    iteration : int
    sweeps, seconds : float
    loss : float
        Of the gradient batch, before the step.
    step : float
        0 where the step was not taken; nan with SciPy's optimizers, whose loss is one after the step.
    w : array (d,)
        The iterate itself: copy what you keep.
    eigenvalues : array (rank,) or None
    """

    iteration: int
    sweeps: float
    seconds: float
    loss: float
    step: float
    w: Any
    eigenvalues: np.ndarray | None
