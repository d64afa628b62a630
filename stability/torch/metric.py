"""An optimizer of PyTorch as it stands: its metric, memory and weight decay, read from its state."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .. import _check
from ..advice.optimizer import ANSWERS, Optimizer
from ..methods.memory import Memory
from . import optimizer as lrsfn

Group = dict[str, Any]
State = Mapping[str, Any]
Root = Callable[[torch.Tensor], torch.Tensor]

_YOUNG = 1.05  # from where on it is told how many times bias correction makes steps longer

_MODEL_OF = (
    "`metric=lambda p, state, group: 1 / (state['exp_avg_sq'].sqrt() + group['eps'])` and `momentum=0.9`"
)


@dataclass(frozen=True)
class Rule:
    """How one optimizer's options and state are read.

    Attributes
    ----------
    metric : callable or None
        ``(state, group) -> P``'s diagonal for one parameter; None for the identity.
    memory : callable
        ``group -> Memory or None``.
    needs : tuple of str
        What a parameter's state must hold; before the first step it holds nothing.
    squares : callable or None
        Given the batch gradient's second moment and the group, the state that a first step would leave.
    decoupled : callable
        ``group -> bool``.
    """

    metric: Callable[[State, Group], torch.Tensor] | None
    memory: Callable[[Group], Memory | None]
    needs: tuple[str, ...] = ()
    squares: Callable[[torch.Tensor, Group], State] | None = None
    decoupled: Callable[[Group], bool] = lambda group: False
    scale: Callable[[Group], float] = lambda group: 1.0
    note: str = ""


def _heavy(group: Group) -> Memory | None:
    beta = float(group.get("momentum", 0.0))
    return Memory(beta, nesterov=bool(group.get("nesterov", False))) if beta else None


def _averaged(group: Group) -> Memory | None:
    beta = float(group["betas"][0])
    return Memory(beta, average=True) if beta else None


def _ahead(group: Group) -> Memory | None:
    beta = float(group["betas"][0])
    return Memory(beta, nesterov=True, average=True) if beta else None


def _second(state: State, group: Group) -> torch.Tensor:
    """Adam's second moments, corrected for the steps so far; the largest ones with `amsgrad`."""
    name = "max_exp_avg_sq" if group.get("amsgrad") else "exp_avg_sq"
    # torch keeps the largest of the uncorrected moments, and corrects it with the others.
    return state[name] / (1 - float(group["betas"][1]) ** float(state["step"]))


def _lengthening(state: State, group: Group) -> float:
    """How many times longer bias correction of the buffer makes a step, now: ``1 / (1 - beta1^t)``."""
    return 1 / (1 - float(group["betas"][0]) ** float(state["step"]))


def _adaptive(state: State, group: Group) -> torch.Tensor:
    return 1 / (_second(state, group).sqrt() + group["eps"])


def _adam(state: State, group: Group) -> torch.Tensor:
    return _lengthening(state, group) * _adaptive(state, group)


def _adamax(state: State, group: Group) -> torch.Tensor:
    # No eps: torch adds it to each gradient before the largest is taken.
    return _lengthening(state, group) / state["exp_inf"]


def _radam(state: State, group: Group) -> torch.Tensor:
    beta2, t = float(group["betas"][1]), float(state["step"])
    # The lengths of the averages that the squares have been over, and will be: with fewer than five the step
    # is torch's plain one, since the variance of a quotient by so few is not known.
    longest = 2 / (1 - beta2) - 1
    length = longest - 2 * t * beta2**t / (1 - beta2**t)
    if length <= 5:
        return _lengthening(state, group) * torch.ones_like(state["exp_avg_sq"])
    known = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
    # The square root is corrected, not what eps is added to, as in Adam: torch's order here.
    corrected = math.sqrt(1 - beta2**t) * _lengthening(state, group)
    return math.sqrt(known) * corrected / (state["exp_avg_sq"].sqrt() + group["eps"])


def _rmsprop(state: State, group: Group) -> torch.Tensor:
    v = state["square_avg"]
    if group.get("centered"):
        # A difference of two running means, which rounding takes below zero.
        v = (v - state["grad_avg"] ** 2).clamp_min(0)
    return 1 / (v.sqrt() + group["eps"])


