"""Data too large for matrices (d, d): a few directions, and one number for all others.

Second moments are sought as ``V W V^T + m (1 - V V^T)``: a matrix W of k directions, and an equal second
moment m of the rest, which is what noise in proportion to the curvature leaves there. The balance is asked
for along the directions, and of the trace of the rest. Of SGD, whose map is symmetric in an inner product,
that is Ritz's method: the limit found is never below the true one, nor above that of the directions alone.
Directions are the leading eigenvectors, and those of the samples that feed most of the rest's second moment:
few samples may carry the curvature, and what their noise makes lies along no eigenvector.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import _check
from ..flow import Flow
from ..methods.method import Method
from ..noise import DataNoise, Noise
from .linearize import needs
from .modes import SampledNoise, Turned
from .moments import Map, _krylov, _solved
from .result import LinearFlow
from .samples import Samples, _products, _weights

MODES = 64
"""Leading modes among the directions."""
WORK = 1.2e11
"""Largest n d^2 for which `bounds` takes all modes: about three times 10,000 rows of 2,000 columns."""
_PROBES = 32  # of the trace of the rest's squared curvatures
_RESIDUAL = 1e-6  # of an eigenvalue
_HEAVY = 16  # samples whose directions join at a time
_ROUNDS = 4
_SETTLED = 2e-3  # of the limit: what directions move it by when no more are looked for
_STEPS = 20  # of conjugate gradients


def too_wide(noise: Noise) -> bool:
    """Whether `bounds` takes data's second moments from products alone."""
    if not (isinstance(noise, DataNoise) and noise.by_samples):
        return False
    (n, rank), dim = noise.samples_shape, len(noise.reference)  # type: ignore[arg-type]
    # Of fewer rows than columns the space of the rows is smaller, and exact.
    return n * rank >= dim and (n * rank * dim**2 > WORK or not _check.fits(needs(noise, dim)))


def served(method: Method, noise: Noise) -> bool:
    """Whether a method's gain is one number but for a few modes, as the closure asks for."""
    few = method.is_identity or (method.rank is not None and 2 * method.rank <= MODES)
    plain = method.spectral and method.memory is None and not method.weight_decay
    return few and plain and (method.is_identity or not noise.scales[1])


class Leading:
    """Of data at a minimum: a few directions, every sample's rows in them, and traces of the rest.

    Attributes
    ----------
    vectors : array (d, k)
        Orthonormal, and no curvature between them: eigenvectors, and others.
    eigenvalues : array (k,)
        Curvatures along them.
    leak : array (k, k)
        ``V^T H (1 - V V^T) H V``: zero but for vectors that are no eigenvectors.
    rest, squared : float
        Traces of the rest's curvatures and of their squares, the latter estimated.
    samples : Samples
        Every sample's curvature among the directions, from rows (n, o, k).
    beyond : array (n, o, o)
        ``X_s X_s^T`` of what is left of the rows.
    """

    def __init__(self, noise: DataNoise, vectors: np.ndarray):
        F: Any = noise.objective
        self.noise, self.ridge = noise, float(F.l2)
        self.n, self.rank, self.dim = noise.samples.shape
        self.flat = noise.samples.reshape(-1, self.dim)
        vectors = np.linalg.qr(vectors)[0]
        values, turn = np.linalg.eigh(vectors.T @ self.product(vectors))
        order = np.argsort(-values)
        self.eigenvalues, self.vectors = values[order], vectors @ turn[:, order]
        moved = self.product(self.vectors)
        self.leak = moved.T @ moved - np.diag(self.eigenvalues**2)
        self.samples = Samples.along(noise.samples, self.vectors)
        rows = self.samples.rows
        self.beyond = _products(noise.samples, noise.samples) - _products(rows, rows)
        width = self.dim - len(values)
        self.turned = Turned(noise, noise.reference, self.vectors)  # type: ignore[arg-type]
        self.turned.samples = self.samples
        data = float(np.trace(self.beyond, axis1=1, axis2=2).mean())
        self.rest = data + self.ridge * width
        probes = self.outside(np.random.default_rng(0).standard_normal((self.dim, _PROBES)))
        # The mean of |A z|^2 over normal z is tr A^T A.
        self.squared = float(np.sum(self.outside(self.product(probes)) ** 2)) / _PROBES
        # Less what a ridge adds to the square of every curvature.
        self.data_squared = max(self.squared - 2 * self.ridge * data - self.ridge**2 * width, 0.0)

    @classmethod
    def of(cls, noise: DataNoise, modes: int = MODES) -> Leading:
        """Of the leading modes, by Lanczos' method."""
        import scipy

        n, _, dim = noise.samples.shape
        flat, ridge = noise.samples.reshape(-1, dim), float(noise.objective.l2)  # type: ignore[attr-defined]
        operator = scipy.sparse.linalg.LinearOperator(
            (dim, dim), lambda v: flat.T @ (flat @ v) / n + ridge * v, dtype=float
        )
        # ARPACK's own start is drawn anew at every call, and its answer would differ in the last digits.
        start = np.random.default_rng(0).standard_normal(dim)
        _, vectors = scipy.sparse.linalg.eigsh(operator, k=min(modes, dim - 1), tol=_RESIDUAL, v0=start)
        return cls(noise, vectors)

    def product(self, V: np.ndarray) -> np.ndarray:
        """``H V`` (d, .)."""
        return self.flat.T @ (self.flat @ V) / self.n + self.ridge * V

    def outside(self, V: np.ndarray) -> np.ndarray:
        """What of V (d, .) is in the rest."""
        return V - self.vectors @ (self.vectors.T @ V)

    def joined(self, shares: np.ndarray) -> Leading:
        """The same with the directions x of the samples of largest shares (n,), and with ``H^{-1} x``.

        The latter is what noise along x leaves at rest; by a few steps of conjugate gradients.
        """
        room = (self.dim - 1 - len(self.eigenvalues)) // (2 * self.rank)
        top = np.argsort(-shares)[: min(_HEAVY, room)]
        rows = self.outside(self.noise.samples[top].reshape(-1, self.dim).T)
        sizes = np.linalg.norm(rows, axis=0)
        seen = sizes > np.finfo(float).eps * np.linalg.norm(self.noise.samples[top])
        rows = rows[:, seen] / sizes[seen]
        if not rows.shape[1]:
            return self
        solved, left = np.zeros_like(rows), rows.copy()
        along, size = left.copy(), np.sum(left**2, axis=0)
        # To no tolerance: what is wanted is a direction to look along, and no solution.
        for _ in range(_STEPS):
            moved = self.outside(self.product(along))
            length = size / np.sum(along * moved, axis=0)
            solved += length * along
            left -= length * moved
            before, size = size, np.sum(left**2, axis=0)
            along = left + size / before * along
            if np.any(size <= 1e-20):  # of a unit vector: nothing is left but rounding
                break
        return Leading(self.noise, np.hstack([self.vectors, rows, self.outside(solved)]))

    @functools.cached_property
    def gradients(self) -> tuple[np.ndarray, float]:
        """The covariance of the batch's gradient among leading modes (k, k), and its trace on the rest."""
        inner, whole = np.zeros((len(self.eigenvalues),) * 2), 0.0
        for rows in self.noise._deviations(np.zeros(self.dim)):
            seen = rows @ self.vectors
            inner += seen.T @ seen
            whole += float(np.vdot(rows, rows))
        share = self.noise.scales[0] / self.n
        return share * inner, share * (whole - float(np.trace(inner)))


