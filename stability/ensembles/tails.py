"""Tail indices: how many moments a sample has, and whether its error bars mean anything.

Under Hessian noise an optimizer's stationary law has power-law tails ``P(|x| > r) ~ r^-nu``: a mean for ``nu
> 1``, a variance for ``nu > 2``, and error bars of that variance for ``nu > 4``. The index is read off the
largest values alone, by a power law with an origin of its own. Beside it two estimates that assume more:
Hill's, that the power has been reached, and the likelihood of a Student-t law, which theory says one mode of
the SDE has, and whose error means something only there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import _check
from .._display import Grid
from .._saving import Result, provenance
from .result import Ensemble
from .student import LARGEST_NU, Student, errors, gaussian, nu_error, squares, student

LEAST = 100
"""Points without which there is no saying: of fewer the largest do not tell their law."""
FEWEST = 10
"""Largest values that Hill's estimate uses at least."""
SHARE, ROOTS, FEWEST_SQUARES = 10, 5, 20
"""The index is read off a tenth of the points, five times the root of their number at most, and no fewer
than so many: more and the bulk speaks, fewer and nothing does.
"""
APART = 3
"""Combined errors that two estimates of one index may lie apart."""
LIGHT = 5.41
"""Twice the gain in log-likelihood over the Gaussian that a Student-t law must bring: 1 % of Gaussian samples
do (half a chi-squared of one degree).
"""
FEW = 5
"""By how much fewer points the error is larger than of many: a share of one over their number."""
NOMINAL = 1.96
"""Errors in half a nominal 95 % interval."""
LUMPS = 0.01
"""Probability that a power tail has so large a gap as `TailIndex.gap`, below which it is held to be none."""
MISFIT = (1.22, 1.9)
"""Largest `TailIndex.misfit` at which a Student-t law is held to fit: one Student-t sample in a hundred has
more of the first, one in twenty of the second.
"""


@dataclass(frozen=True)
class TailIndex(Result):
    """How heavy a sample's tails are; made by `tail_index`.

    Attributes
    ----------
    index, error : float
        The tail index and its standard error: of the generalised Pareto law of the `points` largest radii;
        both inf where these fall off faster than any power up to 1000, or the tails are not told from a
        Gaussian's. Where Hill's estimate disagrees, the error is their distance.
    source : str
        "Pareto"; "Student-t" or "Hill" in results of older versions.
    hill, hill_error, k : float, float, int
        Hill's estimate from the `k` largest radii, and ``hill / sqrt(k)``.
    nu, nu_error : float
        Degrees of freedom of the likeliest Student-t law; inf for the Gaussian.
    location, location_error : arrays (d,)
    scatter, scatter_error : arrays (d, d)
        Of that law; in one dimension the square of its scale.
    misfit : array (2,)
        ``sqrt(n)`` times the Kolmogorov-Smirnov distance between radii and that law; Hill's estimate from a
        twentieth of the points against what that law would give, in its own standard errors: the first looks
        at the bulk, the second at the tail. Neither tells laws apart whose tails differ beyond the sample.
    gain : float
        Twice its log-likelihood over the Gaussian's.
    radii : array (n,)
        Distances from the middle of the sample in units of its own spread, largest first.
    counts, indices : arrays (m,)
        Hill's estimate at other numbers of largest radii: the Hill plot.
    gap : float
        Share of Hill's sum that the largest gap between two neighbouring radii makes up: near one where the
        largest radii are a cluster apart, such as paths that have left for another well, and no power tail.
    dim : int
        Directions in which the sample varies.
    left_out : int
        Paths of an ensemble that had diverged.
    status : str
        What the index means for moments.
    provenance : dict
    points : int
        How many of the largest radii the index is read off; 0 in results of older versions.
    agrees : bool
        Whether Hill's estimates, from `k` of the largest radii and from a quarter of these, are of the index.
    """

    index: float
    error: float
    source: str
    hill: float
    hill_error: float
    k: int
    nu: float
    nu_error: float
    location: np.ndarray
    location_error: np.ndarray
    scatter: np.ndarray
    scatter_error: np.ndarray
    misfit: np.ndarray
    gain: float
    radii: np.ndarray
    counts: np.ndarray
    indices: np.ndarray
    gap: float
    dim: int
    left_out: int
    status: str
    provenance: dict[str, Any]
    points: int = 0
    agrees: bool = True

    @property
    def fits(self) -> bool:
        """Whether the Student-t law fits, in the bulk and in the tail, and its index is the tail's."""
        near = _apart(self.index, self.error, self.nu, self.nu_error) == 0
        return bool((np.abs(self.misfit) <= MISFIT).all()) and near

    @property
    def light(self) -> bool:
        """Whether the tails are not told from a Gaussian's."""
        return self.gain < LIGHT

    @property
    def lumps(self) -> bool:
        """Whether the largest radii come in lumps, with gaps that no power tail has.

        The index means nothing then.
        """
        return _gap_probability(self.gap, self.k) < LUMPS

    def _page(self) -> Iterator[str | Grid]:
        yield f"tail index of {len(self.radii)} points in {self.dim} dimension{'s' * (self.dim > 1)}"
        rows = [
            (f"Pareto, {self.points} largest", self.index, self.error),
            (f"Hill, {self.k} largest", self.hill, self.hill_error),
            ("Student-t, likelihood", self.nu, self.nu_error),
        ][not self.points :]
        yield Grid([("estimate", ""), ("index", ".4g"), ("+-", ".2g")], rows)
        bulk, tail = self.misfit
        fits = "fits" if self.fits else "does not fit"
        yield f"the Student-t law {fits} (misfit {bulk:.2f} in the bulk, {tail:.2f} in the tail)"
        if self.left_out:
            yield f"{self.left_out} diverged paths are left out: the true tail is heavier than this"
        yield f"status: {self.status}"


