"""What the theory says of a network in training: curvature and its noise, the largest stable step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._display import Grid, number
from .._frames import Framed
from .._saving import Result
from ..linear.kept import KeptModes
from ..lowrank.result import LowRank

# Condition numbers from which second order was measured to win, and below which to tie.
_PAYS, _TIES = 1e4, 3e3
_DETERMINISTIC = 0.05  # s / |lambda| below which gradients hardly need a stochastic method


@dataclass(frozen=True)
class Report(Result, Framed):
    """The theory at the last refresh, for one parameter group; made by `LRSFN.report`.

    The limits are those of the linearised iteration, one mode at a time, with the optimizer's momentum, as if
    an independent Hessian batch were drawn at every step. Negative eigenvalues have none: their modes are
    left, not approached.

    Attributes
    ----------
    eigenvalues : array (r,)
        Of the Hessian batch, weight decay included, largest ``|lambda|`` first.
    next_eigenvalue : float
        Estimate of the first one left out; nan where none was seen.
    std : array (r,)
        Standard deviation of each over Hessian batches, from its sub-batches; of the last refresh that had
        some where a Hessian batch is one sample; nan where samples are not known.
    gains : array (r,)
        ``phi_i``; where ``lambda_i > 0`` this is the stationary noise over SGD's at equal `lr`.
    tail_gain : float
        Off the kept eigenvectors.
    step_limits : array (r,)
        Largest mean-square-stable `lr` per mode.
    tail_limit : float
        The same off the kept eigenvectors, for a mode of the size of `next_eigenvalue`; where that is nan, of
        the last kept one's.
    lr : float
    parameters : int
    batch, hessian_batch : int or None
        Samples in the last gradient and Hessian batches; None where not known.
    steps, skipped, refreshes, products : int
        Steps taken, steps not taken because they were not finite or their curvature not symmetric,
        eigendecompositions and their Hessian products.
    failure : str
        Why the last skipped step was not taken.
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

    @property
    def step_limit(self) -> float:
        """The predicted largest stable `lr`: the smallest limit of all modes."""
        return float(min(np.min(self.step_limits), self.tail_limit))

    @property
    def noise_ratio(self) -> np.ndarray:
        """``s_i / |lambda_i|`` (r,): above 1 the batch does not know the eigenvalue."""
        with np.errstate(divide="ignore", invalid="ignore"):
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
        return advice(spread, noise, share)

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
            f"{number(self.next_eigenvalue, '.3g')}; "
            f"batches: gradient {self.batch or 'unknown'}, Hessian {self.hessian_batch or 'unknown'}"
        )
        columns = (self.eigenvalues, self.noise_ratio, self.gains, self.step_limits)
        shown = range(count) if count <= 7 else [*range(5), count - 1]
        rows = [(str(i + 1), *(column[i] for column in columns)) for i in shown]
        rows.append(("rest", self.next_eigenvalue, None, self.tail_gain, self.tail_limit))
        numbers = (("lambda", ".3g"), ("s/|lambda|", ".2g"), ("gain", ".3g"), ("largest lr", ".3g"))
        yield Grid([("mode", ""), *numbers], rows)
        verdict = "beyond it" if self.lr > self.step_limit else "within it"
        yield (
            f"predicted largest stable lr {self.step_limit:.3g}; lr = {self.lr:.3g} is {verdict}. Effective "
            f"dimension {self.effective_dimension:.3g}."
        )
        if self.failure:
            yield f"Last step not taken: {self.failure}"
        yield self.advice


def advice(spread: float, noise: float, share: float) -> str:
    """One sentence from ``|lambda_1| / |lambda_r|``, the median ``s / |lambda|`` and ``d_eff / b``."""
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
    if spread < _TIES:
        return (
            f"The kept spectrum spans only {spread:.2g}: momentum or Adam will do as well for less, unless a "
            f"larger rank shows kappa > {_PAYS:g}."
        )
    if noise < _DETERMINISTIC:
        return (
            f"Ill-conditioned ({spread:.2g}), little noise (s/|lambda| = {noise:.2g}): L-BFGS on large "
            "batches, or whitened inputs, may serve better."
        )
    return (
        f"Ill-conditioned ({spread:.2g}): second order pays, unless curvature is aligned with the "
        "coordinates (then Adam) or inputs can be whitened."
    )


def compose(
    eig: LowRank,
    modes: KeptModes,
    group: Mapping[str, Any],
    counts: Mapping[str, Any],
) -> Report:
    """A report from the eigenpairs, the account of their modes, the options and what was counted."""
    return Report(
        eigenvalues=eig.eigenvalues,
        next_eigenvalue=eig.next_eigenvalue,
        std=modes.hessian_sampling,
        gains=modes.gains,
        tail_gain=modes.tail_gain,
        step_limits=modes.step_limits(group["momentum"]),
        tail_limit=modes.tail_limit(group["momentum"]),
        lr=float(group["lr"]),
        parameters=int(eig.vectors.shape[0]),
        **counts,
    )
