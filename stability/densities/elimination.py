"""Stationary laws and hitting times of Markov chains without a subtraction.

The rarest passage keeps its digits. Grassmann, Taksar and Heyman (1985): Gaussian elimination of
``1 - moves`` in which the pivots are sums of what leaves a state, not one less what stays. In blocks, so that
the work is matrix products.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

_BLOCK = 96
_LOOKS = 64


def stationary(moves: np.ndarray) -> np.ndarray:
    """The stationary probabilities (n,) of a stochastic matrix (n, n), from rows to columns."""
    order = _by_visits(moves)
    moves = moves[np.ix_(order, order)]
    _eliminate(moves, np.zeros(len(moves)), np.zeros(len(moves)), keep=1)
    law = np.ones(1)
    for rest, block in _blocks(len(moves), 1):
        law = np.concatenate([law, law @ moves[rest, block]])
        law /= law.max()  # only ratios count, and a rare first state would let the others overflow
    share = np.empty(len(moves))
    share[order] = law / law.sum()
    return share


def hitting_times(moves: np.ndarray, leaving: np.ndarray, dt: float) -> np.ndarray:
    """Mean times (n,) until a chain with these moves (n, n) leaves, in steps of `dt`.

    `leaving` (n,) is one less the rows' sums, with its own digits.
    """
    order = _by_visits(moves)
    moves = moves[np.ix_(order, order)]
    waited = np.full(len(moves), dt)
    factors = _eliminate(moves, leaving[order], waited, keep=0)
    times = np.zeros(0)
    for (rest, block), inverse in zip(_blocks(len(moves), 0), reversed(factors), strict=True):
        times = np.concatenate([times, inverse @ (waited[block] + moves[block, rest] @ times)])
    back = np.empty(len(moves))
    back[order] = times
    return back


def _by_visits(moves: np.ndarray) -> np.ndarray:
    """States, those first where the chain is most of the time.

    Eliminated last, they are where every other state leads.
    """
    visits = here = np.full(len(moves), 1 / len(moves))
    for _ in range(_LOOKS):
        here = here @ moves
        visits = visits + here
    return np.argsort(-visits, kind="stable")


def _blocks(size: int, keep: int) -> Iterator[tuple[slice, slice]]:
    """The blocks in the order of substitution, each with what lies before it."""
    for start in range(keep, size, _BLOCK):
        yield slice(0, start), slice(start, min(size, start + _BLOCK))


def _eliminate(moves: np.ndarray, leaving: np.ndarray, waited: np.ndarray, keep: int) -> list[np.ndarray]:
    """Take out all states but the first `keep`, last block first; ``(1 - moves)^-1`` of each, in that order.

    In place: above a block stand the expected visits to it before a return, and `leaving` and `waited` count
    what happens on the way.
    """
    inverses = []
    for rest, block in reversed(list(_blocks(len(moves), keep))):
        inverse = _inverse(moves[block, block], moves[block, rest].sum(axis=1) + leaving[block])
        visits = moves[rest, block] @ inverse
        moves[rest, rest] += visits @ moves[block, rest]
        leaving[rest] += visits @ leaving[block]
        waited[rest] += visits @ waited[block]
        moves[rest, block] = visits
        inverses.append(inverse)
    return inverses


def _inverse(moves: np.ndarray, leaving: np.ndarray) -> np.ndarray:
    """``(1 - moves)^-1`` of a block (b, b) whose rows sum to one with `leaving` (b,).

    As ``(D - L)^-1 (1 - U)^-1``, with positive terms throughout.
    """
    import scipy

    moves, leaving, size = moves.copy(), leaving.copy(), len(moves)
    pivots = np.empty(size)
    for k in range(size - 1, -1, -1):
        pivots[k] = leaving[k] + moves[k, :k].sum()
        if not pivots[k] > 1e-290:
            raise ValueError(
                "The chain's passages between parts of the grid are too rare for numbers (below 1e-290 per "
                "step): its law depends on where it starts. "
                "Take a narrower grid, more noise, or time='continuous'."
            )
        moves[:k, k] /= pivots[k]
        moves[:k, :k] += np.outer(moves[:k, k], moves[k, :k])
        leaving[:k] += moves[:k, k] * leaving[k]
    upper = scipy.linalg.solve_triangular(np.eye(size) - np.triu(moves, 1), np.eye(size))
    return scipy.linalg.solve_triangular(np.diag(pivots) - np.tril(moves, -1), upper, lower=True)
