"""Regression on data: a mean of per-sample losses, each with its own gradient and Hessian."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from .. import _check
from .._array import as_floats, namespace, take_rows, transpose
from .._saving import Kept
from .base import Objective


class Regression(Objective, Kept):
    """``F(w) = (1/n) sum_i f_i(w)``, ``f_i(w) = loss(x_i . w, y_i) + l2 |w|^2 / 2``.

    Every derivative takes ``batch=``: sample indices, shape (b,) for all states or (..., b) along with them.

    Attributes
    ----------
    X, y : arrays (n, d), (n,)
    l2 : float
    reference : array (d,)
        The minimizer, found on first use.
    """

    n_samples: int

    def __init__(self, X: Any, y: Any, *, l2: float):
        self.X = _check.array("X", X, ndim=2, shape="(n, d)")
        self.y = _check.array("y", y, ndim=1, shape="(n,)")
        if self.X.size == 0:
            raise ValueError(f"`X` must hold at least one sample and one column; got shape {self.X.shape}.")
        if len(self.y) != len(self.X):
            raise ValueError(f"`y` must have one entry per row of `X` ({len(self.X)}); got {len(self.y)}.")
        self.l2 = _check.nonnegative("l2", l2)
        self.n_samples, self.dim = self.X.shape

    def _loss(self, z: np.ndarray, y: np.ndarray, order: int) -> np.ndarray:
        """The loss's derivative of the given order with respect to the prediction ``z``."""
        raise TypeError(f"{type(self).__name__} defines no loss")

    def _at(self, w: Any, batch: Any, order: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """State, design rows and loss derivatives: (..., d), (n, d) or (..., b, d), (..., n or b)."""
        w = as_floats(w)
        if batch is None:
            return w, self.X, self._loss(w @ self.X.T, self.y, order)
        rows = take_rows(self.X, batch)
        z = w @ rows.T if rows.ndim == 2 else (rows @ w[..., None])[..., 0]
        return w, rows, self._loss(z, take_rows(self.y, batch), order)

    def value(self, w: np.ndarray, *, batch: Any = None) -> np.ndarray:
        w, _, loss = self._at(w, batch, 0)
        xp = namespace(w)
        return xp.mean(loss, axis=-1) + 0.5 * self.l2 * xp.sum(w**2, axis=-1)

    def gradient(self, w: np.ndarray, *, batch: Any = None) -> np.ndarray:
        w, rows, slope = self._at(w, batch, 1)
        return (slope[..., None, :] @ rows)[..., 0, :] / slope.shape[-1] + self.l2 * w

    def hessian(self, w: np.ndarray, *, batch: Any = None) -> np.ndarray:
        w, rows, curve = self._at(w, batch, 2)
        return self._gram(rows, curve) + self._ridge(w)

    def third(self, w: np.ndarray, v: np.ndarray, *, batch: Any = None) -> np.ndarray:
        _, rows, bend = self._at(w, batch, 3)
        v = as_floats(v)
        along = v @ rows.T if rows.ndim == 2 else (rows @ v[..., None])[..., 0]
        return self._gram(rows, bend * along)

    def hvp(self, w: np.ndarray, V: np.ndarray, *, batch: Any = None) -> np.ndarray:
        _, rows, curve = self._at(w, batch, 2)
        products = transpose(rows) @ (curve[..., None] * (rows @ V))
        return products / curve.shape[-1] + self.l2 * V

    @staticmethod
    def _gram(rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return (transpose(rows) * weights[..., None, :]) @ rows / weights.shape[-1]

    def _ridge(self, w: np.ndarray) -> np.ndarray:
        return self.l2 * namespace(w).eye(self.dim, dtype=w.dtype, device=w.device)

    def per_sample_gradient(self, w: np.ndarray, *, batch: Any = None) -> np.ndarray:
        """Gradients of the ``f_i``, shape (..., n, d)."""
        w, rows, slope = self._at(w, batch, 1)
        return slope[..., None] * rows + self.l2 * w[..., None, :]

    def per_sample_hessian(self, w: np.ndarray, *, batch: Any = None) -> np.ndarray:
        """Hessians of the ``f_i``, shape (..., n, d, d)."""
        w, rows, curve = self._at(w, batch, 2)
        outer = rows[..., :, None] * rows[..., None, :]
        return curve[..., None, None] * outer + self._ridge(w)

    @functools.cached_property
    def reference(self) -> np.ndarray:  # type: ignore[override]
        """The minimizer (d,), to rounding error; raises where there is none."""
        import scipy

        if not isinstance(self.X, np.ndarray):
            raise TypeError(
                "The minimizer is found on the host: read `reference` before the objective is moved."
            )
        start = np.zeros(self.dim)
        found = scipy.optimize.minimize(
            self.value,
            start,
            jac=self.gradient,
            hess=self.hessian,
            method="trust-exact",
            options={"gtol": 1e-8, "maxiter": 500},
        )
        w, shift = found.x, np.full(self.dim, np.inf)
        curvature = np.linalg.eigvalsh(self.hessian(w))
        if curvature[0] > 1e-12 * curvature[-1]:
            for _ in range(
                4
            ):  # Newton's quadratic convergence takes 1e-8 to rounding error; towards infinity it has none
                shift = np.linalg.solve(self.hessian(w), self.gradient(w))
                w = w - shift
        if not np.linalg.norm(shift) <= 1e-8 * (1 + np.linalg.norm(w)):
            raise ValueError(
                f"{type(self).__name__} has no isolated minimum on these data (smallest curvature "
                f"{curvature[0]:.2g}: "
                "collinear columns or separable classes). Use l2 > 0."
            )
        return w

    def __repr__(self) -> str:
        return f"{type(self).__name__} on {self.n_samples} samples in {self.dim} dimensions, l2={self.l2:g}"


class LeastSquares(Regression):
    """``loss = (z - y)^2 / 2``."""

    def _loss(self, z: np.ndarray, y: np.ndarray, order: int) -> np.ndarray:
        if order == 0:
            return 0.5 * (z - y) ** 2
        return z - y if order == 1 else namespace(z).full_like(z, 1.0 if order == 2 else 0.0)

    @property
    def constant_hessian(self) -> bool:  # type: ignore[override]
        return True


class Logistic(Regression):
    """``loss = log(1 + exp(-z))`` for label 1, ``log(1 + exp(z))`` for label 0."""

    def _loss(self, z: np.ndarray, y: np.ndarray, order: int) -> np.ndarray:
        xp = namespace(z)
        if order == 0:
            return xp.logaddexp(0.0, xp.where(y > 0, -z, z))
        p = 0.5 * (1 + xp.tanh(0.5 * z))  # the logistic function, without overflow
        if order == 1:
            return p - y
        return p * (1 - p) if order == 2 else p * (1 - p) * (1 - 2 * p)


def least_squares(X: Any, y: Any, *, l2: float = 0.0) -> LeastSquares:
    """Regularized least squares ``(1/2n) |X w - y|^2 + l2 |w|^2 / 2`` on a data table.

    Parameters
    ----------
    X : array, shape (n, d)
        Design matrix; add a column of ones for an intercept.
    y : array, shape (n,)
    l2 : float
        Weight of the ridge, >= 0.

    Raises
    ------
    ValueError
        If shapes disagree, entries are not finite, or `l2` < 0.

    Examples
    --------
    >>> import stability as st
    >>> F = st.least_squares([[1.0], [1.0], [2.0]], [1.0, 1.0, 2.0])
    >>> F.reference, F.hessian([0.0])  # the minimizer, and the mean of x^2
    (array([1.]), array([[2.]]))
    """
    return LeastSquares(X, y, l2=l2)


def logistic(X: Any, y: Any, *, l2: float = 0.0) -> Logistic:
    """Regularized logistic regression on a data table.

    Parameters
    ----------
    X : array, shape (n, d)
        Design matrix; add a column of ones for an intercept.
    y : array, shape (n,)
        Two classes; the larger value is class 1.
    l2 : float
        Weight of the ridge, >= 0.

    Raises
    ------
    ValueError
        If `y` does not hold exactly two classes, shapes disagree, entries are not finite, or `l2` < 0.

    Examples
    --------
    >>> import stability as st
    >>> F = st.logistic([[1.0], [-1.0]], [1, 0], l2=0.5)
    >>> F.hessian([0.0])  # 1/4 + l2
    array([[0.75]])
    """
    y = _check.array("y", y, ndim=1, shape="(n,)")
    classes = np.unique(y)
    if len(classes) != 2:
        raise ValueError(
            f"`y` must hold two classes for logistic regression; got {len(classes)} ({_preview(classes)})."
        )
    return Logistic(X, (y == classes[1]).astype(float), l2=l2)


def _preview(values: np.ndarray) -> str:
    shown = ", ".join(f"{v:g}" for v in values[:4])
    return shown + (", ..." if len(values) > 4 else "")
