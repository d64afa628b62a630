"""Stationary second moments with an exact Hessian: how much noise a method amplifies."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations_with_replacement
from typing import Any

import sympy
from sympy import Eq, Function, Matrix, Rational, Symbol

from ..methods.method import SGD, DampedNewton, Method, Newton
from .mode import (
    M,
    Mode,
    SymbolicModes,
    alpha,
    delta,
    dt,
    generator,
    lam,
    lam_j,
    linear_root,
    one_step,
    sigma,
    stationary,
    symmetric,
    tidy,
)
from .registry import (
    EXACT,
    OTHER,
    STEP,
    TIME_STEP,
    UNALIGNED,
    Draft,
    gain_step,
    matrix,
    mean_stable,
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

OU = "the Ornstein-Uhlenbeck model of Mandt, Hoffman and Blei 2017; numbers by stability.linear"


def continuous(mode: Mode, variance: Any) -> tuple[list[Step], Any]:
    """The stationary variance of the SDE with an exact Hessian, derived by Ito's formula."""
    change = generator(mode, delta**2, diffusion=alpha * mode.phi**2 * variance)
    balance = sympy.expand(change).subs(delta**2, M)
    solution = stationary(balance)
    steps = [
        gain_step(mode),
        rate_step(mode),
        Step(
            Eq(Symbol("L") * delta**2, sympy.expand(change), evaluate=False),
            "the generator of the SDE applied to delta^2 (Ito)",
        ),
        Step(Eq(balance, 0, evaluate=False), "its mean vanishes in the stationary state, M = E delta^2"),
    ]
    return steps, solution


@statement(
    "noise-amplification", "Noise amplification at equal step length", branches=("tail", "kept"), decay=True
)
def noise_amplification(mode: Mode) -> Draft:
    """The stationary second moment of the SDE, over that of SGD."""
    steps, solution = continuous(mode, sigma**2)
    _, sgd = continuous(_sgd(), sigma**2)
    ratio = sympy.simplify(solution / sgd)
    x, y, other, covariance = (
        Symbol("delta_i"),
        Symbol("delta_j"),
        Mode(mode.method, mode.branch, lam_j).phi,
        Symbol("Sigma_ij", real=True),
    )
    drift = -mode.pull * x * sympy.diff(x * y, x) - (other * lam_j + mode.decay) * y * sympy.diff(x * y, y)
    # Half the covariance of the noises times the second derivatives, of which ij and ji are the same.
    both = sympy.expand(drift + alpha * mode.phi * other * covariance * sympy.diff(x * y, x, y)).subs(
        x * y, M
    )
    coupled = stationary(both)
    steps += [
        Step(
            Eq(M / Symbol("M_SGD"), ratio, evaluate=False),
            "the same with gain 1, at the same step, divides out the rest",
        ),
        Step(
            Eq(both, 0, evaluate=False),
            "two modes: the mean of the generator applied to delta_i delta_j, M = E delta_i delta_j",
        ),
        Step(Eq(M, coupled, evaluate=False), "their covariance, from that of their gradient noises"),
    ]
    return Draft(
        Eq(M, solution, evaluate=False),
        steps,
        OU,
        [STEP, *minimum(mode), EXACT, UNALIGNED],
        [
            Corollary("amplification", Eq(Symbol("A"), ratio, evaluate=False)),
            Corollary("coupling", Eq(Symbol("M_ij"), coupled, evaluate=False), (OTHER,)),
        ],
    )


def _sgd() -> Mode:
    return Mode(SGD())


def solve_symmetric(residual: Callable[[Matrix], Matrix], dim: int) -> Matrix:
    """The symmetric matrix M that makes a linear matrix expression vanish: ``residual(M) = 0``."""
    unknown = symmetric("M", dim)
    pairs = list(combinations_with_replacement(range(dim), 2))
    # A symmetric unknown has a symmetric residual: the upper triangle is as many equations as unknowns.
    equations = residual(unknown)
    found = sympy.solve([equations[i, j] for i, j in pairs], [unknown[i, j] for i, j in pairs], dict=True)[0]
    return unknown.subs(found).applyfunc(tidy)


