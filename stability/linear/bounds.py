"""Every method's bounds on one objective, side by side: the table that a practitioner asks for."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import _check
from .._check import Unstable
from .._display import Grid, number
from .._frames import Framed
from .._saving import Result, jsonable
from ..flow import Flow
from ..methods.method import SGD, Method, told_apart
from ..noise import Noise
from ..objectives.base import trait
from .linearize import check_critical, linearize
from .products import MODES, Leading, refined, served, too_wide
from .result import LinearFlow
from .trust import VALID


@dataclass(frozen=True)
class Bound(Result):
    """What the linear theory says of one method at one critical point.

    Attributes
    ----------
    method : str
    step_limit, step_limit_L2 : float
        The largest mean-square-stable step, at first order and corrected to second; nan where none is. Of a
        metric that follows the noise it is that of the metric that has settled at the given step.
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
    valid_from : float
        The smallest Hessian batch from which on `validity` is below 0.1, all else as it is; inf where none
        is large enough.
    step_limit_error : float
        Of `step_limit` where it is an estimate, as for data too large for whole matrices: the limit is at
        most so much lower, and hardly higher. Else 0.
    doubt : str
        Why the linearisation is not to be trusted, and what helps; empty where it is.
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
    valid_from: float = math.nan
    step_limit_error: float = 0.0
    doubt: str = ""

    @property
    def valid(self) -> bool:
        """Whether the linearisation is to be trusted."""
        return self.validity < VALID


@dataclass(frozen=True)
class Bounds(Result, Framed):
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

    def _columns(self) -> Mapping[str, Any]:
        names = [field.name for field in dataclasses.fields(Bound)]
        return {name: [getattr(row, name) for row in self.rows] for name in [*names, "valid"]}

    def _page(self) -> Iterator[str | Grid]:
        numbers = ("max step", "(L2)", "noise gain", "excess risk", "(L2)")
        columns = [("method", ""), *((name, ".3g") for name in (*numbers, "validity"))]
        columns += [("valid from", ".6g"), ("limited by", "")]
        yield Grid(columns, [self._cells(row) for row in self.rows])
        doubts = dict.fromkeys(row.doubt for row in self.rows if row.doubt)
        for doubt in doubts:
            whose = ", ".join(row.method for row in self.rows if row.doubt == doubt)
            yield f"! {whose}: {doubt}" if len(doubts) > 1 else f"! {doubt}"
        for note in dict.fromkeys(row.note for row in self.rows if row.note):
            yield f"{', '.join(row.method for row in self.rows if row.note == note)}: {note}"

    @staticmethod
    def _cells(row: Bound) -> tuple[Any, ...]:
        limits: tuple[Any, ...] = (row.step_limit, row.step_limit_L2, row.amplification)
        if row.step_limit_error:
            limits = (f"{row.step_limit:.3g} +- {row.step_limit_error:.1g}", *limits[1:])
        trusted = number(row.validity, ".3g") + (" " if row.valid else "!")
        risks = (row.excess_risk, row.excess_risk_L2)
        return (row.method, *limits, *risks, trusted, row.valid_from, row.limited_by)


