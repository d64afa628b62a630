"""Columns of a table as numbers: what they hold, what is missing, words as columns of zeros and ones."""

from __future__ import annotations

import itertools
import re
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .cells import is_date, is_empty, looks_numeric, numbers, tidy
from .refusal import Refused

MAX_WORDS = 100
"""Most different words that a column may hold to be given a column each."""

MAX_CELLS = 200_000_000
"""Largest table, rows x columns: 1.6 GB of float64, about three times that while it is worked on."""

_IDENTIFIER = re.compile(
    r"(^|.*[_ .-])(id|ids|idx|index|nr|no|num|row|rows|row_?names?|key|uuid|serial)", re.I
)
UNNAMED = re.compile(r"|Unnamed: \d+(_level_\d+)?|\.\.\.\d+")
_LISTED = 6


@dataclass(frozen=True)
class Column:
    """A column of numbers, or of words where `words` is given.

    Attributes
    ----------
    values : array (n,) of float
        nan where there is nothing.
    words : object array (n,) or None
    trouble : str
        Why it cannot be used: ``"dates"``, ``"text"`` among numbers, ``"infinite"``, ``"huge"``, ``"empty"``.
    cell, row : str, int
        Where the trouble is seen first; rows are counted from 1.
    unit : str
        What stands beside every number: ``"%"``, ``"cm"``, ``"$"``.
    """

    name: str
    values: np.ndarray
    words: np.ndarray | None = None
    trouble: str = ""
    cell: str = ""
    row: int = 0
    unit: str = ""

    @property
    def missing(self) -> np.ndarray:
        """Where there is nothing."""
        if self.words is None:
            return np.isnan(self.values)
        return np.array([word is None for word in self.words], dtype=bool)

    def at(self, rows: np.ndarray) -> Column:
        """The same column in some rows alone."""
        words = None if self.words is None else self.words[rows]
        return replace(self, values=self.values[rows], words=words)


def column_of(name: str, cells: Any, decimal: str) -> Column:
    """A column from its cells as pandas reads them: numbers, truth values, or words."""
    unit = ""
    if cells.dtype.kind in "biuf":
        values = _floats(cells.to_numpy())
    else:
        unclean = cells.to_numpy(dtype=object)
        values, is_word, units, huge = numbers(unclean, decimal)
        if huge:
            row = next(row for row, cell in enumerate(unclean, start=1) if str(cell) == huge)
            return Column(name, values, trouble="huge", cell=f"{huge[:20]}...", row=row)
        # "5 cm" is a number in a column that says cm throughout; beside "7 m" it is none.
        if is_word.any() or len(units) > 1:
            return _column_of_words(name, values, unclean, is_word, units)
        unit = next(iter(units), "")
    if np.isnan(values).all():
        return Column(name, values, trouble="empty")
    if np.isinf(values).any():
        return Column(name, values, trouble="infinite", row=_first(np.isinf(values)))
    if compact := _compact_dates(values):
        return Column(name, values, trouble="dates", cell=compact, row=_first(~np.isnan(values)))
    return Column(name, values, unit=unit)


def _compact_dates(values: np.ndarray) -> str:
    """The first of numbers such as 20240131, if all are: no other numbers have months and days."""
    there = values[~np.isnan(values)]
    if len(there) == 0 or not np.all((there > 19000100) & (there < 21001232) & (there % 1 == 0)):
        return ""
    months, days = there // 100 % 100, there % 100
    fitting = (months >= 1) & (months <= 12) & (days >= 1) & (days <= 31)
    return f"{there[0]:.0f}" if fitting.all() else ""


def _floats(values: np.ndarray) -> np.ndarray:
    """Whole numbers beyond 2^53 from their smallest: their differences are what floats would lose."""
    if values.dtype.kind in "iu" and np.abs(values.astype(float)).max() > 2**53:
        # Only where the difference itself fits into whole numbers.
        values = values - values.min() if float(values.max()) - float(values.min()) < 2**62 else values
    return values.astype(float)


def _first(where: np.ndarray) -> int:
    return int(np.argmax(where)) + 1


def _column_of_words(
    name: str, values: np.ndarray, cells: np.ndarray, is_word: np.ndarray, units: dict[str, str]
) -> Column:
    words = words_of(cells)
    there = np.array([word is not None for word in words], dtype=bool)
    if not is_word.any():  # numbers of several units
        odd = list(units.values())[-1]
        return Column(name, values, trouble="units", cell=f"{next(iter(units.values()))!r} and {odd!r}")
    row = _first(is_word)
    word = str(words[row - 1])
    different = set(words[there])
    # Nearly all: one word among dates is a gap by another name, one date among words is a word.
    if sum(map(is_date, different)) > 0.9 * len(different):
        return Column(name, values, trouble="dates", cell=word, row=row)
    # A number in the other decimal mark, read as a word: to encode it would hide a misread table.
    if (looks_numeric(word) and not np.isnan(values).all()) or all(map(looks_numeric, different)):
        return Column(name, values, trouble="mark", cell=word, row=row)
    # Mostly numbers: the words are more likely slips than classes.
    if is_word.sum() <= np.sum(~np.isnan(values)):
        return Column(name, values, trouble="text", cell=word, row=row)
    return Column(name, values, words=words, cell=word, row=row)


