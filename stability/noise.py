"""Noise of gradient and Hessian: its law per sample, batch sizes, coupling of the two batches.

One noise sample is ``(zeta, Eg, Eh)``: the gradient noise at the reference point, the curvature noise of the
gradient batch, and the curvature noise of the Hessian batch. Whatever is asked of second moments follows from
`factors`: a finite set of samples ``s_k`` with ``E[s (x) s] = sum_k s_k (x) s_k``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from . import _check
from ._array import like, matvec, namespace
from ._estimate import Estimate
from ._saving import Kept

MAX_FACTOR_NUMBERS = 100_000_000
"""Largest set of factors built, in float64 numbers (0.8 GB)."""

GROUPS = 40
"""Parts of the samples that are left out in turn, where an error is estimated."""

SMALL = 1e-12
"""Of the largest: curvatures and variances that are rounding."""

WHOLE = 34
"""Largest dimension in which data's law is made of whole matrices though samples tell it by a few rows."""


class Sample(NamedTuple):
    """Noise samples with a leading axis: ``zeta`` (m, d), ``Eg`` and ``Eh`` (m, d, d)."""

    zeta: np.ndarray
    Eg: np.ndarray
    Eh: np.ndarray


class Minibatches(NamedTuple):
    """Sample indices of the gradient batches (m, b) and the Hessian batches (m, b_h)."""

    gradient: np.ndarray
    hessian: np.ndarray


class Mixing(NamedTuple):
    """Cholesky factor of the two batches' covariance: ``Eg = gradient x``, ``Eh = across x + rest y``."""

    gradient: float
    across: float
    rest: float


