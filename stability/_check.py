"""Argument checks and the wording of errors: "`name` must be X; got Y. Do Z."."""

from __future__ import annotations

import functools
import inspect
import math
import numbers
import os
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np

from . import _files

T = TypeVar("T", str, int)
P = ParamSpec("P")
R = TypeVar("R")


class Unstable(ArithmeticError):
    """A moment, a covariance or a step limit was asked for where the flow has none.

    Attributes
    ----------
    modes : tuple of int
        Indices of the offending modes, in the order of ``LinearFlow.eigenvalues``.
    rates : tuple of float
        Their linear rates ``a_i = -phi_i lambda_i`` (per unit of ``t = iteration * step``).

    Examples
    --------
    >>> import stability as st
    >>> flow = st.Flow(st.quadratic([1.0, -0.5]), st.SGD(), st.Noise(gradient=0.1), step=0.1)
    >>> try:
    ...     st.linearize(flow).covariance()
    ... except st.Unstable as error:
    ...     print(error.modes, error.rates)
    (1,) (0.5,)
    """

    def __init__(self, message: str, *, modes: Iterable[int] = (), rates: Iterable[float] = ()):
        super().__init__(message)
        self.modes = tuple(int(i) for i in modes)
        self.rates = tuple(float(a) for a in rates)


def counted(number: int, noun: str) -> str:
    """So many of something: "1 dimension", "1000 dimensions"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


class Lacking(ValueError, TypeError):
    """An object lacks a member that was asked of it."""


class StabilityWarning(UserWarning):
    """A number came out, but not as wanted: a time step beyond its limit, an accuracy not reached.

    Examples
    --------
    >>> import warnings, stability as st
    >>> flow = st.Flow(st.quadratic([1.0]), st.SGD(), step=0.1)
    >>> with warnings.catch_warnings(record=True) as told:
    ...     warnings.simplefilter("always")
    ...     ens = st.simulate(flow, start=[1.0], t_end=30.0, dt=3.0, paths=2, seed=0)
    >>> [warning.category is st.StabilityWarning for warning in told]
    [True]
    """


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during long work: what was finished is in `result`.

    Attributes
    ----------
    result : Ensemble or History
        Of the blocks of paths that had reached the end; of the iterations so far.

    Examples
    --------
    >>> import stability as st
    >>> flow = st.Flow(st.quadratic([1.0]), st.SGD(), st.Noise(gradient=0.1), step=0.1)
    >>> try:
    ...     ens = st.simulate(flow, start=[1.0], t_end=1.0, paths=100, seed=0)
    ... except st.Interrupted as stopped:  # Ctrl-C
    ...     ens = stopped.result
    >>> len(ens.diverged)
    100
    """

    def __init__(self, message: str, result: Any):
        super().__init__(message)
        self.result = result

    @property
    def ensemble(self) -> Any:
        """`result`, where it is an ensemble."""
        return self.result


def numbers_of(name: str, value: Any) -> np.ndarray:
    """`value` as a NumPy array of real numbers, as wide as they came; no digit, mask or part goes unseen.

    The one way in for arrays of a user's own, given or returned: lists, pandas, PyTorch tensors and whatever
    else NumPy reads. Raises naming the argument and the fix.
    """
    found = value if type(value) is np.ndarray else _on_host(name, value)
    if found.dtype.kind in "fiub":
        return found
    if found.dtype.kind == "c":
        raise ValueError(
            f"`{name}` must be an array of numbers; got complex ones. Pass .real where the imaginary part is "
            "rounding."
        )
    # NumPy would read text, dates and None as floats without a word.
    numeric = found.dtype.kind == "V" and found.dtype.names is None  # as bfloat16 is to NumPy
    if found.dtype.kind == "O":
        numeric = not any(isinstance(item, _NO_NUMBERS) for item in found.flat)
    try:
        if numeric:
            return found.astype(float)
    except (TypeError, ValueError, OverflowError):
        pass
    raise ValueError(f"`{name}` must be an array of numbers; got {shown(value)}.{_hint(value)}")


