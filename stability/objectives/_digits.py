"""Whether a formula's numbers have their digits: the same graph, evaluated once more in many digits."""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from ._graph import SMALLEST, Evaluator, Graph

AGREE = 1e-9
"""Of what is right, the error that is let pass."""
NEAR = 1e-6
"""How far around a point, as a share of its size, a number's own size is taken.

Near a zero of it no relative error is small, and none need be.
"""
DIGITS = (50, 100, 800)
"""In turn, until two agree; with the last, ``(1 + exp(-700)) - 1`` is no longer zero."""
LARGEST = 1_100
"""Binary digits of an exponential's argument beyond which it counts as infinite."""


class _Functions:
    """mpmath's functions under the names of an array library."""

    def __init__(self, digits: int) -> None:
        import mpmath

        self.context = mpmath.mp.clone()
        self.context.dps = digits
        self.maximum = max

    def __getattr__(self, name: str) -> Any:
        return getattr(self.context, name)

    @staticmethod
    def abs(a: Any) -> Any:
        return abs(a)

    @staticmethod
    def where(condition: bool, a: Any, b: Any) -> Any:
        return a if condition else b

    def full_like(self, like: Any, number: float) -> Any:
        return self.context.mpf(number)

    def logaddexp(self, a: Any, b: Any) -> Any:
        return max(a, b) + self.log1p(self.exp(-abs(a - b)))

    def log1p(self, a: Any) -> Any:
        # mpmath's own takes no infinity.
        return self.context.log1p(a) if self.context.isfinite(a) else self.context.log(a)

    def _grown(self, function: Any, a: Any, above: Any, below: Any) -> Any:
        if self.context.isfinite(a) and self.context.mag(a) < LARGEST:
            return function(a)
        return above if a > 0 else below

    def exp(self, a: Any) -> Any:
        return self._grown(self.context.exp, a, self.context.inf, self.context.mpf(0))

    def expm1(self, a: Any) -> Any:
        return self._grown(self.context.expm1, a, self.context.inf, self.context.mpf(-1))

    def cosh(self, a: Any) -> Any:
        return self._grown(self.context.cosh, a, self.context.inf, self.context.inf)

    def sinh(self, a: Any) -> Any:
        return self._grown(self.context.sinh, a, self.context.inf, self.context.ninf)

    def tanh(self, a: Any) -> Any:
        return self._grown(self.context.tanh, a, self.context.mpf(1), self.context.mpf(-1))


@functools.lru_cache(maxsize=32)  # a context takes longer to make than most formulas to evaluate
def _functions(digits: int, thread: int) -> _Functions:
    """One to a thread: mpmath changes a context's precision while it works."""
    return _Functions(digits)


def lost(graph: Graph, evaluator: Evaluator, point: Sequence[float], free: int) -> tuple[float, float] | None:
    """The worst of an evaluator's finite numbers that has too few digits: as it is, and as it should be.

    None where all have theirs; ``(number, nan)`` where what it should be cannot be found.

    Parameters
    ----------
    point : sequence of float
        The variables; the first `free` of them are moved a little, to see how large the numbers are nearby.
    """
    roots = evaluator.roots
    here, *there = np.array(_evaluated(evaluator, point, free)).T
    try:
        if _is_tower(graph, roots, point):
            raise OverflowError
        true = _true(graph, roots, point)
    except (ArithmeticError, TypeError, ValueError):  # beyond all bounds, divided by zero, complex
        return float(here[0]), float("nan")
    near, largest = np.abs(there).max(axis=0), np.abs(here).max()
    worst, most = None, 1.0
    for number, size, right in zip(here, near, true, strict=True):
        # A zero is allowed what rounding leaves of the largest of the numbers; others answer for themselves.
        allowed = AGREE * max(abs(right), size) + (SMALLEST if right else 1e-3 * AGREE * largest + SMALLEST)
        excess = float(abs(number - right) / allowed)
        if not excess <= most:
            worst, most = (float(number), float(right)), excess
    return worst


def _evaluated(evaluator: Evaluator, point: Sequence[float], free: int) -> list[np.ndarray]:
    """Every number at the point and at four beside it."""
    size = np.abs(point[:free]).max() or 1.0
    moves = NEAR * np.where(np.array(point[:free]) == 0, size, np.abs(point[:free]))
    signs = np.where(np.arange(free) % 2, 1.0, -1.0)
    places = np.tile(np.array(point, dtype=float), (5, 1))
    places[1:, :free] += np.array([np.ones(free), -np.ones(free), signs, -signs]) * moves
    with np.errstate(all="ignore"):
        return [np.broadcast_to(found, 5) for found in evaluator(list(places.T))]


def _is_tower(graph: Graph, roots: Sequence[int], point: Sequence[float]) -> bool:
    """Whether an exponent that varies is so large that its power has more digits than memory."""
    nodes = (graph.nodes[node] for node in graph.reached(roots))
    exponents = [parts[1] for kind, *parts in nodes if kind == "pow" and graph.value(parts[1]) is None]
    with np.errstate(all="ignore"):
        found = Evaluator(graph, exponents)([np.float64(x) for x in point])
    return any(not abs(power) < 1e6 for power in found)


def _true(graph: Graph, roots: Sequence[int], point: Sequence[float]) -> list[Any]:
    """The numbers as two precisions agree on; of those where none do, as the last has them."""
    found: dict[int, Any] = {}
    open_ = [root for root in dict.fromkeys(roots) if graph.value(root) is None]
    for digits in DIGITS:
        xp = _functions(digits, threading.get_ident())
        values = Evaluator(graph, open_)([xp.mpf(float(x)) for x in point], xp=xp)
        agreed = {
            root: root in found and value != 0 and abs(value - found[root]) <= 1e-3 * AGREE * abs(value)
            for root, value in zip(open_, values, strict=True)
        }
        found.update(zip(open_, values, strict=True))
        open_ = [root for root in open_ if not agreed[root]]
    return [found[root] if root in found else graph.value(root) for root in roots]
