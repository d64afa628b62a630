"""Checkpoints of a run in two slots: where one is damaged, the other is left."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import _check, _files
from .._saving import Kept, digest, load
from ..objectives.gate import Gated


@dataclass(frozen=True)
class Checkpoint(Kept):
    """A run in the middle: `minimize` writes and reads it."""

    arrays: dict[str, np.ndarray]
    values: dict[str, Any]


def slots(path: Path) -> tuple[Path, Path]:
    """The two places that checkpoints are written to in turn."""
    return path.with_name(path.name + ".a"), path.with_name(path.name + ".b")


def base(checkpoint: str | Path) -> Path:
    """What the checkpoint's files have in common, where one of them was named."""
    path = _files.named(checkpoint)
    for endings in ((".json", ".npz"), (".a", ".b")):
        path = path.with_suffix("") if path.suffix in endings else path
    return path


def _written(path: Path) -> list[tuple[int, Path]]:
    """The slots that hold something."""
    return [
        (slot, place)
        for slot, place in enumerate(slots(path))
        if any(place.with_name(place.name + ending).exists() for ending in (".npz", ".json"))
    ]


def exists(checkpoint: str | Path) -> bool:
    """Whether a run that is given this checkpoint goes on from it."""
    return bool(_written(base(checkpoint)))


def latest(path: Path) -> tuple[int, Checkpoint]:
    """The whole checkpoint that went furthest, and its slot.

    Raises
    ------
    ValueError
        If none can be read.
    """
    whole: list[tuple[int, int, Checkpoint]] = []
    errors: list[ValueError] = []
    for slot, place in _written(path):
        try:
            found = load(place)
        except ValueError as error:
            errors.append(error)
            continue
        if not isinstance(found, Checkpoint):
            raise ValueError(
                f"{place} holds a {type(found).__name__}, not the checkpoint of a run. Choose another "
                "`checkpoint`."
            )
        whole.append((int(found.values.get("iteration", -1)), slot, found))
    if not whole:
        raise ValueError(f"{errors[0]} Delete the checkpoint to start anew, or choose another.") from None
    return max(whole, key=lambda one: one[0])[1:]


@contextmanager
def claimed(path: Path | None) -> Iterator[None]:
    """Have a checkpoint to oneself, until this ends or the process does.

    Raises
    ------
    ValueError
        If it cannot be written, or another run has it.
    """
    if path is None:
        yield
        return
    with ExitStack() as stack:
        for place in slots(path):
            _files.ready(place.with_name(place.name + ".npz"))  # found out before the work, not after it
        try:
            stack.enter_context(_files.held(path.with_name(path.name + ".lock")))
        except BlockingIOError:
            raise ValueError(
                f"The checkpoint {path} is in use by another run. Wait for that to end, or choose another "
                "`checkpoint`."
            ) from None
        except OSError as error:  # some network drives know no locks
            _check.warn(f"{path}.lock cannot be locked ({error}): see that no other run has this checkpoint.")
        yield


def fingerprint(value: Any) -> str | None:
    """A digest of everything that `value` was made of; None of what no file can hold, as a user's own."""
    if isinstance(value, Gated):  # somebody's own, whose attributes say nothing certain of what it computes
        return None
    if not isinstance(value, Kept) and type(value).__module__.split(".")[0] == __name__.split(".")[0]:
        value = {"of": type(value).__name__, **Kept._kept(value)}  # a network: no result keeps all its data
    try:
        return digest(value)
    except ValueError:
        return None


def nameless(text: Any) -> Any:
    """The text that a user's object shows, without its place in memory: that is another in every process."""
    return re.sub(r" at 0x[0-9A-Fa-f]+", "", text) if isinstance(text, str) else text
