"""The classes of results: what the functions of `stability` return, for annotations and `isinstance`.

>>> import stability as st
>>> mode = st.exact_mode(st.SFN(damping=0.1), curvature=0.5, noise=st.Noise(curvature=0.1))
>>> isinstance(mode.moment(2, step=0.5), st.results.Estimate)
True
"""

import functools
from typing import TYPE_CHECKING, Any

from ._estimate import Estimate
from ._saving import Study, later
from .advice.result import Advice
from .advice.watched import Watched
from .comparison import Comparison
from .datasets.images import Dataset
from .datasets.table import Table
from .densities.result import Kramers, StationaryDensity, TotalVariation
from .ensembles.result import Ensemble
from .ensembles.tails import TailIndex
from .exact.mode import ExactMode
from .exits.exit_time import ExitTime
from .exits.result import Escape
from .linear.bounds import Bound, Bounds
from .linear.limits import Limit
from .linear.result import LinearFlow
from .lowrank.result import LowRank
from .lyapunov.exponents import LyapunovExponents
from .lyapunov.limit import AlmostSureLimit
from .objectives.base import DerivativeCheck
from .objectives.network import Network
from .portraits.critical import CriticalPoints
from .portraits.line import Profile
from .portraits.plane import Portrait
from .spectra.result import Spectrum
from .training.history import History
from .training.problem import Progress
from .trajectories.departure import Departure
from .trajectories.result import Trajectory

if TYPE_CHECKING:
    from .symbolic.table import MethodTable
    from .symbolic.theorem import Theorem, Verdict

__all__ = [
    "Advice",
    "AlmostSureLimit",
    "Bound",
    "Bounds",
    "Comparison",
    "CriticalPoints",
    "Dataset",
    "Departure",
    "DerivativeCheck",
    "Ensemble",
    "Escape",
    "Estimate",
    "ExactMode",
    "ExitTime",
    "History",
    "Kramers",
    "Limit",
    "LinearFlow",
    "LowRank",
    "LyapunovExponents",
    "MethodTable",
    "Network",
    "Portrait",
    "Profile",
    "Progress",
    "Spectrum",
    "StationaryDensity",
    "Study",
    "Table",
    "TailIndex",
    "Theorem",
    "TotalVariation",
    "Trajectory",
    "Verdict",
    "Watched",
]

_SYMBOLIC = {"MethodTable": "table", "Theorem": "theorem", "Verdict": "theorem"}


def __getattr__(name: str) -> Any:
    """SymPy is heavy: what needs it is imported when it is first asked for."""
    if name in _SYMBOLIC:
        from importlib import import_module

        return getattr(import_module(f".symbolic.{_SYMBOLIC[name]}", __package__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


def _report() -> Any:
    from .torch.report import Report

    return Report


for _name in _SYMBOLIC:
    later(_name, functools.partial(__getattr__, _name))
later("Report", _report)
