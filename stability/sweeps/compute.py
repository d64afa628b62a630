"""One point: the study is called, and what it gives or raises becomes texts that any engine carries."""

from __future__ import annotations

import math
import numbers
import os
import time
import traceback
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from .. import _check
from .._cores import keep_to_one_core
from .._estimate import Estimate, Number
from . import records
from .grid import RESERVED
from .records import DONE, FAILED, UNSTABLE
from .study import OWN, NotThere, Reference, load

LARGEST = 100_000
"""Numbers that a point may return: more belong into a file of the study's own."""
LONGEST = 2000
"""Letters of a reason."""
ABSENT = "absent"
"""The status of a point whose worker has not the study: of no record."""
drivers: set[str] = set()
"""Marks of those in this process that keep records, and see to its cores themselves."""


class Task(NamedTuple):
    """A point as it travels to a worker: texts alone, which every engine can carry.

    Attributes
    ----------
    key : str
    reference : tuple
        Of the study.
    parameters, call : str
        Of the point, and of them those that the study is called with.
    stream : str
        The digest from which its random numbers come; none if it takes none.
    driver : str
        A mark of the process that keeps the records.
    """

    key: str
    reference: tuple[str, ...]
    parameters: str
    call: tuple[str, ...]
    stream: str
    driver: str


class Outcome(NamedTuple):
    """What became of a point, as it travels back."""

    status: str
    reason: str
    values: str
    seconds: float


def compute(task: Task) -> Outcome:
    """Call the study at one point; whatever it raises becomes an outcome, but Ctrl-C."""
    began = time.perf_counter()
    if task.driver not in drivers:
        keep_to_one_core()
    values: dict[str, Any] = {}
    try:
        study = load(Reference(*task.reference))
        given = records.from_text(task.parameters)
        arguments = {name: given[name] for name in task.call}
        if task.stream:
            arguments[OWN] = generator(task.stream)
        status, reason, values = DONE, *named(study(**arguments), given)
    except NotThere as error:
        status, reason = ABSENT, str(error)
    # Before other exceptions: it is what the study found out, and no failure of it.
    except _check.Unstable as error:
        status, reason = UNSTABLE, str(error)
    # One point that calls sys.exit must not end the others.
    except (Exception, SystemExit) as error:
        status, reason = FAILED, _told(error, task)
    return Outcome(status, _writable(reason[:LONGEST]), records.to_text(values), time.perf_counter() - began)


def generator(digest: str) -> np.random.Generator:
    """A point's own random numbers, from all 256 bits of the digest of its parameters and the seed."""
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence(int(digest, 16))))


def _told(error: BaseException, task: Task) -> str:
    """An exception in a line, with where the study raised it."""
    said = str(error) or ("it stopped Python" if isinstance(error, SystemExit) else "")
    # Not the innermost frame, which is mostly a library's: the user knows the study. A file without a folder,
    # such as <stdin>, is nowhere to look.
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.name == task.reference[1].rpartition(".")[2] and os.path.dirname(frame.filename)
    ]
    where = f" ({os.path.basename(own[-1].filename)}, line {own[-1].lineno})" if own else ""
    return f"{type(error).__name__}{said and ': '}{said}{where}"


def named(found: Any, parameters: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """What a study returned, as a reason and numbers, texts and arrays by name.

    Raises
    ------
    TypeError, ValueError
        If it cannot be kept.
    """
    if not isinstance(found, Mapping):
        if isinstance(found, (str, bytes, type(None))) or not (
            isinstance(found, (numbers.Number, np.ndarray, list)) or hasattr(found, "__array__")
        ):
            raise TypeError(
                f"a study must return a mapping {{name: number or array}}; got {_check.shown(found)}"
            )
        found = {"value": found}
    reason, values = "", dict[str, Any]()
    for name, value in _spread(found):
        if name == "reason" and isinstance(value, str):
            reason = value
            continue
        if not isinstance(name, str) or not name.isidentifier() or name in RESERVED or name in parameters:
            raise ValueError(
                f"a study must return numbers under names of their own; {_check.shown(name)} is "
                f"{'a parameter' if name in parameters else 'none'}"
            )
        values[name] = _value(name, value)
    if sum(np.size(value) for value in values.values()) > LARGEST:
        raise ValueError(f"a study may return {LARGEST:,} numbers at a point: return a summary")
    wrong = [name for name, value in values.items() if not _finite(value)]
    if wrong and not reason:
        reason = f"not finite: {', '.join(wrong)}"
    return reason, values


def _spread(found: Mapping[Any, Any]) -> Iterator[tuple[Any, Any]]:
    """Names and values; an estimate is a number and its error."""
    for name, value in found.items():
        if isinstance(value, (Estimate, Number)):
            yield name, value.value
            yield f"{name}_error", value.error
        else:
            yield name, value


def _value(name: str, value: Any) -> Any:
    """A number or a text of Python's own, or an array."""
    if value is None:
        return math.nan
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _writable(value)
    try:
        array = np.asarray(value)
    except ValueError:
        raise ValueError(f"`{name}` must be a number or an array; its rows differ in length") from None
    if array.dtype.kind == "U":
        array = np.array([_writable(text) for text in array.ravel()], dtype=str).reshape(array.shape)
    else:
        array = _check.numbers_of(name, value)
    if array.dtype.kind == "f":
        # float32 would come back as itself, and stand beside float64 of other points.
        array = array.astype(float)
    return array.item() if array.ndim == 0 else np.ascontiguousarray(array)


def _writable(text: str) -> str:
    """A text as NetCDF holds it: what is no UTF-8, and zero bytes, by their names."""
    return text.replace("\0", "\\0").encode(errors="backslashreplace").decode()


def _finite(value: Any) -> bool:
    return isinstance(value, str) or np.asarray(value).dtype.kind == "U" or bool(np.all(np.isfinite(value)))
