"""Options of the optimizer that users construct."""

from __future__ import annotations

from dataclasses import dataclass

from .. import _check


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma and Ba 2015): no spectral method, and the baseline to beat.

    Raises
    ------
    ValueError
        If a decay is not in [0, 1) or `eps` is not > 0.

    Examples
    --------
    >>> import stability as st
    >>> st.Adam()
    Adam(beta1=0.9, beta2=0.999, eps=1e-08)
    """

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self) -> None:
        for name in ("beta1", "beta2"):
            _check.fraction(name, getattr(self, name))
        _check.positive("eps", self.eps)

    @property
    def label(self) -> str:
        """How tables call it."""
        return "Adam"


@dataclass(frozen=True)
class SpectralStep:
    """The step rule ``min(step, limit / |lambda_1|)``, from the largest curvature seen at the last refresh.

    Raises
    ------
    ValueError
        If a number is not finite and > 0.
    """

    step: float
    limit: float = 1.0

    def __post_init__(self) -> None:
        _check.positive("step", self.step)
        _check.positive("limit", self.limit)


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
    """

    step: float = 1.0
    shrink: float = 0.5
    slope: float = 1e-4
    trials: int = 12

    def __post_init__(self) -> None:
        _check.positive("step", self.step)
        for name in ("shrink", "slope"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be in (0, 1); got {getattr(self, name)!r}.")
        _check.count("trials", self.trials)
