"""Arrays: the one file that knows NumPy from other array libraries."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Backend:
    """Where arrays live: an array-API namespace, one of its devices, and a floating-point type.

    Parameters
    ----------
    name : str
        ``"numpy"``, ``"cupy"``, ``"torch"`` or any namespace that follows the array API standard.
    xp : module
        The namespace, as array-api-compat wraps it.
    device : object, optional
        The namespace's device; its default by default.
    dtype : {"float64", "float32"}

    Examples
    --------
    >>> import numpy as np, stability as st
    >>> here = st.Backend("numpy", np)
    >>> flow = st.Flow(st.quadratic([1.0]), st.SGD(), step=0.5)
    >>> st.simulate(flow, start=[1.0], t_end=1.0, paths=2, seed=0, device=here).mean  # (1 - 0.5)^2
    array([[0.25]])
    """

    name: str
    xp: Any
    device: Any = None
    dtype: str = "float64"

    def asarray(self, values: Any) -> Any:
        """A floating-point array here, from host values."""
        return self.xp.asarray(self._ready(values), dtype=getattr(self.xp, self.dtype), device=self.device)

    def indices(self, values: Any) -> Any:
        """An integer array here, from host values."""
        return self.xp.asarray(self._ready(values), dtype=self.xp.int64, device=self.device)

    def _ready(self, values: Any) -> np.ndarray:
        values = np.asarray(values, order="C")  # not ascontiguousarray, which gives a number an axis
        if self.name != "torch":
            return values
        # It shares the memory of host arrays: it warns of those that may not be written, and takes no strides
        # that run backwards, which an axis of one entry keeps.
        shared = values.flags.writeable and all(stride >= 0 for stride in values.strides)
        return values if shared else values.copy()

    def normals(self, seed: int) -> Callable[[tuple[int, ...]], Any] | None:
        """The device's own standard normals, by shape; None where the library has no generator."""
        if self.name == "cupy":
            import cupy

            rng = cupy.random.Generator(cupy.random.XORWOW(seed))
            return lambda shape: rng.standard_normal(shape, dtype=self.dtype)
        if self.name == "torch":
            import torch

            device = "cpu" if self.device is None else self.device
            own = torch.Generator(device=device).manual_seed(seed)
            return lambda shape: torch.randn(
                shape, generator=own, dtype=getattr(torch, self.dtype), device=device
            )
        return None

    def host(self, array: Any) -> np.ndarray:
        """A NumPy array from one that lives here."""
        if isinstance(array, np.ndarray):
            return array
        if self.name == "cupy":
            return array.get()
        if self.name == "array_api_strict":
            return np.asarray(self.xp.asarray(array, device=self.xp.Device("CPU_DEVICE"))._array)
        import array_api_compat

        return np.asarray(array_api_compat.to_device(array, "cpu"))


def backend_of(device: str | Backend, dtype: str) -> Backend:
    """The arrays that `device` names: ``"cpu"``, ``"cuda"`` (CuPy), or a `Backend` of one's own."""
    if isinstance(device, Backend):
        return replace(device, dtype=dtype)
    if device == "cpu":
        return Backend("numpy", np, None, dtype)
    return Backend("cupy", _cupy(), None, dtype)


def backend_for(products: Any, device: str | Backend, dtype: str) -> Backend:
    """The `backend` that block products carry; where they carry none, the one named by `device`, `dtype`."""
    own = getattr(products, "backend", None)
    return own if isinstance(own, Backend) else backend_of(device, dtype)


def _cupy() -> Any:
    """CuPy's namespace, or an error that says what is missing."""
    try:
        import cupy
    except ImportError:
        raise ValueError("`device`='cuda' needs CuPy: pip install 'sfn-stability[cupy]'.") from None
    if not cupy.is_available():  # CuPy imports without a GPU too, and fails at the first allocation
        raise ValueError("`device`='cuda' needs a CUDA device, and CuPy finds none. Use device='cpu'.")
    import array_api_compat.cupy

    return array_api_compat.cupy


def namespace(*arrays: Any) -> Any:
    """The array namespace that `arrays` belong to; NumPy for lists and numbers."""
    foreign = [a for a in arrays if not isinstance(a, (np.ndarray, np.generic, float, int, list, tuple))]
    if not foreign:
        return np
    import array_api_compat

    return array_api_compat.array_namespace(*foreign)


