"""The steps that linear theory allows: of the mean, of second moments, and what sets the limit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .._check import Unstable
from .._display import Grid
from .._saving import Result
from .dynamics import Dynamics
from .memory import largest_step
from .moments import Balance, embedded
from .trust import validity


@dataclass(frozen=True)
class Limit(Result):
    """What limits the step: the leading mode of the mean-square instability and the share of each cause.

    Attributes
    ----------
    step : float
        The mean-square limit, in `step`.
    mode : int
        Index of the leading mode, in the order of ``LinearFlow.eigenvalues``.
    shares : dict
        Shares of ``curvature`` (the mean dynamics), ``gradient batch`` and ``Hessian batch`` noise, summing
        to one; the covariance of nested batches is counted with the Hessian batch and may make its share
        negative.
    """

    step: float
    mode: int
    shares: dict[str, float]

    def _page(self) -> Iterator[str | Grid]:
        yield f"largest mean-square-stable step {self.step:.6g}, set by mode {self.mode}"
        shares = sorted(self.shares.items(), key=lambda pair: (-pair[1], pair[0]))
        yield Grid([("cause", ""), ("share", ".3g")], shares)

    @property
    def cause(self) -> str:
        """The largest share's name."""
        return max(self.shares, key=lambda name: self.shares[name])


