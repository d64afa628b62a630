"""How a table is written: its separator, decimal mark and header, told from its first lines."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .cells import ambiguous, decimal_marks, is_nothing, looks_numeric, tidy
from .refusal import Refused

SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|", "space": " "}
ROWS, CELLS = 200, 10_000
"""Rows that are looked at; fewer where they are long."""

MAX_COLUMNS = 50_000


@dataclass(frozen=True)
class Dialect:
    """What was found.

    Attributes
    ----------
    separator : str
        One character; a space stands for any number of them.
    decimal : {".", ",", ""}
        Empty where the first lines do not show it.
    names : tuple of str
        Of all columns, the empty text for one without a name.
    has_header : bool
    skipped : int
        Characters before the first row of data.
    lines : int
        Lines before it.
    notes : tuple of str
        What was passed over.
    """

    separator: str
    decimal: str
    names: tuple[str, ...]
    has_header: bool
    skipped: int
    lines: int
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        word = next(
            (word for word, mark in SEPARATORS.items() if mark == self.separator), repr(self.separator)
        )
        marked = "decimal comma" if self.decimal == "," else "decimal point"
        return f"separator {word}, {marked}{'' if self.has_header else ', no header'}"


def dialect_of(
    text: str,
    whole: bool,
    path: Path,
    target: str,
    *,
    separator: str | None,
    decimal: str | None,
    header: bool | None,
) -> Dialect:
    """The dialect of a table from its first lines; `whole` says that there are no others.

    Raises
    ------
    Refused
        If the header cannot be told from data.
    ValueError
        If there is nothing, or the rows do not fit the header.
    """
    lines = text.split("\n")
    ends = [line + "\n" for line in lines[:-1]] + [line for line in lines[-1:] if line]
    first, remarks, told = _preamble(ends)
    if first == len(ends):
        raise ValueError(f"{path} is empty.")
    mark = separator or told
    longest = max(ends[first].count(one) for one in ([mark] if mark else ",;\t|")) or ends[first].count(" ")
    _refuse_many(path, longest + 1)
    near = ends[first : first + max(3, min(ROWS, CELLS // (longest + 1)))]  # a header beside data, at least
    separator = mark or _separator(near)
    records = list(_records(ends[first:], separator, whole, len(near)))
    if not records:
        raise ValueError(
            f"{path} is not a readable CSV table: a quoted cell that begins in line {first + 1} has no end."
        )
    head, rows = records[0][0], [row for row, _ in records[1:]]
    notes = [f"{len(remarks)} line{'s' * (len(remarks) > 1)} of remarks (#) at the top left out"] * bool(
        remarks
    )
    remark = _header_in(remarks, head, separator, target) if header is not False else None
    if remark:
        names, rows, used, notes = remark, [head, *rows], 0, notes[len(remarks) == 1 :]
    elif header is False:
        names, rows, used = [str(i + 1) for i in range(len(head))], [head, *rows], 0
    else:
        names, used = [tidy(name) for name in head], records[0][1]
        if header is None and (target not in names or looks_numeric(target)):
            _refuse_data(path, head, rows, target in names)
    if header is not False and rows:
        names = _fitted(path, names, rows)
    columns = ([row[place] for row in rows if place < len(row)] for place in range(len(names)))
    mark = decimal or marks_in(columns)[0]
    before = first + used
    has_header = header is not False
    return Dialect(
        separator, mark, tuple(names), has_header, sum(map(len, ends[:before])), before, tuple(notes)
    )


def _refuse_many(path: Path, columns: int) -> None:
    if columns > MAX_COLUMNS:
        raise ValueError(
            f"{path} has {columns:,} columns; {MAX_COLUMNS:,} are read at most. Give a table with fewer."
        )


def _preamble(lines: Sequence[str]) -> tuple[int, list[str], str | None]:
    """How many lines come before the table; the remarks among them; the separator that Excel names there."""
    remarks: list[str] = []
    told = None
    for place, line in enumerate(lines):
        line = line.strip().lstrip("\ufeff")
        if named := re.fullmatch(r'"?sep=(.|\\t)"?', line):
            told = named[1].replace("\\t", "\t")
        elif line.startswith("#"):
            remarks.append(line)
        elif line:
            return place, remarks, told
    return len(lines), remarks, told


def _records(lines: Sequence[str], separator: str, whole: bool, most: int) -> Iterator[tuple[list[str], int]]:
    """Rows of cells, `most` at most, and how many lines were read up to the end of each."""
    # Columns that are aligned by spaces begin and end with some, which are no empty cells.
    own = (line.strip() + "\n" for line in lines) if separator == " " else lines
    reader = csv.reader(own, delimiter=separator, skipinitialspace=True)
    for _ in range(most):
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error:  # a cell longer than csv's own limit
            return
        if reader.line_num == len(lines) and not whole and lines[-1].count('"') % 2:
            return  # cut off inside a quoted cell
        if any(cell.strip() for cell in cells):
            yield cells, reader.line_num


def _separator(lines: Sequence[str]) -> str:
    """The separator with which most rows are as long as the first, and most cells are numbers."""
    best, found = (0.0, 0.0), ","
    for separator in SEPARATORS.values():
        rows = [row for row, _ in _records(lines, separator, False, len(lines))]
        if not rows or len(rows[0]) < 2:
            continue
        width, others = len(rows[0]), rows[1:] or rows
        fitting = [row for row in others if abs(len(row) - width) <= 1 and len(row) > 1]
        exact = sum(len(row) == width for row in others) / len(others)
        cells = [cell for row in fitting[:50] for cell in row]
        numeric = sum(looks_numeric(cell) for cell in cells) / max(1, len(cells))
        # To a tenth, so that a few odd rows do not outweigh what the cells hold.
        score = (round(max(exact, 0.9 * len(fitting) / len(others)), 1), numeric)
        if score > best:
            best, found = score, separator
    return found


def _header_in(
    remarks: Sequence[str], head: Sequence[str], separator: str, target: str | None
) -> list[str] | None:
    """The names in the last remark, as NumPy's savetxt writes them, where the first row holds none."""
    if not remarks:
        return None
    row = next(_records([remarks[-1].lstrip("# ") + "\n"], separator, True, 1), ([], 0))[0]
    names = [tidy(name) for name in row]
    data = all(looks_numeric(cell) or is_nothing(cell) for cell in head)
    if not data and (target not in names or target in map(tidy, head)):
        return None
    return names if len(names) == len(head) and not any(map(looks_numeric, names)) else None


