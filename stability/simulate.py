"""Ensembles of paths: Euler-Maruyama on the SDE, or the stochastic iteration itself."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from . import _check
from ._array import BLOCK, stream
from ._spectral import check_cut, check_regular
from .flow import Flow
from .results import provenance, register

MAX_STEPS = 10**9


@register
@dataclass(frozen=True)
class Ensemble:
    """Paths of a flow and their moments; made by `simulate`.

    Attributes
    ----------
    times : array (times,)
        In units of ``t = iteration * step``.
    states : array (times, paths, d)
    mean, standard_error : arrays (times, d)
        Over the paths that did not diverge, and the mean's standard error.
    covariance, covariance_error : arrays (times, d, d)
        The same for the covariance (standard errors from fourth moments).
    diverged : array (paths,) of bool
        Paths that became non-finite or left `radius`: frozen where they were, kept out of all moments.
    diverged_at, exit_times : arrays (paths,)
        When a path diverged; when it first left the region `exit` (nan: never).
    start : array (paths, d)
    level : {"sde", "iteration"}
    dt : float
        Time step.
    stats : dict
        Path-steps, seconds, path-steps per second, diverged paths.
    provenance : dict
    """

    times: np.ndarray
    states: np.ndarray
    mean: np.ndarray
    standard_error: np.ndarray
    covariance: np.ndarray
    covariance_error: np.ndarray
    diverged: np.ndarray
    diverged_at: np.ndarray
    exit_times: np.ndarray
    start: np.ndarray
    level: str
    dt: float
    stats: dict[str, Any]
    provenance: dict[str, Any]

    @property
    def conditional(self) -> bool:
        """Whether the moments are conditional on not having diverged."""
        return bool(self.diverged.any())

    def __str__(self) -> str:
        paths, lost = len(self.diverged), int(self.diverged.sum())
        lines = [f"{paths} paths of the {'SDE' if self.level == 'sde' else 'iteration'}, dt = {self.dt:g}, to t = {self.times[-1]:g}"]
        if lost:
            first = float(np.nanmin(self.diverged_at))
            lines.append(f"{lost} of {paths} paths diverged, the first at t = {first:g}: the moments below are conditional on the others.")
            if lost > paths / 10:
                lines.append("More than a tenth diverged: the flow is unstable here. See st.linearize(...).step_limit().")
        left = int(np.isfinite(self.exit_times).sum())
        if left:
            lines.append(f"{left} paths left the exit region, at a median t = {np.nanmedian(self.exit_times):.4g}.")
        lines.append(f"{'axis':>4} {'mean':>12} {'+-':>9} {'variance':>12} {'+-':>9}")
        for i in range(min(self.states.shape[-1], 12)):
            row = (self.mean[-1, i], self.standard_error[-1, i], self.covariance[-1, i, i], self.covariance_error[-1, i, i])
            lines.append(f"{i:>4} {row[0]:>12.5g} {row[1]:>9.2g} {row[2]:>12.5g} {row[3]:>9.2g}")
        if self.states.shape[-1] > 12:
            lines.append(f" ... {self.states.shape[-1] - 12} more axes")
        return "\n".join(lines)


@dataclass(frozen=True)
class _Plan:
    """A checked simulation: what every block of paths is told."""

    flow: Flow
    start: np.ndarray
    steps: int
    dt: float
    saved: np.ndarray  # step numbers
    seed: int
    level: str
    center: np.ndarray
    radius: float
    inside: Callable[[np.ndarray], np.ndarray] | None

    def block(self, number: int) -> slice:
        return slice(number * BLOCK, min((number + 1) * BLOCK, len(self.start)))


def simulate(
    flow: Flow,
    *,
    start: Any,
    t_end: float,
    paths: int,
    seed: int,
    dt: float | None = None,
    level: str = "sde",
    save: Any = None,
    radius: float | None = None,
    exit: float | Callable[[np.ndarray], np.ndarray] | None = None,
    workers: int | None = None,
    progress: bool = False,
    device: str = "cpu",
) -> Ensemble:
    """Simulate an ensemble of paths.

    Parameters
    ----------
    flow : Flow
    start : array, shape (d,) or (paths, d)
    t_end : float
        In units of ``t = iteration * step``; a multiple of `dt`.
    paths : int
    seed : int
        Same seed, same numbers, whatever the number of workers.
    dt : float, optional
        Time step of Euler-Maruyama; `step` by default. Not for ``level="iteration"``, whose step is `step`.
    level : {"sde", "iteration"}
        The Ito equation, linear in the noise, or the true stochastic iteration.
    save : int or array of float, optional
        How many equal intervals to save the states at, or the times to save (multiples of `dt`); the final time by default.
    radius : float, optional
        A path farther than this from the ensemble's starting mean has diverged; by default a million times the
        starts' own extent (at least 1).
    exit : float or callable, optional
        A region whose first exit is timed: a ball of this radius around the flow's reference point (or the starting
        mean), or ``inside(w)``, (m, d) -> (m,) bool. Paths go on after leaving.
    workers : int, optional
        Threads; by default one per core where a step is heavy enough to share, else one.
    progress : bool
        Show a progress bar.
    device : {"cpu"}
        Where to compute.

    Returns
    -------
    Ensemble

    Raises
    ------
    ValueError
        If an argument is out of range, the method is singular at the start, or the states would not fit in memory.

    Examples
    --------
    >>> import stability as st
    >>> flow = st.Flow(st.quadratic([1.0]), st.SGD(), st.Noise(gradient=1.0), step=0.1)
    >>> ens = st.simulate(flow, start=[0.0], t_end=10.0, paths=1000, seed=0)
    >>> bool(abs(ens.covariance[0, 0, 0] - 0.1 / 1.9) < 4 * ens.covariance_error[0, 0, 0])
    True
    """
    _check.choice("device", device, ("cpu",))
    plan = _plan(flow, start, t_end, paths, seed, dt, level, save, radius, exit)
    blocks = math.ceil(len(plan.start) / BLOCK)
    workers = min(_useful_threads(flow, level), blocks) if workers is None else _check.count("workers", workers)
    began = time.perf_counter()
    with _bar(progress, blocks * plan.steps) as advance:
        parts = _run(plan, blocks, workers, advance)
    seconds = time.perf_counter() - began
    states = np.concatenate([part[0] for part in parts], axis=1)
    diverged_at, exit_times = (np.concatenate([part[i] for part in parts]) for i in (1, 2))
    diverged = np.isfinite(diverged_at)
    work = len(plan.start) * plan.steps
    return Ensemble(
        times=plan.saved * plan.dt,
        states=states,
        **_moments(states[:, ~diverged]),
        diverged=diverged,
        diverged_at=diverged_at,
        exit_times=exit_times,
        start=plan.start,
        level=level,
        dt=plan.dt,
        stats={
            "path_steps": work,
            "seconds": seconds,
            "path_steps_per_second": work / seconds if seconds else math.inf,
            "diverged": int(diverged.sum()),
        },
        provenance=provenance(seed=seed, block=BLOCK, flow=repr(flow), paths=len(plan.start), t_end=t_end, dt=plan.dt, radius=plan.radius),
    )


def _plan(flow: Flow, start: Any, t_end: float, paths: int, seed: int, dt: float | None, level: str, save: Any, radius: float | None, exit: Any) -> _Plan:
    _check.choice("level", level, ("sde", "iteration"))
    if level == "iteration" and dt is not None:
        raise ValueError("`dt` is for level='sde'; the iteration's time step is the flow's `step`.")
    paths, seed = _check.count("paths", paths), _check.count("seed", seed, least=0)
    dt = flow.step if dt is None else _check.positive("dt", dt)
    steps = _multiple("t_end", _check.positive("t_end", t_end), dt)
    start = _check.array("start", start, ndim=(1, 2), shape=f"({flow.dim},) or ({paths}, {flow.dim})")
    if start.shape not in ((flow.dim,), (paths, flow.dim)):
        raise ValueError(f"`start` must have shape ({flow.dim},) or ({paths}, {flow.dim}); got {start.shape}.")
    _check_start(flow, np.atleast_2d(start)[0], level)
    saved = _saved(save, steps, dt, paths, flow.dim)
    start = np.array(np.broadcast_to(start, (paths, flow.dim)))
    center = start.mean(axis=0)
    extent = float(np.max(np.linalg.norm(start - center, axis=1)) + np.linalg.norm(center))
    radius = 1e6 * max(1.0, extent) if radius is None else _check.positive("radius", radius)
    return _Plan(flow, start, steps, dt, saved, seed, level, center, radius, _region(exit, flow, center))


def _multiple(name: str, t: float, dt: float) -> int:
    if t / dt > MAX_STEPS:
        raise ValueError(f"`{name}` = {t:g} is {t / dt:.2g} time steps of {dt:g}; at most {MAX_STEPS:.0e} are taken.")
    steps = round(t / dt)
    if steps < 1 or abs(t / dt - steps) > 1e-9 * steps:
        raise ValueError(f"`{name}` must be a multiple of the time step {dt:g}; got {t:g}. Try {max(steps, 1) * dt:g}.")
    return steps


def _saved(save: Any, steps: int, dt: float, paths: int, dim: int) -> np.ndarray:
    """The step numbers to save at, checked against memory before anything large is made."""
    whole = isinstance(save, (int, np.integer)) and not isinstance(save, bool)
    if whole:
        _check.count("save", save, most=steps)
    _check_memory(1 if save is None else save + 1 if whole else np.size(save), paths, dim)
    if save is None:
        return np.array([steps])
    if whole:
        return np.unique(np.round(np.linspace(0, steps, int(save) + 1)).astype(int))
    times = _check.array("save", save, ndim=1, shape="(times,)")
    numbers = np.round(times / dt)
    if len(times) == 0 or (numbers < 0).any() or (numbers > steps).any() or (np.diff(numbers) <= 0).any():
        raise ValueError(f"`save` must hold increasing times in [0, {steps * dt:g}].")
    if (np.abs(times / dt - numbers) > 1e-9 * np.maximum(1, numbers)).any():
        raise ValueError(f"`save` must hold multiples of the time step {dt:g}.")
    return numbers.astype(int)


def _check_start(flow: Flow, w: np.ndarray, level: str) -> None:
    """Misuse that would make every path diverge at once is an error: the physics first."""
    dim, many = flow.dim, flow.dim + 1  # a number of states that no axis of one state could be taken for
    hessian = _check.symmetric("hessian", _check.shaped("hessian", flow.objective.hessian(w), (dim, dim)))
    _check.shaped("gradient", flow.objective.gradient(w), (dim,))
    for name, shape in (("gradient", (many, dim)), ("hessian", (many, dim, dim))):
        found = _batched_shape(getattr(flow.objective, name), np.tile(w, (many, 1)))
        if found != shape:
            raise ValueError(f"`{name}` must take leading axes as batch: {many} states, shape ({many}, {dim}), should give shape {shape}; got {found}.")
    if not flow.method.is_identity:
        values = np.linalg.eigvalsh(hessian)
        check_regular(flow.method, values)
        if flow.bends and level == "sde":  # the iteration decomposes each sampled Hessian and linearises nothing
            check_cut(flow.method, values)


def _batched_shape(function: Callable[[np.ndarray], np.ndarray], states: np.ndarray) -> Any:
    try:
        return np.shape(function(states))
    except Exception as error:  # a user's function may fail in any way when given a batch
        return f"{type(error).__name__}: {error}"


def _check_memory(times: int, paths: int, dim: int) -> None:
    needed = 8.0 * (2 * times + 1) * paths * dim  # the states, once more while blocks are joined, and the start
    total = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")) if hasattr(os, "sysconf") else 16e9
    if needed > 0.7 * total:
        raise ValueError(f"The states need {needed / 1e9:.1f} GB of {total / 1e9:.0f} GB: {times} times x {paths} paths x {dim}. Save fewer times or paths.")


def _region(exit: Any, flow: Flow, center: np.ndarray) -> Callable[[np.ndarray], np.ndarray] | None:
    if exit is None:
        return None
    if callable(exit):
        answer = np.asarray(exit(np.stack([center, center, center])))
        if answer.shape != (3,) or answer.dtype != bool:
            raise ValueError(
                f"`exit` must answer True or False once per state: three states should give shape (3,) of bool; got {answer.dtype} {answer.shape}."
            )
        return exit
    size = _check.positive("exit", exit)
    middle = center if flow.reference is None else flow.reference
    return lambda w: np.sum((w - middle) ** 2, axis=-1) < size**2


def _useful_threads(flow: Flow, level: str) -> int:
    """Threads help while NumPy works outside the interpreter's lock: eigendecompositions, or wide states."""
    fixed = flow.method.is_identity or (getattr(flow.objective, "constant_hessian", False) and not (level == "iteration" and flow.bends))
    return 1 if fixed and flow.dim < 16 else os.cpu_count() or 1


