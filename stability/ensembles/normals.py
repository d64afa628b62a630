"""The noise of a block, drawn ahead in chunks of steps: standard normals, or samples."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from .. import _fast
from .._streams import stream
from .plan import EnsemblePlan


class Normals:
    """A block's standard normals, (steps, k, width) at a time, the same however they are divided into chunks.

    With `refine` halvings of the time step every increment is bridged: its two halves are
    ``(z + xi) / sqrt 2`` and ``(z - xi) / sqrt 2``, whose sum is the coarse path's increment.
    """

    def __init__(self, plan: EnsemblePlan, number: int):
        self.shape, self.compiled = (plan.normals, plan.width(number)), plan.compiled
        self.streams = [
            stream(plan.seed, number),
            *(stream(plan.seed, number, level) for level in range(1, plan.refine + 1)),
        ]
        # What every level has drawn and not used yet.
        self.left = [np.empty((0, *self.shape)) for _ in self.streams]
        self.seconds = 0.0
        self.buffer = np.empty((0 if plan.refine else plan.chunk(plan.width(number)), *self.shape))

    def draw(self, steps: int) -> np.ndarray:
        """Normals of the next `steps` steps, (steps, k, width)."""
        began = time.perf_counter()
        z = self._level(len(self.streams) - 1, steps)
        self.seconds += time.perf_counter() - began
        return z

    def _level(self, level: int, steps: int) -> np.ndarray:
        """The next `steps` steps after so many halvings."""
        if level == 0:
            return self._fill(self.streams[0], steps)
        # An odd number of steps leaves half an increment: it waits here for the next chunk.
        left = self.left[level]
        if len(left) < steps:
            coarse = self._level(level - 1, (steps - len(left) + 1) // 2)
            xi = self._fill(self.streams[level], len(coarse))
            halves = np.stack([coarse + xi, coarse - xi], axis=1).reshape(2 * len(coarse), *self.shape)
            left = np.concatenate([left, math.sqrt(0.5) * halves])
        self.left[level] = left[steps:].copy()
        return left[:steps]

    def _fill(self, rng: np.random.Generator, steps: int) -> np.ndarray:
        # The block's own buffer: a chunk's normals are used up before the next are drawn.
        out = self.buffer[:steps] if len(self.buffer) >= steps else np.empty((steps, *self.shape))
        if self.compiled:
            _fast.fill(rng, out)
        else:
            rng.standard_normal(out=out)
        return out


class Samples:
    """A block's noise as samples, one a step: real minibatches, or what a noise class draws itself."""

    seconds = 0.0  # drawn where the steps are taken, and not timed apart

    def __init__(self, plan: EnsemblePlan, number: int):
        self.flow, self.level, self.width = plan.flow, plan.level, plan.width(number)
        self.rng = stream(plan.seed, number)

    def draw(self, steps: int) -> Iterator[Any]:
        """Samples of the next `steps` steps, drawn when they are asked for."""
        return (self.flow.draw(self.width, self.rng, level=self.level) for _ in range(steps))


def noise_of(plan: EnsemblePlan, number: int) -> Normals | Samples:
    """The noise that moves a block's paths."""
    return Samples(plan, number) if plan.draws_samples else Normals(plan, number)
