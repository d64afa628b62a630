"""What a watch saw: the step in use and the largest stable one along a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .._display import Grid
from .._frames import Framed
from .._saving import Result


@dataclass(frozen=True)
class Watched(Result, Framed):
    """The step in use beside the largest stable one, along a run; made by `stability.torch.Watch`.

    Steps are learning rates; of several groups the largest one, with the others in proportion.

    Attributes
    ----------
    label : str
        The optimizer.
    iterations : array of int (u,)
        When it was looked, in steps of the optimizer.
    steps, step_limits, deterministic_limits : arrays (u,)
        In use, the largest mean-square-stable one, and the same without batch noise; nan where not known.
    sharpness : array (u,)
        The largest curvature in the optimizer's metric.
    losses : array (u,)
        Mean over the samples looked at.
    batch, samples : int
        In a batch, and looked at.
    step_limit_errors : array (u,)
        Standard errors of the limits by the samples looked at: others would have told others. What the few
        directions of a look miss is no part of them. nan where an earlier version saved this.
    """

    label: str
    iterations: np.ndarray
    steps: np.ndarray
    step_limits: np.ndarray
    deterministic_limits: np.ndarray
    sharpness: np.ndarray
    losses: np.ndarray
    batch: int
    samples: int
    provenance: Mapping[str, Any] = field(default_factory=dict)
    step_limit_errors: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        if not len(self.step_limit_errors):
            object.__setattr__(self, "step_limit_errors", np.full(len(self.iterations), np.nan))

    @property
    def shares(self) -> np.ndarray:
        """The steps in use over their limits (u,)."""
        return self.steps / self.step_limits

    def _columns(self) -> Mapping[str, Any]:
        return {
            "iteration": self.iterations,
            "loss": self.losses,
            "step": self.steps,
            "step limit": self.step_limits,
            "error": self.step_limit_errors,
            "deterministic limit": self.deterministic_limits,
            "share": self.shares,
            "sharpness": self.sharpness,
        }

    def _page(self) -> Iterator[str | Grid]:
        over = int(np.sum(self.shares > 1))
        told = f", beyond the limit {over} times" if over else ""
        yield f"{self.label} watched {len(self.iterations)} times{told}; batches of {self.batch}"
        columns = self._columns()
        kinds = ("g", ".3g", ".3g", ".3g", ".2g", ".3g", ".2g", ".3g")
        yield Grid(list(zip(columns, kinds, strict=True)), list(zip(*columns.values(), strict=True)))
