"""Witnesses: admissible values for every statement, another way to its number, a simulation it predicts."""

from . import batches, laws, memory, metrics, moments, paths, sampled, steps  # noqa: F401 - importing them registers their witnesses
from .base import WITNESSES, Case, Witness, value
from .matrices import MatrixWitness

__all__ = ["WITNESSES", "Case", "MatrixWitness", "Witness", "value"]
