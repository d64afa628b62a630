"""One mode of the stochastic iteration without linearisation, by quadrature over the Hessian batch's noise.

Along one eigenvector the iteration is ``delta+ = (1 - alpha X) delta - alpha phi(lam + E_h) zeta`` with the
random rate ``X = phi(lam + E_h) (lam + E_g)``. Given ``E_h = e`` the factor ``1 - alpha X`` is Gaussian, with
a closed form for every moment; what is left is one integral over e. Poles of the gain and heavy tails are
looked for first, so that a moment that is infinite is said to be so. Everything is kept in logarithms: no
order of moment overflows.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from .. import _check
from .._check import Unstable
from .._display import Grid
from .._estimate import Estimate
from .._saving import Result, Study, provenance
from .._special import gaussian_log_moment, gaussian_mean_log
from ..methods.memory import memoryless
from ..methods.method import Method
from ..methods.response import check_regular, gains_at
from ..noise import DataNoise, Noise
from .law import Function, ModeLaw, small_points

_MANY = 1e5  # a Kesten root beyond this order is reported as infinite
_SURVEY = 2.0 ** np.arange(-200, 200, 0.125)  # distances at which a density's scale and edges are looked for


class ExactMode(Result):
    """One mode of the stochastic iteration, nothing linearised; made by `exact_mode`.

    Attributes
    ----------
    method : Method
    curvature : float
        ``lam``, the eigenvalue of the mode.
    sigma : float
        Standard deviation of the gradient noise ``zeta`` of one batch.
    """

    def __init__(
        self,
        method: Method,
        curvature: float,
        sigma: float,
        gain: Callable,
        follow: float,
        rest: float,
        law: ModeLaw | None,
        asked: tuple[Noise, Any],
    ):
        self.method, self.curvature, self.sigma, self._asked = method, curvature, sigma, asked
        self._gain, self._follow, self._rest, self._law = gain, follow, rest, law

    def _kept(self) -> dict[str, Any]:
        noise, density = self._asked
        return {"method": self.method, "curvature": self.curvature, "noise": noise} | (
            {} if density is None else {"density": _frozen(density)}
        )

    @classmethod
    def _restored(cls, **values: Any) -> ExactMode:
        return exact_mode(**values | {"density": _thawed(values.get("density"))})

    def _rate(self, x: Any) -> tuple[Any, Any]:
        """Mean and standard deviation of ``X`` given ``E_h = x - lam``."""
        # Where the batches share samples, the curvature in the gradient follows the Hessian batch's; the rest
        # of it is independent of that one.
        gain, decay = self._gain(x), self.method.weight_decay
        return decay + gain * (self._follow * x + (1 - self._follow) * self.curvature), np.abs(
            gain
        ) * self._rest

    def _factor(self, x: Any, step: float) -> tuple[Any, Any]:
        """The same of ``1 - step X``."""
        mean, spread = self._rate(x)
        return 1 - step * mean, step * spread

    @np.errstate(all="ignore")
    def _expect(
        self,
        value: Function,
        log_factor: Function | None = None,
        what: str = "",
        order: float = 0.0,
        extra: Any = (),
    ) -> tuple[float, float, float]:
        log_factor = log_factor or (lambda x, e: 0.0 * x)
        if self._law is None:
            x = np.array([self.curvature])
            return float(value(x, 0 * x)[0]), 0.0, float(log_factor(x, 0 * x)[0])
        return self._law.expect(value, log_factor, what, order, extra)

    def _mean(self, value: Function, what: str = "", extra: Any = ()) -> tuple[float, float]:
        """``E[value]`` and its error."""
        total, error, shift = self._expect(value, None, what, 1.0, extra)
        return total * math.exp(shift), error * math.exp(shift)

    @np.errstate(all="ignore")
    def _sites(self, step: float) -> tuple[np.ndarray, list[float]]:
        """Points (n,) where the factor is worth looking at, and the zeros of its mean."""
        if self._law is None:
            return np.array([self.curvature]), []
        grid = self._law.grid(x for x, _ in self._law.anchors)
        grid = grid[self._law.log_density(grid - self.curvature) > -math.inf]

        def mean(x: Any) -> Any:
            value = self._factor(x, step)[0]
            return value * (np.abs(value) > 4e-16)  # rounding has no zeros worth finding

        return grid, small_points(mean, grid)

    @np.errstate(all="ignore")
    def _constant(self, step: float, grid: np.ndarray) -> float | None:
        """``|1 - step X|`` where it does not vary; 0 if within rounding of it.

        As for Newton's method with one batch for both.
        """
        mean, spread = self._factor(grid, step)
        # What varies by less is the gain's rounding, and a logarithm of it would be integrated.
        if np.any(spread > 0) or not np.nanmax(mean) - np.nanmin(mean) <= 1e-14:
            return None
        size = abs(float(np.nanmedian(mean)))
        return size if size > 1e-15 else 0.0

    @np.errstate(all="ignore")
    def _log_power(
        self, log_f: Function, what: str, order: float, grid: np.ndarray, extra: list[float]
    ) -> tuple[float, float]:
        """``log E exp(log_f)`` and its error."""
        import scipy

        # A high order moves the integrand's peak far from every mark, and makes it narrow: it gets its own.
        if order > 20 and self._law is not None:
            law = self._law
            height = law.log_density(grid - self.curvature) + log_f(grid, None)
            i = int(np.argmax(height))
            bounds = (grid[max(i - 1, 0)], grid[min(i + 1, len(grid) - 1)])

            def down(x: float) -> float:
                return -float(law.log_density(np.array(x - self.curvature)) + log_f(np.array([x]), None)[0])

            options = {"xatol": 1e-5 * (bounds[1] - bounds[0])}
            found = scipy.optimize.minimize_scalar(down, bounds=bounds, method="bounded", options=options)
            extra = [*extra, float(found.x)]
        total, error, shift = self._expect(lambda x, e: 1 + 0 * x, log_f, what, order, extra)
        return (math.log(total) + shift, error / total) if total > 0 else (-math.inf, 0.0)

    def _log_moment(self, order: float, step: float) -> tuple[float, float]:
        grid, zeros = self._sites(step)
        constant = self._constant(step, grid)
        if constant is not None:
            return (order * math.log(constant) if constant else -math.inf), 1e-15
        return self._log_power(
            lambda x, e: gaussian_log_moment(order, *self._factor(x, step)), "rate", order, grid, zeros
        )

    def _estimate(self, what: str, order: float, logarithm: Callable[[], tuple[float, float]]) -> Estimate:
        reason = self._law.reason(what, order) if self._law else ""
        if reason:
            return Estimate(math.inf, 0.0, reason)
        log, error = logarithm()
        if log > 700:
            raise ArithmeticError(
                f"The moment of order {order:g} is finite but exp({log:.4g}), beyond the largest float. Ask "
                "for a lower `order`."
            )
        return Estimate(math.exp(log), math.exp(log) * error)

    def moment(self, order: float, step: float) -> Estimate:
        """``E|1 - step X|^order``; infinite, with the reason, where the moment does not exist.

        Raises
        ------
        ValueError
            If `order` or `step` is not a finite number > 0.
        ArithmeticError
            If the quadrature does not reach its tolerance, or the moment is finite but overflows.
        """
        order, step = _check.positive("order", order), _check.positive("step", step)
        return self._estimate("rate", order, lambda: self._log_moment(order, step))

    def gain_moment(self, order: float) -> Estimate:
        """``E|phi(lam + E_h)|^order``; raises as `moment` does."""
        order = _check.positive("order", order)
        grid = self._sites(1.0)[0]

        def log_gain(x: Any, e: Any) -> Any:
            return order * np.log(np.abs(self._gain(x)))

        return self._estimate("gain", order, lambda: self._log_power(log_gain, "gain", order, grid, []))

    def lyapunov(self, step: float) -> Estimate:
        """``E log|1 - step X|``: the mode is almost surely stable where it is negative.

        Raises as `moment` does.
        """
        step = _check.positive("step", step)
        grid, zeros = self._sites(step)
        constant = self._constant(step, grid)
        if constant == 0:
            return Estimate(-math.inf, 0.0, "1 - step X vanishes: one iteration reaches the critical point")
        if constant:
            return Estimate(math.log(constant), 1e-15 / constant)
        return Estimate(*self._mean(lambda x, e: gaussian_mean_log(*self._factor(x, step)), extra=zeros))

    @functools.cached_property
    def _log_rate_square(self) -> tuple[float, float]:
        """``log E X^2`` and its error."""
        return self._log_power(lambda x, e: 2 * np.log(np.hypot(*self._rate(x))), "rate", 2, np.zeros(0), [])

    @functools.cached_property
    def _mean_square(self) -> tuple[float, float]:
        if self._law and self._law.reason("rate", 2):
            return 0.0, 0.0
        first, error = self._mean(lambda x, e: self._rate(x)[0], "rate")
        log_second, relative = self._log_rate_square
        # A mean within its error of zero has no sign, and a limit needs it positive.
        if first <= error or log_second == -math.inf:
            return 0.0, 0.0
        limit = 2 * first * math.exp(-log_second)
        return limit, limit * (error / first + relative)

    @property
    def mean_square_limit(self) -> float:
        """The largest step with ``E(1 - step X)^2 < 1``, ``2 E X / E X^2``; 0 where there is none."""
        return self._mean_square[0]

    @property
    def mean_square_error(self) -> float:
        """The quadrature's estimate of the error of `mean_square_limit`."""
        return self._mean_square[1]

    @functools.cached_property
    def almost_sure_limit(self) -> float:
        """The smallest step at which ``E log|1 - step X|`` turns nonnegative.

        0 if it is so at small steps, inf if it never does. Found on a geometric scan of 12 steps a decade: an
        unstable window narrower than that may be missed.
        """
        import scipy

        if not (self._law and self._law.reason("rate", 1)):
            mean, error = self._mean(lambda x, e: self._rate(x)[0], "rate")
            if mean < -error:  # E log|1 - step X| = -step E X + O(step^2)
                return 0.0
        around = [0.0] if self._law is None else [*self._law.marks, 0.5 * self._law.unit]
        with np.errstate(all="ignore"):
            size = np.hypot(*self._rate(self.curvature + np.array(around)))
        size = size[np.isfinite(size) & (size > 0)]
        if not len(size):
            return 0.0
        # The exponent is not monotone in the step, and its first zero is asked for: a scan brackets it, in
        # units of what a typical rate allows.
        steps = 10 ** np.arange(-3, 8, 1 / 12) / np.median(size)

        def growth(step: float) -> float:
            return self.lyapunov(step).value

        first = next((i for i, step in enumerate(steps) if growth(step) >= 0), None)
        if first is None:
            return math.inf
        if not first:
            return 0.0
        low, high = steps[first - 1 : first + 1]
        return float(scipy.optimize.brentq(growth, low, high, xtol=1e-13 * low, rtol=1e-12))

    def tail_index(self, step: float) -> float:
        """The tail index of the stationary law: its moments are finite below it, infinite above.

        The smaller of Kesten's root ``s > 0`` of ``E|1 - step X|^s = 1`` (Kesten 1973; Goldie 1991, Theorem
        4.1) and of the index of the additive term ``phi(lam + E_h) zeta``, for any nonzero gradient noise.
        Where all moments are finite it is infinite; a root beyond 1e5 counts as such.

        Raises
        ------
        Unstable
            If ``E log|1 - step X| >= 0``: there is no stationary law.
        """
        growth = self.lyapunov(step)
        if growth.value >= 0:
            raise Unstable(
                f"A stationary law does not exist for {self.method.name} at step {step:g}: E log|1 - step X| "
                f"= {growth.value:.4g} (+- {growth.error:.1g}) >= 0, almost-sure stability ends at step "
                f"{self.almost_sure_limit:.4g}. Take a smaller step."
            )
        additive, critical = (self._law.index(what) if self._law else math.inf for what in ("gain", "rate"))
        return min(additive, self._kesten(step, growth.value, critical))

    @property
    def pole(self) -> tuple[float, str]:
        """The order from which on one step has no moment ``E|X|^order``, and why; inf where it has all."""
        if self._law is None:
            return math.inf, ""
        order = self._law.index("rate")
        return order, self._law.reason("rate", order)

    def _kesten(self, step: float, growth: float, critical: float) -> float:
        import scipy

        with np.errstate(all="ignore"):
            mean, spread = self._factor(self._sites(step)[0], step)
        # A factor that never exceeds one has no moment above one: the root is at infinity.
        bounded = not np.any(spread > 0) and np.nanmax(np.abs(mean)) <= 1 + 1e-12
        if growth == -math.inf or (bounded and math.isinf(critical)):
            return math.inf

        def log_norm(order: float) -> float:  # of |1 - step X|: increasing in the order, E log at 0
            return self._log_moment(order, step)[0] / order if order else growth

        # At the critical order itself the moment is infinite.
        high = critical * (1 - 1e-8) if math.isfinite(critical) else 1.0
        while log_norm(high) < 0:
            high *= 2
            if high > min(_MANY, critical):
                return critical
        return float(scipy.optimize.brentq(log_norm, 0.0, high, rtol=1e-11))

    def variance(self, step: float) -> float:
        """Stationary variance ``step^2 sigma^2 E[phi^2] / (1 - E(1 - step X)^2)``, in the parameter's units.

        Infinite where it does not exist: ``moment(2, step)`` (not below 1) or ``gain_moment(2)`` says why.
        """
        step, limit = _check.positive("step", step), self.mean_square_limit
        if step >= limit:
            return math.inf
        if not self.sigma:
            return 0.0
        # 1 - E(1 - step X)^2 = step E X^2 (limit - step), which loses no digits where the step is small.
        lost = math.exp(self._log_rate_square[0]) * (limit - step)
        return step * self.sigma**2 * self.gain_moment(2).value / lost

    def data(self) -> Study:
        """``E(1 - step X)^2`` and ``E log|1 - step X|`` against the step, for `stability.plot`.

        The mode is stable where they are below 1 and 0.
        """
        limits = np.array([self.mean_square_limit, self.almost_sure_limit])
        reach = max([limit for limit in limits if 0 < limit < math.inf], default=1.0)
        steps = np.linspace(0.0, 1.3 * reach, 61)[1:]
        growth = np.array([self.lyapunov(step).value for step in steps])
        square = np.array([self.moment(2, step).value for step in steps])
        arrays = {"step": steps, "growth": growth, "square": square, "limits": limits}
        about = {"method": self.method.label, "curvature": self.curvature}
        return Study("exact-mode", arrays, about, provenance())

    def _page(self) -> Iterator[str | Grid]:
        yield (
            f"{self.method.label}, one mode, lambda = {self.curvature:g}: the iteration itself, nothing "
            "linearised"
        )
        estimates = [
            ("E|phi|", self.gain_moment(1)),
            ("E phi^2", self.gain_moment(2)),
            ("mean-square step limit", Estimate(*self._mean_square)),
        ]
        rows = [(name, estimate.value, estimate.error) for name, estimate in estimates]
        found = ("almost-sure step limit", self.almost_sure_limit, None)
        yield Grid([("", ""), ("value", ".6g"), ("+-", ".1g")], [*rows, found])
        yield from (f"{name} is infinite: {one.reason}" for name, one in estimates if one.reason)
        if self.mean_square_limit == 0:
            reason = self._law.reason("rate", 2) if self._law else ""
            yield f"no step is mean-square stable: {reason or 'E X <= 0'}"