def _lyapunov(mode: Mode, dim: int, step: Any, reason: str) -> Draft:
    spectrum, covariance = SymbolicModes(mode, dim), symmetric("Sigma", dim)
    A = -spectrum.P * spectrum.H
    source = alpha * spectrum.P * covariance * spectrum.P
    # ((I + dt A) M (I + dt A) - M) / dt, and the Lyapunov equation at dt = 0.
    solution = solve_symmetric(lambda X: A * X + X * A + step * A * X * A + source, dim)
    names = sympy.symbols("A M Sigma P", commutative=False)
    balance = (
        names[0] * names[1]
        + names[1] * names[0]
        + step * names[0] * names[1] * names[0]
        + alpha * names[3] * names[2] * names[3]
    )
    steps = [
        Step(Eq(Symbol("P"), spectrum.P, evaluate=False), "the preconditioner in the Hessian's eigenbasis"),
        Step(Eq(balance, 0, evaluate=False), reason),
        Step(Eq(Symbol("M"), solution, evaluate=False), "a linear system for the entries of M"),
    ]
    # Not a step of the sheet, but a check of all entries: the solver saw the upper triangle only.
    vanishes(A * solution + solution * A + step * A * solution * A + source, "the balance at its solution")
    hypotheses = [
        STEP,
        EXACT,
        *stable_matrices(spectrum, mode, dt if step == dt else None),
        semidefinite(covariance),
    ]
    if step == dt:
        hypotheses.append(TIME_STEP)
    return Draft(Eq(Symbol("M"), solution, evaluate=False), steps, OU, hypotheses)


@matrix("noise-amplification")
def noise_amplification_matrix(mode: Mode, dim: int) -> Draft:
    """The Lyapunov equation, entry by entry."""
    return _lyapunov(mode, dim, sympy.Integer(0), "the Lyapunov equation of the SDE's second moment")


@statement(
    "discrete-vs-continuous",
    "The chain with time step dt, and the iteration, against the SDE",
    branches=("tail", "kept"),
    decay=True,
)
def discrete_vs_continuous(mode: Mode) -> Draft:
    """The stationary second moment of the chain with any time step."""
    square = one_step(mode, dt, curvature=False)
    balance = sympy.expand(square.subs(delta**2, M) - M)
    solution = stationary(balance)
    _, limit = continuous(mode, sigma**2)
    at_step = tidy(solution.subs(dt, alpha))
    rate = -sympy.log(1 + alpha * mode.rate) / alpha
    steps = [
        gain_step(mode),
        rate_step(mode),
        Step(
            Eq(Symbol("E") * Symbol("delta^+") ** 2, square, evaluate=False),
            "mean square after one Euler-Maruyama step",
        ),
        Step(Eq(balance, 0, evaluate=False), "stationary: it equals M = E delta^2 before the step"),
        Step(
            Eq(sympy.Limit(M, dt, 0, "+"), limit, evaluate=False), "the SDE's variance, by its own generator"
        ),
        vanishes(solution.subs(dt, 0) - limit, "and the chain's at dt = 0 is the same"),
        vanishes(
            sympy.exp(-rate * alpha) - (1 + alpha * mode.rate),
            "where alpha phi lambda < 1 an Ornstein-Uhlenbeck process of this rate "
            "has the iteration's factor",
        ),
    ]
    embedded = Hypothesis(
        f"alpha {'(phi(lambda) lambda + theta)' if mode.decay else 'phi(lambda) lambda'} < 1",
        None if mode.method is None else 1 - alpha * mode.pull,
    )
    return Draft(
        Eq(M, solution, evaluate=False),
        steps,
        "Liu, Ziyin and Ueda 2021 for the discrete covariance; numbers by stability.linear",
        [STEP, TIME_STEP, *minimum(mode), mean_stable(mode, dt), EXACT],
        [
            Corollary("iteration", Eq(M, at_step, evaluate=False), (mean_stable(mode),)),
            Corollary(
                "ratio",
                Eq(Symbol("M_discrete") / Symbol("M_continuous"), tidy(at_step / limit), evaluate=False),
                (mean_stable(mode),),
            ),
            Corollary("embedding", Eq(Symbol("rate"), rate, evaluate=False), (embedded,)),
        ],
    )


