"""What the theory says of a network in training: curvature and its noise, the largest stable step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .._display import Grid, number
from .._frames import Framed
from .._saving import Result
from ..linear.kept import KeptModes
from ..lowrank.result import LowRank
from .limit import DRAWN, StepLimit

# Condition numbers from which second order was measured to win, and below which to tie.
_PAYS, _TIES = 1e4, 3e3
_EARLIER = "an earlier version saved this report."
_DETERMINISTIC = 0.05  # s / |lambda| below which gradients hardly need a stochastic method


@dataclass(frozen=True)
class Report(Result, Framed):
    """The theory at the last refresh, for one parameter group; made by `LRSFN.report`.

    Limits are those of the linearised iteration with the optimizer's momentum. Negative eigenvalues have
    none: their modes are left, not approached.

    Attributes
    ----------
    eigenvalues : array (r,)
        Of the Hessian batch, weight decay included, largest ``|lambda|`` first.
    next_eigenvalue : float
        Estimate of the first one left out, from inside the spectrum: larger ones may have been missed. nan
        where none was seen.
    std : array (r,)
        Standard deviation of each over Hessian batches, from its sub-batches; of the last refresh that had
        some where a Hessian batch is one sample; nan where samples are not known. Four sub-batches do not
        show what rare samples carry.
    gains : array (r,)
        ``phi_i``; where ``lambda_i > 0`` this is the stationary noise over SGD's at equal `lr`.
    tail_gain : float
        Off the kept eigenvectors.
    step_limits : array (r,)
        Largest mean-square-stable `lr` of each mode alone, as if it were an eigenvector of the loss and an
        independent Hessian batch were drawn at every step. No bound: modes together, and what was not kept,
        allow less.
    tail_limit : float
        The same off the kept eigenvectors, for a mode of the size of `next_eigenvalue`; nan where that is.
    lr : float
    parameters : int
    batch, hessian_batch : int or None
        Samples in the last gradient and Hessian batches; None where not known.
    steps, skipped, refreshes, products : int
        Steps taken, steps not taken because they were not finite or their curvature not symmetric,
        eigendecompositions and their Hessian products.
    failure : str
        Why the last skipped step was not taken.
    step_limit : float
        The largest stable `lr`: of all modes at once, with the metric as it stands, on the loss that was
        asked; nan where that is not known, and `unknown` says why. The lower end of its bracket: beyond the
        upper one at least one mode grows.
    deterministic_limit : float
        The same as if every step saw that loss: without batch noise, which lowers it further.
    step_limit_bracket : array (2,)
        What `deterministic_limit` lies between: its value is the lower end, below which no larger curvature
        was missed but with a probability of 0.05 (Kuczynski and Wozniakowski).
    unknown : str
        Why `step_limit` is nan.
    """

    eigenvalues: np.ndarray
    next_eigenvalue: float
    std: np.ndarray
    gains: np.ndarray
    tail_gain: float
    step_limits: np.ndarray
    tail_limit: float
    lr: float
    parameters: int
    batch: int | None
    hessian_batch: int | None
    steps: int
    skipped: int
    refreshes: int
    products: int
    failure: str = ""
    step_limit: float = math.nan
    deterministic_limit: float = math.nan
    step_limit_bracket: np.ndarray = field(default_factory=lambda: np.full(2, np.nan))
    unknown: str = ""

    @property
    def noise_ratio(self) -> np.ndarray:
        """``s_i / |lambda_i|`` (r,): above 1 the batch does not know the eigenvalue."""
        with np.errstate(divide="ignore", invalid="ignore"):
            # 0 / 0 of a flat direction without noise is no ratio that anybody would ask about.
            return np.where(self.std == 0, 0.0, self.std / np.abs(self.eigenvalues))

    @property
    def amplification(self) -> np.ndarray:
        """Stationary noise over SGD's at equal `lr`, ``phi_i`` per mode (r,); nan where ``lambda_i <= 0``."""
        return np.where(self.eigenvalues > 0, self.gains, np.nan)

    @property
    def effective_dimension(self) -> float:
        """``sum phi_i |lambda_i|`` over the kept modes: how many directions take full Newton steps."""
        return float(self.gains @ np.abs(self.eigenvalues))

    @property
    def advice(self) -> str:
        """One sentence: does second order pay here, or what would serve better."""
        sizes = np.abs(self.eigenvalues)
        # An eigenvalue below its own noise says nothing of the condition number.
        told = sizes[~(self.noise_ratio > 1)]
        smallest = told[-1] if len(told) else sizes[0]
        spread = float(sizes[0] / smallest) if smallest > 0 else math.inf
        noise = float(np.median(self.noise_ratio))
        share = self.effective_dimension / self.batch if self.batch else math.nan
        # With modes left out, or drowned in noise, what was seen is no more than a part of the spectrum.
        whole = len(told) == self.parameters
        return advice(spread, noise, share, whole)

    @property
    def _verdict(self) -> str:
        """What is known of the largest stable `lr`, and where `lr` is."""
        lower, upper = self.step_limit_bracket
        limit = f"{lower:.3g}{_apart(lower, upper)}"
        if math.isnan(self.step_limit):
            because = f"largest stable lr not known: {self.unknown or _EARLIER}"
            if math.isnan(lower):
                return because
            where = self._whereabouts("below that", "beyond even that")
            return f"{because} Of the last batch alone it would be {limit}; lr = {self.lr:.3g} is {where}."
        # Of mean losses nobody knows whether they are of the same samples at every step.
        told = "within it" if self.batch else "below it, and batch noise, if there is any, lowers it"
        return (
            f"predicted largest stable lr {limit}, if every step sees this loss; lr = {self.lr:.3g} is "
            f"{self._whereabouts(told, 'beyond it')}."
        )

    def _whereabouts(self, below: str, beyond: str) -> str:
        """Where `lr` is: below the limit's bracket, beyond it, or in it, which may show as one number."""
        lower, upper = self.step_limit_bracket
        if not lower < self.lr <= upper:
            return below if self.lr <= lower else beyond
        return "between the two" if _apart(lower, upper) else "at it"

    def _columns(self) -> Mapping[str, Any]:
        return {
            "eigenvalue": self.eigenvalues,
            "std": self.std,
            "gain": self.gains,
            "step_limit": self.step_limits,
        }

    def _page(self) -> Iterator[str | Grid]:
        count = len(self.eigenvalues)
        yield (
            f"LRSFN after {self.steps} steps ({self.skipped} skipped): {self.refreshes} refreshes, "
            f"{self.products} Hessian products, {self.parameters} parameters"
        )
        yield (
            f"curvature: {int(np.sum(self.eigenvalues > 0))} of {count} kept eigenvalues positive, next "
            f"{number(self.next_eigenvalue, '.3g')}; batches: gradient {self.batch or 'unknown'}, Hessian "
            f"{self.hessian_batch or 'unknown'}"
        )
        columns = (self.eigenvalues, self.noise_ratio, self.gains, self.step_limits)
        shown = range(count) if count <= 7 else [*range(5), count - 1]
        rows = [(str(i + 1), *(column[i] for column in columns)) for i in shown]
        rows.append(("rest", self.next_eigenvalue, None, self.tail_gain, self.tail_limit))
        numbers = (("lambda", ".3g"), ("s/|lambda|", ".2g"), ("gain", ".3g"), ("lr limit alone", ".3g"))
        yield Grid([("mode", ""), *numbers], rows)
        yield f"{self._verdict} Effective dimension {self.effective_dimension:.3g}."
        if self.failure:
            yield f"Last step not taken: {self.failure}"
        yield self.advice


