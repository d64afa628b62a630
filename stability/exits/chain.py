"""The exact first-exit law of a Gaussian chain along one linear mode: of an Euler-Maruyama path, say."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from .._special import gauss
from .exit_time import ExitTime, exit_time

EFFORT = 1e8
"""Multiplications that the law may take; beyond, time steps are so short or the noise so narrow that a closed
form is as good.
"""
LATE = 0.25
"""Of a time step: by so much a random walk's mean exit time exceeds that of Brownian motion from an interval
wider by its mean overshoot rho s. By Wald's identity it is ``((R + rho s)^2 + s^2 / 4) / D``: a Gaussian
walk's limiting overshoot has mean rho s and variance ``s^2 / 4``.
"""
DRIVEN = 0.5
"""Drift of a step at the edge over the noise of a step: from here on the path that is driven out is the
better picture, below the diffusing one.
"""


class ChainExit:
    """First exit of ``x+ = (1 + rate dt) x + sqrt(diffusion dt) z`` from ``|x| < radius``, started at 0.

    At the chain's own times: no continuity correction.

    What `form` it is computed in depends on the drift of a step at the edge over the noise of a step, and on
    the effort; `error` bounds the probability's:

    - "iterated": ``P(T > k)`` is the k-th iterate of the Gaussian kernel on (-R, R) by Gauss's rule, error
      1e-15 a step (measured against twice the nodes: 3e-12 after 3000); its ratios settle, and from there it
      is geometric.
    - "driven", where the drift is large, or the effort is and the drift not small: a path that is out seldom
      comes back, so ``P(T > k)`` is ``P(|x_k| < R)``, a Gaussian probability, taken later by the mean number
      of returns (`_returns`). Error 1e-8 from four times the noise on if the radius is 60 times the noise or
      more, else 4e-4 (measured).
    - "diffusing", where the effort is large and the drift small: `ExitTime.chain` a quarter of a step later.
      Error 5e-4 (measured).
    """

    def __init__(self, mode: ExitTime, dt: float, steps: int):
        self.mode, self.dt = mode, dt
        # A negative growth flips the sign at each step: |x| has the same law as with its size.
        self.growth, self.spread = abs(1 + mode.rate * dt), math.sqrt(mode.diffusion * dt)
        ratio = mode.radius / self.spread
        push = (self.growth - 1) * ratio
        nodes = 64 * math.ceil((40 + 4 * ratio) / 64)  # few different rules, which are kept
        # Steps after which the slowest mode is alone: by the drift, or by diffusion across the interval.
        settle = min(steps, 40 / max(abs(math.log(max(self.growth, 1e-300))), 1e-300), 8 * ratio**2) + 50
        if push > 4 and ratio > 60:
            self.form, self.error, self._late = "driven", 1e-8, _returns(push)
        elif nodes <= 2000 and 60 * nodes * settle <= EFFORT:
            self.form, self.error, self._shares = "iterated", 1e-11, self._iterated(nodes, steps, settle)
        else:
            self.form, self.error, self._late = (
                ("driven", 4e-4, _returns(push)) if push > DRIVEN else ("diffusing", 5e-4, LATE)
            )

    def _iterated(self, nodes: int, steps: int, settle: float) -> np.ndarray:
        """``P(T > k)`` for k = 0, 1, ... until `steps`, until it is geometric, or zero.

        Not before `settle`: rounding is geometric too.
        """
        from scipy.sparse import csr_array
        from scipy.special import ndtr

        y, weights = _rule(nodes)
        y, weights = 0.5 * self.mode.radius * (y + 1), 0.5 * self.mode.radius * weights

        def kernel(x: np.ndarray) -> np.ndarray:
            # The law is symmetric about 0: nodes on (0, R) alone, with the kernel from -x added.
            near = np.exp(-0.5 * ((y - self.growth * x[:, None]) / self.spread) ** 2) + np.exp(
                -0.5 * ((y + self.growth * x[:, None]) / self.spread) ** 2
            )
            return weights * near / (math.sqrt(2 * math.pi) * self.spread)

        matrix, first = kernel(y), kernel(np.zeros(1))[0]
        if nodes > 300:
            matrix = csr_array(np.where(matrix > 1e-18, matrix, 0.0))
        # One step is known in closed form: the rule then acts on a smooth function, and a kernel wider than
        # the interval does no harm.
        u = ndtr((self.mode.radius - self.growth * y) / self.spread) - ndtr(
            (-self.mode.radius - self.growth * y) / self.spread
        )
        shares, settled = [1.0, float(2 * ndtr(self.mode.radius / self.spread) - 1)], 0
        while len(shares) <= steps and (settled < 20 or len(shares) < settle) and shares[-1] > 1e-300:
            shares.append(float(first @ u))
            u = matrix @ u
            change = (
                shares[-1] / shares[-2] - shares[-2] / shares[-3]
                if len(shares) > 2 and shares[-2] > 0
                else 1.0
            )
            settled = settled + 1 if abs(change) < 1e-15 else 0
        return np.minimum.accumulate(shares)

    def survival(self, steps: Any) -> np.ndarray:
        """``P(T > k dt)`` for whole numbers `steps` of any shape."""
        steps = np.asarray(steps)
        if self.form == "iterated":
            last = len(self._shares) - 1
            return self._shares[np.minimum(steps, last)] * self._ratio ** np.maximum(steps - last, 0)
        later = (
            self._inside
            if self.form == "driven"
            else lambda k: watched(self.mode, self.dt).survival(k * self.dt)
        )
        return np.where(steps > 0, later(steps + self._late), 1.0)

    def _inside(self, k: np.ndarray) -> np.ndarray:
        """``P(|x_k| < R)`` whether or not it had left before, for growth > 1."""
        from scipy.special import erf

        with np.errstate(over="ignore", divide="ignore"):
            variance = self.spread**2 * np.expm1(2 * k * math.log(self.growth)) / (self.growth**2 - 1)
            return erf(self.mode.radius / np.sqrt(2 * variance))

    @property
    def _ratio(self) -> float:
        return float(self._shares[-1] / self._shares[-2]) if self._shares[-2] > 0 else 0.0

    def mean(self, steps: int) -> float:
        """``E min(T, steps dt)``."""
        if self.form == "diffusing":
            law = watched(self.mode, self.dt)  # Euler and Maclaurin's sum of the survival above
            return _area(law, steps * self.dt) + LATE * self.dt * (1 - law.survival(steps * self.dt))
        if self.form == "driven":
            # All steps, where they are not too many to tell from a continuum.
            k = np.linspace(0, steps, min(steps, 10**6) + 1)
            share = self.survival(k)
            # The sum of the survival over the steps' beginnings is
            # the trapezoidal one and half the ends' difference.
            return self.dt * float(np.trapezoid(share, k) + 0.5 * (share[0] - share[-1]))
        # E min(T, n) is the sum of P(T > k) over k < n; beyond what is known it is a geometric series.
        known, ratio = self._shares[:steps], self._ratio
        more = steps - len(known)
        tail = (
            self._shares[-1]
            * ratio
            * (
                more
                if ratio == 1
                else -math.expm1(more * math.log(ratio)) / (1 - ratio)
                if ratio > 0
                else 0.0
            )
        )
        return self.dt * (float(np.sum(known)) + (tail if more > 0 else 0.0))


def _returns(push: float) -> float:
    """How often, in the mean, a walk of steps ``N(push, 1)`` is back below a far level that it passed.

    Its time below the level is ``b / m + E X^2 / (2 m^2)`` (renewal theorem), its first passage ``(b + E
    overshoot) / m`` (Wald), and Spitzer's identity gives the overshoot: ``E X^2 / (2 m) - sum_n E max(0,
    -S_n) / n``. What is left is ``sum_n E max(0, -S_n) / (n m)``.
    """
    from scipy.special import ndtr

    root = np.sqrt(np.arange(1, 2 + math.ceil((9 / push) ** 2)))
    return float(
        np.sum(
            np.exp(-0.5 * (push * root) ** 2) / (math.sqrt(2 * math.pi) * root) / push - ndtr(-push * root)
        )
    )


@functools.cache
def _rule(nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss's rule on [-1, 1], as `gauss`, whose cost is cubic."""
    from scipy.special import roots_legendre

    y, weights = roots_legendre(nodes)
    return y, weights


def watched(mode: ExitTime, dt: float) -> ExitTime:
    """`ExitTime.chain`, for a chain that overshoots too.

    Its sign then alternates, and ``|x|`` is that of the growth's size.
    """
    growth = max(abs(1 + mode.rate * dt), 1e-3)
    return exit_time(
        rate=mode.rate if 1 + mode.rate * dt == growth else (growth - 1) / dt,
        diffusion=mode.diffusion,
        radius=mode.radius,
    ).chain(dt)


def _area(law: ExitTime, t_end: float) -> float:
    """``int_0^t_end survival``: Gauss's rule between multiples of the mean."""
    edges = np.unique(
        np.minimum(
            t_end,
            np.append(np.minimum(law.mean, 1e300) * np.array([0, 0.2, 0.5, 1, 1.5, 2, 4, 8, 16, 40]), t_end),
        )
    )
    nodes, weights = gauss(80)
    half = 0.5 * np.diff(edges)[:, None]
    return float(np.sum(half * weights * law.survival(edges[:-1, None] + half * (nodes + 1))))
