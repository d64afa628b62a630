"""One time step of many paths: coefficients of affine flows, and the steps of all others.

States are (n, m), paths last, so that every coordinate's row is contiguous: n is d, and more with momentum.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import _fast
from .._array import joined, like, matvec
from ..flow import Driven, Flow
from .clock import Schedule
from .doubled import DoubledModes, root

SCHEMES = ("euler", "exponential")


class Mover(abc.ABC):
    """What moves a block's paths.

    Attributes
    ----------
    unit : float
        What states are counted in.
    full : bool
        Whether every block must be moved at its full width: matrix products round alike only for like shapes.
    shared : bool
        Whether blocks on several threads may have the same one: it keeps nothing of their paths.
    brief : bool
        Whether its steps are too short for threads to help.
    """

    unit: float = 1.0
    full = shared = brief = False

    @abc.abstractmethod
    def run(self, x: np.ndarray, noise: Any, done: int) -> Iterator[np.ndarray]:
        """The states (steps, n, width) from `x` (n, width) on, stretch by stretch; `x` ends as the last.

        What is written into the last state of a stretch stays: the next one starts there. `noise` is that of
        a block at its full width, and may be used up; `done` steps were taken before.
        """


def cut(normals: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Normals (steps, k, full) as wide, and of the type, that states `x` (d, width) need."""
    return normals[:, :, : x.shape[1]].astype(x.dtype, copy=False)


@dataclass(frozen=True)
class Modes:
    """The drift's Jacobian ``-P H`` at a critical point: rates (d,) and eigenvectors (d, d), as columns."""

    rates: np.ndarray
    vectors: np.ndarray

    draws = 1
    """Independent noise samples of a step."""

    @classmethod
    def at(cls, flow: Flow, at: np.ndarray) -> Modes | DoubledModes:
        values, vectors = np.linalg.eigh(np.asarray(flow.objective.hessian(at), dtype=float))
        rates = -flow.method.gains(values) * values
        if flow.memory is not None:
            return DoubledModes(rates, vectors, flow.memory, flow.step)
        return cls(rates, vectors)

    def function(self, values: np.ndarray) -> np.ndarray:
        """The matrix (d, d) with these eigenvalues on the modes."""
        return (self.vectors * values) @ self.vectors.T

    def drift(self, dt: float) -> np.ndarray:
        """``dt phi_1(A dt)``, which integrates a constant drift exactly."""
        return self.function(dt * _mean_growth(self.rates * dt))

    def noise(self, dt: float) -> np.ndarray:
        """``omega``, which gives every mode's noise its exact variance over `dt`."""
        return self.function(np.sqrt(_mean_growth(2 * self.rates * dt)))

    def growth(self, dt: float) -> np.ndarray:
        """``exp(A dt)``."""
        return self.function(np.exp(self.rates * dt))

    def diffusion(self, covariance: np.ndarray, dt: float) -> np.ndarray:
        """Covariance (d, d) of the noise collected over `dt`, per unit time: exact for additive noise."""
        turned = self.vectors.T @ covariance @ self.vectors
        return (
            self.vectors @ (turned * _mean_growth((self.rates[:, None] + self.rates) * dt)) @ self.vectors.T
        )


def _mean_growth(z: np.ndarray) -> np.ndarray:
    """``(exp(z) - 1) / z``, the mean of ``exp(s z)`` over 0 < s < 1."""
    safe = np.where(z == 0, 1.0, z)
    # expm1: exp(z) - 1 would be rounding where a mode hardly moves.
    return np.where(z == 0, 1.0, np.expm1(safe) / safe)


