"""Even functions on the sphere of directions, and how random matrices move them.

A function homogeneous of order s is ``f(x) = |x|^s p(x / |x|)``. The mean of ``f`` one random step ahead is
homogeneous of the same order, so that what acts on ``p`` is an operator on the sphere: its leading eigenvalue
says how ``E|B_n ... B_1 x|^s`` grows. Here p is a sum of a basis' functions, and points are where such sums
are compared.
"""

from __future__ import annotations

import itertools
import math

import numpy as np


class Circle:
    """Cosines and sines of even multiples of the angle, up to `degree`, at twice as many angles."""

    def __init__(self, degree: int):
        self.waves = np.arange(0, degree + 1, 2)
        self.size = 2 * len(self.waves) - 1
        angles = np.pi * (np.arange(2 * self.size) + 0.5) / (2 * self.size)
        self.points = np.stack([np.cos(angles), np.sin(angles)], axis=1)

    def values(self, u: np.ndarray) -> np.ndarray:
        """At unit vectors (..., 2): (..., size)."""
        return self._at(u, 0)

    def slopes(self, u: np.ndarray, w: np.ndarray) -> np.ndarray:
        """Derivatives at unit vectors (n, 2) along vectors (n, 2)."""
        along = w[:, 1] * u[:, 0] - w[:, 0] * u[:, 1]
        return along[:, None] * self._at(u, 1)

    def bends(self, u: np.ndarray, C: np.ndarray) -> np.ndarray:
        """``sum_ij C_ij d_i d_j`` of the functions, as constant along rays, at (n, 2) with (n, 2, 2)."""
        across = np.stack([-u[:, 1], u[:, 0]], axis=1)
        own = np.einsum("ni,nij,nj->n", across, C, across)
        mixed = np.einsum("ni,nij,nj->n", across, C, u)
        return own[:, None] * self._at(u, 2) - 2 * mixed[:, None] * self._at(u, 1)

    def _at(self, u: np.ndarray, order: int) -> np.ndarray:
        """Derivatives of this order by the angle."""
        phase = np.arctan2(u[..., 1], u[..., 0])[..., None] * self.waves + 0.5 * np.pi * order
        size = self.waves.astype(float) ** order
        return np.concatenate([size * np.cos(phase), (size * np.sin(phase))[..., 1:]], axis=-1)


class Sphere:
    """Monomials of one even degree over ``|x|^degree``, which span all even ones below it too.

    Points are directions of normals with covariance `spread` (d, d): many where directions are likely.
    """

    def __init__(self, degree: int, spread: np.ndarray):
        self.degree, dim = degree, len(spread)
        chosen = itertools.combinations_with_replacement(range(dim), degree)
        self.powers = np.array([np.bincount(one, minlength=dim) for one in chosen], dtype=int)
        self.powers = self.powers.reshape(-1, dim)
        self.size = len(self.powers)
        # Of this scale the sum of their squares is one everywhere: none is small beside the others.
        ways = [math.factorial(degree) / math.prod(map(math.factorial, row)) for row in self.powers.tolist()]
        self.scale = np.sqrt(ways)
        normals = np.random.default_rng(0).standard_normal((max(32, 4 * self.size), dim))
        points = normals @ np.linalg.cholesky(spread).T
        self.points = points / np.linalg.norm(points, axis=1)[:, None]

    def values(self, u: np.ndarray) -> np.ndarray:
        return self.scale * _monomials(u, self.powers)

    def slopes(self, u: np.ndarray, w: np.ndarray) -> np.ndarray:
        radial = self.degree * np.einsum("ni,ni->n", u, w)
        return self._slopes(u, w) - radial[:, None] * self.values(u)

    def bends(self, u: np.ndarray, C: np.ndarray) -> np.ndarray:
        moved = np.einsum("nij,nj->ni", C, u)
        own, trace = np.einsum("ni,ni->n", u, moved), np.trace(C, axis1=1, axis2=2)
        shift = self.degree * ((self.degree + 2) * own - trace)
        bent = shift[:, None] * self.values(u) - 2 * self.degree * self._slopes(u, moved)
        for i, j in itertools.product(range(u.shape[1]), repeat=2):
            lowered = self.powers.copy()
            factor = lowered[:, i].copy()
            lowered[:, i] -= 1
            factor *= lowered[:, j]
            lowered[:, j] -= 1
            own_ones = np.flatnonzero(factor)
            part = (self.scale * factor)[own_ones] * _monomials(u, lowered[own_ones])
            bent[:, own_ones] += C[:, i, j, None] * part
        return bent

    def _slopes(self, u: np.ndarray, w: np.ndarray) -> np.ndarray:
        """Of the monomials themselves."""
        total = np.zeros((len(u), self.size))
        for i in range(u.shape[1]):
            own = np.flatnonzero(self.powers[:, i])
            lowered = self.powers[own]
            lowered[:, i] -= 1
            factor = (self.scale * self.powers[:, i])[own]
            total[:, own] += w[:, i, None] * factor * _monomials(u, lowered)
        return total


def _monomials(u: np.ndarray, powers: np.ndarray) -> np.ndarray:
    """Products of powers (k, d) of coordinates (..., d): (..., k)."""
    most = int(powers.max(initial=0))
    table = u[..., None] ** np.arange(most + 1)
    result = np.ones((*u.shape[:-1], len(powers)))
    for i in range(u.shape[-1]):
        if powers[:, i].any():
            result *= table[..., i, :][..., powers[:, i]]
    return result


def basis(degree: int, spread: np.ndarray) -> Circle | Sphere:
    """Even functions of directions up to an even `degree`; most points lie where `spread` (d, d) is."""
    return Circle(degree) if len(spread) == 2 else Sphere(degree, spread)
