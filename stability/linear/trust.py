"""When linear theory is to be trusted: how far noise and motion bend the preconditioner itself."""

from __future__ import annotations

import bisect
import math
from typing import Any

import numpy as np

from ..methods.response import jumps
from .dynamics import Dynamics

VALID = 0.1
"""The linearisation is trusted where the validity indicator is below this."""
MOST_SAMPLES = 2**53
"""Largest batch that is looked for where samples are without end."""


def validity(here: Dynamics) -> float:
    """How far Hessian noise, or the iterates' motion, bends the method; see `LinearFlow.validity`."""
    method: Any = here.flow.method
    if here.frame.metric is not None:
        return max(here.moved, method.renewal)
    if not here.noise.bends:
        return 0.0
    spread = here.noise.hessian_spread()
    return max(_bent(here, spread), _jump(here, np.diag(spread)))


def _bent(here: Dynamics, spread: np.ndarray) -> float:
    """What of `validity` is in proportion to the entries' standard deviations `spread` (d, d)."""
    size, lam, response = np.abs(here.frame.gains), here.frame.eigenvalues, here.noise.response
    with np.errstate(all="ignore"):
        # First-order change of the preconditioner's entry over the smaller of the two gains that it
        # couples.
        bend = np.where(spread > 0, spread * np.abs(response.divided) / np.minimum.outer(size, size), 0.0)
    result = float(np.max(bend))
    if response.truncated:
        r = int(here.flow.method.rank or 0)
        gap = abs(lam[r - 1]) - abs(lam[r])
        largest = float(np.max(spread[r - 1 : r + 1, r - 1 : r + 1]))
        # Noise as large as the gap swaps which of the two modes is kept.
        swap = largest / gap if gap > 0 else (math.inf if largest > 0 else 0.0)
        result = max(result, float(swap))
    return result


def _jump(here: Dynamics, spread: np.ndarray) -> float:
    """``std(E_ii)`` over the distance to where the gain jumps: no derivative sees that."""
    response = here.noise.response
    kept = response.kept if response.truncated else slice(None)
    lams, spread = here.frame.eigenvalues[kept], spread[kept]
    # At ten standard deviations the quotient is the 0.1 below which the linearisation is trusted.
    distance, height = jumps(here.flow.method, lams, spread / VALID)
    with np.errstate(all="ignore"):
        quotients = np.where(spread > 0, spread / distance * np.minimum(height, 1.0), 0.0)
    return float(np.max(quotients, initial=0.0))


def doubt(here: Dynamics) -> str:
    """Why the linearisation is not to be trusted, and what helps; empty where it is."""
    if validity(here) < VALID:
        return ""
    if here.frame.metric is None:
        return (
            "Hessian noise bends this method's preconditioner too much for the linearisation: read the "
            "row as a warning, not a bound. With as many samples in the Hessian batch as 'valid from' "
            "says, it is one."
        )
    method: Any = here.flow.method
    if method.renewal >= VALID:
        return (
            f"Theory is of first order in 1 - beta2: with `beta2` = {method.beta2:g} a mean square is of "
            "so few gradients that it varies itself. It is a bound for "
            f"`beta2` > {1 - VALID:g}."
        )
    return (
        "Theory is of first order in the step: at this one the metric follows the iterates' own motion "
        "as well as the noise. Read the row as a warning, not a bound; at a smaller step it is one."
    )


def valid_from(here: Dynamics) -> float:
    """The smallest Hessian batch that is large enough; see `LinearFlow.valid_from`."""
    noise = here.flow.noise_model
    if here.frame.metric is not None:
        return 1.0 if validity(here) < VALID else math.inf
    if here.flow.method.is_identity or (noise.as_stated and noise.curvature == 0):
        return 1.0
    if not noise.as_stated and noise.objective is None:
        return math.nan
    spread = here.noise.sample_spread()
    if np.isnan(spread).any():
        return math.nan
    bent, own = _bent(here, spread), np.diag(spread)

    def valid(size: int) -> bool:
        share = math.sqrt(noise.shrink(size))
        return share == 0 or max(share * bent, _jump(here, share * own)) < VALID

    # Without replacement a batch of all the data has no noise, and ends the search.
    most = MOST_SAMPLES if noise.objective is None or noise.replacement else noise.objective.n_samples
    if not valid(most):
        return math.inf
    return float(1 + bisect.bisect_left(range(1, most), True, key=valid))
