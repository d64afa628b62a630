"""`stability simulate` and `stability portrait`: what a method does on a formula as people type it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np

from .. import _check
from .._check import Interrupted, Unstable
from .._saving import jsonable
from . import _output
from ._main import main
from ._methods import (
    A_METHOD,
    methods_of,
    noise_of,
    numbers,
    objective_of,
    on_a_landscape,
    taken,
    with_numbers,
)
from ._numbers import REAL


def _intervals(context: click.Context, option: click.Parameter, text: str | None) -> int | None:
    """How many; a path means another option."""
    if text is None:
        return None
    if not text.lstrip("+-").isdecimal():
        raise click.BadParameter(f"{text!r} is no number of intervals. Results go to files by --out.")
    return int(text)


@main.command(
    epilog='Examples:  stability simulate --expression "x^4/4 - x^2/2 + y^2" --method sfn --start 1,0.5 --at '
    '1,0\n\nstability simulate --expression "x^2 + y^2/10" --method momentum --beta 0.9 --step 0.02 --at 0,0'
    '\n\nstability simulate --expression "x^2 + y^2/10" --method adam --beta2 0.99 --step 0.01 --at 0,0 '
    "--level iteration"
)
@on_a_landscape
@click.option("--method", type=A_METHOD, default="sfn", show_default=True, help="The optimizer.")
@with_numbers("beta", "beta1", "beta2", "eps", "weight_decay")
@click.option("--step", type=REAL, default=0.1, show_default=True, help="The learning rate.")
@click.option(
    "--t-end", type=REAL, default=10.0, show_default=True, help="How long, in units of iteration x step."
)
@click.option("--dt", type=REAL, default=None, help="Time step of the SDE; --step if not given.")
@click.option("--paths", type=int, default=1000, show_default=True, help="How many.")
@click.option(
    "--level",
    type=click.Choice(["sde", "iteration"]),
    default="sde",
    show_default=True,
    help="The SDE, or the stochastic iteration itself.",
)
@click.option(
    "--save",
    "--times",
    "save_at",
    metavar="COUNT",
    callback=_intervals,
    default=None,
    help="Equal intervals at whose ends states are kept (files: --out); 20 or, if fewer, every step.",
)
@click.option(
    "--at",
    metavar="X,Y,...",
    default=None,
    help="A critical point: curvature noise is centred there, and the linear theory printed beside.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=None,
    help="Save the ensemble there (.npz; .json is a copy to read) and draw it (.png, .svg).",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON for a program.")
def simulate(
    text: str | None,
    name: str | None,
    dim: int,
    parameters: tuple[str, ...],
    variables: str | None,
    method: str,
    step: float,
    at: str | None,
    start: str | None,
    out: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Simulate an ensemble of paths of a method on a landscape.

    Prints means and variances with their standard errors, and what diverged; with --at, predicted against
    measured. Paths start at the origin if not told otherwise.
    """
    from ..comparison import compare
    from ..ensembles.simulate import simulate as run
    from ..flow import Flow
    from ..linear.linearize import linearize

    objective = objective_of(text, name, dim, parameters, variables)
    center = None if at is None else numbers("--at", at)
    noise = noise_of(options, center)
    (chosen,) = methods_of([method], taken(options))
    flow = Flow(objective, chosen, noise, step=step)
    linear = None if center is None else linearize(flow, at=center)
    out = _output.place(out)
    t_end, dt = _check.positive("--t-end", options["t_end"]), _check.positive("--dt", options["dt"] or step)
    saved = options.pop("save_at")
    options["save"] = min(20, max(round(t_end / dt), 1)) if saved is None else saved
    try:
        ensemble = run(
            flow,
            start=[0.0] * objective.dim if start is None else numbers("--start", start),
            progress=not as_json,
            **options,
        )
    except Interrupted as stopped:
        where = "lost: --out saves them" if out is None else f"in {out}.npz"
        if out is not None:
            _output.keep(stopped.ensemble, out, out)
        paths = len(stopped.ensemble.diverged)
        raise _output.Stopped(f"Interrupted: the {paths} paths that were finished are {where}.") from None
    if out is not None:
        _output.keep(ensemble, out, out)
    comparison, why = None, ""
    if linear is not None:
        try:
            comparison = compare(linear, ensemble)
        except Unstable as error:  # at a saddle: the paths are what there is to see
            why = (
                f"{error}" if isinstance(error, ValueError) else f"{error} Use st.escape for how paths leave."
            )
    if as_json:
        click.echo(json.dumps(_moments(ensemble, comparison), indent=1, allow_nan=False))
        return
    click.echo(f"{flow!r}\n{ensemble}")
    if linear is not None:
        click.echo(f"\n{linear}\n{comparison or why}")
    if out is not None:
        click.echo(f"\n{_output.written(out)}")


