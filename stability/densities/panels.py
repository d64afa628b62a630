"""One-dimensional diffusions by quadrature: drift and noise as piecewise polynomials, integrated.

With ``h = 2 f / D`` and ``q = 1 / D`` the stationary density is ``q exp(E)``, ``E' = h``. Both stay smooth
where drift and noise are infinite together, as at a pole of Newton's gain.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .._check import Unstable
from .._special import gauss

ORDER = 16
"""Nodes in a panel; even, so that none falls on the middle, where a pole may lie."""
SWING = 4.0
"""Largest change of E in a panel: exp(E) and exp(-E) are then polynomials to rounding."""
MOST_PANELS = 20_000
_TOLERANCE = 1e-12
_LOCAL = 1e-8  # of q, on one panel: rounding in a user's formula may be worse than the tolerance
_NEAR = 1e-6  # of the whole width: as close as a pole is to an end that it made
_FALL = 20_000.0  # of E, from its top: what lies beyond, at either end, has no mass
_FINEST = 1e-13  # of the whole width: here panels end
_BENT = 3e-5  # of the whole width: where polynomials still miss at this size, there is a corner or a jump

Fields = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""States (m,) to ``h`` and ``q`` (m,)."""


class NoDensity(ValueError):
    """A whole panel where the flow is not finite, or has no noise."""


class TooSteep(ValueError):
    """E changes by more than can be followed."""


class Rule(NamedTuple):
    """The Gauss rule on [-1, 1], with the matrices of what is done to values (ORDER,) at its nodes."""

    nodes: np.ndarray
    weights: np.ndarray
    to_legendre: np.ndarray  # the polynomial's Legendre coefficients
    integral: np.ndarray  # the values of its antiderivative from -1


@functools.cache
def rule() -> Rule:
    nodes, weights = gauss(ORDER)
    legendre = np.polynomial.legendre
    transform = (np.arange(ORDER) + 0.5)[:, None] * legendre.legvander(nodes, ORDER - 1).T * weights
    integrated = legendre.legint(np.eye(ORDER), lbnd=-1)
    return Rule(nodes, weights, transform, legendre.legvander(nodes, ORDER) @ integrated @ transform)


