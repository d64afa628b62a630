"""The Euler-Maruyama chain of a one-dimensional diffusion: stationary law and mean first passage times.

Both from the Gaussian transition kernel. The law ``p(y) = int N(y; x + f dt, D dt) p(x) dx`` is smooth, so
that Gauss rules on panels a few kernel widths wide converge fast (Nystrom's method).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .elimination import hitting_times, stationary
from .panels import ORDER, Fields, Panels, adapt, nodes_between, rule

MOST_NODES = 3600
"""Work grows with the third power: this many take a few seconds."""
CLOSE = 1e-9
"""Total variation between two resolutions at which the finer one is believed."""
_WIDTHS = (8.0, 4.0, 2.0, 1.0, 0.5)
"""Panels in units of the kernel's standard deviation, tried in turn."""
_FAR = 1200.0  # squared standard deviations; beyond them the density, 1e-260, is 0
_SPARE = 1e-18  # of the mass, at either end of the grid, is left out where the panels are made finer


@dataclass(frozen=True)
class Kernel:
    """The transition kernel at quadrature nodes.

    Attributes
    ----------
    nodes, weights, mean, spread : arrays (n,)
        Quadrature, and where one step from each node leads: a normal with this mean and standard deviation.
    """

    nodes: np.ndarray
    weights: np.ndarray
    mean: np.ndarray
    spread: np.ndarray

    def to(self, y: np.ndarray) -> np.ndarray:
        """The density at points (m,) after a step from each node: (n, m)."""
        squares = np.subtract.outer(self.mean, y)
        squares /= self.spread[:, None]
        squares *= squares
        # exp is slow where its result is no normal number, and nothing is read from there.
        far = squares > _FAR
        density = np.exp(np.multiply(squares, -0.5, out=squares), out=squares)
        density /= self.spread[:, None] * math.sqrt(2 * math.pi)
        density[far] = 0.0
        return density

    def into(self, edges: np.ndarray) -> np.ndarray:
        """The probability of every cell (m,) after a step from each node: (n, m)."""
        import scipy

        z = (edges - self.mean[:, None]) / self.spread[:, None]
        # In the upper tail the complement, so that a cell there keeps its digits.
        below, above = scipy.special.ndtr(z), scipy.special.ndtr(-z)
        return np.where(z[:, :-1] > 0, above[:, :-1] - above[:, 1:], below[:, 1:] - below[:, :-1])

    def moves(self, other: Kernel, stay: np.ndarray) -> np.ndarray:
        """Probabilities (n, m) of the other's nodes after a step, scaled to the sums `stay` (n,)."""
        return closed(self.to(other.nodes) * other.weights, other.nodes, self.mean, stay)


@dataclass(frozen=True)
class ChainLaw:
    """A stationary law.

    Attributes
    ----------
    kernel : Kernel
    share : array (n,)
        The probability at every node.
    loss : float
        Of a step that leaves the cells.
    error : float
        What the last refinement changed.
    """

    kernel: Kernel
    share: np.ndarray
    loss: float
    error: float


def chain_law(fields: Fields, edges: np.ndarray, dt: float) -> ChainLaw:
    """The stationary law of the chain on cells with these edges.

    Steps out of them are taken back in proportion; the `loss` says how many.
    """
    base = adapt(fields, edges[[0, -1]], swing=math.inf)
    ends, before, law = edges[[0, -1]], None, None
    for widths in _WIDTHS:
        kernel = nystrom(base, ends, dt, widths)
        if kernel is None:
            break
        share = stationary(kernel.moves(kernel, np.ones(len(kernel.nodes))))
        masses = share @ kernel.into(edges)
        error = math.inf if before is None else 0.5 * float(np.abs(masses - before).sum())
        before, law = masses, ChainLaw(kernel, share, max(0.0, 1 - float(masses.sum())), error)
        if error < CLOSE:
            break
        ends = _needed(kernel, share, edges)  # no nodes are spent on empty ends when panels are halved
    if law is None:
        raise ValueError(
            "`dt` must be larger for time='chain' on this grid: the steps are so short that the kernel "
            f"needs more than {MOST_NODES} nodes; got {dt:g}. "
            "Use time='continuous', a larger `dt`, or a narrower grid."
        )
    return law


