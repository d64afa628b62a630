"""Formulas as they are typed, or copied from a paper: characters and words, in plain letters.

Nothing is understood here yet: characters that mean the same become one, words get their places in the text.
"""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

_SIGNS = {
    **dict.fromkeys("−–—‐‑‒﹣－", "-"),
    **dict.fromkeys("×⋅·∙•∗", "*"),
    **dict.fromkeys("÷∕⁄", "/"),
    "∣": "|",
}
"""Signs that have a plain twin; a letter or digit that has one is found by Unicode's own rules."""
RAISED = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-", strict=True))
_LOWERED = dict(zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True))
_GREEK = {
    "α": "alpha",
    "β": "beta",
    "γ": "gamma",
    "δ": "delta",
    "ε": "epsilon",
    "ζ": "zeta",
    "η": "eta",
    "θ": "theta",
    "ι": "iota",
    "κ": "kappa",
    "λ": "lambda",
    "μ": "mu",
    "ν": "nu",
    "ξ": "xi",
    "π": "pi",
    "ρ": "rho",
    "σ": "sigma",
    "ς": "sigma",
    "τ": "tau",
    "υ": "upsilon",
    "φ": "phi",
    "χ": "chi",
    "ψ": "psi",
    "ω": "omega",
    "ϖ": "varpi",
    "Γ": "Gamma",
    "Δ": "Delta",
    "Θ": "Theta",
    "Λ": "Lambda",
    "Ξ": "Xi",
    "Φ": "Phi",
    "Ψ": "Psi",
    "Ω": "Omega",
}
TWINS = {"ϑ": "θ", "ϕ": "φ", "ϵ": "ε", "ϰ": "κ", "ϱ": "ρ", "ς": "σ"}
"""Letters that are two forms of one."""
_WORD = re.compile(
    rf"""(?P<number>(?:\d+(?:_\d+)*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
    |(?P<name>[A-Za-z_][A-Za-z0-9_{"".join(_LOWERED)}]*|[{"".join(_GREEK)}][0-9{"".join(_LOWERED)}]*)
    |(?P<raised>[{"".join(RAISED)}]+)
    |(?P<sign>\*\*|//|[-+*/^(){{}}|√.])
    |(?P<space>\s+)""",
    re.VERBOSE,
)


class Word(NamedTuple):
    """A number, name, raised number or sign, or the end, and where it stands."""

    kind: str
    text: str
    start: int
    end: int


class Strange(ValueError):
    """A character that no formula has."""


def plain(text: str) -> str:
    """The text, each character by its plain twin where it has one."""
    return "".join(map(_plain, text))


def _plain(character: str) -> str:
    if character.isascii() or character in RAISED or character in _LOWERED:
        return character
    if character in _SIGNS:
        return _SIGNS[character]
    if character.isspace():
        return " "
    if is_raised(character) or character in _GREEK:
        return character
    twin = unicodedata.normalize("NFKC", character)
    return twin if len(twin) == 1 and (twin.isascii() or twin in _GREEK) else character


def is_raised(character: str) -> bool:
    """Whether it is a raised letter or bracket: on the line it would be part of the name before it."""
    return unicodedata.decomposition(character).startswith("<super>")


def name(text: str) -> str:
    """A name in plain letters: Greek ones spelled out, lowered digits as digits."""
    return "".join(_GREEK.get(c, _LOWERED.get(c, c)) for c in plain(text))


def words(text: str) -> list[Word]:
    """The words of a plain text, and its end.

    Raises
    ------
    Strange
        With the first character that is none of them.
    """
    found, place = [], 0
    while place < len(text):
        match = _WORD.match(text, place)
        if match is None:
            raise Strange(text[place])
        kind = str(match.lastgroup)
        if kind != "space":
            word = name(match.group()) if kind == "name" else match.group()
            found.append(Word(kind, word, match.start(), match.end()))
        place = match.end()
    return [*found, Word("end", "", len(text), len(text))]
