"""Phase portraits in two dimensions: what methods do on the same landscape, side by side."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import _check
from .._check import StabilityWarning
from .._display import Grid, point, settled
from .._frames import Framed, Labelled
from .._saving import Result
from ..ensembles.simulate import simulate
from ..flow import Flow
from ..methods.method import Method
from ..methods.response import SpectralResponse
from ..noise import Noise
from .critical import CriticalPoints, critical_points
from .flowlines import LEFT, NEAREST, SINGULAR, UNDECIDED, UNDEFINED, Sinks, follow
from .setting import DT_SHARE, flows_of, shared_fields

FATES = {
    LEFT: "leaves the region",
    SINGULAR: "ends where the drift is infinite",
    UNDECIDED: "undecided",
    UNDEFINED: "outside the domain",
}
MOST_SINKS = 60
"""Critical points, the lowest, at which flow lines are said to end: a valley has any number."""
# Of the region's width: how near a line arrives at a point, where rates tell or not.
_NEAR, _NEARER = 0.02, 1e-5


@dataclass(frozen=True)
class Portrait(Result, Framed, Labelled):
    """Level sets, flow lines, basins and sample paths of methods on one landscape; made by `portrait`.

    Attributes
    ----------
    objective : str
    methods : array of str (m,)
    x, y : arrays (nx,), (ny,)
        The grid.
    values : array (ny, nx)
        The objective there.
    points : array (k, 2)
        Critical points, lowest value first.
    kinds : array of str (k,)
    rates : array (m, k, 2)
        Rates of the linearised flow at each point, ascending; nan where a gain is infinite. With momentum the
        larger of the two that each mode has, its real part.
    lines : array (m, steps, lines, 2)
        Flow lines ``w' = -P g``, nan after they end. With momentum, or a metric's running means, the
        positions of a whole state that starts at rest: such lines may cross.
    basins : array of int (m, ny, nx)
        The point that the flow leads to from there; -1 it leaves the region, -2 it ends where the drift is
        infinite, -3 undecided, -4 the objective is not defined there, or where the flow leads.
    start : array (2,)
    times : array (times,)
    paths : array (m, times, paths, 2)
        From `start`, nan after they diverge.
    status : str
        Of the search for critical points.
    provenance : dict
    """

    objective: str
    methods: np.ndarray
    x: np.ndarray
    y: np.ndarray
    values: np.ndarray
    points: np.ndarray
    kinds: np.ndarray
    rates: np.ndarray
    lines: np.ndarray
    basins: np.ndarray
    start: np.ndarray
    times: np.ndarray
    paths: np.ndarray
    status: str
    provenance: dict[str, Any]

    @property
    def attracts(self) -> np.ndarray:
        """What each method does to each point (m, k).

        ``"attracts"``, ``"repels"``, ``"passes"`` (in along one direction, out along the other),
        ``"flat"`` or ``"singular"``.
        """
        rates = self.rates
        cases = {
            "singular": np.isnan(rates).any(axis=-1),
            "flat": (rates == 0).any(axis=-1),
            "attracts": (rates < 0).all(axis=-1),
            "repels": (rates > 0).all(axis=-1),
        }
        return np.select(list(cases.values()), list(cases), default="passes")

    def share(self, method: int, end: int) -> float:
        """The share of the grid from which a method's flow ends at a point, or otherwise (-1 to -4)."""
        return float(np.mean(self.basins[method] == end))

    def _columns(self) -> Mapping[str, Any]:
        points = {"kind": self.kinds, "x": self.points[:, 0], "y": self.points[:, 1]}
        return points | {
            f"{name} {what}": column
            for m, name in enumerate(self.methods)
            for what, column in (
                ("does", self.attracts[m]),
                ("share", [self.share(m, k) for k in range(len(self.points))]),
            )
        }

    def _labels(self) -> Mapping[str, np.ndarray]:
        return {"method": self.methods, "x": self.x, "y": self.y, "time": self.times}

    def _variables(self) -> Mapping[str, tuple[tuple[str, ...], np.ndarray]]:
        return {
            "values": (("y", "x"), self.values),
            "basins": (("method", "y", "x"), self.basins),
            "paths": (("method", "time", "path", "coordinate"), self.paths),
            "lines": (("method", "step", "line", "coordinate"), self.lines),
        }

    def _page(self) -> Iterator[str | Grid]:
        yield self.objective
        rows: list[tuple[str, ...]] = []
        width = np.array([np.ptp(self.x), np.ptp(self.y)])
        shown = min(len(self.points), 12)
        for k in range(shown):
            at = point(settled(self.points[k], width, 1e-6), ".3g")
            cells = (
                f"{told} {self.share(m, k):.0%}" if self.share(m, k) else str(told)
                for m, told in enumerate(self.attracts[:, k])
            )
            rows.append((f"{self.kinds[k]} {at}", *cells))
        if shown < len(self.points):
            rows.append((f"... and {len(self.points) - shown} more", *[""] * len(self.methods)))
        for end, told in FATES.items():
            if (self.basins == end).any():
                shares = (f"{self.share(m, end):.0%}" for m in range(len(self.methods)))
                rows.append((told, *shares))
        yield Grid([("critical point", ""), *((str(name), "") for name in self.methods)], rows)
        yield "percentages: of the region, from where the flow leads there"
        yield f"status: {self.status}"


