"""Checking theorems: against the numeric theory at random admissible values, and against ensembles.

Each statement has a witness here that knows admissible values, another way to the same number, and a simulation
whose outcome the statement predicts. Nothing in this file reads the symbolic derivation but through `evaluate`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy

from .._saving import Study, jsonable, provenance
from ..methods.method import LRSFN, SFN, SGD, DampedNewton, Method, Newton
from .registry import STATEMENTS
from .statement import Theorem
from .witnesses.base import WITNESSES, Case, Witness, value
from .witnesses.matrices import MatrixWitness

LARGEST_Z = 4.0


@dataclass(frozen=True)
class Outcome:
    """One method's part of a verdict: the largest deviation over the points, and the ensemble's z (nan: none asked for)."""

    method: str
    points: int
    deviation: float
    tolerance: float
    z: float

    @property
    def passed(self) -> bool:
        return self.deviation <= self.tolerance and not abs(self.z) >= LARGEST_Z


@dataclass(frozen=True)
class Verdict:
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

    def __str__(self) -> str:
        lines = [f"{self.theorem:<24} {'method':<18} {'points':>6} {'deviation':>10} {'allowed':>8} {'ensemble z':>10}"]
        for outcome in self.outcomes:
            z = "-" if math.isnan(outcome.z) else f"{outcome.z:.2f}"
            numbers = f"{outcome.points:>6} {outcome.deviation:>10.1e} {outcome.tolerance:>8.0e} {z:>10}"
            lines.append(f"{'ok' if outcome.passed else 'FAILED':<24} {outcome.method:<18} {numbers}")
        return "\n".join(lines)


def shipped() -> list[Method]:
    """The methods that a statement for any gain is checked with."""
    smooth = [SGD(), Newton(), DampedNewton(damping=0.2), SFN(damping=0.2)]
    return [*smooth, *(LRSFN(rank=1, damping=0.2, tail=tail) for tail in ("damping", "flat"))]


def verify(theorem: Theorem, *, points: int, seed: int, ensemble: bool) -> Verdict:
    """See `Theorem.check`."""
    return Verdict(theorem.name, tuple(_outcome(one, points, seed, ensemble) for one in _instances(theorem)))


def _instances(theorem: Theorem) -> list[Theorem]:
    """The theorem itself, or where no method was chosen, one for every shipped method it speaks of."""
    from . import theorem as derive

    if theorem.mode.bound and theorem.method is not None:
        return [theorem]
    return [derive(theorem.name, method=method, dim=theorem.dim) for method in shipped() if STATEMENTS[theorem.name].applies(method)]


def _outcome(theorem: Theorem, points: int, seed: int, ensemble: bool) -> Outcome:
    assert theorem.method is not None
    rng = np.random.default_rng(seed)
    witness: Witness = WITNESSES[theorem.name]() if theorem.dim is None else MatrixWitness()
    worst = 0.0
    for _ in range(points):
        case, values = admissible(theorem, witness, rng)
        deviation = witness.deviation(theorem, case, values)
        worst = max(worst, math.inf if math.isnan(deviation) else deviation)
    z = math.nan
    if ensemble:
        case, values = admissible(theorem, witness, rng, gentle=True)
        z = witness.ensemble(theorem, case, values, seed)
    return Outcome(theorem.mode.label, points, worst, witness.tolerance, z)


def admissible(theorem: Theorem, witness: Witness, rng: np.random.Generator, *, gentle: bool = False) -> tuple[Case, dict[str, Any]]:
    """Random values at which the hypotheses hold, the method's parameters among them."""
    for _ in range(1000):
        case = Case.drawn(theorem, rng)
        values = witness.draw(case, rng, gentle)
        try:
            value(theorem, case, values)
        except ValueError as error:
            if "does not hold" not in str(error):
                raise
            continue
        if witness.sensible(case, values):
            return case, values
    raise ArithmeticError(f"No admissible values were found for {theorem.name!r} and {theorem.mode.label} in a thousand draws.")


def curve(theorem: Theorem, values: dict[str, Any]) -> Study:
    """The statement along its axis (the curvature, mostly), one curve per method, the other symbols at given or typical values."""
    curves: dict[str, np.ndarray] = {}
    fixed: dict[str, Any] = {}
    axis, low, high = WITNESSES[theorem.name].axis
    x = np.geomspace(low, high, 121)
    for one in _instances(theorem):
        witness = WITNESSES[one.name]()
        _, typical = admissible(one, witness, np.random.default_rng(0))
        own = one.method.parameters  # type: ignore[union-attr]
        given = {key: value for key, value in {**typical, **values}.items() if one.takes(key)}
        fixed |= {key: value for key, value in {**own, **given}.items() if key != axis}
        curves[one.mode.label] = np.array([_or_nan(one, {**given, axis: witness.sign * point}) for point in x])
    arrays = {"x": x, "names": np.array(list(curves)), "y": np.array(list(curves.values()))}
    about = {"theorem": theorem.name, "title": theorem.title, "axis": axis, "quantity": sympy.latex(theorem.statement.lhs)}
    return Study("theorem", arrays, {**about, "fixed": jsonable(fixed)}, provenance())


def _or_nan(theorem: Theorem, values: dict[str, Any]) -> float:
    try:
        return float(theorem.evaluate(**values))
    except ValueError:
        return math.nan
