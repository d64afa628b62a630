"""The statements by name: which methods each speaks of, and the function that derives it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import sympy

from ..methods.method import Method
from .mode import Mode, SymbolicModes, alpha, beta, c_gh, dt, lam, lam_j, lam_next, s_g, s_h
from .statement import Corollary, Hypothesis, Step

DIMS = (1, 2, 3)


@dataclass
class Draft:
    """What a derivation hands over."""

    statement: Any
    steps: list[Step]
    source: str
    hypotheses: list[Hypothesis] = field(default_factory=list)
    corollaries: list[Corollary] = field(default_factory=list)


@dataclass(frozen=True)
class Entry:
    """A registered statement."""

    name: str
    title: str
    derive: Callable[[Mode], Draft]
    branches: tuple[str, ...]  # of a truncated method, the first is the default
    at: Any  # the curvature's symbol
    default: Method | None  # whom it speaks of where no method is given; None: of any gain
    applies: Callable[[Method], bool]
    memory: bool  # whether it speaks of methods with a buffer
    metric: bool  # whether it speaks of diagonal metrics, and of them alone
    decay: bool  # whether it speaks of gains with weight decay
    # Filled by `matrix` once its function is defined, after the entry was made; at most one key, "derive".
    matrix: dict[str, Callable[[Mode, int], Draft]] = field(default_factory=dict)


STATEMENTS: dict[str, Entry] = {}


def statement(
    name: str,
    title: str,
    *,
    branches: tuple[str, ...] = ("kept",),
    at: Any = lam,
    default: Method | None = None,
    applies: Callable[[Method], bool] = lambda method: True,
    memory: bool = False,
    metric: bool = False,
    decay: bool = False,
) -> Callable[[Callable[[Mode], Draft]], Callable[[Mode], Draft]]:
    """Register the derivation of a statement for one generic mode."""

    def keep(derive: Callable[[Mode], Draft]) -> Callable[[Mode], Draft]:
        STATEMENTS[name] = Entry(name, title, derive, branches, at, default, applies, memory, metric, decay)
        return derive

    return keep


def matrix(name: str) -> Callable[[Callable[[Mode, int], Draft]], Callable[[Mode, int], Draft]]:
    """Register the derivation of the same statement with full matrices, in 1, 2 or 3 dimensions."""

    def keep(derive: Callable[[Mode, int], Draft]) -> Callable[[Mode, int], Draft]:
        STATEMENTS[name].matrix["derive"] = derive
        return derive

    return keep


# -- hypotheses and steps that several statements share --------------------------------------------

STEP = Hypothesis("the step is positive: alpha > 0", alpha)
# A hypothesis holds where its expression is positive. What is added below lets the boundary
# itself pass: dt = 0, b = 1, and |c_gh| = s_g s_h (one batch for both) with its rounding.
TIME_STEP = Hypothesis("the time step is not negative: dt >= 0", dt + sympy.Float("1e-300"))
OTHER = Hypothesis("the other mode is at a minimum too: lambda_j > 0", lam_j)
BATCH = Hypothesis(
    "a batch holds at least one sample: b >= 1", sympy.Symbol("b", positive=True) - sympy.Rational(1, 2)
)
MEMORY = Hypothesis("the buffer forgets: 0 <= beta < 1", sympy.Min(1 - beta, beta + sympy.Float("1e-300")))
TIME = Hypothesis("the time is positive: t > 0", sympy.Symbol("t", positive=True))
EXACT = Hypothesis("the Hessian is exact: no noise in the preconditioner")
UNALIGNED = Hypothesis("gradient noise has variance sigma^2 in the mode, whatever its curvature")
BATCHES = Hypothesis(
    "the covariance is one of two batches: |c_gh| <= s_g s_h",
    s_g * s_h - sympy.Abs(c_gh) + sympy.Rational(1, 10**12),
)
GAUSSIAN = Hypothesis(
    "curvature noise is independent from step to step, with variances s_g^2, s_h^2 and covariance c_gh in "
    "the mode"
)


def minimum(mode: Mode) -> list[Hypothesis]:
    """The mode decays: positive curvature and a positive gain."""
    return [Hypothesis("the point is a minimum: lambda > 0", mode.at), decays(mode)]


def decays(mode: Mode) -> Hypothesis:
    """The drift contracts."""
    return Hypothesis(f"the mode decays: {_pull(mode)} > 0", None if mode.method is None else mode.pull)


def _pull(mode: Mode) -> str:
    return "phi(lambda) lambda + theta" if mode.decay else "phi(lambda) lambda"


def falling(dim: int) -> Hypothesis:
    """Curvatures as a truncated method ranks them."""
    curvatures = sympy.symbols(f"lambda_1:{dim + 1}", positive=True)
    gaps = [x - y for x, y in itertools.pairwise(curvatures)]
    return Hypothesis(
        "curvatures are positive and fall: lambda_1 > ... > lambda_d > 0", sympy.Min(*gaps, curvatures[-1])
    )


def saddle(mode: Mode) -> list[Hypothesis]:
    """The mode is an unstable direction of the objective."""
    return [Hypothesis("the direction is one of negative curvature: lambda < 0", -mode.at), finite(mode)]


def mean_stable(mode: Mode, step: Any = alpha) -> Hypothesis:
    """The chain's mean contracts."""
    name = "dt" if step == dt else "alpha"
    pull = f"({_pull(mode)})" if mode.decay else _pull(mode)
    return Hypothesis(
        f"the mean is stable: {name} {pull} < 2", None if mode.method is None else 2 - step * mode.pull
    )