@_check.by_name
def portrait(
    objective: Any,
    region: Any,
    methods: Iterable[Method] | None = None,
    *,
    start: Any = None,
    noise: Noise | None = None,
    step: float = 0.05,
    t_end: float = 10.0,
    paths: int = 3,
    level: str = "sde",
    seed: int = 0,
    resolution: int = 60,
) -> Portrait:
    """Draw-ready numbers of a landscape in two dimensions and of what methods do on it.

    Flow lines solve ``w' = -P(H) g`` (an L-stable Rosenbrock method of second order with exact Jacobians,
    steps of at most a hundredth of the region); basins are where they end. With momentum, or a metric that
    follows the noise, they are the SDE's own lines without its noise (`Flow.drift`), of the whole state from
    rest, and depend on `step`: lines may cross, and a basin is where the whole state settles. Sample paths
    draw the same noise for all methods.

    Parameters
    ----------
    objective : Objective
        In two dimensions.
    region : float, or array (2,) or (2, 2)
        Bounds ``(low, high)`` of each coordinate or of both; a number R is ``(-R, R)``.
    methods : iterable of Method, optional
        SGD, Newton and SFN (with a damping of 0.1) by default.
    start : array (2,), optional
        Of the sample paths; three quarters of the way to the region's upper corner by default.
    noise : Noise, optional
        Gradient noise of standard deviation 1 by default.
    step : float
        The learning rate.
    t_end : float
        How long the paths are, in units of ``t = iteration * step``.
    paths : int
        Sample paths for each method; 0 for none.
    level : {"sde", "iteration"}
        What they are paths of: the SDE, with an eighth of `step` as its time step, or the iteration.
    seed : int
        Of the noise; 0 by default.
    resolution : int
        Points of the grid along each axis, from 8 to 400.

    Raises
    ------
    ValueError
        If the objective is not two-dimensional or an argument is out of range.

    Examples
    --------
    >>> import stability as st
    >>> seen = st.portrait(st.landscape("double_well"), 1.5, [st.SGD(), st.Newton()], resolution=20)
    >>> seen.attracts.tolist()
    [['attracts', 'attracts', 'passes'], ['attracts', 'attracts', 'attracts']]
    """
    flows = flows_of(objective, methods, noise, step, dim=2)
    objective = flows[0].objective
    count = _check.count("resolution", resolution, least=8, most=400)
    found = critical_points(objective, region)
    low, high = found.region.T
    start = low + 0.75 * (high - low) if start is None else _check.shaped("start", start, (2,))
    grid, seeds = _grid(found.region, count), _grid(found.region, 9).reshape(-1, 2)
    with np.errstate(all="ignore"):
        values = np.asarray(objective.value(grid))
    rates = np.stack([_rates(flow, found) for flow in flows])
    sinks = [_sinks(found.states, rate) for rate in rates]
    pairs = list(zip(flows, sinks, strict=True))
    ends = [_followed(flow, grid.reshape(-1, 2), found.region, points)[0] for flow, points in pairs]
    lines = [_followed(flow, seeds, found.region, points)[1] for flow, points in pairs]
    times, walked, missing = _walks(flows, start, level, t_end, paths, seed)
    return Portrait(
        **shared_fields(flows, found, step=step, t_end=t_end, level=level, seed=seed),
        x=grid[0, :, 0],
        y=grid[:, 0, 1],
        values=values,
        points=found.states,
        rates=rates,
        lines=_level(lines),
        basins=np.stack(ends).reshape(-1, count, count),
        start=start,
        times=times,
        paths=walked,
        status=found.status + missing,
    )


