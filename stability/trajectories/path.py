"""The question as it is asked, and the answer put together."""

from __future__ import annotations

import math
import numbers
import warnings
from typing import Any

import numpy as np

from .. import _check
from .._law import TIMES, Law, law_of
from .._saving import provenance
from ..ensembles.clock import scheduled
from ..flow import Flow
from ..linear.trust import VALID
from ..methods.method import SGD
from ..methods.response import NotSmooth
from .equations import Place, positions, remembering
from .pace import MAX_STEPS, Pace
from .result import Trajectory
from .walk import kept, solved, stepped
from .watch import Watch, outside

MAX_DIM = 100
"""A state holds a covariance (d, d), and each of its rates needs d third derivatives."""


@_check.by_name
def trajectory(
    flow: Flow,
    start: Any,
    t_end: float,
    *,
    covariance: Any = None,
    save: Any = None,
    time: str | Law = "continuous",
    dt: float | None = None,
    state: bool = False,
) -> Trajectory:
    """Follow the mean path from any start, and the covariance of the noise around it.

    Parameters
    ----------
    flow : Flow
        Of at most 100 dimensions.
    start : array (d,)
    t_end : float
        In units of ``t = iteration * step``; a multiple of the time step where time is discrete. Where the
        flow's step is a schedule, t is the sum of the steps, and `t_end` that of the first ones.
    covariance : array (d, d), optional
        Of the start; zero by default.
    save : int or array of float, optional
        How many equal intervals to save, or the times to save; 100 intervals by default (fewer where there
        are fewer steps).
    time : {"continuous", "chain", "discrete"} or Law
        The SDE, by an ODE solver (relative accuracy about 1e-9); its Euler-Maruyama chain with time step
        `dt`, by the exact recursion ``m+ = m + dt f``, ``S+ = (1 + dt J) S (1 + dt J)^T + dt C``; or the same
        with `dt` = `step`, the iteration. ``time=ens.law`` is the law of an ensemble's paths. With a schedule
        each iteration's step is the chain's time step too, and the SDE's noise has the step of its iteration.
    dt : float, optional
        For ``time="chain"``; `step` by default.
    state : bool
        Keep whole states, with what is remembered beside the positions: momentum's buffer, a metric's running
        means (`Flow.remembered`); positions alone by default.

    Returns
    -------
    Trajectory
        A path that diverges (a million times the start's size, or of 1), meets a pole of the gain or leaves
        the objective's domain ends there: its `status` says so.

    Raises
    ------
    ValueError
        If an argument is out of range, the drift has no value or no Jacobian at `start`, or a noise class
        that draws its own samples does not give their `factors`.

    Notes
    -----
    With momentum, and with a metric that follows the noise, the path is of the whole state. It starts at
    rest: an empty buffer, means where they would settle at `start`. A metric's SDE is known for Gaussian
    noise, whose variances may depend on the place: the metric follows them.

    Curvature noise also feeds the tube through its width: ``sum_k G_k S G_k^T`` with ``G_k`` the noise's
    change with the deviation, the preconditioner held as on the mean path. With it the moments are exact on
    a quadratic with any noise; elsewhere it is one term of the next order.

    Where a truncation changes its directions, or the objective has a corner, the drift may jump. In
    continuous time the covariance is then carried across by the saltation matrix
    ``1 + (f_after - f_before) n^T / (n . f_before)``, ``n`` normal to the place of the jump (Leine and
    Nijmeijer, Dynamics and Bifurcations of Non-Smooth Mechanical Systems, section 7).

    Examples
    --------
    On a quadratic it is the linear theory: the variance is ``step (1 - exp(-2 t)) / 2``.

    >>> import stability as st
    >>> flow = st.Flow(st.quadratic([1.0]), st.SGD(), st.Noise(gradient=1.0), step=0.1)
    >>> path = st.trajectory(flow, [2.0], 1.0)
    >>> print(round(float(path.covariance[-1, 0, 0]), 9), path.status)
    0.043233236 ok
    """
    if not isinstance(flow, Flow):
        raise ValueError(f"`flow` must be a st.Flow(objective, method, noise, step=...); got {flow!r}.")
    end, schedule = _check.positive("t_end", t_end), None
    if flow.schedule is None:
        law = law_of(time, dt, flow.step)
    else:
        schedule, law = scheduled(flow, end, 0), _scheduled_law(time, dt)
        end = float(schedule.times[-1])
    _require_equation(flow, law)
    pace = Pace(remembering(flow), schedule, law.dt)
    times, flow = _times(end, pace, save, flow.dim), pace.first
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # LSODA's own words: the status has ours
        begin = _begin(flow, start, covariance)
        watch = Watch(flow, begin, continuous=not law.dt)
        walk = (stepped if law.dt else solved)(pace, begin, times, watch)
        places = kept(walk, times, watch)
        return _result(pace, places, watch, law, end, state=_check.flag("state", state))


