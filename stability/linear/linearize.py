"""Linearising a flow at a critical point, and what must hold there: room, second derivatives, no gradient."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _check
from ..flow import Flow
from ..noise import DataNoise
from ..objectives.base import bend, defines, trait
from .result import LinearFlow

_MATRICES = 45  # as large as the Hessian, that a search for a second moment holds at once
CRITICAL = 1e-6
"""Of the problem's own sizes: a smaller gradient vanishes."""


def linearize(flow: Flow, at: Any = None) -> LinearFlow:
    """Linearise a flow at a critical point of its objective.

    Parameters
    ----------
    flow : Flow
    at : array, shape (d,), optional
        The critical point; the objective's reference by default.

    Returns
    -------
    LinearFlow

    Raises
    ------
    ValueError
        If the gradient at `at` does not vanish, the Hessian is not symmetric or not finite, a formula has a
        corner there, the gain is singular, or curvature noise is centred elsewhere.

    Examples
    --------
    >>> import stability as st
    >>> flow = st.Flow(st.quadratic([1.0, 0.01]), st.Newton(), st.Noise(gradient=0.1), step=0.1)
    >>> st.linearize(flow).amplification
    array([  1., 100.])
    """
    flow.step  # noqa: B018 - an error where it is a schedule
    if at is None:
        at = trait(flow.objective, "reference")
        if at is None:
            raise ValueError(f"`at` must be given: {flow.objective!r} has no reference point.")
    at = _check.shaped("at", at, (flow.dim,))
    _check_room(flow)
    hessian = _check.shaped("hessian", flow.objective.hessian(at), (flow.dim, flow.dim), at=at)
    hessian = _check.symmetric("hessian", hessian)
    _check_smooth(flow, at)
    values, vectors = np.linalg.eigh(hessian)
    check_critical(flow, at, float(np.max(np.abs(values))))
    order = np.argsort(-np.abs(values), kind="stable")
    values, vectors = values[order], vectors[:, order]
    flow.noise_model.check_declared(flow.dim)
    return LinearFlow(flow, at, values, vectors)


def needs(noise: DataNoise, dim: int) -> float:
    """Numbers that second moments of data in so many columns take."""
    n, rank = noise.samples_shape
    return _MATRICES * dim**2 + 3 * n * rank * dim


def _check_room(flow: Flow) -> None:
    noise, dim = flow.noise_model, flow.dim
    if isinstance(noise, DataNoise) and noise.by_samples:
        n, rank = noise.samples_shape
        numbers = needs(noise, dim)
        advice = "Take fewer columns, or fewer rows where there are more of them than columns."
        if n * rank < dim:
            advice = "Take `F.in_row_space()`: its rows span fewer dimensions, and no other has noise."
        _check.room("Second moments of so many columns need", numbers, advice=advice)
        return
    advice = "Use st.spectrum or st.randomized_eigh, which take products alone."
    _check.room("The Hessian and its eigenvectors need", 3 * dim**2, advice=advice)


def _check_smooth(flow: Flow, at: np.ndarray) -> None:
    """A corner has a Hessian by the chain rule, which is 0 where the slope jumps."""
    kink = flow.objective.kink(at) if defines(flow.objective, "kink") else ""
    if kink:
        raise ValueError(
            f"`at` must be a point where the objective has second derivatives; it is {kink}. Use "
            "st.simulate, or round the corner off: sqrt(u^2 + 1e-6) for abs(u)."
        )


def check_critical(flow: Flow, at: np.ndarray, scale: float) -> None:
    """Raise where the gradient does not vanish beside curvatures of size `scale`."""
    gradient = _check.shaped("gradient", flow.objective.gradient(at), (flow.dim,), at=at)
    size = float(np.linalg.norm(gradient))
    # Against what a gradient may be called small beside: that of as far a place as `at` is, or where the
    # curvature has changed, and its own noise.
    small = CRITICAL * max(scale * float(np.linalg.norm(at)), flow.gradient_noise(at))
    if size > small and not size <= CRITICAL * scale * bend(flow.objective, at):
        raise ValueError(
            f"`at` must be a critical point; the gradient there has norm {size:.3g} (curvature {scale:.3g}). "
            "Use st.trajectory(flow, start, t_end) for the noise along a path."
        )
    reference = flow.reference
    if flow.noise_model.has_curvature and reference is not None:
        apart = float(np.linalg.norm(at - reference))
        near = max(float(np.linalg.norm(at)), float(np.linalg.norm(reference)))
        if apart > CRITICAL * near and not apart <= CRITICAL * bend(flow.objective, at):
            raise ValueError(
                f"Curvature noise is centred {apart:.3g} away from `at`. Use Noise(..., reference=at)."
            )
