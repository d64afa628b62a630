"""A flow linearised at a critical point: what may be asked of it, and how it is shown.

At first order (``order=1``, level L of the notes) theory is linear in the noise and exact for the
Euler-Maruyama chain. At second (``order=2``, level L2) it keeps the second order of ``P(H + Eh)`` too, in
drift and noise: it corrects L towards the stochastic iteration.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from .. import _check
from .._check import Unstable
from .._display import Grid, shortened
from .._estimate import Estimate
from .._frames import Framed
from .._law import Law, law_of
from .._saving import Result, keeps
from ..flow import Flow
from ..methods.memory import Memory
from ..methods.method import Method
from . import trust
from .adaptive import settled
from .dynamics import Dynamics, order_of
from .evolution import Evolution
from .frames import Frame
from .limits import Limit, Limits
from .modes import Turned
from .moments import Map
from .tail import Products, tail

MOST_STEPS = 1e15
"""Time steps whose number still is a whole one where a time is divided by them."""


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
        self._dynamics = self._found(flow.step)
        self._limits = Limits(self._dynamics)
        self._others: dict[float, Limits] = {}
        frame, self.rates, self.center = self._dynamics.frame, self._dynamics.rates, self._dynamics.center
        self.eigenvalues, self.vectors, self.gains = frame.eigenvalues, frame.vectors, frame.gains
        self.metric = frame.metric

    def _found(self, dt: float) -> Dynamics:
        """The dynamics, under a metric as it is in the chain with time step `dt`."""
        if self.flow.method.spectral:
            frame = Frame.spectral(self.flow.method, *self._spectrum)
            return Dynamics(self.flow, self.at, frame, self._turned)
        return settled(self.flow, self.at, self._spectrum, dt)

    def _along(self, dt: float) -> Evolution:
        """In the chain with time step `dt`: a metric that follows the iterates differs in each."""
        method: Any = self.flow.method
        if dt == self.flow.step or method.spectral or not method.linear:
            return Evolution(self._limits, dt)
        if dt not in self._others:
            self._others[dt] = Limits(self._found(dt))
        return Evolution(self._others[dt], dt)

    def under(self, method: Method) -> LinearFlow:
        """The same point with another method: the spectrum, and the noise in its basis, are found once.

        Raises
        ------
        ValueError
            If the method's gain is singular here, or its rank exceeds the dimension.
        """
        flow = Flow(self.flow.objective, method, self.flow.noise_model, step=self.flow.step)
        return LinearFlow(flow, self.at, *self._spectrum, self._turned)

    @property
    def kick(self) -> Map | None:
        """``M -> E[G M G^T]`` of second moments on the modes; None without curvature noise."""
        return self._dynamics.noise.kick

    @property
    def memory(self) -> Memory | None:
        """Of the flow's method: its momentum, or Adam's running mean."""
        return self._dynamics.memory

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
        return self._along(dt).covariance(order_of(order), average, state=state)

    def _asked_parts(self, state: bool, average: float | None, order: int) -> tuple[bool, float | None]:
        """Which parts of the state are asked for; an average that forgets all is the position itself."""
        if _check.flag("state", state) and self.memory is None:
            raise ValueError(
                f"`state=True` is for methods with momentum; {self.flow.method.label} has no state but w. "
                "Leave it out."
            )
        order = self._dynamics.known_order(order)
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
        return self._along(dt).excess_risk(order_of(order), average)

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
            mean, cov = self._along(dt).state_moments(t, mean0, cov0, average)
            dim = self.flow.dim
            # The average comes last in the state that is followed.
            part = slice(2 * dim if state else dim) if average is None else slice(-dim, None)
            return mean[part], cov[part, part]
        mean0 = self.at if mean0 is None else _check.shaped("mean0", mean0, self.at.shape)
        square = (len(self.at),) * 2
        cov0 = np.zeros(square) if cov0 is None else _check.covariance("cov0", cov0, square)
        return self._along(dt).moments(t, mean0, cov0, order_of(order))

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
            return self._limits.mean()
        return self._limits.mean_square(order_of(order))[0]

    def limit(self) -> Limit:
        """The mean-square step limit with its leading mode and the share of each cause.

        Curvature's share is the step over the mean's limit, mode by mode of the leading one.
        """
        return self._limits.told()

    @property
    def amplification(self) -> np.ndarray:
        """Stationary variance over SGD's at equal step, per mode: ``phi_i``, nan where ``lam_i <= 0``.

        For additive noise in continuous time; momentum makes it ``1 / (1 - beta)`` times larger, weight decay
        smaller. Of a metric, whose modes are no orthogonal axes, it is over SGD's that is confined to the
        mode's own line.
        """
        here, gains = self._dynamics, self.gains
        if here.memory is None and here.decoupled:
            # Decay beside the preconditioner speeds a mode up, and adds no noise to it.
            return np.where(self.eigenvalues > 0, gains * here.pull / -self.rates, np.nan)
        if here.memory is not None:
            with np.errstate(all="ignore"):
                response = here.motion(self.flow.step, 0.0).variances(here.pull)
                gains = 2 * gains * here.pull * response / self.flow.step
        return np.where(self.eigenvalues > 0, gains, np.nan)

    @property
    def mean_shift(self) -> np.ndarray:
        """Displacement (d,) of the stationary mean by weight decay, or by nested batches.

        The latter, ``-(P H)^{-1} E[DP[Eh] zeta]``, is of second order in the noise; zero where Hessian and
        gradient batches are independent, and for Gaussian noise given by its size.
        """
        here = self._dynamics
        push, moving = here.noise.push, here.moving
        if here.offset.any():
            here.require_decay(moving)
            return self.center - self.at
        if not push.any():
            return np.zeros(len(self.at))
        here.require_decay(moving)
        # The mean moves at ``a m - push``, and rests where that is zero.
        return self.vectors[:, moving] @ (push[moving] / self.rates[moving])

    def tail(self, time: str | Law = "continuous", dt: float | None = None, *, seed: int = 0) -> Estimate:
        """Tail index of the stationary law, with its error: moments below it are finite.

        Coupled modes have one index together: the order s at which ``E|B_n ... B_1|^s`` of their random
        products neither grows nor shrinks (Kesten 1973). inf, and why, where no order grows, and of a metric
        that follows the noise, whose steps are bounded.

        Parameters
        ----------
        time, dt
            As for `covariance`. In continuous time the index of up to 24 modes that differ is found by
            polynomials on the sphere of directions, of more than four sharpened by a population of
            directions (some seconds; the error says how far), and of any number that are alike in closed
            form. Of chain and iteration it is a quadrature of one mode, of modes that are alike, and of two
            with Gaussian noise; of others a population of directions tells it, with a standard error. With
            momentum a mode has two coordinates.
        seed : int
            Of these populations.

        Returns
        -------
        Estimate
            An infinite error says that the value is a lower bound, or not resolved; nan, and why, of more
            than 24 coordinates that differ in continuous time.

        Raises
        ------
        Unstable
            If a mode does not decay, or paths grow almost surely.

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
        here = self._along(law.dt).dynamics
        here.require_decay(here.moving)
        return Products(here.noise, here.rates, here.moving, law)

    def _tail_is_cheap(self, law: Law) -> bool:
        """Whether `tail` takes no longer than a covariance."""
        return self._products(law).cheap

    @property
    def tail_index(self) -> float:
        """Tail index ``nu`` of the stationary law of the SDE: moments below ``nu`` are finite.

        ``1 + 2 |a| / (step K)`` in one dimension (a Student-t law), ``inf`` without curvature noise; the
        joint index where modes couple: `tail`, which tells its error too, and why where the index is nan.
        """
        return self.tail().value

    @property
    def tail_exceeds_two(self) -> bool:
        """Whether the SDE's stationary law has a finite variance (joint tail index above 2)."""
        here = self._dynamics
        here.require_decay(here.moving)
        return not here.moving.any() or here.balance(0.0, 1).restricted(here.moving).radius()[0] < 1

    @property
    def validity(self) -> float:
        """How far Hessian noise bends the preconditioner: the linearisation is trusted below 0.1.

        ``max_ij std(E_ij) |Phi_ij| / min(phi_i, phi_j)``; for a truncated method also ``std(E) / (|lam_r| -
        |lam_{r+1}|)``; for a gain that jumps ``std(E_ii)`` over the distance to the jump. For a metric the
        largest share of an entry that the iterates' own motion takes from it, or ``1 - beta2``.
        """
        return trust.validity(self._dynamics)

    @property
    def valid(self) -> bool:
        """Whether `validity` is below 0.1."""
        return self.validity < trust.VALID

    @property
    def doubt(self) -> str:
        """Why the linearisation is not to be trusted, and what helps; empty where `valid`."""
        return trust.doubt(self._dynamics)

    @functools.cached_property
    def valid_from(self) -> float:
        """The smallest Hessian batch from which on `validity` is below 0.1, all else as it is.

        inf where none is large enough, as where a metric's own motion is the reason; nan where the noise is
        a class that states its own law, and where batches of all the data tell nothing of a single sample.
        """
        return trust.valid_from(self._dynamics)

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
        columns = [self._dynamics.rounded(values) for values in (self.eigenvalues, self.gains, self.rates)]
        rows = shortened((str(i), *row) for i, row in enumerate(zip(*columns, strict=True)))
        yield Grid([("mode", ""), ("lambda", ".4g"), ("gain", ".4g"), ("rate", ".4g")], rows)
        added = 1.0 if self.memory is None else self.memory.effective(1.0)
        if added != 1:
            yield f"gain and rate are without momentum, which makes slow modes' {added:.4g} times larger"
        try:
            yield f"step limit: mean {self.step_limit('mean'):.4g}, mean-square {self.step_limit():.4g}"
        except (Unstable, ValueError) as error:
            yield str(error)
