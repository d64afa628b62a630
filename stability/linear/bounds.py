"""Every method's bounds on one objective, side by side: the table that a practitioner asks for."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._saving import Result, jsonable
from ..flow import Flow
from ..methods.method import SGD, Method
from ..noise import Noise
from .linearize import VALID, linearize


@dataclass(frozen=True)
class Bound(Result):
    """What the linear theory says of one method at one critical point.

    Attributes
    ----------
    method : str
    step_limit, step_limit_L2 : float
        The largest mean-square-stable step, at level L and corrected to second order; nan where none is.
    amplification : float
        The largest stationary noise amplification over SGD at equal step, ``max phi_i`` over modes with
        ``lam_i > 0``.
    excess_risk, excess_risk_L2 : float
        At the given step, in units of the objective (nan where there is none).
    validity : float
        Trust the linearisation below 0.1.
    limited_by : str
        The leading cause of the step limit, with its mode.
    note : str
        Why something is missing.
    """

    method: str
    step_limit: float
    step_limit_L2: float
    amplification: float
    excess_risk: float
    excess_risk_L2: float
    validity: float
    limited_by: str
    note: str

    @property
    def valid(self) -> bool:
        """Whether the linearisation is to be trusted."""
        return self.validity < VALID


@dataclass(frozen=True)
class Bounds(Result):
    """The bounds of several methods; made by `bounds`. Prints as a table; `to_json` for programs."""

    rows: tuple[Bound, ...]
    step: float
    eigenvalues: np.ndarray
    noise: str

    def to_json(self) -> dict[str, Any]:
        """Strict-JSON values: nan is null, infinity the string "inf"."""
        rows = [{**jsonable(vars(row)), "valid": row.valid} for row in self.rows]
        return {
            "step": self.step,
            "eigenvalues": jsonable(self.eigenvalues),
            "noise": self.noise,
            "methods": rows,
        }

    def __str__(self) -> str:
        head = (
            f"{'method':<22} {'max step':>9} {'(L2)':>9} {'noise gain':>10} {'excess risk':>11} {'(L2)':>10} "
            f"{'validity':>8}  limited by"
        )
        lines = [head]
        for row in self.rows:
            flag = " " if row.valid else "!"
            limits = f"{_cell(row.step_limit):>9} {_cell(row.step_limit_L2):>9}"
            risks = f"{_cell(row.excess_risk):>11} {_cell(row.excess_risk_L2):>10}"
            lines.append(
                f"{row.method:<22} {limits} {_cell(row.amplification):>10} {risks} "
                f"{_cell(row.validity):>7}{flag}  {row.limited_by}"
            )
        if not all(row.valid for row in self.rows):
            lines.append(
                "! Hessian noise bends this method's preconditioner too much for the linearisation: read the "
                "row as a warning, not a bound."
            )
        lines += [f"{row.method}: {row.note}" for row in self.rows if row.note]
        return "\n".join(lines)


def bounds(objective: Any, noise: Noise, methods: Iterable[Method], *, step: float, at: Any = None) -> Bounds:
    """Step limits, amplification and excess risk of several methods at one critical point.

    Parameters
    ----------
    objective : Objective
    noise : Noise
    methods : iterable of Method
    step : float
        The learning rate at which the excess risk is asked for.
    at : array (d,), optional
        The critical point; the objective's reference by default.

    Raises
    ------
    ValueError
        As `Flow` and `linearize` do; what only one method lacks is a note in its row instead.

    Examples
    --------
    >>> import stability as st
    >>> F, noise = st.quadratic([1.0, 0.01]), st.Noise(gradient=0.1)
    >>> table = st.bounds(F, noise, [st.SGD(), st.Newton()], step=0.1)
    >>> [row.amplification for row in table.rows]
    [1.0, 100.0]
    """
    methods = list(methods)
    if not methods:
        raise ValueError("`methods` must hold at least one method.")
    hessian = linearize(Flow(objective, SGD(), noise, step=step), at).eigenvalues  # shared checks, once
    rows = [_row(Flow(objective, method, noise, step=step), at) for method in methods]
    return Bounds(tuple(rows), step, hessian, repr(noise))


def _row(flow: Flow, at: Any) -> Bound:
    name = flow.method.label
    try:
        linear = linearize(flow, at)
    except ValueError as error:
        return Bound(name, math.nan, math.nan, math.nan, math.nan, math.nan, math.inf, "", str(error))
    notes: list[str] = []

    def ask(question: Any) -> Any:
        try:
            return question()
        except (ArithmeticError, ValueError) as error:
            if str(error) not in notes:
                notes.append(str(error))
            return math.nan

    limit = ask(linear.limit)
    cause = ""
    if limit is not math.nan:
        cause = f"{limit.cause}, mode {limit.mode} (lambda = {linear.eigenvalues[limit.mode]:.3g})"
    gains = linear.amplification
    return Bound(
        method=name,
        step_limit=math.nan if limit is math.nan else limit.step,
        step_limit_L2=ask(lambda: linear.step_limit(level="L2")),
        amplification=float(np.nanmax(gains)) if np.isfinite(gains).any() else math.nan,
        excess_risk=ask(linear.excess_risk),
        excess_risk_L2=ask(lambda: linear.excess_risk(level="L2")),
        validity=linear.validity,
        limited_by=cause,
        note=notes[0] if notes else "",
    )


def _cell(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.3g}"