def words_of(cells: np.ndarray) -> np.ndarray:
    """Cells as words, None where there is nothing."""
    known: dict[Any, str | None] = {}

    def word(cell: Any) -> str | None:
        if not isinstance(cell, str):
            # pandas has read a number here and text in another part of the file.
            cell = (
                ""
                if cell != cell
                else str(int(cell))
                if cell == cell // 1 and cell is not True
                else str(cell)
            )
        cell = tidy(cell)
        return None if is_empty(cell) else cell

    found = np.empty(len(cells), dtype=object)
    for place, cell in enumerate(cells):
        # 1, 1.0 and True are one key to a dictionary, and different words.
        key = cell if isinstance(cell, str) else repr(cell)
        if key not in known:
            known[key] = word(cell)
        found[place] = known[key]
    return found


def named(
    columns: Sequence[tuple[str, Any]], asked: Iterable[str]
) -> tuple[list[tuple[str, Any]], list[str]]:
    """Columns with a name each, but for those that only number or name the rows, and what was done.

    Parameters
    ----------
    columns : pairs of name and pandas column
    asked : names that the user gave, which stay
    """
    kept, notes, asked = [], [], set(asked)
    for place, (name, cells) in enumerate(columns):
        if name in asked or not UNNAMED.fullmatch(name):
            kept.append((name, cells))
            continue
        what = _without_name(cells, place)
        if what:
            notes.append(f"column {place + 1} has no name and {what}: left out")
        else:
            kept.append((f"column {place + 1}", cells))
            notes.append(f"column {place + 1} has no name: kept under this one")
    return kept, notes


def _without_name(cells: Any, place: int) -> str:
    """What a column without a name is there for, if not as data."""
    column = column_of("", cells, ".")
    if column.trouble == "empty":
        return "nothing in it"
    if column.missing.any():
        return ""
    if column.words is None and not column.trouble:
        if counts(column.values):
            return "counts the rows"
        whole = np.all(column.values == np.floor(column.values))
        return "numbers the rows" if place == 0 and whole and _distinct(column.values) else ""
    words = words_of(cells.to_numpy(dtype=object))
    return "names the rows" if place == 0 and len(set(words)) == len(words) else ""


def _distinct(values: np.ndarray) -> bool:
    return len(np.unique(values)) == len(values)


def counts(values: np.ndarray) -> bool:
    """Whether a column is 0, 1, ..., or 1, 2, ..., in any order."""
    low, high = values.min(), values.max()
    return bool(
        low in (0, 1) and high - low == len(values) - 1 and _distinct(values) and np.all(values % 1 == 0)
    )


def remarks(columns: Iterable[Column]) -> list[str]:
    """Notes on units, and on columns that look as if they named the rows."""
    notes = []
    for column in columns:
        if column.unit not in ("", "true or false"):
            notes.append(f"column {column.name!r} is in {column.unit}")
        values = column.values
        if (
            column.words is not None
            or len(values) < 5
            or not np.all(values % 1 == 0)
            or not _distinct(values)
        ):
            continue
        in_a_row = values.max() - values.min() == len(values) - 1
        if in_a_row or _IDENTIFIER.fullmatch(column.name):
            notes.append(
                f"column {column.name!r} holds another whole number in each row, as identifiers do: drop it "
                "if it is one"
            )
    return notes


_TROUBLE = {
    "infinite": ("holds an infinite value ({where})", "Remove or impute it."),
    "huge": (
        "holds a number that is too large for a floating-point number ({cell!r}, {where})",
        "Correct it.",
    ),
    "dates": (
        "holds dates or times ({cell!r} in {where})",
        "Give a number instead, such as days since the first.",
    ),
    "units": ("holds numbers of several units ({cell})", "Give all in one."),
    "text": ("holds text ({cell!r} in {where})", "Encode it as numbers or drop the column."),
    "mark": (
        "holds {cell!r} in {where}, which is no number with the decimal mark of the table",
        "Write all numbers with one mark.",
    ),
    "empty": ("is empty", "Drop it."),
}


def usable(columns: Sequence[Column], one_hot: bool) -> None:
    """Raise if there are columns that are neither numbers nor words that may be encoded."""
    bad = [column for column in columns if column.trouble]
    if bad:
        kinds: dict[str, list[Column]] = {}
        for column in bad:
            kinds.setdefault(column.trouble, []).append(column)
        told = [_trouble(kind[0]) + others([column.name for column in kind]) for kind in kinds.values()]
        by_hand = _TROUBLE[bad[0].trouble][1]
        raise Refused(" ".join(told), by_hand, {"drop": [column.name for column in bad]})
    words = [column for column in columns if column.words is not None]
    many = [column for column in words if _too_many(column)]
    if many:
        raise Refused(
            f"Column {many[0].name!r} holds too many different words for a column each ({many[0].cell!r} in "
            f"data row {many[0].row}).{others([column.name for column in many])}",
            "Encode it as numbers or drop the column.",
            {"drop": [column.name for column in many]},
        )
    if words and not one_hot:
        raise Refused(
            f"Column {words[0].name!r} holds text ({words[0].cell!r} in data row {words[0].row})."
            + others([column.name for column in words]),
            "Encode it as numbers or drop the column.",
            {"one_hot": True},
        )


