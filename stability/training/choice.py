"""What a user asks of `minimize`, checked and turned into what decides each step."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from .. import _check
from ..advice.untuned import MOMENTUM
from ..lowrank.sample_space import DRAWN
from ..methods.memory import Memory
from ..methods.method import LRSFN, Method
from ..methods.metrics import Metric
from ..methods.momentum import Momentum
from ..objectives.base import defines, require
from . import auto
from .auto import AutoRule
from .baselines import BASELINES
from .options import RARE, Armijo, FixedStep, Rare, ScheduledStep, SpectralStep, StepRule
from .problem import Problem
from .rules import DenseRule, DirectionRule, LowRankRule, MetricRule
from .run import DECAYS
from .sampled import SampleRule

DENSE_DIM = 3000
"""Largest dimension in which a method that needs the whole spectrum is run: one Hessian takes 72 MB there."""
DEFAULTS: dict[str, Any] = {
    **RARE,
    "step": "auto",
    "batch": None,
    "hessian_batch": None,
    "momentum": 0.0,
    "weight_decay": 0.0,
    "decay": None,
    "average": False,
    "checkpoint": None,
}
"""Of what some methods have no use for, and refuse where it was given."""


class Choice(NamedTuple):
    """What decides the steps, and the samples in its Hessian batches.

    Of weight decay, `weight_decay` is what acts on the weights themselves, `ridge` what joins the gradient.
    """

    hessian_batch: int
    rule: DirectionRule
    step: StepRule
    memory: Memory | None
    weight_decay: float
    ridge: float
    decay: str | None
    average: float


def known(rare: Rare) -> Rare:
    """All the rare options, with the defaults of those that were not given."""
    for name in rare:
        if name not in RARE:
            raise TypeError(f"`{name}` is no option of st.minimize. The rarer ones are {', '.join(RARE)}.")
    return {**RARE, **rare}


def refuse(reason: str, **given: Any) -> None:
    """Raise where one of these is not the default, and would have been ignored."""
    for name, value in given.items():
        if _check.is_schedule(value) or value != DEFAULTS[name]:
            raise ValueError(f"{reason}: leave `{name}` out.")


def sizes(problem: Problem, batch: int | None, hessian_batch: int | None, options: Rare) -> tuple[int, int]:
    """Samples in the gradient and Hessian batches, which `coupling` may bind to each other."""
    _check.choice("coupling", options["coupling"], ("independent", "nested"))
    _check.choice("sampling", options["sampling"], ("epochs", "independent"))
    if not problem.sampled:
        if batch is not None or hessian_batch is not None:
            raise ValueError(
                f"{problem.objective!r} has no samples to draw batches from. Leave `batch` and "
                "`hessian_batch` out."
            )
        return 1, 1
    limit: dict[str, Any] = {"most": problem.samples, "why": "the samples"}
    own = problem.samples if batch is None else _check.count("batch", batch, **limit)
    other = own if hessian_batch is None else _check.count("hessian_batch", hessian_batch, **limit)
    if options["coupling"] == "nested" and other > own:
        raise ValueError(
            f"A nested Hessian batch lies inside the gradient batch: `hessian_batch` must be <= {own}; got "
            f"{other}."
        )
    return own, other


ENDLESS = 1e300
"""Of passes: more than any run takes, and still a number."""


def budget(sweeps: float | None, iterations: int | None, problem: Problem) -> tuple[float, float]:
    """When to stop: work in passes over single samples, and iterations; one of them may be inf."""
    if sweeps is None and iterations is None:
        raise ValueError("Say when to stop: give `sweeps` (passes over all samples) or `iterations`.")
    passes = math.inf if sweeps is None else min(_check.positive("sweeps", sweeps) * problem.samples, ENDLESS)
    return passes, math.inf if iterations is None else _check.count("iterations", iterations, least=0)


def planned(passes: float, iterations: float, batch: int) -> int:
    """How many iterations a run has at most; fewer where Hessian products are paid for."""
    # Less a rounding: a budget of exactly k batches is not to be k + 1 of them.
    paid = passes * (1 - 1e-12) / batch
    return int(iterations) if math.isinf(paid) else int(min(iterations, math.ceil(paid)))


def choose(
    method: Any,
    step: Any,
    own: dict[str, Any],
    options: Rare,
    problem: Problem,
    *,
    batch: int,
    hessian_batch: int,
    told: bool,
    passes: float,
    iterations: int,
) -> Choice:
    """The rules of a run: measured with ``step="auto"``, else as asked for.

    Parameters
    ----------
    own : dict
        `momentum`, `weight_decay`, `decay` and `average`.
    batch : int
        Samples per gradient.
    hessian_batch, told : int, bool
        Samples, and whether so many were asked for.
    passes : float
        The budget, over single samples.
    iterations : int
        At most.
    """
    refresh = _refresh(options)
    if isinstance(method, Momentum) and getattr(method.method, "curvature", "") == "gauss-newton":
        raise ValueError(
            "Gauss-Newton curvature keeps a share of the last direction itself: leave st.Momentum out."
        )
    if getattr(method, "curvature", "") == "gauss-newton":
        return _sampled(method, step, own, options, refresh, problem, batch, hessian_batch, told, iterations)
    if isinstance(step, str):
        _check.choice("step", step, ("auto",))
        refuse("step='auto' chooses momentum, schedule, averaging and refreshes", **own, **refresh)
        return _automatic(method, problem, hessian_batch if told else None, passes)
    plain, memory = _memory(method, own["momentum"])
    rule = _rule(plain, problem, refresh, options["limits"])
    if isinstance(step, SpectralStep) and not rule.rank:
        raise ValueError(
            "SpectralStep needs the eigenvalues of a low-rank method. Use method=st.LRSFN(...), or a number."
        )
    decay = None if own["decay"] is None else _check.choice("decay", own["decay"], tuple(DECAYS))
    return Choice(
        hessian_batch,
        rule,
        _lengths(step, iterations, decay),
        memory,
        *_weight_decay(plain, own["weight_decay"]),
        decay,
        _averaged(own["average"]),
    )


def _sampled(
    method: Any,
    step: Any,
    own: dict[str, Any],
    options: Rare,
    refresh: dict[str, Any],
    problem: Problem,
    batch: int,
    hessian_batch: int,
    told: bool,
    iterations: int,
) -> Choice:
    """The rule of Gauss-Newton curvature, with half steps that fall to zero where batches are drawn."""
    if not defines(problem.objective, "residuals"):
        raise ValueError(
            "curvature='gauss-newton' needs an objective made of residuals, such as st.least_squares, "
            f"st.logistic or st.mlp; {problem.objective!r} has none. Use curvature='hessian'."
        )
    refuse(
        "Gauss-Newton curvature is that of every gradient batch itself, and has a memory of its own",
        hessian_batch=hessian_batch if told else None,
        momentum=own["momentum"],
        limits=options["limits"] or None,
        **refresh,
    )
    drawn = problem.sampled and batch < problem.samples
    decay = None if own["decay"] is None else _check.choice("decay", own["decay"], tuple(DECAYS))
    if isinstance(step, str):
        _check.choice("step", step, ("auto",))
        rule_step: StepRule = FixedStep(DRAWN if drawn else 1.0)
        decay = "linear" if drawn and decay is None else decay
    else:
        rule_step = _lengths(step, iterations, decay)
    if isinstance(rule_step, SpectralStep):
        raise ValueError(
            "SpectralStep needs the eigenvalues of a low-rank method. Give a number, or no `step`."
        )
    judged = not drawn and method.damping is None
    if judged and (decay or not isinstance(rule_step, FixedStep)):
        raise ValueError(
            "On all samples the measured damping is judged by steps of one length. Give a number as `step`, "
            "or damping=... to LRSFN, and no `decay`."
        )
    length = rule_step.step if isinstance(rule_step, FixedStep) else 1.0
    return Choice(
        batch,
        SampleRule(method.damping, drawn=drawn, length=length),
        rule_step,
        None,
        *_weight_decay(method, own["weight_decay"]),
        decay,
        _averaged(own["average"]),
    )


def _memory(method: Any, momentum: Any) -> tuple[Any, Memory | None]:
    """The method whose directions are gathered, and what gathers them: its own memory, or `momentum`."""
    momentum = _check.fraction("momentum", momentum)
    if not isinstance(method, Momentum):
        return method, Memory(momentum) if momentum else None
    if momentum:
        raise ValueError(
            f"`momentum` is the short form of st.Momentum, and `method` is {method!r} already: leave "
            f"`momentum` out, or give method={method.method!r}."
        )
    return method.method, method.memory if method.beta else None


def _weight_decay(method: Any, given: Any) -> tuple[float, float]:
    """Weight decay of the weights themselves, and as a part of the gradient."""
    given = _check.nonnegative("weight_decay", given)
    own = method.weight_decay
    if given and own:
        raise ValueError(
            f"`weight_decay` is in `method` already: {method!r}. Leave it out, or take it out there."
        )
    # Adam's own decay may join its gradient; what a run is given acts on the weights themselves.
    return (own or given, 0.0) if method.decoupled else (given, own)


def _lengths(step: Any, iterations: int, decay: str | None) -> StepRule:
    """The rule for the length of a step."""
    if isinstance(step, (SpectralStep, Armijo)):
        return step
    if not _check.is_schedule(step):
        return FixedStep(_check.positive("step", step))
    if decay is not None:
        raise ValueError("`step` is a schedule, which says how it decays: leave `decay` out.")
    return ScheduledStep(_check.schedule("step", step, iterations, end="iterations={k}"))


def _refresh(options: Rare) -> dict[str, Any]:
    """How curvature is to be renewed, checked for every method."""
    if options["refresh"] is not None:
        _check.count("refresh", options["refresh"])
    _check.flag("warm", options["warm"])
    if options["limits"] is not None:
        _check.flag("limits", options["limits"])
    _check.nonnegative("noise_margin", options["noise_margin"])
    _check.choice("eigensolver", options["eigensolver"], ("block-krylov", "double-pass", "nystrom"))
    return {name: options[name] for name in ("refresh", "warm", "noise_margin", "eigensolver")}


def _rule(method: Any, problem: Problem, refresh: dict[str, Any], limits: bool | None) -> DirectionRule:
    """The direction rule of a method."""
    if not isinstance(method, Method):
        raise ValueError(
            "`method` must be a method such as st.SGD() or st.LRSFN(...), st.Adam(), or one of "
            f"{', '.join(BASELINES)}; got {method!r}."
        )
    # An option that would be ignored is refused: whoever gave it believes that it acts.
    if not method.uses_hessian:
        refuse(f"{method.label} knows no curvature", **refresh, limits=limits or None)
        return MetricRule(method) if isinstance(method, Metric) else DirectionRule()
    require(problem.objective, method.label, "hessian" if method.rank is None else "hvp")
    # A dense decomposition may be renewed seldom as well; the rest of the options is of low rank alone.
    every = refresh.pop("refresh")
    if method.rank is not None:
        _check.count("rank", method.rank, most=problem.dim, why="the dimension")
        return LowRankRule(
            method,
            every=every,
            warm=refresh["warm"],
            margin=refresh["noise_margin"],
            solver=refresh["eigensolver"],
        )
    refuse(f"{method.name} uses the whole spectrum", **refresh)
    if problem.dim > DENSE_DIM:
        raise ValueError(
            f"{method.name} needs the whole spectrum, in at most {DENSE_DIM} dimensions; here are "
            f"{problem.dim}. Use st.LRSFN(rank=..., damping=...)."
        )
    return DenseRule(method, 1 if every is None else every)


def _automatic(method: Any, problem: Problem, hessian_batch: int | None, passes: float) -> Choice:
    """The untuned rule: of a method only the rank is read."""
    require(problem.objective, "step='auto'", "hvp")
    if isinstance(method, Momentum):
        raise ValueError(
            f"step='auto' chooses the momentum too: give method={method.method!r}, or a number as `step`."
        )
    if method is not None and not isinstance(method, LRSFN):
        raise ValueError(
            f"step='auto' is a rule for low-rank saddle-free Newton; {getattr(method, 'label', method)!r} "
            "needs a number. Leave `method` out."
        )
    if math.isinf(passes):
        raise ValueError("step='auto' plans over the whole run: give `sweeps`.")
    if method is None:
        rank = auto.auto_rank(passes, problem.dim, problem.samples)
    else:
        rank = _check.count("rank", method.rank, most=problem.dim, why="the dimension")
    # The first decomposition is cold: two passes for each of twice as many columns as are kept.
    size = hessian_batch or auto.auto_hessian_batch(rank, problem.samples, passes)
    first = 2.0 * size * min(2 * rank, problem.dim)
    if (hessian_batch or method is not None) and first > 0.5 * passes:
        raise ValueError(
            f"`hessian_batch` of {size} at rank {rank} spends {first / problem.samples:.3g} of "
            f"{passes / problem.samples:.3g} sweeps on the first "
            "decomposition. Take fewer samples or a lower rank, more sweeps, or leave both out."
        )
    rule = AutoRule(rank, passes)
    return Choice(size, rule, rule, Memory(MOMENTUM), 0.0, 0.0, auto.DECAY, auto.AVERAGE)


def _averaged(average: Any) -> float:
    """The share of the run whose mean is returned."""
    if isinstance(average, (bool, np.bool_)):
        return 0.5 if average else 0.0
    average = _check.number(average)
    if not isinstance(average, (int, float)) or not 0 < average <= 1:
        raise ValueError(
            f"`average` must be True or False, or a share of the run in (0, 1]; got {_check.shown(average)}."
        )
    return float(average)
