"""The optional accelerator: kernels compiled by numba on first use, and what stands in where it is absent.

Nothing here is needed for a result: every kernel has a NumPy form with the same bits (`fill`, `planar_*`,
`affine_planar`) or a LAPACK route with the same accuracy (`Tridiagonal`). Importing this file imports no numba.

Kernels are plain functions below, compiled once each for one explicit signature, without the interpreter's lock and
without fused or reordered arithmetic; never with numba's own threads, which abort a process that has threads.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

LANES = 16  # paths that go through one QL iteration side by side, in vector registers
MAX_DIM = 64  # rows of a lane table, see `_sweep`
SUB_BLOCK = 128  # paths between two calls of the gain: their rotations stay in the second-level cache at d = 8
_COMPILING = threading.Lock()


# --- Compilation ----------------------------------------------------------------------------------------------------


@functools.cache
def available() -> bool:
    """Whether numba can be imported."""
    if importlib.util.find_spec("numba") is None:
        return False
    try:
        import numba  # noqa: F401
    except Exception:  # present but refusing this Python or NumPy: the NumPy forms serve
        return False
    return True


def _kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` compiled; kept for the process, and on disk where a cache directory can be written."""
    with _COMPILING:
        return _compiled(function)


@functools.cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    import numba

    _register_helpers()
    signature = _signature(function)
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": False}
    try:
        return numba.njit(signature, cache=True, **options)(function)
    except Exception:  # no writable cache, a full disk, a damaged cache file: compile for this process alone
        return numba.njit(signature, cache=False, **options)(function)