def _refuse_data(path: Path, head: Sequence[str], rows: Sequence[Sequence[str]], has_target: bool) -> None:
    """A first line that could be a row of data must not be lost as a header."""
    columns = [[row[i] for row in rows if i < len(row) and not is_nothing(row[i])] for i in range(len(head))]
    numeric = [bool(cells) and all(map(looks_numeric, cells)) for cells in columns]
    names = [
        name
        for name, is_number in zip(head, numeric, strict=True)
        if is_number and not looks_numeric(name) and name.strip() and not is_nothing(name)
    ]
    if names or not rows:  # a name over numbers can be nothing but a name
        return
    if any(numeric):
        counted = [
            tidy(name) for name, is_number in zip(head, numeric, strict=True) if is_number and tidy(name)
        ]
        if len(counted) > 2 and counted in [[str(i + k) for i in range(len(counted))] for k in (0, 1)]:
            return
        if not counted:
            return
    else:
        known = [tidy(name) in set(map(tidy, cells)) for name, cells in zip(head, columns, strict=True)]
        if sum(known) * 2 < len(known):
            return
    shown = ", ".join(head[:6]) + ", ..." * (len(head) > 6)
    raise Refused(
        f"The first line of {path} looks like data, not like names of columns: {shown}.",
        "Say by header=True or header=False (--header, --no-header) what it is; without names columns are "
        f"numbered 1 to {len(head)}.",
        {"header": has_target},
    )


def _fitted(path: Path, names: list[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The names, as many as there are cells in a row: both may have an end without content."""
    width = Counter(map(len, rows)).most_common(1)[0][0]
    if width == len(names):
        return names
    if width == len(names) + 1:
        full = [row for row in rows if len(row) == width]
        if not any(row[-1].strip() for row in full):
            return [*names, ""]
        starts = [row[0].strip() for row in full]
        counted = any(starts == [str(i + k) for i in range(len(starts))] for k in (0, 1))
        if counted or (len(set(starts)) == len(starts) and not any(map(looks_numeric, starts))):
            return ["", *names]  # as R writes the names of rows
    while len(names) > width and not names[-1]:
        names = names[:-1]
    if len(names) < width:
        raise ValueError(
            f"{path} has more values in its rows ({width}) than names in its header ({len(names)}). Give "
            "every column a name, remove what stands above the names, and put decimal commas in quotes."
        )
    if len(names) > width:
        raise ValueError(
            f"{path} has fewer values in its rows ({width}) than names in its header ({len(names)}). Put "
            "names that hold a separator in quotes."
        )
    return names


def marks_in(columns: Iterable[Sequence[str]]) -> tuple[str, bool]:
    """The decimal mark that numbers need, or an empty text; whether some are others with the other mark.

    A column that is in thousands throughout, or nowhere, is the same with both marks but for its unit.
    """
    point, comma, unclear = 0, 0, False
    for column in columns:
        cells = [cell for cell in column if not is_nothing(cell)]
        if not cells or sum(map(looks_numeric, cells)) < 0.8 * len(cells):
            continue
        alone = decimal_marks(cells)
        point, comma = point + len(alone[0]), comma + len(alone[1])
        both = [ambiguous(cell) for cell in cells if cell.strip() != "0"]
        unclear |= any(both) and not all(both)
    if not point and not comma:
        return "", unclear
    return ("," if comma > point else "."), False


def settled_mark(path: Path, separator: str, columns: Iterable[Sequence[str]]) -> str:
    """The decimal mark of a whole table whose first lines did not show it.

    Raises
    ------
    Refused
        If numbers read differently with both marks and nothing tells.
    """
    mark, unclear = marks_in(columns)
    if not mark and unclear and separator == ";":  # with other separators the mark is a point, as in English
        raise Refused(
            f"{path} writes numbers such as 1,234 or 1.234, and nothing tells whether that is 1.234 or 1234.",
            "Say by decimal=',' or decimal='.' (--decimal) which mark is the decimal one.",
            {"decimal": ","},
        )
    return mark or "."
