"""`stability advise`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click

from .. import _check
from . import _output
from ._data import AS_JSON, OUT, names_a_network, network_of
from ._main import in_options, main
from ._methods import A_METHOD, methods_of, taken, with_numbers
from ._numbers import REAL
from ._reading import reads_a_table, regression_of, table_of, told_of

REGRESSIONS = ("logistic", "least-squares")
SWEEPS, RIDGE, RANK = 20.0, 0.01, 20
"""Of training a network before it is asked about; of regressions; of what a low-rank method keeps."""


class Asked(NamedTuple):
    """What advice is asked about: an objective at a state."""

    objective: Any
    state: Any
    told: str
    about: dict[str, Any]


@main.command(
    epilog="Examples:  stability advise --data digits --model mlp --optimizer adam --step 0.001\n\n"
    "stability advise --data digits --hidden 32 --optimizer nesterov --beta 0.95 --step 0.02 --batch 64 "
    "--sweeps 5\n\nstability advise --csv table.csv --target label --model logistic --batch 8 --json"
)
@names_a_network(("mlp", "autoencoder", *REGRESSIONS))
@click.option(
    "--l2",
    default=None,
    type=REAL,
    help=f"A ridge: l2 |w|^2 / 2 joins the loss; {RIDGE:g} with {' and '.join(REGRESSIONS)}, else none.",
)
@click.option(
    "--optimizer",
    "--method",
    "optimizer",
    type=A_METHOD,
    default="sgd",
    show_default=True,
    help="Whose step is asked about, and what trains the network before.",
)
@click.option(
    "--step",
    type=REAL,
    default=None,
    help="The learning rate in use; by default 0.1, 0.01 with momentum and nesterov, 0.001 with sign, "
    "rmsprop, adam and adamw.",
)
@click.option(
    "--batch",
    default=None,
    type=int,
    help="Samples in a gradient batch; by default 32, or all where there are fewer.",
)
@click.option(
    "--hessian-batch", default=None, type=int, help="Samples in a Hessian batch, of methods that draw one."
)
@with_numbers("damping", "rank", "beta", "beta1", "beta2", "eps", "weight_decay")
@click.option(
    "--sweeps",
    "--epochs",
    "sweeps",
    default=None,
    type=REAL,
    help=f"How long a network is trained before, in passes over the training samples; {SWEEPS:g} by "
    "default, 0 asks at the start.",
)
@click.option(
    "--samples",
    default=2048,
    show_default=True,
    type=click.IntRange(min=2),
    help="How many samples are looked at, at most.",
)
@click.option(
    "--budget", default=60.0, show_default=True, type=REAL, help="Work, in gradients of these samples."
)
@click.option(
    "--horizon",
    default=1000,
    show_default=True,
    type=click.IntRange(min=1),
    help="Iterations that the noise floor is for.",
)
@reads_a_table
@OUT
@AS_JSON
def advise(
    optimizer: str,
    step: float | None,
    batch: int | None,
    hessian_batch: int | None,
    l2: float | None,
    sweeps: float | None,
    out: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """How large a step may be, and what batch noise costs.

    A network is trained to a state, and the question asked there: the largest mean-square-stable step of that
    optimizer, with and without batch noise, what noise adds to the loss, the batch that would halve its
    effect. Logistic regression and least squares are asked at their minimum. Beyond the largest stable step
    the iterate leaves this place; it may settle at a flatter one.
    """
    from ..advice.advise import enough
    from ..advice.library import advise as advice_on
    from ._training import STEPS

    step = STEPS.get(optimizer, 0.1) if step is None else _check.positive("--step", step)
    given, out = taken(options), _output.place(out)
    options["budget"] = enough(options["budget"])  # before a network is trained
    question = {name: options.pop(name) for name in ("samples", "budget", "horizon")}
    regression = options["model"] in REGRESSIONS

    def method_for(objective: Any) -> dict[str, Any]:
        """The method and its batches, of an objective's size."""
        method = methods_of([optimizer], given, rank=min(RANK, objective.dim))[0]
        chosen = {"method": method, "step": step, "batch": _batch(batch, objective)}
        if hessian_batch is None:
            return chosen
        if not method.spectral or method.is_identity:
            raise ValueError(f"`--hessian-batch` is for methods with curvature; {optimizer} has none.")
        _check.count("--hessian-batch", hessian_batch, most=objective.n_samples, why="the samples there are")
        return chosen | {"hessian_batch": hessian_batch}

    find = _at_the_minimum if regression else _trained
    asked, run = find(options, method_for, l2=l2, sweeps=sweeps, show=not as_json)
    if not as_json:
        click.echo(f"{asked.told}\n")
    advice = advice_on(
        asked.objective, asked.state, **run, **question, seed=options["seed"], progress=not as_json
    )
    if out is not None:
        _output.keep(advice, out, out)
    if as_json:
        click.echo(json.dumps(asked.about | advice.to_json(), indent=1, allow_nan=False))
    else:
        click.echo(in_options(str(advice)))
        if out is not None:
            click.echo(f"\n{_output.written(out)}")
    if advice.interrupted:
        raise SystemExit(1)


