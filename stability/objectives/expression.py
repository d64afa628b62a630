"""Objectives that people type: a formula with exact derivatives, safe to take from a stranger."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from .. import _check
from .._array import as_floats, namespace
from .._saving import Kept
from . import _notation as notation
from ._advice import Refused
from ._digits import lost
from ._graph import Evaluator, Graph, TooLarge, Undefined
from ._reader import read
from .base import Objective

_EDGES = {
    "abs": (lambda x: x == 0, "abs has a corner"),
    "sign": (lambda x: x == 0, "sign jumps"),
    "sqrt": (lambda x: x <= 0, "sqrt has no derivative"),
    "log": (lambda x: x <= 0, "log is not defined"),
    "log1p": (lambda x: x <= -1, "log(1 + u) is not defined"),
    "sqrt1pm1": (lambda x: x <= -1, "sqrt(1 + u) has no derivative"),
    "asin": (lambda x: np.abs(x) >= 1, "asin has no derivative"),
    "acos": (lambda x: np.abs(x) >= 1, "acos has no derivative"),
}
"""Where a function is not smooth, by its argument."""
_NEAR, _NEARER = 2.0**-10, 2.0**-24
"""Of a point's size: where the gradient beside it is compared with the Hessian."""


def expression(text: str, variables: Sequence[str] | str | None = None, **parameters: float) -> Expression:
    """An objective from a formula, with exact gradient, Hessian and third derivatives.

    Parameters
    ----------
    text : str
        Numbers, variables, ``+ - * / ^`` (or ``**``), brackets, ``pi``, ``e`` and the functions abs, acos,
        asin, atan, cos, cosh, exp, log (ln), sin, sinh, sqrt, tan, tanh. ``^`` is a power: ``-x^2`` is
        ``-(x^2)``. What has one meaning on paper is read too: ``2x``, ``x y``, ``(x+1)(x-1)``, ``sin^2(x)``,
        ``|x|``, ``x²``, ``√x``, ``2·π``, Greek letters (by their names: ``α`` is ``alpha``). Nothing of it is
        ever run.
    variables : sequence of str, or str, optional
        Their names in the order of the state; by default those that the formula has, sorted (x2 before x10).
        A variable that is called ``E``, ``Pi``, ``I``, ``inf`` or ``nan`` must be listed.
    **parameters : float
        Numbers for names of the formula, which are then no variables.

    Returns
    -------
    Expression

    Raises
    ------
    ValueError
        If the text is no such formula, may mean two things, is too long, or undefined everywhere; the message
        says what to write instead.

    Examples
    --------
    >>> import stability as st
    >>> F = st.expression("x^4/4 - x^2/2 + y^2")
    >>> F.gradient([2.0, 1.0])
    array([6., 2.])
    >>> F.hessian([0.0, 0.0])
    array([[-1.,  0.],
           [ 0.,  2.]])
    >>> st.expression("a x² + 2|y|", a=0.5)
    expression 'a*x^2 + 2*abs(y)' of x, y; a = 0.5
    """
    graph, root, names, understood = read(text, variables, parameters)
    kept = {notation.name(name): float(value) for name, value in parameters.items()}
    return Expression(understood, names, graph, root, kept)


