"""Formulas as people type them: a tree by Python's own grammar, of which only what is on a list is taken.

No text is ever run. `^` is a power, as in a notebook: in Python's grammar it would be a weaker operator than
`+`.
"""

from __future__ import annotations

import ast
import difflib
import math
import re
import warnings
from collections.abc import Sequence

from ._exponentials import Steady
from ._graph import FUNCTIONS, Graph, TooLarge, Undefined

LONGEST = 10_000
"""Characters."""
DEEPEST = 80
"""Parentheses, powers and functions inside each other."""
MOST_NODES = 5_000
MOST_VARIABLES = 200
MOST_DIGITS = 40
LARGEST_POWER = 100
CONSTANTS = {"pi": math.pi, "e": math.e}
_INNER = {"expm1", "log1p", "logcosh", "sech", "sign"}
KNOWN = {name: name for name in FUNCTIONS if name not in _INNER} | {
    "ln": "log",
    "arcsin": "asin",
    "arccos": "acos",
    "arctan": "atan",
}
"""Functions by the names that they may be called by."""
_STRANGE = re.compile(r"[^A-Za-z0-9_+\-*/^().\s]")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


class Refused(ValueError):
    """The formula cannot be read; the message says why, and what to write instead."""


def read(text: object, variables: Sequence[str] | None = None) -> tuple[Graph, int, tuple[str, ...]]:
    """A formula as a graph, its node in it, and its variables: where none are given those it has, sorted.

    Raises
    ------
    Refused
    """
    source = _checked(text)
    tree = _parsed(source)
    names = _variables(sorted(_names(tree), key=_natural) if variables is None else variables)
    graph = Steady()
    try:
        root = _Walk(graph, {name: graph.variable(i) for i, name in enumerate(names)}).read(tree, 0)
    except Undefined as error:
        raise Refused(f"The expression has no value anywhere: {error}.") from None
    except TooLarge as error:
        raise Refused(f"The expression is too long: {error}. Shorten it.") from None
    if not names:
        raise Refused("The expression has no variables: write, for instance, x^2 + y^2.")
    return graph, root, names


def _checked(text: object) -> str:
    if not isinstance(text, str):
        raise Refused(
            f"The expression must be text such as 'x^4/4 - x^2/2 + y^2'; got {type(text).__name__}."
        )
    if len(text) > LONGEST:
        raise Refused(
            f"The expression must have at most {LONGEST:,} characters; got {len(text):,}. Shorten it, or "
            "write an st.Objective."
        )
    if not text.strip():
        raise Refused("The expression is empty: write, for instance, x^2 + y^2.")
    strange = _STRANGE.search(text)
    if strange:
        character = strange.group()
        told = (
            repr(character)
            if character.isascii()
            else f"{character!r} (U+{ord(character):04X}), which is not plain ASCII"
        )
        hint = {
            "=": "Write one side only, without '='. ",
            ",": "Use '.' for decimals; functions take one argument. ",
            "[": "Use round brackets. ",
        }.get(character, "")
        raise Refused(
            f"The expression holds {told}. {hint}It may use letters, digits, + - * / ^ ** ( ) and the "
            "decimal point."
        )
    # Before Python parses it: beyond 4300 digits it refuses whole numbers in words of its own.
    if re.search(rf"\d{{{MOST_DIGITS + 1},}}", text.replace("_", "")):
        raise Refused(f"The expression holds a number of more than {MOST_DIGITS} digits. Write it as 1.5e20.")
    # "2x" and "2(x + 1)"; no e or E, for 2e5 is a number.
    missing = re.search(r"(?<![A-Za-z0-9_.])(\d+\.?\d*)\s*([A-DF-Za-df-z(][A-Za-z0-9_]*)", text)
    if missing:
        raise Refused(
            f"A sign is missing after {missing.group(1)}: write {missing.group(1)}*{missing.group(2)} for a "
            "product."
        )
    # A line break would end the expression in Python's grammar.
    return " ".join(text.split()).replace("^", "**")


def _parsed(source: str) -> ast.expr:
    try:
        with warnings.catch_warnings(action="ignore"):  # of Python's own about what is refused below
            return ast.parse(source, mode="eval").body
    except (RecursionError, MemoryError):
        raise Refused(
            "The expression is nested too deep, or a sum of too many terms. Shorten it, or write an "
            "st.Objective."
        ) from None
    except (SyntaxError, ValueError) as error:
        where = f" near character {error.offset}" if isinstance(error, SyntaxError) and error.offset else ""
        shown = source if len(source) <= 60 else source[:57] + "..."
        raise Refused(
            f"The expression {shown.replace('**', '^')!r} cannot be read{where}: check its brackets and "
            "signs."
        ) from None


def _names(tree: ast.expr) -> set[str]:
    """What is neither called nor a constant."""
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    return {
        node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and id(node) not in called
    } - set(CONSTANTS)


