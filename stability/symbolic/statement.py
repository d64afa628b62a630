"""What a theorem states: hypotheses, an equation, its derivation, and ways to read and evaluate it."""

from __future__ import annotations

import functools
import html
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import sympy
from sympy.core.function import AppliedUndef

from .. import _check
from .._display import Grid
from .._saving import Result
from ..methods.method import Method
from .mode import GIVEN, RESERVED, Mode
from .typeset import inline, typeset

ALIASES = {
    "lambda": ("lam", "curvature"),
    "alpha": ("step",),
    "gamma": ("damping",),
    "epsilon": ("eps",),
    "p": ("power",),
}
"""Other names under which `Statement.evaluate` takes a symbol's value; ``lambda`` is no name in Python."""


WIDEST = 160
"""Columns of a line of a printed sheet."""


LITTLE = 1e-11
"""Numbers in hypotheses up to which they stand for zero."""


class DoesNotHold(ValueError):
    """A hypothesis of the statement fails at the values given."""


class Step(NamedTuple):
    """One step of a derivation: a SymPy equation and the reason for it."""

    equation: Any
    reason: str


class Hypothesis(NamedTuple):
    """A condition in words, and the expression that must be positive for it to hold.

    None where it is not a matter of numbers.
    """

    text: str
    positive: Any = None

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        if self.positive is None:
            return f"Hypothesis({self.text!r})"
        # What is added for a boundary to pass is rounding's size, and tells a reader nothing.
        little = {one: 0 for one in self.positive.atoms(sympy.Number) if 0 < one <= LITTLE}
        return f"Hypothesis({self.text!r}, {self.positive.xreplace(little)} {'>=' if little else '>'} 0)"


class Corollary(NamedTuple):
    """A further equation of a theorem, by name, with the hypotheses that it adds.

    One on a whole spectrum (`spectral`) puts them in the place of those on one mode.
    """

    name: str
    equation: Any
    hypotheses: tuple[Hypothesis, ...] = ()
    spectral: bool = False


