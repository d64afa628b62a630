"""Randomized eigensolvers for symmetric indefinite operators known by their block products: arrays only, no objective."""

from .operator import BadProducts
from .randomized import randomized_eigh
from .result import LowRank

__all__ = ["BadProducts", "LowRank", "randomized_eigh"]
