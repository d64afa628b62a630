"""Standard normals with NumPy's own bits."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from . import compiler

_ONE, _THREE, _EIGHT, _NINE, _ELEVEN, _LEFT, _RIGHT = (np.uint64(n) for n in (1, 3, 8, 9, 11, 24, 40))
_INDEX, _SIGNED, _MANTISSA = np.uint64(0xFF), np.uint64(0x1FF), np.uint64(0x000FFFFFFFFFFFFF)
_UNIT = 2.0**-53
_TAIL, _TAIL_INVERSE = 3.6541528853610087963519472518, 0.27366123732975827203338247596
"""Where NumPy's ziggurat ends."""


def fill(rng: np.random.Generator, out: np.ndarray) -> None:
    """Fill C-contiguous `out` (float64, any shape) with standard normals.

    As ``rng.standard_normal(out=out)`` does, bits and state. Other bit generators than SFC64 are left to it.
    """
    if out.dtype != np.float64 or not out.flags.c_contiguous:
        raise ValueError(
            f"`out` must be a C-contiguous float64 array; got {out.dtype} with strides {out.strides}. Use "
            "np.empty(shape)."
        )
    if isinstance(rng.bit_generator, np.random.SFC64) and compiler.available() and _trusted():
        _fill(rng, out)
    else:
        rng.standard_normal(out=out)


def _fill(rng: np.random.Generator, out: np.ndarray) -> None:
    bits = rng.bit_generator
    with bits.lock:
        state: Any = bits.state
        compiler.kernel(_normals, KERNELS[_normals])(state["state"]["state"], out.reshape(-1), *_ziggurat())
        bits.state = state


@functools.cache
def _trusted() -> bool:
    """Whether the compiled normals are this NumPy's: another one, or another `log1p`, may differ one day."""
    ours, theirs = (np.random.Generator(np.random.SFC64(0)) for _ in range(2))
    out = np.empty(1 << 16)  # about 18 of them from the tail
    try:
        _fill(ours, out)
    except (ImportError, AttributeError):  # numba's private tables have moved
        return False
    return np.array_equal(out, theirs.standard_normal(len(out))) and ours.random() == theirs.random()


@functools.cache
def _ziggurat() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """NumPy's tables as numba has them: widths with their sign (512,), bounds (256,), densities (256,)."""
    from numba.np.random import _constants as tables

    width = np.array(tables.wi_double)
    bound = np.array(tables.ki_double, dtype=np.uint64)
    return np.concatenate([width, -width]), bound, np.array(tables.fi_double)


def _normals(state: Any, out: Any, width: Any, bound: Any, density: Any) -> None:
    """NumPy's ziggurat on SFC64 words; `state` (4,) is advanced."""
    # The generator is repeated inline: a call would keep it out of registers.
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
        # The sign from the table: a branch on it is mispredicted half the time.
        x = np.float64(np.int64(mantissa)) * width[word & _SIGNED]
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


KERNELS = {_normals: "u1 w1 w1 u1 w1"}
