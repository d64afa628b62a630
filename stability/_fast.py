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

LANES = 8  # paths that go through one QL iteration side by side: two AVX2 registers a number
MAX_DIM = 64  # rows of a lane table, one row per dimension
SUB_BLOCK = 128  # paths between two calls of the gain: their rotations stay in the caches
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
    """Tell numba about the functions that kernels call."""
    import operator

    from llvmlite import ir
    from numba import types
    from numba.core.cgutils import get_or_insert_function
    from numba.extending import intrinsic, models, overload, register_jitable, register_model

    class Pack(types.Type):
        """LANES floats, or LANES truths, in vector registers."""

    pack, truth = Pack(name=f"float64 x {LANES}"), Pack(name=f"bool x {LANES}")
    words = {pack: ir.VectorType(ir.DoubleType(), LANES), truth: ir.VectorType(ir.IntType(1), LANES)}

    @register_model(Pack)
    class PackModel(models.PrimitiveModel):
        def __init__(self, manager: Any, kind: Any):
            super().__init__(manager, kind, words[kind])

    make: Any = intrinsic

    def define(function: Any, arguments: tuple[Any, ...], result: Any, emit: Callable[..., Any]) -> None:
        """`function` of `arguments` (None: any type) as the instruction that `emit` writes."""

        def fits(*given: Any) -> bool:
            return all(want is None or want is have for want, have in zip(arguments, given, strict=True))

        def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            return emit(context, builder, signature, *values)

        if len(arguments) == 1:
            one = make(lambda typing, a: (result(a), code))
            overload(function)(lambda a: (lambda a: one(a)) if fits(a) else None)
        elif len(arguments) == 2:
            two = make(lambda typing, a, b: (result(a, b), code))
            overload(function)(lambda a, b: (lambda a, b: two(a, b)) if fits(a, b) else None)
        else:
            three = make(lambda typing, a, b, c: (result(a, b, c), code))
            overload(function)(lambda a, b, c: (lambda a, b, c: three(a, b, c)) if fits(a, b, c) else None)

    def place(context: Any, builder: Any, array: Any, value: Any, row: Any) -> Any:
        data = context.make_array(array)(context, builder, value).data
        first = builder.gep(data, [builder.mul(row, ir.Constant(row.type, LANES))], inbounds=True)
        return builder.bitcast(first, words[pack].as_pointer())

    def library(name: str) -> Callable[..., Any]:
        def emit(context: Any, builder: Any, signature: Any, *values: Any) -> Any:
            kind = ir.FunctionType(words[pack], [words[pack]] * len(values))
            return builder.call(get_or_insert_function(builder.module, kind, f"llvm.{name}.v{LANES}f64"), values)

        return emit

    def spread(context: Any, builder: Any, signature: Any, x: Any) -> Any:
        one = builder.insert_element(ir.Constant(words[pack], ir.Undefined), x, ir.Constant(ir.IntType(32), 0))
        return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES))

    def load(context: Any, builder: Any, signature: Any, array: Any, row: Any) -> Any:
        return builder.load(place(context, builder, signature.args[0], array, row), align=8)

    def store(context: Any, builder: Any, signature: Any, array: Any, row: Any, x: Any) -> None:
        builder.store(x, place(context, builder, signature.args[0], array, row), align=8)

    define(_spread, (types.float64,), pack, spread)
    define(_load, (None, types.int64), pack, load)
    define(_store, (None, types.int64, pack), types.void, store)
    define(_select, (truth, pack, pack), pack, lambda context, builder, signature, *values: builder.select(*values))
    for function, name, count in ((_root, "sqrt", 1), (_size, "fabs", 1), (_signed, "copysign", 2)):
        define(function, (pack,) * count, pack, library(name))
    for symbol, name in ((operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul"), (operator.truediv, "fdiv")):
        define(symbol, (pack, pack), pack, lambda context, builder, signature, a, b, name=name: getattr(builder, name)(a, b))
    for symbol, name in ((operator.lt, "<"), (operator.le, "<="), (operator.eq, "==")):
        define(symbol, (pack, pack), truth, lambda context, builder, signature, a, b, name=name: builder.fcmp_ordered(name, a, b))
    for symbol, name in ((operator.and_, "and_"), (operator.or_, "or_")):
        define(symbol, (truth, truth), truth, lambda context, builder, signature, a, b, name=name: getattr(builder, name)(a, b))
    for helper in (_pack, _house, _mirror, _scan, _shift, _sweep, _unsweep):
        register_jitable(error_model="numpy")(helper)


def _signature(function: Callable[..., Any]) -> Any:
    """Argument types by letter: f a float; w, v, r float arrays, contiguous, strided, strided and readonly; u, i words and integers; digits are dimensions."""
    from numba import types

    def one(code: str) -> Any:
        if code == "f":
            return types.float64
        kind, ndim = code[0], int(code[1])
        scalar = {"u": types.uint64, "i": types.int64}.get(kind, types.float64)
        return types.Array(scalar, ndim, "A" if kind in "vr" else "C", readonly=kind == "r")

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
    if out.dtype != np.float64 or not out.flags.c_contiguous:
        raise ValueError(f"`out` must be a C-contiguous float64 array; got {out.dtype} with strides {out.strides}. Use np.empty(shape).")
    if isinstance(rng.bit_generator, np.random.SFC64) and available() and _trusted():
        _fill(rng, out)
    else:
        rng.standard_normal(out=out)


def _fill(rng: np.random.Generator, out: np.ndarray) -> None:
    bits = rng.bit_generator
    with bits.lock:
        state: Any = bits.state
        _kernel(_normals)(state["state"]["state"], out.reshape(-1), *_ziggurat())
        bits.state = state


@functools.cache
def _trusted() -> bool:
    """Whether the compiled normals are this NumPy's, tails included: another NumPy, or another `log1p`, may differ one day."""
    ours, theirs = (np.random.Generator(np.random.SFC64(0)) for _ in range(2))
    out = np.empty(1 << 16)  # about 18 of them from the tail
    try:
        _fill(ours, out)
    except (ImportError, AttributeError):  # numba's private tables have moved
        return False
    return np.array_equal(out, theirs.standard_normal(len(out))) and ours.random() == theirs.random()


@functools.cache
def _ziggurat() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """NumPy's tables as numba carries them: widths with their sign (512,), bounds (256,), densities (256,)."""
    from numba.np.random import _constants as tables

    width = np.array(tables.wi_double)
    return np.concatenate([width, -width]), np.array(tables.ki_double, dtype=np.uint64), np.array(tables.fi_double)


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


@functools.cache
def planar_force(formula: Callable[[float, float], tuple[float, ...]]) -> Callable[..., None]:
    """A compiled pass over paths (x, push, pull, v, cross, lams, shape): ``v = push - pull * gradient`` and the eigenvalues of the Hessian.

    `formula` maps both coordinates to ``(g1, g2, h11, h12, h22)`` in plain arithmetic; arrays (2, m), `cross` (m,). Kept
    for the process only: numba cannot tell on disk one formula from another.
    """
    import numba

    with _COMPILING:
        options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": False}
        inner = numba.njit(inline="always", **options)(formula)

        @numba.njit("void(f8[:, ::1], f8[:, ::1], f8, f8[:, ::1], f8[::1], f8[:, ::1], f8[:, ::1])", **options)
        def force(x: Any, push: Any, pull: float, v: Any, cross: Any, lams: Any, shape: Any) -> None:
            for j in range(x.shape[1]):
                first, second, h11, h12, h22 = inner(x[0, j], x[1, j])
                v[0, j], v[1, j], cross[j] = push[0, j] - first * pull, push[1, j] - second * pull, h12
                m, g = (h11 + h22) * 0.5, (h11 - h22) * 0.5
                r = math.sqrt(g * g + h12 * h12)
                lams[0, j], lams[1, j], shape[0, j], shape[1, j] = m + r, m - r, g, r

    return force


def planar_step(h12: np.ndarray, shape: np.ndarray, phi: np.ndarray, v: np.ndarray, x: np.ndarray, work: np.ndarray, *, compiled: bool = True) -> None:
    """``x += P v`` for 2 x 2 matrices after `planar_eigenvalues`: ``P = (phi1 + phi2)/2 + (phi1 - phi2)/(2r) [[g, h12], [h12, -g]]``.

    `h12` (B,) with any stride; `shape`, the gains `phi`, `v` and `x` (2, B) contiguous; `work` (4, B) is for the NumPy
    form. Where ``r = 0`` the second term is left out. A non-finite Hessian gives nan.
    """
    if compiled and available():
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
# LANES paths lie side by side in every row of a table, and one line of a kernel works on the row: a vector instruction,
# written out because LLVM's own vectorizer gives up on these loops. No path's arithmetic sees another path.

_D, _E, _Y, _U, _Q, _MATRIX = (k * MAX_DIM for k in range(6))  # rows of the table, one per dimension
_LM, _LDM, _CL, _CM, _CDM, _CDL, _CDR, _CEL, _SH, _SC, _T1, _T2, _G, _P, _C, _S = range(16)  # rows of the lanes' own numbers
_EPS = 2.0**-52
_SMALL = 1e-145  # what counts as zero, beside a matrix scaled to about 1
_TINY = _SMALL**2
_DONE = 1e9  # the block start of a lane that has converged


def _spread(x: Any) -> Any:
    """A row of equal numbers. This and the next six are instructions, given by `_register_helpers`."""


def _load(table: Any, row: Any) -> Any:
    """A row."""


def _store(table: Any, row: Any, x: Any) -> Any:
    """Write a row."""


def _select(test: Any, yes: Any, no: Any) -> Any:
    """``yes`` where `test`, else ``no``."""


def _root(x: Any) -> Any:
    """Square roots."""


def _size(x: Any) -> Any:
    """Absolute values."""


def _signed(x: Any, sign: Any) -> Any:
    """``|x|`` with the sign of `sign`."""


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
        self._table = np.zeros((_MATRIX + dim * dim) * LANES)
        self._lane = np.zeros(16 * LANES)
        self._reflectors = np.empty((self.groups, dim * (dim + 1) * LANES))
        self._rotations = np.empty((self.groups, self.sweeps * (dim - 1) * 2 * LANES))
        self._ranges = np.empty((self.groups, self.sweeps + 1, 2), dtype=np.int64)
        self._lams, self._y, self._out = np.empty((dim, paths)), np.empty((dim, paths)), np.empty((dim, paths))

    def forward(self, hessian: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Eigenvalues, in no order, and ``y = Q^T v``: (B, d, d) and (B, d), any strides -> two views (B, d), overwritten by the next call."""
        b = len(hessian)  # checked: the kernels trust their bounds
        if b > self.paths or hessian.shape[1:] != (self.dim, self.dim) or v.shape != (b, self.dim):
            raise ValueError(f"`hessian` must be at most ({self.paths}, {self.dim}, {self.dim}) with `v` alike; got {hessian.shape} and {v.shape}.")
        lams, y = self._lams[:, :b], self._y[:, :b]
        _kernel(_forward)(hessian, v, lams, y, self._table, self._lane, self._reflectors, self._rotations, self._ranges)
        return lams.T, y.T

    def backward(self, y: np.ndarray) -> np.ndarray:
        """``Q y`` for the matrices of the last `forward`: (B, d), any strides -> a view (B, d), overwritten by the next call."""
        if len(y) > self.paths or y.shape[1:] != (self.dim,):
            raise ValueError(f"`y` must be at most ({self.paths}, {self.dim}); got {y.shape}.")
        out = self._out[:, : len(y)]
        _kernel(_backward)(y, out, self._table, self._reflectors, self._rotations, self._ranges)
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


def _forward(hessian: Any, v: Any, lams: Any, out: Any, w: Any, lane: Any, reflectors: Any, rotations: Any, ranges: Any) -> None:
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
    """Reduce the matrices to tridiagonal form, reflect y, and store the reflectors in `kept`: per column 1/h, then u."""
    zero, half, tiny = _spread(0.0), _spread(0.5), _spread(_TINY)
    at = 0
    for k in range(n - 2):
        low = k + 1
        square = zero
        for r in range(low, n):
            x = _load(w, _MATRIX + k * n + r)
            _store(w, _U + r, x)
            square = square + x * x
        # u = x + sign(x_1)|x| e_1, h = u.u/2; a column below 1e-145 of the norm is taken as zero.
        x = _load(w, _U + low)
        size = _signed(_root(square), x)
        empty = square < tiny
        scale = _select(empty, zero, _spread(1.0) / (square + x * size))
        _store(w, _E + k, _select(empty, zero, zero - size))
        _store(w, _U + low, _select(empty, zero, x + size))
        # p = A u / h, K = u.p / 2h, q = p - K u, A -= u q^T + q u^T.
        inner = zero
        for r in range(low, n):
            p = zero
            for c in range(low, n):
                p = p + _load(w, _MATRIX + r * n + c) * _load(w, _U + c)
            p = p * scale
            _store(w, _Q + r, p)
            inner = inner + p * _load(w, _U + r)
        inner = inner * half * scale
        for r in range(low, n):
            _store(w, _Q + r, _load(w, _Q + r) - inner * _load(w, _U + r))
        for r in range(low, n):
            u, q = _load(w, _U + r), _load(w, _Q + r)
            for c in range(low, n):
                # The same numbers for (r, c) and (c, r), in either order: the matrix stays symmetric.
                change = u * _load(w, _Q + c) + q * _load(w, _U + c)
                _store(w, _MATRIX + r * n + c, _load(w, _MATRIX + r * n + c) - change)
        _store(kept, at, scale)
        for r in range(low, n):
            _store(kept, at + 1 + r - low, _load(w, _U + r))
        _mirror(w, kept, at, low, n)
        at += 1 + n - low
    _store(w, _E + n - 2, _load(w, _MATRIX + (n - 1) * n + n - 2))
    _store(w, _E + n - 1, zero)
    for r in range(n):
        _store(w, _D + r, _load(w, _MATRIX + r * n + r))


def _mirror(w: Any, kept: Any, at: int, low: int, n: int) -> None:
    """Reflect y by the reflector of rows `low` to n that is stored at `at`."""
    inner = _spread(0.0)
    for r in range(low, n):
        inner = inner + _load(kept, at + 1 + r - low) * _load(w, _Y + r)
    inner = inner * _load(kept, at)
    for r in range(low, n):
        _store(w, _Y + r, _load(w, _Y + r) - inner * _load(kept, at + 1 + r - low))


def _scan(w: Any, lane: Any, n: int, low: int) -> tuple[int, int]:
    """Drop small off-diagonals and find each lane's first unreduced block; the rows that any lane works on, or high < 0."""
    zero, eps, nothing = _spread(0.0), _spread(_EPS), _spread(_SMALL)
    end, end_d = _spread(float(n - 1)), _load(w, _D + n - 1)
    after = end_d
    cl, cm, cdm, cdl, cdr, cel = _spread(_DONE), zero, zero, zero, zero, _spread(1.0)
    for i in range(n - 2, low - 1, -1):
        e, here = _load(w, _E + i), _load(w, _D + i)
        number = _spread(float(i))
        small = _size(e) <= eps * (_size(here) + _size(after)) + nothing
        _store(w, _E + i, _select(small, zero, e))
        cl, cm, cdm = _select(small, cl, number), _select(small, cm, end), _select(small, cdm, end_d)
        cdl, cdr, cel = _select(small, cdl, here), _select(small, cdr, after), _select(small, cel, e)
        end, end_d = _select(small, number, end), _select(small, here, end_d)
        after = here
    _store(lane, _CL, cl)
    _store(lane, _CM, cm)
    _store(lane, _CDM, cdm)
    _store(lane, _CDL, cdl)
    _store(lane, _CDR, cdr)
    _store(lane, _CEL, cel)
    low, high = n, -1
    for j in range(LANES):
        if lane[_CL * LANES + j] < _DONE:
            low, high = min(low, int(lane[_CL * LANES + j])), max(high, int(lane[_CM * LANES + j]))
    return low, high


def _shift(lane: Any) -> None:
    """Wilkinson's shift of each lane's block, as ``d_m - shift``."""
    e, left = _load(lane, _CEL), _load(lane, _CDL)
    g = (_load(lane, _CDR) - left) / (e + e)
    _store(lane, _SH, _load(lane, _CDM) - left + e / (g + _signed(_root(g * g + _spread(1.0)), g)))


def _sweep(w: Any, lane: Any, turns: Any, at: int, low: int, high: int) -> int:
    """One implicit QL sweep of every lane's block, the rotations applied to y and stored from `at` on; returns their end."""
    zero, one, tiny = _spread(0.0), _spread(1.0), _spread(_TINY)
    cl, cm, shift = _load(lane, _CL), _load(lane, _CM), _load(lane, _SH)
    c, s, g, p = one, zero, zero, zero
    after, z = _load(w, _D + high), _load(w, _Y + high)
    for i in range(high - 1, low - 1, -1):
        number = _spread(float(i))
        active = (cl <= number) & (number < cm)
        start, end = cm == number + one, cl == number
        e, here, y = _load(w, _E + i), _load(w, _D + i), _load(w, _Y + i)
        g = _select(start, shift, g)
        f = _select(start, e, s * e)
        b = _select(start, e, c * e)
        p = _select(start, zero, p)
        square = f * f + g * g
        # Both below 1e-145 of the norm: any rotation will do.
        empty = square < tiny
        r = _root(square)
        inverse = r / square
        c = _select(empty, one, g * inverse)
        s = _select(empty, zero, f * inverse)
        moved = after - p
        t = (here - moved) * s + (c * b + c * b)
        p = s * t
        g = c * t - b
        _store(w, _D + i + 1, _select(active, moved + p, after))
        _store(w, _E + i + 1, _select(active, _select(empty | start, zero, r), _load(w, _E + i + 1)))
        after = _select(end, here - p, here)
        _store(w, _E + i, _select(end, g, e))
        turn_c, turn_s = _select(active, c, one), _select(active, s, zero)
        _store(turns, at, turn_c)
        _store(turns, at + 1, turn_s)
        _store(w, _Y + i + 1, turn_s * y + turn_c * z)
        z = turn_c * y - turn_s * z
        at += 2
    _store(w, _D + low, after)
    _store(w, _Y + low, z)
    return at


def _unsweep(w: Any, turns: Any, at: int, low: int, high: int) -> int:
    """Undo a sweep's rotations of y, stored up to `at`; returns where they begin."""
    y = _load(w, _Y + low)
    for i in range(low, high):
        at -= 2
        c, s, z = _load(turns, at), _load(turns, at + 1), _load(w, _Y + i + 1)
        _store(w, _Y + i, c * y + s * z)
        y = c * z - s * y
    _store(w, _Y + high, y)
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


_TYPES = {
    "_normals": "u1 w1 w1 u1 w1",
    "_affine": "w3 w2 f f f f f f",
    "_planar_eigenvalues": "r1 r1 r1 w2 w2",
    "_planar_step": "r1 w2 r2 r2 w2",
    "_forward": "r3 r2 v2 v2 w1 w1 w2 w2 i3",
    "_backward": "r2 v2 w1 w2 w2 i3",
}
