"""Noise along a path, the gap between iteration and SDE, and averaging."""

from __future__ import annotations

import functools
from itertools import combinations, pairwise
from typing import Any, NamedTuple

import sympy
from sympy import Eq, Function, Matrix, Sum, Symbol

from .mode import (
    M,
    Mode,
    SymbolicModes,
    alpha,
    delta,
    expectation,
    one_step,
    sigma,
    stationary,
    symmetric,
    tidy,
)
from .registry import (
    BATCH,
    EXACT,
    STEP,
    TIME,
    UNALIGNED,
    Draft,
    finite,
    gain_step,
    matrix,
    mean_stable,
    minimum,
    over_spectrum,
    statement,
    throughout,
    vanishes,
    whole_spectrum,
)
from .statement import Corollary, Hypothesis, Step

h = Symbol("h", real=True, nonzero=True)
g, k = sympy.symbols("g k", real=True)


@statement("trajectory-noise", "Noise along a trajectory", at=h)
def trajectory_noise(mode: Mode) -> Draft:
    """The Jacobian of the drift away from critical points."""
    w, F = Symbol("w", real=True), Function("F", real=True)
    gain = Function("phi", real=True)
    drift = -gain(F(w).diff(w, 2)) * F(w).diff(w)
    slope = sympy.diff(drift, w).doit()
    # A cubic is enough: the Jacobian at w = 0 sees no derivative of F beyond the third.
    local = -mode.gain(h + k * w) * (g + h * w + k * w**2 / 2)
    J = sympy.expand_mul(sympy.diff(local, w).subs(w, 0).doit())
    S, dS = Symbol("S"), Symbol("S'")
    steps = [
        gain_step(Mode(mode.method, "kept", h)),
        Step(Eq(Symbol("b"), drift, evaluate=False), "the drift of the flow"),
        Step(Eq(Symbol("J"), slope, evaluate=False), "its derivative, by the chain rule"),
        Step(
            Eq(Symbol("b"), local, evaluate=False),
            "at one point: F to third order, with g, h, k its first three derivatives there",
        ),
        Step(Eq(Symbol("J"), J, evaluate=False), "differentiated at w = 0"),
        Step(
            Eq(dS, 2 * Symbol("J") * S + alpha * Symbol("C"), evaluate=False),
            "linear noise approximation: deviations from the mean path follow J, with noise alpha C",
        ),
    ]
    return Draft(
        Eq(Symbol("J"), J, evaluate=False),
        steps,
        "linear noise approximation (van Kampen); numbers by Flow.jacobian",
        [
            Hypothesis("the gain is differentiable at the curvature h: h is not zero", sympy.Abs(h)),
            finite(Mode(mode.method, "kept", h)),
        ],
        [Corollary("noise-growth", Eq(dS, 2 * J * S + alpha * mode.gain(h) ** 2 * sigma**2, evaluate=False))],
    )


@matrix("trajectory-noise")
def trajectory_matrix(mode: Mode, dim: int) -> Draft:
    """The derivative of P by divided differences, and the Jacobian column by column."""
    spectrum, direction = SymbolicModes(mode, dim, real=True, nonzero=True), symmetric("V", dim)
    gradient = sympy.symbols(f"g_1:{dim + 1}", real=True)
    H, P, DP = spectrum.H, spectrum.P, spectrum.derivative(direction)
    third = [
        Matrix(
            dim, dim, lambda i, j, c=c: Symbol("k_" + "".join(sorted(f"{i + 1}{j + 1}{c + 1}")), real=True)
        )
        for c in range(dim)
    ]
    columns = [-spectrum.derivative(part) * Matrix(gradient) for part in third]
    J = -P * H + Matrix.hstack(*columns)
    steps = [
        Step(
            Eq(Symbol("DP"), DP, evaluate=False),
            "derivative of P along a symmetric V: divided differences (Daleckii and Krein)",
        ),
        vanishes(
            DP * H + P * direction - direction * P - H * DP,
            "residual of the derivative of P H = H P; the diagonal moves with lambda_i' = V_ii",
        ),
        Step(
            Eq(Symbol("J"), J, evaluate=False),
            "J v = -P H v - DP[third derivative of F along v] g, column by column",
        ),
    ]
    sizes = [sympy.Abs(x) for x in spectrum.curvatures]
    apart = [sympy.Abs(x - y) for x, y in combinations(spectrum.curvatures, 2)]
    needs = [Hypothesis("the curvatures differ and none is zero", sympy.Min(*sizes, *apart))]
    if spectrum.rank < dim:
        needs.append(
            Hypothesis(
                "their sizes fall: |lambda_1| > ... > |lambda_d|",
                sympy.Min(*(x - y for x, y in pairwise(sizes))),
            )
        )
    return Draft(Eq(Symbol("J"), J, evaluate=False), steps, "Flow.jacobian", needs)


