"""How results show themselves: one page of lines and tables, as text in a terminal and as HTML in Jupyter."""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

_MOST_ROWS = 60
_MOST_LISTED = 12
_MOST_ENTRIES = 6


def number(value: Any, spec: str = ".4g") -> str:
    """One number as a cell: "-" where there is none (nan), and a zero without sign or exponent."""
    value = float(value)
    if math.isnan(value):
        return "-"
    return "0" if value == 0 and spec[-1:] in "eg" else f"{value:{spec}}"


def settled(values: Any, of: Any, share: float = 1e-14) -> Any:
    """Values with those that are rounding, at most `share` of what they were computed from, set to zero."""
    values = np.asarray(values, dtype=float)
    return np.where(np.abs(values) <= share * np.abs(of), 0.0, values)


def point(w: Any, spec: str = ".4g") -> str:
    """A point (d,) as "(1, 0.5, ...)", at most six coordinates."""
    shown = [number(x, spec) for x in w[:_MOST_ENTRIES]]
    return f"({', '.join(shown + ['...'] * (len(w) > _MOST_ENTRIES))})"


def shortened(rows: Iterable[Sequence[Any]], most: int = _MOST_LISTED) -> list[Sequence[Any]]:
    """Rows of a table with the middle left out where they are more than `most`; the first and last stay."""
    rows = list(rows)
    if len(rows) <= most:
        return rows
    return [*rows[: most - 2], ("...", *[None] * (len(rows[0]) - 1)), rows[-1]]


class Grid:
    """A table on a page.

    Parameters
    ----------
    columns : pairs of str
        Head and format, like ``("error", ".2g")``; a column without a format holds text and is flush left.
    rows : rows of cells
        Numbers, or text where there is no number; None leaves a cell empty.
    """

    def __init__(self, columns: Iterable[tuple[str, str]], rows: Iterable[Sequence[Any]]):
        self.heads, self.specs = zip(*columns, strict=True)
        rows = list(rows)
        left_out = len(rows) - _MOST_ROWS
        self.rows = [self._row(row) for row in (rows if left_out <= 0 else rows[:_MOST_ROWS])]
        self.more = f"... and {left_out} more" if left_out > 0 else ""

    def _row(self, row: Sequence[Any]) -> list[str]:
        return [
            ""
            if cell is None
            else cell
            if isinstance(cell, str)
            else number(cell, spec)
            if spec
            else str(cell)
            for cell, spec in zip(row, self.specs, strict=True)
        ]

    def text(self) -> str:
        """Columns apart by two blanks, each as wide as its widest cell."""
        lines = [list(self.heads), *self.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        out = [
            "  ".join(
                cell.rjust(width) if spec else cell.ljust(width)
                for cell, width, spec in zip(line, widths, self.specs, strict=True)
            ).rstrip()
            for line in lines
        ]
        return "\n".join([*out, *([self.more] if self.more else [])])

    def html(self) -> str:
        """The same as a table, its cells escaped."""

        def line(tag: str, cells: Sequence[str]) -> str:
            sides = ("right" if spec else "left" for spec in self.specs)
            return "".join(
                f'<{tag} style="text-align:{side}">{html.escape(cell)}</{tag}>'
                for side, cell in zip(sides, cells, strict=True)
            )

        body = "".join(f"<tr>{line('td', row)}</tr>" for row in self.rows)
        return f"<table><thead><tr>{line('th', self.heads)}</tr></thead><tbody>{body}</tbody></table>" + (
            f"<div>{self.more}</div>" if self.more else ""
        )


class Page(str):
    """Lines and tables as one text, whose `repr` is what `print` shows; Jupyter shows the tables as HTML."""

    parts: tuple[str | Grid, ...]

    def __new__(cls, *parts: str | Grid) -> Page:
        """The parts below each other."""
        page = super().__new__(
            cls, "\n".join(part if isinstance(part, str) else part.text() for part in parts)
        )
        page.parts = parts
        return page

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return "".join(
            f'<div style="white-space:pre-wrap">{html.escape(part)}</div>'
            if isinstance(part, str)
            else part.html()
            for part in self.parts
        )


class Shown:
    """What a user receives: its `repr` is the page that `print` shows, and Jupyter shows the same."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # A dataclass writes a `__repr__` of all fields, raw arrays included, unless the class has its own.
        if "__repr__" not in cls.__dict__:
            cls.__repr__ = Shown.__repr__  # type: ignore[method-assign]

    def _page(self) -> Iterator[str | Grid]:
        """Lines and tables, top to bottom; by itself the fields, arrays by their shape."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        yield Grid(
            ((type(self).__name__, ""), ("", "")), [(f.name, _short(getattr(self, f.name))) for f in fields]
        )

    def __str__(self) -> str:
        return str(Page(*self._page()))

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return Page(*self._page())._repr_html_()


def _short(value: Any) -> str:
    if isinstance(value, np.ndarray):
        if value.ndim == 1 and value.dtype.kind == "f" and len(value) <= _MOST_ENTRIES:
            return point(value)
        return f"{value.dtype} {value.shape}"
    if isinstance(value, (float, np.floating)):
        return number(value, ".6g")
    return str(value)
