"""A metric's equation at one place, linear in the noise: what positions and running means gain there.

Every entry is of its own coordinate, so that all derivatives are (..., d) as the states are. A mean k with
``k' = rate (target - k)`` may also be taken where it settles at once, as in slow motion: positions then move
by themselves, and feel through k what the gradient and its noise change of the target.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .._array import matvec


@dataclass(frozen=True)
class Pull:
    """What a metric makes of a gradient, at given means.

    Attributes
    ----------
    push : array (..., d)
        What positions gain per unit of t.
    slope : array (..., d)
        Its derivative by the gradient.
    by_mean : dict of arrays (..., d)
        And by each mean.
    spread : array (..., d) or (..., d, d)
        What noise of the gradient gives positions at once: entrywise, or by matrices.
    by_variance : array (..., d) or 0
        And the derivative of `push` by the variances of the gradient's noise, at given means.
    """

    push: Any
    slope: Any
    by_mean: dict[str, Any]
    spread: Any
    by_variance: Any = 0.0


@dataclass(frozen=True)
class Mean:
    """A running mean's equation, ``rate (target - mean)``.

    Attributes
    ----------
    rate : float
        Per unit of t.
    gained : array (..., d)
    turn : array (..., d)
        The target's derivative by the gradient. Noise of the gradient is minus a change of it.
    own : float
        How much of the squares' own noise enters, and of its variance the target.
    """

    rate: float
    gained: Any
    turn: Any
    own: float = 0.0


@dataclass(frozen=True)
class Adapted:
    """A metric's equation at states (..., d).

    Attributes
    ----------
    pull : Pull
    means : dict of Mean
    slopes : array (..., d, d) or None
        Of the noise's variances by the positions; None where noise is the same everywhere.
    settled : bool
        Whether the means are where they settle: positions (..., d) then are all of the state.
    """

    pull: Pull
    means: dict[str, Mean]
    slopes: Any
    settled: bool

    def drift(self) -> list[np.ndarray]:
        """What positions gain per unit of t, and then each mean."""
        return [self.pull.push, *(() if self.settled else (mean.gained for mean in self.means.values()))]

    def jacobian(self, hessian: np.ndarray) -> list[list[np.ndarray]]:
        """Derivatives (..., d, d) of `drift` by positions and by each mean, row by row."""
        slope, wider = self.pull.slope, self.pull.by_variance
        if self.settled:
            for name, mean in self.means.items():
                slope = slope + self.pull.by_mean[name] * mean.turn
                wider = wider + self.pull.by_mean[name] * mean.own
            return [[self._through(slope, wider, hessian)]]
        one = np.eye(hessian.shape[-1])
        pushed = self._through(slope, wider, hessian)
        rows = [[pushed] + [_diagonal(self.pull.by_mean[name]) for name in self.means]]
        for name, mean in self.means.items():
            still = [np.broadcast_to(-mean.rate * one * (name == k), hessian.shape) for k in self.means]
            rows.append([mean.rate * self.targets(mean, hessian), *still])
        return rows

    def targets(self, mean: Mean, hessian: np.ndarray) -> np.ndarray:
        """How a mean's target changes with the positions, (..., d, d)."""
        return self._through(mean.turn, mean.own, hessian)

    def _through(self, by_gradient: Any, by_variance: Any, hessian: np.ndarray) -> np.ndarray:
        """The derivative by positions (..., d, d) of what depends on gradient and variances."""
        found = by_gradient[..., None] * hessian
        return found if self.slopes is None else found + np.asarray(by_variance)[..., None] * self.slopes

    def noise(self, zeta: Any, own: Any) -> list[Any]:
        """What a noise sample (..., d) of the gradient and one of the squares' own give each part."""
        spread = self.pull.spread
        whole = spread.ndim == self.pull.push.ndim + 1
        at_once = matvec(spread, zeta) if whole else spread * zeta
        shifts = {name: mean.own * own - mean.turn * zeta for name, mean in self.means.items()}
        if self.settled:
            for name, shift in shifts.items():
                at_once = at_once + self.pull.by_mean[name] * shift
            return [at_once]
        return [at_once, *(self.means[name].rate * shift for name, shift in shifts.items())]


def _diagonal(entries: np.ndarray) -> np.ndarray:
    return entries[..., None] * np.eye(entries.shape[-1])