def _adagrad(state: State, group: Group) -> torch.Tensor:
    # torch counts from its first step, whose length is not shortened; before it there is nothing to count.
    slower = 1 + max(float(state["step"]) - 1, 0) * group["lr_decay"]
    return 1 / (slower * (state["sum"].sqrt() + group["eps"]))


def _seen_once(*names: str) -> Callable[[torch.Tensor, Group], State]:
    """The state of a parameter whose averages hold one second moment, wholly corrected."""

    def state(squares: torch.Tensor, group: Group) -> State:
        # At an infinite step all bias corrections are 1.
        return {**dict.fromkeys(names, squares), "grad_avg": torch.zeros_like(squares), "step": math.inf}

    return state


_TORCH = torch.optim
RULES: dict[type, Rule] = {
    # Dampening shrinks what enters the buffer; torch asks for it with momentum alone.
    _TORCH.SGD: Rule(None, _heavy, scale=lambda g: 1 - float(g.get("dampening", 0.0)) * bool(g["momentum"])),
    _TORCH.Adam: Rule(
        _adam,
        _averaged,
        ("exp_avg_sq", "step"),
        _seen_once("exp_avg_sq", "max_exp_avg_sq"),
        lambda group: bool(group.get("decoupled_weight_decay", False)),
    ),
    _TORCH.NAdam: Rule(
        _adaptive,
        _ahead,
        ("exp_avg_sq", "step"),
        _seen_once("exp_avg_sq"),
        lambda group: bool(group.get("decoupled_weight_decay", False)),
        note="NAdam's momentum is taken as its schedule ends.",
    ),
    _TORCH.RAdam: Rule(
        _radam,
        _averaged,
        ("exp_avg_sq", "step"),
        _seen_once("exp_avg_sq"),
        lambda group: bool(group.get("decoupled_weight_decay", False)),
    ),
    _TORCH.Adamax: Rule(
        _adamax,
        _averaged,
        ("exp_inf", "step"),
        lambda squares, group: {"exp_inf": squares.sqrt() + group["eps"], "step": math.inf},
    ),
    _TORCH.RMSprop: Rule(_rmsprop, _heavy, ("square_avg",), _seen_once("square_avg")),
    _TORCH.Adagrad: Rule(_adagrad, lambda group: None, ("sum", "step"), None),
}
RULES[_TORCH.AdamW] = Rule(
    _adam, _averaged, ("exp_avg_sq", "step"), RULES[_TORCH.Adam].squares, lambda group: True
)


def rule_of(optimizer: torch.optim.Optimizer) -> Rule | None:
    """The rule of one of torch's own optimizers; None for others, and for those that step differently."""
    # The nearest ancestor with a rule counts: AdamW is a kind of Adam, and has a rule of its own.
    for kind in type(optimizer).__mro__:
        if kind in RULES:
            return RULES[kind] if _steps_as(type(optimizer), kind) else None
    return None


def _steps_as(kind: type, base: type) -> bool:
    # A subclass with a `step` of its own may do anything; hooks and defaults of its own change nothing.
    return kind is base or not any("step" in vars(k) for k in kind.__mro__[: kind.__mro__.index(base)])