_NO_NUMBERS = (str, bytes, complex, np.complexfloating, type(None), np.datetime64, np.timedelta64)


def _on_host(name: str, value: Any) -> np.ndarray:
    """`value` as an array of NumPy's, whatever its numbers are."""
    hidden = _masked(value)
    if hidden:
        raise ValueError(
            f"`{name}` must be an array without a mask; {hidden} of its entries are masked. Leave them "
            "out, or fill them: numpy.ma.filled(values, fill_value)."
        )
    # By the names of modules: neither library is imported for the question.
    home = {kind.__module__.partition(".")[0] for kind in type(value).__mro__}
    if "torch" in home and value.device.type == "cpu":
        value = value.detach()
        value = value.float() if unit(value) > _UNITS["float16"] else value  # NumPy has no bfloat16
    elif home & {"torch", "cupy"}:
        how = ".cpu()" if "torch" in home else ".get()"
        raise ValueError(
            f"`{name}` must be an array on the host; got one on {value.device}. Pass it as {how}."
        )
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise ValueError(f"`{name}` must be an array of numbers; got {shown(value)}.{_hint(value)}") from None


def _masked(value: Any) -> int:
    """How many entries a mask hides, in lists of arrays too: NumPy drops those masks."""
    if isinstance(value, np.ma.MaskedArray):
        return int(np.count_nonzero(np.ma.getmaskarray(value)))
    if not isinstance(value, (list, tuple)):
        return 0
    # By the kinds of its entries, of which there are few: a list of a million numbers is not walked twice.
    plain = all(issubclass(kind, (numbers.Number, str)) for kind in set(map(type, value)))
    return 0 if plain else sum(map(_masked, value))


def _hint(value: Any) -> str:
    """What to do with what has numbers, but not as an array."""
    if hasattr(value, "toarray"):
        return " Pass a dense array: .toarray()."
    if "sparse" in str(getattr(value, "layout", "")):
        return " Pass a dense one: .to_dense()."
    if hasattr(value, "isna") and np.any(value.isna()):
        return " Fill the missing values, or leave them out."
    if getattr(getattr(value, "dtype", None), "names", None):
        return " Pass numpy.lib.recfunctions.structured_to_unstructured(values)."
    return ""


def returned(name: str, found: Any, beside: Any, shape: tuple[int, ...]) -> Any:
    """What a user's function gave, of this shape, and of the library and the width of `beside`.

    Raises naming the function, what it gave, and what to return. Whether it is finite is not asked: that
    paths diverge is no mistake.
    """
    kind = type(beside)
    # What nearly every call is, in the innermost loop of a run: three comparisons.
    if type(found) is kind and found.dtype == beside.dtype and found.shape == shape:
        return found
    if shape == () and isinstance(found, numbers.Real):
        return float(found)
    here = kind.__module__.partition(".")[0] in ("numpy", "builtins")
    if here:
        found = numbers_of(name, found)
    elif not isinstance(found, kind):
        raise ValueError(
            f"`{name}` must give what it is given, {kind.__module__}.{kind.__name__}; got {shown(found)}."
        )
    if tuple(found.shape) != tuple(shape):
        how = _reshape(found, shape)
        raise ValueError(f"`{name}` must have shape {tuple(shape)}; got shape {tuple(found.shape)}.{how}")
    if here:
        dtype = getattr(beside, "dtype", np.dtype(float))
        with np.errstate(over="ignore"):
            return found.astype(dtype if dtype.kind == "f" else float, copy=False)
    import array_api_compat

    xp = array_api_compat.array_namespace(beside)
    if xp.isdtype(found.dtype, "complex floating"):
        raise ValueError(f"`{name}` must give real numbers; got {found.dtype}. Return the real part.")
    return xp.astype(found, beside.dtype, copy=False)


def _reshape(found: Any, shape: tuple[int, ...]) -> str:
    """What to do with a result of another shape, where axes of length one are all that differs."""
    if [n for n in found.shape if n != 1] == [n for n in shape if n != 1]:
        return f" Return it with .reshape({tuple(shape)})."
    return " Its last axes are the coordinates'; those before them are the batch of states."