@_check.by_name
def exact_mode(method: Method, *, curvature: float, noise: Noise, density: Any = None) -> ExactMode:
    """One mode of the stochastic iteration, nothing linearised: step limits, tail index, variance.

    Parameters
    ----------
    method : Method
        A truncated method is taken on a mode that it keeps whatever the noise. Decoupled weight decay adds
        to the rate, ``X = phi h + weight_decay``, and draws to the critical point.
    curvature : float
        The eigenvalue ``lam`` of the mode, in units of the objective over the parameter squared.
    noise : Noise
        Gaussian noise, of which a diagonal entry counts: variance ``2 tau_1^2`` per sample.
    density : scipy.stats frozen distribution or callable, optional
        The law of ``E_h`` of one Hessian batch, or its density on the real line, in place of the Gaussian.
        ``E_g`` stays Gaussian and independent; where both batches are the same one, ``E_g = E_h`` has this
        law too.

    Returns
    -------
    ExactMode
        Relative accuracy about 1e-10, with error estimates; a quadrature that fails raises.

    Raises
    ------
    ValueError
        If the gain is singular at `curvature` and nothing moves it, the noise is estimated from data or not
        of one dimension, `density` does not integrate to one, or it comes with nested batches that are not
        the same.

    References
    ----------
    H. Kesten, Acta Math. 131 (1973) 207-248; C. M. Goldie, Ann. Appl. Probab. 1 (1991) 126-166.

    Examples
    --------
    For SGD the limit is ``2 lam / (lam^2 + s_g^2)``, here with ``s_g^2 = 2 * 0.5^2``:

    >>> import stability as st
    >>> round(st.exact_mode(st.SGD(), curvature=1.0, noise=st.Noise(curvature=0.5)).mean_square_limit, 9)
    1.333333333
    """
    if not isinstance(method, Method):
        raise ValueError(
            f"`method` must be a st.Method; got {method!r}. Use st.SFN(damping=...) or st.Method(gain=...)."
        )
    instead = "st.lyapunov_exponents(flow) and st.linearize(flow).tail_index"
    memoryless(method, "st.exact_mode", instead, decay=True)
    lam = float(_check.array("curvature", curvature, ndim=0, shape="()"))
    sigma = _checked(noise, density)
    own, shared, other = noise.scales

    def gain(x: Any) -> Any:
        x = np.asarray(x, dtype=float)  # a NumPy number divides by zero quietly
        return gains_at(method, x)

    follow = shared / other if other else 0.0
    rest = noise.curvature * math.sqrt(2 * own * (1 - follow))

    def rate(x: Any, e: Any) -> Any:
        return np.abs(gain(x)) * np.hypot(follow * x + (1 - follow) * lam, rest)

    spread = noise.curvature * math.sqrt(2 * other)
    if density is None and spread == 0:
        check_regular(method, np.array([lam]))
        return ExactMode(method, lam, sigma, gain, follow, rest, None, (noise, density))
    with np.errstate(all="ignore"):
        law = ModeLaw(lam, *(_gaussian(spread) if density is None else _given(density)), gain, rate)
        # The law's own mass is a check of the user's density, and of the marks by which it is integrated.
        mass, _, shift = law.expect(lambda x, e: 1 + 0 * x, lambda x, e: 0 * x)
    mass *= math.exp(shift)
    if not abs(mass - 1) <= 1e-6:
        raise ValueError(
            f"`density` must integrate to 1; got {mass:.9g}. Divide it by that, or give a scipy.stats "
            "distribution."
        )
    return ExactMode(method, lam, sigma, gain, follow, rest, law, (noise, density))


