"""The gate for objectives of a user's own: what they give is checked, and brought to the states' kind."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import _check
from .._array import Backend, like, moved, transpose

_OWN = __name__.partition(".")[0]
_MEMBERS = frozenset(
    ("value", "gradient", "hessian", "hessian_diagonal", "third", "hvp", "per_sample_gradient", "products")
)
_STRETCH = (1e-3, 1e-5, 1e-7, 1e-9)  # of the state's size, tried until the differences of values settle
_PROBED = 256
"""Samples that the probe of a data objective looks at."""


class Gated:
    """An objective whose every answer has passed `_check.returned`: real, of the right shape, like the state.

    Everything else about it is the objective's own.
    """

    def __init__(self, own: Any):
        self._own = own

    def __getattr__(self, name: str) -> Any:
        if name == "_own" or name.startswith("__"):  # while it is being copied there is nothing to ask
            raise AttributeError(name)
        return getattr(self._own, name)

    def __repr__(self) -> str:
        return repr(self._own)

    def moved(self, backend: Backend) -> Gated:
        """The same behind a gate, with its arrays on `backend`."""
        return Gated(moved(self._own, backend))

    def value(self, w: Any, **batch: Any) -> Any:
        """``F(w)``, (..., d) -> (...)."""
        return _check.returned("value", self._own.value(w, **batch), w, np.shape(w)[:-1])

    def gradient(self, w: Any, **batch: Any) -> Any:
        """(..., d) -> (..., d)."""
        return _check.returned("gradient", self._own.gradient(w, **batch), w, np.shape(w))

    def value_and_gradient(self, w: Any, **batch: Any) -> tuple[Any, Any]:
        """Both at once, where the objective has that."""
        value, gradient = self._own.value_and_gradient(w, **batch)
        shape = np.shape(w)
        return (
            _check.returned("value", value, w, shape[:-1]),
            _check.returned("gradient", gradient, w, shape),
        )

    def hessian(self, w: Any, **batch: Any) -> Any:
        """(..., d) -> (..., d, d)."""
        found, shape = self._own.hessian(w, **batch), np.shape(w)
        passed = _check.returned("hessian", found, w, (*shape, shape[-1]))
        return passed if passed is found else _settled(passed, _check.asymmetry(found))

    def hessian_diagonal(self, w: Any) -> Any:
        """(..., d) -> (..., d)."""
        return _check.returned("hessian_diagonal", self._own.hessian_diagonal(w), w, np.shape(w))

    def third(self, w: Any, v: Any) -> Any:
        """(..., d), (..., d) -> (..., d, d)."""
        shape = np.shape(w)
        return _check.returned("third", self._own.third(w, v), w, (*shape, shape[-1]))

    def hvp(self, w: Any, V: Any, **batch: Any) -> Any:
        """(..., d), (..., d, k) -> (..., d, k)."""
        return _check.returned("hvp", self._own.hvp(w, V, **batch), V, np.shape(V))

    def products(self, w: Any, **batch: Any) -> Callable[[Any], Any]:
        """Block Hessian products at one state, where the objective has that."""
        product = self._own.products(w, **batch)
        return lambda V: _check.returned("products", product(V), V, np.shape(V))


def gated(objective: Any) -> Any:
    """`objective` behind the gate; one of this package's own, untouched, needs none."""
    trusted = type(objective).__module__.partition(".")[0] == _OWN
    if trusted and not _MEMBERS & getattr(objective, "__dict__", {}).keys():
        return objective
    return Gated(objective)


def bare(objective: Any) -> Any:
    """The objective behind a gate."""
    return objective._own if isinstance(objective, Gated) else objective


def _settled(hessian: Any, allowed: float) -> Any:
    """A Hessian that came in another type: symmetric, where only that type's rounding kept it from being so.

    What is farther from symmetric stays as it is, for those who check.
    """
    if not isinstance(hessian, np.ndarray):
        return hessian
    gap, size = (np.max(np.abs(part), initial=0.0) for part in (hessian - transpose(hessian), hessian))
    return 0.5 * (hessian + transpose(hessian)) if gap <= allowed * size else hessian


# -- the probe -------------------------------------------------------------------------------------


