"""Nonconvex landscapes with known critical points, for any leading batch axes."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _check
from .._array import as_floats, diagonal_matrix, namespace
from .._saving import Kept
from .base import Objective


class Landscape(Objective, Kept):
    """A named test function; `dims` is the range of dimensions in which it makes sense."""

    name = ""
    dims: tuple[int, int | None] = (1, None)
    default_dim = 2

    def __init__(self, dim: int):
        self.dim = dim

    def __repr__(self) -> str:
        return f"landscape {self.name!r} in {_check.counted(self.dim, 'dimension')}"


class DoubleWell(Landscape):
    """``(x_1^2 - 1)^2 / 4 + sum_{i>1} x_i^2 / 2``: minima at (+-1, 0, ...), a saddle at 0.

    Reference: (1, 0, ...).
    """

    name = "double_well"
    diagonal_hessian = True

    def __init__(self, dim: int):
        super().__init__(dim)
        self.reference = np.eye(dim)[0]

    def value(self, w: np.ndarray) -> np.ndarray:
        x, y = _split(w)
        return 0.25 * (x**2 - 1) ** 2 + 0.5 * namespace(y).sum(y**2, axis=-1)

    def gradient(self, w: np.ndarray) -> np.ndarray:
        w = as_floats(w)
        # Along all other coordinates the gradient is the state itself.
        result = namespace(w).asarray(w, copy=True)
        result[..., 0] = (w[..., 0] * w[..., 0] - 1) * w[..., 0]
        return result

    def hessian_diagonal(self, w: np.ndarray) -> np.ndarray:
        w = as_floats(w)
        result = namespace(w).ones_like(w)
        result[..., 0] = 3 * w[..., 0] ** 2 - 1
        return result

    @staticmethod
    def planar(x: Any, y: Any) -> tuple[Any, ...]:
        """``(g1, g2, h11, h12, h22)`` in two dimensions."""
        square = x * x
        return (square - 1.0) * x, y, 3.0 * square - 1.0, 0.0, 1.0

    def third(self, w: np.ndarray, v: np.ndarray) -> np.ndarray:
        w, v = _pair(w, v)
        result = namespace(w).zeros_like(w)
        result[..., 0] = 6 * w[..., 0] * v[..., 0]
        return diagonal_matrix(result)


class CoupledQuartic(Landscape):
    """``(x^2 - 1)^2 / 4 + (1 + x^2) |y|^2 / 4`` with ``w = (x, y)``.

    Saddle at 0, minima at (+-1, 0). Reference: 0.

    The Hessian is ``diag(-1, 1/2, ...)`` at the saddle and ``diag(2, 1, ...)`` at the minima; the coupling
    turns its eigenvectors in between.
    """

    name = "coupled_quartic"
    dims = (2, None)

    def __init__(self, dim: int):
        super().__init__(dim)
        self.reference = np.zeros(dim)

    def value(self, w: np.ndarray) -> np.ndarray:
        x, y = _split(w)
        return 0.25 * (x**2 - 1) ** 2 + 0.25 * (1 + x**2) * namespace(y).sum(y**2, axis=-1)

    def gradient(self, w: np.ndarray) -> np.ndarray:
        x, y = _split(w)
        first = (x * x - 1 + 0.5 * namespace(y).sum(y * y, axis=-1)) * x
        return _joined(w, first, 0.5 * (1 + x**2)[..., None] * y)

    def hessian(self, w: np.ndarray) -> np.ndarray:
        x, y = _split(w)
        corner = 3 * x**2 - 1 + 0.5 * namespace(y).sum(y**2, axis=-1)
        return _arrow(_joined(w, corner, 0.5 * (1 + x**2)[..., None]), x[..., None] * y)

    @staticmethod
    def planar(x: Any, y: Any) -> tuple[Any, ...]:
        """``(g1, g2, h11, h12, h22)`` in two dimensions."""
        square, half = x * x, 0.5 * (y * y)
        valley = 0.5 * square + 0.5
        return (square + half - 1.0) * x, valley * y, 3.0 * square + half - 1.0, x * y, valley

    def third(self, w: np.ndarray, v: np.ndarray) -> np.ndarray:
        w, v = _pair(w, v)
        (x, y), (a, b) = _split(w), _split(v)
        corner = 6 * x * a + namespace(y).sum(y * b, axis=-1)
        return _arrow(_joined(w, corner, (x * a)[..., None]), a[..., None] * y + x[..., None] * b)


class MonkeySaddle(Landscape):
    """``x^3 - 3 x y^2``: a degenerate saddle at 0 (its Hessian vanishes), the reference."""

    name = "monkey_saddle"
    dims = (2, 2)

    def __init__(self, dim: int):
        super().__init__(dim)
        self.reference = np.zeros(dim)

    def value(self, w: np.ndarray) -> np.ndarray:
        x, y = _xy(w)
        return x**3 - 3 * x * y**2

    @staticmethod
    def planar(x: Any, y: Any) -> tuple[Any, ...]:
        """``(g1, g2, h11, h12, h22)``."""
        return 3.0 * (x * x) - 3.0 * (y * y), -6.0 * (x * y), 6.0 * x, -6.0 * y, -6.0 * x

    def gradient(self, w: np.ndarray) -> np.ndarray:
        first, second, *_ = self.planar(*_xy(w))
        return _joined(w, first, second[..., None])

    def hessian(self, w: np.ndarray) -> np.ndarray:
        *_, corner, edge, last = self.planar(*_xy(w))
        return _arrow(_joined(w, corner, last[..., None]), edge[..., None])

    def third(self, w: np.ndarray, v: np.ndarray) -> np.ndarray:
        return self.hessian(_pair(w, v)[1])  # the Hessian is linear in w


class Rosenbrock(Landscape):
    """``sum_i 100 (x_{i+1} - x_i^2)^2 + (1 - x_i)^2``: minimum at (1, ..., 1), the reference."""

    name = "rosenbrock"
    dims = (2, None)

    def __init__(self, dim: int):
        super().__init__(dim)
        self.reference = np.ones(dim)

    def value(self, w: np.ndarray) -> np.ndarray:
        x, y = _neighbors(w)
        return namespace(x).sum(100 * (y - x**2) ** 2 + (1 - x) ** 2, axis=-1)

    def gradient(self, w: np.ndarray) -> np.ndarray:
        x, y = _neighbors(w)
        result = _zeros_like(w)
        result[..., :-1] = -400 * x * (y - x**2) - 2 * (1 - x)
        result[..., 1:] += 200 * (y - x**2)
        return result

    def hessian(self, w: np.ndarray) -> np.ndarray:
        x, y = _neighbors(w)
        diagonal = _zeros_like(w)
        diagonal[..., :-1] = 1200 * x**2 - 400 * y + 2
        diagonal[..., 1:] += 200
        return _tridiagonal(diagonal, -400 * x)

    @staticmethod
    def planar(x: Any, y: Any) -> tuple[Any, ...]:
        """``(g1, g2, h11, h12, h22)`` in two dimensions."""
        square = x * x
        above = y - square
        return (
            -400.0 * (x * above) + 2.0 * x - 2.0,
            200.0 * above,
            800.0 * square - 400.0 * above + 2.0,
            -400.0 * x,
            200.0,
        )

    def third(self, w: np.ndarray, v: np.ndarray) -> np.ndarray:
        w, v = _pair(w, v)
        diagonal = _zeros_like(w)
        diagonal[..., :-1] = 2400 * w[..., :-1] * v[..., :-1] - 400 * v[..., 1:]
        return _tridiagonal(diagonal, -400 * v[..., :-1])


class Michalewicz(Landscape):
    """``-sum_i sin(x_i) sin(i x_i^2 / pi)^20``: steep valleys, many flat and indefinite regions.

    There is no reference point.
    """

    name = "michalewicz"
    diagonal_hessian = True

    def __init__(self, dim: int):
        super().__init__(dim)
        self.rate = 2 * np.arange(1, dim + 1) / np.pi

    def value(self, w: np.ndarray) -> np.ndarray:
        return -namespace(w).sum(self._term(w, 0), axis=-1)

    def gradient(self, w: np.ndarray) -> np.ndarray:
        return -self._term(w, 1)

    def hessian_diagonal(self, w: np.ndarray) -> np.ndarray:
        return -self._term(w, 2)

    def third(self, w: np.ndarray, v: np.ndarray) -> np.ndarray:
        w, v = _pair(w, v)
        return diagonal_matrix(-self._term(w, 3) * v)

    def _term(self, w: np.ndarray, order: int) -> np.ndarray:
        """A derivative of ``sin(x) sin(u)^20`` per coordinate; ``u = i x^2 / pi``, ``u' = rate * x``."""
        x, rate = as_floats(w), self.rate
        xp = namespace(x)
        sine, cosine = xp.sin(x), xp.cos(x)
        s, c = xp.sin(0.5 * rate * x**2), xp.cos(0.5 * rate * x**2)
        p0 = s**20
        if order == 0:
            return sine * p0
        # p_k is the k-th derivative of s^20 by u, v_k that by x: the chain rule with u'' = rate and u''' = 0.
        p1 = 20 * s**19 * c
        v1 = p1 * rate * x
        if order == 1:
            return cosine * p0 + sine * v1
        p2 = 380 * s**18 * c**2 - 20 * p0
        v2 = p2 * (rate * x) ** 2 + p1 * rate
        if order == 2:
            return -sine * p0 + 2 * cosine * v1 + sine * v2
        p3 = 6840 * s**17 * c**3 - 1160 * s**19 * c
        v3 = p3 * (rate * x) ** 3 + 3 * p2 * rate**2 * x
        return -cosine * p0 - 3 * sine * v1 + 3 * cosine * v2 + sine * v3


