"""A population of directions in continuous time, which sharpens what few functions on the sphere tell.

``|x|^s p(x / |x|)`` grows at the leading eigenvalue of ``L_s``. By Girsanov's formula that operator is a
diffusion of directions, with the drift ``A u + s C u``, under a potential: a weighted population of such
directions has the left eigenvector's law ``nu``, and ``nu(L_s h) / nu(h)`` is the eigenvalue for any h. With
the h that few functions know best, what h and the population miss enters as a product.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from .growth import Generator, Step
from .moments import Half

SIZE = 400
"""Of a population."""
SETTLES, LASTS = 3.0, 8.0
"""In times in which second moments forget: before the population is believed, and while it is."""
SHORT = 0.2
"""Of the time in which the tilted drift moves a direction: a time step."""
MOST = 1000
"""Time steps."""
EVERY = 4
"""Time steps between two looks."""
BLOCKS = 20
"""Of looks, for the error."""


class Seen(NamedTuple):
    """An order's growth as a population has it, its derivative by the order, and the growth's error."""

    value: float
    slope: float
    error: float


def sharpened(step: Step, index: float, degree: int, seed: int) -> tuple[float, float] | None:
    """An index near one that few functions know, and its error; None where it is not resolved.

    Two populations, the second at half the time step: what they differ by is more than the finer one misses.
    """
    rng, found = np.random.default_rng(seed), []
    for share in (1.0, 0.5):
        generator = Generator(step, index, degree)
        seen = grown(generator, index, settling(step), share * SHORT, rng)
        if not seen.slope > 0 or not abs(seen.value / seen.slope) < 0.5 * index:
            return None
        index -= seen.value / seen.slope
        found.append((index, seen.error / seen.slope))
    (first, _), (second, error) = found
    return second, math.hypot(error, second - first)


def settling(step: Step) -> float:
    """The time in which second moments forget all but what grows most, by a factor of e."""
    sizes = np.sort(np.linalg.eigvals(Half(len(step.mean)).matrix(step.second)).real)[::-1]
    return 1 / max(float(sizes[0] - sizes[1]), 1e-300)


def grown(generator: Generator, order: float, settles: float, short: float, rng: np.random.Generator) -> Seen:
    """What a population says of one order, at time steps `short` beside what moves a direction."""
    points = generator.functions.points
    u = points[rng.integers(len(points), size=SIZE)]
    h = generator.ahead(order)
    speed = np.median(np.linalg.norm(_tilted(generator, order, u)[0], axis=1))
    dt = min(short / float(speed), settles / 4)
    burn, steps = (
        math.ceil(min(times * settles / dt, most)) for times, most in ((SETTLES, MOST // 3), (LASTS, MOST))
    )
    steps = EVERY * BLOCKS * math.ceil(steps / (EVERY * BLOCKS))
    logs, looks = np.zeros(SIZE), []
    for k in range(-burn, steps):
        drift, C, potential = _tilted(generator, order, u)
        if k >= 0 and k % EVERY == 0:
            looks.append(_look(generator, order, h, u, np.exp(logs - logs.max())))
        trace = np.trace(C, axis1=1, axis2=2)
        root = np.linalg.cholesky(C + (1e-12 * trace)[:, None, None] * np.eye(u.shape[1]))
        # Euler's step in space, and back on the sphere: a step of the diffusion of directions.
        x = u + dt * drift + math.sqrt(dt) * np.einsum("nij,nj->ni", root, rng.standard_normal(u.shape))
        ahead = x / np.linalg.norm(x, axis=1)[:, None]
        logs = logs + dt * potential
        u, worth = ahead, np.exp(logs - logs.max())
        if worth.sum() ** 2 < 0.5 * SIZE * (worth**2).sum():
            marks = (np.arange(SIZE) + rng.random()) / SIZE
            u = u[np.minimum(np.searchsorted(np.cumsum(worth / worth.sum()), marks), SIZE - 1)]
            logs = np.zeros(SIZE)
    return _seen(np.array(looks))


def _tilted(generator: Generator, order: float, u: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The drift that an order gives directions (n, d), their noise, and the potential (n,)."""
    w, C = generator.moves(u)
    moved = np.einsum("nij,nj->ni", C, u)
    ahead, own = np.einsum("ni,ni->n", u, w), np.einsum("ni,ni->n", u, moved)
    slope = ahead + 0.5 * np.trace(C, axis1=1, axis2=2) - own
    # In Ito's calculus projecting x / |x| gives the rest of the sphere's drift.
    return w + order * moved, C, order * slope + 0.5 * order**2 * own


def _look(
    generator: Generator, order: float, h: np.ndarray, u: np.ndarray, worth: np.ndarray
) -> tuple[float, float, float]:
    """Weighted means of h, of what the operator makes of it, and of that by the order."""
    still, first, second = (part @ h for part in generator.parts(u))
    share = worth / worth.sum()
    p = generator.functions.values(u) @ h
    value = still + order * first + order**2 * second
    return float(share @ p), float(share @ value), float(share @ (first + 2 * order * second))


def _seen(looks: np.ndarray) -> Seen:
    blocks = looks.reshape(BLOCKS, -1, 3).mean(axis=1)
    mean, value, slope = blocks.mean(axis=0)
    # Of a ratio: what is left of each block once the whole's ratio is taken off.
    left = blocks[:, 1] - value / mean * blocks[:, 0]
    return Seen(value / mean, slope / mean, float(left.std(ddof=1)) / math.sqrt(BLOCKS) / abs(mean))
