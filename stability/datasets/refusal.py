"""A table that cannot be read as it was asked for, and the options with which it can."""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Mapping
from typing import Any


class Refused(ValueError):
    """What stands in the way, and what gets around it.

    Attributes
    ----------
    problem, by_hand : str
        What was found, with its place; what to change in the file or the command.
    remedy : dict
        Keywords of `read_table` with which the same table is read.
    """

    def __init__(self, problem: str, by_hand: str = "", remedy: Mapping[str, Any] | None = None):
        super().__init__(problem, by_hand, remedy)
        self.problem, self.by_hand, self.remedy = problem, by_hand, dict(remedy or {})

    def __str__(self) -> str:
        return self._told(", ".join(f"{name}={value!r}" for name, value in self.remedy.items()))

    def on_the_command_line(self) -> str:
        """The same in the options of `stability bound`."""
        return self._told(" ".join(_flag(name, value) for name, value in self.remedy.items()))

    def _told(self, options: str) -> str:
        advice = f"{'Or use' if self.by_hand else 'Use'} {options}." if options else ""
        return " ".join(part for part in (self.problem, self.by_hand, advice) if part)


def _flag(name: str, value: Any) -> str:
    option = f"--{name.replace('_', '-')}"
    if name == "header":
        return option if value else "--no-header"
    if value is True:
        return option
    if isinstance(value, list):
        row = io.StringIO()
        csv.writer(row, lineterminator="").writerow(value)
        value = row.getvalue()
    return f"{option} {shlex.quote(value)}"
