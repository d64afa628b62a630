"""Advice where all modes are taken: dense linear theory at any state, along what decays there."""

from __future__ import annotations

import contextlib
import copy
import functools
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import _check
from .._estimate import Estimate
from .._saving import provenance
from .._streams import stream
from ..flow import Flow
from ..linear.dynamics import Dynamics
from ..linear.frames import Frame
from ..linear.held import held_limit
from ..linear.limits import Limits
from ..linear.modes import Turned, mode_limits
from ..linear.moments import embedded
from ..methods.memory import Memory
from ..methods.metrics import GradientLaw
from ..noise import DataNoise, GaussianInputs, Noise
from ..objectives.base import defines
from ..objectives.gate import bare
from .closure import Blocks, Closed, gathered
from .noise import ratio, slope_of
from .optimizer import ANSWERS, Optimizer
from .place import drawn
from .result import CARRIES, INTERRUPTED, Advice, told
from .standing import settled

MODES = 34
"""Most modes of noise that is known by whole matrices alone."""
DENSE = 300
"""Most modes of noise in closed form, and of none."""
WORK = 4e8
"""Most n o d^2 of data whose samples have a few rows of curvature each; a tenth of it with momentum."""
_MATRICES = 4e7  # numbers in all samples' Hessians
_DRAWN = 100  # batches
_EASY = 5e6  # work that other batch sizes may cost again


def within_reach(objective: Any, method: Any, kind: type[Noise] | None) -> bool:
    """Whether all modes may be taken in seconds, of noise of this class."""
    dim = int(objective.dim)
    if not defines(objective, "hessian"):
        return False
    if kind is None or kind in (Noise, GaussianInputs):
        return dim <= DENSE
    if kind is not DataNoise:
        return dim <= MODES
    if not all(hasattr(bare(objective), name) for name in ("per_sample_gradient", "per_sample_hessian")):
        return False
    number = int(objective.n_samples)
    if dim <= MODES:
        return number * dim**2 <= _MATRICES
    if not hasattr(objective, "hessian_factors"):
        return False
    plain = method.memory is None and getattr(method, "averaging", None) is None
    return number * objective.outputs * dim**2 <= (WORK if plain else 0.1 * WORK)


class Here(Dynamics):
    """The dynamics at a state that need not be critical: along modes that decay, noise as it is there."""

    @functools.cached_property
    def moving(self) -> np.ndarray:
        # What grows has no law to settle in: it is left out here, and told of in a note.
        return ~self.flat & (self.rates < 0)

    @property
    def source(self) -> np.ndarray:
        return self.noise.additive


