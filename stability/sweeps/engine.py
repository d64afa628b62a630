"""Engines: points go to workers, outcomes come back; what dies on the way costs its own point."""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from concurrent import futures
from typing import Any

from .. import _check
from .._cores import cores, one_core
from . import records
from .compute import Outcome, Task, compute, drivers
from .records import FAILED

IN_FLIGHT = 1000
"""Points that an executor of unknown size is given at once."""
DIED = (
    "its worker died while it computed this point: out of memory, stopped from outside, or a crash in "
    "compiled code"
)


class Lost(Exception):
    """An engine stopped working: what it had in flight is not computed."""


class Engine(ABC):
    """What points are given to.

    Attributes
    ----------
    width : int
        How many may be in flight at once.
    """

    width = 1

    @abstractmethod
    def submit(self, task: Task) -> futures.Future:
        """Begin with a point."""

    def outcome(self, future: futures.Future) -> Outcome:
        """What became of a point that is finished."""
        return future.result()

    def leave(self, flying: Iterable[futures.Future]) -> None:  # noqa: B027 - most hold nothing
        """Let go of points that are not finished."""

    def close(self) -> None:  # noqa: B027 - most began nothing
        """Stop, and end what was begun for it."""


class Here(Engine):
    """This process: a point is finished when it has been given."""

    def submit(self, task: Task) -> futures.Future:
        future: futures.Future = futures.Future()
        future.set_result(compute(task))
        return future


class Loky(Engine):
    """Processes of loky's, each an engine of its own, so that it is known which point one died of."""

    def __init__(self, workers: int):
        self.width = workers
        self._idle: list[Any] = []
        self._busy: dict[futures.Future, Any] = {}

    def submit(self, task: Task) -> futures.Future:
        process = self._idle.pop() if self._idle else self._begun()
        try:
            future = process.submit(compute, task)
        except futures.BrokenExecutor:  # it died while it waited, of no point
            _end(process)
            process = self._begun()
            future = process.submit(compute, task)
        self._busy[future] = process
        return future

    @staticmethod
    def _begun() -> Any:
        from joblib.externals import loky

        # A pool of one: in a shared pool one dead worker breaks every point that is in flight, and none is
        # the culprit.
        return loky.ProcessPoolExecutor(1, initializer=_begin_worker, initargs=(os.getpid(),))

    def outcome(self, future: futures.Future) -> Outcome:
        process = self._busy.pop(future)
        try:
            found = future.result()
        except futures.BrokenExecutor:
            _end(process)
            return Outcome(FAILED, DIED, records.to_text({}), 0.0)
        # Kept warm: a new process imports NumPy anew, which takes longer than most points.
        self._idle.append(process)
        return found

    def close(self) -> None:
        for process in (*self._busy.values(), *self._idle):
            _end(process)


def _end(process: Any) -> None:
    with contextlib.suppress(OSError, RuntimeError):
        process.shutdown(wait=True, kill_workers=True)


def _begin_worker(driver: int) -> None:
    """Signals to a group reach every process of it: the driver ends its workers, and nobody else does."""
    import signal

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(driver,), daemon=True).start()


def _end_with(driver: int) -> None:
    """End this worker once its driver is gone, whose workers nobody else would end."""
    while os.getppid() == driver:
        time.sleep(1.0)
    os._exit(1)


class Foreign(Engine):
    """An executor of the user's own."""

    def __init__(self, executor: futures.Executor, workers: int | None):
        self._executor = executor
        # Two for each worker, so that none waits for the driver between its points.
        known = getattr(executor, "_max_workers", None)
        self.width = workers or (2 * known if isinstance(known, int) else IN_FLIGHT)

    def submit(self, task: Task) -> futures.Future:
        try:
            return self._executor.submit(compute, task)
        except Exception as error:  # of any library's, when it has stopped working
            raise Lost(_said(error)) from error

    def outcome(self, future: futures.Future) -> Outcome:
        try:
            return future.result()
        except (Exception, futures.CancelledError) as error:
            if type(error).__name__ == "KilledWorker":  # dask's word for a point that several workers died of
                return Outcome(FAILED, DIED, records.to_text({}), 0.0)
            if isinstance(error, futures.BrokenExecutor):
                raise Lost(
                    f"{_said(error)}; without `executor` a point that its worker dies of is the only loss"
                ) from error
            raise Lost(_said(error)) from error

    def leave(self, flying: Iterable[futures.Future]) -> None:
        for future in flying:  # those of loky's end with their processes, and cannot be cancelled before
            future.cancel()


def _said(error: BaseException) -> str:
    """An exception in a line."""
    return ": ".join([type(error).__name__, *str(error).splitlines()[:1]])


def is_here(executor: Any, workers: int | None) -> bool:
    """Whether points are computed in this process, so that nothing need be imported anew."""
    return workers == 0 or isinstance(executor, futures.ThreadPoolExecutor)


def chosen(executor: Any, workers: int | None) -> Engine:
    """The engine that a user asked for.

    Raises
    ------
    ValueError
        If it is none, or joblib is wanted and not installed.
    """
    if workers is not None:
        workers = _check.count("workers", workers, least=0)
    if executor is not None:
        executor = executor.get_executor() if hasattr(executor, "get_executor") else executor  # dask's client
        if not callable(getattr(executor, "submit", None)) or not callable(
            getattr(executor, "shutdown", None)
        ):
            raise ValueError(
                "`executor` must be a concurrent.futures.Executor, as dask's client.get_executor() is one; "
                f"got {_check.shown(executor)}."
            )
        if workers == 0:
            raise ValueError(
                "`workers=0` computes in this process; leave `executor` away, or give no workers."
            )
        return Foreign(executor, workers)
    if workers == 0:
        return Here()
    try:
        import joblib  # noqa: F401 - its processes are started with the first point
    except ImportError:
        raise ValueError(
            "`st.sweep` needs joblib for its workers: pip install 'sfn-stability[sweep]', or pass workers=0."
        ) from None
    return Loky(min(workers or cores(), cores()))


@contextlib.contextmanager
def driving(engine: Engine) -> Iterator[str]:
    """A mark of this process for the time of a sweep: points that it computes itself keep to one core."""
    mark = secrets.token_hex(8)
    drivers.add(mark)
    try:
        with one_core():
            yield mark
    finally:
        drivers.discard(mark)
        engine.close()


def outcomes(engine: Engine, tasks: Iterable[Task]) -> Iterator[tuple[Task, Outcome]]:
    """What became of points, in the order in which they are finished.

    Workers are busy while the caller keeps what came back.

    Raises
    ------
    Lost
        If the engine stopped working.
    """
    waiting, flying = iter(tasks), dict[futures.Future, Task]()
    ready: list[tuple[Task, Outcome]] = []
    try:
        while True:
            stopped: BaseException | None = None
            try:
                # No more than it can take: a study of a million points is not a million futures.
                while len(flying) < engine.width and (task := next(waiting, None)) is not None:
                    flying[engine.submit(task)] = task
            except (Lost, KeyboardInterrupt) as error:  # what came back before it is kept first
                stopped = error
            yield from ready
            if stopped is not None:
                raise stopped
            if not flying:
                return
            finished, _ = futures.wait(flying, return_when=futures.FIRST_COMPLETED)
            ready, lost = [], None
            for future in finished:
                task = flying.pop(future)
                try:
                    ready.append((task, engine.outcome(future)))
                except Lost as error:
                    lost = error
            if lost is not None:
                yield from ready
                raise lost
    finally:
        engine.leave(flying)
