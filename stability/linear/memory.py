"""Linear theory with memory: whole states of modes, averages of iterates, and the steps that they allow."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..methods.memory import Motion
from .moments import Balance, Map

_TOLERANCE = 1e-13
_TERMS = 30
_LOOSE = 1e-6  # where the map is dear
_EDGE = 1e-9  # so near the mean limit the noise decides, if it enters the fastest mode at all


@dataclass(frozen=True)
class Course:
    """What modes have beside their positions, all of it linear: a momentum buffer, an average of iterates.

    Attributes
    ----------
    matrices : array (d, s, s)
        A mode's state ``(x, ...)`` after a step, or in continuous time its rate.
    kick : array (s,)
        What unit noise adds, per iteration of the flow.
    dt : float
        Time step; 0 in continuous time.
    """

    matrices: np.ndarray
    kick: np.ndarray
    dt: float

    @classmethod
    def of(cls, motion: Motion, pull: np.ndarray) -> Course:
        """Of modes ``h`` (d,) with memory."""
        return cls(motion.matrices(pull), motion.kick, motion.dt)

    @classmethod
    def alone(cls, pull: np.ndarray, step: float, dt: float) -> Course:
        """Of modes ``h`` (d,) without, at this step."""
        alone = 1 - dt * pull if dt else -pull
        return cls(alone[:, None, None], np.array([-math.sqrt(step * (dt or 1.0))]), dt)

    def averaged(self, decay: float, step: float) -> Course:
        """With the moving average of positions as the last part, which forgets at `decay` per iteration."""
        size = self.matrices.shape[-1] + 1
        matrices, kick = np.zeros((len(self.matrices), size, size)), np.zeros(size)
        matrices[:, :-1, :-1], kick[:-1] = self.matrices, self.kick
        if self.dt:
            # As much as `dt` / `step` iterations would leave.
            kept = decay ** (self.dt / step)
            matrices[:, -1], kick[-1] = (1 - kept) * matrices[:, 0], (1 - kept) * kick[0]
            matrices[:, -1, -1] += kept
        else:
            # The rate at which an exponential forgets as fast as the iterations do.
            rate = -math.log(decay) / step
            matrices[:, -1, 0], matrices[:, -1, -1] = rate, -rate
        return Course(matrices, kick, self.dt)

    def lifted(self, map_: Map) -> Map:
        """What a noise that positions cause adds to the second moment of whole states, (..., s d, s d)."""
        size, outer = len(self.kick), np.outer(self.kick, self.kick) / (self.dt or 1.0)

        def lift(state: np.ndarray) -> np.ndarray:
            dim = state.shape[-1] // size
            inner = map_(state[..., :dim, :dim] if state.ndim > 1 else state[:dim])
            blocks = outer[:, None, :, None] * inner[..., None, :, None, :]
            return blocks.reshape(*inner.shape[:-2], size * dim, size * dim)

        return lift

    def balance(self, kick: Map | None, source: np.ndarray) -> Balance:
        """Of whole states, part after part (s d, s d), per unit of time."""
        size, dim = len(self.kick), len(self.matrices)
        drift = np.block([[np.diag(one) for one in row] for row in self.matrices.transpose(1, 2, 0)])
        if self.dt:
            drift = (drift - np.eye(len(drift))) / self.dt
        constant = self.lifted(lambda _: source)(np.zeros((size * dim,) * 2))
        return Balance(drift, None if kick is None else self.lifted(kick), constant, self.dt)

    def evolved(
        self, noise: np.ndarray, t: float, mean: np.ndarray, M: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Means (s d,) and second moments (s d, s d) after time `t` of additive noise (d, d) alone.

        Pair by pair, in ever longer steps, each made of the last two: modes that grow leave the others be.
        """
        dim, size = self.matrices.shape[:2]
        x, pairs = mean.reshape(size, dim).T, M.reshape(size, dim, size, dim).transpose(1, 3, 0, 2)
        with np.errstate(all="ignore"):  # what grows may overflow: inf is its answer
            step, gathered, count = self._first_step(noise, t)
            while count:
                if count % 2:
                    x = np.einsum("jab,jb->ja", step, x)
                    pairs = _moved(step, pairs) + gathered
                count //= 2
                if count:
                    step, gathered = step @ step, _moved(step, gathered) + gathered
            found = whole(pairs)
            return x.T.ravel(), 0.5 * (found + found.T)

    def _first_step(self, noise: np.ndarray, t: float) -> tuple[np.ndarray, np.ndarray, int]:
        """The modes' matrices over a short time, what noise gathers in it, and how many of them make `t`."""
        import scipy

        B, kicked = self.matrices, np.multiply.outer(noise, np.outer(self.kick, self.kick))
        if self.dt:
            return B, kicked, round(t / self.dt)
        size = t * float(np.max(np.sum(np.abs(B), axis=-1), initial=0.0))
        count = 2 ** max(0, math.ceil(math.log2(max(4 * size, 1.0))))
        short = t / count
        # The integral of exp(B_j s) N exp(B_k^T s), term by term: the time is so short that each is half
        # the last.
        term = gathered = short * kicked
        for n in range(2, _TERMS):
            term = short / n * (np.einsum("jab,jkbc->jkac", B, term) + np.einsum("jkab,kcb->jkac", term, B))
            gathered = gathered + term
        return scipy.linalg.expm(short * B), gathered, count

    def mean_of(self, pairs: np.ndarray, decay: float, step: float) -> np.ndarray:
        """Second moment (d, d) of the average, from that of the modes' states without it (d, d, s, s)."""
        eye, first = np.eye(self.matrices.shape[-1]), pairs[..., 0, :, None]
        B = self.matrices
        if self.dt == 0:
            rate = -math.log(decay) / step
            across = np.linalg.solve(rate * eye - B, rate * first)[..., 0, 0]
            return 0.5 * (across + across.T)
        kept = decay ** (self.dt / step)
        before = np.linalg.solve(eye - kept * B, (1 - kept) * first)  # of the average and a state
        after = np.einsum("kb,jkb->jk", B[:, 0], before[..., 0])  # ... a step later
        return (kept * (after + after.T) + (1 - kept) * pairs[..., 0, 0]) / (1 + kept)