def _natural(name: str) -> list[tuple[int, int | str]]:
    """x2 before x10."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.findall(r"\d+|\D+", name)]


def _variables(variables: Sequence[str]) -> tuple[str, ...]:
    names = tuple(variables.replace(",", " ").split()) if isinstance(variables, str) else tuple(variables)
    if len(names) > MOST_VARIABLES:
        raise Refused(f"There may be at most {MOST_VARIABLES} variables; got {len(names)}.")
    for name in names:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise Refused(f"A variable's name must be letters, digits and _, a letter first; got {name!r}.")
        if name in KNOWN or name in CONSTANTS:
            what = (
                "a number"
                if name in CONSTANTS
                else f"a function, which needs its argument in brackets, as in {name}(x)"
            )
            raise Refused(f"A variable cannot be called {name!r}: that is {what}.")
    if len(set(names)) != len(names):
        raise Refused(f"Variables must have different names; got {', '.join(names)}.")
    return names


class _Walk:
    """One walk over the tree: every node is one of a few kinds, or refused."""

    def __init__(self, graph: Graph, places: dict[str, int]):
        self.graph, self.places, self.count = graph, places, 0

    def read(self, node: ast.expr, depth: int) -> int:
        self.count += 1
        if depth > DEEPEST:
            raise Refused(f"The expression is nested more than {DEEPEST} deep. Simplify it.")
        if self.count > MOST_NODES:
            raise Refused(
                f"The expression has more than {MOST_NODES:,} parts. Shorten it, or write an st.Objective."
            )
        if isinstance(node, ast.BinOp):
            return self._chain(node, depth)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
            inner = self.read(node.operand, depth + 1)
            return self.graph.neg(inner) if isinstance(node.op, ast.USub) else inner
        if isinstance(node, ast.Constant):
            return self._number(node.value)
        if isinstance(node, ast.Name):
            return self._name(node.id)
        if isinstance(node, ast.Call):
            return self._call(node, depth)
        raise Refused(
            _KINDS.get(type(node).__name__, "The expression holds something that is no formula.")
            + " It may use + - * / ^, brackets and functions."
        )

    def _chain(self, node: ast.expr, depth: int) -> int:
        """A long sum, whose left side is gone down in a loop.

        A sum of a thousand terms is nested a thousand deep there.
        """
        chain: list[ast.BinOp] = []
        while isinstance(node, ast.BinOp):
            chain.append(node)
            node = node.left
        result = self.read(node, depth + 1)
        for one in reversed(chain):
            self.count += 1
            result = self._binary(one, result, self.read(one.right, depth + 1))
        return result

    def _binary(self, node: ast.BinOp, left: int, right: int) -> int:
        graph = self.graph
        if isinstance(node.op, ast.Pow):
            power = graph.value(right)
            if power is not None and abs(power) > LARGEST_POWER:
                raise Refused(f"Powers may be at most {LARGEST_POWER}; got {power:g}.")
            return graph.pow(left, right)
        rules = {ast.Add: graph.add, ast.Sub: graph.sub, ast.Mult: graph.mul, ast.Div: graph.div}
        if type(node.op) not in rules:
            raise Refused("The expression uses an operator that is no formula's: use + - * / and ^.")
        return rules[type(node.op)](left, right)

    def _number(self, value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise Refused(f"The expression holds {value!r}, which is no real number.")
        number = float(value)  # at most MOST_DIGITS digits: no overflow
        if not math.isfinite(number):
            raise Refused("The expression holds a number too large for a computer's floating point.")
        return self.graph.number(number)

    def _name(self, name: str) -> int:
        if name in self.places:
            return self.places[name]
        if name in CONSTANTS:
            return self.graph.number(CONSTANTS[name])
        if name in KNOWN:
            raise Refused(f"{name} is a function and needs its argument in brackets, as in {name}(x).")
        near = difflib.get_close_matches(name, [*self.places, *KNOWN], n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise Refused(
            f"The expression uses {name!r}, which is no variable; the variables are "
            f"{_listed(self.places)}.{hint}"
        )

    def _call(self, node: ast.Call, depth: int) -> int:
        if not isinstance(node.func, ast.Name):
            raise Refused("A sign is missing before a bracket: write 2*(x + 1) for a product.")
        name = node.func.id
        if name not in KNOWN:
            if name in self.places or name in CONSTANTS or len(name) == 1:
                raise Refused(
                    f"A sign is missing between {name} and the bracket after it: write {name}*(...) for a "
                    "product."
                )
            near = difflib.get_close_matches(name, KNOWN, n=1)
            raise Refused(
                f"There is no function {name}{f'; did you mean {near[0]}?' if near else '.'} These are "
                f"known: {', '.join(sorted(KNOWN))}."
            )
        if len(node.args) != 1 or node.keywords or isinstance(node.args[0], ast.Starred):
            raise Refused(f"{name} takes one argument, in brackets: {name}(x).")
        return self.graph.apply(KNOWN[name], self.read(node.args[0], depth + 1))


def _listed(names: dict[str, int]) -> str:
    shown = list(names)
    return ", ".join(shown if len(shown) <= 8 else [*shown[:7], "...", shown[-1]])


_KINDS = {
    "Attribute": "The expression holds a dot between names, which is not allowed.",
    "Lambda": "The expression defines a function, which is not allowed.",
    "Compare": "The expression compares numbers; it must be one formula.",
    "BoolOp": "The expression holds and/or; it must be one formula.",
    "IfExp": "The expression holds if/else; it must be one formula.",
    "Tuple": "The expression holds several formulas; it must be one.",
}
