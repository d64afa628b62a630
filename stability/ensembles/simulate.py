"""Ensembles of paths: Euler-Maruyama on the SDE, or the stochastic iteration itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Unpack

import numpy as np

from .. import _check
from .._check import Interrupted, Unstable
from .._saving import provenance
from .._streams import block_size
from ..flow import Flow
from ..linear.linearize import linearize
from ..objectives.base import defines
from ..objectives.gate import probe
from .control import polynomial_degree
from .gather import Gathered, gather
from .plan import Control, EnsemblePlan
from .request import (
    Options,
    Request,
    arrays_of,
    averaging,
    compiled,
    host_noise,
    known,
    levels,
    region,
    threads,
    wanted_error,
    watched,
)
from .result import UNSTABLE_SHARE, Ensemble


@_check.by_name
@_check.renamed(noise="rng")
def simulate(
    flow: Flow,
    *,
    start: Any,
    t_end: float,
    paths: int | None = None,
    seed: int = 0,
    dt: float | None = None,
    level: str = "sde",
    scheme: str = "euler",
    at: Any = None,
    save: Any = None,
    radius: float | None = None,
    exit: float | Callable[[Any], Any] | None = None,
    control: bool = False,
    target_error: float | None = None,
    **options: Unpack[Options],
) -> Ensemble:
    """Simulate an ensemble of paths.

    Examples
    --------
    >>> import stability as st
    >>> flow = st.Flow(st.quadratic([1.0]), st.SGD(), st.Noise(gradient=1.0), step=0.1)
    >>> ens = st.simulate(flow, start=[0.0], t_end=10.0, paths=1000)
    >>> bool(abs(ens.covariance[0, 0, 0] - 0.1 / 1.9) < 4 * ens.covariance_error[0, 0, 0])
    True

    Parameters
    ----------
    flow : Flow
    start : array, shape (d,) or (paths, d)
    t_end : float
        In units of ``t = iteration * step``; a multiple of `dt`. Where the flow's step is a schedule, t is
        the sum of the steps, and this one of its values.
    paths : int, optional
        How many: as many as there are starts, or 1000; with `target_error` the most that may be taken (10
        million by default).
    seed : int
        0 by default. Same seed, same numbers, whatever the number of workers; the first paths of a larger
        ensemble are the smaller one. Bit for bit on one type of processor with one set of versions, elsewhere
        in law.
    dt : float, optional
        Time step of the SDE; `step` by default. Not for ``level="iteration"``, whose step is `step`, nor with
        a schedule, whose time steps are its steps, halved by `refine`.
    level : {"sde", "iteration"}
        The Ito equation, linear in the noise, or the true stochastic iteration.
    scheme : {"euler", "exponential"}
        Of the SDE: Euler-Maruyama, or exponential Euler, whose linear part at the critical point `at` is
        exact for any `dt`. With a constant Hessian and additive noise it has the SDE's own law; else its weak
        order is one.
    at : array (d,), optional
        The critical point that `scheme="exponential"` and `control` linearise at; the flow's reference by
        default.
    save : int or array of float, optional
        How many equal intervals to save the states at, or the times to save (multiples of the time step); the
        final time by default.
    radius : float, optional
        A path farther than this from the ensemble's starting mean has diverged; by default a million times
        the largest length of the problem: of the starts, of the way from there to the reference point, of
        what drift and noise move in a relaxation time, or of the distance over which the Hessian changes.
    exit : float or callable, optional
        A region whose first exit is timed: a ball of this radius around the flow's reference point (or the
        starting mean), or ``inside(w)``, (m, d) -> (m,) bool, on the arrays of `device`. Paths go on after
        leaving; the time is 0 for those that start outside.
    control : bool
        Run the flow linearised at `at` beside, on the same noise, and use its exactly known moments to make
        those of the flow sharper (a control variate). For the SDE and one common start.
    target_error : float, optional
        Take as many paths as bring every variance at the last time to this relative standard error.

    Other Parameters
    ----------------
    keep : {"states", "moments"}
        Keep all saved states, or only what follows from them (`ens.states` then holds no path).
    quantiles : array, optional
        Levels in [0, 1] whose quantiles to return at every saved time, for each axis: wrong by at most 0.1 %
        of their distance from the first block's mean.
    average : float, optional
        In [0, 1): keep the exponential moving average of the positions in their place, ``a+ = average a + (1
        - average) w+`` per iteration, from the start on (``average**(dt / step)`` in a time step of the SDE).
        Divergence and exits are the positions' own.
    state : bool
        Keep what steps remember too, momentum's buffers and a metric's means: states are then (times, paths,
        2 d) or more, the positions first, and so are their moments. Buffers start at zero; means too, as
        PyTorch's do, and Adam's are corrected for it, but at ``level="sde"`` where they would settle.
    observables : dict of callables, optional
        By name, functions of NumPy positions ``(m, d) -> (m,)`` (of averages with `average`) whose means to
        return at every saved time.
    refine : int
        Halve `dt` this many times on the same Brownian paths (Levy's bridge).
    workers : int, optional
        Threads; by default one per core where a step is long enough to share, else one.
    accelerate : bool, optional
        Use Numba (extra ``fast``); by default where it is installed.
    dtype : {"float64", "float32"}
        Of the states. Rounding of float32 is about 1e-7 of the state a step; moments are summed in float64.
    device : {"cpu", "cuda"} or Backend
        Where to compute: NumPy, CuPy, or any namespace of the array API standard whose arrays can be written
        to.
    rng : {"host", "device"}, optional
        Where random numbers are drawn. On a device: its own (the default where it has a generator; then other
        numbers of paths are other paths), or those of the host, bit for bit.
    progress : bool
        Show a progress bar.
    check : bool
        Compare the gradient of an objective of one's own with its value, where it has one, at the first
        start; True by default.

    Returns
    -------
    Ensemble

    Raises
    ------
    ValueError
        If an argument is out of range, the method is singular at the start, or the states would not fit in
        memory.
    TypeError
        If there is no such argument.
    Interrupted
        On Ctrl-C; its `ensemble` holds the paths that were finished.

    Warns
    -----
    StabilityWarning
        If `dt` is beyond the Euler scheme's stability limit, `target_error` was not met with `paths`, or the
        gradient is not the derivative of the value.
    """
    rest = known(options)
    flags = {"control": control} | {name: rest[name] for name in ("progress", "check", "state")}
    for name, value in flags.items():
        _check.flag(name, value)
    backend, goal = arrays_of(rest["device"], rest["dtype"]), wanted_error(target_error)
    request = Request(
        flow,
        start,
        t_end,
        seed=seed,
        paths=paths,
        wished=goal is not None,
        dt=dt,
        level=level,
        scheme=scheme,
        at=at,
        refine=rest["refine"],
        keep=rest["keep"],
    )
    request.fits(rest["dtype"])
    if rest["check"] and defines(flow.objective, "value"):
        probe(flow.objective, request.start[0])
    average = averaging(rest["average"], flow, state=rest["state"])
    observables = watched(rest["observables"], request.start[0])
    plan = EnsemblePlan(
        flow=flow,
        start=request.start,
        steps=request.steps,
        dt=request.dt,
        saved=request.saved(
            save,
            rest["dtype"],
            control=control,
            width=flow.state_dim if rest["state"] else flow.dim,
            observed=len(observables),
        ),
        seed=request.seed,
        level=level,
        center=request.center,
        radius=request.radius(radius),
        modes=request.modes,
        inside=region(exit, flow, request.center, backend),
        refine=request.refine,
        dtype=rest["dtype"],
        compiled=compiled(rest["accelerate"]),
        keep_states=request.keep == "states",
        observables=observables,
        quantiles=levels(rest["quantiles"]),
        average=average,
        schedule=request.schedule,
        whole=rest["state"],
    )
    if control:
        part = {"average": average, "state": rest["state"] and flow.memory is not None}
        plan = replace(plan, control=_tangent(request, plan.times(), part))
    gathered = gather(
        plan,
        backend,
        threads(plan, rest["workers"]),
        goal,
        host_noise=host_noise(rest["rng"], plan, backend),
        progress=rest["progress"],
    )
    ensemble = _ensemble(gathered, scheme)
    if gathered.interrupted:
        raise Interrupted(
            f"Interrupted: the {len(ensemble.diverged)} paths that were finished are in this exception's "
            "`.ensemble`.",
            ensemble,
        )
    if goal is not None and not gathered.met:
        why = (
            f"{gathered.error:.3g} was reached. Give more `paths`."
            if np.isfinite(gathered.error)
            else "there is no finite variance. Print the ensemble."
        )
        _check.warn(f"`target_error` {goal:g} was not met with {gathered.count} paths: {why}")
    return ensemble


def _tangent(request: Request, times: np.ndarray, part: dict[str, Any]) -> Control:
    """The flow linearised at a critical point, with the exact moments of its paths at the given times."""
    flow = request.flow
    if request.level != "sde":
        raise ValueError("`control` is for level='sde'.")
    if not flow.plain:
        what = "a schedule" if flow.schedule is not None else repr(flow.method)
        raise ValueError(
            "`control` needs a linearised flow whose law is known: of steps of one length, whose "
            f"preconditioner follows the curvature alone; got {what}. Use control=False."
        )
    if not request.common:
        raise ValueError(f"`control` needs one start for all paths, shape ({flow.dim},).")
    if not flow.noise_model.linear:
        raise ValueError(
            "`control` needs a noise made of standard normals: st.Noise, not a class with its own `sample`."
        )
    if request.modes is not None and flow.noise_model.has_curvature:
        raise ValueError(
            "`control` with scheme='exponential' needs additive noise: the linear flow's law is not known "
            "else. Use scheme='euler'."
        )
    if part["average"] is not None and request.modes is not None:
        raise ValueError(
            "`control` knows the law of an `average` with scheme='euler' only. Leave one of the three out."
        )
    polynomial_degree(
        flow.dim * (2 if part["state"] else 1), gaussian=False
    )  # refuses what would be too many dimensions
    linear = linearize(flow, at=request.at)
    # The moments of an unstable flow may overflow: blocks then leave the control out.
    with np.errstate(all="ignore"):
        moments = [linear.moments(t, request.start[0], time=request.law, **part) for t in times]
    mean, covariance = (np.stack(part) for part in zip(*moments, strict=True))
    # With curvature noise the tangent flow is no Gaussian: only its first two moments are known.
    return Control(flow.tangent(linear.at), mean, covariance, gaussian=not flow.noise_model.has_curvature)


def _ensemble(gathered: Gathered, scheme: str) -> Ensemble:
    plan, paths, best = gathered.plan, gathered.count, gathered.best
    observed = gathered.observed()
    return Ensemble(
        times=plan.times(),
        states=gathered.states,
        mean=best.mean,
        standard_error=best.standard_error,
        covariance=best.covariance,
        covariance_error=best.covariance_error,
        diverged=np.isfinite(gathered.diverged_at),
        diverged_at=gathered.diverged_at,
        exit_times=gathered.exit_times,
        start=_starts(plan, paths),
        level=plan.level,
        dt=plan.dt,
        stats=gathered.stats(),
        provenance=provenance(
            seed=plan.seed,
            block=block_size(plan.flow.dim),
            flow=repr(plan.flow),
            variables=plan.flow.variables,
            paths=paths,
            t_end=plan.time(plan.steps),
            dt=plan.dt,
            radius=plan.radius,
            dtype=plan.dtype,
            refine=plan.refine,
            **({} if plan.average is None else {"average": plan.average}),
            **({"remembered": plan.flow.remembered} if plan.whole else {}),
        ),
        scheme=scheme,
        average=plan.average,
        quantile_levels=np.array(plan.quantiles),
        quantiles=gathered.quantiles(),
        observables={name: mean for name, (mean, _) in observed.items()},
        observable_errors={name: error for name, (_, error) in observed.items()},
        mean_reduction=gathered.reduction[0],
        covariance_reduction=gathered.reduction[1],
        notes=_notes(plan, gathered),
    )


def _starts(plan: EnsemblePlan, paths: int) -> np.ndarray:
    """Where the paths started, in as many numbers as are kept of them."""
    if not plan.whole:
        return plan.start[:paths]
    common = plan.start.strides[0] == 0
    start = plan.flow.rest(plan.start[:1] if common else plan.start[:paths], plan.level)
    # One start for all stays one row, and takes the memory of one.
    return np.broadcast_to(start, (paths, start.shape[1])) if common else start


def _notes(plan: EnsemblePlan, gathered: Gathered) -> tuple[str, ...]:
    notes, lost = [], int(np.isfinite(gathered.diverged_at).sum())
    if lost > UNSTABLE_SHARE * gathered.count:
        notes.append(f"More than {UNSTABLE_SHARE:.0%} diverged: the flow is unstable here. {_expected(plan)}")
    if plan.control is not None and gathered.sums is not None and gathered.sums.controlled is None:
        why = (
            "its moments are known only where no path diverges"
            if lost
            else "the linearised flow left all bounds"
        )
        notes.append(f"The control variate was left out: {why}.")
    broken = [name for name, (mean, _) in gathered.observed().items() if np.isnan(mean).any()]
    # With fewer than two paths left nothing has a mean, and that is said elsewhere.
    if broken and lost < gathered.count - 1:
        notes.append(f"Not finite on some state, and therefore without a mean: {', '.join(broken)}.")
    return tuple(notes)


def _expected(plan: EnsemblePlan) -> str:
    """What the linear theory says about the stability of a flow that lost many paths."""
    try:
        linear = linearize(plan.flow)
        limits = linear.step_limit("mean"), linear.step_limit("mean-square")
    except (Unstable, ValueError) as error:
        return f"Theory: {error}"
    return (
        f"Theory: the step may be at most {limits[0]:.4g} in the mean and {limits[1]:.4g} in mean square; it "
        f"is {plan.flow.step:g} and dt is {plan.dt:g}."
    )
