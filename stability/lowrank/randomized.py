"""The front door: arguments checked, a method chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .. import _check
from .._array import Backend, backend_for
from . import solvers
from .operator import Operator
from .result import LowRank, backend_like

METHODS = ("block-krylov", "double-pass", "nystrom", "warm", "eigsh")


@_check.by_name
def randomized_eigh(
    hvp: Callable[[Any], Any] | Sequence[Callable[[Any], Any]],
    n: int,
    rank: int,
    *,
    method: str = "block-krylov",
    start: Any = None,
    oversampling: int | None = None,
    power: int = 0,
    tolerance: float | None = None,
    residuals: bool = True,
    seed: int = 0,
    device: str | Backend = "cpu",
    dtype: str = "float64",
) -> LowRank:
    """Leading eigenpairs, by absolute value, of a symmetric operator, perhaps indefinite, by block products.

    Parameters
    ----------
    hvp : callable, or sequence of callables
        ``H @ block``: (n, k) to (n, k), in the arrays of `device` and `dtype`; always the same H within a
        call. A sequence stands for sub-batches: the operator is their mean, and their spread is
        `LowRank.std`, at no further products.
    n : int
    rank : int
        At most n; with `tolerance`, the most that may be found.
    method : {"block-krylov", "double-pass", "nystrom", "warm", "eigsh"}
        - "block-krylov": five blocks, each the image of the one before, ``2 rank`` products; the most
          accurate for that number. An eigenvalue is found with up to ``2 rank / 5`` vectors.
        - "double-pass": range of a random block's image, then projection, as commonly published:
          ``(2 + power) (rank + oversampling)`` products.
        - "nystrom": a single pass, ``rank + oversampling`` products, its core cut to the rank; then `rank`
          more for the `residuals` of what it found, and H projected onto that.
        - "warm": the same from the vectors of a nearby operator, `start`: more accurate than a cold start at
          half the products. Where `start` turns out to be far from the operator's eigenvectors, a second
          block follows, up to ``2 rank`` products, and `status` says so.
        - "eigsh": SciPy's Lanczos iteration on the host, one column at a time, to convergence, and again off
          what was found until nothing larger is left, as a reference.

        All take n products and are exact where they would need as many.
    start : LowRank or array (n, k), optional
        Vectors to start from; for "warm" required. Its namespace, device and type are then those of
        everything. "block-krylov" only begins with the first ``2 rank / 5`` of them (with `tolerance`, with
        all up to the rank) and may do worse than cold: for a nearby operator's vectors use "warm".
    oversampling : int, optional
        Columns beyond the rank: 0 for "double-pass", half the rank for "nystrom", 5 for "warm".
    power : int
        Power steps of "double-pass".
    tolerance : float, optional
        With "block-krylov": grow the rank until H, on what fresh random vectors off the basis lead to, is
        below `tolerance` times the largest eigenvalue; pairs below that are left out, but for the first.
        `status` says where `rank` pairs are too few for it, and where the products were used up before this
        could be confirmed.
    residuals : bool
        False keeps "nystrom" to its single pass, where nothing is known of how good the pairs are:
        eigenvalues may lie beyond the spectrum. The other methods have residuals at no products.
    seed : int
        0 if left out. Same seed, same numbers on one kind of device.
    device : {"cpu", "cuda"} or Backend
        Products that carry a `backend` of their own, as those of `stability.torch.hessian_products` do,
        decide themselves.
    dtype : {"float64", "float32"}
        Of the arrays; small matrices are float64 on the host always.

    Returns
    -------
    LowRank
        Exactly ``rank`` orthonormal vectors (fewer only with `tolerance`), with zero eigenvalues where H has
        no more. Its status says how many pairs have not converged: ask for more pairs than you need, or for
        "eigsh". A small residual says that an eigenvalue of H is near, not that there is none larger: no pair
        bounds the spectrum.

    Raises
    ------
    BadProducts
        If a product is not finite, or too large or small for its type, or the operator not symmetric (or not
        the same at every call).
    ValueError
        If an argument is out of range, or `hvp` answers in another shape or type.

    Notes
    -----
    No array of size n goes to the host, except for "eigsh". About ``4 n rank`` numbers are held at once.

    Examples
    --------
    >>> import numpy as np, stability as st
    >>> curvature = 0.5 ** np.arange(300) * np.where(np.arange(300) % 2, -1, 1)
    >>> eig = st.randomized_eigh(lambda block: curvature[:, None] * block, 300, 4)
    >>> eig.columns, eig.eigenvalues.round(2)
    (8, array([ 1.  , -0.5 ,  0.25, -0.12]))
    """
    n = _check.count("n", n)
    rank = _check.count("rank", rank, most=n, why="and at most n")
    method = _check.choice("method", method, METHODS)
    _refuse_strangers(method, oversampling, power, tolerance)
    vectors = _vectors(start, n)
    parts = _parts(hvp)
    backend = (
        backend_for(parts[0], device, _check.choice("dtype", dtype, ("float64", "float32")))
        if vectors is None
        else backend_like(vectors)
    )
    if backend.name == "numpy":
        what = f"About {4 * rank} vectors of {n} numbers need"
        width = np.dtype(backend.dtype).itemsize
        _check.room(what, 4 * rank * n, width=width, advice="Take a lower `rank`, or dtype='float32'.")
    operator = Operator(parts, n, backend, _normals(backend, _check.seed(seed)))
    found = _solve(
        operator,
        rank,
        method,
        # These two know a LowRank's vectors for orthonormal; the others take vectors of any kind.
        start if method in ("warm", "nystrom") else vectors,
        _extra(method, rank, oversampling),
        power,
        tolerance,
        _check.flag("residuals", residuals),
    )
    # The factor is a power of two: divided by it nothing is rounded.
    return found if operator.factor == 1.0 else _unscaled(found, operator.factor)


def _solve(
    operator: Operator,
    rank: int,
    method: str,
    start: Any,
    extra: int,
    power: int,
    tolerance: float | None,
    residuals: bool,
) -> LowRank:
    several = {
        # In blocks of two fifths of the rank, all of which are kept.
        "block-krylov": 2 * rank,
        "double-pass": (2 + power) * (rank + extra),
        "eigsh": rank + 1,
        "nystrom": rank + extra + residuals * rank,
    }
    planned = several.get(method, rank + extra)
    if method == "warm" and start is None:
        raise ValueError(
            "`start` must be given for method='warm': the vectors of a nearby operator. Begin with "
            "method='block-krylov'."
        )
    # The unit vectors' n images are the whole matrix: for as many products nothing can be better.
    if planned >= operator.n:
        return solvers.exact(operator, rank, tolerance)
    if method == "block-krylov":
        if tolerance is None:
            return solvers.block_krylov(operator, rank, start)
        return solvers.grown(operator, rank, tolerance, start)
    if method == "double-pass":
        return solvers.double_pass(operator, rank, extra, power, start)
    if method == "eigsh":
        return solvers.lanczos(operator, rank)
    if method == "warm":
        return solvers.warm(operator, rank, start, extra)
    return solvers.nystrom(operator, rank, rank + extra, start, residuals=residuals)


def _unscaled(eig: LowRank, scale: float) -> LowRank:
    spread = None if eig.std is None else eig.std / scale
    return replace(
        eig,
        eigenvalues=eig.eigenvalues / scale,
        residual=eig.residual / scale,
        std=spread,
        next_eigenvalue=eig.next_eigenvalue / scale,
    )


def _extra(method: str, rank: int, oversampling: int | None) -> int:
    if oversampling is not None:
        return _check.count("oversampling", oversampling, least=0)
    return {"nystrom": -(-rank // 2), "warm": solvers.FRESH}.get(method, 0)


def _refuse_strangers(method: str, oversampling: int | None, power: int, tolerance: float | None) -> None:
    """Arguments that the method would pass over in silence."""
    if oversampling is not None and method not in ("double-pass", "nystrom", "warm"):
        raise ValueError(
            f"`oversampling` must be left out with method={method!r}; got {oversampling}. It is for "
            "double-pass, nystrom and warm."
        )
    if _check.count("power", power, least=0) and method != "double-pass":
        raise ValueError(f"`power` must be 0 with method={method!r}; got {power}. It is for double-pass.")
    if tolerance is not None:
        _check.positive("tolerance", tolerance)
        if method != "block-krylov":
            raise ValueError(
                f"`tolerance` must be left out with method={method!r}; got {tolerance}. It is for "
                "block-krylov."
            )


def _parts(hvp: Any) -> tuple[Callable[[Any], Any], ...]:
    parts = (hvp,) if callable(hvp) else tuple(hvp) if isinstance(hvp, Sequence) else ()
    if not parts or not all(callable(part) for part in parts):
        raise ValueError(
            "`hvp` must be a callable (n, k) -> (n, k), or a list of them, one for each sub-batch; got "
            f"{type(hvp).__name__}."
        )
    return parts


def _vectors(start: Any, n: int) -> Any:
    vectors = start.vectors if isinstance(start, LowRank) else start
    if vectors is None:
        return None
    shape = tuple(getattr(vectors, "shape", ()))
    if len(shape) != 2 or shape[0] != n or not 1 <= shape[1] <= n:
        raise ValueError(f"`start` must have shape ({n}, k), 1 <= k <= n; got shape {shape}.")
    xp = backend_like(vectors).xp
    if not bool(xp.all(xp.isfinite(vectors))):
        raise ValueError(
            "`start` must be finite; some entries are nan or infinite. Begin with method='block-krylov' and "
            "no start."
        )
    return vectors


def _normals(backend: Backend, seed: int) -> Callable[[tuple[int, int]], Any]:
    """Standard normals on the device: its own where it has a generator."""
    own = backend.normals(seed)
    if own is not None:
        return own
    # A quarter faster than NumPy's usual generator, and n times rank normals are drawn (measured).
    rng = np.random.Generator(np.random.SFC64(seed))
    width = np.float32 if backend.dtype == "float32" else np.float64
    return lambda shape: backend.asarray(rng.standard_normal(shape, dtype=width))
