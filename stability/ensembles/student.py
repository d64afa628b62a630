"""The likeliest Student-t law of a sample, in any dimension, with its errors."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

LARGEST_NU = 1e3
"""Index, or degrees of freedom, up to which a power law is looked for."""


class Student(NamedTuple):
    """A Student-t law: degrees of freedom, location m (d,) and scatter S (d, d), and how likely it is."""

    nu: float
    m: np.ndarray
    S: np.ndarray
    log_likelihood: float


def _log_likelihood(square: np.ndarray, nu: float, dim: int, log_det: float) -> float:
    """Of a Student-t law at squared Mahalanobis distances (n,)."""
    import scipy

    constant = (
        scipy.special.gammaln(0.5 * (nu + dim))
        - scipy.special.gammaln(0.5 * nu)
        - 0.5 * dim * math.log(nu * math.pi)
        - 0.5 * log_det
    )
    return float(len(square) * constant - 0.5 * (nu + dim) * np.sum(np.log1p(square / nu)))


def gaussian(y: np.ndarray) -> Student:
    """The likeliest Gaussian, of infinitely many degrees of freedom."""
    n, dim = y.shape
    S = np.cov(y.T, ddof=0).reshape(dim, dim)
    log_det = float(np.linalg.slogdet(S)[1])
    return Student(math.inf, y.mean(axis=0), S, -0.5 * n * (dim * math.log(2 * math.pi) + log_det + dim))


def squares(y: np.ndarray, m: np.ndarray, S: np.ndarray) -> tuple[np.ndarray, float]:
    """Squared Mahalanobis distances (n,), and the scatter's log determinant."""
    root = np.linalg.cholesky(S)
    turned = np.linalg.solve(root, (y - m).T)
    return np.einsum("in,in->n", turned, turned), 2 * float(np.sum(np.log(np.diag(root))))


def _climb(y: np.ndarray, nu: float, m: np.ndarray, S: np.ndarray) -> Student:
    """The likeliest law of `nu` degrees of freedom, by EM with expanded parameters, from m and S on."""
    dim = y.shape[1]
    for _ in range(500):
        square, _ = squares(y, m, S)
        weights = (nu + dim) / (nu + square)
        ahead = weights @ y / weights.sum()
        apart = y - ahead
        # Over the weights' sum, not over n: Kent, Tyler and Vardi's faster step.
        spread = (apart * weights[:, None]).T @ apart / weights.sum()
        # The location's change in units of its own spread, as it may be zero.
        moved = np.max(np.abs(ahead - m) / np.sqrt(np.diag(S)))
        change = np.max(np.abs(spread - S)) / np.max(np.abs(S)) + moved
        m, S = ahead, spread
        if change < 1e-7:
            break
    square, log_det = squares(y, m, S)
    return Student(nu, m, S, _log_likelihood(square, nu, dim, log_det))


def student(y: np.ndarray) -> Student:
    """The likeliest Student-t law: the maximum of the profile over nu."""
    import scipy

    # Medians to begin with: under a power law, variances may be infinite.
    spread = np.median(np.abs(y), axis=0) ** 2 + 1e-300
    last = Student(math.nan, np.median(y, axis=0), np.diag(spread), math.nan)

    def down(log_nu: float) -> float:
        nonlocal last  # each search begins where the last one ended
        last = _climb(y, math.exp(log_nu), last.m, last.S)
        return -last.log_likelihood

    # On a log scale, as between 100 and 1000 degrees of freedom the law hardly changes.
    best = scipy.optimize.minimize_scalar(
        down, bounds=(math.log(0.05), math.log(LARGEST_NU)), method="bounded", options={"xatol": 1e-4}
    )
    down(best.x)
    return last


def nu_error(y: np.ndarray, fit: Student) -> float:
    """Of nu, from the observed information: the profile's curvature in log nu, nearly a parabola there.

    nan of a Gaussian.
    """
    if math.isinf(fit.nu):
        return math.nan
    # In log nu: wide enough that the difference of two likelihoods is not EM's own tolerance.
    step = 0.05
    ends = (_climb(y, fit.nu * math.exp(side), fit.m, fit.S).log_likelihood for side in (-step, step))
    curvature = (2 * fit.log_likelihood - sum(ends)) / step**2
    return fit.nu / math.sqrt(curvature) if curvature > 0 else math.nan


def errors(nu: float, S: np.ndarray, basis: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Standard errors of location (d,) and scatter (d, d), from the Student-t law's own information.

    Lange, Little and Taylor 1989.
    """
    dim = len(S)
    share = 1.0 if math.isinf(nu) else (nu + dim) / (nu + dim + 2)
    whole = basis @ S @ basis.T
    size = np.diag(whole)
    # Relative size of S: its information is tied to that of nu; the rest of S is not.
    scale = 2 / dim if math.isinf(nu) else _scale_variance(nu, dim)
    square = (np.outer(size, size) + whole**2 * (1 - 2 / dim)) / share + whole**2 * scale
    return np.sqrt(size / share / n), np.sqrt(square / n)


def _scale_variance(nu: float, dim: int) -> float:
    """n times the variance of the logarithm of S's size, nu being unknown too."""
    import scipy

    size = 0.5 * dim * nu / (nu + dim + 2)
    cross = -dim / ((nu + dim) * (nu + dim + 2))
    half = 0.5 * (scipy.special.polygamma(1, 0.5 * (nu + dim)) - scipy.special.polygamma(1, 0.5 * nu))
    own = -0.5 * (half + dim / (nu * (nu + dim)) - 1 / (nu + dim) + (nu + 2) / (nu * (nu + dim + 2)))
    return float(own / (size * own - cross**2))