def _scheduled_law(time: Any, dt: float | None) -> Law:
    """The law that `time` names, of a flow whose steps are a schedule: the chain's are the iteration's."""
    _check.choice("time", time, TIMES)
    if dt is not None:
        raise ValueError("With a schedule the time steps are its own: leave `dt` out.")
    return Law(time, 0.0 if time == "continuous" else math.nan)


def _times(t_end: float, pace: Pace, save: Any, dim: int) -> np.ndarray:
    """The times to save (k,), increasing; those of steps where time has some."""
    steps = pace.numbers(t_end) if pace.dt else MAX_STEPS
    if save is None or (isinstance(save, numbers.Integral) and not isinstance(save, bool)):
        intervals = min(100, steps) if save is None else _check.count("save", save, most=steps)
        what = f"The covariances at {intervals + 1} times in {dim} dimensions need"
        _check.room(what, 4.0 * (intervals + 1) * min(dim, MAX_DIM) ** 2, advice="Save fewer times.")
        if not pace.dt:
            return np.linspace(0, t_end, intervals + 1)
        # Steps that do not divide evenly are rounded, and two may fall on one.
        return pace.after(np.unique(np.round(np.linspace(0, steps, intervals + 1)).astype(int)))
    return pace.saved(t_end, save)


def _require_equation(flow: Flow, law: Law) -> None:
    """Raise where a metric's equation is not known, or is not that of the paths that are asked for."""
    if flow.metric is None:
        return
    flow.gradient_law  # noqa: B018 - raises where its SDE is not known
    if law.time == "discrete" and flow.metric.means:
        raise ValueError(
            f"time='discrete' is not known of {flow.method.label}: an iteration starts with means of zero, "
            "and its first steps are as long whatever the gradient. Use time='continuous' or time='chain', "
            "whose means start where they settle."
        )


def _begin(flow: Flow, start: Any, covariance: Any) -> Place:
    """The start, checked: everything that is asked for along the path must exist there."""
    dim, noise, objective = flow.dim, flow.noise_model, flow.objective
    if dim > MAX_DIM:
        raise ValueError(
            f"`trajectory` takes at most {MAX_DIM} dimensions (a covariance and d third derivatives at every "
            f"step); got {dim}. Use st.simulate."
        )
    if flow.metric is not None and flow.state_dim > MAX_DIM:
        raise ValueError(
            f"`trajectory` takes at most {MAX_DIM} numbers of a whole state, with "
            f"{', '.join(flow.remembered)}; got {flow.state_dim} in {dim} dimensions. Use st.simulate."
        )
    if not noise.has_factors:
        raise ValueError(
            f"{type(noise).__name__} draws its own samples: give the class `factors(w)`, samples s_k with "
            "E[s (x) s] = sum_k s_k (x) s_k."
        )
    start, spread = _check.shaped("start", start, (dim,)), np.zeros((dim, dim))
    if covariance is not None:
        spread = _check.covariance("covariance", covariance, (dim, dim))
    if outside(flow, start).any():
        raise ValueError(
            f"`start` must lie in the domain of the objective, which has no value at {start}. Start "
            "elsewhere."
        )
    _check.shaped("gradient", objective.gradient(start), (dim,), at=start)
    _check.symmetric("hessian", _check.shaped("hessian", objective.hessian(start), (dim, dim), at=start))
    _require_smooth(flow, start)
    rest = flow.rest_slope(start)
    # What is remembered starts settled, and so scatters as the positions do.
    return 0.0, flow.rest(start, level="sde"), rest @ spread @ rest.T


