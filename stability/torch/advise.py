"""Advice on a network in training: the largest stable step of its optimizer as it stands."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from .. import _check
from ..advice.advise import BUDGET, HORIZON, SAMPLES, enough, examine
from ..advice.result import Advice
from ..lowrank.operator import BadProducts, NotFinite
from .along import PAIRS
from .batches import Looked, look
from .culprit import culprit
from .losses import drops, keeps_batch_statistics, returns_mean
from .metric import Chosen, read
from .place import NetworkPlace
from .products import Products
from .still import untouched
from .whole import Whole, takes_two


@_check.by_name
def advise(
    model: torch.nn.Module,
    loss: Callable[[Any, Any], Any],
    data: Any,
    optimizer: torch.optim.Optimizer,
    *,
    batch: int | None = None,
    samples: int = SAMPLES,
    budget: float = BUDGET / 2,
    horizon: int = HORIZON,
    metric: Any = None,
    momentum: Any = None,
    clip: float | None = None,
    accumulate: int = 1,
    memory: float | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Advice:
    """How large a step this optimizer may take here, and what batch noise costs.

    Nothing is changed: not the model (parameters, buffers, gradients, modes), not the optimizer, not a random
    generator. All is measured in the modes that the modules are in: in training mode dropout draws one mask
    for each sample, and batch norm takes the statistics of batches of `batch`. Half precision is replaced by
    single precision.

    Examples
    --------
    >>> import torch
    >>> from torch.nn import functional as F
    >>> from stability.torch import advise
    >>> seeded = torch.manual_seed(0)
    >>> x = torch.randn(200, 3)
    >>> model = torch.nn.Linear(3, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> def loss(model, batch):
    ...     x, y = batch
    ...     return F.mse_loss(model(x), y, reduction="none").mean(1)
    >>> advice = advise(model, loss, (x, x.sum(1, keepdim=True)), optimizer, batch=20)
    >>> advice.step_limit < advice.deterministic_limit  # batch noise lowers it
    True

    Parameters
    ----------
    model : torch.nn.Module
    loss : callable
        ``loss(model, batch)`` returns one loss for each sample, shape (b,), or their mean; it neither calls
        backward nor moves anything.
    data : DataLoader, Dataset, tensors, or list of batches
        What training draws its batches from. Tensors, alone or in a tuple or dict, have their samples along
        the first axis.
    optimizer : torch.optim.Optimizer
        SGD, Adam, AdamW, NAdam, RAdam, Adamax, RMSprop, Adagrad, or this package's LRSFN; others with
        `metric` and `momentum`.
    batch : int, optional
        Samples in a batch; by default the DataLoader's, and of tensors all, with a warning: no batch noise.
    samples : int
        How many to look at, drawn at random from `data`.
    budget : float
        Work, in Hessian products over all looked-at samples, each worth two of their gradients.
    horizon : int
        Iterations over which the noise floor builds up.
    metric : optional
        The diagonal of P in ``w+ = w - lr P (buffer of) g``: a function ``metric(p, state, group)`` of a
        parameter, what the optimizer's state holds for it, and its group; tensors for all parameters, in a
        list or by name; or a number.
    momentum : float or Method, optional
        The decay of a buffer ``u+ = beta u + g``, or a method whose memory to take, such as
        ``stability.Adam(beta1=0.9)``, whose buffer is an average. Both may correct what is read from the
        state too.
    clip : float, optional
        The norm that gradients are clipped at: the advice then says how much of a step is left.
    accumulate : int
        Batches whose gradients are added up for one step.
    memory : float, optional
        Bytes that an evaluation may keep for its derivatives, beyond what a single sample needs: samples are
        taken in parts accordingly. 64 MB by default, or 16 vectors of parameters where they are larger.
    seed : int
        Of the samples, masks and directions.
    progress : bool
        Whether a bar is drawn, in a terminal or a notebook.

    Returns
    -------
    Advice
        With what is known by then, where it is interrupted.

    Raises
    ------
    ValueError
        If the loss is no function of the parameters, has no second derivative, or is not finite; if `data`
        has fewer than two samples, the model lies on several devices or on none, or the metric is not known.
    """
    gradients = enough(budget, worth=2)
    with here(model, loss, optimizer) as chosen, of_the_loss():
        if accumulate != 1:
            _check.count("accumulate", accumulate)
        looked = look(data, batch, samples, _check.seed(seed))
        whole = Whole(model, signed(loss, chosen), chosen.params, seed)
        place = placed(whole, looked, memory=memory, pairs=PAIRS * gradients / BUDGET)
        size = step_size(looked.batch, looked.population, accumulate)
        notes = [*conditions(place, looked), *_accumulated(looked, accumulate), *_clipped(place, clip, size)]
        seen = read(chosen, place, size, metric, momentum, notes)
        return examine(
            place,
            optimizer=replace(seen, cost=place.work.total),  # all so far is a part of the budget
            batch=size,
            budget=gradients,
            horizon=horizon,
            seed=seed,
            progress=progress,
        )


@contextmanager
def here(model: Any, loss: Any, optimizer: Any) -> Iterator[Chosen]:
    """The parameters that an optimizer moves, and the model as it was when they are left."""
    if not isinstance(model, torch.nn.Module):
        raise ValueError(f"`model` must be a torch.nn.Module; got {model!r}. Wrap its parameters in one.")
    if hasattr(model, "_orig_mod"):
        raise ValueError(
            "`model` must not be compiled: what torch.compile makes has no second derivative. Pass what was "
            "compiled, model._orig_mod, which holds the same parameters."
        )
    if len(getattr(model, "device_ids", None) or []) > 1:
        raise ValueError(
            f"`model` must lie on one device; this {type(model).__name__} is spread over "
            f"{model.device_ids}. Pass model.module."
        )
    if isinstance(loss, torch.nn.modules.loss._Loss):
        raise ValueError(
            f"`loss` must be a function of the model and a batch; got {loss!r}, of outputs and targets. "
            "Write lambda model, batch: criterion(model(batch[0]), batch[1])."
        )
    if not callable(loss) or not takes_two(loss):
        raise ValueError(
            f"`loss` must be a function of the model and a batch; got {loss!r}. Write loss(model, batch), "
            "with nothing bound: closures of torch.optim know no samples."
        )
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ValueError(
            f"`optimizer` must be a torch.optim.Optimizer; got {optimizer!r}. Of a wrapper pass the "
            "optimizer inside."
        )
    chosen = Chosen(model, loss, optimizer)
    with untouched(model, chosen.params[0].device):
        yield chosen


@contextmanager
def of_the_loss() -> Iterator[None]:
    """What is wrong with products, in the words of who gave a loss."""
    try:
        yield
    except NotFinite as error:
        raise ValueError(
            "`loss` must have a finite second derivative; here some of it is nan or infinite. Ask where "
            "training is, before it diverged, and keep square roots and norms off 0 by a small eps."
        ) from error
    except BadProducts as error:
        raise ValueError(
            "`loss` must have a symmetric second derivative; it differs from its transpose. Check operations "
            "with derivatives of your own by torch.autograd.gradgradcheck, and draw nothing but by torch."
        ) from error


def _follows(losses: torch.Tensor, w: torch.Tensor) -> bool:
    """Whether losses with a graph have the parameters in it, and not only something else that is trained."""
    try:
        return torch.autograd.grad(losses.sum(), w, retain_graph=True, allow_unused=True)[0] is not None
    except (RuntimeError, NotImplementedError, ValueError):  # which operation refuses is told later
        return True


def placed(whole: Whole, looked: Looked, **options: Any) -> NetworkPlace:
    """The network's place, once its loss was seen to be one that can be examined."""
    part = whole.placed(looked.first(8))
    returns_mean(whole, part)
    w = whole.w.clone().requires_grad_()
    # A slope that may itself be differentiated: or what is differentiable once lets its mistake pass.
    slope = torch.ones((), dtype=whole.dtype, device=whole.device, requires_grad=True)
    losses = whole(w, part)
    total = (slope * losses).sum()
    if not losses.requires_grad or not _follows(losses, w):
        raise ValueError(
            "`loss` must depend on the parameters; this one does not. Compute it from model(...) of the "
            "model that it is given, without detach(), argmax or torch.no_grad()."
        )
    try:
        Products(total, [w], ["w"])(torch.zeros_like(whole.w)[:, None])
    except (RuntimeError, NotImplementedError, ValueError) as error:
        name = culprit(whole, part)
        if name is None:
            raise
        raise ValueError(
            f"`loss` must be differentiable twice; it is not in {name}. Replace an operation there that has "
            "a first derivative alone."
        ) from error
    place = NetworkPlace(whole, looked, **options)
    require_finite(place.gradient())
    return place


def require_finite(found: torch.Tensor) -> None:
    """Raise where a loss, or its gradient, is not finite."""
    if not bool(torch.isfinite(found).all()):
        raise ValueError(
            "`loss` must be finite, and its gradient; at these parameters one is nan or infinite. Ask where "
            "training is, before it diverged, and check the data for missing values."
        )


def signed(loss: Callable[..., Any], chosen: Chosen) -> Callable[..., Any]:
    """The loss that an optimizer lowers: one that maximizes lowers minus the loss."""
    up = {bool(group.get("maximize", False)) for group in chosen.groups}
    if len(up) > 1:
        raise ValueError(
            "`optimizer` must maximize in all groups or in none. Use one optimizer for each, and ask "
            "for each."
        )
    return (lambda model, batch: -loss(model, batch)) if up == {True} else loss


def conditions(place: NetworkPlace, looked: Looked) -> list[str]:
    """What was measured in which mode, a sentence each."""
    model, cut = place.whole.model, place.single.cut
    found = [] if cut is None else list(cut.notes)
    if keeps_batch_statistics(model):
        found.append(f"Batch norm takes its statistics from batches of {looked.batch}, as in training.")
    elif any(isinstance(m, torch.nn.modules.batchnorm._BatchNorm) for m in model.modules()):
        found.append(
            "Batch norm takes its running means, as in evaluation mode: call model.train() for training's."
        )
    dropout = [m for m in model.modules() if isinstance(m, torch.nn.modules.dropout._DropoutNd) and m.p > 0]
    if drops(model):
        found.append("Dropout is on: each sample has a mask of its own, which counts as batch noise.")
    elif dropout:
        found.append("Dropout is off, as in evaluation mode: call model.train() for training's noise.")
    if place.whole.halves or place.whole.still.widened:
        found.append("Curvature was computed in single precision, where training uses half.")
    return found


def step_size(batch: int, population: float, accumulate: int) -> int:
    """Samples of a step whose gradients are added up over some batches."""
    if batch * accumulate > population:
        raise ValueError(
            f"`accumulate` must be at most {population // batch:g}, for as many batches of {batch} as the "
            f"data has; got {accumulate}. Give fewer, or a smaller `batch`."
        )
    return batch * accumulate


def _accumulated(looked: Looked, accumulate: int) -> list[str]:
    if accumulate == 1:
        return []
    size = looked.batch
    return [f"{accumulate} batches of {size} make a step of {size * accumulate} samples."]


def _clipped(place: NetworkPlace, clip: float | None, batch: int) -> list[str]:
    """What clipping leaves of a step here."""
    if clip is None:
        return []
    clip = _check.positive("clip", clip)
    g, squares = place.gradient(), float(place.second_moment().sum())
    mean = float(g @ g)
    norm = math.sqrt(mean + max(squares - mean, 0.0) / batch)
    if norm <= clip:
        return [f"Clipping at {clip:g} seldom acts here: a batch's gradient has norm {norm:.3g}."]
    return [
        f"Clipping at {clip:g} shortens steps to about {clip / norm:.2g} of lr here, where a batch's "
        f"gradient has norm {norm:.3g}: the limit is that of the shortened step, lr may be larger by as "
        "much."
    ]