@_check.by_name
def bounds(objective: Any, noise: Noise, methods: Iterable[Method], *, step: float, at: Any = None) -> Bounds:
    """Step limits, amplification and excess risk of several methods at one critical point.

    Data of more than n d^2 = 1.2e11 (12,000 rows of 3,000 columns), or too large for memory, are asked by
    products alone: rows of SGD and of methods of low rank are estimates then, with an error of the step
    limit, and the others are left out.

    Parameters
    ----------
    objective : Objective
    noise : Noise
    methods : iterable of Method
    step : float
        The learning rate at which the excess risk is asked for, and at which metrics that follow the noise
        settle: Adam's largest step depends on it.
    at : array (d,), optional
        The critical point; the objective's reference by default. Curvature noise is centred there where
        neither it nor the objective has a reference.

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
    centred = not isinstance(noise, Noise) or not noise.has_curvature or noise.reference is not None
    if at is not None and not centred and trait(objective, "reference") is None:
        # Where else it could be centred nobody has said: linear theory is about this point alone.
        noise = copy.copy(noise)
        noise.reference = _check.array("at", at, ndim=1, shape="(d,)")
    flow = Flow(objective, SGD(), noise, step=step)
    if too_wide(noise):
        table = _estimated(flow, methods, at)
    else:
        point = linearize(flow, at)  # shared checks, once
        rows = [_row(point, method) for method in methods]
        table = Bounds(tuple(rows), step, point.eigenvalues, repr(noise))
    pairs = zip(table.rows, told_apart(methods), strict=True)
    return dataclasses.replace(
        table, rows=tuple(dataclasses.replace(row, method=label) for row, label in pairs)
    )


def _row(point: LinearFlow, method: Method) -> Bound:
    try:
        linear = point.under(method)
    except Unstable as error:  # the method has no preconditioner here
        return _left_out(method, str(error))
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
        cause = f"{limit.cause}, mode {limit.mode} (lambda = {number(linear.eigenvalues[limit.mode], '.3g')})"
    gains, risk, bends = linear.amplification, ask(linear.excess_risk), linear.flow.bends
    return Bound(
        method=method.label,
        step_limit=math.nan if limit is math.nan else limit.step,
        step_limit_L2=ask(lambda: linear.step_limit(order=2)),
        amplification=float(np.nanmax(gains)) if np.isfinite(gains).any() else math.nan,
        excess_risk=risk,
        excess_risk_L2=ask(lambda: linear.excess_risk(order=2)) if bends else risk,
        validity=linear.validity,
        limited_by=cause,
        note=notes[0] if notes else "",
        valid_from=linear.valid_from,
        doubt=linear.doubt,
    )


def _estimated(flow: Flow, methods: list[Method], at: Any) -> Bounds:
    """`bounds` of data too large for matrices (d, d)."""
    noise: Any = flow.noise_model
    leading = Leading.of(noise)
    where = noise.reference if at is None else _check.shaped("at", at, (flow.dim,))
    check_critical(flow, where, float(leading.eigenvalues[0]))
    rows = []
    for method in methods:
        if not served(method, noise):
            rows.append(
                _left_out(
                    method,
                    "data so large are asked by products alone, which tell of SGD and of methods of low rank",
                )
            )
            continue
        # The leading directions are found once for all methods: they are the objective's and the noise's.
        rows.append(_estimated_row(leading, Flow(flow.objective, method, noise, step=flow.step)))
    return Bounds(tuple(rows), flow.step, leading.eigenvalues, repr(noise))


def _left_out(method: Method, note: str) -> Bound:
    return Bound(method.label, math.nan, math.nan, math.nan, math.nan, math.nan, math.inf, "", note)


def _estimated_row(leading: Leading, flow: Flow) -> Bound:
    try:
        found = refined(leading, flow)
    except (ArithmeticError, ValueError) as error:
        return _left_out(flow.method, str(error))
    limit, shares, risk = found.found.limit, found.closed.shares_of(found.found), math.nan
    if flow.step < limit - found.error:  # the limit is seen from above
        with contextlib.suppress(ArithmeticError):  # too close to the limit: there is none that can be told
            risk = found.closed.excess_risk()
    linear = found.closed.linear
    cause = max(shares, key=lambda name: shares[name])
    note = (
        f"estimated from products alone: {MODES} leading modes, the directions of samples that weigh most, "
        "and the trace of all else; L2 is not known, validity is that of the leading modes"
    )
    bends = linear.flow.bends
    return Bound(
        method=flow.method.label,
        step_limit=limit,
        step_limit_L2=math.nan if bends else limit,
        amplification=max(float(linear.gains.max()), found.closed.tail),
        excess_risk=risk,
        excess_risk_L2=math.nan if bends else risk,
        validity=linear.validity,
        limited_by=cause,
        note=note if math.isfinite(risk) else f"no stationary covariance at this step; {note}",
        valid_from=linear.valid_from,
        step_limit_error=found.error,
        doubt=linear.doubt,
    )
