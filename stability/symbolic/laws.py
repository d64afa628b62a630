"""Laws beyond second moments: stationary densities, heavy tails, saddles and escape."""

from __future__ import annotations

from typing import Any

import numpy as np
import sympy
from sympy import Eq, Function, Rational, Symbol

from ..methods.method import SFN, Method, Newton
from ..methods.response import jumps
from .mode import Mode, alpha, delta, kick, lam, lam_negative, s_h, sigma, tidy
from .registry import (
    BATCHES,
    EXACT,
    GAUSSIAN,
    STEP,
    UNALIGNED,
    Draft,
    gain_step,
    minimum,
    rate_step,
    saddle,
    statement,
    vanishes,
)
from .statement import Corollary, Hypothesis, Step, number


@statement("student-t", "With curvature noise the stationary law is a Student t")
def student_t(mode: Mode) -> Draft:
    """The Fokker-Planck equation of one mode, solved by a candidate whose flux vanishes."""
    K, C, speed = Symbol("K", positive=True), Symbol("C", positive=True), Symbol("|a|", positive=True)
    nu = 1 + 2 * speed / (alpha * K)
    density = (1 + K * delta**2 / C) ** (-(nu + 1) / 2)
    # Ito: the diffusion stands under the derivative. On a line the stationary flux itself
    # vanishes, not only its divergence: a current would have to come from infinity.
    flux = -speed * delta * density - sympy.diff(alpha * (K * delta**2 + C) * density, delta) / 2
    second = -2 * speed * Symbol("M") + alpha * (K * Symbol("M") + C)
    (variance,) = sympy.solve(second, Symbol("M"))
    found = {K: kick(mode), C: mode.phi**2 * sigma**2, speed: -mode.rate}
    steps = [
        gain_step(mode),
        rate_step(mode),
        Step(Eq(K, found[K], evaluate=False), "variance of phi E_g + phi' lambda E_h, per step"),
        Step(Eq(C, found[C], evaluate=False), "variance of phi zeta"),
        Step(
            Eq(Symbol("f") * Symbol("const"), density, evaluate=False),
            "candidate: the density of a Student t with nu = 1 + 2|a| / (alpha K)",
        ),
        vanishes(
            sympy.simplify(flux / density),
            "its Fokker-Planck flux a delta f - (alpha (K delta^2 + C) f)' / 2, over f, vanishes",
        ),
        Step(Eq(second, 0, evaluate=False), "the second moment's equation, where nu > 2"),
    ]
    degrees = nu.subs(found)
    noisy = Hypothesis("curvature noise reaches the mode: K > 0", None if mode.method is None else found[K])
    finite = Hypothesis("the variance is finite: nu > 2", None if mode.method is None else degrees - 2)
    return Draft(
        Eq(Symbol("nu"), degrees, evaluate=False),
        steps,
        "Fokker-Planck equation of the linear SDE with additive and multiplicative noise; numbers by "
        "stability.linear",
        [
            STEP,
            *minimum(mode),
            GAUSSIAN,
            BATCHES,
            noisy,
            Hypothesis("gradient noise is independent of curvature noise"),
        ],
        [
            Corollary(
                "scale-squared",
                Eq(Symbol("s") ** 2, (alpha * C / (alpha * K + 2 * speed)).subs(found), evaluate=False),
            ),
            Corollary("variance", Eq(Symbol("M"), tidy(variance).subs(found), evaluate=False), (finite,)),
        ],
    )


def poles(mode: Mode) -> list[tuple[Any, Any, Any]]:
    """Where the gain is infinite: (place, order m, strength r), ``|phi| ~ r / |x - place|^m``."""
    size, near = Symbol("y", positive=True), Symbol("z", positive=True)
    places = [(sympy.Integer(0), mode.gain(near))]
    for sign in (1, -1):
        # A pole of phi is a zero of 1 / phi, for a rational gain a root of a polynomial.
        inverse = sympy.together(1 / mode.gain(sign * size))
        places += [
            (sign * root, 1 / inverse.subs(size, root + near))
            for root in roots(sympy.fraction(inverse)[0], size, mode)
        ]
    result = []
    for place, beside in places:
        coefficient, exponent = beside.as_leading_term(near).as_coeff_exponent(near)
        if exponent.is_negative:
            result.append((place, -exponent, sympy.Abs(coefficient)))
        elif place != 0:  # a root without a formula of its own, which SymPy does not see cancel
            result.append(_by_derivatives(1 / beside, near, place, mode))
    return result