@dataclass(frozen=True)
class Statement(Result):
    """A statement derived from a method's own gain: to read, and to evaluate at numbers.

    Attributes
    ----------
    name, title : str
    hypotheses : tuple of Hypothesis
        In words, each with the expression that must be positive.
    statement : sympy.Eq
        Its right-hand side is what `evaluate` gives.
    derivation : tuple of Step
        SymPy equations, each with its reason.
    source : str
        Where the argument is from, and where of this library the same number is computed another way.
    corollaries : tuple of Corollary
        Further equations that `evaluate` knows by name.
    mode : Mode
        The method read on symbols.
    dim : int or None
        None for one generic mode; 1, 2 or 3 for a derivation with full matrices.
    """

    name: str
    title: str
    hypotheses: tuple[Hypothesis, ...]
    statement: Any
    derivation: tuple[Step, ...]
    source: str
    corollaries: tuple[Corollary, ...]
    mode: Mode
    dim: int | None = None

    @property
    def method(self) -> Method | None:
        """The method that the statement is about; None for any gain."""
        return self.mode.method

    # -- reading -----------------------------------------------------------------------------------

    def latex(self, *, derivation: bool = False) -> str:
        """The statement as LaTeX, or with `derivation` the whole sheet as an ``align*`` block."""
        if not derivation:
            return sympy.latex(self.statement)
        rows = [(typeset(one.text), "given") for one in self.hypotheses]
        rows += [(sympy.latex(equation), reason) for equation, reason in self._steps()]
        body = " \\\\\n".join(f"& {equation} && {typeset(reason)}" for equation, reason in rows)
        return f"\\begin{{align*}}\n{body}\n\\end{{align*}}"

    def _steps(self) -> Iterator[tuple[Any, str]]:
        """All equations, each with its reason: derivation, statement, corollaries."""
        yield from self.derivation
        yield self.statement, "hence"
        for corollary in self.corollaries:
            extra = "; ".join(one.text for one in corollary.hypotheses)
            yield corollary.equation, corollary.name.replace("_", " ") + (f", if {extra}" if extra else "")

    def _repr_latex_(self) -> str:
        return self.latex(derivation=True)

    def _repr_html_(self) -> str:
        # The text page draws its equations with characters; a notebook typesets what stands between dollars.
        rows = [("given", inline(one.text)) for one in self.hypotheses]
        for equation, reason in self._steps():
            rows.append((inline(reason), rf"$\displaystyle {sympy.latex(equation)}$"))
        head, about = f"{self.name}: {self.title}", "any gain" if self.method is None else self.mode.label
        return Grid([(head, ""), (about, "")], rows).html() + f"<div>Source: {html.escape(self.source)}</div>"

    def _page(self) -> Iterator[str | Grid]:
        about = "any gain" if self.method is None else self.mode.label
        yield f"{self.name}: {self.title} ({about})"
        yield from ("", "Hypotheses", *(f"  - {hypothesis}" for hypothesis in self.hypotheses))
        yield from ("", "Statement", indented(self.statement))
        for corollary in self.corollaries:
            extra = "; ".join(map(str, corollary.hypotheses))
            head = f"  {corollary.name}" + (f" (if {extra})" if extra else "")
            yield textwrap.fill(head, WIDEST, subsequent_indent="    ")
            yield indented(corollary.equation)
        yield from ("", "Derivation")
        for number, step in enumerate(self.derivation, 1):
            yield f"  {number}. {step.reason}"
            yield indented(step.equation)
        yield from ("", f"Source: {self.source}")

    def to_json(self) -> dict[str, Any]:
        """All of it in JSON's terms; equations as LaTeX."""
        return {
            "name": self.name,
            "title": self.title,
            "method": None if self.method is None else self.mode.label,
            "hypotheses": [h.text for h in self.hypotheses],
            "statement": sympy.latex(self.statement),
            "corollaries": {
                c.name: {"equation": sympy.latex(c.equation), "hypotheses": [h.text for h in c.hypotheses]}
                for c in self.corollaries
            },
            "derivation": [
                {"equation": sympy.latex(step.equation), "reason": step.reason} for step in self.derivation
            ],
            "source": self.source,
        }

    # -- numbers -----------------------------------------------------------------------------------

    def equation(self, quantity: str | None = None) -> tuple[Any, tuple[Hypothesis, ...]]:
        """The statement or the corollary of that name, with all its hypotheses."""
        if quantity is None:
            return self.statement, self.hypotheses
        for corollary in self.corollaries:
            if corollary.name == quantity:
                return corollary.equation, (
                    # What the statement asks of its one lambda, a spectral
                    # corollary asks of every lambda_i in its own words.
                    *(self._signs if corollary.spectral else self.hypotheses),
                    *corollary.hypotheses,
                )
        known = ", ".join(c.name for c in self.corollaries) or "none"
        raise ValueError(
            f"`quantity` must be None for the statement or one of its corollaries ({known}); got "
            f"{quantity!r}."
        )

    def at(self, **values: float) -> dict[str, Any]:
        """Those of its equations that have these symbols, by name, with numbers in the symbols' place.

        Parameters
        ----------
        **values : float
            Under any name that `evaluate` takes.

        Raises
        ------
        ValueError
            If a value is unknown or no single number, or a hypothesis on these symbols alone fails
            (`DoesNotHold`).

        Examples
        --------
        >>> import stability as st
        >>> st.theorem("batch-sharpness").at(beta=0.9)["small-batches"]
        Eq(B*alpha, 0.2)
        """
        given, found = self._given(values, own=False), {}
        for name, value in given.items():
            if value.ndim:
                raise ValueError(
                    f"`{self._known[name]}` must be one number; got shape {value.shape}. Use evaluate(...)."
                )
        for quantity in (None, *(corollary.name for corollary in self.corollaries)):
            equation, hypotheses = self.equation(quantity)
            spectra = {base.label for base in equation.rhs.atoms(sympy.IndexedBase)}
            asked = {symbol for symbol in _symbols(equation.rhs) - spectra if symbol.name in given}
            if not asked:
                continue
            for hypothesis in hypotheses:
                self._require(hypothesis, given)
            # By fractions, so that what cancels does; then as decimals.
            right = equation.rhs.subs({symbol: _decimal(given[symbol.name]) for symbol in asked})
            right = right.xreplace({one: _float(one) for one in right.atoms(sympy.Rational)})
            found[quantity or "statement"] = sympy.Eq(equation.lhs, right, evaluate=False)
        return found

    @property
    def _signs(self) -> tuple[Hypothesis, ...]:
        """The hypotheses that are about step and parameters alone."""
        about = {"alpha", *self.mode.names.values()}
        return tuple(
            h
            for h in self.hypotheses
            if h.positive is not None and {s.name for s in _symbols(h.positive)} <= about
        )

    def evaluate(self, quantity: str | None = None, **values: Any) -> Any:
        """The right-hand side at numbers.

        Parameters
        ----------
        quantity : str, optional
            The name of a corollary; the statement itself by default.
        **values : float or array
            One per symbol, arrays broadcast; ``lam`` or ``curvature`` for lambda, ``step`` for alpha,
            ``damping`` for gamma. The method's own parameters are taken from the method where they are not
            given.

        Raises
        ------
        ValueError
            If a value is missing or unknown, or a hypothesis fails (`DoesNotHold`): the error names it.
        """
        equation, hypotheses = self.equation(quantity)
        if self.method is None and equation.rhs.atoms(AppliedUndef):
            raise ValueError(
                f"{self.name!r} holds for any gain: choose one, st.theorem({self.name!r}, "
                "method=st.SFN(damping=0.1)).evaluate(...)."
            )
        # Of the counts d alone may be missing: r is the method's, and d known only where a spectrum is given.
        symbols = _symbols(equation.rhs) | {s for s in equation.rhs.free_symbols if s.name == "d"}
        given = self._given(values)
        missing = sorted(_keyword(s) for s in symbols if s.name not in given)
        if missing:
            raise ValueError(f"{self.name!r} needs a value for {', '.join(missing)}.")
        self._check_shapes(equation.rhs, given)
        for hypothesis in hypotheses:
            self._require(hypothesis, given)
        # After the hypotheses, whose sentence says more: this catches what none of them speaks of.
        self._check_kinds(given)
        result = np.asarray(number(equation.rhs, given))
        return float(result) if result.ndim == 0 else result

    def _check_shapes(self, expression: Any, given: Mapping[str, np.ndarray]) -> None:
        """Spectra are lists of curvatures, matrices take single numbers, everything else broadcasts."""
        spectral = bool(expression.atoms(sympy.IndexedBase)) or any(
            s.name == "d" for s in expression.free_symbols
        )
        arrays = {
            name: value for name, value in given.items() if value.ndim and not (spectral and name == "lambda")
        }
        if spectral and "lambda" in given and given["lambda"].ndim > 1:
            raise ValueError(
                f"`lam` must be the list of curvatures, shape (d,); got shape {given['lambda'].shape}."
            )
        if (spectral or self.dim is not None) and arrays:
            raise ValueError(
                f"{self.name!r} takes single numbers beside a spectrum, and with full matrices; got arrays "
                f"for {', '.join(sorted(arrays))}."
            )
        try:
            np.broadcast_shapes(*(value.shape for value in arrays.values()))
        except ValueError:
            raise ValueError(
                "The values' shapes do not go together: "
                f"{', '.join(f'{k} {v.shape}' for k, v in sorted(arrays.items()))}."
            ) from None

    def _check_kinds(self, given: Mapping[str, np.ndarray]) -> None:
        """Standard deviations, times and counts take no other values, whatever the hypotheses speak of."""
        for symbol in self._all_symbols:
            value = given.get(symbol.name)
            if value is None or symbol.name.startswith("lambda"):
                continue
            if symbol.is_nonnegative and np.any(value < 0):
                raise ValueError(f"`{_keyword(symbol)}` must be >= 0; got {value}.")
            if symbol.is_integer and np.any(value != np.round(value)):
                raise ValueError(f"`{_keyword(symbol)}` must be a whole number; got {value}.")

    def takes(self, key: str) -> bool:
        """Whether `evaluate` takes a value under this name."""
        return self.symbol(key) in self._known

    @property
    def keywords(self) -> tuple[str, ...]:
        """The names under which `evaluate` takes values, each symbol's own."""
        return tuple(sorted(self._known.values()))

    @functools.cached_property
    def _all_symbols(self) -> set[Any]:
        """Symbols that `evaluate` takes.

        A value that this method happens not to depend on may be given too.
        """
        equations = [self.statement, *(c.equation for c in self.corollaries)]
        hypotheses = [*self.hypotheses, *(h for c in self.corollaries for h in c.hypotheses)]
        symbols = set().union(
            *(_symbols(e.rhs) for e in equations), *(_symbols(h.positive) for h in hypotheses)
        )
        return symbols | {
            s for step in self.derivation for s in step.equation.atoms(sympy.Symbol) if s.name in GIVEN
        }

    @functools.cached_property
    def _known(self) -> dict[str, str]:
        """What `evaluate` takes, name to keyword."""
        names = [
            *self.mode.names.values(),
            "d",
            *(["lambda_next"] if self.method is not None and self.method.rank is not None else []),
        ]
        return {s.name: _keyword(s) for s in self._all_symbols} | {
            name: name.replace("lambda", "lam") for name in names
        }

    def symbol(self, key: str) -> str:
        """The symbol meant by a keyword; a method's own parameter gives way to a symbol of the theory."""
        names = self.mode.names | {
            alias: name for name, aliases in ALIASES.items() for alias in aliases if name in self._known
        }
        free = {"lam", "step", "curvature"} | (set(self.mode.names) - set(self._known))
        if key in RESERVED - free:
            return key
        return names.get(key, key.replace("lam_", "lambda_") if key.startswith("lam_") else key)

    def _given(self, values: Mapping[str, Any], *, own: bool = True) -> dict[str, np.ndarray]:
        """Values by symbol name; the method's `own` parameters where they are not given."""
        known, given = self._known, dict(self.mode.values) if own else {}
        seen: dict[str, str] = {}
        for key, value in values.items():
            name = self.symbol(key)
            if name not in known:
                raise ValueError(f"{self.name!r} has no {key!r}; it takes {', '.join(self.keywords)}.")
            if name in seen:
                raise ValueError(f"`{seen[name]}` and `{key}` are the same value; give it once.")
            given[name], seen[name] = _check.array(key, value), key
        if "lambda" in given:
            given.setdefault("d", np.asarray(given["lambda"].size))
        if "d" in seen:
            count = _check.count("d", values["d"])
            if "lambda" in seen and given["lambda"].size != count:
                raise ValueError(
                    f"`d` = {count} is not the number of curvatures, {given['lambda'].size}. Leave it out."
                )
        return given

    def _require(self, hypothesis: Hypothesis, given: Mapping[str, Any]) -> None:
        # A hypothesis on a symbol that was not given is about another quantity of this theorem.
        if hypothesis.positive is None or not {s.name for s in _symbols(hypothesis.positive)} <= set(given):
            return
        with np.errstate(all="ignore"):
            # nan, as at a pole, does not hold either.
            holds = np.asarray(number(hypothesis.positive, given)) > 0
        if not np.all(holds):
            wanted = {
                s for s in hypothesis.positive.free_symbols if isinstance(s, sympy.Symbol) and s.name in given
            }
            shown = ", ".join(f"{_keyword(s)} = {given[s.name]}" for s in sorted(wanted, key=str))
            raise DoesNotHold(
                f"{self.name!r} does not hold here: it needs that {hypothesis.text}; got {shown}."
            )


