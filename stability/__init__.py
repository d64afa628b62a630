"""Continuous-time stability analysis of stochastic optimizers.

Will this stochastic optimizer be stable here, how much noise will it amplify, and how large a step may it take?
"""

from typing import TYPE_CHECKING, Any

from . import gallery
from ._array import Backend
from ._check import StabilityWarning, Unstable
from .bounds import Bound, Bounds, bounds
from .compare import Comparison, compare
from .ensemble import Ensemble, Interrupted
from .escape import ExitTime, exit_time
from .exact import Estimate, ExactMode, exact_mode
from .flow import Flow
from .linear import Limit, LinearFlow, linearize
from .methods import LRSFN, SFN, SGD, DampedNewton, Method, Newton
from .noise import Noise
from .objectives import (
    DerivativeCheck,
    Objective,
    Table,
    check_derivatives,
    landscape,
    least_squares,
    logistic,
    quadratic,
    read_table,
)
from .plot import plot
from .results import Study, load, save
from .simulate import simulate

if TYPE_CHECKING:
    from .symbolic import MethodTable, Theorem, method_table, theorem, theorems

__all__ = [
    "LRSFN",
    "SFN",
    "SGD",
    "Backend",
    "Bound",
    "Bounds",
    "Comparison",
    "DampedNewton",
    "DerivativeCheck",
    "Ensemble",
    "Estimate",
    "ExactMode",
    "ExitTime",
    "Flow",
    "Interrupted",
    "Limit",
    "LinearFlow",
    "Method",
    "MethodTable",
    "Newton",
    "Noise",
    "Objective",
    "StabilityWarning",
    "Study",
    "Table",
    "Theorem",
    "Unstable",
    "bounds",
    "check_derivatives",
    "compare",
    "exact_mode",
    "exit_time",
    "gallery",
    "landscape",
    "least_squares",
    "linearize",
    "load",
    "logistic",
    "method_table",
    "plot",
    "quadratic",
    "read_table",
    "save",
    "simulate",
    "theorem",
    "theorems",
]

_SYMBOLIC = ("MethodTable", "Theorem", "method_table", "theorem", "theorems")


def __getattr__(name: str) -> Any:
    """SymPy is heavy: what needs it is imported when it is first asked for."""
    if name in _SYMBOLIC:
        from . import symbolic

        return getattr(symbolic, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
