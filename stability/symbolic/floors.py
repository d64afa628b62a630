"""What noise leaves of the risk, and what damping does to the edge: exponents, floors, one safe step."""

from __future__ import annotations

import functools
from typing import Any

import sympy
from sympy import Eq, Function, Matrix, Symbol

from ..methods.method import SGD, DampedNewton, Method
from .memory import arranged
from .mode import (
    Mode,
    alpha,
    beta,
    lam,
    linear_root,
    sigma,
    symmetric,
    tidy,
)
from .moments import OU, continuous, damped
from .registry import (
    EXACT,
    MEMORY,
    STEP,
    UNALIGNED,
    Draft,
    gain_step,
    matrix,
    mean_stable,
    minimum,
    over_spectrum,
    rate_step,
    semidefinite,
    statement,
    vanishes,
    whole_spectrum,
)
from .statement import Corollary, Hypothesis, Step

LIMIT = Symbol("alpha_max", positive=True)
c = Symbol("c", positive=True)
g = Symbol("g", real=True)
R = Symbol("R")


@statement(
    "noise-exponent",
    "How much ill-conditioning amplifies depends on the exponent of the noise",
    branches=("tail", "kept"),
)
def noise_exponent(mode: Mode) -> Draft:
    """The excess risk where the noise is a power of the curvature."""
    steps, solution = continuous(mode, c * mode.at**g)
    risk = tidy(mode.at * solution / 2)
    # How the share grows with the curvature: the sign says which end of the spectrum carries the risk.
    slope = sympy.simplify(mode.at * sympy.diff(sympy.expand_log(sympy.log(risk), force=True), mode.at))

    def share(gain: sympy.Expr, curvature: sympy.Expr) -> sympy.Expr:
        return gain * curvature**g

    whole = over_spectrum(mode, share)
    ratio = whole / over_spectrum(Mode(SGD()), share)
    steps += [
        Step(Eq(mode.at * Symbol("M") / 2, risk, evaluate=False), "the mode's share of tr(H M) / 2"),
        Step(
            Eq(mode.at / R * sympy.Derivative(Function("R")(mode.at), mode.at), slope, evaluate=False),
            "its exponent in the curvature; where that is negative, flat modes carry the risk without bound",
        ),
        Step(Eq(R, alpha * c / 4 * whole, evaluate=False), "summed over the modes"),
    ]
    power = Hypothesis(
        "gradient noise is a power of the curvature: variance c lambda^g in the mode (Sigma = c H^g)"
    )
    return Draft(
        Eq(R, risk, evaluate=False),
        steps,
        OU + ", and by st.Noise.aligned",
        [STEP, *minimum(mode), EXACT, power],
        [
            Corollary("slope", Eq(Symbol("s"), slope, evaluate=False)),
            Corollary(
                "total",
                Eq(R, alpha * c / 4 * whole, evaluate=False),
                (EXACT, power, *whole_spectrum(mode)),
                spectral=True,
            ),
            Corollary(
                "amplification",
                Eq(Symbol("A"), ratio, evaluate=False),
                (EXACT, power, *whole_spectrum(mode)),
                spectral=True,
            ),
        ],
    )


def _edgeless(method: Method) -> bool:
    """Whether damping is what the method does, and ``phi lambda`` grows to a finite bound."""
    if not damped(method):
        return False
    pull = Mode(method).gain(lam) * lam
    grows = sympy.factor(sympy.simplify(sympy.diff(pull, lam))).is_positive
    return grows is True and sympy.limit(pull, lam, sympy.oo).is_finite is True


