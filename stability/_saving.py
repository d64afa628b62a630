"""Results: provenance, saving and loading.

One file for each: arrays as NumPy keeps them, everything else as JSON; never a pickle, which would run what
it holds.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import math
import platform
import re
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from . import _archive, _files
from ._display import Grid, Shown

FORMAT = 2
DEEPEST = 100
"""Most levels of lists, mappings and objects inside one another that are written."""
_INSIDE = ":"  # begins the names of arrays that have none of their own
_READABLE = re.compile(r"[\w .,+-]+(/[\w .,+-]+)?")
_WORDS = ({"float"}, {"array"}, {"tuple"}, {"mapping"}, {"kept", "values"})  # keys that mean something else
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
        # Of this package alone: a file names its kinds, and what anybody defines is not to be found by them.
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
        """Write this result as ``PATH.npz``; `stability.load` reads it back."""
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
    # Before whole numbers: to Python a bool is one.
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        if math.isnan(value):
            return None
        return float(value) if math.isfinite(value) else ("inf" if value > 0 else "-inf")
    return value if value is None or isinstance(value, str) else repr(value)


def save(result: Any, path: str | Path, *, readable: bool = False) -> Path:
    """Write a result as the one file ``PATH.npz``; returns its path.

    Whole or not at all, also where the process is killed or the disk is full, and sealed by a checksum of
    everything in it. Arrays are kept as they are, and `numpy.load` reads them too. What theory answers from
    is kept as well: a method's gain as the list of its operations, a user's own included; the noise; the
    objective, or of one that no file can hold its quadratic model at the critical point. A theorem is
    derived again when it is read back.

    Parameters
    ----------
    result : a result of this package
    path : path
        With ``.npz`` or without. A linked folder is followed; a link in the file's place is refused.
    readable : bool
        Leave ``PATH.json`` beside it too: a copy of everything but the arrays, to be looked at and compared.
        It is never read back.

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
    kind = _kind(result)
    values = {name: encode(value, arrays, name) for name, value in result._kept().items()}
    record = {"kind": kind, "format": FORMAT, "values": values}
    text = json.dumps(record, indent=1, allow_nan=False) + "\n"
    base = _base(path)
    copy = _beside(base, ".json")
    written = _files.write(_beside(base, ".npz"), _archive.pack(arrays, text))
    try:
        if readable or _is_copy(copy):
            _files.write(copy, text.encode())
    except ValueError as error:
        raise ValueError(f"{error} The result itself is in {written}.") from None
    return written


def _is_copy(path: Path) -> bool:
    """Whether the JSON there was written beside an earlier result, and would now tell of that one."""
    try:
        record = json.loads(_record_of(path))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(record, dict) and record.keys() - {"crc32"} == {"kind", "format", "values"}


def digest(*values: Any) -> str:
    """One line that changes with any bit of what a file would keep of these values.

    Raises
    ------
    ValueError
        If no file can hold one of them.
    """
    arrays: dict[str, np.ndarray] = {}
    text = json.dumps(encode(list(values), arrays))
    return _archive.digest(arrays, [text])


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
    """Read back what `save` wrote; give its name with ``.npz`` or without.

    Nothing in the file is run. Pairs of a ``.npz`` and a ``.json``, as earlier versions wrote, are read as
    well; their ``.json`` has no checksum, of which a warning tells: save them again.

    Raises
    ------
    ValueError
        If the file is missing, damaged in any bit, no result, of an unknown kind or a newer format, or would
        unpack to more than 1 GB and more than a hundred times its size.

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
    place = _files.regular(_beside(base, ".npz"))
    try:
        found = _archive.unpack(place)
        if found is not None:
            return _build(*_read(*found))
        result = _build(*_pair(base))
    except ImportError:  # of an extra that the result needs
        raise
    except OSError as error:
        raise ValueError(f"{error.filename or place} cannot be read ({error.strerror}).") from None
    except _Told as error:
        raise ValueError(f"{place} {error}") from None
    except _archive.Damaged as error:
        raise ValueError(f"{place} is damaged: {error}. Save the result again.") from None
    except Exception as error:  # what a file may hold to make its reader fail has no end
        raise ValueError(f"{place} is not a saved result ({type(error).__name__}: {error}).") from None
    warnings.warn(
        f"{place} is of an earlier version, and its half {base.name}.json has no checksum: a bit that "
        "has changed in there is not found. Look at the numbers, and save the result again.",
        UserWarning,
        stacklevel=2,
    )
    return result


class _Told(ValueError):
    """A refusal whose words follow the file's name."""


