"""Second moments of a linear flow with additive and multiplicative noise.

Everything the linear theory says of moments is one balance in the Hessian's eigenbasis,

    dM = A M + M A^T + spread(M) + source,

per unit of time, where ``spread`` is the positive linear map ``step * E[G M G^T]`` plus, for a chain with
time step ``dt``, ``dt * A M A^T``. With ``L(M) = -(A M + M A^T)`` and A stable, a stationary M exists exactly
when the spectral radius of the positive map ``L^{-1} spread`` is below one (Krein-Rutman), so that existence,
the stationary covariance and the largest step all come from that one map.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

DENSE = 600
"""Largest d (d + 1) / 2 for which a map on symmetric matrices is written out (d = 34)."""

_LOOSE = 1e-8  # residual of a covariance where the map is dear
_ROUGHLY = 1e-4  # of what single precision makes of it at a time
_ROUNDS = 10
_NEAR = "The stationary second moment did not converge: the flow is too close to its mean-square limit."
_RESIDUAL = 1e-4  # of a dear map's leading matrix; its eigenvalue's error is of second order in it
_RESTARTS = 20
_BASIS = 20  # matrices of a Krylov basis kept in large dimensions

Map = Callable[[np.ndarray], np.ndarray]


class Half:
    """Symmetric (d, d) matrices as vectors of their upper triangle."""

    def __init__(self, dim: int):
        self.rows, self.columns = np.triu_indices(dim)
        self.dim, self.size = dim, len(self.rows)

    def pack(self, M: np.ndarray) -> np.ndarray:
        return M[..., self.rows, self.columns]

    def unpack(self, v: np.ndarray) -> np.ndarray:
        M = np.empty((*v.shape[:-1], self.dim, self.dim))
        M[..., self.rows, self.columns] = M[..., self.columns, self.rows] = v
        return M

    def matrix(self, apply: Map) -> np.ndarray:
        """The map written out, (size, size), column by column."""
        return self.pack(apply(self.unpack(np.eye(self.size)))).T


@dataclass(frozen=True)
class Balance:
    """``dM = A M + M A^T + spread(M) + source`` (see the module's text).

    Attributes
    ----------
    drift : array (d,) or (d, d)
        ``A``: its diagonal where it is diagonal, else the matrix.
    kick : callable or None
        The multiplicative noise's part of `spread`, (..., d, d) -> (..., d, d); None for none.
    source : array (d, d)
    dt : float
        Time step of the chain; 0 in continuous time.
    metric : array (d,), optional
        Gains of a diagonal preconditioner. Measured in it and in `decay`, the gradient batch's map is
        symmetric, and few of its applications tell its radius.
    rough : callable, optional
        The kick in single precision, where it is dear: it finds what the kick itself then measures.
    """

    drift: np.ndarray
    kick: Map | None
    source: np.ndarray
    dt: float = 0.0
    metric: np.ndarray | None = None
    rough: Map | None = None

    def spread(self, M: np.ndarray) -> np.ndarray:
        """The positive map: multiplicative noise, and the square that a finite step adds."""
        return self._spread(self.kick, M)

    def _spread(self, kick: Map | None, M: np.ndarray) -> np.ndarray:
        result = np.zeros_like(M) if kick is None else kick(M)
        if self.dt == 0:
            return result
        if self.drift.ndim == 1:
            return result + self.dt * np.outer(self.drift, self.drift) * M
        return result + self.dt * self.drift @ M @ self.drift.T

    @property
    def half(self) -> Half:
        return Half(len(self.drift))

    def restricted(self, modes: np.ndarray) -> Balance:
        """The same balance on some of the modes (d,) bool, the others at rest."""
        if modes.all():
            return self
        kick, rough = (None if map_ is None else _within(map_, modes) for map_ in (self.kick, self.rough))
        return dataclasses.replace(
            self,
            drift=self.drift[modes] if self.drift.ndim == 1 else self.drift[np.ix_(modes, modes)],
            kick=kick,
            source=self.source[np.ix_(modes, modes)],
            metric=None if self.metric is None else self.metric[modes],
            rough=rough,
            **self._also(modes),
        )

    def _also(self, modes: np.ndarray) -> dict[str, Any]:
        """What a kind of balance of its own has, on some of the modes."""
        return {}

    def decay(self, M: np.ndarray) -> np.ndarray:
        """``-(A M + M A^T)``."""
        if self.drift.ndim == 1:
            return -(self.drift[:, None] + self.drift[None, :]) * M
        return -(self.drift @ M + M @ self.drift.T)

    def undecay(self, M: np.ndarray) -> np.ndarray:
        """The inverse of `decay`."""
        import scipy

        if self.drift.ndim == 1:
            return -M / (self.drift[:, None] + self.drift[None, :])
        if M.ndim == 3:
            return np.stack([self.undecay(one) for one in M])
        # As SciPy's solve_continuous_lyapunov, with one factorization for all M.
        triangle, basis = self._schur
        solution, scale, _ = scipy.linalg.lapack.dtrsyl(triangle, triangle, -basis.T @ M @ basis, tranb="T")
        return basis @ (scale * solution) @ basis.T

    @functools.cached_property
    def _schur(self) -> tuple[np.ndarray, np.ndarray]:
        import scipy

        return scipy.linalg.schur(self.drift, output="real")

    def radius(self, start: np.ndarray | None = None) -> tuple[float, np.ndarray]:
        """Spectral radius of ``L^{-1} spread`` and its leading matrix (positive semidefinite, unit trace).

        Where the map is dear, the search begins at `start` (d, d).
        """
        half = self.half
        if self.kick is None and self.drift.ndim == 1:
            # Diagonal matrices stay so, each entry with its ratio dt a^2 / (-2 a).
            fastest = int(np.argmax(np.abs(self.drift)))
            return 0.5 * self.dt * abs(float(self.drift[fastest])), np.diag(np.eye(half.dim)[fastest])
        if self.rough is not None:
            value, leading = self._sought(np.eye(half.dim) if start is None else start)
        else:
            value, vector = _leading(half, lambda M: self.undecay(self.spread(M)))
            leading = half.unpack(vector)  # of either sign; unit trace makes it positive
        trace = np.trace(leading)
        return value, leading / trace if trace else leading

    def _sought(self, start: np.ndarray) -> tuple[float, np.ndarray]:
        """`radius` where the map is dear: found with the rough kick, measured with the kick."""
        size = np.ones(len(self.drift)) if self.metric is None else np.abs(self.metric)
        # In this inner product the gradient batch's map is symmetric: an eigenvalue's error is of second
        # order in its matrix's.
        root = 1 / np.sqrt(self._undecay * np.outer(size, size))

        def scaled(kick: Map | None, kind: type) -> Map:
            into, out = (1 / root).astype(kind), (root * self._undecay).astype(kind)
            spread = self._spreading(kick, kind)
            return lambda M: out * spread(into * M)

        leading = _krylov(scaled(self.rough, np.float32), (root * start).astype(np.float32)).astype(float)
        image = scaled(self.kick, np.float64)(leading)
        return float(np.vdot(leading, image) / np.vdot(leading, leading)), leading / root

    @property
    def _undecay(self) -> np.ndarray:
        """`undecay` of a diagonal drift, entry by entry."""
        return self.undecay(np.ones((len(self.drift),) * 2))

    def _spreading(self, kick: Map | None, kind: type) -> Map:
        """`spread` with a diagonal drift and a dear kick, in numbers of one kind."""
        assert kick is not None
        square: np.ndarray = self._spread(None, np.ones((len(self.drift),) * 2)).astype(kind)
        return lambda M: kick(M) + square * M

    def stationary(self) -> np.ndarray:
        """The stationary M; call it only where `radius` is below one."""
        import scipy

        half, base = self.half, self.undecay(self.source)
        if self.kick is None and self.drift.ndim == 1:
            # Entrywise, -(a_i + a_j + dt a_i a_j) M_ij = source_ij.
            a = self.drift
            return -self.source / (a[:, None] + a[None, :] + self.dt * np.outer(a, a))

        if self.rough is not None:
            return self._refined(base)

        def apply(M: np.ndarray) -> np.ndarray:
            return M - self.undecay(self.spread(M))

        if half.size <= DENSE:
            return half.unpack(np.linalg.solve(half.matrix(apply), half.pack(base)))
        operator = scipy.sparse.linalg.LinearOperator(
            (half.size,) * 2, matvec=lambda v: half.pack(apply(half.unpack(v))), dtype=float
        )
        solution, failed = scipy.sparse.linalg.gmres(
            operator, half.pack(base), rtol=1e-12, restart=60, maxiter=200
        )
        if failed:
            raise ArithmeticError(_NEAR)
        return half.unpack(solution)

    def _refined(self, base: np.ndarray) -> np.ndarray:
        """`stationary` where the map is dear: solved with the rough kick, corrected by what the kick says."""
        inverse, spread = self._undecay.astype(np.float32), self._spreading(self.rough, np.float32)
        exact = self._spreading(self.kick, np.float64)

        found, left, whole = np.zeros_like(base), base, float(np.linalg.norm(base))
        for _ in range(_ROUNDS):
            size = float(np.linalg.norm(left))
            if size == 0:
                break
            unit = (left / size).astype(np.float32)
            found += size * _solved(lambda M: inverse * spread(M), unit)
            if _ROUGHLY * size <= _LOOSE * whole:
                break
            left = base - found + self._undecay * exact(found)
        return found


@dataclass(frozen=True)
class Remembered(Balance):
    """``M = R o (kick(M) + source)``: what positions settle at where modes have a memory.

    Attributes
    ----------
    response : array (d, d)
        ``R``: what one and the same unit noise leaves of ``E[x_j x_k]``.
    """

    response: np.ndarray = dataclasses.field(kw_only=True)

    def _spread(self, kick: Map | None, M: np.ndarray) -> np.ndarray:
        return np.zeros_like(M) if kick is None else kick(M)

    def _also(self, modes: np.ndarray) -> dict[str, Any]:
        return {"response": self.response[np.ix_(modes, modes)]}

    def decay(self, M: np.ndarray) -> np.ndarray:
        return M / self.response

    def undecay(self, M: np.ndarray) -> np.ndarray:
        return M * self.response

    def radius(self, start: np.ndarray | None = None) -> tuple[float, np.ndarray]:
        if self.kick is None:  # the mean alone decides
            return 0.0, np.zeros_like(self.response)
        return super().radius(start)

    def stationary(self) -> np.ndarray:
        return self.undecay(self.source) if self.kick is None else super().stationary()


def embedded(M: np.ndarray, modes: np.ndarray) -> np.ndarray:
    """Matrices (..., r, r) of some of the modes (d,) bool among all of them, (..., d, d), zero elsewhere."""
    whole, chosen = np.zeros((*M.shape[:-2], len(modes), len(modes))), np.flatnonzero(modes)
    whole[..., chosen[:, None], chosen] = M
    return whole


def _within(map_: Map, modes: np.ndarray) -> Map:
    """A map of (..., d, d) on some of the modes (d,) bool, the others at rest."""
    chosen = np.flatnonzero(modes)
    return lambda M: map_(embedded(M, modes))[..., chosen[:, None], chosen]


def _leading(half: Half, apply: Map) -> tuple[float, np.ndarray]:
    """The largest eigenvalue of a positive map, and its vector."""
    import scipy

    if half.size > 21:  # ARPACK needs room for its basis; below, the dense answer is immediate
        operator = scipy.sparse.linalg.LinearOperator(
            (half.size,) * 2, matvec=lambda v: half.pack(apply(half.unpack(v))), dtype=float
        )
        try:
            values, vectors = scipy.sparse.linalg.eigs(
                operator, k=1, which="LM", v0=half.pack(np.eye(half.dim)), tol=1e-12
            )
            return float(abs(values[0])), np.real(vectors[:, 0])
        except scipy.sparse.linalg.ArpackError as error:
            if half.size > 4 * DENSE:
                raise ArithmeticError(
                    f"The second-moment map's radius did not converge in {half.dim} dimensions ({error})."
                ) from None
    values, vectors = np.linalg.eig(half.matrix(apply))
    top = int(np.argmax(np.abs(values)))
    return float(np.abs(values[top])), np.real(vectors[:, top])


def _arnoldi(apply: Map, start: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Bases of Krylov's spaces, one application larger each: the vectors (k, d^2), and the map in them.

    That is a matrix (k + 1, k): its last row is what leaves the space.
    """
    basis = np.empty((_BASIS + 1, start.size), start.dtype)
    projected = np.zeros((_BASIS + 1, _BASIS))
    basis[0] = start.ravel() / np.linalg.norm(start)
    for k in range(_BASIS):
        image = apply(basis[k].reshape(start.shape)).astype(start.dtype, copy=False).ravel()
        for _ in range(2):  # once more: the first pass leaves rounding of what it removes
            overlap = basis[: k + 1] @ image
            projected[: k + 1, k] += overlap
            image -= overlap @ basis[: k + 1]
        projected[k + 1, k] = rest = float(np.linalg.norm(image))
        yield basis[: k + 1], projected[: k + 2, : k + 1]
        if rest == 0:
            return
        basis[k + 1] = image / rest


def _krylov(apply: Map, start: np.ndarray) -> np.ndarray:
    """The leading matrix (d, d) of a positive map, by Arnoldi's method from a `start`.

    It looks at the residual after every application: ARPACK looks after twenty, and one may take seconds.
    """
    for _ in range(_RESTARTS):
        for basis, projected in _arnoldi(apply, start):  # noqa: B007 - the last one is used
            values, vectors = np.linalg.eig(projected[:-1])
            top = int(np.argmax(values.real))
            value, weights = float(values[top].real), vectors[:, top].real
            left = projected[-1, -1] * abs(weights[-1])
            if done := left <= _RESIDUAL * value * np.linalg.norm(weights):
                break
        start = (weights.astype(start.dtype) @ basis).reshape(start.shape)
        if done:
            return start
    raise ArithmeticError(f"The second-moment map's radius did not converge in {len(start)} dimensions.")


def _solved(apply: Map, right: np.ndarray) -> np.ndarray:
    """M of ``M - apply(M) = right`` to a residual of `_ROUGHLY`, by GMRES, which looks at it as `_krylov`."""
    found, left, size = np.zeros_like(right), right, float(np.linalg.norm(right))
    for _ in range(_RESTARTS):
        length = float(np.linalg.norm(left))
        for basis, projected in _arnoldi(apply, left):  # noqa: B007 - the last one is used
            balance = np.eye(*projected.shape) - projected
            target = length * np.eye(len(balance))[0]
            weights = np.linalg.lstsq(balance, target)[0]
            if done := np.linalg.norm(balance @ weights - target) <= _ROUGHLY * size:
                break
        found += (weights.astype(right.dtype) @ basis).reshape(right.shape)
        if done:
            return found
        left = right - found + apply(found)
    raise ArithmeticError(_NEAR)


def evolve(
    balance: Balance,
    cross: Map | None,
    t: float,
    dt: float,
    mean: np.ndarray,
    M: np.ndarray,
    push: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and second moment after time `t`, in steps of `dt` (0: in continuous time).

    Parameters
    ----------
    cross : callable or None
        What a mean m adds to the source, (d,) -> (d, d).
    push : array (d,)
        A constant part of the mean's rate, ``dm = A m - push``; zero where `cross` is None.
    """
    import scipy

    if balance.kick is None and cross is None and balance.drift.ndim == 1:
        return _evolve_modes(balance, t, dt, mean, M)
    half, dim = balance.half, len(mean)
    if half.size > DENSE:
        return _evolve_large(balance, cross, t, dt, mean, M, push)
    # One linear system for 1, the mean and the second moment: constants are its first column.
    generator = np.zeros((1 + dim + half.size,) * 2)
    generator[1 : 1 + dim, 1 : 1 + dim] = np.diag(balance.drift) if balance.drift.ndim == 1 else balance.drift
    generator[1 : 1 + dim, 0] = -push
    generator[1 + dim :, 0] = half.pack(balance.source)
    if cross is not None:
        generator[1 + dim :, 1 : 1 + dim] = np.stack([half.pack(cross(e)) for e in np.eye(dim)], axis=1)
    generator[1 + dim :, 1 + dim :] = half.matrix(lambda X: balance.spread(X) - balance.decay(X))
    state = np.concatenate([[1.0], mean, half.pack(M)])
    with np.errstate(all="ignore"):  # an unstable flow may overflow: inf is its answer
        if dt:
            # By squaring: as few products as the number of steps has digits.
            flow = np.linalg.matrix_power(np.eye(len(state)) + dt * generator, round(t / dt))
        else:
            flow = scipy.linalg.expm(t * generator)
        state = flow @ state
    return state[1 : 1 + dim], half.unpack(state[1 + dim :])


def _evolve_modes(
    balance: Balance, t: float, dt: float, mean: np.ndarray, M: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Without multiplicative noise every entry of M goes its own way, exactly, in any dimension."""
    a = balance.drift
    # Its last term is Euler-Maruyama's own: (1 + dt a_i)(1 + dt a_j) = 1 + dt pair.
    pair = a[:, None] + a[None, :] + dt * np.outer(a, a)
    # Noise on a mode at rest adds up in proportion to time; the quotient below would be 0 / 0.
    resting = pair == 0
    safe = np.where(resting, 1.0, pair)
    with np.errstate(all="ignore"):
        if dt:
            steps = round(t / dt)
            factor = (1 + dt * a) ** steps
            growth = np.outer(factor, factor)
            # Of a pair that hardly changes, growth - 1 would be rounding alone; log1p is for steps that keep
            # their sign.
            smooth = dt * pair > -0.5
            slow = np.expm1(steps * np.log1p(np.where(smooth, dt * pair, 0.0)))
            gained = np.where(resting, t, np.where(smooth, slow, growth - 1) / safe)
        else:
            factor, growth = np.exp(t * a), np.exp(t * pair)
            gained = np.where(resting, t, np.expm1(t * pair) / safe)
        return factor * mean, growth * M + balance.source * gained


def _evolve_large(
    balance: Balance,
    cross: Map | None,
    t: float,
    dt: float,
    mean: np.ndarray,
    M: np.ndarray,
    push: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Step by step, in dimensions where the map is not written out."""
    import scipy

    half, dim = balance.half, len(mean)

    def rate(_: float, state: np.ndarray) -> np.ndarray:
        m, X = state[:dim], half.unpack(state[dim:])
        pushed = balance.drift * m if balance.drift.ndim == 1 else balance.drift @ m
        change = balance.spread(X) - balance.decay(X) + balance.source + (0.0 if cross is None else cross(m))
        return np.concatenate([pushed - push, half.pack(change)])

    state = np.concatenate([mean, half.pack(M)])
    with np.errstate(all="ignore"):
        if dt:
            for _ in range(round(t / dt)):
                state = state + dt * rate(0.0, state)
        else:
            # Means are lengths, second moments their squares, those that the noise will have made too.
            fastest = float(np.max(np.abs(balance.drift)))
            soon = min(t, 1 / fastest) if fastest else t
            size = max(np.max(np.abs(M)), np.max(np.abs(mean)) ** 2, soon * np.max(np.abs(balance.source)))
            atol = 1e-14 * np.repeat([math.sqrt(size), size], [dim, half.size]) + np.finfo(float).tiny
            found = scipy.integrate.solve_ivp(rate, (0.0, t), state, method="DOP853", rtol=1e-10, atol=atol)
            if not found.success:
                raise ArithmeticError(f"The moments could not be followed to t = {t:g}: {found.message}")
            state = found.y[:, -1]
    return state[:dim], half.unpack(state[dim:])
