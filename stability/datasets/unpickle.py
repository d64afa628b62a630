"""Plain data out of a pickle file without unpickling it.

Dictionaries, lists, numbers, text and arrays of integers, nothing else.

The file's instructions are listed by `pickletools`, which runs none of them, and the few that such data need
are carried out here. A name in the file is compared with a short list and never looked up, so that nothing of
its choosing can be called.
"""

from __future__ import annotations

import io
import math
import pickletools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import _files

MAX_BYTES = 400_000_000
"""Largest file read: more than twice the largest of CIFAR's."""
MAX_INSTRUCTIONS = 2_000_000
"""Most instructions carried out, about ten times what CIFAR's longest file has: some seconds."""
MAX_KEY = 100
"""Longest key of a dictionary, in characters."""

NAMES = {
    ("numpy.core.multiarray", "_reconstruct"): "array",
    ("numpy._core.multiarray", "_reconstruct"): "array",
    ("numpy.core.numeric", "_frombuffer"): "buffer",
    ("numpy._core.numeric", "_frombuffer"): "buffer",
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    ("_codecs", "encode"): "encode",
}
INTEGERS = {f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)}
ORDERS = {"<": "<", ">": ">", "|": "="}
VALUES = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
WORDS = {f"{short}BIN{kind}" for short in ("", "SHORT_") for kind in ("STRING", "UNICODE", "BYTES")}
ARGUMENTS = {"BININT", "BININT1", "BININT2", "LONG1", "BINBYTES8", "BYTEARRAY8"} | WORDS


@dataclass(frozen=True)
class _Name:
    """What a name in the file stands for here; by itself it does nothing."""

    role: str


@dataclass
class _Type:
    """An integer type: its code, and the byte order that follows it in the file."""

    code: str
    order: str = "="


@dataclass
class _Array:
    """An array, empty until the file fills it."""

    values: np.ndarray | None = None


def read_pickle(path: Path) -> dict[str, Any]:
    """The dictionary in a pickle file of protocol 2 to 5; its keys as text, its arrays read-only.

    Raises
    ------
    ValueError
        If the file is missing, too large, damaged, or holds anything but plain data.
    """
    try:
        if _files.regular(path).stat().st_size > MAX_BYTES:
            raise ValueError(
                f"{path} has {path.stat().st_size:,} bytes; at most {MAX_BYTES:,} are read. Give a file of "
                "CIFAR as it was published."
            )
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}).") from None
    try:
        # A machine of our own, which knows no way to call anything: no name of the file is ever imported.
        result = _Machine(len(content)).run(content)
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
        told = "an instruction finds too few values" if isinstance(error, IndexError) else error
        raise ValueError(
            f"{path} is not a pickle of plain data: {told}. Nothing of it was run; get the file from its "
            "original source."
        ) from None
    return {key: value.values if isinstance(value, _Array) else value for key, value in result.items()}


