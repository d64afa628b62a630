"""Minimize an objective on minibatches, matrix-free, by the methods whose stability the theory describes."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import _check
from .._array import Backend, backend_of, moved
from .._check import Interrupted
from .._progress import progress_bar
from .._saving import provenance
from ..methods.method import LRSFN, Method
from ..objectives.base import require, trait
from . import auto
from .auto import AutoRule
from .baselines import BASELINES, baseline
from .batches import Batches
from .checkpoint import slots
from .history import End, Ending, History
from .options import Adam, Armijo, FixedStep, SpectralStep
from .problem import Problem, Progress
from .rules import AdamRule, DenseRule, LowRankRule, Rule
from .run import DECAYS, Run, RunPlan

RUNAWAY = 100.0
"""A run whose loss ends so many times what it began with has diverged."""
DENSE_DIM = 3000
"""Largest dimension in which a method that needs the whole spectrum is run: one Hessian takes 72 MB there."""


def minimize(
    objective: Any,
    w0: Any,
    *,
    method: Method | Adam | str | None = None,
    step: float | str | SpectralStep | Armijo = "auto",
    batch: int | None = None,
    hessian_batch: int | None = None,
    sweeps: float | None = None,
    iterations: int | None = None,
    momentum: float = 0.0,
    decay: str | None = None,
    average: bool | float = False,
    refresh: int | None = None,
    warm: bool = True,
    noise_margin: float = 0.0,
    eigensolver: str = "block-krylov",
    coupling: str = "independent",
    sampling: str = "epochs",
    seed: int = 0,
    device: str | Backend = "cpu",
    dtype: str | None = None,
    keep_every: int | None = None,
    callback: Callable[[Progress], Any] | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: float = 60.0,
    progress: bool = False,
) -> History:
    """Run an optimizer and say what it cost, what curvature it saw, and how large a step it could have taken.

    Parameters
    ----------
    objective : Objective
        With ``value``, ``gradient`` and, for second-order methods, ``hvp``; with samples (``n_samples``) it
        is run on minibatches. `st.mlp`, `st.autoencoder`, `st.logistic`, `st.least_squares`, or your own.
    w0 : array, shape (d,)
    method : Method, Adam or str, optional
        The theory's own methods: `st.SGD()`, `st.LRSFN(rank=..., damping=...)` and other truncated ones
        matrix-free; `st.Newton()`, `st.SFN(...)` and other full spectral ones with the whole Hessian, in at
        most 3000 dimensions. `st.Adam()`. SciPy's ``"L-BFGS-B"`` and ``"Newton-CG"`` as deterministic
        baselines on all samples. With ``step="auto"`` LRSFN, of which only the rank is read; by default the
        rank is chosen too.
    step : float, SpectralStep, Armijo or "auto"
        The learning rate, a rule, or ``"auto"``: rank, damping, step, momentum and refreshes from the
        curvature and its sampling noise as measured, nothing to tune; the step falls to zero over the run,
        stays below the predicted mean-square limit, and the mean of the last fifth of the iterates is
        returned.
    batch, hessian_batch : int, optional
        Samples per gradient and per Hessian batch; all samples, and `batch`, by default.
    sweeps, iterations : number
        When to stop: work in passes over all samples (see `History`), or iterations. At least one is needed.
    momentum : float
        Heavy ball: ``v+ = momentum * v + P g``, ``w+ = w - step * v+``.
    decay : {"linear", "sqrt"}, optional
        Let the step fall to zero over the run, in proportion to what is left of it or to the root of that.
    average : bool or float
        Return the mean of the last half of the iterates, or of this share of the run: it removes most of the
        noise of a constant step. A run that ends sooner than planned, before any of these, returns its last
        iterate.
    refresh : int, optional
        Renew the curvature every so many iterations. By default a low-rank method does as soon as its Hessian
        products cost at most 15 % of the gradients so far (the first, cold start apart), a dense one at every
        iteration.
    warm : bool
        Start low-rank refreshes from the eigenvectors kept so far.
    noise_margin : float
        ``c`` in ``|lam_i| + c s_i``: damp kept eigenvalues by their sampling noise.
    eigensolver : {"block-krylov", "double-pass", "nystrom"}
        What a low-rank method starts cold with; see `st.randomized_eigh`.
    coupling : {"independent", "nested"}
        Whether the Hessian batch is drawn apart or is part of the gradient batch.
    sampling : {"epochs", "independent"}
        Gradient batches from shuffled epochs, or independent draws, as the theory of the iteration has them.
    seed : int
        Same seed, same numbers.
    device : {"cpu", "cuda"} or Backend
        Where the arrays live; ``"cuda"`` needs CuPy.
    dtype : {"float64", "float32"}, optional
        That of the objective where it has one (networks), else that of `w0`.
    keep_every : int, optional
        Keep the iterate after every so many iterations.
    callback : callable, optional
        Shown a `Progress` after every iteration; returning True ends the run.
    checkpoint : path, optional
        Write the whole state there every `checkpoint_every` seconds, at Ctrl-C and at the end; a run that
        finds one goes on from it, to the same result as if it had never stopped.
    checkpoint_every : float
        Seconds.
    progress : bool
        Show a progress bar.

    Returns
    -------
    History

    Raises
    ------
    ValueError
        If an argument is out of range, Hessian products are not symmetric, or a checkpoint does not fit.
    Interrupted
        At Ctrl-C, with the history so far in ``.result``.

    Examples
    --------
    >>> import stability as st
    >>> F = st.quadratic([100.0, 1.0, -0.01])
    >>> history = st.minimize(F, [1.0, 1.0, 1e-3], method=st.SFN(damping=1e-6), step=1.0, iterations=3)
    >>> bool(abs(history.final[2]) > 5e-3)  # the saddle's flat descent direction doubles at every step
    True
    """
    w, backend = _start(objective, w0, device, dtype)
    if isinstance(method, str):
        _check.choice("method", method, BASELINES)
        given = {
            "batch": batch,
            "hessian_batch": hessian_batch,
            "decay": decay,
            "refresh": refresh,
            "keep_every": keep_every,
            "checkpoint": checkpoint,
        }
        own = {name: value is not None for name, value in given.items()} | {
            "step": step != "auto",
            "momentum": momentum != 0,
            "average": average is not False,
        }
        _only_defaults(f"SciPy's {method} works on all samples and chooses its own steps", **own)
        return baseline(objective, w, method, sweeps=sweeps, iterations=iterations, callback=callback)
    problem = Problem(
        objective if backend.name == "numpy" and backend.dtype == "float64" else moved(objective, backend),
        backend,
    )
    sizes = _sizes(problem, batch, hessian_batch, coupling, sampling)
    passes, most = _budget(sweeps, iterations, problem, sizes[0], w)
    seed = _check.count("seed", seed, least=0)
    if callback is not None and not callable(callback):
        raise ValueError(f"`callback` must be a function of a Progress; got {callback!r}.")
    automatic = isinstance(step, str)
    if automatic:
        own = {
            "momentum": momentum != 0,
            "decay": decay is not None,
            "average": average is not False,
            "noise_margin": noise_margin != 0,
        }
        _only_defaults("step='auto' chooses momentum, schedule and averaging", **own)
    options = _Options(refresh, warm, noise_margin, eigensolver)
    rule, hessian = _rule(method, step, problem, sizes, passes, options, hessian_batch is not None)
    plan = RunPlan(
        problem=problem,
        rule=rule,
        batches=Batches(
            problem.samples,
            sizes[0],
            hessian,
            nested=coupling == "nested",
            epochs=sampling == "epochs",
            seed=seed,
        ),
        step=rule
        if isinstance(rule, AutoRule)
        else step
        if isinstance(step, (SpectralStep, Armijo))
        else FixedStep(_check.positive("step", step)),
        decay=auto.DECAY
        if automatic
        else None
        if decay is None
        else _check.choice("decay", decay, tuple(DECAYS)),
        momentum=auto.MOMENTUM if automatic else _check.fraction("momentum", momentum),
        average=auto.AVERAGE if automatic else _averaged(average),
        passes=passes,
        iterations=most,
        seed=seed,
        keep_every=None if keep_every is None else _check.count("keep_every", keep_every),
        callback=callback,
        checkpoint=None if checkpoint is None else _base(checkpoint),
        checkpoint_every=_check.nonnegative("checkpoint_every", checkpoint_every),
        identity={},
    )
    if isinstance(step, SpectralStep) and not rule.rank:
        raise ValueError(
            "SpectralStep needs the eigenvalues of a low-rank method. Use method=st.LRSFN(...), or a number."
        )
    plan.identity.update(_identity(plan, method, w, step))
    with np.errstate(over="ignore", invalid="ignore"):  # a run that diverges says so in its status
        return _history(_carried_out(plan, w, progress), method)


def _start(objective: Any, w0: Any, device: str | Backend, dtype: str | None) -> tuple[Any, Backend]:
    require(objective, "st.minimize", "dim", "value", "gradient")
    own = trait(objective, "dtype")
    if dtype is None:
        dtype = (
            own
            if own in ("float64", "float32")
            else "float32"
            if getattr(w0, "dtype", None) == np.float32
            else "float64"
        )
    elif own in ("float64", "float32") and dtype != own:
        raise ValueError(
            f"`dtype` must be the objective's own, {own}; got {dtype!r}. Build the objective with the other, "
            "or leave `dtype` out."
        )
    backend = backend_of(device, _check.choice("dtype", dtype, ("float64", "float32")))
    return backend.asarray(_check.shaped("w0", w0, (int(objective.dim),))), backend


def _averaged(average: Any) -> float:
    """The share of the run whose mean is returned."""
    if isinstance(average, (bool, np.bool_)):
        return 0.5 if average else 0.0
    if not isinstance(average, (int, float)) or not 0 < average <= 1:
        raise ValueError(
            f"`average` must be True or False, or a share of the run in (0, 1]; got {average!r}."
        )
    return float(average)


def _sizes(
    problem: Problem, batch: int | None, hessian_batch: int | None, coupling: str, sampling: str
) -> tuple[int, int]:
    _check.choice("coupling", coupling, ("independent", "nested"))
    _check.choice("sampling", sampling, ("epochs", "independent"))
    if not problem.sampled:
        if batch is not None or hessian_batch is not None:
            raise ValueError(
                f"{problem.objective!r} has no samples to draw batches from. Leave `batch` and "
                "`hessian_batch` out."
            )
        return 1, 1
    own = (
        problem.samples
        if batch is None
        else _check.count("batch", batch, most=problem.samples, why="the samples")
    )
    other = (
        own
        if hessian_batch is None
        else _check.count("hessian_batch", hessian_batch, most=problem.samples, why="the samples")
    )
    if coupling == "nested" and other > own:
        raise ValueError(
            f"A nested Hessian batch lies inside the gradient batch: `hessian_batch` must be <= {own}; got "
            f"{other}."
        )
    return own, other


def _budget(
    sweeps: float | None, iterations: int | None, problem: Problem, batch: int, w: Any
) -> tuple[float, float]:
    if sweeps is None and iterations is None:
        raise ValueError("Say when to stop: give `sweeps` (passes over all samples) or `iterations`.")
    passes = math.inf if sweeps is None else _check.positive("sweeps", sweeps) * problem.samples
    return passes, math.inf if iterations is None else _check.count("iterations", iterations, least=0)


class _Options(NamedTuple):
    """How curvature is renewed."""

    refresh: int | None
    warm: bool
    noise_margin: float
    eigensolver: str

    def check(self) -> None:
        """The errors that every method raises."""
        if self.refresh is not None:
            _check.count("refresh", self.refresh)
        _check.flag("warm", self.warm)
        _check.nonnegative("noise_margin", self.noise_margin)
        _check.choice("eigensolver", self.eigensolver, ("block-krylov", "double-pass", "nystrom"))

    def refuse(self, reason: str, *names: str) -> None:
        """An error where one of these was given, and would have been ignored."""
        _only_defaults(reason, **{name: getattr(self, name) != getattr(_DEFAULTS, name) for name in names})


_DEFAULTS = _Options(None, True, 0.0, "block-krylov")


def _rule(
    method: Method | Adam | None,
    step: Any,
    problem: Problem,
    sizes: tuple[int, int],
    passes: float,
    options: _Options,
    chosen: bool,
) -> tuple[Rule, int]:
    """The direction rule, and the size of its Hessian batches."""
    options.check()
    if isinstance(step, str):
        _check.choice("step", step, ("auto",))
        require(problem.objective, "step='auto'", "hvp")
        options.refuse("step='auto' decides when and how to refresh", *_Options._fields)
        return _automatic(method, problem, sizes, passes, chosen)
    if not isinstance(method, (Method, Adam)):
        raise ValueError(
            "`method` must be a method such as st.SGD() or st.LRSFN(...), st.Adam(), or one of "
            f"{', '.join(BASELINES)}; got {method!r}."
        )
    if isinstance(method, Adam) or method.is_identity:
        options.refuse(f"{method.label} knows no curvature", *_Options._fields)
        return (AdamRule(method) if isinstance(method, Adam) else Rule()), sizes[1]
    require(problem.objective, method.label, "hessian" if method.rank is None else "hvp")
    if method.rank is not None:
        _check.count("rank", method.rank, most=problem.dim, why="the dimension")
        return LowRankRule(
            method,
            every=options.refresh,
            warm=options.warm,
            margin=options.noise_margin,
            solver=options.eigensolver,
        ), sizes[1]
    options.refuse(f"{method.name} uses the whole spectrum", "warm", "noise_margin", "eigensolver")
    if problem.dim > DENSE_DIM:
        raise ValueError(
            f"{method.name} needs the whole spectrum, in at most {DENSE_DIM} dimensions; here are "
            f"{problem.dim}. Use st.LRSFN(rank=..., damping=...)."
        )
    return DenseRule(method, 1 if options.refresh is None else options.refresh), sizes[1]


def _automatic(
    method: Any, problem: Problem, sizes: tuple[int, int], passes: float, chosen: bool
) -> tuple[Rule, int]:
    if method is not None and not isinstance(method, LRSFN):
        raise ValueError(
            f"step='auto' is a rule for low-rank saddle-free Newton; {getattr(method, 'label', method)!r} "
            "needs a number. Leave `method` out."
        )
    if math.isinf(passes):
        raise ValueError("step='auto' plans over the whole run: give `sweeps`.")
    rank = (
        auto.auto_rank(passes, problem.dim)
        if method is None
        else _check.count("rank", method.rank, most=problem.dim, why="the dimension")
    )
    size = sizes[1] if chosen else auto.auto_hessian_batch(rank, problem.samples, passes)
    first = 2.0 * size * min(2 * rank, problem.dim)
    if (chosen or method is not None) and first > 0.5 * passes:
        raise ValueError(
            f"`hessian_batch` of {size} at rank {rank} spends {first / problem.samples:.3g} of "
            f"{passes / problem.samples:.3g} sweeps on the first "
            "decomposition. Take fewer samples or a lower rank, more sweeps, or leave both out."
        )
    return AutoRule(rank, passes), size


def _only_defaults(reason: str, **given: bool) -> None:
    for name, is_given in given.items():
        if is_given:
            raise ValueError(f"{reason}: leave `{name}` out.")


def _identity(plan: RunPlan, method: Any, w: Any, step: Any) -> dict[str, Any]:
    """What two runs must share for one to go on where the other stopped."""
    batches = plan.batches
    return {
        "method": f"LRSFN(rank={plan.rule.rank}), everything else measured"
        if plan.rule.untuned
        else repr(method),
        "gains": _fingerprint(method),
        "objective": repr(plan.problem.objective),
        "w0": zlib.crc32(plan.problem.backend.host(w).tobytes()),
        "step": repr(step if isinstance(step, (str, SpectralStep, Armijo)) else float(step)),
        "momentum": plan.momentum,
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
    }


def _fingerprint(method: Any) -> str:
    """A user's gain has no name: its values at some eigenvalues tell it from another."""
    if not isinstance(method, Method):
        return ""
    lam = np.array([-7.0, -0.3, -1e-3, 1e-3, 0.2, 1.0, 30.0])
    with np.errstate(all="ignore"):
        return " ".join(
            f"{x:.6g}" for x in np.broadcast_to(np.asarray(method.gain(lam), dtype=float), lam.shape)
        )


