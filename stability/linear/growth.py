"""How moments of random matrix products grow: a rate for every order s.

``lim log E|B_n ... B_1 x|^s / (n s)`` is increasing in s, the Lyapunov exponent at 0, and the mean-square
rate at 2. Where it crosses zero is the tail index of what the products carry (Kesten 1973). It is the leading
eigenvalue of an operator on the sphere of directions:

- where the law of B is the same in every basis, one number: the mean of ``|B e|^s``, an integral;
- in continuous time a differential operator, of which even polynomials see enough;
- in the plane, of Gaussian noise, a smooth kernel;
- of any other law a population of directions stands for it: `population.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .._special import gaussian_log_moment
from .moments import Half, Map
from .sphere import basis

Rate = Callable[[float], float]
"""Growth of the moment of an order, over the order: per step, or per unit of t in continuous time."""

SMALLEST, LARGEST = 1e-3, 1e5
"""Orders between which the rate's zero is looked for."""
FLOOR = 1e-8
"""Of its largest eigenvalue: what the matrix behind coordinates has at least."""
NEGLIGIBLE = 80.0
"""Logarithm of a density's smallness that is left out."""
RESOLVED = 1e-10
"""Of a moment that is known: what a kernel may miss."""
EVEN = 3e-3
"""Of their trace: what second moments of directions have at least in each, lest points miss it."""


ONE_SIGN = 0.999
"""Size of a function's mean, over its size's, from which it is held to have one sign."""


class Coordinates(NamedTuple):
    """Coordinates ``root x``, the way back, and the second moments of directions there (n, n)."""

    root: np.ndarray
    inverse: np.ndarray
    spread: np.ndarray


class Step(NamedTuple):
    """First and second moments of the random matrices, of one step or per unit of t in continuous time.

    Attributes
    ----------
    mean : array (n, n)
    noise : callable
        ``M -> E[G M G^T]`` of their random part, (..., n, n) -> (..., n, n).
    continuous : bool
        Whether ``mean`` and ``noise`` are a generator's: per unit of t.
    """

    mean: np.ndarray
    noise: Map
    continuous: bool

    def second(self, M: np.ndarray, share: float = 1.0) -> np.ndarray:
        """What becomes of second moments M, with `share` times the noise's variance."""
        moved = self.mean @ M
        moved = moved + np.swapaxes(moved, -1, -2) if self.continuous else moved @ self.mean.T
        return moved + share * self.noise(M)

    def bound(self) -> float:
        """Of Gaussian noise a lower bound of the index; 2 where it tells none beyond it.

        By hypercontractivity a polynomial of Gaussians has a moment of order ``s > 2`` that is no larger
        than its second one with noise ``s - 1`` times as strong (Nelson 1973).
        """
        half = Half(len(self.mean))

        def rate(order: float) -> float:
            grown = half.matrix(lambda M: self.second(M, order - 1))
            size = float(np.max(np.linalg.eigvals(grown).real))
            return size if self.continuous else size - 1

        return zero(rate) if rate(2.0) < 0 else 2.0

    def settling(self) -> float:
        """Steps in which second moments forget all but what grows most, by a factor of e."""
        sizes = np.sort(np.abs(np.linalg.eigvals(Half(len(self.mean)).matrix(self.second))))[::-1]
        apart = float(np.log(sizes[0] / max(sizes[1], 1e-300 * sizes[0]))) if len(sizes) > 1 else math.inf
        return 1 / apart if apart > 0 else math.inf

    def backward(self, M: np.ndarray) -> np.ndarray:
        """``E[B^T M B]``: what the quadratic form of M is on average after one step."""
        half = Half(len(self.mean))
        return half.unpack(_adjoint(half, half.matrix(self.second)) @ half.pack(M))

    def coordinates(self, order: float) -> Coordinates:
        """Coordinates in which the moment of an `order` grows most evenly.

        At order 2 growth is the same from every direction; where one direction leads, at every order above it
        with noise ``order - 1`` times as strong.
        """
        half, share = Half(len(self.mean)), max(order, 2.0) - 1
        matrix = half.matrix(lambda M: self.second(M, share))
        sizes, axes = np.linalg.eigh(_leading_matrix(half, _adjoint(half, matrix)))
        roots = np.sqrt(np.maximum(sizes / sizes[-1], FLOOR))
        root, inverse = (axes * roots) @ axes.T, (axes / roots) @ axes.T
        spread = root @ _leading_matrix(half, matrix) @ root
        values, axes = np.linalg.eigh(spread / np.trace(spread))
        return Coordinates(root, inverse, (axes * np.maximum(values, EVEN)) @ axes.T)


