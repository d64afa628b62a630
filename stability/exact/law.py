"""The law of a curvature seen through noise, and integrals over it that know where they diverge.

The curvature is ``x = lam + E_h``. Near every point where gain or density may be singular, and far out, the
integrand's factors follow powers of the distance; these are measured first and decide whether a moment
exists. Integrals are taken in the logarithm of the distance to those points, so that an integrable
singularity is a smooth decay.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

Function = Callable[[Any, Any], Any]  # of x = lam + e and e: near the zeros of each, that one is exact

_TOLERANCE = 1e-6  # a quadrature that claims less raises
_FAR = 1e40  # where a heavy tail is handed over to its power law, in units of the problem
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)
_GRID = 10 ** np.linspace(-16, 16, 801)  # distances, in units of the problem, from rounding to far out
_EPS = float(np.finfo(float).eps)


class Power(NamedTuple):
    """A power that a function follows near a point or far out, as measured, and how well that is known."""

    value: float = 0.0
    doubt: float = 0.0


@dataclass(frozen=True)
class Powers:
    """How density, gain and rate behave at an end: powers of the distance to it, or of ``|e|`` far out."""

    density: Power
    gain: Power
    rate: Power

    def room(self, what: str, order: float, outward: bool) -> float:
        """By how much the end's integral of the moment converges: <= 0 where it does not."""
        power = getattr(self, what).value if what else 0.0
        if outward:
            return -self.density.value - order * max(power, 0.0) - 1
        return 1 + self.density.value + order * min(power, 0.0)

    def doubt(self, what: str, order: float) -> float:
        """How well that is known."""
        return self.density.doubt + (order * getattr(self, what).doubt if what else 0.0)

    def index(self, what: str, outward: bool) -> float:
        """The smallest order whose moment is infinite."""
        power, room = getattr(self, what).value, self.room("", 0.0, outward)
        return room / abs(power) if (power > 0 if outward else power < 0) else math.inf


_SMOOTH = Powers(Power(), Power(), Power())


