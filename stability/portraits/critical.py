"""Critical points in a region: found by Newton's method, classified, and what methods do to them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .. import _check
from .._display import Grid, Page, number, point, settled
from .._frames import Framed
from .._saving import Result
from ..methods.memory import undecayed
from ..methods.method import LRSFN, SFN, SGD, DampedNewton, Method, Newton, told_apart
from ..methods.response import SpectralResponse
from ..objectives.base import defines, require

ROUNDS = 120
"""Damped Newton steps from each start."""
NEAR = 1e-6
"""Of the region's width: points this near are one, and a thousand times farther at a singular Hessian."""
FLAT = 1e-6
"""Of the largest eigenvalue here, or of a thousandth of the region's usual one: what is called zero."""
SMALL = 1e-9
"""Of the gradient's usual size in the region: what counts as zero."""


@dataclass(frozen=True)
class CriticalPoint(Result):
    """One point where the gradient vanishes.

    Attributes
    ----------
    w : array (d,)
    value : float
    eigenvalues : array (d,)
        Of the Hessian, ascending; those that are zero to rounding are exactly so.
    hits : int
        Starts that led here.
    degenerate : bool
        Some eigenvalue is zero to rounding: the second derivatives do not decide what kind of point this is.
    """

    w: np.ndarray
    value: float
    eigenvalues: np.ndarray
    hits: int
    degenerate: bool

    def _page(self) -> Iterator[str | Grid]:
        rows = [
            ("index", self.index),
            ("value", self.value),
            ("condition", self.condition),
            ("hits", self.hits),
        ]
        yield Grid([(f"{self.kind} at", ""), (point(self.w), ".5g")], rows)
        yield f"eigenvalues {point(self.eigenvalues)}"

    @property
    def index(self) -> int:
        """Morse index: the number of negative eigenvalues, zeros not counted."""
        return int(np.sum(self.eigenvalues < -FLAT * np.abs(self.eigenvalues).max()))

    @property
    def kind(self) -> str:
        """``"minimum"``, ``"saddle"``, ``"maximum"`` or ``"degenerate"``."""
        if self.degenerate:
            return "degenerate"
        return "minimum" if self.index == 0 else "maximum" if self.index == len(self.w) else "saddle"

    @property
    def condition(self) -> float:
        """``max |lambda| / min |lambda|``; inf where degenerate."""
        sizes = np.abs(self.eigenvalues)
        return float("inf") if self.degenerate else float(sizes.max() / sizes.min())

    def methods(self, methods: Iterable[Method] | None = None) -> str:
        """What methods do here, as a table: attracts, range of rates, largest noise gain, largest step.

        With momentum rates and noise gain are those at small steps.

        Parameters
        ----------
        methods : iterable of Method, optional
            SGD, Newton, damped Newton, SFN and LRSFN by default; damping is a tenth of the largest curvature.
        """
        # A Hessian of zeros has no scale of its own.
        scale = 0.1 * float(np.abs(self.eigenvalues).max()) or 1.0
        default = [
            SGD(),
            Newton(),
            DampedNewton(damping=scale),
            SFN(damping=scale),
            LRSFN(rank=1, damping=scale, tail="flat"),
        ]
        columns = (
            ("method", ""),
            ("attracts", ""),
            ("rates", "s"),
            ("noise gain", ".3g"),
            ("largest step", ".3g"),
        )
        asked = default if methods is None else list(methods)
        rows = [(label, *self._row(one)) for one, label in zip(asked, told_apart(asked), strict=True)]
        return Page(Grid(columns, rows))

    def _row(self, method: Method) -> tuple[str, str, float, float]:
        """Whether a method is attracted, its range of rates, its largest gain and its largest step."""
        undecayed(method, "the table of a critical point")
        response = SpectralResponse(method, self.eigenvalues)
        with np.errstate(all="ignore"):
            gains = np.asarray(response.gains)
            # Not -gains: a zero would be shown as -0.
            rates = np.sort(0.0 - gains * self.eigenvalues)  # of the deviation along each eigenvector
            limits, longer = -2 / rates, 1.0  # where |1 + step rate| = 1
            if method.memory is not None:
                limits, longer = method.memory.mean_limit(-rates), method.memory.effective(1.0)
            limit, rates = float(np.min(np.where(rates < 0, limits, np.inf))), longer * rates
        verdicts = {-1: "yes", 0: "flat", 1: "no"}
        attracts = verdicts[int(np.sign(rates[-1]))] if np.isfinite(rates).all() else "singular"
        ends = dict.fromkeys(number(rate, ".3g") for rate in rates[[0, -1]])  # one number where all are alike
        largest = longer * float(np.max(np.abs(gains)))
        return attracts, " ... ".join(ends), largest, limit if attracts == "yes" else np.nan


