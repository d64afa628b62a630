"""How large a step may be: mean-square limits under curvature noise, truncation, finite data."""

from __future__ import annotations

import functools
from itertools import combinations, combinations_with_replacement
from typing import Any

import sympy
from sympy import Eq, Function, Matrix, Rational, Symbol

from ..methods.method import Method
from .mode import (
    E_g,
    E_h,
    Mode,
    SymbolicModes,
    X,
    Y,
    alpha,
    c_gh,
    delta,
    expectation,
    kick,
    lam,
    lam_j,
    lam_next,
    linear_root,
    neat,
    one_step,
    relative,
    s_g,
    s_h,
    symmetric,
    tidy,
)
from .registry import (
    BATCHES,
    EXACT,
    GAUSSIAN,
    OTHER,
    Draft,
    gain_step,
    matrix,
    minimum,
    rate_step,
    stable_matrices,
    statement,
    vanishes,
)
from .statement import Corollary, Hypothesis, Step

LIMIT = Symbol("alpha_max", positive=True)
tau_g, tau_h = sympy.symbols("tau_g tau_h", nonnegative=True)
c_tau = Symbol("c", real=True)
SHARED = Hypothesis(
    "the covariance is one of two batches: |c| <= tau_g tau_h",
    # What is asked is > 0; the little that is added allows equality, which is one batch for both.
    tau_g * tau_h - sympy.Abs(c_tau) + Rational(1, 10**12),
)
DISTINCT = Hypothesis("the two curvatures differ: lambda != lambda_j", (lam - lam_j) ** 2)


RATE, K = Symbol("a", negative=True), Symbol("K", nonnegative=True)
GROWTH = (1 + alpha * RATE) ** 2 + alpha**2 * K


@functools.cache
def _limit() -> Any:
    """Where the growth is one; in the rate and K, before a gain makes the equation long."""
    # alpha = 0 is marginal too.
    (limit,) = (root for root in sympy.solve(Eq(GROWTH, 1), alpha) if root != 0)
    return limit


PULL, RELATIVE = Symbol("|a|", positive=True), Symbol("q", nonnegative=True)


@functools.cache
def _relative_limit() -> Any:
    """The same with K relative to the pull, where its terms are short: 2 / |a| but for them."""
    return sympy.factor(_limit().subs(K, RELATIVE * RATE**2).subs(RATE, -PULL))


def largest(mode: Mode, strength: Any) -> Any:
    """The step at which the second moment neither grows nor decays under noise of this strength."""
    own = {PULL: mode.pull, RELATIVE: relative(mode, strength)}
    return neat(_relative_limit().subs(own))


def marginal(mode: Mode) -> list[Step]:
    """What the second moment is multiplied by at each step, and where that is one."""
    square = one_step(mode, alpha, curvature=True)
    found = {RATE: mode.rate, K: kick(mode)}
    return [
        gain_step(mode),
        rate_step(mode),
        Step(
            Eq(Symbol("E") * Symbol("delta^+") ** 2, square, evaluate=False),
            "mean square after one step of the linearised chain",
        ),
        Step(
            Eq(K, found[K], evaluate=False),
            "variance of phi E_g + phi' lambda E_h, the noise that multiplies the mode",
        ),
        vanishes(
            square.coeff(delta, 2) - GROWTH.subs(found),
            "the factor of delta^2 is (1 + alpha a)^2 + alpha^2 K",
        ),
        Step(Eq(GROWTH, 1, evaluate=False), "marginal: it is one"),
        Step(Eq(LIMIT, _limit(), evaluate=False), "solved for the step"),
    ]


@statement(
    "mean-square-step-limit",
    "The largest mean-square-stable step under curvature noise",
    branches=("kept", "tail"),
    decay=True,
)
def mean_square_step_limit(mode: Mode) -> Draft:
    """The step at which the mean square is marginal."""
    steps, strength = marginal(mode), kick(mode)
    quotient = sympy.Integer(0)  # between two modes of the tail
    if mode.branch == "kept":
        quotient = sympy.factor(sympy.cancel((mode.phi - mode.gain(lam_j)) / (mode.at - lam_j)))
    # Off the diagonal, where GOE noise has half the variance that it has on it.
    entries = {E_g**2: tau_g**2, E_h**2: tau_h**2, E_g * E_h: c_tau}
    fed = expectation((X * E_g + Y * E_h) ** 2, entries).subs({X: mode.phi, Y: quotient * lam_j})
    steps += [
        Step(
            Eq(Symbol("Phi_ij"), quotient, evaluate=False),
            "two modes: divided difference of the gain, DP[E]_ij = Phi_ij E_ij (Daleckii and Krein)",
        ),
        Step(
            Eq(Symbol("K_ij"), fed, evaluate=False),
            "variance of phi_i E_g + Phi_ij lambda_j E_h: how mode j feeds mode i, for i != j",
        ),
    ]
    return Draft(
        Eq(LIMIT, largest(mode, strength), evaluate=False),
        steps,
        "the linearised chain: stability.linear; without linearisation: stability.exact",
        [*minimum(mode), GAUSSIAN, BATCHES],
        [
            Corollary(
                "independent-batches", Eq(LIMIT, largest(mode, strength.subs(c_gh, 0)), evaluate=False)
            ),
            Corollary("coupling", Eq(Symbol("K_ij"), fed, evaluate=False), (OTHER, DISTINCT, SHARED)),
            Corollary(
                "exact-Hessian", Eq(LIMIT, largest(mode, strength.subs({c_gh: 0, s_h: 0})), evaluate=False)
            ),
        ],
    )


