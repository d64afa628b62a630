"""Metrics: preconditioners that are diagonal in the coordinates and follow the noise of the gradient.

``P = diag(p)`` with ``p = 1 / (sqrt(v) + eps)``, where ``v_i`` is the mean square of the i-th gradient entry.
A spectral method turns with the problem; a metric does not, so that it depends on how the coordinates lie.
"""

from __future__ import annotations

import abc
import math
from typing import Any, NamedTuple, NoReturn

import numpy as np

from .. import _check
from .._array import like, matvec, namespace
from .._special import erf
from .adapted import Adapted, Mean, Pull
from .gradients import LEAST_CORRELATED, GradientLaw
from .memory import Memory
from .method import Method

BUSSGANG = math.sqrt(2 / math.pi)
"""``E[sign(x) y] = BUSSGANG E[x y] / std(x)`` for Gaussian x and y."""


SLOW = 0.9
"""The fastest forgetting that an SDE may follow: a mean of squares then varies by a third of itself."""
LEAST = 0.05
"""Of the noise's variance: the least that an SDE's mean of squares may be."""
_RATE = "The learning rate is the flow's: st.Flow(..., step=...) or st.minimize(..., step=...)."


class Force(NamedTuple):
    """What moves states in one step of an equation: gradient, its noise, and normals of the squares' own."""

    gradient: Any
    zeta: Any
    own: Any
    law: GradientLaw


class Metric(Method, abc.ABC):
    """What metrics have in common; use `SignSGD`, `RMSprop` or `Adam`.

    Attributes
    ----------
    linear : bool
        Whether a step is the metric times the batch's gradient. A sign's is bounded instead.
    """

    spectral = False
    linear = True
    renewal = 0.0  # the share of the mean squares that one gradient renews
    averaging: Memory | None = None  # of the gradients over the metric
    means: tuple[str, ...] = ()  # running means that steps keep, by their names in `direction`
    leading = False  # whether positions move by means that are of the same step, in `chained`

    @abc.abstractmethod
    def scale(self, variances: Any) -> Any:
        """The diagonal ``p`` of P (..., d), from the mean squares ``v`` of a gradient's entries (..., d)."""

    @abc.abstractmethod
    def direction(self, gradient: Any, means: dict[str, Any]) -> Any:
        """Where a step goes, along minus this: (..., d) from a batch's gradients (..., d) of any library.

        `means` are what the steps before have left, by name: none before the first. They are renewed in
        place, and are all that a run needs to go on.
        """

    def require_law(self, law: GradientLaw) -> None:
        """Raise where this metric's SDE is not known under noise of this law."""

    @abc.abstractmethod
    def chained(self, force: Force, means: dict[str, Any], *, step: float, dt: float) -> Any:
        """What positions (m, d) gain in a step of length `dt` of this metric's equation.

        `means` are there from the start on, as `rest` gives them, and are replaced by those after the step.
        """

    def rest(self, gradient: np.ndarray, variances: np.ndarray) -> dict[str, np.ndarray]:
        """Where the means would settle if the positions stayed where these gradients (..., d) are."""
        return {}

    @abc.abstractmethod
    def pull(self, gradient: np.ndarray, means: dict[str, np.ndarray], law: GradientLaw) -> Pull:
        """What positions gain at gradients (..., d) and given means, and its derivatives."""

    def forgetting(self, name: str) -> float:
        """What an iteration renews of the mean of this name."""
        raise KeyError(name)

    def adapted(
        self, gradient: np.ndarray, means: dict[str, np.ndarray] | None, law: GradientLaw, step: float
    ) -> Adapted:
        """This metric's equation at gradients (..., d), with the means given or settled (None)."""
        rest = self.rest(gradient, law.variances)
        found = {}
        for name, target in rest.items():
            square = name == "second"
            # An iteration renews a share of the mean, and there are 1 / step of them in a unit of t.
            rate = self.forgetting(name) / step
            gained = rate * (target - (target if means is None else means[name]))
            turn = 2 * gradient if square else np.ones_like(gradient)
            found[name] = Mean(rate, gained, turn, own=float(square))
        return Adapted(self.pull(gradient, means or rest, law), found, law.slopes, settled=means is None)

    def kicks(self, covariance: np.ndarray) -> np.ndarray:
        """The gradient covariance (d, d) under which linear steps in this metric are kicked as these are."""
        return covariance

    def gain(self, lam: Any) -> NoReturn:
        raise ValueError(
            f"{self.name}'s metric is diagonal in the coordinates and depends on the noise; it is no "
            "function of the Hessian's eigenvalues. Use st.linearize, st.simulate, st.minimize, or a "
            "spectral method: st.SFN(damping=...)."
        )

    def tail_gain(self, lam_next: Any) -> NoReturn:
        self.gain(lam_next)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self._kept() == other._kept()

    def __hash__(self) -> int:
        return hash((type(self), *self._kept().items()))


