"""Two-dimensional diffusions on a grid: a Markov chain between near cells, whose law is the density.

At every cell the noise is split into jumps along three directions of the grid with positive weights,
``D = sum_k r_k e_k e_k'`` (Selling 1874; for schemes that keep densities positive: Fehrenbach and Mirebeau
2014). Along each of them the rates are Scharfetter and Gummel's (1969): exact where drift and noise are
constant, positive whatever the drift. Where the axes' noise is uncorrelated the directions are the axes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Coefficients = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""States (m, 2) to drift (m, 2) and diffusion (m, 2, 2)."""

_RIM = 1e-4
_COARSE = 0.02
_DOUBT = 1e-3
_FARTHEST = 10  # cells in one move


@dataclass(frozen=True)
class Plane:
    """Masses (n1, n2), probability current (n1, n2, 2) at the centers, and what the numbers are worth.

    `rim` is the mass in the outermost cells.
    """

    mass: np.ndarray
    current: np.ndarray
    rim: float
    error: float
    status: str


def solve(coefficients: Coefficients, edges: list[np.ndarray]) -> Plane:
    """The stationary law on equal cells with these edges."""
    moves = _moves(coefficients, edges)
    mass, doubt = _stationary(moves)
    rim = 1.0 - float(mass[1:-1, 1:-1].sum())
    error, told = np.nan, []
    if all(len(axis) % 2 and len(axis) > 9 for axis in edges):  # even numbers of cells pair up
        coarse, _ = _stationary(_moves(coefficients, [axis[::2] for axis in edges]))
        pairs = mass.reshape(coarse.shape[0], 2, coarse.shape[1], 2).sum(axis=(1, 3))
        # Of second order: the coarse grid errs four times as much, and the two differ by three errors.
        error = 0.5 * float(np.abs(pairs - coarse).sum()) / 3
    if rim > _RIM:
        told.append(
            f"{rim:.2g} of the mass lies in the outermost cells: take a larger grid, unless the flow does "
            "not hold it back at all"
        )
    if doubt > _DOUBT:
        told.append(
            "some parts of the grid are left so rarely that rounding decides how the mass is shared among "
            "them. Take more noise, or one part alone"
        )
    if error > _COARSE:
        told.append(
            f"the cells are too coarse: an error of {error:.2g} in total variation. Take more `cells`, or a "
            "smaller grid"
        )
    return Plane(mass, _current(moves, mass, edges), rim, error, "; ".join(told) or "ok")


Moves = dict[tuple[int, int], np.ndarray]
"""Displacements, in cells, to rates (n1, n2); 0 where they lead out of the grid."""


def _moves(coefficients: Coefficients, edges: list[np.ndarray]) -> Moves:
    width = np.array([axis[1] - axis[0] for axis in edges])
    points = np.stack(np.meshgrid(*(0.5 * (axis[1:] + axis[:-1]) for axis in edges), indexing="ij"), axis=-1)
    noise = _evaluated(coefficients, points)[1] / np.multiply.outer(width, width)
    weights, directions = selling(noise.reshape(-1, 2, 2))
    moves: Moves = {}
    for i, j in np.unique(directions[weights > 0], axis=0):
        # The same direction may stand first in one cell and third in another.
        strength = np.sum(weights * (directions == [i, j]).all(axis=-1), axis=-1).reshape(points.shape[:-1])
        start, end = inside(strength.shape, i, j)
        used = (strength[start] > 0) | (strength[end] > 0)
        # Drift and noise halfway serve both ways, so that without a current the two balance.
        drift, between = _evaluated(coefficients, 0.5 * (points[start] + points[end])[used])
        turn = np.zeros(used.shape)
        turn[used] = 2 * np.linalg.solve(between, drift[..., None])[..., 0] @ (width * [i, j])
        moves[i, j], moves[-i, -j] = np.zeros_like(strength), np.zeros_like(strength)
        moves[i, j][start] = 0.5 * strength[start] * _bernoulli(-turn)
        moves[-i, -j][end] = 0.5 * strength[end] * _bernoulli(turn)
    return moves