def _checked(noise: Noise, density: Any) -> float:
    """The standard deviation of the mode's gradient noise, once the noise is seen to be of one mode."""
    if isinstance(noise, DataNoise) or not isinstance(noise, Noise):
        raise ValueError(
            f"`noise` must be a st.Noise; got {noise!r}, which has no single-mode law. Give "
            "Noise(gradient=..., curvature=...)."
        )
    if not noise.as_stated:
        raise ValueError(
            f"`noise` must be a st.Noise as it is; {type(noise).__name__} has a law of its own. Give "
            "Noise(gradient=..., curvature=...), and the law of the Hessian noise as `density`."
        )
    if noise.gradient.shape not in ((), (1,)):
        raise ValueError(
            f"`noise` must have a gradient of one mode, a number; got shape {noise.gradient.shape}. Give "
            "that mode's standard deviation."
        )
    own, shared, other = noise.scales
    same = shared > 0 and own == other
    if density is not None and (math.isinf(noise.hessian_batch) or (shared > 0 and not same)):
        what = f"with nested batches {noise.batch:g} and {noise.hessian_batch:g}"
        if math.isinf(noise.hessian_batch):
            what = "with hessian_batch=inf"
        raise ValueError(
            f"`density` must come with independent batches, or one and the same; got it {what}. Change "
            "`noise`, or drop `density`."
        )
    return float(noise.gradient.reshape(())) / math.sqrt(noise.batch)


