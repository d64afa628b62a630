"""What `stability train` does: data, network and optimizer from words on a command line."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import _check, _files, datasets
from .._check import Interrupted
from ..methods.method import LRSFN
from ..objectives.network import Network, autoencoder, mlp
from ..training.history import History
from ..training.minimize import minimize
from ..training.problem import Progress
from ._methods import method_of
from ._numbers import TooSmall, real
from ._reading import table_of

STEPS = {
    "sgd": 0.1,
    "momentum": 0.01,
    "nesterov": 0.01,
    "sign": 1e-3,
    "rmsprop": 1e-3,
    "adam": 1e-3,
    "adamw": 1e-3,
}
"""The field's usual steps, where none is given; lrsfn then measures its own."""
SCIPYS = {"lbfgs": "L-BFGS-B", "newton-cg": "Newton-CG"}
BATCH, HELD_OUT = 32, 0.2
CHECKS = 20
"""How often in a run the loss of the samples held back is looked at."""


@dataclass(frozen=True)
class Training:
    """A network with its data divided in two."""

    train: Network
    test: Network
    about: str
    wanted: str  # the metric: "error %" or "mean squared error"

    def score(self, w: Any, part: Network) -> float:
        """The metric on one part, lower is better."""
        if self.train.loss == "cross-entropy":
            return 100 * (1 - float(part.accuracy(w)))
        # The loss is half the squared error, averaged over samples and outputs, and has the ridge in it.
        with np.errstate(over="ignore", invalid="ignore"):  # of a run that diverged, which says so
            return 2 * float(part.value(w)) - part.l2 * float(w @ w)


def prepare(
    data: str,
    *,
    model: str,
    hidden: tuple[int, ...] | None,
    activation: str,
    target: str | None,
    l2: float,
    dtype: str,
    seed: int,
    reading: dict[str, Any] | None = None,
) -> Training:
    """Read the data, hold a fifth of the samples back, and build the network.

    Raises
    ------
    ValueError
        If the data cannot be read, or the target is missing where one is needed.
    """
    X, y, about = _data(data, model, target, reading or {})
    rows = np.random.default_rng(seed).permutation(len(X))
    cut = len(X) - max(1, int(HELD_OUT * len(X)))
    fit, held = rows[:cut], rows[cut:]
    if model == "autoencoder":
        train = autoencoder(X[fit], hidden or (64, 16, 64), activation=activation, l2=l2, dtype=dtype)
        return Training(train, train.on(X[held]), about, "mean squared error")
    options: dict[str, Any] = {"activation": activation, "l2": l2, "dtype": dtype}
    wanted = "mean squared error"
    if y.dtype.kind in "iu":
        # From all samples: a rare class may be among those held back alone.
        options |= {"loss": "cross-entropy", "classes": int(y.max()) + 1}
        wanted = "error %"
    else:
        options |= {"loss": "squared", "classes": None}
    train = mlp(X[fit], y[fit], hidden or (128, 64), **options)
    return Training(train, train.on(X[held], y[held]), about, wanted)


def _data(
    data: str, model: str, target: str | None, reading: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray, str]:
    if data in ("digits", "mnist"):
        if target is not None:
            raise ValueError("`--target` is for a CSV file.")
        if given := [name for name, value in reading.items() if value]:
            raise ValueError(f"`--{given[0].replace('_', '-')}` is for a CSV file.")
        try:
            images = getattr(datasets, data)()
        except ImportError as error:
            raise ValueError(str(error)) from None
        return images.X, images.y, str(images)
    if not data.endswith(".csv") and not _files.path_of(data).exists():
        raise ValueError(f"`--data` must be digits, mnist or a CSV file; got {data!r}.")
    table = table_of(data, target, "network", reading)
    what = f"{len(table.classes)} classes" if table.classes else "a number"
    size = f"{len(table.X)} samples, {len(table.columns)} columns"
    about = [f"{Path(data).name} ({table.reading}): {size}, {table.target!r} is {what}"]
    return table.X, table.y, "\n".join([*about, *(f"note: {note}" for note in table.notes)])


