"""One file for arrays and a text: a zip that NumPy opens too, sealed by a digest of everything before it.

Arrays are read into what their headers ask for only where as many bytes follow; nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import io
import math
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

TEXT = "record.json"
"""The name of the text among the arrays."""
MAX_TEXT = 20_000_000
"""Most bytes of a text: what JSON makes of them takes about thirty times as much memory."""
MAX_UNPACKED, MAX_RATIO = 1_000_000_000, 100
"""An archive unpacks to at most so many bytes, or to so many times its own size where that is more."""
_MARK = b"stability sha256 "
_DIGITS = 64


class Damaged(ValueError):
    """An archive was changed after it had been written, or cut off."""


def pack(arrays: Mapping[str, np.ndarray], text: str) -> bytes:
    """The archive's bytes; the same arrays and text give the same ones."""
    if len(text) > MAX_TEXT:
        raise ValueError(
            f"What is to be saved beside its arrays takes {len(text):,} bytes; at most {MAX_TEXT:,} can be "
            "read back. Keep long lists of numbers as arrays."
        )
    stream = _packed(arrays, text, zipfile.ZIP_DEFLATED)
    size = sum(array.nbytes for array in arrays.values())
    if size > _most(stream.tell()):  # so regular that it would be refused for a trap when it is read back
        stream = _packed(arrays, text, zipfile.ZIP_STORED)
    seal = hashlib.sha256(stream.getbuffer()[:-_DIGITS]).hexdigest().encode()
    stream.seek(-_DIGITS, io.SEEK_END)
    stream.write(seal)
    return stream.getvalue()


def _packed(arrays: Mapping[str, np.ndarray], text: str, compression: int) -> io.BytesIO:
    """The archive with room for its seal, at its end."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        # Room for the seal within the zip: its comment is the end of the file, and readers of zips pass over
        # it.
        archive.comment = _MARK + _DIGITS * b"0"
        for name, array in arrays.items():
            with archive.open(_member(f"{name}.npy", compression), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, version=(1, 0), allow_pickle=False)
        archive.writestr(_member(TEXT, compression), text)
    stream.seek(0, io.SEEK_END)
    return stream


def _member(name: str, compression: int) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name)  # of a fixed date
    member.compress_type = compression
    return member


def unpack(path: Path) -> tuple[dict[str, np.ndarray], bytes] | None:
    """Arrays and text of a file that `pack` made; None of one without a seal.

    Raises
    ------
    Damaged
        If the seal does not fit.
    ValueError
        If it unpacks to more than it may, or an array is none of numbers or text.
    """
    with open(path, "rb") as stream:  # one open file: whole, even if it is replaced meanwhile
        if not _sealed(stream):
            return None
        with zipfile.ZipFile(stream) as archive:
            return arrays_of(archive), _text(archive)


def _sealed(stream: IO[bytes]) -> bool:
    size = stream.seek(0, io.SEEK_END)
    end = len(_MARK) + _DIGITS
    if size < end:
        return False
    stream.seek(size - end)
    seal = stream.read()
    if not seal.startswith(_MARK):
        return False
    stream.seek(0)
    # Piece by piece, so that an archive of gigabytes takes no memory to be looked at.
    digest, left = hashlib.sha256(), size - _DIGITS
    while left and (piece := stream.read(min(left, 1 << 20))):
        digest.update(piece)
        left -= len(piece)
    if digest.hexdigest().encode() != seal[len(_MARK) :]:
        raise Damaged("its checksum does not fit: a write was cut off, or the file was changed")
    return True


def _most(size: int) -> int:
    return max(MAX_UNPACKED, MAX_RATIO * size)


def arrays_of(archive: zipfile.ZipFile) -> dict[str, np.ndarray]:
    """The arrays of a zip by name, its sizes looked at before anything is unpacked."""
    members = archive.infolist()
    assert archive.fp is not None
    size, unpacked = archive.fp.seek(0, io.SEEK_END), sum(member.file_size for member in members)
    if unpacked > _most(size):
        raise ValueError(
            f"its {size:,} bytes would unpack to {unpacked:,}, more than the {_most(size):,} that are read"
        )
    if len({member.filename for member in members}) < len(members):
        raise ValueError("two of its parts have one name")
    return {
        member.filename.removesuffix(".npy"): _array(archive, member)
        for member in members
        if member.filename.endswith(".npy")
    }


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """An array, allocated once it is clear that its header tells how many bytes follow."""
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"{member.filename} has the unknown format {version}")
        header = (
            np.lib.format.read_array_header_1_0 if version[0] == 1 else np.lib.format.read_array_header_2_0
        )
        shape, fortran, dtype = header(stream)
        if dtype.hasobject or dtype.subdtype is not None:
            raise ValueError(f"{member.filename} holds objects, which nothing here unpickles")
        asked, there = math.prod(shape) * dtype.itemsize, member.file_size - stream.tell()
        if asked != there or min(shape, default=0) < 0:
            raise ValueError(
                f"{member.filename} has a header for {asked:,} bytes of shape {shape}, and {there:,} follow"
            )
        flat: np.ndarray = np.empty(math.prod(shape), dtype)
        if asked:
            _fill(flat.view(np.uint8), stream)
    return flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)


def _fill(room: np.ndarray, stream: Any) -> None:
    done = 0
    while done < len(room):
        read = stream.readinto(room[done : done + (1 << 24)].data)
        if not read:
            raise EOFError("an array was cut off")
        done += read


def _text(archive: zipfile.ZipFile) -> bytes:
    size = archive.getinfo(TEXT).file_size
    if size > MAX_TEXT:
        raise ValueError(f"its text has {size:,} bytes, and at most {MAX_TEXT:,} are read")
    return archive.read(TEXT)


def digest(arrays: Mapping[str, np.ndarray], texts: Iterable[str]) -> str:
    """One line that changes with any bit of these arrays, their names, kinds and shapes, and of the texts."""
    found = hashlib.sha256()
    for text in texts:
        found.update(f"{len(text)} {text}".encode())
    for name, array in arrays.items():
        # Lengths before the texts: else "ab" and "c" would be "a" and "bc".
        found.update(f"{len(name)} {name} {array.dtype} {array.shape}".encode())
        if array.nbytes:
            found.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return found.hexdigest()