def advice(spread: float, noise: float, share: float, whole: bool = False) -> str:
    """One sentence from ``|lambda_1| / |lambda_r|``, the median ``s / |lambda|`` and ``d_eff / b``.

    `whole` says that no mode was left out: else the spread is no more than a lower bound of kappa.
    """
    if math.isnan(noise):
        return (
            "The curvature's noise is not known: let the closure take `rows` and return one loss per sample."
        )
    if noise > 1:
        return (
            f"Most eigenvalues are noise (s/|lambda| = {noise:.2g}): take a larger hessian_batch, or Adam, "
            "which needs none."
        )
    if share > 1:
        return (
            f"d_eff/b = {share:.2g}: batches are too small for full Newton steps; lower lr, average the last "
            "iterates, or use Adam."
        )
    if spread < _TIES and not whole:
        return (
            f"kappa is {spread:.2g} or more: the kept modes do not tell whether it is beyond {_PAYS:g}, from "
            "where second order pays. Keep more (rank=...), or compare a run with Adam."
        )
    if spread < _TIES:
        return f"kappa is {spread:.2g}: momentum or Adam will do as well for less."
    if noise < _DETERMINISTIC:
        return (
            f"Ill-conditioned ({spread:.2g}), little noise (s/|lambda| = {noise:.2g}): L-BFGS on large "
            "batches, or whitened inputs, may serve better."
        )
    return (
        f"Ill-conditioned ({spread:.2g}): second order pays, unless curvature is aligned with the "
        "coordinates (then Adam) or inputs can be whitened."
    )


def _apart(lower: float, upper: float) -> str:
    """The other end of a bracket, where it is another."""
    return "" if f"{lower:.3g}" == f"{upper:.3g}" else f" ({upper:.3g} at most)"


def compose(
    eig: LowRank,
    modes: KeptModes,
    group: Mapping[str, Any],
    counts: Mapping[str, Any],
    limit: StepLimit,
    drawn: bool,
) -> Report:
    """A report from eigenpairs, the account of their modes, options, counts, and the limit on one loss.

    `drawn` says that steps see other losses than that one.
    """
    seen = not math.isnan(eig.next_eigenvalue)
    return Report(
        eigenvalues=eig.eigenvalues,
        next_eigenvalue=eig.next_eigenvalue,
        std=modes.hessian_sampling,
        gains=modes.gains,
        tail_gain=modes.tail_gain,
        step_limits=modes.step_limits(group["momentum"]),
        tail_limit=modes.tail_limit(group["momentum"]) if seen else math.nan,
        lr=float(group["lr"]),
        parameters=int(eig.vectors.shape[0]),
        step_limit=math.nan if drawn else limit.lower,
        deterministic_limit=limit.lower,
        step_limit_bracket=np.array([limit.lower, limit.upper]),
        unknown=DRAWN if drawn and not limit.unknown else limit.unknown,
        **counts,
    )
