"""The advice: what it holds, and the page that a practitioner reads in ten seconds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .._display import Grid
from .._estimate import Number
from .._frames import Framed
from .._saving import Result


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
        place. It may settle at a flatter one.
    step_limit_bracket : tuple
        Lower and upper end, the same shapes: with probability `confidence` the limit lies between.
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
    group_shares : array (groups,)
        Of the leading mode, what lies in each group.
    exact : bool
        Whether all modes were taken.
    confidence : float
        Of the bracket.
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

    def _columns(self) -> Mapping[str, Any]:
        return {"curvature": self.curvatures, "step limit": self.mode_limits}

    def _page(self) -> Iterator[str | Grid]:
        yield self.label
