"""Nonconvex landscapes with known critical points, for any leading batch axes."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _check
from .base import Objective


class Landscape(Objective):
    """A named test function; `dims` is the range of dimensions in which it makes sense."""

    name = ""
    dims: tuple[int, int | None] = (1, None)
    default_dim = 2

    def __init__(self, dim: int):
        self.dim = dim

    def __repr__(self) -> str:
        return f"landscape {self.name!r} in {self.dim} dimensions"


class DoubleWell(Landscape):
    """``(x_1^2 - 1)^2 / 4 + sum_{i>1} x_i^2 / 2``: minima at (+-1, 0, ...), a saddle at 0. Reference: (1, 0, ...)."""

    name = "double_well"

    def __init__(self, dim: int):
        super().__init__(dim)
        self.reference = np.eye(dim)[0]

    def value(self, w: np.ndarray) -> np.ndarray:
        w = np.asarray(w, dtype=float)
        return 0.25 * (w[..., 0] ** 2 - 1) ** 2 + 0.5 * np.sum(w[..., 1:] ** 2, axis=-1)

    def gradient(self, w: np.ndarray) -> np.ndarray:
        w = np.asarray(w, dtype=float)
        return np.concatenate([w[..., :1] ** 3 - w[..., :1], w[..., 1:]], axis=-1)

    def hessian(self, w: np.ndarray) -> np.ndarray:
        w = np.asarray(w, dtype=float)
        return _diagonal(np.concatenate([3 * w[..., :1] ** 2 - 1, np.ones_like(w[..., 1:])], axis=-1))

    def third(self, w: np.ndarray, v: np.ndarray) -> np.ndarray:
        w, v = _pair(w, v)
        return _diagonal(np.concatenate([6 * w[..., :1] * v[..., :1], np.zeros_like(w[..., 1:])], axis=-1))


class CoupledQuartic(Landscape):
    """``(x^2 - 1)^2 / 4 + (1 + x^2) |y|^2 / 4`` with ``w = (x, y)``: saddle at 0, minima at (+-1, 0). Reference: 0.

    The Hessian is ``diag(-1, 1/2, ...)`` at the saddle and ``diag(2, 1, ...)`` at the minima; the coupling turns its
    eigenvectors in between.
    """

    name = "coupled_quartic"
    dims = (2, None)

    def __init__(self, dim: int):
        super().__init__(dim)
        self.reference = np.zeros(dim)

    def value(self, w: np.ndarray) -> np.ndarray:
        x, y = _split(w)
        return 0.25 * (x**2 - 1) ** 2 + 0.25 * (1 + x**2) * np.sum(y**2, axis=-1)

    def gradient(self, w: np.ndarray) -> np.ndarray:
        x, y = _split(w)
        first = x**3 - x + 0.5 * x * np.sum(y**2, axis=-1)
        return np.concatenate([first[..., None], 0.5 * (1 + x**2)[..., None] * y], axis=-1)

    def hessian(self, w: np.ndarray) -> np.ndarray:
        x, y = _split(w)
        corner = 3 * x**2 - 1 + 0.5 * np.sum(y**2, axis=-1)
        return _arrow(corner, x[..., None] * y, 0.5 * (1 + x**2)[..., None] + 0 * y)

    def third(self, w: np.ndarray, v: np.ndarray) -> np.ndarray:
        w, v = _pair(w, v)
        (x, y), (a, b) = _split(w), _split(v)
        corner = 6 * x * a + np.sum(y * b, axis=-1)
        return _arrow(corner, a[..., None] * y + x[..., None] * b, (x * a)[..., None] + 0 * y)


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

    def gradient(self, w: np.ndarray) -> np.ndarray:
        x, y = _xy(w)
        return np.stack([3 * x**2 - 3 * y**2, -6 * x * y], axis=-1)

    def hessian(self, w: np.ndarray) -> np.ndarray:
        x, y = _xy(w)
        return np.stack([np.stack([6 * x, -6 * y], axis=-1), np.stack([-6 * y, -6 * x], axis=-1)], axis=-2)

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
        w = np.asarray(w, dtype=float)
        x, y = w[..., :-1], w[..., 1:]
        return np.sum(100 * (y - x**2) ** 2 + (1 - x) ** 2, axis=-1)

    def gradient(self, w: np.ndarray) -> np.ndarray:
        w = np.asarray(w, dtype=float)
        x, y = w[..., :-1], w[..., 1:]
        result = np.zeros_like(w)
        result[..., :-1] = -400 * x * (y - x**2) - 2 * (1 - x)
        result[..., 1:] += 200 * (y - x**2)
        return result

    def hessian(self, w: np.ndarray) -> np.ndarray:
        w = np.asarray(w, dtype=float)
        x, y = w[..., :-1], w[..., 1:]
        diagonal = np.zeros_like(w)
        diagonal[..., :-1] = 1200 * x**2 - 400 * y + 2
        diagonal[..., 1:] += 200
        return self._tridiagonal(diagonal, -400 * x)

    def third(self, w: np.ndarray, v: np.ndarray) -> np.ndarray:
        w, v = _pair(w, v)
        diagonal = np.zeros_like(w)
        diagonal[..., :-1] = 2400 * w[..., :-1] * v[..., :-1] - 400 * v[..., 1:]
        return self._tridiagonal(diagonal, -400 * v[..., :-1])

    def _tridiagonal(self, diagonal: np.ndarray, beside: np.ndarray) -> np.ndarray:
        result, i = _diagonal(diagonal), np.arange(self.dim - 1)
        result[..., i, i + 1] = result[..., i + 1, i] = beside
        return result


class Michalewicz(Landscape):
    """``-sum_i sin(x_i) sin(i x_i^2 / pi)^20``: steep valleys, many flat and indefinite regions; no reference point."""

    name = "michalewicz"

    def value(self, w: np.ndarray) -> np.ndarray:
        return -np.sum(self._terms(w)[0], axis=-1)

    def gradient(self, w: np.ndarray) -> np.ndarray:
        return -self._terms(w)[1]

    def hessian(self, w: np.ndarray) -> np.ndarray:
        return -_diagonal(self._terms(w)[2])

    def third(self, w: np.ndarray, v: np.ndarray) -> np.ndarray:
        w, v = _pair(w, v)
        return -_diagonal(self._terms(w)[3] * v)

    def _terms(self, w: np.ndarray) -> tuple[np.ndarray, ...]:
        """Value and three derivatives of ``sin(x) s(u)^20`` per coordinate, ``s = sin``, ``u = i x^2 / pi``."""
        x = np.asarray(w, dtype=float)
        rate = 2 * np.arange(1, self.dim + 1) / np.pi  # u'' ; u' = rate * x
        s, c = np.sin(0.5 * rate * x**2), np.cos(0.5 * rate * x**2)
        p0 = s**20
        p1 = 20 * s**19 * c
        p2 = 380 * s**18 * c**2 - 20 * s**20
        p3 = 6840 * s**17 * c**3 - 1160 * s**19 * c
        v1 = p1 * rate * x
        v2 = p2 * (rate * x) ** 2 + p1 * rate
        v3 = p3 * (rate * x) ** 3 + 3 * p2 * rate**2 * x
        sine, cosine = np.sin(x), np.cos(x)
        return (
            sine * p0,
            cosine * p0 + sine * v1,
            -sine * p0 + 2 * cosine * v1 + sine * v2,
            -cosine * p0 - 3 * sine * v1 + 3 * cosine * v2 + sine * v3,
        )


_LANDSCAPES = {kind.name: kind for kind in (DoubleWell, CoupledQuartic, MonkeySaddle, Rosenbrock, Michalewicz)}


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
    return kind(_check.count("dim", kind.default_dim if dim is None else dim, least=least, most=most, why=f"for {name}"))


def _pair(w: Any, v: Any) -> tuple[np.ndarray, np.ndarray]:
    pair = np.broadcast_arrays(np.asarray(w, dtype=float), np.asarray(v, dtype=float))
    return pair[0], pair[1]


def _split(w: Any) -> tuple[np.ndarray, np.ndarray]:
    w = np.asarray(w, dtype=float)
    return w[..., 0], w[..., 1:]


def _xy(w: Any) -> tuple[np.ndarray, np.ndarray]:
    w = np.asarray(w, dtype=float)
    return w[..., 0], w[..., 1]


def _diagonal(values: np.ndarray) -> np.ndarray:
    return values[..., :, None] * np.eye(values.shape[-1])


def _arrow(corner: np.ndarray, edge: np.ndarray, diagonal: np.ndarray) -> np.ndarray:
    """A symmetric arrowhead matrix: `corner`, first row and column `edge`, and the rest of the diagonal."""
    result = _diagonal(np.concatenate([corner[..., None], diagonal], axis=-1))
    result[..., 0, 1:] = result[..., 1:, 0] = edge
    return result
