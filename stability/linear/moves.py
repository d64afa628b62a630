"""How random matrices move directions: drawn as they are, or nearer to what matters.

A moment of high order comes from matrices that are seldom drawn. A mixture of their law with one that is
moved towards them draws both, and every draw is given the ratio of the two densities, which is at most the
number of parts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .draws import Draw
from .moments import Map

Move = Callable[[np.random.Generator, np.ndarray, float, np.ndarray], "tuple[np.ndarray, np.ndarray]"]
"""From a generator, states (n, k), an order and a metric (k, k): states moved, logarithms (n,) of ratios."""


class Carry(NamedTuple):
    """How a force on positions (n, d) moves whole states (n, s d), part after part.

    Attributes
    ----------
    free : array (s, s)
    push : array (s,)
    """

    free: np.ndarray
    push: np.ndarray

    def positions(self, states: np.ndarray) -> np.ndarray:
        return states[:, : states.shape[1] // len(self.push)]

    def moved(self, states: np.ndarray, force: np.ndarray) -> np.ndarray:
        parts = states.reshape(len(states), len(self.push), -1)
        ahead = np.einsum("ab,nbd->nad", self.free, parts) + self.push[:, None] * force[:, None]
        return ahead.reshape(states.shape)

    def felt(self, slope: np.ndarray) -> np.ndarray:
        """The slope (n, d) by the force of what has the slope (n, s d) by the states moved."""
        return np.einsum("a,nad->nd", self.push, slope.reshape(len(slope), len(self.push), -1))


def of_matrices(carry: Carry, draw: Draw) -> Move:
    """By matrices X (n, d, d) as they are drawn."""

    def move(
        rng: np.random.Generator, states: np.ndarray, order: float, metric: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        X, _ = draw(rng, len(states))
        force = np.einsum("nij,nj->ni", X, carry.positions(states))
        return carry.moved(states, force), np.zeros(len(states))

    return move


def of_gaussian(carry: Carry, pull: np.ndarray, noise: Map) -> Move:
    """By forces of mean ``pull w`` and covariance ``noise(w w^T)``, moved along what lengthens states.

    In numbers of standard deviations t the length is ``|1 + slope t|``, nearly: its power times the density
    is largest at two places, one on each side.
    """
    import scipy

    def move(
        rng: np.random.Generator, states: np.ndarray, order: float, metric: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        w = carry.positions(states)
        values, axes = np.linalg.eigh(noise(w[:, :, None] * w[:, None, :]))
        root = axes * np.sqrt(np.maximum(values, 0.0))[:, None, :]
        # t counts standard deviations of the force along what lengthens the state most.
        usual = carry.moved(states, pull * w)
        along = usual @ metric
        square = np.maximum(np.sum(along * usual, axis=1), 1e-300)
        felt = np.einsum("nij,ni->nj", root, carry.felt(along))
        size = np.linalg.norm(felt, axis=1)
        slope = np.maximum(size / square, 1e-9)
        direction = felt / np.maximum(size, 1e-300)[:, None]
        # Stationary points of order log|1 + slope t| - t^2 / 2: roots of slope t^2 + t = order slope. The
        # small one is written without the difference that would cancel.
        reach = np.sqrt(1 + 4 * order * slope**2)
        places = np.stack([np.zeros_like(reach), 2 * order * slope / (1 + reach), -(1 + reach) / (2 * slope)])
        # The far side of a small noise is out of reach for all that matters.
        places[2] = np.where(np.abs(places[2]) > FARTHEST, 0.0, places[2])
        # A third of the draws around each place: the mixture is nowhere much below the law that it stands
        # for.
        t = rng.standard_normal(len(w)) + places[rng.integers(3, size=len(w)), np.arange(len(w))]
        z = rng.standard_normal(w.shape)
        z += (t - np.sum(z * direction, axis=1))[:, None] * direction
        # Density of the law over that of the mixture of three normals; at most 3, so no weight explodes.
        ratio = math.log(3) - scipy.special.logsumexp(t * places - 0.5 * places**2, axis=0)
        force = pull * w + np.einsum("nij,nj->ni", root, z)
        return carry.moved(states, force), ratio

    return move


FARTHEST = 30.0
"""Standard deviations beyond which nothing is drawn."""


def of_inputs(carry: Carry, pull: np.ndarray, side: float, noise: Any) -> Move:
    """By batches of Gaussian inputs: their squares along a state are chi-squared, or of more degrees.

    With ``a = C^(1/2) w`` a batch's ``sum x x^T w`` is ``C^(1/2) (X a + |a| sqrt(X) n)``, n normal across a.
    """
    import scipy

    model, gains, V = noise.noise, noise.gains, noise.vectors
    sizes, axes = np.linalg.eigh(model.covariance)
    # A covariance of fewer inputs than dimensions has eigenvalues that rounding takes below zero.
    half = V.T @ ((axes * np.sqrt(np.maximum(sizes, 0.0))) @ axes.T)
    batch = model.batch

    def move(
        rng: np.random.Generator, states: np.ndarray, order: float, metric: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        w = carry.positions(states)
        a = w @ half
        size = np.linalg.norm(a, axis=1)[:, None]
        # A chi-squared variable weighted by its own power is one of more degrees: half the draws are that.
        more = np.where(rng.random(len(w)) < 0.5, 2 * order, 0.0)
        X = rng.chisquare(batch + more)
        ahead = order * np.log(0.5 * X) + scipy.special.gammaln(0.5 * batch)
        ahead -= scipy.special.gammaln(0.5 * batch + order)
        n = rng.standard_normal(w.shape)
        unit = a / np.maximum(size, 1e-300)
        # Inputs are seen along the state only by X, and across it by normals that must be free of it.
        n -= np.sum(n * unit, axis=1)[:, None] * unit
        seen = (X[:, None] * a + size * np.sqrt(X)[:, None] * n) / batch - a
        force = pull * w + side * gains * (seen @ half.T)
        return carry.moved(states, force), math.log(2) - np.logaddexp(0.0, ahead)

    return move
