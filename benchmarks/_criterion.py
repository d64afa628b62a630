"""Two edges of a step by experiment: where runs restarted from a place leave it, and where they fail.

**Leaves.** The iterate's deviation from the place is projected on the leading eigenvectors of the
preconditioned Hessian; its variance about a straight line, weighted by the curvatures, is taken over each
half of the run (the line takes away what drifts). Growth is judged by what a linear iteration would do:

- Just at the edge of mean-square stability second moments grow in proportion to time: the second half has
  three times the variance of the first. More says growth, less says settling.
- Growth that ends within the first half, because the network has moved on to a flatter place, escapes that.
  But a linear iteration settles, in each mode and with heavy ball too, at ``c step / (1 - step / edge)``, c
  from the gradient's noise at the place. Five times ``c step`` belongs to a step at 0.8 of the edge: a step
  whose 0.8-fold has as much is beyond it.

The score of a step is the logarithm of the larger of both over its threshold, from the mean variance over the
seeds; a rising fit takes away what is chance, and the edge lies where it passes zero.

**Moves on** (for information, no goal; added when all cells had been seen). Runs leave, or the second half
has less than half the variance of the first: a linear iteration that starts from rest at a smaller step never
settles downwards, so the place is another by then.

**Crosses 1.3, 1.5, 2.** The largest ten-step mean of the batches' losses over the level of runs that go on as
they were, a geometric mean over the seeds. **Fails.** The last fifty losses likewise, over twice the level.

How the rules were found. The first form asked for ten times the variance that runs at small steps have; on
the first four networks runs moved to a flatter place before that, and on linear models, whose edge is known,
small steps settle too slowly to be a measure. So c comes from noise, and five times at 0.8 stands for ten;
the networks' edges moved by at most 15 %. Nothing was changed for what any cell's prediction said.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from scipy.optimize import isotonic_regression

LINEAR, LARGE, NEAR = 3.0, 5.0, 0.8
"""Growth of the second half over the first at the edge; the variance, over the usual, of a step at a share of
the edge, and that share.
"""
CROSSINGS = (1.3, 1.5, 2.0)
FAILS, MOVED = 2.0, 0.5


@dataclass
class Record:
    """What runs of one place did, a row for each step (A,) and a column for each seed.

    Attributes
    ----------
    lrs : array (A,)
    early, late : arrays (A, S)
        Variance of the deviation in the leading modes, weighted by curvature, in both halves.
    highest, end : arrays (A, S)
        Largest ten-step mean of the loss, and mean of the last fifty.
    """

    lrs: np.ndarray
    early: np.ndarray
    late: np.ndarray
    highest: np.ndarray
    end: np.ndarray

    def joined(self, other: Record) -> Record:
        """Both, by rising steps."""
        order = np.argsort(np.r_[self.lrs, other.lrs])
        return Record(
            *(
                np.concatenate([getattr(self, one.name), getattr(other, one.name)])[order]
                for one in fields(Record)
            )
        )


def variance(Z: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Of deviations (T, R, k) about a straight line, weighted and summed over the modes, (R,)."""
    Z = np.clip(np.nan_to_num(Z, nan=1e15, posinf=1e15, neginf=-1e15), -1e15, 1e15)
    line = np.vander(np.linspace(-1, 1, len(Z)), 2)
    basis = np.linalg.qr(line)[0]
    flat = Z.reshape(len(Z), -1)
    rest = flat - basis @ (basis.T @ flat)
    return ((rest**2).mean(0).reshape(Z.shape[1:]) * weights).sum(1)


# -- criteria --------------------------------------------------------------------------------------


def growth(record: Record, usual: float) -> np.ndarray:
    """Score (A,) of the growth of the leading modes' deviation: positive beyond the edge."""
    early, late = record.early.mean(1), record.late.mean(1)
    above = np.maximum(early, late) / (usual * record.lrs * LARGE)
    near = np.interp(np.log(NEAR * record.lrs), np.log(record.lrs), np.log(above))
    return np.maximum(np.log(late / early / LINEAR), near)


