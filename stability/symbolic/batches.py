"""What noise and batches ask of a step: the noise's exponent, the batch that pays, damping and the edge."""

from __future__ import annotations

from itertools import combinations_with_replacement

import sympy
from sympy import Eq, Function, Matrix, Symbol

from ..methods.method import SGD, DampedNewton, Method
from .mode import (
    Mode,
    SymbolicModes,
    alpha,
    delta,
    expectation,
    lam,
    linear_root,
    sigma,
    symmetric,
    tidy,
    zeta,
)
from .moments import OU, continuous, damped
from .registry import (
    BATCH,
    EXACT,
    STEP,
    Draft,
    gain_step,
    matrix,
    minimum,
    over_spectrum,
    rate_step,
    semidefinite,
    stable_matrices,
    statement,
    vanishes,
    whole_spectrum,
)
from .statement import Corollary, Hypothesis, Step

LIMIT, BEST = sympy.symbols("alpha_max alpha_best", positive=True)
CRITICAL = Symbol("b^*", positive=True)
b, c = sympy.symbols("b c", positive=True)
g = Symbol("g", real=True)  # the exponent of the noise, or the gradient
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


SAMPLED = Hypothesis(
    "one step on a quadratic, the mean of b samples whose gradient noise has variance sigma^2"
)


@statement(
    "critical-batch",
    "The batch from which on a larger one hardly pays, in the method's own metric",
    branches=("tail", "kept"),
)
def critical_batch(mode: Mode) -> Draft:
    """The step that lowers the objective most in the mean, and how it depends on the batch."""
    X = Symbol("X", positive=True)
    moved = g / mode.at - alpha * X * (g + zeta)
    after = expectation(mode.at / 2 * moved**2, {zeta**2: sigma**2 / b})
    best = linear_root(sympy.diff(after, alpha), alpha)
    whole = sympy.limit(best, b, sympy.oo)
    critical = sympy.simplify(b * (whole / best - 1))
    fall = sympy.factor(g**2 / mode.at / 2 - after.subs(alpha, best))
    steps = [
        gain_step(mode),
        Step(
            Eq(Symbol("E") * Function("F")(delta), after.subs(X, mode.phi), evaluate=False),
            "F = lambda delta^2 / 2 after a step from delta = g / lambda, its gradient's noise sigma^2 / b",
        ),
        Step(Eq(BEST, best.subs(X, mode.phi), evaluate=False), "its derivative in alpha vanishes"),
        Step(Eq(sympy.Limit(BEST, b, sympy.oo), whole.subs(X, mode.phi), evaluate=False), "of all data"),
        vanishes(
            sympy.together(whole / (1 + CRITICAL / b) - best).subs(CRITICAL, critical),
            "so the best step is that of all data over 1 + b^* / b",
        ),
        Step(
            Eq(CRITICAL, critical, evaluate=False),
            "at b = b^* half of it is left; in one mode the gain has cancelled",
        ),
    ]
    slope = Hypothesis("the gradient is not zero: g != 0", g**2)
    return Draft(
        Eq(BEST, tidy(best).subs(X, mode.phi), evaluate=False),
        steps,
        "McCandlish, Kaplan, Amodei et al. 2018 for SGD; numbers by the moments of stability.linear",
        [*minimum(mode), slope, BATCH, SAMPLED],
        [
            Corollary("critical-batch", Eq(CRITICAL, critical, evaluate=False)),
            Corollary("decrease", Eq(Symbol("Delta_F"), fall, evaluate=False)),
        ],
    )


@matrix("critical-batch")
def critical_batch_matrix(mode: Mode, dim: int) -> Draft:
    """The same with the metric P and any covariance: b^* = tr(H P Sigma P) / (g' P H P g)."""
    spectrum, covariance = SymbolicModes(mode, dim), symmetric("Sigma", dim)
    slope = Matrix(sympy.symbols(f"g_1:{dim + 1}", real=True))
    noise = Matrix(sympy.symbols(f"zeta_1:{dim + 1}", real=True))
    gains = sympy.symbols(f"phi_1:{dim + 1}", positive=True)
    H, P = spectrum.H, sympy.diag(*gains)
    moved = H.inv() * slope - alpha * P * (slope + noise)
    pairs = combinations_with_replacement(range(dim), 2)
    moments = {noise[i] * noise[j]: covariance[i, j] / b for i, j in pairs}
    after = expectation((moved.T * H * moved)[0] / 2, moments)
    pulled, bent = (slope.T * P * slope)[0], (slope.T * P * H * P * slope)[0]
    spread = (H * P * covariance * P).trace()
    best = (pulled / bent) / (1 + spread / bent / b)
    found = dict(zip(gains, spectrum.gains, strict=True))
    names = [sympy.MatrixSymbol(name, dim, dim) for name in ("H", "P", "Sigma")]
    slopes = sympy.MatrixSymbol("g", dim, 1)
    bends = sympy.Trace(slopes.T * names[1] * names[0] * names[1] * slopes)
    steps = [
        Step(Eq(Symbol("P"), spectrum.P, evaluate=False), "the preconditioner in the Hessian's eigenbasis"),
        vanishes(
            sympy.diff(after, alpha) - alpha * (bent + spread / b) + pulled,
            "the mean of F after a step from H^-1 g is least where alpha (g' P H P g + tr(H P Sigma P) / b) "
            "= g' P g",
        ),
        Step(
            Eq(CRITICAL, sympy.Trace(names[0] * names[1] * names[2] * names[1]) / bends, evaluate=False),
            "where both terms are equal, Sigma the covariance of one sample",
        ),
    ]
    needs = [
        *stable_matrices(spectrum, mode),
        semidefinite(covariance),
        Hypothesis("the gradient is not zero: g != 0", (slope.T * slope)[0]),
        BATCH,
    ]
    return Draft(
        Eq(BEST, best.subs(found), evaluate=False),
        steps,
        "McCandlish, Kaplan, Amodei et al. 2018 for P = I",
        needs,
        [Corollary("critical-batch", Eq(CRITICAL, (spread / bent).subs(found), evaluate=False))],
    )
