"""Arrays and random streams: the one file that knows NumPy from other array libraries."""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass
from typing import Any

import numpy as np


BLOCK = 512


def block_size(dim: int) -> int:
    """Paths per random stream in `dim` dimensions: a power of two that keeps a block's state within a fast cache.

    A stored constant: changing it changes every seeded number.
    """
    return max(128, min(2048, 2**15 >> (dim - 1).bit_length()))


def stream(seed: int, block: int, *level: int) -> np.random.Generator:
    """The random stream of one block of paths (and, for refined Brownian paths, of one level of bridging).

    Each block has its own generator and always draws for all its paths, so that the numbers depend neither on how
    many workers share the blocks nor on how many paths are asked for.
    """
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence(seed, spawn_key=(block, *level))))


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
    """

    name: str
    xp: Any
    device: Any = None
    dtype: str = "float64"

    def asarray(self, values: Any) -> Any:
        """A floating-point array here, from host values."""
        return self.xp.asarray(np.ascontiguousarray(values), dtype=getattr(self.xp, self.dtype), device=self.device)

    def indices(self, values: Any) -> Any:
        """An integer array here, from host values."""
        return self.xp.asarray(np.ascontiguousarray(values), dtype=self.xp.int64, device=self.device)

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


def namespace(*arrays: Any) -> Any:
    """The array namespace that `arrays` belong to; NumPy for lists and numbers."""
    foreign = [a for a in arrays if not isinstance(a, (np.ndarray, np.generic, float, int, list, tuple))]
    if not foreign:
        return np
    import array_api_compat

    return array_api_compat.array_namespace(*foreign)


def as_floats(values: Any) -> Any:
    """Values as a floating-point array: one that already is stays as it is, wherever it lives and however wide."""
    if isinstance(values, np.ndarray):
        return values if values.dtype.kind == "f" else values.astype(float)
    return values if hasattr(values, "__array_namespace__") or _is_torch(values) else np.asarray(values, dtype=float)


def _is_torch(values: Any) -> bool:
    return type(values).__module__ == "torch"


def moved(thing: Any, backend: Backend) -> Any:
    """A copy of an objective or a noise whose arrays live on `backend`, once, instead of moving them at every step."""
    other = copy.copy(thing)
    for name, value in vars(thing).items():
        if isinstance(getattr(type(thing), name, None), functools.cached_property):
            del other.__dict__[name]
        elif isinstance(value, np.ndarray):
            other.__dict__[name] = backend.asarray(value) if value.dtype.kind == "f" else backend.indices(value)
    return other


def matvec(matrix: Any, vector: Any) -> Any:
    """``matrix @ vector`` over any leading axes: (..., d, d), (..., d) -> (..., d)."""
    if matrix.ndim == 2:  # one matrix for all: one GEMM instead of a loop of small products
        return vector @ matrix.T
    return (matrix @ vector[..., None])[..., 0]


def transpose(matrix: Any) -> Any:
    """The last two axes exchanged."""
    return np.swapaxes(matrix, -1, -2) if isinstance(matrix, np.ndarray) else matrix.mT