class _Machine:
    """The stack, the marks and the memo that a pickle's instructions work on."""

    def __init__(self, size: int):
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        # Bytes that arrays may still take: repetition must not unfold a small file into a large one.
        self.left = 4 * size

    def run(self, content: bytes) -> dict[str, Any]:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(io.BytesIO(content))):
            if count == MAX_INSTRUCTIONS:
                raise ValueError(f"it has more than {MAX_INSTRUCTIONS:,} instructions")
            if opcode.name == "STOP":
                break
            self.step(opcode.name, argument)
        result = self.stack.pop()
        if not isinstance(result, dict):
            raise ValueError(f"it holds a {type(result).__name__.lstrip('_').lower()}, not a dictionary")
        return result

    def step(self, instruction: str, argument: Any) -> None:
        stack = self.stack
        match instruction:
            case "PROTO" | "FRAME":
                pass
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = stack[-1]
            case "MEMOIZE":
                # The instruction counts by itself, as pickle's own reader does.
                self.memo[len(self.memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                if argument not in self.memo:
                    raise ValueError(f"it refers to value {argument}, of which there is none")
                stack.append(self.memo[argument])
            case "MARK":
                self.outer.append(stack)
                self.stack = []
            case "GLOBAL":
                stack.append(_named(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(_named(module, name))
            case "REDUCE":
                arguments, name = stack.pop(), stack.pop()
                stack.append(self.call(name, arguments))
            case "BUILD":
                state = stack.pop()
                self.fill(stack[-1], state)
            case _ if instruction in VALUES:
                stack.append(VALUES[instruction])
            case _ if instruction in ARGUMENTS:
                stack.append(argument)
            case _:
                self.collect(instruction)

    def collect(self, instruction: str) -> None:
        """The instructions that make and extend lists, tuples and dictionaries."""
        match instruction:
            case "EMPTY_LIST":
                self.stack.append([])
            case "EMPTY_DICT":
                self.stack.append({})
            case "EMPTY_TUPLE":
                self.stack.append(())
            case "TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
                items = self.marked() if instruction == "TUPLE" else self.popped(int(instruction[-1]))
                self.stack.append(tuple(items))
            case "APPEND" | "APPENDS":
                items = self.popped(1) if instruction == "APPEND" else self.marked()
                _kind(self.stack[-1], list).extend(items)
            case "SETITEM" | "SETITEMS":
                items = self.popped(2) if instruction == "SETITEM" else self.marked()
                _kind(self.stack[-1], dict).update(zip(map(_text, items[::2]), items[1::2], strict=True))
            case _:
                raise ValueError(f"it uses the instruction {instruction}")

    def popped(self, count: int) -> list[Any]:
        items = self.stack[-count:]
        if len(items) < count:
            raise ValueError("an instruction finds too few values")
        del self.stack[-count:]
        return items

    def marked(self) -> list[Any]:
        items, self.stack = self.stack, self.outer.pop()
        return items

    def call(self, name: Any, arguments: Any) -> Any:
        """What NumPy's own functions would return for the arguments that a stored array of integers has."""
        role = _kind(name, _Name).role
        if role == "array":
            return _Array()
        if role == "encode" and len(arguments) == 2:
            return self.encoded(_kind(arguments[0], str))
        if role == "dtype":
            if _kind(arguments[0], str) not in INTEGERS:
                raise ValueError("it holds an array of something else than integers")
            return _Type(arguments[0])
        if role == "buffer":
            values, kind, shape, order = arguments
            return _Array(self.array(values, kind, shape, order == "F"))
        raise ValueError("it calls what is no function of plain data")

    def fill(self, target: Any, state: Any) -> None:
        """The state of a type, ``(version, byte order, ...)``, or of an array.

        That is ``(version, shape, type, by columns, bytes)``.
        """
        if isinstance(target, _Type):
            order = _kind(state[1], str)
            if order not in ORDERS:
                raise ValueError(f"an array has the unknown byte order {order[:9]!r}")
            target.order = ORDERS[order]
        elif isinstance(target, _Array):
            _, shape, kind, by_columns, values = state
            target.values = self.array(values, kind, shape, by_columns)
        else:
            raise ValueError("it sets the state of something else than an array")

    def encoded(self, text: str) -> bytes:
        self.spend(len(text))
        return text.encode("latin-1")  # the inverse of how Python 2's strings are listed

    def spend(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise ValueError("its arrays take far more room than the file")

    def array(self, values: Any, kind: Any, shape: Any, by_columns: Any) -> np.ndarray:
        self.spend(len(values))
        content = (
            bytes(values) if isinstance(values, (bytes, bytearray)) else self.encoded(_kind(values, str))
        )
        if not all(type(size) is int and size >= 0 for size in _kind(shape, tuple)) or len(shape) > 4:
            raise ValueError("an array has no sensible shape")
        # A view of the bytes: nothing is allocated for what the shape claims.
        flat = np.frombuffer(content, dtype=np.dtype(_kind(kind, _Type).code).newbyteorder(kind.order))
        if flat.size != math.prod(shape):
            raise ValueError(f"an array of shape {shape} comes with {flat.size} entries")
        return flat.reshape(shape, order="F" if by_columns else "C")


def _named(module: Any, name: Any) -> _Name:
    if (_kind(module, str), _kind(name, str)) not in NAMES:
        raise ValueError(f"it names {module[:40]}.{name[:40]}, which plain data do not need")
    return _Name(NAMES[module, name])


def _kind(value: Any, wanted: type) -> Any:
    # The type itself, no subclass: the machine makes plain ones only.
    if type(value) is not wanted:
        raise ValueError(
            f"it has a {type(value).__name__.strip('_').lower()} where a "
            f"{wanted.__name__.strip('_').lower()} belongs"
        )
    return value


def _text(key: Any) -> str:
    if type(key) not in (str, bytes) or len(key) > MAX_KEY:
        raise ValueError(f"a dictionary has a key that is no text of at most {MAX_KEY} characters")
    return key.decode("latin-1") if isinstance(key, bytes) else key