def _needed(kernel: Kernel, share: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """The ends (2,) of the stretch that holds all but a negligible mass, with some room."""
    low = int(np.searchsorted(np.cumsum(share), _SPARE))
    high = len(share) - 1 - int(np.searchsorted(np.cumsum(share[::-1]), _SPARE))
    room = 4 * float(kernel.spread[low : high + 1].max())
    return np.clip(kernel.nodes[[low, high]] + [-room, room], edges[0], edges[-1])


def closed(moves: np.ndarray, nodes: np.ndarray, mean: np.ndarray, stay: np.ndarray) -> np.ndarray:
    """Rows scaled to the sums `stay`; one from which every step leaves ends at the node nearest its aim."""
    total = moves.sum(axis=1)
    # Quadrature loses a little where the kernel is narrow: scaled, no mass is lost or made.
    moves *= (stay / np.where(total > 0, total, 1.0))[:, None]
    for k in np.flatnonzero((total == 0) & (stay > 0)):
        moves[k, np.argmin(np.abs(nodes - mean[k]))] = stay[k]
    return moves


def at_points(base: Panels, nodes: np.ndarray, weights: np.ndarray, dt: float) -> Kernel:
    """The kernel from given nodes (n,)."""
    h, q, _ = base.at(nodes)
    return Kernel(nodes, weights, nodes + dt * 0.5 * h / q, np.sqrt(dt / q))


def nystrom(base: Panels, ends: np.ndarray, dt: float, widths: float) -> Kernel | None:
    """The kernel on panels at most `widths` of its deviations wide; None where that takes too many nodes."""
    inside = base.breaks[(base.breaks > ends[0]) & (base.breaks < ends[1])]
    edges = np.unique(np.concatenate([ends, inside]))
    while ORDER * (len(edges) - 1) <= MOST_NODES:
        nodes = nodes_between(edges[:-1], edges[1:])
        weights = 0.5 * np.diff(edges)[:, None] * rule()[1]
        kernel = at_points(base, nodes.ravel(), weights.ravel(), dt)
        wide = np.diff(edges) > widths * kernel.spread.reshape(-1, ORDER).min(axis=1)
        if not wide.any():
            return kernel
        edges = np.sort(np.concatenate([edges, 0.5 * (edges[:-1] + edges[1:])[wide]]))
    return None


def passage(base: Panels, low: float, start: float, end: float, dt: float) -> float:
    """The chain's mean time from `start` to beyond `end` > start, in units of t.

    Steps below `low` are taken back in proportion.
    """
    before = change = math.nan
    for kernel in _kernels(base, np.array([low, end]), dt):
        here = at_points(base, np.array([start]), np.ones(1), dt)
        first = here.moves(kernel, _below(here, end))
        moves, leaving = kernel.moves(kernel, _below(kernel, end)), _below(kernel, end, side=-1)
        now = dt + float(first[0] @ hitting_times(moves, leaving, dt))
        before, change = now, abs(now - before) / now
        if change < 1e-8:
            break
    if not change < 1e-3:
        raise ValueError(
            f"`dt` must be larger for the chain's passage times: they need more than {MOST_NODES} nodes; got "
            f"{dt:g}. Use time='continuous'."
        )
    return before


def _kernels(base: Panels, ends: np.ndarray, dt: float) -> Iterator[Kernel]:
    """Finer and finer, as far as the nodes go."""
    for widths in _WIDTHS:
        kernel = nystrom(base, ends, dt, widths)
        if kernel is None:
            return
        yield kernel


def _below(kernel: Kernel, end: float, side: int = 1) -> np.ndarray:
    """The probability (n,) of a step that ends below `end`, or beyond it (side -1)."""
    import scipy

    return scipy.special.ndtr(side * (end - kernel.mean) / kernel.spread)
