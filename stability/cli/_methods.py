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
) -> Any:
    """A method by its name; to a statement in symbols it does not matter what its parameters are."""
    from ..methods import gallery
    from ..methods.method import LRSFN, SFN, SGD, DampedNewton, Newton
    from ..methods.metrics import Adam, RMSprop, SignSGD
    from ..methods.momentum import Momentum

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
        "rmsprop": RMSprop,
        "adam": Adam,
        "adamw": lambda: Adam(weight_decay=ADAMW_DECAY if weight_decay is None else weight_decay),
        "sign": SignSGD,
    }
    return made[name]()


def spectral_of(name: str, what: str, **parameters: Any) -> Any:
    """A method by its name for what knows neither momentum nor metrics that follow the noise."""
    if name in SPECTRAL:
        return method_of(name, **parameters)
    kind = "momentum" if name in ("momentum", "nesterov") else "a metric that follows the noise"
    raise ValueError(f"`--method {name}` has {kind}, which {what} does not know. Use --method sgd or sfn.")


def with_momentum(command: Callable[..., Any]) -> Callable[..., Any]:
    """The option that says how much of the past momentum keeps."""
    return click.option(
        "--beta",
        type=REAL,
        default=BETA,
        show_default=True,
        help="Momentum of --method momentum and nesterov.",
    )(command)


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
