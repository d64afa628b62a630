"""Theory beside measurement: predicted and measured moments, standard errors, z-scores."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np

from . import _check
from ._display import Grid, settled
from ._estimate import Estimate
from ._frames import Framed, Labelled
from ._saving import Result
from .ensembles.result import Ensemble
from .ensembles.tails import TailIndex, tail_index
from .linear.dynamics import order_of
from .linear.result import LinearFlow
from .linear.trust import VALID
from .trajectories.departure import departure_notes
from .trajectories.result import Trajectory, shared

BINS, DRAWN = 60, 4
"""Of the histograms; of how many coordinates there are some."""
MOST_TIMES = 12
"""Of which a comparison prints the largest z."""
TAIL_PATHS = 4000
"""Paths from which the tail index is measured: more would not change what is said of it."""


LEAN = 0.3
"""Of the noise's standard deviation: a mean gradient that a metric does not feel yet."""
SETTLED = 5.0
"""Times of a running mean's memory until its start is forgotten."""


@dataclass(frozen=True)
class Comparison(Result, Framed, Labelled):
    """Predicted and measured moments of an ensemble; made by `compare`.

    Attributes
    ----------
    times : array (times,)
    predicted_mean, measured_mean, standard_error, mean_z : arrays (times, d)
    predicted_covariance, measured_covariance, covariance_error, covariance_z : arrays (times, d, d)
        ``z = (measured - predicted) / error``: `standard_error` of the mean, `covariance_error` of the
        covariance, as an ensemble has them.
    law : str
        The law that was predicted: ``"chain"`` (Euler-Maruyama) or ``"discrete"`` (iteration), and its level.
    validity : float
        The linearisation's validity indicator; trusted below 0.1.
    notes : tuple of str
        What a reader must know: diverged paths, a linearisation outside its validity.
    edges, counts : arrays (drawn, bins + 1) and (drawn, bins)
        Paths in bins of each of the first coordinates at the last time; empty where no states were kept.
    variables : tuple of str
        What the formula calls the coordinates, where there is one.
    predicted_tail, measured_tail : arrays (2,)
        Tail index of the stationary law and its error, of a linear flow by `LinearFlow.tail` and of the last
        states by `tail_index`; nan where theirs is not known, or not told from a Gaussian's.
    """

    times: np.ndarray
    predicted_mean: np.ndarray
    measured_mean: np.ndarray
    standard_error: np.ndarray
    mean_z: np.ndarray
    predicted_covariance: np.ndarray
    measured_covariance: np.ndarray
    covariance_error: np.ndarray
    covariance_z: np.ndarray
    law: str
    validity: float
    notes: tuple[str, ...] = ()
    edges: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))
    counts: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))
    variables: tuple[str, ...] = ()
    predicted_tail: np.ndarray = field(default_factory=lambda: np.full(2, math.nan))
    measured_tail: np.ndarray = field(default_factory=lambda: np.full(2, math.nan))

    _RENAMED: ClassVar = {"mean_error": "standard_error"}
    mean_error = _check.renamed_attribute("mean_error", "standard_error")

    @property
    def max_z(self) -> float:
        """The largest ``|z|`` of all, mean and covariance.

        Each entry is one test: expect more than 2 among many.
        """
        return float(max(np.max(np.abs(self.mean_z)), np.max(np.abs(self.covariance_z))))

    def _columns(self) -> Mapping[str, Any]:
        rows = [(t, *row) for k, t in enumerate(self.times) for row in self._rows(k)]
        names = ("time", "moment", "predicted", "measured", "error", "z")
        return dict(zip(names, zip(*rows, strict=True), strict=True))

    def _labels(self) -> Mapping[str, np.ndarray]:
        return {"time": self.times} | ({"coordinate": np.array(self.variables)} if self.variables else {})

    def _variables(self) -> Mapping[str, tuple[tuple[str, ...], np.ndarray]]:
        means = ("predicted_mean", "measured_mean", "standard_error", "mean_z")
        covariances = ("predicted_covariance", "measured_covariance", "covariance_error", "covariance_z")
        return {name: (("time", "coordinate"), getattr(self, name)) for name in means} | {
            name: (("time", "coordinate", "other"), getattr(self, name)) for name in covariances
        }

    def _page(self) -> Iterator[str | Grid]:
        yield f"theory ({self.law}) against measurement at t = {self.times[-1]:g}"
        rows = self._rows(len(self.times) - 1)
        shown = rows if len(rows) <= 24 else sorted(rows, key=lambda row: -abs(row[-1]))[:24]
        numbers = (("predicted", ".5g"), ("measured", ".5g"), ("std. error", ".2g"), ("z", ".2f"))
        yield Grid([("moment", ""), *numbers], shown)
        if len(rows) > len(shown):
            yield f"(the {len(shown)} largest |z| of {len(rows)} moments)"
        if len(self.times) > 1:
            yield Grid([("t", ".4g"), ("largest |z|", ".2f"), ("of", "")], self._worst())
        yield f"largest |z| of {len(rows) * len(self.times)}: {self.max_z:.2f}"
        tails = (self.predicted_tail, self.measured_tail)
        if all(np.isfinite(index) for index, _ in tails):
            (predicted, error), (measured, own) = tails
            yield (
                f"tail index: predicted {predicted:.4g} +- {error:.1g}, measured {measured:.4g} +- {own:.2g}"
            )
        yield from self.notes

    def _worst(self) -> list[tuple[Any, ...]]:
        """The largest ``|z|`` at each time, or at so many of them that a table is read."""
        places = np.unique(np.linspace(0, len(self.times) - 1, min(len(self.times), MOST_TIMES)).astype(int))
        worst = [max(self._rows(k), key=lambda row: abs(row[-1])) for k in places]
        return [(self.times[k], abs(row[-1]), row[0]) for k, row in zip(places, worst, strict=True)]

    def _rows(self, k: int) -> list[tuple[Any, ...]]:
        """Moments at one time: name, predicted, measured, standard error and z."""
        means = (self.predicted_mean[k], self.measured_mean[k], self.standard_error[k], self.mean_z[k])
        covariances = (
            self.predicted_covariance[k],
            self.measured_covariance[k],
            self.covariance_error[k],
            self.covariance_z[k],
        )
        # The larger of both: a vanishing one is no unit to call anything small in.
        spread = np.sqrt(np.maximum(np.diagonal(self.measured_covariance[k]), np.diagonal(covariances[0])))
        of = np.maximum(spread, np.max(np.abs(self.predicted_mean), axis=0))
        means = (settled(means[0], of), settled(means[1], of), *means[2:])
        covariances = (settled(covariances[0], np.outer(spread, spread)), *covariances[1:])
        axes = self.variables or range(len(of))
        rows = [(f"mean[{axis}]", *row) for axis, *row in zip(axes, *means, strict=True)]
        for i, j in zip(*np.triu_indices(len(of)), strict=True):
            rows.append((f"cov[{axes[i]},{axes[j]}]", *(part[i, j] for part in covariances)))
        return rows


