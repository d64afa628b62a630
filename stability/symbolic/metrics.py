"""Metrics that follow the noise: stationary covariances of RMSprop, Adam, AdamW and sign steps."""

from __future__ import annotations

import functools
from typing import Any

import sympy
from sympy import Eq, Function, Matrix, Symbol

from ..methods.metrics import RMSprop
from .mode import M, Mode, alpha, delta, lam, linear_root, sigma, stationary, symmetric, theta, tidy
from .registry import STEP, Draft, matrix, semidefinite, statement, vanishes
from .statement import Corollary, Hypothesis, Step

V = Symbol("V", positive=True)
w, target = sympy.symbols("w w_0", real=True)
p, x, rho = Symbol("p", positive=True), Symbol("x", real=True), Symbol("rho", real=True)
NOISE = Hypothesis("gradient noise is Gaussian, with variance sigma^2 > 0 in the coordinate", sigma)
SMALL = Hypothesis("the step is small, and 1 - beta2 too: the metric stays at the mean of what it averages")
HERE = Hypothesis("the curvature is exact, and positive: lambda > 0", lam)
SEEN = Hypothesis("V is the mean square of the gradient's entry: V > 0", V)


def scaled(mode: Mode, squares: Any) -> Any:
    """The method's own formula for the metric, read on symbols."""
    assert mode.method is not None
    return sympy.nsimplify(mode.method.with_parameters(**mode.parameters).scale(squares), rational=True)  # type: ignore[attr-defined]


def metric_at(mode: Mode) -> Any:
    """What one coordinate's step is multiplied by near a critical point, where the noise is all it sees."""
    if mode.method is not None and mode.method.linear:  # type: ignore[attr-defined]
        return sympy.powdenest(scaled(mode, sigma**2))
    return sympy.diff(signs()[0], delta).subs(delta, 0) / lam


def decay_of(mode: Mode) -> Any:
    """The rate at which weights decay, beside the metric."""
    beside = mode.method is not None and mode.method.weight_decay and mode.method.decoupled
    return theta if beside else sympy.Integer(0)


def ridge_of(mode: Mode) -> Any:
    """What joins the curvature: a weight decay in the gradient, which the metric scales too."""
    within = mode.method is not None and mode.method.weight_decay and not mode.method.decoupled
    return theta if within else sympy.Integer(0)


@functools.cache
def signs() -> tuple[Any, Any]:
    """Of a sign under Gaussian noise: its mean, and how the signs of two entries are correlated."""
    density = sympy.exp(-(x**2) / 2) / sympy.sqrt(2 * sympy.pi)
    below = sympy.integrate(density, x)
    mean = 1 - 2 * (below.subs(x, -lam * delta / sigma) - sympy.limit(below, x, -sympy.oo))
    # Price's theorem: the derivative by the correlation is the mean of the second derivative, which for two
    # signs is four times the density of both at zero.
    r = Symbol("r", real=True)
    both = 1 / (2 * sympy.pi * sympy.sqrt(1 - r**2))
    return mean, sympy.integrate(4 * both, (r, 0, rho))


@statement(
    "adaptive-metric",
    "Metrics that follow the noise: the stationary variance of RMSprop, Adam and sign steps",
    default=RMSprop(),
    metric=True,
)
def adaptive_metric(mode: Mode) -> Draft:
    """The SDE linearised where the metric has settled."""
    assert mode.method is not None
    return _of_roots(mode) if mode.method.linear else _of_signs(mode)  # type: ignore[attr-defined]


def _of_roots(mode: Mode) -> Draft:
    decay, ridge, scale = decay_of(mode), ridge_of(mode), scaled(mode, V)
    center = sympy.cancel(linear_root(-p * (lam * (w - target) + ridge * w) - decay * w, w))
    rate = p * (lam + ridge) + decay
    change = -2 * rate * delta**2 + alpha * p**2 * sigma**2
    variance = stationary(sympy.expand(change).subs(delta**2, M))
    # At rest a gradient with its ridge has the mean zero: a decay beside it leaves the metric a pull to see.
    bias = sympy.factor(lam * (center - target)) if decay else sympy.Integer(0)
    square = sigma**2 + (lam + ridge) ** 2 * M + bias**2
    root = Symbol("s", positive=True)

    def at(expression: Any, squares: Any) -> Any:
        """With the metric's own formula, kept together as it is written, in the place of p."""
        return tidy(expression.subs(p, 1 / root)).subs(root, sympy.powdenest(1 / scaled(mode, squares)))

    seen = square.subs(M, variance)
    steps = [
        Step(Eq(p, scale, evaluate=False), "the metric, read from the method's own formula"),
        Step(
            Eq(Symbol("L") * delta**2, change, evaluate=False),
            "the generator applied to delta^2, with the metric where it has settled",
        ),
        Step(Eq(M, variance, evaluate=False), "its mean vanishes in the stationary state, M = E delta^2"),
        Step(
            Eq(V, square, evaluate=False),
            "dV = (1 - beta2) (g^2 + sigma^2 - V) dt / alpha settles at the mean of g^2 + sigma^2",
        ),
        Step(Eq(sympy.Limit(V, alpha, 0), sigma**2 + bias**2, evaluate=False), "of small steps"),
    ]
    hypotheses = [STEP, HERE, NOISE, SMALL]
    corollaries = [
        Corollary("variance", Eq(M, at(variance, V), evaluate=False), (SEEN,)),
        Corollary("mean-square", Eq(V, sum(at(term, V) for term in seen.args), evaluate=False), (SEEN,)),
    ]
    if ridge:
        steps.insert(1, Step(Eq(w, center, evaluate=False), "where pull and ridge balance: the law's center"))
        corollaries.append(Corollary("center", Eq(w, center, evaluate=False)))
    if decay:
        steps.insert(1, Step(Eq(w, center, evaluate=False), "where pull and decay balance: the law's center"))
        hypotheses.append(Hypothesis("weights decay towards the minimum itself: w_0 = 0"))
        corollaries.append(Corollary("center", Eq(w, at(center, V), evaluate=False), (SEEN,)))
    return Draft(
        Eq(M, at(variance, sigma**2), evaluate=False),
        steps,
        "the linearised SDE, in the form of Malladi, Lyu, Panigrahi and Arora 2022",
        hypotheses,
        corollaries,
    )


