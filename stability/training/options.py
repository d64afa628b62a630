"""Options of the optimizer that users construct, the rules for the length of a step among them."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypedDict

import numpy as np

from .. import _check


class Rare(TypedDict, total=False):
    """The options of `minimize` that few runs need; described there."""

    refresh: int | None
    warm: bool
    noise_margin: float
    eigensolver: str
    coupling: str
    sampling: str
    device: Any
    dtype: str | None
    keep_every: int | None
    advise_every: int | None
    checkpoint_every: float
    check: bool
    limits: bool | None


RARE: Rare = {
    "refresh": None,
    "warm": True,
    "noise_margin": 0.0,
    "eigensolver": "block-krylov",
    "coupling": "independent",
    "sampling": "epochs",
    "device": "cpu",
    "dtype": None,
    "keep_every": None,
    "advise_every": None,
    "checkpoint_every": 60.0,
    "check": True,
    "limits": None,
}
"""Their defaults."""


@dataclass(frozen=True)
class Prospect:
    """What a step rule may ask before a step is taken.

    Attributes
    ----------
    loss : float
        Of the gradient's batch, at the iterate.
    slope : callable
        How steeply that loss falls along the direction, ``<g, p>``.
    value : callable
        That loss after a step of a length; charged.
    largest : float
        ``|lambda_1|`` as seen last; nan where no eigenvalues are kept.
    ceiling : float
        A step that the kept modes would not have borne then, each alone.
    passes : float
        Work so far.
    share : float
        What a decaying step has left of its length; 1 where none decays.
    iteration : int
        Counted from 0.
    """

    loss: float
    slope: Callable[[], float]
    value: Callable[[float], float]
    largest: float
    ceiling: float
    passes: float
    share: float
    iteration: int


class StepRule(Protocol):
    """How far to go along a direction."""

    def length(self, ahead: Prospect) -> float: ...


@dataclass(frozen=True)
class FixedStep:
    """The learning rate."""

    step: float

    def length(self, ahead: Prospect) -> float:
        return self.step * ahead.share

    def __repr__(self) -> str:
        return repr(self.step)


@dataclass(frozen=True)
class ScheduledStep:
    """A learning rate for each iteration, chosen before the run (iterations,)."""

    lengths: np.ndarray

    def length(self, ahead: Prospect) -> float:
        return float(self.lengths[ahead.iteration])

    def __repr__(self) -> str:  # what a checkpoint tells one schedule from another by
        ends = f"{self.lengths[0]:g} to {self.lengths[-1]:g} " if len(self.lengths) else ""
        return f"{len(self.lengths)} steps {ends}({zlib.crc32(self.lengths.tobytes()):08x})"


@dataclass(frozen=True)
class SpectralStep:
    """The step rule ``min(step, limit / |lambda_1|)``, from the largest curvature seen at the last refresh.

    What is seen is a Ritz value, which lies inside the spectrum: a `limit` of 2 is not cautious.

    Raises
    ------
    ValueError
        If a number is not finite and > 0.

    Examples
    --------
    >>> import stability as st
    >>> F, method = st.quadratic([4.0, 1.0]), st.LRSFN(rank=2, damping=0.1)
    >>> step = st.gallery.SpectralStep(1.0, limit=2.0)
    >>> st.minimize(F, [1.0, 1.0], method=method, step=step, iterations=2).steps
    array([0.5, 0.5])
    """

    step: float
    limit: float = 1.0

    def __post_init__(self) -> None:
        _check.positive("step", self.step)
        _check.positive("limit", self.limit)

    def length(self, ahead: Prospect) -> float:
        """The step length at an iterate."""
        length = min(self.step, self.limit / ahead.largest) if ahead.largest > 0 else self.step
        return length * ahead.share


@dataclass(frozen=True)
class Armijo:
    """Backtracking on the gradient's own batch until the loss falls by ``slope * step * <g, p>``.

    Parameters
    ----------
    step : float
        Tried first.
    shrink : float
        Factor between trials, in (0, 1).
    slope : float
        Share of the linear decrease that is asked for, in (0, 1).
    trials : int
        After so many the shortest is taken if it does not raise the loss; else none is.

    Raises
    ------
    ValueError
        If a number is outside its range.

    Examples
    --------
    >>> import stability as st
    >>> F = st.quadratic([6.0, 1.0])
    >>> st.minimize(F, [1.0, 1.0], method=st.SGD(), step=st.gallery.Armijo(), iterations=2).steps
    array([0.25, 0.25])
    """

    step: float = 1.0
    shrink: float = 0.5
    slope: float = 1e-4
    trials: int = 12

    def __post_init__(self) -> None:
        _check.positive("step", self.step)
        for name in ("shrink", "slope"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be in (0, 1); got {_check.shown(getattr(self, name))}.")
        _check.count("trials", self.trials)

    def length(self, ahead: Prospect) -> float:
        """The step length at an iterate; a schedule does not shorten what was searched for."""
        length, value = self.step, math.inf
        fall = self.slope * max(ahead.slope(), 0.0)  # uphill directions ask for no rise
        for _ in range(self.trials):
            value = ahead.value(length)
            if value <= ahead.loss - fall * length:
                return length
            length *= self.shrink
        return length / self.shrink if value <= ahead.loss else 0.0