def floats(name: str, value: Any) -> np.ndarray:
    """`value` as a float64 array, finite or not; one that is already stays as it is."""
    return numbers_of(name, value).astype(float, copy=False)


IMPUTE = "Remove or impute them."
"""What to do with data that are not finite."""


def array(
    name: str,
    value: Any,
    *,
    shape: str | None = None,
    ndim: int | tuple[int, ...] | None = None,
    advice: str = "",
) -> np.ndarray:
    """`value` as a finite float64 array; raises naming the argument, its shape and what was wrong."""
    with np.errstate(over="ignore"):  # of wider numbers; found below
        result = numbers_of(name, value).astype(float)
    allowed = (ndim,) if isinstance(ndim, int) else ndim
    if allowed is not None and result.ndim not in allowed:
        wanted = shape or " or ".join(f"{n} axes" for n in allowed)
        raise ValueError(f"`{name}` must have shape {wanted}; got shape {result.shape}.")
    bad = int(np.count_nonzero(~np.isfinite(result)))
    if bad:
        told = f"`{name}` must be finite; {bad} of its {result.size} entries are nan or infinite. {advice}"
        raise ValueError(told.rstrip())
    return result


def shaped(name: str, value: Any, shape: tuple[int, ...], *, at: Any = None) -> np.ndarray:
    """`value` as a finite array of exactly this shape; `at` is the state where a function gave it."""
    advice = ""
    if at is not None:
        place = np.array2string(np.asarray(at), precision=4, threshold=6)
        advice = f"Choose another point than {place}, where the function is smooth, or mend the derivative."
    result = array(name, value, advice=advice)
    if result.shape != shape:
        raise ValueError(f"`{name}` must have shape {shape}; got shape {result.shape}.")
    return result


def state(name: str, value: Any, dim: int) -> np.ndarray:
    """`value` as a finite array of shape (..., dim)."""
    result = array(name, value)
    if result.ndim == 0 or result.shape[-1] != dim:
        raise ValueError(
            f"`{name}` must have shape (..., {dim}), the last axis being the state; got shape {result.shape}."
        )
    return result


def number(value: Any) -> Any:
    """The number in a NumPy scalar, an array or a tensor of no axes; anything else as it is.

    One of a narrower type is read by its shortest decimal: ``float32(0.1)`` is 0.1, as it was written, and a
    time of 1 then is ten of it.
    """
    if isinstance(value, (bool, int, float)) or getattr(value, "shape", None) != ():
        return value
    found: Any = as_written(numbers_of("value", value))[()]
    return found.item()


def as_written(values: np.ndarray) -> np.ndarray:
    """Numbers of a type narrower than float64 by their shortest decimals; others as they are."""
    # 0.1 in float32 is 0.100000001490116 else, and no time is a multiple of it.
    narrow = values.dtype.kind == "f" and values.dtype.itemsize < 8
    return values.astype(str).astype(float) if narrow else values


def _real(value: Any) -> Any:
    """A real number as Python's own, infinite where it is beyond all floats; None for anything else."""
    try:
        value = number(value)
    except ValueError:  # text, or a mask
        return None
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    try:
        return float(value)
    except OverflowError:
        # A whole number of four hundred digits: its sign is all that a float can tell.
        return math.inf if abs(value) == value else -math.inf


def positive(name: str, value: Any, *, infinite: bool = False, advice: str = "") -> float:
    """`value` as a float > 0 (and finite unless `infinite`)."""
    found = _real(value)
    # `not >` refuses nan, which `<=` would let pass.
    if found is None or not found > 0 or (math.isinf(found) and not infinite):
        wanted = "a number > 0" if infinite else "a finite number > 0"
        raise ValueError(f"`{name}` must be {wanted}; got {shown(value)}.{advice}")
    return found


def nonnegative(name: str, value: Any) -> float:
    """`value` as a finite float >= 0."""
    found = _real(value)
    if found is None or not 0 <= found < math.inf:
        raise ValueError(f"`{name}` must be a finite number >= 0; got {shown(value)}.")
    return found


