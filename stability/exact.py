"""One mode of the stochastic iteration without linearisation, by quadrature over the Hessian batch's noise.

Along one eigenvector the iteration is ``delta+ = (1 - alpha X) delta - alpha phi(lam + E_h) zeta`` with the random rate
``X = phi(lam + E_h) (lam + E_g)``. Given ``E_h = e`` the factor ``1 - alpha X`` is Gaussian, with a closed form for every
moment; what is left is one integral over e. Poles of the gain and heavy tails are looked for first, so that a moment
that is infinite is said to be so. Everything is kept in logarithms: no order of moment overflows.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import scipy

from . import _check
from ._check import Unstable
from ._special import dawson_integral
from ._spectral import check_regular
from .methods import Method
from .noise import DataNoise, Noise

Function = Callable[[Any, Any], Any]  # of x = lam + e and of e: near each of their zeros one of the two is exact

_TOLERANCE = 1e-6  # a quadrature that claims less raises
_MANY = 1e5  # a Kesten root beyond this order is reported as infinite
_FAR = 1e40  # where a heavy tail is handed over to its power law, in units of the problem
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)
_GRID = 10 ** np.linspace(-16, 16, 801)


class Estimate(NamedTuple):
    """A number, the quadrature's estimate of its error, and, where it is infinite, the reason (else "")."""

    value: float
    error: float
    reason: str = ""


# -- a Gaussian factor -----------------------------------------------------------------------------------------------


def _log_moment(order: float, mean: Any, spread: Any) -> np.ndarray:
    """``log E|N(mean, spread^2)|^order``, shape of `mean`; relative error of the moment about 1e-13."""
    mean, spread = np.broadcast_arrays(np.abs(mean), np.abs(spread))
    if order == 2:
        return 2 * np.log(np.hypot(mean, spread))
    sharp = spread <= 1e-150 * mean
    ratio = np.where(sharp, 0.0, mean / np.where(sharp, 1.0, spread))
    wide = ~sharp & (ratio > 14 + 3 * order)
    near = ~sharp & (ratio < 14) & (order <= 60)
    far = ~sharp & ~near & ~wide
    result = order * np.log(np.where(sharp, mean, spread))
    z, a = 0.5 * ratio[near] ** 2, 0.5 * (1 + order)
    result[near] += 0.5 * order * math.log(2) + scipy.special.gammaln(a) - 0.5 * math.log(math.pi) + np.log(scipy.special.hyp1f1(a, 0.5, z)) - z
    result[far] += _log_moment_far(order, ratio[far])
    term, total = np.ones(int(np.sum(wide))), np.ones(int(np.sum(wide)))
    for j in range(0, 32, 2):  # sum over even j of binomial(order, j) (j - 1)!! / ratio^j, an asymptotic series
        term = term * (order - j) * (order - j - 1) / ((j + 2) * ratio[wide] ** 2)
        total += term
    result[wide] += order * np.log(ratio[wide]) + np.log(total)
    return result


def _log_moment_far(order: float, ratio: np.ndarray) -> np.ndarray:
    """``log E|ratio + Z|^order`` for large orders or ratios: the trapezoidal rule in log u, exact to rounding for this entire integrand."""
    ratio = ratio[..., None]
    peak = 0.5 * (ratio + np.sqrt(ratio**2 + 4 * (order + 1)))
    # Where u^(order + 1) exp(-(u - ratio)^2 / 2) has fallen by exp(-39) from its peak, or a little further.
    low = np.log(np.maximum(1 - 9 / peak, math.exp(-0.5 - 39 / (order + 1))))
    y = low + (np.log1p(9 / peak) - low) * np.linspace(0, 1, 129)
    u = peak * np.exp(y)
    offset = (order + 1) / peak + peak * np.expm1(y)  # u - ratio without cancellation
    heights = (order + 1) * (np.log(peak) + y) - 0.5 * offset**2 + np.log1p(np.exp(-2 * u * ratio))
    return scipy.special.logsumexp(heights, axis=-1) + np.log(y[..., 1] - y[..., 0]) - 0.5 * math.log(2 * math.pi)


