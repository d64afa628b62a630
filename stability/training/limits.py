"""How large a step a run could take where its curvature was looked at: bounded, not read off Ritz values."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .._streams import stream
from ..advice.advise import SAMPLES, examine
from ..advice.objective import ObjectivePlace
from ..advice.optimizer import Optimizer
from ..linear.held import held_limit
from ..linear.modes import mode_limits
from ..lowrank.operator import BadProducts
from ..methods.memory import Memory
from ..spectra.ends import top
from .problem import Problem

FACTORED = 4e7
"""Largest n o d^2 for which all modes of samples with a few rows of curvature are taken: about a second."""
SPARE = 16
"""Iterations that a prediction with batch noise stands for, where it was not asked for."""
SMALL = 2**20
"""Numbers behind a Hessian product up to which a limit is predicted without being asked for."""


class Prediction(NamedTuple):
    """The largest stable step, or nan and the reason."""

    step: float
    unknown: str = ""


@dataclass(frozen=True)
class Forecast:
    """What the limit of a run's steps depends on, but for where it is and what metric it has there.

    Attributes
    ----------
    problem : Problem
    memory : Memory or None
    weight_decay, ridge : float
        Of the weights themselves, and as a part of the gradient.
    batch : int
        Of the gradient.
    seed : int
    asked : bool or None
        None where limits are predicted only where they cost little.
    """

    problem: Problem
    memory: Memory | None
    weight_decay: float
    ridge: float
    batch: int
    seed: int
    asked: bool | None = None

    def at(self, w: Any, root: Callable[[Any], Any] | None, *, often: bool = False) -> Prediction:
        """The limit at an iterate, for a metric ``P = S S`` given by S, None where P has no such root.

        `often` says that another has been predicted just before.
        """
        if self.asked is False:
            return Prediction(math.nan, "limits=False")
        if root is None:
            return Prediction(math.nan, "the method divides by negative curvature as it is")
        if self.asked is None and not self._cheap:
            return Prediction(math.nan, "limits=True predicts it")
        # Nobody asked: predictions may take a small share of the run, not the run.
        if self.asked is None and often and self._drawn:
            return Prediction(math.nan, f"limits=True predicts it more often than every {SPARE} iterations")
        try:
            if self._factored(FACTORED):
                return Prediction(self._exact(np.asarray(w, dtype=float), root))
            return Prediction(self._noisy(w, root) if self._drawn else self._steady(w, root))
        except BadProducts:
            return Prediction(math.nan, "the curvature there is not finite, or not symmetric")
        except ValueError as error:
            return Prediction(math.nan, str(error).rstrip("."))

    @property
    def _drawn(self) -> bool:
        return self.problem.sampled and self.batch < self.problem.samples

    @property
    def _cheap(self) -> bool:
        small = max(self.problem.samples, self.problem.dim) * self.problem.dim <= SMALL
        return self._factored(0.1 * FACTORED) if self._drawn else small

    def _steady(self, w: Any, root: Callable[[Any], Any]) -> float:
        """Of steps that see all samples: by the upper end of the spectrum of ``S H S``."""
        problem = self.problem
        product = problem.products(w, None)
        end = top(
            product if not self.ridge else (lambda V: product(V) + self.ridge * V),
            problem.dim,
            problem.backend,
            root=root,
            seed=self.seed,
        )
        memory = self.memory or Memory(0.0)
        found = mode_limits(
            np.ones(1),
            np.array([end.above]),
            momentum=memory.beta,
            nesterov=memory.nesterov,
            weight_decay=self.weight_decay,
        )
        return float(found[0])

    def _noisy(self, w: Any, root: Callable[[Any], Any]) -> float:
        """Of steps on batches, of all samples or as many as the adviser looks at."""
        problem = self.problem
        if problem.backend.name != "numpy":
            raise ValueError("batch noise is measured on the host alone")
        rows = np.arange(problem.samples)
        if problem.samples > SAMPLES:
            rows = np.sort(stream(self.seed, 4).choice(problem.samples, SAMPLES, replace=False))
        optimizer = Optimizer(
            steps=(1.0,),
            root=root,
            memory=self.memory,
            weight_decay=(self.weight_decay or self.ridge,),
            decoupled=not self.ridge,
        )
        place = ObjectivePlace(problem.objective, np.asarray(w, dtype=float), rows)
        advice = examine(place, optimizer=optimizer, batch=self.batch, seed=self.seed)
        if not advice.exact:
            raise ValueError(
                "of batches it is exact on regression and in a few dimensions alone; st.advise estimates it, "
                f"at {float(advice.step_limit):.3g}"
            )
        # The lower end: a limit that is said to be kept must be one.
        return float(advice.step_limit_bracket[0])

    def _factored(self, work: float) -> bool:
        """Whether every sample's curvature is a few rows, and all of them together are not too many."""
        F: Any = self.problem.objective
        if not hasattr(F, "hessian_factors") or self.problem.backend.name != "numpy":
            return False
        # With momentum the limit is searched for.
        searched = 10 if self._drawn and self.memory is not None else 1
        return bool(searched * F.n_samples * F.outputs * self.problem.dim**2 <= work)

    def _exact(self, w: np.ndarray, root: Callable[[Any], Any]) -> float:
        """Of all modes of data whose samples have a few rows of curvature each."""
        F: Any = self.problem.objective
        N, S = self.problem.samples, root(np.eye(self.problem.dim))
        # The ridge is curvature too, and the metric turns it: S is no multiple of the unit matrix.
        beside = (float(F.l2) + self.ridge) * S @ S
        # The variance of a batch's mean, drawn without replacement, per variance of a sample.
        share = (N - self.batch) / (self.batch * (N - 1)) if self._drawn else 0.0
        return held_limit(F.hessian_factors(w) @ S, beside, share, self.memory, self.weight_decay)
