"""Hypotheses and reasons typeset: the formulas in their sentences as mathematics, the rest as words.

They are written as one types them, ``the mean is stable: alpha phi(lambda) lambda < 2``. Greek letters,
single letters, names with an index, numbers and signs are mathematics; all other words are the sentence's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_GREEK = frozenset(
    re.findall(
        r"\w+",
        "alpha beta gamma delta epsilon zeta eta theta kappa lambda mu nu xi pi rho sigma tau phi chi psi "
        "omega Gamma Delta Theta Lambda Sigma Phi Psi Omega",
    )
)
_ROMAN = {"tr": r"\operatorname{tr}", "int": r"\int", "dt": "dt", "DP": "DP", "2F2": "{}_2F_2"}
_SIGNS = {"<=": r"\leq", ">=": r"\geq", "!=": r"\neq", "*": r"\,"}
# The first alternative that fits wins: names with an index or a prime before plain words, <= before <.
_TOKEN = re.compile(
    r"(?P<name>[A-Za-z]+(?:_[A-Za-z0-9]+|'+)(?![A-Za-z]))|(?P<index>_[A-Za-z0-9]+)"
    r"|(?P<number>\d+F\d+|\d+(?:\.\d+)?)|(?P<word>[A-Za-z]+(?:[-'][A-Za-z]+)*)"
    r"|(?P<sign><=|>=|!=|[=<>+*/^|\[\]-])|(?P<open>\()|(?P<close>\))|(?P<blank> +)|(?P<rest>.)"
)
_ARTICLE = "a"  # or the rate of a mode: mathematics beside mathematics only


def runs(text: str) -> list[tuple[bool, str]]:
    """A sentence as runs of words (False) and of mathematics in LaTeX (True)."""
    joined: list[tuple[bool, str]] = []
    blank = ""
    for mathematical, shown in _tokens(text):
        # LaTeX drops blanks in math mode: one between a formula and a word is given to the word.
        if shown.isspace():
            blank = shown
            continue
        if joined and joined[-1][0] == mathematical:
            joined[-1] = mathematical, joined[-1][1] + blank + shown
        elif mathematical:
            if joined:
                joined[-1] = False, joined[-1][1] + blank
            joined.append((True, shown))
        else:
            joined.append((False, blank + shown))
        blank = ""
    return joined


def typeset(text: str) -> str:
    r"""A sentence for math mode, its words in ``\text{...}``.

    Examples
    --------
    >>> from stability.symbolic.typeset import typeset
    >>> print(typeset("the tail decays: phi_t lambda_next > 0"))
    \text{the tail decays: }\phi_{t} \lambda_{next} > 0
    """
    return "".join(part if maths else rf"\text{{{plain(part)}}}" for maths, part in runs(text))


def inline(text: str) -> str:
    """A sentence for a page, its formulas between dollars."""
    return "".join(f"${part}$" if maths else part for maths, part in runs(text))


def plain(text: str) -> str:
    """Words with LaTeX's special characters escaped."""
    return re.sub(r"([_%&#$])", r"\\\1", text).replace("^", r"\^{}").replace("~", r"\~{}")


def _tokens(text: str) -> Iterator[tuple[bool, str]]:
    """Every token, whether it is mathematics, and in LaTeX if so."""
    found = [(match.lastgroup or "", match.group()) for match in _TOKEN.finditer(text)]
    nested: list[bool] = []  # of each open bracket, whether it is mathematics
    for k, (kind, token) in enumerate(found):
        if kind == "close" and nested:
            yield nested.pop(), token
        elif kind == "open":
            nested.append(not _holds_words(found[k:]))
            yield nested[-1], token
        elif kind == "rest":
            prime = token == "'" and found[k - 1][0] == "close"
            yield prime or (bool(nested and nested[-1]) and token in ",;"), token
        elif kind == "word" and token == _ARTICLE:
            beside = _nearest(found[:k][::-1]) + _nearest(found[k + 1 :])
            yield any(_symbol(*one) or one[0] == "sign" for one in beside), token
        else:
            mathematical = kind in ("sign", "index") or _symbol(kind, token)
            yield mathematical, _latex(kind, token) if mathematical else token


def _holds_words(tokens: list[tuple[str, str]]) -> bool:
    """Whether a bracket, the first of these tokens, has words before it closes."""
    depth = 0
    for kind, token in tokens:
        depth += (kind == "open") - (kind == "close")
        if depth == 0:
            return False
        if kind == "word" and not _symbol(kind, token) and token != _ARTICLE:
            return True
    return True


def _nearest(tokens: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [one for one in tokens if one[0] != "blank"][:1]


def _symbol(kind: str, token: str) -> bool:
    if kind == "number":
        return True
    base = re.split(r"[_']", token)[0] if kind in ("name", "word") else ""
    # A, a and I are English words first: `_tokens` reads "a" by what stands beside it.
    return base in _GREEK or base in _ROMAN or (len(base) == 1 and base not in "aAI")


def _latex(kind: str, token: str) -> str:
    if kind == "sign":
        return _SIGNS.get(token, token)
    base, _, index = token.partition("_")
    letters = base.rstrip("'")
    shown = rf"\{letters}" if letters in _GREEK else _ROMAN.get(letters, letters)
    return shown + base[len(letters) :] + (f"_{{{index}}}" if index else "")
