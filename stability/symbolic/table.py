"""One table: what each method does at every kind of critical point, read off its own gain."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import sympy

from .._display import Grid
from .._frames import Framed
from .._saving import Result
from ..methods.memory import Memory, undecayed
from ..methods.method import LRSFN, SFN, SGD, DampedNewton, Method, Newton, told_apart
from ..methods.metrics import Adam, RMSprop, SignSGD
from ..methods.momentum import Momentum
from .laws import poles, roots
from .limit import limited
from .memory import kind_of, pull, q
from .metrics import decay_of, metric_at, ridge_of, theta
from .mode import Mode, alpha, beta, c_gh, kick, lam, s_g, tidy
from .steps import largest
from .typeset import typeset

SIZE = sympy.Symbol("|lambda|", positive=True)
POINTS = ("minimum", "saddle", "maximum", "flat")


@dataclass(frozen=True)
class Row(Result):
    """A method at a kind of critical point; expressions in the curvature, None where there is nothing.

    Attributes
    ----------
    method, point, attracts : str
        At a saddle and at a maximum along a direction of negative curvature.
    rate, gain : sympy expressions
        ``a`` and ``phi``; the limit of vanishing curvature at a flat point. With a buffer those of small
        steps; of a metric where it has settled under gradient noise of variance ``sigma^2``.
    step_limit, mean_square_limit : sympy expressions or None
        The largest step with an exact Hessian, and with curvature noise of independent batches.
    """

    method: str
    point: str
    attracts: str
    rate: Any
    gain: Any
    step_limit: Any
    mean_square_limit: Any


@dataclass(frozen=True)
class MethodTable(Result, Framed):
    """Rows of `method_table`; prints as text, or as Markdown."""

    rows: tuple[Row, ...]
    methods: tuple[Method, ...] = ()

    def _kept(self) -> dict[str, Any]:
        return {"methods": self.methods}

    @classmethod
    def _restored(cls, **values: Any) -> MethodTable:
        return method_table(**values)

    def _columns(self) -> Mapping[str, Any]:
        names = ("method", "point", "attracts", "rate", "gain", "step_limit", "mean_square_limit")
        return {name: [getattr(row, name) for row in self.rows] for name in names}

    def _page(self) -> Iterator[str | Grid]:
        heads = ("method", "point", "attracts", "rate a", "noise gain phi", "largest step")
        rows = [
            (
                row.method,
                row.point,
                row.attracts,
                *(_text(x) for x in (row.rate, row.gain, row.step_limit, row.mean_square_limit)),
            )
            for row in self.rows
        ]
        yield Grid(((head, "") for head in (*heads, "with curvature noise")), rows)

    def _repr_latex_(self) -> str:
        heads = ("method", "point", "attracts", "a", r"\phi", "largest step", "with curvature noise")
        lines = [[head if head in ("a", r"\phi") else typeset(head) for head in heads]]
        for row in self.rows:
            words = (row.method, row.point, row.attracts)
            cells = (row.rate, row.gain, row.step_limit, row.mean_square_limit)
            shown = ["-" if cell is None else _latex(cell) for cell in cells]
            lines.append([*(typeset(word) for word in words), *shown])
        body = " \\\\\n".join(" & ".join(line) for line in lines)
        return f"$\\displaystyle\n\\begin{{array}}{{lllllll}}\n{body}\n\\end{{array}}$"

    def markdown(self) -> str:
        """One line per method, one column per kind of point."""
        methods = list(dict.fromkeys(row.method for row in self.rows))
        head = [
            "| method | minimum, `λ > 0` | saddle, along `λ < 0` | maximum | flat, `λ → 0` |",
            "|---|---|---|---|---|",
        ]
        by = {(row.method, row.point): row for row in self.rows}
        lines = []
        for method in methods:
            low, high, top, flat = (by[method, point] for point in POINTS)
            trapped = f", `α < {_text(high.step_limit)}`" if high.step_limit else ""
            cells = [
                f"attracts: {low.attracts}; `a = {_text(low.rate)}`, gain `{_text(low.gain)}`, `α < "
                f"{_text(low.step_limit)}`",
                f"attracts: {high.attracts}; `a = {_text(high.rate)}`, gain `{_text(high.gain)}`{trapped}",
                f"attracts: {top.attracts}, every direction as at a saddle",
                f"{flat.attracts}; `a = {_text(flat.rate)}`, gain `{_text(flat.gain)}`",
            ]
            lines.append("| " + _greek(" | ".join([method, *cells])) + " |")
        return "\n".join(head + lines)

    def to_json(self) -> list[dict[str, Any]]:
        """The rows in JSON's terms; expressions as LaTeX."""
        fields = ("rate", "gain", "step_limit", "mean_square_limit")
        return [
            {"method": row.method, "point": row.point, "attracts": row.attracts}
            | {key: None if getattr(row, key) is None else _latex(getattr(row, key)) for key in fields}
            for row in self.rows
        ]


