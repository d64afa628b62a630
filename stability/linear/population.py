"""How moments of random matrix products grow, by a population of directions (weighted, and drawn anew).

One step moves every direction u by a matrix of its own and gives it the weight ``|B u|^s``; the mean weight
is the growth. Directions are drawn anew in proportion to their weights where these have become uneven. The
error is read off blocks of steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .._estimate import Estimate
from .growth import Coordinates, Step
from .moves import Move

BLOCKS = 20
"""Into which a run is cut for its error."""
PILOT, MAIN = (250, 40, 40), (600, 200, 40)
"""Size of a population, its steps, and how many come before: while the index is looked for, and at it."""
LUMP = 0.05
"""Share of a moment that one weight may have, lest it is not measured."""
LOWEST, HIGHEST = 1 / 32, 512.0
"""Orders that are tried."""
UNEVEN = 0.5
"""Share of a population that its weights must be worth, lest it is drawn anew."""
SETTLING, LONGEST = 25, 4
"""Steps in which directions may settle, lest runs are longer; and how many times as long they become."""


class Growth(NamedTuple):
    """Growth of ``E|B_n ... B_1 x|^s`` per step, a logarithm, its error, and one weight's largest share."""

    value: float
    error: float
    share: float


def found(
    move: Move, step: Step, seed: int, *, exact: bool, most: float = math.inf, pole: str = ""
) -> Estimate:
    """The tail index of random products, by how they `move` directions.

    Parameters
    ----------
    step : Step
        First and second moments: of these very matrices where `exact`, else of matrices like them.
    most : float
        The order from which one matrix has no moment, and as `pole` why.
    """

    rate = Rates(move, step, seed, exact, step.settling())
    # A little below half the pole: at half of it the sample of a moment has no variance itself.
    bracket = _bracket(rate, 0.45 * most)
    if isinstance(bracket, Estimate):
        return bracket
    if bracket is None:
        # Up to half the order of the pole one matrix has a variance, and the moment an error.
        return Estimate(0.75 * most, 0.25 * most, f"between {0.5 * most:.4g} and {most:.4g}: {pole}")
    return _refined(rate, _closer(rate, *bracket))


@dataclass(frozen=True)
class Rates:
    """Growth over its order, by a population for each; of one order always the same."""

    move: Move
    step: Step
    seed: int
    exact: bool
    settling: float = 1.0  # steps

    @property
    def longer(self) -> int:
        """How many times as long a run must be for directions to settle, as far as it may."""
        return math.ceil(min(max(self.settling / SETTLING, 1.0), LONGEST))

    def __call__(self, order: float, run: tuple[int, int, int] | None = None) -> Growth:
        size, steps, burn = run or PILOT
        steps, burn = self.longer * steps, self.longer * burn
        # Seeded by the order: asked twice, a rate is the same, and a search for its zero ends.
        rng = np.random.default_rng([self.seed, round(1e6 * order)])
        known, coordinates = self.step if self.exact else None, self.step.coordinates(order)
        one = grown(self.move, coordinates, order, rng, size=size, steps=steps, burn=burn, known=known)
        return Growth(one.value / order, one.error / order, one.share)


Point = tuple[float, float]
"""An order and its rate."""


def _bracket(rate: Rates, most: float) -> tuple[Point, Point] | Estimate | None:
    """Two orders between which the rate crosses zero.

    The index where there are none; None where `most` is below it.
    """
    order = min(2.0, most)
    value, _, share = rate(order)
    while value >= 0:
        above, order = (order, value), 0.5 * order
        if order < LOWEST:
            return Estimate(0.0, 0.0, "paths grow almost surely")
        value = rate(order).value
        if value < 0:
            return (order, value), above
    while order < HIGHEST:
        below, order = (order, value), min((2 if order < 16 else 4) * order, most)
        if order == below[0]:
            return None
        value, _, share = rate(order)
        if share > LUMP and value < 0:
            why = "moments of a higher order hang on single matrices of all that were drawn"
            return Estimate(below[0], math.inf, f"at least {below[0]:.4g}: {why}")
        if value >= 0:
            return below, (order, value)
    return Estimate(math.inf, 0.0, f"moments up to order {HIGHEST:g} shrink")


def _closer(rate: Rates, below: Point, above: Point) -> float:
    """An order near the zero between two, by straight lines."""
    for _ in range(3):
        order = _between(below, above)
        value = rate(order).value
        below, above = ((order, value), above) if value < 0 else (below, (order, value))
    return _between(below, above)


def _between(below: Point, above: Point) -> float:
    (low, a), (high, b) = below, above
    share = a / (a - b) if math.isfinite(a) else 1.0
    return low + min(max(share, 0.05), 0.95) * (high - low)


