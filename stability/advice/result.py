"""The advice: what it holds, and the page that a practitioner reads in ten seconds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .._display import Grid, number
from .._estimate import Number
from .._frames import Framed
from .._saving import Result, jsonable
from .optimizer import Optimizer

INTERRUPTED = "Interrupted: what was not reached is not known."
"""The note on advice that Ctrl-C cut short."""
CARRIES = 0.5
"""A sample's share in the limit's noise from which on the limit is told without it too."""
ESTIMATES = ("noise_floor", "drop", "critical_batch", "batch_sharpness", "noise_exponent")


@dataclass(frozen=True)
class Advice(Result, Framed):
    """How large a step may be here, and what noise costs; made by `advise`.

    Steps are learning rates. With several parameter groups those that differ are arrays (groups,), and all of
    them are scaled together. What is not known is nan, and `reasons` says why.

    Attributes
    ----------
    label : str
        The optimizer.
    step : float or array (groups,)
        In use.
    batch : int
    step_limit : float or array (groups,)
        The largest mean-square-stable step of the linearised iteration: beyond it the iterate leaves this
        place. It may settle at a flatter one. A metric that follows gradients, as Adam's, is held as it
        stands.
    step_limit_bracket : tuple
        Lower and upper end, the same shapes. Where all samples are looked at the limit is no larger than the
        upper end, that of a few directions alone, but where Nesterov's memory or curvature that is not
        positive make that an estimate too. The lower end is an estimate, made wide: as if the noise of what
        was not looked at all lay along one direction, and where Gauss-Newton curvature stands in for single
        samples', as if several times what it was seen to miss were missing. Of some of the samples both ends
        are estimates.
    deterministic_limit : float or array (groups,)
        The same without batch noise.
    share : float
        The step in use over the limit.
    noise_floor, drop : Number
        Expected excess loss from noise after `horizon` iterations at this step, and what of it goes when
        the step is divided by ten.
    critical_batch : Number
        Of the optimizer's own metric: at this batch noise halves the best single step.
    best_step : float
        The step that lowers the loss most in one iteration at this batch.
    sharpness, preconditioned_sharpness : float
        The Hessian's largest eigenvalue, and that of ``S H S``.
    batch_sharpness : Number
        ``E[g^T P H P g] / E[g^T P g]`` over batches with their own Hessians.
    noise_exponent : Number
        ``g`` of ``Sigma ~ H^g`` in the metric's coordinates.
    curvatures, mode_limits : arrays (k,)
        Of the leading modes of ``S H S``, and the steps that each of them would allow by itself.
    batches, batch_limits : arrays
        The limit at other batch sizes, as multiples of the step in use.
    sample_share : float
        Of the curvature noise that sets the limit, what the heaviest sample carries.
    limit_without_heaviest : float or array (groups,)
        Where that is more than half: the limit of the other samples alone, in the same metric. A run that
        does not meet the heaviest one keeps to it. nan elsewhere, and of a method whose gains follow a
        spectrum that single samples turn; infinite where the others have no curvature.
    group_shares : array (groups,)
        Of the leading mode, what lies in each group.
    exact : bool
        Whether all modes were taken.
    confidence : float
        Probability that the limit lies in the bracket: 1 where all modes were taken, Lanczos' bound's where
        noise is none of it; nan where an end is an estimate.
    horizon : int
    samples, population, parameters : int
    reasons : dict
        Why a number is nan, by name.
    notes : tuple of str
        What was assumed.
    stats : dict
        Work in gradients of all looked-at samples, products, seconds.
    """

    label: str
    step: Any
    batch: float
    step_limit: Any
    step_limit_bracket: tuple[Any, Any]
    deterministic_limit: Any
    share: float
    estimates: Mapping[str, tuple[float, float]]
    best_step: float
    sharpness: float
    preconditioned_sharpness: float
    curvatures: np.ndarray
    mode_limits: np.ndarray
    batches: np.ndarray
    batch_limits: np.ndarray
    sample_share: float
    group_shares: np.ndarray
    exact: bool
    confidence: float
    horizon: float
    samples: int
    population: int
    parameters: int
    limit_without_heaviest: Any = math.nan
    reasons: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    stats: Mapping[str, float] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def _number(self, name: str) -> Number:
        return Number(*self.estimates.get(name, (np.nan, np.nan)), self.reasons.get(name, ""))

    @property
    def noise_floor(self) -> Number:
        """Expected excess loss from noise at this step."""
        return self._number("noise_floor")

    @property
    def drop(self) -> Number:
        """What of it goes when the step is divided by ten."""
        return self._number("drop")

    @property
    def critical_batch(self) -> Number:
        """The batch at which noise halves the best single step."""
        return self._number("critical_batch")

    @property
    def batch_sharpness(self) -> Number:
        """The curvature that batches' gradients see along themselves."""
        return self._number("batch_sharpness")

    @property
    def noise_exponent(self) -> Number:
        """``g`` of ``Sigma ~ H^g``."""
        return self._number("noise_exponent")

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C cut it short."""
        return INTERRUPTED in self.notes

    def to_json(self) -> dict[str, Any]:
        """Strict-JSON values: nan is null, infinity the string "inf"."""
        found = {name: value for name, value in vars(self).items() if name != "estimates"}
        numbers = {name: self._number(name) for name in ESTIMATES}
        errors = {f"{name}_error": each.error for name, each in numbers.items()}
        values = {name: float(each) for name, each in numbers.items()}
        return jsonable({"advice": self.sentence, **found, **values, **errors})

    def _columns(self) -> Mapping[str, Any]:
        return {"curvature": self.curvatures, "step limit": self.mode_limits}

    @property
    def sentence(self) -> str:
        """The advice in a sentence."""
        head = f"{self.label}: {self._name} {_listed(self.step)}"
        if math.isnan(self.share):
            why = self.reasons.get("step_limit", "")
            return f"{head}: the largest stable one is not known{', ' if why else ''}{why}"
        several = len(np.unique(self.step)) > 1
        compared = f"{self.share:.2g} of" if self.share <= 1 else f"{self.share:.2g} times"
        limits = _listed(self.step_limit)
        if not np.allclose(self.step_limit, self.deterministic_limit, rtol=1e-6):
            limits += f"; {_listed(self.deterministic_limit)} without batch noise"
        verb, what = ("are", "the largest stable ones") if several else ("is", "the largest stable one")
        text = f"{head} {verb} {compared} {what} ({limits})"
        larger = np.flatnonzero(self.batches > self.batch)
        if len(larger):
            chosen = larger[min(1, len(larger) - 1)]
            allowed = np.max(self.step) * self.batch_limits[chosen]
            if allowed > 1.05 * np.max(self.step_limit):
                return f"{text}; batches of {self.batches[chosen]:g} would allow {allowed:.2g}"
            return f"{text}; larger batches would hardly allow more"
        return text

    @property
    def _name(self) -> str:
        return "lrs" if len(np.unique(self.step)) > 1 else "lr"

    def _page(self) -> Iterator[str | Grid]:
        yield self.sentence + "."
        yield Grid([("", ""), ("value", ".3g"), ("+-", ".2g"), ("", "")], self._rows())
        if self.share > 1:
            yield "Beyond the limit the iterate leaves this place: for a flatter one, or for good."
        elif self.share == self.share:
            yield "Beyond the limit the iterate leaves this place; it may settle at a flatter one."
        if self.sample_share > CARRIES:
            yield from self._heaviest()
        yield from self.notes

    @property
    def _carried(self) -> bool:
        """Whether the limit is told without its heaviest sample too."""
        return bool(np.all(np.isfinite(self.limit_without_heaviest)))

    def _heaviest(self) -> Iterator[str]:
        """What one sample's weight means for runs, and for the samples that were not looked at."""
        if self._carried:
            yield (
                f"One sample carries {self.sample_share:.0%} of the noise that sets the limit: its rare "
                "visits make second moments grow, and runs without one keep to what the others alone allow, "
                f"{_listed(self.limit_without_heaviest)}."
            )
        if self.samples < self.population < math.inf:
            yield (
                f"Of {self.population} samples {self.samples} were looked at; others may weigh as much. Look "
                f"at all of them: samples={self.population}."
            )

    def _rows(self) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = [
            ("largest stable step", np.max(self.step_limit), None, self._between),
            ("... without batch noise", np.max(self.deterministic_limit), None, ""),
        ]
        if self.sample_share == self.sample_share:
            rows.append(("share of the heaviest sample", self.sample_share, None, "in the limit's noise"))
        if self._carried:
            rows.insert(2, ("... without the heaviest sample", np.max(self.limit_without_heaviest), None, ""))
        rows += [
            self._row("noise floor of the loss", self.noise_floor, f"after {self.horizon:g} iterations"),
            self._row("... less at a tenth of the step", self.drop, ""),
            self._row("critical batch", self.critical_batch, f"in use {self.batch:g}"),
            ("sharpness", self.sharpness, None, self._sharply),
        ]
        if not np.isclose(self.preconditioned_sharpness, self.sharpness, rtol=1e-6):
            rows.append(("... in the metric", self.preconditioned_sharpness, None, ""))
        rows += [
            self._row("batch sharpness", self.batch_sharpness, ""),
            self._row("noise exponent", self.noise_exponent, "of Sigma ~ H^g"),
        ]
        return rows

    @property
    def _sharply(self) -> str:
        """What is said beside the sharpness: Lanczos' values lie inside the spectrum."""
        known = self.exact or math.isnan(self.sharpness)
        return self.reasons.get("sharpness", "" if known else "at least")

    @property
    def _between(self) -> str:
        """The bracket in words."""
        if self.exact:
            return "all modes"
        low, high = (np.max(end) for end in self.step_limit_bracket)
        if math.isnan(low):
            return ""
        known = "estimated" if math.isnan(self.confidence) else f"with probability {self.confidence:g}"
        return f"{number(low, '.3g')} to {number(high, '.3g')}, {known}"

    def _row(self, name: str, found: Number, told: str) -> tuple[Any, ...]:
        reason = found.reason if not math.isfinite(found) or not told else ""
        return name, float(found), found.error or None, reason or told