@matrix("discrete-vs-continuous")
def discrete_matrix(mode: Mode, dim: int) -> Draft:
    """The Stein equation, entry by entry."""
    return _lyapunov(mode, dim, dt, "the Stein equation of the chain's second moment, per unit of time")


@statement("excess-risk", "Stationary excess risk", branches=("tail", "kept"), decay=True)
def excess_risk(mode: Mode) -> Draft:
    """Half of curvature times variance, and its sum."""
    steps, solution = continuous(mode, sigma**2)
    one = tidy(mode.at * solution / 2)
    steps.append(Step(Eq(mode.at * M / 2, one, evaluate=False), "the mode's share of tr(H M) / 2"))
    # lambda M / 2 = alpha sigma^2 phi / 4: the curvature has cancelled, but for what weight decay takes.
    total = (
        alpha
        * sigma**2
        / 4
        * over_spectrum(mode, lambda gain, curvature: gain / (1 + mode.decay / (gain * curvature)))
    )
    if not one.has(mode.at):  # SGD and the truncated tail: every mode has the same share
        whole = sympy.Derivative(Function("R")(mode.at), mode.at)
        steps.append(
            Step(
                Eq(whole, 0, evaluate=False),
                "which does not depend on the curvature: conditioning does not matter",
            )
        )
    return Draft(
        Eq(Symbol("R"), one, evaluate=False),
        steps,
        OU,
        [STEP, *minimum(mode), EXACT, UNALIGNED],
        [
            Corollary(
                "total",
                Eq(Symbol("R"), total, evaluate=False),
                (EXACT, UNALIGNED, *whole_spectrum(mode)),
                spectral=True,
            )
        ],
    )


@matrix("excess-risk")
def excess_risk_matrix(mode: Mode, dim: int) -> Draft:
    """Half the trace of H M."""
    draft = noise_amplification_matrix(mode, dim)
    H, solution = SymbolicModes(mode, dim).H, draft.statement.rhs
    risk = sympy.Add(*(tidy(H[i, i] * solution[i, i] / 2) for i in range(dim)))
    whole = sympy.Trace(sympy.MatrixSymbol("H", dim, dim) * sympy.MatrixSymbol("M", dim, dim)) / 2
    draft.steps.append(Step(Eq(Symbol("R"), whole, evaluate=False), "excess risk"))
    draft.statement = Eq(Symbol("R"), risk, evaluate=False)
    return draft


@statement(
    "aligned-noise", "Noise aligned with curvature is not amplified", branches=("tail", "kept"), decay=True
)
def aligned_noise(mode: Mode) -> Draft:
    """The same second moment where the noise follows the curvature."""
    steps, solution = continuous(mode, sigma**2 * mode.at)
    risk = tidy(mode.at * solution / 2)
    steps.append(
        Step(
            Eq(mode.at * M / 2, risk, evaluate=False),
            "its share of the excess risk; 1 / lambda never appears in it for Newton",
        )
    )
    aligned = Hypothesis(
        "gradient noise is aligned with curvature: variance sigma^2 lambda in the mode (Sigma = sigma^2 H, "
        "as for label noise)"
    )
    return Draft(
        Eq(M, solution, evaluate=False),
        steps,
        OU,
        [STEP, *minimum(mode), EXACT, aligned],
        [Corollary("excess-risk", Eq(Symbol("R"), risk, evaluate=False))],
    )


@matrix("aligned-noise")
def aligned_noise_matrix(mode: Mode, dim: int) -> Draft:
    """The Lyapunov equation with Sigma proportional to H."""
    draft = noise_amplification_matrix(mode, dim)
    curvatures, covariance = SymbolicModes(mode, dim).H, symmetric("Sigma", dim)
    aligned = {covariance[i, j]: sigma**2 * curvatures[i, j] for i in range(dim) for j in range(i, dim)}
    solution = draft.statement.rhs.subs(aligned).applyfunc(sympy.factor)
    # A multiple of H is semidefinite where its curvatures are positive, which is asked already.
    draft.hypotheses = [h for h in draft.hypotheses if "semidefinite" not in h.text]
    draft.steps += [
        Step(draft.statement, "solved"),
        Step(Eq(Symbol("Sigma"), covariance.subs(aligned), evaluate=False), "noise aligned with curvature"),
    ]
    draft.statement = Eq(Symbol("M"), solution, evaluate=False)
    return draft


