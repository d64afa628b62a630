"""Memory: what a momentum buffer does to one mode, in continuous time, as a chain and as the iteration.

With ``u+ = beta u + f`` and ``f = h x + noise`` the force of a mode ``h = phi lam``, the state ``(x, u)`` of
a mode moves by a 2 x 2 matrix, and the noise enters along one vector. All laws have this form:
`Memory.motion` gives it, and `Motion.response` says what unit noise leaves of ``E[x_j x_k]``, in a closed
form that loses nothing where modes hardly move in a step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import _check
from .._saving import Kept


@dataclass(frozen=True)
class Motion:
    """One mode's state ``(x, u)``: ``z+ = (free + h force e_x^T) z + kick n`` with unit noise n.

    In continuous time (``dt = 0``) it is ``dz = (...) z dt + kick dB``.

    Attributes
    ----------
    free : array (2, 2)
        What moves without a force.
    force : array (2,)
        What a unit force adds.
    kick : array (2,)
        What unit noise adds: per iteration of the flow, whatever the time step.
    decay : float
        What the buffer loses: ``1 - free[1, 1]`` in a step, ``-free[1, 1]`` per unit of time.
    shrink : float
        What the position loses to weight decay, likewise.
    dt : float
    """

    free: np.ndarray
    force: np.ndarray
    kick: np.ndarray
    decay: float
    dt: float
    shrink: float = 0.0

    def matrices(self, pull: np.ndarray, weight_decay: Any = 0.0) -> np.ndarray:
        """``B_j`` of modes ``h`` (..., d), shape (..., d, 2, 2); each may have more `weight_decay`."""
        pulled = np.zeros((2, 2))
        pulled[:, 0] = self.force
        found = self.free + np.multiply.outer(pull, pulled)
        found[..., 0, 0] -= (self.dt or 1.0) * weight_decay
        return found

    def _characteristic(self, pull: np.ndarray, weight_decay: Any = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """What of the modes' characteristic polynomials is small where they hardly move: two arrays (d,).

        In steps ``1 - tr + det`` and ``1 - det``; in continuous time the determinant and minus the trace.
        """
        (f, g), reach, keeps = self.force, self.free[0, 1], self.free[1, 1]
        shrink = self.shrink + (self.dt or 1.0) * weight_decay
        near = shrink * self.decay - pull * (f * self.decay + reach * g)
        if self.dt == 0:
            return near, self.decay + shrink - pull * f
        return near, self.decay + shrink * keeps - pull * (f * keeps - reach * g)

    def stable(self, pull: np.ndarray) -> np.ndarray:
        """Whether the mean of each mode (d,) decays, (d,) bool."""
        near, loss = self._characteristic(pull)
        if self.dt == 0:
            return (near > 0) & (loss > 0)
        return (near > 0) & (loss > 0) & (loss < 2) & (2 * (2 - loss) > near)

    def response(self, pull: np.ndarray, weight_decay: Any = 0.0) -> np.ndarray:
        """``E[x_j x_k]`` of stable modes (d,) under one and the same unit noise, (d, d).

        Each may have more `weight_decay` (d,) of its own.
        """
        own = np.broadcast_to(weight_decay, pull.shape)
        one = self._characteristic(pull[:, None], own[:, None])
        return self._covariances(one, self._characteristic(pull, own))

    def variances(self, pull: np.ndarray) -> np.ndarray:
        """``E[x^2]`` of stable modes of any shape under unit noise."""
        one = self._characteristic(pull)
        return self._covariances(one, one)

    def _covariances(self, one: tuple[Any, Any], other: tuple[Any, Any]) -> np.ndarray:
        """``E[x y]`` of pairs of modes of these characteristics, under one and the same unit noise."""
        # The positions alone are ARMA(2, 1): x'' = tr x' - det x + first n' + second n.
        first = self.kick[0]
        second = self.free[0, 1] * self.kick[1] - self.free[1, 1] * first
        (p, a), (q, b) = one, other
        if self.dt == 0:
            across = a * q + b * p
            return (second**2 * (a + b) + first**2 * across) / ((p - q) ** 2 + (a + b) * across)
        s, t = (2 - a) - p, (2 - b) - q  # traces
        both = a + b - a * b  # 1 - det_j det_k
        # (1 + det_j)(1 + det_k) - tr_j tr_k, from what is small
        square = (2 - a) * q + (2 - b) * p - p * q
        apart = (b - a) ** 2 + (s - t) * ((1 - b) * (s - t) + t * (a - b))
        mixed = first * second
        noise = both * (first**2 + second**2 + mixed * (s + t))
        noise = noise - mixed * (s * (1 - b) * a + t * (1 - a) * b)
        return noise / (a * b * square + apart)

    def states(self, pull: np.ndarray) -> np.ndarray:
        """``E[z_j z_k^T]`` of stable modes (d,) under one and the same unit noise, (d, d, 2, 2)."""
        B, eye = self.matrices(pull), np.eye(2)
        pairs = (*(len(pull),) * 2, 4, 4)
        source = np.outer(self.kick, self.kick).reshape(4, 1)
        if self.dt == 0:
            first = np.einsum("jac,bd->jabcd", B, eye)[:, None]
            second = np.einsum("ac,kbd->kabcd", eye, B)[None]
            system = -(first + second)
        else:
            step = np.einsum("jac,kbd->jkabcd", B, B)
            system = np.einsum("ac,bd->abcd", eye, eye) - step
        found = np.linalg.solve(system.reshape(pairs), np.broadcast_to(source, (*pairs[:2], 4, 1)))
        return found.reshape(*pairs[:2], 2, 2)


@dataclass(frozen=True)
class Memory(Kept):
    """A momentum buffer ``u+ = beta u + f``; the heavy ball moves by ``-step u+``.

    Attributes
    ----------
    beta : float
        In [0, 1).
    nesterov : bool
        Nesterov's form moves by ``-step (f + beta u+)``.
    average : bool
        The buffer is an average, ``u+ = beta u + (1 - beta) f``: the same at step ``step (1 - beta)``.

    Raises
    ------
    ValueError
        If `beta` is not in [0, 1).
    """

    beta: float
    nesterov: bool = False
    average: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "beta", _check.fraction("beta", self.beta))
        for name in ("nesterov", "average"):
            _check.flag(name, getattr(self, name))

    @property
    def weight(self) -> float:
        """Of a new force in the buffer."""
        return 1 - self.beta if self.average else 1.0

    def gathered(self, force: Any, buffer: Any) -> tuple[Any, Any]:
        """Where a step goes, along minus this, and the buffer after it; None for one that is empty.

        Arrays of any library and shape, of which none is written into.
        """
        # Copies throughout: a force may be an array that its function writes into again.
        before = 0.0 if buffer is None else self.beta * buffer
        fresh = self.weight * force if self.average else force
        buffer = before + fresh
        return fresh + self.beta * buffer if self.nesterov else buffer, buffer

    def motion(self, step: float, dt: float, weight_decay: float = 0.0) -> Motion:
        """A mode's law at this `step`: in continuous time (``dt = 0``), or of the chain with time step `dt`.

        The chain is symplectic, the buffer first and then the position with the new buffer: at ``dt = step``
        it is the iteration, linear in the noise. Decoupled `weight_decay` acts on positions alone.
        """
        beta, ratio = self.beta, dt / step
        if dt == 0:
            decay = (1 - beta) / step
            ahead, keeps = 1.0, -decay
            force = np.array([0.0, self.weight / step])
            straight, noise = self.weight, np.sqrt(step)
        else:
            decay = (1 - beta) * ratio
            ahead, keeps = dt, 1 - decay
            force = np.array([0.0, self.weight * ratio])
            straight, noise = dt * self.weight, 1 / np.sqrt(ratio)
        reach = ahead * beta if self.nesterov else ahead
        # A chain's position moves with the new buffer: what is kept of the old one, and the force in it.
        moved = reach * keeps if dt else reach
        force[0] = -(straight if self.nesterov else 0.0) - (reach * force[1] if dt else 0.0)
        shrink = (dt or 1.0) * weight_decay
        free = np.array([[(1.0 if dt else 0.0) - shrink, -moved], [0.0, keeps]])
        return Motion(free, force, noise * force, decay, dt, shrink)

    def effective(self, step: float) -> float:
        """The step without memory that has the same drift, and at small steps the same law."""
        return step * self.weight / (1 - self.beta)

    def mean_limit(self, pull: Any, weight_decay: float = 0.0) -> Any:
        """The largest step at which the mean of a mode ``h`` > 0 decays, of one or of an array of them."""
        bend = 1 + 2 * self.beta if self.nesterov else 1.0
        return 2 * (1 + self.beta) / (self.weight * pull * bend + weight_decay * (1 + self.beta))

    def curvature_of(self, weight_decay: Any) -> Any:
        """The curvature that bounds steps of the mean as this decoupled weight decay does."""
        return 0.5 * self.mean_limit(1.0) * weight_decay

    def __str__(self) -> str:
        return f"{'Nesterov' if self.nesterov else 'momentum'} {self.beta:g}"


def memoryless(method: Any, what: str, instead: str = "", *, decay: bool = False) -> None:
    """Raise where a method has a memory, or a metric in the place of a gain, that who asks knows nothing of.

    Parameters
    ----------
    method : Method
    what : str
        Who asks, as the subject of a sentence.
    instead : str
        What answers such a question with momentum, as the end of a sentence.
    decay : bool
        Whether who asks knows weight decay.
    """
    if decay:
        with_gain(method)
    else:
        only_gains(method, what)
    if method.memory is None:
        return
    inside = getattr(method, "method", None)
    use = f"Use {inside!r}, the method inside" if inside is not None else "Use a method without momentum"
    raise ValueError(
        f"`method` must have no momentum: {what} knows nothing of it yet; got {method!r}. {use}"
        f"{instead and f', or {instead}'}."
    )


def only_gains(method: Any, what: str) -> None:
    """`memoryless` for one who knows momentum, but neither weight decay nor metrics."""
    undecayed(method, what)
    with_gain(method)


def with_gain(method: Any) -> None:
    """Raise where a method has a metric in the place of a gain."""
    if not method.spectral:
        method.gain(0.0)  # says why there is none


def undecayed(method: Any, what: str, *, metrics: bool = False) -> None:
    """Raise where a method has weight decay that the one who asks, `what`, knows nothing of.

    Nor of `metrics`, if not said otherwise: what has a metric is then told of that first.
    """
    if not method.weight_decay:
        return
    if not (method.spectral or metrics):
        method.gain(0.0)
    raise ValueError(
        f"`method` must have no weight decay: {what} knows nothing of it yet; got {method!r}. Use "
        f"{method.with_weight_decay(0.0)!r}; a ridge is part of an objective, as its `l2`."
    )