@statement(
    "damping-removes-the-edge",
    "Damping removes the edge: one step is stable whatever the curvature",
    default=DampedNewton(damping=1.0),
    applies=_edgeless,
)
def damping_removes_the_edge(mode: Mode) -> Draft:
    """The mean's step limit, and its infimum over all curvatures."""
    pull = mode.phi * mode.at
    # Divided by alpha the trivial root is gone, and the equation is linear.
    limit = tidy(linear_root(sympy.expand(((1 + alpha * mode.rate) ** 2 - 1) / alpha), alpha))
    bound = sympy.limit(pull, lam, sympy.oo)
    growth = sympy.factor(sympy.simplify(sympy.diff(pull, lam)))
    steps = [
        gain_step(mode),
        rate_step(mode),
        Step(Eq((1 + alpha * mode.rate) ** 2, 1, evaluate=False), "marginal, without any noise"),
        Step(
            Eq(Symbol("alpha_SGD"), 2 / lam, evaluate=False),
            "the same with gain 1: the edge of stability, which falls to zero as curvature grows",
        ),
        Step(sympy.Gt(growth, 0, evaluate=False), "phi lambda grows with curvature, so the limit falls"),
        Step(
            Eq(sympy.Limit(pull, lam, sympy.oo), bound, evaluate=False),
            "but never beyond this, so the limit never falls to 2 over it",
        ),
    ]
    return Draft(
        Eq(LIMIT, limit, evaluate=False),
        steps,
        "the edge of gradient descent: Cohen et al. 2021; numbers by stability.linear",
        [*minimum(mode), EXACT],
        [Corollary("whatever-the-curvature", Eq(Symbol("alpha_safe"), 2 / bound, evaluate=False))],
    )


def _heavy(method: Method) -> bool:
    """Whether its buffer, if any, is heavy ball's: Nesterov's floor is this one in small steps only."""
    return method.memory is None or not method.memory.nesterov


@statement(
    "noise-floor",
    "The noise floor of any metric: a trace, whether or not P and H commute",
    branches=("tail", "kept"),
    applies=_heavy,
    memory=True,
)
def noise_floor(mode: Mode) -> Draft:
    """Excess risk from the balance of the covariance, multiplied by the inverse of P and traced."""
    steps, solution = continuous(mode, sigma**2)
    floor = tidy(mode.at * solution / 2)
    kept = sympy.Integer(0) if mode.memory is None else beta
    names = [sympy.MatrixSymbol(name, 2, 2) for name in ("P", "H", "S", "Sigma")]
    left = names[0] * names[1] * names[2] + names[2] * names[1] * names[0]

    def share(held: sympy.Expr) -> sympy.Expr:
        """One mode's part of the iteration's trace, solved for ``lambda M / 2``, in which it is linear."""
        rest = mode.at - alpha * mode.phi * mode.at**2 / (2 * (1 + held))
        return floor * mode.at / (rest * (1 - held))

    steps += [
        Step(Eq(left, alpha * names[0] * names[3] * names[0], evaluate=False), "the balance of any metric P"),
        *_traces(),
        Step(Eq(R, floor / (1 - beta), evaluate=False), "the share of one mode; beta = 0 without a buffer"),
    ]
    buffered = Hypothesis("the mean is stable: alpha phi(lambda) lambda < 2 (1 + beta)", _mean(mode))
    corollaries = [
        Corollary("momentum", Eq(R, floor / (1 - beta), evaluate=False), (MEMORY,)),
        Corollary("momentum-discrete", Eq(R, arranged(share(beta)), evaluate=False), (MEMORY, buffered)),
        Corollary(
            "total",
            Eq(
                R,
                alpha * sigma**2 / 4 / (1 - kept) * over_spectrum(mode, lambda gain, _: gain),
                evaluate=False,
            ),
            (EXACT, UNALIGNED, *whole_spectrum(mode)),
            spectral=True,
        ),
    ]
    if mode.memory is None:
        discrete = Corollary("discrete", Eq(R, tidy(share(kept)), evaluate=False), (mean_stable(mode),))
        corollaries.insert(0, discrete)
    return Draft(
        Eq(R, floor / (1 - kept), evaluate=False),
        steps,
        "Liu, Ziyin and Ueda 2021 for the covariance; numbers by stability.linear",
        [STEP, *minimum(mode), *([MEMORY] if mode.memory else []), EXACT, UNALIGNED],
        corollaries,
    )


def _mean(mode: Mode) -> sympy.Expr | None:
    return None if mode.method is None else 2 * (1 + beta) - alpha * mode.phi * mode.at


