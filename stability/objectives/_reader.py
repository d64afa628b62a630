"""Formulas as people type them, read into a graph by a grammar of a dozen rules.

No text is ever run. What has one meaning on paper is read (``2x``, ``sin^2(x)``, ``|x|``), and the formula
kept as it was understood; of what has two, the error writes both out.
"""

from __future__ import annotations

import difflib
import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence

from .. import _check
from . import _notation as notation
from ._exponentials import Steady
from ._graph import FUNCTIONS, SMALLEST, Graph, TooLarge, Undefined
from ._notation import Word

LONGEST = 10_000
"""Characters."""
DEEPEST = 80
"""Parentheses, powers and functions inside each other."""
MOST_NODES = 5_000
MOST_VARIABLES = 200
MOST_DIGITS = 40
LARGEST_POWER = 100
SHOWN = 80
"""Characters of a formula that an error writes out."""
CONSTANTS = {"pi": math.pi, "e": math.e}
_INNER = {"expm1", "log1p", "logcosh", "logslope", "sech", "sign", "sqrt1pm1"}
KNOWN = {name: name for name in FUNCTIONS if name not in _INNER} | {
    "ln": "log",
    "arcsin": "asin",
    "arccos": "acos",
    "arctan": "atan",
}
"""Functions by the names that they may be called by."""
_POWERS_FIRST = {"sin": "asin", "cos": "acos", "tan": "atan", "sinh": "", "cosh": "", "tanh": ""}
"""Functions whose power may be written before the argument, and what -1 there may mean."""
_INSTEAD = {
    **dict.fromkeys(("log10", "lg"), "(log({0})/log(10))"),
    **dict.fromkeys(("log2", "ld"), "(log({0})/log(2))"),
    "sec": "(1/cos({0}))",
    "csc": "(1/sin({0}))",
    "cot": "(1/tan({0}))",
    "sech": "(1/cosh({0}))",
    "csch": "(1/sinh({0}))",
    "coth": "(1/tanh({0}))",
    **dict.fromkeys(("asinh", "arcsinh", "arsinh"), "log({0} + sqrt(({0})^2 + 1))"),
    **dict.fromkeys(("acosh", "arccosh", "arcosh"), "log({0} + sqrt(({0})^2 - 1))"),
    **dict.fromkeys(("atanh", "arctanh", "artanh"), "(log((1 + {0})/(1 - ({0})))/2)"),
    **dict.fromkeys(("sigmoid", "logistic", "expit"), "(1/(1 + exp(-({0}))))"),
    "softplus": "log(1 + exp({0}))",
    "relu": "(({0} + abs({0}))/2)",
    **dict.fromkeys(("sign", "sgn"), "(({0})/abs({0}))"),
    "expm1": "(exp({0}) - 1)",
    "log1p": "log(1 + {0})",
    "square": "({0})^2",
    "fabs": "abs({0})",
}
"""Functions that are known elsewhere, in terms of those that are known here."""
_NO_VARIABLES = {
    **dict.fromkeys(("Pi", "PI"), ("the number 3.14159...", "pi")),
    "E": ("the number 2.71828...", "e"),
    **dict.fromkeys(
        ("inf", "Inf", "INF", "infinity", "Infinity", "oo"), ("infinity, which no formula may hold", "")
    ),
    **dict.fromkeys(("nan", "NaN", "NAN", "Nan"), ("no number", "")),
    "I": ("the imaginary unit, which no formula may hold", ""),
}
"""Names that are variables only where they are listed, their meaning elsewhere, how that is written here."""
_WORDS = {
    **dict.fromkeys(
        ("if", "else", "elif", "otherwise"), "The expression holds if/else; it must be one formula."
    ),
    **dict.fromkeys(("and", "or"), "The expression holds and/or; it must be one formula."),
    **dict.fromkeys(("True", "False", "None"), "The expression holds {0}, which is no real number."),
    **dict.fromkeys(
        ("not", "for", "in", "is", "while", "def", "return", "import", "where"),
        "The expression holds the word {0!r}, which is no formula.",
    ),
}
_HINTS = {
    "=": "Write one side only, without '='. ",
    ",": "Use '.' for decimals; functions take one argument: x^2 for pow(x, 2), (x+y+abs(x-y))/2 for "
    "max(x, y). ",
    "[": "Use round brackets. ",
    "]": "Use round brackets. ",
    "%": "Write a percentage as x/100. ",
    "\\": "Write sqrt(x) for \\sqrt{x} and ((a)/(b)) for \\frac{a}{b}. ",
    "$": "Leave the dollar signs out. ",
    "!": "It has no factorials. ",
    "½": "Write (1/2). ",
    "¼": "Write (1/4). ",
    "¾": "Write (3/4). ",
    "°": "Angles are in radians: write pi/180 for a degree. ",
    "∞": "No formula may hold infinity. ",
    "∂": "Derivatives are taken for you. ",
    "∑": "Write the terms of the sum out. ",
    "Σ": "Write the terms of the sum out. ",
    "Π": "Write pi for the number, or the factors of the product out. ",
}
_LIBRARIES = ("np", "numpy", "jnp", "math", "torch", "sympy", "sp", "cp", "tf")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_CLOSING = {"(": ")", "{": "}"}


