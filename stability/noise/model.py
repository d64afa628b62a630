"""A `Noise`: its law per sample, the sizes of both batches, and how these are coupled."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import numpy as np

from .. import _check
from .._array import like, matvec, namespace, transpose
from .._saving import Kept
from .alignment import powers
from .factors import Sample, join, passed, symmetric_basis


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

    # What `from_data`, `streaming` and `wishart` make are subclasses, in modules that import this one: each
    # enters itself here when it is defined, which the package's face sees to.
    _families: ClassVar[dict[str, Callable[..., Noise]]] = {}

    def __init_subclass__(cls, *, made_by: tuple[str, ...] = (), **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        Noise._families.update(dict.fromkeys(made_by, cls))

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
        return sample if self.linear else passed("sample", sample, size, np.shape(w)[-1])

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

    def check_drawn(self) -> None:
        """Refuse a law that a user's class states, and does not draw: it would be theory's alone."""
        own = {
            name for name in ("sample", "combine", "factors", "gradient_covariance") if self._is_users(name)
        }
        if own and not own & {"sample", "combine"}:
            raise ValueError(
                f"{type(self).__name__} has `{min(own)}` of its own and no `sample`: paths would follow "
                "another law than the theory. Give it `sample(w, size, rng)` too."
            )

    def _is_users(self, name: str) -> bool:
        """Whether a method is of a class outside this package."""
        home = type(self).__mro__[self._told(name)].__module__
        return home.partition(".")[0] != __name__.partition(".")[0]

    def law(self, w: np.ndarray) -> Sample:
        """What `factors` gives; of a class with its own, checked."""
        factors = self.factors(w)
        if type(self).factors is Noise.factors:
            return factors
        return passed("factors", factors, len(factors[0]), np.shape(w)[-1])

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
        # Who comes last speaks: factors that were written before a subclass draws its own samples are another
        # law's.
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
        # Two matrices only where the Hessian batch has something of its own: drawing one that is not used
        # would change every later number of the stream.
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
        # Gathered with the paths last, where every row is contiguous, and turned by a view.
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
            # By eigenvectors, not Cholesky: a covariance may be singular, its smallest eigenvalue rounding
            # below zero.
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
        basis = symmetric_basis(dim) * self.curvature if self.has_curvature else np.zeros((0, dim, dim))
        root = self._root(dim).T
        still = np.zeros((dim, dim, dim))
        blocks = [Sample(root, still, still)]
        gradient, across, rest = self.mixing()
        none = np.zeros((len(basis), dim))
        blocks.append(Sample(none, gradient * basis, across * basis))
        if rest:
            blocks.append(Sample(none, 0 * basis, rest * basis))
        return join(blocks)

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
            # E E_g o o^T E_g of a GOE matrix: tau^2 (|o|^2 I + o o^T).
            result = result + self.scales[0] * self.curvature**2 * (
                offset @ offset * np.eye(len(w)) + np.outer(offset, offset)
            )
        return result

    def gradient_covariances(self, offset: Any) -> Any:
        """Covariances (..., d, d) of ``zeta + Eg offset`` at offsets (..., d) from the reference point.

        Arrays of any library; of laws that are linear in normals.
        """
        xp, dim = namespace(offset), offset.shape[-1]
        if self.as_stated:
            base, eye = (like(part, offset) for part in self._gradient_square(dim))
            length = xp.sum(offset**2, axis=-1)[..., None, None]
            turned = length * eye + offset[..., :, None] * offset[..., None, :]
            return base + self.scales[0] * self.curvature**2 * turned
        zeta, flat = (like(part, offset) for part in self._gradient_rows(dim))
        kicks = zeta + xp.reshape(offset @ flat, (*offset.shape[:-1], *zeta.shape))
        return transpose(kicks) @ kicks

    def variance_slopes(self, offset: np.ndarray) -> np.ndarray:
        """Derivatives (..., d, d) of the entries' variances by the offset, row by row."""
        dim = offset.shape[-1]
        if self.as_stated:
            one = offset[..., None, :]
            return 2 * self.scales[0] * self.curvature**2 * (one + np.eye(dim) * one)
        zeta, Eg, _ = self.law(np.zeros(dim))
        kicks = zeta + np.einsum("kij,...j->...ki", Eg, offset)
        return 2 * np.einsum("...ki,kij->...ij", kicks, Eg)

    @functools.lru_cache(maxsize=4)  # noqa: B019
    def _gradient_square(self, dim: int) -> tuple[np.ndarray, np.ndarray]:
        root = self._root(dim)
        return root @ root.T, np.eye(dim)

    @functools.lru_cache(maxsize=4)  # noqa: B019
    def _gradient_rows(self, dim: int) -> tuple[np.ndarray, np.ndarray]:
        """Factors of the gradient's noise, (k, d), and of its change with the offset, (d, k d)."""
        zeta, Eg, _ = self.law(np.zeros(dim))
        return zeta, np.ascontiguousarray(Eg.reshape(-1, dim).T)

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
    ) -> Any:
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
        return Noise._families["from_data"](
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
        sizes = powers(curvatures, exponent)
        return Noise(gradient=scale * (vectors * sizes) @ vectors.T, batch=batch)

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
    ) -> Noise:
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
        return Noise._families["streaming"](
            covariance,
            label_noise=label_noise,
            batch=batch,
            hessian_batch=hessian_batch,
            coupling=coupling,
            reference=reference,
        )

    @staticmethod
    @_check.by_name
    def wishart(covariance: Any = None, *, samples: int, reference: Any = None) -> Noise:
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
        return Noise._families["wishart"](
            covariance, batch=math.inf, hessian_batch=sample_count("samples", samples), reference=reference
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


def sample_count(name: str, value: Any) -> float:
    """A number of samples: whole, or infinite."""
    size = _check.positive(name, value, infinite=True)
    if size < 1 or not (math.isinf(size) or size.is_integer()):
        raise ValueError(f"`{name}` must be a whole number of samples >= 1, or inf; got {size:g}.")
    return size


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
