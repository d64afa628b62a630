"""Cells of a table: which are numbers, dates, words, or nothing."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable
from typing import Any

import numpy as np

NOTHING = (
    "",
    "nan",
    "NaN",
    "NAN",
    "-nan",
    "-NaN",
    "<NA>",
    "NaT",
    "#N/A",
    "#NA",
    "#N/A N/A",
    "#NULL!",
    "#DIV/0!",
)
"""Cells that are empty in every column, words' included."""

# Excel writes them in its user's language: #NV, #N/D, #WERT!, #¡REF!, #NAME?, #DIV/0!
_SPREADSHEET_ERROR = re.compile(r"#(NV|[^\W\d_]/[^\W\d_]!?|[¡¿]?[^\W\d_]+(/0)?[!?])")

WORDS = {
    "NA",
    "N/A",
    "n/a",
    "na",
    "None",
    "none",
    "NONE",
    "null",
    "NULL",
    "Null",
    "?",
    "-",
    "--",
    ".",
    "n.a.",
}
"""Cells that are empty among numbers; among words they are words."""

TRUTH = {"true": 1.0, "false": 0.0}
_CURRENCY = r"[$€£¥₹]|USD|EUR|GBP|CHF|JPY"
_GAPS = " \u00a0\u202f\u2009'’"  # between thousands in French, Swiss and SI notation


@functools.cache
def _pattern(decimal: str) -> re.Pattern[str]:
    """A number with a currency before it, or a unit behind."""
    point, thousands = re.escape(decimal), f"[{re.escape(',' if decimal == '.' else '.')}{_GAPS}]"
    whole = rf"[1-9]\d{{0,2}}(?P<gap>{thousands})\d{{3}}(?:(?P=gap)\d{{3}})*|\d+"
    return re.compile(
        rf"(?P<before>{_CURRENCY})?\s*(?P<number>[+-]?(?:(?:{whole})(?:{point}\d*)?|{point}\d+)(?:[eE][+-]?\d+)?)"
        rf"\s*(?P<unit>%|°?[^\W\d_]{{1,6}}|{_CURRENCY})?"
    )


def number(cell: str, decimal: str = ".") -> tuple[float, str] | None:
    """The number in a cell and its unit; None where it is no number.

    Groups of thousands are read; a group of other than three digits is none.

    Raises
    ------
    OverflowError
        If it is too large for a floating-point number.
    """
    cell = cell.strip().replace("\u2212", "-")
    if cell.lower() in TRUTH:
        return TRUTH[cell.lower()], "true or false"
    found = _pattern(decimal).fullmatch(cell)
    if found is None:
        return _infinite(cell)
    digits = found["number"]
    for gap in f"{',' if decimal == '.' else '.'}{_GAPS}":
        digits = digits.replace(gap, "")
    value = float(digits.replace(decimal, "."))
    if np.isinf(value):
        raise OverflowError(cell)
    return value, (found["before"] or "") + (found["unit"] or "")


def _infinite(cell: str) -> tuple[float, str] | None:
    word = cell.lower().lstrip("+-")
    if word not in ("inf", "infinity"):
        return None
    return (-np.inf if cell.startswith("-") else np.inf), ""


_MONTH = r"(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec|mai|okt|dez)[a-zà-ž]*\.?"
_DATE = re.compile(
    r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}([T ].*)?"
    r"|\d{1,2}[-/.]\d{1,2}[-/.](\d{4}|\d{2})([T ].*)?"
    r"|\d{1,2}:\d{2}(:\d{2}([.,]\d+)?)?( ?[ap]\.?m\.?)?"
    rf"|([a-z]{{2,9}}\.?,? )?\d{{1,2}}(\.|st|nd|rd|th)?[ -]?{_MONTH},?[ -]?\d{{2,4}}( .*)?"
    rf"|([a-z]{{2,9}}\.?,? )?{_MONTH} \d{{1,2}}(st|nd|rd|th)?,? \d{{4}}( .*)?"
    rf"|\d{{4}}-\d{{1,2}}|\d{{4}}-?w\d{{2}}(-?\d)?|\d{{4}}[- ]?q[1-4]|{_MONTH}[ -]\d{{2,4}}",
    re.IGNORECASE,
)


def is_date(cell: str) -> bool:
    """Whether a cell is a date or a time of day, in one of the usual forms."""
    return _DATE.fullmatch(cell.strip()) is not None


# White space, and what programs put around names to steer the direction of writing or the breaking of lines.
_AROUND = "".join(chr(i) for i in range(0x3001) if chr(i).isspace())
_AROUND += "\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\u00ad"


def tidy(text: str) -> str:
    """A name or a word as it is compared: no spaces or marks without width around, accents as in NFC."""
    return unicodedata.normalize("NFC", text.replace("\ufeff", "")).strip(_AROUND)


def is_empty(cell: str) -> bool:
    """Whether there is nothing in a tidy cell of any column, or the error of a spreadsheet."""
    if cell in NOTHING:
        return True
    return cell.startswith("#") and cell.isupper() and _SPREADSHEET_ERROR.fullmatch(cell) is not None


def is_nothing(cell: str) -> bool:
    """Whether there is nothing in a cell of numbers."""
    return cell.strip() in WORDS or is_empty(cell.strip())


@functools.lru_cache(maxsize=100_000)  # a cell is asked for several times, and many are alike
def looks_numeric(cell: str) -> bool:
    """Whether a cell would be a number with one of the two decimal marks."""
    try:
        return number(cell) is not None or number(cell, ",") is not None
    except OverflowError:
        return True


def decimal_marks(cells: Iterable[str]) -> tuple[list[str], list[str]]:
    """Cells that are numbers with a point alone, and those that are with a comma alone."""
    point, comma = [], []
    for cell in set(cells):
        try:
            as_point, as_comma = number(cell), number(cell, ",")
        except OverflowError:
            continue
        if as_comma is None and as_point is not None:
            point.append(cell)
        elif as_point is None and as_comma is not None:
            comma.append(cell)
    return point, comma


def ambiguous(cell: str) -> bool:
    """Whether a cell is another number with a decimal comma than with a point: 1,234 or 1.234."""
    try:
        return number(cell) != number(cell, ",")
    except OverflowError:
        return False


def numbers(values: Any, decimal: str) -> tuple[np.ndarray, np.ndarray, dict[str, str], str]:
    """A column of words and numbers as numbers.

    Parameters
    ----------
    values : object array of str, float, bool

    Returns
    -------
    numbers : array of float
        nan where there is none.
    words : bool array
        Where there is something that is no number.
    units : dict
        Of each unit found, one cell.
    huge : str
        A cell beyond all floating-point numbers, or an empty text.
    """
    import pandas as pd

    # Each different cell once: columns of millions hold few, and the last place stands for what is missing.
    kinds, found = pd.factorize(values, use_na_sentinel=True)
    value, is_word = np.full(len(found) + 1, np.nan), np.zeros(len(found) + 1, dtype=bool)
    units: dict[str, str] = {}
    huge = ""
    for place, cell in enumerate(found):
        if not isinstance(cell, str):
            try:
                value[place] = float(cell)
            except OverflowError:  # a whole number of hundreds of digits
                huge = str(cell)
            units.setdefault("true or false" if isinstance(cell, bool) else "", str(cell))
            continue
        if is_nothing(cell):
            continue
        try:
            read = number(cell, decimal)
        except OverflowError:
            huge = cell
            continue
        if read is None:
            is_word[place] = True
        else:
            value[place] = read[0]
            units.setdefault(read[1], cell)
    return value[kinds], is_word[kinds], units, huge