@functools.cache
def _register_helpers() -> None:
    from numba import types
    from numba.extending import intrinsic, overload, register_jitable

    @intrinsic
    def select(typing: Any, test: Any, yes: Any, no: Any) -> Any:
        return yes(test, yes, no), lambda context, builder, signature, values: builder.select(*values)

    @intrinsic
    def get(typing: Any, array: Any, index: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            data = context.make_array(array)(context, builder, values[0]).data
            return builder.load(builder.gep(data, [values[1]], inbounds=True))

        return array.dtype(array, index), code

    @intrinsic
    def put(typing: Any, array: Any, index: Any, value: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, values: Any) -> None:
            data = context.make_array(array)(context, builder, values[0]).data
            builder.store(values[2], builder.gep(data, [values[1]], inbounds=True))

        return types.void(array, index, value), code

    overload(_get)(lambda array, index: lambda array, index: get(array, index))
    overload(_put)(lambda array, index, value: lambda array, index, value: put(array, index, value))
    overload(_select)(lambda test, yes, no: lambda test, yes, no: select(test, yes, no))
    for helper in (_house, _mirror, _scan, _shift, _sweep, _unsweep):
        register_jitable(error_model="numpy")(helper)


def _signature(function: Callable[..., Any]) -> Any:
    """Argument types by a letter each: f float, i integer, w/v/r contiguous/any/readonly float arrays, u words; digits are dimensions."""
    from numba import types

    def one(code: str) -> Any:
        if code in "fn":
            return types.float64 if code == "f" else types.uint64
        kind, ndim = code[0], int(code[1])
        scalar = types.uint64 if kind in "uk" else types.float64
        return types.Array(scalar, ndim, "A" if kind in "vr" else "C", readonly=kind in "rk")

    return types.void(*(one(code) for code in _TYPES[function.__name__].split()))


# --- Normals --------------------------------------------------------------------------------------------------------

_ONE, _THREE, _EIGHT, _NINE, _ELEVEN, _LEFT, _RIGHT = (np.uint64(n) for n in (1, 3, 8, 9, 11, 24, 40))
_INDEX, _SIGNED, _MANTISSA = np.uint64(0xFF), np.uint64(0x1FF), np.uint64(0x000FFFFFFFFFFFFF)
_UNIT = 2.0**-53
_TAIL, _TAIL_INVERSE = 3.6541528853610087963519472518, 0.27366123732975827203338247596  # where NumPy's ziggurat ends


def fill(rng: np.random.Generator, out: np.ndarray) -> None:
    """Fill C-contiguous `out` (float64, any shape) with standard normals: ``rng.standard_normal(out=out)``, bits and state.

    Other bit generators than SFC64 are left to NumPy.
    """
    bits = rng.bit_generator
    if not isinstance(bits, np.random.SFC64) or not available() or (tables := _ziggurat()) is None:
        rng.standard_normal(out=out)
        return
    if out.dtype != np.float64 or not out.flags.c_contiguous:
        raise ValueError(f"`out` must be a C-contiguous float64 array; got {out.dtype} with strides {out.strides}. Use np.empty(shape).")
    kernel = _kernel(_normals)
    with bits.lock:
        state: Any = bits.state
        kernel(state["state"]["state"], out.reshape(-1), *tables)
        bits.state = state


@functools.cache
def _ziggurat() -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """NumPy's tables as numba carries them: widths with their sign (512,), bounds (256,), densities (256,)."""
    try:
        from numba.np.random import _constants as tables

        width = np.array(tables.wi_double)
        return np.concatenate([width, -width]), np.array(tables.ki_double, dtype=np.uint64), np.array(tables.fi_double)
    except (ImportError, AttributeError):  # a private module, which may move
        return None


def _normals(state: Any, out: Any, width: Any, bound: Any, density: Any) -> None:
    """NumPy's ziggurat on SFC64 words; `state` (4,) is advanced. The generator is repeated inline: a call would keep it out of registers."""
    a, b, c, count = state[0], state[1], state[2], state[3]
    i = 0
    while i < out.size:
        word = a + b + count
        count += _ONE
        a = b ^ (b >> _ELEVEN)
        b = c + (c << _THREE)
        c = ((c << _LEFT) | (c >> _RIGHT)) + word
        index = word & _INDEX
        mantissa = (word >> _NINE) & _MANTISSA
        x = np.float64(np.int64(mantissa)) * width[word & _SIGNED]  # the sign from the table: a branch on it is mispredicted half the time
        out[i] = x
        if mantissa < bound[index]:
            i += 1
            continue
        while True:  # one in 80: the wedge tries once, the tail until it accepts
            word = a + b + count
            count += _ONE
            a = b ^ (b >> _ELEVEN)
            b = c + (c << _THREE)
            c = ((c << _LEFT) | (c >> _RIGHT)) + word
            u = np.float64(np.int64(word >> _ELEVEN)) * _UNIT
            if index != 0:
                if (density[index - _ONE] - density[index]) * u + density[index] < math.exp(-0.5 * x * x):
                    i += 1
                break
            word = a + b + count
            count += _ONE
            a = b ^ (b >> _ELEVEN)
            b = c + (c << _THREE)
            c = ((c << _LEFT) | (c >> _RIGHT)) + word
            far = -_TAIL_INVERSE * np.log1p(-u)
            near = -np.log1p(-(np.float64(np.int64(word >> _ELEVEN)) * _UNIT))
            if near + near > far * far:
                out[i] = -(_TAIL + far) if (mantissa >> _EIGHT) & _ONE else _TAIL + far
                i += 1
                break
    state[0], state[1], state[2], state[3] = a, b, c, count


# --- d = 2 ----------------------------------------------------------------------------------------------------------


def affine_planar(noise: np.ndarray, x: np.ndarray, a: np.ndarray, c: np.ndarray) -> None:
    """A chunk of steps ``x <- ((A_i1 x_1 + A_i2 x_2) + c_i) + noise_i``, in that order of operations.

    `noise` (steps, 2, B), contiguous and already scaled, becomes the states after each step; `x` (2, B), contiguous,
    the state before and after the chunk; `a` (2, 2); `c` (2,).
    """
    if available():
        _kernel(_affine)(noise, x, float(a[0, 0]), float(a[0, 1]), float(a[1, 0]), float(a[1, 1]), float(c[0]), float(c[1]))
        return
    state = x
    for rows in noise:
        for i in (0, 1):
            rows[i] += (a[i, 0] * state[0] + a[i, 1] * state[1]) + c[i]
        state = rows
    x[...] = state


def _affine(noise: Any, x: Any, a11: float, a12: float, a21: float, a22: float, c1: float, c2: float) -> None:
    for k in range(noise.shape[0]):
        for j in range(noise.shape[2]):
            first, second = x[0, j], x[1, j]
            x[0, j] = noise[k, 0, j] = ((a11 * first + a12 * second) + c1) + noise[k, 0, j]
            x[1, j] = noise[k, 1, j] = ((a21 * first + a22 * second) + c2) + noise[k, 1, j]


def planar_eigenvalues(h11: np.ndarray, h12: np.ndarray, h22: np.ndarray, lams: np.ndarray, shape: np.ndarray) -> None:
    """Eigenvalues of symmetric 2 x 2 matrices, and what `planar_step` needs of them.

    `h11`, `h12`, `h22` (B,) with any stride; `lams` (2, B) gets ``m + r`` and ``m - r``; `shape` (2, B) gets
    ``g = (h11 - h22)/2`` and ``r = sqrt(g^2 + h12^2)``, with ``m = (h11 + h22)/2``. Both eigenvalues are right to
    3 ulp of the larger one, for entries between 1e-150 and 1e150 (their squares must neither vanish nor overflow).
    """
    if available():
        _kernel(_planar_eigenvalues)(h11, h12, h22, lams, shape)
    else:
        planar_eigenvalues_numpy(h11, h12, h22, lams, shape)


def planar_eigenvalues_numpy(h11: np.ndarray, h12: np.ndarray, h22: np.ndarray, lams: np.ndarray, shape: np.ndarray) -> None:
    """`planar_eigenvalues` in NumPy, without temporaries."""
    g, r = shape
    with np.errstate(all="ignore"):
        np.subtract(h11, h22, out=g)
        g *= 0.5
        np.multiply(g, g, out=r)
        np.multiply(h12, h12, out=lams[1])
        r += lams[1]
        np.sqrt(r, out=r)
        np.add(h11, h22, out=lams[0])
        lams[0] *= 0.5
        np.subtract(lams[0], r, out=lams[1])
        lams[0] += r


def _planar_eigenvalues(h11: Any, h12: Any, h22: Any, lams: Any, shape: Any) -> None:
    for j in range(h11.size):
        m = (h11[j] + h22[j]) * 0.5
        g = (h11[j] - h22[j]) * 0.5
        r = math.sqrt(g * g + h12[j] * h12[j])
        lams[0, j], lams[1, j] = m + r, m - r
        shape[0, j], shape[1, j] = g, r


def planar_step(h12: np.ndarray, shape: np.ndarray, phi: np.ndarray, v: np.ndarray, x: np.ndarray, work: np.ndarray) -> None:
    """``x += P v`` for 2 x 2 matrices after `planar_eigenvalues`: ``P = (phi1 + phi2)/2 + (phi1 - phi2)/(2r) [[g, h12], [h12, -g]]``.

    `h12` (B,) with any stride; `shape`, the gains `phi`, `v` and `x` (2, B) contiguous; `work` (4, B) is for the NumPy
    form. Where ``r = 0`` the second term is left out. A non-finite Hessian gives nan.
    """
    if available():
        _kernel(_planar_step)(h12, shape, phi, v, x)
    else:
        planar_step_numpy(h12, shape, phi, v, x, work)


def planar_step_numpy(h12: np.ndarray, shape: np.ndarray, phi: np.ndarray, v: np.ndarray, x: np.ndarray, work: np.ndarray) -> None:
    """`planar_step` in NumPy, in the buffer `work` (4, B) alone but for one mask."""
    g, r = shape
    mean, slope, turn, part = work
    with np.errstate(all="ignore"):
        np.add(phi[0], phi[1], out=mean)
        mean *= 0.5
        np.subtract(phi[0], phi[1], out=slope)
        slope *= 0.5
        np.divide(slope, r, out=slope)
        slope[r == 0] = 0.0
        for i in (0, 1):
            np.multiply(g, v[0] if i == 0 else v[1], out=turn)
            np.multiply(h12, v[1 - i], out=part)
            np.add(turn, part, out=turn) if i == 0 else np.subtract(part, turn, out=turn)
            turn *= slope
            np.multiply(mean, v[i], out=part)
            part += turn
            x[i] += part


def _planar_step(h12: Any, shape: Any, phi: Any, v: Any, x: Any) -> None:
    for j in range(h12.size):
        g, r, b = shape[0, j], shape[1, j], h12[j]
        mean = (phi[0, j] + phi[1, j]) * 0.5
        slope = 0.0 if r == 0 else (phi[0, j] - phi[1, j]) * 0.5 / r
        first, second = v[0, j], v[1, j]
        x[0, j] += mean * first + slope * (g * first + b * second)
        x[1, j] += mean * second + slope * (b * first - g * second)


# --- 3 <= d: tridiagonal QL -----------------------------------------------------------------------------------------
#
# LANES paths lie side by side in the last axis of every table, so each line of a kernel is one vector operation, and
# no path's arithmetic sees another path. Tables are flat and indexed by unsigned words: numba then adds no test for
# negative indices and LLVM sees constant distances between rows, without which it does not vectorize.

_L = np.uint64(LANES)
_ROWS = np.uint64(MAX_DIM * LANES)  # one row per dimension
_D, _E, _Y, _U, _Q = (np.uint64(k) * _ROWS for k in range(5))
_MATRIX = np.uint64(5) * _ROWS
_LM, _LDM, _CL, _CM, _CDM, _CDL, _CDR, _CEL, _SH, _SC, _T1, _T2, _G, _P, _C, _S = (np.uint64(k) * _L for k in range(16))
_ZERO, _TWO = np.uint64(0), np.uint64(2)
_EPS = 2.0**-52
_TINY = 1e-290  # relative to a matrix scaled to about 1
_DONE = 1e9  # the block start of a lane that has converged


class Tridiagonal:
    """``P(H) v`` of many small symmetric matrices without eigenvectors.

    ``H = Q1 T Q1^T`` by Householder reflections and ``T = Q2 diag(lams) Q2^T`` by implicit QL; both are kept as
    reflections and rotations and applied to the vector only. Twice `forward` then `backward` reuses all memory; an
    object serves one thread.

    Parameters
    ----------
    dim : int
        ``2 <= dim <= MAX_DIM``.
    paths : int
        The largest number of matrices in one call.

    Notes
    -----
    As accurate as LAPACK: the eigenvalues and the orthogonality of Q are right to a few d ulp of the norm. Only the
    lower triangle is read. A matrix that is not finite, or takes more than ``30 + 10 dim`` QL sweeps, gives nan for
    its own path. A path's numbers do not depend on its neighbors nor on its place.
    """

    def __init__(self, dim: int, paths: int = SUB_BLOCK):
        if not 2 <= dim <= MAX_DIM:
            raise ValueError(f"`dim` must be in 2..{MAX_DIM}; got {dim}. Use np.linalg.eigh.")
        self.dim, self.paths, self.sweeps = dim, paths, 30 + 10 * dim
        self.groups = -(-paths // LANES)
        # Untouched pages cost nothing: the room for rotations is for the worst case.
        self._table = np.zeros(int(_MATRIX) + dim * dim * LANES)
        self._lane = np.zeros(16 * LANES)
        self._reflectors = np.empty((self.groups, dim * (dim + 1) * LANES))
        self._rotations = np.empty((self.groups, self.sweeps * (dim - 1) * 2 * LANES))
        self._ranges = np.empty((self.groups, self.sweeps + 1, 2))
        self._lams, self._y, self._out = np.empty((dim, paths)), np.empty((dim, paths)), np.empty((dim, paths))

    def forward(self, hessian: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Eigenvalues, in no order, and ``y = Q^T v``: (B, d, d) and (B, d), any strides -> two views (B, d), overwritten by the next call."""
        b = len(hessian)
        if b > self.paths or hessian.shape[1:] != (self.dim, self.dim) or v.shape != (b, self.dim):
            raise ValueError(f"`hessian` must be at most ({self.paths}, {self.dim}, {self.dim}) with `v` alike; got {hessian.shape} and {v.shape}.")
        lams, y = self._lams[:, :b], self._y[:, :b]
        _kernel(_forward)(hessian, v, lams, y, self._table, self._lane, self._reflectors, self._rotations, self._ranges, LANES)
        return lams.T, y.T

    def backward(self, y: np.ndarray) -> np.ndarray:
        """``Q y`` for the matrices of the last `forward`: (B, d), any strides -> a view (B, d), overwritten by the next call."""
        out = self._out[:, : len(y)]
        _kernel(_backward)(y, out, self._table, self._lane, self._reflectors, self._rotations, self._ranges, LANES)
        return out.T


def spectral_apply(hessian: np.ndarray, v: np.ndarray, gain: Callable[[np.ndarray], np.ndarray], workspace: Tridiagonal | None = None) -> np.ndarray:
    """``P(H) v``: (B, d, d) and (B, d), any strides -> (B, d), with ``gain(lams) -> phi``, both (b, d), called once per sub-block."""
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


def _forward(hessian: Any, v: Any, lams: Any, out: Any, w: Any, lane: Any, reflectors: Any, rotations: Any, ranges: Any, lanes: Any) -> None:
    count, d = hessian.shape[0], hessian.shape[1]
    n = np.uint64(d)
    for group in range((count + LANES - 1) // LANES):
        first = group * LANES
        here = min(LANES, count - first)
        kept, turns, spans = reflectors[group], rotations[group], ranges[group]
        # Pack: scaled by a power of two, which is exact, so that squares stay in range.
        for j in range(LANES):
            jj = np.uint64(j)
            top, scale = 0.0, 1.0
            if j < here:
                for r in range(d):
                    for c in range(r + 1):
                        size = abs(hessian[first + j, r, c])
                        if not size <= top:  # nan too
                            top = size
                if top > 0 and top < math.inf:
                    scale = math.ldexp(1.0, max(math.frexp(top)[1] - 1, -1021))
            bad = not top < math.inf
            lane[_SC + jj] = math.nan if bad else scale
            use = j < here and not bad
            inverse = 1.0 / scale
            for r in range(d):
                for c in range(r + 1):
                    value = hessian[first + j, r, c] * inverse if use else 0.0
                    w[_MATRIX + (np.uint64(r) * n + np.uint64(c)) * _L + jj] = value
                    w[_MATRIX + (np.uint64(c) * n + np.uint64(r)) * _L + jj] = value
                w[_Y + np.uint64(r) * _L + jj] = v[first + j, r] if use else 0.0
        _house(w, lane, kept, n, lanes)
        # QL sweeps.
        sweep, at, low = 0, _ZERO, 0.0
        while True:
            low, high = _scan(w, lane, n, low, lanes)
            if high < 0 or sweep == spans.shape[0] - 1:
                break
            _shift(w, lane, lanes)
            at = _sweep(w, lane, turns, at, int(low), int(high), lanes)
            spans[sweep, 0], spans[sweep, 1] = low, high
            sweep += 1
        spans[sweep, 0] = -1.0
        for j in range(here):
            jj = np.uint64(j)
            scale = lane[_SC + jj] if lane[_CL + jj] == _DONE else math.nan
            for r in range(d):
                lams[r, first + j] = w[_D + np.uint64(r) * _L + jj] * scale
                out[r, first + j] = w[_Y + np.uint64(r) * _L + jj] if scale == scale else math.nan


def _select(test: Any, yes: Any, no: Any) -> Any:
    """``yes if test else no`` for two values at hand, without the branch that would keep a loop out of vector registers."""
    return yes if test else no


def _get(array: Any, index: Any) -> Any:
    """``array[index]``, promised to be in bounds: numba's own indexing leaves LLVM to prove that addresses do not wrap."""
    return array[index]


def _put(array: Any, index: Any, value: Any) -> None:
    """``array[index] = value``, promised to be in bounds."""
    array[index] = value


def _house(w: Any, lane: Any, kept: Any, n: Any, lanes: Any) -> None:
    """Reduce the matrices to tridiagonal form, apply the reflections to y, and store them in `kept`: per column 1/h, then u."""
    at = _ZERO
    for k in range(_ZERO, n - _TWO):
        low = k + _ONE
        column = _MATRIX + k * n * _L  # the matrix is symmetric in storage: read its row
        for j in range(lanes):
            _put(lane, _T1 + j, 0.0)
        for r in range(low, n):
            for j in range(lanes):
                x = _get(w, column + r * _L + j)
                _put(w, _U + r * _L + j, x)
                _put(lane, _T1 + j, _get(lane, _T1 + j) + x * x)
        # u = x + sign(x_1)|x| e_1, h = u.u/2; a column below 1e-145 of the norm is taken as zero.
        for j in range(lanes):
            x = _get(w, _U + low * _L + j)
            square = _get(lane, _T1 + j)
            size = math.copysign(math.sqrt(square), x)
            h = square + x * size
            empty = square < _TINY
            _put(w, _E + k * _L + j, _select(empty, 0.0, -size))
            _put(w, _U + low * _L + j, _select(empty, 0.0, x + size))
            _put(lane, _T1 + j, _select(empty, 0.0, 1.0 / h))
        # p = A u / h, K = u.p / 2h, q = p - K u, A -= u q^T + q u^T; p and q live in the rows P.
        for j in range(lanes):
            _put(lane, _T2 + j, 0.0)
        for r in range(low, n):
            for j in range(lanes):
                _put(w, _Q + r * _L + j, 0.0)
            for c in range(low, n):
                row = _MATRIX + (r * n + c) * _L
                for j in range(lanes):
                    _put(w, _Q + r * _L + j, _get(w, _Q + r * _L + j) + _get(w, row + j) * _get(w, _U + c * _L + j))
            for j in range(lanes):
                p = _get(w, _Q + r * _L + j) * _get(lane, _T1 + j)
                _put(w, _Q + r * _L + j, p)
                _put(lane, _T2 + j, _get(lane, _T2 + j) + p * _get(w, _U + r * _L + j))
        for j in range(lanes):
            _put(lane, _T2 + j, _get(lane, _T2 + j) * (0.5 * _get(lane, _T1 + j)))
        for r in range(low, n):
            for j in range(lanes):
                _put(w, _Q + r * _L + j, _get(w, _Q + r * _L + j) - (_get(lane, _T2 + j) * _get(w, _U + r * _L + j)))
        for r in range(low, n):
            for c in range(low, n):
                row = _MATRIX + (r * n + c) * _L
                for j in range(lanes):
                    # In this order for (r, c) and (c, r) alike: the sum commutes, so the matrix stays symmetric.
                    _put(w, row + j, _get(w, row + j) - (_get(w, _U + r * _L + j) * _get(w, _Q + c * _L + j) + _get(w, _Q + r * _L + j) * _get(w, _U + c * _L + j)))
        for j in range(lanes):
            _put(kept, at + j, _get(lane, _T1 + j))
        at += _L
        for r in range(low, n):
            for j in range(lanes):
                _put(kept, at + j, _get(w, _U + r * _L + j))
            at += _L
        _mirror(w, lane, kept, at, low, n, lanes)
    last = n - _ONE
    for j in range(lanes):
        _put(w, _E + (last - _ONE) * _L + j, _get(w, _MATRIX + (last * n + last - _ONE) * _L + j))
        _put(w, _E + last * _L + j, 0.0)
    for r in range(_ZERO, n):
        for j in range(lanes):
            _put(w, _D + r * _L + j, _get(w, _MATRIX + (r * n + r) * _L + j))


def _mirror(w: Any, lane: Any, kept: Any, end: Any, low: Any, n: Any, lanes: Any) -> None:
    """Reflect y by the reflector that ends at `end`."""
    start = end - (n - low) * _L
    for j in range(lanes):
        _put(lane, _T2 + j, 0.0)
    for r in range(low, n):
        row = start + (r - low) * _L
        for j in range(lanes):
            _put(lane, _T2 + j, _get(lane, _T2 + j) + _get(kept, row + j) * _get(w, _Y + r * _L + j))
    for j in range(lanes):
        _put(lane, _T2 + j, _get(lane, _T2 + j) * (_get(kept, start - _L + j)))
    for r in range(low, n):
        row = start + (r - low) * _L
        for j in range(lanes):
            _put(w, _Y + r * _L + j, _get(w, _Y + r * _L + j) - (_get(lane, _T2 + j) * _get(kept, row + j)))


def _scan(w: Any, lane: Any, n: Any, low: float, lanes: Any) -> tuple[float, float]:
    """Drop small off-diagonals and find each lane's first unreduced block; the rows that any lane works on, or high < 0."""
    last = n - _ONE
    for j in range(lanes):
        _put(lane, _LM + j, np.float64(np.int64(last)))
        _put(lane, _LDM + j, _get(w, _D + last * _L + j))
        _put(lane, _CL + j, _DONE)
    for back in range(np.uint64(int(low)), last):
        i = last - _ONE - (back - np.uint64(int(low)))
        number = np.float64(np.int64(i))
        for j in range(lanes):
            e, here, after = _get(w, _E + i * _L + j), _get(w, _D + i * _L + j), _get(w, _D + i * _L + _L + j)
            small = abs(e) <= _EPS * (abs(here) + abs(after)) + _TINY
            m, dm = _get(lane, _LM + j), _get(lane, _LDM + j)
            cl, cm, cdm = _get(lane, _CL + j), _get(lane, _CM + j), _get(lane, _CDM + j)
            cdl, cdr, cel = _get(lane, _CDL + j), _get(lane, _CDR + j), _get(lane, _CEL + j)
            _put(w, _E + i * _L + j, _select(small, 0.0, e))
            _put(lane, _CL + j, _select(small, cl, number))
            _put(lane, _CM + j, _select(small, cm, m))
            _put(lane, _CDM + j, _select(small, cdm, dm))
            _put(lane, _CDL + j, _select(small, cdl, here))
            _put(lane, _CDR + j, _select(small, cdr, after))
            _put(lane, _CEL + j, _select(small, cel, e))
            _put(lane, _LM + j, _select(small, number, m))
            _put(lane, _LDM + j, _select(small, here, dm))
    low, high = _DONE, -1.0
    for j in range(lanes):
        if _get(lane, _CL + j) < _DONE:
            low, high = min(low, _get(lane, _CL + j)), max(high, _get(lane, _CM + j))
    return low, high


def _shift(w: Any, lane: Any, lanes: Any) -> None:
    """Wilkinson's shift of each lane's block, as ``d_m - shift``."""
    for j in range(lanes):
        e = _get(lane, _CEL + j)
        g = (_get(lane, _CDR + j) - _get(lane, _CDL + j)) / (2.0 * e)
        _put(lane, _SH + j, _get(lane, _CDM + j) - _get(lane, _CDL + j) + e / (g + math.copysign(math.sqrt(g * g + 1.0), g)))


def _sweep(w: Any, lane: Any, turns: Any, at: Any, low: int, high: int, lanes: Any) -> Any:
    """One implicit QL sweep of every lane's block, the rotations applied to y and stored from `at` on; returns their end."""
    for back in range(high - low):
        i = np.uint64(high - 1 - back)
        row, number = i * _L, float(high - 1 - back)
        up = row + _L
        for j in range(lanes):
            cl, cm = _get(lane, _CL + j), _get(lane, _CM + j)
            active = (cl <= number) & (number < cm)
            start, end = cm == number + 1.0, cl == number
            e, here, after = _get(w, _E + row + j), _get(w, _D + row + j), _get(w, _D + up + j)
            old_c, old_s, old_g, old_p = _get(lane, _C + j), _get(lane, _S + j), _get(lane, _G + j), _get(lane, _P + j)
            g = _select(start, _get(lane, _SH + j), old_g)
            f = _select(start, e, old_s * e)
            b = _select(start, e, old_c * e)
            after_p = _select(start, after, after - old_p)
            square = f * f + g * g
            # Both below 1e-145 of the norm: any rotation will do.
            empty = square < _TINY
            r = math.sqrt(square)
            inverse = r / square
            c = _select(empty, 1.0, g * inverse)
            s = _select(empty, 0.0, f * inverse)
            t = (here - after_p) * s + 2.0 * c * b
            p = s * t
            g = c * t - b
            _put(w, _D + up + j, _select(active, after_p + p, after))
            r = _select(empty | start, 0.0, r)
            keep = _get(w, _E + up + j)
            _put(w, _E + up + j, _select(active, r, keep))
            _put(w, _D + row + j, _select(end, here - p, here))
            _put(w, _E + row + j, _select(end, g, e))
            c = _select(active, c, 1.0)
            s = _select(active, s, 0.0)
            _put(lane, _G + j, g)
            _put(lane, _P + j, p)
            _put(lane, _C + j, c)
            _put(lane, _S + j, s)
        for j in range(lanes):
            c, s = _get(lane, _C + j), _get(lane, _S + j)
            y, z = _get(w, _Y + row + j), _get(w, _Y + up + j)
            _put(w, _Y + up + j, s * y + c * z)
            _put(w, _Y + row + j, c * y - s * z)
            _put(turns, at + j, c)
            _put(turns, at + _L + j, s)
        at += _TWO * _L
    return at


def _unsweep(w: Any, lane: Any, turns: Any, at: Any, low: int, high: int, lanes: Any) -> Any:
    """Undo a sweep's rotations of y, stored up to `at`; returns where they begin."""
    for k in range(low, high):
        row = np.uint64(k) * _L
        up = row + _L
        at -= _TWO * _L
        for j in range(lanes):
            c, s = _get(turns, at + j), _get(turns, at + _L + j)
            y, z = _get(w, _Y + row + j), _get(w, _Y + up + j)
            _put(w, _Y + row + j, c * y + s * z)
            _put(w, _Y + up + j, c * z - s * y)
    return at


def _backward(y: Any, out: Any, w: Any, lane: Any, reflectors: Any, rotations: Any, ranges: Any, lanes: Any) -> None:
    count, d = y.shape
    n = np.uint64(d)
    for group in range((count + LANES - 1) // LANES):
        first = group * LANES
        here = min(LANES, count - first)
        kept, turns, spans = reflectors[group], rotations[group], ranges[group]
        for r in range(d):
            for j in range(LANES):
                w[_Y + np.uint64(r) * _L + np.uint64(j)] = y[first + j, r] if j < here else 0.0
        sweep, at = 0, _ZERO
        while spans[sweep, 0] >= 0:
            at += np.uint64(int(spans[sweep, 1] - spans[sweep, 0])) * _TWO * _L
            sweep += 1
        while sweep > 0:
            sweep -= 1
            at = _unsweep(w, lane, turns, at, int(spans[sweep, 0]), int(spans[sweep, 1]), lanes)
        end = _ZERO
        for k in range(_ZERO, n - _TWO):
            end += (n - k) * _L
        for back in range(_ZERO, n - _TWO):
            low = n - _TWO - back
            _mirror(w, lane, kept, end, low, n, lanes)
            end -= (n - low + _ONE) * _L
        for r in range(d):
            for j in range(here):
                out[r, first + j] = w[_Y + np.uint64(r) * _L + np.uint64(j)]


_TYPES = {
    "_normals": "u1 w1 w1 u1 w1",
    "_affine": "w3 w2 f f f f f f",
    "_planar_eigenvalues": "r1 r1 r1 w2 w2",
    "_planar_step": "r1 w2 r2 r2 w2",
    "_forward": "r3 r2 v2 v2 w1 w1 w2 w2 w3 n",
    "_backward": "r2 v2 w1 w1 w2 w2 w3 n",
}