def number(expression: Any, given: Mapping[str, Any]) -> Any:
    """A SymPy expression at numbers, by name of symbol; spectra are given as arrays (d,), largest first."""
    bases, counts = _asked(expression)
    # SymPy's sums count from one; a tail of no modes still reads the curvature after the last.
    spectra = [
        np.concatenate([[np.nan], np.sort(np.atleast_1d(given[str(base)]))[::-1], [1.0]]) for base in bases
    ]
    # Limits of sums: the compiled sum runs over a `range`, whose ends must be integers.
    whole = tuple((symbol, int(given[symbol.name])) for symbol in counts if symbol.name in given)
    slots, function, plain = _compiled(expression, whole)
    inputs = [np.asarray(given[name], dtype=float) for name in slots]
    if plain:
        return function(*spectra, *inputs)
    # An exponentially long time is infinite as a float: its logarithm is a corollary.
    with np.errstate(over="ignore"):
        return np.vectorize(lambda *x: float(function(*x)), otypes=[float])(*inputs)


# A picture or a check asks for the same few expressions hundreds of times, and to walk one takes as long as
# to compute it: what it asks for, and its function, are kept.
@functools.lru_cache(maxsize=1024)
def _asked(expression: Any) -> tuple[list[Any], list[Any]]:
    """The spectra that an expression is of, and the counts in it."""
    bases = sorted(expression.atoms(sympy.IndexedBase), key=str)
    return bases, sorted((s for s in expression.free_symbols if s.name in _COUNTS), key=str)