lam_min = Symbol("lambda_min", positive=True)


@statement(
    "equal-rates",
    "Noise at equal slowest rate: none is amplified where the gain falls with curvature",
    branches=("tail", "kept"),
)
def equal_rates(mode: Mode) -> Draft:
    """The mode is lambda; the slowest one is lambda_min, in the tail where the method has one."""
    own = Mode(mode.method, "kept", mode.at)
    slow = mode.phi if mode.branch == "tail" else own.gain(lam_min)
    _, sgd = continuous(_sgd(), sigma**2)
    steps, solution = continuous(own, sigma**2)
    ours, theirs = Symbol("alpha_method", positive=True), Symbol("alpha_SGD", positive=True)
    step = linear_root(ours * slow * lam_min - theirs * lam_min, ours)
    ratio = sympy.simplify(solution.subs(alpha, step) / sgd.subs(alpha, theirs))
    steps += [
        Step(Eq(ours * slow * lam_min, theirs * lam_min, evaluate=False), "equal rates of the slowest mode"),
        Step(Eq(ours, step, evaluate=False), "the method's step"),
        Step(
            Eq(Symbol("M_SGD"), sgd.subs(alpha, theirs), evaluate=False),
            "the variance of SGD at its own step",
        ),
    ]
    concrete = mode.method is not None
    slowest = Hypothesis(
        "lambda_min is the slowest mode of both: lambda >= lambda_min and phi(lambda) lambda >= "
        "phi(lambda_min) lambda_min",
        # lambda = lambda_min is allowed, where both differences are zero.
        sympy.Min(mode.at - lam_min, own.phi * mode.at - slow * lam_min) + Rational(1, 10**12)
        if concrete
        else None,
    )
    return Draft(
        Eq(M / Symbol("M_SGD"), ratio, evaluate=False),
        steps,
        OU + ", and the study equal-rates",
        [*minimum(own), Hypothesis("lambda_min > 0", lam_min), slowest, EXACT, UNALIGNED],
    )


def _bounding(mode: Mode, bound: Any) -> list[Step]:
    """Why the gain never exceeds its bound: it falls from there, or in the tail it is that number."""
    if mode.branch == "tail":
        return [
            Step(
                Eq(Symbol("A_max"), bound, evaluate=False),
                "off the kept subspace the gain is the same for every curvature",
            )
        ]
    return [
        Step(
            Eq(sympy.Limit(Function("phi")(lam), lam, 0, "+"), bound, evaluate=False),
            "the gain at vanishing curvature",
        ),
        Step(
            sympy.Lt(sympy.factor(sympy.diff(mode.gain(lam), lam)), 0, evaluate=False),
            "the gain falls with curvature: it is largest there",
        ),
    ]


def damped(method: Method) -> bool:
    """Whether damping is what the method does: a gain that is finite at zero and falls from there."""
    gain = Mode(method).gain(lam)
    return (
        sympy.limit(gain, lam, 0, "+").is_finite is True
        and sympy.factor(sympy.diff(gain, lam)).is_negative is True
    )


@statement(
    "damping",
    "Damping bounds what ill-conditioning amplifies",
    branches=("tail", "kept"),
    default=DampedNewton(damping=1.0),
    applies=damped,
)
def damping(mode: Mode) -> Draft:
    """The variance over undamped Newton's, and the bound at vanishing curvature."""
    steps, solution = continuous(mode, sigma**2)
    _, newton = continuous(Mode(Newton()), sigma**2)
    ratio = tidy(solution / newton)
    bound = sympy.limit(mode.phi, lam, 0, "+")
    steps += [
        Step(
            Eq(Symbol("M_Newton"), newton, evaluate=False), "the same derivation for Newton, phi = 1 / lambda"
        ),
        *_bounding(mode, bound),
    ]
    return Draft(
        Eq(M / Symbol("M_Newton"), ratio, evaluate=False),
        steps,
        OU,
        [STEP, *minimum(mode), EXACT, UNALIGNED],
        [
            Corollary("largest-gain", Eq(Symbol("A_max"), bound, evaluate=False)),
            Corollary("excess-risk-bound", Eq(Symbol("R_max"), alpha * sigma**2 * bound / 4, evaluate=False)),
        ],
    )