def finite(name: str, value: Any) -> float:
    """`value` as a finite float of any sign."""
    found = _real(value)
    if found is None or not math.isfinite(found):
        raise ValueError(f"`{name}` must be a finite number; got {shown(value)}.")
    return found


def fraction(name: str, value: Any) -> float:
    """`value` as a float in [0, 1)."""
    found = _real(value)
    if found is None or not 0 <= found < 1:
        raise ValueError(f"`{name}` must be in [0, 1); got {shown(value)}.")
    return found


MOST_ASKED = 10**7
"""Steps that a function is asked for before the first is taken: a few seconds' worth."""


def is_schedule(value: Any) -> bool:
    """Whether this is a step for each iteration: a function of its number, or an array of them."""
    if isinstance(value, (str, type)):  # a class that was not called is a slip, and no schedule
        return False
    return callable(value) or len(getattr(value, "shape", ())) > 0 or isinstance(value, (list, tuple, range))


def schedule(name: str, value: Any, count: int, *, end: str) -> np.ndarray:
    """The lengths (count,) of all steps of a run, each finite and > 0.

    Parameters
    ----------
    value : callable or array
        A function of the iteration, counted from 0, or at least `count` lengths.
    end : str
        The argument that ends a run after k iterations, as in ``"iterations={k}"``.
    """
    if not callable(value):
        lengths = floats(name, as_written(numbers_of(name, value)))
        if lengths.ndim != 1:
            raise ValueError(f"`{name}` must have shape (iterations,); got shape {lengths.shape}.")
        if len(lengths) < count:
            ending = f"Give {count}, or end the run there: {end.format(k=len(lengths))}."
            raise ValueError(
                f"`{name}` must have a length for each of {count} iterations; got {len(lengths)}. {ending}"
            )
        lengths = lengths[:count]
    elif count > MOST_ASKED:
        raise ValueError(
            f"`{name}` is a function, which is asked for all steps before the first: for {count:.3g} here, "
            f"and at most {MOST_ASKED:.0e}. End the run sooner: {end.format(k=MOST_ASKED)}."
        )
    else:
        # All are asked before the first step: a bad one is told at once, not hours into a run.
        asked = (_real(value(k)) for k in range(count))
        lengths = np.array([math.nan if found is None else found for found in asked])
    return steps(name, lengths, f"end the run there: {end}")


def steps(name: str, lengths: np.ndarray, end: str) -> np.ndarray:
    """Lengths (k,) of steps, all finite and > 0; `end` says how to stop before step ``{k}``."""
    wrong = np.flatnonzero(~((lengths > 0) & np.isfinite(lengths)))
    if len(wrong):
        k = int(wrong[0])
        ending = f", or {end.format(k=k)}" if k else ""
        raise ValueError(
            f"`{name}` must be a finite number > 0 at every iteration; got {lengths[k]:g} at iteration {k}, "
            f"counted from 0. Keep it above 0{ending}."
        )
    return lengths


MOST = 2**53
"""What may be counted, unless less: up to here floating-point numbers tell whole ones apart."""


def seed(value: Any, name: str = "seed") -> int:
    """`value` as a seed: a whole number of any length, as `secrets.randbits(128)` gives."""
    return count(name, value, least=0, most=math.inf)


def count(name: str, value: Any, *, least: int = 1, most: float | None = None, why: str = "") -> int:
    """`value` as an integer in [least, most]; `most` is `MOST` unless given."""
    try:
        found = number(value)
    except ValueError:
        found = None
    whole = isinstance(found, numbers.Integral) and not isinstance(found, bool)
    beyond = whole and found > (MOST if most is None else most)
    if not whole or found < least or beyond:
        upper = " and <= 2^53" * beyond if most is None else f" and <= {most}" * math.isfinite(most)
        if least == most:
            raise ValueError(f"`{name}` must be {least}{why and f' {why}'}; got {shown(value)}.")
        convert = " Convert it: int(...)." if isinstance(found, float) and found.is_integer() else ""
        raise ValueError(
            f"`{name}` must be an integer >= {least}{upper}{why and f' ({why})'}; got {shown(value)}."
            f"{convert}"
        )
    return int(found)