class _Compiled(NamedTuple):
    slots: list[str]  # names of its arguments, after the spectra
    function: Callable[..., Any]
    plain: bool  # whether NumPy has all of it, and arrays are taken


@functools.lru_cache(maxsize=1024)
def _compiled(expression: Any, whole: tuple[tuple[Any, int], ...]) -> _Compiled:
    """The expression as a function; SymPy prints it from its own tree, no text of a user's is in it."""
    bases, _ = _asked(expression)
    expression = expression.subs(dict(whole))
    slots = sorted(_symbols(expression) - {base.label for base in bases}, key=str)
    expression = expression.xreplace({sympy.zoo: sympy.nan})  # a branch at a pole: no hypothesis holds there
    plain = not expression.has(sympy.hyper)  # 2F2 is in mpmath only, neither in NumPy nor in SciPy
    modules = [_NUMERIC, "numpy"] if plain else "mpmath"
    arguments = [*bases, *slots] if plain else slots
    return _Compiled([s.name for s in slots], sympy.lambdify(arguments, expression, modules=modules), plain)


def _decimal(value: Any) -> Any:
    """A number as the fraction that its shortest decimal is."""
    return sympy.Rational(repr(float(value)))


def _float(fraction: Any) -> Any:
    """A fraction as a decimal of few digits, unless it is a root's or a small one that is read as it is."""
    return fraction if fraction.q <= 4 else sympy.Float(fraction, 6)


