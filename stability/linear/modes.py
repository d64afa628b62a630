"""A flow's noise in the frame of its modes: the covariances that the linear theory balances."""

from __future__ import annotations

import abc
import functools
import math

import numpy as np

from ..flow import Flow
from ..methods.response import check_cut
from ..noise import DataNoise, GaussianInputs, Noise, Sample
from .frames import Frame
from .moments import Map
from .samples import Bend, Samples, aligned, moderate

_TENSOR_DIM = 64  # largest d for which E[G (x) G] is written out: d^4 numbers


_DEAR = 200
"""Largest d in which samples' second moments are found in double precision throughout."""
_MOST_WORK = 3e11
"""Largest n d^3 for which order 2 is computed: about ten seconds."""


class Turned:
    """A noise at a critical point in the basis of the modes, whatever the method: ``V^T zeta``, ``V^T E V``.

    Attributes
    ----------
    noise : Noise
    at : array (d,)
    vectors : array (d, d)
        The modes, as columns.
    skew : bool
        Whether they are not orthonormal.
    """

    def __init__(self, noise: Noise, at: np.ndarray, vectors: np.ndarray, *, skew: bool = False):
        self.noise, self.at, self.vectors, self.skew = noise, at, vectors, skew
        self._led: list[tuple[np.ndarray, np.ndarray]] = []

    def lead(self, gains: np.ndarray, leading: np.ndarray) -> None:
        """Remember the leading second moment (d, d) of a method, by its gains (d,)."""
        self._led.append((gains, leading))

    def nearest(self, gains: np.ndarray) -> np.ndarray | None:
        """The leading second moment of the method most like these gains (d,), of those remembered."""

        def apart(other: tuple[np.ndarray, np.ndarray]) -> float:
            with np.errstate(all="ignore"):
                return float(np.nan_to_num(np.std(np.log(np.abs(gains / other[0]))), nan=np.inf))

        # Alike up to a factor: the leading matrix does not change with the size of all gains.
        return min(self._led, key=apart)[1] if self._led else None

    @functools.cached_property
    def factors(self) -> Sample:
        """The noise's factors."""
        zeta, Eg, Eh = self.noise.law(self.at)
        Q = self.vectors
        return Sample(zeta @ Q, Q.T @ Eg @ Q, Q.T @ Eh @ Q)

    @functools.cached_property
    def covariance(self) -> np.ndarray:
        """``C``: the covariance of ``zeta``."""
        return self.vectors.T @ self.noise.gradient_covariance(self.at, self.at) @ self.vectors

    @functools.cached_property
    def samples(self) -> Samples:
        """Every sample's curvature, of data that have it as a few rows."""
        assert isinstance(self.noise, DataNoise)
        return Samples.along(self.noise.samples, self.vectors, skew=self.skew)