def _adjoint(half: Half, matrix: np.ndarray) -> np.ndarray:
    """Of a map on symmetric matrices written out: entries off the diagonal count twice in their product."""
    weight = np.where(half.rows == half.columns, 1.0, 2.0)
    return (matrix.T * weight) / weight[:, None]


def _leading_matrix(half: Half, matrix: np.ndarray) -> np.ndarray:
    """Of a positive map on symmetric matrices: positive semidefinite, to rounding."""
    values, vectors = np.linalg.eig(matrix)
    found = half.unpack(np.real(vectors[:, np.argmax(values.real)]))
    return found * np.sign(np.trace(found))


def leading(matrix: np.ndarray, values: np.ndarray) -> float:
    """The largest eigenvalue whose eigenfunction has one sign where the basis has `values` (k, size).

    That of a positive operator has. Others, which a small basis may have, mean nothing.
    """
    eigenvalues, vectors = np.linalg.eig(matrix)
    heights = values @ vectors
    one_sign = np.abs(heights.sum(axis=0)) / np.abs(heights).sum(axis=0)
    return float(np.max(eigenvalues.real[one_sign >= min(ONE_SIGN, one_sign.max())]))


def zero(rate: Rate, start: float = 2.0) -> float:
    """The order at which an increasing rate crosses zero.

    0 if it is positive down to 0.001, inf if it is not up to 100,000.
    """
    import scipy

    low, high, factor = start, start, 1.1
    # In ever wider steps: most indices are near the start, and some far from it.
    while rate(low) >= 0:
        low, high, factor = low / factor, low, factor**1.5
        if low < SMALLEST:
            return 0.0
    while high == low or rate(high) < 0:
        low, high, factor = high, high * factor, factor**1.5
        if low > LARGEST:
            return math.inf
    return float(scipy.optimize.brentq(rate, low, high, rtol=1e-11, xtol=1e-12))


# -- one law in every basis --------------------------------------------------------------------------


def of_gaussian(mean: float, along: float, across: float, dim: int) -> Rate:
    """Of ``B e`` Gaussian: mean ``mean e``, variance `along` e and `across` it, in whatever basis.

    An integral over directions of moments along each, by the trapezoidal rule in the tangent's logarithm,
    which is exact to rounding.
    """
    import scipy

    if dim == 1:
        return lambda s: float(gaussian_log_moment(s, np.array([mean]), np.array([math.sqrt(along)]))[0]) / s
    # Beyond +-36 the integrand is below rounding: exp(-36) is 2e-16.
    t = np.arange(-36.0, 36.0, 0.05)
    cosine, sine = 1 / np.sqrt(1 + np.exp(2 * t)), 1 / np.sqrt(1 + np.exp(-2 * t))
    precision = cosine**2 / along + sine**2 / across
    shift = mean * cosine / along / precision
    # mean^2 / along - shift^2 precision, which would cancel.
    exponent = mean**2 / along * (sine**2 / across) / precision
    height = math.log(2) + 0.5 * (dim - 1) * math.log(math.pi) - scipy.special.gammaln(0.5 * (dim - 1))
    height -= 0.5 * (dim * math.log(2 * math.pi) + math.log(along) + (dim - 1) * math.log(across))
    density = height + 0.5 * np.log(2 * math.pi / precision) - 0.5 * exponent
    density += (dim - 1) * np.log(sine) + np.log(cosine) + math.log(0.05)

    def rate(order: float) -> float:
        moment = gaussian_log_moment(order + dim - 1, shift, 1 / np.sqrt(precision))
        return float(scipy.special.logsumexp(density + moment)) / order

    return rate


