"""Minimize an objective on minibatches, matrix-free, by the methods whose stability the theory describes."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from .. import _check
from .._array import Backend, backend_of, moved, namespace
from .._check import Interrupted
from .._interrupts import undisturbed
from .._progress import progress_bar
from .._saving import provenance
from ..methods.method import Method
from ..methods.momentum import Momentum
from ..methods.response import gains_at
from ..objectives.base import defines, require, trait
from ..objectives.gate import probe
from . import checkpoint as checkpoints
from . import choice
from .asked import ADVISED, Adviser, with_memory
from .baselines import BASELINES, baseline
from .batches import Batches
from .history import End, Ending, History
from .limits import Forecast
from .options import Armijo, Rare, SpectralStep
from .problem import Problem, Progress
from .run import Log, OptimizerRun, RunPlan

DTYPES = ("float64", "float32")
RUNAWAY = 100.0
"""A run whose loss ends so many times what it began with has diverged."""


@_check.by_name
@_check.renamed(w0="start")
def minimize(
    objective: Any,
    start: Any,
    *,
    method: Method | str | None = None,
    step: float | str | SpectralStep | Armijo | Callable[[int], float] | Any = "auto",
    batch: int | None = None,
    hessian_batch: int | None = None,
    sweeps: float | None = None,
    iterations: int | None = None,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    decay: str | None = None,
    average: bool | float = False,
    seed: int = 0,
    callback: Callable[[Progress], Any] | None = None,
    checkpoint: str | Path | None = None,
    progress: bool = False,
    **rare: Unpack[Rare],
) -> History:
    """Run an optimizer and say what it cost, what curvature it saw, and how large a step it could have taken.

    Examples
    --------
    >>> import numpy as np
    >>> import stability as st
    >>> X = np.random.default_rng(0).standard_normal((200, 4)) * [1, 0.3, 0.1, 0.03]
    >>> F = st.least_squares(X, X @ np.ones(4))
    >>> method = st.LRSFN(rank=4, damping=1e-6)
    >>> run = st.minimize(F, np.zeros(4), method=method, step=0.3, batch=50, sweeps=40)
    >>> run.status, bool(run.loss < 1e-9 * run.losses[0])
    ('done', True)

    Without `method` and `step` there is nothing to tune:

    >>> run = st.minimize(F, np.zeros(4), batch=20, sweeps=60, limits=True)
    >>> bool(run.loss < 1e-3 * run.losses[0]), bool(run.steps.max() < run.step_limits.min())
    (True, True)

    How large a step may be where a run has come to, and how much of that is in use, `st.advise` says:

    >>> sgd = {"method": st.SGD(), "step": 0.3, "batch": 20}
    >>> run = st.minimize(F, np.zeros(4), **sgd, sweeps=40)
    >>> advice = st.advise(F, run.final, **sgd)
    >>> round(advice.step_limit, 2), round(advice.deterministic_limit, 2), round(advice.share, 2)
    (1.96, 2.11, 0.15)

    Parameters
    ----------
    objective : Objective
        With ``value``, ``gradient`` and, for second-order methods, ``hvp``; with samples (``n_samples``) it
        is run on minibatches. `st.mlp`, `st.gallery.autoencoder`, `st.logistic`, `st.least_squares`, or one
        of your own.
    start : array, shape (d,)
    method : Method or str, optional
        The theory's own methods: `st.SGD()`, `st.LRSFN(rank=..., damping=...)` and other truncated ones
        matrix-free; `st.Newton()`, `st.SFN(...)` and other full spectral ones with the whole Hessian, in at
        most 3000 dimensions; `st.LRSFN(curvature="gauss-newton")` with all directions of every batch, on
        objectives made of residuals: its damping is measured, by the gain ratio on all samples, by
        leave-one-out on batches; `st.SignSGD()`, `st.RMSprop()`, `st.Adam()`; any of them inside
        `st.Momentum(...)`. SciPy's ``"L-BFGS-B"`` and ``"Newton-CG"`` as deterministic baselines on all
        samples. With ``step="auto"`` LRSFN, of which only the rank is read; by default the rank is chosen
        too.
    step : float, callable, array, SpectralStep, Armijo or "auto"
        The learning rate; a schedule, which is a function of the iteration (counted from 0) or an array with
        a length for each, known before the run; a rule; or ``"auto"``. With Gauss-Newton curvature that is 1
        on all samples, and half steps that fall to zero on batches; else rank, damping, step, momentum and
        refreshes from the curvature and its sampling noise as measured, nothing to tune; the step falls to
        zero over the run, and the mean of the last fifth of the iterates is returned.
    batch, hessian_batch : int, optional
        Samples per gradient and per Hessian batch; all samples, and `batch`, by default.
    sweeps, iterations : number
        When to stop: work in passes over all samples (see `History`), or iterations. At least one is needed.
    momentum : float
        Heavy ball, ``v+ = momentum * v + P g``, ``w+ = w - step * v+``: short for
        ``method=st.Momentum(method, momentum)``.
    weight_decay : float
        Decoupled, for every method: ``w+ = w - step * (p + weight_decay * w)``, where ``p`` is the direction
        without it; short for ``method=method.with_weight_decay(...)``. A ridge, which joins the gradient, is
        the objective's ``l2=``.
    decay : {"linear", "sqrt"}, optional
        Let the step fall to zero over the run, in proportion to what is left of it or to the root of that;
        not the steps that `Armijo` searches for.
    average : bool or float
        Return the mean of the last half of the iterates, or of this share of the run: it removes most of the
        noise of a constant step. A run that ends sooner than planned, before any of these, returns its last
        iterate.
    seed : int
        0 where none is given; same seed, same numbers.
    callback : callable, optional
        Shown a `Progress` after every iteration; returning True ends the run.
    checkpoint : path, optional
        Write the whole state there, to ``.a.npz`` and ``.b.npz`` in turn, every minute, at Ctrl-C and at the
        end; a run that finds one goes on from it, to the same result as if it had never stopped. One run at
        a time.
    progress : bool
        Show a progress bar.

    Other Parameters
    ----------------
    refresh : int, optional
        Renew the curvature every so many iterations. By default a low-rank method does as soon as its Hessian
        products cost at most 15 % of the gradients so far (the first, cold start apart), a dense one at every
        iteration.
    warm : bool
        Start low-rank refreshes from the eigenvectors kept so far; True by default.
    noise_margin : float
        ``c`` in ``|lam_i| + c s_i``: damp kept eigenvalues by their sampling noise; 0 by default.
    eigensolver : {"block-krylov", "double-pass", "nystrom"}
        What a low-rank method starts cold with; see `st.randomized_eigh`.
    coupling : {"independent", "nested"}
        Whether the Hessian batch is drawn apart or is part of the gradient batch.
    sampling : {"epochs", "independent"}
        Gradient batches from shuffled epochs, or independent draws, as the theory of the iteration has them.
    device : {"cpu", "cuda"} or Backend
        Where the arrays live; ``"cuda"`` needs CuPy.
    dtype : {"float64", "float32"}, optional
        That of the objective where it has one (networks), else that of `start`.
    keep_every : int, optional
        Keep the iterate after every so many iterations.
    advise_every : int, optional
        Ask `st.advise` at the iterate after every so many iterations, with the step just taken:
        `History.advice`. Each time takes what it takes there, 60 gradients of 2,048 samples at most or a few
        seconds where all modes are taken, not counted as work.
    checkpoint_every : float
        Seconds between checkpoints; 60 by default.
    limits : bool, optional
        Predict the largest stable step whenever curvature is renewed, `History.step_limits`: about 20 Hessian
        products on all samples, where batches are drawn 60 gradients of 2,048 of them, which are not counted
        as work. By default only where it costs little: on small regression problems (of batches at most once
        in 16 iterations), and for steps on all samples, where a million numbers stand behind a product at
        most.
    check : bool
        Compare the gradient of an objective of one's own with its value at the start, by a few values that
        are not counted as work; True by default.

    Returns
    -------
    History

    Raises
    ------
    ValueError
        If an argument is out of range, Hessian products are not symmetric, or a checkpoint is damaged, in use
        by another run, or was made with other arguments or data.
    Interrupted
        At Ctrl-C, with the history so far in ``.result``.

    Warns
    -----
    StabilityWarning
        If the gradient is not the derivative of the value at the start.
    """
    options = choice.known(rare)
    objective = require(objective, "st.minimize", "dim", "value", "gradient")
    w, backend = _start(objective, start, options)
    own = {"momentum": momentum, "weight_decay": weight_decay, "decay": decay, "average": average}
    if isinstance(method, str):
        _check.choice("method", method, BASELINES)
        choice.refuse(
            f"SciPy's {method} works on all samples and chooses its own steps",
            step=step,
            batch=batch,
            hessian_batch=hessian_batch,
            refresh=options["refresh"],
            keep_every=options["keep_every"],
            advise_every=options["advise_every"],
            limits=options["limits"] or None,
            checkpoint=checkpoint,
            **own,
        )
        return baseline(
            objective,
            w,
            method,
            sweeps=sweeps,
            iterations=iterations,
            callback=callback,
            check=_check.flag("check", options["check"]),
        )
    if callback is not None and not callable(callback):
        raise ValueError(f"`callback` must be a function of a Progress; got {callback!r}.")
    stays = backend.name == "numpy" and backend.dtype == "float64"
    problem = Problem(objective if stays else moved(objective, backend), backend)
    size, other = choice.sizes(problem, batch, hessian_batch, options)
    passes, most = choice.budget(sweeps, iterations, problem)
    told = hessian_batch is not None
    planned = choice.planned(passes, most, size)
    chosen = choice.choose(
        method,
        step,
        own,
        options,
        problem,
        batch=size,
        hessian_batch=other,
        told=told,
        passes=passes,
        iterations=planned,
    )
    batches = Batches(
        problem.samples,
        size,
        chosen.hessian_batch,
        nested=options["coupling"] == "nested",
        epochs=options["sampling"] == "epochs",
        seed=_check.seed(seed),
    )
    keep_every = options["keep_every"]
    if keep_every is not None:
        kept = planned / _check.count("keep_every", keep_every)
        _check.room(
            f"{kept:.3g} kept iterates need", kept * problem.dim, advice="Give a larger `keep_every`."
        )
    plain = method.method if isinstance(method, Momentum) else method  # `momentum` may stand for it
    adviser = _adviser(objective, method, chosen, batches, problem.sampled, options, int(seed))
    plan = RunPlan(
        label=_label(chosen, plain),
        problem=problem,
        rule=chosen.rule,
        batches=batches,
        step=chosen.step,
        decay=chosen.decay,
        memory=chosen.memory,
        weight_decay=chosen.weight_decay,
        ridge=chosen.ridge,
        average=chosen.average,
        forecast=Forecast(
            problem,
            chosen.memory,
            chosen.weight_decay,
            chosen.ridge,
            size,
            int(seed),
            options["limits"],
        ),
        passes=passes,
        iterations=most,
        seed=int(seed),
        keep_every=keep_every,
        adviser=adviser,
        callback=callback,
        checkpoint=None if checkpoint is None else checkpoints.base(checkpoint),
        checkpoint_every=_check.nonnegative("checkpoint_every", options["checkpoint_every"]),
        identity={},
        digests={},
    )
    plan.identity.update(_identity(plan, plain, w))
    if plan.checkpoint is not None:
        plan.digests.update(data=checkpoints.fingerprint(objective), method=_digest(plain))
    if _check.flag("check", options["check"]):  # after all refusals: it calls the objective
        probe(problem.objective, w)
    with np.errstate(over="ignore", invalid="ignore"):  # a run that diverges says so in its status
        return _history(_carried_out(plan, w, progress))


def _start(objective: Any, start: Any, options: Rare) -> tuple[Any, Backend]:
    """The start (d,) among the arrays of its device and type."""
    own, dtype = trait(objective, "dtype"), options["dtype"]
    typed = own in DTYPES  # as networks are; others take what they are given
    if dtype is None:
        single = getattr(start, "dtype", None) == np.float32
        dtype = own if typed else "float32" if single else "float64"
    elif typed and dtype != own:
        raise ValueError(
            f"`dtype` must be the objective's own, {own}; got {dtype!r}. Build the objective with the other, "
            "or leave `dtype` out."
        )
    backend = backend_of(options["device"], _check.choice("dtype", dtype, DTYPES))
    return backend.asarray(_check.shaped("start", start, (int(objective.dim),))), backend


def _adviser(
    objective: Any,
    method: Any,
    chosen: choice.Choice,
    batches: Batches,
    sampled: bool,
    options: Rare,
    seed: int,
) -> Adviser | None:
    """Whom the run asks, where it is to ask."""
    if options["advise_every"] is None:
        return None
    every = _check.count("advise_every", options["advise_every"])
    require(objective, "advise_every", *(() if defines(objective, "products") else ("hvp",)))
    whole = None if chosen.rule.untuned else with_memory(method, chosen.memory, chosen.weight_decay)
    curved = sampled and whole is not None and whole.uses_hessian
    return Adviser(
        every,
        objective,
        whole,
        chosen.rule,
        chosen.memory,
        batches.batch if sampled else None,
        batches.hessian_batch if curved else None,
        seed,
    )


def _label(chosen: choice.Choice, method: Any) -> str:
    """How the history calls the method, with its momentum."""
    memory = chosen.memory
    if chosen.rule.untuned:
        return f"LRSFN(rank={chosen.rule.rank}), everything else measured"
    if memory is None:
        return repr(method)
    if getattr(method, "averaging", None):  # Adam has a mean of its own: `momentum` acts on its steps
        return f"{method!r} + {memory}"
    return repr(Momentum(method, memory.beta, nesterov=memory.nesterov))


def _identity(plan: RunPlan, method: Any, w: Any) -> dict[str, Any]:
    """What two runs must share for one to go on where the other stopped."""
    batches, memory = plan.batches, plan.memory
    return {
        "method": plan.label if plan.rule.untuned else repr(method),
        "gains": "" if plan.rule.by_residuals else _fingerprint(method),
        "objective": checkpoints.nameless(repr(plan.problem.objective)),
        "start": zlib.crc32(plan.problem.backend.host(w).tobytes()),
        "step": "'auto'" if plan.rule.untuned else repr(plan.step),
        "momentum": memory.beta if memory else 0.0,
        "nesterov": memory is not None and memory.nesterov,
        "weight_decay": plan.weight_decay,
        "decay": repr(plan.decay),
        "average": plan.average,
        "batch": batches.batch,
        "hessian_batch": batches.hessian_batch,
        "coupling": "nested" if batches.nested else "independent",
        "sampling": "epochs" if batches.epochs else "independent",
        "refresh": repr(getattr(plan.rule, "every", None)),  # None where a rule has no such option
        "warm": repr(getattr(plan.rule, "warm", None)),
        "noise_margin": repr(getattr(plan.rule, "margin", None)),
        "eigensolver": repr(getattr(plan.rule, "solver", None)),
        "sweeps": repr(plan.passes / plan.problem.samples),
        "iterations": repr(plan.iterations),
        "seed": plan.seed,
        "dtype": plan.problem.backend.dtype,
        "samples": plan.problem.samples,
        "keep_every": repr(plan.keep_every),
        "advise_every": repr(plan.adviser and plan.adviser.every),
    }


def _digest(method: Any) -> str | None:
    # What a metric shows of itself is all of it; older checkpoints have another digest of Adam.
    told = isinstance(method, Method) and not method.spectral
    return None if told else checkpoints.fingerprint(method)


def _fingerprint(method: Any) -> str:
    """A user's gain has no name: its values at some eigenvalues tell it from another."""
    if not isinstance(method, Method) or not method.spectral:
        return ""
    # Of both signs and several sizes, none of them round: formulas that agree at all of them are the same.
    lam = np.array([-7.0, -0.3, -1e-3, 1e-3, 0.2, 1.0, 30.0])
    with np.errstate(all="ignore"):
        return " ".join(f"{x:.6g}" for x in gains_at(method, lam))


