"""Between which steps a limit lies that was found from a few directions.

Directions alone see a part of what makes second moments grow: their limit is no smaller than that of all
modes. Nothing of the kind bounds it from below, as a single sample may bend along what was not looked at;
that end is an estimate, made wide: as if the noise of the rest all lay along one direction, in one sample.
"""

from __future__ import annotations

import math

import numpy as np

from .closure import Closed

_ERRORS = 2.0  # standard errors of what some samples say of all
_UNSEEN = 0.25  # probability that probes see less of a sample than is allowed for
_MOST = 50.0  # exponent: sampling error beyond all use


def ends(
    closed: Closed, bounding: Closed, rough: Closed, *, raised: float, part: float
) -> tuple[float, float]:
    """Lower and upper end of the limit.

    Parameters
    ----------
    closed : Closed
        The balance that the limit was told from.
    bounding : Closed
        That of directions alone.
    rough : Closed
        What the first one may be where other curvature stands in for samples'; itself else.
    raised : float
        How many times the largest eigenvalue found the largest may be.
    part : float
        Share of the population that was not looked at.
    """
    more = fewer = bounding
    noise, bend = (min(_ERRORS * error, _MOST) for error in spread(bounding, part))
    if noise:
        more, fewer = (bounding.with_share(bounding.share * math.exp(by)) for by in (noise, -noise))
    inverse = max(1 / more.leader.limit, 1 / rough.leader.limit) * raised
    inverse += _beyond(closed, closed.share * math.exp(noise))
    low, high = math.exp(-bend) / inverse, math.exp(bend) * fewer.leader.limit
    return low, max(high, closed.leader.limit)


def spread(closed: Closed, part: float) -> tuple[float, float]:
    """Standard errors, as logarithms, of the noise and of its curvature where a `part` was not looked at."""
    if not part > 0:
        return 0.0, 0.0
    W, blocks = closed.leader.W, closed.blocks
    own = np.einsum("sij,ij->s", blocks.inner, W)
    bend = math.sqrt(part * np.mean(own**2) / len(own)) / float(blocks.eigenvalues @ np.diag(W))
    noise = math.sqrt(part * np.sum(closed.shares() ** 2)) if closed.share else 0.0
    return noise, bend


def _beyond(closed: Closed, share: float) -> float:
    """What the rest adds to the inverse of the limit if its noise is along one direction, in one sample."""
    outer, count = closed.blocks.outer, closed.blocks.probes
    if not count or not share:
        return 0.0
    import scipy

    # A sample of one row has chi-squares there.
    seen = float(scipy.stats.chi2.ppf(_UNSEEN, count))
    largest = closed.blocks.unbias * float(np.max(np.sqrt(np.sum(outer**2, axis=(1, 2))))) / seen
    # A sample of curvature c, met with variance p, holds back long steps as p c does.
    return 0.5 * share * largest * closed.memory.effective(1.0)
