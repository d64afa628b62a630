"""What is asked of a place for the advice, in which order, and within which budget."""

from __future__ import annotations

from .optimizer import Optimizer
from .place import Place
from .result import Advice

BUDGET = 60
"""Gradients of all looked-at samples."""
SAMPLES = 2048
"""Samples that are looked at by default."""
HORIZON = 1000
"""Iterations over which the noise floor builds up."""


def examine(
    place: Place,
    *,
    optimizer: Optimizer,
    batch: int,
    budget: float = BUDGET,
    horizon: int = HORIZON,
    seed: int = 0,
    progress: bool = False,
) -> Advice:
    """Advice on an optimizer's step at a place, from products and per-sample numbers alone.

    Parameters
    ----------
    place : Place
    optimizer : Optimizer
    batch : int
        Samples in a gradient batch, drawn without replacement from the place's population.
    budget : float
        Work, in gradients of all looked-at samples.
    horizon : int
        Iterations over which the noise floor builds up.
    seed : int
    progress : bool

    Returns
    -------
    Advice
        With what is known where the work is interrupted.
    """
    raise NotImplementedError("the adviser's core is being written")
