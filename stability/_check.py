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


def array(
    name: str, value: Any, *, shape: str | None = None, ndim: int | tuple[int, ...] | None = None
) -> np.ndarray:
    """`value` as a finite float64 array; raises naming the argument, its shape and what was wrong."""
    try:
        result = np.asarray(value)
        if np.iscomplexobj(result):
            raise TypeError
        result = result.astype(float)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"`{name}` must be an array of numbers; got {_short(value)}.") from None
    allowed = (ndim,) if isinstance(ndim, int) else ndim
    if allowed is not None and result.ndim not in allowed:
        wanted = shape or " or ".join(f"{n} axes" for n in allowed)
        raise ValueError(f"`{name}` must have shape {wanted}; got shape {result.shape}.")
    bad = int(np.count_nonzero(~np.isfinite(result)))
    if bad:
        raise ValueError(
            f"`{name}` must be finite; {bad} of its {result.size} entries are nan or infinite. Remove or "
            "impute them."
        )
    return result


def shaped(name: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    """`value` as a finite array of exactly this shape."""
    result = array(name, value)
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


def positive(name: str, value: Any, *, infinite: bool = False) -> float:
    """`value` as a float > 0 (and finite unless `infinite`)."""
    wanted = "a number > 0" if infinite else "a finite number > 0"
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise ValueError(f"`{name}` must be {wanted}; got {_short(value)}.")
    try:
        number = float(value)
    except OverflowError:  # a whole number beyond all floats
        number = math.inf
    if math.isnan(number) or number <= 0 or (math.isinf(number) and not infinite):
        raise ValueError(f"`{name}` must be {wanted}; got {value}.")
    return number


def nonnegative(name: str, value: Any) -> float:
    """`value` as a finite float >= 0."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, (bool, np.bool_))
    if not is_number or not 0 <= float(value) < math.inf:
        raise ValueError(f"`{name}` must be a finite number >= 0; got {_short(value)}.")
    return float(value)


def fraction(name: str, value: Any) -> float:
    """`value` as a float in [0, 1)."""
    if not 0 <= nonnegative(name, value) < 1:
        raise ValueError(f"`{name}` must be in [0, 1); got {_short(value)}.")
    return float(value)


def count(name: str, value: Any, *, least: int = 1, most: int | None = None, why: str = "") -> int:
    """`value` as an integer in [least, most]."""
    upper = "" if most is None else f" and <= {most}"
    is_integer = isinstance(value, (numbers.Integral, np.integer)) and not isinstance(value, bool)
    if not is_integer or value < least or (most is not None and value > most):
        if least == most:
            raise ValueError(f"`{name}` must be {least}{why and f' {why}'}; got {_short(value)}.")
        raise ValueError(
            f"`{name}` must be an integer >= {least}{upper}{why and f' ({why})'}; got {_short(value)}."
        )
    return int(value)


def choice(name: str, value: T, known: Iterable[T]) -> T:
    """`value` if it is one of the known ones; the error lists them."""
    known = list(known)
    if not isinstance(value, (str, int)) or value not in known:
        raise ValueError(f"`{name}` must be one of {', '.join(map(str, known))}; got {_short(value)}.")
    return value


def flag(name: str, value: Any) -> bool:
    """`value` if it is True or False: a text such as "no" would count as True."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"`{name}` must be True or False; got {_short(value)}.")
    return bool(value)


def symmetric(
    name: str,
    matrix: np.ndarray,
    *,
    advice: str = "Check the derivative with st.check_derivatives, or pass (H + H.T) / 2.",
) -> np.ndarray:
    """`matrix` (..., d, d) symmetrised, or an error that says how far from symmetric it is."""
    if matrix.ndim < 2 or matrix.shape[-1] != matrix.shape[-2]:
        raise ValueError(f"`{name}` must have shape (..., d, d); got shape {matrix.shape}.")
    transposed = np.swapaxes(matrix, -1, -2)
    gap, size = np.max(np.abs(matrix - transposed), initial=0.0), np.max(np.abs(matrix), initial=0.0)
    if not gap <= 1e-8 * max(size, 1e-300):
        raise ValueError(
            f"`{name}` must be symmetric; its largest |H_ij - H_ji| is {gap:.3g} against entries up to "
            f"{size:.3g}. {advice}"
        )
    return 0.5 * (matrix + transposed)


def covariance(name: str, matrix: np.ndarray) -> np.ndarray:
    """`matrix` (d, d) as a symmetric positive semidefinite array."""
    matrix = symmetric(name, matrix, advice="Pass (C + C.T) / 2.")
    if matrix.size == 0:
        raise ValueError(f"`{name}` must not be empty; got shape {matrix.shape}.")
    low, high = np.linalg.eigvalsh(matrix)[[0, -1]]
    if low < -1e-10 * max(abs(high), 1e-300):
        raise ValueError(f"`{name}` must be positive semidefinite; its smallest eigenvalue is {low:.3g}.")
    return matrix


def folder(path: str | Path) -> Path:
    """`path` as a folder that can be written, created if need be; checked before any computing starts."""
    path = Path(path)
    try:
        _files.writable(path)
    except OSError as error:
        raise ValueError(
            f"The output folder {path} cannot be written ({error.strerror}). Choose another one."
        ) from None
    return path


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
    level, frame = 1, inspect.currentframe()
    while frame is not None and frame.f_code.co_filename.startswith(_HERE):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, kind, stacklevel=level)


def lacking(name: str, value: Any, members: Iterable[str], who: str, advice: str) -> Lacking:
    """The one wording for an object without the members that `who` needs."""
    return Lacking(f"`{name}` lacks {', '.join(members)}, which {who} needs; got {_short(value)}. {advice}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