def _run(plan: _Plan, blocks: int, workers: int, advance: Callable[[int], None]) -> list[tuple[np.ndarray, ...]]:
    stop = threading.Event()
    # Our own threads share the cores: BLAS threads under them would only compete.
    with threadpool_limits(1), ThreadPoolExecutor(max_workers=workers) as pool:
        try:
            return list(pool.map(lambda number: _block(plan, number, stop, advance), range(blocks)))
        except BaseException:  # Ctrl-C too: let the running blocks end at their next step
            stop.set()
            raise


def _block(plan: _Plan, number: int, stop: threading.Event, advance: Callable[[int], None]) -> tuple[np.ndarray, ...]:
    """One block of paths: its saved states (times, m, d), divergence and exit times (m,)."""
    rows = plan.block(number)
    rng, w = stream(plan.seed, number), plan.start[rows].copy()
    m = len(w)
    saved = np.empty((len(plan.saved), m, plan.flow.dim))
    diverged_at, exit_times = np.full(m, np.nan), np.full(m, np.nan)
    slot = 0
    if plan.saved[0] == 0:
        saved[0], slot = w, 1
    with np.errstate(all="ignore"):
        for step in range(1, plan.steps + 1):
            if stop.is_set():
                break
            moved = _advance(plan, w, rng)
            # Written so that nan counts as lost.
            offset = moved - plan.center
            lost = ~(np.einsum("ij,ij->i", offset, offset) <= plan.radius**2)
            lost |= np.isfinite(diverged_at)
            if lost.any():
                moved[lost] = w[lost]
                diverged_at[lost & np.isnan(diverged_at)] = step * plan.dt
            w = moved
            if plan.inside is not None:
                exit_times[~plan.inside(w) & np.isnan(exit_times) & ~lost] = step * plan.dt
            if slot < len(plan.saved) and plan.saved[slot] == step:
                saved[slot] = w
                slot += 1
            advance(1)
    return saved, diverged_at, exit_times