def run(
    training: Training,
    *,
    optimizer: str,
    step: str,
    rank: int | None,
    damping: float | None,
    batch: int | None,
    sweeps: float,
    seed: int,
    weight_decay: float | None = None,
    given: dict[str, Any] | None = None,
    **options: Any,
) -> History:
    """Train the network from its seeded start, by default on batches of 32 samples, or of all if fewer.

    What first-order methods have for numbers is `given` by name.

    Raises
    ------
    ValueError
        If the arguments do not fit the optimizer.
    Interrupted
        At Ctrl-C, with the history so far in ``.result``.
    """
    F = training.train
    start = F.initial(seed)
    hessian_batch = options.get("hessian_batch")
    method, chosen = _method(optimizer, step, rank, damping, weight_decay, given or {})
    if isinstance(method, str):
        if batch is not None or hessian_batch is not None or options.pop("checkpoint", None) is not None:
            raise ValueError(
                f"{optimizer} works on all samples in one go: leave --batch, --hessian-batch and "
                "--checkpoint out."
            )
        watch = _HeldBack(training.test, sweeps)
        return watch.kept(minimize(F, start, method=method, sweeps=sweeps, dtype=F.dtype, callback=watch))
    if optimizer != "lrsfn" and hessian_batch is not None:
        raise ValueError(f"`--hessian-batch` is lrsfn's; {optimizer} has none.")
    for name, size in (("--batch", batch), ("--hessian-batch", hessian_batch)):
        if size is not None and not 1 <= size <= F.n_samples:
            raise ValueError(f"`{name}` must be from 1 to {F.n_samples}, the training samples; got {size}.")
    if not isinstance(chosen, str):
        # A step that is given is the largest; measured ones have a schedule of their own.
        options["decay"] = "linear"
    size, watch = min(BATCH, F.n_samples) if batch is None else batch, _HeldBack(training.test, sweeps)
    try:
        return watch.kept(
            minimize(
                F,
                start,
                method=method,
                step=chosen,
                batch=size,
                sweeps=sweeps,
                seed=seed,
                dtype=F.dtype,
                callback=watch,
                **options,
            )
        )
    except Interrupted as stopped:
        stopped.result = watch.kept(stopped.result)
        raise


class _HeldBack:
    """A callback that looks at the loss of the samples held back, at even distances of work."""

    def __init__(self, part: Network, sweeps: float):
        self.part, self.every = part, sweeps / CHECKS
        self.next = self.every
        self.seen: list[tuple[float, float]] = []

    def __call__(self, progress: Progress) -> None:
        if progress.sweeps >= self.next:
            self.seen.append((progress.sweeps, self._loss(progress.w)))
            # From where it is, not from where it was due: after a long iteration none is made up for.
            self.next = progress.sweeps + self.every

    def _loss(self, w: np.ndarray) -> float:
        with np.errstate(all="ignore"):  # of a run that diverges, which says so
            return float(self.part.value(w))

    def kept(self, history: History) -> History:
        """The history with what was seen, and with the loss of where the run ended."""
        ends = [(history.sweeps[-1], self._loss(history.final))] if len(history.sweeps) else []
        return replace(history, held_back=np.array(self.seen + ends).reshape(-1, 2))


def _method(
    optimizer: str,
    step: str,
    rank: int | None,
    damping: float | None,
    weight_decay: float | None,
    given: dict[str, Any],
) -> tuple[Any, Any]:
    """The method and its step."""
    if weight_decay is not None and not 0 <= weight_decay < np.inf:
        raise ValueError(f"`--weight-decay` must be a finite number >= 0; got {weight_decay:g}.")
    if weight_decay and (optimizer in SCIPYS or (optimizer == "lrsfn" and step == "auto")):
        why = "lrsfn with `--step auto`" if optimizer == "lrsfn" else optimizer
        raise ValueError(f"{why} has no weight decay of its own: give `--l2`, which joins the loss.")
    if optimizer != "lrsfn" and (rank is not None or damping is not None):
        raise ValueError(f"`--rank` and `--damping` are lrsfn's; {optimizer} has none.")
    if optimizer in SCIPYS:
        if step != "auto":
            raise ValueError(f"{optimizer} searches for its own steps: leave `--step` out.")
        return SCIPYS[optimizer], "auto"
    number = None if step == "auto" else _number(step)
    if optimizer != "lrsfn":
        method = method_of(optimizer, weight_decay=weight_decay, **given)
        return method, STEPS[optimizer] if number is None else number
    if number is None:
        if damping is not None:
            raise ValueError(
                "With `--step auto` the damping is measured: leave `--damping` out, or give a step."
            )
        return None if rank is None else LRSFN(rank=rank, damping=1.0), "auto"
    damped = LRSFN(rank=20 if rank is None else rank, damping=0.1 if damping is None else damping)
    return damped.with_weight_decay(weight_decay or 0.0), number


def _number(step: str) -> float:
    try:
        return _check.positive("--step", real(step))
    except TooSmall as error:
        raise ValueError(f"`--step`: {error}") from None
    except ValueError:
        raise ValueError(f"`--step` must be a number > 0 or auto; got {step!r}.") from None