def _moved(step: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Second moments of pairs of modes (d, d, s, s) a step later."""
    return step[:, None] @ pairs @ step.transpose(0, 2, 1)[None]


def pairs_of(motion: Motion, pull: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Stationary second moments (d, d, 2, 2) of positions and buffer under noise (d, d) on modes ``h``."""
    pairs = motion.states(pull)
    pairs[..., 0, 0] = motion.response(pull)
    return pairs * noise[..., None, None]


def whole(pairs: np.ndarray) -> np.ndarray:
    """From pairs of modes (d, d, s, s) to matrices of whole states, part after part, (s d, s d)."""
    dim, size = len(pairs), pairs.shape[-1]
    return pairs.transpose(2, 0, 3, 1).reshape((size * dim,) * 2)


def largest_step(
    limits: np.ndarray, balance: Callable[[float], Balance], start: np.ndarray | None
) -> tuple[float, np.ndarray]:
    """The mean-square limit of modes with these limits of their means (d,), and its leading matrix.

    The radius of ``R o kick`` as a function of the step, set to one: its inverse is all but linear in the
    step's inverse, and of one heavy ball exactly so.
    """
    import scipy

    fastest = int(np.argmin(limits))
    most, found = float(limits[fastest]), start

    def over(inverse: float) -> float:
        nonlocal found
        radius, found = balance(1 / inverse).radius(found)
        return 1 / radius - 1 if radius else math.inf

    low = (1 + _EDGE) / most
    if balance(1 / low).kick is None or over(low) > 0:
        return most, np.diag(np.eye(len(limits))[fastest])
    high = 2 / most
    while over(high) <= 0:
        high *= 4
    tolerance = _TOLERANCE if balance(1 / low).rough is None else _LOOSE
    inverse = scipy.optimize.brentq(over, low, high, xtol=tolerance * low, rtol=tolerance)
    over(inverse)
    assert found is not None
    return 1 / inverse, found
