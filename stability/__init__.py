"""Continuous-time stability analysis of stochastic optimizers.

Will this stochastic optimizer be stable here, how much noise will it amplify, and how large a step may it take?
"""

from . import gallery
from ._check import Unstable
from .bounds import Bound, Bounds, bounds
from .compare import Comparison, compare
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
from .simulate import Ensemble, simulate

__all__ = [
    "LRSFN",
    "SFN",
    "SGD",
    "Bound",
    "Bounds",
    "Comparison",
    "DampedNewton",
    "DerivativeCheck",
    "Ensemble",
    "Flow",
    "Limit",
    "LinearFlow",
    "Method",
    "Newton",
    "Noise",
    "Objective",
    "Study",
    "Table",
    "Unstable",
    "bounds",
    "check_derivatives",
    "compare",
    "gallery",
    "landscape",
    "least_squares",
    "linearize",
    "load",
    "logistic",
    "plot",
    "quadratic",
    "read_table",
    "save",
    "simulate",
]
