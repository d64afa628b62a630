"""What batches ask of a step: the batch that pays, the largest step that it allows, and its sharpness."""

from __future__ import annotations

import functools
import itertools
from itertools import combinations_with_replacement
from typing import Any

import sympy
from sympy import Eq, Function, Matrix, Symbol
from sympy.matrices import kronecker_product as kronecker

from ..methods.method import Method, Newton
from .memory import arranged, kind_of, pull, q
from .mode import (
    Mode,
    SymbolicModes,
    alpha,
    c_gh,
    delta,
    expectation,
    kick,
    lam,
    linear_root,
    s_g,
    s_h,
    sigma,
    symmetric,
    tidy,
    zeta,
)
from .paths import streaming
from .registry import (
    BATCH,
    MEMORY,
    Draft,
    gain_step,
    matrix,
    minimum,
    over_spectrum,
    semidefinite,
    stable_matrices,
    statement,
    throughout,
    vanishes,
    whole_spectrum,
)
from .statement import Corollary, Hypothesis, Step
from .steps import largest, matrix_limit

LIMIT, BEST = sympy.symbols("alpha_max alpha_best", positive=True)
CRITICAL = Symbol("b_crit", positive=True)
b = Symbol("b", positive=True)
g = Symbol("g", real=True)


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
    # The mean is a quadratic in alpha, so that its slope has one root.
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
            "so the best step is that of all data over 1 + b_crit / b",
        ),
        Step(
            Eq(CRITICAL, critical, evaluate=False),
            "at b = b_crit half of it is left; in one mode the gain has cancelled",
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
    """The same with the metric P and any covariance: b_crit = tr(H P Sigma P) / (g' P H P g)."""
    spectrum, covariance = SymbolicModes(mode, dim), symmetric("Sigma", dim)
    slope = Matrix(sympy.symbols(f"g_1:{dim + 1}", real=True))
    noise = Matrix(sympy.symbols(f"zeta_1:{dim + 1}", real=True))
    gains = sympy.symbols(f"phi_1:{dim + 1}", positive=True)
    H, P = spectrum.H, sympy.diag(*gains)
    moved = H.inv() * slope - alpha * P * (slope + noise)
    pairs = combinations_with_replacement(range(dim), 2)
    moments = {noise[i] * noise[j]: covariance[i, j] / b for i, j in pairs}
    # With gains as symbols: a method's own formulas would make the expansion needlessly large.
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
            "the mean of F after a step is least where alpha (g' P H P g + tr(H P Sigma P) / b) = g' P g",
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


INPUTS = Hypothesis(
    "inputs are Gaussian with covariance H, fresh at every step; P is fixed and commutes with H"
)


@functools.cache
def _convex() -> tuple[Any, Any]:
    """How a mode's part of S bends in x = alpha phi lambda, and the largest sum of all x where S = 1."""
    _, weight = streaming()
    x, d = Symbol("x", positive=True), Symbol("d", integer=True, positive=True)
    each = tidy(weight.subs({Symbol("phi_i"): x / alpha, Symbol("lambda_i", positive=True): 1}))
    # d f(T / d) = 1 at the trace T that the largest step can have.
    most = sympy.solve(Eq(d * each.subs(x, x / d), 1), x)[0]
    return sympy.factor(sympy.diff(each, x, 2)), most


@statement("streaming-limit", "Streaming least squares: the largest step that a batch allows")
def streaming_limit(mode: Mode) -> Draft:
    """Where the excess risk of constant steps has its pole."""
    shared, weight = streaming()
    gain, curvature = Symbol("phi_i"), Symbol("lambda_i", positive=True)

    def share(phi: sympy.Expr, at: sympy.Expr) -> sympy.Expr:
        return tidy(weight.subs({gain: phi, curvature: at}))

    own = weight.subs({gain: mode.phi, curvature: mode.at})
    top, bottom = sympy.fraction(sympy.together(own))
    limit = tidy(linear_root(sympy.expand(top - bottom), alpha))
    bend, most = _convex()
    whole = over_spectrum(mode, lambda phi, at: phi * at)
    alone = throughout(
        mode,
        "each mode alone is stable: alpha phi lambda (1 + 1/b) < 2",
        lambda phi, at: 2 * b - alpha * phi * at * (b + 1),
    )
    steps = [
        gain_step(mode),
        *shared,
        Step(Eq(Symbol("S"), 1, evaluate=False), "there T has its pole, and nothing is stable beyond"),
        Step(Eq(LIMIT, limit, evaluate=False), "of one mode alone"),
        Step(
            sympy.Gt(bend, 0, evaluate=False),
            "a mode's part of S is convex in x = alpha phi lambda: at least d times that of the mean x",
        ),
        Step(Eq(alpha * whole, most, evaluate=False), "so the sum of all x is at most this where S = 1"),
    ]
    return Draft(
        Eq(LIMIT, limit, evaluate=False),
        steps,
        "fourth moments by Isserlis; numbers by stability.linear with st.Noise.streaming",
        [*minimum(mode), INPUTS, BATCH],
        [
            Corollary(
                "sum",
                Eq(Symbol("S"), over_spectrum(mode, share), evaluate=False),
                (INPUTS, BATCH, *whole_spectrum(mode), alone),
                spectral=True,
            ),
            Corollary(
                "at-most",
                Eq(LIMIT, most / whole, evaluate=False),
                (INPUTS, BATCH, *whole_spectrum(mode)),
                spectral=True,
            ),
        ],
    )


@matrix("streaming-limit")
def streaming_matrix(mode: Mode, dim: int) -> Draft:
    """The limit as a radius: the matrix K of Gaussian fourth moments."""
    spectrum = SymbolicModes(mode, dim)
    x, y = sympy.symbols("x_i x_j", real=True)

    def fed(i: int, j: int) -> sympy.Expr:
        own, other = spectrum.curvatures[i], spectrum.curvatures[j]
        if i == j:
            # Beside the fourth moment of a Gaussian input stands the square of its mean curvature, which is
            # drift and no noise.
            return spectrum.gains[i] ** 2 * (expectation(x**4, {x**4: 3 * own**2}) - own**2) / b
        return spectrum.gains[i] ** 2 * expectation(x**2 * y**2, {x**2 * y**2: own * other}) / b

    draft = matrix_limit(mode, spectrum, Matrix(dim, dim, fed), [], INPUTS.text)
    draft.hypotheses.append(BATCH)
    return draft


m, count = Symbol("m", positive=True), Symbol("d", integer=True, positive=True)


def inverse_chi_square(power: int, degrees: Any) -> Any:
    """Mean of an inverse power of a chi-square variable."""
    nu = Symbol("nu", positive=True)
    mean = sympy.gammasimp(sympy.gamma(nu / 2 - power) / sympy.gamma(nu / 2) / 2**power)
    return sympy.factor(mean.subs(nu, degrees))


def _newton(method: Method) -> bool:
    """Whether the gain is that of Newton's method, which no linear change of coordinates changes."""
    return method.rank is None and sympy.simplify(Mode(method).gain(lam) * lam) == 1


@statement(
    "wishart-newton",
    "Newton with an independent Hessian batch: no step is stable below d + 4 samples, whatever the curvature",
    default=Newton(),
    applies=_newton,
)
def wishart_newton(mode: Mode) -> Draft:
    """Mean and mean square of an inverse Wishart matrix, by block inversion."""
    nu, s = sympy.symbols("nu s", positive=True)
    inverse = inverse_chi_square
    own = m - count + 1
    first = inverse(1, own)
    # Of V, the inverse of W, V_1j = -beta_j / s. The slope beta of one input on the others has, given
    # those, the inverse of their own W as its covariance: in d - 1 dimensions, m - d + 2 degrees of freedom.
    others = inverse(2, own) * inverse(1, own + 1)
    second = sympy.factor(inverse(2, own) + (count - 1) * others)
    growth = 1 - 2 * alpha * m * first + alpha**2 * m**2 * second
    best = linear_root(sympy.diff(growth, alpha), alpha)
    least = sympy.factor(growth.subs(alpha, best))
    limit = linear_root(sympy.cancel((growth - 1) / alpha), alpha)
    steps = [
        # Its gain, 1 / lambda, is what makes the theorem apply; no curvature of one mode stays in it.
        Step(
            Eq(Symbol("P"), 1 / Symbol("H"), evaluate=False), "Newton's preconditioner, the gain 1 / lambda"
        ),
        Step(
            Eq(Symbol("delta^+"), (1 - alpha * m / Symbol("W")) * Symbol("delta"), evaluate=False),
            "in coordinates where H = 1: the batch's Hessian is W / m, W Wishart of m samples",
        ),
        Step(
            Eq(Symbol("E") / s, inverse(1, nu), evaluate=False),
            "V, the inverse of W: V_11 = 1 / s, s chi-square of nu = m - d + 1 degrees (Schur complement)",
        ),
        Step(Eq(Symbol("E") / s**2, inverse(2, nu), evaluate=False), "and its square"),
        Step(
            Eq(Symbol("E") * Symbol("V_1j") ** 2, others, evaluate=False),
            "V_1j = -beta_j / s; beta is independent of s, its covariance such a V of d - 1 dimensions",
        ),
        Step(
            Eq(Symbol("E") * Function("tr")(Symbol("V") ** 2) / count, second, evaluate=False),
            "the squares of a row of V: one of V_11 and d - 1 others",
        ),
        Step(
            Eq(Symbol("rho"), growth, evaluate=False),
            "the second moment's factor: by symmetry V and V^2 have multiples of 1 as means, without kappa",
        ),
        vanishes(limit - 2 * best, "one at twice the step where it is least"),
    ]
    enough = Hypothesis("the Hessian batch is large enough: m > d + 3", m - count - 3)
    return Draft(
        Eq(LIMIT, sympy.factor(limit), evaluate=False),
        steps,
        "moments of the inverse Wishart law; numbers by scipy.stats.invwishart, paths by st.Noise.wishart",
        [
            Hypothesis(
                "the point is a minimum, and the gradient exact; the Hessian is one of m Gaussian inputs"
            ),
            enough,
        ],
        [
            Corollary("best-step", Eq(BEST, sympy.factor(best), evaluate=False)),
            Corollary("contraction", Eq(Symbol("rho"), least, evaluate=False)),
        ],
    )


@statement(
    "batch-sharpness",
    "Batch sharpness, by the full Hessian: two over the step at the largest one",
    memory=True,
)
def batch_sharpness(mode: Mode) -> Draft:
    """Curvature along the batch's gradient, in the metric: E(g' P H P g) of the batch over g' P g of all."""
    limit = largest(mode, kick(mode).subs({s_h: 0, c_gh: 0}))
    E = Symbol("E_g", real=True)
    square = expectation((mode.at + E) ** 2, {E**2: s_g**2})
    sharpness = sympy.factor(mode.phi * square / mode.at)
    nu = Symbol("nu", positive=True)

    def moment(power: int) -> sympy.Expr:
        """Of the batch's curvature, lambda / b times a chi-square variable of b degrees."""
        chi = sympy.gammasimp(2**power * sympy.gamma(nu / 2 + power) / sympy.gamma(nu / 2))
        return (mode.at / b) ** power * chi.subs(nu, b)

    own = sympy.factor(sympy.cancel(moment(3) / moment(2)) * mode.phi)
    vanishes(sharpness - 2 / limit, "with an exact Hessian in P this is 2 / alpha_max")
    # With a buffer the limit is another one, and with it what the sharpness comes to.
    kind, noise = kind_of(mode.memory is not None and mode.memory.nesterov), s_g**2 / mode.at**2
    reached = kind.mean_square * pull * (1 + q)
    large, small = (arranged(sympy.limit(reached, q, end)) for end in (0, sympy.oo))
    steps = [
        gain_step(mode),
        Step(
            Eq(Symbol("E") * Symbol("h^2"), square, evaluate=False),
            "the batch's gradient is h delta, its curvature h = lambda + E_g",
        ),
        Step(
            Eq(Symbol("B"), sharpness, evaluate=False), "phi^2 lambda E h^2 delta^2 over phi lambda^2 delta^2"
        ),
        Step(
            Eq(Symbol("B"), 2 / LIMIT, evaluate=False),
            "the same, at the largest step alpha_max of an exact Hessian in P",
        ),
        _any_dimension(),
        Step(
            Eq(Symbol("B"), own, evaluate=False),
            "with the batch's own curvature and gradient E h^3 / E h^2, of b Gaussian inputs",
        ),
        Step(
            Eq(alpha * Symbol("B"), reached, evaluate=False),
            "with a buffer, at the largest step of theorem momentum; q = s_g^2 / lambda^2",
        ),
        Step(Eq(sympy.Limit(alpha * Symbol("B"), q, 0), large, evaluate=False), "large batches, q -> 0"),
        Step(Eq(sympy.Limit(alpha * Symbol("B"), q, sympy.oo), small, evaluate=False), "small ones"),
    ]
    if mode.memory is not None:
        limit = kind.mean_square.subs({pull: mode.phi * mode.at, q: noise})
    level = alpha * Symbol("B")
    gaussian = Hypothesis("of b Gaussian inputs")
    return Draft(
        Eq(Symbol("B"), sharpness, evaluate=False),
        steps,
        "Andreyev and Beneventano 2024 for the batch's own; numbers by stability.linear",
        [
            *minimum(mode),
            Hypothesis("the preconditioner is exact, and every sample's gradient vanishes there"),
        ],
        [
            Corollary("step-limit", Eq(LIMIT, limit, evaluate=False)),
            Corollary("own", Eq(Symbol("B"), own, evaluate=False), (gaussian, BATCH)),
            Corollary("with-momentum", Eq(level, reached.subs(q, noise), evaluate=False), (MEMORY,)),
            Corollary("large-batches", Eq(level, large, evaluate=False), (MEMORY,)),
            Corollary("small-batches", Eq(level, small, evaluate=False), (MEMORY,)),
        ],
    )


@functools.cache
def _any_dimension() -> Step:
    """The trace of H times the moments' map, of a metric that need not commute with H."""
    names = ("P", "H", "M", "C")
    P, H, M, C = (symmetric(name, 2) for name in names)
    moved = M - alpha * (P * H * M + M * H * P) + alpha**2 * P * C * P
    reason = (
        "in any dimension, C = E g g': tr(H M) is stationary where alpha E(g' P H P g) of the batch is "
        "2 g' P g of all"
    )
    fed, pulled = (P * H * P * C).trace(), (P * H * M * H).trace()
    vanishes((H * (moved - M)).trace() - alpha**2 * fed + 2 * alpha * pulled, reason)
    p, h, m, c = (sympy.MatrixSymbol(name, 2, 2) for name in names)
    after = sympy.MatrixSymbol("M^+", 2, 2)
    gained = alpha**2 * sympy.Trace(p * h * p * c) - 2 * alpha * sympy.Trace(p * h * m * h)
    return Step(Eq(sympy.Trace(h * (after - m)), gained, evaluate=False), reason)


@matrix("batch-sharpness")
def batch_sharpness_matrix(mode: Mode, dim: int) -> Draft:
    """A ratio of traces, in the Hessian's eigenbasis; the metric need not be diagonal there."""
    draft, tau = batch_sharpness(mode), Symbol("tau_g", nonnegative=True)
    curvatures = sympy.symbols(f"lambda_1:{dim + 1}", positive=True)
    H, P, M = sympy.diag(*curvatures), symmetric("P", dim), symmetric("M", dim)
    eye = sympy.eye(dim)

    def spread(moment: Matrix) -> Matrix:
        """``E[E_g M E_g]``: each entry off the diagonal has the variance tau_g^2, those on it twice that."""
        return tau**2 * (moment + moment.trace() * eye)

    fed = (P * H * P * (H * M * H + spread(M))).trace()
    names = [sympy.MatrixSymbol(name, dim, dim) for name in ("P", "H", "M", "E(E_g M E_g)")]
    p, h, m, kicked = names
    units = [
        Matrix(dim, dim, lambda i, j, at=at: int((i, j) == at))
        for at in itertools.product(range(dim), repeat=2)
    ]
    drawn = Matrix.hstack(*((P * spread(unit) * P).reshape(dim**2, 1) for unit in units))
    pulled = kronecker(P * H, eye) + kronecker(eye, P * H)
    limit = 1 / Function("lambda_max")(
        sympy.ImmutableMatrix(pulled), sympy.ImmutableMatrix(kronecker(P * H, P * H) + drawn)
    )
    steps = [
        *draft.steps,
        Step(
            Eq(kicked, tau**2 * (m + sympy.Trace(m) * sympy.Identity(dim)), evaluate=False),
            "symmetric Gaussian curvature noise of size tau_g",
        ),
        Step(
            Eq(
                Symbol("B"),
                sympy.Trace(p * h * p * (h * m * h + kicked)) / sympy.Trace(p * h * m * h),
                evaluate=False,
            ),
            "M = E w w': curvature in the metric along batches' gradients, over g' P g of all",
        ),
    ]
    positive = Hypothesis("P is positive definite", Function("lambda_min")(sympy.ImmutableMatrix(P)))
    shown = (P * H * M * H).trace()
    hypotheses = [
        Hypothesis("every curvature is positive: lambda_i > 0", sympy.Min(*curvatures)),
        Hypothesis("M is a second moment that the gradient sees: g' P g > 0", shown),
        positive,
        draft.hypotheses[-1],
    ]
    corollaries = (
        [] if mode.memory is not None else [Corollary("step-limit", Eq(LIMIT, limit, evaluate=False))]
    )
    return Draft(Eq(Symbol("B"), fed / shown, evaluate=False), steps, draft.source, hypotheses, corollaries)
