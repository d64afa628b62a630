"""A watch in the training loop: the step in use beside the largest stable one."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from .. import _check
from .._saving import provenance
from ..advice.advise import SAMPLES
from ..advice.result import Advice
from ..advice.warm import PROBES, Warm
from ..advice.watched import Watched
from .advise import conditions, here, of_the_loss, placed, require_finite, signed, step_size
from .batches import Looked, look
from .metric import Chosen, read, rule_of
from .place import NetworkPlace
from .whole import Whole

SHARE = 0.1
"""Of a run, what watching may take by default: of its time, and of its gradients by the samples looked at."""
LEAST = 64
"""Samples at least: fewer tell little of a network."""
FREE = 2.0**19
"""Samples times parameters whose derivatives take less time than all else of a look."""


class Watch:
    """Looks every so many steps how large a step the optimizer might take: ``watch.step()`` in the loop.

    Each look takes the last one's directions for a start and other samples; it is put off where watching
    would take more than a tenth of the run's time (the first look, which finds its directions from nothing,
    not counted). A look sees fewer samples than `advise`, and fewer directions: ``step_limit_error`` says how
    far other samples would have moved the limit, and where few of them carry most of the curvature's noise
    (`sample_share`) what was not met lowers it further. As in `advise`, nothing is changed.

    Examples
    --------
    >>> import torch
    >>> from torch.nn import functional as F
    >>> from stability.torch import Watch
    >>> seeded = torch.manual_seed(0)
    >>> x = torch.randn(200, 3)
    >>> y = x.sum(1, keepdim=True)
    >>> model = torch.nn.Linear(3, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> def loss(model, batch):
    ...     return F.mse_loss(model(batch[0]), batch[1], reduction="none").mean(1)
    >>> watch = Watch(model, loss, (x, y), optimizer, every=20, batch=20)
    >>> for k in range(40):
    ...     rows = torch.randint(200, (20,))
    ...     optimizer.zero_grad()
    ...     loss(model, (x[rows], y[rows])).mean().backward()
    ...     optimizer.step()
    ...     watch.step()
    >>> watch.last["iteration"], watch.last["share"] < 1
    (40, True)

    Parameters
    ----------
    model, loss, data, optimizer
        As of `advise`.
    every : int
        Steps from one look to the next at least.
    batch : int, optional
        Samples in a batch; by default the DataLoader's, and of tensors all, with a warning: no batch noise.
    samples : int, optional
        To look at each time; by default as many as a look every `every` steps allows, or as take no time that
        counts in a small network, 64 to 2,048; before an adaptive optimizer's first step, 2,048.
    modes : int
        Directions that are followed.
    share : float, optional
        Of the run's time that watching may take; None for a look every `every` steps, whatever it costs.
    metric, momentum, accumulate, memory, seed
        As of `advise`.

    Attributes
    ----------
    last : dict
        What was seen last: plain numbers, for any logger; empty before the first look. The names are those of
        the columns of `history`, `samples` and `sample_share`, and `reason` where there is no limit.
    advice : Advice or None
        The same in full, but for the bracket, the noise floor and all else that `advise` has time for.

    Raises
    ------
    ValueError
        As `advise` does, at the first look; later ones that fail are recorded as nan, and `last` says why.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        loss: Callable[[Any, Any], Any],
        data: Any,
        optimizer: torch.optim.Optimizer,
        every: int = 200,
        *,
        batch: int | None = None,
        samples: int | None = None,
        modes: int = 4,
        share: float | None = SHARE,
        metric: Any = None,
        momentum: Any = None,
        accumulate: int = 1,
        memory: float | None = None,
        seed: int = 0,
    ):
        self.model, self.loss, self.data, self.optimizer = model, loss, data, optimizer
        self.every, self.modes = _check.count("every", every), _check.count("modes", modes)
        self._accumulate, self._seed = _check.count("accumulate", accumulate), _check.seed(seed)
        self._metric, self._momentum, self._memory = metric, momentum, memory
        with here(model, loss, optimizer) as chosen:
            self._samples = LEAST
            self._batch = look(data, batch, LEAST, seed).batch
            self._asked = batch
            self.modes = min(self.modes, sum(chosen.sizes))
        allowed = SHARE * self.every * self._batch * self._accumulate / self._price
        allowed = max(allowed, FREE / sum(chosen.sizes))
        self._told = samples is not None
        self._samples = (
            _check.count("samples", samples, least=2)
            if samples is not None
            else int(np.clip(allowed, LEAST, SAMPLES))
        )
        self.iteration, self.last, self.advice = 0, dict[str, Any](), None
        self._share = None if share is None else _check.positive("share", share)
        self._began, self._looked = time.perf_counter(), 0
        self._spent, self._first, self._last = (
            0.0,
            0.0,
            0.0,
        )  # seconds of looks: all but the first, it, a last
        self._place, self._start = None, None
        self._rows: list[dict[str, Any]] = []

    advice: Advice | None
    _place: NetworkPlace | None

    @property
    def _price(self) -> float:
        """Of a look, in gradients of its samples."""
        return 2 * self.modes + (self.modes + PROBES + 3) / 3 + 1

    def step(self) -> None:
        """To be called after each step of the optimizer; looks where it is time."""
        self.iteration += 1
        if self.iteration - self._looked < self.every:
            return
        if self._share is None or self._affords(self._share):
            self.look()

    def _affords(self, share: float) -> bool:
        """Whether with one more look watching takes no more than its share of what the run itself took."""
        run = time.perf_counter() - self._began - self._first - self._spent
        return not self._spent or self._spent + self._last <= share * run

    def look(self) -> Advice | None:
        """Look now, whether it is time or not; the advice, or None where there is none to be had."""
        first, began = not self._rows, time.perf_counter()
        self._looked, advice = self.iteration, None
        try:
            advice, loss, spread = self._examined()
        except ValueError as error:
            if first:
                raise
            self._keep(None, math.nan, reason=str(error))
        else:
            self._keep(advice, loss, spread)
            if advice.interrupted:  # Ctrl-C is meant for the loop, which would go on
                raise KeyboardInterrupt
        # The first look loads and prepares what later ones find ready, and tells nothing of their cost.
        self._last = time.perf_counter() - began
        if first:
            self._first = self._last
        else:
            self._spent += self._last
        return advice

    def _examined(self) -> tuple[Advice, float, float]:
        """Advice, the loss, and the standard error of the limit as a share of it."""
        with here(self.model, self.loss, self.optimizer) as chosen, of_the_loss():
            place, looked = self._at(chosen)
            loss = place.mean_loss()
            require_finite(loss)
            size = step_size(looked.batch, looked.population, self._accumulate)
            notes = conditions(place, looked)
            seen = read(chosen, place, size, self._metric, self._momentum, notes)
            looking = Warm(place, seen, size, self._seed, self.modes, self._start)
            advice = looking.advice()
            self._start = looking.start
            return advice, float(loss), looking.error

    def _at(self, chosen: Chosen) -> tuple[NetworkPlace, Looked]:
        """The place where the parameters are now, with other samples than the last time."""
        samples = SAMPLES if self._guesses and not self._told else self._samples
        looked = look(self.data, self._asked, samples, self._seed + len(self._rows))
        if self._place is None or self._place.whole.sizes != chosen.sizes:
            whole = Whole(self.model, signed(self.loss, chosen), chosen.params, self._seed)
            self._place, self._start = placed(whole, looked, memory=self._memory, pairs=0), None
        else:
            self._place.again(chosen.params, looked)
        return self._place, looked

    @property
    def _guesses(self) -> bool:
        """Whether the metric is guessed from the samples: of few of them rare gradients would be missing."""
        rule = None if self._metric is not None else rule_of(self.optimizer)
        return rule is not None and rule.metric is not None and not self.optimizer.state

    def _keep(self, advice: Advice | None, loss: float, error: float = math.nan, reason: str = "") -> None:
        self.advice = advice
        row = {
            "iteration": self.iteration,
            "loss": loss,
            "lr": max(float(group["lr"]) for group in self.optimizer.param_groups),
            "step_limit": _largest(advice, "step_limit"),
            "step_limit_error": _largest(advice, "step_limit") * error,
            "deterministic_limit": _largest(advice, "deterministic_limit"),
            "share": math.nan if advice is None else float(advice.share),
            "sharpness": math.nan if advice is None else float(advice.preconditioned_sharpness),
        }
        self._rows.append(row)
        reason = reason or (advice.reasons.get("step_limit", "") if advice is not None else "")
        seen = {} if advice is None else {"samples": advice.samples, "sample_share": advice.sample_share}
        self.last = {**row, **seen, **({"reason": reason} if reason else {})}

    @property
    def history(self) -> Watched:
        """All that was seen: a table, saved and drawn as results are."""
        if not self._rows:
            raise ValueError(
                f"A watch has a history after its first look; {self.iteration} of {self.every} steps were "
                "taken. Call step() in the loop, or look()."
            )
        columns = {name: np.array([row[name] for row in self._rows]) for name in self._rows[0]}
        return Watched(
            label=type(self.optimizer).__name__,
            iterations=columns["iteration"],
            steps=columns["lr"],
            step_limits=columns["step_limit"],
            step_limit_errors=columns["step_limit_error"],
            deterministic_limits=columns["deterministic_limit"],
            sharpness=columns["sharpness"],
            losses=columns["loss"],
            batch=self._batch * self._accumulate,
            samples=self._samples,
            provenance=provenance(seed=self._seed, modes=self.modes, every=self.every),
        )


def _largest(advice: Advice | None, name: str) -> float:
    return math.nan if advice is None else float(np.max(getattr(advice, name)))
