"""The text in a table's file: unpacked, decoded, and with lines no longer than a limit."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from .. import _files
from .refusal import Refused

MAX_LINE = 16_000_000
"""Characters of a line at most."""

SAMPLE = 1_000_000
"""Characters from which separator, decimal mark and header are told."""

MAX_UNPACKED, MAX_RATIO = 1_000_000_000, 100
"""What is packed gives at most so many bytes, or so many times its own size where that is more."""

LINES = 4
"""Lines at least, however long: a header alone tells nothing of its columns."""

_PACKED = {b"\x1f\x8b": ".gz", b"BZh": ".bz2", b"\xfd7zXZ": ".xz", b"PK\x03\x04": ".zip"}
_OTHERS = {
    b"PAR1": "a Parquet file",
    b"ARROW1": "a Feather file",
    b"\x89HDF": "an HDF5 file",
    b"\xd0\xcf\x11\xe0": "a workbook of an old Excel",
    b"SQLite": "a database",
    b"%PDF": "a PDF",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"\x28\xb5\x2f\xfd": "packed with zstd",
    b"7z\xbc\xaf": "packed with 7-Zip",
    b"\x93NUMPY": "a NumPy array",
}
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    codecs.BOM_UTF8: "utf-8-sig",
}
_UNREADABLE = (
    OSError,
    EOFError,
    RuntimeError,  # of a zip file with a password
    NotImplementedError,  # of a zip file packed in a rare way
    lzma.LZMAError,
    zipfile.BadZipFile,
    zlib.error,
)


@contextmanager
def text_of(path: Path, encoding: str | None) -> Iterator[Text]:
    """The text in a file, as a stream; without an `encoding` UTF-8, or what its byte-order mark says.

    Raises
    ------
    Refused
        If it is no text in that encoding.
    ValueError
        If the file cannot be read.
    """
    try:
        with ExitStack() as stack:
            stream = _unpacked(_files.regular(path), stack)
            start = stream.peek(600)[:600]
            if start[257:262] == b"ustar" or re.search(r"\.(tar(\.\w+)?|t[gbx]z2?)$", path.name.lower()):
                raise ValueError(
                    f"{path} is an archive of files (tar). Unpack it and give the path of a table."
                )
            known = next((name for mark, name in _MARKS.items() if start.startswith(mark)), "utf-8")
            used = _codec(encoding) if encoding else known
            if b"\x00" in start and used[:6] not in ("utf-16", "utf-32"):
                raise _not_text(path, start)
            yield Text(stream, used)
    except UnicodeError:
        raise _wrong_encoding(path, encoding) from None
    except _UNREADABLE as error:
        raise ValueError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from None


class Text:
    """A stream of text for pandas, which may be given back what was read ahead."""

    def __init__(self, stream: IO[bytes], encoding: str):
        self.encoding = encoding
        self._stream = io.TextIOWrapper(stream, encoding=encoding)
        self._ahead = ""
        self.separator = ""  # once it is known, lines with a # and without it are passed over
        self.passed = 0
        self.failure: Exception | None = None

    def sample(self) -> tuple[str, bool]:
        """The text's first lines, and whether they are all of it."""
        found = self._stream.read(SAMPLE)
        if len(found) < SAMPLE:
            return found, True
        found += self._stream.readline(MAX_LINE)
        if len(found) > MAX_LINE:
            raise _too_long()
        for _ in range(LINES - found.count("\n")):
            found += self._stream.readline(MAX_LINE)
        return found, False

    def give_back(self, text: str) -> None:
        """Have the next `read` begin with this."""
        self._ahead = text + self._ahead

    def read(self, size: int = -1) -> str:
        """Whole lines, without remarks among them."""
        try:
            found, self._ahead = self._ahead or self._stream.read(size), ""
            if found and not found.endswith("\n"):
                rest = self._stream.readline(MAX_LINE)
                if len(rest) == MAX_LINE:
                    raise _too_long()
                found += rest
        except Exception as error:  # pandas puts an error of its own in its place
            self.failure = error
            raise
        if self.separator and (found.startswith("#") or "\n#" in found):
            lines = found.split("\n")
            kept = [line for line in lines if not line.startswith("#") or self.separator in line]
            self.passed += len(lines) - len(kept)
            found = "\n".join(kept)
        return found

    def __iter__(self) -> Iterator[str]:  # what pandas takes for a file has it
        return iter(self.read().splitlines(keepends=True))