class _Shape(NamedTuple):
    """The law of ``E_h``: its marks are points near which much of it lies, its spread their distance."""

    log_density: Callable
    support: tuple[float, float]
    marks: list[float]
    spread: float


def _gaussian(spread: float) -> _Shape:
    height = -math.log(spread * math.sqrt(2 * math.pi))
    return _Shape(lambda e: height - 0.5 * (e / spread) ** 2, (-math.inf, math.inf), [0.0], spread)


def _given(density: Any) -> _Shape:
    """The law that the user gives."""
    if hasattr(density, "logpdf") and hasattr(density, "support"):
        low, high = density.support()
        quantiles = [float(q) for q in density.ppf([0.1, 0.5, 0.9])]
        spread = max(abs(q) for q in quantiles)
        # Beside a singular edge a quantile marks nothing, and keeps the edge from being followed.
        marks = [q for q in quantiles if min(abs(q - low), abs(q - high)) > 1e-3 * spread]
        return _Shape(density.logpdf, (float(low), float(high)), marks, spread)
    if not callable(density):
        raise ValueError(
            f"`density` must be a frozen scipy.stats distribution or a function of E_h; got {density!r}. "
            "Give scipy.stats.norm(0, 0.1), say."
        )

    def one(e: float) -> Any:
        e = np.float64(e)  # beside it constants in float32 are taken in float64
        given = density(e)
        height = _check.returned("density", given, e, ())
        if _check.unit(given) > _check.unit(e):
            raise ValueError(
                f"`density` must be computed in float64, as quadrature needs; got {given.dtype}. Convert its "
                "argument and its parameters to float64."
            )
        return height

    pdf = np.vectorize(one, otypes=[float])
    support, marks, spread = _surveyed(pdf)
    return _Shape(lambda e: np.log(pdf(e)), support, marks, spread)


