"""How large a step still contracts almost every path: the top exponent at many steps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import _check
from .._display import Grid
from .._frames import Framed
from .._saving import Result, provenance
from ..flow import Flow
from ..linear.linearize import linearize
from ..methods.memory import Motion, with_gain
from .exponents import ROUNDING, SURE, means
from .matrices import EPS, LEVELS, PROBE, Rates, blocks, moving_rates

SCAN = np.geomspace(1e-2, 1e2, 49)
"""Steps that are tried first, over the reciprocal of X's usual size."""
LARGEST = 1e150
"""Length of one step, over the distance, whose square is a float."""
ZOOM = 9
"""Steps between the two that a change of sign was found between, tried next."""


@dataclass(frozen=True)
class AlmostSureLimit(Result, Framed):
    """How large a step still contracts almost every path; made by `almost_sure_limit`.

    Attributes
    ----------
    limit, error : float
        The smallest step at which the top exponent turns nonnegative, and its standard error. 0 where it
        is so at the smallest steps, inf where it stays negative up to the largest, nan where it is never
        told from zero.
    steps, exponents, errors : arrays (k,)
        The top exponent per iteration at the steps tried, with the same random numbers at all of them.
    windows : array (m, 2)
        Ranges of the steps tried in which it is below zero by three standard errors.
    level : {"iteration", "sde"}
    status : str
        ``"ok"``, or what is to be known before the limit is believed.
    provenance : dict
    """

    limit: float
    error: float
    steps: np.ndarray
    exponents: np.ndarray
    errors: np.ndarray
    windows: np.ndarray
    level: str
    status: str
    provenance: dict[str, Any]

    def _columns(self) -> Mapping[str, Any]:
        return {"step": self.steps, "exponent": self.exponents, "error": self.errors}

    def _page(self) -> Iterator[str | Grid]:
        what = "the iteration" if self.level == "iteration" else "the SDE's chain at dt = step"
        yield f"almost-sure step limit of {what}: {self.limit:.6g} +- {self.error:.2g}"
        if len(self.windows):
            yield Grid([("paths contract for sure from step", ".4g"), ("to", ".4g")], self.windows)
        yield f"status: {self.status}"


@_check.by_name
def almost_sure_limit(
    flow: Flow,
    at: Any = None,
    *,
    level: str = "iteration",
    iterations: int = 400,
    products: int = 200,
    seed: int = 0,
) -> AlmostSureLimit:
    """The largest step at which paths near a critical point contract almost surely.

    The first change of sign of the top exponent on a scan of 12 steps a decade over four decades, then closer
    in. With the same random numbers at every step the exponent is a smooth curve, whose own error over its
    slope is the limit's.

    Parameters
    ----------
    flow : Flow
        Its own `step` is not used.
    at : array (d,), optional
    level : {"iteration", "sde"}
        Of the SDE, the Euler-Maruyama chain at ``dt = step``.
    iterations, products : int
        As for `lyapunov_exponents`.
    seed : int

    Returns
    -------
    AlmostSureLimit

    Raises
    ------
    ValueError
        As `lyapunov_exponents`.

    Examples
    --------
    Without noise it is ``2 / max lam``:

    >>> import stability as st
    >>> round(st.almost_sure_limit(st.Flow(st.quadratic([4.0, 0.5]), st.SGD(), step=0.1)).limit, 4)
    0.5
    """
    rates = _rates(flow, at, level, seed)
    options = {"iterations": iterations, "products": products, "seed": seed}
    # A median, as near a pole of the gain the mean may be infinite.
    size = float(np.median(np.linalg.norm(rates.draw(np.random.default_rng(seed), PROBE)[0], axis=(1, 2))))
    steps = SCAN / size if size > 0 else SCAN
    exponents, errors = _tops(rates, steps, **options)
    limit, error, doubts = _limit(rates, steps, exponents, errors, options)
    windows = _windows(steps, exponents, errors)
    if windows.size and windows[-1, 0] > limit:
        # A limit is where contraction first ends; beyond it there may be windows in which it is back.
        doubts.append("paths contract again at larger steps: see windows")
    status, about = "; ".join(doubts) or "ok", provenance(flow=repr(flow), **options)
    return AlmostSureLimit(
        limit, error, steps, exponents, errors, windows, level=level, status=status, provenance=about
    )


