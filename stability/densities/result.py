"""A stationary density: masses, moments, passage times, and how it agrees with an ensemble."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import _check
from .._display import Grid, number, settled
from .._frames import Labelled
from .._saving import Result
from ..ensembles.result import Ensemble
from .kernel import passage
from .panels import Panels


@dataclass(frozen=True)
class TotalVariation(Result):
    """A sample's histogram against predicted probabilities; made by `StationaryDensity.total_variation`.

    Attributes
    ----------
    value : float
        ``sum |n_i / n - p_i| / 2`` over the bins and what fell outside them.
    expected : float
        Its mean if the prediction is right: half the sum of the binomials' mean deviations, in De Moivre's
        closed form.
    bound : float
        ``expected + sqrt(log(1 / risk) / (2 n))`` (McDiarmid): a right prediction is beyond it with
        probability below `risk`.
    risk : float
    samples, outside, bins : int
        Independent samples, those of them outside the grid, and bins.
    """

    value: float
    expected: float
    bound: float
    risk: float
    samples: int
    outside: int
    bins: int

    @property
    def agrees(self) -> bool:
        """Whether the sample is within the bound."""
        return self.value <= self.bound

    def _page(self) -> Iterator[str | Grid]:
        verdict = "agrees" if self.agrees else "DISAGREES"
        yield f"total variation {self.value:.4g}: {verdict} ({self.samples} samples in {self.bins} bins)"
        rows = [
            ("expected from sampling", self.expected),
            (f"at most, at risk {self.risk:g}", self.bound),
            ("samples outside the grid", self.outside),
        ]
        yield Grid([("", ""), ("value", ".4g")], rows)


@dataclass(frozen=True)
class Kramers(Result):
    """The time over a barrier for weak noise (Eyring and Kramers); made by `StationaryDensity.kramers`.

    ``2 pi sqrt(D(top) / D(well)) / sqrt(|f'(well)| f'(top)) exp(barrier)``; for a gradient flow with constant
    noise ``D = eps`` this is ``2 pi / sqrt(F''(well) |F''(top)|) exp(2 dF / eps)``.

    Attributes
    ----------
    well, top : float
        Where the drift vanishes: the bottom of the effective potential at the start, and the highest point
        on the way.
    barrier : float
        ``-int 2 f / D`` from well to top.
    prefactor, mean, log_mean : float
        In units of t; `mean` is inf where it overflows.
    """

    well: float
    top: float
    barrier: float
    prefactor: float

    @property
    def log_mean(self) -> float:
        return math.log(self.prefactor) + self.barrier

    @property
    def mean(self) -> float:
        return _exp(self.log_mean)

    def _page(self) -> Iterator[str | Grid]:
        rows = [
            ("from the well at", self.well),
            ("over the top at", settled(self.top, self.well)),
            ("barrier", self.barrier),
            ("prefactor", self.prefactor),
            ("mean time", self.mean),
        ]
        yield Grid([("Kramers", ""), ("value", ".6g")], rows)


@dataclass(frozen=True)
class StationaryDensity(Result, Labelled):
    """A stationary density on a grid; made by `stationary_density`.

    Cells have shape (n,) on a line, (n1, n2) in a plane.

    Attributes
    ----------
    edges : dict of arrays
        The cells' edges by axis: ``w1`` and, in a plane, ``w2``.
    density : array, shape of the cells
        At their centers.
    mass : array, shape of the cells
        Probabilities; they sum to one.
    drift, current : arrays (..., d)
        ``f`` and the probability current ``f p - div(D p) / 2`` at the centers; zero on a line.
    diffusion : array (..., d, d)
    potential : array
        The objective's values; inf where it has none.
    mean, covariance : arrays (d,) and (d, d)
        On the grid.
    time : {"continuous", "chain"}
    dt : float
        Of the chain; 0 in continuous time.
    error : float
        Of the masses, in total variation: from the polynomials' last coefficients on a line, from the last
        refinement of a chain, from a grid half as fine in a plane.
    lost : float
        Mass outside the grid over that inside (continuous, line); probability of stepping out of it (chain);
        mass in the outermost cells (plane).
    tail_index : float
        Moments of this order and beyond are infinite, seen far outside the grid (line, continuous time); inf
        where the density falls fast.
    status : str
        ``"ok"``, or what must be known before the numbers are believed.
    flow : str
    provenance : dict
    quadrature : dict of arrays
        On a line: the panels behind `passage_time`.
    """

    edges: Mapping[str, np.ndarray]
    density: np.ndarray
    mass: np.ndarray
    drift: np.ndarray
    diffusion: np.ndarray
    current: np.ndarray
    potential: np.ndarray
    mean: np.ndarray
    covariance: np.ndarray
    time: str
    dt: float
    error: float
    lost: float
    tail_index: float
    status: str
    flow: str
    provenance: Mapping[str, Any]
    quadrature: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def dim(self) -> int:
        return self.mass.ndim

    @property
    def centers(self) -> tuple[np.ndarray, ...]:
        """The cells' centers along each axis."""
        return tuple(0.5 * (edges[1:] + edges[:-1]) for edges in self.edges.values())

    @property
    def effective_potential(self) -> np.ndarray:
        """``-log p`` less its smallest value, at the centers; inf where the density underflows."""
        with np.errstate(divide="ignore"):
            values = -np.log(self.density)
        return values - values.min()

    @property
    def _panels(self) -> Panels:
        if not self.quadrature:
            raise ValueError(
                "Passage times are for one dimension; this density has 2. Use st.simulate(..., exit=...)."
            )
        return Panels(error=self.error, **self.quadrature)

    def _place(self, name: str, value: Any) -> float:
        low, high = self._panels.edges[[0, -1]]
        place = float(_check.array(name, value, ndim=0, shape="()"))
        if not low <= place <= high:
            edges = self.edges["w1"]
            where, remedy = "on the grid", " Take a larger grid."
            if edges[0] <= place <= edges[-1]:
                where, remedy = "where the density is not zero", ""
            raise ValueError(f"`{name}` must be {where}, in [{low:g}, {high:g}]; got {place:g}.{remedy}")
        return place

    def passage_time(self, start: float, end: float) -> float:
        """The mean time to first reach `end` from `start`, in units of t; inf where it overflows.

        See `log_passage_time`.
        """
        return _exp(self.log_passage_time(start, end))

    def log_passage_time(self, start: float, end: float) -> float:
        """Logarithm of the mean first passage time; the far end of the grid reflects.

        In continuous time ``2 int_start^end exp(-E) int_low^y exp(E) / D dz dy``, ``E' = 2 f / D``, by
        quadrature. For a chain, its own mean time until a step ends beyond `end`, which is what
        ``simulate(exit=...)`` measures at this `dt`.

        Raises
        ------
        ValueError
            If the density is in two dimensions, or a point is not on the grid.
        """
        start, end = self._place("start", start), self._place("end", end)
        if start == end:
            return -math.inf
        panels = self._panels
        if self.time == "continuous":
            return panels.log_passage(start, end)
        # The chain's solver walks to the right; the mirror image of a landscape has the same times.
        if start > end:
            panels, start, end = panels.mirrored(), -start, -end
        return math.log(passage(panels, float(panels.edges[0]), start, end, self.dt))

    def kramers(self, start: float, end: float) -> Kramers:
        """Eyring's and Kramers' asymptotics, for weak noise, of the time over a barrier in continuous time.

        From the well of `start` over the highest point on the way to `end`. With noise that depends on the
        state the barrier is that of ``-int 2 f / D``, not of the objective.

        Raises
        ------
        ValueError
            If there is no well or no barrier between, or the drift has no slope at one of them.
        """
        start, end = self._place("start", start), self._place("end", end)
        panels = self._panels if start <= end else self._panels.mirrored()
        sign = 1.0 if start <= end else -1.0
        well, top = _way(panels, sign * start, sign * end)
        _, (q_well, _), (low, high) = panels.at(np.array([well, top]))
        slopes = panels.slope(well), panels.slope(top)
        # Each Gaussian that the formula puts in place of an integral must be narrower than their distance.
        if not min(-slopes[0], slopes[1]) * (top - well) ** 2 > 1:
            raise ValueError(
                "Kramers' formula needs a well and a top that are narrow beside their distance: there is too "
                "much noise, or no curvature at one of them "
                f"(curvatures of the effective potential {-slopes[0]:.3g} and {-slopes[1]:.3g}, distance "
                f"{top - well:.3g})."
            )
        prefactor = 2 * math.pi * 2 * q_well / math.sqrt(-slopes[0] * slopes[1])
        return Kramers(sign * well, sign * top, float(low - high), prefactor)

    def total_variation(self, sample: Any, *, bins: int | None = None, risk: float = 1e-4) -> TotalVariation:
        """Compare with the histogram of an ensemble's last states, or of independent samples.

        Parameters
        ----------
        sample : Ensemble, or array (m,) or (m, d)
            Paths that diverged count as outside the grid.
        bins : int, optional
            About how many along each axis, of equal probability, made of whole cells; by default 40 on a
            line, 8 in a plane.
        risk : float
            Of the bound.

        Raises
        ------
        ValueError
            If the sample is empty, of another dimension, or an ensemble that kept no states.
        """
        states = _sample(sample, self.dim)
        bins = {1: 40, 2: 8}[self.dim] if bins is None else _check.count("bins", bins)
        risk = _check.positive("risk", risk)
        if risk >= 1:
            raise ValueError(f"`risk` must be a probability in (0, 1); got {risk:g}.")
        # Bins of equal mass along each axis: a bin that is expected empty tells nothing.
        chosen = [
            _grouped(self.mass.sum(axis=tuple(set(range(self.dim)) - {axis})), bins)
            for axis in range(self.dim)
        ]
        predicted = self.mass
        for axis, rows in enumerate(chosen):
            predicted = np.add.reduceat(predicted, rows[:-1], axis=axis)
        finite = states[np.isfinite(states).all(axis=1)]
        edges = [edges[rows] for edges, rows in zip(self.edges.values(), chosen, strict=True)]
        counts = np.histogramdd(finite, edges)[0]
        n, p = len(states), predicted.ravel()
        outside = n - int(counts.sum())
        expected = _expected_variation(n, p)
        value = 0.5 * float(np.abs(counts.ravel() / n - p).sum() + outside / n)
        # McDiarmid: one sample moves the distance by 1 / n at most.
        bound = expected + math.sqrt(-math.log(risk) / (2 * n))
        return TotalVariation(value, expected, bound, risk, n, outside, p.size)

    def peaks(self) -> list[tuple[tuple[int, ...], float]]:
        """Cells (indices) whose density is above their neighbours', with the density; highest first.

        Those below 1e-6 of the highest are left out.
        """
        padded = np.pad(self.density, 1, constant_values=-1.0)
        inner = tuple(slice(1, -1) for _ in range(self.dim))
        around = [np.roll(padded, shift, axis)[inner] for axis in range(self.dim) for shift in (-1, 1)]
        # What lies a million times lower is the solver's rounding as often as a peak.
        top = (self.density > around[0]) & (self.density >= 1e-6 * self.density.max())
        # Strictly above on one side of each axis only, so that of two equal cells one is a peak.
        for k, other in enumerate(around[1:], 1):
            top &= self.density >= other if k % 2 else self.density > other
        cells = [tuple(int(i) for i in cell) for cell in np.argwhere(top)]
        return sorted(((cell, float(self.density[cell])) for cell in cells), key=lambda pair: -pair[1])

    @property
    def _axes(self) -> tuple[str, ...]:
        """The formula's own names, or those of the edges."""
        return tuple(self.provenance.get("variables") or self.edges)

    def _labels(self) -> Mapping[str, np.ndarray]:
        return dict(zip(self._axes, self.centers, strict=True))

    def _variables(self) -> Mapping[str, tuple[tuple[str, ...], np.ndarray]]:
        axes = self._axes
        scalars = ("density", "mass", "potential", "effective_potential")
        vectors = {name: ((*axes, "coordinate"), getattr(self, name)) for name in ("drift", "current")}
        matrix = {"diffusion": ((*axes, "coordinate", "other"), self.diffusion)}
        return {name: (axes, getattr(self, name)) for name in scalars} | vectors | matrix

    def _page(self) -> Iterator[str | Grid]:
        law = "continuous time" if self.time == "continuous" else f"Euler-Maruyama chain, dt = {self.dt:g}"
        box = " x ".join(
            f"[{edges[0]:g}, {edges[-1]:g}] in {len(edges) - 1}" for edges in self.edges.values()
        )
        yield f"stationary density of {self.flow}"
        lost = number(settled(self.lost, 1.0), ".1e")
        yield f"{law}; grid {box} cells; error {self.error:.1e}, lost {lost}"
        variance = np.diag(self.covariance)
        mean = settled(self.mean, np.sqrt(variance), 1e-9)  # the grid's own error
        axes = list(zip(self._axes, mean, variance, strict=True))
        yield Grid([("axis", ""), ("mean", ".5g"), ("variance", ".5g")], axes)
        rows = [
            (
                ", ".join(f"{axis[i]:.4g}" for axis, i in zip(self.centers, cell, strict=True)),
                height,
                settled(self.effective_potential[cell], 1.0, 1e-9),
                self.potential[cell],
            )
            for cell, height in self.peaks()[:8]
        ]
        yield Grid([("peak at", ""), ("density", ".5g"), ("-log p", ".4g"), ("objective", ".5g")], rows)
        yield f"status: {self.status}"