def _grid(region: np.ndarray, count: int) -> np.ndarray:
    """Points (count, count, 2) over a region: rows along the second coordinate, as pictures have them."""
    # meshgrid's default, indexing by (y, x): the first axis runs along the second coordinate.
    return np.stack(np.meshgrid(*(np.linspace(low, high, count) for low, high in region)), axis=-1)


def _rates(flow: Flow, found: CriticalPoints) -> np.ndarray:
    """Rates (k, 2) at critical points, ascending; nan where the gain is infinite."""
    if not len(found):
        return np.zeros((0, 2))
    with np.errstate(all="ignore"):
        pulls = (
            SpectralResponse(flow.method, found.eigenvalues).gains * found.eigenvalues
            if flow.metric is None
            else flow.pulls(found.states)
        )
        rates = np.where(np.isfinite(pulls), -pulls, np.nan)
        if flow.inertia is not None:
            # An infinite pull is no matrix; its rate stays nan below.
            matrices = flow.inertia.motion(flow.step, 0.0).matrices(np.nan_to_num(pulls, posinf=0, neginf=0))
            led = np.linalg.eigvals(matrices).real.max(axis=-1)
            rates = np.where(np.isnan(rates) | (rates == 0), rates, led)
    return np.sort(rates, axis=-1)


def _sinks(states: np.ndarray, rates: np.ndarray) -> Sinks:
    """The points (k, 2) with how near a line must come to be theirs: the less its rates (k, 2) tell."""
    attracts, repels = np.all(rates < 0, axis=-1), np.any(rates > 0, axis=-1)
    return [
        # A repelling point ends no line but one that starts there;
        # where rates vanish they do not tell, so be strict.
        (k, states[k], _NEAR if attracts[k] else NEAREST if repels[k] else _NEARER)
        for k in range(min(len(states), MOST_SINKS))
    ]


def _followed(
    flow: Flow, starts: np.ndarray, region: np.ndarray, sinks: Sinks
) -> tuple[np.ndarray, np.ndarray]:
    """Ends and lines of `follow`; a method that is singular everywhere, as Newton is on a plane, has none."""
    try:
        # The lines of a whole grid would fill the memory, and are not drawn: only where they end is asked.
        return follow(flow, starts, region, sinks, keep=len(starts) < 100)
    except ValueError:
        return np.full(len(starts), SINGULAR), np.full((1, *starts.shape), np.nan)


def _walks(
    flows: list[Flow], start: np.ndarray, level: str, t_end: float, paths: int, seed: int
) -> tuple[np.ndarray, np.ndarray, str]:
    """Times (times,), paths (m, times, paths, 2), nan where there are none, and who cannot start."""
    count, step, missing = _check.count("paths", paths, least=0, most=1000), flows[0].step, ""
    steps = max(1, round(min(_check.positive("t_end", t_end) / step, 1e18)))
    dt = DT_SHARE * step if level == "sde" else None
    # About a thousand states at most, as many as a picture shows.
    saved = step * np.arange(0, steps + 1, -(-steps // 1000))
    walked = np.full((len(flows), len(saved), count, 2), np.nan)
    for states, flow in zip(walked, flows, strict=True) if count else ():
        try:
            with warnings.catch_warnings(record=True) as doubts:
                warnings.simplefilter("always", StabilityWarning)
                ens = simulate(
                    flow,
                    start=start,
                    t_end=steps * step,
                    dt=dt,
                    paths=count,
                    seed=seed,
                    save=saved,
                    level=level,
                )
        except ValueError as error:
            # SGD can start wherever the objective has a gradient: what it raises is the caller's mistake.
            if flow.method.is_identity:
                raise
            missing += f"; no paths of {flow.method.label}: {error}"
            continue
        if doubts:
            missing += f"; paths of {flow.method.label} grow where the flow does not: give a smaller `step`"
        with np.errstate(all="ignore"):
            gone = (ens.diverged_at <= ens.times[:, None]) | np.isnan(flow.objective.value(ens.states))
        # Once gone, gone: a path must not come back into the picture from outside the domain.
        states[:] = np.where(np.logical_or.accumulate(gone)[..., None], np.nan, ens.states)
    return saved, walked, missing


def _level(lines: list[np.ndarray]) -> np.ndarray:
    """Lines of several methods (steps, lines, 2) in one array, the shorter ones filled with nan."""
    longest = max(map(len, lines))
    return np.stack(
        [np.concatenate([part, np.full((longest - len(part), *part.shape[1:]), np.nan)]) for part in lines]
    )
