"""Three dimensions and more: ``P(H) v`` by Householder reflections and implicit QL.

LANES paths lie side by side in every row of a table, and one line of a kernel works on the row. No path's
arithmetic sees another path.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from . import compiler, lanes
from .lanes import LANES, load, magnitude, root, select, signed, spread, store

MAX_DIM = 64  # rows of a lane table, one row per dimension
SUB_BLOCK = 128  # paths between two calls of the gain: their rotations stay in the caches

_D, _E, _Y, _U, _Q, _MATRIX = (k * MAX_DIM for k in range(6))  # rows of the table, one per dimension
_CL, _CM, _CDM, _CDL, _CDR, _CEL, _SH, _SC = range(8)  # rows of the lanes' own numbers
_EPS = 2.0**-52
_SMALL = 1e-145  # what counts as zero, beside a matrix scaled to about 1
_TINY = _SMALL**2
_DONE = 1e9  # the block start of a lane that has converged


class Tridiagonal:
    """``P(H) v`` of many small symmetric matrices without eigenvectors.

    ``H = Q1 T Q1^T`` by Householder reflections and ``T = Q2 diag(lams) Q2^T`` by implicit QL; both are kept
    as reflections and rotations and applied to the vector only. Twice `forward` then `backward` reuses all
    memory; an object serves one thread.

    Parameters
    ----------
    dim : int
        ``2 <= dim <= MAX_DIM``.
    paths : int
        The largest number of matrices in one call.

    Notes
    -----
    As accurate as LAPACK: the eigenvalues and the orthogonality of Q are right to a few d ulp of the norm.
    Only the lower triangle is read. A matrix that is not finite, or takes more than ``30 + 10 dim`` QL
    sweeps, gives nan for its own path. A path's numbers do not depend on its neighbors nor on its place.
    """

    def __init__(self, dim: int, paths: int = SUB_BLOCK):
        if not 2 <= dim <= MAX_DIM:
            raise ValueError(f"`dim` must be in 2..{MAX_DIM}; got {dim}. Use np.linalg.eigh.")
        # Two or three sweeps an eigenvalue are usual: what has not converged after so many is nan.
        self.dim, self.paths, self.sweeps = dim, paths, 30 + 10 * dim
        self.groups = -(-paths // LANES)
        # Untouched pages cost nothing: the room for rotations is for the worst case.
        self._table = np.zeros((_MATRIX + dim * dim) * LANES)
        self._lane = np.zeros(8 * LANES)
        self._reflectors = np.empty((self.groups, dim * (dim + 1) * LANES))
        self._rotations = np.empty((self.groups, self.sweeps * (dim - 1) * 2 * LANES))
        self._ranges = np.empty((self.groups, self.sweeps + 1, 2), dtype=np.int64)
        self._lams, self._y, self._out = (np.empty((dim, paths)) for _ in range(3))

    def forward(self, hessian: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Eigenvalues, in no order, and ``y = Q^T v`` of matrices (B, d, d) and vectors (B, d), any strides.

        Two views (B, d), overwritten by the next call.
        """
        b = len(hessian)  # checked: the kernels trust their bounds
        if b > self.paths or hessian.shape[1:] != (self.dim, self.dim) or v.shape != (b, self.dim):
            raise ValueError(
                f"`hessian` must be at most ({self.paths}, {self.dim}, {self.dim}) with `v` alike; got "
                f"{hessian.shape} and {v.shape}."
            )
        lams, y = self._lams[:, :b], self._y[:, :b]
        compiler.kernel(_forward, KERNELS[_forward], _register)(
            hessian, v, lams, y, self._table, self._lane, self._reflectors, self._rotations, self._ranges
        )
        return lams.T, y.T

    def backward(self, y: np.ndarray) -> np.ndarray:
        """``Q y`` for the matrices of the last `forward`, with y (B, d) of any strides.

        A view (B, d), overwritten by the next call.
        """
        if len(y) > self.paths or y.shape[1:] != (self.dim,):
            raise ValueError(f"`y` must be at most ({self.paths}, {self.dim}); got {y.shape}.")
        out = self._out[:, : len(y)]
        compiler.kernel(_backward, KERNELS[_backward], _register)(
            y, out, self._table, self._reflectors, self._rotations, self._ranges
        )
        return out.T