def _way(panels: Panels, start: float, end: float) -> tuple[float, float]:
    """The well of `start` and the highest point of the effective potential ``-E`` on to `end` > start."""
    x = np.unique(np.concatenate([panels.nodes.ravel(), [start, end]]))
    level = -panels.at(x)[2]
    top = int(np.argmax(np.where((x >= start) & (x <= end), level, -np.inf)))
    # The well lies this side of any higher point: beyond it a path would first have to climb that.
    before = np.flatnonzero(level[:top] >= level[top])
    left = int(before[-1]) + 1 if len(before) else 0
    well = left + int(np.argmin(level[left : top + 1]))
    if not 0 < well < top < len(x) - 1 or x[top] in (start, end):
        raise ValueError(
            f"Kramers' formula needs a well and a barrier between {start:g} and {end:g}; the effective "
            "potential has none."
        )
    return _zero(panels, x[well - 1], x[well + 1]), _zero(panels, x[top - 1], x[top + 1])


def _zero(panels: Panels, low: float, high: float) -> float:
    import scipy

    def slope(x: float) -> float:
        return float(panels.at(np.array([x]))[0][0])

    if not slope(low) * slope(high) < 0:  # flat to rounding
        return 0.5 * (low + high)
    return float(scipy.optimize.brentq(slope, low, high, xtol=1e-14 * (high - low), rtol=1e-14))