@dataclass(frozen=True)
class Leader:
    """A mean-square limit, and its leading second moment, of unit trace: W (k, k), and m of the rest."""

    limit: float
    W: np.ndarray
    m: float


class Closed:
    """A method's second moments along a few directions and the trace of the rest.

    Parameters
    ----------
    leading : Leading
    flow : Flow
        Of a method that is `served`.
    """

    def __init__(self, leading: Leading, flow: Flow):
        self.leading, self.flow = leading, flow
        at, lam = leading.turned.at, leading.eigenvalues
        self.linear = LinearFlow(flow, at, lam, leading.vectors, leading.turned)
        noise = self.linear._dynamics.noise
        assert isinstance(noise, SampledNoise)
        self.noise, self.gains, self.rates = noise, noise.gains, noise.rates
        response = noise.response
        self.tail = float(response.tail) if response.truncated else 1.0
        self.middle = leading.squared / leading.rest  # curvature of the rest, as its second moments weigh it

    @functools.cached_property
    def _across(self) -> np.ndarray:
        """``E[(X X^T)_il]`` (r, r), per sample, of the part X of ``DP[E_s]`` from kept modes to the rest."""
        lead, r = self.leading, int(self.flow.method.rank or 0)
        psi = (self.gains[:r] - self.tail) / (lead.eigenvalues[:r] - self.middle)
        Y = lead.samples.rows[:, :, :r]
        seen = np.einsum("soi,sop,spl->il", Y, lead.beyond, Y, optimize=True) / lead.n
        return psi[:, None] * psi * seen

    def _weights(self, W: np.ndarray, m: float) -> np.ndarray:
        samples = self.leading.samples
        return _weights(samples.rows, samples._lower(W)) + m * self.leading.beyond

    def shares(self, found: Leader) -> np.ndarray:
        """What each sample (n,) adds to the rest's second moment."""
        return np.sum(self._weights(found.W, found.m) * self.leading.beyond, axis=(1, 2))

    def gradient(self, W: np.ndarray, m: float) -> tuple[np.ndarray, float]:
        """The gradient batch's part of the kick: along the directions (k, k), and its trace on the rest."""
        lead, samples, own = self.leading, self.leading.samples, self.noise.flow.noise_model.scales[0]
        C = self._weights(W, m)
        inner = samples.spread(C) - samples._square * W - m * lead.leak
        outer = float(np.vdot(C, lead.beyond)) / lead.n - float(np.vdot(lead.leak, W)) - m * lead.data_squared
        return own * np.outer(self.gains, self.gains) * inner, own * self.tail**2 * outer

    def hessian(self, W: np.ndarray, m: float) -> tuple[np.ndarray, float]:
        """The Hessian batch's part of it."""
        if not self.noise.bends:
            return np.zeros_like(W), 0.0
        lead, other = self.leading, self.noise.flow.noise_model.scales[2]
        N, r, bend = np.outer(lead.eigenvalues, lead.eigenvalues) * W, len(self._across), self.noise.bend
        inner = bend.square(N)
        inner[:r, :r] += m * self.middle**2 * self._across
        outer = float(np.vdot(N[:r, :r], self._across))
        if bend.tail is not None:
            moved = lead.samples.variances[bend.next, bend.next]
            outer += bend.tail[-1] ** 2 * moved * m * lead.squared
        return other * inner, other * outer

    def mean(self, W: np.ndarray, m: float) -> tuple[np.ndarray, float]:
        """``A M A``: what a step makes of second moments, in proportion to its square."""
        lead, gains = self.leading, np.outer(self.gains, self.gains)
        inner = np.outer(self.rates, self.rates) * W + m * gains * lead.leak
        return inner, self.tail**2 * (lead.squared * m + float(np.vdot(lead.leak, W)))

    def _map(self, closed: bool = True) -> Map:
        """``L^{-1} spread`` at time step 1, on vectors of W and m, in which SGD's is symmetric."""
        k, decay, root = len(self.rates), self._decay, self._root

        def apply(state: np.ndarray) -> np.ndarray:
            state = state / root
            W, m = state[:-1].reshape(k, k), float(state[-1]) * closed
            parts = [part(W, m) for part in (self.mean, self.gradient, self.hessian)]
            inner, outer = sum(part[0] for part in parts), sum(part[1] for part in parts) * closed
            return root * np.append(inner, outer) / decay

        return apply

    @functools.cached_property
    def _decay(self) -> np.ndarray:
        pairs = -(self.rates[:, None] + self.rates)
        return np.append(pairs, 2 * self.tail * self.leading.rest)

    @functools.cached_property
    def _root(self) -> np.ndarray:
        return np.sqrt(self._decay / np.append(np.outer(self.gains, self.gains), self.tail**2))

    def limit(self, *, closed: bool = True) -> Leader:
        """The mean-square limit, or that of the directions alone."""
        k, apply, root = len(self.rates), self._map(closed), self._root
        found = _krylov(apply, root * np.append(np.eye(k), float(closed)))
        radius = float(np.vdot(found, apply(found)) / np.vdot(found, found))
        found = found / root
        W, m = found[:-1].reshape(k, k), float(found[-1])
        trace = float(np.trace(W)) + m * (self.leading.dim - k)
        return Leader(1 / radius, W / trace, m / trace)

    def excess_risk(self) -> float:
        """Stationary excess risk at the flow's step, which is below the limit."""
        lead, k, step, root = self.leading, len(self.rates), self.flow.step, self._root
        inner, outer = lead.gradients
        source = np.append(np.outer(self.gains, self.gains) * inner, self.tail**2 * outer) / self._decay
        apply = self._map()
        found = _solved(lambda state: step * apply(state), step * root * source) / root
        return 0.5 * float(lead.eigenvalues @ np.diag(found[:-1].reshape(k, k)) + found[-1] * lead.rest)

    def shares_of(self, found: Leader) -> dict[str, float]:
        """The share of each cause in what sets the limit, as `Limit.shares`."""
        parts = [part(found.W, found.m) for part in (self.mean, self.gradient, self.hessian)]
        traces = [float(np.trace(inner)) + outer for inner, outer in parts]
        names = ("curvature", "gradient batch", "Hessian batch")
        return {name: trace / sum(traces) for name, trace in zip(names, traces, strict=True)}


@dataclass(frozen=True)
class Refined:
    """A method's limit with an error: by how much the last directions and the closure itself moved it."""

    closed: Closed
    found: Leader
    error: float


def refined(leading: Leading, flow: Flow) -> Refined:
    """Directions join until they hardly move the limit any more, or are many."""
    closed = Closed(leading, flow)
    found, moved = closed.limit(), 0.0
    for _ in range(_ROUNDS):
        before = found.limit
        closed = Closed(closed.leading.joined(closed.shares(found)), flow)
        found = closed.limit()
        moved = abs(before - found.limit)
        if moved <= _SETTLED * found.limit:
            break
    # The rest's second moment is not quite one number. These shares cover what was seen on data whose limits
    # are known.
    closure = closed.limit(closed=False).limit - found.limit
    return Refined(closed, found, 3 * moved + 0.3 * abs(closure) + 0.003 * found.limit)