def gain_step(mode: Mode) -> Step:
    """What every derivation starts from: the method's gain, read on a symbol."""
    name = sympy.Function("phi_t" if mode.branch == "tail" else "phi", real=True)
    if mode.method is None:
        return Step(
            sympy.Eq(sympy.Function("P")(sympy.Symbol("H")), name(sympy.Symbol("H")), evaluate=False),
            "the preconditioner is a spectral function of the Hessian",
        )
    return Step(
        sympy.Eq(name(mode.at), mode.phi, evaluate=False), "the method's gain, read from its own formula"
    )


def vanishes(expression: Any, reason: str) -> Step:
    """A step that says that an expression is zero, which SymPy must bear out."""
    entries = expression if isinstance(expression, sympy.MatrixBase) else [expression]
    left = [
        entry
        for entry in entries
        # The cheap test first: most residuals are rational, and `simplify` may take seconds.
        if sympy.expand(sympy.fraction(sympy.together(entry))[0]) != 0 and sympy.simplify(entry) != 0
    ]
    if left:
        raise ArithmeticError(
            f"The derivation does not close for this gain: {left[0]} should vanish ({reason})."
        )
    zero = sympy.zeros(*expression.shape) if isinstance(expression, sympy.MatrixBase) else sympy.Integer(0)
    return Step(sympy.Eq(expression, zero, evaluate=False), reason)


def over_spectrum(mode: Mode, term: Callable[[Any, Any], Any]) -> Any:
    """``sum_i term(phi_i, lambda_i)``; of a truncated method, over kept modes and over the tail's gain."""
    spectrum, index = sympy.IndexedBase("lambda"), sympy.Symbol("i", integer=True)
    count, rank = (
        sympy.Symbol("d", integer=True, positive=True),
        sympy.Symbol("r", integer=True, positive=True),
    )

    def total(gain: Any, low: Any, high: Any) -> Any:
        one = term(gain, spectrum[index])
        return sympy.Sum(one, (index, low, high)) if one.has(index) else one * (high - low + 1)

    # The gain is read on a plain positive symbol: an indexed one has no sign that |lambda| could use.
    kept = Mode(mode.method).gain(lam).subs(lam, spectrum[index])
    if mode.method is None or mode.method.rank is None:
        return total(kept, 1, count)
    tail = mode.tail_gain(lam_next).subs(lam_next, spectrum[rank + 1])
    return total(kept, 1, rank) + total(tail, rank + 1, count)


def throughout(mode: Mode, text: str, term: Callable[[Any, Any], Any]) -> Hypothesis:
    """``term(phi_i, lambda_i) > 0`` for every mode of a spectrum, of which there are as many as are kept."""
    # The number of modes that fail, less one half: a minimum
    # over a symbolic number of modes SymPy cannot write.
    failing = over_spectrum(
        mode, lambda gain, curvature: sympy.Piecewise((1, term(gain, curvature) <= 0), (0, True))
    )
    return Hypothesis(text, None if mode.method is None else sympy.Rational(1, 2) - failing)


def whole_spectrum(mode: Mode) -> list[Hypothesis]:
    """Every mode is at a minimum and decays; there are at least as many as the method keeps."""
    result = [
        throughout(mode, "every curvature is positive: lambda_i > 0", lambda gain, curvature: curvature),
        throughout(
            mode, "every mode decays: phi(lambda_i) lambda_i > 0", lambda gain, curvature: gain * curvature
        ),
    ]
    if mode.method is not None and mode.method.rank is not None:
        count, rank = (
            sympy.Symbol("d", integer=True, positive=True),
            sympy.Symbol("r", integer=True, positive=True),
        )
        result.insert(
            0,
            Hypothesis(
                "there are at least as many curvatures as the method keeps: d >= r",
                count - rank + sympy.Rational(1, 2),
            ),
        )
    return result


def stable_matrices(spectrum: SymbolicModes, mode: Mode, step: Any = None) -> list[Hypothesis]:
    """Of full matrices: falling curvatures, decaying modes, a stable mean, a covariance where one exists."""
    dim = len(spectrum.curvatures)
    pulls = [phi * x for phi, x in zip(spectrum.gains, spectrum.curvatures, strict=True)]
    result = [falling(dim)]
    if mode.method is not None:
        result.append(Hypothesis("every mode decays: phi(lambda) lambda > 0", sympy.Min(*pulls)))
        if step is not None:
            result.append(
                Hypothesis(
                    "the mean is stable: dt phi(lambda) lambda < 2",
                    sympy.Min(*(2 - step * pull for pull in pulls)),
                )
            )
    return result


def semidefinite(covariance: Any) -> Hypothesis:
    """Sigma is a covariance."""
    # A singular Sigma is allowed; rounding makes its least eigenvalue negative in proportion to its size.
    least = sympy.Function("lambda_min")(sympy.ImmutableMatrix(covariance))
    return Hypothesis(
        "Sigma is positive semidefinite",
        least + sympy.Rational(1, 10**12) * (1 + sympy.Trace(covariance).doit()),
    )


def finite(mode: Mode) -> Hypothesis:
    """The gain exists at this curvature."""
    return Hypothesis(
        "the gain is finite there: no pole of phi",
        # Positive wherever phi is finite, and zero at a pole, whatever the pole's sign.
        None if mode.method is None else sympy.cancel(1 / mode.phi**2),
    )


def rate_step(mode: Mode) -> Step:
    """The linear rate."""
    return Step(
        sympy.Eq(sympy.Symbol("a"), mode.rate, evaluate=False),
        "Jacobian of the drift -phi(lambda) lambda delta" + (", and of weight decay" if mode.decay else ""),
    )
