"""What is to be run: the plan that every block of paths follows."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .._array import Backend
from .._cores import cores
from .._streams import block_count, block_rows
from ..flow import Flow
from ..methods.program import Untraceable
from .clock import Schedule
from .doubled import DoubledModes
from .planar import PlanarChunks, PlanarSteps
from .steps import Affine, Averaged, Modes, Mover, Stepwise

CHUNK = 2**17  # normals drawn at once: about a megabyte, between 16 and 256 steps, ...
LARGEST_CHUNK = 2**22  # ... unless curvature noise takes so many a step that they would not fit


@dataclass(frozen=True)
class Control:
    """The tangent flow that runs beside, on the same noise, and what is known of it.

    Its exact moments at the saved times, (times, d) and (times, d, d), and whether they are all.
    """

    flow: Flow
    mean: np.ndarray
    covariance: np.ndarray
    gaussian: bool


@dataclass(frozen=True)
class EnsemblePlan:
    """A checked simulation: what every block of paths is told."""

    flow: Flow
    start: np.ndarray  # (paths, d), perhaps a view of one row
    steps: int
    dt: float
    saved: np.ndarray  # step numbers
    seed: int
    level: str
    center: np.ndarray
    radius: float
    modes: Modes | DoubledModes | None = None
    inside: Callable[[Any], Any] | None = None
    refine: int = 0
    dtype: str = "float64"
    compiled: bool = False
    keep_states: bool = True
    observables: dict[str, Callable[[Any], Any]] = field(default_factory=dict)
    quantiles: tuple[float, ...] = ()
    control: Control | None = None
    average: float | None = None  # decay, per iteration, of the mean of positions that is kept in their place
    schedule: Schedule | None = None  # of a flow whose step changes; `dt` is then nan
    whole: bool = False  # whether what a step remembers is kept beside the positions

    @property
    def size(self) -> int:
        """Numbers of a path while it is moved: its whole state, and the mean of its positions."""
        return self.flow.state_dim + (0 if self.average is None else self.flow.dim)

    @property
    def shown(self) -> slice:
        """Those of them that are kept."""
        if self.average is not None:
            return slice(self.flow.state_dim, self.size)
        return slice(0, self.flow.state_dim if self.whole else self.flow.dim)

    @property
    def width_shown(self) -> int:
        """How many are kept."""
        return self.shown.stop - self.shown.start

    def first(self, flow: Flow, rows: slice) -> np.ndarray:
        """The states (paths, size) of these paths of one of the flows before the first step."""
        start = self.start[rows]
        rest = flow.rest(start, self.level)
        return np.concatenate([rest] + ([] if self.average is None else [start]), axis=1)

    @property
    def paths(self) -> int:
        return len(self.start)

    @property
    def blocks(self) -> int:
        return block_count(self.paths, self.flow.dim)

    def width(self, number: int) -> int:
        """Paths of a block when it is full."""
        return len(block_rows(number, self.flow.dim))

    def count(self, number: int) -> int:
        """How many of a block's paths are asked for."""
        rows = self.rows(number)
        return rows.stop - rows.start

    def rows(self, number: int) -> slice:
        """The paths of a block that are asked for."""
        rows = block_rows(number, self.flow.dim)
        return slice(rows.start, min(rows.stop, self.paths))

    @functools.cached_property
    def normals(self) -> int:
        """Standard normals of one path's step."""
        draws = 1 if self.modes is None else self.modes.draws
        own = self.flow.own_normals if self.level == "sde" else 0
        return draws * self.flow.noise_model.normals(self.flow.dim) + own

    @property
    def flows(self) -> list[Flow]:
        """The flow, and the control that runs beside it."""
        return [self.flow] + ([self.control.flow] if self.control else [])

    def mover(self, flow: Flow) -> Mover:
        """What moves the paths of one of the flows: the same for all blocks, where they can share it."""
        return self._shared.get(id(flow)) or _mover(self, flow)

    @functools.cached_property
    def _shared(self) -> dict[int, Mover]:
        found = {id(flow): _mover(self, flow) for flow in self.flows}
        return {key: mover for key, mover in found.items() if mover.shared}

    @property
    def draws_samples(self) -> bool:
        """Whether noise comes as samples: real minibatches, or a user's own; else as standard normals."""
        model = self.flow.noise_model
        return not model.linear or (self.level == "iteration" and model.objective is not None)

    @property
    def useful_workers(self) -> int:
        """Threads help while NumPy and compiled code work outside the interpreter's lock long enough."""
        return 1 if self.mover(self.flow).brief else cores()

    def chunk(self, width: int) -> int:
        """Steps whose noise is drawn at once for so many paths."""
        # Few steps at a time fit a cache; too few, and the interpreter's own work per chunk is felt.
        size = width * max(1, self.normals)
        return max(1, min(max(16, min(256, CHUNK // size)), LARGEST_CHUNK // size))

    def times(self) -> np.ndarray:
        return self.clock(self.saved)

    def time(self, step: int) -> float:
        """After so many time steps."""
        return float(self.clock(step))

    def clock(self, steps: Any) -> Any:
        """The times after so many time steps, an array of any shape."""
        return steps * self.dt if self.schedule is None else self.schedule.times[steps]


def stepwise(plan: EnsemblePlan, flow: Flow, *, samples: bool = False) -> Stepwise | Averaged:
    """What moves paths of a flow whatever it is, on any array library."""
    mover = Stepwise(flow, plan.dt, plan.level, plan.modes, samples=samples, schedule=plan.schedule)
    return mover if plan.average is None else _averaged(plan, mover)


def _averaged(plan: EnsemblePlan, mover: Mover) -> Averaged:
    # A decay per iteration: shorter time steps forget less each.
    share = 0.5**plan.refine if plan.schedule is not None else plan.dt / plan.flow.step
    return Averaged(mover, plan.flow.dim, plan.average**share if plan.average else 0.0)


def _mover(plan: EnsemblePlan, flow: Flow) -> Mover:
    """The quickest way to move paths of a flow."""
    mover = _bare_mover(plan, flow)
    return mover if plan.average is None else _averaged(plan, mover)


def _bare_mover(plan: EnsemblePlan, flow: Flow) -> Mover:
    terms = (plan.dt, plan.level, plan.modes)
    # In the order of their speed: a matrix, a formula of two coordinates, whatever the objective does.
    affine = Affine.of(flow, *terms)
    if affine is not None:
        unit = affine.noise_unit() if plan.dtype == "float64" else 1.0
        return replace(affine, unit=unit, compiled=plan.compiled)
    if plan.dtype == "float64" and PlanarSteps.fit(flow, plan.modes):
        if plan.compiled:
            # A formula that is no list of operations costs speed, nothing else.
            with suppress(Untraceable):
                return PlanarChunks(flow, plan.dt, plan.level)
        return PlanarSteps(flow, plan.dt, plan.level)
    here = flow.on(Backend("numpy", np, None, plan.dtype), compiled=plan.compiled)
    return Stepwise(here, *terms, samples=plan.draws_samples, schedule=plan.schedule)