@statement(
    "weak-order", "The iteration and its SDE differ at first order in the step", branches=("tail", "kept")
)
def weak_order(mode: Mode) -> Draft:
    """The second moments of iteration and SDE at a fixed time, expanded in the step."""
    a, time, q = Symbol("a", negative=True), Symbol("t", positive=True), Symbol("q", positive=True)
    start = Symbol("delta_0", real=True)
    # (1 + alpha a)^(2 t / alpha) as an exponential, whose limit in alpha SymPy finds.
    factor = sympy.exp(2 * time / alpha * sympy.log(1 + alpha * a))
    iteration = factor * start**2 + alpha * q * (1 - factor) / (-2 * a - alpha * a**2)
    sde = sympy.exp(2 * a * time) * start**2 + alpha * q * (1 - sympy.exp(2 * a * time)) / (-2 * a)
    homogeneous = sympy.limit((factor - sympy.exp(2 * a * time)) / alpha, alpha, 0, "+") * start**2
    noisy = sympy.limit(q * (1 - factor) / (-2 * a - alpha * a**2), alpha, 0, "+") - q * (
        1 - sympy.exp(2 * a * time)
    ) / (-2 * a)
    coefficient = sympy.simplify(homogeneous + noisy)
    steps = [
        gain_step(mode),
        Step(Eq(a, mode.rate, evaluate=False), "the rate"),
        Step(
            Eq(Symbol("M_iteration"), iteration, evaluate=False),
            "E delta^2 after t / alpha steps, from delta_0, with q the variance of phi zeta",
        ),
        vanishes(
            iteration.subs(time, time + alpha) - (1 + alpha * a) ** 2 * iteration - alpha**2 * q,
            "it satisfies the iteration's own recurrence",
        ),
        Step(Eq(Symbol("M_SDE"), sde, evaluate=False), "of the SDE at time t"),
        vanishes(sympy.diff(sde, time) - 2 * a * sde - alpha * q, "it satisfies the moment equation"),
        vanishes(noisy, "the noise's part of the gap over alpha vanishes with alpha"),
        Step(
            Eq(
                sympy.Limit((Symbol("M_iteration") - Symbol("M_SDE")) / alpha, alpha, 0, "+"),
                coefficient,
                evaluate=False,
            ),
            "what is left: first order",
        ),
    ]
    return Draft(
        Eq(Symbol("c_1"), sympy.simplify(coefficient.subs(a, mode.rate)), evaluate=False),
        steps,
        "Li, Tai and E 2017 for SGD; here E_h = 0: with a noisy Hessian the gap tends to the bias E P(H + "
        "E_h) - P(H), not to 0",
        [TIME, *minimum(mode), EXACT],
    )


b = Symbol("b", positive=True)


@functools.cache  # no gain is in it
def streaming() -> tuple[tuple[Step, ...], Any]:
    """Constant-step excess risk of streaming least squares: one generic mode, coupled through tr(H M)."""
    x, y, own, other = (
        Symbol("x_i"),
        Symbol("x_j"),
        Symbol("lambda_i", positive=True),
        Symbol("lambda_j", positive=True),
    )
    fourth = {x**4: 3 * own**2, x**2 * y**2: own * other}
    diagonal, across = expectation(x**4, fourth), expectation(x**2 * y**2, fourth)
    T, phi, Mi = Symbol("T"), Symbol("phi_i"), Symbol("M_i")
    # E x x^T M x x^T = 2 H M H + tr(H M) H for Gaussian x
    # (Isserlis), and for two different samples of the batch H M H.
    spread = sympy.expand((1 - 1 / b) * own**2 * Mi + (own * T + (diagonal - own * own) * Mi) / b)
    balance = -2 * alpha * phi * own * Mi + alpha**2 * phi**2 * (spread + sigma**2 * own / b)
    (variance,) = sympy.solve(balance, Mi)
    weight = tidy(own * variance / (T + sigma**2))
    S = Symbol("S")
    (total,) = sympy.solve(Eq(T, S * (T + sigma**2)), T)
    steps = (
        Step(
            Eq(Symbol("E") * x**2 * y**2, sympy.Tuple(diagonal, across), evaluate=False),
            "Gaussian inputs: fourth moments for i = j, and for i != j",
        ),
        Step(
            Eq(Symbol("E(H_B M H_B)_ii"), spread, evaluate=False),
            "so a batch of b multiplies M by this, with T = tr(H M)",
        ),
        Step(
            Eq(balance, 0, evaluate=False), "stationary balance of one mode, label noise sigma^2 lambda_i / b"
        ),
        Step(Eq(own * Mi, weight * (T + sigma**2), evaluate=False), "the mode's share of T"),
        Step(Eq(T, total, evaluate=False), "summed over modes, S the sum of those factors"),
    )
    return steps, weight


