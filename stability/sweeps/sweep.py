"""`st.sweep`: a study at every point of a grid, on any engine, from where it stopped."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import _check, _files
from .._check import Interrupted, counted
from .._interrupts import undisturbed
from .._progress import Bar, progress_bar
from . import asked as asking
from . import dataset as datasets
from . import engine as engines
from . import grid as grids
from . import records, study
from .asked import Asked
from .compute import ABSENT, Task
from .engine import Engine
from .grid import Point
from .records import FAILED, Record
from .store import NETCDF, Store, manifest_of
from .study import StudyFunction

if TYPE_CHECKING:
    import xarray


PROBES = 4
"""Points that are computed for an estimate of the time."""


@dataclass(frozen=True)
class Sweep:
    """A study, its grid, and where its records are.

    Attributes
    ----------
    asked : Asked
    study : StudyFunction
    store : Store
    shard : tuple (k, n)
        Part k of n, counted from 1.
    retry : bool
        Points that failed are computed again.
    """

    asked: Asked
    study: StudyFunction
    store: Store
    shard: tuple[int, int]
    retry: bool

    @property
    def columns(self) -> list[Point]:
        """Those of this shard."""
        part, parts = self.shard
        return self.asked.columns[part - 1 :: parts]

    def ahead(self, points: Sequence[Point]) -> list[tuple[str, Point]]:
        """The points that have no record, or a failed one that is to be retried, with their keys."""
        found = []
        for point in points:
            key = records.key_of(point)
            record = self.store.get(key)
            if record is None or (self.retry and record.status == FAILED):
                found.append((key, point))
        return found

    def task(self, key: str, point: Point, driver: str) -> Task:
        """A point as it is given to an engine."""
        parameters = records.to_text(point)
        call = tuple(name for name in point if self.study.passed(name))
        stream = records.digest(str(self.asked.seed), key) if self.study.draws else ""
        return Task(key, tuple(self.study.reference), parameters, call, stream, driver)

    def compute(self, engine: Engine, driver: str, points: Sequence[Point], bar: _Told) -> None:
        """See to it that there is a record for each of these points.

        Raises
        ------
        ValueError
            If one cannot be written, or a worker has not the study.
        Lost
            If the engine stopped working.
        """
        waiting = self.ahead(points)
        bar.more(len(points), len(waiting))

        def tasks() -> Iterator[Task]:
            for key, point in self.store.ordered(waiting):
                record = self.store.get(key)
                if record is None or record.status == FAILED:  # else another driver has been here
                    yield self.task(key, point, driver)
                else:
                    bar.one()

        for task, outcome in engines.outcomes(engine, tasks()):
            if outcome.status == ABSENT:
                raise ValueError(f"`study` must be the same function on every worker; {outcome.reason}.")
            parameters, values = records.from_text(task.parameters), records.from_text(outcome.values)
            with undisturbed():
                self.store.keep(task.key, Record(parameters, outcome.status, outcome.reason, values))
            bar.one(outcome.status == FAILED)

    def run(self, engine: Engine, progress: bool) -> xarray.Dataset:
        """Compute what is not there, and say what is.

        Raises
        ------
        Interrupted
            At Ctrl-C, with what was done.
        """
        with engines.driving(engine) as driver, contextlib.ExitStack() as leave:
            self.store.begin()
            leave.callback(self.store.end)
            self._warn(self.ahead(self.asked.points(self.columns)))
            try:
                with progress_bar(progress, "sweep") as bar:
                    told = _Told(bar)
                    self.compute(engine, driver, self.asked.points(self.columns), told)
                    if self.asked.boundary is not None:
                        self.asked.find(
                            self.store,
                            self.columns,
                            lambda points: self.compute(engine, driver, points, told),
                        )
            except KeyboardInterrupt:
                raise Interrupted(f"Interrupted: {self._so_far()}", self.asked.dataset(self.store)) from None
            except engines.Lost as error:
                raise RuntimeError(f"`executor` stopped working ({error}). {self._so_far()}") from error
            except ValueError as error:
                raise ValueError(f"{error} {self._so_far()}") from None
        result = self.asked.dataset(self.store)
        if self.store.folder is not None and datasets.is_whole(result):
            try:
                _files.write(self.store.folder / NETCDF, datasets.to_bytes(result))
            except ValueError as error:
                raise ValueError(
                    f"{error} All points are kept: st.sweep.open({str(self.store.folder)!r}) reads them."
                ) from None
        return result

    def estimate(self, engine: Engine) -> dict[str, Any]:
        """How many points there are and how long they may take, from a few that are computed and not kept."""
        points = self.asked.points(self.columns)
        found = [self.store.get(records.key_of(point)) for point in points]
        ahead = self.ahead(points)
        probes = {key: (key, point) for key, point in ahead[:: max(1, len(ahead) // PROBES)][:PROBES]}
        with engines.driving(engine) as driver:
            tasks = [self.task(key, point, driver) for key, point in probes.values()]
            seconds = [outcome.seconds for _, outcome in engines.outcomes(engine, tasks)]
        refined = (
            len(self.columns) * self.asked.boundary.rounds(self.asked.grid) if self.asked.boundary else 0
        )
        each = sum(seconds) / len(seconds) if seconds else None
        rest = len(ahead) + refined
        return {
            "points": len(points),
            "done": sum(record is not None and record.status != FAILED for record in found),
            "failed": sum(record is not None and record.status == FAILED for record in found),
            "ahead": len(ahead),
            "refined": refined,
            "probed": len(seconds),
            "each": each,
            "workers": engine.width,
            "seconds": None if each is None else each * rest / min(engine.width, max(1, rest)),
        }

    def _warn(self, ahead: Sequence[Any]) -> None:
        """Of records that are damaged, and of a store that has none for this grid."""
        for told in self.store.damaged.values():
            _check.warn(f"{told} The point is computed anew.")
        there = self.store.others()
        new = len(ahead) == len(self.asked.points(self.columns)) and not self.store.damaged
        if there and new and self.shard == (1, 1) and not self.retry:
            _check.warn(
                f"{self.store.folder} holds {counted(there, 'point')} of this study, none of them of this "
                "grid: its parameters have changed. They stay, and all points are computed."
            )

    def _so_far(self) -> str:
        points = list(self.asked.grid.points())
        done = sum(self.store.get(records.key_of(point)) is not None for point in points)
        if self.store.folder is None:
            return f"{done} of {counted(len(points), 'point')} were done, and are lost without `store`."
        return (
            f"{done} of {counted(len(points), 'point')} are in {self.store.folder}; the same call goes on "
            "from there."
        )


class _Told:
    """What a progress bar is told of points: how many, how many failed, how long it will take."""

    def __init__(self, bar: Bar):
        self._bar, self._began = bar, time.monotonic()
        self._all = self._there = self._done = self._failed = 0

    def more(self, points: int, ahead: int) -> None:
        """So many more points are asked for, of which so many are to be computed."""
        self._all += points
        self._there += points - ahead
        self._show()

    def one(self, failed: bool = False) -> None:
        """One more is done."""
        self._done += 1
        self._failed += failed
        self._show()

    def _show(self) -> None:
        done, ahead = self._there + self._done, self._all - self._there - self._done
        told = f"{done} of {counted(self._all, 'point')}"
        told += f", {self._failed} failed" if self._failed else ""
        if self._done and ahead:
            each = (time.monotonic() - self._began) / self._done
            told += f", about {duration(each * ahead)} left"
        self._bar.show(done / max(1, self._all), told)


def duration(seconds: float) -> str:
    """A time as it is said: "3 s", "5 min", "2.5 h", "4 days"."""
    for size, name in ((86400 * 365.25, "years"), (86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.2g} {name}" if seconds < 10 * size else f"{seconds / size:,.0f} {name}"
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"


def prepare(
    grid: Any,
    function: Any,
    *,
    store: Any = None,
    seed: Any = 0,
    here: bool = False,
    refine: Any = None,
    tolerance: Any = 0.01,
    shard: Any = None,
    retry: Any = False,
    units: Any = None,
    long_names: Any = None,
) -> Sweep:
    """What `sweep` was given, checked; nothing is written yet."""
    study.require_outside_import()
    folder = None if store is None else _files.named(store)
    found, points = study.read(function, here=here, kept=folder is not None), grids.read(grid)
    found.require(points.names)
    own_seed = _check.seed(seed) if found.draws else None
    about = refine, tolerance, units, long_names
    asked = asking.ask(points, found.title, found.reference.digest, own_seed, *about)
    parts = _shard(shard)
    if parts != (1, 1) and folder is None:
        raise ValueError("`shard` needs a `store` that all shards share; got none. Give store='folder'.")
    return Sweep(asked, found, Store(folder, asked.manifest()), parts, _check.flag("retry", retry))


def _shard(shard: Any) -> tuple[int, int]:
    """Part k of n, counted from 1."""
    if shard is None:
        return 1, 1
    try:
        part, parts = shard
    except (TypeError, ValueError):
        raise ValueError(
            f"`shard` must be (k, n), part k of n counted from 1; got {_check.shown(shard)}. Write (3, 16)."
        ) from None
    parts = _check.count("shard[1]", parts)
    return _check.count("shard[0]", part, most=parts, why="parts are counted from 1"), parts


@_check.by_name
def sweep(
    grid: Mapping[Any, Any] | Sequence[Mapping[str, Any]],
    study: Callable[..., Any],
    *,
    store: str | Path | None = None,
    seed: int = 0,
    executor: Any = None,
    workers: int | None = None,
    refine: str | Mapping[str, str] | None = None,
    tolerance: float = 0.01,
    shard: tuple[int, int] | None = None,
    retry: bool = False,
    units: Mapping[str, str] | None = None,
    long_names: Mapping[str, str] | None = None,
    progress: bool = False,
) -> xarray.Dataset:
    """Call a study at every point of a grid, and return what it says as a labelled dataset.

    Each finished point is a record in `store`, a file of its own, written whole and sealed by a checksum. The
    same call goes on from there after a kill, computes only what is new where points are added, and never
    mixes records of other code: a point is known by its parameters, the source of the study and of what it
    uses of the user's own, the version of this package, and the seed. Needs the extra ``sweep``.

    Parameters
    ----------
    grid : mapping or list
        ``{"step": [0.1, 0.2], "kappa": [1, 10]}``: all combinations. ``("rank", "damping"): [(2, 0.1), (4,
        0.2)]`` varies both together, ``"gamma": 0.1`` is one value for all points, and a list of points
        ``{name: value}`` is taken as it is. Values are numbers, text, None, tuples of these, methods and
        noise. An axis ``"seed": range(10)`` makes repeats, also where the study takes `rng` alone.
    study : function
        Called with the parameters by name, and with ``rng``, a generator of the point's own, if it takes it;
        returns numbers, texts or small arrays by name, ``{"limit": 0.5, "losses": [1.0, 0.1]}``. An
        `stability.Unstable` is an answer: nan, and why. Any other exception is a failure of this point. It
        must be importable: defined at the top of a file.
    store : path, optional
        A folder for the records, and ``results.nc`` at the end; without it nothing is kept.
    seed : int
        Of all random numbers; those of a point come from the digest of this and its parameters, and depend on
        nothing else of the grid.
    executor : concurrent.futures.Executor, optional
        Where points are computed; by default in processes of joblib's loky. ``Client(...).get_executor()`` of
        `dask.distributed`, ``MPIPoolExecutor()`` of `mpi4py.futures` and executorlib's executors are such.
    workers : int, optional
        Processes, at most as many as there are cores, each of which keeps to one; with an `executor` the
        points that it has at once; 0: this process, where the study need not be importable.
    refine : str or mapping, optional
        An axis along which the boundary is bisected in each column of the others: ``"step"``, where the study
        stops being stable, or ``{"step": "radius < 1"}``. Its values in the grid are where to begin.
    tolerance : float
        The width of a refined boundary's bracket, over its upper end.
    shard : tuple (k, n), optional
        Compute part k of n, counted from 1, into a store that all parts share.
    retry : bool
        Compute points that failed again.
    units, long_names : mapping, optional
        Of parameters and numbers, for axes of pictures and NetCDF; by default "1", and the field's own names.
    progress : bool
        Show how many points are done, and how long the others will take.

    Returns
    -------
    xarray.Dataset
        The study's numbers over the grid; ``status`` of each point ("done", "unstable", "failed", "missing")
        and ``reason``; with `refine` also ``step_boundary``, its bracket ``step_boundary_low`` and ``_high``,
        and ``step_boundary_reason``. Arrays add dimensions ``losses_0``, ...; shorter ones end with nan.
        `stability.plot` draws it.

    Raises
    ------
    ValueError
        If an argument is bad, the store cannot be written, or workers cannot import the study.
    RuntimeError
        If the executor stopped working; what was done is in the store.
    Interrupted
        At Ctrl-C, with what was done as its `result`.

    See Also
    --------
    stability.sweep.open : what a store holds, at any time.

    Examples
    --------
    The largest stable step and the noise of the flattest mode, over condition number, step and method:

    >>> import stability as st
    >>> def study(kappa, step, method):
    ...     lin = st.linearize(st.Flow(st.quadratic([1, 1 / kappa]), method, st.Noise(gradient=1), step=step))
    ...     return {"limit": lin.step_limit(), "amplification": lin.amplification[-1]}
    >>> grid = {"kappa": [1, 10, 100], "step": [0.1, 1.0], "method": [st.SGD(), st.SFN(damping=0.1)]}
    >>> found = st.sweep(grid, study, workers=0)
    >>> found.amplification.sel({"step": 0.1, "method": "SFN"}).values.round(2)
    array([0.91, 5.  , 9.09])
    >>> picture = st.plot(found, x="kappa", y="amplification", hue="method")
    """
    datasets.require_xarray()
    engine = engines.chosen(executor, workers)
    about = {"refine": refine, "tolerance": tolerance, "units": units, "long_names": long_names}
    asked = prepare(
        grid,
        study,
        store=store,
        seed=seed,
        here=engines.is_here(executor, workers),
        shard=shard,
        retry=retry,
        **about,
    )
    return asked.run(engine, _check.flag("progress", progress))


def open_store(store: str | Path) -> xarray.Dataset:
    """What the store of a sweep holds so far, also while it is running.

    Points that are not there are "missing", and so are those whose records are damaged, of which a warning
    tells.

    Raises
    ------
    ValueError
        If it is no store, is damaged, or is of a newer format.

    Examples
    --------
    >>> import os, tempfile, stability as st
    >>> from stability.sweeps.examples import minimum
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     done = st.sweep({"kappa": [1, 10], "step": [0.1]}, minimum, store=folder, workers=0)
    ...     st.sweep.open(folder).equals(done)
    True
    """
    datasets.require_xarray()
    folder, manifest = manifest_of(store)
    asked = Asked.read(manifest)
    held = Store(folder, manifest)
    result = asked.dataset(held)
    for told in held.damaged.values():
        _check.warn(f"{told} Its point counts as missing; the sweep computes it anew.")
    return result


sweep.open = open_store  # type: ignore[attr-defined]
