"""How noise follows the curvature: covariances ``H^g``, and the exponent ``g`` that data have."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import _check
from .._estimate import Estimate

GROUPS = 40
"""Parts of the samples that are left out in turn, where an error is estimated."""


SMALL = 1e-12
"""Of the largest: curvatures and variances that are rounding."""


def powers(curvatures: np.ndarray, exponent: float) -> np.ndarray:
    """Powers (d,) of a spectrum, as a covariance can have them as eigenvalues."""
    size = float(np.max(np.abs(curvatures)))
    # A flat direction's eigenvalue is rounding of either sign.
    flat = np.abs(curvatures) <= len(curvatures) * np.finfo(float).eps * size
    if flat.any() and exponent < 0:
        raise ValueError(
            f"Curvature vanishes along {int(flat.sum())} of {len(flat)} directions, where H^{exponent:g} is "
            "infinite. Use `exponent` >= 0."
        )
    if np.any(curvatures[~flat] < 0) and exponent % 2:
        raise ValueError(
            f"H^{exponent:g} is no covariance: the smallest curvature is {curvatures.min():.3g}. Give a "
            "minimum as `at`, or an even `exponent`."
        )
    # Of 0^0 = 1: noise of one size has it along flat directions too.
    return np.where(flat, 0.0, np.abs(curvatures)) ** exponent


def exponent_of(F: Any, at: Any) -> Estimate:
    """See `DataNoise.exponent`."""
    count = min(F.n_samples, GROUPS)
    whole = [sum(parts) for parts in zip(*(_sums(F, at, k, count) for k in range(count)), strict=True)]
    curvatures, variances = _spectra(*whole)
    kept = (curvatures > SMALL * curvatures.max()) & (variances > SMALL * variances.max())
    # Where data are fitted exactly a gradient is rounding of its predictions, about sqrt(w' H w) large.
    predicted = float(at @ whole[1] @ at) / whole[0]
    kept &= variances > (16 * np.finfo(float).eps) ** 2 * max(predicted, 0.0) * curvatures
    if count < 2 or kept.sum() < 2 or not np.ptp(np.log(curvatures[kept])) > SMALL:
        raise ValueError(
            "The exponent of the noise is a slope over modes: it needs two samples, and two modes with "
            f"different positive curvatures and with noise; got {F.n_samples} samples and {int(kept.sum())} "
            "such modes. Give more data, or state one: st.Noise.aligned(F, exponent=...)."
        )
    x, y = np.log(curvatures[kept]), np.log(variances[kept])
    left = np.empty((count, 2, len(x)))
    for k in range(count):
        # Sums are additive: all but a part is the whole less the part, and forty errors cost one more pass.
        rest = (total - part for total, part in zip(whole, _sums(F, at, k, count), strict=True))
        with np.errstate(all="ignore"):  # of few samples a part may hold all that a mode has
            left[k] = np.log(_spectra(*rest))[:, kept]
    slopes = np.array([_slope(*logs) for logs in left])
    scatter = (count - 1) * np.var(slopes)
    # A regressor's own errors take their share of its spread from the slope.
    blur = (count - 1) * float(np.mean(np.var(left[:, 0], axis=0))) / float(np.var(x))
    slope = _slope(x, y)
    part = "" if kept.all() else f"of {int(kept.sum())} of {len(kept)} modes"
    if not blur < 0.5:
        return Estimate(
            slope, math.inf, "the curvatures differ hardly more than by their own sampling errors"
        )
    return Estimate(slope, float(np.hypot(math.sqrt(scatter), slope * blur)), part)


def _sums(F: Any, at: np.ndarray, k: int, count: int) -> tuple[Any, ...]:
    """Of every count-th sample from the k-th on: how many, and sums of Hessians, gradients, their squares."""
    batch = np.arange(k, F.n_samples, count)
    rows = F.per_sample_gradient(at, batch=batch)
    rows = _check.returned("per_sample_gradient", rows, at, (len(batch), F.dim))
    hessian = _check.returned("hessian", F.hessian(at, batch=batch), at, (F.dim, F.dim))
    return len(batch), len(batch) * hessian, rows.sum(axis=0), rows.T @ rows


def _spectra(count: int, hessian: np.ndarray, total: np.ndarray, squares: np.ndarray) -> tuple[Any, Any]:
    """Curvatures (d,), and the variances of one sample's gradient along their eigenvectors, from sums."""
    values, vectors = np.linalg.eigh(hessian / count)
    covariance = squares / count - np.outer(total, total) / count**2
    return values, np.einsum("ij,ik,kj->j", vectors, covariance, vectors, optimize=True)


def _slope(x: np.ndarray, y: np.ndarray) -> float:
    """Of the least-squares line through points (x, y)."""
    x = x - x.mean()
    return float(x @ y / (x @ x))