class Expression(Objective, Kept):
    """A formula as an objective; made by `expression`.

    Derivatives are taken when they are first asked for, on a graph in which equal parts are computed once.

    Attributes
    ----------
    text : str
        The formula as it was understood.
    variables : tuple of str
        One for each coordinate of the state.
    parameters : dict of float
        The numbers that names of the formula stand for.
    """

    def __init__(
        self, text: str, variables: tuple[str, ...], graph: Graph, root: int, parameters: dict[str, float]
    ):
        self.parameters = parameters
        self.text, self.variables, self.dim = text, variables, len(variables)
        self._graph, self._root = graph, root
        self._places = [graph.variable(i) for i in range(self.dim)]
        entries = self._entries  # derived at once: what is too large or undefined is said here
        varying = {place for place, node in entries.items() if graph.value(node) is None}
        # Behind a corner the slope is another one, though the curvature is the same: |x| is no quadratic.
        corners = any(graph.nodes[n][0] in _EDGES for n in graph.reached([root]))
        self.constant_hessian = not varying and not corners
        self.diagonal_hessian = all(i == j for i, j in entries)

    def __repr__(self) -> str:
        shown = self.text if len(self.text) <= 60 else self.text[:57] + "..."
        names = ", ".join(self.variables) if self.dim <= 8 else f"{self.dim} variables"
        numbers = ", ".join(f"{name} = {value:g}" for name, value in self.parameters.items())
        return f"expression {shown!r} of {names}" + (f"; {numbers}" if numbers else "")

    def _kept(self) -> dict[str, Any]:
        return {"text": self.text, "variables": list(self.variables), "parameters": self.parameters}

    @classmethod
    def _restored(cls, **values: Any) -> Any:
        return expression(values["text"], values["variables"], **values.get("parameters", {}))

    # -- derivation --------------------------------------------------------------------------------

    def _derived(self, what: str, derive: Any) -> Any:
        try:
            return derive()
        except TooLarge as error:
            raise Refused(
                f"The {what} of this expression needs {error}. Shorten it, or write an st.Objective."
            ) from None
        except Undefined as error:
            raise Refused(f"The {what} of this expression is not defined: {error}.") from None

    @cached_property
    def _slopes(self) -> list[int]:
        return self._derived("gradient", lambda: self._graph.gradient(self._root, self._places))

    @cached_property
    def _entries(self) -> dict[tuple[int, int], int]:
        """The Hessian's nodes on and below the diagonal, where they are not zero."""

        def derive() -> dict[tuple[int, int], int]:
            rows = [
                self._graph.gradient(slope, self._places[: i + 1]) for i, slope in enumerate(self._slopes)
            ]
            return {
                (i, j): node
                for i, row in enumerate(rows)
                for j, node in enumerate(row)
                if self._graph.value(node) != 0
            }

        return self._derived("Hessian", derive)

    @cached_property
    def _changes(self) -> dict[tuple[int, int], int]:
        """The Hessian's derivatives along a direction.

        Its coordinates are the variables after the state's.
        """

        def derive() -> dict[tuple[int, int], int]:
            # Along a direction, not by a third index: d^2 entries, where all third derivatives would be
            # d^3.
            directions = {place: self._graph.variable(self.dim + i) for i, place in enumerate(self._places)}
            found = self._graph.along(list(self._entries.values()), directions)
            return {
                place: node
                for place, node in zip(self._entries, found, strict=True)
                if self._graph.value(node) != 0
            }

        return self._derived("third derivative", derive)

    # -- evaluation --------------------------------------------------------------------------------

    @cached_property
    def _value(self) -> Evaluator:
        return Evaluator(self._graph, [self._root])

    @cached_property
    def _gradient(self) -> Evaluator:
        return Evaluator(self._graph, self._slopes)

    @cached_property
    def _hessian(self) -> Evaluator:
        return Evaluator(self._graph, list(self._entries.values()))

    @cached_property
    def _third(self) -> Evaluator:
        return Evaluator(self._graph, list(self._changes.values()))

    @cached_property
    def _planar(self) -> Evaluator:
        zero = self._graph.number(0.0)
        return Evaluator(
            self._graph,
            [*self._slopes, *(self._entries.get(place, zero) for place in ((0, 0), (1, 0), (1, 1)))],
        )

    @property
    def planar(self) -> Any:  # type: ignore[override]
        """``(x, y) -> (g1, g2, h11, h12, h22)`` in two dimensions; None in others."""
        return (lambda x, y: tuple(_quietly(self._planar, [x, y]))) if self.dim == 2 else None

    def value(self, w: Any) -> Any:
        """``F(w)``, (..., d) -> (...)."""
        return self._filled(w, self._value)[..., 0]

    def gradient(self, w: Any) -> Any:
        """(..., d) -> (..., d)."""
        return self._filled(w, self._gradient)

    def hessian(self, w: Any) -> Any:
        """(..., d) -> (..., d, d)."""
        return self._symmetric(self._state(w), self._hessian, self._entries)

    def hessian_diagonal(self, w: Any) -> Any:
        """The Hessian's diagonal: (..., d) -> (..., d)."""
        w = self._state(w)
        result = namespace(w).zeros_like(w)
        for (i, j), entry in zip(self._entries, _quietly(self._hessian, self._coordinates(w)), strict=True):
            if i == j:
                result[..., i] = entry
        return result

    def third(self, w: Any, v: Any) -> Any:
        """The Hessian's derivative along `v`: (..., d), (..., d) -> (..., d, d)."""
        xp = namespace(w, v)
        w, v = xp.broadcast_arrays(self._state(w), as_floats(v))
        return self._symmetric(w, self._third, self._changes, v)

    def _state(self, w: Any) -> Any:
        w = as_floats(w)
        if w.ndim == 0 or w.shape[-1] != self.dim:
            raise ValueError(
                f"The state must have shape (..., {self.dim}): {', '.join(self.variables[:8])}; got shape "
                f"{tuple(w.shape)}."
            )
        return w

    @staticmethod
    def _coordinates(*states: Any) -> list[Any]:
        return [state[..., i] for state in states for i in range(state.shape[-1])]

    def _filled(self, w: Any, evaluator: Evaluator) -> Any:
        """The evaluator's results side by side, (..., results)."""
        w = self._state(w)
        xp = namespace(w)
        result = xp.empty((*w.shape[:-1], len(evaluator.roots)), dtype=w.dtype, device=w.device)
        for i, found in enumerate(_quietly(evaluator, self._coordinates(w))):
            result[..., i] = found
        return result

    def _symmetric(self, w: Any, evaluator: Evaluator, places: dict[tuple[int, int], int], *more: Any) -> Any:
        result = namespace(w).zeros((*w.shape, self.dim), dtype=w.dtype, device=w.device)
        for (i, j), entry in zip(places, _quietly(evaluator, self._coordinates(w, *more)), strict=True):
            result[..., i, j] = entry
            result[..., j, i] = entry
        return result

    def status(self, w: Any) -> str:
        """``"ok"``, or what keeps the formula from being smooth, finite or accurate at one point.

        Accurate are a value and derivatives of which rounding leaves nine digits; the numbers are found once
        more in many digits (with mpmath), which takes milliseconds, of the longest formulas seconds.

        Parameters
        ----------
        w : array, shape (d,)

        Examples
        --------
        >>> import stability as st
        >>> st.expression("sqrt(x^2 + 1) - x").status([1e8])
        'not accurate: its value is 0 and should be 5e-09; digits are lost where near numbers are subtracted'
        """
        w = _check.shaped("w", w, (self.dim,))
        return self._corner(w) or self._overflow(w) or self._loss(w) or "ok"

    def kink(self, w: Any) -> str:
        """What keeps the formula from having second derivatives at one point; empty where nothing does.

        ``abs(x)^3`` has them at 0, ``abs(x)`` and ``x*abs(x)`` do not.

        Parameters
        ----------
        w : array, shape (d,)

        Examples
        --------
        >>> import stability as st
        >>> st.expression("x^2 + abs(x)").kink([0.0])
        'not smooth: abs has a corner at 0'
        """
        w = _check.shaped("w", w, (self.dim,))
        told = self._corner(w)
        return told if told and self._torn(w) else ""

    def _torn(self, w: np.ndarray) -> bool:
        """Whether the gradient beside a point stays off what the Hessian there says, however near."""
        # Along every axis, and along one direction that is on none of a formula's symmetries.
        axes = np.vstack([np.eye(self.dim), np.cos(np.arange(self.dim))])
        directions = np.vstack([axes, -axes])
        gradient, pushed = self.gradient(w), directions @ self.hessian(w)
        length = float(np.abs(w).max()) or 1.0

        def gap(share: float) -> float:
            change = self.gradient(w + share * length * directions) - gradient
            return float(np.max(np.abs(change / (share * length) - pushed)))

        near, nearer = gap(_NEAR), gap(_NEARER)
        # A smooth gradient's gap falls with the distance; a kink's stays. `not <=` counts nan as a kink.
        return not nearer <= max(0.25 * near, 1e-6 * float(np.max(np.abs(pushed))))

    def _corner(self, w: np.ndarray) -> str:
        graph = self._graph
        inner = [
            (kind, parts)
            for kind, *parts in (graph.nodes[n] for n in graph.reached([self._root]))
            if kind in _EDGES or kind in ("div", "pow")
        ]
        found = _quietly(
            Evaluator(graph, [parts[0 if kind in _EDGES or kind == "pow" else 1] for kind, parts in inner]),
            list(w),
        )
        for (kind, parts), argument in zip(inner, found, strict=True):
            told = self._edge(kind, graph.value(parts[1]) if kind == "pow" else None, float(argument))
            if told:
                return told
        return ""

    def _overflow(self, w: np.ndarray) -> str:
        whole = [self.value(w), *self.gradient(w), *self.hessian(w).ravel()]
        finite = np.isfinite(whole).all()
        return "" if finite else "not finite: its value or a derivative overflows, or is not defined"

    def _loss(self, w: np.ndarray) -> str:
        """Of third derivatives, where they are not too many.

        In few dimensions along every axis, in many along one direction, which stands for all.
        """
        for what, evaluator in (
            ("value", self._value),
            ("gradient", self._gradient),
            ("Hessian", self._hessian),
        ):
            told = self._lost(what, evaluator, list(w))
            if told:
                return told
        few = np.eye(self.dim) if self.dim <= 4 else [np.where(np.arange(self.dim) % 2, -0.5, 1.0)]
        try:
            every = [self._lost("third derivative", self._third, [*w, *direction]) for direction in few]
        except Refused:
            return ""
        return next(filter(None, every), "")

    def _lost(self, what: str, evaluator: Evaluator, point: list[float]) -> str:
        if not np.isfinite(np.array(_quietly(evaluator, point), dtype=float)).all():
            return f"not finite: its {what} overflows, or is not defined"
        found = lost(self._graph, evaluator, point, self.dim) if evaluator.roots else None
        if not found:
            return ""
        number, right = found
        if np.isnan(right):
            return f"not accurate: a part of its {what} overflows, or divides by zero"
        return (
            f"not accurate: its {what} is {number:.10g} and should be {right:.10g}; digits are lost where "
            "near numbers are subtracted"
        )

    @staticmethod
    def _edge(kind: str, power: float | None, argument: float) -> str:
        if kind in _EDGES:
            at, what = _EDGES[kind]
            return f"not smooth: {what} at {argument:g}" if at(argument) else ""
        if kind == "div":
            return "not finite: it divides by zero" if argument == 0 else ""
        whole = power is not None and power == int(power)
        if whole and (power or 0) >= 0:
            return ""
        return (
            f"not smooth: a power that is not whole, of {argument:g}"
            if argument < 0 or (argument == 0)
            else ""
        )


def _quietly(evaluator: Evaluator, variables: list[Any]) -> list[Any]:
    """Outside its domain a formula is nan or infinite, and says so by that alone."""
    with np.errstate(all="ignore"):
        return evaluator(variables)