class SignSGD(Metric):
    """Steps of one length in every coordinate, ``w+ = w - step * sign(g)``.

    Near a critical point, for Gaussian noise of covariance ``Sigma`` and small steps, this is linear:
    ``P = sqrt(2/pi) D``, ``D = diag(Sigma)^(-1/2)``, with noise of covariance ``(2/pi) arcsin(D Sigma D)``.
    Curvature noise does not enter at this order, since it makes no step longer.

    Examples
    --------
    >>> import numpy as np, stability as st
    >>> flow = st.Flow(st.quadratic([1.0, 0.1]), st.SignSGD(), st.Noise(gradient=[2.0, 0.5]), step=0.01)
    >>> np.round(st.linearize(flow).metric * np.sqrt(np.pi / 2), 6)
    array([0.5, 2. ])
    """

    name = "SignSGD"
    linear = False

    @_check.by_name
    def __init__(self, *, weight_decay: float = 0.0):
        self._decay_by(weight_decay)

    def scale(self, variances: Any) -> Any:
        return BUSSGANG / variances**0.5

    def direction(self, gradient: Any, means: dict[str, Any]) -> Any:
        return namespace(gradient).sign(gradient)

    def require_law(self, law: GradientLaw) -> None:
        still = np.flatnonzero(law.variances == 0)
        if len(still):
            raise ValueError(
                f"The SDE of {self.name} needs noise in every coordinate; the gradient's entry {still[0]} "
                "has none. Use st.simulate(..., level='iteration'), or give it some."
            )
        if not (law.diagonal or np.linalg.eigvalsh(law.correlation)[0] > LEAST_CORRELATED):
            raise ValueError(
                f"The SDE of {self.name} needs noise in every direction, and the gradient's covariance is "
                "singular. Use st.simulate(..., level='iteration'), or add noise to its diagonal."
            )

    def chained(self, force: Force, means: dict[str, Any], *, step: float, dt: float) -> Any:
        xp, law = namespace(force.gradient), force.law
        # A sign's mean and spread, of a Gaussian gradient.
        size = like(law.sizes, force.gradient) if law.everywhere else law.sizes
        height = force.gradient / size
        lean = erf(height / math.sqrt(2), xp)
        spread = xp.sqrt(xp.abs((1 - lean) * (1 + lean)))
        kick = _turned(law.signs(height, spread), force.zeta)
        return math.sqrt(step * dt) * kick - dt * lean

    def pull(self, gradient: np.ndarray, means: dict[str, np.ndarray], law: GradientLaw) -> Pull:
        import scipy

        height = gradient / (math.sqrt(2) * law.sizes)
        slope = BUSSGANG / law.sizes * np.exp(-(height**2))
        # The chances of either sign: far out 1 - lean^2 would be rounding.
        chances = scipy.special.erfc(height) * scipy.special.erfc(-height)
        spread = law.signs(math.sqrt(2) * height, np.sqrt(chances))
        return Pull(-erf(height), -slope, {}, spread, 0.5 * slope * gradient / law.variances)

    def kicks(self, covariance: np.ndarray) -> np.ndarray:
        size = np.sqrt(np.diag(covariance))
        # The correlation of signs is (2/pi) arcsin of the correlation, where rounding near 1 is magnified.
        correlation = np.clip(covariance / np.outer(size, size), -1.0, 1.0)
        np.fill_diagonal(correlation, 1.0)
        return np.outer(size, size) * np.arcsin(correlation)


