"""The mean-square limit from a few directions: coupled among them, and closed by traces of the rest.

Second moments are sought as ``V W V^T + m (1 - V V^T)``, as in `stability.linear.products`, but from random
probes instead of rows: what every sample's curvature does between directions and probes tells, without bias,
what it does between directions and all else, and in the rest. Where the directions are all there are it is
exact. Everything is in the coordinates in which the optimizer is SGD with memory.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..linear.products import Leader
from ..methods.memory import Memory, Motion

_EDGE = 1e-9  # so near the mean limit the noise decides
_TOLERANCE = 1e-11


@dataclass(frozen=True)
class Blocks:
    """Samples' curvature among k directions and J probes, Gaussian in the rest; deviations from the mean.

    Attributes
    ----------
    eigenvalues : array (k,)
        Of the mean curvature among the directions, which are its eigenvectors there.
    inner : array (m, k, k)
        ``E_s`` among directions.
    across : array (m, k, J)
        From directions to probes.
    outer : array (m, J, J)
        Among probes.
    leak : array (k, k)
        Of the mean curvature, ``V^T H (1 - V V^T) H V``.
    rest, squared : float
        Traces of the mean curvature of the rest, and of its square.
    width : int
        Dimensions of the rest.
    unbias : float
        Of variances seen on a random part of all samples.
    decay : array (k,) or float
        What of the eigenvalues is no curvature, but weight decay beside the metric (`Memory.curvature_of`).
    """

    eigenvalues: np.ndarray
    inner: np.ndarray
    across: np.ndarray
    outer: np.ndarray
    leak: np.ndarray
    rest: float
    squared: float
    width: int
    unbias: float = 1.0
    decay: np.ndarray | float = 0.0

    @classmethod
    def of(
        cls,
        curvatures: np.ndarray,
        mean: np.ndarray,
        width: int,
        *,
        unbias: float = 1.0,
        decay: np.ndarray | None = None,
    ) -> tuple[Blocks, np.ndarray]:
        """From curvatures (m, k + J, k + J), directions first, and their mean (k, k) among directions.

        Of both `decay` (k + J, k + J) is weight decay. Also the turn (k, k) of the directions into
        eigenvectors.
        """
        k = len(mean)
        values, turn = np.linalg.eigh(mean)
        order = np.argsort(-values)
        values, turn = values[order], turn[:, order]
        centre = curvatures.mean(axis=0)
        deviations = curvatures - centre
        inner = turn.T @ deviations[:, :k, :k] @ turn
        across = turn.T @ deviations[:, :k, k:]
        probes = centre.shape[0] - k
        leak, rest, squared = np.zeros((k, k)), 0.0, 0.0
        if probes and width:
            beyond = turn.T @ centre[:k, k:]
            leak = beyond @ beyond.T / probes
            rest = float(np.trace(centre[k:, k:])) / probes
            squared = float(_off_diagonal(centre[None, k:, k:])[0])
        own = 0.0 if decay is None else np.diag(turn.T @ decay[:k, :k] @ turn)
        outer = deviations[:, k:, k:]
        return cls(values, inner, across, outer, leak, rest, squared, width, unbias, own), turn

    @property
    def probes(self) -> int:
        """J."""
        return self.outer.shape[-1]

    @functools.cached_property
    def feed(self) -> np.ndarray:
        """``W -> mean_s E_s W E_s`` as a matrix on packed W."""
        m, k, _ = self.inner.shape
        flat = self.inner.reshape(m, k * k)
        gram = (self.unbias * flat.T @ flat / m).reshape(k, k, k, k)
        i, j = np.triu_indices(k)
        size = np.where(i == j, 1.0, math.sqrt(2))
        # Of a matrix whose entries (l, n), (n, l) are one, the image has entries E_il E_nj + E_in E_lj.
        both = gram[i[:, None], i, j[:, None], j] + gram[i[:, None], j, j[:, None], i]
        return 0.5 * size[:, None] * both * size

    @functools.cached_property
    def spill(self) -> np.ndarray:
        """``mean_s B_s B_s^T`` (k, k), of the part ``B_s`` of ``E_s`` from the directions to the rest."""
        if not self.probes or not self.width:
            return np.zeros_like(self.leak)
        rows = self.across.transpose(1, 0, 2).reshape(len(self.leak), -1)
        return self.unbias * rows @ rows.T / (len(self.across) * self.probes)

    @functools.cached_property
    def scatters(self) -> np.ndarray:
        """``|D_s|^2`` (m,) of the part of ``E_s`` in the rest."""
        return _off_diagonal(self.outer) if self.width else np.zeros(len(self.outer))

    @property
    def closed(self) -> bool:
        """Whether the rest is known well enough to be a part of the balance."""
        return self.width > 0 and self.probes > 1 and self.rest > 0 and self.squared > 0

    def alone(self) -> Blocks:
        """The directions without the rest."""
        return dataclasses.replace(self, width=0)

    @property
    def moving(self) -> np.ndarray:
        """Which directions (k,) have positive curvature: along others no step makes anything decay."""
        return self.eigenvalues > 1e-12 * max(float(self.eigenvalues[0]), 0.0)

    @property
    def curvatures(self) -> np.ndarray:
        """The eigenvalues (k,) without weight decay beside the metric."""
        return self.eigenvalues - self.decay

    def positive(self) -> Blocks:
        """Along directions of positive curvature alone."""
        kept = self.moving
        if kept.all():
            return self
        pair = np.ix_(kept, kept)
        return dataclasses.replace(
            self,
            eigenvalues=self.eigenvalues[kept],
            inner=self.inner[:, kept][:, :, kept],
            across=self.across[:, kept],
            leak=self.leak[pair],
            decay=np.broadcast_to(self.decay, kept.shape)[kept],
        )


def _off_diagonal(seen: np.ndarray) -> np.ndarray:
    """``|D|^2`` (m,) of matrices D seen between different probes (m, J, J), unbiased."""
    count = seen.shape[-1]
    if count < 2:
        return np.zeros(len(seen))
    # Between different probes alone: what a probe sees of itself has the trace in it too.
    own = np.einsum("sii->si", seen)
    return (np.sum(seen**2, axis=(1, 2)) - np.sum(own**2, axis=1)) / (count * (count - 1))


def packed(W: np.ndarray) -> np.ndarray:
    """A symmetric matrix (k, k) as a vector of the same length: its upper triangle."""
    i, j = np.triu_indices(len(W))
    # So weighted, vectors have the inner product of their matrices, and symmetric maps stay symmetric.
    return np.where(i == j, 1.0, math.sqrt(2)) * W[i, j]


def unpacked(entries: np.ndarray, k: int) -> np.ndarray:
    """The other way."""
    i, j = np.triu_indices(k)
    W = np.empty((k, k))
    W[i, j] = W[j, i] = entries / np.where(i == j, 1.0, math.sqrt(2))
    return W


class Closed:
    """Second moments of an optimizer along directions and in the rest.

    Parameters
    ----------
    blocks : Blocks
        Along directions of positive curvature.
    share : float
        The variance of a mean over a batch, per variance of a sample.
    memory : Memory, optional
    weight_decay : float
        Beside the metric: what all directions share.
    """

    def __init__(self, blocks: Blocks, share: float, memory: Memory | None = None, weight_decay: float = 0.0):
        self.blocks, self.share = blocks, share
        self.memory = memory or Memory(0.0)
        self.weight_decay = weight_decay

    @property
    def deterministic(self) -> float:
        """The limit of the mean along the directions."""
        values = self.blocks.eigenvalues
        return float(self.memory.mean_limit(values[0], self.weight_decay)) if len(values) else math.inf

    @functools.cached_property
    def _map(self) -> np.ndarray:
        """The noise's map on vectors of packed W and m; the latter is there where it is closed."""
        here = self.blocks
        whole = np.zeros((len(here.feed) + 1,) * 2)
        whole[:-1, :-1] = self.share * here.feed
        if here.closed:
            whole[:-1, -1] = whole[-1, :-1] = self.share * packed(here.spill)
            whole[-1, -1] = self.share * here.unbias * float(np.mean(here.scatters))
        return whole

    @property
    def own_decay(self) -> np.ndarray:
        """Weight decay of each direction (k,), beside what all share."""
        return np.broadcast_to(
            self.blocks.decay / self.memory.curvature_of(1.0), self.blocks.curvatures.shape
        )

    def _motion(self, step: float) -> Motion:
        return self.memory.motion(step, step, self.weight_decay)

    def _response(self, step: float) -> tuple[np.ndarray, float]:
        """What unit noise leaves of the entries of W, and of m for unit noise on the whole rest."""
        here, motion = self.blocks, self._motion(step)
        with np.errstate(all="ignore"):
            pairs = motion.response(here.curvatures, self.own_decay)
            inner = pairs[np.triu_indices(len(pairs))]
            if not here.closed:
                return inner, 0.0
            middle = here.squared / here.rest
            alone = float(motion.variances(np.array([middle]))[0])
        return inner, alone * middle / here.rest

    def with_share(self, share: float) -> Closed:
        """The same with another variance of a batch's mean."""
        return Closed(self.blocks, share, self.memory, self.weight_decay)

    def _leaking(self, step: float) -> np.ndarray:
        """The map with what the mean's own motion moves between the directions and the rest."""
        if not self.blocks.closed:
            return self._map - self._spread(step) * self._mixed if self._mixes else self._map
        whole = self._map.copy()
        leak = self._bend(step) * packed(self.blocks.leak)
        whole[:-1, -1] += leak
        whole[-1, :-1] += leak
        return whole

    def _bend(self, step: float) -> float:
        """How much of a squared curvature the balance of second moments gains: 1 of SGD."""
        small = 1e-3 * np.array([1.0, 2.0, 3.0]) / step
        inverse = 1 / self._motion(step).variances(small)
        # ``1 / R(h) = a h - c h^2``: exactly so for the heavy ball.
        return float((2 * inverse[1] - inverse[0] - inverse[2]) / (2 * small[0] ** 2))

    @property
    def _mixes(self) -> bool:
        return bool(self.memory.beta and not self.blocks.width and self.blocks.leak.any())

    @functools.cached_property
    def _mixed(self) -> np.ndarray:
        """``W -> leak W + W leak`` on packed W, and nothing of m."""
        k, leak = len(self.blocks.eigenvalues), self.blocks.leak
        whole = np.zeros_like(self._map)
        for column, entries in enumerate(np.eye(len(whole) - 1)):
            moved = leak @ unpacked(entries, k)
            whole[:-1, column] = packed(moved + moved.T)
        return whole

    def _spread(self, step: float) -> float:
        """What memory makes of the variance of curvature in a direction that is no eigenvector: 0 of SGD.

        Half the second derivative of a pair's balance ``1 / R`` by one curvature: of the heavy ball it is the
        same everywhere, and directions alone then bound the limit as they do without memory.
        """
        half = 0.5 * float(self.blocks.eigenvalues[0])
        balance = 1 / self._motion(step).response(half * np.array([0.001, 1.0, 1.999]))
        return float(np.max(balance[0] - 2 * balance[1] + balance[2])) / (2 * (0.999 * half) ** 2)

    def radius(self, step: float) -> tuple[float, np.ndarray]:
        """Of second moments at this step, and the leading one, as a vector of W and m."""
        import scipy

        whole, (inner, outer) = self._leaking(step), self._response(step)
        response = np.append(inner, outer)
        if np.all(response[:-1] > 0) and outer >= 0:
            # A symmetric map between positive responses: its spectrum is real, and one end of it is all that
            # is found.
            root = np.sqrt(response)
            matrix = root[:, None] * whole * root
            matrix = 0.5 * (matrix + matrix.T)
            last = len(matrix) - 1
            values, vectors = scipy.linalg.eigh(matrix, subset_by_index=[last, last])
            return float(values[0]), root * vectors[:, 0]
        values, vectors = np.linalg.eig(response[:, None] * whole)
        top = int(np.argmax(np.abs(values)))
        return float(np.abs(values[top])), np.real(vectors[:, top])

    @functools.cached_property
    def leader(self) -> Leader:
        """The mean-square limit."""
        import scipy

        k, most = len(self.blocks.eigenvalues), self.deterministic
        if k == 0:
            return Leader(math.inf, np.zeros((0, 0)), 0.0)

        def over(inverse: float) -> float:
            found = self.radius(1 / inverse)[0]
            return 1 / found - 1 if found > 0 else math.inf

        low = (1 + _EDGE) / most
        if self.share == 0 or over(low) > 0:
            return Leader(most, np.diag(np.eye(k)[0]), 0.0)
        high = 2 * low
        while over(high) <= 0:
            high *= 4
        inverse = scipy.optimize.brentq(over, low, high, xtol=_TOLERANCE * low, rtol=_TOLERANCE)
        found = self.radius(1 / inverse)[1]
        W, m = unpacked(found[:-1], k), float(found[-1])
        trace = float(np.trace(W)) + m * self.blocks.width
        return Leader(1 / inverse, W / trace, m / trace)

    def shares(self) -> np.ndarray:
        """Of the noise that sets the limit, what each sample (m,) makes."""
        here, W, m = self.blocks, self.leader.W, self.leader.m
        moved = here.inner @ W
        each = np.einsum("sij,sji->s", moved, moved)
        if here.closed:
            each = each + 2 * m * np.einsum("sij,ik,skj->s", here.across, W, here.across) / here.probes
            each = each + m * m * here.scatters
        total = float(np.sum(each))
        return each / total if total > 0 else np.zeros_like(each)

    def source(self, step: float, noise: np.ndarray, beyond: float) -> tuple[np.ndarray, float]:
        """What drives second moments at rest: noise (k, k) on the directions and its trace on the rest.

        The gradient's own, and with it what the curvature's noise makes of the second moments there.
        """
        inner, outer = self._response(step)
        whole, response = self._leaking(step), np.append(inner, outer)
        given = np.append(packed(noise), beyond)
        moments = np.linalg.solve(np.eye(len(given)) - response[:, None] * whole, response * given)
        driven = given + self._map @ moments
        return unpacked(driven[:-1], len(noise)), float(driven[-1])


def gathered(motion: Motion, pull: np.ndarray, steps: float, weight_decay: Any = 0.0) -> np.ndarray:
    """``E[x^2]`` (k,) that unit noise has made of modes after so many steps from rest, stable or not.

    Each may have more `weight_decay` (k,) of its own.
    """
    matrix = motion.matrices(pull, weight_decay)
    total = np.zeros_like(matrix)
    made, count = np.broadcast_to(np.outer(motion.kick, motion.kick), matrix.shape), int(steps)
    with np.errstate(all="ignore"):  # what grows may overflow: inf is its answer
        # By doubling: a thousand steps take ten rounds.
        while count:
            if count % 2:
                total = matrix @ total @ matrix.transpose(0, 2, 1) + made
            made = matrix @ made @ matrix.transpose(0, 2, 1) + made
            matrix = matrix @ matrix
            count //= 2
    found = total[:, 0, 0]
    return np.where(np.isfinite(found), found, math.inf)
