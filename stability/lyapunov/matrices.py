"""The random matrices: one iteration, one step of the SDE's chain, or a function of the user's own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from .. import _check
from ..flow import Flow
from ..linear.linearize import LinearFlow, linearize
from ..methods.preconditioner import preconditioner
from ..methods.response import SpectralResponse, check_cut
from ..noise import Minibatches

Draw = Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]
"""Random matrices (size, d, d) and what their rounding errors are in proportion to (size,)."""

LEVELS = ("iteration", "sde")
EPS = 8 * float(np.finfo(float).eps)
"""Rounding error of a product, over its dimension and size."""
PROBE = 64
"""Draws by which directions that nothing moves are found."""
CHUNK = 2_000_000
"""Numbers drawn at a time."""
SINGULAR = 1e12
"""Gain times Hessian from which a drawn gain is all rounding."""


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
    without noise, in order: small steps take long to find them.
    """

    draw: Draw
    dim: int
    flat: int
    steady: bool
    start: np.ndarray


def product_of_flow(flow: Flow, at: Any, level: str, dt: float | None, seed: int) -> Product:
    """The product of the iteration's matrices, or of the chain's at `dt`."""
    _check.choice("level", level, LEVELS)
    if level == "iteration" and dt is not None:
        raise ValueError(f"`dt` belongs to level='sde': the iteration's step is {flow.step:g}; got dt={dt}.")
    ratio = 1.0 if dt is None else _check.positive("dt", dt) / flow.step
    linear, length = linearize(flow, at), ratio * flow.step
    draw, dim, flat, steady, start = moving_rates(linear, level, ratio, seed)
    return Product(factors(draw, length), dim, level, flat, length, ratio, steady, start, linear)


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
    draw, basis = _moving(rates(linear, level, ratio), linear.flow.dim, np.random.default_rng(seed))
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
    """Draws of ``X`` in ``B = I - dt X``, which do not depend on the step while ``dt = ratio * step``."""
    return _chain_rates(linear, ratio) if level == "sde" else _iteration_rates(linear)


def _iteration_rates(linear: LinearFlow) -> Draw:
    """``P(H + Eh) (H + Eg)``, of real minibatches where the noise is of data."""
    flow, at = linear.flow, linear.at
    hessian = np.asarray(flow.objective.hessian(at), dtype=float)

    def draw(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
        slope, bent = _hessians(flow, at, hessian, rng, size)
        if flow.method.is_identity:
            return slope, np.abs(slope).max(axis=(1, 2))
        with np.errstate(all="ignore"):
            local = preconditioner(flow.method, bent, compiled=False)
            columns = [local.apply(slope[:, :, j]) for j in range(len(at))]
            gain = np.abs(local.response.gains).max(axis=-1)
            usual = np.abs(local.response.gains * local.response.lams).max(axis=-1)
            _regular(gain * np.abs(bent).max(axis=(1, 2)), usual)
            return np.stack(columns, axis=-1), gain * np.abs(slope).max(axis=(1, 2))

    return draw


def _hessians(
    flow: Flow, at: np.ndarray, hessian: np.ndarray, rng: np.random.Generator, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """The Hessians (size, d, d) of gradient batches, and those of Hessian batches."""
    sample = flow.draw(size, rng, level="iteration")
    if not isinstance(sample, Minibatches):
        return hessian + sample.Eg, hessian + sample.Eh
    w = np.broadcast_to(at, (size, len(at)))
    slope = flow.objective.hessian(w, batch=sample.gradient)
    if sample.hessian is sample.gradient:
        return slope, slope
    return slope, flow.objective.hessian(w, batch=sample.hessian)


def _chain_rates(linear: LinearFlow, ratio: float) -> Draw:
    """The same of the SDE's chain, ``-A - G / sqrt(ratio)`` in the eigenbasis: its exponents are the same."""
    flow, Q, lam, gains = linear.flow, linear.vectors, linear.eigenvalues, linear.gains
    if flow.bends:
        check_cut(flow.method, lam)
    response, drift = SpectralResponse(flow.method, lam), np.diag(linear.rates)
    reach = float(np.max(np.abs(gains)) * np.max(np.abs(lam)))

    def draw(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
        _, Eg, Eh = flow.noise_model.drawn(linear.at, size, rng)
        G = gains[:, None] * (Q.T @ Eg @ Q)
        if flow.bends:
            G = G + response.derivative(Q.T @ Eh @ Q) * lam
        # B = I + dt A + sqrt(step dt) G, where sqrt(step dt)
        # = dt / sqrt(ratio); the sign of G is of no matter.
        return -drift - G / math.sqrt(ratio), np.full(size, reach)

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


def _regular(sizes: np.ndarray, usual: np.ndarray) -> None:
    """Raise where the largest gain times the Hessian's size (n,) says that the gain is infinite, to rounding.

    As on a batch smaller than the dimension. Held against the largest product of a gain and its own
    eigenvalue (n,), which a pole at zero leaves as it is.
    """
    broken = int(np.count_nonzero(~(np.isfinite(sizes) & (sizes <= SINGULAR * usual))))
    if broken:
        raise ValueError(
            f"The gain is singular, to working precision, on {broken} of {len(sizes)} Hessian batches drawn. "
            "Use damping, or larger Hessian batches."
        )


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