def as_floats(values: Any) -> Any:
    """Values as a floating-point array; one that is already stays as it is, wherever it lives."""
    if isinstance(values, (np.ndarray, np.generic)):
        if values.dtype.kind in "cSUMm":  # a part of them would be lost, or text be read
            raise ValueError(f"States must be real numbers; got {values.dtype}. Convert them first.")
        return values if values.dtype.kind == "f" else values.astype(float)
    return values if _is_foreign(values) else np.asarray(values, dtype=float)


def like(constant: np.ndarray, array: Any) -> Any:
    """A host constant beside `array`: in its namespace, on its device, as wide (whole numbers stay whole)."""
    whole = constant.dtype.kind != "f"
    if isinstance(array, np.ndarray):
        return constant if whole else constant.astype(array.dtype, copy=False)
    # Constants are asked for at every step: without the copies each would cross to the device again.
    key = (id(constant), type(array), array.dtype, str(array.device))
    if key not in _COPIES:
        if len(_COPIES) > 64:
            _COPIES.clear()
        xp = namespace(array)
        dtype = xp.int64 if whole else array.dtype
        copied = xp.asarray(np.ascontiguousarray(constant), dtype=dtype, device=array.device)
        _COPIES[key] = constant, copied  # the original is kept, so that its id stays its own
    return _COPIES[key][1]


_COPIES: dict[tuple[Any, ...], tuple[np.ndarray, Any]] = {}


def _is_foreign(values: Any) -> bool:
    # torch does not name the namespace on its arrays, nor does every CuPy.
    library = type(values).__module__.split(".")[0]
    return hasattr(values, "__array_namespace__") or library in ("torch", "cupy")


def moved(thing: Any, backend: Backend) -> Any:
    """A copy of an objective or a noise whose arrays live on `backend`, moved once instead of every step."""
    if hasattr(type(thing), "moved"):  # it knows better
        return thing.moved(backend)
    other = copy.copy(thing)
    for name, value in vars(thing).items():
        if isinstance(value, np.ndarray):
            if value.dtype.kind == "f":
                other.__dict__[name] = backend.asarray(value)
            elif backend.name != "numpy":
                whole = value.dtype.kind in "iu"
                other.__dict__[name] = (
                    backend.indices(value) if whole else backend.xp.asarray(value, device=backend.device)
                )
        elif isinstance(getattr(type(thing), name, None), functools.cached_property):
            del other.__dict__[name]  # made from the host's arrays: to be made again from the moved ones
    return other


def matvec(matrix: Any, vector: Any) -> Any:
    """``matrix @ vector`` over any leading axes: (..., d, d), (..., d) -> (..., d)."""
    if matrix.ndim == 2:  # one matrix for all: one GEMM instead of a loop of small products
        return vector @ matrix.T
    return (matrix @ vector[..., None])[..., 0]


def transpose(matrix: Any) -> Any:
    """The last two axes exchanged."""
    if isinstance(matrix, np.ndarray):
        return np.swapaxes(matrix, -1, -2)
    return namespace(matrix).matrix_transpose(matrix)


def joined(*parts: Any) -> Any:
    """Arrays of one library beside one another, along the last axis; a single one stays itself."""
    return parts[0] if len(parts) == 1 else namespace(*parts).concat(parts, axis=-1)


def diagonal_matrix(values: Any) -> Any:
    """The matrices with these diagonals: (..., d) -> (..., d, d)."""
    *batch, dim = values.shape
    xp = namespace(values)
    flat = xp.zeros((*batch, dim * dim), dtype=values.dtype, device=values.device)
    flat[..., :: dim + 1] = values
    return xp.reshape(flat, (*batch, dim, dim))


def take_rows(array: Any, index: Any) -> Any:
    """Rows of `array` at whole-number positions: (n, ...), (...) -> (..., ...)."""
    if isinstance(array, np.ndarray):
        return array[index]
    # The standard's `take` knows flat positions only.
    xp = namespace(array)
    rows = xp.take(array, xp.reshape(index, (-1,)), axis=0)
    return xp.reshape(rows, (*index.shape, *array.shape[1:]))