def whole_steps(name: str, t: float, dt: float, *, most: float, advice: str = "") -> int:
    """How many time steps a time `t` > 0 takes, which must be a whole number of them."""
    # Before rounding: infinity has no nearest whole number.
    if t / dt > most + 0.5 or math.isinf(t / dt):
        raise ValueError(
            f"`{name}` = {t:g} is {t / dt:.2g} time steps of {dt:g}; at most {most:.0e} are taken.{advice}"
        )
    steps = round(t / dt)
    if steps < 1 or abs(t / dt - steps) > 1e-9 * steps:
        raise ValueError(
            f"`{name}` must be a multiple of the time step {dt:.10g}; got {t:.10g}. Try "
            f"{max(steps, 1) * dt:.10g}."  # with fewer digits it need not be one
        )
    return steps


def saved_times(name: str, value: Any, dt: float, end: float) -> np.ndarray:
    """Increasing times in [0, end], multiples of `dt` where there is one."""
    times = array(name, value, ndim=(0, 1), shape="(times,)")
    if times.ndim == 0:
        raise ValueError(
            f"`{name}` must be a whole number of times, or times; got {shown(value)}. For this one time pass "
            f"[{times:g}]."
        )
    if not len(times):
        raise ValueError(f"`{name}` must hold increasing times in [0, {end:g}]; got none.")
    falls = np.flatnonzero(np.diff(times) <= 0)
    if len(falls):
        before, after = times[falls[0] : falls[0] + 2]
        raise ValueError(
            f"`{name}` must hold increasing times in [0, {end:g}]; got {after:g} after {before:g}. Pass "
            f"sorted(set({name}))."
        )
    # Times that were computed in float32 are multiples as far as that type can say.
    near = max(1e-9, 4 * unit(value))
    outside = times[(times < 0) | (times > end * (1 + (near if dt else 1e-12)))]
    if len(outside):
        raise ValueError(f"`{name}` must hold increasing times in [0, {end:g}]; got {outside[0]:g}.")
    if not dt:
        return np.minimum(times, end)
    steps = np.round(times / dt)
    apart = times[np.abs(times / dt - steps) > near * np.maximum(1, steps)]
    if len(apart):
        nearest = f"numpy.unique(numpy.round(numpy.divide({name}, {dt:.10g}))) * {dt:.10g}"
        raise ValueError(
            f"`{name}` must hold multiples of the time step {dt:.10g}; got {apart[0]:g}. Take a shorter time "
            f"step, or the nearest times: {nearest}."
        )
    return steps * dt


MEMORY_SHARE = 0.7
"""Of the machine's memory: the most that one array may be asked to take."""


def memory() -> float:
    """The machine's memory, in bytes; 16 GB where it does not tell."""
    return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")) if hasattr(os, "sysconf") else 16e9


def room(needs: str, numbers: float, *, advice: str, width: int = 8, why: str = "") -> None:
    """Raise, before anything is allocated, where so many numbers do not fit into memory.

    `needs` says what needs it: "The Hessian needs".
    """
    asked, total = float(numbers) * width, memory()
    if not fits(numbers, width):
        raise ValueError(
            f"{needs} {asked / 1e9:.1f} GB of {total / 1e9:.0f} GB{why and f': {why}'}. {advice}"
        )


def fits(numbers: float, width: int = 8) -> bool:
    """Whether so many numbers fit into memory."""
    return float(numbers) * width <= MEMORY_SHARE * memory()


def choice(name: str, value: T, known: Iterable[T], advice: str = "") -> T:
    """`value` if it is one of the known ones; the error lists them, and adds `advice`."""
    known = list(known)
    if not isinstance(value, (str, int)) or value not in known:
        listed = ", ".join(map(str, known))
        raise ValueError(f"`{name}` must be one of {listed}; got {shown(value)}.{advice and ' '}{advice}")
    return value


