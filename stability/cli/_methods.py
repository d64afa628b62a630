"""Methods, points and objectives as they are named on the command line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from ._numbers import REAL, TooSmall, real

SPECTRAL = (
    "sgd",
    "newton",
    "damped-newton",
    "sfn",
    "lrsfn",
    "lrsfn-flat",
    "r-sfn",
    "newsamp",
    "natural-gradient",
    "fractional-power",
)
"""Methods without a memory, whose preconditioner follows the Hessian's eigenvalues."""
METHODS = (*SPECTRAL, "momentum", "nesterov", "rmsprop", "adam", "adamw", "sign")
A_METHOD = click.Choice(METHODS, case_sensitive=False)
BETA, ADAMW_DECAY = 0.9, 0.01
"""The field's usual momentum and weight decay, where none is given."""


def method_of(
    name: str,
    *,
    damping: float = 0.2,
    rank: int = 1,
    beta: float = BETA,
    weight_decay: float | None = None,
    **given: float | None,
) -> Any:
    """A method by its name; to a statement in symbols it does not matter what its parameters are.

    What is `given` of a metric's own parameters and is not None takes the place of its usual number.
    """
    from ..methods import gallery
    from ..methods.method import LRSFN, SFN, SGD, DampedNewton, Newton
    from ..methods.metrics import Adam, RMSprop, SignSGD
    from ..methods.momentum import Momentum

    own: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    follows = {name: value for name, value in own.items() if name != "beta1"}
    decay = ADAMW_DECAY if weight_decay is None else weight_decay
    made: dict[str, Callable[[], Any]] = {
        "sgd": SGD,
        "newton": Newton,
        "damped-newton": lambda: DampedNewton(damping=damping),
        "sfn": lambda: SFN(damping=damping),
        "lrsfn": lambda: LRSFN(rank=rank, damping=damping),
        "lrsfn-flat": lambda: LRSFN(rank=rank, damping=damping, tail="flat"),
        "r-sfn": lambda: gallery.rsfn(eps=damping**2),
        "newsamp": lambda: gallery.newsamp(rank=rank),
        "natural-gradient": lambda: gallery.natural_gradient(variance=1.0, eps=damping),
        "fractional-power": lambda: gallery.fractional(power=0.5),
        "momentum": lambda: Momentum(SGD(), beta),
        "nesterov": lambda: Momentum(SGD(), beta, nesterov=True),
        "rmsprop": lambda: RMSprop(**follows),
        "adam": lambda: Adam(**own),
        "adamw": lambda: Adam(weight_decay=decay, **own),
        "sign": SignSGD,
    }
    return made[name]()


def with_momentum(command: Callable[..., Any]) -> Callable[..., Any]:
    """The option that says how much of the past momentum keeps."""
    return click.option(
        "--beta",
        type=REAL,
        default=BETA,
        show_default=True,
        help="Momentum of --method momentum and nesterov.",
    )(command)


