"""SciPy's deterministic optimizers as baselines, on all samples, with the work counted."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import _check
from .._array import Backend
from .._check import Interrupted
from .._saving import provenance
from ..objectives.base import defines, require
from .history import End, Ending, History
from .problem import Problem, Progress

BASELINES = ("L-BFGS-B", "Newton-CG")


class _Over(Exception):
    """The budget is used up, or the callback says so."""


class _Counted:
    """Value, gradient and Hessian products on the host in float64, counted in sweeps."""

    def __init__(self, problem: Problem, sweeps: float, like: np.ndarray):
        self.problem, self.limit, self.dtype = problem, sweeps, like.dtype
        self.sweeps, self.gradients, self.products = 0.0, 0, 0
        self.loss = math.nan
        self._at = np.zeros(0)
        self._products: Callable[[Any], Any] = lambda v: v

    def _charge(self, cost: float) -> None:
        if self.sweeps + cost > self.limit * (1 + 1e-12):
            raise _Over
        self.sweeps += cost

    def value_and_gradient(self, w: np.ndarray) -> tuple[float, np.ndarray]:
        self._charge(1.0)
        self.gradients += 1
        self.loss, gradient = self.problem.loss_and_gradient(w.astype(self.dtype), None)
        return self.loss, np.asarray(gradient, dtype=float)

    def product(self, w: np.ndarray, v: np.ndarray) -> np.ndarray:
        self._charge(2.0)
        self.products += 1
        if not np.array_equal(w, self._at):
            self._at, self._products = w.copy(), self.problem.products(w.astype(self.dtype), None)
        return np.asarray(self._products(v.astype(self.dtype)[:, None])[:, 0], dtype=float)


def baseline(
    objective: Any,
    w: Any,
    name: str,
    *,
    sweeps: float | None,
    iterations: int | None,
    callback: Callable[[Progress], Any] | None,
) -> History:
    """Run SciPy's `name` until the budget is spent or it stops by itself.

    Raises
    ------
    ValueError
        If an argument is out of range, or the objective lacks what `name` needs.
    Interrupted
        At Ctrl-C, with the history so far in ``.result``.
    """
    from scipy.optimize import minimize

    if not isinstance(w, np.ndarray):
        raise ValueError(f"SciPy's {name} works on the host. Use device='cpu'.")
    limit = math.inf if sweeps is None else _check.positive("sweeps", sweeps)
    most = None if iterations is None else _check.count("iterations", iterations)
    if limit == math.inf and most is None:
        raise ValueError("Say when to stop: give `sweeps` (passes over all samples) or `iterations`.")
    if name == "Newton-CG" and not defines(objective, "products"):
        require(objective, name, "hvp", advice=", or use method='L-BFGS-B'")
    counted = _Counted(Problem(objective, Backend("numpy", np, None, str(w.dtype))), limit, w)
    began, rows, last = time.perf_counter(), [], w.astype(float)
    ending = Ending(End.DONE, "done")

    def accepted(intermediate_result: Any) -> None:
        nonlocal last, ending
        last = np.array(intermediate_result.x)
        rows.append((float(intermediate_result.fun), counted.sweeps, time.perf_counter() - began))
        if (
            callback is not None
            and callback(
                Progress(len(rows) - 1, counted.sweeps, rows[-1][2], rows[-1][0], math.nan, last, None)
            )
            is True
        ):
            ending = Ending(End.STOPPED, f"ended by the callback after iteration {len(rows) - 1}")
            raise _Over
        if len(rows) == most:
            raise _Over

    try:
        options: dict[str, Any] = {"maxiter": 10**9} | ({"maxfun": 10**9} if name == "L-BFGS-B" else {})
        product = {"hessp": counted.product} if name == "Newton-CG" else {}
        found = minimize(
            counted.value_and_gradient,
            last,
            jac=True,
            method=name,
            callback=accepted,
            options=options,
            **product,
        )
        last = found.x
        if not found.success:
            ending = Ending(End.GAVE_UP, f"ended by SciPy: {found.message}")
    except _Over:
        pass
    except KeyboardInterrupt:
        ending = Ending(End.INTERRUPTED, f"interrupted after {len(rows)} iterations")
    losses, spent, seconds = (
        (np.array(column) for column in zip(*rows, strict=True)) if rows else (np.zeros(0),) * 3
    )
    empty = np.zeros((0, 0))
    final = last.astype(w.dtype)
    history = History(
        losses=losses,
        sweeps=spent,
        seconds=seconds,
        steps=np.full(len(losses), np.nan),
        final=final,
        loss=float(objective.value(final)),
        states=np.zeros((0, len(w))),
        kept_at=np.zeros(0, dtype=int),
        eigenvalues=empty,
        noise=empty,
        step_limits=np.zeros(0),
        refreshed_at=np.zeros(0),
        skipped=np.zeros(0, dtype=int),
        status=ending.status,
        stats={
            "gradients": counted.gradients,
            "hessian_products": counted.products,
            "sweeps": counted.sweeps,
            "seconds": time.perf_counter() - began,
        },
        provenance=provenance(method=name, objective=repr(objective)),
        end=ending.end,
    )
    if ending.end is End.INTERRUPTED:
        raise Interrupted(
            f"Interrupted: the history of {len(rows)} iterations is in this exception's `.result`.", history
        )
    return history