def _radius(matrix: Any) -> float:
    return float(np.max(np.abs(np.linalg.eigvals(np.asarray(matrix, dtype=float)))))


def _largest(C: Any, *factors: Any) -> float:
    """The largest eigenvalue of ``C^-1`` times the product of the factors."""
    # With P^(1/2) taken to either side, C and the product are
    # symmetric, C positive: the eigenvalues are real but for rounding.
    whole = functools.reduce(np.matmul, (np.asarray(factor, dtype=float) for factor in factors))
    return float(np.max(np.real(np.linalg.eigvals(np.linalg.solve(np.asarray(C, dtype=float), whole)))))


def _least(matrix: Any) -> float:
    return float(np.linalg.eigvalsh(np.asarray(matrix, dtype=float))[0])


def _lyapunov(A: Any, Q: Any) -> np.ndarray:
    """M of ``A M + M A' = Q``."""
    from scipy.linalg import solve_continuous_lyapunov

    return solve_continuous_lyapunov(np.asarray(A, dtype=float), np.asarray(Q, dtype=float))


def _erf(values: Any) -> Any:
    """The error function, which NumPy does not have."""
    from scipy.special import erf

    return erf(values)


_NUMERIC = {"erf": _erf, "rho": _radius, "lambda_max": _largest, "lambda_min": _least, "lyapunov": _lyapunov}


# How many curvatures, and how many of them are kept: integers, known from the spectrum and the method.
_COUNTS = ("d", "r")


@functools.lru_cache(maxsize=1024)
def _symbols(expression: Any) -> frozenset[Any]:
    """The symbols that a value is wanted for: a spectrum counts once, its index and its length not at all."""
    if expression is None:
        return frozenset()
    free = {s for s in expression.free_symbols if isinstance(s, sympy.Symbol)}
    return frozenset(s for s in free if s.name not in (*_COUNTS, "i"))


def _keyword(symbol: Any) -> str:
    return symbol.name.replace("lambda", "lam")


def indented(equation: Any) -> str:
    """An equation in characters, as sheets show it."""
    return "\n".join("      " + line for part in _parts(equation) for line in part.splitlines())


def _drawn(equation: Any) -> str:
    return sympy.pretty(equation, use_unicode=True, wrap_line=False, full_prec=False)


def _width(shown: str) -> int:
    return max(map(len, shown.splitlines()))


def _parts(equation: Any) -> Iterator[str]:
    """An equation in characters; where it is too wide, parts of it get names and lines of their own."""
    # What a sum or an integral runs over means nothing outside it, and a derivative is of the gain itself.
    bound = {symbol for one in equation.atoms(sympy.Sum, sympy.Integral) for symbol in one.bound_symbols}
    lines = [equation]
    for place, line in enumerate(lines):  # a part may be too wide itself: what gets a name comes after
        while (part := _too_wide(line, bound)) is not None:
            name = sympy.Symbol(f"z_{len(lines)}")
            # By sides: SymPy would weigh a symbol against a matrix, and say that they differ.
            line = line.func(*(side.xreplace({part: name}) for side in line.args), evaluate=False)
            lines.append(sympy.Eq(name, part, evaluate=False))
        lines[place] = line
    yield _drawn(lines[0])
    if lines[1:]:
        yield "with"
        yield from map(_drawn, lines[1:])


def _too_wide(equation: Any, bound: set[Any]) -> Any:
    """What gets a name, so that an equation is less wide; None where it has room, or nothing would help."""
    if _width(_drawn(equation)) <= WIDEST - 6:
        return None
    counts = Counter(
        part
        for part in sympy.preorder_traversal(equation)
        if part.args and not isinstance(part, AppliedUndef) and not part.free_symbols & bound
    )
    # By how much shorter the equation becomes.
    saved = {part: (count - 1) * len(str(part)) for part, count in counts.items() if count > 1}
    if not saved:  # nothing is repeated: the longest part that has a line's room gets a name
        sides = (equation, *equation.args)
        long = {part: len(str(part)) for part in counts if part not in sides}
        saved = {part: size for part, size in long.items() if _width(_drawn(part)) <= WIDEST - 12}
    return max(saved, key=lambda part: (saved[part], str(part)), default=None)
