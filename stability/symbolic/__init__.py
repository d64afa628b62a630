"""Theorems as SymPy objects, derived from the methods' own gains.

>>> import stability as st
>>> theorem = st.theorem("noise-amplification", method=st.Newton())
>>> theorem.statement
Eq(M, alpha*sigma**2/(2*lambda**2))
>>> theorem.evaluate(lam=0.5, step=0.5, sigma=1.0)
1.0
"""

from __future__ import annotations

import functools
from typing import Any

from .. import _check
from ..methods.method import Method
from . import laws, moments, paths, steps  # noqa: F401 - importing them registers their statements
from .limit import limited
from .mode import Mode
from .registry import DIMS, STATEMENTS, Entry
from .statement import Corollary, Hypothesis, Step, Theorem
from .table import MethodTable, method_table

__all__ = ["Corollary", "Hypothesis", "MethodTable", "Step", "Theorem", "applies", "method_table", "theorem", "theorems"]

ORDER = (
    "noise-amplification", "excess-risk", "aligned-noise", "equal-rates", "discrete-vs-continuous", "damping",
    "mean-square-step-limit", "same-batch-cancellation", "truncation-gap", "truncation-limit", "finite-data-limit",
    "student-t", "heavy-tailed-newton", "bounded-sfn-step", "saddle-attraction", "escape-time",
    "trajectory-noise", "weak-order", "averaging",
)  # fmt: skip
"""The statements in the order in which they are best read."""


def theorems() -> tuple[str, ...]:
    """The names that `theorem` knows, in the order in which they are best read."""
    return ORDER


def theorem(name: str, *, method: Method | None = None, branch: str | None = None, dim: int | None = None) -> Theorem:
    """A theorem, derived on the spot from a method's gain.

    Parameters
    ----------
    name : str
        One of `theorems()`.
    method : Method, optional
        Whose gain; by default the statement is for an undetermined gain ``phi(lambda)``, or where only particular
        gains have something to say (``heavy-tailed-newton``, ``bounded-sfn-step``, ``damping``) for their example.
    branch : {"kept", "tail"}, optional
        Of a truncated method: a mode inside or off the kept subspace; by default the one that sets it apart.
    dim : {1, 2, 3}, optional
        Derive with full matrices of this size in the Hessian's eigenbasis; by default for one generic mode and its coupling.

    Returns
    -------
    Theorem

    Raises
    ------
    ValueError
        If there is no such theorem, it says nothing about this method or branch, or the derivation would be too large: a gain of
        more than 100 operations, or more than 20 seconds of SymPy's work (where the system has an alarm).

    Examples
    --------
    >>> import stability as st
    >>> st.theorem("truncation-limit", method=st.LRSFN(rank=5, damping=0.1)).statement
    Eq(alpha_max, 2*gamma/lambda_next)
    """
    entry = STATEMENTS[_check.choice("name", name, ORDER)]
    if method is not None and not isinstance(method, Method):
        raise ValueError(f"`method` must be a st.Method such as st.SFN(damping=0.1), or None; got {method!r}.")
    if method is not None and not applies(name, method):
        raise ValueError(f"{name!r} says nothing about {method.label}: {entry.title[0].lower()}{entry.title[1:]}.")
    subject = entry.default if method is None else method
    mode = Mode(subject, _branch(entry, subject, branch), entry.at, bound=method is not None)
    derive = entry.derive if dim is None else functools.partial(_matrix(entry), dim=_check.choice("dim", dim, DIMS))
    with limited(repr(name)):
        draft = derive(mode)
    hypotheses = (*_parameters(mode), *draft.hypotheses)
    return Theorem(name, entry.title, hypotheses, draft.statement, tuple(draft.steps), draft.source, tuple(draft.corollaries), mode, dim)


def applies(name: str, method: Method) -> bool:
    """Whether a theorem says something about a method."""
    with limited(repr(name)):
        return STATEMENTS[_check.choice("name", name, ORDER)].applies(method)


def _branch(entry: Entry, method: Method | None, branch: str | None) -> str:
    if method is None or method.rank is None:
        if branch is not None:
            raise ValueError(f"`branch` is for truncated methods; {'any gain' if method is None else method.name} has none.")
        return "kept"
    return entry.branches[0] if branch is None else _check.choice("branch", branch, entry.branches)


def _matrix(entry: Entry) -> Any:
    if "derive" not in entry.matrix:
        full = ", ".join(name for name in ORDER if "derive" in STATEMENTS[name].matrix)
        raise ValueError(f"{entry.name!r} speaks of one mode; with full matrices (`dim`) there are {full}.")
    return entry.matrix["derive"]


def _parameters(mode: Mode) -> list[Hypothesis]:
    """A method's parameters have the signs that their symbols were given."""
    return [Hypothesis(f"{symbol} > 0", symbol) for symbol in mode.parameters.values() if symbol.is_positive]
