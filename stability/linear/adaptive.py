"""The metric that settles: its entries follow the gradient's mean squares, which follow the metric."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .._check import Unstable
from ..flow import Flow
from ..methods.gradients import GradientLaw
from ..methods.response import NotSmooth
from ..noise import Noise
from .dynamics import Dynamics
from .frames import Frame
from .modes import Turned
from .moments import embedded

Squares = Callable[[np.ndarray], "np.ndarray | None"]

QUIET = 1e-30
"""Of the largest mean square of a gradient entry: rounding."""

_SETTLED = 1e-14  # relative change of an entry
_NEARLY = 1e-8  # what is accepted where rounding, or a dear second moment's own error, ends the search
_ROUNDS = 100
# Cheap steps are tried first: Newton's asks for second moments at a place per coordinate.
_PLAIN = 3
_TRIALS = 30
_NUDGE = 1e-6
_DOUBLINGS = 400
_REMEMBERED = 6
_FARTHEST = 4.0


def settled(flow: Flow, at: np.ndarray, spectrum: tuple[np.ndarray, np.ndarray], dt: float) -> Dynamics:
    """The dynamics under a method's metric as it is in the chain with time step `dt`.

    Parameters
    ----------
    flow : Flow
    at : array (d,)
        The critical point.
    spectrum : tuple of arrays (d,), (d, d)
        Of the Hessian there.
    dt : float

    Raises
    ------
    Unstable
        If no metric settles; NotSmooth, if a coordinate has no noise.
    """
    method: Any = flow.method
    values, vectors = spectrum
    hessian = (vectors * values) @ vectors.T
    if not method.decoupled:
        hessian = hessian + method.weight_decay * np.eye(len(values))
    covariance = flow.noise_model.gradient_covariance(at, at)
    variances = GradientLaw(covariance).checked().variances
    pull = flow.step * float(np.max(np.abs(values)))

    def under(metric: np.ndarray, noise: Noise) -> Dynamics:
        frame = Frame.diagonal(metric, hessian)
        return Dynamics(flow, at, frame, Turned(noise, at, frame.vectors, skew=True))

    def squares(metric: np.ndarray) -> np.ndarray | None:
        return _squares(under(metric, flow.noise_model), dt)

    if method.linear:
        here = under(settled_metric(method, variances, squares, pull), flow.noise_model)
        found = _squares(here, dt)
    else:
        quiet = variances <= QUIET * np.max(variances)
        if quiet.any():
            raise quiet_coordinates(method, quiet, pull)
        noise = Noise(gradient=method.kicks(covariance))
        here = under(method.scale(variances), noise)
        found = _squares(here, dt)
        # The signs' own variance stands in for the gradient's in these dynamics: it is given back here.
        found = None if found is None else found - np.diag(noise.gradient) + variances
    with np.errstate(divide="ignore"):  # without noise of its own a coordinate's entry may be infinite
        still = method.scale(variances)
    here.moved = 1.0 if found is None else float(np.max(1 - method.scale(found) / still))
    return here


def _squares(here: Dynamics, dt: float) -> np.ndarray | None:
    """Mean squares (d,) of a batch's gradient entries in the stationary state; None where there is none.

    At a saddle they are those of the noise at the point.
    """
    decaying = ~here.flat
    M = np.zeros((len(here.at),) * 2)
    if decaying.any() and not (here.rates[decaying] > 0).any():
        balance = here.balance(dt, 1).restricted(decaying)
        # The cheap question first: a radius is a search for an eigenvalue.
        if not here.decaying(dt)[decaying].all() or not balance.radius()[0] < 1:
            return None
        M = embedded(balance.stationary(), decaying)
    frame, kick, seen = here.frame, here.noise.kick, here.source
    seen = (seen if kick is None else seen + kick(M)) / np.outer(frame.gains, frame.gains)
    if here.decoupled:
        M = M + np.outer(here.offset, here.offset)
    seen = seen + frame.eigenvalues[:, None] * M * frame.eigenvalues
    return np.einsum("ki,kl,li->i", frame.inverse, seen, frame.inverse)


def settled_metric(method: Any, variances: np.ndarray, squares: Squares, pull: float) -> np.ndarray:
    """The diagonal (d,) with ``p = method.scale(squares(p))``.

    Sought in the logarithm of ``1 / p``, by Anderson's method where that brings the residual down, by plain
    or shortened steps where it does not, and by Newton's near the edge of the stable metrics.

    Parameters
    ----------
    method : Metric
    variances : array (d,)
        Of the gradient's noise at the point.
    squares : callable
        Mean squares (d,) of the gradient's entries in the stationary state under a metric; None if it has
        none.
    pull : float
        Step times the largest curvature: under ``1 / p`` as large the state is stable, or nearly.

    Raises
    ------
    Unstable
        If there is no such metric: weight decay beyond its own limit.
    NotSmooth
        If a coordinate has no noise, and its entry is no finite number or beyond every stable one.
    """
    size, seen = _stable_start(method, variances, squares, pull)
    quiet = seen <= QUIET * np.max(seen)
    if quiet.any():
        size = _with_quiet(method, size, quiet, squares, pull)
        again = squares(np.exp(-size))
        assert again is not None
        seen = again
    return np.exp(-_solved(method, size, seen, squares, pull))


def _wanted(method: Any, seen: np.ndarray) -> np.ndarray:
    """Logarithms of ``1 / p`` from the gradient's mean squares."""
    return -np.log(method.scale(seen))


