"""The command line: `stability reproduce`, `stability bound`, `stability train` and `stability theorems`.

Exit codes: 0 done, 1 a claim or check failed or Ctrl-C was pressed, 2 wrong usage or bad input.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from . import _check
from ._check import Interrupted
from .history import History
from .results import jsonable, save


class _BadInput(click.ClickException):
    exit_code = 2


class _Sentence(click.Group):
    """Bad input ends with one sentence and exit code 2, never a traceback."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except (ValueError, ArithmeticError) as error:
            raise _BadInput(str(error)) from None


@click.group(cls=_Sentence, epilog="Example:  stability reproduce --quick", context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="sfn-stability", prog_name="stability")
def main() -> None:
    """Stability of stochastic optimizers: how large a step, how much noise."""


@main.command(epilog="Example:  stability reproduce --quick --out out")
@click.option("--out", default="out", show_default=True, help="Folder for pictures; their numbers go to its data/.")
@click.option("--quick", is_flag=True, help="The small form of every study (about a minute).")
@click.option("--only", multiple=True, metavar="STUDY", help="Run this study only; may be given more than once.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Seed of all ensembles.")
def reproduce(out: str, quick: bool, only: tuple[str, ...], seed: int) -> None:
    """Run the studies behind the abstract's claims and draw them.

    Condition number against noise, curvature noise against the largest stable step, equal rates instead of equal
    steps, and real minibatch steps on a data table. Each leaves a PNG, an SVG and the numbers it is drawn from.
    """
    from rich.console import Console
    from rich.markup import escape

    from . import claims
    from .plot import plot, write

    names = [_check.choice("--only", name, claims.STUDIES) for name in only] or list(claims.STUDIES)
    folder = _check.folder(out)  # found out before the computing starts
    _check.folder(folder / "data")
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{len(names)} studies, {'about a minute' if quick else 'about four minutes on two cores'}; pictures go to {escape(str(folder))}/")
    failed = 0
    for name in names:
        began = time.perf_counter()
        with console.status(name) as status:
            study = claims.run(name, quick=quick, seed=seed, report=status.update)
            save(study, folder / "data" / name)
            write(plot(study), folder / name)
        console.print(f"[bold]{name}[/bold]  {time.perf_counter() - began:.0f} s  {escape(str(folder / name))}.png")
        if claims.summary(study):
            console.print(escape(claims.summary(study)))
        for one in claims.check(study):
            failed += not one.passed
            console.print(f"  {'[green]ok[/green]  ' if one.passed else '[red]FAIL[/red]'} {escape(one.statement)}: {escape(one.detail)}")
    if failed:
        console.print(f"{failed} checks failed")
        raise SystemExit(1)


@main.command(epilog="Example:  stability bound --csv table.csv --target label --model logistic --batch 32 --hessian-batch 8")
@click.option("--csv", "path", required=True, type=click.Path(path_type=Path), help="A CSV file with a header line; columns are standardized.")
@click.option("--target", required=True, help="The column to predict.")
@click.option("--model", type=click.Choice(["logistic", "least-squares"]), required=True, help="The model fitted on the table.")
@click.option("--batch", default=32, show_default=True, type=int, help="Samples in a gradient batch.")
@click.option("--hessian-batch", default=None, type=int, help="Samples in a Hessian batch; the gradient batch's size if not given.")
@click.option(
    "--coupling",
    type=click.Choice(["independent", "nested"]),
    default="independent",
    show_default=True,
    help="Whether the Hessian batch is part of the gradient batch.",
)
@click.option("--replacement", is_flag=True, help="Draw batches with replacement.")
@click.option("--step", default=0.1, show_default=True, type=float, help="The learning rate at which the excess risk is asked for.")
@click.option("--damping", default=0.1, show_default=True, type=float, help="Levenberg-Marquardt damping.")
@click.option("--rank", default=None, type=int, help="Rank of LRSFN; 10 or the number of columns if not given.")
@click.option("--l2", default=0.01, show_default=True, type=float, help="Weight of the ridge.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for a program.")
def bound(
    path: Path,
    target: str,
    model: str,
    batch: int,
    hessian_batch: int | None,
    coupling: str,
    replacement: bool,
    step: float,
    damping: float,
    rank: int | None,
    l2: float,
    as_json: bool,
) -> None:
    """Bounds for your own table: fit the model, estimate the minibatch noise, ask every method.

    Per method: the largest mean-square-stable step, the noise amplification over SGD, the stationary excess risk at
    --step, the validity indicator (trust below 0.1) and what limits the step. (L2) corrects for Hessian noise to second order.
    """
    from .bounds import bounds
    from .methods import LRSFN, SFN, SGD, DampedNewton, Newton
    from .noise import Noise
    from .objectives import least_squares, logistic, read_table

    step = _check.positive("--step", step)
    table = read_table(path, target=target, model=model)
    objective = (logistic if model == "logistic" else least_squares)(table.X, table.y, l2=l2)
    rank = min(10, objective.dim) if rank is None else rank
    compared = [SGD(), Newton(), DampedNewton(damping=damping), SFN(damping=damping)]
    compared += [LRSFN(rank=rank, damping=damping, tail=tail) for tail in ("damping", "flat")]
    noise = Noise.from_data(objective, None, batch, hessian_batch=hessian_batch, replacement=replacement, coupling=coupling)
    result = bounds(objective, noise, compared, step=step)
    if as_json:
        about = {
            "file": str(path),
            "target": target,
            "model": model,
            "samples": objective.n_samples,
            "columns": list(table.columns),
            "classes": list(table.classes),
        }
        click.echo(json.dumps({**about, "l2": l2, "minimum": float(objective.value(objective.reference)), **result.to_json()}, indent=1, allow_nan=False))
        return
    lam = result.eigenvalues
    click.echo(f"{path.name}: {objective.n_samples} samples, {objective.dim} columns with the intercept, {model} for {target!r}, l2 = {l2:g}")
    click.echo(f"at the minimum: curvature {lam[-1]:.3g} ... {lam[0]:.3g} (condition number {lam[0] / lam[-1]:.3g})")
    drawn = f"{coupling}, {'with' if replacement else 'without'} replacement"
    click.echo(f"batches: gradient {batch}, Hessian {hessian_batch or batch}, {drawn}; step {step:g}, damping {damping:g}\n")
    click.echo(str(result))