def _carried_out(plan: RunPlan, w: Any, progress: bool) -> OptimizerRun:
    with checkpoints.claimed(plan.checkpoint):
        return _claimed(OptimizerRun(plan, w), progress)


def _claimed(run: OptimizerRun, progress: bool) -> OptimizerRun:
    """Go on from the run's checkpoint, if there is one, which is its own as long as it runs."""
    plan = run.plan
    if plan.checkpoint is not None and checkpoints.exists(plan.checkpoint):
        run.restore()
    try:
        with progress_bar(_check.flag("progress", progress), "minimize") as bar:
            if progress:
                run.plan.report = lambda share: bar.show(share, f"loss {run.log.losses[-1]:.4g}")
            run.go()
    except KeyboardInterrupt:
        run.ending = Ending(End.INTERRUPTED, f"interrupted after {run.iteration} iterations")
        if plan.checkpoint is not None and run.whole:
            with undisturbed():
                run.save()
        raise Interrupted(
            f"Interrupted: the history of {run.iteration} iterations is in this exception's `.result`.",
            _history(run),
        ) from None
    if plan.checkpoint is not None:
        run.save()
    return run


def _judged(run: OptimizerRun) -> tuple[Any, float, Ending]:
    """What a run returns, its loss, and how it ended."""
    problem, final = run.plan.problem, run.answer
    # Batch losses do not tell whether it is better than the start; the whole objective does, uncharged.
    before, loss = problem.value(run.start), problem.value(final)
    if loss < before or (loss == before and not run.plan.rule.untuned):
        return final, loss, run.ending
    if loss == before and run.ending.end is End.DONE and run.work.gradients:
        return final, loss, _unmoved(run, before)
    told = f"the loss rose from {before:.4g} to {loss:.4g}"
    if run.plan.rule.untuned:
        advice = "and the start is returned; use a method with a step of your own"
        return run.start, before, Ending(End.LOST, f"lost: {told}, {advice}")
    far = not math.isfinite(loss) or loss > RUNAWAY * abs(before) > 0
    if far and run.ending.end is not End.DIVERGED:  # which says more
        return final, loss, Ending(End.DIVERGED, f"diverged: {told}; lower the step")
    return final, loss, Ending(End.DONE, f"done, but {told}") if run.ending.end is End.DONE else run.ending


