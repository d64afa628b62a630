"""Memory: what a buffer of past gradients does to limits and variances, from the matrices of two numbers."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import sympy
from sympy import Eq, Function, Matrix, Symbol

from .mode import M, Mode, alpha, beta, relative, sigma, t
from .registry import (
    BATCHES,
    EXACT,
    GAUSSIAN,
    MEMORY,
    STEP,
    TIME,
    Draft,
    gain_step,
    minimum,
    statement,
    vanishes,
)
from .statement import Corollary, Hypothesis, Step

LIMIT = Symbol("alpha_max", positive=True)
pull, C = Symbol("|a|", positive=True), Symbol("C", positive=True)
c, e = sympy.symbols("mu nu", positive=True)
q, x = sympy.symbols("q x", nonnegative=True)
MOMENTS = W, D, U = sympy.symbols("W D U", real=True)
"""Means of ``w^2``, ``w u`` and ``u^2``."""
HEAVY_BALL, NESTEROV = {c: sympy.Integer(1), e: beta}, {c: 1 + beta, e: beta**2}


class Kind(NamedTuple):
    """One way to use the buffer: its limits and its variance, in the mode's pull |a|, in q and in C."""

    mean: Any
    mean_square: Any
    alone: Any
    variance: Any


def buffered() -> tuple[Matrix, Matrix]:
    """What one step does to ``(w, u)``, and what the gradient's noise adds to it."""
    return Matrix([[1 - alpha * c * pull, -alpha * e], [pull, beta]]), Matrix([-alpha * c, 1])


def stationary_moments() -> Any:
    """``E w^2`` under noise of variance C, by the three equations ``S = B S B' + C b b'``."""
    B, kicked = buffered()
    S = Matrix([[W, D], [D, U]])
    balance = B * S * B.T + C * kicked * kicked.T - S
    (found,) = sympy.solve([balance[0, 0], balance[0, 1], balance[1, 1]], MOMENTS, dict=True)
    return found[W]


@functools.cache
def kind_of(nesterov: bool) -> Kind:
    """Limits and variance of heavy ball or of Nesterov's step."""
    how = NESTEROV if nesterov else HEAVY_BALL
    B, _ = buffered()
    edge = sympy.factor((B + sympy.eye(2)).det().subs(how))
    alone = sympy.factor(stationary_moments().subs(how))
    # Where the noise that multiplies w feeds as much as it finds, C = q |a|^2 V_1.
    left = sympy.factor(1 - q * pull**2 * alone / C)
    marginal = sympy.Poly(sympy.fraction(left)[0].subs(alpha, x / pull), x)
    flat, slope, bend = (marginal.coeff_monomial(x**k) for k in range(3))
    if flat.subs(beta, 0).is_negative:
        flat, slope, bend = -flat, -slope, -bend
    flat, slope = arranged(sympy.factor(flat)), arranged(-slope)
    # Of the two roots the one that is there for beta = 0 too, where the equation is linear.
    limit = (
        flat / slope if bend == 0 else 2 * flat / (slope + sympy.sqrt(slope**2 - 4 * flat * arranged(bend)))
    )
    return Kind(arranged(sympy.solve(edge, alpha)[0]), limit / pull, arranged(alone), arranged(alone / left))


@functools.cache
def underdamped() -> Any:
    """``E w^2`` of the SDE with the buffer as its velocity: three equations of moments."""
    equations = [
        -2 * D,
        -U + (pull * W - (1 - beta) * D) / alpha,
        2 * (pull * D - (1 - beta) * U) / alpha + (C + q * pull**2 * W) / alpha,
    ]
    (found,) = sympy.solve(equations, MOMENTS, dict=True)
    return arranged(found[W])


