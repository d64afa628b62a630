"""Records: what became of a point, as a text that is written whole, sealed, and read back to the last bit."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import _files, _saving

FORMAT = 1
DONE, UNSTABLE, FAILED, MISSING = "done", "unstable", "failed", "missing"
"""What became of a point: `st.Unstable` is an answer, any other exception a failure, which may be retried."""
_SEAL = b"stability sha256 "


class Damaged(ValueError):
    """A file was changed after it had been written, or cut off."""


@dataclass(frozen=True)
class Record:
    """What became of a point.

    Attributes
    ----------
    parameters : dict
    status : {"done", "unstable", "failed"}
    reason : str
        Why it is not done, or what is odd about its numbers.
    values : dict
        Numbers, texts and arrays by name.
    """

    parameters: Mapping[str, Any]
    status: str
    reason: str
    values: Mapping[str, Any]


def to_text(value: Any) -> str:
    """Anything that a record or a manifest holds as one line; equal values give equal lines.

    Raises
    ------
    ValueError
        If no file can hold it.
    """
    arrays: dict[str, np.ndarray] = {}
    told = {"value": _saving.encode(value, arrays)}
    if arrays:
        told["arrays"] = {
            name: [array.dtype.str, array.shape, base64.b64encode(array.tobytes()).decode()]
            for name, array in arrays.items()
        }
    return json.dumps(told, allow_nan=False)


def from_text(text: str | bytes) -> Any:
    """What `to_text` was given."""
    told = json.loads(text)
    return _saving.decode(
        told["value"], {name: _array(*told["arrays"][name]) for name in told.get("arrays", ())}
    )


def _array(kind: str, shape: list[int], numbers: str) -> np.ndarray:
    dtype = np.dtype(kind)
    # Its bytes would be addresses.
    if dtype.hasobject:
        raise ValueError("an array of objects")
    return np.frombuffer(base64.b64decode(numbers), dtype).reshape(shape)


def digest(*texts: str) -> str:
    """One line of 64 hexadecimal digits that changes with any of these texts."""
    found = hashlib.sha256()
    for text in texts:
        # With its length before each: else "ab", "c" and "a", "bc" would be one.
        found.update(f"{len(text)} {text}".encode())
    return found.hexdigest()


def key_of(parameters: Mapping[str, Any]) -> str:
    """What a point is called: a digest of its parameters, whatever their order."""
    return digest(to_text(dict(sorted(parameters.items()))))


def write(path: Path, told: Mapping[str, Any]) -> None:
    """Write a file of one line and its seal: the old one or this one, also after a kill.

    Raises
    ------
    ValueError
        If it cannot be written.
    """
    line = to_text({"format": FORMAT, **told}).encode() + b"\n"
    _files.write(path, line + _SEAL + hashlib.sha256(line).hexdigest().encode() + b"\n")


def read(path: Path) -> dict[str, Any]:
    """What `write` was given.

    Raises
    ------
    FileNotFoundError
        If there is none.
    Damaged
        If it was changed, or cut off.
    ValueError
        If its format is newer than this version reads.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}).") from None
    # JSON on one line has no other line break: what follows the first one is the seal.
    line, _, seal = content.partition(b"\n")
    if seal != _SEAL + hashlib.sha256(line + b"\n").hexdigest().encode() + b"\n":
        raise Damaged(f"{path} is damaged: its checksum does not fit, so that it was cut off or changed.")
    try:
        told = from_text(line)
        form = told["format"]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise Damaged(f"{path} is damaged: {error}") from None
    if form > FORMAT:
        raise ValueError(
            f"{path} has format {form}, newer than this version reads ({FORMAT}). Update the package."
        )
    return told
