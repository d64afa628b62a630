"""The rule that a run of Lanczos leaves, and the sums that it gives."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import _check
from .._check import Unstable
from .._display import Grid, settled
from .._estimate import Estimate
from .._law import Law, law_of
from .._saving import Result, Study
from ..methods.memory import undecayed
from ..methods.method import SGD, Method
from ..methods.response import gains_at
from ..noise import Noise
from .ends import DOUBT, above
from .lanczos import Tridiagonals

Function = Callable[[np.ndarray], Any]
Lift = np.ndarray | None
OUTLIER_STEPS = 4
"""Lanczos steps from each deflated vector: one that is an eigenvector only roughly then biases no sum."""
SETTLED = 0.01
"""Residual, beside its distance from a bound, of a node whose side of that bound is known."""
KERNEL = 0.1
"""Residual, beside the distance to the next node, of a node at zero that may stand for a kernel."""
CONVERGED = 0.05
"""Residual, beside its eigenvalue, of a deflated vector that a truncated method may count on."""
SMOOTHING, RESOLVED = 0.2, 4
"""Width of the picture's smoothing, in units of ``asinh(lam / scale)``, and how many of a rule's nodes lie
within `scale` of zero.
"""

MAYBE = "there may be no stationary law"
"""What a reason begins with that leaves a sum without an error."""


@dataclass(frozen=True)
class Spectrum(Result):
    """A quadrature rule for sums over the eigenvalues of a symmetric operator H; made by `spectrum`.

    Attributes
    ----------
    n : int
        How many eigenvalues there are.
    deflated : int
        Leading eigenvectors taken out; the first rows of `nodes` are theirs, one each.
    probes : int
        Random vectors off them: the other rows.
    diagonals, off_diagonals : arrays, shape (deflated + probes, steps)
    lengths : array of int, shape (deflated + probes,)
        The tridiagonal matrices of all rows; entries beyond a row's length mean nothing.
    resolution : float
        The size below which an eigenvalue counts as zero: rounding.
    stats : dict
        ``hessian_products`` and ``seconds``.
    provenance : dict

    Examples
    --------
    >>> import numpy as np, stability as st
    >>> s = st.spectrum(st.quadratic(np.linspace(1.0, 2.0, 40)), steps=40)
    >>> [round(end, 6) for end in s.extremes], bool(abs(s.trace.value - 60.0) < 3 * s.trace.error)
    ([1.0, 2.0], True)
    """

    n: int
    deflated: int
    probes: int
    diagonals: np.ndarray
    off_diagonals: np.ndarray
    lengths: np.ndarray
    resolution: float
    stats: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    @functools.cached_property
    def _rule(self) -> tuple[np.ndarray, np.ndarray]:
        return self._shortened(1)

    @functools.cached_property
    def _half(self) -> tuple[np.ndarray, np.ndarray]:
        return self._shortened(2)

    @functools.cached_property
    def _residuals(self) -> np.ndarray:
        """Of all nodes (deflated + probes, steps); 0 in an exhausted space, whose rule is exact."""
        # Where the recurrence ended by itself the space is invariant, and its nodes are eigenvalues.
        ends = np.where(self.off_diagonals <= self.resolution, 0.0, self.off_diagonals)
        return Tridiagonals(self.diagonals, ends, self.lengths).residuals(self._limits(1))

    def _limits(self, divisor: int) -> np.ndarray:
        limits = np.full(self.deflated + self.probes, max(1, self.diagonals.shape[1] // divisor))
        limits[: self.deflated] = max(1, min(OUTLIER_STEPS, self.diagonals.shape[1]) // divisor)
        return limits

    def _shortened(self, divisor: int) -> tuple[np.ndarray, np.ndarray]:
        tridiagonals = Tridiagonals(self.diagonals, self.off_diagonals, self.lengths)
        nodes, weights = tridiagonals.rule(self._limits(divisor))
        # A probe's own weights sum to one: each probe stands for
        # its share of the eigenvalues off the deflated vectors.
        weights[self.deflated :] *= (self.n - self.deflated) / max(1, self.probes)
        return nodes, weights

    @property
    def nodes(self) -> np.ndarray:
        """Where the rule looks, (deflated + probes, steps): Ritz values, none beyond the spectrum."""
        return self._rule[0]

    @property
    def weights(self) -> np.ndarray:
        """How many eigenvalues each node stands for, (deflated + probes, steps): n in all."""
        return self._rule[1]

    @property
    def outliers(self) -> np.ndarray:
        """The deflated eigenvalues (deflated,), largest magnitude first."""
        return self.diagonals[: self.deflated, 0]

    @property
    def extremes(self) -> tuple[float, float]:
        """Lowest and highest Ritz value: the spectrum reaches at least so far."""
        return float(self.nodes.min()), float(self.nodes.max())

    @property
    def highest(self) -> tuple[float, float]:
        """What the largest eigenvalue lies between: the highest Ritz value, and what it does not pass.

        But with a probability of 0.05 over all probes, whose starts are random and independent (Kuczynski and
        Wozniakowski).
        """
        return self.extremes[1], max(self._above, float(self.nodes[: self.deflated].max(initial=-math.inf)))

    @functools.cached_property
    def _above(self) -> float:
        """What the largest eigenvalue off the deflated vectors does not pass."""
        # The largest of all bounds is passed only where each of them is: each may be as doubtful as that.
        doubt, ends = DOUBT ** (1 / max(1, self.probes)), [-math.inf]
        for i in range(self.deflated, self.deflated + self.probes):
            count = min(int(self.lengths[i]), self.diagonals.shape[1])
            nodes = self.nodes[i, :count]
            lowest, highest = float(nodes.min()), float(nodes.max())
            exhausted = self.off_diagonals[i, count - 1] <= self.resolution
            width = self.n - self.deflated
            ends.append(highest if exhausted else above(lowest, highest, width, count, doubt))
        return max(ends)

    def sum(self, f: Function) -> Estimate:
        """``tr f(H)``: the sum of `f` over all eigenvalues.

        Parameters
        ----------
        f : callable
            Of an array of eigenvalues, element by element; smooth, unlike a count, for which there is
            `below`.

        Returns
        -------
        Estimate
            Its error is that of the probes and, added in squares, `quadrature_error`: where that dominates
            ask for more steps, else for more probes. The probes' variance is known from the same rule, ``2 tr
            (f - mean)^2 / probes``: of few probes and one outlier their own spread would tell too little. It
            is widened to Student's law of as many degrees of freedom as squares count in that sum, so that
            ``value +- 1.96 error`` covers 95 %.

        Raises
        ------
        ValueError
            If `f` is not a function of arrays, or not finite on the spectrum.

        Examples
        --------
        >>> import numpy as np, stability as st
        >>> curvature = np.linspace(1.0, 2.0, 50)
        >>> s = st.spectrum(lambda V: curvature[:, None] * V, n=50)
        >>> value, error, _ = s.sum(np.log)
        >>> bool(abs(value - np.log(curvature).sum()) < 3 * error)
        True
        """
        return self._estimate(lambda nodes: _evaluated(f, nodes))

    def quadrature_error(self, f: Function) -> float:
        """How much of ``tr f(H)`` the last half of the steps changed: more than was left to change."""
        full, half = (
            self._samples(rule, lambda nodes: _evaluated(f, nodes)) for rule in (self._rule, self._half)
        )
        return float(abs(full.mean() - half.mean()))

    def _estimate(self, f: Function, reason: str = "", other: Function | None = None) -> Estimate:
        """A sum; `other` stands where its function is not known better than that."""
        full, half = (self._samples(rule, f).mean() for rule in (self._rule, self._half))
        apart = 0.0 if other is None else float(self._samples(self._rule, other).mean() - full)
        error = math.hypot(self._probe_error(f), full - half, apart)
        return Estimate(float(full), math.inf if reason.startswith(MAYBE) else error, reason)

    def _probe_error(self, f: Function, rule: tuple[np.ndarray, np.ndarray] | None = None) -> float:
        """The standard error of the probes' mean, for Gaussian intervals.

        A uniform direction u in N dimensions has ``Var(N u.T A u) = 2 N / (N + 2) (tr A^2 - (tr A)^2 / N)``.
        """
        import scipy

        left = self.n - self.deflated
        if not self.probes or left < 2:
            return 0.0
        nodes, weights = self._rule if rule is None else rule
        all_values = f(nodes)
        own, values = weights[self.deflated :], all_values[self.deflated :]
        # About the mean: a constant has no variance over directions of one length.
        apart = values - np.sum(own * values) / left
        squares, fourth = (float(np.sum(own * apart**k)) for k in (2, 4))
        if squares <= 0:
            return 0.0
        # One eigenvalue alone has a square for each probe; where many share the sum there are many.
        degrees = self.probes * max(1.0, squares**2 / fourth if fourth > 0 else math.inf)
        wide = scipy.special.stdtrit(min(degrees, 1e9), 0.975) / scipy.special.ndtri(0.975)
        # What f(H) makes of a probe along the deflated vectors, where they are not eigenvectors, is no part
        # of its sum: no more than it makes of these off them.
        first, second = (np.sum((weights * all_values**k)[: self.deflated], axis=1) for k in (1, 2))
        leak = float(np.sum(np.maximum(second - first**2, 0.0)))
        # By the probes' own scatter, in the terms of the last line: their variance is 2 n / (n + 2) of the
        # squares.
        seen = 0.5 * (left + 2) / left * float(self._samples((nodes, weights), f).var(ddof=1))
        squares = min(squares, max(squares - leak, seen)) if leak > 0 else squares
        return float(wide * math.sqrt(2 * left / (left + 2) * squares / self.probes))

    def _samples(self, rule: tuple[np.ndarray, np.ndarray], f: Function) -> np.ndarray:
        """What each probe makes of the sum, (probes,); one exact number where every vector is deflated."""
        nodes, weights = rule
        rows = (weights * f(nodes)).sum(axis=1)
        # The weights hold 1 / probes; multiplied back, every probe gives an estimate of the whole sum.
        return rows[: self.deflated].sum() + (
            self.probes * rows[self.deflated :] if self.probes else np.zeros(1)
        )

    @property
    def trace(self) -> Estimate:
        """``tr H``."""
        return self.sum(lambda lam: lam)

    @property
    def negative(self) -> Estimate:
        """How many eigenvalues are negative, beyond rounding.

        A node as near to zero as a kernel's can be, ``residual^2`` over the distance to the next one (Kato
        and Temple), stands for a kernel; it is not charged to the error.
        """
        (nodes, weights), residuals = self._rule, self._residuals
        counted = np.where(weights > 0, nodes, np.inf)  # those beyond a row's length mean nothing
        with np.errstate(invalid="ignore"):
            steps = np.diff(counted, axis=1, prepend=-np.inf, append=np.inf)
            gaps = np.fmin(steps[:, :-1], steps[:, 1:])
            share = np.where(residuals > 0, residuals / gaps, 0.0)
            near = np.abs(nodes) <= 10 * share * residuals + self.resolution
        kernel = (share <= KERNEL) & near & (weights > 0)
        count = self._count(-self.resolution, np.where(kernel, 0.0, nodes), np.where(kernel, 0.0, residuals))
        spill = float(np.sum(np.where(kernel, share**2 * weights, 0.0)))
        return count._replace(error=math.hypot(count.error, spill))

    def below(self, bound: float) -> Estimate:
        """How many eigenvalues are less than `bound`.

        A count is no smooth sum: where many eigenvalues lie within a node's reach of the bound it cannot be
        resolved, and twice the steps may agree by chance. The error therefore holds the quadrature's rigorous
        bound, the weight of the nodes beside `bound` (Chebyshev, Markov and Stieltjes), beside the probes'
        error. Nodes that have converged are none of these: which side they are on is known, and the others
        are the rule of what is left.
        """
        bound = float(_check.array("bound", bound, ndim=0, shape="()"))
        return self._count(bound, self._rule[0], self._residuals)

    def _count(self, bound: float, nodes: np.ndarray, residuals: np.ndarray) -> Estimate:
        rule = nodes, weights = nodes, self._rule[1]

        def below(nodes: np.ndarray) -> np.ndarray:
            return (nodes < bound).astype(float)

        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(residuals > 0, residuals / np.abs(nodes - bound), 0.0)
        unsettled = np.where(share > SETTLED, weights, 0.0)
        # The nearest node on either side that has not converged: the bound may cut through what it stands
        # for.
        left = _first(np.where(nodes < bound, unsettled, 0.0)[:, ::-1])
        right = _first(np.where(nodes >= bound, unsettled, 0.0))
        beside = np.maximum(left, right) + np.sum(np.where(share > SETTLED, 0.0, share * weights), axis=1)
        error = math.hypot(self._probe_error(below, rule), beside.sum())
        return Estimate(float(self._samples(rule, below).mean()), error)

    def effective_dimension(self, damping: float) -> Estimate:
        """``sum |lam| / (|lam| + damping)``: how many directions curve more than the damping.

        Raises
        ------
        ValueError
            If `damping` is not a finite number > 0.
        """
        damping = _check.positive("damping", damping)
        return self.sum(lambda lam: np.abs(lam) / (np.abs(lam) + damping))

    def variance(
        self,
        method: Method,
        *,
        step: float,
        noise: Noise,
        time: str | Law = "continuous",
        stationary_only: bool = False,
    ) -> Estimate:
        """Stationary ``tr M`` under white gradient noise: ``sum step sigma^2 phi_i / (2 lam_i)``.

        Momentum makes it ``1 / (1 - beta)`` times larger at small steps.

        Parameters
        ----------
        method : Method
            A truncated one needs its ``rank + 1`` largest eigenvalues deflated; where these have not
            converged, what that may change is in the error.
        step : float
        noise : Noise
            Of the gradient alone, one standard deviation for all entries; ``sigma`` is that of a batch.
        time : {"continuous", "discrete"} or Law
            Discrete is the iteration's own: without momentum ``2 lam_i`` becomes ``lam_i (2 - step phi_i
            lam_i)``.
        stationary_only : bool
            Sum over the directions that have a stationary law, and say in ``reason`` how many have none,
            instead of raising.

        Raises
        ------
        Unstable
            If a direction that was seen has no stationary law: unstable, or flat. Where only what may lie
            beyond the highest Ritz value has none, the error is infinite and `reason` says so.
        ValueError
            If the noise is of another kind, or too few eigenvalues are deflated.
        """
        strength, share = _asked(method, step, noise, time)
        gains, reason = self._stationary(method, step, share, stationary_only, flat_too=True)

        def summed(lift: Lift) -> Function:
            return lambda nodes: strength * _over(gains(nodes, lift), nodes)

        return self._estimate(summed(None), reason, summed(self._lift(method)))

    def excess_risk(
        self,
        method: Method,
        *,
        step: float,
        noise: Noise,
        time: str | Law = "continuous",
        stationary_only: bool = False,
    ) -> Estimate:
        """Stationary ``tr(H M) / 2`` under white gradient noise: ``(step sigma^2 / 4) sum phi_i``.

        Flat directions have none and are no obstacle. Parameters and what is raised are those of `variance`.

        Examples
        --------
        For SGD ``step sigma^2 d / 4``, whatever the spectrum:

        >>> import numpy as np, stability as st
        >>> s = st.spectrum(lambda V: np.geomspace(1e-3, 1.0, 40)[:, None] * V, n=40)
        >>> round(s.excess_risk(st.SGD(), step=0.1, noise=st.Noise(gradient=1.0)).value, 9)
        1.0
        """
        strength, share = _asked(method, step, noise, time)
        gains, reason = self._stationary(method, step, share, stationary_only, flat_too=False)

        def summed(lift: Lift) -> Function:
            return lambda nodes: 0.5 * strength * gains(nodes, lift)

        return self._estimate(summed(None), reason, summed(self._lift(method)))

    def amplification(self, method: Method, *, stationary_only: bool = False) -> Estimate:
        """Stationary variance over SGD's at equal, small step: ``sum (phi_i / lam_i) / sum (1 / lam_i)``.

        Raises
        ------
        Unstable
            If a direction has no stationary law under either, unless `stationary_only`.
        ValueError
            If too few eigenvalues are deflated.
        """
        plain, reason = self._stationary(SGD(), None, 0.0, stationary_only, flat_too=True)
        gains, other = self._stationary(method, None, 0.0, stationary_only, flat_too=True)

        def above(nodes: np.ndarray, lift: Lift = None) -> np.ndarray:
            return _over(gains(nodes, lift) * (plain(nodes, None) > 0), nodes)

        def below(nodes: np.ndarray) -> np.ndarray:
            return _over(plain(nodes, None), nodes)

        lift = self._lift(method)
        lifted = self._samples(self._rule, lambda nodes: above(nodes, lift)).mean()
        sums = [[self._samples(rule, f).mean() for f in (above, below)] for rule in (self._rule, self._half)]
        value, rough = (float(one / other) for one, other in sums)
        # Both come from the same probes: their errors are one.
        error = self._probe_error(lambda nodes: above(nodes) - value * below(nodes)) / float(sums[0][1])
        kept = float((lifted - sums[0][0]) / sums[0][1])
        return Estimate(value, math.hypot(error, value - rough, kept), reason or other)

    def _stationary(
        self, method: Method, step: float | None, share: float, allowed: bool, *, flat_too: bool
    ) -> tuple[Callable[[np.ndarray, Lift], np.ndarray], str]:
        """``phi / (2 - share phi lam)`` of nodes, 0 where there is no stationary law, and where that is.

        With momentum what takes its place at this step, or None for small ones. The function takes the
        factors of `_lift` too.
        """
        undecayed(method, "a spectrum")
        memory = method.memory

        @np.errstate(all="ignore")
        def law(nodes: np.ndarray, lift: Lift = None) -> tuple[np.ndarray, np.ndarray]:
            phi = self._gains(method, nodes, lift)
            rate, flat = phi * nodes, np.abs(nodes) <= self.resolution
            stable, settled = share * rate < 2, phi / (2 - share * rate)
            if memory is not None and step is not None:
                motion = memory.motion(step, share)
                stable, settled = motion.stable(rate), phi * rate * motion.variances(rate) / step
            elif memory is not None:
                settled = settled * memory.effective(1.0)
            good = (rate > 0) & stable & ~flat & np.isfinite(phi)
            # Newton's gain makes noise of the least curvature: there a flat direction is an obstacle.
            return np.where(good, settled, 0.0), good | (flat & (np.abs(rate) < 1e-3) & (not flat_too))

        nodes, weights = self._rule
        lost = ~law(nodes)[1]
        count = float(weights[lost].sum())
        if count == 0:
            return (lambda nodes, lift: law(nodes, lift)[0]), self._doubt(law)
        what = (
            f"{count:.3g} of {self.n} directions have no stationary law under {method.label}: curvature "
            f"{nodes[lost].min():.3g} to {nodes[lost].max():.3g}"
        )
        if not _check.flag("stationary_only", allowed):
            raise Unstable(
                f"About {what}. Sum over the others with stationary_only=True, or ask at a minimum, with a "
                "regularized objective or a smaller step."
            )
        return (lambda nodes, lift: law(nodes, lift)[0]), f"left out: {what}"

    def _doubt(self, law: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]) -> str:
        """Why a stationary law that is there on all nodes may not be: these lie inside the spectrum."""
        nodes = self._rule[0].copy()
        # As if each probe's largest node stood where the spectrum may still reach.
        nodes[self.deflated :, -1] = np.maximum(nodes[self.deflated :, -1], self._above)
        if law(nodes)[1].all():
            return ""
        low, high = self.highest
        return (
            f"{MAYBE}: the largest curvature lies between {low:.6g} and {high:.6g}, where there is none; ask "
            "for more steps of Lanczos, or a smaller step"
        )

    def _lift(self, method: Method) -> Lift:
        """By which factors (rank + 1,) a truncated method's kept eigenvalues may be larger; None if by none.

        Deflated vectors that have not converged stand for larger eigenvalues than theirs, and what probes saw
        of the rest may be larger than the last of them.
        """
        if method.rank is None or method.rank >= self.deflated:
            return None
        sizes, rest = np.abs(self.outliers[: method.rank + 1]), self.nodes[self.deflated :]
        left = self.off_diagonals[: len(sizes), 0]
        # A residual is how far an eigenvalue may lie from its Ritz value.
        off = np.where(left > CONVERGED * sizes, left, 0.0)
        may = np.maximum(sizes + off, np.max(np.abs(rest), initial=0.0))
        with np.errstate(all="ignore"):
            factors = np.where(sizes > self.resolution, may / sizes, 1.0)
        return factors if np.any(factors > 1) else None

    def _gains(self, method: Method, nodes: np.ndarray, lift: Lift = None) -> np.ndarray:
        """The method's gain at every node, row by row of the rule; kept ones so many times larger."""
        undecayed(method, "a spectrum")
        factors = np.ones(len(nodes))
        if lift is not None:
            factors[: len(lift)] = lift
        phi = gains_at(method, factors[:, None] * nodes)
        if method.rank is not None and method.rank < self.n:
            if method.rank >= self.deflated:
                raise ValueError(
                    f"`deflate` must be at least {method.rank + 1} for {method.label}, whose gain tells the "
                    "largest eigenvalues from the rest; "
                    f"got {self.deflated}. Call spectrum(..., deflate={method.rank + 1})."
                )
            # Row i of the rule is the i-th outlier: beyond `rank` come
            # the other outliers, and all probes, off the kept ones.
            edge = factors[method.rank] * self.outliers[method.rank]
            phi[method.rank :] = method.tail_gain(edge)
            if lift is not None:  # what kept vectors have of small eigenvalues is the rest's
                small = np.abs(nodes[: method.rank]) < abs(self.outliers[method.rank])
                phi[: method.rank][small] = method.tail_gain(edge)
        return phi

    def density(self, grid: Any, width: float, *, scale: float | None = None) -> np.ndarray:
        """Eigenvalues per unit of ``lam`` on a grid (k,) -> (k,), each as a Gaussian: the integral is n.

        Parameters
        ----------
        grid : array (k,)
        width : float
            Standard deviation of the Gaussian, in units of ``lam``; with `scale`, of ``asinh(lam / scale)``.
        scale : float, optional
            Smooth on an axis that is linear up to `scale` and logarithmic beyond, for spectra of many orders
            of magnitude.

        Raises
        ------
        ValueError
            If `width` or `scale` is not a finite number > 0, or the grid is not an array of finite numbers.
        """
        return self._densities(_check.array("grid", grid, ndim=1, shape="(k,)"), width, scale).mean(axis=0)

    def _densities(self, grid: np.ndarray, width: float, scale: float | None) -> np.ndarray:
        """The density that each probe gives, (probes, k)."""
        width = _check.positive("width", width)
        scale = None if scale is None else _check.positive("scale", scale)
        # d asinh(lam / scale) / d lam: the heights are per unit
        # of the smoothed axis, the density is per unit of lam.
        slope = 1.0 if scale is None else 1 / np.hypot(grid, scale)

        def height(x: float) -> np.ndarray:
            return self._samples(
                self._rule, lambda nodes: np.exp(-0.5 * ((x - _placed(nodes, scale)) / width) ** 2)
            )

        heights = [height(x) for x in _placed(grid, scale)]
        return np.stack(heights, axis=1) * slope / (width * math.sqrt(2 * math.pi))

    def data(self) -> Study:
        """Density and counts on a grid, for `stability.plot`."""
        nearest = np.sort(np.abs(self.nodes), axis=1)[:, : RESOLVED + 1]
        largest = max(abs(end) for end in self.extremes) or 1.0
        # Nearer to zero than a few of its own nodes a rule tells no eigenvalue from another.
        scale = float(
            np.clip(np.median(nearest[self.deflated % len(nearest) :, -1]), 1e-6 * largest, largest)
        )
        # Four standard deviations of the smoothing beyond the ends: the density is drawn down to zero.
        reach = math.asinh(largest / scale) + 4 * SMOOTHING
        grid = scale * np.sinh(np.linspace(-reach, reach, 401))
        densities = self._densities(grid, SMOOTHING, scale)
        sizes = np.geomspace(1e-2 * scale, largest, 200)
        counts = [[self.weights[sign * self.nodes >= x].sum() for x in sizes] for sign in (1, -1)]
        error = (
            np.zeros_like(grid)
            if len(densities) < 2
            else densities.std(axis=0, ddof=1) / math.sqrt(len(densities))
        )
        arrays = {
            "grid": grid,
            "density": densities.mean(axis=0),
            "error": error,
            "outliers": self.outliers,
            "sizes": sizes,
            "counts": np.array(counts),
        }
        about = {
            "n": self.n,
            "products": self.stats.get("hessian_products"),
            "probes": self.probes,
            "scale": scale,
            "width": SMOOTHING,
        }
        # Well below the height of a single eigenvalue, the largest.
        about["floor"] = 0.01 / (SMOOTHING * largest)
        return Study(
            "spectrum",
            arrays,
            about | {"trace": self.trace.value, "trace_error": self.trace.error},
            dict(self.provenance),
        )

    def _page(self) -> Iterator[str | Grid]:
        low, high = self.extremes
        damping = 1e-3 * max(abs(low), abs(high))
        low = settled(low, damping, 1e-11)
        yield (
            f"spectrum of {self.n} eigenvalues: {self.probes} probes, {self.deflated} deflated, "
            f"{self.stats.get('hessian_products', '?')} products, {self.stats.get('seconds', math.nan):.3g} s"
        )
        rows: list[tuple[Any, ...]] = [("Ritz values", f"{low:.6g} to {high:.6g}", None)]
        asked = [("trace", self.trace), ("negative eigenvalues", self.negative)]
        if damping > 0:
            asked.append((f"effective dimension at damping {damping:.3g}", self.effective_dimension(damping)))
        # Where every probe gives the exact sum, what they differ by is rounding.
        rows += [(name, one.value, settled(one.error, one.value)) for name, one in asked]
        yield Grid([("", ""), ("value", ".6g"), ("+-", ".2g")], rows)


