"""Gauss-Newton in sample space: damped steps on all directions of a batch, by its samples' couplings.

Of m residuals ``r`` with gradients ``J`` (m, n) the step ``J^T (J J^T + gamma I)^-1 r`` is that of the
low-rank saddle-free method on the curvature ``J^T J`` of the batch itself: exact, of rank m, at the price of
the residuals' gradients. What is of size m lives on the host in double precision: a damping of 1e-12 of the
largest curvature is meant, and single precision would not see it.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .._array import Backend
from .operator import NotFinite

MEMORY = 0.9
"""Share of the last direction that is kept where batches are drawn: SPRING (Goldshlager et al. 2024)."""
GRID = np.logspace(-10.0, 3.0, 40)
"""Dampings that leave-one-out compares, in units of the mean eigenvalue of ``J J^T``."""
TIE = 1e-9
"""Relative difference up to which two dampings serve samples left out as well."""
SMOOTH = 0.9
"""Memory of the logarithm of what leave-one-out has chosen."""
FIRST = 1e-2
"""The first damping of a batch that stays, in units of the mean eigenvalue."""
DRAWN = 0.5
"""Length of a step on a batch that is drawn anew; on one that stays it is 1."""
BEGINNING = 5
"""Batches whose mean loss is that of the start."""
WATCHED = 20
"""Steps over which losses, and what samples say of each other, are averaged."""
FIRST_WORDS = 3
"""Steps that are waited for before samples can have spoken for each other."""
HEARD = 0.6
"""Share of samples' squares, left by steps on the others, below which they have."""
PATIENCE = 50
"""Steps after which samples that have not are told of."""
RISEN = 2.0
"""Share of the first loss beyond which a rise is laid to the memory."""
DEAF = 0.9
"""Share of samples' squares, left by steps on the others, from which they do not speak for each other."""
FALLEN = 0.8
"""Share of the first loss below which a run is on its way, whatever samples say of each other."""
LEAST = 1e-14
"""Below this share of the largest eigenvalue a damping is the rounding of double precision."""
CHUNK = 2**22
"""Numbers of a Jacobian that are converted to double precision at once."""


