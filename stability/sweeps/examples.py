"""Studies to begin with: each is a function of named parameters that returns named numbers."""

from __future__ import annotations

from ..flow import Flow
from ..linear.linearize import linearize
from ..methods.method import SGD, Method
from ..noise import Noise
from ..objectives.quadratic import quadratic


def minimum(
    kappa: float, step: float, method: Method | None = None, noise: float = 1.0
) -> dict[str, float | bool]:
    """A method at a minimum with two modes, of curvatures 1 and ``1 / kappa``.

    Returns
    -------
    dict
        ``limit``, the largest stable step; ``amplification`` of noise in the flattest mode, over SGD's; and
        whether this step is ``stable``.

    Examples
    --------
    >>> from stability.sweeps.examples import minimum
    >>> minimum(kappa=10.0, step=0.1)["limit"]
    2.0
    """
    flow = Flow(quadratic([1.0, 1.0 / kappa]), method or SGD(), Noise(gradient=noise), step=step)
    lin = linearize(flow)
    limit = lin.step_limit()
    return {"limit": limit, "amplification": float(lin.amplification[-1]), "stable": step < limit}
