"""What `st.advise` says at points of a run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..advice.library import advise
from ..advice.optimizer import Optimizer
from ..methods.memory import Memory
from ..methods.method import Method
from ..methods.momentum import Momentum
from .rules import DirectionRule

ADVISED = (
    "step_limit",
    "deterministic_limit",
    "share",
    "noise_floor",
    "critical_batch",
    "sharpness",
    "preconditioned_sharpness",
    "batch_sharpness",
    "noise_exponent",
)
"""What is kept of each advice, by its names there."""


@dataclass(frozen=True)
class Adviser:
    """Whom a run asks how it stands, and how often.

    Attributes
    ----------
    every : int
        Iterations.
    objective : Objective
        As it was given.
    method : Method or None
        With the run's momentum and weight decay; None where the rule's own metric is to be taken as it
        stands, with `memory`.
    rule : DirectionRule
    memory : Memory or None
    batch, hessian_batch : int or None
        None where there are no samples.
    seed : int
    """

    every: int
    objective: Any
    method: Method | None
    rule: DirectionRule
    memory: Memory | None
    batch: int | None
    hessian_batch: int | None
    seed: int

    def at(self, w: np.ndarray, step: float) -> tuple[np.ndarray, str]:
        """The step and what is `ADVISED` at an iterate (d,), nan where not known; and why the limit is not.

        Raises
        ------
        KeyboardInterrupt
            If advice was cut short by it, which is meant for the run.
        """
        row = np.full(len(ADVISED) + 1, np.nan)
        if not step > 0:
            return row, "no step was taken there"
        row[0] = step
        try:
            found = advise(
                self.objective,
                w,
                method=self._standing(step),
                step=step,
                batch=self.batch,
                hessian_batch=self.hessian_batch,
                seed=self.seed,
            )
        except ValueError as error:
            return row, str(error).rstrip(".")
        if found.interrupted:
            raise KeyboardInterrupt
        row[1:] = [float(getattr(found, name)) for name in ADVISED]
        return row, "" if not math.isnan(row[1]) else found.reasons.get("step_limit", "")

    def _standing(self, step: float) -> Method | Optimizer:
        if self.method is not None:
            return self.method
        root = self.rule.root()
        if root is None:
            raise ValueError("the method divides by negative curvature as it is")
        return Optimizer(steps=(step,), root=root, memory=self.memory, label="LRSFN")


def with_memory(method: Method, memory: Memory | None, weight_decay: float) -> Method:
    """A method with a run's momentum and decoupled weight decay; raises where no method is that."""
    if weight_decay and not method.weight_decay:
        method = method.with_weight_decay(weight_decay)
    if memory is None or isinstance(method, Momentum):
        return method
    return Momentum(method, memory.beta, nesterov=memory.nesterov)