class RMSprop(Metric):
    """Gradients over the root of their running mean square, ``w+ = w - step * g / (sqrt(v) + eps)``.

    ``v+ = beta2 v + (1 - beta2) g^2``, from 0. Theory is of first order in `step` and in ``1 - beta2``: near
    a critical point ``v_i = Sigma_ii + (H S H)_ii + E[Eg S Eg]_ii``, with the stationary covariance S itself.

    Parameters
    ----------
    beta2 : float
        Decay of the mean square, in [0, 1); PyTorch calls it `alpha`.
    eps : float
        Added to the root, in units of the gradient; >= 0.

    Raises
    ------
    ValueError
        If `beta2` is not in [0, 1), or `eps` is not >= 0.

    Examples
    --------
    >>> import numpy as np, stability as st
    >>> flow = st.Flow(st.quadratic([1.0, 0.1]), st.RMSprop(), st.Noise(gradient=[2.0, 0.5]), step=1e-4)
    >>> np.round(st.linearize(flow).metric, 3)
    array([0.5, 2. ])
    """

    name = "RMSprop"
    parameter_names: tuple[str, ...] = ("beta2", "eps")

    @_check.by_name
    @_check.elsewhere(
        lr=_RATE, alpha="Its decay is beta2=...", momentum="Use st.Momentum(st.RMSprop(), beta=...)."
    )
    @_check.no_rate
    def __init__(self, beta2: float = 0.99, eps: float = 1e-8, *, weight_decay: float = 0.0):
        self.beta2 = _check.fraction("beta2", beta2)
        self.eps = _check.nonnegative("eps", eps)
        self._decay_by(weight_decay)

    @property
    def renewal(self) -> float:  # type: ignore[override]
        return 1 - self.beta2

    def scale(self, variances: Any) -> Any:
        return 1 / (variances**0.5 + self.eps)

    def direction(self, gradient: Any, means: dict[str, Any]) -> Any:
        return _over_root(gradient, _renewed(means, "second", self.beta2, gradient**2), self.eps)

    means: tuple[str, ...] = ("second",)

    def require_law(self, law: GradientLaw) -> None:
        if self.beta2 < SLOW:
            raise ValueError(
                f"The SDE of {self.name} is of mean squares that a step changes little: `beta2` must be >= "
                f"{SLOW:g}; got {self.beta2:g}. Use st.simulate(..., level='iteration')."
            )
        still = np.flatnonzero(law.variances == 0)
        if not self.eps and len(still):
            raise ValueError(
                f"The gradient's entry {still[0]} has no noise: at a critical point {self.name}'s metric is "
                "infinite there. Use st.simulate(..., level='iteration'), noise in every coordinate, or "
                "`eps` > 0."
            )

    def rest(self, gradient: np.ndarray, variances: np.ndarray) -> dict[str, np.ndarray]:
        return {"second": gradient**2 + variances}

    def pull(self, gradient: np.ndarray, means: dict[str, np.ndarray], law: GradientLaw) -> Pull:
        scale, bend = self._scales(means["second"])
        return Pull(-scale * gradient, -scale, {"second": bend * gradient}, scale)

    def _scales(self, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The metric's diagonal, and minus its derivative by the mean square, (..., d) each."""
        scale, root = self.scale(second), np.sqrt(second)
        # Where there is neither noise nor gradient the metric is 1 / eps, and what bends it meets no force.
        return scale, np.divide(scale**2, 2 * root, out=np.zeros_like(scale), where=root > 0)

    def forgetting(self, name: str) -> float:
        return 1 - self.beta2

    def chained(self, force: Force, means: dict[str, Any], *, step: float, dt: float) -> Any:
        scale = self.scale(means["second"])  # before the step: the equation is Ito's
        means["second"] = self._followed(force, means["second"], dt / step)
        return scale * (math.sqrt(step * dt) * force.zeta - dt * force.gradient)

    def _followed(self, force: Force, second: Any, ratio: float) -> Any:
        """The mean squares after so many iterations' time, a share of one."""
        gradient, fresh = force.gradient, 1 - self.beta2
        variances = like(force.law.variances, gradient) if force.law.everywhere else force.law.variances
        # What pushes positions by +zeta is a batch's gradient g - zeta: so the sign in its square.
        noise = force.law.square(force.own) - 2 * gradient * force.zeta
        drift = ratio * (gradient**2 + variances - second)
        ahead = second + fresh * (drift + math.sqrt(ratio) * noise)
        # Squares have no negative mean, which Gaussian noise does not know: it comes here once in a thousand.
        return namespace(ahead).where(ahead > LEAST * variances, ahead, LEAST * variances)


class Adam(RMSprop):
    """Adam (Kingma and Ba 2015): RMSprop of a running mean of gradients, and AdamW with `weight_decay`.

    ``m+ = beta1 m + (1 - beta1) g``, ``v+ = beta2 v + (1 - beta2) g^2``, both from 0 and without their
    start's bias; ``w+ = (1 - step * weight_decay) w - step * m / (sqrt(v) + eps)``. Theory takes m as the
    memory of a linear flow (`Momentum` with averages), which at first order in `step` changes no covariance.
    The learning rate is no argument here: it is the `step` of `Flow`, `bounds` and `minimize`.

    Parameters
    ----------
    beta1, beta2 : float
        Decays of mean and mean square, in [0, 1).
    eps : float
        Added to the root, in units of the gradient; >= 0.
    weight_decay : float
        Decoupled, as in AdamW (Loshchilov and Hutter 2019): a rate, per unit of ``t = iteration * step``.
    decoupled : bool
        False adds ``weight_decay * w`` to the gradient instead, before the metric.

    Raises
    ------
    ValueError
        If a decay is not in [0, 1), or `eps` or `weight_decay` is not >= 0.

    Examples
    --------
    >>> import stability as st
    >>> st.Adam(weight_decay=0.01)
    Adam(beta1=0.9, beta2=0.999, eps=1e-08, weight_decay=0.01)
    >>> flow = st.Flow(st.quadratic([1.0, 0.1]), st.Adam(), st.Noise(gradient=[2.0, 0.5]), step=1e-4)
    >>> st.linearize(flow).metric.round(2)
    array([0.5, 2. ])
    """

    name = "Adam"
    parameter_names = ("beta1", "beta2", "eps")

    @_check.elsewhere(lr=_RATE, betas="Use beta1=... and beta2=...")
    @_check.no_rate
    def __init__(
        self,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled: bool = True,
    ):
        super().__init__(beta2, eps, weight_decay=weight_decay)
        self.beta1 = _check.fraction("beta1", beta1)
        self.decoupled = _check.flag("decoupled", decoupled)

    def direction(self, gradient: Any, means: dict[str, Any]) -> Any:
        count = means["count"] = means.get("count", 0) + 1
        first = _renewed(means, "first", self.beta1, gradient)
        second = _renewed(means, "second", self.beta2, gradient**2)
        # Both fractions are multiplied through by the root's correction: as eps joins the corrected root, it
        # takes it too, and no array is divided for it.
        unbiased = math.sqrt(1 - self.beta2**count)
        return _over_root(first * (unbiased / (1 - self.beta1**count)), second, self.eps * unbiased)

    means = ("first", "second")
    leading = True

    def rest(self, gradient: np.ndarray, variances: np.ndarray) -> dict[str, np.ndarray]:
        return {"first": gradient, **super().rest(gradient, variances)}

    def pull(self, gradient: np.ndarray, means: dict[str, np.ndarray], law: GradientLaw) -> Pull:
        scale, bend = self._scales(means["second"])
        none, mean = np.zeros_like(gradient), means["first"]
        return Pull(-scale * mean, none, {"first": -scale, "second": bend * mean}, none)

    def forgetting(self, name: str) -> float:
        return 1 - (self.beta1 if name == "first" else self.beta2)

    def chained(self, force: Force, means: dict[str, Any], *, step: float, dt: float) -> Any:
        ratio, first = dt / step, means["first"]
        fresh = ratio * (force.gradient - first) - math.sqrt(ratio) * force.zeta
        means["first"] = first + (1 - self.beta1) * fresh
        means["second"] = self._followed(force, means["second"], ratio)
        return -dt * self.scale(means["second"]) * means["first"]

    @property
    def averaging(self) -> Memory | None:  # type: ignore[override]
        return Memory(self.beta1, average=True) if self.beta1 else None

    @property
    def label(self) -> str:
        if not self.weight_decay:
            return self.name
        return "AdamW" if self.decoupled else f"{self.name} + L2 {self.weight_decay:g}"

    def __repr__(self) -> str:
        return super().__repr__()[:-1] + ("" if self.decoupled else ", decoupled=False") + ")"


def _turned(spread: Any, noise: Any) -> Any:
    """Noise (m, d) as `GradientLaw.signs` turns it, entrywise or by matrices."""
    return matvec(spread, noise) if spread.ndim > noise.ndim else spread * noise


def _renewed(means: dict[str, Any], name: str, decay: float, value: Any) -> Any:
    """The running mean of this name, from 0, with one more value in it."""
    if name not in means:
        means[name] = namespace(value).zeros_like(value)
    mean = means[name]
    mean *= decay
    mean += (1 - decay) * value
    return mean


def _over_root(force: Any, square: Any, eps: float) -> Any:
    """``force / (sqrt(square) + eps)``."""
    xp = namespace(square)
    root = xp.sqrt(square)
    if eps:
        return force / (root + eps)
    # Where no gradient ever was there is no force either: 0 / 0 is 0, as for the smallest `eps`.
    return force / xp.where(root > 0, root, xp.ones_like(root))
