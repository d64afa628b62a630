"""Random matrices of one step near a critical point: draws of ``X`` in ``B = I - dt X``."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ..flow import Flow
from ..methods.preconditioner import preconditioner
from ..methods.response import check_cut
from ..noise import Minibatches
from .modes import ModalNoise

Draw = Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]
"""Random matrices (size, d, d) and what their rounding errors are in proportion to (size,)."""

SINGULAR = 1e12
"""Gain times Hessian from which a drawn gain is all rounding."""


def iteration_rates(flow: Flow, at: np.ndarray) -> Draw:
    """``P(H + Eh) (H + Eg)`` at a critical point (d,), of real minibatches where the noise is of data."""
    hessian = np.asarray(flow.objective.hessian(at), dtype=float)

    def draw(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
        slope, bent = hessians(flow, at, hessian, rng, size)
        if flow.method.is_identity:
            return slope, np.abs(slope).max(axis=(1, 2))
        with np.errstate(all="ignore"):
            local = preconditioner(flow.method, bent, compiled=False)
            columns = [local.apply(slope[:, :, j]) for j in range(len(at))]
            gain = np.abs(local.response.gains).max(axis=-1)
            usual = np.abs(local.response.gains * local.response.lams).max(axis=-1)
            _regular(gain * np.abs(bent).max(axis=(1, 2)), usual)
            return np.stack(columns, axis=-1), gain * np.abs(slope).max(axis=(1, 2))

    return draw


def hessians(
    flow: Flow, at: np.ndarray, hessian: np.ndarray, rng: np.random.Generator, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """The Hessians (size, d, d) of gradient batches, and those of Hessian batches."""
    sample = flow.draw(size, rng, level="iteration")
    if not isinstance(sample, Minibatches):
        return hessian + sample.Eg, hessian + sample.Eh
    w = np.broadcast_to(at, (size, len(at)))
    slope = flow.objective.hessian(w, batch=sample.gradient)
    if sample.hessian is sample.gradient:
        return slope, slope
    return slope, flow.objective.hessian(w, batch=sample.hessian)


def slope_rates(noise: ModalNoise) -> Draw:
    """``P (H + Eg)`` on the modes of a method that no Hessian batch bends."""
    flow, at, V = noise.flow, noise.at, noise.vectors
    hessian = np.asarray(flow.objective.hessian(at), dtype=float)

    def draw(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
        slope, _ = hessians(flow, at, hessian, rng, size)
        X = noise.gains[:, None] * (V.T @ slope @ V)
        return X, np.abs(X).max(axis=(1, 2))

    return draw


def chain_rates(noise: ModalNoise, ratio: float) -> Draw:
    """Of the SDE's chain at ``dt = ratio * step``: ``-A - G / sqrt(ratio)``, on the modes."""
    flow, Q, lam, gains = noise.flow, noise.vectors, noise.eigenvalues, noise.gains
    if flow.bends:
        check_cut(flow.method, lam)
    drift = np.diag(noise.rates)
    reach = float(np.max(np.abs(gains)) * np.max(np.abs(lam)))

    def draw(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
        _, Eg, Eh = noise.noise.drawn(noise.at, size, rng)
        G = gains[:, None] * (Q.T @ Eg @ Q)
        if flow.bends:
            G = G + noise.response.derivative(Q.T @ Eh @ Q) * lam
        # B = I + dt A + sqrt(step dt) G, where sqrt(step dt)
        # = dt / sqrt(ratio).
        return -drift - G / math.sqrt(ratio), np.full(size, reach)

    return draw


def _regular(sizes: np.ndarray, usual: np.ndarray) -> None:
    """Raise where the largest gain times the Hessian's size (n,) says that the gain is infinite, to rounding.

    As on a batch smaller than the dimension. Held against the largest product of a gain and its own
    eigenvalue (n,), which a pole at zero leaves as it is.
    """
    broken = int(np.count_nonzero(~(np.isfinite(sizes) & (sizes <= SINGULAR * usual))))
    if broken:
        raise ValueError(
            f"The gain is singular, to working precision, on {broken} of {len(sizes)} Hessian batches drawn. "
            "Use damping, or larger Hessian batches."
        )