@dataclass(frozen=True)
class Panels:
    """Piecewise polynomials ``h`` and ``q`` on panels.

    Attributes
    ----------
    edges : array (k + 1,)
    h, q : arrays (k, ORDER)
        At the Gauss nodes of every panel.
    breaks : array
        Points where the flow is not smooth.
    poles : array
        Those at which ``h`` is not even integrable.
    error : float
        Of E, and relative of q: what the polynomials miss.
    """

    edges: np.ndarray
    h: np.ndarray
    q: np.ndarray
    breaks: np.ndarray
    poles: np.ndarray
    error: float

    @property
    def half(self) -> np.ndarray:
        return 0.5 * np.diff(self.edges)

    @property
    def nodes(self) -> np.ndarray:
        return nodes_between(self.edges[:-1], self.edges[1:])

    @functools.cached_property
    def exponent(self) -> np.ndarray:
        """E at the nodes (k, ORDER), zero at the first edge."""
        return self._exponent_edges[:-1, None] + self.half[:, None] * (self.h @ rule().integral.T)

    @functools.cached_property
    def _exponent_edges(self) -> np.ndarray:
        return np.concatenate([[0.0], np.cumsum(self.half * (self.h @ rule().weights))])

    @functools.cached_property
    def log_density(self) -> np.ndarray:
        """``log(q exp(E))`` at the nodes (k, ORDER), not normalised."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.exponent + np.log(self.q)

    @functools.cached_property
    def log_masses(self) -> np.ndarray:
        """Logarithms of the panels' masses (k,), not normalised."""
        top = self.log_density.max(axis=1)
        with np.errstate(divide="ignore"):
            return top + np.log(self.half * (np.exp(self.log_density - top[:, None]) @ rule().weights))

    @functools.cached_property
    def log_total(self) -> float:
        return float(np.logaddexp.reduce(self.log_masses))

    def mean(self, values: np.ndarray) -> float:
        """The mean under the density of a function's values (k, ORDER) at the nodes."""
        weights = self.half[:, None] * rule().weights * np.exp(self.log_density - self.log_total)
        return float(np.sum(weights * values) / np.sum(weights))

    def at(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """``h``, ``q`` and ``E`` at points (m,) inside."""
        panel = np.clip(np.searchsorted(self.edges, x, side="right") - 1, 0, len(self.edges) - 2)
        place = (x - self.edges[panel]) / self.half[panel] - 1
        basis = np.polynomial.legendre.legvander(place, ORDER - 1)
        h, q, exponent = (
            np.sum(basis * (values[panel] @ rule().to_legendre.T), axis=-1)
            for values in (self.h, self.q, self.exponent)
        )
        return h, q, exponent

    def density(self, x: np.ndarray) -> np.ndarray:
        """The density normalised on the panels, at points (m,); 0 outside."""
        inside = (x >= self.edges[0]) & (x <= self.edges[-1])
        _, q, exponent = self.at(x[inside])
        density = np.zeros_like(x)
        # Where q spans many powers of ten on a panel, its polynomial may dip below zero by a rounding.
        density[inside] = np.maximum(q, 0.0) * np.exp(exponent - self.log_total)
        return density

    def shares(self, edges: np.ndarray) -> np.ndarray:
        """The probabilities of cells (m,) whose edges inside are edges of panels."""
        cells = np.searchsorted(edges, self.edges[:-1] + self.half) - 1
        return np.bincount(cells, weights=np.exp(self.log_masses - self.log_total), minlength=len(edges) - 1)

    def slope(self, x: float) -> float:
        """``h'`` at a point."""
        panel = int(np.clip(np.searchsorted(self.edges, x, side="right") - 1, 0, len(self.edges) - 2))
        half = self.half[panel]
        derivative = np.polynomial.legendre.legder(rule().to_legendre @ self.h[panel])
        return float(np.polynomial.legendre.legval((x - self.edges[panel]) / half - 1, derivative) / half)

    def log_passage(self, start: float, end: float) -> float:
        """Logarithm of the mean first passage time ``2 int_start^end exp(-E) int q exp(E)``.

        The far end of the panels reflects.
        """
        cut = self.cut(start).cut(end)
        if start > end:
            cut = cut.mirrored()
            start, end = -start, -end

        # The inner integral up to every node: whole panels before it, and a part of its own. In logarithms
        # throughout, as times over high barriers overflow.
        before = np.concatenate([[-np.inf], np.logaddexp.accumulate(cut.log_masses)])[:-1]
        top = cut.log_density.max(axis=1)
        part = cut.half[:, None] * (np.exp(cut.log_density - top[:, None]) @ rule().integral.T)
        rows = (cut.edges[:-1] >= start) & (cut.edges[1:] <= end)
        with np.errstate(divide="ignore"):
            within = top[:, None] + np.log(np.maximum(part, 0.0))
            inner = np.logaddexp(before[:, None], within) - cut.exponent
            outer = inner + np.log(cut.half[:, None] * rule().weights)
        return float(math.log(2) + np.logaddexp.reduce(outer[rows], axis=None))

    def cut(self, x: float) -> Panels:
        """The same with an edge at `x`."""
        if x in self.edges:
            return self
        edges = np.insert(self.edges, np.searchsorted(self.edges, x), x)
        panel = int(np.searchsorted(self.edges, x)) - 1
        h, q, _ = self.at(nodes_between(edges[panel : panel + 2], edges[panel + 1 : panel + 3]).ravel())
        h = np.concatenate([self.h[:panel], h.reshape(2, -1), self.h[panel + 1 :]])
        q = np.concatenate([self.q[:panel], q.reshape(2, -1), self.q[panel + 1 :]])
        return Panels(edges, h, q, self.breaks, self.poles, self.error)

    def mirrored(self) -> Panels:
        """In the coordinate ``-x``."""
        return Panels(
            -self.edges[::-1],
            -self.h[::-1, ::-1],
            self.q[::-1, ::-1],
            -self.breaks[::-1],
            -self.poles[::-1],
            self.error,
        )


def adapt(fields: Fields, edges: np.ndarray, *, swing: float = SWING) -> Panels:
    """Panels fine enough for both fields, split at the points where these are not smooth.

    Raises
    ------
    NoDensity
        If there is a stretch where a field is not finite.
    TooSteep
        If E changes by more than can be followed.
    """
    first = _refine(fields, edges, swing)
    # Bisection closes in on a kink without meeting it: with an edge there, polynomials fit on either side.
    inside = first.breaks[(first.breaks > edges[0]) & (first.breaks < edges[-1])]
    apart = np.abs(np.subtract.outer(inside, edges)).min(axis=1) > 4 * _FINEST * (edges[-1] - edges[0])
    if not apart.any():
        return first
    second = _refine(fields, np.sort(np.concatenate([edges, inside[apart]])), swing)
    return Panels(second.edges, second.h, second.q, first.breaks, second.poles, second.error)


def confined(fields: Fields, edges: np.ndarray) -> Panels:
    """As `adapt`, but where E falls too far towards an end, that stretch, without mass, is left out.

    Raises
    ------
    Unstable
        If E rises to infinity at a point.
    """
    try:
        return adapt(fields, edges)
    except TooSteep:
        poles, inner = _trimmed(fields, edges)
    room = _NEAR * np.ptp(edges)
    near = poles[(poles > inner[0] - room) & (poles < inner[-1] + room)]
    try:
        return adapt(fields, inner)
    except TooSteep as error:
        if len(near):
            raise Unstable(
                f"There is no stationary density: the drift overwhelms the noise near w = {near[0]:.6g}, and "
                "all mass collapses there."
            ) from error
        raise


def _trimmed(fields: Fields, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The poles of h, and the edges without the ends from which E rises by more than a density can follow."""
    rough = adapt(fields, edges, swing=math.inf)
    poles, width = rough.poles, np.ptp(edges)
    while True:
        places = np.concatenate([edges[:1], rough.nodes.ravel(), edges[-1:]])
        slopes = np.concatenate([rough.h[0, :1], rough.h.ravel(), rough.h[-1, -1:]])
        # A trapezoid keeps the sign where no polynomial fits.
        changes = 0.5 * (slopes[1:] + slopes[:-1]) * np.diff(places)
        low = places[max(0, int(np.argmax(_rises(changes) <= _FALL)) - 1)]
        high = places[len(changes) - max(0, int(np.argmax(_rises(-changes[::-1]) <= _FALL)) - 1)]
        inner = np.concatenate([[low], edges[(edges > low) & (edges < high)], [high]])
        # What is left is looked at again, more closely, as long as half or more of it falls away.
        if not 0.5 * np.ptp(edges) > np.ptp(inner) > _NEAR * width:
            return poles, inner
        edges = inner
        rough = adapt(fields, edges, swing=math.inf)


def _rises(changes: np.ndarray) -> np.ndarray:
    """How far E rises at most on the way from each place (n + 1,) to the last one."""
    rises = [0.0]  # summed from the end: differences of sums from the start would lose the digits
    for change in changes[::-1].tolist():
        rises.append(max(0.0, change + rises[-1]))
    return np.array(rises[::-1])


def _refine(fields: Fields, edges: np.ndarray, swing: float) -> Panels:
    low, high = edges[:-1], edges[1:]
    finest = _FINEST * (edges[-1] - edges[0])
    kept: list[tuple[np.ndarray, ...]] = []
    bent = np.zeros(len(low), dtype=bool)  # split where a polynomial missed the fields, not where E swings
    while len(low):
        if len(low) + sum(len(group[0]) for group in kept) > 2 * MOST_PANELS:
            raise TooSteep(
                "The noise is too small for this grid: the density's exponent changes by more than it can be "
                "followed. Take a narrower grid, or more noise."
            )
        h, q = (values.reshape(len(low), ORDER) for values in fields(nodes_between(low, high).ravel()))
        _refuse(h, q, low, high)
        half = 0.5 * (high - low)
        # On tiny panels the nodes themselves are rounded, and no halving makes the fields smoother.
        grain = 1e-15 * np.maximum(np.abs(low), np.abs(high)) / half
        miss, smooth, resolved = _resolved(h, q, half, half / (edges[-1] - edges[0]), grain, swing)
        last = (high - low <= finest) & ~resolved
        keep = resolved | last
        clean = [np.where(np.isfinite(values[keep]), values[keep], 0.0) for values in (h, q)]
        kept.append((low[keep], high[keep], *clean, last[keep], bent[keep], miss[keep]))
        middle, bent = 0.5 * (low + high)[~keep], np.tile(~smooth[~keep], 2)
        low, high = np.concatenate([low[~keep], middle]), np.concatenate([middle, high[~keep]])
    parts = [np.concatenate(part) for part in zip(*kept, strict=True)]
    order = np.argsort(parts[0], kind="stable")
    low, high, h, q, rough, bent, miss = (part[order] for part in parts)
    steep = rough & (np.abs(h).max(axis=1) * (high - low) > 1e-3)
    bent &= high - low <= _BENT * (edges[-1] - edges[0])
    return Panels(
        np.append(low, high[-1]),
        h,
        q,
        _centers(low, high, bent | rough),
        _centers(low, high, steep),
        float(np.sum(np.where(rough, 0.0, miss))),
    )


def _resolved(
    h: np.ndarray, q: np.ndarray, half: np.ndarray, part: np.ndarray, grain: np.ndarray, swing: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the polynomials miss (m,), whether that is little enough, and whether E swings little enough too.

    Each is on a `part` of the whole; `grain` is how much of a panel's width the rounding of its points is.
    """
    # The last two coefficients stand for all that are left out: one alone may vanish by symmetry.
    last = rule().to_legendre[-2:].T
    with np.errstate(all="ignore"):
        turn = half * np.abs(h @ last).max(axis=1)
        share = np.abs(q @ last).max(axis=1) / np.abs(q).max(axis=1)
        change = half * np.abs(h @ rule().integral.T).max(axis=1)
        miss = turn + share * part
        smooth = turn <= _TOLERANCE * np.maximum(1, change) + grain * change
        smooth &= share <= np.maximum(np.minimum(_LOCAL, _TOLERANCE / part), grain)
        smooth &= np.isfinite(h).all(axis=1) & np.isfinite(q).all(axis=1)
    return miss, smooth, smooth & (change <= swing)


def _refuse(h: np.ndarray, q: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
    silent = np.isposinf(q).all(axis=1)
    if silent.any():
        raise NoDensity(f"there is no noise near w = {0.5 * (low + high)[silent][0]:.6g}")
    lost = ~(np.isfinite(h) & np.isfinite(q)).any(axis=1)
    if lost.any():
        raise NoDensity(f"the flow is not finite near w = {0.5 * (low + high)[lost][0]:.6g}")


def _centers(low: np.ndarray, high: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """One point for each run of neighbouring chosen panels: where they are finest."""
    rows = np.flatnonzero(chosen)
    groups = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1) if len(rows) else []
    finest = [group[np.argmin((high - low)[group])] for group in groups]
    return np.array([0.5 * (low[k] + high[k]) for k in finest])


def nodes_between(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The rule's nodes (panels, nodes) within panels from `low` to `high`, each (panels,)."""
    return 0.5 * (low + high)[:, None] + 0.5 * (high - low)[:, None] * rule().nodes


def tail(fields: Fields, panels: Panels, side: int) -> tuple[float, float]:
    """The mass beyond an end (side -1 or 1), over that on the panels, and the power of the density's decay.

    Follows the flow outwards, in steps that double or in which E changes by 30, to a density that no longer
    matters or 40 steps. The power is ``-d log p / d log x`` at the farthest point: inf where it still grows
    there (exponential tails), nan where the domain ends with the panels.
    """
    own = panels if side > 0 else panels.mirrored()

    def outward(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        h, q = fields(side * x)
        return side * h, q

    center = 0.5 * (own.edges[0] + own.edges[-1])
    end, width = own.edges[-1], (own.edges[-1] - own.edges[0]) / 64
    exponent, mass, decay = float(own._exponent_edges[-1]), 0.0, math.nan
    for _ in range(40):
        try:
            ahead = adapt(outward, np.array([end, end + width]))
        except NoDensity:
            return mass, decay
        except TooSteep:  # the density falls too fast to matter
            return mass, math.inf
        mass += math.exp(min(700.0, ahead.log_total + exponent - own.log_total))
        exponent += float(ahead._exponent_edges[-1])
        decay = _decay(ahead, center)
        end += width
        log_q = float(ahead.log_density[-1, -1] - ahead.exponent[-1, -1])
        # exp(-45) is below rounding; a mass that outgrows the panels' has no end.
        if not mass < 1e3 or log_q + exponent + math.log(width) < own.log_total - 45:
            break
        width = min(2 * width, 30 / max(abs(float(ahead.h[-1, -1])), 1e-300))
    return mass, decay


def _decay(panels: Panels, center: float) -> float:
    """``-d log p / d log x`` at the far end of these panels; inf where it grows, as for no power."""
    far, level = np.log(panels.nodes.ravel() - center), panels.log_density.ravel()
    half = len(far) // 2
    near, last = (
        -(level[j] - level[i]) / (far[j] - far[i]) for i, j in ((0, half - 1), (half, len(far) - 1))
    )
    # The middles of the two halves are half the whole apart; exp(-x^a) grows as x^a, here with a > 1/4.
    grows = last > 1 and near > 0 and math.log(last / near) > 0.25 * (far[-1] - far[0]) / 2
    return math.inf if grows else float(last)
