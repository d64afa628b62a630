"""Results: provenance, saving and loading.

Arrays go to an npz, everything else to a JSON beside it; never a pickle, which would run what it holds.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import io
import json
import math
import os
import platform
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ._display import Grid, Shown

FORMAT = 1
_INSIDE = ":"  # begins the names of arrays that lie deeper than a field
_KINDS: dict[str, type[Kept]] = {}
_LATER: dict[str, Callable[[], type[Kept]]] = {}


class Kept:
    """What `save` can write, by itself or inside a result.

    A dataclass, a class whose constructor takes what lies under the same names in its instances, or one with
    these two methods of its own. Only this package's own classes: a user's may need what no file holds.
    """

    _RENAMED: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__module__.split(".")[0] == __name__.split(".")[0]:
            _KINDS.setdefault(cls.__name__, cls)

    def _kept(self) -> dict[str, Any]:
        """What is written: arrays, JSON's values, and other kept objects, by name."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    @classmethod
    def _restored(cls, **values: Any) -> Any:
        """The object that was kept as these values, some under the names of an earlier version."""
        return cls(**{cls._RENAMED.get(name, name): value for name, value in values.items()})


class Result(Shown, Kept):
    """A result that shows itself, saves itself, is read back by `load`, and is equal to what was saved."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # A dataclass writes an `__eq__` that asks arrays for one truth, unless the class has its own.
        if cls.__eq__ is Result.__eq__:
            cls.__eq__ = Result.__eq__  # type: ignore[method-assign]

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self is other or _same(self._kept(), other._kept())

    __hash__ = None  # type: ignore[assignment]  # arrays inside may change

    def save(self, path: str | Path) -> Path:
        """Write this result as ``PATH.npz`` and ``PATH.json``; `stability.load` reads it back."""
        return save(self, path)


def _same(a: Any, b: Any) -> bool:
    """Whether two kept values are equal: arrays entry by entry, nan equal to nan."""
    if isinstance(a, Kept):
        return a is b or (type(a) is type(b) and _same(a._kept(), b._kept()))
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        a, b = np.asarray(a), np.asarray(b)
        return bool(np.array_equal(a, b, equal_nan=a.dtype.kind in "fc" and b.dtype.kind in "fc"))
    if isinstance(a, Mapping):
        return isinstance(b, Mapping) and a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b) or (a != a and b != b)  # nan differs from itself


@dataclass(frozen=True)
class Study(Result):
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

    Examples
    --------
    >>> import numpy as np, stability as st
    >>> st.Study("decay", {"t": np.arange(3.0)}, {"seed": 0})
    study 'decay': seed=0
    array  kind and shape
    t      float64 (3,)
    """

    name: str
    arrays: Mapping[str, np.ndarray]
    parameters: Mapping[str, Any]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, key: str) -> np.ndarray:
        return self.arrays[key]

    def _page(self) -> Iterator[str | Grid]:
        given = ", ".join(f"{key}={_brief(value)}" for key, value in self.parameters.items())
        yield f"study {self.name!r}" + (f": {given}" if given else "")
        rows = [(key, f"{value.dtype} {value.shape}") for key, value in self.arrays.items()]
        yield Grid([("array", ""), ("kind and shape", "")], rows)