class Chosen:
    """The parameters that an optimizer moves, in its order, with their groups.

    Attributes
    ----------
    params, names, owners : lists
        Of the same length: tensors, their names in the model, and the numbers of their groups.
    groups : list of dict
        Those that move something.
    """

    def __init__(self, model: torch.nn.Module, loss: Any, optimizer: torch.optim.Optimizer):
        _check_place(model)
        modules = [model, *([loss] if isinstance(loss, torch.nn.Module) else [])]
        known = {id(p): name for m in modules for name, p in m.named_parameters()}
        self.optimizer = optimizer
        if any("lr" not in group for group in optimizer.param_groups):
            raise ValueError(
                f"`optimizer` must call its learning rate lr in all groups; {type(optimizer).__name__} does "
                "not. Say for each group: group['lr'] = the step that it takes."
            )
        # A group at lr 0 is frozen, as warm-ups and fine-tuning leave it: it bounds no step.
        moving = [g for g in optimizer.param_groups if float(g["lr"]) > 0]
        self.groups = [g for g in moving if any(p.requires_grad for p in g["params"])]
        # An empty group, as of a model without biases, is nothing to tell of.
        self.still = sum(bool(group["params"]) for group in optimizer.param_groups) - len(self.groups)
        pairs = [(p, i) for i, g in enumerate(self.groups) for p in g["params"] if p.requires_grad]
        self.params = [p for p, _ in pairs]
        self.owners = [i for _, i in pairs]
        if not self.params:
            raise ValueError(
                "`optimizer` must move something; none of its parameters requires a gradient at an lr "
                "above 0. Call requires_grad_() on those to train, and set lr."
            )
        strange = [tuple(p.shape) for p in self.params if id(p) not in known]
        if strange:
            raise ValueError(
                f"`optimizer` must hold parameters of `model`; one of shape {strange[0]} is none of them. "
                "Build it from the model that is trained, model.parameters()."
            )
        self.names = [known[id(p)] for p in self.params]
        for p, name in zip(self.params, self.names, strict=True):
            _check_parameter(p, name, self.params[0])

    @property
    def sizes(self) -> list[int]:
        """Of the parameters."""
        return [p.numel() for p in self.params]

    def state(self, p: torch.Tensor) -> State:
        """What the optimizer knows of a parameter; nothing before its first step."""
        return self.optimizer.state.get(p, {})

    def flat(self, parts: Sequence[torch.Tensor], like: torch.Tensor) -> torch.Tensor:
        """One vector (n,) from a tensor for each parameter."""
        return torch.cat([part.detach().to(like).reshape(-1) for part in parts])


def _check_place(model: torch.nn.Module) -> None:
    """Raise where a tensor of the model, moved by the optimizer or not, has no numbers."""
    for name, t in itertools.chain(model.named_parameters(), model.named_buffers()):
        if torch.nn.parameter.is_lazy(t):
            raise ValueError(
                f"`model` must have parameters of known shapes; {name} has none yet. Call the model on a "
                "batch once, and build the optimizer after that."
            )
        if t.is_meta:
            raise ValueError(
                f"`model` must have numbers in it; {name} is on the meta device. Call "
                "model.to_empty(device='cpu') and load its weights."
            )


def _check_parameter(p: torch.Tensor, name: str, first: torch.Tensor) -> None:
    if p.layout != torch.strided:
        raise ValueError(f"`model` must have dense parameters; {name} is {p.layout}. Convert it: to_dense().")
    if not p.is_floating_point():
        raise ValueError(
            f"`model` must have real parameters; {name} is {p.dtype}. Use its real and imaginary parts."
        )
    if p.device != first.device:
        raise ValueError(
            f"`model` must lie on one device; {name} is on {p.device}, others are on {first.device}. Move a "
            "copy of it to one, model.to(device), and ask there."
        )


def read(
    chosen: Chosen,
    place: Any,
    batch: int,
    metric: Any = None,
    momentum: Any = None,
    notes: Sequence[str] = (),
) -> Optimizer:
    """An optimizer as it stands, for `stability.advice`."""
    optimizer, groups = chosen.optimizer, chosen.groups
    rule = rule_of(optimizer)
    own = isinstance(optimizer, lrsfn.LRSFN)
    told = list(notes)
    root: Root | None
    memory: Callable[[Group], Memory | None] = _heavy
    if rule is None and not own:
        rule = _told(optimizer, metric, momentum)
    if chosen.still:
        told.append(f"Parameters that do not move are left out: {_check.counted(chosen.still, 'group')}.")
    if metric is not None:
        root = _diagonal(_given(chosen, metric), chosen, place)
    elif own:
        root = _low_rank(chosen, place)
    elif rule is not None and rule.metric is not None:
        root = _diagonal(_read(chosen, rule, place, batch, told), chosen, place)
        told.append(ANSWERS)
    else:
        root = _scaled([rule.scale(g) for g in groups] if rule else [], chosen, place)
    if rule is not None:
        memory = rule.memory
        told += [rule.note] if rule.note else []
    decoupled = _common("weight_decay", [rule.decoupled(g) for g in groups]) if rule else False
    return Optimizer(
        steps=[float(g["lr"]) for g in groups],
        groups=np.repeat(np.array(chosen.owners, dtype=np.int16), chosen.sizes),
        root=root,
        memory=_memory(momentum)
        if momentum is not None
        else _common("momentum", [memory(g) for g in groups]),
        weight_decay=[float(g.get("weight_decay", 0.0)) for g in groups],
        decoupled=decoupled,
        label=type(optimizer).__name__,
        notes=tuple(told),
    )