def _mean_log(mean: Any, spread: Any) -> np.ndarray:
    """``E log|N(mean, spread^2)|``."""
    mean, spread = np.broadcast_arrays(np.abs(mean), np.abs(spread))
    sharp = spread <= 1e-10 * np.maximum(mean, 1e-17)  # the difference is 5e-21; a mean is 1 minus something: below 1e-17 it is rounding
    width = np.where(sharp, 1.0, spread)
    smooth = np.log(width) + 0.5 * (math.log(2) + scipy.special.digamma(0.5))
    near = ~sharp
    smooth[near] += 2 * dawson_integral(mean[near] / (width[near] * math.sqrt(2)))
    return np.where(sharp, np.log(np.where(sharp, np.maximum(mean, 1e-17), 1.0)), smooth)


# -- the law of x = lam + E_h, and integrals over it -----------------------------------------------------------------


@dataclass(frozen=True)
class _Powers:
    """How density, gain and rate behave at one end: powers of the distance to a point, or of ``|e|`` at infinity."""

    density: float = 0.0
    gain: float = 0.0
    rate: float = 0.0

    def room(self, what: str, order: float, outward: bool) -> float:
        """By how much the end's integral of the moment converges: <= 0 where it does not."""
        power = getattr(self, what) if what else 0.0
        return -self.density - order * max(power, 0.0) - 1 if outward else 1 + self.density + order * min(power, 0.0)

    def index(self, what: str, outward: bool) -> float:
        """The smallest order whose moment is infinite."""
        power, room = getattr(self, what), self.room("", 0.0, outward)
        return room / abs(power) if (power > 0 if outward else power < 0) else math.inf