class ModalNoise(abc.ABC):
    """What of the noise reaches the modes of a linearised flow.

    Additively, through ``G = P Eg + DP[Eh] H``, and to second order.

    Attributes
    ----------
    noise : Noise
        As it acts in linear steps: of a metric that bounds them another one than the flow's.
    gains, rates, eigenvalues : arrays (d,)
        Rates without weight decay.
    response : SpectralResponse or None
        Of a spectral method: ``P`` and its derivatives at this spectrum.
    turned : Turned
        The noise in this basis, which other methods at this point share.
    """

    def __init__(self, flow: Flow, turned: Turned, frame: Frame):
        self.flow, self.turned, self.noise = flow, turned, turned.noise
        self.at, self.vectors, self.eigenvalues = turned.at, turned.vectors, frame.eigenvalues
        self.response, self.gains = frame.response, frame.gains
        self.rates = -self.gains * self.eigenvalues

    @property
    def factors(self) -> Sample:
        """The noise's factors in the eigenbasis."""
        return self.turned.factors

    @property
    def covariance(self) -> np.ndarray:
        """``C``: the covariance of ``zeta``."""
        return self.turned.covariance

    @property
    def additive(self) -> np.ndarray:
        """``P C P``: the covariance of ``P zeta``."""
        return np.outer(self.gains, self.gains) * self.covariance

    @property
    def bends(self) -> bool:
        """Whether Hessian noise reaches the preconditioner at all."""
        return self.flow.bends

    @functools.cached_property
    def kick(self) -> Map | None:
        """``M -> E[G M G^T]`` on the modes; None without curvature noise."""
        return self._kick() if self.noise.has_curvature else None

    @functools.cached_property
    def rough(self) -> Map | None:
        """The kick in single precision, where it is dear; else None."""
        return None

    @abc.abstractmethod
    def _kick(self) -> Map:
        """What `kick` is where there is curvature noise."""

    @abc.abstractmethod
    def gradient_share(self, M: np.ndarray) -> float:
        """``tr E[P Eg M Eg P]``: the gradient batch's share of the kick at a diagonal-dominated M."""

    def hessian_spread(self) -> np.ndarray:
        """Standard deviations (d, d) of the entries of ``Eh`` in the eigenbasis."""
        return math.sqrt(self.noise.scales[2]) * self.sample_spread()

    @abc.abstractmethod
    def sample_spread(self) -> np.ndarray:
        """The same over single samples."""

    @functools.cached_property
    def cross(self) -> Map | None:
        """``m -> E[P zeta (G m)^T]`` + transpose: data noise correlates gradients with curvature."""
        return None

    @functools.cached_property
    def push(self) -> np.ndarray:
        """``E[DP[Eh] zeta]`` (d,): zero unless nested batches correlate the two."""
        return np.zeros(len(self.at))

    @functools.cached_property
    def second_order(self) -> tuple[np.ndarray, Map, np.ndarray]:
        """Order 2: drift, spread (per step) and additive covariance to second order in the noise.

        With ``X = P(H+Eh)(H+Eg) = X0 + X1 + X2``, ``E[X M X^T] = X0 M X0 + E[X1 M X1^T] + X2 M X0 + X0 M
        X2^T``; gradient noise is taken independent of ``Eh`` here.
        """
        rates, kick = self.rates, self.kick
        if kick is None:
            return rates, lambda M: np.outer(rates, rates) * M, self.additive
        if not self.bends:
            # The drift as a vector stays one here: without bending, modes do not mix in the mean.
            return rates, lambda M: np.outer(rates, rates) * M + kick(M), self.additive
        check_cut(self.flow.method, self.eigenvalues)
        covariance, phi = self.covariance, np.diag(self.gains)
        shift, turn, shaken = self._second_terms()
        extra = shift * self.eigenvalues + turn
        additive = self.additive + shaken + shift @ covariance @ phi + phi @ covariance @ shift.T

        def spread(M: np.ndarray) -> np.ndarray:
            return np.outer(rates, rates) * M + kick(M) - extra @ (M * rates) - (rates[:, None] * M) @ extra.T

        return np.diag(rates) - extra, spread, additive

    def _second_terms(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """``E[D^2 P[Eh, Eh]] / 2``, ``E[DP[Eh] Eg]`` and ``E[DP[Eh] C DP[Eh]^T]`` (d, d)."""
        # Second derivatives are dear: not of factors that do not touch the Hessian batch.
        active = np.abs(self.factors.Eh).max(axis=(1, 2)) > 0
        Eh, Eg = self.factors.Eh[active], self.factors.Eg[active]
        slope = self.response.derivative(Eh)
        shift = self.response.second_derivative(Eh).sum(axis=0)
        turn = np.einsum("kij,kjl->il", slope, Eg)
        return shift, turn, np.einsum("kij,jl,kml->im", slope, self.covariance, slope, optimize=True)


class IsotropicNoise(ModalNoise):
    """Of a Gaussian symmetric matrix (GOE), the same in every basis: closed forms."""

    @property
    def unit(self) -> float:
        """``tau`` per sample."""
        return self.noise.curvature

    @functools.cached_property
    def scale(self) -> np.ndarray:
        """Standard deviations (d, d) of the entries off the diagonal, in units of `unit`."""
        return np.ones((len(self.at),) * 2)

    def _kick(self) -> Map:
        """Diagonal entries of M feed diagonal ones, the others keep to themselves.

        With ``E[E_ij E_kl] = tau_ij^2 (d_ik d_jl + d_il d_jk)``; a flat tail adds ``phi_t' lam_i
        Eh_{r+1,r+1}`` on its diagonal.
        """
        noise, phi, lam = self.noise, self.gains, self.eigenvalues
        # Both batches' matrices are mixed of two independent ones: squares of sums are never negative, as
        # sums of products may be where one batch undoes the other.
        gradient, across, rest = (share * self.unit for share in noise.mixing())
        a, b = phi[:, None] * self.scale, np.zeros((len(phi),) * 2)
        tail, n = np.zeros_like(phi), None
        if self.bends:
            check_cut(self.flow.method, self.eigenvalues)
            b = self.response.divided * lam * self.scale
        if self.bends and self.response.flat:
            n = int(self.response.next)
            tail = np.where(self.response.kept, 0.0, self.response.tail_slope * lam) * self.scale[n, n]
            b[n, n] += tail[n]
            tail[n] = 0.0
        x, y = _left(gradient * a, across * b), rest * b
        feed, keep = x**2 + y**2, x * x.T + y * y.T
        # A diagonal entry of such a matrix has twice the variance of one beside it.
        feed[np.diag_indices_from(feed)] *= 2
        if n is not None:
            # All modes of a flat tail lean on one eigenvalue, that of mode n: its diagonal entry moves them
            # together, which no product of single entries says.
            spread = 2 * (across**2 + rest**2)
            keep = keep + spread * np.outer(tail, tail)
            feed[np.diag_indices_from(feed)] += spread * tail**2
            mixed = np.zeros_like(feed)
            mixed[n] = 2 * (across * x[n, n] + rest * y[n, n]) * tail
            keep = keep + mixed + mixed.T
        np.fill_diagonal(keep, 0.0)
        eye = np.eye(len(phi))
        return lambda M: keep * M + (np.diagonal(M, axis1=-2, axis2=-1) @ feed.T)[..., None] * eye

    def gradient_share(self, M: np.ndarray) -> float:
        share, squares = self.noise.scales[0] * self.unit**2, self.scale**2
        return share * float(self.gains**2 @ (squares @ np.diag(M) + np.diag(squares * M)))

    def sample_spread(self) -> np.ndarray:
        return self.unit * self.scale * np.sqrt(1 + np.eye(len(self.at)))


class InputsNoise(IsotropicNoise):
    """Of Gaussian inputs whose covariance has the Hessian's own axes: ``E_ij`` of size ``sqrt(c_i c_j)``."""

    unit = 1.0

    @functools.cached_property
    def scale(self) -> np.ndarray:
        root = np.sqrt(np.maximum(np.diag(_inputs(self.turned)), 0.0))
        return np.outer(root, root)


class SkewNoise(ModalNoise):
    """Of Gaussian matrices on modes that are not orthonormal, for methods that no Hessian batch bends.

    With ``E[E N E] = C N C + tr(C N) C``: Isserlis' theorem for Gaussian inputs of covariance C, and for a
    symmetric Gaussian matrix of unit entries with ``C = I``.
    """

    @functools.cached_property
    def _inner(self) -> np.ndarray:
        """``C`` (d, d) of one sample, on the modes."""
        V = self.vectors
        return V.T @ V * self.noise.curvature if self.noise.isotropic else _inputs(self.turned)

    def _kick(self) -> Map:
        share, gain, inner = self.noise.scales[0], np.outer(self.gains, self.gains), self._inner

        def kick(M: np.ndarray) -> np.ndarray:
            # Isserlis: of three pairings of four Gaussians two meet M from both sides, and one takes its
            # trace.
            trace = np.einsum("ij,...ij->...", inner, M)[..., None, None]
            return share * gain * (inner @ M @ inner + trace * inner)

        return kick

    def gradient_share(self, M: np.ndarray) -> float:
        return 0.0 if self.kick is None else float(np.trace(self.kick(M)))

    def sample_spread(self) -> np.ndarray:
        own = np.diag(self._inner)
        return np.sqrt(np.outer(own, own) + self._inner**2)


class FactoredNoise(ModalNoise):
    """Of data, or of a class of one's own: sums over the factors of its second-order law."""

    def _kick(self) -> Map:
        G, dim = self._multiplier, len(self.at)
        if dim > _TENSOR_DIM:
            return lambda M: np.einsum("kij,...jl,kml->...im", G, M, G, optimize=True)
        # Once as a matrix: a balance asks for many M, and the factors are many more than the modes.
        flat = G.reshape(len(G), dim**2)  # none at all, where samples do not differ
        tensor = (flat.T @ flat).reshape((dim,) * 4).transpose(1, 3, 0, 2).reshape(dim**2, dim**2)
        return lambda M: (M.reshape(*M.shape[:-2], dim**2) @ tensor).reshape(M.shape)

    @property
    def _multiplier(self) -> np.ndarray:
        """``G = P Eg + DP[Eh] H`` (k, d, d) of every factor."""
        G = self.gains[:, None] * self.factors.Eg
        if not self.bends:
            return G
        check_cut(self.flow.method, self.eigenvalues)
        return _left(G, self.response.derivative(self.factors.Eh) * self.eigenvalues)

    def gradient_share(self, M: np.ndarray) -> float:
        quiet = self.gains[:, None] * self.factors.Eg
        return float(np.einsum("kij,jl,kil->", quiet, M, quiet, optimize=True))

    def hessian_spread(self) -> np.ndarray:
        return np.sqrt(np.sum(self.factors.Eh**2, axis=0))

    def sample_spread(self) -> np.ndarray:
        own, _, other = self.noise.scales
        if not own and not other:  # batches of all the data tell nothing of one sample
            return np.full((len(self.at),) * 2, np.nan)
        # Both are the same samples' curvature, each over its own batch: either one tells, if it has noise.
        seen = self.factors.Eh if other else self.factors.Eg
        return np.sqrt(np.sum(seen**2, axis=0) / (other or own))

    @functools.cached_property
    def cross(self) -> Map | None:
        if not self.noise.has_curvature:
            return None
        # The transpose makes it symmetric for every m, so that it is done once for all.
        tensor = np.einsum("ki,kjl->ijl", self.factors.zeta * self.gains, self._multiplier)
        tensor = tensor + tensor.transpose(1, 0, 2)
        return lambda m: tensor @ m

    @functools.cached_property
    def push(self) -> np.ndarray:
        if not self.bends:
            return np.zeros(len(self.at))
        check_cut(self.flow.method, self.eigenvalues)
        return np.einsum("kij,kj->i", self.response.derivative(self.factors.Eh), self.factors.zeta)


class SampledNoise(ModalNoise):
    """Of data whose samples' Hessians have few rows each: nothing with more than d^2 numbers."""

    @property
    def samples(self) -> Samples:
        """Every sample's curvature in the eigenbasis."""
        return self.turned.samples

    def _kick(self) -> Map:
        return self._kick_of(self.samples)

    @functools.cached_property
    def rough(self) -> Map | None:
        if len(self.at) <= _DEAR or not all(map(moderate, (self.samples.mean, self.gains, self.rates))):
            return None
        return self._kick_of(self.samples.single)

    def _kick_of(self, samples: Samples) -> Map:
        (own, shared, other), phi, lam = self.noise.scales, self.gains, self.eigenvalues
        gain, centred = np.outer(phi, phi).astype(samples.rows.dtype), samples.centred
        if not self.bends:
            return _one_by_one(lambda M: own * gain * centred(M))
        check_cut(self.flow.method, lam)
        if (scale := aligned(phi, self.response.divided)) is not None and not self.response.truncated:
            bent = scale * phi * lam  # DP[E] H = -P E diag(bent)
            gradient, across, rest = self.noise.mixing()
            # Where DP[E] = P E P times a number, gain and bend merge into one weight: one product with
            # samples, not three.
            quiet = _left(np.full_like(bent, gradient), -across * bent)
            weight = (np.outer(quiet, quiet) + rest**2 * np.outer(bent, bent)).astype(gain.dtype)
            return _one_by_one(lambda M: gain * centred(weight * M))

        square = np.outer(lam, lam).astype(gain.dtype)

        def kick(M: np.ndarray) -> np.ndarray:
            total = own * gain * centred(M) + other * self.bend.square(square * M)
            if not shared:
                return total
            mixed = shared * phi[:, None] * self.bend.cross(M * lam)
            return total + mixed + mixed.T

        return _one_by_one(kick)

    @functools.cached_property
    def bend(self) -> Bend:
        """What samples do to the preconditioner."""
        check_cut(self.flow.method, self.eigenvalues)
        response, kept = self.response, len(self.at)
        tail = None
        if response.truncated:
            kept = int(self.flow.method.rank or 0)
            tail = (int(response.next), float(response.tail_slope)) if response.flat else None
        return Bend(self.samples, response.divided, kept, tail, nested=bool(self.noise.scales[1]))

    def _second_terms(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        (_, shared, other), response, samples = self.noise.scales, self.response, self.samples
        work = samples.n * samples.rank * float(samples.dim) ** 3
        if work > _MOST_WORK:
            raise ValueError(
                f"Order 2 in {samples.dim} dimensions takes {work:.1g} operations on {samples.n} samples; "
                f"{_MOST_WORK:.0g} are the most. Use order=1, or fewer columns or samples."
            )
        shift, turn = np.zeros((2, samples.dim, samples.dim))
        for k in range(samples.dim):
            square = samples.squares(k)
            shift += other * response.second_differences(k) * square
            turn += shared * response.divided[:, k, None] * square
        if response.flat:
            following = int(response.next)
            moving = samples.moments(following) - np.diag(samples.mean[following] * samples.mean)
            shift += other * response.tail_second(moving, samples.variances[following])
            turn += shared * np.where(response.kept, 0.0, response.tail_slope)[:, None] * moving
        return shift, turn, other * self.bend.square(self.covariance)

    def gradient_share(self, M: np.ndarray) -> float:
        samples = self.samples if self.rough is None else self.samples.single
        return self.noise.scales[0] * samples.share(M, self.gains)

    def sample_spread(self) -> np.ndarray:
        return np.sqrt(self.samples.variances)

    @functools.cached_property
    def _gradients(self) -> np.ndarray:
        """Samples' gradients (n, d) in the eigenbasis."""
        assert isinstance(self.noise, DataNoise)
        return self.noise.gradients() @ self.vectors

    @functools.cached_property
    def cross(self) -> Map | None:
        own, shared, _ = self.noise.scales
        zeta, Z, lam = self._gradients, self.samples.rows, self.eigenvalues

        def cross(m: np.ndarray) -> np.ndarray:
            moved = own * self.gains * (np.einsum("sod,so->sd", Z, Z @ m) - self.samples.pulled(m))
            if shared and self.bends:
                moved += shared * self.bend.turned(np.broadcast_to(lam * m, zeta.shape))
            total = self.gains[:, None] * (zeta.T @ moved) / len(zeta)
            return total + total.T

        return cross

    @functools.cached_property
    def push(self) -> np.ndarray:
        shared = self.noise.scales[1]
        if not self.bends or not shared:
            return np.zeros(len(self.at))
        return shared * self.bend.turned(self._gradients).mean(axis=0)


def _left(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Their sum, and zero where only rounding is left of it: one batch then undoes the other."""
    total = one + other
    rounding = 16 * np.finfo(float).eps * (np.abs(one) + np.abs(other))
    return np.where(np.abs(total) <= rounding, 0.0, total)


def _one_by_one(kick: Map) -> Map:
    """The map on (..., d, d): each matrix of several is as large as the memory allows."""
    return lambda M: kick(M) if M.ndim == 2 else np.stack([kick(one) for one in M])


def modal_noise(flow: Flow, turned: Turned, frame: Frame) -> ModalNoise:
    """A flow's noise at a critical point, on the modes of a frame."""
    noise = turned.noise
    isotropic, gaussian = noise.isotropic, type(noise) is GaussianInputs
    if isinstance(noise, DataNoise) and noise.by_samples:
        return SampledNoise(flow, turned, frame)
    if not frame.orthonormal and (isotropic or gaussian):
        return SkewNoise(flow, turned, frame)
    if isotropic:
        return IsotropicNoise(flow, turned, frame)
    coaxial = gaussian and _coaxial(_inputs(turned))
    return (InputsNoise if coaxial else FactoredNoise)(flow, turned, frame)


def _inputs(turned: Turned) -> np.ndarray:
    """The covariance of Gaussian inputs in the eigenbasis."""
    assert isinstance(turned.noise, GaussianInputs)
    return turned.vectors.T @ turned.noise.covariance @ turned.vectors


def _coaxial(matrix: np.ndarray) -> bool:
    """Whether all that is off the diagonal is rounding."""
    own = np.diag(matrix)
    return bool(np.max(np.abs(matrix - np.diag(own))) <= 1e-12 * np.max(np.abs(own)))


def mode_limits(
    gains: np.ndarray,
    eigenvalues: np.ndarray,
    *,
    slopes: np.ndarray | float = 0.0,
    gradient: np.ndarray | float = 0.0,
    hessian: np.ndarray | float = 0.0,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
) -> np.ndarray:
    """Mean-square step limits of modes taken one at a time, with momentum and decoupled weight decay.

    One mode of the linearised iteration is ``x+ = (1 + beta) x - beta x_ - step (h + e) x`` with ``h = phi
    lam`` and ``Var e = s^2 = phi^2 gradient + (phi' lam)^2 hessian``. Its second moments shrink while ``step
    < 2 (1 - beta^2) h / ((1 + beta) s^2 + (1 - beta) h^2)``, which without momentum is theory's ``2 h / (h^2
    + s^2)``.

    Parameters
    ----------
    gains, eigenvalues : arrays (r,)
    slopes : array (r,)
        ``phi'``.
    gradient, hessian : arrays (r,)
        Variances of the eigenvalues over gradient and over Hessian batches, drawn independently.
    momentum : float
        ``beta`` in [0, 1).
    nesterov : bool
    weight_decay : float
        ``theta`` in ``x+ = (1 - step theta) x - ...``.

    Returns
    -------
    array (r,)
        inf where the mode is not attracted at any step (``lam <= 0``): nothing stable is lost there.
    """
    h = gains * eigenvalues
    spread = gains**2 * gradient + (slopes * eigenvalues) ** 2 * hessian
    if nesterov or weight_decay:
        return _bisected_limits(h, spread, momentum, nesterov, weight_decay)
    with np.errstate(divide="ignore", invalid="ignore"):
        limits = 2 * (1 - momentum**2) * h / ((1 + momentum) * spread + (1 - momentum) * h**2)
    return np.where(h > 0, limits, np.inf)


def _bisected_limits(
    h: np.ndarray, spread: np.ndarray, beta: float, nesterov: bool, theta: float
) -> np.ndarray:
    """`mode_limits` for what has no short formula.

    Positions are ``x'' = T x' - D x + step (b n - c n')`` with noise ``n`` of variance ``s^2 x^2``, an
    ARMA(2, 1), whose variance under unit noise is ``1 / s^2`` at the limit.
    """
    straight, before = (1 + beta, beta) if nesterov else (1.0, 0.0)  # c and b
    pull = theta * (1 - beta) + h  # (1 + D - T) / step
    with np.errstate(divide="ignore", invalid="ignore"):
        high = 2 * (1 + beta) / (theta * (1 + beta) + h * (straight + before))  # of the mean: 1 + D + T = 0
    low, high = np.zeros_like(h), np.where(pull > 0, high, 0.0)
    # Sixty halvings are more than the 53 bits of a float.
    for _ in range(60):
        step = (low + high) / 2
        trace = 1 + beta - step * (theta + straight * h)
        determinant = beta * (1 - step * (theta + (h if nesterov else 0.0)))
        grows = (1 + determinant) * (straight**2 + before**2) - 2 * trace * straight * before
        falls = (1 - determinant) * pull * (1 + determinant + trace)
        stable = step * spread * grows < falls
        low, high = np.where(stable, step, low), np.where(stable, high, step)
    return np.where(pull > 0, low, np.inf)
