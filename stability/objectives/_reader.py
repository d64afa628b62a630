"""Formulas as people type them, read into a graph by a grammar of a dozen rules.

No text is ever run. What has one meaning on paper is read (``2x``, ``sin^2(x)``, ``|x|``), and the formula
kept as it was understood; of what has two, the error writes both out.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping, Sequence

from . import _notation as notation
from ._advice import (
    CLOSING,
    CONSTANTS,
    KNOWN,
    LIBRARIES,
    NO_VARIABLES,
    POWERS_FIRST,
    WORDS,
    Refused,
    Unclear,
    Walk,
    edited,
    listed_names,
    numbers_of,
    shortened,
    some,
    stray,
    variables_in,
)
from ._exponentials import Steady
from ._graph import SMALLEST, Graph, TooLarge, Undefined
from ._notation import Word

LONGEST = 10_000
"""Characters."""
DEEPEST = 80
"""Parentheses, powers and functions inside each other."""
MOST_NODES = 5_000
MOST_DIGITS = 40
LARGEST_POWER = 100


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
    for form, letter in notation.TWINS.items():
        if form in str(text) and letter in str(text):
            raise Refused(
                f"The expression holds {letter!r} and {form!r}, two forms of one letter. Call one of them "
                f"{notation.name(letter)}2, or by another name."
            )
    given = None if variables is None else listed_names(variables)
    numbers = numbers_of(parameters or {}, given or ())
    try:
        return _read(source, given, numbers)
    except Unclear as unclear:
        # Each way is read once more by itself: an advice that leads to the next refusal is none.
        ways = [way for edits in unclear.meant if _reads(way := edited(source, edits), given, numbers)]
        told = " or ".join(map(shortened, dict.fromkeys(ways)))
        raise Refused(f"{unclear}: write {told}." if told else f"{unclear}.") from None


def _read(
    source: str, given: tuple[str, ...] | None, numbers: dict[str, float]
) -> tuple[Graph, int, tuple[str, ...], str]:
    try:
        words = notation.words(source)
    except notation.Strange as strange:
        raise stray(source, str(strange)) from None
    for before, dot, after in zip(words, words[1:], words[2:], strict=False):
        if dot.text == "." and after.kind == "name":
            message = "The expression holds a dot between names, which is not allowed"
            # np.exp(x) is exp(x) with a prefix; any other dot may mean anything.
            library = before.kind == "name" and before.text in LIBRARIES
            raise Unclear(message, *[[(before.start, after.start, "")]] * library)
    names = variables_in(words, numbers) if given is None else given
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
            f"It has {some(names)}."
        )
    return graph, root, names, " ".join(edited(source, reading.edits).replace("**", "^").split())


def _reads(source: str, given: tuple[str, ...] | None, numbers: dict[str, float]) -> bool:
    """Whether a text can be read: no advice is given that leads to another refusal."""
    try:
        _read(source, given, numbers)
    except (Refused, Unclear):
        return False
    return True


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


class _Reading(Walk):
    """One walk over the words, by the grammar's rules; what was not plain is noted as edits of the text."""

    def __init__(
        self,
        graph: Graph,
        source: str,
        words: list[Word],
        places: Mapping[str, int],
        given: Sequence[str] | None,
    ):
        super().__init__(source, words, places, given)
        self.graph = graph
        self.depth, self.count, self.bars = 0, 0, 0

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
        # Inside bars the next one closes: |x|y| would otherwise have two readings.
        bar = self.follows("|") and not self.bars
        return bar or self.next.kind in ("number", "name") or self.follows("(", "{", "√")

    def signed(self) -> int:
        minus = signs = 0
        while self.follows("+", "-"):
            # A loop, not recursion, so that a line of a thousand signs ends in a sentence.
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
            # Through `signed`, and so through `power` again: 2^-x, and x^y^z from the right.
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
            raise Refused(
                f"Powers may be at most {LARGEST_POWER}; got {power:g}. Write larger ones in steps, as "
                "(x^100)^2."
            )
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
        # Brackets begin anew: within them a bar may open again.
        opened, outside = self.take(), self.bars
        self.bars = 0
        self.edit(opened.start, opened.end, "(")
        found = self.deeper(self.sum)
        if not self.follows(CLOSING[opened.text]):
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
            raise Unclear("It is not clear where the root ends", *self.ends((sign.start, sign.end, "sqrt(")))
        return self.graph.apply("sqrt", self.wrapped())

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
            raise Refused(
                "The expression holds a number too large for a computer's floating point. Change the units."
            )
        # A number that underflowed to zero or lost digits: its term would vanish without a word.
        if value < SMALLEST and re.search("[1-9]", re.split("[eE]", text)[0]):
            raise Refused(
                f"The expression holds {text}, which is too small for a computer's floating point (below "
                f"{SMALLEST:.1e}): change the units, or leave its term out."
            )
        return self.graph.number(value)

    def named(self, word: Word) -> int:
        name = word.text
        if name in WORDS and name not in self.places:
            raise Refused(WORDS[name].format(name))
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
        if name in NO_VARIABLES:
            meaning, instead = NO_VARIABLES[name]
            message = f"{name!r} is {meaning}, and not among the variables {some(list(self.places))}"
            raise Unclear(message, [(word.start, word.end, instead)]) if instead else Refused(message + ".")
        if len(name) > 1 and set(name) <= set(self.places):
            message = f"The expression uses {name!r}, which is no variable"
            raise Unclear(message, [(word.start, word.end, f"({'*'.join(name)})")])
        near = difflib.get_close_matches(name, [*self.places, *KNOWN], n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise Refused(
            f"The expression uses {name!r}, which is no variable; the variables are "
            f"{some(list(self.places))}.{hint}"
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
            if closing is not None and not (self.follows(CLOSING[closing.text]) and self.take()):
                raise self.unreadable()
        else:
            return None, word.end
        end = self.last.end
        if word.text in POWERS_FIRST and re.fullmatch(r"[2-9]|[1-9]\d", text):
            return float(text), end
        raise self.early_refused(word, text, end)

    def bare(self, function: Word) -> int:
        word, after = self.next, self.words[min(self.at + 1, len(self.words) - 1)]
        if word.kind not in ("number", "name") or word.text in KNOWN:
            raise Refused(
                f"{function.text} is a function and needs its argument in brackets, as in {function.text}(x)."
            )
        if not (after.kind == "end" or after.text in ("+", "-", ")", "}", "|")):
            raise Unclear(
                f"It is not clear where the argument of {function.text} ends",
                *self.ends((self.last.end, word.start, "(")),
            )
        self.edit(self.last.end, word.start, "")
        return self.wrapped()