class Refused(ValueError):
    """The formula cannot be read; the message says why, and what to write instead."""


class _Unclear(Exception):
    """A refusal with what may be meant: edits of the text, shown where their text can be read."""

    def __init__(self, message: str, *meant: Sequence[tuple[int, int, str]]):
        super().__init__(message)
        self.meant = meant


def read(
    text: object, variables: Sequence[str] | None = None, parameters: Mapping[str, float] | None = None
) -> tuple[Graph, int, tuple[str, ...], str]:
    """A formula as a graph, its node in it, its variables' names, and its text as it was understood.

    The variables are those that it has, sorted, where none are given.

    Raises
    ------
    Refused
    """
    source = notation.plain(_checked(text))
    given = None if variables is None else _listed_names(variables)
    numbers = _numbers(parameters or {}, given or ())
    try:
        return _read(source, given, numbers)
    except _Unclear as unclear:
        ways = [way for edits in unclear.meant if _reads(way := _edited(source, edits), given, numbers)]
        told = " or ".join(map(_shortened, dict.fromkeys(ways)))
        raise Refused(f"{unclear}: write {told}." if told else f"{unclear}.") from None


def _read(
    source: str, given: tuple[str, ...] | None, numbers: dict[str, float]
) -> tuple[Graph, int, tuple[str, ...], str]:
    try:
        words = notation.words(source)
    except notation.Strange as strange:
        raise _strange(source, str(strange)) from None
    for before, dot, after in zip(words, words[1:], words[2:], strict=False):
        if dot.text == "." and after.kind == "name":
            message = "The expression holds a dot between names, which is not allowed"
            library = before.kind == "name" and before.text in _LIBRARIES
            raise _Unclear(message, *[[(before.start, after.start, "")]] * library)
    names = _variables(words, numbers) if given is None else given
    graph = Steady()
    places = {name: graph.variable(i) for i, name in enumerate(names)}
    reading = _Reading(graph, source, words, places | {n: graph.number(v) for n, v in numbers.items()}, given)
    try:
        root = reading.whole()
    except Undefined as error:
        raise Refused(f"The expression has no value anywhere: {error}.") from None
    except TooLarge as error:
        raise Refused(f"The expression is too long: {error}. Shorten it.") from None
    if not names:
        raise Refused("The expression has no variables: write, for instance, x^2 + y^2.")
    unused = sorted(set(numbers) - {word.text for word in words})
    if unused:
        near = difflib.get_close_matches(unused[0], names, n=1)
        raise Refused(
            f"The expression has no {unused[0]!r} to set{f'; did you mean {near[0]}?' if near else '.'} "
            f"It has {_some(names)}."
        )
    return graph, root, names, " ".join(_edited(source, reading.edits).replace("**", "^").split())


def _reads(source: str, given: tuple[str, ...] | None, numbers: dict[str, float]) -> bool:
    """Whether a text can be read: no advice is given that leads to another refusal."""
    try:
        _read(source, given, numbers)
    except (Refused, _Unclear):
        return False
    return True


def _edited(source: str, edits: Sequence[tuple[int, int, str]]) -> str:
    # From the end; of two at one place the later is put in first, so that it stands behind.
    for start, end, instead in sorted(edits, key=lambda edit: edit[:2])[::-1]:
        source = source[:start] + instead + source[end:]
    return source