def probe(objective: Any, w: Any) -> None:
    """Warn where the gradient at one state (d,) is clearly not the derivative of the value.

    Along the gradient and along one direction at random, from a few values: none is told where these do not
    settle, as at a kink, at the edge of the domain, or where every call draws a new batch. Objectives of this
    package are not looked at. Raises where a function writes into the state.
    """
    if not isinstance(objective, Gated):
        return
    n = getattr(objective, "n_samples", None)
    batch = {} if n is None else {"batch": np.arange(min(int(n), _PROBED))}
    told, outside, before = None, False, _host(w).copy()
    with np.errstate(all="ignore"):
        try:
            slope = np.asarray(_host(objective.gradient(w, **batch)), dtype=float)
            outside = math.isnan(float(objective.value(w, **batch))) and bool(np.isfinite(slope).all())
            told = _mismatch(lambda x: float(objective.value(x, **batch)), _host(w), slope, w)
        except Exception:  # what a user's function can not do is said where it is needed
            pass
    if not np.array_equal(_host(w), before):
        raise ValueError(
            "`value` and `gradient` must leave the state as it is; here they write into it. Begin them with "
            "w = w.copy()."
        )
    if outside:
        _check.warn(
            "`value` is nan at the start, where `gradient` is finite: the start lies outside the domain, and "
            "paths would run where the objective is not defined. Start inside, or return nan for the "
            "gradient too. Where that is meant, pass check=False."
        )
    elif told is not None:
        _check.warn(
            f"`gradient` is not the derivative of `value` at the start: along one direction it gives "
            f"{told[0]:.6g}, differences of `value` give {told[1]:.6g}. Compare them: st.check_derivatives("
            "objective, start). Where that is meant, pass check=False."
        )


def _host(array: Any) -> np.ndarray:
    return np.asarray(array.get() if hasattr(array, "get") else array)


def _mismatch(
    value: Callable[[Any], float], w: np.ndarray, gradient: np.ndarray, beside: Any
) -> tuple[float, float] | None:
    """The slopes along a direction by the gradient and by values, where they disagree; else None."""
    middle, length = value(beside), float(np.linalg.norm(gradient))
    if not (math.isfinite(middle) and math.isfinite(length)):
        return None
    random = np.random.default_rng(0).standard_normal(w.shape)
    for direction in ([gradient / length] if length else []) + [random / np.linalg.norm(random)]:
        claimed = float(gradient @ direction)
        slope = _contradicted(lambda x: value(like(x, beside)), w, direction, middle, (claimed, length))
        if slope is not None:
            return claimed, slope
    return None


def _contradicted(
    value: Callable[[Any], float],
    w: np.ndarray,
    direction: np.ndarray,
    middle: float,
    claimed: tuple[float, float],
) -> float | None:
    """The slope of values along a direction, where two distances agree on another than is claimed.

    Claimed are a slope, and the gradient's length.
    """
    extent, before = float(np.max(np.abs(w), initial=0.0)) or 1.0, (0.0, math.inf)
    rough = float(np.finfo(w.dtype).eps)
    for h in extent * np.array(_STRETCH):
        slopes, bends, heights = [], [], [middle]
        for length in (h, 0.25 * h):
            ahead, behind = (value((w + side * length * direction).astype(w.dtype)) for side in (1.0, -1.0))
            slopes.append((ahead - behind) / (2 * length))
            bends.append(abs(ahead - 2 * middle + behind) / length)
            heights += [ahead, behind]
        # Values of a narrower type, as PyTorch's, are rougher than the state tells.
        rough = max(rough, _check.unit(np.array(heights)))
        slope, size = slopes[1], max(abs(slopes[1]), abs(claimed[0]), 0.1 * claimed[1])
        error = 4 * abs(slopes[1] - slopes[0]) + 100 * rough * float(np.max(np.abs(heights))) / h
        # At a kink the second difference falls no faster than the distance.
        if not (error <= 0.05 * size and bends[1] <= 0.5 * bends[0] + error):
            continue
        if abs(slope - claimed[0]) <= error + 1e-3 * size:
            return None
        if abs(slope - before[0]) <= before[1] + error + 1e-3 * size < math.inf:
            return slope
        before = slope, error
    return None
