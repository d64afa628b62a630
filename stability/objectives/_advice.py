"""What a reading of a formula says where it cannot go on: the cause, and what to write instead.

Of what may be meant, edits of the text are handed on, and shown where what comes of them can be read.
"""

from __future__ import annotations

import difflib
import itertools
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence

from .. import _check
from . import _notation as notation
from ._graph import FUNCTIONS, SMALLEST
from ._notation import Word

MOST_VARIABLES = 200
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
POWERS_FIRST = {"sin": "asin", "cos": "acos", "tan": "atan", "sinh": "", "cosh": "", "tanh": ""}
"""Functions whose power may be written before the argument, and what -1 there may mean."""
_INSTEAD = {
    **dict.fromkeys(("log10", "log_10", "lg"), "(log({0})/log(10))"),
    **dict.fromkeys(("log2", "log_2", "ld", "lb"), "(log({0})/log(2))"),
    "log_e": "log({0})",
    **dict.fromkeys(("cbrt", "curt"), "({0})^(1/3)"),
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
NO_VARIABLES = {
    **dict.fromkeys(("Pi", "PI"), ("the number 3.14159...", "pi")),
    "E": ("the number 2.71828...", "e"),
    **dict.fromkeys(
        ("inf", "Inf", "INF", "infinity", "Infinity", "oo"), ("infinity, which no formula may hold", "")
    ),
    **dict.fromkeys(("nan", "NaN", "NAN", "Nan"), ("no number", "")),
    "I": ("the imaginary unit, which no formula may hold", ""),
}
"""Names that are variables only where they are listed, their meaning elsewhere, how that is written here."""
WORDS = {
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
    "%": "Write a percentage as (x/100). ",
    "\\": "Write sqrt(x) for \\sqrt{x} and ((a)/(b)) for \\frac{a}{b}. ",
    "$": "Leave the dollar signs out. ",
    "!": "It has no factorials. ",
    "∛": "Write (x)^(1/3). ",
    "∜": "Write (x)^(1/4). ",
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
LIBRARIES = ("np", "numpy", "jnp", "math", "torch", "sympy", "sp", "cp", "tf")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
CLOSING = {"(": ")", "{": "}"}


class Refused(ValueError):
    """The formula cannot be read; the message says why, and what to write instead."""


class Unclear(Exception):
    """A refusal with what may be meant: edits of the text, shown where their text can be read."""

    def __init__(self, message: str, *meant: Sequence[tuple[int, int, str]]):
        super().__init__(message)
        self.meant = meant


def edited(source: str, edits: Sequence[tuple[int, int, str]]) -> str:
    """The text with other words from start to end of each edit (start, end, instead)."""
    # From the end; of two at one place the later is put in first, so that it stands behind.
    for start, end, instead in sorted(edits, key=lambda edit: edit[:2])[::-1]:
        source = source[:start] + instead + source[end:]
    return source


def shortened(text: str) -> str:
    """A formula as a sentence quotes it, on one line and not too long."""
    text = " ".join(text.replace("**", "^").split())
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


def stray(source: str, character: str) -> Exception:
    """What is said of a character that no formula has."""
    told = (
        repr(character)
        if character.isascii()
        else f"{character!r} (U+{ord(character):04X}), which is not plain ASCII"
    )
    hint = _HINTS.get(character, "")
    if notation.is_raised(character):
        letter = unicodedata.normalize("NFKC", character)
        hint = f"Write what is raised behind ^{f', as ^({letter})' * letter.isalpha()}. "
    message = (
        f"The expression holds {told}. {hint}It may use letters, digits, + - * / ^ ( ) and the decimal point"
    )
    at = source.index(character)
    if character == "=" and "=" not in source[at + 1 :]:
        return Unclear(message, [(0, at + 1, "")])
    if character in "[]":
        pairs = [(i, i + 1, "(" if c == "[" else ")") for i, c in enumerate(source) if c in "[]"]
        return Unclear(message, pairs)
    return Refused(message + ".")


def _natural(name: str) -> list[tuple[int, int | str]]:
    """x2 before x10."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.findall(r"\d+|\D+", name)]


def listed_names(variables: Sequence[str]) -> tuple[str, ...]:
    """The variables as a tuple, of one text or several; too many are refused."""
    names = variables.replace(",", " ").split() if isinstance(variables, str) else list(variables)
    if len(names) > MOST_VARIABLES:
        raise Refused(
            f"There may be at most {MOST_VARIABLES} variables; got {len(names)}. Write an st.Objective."
        )
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


def numbers_of(parameters: Mapping[str, float], variables: Sequence[str]) -> dict[str, float]:
    """The parameters' values by their names."""
    found: dict[str, float] = {}
    for given, value in parameters.items():
        name = _allowed(given, "parameter")
        if name in variables:
            raise Refused(f"{name!r} is both a variable and a parameter: leave it out of one of them.")
        try:
            # float() would take True and "2" for numbers, and not say so.
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


def variables_in(words: Sequence[Word], numbers: Mapping[str, float]) -> tuple[str, ...]:
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
        raise Refused(
            f"There may be at most {MOST_VARIABLES} variables; got {len(names)}. Write an st.Objective."
        )
    return names


def _look(word: Word, names: set[str]) -> None:
    """Refuse what is hardly meant as a variable."""
    name, place = word.text, (word.start, word.end)
    if name in WORDS:
        raise Refused(WORDS[name].format(name))
    if not _NAME.fullmatch(name):
        raise Refused(f"A variable's name must be letters, digits and _, a letter first; got {name!r}.")
    listed = f"a variable of this name must be listed, variables={sorted(names, key=_natural)}"
    if name in NO_VARIABLES:
        meaning, instead = NO_VARIABLES[name]
        message = f"{name!r} is {meaning}; {listed if len(names) <= 8 else 'list the variables otherwise'}"
        raise Unclear(message, [(*place, instead)]) if instead else Refused(message + ".")
    # Sin and EXP are hardly meant as variables.
    if name.lower() in KNOWN:
        raise Refused(
            f"{name!r} looks like the function {name.lower()}, which needs its argument in brackets, as in "
            f"{name.lower()}(x)."
        )
    letters = set(name) - {"e"}  # ex is hardly a name
    if len(name) > 1 and name.isalpha() and letters and (letters <= set("xyz") or letters <= names):
        message = f"{name!r} looks like the product {'*'.join(name)}; else {listed}"
        raise Unclear(message, [(*place, f"({'*'.join(name)})")])
    factor = name.removeprefix("pi")
    if factor != name and (factor in names or factor in "xyz"):
        message = f"{name!r} looks like the product pi*{factor}; else {listed}"
        raise Unclear(message, [(*place, f"(pi*{factor})")])
    # The longest first: cosh before cos, whose argument would be an h.
    for function in sorted(KNOWN, key=len, reverse=True):
        argument = name.removeprefix(function)
        if argument != name and (argument in names or argument in "xyz"):
            message = f"{name!r} looks like {function}({argument}); else {listed}"
            raise Unclear(message, [(*place, f"{function}({argument})")])


class Walk:
    """A place among a formula's words, and what is said there."""

    def __init__(
        self, source: str, words: list[Word], places: Mapping[str, int], given: Sequence[str] | None
    ):
        self.source, self.words, self.places = source, words, places
        self.listed = set(given or ())
        self.at = 0
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

    # -- what is said of words that cannot be read ----------------------------------------------------

    def unreadable(self) -> Refused:
        place = self.next.start + 1
        return Refused(
            f"The expression {shortened(self.source)!r} cannot be read near character {place}: check its "
            "brackets and signs."
        )

    def ends(self, opened: tuple[int, int, str]) -> list[list[tuple[int, int, str]]]:
        """Where an argument without brackets may end: after the next word, or after that and its factor."""
        word, after, *more = self.words[self.at : self.at + 3]
        sign = after.text in ("*", "/", "^", "**")
        gap = [] if sign or after.kind == "raised" else [(word.end, after.start, "*")]
        other = more[0] if sign and more else after
        short = [opened, (word.end, word.end, ")"), *gap]
        return [short, [opened, *gap, (other.end, other.end, ")")]]

    def matching(self) -> int | None:
        """Where the bracket that is next closes."""
        depth = 0
        for i in range(self.at, len(self.words)):
            depth += (self.words[i].text in CLOSING) - (self.words[i].text in CLOSING.values())
            if depth == 0:
                return i if i > self.at else None
        return None

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
            inverse = POWERS_FIRST.get(word.text)
            ways = [[(word.start, end, inverse)], quotient] if inverse else [quotient]
            return Unclear(message, *ways)
        return Unclear(message, [cut, (after, after, f"^{text}" if text.isdigit() else f"^({text})")])

    def not_called(self, word: Word) -> Exception:
        """A name that is no function, before a bracket."""
        name = word.text
        if name in self.places or name in CONSTANTS or len(name) == 1:
            return Unclear(
                f"A sign is missing between {name} and the bracket after it",
                [(word.end, self.next.start, "*")],
            )
        close = self.matching()
        if name in _INSTEAD and close is not None and close > self.at + 1:
            argument = self.source[self.next.end : self.words[close].start]
            instead = _INSTEAD[name].format(argument)
            return Unclear(f"There is no function {name}", [(word.start, self.words[close].end, instead)])
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
        return Unclear(f"It is not clear what the braces after {word.text} mean", *ways)

    # -- products without a sign -------------------------------------------------------------------------

    def joined(self, slash: Word | None) -> None:
        """A product whose sign is left out: noted where it has one meaning, refused where it has two."""
        before, after = self.last, self.next
        gap = (before.end, after.start, "*")
        between = f"A sign is missing between {before.text} and {after.text}"
        if slash is not None:
            # 1/2x
            close = self.matching() if after.text in CLOSING else None
            end = after.end if close is None else self.words[close].end
            raise Unclear(
                "It is not clear what is divided by",
                [gap],
                [(slash.end, slash.end, "("), gap, (end, end, ")")],
            )
        if after.kind == "number":
            raise Unclear(between, [gap], [(before.end, after.start, "^")])
        if before.text == "|" or (after.text == "|" and before.kind != "number"):
            raise Unclear(between, [gap])
        lead = [word.text for word in self.words[max(self.at - 3, 0) : self.at - 1]]
        if (lead[-1:] in (["^"], ["**"]) or lead in (["^", "-"], ["**", "-"])) and gap[0] == gap[1]:
            # x^2y, but not x^2 y
            ways = [gap], [(before.start, before.start, "("), gap, (after.end, after.end, ")")]
            raise Unclear("It is not clear where the power ends", *ways)
        if before.kind == "number" and after.kind == "name" and gap[0] == gap[1]:
            self.joined_to_number(before, after)
        if before.kind == after.kind == "name" and not (self.short(before) and self.short(after)):
            raise Unclear(between, [gap])
        self.edits.append(gap)

    def joined_to_number(self, before: Word, after: Word) -> None:
        """``2x``, unless it looks like a number of another kind."""
        gap, both = (before.end, after.start, "*"), before.text + after.text
        if after.text in ("e", "E"):
            raise Unclear(f"{both} is no number, nor clearly a product", [gap])
        if after.text in ("i", "I", "j", "J"):
            raise Unclear(f"{both} is no real number; for a variable {after.text}", [gap])
        if re.fullmatch(r"0(x[0-9A-Fa-f]+|b[01]+|o[0-7]+)", both):
            raise Refused(f"{both} is a number to another base: write {int(both, 0)}.")

    def short(self, word: Word) -> bool:
        """Whether words side by side are a product on paper: single letters, known and listed names are."""
        name, letter = word.text, self.source[word.start]
        known = name in self.listed or name in KNOWN or name in CONSTANTS or not letter.isascii()
        return known or bool(re.fullmatch(r"[A-Za-z]\d*", name))


def some(names: Sequence[str]) -> str:
    """Names in a sentence: the first few and the last where they are many."""
    shown = list(names)
    return ", ".join(shown if len(shown) <= 8 else [*shown[:7], "...", shown[-1]])
