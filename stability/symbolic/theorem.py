"""Theorems by name, and their checks against the numeric theory and against ensembles.

Each statement has a witness that knows admissible values, another way to the same number, and a simulation
whose outcome the statement predicts. Checks read the symbolic derivation through `evaluate` alone.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy

from .. import _check
from .._display import Grid
from .._frames import Framed
from .._saving import Result, Study, jsonable, provenance
from ..methods.memory import memoryless, undecayed
from ..methods.method import LRSFN, SFN, SGD, DampedNewton, Method, Newton
from ..methods.metrics import Adam, RMSprop, SignSGD
from . import batches, floors, laws, memory, metrics, moments, paths, sampled, steps  # noqa: F401 - importing them registers their statements
from .limit import limited
from .mode import Mode
from .registry import DIMS, STATEMENTS, Entry
from .statement import DoesNotHold, Hypothesis, Statement
from .witnesses.base import WITNESSES, Case, Witness, value
from .witnesses.matrices import MatrixWitness

ORDER = (
    "noise-amplification", "excess-risk", "noise-floor", "aligned-noise", "noise-exponent", "equal-rates",
    "discrete-vs-continuous", "damping", "damping-removes-the-edge",
    "mean-square-step-limit", "same-batch-cancellation", "truncation-gap", "truncation-limit",
    "finite-data-limit", "student-t", "heavy-tailed-newton", "bounded-sfn-step", "saddle-attraction",
    "escape-time", "trajectory-noise", "weak-order", "averaging", "momentum", "adaptive-metric",
    "streaming-limit", "wishart-newton", "sample-space", "critical-batch", "batch-sharpness",
)  # fmt: skip
"""The statements in the order in which they are best read."""


LARGEST_Z = 4.0


@dataclass(frozen=True)
class Outcome(Result):
    """One method's part of a verdict: largest deviation over the points, z of the ensemble (nan: none)."""

    method: str
    points: int
    deviation: float
    tolerance: float
    z: float

    @property
    def passed(self) -> bool:
        # z is nan where no ensemble was asked for, and then does not count.
        return self.deviation <= self.tolerance and not abs(self.z) >= LARGEST_Z


@dataclass(frozen=True)
class Verdict(Result, Framed):
    """What `Theorem.check` found; true where everything agrees."""

    theorem: str
    outcomes: tuple[Outcome, ...]

    @property
    def passed(self) -> bool:
        return all(outcome.passed for outcome in self.outcomes)

    def __bool__(self) -> bool:
        return self.passed

    def to_json(self) -> list[dict[str, Any]]:
        """The outcomes in JSON's terms."""
        return [jsonable(vars(outcome)) | {"passed": outcome.passed} for outcome in self.outcomes]

    def _columns(self) -> Mapping[str, Any]:
        names = ("method", "passed", "points", "deviation", "tolerance", "z")
        return {name: [getattr(outcome, name) for outcome in self.outcomes] for name in names}

    def _page(self) -> Iterator[str | Grid]:
        rows = [
            (
                "ok" if outcome.passed else "FAILED",
                outcome.method,
                outcome.points,
                outcome.deviation,
                outcome.tolerance,
                outcome.z,
            )
            for outcome in self.outcomes
        ]
        numbers = (("points", "g"), ("deviation", ".1e"), ("allowed", ".0e"), ("ensemble z", ".2f"))
        yield Grid([(self.theorem, ""), ("method", ""), *numbers], rows)


@dataclass(frozen=True)
class Theorem(Statement):
    """A statement that can be checked and drawn; made by `theorem`."""

    def _kept(self) -> dict[str, Any]:
        # By how it was asked for: read back, it is derived again.
        method = self.method if self.mode.bound else None
        branch = None if self.method is None or self.method.rank is None else self.mode.branch
        return {"name": self.name, "method": method, "branch": branch, "dim": self.dim}

    @classmethod
    def _restored(cls, **values: Any) -> Theorem:
        return theorem(**values)

    def check(self, *, points: int = 50, seed: int = 0, ensemble: bool = True) -> Verdict:
        """Recompute the statement by the numeric theory at random admissible values, and by an ensemble.

        Parameters
        ----------
        points : int
            How many random values.
        seed : int
        ensemble : bool
            Whether to simulate too, up to a few seconds per method.

        Returns
        -------
        Verdict
            True where everything agrees; prints as a table. For any gain (``method=None``): all shipped
            methods.
        """
        return verify(
            self,
            points=_check.count("points", points),
            seed=_check.seed(seed),
            ensemble=ensemble,
        )

    def data(self, **values: Any) -> Study:
        """The statement along its axis, for `stability.plot`.

        One curve for this method, or for any gain one per shipped method.

        Parameters
        ----------
        **values : float
            Symbols to hold fixed, under any name that `evaluate` takes; typical values by default.

        Raises
        ------
        ValueError
            If no method of the curve takes such a value, it runs along the axis, or `dim` was given.
        """
        if self.dim is not None:
            raise ValueError("A statement with full matrices has no curve to draw. Leave out `dim`.")
        return curve(self, values)