def _surveyed(pdf: Callable) -> tuple[tuple[float, float], list[float], float]:
    """Support of a density that is known by its values alone, marks, and the distance of its mass from 0."""
    e = np.concatenate([-_SURVEY[::-1], [0.0], _SURVEY])
    with np.errstate(all="ignore"):
        heights = pdf(e)
        below = np.flatnonzero(heights < 0)
        if len(below):
            raise ValueError(
                f"`density` must be >= 0; got {heights[below[0]]:.3g} at E_h = {e[below[0]]:.3g}. Give the "
                "density itself, not its logarithm."
            )
        poles = [x for x in small_points(lambda e: 1 / pdf(e), e) if _towers(pdf, heights, e, x)]
    # The points are geometric: each stands for a stretch in proportion to its distance from 0.
    mass = np.cumsum(np.where(np.isfinite(heights), heights, 0.0) * np.abs(e))
    if not mass[-1] > 0:
        raise ValueError(
            f"`density` must integrate to 1; got 0 at {len(e)} points from {_SURVEY[0]:.0e} to "
            f"{_SURVEY[-1]:.0e} on both sides of 0. Give a scipy.stats distribution."
        )
    top = np.max(heights, initial=0.0, where=np.isfinite(heights))
    inside = heights != 0
    ends: dict[int, float] = {}
    for i in np.flatnonzero(inside[1:] != inside[:-1]):
        edge, height = _edge(pdf, *(e[[i, i + 1]] if inside[i] else e[[i + 1, i]]))
        if height > 1e-200 * top:  # a density that only falls below the smallest number has no edge there
            ends[int(i)] = edge
    low = next((edge for i, edge in ends.items() if not inside[: i + 1].any()), -math.inf)
    high = next((edge for i, edge in ends.items() if not inside[i + 1 :].any()), math.inf)
    spread = float(np.max(np.abs(np.interp([0.1, 0.5, 0.9], mass / mass[-1], e))))
    return (low, high), [x for x in (0.0, *ends.values(), *poles) if low < x < high], spread