@_check.by_name
@_check.renamed(level="order")
def compare(theory: LinearFlow | Trajectory, ensemble: Ensemble, *, order: int = 1) -> Comparison:
    """Compare the linear theory, or the noise along a path, with an ensemble's moments.

    The law is that of what was simulated: the Euler-Maruyama chain at its `dt` for the SDE, the discrete
    iteration for the iteration. A linear flow's moments start from the ensemble's actual start; a trajectory
    must have been made for that start, that law and those times: ``st.trajectory(..., time=ensemble.law,
    save=ensemble.times)``.

    Parameters
    ----------
    theory : LinearFlow or Trajectory
    ensemble : Ensemble
    order : {1, 2}
        2 corrects a linear flow towards the iteration and is for it only.

    Raises
    ------
    Unstable
        If a linear flow has no stationary covariance: its moments grow or do not settle, and z-scores mean
        nothing.
    ValueError
        If the two do not belong together, or fewer than two paths did not diverge.

    Examples
    --------
    >>> import stability as st
    >>> flow = st.Flow(st.quadratic([1.0]), st.SGD(), st.Noise(gradient=0.1), step=0.1)
    >>> ens = st.simulate(flow, start=[0.0], t_end=50.0, paths=1000, seed=0)
    >>> found = st.compare(st.linearize(flow), ens)
    >>> found.to_frame()["moment"].tolist()
    ['mean[0]', 'cov[0,0]']
    >>> bool(found.max_z < 4)
    True
    """
    order = order_of(order)
    if not isinstance(theory, (LinearFlow, Trajectory)):
        raise ValueError(
            f"`theory` must come from st.linearize(...) or st.trajectory(...); got {theory!r:.60}."
        )
    if isinstance(theory, Trajectory):
        predicted = _along(theory, ensemble, order)
    else:
        predicted = _around(theory, ensemble, order)
    kept = _comparable(ensemble)
    mean, covariance = ensemble.mean[kept], ensemble.covariance[kept]
    error, covariance_error = ensemble.standard_error[kept], ensemble.covariance_error[kept]
    # Rounding of a gap goes with what was subtracted, not with what is left.
    length = max(float(np.max(np.abs(part))) for part in (ensemble.start, mean, predicted.mean))
    return Comparison(
        times=ensemble.times[kept],
        predicted_mean=predicted.mean,
        measured_mean=mean,
        standard_error=error,
        mean_z=_z(mean - predicted.mean, error, length),
        predicted_covariance=predicted.covariance,
        measured_covariance=covariance,
        covariance_error=covariance_error,
        covariance_z=_z(covariance - predicted.covariance, covariance_error, length**2),
        law=predicted.law,
        validity=predicted.validity,
        notes=predicted.notes,
        **_histograms(ensemble),
        variables=_names(ensemble),
        **predicted.tails,
    )


