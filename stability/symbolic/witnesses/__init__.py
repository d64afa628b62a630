"""Witnesses: for every statement, admissible values, another way to the number, and a simulation that it
predicts.
"""

from . import laws, moments, paths, steps  # noqa: F401 - importing them registers their witnesses
from .base import WITNESSES, Case, Witness, value
from .matrices import MatrixWitness

__all__ = ["WITNESSES", "Case", "MatrixWitness", "Witness", "value"]