def _of_signs(mode: Mode) -> Draft:
    mean, correlated = signs()
    slope = sympy.diff(mean, delta).subs(delta, 0)
    variance = tidy(alpha / (2 * slope))
    vanishes(correlated.subs(rho, 1) - 1, "a sign's square is one")
    steps = [
        Step(
            Eq(Symbol("E") * Function("sign")(Symbol("g")), mean, evaluate=False),
            "of a Gaussian gradient g of mean lambda delta: an integral of its density",
        ),
        Step(
            Eq(Function("sign")(Symbol("g")) ** 2, 1, evaluate=False),
            "so the SDE is d delta = -erf dt + sqrt(alpha (1 - erf^2)) dB",
        ),
        Step(
            Eq(Symbol("a"), -slope, evaluate=False), "the slope at zero: the metric is sqrt(2 / pi) / sigma"
        ),
        Step(
            Eq(Symbol("E") * Function("sign")(Symbol("g_i")) * Function("sign")(Symbol("g_j")), correlated),
            "of two coordinates of correlation rho: Price's theorem, integrated from 0 to rho",
        ),
        Step(
            Eq(M, variance, evaluate=False), "alpha over twice the rate: noise of variance one at the center"
        ),
    ]
    return Draft(
        Eq(M, variance, evaluate=False),
        steps,
        "Price 1958 and Bussgang 1952; Balles, Pedregosa and Le Roux 2020 for the method",
        [STEP, HERE, NOISE, Hypothesis("the step is small: signs are linear in what is left of the mean")],
        [
            Corollary("drift", Eq(Symbol("f"), -mean, evaluate=False)),
            Corollary(
                "correlation",
                Eq(Symbol("K_ij"), correlated, evaluate=False),
                (Hypothesis("rho is a correlation: |rho| <= 1", 1 - sympy.Abs(rho) + sympy.Float("1e-12")),),
            ),
        ],
    )


@matrix("adaptive-metric")
def adaptive_metric_matrix(mode: Mode, dim: int) -> Draft:
    """The Lyapunov equation of a diagonal metric, which commutes with no Hessian but a diagonal one."""
    assert mode.method is not None
    draft = adaptive_metric(mode)
    H, covariance = symmetric("H", dim), symmetric("Sigma", dim)
    squares = sympy.symbols(f"V_1:{dim + 1}", positive=True)
    if mode.method.linear:  # type: ignore[attr-defined]
        P = sympy.diag(*(scaled(mode, square) for square in squares))
        kicked = P * covariance * P
    else:
        # The mean square of a gradient's entry near the minimum is the variance of its noise.
        squares = tuple(covariance[i, i] for i in range(dim))
        P = sympy.diag(*(sympy.sqrt(2 / sympy.pi / square) for square in squares))

        def between(i: int, j: int) -> Any:
            shared = covariance[i, j] / sympy.sqrt(squares[i] * squares[j])
            return sympy.Integer(1) if i == j else signs()[1].subs(rho, shared)

        kicked = Matrix(dim, dim, between)
    pull = P * (H + ridge_of(mode) * sympy.eye(dim)) + decay_of(mode) * sympy.eye(dim)
    drift = "P (H + theta)" if ridge_of(mode) else "P H + theta" if decay_of(mode) else "P H"
    names = [sympy.MatrixSymbol(name, dim, dim) for name in ("A", "M", "N")]
    draft.steps += [
        Step(Eq(Symbol("P"), P, evaluate=False), "one metric for each coordinate"),
        Step(
            Eq(names[0] * names[1] + names[1] * names[0].T, alpha * names[2], evaluate=False),
            f"the Lyapunov equation, A = {drift}, N the covariance of the metric's own kicks",
        ),
    ]
    solution = Function("lyapunov")(sympy.ImmutableMatrix(pull), sympy.ImmutableMatrix(alpha * kicked))
    positive = Hypothesis("H is positive definite", Function("lambda_min")(sympy.ImmutableMatrix(H)))
    needs = [STEP, positive, semidefinite(covariance), SMALL]
    return Draft(Eq(Symbol("M"), solution, evaluate=False), draft.steps, draft.source, needs)