@dataclass(frozen=True)
class Affine(Mover):
    """``x+ = A x + c + C z``: one step of a flow whose Hessian is constant and whose noise is additive.

    Attributes
    ----------
    matrix : array (d, d)
    shift : array (d,)
    noise : array (d, k)
        Applied to k standard normals.
    unit : float
        What states are counted in, see `noise_unit`.
    compiled : bool
    """

    matrix: np.ndarray
    shift: np.ndarray
    noise: np.ndarray
    unit: float = 1.0
    compiled: bool = False

    full = shared = True

    @classmethod
    def of(cls, flow: Flow, dt: float, level: str, modes: Modes | DoubledModes | None) -> Affine | None:
        """The coefficients, or None where a step is not affine in state and noise."""
        model = flow.noise_model
        if not flow.constant_hessian or model.has_curvature or not model.linear or not flow.plain:
            return None
        origin, one = np.zeros(flow.dim), np.eye(flow.dim)
        local = flow.local(origin)
        hessian, push = (
            np.asarray(flow.objective.hessian(origin), dtype=float),
            local.apply(flow.objective.gradient(origin)),
        )
        # The drift is -P (H x + g(0)): P H by columns, and the push P g(0).
        drift = np.stack([local.apply(column) for column in hessian.T], axis=-1)
        # Without noise a step still has a root: of no columns.
        kick = np.zeros((flow.dim, 0))
        if model.normals(flow.dim):
            kick = np.stack([local.apply(column) for column in noise_root(flow).T], axis=-1)
        if isinstance(modes, DoubledModes):
            shift = modes.drift(dt) @ flow.gained(-push, 0 * push, 0.0)
            # As many columns as a step has normals: two samples' of d, or none.
            noise = root(modes.diffusion(kick @ kick.T, dt))[:, : 2 * kick.shape[1]]
            return cls(modes.growth(dt), shift, noise)
        if modes is not None:
            noise = math.sqrt(flow.step * dt) * _exact_root(modes, kick, dt)
            return cls(modes.growth(dt), -modes.drift(dt) @ push, noise)
        if level == "iteration":
            found = cls(one - flow.step * drift, -flow.step * push, -flow.step * kick)
        else:
            found = cls(one - dt * drift, -dt * push, math.sqrt(flow.step * dt) * kick)
        return found if flow.memory is None else found._doubled(flow, dt)

    def _doubled(self, flow: Flow, dt: float) -> Affine:
        """The step with momentum, from that without: an increment is linear in what the state gains."""
        still, one = np.zeros_like(self.matrix), np.eye(flow.dim)

        def gained(increment: np.ndarray, buffer: np.ndarray) -> np.ndarray:
            return flow.gained(increment.T, buffer.T, dt).T

        moved = np.concatenate([self.matrix - one, still], axis=1)
        matrix = np.eye(2 * flow.dim) + gained(moved, np.concatenate([still, one], axis=1))
        noise = gained(self.noise, np.zeros_like(self.noise))
        return Affine(matrix, gained(self.shift, np.zeros_like(self.shift)), noise)

    def noise_unit(self) -> float:
        """The unit for ``C = unit I``, in which standard normals are added as they are drawn; else 1."""
        noise = self.noise
        if (
            noise.shape[0] == noise.shape[1]
            and 1e-100 < abs(noise[0, 0]) < 1e100
            and np.array_equal(noise, noise[0, 0] * np.eye(len(noise)))
        ):
            return float(noise[0, 0])
        return 1.0

    def run(self, x: np.ndarray, noise: np.ndarray, done: int) -> Iterator[np.ndarray]:
        """The states after all steps at once, made in place of the normals; in units, as is `x`."""
        states = self._pushes(x, cut(noise, x))
        self._move(x, states)
        yield states
        np.copyto(x, states[-1])

    def _move(self, x: np.ndarray, states: np.ndarray) -> None:
        """Turn pushes (steps, d, m) into the states that they lead to from `x`."""
        matrix = self.matrix.astype(x.dtype)
        if self.compiled and len(matrix) == 2 and x.dtype == float:
            _fast.affine_planar(states, x, matrix, np.zeros(2))
            return
        # `np.dot` is a little quicker here than `matmul`.
        product, factor = (
            (np.multiply, np.diag(matrix)[:, None].copy()) if _is_diagonal(matrix) else (np.dot, matrix)
        )
        half = len(matrix) // 2
        across = None if product is np.multiply else _diagonals(matrix, half)
        moved, last = np.empty_like(x), x
        for ahead in states:
            if across is None:
                product(factor, last, out=moved)
                np.add(ahead, moved, out=ahead)
            else:  # with momentum, mode by mode
                for part, row in zip((ahead[:half], ahead[half:]), across, strict=True):
                    for weight, of in zip(row, (last[:half], last[half:]), strict=True):
                        np.multiply(weight, of, out=moved[:half])
                        np.add(part, moved[:half], out=part)
            last = ahead

    def _pushes(self, x: np.ndarray, normals: np.ndarray) -> np.ndarray:
        # In its own unit the noise is what was drawn: no product at all.
        pushed = normals if self.unit != 1.0 else pushes(self.noise, normals, x.dtype)
        shift = (self.shift / self.unit).astype(x.dtype)[:, None]
        return np.add(pushed, shift, out=pushed) if shift.any() else pushed