def _unmoved(run: OptimizerRun, before: float) -> Ending:
    """How a run of the untuned rule ended whose loss is what it was."""
    _, gradient = run.plan.problem.loss_and_gradient(run.start, None)
    if not float(namespace(gradient).sum(gradient**2)):
        return run.ending  # the start is a critical point: there was nothing to do
    told = f"no step brought the loss below {before:.4g}"
    return Ending(End.LOST, f"lost: {told}; give more sweeps, or use a method with a step of your own")


def _history(run: OptimizerRun) -> History:
    plan, log, host = run.plan, run.log, run.plan.problem.backend.host
    final, loss, ending = _judged(run)
    rank = plan.rule.rank
    stats: dict[str, Any] = {
        "gradients": run.work.gradients,
        "hessian_products": run.work.products,
        "values": run.work.values,
    }
    stats |= {"sweeps": run.work.passes / plan.problem.samples, "seconds": run.work.seconds}
    if rank:
        stats |= {
            "rank": rank,
            "hessian_batch": plan.batches.hessian_batch,
            "refreshes": len(log.refreshed_at),
        }
    stats |= plan.rule.told()
    if plan.rule.untuned:
        stats["rescues"] = run.rescues
    if run.unknown:
        stats["limit_unknown"] = run.unknown
    if run.unadvised:
        stats["advice_unknown"] = run.unadvised
    return History(
        losses=np.array(log.losses),
        sweeps=np.array(log.sweeps),
        seconds=np.array(log.seconds),
        steps=np.array(log.steps),
        final=host(final).copy(),
        loss=loss,
        states=np.array(log.states).reshape(len(log.states), plan.problem.dim),
        kept_at=np.array(log.kept_at, dtype=int),
        eigenvalues=np.array(log.eigenvalues).reshape(len(log.eigenvalues), rank),
        noise=np.array(log.noise).reshape(len(log.noise), rank),
        step_limits=np.array(log.step_limits),
        refreshed_at=np.array(log.refreshed_at),
        skipped=np.array(log.skipped, dtype=int),
        status="; ".join(filter(None, (ending.status, plan.rule.notice))),
        stats=stats,
        provenance=provenance(**plan.identity | {"method": plan.label}),
        end=ending.end,
        advice=_advice(log),
    )


def _advice(log: Log) -> dict[str, np.ndarray]:
    """What the run was advised, a column each; nothing where it did not ask."""
    if not log.advised_at:
        return {}
    asked = np.array(log.advised_at, dtype=int)
    names = ("step", *ADVISED)
    columns = dict(zip(names, np.array(log.advice).T, strict=True))
    return {"iteration": asked, "sweeps": np.array(log.sweeps)[asked - 1], **columns}
