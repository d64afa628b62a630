"""An optimizer as it stands: its steps, its metric and its memory, frozen for the advice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import _check
from .._array import Backend
from ..methods.memory import Memory

ANSWERS = (
    "The metric is held as it stands: beyond the limit second moments grow with the gradients and shorten "
    "steps, so that runs may keep to this place at a few times the limit."
)
"""The note on a metric that follows gradients: near a place at rest it answers deviations in second order."""


@dataclass(frozen=True)
class Optimizer:
    """An optimizer as it stands, linearised: with a metric ``P = S S``, it is SGD in ``y = S^-1 w``.

    Attributes
    ----------
    steps : sequence of float
        The learning rate of each parameter group.
    groups : array of int (n,), optional
        The group of each parameter; not needed for one group.
    root : callable, optional
        ``V -> S V`` (n, k) -> (n, k), S symmetric, of the metric without the groups' learning rates, and
        keeping to each group; the identity by default. What is constant in a step but no learning rate
        belongs in it too: Adam's ``1 / (1 - beta1^t)``, a damping of the gradient.
    memory : Memory, optional
    weight_decay : sequence of float
        Of each group.
    decoupled : bool
        Whether weight decay acts beside the metric, as in AdamW, or joins the gradient.
    multiplies : bool
        Whether the curvature's noise makes steps longer: not where a step's length is bounded, as a sign's.
    label : str
        How the optimizer is called in sentences.
    notes : tuple of str
        What was assumed when it was read, a sentence each.
    cost : float
        Gradients that it took to be read, as a metric from the gradients at a place: a part of the budget.

    Raises
    ------
    ValueError
        If a step or decay is out of range, or the groups are no groups of these steps.

    Examples
    --------
    >>> from stability.advice.optimizer import Optimizer
    >>> Optimizer(steps=(0.1, 0.01), groups=[0, 0, 1]).ratios
    array([1. , 0.1])
    """

    steps: Sequence[float]
    groups: Any = None
    root: Callable[[Any], Any] | None = None
    memory: Memory | None = None
    weight_decay: Sequence[float] = (0.0,)
    decoupled: bool = True
    multiplies: bool = True
    label: str = "SGD"
    notes: tuple[str, ...] = ()
    cost: float = 0.0

    def __post_init__(self) -> None:
        steps = tuple(_check.positive("steps", step) for step in np.atleast_1d(self.steps))
        decay = tuple(_check.nonnegative("weight_decay", one) for one in np.atleast_1d(self.weight_decay))
        decay = decay * len(steps) if len(decay) == 1 else decay
        if len(decay) != len(steps):
            raise ValueError(
                f"`weight_decay` must be one number, or one for each of the {len(steps)} groups; got "
                f"{len(decay)}. Give one each."
            )
        object.__setattr__(self, "steps", steps)
        object.__setattr__(self, "weight_decay", decay)
        if len(steps) == 1:
            object.__setattr__(self, "groups", None)
            return
        groups = None if self.groups is None else np.asarray(self.groups)
        if groups is None or groups.ndim != 1 or not np.isin(groups, np.arange(len(steps))).all():
            raise ValueError(
                f"`groups` must hold the group of each parameter, 0 to {len(steps) - 1}, shape (n,); got "
                f"{None if groups is None else groups.shape}. Give one for each step in `steps`."
            )
        object.__setattr__(self, "groups", groups)

    @property
    def step(self) -> float:
        """The largest of the learning rates, which the others are shares of."""
        return max(self.steps)

    @property
    def ratios(self) -> np.ndarray:
        """The groups' learning rates over the largest."""
        return np.array(self.steps) / self.step

    @property
    def apart(self) -> tuple[float, np.ndarray | None]:
        """Decoupled weight decay, per unit of the largest step: what all parameters share, and the rest.

        The rest (groups,) is None where there is none.
        """
        each = self.ratios * np.array(self.weight_decay) * self.decoupled
        shared = float(each.min())
        return shared, None if self.groups is None or shared == each.max() else each - shared

    def scaled(self, V: Any, backend: Backend) -> Any:
        """``S V`` (n, k) with the groups' learning rates in it: in units of the largest one."""
        V = V if self.root is None else self.root(V)
        if self.groups is None:
            return V
        return backend.asarray(np.sqrt(self.ratios)[self.groups])[:, None] * V