def _listed(values: Any) -> str:
    """One number, or those of all groups."""
    each = [f"{value:.2g}" for value in np.atleast_1d(values)]
    return ", ".join(dict.fromkeys(each) if len(set(each)) == 1 else each)


def told(
    optimizer: Optimizer,
    found: Mapping[str, Any],
    estimates: Mapping[str, tuple[float, float]],
    *,
    reasons: Mapping[str, str],
    notes: Sequence[str],
    batch: float,
    **about: Any,
) -> Advice:
    """The advice made of what was found; limits are of the largest learning rate.

    What was not found is nan.
    """
    steps = np.array(optimizer.steps)
    several = len(steps) > 1

    def of_groups(limit: float) -> Any:
        return limit * optimizer.ratios if several else float(limit)

    def known(name: str) -> float:
        return float(found.get(name, math.nan))

    lower, upper = found.get("step_limit_bracket", (math.nan, math.nan))
    nothing = np.zeros(0)
    curvatures = np.asarray(found.get("curvatures", nothing))
    share = optimizer.step / known("step_limit") if known("step_limit") else math.inf
    return Advice(
        label=optimizer.label,
        step=steps if several else float(steps[0]),
        batch=batch,
        step_limit=of_groups(known("step_limit")),
        step_limit_bracket=(of_groups(lower), of_groups(upper)),
        deterministic_limit=of_groups(known("deterministic_limit")),
        share=share,
        estimates={name: (float(value), float(error)) for name, (value, error) in estimates.items()},
        best_step=known("best_step"),
        sharpness=known("sharpness"),
        preconditioned_sharpness=known("preconditioned_sharpness"),
        curvatures=curvatures,
        mode_limits=np.asarray(
            found.get("mode_limits", np.full_like(found.get("curvatures", nothing), np.nan))
        ),
        batches=np.asarray(found.get("batches", nothing), dtype=float),
        batch_limits=np.asarray(found.get("batch_limits", nothing), dtype=float),
        sample_share=known("sample_share"),
        limit_without_heaviest=of_groups(known("limit_without_heaviest")),
        group_shares=np.asarray(found.get("group_shares", np.ones(1))),
        exact=bool(found.get("exact", False)),
        confidence=known("confidence"),
        reasons={name: reason for name, reason in reasons.items() if reason},
        notes=tuple(dict.fromkeys(notes)),
        **about,
    )
