"""A user's CSV table as a design matrix and a target, checked column by column."""

from __future__ import annotations

import lzma
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import _check
from .._display import Grid, settled
from .._frames import Framed
from .._saving import Result

MAX_CELLS = 200_000_000
"""Largest table read, rows x columns: 1.6 GB of float64, about three times that while it is worked on."""

MAX_CLASSES = 20
"""Most whole numbers that a network's target may hold to be read as classes."""


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

    def _columns(self) -> Mapping[str, Any]:
        return dict(zip(self.columns, self.X.T, strict=True)) | {self.target: self.y}

    def _page(self) -> Iterator[str | Grid]:
        about = f"classes {', '.join(self.classes)}" if self.classes else "a number"
        yield f"{len(self.y):,} rows, {len(self.columns)} columns; to predict: {self.target}, {about}"
        spread = zip(self.columns, self.X.mean(axis=0), self.X.std(axis=0), strict=True)
        rows = [(name, settled(mean, 1.0), std) for name, mean, std in spread]
        yield Grid([("column", ""), ("mean", ".3g"), ("std", ".3g")], rows)


def read_table(path: str | Path, *, target: str, model: str) -> Table:
    """Read a CSV with a header line; standardize its columns and append an intercept.

    For a network the target is a class where it holds text, truth values or at most 20 whole numbers, else a
    number.

    Parameters
    ----------
    path : path of a CSV file
    target : str
        Name of the column to predict; for ``model="logistic"`` it may hold two words.
    model : {"logistic", "least-squares", "network"}

    Raises
    ------
    ValueError
        If the file is missing, empty or larger than 2e8 cells; the target is missing or has other than
        two classes; a column has missing values, text or a constant.

    Examples
    --------
    >>> import tempfile, pathlib, stability as st
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "flowers.csv"
    ...     _ = path.write_text("length,kind\\n1.0,iris\\n2.0,rose\\n3.0,rose\\n")
    ...     table = st.read_table(path, target="kind", model="logistic")
    >>> table.columns, table.classes, table.y
    (('length', 'intercept'), ('iris', 'rose'), array([0., 1., 1.]))
    """
    _check.choice("model", model, ("logistic", "least-squares", "network"))
    frame = _read(Path(path), target)
    labels = frame.pop(target)
    if not len(frame.columns):
        raise ValueError(f"{path} has no column besides the target {target!r}: nothing to predict from.")
    X = np.stack([_numbers(frame[name], name) for name in frame.columns], axis=1)
    X, spread = _standardize(X)
    constant = [name for name, s in zip(frame.columns, spread, strict=True) if s == 0]
    if constant:
        raise ValueError(
            f"Column {constant[0]!r} is constant: it carries no information beside the intercept. Drop it."
        )
    names = tuple(map(str, frame.columns))
    if model != "network":
        X, names = np.hstack([X, np.ones((len(X), 1))]), (*names, "intercept")
    if model == "logistic":
        y, classes = _two_classes(labels, target)
        return Table(X, y, names, target, classes)
    if model == "network" and _names_classes(labels):
        y, classes = _classes(labels, target)
        return Table(X, y, names, target, classes)
    y, spread = _standardize(_numbers(labels, target)[:, None])
    if spread[0] == 0:
        raise ValueError(f"The target {target!r} is constant: there is nothing to fit.")
    return Table(X, y[:, 0], names, target)


