"""Random vectors, deflation and Lanczos: how a spectrum is sampled."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import _check
from .._array import Backend, backend_for, moved
from .._progress import progress_bar
from .._saving import provenance
from .._streams import stream
from ..lowrank.operator import Operator
from ..lowrank.randomized import randomized_eigh
from ..objectives.base import defines
from ..objectives.gate import gated
from .lanczos import lanczos, rounding
from .result import OUTLIER_STEPS, Spectrum


@_check.by_name
@_check.renamed(operator="hvp")
def spectrum(
    hvp: Any,
    at: Any = None,
    *,
    n: int | None = None,
    batch: Any = None,
    probes: int = 8,
    steps: int = 64,
    deflate: int = 0,
    seed: int = 0,
    device: str | Backend = "cpu",
    dtype: str = "float64",
    progress: bool = False,
) -> Spectrum:
    """Quadrature rules for the spectrum of a Hessian, or any symmetric operator, by block products.

    Parameters
    ----------
    hvp : Objective or callable
        An objective with ``dim`` and ``hvp`` or ``products``, or the products themselves: (n, k) -> (n, k).
    at : array (d,), optional
        Where the objective's Hessian is taken; its reference by default.
    n : int
        With a callable: the dimension, unless it carries that itself as `n`, as
        `stability.torch.hessian_products` does.
    batch : array of int, optional
        The samples of an objective on data; all of them by default.
    probes : int
        Random vectors, at least 2. The error falls as ``probes ** -0.5``.
    steps : int
        Lanczos steps from each, at least 2 (n at most): sums of polynomials of degree ``2 steps - 1`` have no
        quadrature error.
    deflate : int
        Eigenvectors of largest magnitude found first, by `randomized_eigh`, and summed apart. For a spectrum
        of a few large eigenvalues and a bulk this takes most of the variance out of its sums (the idea of
        Hutch++), whether the vectors are exact or not.
    seed : int
        0 if left out. Same seed, same numbers.
    device : {"cpu", "cuda"} or Backend
        Where the arrays live that the products are given; products that carry a `backend` of their own decide
        themselves.
    dtype : {"float64", "float32"}
    progress : bool
        Show a progress bar.

    Returns
    -------
    Spectrum
        From ``probes * steps + 6 * deflate`` products; fewer where the Krylov spaces are exhausted. About
        ``n * probes * steps`` numbers are held, 1 GiB of them or two probes' at most.

    Raises
    ------
    ValueError
        If an argument is out of range, there is no point or dimension, or the products have another shape,
        are not finite or not symmetric (`BadProducts`).

    References
    ----------
    G. H. Golub and G. Meurant, Matrices, Moments and Quadrature with Applications, 2010; R. A. Meyer et al.,
    Hutch++, SOSA 2021.

    Examples
    --------
    >>> import numpy as np, stability as st
    >>> curvature = np.concatenate([[100.0, 50.0], np.linspace(-0.1, 1.0, 498)])
    >>> s = st.spectrum(st.quadratic(curvature), deflate=2)
    >>> s.outliers.round(-1)
    array([100.,  50.])
    >>> bool(abs(s.trace.value - curvature.sum()) < 3 * s.trace.error)
    True
    """
    probes = _check.count("probes", probes, least=2, why="an error bar needs two")
    rng, started = stream(_check.seed(seed), 0), time.perf_counter()
    dtype = _check.choice("dtype", dtype, ("float64", "float32"))
    products, n, backend = _products(hvp, at, n, batch, device, dtype)
    why = "a quadrature error compares two rules" if n > 1 else ""
    steps = min(_check.count("steps", steps, least=min(2, n), why=why), n)
    deflate = _check.count("deflate", deflate, least=0, most=n, why="the dimension")
    # Everything deflated leaves nothing to sample: the sums are then exact.
    probes = probes if deflate < n else 0
    if backend.name == "numpy":
        what = f"Two probes of {steps} steps, vectors of {n} numbers, need"
        width = np.dtype(backend.dtype).itemsize
        _check.room(what, 2 * steps * n, width=width, advice="Take fewer `steps`, or dtype='float32'.")
    operator = Operator((products,), n, backend, lambda shape: backend.asarray(rng.standard_normal(shape)))
    vectors, parts, size = None, [], 0.0
    with progress_bar(_check.flag("progress", progress), "Hessian products", probes * steps) as bar:
        if deflate:
            found = randomized_eigh(products, n, deflate, seed=seed, device=backend, dtype=backend.dtype)
            vectors, size = found.vectors, float(np.abs(found.eigenvalues).max())
            # The products that found the deflated vectors count too.
            operator.columns = found.columns
            parts.append(lanczos(operator, vectors.T, min(OUTLIER_STEPS, steps), size))
        if probes:
            # All directions of the same length: of a constant every probe gives the exact sum.
            start = _unit(operator.normals((n, probes)), vectors, backend)
            parts.append(lanczos(operator, start.T, steps, size, bar.advance))
    diagonals, off_diagonals = (
        np.concatenate([_widened(getattr(part, name), steps) for part in parts])
        for name in ("diagonals", "off_diagonals")
    )
    stats = {"hessian_products": operator.columns, "seconds": time.perf_counter() - started}
    about = provenance(
        operator=getattr(hvp, "__qualname__", None) or repr(hvp),
        seed=seed,
        dtype=backend.dtype,
        backend=backend.name,
    )
    lengths = np.concatenate([part.lengths for part in parts])
    bound = float(np.abs(diagonals).max() + 2 * off_diagonals.max())  # Gershgorin's, on all nodes
    resolution = rounding(backend, n) * bound
    return Spectrum(n, deflate, probes, diagonals, off_diagonals, lengths, resolution, stats, about)


def _products(
    source: Any, at: Any, n: int | None, batch: Any, device: str | Backend, dtype: str
) -> tuple[Callable[[Any], Any], int, Backend]:
    """The Hessian's block products, the dimension, and where their arrays live."""
    backend = backend_for(
        source,
        device if isinstance(device, Backend) else _check.choice("device", device, ("cpu", "cuda")),
        dtype,
    )
    if not hasattr(source, "hvp") and not hasattr(source, "products"):
        if not callable(source):
            raise ValueError(
                f"`hvp` must be an objective with `hvp`, or a callable (n, k) -> (n, k); got {source!r}."
            )
        n = getattr(source, "n", None) if n is None else n
        if n is None or at is not None or batch is not None:
            raise ValueError(
                "`n`, the dimension, must be given with a callable, and neither `at` nor `batch`: its "
                "products are all that is known."
            )
        return source, _check.count("n", n), backend
    source = gated(source)
    dim = int(source.dim)
    if n not in (None, dim):
        raise ValueError(f"`n` must be left out with an objective, whose dimension is {dim}; got {n}.")
    at = source.reference if at is None else at
    if at is None:
        raise ValueError(
            f"`at` must be given: {source!r} has no reference point. Pass the parameters, shape ({dim},)."
        )
    w = backend.asarray(_check.shaped("at", at, (dim,)))
    there = source if (backend.name, backend.dtype) == ("numpy", "float64") else moved(source, backend)
    options = {} if batch is None else {"batch": batch}
    if defines(there, "products"):
        return there.products(w, **options), dim, backend
    return (lambda V: there.hvp(w, V, **options)), dim, backend


def _unit(block: Any, vectors: Any, backend: Backend) -> Any:
    """Columns of length one, off the given orthonormal vectors: uniform on the sphere that is left."""
    # Twice: the first projection leaves rounding in proportion to what it took off, the second removes it.
    for _ in range(0 if vectors is None else 2):
        block = block - vectors @ (vectors.T @ block)
    return block / backend.xp.sqrt(backend.xp.sum(block * block, axis=0))


def _widened(rows: np.ndarray, steps: int) -> np.ndarray:
    return np.pad(rows, ((0, 0), (0, steps - rows.shape[1])))