@main.command(epilog="Example:  stability train --data digits --model mlp --optimizer lrsfn --sweeps 20 --out out/digits")
@click.option("--data", required=True, help="digits, mnist (5,000 images), or a CSV file with a header line.")
@click.option("--target", default=None, help="In a CSV file, the column to predict: classes, or a number.")
@click.option("--model", type=click.Choice(["mlp", "autoencoder"]), default="mlp", show_default=True, help="The network.")
@click.option("--hidden", default=None, metavar="W,W,...", help="Widths of the hidden layers; 128,64 for mlp and 64,16,64 for autoencoder.")
@click.option("--activation", default="tanh", show_default=True, help="tanh, sigmoid, softplus or silu: smooth ones, which have Hessians.")
@click.option("--optimizer", type=click.Choice(["lrsfn", "sgd", "momentum", "adam", "lbfgs", "newton-cg"]), default="lrsfn", show_default=True)
@click.option("--step", default="auto", show_default=True, help="The learning rate; auto: measured by lrsfn, the usual one for the others.")
@click.option("--rank", type=int, default=None, help="Eigenpairs that lrsfn keeps; by default as many as the run can pay for.")
@click.option("--damping", type=float, default=None, help="Of lrsfn, where --step is a number; 0.1 by default.")
@click.option("--batch", default=None, type=int, help="Samples in a gradient batch; by default 32, or all where there are fewer.")
@click.option("--hessian-batch", default=None, type=int, help="Samples in a Hessian batch.")
@click.option("--sweeps", default=20.0, show_default=True, type=float, help="Work, in passes over the training samples; Hessian products are charged.")
@click.option("--l2", default=0.0, show_default=True, type=float, help="Weight decay.")
@click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float32", show_default=True)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Of the split, the start and the batches.")
@click.option("--checkpoint", type=click.Path(path_type=Path), default=None, help="Keep the state there; the same command goes on from it.")
@click.option("--out", type=click.Path(path_type=Path), default=None, help="Save the history there (.json, .npz) and draw it (.png, .svg).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for a program.")
def train(data: str, target: str | None, model: str, hidden: str | None, activation: str, out: Path | None, as_json: bool, **options: Any) -> None:
    """Train a network on minibatches and say what curvature and noise the optimizer saw.

    A fifth of the samples is held back. With lrsfn and --step auto nothing needs tuning.
    """
    from . import _train

    network = {name: options.pop(name) for name in ("l2", "dtype")} | {"seed": options["seed"]}
    training = _train.prepare(data, model=model, hidden=_widths(hidden), activation=activation, target=target, **network)
    if out is not None:
        out = out.with_suffix("") if out.suffix in (".json", ".npz") else out  # the pictures' too
        _check.folder(out.parent)  # found out before the computing starts
    if not as_json:
        click.echo(f"{training.about}\n{training.train!r}; {training.test.n_samples} samples held back\n")
    try:
        history = _train.run(training, progress=not as_json, **options)
    except Interrupted as stopped:
        click.echo(_left_behind(stopped.result, out, options["checkpoint"]), err=True)
        raise SystemExit(1) from None
    if out is not None:
        _keep(history, out)
    scores = {name: training.score(history.final, part) for name, part in (("train", training.train), ("test", training.test))}
    if as_json:
        about = {"metric": training.wanted, **scores, "status": history.status, "loss": history.loss, **history.stats}
        click.echo(json.dumps(jsonable(about), indent=1, allow_nan=False))
    else:
        click.echo(f"{history}\n{training.wanted}: {scores['train']:.4g} on the training samples, {scores['test']:.4g} on those held back")
    if history.diverged:
        raise SystemExit(1)


