"""A place: a point of a loss as the adviser sees it, by products and by per-sample numbers along directions.

Whoever has a loss, be it of this package or a network of PyTorch, gives the adviser a `Place`; all that it
knows of the loss passes through these few calls, and `Work` counts what they cost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from .._array import Backend


class Unknown(Exception):
    """What a place cannot tell; the text is the reason, a sentence that the advice passes on."""


def drawn(batch: float, population: float) -> float:
    """The variance of a batch's mean, per variance of a sample; infinitely many: with replacement."""
    return 1 / batch if math.isinf(population) else (population - batch) / (batch * max(population - 1, 1))


@dataclass
class Work:
    """What was asked of a loss, in gradients of all looked-at samples.

    Attributes
    ----------
    gradients : float
        Gradients, or passes worth one: of a batch of b among m samples ``b / m``.
    products : float
        Hessian products, likewise; each is worth two gradients.
    forwards : float
        Forward passes, likewise; three are worth a gradient.
    """

    gradients: float = 0.0
    products: float = 0.0
    forwards: float = 0.0

    @property
    def total(self) -> float:
        """All of it in gradients."""
        return self.gradients + 2 * self.products + self.forwards / 3


@dataclass(frozen=True)
class Along:
    """Every sample's gradient and curvature along k directions.

    Attributes
    ----------
    gradients : array (m, k)
        ``V^T g_s``.
    curvatures : array (m, k, k)
        ``V^T H_s V``, symmetric.
    known : array (k, k) of bool, optional
        Between which directions: Gauss-Newton curvature stands in elsewhere. All of them by default.
    missed : float
        Root mean square over samples of what that misses, where it was looked at; nan where nowhere.
    note : str
        What stands in for what; a sentence, or empty.
    """

    gradients: np.ndarray
    curvatures: np.ndarray
    known: np.ndarray | None = None
    missed: float = 0.0
    note: str = ""

    @property
    def exact(self) -> bool:
        """Whether nothing stands in for curvature."""
        return self.known is None or bool(self.known.all())


class Place(Protocol):
    """A point of a loss that is a mean over samples.

    n-vectors belong to `backend`; blocks of k are (n, k), and what is small comes as a NumPy array.

    Attributes
    ----------
    backend : Backend
    n : int
        Parameters.
    samples : int
        Samples looked at, m: all, or a fixed random subset.
    population : int
        Samples that there are, N, from which batches are drawn without replacement.
    redrawn : bool
        Whether a sample is another each time, as by its mates in batch norm: what was seen is one draw.
    work : Work
    """

    backend: Backend
    n: int
    samples: int
    population: int
    redrawn: bool
    work: Work

    def product(self, V: Any, rows: np.ndarray | None = None) -> Any:
        """The mean Hessian times V, (n, k) -> (n, k): of the looked-at samples, or of those in `rows`.

        `rows` are indices below m; of b rows the work is ``b / m`` products a column.
        """

    def gradient(self, rows: np.ndarray | None = None) -> Any:
        """The mean gradient (n,), likewise."""

    def signed_gradient(self, signs: np.ndarray) -> Any:
        """``sum_s signs_s g_s / m`` (n,) of weights (m,): one backward pass."""

    def second_moment(self) -> Any:
        """``mean_s g_s^2`` (n,), entry by entry; raises `Unknown` where it cannot be had."""

    def along(self, V: Any) -> Along:
        """Every looked-at sample's gradient and curvature along the columns of V (n, k).

        V may be `Directions`: its columns are to be asked for as ``V[:, i:j]``, few at a time where each is
        large.
        """

    def price(self, k: int) -> float:
        """What `along` costs with k directions, in gradients."""