def _coupling(spectrum: SymbolicModes, dim: int) -> Matrix:
    """``K_ij = E G_ij^2`` for ``G = P E_g + DP[E_h] H`` and GOE noise: how the diagonal of M feeds itself."""
    first, second = symmetric("Eg", dim), symmetric("Eh", dim)
    G = spectrum.P * first + spectrum.derivative(second) * spectrum.H
    moments: dict[Any, Any] = {}
    for i, j in combinations_with_replacement(range(dim), 2):
        # GOE: a diagonal entry has twice the variance of one beside it.
        twice = 2 if i == j else 1
        x, y = first[i, j], second[i, j]
        moments |= {x**2: twice * tau_g**2, y**2: twice * tau_h**2, x * y: twice * c_tau}
    return G.applyfunc(lambda entry: sympy.factor(expectation(entry**2, moments)))


@matrix("mean-square-step-limit")
def mean_square_matrix(mode: Mode, dim: int) -> Draft:
    """The matrix K that couples the variances of the modes."""
    spectrum = SymbolicModes(mode, dim)
    draft = matrix_limit(mode, spectrum, _coupling(spectrum, dim), [])
    draft.hypotheses.append(SHARED)
    return draft


GOE = (
    "curvature noise is Gaussian and symmetric (GOE): variance tau^2 off the diagonal, 2 tau^2 on it, "
    "covariance c"
)


def matrix_limit(
    mode: Mode, spectrum: SymbolicModes, feed: Matrix, more: list[Step], law: str = GOE
) -> Draft:
    """The limit of coupled modes, from the matrix by which their variances feed each other."""
    rates = [-phi * x for phi, x in zip(spectrum.gains, spectrum.curvatures, strict=True)]
    # M+ = M reads alpha (a^2 + K) M = -2 a M. Divided by -2 a, what multiplies M on the left has no negative
    # entry: by Perron its radius is an eigenvalue, and 1 / radius the first alpha at which M can persist.
    balance = sympy.diag(*[1 / (-2 * a) for a in rates]) * (sympy.diag(*[a**2 for a in rates]) + feed)
    a, K, M = sympy.symbols("a K M", commutative=False)
    steps = [
        Step(
            Eq(Symbol("Phi"), spectrum.divided, evaluate=False),
            "divided differences of the gain (Daleckii and Krein): DP[E] = Phi o E",
        ),
        *more,
        Step(
            Eq(Symbol("K"), feed, evaluate=False),
            "K_ij = E G_ij^2 for G = P E_g + DP[E_h] H: the diagonal of M feeds itself only",
        ),
        Step(
            Eq(Symbol("M^+") - Symbol("M"), alpha * 2 * a * M + alpha**2 * (a**2 + K) * M, evaluate=False),
            "one step of the diagonal",
        ),
    ]
    radius = Function("rho")(sympy.ImmutableMatrix(balance.applyfunc(sympy.factor)))
    return Draft(
        Eq(LIMIT, 1 / radius, evaluate=False),
        steps,
        "stability.linear",
        [Hypothesis(law), *stable_matrices(spectrum, mode)],
    )


@statement(
    "same-batch-cancellation", "The same batch for gradient and Hessian: their noises cancel in Newton's step"
)
def same_batch_cancellation(mode: Mode) -> Draft:
    """The same with E_h = E_g: the noise is D(P H)[E]."""
    steps = marginal(mode)
    product = sympy.factor(sympy.diff(mode.phi * mode.at, mode.at))
    same = product**2 * s_g**2
    steps += [
        Step(
            Eq(E_h, E_g, evaluate=False), "the same batch: both noises are one, so s_h = s_g and c_gh = s_g^2"
        ),
        vanishes(
            mode.phi + mode.slope * mode.at - sympy.Derivative(mode.phi * mode.at, mode.at).doit(),
            "the noise's factor phi + phi' lambda is the derivative of lambda phi(lambda): P E + DP[E] H = "
            "D(P H)[E]",
        ),
        vanishes(
            kick(mode).subs({s_h: s_g, c_gh: s_g**2}) - same,
            "so K is the square of that derivative times s_g^2",
        ),
        Step(Eq(K, same, evaluate=False), "it vanishes where lambda phi is constant, as for Newton"),
    ]
    return Draft(
        Eq(LIMIT, largest(mode, same), evaluate=False),
        steps,
        "stability.linear with Noise(coupling='nested')",
        [*minimum(mode), Hypothesis("one batch serves gradient and Hessian: E_h = E_g")],
        [Corollary("noise", Eq(K, same, evaluate=False))],
    )


