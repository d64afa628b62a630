"""Objectives: quadratics, landscapes with saddles, regression on data."""

from .base import DerivativeCheck, Objective, check_derivatives
from .landscapes import landscape
from .quadratic import quadratic
from .regression import least_squares, logistic
from .table import Table, read_table

__all__ = [
    "DerivativeCheck",
    "Objective",
    "Table",
    "check_derivatives",
    "landscape",
    "least_squares",
    "logistic",
    "quadratic",
    "read_table",
]
