"""Regression on data: a mean of per-sample losses, each with its own gradient and Hessian."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import _check
from .._array import as_floats, namespace, take_rows, transpose
from .._saving import Kept
from ._newton import minimizer
from .base import Objective

LEAST_CURVATURE = 1e-6
"""Least curvature by predictions that residuals are divided by the root of; gradients stay exact."""
MAX_CLASSES = 20
"""Most whole numbers that are taken for classes where nobody says how many there are."""


class Regression(Objective, Kept):
    """``F(w) = (1/n) sum_i f_i(w)``, ``f_i(w) = loss(x_i . w, y_i) + l2 |w|^2 / 2``.

    Every derivative takes ``batch=``: sample indices, shape (b,) for all states or (..., b) along with them.

    Attributes
    ----------
    X, y : arrays (n, d), (n,)
    l2 : float
    outputs : int
        Predictions per sample: 1, or one less than the classes of a `Multinomial`.
    reference : array (d,)
        The minimizer, found on first use.
    """

    n_samples: int
    outputs = 1

    def __init__(self, X: Any, y: Any, *, l2: float):
        self.X = _check.array("X", X, ndim=2, shape="(n, d)", advice=_check.IMPUTE)
        self.y = _check.array("y", y, ndim=1, shape="(n,)", advice=_check.IMPUTE)
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
        if isinstance(rows, np.ndarray) and rows.ndim == 2 and weights.ndim == 1 and np.all(weights >= 0):
            half = rows * np.sqrt(weights)[:, None]
            return (
                half.T @ half / len(half)
            )  # of a matrix with itself NumPy makes one triangle: half the work
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

    def slopes(self, w: np.ndarray, *, batch: Any = None) -> np.ndarray:
        """Derivatives of the losses with respect to the predictions, (..., n, outputs)."""
        return self._at(w, batch, 1)[2][..., None]

    def curvatures(self, w: np.ndarray, *, batch: Any = None) -> np.ndarray:
        """Second derivatives by the predictions, (..., n, outputs, outputs).

        The Hessian of ``f_i`` is the Kronecker product of the i-th with ``x_i x_i^T``, plus the ridge.
        """
        return self._at(w, batch, 2)[2][..., None, None]

    def residuals(self, w: np.ndarray, *, batch: Any = None) -> tuple[Any, Any]:
        """Half squares with the losses' gradients and curvature at one state, for Gauss-Newton steps.

        Values (n, outputs) and their gradients (n, outputs, d), the ridge left out: ``sum J r`` is a sample's
        gradient and ``J^T J`` its Hessian, but that curvature is kept above 1e-6 by the predictions.
        """
        xp, rows = namespace(self.X), self.X if batch is None else take_rows(self.X, batch)
        sizes, turned = xp.linalg.eigh(self.curvatures(w, batch=batch))
        roots = xp.sqrt(xp.maximum(sizes, xp.full_like(sizes, LEAST_CURVATURE)))
        values = (transpose(turned) @ self.slopes(w, batch=batch)[..., None])[..., 0] / roots
        gradients = (transpose(turned) * roots[..., None])[..., None] * rows[:, None, None, :]
        return values, xp.reshape(gradients, (rows.shape[0], self.outputs, self.dim))

    def hessian_factors(self, w: np.ndarray) -> np.ndarray:
        """Rows ``Z`` (n, outputs, d) at one state (d,): the Hessian of ``f_i`` is ``Z_i^T Z_i + l2 I``.

        A sample's curvature has no larger rank, so that what all samples' Hessians do together asks for no
        matrix (d, d) per sample.
        """
        values, vectors = np.linalg.eigh(self.curvatures(w))
        # A convex loss has no negative curvatures; rounding has.
        roots = vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :]
        rows = roots.transpose(0, 2, 1)[..., None] * self.X[:, None, None, :]
        return rows.reshape(self.n_samples, self.outputs, self.dim)

    def in_row_space(self) -> Regression:
        """The same objective in coordinates of the space that the rows of `X` span, if they span no more.

        Of n rows with p > n columns they are n orthonormal combinations of columns. No sample sees the
        others: their weights are 0 at the minimum, have the curvature `l2` and no noise.

        Examples
        --------
        >>> import numpy as np, stability as st
        >>> F = st.least_squares(np.ones((3, 50)) + np.eye(3, 50), [1.0, 2.0, 3.0], l2=0.1)
        >>> F.dim, F.in_row_space().dim
        (50, 3)
        """
        n, p = self.X.shape
        if n >= p:
            return self
        left, sizes, _ = np.linalg.svd(self.X, full_matrices=False)
        # As `numpy.linalg.matrix_rank` has it: smaller singular values are rounding of the largest.
        seen = sizes > np.finfo(float).eps * p * sizes[0]
        other = copy.copy(self)
        # A cached minimizer is one of the old coordinates.
        other.__dict__.pop("reference", None)
        other.X = left[:, seen] * sizes[seen]
        other.dim = self.outputs * other.X.shape[1]
        return other

    @functools.cached_property
    def reference(self) -> np.ndarray:  # type: ignore[override]
        """The minimizer (d,), to rounding error; raises where there is none."""
        if not isinstance(self.X, np.ndarray):
            raise TypeError(
                "The minimizer is found on the host: read `reference` before the objective is moved."
            )
        return minimizer(self)

    def __repr__(self) -> str:
        samples, place = _check.counted(self.n_samples, "sample"), _check.counted(self.dim, "dimension")
        return f"{type(self).__name__} on {samples} in {place}, l2={self.l2:g}"


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
        wrong = xp.where(y > 0, -z, z)  # how far the prediction is on the wrong side
        if order == 0:
            return xp.logaddexp(0.0, wrong)
        small = xp.exp(-xp.abs(z))  # every digit of probabilities near 0 is kept
        if order == 1:
            missed = xp.where(wrong > 0, 1.0, small) / (1 + small)
            return xp.where(y > 0, -missed, missed)
        curve = small / (1 + small) ** 2
        # p (1 - p) (1 - 2p), where 1 - 2p = -tanh(z / 2).
        return curve if order == 2 else -curve * xp.tanh(0.5 * z)


class Multinomial(Regression):
    """Softmax regression: ``loss = log(1 + sum_k exp(z_k)) - z_y``, with ``z_0 = 0`` for class 0.

    The state holds a row of weights for each of the classes 1, 2, ..., one after the other.

    Attributes
    ----------
    classes : int
        ``K``; `dim` is ``K - 1`` times the columns of `X`.
    """

    def __init__(self, X: Any, y: Any, *, classes: int, l2: float):
        super().__init__(X, y, l2=l2)
        self.classes = _check.count("classes", classes, least=2)
        self.outputs = classes - 1
        self.dim = self.outputs * self.X.shape[1]
        _check.room(
            f"The classes of {len(self.y)} samples need",
            4 * classes * len(self.y),
            why=f"{classes} classes",
            advice="Leave `classes` out, or number fewer.",
        )
        if not np.isin(self.y, np.arange(classes)).all():
            raise ValueError(
                f"`y` must hold class numbers from 0 to {classes - 1}; got {self.y.min():g} to "
                f"{self.y.max():g}. Number the classes 0, 1, 2, ..."
            )
        self._hit = (self.y[:, None] == np.arange(1, classes)).astype(float)

    def _passed(self, w: Any, batch: Any) -> tuple[Any, Any, Any, Any]:
        """State (..., d), design rows (..., b, p), predictions and hits (..., outputs, b)."""
        w = as_floats(w)
        rows, hit = (
            (self.X, self._hit) if batch is None else (take_rows(a, batch) for a in (self.X, self._hit))
        )
        return w, rows, self._by_class(w) @ transpose(rows), transpose(hit)

    def _by_class(self, w: Any) -> Any:
        """(..., d) -> (..., outputs, p)."""
        return namespace(w).reshape(w, (*w.shape[:-1], self.outputs, self.dim // self.outputs))

    def _flat(self, rows: Any) -> Any:
        """(..., outputs, p) -> (..., d)."""
        return namespace(rows).reshape(rows, (*rows.shape[:-2], self.dim))

    @staticmethod
    def _normalizer(z: Any) -> Any:
        """``log(1 + sum_k exp(z_k))``, (..., outputs, b) -> (..., b)."""
        xp = namespace(z)
        # Class 0 has the prediction 0, which takes part in the largest: nothing overflows.
        top = xp.maximum(xp.max(z, axis=-2), xp.zeros_like(z[..., 0, :]))
        return top + xp.log(xp.exp(-top) + xp.sum(xp.exp(z - top[..., None, :]), axis=-2))

    def _chances(self, z: Any) -> tuple[Any, Any, Any]:
        """Chances of the classes 1, 2, ... and of all but each, (..., outputs, b); and who the others are.

        What is left of 1 is summed from the others' probabilities: 1 - p has no digits where p is nearly 1.
        """
        xp, normalizer = namespace(z), self._normalizer(z)
        p, first = xp.exp(z - normalizer[..., None, :]), xp.exp(-normalizer)
        others = 1 - xp.eye(self.outputs, dtype=z.dtype, device=z.device)
        return p, first[..., None, :] + others @ p, others

    def _miss(self, z: Any, hit: Any) -> Any:
        """Derivatives of the losses by the predictions."""
        p, rest, _ = self._chances(z)
        # p - 1 of the sample's own class, as what the others have: no digits are lost where p is nearly 1.
        return namespace(z).where(hit > 0, -rest, p)

    def value(self, w: np.ndarray, *, batch: Any = None) -> np.ndarray:
        w, _, z, hit = self._passed(w, batch)
        xp = namespace(w)
        loss = self._normalizer(z) - xp.sum(hit * z, axis=-2)
        return xp.mean(loss, axis=-1) + 0.5 * self.l2 * xp.sum(w**2, axis=-1)

    def gradient(self, w: np.ndarray, *, batch: Any = None) -> np.ndarray:
        w, rows, z, hit = self._passed(w, batch)
        return self._flat(self._miss(z, hit) @ rows) / z.shape[-1] + self.l2 * w

    def hessian(self, w: np.ndarray, *, batch: Any = None) -> np.ndarray:
        w, rows, z, _ = self._passed(w, batch)
        p, rest, _ = self._chances(z)
        return self._blocks(
            rows, lambda j, k: p[..., j, :] * (rest if j == k else -p)[..., k, :]
        ) + self._ridge(w)

    def third(self, w: np.ndarray, v: np.ndarray, *, batch: Any = None) -> np.ndarray:
        _, rows, z, _ = self._passed(w, batch)
        p, rest, others = self._chances(z)
        along = self._by_class(as_floats(v)) @ transpose(rows)
        # p_k' = p_k (a_k (1 - p_k) - sum of p_j a_j over j != k)
        # for a change a of the predictions; 1 - p_k is `rest`.
        turn = p * (along * rest - others @ (p * along))  # the probabilities' derivative

        def bend(j: int, k: int) -> Any:
            if j == k:
                return turn[..., j, :] * (rest - p)[..., j, :]
            return -turn[..., j, :] * p[..., k, :] - p[..., j, :] * turn[..., k, :]

        return self._blocks(rows, bend)

    def hvp(self, w: np.ndarray, V: np.ndarray, *, batch: Any = None) -> np.ndarray:
        _, rows, z, _ = self._passed(w, batch)
        p, rest, others = self._chances(z)
        xp, lead, count = namespace(z), V.shape[:-2], V.shape[-1]
        by_class = xp.reshape(V, (*lead, self.outputs, self.dim // self.outputs, count))
        along = rows[..., None, :, :] @ by_class  # (..., outputs, b, count)
        flat = xp.reshape(p[..., None] * along, (*along.shape[:-2], -1))
        across = xp.reshape(others @ flat, along.shape)
        # The same as the probabilities' derivative in `third`, for many directions at once.
        curved = p[..., None] * (along * rest[..., None] - across)
        products = transpose(rows)[..., None, :, :] @ curved / z.shape[-1]
        return xp.reshape(products, (*products.shape[:-3], self.dim, count)) + self.l2 * V

    def _blocks(self, rows: Any, weights: Callable[[int, int], Any]) -> Any:
        """The symmetric matrix (..., d, d) of the blocks ``mean_i weights_i(j, k) x_i x_i^T``."""
        xp = namespace(rows)
        upper = {
            (j, k): self._gram(rows, weights(j, k))
            for j in range(self.outputs)
            for k in range(j, self.outputs)
        }
        lines = [[upper[min(j, k), max(j, k)] for k in range(self.outputs)] for j in range(self.outputs)]
        return xp.concat([xp.concat(line, axis=-1) for line in lines], axis=-2)

    def slopes(self, w: np.ndarray, *, batch: Any = None) -> np.ndarray:
        _, _, z, hit = self._passed(w, batch)
        return transpose(self._miss(z, hit))

    def curvatures(self, w: np.ndarray, *, batch: Any = None) -> np.ndarray:
        _, _, z, _ = self._passed(w, batch)
        p, rest, others = self._chances(z)
        p, rest = transpose(p), transpose(rest)
        # diag(p) - p p^T, with p_k (1 - p_k) on its diagonal as p_k times what is left of 1.
        return p[..., :, None] * ((1 - others) * rest[..., None, :] - others * p[..., None, :])

    def per_sample_gradient(self, w: np.ndarray, *, batch: Any = None) -> np.ndarray:
        w, rows, z, hit = self._passed(w, batch)
        slopes = transpose(self._miss(z, hit))
        return self._flat(slopes[..., :, None] * rows[..., None, :]) + self.l2 * w[..., None, :]

    def per_sample_hessian(self, w: np.ndarray, *, batch: Any = None) -> np.ndarray:
        w, rows, _, _ = self._passed(w, batch)
        outer = rows[..., :, None] * rows[..., None, :]
        blocks = self.curvatures(w, batch=batch)[..., :, None, :, None] * outer[..., None, :, None, :]
        return namespace(w).reshape(blocks, (*blocks.shape[:-4], self.dim, self.dim)) + self._ridge(w)


@_check.by_name
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


@_check.by_name
def logistic(X: Any, y: Any, *, l2: float = 0.0, classes: int | None = None) -> Logistic | Multinomial:
    """Regularized logistic regression on a data table, of two classes or more.

    Parameters
    ----------
    X : array, shape (n, p)
        Design matrix; add a column of ones for an intercept.
    y : array, shape (n,)
        Two classes, of which the larger value is class 1: d = p. More classes are whole numbers, and d =
        (classes - 1) p: a row of weights for each class but the smallest, whose prediction is 0.
    l2 : float
        Weight of the ridge, >= 0.
    classes : int, optional
        How many there are; `y` then holds 0, 1, ..., classes - 1, though not all of them perhaps. Read from
        `y` by default.

    Raises
    ------
    ValueError
        If `y` holds one class, no whole numbers or more than 20, shapes disagree, entries are not finite, or
        `l2` < 0.

    Examples
    --------
    >>> import stability as st
    >>> F = st.logistic([[1.0], [-1.0]], [1, 0], l2=0.5)
    >>> F.hessian([0.0])  # 1/4 + l2
    array([[0.75]])
    >>> F = st.logistic([[1.0]] * 6, [0, 1, 2, 2, 1, 0])
    >>> F.value([0.0, 0.0]).round(4), F.reference  # log 3; class 0 is the reference
    (np.float64(1.0986), array([0., 0.]))
    """
    y = _check.array("y", y, ndim=1, shape="(n,)", advice=_check.IMPUTE)
    if classes is not None:
        objective = Multinomial(X, y, classes=classes, l2=l2)
        return objective if objective.classes > 2 else Logistic(X, y, l2=l2)
    found, numbers = np.unique(y, return_inverse=True)
    if len(found) < 2:
        raise ValueError(f"`y` must hold two classes or more; got {len(found)} ({_preview(found)}).")
    if len(found) == 2:
        return Logistic(X, numbers.astype(float), l2=l2)
    if len(found) > min(MAX_CLASSES, len(y) // 2) or np.any(found != np.floor(found)):
        raise ValueError(
            f"`y` must hold classes: two values, or whole numbers, at most {MAX_CLASSES} and each twice on "
            f"average; got {len(found)} values on {len(y)} samples ({_preview(found)}). Use st.least_squares "
            "for numbers; number the classes 0, 1, 2, ... and give `classes` where they are more."
        )
    return Multinomial(X, numbers.astype(float), classes=len(found), l2=l2)


def _preview(values: np.ndarray) -> str:
    shown = ", ".join(f"{v:g}" for v in values[:4])
    return shown + (", ..." if len(values) > 4 else "")
