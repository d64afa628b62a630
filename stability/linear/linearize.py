"""Linearised theory at a critical point: rates, covariances, step limits, and when to trust them.

At first order (``order=1``, level L of the notes) it is linear in the noise and exact for the Euler-Maruyama
chain. At second (``order=2``, level L2) it keeps the second order of
``P(H + Eh)`` too, in drift and noise: it corrects L towards the stochastic iteration. All of it is computed
on the modes of `stability.linear.frames`, where the drift ``A = -P H`` is diagonal.
"""

from __future__ import annotations

import bisect
import copy
import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import _check
from .._check import Unstable
from .._display import Grid, number, settled, shortened
from .._estimate import Estimate
from .._frames import Framed
from .._law import Law, law_of
from .._saving import Result, keeps
from ..flow import Flow
from ..methods.memory import Memory, Motion
from ..methods.method import Method
from ..methods.metrics import GradientLaw
from ..methods.response import jumps
from ..noise import DataNoise, Noise
from ..objectives.base import bend, defines, trait
from .adaptive import QUIET, quiet_coordinates, settled_metric
from .frames import Frame, along_axes
from .memory import Course, largest_step, pairs_of, whole
from .modes import Turned, modal_noise
from .moments import Balance, Map, Remembered, evolve
from .tail import Products, Untold, tail

VALID = 0.1
"""The linearisation is trusted where the validity indicator is below this."""
MOST_SAMPLES = 2**53
"""Largest batch that is looked for where samples are without end."""
MOST_STEPS = 1e15
"""Time steps whose number still is a whole one where a time is divided by them."""
_MATRICES = 45  # as large as the Hessian, that a search for a second moment holds at once
_ROUNDING = 1e-13  # a rate below this share of the largest is a flat direction
CRITICAL = 1e-6
"""Of the problem's own sizes: a smaller gradient vanishes."""


def order_of(order: Any) -> int:
    """The order in the noise, 1 or 2; ``"L"`` and ``"L2"`` are its old names."""
    if isinstance(order, str):
        order = {"L": 1, "L2": 2}.get(order, order)
    return _check.choice("order", order, (1, 2))


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


