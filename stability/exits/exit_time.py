"""The first exit of one linear mode from an interval: how long noise takes to leave a saddle or a sink.

In units of ``R^2 / D`` the law depends on one number, ``kappa = rate R^2 / D``, the drift over the diffusion
(theory, section 2, result 7). Below, ``s = t D / R^2``, ``y = delta / R`` and ``x = sqrt|kappa|``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .. import _check
from .._display import Grid
from .._saving import Result, Study, jsonable, provenance
from .._special import dawson_integral, gauss

_OVERSHOOT = 0.5825971579390106  # -zeta(1/2) / sqrt(2 pi)
# Here the spectrum's rounding, which grows like exp(kappa / 2), meets the error of the far form: 3e-10.
_FAR = 36.0
_BASIS, _SHIFTS = 60, 5


@dataclass(frozen=True)
class ExitTime(Result):
    """The law of the first exit from ``|delta| < radius``, from 0; made by `exit_time`.

    Times are in units of ``t = iteration * step``.

    Attributes
    ----------
    rate, diffusion, radius : float
        Of ``d delta = rate delta dt + sqrt(diffusion) dW``.
    """

    rate: float
    diffusion: float
    radius: float

    @property
    def kappa(self) -> float:
        """``rate * radius^2 / diffusion``: the drift over the diffusion."""
        return self.rate * self._unit

    @property
    def mean(self) -> float:
        """The mean exit time ``(R^2 / D) 2F2(1, 1; 3/2, 2; -kappa)``; inf where it overflows.

        It solves ``D u'' / 2 + rate delta u' = -1``, ``u(+-R) = 0``. Relative error below 1e-13, or
        ``|kappa|`` roundings if larger.
        """
        with np.errstate(over="ignore"):
            return float(self._unit * _scaled_mean(self.kappa) * np.exp(max(0.0, -self.kappa)))

    @property
    def log_mean(self) -> float:
        """The mean's logarithm, finite where the mean itself overflows."""
        return math.log(self._unit) + math.log(_scaled_mean(self.kappa)) + max(0.0, -self.kappa)

    @property
    def asymptotic(self) -> float:
        """The mean for large ``|kappa|``; the mean itself where ``rate = 0``.

        Unstable: ``(log(4 kappa) + euler_gamma) / (2 rate)``, too large by ``1 / (4 rate kappa)``. Stable
        (Kramers): ``sqrt(pi) exp(x^2) / (2 |rate| x)``, too small by the factor ``1 + 1 / (2 x^2)``; inf
        where it overflows.
        """
        if self.rate > 0:
            return (math.log(4 * self.kappa) + np.euler_gamma) / (2 * self.rate)
        with np.errstate(over="ignore"):
            return float(np.exp(self.log_asymptotic)) if self.rate else self.mean

    @property
    def log_asymptotic(self) -> float:
        """The logarithm of `asymptotic`; nan where that is not positive (``0 < kappa < 0.14``)."""
        if self.rate < 0:
            return 0.5 * math.log(math.pi / -self.kappa) - self.kappa - math.log(-2 * self.rate)
        return math.log(self.asymptotic) if self.asymptotic > 0 else math.nan

    def forms(self) -> dict[str, float]:
        """The mean by three roads; inf where it overflows.

        ``hypergeometric`` (mpmath), ``quadrature`` (of Dawson's function), ``asymptotic``.
        """
        import mpmath

        hypergeometric = float(self._unit * mpmath.hyp2f2(1, 1, mpmath.mpf(3) / 2, 2, -self.kappa))
        return {
            "hypergeometric": hypergeometric,
            "quadrature": self._quadrature(),
            "asymptotic": self.asymptotic,
        }

    def survival(self, t: Any) -> Any:
        """``P(T > t)``, the probability of not having left by time `t`; absolute error below 1e-9.

        Up to ``|kappa| = 36`` it is the eigenfunction expansion of the symmetrised generator (error 3e-10 at
        kappa = 36, below 1e-12 up to 20). Beyond, a stable mode's exit is exponential, and an unstable mode's
        is a combination of ``erf(x / sqrt(exp(2 rate (t + shift)) - 1))`` with the exact mean (error 3e-10 at
        36, below 1e-12 from 60 on).

        Parameters
        ----------
        t : float or array, any shape
            ``t >= 0``; may be infinite.

        Returns
        -------
        float or array, shape of `t`

        Raises
        ------
        ValueError
            If `t` holds anything but numbers ``>= 0``.
        """
        times = np.asarray(t)
        if times.dtype.kind not in "iuf" or not (times >= 0).all():
            raise ValueError(f"`t` must hold numbers >= 0, and no nan; got {t!r:.60}.")
        with np.errstate(over="ignore", divide="ignore"):
            s = times / self._unit
            # By reflection 1 - S <= 2 erfc: a bound that is sharp where the expansion has not converged yet.
            result = np.clip(self._survival(s), np.maximum(2 * _inside(self.kappa, s) - 1, 0), 1)
        return float(result) if result.ndim == 0 else result

    def quantile(self, p: float) -> float:
        """When a share `p` of the paths has left: the inverse of ``1 - survival``, to its accuracy.

        Raises
        ------
        ValueError
            If `p` is not in (0, 1).
        """
        import scipy

        if _check.positive("p", p) >= 1:
            raise ValueError(f"`p` must be a probability in (0, 1); got {p}.")
        if self.kappa < -_FAR:
            return -math.log1p(-p) * self.mean
        low = high = self.mean
        # The mean is inside the law's bulk: a few halvings or doublings bracket any quantile.
        while self.survival(low) < 1 - p:
            low /= 2
        while self.survival(high) > 1 - p:
            high *= 2
        return scipy.optimize.brentq(
            lambda t: self.survival(t) - (1 - p), low, high, xtol=1e-14 * high, rtol=1e-13
        )

    def monitored(self, dt: float) -> ExitTime:
        """The exit of a path watched only every `dt`, such as an Euler-Maruyama path.

        The radius grows by ``0.5826 sqrt(D dt)``. The constant, ``-zeta(1/2) / sqrt(2 pi)``, is a Gaussian
        walk's mean overshoot (Broadie, Glasserman, Kou 1997, "A continuity correction for discrete barrier
        options"). What remains is O(dt) where the path is a chain of its own: see `chain`.

        Raises
        ------
        ValueError
            If `dt` is not a finite number > 0.
        """
        return exit_time(
            rate=self.rate,
            diffusion=self.diffusion,
            radius=self.radius + _OVERSHOOT * math.sqrt(self.diffusion * _check.positive("dt", dt)),
        )

    def chain(self, dt: float) -> ExitTime:
        """The exit of the Euler-Maruyama chain with time step `dt`, to first order in ``sqrt(dt)``.

        It is what `simulate` measures. The chain is, at its times, the Ornstein-Uhlenbeck process of rate
        ``log(1 + rate dt) / dt`` with the same one-step variance; that process is then `monitored`. Its mean
        is too small: by ``dt / 4`` where noise dominates a step at the edge, up to ``dt / 2`` where drift
        does (measured, with the drift ``rate dt radius`` at 1/2, 1, 4 and 40 times the noise ``sqrt(diffusion
        dt)``: 0.27, 0.29, 0.39 and 0.49 dt). The chain's own law is `Escape.chain`, of the result of
        `stability.escape`.

        Raises
        ------
        ValueError
            If `dt` is not > 0, or so large that ``1 + rate dt <= 0``.
        """
        growth = self.rate * _check.positive("dt", dt)
        if growth <= -1:
            raise ValueError(
                f"`dt` must be < {-1 / self.rate:.4g} for the rate {self.rate:g}: the chain overshoots at "
                f"each step; got {dt:g}."
            )
        if growth == 0:
            return self.monitored(dt)
        # An Ornstein-Uhlenbeck process of this rate r and diffusion D' has the factor 1 + g and
        # the one-step variance D' ((1 + g)^2 - 1) / (2 r), which is to be D dt; g = rate dt.
        rate = math.log1p(growth) / dt
        return exit_time(
            rate=rate, diffusion=2 * self.diffusion * rate / (self.rate * (2 + growth)), radius=self.radius
        ).monitored(dt)

    def data(self) -> Study:
        """The survival function over four mean times, for `stability.plot`."""
        if not math.isfinite(self.mean):
            raise ValueError(
                f"The mean exit time is exp({self.log_mean:.4g}): there is no time axis to draw it on."
            )
        t = np.linspace(0.0, 4 * self.mean, 201)
        about = {
            "rate": self.rate,
            "diffusion": self.diffusion,
            "radius": self.radius,
            "mean": self.mean,
            "asymptotic": self.asymptotic,
        }
        return Study("exit-time", {"t": t, "survival": self.survival(t)}, jsonable(about), provenance())

    def _page(self) -> Iterator[str | Grid]:
        kind = (
            "unstable"
            if self.rate > 0
            else "stable: it leaves against the drift"
            if self.rate < 0
            else "Brownian"
        )
        yield (
            f"first exit of d delta = {self.rate:g} delta dt + sqrt({self.diffusion:g}) dW from |delta| < "
            f"{self.radius:g} ({kind})"
        )
        rows = [
            ("kappa = rate R^2 / D", self.kappa),
            ("mean exit time", _long(self.mean, self.log_mean)),
            ("for large |kappa|", _long(self.asymptotic, self.log_asymptotic)),
        ]
        yield Grid([("", ""), ("value", ".6g")], rows)

    @property
    def _unit(self) -> float:
        return self.radius * self.radius / self.diffusion

    @cached_property
    def _survival(self) -> Callable[[np.ndarray], np.ndarray]:
        """The survival as a function of s."""
        if self.kappa > _FAR:
            shifts, weights = _shifts(self.kappa)
            return lambda s: _inside(self.kappa, s[..., None] + shifts) @ weights
        if self.kappa < -_FAR:
            log_mean = self.log_mean - math.log(self._unit)
            # By logarithms: the mean itself overflows.
            return lambda s: np.exp(-np.exp(np.log(s) - log_mean))
        rates, shares = _spectrum(self.kappa)
        return lambda s: np.exp(-s[..., None] * rates) @ shares

    def _quadrature(self) -> float:
        """``int_0^1 h(kappa z) dz``, ``h(k) = Dawson(sqrt k) / sqrt k``.

        For k < 0 that is ``sqrt(pi) exp(-k) erf(sqrt(-k)) / (2 sqrt(-k))``.
        """
        import scipy

        size = abs(self.kappa)
        if size < 1e-8:
            return self._unit * (1 - self.kappa / 3)

        def unstable(v: float) -> float:
            return scipy.special.dawsn(math.sqrt(v)) / math.sqrt(v)

        def stable(v: float) -> float:  # from the end z = 1, without the factor exp(size)
            return (
                0.5 * math.sqrt(math.pi) * math.exp(-v) * math.erf(math.sqrt(size - v)) / math.sqrt(size - v)
            )

        # The integrand's scale is 1 however long the interval: break points keep the first decade in sight.
        decades = 10.0 ** np.arange(math.ceil(math.log10(size))) if size > 1 else None
        total = scipy.integrate.quad(
            stable if self.rate < 0 else unstable, 0, size, points=decades, epsabs=0, epsrel=1e-12, limit=500
        )[0]
        with np.errstate(over="ignore"):
            return float(self._unit * total / size * np.exp(max(0.0, -self.kappa)))


