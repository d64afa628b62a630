"""Options that say how a table is read, shared by the commands that read one."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from typing import Any

import click

from ..datasets.refusal import Refused
from ..datasets.table import Table, read_table

OPTIONS = ("encoding", "separator", "decimal", "header", "columns", "drop", "one_hot", "missing")


def reads_a_table(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options, which the command is given under the names in `OPTIONS`."""
    options = (
        click.option(
            "--encoding", default=None, help="Encoding of the file, such as cp1252; UTF-8 if not given."
        ),
        click.option(
            "--separator",
            default=None,
            help="comma, semicolon, tab, pipe, space or one character; found if not given.",
        ),
        click.option(
            "--decimal", type=click.Choice([".", ","]), default=None, help="Decimal mark; found if not given."
        ),
        click.option(
            "--header/--no-header",
            default=None,
            help="Whether the first line holds names; without, columns are named 1, 2, ...",
        ),
        click.option(
            "--columns", metavar="A,B,...", multiple=True, help="Columns to predict from; all if not given."
        ),
        click.option("--drop", metavar="A,B,...", multiple=True, help="Columns to leave out."),
        click.option(
            "--one-hot", is_flag=True, help="A column of zeros and ones for each word of a column of text."
        ),
        click.option(
            "--missing",
            type=click.Choice(["drop", "median"]),
            default=None,
            help="Leave rows with missing values out, or fill in the column's median.",
        ),
    )
    for option in reversed(options):  # as decorators, of which the last is applied first
        command = option(command)
    return command


def table_of(path: Any, target: str | None, model: str, options: dict[str, Any]) -> Table:
    """The table that the options describe, which are taken out; errors speak of options.

    Raises
    ------
    ValueError
        As `read_table` does.
    """
    given = {name: options.pop(name) for name in OPTIONS if name in options}
    given["columns"] = _names(given.get("columns", ())) or None
    given["drop"] = _names(given.get("drop", ()))
    try:
        return read_table(path, target=target, model=model, **given)
    except Refused as refused:
        raise ValueError(refused.on_the_command_line()) from None


def _names(texts: Iterable[str]) -> list[str]:
    """Names separated by commas, in quotes where a comma is part of one."""
    return [name for row in csv.reader(texts, skipinitialspace=True) for name in row if name]
