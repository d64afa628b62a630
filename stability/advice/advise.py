"""What is asked of a place for the advice, in which order, and within which budget."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import _check
from .._progress import Bar, progress_bar
from .._saving import provenance
from .._streams import stream
from ..lowrank.operator import Operator
from ..methods.memory import Memory
from ..spectra.ends import DOUBT, above
from ..spectra.lanczos import Tridiagonals, lanczos
from .bracket import ends
from .closure import Blocks, Closed
from .directions import PIECE, Directions
from .noise import Noisy, exponent, ratio
from .optimizer import Optimizer
from .place import Along, Place, Unknown, drawn
from .result import CARRIES, INTERRUPTED, Advice, told

BUDGET = 60
"""Gradients of all looked-at samples."""
SAMPLES = 2048
"""Samples that are looked at by default."""
HORIZON = 1000
"""Iterations over which the noise floor builds up."""
BATCHES = (0.25, 0.5, 2.0, 4.0, 8.0)
"""Other batch sizes that limits are told of, as multiples of the one in use."""

_LEAST = 20  # gradients
_SHARE = 0.2  # of the budget: Lanczos steps on the metric's curvature
_ROWS, _RULES, _DEPTH = 3, 2, 2  # vectors of noise, those with Lanczos steps, and how many of these
_SHARP = 3  # Lanczos steps on the plain Hessian, under a metric
_DRAWN, _SPENT = 32, 2.0  # batches for the batch sharpness at most, and gradients for them
_PROBES = 6
_SCREENED = (2, 3)  # modes and probes that find the samples that carry the curvature
_CANDIDATES = 64  # samples that seem to carry much, of which
_ROUGHLY, _EXACTLY = 3, 6  # products of a sample's own Hessian that find its leading direction
_INSIDE = 1e-6  # what is left of a direction that lies among the others
_HEAVY = 8  # samples whose own directions join
_STANDS_OUT = 2.0  # how many times the usual share of the curvature's noise a sample must have to join
_NOTHING = 1e-20  # of a sample's squared noise: a gradient that is rounding
_SETTLED = 0.3  # residual of a Ritz value, as a share of it, of nearly an eigenvector
_APART = 1.05  # with momentum, a decay of each direction alone was off by 3 % at most
_MISSED = 4.0  # how many times what Gauss-Newton curvature misses elsewhere is what it was seen to miss
_ROUNDED = 1e-9  # of the largest curvature: a negative one that is rounding


@dataclass(frozen=True)
class Row:
    """Lanczos from a random start on the metric's curvature.

    Attributes
    ----------
    values : array (k,)
        Ritz values, descending.
    vectors : array (n, k)
        Ritz vectors, of the place's own kind.
    residuals : array (k,)
    exhausted : bool
        Whether its space holds a vector of every eigenvalue.
    """

    values: np.ndarray
    vectors: Any
    residuals: np.ndarray
    exhausted: bool

    def upper(self, n: int) -> float:
        """What the largest eigenvalue does not pass, but with a small probability."""
        top = float(self.values[0])
        return top if self.exhausted else above(float(self.values[-1]), top, n, len(self.values))


def examine(
    place: Place,
    *,
    optimizer: Optimizer,
    batch: int,
    budget: float = BUDGET,
    horizon: int = HORIZON,
    seed: int = 0,
    progress: bool = False,
) -> Advice:
    """Advice on an optimizer's step at a place, from products and per-sample numbers alone.

    Parameters
    ----------
    place : Place
    optimizer : Optimizer
    batch : int
        Samples in a gradient batch, drawn without replacement from the place's population.
    budget : float
        Work, in gradients of all looked-at samples.
    horizon : int
        Iterations over which the noise floor builds up.
    seed : int
    progress : bool

    Returns
    -------
    Advice
        With what is known where the work is interrupted.

    Raises
    ------
    ValueError
        If an argument is out of range, or the place has a single sample, no finite gradient, or products that
        are no Hessian's (`BadProducts`).
    """
    budget = enough(budget)
    if place.samples < 2:
        raise ValueError(
            "Batch noise cannot be measured on one sample: data must hold two or more. Give more data, or to "
            "st.advise a `noise`."
        )
    batch = _check.count("batch", batch, most=_whole(place.population), why="the samples there are")
    horizon = _check.count("horizon", horizon)
    with progress_bar(_check.flag("progress", progress), "gradients", budget) as bar:
        found = Examination(place, optimizer, batch, budget, horizon, _check.seed(seed), bar)
        return found.advice()


def enough(budget: float, *, worth: int = 1) -> float:
    """A budget that advice can be given for in gradients, where it is in units worth so many of them."""
    budget, unit = _check.positive("budget", budget), "gradients" if worth == 1 else "Hessian products"
    if worth * budget < _LEAST:
        raise ValueError(
            f"`budget` must be at least {_LEAST // worth} {unit}; got {budget:g}. Leave it out for "
            f"{BUDGET // worth}."
        )
    return worth * budget


def _whole(population: float) -> int | None:
    return None if math.isinf(population) else int(population)


class Examination:
    """One examination of a place: every stage leaves what it found, and the last one tells."""

    def __init__(
        self,
        place: Place,
        optimizer: Optimizer,
        batch: int,
        budget: float,
        horizon: int,
        seed: int,
        bar: Bar,
    ):
        self.place, self.optimizer, self.batch = place, optimizer, batch
        self.budget, self.horizon, self.bar = budget, horizon, bar
        self.rng, self.seed = stream(seed, 0), seed
        self.began, self.before = time.perf_counter(), place.work.total - optimizer.cost
        self.products_before = place.work.products
        self.memory = optimizer.memory or Memory(0.0)
        self.decoupled, groups = optimizer.apart
        own = None if groups is None else self.memory.curvature_of(groups)[optimizer.groups]
        self.own: Any = None if own is None else place.backend.asarray(own)[:, None]
        self.notes: list[str] = list(optimizer.notes)
        if self._mixed:
            self.notes.append(
                "Weight decay differs between groups: with momentum, each direction is taken to have a decay "
                "of its own, an estimate."
            )
        self.found: dict[str, Any] = {}
        self.estimates: dict[str, tuple[float, float]] = {}
        self.reasons: dict[str, str] = {}

    # -- coordinates -------------------------------------------------------------------------------

    def scaled(self, V: Any) -> Any:
        """``S V`` (n, k)."""
        return self.optimizer.scaled(V, self.place.backend)

    def curvature(self, V: Any, rows: np.ndarray | None = None) -> Any:
        """``S H S V`` (n, k)."""
        moved = self.scaled(V)
        image = self.place.product(moved) if rows is None else self.place.product(moved, rows)
        if (decay := self._joined_decay()) is not None:
            image = image + decay * moved
        self.bar.show(self.spent, "gradients")
        return self.scaled(image)

    def _joined_decay(self) -> Any:
        """Of weight decay that joins the gradient: one number, or parameters' own (n, 1); None of none."""
        optimizer = self.optimizer
        if optimizer.decoupled or not any(optimizer.weight_decay):
            return None
        if optimizer.groups is None:
            return optimizer.weight_decay[0]
        return self.place.backend.asarray(np.array(optimizer.weight_decay)[optimizer.groups])[:, None]

    def pull(self, V: Any) -> Any:
        """What holds steps of the mean back: ``S H S V``, and weight decay of single groups as curvature.

        Decay beside the metric keeps to its coordinates. Without memory it is curvature there, without noise.
        """
        image = self.curvature(V)
        return image if self.own is None else image + self.own * V

    @property
    def spent(self) -> float:
        """Gradients so far."""
        return self.place.work.total - self.before

    @property
    def left(self) -> float:
        """Gradients."""
        return self.budget - self.spent

    def normals(self, shape: tuple[int, ...]) -> Any:
        """Standard normals of the place's own kind."""
        backend = self.place.backend
        if backend.dtype == "float64" or shape[0] <= PIECE:
            return backend.asarray(self.rng.standard_normal(shape))
        # Double precision of all of them would take twice their memory.
        found = backend.xp.empty(shape, dtype=getattr(backend.xp, backend.dtype), device=backend.device)
        for start in range(0, shape[0], PIECE):
            rows = min(PIECE, shape[0] - start)
            found[start : start + rows, :] = backend.asarray(self.rng.standard_normal((rows, *shape[1:])))
        return found

    def shrink(self, batch: float) -> float:
        """The variance of a batch's mean, per variance of a sample."""
        return drawn(batch, self.place.population)

    def unbias(self, m: int, *, left_out: int = 0) -> float:
        """Of variances seen on m samples, a random part of all but some."""
        # Of all samples that there are the variance seen is the variance.
        return m / (m - 1) if m < self.place.population - left_out else 1.0

    @property
    def _mixed(self) -> bool:
        """Whether decay of single groups moves buffers too, which then have no modes of their own."""
        return self.own is not None and self.memory.beta > 0

    # -- the whole ---------------------------------------------------------------------------------

    def advice(self) -> Advice:
        """All stages; where one is interrupted, what is known."""
        try:
            for stage, names in self._stages():
                try:
                    stage()
                except Unknown as why:
                    self.reasons.update(dict.fromkeys(names, str(why)))
                    if stage == self._look_along:
                        break
        except KeyboardInterrupt:
            self.notes.append(INTERRUPTED)
        return self._told()

    def _stages(self) -> Iterator[tuple[Callable[[], None], Sequence[str]]]:
        """What is done, and what is not known where it cannot be."""
        floors = ("noise_floor", "drop", "critical_batch")
        yield self._lead, ()
        yield self._take_gradient, ()
        yield self._draw_batches, ("batch_sharpness",)
        yield self._sharpen, ("sharpness",)
        yield self._take_noise, floors
        yield self._look_along, ("step_limit", *floors, "noise_exponent")
        yield self._limits, ("step_limit",)
        yield self._noise, floors
        yield self._exponent, ("noise_exponent",)

    def _lead(self) -> None:
        """The leading curvature: Lanczos from a random start."""
        place = self.place
        steps = min(max(3, round(_SHARE * self.budget)), place.n)
        self._led_by(self._lanczos(self.pull, steps))
        if not np.any(self.row.values):
            self.notes.append(
                "The loss is straight here, as absolute values, rounding or hinges make it: what its kinks "
                "do to a step shows in no derivative."
            )

    def _led_by(self, row: Row) -> None:
        """What leading directions tell by themselves."""
        self.row, top = row, float(row.values[0])
        curvatures = row.values
        if self.own is not None:
            squares = self.place.backend.host(row.vectors * row.vectors * self.own)
            curvatures = curvatures - squares.sum(axis=0)
        self.found["curvatures"] = curvatures
        self.found["preconditioned_sharpness"] = float(curvatures[0])
        if top > 0:
            self.found["deterministic_limit"] = float(self.memory.mean_limit(top, self.decoupled))
        if not self._metric:
            self.found["sharpness"] = float(row.values[0])

    @property
    def _metric(self) -> bool:
        return self.optimizer.root is not None or self.optimizer.groups is not None

    def _lanczos(self, product: Callable[[Any], Any], steps: int, start: Any = None) -> Row:
        place, xp = self.place, self.place.backend.xp
        operator = Operator((product,), place.n, place.backend, self.normals)
        start = self.normals((place.n, 1)) if start is None else start
        start = start / xp.sqrt(xp.sum(start * start))
        made: Tridiagonals = lanczos(operator, start.T, steps, keep=True)
        length = int(made.lengths[0])
        diagonal, beside = made.diagonals[0, :length], made.off_diagonals[0, :length]
        T = np.diag(diagonal) + np.diag(beside[:-1], 1) + np.diag(beside[:-1], -1)
        values, turn = np.linalg.eigh(T)
        values, turn = values[::-1], turn[:, ::-1]
        vectors = made.basis[0, :length, :]
        turn_rows = place.backend.asarray(turn.T.copy())
        for i in range(0, place.n, PIECE):  # in place: the basis is not needed any more
            vectors[:, i : i + PIECE] = turn_rows @ vectors[:, i : i + PIECE]
        exhausted = length < steps or length == place.n
        residuals = np.zeros(length) if exhausted else beside[-1] * np.abs(turn[-1])
        return Row(values, vectors.T, residuals, exhausted)

    def _take_gradient(self) -> None:
        gradient = self.place.gradient()
        if not bool(self.place.backend.xp.all(self.place.backend.xp.isfinite(gradient))):
            raise ValueError(
                "The gradient at this place must be finite; it is not. Ask before the run has diverged."
            )
        moved = self.scaled(gradient[:, None])
        bent = self.curvature(moved)
        self.slope = self._dot(moved, moved), self._dot(moved, bent)

    def _dot(self, one: Any, other: Any) -> float:
        return float(self.place.backend.xp.sum(one * other))

    # -- noise -------------------------------------------------------------------------------------

    def _draw_batches(self) -> None:
        """What curvature batches' gradients see along themselves."""
        m, b = self.place.samples, self.batch
        if b > m:
            self.reasons["batch_sharpness"] = f"only {m} samples are looked at, fewer than a batch"
            return
        # A batch's gradient and a product of it cost three of its gradients.
        number = 1 if b == m else int(min(_DRAWN, max(4, _SPENT * m / (3 * b))))
        bent, square = np.zeros(number), np.zeros(number)
        for i in range(number):
            rows = None if b == m else np.sort(self.rng.choice(m, b, replace=False))
            slope = self.place.gradient() if rows is None else self.place.gradient(rows)
            moved = self.scaled(slope[:, None])
            bent[i], square[i] = self._dot(moved, self.curvature(moved, rows)), self._dot(moved, moved)
        found = ratio(bent, square)
        self.estimates["batch_sharpness"] = found.value, found.error
        self.reasons["batch_sharpness"] = found.reason

    def _take_noise(self) -> None:
        """Vectors of one sample's noise, ``S zeta``."""
        m = self.place.samples
        vectors = []
        for _ in range(_ROWS):
            signs = self.rng.choice([-1.0, 1.0], m)
            # Centred, so that the mean gradient drops out and the noise alone is left.
            signs -= signs.mean()
            vectors.append(self.scaled((self.place.signed_gradient(signs) * math.sqrt(m))[:, None]))
        self.zeta = self.place.backend.xp.concat(vectors, axis=1) * math.sqrt(self.unbias(m))

    def _sharpen(self) -> None:
        """The plain Hessian's largest eigenvalue, from the metric's leading direction."""
        if not self._metric:
            return
        start = self.scaled(self.row.vectors[:, :1])
        row = self._lanczos(self.place.product, min(_SHARP, self.place.n), start)
        self.found["sharpness"] = float(row.values[0])

    # -- every sample along a few directions -------------------------------------------------------

    def _look_along(self) -> None:
        """Every sample's curvature along the leading modes, heavy samples' own directions, and probes."""
        place = self.place
        reserve = 2 * _RULES * _DEPTH
        heavy: list[Any] = []
        if place.n - len(self.row.values) > _HEAVY:
            heavy = self._heavy_directions(self.row.vectors, reserve)
        led, many, probes = self._afforded(len(heavy), max(self.left - reserve, 0.1 * self.budget))
        Q = Directions(place.backend, [self.row.vectors[:, :led], *heavy[:many]])
        k = Q.shape[1]
        V = Q.joined(self._probes(Q, probes)) if probes else Q
        seen = self._along(V)
        mean = seen.curvatures.mean(axis=0)[:k, :k]
        # Products know the mean, of which single samples may have been looked at by their larger part alone.
        mean[:led, :led] = np.diag(self.row.values[:led])
        self.seen, self.mean, self.decay = seen, mean, self._decay_along(V)
        self.blocks, turn = Blocks.of(
            seen.curvatures,
            mean,
            place.n - k,
            unbias=self.unbias(len(self.seen.curvatures)),
            decay=self.decay,
        )
        self.directions, self.turn, self.led = Q, turn, led

    def _afforded(self, heavy: int, gradients: float) -> tuple[int, int, int]:
        """How many modes, directions of heavy samples and probes so many gradients pay for."""
        modes = len(self.row.values)
        probes = _PROBES if self.place.n > modes + heavy else 0
        while self.place.price(modes + heavy + probes) > gradients:
            # The heaviest samples decide; the last modes matter least, and few probes tell of the rest.
            if modes > 6:
                modes -= 1
            elif probes > 3:
                probes -= 1
            elif heavy > 2:
                heavy -= 1
            elif modes > 2:
                modes -= 1
            elif modes + heavy + probes > 3:
                modes, heavy, probes = 1, 0, 2
            else:
                raise Unknown(f"a budget of {self.budget:g} gradients is too small to look at single samples")
        return modes, heavy, probes

    def _along(self, V: Directions) -> Along:
        """Curvatures with what weight decay adds; V (n, k) in the metric's coordinates."""
        seen = self.place.along(V.scaled(self.scaled))
        if seen.note and seen.note not in self.notes:
            self.notes.append(seen.note)
        curvatures = seen.curvatures
        if (decay := self._joined_decay()) is not None:
            curvatures = curvatures + V.gram(lambda v: self.scaled(decay * self.scaled(v)))
        if (own := self._decay_along(V)) is not None:
            curvatures = curvatures + own
        if not (np.isfinite(curvatures).all() and np.isfinite(seen.gradients).all()):
            raise ValueError(
                "Every sample's loss must have finite derivatives here; some are nan or infinite. Leave such "
                "samples out, or ask before the run has diverged."
            )
        return dataclasses.replace(seen, curvatures=curvatures)

    def _decay_along(self, V: Directions) -> np.ndarray | None:
        """``V^T D V`` (k, k) of single groups' decay as curvature."""
        return None if self.own is None else V.gram(lambda v: self.own * v)

    def _probes(self, Q: Directions, count: int) -> Any:
        """Gaussian vectors (n, count) off the directions."""
        return Q.off(self.normals((self.place.n, count)), fresh=True)

    def _heavy_directions(self, lead: Any, reserve: float) -> list[Any]:
        """Directions (n, 1) of the samples that carry the curvature's noise, off the leading ones (n, k)."""
        place, Q = self.place, Directions(self.place.backend, [lead])
        k, probes = min(_SCREENED[0], Q.shape[1]), _SCREENED[1]
        if place.price(k + probes) > 0.5 * (self.left - reserve):
            return []
        seen = self._along(Directions(place.backend, [lead[:, :k], self._probes(Q, probes)]))
        blocks, _ = Blocks.of(seen.curvatures, np.diag(self.row.values[:k]), place.n - k)
        each = np.sum(blocks.inner**2, axis=(1, 2)) + 2 * np.sum(blocks.across**2, axis=(1, 2)) / probes
        each = each + blocks.scatters
        order = np.argsort(-each)[:_CANDIDATES]
        candidates = order[each[order] > _STANDS_OUT * each.mean()]
        try:
            sizes = [self._range(s, _ROUGHLY)[0] for s in candidates]
            heaviest = [candidates[i] for i in np.argsort(sizes)[::-1][:_HEAVY] if sizes[i] > 0]
            found = [self._range(s, _EXACTLY)[1] for s in heaviest]
        except Unknown:  # whoever has no samples of its own has none that stand out
            return []
        return self._off(Q, found).blocks[1:]

    def _off(self, Q: Directions, found: list[Any]) -> Directions:
        """These directions, and what of others (n, 1) lies off them, which are given up one by one."""
        while found:  # one after the other: the heaviest come first
            vector = Q.off(found.pop(0))
            size = math.sqrt(self._dot(vector, vector))
            if size > _INSIDE:
                Q = Q.joined(vector / size)
        return Q

    def _range(self, sample: int, products: int) -> tuple[float, Any]:
        """The size of a sample's largest curvature, and its direction (n, 1), by so many products."""
        vector, size = self.normals((self.place.n, 1)), 0.0
        for _ in range(products):
            vector = self.curvature(vector, np.array([sample]))
            size = math.sqrt(self._dot(vector, vector))
            if not size > 0:
                return 0.0, vector
            vector = vector / size
        return size, vector

    # -- what follows ------------------------------------------------------------------------------

    def closed(self, batch: float, *, alone: bool = False) -> Closed:
        """The balance of second moments at a batch size."""
        return self._balance(self.blocks.alone() if alone else self.blocks, batch)

    def _balance(self, blocks: Blocks, batch: float) -> Closed:
        share = self.shrink(batch) if self.optimizer.multiplies else 0.0
        return Closed(blocks.positive(), share, self.memory, self.decoupled)

    def _among(self, chosen: np.ndarray) -> Blocks:
        """Some of the leading modes by themselves."""
        pair = np.ix_(chosen, chosen)
        part = self.seen.curvatures[:, chosen][:, :, chosen]
        decay = None if self.decay is None else self.decay[pair]
        return Blocks.of(
            part, self.mean[pair], 0, unbias=self.unbias(len(self.seen.curvatures)), decay=decay
        )[0]

    def _limits(self) -> None:
        closed = self.closed(self.batch)
        if not len(closed.blocks.eigenvalues):
            self.reasons["step_limit"] = (
                "no direction of positive curvature was found: this is no place to stay at"
            )
            return
        whole = self.blocks.width == 0 or not closed.blocks.closed
        self.found["step_limit"] = closed.leader.limit
        self.found["deterministic_limit"] = closed.deterministic
        known = self.seen.exact and self._all_samples and not self._mixed
        self.found["exact"] = self.blocks.width == 0 and known
        self.found["step_limit_bracket"] = self._bracket(closed)
        self.found["closed"] = closed
        self.found["mode_limits"] = self._mode_limits()
        self.found["batches"], self.found["batch_limits"] = self._other_batches()
        if closed.share:
            shares = closed.shares()
            self.found["sample_share"] = float(np.max(shares))
            if np.max(shares) > CARRIES:
                self.found["limit_without_heaviest"] = self._without(int(np.argmax(shares)))
        if whole and self.blocks.width:
            self.notes.append(
                "The curvature beyond the leading modes is not positive on average: the limit is that of "
                "these modes alone, and may be lower."
            )
        self._group_shares(closed)

    def _without(self, sample: int) -> float:
        """The limit of all samples but one; nan of two."""
        seen, m, k = self.seen.curvatures, self.place.samples, len(self.mean)
        if len(seen) < 3:
            return math.nan
        mean = self.mean + (self.mean - seen[sample, :k, :k]) / (m - 1)
        if np.linalg.eigvalsh(mean)[-1] <= _ROUNDED * self.blocks.eigenvalues[0]:
            return math.inf
        others = np.delete(seen, sample, axis=0)
        unbias = self.unbias(len(others), left_out=1)
        blocks, _ = Blocks.of(others, mean, self.blocks.width, unbias=unbias, decay=self.decay)
        share = drawn(self.batch, self.place.population - 1)
        return Closed(blocks.positive(), share, self.memory, self.decoupled).leader.limit

    def _bracket(self, closed: Closed) -> tuple[float, float]:
        """Ends of the limit, and what is known of them."""
        if self.found["exact"]:
            self.found["confidence"] = 1.0
            return (closed.leader.limit,) * 2
        if closed.share == 0 and self._all_samples:
            # One eigenvalue decides, and Lanczos' bound has its probability.
            self.found["confidence"] = 1 - DOUBT
        raised = self.row.upper(self.place.n) / float(self.row.values[0])
        part = self.not_seen
        low, high = ends(closed, self._bounding(), self._rough(closed), raised=raised, part=part)
        if self._mixed:
            found = [self._decayed(closed, by).leader.limit for by in (0.0, float(self.own.max()))]
            low, high = min(low, *found) / _APART, max(high, *found) * _APART
        return low, high

    def _rough(self, closed: Closed) -> Closed:
        """The balance where curvature that was not looked at is added to what stands in for it, at random."""
        if self.seen.known is None:
            return closed
        k, m = len(self.mean), len(self.seen.curvatures)
        curvatures, known = self.seen.curvatures.copy(), self.seen.known[:k, :k]
        spread = np.std(curvatures[:, :k, :k], axis=0)
        size = spread
        if not math.isnan(self.seen.missed):
            # Along flat directions less is missed than along leading ones, but more of what stands in.
            size = self.seen.missed * np.sqrt(spread / np.max(spread[known]))
        added = self.rng.standard_normal((m, k, k)) * np.where(known, 0.0, _MISSED * size)
        curvatures[:, :k, :k] += np.tril(added) + np.tril(added, -1).transpose(0, 2, 1)
        blocks, _ = Blocks.of(
            curvatures, self.mean, self.blocks.width, unbias=self.unbias(m), decay=self.decay
        )
        return self._balance(blocks, self.batch)

    def _decayed(self, closed: Closed, curvature: float) -> Closed:
        """The balance as if all parameters had one and the same decay more, given as curvature."""
        assert self.decay is not None
        k = len(self.mean)
        without, mean = self.seen.curvatures - self.decay, self.mean - self.decay[:k, :k]
        blocks, _ = Blocks.of(without, mean, self.blocks.width, unbias=self.unbias(len(self.seen.curvatures)))
        decay = self.decoupled + curvature / self.memory.curvature_of(1.0)
        return Closed(blocks.positive(), closed.share, self.memory, decay)

    def _bounding(self) -> Closed:
        """The balance of directions alone, which the whole allows no more than."""
        bends = np.einsum("sii->si", self.seen.curvatures)
        if self.seen.exact and bends.min() >= -_ROUNDED * bends.max():
            return self.closed(self.batch, alone=True)
        # Where samples bend down too, a direction that leans where nothing decays takes over noise there.
        values = self.row.values[: self.led]
        settled = np.flatnonzero((self.row.residuals[: self.led] <= _SETTLED * values) & (values > 0))
        # A mean over samples is known from products, whatever stands in for single ones.
        known = np.ones((self.led,) * 2, dtype=bool) if self.seen.known is None else self.seen.known
        whole = [i for i in range(self.led) if known[: i + 1, : i + 1].all()]
        single = [np.array([i]) for i in settled if known[i, i]]
        some = [each for each in (np.intersect1d(settled, whole), *single) if len(each)]
        found = [self._balance(self._among(each), self.batch) for each in some]
        if not found:
            return self._balance(self._among(np.array([0])), self.batch).with_share(0.0)
        return min(found, key=lambda one: one.leader.limit)

    @property
    def not_seen(self) -> float:
        """Of what batches are drawn from, the share that was not looked at."""
        return 1.0 if self.place.redrawn else 1 - len(self.seen.curvatures) / self.place.population

    @property
    def _all_samples(self) -> bool:
        return self.not_seen == 0

    def _mode_limits(self) -> np.ndarray:
        """Of each Ritz direction by itself (k,); nan where its curvature is not positive."""
        found = np.full(len(self.row.values), np.nan)
        for i in np.flatnonzero(self.row.values[: self.led] > 0):
            found[i] = self._balance(self._among(np.array([i])), self.batch).leader.limit
        return found

    def _other_batches(self) -> tuple[np.ndarray, np.ndarray]:
        asked = {self.batch}
        asked |= {max(1, round(self.batch * factor)) for factor in BATCHES}
        sizes = np.array(sorted(size for size in asked if size <= self.place.population))
        limits = [self.closed(size).leader.limit for size in sizes]
        return sizes, np.array(limits) / self.optimizer.step

    def _group_shares(self, closed: Closed) -> None:
        """Of the leading direction, what lies in each group."""
        groups = self.optimizer.groups
        if groups is None:
            return
        kept = self.blocks.moving
        weights = np.linalg.eigh(closed.leader.W)[1][:, -1]
        square = self.place.backend.host(self.directions.combined(self.turn[:, kept] @ weights[:, None]))
        square = square[:, 0] ** 2
        self.found["group_shares"] = np.bincount(groups, square, len(self.optimizer.steps)) / square.sum()

    def _rules(self, starts: list[Any]) -> tuple[np.ndarray, np.ndarray]:
        """Nodes and weights (s, k) of the curvature beyond the directions, seen by unit vectors (n, 1) there.

        All of them go together: what they see of each other tells a Hessian that is not symmetric.
        """
        place, xp = self.place, self.place.backend.xp

        def outside(V: Any) -> Any:
            columns = range(V.shape[1])  # one by one: each takes the memory of some vectors of parameters
            image = xp.concat([self.curvature(V[:, i : i + 1]) for i in columns], axis=1)
            return self.directions.off(image, passes=1, fresh=True)

        operator = Operator((outside,), place.n, place.backend, self.normals)
        start, depth = xp.concat(starts, axis=1).T, min(_DEPTH, self.blocks.width)
        starts.clear()
        made = lanczos(operator, start, depth, size=float(abs(self.row.values[0])))
        return made.rule(made.lengths)

    def _noise(self) -> None:
        """The noise floor, and the critical batch."""
        sizes, lengths = [], []
        starts: list[Any] = []
        for s in range(_ROWS):
            zeta = self.zeta[:, s : s + 1]
            beyond = self.directions.off(zeta)
            sizes.append(self._dot(beyond, beyond))
            # Signs that cancel, as those of two samples may, leave a vector of nothing.
            some = sizes[-1] > 1e-20 * self._dot(zeta, zeta)
            if some and self.blocks.width and len(starts) < _RULES:
                starts.append(beyond / math.sqrt(sizes[-1]))
                lengths.append(sizes[-1])
        rules = []
        if starts:
            # Vectors without a rule of their own tell of the size alone.
            sized = np.array(lengths) * np.mean(sizes) / np.mean(lengths)
            rules = [
                (node, size * weight) for node, weight, size in zip(*self._rules(starts), sized, strict=True)
            ]
        seen = self.seen.gradients[:, : len(self.turn)] @ self.turn
        closed = self.found.get("closed")
        seen = seen - seen.mean(axis=0)
        noisy = Noisy(seen, self.blocks, rules, self._all_samples)
        self._critical(noisy)
        if closed is None:
            return
        here = self.optimizer.step
        if here >= closed.leader.limit:
            self.estimates["noise_floor"] = self.estimates["drop"] = (math.inf, 0.0)
            self.reasons["noise_floor"] = self.reasons["drop"] = "the step is beyond its limit"
            return
        share = self.shrink(self.batch)
        floors = [noisy.floor(closed, step, share, self.horizon) for step in (here, here / 10)]
        self.estimates["noise_floor"] = floors[0]
        self.estimates["drop"] = floors[0][0] - floors[1][0], math.hypot(floors[0][1], floors[1][1])

    def _critical(self, noisy: Noisy) -> None:
        (square, bent), shrink = self.slope, self.shrink(self.place.samples)
        bending, trace = noisy.bending(), noisy.trace()
        # The mean over the samples looked at carries their own noise.
        bent, square = bent - shrink * bending[0], square - shrink * trace[0]
        if square <= _NOTHING * trace[0]:
            self.estimates["critical_batch"] = math.inf, 0.0
            self.reasons["critical_batch"] = "the gradient vanishes here"
            return
        if not (bent > 0 and square > 0):
            self.reasons["critical_batch"] = (
                "the gradient is lost in the noise of the samples looked at"
                if bending[0] > 0
                else "the loss does not curve up along the step"
            )
            return
        found = bending[0] / bent
        self.estimates["critical_batch"] = found, bending[1] / bent
        self.found["best_step"] = square / bent / (1 + found / self.batch)

    def _exponent(self) -> None:
        """``g`` of ``Sigma ~ H^g``, over Ritz vectors that are nearly eigenvectors."""
        settled = (self.row.residuals <= _SETTLED * np.abs(self.row.values))[: self.led]
        chosen = np.flatnonzero(settled & (self.row.values[: self.led] > 0))
        curvatures = np.einsum("sii->si", self.seen.curvatures)[:, chosen]
        found = exponent(self.seen.gradients[:, chosen], curvatures)
        self.estimates["noise_exponent"] = found.value, found.error
        self.reasons["noise_exponent"] = found.reason

    def _told(self) -> Advice:
        work = self.place.work
        stats = {
            "gradients": work.total - self.before,
            "hessian_products": work.products - self.products_before,
            "seconds": time.perf_counter() - self.began,
        }
        return told(
            self.optimizer,
            self.found,
            self.estimates,
            reasons=self.reasons,
            notes=self.notes,
            batch=self.batch,
            horizon=self.horizon,
            samples=self.place.samples,
            population=self.place.population,
            parameters=self.place.n,
            stats=stats,
            provenance=provenance(seed=self.seed, budget=self.budget),
        )