def _read(path: Path, target: str) -> Any:
    import pandas as pd

    try:
        parts, rows = [], 0
        header = pd.read_csv(path, nrows=1, header=None, dtype=str, skipinitialspace=True).iloc[0]
        if header.duplicated().any():  # pandas would rename the second one
            raise ValueError(
                f"{path} has two columns named {header[header.duplicated()].iloc[0]!r}. Rename one."
            )
        width = len(header)  # chunks of a fixed number of cells: the limit holds for wide tables too
        with pd.read_csv(path, chunksize=max(1, 4_000_000 // width), skipinitialspace=True) as reader:
            for part in _within_limit(reader, path):
                if not isinstance(
                    part.index, pd.RangeIndex
                ):  # pandas takes surplus leading values for row names
                    raise ValueError(f"{path} has more values in its rows than names in its header.")
                if target not in part.columns:
                    known = ", ".join(map(str, part.columns[:12])) + (
                        ", ..." if len(part.columns) > 12 else ""
                    )
                    hint = (
                        " Is the separator a semicolon? Save the table with commas."
                        if len(part.columns) == 1 and ";" in known
                        else ""
                    )
                    raise ValueError(f"{path} has no column {target!r}. Its columns: {known}.{hint}")
                parts.append(part)
                rows += len(part)
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist.") from None
    except IsADirectoryError:
        raise ValueError(f"{path} is a folder, not a CSV file.") from None
    except (OSError, EOFError, ImportError, lzma.LZMAError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from None
    except pd.errors.EmptyDataError:
        raise ValueError(f"{path} is empty.") from None
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a readable CSV table: {str(error).strip()}") from None
    if rows < 2:
        raise ValueError(
            f"{path} has a header but {rows} data row{'s' * (rows != 1)}: at least 2 are needed."
        )
    return pd.concat(parts, ignore_index=True)


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


def _numbers(column: Any, name: str) -> np.ndarray:
    import pandas as pd

    try:
        values = pd.to_numeric(column, errors="coerce").to_numpy(dtype=float)
    except OverflowError:
        raise ValueError(
            f"Column {name!r} holds a whole number that is too large for a floating-point number."
        ) from None
    missing = column.isna().to_numpy()
    if missing.any():
        raise ValueError(
            f"Column {name!r} has {int(missing.sum())} missing values, the first in data row "
            f"{int(missing.argmax()) + 1}. Remove or impute them."
        )
    text = np.isnan(values)
    if text.any():
        row = int(text.argmax())
        raise ValueError(
            f"Column {name!r} holds text ({column.iloc[row]!r} in data row {row + 1}). Encode it as numbers "
            "or drop the column."
        )
    return _check.array(f"column {name}", values)


def _standardize(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    largest = np.max(np.abs(X), axis=0)
    X = X / np.where(largest > 0, largest, 1.0)  # squares of very large or small units would overflow
    centred = X - X.mean(axis=0)
    spread = np.sqrt(np.mean(centred**2, axis=0))
    spread = np.where(spread <= 1e-12, 0.0, spread)
    return centred / np.where(spread > 0, spread, 1.0), spread


def _names_classes(labels: Any) -> bool:
    """Whether a column is read as classes: text, truth values, or few whole numbers."""
    import pandas as pd

    if labels.dtype.kind not in "iuf":
        return bool(pd.to_numeric(labels, errors="coerce").isna().any() or labels.dtype.kind == "b")
    values = labels.dropna().unique()
    return len(values) <= MAX_CLASSES and bool(np.all(values == np.round(values)))


def _classes(labels: Any, target: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Class numbers of any labels, and the labels in order."""
    _no_missing(labels, target)
    if labels.dtype == object or labels.dtype.kind not in "biuf":
        labels = labels.astype(str)  # chunks may have read one label as a number here and as text there
    found, numbers = np.unique(labels.to_numpy(), return_inverse=True)
    names = found.tolist()  # Python's own: NumPy's numbers print as np.int64(1)
    if len(names) == 1:
        raise ValueError(
            f"The target {target!r} has one class only ({names[0]!r}): there is nothing to tell apart."
        )
    return numbers, tuple(map(str, names))


def _no_missing(labels: Any, target: str) -> None:
    if labels.isna().any():
        row = int(labels.isna().to_numpy().argmax()) + 1
        raise ValueError(
            f"Column {target!r} has {int(labels.isna().sum())} missing values, the first in data row {row}. "
            "Remove or impute them."
        )


def _two_classes(labels: Any, target: str) -> tuple[np.ndarray, tuple[str, ...]]:
    _no_missing(labels, target)
    if labels.dtype == object or labels.dtype.kind not in "biuf":
        labels = labels.astype(str)  # chunks may have read one label as a number here and as text there
    values = sorted(labels.unique().tolist())
    if len(values) == 1:
        raise ValueError(
            f"The target {target!r} has one class only ({values[0]!r}): logistic regression needs two."
        )
    if len(values) > 2:
        raise ValueError(
            f"The target {target!r} has {len(values)} distinct values; logistic regression needs two "
            "classes. Use --model least-squares?"
        )
    return (labels == values[1]).to_numpy(dtype=float), (str(values[0]), str(values[1]))
