"""The objective protocol, and the check that users run on their own derivatives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import _check
from .._array import diagonal_matrix, transpose
from .._saving import Result


class Objective:
    """What a flow needs of a function ``F: R^d -> R``. Subclass it, or bring any object with these members.

    Every method takes ``w`` of shape (..., d): leading axes are batch, the last axis is the state. Give
    `value`, `gradient`, `hessian` and `third`; `hvp` follows.

    Attributes
    ----------
    dim : int
        ``d``.
    reference : array (d,) or None
        The distinguished critical point: where curvature noise is centred and `linearize` looks first.
    constant_hessian : bool
        True for quadratics, whose spectrum is then computed once.
    diagonal_hessian : bool
        True where the Hessian is diagonal at every state: give `hessian_diagonal`, and `hessian` follows. Its
        eigenvectors are then the axes, and no eigendecomposition is needed.
    planar : callable or None
        In two dimensions, optionally: ``(x, y) -> (g1, g2, h11, h12, h22)``, gradient and Hessian in plain
        arithmetic of both coordinates, for numbers and arrays alike. Ensembles run several times faster on
        it.
    """

    dim: int
    reference: np.ndarray | None = None
    constant_hessian: bool = False
    diagonal_hessian: bool = False
    planar: Callable[[Any, Any], tuple[Any, ...]] | None = None

    def value(self, w: np.ndarray) -> np.ndarray:
        """``F(w)``, (..., d) -> (...)."""
        raise TypeError(f"{type(self).__name__} defines no value")

    def gradient(self, w: np.ndarray) -> np.ndarray:
        """(..., d) -> (..., d)."""
        raise TypeError(f"{type(self).__name__} defines no gradient")

    def hessian(self, w: np.ndarray) -> np.ndarray:
        """(..., d) -> (..., d, d)."""
        if self.diagonal_hessian:
            return diagonal_matrix(self.hessian_diagonal(w))
        raise TypeError(f"{type(self).__name__} defines no hessian")

    def hessian_diagonal(self, w: np.ndarray) -> np.ndarray:
        """The Hessian's diagonal, where `diagonal_hessian` is true: (..., d) -> (..., d)."""
        raise TypeError(f"{type(self).__name__} defines no hessian_diagonal")

    def third(self, w: np.ndarray, v: np.ndarray) -> np.ndarray:
        """The third derivative along `v`, ``lim (H(w + h v) - H(w)) / h``: (..., d), (..., d) -> (..., d,
        d).
        """
        raise TypeError(f"{type(self).__name__} defines no third derivative")

    def hvp(self, w: np.ndarray, V: np.ndarray) -> np.ndarray:
        """Block Hessian product ``H(w) V``: (..., d), (..., d, k) -> (..., d, k)."""
        return self.hessian(w) @ V


@dataclass(frozen=True)
class DerivativeCheck(Result):
    """Relative errors of an objective's derivatives against central differences, best over step sizes.

    ``print`` it for a table; ``ok`` is the verdict.
    """

    gradient: float
    hessian: float
    third: float
    hvp: float
    asymmetry: float
    tolerance: float = 1e-6
    steps: tuple[float, ...] = field(default=(1e-3, 1e-4, 1e-5, 1e-6))

    @property
    def ok(self) -> bool:
        """Whether every error is below `tolerance` (nan is not)."""
        return all(error < self.tolerance for _, error in self._rows())

    def _rows(self) -> list[tuple[str, float]]:
        names = ("gradient", "hessian", "third", "hvp", "asymmetry")
        return [(name, getattr(self, name)) for name in names]

    def __str__(self) -> str:
        verdict = {True: "ok", False: "WRONG"}
        lines = [
            f"{name:<10} {error:9.2e}  {verdict[error < self.tolerance]}" for name, error in self._rows()
        ]
        return "derivative  rel. error\n" + "\n".join(lines)


def check_derivatives(objective: Any, at: Any) -> DerivativeCheck:
    """Compare gradient, Hessian, third derivative and block products with central differences at a point.

    Parameters
    ----------
    objective : Objective
    at : array, shape (d,)

    Returns
    -------
    DerivativeCheck
        Relative errors, each the smallest over the step sizes 1e-3 ... 1e-6, and the Hessian's asymmetry.

    Examples
    --------
    >>> import stability as st
    >>> st.check_derivatives(st.landscape("rosenbrock", dim=3), [0.3, -0.2, 0.5]).ok
    True
    """
    missing = [
        name for name in ("value", "gradient", "hessian", "third", "dim") if not hasattr(objective, name)
    ]
    if missing:
        raise ValueError(f"`objective` lacks {', '.join(missing)}: there is nothing to compare.")
    w = _check.state("at", at, objective.dim)
    eye, steps = np.eye(objective.dim), DerivativeCheck(0, 0, 0, 0, 0).steps
    gradient, hessian = objective.gradient(w), objective.hessian(w)
    third = np.stack([objective.third(w, e) for e in eye])
    direction = np.stack([np.cos(np.arange(objective.dim)), np.sin(1.0 + np.arange(objective.dim))], axis=-1)

    def best(function: Any, exact: np.ndarray) -> float:
        errors = []
        for h in steps:
            slopes = np.stack([(function(w + h * e) - function(w - h * e)) / (2 * h) for e in eye])
            errors.append(_relative(slopes, exact))
        return float(np.min(errors))

    return DerivativeCheck(
        gradient=best(objective.value, gradient),
        hessian=best(objective.gradient, transpose(hessian)),
        third=best(objective.hessian, third),
        hvp=_relative(objective.hvp(w, direction), hessian @ direction) if hasattr(objective, "hvp") else 0.0,
        asymmetry=_relative(hessian, transpose(hessian)),
    )


def _relative(found: np.ndarray, exact: np.ndarray) -> float:
    scale = np.max(np.abs(exact), initial=0.0)
    gap = np.max(np.abs(found - exact), initial=0.0)
    # An exactly zero derivative is compared absolutely: 0/0 is agreement, not nan.
    return float(gap / scale) if scale > 0 else float(gap)
