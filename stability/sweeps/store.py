"""Stores: folders with a record for each finished point, which drivers share and a kill leaves whole."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from .. import _check, _files
from .._check import counted
from . import records
from .records import DONE, FAILED, UNSTABLE, Damaged, Record

MANIFEST = "sweep.json"
NETCDF = "results.nc"
LOCKS = ("first.lock", "second.lock")
"""Held by a driver while it is at work."""
T = TypeVar("T")
CODE = ("study", "source", "version", "seed")
"""What of a manifest must be the same for records to stand side by side."""


class Store:
    """Records by key; on disk in a folder for each version of the code and each seed, or in memory alone.

    Parameters
    ----------
    folder : path or None
    manifest : dict
        What is asked for: the study, the digest of its source, the package's version, the seed, the grid.
    """

    def __init__(self, folder: Path | None, manifest: Mapping[str, Any]):
        self.folder, self.manifest = folder, manifest
        self.damaged: dict[Path, str] = {}
        self._known: dict[str, Record] = {}
        self._held, self._order = contextlib.ExitStack(), 0 if folder is None else len(LOCKS)
        self._code = records.digest(*(records.to_text(manifest[name]) for name in CODE))[:16]

    @property
    def place(self) -> Path | None:
        """Where the records of this code and seed lie."""
        return None if self.folder is None else self.folder / self._code

    def path(self, key: str) -> Path:
        """Where a record lies."""
        assert self.place is not None
        # 128 bits of the digest: enough for no two points to meet, and short enough for every file system.
        return self.place / f"{key[:32]}.json"

    def begin(self) -> None:
        """Make the folder, say what is asked for, and warn of what other records are there.

        Raises
        ------
        ValueError
            If it cannot be written, or is of a newer format.
        """
        if self.folder is None:
            return
        _check.folder(self.folder)
        for told in self._strangers():
            _check.warn(told)
        assert self.place is not None
        # One beside the records says what code they are of; the folder's, what was asked of it last.
        records.write(self.place / MANIFEST, self.manifest)
        records.write(self.folder / MANIFEST, self.manifest)
        for order, lock in enumerate(LOCKS):
            with contextlib.suppress(OSError):  # another driver holds it, or the place knows no locks
                self._held.enter_context(_files.held(self.folder / lock))
                self._order = order
                break

    def _strangers(self) -> Iterator[str]:
        """What is there of other code or another seed."""
        assert self.folder is not None
        for path in [*sorted(self.folder.glob(f"*/{MANIFEST}")), self.folder / MANIFEST]:
            try:
                other = records.read(path)
                changed = [name for name in CODE if other[name] != self.manifest[name]]
            except FileNotFoundError:
                continue
            except (Damaged, KeyError):
                yield f"{path} is damaged: its checksum does not fit. A sweep of its code writes it anew."
                continue
            count = len(list(path.parent.glob("*.json"))) - 1
            if path.parent != self.folder and changed and count:
                what = "; ".join(_TOLD[name].format(other[name], self.manifest[name]) for name in changed)
                yield (
                    f"{self.folder} holds {counted(count, 'point')} of other code, which "
                    f"{'is' if count == 1 else 'are'} not used: {what}. They stay in {path.parent}; remove "
                    "it where they are no longer wanted."
                )

    def end(self) -> None:
        """Let others have the place of this driver."""
        self._held.close()

    def ordered(self, points: list[T]) -> list[T]:
        """In the order in which this driver takes points, so that two on one store meet at the end alone.

        One goes through them from the first, another from the last, any further ones by chance.
        """
        if self._order < len(LOCKS):
            # The first driver from the front, a second one from the back.
            return points[:: -1 if self._order else 1]
        # Later ones in any order, each in another: two of them rarely want the same point at once.
        return random.Random().sample(points, len(points))

    def get(self, key: str) -> Record | None:
        """The record of a point, if it is there and whole; one that is damaged is remembered as such."""
        if key in self._known or self.folder is None:
            return self._known.get(key)
        path = self.path(key)
        try:
            told = records.read(path)
            record = Record(told["parameters"], told["status"], told["reason"], told["values"])
            # A whole record under another's name, as copying files about leaves it.
            if records.key_of(record.parameters) != key or record.status not in (DONE, UNSTABLE, FAILED):
                raise Damaged(f"{path} is damaged: it is of another point.")
        except FileNotFoundError:
            return None
        except (Damaged, KeyError) as error:
            self.damaged[path] = str(error)
            return None
        self._known[key] = record
        return record

    def keep(self, key: str, record: Record) -> None:
        """Write a record.

        Raises
        ------
        ValueError
            If it cannot be written.
        """
        if self.folder is not None:
            about = {"status": record.status, "reason": record.reason, "values": dict(record.values)}
            records.write(self.path(key), {"parameters": dict(record.parameters), **about})
        self._known[key] = record

    def forget(self, key: str) -> None:
        """Let a point be computed again; its record stays until the new one takes its place."""
        self._known.pop(key, None)

    def others(self) -> int:
        """How many records of this code are on disk."""
        # Less the manifest.
        return len(list(self.place.glob("*.json"))) - 1 if self.place is not None else 0


_TOLD = {
    "study": "the study was {}, and is {} now",
    "source": "the study's code has changed",
    "version": "the package was {}, and is {} now",
    "seed": "the seed was {}, and is {} now",
}


def manifest_of(folder: str | Path) -> tuple[Path, dict[str, Any]]:
    """The folder of a store, and what was last asked of it.

    Raises
    ------
    ValueError
        If it is no store, or is damaged.
    """
    folder = _files.path_of(folder)
    try:
        return folder, records.read(folder / MANIFEST)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except Damaged as error:
        raise ValueError(
            f"{error} The same call of st.sweep, or `stability sweep`, writes it anew."
        ) from None
    if not folder.exists():
        raise ValueError(f"`store` must be the folder of a sweep; {folder} does not exist.")
    raise ValueError(f"`store` must be the folder of a sweep; {folder} has no {MANIFEST}.")
