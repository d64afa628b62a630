"""The exponents of a product of random matrices, by QR decompositions on the way."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import _check
from .._display import Grid, settled
from .._frames import Framed
from .._saving import Result, provenance
from ..flow import Flow
from ..methods.memory import with_gain
from .matrices import EPS, Product, blocks, product_of_flow, product_of_function
from .mean_square import mean_square_rate

SURE = 3.0
"""Standard errors away from zero that a sign needs to be told."""
ROUNDING = 1e-14
"""Size of a factor's logarithm that may be rounding."""
UNSETTLED = 4.5
"""Standard errors between the two halves of the run beyond which exponents are said not to have settled."""


@dataclass(frozen=True)
class LyapunovExponents(Result, Framed):
    """Exponents of a random matrix product and its mean-square rate; made by `lyapunov_exponents`.

    Attributes
    ----------
    exponents, errors : arrays (k,)
        Per iteration (`step` of t), largest first, and their standard errors; ``-inf`` where a product
        reaches zero, to working precision.
    mean_square, mean_square_error : float
        ``log(spectral radius of M -> E[B M B^T]) / 2`` per iteration, on the same scale as `exponents`; inf
        where ``E|B|^2`` is.
    samples : array (products, k)
        Each product's own mean growth: finite-time exponents.
    step : float
        What one iteration is in units of t: 1 for matrices of one's own.
    level : {"iteration", "sde", "matrices"}
    flat : int
        Directions that neither drift nor noise ever moves: exponent zero, left out of everything above.
    iterations, burn : int
        Of each product, and how many of them its direction had first to forget its start.
    verdict : str
    status : str
        ``"ok"``, or what is to be known before the numbers are believed.
    provenance : dict
    """

    exponents: np.ndarray
    errors: np.ndarray
    mean_square: float
    mean_square_error: float
    samples: np.ndarray
    step: float
    level: str
    flat: int
    iterations: int
    burn: int
    verdict: str
    status: str
    provenance: dict[str, Any]

    @property
    def rates(self) -> np.ndarray:
        """`exponents` per unit of ``t = iteration * step``, (k,)."""
        return self.exponents / self.step

    @property
    def rate_errors(self) -> np.ndarray:
        """`errors` per unit of t, (k,)."""
        return self.errors / self.step

    def _columns(self) -> Mapping[str, Any]:
        per_t = self.exponents / self.step
        return {"exponent": self.exponents, "error": self.errors, "per_t": per_t}

    def _page(self) -> Iterator[str | Grid]:
        what = {"iteration": "the iteration", "sde": "the SDE's chain", "matrices": "random matrices"}[
            self.level
        ]
        yield (
            f"Lyapunov exponents of {what}, step {self.step:g}: {len(self.samples)} products of "
            f"{self.iterations} iterations"
        )
        # Where nothing is random, what the products differ by is rounding.
        errors = settled(self.errors, np.maximum(1.0, np.abs(self.exponents)), ROUNDING)
        rows = list(zip(map(str, range(1, len(errors) + 1)), self.exponents, errors, strict=True))
        rows = rows if len(rows) <= 12 else [*rows[:11], rows[-1]]
        rows.append(("mean square", self.mean_square, self.mean_square_error))
        columns = [("exponent", ""), ("per iteration", ".6g"), ("+-", ".2g"), ("per t", ".5g")]
        yield Grid(columns, [(*row, row[1] / self.step) for row in rows])
        if self.flat:
            yield f"{self.flat} flat directions, which nothing moves, are left out"
        yield self.verdict
        yield f"status: {self.status}"