class Rows(NamedTuple):
    """A batch's residuals, linearized; a quadratic model of the loss is half of their sum of squares.

    Attributes
    ----------
    values : array (m,)
        On the host, in double precision.
    jacobian : array (m, n)
        Of `backend`.
    blocks : tuple of (b, k)
        The rows are those of b samples with k residuals each, sample by sample, block after block.
    backend : Backend
    loss : float
        Of the batch: half the sum of squares, or what these stand for.
    """

    values: np.ndarray
    jacobian: Any
    blocks: tuple[tuple[int, int], ...]
    backend: Backend
    loss: float

    def couplings(self) -> np.ndarray:
        """``J J^T`` (m, m) on the host, in double precision; raises `NotFinite` where it is not finite."""
        xp, J = self.backend.xp, self.jacobian
        m, n = J.shape
        wide = max(1, CHUNK // max(m, 1))
        total = np.zeros((m, m))
        for start in range(0, n, wide):
            part = xp.astype(J[:, start : start + wide], xp.float64)
            if str(self.backend.device or "cpu") == "cpu":
                # On the host NumPy knows a matrix times itself for a symmetric one: half the work.
                part = self.backend.host(part)
            total += self.backend.host(part @ part.T)
        if not (np.isfinite(total).all() and np.isfinite(self.values).all()):
            raise NotFinite(
                "The residuals and their gradients must be finite; some are nan or infinite, or have squares "
                "beyond double precision. Scale the residuals, or start where the model is finite."
            )
        return total

    def along(self, direction: Any) -> np.ndarray:
        """``J d`` (m,) on the host."""
        return self.backend.host(self.jacobian @ direction).astype(float)

    def combined(self, weights: np.ndarray) -> Any:
        """``J^T x`` (n,)."""
        return self.jacobian.T @ self.backend.asarray(weights)


@dataclass(frozen=True)
class Dual:
    """``J J^T`` of a batch, decomposed: its damped solves, and what each sample would be without itself.

    Attributes
    ----------
    couplings : array (m, m)
    blocks : tuple of (b, k)
        As in `Rows`.
    """

    couplings: np.ndarray
    blocks: tuple[tuple[int, int], ...]

    @functools.cached_property
    def _decomposed(self) -> tuple[np.ndarray, np.ndarray]:
        values, vectors = np.linalg.eigh(self.couplings)
        # Below zero is rounding: couplings are squares.
        return np.maximum(values, 0.0), vectors

    @property
    def values(self) -> np.ndarray:
        """Eigenvalues (m,), those of the batch's curvature ``J^T J``, smallest first."""
        return self._decomposed[0]

    @property
    def mean(self) -> float:
        """Their mean, or 1 where all are 0."""
        return float(self.values.mean()) or 1.0

    def solve(self, right: np.ndarray, damping: float) -> np.ndarray:
        """``(J J^T + damping I)^-1 r`` (m,)."""
        values, vectors = self._decomposed
        return vectors @ ((vectors.T @ right) / (values + max(damping, LEAST * values[-1] or 1.0)))

    def left_out(self, right: np.ndarray, dampings: np.ndarray) -> np.ndarray:
        """Sum of the squares that samples have after steps which did not see them, one for each damping.

        With ``A = (J J^T + damping I)^-1``, sample i is left with ``A_ii^-1 (A r)_i``, ``A_ii`` the (k, k)
        block of its own rows: the step on all the others, in closed form.

        Examples
        --------
        >>> import numpy as np
        >>> from stability.lowrank.sample_space import Dual
        >>> J, r = np.array([[1.0, 0.0], [1.0, 1.0]]), np.array([1.0, 2.0])
        >>> left = [r[i] - J[i] @ (J[1 - i] * r[1 - i] / (J[1 - i] @ J[1 - i] + 0.5)) for i in (0, 1)]
        >>> found = Dual(J @ J.T, ((2, 1),)).left_out(r, np.array([0.5]))
        >>> bool(np.isclose(found[0], np.sum(np.square(left))))
        True
        """
        values, vectors = self._decomposed
        gains = 1.0 / (values + np.maximum(dampings, LEAST * values[-1] or 1.0)[:, None])
        solved = (gains * (vectors.T @ right)) @ vectors.T
        total, start = np.zeros(len(dampings)), 0
        for b, k in self.blocks:
            stop = start + b * k
            own, part = vectors[start:stop], solved[:, start:stop]
            if k == 1:
                total += np.sum((part / (gains @ np.square(own).T)) ** 2, axis=1)
            else:
                rows = own.reshape(b, k, -1)
                for i, gain in enumerate(gains):
                    alone = (rows * gain) @ rows.transpose(0, 2, 1)
                    total[i] += np.sum(np.linalg.solve(alone, part[i].reshape(b, k, 1)) ** 2)
            start = stop
        return total


@dataclass(frozen=True)
class Ridge:
    """``weight |w|^2 / 2`` beside the residuals' squares, at the state w (n,)."""

    weight: float
    state: Any


class SampleStep(NamedTuple):
    """A direction, as steps of length 1 take it, and what was decided on the way.

    Attributes
    ----------
    direction : array (n,)
        The step goes along minus this.
    damping : float
    curvatures : array (m,)
        Eigenvalues of the batch's curvature, smallest first.
    """

    direction: Any
    damping: float
    curvatures: np.ndarray


@dataclass
class SampleSpace:
    """How a run damps its steps in sample space, and what it has learnt of its batches.

    Of a batch that stays the damping follows the gain ratio (Levenberg and Marquardt); of batches that are
    drawn anew it is that which serves samples left out best, and a share of the last direction is kept. What
    has been gathered on samples that do not speak for each other does harm to others, and cannot be taken
    back: until steps on some have explained what is left on the rest, each batch says how much is kept.

    Attributes
    ----------
    fixed : float or None
        A damping that was given, and is not measured.
    memory : float
        Share of the last direction that is kept.
    drawn : bool or None
        Whether batches are drawn anew; None while that is not known, and they are taken to be: a step that
        explains one batch whole may lead far away.
    trust : float
        The damping of a batch that stays; 0 before there is one.
    chosen : float
        The logarithm of what leave-one-out has chosen, smoothed; nan before.
    count : int
        Steps on batches that were drawn.
    start, level : float
        Half the sum of squares at first, and smoothed.
    alone : float
        Share of samples' squares that steps on the others leave at best, smoothed.
    guarded : bool
        Whether each batch says how much of the last direction is kept.
    """

    fixed: float | None = None
    memory: float = MEMORY
    drawn: bool | None = None
    trust: float = 0.0
    chosen: float = math.nan
    count: int = 0
    start: float = math.nan
    level: float = 0.0
    alone: float = 0.0
    guarded: bool = True

    @property
    def length(self) -> float:
        """The step that is taken where none is asked for."""
        return 1.0 if self.drawn is False else DRAWN

    @property
    def deaf(self) -> bool:
        """Whether samples do not speak for each other, and nothing else has helped."""
        return self.quiet and self.alone > DEAF and self.level > FALLEN * self.start

    @property
    def quiet(self) -> bool:
        """Whether samples have not spoken for each other for long, and the last direction is distrusted."""
        return self.guarded and self.count >= PATIENCE

    def step(self, rows: Rows, dual: Dual, previous: Any | None, ridge: Ridge | None = None) -> SampleStep:
        """The direction on a batch, after the previous one (n,)."""
        if self.drawn is False:
            if not self.trust:
                self.trust = FIRST * dual.mean
            damping = self.trust if self.fixed is None else self.fixed
            return SampleStep(self._solved(rows, dual, rows.values, damping, ridge), damping, dual.values)
        return self._after(rows, dual, previous, ridge)

    def _after(self, rows: Rows, dual: Dual, previous: Any | None, ridge: Ridge | None) -> SampleStep:
        """The step of a fresh batch from where the last direction leads."""
        right, share = rows.values, 0.0
        if previous is not None and self.memory:
            image = rows.along(previous)
            share = self._share(right, image)
            # What the part of the last direction that is kept leaves to be done.
            right = right - share * image
            if ridge is not None:
                ridge = Ridge(ridge.weight, ridge.state - share * previous)
        damping = self._damping(dual, right, rows.loss)
        direction = self._solved(rows, dual, right, damping, ridge)
        if share:
            direction = direction + share * previous  # type: ignore[operator]
        return SampleStep(direction, damping, dual.values)

    def _share(self, right: np.ndarray, image: np.ndarray) -> float:
        """How much of the last direction is kept; guarded, what brings this batch's squares down the most."""
        if not self.guarded:
            return self.memory
        size = float(image @ image)
        return min(self.memory, max(0.0, float(right @ image) / size)) if size > 0 else 0.0

    def _damping(self, dual: Dual, right: np.ndarray, loss: float) -> float:
        """Chosen by leave-one-out, on a logarithmic scale smoothed over steps."""
        left = dual.left_out(right, dual.mean * GRID)
        # Where samples left out do not tell dampings apart, the largest one does the least.
        best, whole = int(np.flatnonzero(left <= (1 + TIE) * left.min())[-1]), float(right @ right)
        self._note(loss, float(left[best]) / whole if whole > 0 else 0.0)
        found = math.log(dual.mean * GRID[best])
        self.chosen = found if math.isnan(self.chosen) else SMOOTH * self.chosen + (1 - SMOOTH) * found
        return math.exp(self.chosen) if self.fixed is None else self.fixed

    def _note(self, loss: float, alone: float) -> None:
        """What a fresh batch says of the run."""
        self.count += 1
        if self.count <= BEGINNING:
            self.start = loss if self.count == 1 else self.start + (loss - self.start) / self.count
        share = 1 / min(self.count, WATCHED)
        self.level += share * (loss - self.level)
        self.alone += share * (alone - self.alone)
        if self.guarded:
            self.guarded = self.count < FIRST_WORDS or self.alone > HEARD
        elif self.level > RISEN * self.start:
            self.guarded, self.count = True, BEGINNING

    @staticmethod
    def _solved(rows: Rows, dual: Dual, right: np.ndarray, damping: float, ridge: Ridge | None) -> Any:
        """``(J^T J + c I)^-1 (J^T r + weight w)`` with ``c = damping + weight``, in sample space."""
        if ridge is None or not ridge.weight:
            return rows.combined(dual.solve(right, damping))
        whole = damping + ridge.weight
        share = ridge.weight / whole
        return rows.combined(dual.solve(right - share * rows.along(ridge.state), whole)) + share * ridge.state

    def judge(self, before: float, after: float, predicted: float) -> bool:
        """Whether a step on a batch that stays led down; the next damping follows its gain ratio."""
        if not after < before:  # nan neither
            self.trust *= 4.0
            return False
        # Between the two bounds the model is trusted as it is: the usual ones of Levenberg and Marquardt's
        # method.
        ratio = (before - after) / predicted if predicted > 0 else 0.0
        self.trust *= 1 / 3 if ratio > 0.75 else 1.0 if ratio > 0.25 else 2.0
        return True