def _told(optimizer: torch.optim.Optimizer, metric: Any, momentum: Any) -> Rule:
    """The rule of an optimizer that the caller describes."""
    name = type(optimizer).__name__
    if isinstance(optimizer, torch.optim.LBFGS):
        raise ValueError(
            "`optimizer` must take steps of one kind; LBFGS evaluates its closure again and again in a "
            "step, and searches along lines. Ask with the optimizer that follows it, torch.optim.SGD, say."
        )
    if metric is None or momentum is None:
        known = ", ".join(sorted(kind.__name__ for kind in RULES))
        raise ValueError(
            f"`optimizer` must be one whose metric is known, {known} or LRSFN, or be told of; got {name}. "
            f"Give both of {_MODEL_OF}, say, or metric=1.0 and momentum=0 where it has none."
        )
    return Rule(None, lambda group: None)


def _common(what: str, found: Sequence[Any]) -> Any:
    if any(one != found[0] for one in found):
        raise ValueError(
            f"`optimizer` must have the same kind of {what} in all groups; got "
            f"{', '.join(map(str, found))}. Use one optimizer for each, and ask for each."
        )
    return found[0]


def _memory(momentum: Any) -> Memory | None:
    """What `momentum` says: a number, or a method of this package that has a memory."""
    if isinstance(momentum, Memory):
        return momentum
    held = getattr(momentum, "memory", None) or getattr(momentum, "averaging", None)
    if isinstance(held, Memory):
        return held
    if not isinstance(momentum, (int, float)):
        raise ValueError(
            "`momentum` must be the decay of a buffer u+ = beta u + g, a number in [0, 1), or a method "
            "that has one, as stability.Adam(beta1=0.9) or stability.Momentum(stability.SGD()); got "
            f"{momentum!r}."
        )
    beta = _check.fraction("momentum", momentum)
    return Memory(beta) if beta else None


def _diagonal(parts: Sequence[torch.Tensor], chosen: Chosen, place: Any) -> Root:
    """``P^(1/2) V`` from the diagonal of P, a tensor for each parameter."""
    root = chosen.flat(parts, place.whole.w).sqrt()
    if not bool(torch.isfinite(root).all() and (root > 0).all()):
        raise ValueError(
            "The metric must be positive and finite; got one that is not. Raise the optimizer's eps, or give "
            "`metric`."
        )
    return lambda V: root[:, None] * V


def _scaled(scales: Sequence[float], chosen: Chosen, place: Any) -> Root | None:
    """The root of a number for each group; None where all are 1."""
    if all(scale == 1 for scale in scales):
        return None
    parts = [scales[i] * torch.ones_like(p) for i, p in zip(chosen.owners, chosen.params, strict=True)]
    return _diagonal(parts, chosen, place)


def _given(chosen: Chosen, metric: Any) -> list[torch.Tensor]:
    """The diagonal that the caller gives: a number, a function, or a tensor for each parameter."""
    if callable(metric):
        found = [
            metric(p.detach(), chosen.state(p), chosen.groups[i])
            for p, i in zip(chosen.params, chosen.owners, strict=True)
        ]
    elif isinstance(metric, Mapping):
        lacking = [name for name in chosen.names if name not in metric]
        if lacking:
            raise ValueError(
                f"`metric` must hold every parameter by its name; {lacking[0]} is missing. Add it."
            )
        found = [metric[name] for name in chosen.names]
    elif isinstance(metric, Sequence):
        found = list(metric)
    else:
        found = [metric] * len(chosen.params)
    if len(found) != len(chosen.params):
        raise ValueError(
            f"`metric` must hold a tensor for each of {len(chosen.params)} parameters; got {len(found)}. "
            "Give a function of (p, state, group)."
        )
    return [
        _shaped(value, p, name) for value, p, name in zip(found, chosen.params, chosen.names, strict=True)
    ]


