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
from .bracket import spread
from .closure import Closed
from .directions import Directions
from .optimizer import Optimizer
from .place import Place

COLD = 12
"""Lanczos steps where there are no directions yet."""
PROBES = 4
"""Probes of the rest: fewer than advice takes, which has the time."""
CARRIES = 0.3
"""Of the noise that sets the limit, what a sample must carry for its own direction to join."""
_CARRIERS, _PRODUCTS = 2, 3  # such samples at most, and products of each one's Hessian
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
        self._heavy: list[Any] = []
        self._asked: tuple[Any, float, Closed] | None = None

    def normals(self, shape: tuple[int, ...]) -> Any:
        single = self.place.backend.dtype == "float32"
        numbers = self.rng.standard_normal(shape, dtype=np.float32 if single else np.float64)
        return self.place.backend.asarray(numbers)

    @property
    def error(self) -> float:
        """Standard error of the limit, as a share of it: by the samples looked at, not by the directions."""
        closed = self.found.get("closed")
        if closed is None:
            return math.nan
        noise, bend = spread(closed, self.not_seen)
        # Of noise the inverse of the limit has a part, and all of it of the curvature.
        return math.hypot(bend, noise * (1 - closed.leader.limit / closed.deterministic))

    def _stages(self) -> Iterator[tuple[Callable[[], None], Sequence[str]]]:
        yield self._lead, ()
        yield self._look_along, ("step_limit",)
        yield self._carried, ("step_limit",)
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

    def _afforded(self, heavy: int, gradients: float) -> tuple[int, int, int]:
        modes, heavy, probes = super()._afforded(heavy, gradients)
        return modes, heavy, min(probes, PROBES)

    def closed(self, batch: float, *, alone: bool = False) -> Closed:
        if alone:
            return super().closed(batch, alone=True)
        # Asked twice: which samples carry the limit, and for the limit.
        last = self._asked
        if last is None or last[0] is not self.blocks or last[1] != batch:
            last = self._asked = self.blocks, batch, super().closed(batch)
        return last[2]

    def _carried(self) -> None:
        """Look again along the directions of single samples that carry the limit, if there are any."""
        closed = self.closed(self.batch)
        if not (len(closed.blocks.eigenvalues) and closed.share and self.blocks.width):
            return
        shares = closed.shares()
        heaviest = np.argsort(-shares)[:_CARRIERS]
        if shares[heaviest[0]] < CARRIES:
            return
        found = [self._range(s, _PRODUCTS)[1] for s in heaviest]
        self._heavy = self._off(
            Directions(self.place.backend, [self.row.vectors[:, : self.led]]), found
        ).blocks[1:]
        if self._heavy:
            self._look_along()

    def _heavy_directions(self, lead: Any, reserve: float) -> list[Any]:
        return list(self._heavy)
