"""One optimizer run: what it is made of, the state a checkpoint keeps, and the loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .. import _check
from .._array import namespace
from .._interrupts import undisturbed
from .._saving import save
from ..lowrank.operator import BadProducts, NotFinite
from ..lowrank.sample_space import Ridge
from ..methods.memory import Memory
from .asked import Adviser
from .batches import Batches, parts
from .checkpoint import Checkpoint, latest, nameless, slots
from .history import End, Ending
from .limits import SPARE, Forecast
from .options import Prospect, StepRule
from .problem import VALUE_COST, Problem, Progress, Work
from .rules import Course, Curvature, DirectionRule

GIVE_UP = 10
"""Steps in a row that would not have been finite before a run is called diverged."""
VECTORS = ("w", "velocity", "best", "sum")
"""What a checkpoint keeps of a run, where there is any, beside its log, rule and batches; and numbers."""
NUMBERS = ("iteration", "gathered", "ceiling", "unknown", "unadvised", "in_a_row", "rescues")
_LATER = ("samples", "keep_every", "advise_every")
"""Arguments that older checkpoints do not tell."""
_DIGESTS = {"start": "start", "gains": "method"}
"""Arguments of which a checkpoint has a digest alone."""
_UNADVISED = {"log advice": np.zeros((0, 1)), "log advised_at": np.zeros(0, dtype=int)}
DECAYS = {"linear": 1.0, "sqrt": 0.5}
"""Powers of what is left of the run that a decaying step is proportional to."""


@dataclass
class RunPlan:
    """What a run was asked to do."""

    label: str  # how its history calls the method
    problem: Problem
    rule: DirectionRule
    batches: Batches
    step: StepRule
    decay: str | None
    memory: Memory | None
    weight_decay: float  # of the weights themselves
    ridge: float  # of weight decay that is a part of the gradient
    average: float  # share of the run, at its end, whose mean iterate is returned; 0 for the last one
    forecast: Forecast
    passes: float  # the budget
    iterations: float  # at most; may be inf
    seed: int
    keep_every: int | None
    adviser: Adviser | None
    callback: Callable[[Progress], Any] | None
    checkpoint: Path | None
    checkpoint_every: float
    identity: dict[str, Any]  # what a checkpoint must have been made with
    digests: dict[str, str | None]  # and of which data and method, to the last bit
    report: Callable[[float], None] | None = None


@dataclass
class Log:
    """The lists that become a `History`."""

    losses: list[float] = field(default_factory=list)
    sweeps: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)
    eigenvalues: list[np.ndarray] = field(default_factory=list)
    noise: list[np.ndarray] = field(default_factory=list)
    step_limits: list[float] = field(default_factory=list)
    refreshed_at: list[float] = field(default_factory=list)
    skipped: list[int] = field(default_factory=list)
    states: list[np.ndarray] = field(default_factory=list)
    kept_at: list[int] = field(default_factory=list)
    advice: list[np.ndarray] = field(default_factory=list)
    advised_at: list[int] = field(default_factory=list)


class OptimizerRun:
    """The loop and its state."""

    def __init__(self, plan: RunPlan, w: Any):
        self.plan, self.start, self.w = plan, w, w
        self.velocity: Any = None
        self.gathered, self.sum = 0, None  # of the iterates that the mean is taken of
        self.iteration, self.work, self.log = 0, Work(), Log()
        self.ending = Ending(End.DONE, "done")
        self.ceiling, self.in_a_row = math.inf, 0
        self.unknown = ""  # why the limit is not known that was asked for last
        self.unadvised = ""  # the same of the adviser
        self.best: Any = None  # of what the rule has watched; none before, where it is the start
        self.rescues = 0  # how often the run went back there
        self.whole = True  # between iterations: what a checkpoint may keep
        self._data = {} if plan.checkpoint is None else self._fingerprint()
        self._saved_at, self._slot = time.perf_counter(), 0

    def go(self) -> None:
        """Iterate until the budget is spent, a callback says so, or nothing finite is left to do."""
        plan = self.plan
        while (
            self.work.passes < plan.passes * (1 - 1e-12)
            and self.iteration < plan.iterations
            and self.in_a_row < GIVE_UP
        ):
            self._ask()
            with undisturbed():
                self.whole, began = False, time.perf_counter()
                loss, step = self.iterate()
                self.work.seconds += time.perf_counter() - began
                self._record(loss, step)
                self.whole = True
            if plan.callback is not None and plan.callback(self._progress(loss, step)) is True:
                told = f"ended by the callback after iteration {self.iteration - 1}"
                self.ending = Ending(End.STOPPED, told)
                return
            if plan.checkpoint is not None and time.perf_counter() - self._saved_at >= plan.checkpoint_every:
                self.save()
        self._ask()
        if self.in_a_row and not any(self.log.steps):  # a short run that took no step is not done either
            told = "diverged at the start: the loss, its derivatives or the step are not finite there; "
            self.ending = Ending(End.DIVERGED, f"{told}take another start, or a smaller step")
        elif self.in_a_row >= GIVE_UP:
            told = f"diverged: {GIVE_UP} steps in a row would not have been finite, the first at iteration "
            self.ending = Ending(End.DIVERGED, f"{told}{self.iteration - GIVE_UP}")

    def _fingerprint(self) -> dict[str, Any]:
        """What tells the data and the method from others.

        Their digests; where no file can hold them, because they are a user's own, numbers that they say.
        """
        plan = self.plan
        loss, gradient = plan.problem.loss_and_gradient(self.w, None)
        data = f"loss {loss:.6g}, gradient {float(namespace(gradient).sum(gradient**2)) ** 0.5:.6g}"
        found: dict[str, Any] = {"data": data, "digests": plan.digests}
        return found if plan.digests["data"] else found | {"probes": self._probes()}

    def _probes(self) -> list[list[float]]:
        """Losses and slopes of random halves of the samples: in another order they are other halves."""
        problem, rng = self.plan.problem, np.random.default_rng(0)
        aside = rng.standard_normal(problem.dim) / math.sqrt(problem.dim)
        asarray, host = problem.backend.asarray, problem.backend.host
        at = self.w + asarray(1e-3 * (1 + float(np.abs(host(self.w)).max())) * aside)
        halves = [np.sort(rng.permutation(problem.samples)[: (problem.samples + 1) // 2]) for _ in range(3)]
        found = []
        for rows in halves if problem.sampled else [None]:
            loss, gradient = problem.loss_and_gradient(at, rows)
            slope = host(gradient).astype(float)
            found.append([loss, float(slope @ aside), float(np.linalg.norm(slope))])
        return found

    def iterate(self) -> tuple[float, float]:
        """One iteration; the step it took is 0 where that would not have been finite."""
        plan, problem = self.plan, self.plan.problem
        rows = plan.batches.gradient()
        loss, gradient = problem.loss_and_gradient(self.w, rows)
        self.work.gradients += 1
        self.work.gradient_passes += plan.batches.batch
        if self._lost(plan.rule.watch(loss, plan.batches.batch)):
            return loss, 0.0
        if not (math.isfinite(loss) and self._finite(gradient)):
            return loss, self._skip()
        if not self._has_curvature(rows):
            return loss, self._skip()
        direction, velocity = self._direction(gradient)
        prospect = self._prospect(loss, gradient, direction, rows)
        step = float(plan.step.length(prospect))  # a NumPy scalar would turn float32 states into float64
        ahead = self.w - step * direction
        if not self._finite(ahead):
            return loss, self._skip()
        self.w, self.velocity, self.in_a_row = ahead, velocity, 0
        return loss, step

    def _direction(self, gradient: Any) -> tuple[Any, Any]:
        """Where the step goes, along minus this, and what is gathered for the next ones."""
        plan, velocity = self.plan, None
        direction = plan.rule.direction(gradient + plan.ridge * self.w if plan.ridge else gradient)
        if plan.memory is not None:
            direction, velocity = plan.memory.gathered(direction, self.velocity)
        return direction + plan.weight_decay * self.w if plan.weight_decay else direction, velocity

    def _lost(self, said: Course) -> bool:
        """Go back to the best iterate, with nothing of what led away from it, where the run is lost."""
        if said is Course.BEST:
            self.best = self.w
        if said is not Course.LOST:
            return False
        self.w = self.start if self.best is None else self.best
        self.velocity, self.sum, self.gathered = None, None, 0
        self.rescues += 1
        return True

    def _finite(self, array: Any) -> bool:
        xp = namespace(array)
        # The sum is cheaper, but may overflow where no entry does.
        return bool(xp.isfinite(xp.sum(array))) or bool(xp.all(xp.isfinite(array)))

    def _skip(self) -> float:
        """The iterate stays; the momentum that led here is forgotten."""
        self.velocity = None
        self.in_a_row += 1
        self.log.skipped.append(self.iteration)
        return 0.0

    def _has_curvature(self, rows: np.ndarray | None) -> bool:
        """Renew the curvature where that is due; False where what came out can not be used here."""
        work = self.work
        left = self.plan.passes - work.passes
        if not self.plan.rule.due(self.iteration, work.gradient_passes, work.hessian_passes, left):
            return True
        try:
            if self.plan.rule.by_residuals:
                self._linearize(rows)
            else:
                self._refresh(rows)
        except BadProducts as error:
            # Products that are not symmetric from the beginning are no accident of this iterate.
            if not (isinstance(error, NotFinite) or work.products):
                raise
            return False
        return True

    def _linearize(self, rows: np.ndarray | None) -> None:
        """Every output's gradient is a pass of its own over the batch."""
        plan, (found, l2) = self.plan, self.plan.problem.residuals(self.w, rows)
        weight = l2 + plan.ridge
        self.work.gradient_passes += plan.batches.batch * found.blocks[0][1]
        plan.rule.linearize(found, Ridge(weight, self.w) if weight else None)

    def _refresh(self, rows: np.ndarray | None) -> None:
        plan, problem = self.plan, self.plan.problem
        at = plan.batches.hessian(rows) if problem.sampled else None
        w = self.w
        # The Hessian of all samples has no sampling noise: there is nothing for parts to tell.
        pieces: list[Any] = [at] if at is None or len(at) == problem.samples else parts(at)
        used = plan.batches.hessian_batch if at is None else sum(map(len, pieces))
        curvature = Curvature(
            parts=[problem.products(w, piece) for piece in pieces],
            dense=lambda: problem.hessian(w, at),
            dim=problem.dim,
            gradient_batch=plan.batches.batch,
            hessian_batch=used,
            samples=problem.samples,
            backend=problem.backend,
            seed=plan.seed + self.iteration,
        )
        before = plan.rule.last
        products = plan.rule.refresh(curvature, self.iteration)
        self.work.products += products
        self.work.hessian_passes += 2.0 * products * used
        self.ceiling = plan.rule.ceiling(plan.memory, plan.weight_decay)
        often = self.iteration // SPARE == before // SPARE
        limit, self.unknown = plan.forecast.at(w, plan.rule.root(), often=often)
        self.log.eigenvalues.append(plan.rule.eigenvalues.copy())
        self.log.noise.append(plan.rule.noise.copy())
        self.log.step_limits.append(limit)
        self.log.refreshed_at.append(self.work.passes / problem.samples)

    def _prospect(self, loss: float, gradient: Any, direction: Any, rows: np.ndarray | None) -> Prospect:
        """What the step rule may ask."""
        plan, eigenvalues = self.plan, self.plan.rule.eigenvalues

        def value(length: float) -> float:
            self.work.values += 1
            self.work.gradient_passes += VALUE_COST * plan.batches.batch
            return plan.problem.value(self.w - length * direction, rows)

        return Prospect(
            loss=loss,
            slope=lambda: float(namespace(gradient).sum(gradient * direction)),
            value=value,
            largest=abs(float(eigenvalues[0])) if len(eigenvalues) else math.nan,
            ceiling=self.ceiling,
            passes=self.work.passes,
            share=(1 - self._share()) ** DECAYS[plan.decay] if plan.decay else 1.0,
            iteration=self.iteration,
        )

    def _share(self) -> float:
        """How much of the run is over."""
        plan = self.plan
        spent = max((self.work.passes - plan.batches.batch) / plan.passes, self.iteration / plan.iterations)
        return min(max(spent, 0.0), 1.0)

    def _record(self, loss: float, step: float) -> None:
        log, plan = self.log, self.plan
        log.losses.append(loss)
        log.steps.append(step)
        log.sweeps.append(self.work.passes / plan.problem.samples)
        log.seconds.append(self.work.seconds)
        if plan.average and self._share() >= 1 - plan.average - 1e-12:
            self._gather()
        self.iteration += 1
        if plan.keep_every is not None and self.iteration % plan.keep_every == 0:
            log.states.append(plan.problem.backend.host(self.w).copy())
            log.kept_at.append(self.iteration)
        if plan.report is not None:
            plan.report(self._share())

    def _ask(self) -> None:
        """What is advised here, where that is due; not counted as work."""
        adviser, log, done = self.plan.adviser, self.log, self.iteration
        # A run that goes on from a checkpoint may have been cut short before it could ask.
        if adviser is None or done == 0 or done % adviser.every or done in log.advised_at[-1:]:
            return
        row, self.unadvised = adviser.at(self.plan.problem.backend.host(self.w), log.steps[-1])
        log.advice.append(row)
        log.advised_at.append(done)

    def _gather(self) -> None:
        self.gathered += 1
        if self.sum is None:
            self.sum = namespace(self.w).asarray(self.w, copy=True)
        else:
            self.sum += self.w

    @property
    def answer(self) -> Any:
        """The mean of the iterates that were to be averaged; the last one where there are none."""
        return self.w if self.sum is None else self.sum / self.gathered

    def _progress(self, loss: float, step: float) -> Progress:
        sweeps, eigenvalues = self.work.passes / self.plan.problem.samples, self.plan.rule.eigenvalues
        seen = eigenvalues if len(eigenvalues) else None
        return Progress(self.iteration - 1, sweeps, self.work.seconds, loss, step, self.w, seen)

    def save(self) -> None:
        """Write a checkpoint, as a whole or not at all; a full disk costs no more than this one."""
        assert self.plan.checkpoint is not None
        # Two files in turn: where one turns out to be damaged, the other is left.
        slot = 1 - self._slot
        try:
            save(self._state(), slots(self.plan.checkpoint)[slot])
            self._slot = slot
        except ValueError as error:
            _check.warn(f"{error} The run goes on without; its last whole checkpoint stays as it is.")
        self._saved_at = time.perf_counter()

    def _state(self) -> Checkpoint:
        """All that `restore` needs."""
        plan, host = self.plan, self.plan.problem.backend.host
        rule, batches = plan.rule.state(), plan.batches.state()
        vectors = {name: getattr(self, name) for name in VECTORS}
        arrays = {name: host(value) for name, value in vectors.items() if value is not None}
        arrays["queue"] = batches.pop("queue")
        arrays |= {f"log {name}": np.asarray(values) for name, values in vars(self.log).items()}
        arrays |= {f"rule {name}": host(value) for name, value in rule.items() if np.shape(value)}
        values = {
            "identity": plan.identity | self._data,
            "work": vars(self.work),
            "streams": batches["streams"],
            "rule": {name: value for name, value in rule.items() if f"rule {name}" not in arrays},
            **{name: getattr(self, name) for name in NUMBERS},
        }
        return Checkpoint(arrays, values)

    def restore(self) -> None:
        """Go on from the plan's checkpoint.

        Raises
        ------
        ValueError
            If it is damaged, or was made with other arguments.
        """
        plan, asarray = self.plan, self.plan.problem.backend.asarray
        assert plan.checkpoint is not None
        self._slot, found = latest(plan.checkpoint)
        # Older checkpoints call the ceiling a limit, and know of no advice.
        told = {"ceiling": found.values.get("limit"), "unknown": "", "unadvised": ""}
        arrays, values = {**_UNADVISED, **found.arrays}, {**told, **found.values}
        try:
            self._compare(values["identity"])
            _check.shaped("w", arrays["w"], (plan.problem.dim,))
            for name in VECTORS:
                setattr(self, name, asarray(arrays[name]) if name in arrays else None)
            for name in NUMBERS:
                setattr(self, name, values[name])
            held = {name[5:]: array for name, array in arrays.items() if name.startswith("rule ")}
            rule = dict(values["rule"]) | held
            plan.rule.restore(rule, plan.problem.backend)
            plan.batches.restore({"queue": arrays["queue"], "streams": values["streams"]})
            self.log = Log(**{name: list(arrays[f"log {name}"]) for name in vars(self.log)})
            self.work = Work(**values["work"])
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{plan.checkpoint} is not the checkpoint of a run ({type(error).__name__}: {error}). Delete "
                "it to start anew."
            ) from None

    def _compare(self, identity: dict[str, Any]) -> None:
        """Refuse a checkpoint of another run; what its version did not write cannot be compared."""
        # Older checkpoints have another name for the start, and were made when there was no more to choose.
        made = {"start": identity.get("w0"), "nesterov": False, "weight_decay": 0.0, **identity}
        own = self.plan.identity | {"data": self._data["data"]}
        # Causes before what they change: of another `dtype` the start's digest differs, of another start the
        # loss there.
        order = [*(name for name in own if name not in _DIGESTS and name != "data"), *_DIGESTS, "data"]
        for name, value in ((name, own[name]) for name in order):
            if name in _LATER and name not in made:
                continue
            if nameless(made.get(name)) != nameless(value):
                told = f"`{name}` = {made.get(name)!r}, this run has {value!r}"
                if name in _DIGESTS:
                    told = f"another `{_DIGESTS[name]}`"
                raise ValueError(
                    f"The checkpoint {self.plan.checkpoint} was made with {told}. Use the same arguments, or "
                    "another `checkpoint`."
                )
        digests = made.get("digests", {})
        for name, value in self.plan.digests.items():
            if digests.get(name) and value and digests[name] != value:
                raise self._of_another(name)
        if not (digests.get("data") and self.plan.digests["data"]) and "probes" in made:
            accuracy = 1e-5 if self.plan.problem.backend.dtype == "float32" else 1e-11
            before, now = np.array(made["probes"]), np.array(self._probes())
            size = np.abs(before).max(axis=0)
            if before.shape != now.shape or not np.all(np.abs(before - now) <= accuracy * size):
                raise self._of_another("data")

    def _of_another(self, name: str) -> ValueError:
        what = "data, or of the same in another order" if name == "data" else name
        return ValueError(
            f"The checkpoint {self.plan.checkpoint} was made of other {what}. Use what it was made of, or "
            "another `checkpoint`."
        )
