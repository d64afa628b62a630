"""`stability reproduce`."""

from __future__ import annotations

import os
import time

import click

from .. import _check
from . import _output
from ._main import main


@main.command(epilog="Example:  stability reproduce --quick --out out")
@click.option(
    "--out", default="out", show_default=True, help="Folder for pictures; their numbers go to its data/."
)
@click.option("--quick", is_flag=True, help="The small form of every study (about two minutes).")
@click.option(
    "--only", multiple=True, metavar="STUDY", help="Run this study only; may be given more than once."
)
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Seed of all ensembles."
)
def reproduce(out: str, quick: bool, only: tuple[str, ...], seed: int) -> None:
    """Run the studies behind the abstract's claims and draw them.

    Condition number against noise, curvature noise against the largest stable step, equal rates instead of
    equal steps, momentum against noise and batch, a rotation under Adam, batch sharpness in training, real
    minibatch steps on a data table; escape from saddles, phase portraits, the noise along a path, where noise
    settles, almost-sure stability, toy problems. Each leaves a PNG, an SVG and the numbers it is drawn from.
    """
    from rich.console import Console
    from rich.markup import escape

    from .. import claims

    names = [_check.choice("--only", name, claims.STUDIES) for name in only] or list(claims.STUDIES)
    folder = _check.folder(out)  # found out before the computing starts
    _check.folder(folder / "data")
    for name in names:
        _output.ready(folder / "data" / name, folder / name)
    console = Console(highlight=False, soft_wrap=True)
    told = "" if only else f", {'about two minutes' if quick else 'about six minutes'} on two cores"
    console.print(
        f"{len(names)} {'study' if len(names) == 1 else 'studies'}{told}; pictures go to "
        f"{escape(str(folder))}/"
    )
    failed = 0
    for done, name in enumerate(names):
        began = time.perf_counter()
        try:
            with console.status(name) as status:
                study = claims.run(name, quick=quick, seed=seed, report=status.update)
                _output.keep(study, folder / "data" / name, folder / name)
        except KeyboardInterrupt as stopped:
            finished = f"{done} of {len(names)} studies were finished and are in {folder}{os.sep}."
            own = f" Of {name}: {stopped}" if isinstance(stopped, _output.Stopped) else ""
            raise _output.Stopped(f"Interrupted in {name}: {finished}{own}") from None
        console.print(
            f"[bold]{name}[/bold]  {time.perf_counter() - began:.0f} s  {escape(str(folder / name))}.png"
        )
        if claims.summary(study):
            console.print(escape(claims.summary(study)))
        for one in claims.check(study):
            failed += not one.passed
            console.print(
                f"  {'[green]ok[/green]  ' if one.passed else '[red]FAIL[/red]'} {escape(one.statement)}: "
                f"{escape(one.detail)}"
            )
    if failed:
        console.print(f"{failed} checks failed")
        raise SystemExit(1)
