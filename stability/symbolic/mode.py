"""A method read on symbols, and the moment equations of one generic mode that follow from its gain alone."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import sympy
from sympy import Symbol

from ..methods.formula import read
from ..methods.memory import Memory
from ..methods.method import Method

GREEK = {"damping": "gamma", "eps": "epsilon", "power": "p", "variance": "v"}

theta = Symbol("theta", positive=True)
alpha, dt, sigma = sympy.symbols("alpha dt sigma", positive=True)
delta = Symbol("delta", real=True)
lam = Symbol("lambda", positive=True)
# A second symbol of the same name: by its sign SymPy reads |lambda|
# as -lambda, while both are printed and evaluated as lambda.
lam_negative = Symbol("lambda", negative=True)
lam_next = Symbol("lambda_next", positive=True)
lam_j = Symbol("lambda_j", positive=True)  # of another mode, where two are coupled
s_g, s_h = sympy.symbols("s_g s_h", nonnegative=True)
c_gh = Symbol("c_gh", real=True)
M, t = Symbol("M", positive=True), Symbol("t", positive=True)
beta = Symbol("beta", nonnegative=True)  # how much of a buffer of past gradients stays at each step
# A mode's rate, its gain and phi' lambda, while squares are expanded.
a, X, Y = sympy.symbols("a X Y", real=True)
GIVEN = frozenset(
    re.findall(
        r"\S+",
        "alpha dt sigma lambda lambda_min lambda_next lambda_j s_g s_h c_gh R t delta_0 h g k V n b m tau_g "
        "tau_h c Sigma_ij beta theta w_0",
    )
)
"""Symbols that a reader has values for; others in a derivation are only names of what is derived."""
RESERVED = GIVEN | frozenset(
    re.findall(
        r"\S+",
        """A B C D DP W E E_g E_h H J K L Lambda M N P Phi S Sigma T Var X Y a const d delta f i j lag mu nu
        q r rate rho s u w x y z zeta A_max D U V_1 Gamma omega p H_ij K_ij M_ij M_i R_max c_1 x_i x_j
        lambda_i phi_i delta_i delta_j g_i g_j
        alpha_max alpha_method alpha_SGD alpha_best alpha_safe b_crit V_1j Delta_F Phi_ij log_T
        M_SGD M_Newton M_SDE M_iteration M_discrete M_continuous lam step curvature phi""",
    )
)
"""Names that mean something in a statement: a method's own parameter of such a name gets another symbol."""
zeta, E_g, E_h = sympy.symbols("zeta E_g E_h", real=True)


