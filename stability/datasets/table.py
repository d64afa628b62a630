"""A user's CSV table as a design matrix and a target, checked column by column."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import _check, _files
from .._display import Grid, settled, shortened
from .._frames import Framed
from .._saving import Result
from .cells import NOTHING, tidy
from .columns import MAX_CELLS, UNNAMED, column_of, complete, free, matrix, named, others, remarks, usable
from .dialect import SEPARATORS, Dialect, dialect_of, settled_mark
from .refusal import Refused
from .source import Text, text_of
from .target import Target, target_of


@dataclass(frozen=True)
class Table(Result, Framed):
    """A standardized design matrix with an intercept column, and its target.

    Attributes
    ----------
    X : array, shape (n, d)
        Columns with mean 0 and standard deviation 1, then (but for networks, which have biases) a column of
        ones.
    y : array, shape (n,)
        0 and 1 for two classes; 0, 1, ... for a network's classes; standardized otherwise.
    columns : tuple of str
        Names of the columns of `X`.
    target : str
        Name of the column behind `y`.
    classes : tuple of str
        The labels behind 0, 1, ...; empty for regression.
    reading : str
        The separator and the decimal mark of the file, and its encoding where it is not UTF-8.
    notes : tuple of str
        What was left out, and what should be looked at.

    Examples
    --------
    >>> import numpy as np, stability as st
    >>> X, y = np.array([[-1.0, 1.0], [1.0, 1.0]]), np.array([0, 1])
    >>> table = st.results.Table(X, y, ("length", "intercept"), target="kind")
    >>> st.logistic(table.X, table.y, l2=0.1).dim
    2
    """

    X: np.ndarray
    y: np.ndarray
    columns: tuple[str, ...]
    target: str
    classes: tuple[str, ...] = ()
    reading: str = ""
    notes: tuple[str, ...] = ()

    def _columns(self) -> Mapping[str, Any]:
        return dict(zip(self.columns, self.X.T, strict=True)) | {self.target: self.y}

    def _page(self) -> Iterator[str | Grid]:
        about = f"classes {', '.join(self.classes)}" if self.classes else "a number"
        yield f"{len(self.y):,} rows, {len(self.columns)} columns; to predict: {self.target}, {about}"
        spread = zip(self.columns, self.X.mean(axis=0), self.X.std(axis=0), strict=True)
        rows = shortened((name, settled(mean, 1.0), std) for name, mean, std in spread)
        yield Grid([("column", ""), ("mean", ".3g"), ("std", ".3g")], rows)
        yield from self.notes


@_check.by_name
def read_table(
    path: str | Path,
    *,
    target: str | None = None,
    model: str,
    encoding: str | None = None,
    separator: str | None = None,
    decimal: str | None = None,
    header: bool | None = None,
    columns: Sequence[str] | None = None,
    drop: Sequence[str] = (),
    one_hot: bool = False,
    missing: str | None = None,
) -> Table:
    """Read a table in text; standardize its columns and append an intercept.

    Separator, decimal mark, and a column that only counts the rows are found; what was understood is in
    ``.reading`` and ``.notes``. For a network the target is a class where it holds text, truth values or at
    most 20 whole numbers, else a number.

    Parameters
    ----------
    path : path of a CSV file, packed with gzip, bzip2, xz, zip or not
    target : str
        Name of the column to predict, without which the columns are listed in the error; for
        ``model="logistic"`` it holds words, or few whole numbers.
    model : {"logistic", "least-squares", "network"}
    encoding : str, optional
        Such as ``"cp1252"``; by default UTF-8, or what the file's byte-order mark says.
    separator : str, optional
        One character, or ``"comma"``, ``"semicolon"``, ``"tab"``, ``"pipe"``, ``"space"``; found by default.
    decimal : {".", ","}, optional
        Found by default; the other one may stand between thousands.
    header : bool, optional
        Whether the first line holds the names; by default it does, and is refused where it looks like data.
        Without it the columns are named 1, 2, ...
    columns, drop : sequence of str
        The columns to predict from, all others by default, and those to leave out.
    one_hot : bool
        Give each word of a column of text but the first a column of its own, of zeros and ones.
    missing : {"drop", "median"}, optional
        Leave rows with missing values out, or fill in the column's median (of words the most frequent one).
        Rows without a target are left out in any case.

    Raises
    ------
    ValueError
        If the file is missing, empty or larger than 2e8 cells; the target is missing or has one value only; a
        column has missing values, text, dates or a constant. Where options get around it, the error names
        all of them: with them the table is read.

    Examples
    --------
    >>> import tempfile, pathlib, stability as st
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "flowers.csv"
    ...     _ = path.write_text("length;kind\\n1,0;iris\\n2,5;rose\\n3,0;rose\\n")
    ...     table = st.datasets.read_table(path, target="kind", model="logistic")
    >>> table.columns, table.classes, table.y, table.reading
    (('length', 'intercept'), ('iris', 'rose'), array([0., 1., 1.]), 'separator semicolon, decimal comma')
    """
    _check.choice("model", model, ("logistic", "least-squares", "network"))
    if decimal is not None:
        _check.choice("decimal", decimal, (".", ","))
    if missing is not None:
        _check.choice("missing", missing, ("drop", "median"))
    if not isinstance(target, str | None):
        raise ValueError(f"`target` must be the name of a column; got {target!r}.")
    options = {
        "target": None if target is None else tidy(target),
        "model": model,
        "encoding": encoding,
        "separator": _separator(separator),
        "decimal": decimal,
        "header": header if header is None else _check.flag("header", header),
        "columns": _names("columns", columns),
        "drop": _names("drop", drop) or [],
        "one_hot": _check.flag("one_hot", one_hot),
        "missing": missing,
    }
    return _Reader(_files.path_of(path)).table(options)


def _separator(separator: str | None) -> str | None:
    if separator is None:
        return None
    mark = SEPARATORS.get(separator, separator).replace("\\t", "\t")
    if len(mark) != 1 or mark in '"\n\r' or mark.isalnum():
        raise ValueError(
            f"`separator` must be one character, or one of {', '.join(SEPARATORS)}; got {separator!r}."
        )
    return mark


def _names(option: str, names: Sequence[str] | None) -> list[str] | None:
    if names is None:
        return None
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"`{option}` must be a sequence of names; got {names!r}. Give a list.")
    return [tidy(name) for name in names]


class _Reader:
    """One file, read anew only where the options that say how to read it change."""

    def __init__(self, path: Path):
        self.path = path
        self._how: dict[str, Any] | None = None

    def table(self, options: dict[str, Any]) -> Table:
        """The table; an error's advice has been tried: with all that it names the table is read."""
        try:
            return self._table(options)
        except Refused as refused:
            remedy = self._enough(options, refused.remedy)
            raise Refused(refused.problem, refused.by_hand, remedy) from None

    def _enough(self, options: dict[str, Any], remedy: dict[str, Any]) -> dict[str, Any]:
        """All that a remedy has to be joined by until the table is read; nothing where that cannot be."""
        for _ in range(len(options)):
            if not remedy:
                break
            try:
                self._table(_with(options, remedy))
                return remedy
            except Refused as another:
                more = another.remedy
                # A remedy that takes back what another asked for goes round in circles.
                if not more or any(name in remedy and name != "drop" for name in more):
                    break
                left_out = [*remedy.get("drop", ()), *more.get("drop", ())]
                remedy = {**remedy, **more, **({"drop": left_out} if left_out else {})}
            except ValueError:
                break
        return {}

    def _table(self, options: dict[str, Any]) -> Table:
        frame, dialect, encoding = self._frame(options)
        target, model = options["target"], options["model"]
        if target is None:
            raise ValueError(
                f"`target` must be given: the column to predict. {self.path} has the columns "
                f"{_listed(dialect.names)}."
            )
        cells = [(name, frame[place]) for place, name in enumerate(dialect.names)]
        left_out = set(options["drop"]) - {""}
        if target in left_out:
            raise ValueError(f"`drop` names {target!r}, the target. Leave it out of `drop`.")
        cells = [(name, column) for name, column in cells if name not in left_out]
        self._unique([name for name, _ in cells])
        cells, notes = named(cells, [target, *(options["columns"] or [])])
        cells = [(name, column) for name, column in cells if name not in left_out]
        known = [name for name, _ in cells]
        self._has(target, known, options)
        features = self._features(known, options)
        if not features:
            raise ValueError(
                f"{self.path} has no column besides the target {target!r}: nothing to predict from."
            )
        by_name = dict(cells)
        label = target_of(target, by_name[target].to_numpy(dtype=object), dialect.decimal)
        columns = [column_of(name, by_name[name], dialect.decimal) for name in features]
        usable(columns, options["one_hot"])
        notes += remarks(columns)
        columns, rows, done = complete(columns, label.given, target, options["missing"])
        label = label.at(rows)
        y, classes = _predicted(label, model)
        done += label.alike() if classes else []
        X, names, origins = matrix(columns, target)
        X, spread = _standardize(X)
        if not spread.all():
            constant = list(dict.fromkeys(np.array(origins, dtype=object)[spread == 0]))
            raise Refused(
                f"Column {constant[0]!r} is constant: it carries no information beside the intercept."
                + others(constant),
                "Drop it." if len(constant) == 1 else "Drop them.",
                {"drop": constant},
            )
        if model != "network":
            # Not for a network, whose layers have biases.
            X, names = np.hstack([X, np.ones((len(X), 1))]), [*names, free("intercept", {target, *names})]
        reading = f"{dialect}{encoding and f', {encoding}'}"
        return Table(X, y, tuple(names), target, classes, reading, (*dialect.notes, *notes, *done))

    def _unique(self, names: list[str]) -> None:
        if twice := [name for name in dict.fromkeys(names) if name and names.count(name) > 1]:
            raise Refused(f"{self.path} has two columns named {twice[0]!r}.", "Rename one.", {"drop": twice})

    def _has(self, target: str, known: list[str], options: dict[str, Any]) -> None:
        if target in known:
            return
        near = difflib.get_close_matches(target.lower(), [name.lower() for name in known], 1)
        meant = [name for name in known if name.lower() in near]
        if options["header"] is False:
            # Without a header columns are called by their numbers, and the last one is the target most often.
            meant = known[-1:]
        remedy = {"target": meant[0]} if meant else self._split(target, options)
        raise Refused(
            f"{self.path} has no column {target!r}. Its columns: {_listed(known)}.",
            "" if remedy else self._below(target),
            remedy,
        )

    def _split(self, target: str, options: dict[str, Any]) -> dict[str, Any]:
        """The separator with which a header that was taken for one name has the target among its names."""
        if len(self._all) > 1 or options["separator"]:
            return {}
        head = self._all[0]
        marks = [mark for mark in dict.fromkeys(head) if not mark.isalnum() and mark not in '"_ ']
        able = [mark for mark in marks if target in map(tidy, head.split(mark))]
        return {"separator": able[0]} if able else {}

    def _below(self, target: str) -> str:
        """What to do where the names stand below a title."""
        for row, cells in enumerate(self._found[0].head(20).itertuples(index=False), start=1):
            if target in [tidy(str(cell)) for cell in cells]:
                return f"It stands in data row {row}: remove what is above the names."
        return ""

    def _features(self, known: list[str], options: dict[str, Any]) -> list[str]:
        """The columns to predict from."""
        numbered = {f"column {place + 1}" for place, name in enumerate(self._all) if UNNAMED.fullmatch(name)}
        for option, every in (("columns", {*known}), ("drop", {*self._all, *numbered})):
            if unknown := [name for name in options[option] or [] if name not in every]:
                raise ValueError(
                    f"`{option}` names {unknown[0]!r}, which {self.path} does not have. Its columns: "
                    f"{_listed(known)}."
                )
        wanted = known if options["columns"] is None else options["columns"]
        return [name for name in dict.fromkeys(wanted) if name != options["target"]]

    def _frame(self, options: dict[str, Any]) -> tuple[Any, Dialect, str]:
        """The cells as pandas reads them, the target's as text, and how they were read."""
        how = {name: options[name] for name in ("target", "encoding", "separator", "decimal", "header")}
        if how != self._how:
            with text_of(self.path, options["encoding"]) as text:
                sample, whole = text.sample()
                dialect = dialect_of(
                    sample,
                    whole,
                    self.path,
                    options["target"],
                    separator=options["separator"],
                    decimal=options["decimal"],
                    header=options["header"],
                )
                text.give_back(sample[dialect.skipped :])
                text.separator = dialect.separator
                frame, notes = self._cells(text, dialect, options["target"])
                words = (
                    column.dropna().unique() for _, column in frame.items() if column.dtype.kind not in "biuf"
                )
                cells = ([cell for cell in column if isinstance(cell, str)] for column in words)
                mark = dialect.decimal or settled_mark(self.path, dialect.separator, cells)
                dialect = replace(dialect, decimal=mark, notes=(*dialect.notes, *notes))
                found = frame, dialect, "" if text.encoding.startswith("utf-8") else text.encoding
            self._how, self._found, self._all = how, found, dialect.names
        return self._found

    def _cells(self, text: Text, dialect: Dialect, target: str) -> tuple[Any, list[str]]:
        """The rows as pandas reads them, and what was passed over."""
        import pandas as pd

        width = len(dialect.names)
        options: dict[str, Any] = {
            "sep": r"\s+" if dialect.separator == " " else dialect.separator,
            # As long as it is not known, what needs it stays text: read by a wrong one it could be a number.
            "decimal": dialect.decimal or "\x01",
            "header": None,
            "names": list(range(width)),
            # As text: of a label 01 or 1.0 the number would be another.
            "dtype": {dialect.names.index(target): object} if target in dialect.names else None,
            "na_values": NOTHING,
            "keep_default_na": False,
            "skipinitialspace": True,
            "low_memory": False,
            "chunksize": max(1, 4_000_000 // width),  # of cells: the limit holds for wide tables too
        }
        parts = []
        try:
            with pd.read_csv(text, **options) as reader:  # type: ignore[call-overload]
                for part in _within_limit(reader, self.path):
                    if not isinstance(part.index, pd.RangeIndex):  # surplus values, taken for names of rows
                        raise ValueError(
                            f"{self.path} has more values in its rows than names in its header. Give every "
                            "column a name."
                        )
                    parts.append(part)
        except pd.errors.EmptyDataError:
            pass
        except pd.errors.ParserError as error:
            if text.failure is not None:
                raise text.failure from None
            raise ValueError(f"{self.path} is not a readable CSV table: {_reason(error, dialect)}.") from None
        frame = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
        empty = frame.isna().all(axis=1).to_numpy() if len(frame) else np.zeros(0, dtype=bool)
        frame = frame[~empty]  # lines of separators alone
        notes = [
            f"{count:,} {what} left out"
            for count, what in ((text.passed, "remarks (#) among the rows"), (empty.sum(), "empty rows"))
            if count
        ]
        if len(frame) < 2:
            names = "has a header but " if dialect.has_header else "has "
            raise ValueError(
                f"{self.path} {names}{len(frame)} data row{'s' * (len(frame) != 1)}: at least 2 are needed."
            )
        return frame, notes


def _reason(error: Exception, dialect: Dialect) -> str:
    """pandas' own words, with the numbers of lines in the file."""
    told = str(error).strip()
    if long := re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", told):
        expected, line, saw = map(int, long.groups())
        return f"expected {expected} values in line {line + dialect.lines}, saw {saw}"
    if "EOF inside string" in told:
        row = re.search(r"row (\d+)", told)
        return "a quoted cell has no end" + (f"; it begins in data row {int(row[1]) + 1}" if row else "")
    return told.rstrip(".")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")


def _predicted(label: Target, model: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """The target as the model takes it, and its classes."""
    if model == "logistic":
        place, classes = label.few_classes()
        return place.astype(float), classes
    if model == "network" and label.names_classes():
        return label.classes()
    y, spread = _standardize(label.as_numbers()[:, None])
    if spread[0] == 0:
        raise ValueError(f"The target {label.name!r} is constant: there is nothing to fit.")
    return y[:, 0], ()


def _with(options: Mapping[str, Any], remedy: Mapping[str, Any]) -> dict[str, Any]:
    """Options with a remedy: what is left out already stays so."""
    return {**options, **remedy, "drop": [*options["drop"], *remedy.get("drop", ())]}


def _within_limit(reader: Any, path: Path) -> Iterator[Any]:
    cells = 0
    for part in reader:
        cells += part.size
        if cells > MAX_CELLS:
            raise ValueError(
                f"{path} has more than {MAX_CELLS:.0e} cells (rows x columns), the largest table that is "
                "read into memory. Pass a random sample of its rows."
            )
        yield part


def _standardize(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns of mean 0 and standard deviation 1, and their spread: 0 where only rounding differs."""
    largest = np.max(np.abs(X), axis=0)
    X = X / np.where(largest > 0, largest, 1.0)  # squares of very large or small units would overflow
    centred = X - X[:1]  # without a large common part no digit is lost in the mean
    centred = centred - centred.mean(axis=0)
    spread = np.sqrt(np.mean(centred**2, axis=0))
    spread = np.where(spread <= 4 * np.finfo(float).eps, 0.0, spread)
    return centred / np.where(spread > 0, spread, 1.0), spread
