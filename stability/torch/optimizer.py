"""Low-rank saddle-free Newton as a `torch.optim.Optimizer`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from .. import _check
from .._streams import stream
from ..advice.untuned import MOMENTUM, NOISE_MARGIN, Course, Trust, floor, step_length
from ..linear.kept import KeptModes, over_batches
from ..lowrank.operator import BadProducts, NotFinite
from ..lowrank.randomized import randomized_eigh
from ..lowrank.result import LowRank
from ..methods import method as methods
from . import saved, tail
from .gradients import Left, detached, notices
from .limit import UNKNOWN, Block, Seen, StepLimit, largest_step
from .products import DTYPES, Batch, Products, flatten, gradient, trainable
from .report import Report, compose
from .residuals import LossesOnly
from .sampled import SampledSteps, SampleReport

SUB_BATCHES = 4
MEMORY = 0.5
"""Share of the flat tail's scale that outlives a refresh: where a batch happens to have little curvature, the
next may not.
"""


HESSIAN: dict[str, Any] = {"lr": 0.1, "damping": 0.1, "momentum": 0.0}
"""What is taken where nothing is given, by curvature."""
SAMPLED: dict[str, Any] = {"lr": 1.0, "damping": None, "momentum": None}
_REST: dict[str, Any] = {
    **{"rank": 20, "refresh": 10, "tail": "flat"},
    **{"noise_margin": 0.0, "hessian_batch": None},
}
UNTUNED: dict[str, Any] = {
    **_REST,
    **{"lr": 1.0, "rank": 10, "damping": None, "momentum": MOMENTUM, "tail": "adaptive"},
}
"""Where no number is given at all."""
STEP = 0.3  # three unit steps once the velocity has gathered
WARMUP = 20  # steps in which they grow to their full length


class LRSFN(torch.optim.Optimizer):
    """Low-rank saddle-free Newton: ``w+ = w - lr * v`` with ``v = momentum * v + P g``.

    Examples
    --------
    >>> import torch
    >>> from stability.torch import LRSFN
    >>> model = torch.nn.Linear(3, 1).double()
    >>> x = torch.randn(64, 3).double() * torch.tensor([1.0, 0.1, 0.01])  # condition number 1e4
    >>> y = x.sum(dim=1, keepdim=True)
    >>> opt = LRSFN(model, lr=1.0, rank=4, damping=1e-8)
    >>> before = opt.step(lambda rows: ((model(x[rows]) - y[rows]) ** 2).mean(dim=1))
    >>> bool(((model(x) - y) ** 2).mean() < 1e-6 * before)  # one step, where gradient descent takes thousands
    True

    Of losses that are squares, all directions of a batch, with nothing to choose:

    >>> model = torch.nn.Linear(3, 1).double()
    >>> opt = LRSFN(model, curvature="gauss-newton", loss="mse")
    >>> losses = [opt.step(lambda rows: (model(x[rows]), y[rows])) for _ in range(20)]
    >>> bool(losses[-1] < 1e-9 * losses[0])
    True

    On the kept eigenvectors ``U`` of the Hessian the preconditioner is ``P = U (|Lambda| + damping)^-1 U^T``;
    `tail` says what it is off them. Each parameter group is an optimizer of its own on one block of the
    Hessian, with its own options; curvature between groups is left out. Everything of the size of the
    parameters stays on their device.

    Parameters
    ----------
    params : torch.nn.Module, or iterable of tensors or of parameter groups
        A module's frozen parameters are left out; a frozen tensor given by itself is an error.
    lr : float or "auto"
        The learning rate; 1 is a full Newton step along the kept eigenvectors. 0.1 by default, 1 with
        Gauss-Newton curvature (of the step that its rule takes, half of a full one where batches are drawn).
        With ``"auto"``, or where no number is given at all, step, damping and refreshes are measured; then
        `lr` is 1, what schedulers multiply measured steps by.
    rank : int
        Eigenpairs kept, largest ``|lambda|`` first; all of a group that has no more parameters. 20 by
        default, 10 where nothing is tuned.
    damping : float
        ``gamma > 0``, in units of curvature; 0.1 by default, measured with Gauss-Newton curvature.
    curvature : {"hessian", "gauss-newton"}
        Of the Hessian, `rank` eigenpairs are kept and renewed every `refresh` steps. Gauss-Newton is for
        losses that are squares or cross-entropies: all directions of the batch, exactly, at every step, by
        the gradients of its residuals one by one. The closure then returns residuals of shape (b, k), whose
        half squares are summed over k and averaged over b, or a tuple of such blocks, which are added up; or
        what `loss` says. `rank`, `hessian_batch`, `refresh`, `tail`, `noise_margin` are the Hessian's alone.
        A closure that returns losses keeps the Hessian, and a warning says so.
    loss : {"mse", "cross-entropy"}, optional
        With Gauss-Newton: the closure returns (outputs, targets), compared as by torch's `mse_loss` or
        `cross_entropy`.
    hessian_batch : int, optional
        Samples, drawn from each batch, that its Hessian is estimated from (a multiple of 4 is used, or fewer
        than 4); the whole batch by default.
    refresh : int
        Steps between eigendecompositions, 10 by default; all but the first start from the last one. Where
        larger batches went before, one of a single sample is left out, unless only such ones come for as many
        steps again. Where nothing is tuned they are 10 at first, and up to 100 as long as curvature is right.
    momentum : float
        In [0, 1); 0 by default, 0.9 where nothing is tuned. With Gauss-Newton, the share of the last
        direction that is kept where batches are drawn: 0.9 by default.
    weight_decay : float
        Adds ``weight_decay |w|^2 / 2`` to the loss: to gradients and to the curvature.
    tail : {"flat", "damping", "adaptive"}
        Gain off the kept eigenvectors: ``1 / (mu + damping)``, where ``mu = max(|lambda_r|, mu_before / 2)``
        stands for what a small batch does not show and is the least size that kept eigenvalues count with;
        or, as published, ``1 / damping``, which is stable only for ``lr < 2 damping / |lambda_{r+1}|``. The
        default of `stability.LRSFN`, the published method, is ``"damping"``. Adaptive is Adam's metric there,
        ``c D^-1/2``, with ``D`` the mean of squares of what gradients have off the kept eigenvectors, and
        ``c`` a share of what the largest curvature in that metric allows; where nothing is tuned it is the
        default, and "flat" else.
    noise_margin : float
        Adds so many standard deviations, over gradient batches, to the size of each kept eigenvalue; Hessian
        batches of one sample do not tell them, and go on with the last ones known.
    seed : int
        Of the Hessian's rows and of the eigensolver.

    Raises
    ------
    ValueError
        If an option is out of range, or parameters are frozen, of several types or devices.

    Notes
    -----
    Where nothing is tuned, kept modes are divided by ``max(|lambda_i| + 4 s_i, mu)``, ``s_i`` their standard
    deviation over batches, and steps are as long as that noise allows. After some steps the batch's loss is
    asked once more: what a step brought, beside what slope and curvature said, shortens steps, lengthens them
    again, renews curvature, or takes the step back; a run whose losses leave the best ones goes back there,
    which counts in `skipped`. Without a closure there is no loss to be asked, and steps stay as measured. A
    schedule that brings `lr` to 0 takes the noise of the last steps away.

    Every option may be set per group, and schedulers may change it. Batch normalisation should be in eval
    mode, or its running means move with every Hessian batch too. Losses whose curvature is wanted are
    evaluated without compilation, and with operations that have a second derivative: attention by its "math"
    kernel, weight norm and sparse embeddings by elementary ones.
    """

    _failure = ""

    @_check.renamed(noise="noise_margin")
    def __init__(
        self,
        params: torch.nn.Module | Iterable[Any],
        lr: float | str | None = None,
        rank: int | None = None,
        damping: float | None = None,
        *,
        curvature: str = "hessian",
        loss: str | None = None,
        hessian_batch: int | None = None,
        refresh: int | None = None,
        momentum: float | None = None,
        weight_decay: float = 0.0,
        tail: str | None = None,
        noise_margin: float | None = None,
        seed: int = 0,
    ):
        given = {
            "lr": lr,
            "rank": rank,
            "damping": damping,
            "hessian_batch": hessian_batch,
            "refresh": refresh,
            "momentum": momentum,
            "tail": tail,
            "noise_margin": noise_margin,
        }
        options = {**_chosen(given, curvature), "curvature": curvature, "loss": loss}
        self._last = Seen()
        self._module = params if isinstance(params, torch.nn.Module) else None
        super().__init__(
            trainable(params),
            {"weight_decay": weight_decay, "seed": seed, **options},
        )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters with options of its own; raises as the constructor does."""
        if "noise" in param_group:
            _check.deprecated("`noise` is called `noise_margin` now")
            param_group["noise_margin"] = param_group.pop("noise")
        super().add_param_group(self._named(param_group))
        try:
            self._check_group(len(self.param_groups) - 1)
        except ValueError:
            self.param_groups.pop()
            raise

    def _named(self, param_group: dict[str, Any]) -> dict[str, Any]:
        """A group with names where the others have some, for torch refuses to mix them."""
        params = param_group["params"]
        if not (self.param_groups and "param_names" in self.param_groups[0]):
            return param_group
        params = [params] if isinstance(params, torch.Tensor) else list(params)
        if all(isinstance(p, tuple) for p in params):
            return {**param_group, "params": params}
        module = getattr(self, "_module", None)
        known = {} if module is None else {id(p): name for name, p in module.named_parameters()}
        index = len(self.param_groups)
        named = [(known.get(id(p), f"parameter {i} of group {index}"), p) for i, p in enumerate(params)]
        return {**param_group, "params": named}

    def _check_group(self, index: int) -> None:
        group = self.param_groups[index]
        saved.check_options({**group, "lr": _check.positive("lr", group["lr"])})
        first = self.param_groups[0]["params"][0]
        for p, name in zip(group["params"], self._names(index), strict=True):
            if not p.requires_grad:
                raise ValueError(
                    f"`params` must require gradients; {name} does not. Pass [p for p in ... if "
                    "p.requires_grad], or the module itself."
                )
            if p.dtype not in DTYPES:
                raise ValueError(
                    f"`params` must be of type float32 or float64; {name} is {p.dtype}. Convert the model "
                    "with .float()."
                )
            if (p.device, p.dtype) != (first.device, first.dtype):
                there = f"{name} is {p.dtype} on {p.device}, the first {first.dtype} on {first.device}"
                raise ValueError(
                    f"`params` must be of one type, on one device; {there}. Use one optimizer for each."
                )

    def _names(self, index: int) -> list[str]:
        group = self.param_groups[index]
        told = group.get(
            "param_names", [f"parameter {i} of group {index}" for i in range(len(group["params"]))]
        )
        return [f"{name} of shape {tuple(p.shape)}" for name, p in zip(told, group["params"], strict=True)]

    # -- the step ----------------------------------------------------------------------------------

    def step(self, closure: Any = None, *, batch_size: int | None = None) -> Any:
        """One step on one batch.

        A step that would not be finite, or whose curvature is not symmetric, is not taken, and counted in
        `skipped`.

        Parameters
        ----------
        closure : callable, optional
            Returns the batch's mean loss or, better, one loss per sample, shape (b,). It neither calls
            ``zero_grad`` nor ``backward``, as closures for ``torch.optim.LBFGS`` do. With an argument called
            `rows` it returns the loss of those samples only: a slice for all, else a LongTensor of positions
            in the batch, on the CPU. Then the Hessian can have a batch of its own, and the curvature's noise
            is known. Without a closure a step takes the gradients that
            ``loss.backward(create_graph=opt.due)`` has left in `.grad`, clipped or not, and curvature from
            their graph.
        batch_size : int, optional
            Samples in the batch, where a closure with `rows` returns their mean loss.

        Returns
        -------
        tensor or None
            The batch's mean loss before the step, weight decay not included; None without a closure. The
            gradient is left in `.grad`.

        Raises
        ------
        ValueError
            If `lr` is out of range, the loss cannot be differentiated or depends on no parameter, there is
            neither closure nor gradient, or `hessian_batch` or `noise_margin` ask for samples that the
            closure does not tell apart, or `noise_margin` for more than one.
        BadProducts
            If a group's first Hessian is not symmetric: the derivative of some operation is wrong.

        Warns
        -----
        StabilityWarning
            Once, where training would go on and seem well: steps that are not taken, a loss that explodes,
            parameters that no loss depends on or that are in no group, gradients in `.grad` that are not
            read.
        """
        for group in self.param_groups:
            _check.nonnegative("lr", group["lr"])  # schedulers write it, and may reach 0
        if self._sampled is not None:
            try:
                return self._sampled_step(self._sampled, closure)
            except LossesOnly as error:
                self._by_hessian(error)
        # What the loss draws, as masks of dropout, is drawn again where a step is looked at.
        drawn = torch.get_rng_state() if self.param_groups[0]["untuned"] else None
        try:
            return self._step(*self._asked(closure, batch_size), drawn)
        finally:
            for group in self.param_groups:
                detached(group["params"])

    def _step(
        self,
        batch: Batch | Left,
        loss: torch.Tensor | None,
        gradients: list[torch.Tensor],
        drawn: torch.Tensor | None,
    ) -> torch.Tensor | None:
        """A step from every group's gradient."""
        trust = self._heard(batch, loss)
        if trust is not None and self._gone_back(trust):
            return loss
        # One number to wait for: a nan or an infinity anywhere is still there in the sum.
        if not bool(torch.isfinite((0.0 if loss is None else loss) + sum(g.sum() for g in gradients))):
            return self._skip(loss, "the loss or its gradient is nan or infinite")
        velocities = []
        due = [_due(group, self._state(group), batch, trust) for group in self.param_groups]
        for i, g in enumerate(gradients):
            try:
                velocities.append(self._velocity(i, g, batch, due[i], trust))
            except BadProducts as error:
                return self._skip(loss, self._why(error, i))
        # Every group's step is found before any is taken: a batch moves all parameters or none.
        ahead = [self._ahead(*pair, trust) for pair in zip(self.param_groups, velocities, strict=True)]
        for group, velocity, there in zip(self.param_groups, velocities, ahead, strict=True):
            if there is None or not bool(torch.isfinite(there).all()):
                if bool(torch.isfinite(velocity).all()):
                    return self._skip(
                        loss, f"the parameters after it would be nan or infinite (lr = {group['lr']:g})"
                    )
                return self._skip(loss, "the preconditioned step is nan or infinite")
        here = [flatten(p.detach() for p in group["params"]) for group in self.param_groups]
        for group, velocity, there in zip(self.param_groups, velocities, ahead, strict=True):
            assert there is not None  # told above
            self._take(group, velocity, there)
        self._seen.note(batch)
        notices(self).lost(loss)
        if trust is not None:
            if drawn is not None and trust.looks(self._state(self.param_groups[0])["age"]):
                assert isinstance(batch, Batch)
                self._look(trust, batch.again(drawn) - float(loss), gradients, here)  # type: ignore[arg-type]
            self._state(self.param_groups[0])["trust"] = trust.state()
        return loss

    # -- nothing tuned -----------------------------------------------------------------------------

    def _heard(self, batch: Batch | Left, loss: torch.Tensor | None) -> Trust | None:
        """How far curvature is trusted, once this loss is known; None where that is not asked."""
        if loss is None or not self.param_groups[0]["untuned"]:
            return None
        kept = self._state(self.param_groups[0])["trust"]
        trust = Trust() if kept is None else Trust.of(kept)
        trust.gradient_work += batch.size or 1
        trust.hear(float(loss), batch.size or 1)
        return trust

    def _gone_back(self, trust: Trust) -> bool:
        """Keep the best parameters so far, and go back there where the run is being lost."""
        lost = trust.said == Course.LOST
        for group in self.param_groups:
            state = self._state(group)
            if lost and state["best"] is not None:
                self._put(group, state["best"])
                state["velocity"] = None
                state["skipped"] += 1
            elif trust.said == Course.BEST or state["best"] is None:
                state["best"] = flatten(p.detach() for p in group["params"])
        if lost:
            self._failure = "the loss had left the best one so far, and the parameters went back there"
            self._state(self.param_groups[0])["trust"] = trust.state()
        return lost

    @torch.no_grad()
    def _look(
        self, trust: Trust, gained: float, gradients: list[torch.Tensor], before: list[torch.Tensor]
    ) -> None:
        """Learn from what a step brought on its own batch, and take it back where that rose."""
        slope = curved = 0.0
        for group, g, old in zip(self.param_groups, gradients, before, strict=True):
            move = flatten(group["params"]) - old
            slope += float(g @ move)
            curved += 0.5 * _believed(group, self._state(group), move)
        if trust.judge(gained, slope, curved, self._state(self.param_groups[0])["age"]):
            for group, old in zip(self.param_groups, before, strict=True):
                self._put(group, old)
                self._state(group)["velocity"] = None

    @torch.no_grad()
    def _put(self, group: dict[str, Any], w: torch.Tensor) -> None:
        pieces = torch.split(w, [p.numel() for p in group["params"]])
        for p, piece in zip(group["params"], pieces, strict=True):
            if p.requires_grad:
                p.copy_(piece.view_as(p))

    @torch.no_grad()
    def _ahead(
        self, group: dict[str, Any], velocity: torch.Tensor, trust: Trust | None
    ) -> torch.Tensor | None:
        """The parameters after the step (n,); None where `lr` is beyond the numbers of their type."""
        lr = group["lr"]
        if group["untuned"]:
            # The first curvature is that of a place which is left at once: it is trusted by and by.
            lr *= min(1.0, (self._state(group)["steps"] + 1) / WARMUP)
            lr *= 1.0 if trust is None else trust.share
        if lr > torch.finfo(velocity.dtype).max:
            return None
        return flatten(group["params"]).add_(velocity, alpha=-lr)

    def _asked(
        self, closure: Any, batch_size: int | None
    ) -> tuple[Batch | Left, torch.Tensor | None, list[torch.Tensor]]:
        """The batch, its loss where a closure tells it, and every group's gradient (n,)."""
        params = [p for group in self.param_groups for p in group["params"]]
        names = [name for i in range(len(self.param_groups)) for name in self._names(i)]
        told, loss = notices(self), None
        batch: Batch | Left
        if closure is None:
            batch = Left(batch_size)
            parts = batch.gradient(params, names)
        else:
            told.unread(params)
            told.leave(params, [None] * len(params))
            batch = Batch(closure, batch_size)
            loss = batch.loss()
            parts = gradient(loss, params, names, partly=True)
            told.leave(params, parts)
            loss = loss.detach()
        told.missing(getattr(self, "_module", None), set(map(id, params)))
        told.used(params, names, parts, max(group["refresh"] for group in self.param_groups))
        pieces = iter(
            torch.zeros_like(p) if part is None else part for p, part in zip(params, parts, strict=True)
        )
        return batch, loss, [flatten(next(pieces) for _ in group["params"]) for group in self.param_groups]

    @property
    def due(self) -> bool:
        """Whether the next step renews curvature: ``loss.backward(create_graph=opt.due)`` before step()."""
        return any(_late(group, self._state(group), None) >= 0 for group in self.param_groups)

    @property
    def _sampled(self) -> SampledSteps | None:
        """The steps in sample space, where that is the curvature."""
        if all(group["curvature"] == "hessian" for group in self.param_groups):
            return None
        if "_steps" not in vars(self):  # a copied or unpickled optimizer has its groups and state alone
            self._steps = SampledSteps(self.param_groups, getattr(self, "_module", None))
        self._steps.groups = self.param_groups
        self._steps.shared("curvature")
        return self._steps

    def _sampled_step(self, sampled: SampledSteps, closure: Any) -> torch.Tensor:
        state = self._state(self.param_groups[0])
        loss, why = sampled.step(closure, state)
        if why:
            self._failure = why
            state["skipped"] += 1
        else:
            state["steps"] += 1
        return loss

    def _by_hessian(self, error: LossesOnly) -> None:
        """Go on with the Hessian's curvature, with its own defaults where nothing was given."""
        if self._state(self.param_groups[0])["steps"]:
            raise ValueError(
                f"The closure must return residuals at every step, as at the first; {error}. Return them "
                "each time."
            ) from error
        _check.warn(
            f"LRSFN(curvature='gauss-newton') goes on with curvature='hessian': the closure returns losses "
            f"({error}). Return residuals of shape (b, k), or (outputs, targets) with loss='mse' or "
            "loss='cross-entropy'."
        )
        for group in self.param_groups:
            taken = {**_REST, **SAMPLED}
            given = {name: None if group[name] == value else group[name] for name, value in taken.items()}
            group.update(_chosen(given, "hessian"), curvature="hessian")

    def _why(self, error: BadProducts, index: int) -> str:
        """Why a refresh failed; raises where the group's first Hessian was not symmetric."""
        if isinstance(error, NotFinite):
            return "the Hessian's products, or their squares, are nan or infinite"
        # Not symmetric from the beginning: that is no accident of these parameters, a derivative is wrong.
        if self._state(self.param_groups[index])["vectors"] is None:
            error.add_note(
                "`hvp` is the Hessian of the closure's loss: check operations with derivatives of your own "
                "by torch.autograd.gradgradcheck."
            )
            raise error
        return "the Hessian's products are not symmetric: check operations with derivatives of your own"

    def _skip(self, loss: torch.Tensor | None, why: str) -> torch.Tensor | None:
        self._failure = why
        notices(self).skipped(why, self._state(self.param_groups[0])["steps"])
        for group in self.param_groups:
            state = self._state(group)
            state["skipped"] += 1
            state["velocity"] = None  # what led here is forgotten
        return loss

    @torch.no_grad()
    def _take(self, group: dict[str, Any], velocity: torch.Tensor, ahead: torch.Tensor) -> None:
        pieces = torch.split(ahead, [p.numel() for p in group["params"]])
        for p, piece in zip(group["params"], pieces, strict=True):
            # What was frozen since, and heads that this batch does not use, stay as they are.
            if p.requires_grad and p.grad is not None:
                p.copy_(piece.view_as(p))
        state = self._state(group)
        state["velocity"] = velocity if group["momentum"] else None
        state["steps"] += 1
        state["age"] += 1

    def _velocity(
        self, index: int, g: torch.Tensor, batch: Batch | Left, due: bool, trust: Trust | None
    ) -> torch.Tensor:
        """``v = momentum * v + P g`` (n,), with the curvature refreshed where it is due."""
        group = self.param_groups[index]
        state, products = self._state(group), None
        if due:
            if state["vectors"] is None or batch.curved(group["params"]):
                products = self._refresh(index, batch, trust)
            else:
                notices(self).stale(state["age"])
        if group["weight_decay"]:
            # Its curvature is in the eigenpairs already, by the `shift` of `Products`.
            g = g + group["weight_decay"] * flatten(p.detach() for p in group["params"])
        direction = self._direction(group, g, products)
        return direction if state["velocity"] is None else group["momentum"] * state["velocity"] + direction

    @torch.no_grad()
    def _direction(
        self, group: dict[str, Any], g: torch.Tensor, products: list[Products] | None
    ) -> torch.Tensor:
        """``P g`` (n,); `products` where curvature has just been renewed."""
        state = self._state(group)
        if group["tail"] != "adaptive":
            modes = kept_modes(group, state)
            return _low_rank(state).precondition(g, modes.gains, modes.tail_gain)
        tail.observe(state, g)
        if products is not None:
            rng = stream(group["seed"], len(g), state["refreshes"])
            start = torch.as_tensor(rng.standard_normal(len(g)), dtype=g.dtype, device=g.device)
            with torch.enable_grad():
                state["products"] += tail.measure(state, products, start)
        gains = torch.as_tensor(kept_modes(group, state).gains, dtype=g.dtype, device=g.device)
        return tail.direction(state, g, gains, tail.gain(group, state))

    # -- curvature ---------------------------------------------------------------------------------

    def _refresh(self, index: int, batch: Batch | Left, trust: Trust | None) -> list[Products]:
        """Find a group's curvature anew; returns the products that it was found by."""
        group = self.param_groups[index]
        state, params = self._state(group), group["params"]
        # A stream for each group and refresh, so that a run that goes on from a file draws the same rows.
        rng = stream(group["seed"], index, state["refreshes"])
        rows = _rows(group, batch, rng)
        last = _last_noise(group, state)
        if group["noise_margin"] and len(rows) < 2 and not np.isfinite(last).all():
            raise ValueError(
                f"`noise_margin`={group['noise_margin']:g} needs the curvature of at least two samples; got "
                f"a Hessian batch of {len(rows[0])}. Give batches, and a `hessian_batch`, of at least two "
                "samples."
            )
        products = [
            batch.products(part, params, self._names(index), group["weight_decay"]) for part in rows or [None]
        ]
        eig = randomized_eigh(
            products,
            _size(group),
            _rank(group),
            method="block-krylov" if state["vectors"] is None else "warm",
            start=None if state["vectors"] is None else _low_rank(state),
            seed=int(rng.integers(2**31)),
        )
        hessian_batch = sum(map(len, rows)) or batch.size
        # From the spread over sub-batches, which are of equal size, to that over samples.
        spread = last if eig.std is None else eig.std * math.sqrt(len(rows[0]))
        state.update(
            vectors=eig.vectors,
            eigenvalues=eig.eigenvalues.tolist(),
            std=spread.tolist(),
            next_eigenvalue=float(eig.next_eigenvalue),
        )
        state.update(age=0, refreshes=state["refreshes"] + 1, products=state["products"] + eig.columns)
        state.update(batch=batch.size, hessian_batch=hessian_batch)
        if trust is not None:
            first = state["refreshes"] == 1
            trust.renewed(0.0 if first else 2.0 * (hessian_batch or 1) * eig.columns)
        sizes = kept_modes(group, state).sizes
        if group["untuned"]:
            state["scale"] = floor(sizes, eig.eigenvalues, state["scale"])
            state["length"] = _length(group, state)
        else:
            state["scale"] = max(float(sizes[-1]), MEMORY * state["scale"])
        return products

    def _state(self, group: dict[str, Any]) -> dict[str, Any]:
        """A group's state, kept with its first parameter: tensors, numbers and lists of numbers."""
        state = self.state[group["params"][0]]
        if not state:
            state.update(saved.FRESH)
        saved.follow(state, group["params"][0])
        return state

    # -- what is known -----------------------------------------------------------------------------

    @property
    def _seen(self) -> Seen:
        # A copied or unpickled optimizer has its groups and state alone.
        if not hasattr(self, "_last"):
            self._last = Seen()
        return self._last

    @property
    def skipped(self) -> int:
        """Steps that were not taken: they would not have been finite, or their curvature not symmetric."""
        return int(self._state(self.param_groups[0])["skipped"])

    def report(self, group: int = 0, *, closure: Callable[..., Any] | None = None) -> Report | SampleReport:
        """The theory of one parameter group: modes at the last refresh, the largest stable step now.

        Parameters
        ----------
        group : int
            Its learning rate is what the limit is told in; with several groups all rates grow in proportion.
        closure : callable, optional
            As `step` takes it: the loss whose curvature limits the step, best of all samples. By default the
            closure of the last step is called once more. It takes about 20 products with the Hessian at the
            present parameters; torch's random numbers are put back, running means of batch normalisation are
            not.

        Raises
        ------
        ValueError
            If there is no such group, or no step was taken yet.
        """
        index = _check.count("group", group, least=0, most=len(self.param_groups) - 1)
        options = self.param_groups[index]
        state = self._state(options)
        if self._sampled is not None:
            return self._sampled.report(self._state(self.param_groups[0]), self._failure)
        if state["vectors"] is None:
            raise ValueError(
                "There is no curvature to report before the first "
                f"step{self._failure and f' ({self._failure})'}. Call step(closure)."
            )
        names = ("batch", "hessian_batch", "steps", "skipped", "refreshes", "products")
        counts = {**{name: state[name] for name in names}, "failure": self._failure}
        limit = self._limit(index, self._seen.closure if closure is None else closure)
        modes = kept_modes(options, state)
        found = compose(_low_rank(state), modes, options, counts, limit, self._seen.drawn)
        if options["tail"] != "adaptive":
            return found
        # Off the kept vectors curvature counts in another metric, of which `step_limit` knows alone.
        return replace(found, tail_gain=tail.gain(options, state), tail_limit=math.nan)

    def _limit(self, index: int, closure: Callable[..., Any] | None) -> StepLimit:
        """The largest stable `lr` of a group, the others' in proportion."""
        rates = [float(group["lr"]) for group in self.param_groups]
        if len(rates) == 1:
            rates = [1.0]  # the limit does not depend on it
        if not rates[index]:
            return UNKNOWN._replace(unknown="the group's `lr` is 0, and the others' are no multiple of it.")
        blocks = []
        for i, (group, rate) in enumerate(zip(self.param_groups, rates, strict=True)):
            modes, eig = kept_modes(group, self._state(group)), _low_rank(self._state(group))
            if not np.isfinite(modes.gains).all():
                unknown = "the noise that `noise_margin` asks for is not known yet. Call step(closure)."
                return UNKNOWN._replace(unknown=unknown)
            blocks.append(
                Block(
                    group["params"],
                    self._names(i),
                    _root(group, self._state(group), modes, eig),
                    group["momentum"],
                    group["weight_decay"],
                    rate / rates[index],
                )
            )
        return largest_step(closure, blocks, self.param_groups[0]["seed"])

    # -- saving ------------------------------------------------------------------------------------

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned, with the same numbers as if there had been no break.

        Raises
        ------
        ValueError
            If it is damaged, of another optimizer, or of other parameters; nothing is changed then.
        """
        state_dict = saved.renewed(state_dict)
        saved.check(state_dict, [_size(group) for group in self.param_groups])
        super().load_state_dict(state_dict)
        self._last = Seen()  # what was seen before led to another state


def _chosen(given: dict[str, Any], curvature: str) -> dict[str, Any]:
    """All options, from those that were given: where none was, nothing is to be tuned."""
    asked = given["lr"] == "auto"
    untuned = curvature == "hessian" and (asked or all(value is None for value in given.values()))
    if asked:
        for name in ("damping", "noise_margin", "refresh"):
            if not untuned or given[name] is not None:
                raise ValueError(
                    f"lr='auto' measures `{name}` of the Hessian: leave "
                    f"{'curvature' if not untuned else f'`{name}`'} out, or give a number as `lr`."
                )
        given = {**given, "lr": None}
    defaults = UNTUNED if untuned else {**_REST, **(HESSIAN if curvature == "hessian" else SAMPLED)}
    found = {name: defaults[name] if value is None else value for name, value in given.items()}
    return {**found, "untuned": untuned}


def _rows(group: dict[str, Any], batch: Batch | Left, rng: np.random.Generator) -> list[torch.Tensor]:
    """Positions of the Hessian's sub-batches, of equal size; none where samples cannot be told apart."""
    asks = [name for name in ("hessian_batch", "noise_margin") if group[name]]
    if not batch.takes_rows or batch.size is None:
        if asks:
            raise ValueError(
                f"`{asks[0]}`={group[asks[0]]:g} needs single samples: let the closure take `rows` and "
                "return one loss per sample (reduction='none'), or call step(closure, batch_size=...)."
            )
        return []
    size = min(group["hessian_batch"] or batch.size, batch.size)
    parts = min(SUB_BATCHES, size)
    # Equal parts: the mean of their Hessians is then that of all rows, and their spread has one meaning.
    drawn = rng.permutation(batch.size)[: size // parts * parts]
    return [torch.from_numpy(part.copy()) for part in np.split(drawn, parts)]


def _late(group: dict[str, Any], state: dict[str, Any], trust: Trust | None) -> float:
    """Steps since a group's curvature has been due to be renewed; negative where it is not yet."""
    if state["vectors"] is None:
        return math.inf
    if not np.isfinite(kept_modes(group, state).sizes).all():  # `noise_margin` may be asked for later
        return math.inf
    late = state["age"] - group["refresh"] if trust is None else trust.due(state["age"]) - 1
    return late if len(state["eigenvalues"]) == _rank(group) else max(late, 0)


def _due(group: dict[str, Any], state: dict[str, Any], batch: Batch | Left, trust: Trust | None) -> bool:
    """Whether a group's curvature is to be found anew on this batch."""
    late = _late(group, state, trust)
    # What a loader leaves over is no Hessian batch; but one sample may be all that batches have from now on.
    leftover = batch.size == 1 and (state["batch"] or 1) > 1 and late < group["refresh"]
    return late >= 0 and not leftover


def _last_noise(group: dict[str, Any], state: dict[str, Any]) -> np.ndarray:
    """Standard deviations (r,) per sample of the last refresh, by position; nan where there are none."""
    rank = _rank(group)
    known = np.array(state["std"] or [math.nan])[:rank]
    return np.pad(known, (0, rank - len(known)), mode="edge")


def _rank(group: dict[str, Any]) -> int:
    """Eigenpairs that a group has: no more than parameters."""
    return min(_check.count("rank", group["rank"]), _size(group))


def _size(group: dict[str, Any]) -> int:
    return sum(p.numel() for p in group["params"])


def _low_rank(state: dict[str, Any]) -> LowRank:
    lam = np.array(state["eigenvalues"])
    return LowRank(
        lam, state["vectors"], 0, np.full(len(lam), math.nan), next_eigenvalue=state["next_eigenvalue"]
    )


def _root(group: dict[str, Any], state: dict[str, Any], modes: KeptModes, eig: LowRank) -> Any:
    """``R`` with ``P = R R^T`` of a group as it stands."""
    if group["tail"] != "adaptive":
        return partial(eig.precondition, kept=np.sqrt(modes.gains), rest=math.sqrt(modes.tail_gain))
    gains = torch.as_tensor(modes.gains, dtype=eig.vectors.dtype, device=eig.vectors.device)
    return tail.Root(state, gains, tail.gain(group, state))


def _believed(group: dict[str, Any], state: dict[str, Any], move: torch.Tensor) -> float:
    """``<s, B s>`` for the curvature B that a group's steps count on."""
    along = state["vectors"].T @ move
    sizes = torch.as_tensor(np.abs(state["eigenvalues"]), dtype=move.dtype, device=move.device)
    beyond = move - state["vectors"] @ along
    adaptive = group["tail"] == "adaptive"
    rest = state["top"] / tail.metric(state) if adaptive else state["scale"]
    return float((sizes * along**2).sum() + (rest * beyond**2).sum())


def _length(group: dict[str, Any], state: dict[str, Any]) -> float:
    """How far a step on the kept modes may go."""
    state["length"] = 1.0
    modes = kept_modes(group, state)
    spread = over_batches(np.array(state["std"]), state["batch"]) * modes.gains
    turned = np.abs(modes.eigenvalues) * modes.gains
    return step_length(turned, spread, state["batch"] or math.inf, most=STEP)


def _undamped(lam: Any, length: float) -> Any:
    return length / abs(lam)


def kept_modes(group: dict[str, Any], state: dict[str, Any]) -> KeptModes:
    """What the group's method makes of the eigenpairs in its state."""
    lam, std = np.array(state["eigenvalues"]), np.array(state["std"])
    seen = not math.isnan(state["next_eigenvalue"])
    sampling, margin = over_batches(std, state["batch"]), group["noise_margin"]
    if group["untuned"]:
        gain = partial(_undamped, length=state["length"])
        method = methods.Method(gain=gain, rank=len(lam), tail_gain=gain)
        sampling, margin = np.nan_to_num(sampling), NOISE_MARGIN
    else:
        rest = "damping" if group["tail"] == "damping" else "flat"
        method = methods.LRSFN(rank=len(lam), damping=group["damping"], tail=rest)
    return KeptModes(
        method,
        lam,
        state["next_eigenvalue"] if seen else lam[-1],
        sampling,
        over_batches(std, state["hessian_batch"]),
        margin=margin,
        floor=0.0 if group["tail"] == "damping" else float(state["scale"]),
    )
