"""Objectives: quadratics, landscapes with saddles, regression on data, networks."""

from .base import DerivativeCheck, Objective, check_derivatives
from .expression import Expression, expression
from .landscapes import landscape
from .network import Network, autoencoder, mlp
from .quadratic import quadratic
from .regression import least_squares, logistic
from .table import Table, read_table

__all__ = [
    "DerivativeCheck",
    "Expression",
    "Network",
    "Objective",
    "Table",
    "autoencoder",
    "check_derivatives",
    "expression",
    "landscape",
    "least_squares",
    "logistic",
    "mlp",
    "quadratic",
    "read_table",
]
