"""Checkpoints of a run in two slots: a kill while one is written leaves the other."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .._saving import Kept, load


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
    path = Path(checkpoint)
    for endings in ((".json", ".npz"), (".a", ".b")):
        path = path.with_suffix("") if path.suffix in endings else path
    return path


def _written(path: Path) -> list[tuple[int, Path]]:
    """The slots that hold something."""
    return [
        (slot, place)
        for slot, place in enumerate(slots(path))
        if place.with_name(place.name + ".json").exists()
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


def _writable(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ValueError(
            f"The checkpoint {path} cannot be written ({error.strerror}). Choose another `checkpoint`."
        ) from None
