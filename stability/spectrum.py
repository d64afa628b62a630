"""Spectral sums ``tr f(H)`` of an operator known only by its products, by stochastic Lanczos quadrature, with error bars.

The theory's sums over modes (stationary variance, excess risk, effective dimension) are such sums: for a network of any
size they come from Hessian products alone.
"""

from __future__ import annotations

import functools
import math
import time as clock
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy

from . import _check
from ._array import Backend, backend_of, moved, stream
from ._check import Unstable
from ._lanczos import Tridiagonals, lanczos, rounding
from .exact import Estimate
from .lowrank import BadProducts, randomized_eigh
from .methods import Method
from .noise import Noise
from .results import Study, provenance, register

Function = Callable[[np.ndarray], Any]
OUTLIER_STEPS = 4
"""Lanczos steps from each deflated vector: an eigenvector that is one only roughly then biases no sum."""


@register
@dataclass(frozen=True)
class Spectrum:
    """A quadrature rule for the spectrum of a symmetric operator H; made by `spectrum`.

    Attributes
    ----------
    n : int
        Dimension.
    deflated : int
        Eigenvectors taken out; the first rows of `nodes` are theirs, one each.
    probes : int
        Random vectors in their complement; the other rows.
    diagonals, off_diagonals, lengths : arrays
        The tridiagonal matrices of all rows, see `Tridiagonals`.
    rounding : float
        Relative size below which an eigenvalue's sign is not known.
    stats, provenance : dict
        Hessian products and seconds; seed, versions.
    """

    n: int
    deflated: int
    probes: int
    diagonals: np.ndarray
    off_diagonals: np.ndarray
    lengths: np.ndarray
    rounding: float
    stats: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def nodes(self) -> np.ndarray:
        """Where the rule looks, (deflated + probes, steps): Ritz values, all within the spectrum's range."""
        return self._rule[0]

    @property
    def weights(self) -> np.ndarray:
        """How many eigenvalues each node stands for, (deflated + probes, steps); they sum to n."""
        return self._rule[1]

    @functools.cached_property
    def _rule(self) -> tuple[np.ndarray, np.ndarray]:
        return self._truncated(self.diagonals.shape[1])

    @functools.cached_property
    def _half(self) -> tuple[np.ndarray, np.ndarray]:
        return self._truncated(max(1, self.diagonals.shape[1] // 2), max(1, OUTLIER_STEPS // 2))

    def _truncated(self, steps: int, outlier_steps: int = OUTLIER_STEPS) -> tuple[np.ndarray, np.ndarray]:
        lengths = np.minimum(self.lengths, np.where(np.arange(len(self.lengths)) < self.deflated, outlier_steps, steps))
        nodes, weights = Tridiagonals(self.diagonals, self.off_diagonals, lengths, 0).rule(steps)
        weights[self.deflated :] *= (self.n - self.deflated) / max(1, self.probes)
        return nodes, weights

    def sum(self, f: Function) -> Estimate:
        """``tr f(H)``, the sum of `f` over all eigenvalues.

        Parameters
        ----------
        f : callable
            Of an array of eigenvalues, elementwise.

        Returns
        -------
        Estimate
            The error is the standard error over the probes (normal only for many: Student's t with ``probes - 1``
            degrees of freedom), together with what the quadrature still changed from half the steps. `quadrature_error`
            gives the latter alone: where it dominates more `steps` help, else more `probes`.

        Raises
        ------
        ValueError
            If `f` cannot be evaluated on an array, or is not finite on the spectrum.
        """
        return self._estimate(lambda nodes: _evaluated(f, nodes))

    def quadrature_error(self, f: Function) -> float:
        """How far ``tr f(H)`` moved from half the steps to all of them; raises as `sum` does."""
        full, half = (self._samples(rule, lambda nodes: _evaluated(f, nodes)).mean() for rule in (self._rule, self._half))
        return float(abs(full - half))

    def _estimate(self, values: Function, reason: str = "") -> Estimate:
        full, half = (self._samples(rule, values) for rule in (self._rule, self._half))
        return Estimate(float(full.mean()), math.hypot(_standard_error(full), full.mean() - half.mean()), reason)

    def _samples(self, rule: tuple[np.ndarray, np.ndarray], values: Function) -> np.ndarray:
        """One estimate of the sum for each probe."""
        nodes, weights = rule
        rows = (weights * values(nodes)).sum(axis=1)
        return rows[: self.deflated].sum() + (rows[self.deflated :] * self.probes if self.probes else np.zeros(1))

    @property
    def outliers(self) -> np.ndarray:
        """The deflated eigenvalues, largest magnitude first."""
        return self.diagonals[: self.deflated, 0]

    @property
    def trace(self) -> Estimate:
        """``tr H``."""
        return self.sum(lambda lam: lam)

    @property
    def extremes(self) -> tuple[float, float]:
        """Lowest and highest Ritz value: the spectrum reaches at least so far."""
        return float(self.nodes.min()), float(self.nodes.max())

    @property
    def resolution(self) -> float:
        """The size below which an eigenvalue counts as zero."""
        return self.rounding * max(map(abs, self.extremes))

    @property
    def negative(self) -> Estimate:
        """How many eigenvalues are negative."""
        return self.sum(lambda lam: lam < -self.resolution)

    def effective_dimension(self, damping: float) -> Estimate:
        """``sum |lam| / (|lam| + damping)``: how many directions curve more than the damping."""
        damping = _check.positive("damping", damping)
        return self.sum(lambda lam: abs(lam) / (abs(lam) + damping))

    def variance(self, method: Method, *, step: float, noise: Noise, time: str = "continuous", stationary_only: bool = False) -> Estimate:
        """Total stationary variance ``tr M`` of white gradient noise, ``sum step sigma^2 phi_i / (2 lam_i)``.

        Parameters
        ----------
        method : Method
            A truncated one needs its ``rank + 1`` largest eigenvalues deflated.
        step : float
        noise : Noise
            One standard deviation for all directions, and no curvature noise.
        time : {"continuous", "discrete"}
            Discrete: the iteration's own, ``2 lam_i`` replaced by ``lam_i (2 - step phi_i lam_i)``.
        stationary_only : bool
            Sum over the directions that have a stationary law, instead of raising where some have none; `reason` says how many were left out.

        Raises
        ------
        Unstable
            If a direction has no stationary law: negative rate, flat, or ``step phi lam >= 2`` in discrete time.
        ValueError
            If the noise is of another kind or too few eigenvalues are deflated.
        """
        strength = _checked(method, step, noise, time) ** 2 * step
        share = step if time == "discrete" else 0.0
        reason = self._unstable(method, share, stationary_only, flat=True)

        def values(nodes: np.ndarray) -> np.ndarray:
            gains, good = self._stationary(method, nodes, share)
            return np.where(good, strength * gains / (np.where(good, nodes, 1.0) * (2 - share * gains * nodes)), 0.0)

        return self._estimate(values, reason)

    def excess_risk(self, method: Method, *, step: float, noise: Noise, time: str = "continuous", stationary_only: bool = False) -> Estimate:
        """Stationary excess risk ``tr(H M) / 2`` of white gradient noise, ``(step sigma^2 / 4) sum phi_i``.

        Flat directions have none: the objective does not change along them. Parameters and errors are those of `variance`.
        """
        strength = _checked(method, step, noise, time) ** 2 * step
        share = step if time == "discrete" else 0.0
        reason = self._unstable(method, share, stationary_only, flat=False)

        def values(nodes: np.ndarray) -> np.ndarray:
            gains, good = self._stationary(method, nodes, share)
            return np.where(good, 0.5 * strength * gains / (2 - share * gains * nodes), 0.0)

        return self._estimate(values, reason)

    def _gains(self, method: Method, nodes: np.ndarray) -> np.ndarray:
        gains = np.asarray(method.gain(nodes) + 0 * nodes, dtype=float)
        if method.rank is not None and method.rank < self.n:
            if method.rank >= self.deflated:
                raise ValueError(
                    f"`deflate` must be >= {method.rank + 1} for {method.label}, which treats its largest eigenvalues apart; "
                    f"got {self.deflated}. Call spectrum(..., deflate={method.rank + 1})."
                )
            gains[method.rank :] = method.tail_gain(self.outliers[method.rank])
        return gains

    @np.errstate(all="ignore")
    def _stationary(self, method: Method, nodes: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
        """Gains at the nodes, and where a stationary law exists."""
        gains = self._gains(method, nodes)
        rate = gains * nodes
        return gains, (rate > 0) & (share * rate < 2) & (abs(nodes) > self.resolution) & np.isfinite(gains)

    def _unstable(self, method: Method, share: float, allowed: bool, *, flat: bool) -> str:
        """What has no stationary law, in words; raises unless that is `allowed`."""
        nodes, weights = self._rule
        level = abs(nodes) <= self.resolution
        good = self._stationary(method, nodes, share)[1] | (level & (not flat))
        lost = float(weights[~good].sum())
        if lost == 0:
            return ""
        below, still = float(weights[nodes < -self.resolution].sum()), float(weights[level].sum())
        counts = f"{below:.3g} have negative curvature (down to {self.extremes[0]:.3g}) and {still:.3g} none"
        reason = f"about {lost:.3g} of {self.n} directions have no stationary law under {method.label}: {counts}"
        if not _check.flag("stationary_only", allowed):
            raise Unstable(f"A{reason[1:]}. Ask with stationary_only=True for the others' sum, or at a minimum, or take a smaller step.")
        return f"left out: {reason}"

    def amplification(self, method: Method, *, stationary_only: bool = False) -> Estimate:
        """Total stationary variance over that of SGD at equal step, continuous time; raises as `variance` does."""
        reason = self._unstable(method, 0.0, stationary_only, flat=True)

        def ratio(rule: tuple[np.ndarray, np.ndarray]) -> tuple[float, float]:
            good = lambda nodes: self._stationary(method, nodes, 0.0)[1] & (nodes > 0)  # noqa: E731
            inverse = lambda nodes: np.where(good(nodes), 1 / np.where(good(nodes), nodes, 1.0), 0.0)  # noqa: E731
            above = self._samples(rule, lambda nodes: inverse(nodes) * np.where(good(nodes), self._gains(method, nodes), 0.0))
            below = self._samples(rule, inverse)
            value = above.mean() / below.mean()
            return float(value), _standard_error(above - value * below) / float(below.mean())

        (value, error), (rough, _) = ratio(self._rule), ratio(self._half)
        return Estimate(value, math.hypot(error, value - rough), reason)