def _shortened(text: str) -> str:
    text = " ".join(text.replace("**", "^").split())
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


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
    return text


def _strange(source: str, character: str) -> Exception:
    told = (
        repr(character)
        if character.isascii()
        else f"{character!r} (U+{ord(character):04X}), which is not plain ASCII"
    )
    message = (
        f"The expression holds {told}. {_HINTS.get(character, '')}It may use letters, digits, + - * / ^ ( ) "
        "and the decimal point"
    )
    at = source.index(character)
    if character == "=" and "=" not in source[at + 1 :]:
        return _Unclear(message, [(0, at + 1, "")])
    if character in "[]":
        pairs = [(i, i + 1, "(" if c == "[" else ")") for i, c in enumerate(source) if c in "[]"]
        return _Unclear(message, pairs)
    return Refused(message + ".")


def _natural(name: str) -> list[tuple[int, int | str]]:
    """x2 before x10."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.findall(r"\d+|\D+", name)]


def _listed_names(variables: Sequence[str]) -> tuple[str, ...]:
    names = variables.replace(",", " ").split() if isinstance(variables, str) else list(variables)
    if len(names) > MOST_VARIABLES:
        raise Refused(f"There may be at most {MOST_VARIABLES} variables; got {len(names)}.")
    found = tuple(_allowed(name, "variable") for name in names)
    if len(set(found)) != len(found):
        raise Refused(f"Variables must have different names; got {', '.join(found)}.")
    return found


def _allowed(given: object, what: str) -> str:
    name = notation.name(given) if isinstance(given, str) else ""
    if not _NAME.fullmatch(name):
        raise Refused(f"A {what}'s name must be letters, digits and _, a letter first; got {given!r}.")
    if name in KNOWN or name in CONSTANTS:
        meant = (
            "a number"
            if name in CONSTANTS
            else f"a function, which needs its argument in brackets, as in {name}(x)"
        )
        raise Refused(f"A {what} cannot be called {name!r}: that is {meant}.")
    return name


def _numbers(parameters: Mapping[str, float], variables: Sequence[str]) -> dict[str, float]:
    """The parameters' values by their names."""
    found: dict[str, float] = {}
    for given, value in parameters.items():
        name = _allowed(given, "parameter")
        if name in variables:
            raise Refused(f"{name!r} is both a variable and a parameter: leave it out of one of them.")
        try:
            number = math.nan if isinstance(value, (bool, str, complex)) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if 0 < abs(number) < SMALLEST:
            raise Refused(
                f"The parameter {name!r} is too small for a computer's numbers (below {SMALLEST:.1e}): "
                "change the units, or set it to 0."
            )
        if not math.isfinite(number):
            raise Refused(
                f"The parameter {name!r} must be a finite number; got {_check.shown(value)}. Set it as "
                f"{name}=2.0."
            )
        found[name] = number
    return found


def _variables(words: Sequence[Word], numbers: Mapping[str, float]) -> tuple[str, ...]:
    """The names in a formula that are neither called nor numbers, nor look like something else."""
    found: set[str] = set()
    for word, after in itertools.pairwise(words):
        own = word.text not in KNOWN and word.text not in CONSTANTS and after.text != "("
        if word.kind == "name" and own:
            found.add(word.text)
    found -= set(numbers)
    for word in words:
        if word.kind == "name" and word.text in found:
            _look(word, found)
    names = tuple(sorted(found, key=_natural))
    if len(names) > MOST_VARIABLES:
        raise Refused(f"There may be at most {MOST_VARIABLES} variables; got {len(names)}.")
    return names