def method_table(methods: Iterable[Method] | None = None) -> MethodTable:
    """What methods do at critical points: attracts, rate, noise gain, largest step.

    Parameters
    ----------
    methods : iterable of Method, optional
        The shipped ones by default. Of a truncated method the row is about its tail: kept modes are those of
        SFN.

    Returns
    -------
    MethodTable

    Examples
    --------
    >>> import stability as st
    >>> [(row.point, row.attracts) for row in st.gallery.method_table([st.Newton()]).rows]
    [('minimum', 'yes'), ('saddle', 'yes'), ('maximum', 'yes'), ('flat', 'singular')]
    """
    if methods is not None:
        methods = list(methods)
    else:
        methods = [SGD(), Newton(), DampedNewton(damping=1.0), SFN(damping=1.0)]
        methods += [LRSFN(rank=1, damping=1.0), LRSFN(rank=1, damping=1.0, tail="flat")]
        methods += [Momentum(SGD()), Momentum(SGD(), nesterov=True)]
        methods += [RMSprop(), Adam(), Adam(weight_decay=0.01), SignSGD()]
    with limited("the table"):
        pairs = zip(methods, told_apart(methods), strict=True)
        rows = [_named(row, label.removeprefix(one.label)) for one, label in pairs for row in _rows(one)]
        return MethodTable(tuple(rows), tuple(methods))


def _named(row: Row, mark: str) -> Row:
    """A row with what tells its method from others of its name."""
    return dataclasses.replace(row, method=row.method + mark) if mark else row


def _rows(method: Method) -> list[Row]:
    if not method.spectral:
        return _adaptive_rows(method)
    undecayed(method, "st.gallery.method_table")
    if method.memory is None:
        return _spectral_rows(method)
    return [_remembering(row, method.memory) for row in _spectral_rows(method.method)]  # type: ignore[attr-defined]


def _remembering(row: Row, memory: Memory) -> Row:
    """A row with a buffer: gain and rate are those of small steps, ``1 / (1 - beta)`` times as large."""
    kind, held = kind_of(memory.nesterov), 1 / (1 - beta)
    limits = [
        # 2 / limit is the pull, and what the limit loses to noise is the noise over the pull's square.
        None if row.step_limit is None else kind.mean.subs(pull, 2 / row.step_limit),
        None
        if row.mean_square_limit is None
        else kind.mean_square.subs({pull: 2 / row.step_limit, q: _noise(row)}),
    ]
    name = f"{row.method} + {'Nesterov' if memory.nesterov else 'momentum'}"
    return Row(name, row.point, row.attracts, held * row.rate, held * row.gain, *limits)


def _noise(row: Row) -> Any:
    return sympy.expand(sympy.simplify(row.step_limit / row.mean_square_limit - 1))


def _adaptive_rows(method: Method) -> list[Row]:
    """A metric's rows, where noise of variance sigma^2 is all that it sees: near a critical point."""
    mode = Mode(method)
    at, decay, ridge = metric_at(mode), decay_of(mode), ridge_of(mode)
    curvature = lam + ridge
    first = mode.parameters.get("beta1", sympy.Integer(0))
    # The average of gradients moves with (1 - beta1) of a new one; weights decay outside of it.
    B = sympy.Matrix(
        [[1 - alpha * decay - alpha * (1 - first) * pull, -alpha * first], [(1 - first) * pull, first]]
    )
    # The mean begins to swing where an eigenvalue is -1; of such a B that is linear in alpha.
    edge = sympy.Poly((B + sympy.eye(2)).det(), alpha)
    lost = sympy.collect(sympy.expand(-edge.coeff_monomial(alpha)), (pull, theta), func=sympy.factor)
    limit = (sympy.factor(edge.coeff_monomial(1)) / lost).subs(pull, at * curvature)
    noisy = None
    if method.linear and not decay:  # type: ignore[attr-defined]
        # Of an average the limits are those of heavy ball over 1 - beta1.
        square = kind_of(False).mean_square.subs({pull: at * curvature, q: s_g**2 / curvature**2})
        noisy = square.subs(beta, first) / (1 - first)
    rate, negative = -at * curvature - decay, at * (SIZE - ridge) - decay
    drawn = at * ridge + decay
    attracts = f"if |lambda| < {_text(tidy(drawn / at))}" if drawn else "no"
    flat = "yes: weights decay" if drawn else "no: it does not move"
    still = limit.subs(lam, 0) if drawn else None
    return [
        Row(mode.label, "minimum", "yes", rate, at, limit, noisy),
        Row(mode.label, "saddle", attracts, negative, at, None, None),
        Row(mode.label, "maximum", attracts, negative, at, None, None),
        Row(mode.label, "flat", flat, -drawn, at, still, None),
    ]


