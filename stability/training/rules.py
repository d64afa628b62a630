"""What turns a gradient into a direction, one class per kind of optimizer.

A *direction rule* holds the state that a checkpoint keeps; the loop in `run` asks it when it wants new
curvature, hands it the curvature, and applies it to gradients. The methods are those of the theory: their
gains are read, never written again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from .. import _check
from .._array import Backend, namespace
from ..advice.untuned import Course
from ..linear.kept import KeptModes, over_batches
from ..lowrank.randomized import randomized_eigh
from ..lowrank.result import LowRank
from ..lowrank.sample_space import Ridge, Rows
from ..lowrank.solvers import FRESH
from ..methods.memory import Memory
from ..methods.method import Method
from ..methods.metrics import Metric
from ..methods.preconditioner import spectral

LAZY_SHARE = 0.15
"""Hessian work that lazy refreshes may spend, as a share of gradient work."""
WORTH = 4
"""A refresh is due while so many times its cost is left to use it."""


@dataclass(frozen=True)
class Curvature:
    """The Hessian at one point, by products on sub-batches, and the sizes of the batches in use.

    `samples` is what batches are drawn from without replacement: the mean over all of them has no sampling
    noise.
    """

    parts: list[Callable[[Any], Any]]  # of equal size: their mean is the Hessian of the batch
    dense: Callable[[], Any]
    dim: int
    gradient_batch: int
    hessian_batch: int
    samples: int
    backend: Backend
    seed: int


class DirectionRule:
    """What the loop asks of a direction rule; by itself ``p = g``, which knows no curvature.

    Attributes
    ----------
    rank : int
        Eigenpairs kept; 0 where curvature is not kept as eigenpairs.
    untuned : bool
        Whether everything was chosen by the rule, which then answers for a loss that rose: the start is
        returned.
    last : int
        The iteration of the last refresh; -1 before there was one.
    by_residuals : bool
        Whether curvature is that of the gradient batch's residuals, which `linearize` is then given.
    """

    rank = 0
    untuned = False
    last = -1
    by_residuals = False

    @property
    def eigenvalues(self) -> np.ndarray:
        """The kept eigenvalues (rank,); none before there are some."""
        return np.zeros(0)

    @property
    def noise(self) -> np.ndarray:
        """Their standard deviations over gradient batches (rank,); nan where not known."""
        return np.zeros(0)

    def due(self, iteration: int, gradient_work: float, hessian_work: float, left: float) -> bool:
        """Whether curvature is to be renewed, after so much work and with so much `left`."""
        return False

    def refresh(self, curvature: Curvature, iteration: int) -> int:
        """Renew the curvature; returns the Hessian products that it took."""
        return 0

    def linearize(self, rows: Rows, ridge: Ridge | None) -> None:
        """Take the gradient batch's residuals and their gradients, and the ridge where there is one."""

    def told(self) -> dict[str, Any]:
        """Numbers for the history's `stats`."""
        return {}

    @property
    def notice(self) -> str:
        """What the history's status adds; nothing where all went as it should."""
        return ""

    def direction(self, gradient: Any) -> Any:
        """The direction ``p`` (d,): the step goes along ``-p``."""
        return gradient

    def ceiling(self, memory: Memory | None, weight_decay: float) -> float:
        """A step that the kept modes would not bear, each alone; inf where there are none.

        No limit: what modes do together, and what was not kept, bears less.
        """
        return math.inf

    def root(self) -> Callable[[Any], Any] | None:
        """``V -> S V`` (d, k) with ``P = S S``, as the metric stands; None where P is not positive."""
        return None

    def watch(self, loss: float, batch: int) -> Course:
        """What a batch's loss says of the run."""
        return Course.UNTOLD

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: arrays and numbers."""
        return {}

    def restore(self, state: dict[str, Any], backend: Backend) -> None:
        """Go on where `state` was taken."""


class MetricRule(DirectionRule):
    """A metric from the gradients' own sizes, and the running means that it is made of."""

    def __init__(self, method: Metric):
        self.method = method
        self.means: dict[str, Any] = {}

    def direction(self, gradient: Any) -> Any:
        return self.method.direction(gradient, self.means)

    def state(self) -> dict[str, Any]:
        return dict(self.means)

    def restore(self, state: dict[str, Any], backend: Backend) -> None:
        # Adam's count of steps is a number among them.
        self.means = {name: backend.asarray(kept) if np.ndim(kept) else kept for name, kept in state.items()}


