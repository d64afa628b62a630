"""Numbers on a command line: what a computer's numbers would make 0 of is refused."""

from __future__ import annotations

import re
import sys
from typing import Any

import click


class TooSmall(ValueError):
    """A number is not 0, and would be read as it or with few digits."""


def real(text: str) -> float:
    """The number that a text is.

    Raises
    ------
    TooSmall
        If it would be read as another one.
    ValueError
        If it is none.
    """
    value = float(text)
    if abs(value) < sys.float_info.min and re.match("[^eE]*[1-9]", text):
        raise TooSmall(
            f"{text} is too small for a computer's numbers (below {sys.float_info.min:.1e}). Give 0, or "
            "change the units."
        )
    return value


class _Real(click.types.FloatParamType):
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, str):
            try:
                return real(value)
            except TooSmall as error:
                self.fail(str(error), param, ctx)
            except ValueError:  # in click's own words
                pass
        return super().convert(value, param, ctx)


REAL = _Real()
"""The type of options that are numbers."""
