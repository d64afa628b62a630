"""Advice on this package's objectives and methods: `st.advise`."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np

from .. import _check
from .._streams import stream
from ..methods.method import SGD, Method
from ..noise import DataNoise, Noise
from ..objectives.base import defines, require, trait
from ..objectives.gate import bare
from .advise import BUDGET, HORIZON, SAMPLES, examine
from .exact import Exact, within_reach
from .objective import ModelPlace, ObjectivePlace
from .optimizer import Optimizer
from .result import Advice
from .standing import standing

_SILENT = "No noise was given: give `noise`, or an objective with samples, for what batches change."
_NO_NOISE = 10**15  # samples in a batch that is infinite


@_check.by_name
def advise(
    objective: Any,
    w: Any = None,
    *,
    method: Any = None,
    step: float,
    batch: int | None = None,
    hessian_batch: int | None = None,
    noise: Noise | None = None,
    samples: int = SAMPLES,
    budget: float = BUDGET,
    horizon: int = HORIZON,
    exact: bool | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Advice:
    """How large a step may be at a state, and what noise costs there.

    The iteration is linearised at `w`, which need not be a critical point: the gradient moves the iterate,
    and is no part of whether it is stable. Small problems are answered from all modes, exactly; others from
    Hessian products and from every sample's curvature along a few directions.

    Parameters
    ----------
    objective : Objective
        With samples, or with a model of their `noise`; without either noise is ignored.
    w : array (d,), optional
        The state; the objective's reference by default.
    method : Method or Optimizer, optional
        SGD by default. A metric such as Adam's is the one that has settled on the gradients at `w`; an
        `stability.advice.optimizer.Optimizer` is taken as it stands, with its own steps.
    step : float
        The learning rate in use.
    batch, hessian_batch : int, optional
        Samples in a gradient batch, 32 by default (all of fewer), and in a Hessian batch, equal by default.
    noise : Noise, optional
        In the place of samples; `batch` is its own where it is not given.
    samples : int
        How many are looked at, where not all modes are taken: a random subset of so many.
    budget : float
        Work, in gradients of these samples, where not all modes are taken.
    horizon : int
        Iterations over which the noise floor builds up.
    exact : bool, optional
        Whether all modes are taken; where it takes seconds at most by default.
    seed : int
    progress : bool
        Show a progress bar.

    Returns
    -------
    Advice

    Raises
    ------
    ValueError
        If an argument is out of range, the objective lacks what is asked of it, there is a single sample, or
        its numbers are not finite here.

    Examples
    --------
    The limit of a hundred whitened inputs, one sample at a time, is 2 / 102:

    >>> import stability as st
    >>> advice = st.advise(st.quadratic([1.0] * 100), step=0.01, noise=st.Noise.streaming())
    >>> round(advice.step_limit, 6), round(advice.share, 2), round(advice.deterministic_limit, 6)
    (0.019608, 0.51, 2.0)
    """
    objective = require(objective, "st.advise", "dim", "gradient")
    if not (defines(objective, "hvp") or defines(objective, "products")):
        objective = require(objective, "st.advise", "hvp")
    w = _state(objective, w)
    method = SGD() if method is None else method
    if not isinstance(method, (Method, Optimizer)):
        raise ValueError(f"`method` must be a st.Method such as st.SGD() or st.Adam(); got {method!r}.")
    step, seed = _check.positive("step", step), _check.seed(seed)
    horizon, samples = _check.count("horizon", horizon), _check.count("samples", samples, least=2)
    setting = _Setting(objective, w, batch, hessian_batch, noise)
    if exact is None:
        exact = isinstance(method, Method) and within_reach(objective, method, setting.kind)
    if _check.flag("exact", exact):
        if not isinstance(method, Method):
            raise ValueError("`exact=True` is for a st.Method, not for an Optimizer. Leave `exact` out.")
        objective = require(objective, "st.advise(..., exact=True)", "hessian")
        notes = () if setting.sampled or noise is not None else (_SILENT,)
        found = Exact(objective, w, method, setting.noise(), step=step, horizon=horizon, seed=seed)
        found.notes.extend(notes)
        return found.advice()
    place, size = setting.place(samples, seed), setting.batch
    size = _NO_NOISE if math.isinf(size) else size
    optimizer = _standing(method, place, step, size, seed)
    return examine(
        place,
        optimizer=optimizer,
        batch=size,
        budget=budget,
        horizon=horizon,
        seed=seed,
        progress=progress,
    )


def _standing(method: Method | Optimizer, place: Any, step: float, batch: int, seed: int) -> Optimizer:
    if isinstance(method, Method):
        return standing(method, place, step=step, batch=batch, seed=seed)
    if step != method.step:
        raise ValueError(
            f"`step` is {step:g}, the optimizer's own {method.step:g}. Give that one: step=optimizer.step."
        )
    return method


def _state(objective: Any, w: Any) -> np.ndarray:
    if w is None:
        w = trait(bare(objective), "reference")
        if w is None:
            raise ValueError(f"`w` must be given: {objective!r} has no reference point.")
    return _check.shaped("w", w, (int(objective.dim),))


class _Setting:
    """Where noise comes from: samples, a model, or nowhere; and what a batch is."""

    def __init__(self, objective: Any, w: np.ndarray, batch: Any, hessian_batch: Any, noise: Noise | None):
        self.objective, self.w = objective, w
        if noise is not None and not isinstance(noise, Noise):
            raise ValueError(f"`noise` must be made by st.Noise(...); got {noise!r}.")
        self.given, self.replacement = noise, False
        number = trait(bare(objective), "n_samples")
        self.samples = None if number is None else int(number)
        self.sampled = noise is None and self.samples is not None
        if isinstance(noise, DataNoise):
            self._require_same(noise)
            self.sampled, self.replacement = True, noise.replacement
            batch = int(noise.batch) if batch is None else batch
            hessian_batch = int(noise.hessian_batch) if hessian_batch is None else hessian_batch
        if self.sampled:
            self._of_data(batch, hessian_batch)
        else:
            self._of_model(batch, hessian_batch)

    def _require_same(self, noise: DataNoise) -> None:
        same = noise.objective is bare(self.objective)
        if not same or noise.reference is None or not np.array_equal(noise.reference, self.w):
            raise ValueError(
                "The noise was estimated from another objective, or at another state. Leave `noise` out and "
                "give `batch`: it is estimated at `w`."
            )

    def _of_data(self, batch: Any, hessian_batch: Any) -> None:
        number = self.samples or 0
        if number < 2:
            raise ValueError(
                "Batch noise cannot be measured on one sample: data must hold two or more. Give more data, "
                "or a model of the noise: noise=st.Noise(gradient=...)."
            )
        most = None if self.replacement else number
        batch = min(32, number) if batch is None else batch
        self.batch = _check.count("batch", batch, most=most, why="the samples there are")
        given = self.batch if hessian_batch is None else hessian_batch
        self.hessian_batch = _check.count("hessian_batch", given, most=most, why="the samples there are")

    batch: Any
    hessian_batch: Any

    def _of_model(self, batch: Any, hessian_batch: Any) -> None:
        noise = self.given
        if noise is None:
            self.batch = 1 if batch is None else _check.count("batch", batch)
            self.hessian_batch = self.batch
            return
        if batch is not None and noise.batch not in (1, batch):
            raise ValueError(
                f"`batch` is {batch}, and that of `noise` {noise.batch:g}: give one of them. Leave `batch` "
                "out, or make the noise without."
            )
        own = noise.batch if batch is None else _check.count("batch", batch)
        self.batch = own if math.isinf(own) else int(own)
        given = hessian_batch
        if given is None and noise.hessian_batch != noise.batch:
            given = noise.hessian_batch
        self.hessian_batch = (
            self.batch if given is None else _check.positive("hessian_batch", given, infinite=True)
        )

    @property
    def kind(self) -> Any:
        """The class of the noise, that says how dear all modes are."""
        if self.sampled:
            return DataNoise
        return None if self.given is None else type(self.given)

    def noise(self) -> Noise:
        """With its batches."""
        if self.given is None and not self.sampled:
            return Noise()
        if self.given is not None:
            other = copy.copy(self.given)
            other.batch, other.hessian_batch = self.batch, self.hessian_batch
            return other
        return Noise.from_data(
            bare(self.objective), self.w, batch=self.batch, hessian_batch=self.hessian_batch
        )

    def place(self, samples: int, seed: int) -> Any:
        """For advice from products."""
        if not self.sampled:
            noise = Noise() if self.given is None else self.given.of(bare(self.objective))
            return ModelPlace(self.objective, self.w, noise, seed)
        number = self.samples or 0
        rows = np.arange(number)
        if samples < number:
            rows = np.sort(stream(seed, 2).choice(number, samples, replace=False))
        return ObjectivePlace(self.objective, self.w, rows, math.inf if self.replacement else None)
