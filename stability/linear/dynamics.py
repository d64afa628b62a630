"""The dynamics of a linearised flow on the modes of one frame: rates, noise, and balances of second moments.

All else that linear theory says is asked of them: which modes decay, what limits the step, where moments
settle.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from .. import _check
from .._check import Unstable
from .._display import number, settled
from ..flow import Flow
from ..methods.memory import Memory, Motion
from .frames import Frame, along_axes
from .modes import Turned, modal_noise
from .moments import Balance, Remembered

_ROUNDING = 1e-13  # a rate below this share of the largest is a flat direction


def order_of(order: Any) -> int:
    """The order in the noise, 1 or 2; ``"L"`` and ``"L2"`` are its old names."""
    if isinstance(order, str):
        order = {"L": 1, "L2": 2}.get(order, order)
    return _check.choice("order", order, (1, 2))


class Dynamics:
    """What drift and noise do to the modes of a frame at a critical point.

    Attributes
    ----------
    flow : Flow
    at : array (d,)
    frame : Frame
    noise : ModalNoise
    rates : array (d,)
        Of the modes' means, weight decay among them.
    offset : array (d,)
        Of the centre from the critical point, on the modes.
    center : array (d,)
        Where the mean is drawn.
    moved : float
        Of a metric the largest share of an entry that the iterates' own motion takes from it.
    """

    def __init__(self, flow: Flow, at: np.ndarray, frame: Frame, turned: Turned):
        self.flow, self.at, self.frame = flow, at, frame
        self.noise = modal_noise(flow, turned, frame)
        # A buffer adds up what it is given, and not what weight decay takes beside it.
        beside = self.decoupled / (1.0 if self.memory is None else self.memory.effective(1.0))
        self.rates = self.noise.rates - beside if beside else self.noise.rates
        self.offset = self._pulled_apart(beside or flow.method.weight_decay, beside)
        self.center = at + frame.vectors @ self.offset if self.offset.any() else at
        self.moved = 0.0

    def _pulled_apart(self, decay: float, decoupled: float) -> np.ndarray:
        """Of the modes (d,), where weight decay and the landscape pull alike, from the critical point."""
        if not decay or not self.at.any():
            return np.zeros(len(self.at))
        push = decay * (
            self.frame.inverse @ self.at if decoupled else self.frame.gains * (self.at @ self.frame.vectors)
        )
        if not np.all(self.rates[push != 0]):
            raise Unstable(
                f"{self.flow.method.label} has no centre here: its weight decay {decay:g} cancels a negative "
                "curvature exactly. Take another `weight_decay`."
            )
        return np.divide(push, self.rates, out=np.zeros_like(push), where=push != 0)

    @property
    def memory(self) -> Memory | None:
        """Of the flow's method: its momentum, or Adam's running mean."""
        method: Any = self.flow.method
        return method.memory if method.spectral or method.memory is not None else method.averaging

    @property
    def decoupled(self) -> float:
        """Weight decay beside the preconditioner."""
        method = self.flow.method
        return method.weight_decay if method.decoupled else 0.0

    @property
    def pull(self) -> np.ndarray:
        """``phi_i lam_i`` (d,)."""
        return -self.noise.rates

    def motion(self, step: float, dt: float) -> Motion:
        """What memory makes of a mode."""
        assert self.memory is not None
        return self.memory.motion(step, dt, self.decoupled)

    @property
    def flat(self) -> np.ndarray:
        """Modes (d,) bool whose rate is rounding of the largest."""
        rounding = 0.0 if along_axes(self.frame.vectors) else _ROUNDING
        return np.abs(self.rates) <= rounding * np.max(np.abs(self.rates))

    @functools.cached_property
    def moving(self) -> np.ndarray:
        """Modes (d,) bool that the flow moves or the noise enters.

        The others, flat directions at an interpolating minimum, never change.
        """
        flat = self.flat
        if not flat.any():
            return ~flat
        kick, one = self.noise.kick, np.eye(len(self.at))
        # A flat mode that noise enters wanders without end: leaving it out would call the flow stable.
        driven = np.diag(self.noise.additive) + (0.0 if kick is None else np.diag(kick(one)))
        return ~flat | (driven > _ROUNDING * np.max(driven))

    def decaying(self, dt: float) -> np.ndarray:
        """Modes (d,) bool whose mean decays, of those that do at small steps."""
        if self.memory is None:
            return dt * np.abs(self.rates) < 2
        return self.motion(self.flow.step, dt).stable(self.pull)

    def require_decay(self, modes: np.ndarray, what: str = "A stable step") -> None:
        """Raise unless the mean of each of these modes (d,) bool decays at small steps."""
        rates = self.rates
        growing = np.flatnonzero(((rates > 0) | self.flat) & modes)
        if len(growing):
            order = growing[np.argsort(-rates[growing])]
            listed = ", ".join(self.told(i) for i in order[:4])
            raise Unstable(
                f"{what} does not exist for {self.flow.method.name}: {len(order)} of {len(rates)} modes do "
                f"not decay: mode {listed}.",
                modes=order,
                rates=rates[order],
            )

    def known_order(self, order: int) -> int:
        """Both orders are one where no Hessian noise reaches the preconditioner."""
        if order == 2 and self.noise.bends and self.decoupled:
            raise ValueError("`order=2` is not derived with weight decay. Use order=1.")
        if order == 2 and self.noise.bends and self.memory is not None:
            raise ValueError(
                f"`order=2` is not known with momentum; got {self.flow.method!r}. Use order=1, or the method "
                "inside."
            )
        return order if self.noise.bends else 1

    @property
    def source(self) -> np.ndarray:
        """The noise's second moment (d, d) at the centre, per iteration."""
        if not self.offset.any() or self.noise.kick is None:
            return self.noise.additive
        cross = self.noise.cross
        # Away from the critical point curvature noise acts on the offset too, and adds to what the mean
        # feels.
        moved = self.noise.additive + self.noise.kick(np.outer(self.offset, self.offset))
        return moved if cross is None else moved + cross(self.offset)

    def balance(self, dt: float, order: int) -> Balance:
        """Of second moments, in the chain with time step `dt`; 0 in continuous time."""
        step, kick = self.flow.step, self.noise.kick
        if order == 2 and dt != step:
            raise ValueError(
                "`order=2` corrects towards the stochastic iteration: use it with time='discrete'."
            )
        if self.known_order(order) == 1 and self.memory is not None:
            return self.remembered(step, dt)
        if self.known_order(order) == 1:
            # Bound as a default, each map is the one it was made with, not the last of the two.
            scaled, rough = (
                None if one is None else (lambda M, one=one: step * one(M))
                for one in (kick, self.noise.rough)
            )
            return Balance(self.rates, scaled, step * self.source, dt, self.frame.gains, rough)
        drift, spread, additive = self.noise.second_order
        return Balance(drift, lambda M: step * spread(M), step * additive)

    def remembered(self, step: float, dt: float, source: np.ndarray | None = None) -> Remembered:
        """The balance of positions, with memory, for the flow at this step."""
        noise, motion = self.noise, self.motion(step, dt)
        with np.errstate(all="ignore"):  # of modes that do not decay, which are asked about first
            response = motion.response(self.pull)
        source = self.source if source is None else source
        return Remembered(
            self.rates, noise.kick, source, dt, self.frame.gains, noise.rough, response=response
        )

    @property
    def nothing(self) -> np.ndarray:
        """No source (d, d): what additive noise there is limits no step, and its law need not be known."""
        return np.zeros((len(self.at),) * 2)

    def rounded(self, values: np.ndarray) -> np.ndarray:
        """Of a spectrum (d,), what is rounding of its largest is zero."""
        # A diagonal Hessian is diagonalised exactly: its small eigenvalues are no rounding of the large.
        unit = 0.0 if along_axes(self.frame.vectors) else len(values) * np.finfo(float).eps
        return settled(values, np.max(np.abs(values), initial=0.0), unit)

    def told(self, mode: int) -> str:
        """A mode in a sentence, by its index."""
        lam, rate = self.rounded(self.frame.eigenvalues)[mode], self.rounded(self.rates)[mode]
        return f"{mode} (lambda = {number(lam)}, rate = {number(rate, '.3g')})"
