"""What a portrait and a profile share: the flows to look at, one a method, and what both results tell."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from .._saving import provenance
from ..flow import Flow
from ..methods.memory import undecayed
from ..methods.method import SFN, SGD, Method, Newton, told_apart
from ..noise import Noise
from ..objectives.base import require
from ..objectives.expression import Expression
from .critical import CriticalPoints

DT_SHARE = 0.125
"""Of the step: the time step of an SDE's paths."""
_ASKED = {
    1: ("st.profile", "A profile needs one dimension", "In two, use st.portrait."),
    2: ("st.portrait", "A phase portrait needs two dimensions", "In one, use st.profile."),
}
"""By dimension: who asks for it, in what words, and what to use in the other one."""


def flows_of(
    objective: Any, methods: Iterable[Method] | None, noise: Noise | None, step: float, *, dim: int
) -> list[Flow]:
    """A flow for each method: SGD, Newton and SFN where none are named; in unit noise where none is given."""
    who, needs, advice = _ASKED[dim]
    require(objective, who, "dim")
    if objective.dim != dim:
        if isinstance(objective, Expression) and objective.dim > dim:  # a parameter was read as a variable
            name = objective.variables[0]
            advice = (
                f"Give {objective.dim - dim} of them a number, as in st.expression(..., {name}=1.0), on the "
                f"command line --set {name}=1. {advice}"
            )
        raise ValueError(f"{needs}; {objective!r} has {objective.dim}. {advice}")
    noise = Noise(gradient=1.0) if noise is None else noise
    flows = [
        Flow(objective, method, noise, step=step)
        for method in ((SGD(), Newton(), SFN(damping=0.1)) if methods is None else methods)
    ]
    for flow in flows:
        if dim == 2:  # it moves the points where flow lines end
            undecayed(flow.method, who, metrics=True)
        if flow.metric is not None:
            flow.gradient_law  # noqa: B018 - raises where its SDE is not known
    if not flows:
        raise ValueError("`methods` must hold at least one method.")
    return flows


def shared_fields(flows: list[Flow], found: CriticalPoints, **asked: Any) -> dict[str, Any]:
    """The fields that both results have; what was `asked` beside the flows goes into the provenance."""
    return {
        "objective": repr(flows[0].objective),
        "methods": np.array(told_apart(flow.method for flow in flows)),
        "kinds": np.array([point.kind for point in found], dtype="U10"),
        "provenance": provenance(
            methods=[repr(flow.method) for flow in flows],
            variables=flows[0].variables,
            noise=repr(flows[0].noise_model),
            remembered=[list(flow.remembered) for flow in flows],
            **asked,
        ),
    }
