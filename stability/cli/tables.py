"""`stability bound`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from .. import _check
from ._main import in_options, main
from ._methods import A_METHOD, DAMPING, methods_of, require_had, taken, with_numbers
from ._numbers import REAL
from ._reading import reads_a_table, regression_of, table_of, told_of

BOUND = ("sgd", "newton", "damped-newton", "sfn", "lrsfn", "lrsfn-flat")
"""The methods that are asked where none is named."""


@main.command(
    epilog="Examples:  stability bound --csv table.csv --target label --model logistic --batch 32 "
    "--hessian-batch 8\n\nstability bound --csv table.csv --target label --model logistic --method sgd "
    "--method momentum --method adam --beta 0.95\n\nstability bound --csv table.csv --target label --model "
    "logistic --method adamw --weight-decay 0.05 --step 0.001"
)
@click.option(
    "--csv",
    "path",
    required=True,
    type=click.Path(path_type=Path),
    help="A table in text with a header line, packed or not; columns are standardized.",
)
@click.option("--target", default=None, help="The column to predict; without it the columns are listed.")
@click.option(
    "--model",
    type=click.Choice(["logistic", "least-squares"]),
    required=True,
    help="The model fitted on the table.",
)
@click.option(
    "--batch",
    default=None,
    type=int,
    help="Samples in a gradient batch; by default 32, or half of all where there are no more.",
)
@click.option(
    "--hessian-batch",
    default=None,
    type=int,
    help="Samples in a Hessian batch; the gradient batch's size if not given.",
)
@click.option(
    "--coupling",
    type=click.Choice(["independent", "nested"]),
    default="independent",
    show_default=True,
    help="Whether the Hessian batch is part of the gradient batch.",
)
@click.option("--replacement", is_flag=True, help="Draw batches with replacement.")
@click.option(
    "--step",
    default=0.1,
    show_default=True,
    type=REAL,
    help="The learning rate at which the excess risk is asked for.",
)
@click.option(
    "--method",
    "compared",
    multiple=True,
    type=A_METHOD,
    help="May be given more than once; sgd and the second-order methods by default.",
)
@with_numbers("damping", "rank", "beta", "beta1", "beta2", "eps", "weight_decay")
@click.option("--l2", default=0.01, show_default=True, type=REAL, help="Weight of the ridge.")
@reads_a_table
@click.option("--json", "as_json", is_flag=True, help="Print JSON for a program.")
def bound(
    path: Path,
    target: str | None,
    model: str,
    batch: int | None,
    hessian_batch: int | None,
    coupling: str,
    replacement: bool,
    step: float,
    compared: tuple[str, ...],
    l2: float,
    as_json: bool,
    **reading: Any,
) -> None:
    """Step limits, noise and risk of every method on your own table.

    Fits the model, estimates the minibatch noise, and asks every method, or those named: the largest
    mean-square-stable step, the noise amplification over SGD, the stationary excess risk at --step, the
    validity indicator (trust below 0.1) and what limits the step. (L2) corrects for Hessian noise to second
    order. Adam and its kin have the metric that settles at --step, and their largest step is this metric's.
    LRSFN keeps 10 modes, or as many as there are columns, where --rank does not say.
    """
    from ..linear.bounds import bounds
    from ..noise import Noise

    step, given = _check.positive("--step", step), taken(reading)
    require_had(compared or BOUND, given)
    table = table_of(path, target, model, reading)
    objective, notes = regression_of(table, model, l2)
    if batch is None:
        # Half of a small table: a batch of all samples would have no noise to tell of.
        batch = 32 if objective.n_samples > 32 else max(1, objective.n_samples // 2)
    # Each method once, in the order given.
    methods = methods_of(dict.fromkeys(compared or BOUND), given, rank=min(10, objective.dim))
    noise = Noise.from_data(
        objective, None, batch, hessian_batch=hessian_batch, replacement=replacement, coupling=coupling
    )
    result = bounds(objective, noise, methods, step=step)
    if as_json:
        about = {
            "file": str(path),
            "target": table.target,
            "model": model,
            "reading": table.reading,
            "notes": notes,
            "samples": objective.n_samples,
            "columns": list(table.columns),
            "classes": list(table.classes),
            "l2": l2,
            "minimum": float(objective.value(objective.reference)),
        }
        click.echo(json.dumps(about | result.to_json(), indent=1, allow_nan=False))
        return
    lam = result.eigenvalues
    click.echo(told_of(path, table, objective, model, l2))
    for note in notes:
        click.echo(f"note: {note}")
    if len(lam) == objective.dim:
        span = f"{lam[-1]:.3g} ... {lam[0]:.3g} (condition number {lam[0] / lam[-1]:.3g})"
    else:
        span = f"{lam[0]:.3g}, {lam[1]:.3g}, ... (the largest of {objective.dim})"
    click.echo(f"at the minimum: curvature {span}")
    drawn = f"{coupling}, {'with' if replacement else 'without'} replacement"
    damping = DAMPING if given["damping"] is None else given["damping"]
    click.echo(
        f"batches: gradient {batch}, Hessian {hessian_batch or batch}, {drawn}; step {step:g}, damping "
        f"{damping:g}\n"
    )
    click.echo(in_options(str(result)))