def arranged(expression: Any) -> Any:
    """A product whose sums are collected in alpha and q, with 1 - beta in the place of beta - 1."""
    factors, sign = [], sympy.Integer(1)
    for factor in sympy.Mul.make_args(sympy.factor(expression)):
        base, power = factor.as_base_exp()
        if base.is_Add:
            if base.subs({alpha: 0, beta: 0, q: 1}).is_negative:
                base, sign = sympy.expand(-base), sign * (-1) ** power
            by = next((one for one in (alpha, q) if base.has(one)), None)
            base = base if by is None else sympy.collect(sympy.expand(base), by, func=arranged)
        factors.append(base**power)
    # Evaluated, SymPy would carry the sign into the sum again.
    return sympy.Mul(sign, *factors, evaluate=sign == 1 or len(factors) > 1)


@functools.cache
def relaxing() -> tuple[Any, Step]:
    """The share of the stationary variance that a mode has at t, from rest at 0."""
    rate, turn = sympy.symbols("Gamma omega", positive=True)
    share = 1 - sympy.exp(-rate * t) * (
        1 + rate / (2 * turn) * sympy.sin(2 * turn * t) + rate**2 / (2 * turn**2) * sympy.sin(turn * t) ** 2
    )
    bend = turn**2 + rate**2 / 4  # pull / alpha, while (1 - beta) / alpha is the rate
    # From the first equation E w u, from the second E u^2: the third is what is left to hold.
    mixed = -sympy.diff(share, t) / 2
    square = bend * share - rate * mixed - sympy.diff(mixed, t)
    source = 2 * rate * bend  # that of a stationary E w^2 of one
    left = sympy.diff(square, t) - 2 * bend * mixed + 2 * rate * square - source
    left = sympy.expand_trig(left).subs(sympy.cos(turn * t) ** 2, 1 - sympy.sin(turn * t) ** 2)
    vanishes(sympy.expand(left), "the share solves the equations of moments")
    step = Step(
        Eq(Function("M")(t) / M, share, evaluate=False),
        "from rest, by the same equations, Gamma = (1 - beta) / alpha, omega^2 = |a| / alpha - Gamma^2 / 4",
    )
    found = {rate: (1 - beta) / alpha, turn: sympy.sqrt(pull / alpha - (1 - beta) ** 2 / (4 * alpha**2))}
    return share.subs(found), step


def about(mode: Mode) -> dict[Any, Any]:
    """The mode's own pull and noises in the place of |a|, q and C."""
    return {pull: mode.phi * mode.at, q: relative(mode), C: mode.phi**2 * sigma**2}


SOURCE = "Polyak 1964 and Nesterov 1983 for the means; numbers by the second-moment map of the doubled state"


@statement(
    "momentum", "Momentum: the largest step and the variance of heavy ball and of Nesterov", memory=True
)
def momentum(mode: Mode) -> Draft:
    """Limits and variances from the second moments of position and buffer."""
    nesterov = mode.memory is not None and mode.memory.nesterov
    own, ours = about(mode), kind_of(nesterov)
    steps = [gain_step(mode), *_setting(own), *_solved(nesterov)]
    corollaries = _of_kind(mode, "", ours, own)
    if not nesterov:
        flow, told = _flowing(mode, own)
        steps += flow
        corollaries += [*_of_kind(mode, "nesterov-", kind_of(True), own), *told]
    statement = corollaries.pop(0)  # of its own kind, the mean-square limit
    return Draft(statement.equation, steps, SOURCE, [*minimum(mode), MEMORY, GAUSSIAN, BATCHES], corollaries)


