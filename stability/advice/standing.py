"""How this package's methods stand at a place: the metric and the memory that a step there would have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import _check
from .._streams import stream
from ..lowrank.randomized import randomized_eigh
from ..methods.method import Method
from .optimizer import ANSWERS, Optimizer
from .place import Place, drawn

WRITTEN = 2000
"""Most parameters whose Hessian is written out, for a method of its whole spectrum."""

_BOUNDED = "Noise of signs is taken for the gradient's own, in the metric that signs have on average."


def standing(method: Method, place: Place, *, step: float, batch: int, seed: int = 0) -> Optimizer:
    """A method as it stands at a place.

    Metrics are those that gradients at the place have settled; of a spectral method the Hessian is that of
    the samples looked at.

    Raises
    ------
    ValueError
        If the method's gain is no metric here, or its spectrum is too large to be known.
    """
    memory = getattr(method, "averaging", None) or method.memory
    given: dict[str, Any] = {
        "steps": (step,),
        "memory": memory,
        "weight_decay": (method.weight_decay,),
        "decoupled": method.decoupled,
        "label": method.label,
    }
    if not method.spectral:
        bounded = not method.linear  # type: ignore[attr-defined]
        notes = (_BOUNDED if bounded else ANSWERS,)
        return Optimizer(
            root=_diagonal(method, place, batch), multiplies=not bounded, notes=notes, cost=2.0, **given
        )
    if method.is_identity:
        return Optimizer(**given)
    find = _truncated if method.rank is not None and method.rank < place.n else _whole
    note = (
        f"{method.label}'s curvature is that of the samples looked at: noise of its own Hessian batches, not "
        "counted, would lower the limit."
    )
    return Optimizer(root=find(method, place, seed), notes=(note,), **given)


def _diagonal(method: Any, place: Place, batch: int) -> Callable[[Any], Any]:
    """``diag(p)^(1/2)`` from the mean squares of a batch's gradients."""
    second, gradient = (place.backend.host(part) for part in (place.second_moment(), place.gradient()))
    spread = np.maximum(second - gradient**2, 0.0) * drawn(batch, place.population)
    square = spread + gradient**2 if method.linear else spread

    def bends(still: np.ndarray) -> bool:
        signs = stream(0, 5).choice([-1.0, 1.0], place.n) * still
        return bool(np.any(place.backend.host(place.product(place.backend.asarray(signs[:, None])))))

    metric = settled(method, square, bends)
    root = place.backend.asarray(np.sqrt(metric))[:, None]
    return lambda V: root * V


def settled(method: Any, square: np.ndarray, bends: Callable[[np.ndarray], bool]) -> np.ndarray:
    """The metric (n,) on mean squares of gradients; 0 for what no step moves, as weights of an empty input.

    Whether there is curvature along some coordinates `bends` says; it is asked where the metric is infinite.
    """
    with np.errstate(divide="ignore"):
        metric = np.asarray(method.scale(square))
    still = ~np.isfinite(metric)
    if still.any() and bends(still):
        lacks, fix = "neither size nor noise", "Give it `eps` > 0"
        if not hasattr(method, "eps"):
            lacks, fix = "no noise", "Take smaller batches"
        raise ValueError(
            f"{method.label}'s metric is infinite where a coordinate's gradient has {lacks}, as entry "
            f"{np.flatnonzero(still)[0]} here. {fix}, or ask where gradients have noise."
        )
    return np.where(still, 0.0, metric)


def _truncated(method: Method, place: Place, seed: int) -> Callable[[Any], Any]:
    """Of a low-rank method: kept eigenvectors, and one gain for all else."""
    rank = int(method.rank or 0)
    found = randomized_eigh(place.product, place.n, rank + 1, seed=seed, device=place.backend)
    values, vectors = found.eigenvalues, found.vectors[:, :rank]
    gains = np.asarray(method.gain(values[:rank]), dtype=float)
    tail = float(method.tail_gain(values[rank]))
    _require_metric(method, np.append(gains, tail))
    extra = place.backend.asarray(np.sqrt(gains) - np.sqrt(tail))[:, None]
    return lambda V: vectors @ (extra * (vectors.T @ V)) + float(np.sqrt(tail)) * V


def _whole(method: Method, place: Place, seed: int) -> Callable[[Any], Any]:
    """Of a method of the whole spectrum, where the Hessian can be written out."""
    if place.n > WRITTEN:
        raise ValueError(
            f"{method.label} needs all {place.n} eigenvalues of the Hessian, and {WRITTEN} are the most "
            "here. Use st.LRSFN(rank=..., damping=...)."
        )
    hessian = place.backend.host(place.product(place.backend.asarray(np.eye(place.n))))
    values, vectors = np.linalg.eigh(_check.symmetric("hessian", hessian))
    with np.errstate(all="ignore"):
        gains = method.gains(values)
    _require_metric(method, gains)
    root = place.backend.asarray((vectors * np.sqrt(gains)) @ vectors.T)
    return lambda V: root @ V


def _require_metric(method: Method, gains: np.ndarray) -> None:
    if not (np.isfinite(gains).all() and np.all(gains > 0)):
        bad = gains[~(np.isfinite(gains) & (gains > 0))][0]
        raise ValueError(
            f"{method.label} is no metric here: one of its gains is {bad:.3g}. Use st.SFN(damping=...), "
            "whose gains are positive, or `exact=True`."
        )
