"""Metrics: preconditioners that are diagonal in the coordinates and follow the noise of the gradient.

``P = diag(p)`` with ``p = 1 / (sqrt(v) + eps)``, where ``v_i`` is the mean square of the i-th gradient entry.
A spectral method turns with the problem; a metric does not, so that it depends on how the coordinates lie.
"""

from __future__ import annotations

import math
from typing import Any, NoReturn

import numpy as np

from .. import _check
from .._array import namespace
from .memory import Memory
from .method import Method

BUSSGANG = math.sqrt(2 / math.pi)
"""``E[sign(x) y] = BUSSGANG E[x y] / std(x)`` for Gaussian x and y."""


class Metric(Method):
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

    def scale(self, variances: Any) -> Any:
        """The diagonal ``p`` of P (..., d), from the mean squares ``v`` of a gradient's entries (..., d)."""
        raise NotImplementedError

    def direction(self, gradient: Any, means: dict[str, Any]) -> Any:
        """Where a step goes, along minus this: (..., d) from a batch's gradients (..., d) of any library.

        `means` are what the steps before have left, by name: none before the first. They are renewed in
        place, and are all that a run needs to go on.
        """
        raise NotImplementedError

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

    def __init__(self) -> None:
        pass

    def scale(self, variances: Any) -> Any:
        return BUSSGANG / variances**0.5

    def direction(self, gradient: Any, means: dict[str, Any]) -> Any:
        return namespace(gradient).sign(gradient)

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

    def __init__(self, beta2: float = 0.99, eps: float = 1e-8):
        self.beta2 = _check.fraction("beta2", beta2)
        self.eps = _check.nonnegative("eps", eps)

    @property
    def renewal(self) -> float:  # type: ignore[override]
        return 1 - self.beta2

    def scale(self, variances: Any) -> Any:
        return 1 / (variances**0.5 + self.eps)

    def direction(self, gradient: Any, means: dict[str, Any]) -> Any:
        return _over_root(gradient, _renewed(means, "second", self.beta2, gradient**2), self.eps)


class Adam(RMSprop):
    """Adam (Kingma and Ba 2015): RMSprop of a running mean of gradients, and AdamW with `weight_decay`.

    ``m+ = beta1 m + (1 - beta1) g``, ``v+ = beta2 v + (1 - beta2) g^2``, both from 0 and without their
    start's bias; ``w+ = (1 - step * weight_decay) w - step * m / (sqrt(v) + eps)``. Theory takes m as the
    memory of a linear flow (`Momentum` with averages), which at first order in `step` changes no covariance.

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
    """

    name = "Adam"
    parameter_names = ("beta1", "beta2", "eps")

    def __init__(
        self,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled: bool = True,
    ):
        super().__init__(beta2, eps)
        self.beta1 = _check.fraction("beta1", beta1)
        self.weight_decay = _check.nonnegative("weight_decay", weight_decay)
        self.decoupled = _check.flag("decoupled", decoupled)

    def direction(self, gradient: Any, means: dict[str, Any]) -> Any:
        count = means["count"] = means.get("count", 0) + 1
        first = _renewed(means, "first", self.beta1, gradient)
        second = _renewed(means, "second", self.beta2, gradient**2)
        unbiased = math.sqrt(1 - self.beta2**count)
        return _over_root(first * (unbiased / (1 - self.beta1**count)), second, self.eps * unbiased)

    @property
    def averaging(self) -> Memory | None:  # type: ignore[override]
        return Memory(self.beta1, average=True) if self.beta1 else None

    @property
    def label(self) -> str:
        return "AdamW" if self.weight_decay and self.decoupled else self.name

    def __repr__(self) -> str:
        decay = f", weight_decay={self.weight_decay!r}" if self.weight_decay else ""
        return super().__repr__()[:-1] + decay + ("" if self.decoupled else ", decoupled=False") + ")"


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