def _refined(rate: Rates, order: float) -> Estimate:
    """The zero near an order, by a long run there and one a little below, which tells the slope."""
    here, near = rate(order, MAIN), rate(0.9 * order, MAIN)
    # A rate over its order increases: a slope within chance of zero would send the zero anywhere.
    slope = max((here.value - near.value) / (0.1 * order), here.error / order)
    for _ in range(3):
        move = -here.value / slope
        if abs(move) <= 0.01 * order:
            break
        # Rates far from the zero bend: longer moves than these rest on a slope that no longer holds.
        move = min(max(move, -0.4 * order), 0.6 * order)
        before, order = here, order + move
        here = rate(order, MAIN)
        slope = max((here.value - before.value) / move, here.error / order)
    move = -here.value / slope
    error = math.hypot(here.error / slope, 0.05 * move)
    if max(error, abs(move)) > 0.25 * order:
        why = "its growth over a step is too small beside what chance does to it"
        return Estimate(order, math.inf, f"about {order:.2g}, which is not resolved: {why}")
    if rate.settling > LONGEST * SETTLING:
        why = f"directions settle in {rate.settling:.0f} steps only"
        return Estimate(order + move, max(error, 0.25 * order), f"{why}, longer than was waited for")
    if here.share <= LUMP:
        return Estimate(order + move, error)
    reason = f"one matrix of all that were drawn makes up {here.share:.0%} of the moment"
    return Estimate(order + move, max(error, 0.5 * order), reason)


def grown(
    move: Move,
    place: Coordinates,
    order: float,
    rng: np.random.Generator,
    *,
    size: int,
    steps: int,
    burn: int,
    known: Step | None = None,
) -> Growth:
    """The growth of one order, with a population of this `size`.

    Lengths are those of the coordinates. Where the step's first and second moments are `known`, what they
    say has mean zero is taken off: at order 2 nothing is then left of the error.
    """
    u = rng.standard_normal((size, len(place.root))) @ np.linalg.cholesky(place.spread).T @ place.inverse
    u /= np.linalg.norm(u @ place.root, axis=1)[:, None]
    metric = place.root @ place.root
    control = None if known is None else Control(known.mean, known.backward(metric), metric)
    weights, share = np.zeros(size), 0.0
    means, plain = np.zeros((2, steps))
    for k in range(-burn, steps):
        ahead, ratio = move(rng, u, order, metric)
        length = np.linalg.norm(ahead @ place.root, axis=1)
        with np.errstate(divide="ignore"):
            growth = order * np.log(length) + ratio
        own = np.exp(weights - weights.max())
        own /= own.sum()
        heights = np.exp(growth)
        mean = float(own @ heights)
        if mean == 0:
            return Growth(-math.inf, 0.0, 1.0)
        if k >= 0:
            share = max(share, float(np.max(own * heights)))
        # Steps before the first are for settling: all of them overwrite entry 0, until step 0 does.
        plain[max(k, 0)] = mean
        means[max(k, 0)] = (
            mean if control is None else control.less(own, heights, u, ahead, length, np.exp(ratio))
        )
        # Logarithms, less their mean growth: products of thousands of weights leave all floats.
        weights = weights + growth - math.log(mean)
        u = ahead / np.where(length > 0, length, 1.0)[:, None]
        worth = np.exp(weights - weights.max())
        # The effective size of a weighted sample; drawing anew at every step would only add noise.
        if worth.sum() ** 2 < UNEVEN * size * (worth**2).sum():
            u, weights = u[_drawn(worth, rng)], np.zeros(size)
    if not means.mean() > 0:  # chance took more than all
        means = plain
    blocks = means.reshape(BLOCKS, -1).mean(axis=1)
    # Mean weights are averaged before the logarithm is taken: that of one step alone would be too small.
    mean = float(blocks.mean())
    error = float(blocks.std(ddof=1)) / mean / math.sqrt(BLOCKS)
    return Growth(math.log(mean), error, share / (steps * mean))


class Control:
    """What of a mean weight is known to be chance: three numbers that have mean zero from every direction.

    The step along its mean, the square of its length, and the ratio of densities, less their means. How much
    of them the weights have is learnt from earlier steps, so that nothing of the mean itself is lost.
    """

    def __init__(self, mean: np.ndarray, backward: np.ndarray, metric: np.ndarray):
        self.mean, self.backward, self.metric = mean, backward, metric
        self._squares, self._products = np.zeros((3, 3)), np.zeros(3)

    def less(
        self,
        own: np.ndarray,
        heights: np.ndarray,
        u: np.ndarray,
        ahead: np.ndarray,
        length: np.ndarray,
        ratio: np.ndarray,
    ) -> float:
        """The mean of `heights` (n,) with weights `own` (n,), less the part that is chance."""
        straight = u @ self.mean.T
        along = np.sum((ahead - straight) @ self.metric * straight, axis=1)
        square = length**2 - np.sum(u @ self.backward * u, axis=1)
        parts = np.stack([along * ratio, square * ratio, ratio - 1])
        slopes = np.linalg.lstsq(self._squares, self._products, rcond=1e-12)[0]
        # Slopes come from earlier steps alone: fitted to this one they would take of its own mean.
        mean, chance = float(own @ heights), parts @ own
        apart = (parts - chance[:, None]) * own
        self._squares += apart @ parts.T
        self._products += apart @ heights
        return mean - float(slopes @ chance)


def _drawn(worth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Indices of a population drawn anew in proportion to its worth, evenly spaced along its sum."""
    marks = (np.arange(len(worth)) + rng.random()) / len(worth)
    return np.minimum(np.searchsorted(np.cumsum(worth / worth.sum()), marks), len(worth) - 1)
