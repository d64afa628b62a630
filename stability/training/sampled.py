"""The direction rule of Gauss-Newton curvature: all directions of every gradient batch, in sample space."""

from __future__ import annotations

import math
from typing import Any

from .._array import Backend, namespace
from ..lowrank.sample_space import MEMORY, Dual, Ridge, Rows, SampleSpace
from .rules import Course, DirectionRule

SPACE = ("drawn", "trust", "chosen", "count", "start", "level", "alone", "guarded")
"""What a run has learnt of its batches, as checkpoints keep it."""
LARGEST = 1e16
"""Damping over the mean eigenvalue at which a batch that stays is at rest to rounding."""


class SampleRule(DirectionRule):
    """Directions from a batch's residuals and their gradients, renewed at every step.

    Parameters
    ----------
    damping : float or None
        Measured where it is None.
    drawn : bool
        Whether gradient batches are drawn; of all samples the damping follows the gain ratio.
    length : float
        Of the steps, which the decrease is predicted for.
    memory : float
        Share of the last direction that is kept where batches are drawn.
    """

    by_residuals = True

    def __init__(self, damping: float | None, *, drawn: bool, length: float, memory: float = MEMORY):
        self.space = SampleSpace(fixed=damping, memory=memory if drawn else 0.0, drawn=drawn)
        self.length = length
        self.previous: Any = None
        self.best, self.predicted = math.inf, math.nan  # of a batch that stays
        self.damping = self.loss = math.nan
        self.rows: Rows | None = None

    def due(self, iteration: int, gradient_work: float, hessian_work: float, left: float) -> bool:
        return self.rows is None

    def linearize(self, rows: Rows, ridge: Ridge | None) -> None:
        self.dual, self.ridge = Dual(rows.couplings(), rows.blocks), ridge
        self.rows = rows._replace(loss=self.loss)

    def direction(self, gradient: Any) -> Any:
        assert self.rows is not None
        rows, space = self.rows, self.space
        step = space.step(rows, self.dual, self.previous, self.ridge)
        self.damping = step.damping
        if space.drawn:
            self.previous, self.rows = step.direction, None
        else:
            self.predicted = self._decrease(rows, step.direction)
        return step.direction

    def _decrease(self, rows: Rows, direction: Any) -> float:
        """What the step takes from the quadratic model, ridge included."""
        left = rows.values - self.length * rows.along(direction)
        fall = 0.5 * float(rows.values @ rows.values - left @ left)
        if self.ridge is None:
            return fall
        xp, w = namespace(direction), self.ridge.state
        ahead = w - self.length * direction
        return fall + 0.5 * self.ridge.weight * float(xp.sum(w * w) - xp.sum(ahead * ahead))

    def watch(self, loss: float, batch: int) -> Course:
        """Of a batch that stays: whether the last step led down; the run goes back where it did not."""
        space, self.loss = self.space, loss
        if space.drawn:
            return Course.UNTOLD
        if space.fixed is not None:
            self.rows = None
            return Course.UNTOLD
        if math.isnan(self.predicted):  # the start, or where the run went back to
            self.best = min(self.best, loss)
            return Course.UNTOLD
        predicted, self.predicted = self.predicted, math.nan
        if space.judge(self.best, loss, predicted):
            self.best, self.rows = loss, None
            return Course.BEST
        if self.rows is not None:
            space.trust = min(space.trust, LARGEST * self.dual.mean)
        return Course.LOST

    def told(self) -> dict[str, Any]:
        found: dict[str, Any] = {"damping": self.damping}
        if self.space.drawn:
            found |= {"samples_left_out": self.space.alone, "guarded": self.space.guarded}
        return found

    @property
    def notice(self) -> str:
        if not self.space.quiet:
            return ""
        deaf = "; st.Adam() or LRSFN(rank=..., damping=...) may serve better" if self.space.deaf else ""
        return f"samples did not speak for each other, and each batch said how much memory is kept{deaf}"

    def state(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("best", "predicted", "damping")}
        own |= {name: getattr(self.space, name) for name in SPACE}
        return own if self.previous is None else {**own, "previous": self.previous}

    def restore(self, state: dict[str, Any], backend: Backend) -> None:
        for name in ("best", "predicted", "damping"):
            setattr(self, name, state[name])
        for name in SPACE:
            setattr(self.space, name, state[name])
        self.previous = backend.asarray(state["previous"]) if "previous" in state else None