def _sample(sample: Any, dim: int) -> np.ndarray:
    """Independent states (m, dim), those of diverged paths as nan."""
    if isinstance(sample, Ensemble):
        if not sample.states.shape[1]:
            raise ValueError("The ensemble kept no states: simulate with keep='states'.")
        states = np.where(sample.diverged[:, None], np.nan, sample.states[-1])
    else:
        states = _check.array("sample", sample, ndim=(1, 2), shape=f"(m,) or (m, {dim})")
        states = states[:, None] if states.ndim == 1 else states
    if states.shape[1] != dim or not len(states):
        raise ValueError(f"`sample` must have shape (m, {dim}) with m > 0; got {states.shape}.")
    return states


def _grouped(mass: np.ndarray, bins: int) -> np.ndarray:
    """Indices of the edges of about `bins` groups of cells (n,) with equal mass."""
    below = np.concatenate([[0.0], np.cumsum(mass)]) / mass.sum()
    inner = np.searchsorted(below, np.arange(1, bins) / bins)
    return np.unique(np.concatenate([[0], inner, [len(mass)]])).astype(int)


def _expected_variation(n: int, p: np.ndarray) -> float:
    """Half the sum of ``E|N_i / n - p_i|`` for binomial N_i.

    De Moivre: ``E|N / n - p| = 2 m (1 - p) P(N = m) / n`` with ``m = floor(n p) + 1``.
    """
    import scipy

    # De Moivre's identity for the mean absolute deviation: one term, however large n is.
    m = np.floor(n * p) + 1
    return float(np.sum(m * (1 - p) * scipy.stats.binom.pmf(m, n, p)) / n)


def _exp(value: float) -> float:
    return math.exp(value) if value < 709.7 else math.inf
