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
from .first_exit import Escape, escape
from .flow import Flow
from .fokker_planck import Kramers, StationaryDensity, TotalVariation, stationary_density
from .history import History
from .linear import Limit, LinearFlow, linearize
from .lowrank import BadProducts, LowRank, randomized_eigh
from .lyapunov import AlmostSureLimit, LyapunovExponents, almost_sure_limit, lyapunov_exponents
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
from .portrait import Portrait, portrait
from .profile import Profile, profile
from .results import Study, load, save
from .simulate import simulate
from .spectrum import Spectrum, spectrum
from .tails import TailIndex, tail_index
from .trajectory import Departure, Trajectory, trajectory

if TYPE_CHECKING:
    from .symbolic import MethodTable, Theorem, method_table, theorem, theorems

__all__ = [
    "LRSFN",
    "SFN",
    "SGD",
    "Adam",
    "AlmostSureLimit",
    "Armijo",
    "Backend",
    "BadProducts",
    "Bound",
    "Bounds",
    "Comparison",
    "CriticalPoints",
    "DampedNewton",
    "Departure",
    "DerivativeCheck",
    "Ensemble",
    "Escape",
    "Estimate",
    "ExactMode",
    "ExitTime",
    "Flow",
    "History",
    "Interrupted",
    "Kramers",
    "Limit",
    "LinearFlow",
    "LowRank",
    "LyapunovExponents",
    "Method",
    "MethodTable",
    "Network",
    "Newton",
    "Noise",
    "Objective",
    "Portrait",
    "Profile",
    "Progress",
    "SpectralStep",
    "Spectrum",
    "StabilityWarning",
    "StationaryDensity",
    "Study",
    "Table",
    "TailIndex",
    "Theorem",
    "TotalVariation",
    "Trajectory",
    "Unstable",
    "almost_sure_limit",
    "autoencoder",
    "bounds",
    "check_derivatives",
    "compare",
    "critical_points",
    "datasets",
    "escape",
    "exact_mode",
    "exit_time",
    "expression",
    "gallery",
    "landscape",
    "least_squares",
    "linearize",
    "load",
    "logistic",
    "lyapunov_exponents",
    "method_table",
    "minimize",
    "mlp",
    "plot",
    "portrait",
    "profile",
    "quadratic",
    "randomized_eigh",
    "read_table",
    "save",
    "simulate",
    "spectrum",
    "stationary_density",
    "tail_index",
    "theorem",
    "theorems",
    "trajectory",
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
