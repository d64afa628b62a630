"""Options that say how a table is read, shared by the commands that read one."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from pathlib import Path
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


def regression_of(table: Table, model: str, l2: float) -> tuple[Any, list[str]]:
    """The objective of a model on a table, in the space that its rows span, and the table's notes."""
    from ..objectives.regression import Regression, least_squares, logistic

    whole: Regression = (
        logistic(table.X, table.y, l2=l2, classes=len(table.classes))
        if model == "logistic"
        else least_squares(table.X, table.y, l2=l2)
    )
    objective, notes = whole.in_row_space(), list(table.notes)
    if objective.dim < whole.dim:
        notes.append(
            f"{whole.n_samples} rows span {objective.dim} of {whole.dim} dimensions; the others have the "
            f"curvature l2 = {l2:g} and no noise, and are left out"
        )
    return objective, notes


def told_of(path: Any, table: Table, objective: Any, model: str, l2: float) -> str:
    """The line that says what was understood of a table."""
    predicted = f"{table.target!r}" + (f", {len(table.classes)} classes" if len(table.classes) > 2 else "")
    return (
        f"{Path(path).name} ({table.reading}): {objective.n_samples} samples, {len(table.columns)} columns "
        f"with the intercept, {model} for {predicted}, l2 = {l2:g}"
    )


def _names(texts: Iterable[str]) -> list[str]:
    """Names separated by commas, in quotes where a comma is part of one."""
    return [name for row in csv.reader(texts, skipinitialspace=True) for name in row if name]
