"""What an ensemble of paths gives: its moments with their errors, who diverged and who left, and what it
cost.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .._law import Law
from .._saving import Result

UNSTABLE_SHARE = 0.1
"""Where more than this share of the paths diverged, the summary calls the flow unstable."""


@dataclass(frozen=True)
class Ensemble(Result):
    """Paths of a flow and their moments; made by `simulate`.

    Attributes
    ----------
    times : array (times,)
        In units of ``t = iteration * step``.
    states : array (times, paths, d)
        Or (times, 0, d) where only moments were kept.
    mean, standard_error : arrays (times, d)
        Over the paths that did not diverge, and the mean's standard error.
    covariance, covariance_error : arrays (times, d, d)
        The same for the covariance (standard errors from fourth moments).
    diverged : array (paths,) of bool
        Paths that became non-finite or left `radius`: frozen where they were, kept out of all moments.
    diverged_at, exit_times : arrays (paths,)
        When a path diverged; when it first left the region `exit` (nan: never).
    start : array (paths, d)
    level : {"sde", "iteration"}
    dt : float
        Time step.
    stats : dict
        Work and cost: path-steps, seconds, path-steps per second, the share of the time spent drawing random
        numbers (``noise_share``: 1 is the limit), diverged paths; with `target_error`, what was predicted and
        met.
    provenance : dict
    scheme : {"euler", "exponential"}
    quantile_levels : array (levels,)
    quantiles : array (times, levels, d)
    observables, observable_errors : dict of arrays (times,)
        Mean of every observable, and its standard error.
    mean_reduction, covariance_reduction : arrays (times, d) and (times, d, d)
        How many times smaller the control variate made the variance; ones without it.
    notes : tuple of str
        What a reader must know before trusting the numbers.
    """

    times: np.ndarray
    states: np.ndarray
    mean: np.ndarray
    standard_error: np.ndarray
    covariance: np.ndarray
    covariance_error: np.ndarray
    diverged: np.ndarray
    diverged_at: np.ndarray
    exit_times: np.ndarray
    start: np.ndarray
    level: str
    dt: float
    stats: dict[str, Any]
    provenance: dict[str, Any]
    scheme: str = "euler"
    quantile_levels: np.ndarray = field(default_factory=lambda: np.empty(0))
    quantiles: np.ndarray = field(default_factory=lambda: np.empty((0, 0, 0)))
    observables: dict[str, np.ndarray] = field(default_factory=dict)
    observable_errors: dict[str, np.ndarray] = field(default_factory=dict)
    mean_reduction: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))
    covariance_reduction: np.ndarray = field(default_factory=lambda: np.empty((0, 0, 0)))
    notes: tuple[str, ...] = ()

    @property
    def law(self) -> Law:
        """The law that the paths follow, for ``time=`` of the theory: ``lin.covariance(time=ens.law)``."""
        return Law.simulated(self.level, self.scheme, self.dt)

    @property
    def conditional(self) -> bool:
        """Whether the moments are conditional on not having diverged."""
        return bool(self.diverged.any())

    def __str__(self) -> str:
        paths, lost = len(self.diverged), int(self.diverged.sum())
        scheme = "" if self.scheme == "euler" else f" ({self.scheme} scheme)"
        lines = [
            f"{paths} paths of the {'SDE' if self.level == 'sde' else 'iteration'}{scheme}, dt = "
            f"{self.dt:g}, to t = {self.times[-1]:g}"
        ]
        if lost:
            first = float(np.nanmin(self.diverged_at))
            lines.append(
                f"{lost} of {paths} paths diverged, the first at t = {first:g}: the moments below are "
                "conditional on the others."
            )
        left = int(np.isfinite(self.exit_times).sum())
        if left:
            lines.append(
                f"{left} paths left the exit region, at a median t = {np.nanmedian(self.exit_times):.4g}."
            )
        return "\n".join([*lines, *self.notes, *self._table(), *self._extras()])

    def _table(self) -> list[str]:
        lines, dim = [f"{'axis':>4} {'mean':>12} {'+-':>9} {'variance':>12} {'+-':>9}"], self.mean.shape[-1]
        for i in range(min(dim, 12)):
            row = (
                self.mean[-1, i],
                self.standard_error[-1, i],
                self.covariance[-1, i, i],
                self.covariance_error[-1, i, i],
            )
            lines.append(f"{i:>4} {row[0]:>12.5g} {row[1]:>9.2g} {row[2]:>12.5g} {row[3]:>9.2g}")
        if dim > 12:
            lines.append(f" ... {dim - 12} more axes")
        return lines

    def _extras(self) -> list[str]:
        lines = []
        for name, values in self.observables.items():
            lines.append(f"{name} = {values[-1]:.5g} +- {self.observable_errors[name][-1]:.2g}")
        factors = np.diagonal(self.covariance_reduction[-1]) if len(self.covariance_reduction) else np.ones(1)
        if np.any(np.isfinite(factors) & (factors != 1)):
            lines.append(
                f"The control variate cut the variance of the variances {np.nanmin(factors):.3g} to "
                f"{np.nanmax(factors):.3g} times."
            )
        return lines