def _long(time: float, logarithm: float) -> float | str:
    """A time as a cell: by its logarithm where it overflows."""
    return f"exp({logarithm:.6g})" if math.isinf(time) else time


@_check.by_name
def exit_time(*, rate: float, diffusion: float, radius: float) -> ExitTime:
    """The first exit of ``d delta = rate delta dt + sqrt(diffusion) dW`` from ``|delta| < radius``, from 0.

    A mode of a flow has ``rate = -phi lam`` and ``diffusion = step phi^2 sigma^2``.

    Parameters
    ----------
    rate : float
        Per unit of t: positive at a saddle's unstable mode, negative where the flow is attracted, 0 for
        Brownian motion.
    diffusion, radius : float
        > 0; in squared length per unit of t, and length.

    Raises
    ------
    ValueError
        If an argument is not such a number, or ``radius^2 / diffusion`` is 0 or infinite, or beyond 1e200
        times the rate.

    Examples
    --------
    >>> from stability.exits.exit_time import exit_time
    >>> exit_time(rate=0.0, diffusion=0.5, radius=2.0).mean  # Brownian motion: R^2 / D
    8.0
    """
    rate = _check.finite("rate", rate)
    found = ExitTime(rate, _check.positive("diffusion", diffusion), _check.positive("radius", radius))
    if not (0 < found._unit < math.inf and abs(found.kappa) <= 1e200):
        raise ValueError(
            "`radius` must give a finite radius^2 / diffusion > 0, and at most 1e200 times the rate; got "
            f"{found._unit:g} and {found.kappa:g}."
        )
    return found


