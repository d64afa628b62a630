"""Results: provenance, saving and loading.

Arrays go to an npz, everything else to a JSON beside it; never a pickle, which would run what it holds.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import math
import os
import platform
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
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
        return "\n".join(
            lines + [f"  {key:<28} {value.dtype} {value.shape}" for key, value in self.arrays.items()]
        )


def provenance(**parameters: Any) -> dict[str, Any]:
    """Versions, platform and the given parameters, as JSON values."""
    versions = {name: _version(name) for name in ("sfn-stability", "numpy", "scipy")}
    return {
        "versions": versions,
        "python": platform.python_version(),
        "machine": platform.machine(),
        **jsonable(parameters),
    }


@functools.cache  # reading the metadata of a package takes milliseconds
def _version(name: str) -> str:
    # Slow to import, and wanted only with a result.
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def jsonable(value: Any) -> Any:
    """`value` in strict JSON's terms: numpy to Python, nan to null, infinities to "inf" and "-inf"."""
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
    arrays: dict[str, np.ndarray] = {}
    values: dict[str, Any] = {}
    for name in (f.name for f in dataclasses.fields(_KINDS[kind])):
        value = getattr(result, name)
        if isinstance(value, np.ndarray):
            arrays[name] = value
        elif isinstance(value, Mapping) and value and all(isinstance(v, np.ndarray) for v in value.values()):
            arrays.update({f"{name}/{key}": v for key, v in value.items()})
        else:
            values[name] = _encode(value)
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=False, **arrays)
    packed = stream.getvalue()
    # The checksum ties the two files together: cut off between them, a write is found out on loading.
    record = {"kind": kind, "format": FORMAT, "crc32": zlib.crc32(packed), "values": values}
    text = json.dumps(record, indent=1, sort_keys=True, allow_nan=False) + "\n"
    base = _base(path)
    try:
        base.parent.mkdir(parents=True, exist_ok=True)
        _replace({_beside(base, ".npz"): packed, _beside(base, ".json"): text.encode()})
    except OSError as error:
        raise ValueError(f"{base} cannot be written ({error.strerror}). Choose another place.") from None
    return _beside(base, ".json")


def load(path: str | Path) -> Any:
    """Read back what `save` wrote; give either file's name or their common base.

    Raises
    ------
    ValueError
        If a file is missing, damaged, of an unknown kind or of a newer format, or if the two were not
        written together.
    """
    base = _base(path)
    try:
        packed, text = _beside(base, ".npz").read_bytes(), _beside(base, ".json").read_bytes()
    except FileNotFoundError as error:
        raise ValueError(
            f"{error.filename} does not exist: a result is a .npz and a .json side by side."
        ) from None
    except OSError as error:
        raise ValueError(f"{base} cannot be read ({error.strerror}).") from None
    try:
        record = json.loads(text)
        newer = record["format"] > FORMAT
        if not newer:  # else what follows the format may mean something else
            kind, values, checksum = _KINDS[record["kind"]], dict(_decode(record["values"])), record["crc32"]
            with np.load(io.BytesIO(packed), allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
    except (
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        OSError,
        EOFError,
        zipfile.BadZipFile,
        zlib.error,
        NotImplementedError,
    ) as error:
        raise ValueError(f"{base} is not a saved result ({type(error).__name__}: {error}).") from None
    if newer:
        raise ValueError(
            f"{base} has format {record['format']}, newer than this version reads ({FORMAT}). Update the "
            "package."
        )
    if checksum != zlib.crc32(packed):
        raise ValueError(
            f"{base}.npz and {base}.json do not belong together: a write was cut off, or a file was changed. "
            "Save the result again."
        )
    return _build(base, kind, values, arrays)


def _build(base: Path, kind: type, values: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
    for name, value in arrays.items():
        head, _, key = name.partition("/")
        if key:
            values.setdefault(head, {})[key] = value
        else:
            values[head] = value
    for item in dataclasses.fields(kind):  # JSON has no tuples
        if str(item.type).startswith("tuple") and isinstance(values.get(item.name), list):
            values[item.name] = tuple(values[item.name])
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"{base} is not a saved {kind.__name__} ({error}).") from None


def _encode(value: Any) -> Any:
    """`value` in strict JSON's terms, with nan and infinities kept as ``{"float": "nan"}``."""
    if isinstance(value, Mapping):
        return {str(k): _encode(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encode(v) for v in value]
    if isinstance(value, (float, np.floating)) and not math.isfinite(value):
        return {"float": str(float(value))}
    return jsonable(value)


def _decode(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"float"} and value["float"] in ("nan", "inf", "-inf"):
            return float(value["float"])
        return {k: _decode(v) for k, v in value.items()}
    return [_decode(v) for v in value] if isinstance(value, list) else value


def _base(path: str | Path) -> Path:
    path = Path(path)
    return path.with_suffix("") if path.suffix in (".json", ".npz") else path


def _beside(base: Path, suffix: str) -> Path:
    return base.with_name(base.name + suffix)  # not with_suffix: a base may be called step0.5


def _replace(contents: Mapping[Path, bytes]) -> None:
    """Write files so that a reader sees each as it was or as it will be, never half of it."""
    temporary = {path: path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in contents}
    try:
        for path, content in contents.items():
            temporary[path].write_bytes(content)
        for path in contents:
            os.replace(temporary[path], path)
    finally:
        for path in temporary.values():
            path.unlink(missing_ok=True)