@_check.by_name
def tail_index(sample: Any, *, tail: float | None = None, center: Any = None) -> TailIndex:
    """How heavy the tails of a sample are: its tail index ``nu``, below which moments are finite.

    In one dimension the radii are ``|x - center|``, both tails together; in more, ``sqrt((x - center)^T V^-1
    (x - center))`` with Tyler's scatter matrix V, which exists whatever the tails: covariances may not.

    Parameters
    ----------
    sample : array (n,) or (n, d), or Ensemble
        Independent points. Of an ensemble the states at the last time saved, one of each path that did not
        diverge: several times of one path are correlated, their errors too small.
    tail : int or float, optional
        How many of the largest radii the index and Hill's estimate are read off: a number, or a share below
        1. By default ``sqrt(n)`` for Hill's, and for the index a tenth of the points, ``5 sqrt(n)`` at
        most. More of them have a smaller error and a larger bias: the tail is not yet a power there.
    center : float or array (d,), optional
        The coordinates' medians by default. For one-sided samples such as Pareto's give 0: Hill's estimate
        depends on it.

    Returns
    -------
    TailIndex

    Notes
    -----
    Beyond a high threshold u radii follow ``P(r > x) = ((s + x^2) / (s + u^2))^(-nu / 2)``, a generalised
    Pareto law in ``x^2``, where tails are alike on opposite sides: to second order in ``u / x``, with an s
    that Hill's estimate takes for zero. Where they are not, as of one-sided samples, the law is one in ``x``.
    Its standard error is ``nu (1 + nu / 2) / sqrt(points)``, or ``nu (1 + nu) / sqrt(points)``, and more of
    few points. Nominal 95 % intervals, ``index +- 1.96 error``, cover 90-98 % of Student-t, stable and Pareto
    laws and of chains of known index (a test). Of few points those that are told from a Gaussian's at all
    look heavier than they are: the error then reaches up to where the sample no longer tells. What it has not
    reached it cannot tell: a law that bends further out has another index.

    The likelihood reads `TailIndex.nu` off the whole sample, the bulk included: sharper where the law is a
    Student-t, as of one mode of the SDE, and wrong where it is not, by many times its error. `fits` does not
    make it right.

    Raises
    ------
    ValueError
        If there are too few points for their dimension, all are equal, some are not finite, or `tail` is out
        of range.

    References
    ----------
    B. M. Hill, Ann. Stat. 3 (1975) 1163-1174; D. E. Tyler, Ann. Stat. 15 (1987) 234-251; K. L. Lange, R. J.
    A. Little, J. M. G. Taylor, J. Am. Stat. Assoc. 84 (1989) 881-896; R. A. Fisher, Proc. R. Soc. A 125
    (1929) 54-59; J. T. Kent, D. E. Tyler, Y. Vardi, Commun. Stat. Simul. 23 (1994) 441-453; R. L. Smith, Ann.
    Stat. 15 (1987) 1174-1207, on generalised Pareto laws of the largest values.

    Examples
    --------
    >>> import numpy as np, stability as st
    >>> sample = np.random.default_rng(2).standard_t(3, 20_000)
    >>> found = st.tail_index(sample)
    >>> bool(abs(found.index - 3) < 3 * found.error)
    True
    >>> print(found.status)
    below 4: covariances exist, but their error bars mean nothing
    """
    x, left_out = _points(sample)
    n, full = x.shape
    middle = np.median(x, axis=0) if center is None else _center(center, full)
    basis, inverse = _directions(x - middle)
    y = (x - middle) @ inverse
    if n < max(LEAST, 10 * y.shape[1]):
        raise ValueError(
            f"`sample` must have at least {max(LEAST, 10 * y.shape[1])} points in "
            f"{_check.counted(y.shape[1], 'dimension')}; got {n}."
        )
    radii = _radii(y)
    order = np.argsort(-radii, kind="stable")
    radii = radii[order]
    _short(float(radii[0]))
    k, points = _tail(tail, n)
    hill, counts, indices = float(_hill(radii, np.array([k]))[0]), *_hill_plot(radii)
    fit, gain = _likeliest(y)
    m_error, S_error = errors(fit.nu, fit.S, basis, n)
    gap = _gap(radii, k)
    index, error = math.inf, math.inf  # where the tails are not told from a Gaussian's
    if gain >= LIGHT:
        index, error = _pareto(radii, points, 2 if _alike(y[order[:points]]) else 1)
        # The gain's root is how many errors 1 / index is away from zero, a Gaussian's: so far it may lie.
        error = max(error, index / (math.sqrt(gain) - NOMINAL)) if math.isfinite(index) else error
    # At two depths: an index that changes between them is that of no power law yet.
    others = _hill(radii, counted := np.array([k, max(FEWEST, k // 4)]))
    apart = np.array(
        [_apart(index, error, *pair) for pair in zip(others, others / counted**0.5, strict=True)]
    )
    return TailIndex(
        index=index,
        error=max(error, float(apart.max())),
        source="Pareto",
        hill=hill,
        hill_error=hill / math.sqrt(k),
        k=k,
        nu=fit.nu,
        nu_error=nu_error(y, fit),
        location=middle + basis @ fit.m,
        location_error=m_error,
        scatter=basis @ fit.S @ basis.T,
        scatter_error=S_error,
        misfit=_misfit(y, fit, radii),
        gain=gain,
        radii=radii,
        counts=counts,
        indices=indices,
        gap=gap,
        dim=y.shape[1],
        left_out=left_out,
        status=_status(
            index, error, gain, lumps=_gap_probability(gap, k) < LUMPS, agree=not apart.any(), points=points
        ),
        provenance=provenance(tail=tail, center=center),
        points=points,
        agrees=not apart.any(),
    )


def _likeliest(y: np.ndarray) -> tuple[Student, float]:
    """The likeliest law of points (n, d), a Gaussian's too, and `TailIndex.gain`."""
    try:
        fit = student(y)
    except np.linalg.LinAlgError:
        raise ValueError(
            "`sample` must not have most of its points in a plane: its scatter is singular. Leave out "
            "directions that few points use."
        ) from None
    light = gaussian(y)
    gain = 2 * (fit.log_likelihood - light.log_likelihood)
    # At the search's own end the fit is no maximum, but a Gaussian in all but name.
    return (light if fit.nu >= 0.99 * LARGEST_NU or gain <= 0 else fit), gain


def _apart(index: float, error: float, other: float, other_error: float) -> float:
    """How far two estimates of one index are apart, where that is beyond `APART` of their errors; else 0."""
    if not (math.isfinite(index) and math.isfinite(other)):
        return 0.0
    near = APART * math.hypot(error, 0.0 if math.isnan(other_error) else other_error)
    return abs(index - other) if abs(index - other) > near else 0.0


def _status(index: float, error: float, gain: float, *, lumps: bool, agree: bool, points: int) -> str:
    if gain < LIGHT:
        return "light-tailed: not told from Gaussian"
    if lumps:
        return (
            "no power tail: the largest radii come in lumps, as of another well or of whole numbers; the "
            "index means nothing"
        )
    if not agree:
        return (
            f"no index: the {points} largest radii and the very largest disagree, the tail is no power yet. "
            "Take more points, or look at the Hill plot and give `tail`"
        )
    if math.isinf(index):
        return "above 4: covariances and their error bars exist"
    if index + 2 * error < 2:
        return "below 2: no variance"
    if index + 2 * error < 4:
        return (
            "below 4: covariances exist, but their error bars mean nothing"
            if index - 2 * error > 2
            else "below 4; whether there is a variance is within the error"
        )
    if index - 2 * error > 4:
        return "above 4: covariances and their error bars exist"
    return "whether the index exceeds 4 is within the error: error bars of covariances are not to be trusted"


# -- the sample ------------------------------------------------------------------------------------


def _points(sample: Any) -> tuple[np.ndarray, int]:
    left_out = 0
    if isinstance(sample, Ensemble):
        if not sample.states.shape[1]:
            raise ValueError(
                "`sample` must hold states; this ensemble kept moments only. Simulate with fewer paths, or "
                "keep the states."
            )
        left_out = int(sample.diverged.sum())
        sample = sample.states[-1, ~sample.diverged]
    x = _check.array("sample", sample, ndim=(1, 2), shape="(n,) or (n, d)", advice=_check.IMPUTE)
    x = x[:, None] if x.ndim == 1 else x
    n, dim = x.shape
    if dim == 0 or n < max(LEAST, 2 * dim):
        raise ValueError(
            f"`sample` must have at least {max(LEAST, 2 * dim)} points in "
            f"{_check.counted(dim, 'dimension')}; got {n}."
        )
    return x, left_out


def _center(center: Any, dim: int) -> np.ndarray:
    middle = _check.array("center", center, ndim=(0, 1), shape="(d,)")
    return np.full(dim, middle) if middle.ndim == 0 else _check.shaped("center", middle, (dim,))


def _directions(centered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The directions in which points differ: columns (d, r) that span them, and the matrix that leads there.

    In units of the points' spread.
    """
    spread = np.median(np.abs(centered), axis=0)
    # More than half of the points may share a coordinate, whose median distance is then 0.
    spread = np.where(spread > 0, spread, np.abs(centered).max(axis=0))
    still = int(np.count_nonzero(~centered.any(axis=1)))
    if still > 0.5 * len(centered):
        raise ValueError(f"`sample` must vary; {still} of its {len(centered)} points equal its center.")
    if not 1e-140 < spread.max() < 1e140:
        raise ValueError(
            f"`sample` must have a spread that floats can square; it is {spread.max():.3g}. Choose other "
            "units."
        )
    spread[spread == 0] = 1.0
    scaled = centered / spread
    _short(float(np.abs(scaled).max()))
    length = np.linalg.norm(scaled, axis=1)
    one_each = (
        scaled[length > 0] / length[length > 0, None]
    )  # a direction each, however far: no point decides the rank alone
    values, axes = np.linalg.svd(one_each, full_matrices=False)[1:]
    # What is left below is the rounding of directions that depend on one another.
    kept = axes[values > 1e-10 * values[0]].T
    return spread[:, None] * kept, kept / spread[:, None]


def _short(reach: float) -> None:
    if reach > 1e140:
        raise ValueError(
            f"`sample` must not span more than 140 decades; its largest radius is {reach:.3g} times the "
            "median one. Leave that point out."
        )


def _radii(y: np.ndarray) -> np.ndarray:
    """Lengths in Tyler's metric (n,), the median one being 1."""
    # Tyler's fixed point sees directions alone, so that the farthest points weigh no more than others; it
    # is found up to a factor, which the median then sets.
    V, dim = np.diag(np.median(np.abs(y), axis=0) ** 2 + 1e-300), y.shape[1]
    for _ in range(200 if dim > 1 else 0):
        square = np.einsum("ni,ni->n", y, np.linalg.solve(V, y.T).T)
        weights = np.where(square > 0, 1 / np.where(square > 0, square, 1.0), 0.0)
        ahead = (y * weights[:, None]).T @ y
        # The fixed point is known up to a factor alone: without this the iteration would drift along it.
        ahead *= np.trace(V) / np.trace(ahead)
        done = np.max(np.abs(ahead - V)) <= 1e-6 * np.max(np.abs(V))
        V = ahead
        if done:
            break
    radii = np.sqrt(np.einsum("ni,ni->n", y, np.linalg.solve(V, y.T).T))
    return radii / np.median(radii)


# -- Hill's estimate -------------------------------------------------------------------------------


def _hill(radii: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """``1 / mean(log r_i / r_(k+1), i <= k)`` at each k; radii are in descending order."""
    logs = np.log(np.maximum(radii, 1e-300))
    logs -= logs[0]  # of equal radii the excess is 0, not what rounding leaves
    excess = np.cumsum(logs)[counts - 1] / counts - logs[counts]
    with np.errstate(divide="ignore"):
        return 1 / excess


def _gap(radii: np.ndarray, k: int) -> float:
    """The largest of ``i log(r_i / r_(i+1))``, i <= k, over their sum.

    Of a power tail they are independent and exponential (Renyi).
    """
    logs = np.log(np.maximum(radii[: k + 1], 1e-300))
    gaps = np.arange(1, k + 1) * (logs[:-1] - logs[1:])
    return float(gaps.max() / gaps.sum()) if gaps.sum() > 0 else 1.0


def _gap_probability(gap: float, k: int) -> float:
    """Of a largest share beyond `gap` among k exponentials (Fisher 1929), its first term.

    It is above the whole, by little where it is small.
    """
    return k * (1 - gap) ** (k - 1)


def _hill_plot(radii: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # Even in the logarithm, as the plot's axis is.
    counts = np.unique(np.geomspace(FEWEST, len(radii) // 2, 60).astype(int))
    return counts, _hill(radii, counts)


def _tail(tail: float | None, n: int) -> tuple[int, int]:
    """How many of the largest radii Hill's estimate uses, and how many the index."""
    if tail is None:
        most = min(n // SHARE, ROOTS * math.isqrt(n))
        return max(FEWEST, math.isqrt(n)), min(max(FEWEST_SQUARES, most), n // 2)
    if isinstance(tail, float) and 0 < tail < 1:
        tail = max(FEWEST, int(tail * n))
    count = _check.count(
        "tail", tail, least=FEWEST, most=n // 2, why="or a share of the points, between 0 and 1"
    )
    return count, count


# -- the generalised Pareto law ----------------------------------------------------------------------


def _alike(y: np.ndarray) -> bool:
    """Whether these points (m, d) lie alike on opposite sides of zero.

    Of directions that do, ``m d`` times the square of their mean is chi-squared; of one in a thousand more.
    """
    import scipy

    # In units of their own spread: the mean direction of a flat cloud is no smaller than that of a round one.
    whitened = np.linalg.svd(y / np.linalg.norm(y, axis=1)[:, None], full_matrices=False)[0]
    return bool(whitened.sum(axis=0) @ whitened.sum(axis=0) < scipy.special.chdtri(y.shape[1], 1e-3))


def _pareto(radii: np.ndarray, points: int, power: int) -> tuple[float, float]:
    """The likeliest index of so many largest radii, in descending order, and its standard error.

    Of powers q of radii, in units of the threshold's, ``P(q > x) = ((t + x) / (t + 1))^(-nu / power)``. At
    each t the likeliest nu is a mean of logarithms, as Hill's is at t = 0.
    """
    import scipy

    excess = (radii[:points] / radii[points]) ** power - 1

    def logarithms(log_scale: float) -> float:
        return float(np.mean(np.log1p(excess / math.exp(log_scale))))

    def cost(log_scale: float) -> float:
        mean = logarithms(log_scale)
        return math.log(mean) + mean + log_scale

    if not excess.any():
        return math.inf, math.inf
    # From powers that begin at the threshold to tails that are exponential as far as the sample goes.
    middle = math.log(float(np.median(excess)) or float(excess.max()))
    best = scipy.optimize.minimize_scalar(
        cost, bounds=(middle - 10, middle + 12), method="bounded", options={"xatol": 1e-4}
    )
    index = power / logarithms(best.x)
    if index > LARGEST_NU:
        return math.inf, math.inf
    # The likelihood's own error is for many points: of twenty, z has a spread of 1.25 or so.
    return index, index * (1 + index / power) / math.sqrt(points) * (1 + FEW / points)


def _misfit(y: np.ndarray, fit: Student, radii: np.ndarray) -> np.ndarray:
    """Distance of the radii's law from the fitted one, over all points and in the tail.

    See `TailIndex.misfit`.
    """
    import scipy

    (n, dim), nu, square = y.shape, fit.nu, np.sort(squares(y, fit.m, fit.S)[0])
    if math.isinf(nu):
        law, quantile = scipy.special.chdtr(dim, square), lambda p: scipy.special.chdtri(dim, p)
    else:
        law, quantile = (
            scipy.special.fdtr(dim, nu, square / dim),
            lambda p: scipy.special.fdtri(dim, nu, 1 - p),
        )
    ranks = np.arange(n)
    bulk = math.sqrt(n) * np.maximum(np.abs(law - ranks / n), np.abs(law - (ranks + 1) / n)).max()
    k = np.array([max(FEWEST, n // 20)])
    # What Hill's estimate gives of the law's own quantiles: at a finite depth it is biased, and both alike.
    expected = _hill(np.sqrt(quantile((np.arange(k[0] + 1) + 0.5) / n)), k)
    return np.array([bulk, float((_hill(radii, k) / expected - 1)[0]) * math.sqrt(k[0])])