@dataclass(frozen=True)
class CriticalPoints(Result, Framed, Sequence):
    """The critical points of a region, lowest value first; made by `critical_points`.

    A sequence of `CriticalPoint`.

    Attributes
    ----------
    states : array (k, d)
    values : array (k,)
    eigenvalues : array (k, d)
        Of the Hessian, ascending.
    hits : array of int (k,)
        Starts that led to each.
    degenerate : array of bool (k,)
    region : array (d, 2)
        Lower and upper bounds.
    starts, undefined, left, stuck : int
        Starting points; those where the gradient is not finite; those that ended outside the region; those
        that ended where the gradient does not vanish.
    status : str
        ``"ok"``, or what is to be known before the list is believed.
    """

    states: np.ndarray
    values: np.ndarray
    eigenvalues: np.ndarray
    hits: np.ndarray
    degenerate: np.ndarray
    region: np.ndarray
    starts: int
    undefined: int
    left: int
    stuck: int
    status: str

    def __len__(self) -> int:
        return len(self.states)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        return CriticalPoint(
            self.states[i],
            float(self.values[i]),
            self.eigenvalues[i],
            int(self.hits[i]),
            bool(self.degenerate[i]),
        )

    def __iter__(self) -> Iterator[CriticalPoint]:
        return (self[k] for k in range(len(self)))

    @property
    def unseen(self) -> float:
        """Good and Turing's estimate that one more start finds another point; nan where none was found."""
        return float(np.sum(self.hits == 1) / np.sum(self.hits)) if len(self) else float("nan")

    def _columns(self) -> Mapping[str, Any]:
        names = ("kind", "index", "value", "condition", "hits")
        where = {f"w[{i}]": [one.w[i] for one in self] for i in range(len(self.region))}
        return {name: [getattr(one, name) for one in self] for name in names} | where

    def _page(self) -> Iterator[str | Grid]:
        width = self.region[:, 1] - self.region[:, 0]
        height = np.max(np.abs(self.eigenvalues), initial=0.0) * np.max(width) ** 2  # what values differ by
        rows = [
            (
                one.kind,
                one.index,
                settled(one.value, height),
                one.condition,
                one.hits,
                point(settled(one.w, width, NEAR), ".5g"),
            )
            for one in self
        ]
        numbers = (("index", "g"), ("value", ".5g"), ("condition", ".3g"), ("hits", "g"))
        yield Grid([("kind", ""), *numbers, ("at", "")], rows[:20])
        if len(self) > 20:
            yield f"... and {len(self) - 20} more"
        yield (
            f"{self.starts} starts: {self.hits.sum()} to {len(self)} points, {self.left} out of the region, "
            f"{self.stuck} to none, {self.undefined} undefined"
        )
        if len(self):
            yield f"another start would find a new point with probability {self.unseen:.2g}"
        yield f"status: {self.status}"


@_check.by_name
def critical_points(objective: Any, region: Any, *, starts: int | None = None) -> CriticalPoints:
    """Find and classify the points of a region where the gradient vanishes.

    Damped Newton steps for ``grad F = 0`` (Levenberg and Marquardt on ``|grad F|^2``) from a Halton sequence
    of starts: the same points at every call. No search can prove that it found all; `CriticalPoints.unseen`
    says how likely it is that it did not.

    Parameters
    ----------
    objective : Objective
        With ``value``, ``gradient`` and ``hessian``.
    region : float, or array (2,) or (d, 2)
        Bounds ``(low, high)`` of each coordinate or of all; a number R is ``(-R, R)``.
    starts : int, optional
        256 for each dimension by default, at most 4096.

    Returns
    -------
    CriticalPoints

    Raises
    ------
    ValueError
        If an argument is out of range or the objective lacks a derivative.

    Examples
    --------
    >>> import stability as st
    >>> found = st.critical_points(st.landscape("double_well"), 2)
    >>> [(point.kind, point.w.round(6).tolist()) for point in found]
    [('minimum', [-1.0, 0.0]), ('minimum', [1.0, 0.0]), ('saddle', [0.0, 0.0])]
    """
    from scipy.stats import qmc

    objective = require(objective, "st.critical_points", "dim", "value", "gradient", "hessian")
    bounds = _region(region, int(objective.dim))
    count = min(256 * len(bounds), 4096) if starts is None else _check.count("starts", starts)
    _check.room(
        f"The Hessians at {count} starts need", 2 * count * len(bounds) ** 2, advice="Give fewer `starts`."
    )
    halton = qmc.Halton(len(bounds), scramble=False).random(count + 1)[1:]  # the first is a corner
    points = qmc.scale(halton, *bounds.T)
    with np.errstate(all="ignore"):
        return _gathered(objective, bounds, _led(objective, points))