@dataclass(frozen=True)
class Mode:
    """One mode of a method: its gain ``phi(lambda)`` and the derivative that Hessian noise sees, in SymPy.

    Attributes
    ----------
    method : Method or None
        None for an undetermined gain ``phi(lambda)``.
    branch : {"kept", "tail"}
        Of a truncated method: inside or off the kept subspace, where the gain does not follow the mode's own
        curvature.
    at : Symbol
        The curvature, with its sign among its assumptions.
    bound : bool
        Whether the symbols of the method's parameters stand for its own values where no others are given.
    """

    method: Method | None
    branch: str = "kept"
    at: Any = lam
    bound: bool = True
    values: dict[str, Any] = field(init=False)
    names: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        parameters = {} if self.method is None else self.method.parameters
        names: dict[str, str] = {}
        for key in parameters:
            name = GREEK.get(key, key)
            # A name that ends in a number would be taken for a matrix entry's, as lambda_1 or Sigma_12.
            taken = name in RESERVED or name in names.values() or re.search(r"_\d+$", name)
            names[key] = f"{name}_phi" if taken else name
        object.__setattr__(self, "names", names)
        values = {names[key]: np.asarray(value) for key, value in parameters.items() if self.bound}
        if self.method is not None and self.method.rank is not None:
            values["r"] = np.asarray(self.method.rank)
        if self.memory is not None:
            values["beta"] = np.asarray(self.memory.beta)
        if self.method is not None and self.method.weight_decay:
            values["theta"] = np.asarray(self.method.weight_decay)
        object.__setattr__(self, "values", values)

    @property
    def memory(self) -> Memory | None:
        """The buffer of a method that has one."""
        return None if self.method is None else self.method.memory

    @property
    def label(self) -> str:
        """The method's name, and where it has one, its tail's."""
        if self.method is None:
            return "any gain"
        if not self.method.spectral:
            return self.method.label
        decay = " + decay" if self.decay else ""
        if self.method.rank is None:
            return self.method.name + decay
        flat = (
            " flat tail"
            if getattr(self.method, "tail", "") == "flat"
            else (" tail" if self.branch == "tail" else "")
        )
        return self.method.name + flat + decay

    @property
    def parameters(self) -> dict[str, Any]:
        """The method's parameters as symbols, positive where their values are."""
        given = {} if self.method is None else self.method.parameters
        return {
            key: Symbol(self.names[key], **({"positive": True} if value > 0 else {"real": True}))
            for key, value in given.items()
        }

    def at_own_values(self, expression: Any) -> Any:
        """An expression with the method's own numbers in place of its parameters' symbols."""
        given = {} if self.method is None else self.method.parameters
        return expression.subs(
            # From the shortest decimal: 0.1 as 1/10, not as the binary fraction
            # 3602879701896397/2^55, whose digits would swell in every root.
            {symbol: sympy.Rational(repr(float(given[key]))) for key, symbol in self.parameters.items()}
        )

    def gain(self, curvature: Any) -> Any:
        """``phi`` at a symbol or an expression: the method's own formula."""
        if self.method is None:
            return sympy.Function("phi", real=True)(curvature)
        method = self.method.with_parameters(**self.parameters)
        return read(method.gain, curvature)

    def tail_gain(self, curvature: Any) -> Any:
        """The gain off the kept subspace, as a formula of the first eigenvalue left out."""
        if self.method is None:
            return sympy.Function("phi_t", real=True)(curvature)
        return read(self.method.with_parameters(**self.parameters).tail_gain, curvature)

    @property
    def phi(self) -> Any:
        """The gain of this mode."""
        return self.tail_gain(lam_next) if self.branch == "tail" else self.gain(self.at)

    @property
    def slope(self) -> Any:
        """How the gain moves with a diagonal entry of the Hessian noise, its own or ``lambda_next``'s."""
        return (
            sympy.diff(self.tail_gain(lam_next), lam_next)
            if self.branch == "tail"
            else sympy.diff(self.gain(self.at), self.at)
        )

    @property
    def decay(self) -> Any:
        """Decoupled weight decay of a method with a gain; 0 without."""
        decays = self.method is not None and self.method.spectral and self.method.weight_decay
        return theta if decays else sympy.Integer(0)

    @property
    def pull(self) -> Any:
        """What draws the mode to the point: ``phi lambda``, and weight decay."""
        return self.phi * self.at + self.decay

    @property
    def rate(self) -> Any:
        """``a``: the Jacobian of the drift ``-phi lambda delta``, less weight decay."""
        # phi is held fixed: its own derivative is multiplied
        # by the gradient, which vanishes at a critical point.
        return sympy.diff(-self.pull * delta, delta)


class SymbolicModes:
    """A method at ``lambda_1 > ... > lambda_d``: gains, and ``P``'s derivative (Daleckii and Krein)."""

    def __init__(self, mode: Mode, dim: int, **assumptions: bool):
        method = mode.method
        self.curvatures = sympy.symbols(f"lambda_1:{dim + 1}", **(assumptions or {"positive": True}))
        self.rank = dim if method is None or method.rank is None else min(method.rank, dim)
        self.gains = [mode.gain(x) for x in self.curvatures[: self.rank]]
        self.tail_slope = sympy.Integer(0)
        if self.rank < dim:
            following = self.curvatures[self.rank]
            self.gains += [mode.tail_gain(following)] * (dim - self.rank)
            self.tail_slope = sympy.diff(mode.tail_gain(following), following)

    @property
    def P(self) -> sympy.Matrix:
        return sympy.diag(*self.gains)

    @property
    def H(self) -> sympy.Matrix:
        return sympy.diag(*self.curvatures)

    @property
    def divided(self) -> sympy.Matrix:
        """``Phi_ij``: quotients, derivatives on the diagonal, zero in the tail."""
        dim = len(self.curvatures)
        return sympy.Matrix(dim, dim, self._divided)

    def _divided(self, i: int, j: int) -> Any:
        # All of the tail has one gain, so its quotients vanish;
        # how that gain itself moves, `derivative` adds.
        if i >= self.rank and j >= self.rank:
            return sympy.Integer(0)
        if i == j:
            return sympy.diff(self.gains[i], self.curvatures[i])
        # Cancelled, it keeps its digits where two curvatures
        # nearly meet: Newton's is -1 / (lambda_i lambda_j).
        return sympy.cancel((self.gains[i] - self.gains[j]) / (self.curvatures[i] - self.curvatures[j]))

    def derivative(self, noise: sympy.Matrix) -> sympy.Matrix:
        """``DP[E]``: ``Phi o E``, and a flat tail's motion with the first curvature left out."""
        result = sympy.matrix_multiply_elementwise(self.divided, noise)
        for i in range(self.rank, len(self.curvatures)):
            # To first order lambda_(r+1) moves by its own diagonal
            # entry, and the gain of the whole tail with it.
            result[i, i] += self.tail_slope * noise[self.rank, self.rank]
        return result


