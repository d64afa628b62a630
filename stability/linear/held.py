"""The mean-square limit of steps in a metric that is held, from every sample's rows of curvature: exact."""

from __future__ import annotations

import numpy as np

from ..methods.memory import Memory
from .memory import largest_step
from .moments import Balance, Remembered
from .samples import Samples

_FLAT = 1e-13  # of the largest curvature: a direction that no step moves


def held_limit(
    rows: np.ndarray,
    beside: np.ndarray | float,
    share: float,
    memory: Memory | None = None,
    weight_decay: float = 0.0,
) -> float:
    """The largest mean-square-stable step of all modes, coupled, along those that decay.

    Parameters
    ----------
    rows : array (n, o, d)
        ``Z_s S``: a sample's curvature is ``Z_s^T Z_s``, and ``P = S S`` the metric, in whose coordinates the
        iteration is SGD.
    beside : array (d, d) or 0.0
        Curvature that all samples share, there: a ridge's.
    share : float
        The variance of a mean over a batch, per variance of a sample.
    memory : Memory, optional
    weight_decay : float
        Decoupled: beside the metric.

    Examples
    --------
    One sample at a time, along two axes that no sample shares:

    >>> import numpy as np
    >>> from stability.linear.held import held_limit
    >>> rows = np.array([[[2.0, 0.0]], [[0.0, 1.0]]])
    >>> round(held_limit(rows, 0.0, share=1.0), 6)  # h = 2 and 1/2, with variances h^2: h / h^2
    0.5
    """
    flat = rows.reshape(-1, rows.shape[-1])
    lam, vectors = np.linalg.eigh(flat.T @ flat / len(rows) + beside)
    moving = lam > _FLAT * max(float(lam[-1]), 0.0)
    if not moving.any():
        return float("inf")
    lam, vectors = lam[moving], vectors[:, moving]
    samples = Samples.along(rows, vectors, skew=True)  # what is beside them may turn the modes
    single = samples.single

    def kick(M: np.ndarray) -> np.ndarray:
        return share * (samples if M.dtype == np.float64 else single).centred(M)

    none, memory = np.zeros((len(lam),) * 2), memory or Memory(0.0)
    if not share:
        return float(np.min(memory.mean_limit(lam, weight_decay)))
    if not memory.beta:
        balance = Balance(-lam - weight_decay, kick, none, 1.0, None, kick)
        return 1 / balance.radius()[0]

    def remembered(step: float) -> Balance:
        response = memory.motion(step, step, weight_decay).response(lam)
        return Remembered(-lam, kick, none, step, None, kick, response=response)

    return largest_step(memory.mean_limit(lam, weight_decay), remembered, np.eye(len(lam)))[0]