def _look(word: Word, names: set[str]) -> None:
    """Refuse what is hardly meant as a variable."""
    name, place = word.text, (word.start, word.end)
    if name in _WORDS:
        raise Refused(_WORDS[name].format(name))
    if not _NAME.fullmatch(name):
        raise Refused(f"A variable's name must be letters, digits and _, a letter first; got {name!r}.")
    listed = f"a variable of this name must be listed, variables={sorted(names, key=_natural)}"
    if name in _NO_VARIABLES:
        meaning, instead = _NO_VARIABLES[name]
        message = f"{name!r} is {meaning}; {listed if len(names) <= 8 else 'list the variables otherwise'}"
        raise _Unclear(message, [(*place, instead)]) if instead else Refused(message + ".")
    if name.lower() in KNOWN:
        raise Refused(
            f"{name!r} looks like the function {name.lower()}, which needs its argument in brackets, as in "
            f"{name.lower()}(x)."
        )
    if len(name) > 1 and name.isalpha() and (set(name) <= set("xyz") or set(name) <= names):
        message = f"{name!r} looks like the product {'*'.join(name)}; else {listed}"
        raise _Unclear(message, [(*place, f"({'*'.join(name)})")])
    for function in sorted(KNOWN, key=len, reverse=True):
        argument = name.removeprefix(function)
        if argument != name and (argument in names or argument in "xyz"):
            message = f"{name!r} looks like {function}({argument}); else {listed}"
            raise _Unclear(message, [(*place, f"{function}({argument})")])


