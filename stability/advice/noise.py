"""What noise costs at a place: the floor of the loss, the critical batch, the noise's exponent."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._estimate import Estimate
from .closure import Blocks, Closed, gathered

_GROUPS = 20  # parts of the samples that are left out in turn
_TELLING = 3  # modes


@dataclass(frozen=True)
class Noisy:
    """One sample's gradient noise in the metric's coordinates: along directions, and rules of the rest.

    Attributes
    ----------
    along : array (m, k)
        Every sample's deviation along the directions.
    blocks : Blocks
        Of these directions.
    rules : sequence of (nodes, weights)
        Of noise vectors off the directions: quadrature of the curvature that each of them sees.
    whole : bool
        Whether the samples are all there are.
    """

    along: np.ndarray
    blocks: Blocks
    rules: Sequence[tuple[np.ndarray, np.ndarray]]
    whole: bool

    def total(self, f: Callable[[np.ndarray], np.ndarray]) -> tuple[float, float]:
        """``tr f(H) Sigma`` and its standard error."""
        return self._total(f(self.blocks.curvatures), f)

    def _total(
        self, inner: np.ndarray, f: Callable[[np.ndarray], np.ndarray], extra: float = 1.0
    ) -> tuple[float, float]:
        """Of these weights (k,) of the directions, and the rest's, which `extra` multiplies."""
        each = self.blocks.unbias * self.along**2 @ inner
        beyond = np.array([extra * float(weights @ f(nodes)) for nodes, weights in self.rules] or [0.0])
        error = float(np.var(beyond, ddof=1)) / len(beyond) if len(beyond) > 1 else 0.0
        if not self.whole:
            error += float(np.var(each)) / len(each)
        return float(each.mean() + beyond.mean()), math.sqrt(error)

    def bending(self) -> tuple[float, float]:
        """``tr S H S Sigma``."""
        return self.total(lambda lam: lam)

    def trace(self) -> tuple[float, float]:
        """``tr Sigma``."""
        return self.total(np.ones_like)

    @property
    def beyond(self) -> float:
        """Its trace off the directions."""
        return float(np.mean([weights.sum() for _, weights in self.rules])) if self.rules else 0.0

    def floor(self, closed: Closed, step: float, share: float, horizon: float) -> tuple[float, float]:
        """Expected excess loss that noise has made after so many iterations, and its standard error."""
        motion = closed.memory.motion(step, step, closed.weight_decay)

        def made(lam: np.ndarray, decay: Any = 0.0) -> np.ndarray:
            bent = np.maximum(lam, 0.0)
            return 0.5 * bent * gathered(motion, bent, horizon, decay)

        kept = self.blocks.moving
        seen = self.along[:, kept]
        inner = share * self.blocks.unbias * seen.T @ seen / len(seen)
        driven, outer = closed.source(step, inner, share * self.beyond)
        left = np.zeros(len(kept))
        left[kept] = made(closed.blocks.curvatures, closed.own_decay)
        value, plain = (float(np.diag(source) @ left[kept]) for source in (driven, inner))
        extra = outer / (share * self.beyond) if closed.blocks.closed and share * self.beyond > 0 else 1.0
        # The rest's part and both errors are those of the plain noise.
        whole, error = self._total(left, made, extra)
        return value - plain + share * whole, share * error


def ratio(bent: np.ndarray, square: np.ndarray) -> Estimate:
    """The ratio of two means over the same draws (n,), to first order in what it leaves of each draw."""
    if not square.any():
        return Estimate(math.nan, math.nan, "every gradient is zero")
    found, n = float(bent.sum() / square.sum()), len(square)
    if n == 1:
        return Estimate(found, 0.0)
    left = bent - found * square
    return Estimate(found, math.sqrt(float(left @ left) * n / (n - 1)) / float(square.sum()))


def exponent(gradients: np.ndarray, curvatures: np.ndarray) -> Estimate:
    """The slope of log noise variances over log curvatures of modes, with a jackknife's error.

    Parameters
    ----------
    gradients, curvatures : arrays (m, k)
        Of every sample along the modes.
    """
    m = len(gradients)
    count = min(m, _GROUPS)
    part = np.arange(m) % count

    def logs(chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with np.errstate(all="ignore"):
            return np.log(curvatures[chosen].mean(axis=0)), np.log(np.var(gradients[chosen], axis=0))

    x, y = logs(np.full(m, True))
    without = [logs(part != j) for j in range(count)]
    kept = np.all([np.isfinite(u) & np.isfinite(v) for u, v in [(x, y), *without]], axis=0)
    if kept.sum() < _TELLING or np.ptp(x[kept]) < 0.1:
        why = f"a slope needs {_TELLING} modes of different curvature and with noise; got {int(kept.sum())}"
        return Estimate(math.nan, math.nan, why)
    slopes = [_slope(u[kept], v[kept]) for u, v in without]
    slope, scatter = _slope(x[kept], y[kept]), (count - 1) * float(np.var(slopes))
    # What modes leave of a line is an error of the slope too: the law need not be a power.
    left = y[kept] - y[kept].mean() - slope * (x[kept] - x[kept].mean())
    spread = float(left @ left) / max(int(kept.sum()) - 2, 1)
    spread /= float(np.sum((x[kept] - x[kept].mean()) ** 2))
    return Estimate(slope, math.sqrt(max(scatter, spread)))


def slope_of(curvatures: np.ndarray, variances: np.ndarray) -> Estimate:
    """The slope of log variances over log curvatures of modes (d,), both known exactly."""
    kept = (curvatures > 1e-12 * np.max(curvatures)) & (variances > 1e-12 * np.max(variances))
    if kept.sum() < 2 or np.ptp(np.log(curvatures[kept])) < 1e-9:
        why = "a slope needs two modes of different positive curvature and with noise"
        return Estimate(math.nan, math.nan, why)
    return Estimate(_slope(np.log(curvatures[kept]), np.log(variances[kept])), 0.0)


def _slope(x: np.ndarray, y: np.ndarray) -> float:
    x = x - x.mean()
    return float(x @ y / (x @ x))