def _require_smooth(flow: Flow, start: np.ndarray) -> None:
    """Raise where the drift has no Jacobian or the noise no linear law (`Flow.drift` does at a pole)."""
    cut = "the objective or the gain is not smooth there"
    if flow.method.rank is not None:
        cut = "a truncation cuts through eigenvalues of equal size"
    flow = flow.without_memory()
    if not (np.isfinite(flow.drift(start)).all() and np.isfinite(flow.jacobian(start)).all()):
        raise NotSmooth(
            f"The drift of {flow.method.label} has no derivative at `start`: {cut}. Start elsewhere."
        )
    if not np.isfinite(flow.diffusion(start)).all():
        raise NotSmooth(
            f"The linear noise of {flow.method.label} has no variance at `start`: {cut}. Start elsewhere, or "
            "use hessian_batch=inf."
        )


def _result(
    pace: Pace, places: list[Place], watch: Watch, law: Law, t_end: float, *, state: bool
) -> Trajectory:
    flow, (times, mean, covariance) = pace.first, (np.stack(part) for part in zip(*places, strict=True))
    paced = [pace.before(t) for t in times]
    jacobian = np.stack([one.jacobian(m) for one, m in zip(paced, mean, strict=True)])
    # In time both noises grow with the step, and what is left of their ratio knows of none.
    inner, x = flow.without_memory(), positions(flow, mean)
    validity = _remembered(np.array(watch.seen), times)
    sgd = Flow(flow.objective, SGD(), flow.noise_model, step=flow.step)
    noise = np.array([[np.trace(some.diffusion(m)) for some in (inner, sgd)] for m in x])
    growth = np.linalg.eigvals(jacobian).real.max(axis=-1) if flow.remembered else _growth(jacobian)
    _, start, spread = watch.begin
    kept = slice(None) if state else slice(flow.dim)
    return Trajectory(
        times=times,
        mean=mean[:, kept],
        covariance=covariance[:, kept, kept],
        jacobian=jacobian if state or not flow.remembered else np.stack([inner.jacobian(m) for m in x]),
        amplification=noise[:, 0] / np.where(noise[:, 1] > 0, noise[:, 1], np.nan),
        growth=growth,
        validity=validity,
        start=start[kept],
        start_covariance=spread[kept, kept],
        time=law.time,
        dt=law.dt,
        step=pace.step,
        method=flow.method.label,
        status=_status(times, validity, watch),
        notes=tuple(watch.notes),
        provenance=provenance(flow=repr(pace.flow), variables=flow.variables, **law._asdict(), t_end=t_end),
        followed=not (watch.stopped or watch.doubt),
    )


def _growth(jacobian: np.ndarray) -> np.ndarray:
    """The fastest that any deviation grows (k,) under Jacobians (k, d, d)."""
    return np.linalg.eigvalsh(0.5 * (jacobian + np.swapaxes(jacobian, -1, -2)))[:, -1]


def _remembered(seen: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Validity at the times to save (k,): the largest since the time before.

    Of each of the n steps, `seen` has time, validity at that moment, and rate (n, 3).
    """
    at, values, rates = seen.T
    mean = values.copy()  # over the past, which is forgotten at the path's own rate
    for i in range(1, len(at)):
        forgotten = -math.expm1(-rates[i] * (at[i] - at[i - 1]))
        mean[i] = mean[i - 1] + forgotten * (values[i] - mean[i - 1])
    # One place more than there are times: steps after the last one fall into it, and are cut off.
    found = np.append(np.interp(times, at, mean), 0.0)
    # The little that is added: a step that ends at a saved time, but for rounding, belongs to it.
    np.maximum.at(found, np.searchsorted(times * (1 + 1e-12), at), mean)
    return found[:-1]


def _status(times: np.ndarray, validity: np.ndarray, watch: Watch) -> str:
    beyond = np.flatnonzero(~(validity < VALID))
    if watch.stopped or not (watch.doubt or len(beyond)):
        return watch.stopped or "ok"
    said = [watch.doubt] if watch.doubt else []
    if len(beyond):
        said += [
            f"outside validity from t = {times[beyond[0]]:.4g} (up to {np.max(validity):.2g}): the drift is "
            "not linear across the tube"
        ]
    return "; ".join(said) + ". Compare with an ensemble."
