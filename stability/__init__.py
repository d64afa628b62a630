"""Continuous-time stability analysis of stochastic optimizers.

Will this stochastic optimizer be stable here, how much noise will it amplify, and how large a step may it
take?
"""

from typing import TYPE_CHECKING, Any

from . import _check, datasets, gallery, results
from ._array import Backend
from ._check import Interrupted, StabilityWarning, Unstable
from ._saving import Study, load, save
from .advice.library import advise
from .comparison import compare
from .densities.density import stationary_density
from .ensembles.simulate import simulate
from .ensembles.tails import tail_index
from .exact.mode import exact_mode
from .exits.escape import escape
from .exits.exit_time import exit_time
from .flow import Flow
from .linear.bounds import bounds
from .linear.linearize import linearize
from .lowrank.operator import BadProducts
from .lowrank.randomized import randomized_eigh
from .lyapunov.exponents import lyapunov_exponents
from .lyapunov.limit import almost_sure_limit
from .methods.method import LRSFN, SFN, SGD, DampedNewton, Method, Newton
from .methods.metrics import Adam, RMSprop, SignSGD
from .methods.momentum import Momentum
from .noise import Noise
from .objectives.base import Objective, check_derivatives
from .objectives.expression import expression
from .objectives.landscapes import landscape
from .objectives.network import mlp
from .objectives.quadratic import quadratic
from .objectives.regression import least_squares, logistic
from .pictures.plot import plot
from .portraits.critical import critical_points
from .portraits.line import profile
from .portraits.plane import portrait
from .spectra.estimation import spectrum
from .sweeps.sweep import sweep
from .training.minimize import minimize
from .trajectories.path import trajectory

if TYPE_CHECKING:
    from .symbolic.theorem import theorem, theorems

__all__ = [
    "LRSFN",
    "SFN",
    "SGD",
    "Adam",
    "Backend",
    "BadProducts",
    "DampedNewton",
    "Flow",
    "Interrupted",
    "Method",
    "Momentum",
    "Newton",
    "Noise",
    "Objective",
    "RMSprop",
    "SignSGD",
    "StabilityWarning",
    "Study",
    "Unstable",
    "advise",
    "almost_sure_limit",
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
    "minimize",
    "mlp",
    "plot",
    "portrait",
    "profile",
    "quadratic",
    "randomized_eigh",
    "results",
    "save",
    "simulate",
    "spectrum",
    "stationary_density",
    "sweep",
    "tail_index",
    "theorem",
    "theorems",
    "trajectory",
]

_MOVED = dict.fromkeys(results.__all__, "results") | {
    "Armijo": "gallery",
    "SpectralStep": "gallery",
    "autoencoder": "gallery",
    "batch_sharpness": "gallery",
    "method_table": "gallery",
    "read_table": "datasets",
}


def __getattr__(name: str) -> Any:
    """SymPy is heavy: what needs it is imported when it is first asked for; some names have moved."""
    if name in ("theorem", "theorems"):
        from .symbolic import theorem

        return getattr(theorem, name)
    if name in _MOVED:
        room = _MOVED[name]
        _check.deprecated(f"`st.{name}` is called `st.{room}.{name}` now")
        return getattr(globals()[room], name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