def pushes(noise: np.ndarray, normals: np.ndarray, dtype: Any) -> np.ndarray:
    """``C z`` for every step, in place where that can be: (d, k) and (steps, k, m) -> (steps, d, m)."""
    if noise.shape[1] == 0:
        return np.zeros((normals.shape[0], noise.shape[0], normals.shape[2]), dtype=dtype)
    noise = noise.astype(dtype)
    stacked = _diagonals(noise, noise.shape[1]) if len(noise) == 2 * noise.shape[1] else None
    if stacked is not None:
        return np.concatenate([normals * weight for (weight,) in stacked], axis=1)
    if _is_diagonal(noise):
        return np.multiply(
            normals, np.diag(noise)[:, None], out=normals if normals.flags.c_contiguous else None
        )
    return noise @ normals


def noise_root(flow: Flow) -> np.ndarray:
    """The matrix (d, k) that makes gradient noise of k standard normals."""
    model = flow.noise_model
    return np.asarray(model.combine(np.eye(model.normals(flow.dim)), flow.dim).zeta).T


FEW = 8
"""Rows of a block below which products of whole matrices are as quick."""


def _diagonals(matrix: np.ndarray, size: int) -> list[list[np.ndarray]] | None:
    """The diagonals, as columns (size, 1), of a matrix's square blocks of this size, if they are diagonal."""
    if size < FEW or matrix.shape[0] % size or matrix.shape[1] % size:
        return None
    blocks = matrix.reshape(len(matrix) // size, size, -1, size).transpose(0, 2, 1, 3)
    diagonals = np.diagonal(blocks, axis1=2, axis2=3)
    if np.count_nonzero(blocks) > np.count_nonzero(diagonals):
        return None
    return [[one[:, None].copy() for one in row] for row in diagonals]


def _is_diagonal(matrix: np.ndarray) -> bool:
    return matrix.shape[0] == matrix.shape[1] and not np.any(matrix - np.diag(np.diag(matrix)))


def _exact_root(modes: Modes, root: np.ndarray, dt: float) -> np.ndarray:
    """A square root of the noise's exact covariance over `dt`, per unit time."""
    if not root.size:
        return root
    wanted, simple = modes.diffusion(root @ root.T, dt), modes.noise(dt) @ root
    # The simple root keeps Euler's own directions, so that both schemes share their Brownian paths.
    if np.allclose(simple @ simple.T, wanted, rtol=1e-12, atol=1e-14 * np.max(np.abs(wanted))):
        return simple  # the noise commutes with the drift: mode by mode, and close to Euler's own
    values, vectors = np.linalg.eigh(wanted)
    return vectors * np.sqrt(np.maximum(values, 0.0))


class Stepwise(Mover):
    """Steps that must ask the objective at every state."""

    def __init__(
        self,
        flow: Flow,
        dt: float,
        level: str,
        modes: Modes | DoubledModes | None,
        *,
        samples: bool = False,
        schedule: Schedule | None = None,
    ):
        self.flow, self.dt, self.level, self.samples = flow, dt, level, samples
        self.schedule = schedule
        self._last = math.nan, flow
        # In few dimensions, with no Hessian to decompose, threads would wait for the interpreter.
        steady = flow.constant_hessian and not (level == "iteration" and flow.bends)
        self.brief = flow.dim < 16 and bool(flow.method.is_identity or steady)
        self.modes = modes
        self.weights = None if modes is None else self._weights(modes)

    def _weights(self, modes: Modes | DoubledModes) -> tuple[np.ndarray, ...]:
        """What the exponential scheme gives the drift and each of a step's noise samples."""
        if isinstance(modes, DoubledModes):
            return modes.drift(self.dt), *modes.noise(self.dt)
        return modes.drift(self.dt), math.sqrt(self.flow.step * self.dt) * modes.noise(self.dt)

    def sample(self, normals: Any) -> Any:
        """The noise of one step, from its standard normals (k, m) on any array library."""
        model, dim = self.flow.noise_model, self.flow.dim
        if self.level == "sde" and self.flow.own_normals:
            count = normals.shape[0] - self.flow.own_normals
            return Driven(model.combine(normals[:count, :], dim), normals[count:, :].T)
        if not isinstance(self.modes, DoubledModes):
            return model.combine(normals, dim)
        half = normals.shape[0] // 2
        return model.combine(normals[:half, :], dim), model.combine(normals[half:, :], dim)

    def step(self, w: Any, sample: Any, done: int) -> Any:
        """One step for states (m, n), on any array library, after so many."""
        flow, dt = self._now(done)
        if self.level == "iteration":
            return flow.update(w, sample, done)
        if self.weights is None:
            return flow.euler(w, sample, dt)
        drift, *noise = (like(weight, w) for weight in self.weights)
        if isinstance(self.modes, DoubledModes):
            x, buffer = w[:, : flow.dim], w[:, flow.dim :]
            push, force = flow.parts(x, sample[0])
            _, other = flow.parts(x, sample[1])
            moved = matvec(drift, flow.gained(push, buffer, 0.0))
            # The force's noise is against the state's.
            return w + moved - matvec(noise[0], force) - matvec(noise[1], other)
        push, force = flow.parts(w, sample)
        return w + matvec(drift, push) + matvec(noise[0], force)

    def _now(self, done: int) -> tuple[Flow, float]:
        """The flow at its present step, and the time step."""
        if self.schedule is None:
            return self.flow, self.dt
        step, dt = self.schedule.at(done)
        last, flow = self._last
        if step != last:
            flow = self.flow.at_step(step)
            self._last = step, flow
        return flow, dt

    def run(self, x: np.ndarray, noise: Any, done: int) -> Iterator[np.ndarray]:
        """The states, step by step; the one before stays as it was."""
        # Two buffers take turns, so that the state before a step is there while it is judged.
        last, ahead = x, np.empty_like(x)
        for sample in self._cut(noise, x.shape[1]) if self.samples else map(self.sample, cut(noise, x)):
            np.copyto(ahead, self.step(last.T, sample, done).T)
            yield ahead[None]
            last, ahead, done = ahead, last, done + 1
        if last is not x:
            np.copyto(x, last)

    @staticmethod
    def _cut(noise: Iterable[Any], width: int) -> Iterator[Any]:
        """Samples or minibatches of a full block, for its first paths."""
        return (one._make(part[:width] for part in one) for one in noise)


class Averaged(Mover):
    """Another's steps, and beside each state the exponential moving average of its positions.

    ``a+ = kept a + (1 - kept) w+``, from the start on.
    """

    def __init__(self, mover: Any, dim: int, kept: float):
        self.mover, self.dim, self.kept = mover, dim, kept
        self.unit, self.full = mover.unit, mover.full
        self.shared, self.brief = mover.shared, mover.brief

    def sample(self, normals: Any) -> Any:
        """The noise of one step, from its standard normals (k, m)."""
        return self.mover.sample(normals)

    def step(self, w: Any, sample: Any, done: int) -> Any:
        """One step for states (m, n), on any array library."""
        size = w.shape[-1] - self.dim
        ahead = self.mover.step(w[:, :size], sample, done)
        return joined(ahead, self.kept * w[:, size:] + (1 - self.kept) * ahead[:, : self.dim])

    def run(self, x: np.ndarray, noise: Any, done: int) -> Iterator[np.ndarray]:
        """The states, in the other's stretches; the one before stays as it was."""
        size = len(x) - self.dim
        inner, mean = x[:size].copy(), x[size:].copy()
        for states in self.mover.run(inner, noise, done):
            whole = np.empty((len(states), *x.shape), dtype=x.dtype)
            whole[:, :size] = states
            for moved in whole:
                np.multiply(mean, self.kept, out=moved[size:])
                moved[size:] += (1 - self.kept) * moved[: self.dim]
                mean = moved[size:]
            yield whole
            states[-1] = whole[-1, :size]  # where lost paths were put
        x[:size], x[size:] = inner, mean