def _shaped(value: Any, p: torch.Tensor, name: str) -> torch.Tensor:
    try:
        return torch.as_tensor(value, device=p.device).expand(p.shape)
    except (TypeError, ValueError, RuntimeError) as error:
        shape = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
        raise ValueError(
            f"`metric` must have the shape {tuple(p.shape)} of {name}; got {shape}. Give the diagonal of P, "
            "one positive number for each entry."
        ) from error


def _read(chosen: Chosen, rule: Rule, place: Any, batch: int, told: list[str]) -> list[torch.Tensor]:
    """The diagonal that the optimizer's state says, with a guess for parameters that have none yet."""
    states = [chosen.state(p) for p in chosen.params]
    fresh = [
        not all(name in state for name in rule.needs) or float(state.get("step", 1)) == 0 for state in states
    ]
    if any(fresh):
        squares = _first_squares(chosen, rule, place, batch)
        told.append(
            f"{'Before its first step' if all(fresh) else 'Where it has not stepped'} the optimizer's second "
            "moments are assumed to be those of a batch's gradients here; ask again after some steps."
        )
    found = []
    for i, (p, state) in enumerate(zip(chosen.params, states, strict=True)):
        group = chosen.groups[chosen.owners[i]]
        if fresh[i]:
            assert rule.squares is not None
            state = rule.squares(squares[i].view(p.shape), group)
        elif any(tuple(state[n].shape) != tuple(p.shape) for n in rule.needs if n != "step"):
            was = next(tuple(state[n].shape) for n in rule.needs if n != "step")
            raise ValueError(
                f"`optimizer` must know the parameters as they are; {chosen.names[i]} has shape "
                f"{tuple(p.shape)}, and its state is of {was}. Build the optimizer anew after changing the "
                "model."
            )
        found.append(rule.metric(state, group))  # type: ignore[misc]
    if rule.metric in (_adam, _radam, _adamax):
        longer = [
            _lengthening(state, chosen.groups[owner])
            for state, owner, new in zip(states, chosen.owners, fresh, strict=True)
            if not new
        ]
        if max(longer, default=1.0) > _YOUNG:
            told.append(
                f"Bias correction of young momentum makes steps {max(longer):.3g} times as long as later, "
                "and the limit as much lower: ask again after some steps."
            )
    return found


def _first_squares(chosen: Chosen, rule: Rule, place: Any, batch: int) -> Sequence[torch.Tensor]:
    """``E[g_b^2]`` of batches here, for each parameter."""
    if rule.squares is None:
        raise ValueError(
            f"`optimizer` must have taken a step: {type(chosen.optimizer).__name__} sums all squares since "
            "its first. Ask after some steps."
        )
    g, squares = place.gradient(), place.second_moment()
    # The mean of b samples has the mean's square and a b-th of their variance, which rounding takes below
    # zero.
    return (g**2 + (squares - g**2).clamp_min(0) / batch).split(chosen.sizes)


def _low_rank(chosen: Chosen, place: Any) -> Root:
    """``P^(1/2) V`` of low-rank saddle-free Newton, block by block, as it stands between two refreshes."""
    blocks = []
    for group in chosen.groups:
        state = chosen.state(group["params"][0])
        if not state or state["vectors"] is None:
            raise ValueError(
                "`optimizer` must have taken a step: LRSFN knows no curvature before. Call step(closure)."
            )
        if group["tail"] == "adaptive":
            raise ValueError(
                "`optimizer` must have a metric with a symmetric root; LRSFN's adaptive tail has none. Ask "
                "optimizer.report(closure=...), or make it with tail='flat'."
            )
        modes = lrsfn.kept_modes(group, dict(state))
        gains = torch.as_tensor(np.sqrt(modes.gains), dtype=place.whole.dtype, device=place.whole.device)
        blocks.append((state["vectors"], gains, math.sqrt(modes.tail_gain)))

    def root(V: torch.Tensor) -> torch.Tensor:
        pieces = V.split([len(U) for U, _, _ in blocks])
        return torch.cat(
            [
                # P^(1/2) is the tail's root on all of the block, and what kept modes differ from it.
                tail * piece + U @ ((gains - tail)[:, None] * (U.T @ piece))
                for (U, gains, tail), piece in zip(blocks, pieces, strict=True)
            ]
        )

    return root
