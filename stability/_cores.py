"""Cores: how many this process may use, and how one point of a study keeps to one of them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

_for_good: list[contextlib.AbstractContextManager[None]] = []
_alone: list[int] = []  # a mark for everyone who asked that work in this process keeps to one core


def cores() -> int:
    """How many cores this process may use: one where each of many processes has been told to keep to one."""
    if _alone:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """In this section linear algebra and ensembles take one thread.

    So do those of other threads of this process: the numbers of a point are then the same bits wherever it is
    computed, and so many processes keep so many cores busy.
    """
    from threadpoolctl import threadpool_limits  # takes some milliseconds, and is asked for by few

    _alone.append(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        _alone.pop()


def keep_to_one_core() -> None:
    """`one_core` from here to the end of the process, which is a worker."""
    if not _alone:
        section = one_core()
        section.__enter__()
        _for_good.append(section)  # it would end with its last reference