def _region(region: Any, dim: int) -> np.ndarray:
    bounds = _check.array("region", region)
    if bounds.ndim == 0:
        bounds = np.array([-abs(float(bounds)), abs(float(bounds))])
    if bounds.shape not in ((2,), (dim, 2)):
        raise ValueError(
            f"`region` must be a number, (low, high), or have shape ({dim}, 2); got shape {bounds.shape}."
        )
    bounds = np.broadcast_to(bounds, (dim, 2)).copy()
    if not (bounds[:, 0] < bounds[:, 1]).all():
        raise ValueError("`region` must have low < high in every coordinate.")
    return bounds


class _Ends(NamedTuple):
    """Where the starts lead."""

    w: np.ndarray  # (starts, d)
    size: np.ndarray  # of the gradient there
    lam: np.ndarray  # (starts, d), the Hessian's eigenvalues there
    usual: float  # size of the gradient at the starts
    curvature: float  # largest of the Hessian's eigenvalues at the usual start


def _led(objective: Any, w: np.ndarray) -> _Ends:
    gradient, size = _slopes(objective, w)
    usual, curvature = _usual(size), _usual(np.abs(_spectra(objective, w)[0]).max(axis=1))
    damping = np.full(len(w), 1e-2)
    for _ in range(ROUNDS):
        lam, turn = _spectra(objective, w)
        along = np.einsum("kji,kj->ki", turn, gradient)
        # In proportion to the curvature: one damping serves landscapes of any scale.
        squared = damping[:, None] * np.max(lam**2, axis=1, keepdims=True)
        # Newton's step on |grad F|^2, not on F: it goes to saddles and maxima as to minima.
        ahead = w - np.einsum("kij,kj->ki", turn, np.where(lam == 0, 0.0, lam / (lam**2 + squared)) * along)
        slope, length = _slopes(objective, ahead)
        better = length < size
        w = np.where(better[:, None], ahead, w)
        gradient = np.where(better[:, None], slope, gradient)
        size = np.where(better, length, size)
        damping = np.where(better, 0.1 * damping, np.minimum(8 * damping, 1e8))
    return _Ends(w, size, _spectra(objective, w)[0], usual, curvature)


