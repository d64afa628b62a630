"""The random matrices: one iteration, one step of the SDE's chain, or a function of the user's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from .. import _check
from ..flow import Flow
from ..linear.draws import Draw, chain_rates, iteration_rates
from ..linear.linearize import linearize
from ..linear.result import LinearFlow
from ..methods.memory import Motion

LEVELS = ("iteration", "sde")
EPS = 8 * float(np.finfo(float).eps)
"""Rounding error of a product, over its dimension and size."""
PROBE = 64
"""Draws by which directions that nothing moves are found."""
CHUNK = 2_000_000
"""Numbers drawn at a time."""


class Product(NamedTuple):
    """What is multiplied: draws of matrices in `dim` directions, `flat` others being at rest.

    One of them is `length` of t, `ratio` iterations.
    """

    draw: Draw
    dim: int
    level: str
    flat: int = 0
    length: float = 1.0
    ratio: float = 1.0
    steady: bool = False
    start: np.ndarray | None = None
    linear: LinearFlow | None = None

    @property
    def about(self) -> dict[str, Any]:
        return {} if self.linear is None else {"at": self.linear.at, "dt": self.length}


class Rates(NamedTuple):
    """Draws of ``X`` in ``B = I - dt X`` in the `dim` directions that anything moves.

    `steady` says that every draw is the same. `start` (dim, dim) holds the directions that contract least
    without noise, in order: small steps take long to find them. `motion`, with momentum, is what a force does
    to positions and buffer at step 1, the buffer being counted in steps; `decay` is weight decay beside it.
    """

    draw: Draw
    dim: int
    flat: int
    steady: bool
    start: np.ndarray
    motion: Motion | None = None
    decay: float = 0.0


def product_of_flow(flow: Flow, at: Any, level: str, dt: float | None, seed: int) -> Product:
    """The product of the iteration's matrices, or of the chain's at `dt`."""
    _check.choice("level", level, LEVELS)
    if level == "iteration" and dt is not None:
        raise ValueError(f"`dt` belongs to level='sde': the iteration's step is {flow.step:g}; got dt={dt}.")
    ratio = 1.0 if dt is None else _check.positive("dt", dt) / flow.step
    linear, length = linearize(flow, at), ratio * flow.step
    moving = moving_rates(linear, level, ratio, seed)
    draw, dim, start = factors(moving.draw, length), moving.dim, moving.start
    if linear.memory is not None:
        motion = linear.memory.motion(1.0, ratio, flow.step * flow.method.weight_decay)
        draw = _doubled(moving.draw, motion, flow.step)
        # Positions first, in the order of their directions: a buffer forgets faster than most of them.
        dim, start = 2 * dim, np.kron(np.eye(2), start)
    return Product(draw, dim, level, moving.flat, length, ratio, moving.steady, start, linear)


def product_of_function(function: Any, at: Any, dt: Any) -> Product:
    """The product of the matrices that a user's own function draws."""
    if not callable(function):
        raise ValueError(
            "`flow` must be a st.Flow or a function draw(rng, size) of random matrices (size, d, d); got "
            f"{function!r}."
        )
    if at is not None or dt is not None:
        raise ValueError("`at` and `dt` belong to a st.Flow; matrices of one's own have neither.")
    return Product(*_own(function), level="matrices")


def moving_rates(linear: LinearFlow, level: str, ratio: float, seed: int) -> Rates:
    """The draws of ``X`` on the directions that anything moves: at an interpolating minimum not all are."""
    noise = linear.flow.noise_model
    steady = not noise.has_curvature or not any(noise.scales)
    draw, basis = rates(linear, level, ratio), np.eye(linear.flow.dim)
    if not linear.flow.method.weight_decay:  # which moves all directions
        draw, basis = _moving(draw, linear.flow.dim, np.random.default_rng(seed))
    dim = basis.shape[1]
    # The chain's rates are in the eigenbasis already.
    modes = basis.T @ (linear.vectors if level == "iteration" else np.eye(linear.flow.dim))
    # Ties apart, a mode lies in the directions that move or is orthogonal to them: 0.5 tells which.
    order = [i for i in np.argsort(-linear.rates, kind="stable") if np.linalg.norm(modes[:, i]) > 0.5]
    # The unit vectors fill up the basis where modes are missing; QR keeps the order of the columns.
    start = np.linalg.qr(np.hstack([modes[:, order], np.eye(dim)]))[0]
    return Rates(draw, dim, linear.flow.dim - dim, steady, start)