class Limits:
    """What a flow's step must stay below, on the modes of its dynamics; searched for once.

    Parameters
    ----------
    dynamics : Dynamics
    """

    def __init__(self, dynamics: Dynamics):
        self.dynamics = dynamics
        self._found: dict[int, tuple[float, np.ndarray]] = {}

    def mean(self) -> float:
        """Of the mean, ``2 / max|a_i|``, or with momentum its own."""
        here = self.dynamics
        here.require_decay(here.moving)
        fastest = float(np.max(np.abs(here.rates)))
        if fastest > 0 and here.memory is not None:
            moving = here.moving & (here.rates != 0)
            return float(np.min(here.memory.mean_limit(here.pull[moving], here.decoupled)))
        return 2 / fastest if fastest > 0 else math.inf

    def mean_square(self, order: int) -> tuple[float, np.ndarray]:
        """Of the second moment, and its leading matrix (d, d)."""
        order = self.dynamics.known_order(order)
        if order not in self._found:
            self._found[order] = self._search(order)
        return self._found[order]

    def _search(self, order: int) -> tuple[float, np.ndarray]:
        here, moving = self.dynamics, self.dynamics.moving
        here.require_decay(moving)
        if not moving.any():  # nothing moves at any step
            return math.inf, np.zeros((len(moving),) * 2)
        if here.memory is not None:
            return self._search_with_memory()
        balance = (
            Balance(here.rates, here.noise.kick, here.nothing, 1.0, here.frame.gains, here.noise.rough)
            if order == 1
            else Balance(*here.noise.second_order)
        )
        if not moving.all():
            balance = balance.restricted(moving)
        _require_drift(here, balance, "A stable step")
        near = here.noise.turned.nearest(here.frame.gains)
        # In units of the step both drift and noise are in proportion to it: the radius at any step is the
        # step times that at 1, and the limit one over it. The matrices that lead methods at one point are
        # alike: a search begins at the most similar method's.
        radius, leading = balance.radius(None if near is None else near[np.ix_(moving, moving)])
        leading = embedded(leading, moving)
        if balance.rough is not None:
            here.noise.turned.lead(here.frame.gains, leading)
        return (1 / radius if radius > 0 else math.inf), leading

    def _search_with_memory(self) -> tuple[float, np.ndarray]:
        """`_search` with memory, where the radius is no multiple of the step."""
        here = self.dynamics
        assert here.memory is not None
        moving, near = here.moving, here.noise.turned.nearest(here.frame.gains)

        def balance(step: float) -> Balance:
            return here.remembered(step, step, here.nothing).restricted(moving)

        start = None if near is None else near[np.ix_(moving, moving)]
        limits = here.memory.mean_limit(here.pull[moving], here.decoupled)
        step, leading = largest_step(limits, balance, start)
        return step, embedded(leading, moving)

    def require(self, balance: Balance, dt: float, order: int, what: str, modes: np.ndarray) -> None:
        """Raise unless the chain with time step `dt` settles on these modes (d,) bool."""
        here = self.dynamics
        _require_drift(here, balance, what)
        here.require_decay(modes, what)
        fast = np.flatnonzero(~here.decaying(dt) & modes)
        if len(fast):
            beyond = f"the step {dt:.4g} is beyond the mean limit {self.mean():.4g}"
            if here.memory is not None and dt != here.flow.step:
                beyond = f"the chain's time step {dt:.4g} is too long"
            raise Unstable(
                f"{what} does not exist for {here.flow.method.name}: {beyond}, "
                f"set by mode {here.told(fast[0])}.",
                modes=fast,
                rates=here.rates[fast],
            )
        radius, leading = self._radius(balance, dt, order)
        if radius >= 1:
            mode = int(np.flatnonzero(modes)[np.argmax(np.diag(leading))])
            raise Unstable(
                f"{what} does not exist for {here.flow.method.name}: the noise's second-moment map has "
                f"relative radius {radius:.4g} >= 1 at "
                f"step {here.flow.step:.4g}, led by mode {here.told(mode)}. "
                "Take a smaller step, larger batches, more damping or less momentum.",
                modes=[mode],
                rates=[here.rates[mode]],
            )

    def _radius(self, balance: Balance, dt: float, order: int) -> tuple[float, np.ndarray]:
        """Of the balance of moving modes: where it is the iteration's own, the step over its limit."""
        here = self.dynamics
        if dt != here.flow.step or here.memory is not None:
            return balance.radius()
        limit, leading = self.mean_square(order)
        return here.flow.step / limit, leading[np.ix_(here.moving, here.moving)]

    def told(self) -> Limit:
        """`mean_square` with its leading mode and the share of each cause; see `LinearFlow.limit`."""
        here = self.dynamics
        step, leading = self.mean_square(1)
        square, other = self._decay_spent(step, np.diag(leading))
        gradient = hessian = 0.0
        if here.noise.kick is not None:
            gradient = here.noise.gradient_share(leading)
            hessian = self._kicked(step, leading) - gradient if here.noise.bends else 0.0
        # With memory the noise is amplified too: what curvature leaves of the decay is what both batches'
        # noise spends at the limit, each in proportion to what it adds.
        if other is not None and gradient + hessian > 0:
            gradient, hessian = (share * other / (gradient + hessian) for share in (gradient, hessian))
        whole = square + gradient + hessian or 1.0
        shares = {
            "curvature": square / whole,
            "gradient batch": gradient / whole,
            "Hessian batch": hessian / whole,
        }
        return Limit(step, int(np.argmax(np.diag(leading))), shares)

    def _kicked(self, step: float, leading: np.ndarray) -> float:
        """Trace of the noise's map at its leading matrix (d, d)."""
        here = self.dynamics
        kick = here.noise.rough or here.noise.kick
        assert kick is not None
        if here.noise.rough is None or here.memory is not None:
            return float(np.trace(kick(leading)))
        # Where the map is dear: at the limit the leading matrix decays as much as the map feeds it, to the
        # few digits to which shares are read.
        return float(np.sum((-2 * here.rates / step - here.rates**2) * np.diag(leading)))

    def _decay_spent(self, step: float, leading: np.ndarray) -> tuple[float, float | None]:
        """What of the decay of modes (d,) a finite step takes, and what is left where memory changes it."""
        here = self.dynamics
        if here.memory is None:
            return float(np.sum(here.rates**2 * leading)), None
        if step == math.inf:  # nothing moves
            return 0.0, None
        decay = -2 * here.rates / here.memory.effective(step) * leading
        with np.errstate(divide="ignore"):
            share = step / here.memory.mean_limit(here.pull, here.decoupled)
        return float(np.sum(decay * share)), float(np.sum(decay * (1 - share)))


def _require_drift(here: Dynamics, balance: Balance, what: str) -> None:
    """Raise where the second-order correction turns the drift around."""
    if balance.drift.ndim == 1:
        return
    fastest = float(np.max(np.real(np.linalg.eigvals(balance.drift))))
    if fastest >= 0:
        raise Unstable(
            f"{what} does not exist for {here.flow.method.name} at order 2: the second-order "
            "correction is larger than the drift itself "
            f"(its fastest direction grows at rate {fastest:.3g}; validity {validity(here):.3g}). Use "
            "larger Hessian batches or more damping.",
            rates=[fastest],
        )
