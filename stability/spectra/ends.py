"""The upper end of a spectrum that is known by its products alone, between two bounds.

A Ritz value lies inside the spectrum: a step limit made of it is too large, and a residual says that some
eigenvalue is near, not that none lies above. From a random start Lanczos' method has an end that is not
passed but with a small probability, whatever the spectrum.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._array import Backend
from .._streams import stream
from ..lowrank.operator import Operator
from .lanczos import lanczos

DOUBT = 0.05
"""Probability, over the start, that an upper bound is passed."""
GAP = 0.04
"""How far the bounds may lie apart, as a share of the spectrum's width."""


@dataclass(frozen=True)
class Top:
    """Where the largest eigenvalue of a symmetric operator is.

    Attributes
    ----------
    below : float
        The largest Ritz value: the eigenvalue is no smaller.
    above : float
        It is no larger, but with probability `DOUBT`; equal to `below` where that is exact.
    products : int
    """

    below: float
    above: float
    products: int


def share(n: int, steps: int, doubt: float) -> float:
    """How far from the end a Ritz value is at most, as a share of the spectrum's width.

    Kuczynski and Wozniakowski 1992: after so many steps from a start that is uniform on the sphere, but with
    probability `doubt`, whatever the spectrum.
    """
    return (math.log(1.648 * math.sqrt(n) / doubt) / (2 * steps - 1)) ** 2


def above(smallest: float, largest: float, n: int, steps: int, doubt: float = DOUBT) -> float:
    """What the largest eigenvalue does not pass, from Ritz values after so many steps.

    inf where the steps are too few to say. Of an indefinite operator both ends enter, each with half the
    doubt. Void for a start that is not random: a gradient, or vectors of an operator nearby.
    """
    # Both ends are in doubt, the lower one by the width that is told of here: each has half of it.
    off = share(n, steps, doubt / 2)
    return largest + off * (largest - smallest) / (1 - 2 * off) if 2 * off < 1 else math.inf


def steps_for(n: int, gap: float = GAP, doubt: float = DOUBT) -> int:
    """How many steps bring the bounds so near to one another; n are enough for any."""
    return min(n, math.ceil((math.log(1.648 * math.sqrt(n) / (doubt / 2)) / math.sqrt(gap) + 1) / 2))


@dataclass(frozen=True)
class Turned:
    """``V -> S H S V``."""

    product: Callable[[Any], Any]
    root: Callable[[Any], Any] | None

    @property
    def unit(self) -> float:
        """The rounding unit of the arithmetic behind the products, where they carry it."""
        return float(getattr(self.product, "unit", 0.0))

    def __call__(self, V: Any) -> Any:
        return self.product(V) if self.root is None else self.root(self.product(self.root(V)))


def top(
    product: Callable[[Any], Any],
    n: int,
    backend: Backend,
    *,
    root: Callable[[Any], Any] | None = None,
    seed: int = 0,
) -> Top:
    """The largest eigenvalue of ``S H S`` between two bounds, by a short run of Lanczos' method.

    Parameters
    ----------
    product : callable
        ``V -> H V``, (n, k) to (n, k).
    n : int
    backend : Backend
        Of these arrays.
    root : callable, optional
        ``V -> S V`` likewise, S symmetric: of a preconditioner ``P = S S``, whose steps are SGD's there.
    seed : int
        Of the start.

    Returns
    -------
    Top

    Raises
    ------
    BadProducts
        If a product is not finite.

    Examples
    --------
    >>> import numpy as np, stability as st
    >>> from stability.spectra.ends import top
    >>> curvature = np.linspace(-1.0, 3.0, 1000)  # no gap anywhere
    >>> end = top(lambda V: curvature[:, None] * V, 1000, st.Backend("numpy", np))
    >>> end.below < 3.0 < end.above < 3.2, end.products
    (True, 20)
    """
    rng, steps = stream(seed, 3), steps_for(n)
    normals = backend.normals(seed) or (lambda shape: backend.asarray(rng.standard_normal(shape)))
    operator = Operator((Turned(product, root),), n, backend, normals)
    start = normals((1, n))
    # Normals of length one are uniform on the sphere, which the bound is for.
    start = start / float(backend.xp.sum(start * start)) ** 0.5
    found = lanczos(operator, start, steps)
    taken = int(found.lengths[0])
    nodes = found.rule(found.lengths)[0][0]
    smallest, largest = float(np.min(nodes)), float(np.max(nodes))
    # A space that is exhausted holds the end itself, unless the start was at right angles to it.
    exact = taken < steps or taken == n
    return Top(largest, largest if exact else above(smallest, largest, n, taken), operator.columns)
