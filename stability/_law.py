"""Which law a flow's paths follow: one word and one time step, read by theory and told by ensembles."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from . import _check

TIMES = ("continuous", "chain", "discrete")


class Law(NamedTuple):
    """The law of a flow's paths; every ``time=`` of the theory takes one, as ``time=ens.law``.

    Attributes
    ----------
    time : {"continuous", "chain", "discrete"}
        Of the SDE, of its Euler-Maruyama chain, or of the iteration.
    dt : float
        Time step, in units of t: the flow's `step` for the iteration, 0 in continuous time.
    """

    time: str
    dt: float

    @classmethod
    def simulated(cls, level: str, scheme: str, dt: float) -> Law:
        """The law of paths that `simulate` made at this `level`, by this `scheme`, with this time step."""
        if level == "iteration":
            return cls("discrete", dt)
        # The exponential scheme's linear part is exact: the SDE's own law, whatever the time step.
        return cls("chain", dt) if scheme == "euler" else cls("continuous", 0.0)

    def __str__(self) -> str:
        """The arguments that ask for it; the iteration's time step is the flow's own."""
        return f"time={self.time!r}" + (f", dt={self.dt:g}" if self.time == "chain" else "")


def law_of(time: Any, dt: float | None, step: float, known: Iterable[str] = TIMES) -> Law:
    """The law that the arguments `time` and `dt` name, for a flow of this `step`; ValueError for none."""
    if isinstance(time, Law):
        _check.choice("time", time.time, known)
        if dt is not None:
            raise ValueError(f"`dt` is part of the law that `time` names ({time}); leave out dt={dt}.")
        if time.time == "discrete" and not math.isclose(time.dt, step, rel_tol=1e-9):
            raise ValueError(
                f"`time` is the law of an iteration at step {time.dt:g}; the flow has step {step:g}. Use "
                "a flow of that step, or time='discrete'."
            )
        return time
    hint = "The iteration's is discrete; an ensemble's is `ens.law`." if "discrete" in known else ""
    _check.choice("time", time, known, hint)
    if time != "chain" and dt is not None:
        raise ValueError(f"`dt` belongs to time='chain'; got dt={dt} with time={time!r}.")
    if time == "continuous":
        return Law(time, 0.0)
    return Law(time, step if dt is None else _check.positive("dt", dt))