_LANDSCAPES = {
    kind.name: kind for kind in (DoubleWell, CoupledQuartic, MonkeySaddle, Rosenbrock, Michalewicz)
}


@_check.by_name
def landscape(name: str, *, dim: int | None = None) -> Landscape:
    """A named nonconvex landscape.

    Parameters
    ----------
    name : {"double_well", "coupled_quartic", "monkey_saddle", "rosenbrock", "michalewicz"}
    dim : int, optional
        Dimension; 2 by default.

    Raises
    ------
    ValueError
        If the name is unknown (the known ones are listed) or the landscape has no such dimension.

    Examples
    --------
    >>> import stability as st
    >>> float(st.landscape("rosenbrock", dim=3).value([1, 1, 1]))
    0.0
    """
    kind = _LANDSCAPES[_check.choice("name", name, _LANDSCAPES)]
    least, most = kind.dims
    dim = _check.count(
        "dim", kind.default_dim if dim is None else dim, least=least, most=most, why=f"for {name}"
    )
    # As many as the first step of anything holds: state, reference, gradient, noise, and their like.
    _check.room("Eight states need", 8 * dim, advice="Take a smaller `dim`.")
    return kind(dim)


def _pair(w: Any, v: Any) -> tuple[np.ndarray, np.ndarray]:
    w, v = as_floats(w), as_floats(v)
    w, v = namespace(w).broadcast_arrays(w, v)
    return w, v