def _trouble(column: Column) -> str:
    told = _TROUBLE[column.trouble][0].format(cell=column.cell, where=f"data row {column.row}")
    return f"Column {column.name!r} {told}."


def others(names: Sequence[str]) -> str:
    """A sentence on the columns besides the first that have the same trouble."""
    if len(names) == 1:
        return ""
    shown = ", ".join(map(repr, names[1:_LISTED])) + ", ..." * (len(names) > _LISTED)
    return (
        f" There {'is another' if len(names) == 2 else f'are {len(names) - 1} others'} of its kind: {shown}."
    )


def _too_many(column: Column) -> bool:
    different = len(set(column.words) - {None})  # type: ignore[arg-type]
    return different > MAX_WORDS or different > max(2, len(column.values) // 2)


def complete(
    columns: Sequence[Column], labelled: np.ndarray, target: str, missing: str | None
) -> tuple[list[Column], np.ndarray, list[str]]:
    """The columns without gaps, the rows that are left, and what was done.

    Parameters
    ----------
    labelled : bool array (n,)
        Where the target is given.
    """
    gaps = [(column.name, column.missing) for column in columns]
    gaps = [(name, where) for name, where in [*gaps, (target, ~labelled)] if where.any()]
    rows = labelled.copy()
    if not gaps:
        return list(columns), rows, []
    left = ~np.any([where for _, where in gaps], axis=0)
    if labelled.sum() < 2:
        raise ValueError(f"The target {target!r} is given in {labelled.sum()} rows; at least 2 are needed.")
    if missing is None:
        name, where = gaps[0]
        raise Refused(
            f"Column {name!r} has {where.sum()} missing values, the first in data row {_first(where)}."
            + others([name for name, _ in gaps]),
            "Remove or impute them.",
            {"missing": "drop" if left.sum() >= max(2, len(left) / 2) else "median"},
        )
    notes = []
    if missing == "drop":
        rows = left
        if rows.sum() < 2:
            raise Refused(
                f"{rows.sum()} rows are without missing values; at least 2 are needed.",
                "",
                {"missing": "median"},
            )
    if not rows.all():
        notes.append(f"{np.sum(~rows):,} rows with missing values left out")
    filled = [_filled(column.at(rows)) for column in columns]
    if missing == "median" and len(gaps) > (not labelled.all()):
        holes = sum(int(column.at(rows).missing.sum()) for column in columns)
        notes.append(f"{holes:,} missing values filled in with their column's median or most frequent word")
    return filled, rows, notes


def _filled(column: Column) -> Column:
    gaps = column.missing
    if not gaps.any() or gaps.all():
        return column
    if column.words is None:
        return replace(column, values=np.where(gaps, np.median(column.values[~gaps]), column.values))
    # Of words that are as frequent the first by the alphabet: the same table, the same numbers.
    words, often = np.unique(column.words[~gaps].astype(str), return_counts=True)
    found = column.words.copy()
    found[gaps] = words[np.argmax(often)]
    return replace(column, words=found)


def free(name: str, taken: Container[str]) -> str:
    """A name that no column has: this one, or it with a number behind."""
    names = (name if number == 1 else f"{name} {number}" for number in itertools.count(1))
    return next(name for name in names if name not in taken)


def matrix(columns: Sequence[Column], target: str) -> tuple[np.ndarray, list[str], list[str]]:
    """The columns side by side, words as zeros and ones, with their names and the columns they come from."""
    width = sum(1 if column.words is None else len(set(column.words)) - 1 for column in columns)
    if width * len(columns[0].values) > MAX_CELLS:
        raise ValueError(
            f"With a column for each word the table has {width:,} columns, more than {MAX_CELLS:.0e} cells. "
            "Drop columns of words."
        )
    parts, names, origins = [], [], []
    taken = {target, *(column.name for column in columns)}
    for column in columns:
        if column.words is None:
            parts.append(column.values)
            names.append(column.name)
            origins.append(column.name)
            continue
        known, place = np.unique(column.words.astype(str), return_inverse=True)
        # The first word is where all the others are 0: with its column they would add up to the intercept.
        for number in range(1, len(known)) or [0]:
            parts.append((place == number).astype(float) if len(known) > 1 else np.zeros(len(place)))
            names.append(free(f"{column.name}={known[number]}", taken))
            taken.add(names[-1])
            origins.append(column.name)
    return np.stack(parts, axis=1), names, origins
