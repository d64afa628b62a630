"""Options that say which data and which network, shared by the commands that train one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ._reading import OPTIONS


def names_a_network(models: tuple[str, ...]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The options, with these models; `network_of` takes them out again."""
    options = (
        click.option(
            "--data",
            "--csv",
            "data",
            required=True,
            help="digits, mnist (5,000 images), or a CSV file with a header line.",
        ),
        click.option(
            "--target",
            default=None,
            help="In a CSV file, the column to predict: classes, or a number (an autoencoder leaves it "
            "out); without it the columns are listed.",
        ),
        click.option(
            "--model", type=click.Choice(models), default="mlp", show_default=True, help="What is trained."
        ),
        click.option(
            "--hidden",
            default=None,
            metavar="W,W,...",
            help="Widths of the hidden layers; 128,64 for mlp and 64,16,64 for autoencoder.",
        ),
        click.option(
            "--activation",
            default="tanh",
            show_default=True,
            help="tanh, sigmoid, softplus or silu: smooth ones, which have Hessians.",
        ),
        click.option(
            "--dtype",
            type=click.Choice(["float32", "float64"]),
            default="float32",
            show_default=True,
            help="Numbers that it computes with.",
        ),
        click.option(
            "--seed",
            default=0,
            show_default=True,
            type=click.IntRange(min=0),
            help="Seed of the split, the start and the batches.",
        ),
    )

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):  # as decorators, of which the last is applied first
            command = option(command)
        return command

    return decorate


def network_of(options: dict[str, Any], *, l2: float) -> dict[str, Any]:
    """What `_training.prepare` asks for, of options, which are taken out but for the seed."""
    names = ("data", "target", "model", "activation", "dtype")
    asked = {name: options.pop(name) for name in names} | {"l2": l2, "seed": options["seed"]}
    asked["hidden"] = _widths(options.pop("hidden"))
    asked["reading"] = {name: options.pop(name) for name in OPTIONS}
    return asked


def _widths(hidden: str | None) -> tuple[int, ...] | None:
    if hidden is None:
        return None
    parts = hidden.split(",")
    if not all(part.strip().isdecimal() and part.strip().isascii() for part in parts):
        raise ValueError(f"`--hidden` must be widths separated by commas, such as 128,64; got {hidden!r}.")
    return tuple(map(int, parts))


OUT = click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=None,
    help="Save the result there (.npz; .json is a copy to read) and draw it (.png, .svg).",
)
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON for a program.")