def _by_derivatives(inverse: Any, near: Any, place: Any, mode: Mode) -> tuple[Any, Any, Any]:
    """Order and strength of a pole from the first derivative of ``1 / phi`` that is not zero there."""
    for order in range(1, 10):
        # 1 / phi = slope z^m / m! + ..., so |phi| ~ (m! / |slope|) / z^m.
        slope = sympy.diff(inverse, near, order).subs(near, 0)
        if abs(complex(mode.at_own_values(slope).evalf())) > 1e-9:
            return place, sympy.Integer(order), sympy.factorial(order) / sympy.Abs(slope)
    raise ValueError(
        f"SymPy cannot tell the order of the gain's pole at {place}. Use st.exact_mode for numbers."
    )


def _confirm_poles(mode: Mode, places: list[Any]) -> None:
    """Raise where the numeric gain has another pole, or is not as large on the two sides of one of these.

    A formula that decides may end a branch at a pole, which SymPy does not look for.
    """
    assert mode.method is not None
    known = np.array([complex(mode.at_own_values(place).evalf()).real for place in places])
    near = np.where(known == 0, 1e-15, 1e-6 * np.abs(known))
    with np.errstate(all="ignore"):
        right, left = (np.abs(mode.method.gain(known + side * near) + 0 * known) for side in (1, -1))
    for place, uneven in zip(places, ~(np.abs(right / left - 1) < 0.01), strict=True):
        if uneven:
            raise ValueError(
                f"The gain's pole at {place} is not alike on its two sides, which this statement needs. Use "
                "st.exact_mode for numbers."
            )
    size = np.geomspace(1e-9, 1e9, 4001)
    # Not symmetric: heights are multiples of the gain at the middle, which at 0 itself may be zero.
    size = np.concatenate([-0.9 * size[::-1], size])
    middle, reach = 0.5 * (size[1:] + size[:-1]), 0.5 * np.diff(size)
    distance, height = jumps(mode.method, middle, reach)
    # A jump between two finite values is no pole: beside that the gain exceeds any multiple of itself.
    missed = np.isfinite(distance) & (height > 1e6)
    for x in known:
        missed &= np.abs(x - middle) > 1.01 * reach
    if missed.any():
        raise ValueError(
            f"The gain is infinite near lambda = {middle[missed][0]:.3g}, where SymPy finds no pole. Use "
            "st.exact_mode for numbers."
        )


def roots(expression: Any, symbol: Any, mode: Mode) -> list[Any]:
    """Positive roots; one whose sign hangs on a parameter counts if the method's own values make it so."""
    if not expression.has(symbol):
        return []
    try:
        found = sympy.solve(expression, symbol)
    except NotImplementedError:
        raise ValueError(
            f"SymPy cannot solve {expression} = 0, which this statement needs. Use st.exact_mode for numbers."
        ) from None
    kept = []
    for root in found:
        value = complex(mode.at_own_values(root).evalf())
        if abs(value.imag) < 1e-12 * abs(value) and value.real > 0:
            # A number without a real formula of its own (casus irreducibilis, degree five) is as well its own
            # digits.
            formula = bool(root.free_symbols) or (root.is_real is True and not root.has(sympy.CRootOf))
            kept.append(root if formula else sympy.re(root.evalf(30)))
    return kept


def same_side(mode: Mode, places: list[Any]) -> list[Hypothesis]:
    """The parameters are such that what was found stays where it is: on its side of zero."""
    result = []
    for place in places:
        sign = 1 if complex(mode.at_own_values(place).evalf()).real > 0 else -1
        if place != 0 and (sign * place).is_positive is not True:
            result.append(
                Hypothesis(
                    f"{place} {'>' if sign > 0 else '<'} 0, as at the method's own parameters", sign * place
                )
            )
    return result


def _normal(offset: Any) -> Any:
    return sympy.exp(-(offset**2) / (2 * s_h**2)) / (sympy.sqrt(2 * sympy.pi) * s_h)


def _untruncated(method: Method) -> bool:
    """Whether a mode's gain is a formula of its own curvature: truncated, it is dropped near a pole."""
    return method.rank is None or not poles(Mode(method))