@functools.cache
def _traces() -> tuple[Step, ...]:
    """Balances of any metric, times the inverse of P and traced: for all symmetric P, H and S."""
    # In the basis of H, in which P and S are any symmetric matrices still.
    P, S, H = symmetric("P", 2), symmetric("S", 2), sympy.diag(*sympy.symbols("lambda_1:3", positive=True))
    A, left = P * H, (H * S).trace()
    p, h, s, D, U = (sympy.MatrixSymbol(name, 2, 2) for name in ("P", "H", "S", "D", "U"))
    a, across, kept = p * h, h * p, 1 - beta

    def traced(balance: Matrix) -> sympy.Expr:
        """``det(P) tr(P^-1 balance)``, a polynomial."""
        return (P.adjugate() * balance).trace()

    def told(residual: sympy.Expr, balance: Any, trace: Any, reason: str) -> Step:
        """A trace in matrices, which its entries bear out."""
        vanishes(sympy.together(residual), reason)
        return Step(Eq(sympy.Trace(p.I * balance), trace, evaluate=False), reason)

    # With a buffer, D = E w u' and U = E u u'; in continuous time D is antisymmetric: no w w' is gained.
    turn = Matrix([[0, Symbol("D")], [-Symbol("D"), 0]])
    flowing = (S * A.T - kept * turn) / alpha
    gained = A * turn + (A * turn).T - 2 * kept * flowing
    # Of the iteration D is that before u is renewed, and w+ = w - alpha u+ leaves E w w' as it is.
    square = (S * A.T + A * S) / (alpha * (1 + beta))
    mixed = (S * A.T - alpha * beta * square) / kept - alpha * square
    held = (1 - beta**2) * square - beta * (A * mixed + (A * mixed).T) - A * S * A.T
    rest = h - alpha / (2 * (1 + beta)) * h * p * h
    bent = ((H - alpha * H * P * H / (2 * (1 + beta))) * S).trace()
    return (
        told(
            traced(A * S + S * A.T) - 2 * P.det() * left,
            a * s + s * across,
            2 * sympy.Trace(h * s),
            "times the inverse of P, traced: 2 tr(H S) = alpha tr(P Sigma), for all symmetric P, H, S",
        ),
        Step(
            Eq(U, (s * across - kept * D) / alpha, evaluate=False),
            "with a buffer, alpha du = (P g - (1 - beta) u) dt, U = E u u', and D = E w u' is antisymmetric",
        ),
        told(
            traced(gained) + 2 * kept / alpha * P.det() * left,
            a * D + D.T * across - 2 * kept * U,
            -2 * kept / alpha * sympy.Trace(h * s),
            "what E u u' gains without the noise, traced: 2 (1 - beta) tr(H S) = alpha tr(P Sigma)",
        ),
        Step(
            Eq(U, (s * across + a * s) / (alpha * (1 + beta)), evaluate=False),
            "of heavy ball, where w+ = w - alpha u+ leaves E w w' as it is",
        ),
        Step(
            Eq(D, (s * across - alpha * beta * U) / kept - alpha * U, evaluate=False),
            "and E w u' before u is renewed",
        ),
        told(
            traced(held) - 2 * kept / alpha * P.det() * bent,
            U - beta * (beta * U + a * D + D.T * across) - a * s * across,
            2 * kept / alpha * sympy.Trace(rest * s),
            "traced: 2 (1 - beta) tr((H - alpha H P H / (2 (1 + beta))) S) = alpha tr(P Sigma)",
        ),
    )


@matrix("noise-floor")
def noise_floor_matrix(mode: Mode, dim: int) -> Draft:
    """The trace, of a metric that need not commute with the Hessian."""
    draft = noise_floor(mode)
    P, covariance = symmetric("P", dim), symmetric("Sigma", dim)
    floor = alpha * sympy.expand((P * covariance).trace()) / 4
    kept = sympy.Integer(0) if mode.memory is None else beta
    names = [sympy.MatrixSymbol(name, dim, dim) for name in ("P", "H", "S")]
    bent = names[1] * names[0] * names[1]
    positive = Hypothesis("P is positive definite", Function("lambda_min")(sympy.ImmutableMatrix(P)))

    def discrete(held: sympy.Expr) -> sympy.Eq:
        rest = sympy.Trace((names[1] - alpha * bent / (2 * (1 + held))) * names[2])
        return Eq(rest, 2 * floor / (1 - held), evaluate=False)

    return Draft(
        Eq(R, floor / (1 - kept), evaluate=False),
        draft.steps,
        draft.source,
        [STEP, EXACT, Hypothesis("H is positive definite"), positive, semidefinite(covariance)],
        [
            Corollary("discrete", discrete(kept)),
            Corollary("momentum", Eq(R, floor / (1 - beta), evaluate=False), (MEMORY,)),
            Corollary("momentum-discrete", discrete(beta), (MEMORY,)),
        ],
    )
