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
from ..objectives.gate import probe
from .history import End, Ending, History
from .problem import Problem, Progress

BASELINES = ("L-BFGS-B", "Newton-CG")


class _Over(Exception):
    """The budget is used up, or the callback says so."""


class _Watched:
    """The problem as SciPy sees it, on the host in float64: work is counted, iterations are written down."""

    def __init__(self, problem: Problem, w: np.ndarray, sweeps: float, iterations: int | None, callback: Any):
        self.problem, self.limit, self.most, self.callback = problem, sweeps, iterations, callback
        self.dtype, self.last, self.ending = w.dtype, w.astype(float), Ending(End.DONE, "done")
        self.sweeps, self.gradients, self.products = 0.0, 0, 0
        self.rows: list[tuple[float, float, float]] = []  # loss, sweeps and seconds of each iteration
        self.began = time.perf_counter()
        # SciPy sees loss and state in units of these, powers of two, and the start's loss a second time.
        self.height = self.length = 1.0
        self._first: tuple[float, np.ndarray] | None = None
        self._at = np.zeros(0)
        self._products: Callable[[Any], Any] = lambda v: v

    def _charge(self, cost: float) -> None:
        # A budget of whole passes is used up by them, but for rounding.
        if self.sweeps + cost > self.limit * (1 + 1e-12):
            raise _Over
        self.sweeps += cost

    def value_and_gradient(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        if self._first is not None:  # the start, which has been looked at already
            (loss, gradient), self._first = self._first, None
        else:
            self._charge(1.0)
            self.gradients += 1
            loss, gradient = self.problem.loss_and_gradient(self._state(x), None)
        return loss / self.height, np.asarray(gradient, dtype=float) * (self.length / self.height)

    def _state(self, x: np.ndarray) -> np.ndarray:
        return (self.length * x).astype(self.dtype)

    def product(self, x: np.ndarray, v: np.ndarray) -> np.ndarray:
        self._charge(2.0)
        self.products += 1
        if not np.array_equal(x, self._at):
            self._at, self._products = x.copy(), self.problem.products(self._state(x), None)
        found = self._products(v.astype(self.dtype)[:, None])[:, 0]
        return np.asarray(found, dtype=float) * (self.length**2 / self.height)

    def accepted(self, intermediate_result: Any) -> None:
        """What SciPy calls after an iteration, with this argument by name."""
        self.last, number = self.length * np.array(intermediate_result.x), len(self.rows)
        row = float(intermediate_result.fun) * self.height, self.sweeps, time.perf_counter() - self.began
        self.rows.append(row)
        shown = Progress(number, row[1], row[2], row[0], math.nan, self.last, None)
        if self.callback is not None and self.callback(shown) is True:
            self.ending = Ending(End.STOPPED, f"ended by the callback after iteration {number}")
            raise _Over
        if len(self.rows) == self.most:
            raise _Over

    def _scaled(self, *, newton: bool) -> dict[str, float]:
        """Put the problem in units of its start, where SciPy's numbers for what is small mean something."""
        first = loss, gradient = self.value_and_gradient(self.last)
        steep, length = float(np.max(np.abs(gradient))), float(np.max(np.abs(self.last)))
        if not length and newton:  # that of the first step, if it were Newton's along the gradient
            bent = abs(float(gradient @ self.product(self.last, gradient)))
            length = float(gradient @ gradient) * steep / bent if bent else 0.0
        elif not length:
            length = abs(loss) / steep if steep else 0.0
        self._at, self._first = np.zeros(0), first
        self.length = _power_of_two(length)
        self.height = _power_of_two(steep * self.length if newton else abs(loss))
        # SciPy's usual 1e-5, of the slope at the start; its count of calls is none of ours.
        return {} if newton else {"gtol": 1e-5 * steep * self.length / self.height, "maxfun": 10**9}

    def run(self, name: str) -> None:
        """Let SciPy's `name` run until it stops by itself, or is stopped."""
        from scipy.optimize import minimize

        newton = name == "Newton-CG"
        try:
            options = self._scaled(newton=newton)
            found = minimize(
                self.value_and_gradient,
                self.last / self.length,
                jac=True,
                method=name,
                callback=self.accepted,
                options={"maxiter": 10**9, **options},
                **({"hessp": self.product} if newton else {}),
            )
        except _Over:
            return
        except KeyboardInterrupt:
            told = f"interrupted after {len(self.rows)} iterations"
            self.ending = Ending(End.INTERRUPTED, told)
            return
        self.last = self.length * found.x
        if not found.success:
            self.ending = Ending(End.GAVE_UP, f"ended by SciPy: {found.message}")


def _power_of_two(size: float) -> float:
    """Of this size, so that dividing by it rounds nothing; 1 where there is none."""
    return 2.0 ** round(math.log2(size)) if 0 < size < math.inf else 1.0


def baseline(
    objective: Any,
    w: Any,
    name: str,
    *,
    sweeps: float | None,
    iterations: int | None,
    callback: Callable[[Progress], Any] | None,
    check: bool,
) -> History:
    """Run SciPy's `name` until the budget is spent or it stops by itself.

    Raises
    ------
    ValueError
        If an argument is out of range, or the objective lacks what `name` needs.
    Interrupted
        At Ctrl-C, with the history so far in ``.result``.
    """
    if not isinstance(w, np.ndarray):
        raise ValueError(f"SciPy's {name} works on the host. Use device='cpu'.")
    limit = math.inf if sweeps is None else _check.positive("sweeps", sweeps)
    most = None if iterations is None else _check.count("iterations", iterations)
    if limit == math.inf and most is None:
        raise ValueError("Say when to stop: give `sweeps` (passes over all samples) or `iterations`.")
    if name == "Newton-CG" and not defines(objective, "products"):
        require(objective, name, "hvp", advice=", or use method='L-BFGS-B'")
    if check:
        probe(objective, w)
    seen = _Watched(Problem(objective, Backend("numpy", np, None, str(w.dtype))), w, limit, most, callback)
    seen.run(name)
    history = _history(seen, provenance(method=name, objective=repr(objective)))
    if seen.ending.end is End.INTERRUPTED:
        told = f"Interrupted: the history of {len(seen.rows)} iterations is in this exception's `.result`."
        raise Interrupted(told, history)
    return history


def _history(seen: _Watched, about: dict[str, Any]) -> History:
    """What is known of the run; SciPy keeps its steps to itself."""
    losses, sweeps, seconds = np.array(seen.rows).reshape(-1, 3).T.copy()
    final, none, empty = seen.last.astype(seen.dtype), np.zeros(0), np.zeros((0, 0))
    stats = {
        "gradients": seen.gradients,
        "hessian_products": seen.products,
        "sweeps": seen.sweeps,
        "seconds": time.perf_counter() - seen.began,
    }
    return History(
        losses=losses,
        sweeps=sweeps,
        seconds=seconds,
        steps=np.full(len(losses), np.nan),
        final=final,
        loss=seen.problem.value(final),
        states=np.zeros((0, len(final))),
        kept_at=np.zeros(0, dtype=int),
        eigenvalues=empty,
        noise=empty,
        step_limits=none,
        refreshed_at=none,
        skipped=np.zeros(0, dtype=int),
        status=seen.ending.status,
        stats=stats,
        provenance=about,
        end=seen.ending.end,
    )