# -- rates -----------------------------------------------------------------------------------------


def rates(linear: LinearFlow, level: str, ratio: float) -> Draw:
    """Draws of ``X`` in ``B = I - dt X``, which do not depend on the step while ``dt = ratio * step``.

    Weight decay is in them, but where there is a memory: that decay is beside the buffer.
    """
    flow, iteration = linear.flow, level == "iteration"
    drawn = iteration_rates(flow, linear.at) if iteration else chain_rates(linear._dynamics.noise, ratio)
    decay = flow.method.weight_decay
    if not decay or linear.memory is not None:
        return drawn

    def draw(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
        X, reach = drawn(rng, size)
        return X + decay * np.eye(flow.dim), reach + decay

    return draw


def _moving(draw: Draw, dim: int, rng: np.random.Generator) -> tuple[Draw, np.ndarray]:
    """The draws on the directions that anything moves, and those directions (d, k)."""
    X = draw(rng, PROBE)[0]
    # Both sides: what a direction at rest neither moves nor is moved by.
    rows = np.concatenate([X, np.swapaxes(X, 1, 2)]).reshape(-1, dim)
    _, values, axes = np.linalg.svd(rows, full_matrices=False)
    kept = axes[values > 1e-12 * values[0]].T if values[0] > 0 else axes.T
    if kept.shape[1] == dim:
        return draw, np.eye(dim)

    def restricted(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
        X, reach = draw(rng, size)
        return kept.T @ X @ kept, reach

    return restricted, kept


# -- factors ---------------------------------------------------------------------------------------


def factors(drawn: Draw, length: float) -> Draw:
    """``B = I - length X``, and the size of its rounding errors.

    What is within them of zero is zero, as for Newton's method at step 1.
    """

    def draw(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
        X, reach = drawn(rng, size)
        dim = X.shape[-1]
        with np.errstate(over="ignore"):
            B, rounding = np.eye(dim) - length * X, EPS * dim * (1 + length * reach)
        if not np.isfinite(B).all():
            raise ValueError(
                f"The step, or `dt`, must be so small that one step does not overflow; got {length:g}."
            )
        B[np.abs(B).max(axis=(1, 2)) <= rounding] = 0.0
        return B, rounding

    return draw


def _doubled(drawn: Draw, motion: Motion, step: float) -> Draw:
    """The matrices of whole states, positions and ``step`` times the buffer, and their rounding errors.

    In that unit of the buffer the motion of step 1 is that of every step, under a force as many times longer.
    """

    def draw(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
        X, reach = drawn(rng, size)
        dim = X.shape[-1]
        forced = np.array([motion.force, np.zeros(2)]).T  # only positions are felt
        B = np.kron(motion.free, np.eye(dim)) + step * np.kron(forced, X)
        if not np.isfinite(B).all():
            raise ValueError(f"The step must be so small that one step does not overflow; got {step:g}.")
        return B, 2 * EPS * dim * (1 + step * np.abs(motion.force).max() * reach)

    return draw


def _own(function: Callable) -> tuple[Draw, int]:
    """Draws of the user's own function, and their dimension."""
    first = _check.numbers_of("draw(rng, size)", function(np.random.default_rng(0), 2)).shape
    if len(first) != 3 or first[0] != 2 or first[1] != first[2] or first[1] == 0:
        raise ValueError(
            "`flow` as a function draw(rng, size) must give matrices of shape (size, d, d); for size = 2 it "
            f"gave {first}."
        )

    def draw(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
        return _check.shaped("draw(rng, size)", function(rng, size), (size, *first[1:])), np.zeros(size)

    return draw, first[1]


def blocks(
    draw: Draw, rng: np.random.Generator, steps: int, products: int, dim: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Matrices (chunk, products, d, d) and their roundings (chunk, products), `steps` in all."""
    chunk = max(1, CHUNK // (products * dim**2))
    for start in range(0, steps, chunk):
        size = min(chunk, steps - start)
        B, rounding = draw(rng, size * products)
        yield B.reshape(size, products, dim, dim), rounding.reshape(size, products)
