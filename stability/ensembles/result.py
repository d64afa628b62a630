"""What an ensemble gives: moments and their errors, who diverged and who left, what it cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import _check
from .._display import Grid, settled
from .._frames import Framed, Labelled
from .._law import Law
from .._saving import Result

UNSTABLE_SHARE = 0.1
"""Where more than this share of the paths diverged, the summary calls the flow unstable."""


@dataclass(frozen=True)
class Ensemble(Result, Framed, Labelled):
    """Paths of a flow and their moments; made by `simulate`.

    Attributes
    ----------
    times : array (times,)
        In units of ``t = iteration * step``.
    states : array (times, paths, d)
        Or (times, 0, d) where only moments were kept. With ``state=True`` positions and buffer: here and
        below d is then twice as many.
    mean, standard_error : arrays (times, d)
        Over the paths that did not diverge, and the mean's standard error.
    covariance, covariance_error : arrays (times, d, d)
        The same for the covariance (standard errors from fourth moments: of 30 Gaussian paths 95 % intervals
        of a variance cover 86 %, of 100 paths 92 %, of 400 paths 95 %).
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
    average : float or None
        The decay of the moving average that `states` are of; None for the positions themselves.
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
    average: float | None = None

    @property
    def law(self) -> Law:
        """The law that the paths follow, for ``time=`` of the theory: ``lin.covariance(time=ens.law)``.

        Raises
        ------
        ValueError
            If their step was a schedule, of which theory knows nothing.
        """
        if not self.dt > 0:
            raise ValueError(
                "The step of these paths was a schedule: they follow no law of one step. Compare paths of "
                "one step: st.simulate(flow.at_step(0.1), ...)."
            )
        return Law.simulated(self.level, self.scheme, self.dt)

    @property
    def conditional(self) -> bool:
        """Whether the moments are conditional on not having diverged."""
        return bool(self.diverged.any())

    def _columns(self) -> Mapping[str, Any]:
        count, dim = self.mean.shape
        return {
            "time": np.repeat(self.times, dim),
            "axis": np.tile(np.array(self._axes), count),
            "mean": self.mean.ravel(),
            "standard_error": self.standard_error.ravel(),
            "variance": np.diagonal(self.covariance, axis1=1, axis2=2).ravel(),
            "variance_error": np.diagonal(self.covariance_error, axis1=1, axis2=2).ravel(),
        }

    @property
    def _axes(self) -> list[Any]:
        """The formula's own names, or numbers."""
        names, count = list(self.provenance.get("variables") or ()), self.mean.shape[1]
        kept = self.provenance.get("remembered") or ()
        names = names or list(range(count // (1 + len(kept))))
        return names + [f"{what} of {name}" for what in kept for name in names]

    def _labels(self) -> Mapping[str, np.ndarray]:
        coordinates = {"time": self.times, "coordinate": np.array(self._axes)}
        return coordinates | ({"level": self.quantile_levels} if len(self.quantile_levels) else {})

    def _variables(self) -> Mapping[str, tuple[tuple[str, ...], np.ndarray]]:
        axes = {
            ("time", "coordinate"): ("mean", "standard_error"),
            ("time", "coordinate", "other"): ("covariance", "covariance_error"),
            ("path",): ("diverged", "diverged_at", "exit_times"),
            ("path", "coordinate"): ("start",),
        }
        if self.states.shape[1]:
            axes["time", "path", "coordinate"] = ("states",)
        if len(self.quantile_levels):
            axes["time", "level", "coordinate"] = ("quantiles",)
        named = {name: (dims, getattr(self, name)) for dims, names in axes.items() for name in names}
        for name, values in self.observables.items():
            named |= {name: (("time",), values), f"{name}_error": (("time",), self.observable_errors[name])}
        return named

    def _page(self) -> Iterator[str | Grid]:
        paths, lost = len(self.diverged), int(self.diverged.sum())
        scheme = "" if self.scheme == "euler" else f" ({self.scheme} scheme)"
        law = "SDE" if self.level == "sde" else "iteration"
        averaged = "" if self.average is None else f", averaged with decay {self.average:g}"
        dt = f"dt = {self.dt:g}" if self.dt > 0 else "steps of a schedule"
        many = _check.counted(paths, "path")
        yield f"{many} of the {law}{scheme}, {dt}, to t = {self.times[-1]:g}{averaged}"
        if lost:
            yield (
                f"{lost} of {paths} paths diverged, the first at t = {np.nanmin(self.diverged_at):g}: the "
                "moments below are conditional on the others."
            )
        left = int(np.isfinite(self.exit_times).sum())
        if left:
            yield f"{left} paths left the exit region, at a median t = {np.nanmedian(self.exit_times):.4g}."
        yield from self.notes
        yield self._table()
        yield from self._extras()

    def _table(self) -> Grid:
        mean, variance = self.mean[-1], np.diagonal(self.covariance[-1])
        # What a mean is small beside: where paths began, and how they spread.
        of = np.max(np.abs(self.start), axis=0, initial=0.0) + np.sqrt(np.maximum(variance, 0.0))
        # Below the rounding of such sizes a number is shown as zero.
        columns = (
            settled(mean, of, 1e-15),
            self.standard_error[-1],
            settled(variance, of**2, 1e-30),
            np.diagonal(self.covariance_error[-1]),
        )
        rows: list[tuple[Any, ...]] = list(zip(map(str, self._axes), *columns, strict=True))
        if len(rows) > 12:
            rows = [*rows[:12], (f"... {len(rows) - 12} more axes", *[None] * 4)]
        numbers = (("mean", ".5g"), ("+-", ".2g"), ("variance", ".5g"), ("+-", ".2g"))
        return Grid([("axis", ""), *numbers], rows)

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
