"""The mean path with its tube, as it is saved and printed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .._saving import register
from ..ensembles.result import Ensemble
from .departure import Departure, departed


@register
@dataclass(frozen=True)
class Trajectory:
    """The mean path and the covariance around it; made by `trajectory`.

    Attributes
    ----------
    times : array (k,)
        In units of ``t = iteration * step``. Where the path had to stop, the last of them is where.
    mean : array (k, d)
    covariance : array (k, d, d)
    jacobian : array (k, d, d)
        Of the drift, at the mean.
    amplification : array (k,)
        The noise that the method lets in here over what SGD would: ``tr C_method(m) / tr C_SGD(m)``; nan without noise.
    growth : array (k,)
        The largest eigenvalue of ``(J + J^T) / 2``: the fastest that any deviation grows here.
    validity : array (k,)
        How nonlinear the drift is across the tube: at the 2 d points one standard deviation away along the covariance's axes, what
        ``f(m) + J delta`` misses, over the change of ``f`` itself (root mean squares), averaged over the last ``1 / |J|`` of time: what is
        missed for a shorter while moves deviations little. The largest since the time saved before. Trusted below 0.1.
    start : array (d,)
    start_covariance : array (d, d)
    time : {"continuous", "chain", "discrete"}
    dt : float
        The chain's time step; 0 in continuous time.
    step : float
    method : str
    status : str
        ``"ok"``, or what is to be known before the numbers are believed.
    notes : tuple of str
        Where the preconditioner was not smooth, and what that means.
    provenance : dict
    """

    times: np.ndarray
    mean: np.ndarray
    covariance: np.ndarray
    jacobian: np.ndarray
    amplification: np.ndarray
    growth: np.ndarray
    validity: np.ndarray
    start: np.ndarray
    start_covariance: np.ndarray
    time: str
    dt: float
    step: float
    method: str
    status: str
    notes: tuple[str, ...]
    provenance: dict[str, Any]

    @property
    def spread(self) -> np.ndarray:
        """Root of the total variance, ``sqrt(tr S)``, (k,)."""
        return np.sqrt(np.trace(self.covariance, axis1=1, axis2=2))

    @property
    def valid(self) -> bool:
        """Whether the path came to its end with `validity` below 0.1 all the way, and nothing was jumped over."""
        return self.status == "ok"

    def departure(self, ensemble: Ensemble) -> Departure:
        """How far an ensemble's whole law is from the Gaussian ``N(m, S)`` that is predicted, at each of its times.

        The energy distance of Szekely and Rizzo (J. Stat. Plann. Inference 143, 1249 (2013)), in the coordinates where ``S`` is one:
        ``2 E|X - Z| - E|X - X'| - E|Z - Z'|``, zero for equal laws only. The Gaussian's part is in closed form; the paths' is an
        unbiased average over pairs within each of 32 blocks of paths (more where there are many paths), whose scatter gives the error.
        If theory is true, 0 is expected, give or take `level`.

        Parameters
        ----------
        ensemble : Ensemble
            Of the same law and start, with its states, at times that the trajectory was saved at; at least 128 paths.

        Raises
        ------
        ValueError
            If the two do not belong together, or there are too few paths.
        """
        return departed(self, ensemble)

    def __str__(self) -> str:
        law = "the SDE" if self.time == "continuous" else f"its Euler-Maruyama chain, dt = {self.dt:g}" if self.time == "chain" else "the iteration"
        lines = [f"{self.method} along a path, step {self.step:g}: {law}, to t = {self.times[-1]:g}"]
        lines.append(f"{'t':>9} {'spread':>10} {'amplification':>13} {'growth':>10} {'validity':>9}  mean")
        for i in np.unique(np.linspace(0, len(self.times) - 1, 9).round().astype(int)):
            at = ", ".join(f"{x:.4g}" for x in self.mean[i, :5]) + (", ..." if self.mean.shape[1] > 5 else "")
            row = (self.spread[i], self.amplification[i], self.growth[i], self.validity[i])
            lines.append(f"{self.times[i]:>9.4g} {row[0]:>10.3g} {row[1]:>13.4g} {row[2]:>10.3g} {row[3]:>9.2g}  ({at})")
        return "\n".join([*lines, *self.notes, f"status: {self.status}"])