def _limit(
    rates: Rates, steps: np.ndarray, exponents: np.ndarray, errors: np.ndarray, options: dict[str, int]
) -> tuple[float, float, list[str]]:
    """The limit, its error, and what is to be said of it, from a scan of steps."""
    # At tiny steps the exponent is tiny too, and its sign is the noise's.
    sure = np.flatnonzero(np.abs(exponents) > SURE * (errors + ROUNDING))
    told = int(sure[0]) if len(sure) else len(steps)  # the first step at which the exponent is told from zero
    doubts = []
    if told:
        doubts = [
            f"up to step {steps[told - 1]:.3g} the exponent is not told from zero: take more iterations"
        ]
    if not len(sure):
        return math.nan, 0.0, doubts
    first = _first_crossing(exponents, told)
    if first is None:
        return math.inf, 0.0, [*doubts, f"below zero up to the largest step tried, {steps[-1]:.3g}"]
    if first == 0:
        smallest = f"above zero at step {steps[told]:.3g}, the smallest at which it is told from zero"
        return 0.0, 0.0, [*doubts, smallest]
    return *_crossing(rates, steps[first - 1 : first + 1], exponents[first - 1 : first + 1], options), doubts


def top_exponents(
    flow: Flow,
    steps: Any,
    at: Any = None,
    *,
    level: str = "iteration",
    iterations: int = 400,
    products: int = 200,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """The top exponent per iteration at many steps, and its standard error: two arrays (k,).

    With the same random numbers at all of them; much cheaper than `lyapunov_exponents` at each, as the
    matrices are drawn once. The SDE's chain has ``dt = step``.
    """
    steps = _check.array("steps", steps, ndim=1, shape="(k,)")
    if not len(steps) or not (steps > 0).all():
        raise ValueError(f"`steps` must be numbers > 0; got {steps}.")
    return _tops(_rates(flow, at, level, seed), steps, iterations=iterations, products=products, seed=seed)


def _rates(flow: Flow, at: Any, level: str, seed: int) -> Rates:
    if not isinstance(flow, Flow):
        raise ValueError(
            f"`flow` must be a st.Flow; got {flow!r}. For matrices of one's own there is "
            "st.lyapunov_exponents."
        )
    with_gain(flow.method)
    level, seed = _check.choice("level", level, LEVELS), _check.seed(seed)
    linear = linearize(flow, at)
    motion = None if linear.memory is None else linear.memory.motion(1.0, 1.0)
    decay = 0.0 if motion is None else flow.method.weight_decay  # else it is in the rates
    return moving_rates(linear, level, 1.0, seed)._replace(motion=motion, decay=decay)


def _tops(
    rates: Rates, steps: np.ndarray, *, iterations: int, products: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The top exponent of ``I - step X`` at all steps, and its error."""
    iterations = _check.count("iterations", iterations, least=10)
    products = _check.count("products", products, least=10)
    what = f"{products} products of {rates.dim} x {rates.dim} matrices at {len(steps)} steps need"
    numbers = (4 * len(steps) + 4 * rates.dim) * products * rates.dim
    _check.room(what, numbers, advice="Take fewer `products`.")
    if not rates.steady:
        return means(_growth(rates, steps, iterations, products, seed).T)
    (X,), (reach,) = rates.draw(np.random.default_rng(seed), 1)
    # The eigenvalues of I - step X are 1 - step mu: one decomposition serves all steps.
    pulls = steps[:, None] * np.linalg.eigvals(X)
    factors = 1 - pulls
    if rates.motion is not None:
        factors = np.linalg.eigvals(rates.motion.matrices(pulls, rates.decay * steps[:, None]))
    sizes = np.abs(factors).reshape(len(steps), -1).max(axis=1)
    sizes[sizes <= EPS * rates.dim * (1 + steps * reach)] = 0.0
    with np.errstate(divide="ignore"):
        return np.log(sizes), np.zeros(len(steps))


def _growth(rates: Rates, steps: np.ndarray, iterations: int, products: int, seed: int) -> np.ndarray:
    """Mean growth (steps, products) of one vector per factor; ``-inf`` where only rounding is left of it."""
    dim, rng, burn = rates.dim, np.random.default_rng(seed), min(200, iterations // 5)
    # Not all along the first direction, lest noise that couples no modes never leaves it.
    v = rates.start[:, 0] + 0.01 * rng.standard_normal((products, dim))
    if rates.motion is not None:  # empty buffers
        v = np.concatenate([v, 0 * v], axis=-1)
    v = np.broadcast_to(v, (len(steps), *v.shape))
    growth, k, scale, least = np.zeros((len(steps), products)), -burn, steps[:, None], EPS * dim
    for X, reach in blocks(rates.draw, rng, burn + iterations, products, dim):
        # Its square, in the length below, would be infinite.
        if steps.max() * reach.max() > LARGEST:
            raise ValueError(
                "`steps` must be so small that one step does not overflow, below "
                f"{LARGEST / reach.max():.2g}; got {steps.max():.3g}."
            )
        for rate, far in zip(X, reach, strict=True):
            pulled = scale[..., None] * np.einsum("pij,spj->spi", rate, v[..., :dim])
            v = _moved(v, pulled, rates.motion, rates.decay * scale[..., None])
            size = np.sqrt(np.einsum("spi,spi->sp", v, v))
            # Shorter than the rounding of what was subtracted: nothing but rounding is left of the vector.
            lost = size <= least + (least * scale) * far
            if lost.any():
                v, size = np.where(lost[..., None], 1.0, v), np.where(lost, 1.0, size)
                growth[lost] = -np.inf  # from then on: what is zero stays zero
            # A product of hundreds of factors would overflow: its length is kept as a sum of logarithms.
            v = v / size[..., None]
            # The first steps turn the vector to the direction that grows most; they are not counted.
            if k >= 0:
                growth += np.log(size)
            k += 1
    return growth / iterations


def _moved(v: np.ndarray, pulled: np.ndarray, motion: Motion | None, decay: np.ndarray) -> np.ndarray:
    """Directions a step on, `pulled` being ``step X x``; a buffer, counted in steps, is their last half.

    Beside it positions decay by this share.
    """
    if motion is None:
        return v - pulled
    dim = pulled.shape[-1]
    x, buffer = v[..., :dim], v[..., dim:]
    (kept, reach), (_, keeps) = motion.free.tolist()
    straight, driven = motion.force.tolist()
    return np.concatenate(
        [(kept - decay) * x + reach * buffer + straight * pulled, keeps * buffer + driven * pulled], axis=-1
    )


def _windows(steps: np.ndarray, exponents: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Ranges (m, 2) of neighbouring steps at which the exponent is surely below zero."""
    # Padded, so that every window has both a first and a last step.
    sure = np.concatenate([[False], exponents < -SURE * errors, [False]])
    turns = np.flatnonzero(sure[1:] != sure[:-1]).reshape(-1, 2)
    return np.array([[steps[a], steps[b - 1]] for a, b in turns]).reshape(-1, 2)


def _first_crossing(exponents: np.ndarray, told: int) -> int | None:
    """Index of the step at which the exponent has turned nonnegative; 0 if never below, None if always.

    Read around the first step at which it is `told` from zero.
    """
    after = told + np.flatnonzero(exponents[told:] >= 0)
    if not len(after):
        return None
    below = np.flatnonzero(exponents[: after[0]] < 0)
    return int(below[-1]) + 1 if len(below) else 0


def _crossing(
    rates: Rates, ends: np.ndarray, growths: np.ndarray, options: dict[str, int]
) -> tuple[float, float]:
    """Where the exponent turns nonnegative between two steps, and its error.

    Three times closer in, then along a straight line.
    """
    # The slope is that between the two ends: closer in, the few factors that are nearly zero make it erratic.
    (low, high), slope = ends, float(np.diff(growths)[0] / np.diff(ends)[0])
    for _ in range(3):
        steps = np.linspace(low, high, ZOOM)
        values, errors = _tops(rates, steps, **options)
        # At least 1, whatever rounding makes of the ends: a step to the left is needed.
        i = max(1, int(np.argmax(values >= 0)))
        low, high = float(steps[i - 1]), float(steps[i])
    share = values[i] / (values[i] - values[i - 1]) if math.isfinite(values[i - 1]) else 0.0
    return float(high - share * (high - low)), float(errors[i] / slope)
