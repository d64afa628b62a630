"""Leading eigenpairs, and the steps that are preconditioned by them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import _check
from .._array import Backend, as_floats, namespace
from .._display import Grid
from .._frames import Framed
from .._saving import Result


def backend_like(array: Any) -> Backend:
    """Where a device array lives, and how wide it is."""
    xp = namespace(array)
    name = xp.__name__.rsplit(".", 1)[-1]
    wide = [width for width in ("float32", "float64") if array.dtype == getattr(xp, width)]
    if not wide:
        raise ValueError(f"Arrays must be float32 or float64; got {array.dtype}. Convert them first.")
    return Backend(name, xp, None if name in ("numpy", "cupy") else array.device, wide[0])


@dataclass(frozen=True)
class LowRank(Result, Framed):
    """Leading eigenpairs, ``H_r = U diag(lambda) U.T``, and steps preconditioned by them.

    Attributes
    ----------
    eigenvalues : array, shape (r,)
        By decreasing absolute value; float64 on the host.
    vectors : array, shape (n, r)
        Orthonormal columns U, in the namespace and on the device of the products.
    columns : int
        Products used, one for each column that the operator was applied to (to all sub-batches at once).
    residual : array, shape (r,)
        ``|H u_i - lambda_i u_i|``, so that an eigenvalue lies as near to ``lambda_i``; never given below
        ``eps |lambda_1|`` of the arrays' type, of which rounding makes a few. It costs no products with
        "block-krylov", "double-pass" and "exact", r of them with "eigsh" and "nystrom"; with `tolerance` it
        is an upper bound, the sum over several blocks' parts. "warm" multiplies no vector twice: its residual
        is that of the multiplied vector nearest to ``u_i``, one power step behind, and what lies between
        their eigenvalues; after a second block it is such an upper bound instead. nan where `residuals` were
        not asked for.
    std : array, shape (r,), or None
        Standard deviation (``ddof=1``) across the m sub-batches of the Rayleigh quotients ``u_i.T H_j u_i``;
        their mean deviates ``sqrt(m)`` times less. For "warm" of the nearest multiplied vectors, as above.
        None without sub-batches and for "nystrom" in a single pass.
    next_eigenvalue : float
        Estimate of ``lambda_{r+1}``: the first Ritz value left out. 0 where there is none (r = n), nan where
        the method has none ("double-pass" without oversampling, "nystrom", "warm", "eigsh").
    method : str
        What ran: "exact" where the products asked for would have reached n.
    status : str
        "ok" where every residual is at most a twentieth of its eigenvalue (with `tolerance`: of that share of
        the largest), and no eigenvalue was found as often as the method can find one; else what was found on
        the way.

    Examples
    --------
    >>> import numpy as np, stability as st
    >>> curvature = np.array([3.0, -2.0, 0.1, 0.0])
    >>> eig = st.randomized_eigh(lambda block: curvature[:, None] * block, 4, 2)
    >>> eig
    2 eigenpairs of 4 (exact, 4 products): ok
    i     eigenvalue  residual  std
    1              3   6.7e-16
    2             -2   6.7e-16
    next         0.1
    >>> eig.solve(np.ones(4), damping=1.0)  # 1 / (|lambda| + 1) along the pairs, 1 off them
    array([0.25      , 0.33333333, 1.        , 1.        ])
    """

    eigenvalues: np.ndarray
    vectors: Any
    columns: int
    residual: np.ndarray
    std: np.ndarray | None = None
    next_eigenvalue: float = math.nan
    method: str = "block-krylov"
    status: str = "ok"

    def _columns(self) -> Mapping[str, Any]:
        spread = {} if self.std is None else {"std": self.std}
        return {"eigenvalue": self.eigenvalues, "residual": self.residual} | spread

    def _page(self) -> Iterator[str | Grid]:
        n, r = self.vectors.shape
        yield f"{r} eigenpairs of {n} ({self.method}, {self.columns} products): {self.status}"
        rows: list[tuple[Any, ...]] = []
        for i in range(r) if r <= 12 else [*range(10), r - 1]:
            rows += [("...", None, None, None)] * (i > 10)
            spread = None if self.std is None else self.std[i]
            rows.append((str(i + 1), self.eigenvalues[i], self.residual[i], spread))
        rows.append(("next", self.next_eigenvalue, None, None))
        yield Grid([("i", ""), ("eigenvalue", ".4g"), ("residual", ".2g"), ("std", ".2g")], rows)

    def apply(self, g: Any) -> Any:
        """``H_r g = U diag(lambda) U.T g``, for g of shape (n,) or (n, k)."""
        return self.precondition(g, self.eigenvalues, 0.0)

    def solve(self, g: Any, *, damping: float, noise: float = 0.0, complement: float | None = None) -> Any:
        """The damped inverse of ``|H_r|``: ``(U diag(|lambda| + noise std) U.T + damping I)^-1 g``.

        Parameters
        ----------
        g : array, shape (n,) or (n, k)
        damping : float
            In units of curvature.
        noise : float
            How many standard deviations across sub-batches are added to ``|lambda_i|``.
        complement : float, optional
            What divides the part of g off the vectors; `damping` by default.

        Raises
        ------
        ValueError
            If damping or complement is not positive, or noise is asked for where `std` is not known.
        """
        damping = _check.positive("damping", damping)
        off = damping if complement is None else _check.positive("complement", complement)
        curvature = np.abs(self.eigenvalues)
        if _check.nonnegative("noise", noise):
            if self.std is None:
                raise ValueError(
                    f"`noise` must be 0 where the spread over sub-batches is not known; got {noise}. Give "
                    "randomized_eigh a list of products."
                )
            curvature = curvature + noise * self.std
        return self.precondition(g, 1.0 / (curvature + damping), 1.0 / off)

    def precondition(self, g: Any, kept: Any, rest: float) -> Any:
        """``U diag(kept) U.T g + rest (g - U U.T g)``: any gains along the vectors, one gain off them.

        Parameters
        ----------
        g : array, shape (n,) or (n, k)
        kept : array, shape (r,)
            On the host.
        rest : float
        """
        vectors, g = self.vectors, as_floats(g)
        if g.ndim not in (1, 2) or g.shape[0] != vectors.shape[0]:
            raise ValueError(
                f"`g` must have shape ({vectors.shape[0]},) or ({vectors.shape[0]}, k); got shape "
                f"{tuple(g.shape)}."
            )
        # rest g + U (kept - rest) U^T g: one product each with
        # U^T and U, and no g - U U^T g, which would cancel.
        gains = backend_like(vectors).asarray(_check.shaped("kept", kept, self.eigenvalues.shape) - rest)
        return rest * g + vectors @ ((gains if g.ndim == 1 else gains[:, None]) * (vectors.T @ g))