def of_inputs(mean: float, scale: float, batch: float, dim: int, *, fine: int = 28) -> Rate:
    """Of ``|B e|^2 = (mean - scale X)^2 + scale^2 X Y``.

    X and Y are chi-squared, of `batch` and ``dim - 1`` degrees. Both integrals by trapezoidal rules between
    whose ends everything is smooth: of Y in its logarithm, of X by double-exponential ones on both sides of
    ``mean / scale``, where the first square vanishes.
    """
    import scipy

    spacing = 2.0 / fine
    t = np.arange(-4.6, 4.6, spacing)
    inside = 0.5 * np.pi * np.sinh(t)
    edge, scale = mean / scale, abs(scale)
    # On both sides of it X and the distance from it are kept apart: neither is a difference that cancels.
    X = apart = beyond = np.exp(inside) * max(edge, 2 * batch)
    jacobian = inside + math.log(max(edge, 2 * batch))
    if edge > 0:
        share = 1 / (1 + np.exp(-2 * inside))
        X, apart = np.r_[edge * share, edge + beyond], np.r_[edge / (1 + np.exp(2 * inside)), -beyond]
        jacobian = np.r_[math.log(2 * edge) - 2 * np.logaddexp(inside, -inside), jacobian]
    else:
        apart = edge - beyond
    jacobian = jacobian + np.resize(np.log(0.5 * np.pi * np.cosh(t) * spacing), len(X))
    density = (0.5 * batch - 1) * np.log(X) - 0.5 * X - 0.5 * batch * math.log(2) + jacobian
    density = density - scipy.special.gammaln(0.5 * batch)
    # exp(-745) is the smallest float: nothing is left of what is smaller.
    kept = density > -745
    X, apart, density = X[kept], apart[kept], density[kept]
    if dim == 1:
        log_square = 2 * np.log(scale * np.abs(apart))
    else:
        y = np.arange(-80.0, 8.0, 2 * spacing)
        degrees = 0.5 * (dim - 1)
        chi = degrees * y - 0.5 * np.exp(y) - degrees * math.log(2) - scipy.special.gammaln(degrees)
        density = density[:, None] + (chi + math.log(2 * spacing))
        with np.errstate(divide="ignore"):
            log_square = 2 * math.log(scale) + np.log(apart[:, None] ** 2 + X[:, None] * np.exp(y))

    def rate(order: float) -> float:
        return float(scipy.special.logsumexp(density + 0.5 * order * log_square)) / order

    return rate


# -- operators ---------------------------------------------------------------------------------------