@matrix("same-batch-cancellation")
def same_batch_matrix(mode: Mode, dim: int) -> Draft:
    """K of the derivative of P H."""
    spectrum, E = SymbolicModes(mode, dim), symmetric("E", dim)
    more = []
    # Truncated, lambda phi is not a function of lambda alone and has no such quotients.
    if spectrum.rank == dim:
        products = [phi * x for phi, x in zip(spectrum.gains, spectrum.curvatures, strict=True)]

        def slope(i: int, j: int) -> Any:
            x, y = spectrum.curvatures[i], spectrum.curvatures[j]
            return sympy.diff(products[i], x) if i == j else (products[i] - products[j]) / (x - y)

        whole = spectrum.P * E + spectrum.derivative(E) * spectrum.H
        derivative = sympy.matrix_multiply_elementwise(Matrix(dim, dim, slope), E)
        more.append(
            vanishes(whole - derivative, "P E + DP[E] H = D(P H)[E]: the divided differences of lambda phi")
        )
    same = _coupling(spectrum, dim).subs({tau_h: tau_g, c_tau: tau_g**2}).applyfunc(sympy.factor)
    return matrix_limit(mode, spectrum, same, more)


def _truncated(method: Method) -> bool:
    return method.rank is not None


@statement(
    "truncation-gap",
    "A truncation inside a cluster of eigenvalues amplifies Hessian noise",
    applies=_truncated,
)
def truncation_gap(mode: Mode) -> Draft:
    """The divided difference across the cut."""
    kept, tail = mode.gain(lam), mode.tail_gain(lam_next)
    quotient = tidy((kept - tail) / (lam - lam_next))
    # `tidy` may have turned the difference; the gap is read as lambda - lambda_next.
    if sympy.fraction(quotient)[1].has(lam_next - lam):
        quotient = sympy.factor(kept - tail) / (lam - lam_next)
    H, V, P, D = sympy.symbols("Lambda V P DP", commutative=False)
    steps = [
        gain_step(mode),
        Step(Eq(Function("phi_t")(lam_next), tail, evaluate=False), "the gain off the kept subspace"),
        Step(
            Eq(D * H - H * D, V * P - P * V, evaluate=False),
            "P commutes with H: differentiated along H + s V at s = 0",
        ),
        Step(
            Eq(Symbol("Phi") * (lam - lam_next), sympy.factor(kept - tail), evaluate=False),
            "its entry across the cut",
        ),
    ]
    apart = Hypothesis(
        "the truncation separates two eigenvalues: lambda > lambda_next > 0",
        sympy.Min(lam - lam_next, lam_next),
    )
    return Draft(
        Eq(Symbol("Phi"), quotient, evaluate=False),
        steps,
        "stability.methods, by divided differences; the validity indicator of stability.linear uses it",
        [apart],
    )


@statement("truncation-limit", "The truncation's own step limit", branches=("tail",), applies=_truncated)
def truncation_limit(mode: Mode) -> Draft:
    """The fastest mode of the tail."""
    tail = mode.tail_gain(lam_next)
    rate = -tail * lam_next
    # Divided by alpha the trivial root is gone, and the equation is linear.
    limit = tidy(linear_root(sympy.expand(((1 + alpha * rate) ** 2 - 1) / alpha), alpha))
    decaying = Hypothesis(
        "the tail decays: phi_t lambda_next > 0", None if mode.method is None else tail * lam_next
    )
    steps = [
        Step(Eq(Function("phi_t")(lam_next), tail, evaluate=False), "the gain off the kept subspace"),
        Step(
            Eq(Symbol("a"), rate, evaluate=False),
            "the rate of the first mode left out, the fastest of the tail",
        ),
        Step(Eq((1 + alpha * rate) ** 2, 1, evaluate=False), "marginal, without any noise"),
    ]
    return Draft(
        Eq(LIMIT, limit, evaluate=False),
        steps,
        "stability.linear; the flat tail is the idea of NewSamp, Erdogdu and Montanari 2015",
        [Hypothesis("the first curvature left out is positive: lambda_next > 0", lam_next), decaying, EXACT],
    )


n, b = sympy.symbols("n b", integer=True, positive=True)
V = Symbol("V", nonnegative=True)


