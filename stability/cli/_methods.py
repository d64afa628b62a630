"""Methods, points and objectives as they are named on the command line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

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
DAMPING, BETA, ADAMW_DECAY = 0.1, 0.9, 0.01
"""The field's usual momentum and weight decay, where none is given."""


class Knob(NamedTuple):
    """A number of some methods: the option's type, its help, and the methods that have it; all if None."""

    type: Any
    help: str
    methods: tuple[str, ...] | None


KNOBS = {
    "damping": Knob(
        REAL,
        f"Damping of the methods that have one; {DAMPING:g} by default.",
        ("damped-newton", "sfn", "lrsfn", "lrsfn-flat", "r-sfn", "natural-gradient"),
    ),
    "rank": Knob(int, "Eigenpairs that truncated methods keep.", ("lrsfn", "lrsfn-flat", "newsamp")),
    "beta": Knob(
        REAL,
        f"How much of the past momentum and nesterov keep; {BETA:g} by default.",
        ("momentum", "nesterov"),
    ),
    "beta1": Knob(REAL, "Memory of the gradients in adam and adamw; 0.9 by default.", ("adam", "adamw")),
    "beta2": Knob(
        REAL,
        "Memory of the squared gradients; 0.99 for rmsprop, 0.999 for adam and adamw by default.",
        ("rmsprop", "adam", "adamw"),
    ),
    "eps": Knob(
        REAL,
        "Added to their root in rmsprop, adam and adamw; 1e-8 by default.",
        ("rmsprop", "adam", "adamw"),
    ),
    "weight_decay": Knob(
        REAL,
        f"Decoupled weight decay, beside the gradient: {ADAMW_DECAY:g} with adamw, else none.",
        None,
    ),
}
"""By their names in Python."""


def method_of(
    name: str,
    *,
    damping: float | None = None,
    rank: int | None = None,
    beta: float | None = None,
    beta1: float | None = None,
    beta2: float | None = None,
    eps: float | None = None,
    weight_decay: float | None = None,
) -> Any:
    """A method by its name, of numbers those that it has; to a statement in symbols they do not matter."""
    from ..methods import gallery
    from ..methods.method import LRSFN, SFN, SGD, DampedNewton, Newton
    from ..methods.metrics import Adam, RMSprop, SignSGD
    from ..methods.momentum import Momentum

    damping, rank = DAMPING if damping is None else damping, 1 if rank is None else rank
    beta, given = BETA if beta is None else beta, {"beta2": beta2, "eps": eps}
    follows: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    averages = follows | ({} if beta1 is None else {"beta1": beta1})
    decay = ADAMW_DECAY if weight_decay is None and name == "adamw" else weight_decay
    made: dict[str, Callable[[], Any]] = {
        "sgd": SGD,
        "newton": Newton,
        "damped-newton": lambda: DampedNewton(damping=damping),
        "sfn": lambda: SFN(damping=damping),
        "lrsfn": lambda: LRSFN(rank=rank, damping=damping),
        "lrsfn-flat": lambda: LRSFN(rank=rank, damping=damping, tail="flat"),
        # Its eps joins the square of the curvature: so it is as much damping as that of SFN at zero.
        "r-sfn": lambda: gallery.rsfn(eps=damping**2),
        "newsamp": lambda: gallery.newsamp(rank=rank),
        "natural-gradient": lambda: gallery.natural_gradient(variance=1.0, eps=damping),
        "fractional-power": lambda: gallery.fractional(power=0.5),
        "momentum": lambda: Momentum(SGD(), beta),
        "nesterov": lambda: Momentum(SGD(), beta, nesterov=True),
        "rmsprop": lambda: RMSprop(**follows),
        "adam": lambda: Adam(**averages),
        "adamw": lambda: Adam(**averages),
        "sign": SignSGD,
    }
    # Made only when asked for: a number that is out of range for another method is no error of this one.
    return made[name]().with_weight_decay(decay) if decay else made[name]()


def methods_of(
    names: Iterable[str], given: dict[str, Any], known: Iterable[str] = METHODS, **usual: Any
) -> list[Any]:
    """Methods by their names with the numbers `given`, which one of them must have; else the `usual` ones.

    Raises
    ------
    ValueError
        If a number was given (not None) that none of the methods has; advice is a method of the `known` ones.
    """
    names = list(names)
    require_had(names, given, known)
    numbers = usual | {key: value for key, value in given.items() if value is not None}
    decay = numbers.get("weight_decay")
    if decay is not None and not 0 <= decay < float("inf"):
        raise ValueError(f"`--weight-decay` must be a finite number >= 0; got {decay:g}.")
    return [method_of(name, **numbers) for name in names]


def require_had(names: Sequence[str], given: dict[str, Any], known: Iterable[str] = METHODS) -> None:
    """That each number given is one of a method's."""
    for key, value in given.items():
        own = KNOBS[key].methods
        if value is None or own is None or set(own) & set(names):
            continue
        option, offered = f"--{key.replace('_', '-')}", [name for name in known if name in own]
        lacking = f"{_listed(names)} {'has' if len(names) == 1 else 'have'} none"
        raise ValueError(
            f"`{option}` is for {_listed(offered)}; {lacking}. Leave it out, or use --method {offered[0]}."
        )


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def with_numbers(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Options for numbers of methods, None where they are not given."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for name in reversed(names):  # as decorators, of which the last is applied first
            option, knob = f"--{name.replace('_', '-')}", KNOBS[name]
            command = click.option(option, name, type=knob.type, default=None, help=knob.help)(command)
        return command

    return decorate


def taken(options: dict[str, Any]) -> dict[str, Any]:
    """The numbers of methods among options, which are taken out."""
    return {name: options.pop(name) for name in KNOBS if name in options}


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
        with_numbers("damping", "rank"),
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
