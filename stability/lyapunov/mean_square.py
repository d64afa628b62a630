"""Half the growth rate of second moments, on the exponents' scale: by theory, quadrature or measurement."""

from __future__ import annotations

import math

import numpy as np

from .._estimate import Estimate
from ..exact.mode import exact_mode
from ..linear.moments import DENSE, Half, Map
from ..linear.result import LinearFlow
from .matrices import Draw, Product

LUMP = 0.05
"""Share of the measured second moment that one draw may have before the whole is doubted."""
GROUPS = 10
"""Of draws, each left out in turn for the error."""


def mean_square_rate(one: Product, rng: np.random.Generator) -> tuple[float, float, str]:
    """Half the log of the second-moment map's radius per iteration, its error, and what makes it doubtful."""
    rate, error, doubt = _per_factor(one, rng)
    return rate / one.ratio, error / one.ratio, doubt


def _per_factor(one: Product, rng: np.random.Generator) -> tuple[float, float, str]:
    linear = one.linear
    # Directions at rest have the factor 1, which the theory of the whole would answer with; the product
    # leaves them out.
    if linear is not None and one.level == "sde" and not one.flat:
        return _chain_rate(linear, one.length), 0.0, ""
    square = _quadrature(linear) if linear is not None and one.level == "iteration" else None
    if square is not None and math.isinf(square.value):
        return math.inf, 0.0, f"no second moment: {square.reason}"
    if square is not None and one.dim == 1:
        if not square.value:
            return -math.inf, 0.0, ""
        return 0.5 * math.log(square.value), 0.5 * square.error / square.value, ""
    rate, error, doubt = _measured(one.draw, one.dim, rng)
    # All draws are equal then: what differs between the groups is rounding.
    return rate, 0.0 if one.steady else error, doubt


def _chain_rate(linear: LinearFlow, dt: float) -> float:
    """From the linear theory: ``M + dt (A M + M A^T) + dt^2 A M A^T + step dt E[G M G^T]``."""
    if linear.memory is not None:
        return _remembered_rate(linear, dt)
    factor, kick, spread = 1 + dt * linear.rates, linear.kick, math.sqrt(linear.flow.step) * math.sqrt(dt)
    if kick is None:
        with np.errstate(divide="ignore"):
            return float(np.log(np.max(np.abs(factor))))
    size = max(float(np.max(np.abs(factor))), spread)  # of huge steps the squares would overflow
    squares, strength = np.outer(factor / size, factor / size), (spread / size) ** 2
    return math.log(size) + _half_log_radius(lambda M: squares * M + strength * kick(M), linear.flow.dim)


def _remembered_rate(linear: LinearFlow, dt: float) -> float:
    """The same of whole states: noise is in the force that positions feel, and enters along one vector."""
    assert linear.memory is not None
    kick, dim = linear.kick, linear.flow.dim
    motion = linear._dynamics.motion(linear.flow.step, dt)
    forced = np.array([motion.force, np.zeros(2)]).T
    B = np.kron(motion.free, np.eye(dim)) + np.kron(forced, np.diag(linear._dynamics.pull))
    if kick is None:
        with np.errstate(divide="ignore"):
            return float(np.log(np.max(np.abs(np.linalg.eigvals(B)))))
    entering = np.multiply.outer(motion.kick, motion.kick)

    def apply(M: np.ndarray) -> np.ndarray:
        felt = kick(M[..., :dim, :dim])
        grown = np.einsum("ab,...ij->...aibj", entering, felt).reshape(M.shape)
        return B @ M @ B.T + grown

    return _half_log_radius(apply, 2 * dim)


def _quadrature(linear: LinearFlow) -> Estimate | None:
    """``E(1 - step X)^2`` of the leading mode; None where no single mode has it.

    That is so where the noise is no Gaussian one, of a truncated method, and of a step so large that it
    overflows. In more dimensions it tells only whether it is infinite: a Gaussian Hessian batch reaches a
    pole of the gain from any spectrum.
    """
    flow, noise = linear.flow, linear.flow.noise_model
    truncated = flow.method.rank is not None and flow.method.rank < flow.dim
    if not noise.isotropic or not noise.has_curvature or truncated:
        return None
    try:
        lam = float(linear.eigenvalues[0])
        # What a step is added to does not make its second moment finite: momentum is left out.
        method = flow.without_memory().method
        mode = exact_mode(method, curvature=lam, noise=noise.multiplicative())
        return mode.moment(2, flow.step)
    except ArithmeticError:
        return None


def _measured(draw: Draw, dim: int, rng: np.random.Generator) -> tuple[float, float, str]:
    """From draws in ten groups, each left out in turn: the rate less its bias, and its error (jackknife)."""
    per = max(25, min(2000, int(4e7 / dim**4)))  # a radius of the dense map takes dim^4 numbers
    B = np.stack([draw(rng, per)[0] for _ in range(GROUPS)])
    size = float(np.abs(B).max())
    if size == 0:
        return -math.inf, 0.0, ""
    B = B / size  # so that squares neither overflow nor vanish
    weights = np.sum(B**2, axis=(2, 3)).ravel()
    share, doubt = float(weights.max() / weights.sum()), ""
    if not share < LUMP:
        doubt = (
            f"one draw of {len(weights)} makes up {share:.0%} of the second moment: the mean-square rate is "
            "not measured"
        )
    whole = _radius_of(B.reshape(-1, dim, dim))
    if math.isinf(whole):  # nilpotent
        return whole, 0.0, doubt
    left = np.array([_radius_of(np.delete(B, g, axis=0).reshape(-1, dim, dim)) for g in range(GROUPS)])
    error = math.sqrt((GROUPS - 1) / GROUPS * float(np.sum((left - left.mean()) ** 2)))
    return math.log(size) + GROUPS * whole - (GROUPS - 1) * float(left.mean()), error, doubt


def _radius_of(B: np.ndarray) -> float:
    dim = B.shape[-1]
    if dim * (dim + 1) // 2 > DENSE:
        # E[B M B^T] as two matrix products, whatever the number of draws.
        rows = np.ascontiguousarray(B.transpose(1, 0, 2))
        tall, wide = rows.reshape(-1, dim), rows.reshape(dim, -1).T
        return _half_log_radius(lambda M: (tall @ M).reshape(dim, -1) @ wide / len(B), dim)
    flat = B.reshape(len(B), -1)
    # (E[B M B^T])_ij = sum_kl M_kl E[B_ik B_jl]: from [i k, j l] to [k l, i j].
    tensor = (flat.T @ flat / len(B)).reshape((dim,) * 4).transpose(1, 3, 0, 2).reshape(dim**2, dim**2)
    return _half_log_radius(lambda M: (M.reshape(*M.shape[:-2], dim**2) @ tensor).reshape(M.shape), dim)


def _half_log_radius(apply: Map, dim: int) -> float:
    """Half the logarithm of the spectral radius of a positive map on symmetric matrices."""
    half = Half(dim)
    if half.size <= DENSE:
        radius = float(np.max(np.abs(np.linalg.eigvals(half.matrix(apply)))))
    else:
        import scipy

        operator = scipy.sparse.linalg.LinearOperator(
            (half.size,) * 2, matvec=lambda v: half.pack(apply(half.unpack(v))), dtype=float
        )
        # The leading eigenvector is a positive matrix, which the identity is never orthogonal to.
        options = {"which": "LM", "v0": half.pack(np.eye(dim)), "tol": 1e-8, "return_eigenvectors": False}
        radius = float(abs(scipy.sparse.linalg.eigs(operator, k=1, **options)[0]))
    return 0.5 * math.log(radius) if radius > 0 else -math.inf
