"""Stationary densities of a flow's SDE: by quadrature on a line, by jumps between cells in a plane.

They solve the Fokker-Planck equation ``0 = -div(f p) + (1/2) sum_ij d_i d_j (D_ij p)`` (Ito), with the flow's
drift f and the covariance D that its noise gains per unit of t.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import _check
from .._check import Unstable
from .._law import Law, law_of
from .._saving import provenance
from ..flow import Flow
from ..methods.response import gains_at
from ..objectives.base import defines
from .kernel import chain_law
from .panels import Fields, NoDensity, Panels, adapt, confined, tail
from .plane import solve
from .result import StationaryDensity

LOST = 1e-6
"""A grid that misses more of the mass than this is said to."""
_CELLS = {1: 400, 2: 100}
_MOST_CELLS = {1: 10_000, 2: 500}
_JUMPS = (
    ", and so are drift and noise: no current crosses there in this density, but paths with a finite dt jump"
)
_HEAVY = 30.0  # a density that falls slower than this power has a tail worth a word


@_check.by_name
@_check.renamed(grid="region")
def stationary_density(
    flow: Flow,
    region: Any,
    *,
    time: str | Law = "continuous",
    dt: float | None = None,
    cells: int | None = None,
) -> StationaryDensity:
    """The stationary density of a flow's SDE, in one or two dimensions.

    On a line ``p ~ exp(int 2 f / D) / D``, by adaptive quadrature; the chain's law is the stationary solution
    for its Gaussian transition kernel. In a plane jumps between near cells that keep densities positive:
    Scharfetter and Gummel's (1969) rates along the directions of Selling's decomposition of the noise;
    nothing flows through the grid's ends. Second order in the width of the cells.

    Parameters
    ----------
    flow : Flow
        Of dimension 1 or 2.
    region : float, (low, high) or array (n + 1,), or a pair of these
        Bounds (a number R is ``(-R, R)``), or the edges of the grid's cells, for all axes; a list such as
        ``[(-2, 2), (-1, 1)]`` has one for each.
    time : {"continuous", "chain"} or Law
        The SDE, or its Euler-Maruyama chain with time step `dt` (one dimension); ``time=ens.law`` is the law
        of an ensemble's paths.
    dt : float, optional
        For ``time="chain"``, in units of t; `step` by default.
    cells : int, optional
        Per axis, where the edges are not given: 400 on a line, 100 in a plane.

    Raises
    ------
    ValueError
        If an argument is out of range, the flow has no noise, or is not finite on the grid; with momentum, or
        a metric with running means, whose density is one of more dimensions.
    Unstable
        If the mass collapses onto a point, as where the noise vanishes: there is no density.

    Notes
    -----
    A density that no stationary law stands behind (the flow does not confine) is still returned, for
    reflecting ends: read `status`. A chain's work is bounded to seconds: where its kernel would need more
    nodes, `status` says what the last refinement changed.

    Examples
    --------
    >>> import stability as st
    >>> flow = st.Flow(st.quadratic([2.0]), st.SGD(), st.Noise(gradient=1.0), step=0.1)
    >>> found = st.stationary_density(flow, 2)
    >>> bool(abs(found.covariance[0, 0] - 0.1 / 4) < 1e-12)  # alpha sigma^2 / (2 lambda)
    True
    """
    if not isinstance(flow, Flow):
        raise ValueError(f"`flow` must be an st.Flow; got {flow!r:.60}.")
    _require_positions(flow)
    law = law_of(time, dt, flow.step, ("continuous", "chain"))
    if flow.dim not in (1, 2):
        raise ValueError(
            f"A stationary density needs a flow of dimension 1 or 2; got {flow.dim}. Use "
            "st.linearize(flow).covariance() or st.simulate."
        )
    edges = _edges(region, flow.dim, cells)
    if flow.dim == 2:
        if law.dt:
            raise ValueError(
                "time='chain' is for one dimension: use time='continuous', and an ensemble with a small dt."
            )
        return _in_a_plane(flow, edges)
    try:
        return _of_a_chain(flow, edges[0], law.dt) if law.dt else _on_a_line(flow, edges[0])
    except NoDensity as error:
        raise ValueError(
            f"There is no stationary density on this grid: {error}. Choose a narrower grid, inside the "
            "domain, and a flow with noise."
        ) from None


def langevin(flow: Flow) -> Flow | None:
    """The flow without momentum whose stationary density the positions have, exactly; None if none is known.

    A gradient's heavy ball in noise of one strength is Langevin's equation with its momentum: Kramers's
    density is ``exp(-2 (1 - beta) F / (step sigma^2))`` of positions, times a Gaussian of the buffer.
    """
    noise, memory = flow.noise_model, flow.memory
    if memory is None or memory.nesterov or not flow.plain or not flow.method.is_identity:
        return None
    if noise.has_curvature or not noise.linear:
        return None
    covariance = noise.gradient_covariance(np.zeros(flow.dim))
    if np.any(covariance - covariance[0, 0] * np.eye(flow.dim)):
        return None
    return flow.without_memory().at_step(memory.effective(flow.step))


def _require_positions(flow: Flow) -> None:
    """Raise where positions do not move by themselves: their density is one of more dimensions."""
    if flow.metric is not None:
        flow.gradient_law  # noqa: B018 - raises where its SDE is not known
    if not flow.remembered:
        return
    same, advice = langevin(flow), "Use a histogram of st.simulate(flow, ...).states"
    if same is not None:
        advice = (
            f"Use flow.without_memory().at_step({same.step:g}): its density is the positions' own, while its "
            "times are not"
        )
    raise ValueError(
        f"`method` must have no memory: positions and {', '.join(flow.remembered)} have one density "
        f"together, which st.stationary_density does not solve for; got {flow.method!r}. {advice}."
    )


# -- one dimension ---------------------------------------------------------------------------------


def _fields(flow: Flow) -> Fields:
    def fields(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        drift, diffusion = _evaluated(flow, x[:, None])
        with np.errstate(all="ignore"):
            return 2 * drift[:, 0] / diffusion[:, 0, 0], 1 / diffusion[:, 0, 0]

    return fields


def _evaluated(flow: Flow, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Drift (m, d) and diffusion (m, d, d), in blocks that bound the memory."""
    blocks = np.array_split(w, max(1, len(w) // 8192))
    with np.errstate(all="ignore"):
        drift, diffusion = (
            np.concatenate([of(block) for block in blocks]) for of in (flow.drift, flow.diffusion)
        )
    # Formulas may have gradients outside the domain, where their values are nan.
    undefined = np.isnan(_values(flow, w)) if len(w) else np.zeros(0, dtype=bool)
    return np.where(undefined[:, None], np.nan, drift), diffusion


def _on_a_line(flow: Flow, edges: np.ndarray) -> StationaryDensity:
    fields = _fields(flow)
    panels = confined(fields, edges)
    _refuse_collapse(panels)
    center = panels.mean(panels.nodes)
    tails = [tail(fields, panels, side) for side in (-1, 1)]
    # A density like |x|^-decay has its moments of orders below decay - 1.
    index = min([decay for _, decay in tails if not math.isnan(decay)], default=math.inf) - 1
    index = index if index < _HEAVY else math.inf
    mass = panels.shares(edges)
    return StationaryDensity(
        **_background(flow, [edges]),
        **_kept(panels),
        density=panels.density(0.5 * (edges[1:] + edges[:-1])),
        mass=mass,
        current=np.zeros((len(mass), 1)),
        mean=np.array([center]),
        covariance=np.array([[panels.mean((panels.nodes - center) ** 2)]]),
        time="continuous",
        dt=0.0,
        error=panels.error,
        lost=sum(part for part, _ in tails),
        tail_index=index,
        status=_line_status(flow, edges, tails, mass[[0, -1]], index),
    )


def _of_a_chain(flow: Flow, edges: np.ndarray, dt: float) -> StationaryDensity:
    if not flow.noise_model.linear:
        raise ValueError(
            "time='chain' needs a noise made of standard normals: st.Noise, not a class with its own "
            "`sample`."
        )
    fields = _fields(flow)
    law = chain_law(fields, edges, dt)
    nodes, mass = law.kernel.nodes, law.share @ law.kernel.into(edges)
    center = float(law.share @ nodes)
    status = []
    if law.loss > LOST:
        status.append(
            f"a step leaves the grid with probability {law.loss:.2g}: the law is that of a chain brought "
            "back. Take a larger grid"
        )
    if math.isinf(law.error):
        status.append(
            "no second resolution fits: the accuracy is not known. Take a narrower grid, or a larger `dt`"
        )
    elif law.error > 1e-6:
        status.append(f"the last refinement still changed {law.error:.2g} of the mass")
    return StationaryDensity(
        **_background(flow, [edges]),
        # A chain's passage times need drift and noise, not the exponent: it may swing as it will.
        **_kept(adapt(fields, edges[[0, -1]], swing=math.inf)),
        density=law.share @ law.kernel.to(0.5 * (edges[1:] + edges[:-1])) / mass.sum(),
        mass=mass / mass.sum(),
        current=np.zeros((len(mass), 1)),
        mean=np.array([center]),
        covariance=np.array([[law.share @ (nodes - center) ** 2]]),
        time="chain",
        dt=dt,
        error=law.error,
        lost=law.loss,
        tail_index=math.nan,
        status="; ".join(status) or "ok",
    )


def _refuse_collapse(panels: Panels) -> None:
    """Raise where the density is not integrable at a pole of 2 f / D: all mass falls on it."""
    width = panels.edges[-1] - panels.edges[0]
    finest = np.diff(panels.edges) < 1e-12 * width
    share = np.exp(panels.log_masses - panels.log_total)
    for pole in panels.poles:
        # Where an integral exists, panels as narrow as bisection makes them at the pole hold nothing.
        near = finest & (np.abs(panels.edges[:-1] - pole) < 1e-9 * width)
        if share[near].sum() > 1e-3:
            raise Unstable(
                f"There is no stationary density: the noise vanishes at w = {pole:.6g}, and all of the mass "
                "collapses onto that point."
            )


def _line_status(
    flow: Flow, edges: np.ndarray, tails: list[tuple[float, float]], outermost: np.ndarray, index: float
) -> str:
    told = []
    for (mass, decay), end, inside in zip(tails, edges[[0, -1]], outermost, strict=True):
        if mass >= 1 or decay <= 1:
            told.append(
                f"no stationary law on the whole line: nothing holds the mass back beyond {end:g}. This "
                "density is for reflecting ends"
            )
        elif mass > LOST:
            told.append(f"{mass:.2g} of the mass lies beyond {end:g}: take a larger grid")
        elif math.isnan(decay) and inside > LOST:
            told.append(
                f"the domain ends at {end:g}, and paths reach it: this density is for a reflecting end"
            )
    if 0 < index < math.inf:
        told.append(f"heavy tails: moments of order {index:.4g} and more are infinite")
    poles = _gain_poles(flow, edges)
    if len(poles):
        at = ", ".join(f"{x:.4g}" for x in poles[:4])
        told.append(f"the gain is infinite near w = {at}{_JUMPS}")
    return "; ".join(told) or "ok"


def _gain_poles(flow: Flow, edges: np.ndarray) -> np.ndarray:
    """Where on a line the gain is infinite: edges of cells, or centers of those that it jumps across."""
    curvature = _spectra(flow, edges[:, None])[:, 0]
    gain, jump = _through_infinity(flow, curvature)
    at_edges = edges[~np.isfinite(gain) & np.isfinite(curvature)]
    between = 0.5 * (edges[1:] + edges[:-1])[jump]
    return np.sort(np.concatenate([at_edges, between]))


def _spectra(flow: Flow, w: np.ndarray) -> np.ndarray:
    """The Hessian's eigenvalues (m, d), ascending; nan where it is not finite."""
    with np.errstate(all="ignore"):
        hessian = np.broadcast_to(np.asarray(flow.objective.hessian(w), dtype=float), (*w.shape, w.shape[-1]))
    finite = np.isfinite(hessian).all(axis=(-2, -1), keepdims=True)
    return np.where(finite[..., 0], np.linalg.eigvalsh(np.where(finite, hessian, 0.0)), np.nan)


def _through_infinity(flow: Flow, curvature: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The gains (m,) at these curvatures, and whether there is a pole between neighbours (m - 1,)."""
    if flow.metric is not None:  # bounded by the noise
        return np.zeros(len(curvature)), np.zeros(len(curvature) - 1, dtype=bool)
    middle = 0.5 * (curvature[1:] + curvature[:-1])
    with np.errstate(all="ignore"):
        gain, between = (gains_at(flow.method, lam) for lam in (curvature, middle))
    size = np.abs(gain)
    finite = np.isfinite(gain[1:]) & np.isfinite(gain[:-1])
    turns = np.sign(gain[1:]) != np.sign(gain[:-1])
    # Through zero the gain would be smaller in the middle than at both ends.
    return gain, finite & turns & (np.abs(between) > np.minimum(size[1:], size[:-1]))


# -- two dimensions --------------------------------------------------------------------------------


def _in_a_plane(flow: Flow, edges: list[np.ndarray]) -> StationaryDensity:
    plane = solve(lambda w: _evaluated(flow, w), edges)
    area = np.multiply.outer(*(np.diff(axis) for axis in edges))
    points = _points(edges)
    mean = np.einsum("ij,ijk->k", plane.mass, points)
    told = [] if plane.status == "ok" else [plane.status]
    # The gain is one function of all eigenvalues: its poles are sought on their range, not in the plane.
    curvature = _spectra(flow, points.reshape(-1, 2))
    between = np.linspace(np.nanmin(curvature), np.nanmax(curvature), 4098)
    jump = _through_infinity(flow, between)[1]
    if jump.any():
        told.append(f"the gain is infinite where an eigenvalue is near {between[:-1][jump][0]:.2g}{_JUMPS}")
    return StationaryDensity(
        **_background(flow, edges),
        density=plane.mass / area,
        mass=plane.mass,
        current=plane.current,
        mean=mean,
        covariance=np.einsum("ij,ijk,ijl->kl", plane.mass, points - mean, points - mean),
        time="continuous",
        dt=0.0,
        error=plane.error,
        lost=plane.rim,
        tail_index=math.nan,
        status="; ".join(told) or "ok",
    )


# -- shared ----------------------------------------------------------------------------------------


def _background(flow: Flow, edges: list[np.ndarray]) -> dict[str, Any]:
    """What a result holds beside the density."""
    points = _points(edges)
    drift, diffusion = _evaluated(flow, points.reshape(-1, flow.dim))
    return {
        "edges": {f"w{i + 1}": axis for i, axis in enumerate(edges)},
        "drift": drift.reshape(points.shape),
        "diffusion": diffusion.reshape(*points.shape, flow.dim),
        "potential": _values(flow, points),
        "flow": repr(flow),
        "provenance": provenance(
            flow=repr(flow),
            variables=flow.variables,
            grid=[[axis[0], axis[-1], len(axis) - 1] for axis in edges],
        ),
    }


def _kept(panels: Panels) -> dict[str, Any]:
    return {"quadrature": {name: getattr(panels, name) for name in ("edges", "h", "q", "breaks", "poles")}}


def _points(edges: list[np.ndarray]) -> np.ndarray:
    """The cells' centers (..., d)."""
    return np.stack(np.meshgrid(*(0.5 * (axis[1:] + axis[:-1]) for axis in edges), indexing="ij"), axis=-1)


def _values(flow: Flow, points: np.ndarray) -> np.ndarray:
    if not defines(flow.objective, "value"):  # a flow needs derivatives only
        return np.full(points.shape[:-1], np.inf)  # no values is not the same as undefined ones
    with np.errstate(all="ignore"):
        return np.asarray(flow.objective.value(points), dtype=float)


def _edges(region: Any, dim: int, cells: int | None) -> list[np.ndarray]:
    """The cells' edges along each axis."""
    count = _CELLS[dim] if cells is None else _check.count("cells", cells, least=4, most=_MOST_CELLS[dim])
    each = isinstance(region, (list, tuple)) and any(np.ndim(part) for part in region)
    parts = list(region) if each else [region] * dim
    if len(parts) != dim:
        raise ValueError(f"`region` must have one entry for each of the {dim} axes; got {len(parts)}.")
    return [_axis(part, count, dim) for part in parts]


def _axis(part: Any, count: int, dim: int) -> np.ndarray:
    edges = _check.array("region", part, ndim=(0, 1), shape="(), (2,) or (edges,)")
    if edges.ndim == 0:
        edges = np.array([-_check.positive("region", float(edges)), float(edges)])
    if len(edges) == 2:
        edges = np.linspace(edges[0], edges[1], count + 1)
    if not 5 <= len(edges) <= _MOST_CELLS[dim] + 1:
        raise ValueError(
            f"`region` must be R, (low, high), or between 5 and {_MOST_CELLS[dim] + 1} edges; "
            f"got {len(edges)}."
        )
    if not (np.diff(edges) > 0).all():
        raise ValueError("`region` must increase: low < high, or strictly increasing edges.")
    # Jumps to cells two or more away displace by whole widths.
    if dim == 2 and np.ptp(np.diff(edges)) > 1e-6 * np.diff(edges).mean():
        raise ValueError("`region` must have equal cells in two dimensions. Give (low, high) and `cells`.")
    return edges