class DenseRule(DirectionRule):
    """Exact gains on the whole Hessian of a batch: small dimensions."""

    def __init__(self, method: Method, every: int):
        self.method, self.every, self.last = method, every, -1
        self.hessian: Any = None

    def due(self, iteration: int, gradient_work: float, hessian_work: float, left: float) -> bool:
        return self.hessian is None or iteration - self.last >= self.every

    def refresh(self, curvature: Curvature, iteration: int) -> int:
        self.hessian, self.last = curvature.dense(), iteration
        xp = namespace(self.hessian)
        gap, size = (float(xp.max(xp.abs(part))) for part in (self.hessian - self.hessian.T, self.hessian))
        if gap > _check.asymmetry(self.hessian) * size:
            raise ValueError(
                f"`hessian` must be symmetric; its largest |H_ij - H_ji| is {gap:.3g} against entries up to "
                f"{size:.3g}. Check it with st.check_derivatives, or return (H + H.T) / 2."
            )
        self._local = spectral(self.method, self.hessian)
        return curvature.dim

    def direction(self, gradient: Any) -> Any:
        return self._local.apply(gradient)

    def root(self) -> Callable[[Any], Any] | None:
        vectors, gains = self._local.vectors, self._local.response.gains
        xp = namespace(gains)
        if not bool(xp.all(gains >= 0)):
            return None
        half = xp.sqrt(gains)[:, None]
        return lambda V: vectors @ (half * (vectors.T @ V))

    def state(self) -> dict[str, Any]:
        return {} if self.hessian is None else {"hessian": self.hessian, "last": self.last}

    def restore(self, state: dict[str, Any], backend: Backend) -> None:
        if state:
            self.hessian, self.last = backend.asarray(state["hessian"]), state["last"]
            self._local = spectral(self.method, self.hessian)


