"""Advice again and again while an optimizer runs: the last directions are where the next ones start."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from .._progress import Bar
from ..lowrank.operator import Operator
from ..methods.memory import Memory
from .advise import HORIZON, Examination, Row
from .closure import Closed
from .optimizer import Optimizer
from .place import Place

COLD = 12
"""Lanczos steps where there are no directions yet."""
_AMPLE = 1e3  # gradients: what is done is fixed, and no budget cuts it


class Warm(Examination):
    """The limit at a place, from directions that were its leading ones a while ago.

    It has no bracket: a start that was chosen bounds nothing.

    Parameters
    ----------
    modes : int
        Directions.
    start : array (n, modes), optional
        Orthonormal, in the metric's coordinates; found from nothing by default.

    Attributes
    ----------
    start : array (n, modes)
        What to start from the next time.
    """

    def __init__(
        self, place: Place, optimizer: Optimizer, batch: int, seed: int, modes: int, start: Any = None
    ):
        super().__init__(place, optimizer, batch, _AMPLE, HORIZON, seed, Bar(1.0))
        self.modes, self.start = modes, start

    def _stages(self) -> Iterator[tuple[Callable[[], None], Sequence[str]]]:
        yield self._lead, ()
        yield self._look_along, ("step_limit",)
        yield self._limits, ("step_limit",)

    def _lead(self) -> None:
        """Rayleigh and Ritz on the last directions; their images are the next ones."""
        place = self.place
        if self.start is None:
            row = self._lanczos(self.pull, min(COLD, place.n))
            leading = np.sort(np.argsort(-np.abs(row.values))[: self.modes])
            chosen = place.backend.asarray(np.eye(len(row.values))[:, leading])
            self.row = Row(row.values[leading], row.vectors @ chosen, row.residuals[leading], row.exhausted)
            self.start = self.row.vectors
        else:
            V = self.start
            image = self.pull(V)
            T = place.backend.host(V.T @ image).astype(float)
            values, turn = np.linalg.eigh((T + T.T) / 2)
            vectors = V @ place.backend.asarray(turn[:, ::-1].copy())
            operator = Operator((self.pull,), place.n, place.backend, self.normals)
            self.row = Row(values[::-1], vectors, np.full(len(values), np.nan), False)
            self.start = operator.orthonormal(image.T, None)[0].T
        self.found["curvatures"] = self.row.values
        top = self.found["preconditioned_sharpness"] = float(self.row.values[0])
        if top > 0:
            memory = self.optimizer.memory or Memory(0.0)
            self.found["deterministic_limit"] = float(memory.mean_limit(top, self.decoupled))
        if not self._metric:
            self.found["sharpness"] = top

    def _bracket(self, closed: Closed) -> tuple[float, float]:
        return math.nan, math.nan

    def _other_batches(self) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros(0), np.zeros(0)  # a limit for each would cost more than all else here

    def _mode_limits(self) -> np.ndarray:
        return np.full(len(self.row.values), np.nan)

    def _heavy_directions(self, lead: Any, reserve: float) -> list[Any]:
        return []  # samples change from time to time