class ModeLaw:
    """The law of ``x = lam + E_h``, with the points where gain or density may be singular."""

    def __init__(
        self,
        lam: float,
        log_density: Callable,
        support: tuple[float, float],
        marks: list[float],
        spread: float,
        gain: Callable,
        rate: Function,
    ):
        self.lam, self.log_density, self.support, self.marks = lam, log_density, support, marks
        self.spread, self.unit = spread, max(abs(lam), spread)
        ends = [end for end in support if math.isfinite(end)]
        # Points of the law are exact in e, those of the gain in x; where the two meet, neither is.
        self._of_law, self._met = {*marks, *ends}, set[tuple[float, float]]()
        grid = self.grid([0.0, lam, *(lam + e for e in self.marks)])
        self._require_gain(gain, grid)
        # A gain's poles are zeros of its reciprocal, which can be bracketed.
        found = small_points(lambda x: 1 / gain(x), grid)
        known = [(lam + e, e) for e in (*self.marks, *ends)]
        self.anchors = self._inside([(0.0, -lam), *known, *((x, x - lam) for x in found)])
        self._functions: dict[str, Function] = {
            "density": lambda x, e: log_density(e),
            "gain": lambda x, e: np.log(np.abs(gain(x))),
            "rate": lambda x, e: np.log(rate(x, e)),
        }
        self.powers = {
            (*anchor, side): Powers(*(self._power(name, *anchor, side) for name in self._functions))
            for anchor in self.anchors
            for side in (-1, 1)
        }
        self.outward = {
            side: Powers(*(self._outward_power(name, side) for name in self._functions)) for side in (-1, 1)
        }

    def _require_gain(self, gain: Callable, grid: np.ndarray) -> None:
        """Refuse a gain that is no number on a whole interval the noise reaches: no pole, and no moment."""
        # Farther out a gain may overflow, where the noise never comes.
        missing = ~np.isfinite(gain(grid)) & (self.log_density(grid - self.lam) > -700)
        edges = np.flatnonzero(np.diff(np.concatenate([[0], missing.astype(int), [0]])))
        for first, stop in edges.reshape(-1, 2):
            low, high = grid[first], grid[stop - 1]
            if high - low > 1e-3 * self.spread:  # a pole of high order overflows on a narrow one
                raise ValueError(
                    f"`method` must have a finite gain beside isolated poles; from lambda = {low:.3g} to "
                    f"{high:.3g}, where the noise reaches, it is infinite or not a number. Give a gain for "
                    "every eigenvalue, such as st.SFN's."
                )

    def grid(self, points: Iterable[float]) -> np.ndarray:
        """Points (n,) of the support, in geometric steps away from each of `points`."""
        steps = self.unit * np.concatenate([-_GRID, [0.0], _GRID])
        x = np.unique(np.concatenate([point + steps for point in points]))
        return x[(x > self.lam + self.support[0]) & (x < self.lam + self.support[1])]

    def _inside(self, anchors: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
        low, high = self.support
        kept: list[tuple[float, float]] = []
        for x, e in anchors:  # the first of two that coincide is the exact one
            if not low <= e <= high:
                continue
            same = next((one for one in kept if self._coincide((x, e), one)), None)
            if same is None:
                kept.append((x, e))
            elif (e in self._of_law) != (same[1] in self._of_law):
                self._met.add(same)
        return kept

    def _coincide(self, one: tuple[float, float], other: tuple[float, float]) -> bool:
        """Whether two anchors are one to rounding: of e between points of the law, else of x too."""
        kinds = [e in self._of_law for _, e in (one, other)]
        if kinds[0] == kinds[1]:
            return self.distance(one, other) <= 1e-12 * max(abs(p[kinds[0]]) for p in (one, other))
        return abs(one[0] - other[0]) <= 1e-12 * max(map(abs, one))

    def distance(self, one: tuple[float, float], other: tuple[float, float]) -> float:
        """Between two anchors: in x or in e, whichever is the less rounded."""
        gaps = [(max(abs(a), abs(b)), abs(a - b)) for a, b in zip(one, other, strict=True)]
        return min(gaps)[1]

    def resolution(self, x: float, e: float) -> float:
        """The size whose rounding blurs the distance to an anchor: 0 at x = 0 and at the law's center."""
        if (x, e) in self._met:
            return 0.0 if e == 0 else max(abs(x), abs(e))
        return abs(e) if e in self._of_law else abs(x)

    def _power(self, name: str, x: float, e: float, side: int, distance: float = 0.0) -> Power:
        """The power of the distance that a function follows near a point, or far out; 0 where none."""
        blur = 0.0 if distance else self.resolution(x, e)
        step = distance or 1e-12 * blur or 1e-42 * self.unit
        power, other = self._slopes(name, x, e, side * step)
        if not math.isfinite(power + other):
            return Power(-math.inf if distance and other == -math.inf else 0.0)
        if not distance and abs(power - other) > 0.05:  # steep, yet smooth
            return Power()
        if blur and abs(other) > 1e-3:
            # Farther out the distance is less rounded; what bends the power there is a part in 99 of what it
            # bends a hundredfold farther still.
            step *= 1e3
            near, far = self._slopes(name, x, e, side * step)
            if abs(near - far) < 0.05:
                power, other = near - (far - near) / 99, near
        doubt = abs(power - other) + _EPS * blur / step
        fraction = round(24 * power) / 24  # a power in a formula is a simple fraction: then it is exact
        return Power(fraction) if abs(power - fraction) < 1e-5 + doubt else Power(power, doubt)

    def _slopes(self, name: str, x: float, e: float, step: float) -> np.ndarray:
        """The powers (2,) read between distances of 1, 100 and 10000 steps."""
        t = step * np.array([1.0, 100.0, 10_000.0])
        heights = np.asarray(self._functions[name](x + t, e + t), dtype=float) + 0 * t
        # The distance as it was rounded: of e for the density, of x for what is made of the gain.
        moved = (e + t) - e if name == "density" else (x + t) - x
        if heights[-1] == -math.inf:
            return np.array([math.nan, -math.inf])
        return np.diff(heights) / np.diff(np.log(np.abs(moved)))

    def _outward_power(self, name: str, side: int) -> Power:
        """The power of ``|e|`` that a function follows far out; -inf where it falls faster than any power."""
        near, far = (
            self._power(name, self.lam, 0.0, side, distance * self.unit) for distance in (1e10, 1e15)
        )
        return far if far.value > near.value - 0.5 else Power(-math.inf)

    def ends(self) -> Iterable[tuple[Powers, bool, float]]:
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
            power = getattr(powers, what).value
            first = f"moments from {powers.index(what, outward):.4g} up are infinite"
            name = {"gain": "phi", "rate": "X"}[what]
            if outward:
                return (
                    f"the density of E_h falls like |E_h|^{powers.density.value:.4g} while {name} grows like "
                    f"|E_h|^{power:.4g}: {first}"
                )
            return (
                f"{name} has a pole of order {-power:.4g} at lambda = {x:.4g}, where the density of lambda + "
                f"E_h is {_from_log(float(self.log_density(x - self.lam)))}: {first}"
            )
        return ""

    def expect(
        self,
        value: Function,
        log_factor: Function,
        what: str = "",
        order: float = 0.0,
        extra: Iterable[float] = (),
    ) -> tuple[float, float, float]:
        """``E[value exp(log_factor)]`` as (integral, error, shift), to be multiplied by ``exp(shift)``.

        Between two neighbouring anchors each half is integrated in the logarithm of the distance to its own
        anchor; below the smallest distance, and beyond the largest, the integrand is its power law.
        """
        x0, e0, side, start, stop, room, far, doubt = self._halves(what, order, extra).T

        def log_weight(y: np.ndarray, k: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            t = side[k] * np.exp(y)
            x, e = x0[k] + t, e0[k] + t
            return x, e, self.log_density(e) + log_factor(x, e) + y

        panels = [np.linspace(a, b, 2 + int((b - a) / 3)) for a, b in zip(start, stop, strict=True)]
        k = np.repeat(np.arange(len(panels)), [len(edges) - 1 for edges in panels])
        a, b = (np.concatenate([edges[cut] for edges in panels]) for cut in (slice(None, -1), slice(1, None)))
        # The integrand's largest exponent goes into the result's: no moment overflows on the way.
        x, _, sizes = log_weight(a[:, None] + (b - a)[:, None] * (0.5 + 0.5 * _NODES), k[:, None])
        shift = float(np.max(sizes))
        if not shift < math.inf:  # one of the two infinities would win, whichever is the smaller in truth
            raise ArithmeticError(
                f"The gain is beyond the largest float at lambda = {x[~(sizes < math.inf)][0]:.3g}, where "
                "E_h has a density. Give a `density` of bounded support, or a gain that grows more slowly."
            )
        shift = max(shift, -1e300)

        def integrand(y: np.ndarray, k: np.ndarray) -> np.ndarray:
            x, e, weight = log_weight(y, k)
            height = value(x, e) * np.exp(np.minimum(weight - shift, 600.0))
            return np.where(weight - shift > -100, height, 0.0)

        total, error = _adapt(integrand, a, b, k)
        every = np.arange(len(x0))
        for edge, turn, rooms in ((start, math.log(2), room), (stop, -math.log(2), far)):
            # What lies beyond an edge, by the integrand there and at twice (or half) the distance: its power
            # law times 1 + c t, integrated term by term.
            first = integrand(edge, every)
            second = integrand(edge + turn, every) * np.exp2(-np.minimum(rooms, 1e3))
            open_end = np.isfinite(rooms)
            tail = np.where(open_end, (2 * first - second) / rooms + (second - first) / (rooms + 1), 0.0)
            total += float(np.sum(tail))
            # The linear term's relative size, squared, stands for the quadratic term that is left out.
            used = (tail != 0) & open_end
            left_out = (tail - first / rooms) ** 2
            error += float(np.sum(np.divide(left_out, np.abs(tail), out=np.zeros_like(tail), where=used)))
            # How well the power is known, and at what distance the rounded point was.
            error += float(np.sum(np.abs(tail) * doubt, where=used))
        return total, error, shift

    def _halves(self, what: str, order: float, extra: Iterable[float]) -> np.ndarray:
        """One row per half: x, e, side, logs of nearest and farthest distance, room near and far, doubt."""
        anchors = sorted(self._inside([*self.anchors, *((x, x - self.lam) for x in extra)]))
        rows = []
        for i, (x, e) in enumerate(anchors):
            for side in (-1, 1):
                j, bound = i + side, self.support[(1 + side) // 2]
                if e == bound:
                    continue
                powers = self.powers.get((x, e, side), _SMOOTH)
                room, doubt = powers.room(what, order, False), powers.doubt(what, order)
                inner = 0 <= j < len(anchors)
                far = math.inf if inner else self.outward[side].room(what, order, True)
                if inner:
                    reach = 0.5 * self.distance(anchors[j], (x, e))
                else:
                    reach = self.unit * (_FAR if math.isfinite(far) else 1e6)
                # Singular ends are followed as far down as rounding lets them; regular ones need no more
                # than their constant.
                size = self.resolution(x, e)
                if room >= 1:
                    start = max(1e-13 * min(reach, self.spread), 1e-14 * size)
                else:
                    start = size * 10 ** (-6.3 - 6 * room) if size else 1e-100 * self.unit
                start = min(start, 1e-3 * reach)
                doubt = doubt / abs(room or 1.0) + 2 * abs(room - 1) * _EPS * size / start
                rows.append((x, e, side, math.log(start), math.log(reach), room, far, doubt))
        return np.array(rows)


def _from_log(height: float) -> str:
    """``exp(height)`` in words that neither overflow nor vanish."""
    if height == -math.inf:
        return "0"
    return f"{math.exp(height):.3g}" if abs(height) < 700 else f"10^{height / math.log(10):.0f}"


def _adapt(f: Callable, a: np.ndarray, b: np.ndarray, k: np.ndarray) -> tuple[float, float]:
    """Integral of ``f(y, piece)`` over panels [a, b] of pieces k and its error: 16-point Gauss, bisected."""

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
        # A panel's own size counts too: where the integrand is known to so many digits only, halving does
        # not help.
        done = gap <= 1e-13 * scale + 1e-11 * (size[: len(gap)] + size[len(gap) :])
        done |= (depth == 59) | (len(gap) > 20_000)
        total, error = total + float(np.sum((left + right)[done])), error + float(np.sum(gap[done]))
        if done.all():
            break
        again = np.tile(~done, 2)
        a, b, k, whole = a[again], b[again], k[again], parts[again]
    if not error <= _TOLERANCE * scale:
        raise ArithmeticError(
            f"The quadrature reached {error / scale:.1g} of the integrand's size; {_TOLERANCE:g} was asked "
            "for. Give a smoother `density`."
        )
    return total, error + 1e-15 * scale


def small_points(f: Callable, grid: np.ndarray) -> list[float]:
    """Where a function of one variable, sampled on a sorted grid (n,), changes sign or may touch zero."""
    import scipy

    values = np.asarray(f(grid), dtype=float) + 0 * grid
    values[~np.isfinite(values)] = np.nan
    size, signs = np.abs(values), np.sign(values)
    points = [
        scipy.optimize.brentq(f, grid[i], grid[i + 1], xtol=1e-300, rtol=1e-15, maxiter=1000)
        for i in np.flatnonzero(signs[1:] * signs[:-1] < 0)
    ]
    # Zeros on the grid itself, but none of a stretch on which the function vanishes.
    points += list(grid[1:-1][(size[1:-1] == 0) & (size[2:] != 0) & (size[:-2] != 0)])
    # Minima of the size without a change of sign, by a tenth or more: else they are rounding.
    middle = size[2:-2]
    low = (middle > 0) & (middle <= size[1:-3]) & (middle <= size[3:-1])
    low &= (middle < 0.9 * size[:-4]) & (middle < 0.9 * size[4:])
    low &= (signs[1:-3] == signs[2:-2]) & (signs[3:-1] == signs[2:-2])
    touching = [_lowest(f, grid[i - 1], grid[i + 1]) for i in np.flatnonzero(low) + 2]
    return [float(x) for x in points] + touching


def _lowest(f: Callable, a: float, b: float) -> float:
    """Where ``|f|`` is smallest in [a, b]: to rounding at a cusp too, which SciPy's bounded search is not."""
    for _ in range(40):
        x = np.linspace(a, b, 9)
        i = int(np.nanargmin(np.abs(f(x))))
        a, b = x[max(i - 1, 0)], x[min(i + 1, 8)]
    return float(x[i])
