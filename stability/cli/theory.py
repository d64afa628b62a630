"""`stability theorems`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import click

from ._main import main
from ._methods import A_METHOD, KNOBS, METHODS, methods_of, taken, with_numbers

NUMBERS = {"damping": "damping", "beta": "beta", "beta2": "beta2", "eps": "eps", "weight_decay": "theta"}
"""Options that stand for a symbol of theorems, and the name under which these take its value."""


@main.command(
    epilog="Examples:  stability theorems noise-amplification --method newton --check\n\nstability theorems "
    "momentum --beta 0.9\n\nstability theorems adaptive-metric --method adamw --weight-decay 0.05"
)
@click.argument("name", required=False)
@click.option("--method", type=A_METHOD, help="For this method; by default for any gain.")
@click.option(
    "--dim",
    type=int,
    help="Derive with full matrices in 1, 2 or 3 dimensions; by default for one generic mode.",
)
@with_numbers("damping", "beta", "beta2", "eps", "weight_decay")
@click.option("--latex", "form", flag_value="latex", help="Print LaTeX: the statement with its derivation.")
@click.option("--json", "form", flag_value="json", help="Print JSON for a program.")
@click.option(
    "--check",
    is_flag=True,
    help="Recompute at random values by the numeric theory and by an ensemble; exit code 1 on disagreement.",
)
def theorems(
    name: str | None, method: str | None, dim: int | None, form: str | None, check: bool, **options: Any
) -> None:
    """Statements about stability and noise, derived by SymPy.

    Without NAME: what there is, and the table of what each method does at a minimum, a saddle, a maximum and
    a flat point. Numbers such as --beta are put in their symbols' place, below the sheet.
    """
    from ..symbolic.table import method_table
    from ..symbolic.theorem import theorem
    from ..symbolic.theorem import theorems as names

    if name is None and dim is not None:
        raise ValueError("`--dim` belongs to one theorem: name it.")
    given = {key: value for key, value in taken(options).items() if value is not None}
    if name is None and given:
        raise ValueError(f"`{_option(next(iter(given)))}` is a number for one theorem: name it.")
    (subject,) = [None] if method is None else methods_of([method], _own(method, given))
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
    numbers = _numbers(found[0], given) if given else {}
    verdicts = [sheet.check() if check else None for sheet in found]
    if form == "json":
        sheets = [
            {**sheet.to_json(), "check": v and v.to_json(), **_as_json(numbers, given)}
            for sheet, v in zip(found, verdicts, strict=True)
        ]
        click.echo(json.dumps(sheets if name is None else sheets[0], indent=1, allow_nan=False))
    else:
        for sheet, verdict in zip(found, verdicts, strict=True):
            shown = [sheet.latex(derivation=True) if form == "latex" else str(sheet)]
            if numbers:
                shown.append(_with_numbers(numbers, given, latex=form == "latex"))
            if verdict is not None:
                shown = [str(verdict)] if name is None else [*shown, str(verdict)]
            click.echo("\n\n".join(shown))
    # A verdict is true where it passed: without a check there is none.
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


def _own(method: str, given: dict[str, float]) -> dict[str, float]:
    """The numbers that are the method's; others are the theorem's alone."""
    return {key: value for key, value in given.items() if method in (KNOBS[key].methods or METHODS)}


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _numbers(sheet: Any, given: dict[str, float]) -> dict[str, Any]:
    """Its equations at the numbers, each of which it must have."""
    for key in given:
        if not sheet.takes(NUMBERS[key]):
            raise ValueError(
                f"`{_option(key)}` changes nothing in {sheet.name!r} for {sheet.mode.label}: it has no such "
                "symbol. Leave it out."
            )
    return sheet.at(**{NUMBERS[key]: value for key, value in given.items()})


def _with_numbers(numbers: dict[str, Any], given: dict[str, float], *, latex: bool) -> str:
    """The equations at the numbers, for people."""
    import sympy

    from ..symbolic.statement import indented

    lines = ["With " + ", ".join(f"{_option(key)[2:]} = {value:g}" for key, value in given.items())]
    for name, equation in numbers.items():
        lines += [f"  {name}", f"      {sympy.latex(equation)}" if latex else indented(equation)]
    return "\n".join(lines)


def _as_json(numbers: dict[str, Any], given: dict[str, float]) -> dict[str, Any]:
    import sympy

    return {"given": given, "numbers": {k: sympy.latex(v) for k, v in numbers.items()}} if given else {}


def _all(names: Iterable[str], method: Any) -> list[Any]:
    """Every theorem that says something about a method."""
    from ..symbolic.theorem import applies, theorem

    return [theorem(one, method=method) for one in names if method is None or applies(one, method)]
