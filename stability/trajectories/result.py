"""The mean path with its tube, as it is saved and printed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import _check
from .._display import Grid, point, settled
from .._frames import Framed, Labelled
from .._law import Law
from .._saving import Result
from ..ensembles.result import Ensemble
from ..linear.trust import VALID
from .departure import BLOCKS, Departure, departure_notes, measured


@dataclass(frozen=True)
class Trajectory(Result, Framed, Labelled):
    """The mean path and the covariance around it; made by `trajectory`.

    Attributes
    ----------
    times : array (k,)
        In units of ``t = iteration * step``. Where the path had to stop, the last of them is where.
    mean : array (k, d)
    covariance : array (k, d, d)
    jacobian : array (k, d, d)
        Of the drift, at the mean; of positions alone that without momentum, a metric's means having settled.
    amplification : array (k,)
        The noise that the method lets in here over what SGD would: ``tr C_method(m) / tr C_SGD(m)``; nan
        without noise. Momentum, which adds noise up, is not in it.
    growth : array (k,)
        The largest eigenvalue of ``(J + J^T) / 2``: the fastest that any deviation grows here. Where more
        than positions moves, in units of its own, the largest real part of J's own.
    validity : array (k,)
        How nonlinear the drift is across the tube: at the 2 d points one standard deviation away along the
        covariance's axes, what ``f(m) + J delta`` misses, over the change of ``f`` itself (root mean
        squares), averaged over the last ``1 / |J|`` of time: what is missed for a shorter while moves
        deviations little. The largest since the time saved before. Trusted below 0.1.
    start : array (d,)
    start_covariance : array (d, d)
    time : {"continuous", "chain", "discrete"}
    dt : float
        The chain's time step; 0 in continuous time. Of a schedule's chain nan.
    step : float
        Of the flow; nan where it is a schedule.
    method : str
    status : str
        ``"ok"``, or what is to be known before the numbers are believed.
    notes : tuple of str
        Where the preconditioner was not smooth, and what that means.
    provenance : dict
    followed : bool
        Whether the path came to its end, over nothing that it could not follow: only `validity` may speak
        against it.
    """

    times: np.ndarray
    mean: np.ndarray
    covariance: np.ndarray
    jacobian: np.ndarray
    amplification: np.ndarray
    growth: np.ndarray
    validity: np.ndarray
    start: np.ndarray
    start_covariance: np.ndarray
    time: str
    dt: float
    step: float
    method: str
    status: str
    notes: tuple[str, ...]
    provenance: dict[str, Any]
    followed: bool = True

    @classmethod
    def _restored(cls, **values: Any) -> Any:
        # Paths were once saved with their status alone, in which doubts of validity came last.
        status = str(values.get("status"))
        return cls(**{"followed": status == "ok" or status.startswith("outside validity"), **values})

    @property
    def law(self) -> Law:
        """The law of `time` and `dt`, as an ensemble has one."""
        return Law(self.time, self.dt)

    @property
    def told_step(self) -> str:
        """The step in words."""
        return "steps of a schedule" if math.isnan(self.step) else f"step {self.step:g}"

    @property
    def spread(self) -> np.ndarray:
        """Root of the total variance, ``sqrt(tr S)``, (k,)."""
        return np.sqrt(np.trace(self.covariance, axis1=1, axis2=2))

    @property
    def valid(self) -> bool:
        """Whether the path came to its end with `validity` below 0.1, and nothing was jumped over."""
        return self.followed and bool((self.validity < VALID).all())

    def departure(self, ensemble: Ensemble) -> Departure:
        """How far an ensemble's whole law is, at each of its times, from the predicted ``N(m, S)``.

        The energy distance of Szekely and Rizzo (J. Stat. Plann. Inference 143, 1249 (2013)), in the
        coordinates where ``S`` is one: ``2 E|X - Z| - E|X - X'| - E|Z - Z'|``, zero for equal laws only. The
        Gaussian's part is in closed form; the paths' is an unbiased average over pairs within each of 32
        blocks of paths (more where there are many paths), whose scatter gives the error. If theory is true,
        0 is expected, give or take `level`.

        Parameters
        ----------
        ensemble : Ensemble
            Of the same law and start, with its states, at times that the trajectory was saved at; at least
            128 paths.

        Raises
        ------
        ValueError
            If the two do not belong together, or there are too few paths.
        """
        return departed(self, ensemble)

    def _columns(self) -> Mapping[str, Any]:
        names = ("spread", "amplification", "growth", "validity")
        mean = {f"mean[{i}]": column for i, column in enumerate(self.mean.T)}
        return {"time": self.times} | {name: getattr(self, name) for name in names} | mean

    def _labels(self) -> Mapping[str, np.ndarray]:
        return {"time": self.times}

    def _variables(self) -> Mapping[str, tuple[tuple[str, ...], np.ndarray]]:
        axes = {
            ("time",): ("spread", "amplification", "growth", "validity"),
            ("time", "coordinate"): ("mean",),
            ("time", "coordinate", "other"): ("covariance", "jacobian"),
        }
        return {name: (dims, getattr(self, name)) for dims, names in axes.items() for name in names}

    def _page(self) -> Iterator[str | Grid]:
        law = {
            "continuous": "the SDE",
            "chain": "its Euler-Maruyama chain" + ("" if math.isnan(self.dt) else f", dt = {self.dt:g}"),
            "discrete": "the iteration",
        }[self.time]
        yield f"{self.method} along a path, {self.told_step}: {law}, to t = {self.times[-1]:g}"
        mean = settled(self.mean, np.max(np.abs(self.mean), axis=0), 1e-15)
        shown = np.unique(np.linspace(0, len(self.times) - 1, 9).round().astype(int))
        columns = (self.times, self.spread, self.amplification, self.growth, self.validity)
        rows = [(*(column[i] for column in columns), point(mean[i])) for i in shown]
        numbers = (("t", ".4g"), ("spread", ".3g"), ("amplification", ".4g"), ("growth", ".3g"))
        yield Grid([*numbers, ("validity", ".2g"), ("mean", "")], rows)
        yield from self.notes
        yield f"status: {self.status}"


def departed(path: Trajectory, ensemble: Ensemble) -> Departure:
    """What `Trajectory.departure` returns."""
    rows, times = shared(path, ensemble)
    if not ensemble.states.shape[1]:
        raise ValueError(
            "The ensemble kept its moments only; simulate with keep='states' to compare its whole law."
        )
    states = ensemble.states[times][:, ~ensemble.diverged]
    if states.shape[1] < 4 * BLOCKS:
        raise ValueError(
            f"At least {4 * BLOCKS} paths that did not diverge are needed; got {states.shape[1]}. Simulate "
            "more."
        )
    found = [measured(w, path.mean[i], path.covariance[i]) for i, w in zip(rows, states, strict=True)]
    distance, error, level, shift, rank = (np.array(part) for part in zip(*found, strict=True))
    paths, notes = states.shape[1], departure_notes(ensemble)
    return Departure(path.times[rows], distance, error, level, shift, rank, paths, notes)


def shared(path: Trajectory, ensemble: Ensemble) -> tuple[np.ndarray, np.ndarray]:
    """The rows of a trajectory and of an ensemble at the ensemble's times after 0.

    Raises where the two do not belong together.
    """
    dim = path.mean.shape[1]
    if ensemble.states.shape[-1] != dim:
        raise ValueError(
            f"The ensemble has {_check.counted(ensemble.states.shape[-1], 'dimension')}; the trajectory has "
            f"{dim}."
        )
    _require_law(path, ensemble)
    _require_start(path, ensemble)
    kept = np.flatnonzero(ensemble.times > 0)
    if not len(kept):
        raise ValueError(
            "The ensemble was saved at time 0 only: there is nothing to compare. Save a later time."
        )
    # The nearest, and then whether it is near enough: times that were computed differ in their last digits.
    rows = np.abs(path.times[:, None] - ensemble.times[kept]).argmin(axis=0)
    missing = ~np.isclose(path.times[rows], ensemble.times[kept], rtol=1e-9, atol=0)
    if missing.any():
        told = "" if path.valid else f" (its status: {path.status})"
        raise ValueError(
            f"The trajectory was not saved at t = {ensemble.times[kept][missing][0]:g}{told}. Use "
            "st.trajectory(..., save=ensemble.times)."
        )
    return rows, kept


def _require_law(path: Trajectory, ensemble: Ensemble) -> None:
    if math.isnan(ensemble.dt) or math.isnan(path.step):
        _require_schedule(path, ensemble)
        return
    if path.time != ensemble.law.time or not math.isclose(path.dt, ensemble.law.dt, rel_tol=1e-9):
        ours = f"time={path.time!r}" + (f", dt={path.dt:g}" if path.dt else "")
        raise ValueError(
            f"The ensemble's paths follow another law (dt = {ensemble.dt:g}) than the trajectory ({ours}). "
            f"Use st.trajectory(..., {ensemble.law}), or time=ensemble.law."
        )


def _require_schedule(path: Trajectory, ensemble: Ensemble) -> None:
    if not (math.isnan(ensemble.dt) and math.isnan(path.step)):
        which = "the ensemble's" if math.isnan(ensemble.dt) else "the trajectory's"
        raise ValueError(f"Of the two only {which} step is a schedule. Use one flow for both.")
    if ensemble.provenance.get("refine"):
        raise ValueError(
            "The ensemble's steps are a schedule's, refined: a trajectory's are the schedule's own. Simulate "
            "with refine=0."
        )
    time = "discrete" if ensemble.level == "iteration" else "chain"
    if path.time != time:
        raise ValueError(
            f"The ensemble's paths follow another law than the trajectory (time={path.time!r}). Use "
            f"st.trajectory(..., time={time!r})."
        )


def _require_start(path: Trajectory, ensemble: Ensemble) -> None:
    """One common start must be the trajectory's; scattered ones a sample of its law, within five errors."""
    starts, n, predicted = ensemble.start, len(ensemble.start), path.start_covariance
    # One start for all paths is kept as a view of one row.
    common = starts.strides[0] == 0 or n == 1
    mean = starts[0] if common else starts.mean(axis=0)
    spread = np.zeros_like(predicted) if common else np.cov(starts.T).reshape(predicted.shape)

    variance = np.diag(predicted)
    error = np.sqrt((np.outer(variance, variance) + predicted**2) / n)  # of a Gaussian sample's covariance
    size = np.max(np.abs(path.start))
    near = np.abs(mean - path.start) <= 5 * np.sqrt(variance / n) + 1e-9 * size
    rounding = 1e-12 * (np.max(variance) + size**2)
    alike = np.abs(spread - predicted) <= 5 * error + rounding
    if not near.all() or not alike.all():
        raise ValueError(
            f"The ensemble starts at {mean} (variances {np.diag(spread)}); the trajectory at {path.start} "
            f"(variances {variance})."
        )