def _scaled_mean(kappa: float) -> float:
    """The mean in units of ``R^2 / D``, times ``exp(-x^2)`` where kappa < 0, so that it cannot overflow."""
    import scipy

    x = math.sqrt(abs(kappa))
    if kappa > 1:
        return float(2 * dawson_integral(x)) / kappa
    # It is (sqrt(pi) / x^2) (Dawson(x) - exp(-x^2) int_0^x erfcx), whose second term is below rounding here.
    if kappa < -_FAR:
        return math.sqrt(math.pi) * float(scipy.special.dawsn(x)) / x / x
    # Between -36 and 1: the terms are all positive for kappa < 0 and
    # no larger than 1 beyond, so none cancel, and 200 are enough.
    n = np.arange(200)  # 2F2 = sum_n (-kappa)^n / ((3/2)_n (n + 1))
    return float(np.sum(np.cumprod(np.append(1.0, -kappa / (n[:-1] + 1.5))) / (n + 1))) * math.exp(
        min(0.0, kappa)
    )


def _inside(kappa: float, s: np.ndarray) -> np.ndarray:
    """The probability, for kappa >= 0, to be inside at s, whether or not a path had left before.

    ``erf(1 / sqrt(2 v))``, v its variance. For kappa < 0 the same of the martingale ``exp(x^2 s) y``, which
    is outside whenever y is.
    """
    import scipy

    s = np.clip(s, 0.0, 1e300)
    return scipy.special.erf(1 / np.sqrt(2 * s * scipy.special.exprel(2 * abs(kappa) * s)))


