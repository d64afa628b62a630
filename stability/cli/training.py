"""`stability train`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from .._check import Interrupted
from .._saving import jsonable
from ..training.history import History
from . import _output
from ._data import AS_JSON, OUT, names_a_network, network_of
from ._main import main
from ._methods import require_had, with_numbers
from ._numbers import REAL
from ._reading import reads_a_table

OPTIMIZERS = (
    "lrsfn",
    "sgd",
    "momentum",
    "nesterov",
    "sign",
    "rmsprop",
    "adam",
    "adamw",
    "lbfgs",
    "newton-cg",
)


@main.command(
    epilog="Examples:  stability train --data digits --model mlp --method lrsfn --sweeps 20 --out "
    "out/digits\n\nstability train --data digits --method adamw --step 0.002 --weight-decay 0.05"
    "\n\nstability train --data digits --method nesterov --step 0.02 --beta 0.95"
)
@names_a_network(("mlp", "autoencoder"))
@click.option(
    "--optimizer",
    "--method",
    "optimizer",
    type=click.Choice(
        OPTIMIZERS,
        case_sensitive=False,
    ),
    default="lrsfn",
    show_default=True,
    help="What trains it.",
)
@click.option(
    "--step",
    default="auto",
    show_default=True,
    help="The learning rate; auto: measured by lrsfn, the usual one for the others.",
)
@click.option(
    "--rank",
    type=int,
    default=None,
    help="Eigenpairs that lrsfn keeps; by default as many as the run can pay for.",
)
@click.option(
    "--damping", type=REAL, default=None, help="Damping of lrsfn, where --step is a number; 0.1 by default."
)
@click.option(
    "--batch",
    default=None,
    type=int,
    help="Samples in a gradient batch; by default 32, or all where there are fewer.",
)
@click.option("--hessian-batch", default=None, type=int, help="Samples in a Hessian batch.")
@click.option(
    "--sweeps",
    default=20.0,
    show_default=True,
    type=REAL,
    help="Work, in passes over the training samples; Hessian products are charged.",
)
@click.option("--l2", default=0.0, show_default=True, type=REAL, help="A ridge: l2 |w|^2 / 2 joins the loss.")
@click.option(
    "--weight-decay",
    type=REAL,
    default=None,
    help="Decoupled weight decay, beside the gradient: 0.01 with adamw, else none.",
)
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    default=None,
    help="Keep the state there; the same command goes on from it.",
)
@OUT
@with_numbers("beta", "beta1", "beta2", "eps")
@reads_a_table
@AS_JSON
def train(
    l2: float,
    out: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Train a network, and say what curvature and noise were seen.

    On minibatches; a fifth of the samples is held back. With lrsfn and --step auto nothing needs tuning.
    """
    from . import _training

    given = {name: options.pop(name) for name in ("beta", "beta1", "beta2", "eps")}
    require_had([options["optimizer"]], given, OPTIMIZERS)
    training = _training.prepare(**network_of(options, l2=l2))
    out = _output.place(out)
    if not as_json:
        click.echo(f"{training.about}\n{training.train!r}; {training.test.n_samples} samples held back\n")
    try:
        history = _training.run(training, progress=not as_json, given=given, **options)
    except KeyboardInterrupt as stopped:
        so_far = stopped.result if isinstance(stopped, Interrupted) else None
        raise _output.Stopped(_left_behind(so_far, out, options["checkpoint"])) from None
    if out is not None:
        _keep(history, out)
    parts = {"train": training.train, "test": training.test}
    scores = {name: training.score(history.final, part) for name, part in parts.items()}
    if as_json:
        about = {"metric": training.wanted, **scores, "status": history.status, "loss": history.loss}
        about |= history.stats
        click.echo(json.dumps(jsonable(about), indent=1, allow_nan=False))
    else:
        click.echo(
            f"{history}\n{training.wanted}: {scores['train']:.4g} on the training samples, "
            f"{scores['test']:.4g} on those held back"
        )
        if out is not None:
            click.echo(f"\n{_output.written(out, drawn=len(history.losses) > 0)}")
    # After all has been shown and saved: what there is to see of it is seen.
    if history.diverged:
        raise SystemExit(1)


def _keep(history: History, out: Path) -> None:
    """The history in files; drawn where there is something to draw."""
    _output.keep(history, out, out if len(history.losses) else None)


def _left_behind(history: History | None, out: Path | None, checkpoint: Path | None) -> str:
    """What Ctrl-C leaves, once it has been saved; no history where it was pressed once more."""
    from ..training.checkpoint import exists

    goes_on = checkpoint is not None and exists(checkpoint)
    further = f" The same command goes on from the checkpoint {checkpoint}." if goes_on else ""
    if history is None:
        return f"Interrupted.{further}" if goes_on else "Interrupted: nothing was saved."
    done = len(history.losses)
    if out is not None:
        try:
            _keep(history, out)
        except _output.Stopped as again:
            raise _output.Stopped(f"{again}{further}") from None
        return f"Interrupted: the {done} iterations that were done are in {out}.npz.{further}"
    if goes_on:
        return f"Interrupted after {done} iterations.{further}"
    return (
        f"Interrupted after {done} iterations, which are lost: --out saves them, --checkpoint lets the run "
        "go on."
    )
