"""Continuous-time stability analysis of stochastic optimizers.

Will this stochastic optimizer be stable here, how much noise will it amplify, and how large a step may it
take?
"""

from typing import TYPE_CHECKING, Any

from . import datasets
from ._array import Backend
from ._check import Interrupted, StabilityWarning, Unstable
from ._estimate import Estimate
from ._saving import Study, load, save
from .comparison import Comparison, compare
from .datasets.table import Table, read_table
from .densities.density import stationary_density
from .densities.result import Kramers, StationaryDensity, TotalVariation
from .ensembles.result import Ensemble
from .ensembles.simulate import simulate
from .ensembles.tails import TailIndex, tail_index
from .exact.mode import ExactMode, exact_mode
from .exits.escape import escape
from .exits.exit_time import ExitTime, exit_time
from .exits.result import Escape
from .flow import Flow
from .linear.bounds import Bound, Bounds, bounds
from .linear.linearize import Limit, LinearFlow, linearize
from .lowrank.operator import BadProducts
from .lowrank.randomized import randomized_eigh
from .lowrank.result import LowRank
from .lyapunov.exponents import LyapunovExponents, lyapunov_exponents
from .lyapunov.limit import AlmostSureLimit, almost_sure_limit
from .methods import gallery
from .methods.method import LRSFN, SFN, SGD, DampedNewton, Method, Newton
from .noise import Noise
from .objectives.base import DerivativeCheck, Objective, check_derivatives
from .objectives.expression import expression
from .objectives.landscapes import landscape
from .objectives.network import Network, autoencoder, mlp
from .objectives.quadratic import quadratic
from .objectives.regression import least_squares, logistic
from .pictures.plot import plot
from .portraits.critical import CriticalPoints, critical_points
from .portraits.line import Profile, profile
from .portraits.plane import Portrait, portrait
from .spectra.estimation import spectrum
from .spectra.result import Spectrum
from .training.history import History
from .training.minimize import minimize
from .training.options import Adam, Armijo, SpectralStep
from .training.problem import Progress
from .trajectories.departure import Departure
from .trajectories.path import trajectory
from .trajectories.result import Trajectory

if TYPE_CHECKING:
    from .symbolic.table import MethodTable, method_table
    from .symbolic.theorem import Theorem, theorem, theorems

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
        from .symbolic import table, theorem

        return getattr(table if name in ("MethodTable", "method_table") else theorem, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