def theorems() -> tuple[str, ...]:
    """The names that `theorem` knows, in the order in which they are best read.

    Examples
    --------
    >>> import stability as st
    >>> len(st.theorems()), st.theorems()[0]
    (29, 'noise-amplification')
    """
    return ORDER


@_check.by_name
def theorem(
    name: str, *, method: Method | None = None, branch: str | None = None, dim: int | None = None
) -> Theorem:
    """A theorem, derived on the spot from a method's gain.

    Parameters
    ----------
    name : str
        One of `theorems()`.
    method : Method, optional
        Whose gain; by default the statement is for an undetermined gain ``phi(lambda)``, or where only
        particular gains have something to say (``heavy-tailed-newton``, ``bounded-sfn-step``, ``damping``)
        for their example.
    branch : {"kept", "tail"}, optional
        Of a truncated method: a mode inside or off the kept subspace; by default the one that sets it apart.
    dim : {1, 2, 3}, optional
        Derive with full matrices of this size in the Hessian's eigenbasis; by default for one generic mode
        and its coupling.

    Returns
    -------
    Theorem

    Raises
    ------
    ValueError
        If there is no such theorem, it says nothing about this method or branch, or the derivation would be
        too large: a gain of more than 100 operations, or more than 20 seconds of SymPy's work (where the
        system has an alarm).

    Examples
    --------
    >>> import stability as st
    >>> st.theorem("truncation-limit", method=st.LRSFN(rank=5, damping=0.1)).statement
    Eq(alpha_max, 2*gamma/lambda_next)
    """
    entry = STATEMENTS[_check.choice("name", name, ORDER)]
    if method is not None and not isinstance(method, Method):
        raise ValueError(
            f"`method` must be a st.Method such as st.SFN(damping=0.1), or None; got {method!r}."
        )
    if method is not None and method.memory is not None and not entry.memory:
        memoryless(method, f"theorem {name!r}", decay=entry.decay)
    if method is not None and method.spectral and (not entry.decay or dim is not None):
        undecayed(method, f"theorem {name!r}")
    if method is not None and not applies(name, method):
        speak = ", ".join(one for one in ORDER if applies(one, method))
        raise ValueError(
            f"{name!r} says nothing about {method.label}: {entry.title[0].lower()}{entry.title[1:]}."
            + (f" What does: {speak}." if speak else "")
        )
    subject = entry.default if method is None else method
    mode = Mode(subject, _branch(entry, subject, branch), entry.at, bound=method is not None)
    derive = (
        entry.derive
        if dim is None
        else functools.partial(_matrix(entry), dim=_check.choice("dim", dim, DIMS))
    )
    with limited(repr(name)):
        draft = derive(mode)
    hypotheses = (*_parameters(mode), *draft.hypotheses)
    return Theorem(
        name,
        entry.title,
        hypotheses,
        draft.statement,
        tuple(draft.steps),
        draft.source,
        tuple(draft.corollaries),
        mode,
        dim,
    )


def applies(name: str, method: Method) -> bool:
    """Whether a theorem says something about a method."""
    entry = STATEMENTS[_check.choice("name", name, ORDER)]
    if method.spectral == entry.metric or (method.memory is not None and not entry.memory):
        return False
    with limited(repr(name)):
        return entry.applies(method)


def _branch(entry: Entry, method: Method | None, branch: str | None) -> str:
    if method is None or method.rank is None:
        if branch is not None:
            raise ValueError(
                f"`branch` is for truncated methods; {'any gain' if method is None else method.name} has "
                "none."
            )
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


def shipped() -> list[Method]:
    """The methods that a statement for any gain is checked with."""
    smooth: list[Method] = [SGD(), Newton(), DampedNewton(damping=0.2), SFN(damping=0.2)]
    smooth += [LRSFN(rank=1, damping=0.2, tail=tail) for tail in ("damping", "flat")]
    return [
        *smooth,
        RMSprop(),
        Adam(),
        Adam(weight_decay=0.1),
        Adam(weight_decay=0.1, decoupled=False),
        SignSGD(),
    ]


def verify(theorem: Theorem, *, points: int, seed: int, ensemble: bool) -> Verdict:
    """See `Theorem.check`."""
    return Verdict(theorem.name, tuple(_outcome(one, points, seed, ensemble) for one in _instances(theorem)))


