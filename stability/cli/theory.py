"""`stability theorems`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import click

from ._main import main
from ._methods import A_METHOD, method_of


@main.command(epilog="Example:  stability theorems noise-amplification --method newton --check")
@click.argument("name", required=False)
@click.option("--method", type=A_METHOD, help="For this method; by default for any gain.")
@click.option(
    "--dim",
    type=int,
    help="Derive with full matrices in 1, 2 or 3 dimensions; by default for one generic mode.",
)
@click.option("--latex", "form", flag_value="latex", help="Print LaTeX: the statement with its derivation.")
@click.option("--json", "form", flag_value="json", help="Print JSON for a program.")
@click.option(
    "--check",
    is_flag=True,
    help="Recompute at random values by the numeric theory and by an ensemble; exit code 1 on disagreement.",
)
def theorems(name: str | None, method: str | None, dim: int | None, form: str | None, check: bool) -> None:
    """Statements about stability and noise, derived by SymPy.

    Without NAME: what there is, and the table of what each method does at a minimum, a saddle, a maximum and
    a flat point.
    """
    from ..symbolic.table import method_table
    from ..symbolic.theorem import theorem
    from ..symbolic.theorem import theorems as names

    if name is None and dim is not None:
        raise ValueError("`--dim` belongs to one theorem: name it.")
    subject = None if method is None else method_of(method)
    if name is None and method is None and not check:
        if form == "json":
            sheets = [theorem(one).to_json() for one in names()]
            click.echo(json.dumps({"theorems": sheets, "table": method_table().to_json()}, indent=1))
            return
        for one in names():
            click.echo(theorem(one).latex() if form == "latex" else f"{one:<24} {theorem(one).title}")
        if form is None:
            click.echo(f"\n{method_table()}\n\nOne of them in full:  stability theorems noise-amplification")
        return
    if name is not None and subject is not None and subject.memory is not None:
        _require_said(name, names(), str(method), subject)
    found = [theorem(name, method=subject, dim=dim)] if name is not None else _all(names(), subject)
    verdicts = [sheet.check() if check else None for sheet in found]
    if form == "json":
        sheets = [
            {**sheet.to_json(), "check": v and v.to_json()} for sheet, v in zip(found, verdicts, strict=True)
        ]
        click.echo(json.dumps(sheets if name is None else sheets[0], indent=1, allow_nan=False))
    else:
        for sheet, verdict in zip(found, verdicts, strict=True):
            shown = [sheet.latex(derivation=True) if form == "latex" else str(sheet)]
            if verdict is not None:
                shown = [str(verdict)] if name is None else [*shown, str(verdict)]
            click.echo("\n\n".join(shown))
    failed = sum(verdict is not None and not verdict for verdict in verdicts)
    if failed:
        raise SystemExit(1)


def _require_said(name: str, names: Iterable[str], method: str, subject: Any) -> None:
    """A theorem that does not know momentum is told so in the command line's words."""
    from ..symbolic.theorem import applies

    if name in names and not applies(name, subject):
        speak = ", ".join(one for one in names if applies(one, subject))
        raise ValueError(
            f"{name!r} says nothing about --method {method}; {speak} do. Use --method sgd, without momentum."
        )


def _all(names: Iterable[str], method: Any) -> list[Any]:
    """Every theorem that says something about a method."""
    from ..symbolic.theorem import applies, theorem

    return [theorem(one, method=method) for one in names if method is None or applies(one, method)]