def _spectrum(kappa: float) -> tuple[np.ndarray, np.ndarray]:
    """Decay rates and shares of the survival's exponentials, in units of s.

    ``v = exp(kappa y^2 / 2) u`` makes the generator symmetric: ``-v'' / 2 + (kappa^2 y^2 + kappa) v / 2``.
    The basis of Legendre polynomials, ``P_(j+2) - P_j`` with j even, vanishes at the ends and has orthogonal
    derivatives.
    """
    import scipy

    j, (nodes, weights) = 2 * np.arange(_BASIS), gauss(200)
    values = np.polynomial.legendre.legvander(np.append(nodes, 0.0), 2 * _BASIS)
    values = (values[:, j + 2] - values[:, j]) / np.sqrt(2 * (2 * j + 3))
    basis, center = values[:-1], values[-1]
    weighted = basis.T * weights
    # The shift by |kappa| keeps the energy well conditioned where the lowest rate is exponentially small.
    energy = 0.5 * np.eye(_BASIS) + weighted @ (
        basis * (0.5 * (kappa * kappa * nodes**2 + kappa) + abs(kappa))[:, None]
    )
    inverse, vectors = scipy.linalg.eigh(weighted @ basis, energy)
    rates = 1 / inverse - abs(kappa)
    shares = (weighted @ np.exp(0.5 * kappa * nodes**2) @ vectors) * (center @ vectors) / inverse
    if kappa < 0:  # the lowest rate is lost in rounding; the mean, which is sum(shares / rates), is not
        rates[-1] = shares[-1] / (_scaled_mean(kappa) * math.exp(-kappa) - np.sum(shares[:-1] / rates[:-1]))
    return rates, shares


def _shifts(kappa: float) -> tuple[np.ndarray, np.ndarray]:
    """Shifts tau (in s) and weights w such that the survival is ``sum w _inside(s + tau)``, for large kappa.

    A path that is inside has not left, or left a time r ago and is back, of probability ``q(r) = erfc(x
    sqrt(tanh(kappa r / 2))) / 2`` (from the other end, below ``exp(-kappa)``): ``inside = S - S' * q``, a
    convolution. By the moments of q that is a power series in d/ds acting on S; its inverse is matched by
    shifts, ``exp(tau d/ds)``, as a Gauss rule matches moments. The first moment makes the mean exact.
    """
    import scipy

    order = np.arange(2 * _SHIFTS)
    nodes, weights = gauss(200)
    root = 4.0 * (nodes + 1)  # of kappa^2 r, in which q has a width of order one
    density = 8.0 * root * weights * 0.5 * scipy.special.erfc(np.sqrt(kappa * np.tanh(0.5 * root**2 / kappa)))
    moments = (root[:, None] ** (2 * order)).T @ density / scipy.special.factorial(order)
    inverse = np.ones(2 * _SHIFTS)
    for n in order[1:]:
        inverse[n] = np.sum((-1.0) ** order[:n] * moments[:n] * inverse[n - 1 :: -1])
    target = inverse * scipy.special.factorial(order)
    # Prony's equations: shifts and weights from twice as many moments.
    hankel = target[np.add.outer(order[:_SHIFTS], order[:_SHIFTS])]
    tau = np.real(np.roots(np.append(1.0, np.linalg.solve(hankel, -target[_SHIFTS:])[::-1])))
    return tau / kappa / kappa, np.linalg.solve(np.vander(tau, increasing=True).T, target[:_SHIFTS])