def _instances(subject: Theorem) -> list[Theorem]:
    """The theorem itself, or where no method was chosen, one for every shipped method it speaks of."""
    if subject.mode.bound and subject.method is not None:
        return [subject]
    return [
        theorem(subject.name, method=method, dim=subject.dim)
        for method in shipped()
        if applies(subject.name, method)
    ]


def _outcome(theorem: Theorem, points: int, seed: int, ensemble: bool) -> Outcome:
    assert theorem.method is not None
    rng = np.random.default_rng(seed)
    # A fresh one per outcome: between `draw` and `deviation` a witness keeps what it drew.
    witness: Witness = WITNESSES[theorem.name]() if theorem.dim is None else MatrixWitness()
    worst = 0.0
    for _ in range(points):
        case, values = admissible(theorem, witness, rng)
        deviation = witness.deviation(theorem, case, values)
        # max(0.0, nan) is 0.0: a nan would pass for agreement.
        worst = max(worst, math.inf if math.isnan(deviation) else deviation)
    z = math.nan
    if ensemble:
        case, values = admissible(theorem, witness, rng, gentle=True)
        z = witness.ensemble(theorem, case, values, seed)
    return Outcome(theorem.mode.label, points, worst, witness.tolerance, z)


def admissible(
    theorem: Statement, witness: Witness, rng: np.random.Generator, *, gentle: bool = False
) -> tuple[Case, dict[str, Any]]:
    """Random values at which the hypotheses hold, the method's parameters among them."""
    for _ in range(1000):
        case = Case.drawn(theorem, rng)
        values = witness.draw(case, rng, gentle)
        try:
            # By rejection: the statement's own hypotheses say what is admissible, not the witness.
            value(theorem, case, values)
        except DoesNotHold:
            continue
        if witness.sensible(case, values):
            return case, values
    raise ArithmeticError(
        f"No admissible values were found for {theorem.name!r} and {theorem.mode.label} in a thousand draws."
    )


def curve(theorem: Theorem, values: dict[str, Any]) -> Study:
    """The statement along its axis, the curvature mostly: one curve per method.

    The other symbols are at given or typical values.
    """
    curves: dict[str, np.ndarray] = {}
    fixed: dict[str, Any] = {}
    axis, low, high = WITNESSES[theorem.name].axis
    x, instances = np.geomspace(low, high, 121), _instances(theorem)
    _require_known(theorem, instances, values, axis)
    for one in instances:
        witness = WITNESSES[one.name]()
        # One fixed draw: the same picture at every call.
        _, typical = admissible(one, witness, np.random.default_rng(0))
        given = _chosen(one, typical, values, axis)
        fixed |= given
        points = witness.sign * x if one.takes(axis) else x[:0]  # a parameter that this method does not have
        curves[one.mode.label] = np.full(len(x), math.nan)
        curves[one.mode.label][: len(points)] = [_or_nan(one, {**given, axis: point}) for point in points]
    arrays = {"x": x, "names": np.array(list(curves)), "y": np.array(list(curves.values()))}
    about = {
        "theorem": theorem.name,
        "title": theorem.title,
        "axis": axis,
        "quantity": sympy.latex(theorem.statement.lhs),
    }
    return Study("theorem", arrays, {**about, "fixed": jsonable(fixed)}, provenance())


def _require_known(theorem: Theorem, instances: list[Theorem], values: dict[str, Any], axis: str) -> None:
    """Every value is a number that some of the methods takes, and none runs along the axis."""
    for key, given in values.items():
        takers = [one for one in instances if one.takes(key)]
        if not takers:
            known = sorted({name for one in instances for name in one.keywords} - {axis})
            raise ValueError(f"{theorem.name!r} has no {key!r} to hold fixed; it takes {', '.join(known)}.")
        if any(one.symbol(key) == one.symbol(axis) for one in takers):
            raise ValueError(
                f"`{key}` runs along the axis of {theorem.name!r}. Leave it out, or use `evaluate`."
            )
        _check.array(key, given, ndim=0, shape="(), one number")


def _chosen(theorem: Theorem, typical: dict[str, Any], values: dict[str, Any], axis: str) -> dict[str, Any]:
    """What stays fixed, by keyword: the method's own values, or typical ones, or those that were given."""
    assert theorem.method is not None
    kept: dict[str, tuple[str, Any]] = {}
    for source in (theorem.method.parameters, typical):
        kept |= {theorem.symbol(key): (key, v) for key, v in source.items() if theorem.takes(key)}
    given = {key: v for key, v in values.items() if theorem.takes(key)}
    for key in (*given, axis):  # of a symbol's two names, `evaluate` takes one
        kept.pop(theorem.symbol(key), None)
    return {**dict(kept.values()), **given}


def _or_nan(theorem: Theorem, values: dict[str, Any]) -> float:
    try:
        return float(theorem.evaluate(**values))
    except DoesNotHold:
        return math.nan