def _slopes(objective: Any, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gradients and their lengths, nan where the objective is not finite, outside its domain."""
    gradient = objective.gradient(w)
    return gradient, np.where(np.isfinite(objective.value(w)), np.linalg.norm(gradient, axis=-1), np.nan)


def _usual(sizes: np.ndarray) -> float:
    finite = sizes[np.isfinite(sizes)]
    # A median: at a few starts, beside a pole or far out, gradients are larger by any factor.
    return float(np.median(finite)) if len(finite) else 0.0


def _spectra(objective: Any, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues and vectors of the Hessians; nan where these are not finite."""
    hessian = objective.hessian(w)
    broken = ~np.isfinite(hessian).all(axis=(-2, -1))
    # LAPACK would refuse all matrices for one that is not finite.
    lam, turn = np.linalg.eigh(np.where(broken[:, None, None], 0.0, hessian))
    return np.where(broken[:, None], np.nan, lam), turn


def _gathered(objective: Any, bounds: np.ndarray, ends: _Ends) -> CriticalPoints:
    w, size, lam, usual, curvature = ends
    width = bounds[:, 1] - bounds[:, 0]
    undefined = ~np.isfinite(size) | ~np.isfinite(lam).all(axis=1)
    zero = ~undefined & (size <= SMALL * usual)
    inside = ((w >= bounds[:, 0] - NEAR * width) & (w <= bounds[:, 1] + NEAR * width)).all(axis=1)
    sizes = np.abs(lam)
    lam = np.where(sizes <= FLAT * np.maximum(sizes.max(axis=1), 1e-3 * curvature)[:, None], 0.0, lam)
    flat = (lam == 0).any(axis=1)
    # Where the Hessian is singular, so may the next derivatives be: a gradient of g there leaves a distance
    # of up to g^(1/5) to the point itself.
    doubt = np.where(flat, np.maximum(1000 * NEAR, (size / usual) ** 0.2 if usual else 0.0), NEAR)
    members = _clusters(w / width, size, doubt, np.flatnonzero(zero & inside))
    corner = _lower_corner(objective, bounds, w[zero & inside], SMALL * usual)
    best = np.array([group[np.argmin(size[group])] for group in members], dtype=int)
    values = objective.value(w[best]) if len(best) else np.zeros(0)
    # lexsort's last key counts most: by value, then by place; rounded, or rounding would order equal values.
    # To rounding of the region's own sizes: of what values differ by in it, and of its width.
    height = curvature * np.max(width) ** 2 or 1.0
    order = np.lexsort((*(w[best] / width).T.round(6), np.round(values / height, 9))) if len(best) else best
    best, values = best[order], np.asarray(values)[order]
    hits = np.array([len(members[k]) for k in order], dtype=int)
    return CriticalPoints(
        states=w[best],
        values=values,
        eigenvalues=lam[best],
        hits=hits,
        degenerate=flat[best],
        region=bounds,
        starts=len(w),
        undefined=int(undefined.sum()),
        left=int((zero & ~inside).sum()),
        stuck=int((~undefined & ~zero).sum()),
        status=_status(hits, flat[best], len(w), int(undefined.sum()), _corners(objective, w[best])) + corner,
    )


def _clusters(w: np.ndarray, size: np.ndarray, doubt: np.ndarray, rows: np.ndarray) -> list[np.ndarray]:
    """The rows in groups of one point each, by what may be one with the smallest gradient that is left."""
    groups, rest = [], rows[np.argsort(size[rows], kind="stable")]
    while len(rest):
        near = np.abs(w[rest] - w[rest[0]]).max(axis=1) <= doubt[rest]
        groups.append(rest[near])
        rest = rest[~near]
    return groups


def _corners(objective: Any, states: np.ndarray) -> int:
    """How many of these the objective itself says not to be smooth or accurate at."""
    return sum(objective.status(w) != "ok" for w in states) if defines(objective, "status") else 0


def _lower_corner(objective: Any, bounds: np.ndarray, found: np.ndarray, small: float) -> str:
    """A word where descent ends below all critical points at a corner: inside, where no gradient vanishes."""
    import scipy
    from scipy.stats import qmc

    starts = qmc.scale(qmc.Halton(len(bounds), scramble=False).random(64)[1:], *bounds.T)
    values = objective.value(starts)
    width = bounds[:, 1] - bounds[:, 0]
    lowest = np.min(objective.value(found), initial=np.inf) if len(found) else np.inf
    finite = values[np.isfinite(values)]
    options = {"xatol": 1e-5 * np.max(width), "fatol": 1e-5 * np.ptp(finite) if len(finite) else 0.0}
    for start in starts[np.argsort(np.where(np.isfinite(values), values, np.inf))[:4]]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # at a corner the line search fails, which is what is looked for
            end = scipy.optimize.minimize(
                lambda w: float(np.nan_to_num(objective.value(w), nan=np.inf)),
                start,
                method="Nelder-Mead",
                bounds=bounds,
                options=options,
            ).x
        inside = ((end > bounds[:, 0] + 1e-3 * width) & (end < bounds[:, 1] - 1e-3 * width)).all()
        drop, steep = lowest - objective.value(end), float(np.linalg.norm(objective.gradient(end)))
        if inside and not steep <= 1e6 * small and drop > 1e-6 * abs(lowest if np.isfinite(lowest) else 0.0):
            return (
                f"; a lower value near ({', '.join(f'{x:.3g}' for x in end[:6])}), where the gradient does "
                "not vanish: a corner?"
            )
    return ""


def _status(hits: np.ndarray, flat: np.ndarray, starts: int, undefined: int, corners: int) -> str:
    if undefined == starts:
        return "the gradient is not finite at any start: the region lies outside the domain"
    told = f"; {undefined} of {starts} starts lie outside the domain" if undefined else ""
    if not len(hits):
        return "no critical point was found in this region" + told
    if corners:
        return f"{corners} not smooth or not accurate: derivatives do not say what kind of point it is" + told
    rare = flat & (hits <= 2)
    if rare.sum() >= 3 and rare.sum() > 0.1 * hits.sum():
        return "not isolated: there is a flat valley, of which these are some points" + told
    if flat.any():
        return f"{flat.sum()} degenerate: a singular Hessian does not say what kind of point it is" + told
    unseen = float(np.sum(hits == 1) / np.sum(hits))
    if unseen <= 0.05:
        return "ok" + told
    more = f"not all: another start would find a new point with probability {unseen:.2g}; give more `starts`"
    return more + told
