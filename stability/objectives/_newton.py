"""The minimum of a convex objective on data, whatever the units of its columns."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

ITERATIONS, HALVINGS, POLISHING = 200, 60, 4
"""Newton's steps, halvings of one, and the full steps that end at rounding error."""
DENSE, CONJUGATE = 6000, 2000
"""Dimensions up to which the Hessian is made; steps of conjugate gradients beyond."""


def minimizer(objective: Any) -> np.ndarray:
    """Where a convex objective with a ridge ``l2`` is least, (d,), to rounding error.

    Newton's method with halved steps, in coordinates in which the Hessian's diagonal is 1: columns of any
    units are treated alike.

    Raises
    ------
    ValueError
        If there is no isolated minimum, or none that double precision can tell.
    """
    w = np.zeros(objective.dim)
    start = value = float(objective.value(w))
    large = objective.dim > DENSE
    H = None if large else _checked(objective, w)
    units = np.sqrt(_diagonal(objective, w) if H is None else np.diagonal(H))
    for iteration in range(ITERATIONS):
        H = None if large else objective.hessian(w) if iteration else H
        solve = _by_products(objective, w) if H is None else _solver(H)
        if solve is None:
            break
        shift, decrement = _step(objective, w, solve)
        # It goes with the distance squared: ten digits of w are there, and a few full steps give the rest.
        if decrement <= 1e-20 * start:
            for _ in range(POLISHING):  # so near the minimum, the Hessian stays as it is
                w = w - shift
                shift, _ = _step(objective, w, solve)
            # Towards a minimum at infinity steps hardly shorten: that is how it is told from one.
            remaining, length = (float(np.linalg.norm(units * v)) for v in (shift, w))
            if remaining <= 1e-8 * (math.sqrt(2 * start) + length):
                return w
            break
        before = math.inf
        while 1e-20 * start < decrement <= 0.1 * before:  # a Hessian costs as much as d slopes: it is used on
            w, value = _downhill(objective, w, shift, value)
            before = decrement
            shift, decrement = _step(objective, w, solve)
    raise ValueError(_nowhere(objective))


def _step(
    objective: Any, w: np.ndarray, solve: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, float]:
    """Newton's step, and twice the decrease that it promises."""
    slope = objective.gradient(w)
    shift = solve(slope)
    return shift, float(slope @ shift)


def _checked(objective: Any, w: np.ndarray) -> np.ndarray:
    """The Hessian, if its numbers can be held."""
    with np.errstate(over="ignore", invalid="ignore"):
        hessian = objective.hessian(w)
    found = np.diagonal(hessian)
    # A diagonal entry that is zero though its column is not: the squares have underflowed.
    if not np.isfinite(found).all() or np.any((found == 0) & np.resize(objective.X.any(axis=0), found.shape)):
        sizes = np.abs(objective.X).max(axis=0)
        raise ValueError(
            f"`X` has columns of sizes from {sizes.min():.3g} to {sizes.max():.3g}, whose squares are too "
            "large or too small for floating-point numbers. Divide each column by its largest entry."
        )
    return hessian


def _solver(H: np.ndarray) -> Callable[[np.ndarray], np.ndarray] | None:
    """Newton's equations as a function of the slope; None where a direction has no curvature."""
    import scipy

    H, scale = _unit_diagonal(H)
    try:
        factor = scipy.linalg.cho_factor(H, lower=True)
    except np.linalg.LinAlgError:
        return None
    left, _ = scipy.linalg.lapack.dpocon(factor[0], np.abs(H).sum(axis=0).max(), uplo="L")
    if left <= 8 * len(H) * np.finfo(float).eps:  # the reciprocal condition number is rounding
        return None
    return lambda slope: scipy.linalg.cho_solve(factor, slope / scale) / scale


def _diagonal(objective: Any, w: np.ndarray) -> np.ndarray:
    """The Hessian's diagonal, of data too large for the Hessian."""
    curve = np.diagonal(objective.curvatures(w), axis1=-2, axis2=-1)
    squares = np.einsum("so,sd,sd->od", curve, objective.X, objective.X)
    return squares.ravel() / objective.n_samples + objective.l2


def _by_products(objective: Any, w: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Newton's equations as a function of the slope, by conjugate gradients."""
    import scipy

    shape, inverse = (objective.dim,) * 2, 1 / _diagonal(objective, w)
    hessian, units = (
        scipy.sparse.linalg.LinearOperator(shape, map_, dtype=float)
        for map_ in (lambda v: objective.hvp(w, v.reshape(-1, 1)).ravel(), lambda v: inverse * v.ravel())
    )

    def solve(slope: np.ndarray) -> np.ndarray:
        found, failed = scipy.sparse.linalg.cg(hessian, slope, rtol=1e-10, maxiter=CONJUGATE, M=units)
        if failed:
            raise ValueError(_nowhere(objective))
        return found

    return solve


def _unit_diagonal(H: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scale = np.sqrt(np.diagonal(H))
    scale = np.where(scale > 0, scale, 1.0)
    return H / scale[:, None] / scale, scale


def _downhill(objective: Any, w: np.ndarray, shift: np.ndarray, value: float) -> tuple[np.ndarray, float]:
    """The longest of the halved steps that goes down, but for rounding."""
    for _ in range(HALVINGS):
        with np.errstate(over="ignore"):
            found = float(objective.value(w - shift))
        # Without the slack rounding of the value would keep halving a good step near the minimum.
        if found <= value + 1e-12 * abs(value):
            break
        shift = shift / 2
    return w - shift, found


def _nowhere(objective: Any) -> str:
    """Why there is no minimum, or none to be told, and what gives one."""
    name, l2, zero = type(objective).__name__, objective.l2, np.zeros(objective.dim)
    if objective.dim > DENSE:
        return (
            f"{name} has no minimum on these data that {CONJUGATE} steps of conjugate gradients tell. Use "
            f"l2 = {max(1e-4 * _diagonal(objective, zero).max(), 10 * l2):.1g}."
        )
    H = objective.hessian(zero)
    enough = f"{1e-6 * np.diagonal(H).max() or 1.0:.1g}"
    values, vectors = np.linalg.eigh(_unit_diagonal(H)[0])
    why, drop = "separable classes", ""
    if values[0] < 1e-9:
        involved = np.flatnonzero(np.abs(vectors[:, 0]) > 0.1 * np.abs(vectors[:, 0]).max())
        columns = np.unique(involved % objective.X.shape[1])
        why = f"collinear columns: {', '.join(map(str, columns[:6].tolist()))}{', ...' * (len(columns) > 6)}"
        drop = "Drop one of them, or use"
    if l2 == 0:
        return (
            f"{name} has no isolated minimum on these data ({why}). {drop or 'Use'} l2 > 0, such as {enough}."
        )
    return (
        f"{name} has one minimum on these data, but l2 = {l2:g} is too little to tell it in double precision "
        f"({why}). {drop or 'Use'} l2 = {enough}."
    )
