"""Batch sharpness: the curvature that minibatch gradients see along themselves."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _check
from .._array import Backend
from .._estimate import Estimate
from ..advice.noise import ratio
from ..objectives.base import defines, require
from .batches import Batches
from .problem import Problem


@_check.by_name
def batch_sharpness(objective: Any, w: Any, batch: int, *, batches: int = 100, seed: int = 0) -> Estimate:
    """``E[g^T H g] / E|g|^2`` over gradient batches, each with its own Hessian.

    In one mode of batch curvature ``h`` it is ``E h^3 / E h^2``. Where training sharpens a network, SGD holds
    it near ``2 / step`` (Andreyev and Beneventano 2024); with heavy-ball momentum it is held near ``2 (1 +
    beta) / step`` for large batches and ``2 (1 - beta) / step`` for small ones (arXiv 2604.14108). See the
    theorem ``batch-sharpness``, and the study ``stability reproduce --only sharpness``.

    Examples
    --------
    >>> import numpy as np, stability as st
    >>> X = np.array([[1.0], [2.0], [3.0]])
    >>> F = st.least_squares(X, X[:, 0])
    >>> round(st.gallery.batch_sharpness(F, [0.0], batch=3).value, 3)  # the mean of x^2
    4.667

    Parameters
    ----------
    objective : Objective
        With samples and ``hvp``.
    w : array, shape (d,) or (states, d)
        Over several states, such as ``run.states``, both means are taken over all of them: with all samples
        in a batch, only time tells what a run at its edge does.
    batch : int
        Samples in a batch, drawn without replacement.
    batches : int
        How many are drawn at each state; one where a batch is all samples.
    seed : int

    Returns
    -------
    Estimate
        With the standard error of a ratio of means over independent states, or over the batches of one; nan
        where every gradient is zero.

    Raises
    ------
    ValueError
        If an argument is out of range, or the objective has no samples or lacks ``hvp``.
    """
    products = () if defines(objective, "products") else ("hvp",)
    objective = require(objective, "batch_sharpness", "dim", "value", "gradient", *products)
    problem = Problem(objective, Backend("numpy", np))
    if not problem.sampled:
        raise ValueError(f"{objective!r} has no samples to draw batches from. Use its Hessian.")
    states = _check.state("w", w, problem.dim).reshape(-1, problem.dim)
    if not len(states):
        raise ValueError("`w` must hold a state at least; got none. Use run.final, or keep_every=1.")
    size = _check.count("batch", batch, most=problem.samples, why="the samples")
    number = 1 if size == problem.samples else _check.count("batches", batches)
    seed = _check.seed(seed)
    drawn = Batches(problem.samples, size, size, nested=True, epochs=False, seed=seed)
    seen = np.array([[_along(problem, at, drawn.gradient()) for _ in range(number)] for at in states])
    return ratio(*(seen.mean(axis=1) if len(states) > 1 else seen[0]).T)


def _along(problem: Problem, w: np.ndarray, rows: np.ndarray | None) -> tuple[float, float]:
    """``g^T H g`` and ``g^T g`` of one batch."""
    _, gradient = problem.loss_and_gradient(w, rows)
    turned = problem.products(w, rows)(gradient[:, None])[:, 0]
    return float(gradient @ turned), float(gradient @ gradient)