def _advance(plan: _Plan, w: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    drawn = plan.flow.draw(BLOCK, rng, level=plan.level)  # always a full block: see _array.stream
    sample = type(drawn)(*(part[: len(w)] for part in drawn))
    if plan.level == "sde":
        return plan.flow.euler(w, sample, plan.dt)  # type: ignore[arg-type]
    return plan.flow.update(w, sample)


def _moments(states: np.ndarray) -> dict[str, np.ndarray]:
    times, count, dim = states.shape
    if count < 2:
        blank = np.full((times, dim), np.nan)
        return {"mean": blank, "standard_error": blank, "covariance": blank[..., None] * np.ones(dim), "covariance_error": blank[..., None] * np.ones(dim)}
    mean = states.mean(axis=1)
    centred = states - mean[:, None]
    covariance = np.swapaxes(centred, 1, 2) @ centred / (count - 1)
    fourth = np.swapaxes(centred**2, 1, 2) @ centred**2 / count
    error = np.sqrt(np.maximum(fourth - covariance**2, 0.0) / count)
    spread = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2) / count)
    return {"mean": mean, "standard_error": spread, "covariance": covariance, "covariance_error": error}


@contextmanager
def _bar(shown: bool, total: int) -> Iterator[Callable[[int], None]]:
    if not shown:
        yield lambda n: None
        return
    from rich.progress import Progress

    lock, done, shown_at = threading.Lock(), [0], [0]
    with Progress(transient=True) as bar:
        task = bar.add_task("paths", total=total)

        def advance(n: int) -> None:
            with lock:
                done[0] += n
                if done[0] - shown_at[0] >= total / 200:
                    bar.update(task, completed=done[0])
                    shown_at[0] = done[0]

        yield advance