def symmetric(name: str, dim: int) -> sympy.Matrix:
    """A symmetric matrix of symbols ``name_ij``."""
    return sympy.Matrix(dim, dim, lambda i, j: Symbol(f"{name}_{min(i, j) + 1}{max(i, j) + 1}", real=True))


def expectation(expression: Any, moments: dict[Any, Any]) -> Any:
    """Mean of a polynomial in random symbols, given the means of their monomials (missing ones are zero)."""
    noise = sorted({s for monomial in moments for s in monomial.free_symbols}, key=str)
    polynomial = sympy.Poly(sympy.expand(expression), *noise)
    total = sympy.Integer(0)
    for powers, coefficient in polynomial.terms():
        monomial = sympy.Mul(*(s**k for s, k in zip(noise, powers, strict=True)))
        total += coefficient * (1 if monomial == 1 else moments.get(monomial, 0))
    return total


CURVATURE = {E_g**2: s_g**2, E_h**2: s_h**2, E_g * E_h: c_gh}
"""Second moments of the two curvature noises in one mode."""


def kick(mode: Mode) -> Any:
    """``K``: the variance of ``phi E_g + phi' lambda E_h``, which multiplies the mode, by moments."""
    whole = expectation((X * E_g + Y * E_h) ** 2, CURVATURE).subs({X: mode.phi, Y: mode.slope * mode.at})
    return sympy.Add(
        *(
            sympy.factor(term)
            for term in sympy.Add.make_args(
                # Only the outer sum is opened: the inside of phi, such as (lambda + gamma)^2, stays factored.
                sympy.expand(whole, deep=False, power_base=False, power_exp=False)
            )
        )
    )


def relative(mode: Mode, strength: Any = None) -> Any:
    """``q``: `kick`, or another variance, over the square of the mode's pull ``phi lambda``, term by term."""
    terms = sympy.Add.make_args(kick(mode) if strength is None else strength)
    return sympy.Add(*(tidy(term / mode.pull**2) for term in terms))


def generator(mode: Mode, function: Any, *, diffusion: Any) -> Any:
    """The Ito generator of ``d delta = a delta dt + sqrt(diffusion) dW`` applied to a function of delta."""
    return mode.rate * delta * sympy.diff(function, delta) + diffusion * sympy.diff(function, delta, 2) / 2


def one_step(mode: Mode, step: Any, *, curvature: bool) -> Any:
    """``E (delta+)^2`` after a step of the chain, expanded in rate, gain and slope, which are then put in."""
    # One draw per `alpha` of time: over a step of dt its noise is sqrt(alpha dt)
    # times the draw, which at dt = alpha is the iteration's own factor alpha.
    strength = X * zeta + ((X * E_g + Y * E_h) * delta if curvature else 0)
    moved = delta * (1 + step * a) + sympy.sqrt(alpha * step) * strength
    square = expectation(moved**2, {zeta**2: sigma**2, **CURVATURE})
    return sympy.collect(sympy.expand(square), delta, sympy.factor_terms).subs(
        {a: mode.rate, X: mode.phi, Y: mode.slope * mode.at}
    )


def neat(expression: Any) -> Any:
    """The shortest of an expression's forms: as it is, or as one fraction."""
    return min((expression, tidy(expression)), key=lambda form: (form.count_ops(), str(form)))


def stationary(balance: Any) -> Any:
    """Solve a balance that is linear in M."""
    return tidy(linear_root(balance, M))


def linear_root(expression: Any, unknown: Any) -> Any:
    """Where an expression that is linear in a symbol vanishes."""
    polynomial = sympy.Poly(sympy.expand(expression), unknown)
    slope, rest = polynomial.coeff_monomial(unknown), polynomial.coeff_monomial(1)
    if slope == 0:
        raise ValueError(
            "The statement does not hold for this gain: nothing decays, it needs that phi(lambda) lambda is "
            "not zero."
        )
    return -rest / slope


def tidy(expression: Any) -> Any:
    """A rational expression as one factored fraction, with no minus sign that a difference could take."""
    top, bottom = sympy.fraction(sympy.factor(sympy.together(sympy.expand_mul(expression))))
    if not top.could_extract_minus_sign():
        return top / bottom
    # The top's minus sign turns a difference below: -x / (1 - y) is written x / (y - 1).
    for factor in sympy.Mul.make_args(bottom):
        base, power = factor.as_base_exp()
        if base.is_Add and power.is_odd and any(term.could_extract_minus_sign() for term in base.args):
            return -top / (bottom / factor * sympy.expand(-base) ** power)
    return top / bottom