def spectral_apply(
    hessian: np.ndarray,
    v: np.ndarray,
    gain: Callable[[np.ndarray], np.ndarray],
    workspace: Tridiagonal | None = None,
) -> np.ndarray:
    """``P(H) v`` (B, d) for matrices (B, d, d) and vectors (B, d) of any strides.

    ``gain(lams) -> phi``, both (b, d), is called once per sub-block.
    """
    b, dim = v.shape
    work = Tridiagonal(dim) if workspace is None else workspace
    out = np.empty((b, dim))
    with np.errstate(all="ignore"):
        for start in range(0, b, work.paths):
            rows = slice(start, start + work.paths)
            lams, y = work.forward(hessian[rows], v[rows])
            y *= gain(lams)
            out[rows] = work.backward(y)
    return out


def _forward(
    hessian: Any, v: Any, lams: Any, out: Any, w: Any, lane: Any, reflectors: Any, rotations: Any, ranges: Any
) -> None:
    count, n = hessian.shape[0], hessian.shape[1]
    for group in range((count + LANES - 1) // LANES):
        first = group * LANES
        here = min(LANES, count - first)
        spans = ranges[group]
        for j in range(LANES):
            _pack(hessian, v, w, lane, first + j, j, j < here)
        _house(w, lane, reflectors[group], n)
        sweep, at, low = 0, 0, 0
        while True:
            low, high = _scan(w, lane, n, low)
            if high < 0 or sweep == spans.shape[0] - 1:
                break
            _shift(lane)
            at = _sweep(w, lane, rotations[group], at, low, high)
            spans[sweep, 0], spans[sweep, 1] = low, high
            sweep += 1
        spans[sweep, 0] = -1
        for j in range(here):
            scale = lane[_SC * LANES + j] if lane[_CL * LANES + j] == _DONE else math.nan
            good = scale == scale
            for r in range(n):
                lams[r, first + j] = w[(_D + r) * LANES + j] * scale
                out[r, first + j] = w[(_Y + r) * LANES + j] if good else math.nan


def _pack(hessian: Any, v: Any, w: Any, lane: Any, path: int, j: int, use: bool) -> None:
    """One path into its lane, scaled by a power of two, which is exact, so that squares stay in range."""
    n = v.shape[1]
    top = 0.0
    if use:
        for r in range(n):
            for c in range(r + 1):
                entry = abs(hessian[path, r, c])
                top = top if entry <= top else entry  # nan too
                if not top < math.inf:
                    break
            if not top < math.inf:
                break
    good = top < math.inf
    # Not below 2^-1021, whose inverse is still a number.
    scale = math.ldexp(1.0, max(math.frexp(top)[1] - 1, -1021)) if good and top > 0 else 1.0
    lane[_SC * LANES + j] = scale if good else math.nan
    inverse = 1.0 / scale
    use = use and good
    for r in range(n):
        for c in range(r + 1):
            entry = hessian[path, r, c] * inverse if use else 0.0
            w[(_MATRIX + r * n + c) * LANES + j] = entry
            w[(_MATRIX + c * n + r) * LANES + j] = entry
        w[(_Y + r) * LANES + j] = v[path, r] if use else 0.0


def _house(w: Any, lane: Any, kept: Any, n: int) -> None:
    """Reduce the matrices to tridiagonal form, reflect y, and keep the reflectors: per column 1/h, then u."""
    zero, half, tiny = spread(0.0), spread(0.5), spread(_TINY)
    at = 0
    for k in range(n - 2):
        low = k + 1
        square = zero
        for r in range(low, n):
            x = load(w, _MATRIX + k * n + r)
            store(w, _U + r, x)
            square = square + x * x
        # u = x + sign(x_1)|x| e_1, h = u.u/2; a column below 1e-145 of the norm is taken as zero.
        x = load(w, _U + low)
        size = signed(root(square), x)
        empty = square < tiny
        scale = select(empty, zero, spread(1.0) / (square + x * size))
        store(w, _E + k, select(empty, zero, zero - size))
        store(w, _U + low, select(empty, zero, x + size))
        # p = A u / h, K = u.p / 2h, q = p - K u, A -= u q^T + q u^T.
        inner = zero
        for r in range(low, n):
            p = zero
            for c in range(low, n):
                p = p + load(w, _MATRIX + r * n + c) * load(w, _U + c)
            p = p * scale
            store(w, _Q + r, p)
            inner = inner + p * load(w, _U + r)
        inner = inner * half * scale
        for r in range(low, n):
            store(w, _Q + r, load(w, _Q + r) - inner * load(w, _U + r))
        for r in range(low, n):
            u, q = load(w, _U + r), load(w, _Q + r)
            for c in range(low, n):
                # The same numbers for (r, c) and (c, r), in either order: the matrix stays symmetric.
                change = u * load(w, _Q + c) + q * load(w, _U + c)
                store(w, _MATRIX + r * n + c, load(w, _MATRIX + r * n + c) - change)
        store(kept, at, scale)
        for r in range(low, n):
            store(kept, at + 1 + r - low, load(w, _U + r))
        _mirror(w, kept, at, low, n)
        at += 1 + n - low
    store(w, _E + n - 2, load(w, _MATRIX + (n - 1) * n + n - 2))
    store(w, _E + n - 1, zero)
    for r in range(n):
        store(w, _D + r, load(w, _MATRIX + r * n + r))


def _mirror(w: Any, kept: Any, at: int, low: int, n: int) -> None:
    """Reflect y by the reflector of rows `low` to n that is stored at `at`."""
    inner = spread(0.0)
    for r in range(low, n):
        inner = inner + load(kept, at + 1 + r - low) * load(w, _Y + r)
    inner = inner * load(kept, at)
    for r in range(low, n):
        store(w, _Y + r, load(w, _Y + r) - inner * load(kept, at + 1 + r - low))


def _scan(w: Any, lane: Any, n: int, low: int) -> tuple[int, int]:
    """Drop small off-diagonals and find each lane's first unreduced block.

    Returns the rows that any lane works on, or high < 0 where all are done.
    """
    zero, eps, nothing = spread(0.0), spread(_EPS), spread(_SMALL)
    end, end_d = spread(float(n - 1)), load(w, _D + n - 1)
    after = end_d
    cl, cm, cdm, cdl, cdr, cel = spread(_DONE), zero, zero, zero, zero, spread(1.0)
    for i in range(n - 2, low - 1, -1):
        e, here = load(w, _E + i), load(w, _D + i)
        number = spread(float(i))
        # The last term is for blocks whose diagonal vanishes too.
        small = magnitude(e) <= eps * (magnitude(here) + magnitude(after)) + nothing
        store(w, _E + i, select(small, zero, e))
        cl, cm, cdm = select(small, cl, number), select(small, cm, end), select(small, cdm, end_d)
        cdl, cdr, cel = select(small, cdl, here), select(small, cdr, after), select(small, cel, e)
        end, end_d = select(small, number, end), select(small, here, end_d)
        after = here
    store(lane, _CL, cl)
    store(lane, _CM, cm)
    store(lane, _CDM, cdm)
    store(lane, _CDL, cdl)
    store(lane, _CDR, cdr)
    store(lane, _CEL, cel)
    low, high = n, -1
    for j in range(LANES):
        if lane[_CL * LANES + j] < _DONE:
            low, high = min(low, int(lane[_CL * LANES + j])), max(high, int(lane[_CM * LANES + j]))
    return low, high


def _shift(lane: Any) -> None:
    """Wilkinson's shift of each lane's block, as ``d_m - shift``."""
    e, left = load(lane, _CEL), load(lane, _CDL)
    g = (load(lane, _CDR) - left) / (e + e)
    # The root takes g's sign: nothing cancels below the fraction.
    store(lane, _SH, load(lane, _CDM) - left + e / (g + signed(root(g * g + spread(1.0)), g)))


def _sweep(w: Any, lane: Any, turns: Any, at: int, low: int, high: int) -> int:
    """One implicit QL sweep of every lane's block.

    Applies the rotations to y and stores them from `at` on; returns their end.
    """
    zero, one, tiny = spread(0.0), spread(1.0), spread(_TINY)
    cl, cm, shift = load(lane, _CL), load(lane, _CM), load(lane, _SH)
    c, s, g, p = one, zero, zero, zero
    after, z = load(w, _D + high), load(w, _Y + high)
    for i in range(high - 1, low - 1, -1):
        number = spread(float(i))
        active = (cl <= number) & (number < cm)
        start, end = cm == number + one, cl == number
        e, here, y = load(w, _E + i), load(w, _D + i), load(w, _Y + i)
        g = select(start, shift, g)
        f = select(start, e, s * e)
        b = select(start, e, c * e)
        p = select(start, zero, p)
        square = f * f + g * g
        # Both below 1e-145 of the norm: any rotation will do.
        empty = square < tiny
        r = root(square)
        inverse = r / square
        c = select(empty, one, g * inverse)
        s = select(empty, zero, f * inverse)
        moved = after - p
        t = (here - moved) * s + (c * b + c * b)
        p = s * t
        g = c * t - b
        store(w, _D + i + 1, select(active, moved + p, after))
        store(w, _E + i + 1, select(active, select(empty | start, zero, r), load(w, _E + i + 1)))
        after = select(end, here - p, here)
        store(w, _E + i, select(end, g, e))
        turn_c, turn_s = select(active, c, one), select(active, s, zero)
        store(turns, at, turn_c)
        store(turns, at + 1, turn_s)
        store(w, _Y + i + 1, turn_s * y + turn_c * z)
        z = turn_c * y - turn_s * z
        at += 2
    store(w, _D + low, after)
    store(w, _Y + low, z)
    return at


def _unsweep(w: Any, turns: Any, at: int, low: int, high: int) -> int:
    """Undo a sweep's rotations of y, stored up to `at`; returns where they begin."""
    y = load(w, _Y + low)
    for i in range(low, high):
        at -= 2
        c, s, z = load(turns, at), load(turns, at + 1), load(w, _Y + i + 1)
        store(w, _Y + i, c * y + s * z)
        y = c * z - s * y
    store(w, _Y + high, y)
    return at


def _backward(y: Any, out: Any, w: Any, reflectors: Any, rotations: Any, ranges: Any) -> None:
    count, n = y.shape
    for group in range((count + LANES - 1) // LANES):
        first = group * LANES
        here = min(LANES, count - first)
        kept, spans = reflectors[group], ranges[group]
        for r in range(n):
            for j in range(LANES):
                w[(_Y + r) * LANES + j] = y[first + j, r] if j < here else 0.0
        sweep, at = 0, 0
        while spans[sweep, 0] >= 0:
            at += 2 * (spans[sweep, 1] - spans[sweep, 0])
            sweep += 1
        for back in range(sweep - 1, -1, -1):
            at = _unsweep(w, rotations[group], at, spans[back, 0], spans[back, 1])
        at = (n - 1) * (n + 2) // 2 - 2  # the reflectors' rows: n + (n - 1) + ... + 3
        for low in range(n - 2, 0, -1):
            at -= 1 + n - low
            _mirror(w, kept, at, low, n)
        for r in range(n):
            for j in range(here):
                out[r, first + j] = w[(_Y + r) * LANES + j]


KERNELS = {
    _forward: "r3 r2 v2 v2 w1 w1 w2 w2 i3",
    _backward: "r2 v2 w1 w2 w2 i3",
}


@functools.cache
def _register() -> None:
    """Tell numba about the functions that the kernels call."""
    from numba.extending import register_jitable

    lanes.register()
    for helper in (_pack, _house, _mirror, _scan, _shift, _sweep, _unsweep):
        register_jitable(error_model="numpy")(helper)