class LinearFlow(Result, Framed):
    """A flow linearised at a critical point; made by `linearize`.

    Attributes
    ----------
    at : array (d,)
    eigenvalues : array (d,)
        Of the Hessian, largest ``|lam|`` first; for a metric the curvatures ``v^T H v`` along its modes.
    vectors : array (d, d)
        The modes, as columns of unit length: the Hessian's eigenvectors, or for a metric those of ``P H``.
    gains : array (d,)
        ``phi_i`` in ``P = sum_i phi_i v_i v_i^T``.
    rates : array (d,)
        ``a_i = -phi_i lam_i - weight_decay``, per unit of ``t = iteration * step``; with momentum the rates
        of the force that its buffer adds up, so that the last is ``(1 - beta) weight_decay``.
    metric : array (d,) or None
        The diagonal of P, of a method whose metric follows the noise; as it has settled in the iteration.
        `covariance`, `excess_risk` and `moments` of other laws are of the metric settled in theirs.
    center : array (d,)
        Where the mean is drawn: `at`, unless weight decay moves it.
    """

    def __init__(
        self,
        flow: Flow,
        at: np.ndarray,
        eigenvalues: np.ndarray,
        vectors: np.ndarray,
        turned: Turned | None = None,
    ):
        self.flow, self.at = flow, at
        self._spectrum = eigenvalues, vectors  # of the Hessian
        self._turned = Turned(flow.noise_model, at, vectors) if turned is None else turned
        self._laws: dict[float, LinearFlow] = {}
        if flow.method.spectral:
            self._take(Frame.spectral(flow.method, eigenvalues, vectors), self._turned)
        else:
            self._settle(flow.step)

    def _take(self, frame: Frame, turned: Turned) -> None:
        """Work on the modes of this frame, with the noise turned to them."""
        self._frame, self._noise = frame, modal_noise(self.flow, turned, frame)
        self.eigenvalues, self.vectors, self.gains = frame.eigenvalues, frame.vectors, frame.gains
        self.metric = frame.metric
        method = self.flow.method
        # A buffer adds up what it is given, and not what weight decay takes beside it.
        beside = self._decoupled / (1.0 if self.memory is None else self.memory.effective(1.0))
        self.rates = self._noise.rates - beside if beside else self._noise.rates
        self._offset = self._pulled_apart(beside or method.weight_decay, beside)
        self.center = self.at + self.vectors @ self._offset if self._offset.any() else self.at
        self._limits: dict[int, tuple[float, np.ndarray]] = {}
        self.__dict__.pop("_moving", None)

    def _pulled_apart(self, decay: float, decoupled: float) -> np.ndarray:
        """Of the modes (d,), where weight decay and the landscape pull alike, from the critical point."""
        if not decay or not self.at.any():
            return np.zeros(len(self.at))
        push = decay * (self._frame.inverse @ self.at if decoupled else self.gains * (self.at @ self.vectors))
        if not np.all(self.rates[push != 0]):
            raise Unstable(
                f"{self.flow.method.label} has no centre here: its weight decay {decay:g} cancels a negative "
                "curvature exactly. Take another `weight_decay`."
            )
        return np.divide(push, self.rates, out=np.zeros_like(push), where=push != 0)

    def _along(self, dt: float) -> LinearFlow:
        """This flow in the chain with time step `dt`: a metric that follows the iterates differs in each."""
        if dt == self.flow.step or not self._adapts:
            return self
        if dt not in self._laws:
            other = copy.copy(self)
            other._settle(dt)
            self._laws[dt] = other
        return self._laws[dt]

    def _settle(self, dt: float) -> None:
        """Work on the modes of a metric, as it is in the chain with time step `dt`."""
        method: Any = self.flow.method
        noise, (values, vectors) = self.flow.noise_model, self._spectrum
        hessian = (vectors * values) @ vectors.T
        if not method.decoupled:
            hessian = hessian + method.weight_decay * np.eye(len(values))
        covariance = noise.gradient_covariance(self.at, self.at)
        variances = GradientLaw(covariance).variances

        def squares(metric: np.ndarray) -> np.ndarray | None:
            frame = Frame.diagonal(metric, hessian)
            self._take(frame, Turned(noise, self.at, frame.vectors, skew=True))
            return self._squares(dt)

        pull = self.flow.step * float(np.max(np.abs(values)))
        if method.linear:
            found = squares(settled_metric(method, variances, squares, pull))
        else:
            quiet = variances <= QUIET * np.max(variances)
            if quiet.any():
                raise quiet_coordinates(method, quiet, pull)
            noise = Noise(gradient=method.kicks(covariance))
            found = squares(method.scale(variances))
            found = None if found is None else found - np.diag(noise.gradient) + variances
        with np.errstate(divide="ignore"):  # without noise of its own a coordinate's entry may be infinite
            still = method.scale(variances)
        self._bent_by_motion = 1.0 if found is None else float(np.max(1 - method.scale(found) / still))

    def _squares(self, dt: float) -> np.ndarray | None:
        """Mean squares (d,) of a batch's gradient entries in the stationary state; None where there is none.

        At a saddle they are those of the noise at the point.
        """
        decaying = ~self._flat
        M = np.zeros((len(self.at),) * 2)
        if decaying.any() and not (self.rates[decaying] > 0).any():
            balance = self._balance(dt, 1).restricted(decaying)
            if not self._decaying(dt)[decaying].all() or not balance.radius()[0] < 1:
                return None
            M = _embedded(balance.stationary(), decaying)
        kick, gain, lam = self._noise.kick, np.outer(self.gains, self.gains), self.eigenvalues
        seen = (self._source if kick is None else self._source + kick(M)) / gain
        if self.flow.method.decoupled:
            M = M + np.outer(self._offset, self._offset)
        seen = seen + lam[:, None] * M * lam
        return np.einsum("ki,kl,li->i", self._frame.inverse, seen, self._frame.inverse)

    @property
    def _adapts(self) -> bool:
        """Whether the metric follows the iterates' own motion."""
        method: Any = self.flow.method
        return not method.spectral and method.linear

    def under(self, method: Method) -> LinearFlow:
        """The same point with another method: the spectrum, and the noise in its basis, are found once.

        Raises
        ------
        ValueError
            If the method's gain is singular here, or its rank exceeds the dimension.
        """
        flow = Flow(self.flow.objective, method, self.flow.noise_model, step=self.flow.step)
        return LinearFlow(flow, self.at, *self._spectrum, self._turned)

    # -- balances --------------------------------------------------------------------------------------------

    def _balance(self, dt: float, order: int) -> Balance:
        step, kick = self.flow.step, self._noise.kick
        if order == 2 and dt != step:
            raise ValueError(
                "`order=2` corrects towards the stochastic iteration: use it with time='discrete'."
            )
        if self._order(order) == 1 and self.memory is not None:
            return self._remembered(step, dt)
        if self._order(order) == 1:
            scaled, rough = (
                None if one is None else (lambda M, one=one: step * one(M))
                for one in (kick, self._noise.rough)
            )
            return Balance(self.rates, scaled, step * self._source, dt, self.gains, rough)
        drift, spread, additive = self._noise.second_order
        return Balance(drift, lambda M: step * spread(M), step * additive)

    @property
    def kick(self) -> Map | None:
        """``M -> E[G M G^T]`` of second moments on the modes; None without curvature noise."""
        return self._noise.kick

    @property
    def _source(self) -> np.ndarray:
        """The noise's second moment (d, d) at the centre, per iteration."""
        if not self._offset.any() or self._noise.kick is None:
            return self._noise.additive
        cross = self._noise.cross
        moved = self._noise.additive + self._noise.kick(np.outer(self._offset, self._offset))
        return moved if cross is None else moved + cross(self._offset)

    def _order(self, order: int) -> int:
        """Both orders are one where no Hessian noise reaches the preconditioner."""
        if order == 2 and self._noise.bends and self._decoupled:
            raise ValueError("`order=2` is not derived with weight decay. Use order=1.")
        if order == 2 and self._noise.bends and self.memory is not None:
            raise ValueError(
                f"`order=2` is not known with momentum; got {self.flow.method!r}. Use order=1, or the method "
                "inside."
            )
        return order if self._noise.bends else 1

    @property
    def memory(self) -> Memory | None:
        """Of the flow's method: its momentum, or Adam's running mean."""
        method: Any = self.flow.method
        return method.memory if method.spectral or method.memory is not None else method.averaging

    def _motion(self, step: float, dt: float) -> Motion:
        """What memory makes of a mode."""
        assert self.memory is not None
        return self.memory.motion(step, dt, self._decoupled)

    @property
    def _decoupled(self) -> float:
        """Weight decay beside the preconditioner."""
        method = self.flow.method
        return method.weight_decay if method.decoupled else 0.0

    @property
    def _pull(self) -> np.ndarray:
        """``phi_i lam_i`` (d,)."""
        return -self._noise.rates

    def _remembered(self, step: float, dt: float, source: np.ndarray | None = None) -> Remembered:
        """The balance of positions, with memory, for the flow at this step."""
        noise, motion = self._noise, self._motion(step, dt)
        with np.errstate(all="ignore"):  # of modes that do not decay, which are asked about first
            response = motion.response(self._pull)
        source = self._source if source is None else source
        return Remembered(self.rates, noise.kick, source, dt, self.gains, noise.rough, response=response)

    def _decaying(self, dt: float) -> np.ndarray:
        """Modes (d,) bool whose mean decays, of those that do at small steps."""
        if self.memory is None:
            return dt * np.abs(self.rates) < 2
        return self._motion(self.flow.step, dt).stable(self._pull)

    def _require_drift(self, balance: Balance, what: str, modes: np.ndarray | None = None) -> None:
        if balance.drift.ndim == 2:
            fastest = float(np.max(np.real(np.linalg.eigvals(balance.drift))))
            if fastest >= 0:
                raise Unstable(
                    f"{what} does not exist for {self.flow.method.name} at order 2: the second-order "
                    "correction is larger than the drift itself "
                    f"(its fastest direction grows at rate {fastest:.3g}; validity {self.validity:.3g}). Use "
                    "larger Hessian batches or more damping.",
                    rates=[fastest],
                )
        rates = self.rates
        growing = np.flatnonzero(((rates > 0) | self._flat) & (True if modes is None else modes))
        if len(growing):
            order = growing[np.argsort(-rates[growing])]
            listed = ", ".join(self._told(i) for i in order[:4])
            raise Unstable(
                f"{what} does not exist for {self.flow.method.name}: {len(order)} of {len(rates)} modes do "
                f"not decay: mode {listed}.",
                modes=order,
                rates=rates[order],
            )

    def _radius(self, balance: Balance, dt: float, order: int) -> tuple[float, np.ndarray]:
        """Of the balance of moving modes: where it is the iteration's own, the step over its limit."""
        if dt != self.flow.step or self.memory is not None:
            return balance.radius()
        limit, leading = self._limit(order)
        return self.flow.step / limit, leading[np.ix_(self._moving, self._moving)]

    def _require_stable(self, balance: Balance, dt: float, order: int, what: str, modes: np.ndarray) -> None:
        self._require_drift(balance, what, modes)
        fast = np.flatnonzero(~self._decaying(dt) & modes)
        if len(fast):
            beyond = f"the step {dt:.4g} is beyond the mean limit {self.step_limit('mean'):.4g}"
            if self.memory is not None and dt != self.flow.step:
                beyond = f"the chain's time step {dt:.4g} is too long"
            raise Unstable(
                f"{what} does not exist for {self.flow.method.name}: {beyond}, "
                f"set by mode {self._told(fast[0])}.",
                modes=fast,
                rates=self.rates[fast],
            )
        radius, leading = self._radius(balance, dt, order)
        if radius >= 1:
            mode = int(np.flatnonzero(modes)[np.argmax(np.diag(leading))])
            raise Unstable(
                f"{what} does not exist for {self.flow.method.name}: the noise's second-moment map has "
                f"relative radius {radius:.4g} >= 1 at "
                f"step {self.flow.step:.4g}, led by mode {self._told(mode)}. "
                "Take a smaller step, larger batches, more damping or less momentum.",
                modes=[mode],
                rates=[self.rates[mode]],
            )

    def _settled(self, values: np.ndarray) -> np.ndarray:
        """Of a spectrum (d,), what is rounding of its largest is zero."""
        unit = 0.0 if along_axes(self.vectors) else len(values) * np.finfo(float).eps
        return settled(values, np.max(np.abs(values), initial=0.0), unit)

    def _told(self, mode: int) -> str:
        """A mode in a sentence, by its index."""
        lam, rate = self._settled(self.eigenvalues)[mode], self._settled(self.rates)[mode]
        return f"{mode} (lambda = {number(lam)}, rate = {number(rate, '.3g')})"

    # -- results ---------------------------------------------------------------------------------------------

    @_check.renamed(level="order")
    def covariance(
        self,
        time: str | Law = "discrete",
        dt: float | None = None,
        *,
        order: int = 1,
        state: bool = False,
        average: float | None = None,
    ) -> np.ndarray:
        """Stationary covariance (d, d), in the original coordinates.

        Flat directions that no noise enters, as at an interpolating minimum, stay where they are: their part
        is zero, as from a start at the critical point.

        Parameters
        ----------
        time : {"continuous", "chain", "discrete"} or Law
            Of the SDE, of its Euler-Maruyama chain with time step `dt`, or of the iteration; ``time=ens.law``
            is the law of an ensemble's paths.
        dt : float, optional
            For ``time="chain"``, in units of t; `step` by default.
        order : {1, 2}
            In the noise; 2 corrects towards the stochastic iteration.
        state : bool
            Of the whole state ``(w, u)``, with the momentum's buffer: (2d, 2d).
        average : float, optional
            In [0, 1): of the exponential moving average of iterates, ``a+ = average a + (1 - average) w+``,
            instead, as in `simulate`; the decay is per iteration in every time.

        Raises
        ------
        Unstable
            If there is none: a mode does not decay, or the noise's second moment grows.
        """
        dt = law_of(time, dt, self.flow.step).dt
        state, average = self._asked_parts(state, average, order_of(order))
        return self._along(dt)._covariance(dt, order_of(order), average, state=state)

    def _covariance(
        self, dt: float, order: int, average: float | None = None, *, state: bool = False
    ) -> np.ndarray:
        balance, M = self._stationary(dt, order)
        if state or average is not None:
            M = self._parts(balance, M, dt, average)
        return self._frame.outward(_embedded(M, np.tile(self._moving, 2 if state else 1)))

    def _stationary(self, dt: float, order: int) -> tuple[Balance, np.ndarray]:
        """The balance of moving modes, and `covariance` among them."""
        balance, moving = self._balance(dt, order), self._moving
        if not moving.all():
            balance = balance.restricted(moving)
        if not moving.any():
            return balance, np.zeros((0, 0))
        self._require_stable(balance, dt, order, "A stationary covariance", moving)
        return balance, balance.stationary()

    def _parts(self, balance: Balance, M: np.ndarray, dt: float, average: float | None) -> np.ndarray:
        """Of moving modes: the second moment of their whole states, or of an average, from the positions'."""
        step, pairs = self.flow.step, M[..., None, None]
        if self.memory is not None:
            noise = balance.source if balance.kick is None else balance.source + balance.kick(M)
            pairs = pairs_of(self._motion(step, dt), self._pull[self._moving], noise)
        if average is None:
            return whole(pairs)
        return self._course(dt, self._moving).mean_of(pairs, average, step)

    def _course(self, dt: float, modes: Any = slice(None)) -> Course:
        """What some of the modes do with all that they remember."""
        step = self.flow.step
        if self.memory is None:
            return Course.alone(-self.rates[modes], step, dt)
        return Course.of(self._motion(step, dt), self._pull[modes])

    def _asked_parts(self, state: bool, average: float | None, order: int) -> tuple[bool, float | None]:
        """Which parts of the state are asked for; an average that forgets all is the position itself."""
        if _check.flag("state", state) and self.memory is None:
            raise ValueError(
                f"`state=True` is for methods with momentum; {self.flow.method.label} has no state but w. "
                "Leave it out."
            )
        order = self._order(order)
        if average is None:
            return state, None
        if state:
            raise ValueError(
                "`state` asks for positions and buffer, `average` for averaged positions: give one of the "
                "two."
            )
        if order == 2:
            raise ValueError("`average` is known with order=1 only. Leave one of the two out.")
        return state, _check.fraction("average", average) or None

    @_check.renamed(level="order")
    def excess_risk(
        self,
        time: str | Law = "discrete",
        dt: float | None = None,
        *,
        order: int = 1,
        average: float | None = None,
    ) -> float:
        """Stationary excess risk ``tr(H M) / 2``, in units of the objective; raises as `covariance` does.

        M is the second moment about the critical point: what weight decay costs is in it.
        """
        dt = law_of(time, dt, self.flow.step).dt
        _, average = self._asked_parts(False, average, order_of(order))
        return self._along(dt)._excess_risk(dt, order_of(order), average)

    def _excess_risk(self, dt: float, order: int, average: float | None) -> float:
        moving, apart, method = self._moving, self._offset, self.flow.method
        balance, M = self._stationary(dt, order)
        if average is not None:
            M = self._parts(balance, M, dt, average)
        risk = float(0.5 * self.eigenvalues[moving] @ np.diag(M))
        if apart.any():
            risk += 0.5 * float(self.eigenvalues @ apart**2)
        if method.decoupled or not method.weight_decay:
            return risk
        # Inside the gradient weight decay is curvature to the modes, and none to the objective.
        spread = float(np.trace(self._frame.outward(_embedded(M, moving))))
        return risk - 0.5 * method.weight_decay * (spread + float(np.sum((self.center - self.at) ** 2)))

    @_check.renamed(level="order")
    def moments(
        self,
        t: float,
        mean0: Any = None,
        cov0: Any = None,
        *,
        time: str | Law = "discrete",
        dt: float | None = None,
        order: int = 1,
        state: bool = False,
        average: float | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mean (d,) and covariance (d, d) at time `t`, from any start, stable or not.

        Parameters
        ----------
        t : float
            In units of ``iteration * step``; a multiple of the time step where time is discrete.
        mean0 : array (d,), optional
            Mean at time 0; the critical point by default. With momentum (2d,) too, with the buffer, which is
            empty by default.
        cov0 : array (d, d), optional
            Covariance at time 0; zero by default. With momentum (2d, 2d) too.
        time, dt
            As for `covariance`.
        order : {1, 2}
            2 also follows the mean shift that nested batches cause.
        state : bool
            Of the whole state ``(w, u)``, with the momentum's buffer: (2d,) and (2d, 2d).
        average : float, optional
            Of the moving average of iterates, as in `covariance`; it begins where the iterates do.
        """
        dt = law_of(time, dt, self.flow.step).dt
        t = _check.nonnegative("t", t)
        if dt and t:
            _check.whole_steps("t", t, dt, most=MOST_STEPS, advice=" Use time='continuous'.")
        state, average = self._asked_parts(state, average, order_of(order))
        if self.memory is not None or average is not None:
            mean, cov = self._along(dt)._state_moments(t, dt, mean0, cov0, average)
            dim = self.flow.dim
            part = slice(2 * dim if state else dim) if average is None else slice(-dim, None)
            return mean[part], cov[part, part]
        mean0 = self.at if mean0 is None else _check.shaped("mean0", mean0, self.at.shape)
        square = (len(self.at),) * 2
        cov0 = np.zeros(square) if cov0 is None else _check.covariance("cov0", cov0, square)
        return self._along(dt)._moments(t, dt, mean0, cov0, order_of(order))

    def _moments(
        self, t: float, dt: float, mean0: np.ndarray, cov0: np.ndarray, order: int
    ) -> tuple[np.ndarray, np.ndarray]:
        offset = self._frame.inverse @ (mean0 - self.center)
        start = self._frame.inward(cov0) + np.outer(offset, offset)
        push = self._noise.push if order == 2 else np.zeros_like(offset)
        coupled = self._coupling(push, self.flow.step)
        mean, M = evolve(self._balance(dt, order), coupled, t, dt, offset, start, push)
        return self.center + self.vectors @ mean, self._frame.outward(M - np.outer(mean, mean))

    def _state_moments(
        self, t: float, dt: float, mean0: Any, cov0: Any, average: float | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """`moments` of whole states, with the average last; a start of positions has an empty buffer."""
        dim, course = self.flow.dim, self._course(dt)
        most = dim * len(course.kick)
        rest, mean = (np.pad(place, (0, most - dim)) for place in (self.center, self.at))
        # At the centre what the buffer moves undoes what weight decay takes.
        rest[dim:] = -self._decoupled * self.center[: most - dim]
        cov = np.zeros((most,) * 2)
        if mean0 is not None:
            known = most if np.size(mean0) == most else dim
            mean[:known] = _check.shaped("mean0", mean0, (known,))
        if cov0 is not None:
            known = most if len(np.atleast_1d(cov0)) == most else dim
            cov[:known, :known] = _check.covariance("cov0", cov0, (known, known))
        if average is not None:  # begins as a copy of the positions
            course, with_copy = course.averaged(average, self.flow.step), np.r_[:most, :dim]
            rest, mean, cov = rest[with_copy], mean[with_copy], cov[np.ix_(with_copy, with_copy)]
        coupled = self._coupling(np.zeros(dim), 1.0)
        offset = ((mean - rest).reshape(-1, dim) @ self._frame.inverse.T).ravel()
        start = self._frame.inward(cov) + np.outer(offset, offset)
        if self._noise.kick is None:
            offset, M = course.evolved(self._source, t, offset, start)
        else:
            balance = course.balance(self._noise.kick, self._source)
            lifted = None if coupled is None else course.lifted(coupled)
            offset, M = evolve(balance, lifted, t, dt, offset, start, np.zeros_like(offset))
        with np.errstate(all="ignore"):  # what grows may have overflown
            mean = rest + (offset.reshape(-1, dim) @ self.vectors.T).ravel()
            return mean, self._frame.outward(M - np.outer(offset, offset))

    def _coupling(self, push: np.ndarray, step: float) -> Map | None:
        """What a mean m adds to the second moment's source.

        Correlated data noise, at order 2 the push of nested batches, and with weight decay the curvature
        noise between the centre and the critical point.
        """
        cross, kick, apart = self._noise.cross, self._noise.kick, self._offset
        moved = kick is not None and apart.any()
        if cross is None and not moved:
            return None

        def coupled(m: np.ndarray) -> np.ndarray:
            found = np.zeros((len(m),) * 2) if cross is None else step * cross(m)
            if kick is not None and moved:
                found = found + step * kick(np.outer(apart, m) + np.outer(m, apart))
            return found - np.outer(push, m) - np.outer(m, push)

        return coupled

    @_check.renamed(level="order")
    def step_limit(self, kind: str = "mean-square", *, order: int = 1) -> float:
        """The largest stable step ``alpha``: of the mean, ``2 / max|a_i|``, or of the second moment.

        With momentum the mean allows ``2 (1 + beta) / max|a_i|``, or ``1 + 2 beta`` times less in Nesterov's
        form. Of a metric that follows the noise it is the limit of the metric settled at the flow's own step.

        Raises
        ------
        Unstable
            If a mode does not decay at any step: a saddle's, or a flat direction that noise enters. Flat
            directions that no noise enters, as at an interpolating minimum, are left out.
        """
        _check.choice("kind", kind, ("mean", "mean-square"))
        if kind == "mean":
            self._require_decay(self._moving)
            fastest = float(np.max(np.abs(self.rates)))
            if fastest > 0 and self.memory is not None:
                moving = self._moving & (self.rates != 0)
                return float(np.min(self.memory.mean_limit(self._pull[moving], self._decoupled)))
            return 2 / fastest if fastest > 0 else math.inf
        return self._limit(order_of(order))[0]

    @property
    def _flat(self) -> np.ndarray:
        """Modes (d,) bool whose rate is rounding of the largest."""
        rounding = 0.0 if along_axes(self.vectors) else _ROUNDING
        return np.abs(self.rates) <= rounding * np.max(np.abs(self.rates))

    @functools.cached_property
    def _moving(self) -> np.ndarray:
        """Modes (d,) bool that the flow moves or the noise enters.

        The others, flat directions at an interpolating minimum, never change.
        """
        flat = self._flat
        if not flat.any():
            return ~flat
        kick, one = self._noise.kick, np.eye(len(self.at))
        driven = np.diag(self._noise.additive) + (0.0 if kick is None else np.diag(kick(one)))
        return ~flat | (driven > _ROUNDING * np.max(driven))

    def _require_decay(self, modes: np.ndarray | None = None) -> None:
        """Raise unless the mean of every mode, or of the chosen ones, decays at small steps."""
        self._require_drift(Balance(self.rates, None, self._nothing), "A stable step", modes)

    @property
    def _nothing(self) -> np.ndarray:
        """No source (d, d): what additive noise there is limits no step, and its law need not be known."""
        return np.zeros((len(self.at),) * 2)

    def _limit(self, order: int) -> tuple[float, np.ndarray]:
        """The mean-square step limit and its leading matrix, found once."""
        order = self._order(order)
        if order not in self._limits:
            self._limits[order] = self._found_limit(order)
        return self._limits[order]

    def _found_limit(self, order: int) -> tuple[float, np.ndarray]:
        moving = self._moving
        self._require_decay(moving)
        if not moving.any():  # nothing moves at any step
            return math.inf, np.zeros((len(moving),) * 2)
        if self.memory is not None:
            return self._remembered_limit()
        balance = (
            Balance(self.rates, self._noise.kick, self._nothing, 1.0, self.gains, self._noise.rough)
            if order == 1
            else Balance(*self._noise.second_order)
        )
        if not moving.all():
            balance = balance.restricted(moving)
        self._require_drift(balance, "A stable step", moving)
        near = self._noise.turned.nearest(self.gains)
        radius, leading = balance.radius(None if near is None else near[np.ix_(moving, moving)])
        leading = _embedded(leading, moving)
        if balance.rough is not None:
            self._noise.turned.lead(self.gains, leading)
        return (1 / radius if radius > 0 else math.inf), leading

    def _remembered_limit(self) -> tuple[float, np.ndarray]:
        """`_found_limit` with memory, where the radius is no multiple of the step."""
        assert self.memory is not None
        moving, near = self._moving, self._noise.turned.nearest(self.gains)

        def balance(step: float) -> Balance:
            return self._remembered(step, step, self._nothing).restricted(moving)

        start = None if near is None else near[np.ix_(moving, moving)]
        limits = self.memory.mean_limit(self._pull[moving], self._decoupled)
        step, leading = largest_step(limits, balance, start)
        return step, _embedded(leading, moving)

    def limit(self) -> Limit:
        """The mean-square step limit with its leading mode and the share of each cause.

        Curvature's share is the step over the mean's limit, mode by mode of the leading one.
        """
        step, leading = self._limit(1)
        square, other = self._decay_spent(step, np.diag(leading))
        gradient = hessian = 0.0
        kick = self._noise.rough or self._noise.kick
        if kick is not None:
            gradient = self._noise.gradient_share(leading)
            hessian = float(np.trace(kick(leading))) - gradient if self._noise.bends else 0.0
        if other is not None and gradient + hessian > 0:
            gradient, hessian = (share * other / (gradient + hessian) for share in (gradient, hessian))
        whole = square + gradient + hessian or 1.0
        shares = {
            "curvature": square / whole,
            "gradient batch": gradient / whole,
            "Hessian batch": hessian / whole,
        }
        return Limit(step, int(np.argmax(np.diag(leading))), shares)

    def _decay_spent(self, step: float, leading: np.ndarray) -> tuple[float, float | None]:
        """What of the decay of modes (d,) a finite step takes, and what is left where memory changes it."""
        if self.memory is None:
            return float(np.sum(self.rates**2 * leading)), None
        if step == math.inf:  # nothing moves
            return 0.0, None
        decay = -2 * self.rates / self.memory.effective(step) * leading
        with np.errstate(divide="ignore"):
            share = step / self.memory.mean_limit(self._pull, self._decoupled)
        return float(np.sum(decay * share)), float(np.sum(decay * (1 - share)))

    @property
    def amplification(self) -> np.ndarray:
        """Stationary variance over SGD's at equal step, per mode: ``phi_i``, nan where ``lam_i <= 0``.

        For additive noise in continuous time; momentum makes it ``1 / (1 - beta)`` times larger, weight decay
        smaller. Of a metric, whose modes are no orthogonal axes, it is over SGD's that is confined to the
        mode's own line.
        """
        gains = self.gains
        if self.memory is None and self._decoupled:
            return np.where(self.eigenvalues > 0, gains * self._pull / -self.rates, np.nan)
        if self.memory is not None:
            with np.errstate(all="ignore"):
                response = self._motion(self.flow.step, 0.0).variances(self._pull)
                gains = 2 * gains * self._pull * response / self.flow.step
        return np.where(self.eigenvalues > 0, gains, np.nan)

    @property
    def mean_shift(self) -> np.ndarray:
        """Displacement (d,) of the stationary mean by weight decay, or by nested batches.

        The latter, ``-(P H)^{-1} E[DP[Eh] zeta]``, is of second order in the noise; zero where Hessian and
        gradient batches are independent, and for Gaussian noise given by its size.
        """
        push, moving = self._noise.push, self._moving
        if self._offset.any():
            self._require_decay(moving)
            return self.center - self.at
        if not push.any():
            return np.zeros(len(self.at))
        self._require_decay(moving)
        return self.vectors[:, moving] @ (push[moving] / self.rates[moving])

    def tail(self, time: str | Law = "continuous", dt: float | None = None, *, seed: int = 0) -> Estimate:
        """Tail index of the stationary law, with its error: moments below it are finite.

        Coupled modes have one index together: the order s at which ``E|B_n ... B_1|^s`` of their random
        products neither grows nor shrinks (Kesten 1973). inf, and why, where no order grows, and of a metric
        that follows the noise, whose steps are bounded.

        Parameters
        ----------
        time, dt
            As for `covariance`. In continuous time the index of up to five modes that differ is found by
            polynomials on the sphere of directions, and of any number that are alike in closed form. Of
            chain and iteration it is a quadrature of one mode, of modes that are alike, and of two with
            Gaussian noise; of others a population of directions tells it, with a standard error. With
            momentum a mode has two coordinates.
        seed : int
            Of that population.

        Returns
        -------
        Estimate
            An infinite error says that the value is a lower bound.

        Raises
        ------
        Unstable
            If a mode does not decay, or paths grow almost surely.
        ValueError
            If more than five modes differ in continuous time.

        References
        ----------
        H. Kesten, Acta Math. 131 (1973) 207-248; L. Arnold, E. Oeljeklaus, E. Pardoux, Lect. Notes Math. 1186
        (1986) 129-159, on moments in continuous time.

        Examples
        --------
        Streaming least squares in two dimensions, one sample at a time:

        >>> import stability as st
        >>> flow = st.Flow(st.quadratic([1.0, 1.0]), st.SGD(), st.Noise.streaming(), step=0.3)
        >>> round(st.linearize(flow).tail("discrete").value, 3)
        4.643
        """
        law, seed = law_of(time, dt, self.flow.step), _check.count("seed", seed, least=0)
        return tail(self._products(law), seed)

    def _products(self, law: Law) -> Products:
        """What multiplies deviations, in a law of which every mode decays."""
        here = self._along(law.dt)
        here._require_decay(here._moving)
        return Products(here._noise, here.rates, here._moving, law)

    def _tail_is_cheap(self, law: Law) -> bool:
        """Whether `tail` takes no longer than a covariance."""
        return self._products(law).cheap

    @property
    def tail_index(self) -> float:
        """Tail index ``nu`` of the stationary law of the SDE: moments below ``nu`` are finite.

        ``1 + 2 |a| / (step K)`` in one dimension (a Student-t law), ``inf`` without curvature noise; the
        joint index where modes couple: `tail`, which tells its error too. nan where it is not known, of more
        than five modes that differ.
        """
        try:
            return self.tail().value
        except Untold:
            return math.nan

    @property
    def tail_exceeds_two(self) -> bool:
        """Whether the SDE's stationary law has a finite variance (joint tail index above 2)."""
        moving = self._moving
        self._require_decay(moving)
        return not moving.any() or self._balance(0.0, 1).restricted(moving).radius()[0] < 1

    @property
    def validity(self) -> float:
        """How far Hessian noise bends the preconditioner: the linearisation is trusted below 0.1.

        ``max_ij std(E_ij) |Phi_ij| / min(phi_i, phi_j)``; for a truncated method also ``std(E) / (|lam_r| -
        |lam_{r+1}|)``; for a gain that jumps ``std(E_ii)`` over the distance to the jump. For a metric the
        largest share of an entry that the iterates' own motion takes from it, or ``1 - beta2``.
        """
        method: Any = self.flow.method
        if self.metric is not None:
            return max(self._bent_by_motion, method.renewal)
        if not self._noise.bends:
            return 0.0
        spread = self._noise.hessian_spread()
        return max(self._bent(spread), self._jump(np.diag(spread)))

    def _bent(self, spread: np.ndarray) -> float:
        """What of `validity` is in proportion to the entries' standard deviations `spread` (d, d)."""
        size = np.abs(self.gains)
        with np.errstate(all="ignore"):
            bend = np.where(
                spread > 0, spread * np.abs(self._noise.response.divided) / np.minimum.outer(size, size), 0.0
            )
        result = float(np.max(bend))
        if self._noise.response.truncated:
            r = int(self.flow.method.rank or 0)
            gap = abs(self.eigenvalues[r - 1]) - abs(self.eigenvalues[r])
            largest = float(np.max(spread[r - 1 : r + 1, r - 1 : r + 1]))
            swap = largest / gap if gap > 0 else (math.inf if largest > 0 else 0.0)
            result = max(result, float(swap))
        return result

    def _jump(self, spread: np.ndarray) -> float:
        """``std(E_ii)`` over the distance to where the gain jumps: no derivative sees that."""
        kept = self._noise.response.kept if self._noise.response.truncated else slice(None)
        lams, spread = self.eigenvalues[kept], spread[kept]
        # At ten standard deviations the quotient is the 0.1 below which the linearisation is trusted.
        distance, height = jumps(self.flow.method, lams, spread / VALID)
        with np.errstate(all="ignore"):
            quotients = np.where(spread > 0, spread / distance * np.minimum(height, 1.0), 0.0)
        return float(np.max(quotients, initial=0.0))

    @property
    def valid(self) -> bool:
        """Whether `validity` is below 0.1."""
        return self.validity < VALID

    @property
    def doubt(self) -> str:
        """Why the linearisation is not to be trusted, and what helps; empty where `valid`."""
        if self.valid:
            return ""
        if self.metric is None:
            return (
                "Hessian noise bends this method's preconditioner too much for the linearisation: read the "
                "row as a warning, not a bound. With as many samples in the Hessian batch as 'valid from' "
                "says, it is one."
            )
        method: Any = self.flow.method
        if method.renewal >= VALID:
            return (
                f"Theory is of first order in 1 - beta2: with `beta2` = {method.beta2:g} a mean square is of "
                "so few gradients that it varies itself. It is a bound for "
                f"`beta2` > {1 - VALID:g}."
            )
        return (
            "Theory is of first order in the step: at this one the metric follows the iterates' own motion "
            "as well as the noise. Read the row as a warning, not a bound; at a smaller step it is one."
        )

    @functools.cached_property
    def valid_from(self) -> float:
        """The smallest Hessian batch from which on `validity` is below 0.1, all else as it is.

        inf where none is large enough, as where a metric's own motion is the reason; nan where the noise is
        a class that states its own law, and where batches of all the data tell nothing of a single sample.
        """
        noise = self.flow.noise_model
        if self.metric is not None:
            return 1.0 if self.valid else math.inf
        if self.flow.method.is_identity or (noise.as_stated and noise.curvature == 0):
            return 1.0
        if not noise.as_stated and noise.objective is None:
            return math.nan
        spread = self._noise.sample_spread()
        if np.isnan(spread).any():
            return math.nan
        bent, own = self._bent(spread), np.diag(spread)

        def valid(size: int) -> bool:
            share = math.sqrt(noise.shrink(size))
            return share == 0 or max(share * bent, self._jump(share * own)) < VALID

        # Without replacement a batch of all the data has no noise, and ends the search.
        most = MOST_SAMPLES if noise.objective is None or noise.replacement else noise.objective.n_samples
        if not valid(most):
            return math.inf
        return float(1 + bisect.bisect_left(range(1, most), True, key=valid))

    # -- coordinates and display -----------------------------------------------------------------------------

    def _kept(self) -> dict[str, Any]:
        # Of an objective that a file cannot hold the Hessian at the point is all that is asked of it here.
        known = keeps(self.flow.objective) or self.flow.noise_model.objective is not None
        flow = self.flow if known else self.flow.tangent(self.at)
        eigenvalues, vectors = self._spectrum
        return {"flow": flow, "at": self.at, "eigenvalues": eigenvalues, "vectors": vectors}

    def _columns(self) -> Mapping[str, Any]:
        return {"eigenvalue": self.eigenvalues, "gain": self.gains, "rate": self.rates}

    def _page(self) -> Iterator[str | Grid]:
        flow = self.flow
        yield f"{flow.method.name} at a critical point, step {flow.step:g}, validity {self.validity:.3g}"
        columns = [self._settled(values) for values in (self.eigenvalues, self.gains, self.rates)]
        rows = shortened((str(i), *row) for i, row in enumerate(zip(*columns, strict=True)))
        yield Grid([("mode", ""), ("lambda", ".4g"), ("gain", ".4g"), ("rate", ".4g")], rows)
        added = 1.0 if self.memory is None else self.memory.effective(1.0)
        if added != 1:
            yield f"gain and rate are without momentum, which makes slow modes' {added:.4g} times larger"
        try:
            yield f"step limit: mean {self.step_limit('mean'):.4g}, mean-square {self.step_limit():.4g}"
        except (Unstable, ValueError) as error:
            yield str(error)


def _embedded(M: np.ndarray, modes: np.ndarray) -> np.ndarray:
    """A matrix of some of the modes (d,) bool among all of them, (d, d), zero elsewhere."""
    whole = np.zeros((len(modes),) * 2)
    whole[np.ix_(modes, modes)] = M
    return whole


def linearize(flow: Flow, at: Any = None) -> LinearFlow:
    """Linearise a flow at a critical point of its objective.

    Parameters
    ----------
    flow : Flow
    at : array, shape (d,), optional
        The critical point; the objective's reference by default.

    Returns
    -------
    LinearFlow

    Raises
    ------
    ValueError
        If the gradient at `at` does not vanish, the Hessian is not symmetric or not finite, a formula has a
        corner there, the gain is singular, or curvature noise is centred elsewhere.

    Examples
    --------
    >>> import stability as st
    >>> flow = st.Flow(st.quadratic([1.0, 0.01]), st.Newton(), st.Noise(gradient=0.1), step=0.1)
    >>> st.linearize(flow).amplification
    array([  1., 100.])
    """
    flow.step  # noqa: B018 - an error where it is a schedule
    if at is None:
        at = trait(flow.objective, "reference")
        if at is None:
            raise ValueError(f"`at` must be given: {flow.objective!r} has no reference point.")
    at = _check.shaped("at", at, (flow.dim,))
    _check_room(flow)
    hessian = _check.shaped("hessian", flow.objective.hessian(at), (flow.dim, flow.dim), at=at)
    hessian = _check.symmetric("hessian", hessian)
    _check_smooth(flow, at)
    values, vectors = np.linalg.eigh(hessian)
    check_critical(flow, at, float(np.max(np.abs(values))))
    order = np.argsort(-np.abs(values), kind="stable")
    values, vectors = values[order], vectors[:, order]
    flow.noise_model.check_declared(flow.dim)
    return LinearFlow(flow, at, values, vectors)


def needs(noise: DataNoise, dim: int) -> float:
    """Numbers that second moments of data in so many columns take."""
    n, rank = noise.samples_shape
    return _MATRICES * dim**2 + 3 * n * rank * dim


def _check_room(flow: Flow) -> None:
    noise, dim = flow.noise_model, flow.dim
    if isinstance(noise, DataNoise) and noise.by_samples:
        n, rank = noise.samples_shape
        numbers = needs(noise, dim)
        advice = "Take fewer columns, or fewer rows where there are more of them than columns."
        if n * rank < dim:
            advice = "Take `F.in_row_space()`: its rows span fewer dimensions, and no other has noise."
        _check.room("Second moments of so many columns need", numbers, advice=advice)
        return
    advice = "Use st.spectrum or st.randomized_eigh, which take products alone."
    _check.room("The Hessian and its eigenvectors need", 3 * dim**2, advice=advice)


def _check_smooth(flow: Flow, at: np.ndarray) -> None:
    """A corner has a Hessian by the chain rule, which is 0 where the slope jumps."""
    kink = flow.objective.kink(at) if defines(flow.objective, "kink") else ""
    if kink:
        raise ValueError(
            f"`at` must be a point where the objective has second derivatives; it is {kink}. Use "
            "st.simulate, or round the corner off: sqrt(u^2 + 1e-6) for abs(u)."
        )


def check_critical(flow: Flow, at: np.ndarray, scale: float) -> None:
    """Raise where the gradient does not vanish beside curvatures of size `scale`."""
    gradient = _check.shaped("gradient", flow.objective.gradient(at), (flow.dim,), at=at)
    size = float(np.linalg.norm(gradient))
    # Against what a gradient may be called small beside: that of as far a place as `at` is, or where the
    # curvature has changed, and its own noise.
    small = CRITICAL * max(scale * float(np.linalg.norm(at)), flow.gradient_noise(at))
    if size > small and not size <= CRITICAL * scale * bend(flow.objective, at):
        raise ValueError(
            f"`at` must be a critical point; the gradient there has norm {size:.3g} (curvature {scale:.3g}). "
            "Use st.trajectory(flow, start, t_end) for the noise along a path."
        )
    reference = flow.reference
    if flow.noise_model.has_curvature and reference is not None:
        apart = float(np.linalg.norm(at - reference))
        near = max(float(np.linalg.norm(at)), float(np.linalg.norm(reference)))
        if apart > CRITICAL * near and not apart <= CRITICAL * bend(flow.objective, at):
            raise ValueError(
                f"Curvature noise is centred {apart:.3g} away from `at`. Use Noise(..., reference=at)."
            )