class Exact:
    """What linear theory says at a state, of all its modes.

    Parameters
    ----------
    objective : Objective
    w : array (d,)
    method : Method
    noise : Noise
        With its batch sizes.
    step : float
    horizon : int
    seed : int
    """

    def __init__(
        self,
        objective: Any,
        w: np.ndarray,
        method: Any,
        noise: Noise,
        *,
        step: float,
        horizon: int,
        seed: int,
    ):
        self.began = time.perf_counter()
        self.flow = Flow(objective, method, noise, step=step)
        self.w, self.horizon, self.seed = w, horizon, seed
        dim = len(w)
        hessian = _check.shaped("hessian", objective.hessian(w), (dim, dim), at=w)
        self.hessian = _check.symmetric("hessian", hessian)
        self.gradient = _check.shaped("gradient", objective.gradient(w), (dim,), at=w)
        self.flow.noise_model.check_declared(dim)
        self.single = _at_batch(self.flow.noise_model, 1)
        self.covariance = self.single.gradient_covariance(w, w)
        self.here = self._dynamics(self.flow)
        self.limits = Limits(self.here)
        self.reasons: dict[str, str] = {}
        self.estimates: dict[str, tuple[float, float]] = {}
        self.found: dict[str, Any] = {"exact": True}
        # Signs and the like have no second moments.
        follows = not method.spectral and method.linear
        self.notes: list[str] = [ANSWERS] if follows else []

    def _dynamics(self, flow: Flow) -> Here:
        method: Any = flow.method
        if method.spectral:
            values, vectors = np.linalg.eigh(self.hessian)
            order = np.argsort(-np.abs(values), kind="stable")
            frame = Frame.spectral(method, values[order], vectors[:, order])
            return Here(flow, self.w, frame, Turned(flow.noise_model, self.w, frame.vectors))
        noise, hessian = flow.noise_model, self.hessian
        if not method.decoupled:
            hessian = hessian + method.weight_decay * np.eye(len(hessian))
        batch = noise.scales[0] / self.single.scales[0] if self.single.scales[0] else 0.0
        covariance = batch * self.covariance
        variances = GradientLaw(covariance).variances
        square = variances + self.gradient**2 if method.linear else variances
        metric = settled(method, square, lambda still: bool(np.any(hessian[:, still])))
        if not method.linear:
            moved = np.ix_(metric > 0, metric > 0)
            kicks = np.zeros_like(covariance)
            kicks[moved] = method.kicks(covariance[moved])
            noise = Noise(gradient=kicks)
        frame = Frame.diagonal(metric, hessian)
        return Here(flow, self.w, frame, Turned(noise, self.w, frame.vectors, skew=True))

    @functools.cached_property
    def preconditioner(self) -> np.ndarray:
        """``P`` (d, d)."""
        frame = self.here.frame
        if frame.metric is not None:
            return np.diag(frame.metric)
        return (frame.vectors * frame.gains) @ frame.vectors.T

    # -- limits ------------------------------------------------------------------------------------

    def take_limits(self) -> None:
        """The mean-square limit, and what it is made of."""
        here = self.here
        values, gains = here.frame.eigenvalues, here.frame.gains
        self.found["sharpness"] = float(np.linalg.eigvalsh(self.hessian)[-1])
        order = np.argsort(-gains * values)
        self.found["curvatures"] = (gains * values)[order]
        self.found["preconditioned_sharpness"] = float((gains * values)[order][0])
        if not here.moving.any():
            self.reasons["step_limit"] = "no direction decays: this is no place to stay at"
            return
        limit, leading = self.limits.mean_square(1)
        self.found["step_limit"], self.found["step_limit_bracket"] = limit, (limit, limit)
        self.found["confidence"] = 1.0
        self.found["deterministic_limit"] = self.limits.mean()
        self.found["mode_limits"] = self._alone()[order]
        self._heaviest(leading)
        self._other_batches()
        if (rising := int(np.sum(here.rates > 0))) > 0:
            self.notes.append(
                f"{_check.counted(rising, 'direction')} of negative curvature: along them the iterate leaves "
                "at any step, slowly; the limit is of the others."
            )

    def _alone(self) -> np.ndarray:
        """Limits of single modes (d,)."""
        here = self.here
        frame, scales = here.frame, here.noise.noise.scales
        spread = np.zeros(len(frame.eigenvalues))
        if here.noise.kick is not None:
            with contextlib.suppress(NotImplementedError):
                spread = np.diag(here.noise.sample_spread()) ** 2
        memory = here.memory or Memory(0.0)
        slopes = np.diag(frame.response.divided) if here.noise.bends else 0.0
        found = mode_limits(
            frame.gains,
            frame.eigenvalues,
            slopes=slopes,
            gradient=scales[0] * spread,
            hessian=scales[2] * spread if here.noise.bends else 0.0,
            momentum=memory.beta,
            nesterov=memory.nesterov,
            weight_decay=here.decoupled,
        )
        # In a running mean a force weighs 1 - beta: the step may be as much longer.
        return np.where(np.isfinite(found), found / memory.weight, np.nan)

    def _heaviest(self, leading: np.ndarray) -> None:
        """What of the limit's noise the heaviest sample makes, of data."""
        noise, V = self.here.noise.noise, self.here.frame.vectors
        if not isinstance(noise, DataNoise) or not noise.scales[0]:
            return
        M, F = V @ leading @ V.T, noise.objective
        each = _fed(F, self.w, M)
        if each is not None and each.sum() > 0:
            self.found["sample_share"] = float(each.max() / each.sum())
            if each.max() > CARRIES * each.sum():
                self.found["limit_without_heaviest"] = self._without(noise, int(np.argmax(each)))

    def _without(self, noise: DataNoise, sample: int) -> float:
        """The limit of all samples but one; nan of metrics that single samples turn."""
        method, d = self.flow.method, len(self.w)
        F: Any = noise.objective
        if method.spectral and not method.is_identity:
            return math.nan
        metric = np.ones(d) if self.here.frame.metric is None else self.here.frame.metric
        root, beside = np.sqrt(metric), 0.0 if method.spectral or method.decoupled else method.weight_decay
        others = np.delete(np.arange(F.n_samples), sample)
        number = math.inf if noise.replacement else len(others)
        share = drawn(noise.batch, number)
        if hasattr(F, "hessian_factors"):
            rows = F.hessian_factors(self.w)[others] * root
            ridge = (float(F.l2) + beside) * np.diag(metric)
            return held_limit(rows, ridge, share, self.here.memory, self.here.decoupled)
        if d > MODES:
            return math.nan
        curvatures = root[:, None] * F.per_sample_hessian(self.w)[others] * root + beside * np.diag(metric)
        blocks, _ = Blocks.of(curvatures, curvatures.mean(axis=0), 0)
        return Closed(blocks.positive(), share, self.here.memory, self.here.decoupled).leader.limit

    def _other_batches(self) -> None:
        noise = self.flow.noise_model
        if math.isinf(noise.batch) or not noise.has_curvature:
            return
        work = 1.0
        if isinstance(noise, DataNoise) and noise.by_samples:
            n, rank = noise.samples_shape
            work = n * rank * len(self.w) ** 2 * (10 if self.here.memory else 1)
        factors = (0.25, 0.5, 2.0, 4.0, 8.0) if work <= _EASY else (4.0,)
        most = math.inf
        if isinstance(noise, DataNoise) and not noise.replacement:
            most = noise.objective.n_samples  # type: ignore[attr-defined]
        sizes = sorted({max(1, round(noise.batch * factor)) for factor in factors} | {int(noise.batch)})
        sizes = [size for size in sizes if size <= most]
        limits = [self._limit_at(size) for size in sizes]
        self.found["batches"] = np.array(sizes, dtype=float)
        self.found["batch_limits"] = np.array(limits) / self.flow.step

    def _limit_at(self, batch: int) -> float:
        noise = self.flow.noise_model
        if batch == noise.batch:
            return float(self.found["step_limit"])
        other = noise.hessian_batch if noise.hessian_batch != noise.batch else None
        changed = Flow(
            self.flow.objective, self.flow.method, _at_batch(noise, batch, other), step=self.flow.step
        )
        try:
            return float(Limits(self._dynamics(changed)).mean_square(1)[0])
        except (ArithmeticError, ValueError):
            return math.nan

    # -- noise -------------------------------------------------------------------------------------

    def take_noise(self) -> None:
        """Noise floor, critical batch, and the noise's exponent."""
        self._critical()
        self._exponent()
        self._along_batches()
        if "step_limit" not in self.found:
            self.reasons["noise_floor"] = self.reasons["drop"] = self.reasons["step_limit"]
            return
        if self.flow.step >= self.found["step_limit"]:
            self.estimates["noise_floor"] = self.estimates["drop"] = (math.inf, 0.0)
            self.reasons["noise_floor"] = self.reasons["drop"] = "the step is beyond its limit"
            return
        try:
            floors = [self._floor(step) for step in (self.flow.step, self.flow.step / 10)]
        except ArithmeticError as error:
            self.reasons["noise_floor"] = self.reasons["drop"] = str(error)
            return
        self.estimates["noise_floor"] = floors[0], 0.0
        self.estimates["drop"] = floors[0] - floors[1], 0.0

    def _floor(self, step: float) -> float:
        here = copy.copy(self.here)
        here.flow = self.flow.at_step(step)
        moving, kick, memory = here.moving, here.noise.kick, here.memory or Memory(0.0)
        M = embedded(here.balance(step, 1).restricted(moving).stationary(), moving)
        driven = here.source if kick is None else here.source + kick(M)
        pull = np.where(moving, here.pull, 0.0)
        made = gathered(memory.motion(step, step, here.decoupled), pull, self.horizon)
        bent = np.where(moving, here.frame.eigenvalues, 0.0)
        return float(0.5 * (bent * made) @ np.diag(driven))

    def _critical(self) -> None:
        P, g, H = self.preconditioner, self.gradient, self.hessian
        moved = P @ g
        bent, square = float(moved @ H @ moved), float(g @ moved)
        noise = float(np.sum((H @ P) * (self.covariance @ P).T))
        # A gradient that is the rounding of its samples'.
        if square <= 1e-20 * float(np.sum(P * self.covariance)):
            self.estimates["critical_batch"] = (math.inf if noise > 0 else math.nan), 0.0
            self.reasons["critical_batch"] = "the gradient vanishes here"
        elif bent <= 0 or square <= 0:
            self.reasons["critical_batch"] = "the loss does not curve up along the step"
        else:
            self.estimates["critical_batch"] = noise / bent, 0.0
            batch = self.flow.noise_model.scales[0] / self.single.scales[0] if self.single.scales[0] else 0.0
            self.found["best_step"] = square / bent / (1 + noise / bent * batch)

    def _exponent(self) -> None:
        noise = self.flow.noise_model
        if isinstance(noise, DataNoise):
            try:
                found = noise.exponent
            except ValueError as error:
                found = Estimate(math.nan, math.nan, str(error))
        else:
            values, vectors = np.linalg.eigh(self.hessian)
            seen = np.einsum("ij,ik,kj->j", vectors, self.covariance, vectors, optimize=True)
            found = slope_of(values, seen)
        self.estimates["noise_exponent"] = found.value, found.error
        self.reasons["noise_exponent"] = found.reason

    def _along_batches(self) -> None:
        """What batches' gradients see along themselves."""
        rng, noise, P = stream(self.seed, 0), self.flow.noise_model, self.preconditioner
        if isinstance(noise, DataNoise):
            F: Any = noise.objective
            whole = noise.batch == F.n_samples and not noise.replacement
            draws = noise.draw_batches(1 if whole else _DRAWN, rng).gradient
            slopes = np.stack([F.gradient(self.w, batch=rows) for rows in draws])
            moved = slopes @ P
            pairs = zip(moved, draws, strict=True)
            bent = [v @ _products(F, self.w, rows)(v[:, None])[:, 0] for v, rows in pairs]
        else:
            offset = self.w - (self.w if self.flow.reference is None else self.flow.reference)
            zeta, Eg, _ = noise.drawn(self.w, _DRAWN, rng)
            slopes = self.gradient + zeta + Eg @ offset
            moved = slopes @ P
            bent = np.einsum("si,sij,sj->s", moved, self.hessian + Eg, moved)
        found = ratio(np.array(bent), np.sum(slopes * moved, axis=1))
        self.estimates["batch_sharpness"] = found.value, found.error
        self.reasons["batch_sharpness"] = found.reason

    def advice(self) -> Advice:
        """All of it."""
        stages: tuple[Callable[[], None], ...] = (self.take_limits, self.take_noise)
        try:
            for stage in stages:
                stage()
        except KeyboardInterrupt:
            self.notes.append(INTERRUPTED)
        noise, method = self.flow.noise_model, self.flow.method
        F = noise.objective
        number = F.n_samples if F is not None else 0
        optimizer = Optimizer(steps=(self.flow.step,), label=method.label)
        return told(
            optimizer,
            self.found,
            self.estimates,
            reasons=self.reasons,
            notes=self.notes,
            batch=noise.batch,
            horizon=self.horizon,
            samples=number,
            population=number,
            parameters=len(self.w),
            stats={"seconds": time.perf_counter() - self.began},
            provenance=provenance(seed=self.seed),
        )


def _at_batch(noise: Noise, batch: float, hessian_batch: float | None = None) -> Noise:
    """The same law per sample in batches of another size."""
    other = copy.copy(noise)
    other.batch, other.hessian_batch = batch, batch if hessian_batch is None else hessian_batch
    return other


def _products(F: Any, w: np.ndarray, rows: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    if defines(F, "products"):
        return F.products(w, batch=rows)
    return lambda V: F.hvp(w, V, batch=rows)


def _fed(F: Any, w: np.ndarray, M: np.ndarray) -> np.ndarray | None:
    """``tr H_s M H_s M`` (n,) of every sample; None where that is dear."""
    if hasattr(F, "hessian_factors"):
        rows = F.hessian_factors(w)
        inner = (rows @ M) @ rows.transpose(0, 2, 1)
        return np.einsum("sij,sji->s", inner, inner)
    if F.n_samples * len(w) ** 2 > _MATRICES:
        return None
    moved = F.per_sample_hessian(w) @ M
    return np.einsum("sij,sji->s", moved, moved)
