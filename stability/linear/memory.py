"""Linear theory with memory: the balances of positions, of whole states, and the steps that they allow."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ..methods.memory import Memory, Motion
from .moments import Balance, Map

_TOLERANCE = 1e-13
_LOOSE = 1e-6  # where the map is dear
_EDGE = 1e-9  # so near the mean limit the noise decides, if it enters the fastest mode at all


def lifted(motion: Motion, map_: Map) -> Map:
    """What a noise that positions cause adds to the second moment of whole states, (..., 2d, 2d)."""
    outer = np.outer(motion.kick, motion.kick) / (motion.dt or 1.0)

    def lift(state: np.ndarray) -> np.ndarray:
        dim = state.shape[-1] // 2
        inner = map_(state[..., :dim, :dim] if state.ndim > 1 else state[:dim])
        blocks = outer[:, None, :, None] * inner[..., None, :, None, :]
        return blocks.reshape(*inner.shape[:-2], 2 * dim, 2 * dim)

    return lift


def doubled(motion: Motion, pull: np.ndarray, kick: Map | None, source: np.ndarray) -> Balance:
    """The balance of whole states ``(x, u)`` of modes ``h`` (d,), (2d, 2d), per unit of time."""
    blocks = motion.matrices(pull).transpose(1, 2, 0)  # (2, 2, d)
    drift = np.block([[np.diag(block) for block in row] for row in blocks])
    if motion.dt:
        drift = (drift - np.eye(len(drift))) / motion.dt
    whole = np.zeros((2 * len(pull),) * 2)
    constant = lifted(motion, lambda _: source)
    return Balance(drift, None if kick is None else lifted(motion, kick), constant(whole), motion.dt)


def states(motion: Motion, pull: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Stationary second moment (2d, 2d) of whole states under noise (d, d) on modes ``h`` (d,)."""
    pairs = motion.states(pull)
    pairs[..., 0, 0] = motion.response(pull)
    whole = (pairs * noise[..., None, None]).transpose(2, 0, 3, 1)
    return whole.reshape((2 * len(pull),) * 2)


def largest_step(
    memory: Memory, pull: np.ndarray, balance: Callable[[float], Balance], start: np.ndarray | None
) -> tuple[float, np.ndarray]:
    """The mean-square limit of modes ``h > 0`` (d,), and its leading matrix.

    The radius of ``R o kick`` as a function of the step, set to one: its inverse is all but linear in the
    step's inverse, and of one heavy ball exactly so.
    """
    import scipy

    fastest = int(np.argmax(pull))
    most, found = memory.mean_limit(float(pull[fastest])), start

    def over(inverse: float) -> float:
        nonlocal found
        radius, found = balance(1 / inverse).radius(found)
        return 1 / radius - 1 if radius else math.inf

    low = (1 + _EDGE) / most
    if balance(1 / low).kick is None or over(low) > 0:
        return most, np.diag(np.eye(len(pull))[fastest])
    high = 2 / most
    while over(high) <= 0:
        high *= 4
    tolerance = _TOLERANCE if balance(1 / low).rough is None else _LOOSE
    inverse = scipy.optimize.brentq(over, low, high, xtol=tolerance * low, rtol=tolerance)
    over(inverse)
    assert found is not None
    return 1 / inverse, found
