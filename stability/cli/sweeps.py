"""`stability sweep`."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import types
from pathlib import Path
from typing import Any

import click

from .. import _files
from .._check import Interrupted, counted
from .._saving import jsonable
from . import _output
from ._data import AS_JSON
from ._main import main

OPTIONAL = {"refine": None, "tolerance": 0.01, "units": None, "long_names": None}
"""What a file of a study may say beside its grid, and what holds where it does not."""
MOST_REASONS = 5
PATIENCE = 10.0
"""Seconds that a scheduler has to answer."""


class Shard(click.ParamType):
    """Part k of n, as ``3/16``."""

    name = "K/N"

    def convert(self, value: Any, param: Any, context: Any) -> tuple[int, int]:
        """The two numbers."""
        try:
            part, parts = map(int, str(value).split("/"))
        except ValueError:
            part, parts = 0, 0
        if not 1 <= part <= parts:
            raise ValueError(
                f"`--shard` must be K/N, part K of N counted from 1, as 3/16; got {value!r}. In a SLURM "
                "array: --array=1-16 and --shard $SLURM_ARRAY_TASK_ID/16."
            )
        return part, parts


@main.command(
    epilog="Examples:  stability sweep kappa.py --dry-run\n\nstability sweep kappa.py --store runs/kappa "
    "--shard $SLURM_ARRAY_TASK_ID/16"
)
@click.argument("study", type=click.Path(path_type=Path))
@click.option(
    "--store",
    type=click.Path(path_type=Path),
    default=None,
    help="Folder of the records; by default STUDY.sweep where you are.",
)
@click.option("--function", default=None, help="Its function, where it is not called study.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Of random numbers.")
@click.option(
    "--workers", default=None, type=click.IntRange(min=0), help="Processes; by default one for each core."
)
@click.option("--dask", default=None, metavar="ADDRESS", help="Compute on the dask scheduler there.")
@click.option(
    "--shard",
    type=Shard(),
    default=None,
    help="Compute part K of N only; all parts share the store, and need no scheduler.",
)
@click.option("--dry-run", is_flag=True, help="Say how many points there are and how long they may take.")
@click.option("--resume", is_flag=True, help="Go on with a store, which must be there.")
@click.option("--failed", is_flag=True, help="Compute points that failed once more.")
@AS_JSON
def sweep(
    study: Path,
    store: Path | None,
    function: str | None,
    seed: int,
    workers: int | None,
    dask: str | None,
    shard: tuple[int, int] | None,
    dry_run: bool,
    resume: bool,
    failed: bool,
    as_json: bool,
) -> None:
    """Compute a study at all points of a grid, from where it stopped.

    STUDY is a Python file with a function study(...) that returns numbers by name, and a mapping grid of its
    parameters; it may also name refine, tolerance, units and long_names. Each point leaves a record in the
    store; the same command computes only what is not there. At the end the store has results.nc.
    """
    from ..sweeps import dataset as datasets
    from ..sweeps import engine as engines
    from ..sweeps.sweep import prepare

    datasets.require_xarray()
    module = _loaded(study)
    store = store or Path(f"{study.stem}.sweep")
    if resume and not _files.path_of(store).is_dir():
        raise ValueError(
            f"`--resume` goes on with a store, and {store} does not exist. Leave it away to begin."
        )
    executor = None if dask is None else _dask(dask)
    engine = engines.chosen(executor, workers)
    asked = prepare(
        _named(module, "grid", study),
        _function(module, function, study),
        store=store,
        seed=seed,
        here=engines.is_here(executor, workers),
        shard=shard,
        retry=failed,
        **{name: _optional(module, name, value) for name, value in OPTIONAL.items()},
    )
    if dry_run:
        _estimate(asked, engine, as_json)
        return
    try:
        found = asked.run(engine, progress=not as_json)
    except Interrupted as stopped:
        raise _output.Stopped(str(stopped)) from None
    except RuntimeError as error:
        raise ValueError(str(error)) from None
    _tell(found, asked, as_json)
    # For scripts: a whole sweep in which points have failed is no success.
    if found.attrs["failed"]:
        raise SystemExit(1)


def _loaded(path: Path) -> types.ModuleType:
    """The file as a module that workers find under the same name."""
    path = _files.regular(path).resolve()
    if path.suffix != ".py":
        raise ValueError(f"`STUDY` must be a Python file, NAME.py; got {path.name}.")
    sys.path.insert(0, str(path.parent))
    importlib.invalidate_caches()  # the file may be younger than what is known of its folder
    try:
        found = importlib.util.find_spec(path.stem)
    except (ImportError, ValueError):
        found = None
    if found is None or found.origin is None or Path(found.origin).resolve() != path:
        raise ValueError(
            f"`STUDY` must have a name of its own; {path.stem} is another module's as well. Rename the file."
        )
    try:
        return importlib.import_module(path.stem)
    except Exception as error:  # whatever a file of a user's does
        raise ValueError(f"{path} cannot be imported: {type(error).__name__}: {error}") from None


def _named(module: types.ModuleType, name: str, path: Path) -> Any:
    """What the file calls so, in small letters or in capitals."""
    for one in (name, name.upper()):
        if hasattr(module, one):
            return getattr(module, one)
    raise ValueError(f"{path} must have {name} = {{'parameter': [values], ...}}; it has none.")


def _optional(module: types.ModuleType, name: str, otherwise: Any) -> Any:
    return getattr(module, name, getattr(module, name.upper(), otherwise))


def _function(module: types.ModuleType, name: str | None, path: Path) -> Any:
    """The study: the function of this name, or called study, or the only one that the file defines."""
    own = [
        key
        for key, value in vars(module).items()
        if isinstance(value, types.FunctionType) and value.__module__ == module.__name__ and key[0] != "_"
    ]
    name = name or ("study" if "study" in own or len(own) != 1 else own[0])
    if name not in own:
        raise ValueError(
            f"{path} must have a function {name}(...); it has {', '.join(own) or 'none'}. Name another one "
            "with --function."
        )
    return getattr(module, name)


def _dask(address: str) -> Any:
    """The executor of a dask scheduler."""
    try:
        from distributed import Client
    except ImportError:
        raise ValueError("`--dask` needs dask: pip install 'sfn-stability[dask]'.") from None
    try:
        return Client(address, timeout=PATIENCE, set_as_default=False).get_executor()
    except (OSError, ValueError) as error:
        raise ValueError(
            f"`--dask` must be the address of a scheduler; {address} does not answer ({error})."
        ) from None


def _estimate(asked: Any, engine: Any, as_json: bool) -> None:
    """Say what there is to do; some points are computed for it, and not kept."""
    from ..sweeps.sweep import duration

    told = asked.estimate(engine)
    if as_json:
        click.echo(json.dumps(jsonable(told), indent=1, allow_nan=False))
        return
    counts = ", ".join(f"{told[kind]} {kind}" for kind in ("done", "failed", "ahead"))
    lines = [f"{counted(told['points'], 'point')}: {counts}"]
    if told["refined"]:
        lines.append(f"at most {told['refined']} more along the boundary")
    if told["seconds"] is not None:
        lines.append(
            f"about {duration(told['seconds'])} with {counted(told['workers'], 'worker')}: "
            f"{counted(told['probed'], 'point')} took {duration(told['each'])} each"
        )
    click.echo("\n".join(lines))


def _tell(found: Any, asked: Any, as_json: bool) -> None:
    """What became of the points, and where they are."""
    counts = {kind: found.attrs[kind] for kind in ("points", "done", "unstable", "failed", "missing")}
    folder = asked.store.folder
    if as_json:
        click.echo(json.dumps({**counts, "store": str(folder)}, indent=1))
        return
    shown = [f"{number} {kind}" for kind, number in counts.items() if number and kind != "points"]
    click.echo(f"{counted(counts['points'], 'point')}: {', '.join(shown)}")
    reasons = [str(reason) for reason in found.reason.values[found.status.values == "failed"].ravel()]
    for reason in list(dict.fromkeys(reasons))[:MOST_REASONS]:
        click.echo(f"  failed {reasons.count(reason)}: {reason}")
    if counts["failed"]:
        click.echo("  --failed computes these once more")
    if counts["missing"]:
        click.echo(f"{folder}: the other shards' points are not there yet")
    else:
        click.echo(f"{folder / 'results.nc'}")