def _split(w: Any) -> tuple[np.ndarray, np.ndarray]:
    w = as_floats(w)
    return w[..., 0], w[..., 1:]


def _neighbors(w: Any) -> tuple[np.ndarray, np.ndarray]:
    w = as_floats(w)
    return w[..., :-1], w[..., 1:]


def _xy(w: Any) -> tuple[np.ndarray, np.ndarray]:
    w = as_floats(w)
    return w[..., 0], w[..., 1]


def _zeros_like(w: Any) -> np.ndarray:
    w = as_floats(w)
    return namespace(w).zeros_like(w)


def _joined(w: Any, first: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """One array of `first` (...) and `rest` (..., d - 1 or 1), laid out in memory as the states `w` are."""
    w = as_floats(w)
    result = namespace(w).empty_like(w)
    result[..., 0], result[..., 1:] = first, rest
    return result


def _arrow(diagonal: np.ndarray, edge: np.ndarray) -> np.ndarray:
    """A symmetric matrix of this diagonal whose only other entries are its first row and column, `edge`."""
    result = diagonal_matrix(diagonal)
    result[..., 0, 1:] = result[..., 1:, 0] = edge
    return result


def _tridiagonal(diagonal: np.ndarray, beside: np.ndarray) -> np.ndarray:
    dim = diagonal.shape[-1]
    xp = namespace(diagonal)
    flat = xp.reshape(diagonal_matrix(diagonal), (*diagonal.shape[:-1], dim * dim))
    # In a flattened matrix the entries of a diagonal are d +
    # 1 apart, the two beside the main one from 1 and d on.
    flat[..., 1 :: dim + 1] = flat[..., dim :: dim + 1] = beside
    return xp.reshape(flat, (*diagonal.shape, dim))