def _brief(value: Any) -> str:
    """A parameter on one line."""
    shown = str(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


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

    Arrays are kept as they are. What theory answers from is kept too: a method's gain as the list of its
    operations, a user's own included; the noise; the objective, or of one that no file can hold its
    quadratic model at the critical point. A theorem is derived again when it is read back.

    Raises
    ------
    ValueError
        If the result is of a kind that cannot be saved, or the place cannot be written.

    Examples
    --------
    >>> import os, tempfile, numpy as np, stability as st
    >>> study = st.Study("decay", {"t": np.arange(3.0)}, {"seed": 0})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = st.save(study, os.path.join(folder, "decay"))
    ...     st.load(path)["t"]
    array([0., 1., 2.])
    """
    arrays: dict[str, np.ndarray] = {}
    values: dict[str, Any] = {}
    kind = _kind(result)
    for name, value in result._kept().items():
        if isinstance(value, np.ndarray):
            arrays[name] = value
        elif isinstance(value, Mapping) and value and all(isinstance(v, np.ndarray) for v in value.values()):
            arrays.update({f"{name}/{key}": v for key, v in value.items()})
        else:
            values[name] = _encode(value, arrays)
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


def keeps(value: Any) -> bool:
    """Whether a file can hold `value`, as far as its class tells."""
    return _KINDS.get(type(value).__name__) is type(value)


def later(name: str, find: Callable[[], type[Kept]]) -> None:
    """Register a kind whose module is imported only when one is read back."""
    _LATER[name] = find


def _known(name: Any) -> type[Kept]:
    if name not in _KINDS and name in _LATER:
        _LATER[name]()  # importing the module registers it
    return _KINDS[name]


def _kind(value: Any) -> str:
    """The name under which a kept object is read back."""
    kind = type(value).__name__
    if not keeps(value):
        raise ValueError(
            f"`result` must be one of this package's results; got a {kind}, which cannot be saved. Save its "
            "numbers: st.save(st.Study(name, arrays, parameters), path)."
        )
    return kind


def load(path: str | Path) -> Any:
    """Read back what `save` wrote; give either file's name or their common base.

    Raises
    ------
    ValueError
        If a file is missing, damaged, of an unknown kind or of a newer format, or if the two were not
        written together.

    Examples
    --------
    >>> import os, tempfile, stability as st
    >>> time = st.exit_time(rate=0.5, diffusion=0.01, radius=1.0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = time.save(os.path.join(folder, "exit"))
    ...     st.load(path) == time
    True
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
            kind, checksum = _known(record["kind"]), record["crc32"]
            with np.load(io.BytesIO(packed), allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            values = dict(_decode(record["values"], arrays))
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
    for name, value in arrays.items():
        head, _, key = name.partition("/")
        if key:
            values.setdefault(head, {})[key] = value
        elif not name.startswith(_INSIDE):
            values[head] = value
    try:
        return _build(kind, values)
    except TypeError as error:
        raise ValueError(f"{base} is not a saved {kind.__name__} ({error}).") from None


def _build(kind: type[Kept], values: dict[str, Any]) -> Any:
    fields: tuple[dataclasses.Field, ...] = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
    for item in fields:  # JSON has no tuples
        if str(item.type).startswith("tuple") and isinstance(values.get(item.name), list):
            values[item.name] = tuple(values[item.name])
    return kind._restored(**values)


def _encode(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """`value` in strict JSON's terms.

    nan and infinities as ``{"float": "nan"}``, arrays by their name among the arrays, kept objects as their
    kind and values.
    """
    if isinstance(value, Kept):
        return {"kept": _kind(value), "values": {k: _encode(v, arrays) for k, v in value._kept().items()}}
    if isinstance(value, np.ndarray):
        name = f"{_INSIDE}{len(arrays)}"
        arrays[name] = value
        return {"array": name}
    if isinstance(value, Mapping):
        return {str(k): _encode(v, arrays) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encode(v, arrays) for v in value]
    if isinstance(value, (float, np.floating)) and not math.isfinite(value):
        return {"float": str(float(value))}
    if not (value is None or isinstance(value, (bool, int, float, str, np.generic))):
        raise ValueError(
            f"A result that holds a {type(value).__name__} cannot be saved: a file keeps numbers, text and "
            "this package's own objects. Save its numbers: st.save(st.Study(name, arrays, parameters), path)."
        )
    return jsonable(value)


def _decode(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    if isinstance(value, list):
        return [_decode(v, arrays) for v in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"float"} and value["float"] in ("nan", "inf", "-inf"):
        return float(value["float"])
    if value.keys() == {"array"} and value["array"] in arrays:
        return arrays[value["array"]]
    inside = {k: _decode(v, arrays) for k, v in value.items() if k != "kept"}
    if value.keys() == {"kept", "values"}:
        return _build(_known(value["kept"]), inside["values"])
    return value | inside


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
