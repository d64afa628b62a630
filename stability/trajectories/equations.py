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


def noise_rate(flow: Flow, m: np.ndarray, S: np.ndarray) -> np.ndarray:
    """What noise adds to the covariance per unit of t.

    `Flow.diffusion`, and what curvature noise adds because the tube has a width: ``step * sum_k G_k S G_k^T``
    with ``G_k v = P Eg_k v + DP[Eh_k] H v``.
    """
    if flow.memory is not None and flow.metric is None:  # what positions feel, the buffer adds up
        dim, one = flow.dim, np.eye(flow.dim)
        lift = flow.gained(one, 0 * one, 0.0).T
        return lift @ noise_rate(flow.without_memory(), m[:dim], S[:dim, :dim]) @ lift.T
    diffusion = flow.diffusion(m)
    if not flow.noise_model.has_curvature or not S.any():
        return diffusion
    _, Eg, Eh = flow.noise_model.law(positions(flow, m))
    if flow.metric is not None:
        x, kept = m[: flow.dim], m[flow.dim :]
        G = np.moveaxis(flow.kicked(x, kept, np.moveaxis(Eg, -1, 0)), 0, -1)
        return diffusion + flow.step * np.tensordot(G @ S[: flow.dim, : flow.dim], G, axes=([0, 2], [0, 2]))
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
        C, ahead = noise_rate(flow, m, S), m
        J, kicked = np.eye(len(m)), np.zeros((len(m),) * 2)
        for rows in _turns(flow):
            # One part of the state after the other: the later ones feel what the earlier have become.
            drift, moved = flow.drift(ahead), np.zeros_like(J)
            moved[rows] = dt * flow.jacobian(ahead)[rows]
            ahead = ahead.copy()
            ahead[rows] += dt * drift[rows]
            J, kicked = J + moved @ J, kicked + moved @ kicked
            kicked[rows] += np.eye(len(m))[rows]
    except ValueError:
        return np.full_like(m, np.nan), np.full_like(S, np.nan)
    S = J @ S @ J.T + dt * (kicked @ C @ kicked.T)
    return ahead, 0.5 * (S + S.T)  # over many steps rounding would make it lopsided


def _turns(flow: Flow) -> list[np.ndarray]:
    """The parts of the whole state in the order in which a chain moves them, as `Flow.euler` does."""
    first = np.zeros(flow.state_dim, dtype=bool)
    if flow.memory is not None:
        first[flow.dim : 2 * flow.dim] = True
    elif flow.metric is not None and flow.metric.leading:
        first[flow.dim :] = True
    return [first, ~first] if first.any() else [~first]


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