class _Reading:
    """One walk over the words, by the grammar's rules; what was not plain is noted as edits of the text."""

    def __init__(
        self,
        graph: Graph,
        source: str,
        words: list[Word],
        places: Mapping[str, int],
        given: Sequence[str] | None,
    ):
        self.graph, self.source, self.words, self.places = graph, source, words, places
        self.listed = set(given or ())
        self.at, self.depth, self.count, self.bars = 0, 0, 0, 0
        self.edits: list[tuple[int, int, str]] = []

    @property
    def next(self) -> Word:
        return self.words[self.at]

    @property
    def last(self) -> Word:
        return self.words[self.at - 1]

    def take(self) -> Word:
        word = self.words[self.at]
        self.at += 1
        return word

    def follows(self, *texts: str) -> bool:
        return self.next.kind == "sign" and self.next.text in texts

    def edit(self, start: int, end: int, instead: str) -> None:
        if self.source[start:end] != instead:
            self.edits.append((start, end, instead))

    def deeper(self, rule: Callable[[], int]) -> int:
        self.depth += 1
        if self.depth > DEEPEST:
            raise Refused(f"The expression is nested more than {DEEPEST} deep. Simplify it.")
        found = rule()
        self.depth -= 1
        return found

    def counted(self) -> None:
        self.count += 1
        if self.count > MOST_NODES:
            raise Refused(
                f"The expression has more than {MOST_NODES:,} parts. Shorten it, or write an st.Objective."
            )

    def unreadable(self) -> Refused:
        place = self.next.start + 1
        return Refused(
            f"The expression {_shortened(self.source)!r} cannot be read near character {place}: check its "
            "brackets and signs."
        )

    # -- the grammar -------------------------------------------------------------------------------

    def whole(self) -> int:
        found = self.sum()
        if self.next.kind != "end":
            raise self.unreadable()
        return found

    def sum(self) -> int:
        found = self.product()
        while self.follows("+", "-"):
            rule = self.graph.add if self.take().text == "+" else self.graph.sub
            found = rule(found, self.product())
            self.counted()
        return found

    def product(self) -> int:
        found, slash = self.signed(), None
        while True:
            if self.follows("*", "/", "//"):
                sign = self.take()
                if sign.text == "//":
                    raise Refused(
                        "The expression uses an operator that is no formula's: use + - * / and ^, / for //."
                    )
                slash = sign if sign.text == "/" else None
                rule = self.graph.mul if slash is None else self.graph.div
                found = rule(found, self.signed())
            elif self.starts():
                self.joined(slash)
                found = self.graph.mul(found, self.power())
            else:
                return found
            self.counted()

    def starts(self) -> bool:
        """Whether the next word begins a factor."""
        bar = self.follows("|") and not self.bars
        return bar or self.next.kind in ("number", "name") or self.follows("(", "{", "√")

    def signed(self) -> int:
        minus = signs = 0
        while self.follows("+", "-"):
            minus ^= self.take().text == "-"
            signs += 1
            if signs + self.depth > DEEPEST:
                raise Refused(f"The expression is nested more than {DEEPEST} deep. Simplify it.")
        found = self.power()
        return self.graph.neg(found) if minus else found

    def power(self) -> int:
        found = self.atom()
        if self.next.kind == "raised":
            word = self.take()
            found = self.raised(found, self.graph.number(self.exponent(word)))
            if self.follows("^", "**"):
                raise self.unreadable()
        elif self.follows("^", "**"):
            self.take()
            found = self.raised(found, self.deeper(self.signed))
        return found

    def exponent(self, word: Word) -> float:
        """A raised number, which the text then has after a ``^``."""
        text = "".join(notation.RAISED[c] for c in word.text)
        if not re.fullmatch(r"[+-]?\d{1,3}", text):
            raise Refused(f"The expression holds {word.text!r}, which is no power. Write it as ^2.")
        self.edit(word.start, word.end, f"^{text}" if text.isdigit() else f"^({text})")
        return float(text)

    def raised(self, base: int, exponent: int) -> int:
        power = self.graph.value(exponent)
        if power is not None and abs(power) > LARGEST_POWER:
            raise Refused(f"Powers may be at most {LARGEST_POWER}; got {power:g}.")
        return self.graph.pow(base, exponent)

    def atom(self) -> int:
        self.counted()
        if self.next.kind == "number":
            return self.number(self.take())
        if self.next.kind == "name":
            return self.named(self.take())
        if self.follows("(", "{"):
            return self.bracket()
        if self.follows("|"):
            return self.size()
        if self.follows("√"):
            return self.root()
        raise self.unreadable()

    def bracket(self) -> int:
        opened, outside = self.take(), self.bars
        self.bars = 0
        self.edit(opened.start, opened.end, "(")
        found = self.deeper(self.sum)
        if not self.follows(_CLOSING[opened.text]):
            raise self.unreadable()
        closed = self.take()
        self.edit(closed.start, closed.end, ")")
        self.bars = outside
        return found

    def size(self) -> int:
        opened = self.take()
        self.bars += 1
        found = self.deeper(self.sum)
        if not self.follows("|"):
            raise self.unreadable()
        closed = self.take()
        self.bars -= 1
        self.edit(opened.start, opened.end, "abs(")
        self.edit(closed.start, closed.end, ")")
        return self.graph.apply("abs", found)

    def root(self) -> int:
        sign = self.take()
        self.edit(sign.start, sign.end, "sqrt")
        if self.follows("(", "{"):
            return self.graph.apply("sqrt", self.bracket())
        word, after = self.next, self.words[min(self.at + 1, len(self.words) - 1)]
        if word.kind not in ("number", "name") or word.text in KNOWN:
            raise Refused("The root sign needs its argument in brackets, as in √(x + 1).")
        if after.kind in ("number", "name", "raised") or after.text in ("^", "**", "(", "{", "|", "√"):
            raise _Unclear("It is not clear where the root ends", *self.ends((sign.start, sign.end, "sqrt(")))
        return self.graph.apply("sqrt", self.wrapped())

    def ends(self, opened: tuple[int, int, str]) -> list[list[tuple[int, int, str]]]:
        """Where an argument without brackets may end: after the next word, or after that and its factor."""
        word, after, *more = self.words[self.at : self.at + 3]
        sign = after.text in ("*", "/", "^", "**")
        gap = [] if sign or after.kind == "raised" else [(word.end, after.start, "*")]
        other = more[0] if sign and more else after
        short = [opened, (word.end, word.end, ")"), *gap]
        return [short, [opened, *gap, (other.end, other.end, ")")]]

    def wrapped(self) -> int:
        """A number or a name, which the text then has in brackets."""
        word = self.next
        found = self.number(self.take()) if word.kind == "number" else self.named(self.take())
        self.edit(word.start, word.start, "(")
        self.edit(word.end, word.end, ")")
        return found

    # -- numbers and names -------------------------------------------------------------------------

    def number(self, word: Word) -> int:
        text = word.text.replace("_", "")
        if max(map(len, re.findall(r"\d+", text))) > MOST_DIGITS:
            raise Refused(
                f"The expression holds a number of more than {MOST_DIGITS} digits. Write it as 1.5e20."
            )
        value = float(text)
        if not math.isfinite(value):
            raise Refused("The expression holds a number too large for a computer's floating point.")
        if value < SMALLEST and re.search("[1-9]", re.split("[eE]", text)[0]):
            raise Refused(
                f"The expression holds {text}, which is too small for a computer's floating point (below "
                f"{SMALLEST:.1e}): change the units, or leave its term out."
            )
        return self.graph.number(value)

    def named(self, word: Word) -> int:
        name = word.text
        if name in _WORDS and name not in self.places:
            raise Refused(_WORDS[name].format(name))
        if name in KNOWN:
            return self.called(word)
        if self.follows("("):
            raise self.not_called(word)
        if self.follows("{"):
            raise self.lowered(word)
        self.edit(word.start, word.end, name)
        if name in self.places:
            return self.places[name]
        if name in CONSTANTS:
            return self.graph.number(CONSTANTS[name])
        if name in _NO_VARIABLES:
            meaning, instead = _NO_VARIABLES[name]
            message = f"{name!r} is {meaning}, and not among the variables {_some(list(self.places))}"
            raise _Unclear(message, [(word.start, word.end, instead)]) if instead else Refused(message + ".")
        if len(name) > 1 and set(name) <= set(self.places):
            message = f"The expression uses {name!r}, which is no variable"
            raise _Unclear(message, [(word.start, word.end, f"({'*'.join(name)})")])
        near = difflib.get_close_matches(name, [*self.places, *KNOWN], n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise Refused(
            f"The expression uses {name!r}, which is no variable; the variables are "
            f"{_some(list(self.places))}.{hint}"
        )

    def called(self, word: Word) -> int:
        """A function; its power may stand before its argument, which needs no brackets if it is one word."""
        power, end = self.early_power(word)
        if self.follows("(", "{"):
            if self.words[self.at + 1].text in (")", "}"):
                raise Refused(f"{word.text} takes one argument, in brackets: {word.text}(x).")
            found = self.graph.apply(KNOWN[word.text], self.bracket())
        else:
            found = self.graph.apply(KNOWN[word.text], self.bare(word))
        if power is None:
            return found
        self.edits.append((word.end, end, ""))
        self.edits.append((self.last.end, self.last.end, f"^{power:g}"))
        return self.raised(found, self.graph.number(power))

    def early_power(self, word: Word) -> tuple[float | None, int]:
        if self.next.kind == "raised":
            text = "".join(notation.RAISED[c] for c in self.take().text)
        elif self.follows("^", "**"):
            self.take()
            closing = self.take() if self.follows("(", "{") else None
            minus = self.take().text if self.follows("-") else ""
            text = minus + (self.take().text if self.next.kind == "number" else "")
            if closing is not None and not (self.follows(_CLOSING[closing.text]) and self.take()):
                raise self.unreadable()
        else:
            return None, word.end
        end = self.last.end
        if word.text in _POWERS_FIRST and re.fullmatch(r"[2-9]|[1-9]\d", text):
            return float(text), end
        raise self.early_refused(word, text, end)

    def early_refused(self, word: Word, text: str, end: int) -> Exception:
        """Before an argument, -1 may mean the inverse or a quotient, and 2 of a logarithm two things."""
        close = self.matching()
        if close is None:
            return Refused(
                f"{word.text} is a function and needs its argument in brackets, as in {word.text}(x)."
            )
        cut, after = (word.end, end, ""), self.words[close].end
        message = f"It is not clear what {self.source[word.start : end].strip()} means"
        if text == "-1":
            quotient = [cut, (word.start, word.start, "(1/"), (after, after, ")")]
            inverse = _POWERS_FIRST.get(word.text)
            ways = [[(word.start, end, inverse)], quotient] if inverse else [quotient]
            return _Unclear(message, *ways)
        return _Unclear(message, [cut, (after, after, f"^{text}" if text.isdigit() else f"^({text})")])

    def matching(self) -> int | None:
        """Where the bracket that is next closes."""
        depth = 0
        for i in range(self.at, len(self.words)):
            depth += (self.words[i].text in _CLOSING) - (self.words[i].text in _CLOSING.values())
            if depth == 0:
                return i if i > self.at else None
        return None

    def bare(self, function: Word) -> int:
        word, after = self.next, self.words[min(self.at + 1, len(self.words) - 1)]
        if word.kind not in ("number", "name") or word.text in KNOWN:
            raise Refused(
                f"{function.text} is a function and needs its argument in brackets, as in {function.text}(x)."
            )
        if not (after.kind == "end" or after.text in ("+", "-", ")", "}", "|")):
            raise _Unclear(
                f"It is not clear where the argument of {function.text} ends",
                *self.ends((self.last.end, word.start, "(")),
            )
        self.edit(self.last.end, word.start, "")
        return self.wrapped()

    def not_called(self, word: Word) -> Exception:
        """A name that is no function, before a bracket."""
        name = word.text
        if name in self.places or name in CONSTANTS or len(name) == 1:
            return _Unclear(
                f"A sign is missing between {name} and the bracket after it",
                [(word.end, self.next.start, "*")],
            )
        close = self.matching()
        if name in _INSTEAD and close is not None and close > self.at + 1:
            argument = self.source[self.next.end : self.words[close].start]
            instead = _INSTEAD[name].format(argument)
            return _Unclear(f"There is no function {name}", [(word.start, self.words[close].end, instead)])
        near = difflib.get_close_matches(name.lower(), KNOWN, n=1)
        return Refused(
            f"There is no function {name}{f'; did you mean {near[0]}?' if near else '.'} These are known: "
            f"{', '.join(sorted(KNOWN))}."
        )

    def lowered(self, word: Word) -> Exception:
        """A name before a brace: an index, as TeX has it, or a product."""
        close = self.matching()
        ways = [[(word.end, self.next.start, "*")]]
        if close is not None and word.text.endswith("_"):
            ways = [
                [(self.next.start, self.next.end, ""), (self.words[close].start, self.words[close].end, "")]
            ]
        return _Unclear(f"It is not clear what the braces after {word.text} mean", *ways)

    # -- products without a sign -------------------------------------------------------------------

    def joined(self, slash: Word | None) -> None:
        """A product whose sign is left out: noted where it has one meaning, refused where it has two."""
        before, after = self.last, self.next
        gap = (before.end, after.start, "*")
        between = f"A sign is missing between {before.text} and {after.text}"
        if slash is not None:
            # 1/2x
            close = self.matching() if after.text in _CLOSING else None
            end = after.end if close is None else self.words[close].end
            raise _Unclear(
                "It is not clear what is divided by",
                [gap],
                [(slash.end, slash.end, "("), gap, (end, end, ")")],
            )
        if after.kind == "number":
            raise _Unclear(between, [gap], [(before.end, after.start, "^")])
        if before.text == "|" or (after.text == "|" and before.kind != "number"):
            raise _Unclear(between, [gap])
        lead = [word.text for word in self.words[max(self.at - 3, 0) : self.at - 1]]
        if (lead[-1:] in (["^"], ["**"]) or lead in (["^", "-"], ["**", "-"])) and gap[0] == gap[1]:
            # x^2y, but not x^2 y
            ways = [gap], [(before.start, before.start, "("), gap, (after.end, after.end, ")")]
            raise _Unclear("It is not clear where the power ends", *ways)
        if before.kind == "number" and after.kind == "name" and gap[0] == gap[1]:
            self.joined_to_number(before, after)
        if before.kind == after.kind == "name" and not (self.short(before) and self.short(after)):
            raise _Unclear(between, [gap])
        self.edits.append(gap)

    def joined_to_number(self, before: Word, after: Word) -> None:
        """``2x``, unless it looks like a number of another kind."""
        gap, both = (before.end, after.start, "*"), before.text + after.text
        if after.text in ("e", "E"):
            raise _Unclear(f"{both} is no number, nor clearly a product", [gap])
        if after.text in ("i", "I", "j", "J"):
            raise _Unclear(f"{both} is no real number; for a variable {after.text}", [gap])
        if re.fullmatch(r"0(x[0-9A-Fa-f]+|b[01]+|o[0-7]+)", both):
            raise Refused(f"{both} is a number to another base: write {int(both, 0)}.")

    def short(self, word: Word) -> bool:
        """Whether words side by side are a product on paper: single letters, known and listed names are."""
        name, letter = word.text, self.source[word.start]
        known = name in self.listed or name in KNOWN or name in CONSTANTS or not letter.isascii()
        return known or bool(re.fullmatch(r"[A-Za-z]\d*", name))


def _some(names: Sequence[str]) -> str:
    shown = list(names)
    return ", ".join(shown if len(shown) <= 8 else [*shown[:7], "...", shown[-1]])