def _names(ensemble: Ensemble) -> tuple[str, ...]:
    """The formula's own names of what is compared; none where there are only numbers."""
    names = tuple(ensemble.provenance.get("variables") or ())
    kept = tuple(ensemble.provenance.get("remembered") or ())
    return names + tuple(f"{what} of {name}" for what in kept for name in names)


def _histograms(ensemble: Ensemble) -> dict[str, np.ndarray]:
    """Paths in bins of the first coordinates at the last time, of those that did not diverge."""
    if not ensemble.states.shape[1]:
        return {}
    last = ensemble.states[-1, ~ensemble.diverged, :DRAWN]
    counts, edges = zip(*(np.histogram(column, bins=BINS) for column in last.T), strict=True)
    return {"edges": np.array(edges), "counts": np.array(counts)}


class Predicted(NamedTuple):
    """What theory says at an ensemble's times: mean (times, d), covariance (times, d, d), and of what."""

    mean: np.ndarray
    covariance: np.ndarray
    law: str
    validity: float
    notes: tuple[str, ...]
    tails: dict[str, np.ndarray]


def _comparable(ensemble: Ensemble) -> np.ndarray:
    """Rows of the times after the start, of an ensemble that has moments at all."""
    if np.count_nonzero(~ensemble.diverged) < 2:
        raise ValueError(
            f"At least two paths that did not diverge are needed; {len(ensemble.diverged)} were run and "
            f"{int(ensemble.diverged.sum())} diverged."
        )
    # At the start moments are given, not predicted.
    kept = np.flatnonzero(ensemble.times > 0)
    if not len(kept):
        raise ValueError(
            "The ensemble was saved at time 0 only: there is nothing to compare. Save a later time."
        )
    return kept


def _around(linear: LinearFlow, ensemble: Ensemble, order: int) -> Predicted:
    """Around a critical point: the linear flow's moments from the ensemble's own start."""
    dim, remembered = len(linear.at), ensemble.provenance.get("remembered") or ()
    if set(remembered) - {"buffer"}:
        raise ValueError(
            "The linear theory of a metric is of positions; the ensemble's states hold its means too. "
            "Simulate with state=False."
        )
    if ensemble.states.shape[-1] != dim * (1 + len(remembered)):
        raise ValueError(
            f"The ensemble has {_check.counted(ensemble.states.shape[-1], 'dimension')}; the linear flow has "
            f"{dim}."
        )
    if ensemble.level == "iteration" and not math.isclose(ensemble.dt, linear.flow.step, rel_tol=1e-9):
        raise ValueError(
            f"The ensemble was run at step {ensemble.dt:g}; the linear flow has step {linear.flow.step:g}."
        )
    if order == 2 and ensemble.level != "iteration":
        raise ValueError(
            "`order=2` corrects towards the iteration; compare the SDE with order=1, which is exact for it."
        )
    average = ensemble.average
    asked: dict[str, Any] = {"average": average, "state": bool(remembered)}
    if average is not None and ensemble.scheme == "exponential":
        raise ValueError(
            "The exponential scheme's average is of positions at its time steps, of which no law is known "
            "here. Simulate with scheme='euler', or without `average`."
        )
    # Raises Unstable where moments mean nothing: before paths are counted, as an unstable flow loses them.
    linear.covariance(time=ensemble.law, order=order, **asked)
    kept = _comparable(ensemble)
    start_mean, start_covariance = _start(ensemble.start)
    predicted = [
        linear.moments(t, start_mean, start_covariance, time=ensemble.law, order=order, **asked)
        for t in ensemble.times[kept]
    ]
    mean, covariance = (np.stack(part) for part in zip(*predicted, strict=True))
    law = f"{ensemble.law.time}, order {order}"
    law += "" if average is None else f", averaged with decay {average:g}"
    measured = _measured_tail(ensemble)
    known = _predicted_tail(linear, ensemble, measured)
    notes = _notes(linear, ensemble, _tail_notes(known, measured, ensemble.law.time))
    tails = {} if known is None else {"predicted_tail": np.array([known.value, known.error])}
    if measured is not None and not measured.light and not measured.lumps:
        tails["measured_tail"] = np.array([measured.index, measured.error])
    return Predicted(mean, covariance, law, linear.validity, notes, tails)


