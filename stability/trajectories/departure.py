"""An ensemble's whole law against the predicted Gaussian, by energy distance."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .._display import Grid
from .._frames import Framed
from .._saving import Result
from ..ensembles.result import Ensemble

BLOCKS = 32
"""Blocks of paths whose scatter gives the error of a `Departure`."""


@dataclass(frozen=True)
class Departure(Result, Framed):
    """How far the paths' law is from the predicted Gaussian; made by `Trajectory.departure`.

    Attributes
    ----------
    times : array (k,)
    distance, error : arrays (k,)
        Energy distance in units of the predicted standard deviations; standard error from blocks' scatter.
    level : array (k,)
        What is expected of `distance` if theory is true: zero, with this standard deviation.
    shift : array (k,)
        The shift of the mean, in standard deviations, that would give a Gaussian this distance: a size to
        think in.
    rank : array of int (k,)
        Dimensions in which the predicted covariance is not zero; others are left out.
    paths : int
    notes : tuple of str
    """

    times: np.ndarray
    distance: np.ndarray
    error: np.ndarray
    level: np.ndarray
    shift: np.ndarray
    rank: np.ndarray
    paths: int
    notes: tuple[str, ...] = ()

    @property
    def z(self) -> np.ndarray:
        """``distance / max(error, level)``, (k,)."""
        # Without departure the blocks' scatter is small where, by chance, the distance is.
        return self.distance / np.maximum(self.error, self.level)

    def _columns(self) -> Mapping[str, Any]:
        names = ("distance", "error", "level", "z", "shift")
        return {"time": self.times} | {name: getattr(self, name) for name in names}

    def _page(self) -> Iterator[str | Grid]:
        yield f"law of {self.paths} paths against the predicted Gaussian"
        rows = zip(
            self.times,
            self.distance,
            self.error,
            [f"0 +- {level:.1g}" for level in self.level],
            self.z,
            [f"{shift:.2g} sd" for shift in self.shift],
            strict=True,
        )
        numbers = (("t", ".4g"), ("distance", ".3g"), ("+-", ".2g"), ("if true", ".2g"), ("z", ".2f"))
        yield Grid([*numbers, ("as a shift of", ".2g")], rows)
        yield from self.notes


def departure_notes(ensemble: Ensemble) -> tuple[str, ...]:
    """What must be known of an ensemble some of whose paths diverged."""
    lost = int(ensemble.diverged.sum())
    told = (
        f"{lost} of {len(ensemble.diverged)} paths diverged: what is measured is conditional on the others."
    )
    return (told,) if lost else ()


class Measured(NamedTuple):
    """What a `Departure` tells of one time."""

    distance: float
    error: float
    level: float
    shift: float
    rank: int


def measured(states: np.ndarray, m: np.ndarray, S: np.ndarray) -> Measured:
    """How far states (n, d) are from ``N(m, S)``."""
    values, vectors = np.linalg.eigh(S)
    wide = values > 1e-14 * max(values[-1], 0.0)
    dim = int(wide.sum())
    if not dim:
        return Measured(math.nan, math.nan, math.nan, math.nan, 0)
    scaled = (states - m) @ vectors[:, wide] / np.sqrt(values[wide])
    # Pairs within blocks only: of 2000 paths each, they neither fill the memory nor take all day.
    blocks = np.array_split(scaled, max(BLOCKS, -(-len(states) // 2000)))
    energies, size = [_energy(block) for block in blocks], len(states) / len(blocks)
    distance, error = float(np.mean(energies)), float(np.std(energies, ddof=1) / math.sqrt(len(blocks)))
    # If theory is true the kernel has mean zero given either argument: a
    # U-statistic of m samples then has variance 2 E kernel^2 / (m (m - 1)).
    level = _null_kernel(dim) * math.sqrt(2 / (size * (size - 1) * len(blocks)))
    return Measured(distance, error, level, _as_shift(distance, dim), dim)


@functools.cache
def _null_kernel(dim: int) -> float:
    """Root mean square of ``E|x - Z| + E|y - Z| - |x - y| - E|Z - Z'|`` over standard normal x and y.

    It is measured on a million fixed pairs.
    """
    from scipy.spatial.distance import cdist

    x, y = np.random.default_rng(0).standard_normal((2, 1000, dim))
    first, second = (_mean_distance(np.linalg.norm(z, axis=1), 1.0, dim) for z in (x, y))
    kernel = first[:, None] + second - cdist(x, y) - _mean_distance(np.zeros(1), 2.0, dim)
    return float(np.sqrt(np.mean(kernel**2)))


def _energy(x: np.ndarray) -> float:
    """An unbiased estimate of the energy distance between the law of x (n, d) and the standard normal law."""
    from scipy.spatial.distance import pdist

    dim = x.shape[1]
    to_normal = float(np.mean(_mean_distance(np.linalg.norm(x, axis=1), 1.0, dim)))
    return 2 * to_normal - float(np.mean(pdist(x))) - float(_mean_distance(np.zeros(1), 2.0, dim)[0])


def _mean_distance(size: np.ndarray, variance: float, dim: int) -> np.ndarray:
    """``E|x - Z|`` for ``Z ~ N(0, variance)`` in `dim` dimensions and points of length `size`."""
    from scipy.special import gammaln, hyp1f1

    # The mean of a noncentral chi: sqrt(2) Gamma((d + 1) / 2) / Gamma(d / 2) 1F1(-1/2; d/2; -|x|^2 / 2).
    scale = math.sqrt(2 * variance) * math.exp(gammaln((dim + 1) / 2) - gammaln(dim / 2))
    with np.errstate(all="ignore"):
        inside = scale * hyp1f1(-0.5, dim / 2, -(size**2) / (2 * variance))
    far = np.sqrt(size**2 + (dim - 1) * variance)  # to a relative error of size^-4
    return np.where(size > 30 * math.sqrt(variance * dim), far, inside)


def _as_shift(distance: float, dim: int) -> float:
    """The length of the shift between two standard normal laws whose energy distance this is."""
    from scipy.optimize import brentq

    def excess(shift: float) -> float:
        # The difference of two standard normals has variance 2.
        shifted, centered = _mean_distance(np.array([shift, 0.0]), 2.0, dim)
        return 2 * float(shifted - centered) - distance

    if not 0 < distance < math.inf:
        return math.inf if distance > 0 else 0.0
    return float(brentq(excess, 0.0, 10.0 + distance + 2 * math.sqrt(dim)))
