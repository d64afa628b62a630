"""Blocks on threads: whatever their number, results come in the blocks' order."""

from __future__ import annotations

import functools
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice, takewhile
from typing import TypeVar

from threadpoolctl import ThreadpoolController

T = TypeVar("T")


def in_order(task: Callable[[int], T], blocks: range, workers: int, stop: threading.Event) -> Iterator[T]:
    """What the task gives for each block; after an interrupt what was done comes first, then it is raised.

    The tasks that run then are told by `stop`, and should end soon.
    """
    # Our own threads share the cores: BLAS threads under them would only compete.
    with (
        _blas("scipy.linalg" in sys.modules).limit(limits=1),
        ThreadPoolExecutor(max_workers=min(workers, len(blocks))) as pool,
    ):
        waiting, running = iter(blocks), deque[Future[T]]()
        try:
            for _ in blocks:
                # Few at a time: a block's states would otherwise wait in memory for their turn.
                free = 4 * workers - len(running)
                running += [pool.submit(task, number) for number in islice(waiting, free)]
                running[0].result()
                yield running.popleft().result()
        except BaseException as error:  # Ctrl-C too: let the running blocks end at their next step
            stop.set()
            for future in running:
                future.cancel()
            pool.shutdown(wait=True)
            if isinstance(error, KeyboardInterrupt):
                done = takewhile(lambda f: not f.cancelled() and f.exception() is None, running)
                yield from (future.result() for future in done)
            raise


@functools.cache
def _blas(with_scipy: bool) -> ThreadpoolController:
    """The BLAS libraries that are loaded; SciPy brings its own. Looking for them takes milliseconds."""
    return ThreadpoolController()
