"""The equations of mean and covariance: their rates in continuous time, and one step of a chain."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from ..flow import Flow

ATOL = 1e-14
"""Absolute tolerance of the ODE solver, in units of the mean's and the covariance's own sizes."""
MAX_CALLS = 2_000
"""Rates asked for within one step of the ODE solver: beyond, it turns in a circle."""

Place = tuple[float, np.ndarray, np.ndarray]  # time, mean (d,), covariance (d, d)


class Stuck(Exception):
    """The ODE solver does not finish a step."""


def remembering(flow: Flow) -> Flow:
    """A copy that decomposes a state's Hessian once, for drift, Jacobian and diffusion: half their time."""
    other = copy.copy(flow)
    last: dict[Any, Any] = {}

    def checked(w: np.ndarray) -> Any:
        if (key := (w.shape, w.tobytes())) not in last:
            last.clear()
            last[key] = flow._checked(w)
        return last[key]

    other.__dict__["_checked"] = checked
    return other


def positions(flow: Flow, w: np.ndarray) -> np.ndarray:
    """Of whole states (..., state_dim) the positions (..., d)."""
    return w[..., : flow.dim]


def _lifted(flow: Flow, dt: float) -> np.ndarray:
    """What a gain of positions alone makes of the whole state, (2 d, d)."""
    one = np.eye(flow.dim)
    return flow.gained(one, 0 * one, dt).T


def noise_rate(flow: Flow, m: np.ndarray, S: np.ndarray, dt: float = 0.0) -> np.ndarray:
    """What noise adds to the covariance per unit of t, with momentum in steps of `dt`.

    `Flow.diffusion`, and what curvature noise adds because the tube has a width: ``step * sum_k G_k S G_k^T``
    with ``G_k v = P Eg_k v + DP[Eh_k] H v``.
    """
    if flow.memory is not None:  # what positions feel, the buffer adds up
        lift, dim = _lifted(flow, dt), flow.dim
        return lift @ noise_rate(flow.without_memory(), m[:dim], S[:dim, :dim]) @ lift.T
    diffusion = flow.diffusion(m)
    if not flow.noise_model.has_curvature or not S.any():
        return diffusion
    _, Eg, Eh = flow.noise_model.law(m)
    local, hessian = flow._checked(m), np.asarray(flow.objective.hessian(m), dtype=float)
    columns = [
        local.apply(Eg[:, :, j]) + (local.derivative(Eh, hessian[:, j]) if flow.bends else 0.0)
        for j in range(flow.dim)
    ]
    G = np.stack(columns, axis=-1)
    return diffusion + flow.step * np.tensordot(G @ S, G, axes=([0, 2], [0, 2]))


def chain_step(flow: Flow, m: np.ndarray, S: np.ndarray, dt: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance one step of the Euler-Maruyama chain later; nan where the gain is singular."""
    try:
        (ahead, J), C = _stepped(flow, m, dt), noise_rate(flow, m, S, dt)
    except ValueError:
        return np.full_like(m, np.nan), np.full_like(S, np.nan)
    S = J @ S @ J.T + dt * C
    return ahead, 0.5 * (S + S.T)  # over many steps rounding would make it lopsided


def _stepped(flow: Flow, m: np.ndarray, dt: float) -> tuple[np.ndarray, np.ndarray]:
    """The mean a step later, and the step's Jacobian; with momentum the buffer moves first."""
    if flow.memory is None:
        return m + dt * flow.drift(m), np.eye(flow.dim) + dt * flow.jacobian(m)
    inner, x, buffer = flow.without_memory(), m[: flow.dim], m[flow.dim :]
    one, none = np.eye(flow.dim), np.zeros((flow.dim,) * 2)
    ahead = m + flow.gained(dt * inner.drift(x), buffer, dt)
    moved = _lifted(flow, dt) @ (dt * inner.jacobian(x))
    return ahead, np.eye(len(m)) + np.hstack([moved, flow.gained(none, one, dt).T])


class Equations:
    """Mean and covariance as one vector: the mean, then the upper triangle in units of its own size."""

    def __init__(self, flow: Flow, begin: Place, t_end: float):
        _, m, S = begin
        self.flow, self.dim, self.calls = flow, len(m), 0
        self.upper = np.triu_indices(self.dim)
        # Sizes that both are going to have: at the start the covariance, or the mean, may be zero.
        fastest = float(np.max(np.abs(flow.jacobian(m)))) or 1e-300
        soon = min(t_end, 1 / fastest)
        self.size = max(float(np.max(np.abs(S))), soon * float(np.max(np.abs(flow.diffusion(m))))) or 1.0
        reach = max(float(np.max(np.abs(m))), soon * float(np.max(np.abs(flow.drift(m))))) or 1.0
        self.atol = np.concatenate([np.full(self.dim, ATOL * reach), np.full(len(self.upper[0]), ATOL)])

    def pack(self, m: np.ndarray, S: np.ndarray) -> np.ndarray:
        return np.concatenate([m, S[self.upper] / self.size])

    def place(self, t: float, y: np.ndarray) -> Place:
        S = np.zeros((self.dim, self.dim))
        S[self.upper] = S.T[self.upper] = y[self.dim :] * self.size
        return t, y[: self.dim].copy(), S

    def between(self, dense: Callable[[float], np.ndarray]) -> Callable[[float], Place]:
        """The places within one step of the solver."""
        return lambda t: self.place(t, dense(t))

    def rate(self, t: float, y: np.ndarray) -> np.ndarray:
        self.calls += 1
        if self.calls > MAX_CALLS:
            raise Stuck
        _, m, S = self.place(t, y)
        try:
            drift, J, C = self.flow.drift(m), self.flow.jacobian(m), noise_rate(self.flow, m, S)
        except ValueError:  # the gain is singular here, or the state is not finite
            return np.full_like(y, np.nan)
        return self.pack(drift, J @ S + S @ J.T + C)

    def derivative(self, t: float, y: np.ndarray) -> np.ndarray:
        """The rate's Jacobian for the solver's Newton steps.

        Without the covariance's dependence on the mean: they converge without it.
        """
        try:
            J = self.flow.jacobian(y[: self.dim])
        except ValueError:
            return np.full((len(y), len(y)), np.nan)
        d, (rows, columns), eye = self.dim, self.upper, np.eye(self.dim)
        # How S' depends on S's entries. Each off the diagonal stands for two.
        left = J[rows][:, :, None] * eye[columns][:, None, :]
        pairs = left + eye[rows][:, :, None] * J[columns][:, None, :]
        both = pairs[:, rows, columns] + np.where(rows != columns, pairs[:, columns, rows], 0.0)
        return np.block([[J, np.zeros((d, len(rows)))], [np.zeros((len(rows), d)), both]])