def _flowing(mode: Mode, own: dict[Any, Any]) -> tuple[list[Step], list[Corollary]]:
    """Heavy ball in continuous time: its variance, and how it fills up."""
    (share, fills), flowing = relaxing(), underdamped()
    steps = [
        Step(
            Eq(M, flowing, evaluate=False),
            "the same of the SDE dw = -u dt, alpha du = (|a| w - (1 - beta) u) dt + noise, by its generator",
        ),
        fills,
    ]
    swings = Hypothesis(
        "the mode swings: 4 alpha phi lambda > (1 - beta)^2",
        None if mode.method is None else 4 * alpha * own[pull] - (1 - beta) ** 2,
    )
    variance = Eq(M, flowing.subs(own), evaluate=False)
    filled = Eq(Function("M")(t) / M, share.subs(pull, own[pull]), evaluate=False)
    return steps, [
        Corollary("underdamped", variance, (STEP, _fed(mode, flowing, own))),
        Corollary("relaxation", filled, (STEP, TIME, EXACT, swings)),
    ]


def _setting(own: dict[Any, Any]) -> list[Step]:
    B, kicked = buffered()
    S, one, other = (sympy.MatrixSymbol(name, 2, 2) for name in ("S", "B", "b b'"))
    return [
        Step(Eq(pull, own[pull], evaluate=False), "the mode's pull: its gain times its curvature"),
        Step(
            Eq(q, own[q], evaluate=False),
            "variance of what multiplies the mode, phi E_g + phi' lambda E_h, over |a|^2",
        ),
        Step(Eq(C, own[C], evaluate=False), "variance of phi zeta, the noise that is added"),
        Step(
            Eq(Symbol("B"), B, evaluate=False),
            "(w, u) after a step; heavy ball: mu = 1, nu = beta, Nesterov: mu = 1 + beta, nu = beta^2",
        ),
        Step(
            Eq(Symbol("b"), kicked, evaluate=False), "what a unit of noise in the gradient takes from (w, u)"
        ),
        Step(Eq(S, one * S * one.T + C * other, evaluate=False), "stationary second moments where q = 0"),
    ]


@functools.cache  # no gain is in it
def _solved(nesterov: bool) -> tuple[Step, ...]:
    (B, _), ours, how = buffered(), kind_of(nesterov), NESTEROV if nesterov else HEAVY_BALL
    first, edge = Symbol("V_1"), (B + sympy.eye(2)).det().subs(how)
    vanishes(edge.subs(alpha, ours.mean), "the limit of the mean")
    vanishes(sympy.simplify((1 / ours.variance).subs(alpha, ours.mean_square)), "that of the mean square")
    return (
        Step(Eq(first, ours.alone, evaluate=False), "that of w: three linear equations solved"),
        Step(
            Eq(edge, 0, evaluate=False),
            "where V_1 is infinite B has the eigenvalue -1: the mean turns its sign at every step",
        ),
        Step(Eq(LIMIT, ours.mean, evaluate=False), "the limit of the mean"),
        Step(
            Eq(M, first * (1 + q * pull**2 * M / C), evaluate=False),
            "otherwise noise of variance C + q |a|^2 M is added",
        ),
        Step(Eq(M, ours.variance, evaluate=False), "solved for the variance"),
        Step(
            Eq(LIMIT, ours.mean_square, evaluate=False), "where it is infinite: the limit of the mean square"
        ),
    )


def _of_kind(mode: Mode, prefix: str, kind: Kind, own: dict[Any, Any]) -> list[Corollary]:
    limit = kind.mean_square.subs(own)
    stable = Hypothesis(
        "the mean square is stable: alpha < alpha_max", None if mode.method is None else limit - alpha
    )
    return [
        Corollary(f"{prefix}mean-square", Eq(LIMIT, limit, evaluate=False)),
        Corollary(f"{prefix}mean", Eq(LIMIT, (kind.mean.subs(own)), evaluate=False)),
        Corollary(f"{prefix}variance", Eq(M, (kind.variance.subs(own)), evaluate=False), (STEP, stable)),
    ]


def _fed(mode: Mode, variance: Any, own: dict[Any, Any]) -> Hypothesis:
    """The SDE's variance is finite."""
    return Hypothesis(
        "the SDE's variance is finite: alpha q |a| < 2 (1 - beta)",
        None if mode.method is None else sympy.fraction(sympy.together(variance))[1].subs(own),
    )