def _moments(ensemble: Any, comparison: Any) -> dict[str, Any]:
    names = ("times", "mean", "standard_error", "covariance", "covariance_error", "level", "dt", "notes")
    found = {name: getattr(ensemble, name) for name in names} | {
        "paths": len(ensemble.diverged),
        "diverged": int(ensemble.diverged.sum()),
    }
    if comparison is not None:
        names = (
            "predicted_mean",
            "predicted_covariance",
            "mean_z",
            "covariance_z",
            "max_z",
            "law",
            "validity",
            "notes",
        )
        found["comparison"] = {name: getattr(comparison, name) for name in names}
    return jsonable(found | {"provenance": ensemble.provenance})


@main.command(
    epilog='Examples:  stability portrait --expression "x^4/4 - x^2/2 + y^2" --method sgd --method newton '
    '--method sfn --out out/portrait\n\nstability portrait --expression "x^4/4 - x^2/2 + y^2" --method '
    "momentum --beta 0.5 --method sfn --damping 0.5"
)
@on_a_landscape
@click.option(
    "--method",
    "compared",
    multiple=True,
    type=A_METHOD,
    help="May be given more than once; sgd, newton and sfn by default.",
)
@with_numbers("beta", "beta1", "beta2", "eps")
@click.option(
    "--region",
    metavar="R | LOW,HIGH | LOW,HIGH,LOW,HIGH",
    default="2",
    show_default=True,
    help="Bounds of the coordinates.",
)
@click.option(
    "--step", type=REAL, default=0.05, show_default=True, help="The learning rate of the sample paths."
)
@click.option(
    "--t-end",
    type=REAL,
    default=10.0,
    show_default=True,
    help="How long they are, in units of iteration x step.",
)
@click.option("--paths", type=int, default=None, help="How many for each method; 3, or 2000 on a line.")
@click.option(
    "--resolution",
    type=int,
    default=60,
    show_default=True,
    help="Points of the grid along each axis, in two dimensions.",
)
@click.option("--at", metavar="X,Y,...", default=None, help="Where curvature noise is centred.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("out/portrait"),
    show_default=True,
    help="The picture (.png, .svg) and its numbers (.npz; .json is a copy to read).",
)
def portrait(
    text: str | None,
    name: str | None,
    dim: int,
    parameters: tuple[str, ...],
    variables: str | None,
    compared: tuple[str, ...],
    region: str,
    at: str | None,
    start: str | None,
    out: Path,
    **options: Any,
) -> None:
    """Draw what methods do on a landscape in one or two dimensions.

    One panel for each method: level sets, flow lines (with momentum or a metric's running means from rest),
    basins of attraction, sample paths, and the critical points by what the method does to them; on a line the
    potential, the drift, and the stationary density by Fokker and Planck's equation and by paths. The tables
    say the same in numbers.
    """
    from ..portraits.critical import critical_points
    from ..portraits.line import profile as on_a_line
    from ..portraits.plane import portrait as in_a_plane

    objective = objective_of(text, name, dim, parameters, variables)
    bounds = numbers("--region", region)
    if len(bounds) not in (1, 2, 4):
        raise ValueError(
            f"`--region` must be one number, LOW,HIGH, or LOW,HIGH,LOW,HIGH; got {len(bounds)} numbers."
        )
    given = taken(options)
    noise = noise_of(options, None if at is None else numbers("--at", at))
    methods = methods_of(compared or ("sgd", "newton", "sfn"), given)
    place, resolution = _output.place(out), options.pop("resolution")
    options["start"] = None if start is None else numbers("--start", start)
    if options["paths"] is None:
        del options["paths"]
    shape: Any = bounds[0] if len(bounds) == 1 else bounds if len(bounds) == 2 else [bounds[:2], bounds[2:]]
    if objective.dim == 1:
        result: Any = on_a_line(objective, shape, methods, noise=noise, **options)
    else:
        result = in_a_plane(objective, shape, methods, noise=noise, resolution=resolution, **options)
    assert place is not None  # there is a default
    _output.keep(result, place, place)
    click.echo(str(result))
    points = critical_points(objective, shape)
    width = points.region[:, 1] - points.region[:, 0]
    known = [method for method in methods if method.spectral]  # a metric is the noise's too
    for point in points[:6] if known else ():
        # So near to zero is the search's rounding.
        at = ", ".join(f"{x:.4g}" for x in np.where(np.abs(point.w) < 1e-6 * width, 0.0, point.w))
        click.echo(f"\n{point.kind} at ({at}), value {point.value:.5g}\n{point.methods(known)}")
    if known and len(points) > 6:
        click.echo(f"\n... and {len(points) - 6} more")
    click.echo(f"\n{_output.written(place)}")