def flag(name: str, value: Any) -> bool:
    """`value` if it is True or False: a text such as "no" would count as True."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"`{name}` must be True or False; got {shown(value)}.")
    return bool(value)


_UNITS = {"bfloat16": 2.0**-7, "float16": 2.0**-10, "float32": 2.0**-23, "float64": 2.0**-52}


def unit(*forms: Any) -> float:
    """The rounding unit of the arithmetic that numbers came from: their type's, or that of a narrower one.

    Numbers that were computed in float32 and converted keep its errors: nearly all of them then fill 24 bits,
    and none has more.
    """
    return max(map(_unit, forms))


def _unit(values: Any) -> float:
    own = _UNITS.get(str(getattr(values, "dtype", "")).rpartition(".")[2], _UNITS["float64"])
    if own > _UNITS["float64"] or not isinstance(values, np.ndarray) or values.dtype != float:
        return own
    with np.errstate(all="ignore"):
        single = values.astype(np.float32)
    if not np.array_equal(single, values):
        return own
    filled = single[single != 0]
    # The upper 16 of the 24 bits that a float32 has: a number that needs no more is short.
    digits = np.ldexp(np.frexp(filled)[0], 16)
    # Whole numbers and short fractions are exact in any type, and tell nothing.
    rough = (digits != np.rint(digits)) & (filled != np.rint(filled))
    return _UNITS["float32"] if rough.size and np.mean(rough) > 0.5 else own


def asymmetry(*forms: Any) -> float:
    """The share of a matrix's largest entry that rounding may put between it and its transpose.

    1e-8 in float64, and by the root of the rounding unit elsewhere.
    """
    return 1e-8 * (unit(*forms) / _UNITS["float64"]) ** 0.5


def symmetric(
    name: str,
    matrix: Any,
    *,
    advice: str = "Check the derivative with st.check_derivatives, or pass (H + H.T) / 2.",
) -> np.ndarray:
    """`matrix` (..., d, d) symmetrised, or an error that says how far from symmetric it is."""
    given, matrix = matrix, numbers_of(name, matrix)
    allowed, matrix = asymmetry(given, matrix), matrix.astype(float, copy=False)
    if matrix.ndim < 2 or matrix.shape[-1] != matrix.shape[-2]:
        raise ValueError(f"`{name}` must have shape (..., d, d); got shape {matrix.shape}.")
    transposed = np.swapaxes(matrix, -1, -2)
    gap, size = np.max(np.abs(matrix - transposed), initial=0.0), np.max(np.abs(matrix), initial=0.0)
    if not gap <= allowed * max(size, 1e-300):
        raise ValueError(
            f"`{name}` must be symmetric; its largest |H_ij - H_ji| is {gap:.3g} against entries up to "
            f"{size:.3g}. {advice}"
        )
    return 0.5 * (matrix + transposed)


def covariance(name: str, value: Any, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """`value` (d, d), as it came, as a finite symmetric positive semidefinite array."""
    # 7e-5 in float32, in which an estimate's smallest eigenvalue may well be that far below zero.
    allowed = 1e-10 * (unit(value, numbers_of(name, value)) / _UNITS["float64"]) ** (2 / 3)
    if shape is not None:
        shaped(name, value, shape)
    matrix = symmetric(name, value, advice="Pass (C + C.T) / 2.")
    if matrix.size == 0:
        raise ValueError(f"`{name}` must not be empty; got shape {matrix.shape}.")
    low, high = np.linalg.eigvalsh(matrix)[[0, -1]]
    high = max(abs(low), abs(high))
    if low < -allowed * max(high, 1e-300):
        raise ValueError(
            f"`{name}` must be positive semidefinite; its smallest eigenvalue is {low:.3g}. Check how it was "
            "estimated: a covariance (d, d) is the mean of products of deviations."
        )
    if low < -1e-10 * high:  # rounding of narrower numbers, which nothing later should meet
        values, vectors = np.linalg.eigh(matrix)
        return (vectors * np.maximum(values, 0.0)) @ vectors.T
    return matrix


def folder(path: str | Path) -> Path:
    """`path` as a folder that can be written, created if need be; checked before any computing starts."""
    path = _files.path_of(path)
    try:
        _files.writable(path)
    except OSError as error:
        raise ValueError(
            f"The output folder {path} cannot be written ({error.strerror}). Choose another one."
        ) from None
    return path


def by_name(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator: who gives by place what goes by name is told the names."""
    parameters = inspect.signature(function).parameters.values()
    places = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    named = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    what = function.__qualname__.removesuffix(".__init__")
    first = "" if places in ([], ["self"]) else "..., "

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        surplus = args[len(places) :]
        meant = list(zip((name for name in named if name not in kwargs), surplus, strict=False))
        if meant:
            raise TypeError(
                f"`{what}` takes {', '.join(f'`{name}`' for name, _ in meant)} by name: write {what}({first}"
                f"{', '.join(f'{name}={shown(value)}' for name, value in meant)})."
            )
        return function(*args, **kwargs)

    return call


