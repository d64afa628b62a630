"""Gauss-Newton steps of an optimizer on a batch's residuals, and what is known after them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from .. import _check
from .._display import Grid
from .._frames import Framed
from .._saving import Result
from ..lowrank.operator import NotFinite
from ..lowrank.sample_space import DEAF, MEMORY, Dual, Ridge, Rows, SampleSpace, SampleStep
from .products import flatten
from .residuals import Residuals

TRIALS = 8
"""Dampings that are tried on a batch that stays before the step is given up."""
SAME = 1e-3
"""Relative change of residuals up to which a batch counts as the last one again."""
_GUARDED = (
    "samples have not spoken for each other in {count} steps: each batch says how much of the last direction "
    "is kept"
)
_DEAF = "Samples say little of each other here: curvature='hessian' or Adam may serve better."


@dataclass(frozen=True)
class SampleReport(Result, Framed):
    """What is known after a Gauss-Newton step in sample space; made by `LRSFN.report`.

    Attributes
    ----------
    eigenvalues : array (m,)
        Of the last batch's curvature ``J^T J``, largest first; weight decay not included.
    damping : float
    effective_dimension : float
        ``sum lam / (lam + damping)``: how many directions take full steps.
    lr : float
        Of the first group.
    length : float
        What `lr` is multiplied by: 1, or 0.5 where the damping is measured on batches that are drawn anew, or
        may be.
    step_limit : float
        Largest `lr` at which no residual that is linear grows, whatever the batch: 2 over `length`.
    memory : float
        Share of the last direction that was asked for.
    drawn : bool or None
        Whether batches are drawn anew; None while that is not known.
    alone : float
        Share of samples' squares that steps on the others leave at best; near 1, samples do not speak for
        each other. nan where batches stay.
    guarded : bool
        Whether each batch says how much of the last direction is kept.
    loss : float
        Of the last batch, before the step.
    parameters, batch, steps, skipped : int
    failure : str
        Why the last skipped step was not taken.
    """

    eigenvalues: np.ndarray
    damping: float
    effective_dimension: float
    lr: float
    length: float
    step_limit: float
    memory: float
    drawn: bool | None
    alone: float
    guarded: bool
    loss: float
    parameters: int
    batch: int
    steps: int
    skipped: int
    failure: str = ""

    @property
    def advice(self) -> str:
        """One sentence: what the damping follows, and whether samples speak for each other."""
        if self.guarded and self.alone > DEAF:
            return _DEAF
        if self.drawn:
            return "Batches are drawn: the damping serves samples left out best. Let lr fall to 0 at the end."
        return "The batch stays: the damping follows the gain ratio, as Levenberg and Marquardt have it."

    def _columns(self) -> Mapping[str, Any]:
        return {
            "eigenvalue": self.eigenvalues,
            "turned": self.eigenvalues / (self.eigenvalues + self.damping),
        }

    def _page(self) -> Iterator[str | Grid]:
        yield (
            f"LRSFN with Gauss-Newton curvature after {self.steps} steps ({self.skipped} skipped): "
            f"{len(self.eigenvalues)} residuals of {self.batch} samples, {self.parameters} parameters"
        )
        shown = self.eigenvalues[:5]
        rows = [(str(i + 1), lam, lam / (lam + self.damping)) for i, lam in enumerate(shown)]
        yield Grid([("mode", ""), ("lambda", ".3g"), ("turned by a full step", ".3g")], rows)
        yield (
            f"damping {self.damping:.3g}, effective dimension {self.effective_dimension:.3g}; lr = "
            f"{self.lr:.3g}, on linear residuals stable below {self.step_limit:.3g} whatever the batch."
        )
        if not math.isnan(self.alone):
            yield f"Samples left out keep {100 * self.alone:.0f} % of their squares."
        if self.failure:
            yield f"Last step not taken: {self.failure}"
        yield self.advice


@dataclass
class Last:
    """What the last step leaves for the next one and for the report."""

    values: torch.Tensor | None = None  # residuals where the parameters are now, on the batch before
    step: SampleStep | None = None
    loss: float = math.nan
    batch: int = 0


class SampledSteps:
    """Steps of all parameter groups at once: one residual depends on all of them."""

    def __init__(self, groups: list[dict[str, Any]], module: torch.nn.Module | None):
        self.groups, self.module, self.last = groups, module, Last()

    @property
    def params(self) -> list[torch.Tensor]:
        """Of all groups, one after the other."""
        return [p for group in self.groups for p in group["params"]]

    def shared(self, name: str) -> Any:
        """An option that all groups must have in common."""
        values = [group[name] for group in self.groups]
        if any(value != values[0] for value in values):
            raise ValueError(
                f"`{name}` must be the same for all groups with Gauss-Newton curvature; got {values}. Give "
                "it once, to LRSFN itself; `lr` may differ."
            )
        return values[0]

    def space(self, state: dict[str, Any]) -> SampleSpace:
        """What has been learnt so far."""
        kept = state["sampled"] or {}
        space = SampleSpace(**kept)
        space.fixed = self.shared("damping")
        momentum = self.shared("momentum")
        space.memory = MEMORY if momentum is None else momentum
        return space

    def step(self, closure: Callable[..., Any], state: dict[str, Any]) -> tuple[torch.Tensor, str]:
        """One step; the batch's loss before it, and why it was not taken where it was not.

        Raises
        ------
        ValueError
            If the closure returns no residuals of single samples, or their gradients do not fit into memory.
        LossesOnly
            If it returns losses.
        NotFinite
            If the first residuals or their gradients are nan or infinite.
        """
        residuals = Residuals(closure, self.shared("loss"), self.params, self.module)
        space, first = self.space(state), not state["steps"]
        decay = self.shared("weight_decay")
        rows = residuals.rows(check=first)
        self.last.loss, self.last.batch = rows.loss, rows.blocks[0][0]
        told = self.params[0].new_tensor(rows.loss)
        try:
            dual = Dual(rows.couplings(), rows.blocks)
        except NotFinite as error:
            if first and not state["skipped"]:
                raise
            return told, str(error)
        self._recognize(space, rows)
        at = flatten(p.detach() for p in self.params)
        ridge = Ridge(decay, at) if decay else None
        if space.drawn is not False or space.fixed is not None:
            why = self._straight(space, residuals, rows, dual, ridge, at, state)
        else:
            why = self._tried(space, residuals, rows, dual, ridge, at)
        self._keep(space, state)
        return told, why

    def _recognize(self, space: SampleSpace, rows: Rows) -> None:
        """Whether this is the batch before: then its residuals are what they were after the last step."""
        before, self.last.values = self.last.values, None
        if space.drawn or before is None:
            return
        gap = math.inf
        if len(before) == len(rows.values):
            gap = float(np.linalg.norm(rows.values - before.double().cpu().numpy()))
        # Another batch, or another mask of dropout: residuals that are not what the last step left.
        space.drawn = gap > SAME * float(np.linalg.norm(rows.values)) + 1e-30

    def _lengths(self, space: SampleSpace, direction: torch.Tensor) -> torch.Tensor:
        """The move (n,) that the groups' learning rates make of a direction."""
        length = space.length if space.fixed is None else 1.0
        sizes = [sum(p.numel() for p in group["params"]) for group in self.groups]
        parts = torch.split(direction, sizes)
        return torch.cat(
            [group["lr"] * length * part for group, part in zip(self.groups, parts, strict=True)]
        )

    def _straight(
        self,
        space: SampleSpace,
        residuals: Residuals,
        rows: Rows,
        dual: Dual,
        ridge: Ridge | None,
        at: torch.Tensor,
        state: dict[str, Any],
    ) -> str:
        """A step that is taken as it comes."""
        was = space.quiet
        step = space.step(rows, dual, state["velocity"], ridge)
        if space.quiet and not was:
            _check.warn(f"LRSFN: {_GUARDED.format(count=state['steps'])}. {_DEAF}")
        self.last.step = step
        ahead = at - self._lengths(space, step.direction)
        if not bool(torch.isfinite(ahead).all()):
            state["velocity"] = None
            return "the step is nan or infinite"
        self._put(ahead)
        state["velocity"] = step.direction
        if space.drawn is None:
            self.last.values = residuals.value()[1].detach()
        return ""

    def _tried(
        self,
        space: SampleSpace,
        residuals: Residuals,
        rows: Rows,
        dual: Dual,
        ridge: Ridge | None,
        at: torch.Tensor,
    ) -> str:
        """A step on a batch that may stay: the damping grows until the loss falls."""
        penalty = ridge.weight if ridge is not None else 0.0
        before = rows.loss + 0.5 * penalty * float(at.double() @ at.double())
        for _ in range(TRIALS):
            step = space.step(rows, dual, None, ridge)
            self.last.step = step
            move = self._lengths(space, step.direction)
            ahead = at - move
            left = rows.values - rows.along(move)
            held = 0.5 * penalty * float(ahead.double() @ ahead.double())
            # Of the quadratic model: half squares are the loss itself only where residuals were returned.
            model = rows.loss - 0.5 * float(rows.values @ rows.values - left @ left)
            self._put(ahead)
            loss, values = residuals.value()
            after, predicted = loss + held, before - model - held
            if space.judge(before, after, predicted):
                self.last.values = values.detach()
                return ""
        self._put(at)
        self.last.values = torch.from_numpy(rows.values)
        return f"no damping up to {space.trust:.3g} lowers the loss of this batch: it is at rest, to rounding"

    @torch.no_grad()
    def _put(self, ahead: torch.Tensor) -> None:
        pieces = torch.split(ahead, [p.numel() for p in self.params])
        for p, piece in zip(self.params, pieces, strict=True):
            p.copy_(piece.view_as(p))

    @staticmethod
    def _keep(space: SampleSpace, state: dict[str, Any]) -> None:
        kept = asdict(space)
        del kept["fixed"], kept["memory"]  # options, which schedulers and users may change
        state["sampled"] = kept

    def report(self, state: dict[str, Any], failure: str) -> SampleReport:
        """After the last step; raises `ValueError` before there was one."""
        step = self.last.step
        if step is None:
            raise ValueError(
                f"There is no curvature to report before the first step{failure and f' ({failure})'}. Call "
                "step(closure)."
            )
        space, lam = self.space(state), step.curvatures[::-1].copy()
        length = space.length if space.fixed is None else 1.0
        return SampleReport(
            eigenvalues=lam,
            damping=step.damping,
            effective_dimension=float(np.sum(lam / (lam + step.damping))),
            lr=float(self.groups[0]["lr"]),
            length=length,
            step_limit=2.0 / length,
            memory=space.memory if space.drawn else 0.0,
            drawn=space.drawn,
            alone=space.alone if space.drawn else math.nan,
            guarded=space.guarded,
            loss=self.last.loss,
            parameters=sum(p.numel() for p in self.params),
            batch=self.last.batch,
            steps=state["steps"],
            skipped=state["skipped"],
            failure=failure,
        )