@statement(
    "heavy-tailed-newton",
    "Poles of the gain under a stochastic Hessian: undamped Newton takes steps without a mean",
    default=Newton(),
    applies=_untruncated,
)
def heavy_tailed_newton(mode: Mode) -> Draft:
    """How much mass the Hessian noise puts near the poles of the gain."""
    size, near = Symbol("u", positive=True), Symbol("z", positive=True)
    found = poles(mode)
    _confirm_poles(mode, [place for place, _, _ in found])
    order = max((m for _, m, _ in found), key=lambda m: float(mode.at_own_values(m)), default=None)
    steps = [gain_step(mode)]
    total = sympy.Integer(0)
    density = Function("f")
    for place, m, strength in found:
        steps.append(
            Step(
                Eq(Function("phi")(place + near), strength * near**-m, evaluate=False),
                f"leading term at its pole lambda = {place}",
            )
        )
        width = (strength / size) ** (1 / m)
        steps.append(Step(Eq(near, width, evaluate=False), "|phi| exceeds u closer than this to the pole"))
        x = Symbol("x", real=True)
        probability = sympy.Integral(density(x), (x, place - lam - width, place - lam + width))
        steps.append(
            Step(
                Eq(Function("P")(size), probability, evaluate=False),
                "so its probability is an integral of the density f of E_h",
            )
        )
        share = 2 * strength ** (1 / m) * _normal(place - lam)
        steps.append(
            Step(
                Eq(sympy.Limit(size ** (1 / m) * Function("P")(size), size, sympy.oo), share, evaluate=False),
                "for Gaussian E_h, by the mean value theorem",
            )
        )
        # Beside a pole of order m the probability falls like
        # u^(-1/m): in the limit only the highest order is left.
        total += share if m == order else 0
    if not found:
        steps.append(
            Step(
                Eq(sympy.Limit(size * Function("P")(size), size, sympy.oo), 0, evaluate=False),
                "the gain has no pole: large values do not occur",
            )
        )
    index = sympy.oo if order is None else 1 / order
    exponent = 1 if order is None else 1 / order
    return Draft(
        Eq(sympy.Limit(size**exponent * Function("P")(size), size, sympy.oo), total, evaluate=False),
        steps,
        "stability.exact; E|phi|^q is finite for q below the tail index only",
        [
            Hypothesis("the mode's curvature is positive: lambda > 0", lam),
            Hypothesis("Hessian noise is Gaussian with s_h > 0", s_h),
            *same_side(mode, [place for place, _, _ in found]),
        ],
        [Corollary("tail-index", Eq(Symbol("nu"), index, evaluate=False))],
    )


def largest_gain(mode: Mode) -> Any:
    """The supremum of ``|phi|`` over the real line, of the tail's gain too; infinite at a pole."""
    if poles(mode):
        return sympy.oo
    size = Symbol("y", positive=True)
    formulas = [mode.gain] + (
        [mode.tail_gain] if mode.method is not None and mode.method.rank is not None else []
    )
    values = []
    for formula in formulas:
        for sign in (1, -1):
            # Each half-line on a positive symbol, where |lambda| is differentiable: without
            # poles, |phi| is largest at one of its ends or where the slope vanishes.
            gain = formula(sign * size)
            inner = roots(sympy.fraction(sympy.together(sympy.diff(gain, size)))[0], size, mode)
            values += [
                sympy.limit(gain, size, 0, "+"),
                sympy.limit(gain, size, sympy.oo),
                *(gain.subs(size, root) for root in inner),
            ]
    bound = sympy.simplify(sympy.Max(*map(sympy.Abs, values)))
    _confirm(mode, formulas, float(mode.at_own_values(bound)))
    return bound


def _confirm(mode: Mode, formulas: list[Any], bound: float) -> None:
    """What SymPy found is no smaller than the gain on a grid: else a stationary point was missed."""
    y = Symbol("y", real=True, nonzero=True)
    size = np.geomspace(1e-9, 1e9, 4001)
    for formula in formulas:
        values = np.abs(
            number(mode.at_own_values(formula(y)), {"y": np.concatenate([-size, size])})
            + np.zeros(2 * len(size))
        )
        if not values.max() <= bound * (1 + 1e-9):
            raise ValueError(
                f"SymPy finds {bound:.4g} as the gain's supremum, yet it reaches {values.max():.4g}. Use "
                "st.exact_mode for numbers."
            )


@statement("bounded-sfn-step", "A bounded gain bounds every step", default=SFN(damping=1.0))
def bounded_sfn_step(mode: Mode) -> Draft:
    """The supremum of the gain over the real line."""
    bound = largest_gain(mode)
    gradient, length = Symbol("|g|", nonnegative=True), Symbol("|s|", nonnegative=True)
    x = Symbol("x", positive=True)
    steps = [
        gain_step(mode),
        Step(
            Eq(sympy.Limit(Function("phi")(x), x, 0), sympy.limit(mode.gain(x), x, 0), evaluate=False),
            "the gain at vanishing curvature",
        ),
        Step(
            Eq(Function("sup")(Function("phi")(Symbol("x"))), bound, evaluate=False),
            "its largest size: limits at 0 and infinity, stationary points, poles",
        ),
        Step(
            sympy.Le(length, alpha * bound * gradient, evaluate=False),
            "the step is at most this times the stochastic gradient, whatever E_h",
        ),
    ]
    return Draft(
        Eq(Function("sup")(Function("phi")(Symbol("x"))), bound, evaluate=False),
        steps,
        "all moments of the step are finite where the gradient's are; stability.exact",
        [Hypothesis("the Hessian sample is symmetric, otherwise arbitrary")],
    )