def _batch(batch: int | None, objective: Any) -> int:
    number = int(objective.n_samples)
    if batch is None:
        return min(32, number)
    return _check.count("--batch", batch, most=number, why="the samples there are")


def _trained(
    options: dict[str, Any],
    method_for: Callable[[Any], dict[str, Any]],
    *,
    l2: float | None,
    sweeps: float | None,
    show: bool,
) -> tuple[Asked, dict[str, Any]]:
    """A network where its training came to, at a constant step."""
    from ..training.minimize import minimize
    from . import _training

    sweeps = SWEEPS if sweeps is None else _check.nonnegative("--sweeps", sweeps)
    seed, asked = options["seed"], network_of(options, l2=l2 or 0.0)
    training = _training.prepare(**asked)
    F, run = training.train, method_for(training.train)
    state, about = F.initial(seed), {"data": asked["data"], "model": asked["model"], "trained": None}
    told = f"{training.about}\n{F!r}"
    if not sweeps:
        return Asked(F, state, f"{told}\nat its start, untrained", about), run
    history = minimize(F, state, **run, sweeps=sweeps, seed=seed, dtype=F.dtype, progress=show)
    if not history.done:
        raise ValueError(
            f"The network cannot be asked about where its training ended: {history.status}. Give a smaller "
            "`--step`, or --sweeps 0 to ask at the start."
        )
    score = training.score(history.final, training.test)
    about["trained"] = {"sweeps": sweeps, "loss": history.loss, training.wanted: score}
    came = f"{sweeps:g} sweeps of training at step {run['step']:g}: loss {history.losses[0]:.4g} -> "
    if history.loss > history.losses[0]:
        told += "\nnote: training raised the loss, and left the place that it started from"
    held = f"{training.wanted} {score:.3g} on {training.test.n_samples} samples held back"
    return Asked(F, history.final, f"{told}\nafter {came}{history.loss:.4g}; {held}", about), run


def _at_the_minimum(
    options: dict[str, Any],
    method_for: Callable[[Any], dict[str, Any]],
    *,
    l2: float | None,
    sweeps: float | None,
    show: bool,
) -> tuple[Asked, dict[str, Any]]:
    """A regression on a table, at its minimum."""
    path, model, target = (options.pop(name) for name in ("data", "model", "target"))
    if path in ("digits", "mnist"):
        raise ValueError(f"`--model {model}` is for a CSV file: give one, or use --model mlp.")
    if sweeps is not None:
        raise ValueError(f"`--sweeps` is for networks; {model} is asked at its minimum. Leave it out.")
    if options.pop("hidden") is not None:
        raise ValueError(f"`--hidden` is for networks; {model} has no layers. Leave it out.")
    l2 = RIDGE if l2 is None else l2
    table = table_of(path, target, model, options)
    objective, notes = regression_of(table, model, l2)
    told = [told_of(path, table, objective, model, l2), *(f"note: {note}" for note in notes)]
    about = {"data": str(path), "model": model, "reading": table.reading, "notes_on_data": notes, "l2": l2}
    return Asked(objective, objective.reference, "\n".join(told), about), method_for(objective)
