"""The optional accelerator: kernels compiled by Numba on first use, and what stands in for them.

Nothing here is needed for a result: every kernel has a NumPy form with the same bits (`fill`, `planar_*`,
`affine_planar`) or a LAPACK route with the same accuracy (`Tridiagonal`). Importing this package does not
import numba.
"""

from .compiler import available
from .normals import fill
from .planar import (
    affine_planar,
    planar_eigenvalues,
    planar_eigenvalues_numpy,
    planar_step,
    planar_step_numpy,
)
from .programs import planar_chunk
from .tridiagonal import MAX_DIM, Tridiagonal, spectral_apply

__all__ = [
    "MAX_DIM",
    "Tridiagonal",
    "affine_planar",
    "available",
    "fill",
    "planar_chunk",
    "planar_eigenvalues",
    "planar_eigenvalues_numpy",
    "planar_step",
    "planar_step_numpy",
    "spectral_apply",
]
