"""What an optimizer saves: options of each group and its state, checked before they are read back."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any

import torch

from .. import _check
from ..advice.untuned import Trust
from ..lowrank.sample_space import SampleSpace
from ..methods.method import LRSFN
from .residuals import LOSSES

COUNTS = ("age", "refreshes", "products", "steps", "skipped")
CURVATURES = ("hessian", "gauss-newton")
TAILS = ("adaptive", "damping", "flat")
_RENAMED = {"noise": "noise_margin"}
_LATER = {"curvature": "hessian", "loss": None, "untuned": False}
"""Options that earlier versions did not have."""
FRESH: dict[str, Any] = {
    **dict.fromkeys(COUNTS, 0),
    **dict.fromkeys(("vectors", "velocity", "batch", "hessian_batch", "sampled")),
    **{"eigenvalues": [], "std": [], "next_eigenvalue": math.nan, "scale": 0.0},
    # Of an adaptive tail, and of a group that nobody chose numbers for.
    **{"second": None, "observed": 0, "probe": None, "top": 0.0, "length": 1.0, "best": None, "trust": None},
}
"""The state of a group before its first step."""
_LATER_STATE = ("sampled", "second", "observed", "probe", "top", "length", "best", "trust")


def check_options(group: dict[str, Any]) -> None:
    """Raise unless a group's options are within their ranges; a scheduler may have brought `lr` to 0."""
    _check.nonnegative("lr", group["lr"])
    sampled = _check.choice("curvature", group["curvature"], CURVATURES) != "hessian"
    if group["loss"] is not None:
        _check.choice("loss", group["loss"], LOSSES)
        if not sampled:
            raise ValueError("`loss` is for curvature='gauss-newton'. Leave it out, or give that curvature.")
    measured = (sampled or group["untuned"]) and group["damping"] is None
    flat = "flat" if group["tail"] == "adaptive" else _check.choice("tail", group["tail"], TAILS)
    # Made and thrown away: the method checks its own numbers, in the words that it has for them.
    LRSFN(rank=group["rank"], damping=1.0 if measured else group["damping"], tail=flat)
    _check.count("refresh", group["refresh"])
    if not (sampled and group["momentum"] is None):
        _check.fraction("momentum", group["momentum"])
    _check.seed(group["seed"])
    for name in ("weight_decay", "noise_margin"):
        _check.nonnegative(name, group[name])
    if group["hessian_batch"] is not None:
        _check.count("hessian_batch", group["hessian_batch"])


def follow(state: dict[str, Any], p: torch.Tensor) -> None:
    """Bring a group's state where its parameters are now, and to their type."""
    for name, kept in state.items():
        if isinstance(kept, torch.Tensor) and (kept.dtype, kept.device) != (p.dtype, p.device):
            state[name] = kept.to(p)


def renewed(state_dict: Any) -> Any:
    """A state that an earlier version saved, under today's names of the options."""
    try:
        groups = [
            {**_LATER, **{_RENAMED.get(k, k): v for k, v in group.items()}}
            for group in state_dict["param_groups"]
        ]
        states = {
            key: {**{n: FRESH[n] for n in _LATER_STATE}, **state} if "vectors" in state else state
            for key, state in state_dict["state"].items()
        }
        return {**state_dict, "param_groups": groups, "state": states}
    except (KeyError, TypeError, AttributeError):
        return state_dict  # `check` says what is wrong with it


def check(state_dict: Any, sizes: Sequence[int]) -> None:
    """Raise unless `state_dict` was saved by this optimizer, for groups of these sizes, and is whole."""
    try:
        groups, states = state_dict["param_groups"], state_dict["state"]
        if len(groups) != len(sizes):
            raise ValueError(f"it has {len(groups)} parameter groups, not {len(sizes)}")
        for group, size in zip(groups, sizes, strict=True):
            check_options(group)
            if group["params"][0] in states:
                _check_state(states[group["params"][0]], size, min(group["rank"], size))
    except KeyError as error:
        raise ValueError(
            f"`state_dict` must be what LRSFN.state_dict() returned; got one without {error}, of another "
            "optimizer or damaged."
        ) from None
    except (TypeError, AttributeError, IndexError, ValueError) as error:
        raise ValueError(
            "`state_dict` must be what LRSFN.state_dict() returned, for the same parameters; this one is "
            f"not: {error}"
        ) from None


def _check_state(state: dict[str, Any], size: int, rank: int) -> None:
    # A name that is missing raises KeyError here, which `check` puts into words.
    if {name: state[name] for name in FRESH}.keys() != state.keys():
        raise ValueError(f"its state holds {', '.join(sorted(map(str, state.keys() - FRESH.keys())))}")
    for name in COUNTS:
        _check.count(name, state[name], least=0)
    for name in ("batch", "hessian_batch"):
        if state[name] is not None:
            _check.count(name, state[name])
    if state["sampled"] is None:
        _check_tensor("velocity", state["velocity"], (size,))
    else:
        SampleSpace(**state["sampled"])  # raises TypeError for what is none
    for name in ("second", "probe", "best"):
        _check_tensor(name, state[name], (size,))
    _check.count("observed", state["observed"], least=0)
    _check.nonnegative("top", state["top"])
    _check.positive("length", state["length"])
    if state["trust"] is not None:
        Trust.of(state["trust"])  # raises TypeError for what is none
    _check_tensor("vectors", state["vectors"], (size, len(state["eigenvalues"])))
    values = [*state["eigenvalues"], *state["std"], state["next_eigenvalue"]]
    if not all(isinstance(v, numbers.Real) for v in values) or len(state["std"]) != len(state["eigenvalues"]):
        raise ValueError("its eigenvalues are not numbers, each with its standard deviation")
    if not all(map(math.isfinite, state["eigenvalues"])):
        raise ValueError("its eigenvalues are not finite")
    if any(v < 0 or math.isinf(v) for v in state["std"]):  # nan: not known
        raise ValueError("its standard deviations are not numbers >= 0, or nan")
    if state["vectors"] is not None and len(state["eigenvalues"]) != rank:
        raise ValueError(f"it holds {len(state['eigenvalues'])} eigenvalues for `rank`={rank}")
    _check.nonnegative("scale", state["scale"])


def _check_tensor(name: str, value: Any, shape: tuple[int, ...]) -> None:
    if value is None:
        return
    if (
        not isinstance(value, torch.Tensor)
        or tuple(value.shape) != shape
        or not bool(torch.isfinite(value).all())
    ):
        raise ValueError(f"its {name} are not a finite tensor of shape {shape}")
    if (
        value.ndim == 2
        and float((value.T @ value - torch.eye(shape[1], dtype=value.dtype, device=value.device)).abs().max())
        > 1e-3
    ):
        raise ValueError(f"its {name} are not orthonormal")
