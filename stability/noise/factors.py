"""Noise's second-order law as factors: samples ``s_k`` with ``E[s (x) s] = sum_k s_k (x) s_k``."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from .. import _check

MAX_FACTOR_NUMBERS = 100_000_000
"""Largest set of factors built, in float64 numbers (0.8 GB)."""


class Sample(NamedTuple):
    """Noise samples with a leading axis: ``zeta`` (m, d), ``Eg`` and ``Eh`` (m, d, d)."""

    zeta: np.ndarray
    Eg: np.ndarray
    Eh: np.ndarray


def blocks(n: int, width: int) -> Iterator[slice]:
    """Slices of so many of n rows of `width` numbers that one takes 32 MB."""
    step = max(1, 4_000_000 // width)
    return (slice(start, min(start + step, n)) for start in range(0, n, step))


def join(parts: list[Sample]) -> Sample:
    """The factors of independent parts of a noise as one set."""
    _require_room(sum(part.Eg.size + part.Eh.size for part in parts), parts[0].zeta.shape[-1])
    return Sample(*(np.concatenate(each) for each in zip(*parts, strict=True)))


def _require_room(size: int, dim: int) -> None:
    if size > MAX_FACTOR_NUMBERS:
        raise ValueError(
            f"The noise's second-order law has too many factors in {dim} dimensions "
            f"({MAX_FACTOR_NUMBERS:.0e} numbers at most). Use noise of the gradient alone, or st.simulate."
        )


def symmetric_basis(dim: int) -> np.ndarray:
    """Matrices B_k with ``sum_k B_k (x) B_k`` the covariance of a GOE matrix of unit off-diagonals."""
    _require_room(dim * (dim + 1) // 2 * dim * dim, dim)
    rows, columns = np.triu_indices(dim)
    basis = np.zeros((len(rows), dim, dim))
    index = np.arange(len(rows))
    basis[index, rows, columns] = basis[index, columns, rows] = np.where(rows == columns, math.sqrt(2), 1.0)
    return basis


def numbers(dim: int) -> int:
    """Numbers in a gradient and a symmetric matrix."""
    return dim + dim * (dim + 1) // 2


def per_sample_factors(F: Any, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Factors (k, d), (k, d, d) of the joint per-sample covariance of gradient and Hessian at one point.

    The samples themselves, centred, are such factors; where they outnumber the entries, an eigendecomposition
    of their second-moment matrix, accumulated in chunks, gives fewer.
    """
    n, dim = F.n_samples, F.dim
    rows, columns = np.triu_indices(dim)
    width = numbers(dim)
    if width**2 > MAX_FACTOR_NUMBERS:
        most = math.isqrt(2 * math.isqrt(MAX_FACTOR_NUMBERS)) - 2
        advice = (
            "A regression's order 1 (st.linearize) and its minibatches (level='iteration') do without it."
            if hasattr(F, "hessian_factors")
            else "Use a network with fewer weights, or st.Noise with a size of its own."
        )
        raise ValueError(
            f"The law of noise in gradient and Hessian together takes {width**2 * 8e-9:.1f} GB in {dim} "
            f"dimensions; {most} dimensions are the most. {advice}"
        )
    gradient = _check.returned("gradient", F.gradient(at), at, (dim,))
    hessian = _check.returned("hessian", F.hessian(at), at, (dim, dim))
    center = np.concatenate([gradient, hessian[rows, columns]])

    def chunk(start: int, stop: int) -> np.ndarray:
        batch = np.arange(start, stop)
        asked = {"per_sample_gradient": (len(batch), dim), "per_sample_hessian": (len(batch), dim, dim)}
        slopes, bends = (
            _check.returned(name, getattr(F, name)(at, batch=batch), at, shape)
            for name, shape in asked.items()
        )
        return np.concatenate([slopes, bends[:, rows, columns]], axis=1) - center

    # Samples themselves, where they are fewer than the entries that they differ in.
    if n <= width:
        factors = chunk(0, n) / math.sqrt(n)
    else:
        gram = np.zeros((width, width))
        for block in blocks(n, dim**2):
            part = chunk(block.start, block.stop)
            gram += part.T @ part
        # Gradients and curvatures have units of their own, as has every coordinate: correlations do not.
        sizes = np.sqrt(np.diag(gram) / n)
        scale = np.where(sizes > 0, sizes, 1.0)
        values, vectors = np.linalg.eigh(gram / n / np.outer(scale, scale))
        # Directions in which samples do not differ are rounding, and would cost as much as the others.
        keep = values > 1e-14 * values[-1]
        factors = np.sqrt(values[keep])[:, None] * vectors[:, keep].T * sizes
    curvature = np.zeros((len(factors), dim, dim))
    curvature[:, rows, columns] = curvature[:, columns, rows] = factors[:, dim:]
    return factors[:, :dim], curvature


def passed(name: str, parts: Any, size: int, dim: int) -> Sample:
    """What a noise class of a user's own gave, as a sample of real arrays of their shapes."""
    if not isinstance(parts, (tuple, list)) or len(parts) != 3:
        raise ValueError(f"`{name}` must give (zeta, Eg, Eh), three arrays; got {type(parts).__name__}.")
    shapes = {"zeta": (size, dim), "Eg": (size, dim, dim), "Eh": (size, dim, dim)}
    state = np.zeros(dim)
    return Sample(
        *(
            _check.returned(f"{name}: {part}", found, state, shape)
            for (part, shape), found in zip(shapes.items(), parts, strict=True)
        )
    )