def _read(arrays: Mapping[str, np.ndarray], text: bytes) -> tuple[type[Kept], dict[str, Any]]:
    """The kind and the values of what one file holds."""
    record = json.loads(text, parse_constant=_refuse_constant)
    if record["format"] > FORMAT:  # what follows it may mean something else
        raise _Told(
            f"has format {record['format']}, newer than this version reads ({FORMAT}). Update the package."
        )
    return _known(record["kind"]), dict(decode(record["values"], arrays))


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _pair(base: Path) -> tuple[type[Kept], dict[str, Any]]:
    """The kind and the values of a pair of files, as versions before format 2 wrote it."""
    archive, beside = _beside(base, ".npz"), _beside(base, ".json")
    if not beside.exists():
        raise _Told(
            "is damaged, or was not written by `st.save`: it ends with no checksum. (Earlier versions kept a "
            f"part of a result in {beside.name} beside it, which is not there.)"
        )
    record = json.loads(_record_of(beside))
    if record["format"] != 1 or record["crc32"] != _crc32(archive):
        raise _Told(
            f"and {beside.name} do not belong together: a write was cut off, or a file was changed. Save the "
            "result again."
        )
    with zipfile.ZipFile(archive) as packed:
        arrays = _archive.arrays_of(packed)
    kind, values = _known(record["kind"]), dict(decode(record["values"], arrays))
    for name, value in arrays.items():
        head, _, key = name.partition("/")
        if key:
            values.setdefault(head, {})[key] = value
        elif not name.startswith(_INSIDE):
            values[head] = value
    return kind, values


def _crc32(path: Path) -> int:
    found = 0
    with open(path, "rb") as stream:
        while piece := stream.read(1 << 20):
            found = zlib.crc32(piece, found)
    return found


def _record_of(path: Path) -> bytes:
    """The JSON in a file of its own."""
    with open(_files.regular(path), "rb") as stream:
        text = stream.read(_archive.MAX_TEXT + 1)
    if len(text) > _archive.MAX_TEXT:
        raise ValueError(f"{path} has more than {_archive.MAX_TEXT:,} bytes")
    return text


def _build(kind: type[Kept], values: dict[str, Any]) -> Any:
    fields: tuple[dataclasses.Field, ...] = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
    for item in fields:  # JSON has no tuples
        if str(item.type).startswith("tuple") and isinstance(values.get(item.name), list):
            values[item.name] = tuple(values[item.name])
    return kind._restored(**values)


def encode(value: Any, arrays: dict[str, np.ndarray], name: str = "", deep: int = 0) -> Any:
    """`value` in strict JSON's terms.

    nan and infinities as ``{"float": "nan"}``, arrays by their name among the arrays, kept objects as their
    kind and values, and what JSON lacks by a word for it. `name` is where the value lies in the result.
    """
    if deep > DEEPEST:
        raise ValueError(
            f"A result with more than {DEEPEST} lists, mappings or objects inside one another cannot be "
            "saved. Keep its numbers as arrays."
        )
    inside = functools.partial(encode, arrays=arrays, deep=deep + 1)
    if isinstance(value, Kept):
        return {"kept": _kind(value), "values": {k: inside(v) for k, v in value._kept().items()}}
    if isinstance(value, np.ndarray):
        return {"array": _stored(value, arrays, name)}
    if isinstance(value, Mapping):
        if all(isinstance(key, str) for key in value) and value.keys() not in _WORDS:
            return {key: inside(v, name=f"{name}/{key}") for key, v in value.items()}
        return {"mapping": [[inside(key), inside(v)] for key, v in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [inside(v) for v in value]}
    if isinstance(value, list):
        return [inside(v) for v in value]
    if isinstance(value, (float, np.floating)) and not math.isfinite(value):
        return {"float": str(float(value))}
    if not (value is None or isinstance(value, (bool, int, float, str, np.bool_, np.integer, np.floating))):
        raise ValueError(
            f"A result that holds a {type(value).__name__} cannot be saved: a file keeps numbers, text and "
            "this package's own objects. Save its numbers: st.save(st.Study(name, arrays, parameters), path)."
        )
    return jsonable(value)


def _stored(value: np.ndarray, arrays: dict[str, np.ndarray], name: str) -> str:
    """The name of an array among the arrays: its own where that is a plain one."""
    if hasattr(value, "mask"):  # NumPy loads its masked arrays when they are first named
        raise ValueError("A masked array cannot be saved: its mask would be lost. Save x.filled(np.nan).")
    if not _READABLE.fullmatch(name) or name in arrays:
        name = f"{_INSIDE}{len(arrays)}"
    arrays[name] = value
    return name


def decode(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """A value from its JSON form and the arrays beside it, as `encode` left them."""
    if isinstance(value, list):
        return [decode(v, arrays) for v in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"float"} and value["float"] in ("nan", "inf", "-inf"):
        return float(value["float"])
    if value.keys() == {"array"} and value["array"] in arrays:
        return arrays[value["array"]]
    if value.keys() == {"tuple"}:
        return tuple(decode(v, arrays) for v in value["tuple"])
    if value.keys() == {"mapping"}:
        return {decode(k, arrays): decode(v, arrays) for k, v in value["mapping"]}
    inside = {k: decode(v, arrays) for k, v in value.items() if k != "kept"}
    if value.keys() == {"kept", "values"}:
        return _build(_known(value["kept"]), inside["values"])
    return value | inside


def _base(path: str | Path) -> Path:
    path = _files.named(path)
    return path.with_suffix("") if path.suffix in (".json", ".npz") else path


def _beside(base: Path, suffix: str) -> Path:
    return base.with_name(base.name + suffix)  # not with_suffix: a base may be called step0.5