def _keep(history: History, out: Path) -> None:
    """The history in files; drawn where there is something to draw."""
    from .plot import plot, write

    save(history, out)
    if len(history.losses):
        write(plot(history), out)


def _left_behind(history: History, out: Path | None, checkpoint: Path | None) -> str:
    """What Ctrl-C leaves, once it has been saved."""
    from ._train import has_checkpoint

    goes_on = checkpoint is not None and has_checkpoint(checkpoint)
    done = len(history.losses)
    if out is not None:
        _keep(history, out)
        told = f"Interrupted: the {done} iterations that were done are in {out}.json and .npz."
    elif goes_on:
        told = f"Interrupted after {done} iterations."
    else:
        told = f"Interrupted after {done} iterations, which are lost: --out saves them, --checkpoint lets the run go on."
    return f"{told} The same command goes on from the checkpoint {checkpoint}." if goes_on else told


def _widths(hidden: str | None) -> tuple[int, ...] | None:
    if hidden is None:
        return None
    parts = hidden.split(",")
    if not all(part.strip().isdecimal() and part.strip().isascii() for part in parts):
        raise ValueError(f"`--hidden` must be widths separated by commas, such as 128,64; got {hidden!r}.")
    return tuple(map(int, parts))


METHODS = ("sgd", "newton", "damped-newton", "sfn", "lrsfn", "lrsfn-flat", "r-sfn", "newsamp", "natural-gradient", "fractional-power")


def _method(name: str) -> Any:
    """A method by its name on the command line; what its parameters are does not matter to a statement in symbols."""
    from . import gallery
    from .methods import LRSFN, SFN, SGD, DampedNewton, Newton

    made = (
        SGD(),
        Newton(),
        DampedNewton(damping=0.2),
        SFN(damping=0.2),
        LRSFN(rank=1, damping=0.2),
        LRSFN(rank=1, damping=0.2, tail="flat"),
        gallery.rsfn(eps=0.04),
        gallery.newsamp(rank=1),
        gallery.natural_gradient(variance=1.0, eps=0.2),
        gallery.fractional(power=0.5),
    )
    return dict(zip(METHODS, made, strict=True))[name]


@main.command(epilog="Example:  stability theorems noise-amplification --method newton --check")
@click.argument("name", required=False)
@click.option("--method", type=click.Choice(METHODS), help="For this method; by default for any gain.")
@click.option("--dim", type=int, help="Derive with full matrices in 1, 2 or 3 dimensions; by default for one generic mode.")
@click.option("--latex", "form", flag_value="latex", help="Print LaTeX: the statement with its derivation.")
@click.option("--json", "form", flag_value="json", help="Print JSON for a program.")
@click.option("--check", is_flag=True, help="Recompute at random values by the numeric theory and by an ensemble; exit code 1 on disagreement.")
def theorems(name: str | None, method: str | None, dim: int | None, form: str | None, check: bool) -> None:
    """Statements about stability and noise, derived from the methods' formulas.

    Without NAME: what there is, and the table of what each method does at a minimum, a saddle, a maximum and a flat point.
    """
    from .symbolic import method_table, theorem
    from .symbolic import theorems as names

    if name is None and dim is not None:
        raise ValueError("`--dim` belongs to one theorem: name it.")
    subject = None if method is None else _method(method)
    if name is None and method is None and not check:
        if form == "json":
            click.echo(json.dumps({"theorems": [theorem(one).to_json() for one in names()], "table": method_table().to_json()}, indent=1))
            return
        for one in names():
            click.echo(theorem(one).latex() if form == "latex" else f"{one:<24} {theorem(one).title}")
        if form is None:
            click.echo(f"\n{method_table()}\n\nOne of them in full:  stability theorems noise-amplification")
        return
    found = [theorem(name, method=subject, dim=dim)] if name is not None else _all(names(), subject)
    verdicts = [sheet.check() if check else None for sheet in found]
    if form == "json":
        sheets = [{**sheet.to_json(), "check": v and v.to_json()} for sheet, v in zip(found, verdicts, strict=True)]
        click.echo(json.dumps(sheets if name is None else sheets[0], indent=1, allow_nan=False))
    else:
        for sheet, verdict in zip(found, verdicts, strict=True):
            shown = sheet.latex(derivation=True) if form == "latex" else str(sheet)
            click.echo(str(verdict) if verdict is not None and name is None else shown if verdict is None else f"{shown}\n\n{verdict}")
    failed = sum(verdict is not None and not verdict for verdict in verdicts)
    if failed:
        raise SystemExit(1)


def _all(names: Iterable[str], method: Any) -> list[Any]:
    """Every theorem that says something about a method."""
    from .symbolic import applies, theorem

    return [theorem(one, method=method) for one in names if method is None or applies(one, method)]


if __name__ == "__main__":
    main()