class _Law:
    """The law of ``x = lam + E_h``, with the points where gain or density may be singular."""

    def __init__(self, lam: float, log_density: Callable, support: tuple[float, float], marks: list[float], spread: float, gain: Callable, rate: Function):
        self.lam, self.log_density, self.support, self.marks = lam, log_density, support, marks
        self.unit = max(abs(lam), spread)
        ends = [end for end in support if math.isfinite(end)]
        found = small_points(lambda x: 1 / gain(x), self.grid([0.0, lam, *(lam + e for e in self.marks)]))
        self.anchors = self._inside([(0.0, -lam), *((lam + e, e) for e in (*self.marks, *ends)), *((x, x - lam) for x in found)])
        functions = (lambda x, e: log_density(e), lambda x, e: np.log(np.abs(gain(x))), lambda x, e: np.log(rate(x, e)))
        self.powers = {(*anchor, side): _Powers(*(self._power(f, *anchor, side) for f in functions)) for anchor in self.anchors for side in (-1, 1)}
        self.outward = {side: _Powers(*(self._outward_power(f, side) for f in functions)) for side in (-1, 1)}

    def grid(self, points: Iterable[float]) -> np.ndarray:
        """Points (n,) of the support, in geometric steps away from each of `points`."""
        steps = self.unit * np.concatenate([-_GRID, [0.0], _GRID])
        x = np.unique(np.concatenate([point + steps for point in points]))
        return x[(x > self.lam + self.support[0]) & (x < self.lam + self.support[1])]

    def _inside(self, anchors: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
        low, high = self.support
        kept: list[tuple[float, float]] = []
        for x, e in anchors:  # the first of two that coincide is the exact one
            if low <= e <= high and all(abs(x - other) > 1e-12 * max(abs(x), abs(e)) for other, _ in kept):
                kept.append((x, e))
        return kept

    def resolution(self, x: float, e: float) -> float:
        """The size whose rounding blurs the distance to an anchor: 0 at a pole in x = 0 and at the centre of the law."""
        return 0.0 if e == 0 or (x == 0 and e not in self.support) else max(abs(x), abs(e))

    def _power(self, log_f: Function, x: float, e: float, side: int, distance: float = 0.0) -> float:
        """The power of the distance that a function follows near a point, or far out; 0 where it follows none."""
        step = distance or 1e-12 * self.resolution(x, e) or 1e-42 * self.unit
        t = side * step * np.array([1.0, 100.0, 10_000.0])
        heights = np.asarray(log_f(x + t, e + t), dtype=float) + 0 * t
        if not np.isfinite(heights).all():
            return -math.inf if distance and heights[-1] == -math.inf else 0.0
        power, other = (float(gap) / math.log(100) for gap in np.diff(heights))
        if not distance and abs(power - other) > 0.05:  # steep, yet smooth
            return 0.0
        fraction = round(24 * power) / 24
        return fraction if abs(power - fraction) < 1e-3 else power

    def _outward_power(self, log_f: Function, side: int) -> float:
        """The power of ``|e|`` that a function follows far out; -inf where it falls faster than any power."""
        near, far = (self._power(log_f, self.lam, 0.0, side, distance * self.unit) for distance in (1e10, 1e15))
        return far if far > near - 0.5 else -math.inf

    def ends(self) -> Iterable[tuple[_Powers, bool, float]]:
        """Every end of an integral: its powers, whether it is at infinity, and the anchor."""
        for (x, e, side), powers in self.powers.items():
            if e != self.support[(1 + side) // 2]:
                yield powers, False, x
        for side, powers in self.outward.items():
            if math.isinf(self.support[(1 + side) // 2]):
                yield powers, True, side * math.inf

    def index(self, what: str) -> float:
        """The smallest order at which ``E|what|^order`` is infinite."""
        return min(powers.index(what, outward) for powers, outward, _ in self.ends())

    def reason(self, what: str, order: float) -> str:
        """Why ``E|what|^order`` is infinite; empty where it is finite."""
        for powers, outward, x in self.ends():
            if powers.room(what, order, outward) > 1e-9:
                continue
            power, first = getattr(powers, what), f"moments from {powers.index(what, outward):.4g} up are infinite"
            name = {"gain": "phi", "rate": "X"}[what]
            if outward:
                return f"the density of E_h falls like |E_h|^{powers.density:.4g} while {name} grows like |E_h|^{power:.4g}: {first}"
            height = float(self.log_density(x - self.lam))
            density = f"{math.exp(height):.3g}" if abs(height) < 700 else f"10^{height / math.log(10):.0f}"
            return f"{name} has a pole of order {-power:.4g} at lambda = {x:.4g}, where the density of lambda + E_h is {density}: {first}"
        return ""

    def expect(self, value: Function, log_factor: Function, what: str = "", order: float = 0.0, extra: Iterable[float] = ()) -> tuple[float, float, float]:
        """``E[value exp(log_factor)]`` as (integral, error, shift), to be multiplied by ``exp(shift)``.

        Between two neighbouring anchors each half is integrated in the logarithm of the distance to its own anchor;
        below the smallest distance, and beyond the largest, the integrand is its power law.
        """
        x0, e0, side, start, stop, room, far = self._halves(what, order, extra).T

        def log_weight(y: np.ndarray, k: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            t = side[k] * np.exp(y)
            x, e = x0[k] + t, e0[k] + t
            return x, e, self.log_density(e) + log_factor(x, e) + y

        panels = [np.linspace(a, b, 2 + int((b - a) / 3)) for a, b in zip(start, stop, strict=True)]
        k = np.repeat(np.arange(len(panels)), [len(edges) - 1 for edges in panels])
        a, b = (np.concatenate([edges[cut] for edges in panels]) for cut in (slice(None, -1), slice(1, None)))
        shift = float(np.max(log_weight(a[:, None] + (b - a)[:, None] * (0.5 + 0.5 * _NODES), k[:, None])[2]))
        shift = max(shift, -1e300)

        def integrand(y: np.ndarray, k: np.ndarray) -> np.ndarray:
            x, e, weight = log_weight(y, k)
            return np.where(weight - shift > -100, value(x, e) * np.exp(np.minimum(weight - shift, 600.0)), 0.0)

        total, error = _adapt(integrand, a, b, k)
        every = np.arange(len(x0))
        for edge, turn, rooms in ((start, math.log(2), room), (stop, -math.log(2), far)):
            first, second = integrand(edge, every), integrand(edge + turn, every) * np.exp2(-np.minimum(rooms, 1e3))
            tail = np.where(np.isfinite(rooms), (2 * first - second) / rooms + (second - first) / (rooms + 1), 0.0)
            total += float(np.sum(tail))
            # The linear term's relative size, squared, stands for the quadratic term that is left out.
            error += float(np.sum(np.divide((tail - first / rooms) ** 2, np.abs(tail), out=np.zeros_like(tail), where=(tail != 0) & np.isfinite(rooms))))
        return total, error, shift

    def _halves(self, what: str, order: float, extra: Iterable[float]) -> np.ndarray:
        """Rows (x, e, side, log of the nearest and of the farthest distance, convergence near and far), one per half."""
        anchors = sorted(self._inside([*self.anchors, *((x, x - self.lam) for x in extra)]))
        rows = []
        for i, (x, e) in enumerate(anchors):
            for side in (-1, 1):
                j, bound = i + side, self.support[(1 + side) // 2]
                if e == bound:
                    continue
                room = self.powers.get((x, e, side), _Powers()).room(what, order, False)
                inner = 0 <= j < len(anchors)
                far = math.inf if inner else self.outward[side].room(what, order, True)
                reach = 0.5 * abs(anchors[j][0] - x) if inner else self.unit * (_FAR if math.isfinite(far) else 1e6)
                # Singular ends are followed as far down as rounding lets them; regular ones need no more than their constant.
                size = self.resolution(x, e)
                start = max(1e-13 * min(reach, self.unit), 1e-14 * size) if room >= 1 else size * 10 ** (-6.3 - 6 * room) if size else 1e-100 * self.unit
                rows.append((x, e, side, math.log(min(start, 1e-3 * reach)), math.log(reach), room, far))
        return np.array(rows)


def _adapt(f: Callable, a: np.ndarray, b: np.ndarray, k: np.ndarray) -> tuple[float, float]:
    """Integral and error estimate of ``f(y, piece)`` over panels [a, b] of pieces k: bisect until 16-point Gauss rules agree."""

    def gauss(a: np.ndarray, b: np.ndarray, k: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        half = 0.5 * (b - a)
        values = f(a[:, None] + half[:, None] * (1 + _NODES), k[:, None])
        return half * (values @ _WEIGHTS), half * (np.abs(values) @ _WEIGHTS)

    whole, size = gauss(a, b, k)
    total, error, scale = 0.0, 0.0, float(np.sum(size))
    for depth in range(60):
        middle = 0.5 * (a + b)
        a, b, k = np.concatenate([a, middle]), np.concatenate([middle, b]), np.concatenate([k, k])
        parts, size = gauss(a, b, k)
        left, right = np.split(parts, 2)
        gap = np.abs(left + right - whole)
        # A panel's own size counts too: where the integrand is only known to so many digits, halving does not help.
        done = gap <= 1e-13 * scale + 1e-11 * (size[: len(gap)] + size[len(gap) :])
        done |= (depth == 59) | (len(gap) > 20_000)
        total, error = total + float(np.sum((left + right)[done])), error + float(np.sum(gap[done]))
        if done.all():
            break
        again = np.tile(~done, 2)
        a, b, k, whole = a[again], b[again], k[again], parts[again]
    if not error <= _TOLERANCE * scale:
        raise ArithmeticError(f"The quadrature reached {error / scale:.1g} of the integrand's size; {_TOLERANCE:g} was asked for. Give a smoother `density`.")
    return total, error + 1e-15 * scale


def small_points(f: Callable, grid: np.ndarray) -> list[float]:
    """Where a function of one variable, sampled on a sorted grid (n,), changes sign or may touch zero."""
    values = np.asarray(f(grid), dtype=float) + 0 * grid
    values[~np.isfinite(values)] = np.nan
    size, signs = np.abs(values), np.sign(values)
    crossing = np.flatnonzero(signs[1:] * signs[:-1] < 0)
    points = [scipy.optimize.brentq(f, grid[i], grid[i + 1], xtol=1e-300, rtol=1e-15, maxiter=1000) for i in crossing]
    points += list(grid[1:-1][(size[1:-1] == 0) & (size[2:] != 0) & (size[:-2] != 0)])
    middle = size[2:-2]
    low = (middle <= size[1:-3]) & (middle <= size[3:-1]) & (middle < 0.9 * size[:-4]) & (middle < 0.9 * size[4:]) & (middle > 0)
    low &= (signs[1:-3] == signs[2:-2]) & (signs[3:-1] == signs[2:-2])
    return [float(x) for x in points] + [_lowest(f, grid[i - 1], grid[i + 1]) for i in np.flatnonzero(low) + 2]


def _lowest(f: Callable, a: float, b: float) -> float:
    """Where ``|f|`` is smallest in [a, b]: to rounding where it is a cusp, which SciPy's bounded search is not."""
    for _ in range(40):
        x = np.linspace(a, b, 9)
        i = int(np.nanargmin(np.abs(f(x))))
        a, b = x[max(i - 1, 0)], x[min(i + 1, 8)]
    return float(x[i])


# -- the mode --------------------------------------------------------------------------------------------------------


class ExactMode:
    """One mode of the stochastic iteration, nothing linearised; made by `exact_mode`.

    Attributes
    ----------
    method : Method
    curvature : float
        ``lam``, the eigenvalue of the mode.
    sigma : float
        Standard deviation of the gradient noise ``zeta`` of one batch.
    """

    def __init__(self, method: Method, curvature: float, sigma: float, gain: Callable, follow: float, rest: float, law: _Law | None):
        self.method, self.curvature, self.sigma = method, curvature, sigma
        self._gain, self._follow, self._rest, self._law = gain, follow, rest, law

    def _rate(self, x: Any) -> tuple[Any, Any]:
        """Mean and standard deviation of ``X`` given ``E_h = x - lam``."""
        gain = self._gain(x)
        return gain * (self._follow * x + (1 - self._follow) * self.curvature), np.abs(gain) * self._rest

    def _factor(self, x: Any, step: float) -> tuple[Any, Any]:
        """The same of ``1 - step X``."""
        mean, spread = self._rate(x)
        return 1 - step * mean, step * spread

    @np.errstate(all="ignore")
    def _expect(self, value: Function, log_factor: Function | None = None, what: str = "", order: float = 0.0, extra: Any = ()) -> tuple[float, float, float]:
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
        mean = lambda x: (m := self._factor(x, step)[0]) * (np.abs(m) > 4e-16)  # noqa: E731 - rounding has no zeros worth finding
        return grid, small_points(mean, grid)

    @np.errstate(all="ignore")
    def _constant(self, step: float, grid: np.ndarray) -> float | None:
        """``|1 - step X|`` where it does not vary, as for Newton's method with one batch for both; 0 if within rounding of it."""
        mean, spread = self._factor(grid, step)
        if np.any(spread > 0) or not np.nanmax(mean) - np.nanmin(mean) <= 1e-14:
            return None
        size = abs(float(np.nanmedian(mean)))
        return size if size > 1e-15 else 0.0

    @np.errstate(all="ignore")
    def _log_power(self, log_f: Function, what: str, order: float, grid: np.ndarray, extra: list[float]) -> tuple[float, float]:
        """``log E exp(log_f)`` and its error, with the integrand's peak as a mark where a high order moves it."""
        if order > 20 and self._law is not None:
            law = self._law
            height = law.log_density(grid - self.curvature) + log_f(grid, None)
            i = int(np.argmax(height))
            bounds = (grid[max(i - 1, 0)], grid[min(i + 1, len(grid) - 1)])
            down = lambda x: -float(law.log_density(np.array(x - self.curvature)) + log_f(np.array([x]), None)[0])  # noqa: E731
            extra = [*extra, float(scipy.optimize.minimize_scalar(down, bounds=bounds, method="bounded").x)]
        total, error, shift = self._expect(lambda x, e: 1 + 0 * x, log_f, what, order, extra)
        return (math.log(total) + shift, error / total) if total > 0 else (-math.inf, 0.0)

    def _log_moment(self, order: float, step: float) -> tuple[float, float]:
        grid, zeros = self._sites(step)
        constant = self._constant(step, grid)
        if constant is not None:
            return (order * math.log(constant) if constant else -math.inf), 1e-15
        return self._log_power(lambda x, e: _log_moment(order, *self._factor(x, step)), "rate", order, grid, zeros)

    def _estimate(self, what: str, order: float, logarithm: Callable[[], tuple[float, float]]) -> Estimate:
        reason = self._law.reason(what, order) if self._law else ""
        if reason:
            return Estimate(math.inf, 0.0, reason)
        log, error = logarithm()
        if log > 700:
            raise ArithmeticError(f"The moment of order {order:g} is finite but exp({log:.4g}), beyond the largest float. Ask for a lower `order`.")
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
        return self._estimate("gain", order, lambda: self._log_power(lambda x, e: order * np.log(np.abs(self._gain(x))), "gain", order, grid, []))

    def lyapunov(self, step: float) -> Estimate:
        """``E log|1 - step X|``: the mode is almost surely stable where it is negative. Raises as `moment` does."""
        step = _check.positive("step", step)
        grid, zeros = self._sites(step)
        constant = self._constant(step, grid)
        if constant == 0:
            return Estimate(-math.inf, 0.0, "1 - step X vanishes: one iteration reaches the critical point")
        if constant:
            return Estimate(math.log(constant), 1e-15 / constant)
        return Estimate(*self._mean(lambda x, e: _mean_log(*self._factor(x, step)), extra=zeros))

    @functools.cached_property
    def _mean_square(self) -> tuple[float, float]:
        if self._law and self._law.reason("rate", 2):
            return 0.0, 0.0
        first, error = self._mean(lambda x, e: self._rate(x)[0], "rate")
        log_second, relative = self._log_power(lambda x, e: 2 * np.log(np.hypot(*self._rate(x))), "rate", 2, np.zeros(0), [])
        if first <= error or log_second == -math.inf:
            return 0.0, 0.0
        limit = 2 * first * math.exp(-log_second)
        return limit, limit * (error / first + relative)

    @property
    def mean_square_limit(self) -> float:
        """The largest step with ``E(1 - step X)^2 < 1``, ``2 E X / E X^2``; 0 where no step is mean-square stable."""
        return self._mean_square[0]

    @property
    def mean_square_error(self) -> float:
        """The quadrature's estimate of the error of `mean_square_limit`."""
        return self._mean_square[1]

    @functools.cached_property
    def almost_sure_limit(self) -> float:
        """The smallest step at which ``E log|1 - step X|`` turns nonnegative: 0 if it is so at small steps, inf if it never does.

        Found on a geometric scan of 12 steps a decade: an unstable window narrower than that may be missed.
        """
        if not (self._law and self._law.reason("rate", 1)):
            mean, error = self._mean(lambda x, e: self._rate(x)[0], "rate")
            if mean < -error:  # E log|1 - step X| = -step E X + O(step^2)
                return 0.0
        with np.errstate(all="ignore"):
            x = np.array([self.curvature]) if self._law is None else self.curvature + np.array([*self._law.marks, 0.5 * self._law.unit])
            size = np.hypot(*self._rate(x))
        size = size[np.isfinite(size) & (size > 0)]
        if not len(size):
            return 0.0
        steps = 10 ** np.arange(-3, 8, 1 / 12) / np.median(size)
        for i, step in enumerate(steps):
            if self.lyapunov(step).value >= 0:
                return float(scipy.optimize.brentq(lambda s: self.lyapunov(s).value, steps[i - 1], step, rtol=1e-12)) if i else 0.0
        return math.inf

    def tail_index(self, step: float) -> float:
        """The tail index of the stationary law: its moments are finite below it, infinite above (`inf`: all are finite).

        The smaller of Kesten's root ``s > 0`` of ``E|1 - step X|^s = 1`` (Kesten 1973; Goldie 1991, Theorem 4.1) and of the
        index of the additive term ``phi(lam + E_h) zeta``, for any nonzero gradient noise. A root beyond 1e5 counts as infinite.

        Raises
        ------
        Unstable
            If ``E log|1 - step X| >= 0``: there is no stationary law.
        """
        growth = self.lyapunov(step)
        if growth.value >= 0:
            raise Unstable(
                f"A stationary law does not exist for {self.method.name} at step {step:g}: E log|1 - step X| = {growth.value:.4g} "
                f"(+- {growth.error:.1g}) >= 0, almost-sure stability ends at step {self.almost_sure_limit:.4g}. Take a smaller step."
            )
        additive, critical = (self._law.index("gain"), self._law.index("rate")) if self._law else (math.inf, math.inf)
        return min(additive, self._kesten(step, growth.value, critical))

    def _kesten(self, step: float, growth: float, critical: float) -> float:
        with np.errstate(all="ignore"):
            mean, spread = self._factor(self._sites(step)[0], step)
        if growth == -math.inf or (not np.any(spread > 0) and np.nanmax(np.abs(mean)) <= 1 + 1e-12 and math.isinf(critical)):
            return math.inf

        def log_norm(order: float) -> float:  # of |1 - step X|: increasing in the order, E log at 0
            return self._log_moment(order, step)[0] / order if order else growth

        high = critical * (1 - 1e-8) if math.isfinite(critical) else 1.0
        while log_norm(high) < 0:
            high *= 2
            if high > min(_MANY, critical):
                return critical
        return float(scipy.optimize.brentq(log_norm, 0.0, high, rtol=1e-11))

    def variance(self, step: float) -> float:
        """Stationary variance ``step^2 sigma^2 E[phi^2] / (1 - E(1 - step X)^2)``, in units of the parameter squared.

        Infinite where it does not exist: ``moment(2, step)`` (not below 1) or ``gain_moment(2)`` says why.
        """
        square = self.moment(2, step).value
        if square >= 1:
            return math.inf
        return step**2 * self.sigma**2 * self.gain_moment(2).value / (1 - square) if self.sigma else 0.0

    def __str__(self) -> str:
        lines = [f"{self.method.label}, one mode, lambda = {self.curvature:g}: the iteration itself, nothing linearised"]
        lines.append(f"{'':<24} {'value':>12} {'+-':>9}")
        noted = []
        for name, estimate in (("E|phi|", self.gain_moment(1)), ("E phi^2", self.gain_moment(2)), ("mean-square step limit", Estimate(*self._mean_square))):
            lines.append(f"{name:<24} {estimate.value:>12.6g} {estimate.error:>9.1g}")
            noted += [f"{name} is infinite: {estimate.reason}"] if estimate.reason else []
        lines.append(f"{'almost-sure step limit':<24} {self.almost_sure_limit:>12.6g}")
        reason = self._law.reason("rate", 2) if self._law else ""
        noted += [f"no step is mean-square stable: {reason or 'E X <= 0'}"] if self.mean_square_limit == 0 else []
        return "\n".join([*lines, *noted])


def exact_mode(method: Method, *, curvature: float, noise: Noise, density: Any = None) -> ExactMode:
    """One mode of the stochastic iteration with nothing linearised: step limits, tail index, stationary variance.

    Parameters
    ----------
    method : Method
        A truncated method is taken on a mode that it keeps.
    curvature : float
        The eigenvalue ``lam`` of the mode, in units of the objective over the parameter squared.
    noise : Noise
        Gaussian noise, of which a diagonal entry counts: variance ``2 tau_1^2`` per sample.
    density : scipy.stats frozen distribution or callable, optional
        The law of ``E_h`` of one Hessian batch, or its density on the real line, in place of the Gaussian. ``E_g`` stays
        Gaussian and independent; where both batches are the same one, ``E_g = E_h`` has this law too.

    Returns
    -------
    ExactMode
        Relative accuracy about 1e-10, with error estimates; a quadrature that fails raises.

    Raises
    ------
    ValueError
        If the gain is singular at `curvature` and nothing moves it, the noise is estimated from data or not of one dimension,
        `density` does not integrate to one, or it comes with nested batches that are not the same.

    References
    ----------
    H. Kesten, Acta Math. 131 (1973) 207-248; C. M. Goldie, Ann. Appl. Probab. 1 (1991) 126-166.

    Examples
    --------
    For SGD the limit is ``2 lam / (lam^2 + s_g^2)``, here with ``s_g^2 = 2 * 0.5^2``:

    >>> import stability as st
    >>> from stability.exact import exact_mode
    >>> round(exact_mode(st.SGD(), curvature=1.0, noise=st.Noise(curvature=0.5)).mean_square_limit, 9)
    1.333333333
    """
    if not isinstance(method, Method):
        raise ValueError(f"`method` must be a st.Method; got {method!r}. Use st.SFN(damping=...) or st.Method(gain=...).")
    lam = float(_check.array("curvature", curvature, ndim=0, shape="()"))
    if isinstance(noise, DataNoise) or not isinstance(noise, Noise):
        raise ValueError(f"`noise` must be a st.Noise; got {noise!r}, which has no single-mode law. Give Noise(gradient=..., curvature=...).")
    if noise.gradient.shape not in ((), (1,)):
        raise ValueError(f"`noise` must have a gradient of one mode, a number; got shape {noise.gradient.shape}. Give that mode's standard deviation.")
    sigma = float(noise.gradient.reshape(())) / math.sqrt(noise.batch)
    own, shared, other = noise.scales
    same = shared > 0 and own == other
    if density is not None and (math.isinf(noise.hessian_batch) or (shared > 0 and not same)):
        what = "with hessian_batch=inf" if math.isinf(noise.hessian_batch) else f"with nested batches {noise.batch:g} and {noise.hessian_batch:g}"
        raise ValueError(f"`density` must come with independent batches, or one and the same; got it {what}. Change `noise`, or drop `density`.")

    def gain(x: Any) -> Any:
        x = np.asarray(x, dtype=float)  # a NumPy number divides by zero quietly
        return np.asarray(method.gain(x) + 0 * x, dtype=float)

    follow = shared / other if other else 0.0
    rest = noise.curvature * math.sqrt(2 * own * (1 - follow))

    def rate(x: Any, e: Any) -> Any:
        return np.abs(gain(x)) * np.hypot(follow * x + (1 - follow) * lam, rest)

    spread = noise.curvature * math.sqrt(2 * other)
    if density is None and spread == 0:
        check_regular(method, np.array([lam]))
        return ExactMode(method, lam, sigma, gain, follow, rest, None)
    with np.errstate(all="ignore"):
        law = _Law(lam, *(_gaussian(spread) if density is None else _given(density)), gain, rate)
        mass, _, shift = law.expect(lambda x, e: 1 + 0 * x, lambda x, e: 0 * x)
    mass *= math.exp(shift)
    if not abs(mass - 1) <= 1e-6:
        raise ValueError(f"`density` must integrate to 1; got {mass:.9g}. Divide it by that, or give a scipy.stats distribution.")
    return ExactMode(method, lam, sigma, gain, follow, rest, law)


def _gaussian(spread: float) -> tuple[Callable, tuple[float, float], list[float], float]:
    """Log density, support and marks of the Gaussian law."""
    height = -math.log(spread * math.sqrt(2 * math.pi))
    return lambda e: height - 0.5 * (e / spread) ** 2, (-math.inf, math.inf), [0.0], spread


def _given(density: Any) -> tuple[Callable, tuple[float, float], list[float], float]:
    """The same of a law that the user gives."""
    if hasattr(density, "logpdf") and hasattr(density, "support"):
        low, high = density.support()
        quantiles = [float(q) for q in density.ppf([0.1, 0.5, 0.9])]
        return density.logpdf, (float(low), float(high)), quantiles, max(abs(q) for q in quantiles)
    if not callable(density):
        raise ValueError(f"`density` must be a frozen scipy.stats distribution or a function of E_h; got {density!r}. Give scipy.stats.norm(0, 0.1), say.")
    pdf = np.vectorize(density, otypes=[float])
    return lambda e: np.log(pdf(e)), (-math.inf, math.inf), [0.0], 1.0