def crossing(record: Record, level: float, times: float) -> np.ndarray:
    """Score (A,) of the largest ten-step mean of the loss."""
    return np.log(record.highest / level).mean(1) - math.log(times)


def failure(record: Record, level: float) -> np.ndarray:
    """Score (A,) of the loss at the end."""
    return np.log(record.end / level).mean(1) - math.log(FAILS)


def edge(lrs: np.ndarray, score: np.ndarray) -> float:
    """Where a rising fit of the score passes zero, by interpolation in the logarithm of the step.

    0 where all steps are beyond the edge, inf where none is.
    """
    rising = isotonic_regression(np.clip(score, -2.0, 2.0)).x
    beyond = np.flatnonzero(rising > 0)
    if not len(beyond) or beyond[0] == 0:
        return 0.0 if len(beyond) else math.inf
    i = beyond[0]
    share = -rising[i - 1] / (rising[i] - rising[i - 1])
    return float(np.exp(np.interp(share, [0, 1], np.log(lrs[i - 1 : i + 1]))))


def edges(record: Record, level: float, usual: float) -> dict[str, float]:
    """All of them, by name."""
    grows = growth(record, usual)
    settled = np.log(MOVED * record.early.mean(1) / record.late.mean(1))
    found = {"leaves": edge(record.lrs, grows), "moves on": edge(record.lrs, np.maximum(grows, settled))}
    for times in CROSSINGS:
        found[f"crosses {times:g}"] = edge(record.lrs, crossing(record, level, times))
    return {**found, "fails": edge(record.lrs, failure(record, level))}


def told(cell: dict[str, Any]) -> dict[str, float]:
    """The edges of a cell of the document, from its runs."""
    runs = cell["runs"]
    arrays = {name: np.array(runs[name], float) for name in ("lrs", "early", "late", "highest", "end")}
    return edges(Record(**arrays), 1.0, cell["usual"])


# -- an edge that is known -------------------------------------------------------------------------


def exact_limit(rows: np.ndarray, spread: float, beta: float = 0.0) -> float:
    """The mean-square limit of a linear iteration, all modes, from dense algebra.

    Of heavy ball with ``H_s = rows_s rows_s^T`` (m, d): the step at which the map of second moments
    ``M -> R o E[(H_s - H) M (H_s - H)]`` has radius 1, R the response of every pair of modes to noise.
    """
    values, vectors = np.linalg.eigh(rows.T @ rows / len(rows))
    kept = values > 1e-10 * values[-1]
    rows, values = rows @ vectors[:, kept], values[kept]

    def radius(step: float) -> float:
        answers, M, size = response(values, step, beta), np.eye(len(values)), 0.0
        for _ in range(200):
            squares = np.einsum("mi,mi->m", rows @ M, rows)
            heard = (rows * squares[:, None]).T @ rows / len(rows) - values[:, None] * M * values
            M, last = spread * answers * heard, size
            size = float(np.linalg.norm(M))
            M /= size
            if abs(size - last) < 1e-6 * size:
                break
        return size

    low, high = 0.0, 2 * (1 + beta) / float(values[-1])
    while high - low > 1e-4 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if radius(middle) < 1 else (low, middle)
    return low


def response(values: np.ndarray, step: float, beta: float) -> np.ndarray:
    """``E[w_j w_k]`` of heavy ball's modes that hear the same unit noise, all pairs (d, d)."""
    one = np.ones_like(values)
    B = np.array([[one - step * values, -step * beta * one], [values, beta * one]]).transpose(2, 0, 1)
    b = np.array([-step, 1.0])
    pairs = np.einsum("jab,kcd->jkacbd", B, B).reshape(len(values), len(values), 4, 4)
    return np.linalg.solve(np.eye(4) - pairs, np.outer(b, b).reshape(4, 1))[..., 0, 0]
