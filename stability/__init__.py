"""Continuous-time stability analysis of stochastic optimizers.

Will this stochastic optimizer be stable here, how much noise will it amplify, and how large a step may it take?
"""

from typing import TYPE_CHECKING, Any

from . import datasets, gallery
from ._array import Backend
from ._check import Interrupted, StabilityWarning, Unstable
from ._descent import Adam, Armijo, SpectralStep
from ._run import Progress
from .bounds import Bound, Bounds, bounds
from .compare import Comparison, compare
from .critical import CriticalPoints, critical_points
from .ensemble import Ensemble
from .escape import ExitTime, exit_time
from .exact import Estimate, ExactMode, exact_mode
from .flow import Flow
from .history import History
from .linear import Limit, LinearFlow, linearize
from .lowrank import BadProducts, LowRank, randomized_eigh
from .methods import LRSFN, SFN, SGD, DampedNewton, Method, Newton
from .minimize import minimize
from .noise import Noise
from .objectives import (
    DerivativeCheck,
    Network,
    Objective,
    Table,
    autoencoder,
    check_derivatives,
    expression,
    landscape,
    least_squares,
    logistic,
    mlp,
    quadratic,
    read_table,
)
from .plot import plot
from .results import Study, load, save
from .simulate import simulate
from .spectrum import Spectrum, spectrum

if TYPE_CHECKING:
    from .symbolic import MethodTable, Theorem, method_table, theorem, theorems

__all__ = [
    "LRSFN",
    "SFN",
    "SGD",
    "Adam",
    "Armijo",
    "Backend",
    "BadProducts",
    "Bound",
    "Bounds",
    "Comparison",
    "CriticalPoints",
    "DampedNewton",
    "DerivativeCheck",
    "Ensemble",
    "Estimate",
    "ExactMode",
    "ExitTime",
    "Flow",
    "History",
    "Interrupted",
    "Limit",
    "LinearFlow",
    "LowRank",
    "Method",
    "MethodTable",
    "Network",
    "Newton",
    "Noise",
    "Objective",
    "Progress",
    "SpectralStep",
    "Spectrum",
    "StabilityWarning",
    "Study",
    "Table",
    "Theorem",
    "Unstable",
    "autoencoder",
    "bounds",
    "check_derivatives",
    "compare",
    "critical_points",
    "datasets",
    "exact_mode",
    "exit_time",
    "expression",
    "gallery",
    "landscape",
    "least_squares",
    "linearize",
    "load",
    "logistic",
    "method_table",
    "minimize",
    "mlp",
    "plot",
    "quadratic",
    "randomized_eigh",
    "read_table",
    "save",
    "simulate",
    "spectrum",
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