@statement("saddle-attraction", "Which methods a saddle attracts", branches=("tail", "kept"), at=lam_negative)
def saddle_attraction(mode: Mode) -> Draft:
    """The sign of the drift along a direction of negative curvature."""
    time = Symbol("t", positive=True)
    mean = Function("m")
    solution = sympy.dsolve(
        Eq(mean(time).diff(time), Symbol("a") * mean(time)), mean(time), ics={mean(0): delta}
    )
    steps = [
        gain_step(mode),
        rate_step(mode),
        Step(solution, "the mean of the linear flow: attracted where a < 0, repelled where a > 0"),
    ]
    return Draft(
        Eq(Symbol("a"), tidy(mode.rate), evaluate=False),
        steps,
        "stability.linear",
        saddle(mode),
        [
            Corollary(
                "growth", Eq(Function("m")(time), delta * sympy.exp(tidy(mode.rate) * time), evaluate=False)
            )
        ],
    )


R, D, mu = Symbol("R", positive=True), Symbol("D", positive=True), Symbol("mu", real=True, nonzero=True)


@statement("escape-time", "Mean time of escape from a saddle", branches=("tail", "kept"), at=lam_negative)
def escape_time(mode: Mode) -> Draft:
    """The backward equation of the mean exit time, solved by a candidate, and its series."""
    x, rate, j = (
        Symbol("x", positive=True),
        Symbol("mu", positive=True),
        Symbol("j", integer=True, nonnegative=True),
    )
    # T' = -(2 / sqrt(mu D)) Dawson(z) with Dawson(z) =
    # sqrt(pi)/2 exp(-z^2) erfi(z): SymPy has no Dawson function.
    z = x * sympy.sqrt(rate / D)
    slope = -2 / sympy.sqrt(rate * D) * sympy.sqrt(sympy.pi) / 2 * sympy.exp(-(z**2)) * sympy.erfi(z)
    residual = D / 2 * sympy.diff(slope, x) + rate * x * slope + 1
    # Dawson(s) = sum_j (-2)^j s^(2j+1) / (2j+1)!!; its integral against the hypergeometric series, term over
    # term.
    double = sympy.factorial(2 * j + 1) / (2**j * sympy.factorial(j))
    term = (-2) ** j / double / (2 * j + 2)
    ours = sympy.combsimp(sympy.gammasimp(term.subs(j, j + 1) / term))
    series = -(j + 1) * (j + 1) / ((j + Rational(3, 2)) * (j + 2) * (j + 1))
    diffusion = alpha * mode.phi**2 * sigma**2
    found = {mu: mode.rate, D: diffusion}
    mean = R**2 / D * sympy.hyper((1, 1), (Rational(3, 2), 2), -mu * R**2 / D)
    steps = [
        gain_step(mode),
        Step(Eq(mu, tidy(mode.rate), evaluate=False), "rate of the direction of negative curvature"),
        Step(Eq(D, diffusion, evaluate=False), "diffusion: step times the variance of phi zeta"),
        Step(
            Eq(Function("T'")(x), slope, evaluate=False),
            "candidate for the slope of the mean exit time from |delta| < R, started at x: Dawson's function",
        ),
        vanishes(
            residual,
            "residual of the backward equation (D / 2) T'' + mu x T' = -1; T'(0) = 0 by symmetry, T(R) = 0 "
            "by integration",
        ),
        vanishes(
            ours - series, "ratio of successive terms of int Dawson, less that of 2F2(1, 1; 3/2, 2; -z^2)"
        ),
        Step(Eq(Symbol("T"), mean, evaluate=False), "so T(0) is this series, for mu < 0 too by continuation"),
    ]
    return Draft(
        Eq(Symbol("T"), mean.subs(found), evaluate=False),
        steps,
        "stability.exits, by Dawson quadrature",
        [
            STEP,
            *saddle(mode),
            Hypothesis("the radius is positive: R > 0", R),
            EXACT,
            UNALIGNED,
            Hypothesis("sigma > 0", sigma),
        ],
        [
            Corollary(
                "log-mean", Eq(Symbol("log_T"), sympy.log(mean, evaluate=False).subs(found), evaluate=False)
            ),
            Corollary("rate", Eq(mu, tidy(mode.rate), evaluate=False)),
            Corollary("diffusion", Eq(D, diffusion, evaluate=False)),
        ],
    )