def _too_long() -> ValueError:
    return ValueError(
        f"A line is longer than {MAX_LINE:,} characters: this is no table of numbers and words."
    )


def _unpacked(path: Path, stack: ExitStack) -> Any:
    """The bytes in a file, as a stream."""
    stream = stack.enter_context(path.open("rb"))
    start = stream.peek(8)[:8]
    if other := next((name for mark, name in _OTHERS.items() if start.startswith(mark)), None):
        raise ValueError(f"{path} is {other}, not a text. Save the table as CSV.")
    kind = next((kind for mark, kind in _PACKED.items() if start.startswith(mark)), None)
    named = path.suffix.lower()
    if named in _PACKED.values() and kind != named and start:
        raise ValueError(f"{path} cannot be read: it is named {named}, and nothing of that kind is in it.")
    if kind == ".zip":
        return _member(path, stack)
    opened: Any = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}.get(kind or "")
    return _limited(path, opened(stream), stack) if opened else stream


class _Limited(io.RawIOBase):
    """What comes out of a packed file, up to a limit: blank lines without end are no cells."""

    def __init__(self, path: Path, stream: Any):
        self._path, self._stream, self._read = path, stream, 0
        self._size = path.stat().st_size

    def readable(self) -> bool:
        return True

    def readinto(self, room: Any) -> int:
        found = self._stream.read1(len(room))
        room[: len(found)] = found
        self._read += len(found)
        if self._read > max(MAX_UNPACKED, MAX_RATIO * self._size):
            raise ValueError(
                f"{self._path} has {self._size:,} bytes and unpacks to more than {self._read - 1:,}, as no "
                "table of data does. Unpack it and look at it; unpacked it is read."
            )
        return len(found)


def _limited(path: Path, stream: Any, stack: ExitStack) -> Any:
    return stack.enter_context(io.BufferedReader(_Limited(path, stream), 1 << 17))


def _member(path: Path, stack: ExitStack) -> Any:
    archive = stack.enter_context(zipfile.ZipFile(path))
    names = [
        name for name in archive.namelist() if not name.endswith("/") and not name.startswith("__MACOSX")
    ]
    if {"[Content_Types].xml", "mimetype"} & set(names):
        raise ValueError(f"{path} is a workbook or a document, not a text. Save the table as CSV.")
    if len(names) != 1:
        raise ValueError(f"{path} holds {len(names)} files. Unpack it and give the path of one.")
    return _limited(path, archive.open(names[0]), stack)


def _codec(encoding: str) -> str:
    try:
        name = codecs.lookup(encoding).name
        "".encode(name)  # codecs of another kind, such as zlib's, refuse to
    except (LookupError, TypeError, ValueError):
        raise ValueError(
            f"`encoding` must be the name of a text encoding, such as utf-8, utf-16, cp1252 or latin-1; got "
            f"{encoding!r}."
        ) from None
    return "utf-8-sig" if name == "utf-8" else name


def _not_text(path: Path, start: bytes) -> Refused:
    """Half the bytes of plain words in UTF-16 are zero."""
    able = [name for mark, name in _MARKS.items() if start.startswith(mark)]
    for name, zeros in (("utf-16-le", start[1::2]), ("utf-16-be", start[::2])):
        if zeros.count(0) > 0.8 * len(zeros):
            able.append(name)
    remedy = {"encoding": able[0]} if able else {}
    return Refused(f"{path} is not a text in UTF-8 or its like: it holds bytes of zero.", "", remedy)


def _wrong_encoding(path: Path, encoding: str | None) -> Refused:
    """Names the encoding that could be meant: its mark is there, or every byte means something in it."""
    with ExitStack() as stack:
        start = _unpacked(path, stack).read(SAMPLE)
    marked = [name for mark, name in _MARKS.items() if start.startswith(mark)]
    binary = not marked and any(byte < 32 and byte not in b"\t\n\r\f" for byte in start)
    able = (
        [] if binary else [name for name in [*marked, "utf-8", "cp1252", "latin-1"] if _decodes(path, name)]
    )
    return Refused(
        f"{path} is not a text in {encoding or 'UTF-8'}." + " It is no text at all." * binary,
        "Save it as UTF-8." * (not binary),
        {"encoding": able[0]} if able else {},
    )


def _decodes(path: Path, encoding: str) -> bool:
    with ExitStack() as stack:
        stream = io.TextIOWrapper(_unpacked(path, stack), encoding=encoding)
        try:
            while stream.read(SAMPLE):
                pass
        except UnicodeError:
            return False
    return True