@statement("finite-data-limit", "Minibatches drawn without replacement from finite data")
def finite_data_limit(mode: Mode) -> Draft:
    """Sampling without replacement, put into the mean-square limit."""
    single, pair = V, -V / (n - 1)
    # Var(mean of b) = (b V + b (b - 1) pair) / b^2.
    spread = sympy.factor(single / b + (b - 1) / b * pair)
    limit = largest(mode, kick(mode).subs({s_h: 0, c_gh: 0})).subs(s_g, sympy.sqrt(spread))
    samples, size = sympy.symbols("h_1:5"), 2
    batches = list(combinations(samples, size))
    mean = sum(samples) / 4
    square = sum((sum(batch) / size) ** 2 for batch in batches) / len(batches)
    variance = sum(h**2 for h in samples) / 4 - mean**2
    steps = [
        gain_step(mode),
        Step(
            Eq(Symbol("Cov(h_i, h_j)"), pair, evaluate=False),
            "two different draws without replacement: the n deviations sum to zero",
        ),
        Step(
            Eq(s_g**2, spread, evaluate=False),
            "variance of the mean of b draws, V the variance of one sample's curvature",
        ),
        vanishes(
            square - mean**2 - spread.subs({n: 4, b: size, V: variance}),
            "counted out for n = 4, b = 2 over all six batches",
        ),
        Step(
            Eq(LIMIT, limit, evaluate=False),
            "put into the mean-square step limit with the Hessian of all data",
        ),
    ]
    return Draft(
        Eq(LIMIT, limit, evaluate=False),
        steps,
        "Ma and Ying 2021, Mulayoff and Michaeli 2024 for SGD; numbers by Noise.from_data",
        [
            *minimum(mode),
            Hypothesis(
                "an interpolating minimum: every sample's gradient vanishes there; the preconditioner uses "
                "all data"
            ),
            Hypothesis(
                "batches of at least one and at most all of two samples or more: n >= 2, 1 <= b <= n",
                # Halves between whole numbers: n - b >= 0 is asked as n - b + 1/2 > 0.
                sympy.Min(n - b + Rational(1, 2), n - Rational(3, 2), b - Rational(1, 2)),
            ),
        ],
    )


@matrix("finite-data-limit")
def finite_data_matrix(mode: Mode, dim: int) -> Draft:
    """The whole second-moment map with a fixed preconditioner P.

    Counted out over all batches of two from three samples.
    """
    # The smallest case in which a batch is neither one sample nor all of them.
    size, count = 2, 3
    samples = [
        Matrix(dim, dim, lambda i, j, k=k: Symbol(f"h{k}_{min(i, j) + 1}{max(i, j) + 1}", real=True))
        for k in range(1, count + 1)
    ]
    kron = sympy.kronecker_product
    mean = sum(samples, sympy.zeros(dim)) / count
    share = Rational(count - size, size * (count - 1))
    batches = [sum(batch, sympy.zeros(dim)) / size for batch in combinations(samples, size)]
    counted = sum((kron(x, x) for x in batches), sympy.zeros(dim**2)) / len(batches)
    formula = (1 - share) * kron(mean, mean) + share / count * sum(
        (kron(x, x) for x in samples), sympy.zeros(dim**2)
    )
    q, C, D = sympy.symbols("q C D")
    P, K = symmetric("P", dim), sympy.Symbol("P (x) P")
    steps = [
        Step(
            Eq(q, (n - b) / (b * (n - 1)), evaluate=False),
            "variance of a batch mean over that of one sample, without replacement",
        ),
        vanishes(
            counted - formula,
            "E H_B (x) H_B = (1 - q) H (x) H + (q / n) sum H_i (x) H_i, counted out for n = 3, b = 2",
        ),
        Step(
            Eq(Symbol("M^+") - Symbol("M"), -2 * alpha * C + alpha**2 * K * D, evaluate=False),
            "one step on vec M, with C = (P H (x) I + I (x) P H) / 2",
        ),
    ]
    one, pulled = sympy.eye(dim), P * mean
    balance = sympy.ImmutableMatrix((kron(pulled, one) + kron(one, pulled)) / 2)
    limit = 2 / Function("lambda_max")(
        balance, sympy.ImmutableMatrix(kron(P, P)), sympy.ImmutableMatrix(formula)
    )
    steps.append(
        Step(
            Eq(LIMIT, 2 / Function("lambda_max")(C**-1 * K * D), evaluate=False),
            "marginal; below written out for n = 3, b = 2",
        )
    )
    needs = [
        Hypothesis("an interpolating minimum; the preconditioner P is that of all data; C has full rank")
    ]
    return Draft(
        Eq(LIMIT, limit, evaluate=False),
        steps,
        "Ma and Ying 2021 for SGD, P = I; numbers by Noise.from_data",
        needs,
    )