@_check.by_name
@_check.renamed(count="rank")
def lyapunov_exponents(
    flow: Flow | Callable[[np.random.Generator, int], np.ndarray],
    at: Any = None,
    *,
    level: str = "iteration",
    dt: float | None = None,
    rank: int | None = None,
    iterations: int = 1000,
    products: int = 200,
    seed: int = 0,
) -> LyapunovExponents:
    """Lyapunov exponents at a critical point: do paths contract, almost surely and in mean square?

    For the iteration ``B = I - step P(H + Eh)(H + Eg)`` with nothing linearised in the noise, real
    minibatches where the noise is estimated from data. For the SDE ``B = I + dt A + sqrt(step dt) G``, its
    Euler-Maruyama chain, with ``A = -P H`` and ``G = P Eg + DP[Eh] H`` linear in Gaussian noise; as ``dt``
    goes to 0 the exponent of one mode goes to Ito's ``a - step K / 2`` per unit of t. With momentum the
    matrices are those of whole states, positions and buffer, and there are twice as many exponents.
    Decoupled weight decay takes ``step * weight_decay`` from the positions' identity.

    Parameters
    ----------
    flow : Flow, or callable
        Or random matrices of one's own: ``draw(rng, size)`` gives (size, d, d), independent and alike.
    at : array (d,), optional
        The critical point; the objective's reference by default.
    level : {"iteration", "sde"}
    dt : float, optional
        Of the SDE's chain, in units of t; `step` by default.
    rank : int, optional
        How many exponents, largest first; all by default. One is much cheaper in many dimensions.
    iterations, products : int
        Length and number of the independent products; the error falls like
        ``1 / sqrt(iterations * products)``. A fifth of the iterations, at most 200, comes before them for the
        directions to settle.
    seed : int

    Returns
    -------
    LyapunovExponents

    Raises
    ------
    ValueError
        If an argument is out of range, `at` is no critical point, the gain is singular on a drawn Hessian
        batch, or matrices of one's own are not finite.

    References
    ----------
    G. Benettin, L. Galgani, A. Giorgilli, J.-M. Strelcyn, Meccanica 15 (1980) 9-30; H. Furstenberg, H.
    Kesten, Ann. Math. Stat. 31 (1960) 457-469.

    Examples
    --------
    Without noise the exponents are the logarithms of ``|1 - step phi_i lam_i|``:

    >>> import stability as st
    >>> flow = st.Flow(st.quadratic([1.0, 0.5]), st.SGD(), step=0.5)
    >>> st.lyapunov_exponents(flow).exponents.round(9)  # log 0.75 and log 0.5
    array([-0.28768207, -0.69314718])
    """
    iterations = _check.count("iterations", iterations, least=10)
    products = _check.count("products", products, least=10)
    seed = _check.seed(seed)
    if isinstance(flow, Flow):
        with_gain(flow.method)
        one = product_of_flow(flow, at, level, dt, seed)
    else:
        one = product_of_function(flow, at, dt)
    count = one.dim
    if rank is not None:
        count = _check.count("rank", rank, most=one.dim, why="the directions that move")
    what = f"{products} products of {one.dim} x {one.dim} matrices need"
    _check.room(what, 4 * products * one.dim**2, advice="Take fewer `products`.")
    burn = min(200, iterations // 5)
    # A factor of the chain is `ratio` iterations: rates per factor are divided by it, here and below.
    samples, unsettled = _samples(one, count, iterations, products, burn, seed)
    (exponents, errors), least = means(samples), ROUNDING / one.ratio
    square, square_error, doubt = mean_square_rate(one, np.random.default_rng([seed, 1]))
    # A rate that is finite but doubtful decides nothing; that it is infinite is known, whatever the doubt.
    told = math.inf if doubt and math.isfinite(square) else square_error + least
    return LyapunovExponents(
        exponents=exponents,
        errors=errors,
        mean_square=square,
        mean_square_error=square_error,
        samples=samples,
        step=one.length / one.ratio,
        level=one.level,
        flat=one.flat,
        iterations=iterations,
        burn=burn,
        verdict=_verdict(exponents[0], errors[0] + least, square, told),
        status="; ".join(text for text in (unsettled, doubt) if text) or "ok",
        provenance=provenance(seed=seed, products=products, flow=repr(flow), **one.about),
    )


def _verdict(top: float, error: float, square: float, square_error: float) -> str:
    if top > SURE * error:
        return "unstable: paths grow almost surely"
    if not top < -SURE * error:
        return "undecided within the error: the top exponent is not told from zero"
    if square < -SURE * square_error:
        return "almost surely stable and mean-square stable"
    if square > SURE * square_error:
        return "paths contract but second moments explode"
    return "paths contract; whether second moments do is undecided within the error"


def _samples(
    one: Product, count: int, iterations: int, products: int, burn: int, seed: int
) -> tuple[np.ndarray, str]:
    """Mean growth per iteration (products, count), largest first, and what to say if it is not settled."""
    if one.steady:
        return np.broadcast_to(_of_one_matrix(one)[:count] / one.ratio, (products, count)).copy(), ""
    grown, drifted = _grown(one, np.random.default_rng(seed), count, iterations, products, burn)
    if np.isfinite(grown).all():
        grown = grown[:, np.argsort(-grown.mean(axis=0), kind="stable")]
    apart = float(np.max(np.abs(drifted)))
    if apart <= UNSETTLED:
        return grown / one.ratio, ""
    return grown / one.ratio, (
        f"not settled: the two halves of the run differ by {apart:.1f} standard errors; take more iterations"
    )


def _of_one_matrix(one: Product) -> np.ndarray:
    """Where every draw is the same matrix: logarithms of its eigenvalues' sizes, largest first."""
    (matrix,), (rounding,) = one.draw(np.random.default_rng(0), 1)
    sizes = np.sort(np.abs(np.linalg.eigvals(matrix)))[::-1]
    with np.errstate(divide="ignore"):
        return np.log(np.where(sizes <= rounding, 0.0, sizes))


def _grown(
    one: Product, rng: np.random.Generator, count: int, iterations: int, products: int, burn: int
) -> tuple[np.ndarray, np.ndarray]:
    """Mean growth (products, count) per factor; by how many standard errors its halves differ (count,)."""
    Q = rng.standard_normal((products, one.dim, count))
    # Not all along the given directions, lest noise that couples no modes never leaves them.
    Q = np.linalg.qr(Q if one.start is None else one.start[:, :count] + 0.01 * Q)[0]
    halves, k = np.zeros((2, products, count)), -burn
    for B, rounding in blocks(one.draw, rng, burn + iterations, products, one.dim):
        size = np.abs(B).max(axis=(2, 3))
        size[size == 0] = 1.0  # factors of size one: their squares are floats
        for factor, small, scale in zip(B / size[..., None, None], rounding / size, size, strict=True):
            Q, grown = _step(factor, Q, small)
            if k >= 0:
                with np.errstate(divide="ignore"):
                    halves[int(2 * k >= iterations)] += np.log(grown) + np.log(scale)[:, None]
            k += 1
    return halves.sum(axis=0) / iterations, _drift(halves, iterations)


def _drift(halves: np.ndarray, iterations: int) -> np.ndarray:
    """Standard errors (count,) between the mean growth of the first half and of the second."""
    first = (iterations + 1) // 2
    with np.errstate(all="ignore"):
        gap = halves[1] / (iterations - first) - halves[0] / first
        spread = np.std(gap, axis=0, ddof=1) / math.sqrt(halves.shape[1])
        # Where all products grow alike, the spread is rounding, and so is the gap.
        drift = np.where(spread > 1e-9, np.mean(gap, axis=0) / spread, 0.0)
    return np.nan_to_num(drift, nan=0.0, posinf=0.0, neginf=0.0)


def _step(factor: np.ndarray, Q: np.ndarray, small: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal columns (products, d, count) one factor on, and by how much each grew (products, count).

    The growth is zero where only rounding is left.
    """
    ahead = factor @ Q
    lengths = np.linalg.norm(ahead, axis=1)
    if Q.shape[-1] == 1:
        grown, lost = lengths, small[:, None]
        Q = np.where(lengths[:, None] > 0, ahead / np.where(lengths > 0, lengths, 1.0)[:, None], Q)
    else:
        Q, R = np.linalg.qr(ahead)
        grown = np.abs(np.diagonal(R, axis1=1, axis2=2))
        lost = np.maximum(small[:, None], EPS * Q.shape[1] * lengths)
        lost[:, 0] = small  # nothing is taken off the first column
    return Q, np.where(grown <= lost, 0.0, grown)


def means(grown: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard error over products (products, ...); ``-inf`` where one has reached zero."""
    zero = np.isneginf(grown).any(axis=0)  # what has happened to one will happen to all
    calm = np.where(zero, 0.0, grown)
    return np.where(zero, -math.inf, calm.mean(axis=0)), calm.std(axis=0, ddof=1) / math.sqrt(len(grown))