def _stable_start(
    method: Any, variances: np.ndarray, squares: Squares, pull: float
) -> tuple[np.ndarray, np.ndarray]:
    with np.errstate(divide="ignore"):
        size = np.maximum(_wanted(method, np.maximum(variances, 0.0)), np.log(pull))
    size = np.where(np.isfinite(size), size, 0.0)
    for _ in range(_DOUBLINGS):
        seen = squares(np.exp(-size))
        if seen is not None:
            return size, seen
        # A metric half as long: at some length every state is stable, unless weight decay alone is not.
        size = size + math.log(2)
    raise Unstable(
        f"{method.label} has no stationary state at any metric: its weight decay {method.weight_decay:g} is "
        "beyond 2 / step. Take a smaller step or less `weight_decay`."
    )


def _with_quiet(
    method: Any, size: np.ndarray, quiet: np.ndarray, squares: Squares, pull: float
) -> np.ndarray:
    """Where no gradient comes in, `eps` alone is the metric: refused where that is too long for any step."""
    eps = method.parameters["eps"]
    size = size.copy()
    size[quiet] = math.log(eps) if eps > 0 else -math.inf
    if eps > 0 and squares(np.exp(-size)) is not None:
        return size
    raise quiet_coordinates(method, quiet, pull)


def _stable(method: Any, pull: float) -> str:
    """The method with a round `eps` that keeps what has no noise stable; of signs, which have none, a kin."""
    eps = float(f"{10.0 ** math.ceil(math.log10(pull)) if pull > 0 else 1e-8:.0e}")
    if "eps" in method.parameters:
        return repr(method.with_parameters(eps=eps))
    return f"RMSprop(eps={eps!r})"


def quiet_coordinates(method: Any, quiet: np.ndarray, pull: float) -> NotSmooth:
    """The error that coordinates (d,) bool without noise deserve."""
    which = ", ".join(map(str, np.flatnonzero(quiet)[:4])) + (", ..." if quiet.sum() > 4 else "")
    still = f"entries {which} have" if quiet.sum() > 1 else f"entry {which} has"
    known = method.parameters.get("eps")
    has = "is infinite" if not known else f"is 1 / eps = {1 / known:.3g}, beyond every stable step"
    return NotSmooth(
        f"The gradient's {still} no noise: there {method.name}'s metric {has}. Use noise in every "
        f"coordinate, or {_stable(method, pull)}.",
        modes=np.flatnonzero(quiet),
    )


def _solved(method: Any, size: np.ndarray, seen: np.ndarray, squares: Squares, pull: float) -> np.ndarray:
    def residual(place: np.ndarray) -> np.ndarray | None:
        there = squares(np.exp(-place))
        return None if there is None else _wanted(method, there) - place

    rest = _wanted(method, seen) - size
    tried = [(size, rest)]
    for _ in range(_ROUNDS):
        if np.max(np.abs(rest)) <= _SETTLED:
            return size + rest
        for step in _steps(size, rest, tried[-_REMEMBERED:], residual):
            left = residual(size + step)
            if left is None:
                continue
            tried.append((size + step, left))
            # Any decrease will do, but one of rounding would go on for ever.
            if np.linalg.norm(left) < (1 - 1e-6) * np.linalg.norm(rest):
                size, rest = tried[-1]
                break
        else:
            break
    if np.max(np.abs(rest)) > _NEARLY:
        raise NotSmooth(
            f"{method.name}'s metric does not settle here: gradients have hardly any noise beside what steps "
            f"this long make of them. Take a smaller step, more noise, or {_stable(method, pull)}."
        )
    return size


def _steps(
    size: np.ndarray,
    rest: np.ndarray,
    tried: list[tuple[np.ndarray, np.ndarray]],
    residual: Squares,
) -> Iterator[np.ndarray]:
    """Steps to try from a place with this residual, the cheapest first."""
    # Anderson: the combination of places tried whose residual, were it linear, would vanish.
    others = [(x - size, f - rest) for x, f in tried if x is not size]
    if others:
        moves, changes = (np.stack(part, axis=1) for part in zip(*others, strict=True))
        weights = np.linalg.lstsq(changes, -rest, rcond=1e-12)[0]
        yield _short(rest + (moves + changes) @ weights)
    for k in range(_PLAIN):
        yield _short(rest) / 4**k
    nudged = [one for e in np.eye(len(size)) if (one := residual(size + _NUDGE * e)) is not None]
    if len(nudged) < len(size):
        return
    newton = _short(np.linalg.solve((np.stack(nudged, axis=1) - rest[:, None]) / _NUDGE, -rest))
    for k in range(_TRIALS):
        # Shorter while it leads out of what is stable, or to no smaller residual.
        yield newton / 2**k


def _short(step: np.ndarray) -> np.ndarray:
    """No longer than is sure not to overflow."""
    return step * min(1.0, _FARTHEST / float(np.max(np.abs(step), initial=_FARTHEST)))