def _base(checkpoint: str | Path) -> Path:
    """What the checkpoint's files have in common, where one of them was named."""
    path = Path(checkpoint)
    for endings in ((".json", ".npz"), (".a", ".b")):
        path = path.with_suffix("") if path.suffix in endings else path
    return path


def _carried_out(plan: RunPlan, w: Any, progress: bool) -> Run:
    run = Run(plan, w)
    if plan.checkpoint is not None and any(
        place.with_name(place.name + ".json").exists() for place in slots(plan.checkpoint)
    ):
        run.restore()
    try:
        with progress_bar(_check.flag("progress", progress), "minimize") as bar:
            if progress:
                run.plan.report = lambda share: bar.show(share, f"loss {run.log.losses[-1]:.4g}")
            run.go()
    except KeyboardInterrupt:
        run.ending = Ending(End.INTERRUPTED, f"interrupted after {run.iteration} iterations")
        if plan.checkpoint is not None and run.whole:
            run.save()
        raise Interrupted(
            f"Interrupted: the history of {run.iteration} iterations is in this exception's `.result`.",
            _history(run, None),
        ) from None
    if plan.checkpoint is not None:
        run.save()
    return run


def _judged(run: Run) -> tuple[Any, float, Ending]:
    """What a run returns, its loss, and how it ended: whether that is better than the start is known only
    now (and not charged).
    """
    problem, final = run.plan.problem, run.answer
    before, loss = problem.value(run.start), problem.value(final)
    if loss <= before:
        return final, loss, run.ending
    told = f"the loss rose from {before:.4g} to {loss:.4g}"
    if run.plan.rule.untuned:
        advice = "and the start is returned; use a method with a step of your own"
        return run.start, before, Ending(End.LOST, f"lost: {told}, {advice}")
    far = not math.isfinite(loss) or loss > RUNAWAY * abs(before) > 0
    if far and run.ending.end is not End.DIVERGED:  # which says more
        return final, loss, Ending(End.DIVERGED, f"diverged: {told}; lower the step")
    return final, loss, Ending(End.DONE, f"done, but {told}") if run.ending.end is End.DONE else run.ending


def _history(run: Run, method: Any) -> History:
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
    if plan.rule.untuned:
        stats["rescues"] = run.rescues
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
        status=ending.status,
        stats=stats,
        provenance=provenance(**plan.identity),
        end=ending.end,
    )