def _edge(pdf: Callable, inside: float, outside: float) -> tuple[float, float]:
    """Where a density ends between two points, to the last digit, and its height on the inner side."""
    if 0 in (inside, outside):
        return 0.0, math.inf
    while (middle := 0.5 * (inside + outside)) not in (inside, outside):
        if pdf(middle) != 0:
            inside = middle
        else:
            outside = middle
    height = float(pdf(inside))
    return (outside, height) if math.isfinite(height) else (inside, height)


def _towers(pdf: Callable, heights: np.ndarray, e: np.ndarray, x: float) -> bool:
    """Whether a density (n,) known at points e has a pole at x, and not a mere maximum."""
    i = int(np.searchsorted(e, x))
    # The denied comparison lets inf and nan count as poles.
    return not pdf(x) < 1e3 * max(heights[max(i - 2, 0)], heights[min(i + 2, len(e) - 1)])


def _frozen(density: Any) -> dict[str, Any]:
    """A scipy.stats distribution by its name and numbers."""
    import scipy

    name = getattr(getattr(density, "dist", None), "name", "")
    if not isinstance(getattr(scipy.stats, name, None), scipy.stats.rv_continuous):
        raise ValueError(
            "A mode whose `density` is a function cannot be saved: a file holds none. Give a scipy.stats "
            "distribution, or save the numbers: st.save(mode.data(), path)."
        )
    args, options = density.args, density.kwds
    return {
        "name": name,
        "args": list(map(float, args)),
        "options": {k: float(v) for k, v in options.items()},
    }


def _thawed(kept: dict[str, Any] | None) -> Any:
    import scipy

    if kept is None:
        return None
    law = getattr(scipy.stats, kept["name"], None)
    if not isinstance(law, scipy.stats.rv_continuous):
        raise TypeError(f"{kept['name']!r} is no distribution of scipy.stats")
    return law(*kept["args"], **kept["options"])