class Generator:
    """In continuous time, on even polynomials of a `degree`, best near one `order`.

    With ``f = |x|^s p``, ``A x . grad f + C(x) : grad grad f / 2`` is a quadratic in s.
    """

    def __init__(self, step: Step, order: float, degree: int):
        self._step, (self._root, self._inverse, spread) = step, step.coordinates(order)
        self._drift = self._root @ step.mean @ self._inverse
        self.functions = basis(degree, spread)
        # The generator's parts, fitted once, serve every order.
        p = self.functions.values(self.functions.points)
        parts = np.hstack(self.parts(self.functions.points))
        self._values, self._fitted = p, np.hsplit(np.linalg.lstsq(p, parts, rcond=None)[0], 3)

    def moves(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What drift (n, d) and noise (n, d, d) do to unit vectors in these coordinates."""
        x = u @ self._inverse
        return u @ self._drift.T, self._root @ self._step.noise(x[:, :, None] * x[:, None, :]) @ self._root

    def parts(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What it makes of the functions at unit vectors: (n, size) each, of powers 0, 1, 2 of the order."""
        w, C = self.moves(u)
        moved, p = np.einsum("nij,nj->ni", C, u), self.functions.values(u)
        ahead, own = np.einsum("ni,ni->n", u, w), np.einsum("ni,ni->n", u, moved)
        slope = ahead + 0.5 * np.trace(C, axis1=1, axis2=2) - own
        return (
            self.functions.slopes(u, w) + 0.5 * self.functions.bends(u, C),
            slope[:, None] * p + self.functions.slopes(u, moved),
            0.5 * own[:, None] * p,
        )

    def matrix(self, s: float) -> np.ndarray:
        """Of the order s, on the functions' coefficients."""
        still, first, second = self._fitted
        return still + s * first + s * s * second

    def rate(self, s: float) -> float:
        """Growth of the moment, over its order."""
        return leading(self.matrix(s), self._values) / s

    def ahead(self, s: float) -> np.ndarray:
        """Coefficients (size,) of the function that grows most, positive where it is resolved."""
        eigenvalues, vectors = np.linalg.eig(self.matrix(s))
        heights = self._values @ vectors
        one_sign = np.abs(heights.sum(axis=0)) / np.abs(heights).sum(axis=0)
        eligible = np.where(one_sign >= min(ONE_SIGN, one_sign.max()), eigenvalues.real, -math.inf)
        found = np.real(vectors[:, int(np.argmax(eligible))])
        return found * np.sign(np.sum(self._values @ found))


class Plane:
    """Of Gaussian noise in the plane: the kernel of ``f(u) -> E[|B u|^s f]`` at `count` angles.

    ``B u`` is Gaussian, so that the part of the mean that comes from one direction is a moment along it.
    """

    def __init__(self, step: Step, count: int):
        angles = np.pi * np.arange(count) / count
        u = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        triangle = np.linalg.cholesky(step.noise(u[:, :, None] * u[:, None, :]))
        inverse = np.linalg.inv(triangle)
        # Whitened: the matrix's image of u is a standard normal around `mean`, seen along the directions v.
        v, mean = inverse @ u.T, np.einsum("nij,nj->ni", inverse, u @ step.mean.T)
        precision = np.sum(v**2, axis=1)
        shift = np.einsum("ni,nik->nk", mean, v) / precision
        # |mean|^2 - shift^2 precision by what is across v, which does not cancel.
        across = mean[:, 0, None] * v[:, 1] - mean[:, 1, None] * v[:, 0]
        height = math.log(math.pi / count) - 0.5 * math.log(2 * math.pi) - np.log(np.linalg.det(triangle))
        density = height[:, None] - 0.5 * np.log(precision) - 0.5 * across**2 / precision
        # Most of the circle is out of reach of a small step.
        self._near = density > -NEGLIGIBLE
        self._density, self._shift, self._spread = (
            part[self._near] for part in (density, shift, 1 / np.sqrt(precision))
        )
        self.count = count

    def _kernel(self, order: float) -> tuple[np.ndarray, float]:
        logs = self._density + gaussian_log_moment(order + 1, self._shift, self._spread)
        kernel, size = np.zeros((self.count, self.count)), float(logs.max())
        kernel[self._near] = np.exp(logs - size)
        return kernel, size

    @property
    def resolved(self) -> bool:
        """Whether so many angles are enough: the moment of order 0 is one from everywhere."""
        kernel, size = self._kernel(0.0)
        return bool(np.max(np.abs(kernel.sum(axis=1) * math.exp(size) - 1)) < RESOLVED)

    def rate(self, order: float) -> float:
        import scipy

        kernel, size = self._kernel(order)
        # A positive kernel: its leading eigenvalue is real and simple, and constants are no bad start.
        found = scipy.sparse.linalg.eigs(
            kernel, k=1, which="LR", v0=np.ones(self.count), tol=1e-13, return_eigenvectors=False
        )
        return (math.log(float(found[0].real)) + size) / order