def inside(shape: tuple[int, ...], i: int, j: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """The cells from which a displacement stays on the grid, and where it leads."""
    start = tuple(slice(max(0, -k), n - max(0, k)) for k, n in zip((i, j), shape, strict=True))
    end = tuple(slice(max(0, k), n - max(0, -k)) for k, n in zip((i, j), shape, strict=True))
    return start, end


def selling(matrices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Selling's decomposition of positive definite matrices (m, 2, 2) into dyads of integer directions.

    Weights (m, 3) >= 0 and directions (m, 3, 2), one of each opposite pair.

    Raises
    ------
    ValueError
        If a matrix is so narrow that a direction has an entry beyond 10.
    """
    base = np.tile([[1, 0], [0, 1], [-1, -1]], (len(matrices), 1, 1))
    scale = 1e-12 * np.trace(matrices, axis1=-2, axis2=-1)
    while True:
        # The products of each vector with the next: none is positive once the basis is obtuse.
        products = np.einsum("mki,mij,mkj->mk", base, matrices, np.roll(base, -1, axis=1))
        rows = np.flatnonzero(products.max(axis=1) > scale)
        if not len(rows):
            break
        if np.abs(base).max() > _FARTHEST:
            raise ValueError(
                "The noise is too correlated, or too unequal along two directions, for a grid of cells: "
                "take a smaller grid, cells with other widths, more damping, or st.simulate."
            )
        first = products[rows].argmax(axis=1)
        second, third = (first + 1) % 3, (first + 2) % 3
        u, v = base[rows, first], base[rows, second]
        base[rows, first], base[rows, third] = -u, u - v
    opposite = np.roll(base, 1, axis=1)  # the vector that is in neither of the two
    directions = np.stack([-opposite[..., 1], opposite[..., 0]], axis=-1)
    backward = (directions[..., 0] < 0) | ((directions[..., 0] == 0) & (directions[..., 1] < 0))
    return np.maximum(-products, 0.0), np.where(backward[..., None], -directions, directions)


def _evaluated(coefficients: Coefficients, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Drift and diffusion at points (..., 2)."""
    flat = points.reshape(-1, 2)
    drift, diffusion = coefficients(flat)
    bad = ~(np.isfinite(drift).all(axis=-1) & np.isfinite(diffusion).all(axis=(-2, -1)))
    if bad.any():
        raise ValueError(
            f"The flow is not finite at {int(bad.sum())} points of the grid, {flat[bad][0]} among them. "
            "Choose a grid inside the domain."
        )
    variance = np.linalg.eigvalsh(diffusion)
    flat_noise = ~(variance[:, 0] > 1e-14 * variance[:, 1])
    if flat_noise.any():
        raise ValueError(
            "A stationary density on a grid needs noise in every direction everywhere on it; at "
            f"{flat[flat_noise][0]} there is none in one direction."
        )
    return drift.reshape(points.shape), diffusion.reshape(*points.shape, 2)


def _bernoulli(z: np.ndarray) -> np.ndarray:
    """``z / (exp(z) - 1)``."""
    import scipy

    return 1 / scipy.special.exprel(np.minimum(z, 700.0))  # beyond, exp overflows


def _stationary(moves: Moves) -> tuple[np.ndarray, float]:
    """The chain's stationary masses (n1, n2), and by how much, relative, rounding may have changed one."""
    import scipy

    shape = next(iter(moves.values())).shape
    size = shape[0] * shape[1]
    rows, columns, rates = [], [], []
    for (i, j), rate in moves.items():
        start = np.flatnonzero(rate.ravel() > 0)
        rows.append(start + i * shape[1] + j)
        columns.append(start)
        rates.append(rate.ravel()[start])
    places = np.concatenate(rows), np.concatenate(columns)
    flow_in = scipy.sparse.csr_matrix((np.concatenate(rates), places), shape=(size, size))

    # No jump may fit into a corner: the largest set of cells that all lead to one another is kept.
    labels = scipy.sparse.csgraph.connected_components(flow_in, connection="strong")[1]
    kept = np.flatnonzero(labels == np.bincount(labels).argmax())
    mass = np.zeros(size)
    mass[kept], doubt = _balanced(flow_in[kept][:, kept])
    return mass.reshape(shape), doubt


def _balanced(flow_in: Any) -> tuple[np.ndarray, float]:
    """The stationary probabilities (n,) for rates (n, n) from columns to rows, and what rounding does.

    The latter is its largest relative effect on one of them. First a rough guess, then the balances with the
    likeliest state's mass given.
    """
    import scipy

    size = flow_in.shape[0]
    leaving = np.asarray(flow_in.sum(axis=0)).ravel()
    balance = (scipy.sparse.diags(leaving) - flow_in).tocsc()
    # One long implicit step. The balances alone are singular; divided by a rare state's mass instead of the
    # likeliest one's, all others would carry its rounding.
    slow = 1e-8 * float(np.median(leaving))
    step = scipy.sparse.linalg.splu((balance + slow * scipy.sparse.identity(size)).tocsc())
    top = int(np.argmax(step.solve(np.full(size, slow / size))))
    rest = np.delete(np.arange(size), top)
    mass = np.ones(size)
    inflow = -np.asarray(balance[rest, top].todense()).ravel()
    solve = scipy.sparse.linalg.splu(balance[rest][:, rest].tocsc()).solve
    found = solve(inflow)
    moved = np.finfo(float).eps * np.abs(solve(leaving[rest] * found))  # by a rounding of the diagonal
    mass[rest] = np.maximum(found, 0.0)
    seen = np.abs(found) > 1e-280
    return mass / mass.sum(), float(np.max(moved[seen] / np.abs(found[seen]), initial=0.0))


def _current(moves: Moves, mass: np.ndarray, edges: list[np.ndarray]) -> np.ndarray:
    """Net moves per unit of t and of length, at the centers: half of every jump's flux at either end."""
    width = np.array([axis[1] - axis[0] for axis in edges])
    current = np.zeros((*mass.shape, 2))
    for (i, j), rate in moves.items():
        start, end = inside(mass.shape, i, j)
        net = (rate[start] * mass[start] - moves[-i, -j][end] * mass[end])[..., None]
        net = net * np.array([i, j]) / width[::-1]  # what crosses a side, over the side's length
        current[start] += 0.25 * net  # each pair of cells is met twice
        current[end] += 0.25 * net
    return current