def _along(path: Trajectory, ensemble: Ensemble, order: int) -> Predicted:
    """Along a path: what the trajectory says at the ensemble's times."""
    if order != 1:
        raise ValueError("`order=2` is for a linear flow; a trajectory has order=1 only.")
    if ensemble.provenance.get("remembered"):
        raise ValueError(
            "A trajectory tells of positions; the ensemble's states hold what steps remember too. Simulate "
            "with state=False."
        )
    if ensemble.average is not None:
        raise ValueError(
            "The ensemble's states are averages of iterates; a trajectory tells of the iterates. Simulate "
            "without `average`, or compare with st.linearize(flow)."
        )
    _comparable(ensemble)
    rows, _ = shared(path, ensemble)
    # The largest on the way there: what a path has lost it does not find again.
    validity = float(np.max(path.validity[: rows[-1] + 1]))
    law, notes = f"{path.time} along the path", _path_notes(path, ensemble, validity)
    lost = np.flatnonzero(~(path.validity[rows] < MEANINGLESS))
    if len(lost):
        notes = (
            f"From t = {path.times[rows][lost[0]]:g} on theory's tube means nothing, nor do z-scores there: "
            "the drift is not linear across it at all (validity "
            f"{path.validity[rows][lost[0]]:.3g}). Compare earlier times, a smaller step or less noise.",
            *notes,
        )
    return Predicted(path.mean[rows], path.covariance[rows], law, validity, notes, {})


MEANINGLESS = 0.5
"""A validity indicator, which ends at about 1, from which on a tube is no approximation of anything."""


def _path_notes(path: Trajectory, ensemble: Ensemble, validity: float) -> tuple[str, ...]:
    notes = list(departure_notes(ensemble))
    if not validity < VALID:
        notes.append(
            f"The validity indicator is up to {validity:.3g}, above 0.1: the drift is not linear across the "
            "tube."
        )
    if not path.followed:
        notes.append(f"The path: {path.status.rstrip('.')}.")
    notes.extend(path.notes)
    if ensemble.scheme == "exponential":
        notes.append(
            f"Along a path the exponential scheme has the SDE's law up to O(dt) only; dt is {ensemble.dt:g}."
        )
    if path.provenance.get("flow") != ensemble.provenance.get("flow"):
        notes.append(
            f"The ensemble is of another flow than the theory: {ensemble.provenance.get('flow')} against "
            f"{path.provenance.get('flow')}."
        )
    return tuple(notes)


