"""Formulas as instructions, followed by compiled code: flows in two dimensions, a chunk of steps at once."""

from __future__ import annotations

import functools
import math
from typing import Any, Protocol

import numpy as np

from .compiler import kernel

TILE = 256
"""Paths whose registers lie in the fastest cache while they take all steps of a chunk."""


class Instructions(Protocol):
    """A formula's instructions on registers: see `stability.methods.program`."""

    code: np.ndarray
    constants: np.ndarray
    results: np.ndarray
    registers: int


def planar_chunk(
    states: np.ndarray,
    x: np.ndarray,
    pull: float,
    force: Instructions,
    gain: Instructions | None,
    motion: np.ndarray | None = None,
) -> None:
    """``x <- x + P(H(x)) (push - pull * gradient(x))`` for two dimensions, step by step.

    `states` (steps, 2, m), contiguous, holds the pushes and gets the states after each step; `x` (2, m),
    contiguous, the state before and after. With momentum both have two rows more, of the buffer u, and
    `motion` (4,) says what an increment f becomes: ``x += m_1 f + m_2 u``, ``u += m_3 f - m_4 u``.

    `force` gives ``(g1, g2, h11, h12, h22)`` of both coordinates, `gain` the gain of an eigenvalue (None: ``P
    = I``). The numbers are those of `planar_eigenvalues_numpy` and `planar_step_numpy`.
    """
    nothing = np.empty((0, 4), dtype=np.int64), np.empty(0), np.empty(0, dtype=np.int64)
    read = force.code, force.constants, force.results
    parts = nothing if gain is None else (gain.code, gain.constants, gain.results)
    counts = force.registers, 1 if gain is None else gain.registers, 6  # six rows of work
    chunk = kernel(_chunk, KERNELS[_chunk], prepare=_register)
    kept = np.empty(0) if motion is None else motion
    chunk(states, x, float(pull), kept, *read, *parts, *(np.empty((count, TILE)) for count in counts))


@functools.cache
def _register() -> None:
    from numba.extending import register_jitable

    for helper in (_follow, _fill_in):
        register_jitable(error_model="numpy")(helper)


def _follow(code: Any, registers: Any, count: int) -> None:
    """Carry out instructions for the first `count` paths of a tile."""
    for i in range(code.shape[0]):
        kind, to, a, b = code[i, 0], code[i, 1], code[i, 2], code[i, 3]
        if kind == 0:
            for j in range(count):
                registers[to, j] = registers[a, j] + registers[b, j]
        elif kind == 1:
            for j in range(count):
                registers[to, j] = registers[a, j] - registers[b, j]
        elif kind == 2:
            for j in range(count):
                registers[to, j] = registers[a, j] * registers[b, j]
        elif kind == 3:
            for j in range(count):
                registers[to, j] = registers[a, j] / registers[b, j]
        elif kind == 4:
            for j in range(count):
                registers[to, j] = -registers[a, j]
        elif kind == 5:
            for j in range(count):
                registers[to, j] = abs(registers[a, j])
        else:
            for j in range(count):
                registers[to, j] = math.sqrt(registers[a, j])


def _fill_in(constants: Any, registers: Any, first: int) -> None:
    for i in range(constants.size):
        for j in range(registers.shape[1]):
            registers[first + i, j] = constants[i]


def _chunk(
    states: Any, x: Any, pull: float, motion: Any, code: Any, constants: Any, results: Any,
    gain_code: Any, gain_constants: Any, gain_results: Any, registers: Any, own: Any, work: Any,
) -> None:  # fmt: skip
    tile = registers.shape[1]
    _fill_in(constants, registers, 2)
    _fill_in(gain_constants, own, 1)
    g1, g2, h11, h12, h22 = results[0], results[1], results[2], results[3], results[4]
    for start in range(0, x.shape[1], tile):
        count = min(tile, x.shape[1] - start)
        for k in range(states.shape[0]):
            for j in range(count):
                registers[0, j], registers[1, j] = x[0, start + j], x[1, start + j]
            _follow(code, registers, count)
            for j in range(count):
                work[0, j] = states[k, 0, start + j] - registers[g1, j] * pull
                work[1, j] = states[k, 1, start + j] - registers[g2, j] * pull
            if gain_results.size > 0:
                for j in range(count):
                    mean = (registers[h11, j] + registers[h22, j]) * 0.5
                    half = (registers[h11, j] - registers[h22, j]) * 0.5
                    radius = math.sqrt(half * half + registers[h12, j] * registers[h12, j])
                    work[2, j], work[3, j], own[0, j], work[4, j] = half, radius, mean + radius, mean - radius
                _follow(gain_code, own, count)
                for j in range(count):
                    work[5, j], own[0, j] = own[gain_results[0], j], work[4, j]
                _follow(gain_code, own, count)
                for j in range(count):
                    high, low, radius = work[5, j], own[gain_results[0], j], work[3, j]
                    slope = 0.0 if radius == 0 else (high - low) * 0.5 / radius
                    level = (high + low) * 0.5
                    first, second, half, cross = work[0, j], work[1, j], work[2, j], registers[h12, j]
                    work[0, j] = level * first + slope * (half * first + cross * second)
                    work[1, j] = level * second + slope * (cross * first - half * second)
            for i in range(2):
                if motion.size == 0:
                    for j in range(count):
                        x[i, start + j] += work[i, j]
                else:
                    for j in range(count):
                        increment, buffer = work[i, j], x[i + 2, start + j]
                        x[i, start + j] += motion[0] * increment + motion[1] * buffer
                        x[i + 2, start + j] += motion[2] * increment - motion[3] * buffer
            for i in range(x.shape[0]):
                for j in range(count):
                    states[k, i, start + j] = x[i, start + j]


KERNELS = {_chunk: "w3 w2 f w1 i2 w1 i1 i2 w1 i1 w2 w2 w2"}