def elsewhere(**advice: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorator: other libraries' keywords are told what to do instead, as ``@elsewhere(lr="Use ...")``."""

    def told(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            for name in advice.keys() & kwargs.keys():
                what = function.__qualname__.removesuffix(".__init__")
                raise TypeError(f"`{what}` has no `{name}`. {advice[name]}")
            return function(*args, **kwargs)

        return call

    return told


def no_rate(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator of an initialiser whose first argument is a decay, where others have a learning rate."""
    first = list(inspect.signature(function).parameters)[1]

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        given = number(args[1]) if len(args) == 2 else None
        if isinstance(given, (int, float)) and 0 < given < 0.1:
            what = function.__qualname__.removesuffix(".__init__")
            raise ValueError(
                f"st.{what}({given!r}) would be {first}={given!r}, no learning rate: that is the flow's, "
                f"st.Flow(..., step={given!r}) or st.minimize(..., step={given!r}). Write st.{what}("
                f"{first}={given!r}) where it is meant."
            )
        return function(*args, **kwargs)

    return call


def renamed(**names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorator: old keywords are accepted for one version, with a warning: ``@renamed(old="new")``."""

    def accept(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            for old in names.keys() & kwargs.keys():
                new = names[old]
                if new in kwargs or new in list(inspect.signature(function).parameters)[: len(args)]:
                    raise TypeError(f"`{old}` is the old name of `{new}`; give `{new}` alone.")
                deprecated(f"`{old}` is called `{new}` now")
                kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return call

    return accept


def renamed_attribute(old: str, new: str) -> property:
    """An attribute under its old name, for one version: reading it warns and gives the new one."""

    def read(self: Any) -> Any:
        deprecated(f"`.{old}` is called `.{new}` now")
        return getattr(self, new)

    return property(read, doc=f"The old name of `{new}`.")


def deprecated(what: str) -> None:
    """Warn that a name is going."""
    warn(f"{what}; the old name goes in the next version.", DeprecationWarning)


_HERE = f"{Path(__file__).parent}{os.sep}"


def warn(message: str, kind: type[Warning] = StabilityWarning) -> None:
    """Warn at the user's line that led here: the first outside this package, however deep the call."""
    # By the file, not by counting calls: decorators and helpers between are many, and change.
    level, frame = 1, inspect.currentframe()
    while frame is not None and frame.f_code.co_filename.startswith(_HERE):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, kind, stacklevel=level)


def lacking(name: str, value: Any, members: Iterable[str], who: str, advice: str) -> Lacking:
    """The one wording for an object without the members that `who` needs."""
    return Lacking(f"`{name}` lacks {', '.join(members)}, which {who} needs; got {shown(value)}. {advice}")


def shown(value: Any) -> str:
    """`value` in a message, on one line."""
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # Python writes no whole number of more than 4,300 digits
        return f"a {type(value).__name__} of too many digits to be written"
    return text if len(text) <= 60 else text[:57] + "..."