class LowRankRule(DirectionRule):
    """A truncated method by a randomized eigendecomposition, refreshed from the last one.

    Attributes
    ----------
    eig : LowRank or None
    sampling : array (rank,)
        Standard deviation of the Rayleigh quotients over gradient batches (nan: not known).
    modes : KeptModes
        What the method does with them, since the last refresh.
    """

    scale = 0.0  # the least size that anything counts with

    def __init__(self, method: Method, *, every: int | None, warm: bool, margin: float, solver: str):
        assert method.rank is not None
        self.method, self.rank = method, method.rank
        self.every, self.warm, self.margin, self.solver = every, warm, margin, solver
        self.eig: LowRank | None = None
        self.last = -1
        self.cost = self.first = 0.0  # of the next refresh and of the first one, in passes over samples
        # The first eigenvalue left out, and the size of the last one kept, at the last refresh.
        self.beyond = self.edge = 0.0

    @property
    def eigenvalues(self) -> np.ndarray:
        return np.zeros(0) if self.eig is None else self.eig.eigenvalues

    @property
    def noise(self) -> np.ndarray:
        return self.sampling

    def due(self, iteration: int, gradient_work: float, hessian_work: float, left: float) -> bool:
        if self.eig is None:
            return True
        if self.every is not None:
            return iteration - self.last >= self.every
        # The cost of the refresh itself counts already: the share is to be kept after it too.
        return (
            hessian_work - self.first + self.cost <= LAZY_SHARE * gradient_work and WORTH * self.cost <= left
        )

    def refresh(self, curvature: Curvature, iteration: int) -> int:
        warm = self.warm and self.eig is not None
        products = curvature.parts if len(curvature.parts) > 1 else curvature.parts[0]
        self.eig = randomized_eigh(
            products,
            curvature.dim,
            self.rank,
            method="warm" if warm else self.solver,
            start=self.eig if warm else None,
            residuals=False,  # nothing below reads them
            seed=curvature.seed,
            device=curvature.backend,
            dtype=curvature.backend.dtype,
        )
        cost = 2.0 * curvature.hessian_batch
        if self.last < 0:
            self.first = cost * self.eig.columns  # the cold start is an investment, not part of the share
        # After a cold start the next one will be warm, which takes fewer products.
        self.cost = cost * (self.rank + FRESH if self.warm and not warm else self.eig.columns)
        self.last = iteration
        self._read(self.eig, curvature)
        return self.eig.columns

    def _read(self, eig: LowRank, curvature: Curvature) -> None:
        """Sampling noise of the kept eigenvalues, from sub-batches to batches of both sizes."""
        samples = curvature.hessian_batch // len(curvature.parts)  # in each of the parts that spread
        spread = np.full(self.rank, np.nan) if eig.std is None else eig.std * math.sqrt(samples)
        self.sampling, self.hessian_sampling = (
            over_batches(spread, size, curvature.samples)
            for size in (curvature.gradient_batch, curvature.hessian_batch)
        )
        self.beyond, self.edge = self._following(eig), abs(float(eig.eigenvalues[-1]))
        self.beyond = float(np.clip(self.beyond, -abs(eig.eigenvalues[-1]), abs(eig.eigenvalues[-1])))
        self._rescale(eig)
        self.modes = self._account(eig)

    def _following(self, eig: LowRank) -> float:
        """The first eigenvalue left out, or what is known of it."""
        if np.isfinite(eig.next_eigenvalue):
            return eig.next_eigenvalue
        # A warm start does not look further: as it was to the last one kept, or at most that itself.
        return self.beyond * abs(eig.eigenvalues[-1]) / self.edge if self.edge > 0 else eig.eigenvalues[-1]

    def _rescale(self, eig: LowRank) -> None:
        """Choose `scale` anew; here, where it is none, the noise that a margin needs must be known."""
        if self.margin and np.isnan(self.sampling).any():
            raise ValueError(
                "`noise_margin` needs the eigenvalues' sampling noise, which is not known here: give a "
                "`hessian_batch` of at least two and fewer than all "
                "samples, and an eigensolver that tells it (block-krylov, double-pass); or leave "
                "`noise_margin` out."
            )

    def _account(self, eig: LowRank) -> KeptModes:
        return KeptModes(
            self.method,
            eig.eigenvalues,
            self.beyond,
            self.sampling,
            self.hessian_sampling,
            margin=self.margin,
            floor=self.scale,
        )

    def direction(self, gradient: Any) -> Any:
        assert self.eig is not None
        return self.eig.precondition(gradient, self.modes.gains, self.modes.tail_gain)

    def ceiling(self, memory: Memory | None, weight_decay: float) -> float:
        """The least mean-square limit of a kept mode alone, and of one of the size of the first beyond."""
        beta, nesterov = (memory.beta, memory.nesterov) if memory else (0.0, False)
        told: Any = {"nesterov": nesterov, "weight_decay": weight_decay}
        return float(min(self.modes.step_limits(beta, **told).min(), self.modes.tail_limit(beta, **told)))

    def root(self) -> Callable[[Any], Any] | None:
        assert self.eig is not None
        gains, tail = self.modes.gains, self.modes.tail_gain
        if not (np.all(gains >= 0) and tail >= 0):  # nan neither
            return None
        return partial(self.eig.precondition, kept=np.sqrt(gains), rest=math.sqrt(tail))

    def state(self) -> dict[str, Any]:
        if self.eig is None:
            return {}
        return {
            "sampling": self.sampling,
            "hessian_sampling": self.hessian_sampling,
            "vectors": self.eig.vectors,
            "eigenvalues": self.eig.eigenvalues,
            "next_eigenvalue": self.eig.next_eigenvalue,
            "beyond": self.beyond,
            "edge": self.edge,
            "last": self.last,
            "cost": self.cost,
            "first": self.first,
        }

    def restore(self, state: dict[str, Any], backend: Backend) -> None:
        if not state:
            return
        for name in ("sampling", "hessian_sampling", "beyond", "edge", "last", "cost", "first"):
            setattr(self, name, state[name])
        vectors = state["vectors"]
        self.eig = LowRank(
            eigenvalues=state["eigenvalues"],
            # In the order of memory they had: another would round otherwise.
            vectors=backend.asarray(vectors.T).T if vectors.flags.f_contiguous else backend.asarray(vectors),
            columns=0,
            residual=np.full(self.rank, np.nan),
            next_eigenvalue=state["next_eigenvalue"],
        )
        self.modes = self._account(self.eig)