def _spectral_rows(method: Method) -> list[Row]:
    branch = "kept" if method.rank is None else "tail"
    low, high = Mode(method, branch, lam), Mode(method, branch, -SIZE)
    label = low.label
    # a = -phi lambda, where lambda = -|lambda| along a direction of negative curvature.
    rate, negative = tidy(low.phi * -lam), tidy(high.phi * SIZE)
    # |1 + step a| = 1.
    limit = tidy(-2 / rate)
    # As `mean-square-step-limit` derives it.
    noisy = largest(low, kick(low).subs(c_gh, 0))
    attracts = _attracts(method, branch, negative)
    trapped = tidy(-2 / negative) if attracts == "yes" else None
    near, gain = (_vanishing(low.phi * power, low) for power in (lam, 1))
    # A gain may be infinite from one side only: the row's expressions are those of small positive curvature.
    singular = gain.is_infinite or _vanishing(high.phi, high, SIZE).is_infinite
    flat = "singular" if singular else "no: it does not move"
    return [
        Row(label, "minimum", "yes" if rate.is_negative else "where phi > 0", rate, low.phi, limit, noisy),
        Row(label, "saddle", attracts, negative, high.phi, trapped, None),
        Row(label, "maximum", attracts, negative, high.phi, trapped, None),
        Row(label, "flat", flat, -near, gain, None if near == 0 else 2 / near, None),
    ]


def _vanishing(expression: Any, mode: Mode, size: Any = lam) -> Any:
    """The limit of vanishing curvature; where it depends on a parameter, at the parameter's own value."""
    try:
        return sympy.limit(expression, size, 0, "+")
    except NotImplementedError:
        return sympy.limit(mode.at_own_values(expression), size, 0, "+")


def _attracts(method: Method, branch: str, rate: Any) -> str:
    """Whether a direction of negative curvature decays; where the gain changes sign once, on which side."""
    if rate.is_negative or rate.is_positive:
        return "yes" if rate.is_negative else "no"
    unknown, mode = "where phi(lambda) < 0", Mode(method)
    if branch != "kept":
        return unknown
    try:
        zeros = roots(sympy.fraction(sympy.together(mode.gain(-SIZE)))[0], SIZE, mode)
    except ValueError:
        return unknown
    # Poles and zeros alike: a gain may change its sign at either, and does not where their order is even.
    edges = {-place: _own(mode, -place) for place, _, _ in poles(mode)} | {x: _own(mode, x) for x in zeros}
    ends = sorted(((at, edge) for edge, at in edges.items() if at > 0), key=lambda end: end[0])
    if not ends:
        return unknown
    sizes = [at for at, _ in ends]
    between = [sizes[0] / 2, *(0.5 * (x + y) for x, y in itertools.pairwise(sizes)), 2 * sizes[-1]]
    decays = [_own(mode, rate.subs(SIZE, x)) < 0 for x in between]
    turns = [k for k in range(len(ends)) if decays[k] != decays[k + 1]]
    if not turns:
        return "yes" if decays[0] else "no"
    if len(turns) > 1:
        return unknown
    return f"if |lambda| {'<' if decays[0] else '>'} {_text(ends[turns[0]][1])}"


def _own(mode: Mode, expression: Any) -> float:
    """An expression at the method's own parameters."""
    return complex(mode.at_own_values(expression).evalf()).real


def _greek(text: str) -> str:
    for name, letter in (
        ("|lambda|", "\\|λ\\|"),
        ("lambda", "λ"),
        ("gamma", "γ"),
        ("epsilon", "ε"),
        ("theta", "θ"),
        ("sigma", "σ"),
        ("beta", "β"),
    ):
        text = text.replace(name, letter)
    return text


def _latex(expression: Any) -> str:
    return sympy.latex(expression, symbol_names={SIZE: r"\left|\lambda\right|"})


def _text(expression: Any) -> str:
    if expression is None:
        return "-"
    return str(sympy.factor_terms(expression)).replace("**", "^").replace("oo", "inf")
