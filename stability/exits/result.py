"""The result of an ensemble of first exits."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .._display import Grid
from .._frames import Framed
from .._saving import Result, Study, jsonable, provenance
from .chain import ChainExit
from .exit_time import ExitTime, exit_time

FEW = 20
"""Exits fewer than these give no standard error to rely on: that of the survival, which counts them, is
itself off by a fifth then.
"""


@dataclass(frozen=True)
class Escape(Result, Framed):
    """First exits from a region around a critical point; made by `escape`.

    Times are in units of ``t = iteration * step``.

    Attributes
    ----------
    times : array (paths,)
        First exits; nan for paths that had not left when they were last seen.
    seen : array (paths,)
        Until when each was watched: its exit, `t_end`, or when it was given up.
    exits : array (paths, d)
        ``w - at`` at the exit; nan for those that stayed.
    lost : array of bool (paths,)
        Given up before they left: not finite, or far away along other directions. Censored then, as if that
        had nothing to do with leaving.
    at, along : arrays (d,)
        The critical point, and the slab's unit vector; zeros for a ball.
    radius, t_end, dt : float
        `dt` is nan where the flow's step is a schedule.
    eigenvalues, rates, diffusions : arrays (d,)
        Of the Hessian at `at`, largest ``|lam|`` first; of each mode, ``-phi lam - weight_decay`` and the
        variance that noise adds per unit of t (with a schedule, at its first step).
    vectors : array (d, d)
        Eigenvectors, as columns; the modes of a metric, as `LinearFlow` has them.
    rate, diffusion : float
        Of the motion along `along`; nan where it has no law of its own, and `reason` says why.
    exact : bool
        Whether the law is that of the very paths simulated: a quadratic with additive Gaussian noise. Else of
        the linearised flow.
    level : {"sde", "iteration"}
    method, reason, status : str
    stats, provenance : dict
    """

    times: np.ndarray
    seen: np.ndarray
    exits: np.ndarray
    lost: np.ndarray
    at: np.ndarray
    along: np.ndarray
    radius: float
    t_end: float
    dt: float
    eigenvalues: np.ndarray
    vectors: np.ndarray
    rates: np.ndarray
    diffusions: np.ndarray
    rate: float
    diffusion: float
    exact: bool
    level: str
    method: str
    reason: str
    status: str
    stats: dict[str, Any]
    provenance: dict[str, Any]

    @property
    def left(self) -> np.ndarray:
        """Which paths (paths,) left."""
        return np.isfinite(self.times)

    @cached_property
    def curve(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Kaplan and Meier's survival after each exit time to `until`, from time 0 on.

        Times, survival and Greenwood's standard errors, (k,) each.
        """
        moments, hazard, variance = self._falls
        survival = np.cumprod(1 - hazard)
        return (
            np.append(0.0, moments),
            np.append(1.0, survival),
            np.append(0.0, survival * np.sqrt(np.cumsum(variance))),
        )

    @cached_property
    def _falls(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Distinct exit times, the share of those still watched that left then, and its error's part.

        What it adds to the variance of the survival's logarithm.
        """
        # nan, of those that stayed, is not <= anything.
        moments, exits = np.unique(self.times[self.times <= self.until], return_counts=True)
        # Those given up at an exit's own moment were still watched then: they count as at risk.
        at_risk = len(self.seen) - np.searchsorted(np.sort(self.seen), moments, side="left")
        stay = at_risk - exits  # where none stay the survival is zero, and so is its error
        return moments, exits / at_risk, np.where(stay > 0, exits / (at_risk * np.maximum(stay, 1.0)), 0.0)

    def survival(self, t: Any) -> np.ndarray:
        """The share that has not left by times `t`, by Kaplan and Meier; nan beyond `until`."""
        t, (moments, survival, _) = np.asarray(t, dtype=float), self.curve
        # Right-continuous: at an exit's own time the curve has fallen already.
        share = survival[np.searchsorted(moments, t, side="right") - 1]
        # Once all have left, nothing later can change the zero.
        return np.where((t <= self.until) | self.left.all(), share, np.nan)

    @cached_property
    def mean(self) -> tuple[float, float]:
        """The restricted mean ``E min(T, until)``, the survival curve's area, and its standard error."""
        moments, survival, _ = self.curve
        areas = survival * np.diff(np.append(moments, self.until))
        # Greenwood: an exit's error moves the whole area after it.
        later = np.cumsum(areas[::-1])[::-1][1:]
        return float(areas.sum()), float(np.sqrt(np.sum(later**2 * self._falls[2])))

    @property
    def median(self) -> float:
        """The time by which half have left; nan where fewer did."""
        moments, survival, _ = self.curve
        return float(moments[np.argmax(survival <= 0.5)]) if survival[-1] <= 0.5 else math.nan

    @property
    def mode(self) -> ExitTime | None:
        """The law in continuous time, of ``d x = rate x dt + sqrt(diffusion) dW``.

        None where there is none: `reason` says why.
        """
        return (
            exit_time(rate=self.rate, diffusion=self.diffusion, radius=self.radius)
            if math.isfinite(self.rate)
            else None
        )

    @cached_property
    def chain(self) -> ChainExit | None:
        """The law that `z` and `kolmogorov_smirnov` compare with, of the very chain; None as `mode`."""
        return None if self.mode is None else ChainExit(self.mode, self.dt, self._steps)

    @property
    def until(self) -> float:
        """Up to when the survival curve is used.

        `t_end`, or where paths were given up, as long as 20 (of fewer than 40: half of them) were watched.
        Beyond, few paths would stand for the many that were given up, and neither error nor p could be relied
        on.
        """
        enough = min(FEW, (len(self.seen) + 1) // 2)
        return float(np.sort(self.seen)[-enough]) if self.lost.any() else self.t_end

    @property
    def _steps(self) -> int:
        return round(self.until / self.dt)

    @property
    def z(self) -> float:
        """``(measured - predicted) / error`` of the restricted mean; nan without a law, or where nobody left.

        The error is estimated from the same exits: with few of them z is skewed (see `status`).
        """
        value, error = self.mean
        return (
            (value - self.chain.mean(self._steps)) / error
            if self.chain is not None and error > 0
            else math.nan
        )

    @cached_property
    def kolmogorov_smirnov(self) -> tuple[float, float]:
        """Largest distance of the survival curve from the law, and its p-value.

        At the chain's own times up to `until`. Where paths were given up, distances are weighted as by Hall
        and Wellner (1980), which makes Kolmogorov's law hold for them too; else the weights are one. His law
        is that of a continuous time seen to its end: p is conservative for whole steps, the more the fewer
        they are. nan without a law.
        """
        from scipy.stats import kstwo

        if self.chain is None:
            return math.nan, math.nan
        moments, survival, error = self.curve
        count, some = len(self.times), survival > 0
        weight = 1 / (survival[some] + count * error[some] ** 2 / survival[some])
        # The end, where nobody is left, has its predecessor's.
        weight = np.append(weight, weight[-1])[: len(survival)]
        steps = np.round(moments / self.dt).astype(int)
        # The survival falls after these, and the law until then.
        before = np.append(steps[1:], self._steps + 1) - 1
        distance = max(
            float(np.max(weight * np.abs(survival - self.chain.survival(k)))) for k in (steps, before)
        )
        return distance, float(kstwo.sf(distance, count))

    @property
    def shares(self) -> np.ndarray:
        """Of those that left a ball, the share (d, 2) farthest along each eigenvector, either way.

        Of a slab, its two sides (1, 2).
        """
        axes = self.along[:, None] if self.along.any() else self._shares
        parts = self.exits[self.left] @ axes
        if not len(parts):
            return np.full((axes.shape[1], 2), np.nan)
        widest = np.argmax(np.abs(parts), axis=1)
        forward = parts[np.arange(len(parts)), widest] > 0
        return np.stack(
            [
                [np.mean((widest == i) & (forward == side)) for side in (True, False)]
                for i in range(axes.shape[1])
            ]
        )

    @property
    def _shares(self) -> np.ndarray:
        """Columns (d, d) by which a state is split among the modes; of a metric they are not orthogonal."""
        apart = self.vectors.T @ self.vectors - np.eye(len(self.at))
        return self.vectors if np.abs(apart).max() < 1e-9 else np.linalg.inv(self.vectors).T

    def bounds(self, t: Any) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper bound on the survival of a ball of a linear flow at times `t`.

        By the modes' own laws. A path in the ball is in every mode's slab of that radius; a path in all slabs
        of ``radius / sqrt(d)`` is in the ball, d the number of modes that noise moves. That has at least the
        product of their probabilities: paths are Gaussian, and a slab is a convex set of them that is
        symmetric about 0 (the Gaussian correlation inequality, Royen 2014).

        Raises
        ------
        ValueError
            If the region is a slab, or the law is not that of a quadratic with additive Gaussian noise.
        """
        if self.along.any() and len(self.along) > 1:
            raise ValueError(
                "`bounds` holds for a ball; here a slab was left. Call `escape` without `along`."
            )
        if not self.exact:
            raise ValueError(
                "`bounds` holds for a quadratic with additive Gaussian noise; here "
                f"{self.reason or 'the law is of the linearised flow'}."
            )
        steps, driven = self._whole(t), np.flatnonzero(self.diffusions > 1e-20 * self.diffusions.max())

        def laws(radius: float) -> list[np.ndarray]:
            modes = (
                exit_time(rate=self.rates[i], diffusion=self.diffusions[i], radius=radius) for i in driven
            )
            return [ChainExit(mode, self.dt, int(steps.max(initial=1))).survival(steps) for mode in modes]

        # A cube inside the ball, left when any mode leaves its side, and a slab around it, which one mode
        # alone leaves.
        return np.prod(laws(self.radius / math.sqrt(len(driven))), axis=0), np.min(laws(self.radius), axis=0)

    def _whole(self, t: Any) -> np.ndarray:
        """The time steps that are over at `t`."""
        # k dt divided by dt may be a little less than k.
        return np.floor(np.asarray(t, dtype=float) / self.dt + 1e-6).astype(int)

    def data(self) -> Study:
        """The survival curve with its errors and the law, for `stability.plot`."""
        moments, survival, error = self.curve
        t = np.linspace(0, self.until, 201)
        law = np.full(201, np.nan) if self.chain is None else self.chain.survival(self._whole(t))
        arrays = {
            "t": np.append(moments, self.until),
            "survival": np.append(survival, survival[-1]),
            "error": np.append(error, error[-1]),
        }
        about = {
            "method": self.method,
            "region": self._region,
            "z": self.z,
            "p": self.kolmogorov_smirnov[1],
            "exact": self.exact,
        }
        return Study("exits", {**arrays, "law_t": t, "law": law}, jsonable(about), provenance())

    def _columns(self) -> Mapping[str, Any]:
        return dict(zip(("time", "survival", "error"), self.curve, strict=True))

    @property
    def _region(self) -> str:
        if not self.along.any():
            return f"|w - at| < {self.radius:g}"
        shares = self._shares / np.linalg.norm(self._shares, axis=0)
        overlap = np.abs(shares.T @ self.along)
        mode = f"mode {np.argmax(overlap)}" if overlap.max() > 1 - 1e-9 else "the given direction"
        return f"|v.(w - at)| < {self.radius:g} along {mode}"

    def _page(self) -> Iterator[str | Grid]:
        level = "SDE" if self.level == "sde" else "iteration"
        clock = "a schedule" if math.isnan(self.dt) else f"dt = {self.dt:g}"
        yield (f"{self.method}, {level}, {clock}: first exits from {self._region}, to t = {self.t_end:g}")
        half = f", half of all by t = {self.median:.5g}" if math.isfinite(self.median) else ""
        yield f"{int(self.left.sum())} of {len(self.times)} paths left{half}"
        value, error = self.mean
        predicted, last = (
            (math.nan, math.nan)
            if self.chain is None
            else (self.chain.mean(self._steps), float(self.chain.survival(self._steps)))
        )
        rows = [
            (f"mean of min(T, {self.until:.5g})", value, error, predicted, self.z),
            ("share still inside", self.curve[1][-1], self.curve[2][-1], last, None),
        ]
        numbers = (("measured", ".5g"), ("std. error", ".2g"), ("law", ".5g"), ("z", ".2f"))
        yield Grid([("", ""), *numbers], rows)
        yield self._fit()
        yield from self._sides()
        yield f"status: {self.status}"

    def _fit(self) -> str:
        if self.chain is None:
            return f"no law: {self.reason}"
        distance, p = self.kolmogorov_smirnov
        rough = (
            f"; the law is a closed form, off by at most {self.chain.error:.0e}"
            if self.chain.error > 1e-6
            else ""
        )
        return f"Kolmogorov-Smirnov distance {distance:.3g}, p = {p:.2g}{rough}"

    def _sides(self) -> list[str]:
        if not self.left.any():
            return []

        def both(i: int) -> str:
            name, more = f"mode {i}", f" (lambda = {self.eigenvalues[i]:.3g})"
            if self.along.any():
                name, more = "v", ""
            return f"+{name}{more} {self.shares[i, 0]:.1%}, -{name} {self.shares[i, 1]:.1%}"

        order = np.argsort(-self.shares.sum(axis=1))[:4]
        return ["left along " + ", ".join(both(i) for i in order if self.shares[i].any())]
