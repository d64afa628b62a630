"""Plain functions compiled by numba, once each, for one explicit signature.

Without the interpreter's lock and without fused or reordered arithmetic; never with numba's own threads,
which abort a process that has threads.
"""

from __future__ import annotations

import functools
import importlib.util
import threading
from collections.abc import Callable
from typing import Any

_COMPILING = threading.Lock()


@functools.cache
def available() -> bool:
    """Whether numba can be imported, and compiles: the kernels' vector instructions are no plain Python."""
    try:
        if importlib.util.find_spec("numba") is None:
            return False
        import numba
    except Exception:  # present but refusing this Python or NumPy: the NumPy forms serve
        return False
    return not getattr(numba.config, "DISABLE_JIT", False)


def kernel(
    function: Callable[..., Any], types: str, prepare: Callable[[], None] | None = None
) -> Callable[..., Any]:
    """`function` compiled; kept for the process, and on disk where a cache directory can be written.

    `types` has a word for every argument: f a float; w, v, r float arrays, contiguous, strided, strided and
    readonly; u, i words and integers, contiguous; digits are dimensions. `prepare` is called before numba
    reads the function.
    """
    with _COMPILING:
        return _compiled(function, types, prepare)


@functools.cache
def _compiled(
    function: Callable[..., Any], types: str, prepare: Callable[[], None] | None
) -> Callable[..., Any]:
    import numba

    if prepare is not None:
        prepare()
    signature = _signature(types)
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": False}
    try:
        return numba.njit(signature, cache=True, **options)(function)
    except Exception:  # no writable cache, a full disk, a damaged cache file: compile for this process alone
        return numba.njit(signature, cache=False, **options)(function)


def _signature(words: str) -> Any:
    from numba import types

    def one(code: str) -> Any:
        if code == "f":
            return types.float64
        kind, ndim = code[0], int(code[1])
        scalar = {"u": types.uint64, "i": types.int64}.get(kind, types.float64)
        return types.Array(scalar, ndim, "A" if kind in "vr" else "C", readonly=kind == "r")

    return types.void(*(one(code) for code in words.split()))
