"""Gauss-Newton in sample space: what steps on each batch's own curvature bear, and the noise they keep."""

from __future__ import annotations

import functools
from typing import Any

import sympy
from sympy import Eq, Function, Symbol

from ..methods.method import SFN, Method
from .batches import LIMIT, b, count, inverse_chi_square
from .mode import GREEK, Mode, alpha, c_gh, delta, kick, lam, linear_root, s_g, s_h, sigma, tidy
from .paths import streaming
from .registry import BATCH, Draft, gain_step, mean_stable, minimum, statement, vanishes
from .statement import Corollary, Hypothesis, Step
from .steps import largest

J, JT, r = sympy.symbols("J J^T r", commutative=False)
SHARED = Hypothesis("residuals are linear, and gradient and curvature are those of one batch")
VANISHING = Hypothesis("all residuals vanish at the minimum")
LABELS = Hypothesis("inputs are Gaussian with covariance H, their labels have noise of variance sigma^2")
UNDAMPED = Hypothesis("the damping is small beside the batch's curvatures")
SHORT = Hypothesis("the step is below the limit: alpha < 2", 2 - alpha)
MANY = Hypothesis("a batch has more samples than d + 1", b - count - 1)
FEW = Hypothesis("a batch has at most d samples", count - b + sympy.Rational(1, 2))
ALIKE = Hypothesis("inputs have the same law in every direction")


def _damped(method: Method) -> bool:
    """Whether a step undoes ``h / (h + gamma)`` of a mode of the batch, as ``(J J^T + gamma)^-1`` does."""
    if method.rank is not None:
        return False
    beside = sympy.simplify(lam / (Mode(method).gain(lam) * lam) - lam)
    return not beside.has(lam) and beside.is_nonnegative is not False


@functools.cache  # no gain is in them
def _floors() -> tuple[Any, Any, Any]:
    """Of undamped steps: the excess risk of a batch beyond d samples, and what one of fewer leaves."""
    M = Symbol("M", positive=True)
    # H E W^-1 is the same multiple of 1 in every direction: a Schur complement is chi-square of b - d + 1.
    noise = sigma**2 * inverse_chi_square(1, b - count + 1)
    (level,) = sympy.solve(Eq(M, (1 - alpha) ** 2 * M + alpha**2 * noise), M)
    floor = alpha * count * sigma**2 / (2 * (2 - alpha) * (b - count - 1))
    vanishes(floor - count * level / 2, "the sum over d modes of lambda M / 2")
    left = 1 - alpha * (2 - alpha) * b / count
    _, weight = streaming()
    known = {Symbol("phi_i"): 1 / lam, Symbol("lambda_i", positive=True): lam}
    other = count * sigma**2 / 2 * tidy(weight.subs(known))
    return floor, left, sympy.limit(b * (floor - other), b, sympy.oo)


@statement(
    "sample-space",
    "Gauss-Newton in sample space: no step up to 2 lets a mode of any batch grow",
    default=SFN(damping=0.1),
    applies=_damped,
)
def sample_space(mode: Mode) -> Draft:
    """The batch's own factor, exactly; its linearisation, and the floors that label noise leaves."""
    pull = tidy(mode.phi * mode.at)
    limit = tidy(linear_root(2 - alpha * pull, alpha))
    least = sympy.limit(limit, mode.at, sympy.oo)
    same = sympy.factor(kick(mode).subs({s_h: s_g, c_gh: s_g**2}))
    drift = tidy(1 - alpha * pull)
    variance = alpha**2 * mode.phi**2 * sigma**2 * mode.at / b / (1 - drift**2)
    first = alpha * sigma**2 * pull / (2 * b * (2 - alpha * pull))
    vanishes(first - mode.at * variance / 2, "lambda / 2 times the variance that these steps keep")
    floor, left, apart = _floors()
    steps = [
        gain_step(mode),
        Step(
            Eq(
                Symbol("p"),
                JT * (J * JT + Symbol(GREEK["damping"])) ** -1 * r,
                evaluate=False,
            ),
            "the direction, by the b x b matrix of a batch's residuals r and their gradients J",
        ),
        Step(
            Eq(Symbol("delta^+"), drift * delta, evaluate=False),
            "of residuals r = J delta: along an eigenvector of J^T J, of eigenvalue lambda in this batch",
        ),
        Step(
            sympy.Ge(sympy.diff(pull, mode.at), 0, evaluate=False),
            "what a step undoes grows with the batch's curvature, never to more than all: phi lambda <= 1",
        ),
        Step(
            Eq(LIMIT, limit, evaluate=False),
            "so no path grows up to here, with lambda the largest curvature that any batch shows",
        ),
        Step(Eq(sympy.Limit(LIMIT, mode.at, sympy.oo), least, evaluate=False), "whatever that is"),
        Step(
            Eq(Symbol("K"), same, evaluate=False),
            "linearised in the batch's noise, E_h = E_g: the square of D(P H) times s_g^2",
        ),
        Step(
            Eq(Symbol("E") * Function("F")(delta), first, evaluate=False),
            "label noise of variance sigma^2 is a gradient's of variance sigma^2 lambda / b: aligned with H",
        ),
        Step(
            Eq(Symbol("E") * Function("F")(delta), floor, evaluate=False),
            "undamped: E (X^T X)^-1 = H^-1 / (b - d - 1), the inverse Wishart mean, in all d modes",
        ),
        vanishes(apart, "for large batches that is the excess risk of streaming least squares with P = H^-1"),
        Step(
            Eq(Symbol("rho"), left, evaluate=False),
            "of fewer samples the step is alpha times a projection, of rank b out of d",
        ),
    ]
    return Draft(
        Eq(LIMIT, limit, evaluate=False),
        steps,
        "exact for linear residuals; Goldshlager, Abrahamsen and Lin 2024 for memory of the last direction",
        [*minimum(mode), SHARED, VANISHING],
        [
            Corollary("whatever-the-batch", Eq(LIMIT, least, evaluate=False), (SHARED, VANISHING)),
            Corollary("linearized", Eq(LIMIT, largest(mode, same), evaluate=False), tuple(minimum(mode))),
            Corollary(
                "floor",
                Eq(Symbol("Delta_F"), first, evaluate=False),
                (*minimum(mode), BATCH, LABELS, mean_stable(mode)),
            ),
            Corollary(
                "wishart-floor", Eq(Symbol("Delta_F"), floor, evaluate=False), (LABELS, UNDAMPED, SHORT, MANY)
            ),
            Corollary(
                "projection",
                Eq(Symbol("rho"), left, evaluate=False),
                (VANISHING, UNDAMPED, ALIKE, BATCH, FEW),
            ),
        ],
    )
