"""Two dimensions, additive noise, and both derivatives as one formula of the coordinates."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from .. import _fast
from ..flow import Flow
from ..methods.memory import Motion
from ..methods.program import Program, Untraceable
from ..methods.response import SpectralResponse
from ..objectives.base import trait
from .doubled import DoubledModes
from .steps import Modes, Mover, cut, noise_root, pushes


class PlanarSteps(Mover):
    """Steps of ``x+ = x + P (C z - pull * gradient)`` in NumPy, with every array reused."""

    brief = True

    def __init__(self, flow: Flow, dt: float, level: str):
        self.method, self.formula = flow.method, flow.objective.planar
        root = noise_root(flow) if flow.noise_model.normals(2) else np.zeros((2, 0))
        self.pull = flow.step if level == "iteration" else dt
        self.noise = -flow.step * root if level == "iteration" else math.sqrt(flow.step * dt) * root
        self.motion = (
            None if flow.memory is None else _motion(flow.memory.motion(flow.step, self.pull), self.pull)
        )

    @staticmethod
    def fit(flow: Flow, modes: Modes | DoubledModes | None) -> bool:
        """Whether a flow's steps are of this kind."""
        model = flow.noise_model
        return (
            flow.dim == 2
            and trait(flow.objective, "planar") is not None
            and not model.has_curvature
            and model.linear
            and flow.plain
            and modes is None
        )

    def run(self, x: np.ndarray, noise: np.ndarray, done: int) -> Iterator[np.ndarray]:
        """The states, step by step; the one before stays as it was."""
        count = x.shape[1]
        last, ahead = x, np.empty_like(x)
        # One set of arrays for all steps: making them anew would take longer than a step of few paths.
        self.v, self.lams, self.shape, self.work, self.cross = (
            np.empty(size) for size in ((2, count), (2, count), (2, count), (4, count), count)
        )
        move = np.empty((2, count))
        for push in pushes(self.noise, cut(noise, x), x.dtype):
            self._force(last, push)
            # The buffers trade places after each step, so what is in `ahead` is two steps old.
            np.copyto(ahead, last)
            if self.motion is None:
                self._add(ahead)
            else:
                move[:] = 0.0
                self._add(move)
                own, reach, drive, decay = self.motion
                ahead[:2] += own * move + reach * last[2:]
                ahead[2:] += drive * move - decay * last[2:]
            yield ahead[None]
            last, ahead = ahead, last
        # After an odd number of steps the last state is in the other buffer; the caller reads `x`.
        if last is not x:
            np.copyto(x, last)

    def _add(self, x: np.ndarray) -> None:
        """What the force at hand moves, added to `x` (2, m)."""
        if self.method.is_identity:
            x += self.v
        else:
            _fast.planar_step_numpy(self.cross, self.shape, self._gains(), self.v, x, self.work)

    def _force(self, x: np.ndarray, push: np.ndarray) -> None:
        """``push - pull * gradient``, and the Hessian's eigenvalues ``mean +- radius``."""
        first, second, h11, h12, h22 = self.formula(x[0], x[1])
        for row, slope, noise in zip(self.v, (first, second), push, strict=True):
            np.multiply(slope, self.pull, out=row)
            np.subtract(noise, row, out=row)
        self.cross[:] = h12
        _fast.planar_eigenvalues_numpy(h11, self.cross, h22, self.lams, self.shape)

    def _gains(self) -> np.ndarray:
        """The gains (2, m) at both eigenvalues."""
        if _whole(self.method):
            # A gain may be a plain number, as SGD's is, or keep its argument's shape.
            gains = self.method.gain(self.lams)
            return gains if np.shape(gains) == self.lams.shape else np.full(self.lams.shape, float(gains))
        # Ranks break ties by position: ascending, as eigenvalues are everywhere else.
        return np.ascontiguousarray(SpectralResponse(self.method, self.lams[::-1].T).gains.T[::-1])


class PlanarChunks(PlanarSteps):
    """The same numbers from compiled code, a chunk of steps at once.

    It follows the formula's and the gain's instructions.
    """

    shared, brief = True, False

    def __init__(self, flow: Flow, dt: float, level: str):
        super().__init__(flow, dt, level)
        if not _whole(self.method):
            raise Untraceable("a truncated gain compares eigenvalues")
        self.force = Program(self.formula, 2)
        self.gain = None if self.method.is_identity else Program(self.method.gain, 1)
        # A formula of one's own that gives anything else is refused in words when the request is checked.
        if len(self.force.results) != 5:
            raise Untraceable("`planar` gives five numbers")

    def run(self, x: np.ndarray, noise: np.ndarray, done: int) -> Iterator[np.ndarray]:
        """The states after all steps at once."""
        states = pushes(self.noise, cut(noise, x), x.dtype)
        if self.motion is not None:  # room for the buffer beside the pushes
            states = np.concatenate([states, np.empty_like(states)], axis=1)
        _fast.planar_chunk(states, x, self.pull, self.force, self.gain, self.motion)
        yield states
        np.copyto(x, states[-1])


def _motion(motion: Motion, dt: float) -> np.ndarray:
    """What an increment without momentum becomes: of positions and buffer, by itself and by the buffer."""
    straight, driven = motion.force / -dt
    return np.array([straight, motion.free[0, 1], driven, motion.decay])


def _whole(method: object) -> bool:
    # In two dimensions rank 2 truncates nothing.
    return getattr(method, "rank", None) in (None, 2)
