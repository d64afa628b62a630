"""Results: provenance, saving and loading. Arrays go to an npz, everything else to a JSON beside it; never a pickle."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

FORMAT = 1
_KINDS: dict[str, type] = {}


def register(kind: type) -> type:
    """Class decorator: a frozen dataclass whose instances `save` writes and `load` reads back."""
    _KINDS[kind.__name__] = kind
    return kind


@register
@dataclass(frozen=True)
class Study:
    """The numbers behind one picture.

    Attributes
    ----------
    name : str
        Which study; `stability.plot` draws by it.
    arrays : dict of arrays
    parameters : dict
        What was asked for, seed included.
    provenance : dict
        Versions and platform.
    """

    name: str
    arrays: Mapping[str, np.ndarray]
    parameters: Mapping[str, Any]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, key: str) -> np.ndarray:
        return self.arrays[key]

    def __str__(self) -> str:
        lines = [f"study {self.name!r}: " + ", ".join(f"{k}={v}" for k, v in self.parameters.items())]
        return "\n".join(lines + [f"  {key:<28} {value.dtype} {value.shape}" for key, value in self.arrays.items()])


def provenance(**parameters: Any) -> dict[str, Any]:
    """Versions, platform and the given parameters, as JSON values."""
    versions = {name: _version(name) for name in ("sfn-stability", "numpy", "scipy")}
    return {"versions": versions, "python": platform.python_version(), "machine": platform.machine(), **jsonable(parameters)}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def jsonable(value: Any) -> Any:
    """`value` in strict JSON's terms: numpy to Python, nan to null, infinities to the strings "inf" and "-inf"."""
    if isinstance(value, Mapping):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return jsonable(value.tolist())
    if isinstance(value, (list, tuple)):
        return [jsonable(v) for v in value]
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        if math.isnan(value):
            return None
        return float(value) if math.isfinite(value) else ("inf" if value > 0 else "-inf")
    return value if value is None or isinstance(value, str) else repr(value)


def save(result: Any, path: str | Path) -> Path:
    """Write a result as ``PATH.npz`` and ``PATH.json``; returns the JSON's path.

    Raises
    ------
    ValueError
        If the result is of a kind that cannot be saved, or the place cannot be written.
    """
    kind = type(result).__name__
    if _KINDS.get(kind) is not type(result):
        raise ValueError(f"A {kind} cannot be saved; these can: {', '.join(sorted(_KINDS))}.")
    fields = {f.name: getattr(result, f.name) for f in dataclasses.fields(_KINDS[kind])}
    arrays: dict[str, np.ndarray] = {}
    values: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, np.ndarray):
            arrays[name] = value
        elif isinstance(value, Mapping) and value and all(isinstance(v, np.ndarray) for v in value.values()):
            arrays.update({f"{name}/{key}": v for key, v in value.items()})
        else:
            values[name] = jsonable(value)
    base = _base(path)
    try:
        base.parent.mkdir(parents=True, exist_ok=True)
        _replace(base.with_name(base.name + ".npz"), lambda stream: np.savez_compressed(stream, allow_pickle=False, **arrays))
        text = json.dumps({"kind": kind, "format": FORMAT, "values": values}, indent=1, sort_keys=True, allow_nan=False)
        _replace(base.with_name(base.name + ".json"), lambda stream: stream.write(text.encode() + b"\n"))
    except OSError as error:
        raise ValueError(f"{base} cannot be written ({error.strerror}). Choose another place.") from None
    return base.with_name(base.name + ".json")


def load(path: str | Path) -> Any:
    """Read back what `save` wrote; give either file's name or their common base.

    Raises
    ------
    ValueError
        If a file is missing, damaged, of an unknown kind or of a newer format.
    """
    base = _base(path)
    try:
        record = json.loads(base.with_name(base.name + ".json").read_text())
        with np.load(base.with_name(base.name + ".npz"), allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        kind, values = _KINDS[record["kind"]], dict(record["values"])
        if record["format"] > FORMAT:
            raise ValueError(f"{base} has format {record['format']}, newer than this version reads ({FORMAT}). Update the package.")
    except FileNotFoundError as error:
        raise ValueError(f"{error.filename} does not exist: a result is a .npz and a .json side by side.") from None
    except (KeyError, TypeError, json.JSONDecodeError, OSError, EOFError) as error:
        raise ValueError(f"{base} is not a saved result ({type(error).__name__}: {error}).") from None
    for name, value in arrays.items():
        head, _, key = name.partition("/")
        if key:
            values.setdefault(head, {})[key] = value
        else:
            values[head] = value
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"{base} is not a saved {kind.__name__} ({error}).") from None


def _base(path: str | Path) -> Path:
    path = Path(path)
    return path.with_suffix("") if path.suffix in (".json", ".npz") else path


def _replace(path: Path, write: Any) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as stream:
            write(stream)
        os.replace(temporary, path)  # a reader sees the old file or the new one, never half of it
    finally:
        temporary.unlink(missing_ok=True)