class _Averaged(NamedTuple):
    gain: Any  # an undetermined one
    variance: Any  # of the last iterate
    lag: Any
    base: Any  # rho, what a lag of one leaves of the correlation
    geometric: Any  # the sum over all lags
    long_run: Any


@functools.cache
def _averaged(at: Any) -> _Averaged:
    """The long-run variance of the mean of iterates, at any gain; it cancels only in the end."""
    general = Mode(None, "kept", at)
    square = one_step(general, alpha, curvature=False)
    variance = stationary(sympy.expand(square.subs(delta**2, M) - M))
    lag, base = Symbol("lag", integer=True, positive=True), Symbol("rho", positive=True)
    # The sum comes as a Piecewise; its first branch is that of |rho| < 1.
    geometric = sympy.simplify(1 + 2 * sympy.summation(base**lag, (lag, 1, sympy.oo)).args[0][0])
    long_run = tidy(variance * geometric.subs(base, 1 + alpha * general.rate))
    return _Averaged(general.phi, variance, lag, base, geometric, long_run)


@statement(
    "averaging",
    "Averaging the iterates removes the amplification whatever the preconditioner",
    branches=("tail", "kept"),
)
def averaging(mode: Mode) -> Draft:
    """The long-run variance of the mean of iterates, and streaming least squares."""
    gain, variance, lag, base, geometric, long_run = _averaged(mode.at)
    steps, weight = streaming()
    S = over_spectrum(
        mode,
        lambda phi, curvature: tidy(
            weight.subs({Symbol("phi_i"): phi, Symbol("lambda_i", positive=True): curvature})
        ),
    )
    chain = [
        gain_step(mode),
        Step(
            Eq(M, variance.subs(gain, mode.phi), evaluate=False),
            "stationary variance of the last iterate: it carries the gain",
        ),
        Step(
            Eq(Symbol("Cov(delta_0, delta_lag)"), M * base**lag, evaluate=False),
            "with rho = 1 - alpha phi lambda",
        ),
        Step(
            Eq(Sum(base ** sympy.Abs(lag), (lag, -sympy.oo, sympy.oo)), geometric, evaluate=False),
            "summed over all lags, |rho| < 1",
        ),
        Step(
            Eq(Symbol("N") * Symbol("Var"), long_run, evaluate=False),
            "variance of the mean of N iterates, times N, as N grows: the gain has cancelled",
        ),
    ]
    inputs = Hypothesis(
        "streaming least squares: Gaussian inputs of covariance H, label noise of variance sigma^2, P fixed "
        "and commuting with H"
    )
    small = Hypothesis(
        "the step is below the limit of streaming least squares: S < 1",
        1 - S if mode.method is not None else None,
    )
    each = throughout(
        mode,
        "each mode alone is stable: alpha phi lambda (1 + 1/b) < 2",
        lambda gain, curvature: 2 * b - alpha * gain * curvature * (b + 1),
    )
    return Draft(
        Eq(sympy.Limit(Symbol("N") * Symbol("Var"), Symbol("N"), sympy.oo), long_run, evaluate=False),
        [*chain, *steps],
        "Polyak and Juditsky 1992 for the mean of iterates; the streaming corollary is checked by simulation "
        "in tests/test_peer_formulas.py",
        [STEP, *minimum(mode), mean_stable(mode), EXACT, UNALIGNED],
        [
            Corollary(
                "streaming-risk",
                Eq(Symbol("R"), sigma**2 * S / (2 * (1 - S)), evaluate=False),
                (inputs, BATCH, *whole_spectrum(mode), each, small),
                spectral=True,
            )
        ],
    )