def _start(start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (d,) and covariance (d, d) of the starts (paths, d)."""
    dim = start.shape[1]
    if start.strides[0] == 0 or len(start) == 1:  # one point for all, as `simulate` keeps it
        return start[0], np.zeros((dim, dim))
    return start.mean(axis=0), np.cov(start.T, ddof=0).reshape(dim, dim)


def _z(gap: np.ndarray, error: np.ndarray, size: float) -> np.ndarray:
    """Gaps in standard errors; `size` is that of what was subtracted."""
    scale = np.max(np.abs(error), initial=0.0)
    with np.errstate(all="ignore"):
        z = gap / error
    # Without noise both sides are exact: agreement to rounding is z = 0, not 0/0.
    return np.where((error <= 1e-12 * scale) & (np.abs(gap) <= 1e-9 * size), 0.0, z)


def _notes(linear: LinearFlow, ensemble: Ensemble, tails: list[str]) -> tuple[str, ...]:
    notes = []
    if ensemble.conditional:
        lost = int(ensemble.diverged.sum())
        notes.append(
            f"{lost} of {len(ensemble.diverged)} paths diverged: the measured moments are conditional on the "
            "others."
        )
    if ensemble.level == "iteration" and not linear.valid:
        notes.append(
            f"The validity indicator is {linear.validity:.3g}, above 0.1: the linearised theory is not to be "
            "trusted for the iteration."
        )
    if ensemble.scheme == "exponential" and linear.flow.noise_model.has_curvature:
        notes.append(
            "Under curvature noise the exponential scheme has the SDE's law up to O(dt) only; dt is "
            f"{ensemble.dt:g}."
        )
    if linear.mean_shift.any() and ensemble.level == "iteration":
        notes.append(
            "Nested batches shift the iteration's mean: see mean_shift; order=2 has it, order=1 does not."
        )
    if linear.metric is not None:
        notes += _metric_notes(linear, ensemble)
    notes += tails
    if repr(linear.flow) != ensemble.provenance.get("flow"):
        notes.append(
            f"The ensemble is of another flow than the theory: {ensemble.provenance.get('flow')} against "
            f"{linear.flow!r}."
        )
    return tuple(notes)


def _metric_notes(linear: LinearFlow, ensemble: Ensemble) -> list[str]:
    """Where paths have another metric than the one that theory has settled on."""
    flow, notes = linear.flow, []
    dim, variances = flow.dim, np.diag(flow.noise_model.gradient_covariance(linear.at, linear.at))
    start = np.mean(ensemble.start[:1000, :dim], axis=0)
    with np.errstate(all="ignore"):
        lean = np.max(np.abs(flow.objective.gradient(start)) / np.sqrt(variances))
    if lean > LEAN:
        notes.append(
            f"Paths start where the gradient is {lean:.3g} times its noise: theory's metric is the one at "
            "the critical point. Start nearer to it, or compare times when paths have come there."
        )
    fresh = 1 - flow.method.parameters.get("beta2", 0.0)
    early = ensemble.times[ensemble.times > 0]
    if ensemble.level == "iteration" and fresh < 1 and early[0] * fresh < SETTLED * flow.step:
        notes.append(
            f"Until t = {SETTLED * flow.step / fresh:.3g} or so the running mean of squares, which starts at "
            "zero, has not settled: theory's metric is the settled one. Compare later times."
        )
    return notes


def _tail_notes(known: Estimate | None, found: TailIndex | None, time: str) -> list[str]:
    """Whether tails are so heavy that a covariance's standard error means nothing.

    It needs fourth moments. By theory, and as measured.
    """
    notes, warning = [], "standard errors of covariances, and their z, mean nothing"
    # Below 4 there is no fourth moment, of which a covariance's error is made.
    if known is not None and known.value + 2 * known.error < 4:
        what = {"continuous": "SDE", "chain": "chain", "discrete": "iteration"}[time]
        notes.append(
            f"The tail index of the {what}'s stationary law is {known.value:.3g} by theory, below 4: "
            f"{warning}."
        )
    if (
        found is not None and not found.lumps and found.index + 2 * found.error < 4
    ):  # paths in another well are no tail
        notes.append(
            f"The measured tail index is {found.index:.3g} +- {found.error:.2g} ({found.source}), below 4: "
            f"{warning}."
        )
    return notes


def _predicted_tail(linear: LinearFlow, ensemble: Ensemble, found: TailIndex | None) -> Estimate | None:
    """Of the ensemble's own law; None where it is not known, or dear and the measured tail is light."""
    if not linear._tail_is_cheap(ensemble.law) and (found is None or found.light):
        return None
    try:
        return linear.tail(ensemble.law)
    except (ArithmeticError, ValueError):  # Unstable, a quadrature that does not converge, too many modes
        return None


def _measured_tail(ensemble: Ensemble) -> TailIndex | None:
    """Of the states at the last time, or None where there are too few or they are all alike."""
    states = (
        ensemble.states[-1, ~ensemble.diverged][:TAIL_PATHS] if ensemble.states.shape[1] else np.empty((0, 1))
    )
    if len(states) < max(200, 20 * states.shape[1]) or not np.isfinite(states).all():
        return None
    try:
        return tail_index(states)
    except ValueError:  # they do not vary
        return None