def with_memory(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say how much of the past momentum and metrics keep."""
    for name, what in (
        ("--eps", "Added to the root of the mean square, of --method rmsprop and adam; 1e-8 if not given."),
        ("--beta2", "Decay of the mean square; 0.99 of --method rmsprop, 0.999 of adam if not given."),
        ("--beta1", "Decay of the mean gradient, of --method adam; 0.9 if not given."),
    ):
        command = click.option(name, type=REAL, default=None, help=what)(command)
    return with_momentum(command)


def parameters_of(options: dict[str, Any]) -> dict[str, Any]:
    """The parameters of methods that the options give, which are taken out."""
    return {name: options.pop(name) for name in ("damping", "rank", "beta", "beta1", "beta2", "eps")}


def on_a_landscape(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say which objective, noise and step."""
    options = (
        click.option(
            "--expression", "text", metavar="FORMULA", help='The objective, such as "x^4/4 - x^2/2 + y^2".'
        ),
        click.option(
            "--set",
            "parameters",
            metavar="NAME=NUMBER",
            multiple=True,
            help="A number for a name in the formula; may be given more than once.",
        ),
        click.option(
            "--variables",
            metavar="X,Y,...",
            help="The coordinates, by name and in order; by default every name without a number.",
        ),
        click.option(
            "--landscape",
            "name",
            metavar="NAME",
            help="Or a known one: double_well, coupled_quartic, monkey_saddle, rosenbrock, michalewicz.",
        ),
        click.option("--dim", type=int, default=2, show_default=True, help="Dimensions of --landscape."),
        click.option(
            "--damping",
            type=REAL,
            default=0.1,
            show_default=True,
            help="Damping of the methods that have one.",
        ),
        click.option(
            "--rank", type=int, default=1, show_default=True, help="Eigenpairs that truncated methods keep."
        ),
        click.option(
            "--noise",
            type=REAL,
            default=0.1,
            show_default=True,
            help="Standard deviation of a gradient entry, per sample.",
        ),
        click.option(
            "--curvature",
            type=REAL,
            default=0.0,
            show_default=True,
            help="Standard deviation of an off-diagonal Hessian entry, per sample; needs --at.",
        ),
        click.option("--batch", type=REAL, default=1, show_default=True, help="Samples in a gradient batch."),
        click.option(
            "--hessian-batch",
            type=REAL,
            default=None,
            help="Samples in a Hessian batch; as --batch if not given.",
        ),
        click.option("--start", metavar="X,Y,...", default=None, help="Where paths start."),
        click.option(
            "--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Seed of the noise."
        ),
    )
    for option in reversed(options):  # as decorators, of which the last is applied first
        command = option(command)
    return command


def objective_of(
    text: str | None,
    name: str | None,
    dim: int,
    parameters: Sequence[str] = (),
    variables: str | None = None,
) -> Any:
    """The objective that `--expression` or `--landscape` gives.

    A formula that was not plain is shown on stderr as it was understood.
    """
    from ..objectives.expression import expression
    from ..objectives.landscapes import landscape

    if (text is None) == (name is None):
        raise ValueError("Give either `--expression` or `--landscape`.")
    if text is None:
        if parameters or variables:
            raise ValueError(
                f"`{'--set' if parameters else '--variables'}` is about names in `--expression`: leave it "
                "out with `--landscape`."
            )
        return landscape(str(name), dim=dim)
    numbers = dict(map(_number_of, parameters))
    if len(numbers) < len(parameters):
        raise ValueError("`--set` must give each name once. Leave out all but one of its numbers.")
    objective = expression(text, None if variables is None else variables.split(","), **numbers)
    if objective.text != " ".join(text.replace("**", "^").split()):
        click.echo(f"Read as {objective.text}", err=True)
    return objective


def _number_of(given: str) -> tuple[str, float]:
    """The name and the number of ``a=2``."""
    name, _, number = given.partition("=")
    try:
        if name.strip() not in ("text", "variables"):
            return name.strip(), real(number)
    except TooSmall as error:
        raise ValueError(f"`--set {name.strip()}`: {error}") from None
    except ValueError:
        pass
    raise ValueError(f"`--set` must be a name and a number, such as --set a=2; got {given!r}.")


def noise_of(options: dict[str, Any], at: list[float] | None) -> Any:
    """The noise that the options give, which are taken out; curvature noise is centred at a point."""
    from ..noise import Noise

    if options["curvature"] > 0 and at is None:
        raise ValueError("`--curvature` needs `--at`: the critical point that its noise is centred at.")
    keywords = {key: options.pop(key) for key in ("curvature", "batch", "hessian_batch")}
    return Noise(gradient=options.pop("noise"), reference=at, **keywords)


def numbers(option: str, text: str) -> list[float]:
    """Numbers separated by commas."""
    try:
        return [real(part) for part in text.split(",")]
    except TooSmall as error:
        raise ValueError(f"`{option}`: {error}") from None
    except ValueError:
        raise ValueError(
            f"`{option}` must be numbers separated by commas, such as 0.5,1; got {text!r}."
        ) from None