def _placed(lam: np.ndarray, scale: float | None) -> np.ndarray:
    """Where `lam` lies on an axis that is linear up to `scale` and logarithmic beyond."""
    return lam if scale is None else np.arcsinh(lam / scale)


def _first(weights: np.ndarray) -> np.ndarray:
    """The first weight of each row (rows, k) that is not zero; 0 where all are."""
    return weights[np.arange(len(weights)), np.argmax(weights > 0, axis=1)]


def _over(values: np.ndarray, nodes: np.ndarray) -> np.ndarray:
    """``values / nodes``, 0 where the value is."""
    return np.divide(values, nodes, out=np.zeros_like(nodes), where=values != 0)


@np.errstate(all="ignore")
def _evaluated(f: Function, nodes: np.ndarray) -> np.ndarray:
    try:
        values = np.broadcast_to(_check.numbers_of("f", f(nodes)).astype(float), nodes.shape)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`f` must map an array of eigenvalues to an array of numbers; got: {error}. Write it with "
            "NumPy's functions."
        ) from None
    bad = ~np.isfinite(values)
    if bad.any():
        where = f"{bad.sum()} of {bad.size} nodes, the first {nodes[bad][0]:.6g}"
        raise ValueError(
            f"`f` must be finite on the spectrum; it is not at {where}. Damp it, or say what it is there: "
            "np.where(lam > ..., ..., 0)."
        )
    return values


def _asked(method: Method, step: float, noise: Noise, time: str | Law) -> tuple[float, float]:
    """``step sigma^2``, and the step itself where time is discrete."""
    if not isinstance(method, Method):
        raise ValueError(f"`method` must be a st.Method; got {method!r}. Use st.SFN(damping=...), say.")
    plain = isinstance(noise, Noise) and noise.as_stated
    if not plain or noise.gradient.size != 1 or noise.has_curvature:
        raise ValueError(
            f"`noise` must be of the gradient alone, one number for all entries; got {noise!r}. Give "
            "st.Noise(gradient=..., batch=...)."
        )
    step = _check.positive("step", step)
    share = law_of(time, None, step, ("continuous", "discrete")).dt
    return step * float(noise.gradient.reshape(())) ** 2 / noise.batch, share