class Noise(Kept):
    """Gaussian noise given by its law per sample and by batch sizes.

    Parameters
    ----------
    gradient : float, array (d,) or (d, d)
        Per sample: the standard deviation of every gradient entry, of each entry, or the covariance matrix.
    curvature : float
        ``tau_1``: the per-sample standard deviation of an *off-diagonal* Hessian entry. The noise is a
        Gaussian symmetric matrix (GOE): a diagonal entry has variance ``2 tau_1^2``, in one dimension too.
    batch, hessian_batch : float
        Batch sizes ``b`` and ``b_h``; ``hessian_batch=None`` means equal to `batch`. ``inf`` switches a noise
        off.
    coupling : {"independent", "nested"}
        Whether the Hessian batch is drawn apart or inside the gradient batch (with ``b_h = b``: the same
        batch).
    reference : array (d,), optional
        The point ``w*`` in ``Eg (w - w*)``; the objective's own reference by default.

    Raises
    ------
    ValueError
        If a size is not positive, the covariance is not positive semidefinite, or a nested Hessian batch is
        larger than the batch.

    Examples
    --------
    >>> import stability as st
    >>> noise = st.Noise(gradient=2.0, batch=4)
    >>> noise.gradient_covariance([0.0, 0.0])
    array([[1., 0.],
           [0., 1.]])
    """

    objective = None  # set where real minibatches can be drawn

    @_check.by_name
    def __init__(
        self,
        *,
        gradient: Any = 0.0,
        curvature: float = 0.0,
        batch: float = 1,
        hessian_batch: float | None = None,
        coupling: str = "independent",
        reference: Any = None,
    ):
        self.gradient = _check.array("gradient", gradient, ndim=(0, 1, 2), shape="(), (d,) or (d, d)")
        if self.gradient.ndim == 2:
            self.gradient = _check.covariance("gradient", gradient)
        elif np.any(self.gradient < 0):
            raise ValueError(
                "`gradient` must hold standard deviations >= 0; got a smallest entry of "
                f"{self.gradient.min():g}."
            )
        self.curvature = _check.nonnegative("curvature", curvature)
        self.batch = _check.positive("batch", batch, infinite=True)
        self.hessian_batch = (
            self.batch
            if hessian_batch is None
            else _check.positive("hessian_batch", hessian_batch, infinite=True)
        )
        self.coupling = _check.choice("coupling", coupling, ("independent", "nested"))
        if self.coupling == "nested" and self.hessian_batch > self.batch:
            raise ValueError(
                "A nested Hessian batch lies inside the gradient batch: `hessian_batch` must be <= `batch` "
                f"= {self.batch:g}; got {self.hessian_batch:g}."
            )
        self.reference = (
            None if reference is None else _check.array("reference", reference, ndim=1, shape="(d,)")
        )

    @property
    def has_curvature(self) -> bool:
        """Whether ``Eg`` or ``Eh`` is ever nonzero."""
        return self.curvature > 0 and not all(math.isinf(size) for size in (self.batch, self.hessian_batch))

    @property
    def scales(self) -> tuple[float, float, float]:
        """Variance factors of the gradient batch, of both together, and of the Hessian batch.

        Per variance of one sample; together is the two batches' covariance.
        """
        own = self.shrink(self.batch)
        return own, own if self.coupling == "nested" else 0.0, self.shrink(self.hessian_batch)

    def shrink(self, size: float) -> float:
        """The variance of the mean over a batch of this size, per variance of one sample."""
        return 1 / size

    def sample(self, w: np.ndarray, size: int, rng: np.random.Generator) -> Sample:
        """Draw `size` noise samples at states of dimension ``w.shape[-1]``.

        ``zeta`` (size, d), ``Eg`` and ``Eh`` (size, d, d).
        """
        dim = np.shape(w)[-1]
        return self.combine(rng.standard_normal((self.normals(dim), size)), dim)

    def drawn(self, w: np.ndarray, size: int, rng: np.random.Generator) -> Sample:
        """What `sample` gives; of a class with its own, checked."""
        sample = self.sample(w, size, rng)
        return sample if self.linear else _passed("sample", sample, size, np.shape(w)[-1])

    def check_declared(self, dim: int) -> None:
        """A class that draws its own samples must say whether they bend the curvature: nothing else asks."""
        if self.linear:
            return
        # A generator of its own: the paths' numbers must not depend on this check.
        _, *curvature = self.drawn(np.zeros(dim), 3, np.random.default_rng(0))
        if not self.has_curvature and any(np.any(part) for part in curvature):
            raise ValueError(
                f"{type(self).__name__}.sample gives curvature noise, but its `has_curvature` is False. Set "
                "has_curvature = True in the class."
            )

    def law(self, w: np.ndarray) -> Sample:
        """What `factors` gives; of a class with its own, checked."""
        factors = self.factors(w)
        if type(self).factors in (Noise.factors, DataNoise.factors):
            return factors
        return _passed("factors", factors, len(factors[0]), np.shape(w)[-1])

    def normals(self, dim: int) -> int:
        """How many independent standard normals one sample is made of, in `dim` dimensions."""
        entries = dim * (dim + 1) // 2 if self.has_curvature else 0
        rest = self.mixing().rest
        return (dim if np.any(self.gradient) and not math.isinf(self.batch) else 0) + entries * (
            2 if rest else 1
        )

    @property
    def linear(self) -> bool:
        """Whether samples are `combine` of standard normals: not where a subclass draws them itself."""
        return type(self).sample is Noise.sample

    @property
    def isotropic(self) -> bool:
        """Whether curvature noise is the Gaussian matrix of `curvature`, independent of ``zeta``."""
        return type(self) is Noise

    @property
    def has_factors(self) -> bool:
        """Whether `factors` is the law of the samples: not where a subclass draws them and gives none."""
        return self._told("factors") <= min(self._told("sample"), self._told("combine"))

    @property
    def as_stated(self) -> bool:
        """Whether the law is the arguments' own: not where a subclass draws samples or states factors."""
        return all(
            getattr(type(self), name) is getattr(Noise, name) for name in ("sample", "combine", "factors")
        )

    def _told(self, name: str) -> int:
        """How many classes lie between this one and that whose method it is."""
        return next(i for i, kind in enumerate(type(self).__mro__) if name in vars(kind))

    def _require_law(self) -> None:
        if not self.has_factors:
            raise ValueError(
                f"The second-order law of {type(self).__name__} is not known: it has its own `sample`. Give "
                "it `factors(w)` too: samples s_k with E[s (x) s] = sum_k s_k (x) s_k."
            )

    def multiplicative(self) -> Noise:
        """The curvature noise alone, which multiplies deviations; the gradient's own only adds to them."""
        return Noise(
            curvature=self.curvature,
            batch=self.batch,
            hessian_batch=self.hessian_batch,
            coupling=self.coupling,
        )

    def combine(self, normals: Any, dim: int) -> Sample:
        """The samples that standard normals (k, size) stand for, a linear map.

        ``zeta`` (size, d), ``Eg`` and ``Eh`` (size, d, d). Paths lie along the last axis of `normals`, so
        that every row is contiguous; the samples are views with the paths first.
        """
        xp, size = namespace(normals), normals.shape[1]
        curved = dim * (dim + 1) // 2 * (2 if self.mixing().rest else 1) if self.has_curvature else 0
        own = normals.shape[0] - curved
        zeta = self._zeta_rows(normals[:own, :], dim) if own else _still(xp, (dim, size), normals)
        if not curved:
            still = _still(xp, (size, dim, dim), normals)
            return Sample(zeta.T, still, still)
        # First the gradient batch's matrix, then what the Hessian batch has of its own.
        parts = [
            self._symmetric(xp, normals[start : start + dim * (dim + 1) // 2, :], dim)
            for start in range(own, normals.shape[0], dim * (dim + 1) // 2)
        ]
        gradient, across, rest = self.mixing()
        return Sample(
            zeta.T, gradient * parts[0], across * parts[0] + rest * parts[1] if rest else across * parts[0]
        )

    def _zeta_rows(self, normals: Any, dim: int) -> Any:
        if self.gradient.ndim < 2:  # a diagonal root scales rows
            return normals * like(self._scale(dim), normals)
        return like(self._root(dim), normals) @ normals

    def _symmetric(self, xp: Any, entries: Any, dim: int) -> Any:
        """GOE matrices (size, d, d) from the normals (d (d + 1) / 2, size) of their upper triangles."""
        place, scale = _triangle(dim)
        rows = xp.take(entries * like(scale, entries), like(place, entries), axis=0) * self.curvature
        return xp.permute_dims(xp.reshape(rows, (dim, dim, entries.shape[1])), (2, 0, 1))

    def mixing(self) -> Mixing:
        """How two independent draws x and y make the noise of both batches."""
        own, shared, other = self.scales
        # Exactly 1 for nested batches of one size: the same batch must leave no rest.
        ratio = shared / own if shared else 0.0
        return Mixing(math.sqrt(own), ratio * math.sqrt(own), math.sqrt(max(other - ratio * shared, 0.0)))

    @functools.lru_cache(maxsize=4)  # noqa: B019 - a noise is small, and asked for its root at every step
    def _root(self, dim: int) -> np.ndarray:
        """A square root of the covariance of ``zeta``."""
        if self.gradient.ndim and self.gradient.shape[0] != dim:
            raise ValueError(
                f"`gradient` was given for {_check.counted(len(self.gradient), 'dimension')}; the state has "
                f"{dim}."
            )
        _check.room("The noise's covariance needs", dim * dim, advice="Take fewer dimensions.")
        if self.gradient.ndim == 2:
            values, vectors = np.linalg.eigh(self.gradient)
            root = vectors * np.sqrt(np.maximum(values, 0.0))
        else:
            root = np.diag(np.broadcast_to(self.gradient, (dim,)))
        return root / math.sqrt(self.batch)

    @functools.lru_cache(maxsize=4)  # noqa: B019
    def _scale(self, dim: int) -> np.ndarray:
        return np.diag(self._root(dim))[:, None].copy()

    def factors(self, w: np.ndarray) -> Sample:
        """Samples ``s_k`` with ``E[s (x) s] = sum_k s_k (x) s_k``: the noise's whole second-order law.

        Raises
        ------
        ValueError
            If a subclass draws samples of its own and does not override this too.
        """
        self._require_law()
        dim = np.shape(w)[-1]
        basis = _symmetric_basis(dim) * self.curvature if self.has_curvature else np.zeros((0, dim, dim))
        root = self._root(dim).T
        still = np.zeros((dim, dim, dim))
        blocks = [Sample(root, still, still)]
        gradient, across, rest = self.mixing()
        none = np.zeros((len(basis), dim))
        blocks.append(Sample(none, gradient * basis, across * basis))
        if rest:
            blocks.append(Sample(none, 0 * basis, rest * basis))
        return _join(blocks)

    def gradient_covariance(self, w: np.ndarray, reference: np.ndarray | None = None) -> np.ndarray:
        """Covariance (d, d) of the whole gradient noise ``zeta + Eg (w - w*)`` at one state (d,).

        Parameters
        ----------
        reference : array (d,), optional
            ``w*``, where the noise was made without one of its own.

        Raises
        ------
        ValueError
            If there is curvature noise and no reference point; as `factors` does.
        """
        w = _check.floats("w", w)
        center = self.reference if self.reference is not None else reference
        if self.has_curvature and center is None:
            raise ValueError(
                "Curvature noise grows with the distance from its reference point. Use Noise(..., "
                "reference=...) or pass reference=."
            )
        if not self.as_stated:
            zeta, Eg, _ = self.factors(w)
            kicks = zeta if center is None else zeta + matvec(Eg, w - center)
            return kicks.T @ kicks
        root = self._root(len(w))
        result = root @ root.T
        if self.has_curvature:
            offset = w - center
            result = result + self.scales[0] * self.curvature**2 * (
                offset @ offset * np.eye(len(w)) + np.outer(offset, offset)
            )
        return result

    def second_moment(
        self, apply_G: Callable[[np.ndarray, np.ndarray], np.ndarray], M: np.ndarray
    ) -> np.ndarray:
        """``E[G M G^T]`` for a ``G = apply_G(Eg, Eh)`` that is linear in the noise.

        Parameters
        ----------
        apply_G : callable
            Maps ``Eg, Eh`` of shape (k, d, d) to ``G`` of shape (k, d, d).
        M : array, shape (d, d)
        """
        M = _check.floats("M", M)
        factors = self.law(M[0])
        G = apply_G(factors.Eg, factors.Eh)
        return np.einsum("kij,jl,kml->im", G, M, G, optimize=True)

    @staticmethod
    @_check.by_name
    def from_data(
        F: Any,
        at: Any = None,
        batch: int = 32,
        hessian_batch: int | None = None,
        replacement: bool = False,
        coupling: str = "independent",
    ) -> DataNoise:
        """The noise of a data objective's minibatches, estimated from all its samples at one point.

        Parameters
        ----------
        F : data objective
            With `per_sample_gradient`, `per_sample_hessian` and `n_samples`.
        at : array (d,), optional
            Where; the objective's minimizer by default.
        batch, hessian_batch : int
            Samples in a gradient batch and in a Hessian batch; equal by default.
        replacement : bool
            Whether a batch may hold a sample twice. Without, the finite population shrinks the noise.
        coupling : {"independent", "nested"}

        Raises
        ------
        ValueError
            If `F` has no per-sample derivatives, or a batch is larger than it can be.
        """
        return DataNoise(
            F, at, batch, hessian_batch=hessian_batch, replacement=replacement, coupling=coupling
        )

    @staticmethod
    @_check.by_name
    def aligned(
        F: Any, at: Any = None, *, scale: float = 1.0, exponent: float = 1.0, batch: float = 1
    ) -> Noise:
        """Gradient noise that follows the curvature: per sample ``Sigma = scale * H^exponent``.

        Exponent 0 is noise of one size, 1 that of label noise or a well-specified likelihood; networks are
        reported between 1 and 2. It decides how much an ill-conditioned Hessian amplifies: the theorem
        ``noise-exponent``.

        Parameters
        ----------
        F : objective
        at : array (d,), optional
            Where the Hessian H is taken; the objective's reference by default.
        scale, exponent : float
            ``c >= 0`` and ``g`` in ``Sigma = c H^g``.
        batch : float
            Samples in a gradient batch.

        Raises
        ------
        ValueError
            If H has no such power: a negative curvature where `exponent` is no even number, or a vanishing
            one where it is negative.

        Examples
        --------
        >>> import stability as st
        >>> noise = st.Noise.aligned(st.quadratic([1.0, 0.25]), scale=2.0, exponent=0.5)
        >>> noise.gradient_covariance([0.0, 0.0])
        array([[2., 0.],
               [0., 1.]])
        """
        scale = _check.nonnegative("scale", scale)
        exponent = float(_check.array("exponent", exponent, ndim=0, shape="(), one number"))
        place = getattr(F, "reference", None) if at is None else _check.shaped("at", at, (F.dim,))
        if place is None:
            raise ValueError("`at` must be given: the objective has no reference point.")
        hessian = _check.returned("hessian", F.hessian(place), place, (F.dim, F.dim))
        curvatures, vectors = np.linalg.eigh(hessian)
        powers = _powers(curvatures, exponent)
        return Noise(gradient=scale * (vectors * powers) @ vectors.T, batch=batch)

    @staticmethod
    @_check.by_name
    def streaming(
        covariance: Any = None,
        *,
        label_noise: float = 0.0,
        batch: float = 1,
        hessian_batch: float | None = None,
        coupling: str = "independent",
        reference: Any = None,
    ) -> GaussianInputs:
        """Streaming least squares: fresh Gaussian inputs ``x ~ N(0, H)`` at every step, and label noise.

        A batch's gradient is ``mean x (x^T (w - w*) + label noise)``, its Hessian ``mean x x^T``. Samples are
        such batches themselves, `factors` their exact second-order law.

        Parameters
        ----------
        covariance : array (d, d), optional
            Of the inputs; in a flow the objective's Hessian at its reference by default.
        label_noise : float
            Standard deviation of the labels' noise.
        batch, hessian_batch : int or inf
            Samples in a gradient batch and in a Hessian batch, equal by default; ``inf`` is all there is.
        coupling : {"independent", "nested"}
        reference : array (d,), optional

        Raises
        ------
        ValueError
            If a size is no whole number >= 1, or `covariance` is none.

        Examples
        --------
        The largest step of a hundred whitened inputs, one sample at a time: 2 / 102.

        >>> import stability as st
        >>> flow = st.Flow(st.quadratic([1.0] * 100), st.SGD(), st.Noise.streaming(batch=1), step=0.01)
        >>> round(st.linearize(flow).step_limit(), 6)
        0.019608
        """
        return GaussianInputs(
            covariance,
            label_noise=label_noise,
            batch=batch,
            hessian_batch=hessian_batch,
            coupling=coupling,
            reference=reference,
        )

    @staticmethod
    @_check.by_name
    def wishart(covariance: Any = None, *, samples: int, reference: Any = None) -> GaussianInputs:
        """An exact gradient, and an independent Hessian batch of Gaussian inputs: a Wishart matrix.

        Parameters
        ----------
        covariance : array (d, d), optional
            Of the inputs; in a flow the objective's Hessian at its reference by default.
        samples : int
            In a Hessian batch. Newton's step has a second moment from ``d + 4`` on: theorem
            ``wishart-newton``.
        reference : array (d,), optional

        Raises
        ------
        ValueError
            If `samples` is no whole number >= 1, or `covariance` is none.

        Examples
        --------
        >>> import numpy as np, stability as st
        >>> noise = st.Noise.wishart([[2.0]], samples=8)
        >>> round(float(np.sum(noise.factors([0.0]).Eh ** 2)), 9)  # the batch's variance, 2 h^2 / 8
        1.0
        """
        return GaussianInputs(
            covariance, batch=math.inf, hessian_batch=_samples("samples", samples), reference=reference
        )

    def of(self, objective: Any) -> Noise:
        """This noise in a flow of that objective: what it leaves to the objective is taken from there."""
        return self

    def __repr__(self) -> str:
        gradient = (
            f"{float(self.gradient):g}"
            if self.gradient.ndim == 0
            else f"array of shape {self.gradient.shape}"
        )
        return (
            f"Noise(gradient={gradient}, curvature={self.curvature:g}, batch={self.batch:g}, "
            f"hessian_batch={self.hessian_batch:g}, coupling={self.coupling!r})"
        )


class GaussianInputs(Noise):
    """Least squares on fresh Gaussian inputs; see `Noise.streaming` and `Noise.wishart`."""

    def __init__(
        self,
        covariance: Any = None,
        *,
        label_noise: float = 0.0,
        batch: float = 1,
        hessian_batch: float | None = None,
        coupling: str = "independent",
        reference: Any = None,
    ):
        batch = _samples("batch", batch)
        super().__init__(
            batch=batch,
            hessian_batch=batch if hessian_batch is None else _samples("hessian_batch", hessian_batch),
            coupling=coupling,
            reference=reference,
        )
        self.label_noise = _check.nonnegative("label_noise", label_noise)
        self.covariance = None if covariance is None else _check.covariance("covariance", covariance)

    @property
    def has_curvature(self) -> bool:
        return not all(math.isinf(size) for size in (self.batch, self.hessian_batch))

    def of(self, objective: Any) -> Noise:
        if self.covariance is not None:
            if len(self.covariance) != objective.dim:
                raise ValueError(
                    f"`covariance` was given for {len(self.covariance)} inputs; the objective has "
                    f"{_check.counted(objective.dim, 'dimension')}. Leave it out to take the objective's "
                    "Hessian."
                )
            return self
        at = getattr(objective, "reference", None) if self.reference is None else self.reference
        if at is None:
            raise ValueError(
                f"`covariance` must be given: {objective!r} has no reference point whose Hessian it could be."
            )
        hessian = _check.returned("hessian", objective.hessian(at), at, (objective.dim,) * 2)
        low, high = np.linalg.eigvalsh(hessian)[[0, -1]]
        if low < -1e-10 * abs(high):
            raise ValueError(
                "The objective's Hessian at the reference is no covariance of inputs: its smallest curvature "
                f"is {low:.3g}. Pass `covariance`, or a minimum as `reference`."
            )
        return GaussianInputs(**{**self._kept(), "covariance": hessian})

    def _inputs(self, w: Any) -> np.ndarray:
        """The covariance of the inputs (d, d), for states (..., d)."""
        if self.covariance is None:
            raise ValueError(
                "The inputs' covariance is not known yet. Pass `covariance`, or put the noise into st.Flow, "
                "which takes the objective's Hessian."
            )
        dim = np.shape(w)[-1]
        if len(self.covariance) != dim:
            raise ValueError(
                f"`covariance` was given for {len(self.covariance)} inputs; the state has {dim}."
            )
        return self.covariance

    @functools.cached_property
    def _half(self) -> np.ndarray:
        """A square root of the inputs' covariance: symmetric, so that a batch keeps the symmetry."""
        assert self.covariance is not None
        values, vectors = np.linalg.eigh(self.covariance)
        return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T

    def sample(self, w: np.ndarray, size: int, rng: np.random.Generator) -> Sample:
        mean, nothing = self._inputs(w), np.zeros((size, *self._inputs(w).shape))
        # A nested Hessian batch is drawn first, and then what the gradient batch has beside it.
        nested = self.coupling == "nested" and not math.isinf(self.hessian_batch)
        hessian = self._rows(self.hessian_batch, size, rng)
        rest = self._rows(self.batch - self.hessian_batch if nested else self.batch, size, rng)
        parts = [hessian, rest] if nested else [rest]
        Eg, zeta = nothing, np.zeros((size, len(mean)))
        if not math.isinf(self.batch):
            Eg = sum((_squares(part) for part in parts), nothing) / self.batch - mean
            for part in parts if self.label_noise else []:
                labels = rng.standard_normal((size, part.shape[2]))
                zeta += self.label_noise / self.batch * np.einsum("sij,sj->si", part, labels)
        exact = math.isinf(self.hessian_batch)
        return Sample(zeta, Eg, nothing if exact else _squares(hessian) / self.hessian_batch - mean)

    def _rows(self, count: float, size: int, rng: np.random.Generator) -> np.ndarray:
        """Matrices L (size, d, k) for which ``L L^T`` and ``L n``, n normal, have the law of `count` inputs.

        ``sum x x^T`` and ``sum x n`` together. Of more inputs than dimensions Bartlett's triangle (Anderson
        2003, section 7.2) is as many numbers as a matrix has, whatever their count.
        """
        dim = len(self._half)
        if math.isinf(count) or count == 0:
            return np.zeros((size, dim, 0))
        if count <= dim:
            return self._half @ rng.standard_normal((size, dim, int(count)))
        triangle = np.tril(rng.standard_normal((size, dim, dim)), -1)
        index = np.arange(dim)
        triangle[:, index, index] = np.sqrt(rng.chisquare(count - index, (size, dim)))
        return self._half @ triangle

    def factors(self, w: np.ndarray) -> Sample:
        self._require_law()
        dim = len(self._inputs(w))
        # Of a normal z, z z^T - I has the covariance of a GOE matrix.
        basis = self._half @ _symmetric_basis(dim) @ self._half
        gradient, across, rest = self.mixing()
        still, none = np.zeros((dim, dim, dim)), np.zeros((len(basis), dim))
        blocks = [Sample(self.label_noise * gradient * self._half, still, still)]
        blocks.append(Sample(none, gradient * basis, across * basis))
        if rest:
            blocks.append(Sample(none, 0 * basis, rest * basis))
        return _join(blocks)

    def gradient_covariance(self, w: np.ndarray, reference: np.ndarray | None = None) -> np.ndarray:
        C = self._inputs(w)
        center = self.reference if self.reference is not None else reference
        result = self.label_noise**2 * C
        if center is not None:
            moved = C @ (np.asarray(w, dtype=float) - center)
            # Isserlis: E (x x^T - C) o o^T (x x^T - C) = C o o^T C + (o^T C o) C.
            result = result + np.outer(moved, moved) + (moved @ (np.asarray(w) - center)) * C
        return self.scales[0] * result

    def __repr__(self) -> str:
        C = self.covariance
        inputs = "" if C is None else f"covariance of shape {C.shape}, "
        if math.isinf(self.batch):
            return f"Noise.wishart({inputs}samples={self.hessian_batch:g})"
        return (
            f"Noise.streaming({inputs}label_noise={self.label_noise:g}, batch={self.batch:g}, "
            f"hessian_batch={self.hessian_batch:g}, coupling={self.coupling!r})"
        )


class DataNoise(Noise):
    """Minibatch noise of a data objective; see `Noise.from_data`.

    `sample` draws Gaussian noise with the estimated second moments, as the SDE needs; `draw_batches` draws
    the index sets of real minibatches, which the stochastic iteration uses with nothing linearised.
    """

    has_curvature = True

    def __init__(
        self, F: Any, at: Any, batch: int, *, hessian_batch: int | None, replacement: bool, coupling: str
    ):
        wanted = ("per_sample_gradient", "per_sample_hessian", "n_samples")
        if missing := [name for name in wanted if getattr(F, name, None) is None]:
            raise _check.lacking(
                "F", F, missing, "Noise.from_data", "Use st.logistic, st.least_squares or st.mlp."
            )
        most = None if replacement else F.n_samples
        batch = _check.count("batch", batch, most=most, why="drawn without replacement" if most else "")
        hessian_batch = batch if hessian_batch is None else hessian_batch
        hessian_batch = _check.count(
            "hessian_batch", hessian_batch, most=most, why="drawn without replacement" if most else ""
        )
        reference = F.reference if at is None else _check.shaped("at", at, (F.dim,))
        if reference is None:
            raise ValueError("`at` must be given: the objective has no reference point.")
        super().__init__(batch=batch, hessian_batch=hessian_batch, coupling=coupling, reference=reference)
        self.objective, self.replacement = F, bool(replacement)
        if not self.by_samples:
            self._dense  # noqa: B018 - built here, so that what is too large is refused before it is used

    @property
    def by_samples(self) -> bool:
        """Whether theory takes each sample's curvature by its few rows, `samples`, not by a matrix."""
        own = all(
            getattr(type(self), name) is getattr(DataNoise, name) for name in ("sample", "combine", "factors")
        )
        F: Any = self.objective
        return own and hasattr(F, "hessian_factors") and F.dim > WHOLE

    @property
    def samples_shape(self) -> tuple[int, int]:
        """How many samples there are, and rows of `samples` to each."""
        F: Any = self.objective
        return F.n_samples, F.outputs

    @functools.cached_property
    def samples(self) -> np.ndarray:
        """Rows Z (n, o, d) at the reference, the curvature of sample s being ``Z_s^T Z_s`` + a constant."""
        return self.objective.hessian_factors(self.reference)  # type: ignore[attr-defined]

    @functools.cached_property
    def _dense(self) -> tuple[np.ndarray, np.ndarray]:
        assert self.reference is not None
        return _factor_per_sample(self.objective, self.reference)

    @property
    def _zeta(self) -> np.ndarray:
        return self._dense[0]

    @property
    def _curvature(self) -> np.ndarray:
        return self._dense[1]

    @functools.cached_property
    def _flat(self) -> np.ndarray:
        """The curvatures' factors as columns (d d, k)."""
        return self._curvature.reshape(len(self._curvature), -1).T

    def _kept(self) -> dict[str, Any]:
        at = {"F": self.objective, "at": self.reference}
        batches = {"batch": int(self.batch), "hessian_batch": int(self.hessian_batch)}
        return at | batches | {"replacement": self.replacement, "coupling": self.coupling}

    def shrink(self, size: float) -> float:
        n = self.objective.n_samples  # type: ignore[attr-defined]
        if self.replacement:
            return 1 / size
        return (n - size) / (size * (n - 1)) if n > 1 else 0.0

    def normals(self, dim: int) -> int:
        # Where the factors are too large to be made, batches can still be drawn, and ask how many they were.
        width = _width(dim)
        n = self.objective.n_samples  # type: ignore[attr-defined]
        count = len(self._zeta) if width**2 <= MAX_FACTOR_NUMBERS else min(n, width)
        return count * (2 if self.mixing().rest else 1)

    def combine(self, normals: Any, dim: int) -> Sample:
        """Gaussian samples with the minibatches' second moments: coordinates along the factors."""
        xp, count, size = namespace(normals), len(self._zeta), normals.shape[1]
        gradient, across, rest = self.mixing()
        flat = like(self._flat, normals)
        first = normals[:count, :]
        bend = across * first + rest * normals[count:, :] if rest else across * first

        def matrices(coordinates: Any) -> Any:
            return xp.permute_dims(xp.reshape(flat @ coordinates, (dim, dim, size)), (2, 0, 1))

        zeta = gradient * (like(self._zeta.T, normals) @ first)
        return Sample(zeta.T, gradient * matrices(first), matrices(bend))

    def factors(self, w: np.ndarray) -> Sample:
        self._require_law()
        gradient, across, rest = self.mixing()
        zeta, D = self._zeta, self._curvature
        blocks = [Sample(gradient * zeta, gradient * D, across * D)]
        if rest:
            blocks.append(Sample(0 * zeta, 0 * D, rest * D))
        return _join(blocks)

    def gradient_covariance(self, w: np.ndarray, reference: np.ndarray | None = None) -> np.ndarray:
        self._require_law()
        # Gradient noise away from the reference point: the same factors, carried along the curvature's.
        offset = _check.floats("w", w) - self.reference
        if not self.by_samples:
            shift = self._zeta + matvec(self._curvature, offset)
            return self.scales[0] * shift.T @ shift
        total = np.zeros((len(offset),) * 2)
        for rows in self._deviations(offset):
            total += rows.T @ rows
        return self.scales[0] / self.objective.n_samples * total  # type: ignore[attr-defined]

    def _deviations(self, offset: np.ndarray) -> Iterator[np.ndarray]:
        """Samples' gradients less their mean at the reference + `offset`, in blocks of rows (., d)."""
        F: Any = self.objective
        along = self.samples @ offset
        mean = F.gradient(self.reference) + np.einsum("sod,so->d", self.samples, along) / F.n_samples
        for part in blocks(F.n_samples, F.dim):
            batch = np.arange(part.start, part.stop)
            rows = F.per_sample_gradient(self.reference, batch=batch)
            rows = _check.returned("per_sample_gradient", rows, offset, (len(batch), F.dim))
            yield rows + np.einsum("sod,so->sd", self.samples[part], along[part]) - mean

    def gradients(self) -> np.ndarray:
        """Samples' gradients less their mean, (n, d), at the reference."""
        return np.concatenate(list(self._deviations(np.zeros(self.objective.dim))))  # type: ignore[attr-defined]

    @functools.cached_property
    def exponent(self) -> Estimate:
        """``g`` of ``Sigma ~ c H^g`` at the reference, and its standard error.

        The slope of the noise's variances along the Hessian's eigenvectors with their curvatures, both in
        logarithms, over the modes of positive curvature; `reason` says if those are not all. The error is
        that of the samples (a jackknife over forty parts of them), with what the curvatures' own errors take
        from a slope; it is infinite where the curvatures hardly differ by more than these.

        Raises
        ------
        ValueError
            If there are no two samples, or no two modes with different positive curvatures and with noise.

        Examples
        --------
        Label noise of a least-squares problem has exponent 1:

        >>> import numpy as np, stability as st
        >>> rng = np.random.default_rng(0)
        >>> X = rng.normal(size=(2000, 4)) * [1.0, 0.5, 0.2, 0.1]
        >>> exponent = st.Noise.from_data(st.least_squares(X, rng.normal(size=2000))).exponent
        >>> abs(exponent.value - 1) < 3 * exponent.error < 0.2
        True
        """
        return _exponent(self.objective, self.reference)

    def draw_batches(self, size: int, rng: np.random.Generator) -> Minibatches:
        """Index sets of `size` real minibatches: gradient (size, b), Hessian (size, b_h)."""
        b, h = int(self.batch), int(self.hessian_batch)
        gradient = self._draw(size, b, rng)
        # An unordered draw's first h entries are themselves a uniform sub-batch: that is the nested batch.
        return Minibatches(
            gradient, gradient[:, :h] if self.coupling == "nested" else self._draw(size, h, rng)
        )

    def _draw(self, size: int, count: int, rng: np.random.Generator) -> np.ndarray:
        n = self.objective.n_samples  # type: ignore[attr-defined]
        if self.replacement:
            return rng.integers(n, size=(size, count))
        # Of large batches too many indices would clash; a sort of random keys has none.
        if count > n // 8:
            return np.argsort(rng.random((size, n)), axis=1)[:, :count]
        return _distinct(rng, n, size, count)

    def __repr__(self) -> str:
        how = "with" if self.replacement else "without"
        return (
            f"Noise.from_data({self.objective!r}, batch={self.batch:g}, "
            f"hessian_batch={self.hessian_batch:g}, {how} replacement, coupling={self.coupling!r})"
        )


def _powers(curvatures: np.ndarray, exponent: float) -> np.ndarray:
    """Powers (d,) of a spectrum, as a covariance can have them as eigenvalues."""
    size = float(np.max(np.abs(curvatures)))
    # A flat direction's eigenvalue is rounding of either sign.
    flat = np.abs(curvatures) <= len(curvatures) * np.finfo(float).eps * size
    if flat.any() and exponent < 0:
        raise ValueError(
            f"Curvature vanishes along {int(flat.sum())} of {len(flat)} directions, where H^{exponent:g} is "
            "infinite. Use `exponent` >= 0."
        )
    if np.any(curvatures[~flat] < 0) and exponent % 2:
        raise ValueError(
            f"H^{exponent:g} is no covariance: the smallest curvature is {curvatures.min():.3g}. Give a "
            "minimum as `at`, or an even `exponent`."
        )
    # Of 0^0 = 1: noise of one size has it along flat directions too.
    return np.where(flat, 0.0, np.abs(curvatures)) ** exponent


def _samples(name: str, value: Any) -> float:
    """A number of samples: whole, or infinite."""
    size = _check.positive(name, value, infinite=True)
    if size < 1 or not (math.isinf(size) or size.is_integer()):
        raise ValueError(f"`{name}` must be a whole number of samples >= 1, or inf; got {size:g}.")
    return size


def _squares(rows: np.ndarray) -> np.ndarray:
    """``L L^T`` (size, d, d) of matrices (size, d, k)."""
    return rows @ rows.transpose(0, 2, 1)


def _exponent(F: Any, at: Any) -> Estimate:
    """See `DataNoise.exponent`."""
    count = min(F.n_samples, GROUPS)
    whole = [sum(parts) for parts in zip(*(_sums(F, at, k, count) for k in range(count)), strict=True)]
    curvatures, variances = _spectra(*whole)
    kept = (curvatures > SMALL * curvatures.max()) & (variances > SMALL * variances.max())
    # Where data are fitted exactly a gradient is rounding of its predictions, about sqrt(w' H w) large.
    predicted = float(at @ whole[1] @ at) / whole[0]
    kept &= variances > (16 * np.finfo(float).eps) ** 2 * max(predicted, 0.0) * curvatures
    if count < 2 or kept.sum() < 2 or not np.ptp(np.log(curvatures[kept])) > SMALL:
        raise ValueError(
            "The exponent of the noise is a slope over modes: it needs two samples, and two modes with "
            f"different positive curvatures and with noise; got {F.n_samples} samples and {int(kept.sum())} "
            "such modes. Give more data, or state one: st.Noise.aligned(F, exponent=...)."
        )
    x, y = np.log(curvatures[kept]), np.log(variances[kept])
    left = np.empty((count, 2, len(x)))
    for k in range(count):
        rest = (total - part for total, part in zip(whole, _sums(F, at, k, count), strict=True))
        with np.errstate(all="ignore"):  # of few samples a part may hold all that a mode has
            left[k] = np.log(_spectra(*rest))[:, kept]
    slopes = np.array([_slope(*logs) for logs in left])
    scatter = (count - 1) * np.var(slopes)
    # A regressor's own errors take their share of its spread from the slope.
    blur = (count - 1) * float(np.mean(np.var(left[:, 0], axis=0))) / float(np.var(x))
    slope = _slope(x, y)
    part = "" if kept.all() else f"of {int(kept.sum())} of {len(kept)} modes"
    if not blur < 0.5:
        return Estimate(
            slope, math.inf, "the curvatures differ hardly more than by their own sampling errors"
        )
    return Estimate(slope, float(np.hypot(math.sqrt(scatter), slope * blur)), part)


def _sums(F: Any, at: np.ndarray, k: int, count: int) -> tuple[Any, ...]:
    """Of every count-th sample from the k-th on: how many, and sums of Hessians, gradients, their squares."""
    batch = np.arange(k, F.n_samples, count)
    rows = F.per_sample_gradient(at, batch=batch)
    rows = _check.returned("per_sample_gradient", rows, at, (len(batch), F.dim))
    hessian = _check.returned("hessian", F.hessian(at, batch=batch), at, (F.dim, F.dim))
    return len(batch), len(batch) * hessian, rows.sum(axis=0), rows.T @ rows


def _spectra(count: int, hessian: np.ndarray, total: np.ndarray, squares: np.ndarray) -> tuple[Any, Any]:
    """Curvatures (d,), and the variances of one sample's gradient along their eigenvectors, from sums."""
    values, vectors = np.linalg.eigh(hessian / count)
    covariance = squares / count - np.outer(total, total) / count**2
    return values, np.einsum("ij,ik,kj->j", vectors, covariance, vectors, optimize=True)


def _slope(x: np.ndarray, y: np.ndarray) -> float:
    """Of the least-squares line through points (x, y)."""
    x = x - x.mean()
    return float(x @ y / (x @ x))


def _passed(name: str, parts: Any, size: int, dim: int) -> Sample:
    """What a noise class of a user's own gave, as a sample of real arrays of their shapes."""
    if not isinstance(parts, (tuple, list)) or len(parts) != 3:
        raise ValueError(f"`{name}` must give (zeta, Eg, Eh), three arrays; got {type(parts).__name__}.")
    shapes = {"zeta": (size, dim), "Eg": (size, dim, dim), "Eh": (size, dim, dim)}
    state = np.zeros(dim)
    return Sample(
        *(
            _check.returned(f"{name}: {part}", found, state, shape)
            for (part, shape), found in zip(shapes.items(), parts, strict=True)
        )
    )


def blocks(n: int, width: int) -> Iterator[slice]:
    """Slices of so many of n rows of `width` numbers that one takes 32 MB."""
    step = max(1, 4_000_000 // width)
    return (slice(start, min(start + step, n)) for start in range(0, n, step))


def _still(xp: Any, shape: tuple[int, ...], normals: Any) -> Any:
    """Noise that is not there: on the host a read-only view that takes no memory."""
    if xp is np:
        return np.broadcast_to(normals.dtype.type(0.0), shape)
    return xp.zeros(shape, dtype=normals.dtype, device=normals.device)


@functools.lru_cache(maxsize=8)
def _triangle(dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each entry (d d,) of a symmetric matrix lies in its upper triangle, and the triangle's scale.

    The scale is sqrt 2 on the diagonal.
    """
    rows, columns = np.triu_indices(dim)
    place = np.empty((dim, dim), dtype=np.int64)
    place[rows, columns] = place[columns, rows] = np.arange(len(rows))
    return place.ravel(), np.where(rows == columns, math.sqrt(2), 1.0)[:, None]


def _distinct(rng: np.random.Generator, n: int, size: int, count: int) -> np.ndarray:
    """`size` rows of `count` distinct indices in random order, for batches much smaller than the data.

    Each clash is drawn again.
    """
    rows = rng.integers(n, size=(size, count))
    for column in range(1, count):
        while True:
            clash = (rows[:, :column] == rows[:, column : column + 1]).any(axis=1)
            if not clash.any():
                break
            rows[clash, column] = rng.integers(n, size=int(clash.sum()))
    return rows


def _join(blocks: list[Sample]) -> Sample:
    if sum(block.Eg.size + block.Eh.size for block in blocks) > MAX_FACTOR_NUMBERS:
        dim = blocks[0].zeta.shape[-1]
        raise ValueError(
            f"The noise's second-order law has too many factors in {dim} dimensions "
            f"({MAX_FACTOR_NUMBERS:.0e} numbers at most). Use noise of the gradient alone, or st.simulate."
        )
    return Sample(*(np.concatenate(parts) for parts in zip(*blocks, strict=True)))


def _symmetric_basis(dim: int) -> np.ndarray:
    """Matrices B_k with ``sum_k B_k (x) B_k`` the covariance of a GOE matrix of unit off-diagonals."""
    if dim * (dim + 1) // 2 * dim * dim > MAX_FACTOR_NUMBERS:
        raise ValueError(
            f"The noise's second-order law has too many factors in {dim} dimensions "
            f"({MAX_FACTOR_NUMBERS:.0e} numbers at most). Use noise of the gradient alone, or st.simulate."
        )
    rows, columns = np.triu_indices(dim)
    basis = np.zeros((len(rows), dim, dim))
    index = np.arange(len(rows))
    basis[index, rows, columns] = basis[index, columns, rows] = np.where(rows == columns, math.sqrt(2), 1.0)
    return basis


def _width(dim: int) -> int:
    """Numbers in a gradient and a symmetric matrix."""
    return dim + dim * (dim + 1) // 2


def _factor_per_sample(F: Any, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Factors (k, d), (k, d, d) of the joint per-sample covariance of gradient and Hessian at one point.

    The samples themselves, centred, are such factors; where they outnumber the entries, an eigendecomposition
    of their second-moment matrix, accumulated in chunks, gives fewer.
    """
    n, dim = F.n_samples, F.dim
    rows, columns = np.triu_indices(dim)
    width = _width(dim)
    if width**2 > MAX_FACTOR_NUMBERS:
        most = math.isqrt(2 * math.isqrt(MAX_FACTOR_NUMBERS)) - 2
        advice = (
            "A regression's order 1 (st.linearize) and its minibatches (level='iteration') do without it."
            if hasattr(F, "hessian_factors")
            else "Use a network with fewer weights, or st.Noise with a size of its own."
        )
        raise ValueError(
            f"The law of noise in gradient and Hessian together takes {width**2 * 8e-9:.1f} GB in {dim} "
            f"dimensions; {most} dimensions are the most. {advice}"
        )
    gradient = _check.returned("gradient", F.gradient(at), at, (dim,))
    hessian = _check.returned("hessian", F.hessian(at), at, (dim, dim))
    center = np.concatenate([gradient, hessian[rows, columns]])

    def chunk(start: int, stop: int) -> np.ndarray:
        batch = np.arange(start, stop)
        asked = {"per_sample_gradient": (len(batch), dim), "per_sample_hessian": (len(batch), dim, dim)}
        slopes, bends = (
            _check.returned(name, getattr(F, name)(at, batch=batch), at, shape)
            for name, shape in asked.items()
        )
        return np.concatenate([slopes, bends[:, rows, columns]], axis=1) - center

    if n <= width:
        factors = chunk(0, n) / math.sqrt(n)
    else:
        gram = np.zeros((width, width))
        for block in blocks(n, dim**2):
            part = chunk(block.start, block.stop)
            gram += part.T @ part
        # Gradients and curvatures have units of their own, as has every coordinate: correlations do not.
        sizes = np.sqrt(np.diag(gram) / n)
        scale = np.where(sizes > 0, sizes, 1.0)
        values, vectors = np.linalg.eigh(gram / n / np.outer(scale, scale))
        # Directions in which samples do not differ are rounding, and would cost as much as the others.
        keep = values > 1e-14 * values[-1]
        factors = np.sqrt(values[keep])[:, None] * vectors[:, keep].T * sizes
    curvature = np.zeros((len(factors), dim, dim))
    curvature[:, rows, columns] = curvature[:, columns, rows] = factors[:, dim:]
    return factors[:, :dim], curvature
