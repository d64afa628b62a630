"""A landscape on a line: the methods' drift, and where noise settles, by Fokker-Planck and by paths."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import _check
from .._check import Unstable
from .._display import Grid, settled
from .._frames import Framed, Labelled
from .._saving import Result
from ..densities.density import langevin, stationary_density
from ..densities.result import StationaryDensity
from ..ensembles.simulate import simulate
from ..flow import Flow
from ..methods.method import Method
from ..noise import Noise
from .critical import critical_points
from .setting import DT_SHARE, flows_of, shared_fields

BINS = 40


@dataclass(frozen=True)
class Profile(Result, Framed, Labelled):
    """Potential, drift and stationary density of several methods on a line; made by `profile`.

    Attributes
    ----------
    objective : str
    methods : array of str (m,)
    x : array (n,)
        The grid.
    values : array (n,)
        The objective there.
    points : array (k,)
        Critical points, lowest value first.
    kinds : array of str (k,)
    drift : array (m, n)
        With momentum, or a metric that follows the noise, where buffer and running means have settled.
    density : array (m, n)
        Stationary, by quadrature of the Fokker-Planck equation; nan where a method has none.
    edges : array (bins + 1,)
    counts : array (m, bins)
        Paths that end in each bin.
    variation : array (m, 3)
        Total variation between paths and density; what sampling alone gives; a bound that it passes with a
        probability of 1e-4.
    outside : array of int (m,)
        Paths that end outside the region, or diverged.
    notes : tuple of str
        What is to be known before a density is believed, by method.
    status : str
        Of the search for critical points.
    provenance : dict
    """

    objective: str
    methods: np.ndarray
    x: np.ndarray
    values: np.ndarray
    points: np.ndarray
    kinds: np.ndarray
    drift: np.ndarray
    density: np.ndarray
    edges: np.ndarray
    counts: np.ndarray
    variation: np.ndarray
    outside: np.ndarray
    notes: tuple[str, ...]
    status: str
    provenance: dict[str, Any]

    @property
    def agrees(self) -> np.ndarray:
        """Whether paths and density agree, within the bound from sampling (m,)."""
        return self.variation[:, 0] <= self.variation[:, 2]

    def _columns(self) -> Mapping[str, Any]:
        value, chance, bound = self.variation.T
        agrees = [None if np.isnan(v) else bool(a) for v, a in zip(value, self.agrees, strict=True)]
        told = {"outside": self.outside, "variation": value, "by_chance": chance, "bound": bound}
        return {"method": self.methods, **told, "agrees": agrees}

    def _labels(self) -> Mapping[str, np.ndarray]:
        return {"method": self.methods, "x": self.x}

    def _variables(self) -> Mapping[str, tuple[tuple[str, ...], np.ndarray]]:
        curves = {name: (("method", "x"), getattr(self, name)) for name in ("drift", "density")}
        return {"values": (("x",), self.values)} | curves

    def _page(self) -> Iterator[str | Grid]:
        yield self.objective
        for kind, at in zip(self.kinds[:12], self.points[:12], strict=True):
            yield f"{kind} at {settled(at, np.ptp(self.x), 1e-6):.5g}"
        width = self.x[1] - self.x[0]
        rows = []
        for m, name in enumerate(self.methods):
            value, chance, bound = self.variation[m]
            verdict = None if np.isnan(value) else "agree" if self.agrees[m] else "DIFFER"
            left = float(np.sum(self.density[m, self.x < 0]) * width)
            rows.append((str(name), left, self.outside[m], value, verdict, chance, bound))
        numbers = (("mass left of 0", ".3g"), ("outside", "g"), ("paths against density", ".3g"))
        chances = (("", ""), ("by chance", ".3g"), ("bound", ".3g"))
        yield Grid([("method", ""), *numbers, *chances], rows)
        yield from self.notes
        yield f"status: {self.status}"


@_check.by_name
def profile(
    objective: Any,
    region: Any,
    methods: Iterable[Method] | None = None,
    *,
    start: Any = None,
    noise: Noise | None = None,
    step: float = 0.05,
    t_end: float = 10.0,
    paths: int = 2000,
    seed: int = 0,
) -> Profile:
    """Numbers of a landscape on a line: potential, drift, and the stationary density by two witnesses.

    The density solves the stationary Fokker-Planck equation of each method's SDE; paths that start from it
    should still have it at `t_end`. With momentum it is known of SGD, whose positions have Kramers's density;
    of other methods with momentum, and of metrics with running means, there are drift and paths alone.

    Parameters
    ----------
    objective : Objective
        In one dimension.
    region : float or (low, high)
        A number R is ``(-R, R)``.
    methods : iterable of Method, optional
        SGD, Newton and SFN (with a damping of 0.1) by default.
    start : float or array (1,), optional
        Where all paths start; by default they are spread as the predicted density is. From one point they may
        take longer than `t_end` to spread over barriers.
    noise : Noise, optional
        Gradient noise of standard deviation 1 by default.
    step : float
        The learning rate. The time step of the paths is an eighth of it.
    t_end : float
        In units of ``t = iteration * step``.
    paths : int
        At least 100.
    seed : int
        Of the noise; 0 by default.

    Raises
    ------
    ValueError
        If the objective is not one-dimensional or an argument is out of range.

    Examples
    --------
    >>> import stability as st
    >>> seen = st.profile(st.expression("x^4/4 - x^2/2"), 2, [st.SGD()], paths=500, t_end=1.0)
    >>> seen.kinds.tolist(), seen.agrees.tolist()
    (['minimum', 'minimum', 'maximum'], [True])
    """
    flows = flows_of(objective, methods, noise, step, dim=1)
    objective = flows[0].objective
    found, count = critical_points(objective, region), _check.count("paths", paths, least=100, most=1_000_000)
    begin = None if start is None else _check.shaped("start", np.atleast_1d(start), (1,))
    ends = (float(found.region[0, 0]), float(found.region[0, 1]))
    # 400 cells, a whole number of them to each of the 40 bins.
    edges = np.linspace(*ends, 401)
    seen = [_Seen(flow, ends, begin, _check.positive("t_end", t_end), count, seed) for flow in flows]
    x = 0.5 * (edges[1:] + edges[:-1])
    with np.errstate(all="ignore"):
        values = np.asarray(objective.value(x[:, None]))
    return Profile(
        **shared_fields(flows, found, step=step, t_end=t_end, paths=count, seed=seed),
        x=x,
        values=values,
        points=found.states[:, 0],
        drift=np.array([_drift(flow, x) for flow in flows]),
        density=np.array([one.density for one in seen]),
        edges=edges[:: len(x) // BINS],
        counts=np.array([np.histogram(one.last, edges[:: len(x) // BINS])[0] for one in seen]),
        variation=np.array([one.variation for one in seen]),
        outside=np.array([count - np.sum((one.last >= ends[0]) & (one.last <= ends[1])) for one in seen]),
        notes=tuple(
            f"{flow.method.label}: {note}"
            for flow, one in zip(flows, seen, strict=True)
            for note in one.notes
        ),
        status=found.status,
    )


def _drift(flow: Flow, x: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        return flow.settled_drift(x[:, None])[:, 0]


class _Seen:
    """One method's stationary density, and where its paths end."""

    def __init__(
        self,
        flow: Flow,
        ends: tuple[float, float],
        begin: np.ndarray | None,
        t_end: float,
        paths: int,
        seed: int,
    ):
        self.notes: list[str] = []
        law = self._law(flow, ends)
        self.density = np.full(400, np.nan) if law is None else law.density
        self.variation = [np.nan] * 3
        # Started from the law itself, paths need no time to forget their start or to cross barriers.
        start = np.array([0.5 * sum(ends)]) if law is None else _spread(law, paths)
        self.last = self._paths(flow, start if begin is None else begin, t_end, paths, seed)
        if law is None:
            return
        # Paths that diverged are far outside, so that they count against the density.
        last = np.where(np.isnan(self.last), 1e300, self.last)[:, None]
        compared = law.total_variation(last, bins=BINS)
        self.variation = [compared.value, compared.expected, compared.bound]
        if not compared.agrees:
            told = f"paths (time step {DT_SHARE * flow.step:g}, to t = {t_end:g}) and density differ"
            self.notes.append(f"{told}; whether a smaller `step` or a longer `t_end` mends it tells why")

    def _law(self, flow: Flow, ends: tuple[float, float]) -> StationaryDensity | None:
        try:
            law = stationary_density(langevin(flow) or flow, ends)
        except (ValueError, Unstable) as error:
            self.notes.append(str(error))
            return None
        if law.status != "ok":
            self.notes.append(law.status)
        return law

    def _paths(self, flow: Flow, start: np.ndarray, t_end: float, paths: int, seed: int) -> np.ndarray:
        """The paths' last states (paths,); nan where they diverged."""
        dt = DT_SHARE * flow.step
        steps = max(1, round(min(t_end / dt, 1e18)))
        try:
            ens = simulate(flow, start=start, t_end=steps * dt, dt=dt, paths=paths, seed=seed)
        except ValueError as error:  # at the start the gain is singular, or the objective not defined
            self.notes.append(f"no paths: {error}")
            return np.full(paths, np.nan)
        if ens.diverged.any():
            self.notes.append(f"{int(ens.diverged.sum())} of {paths} paths diverged")
        return np.where(ens.diverged, np.nan, ens.states[-1, :, 0])


def _spread(law: StationaryDensity, paths: int) -> np.ndarray:
    """Starts (paths, 1) spread as a law is: its quantiles at even distances."""
    (edges,) = law.edges.values()
    reached = np.concatenate([[0.0], np.cumsum(law.mass)])
    return np.interp((np.arange(paths) + 0.5) / paths * reached[-1], reached, edges)[:, None]
