"""A method at given spectra: its preconditioner ``P`` and derivatives of ``P``, in the eigenbasis."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from .._array import as_floats, namespace
from .._check import Unstable, numbers_of
from .divided import Divided

_HALVINGS = 45  # leaves 3e-14 of the interval: what is between is the rounding of its ends
_CONTINUOUS = 1e-6  # of the gain: the most that a slope of a million leaves across such an interval


class Gains(Protocol):
    """What is asked of a method here: its formulas and its rank."""

    name: str
    rank: int | None

    def gain(self, lam: Any) -> Any: ...
    def tail_gain(self, lam_next: Any) -> Any: ...
    def remedy(self) -> str: ...


class NotSmooth(Unstable, ValueError):
    """The preconditioner is infinite here, or has no derivative: its truncation cuts through a tie."""


class SpectralResponse:
    """A method at given spectra: ``P``, ``DP`` and ``D^2 P`` in the Hessian's eigenbasis.

    Parameters
    ----------
    method : Method
    lams : array, shape (..., d)
        Eigenvalues in any order; ranks are by ``|lam|``, ties by position.

    Notes
    -----
    For `LRSFN` the preconditioner is the spectral function that is ``phi`` on the kept eigenvalues and
    locally constant on the rest (divided differences by index), plus, with the flat tail, the motion of that
    constant with ``lam_{r+1}``. Everything below is exact for distinct ``|lam_r| > |lam_{r+1}|``; where they
    coincide ``Phi`` is infinite: the truncation is not differentiable there.
    """

    def __init__(self, method: Gains, lams: Any):
        self.method, self.lams = method, as_floats(lams)
        dim = self.lams.shape[-1]
        self.truncated = method.rank is not None and method.rank < dim
        if method.rank is not None and method.rank > dim:
            raise ValueError(f"`rank` must be <= the dimension {dim}; got {method.rank}.")
        self.gains = self._gains()
        if self.truncated:
            self._truncate(method.rank)

    def _gains(self) -> Any:
        """The gain at every eigenvalue, before any truncation."""
        lams = self.lams
        # Read on `Divided`, so that a formula with NumPy's functions is one here too.
        if not isinstance(lams, np.ndarray):
            return self._spread(_values(self.method.gain, lams), lams.shape)
        with np.errstate(all="ignore"):
            gains = self.method.gain(lams)
        plain = isinstance(gains, np.ndarray) and gains.shape == lams.shape and gains.dtype == lams.dtype
        return gains if plain else self._spread(gains, lams.shape)

    def _spread(self, values: Any, shape: tuple[int, ...]) -> Any:
        """Values of a formula, which may have come out as a number or with axes of length 1, in full."""
        lams, xp = self.lams, namespace(self.lams)
        if isinstance(lams, np.ndarray):
            return _real(values, shape).astype(lams.dtype, copy=False)
        if isinstance(values, (int, float)):
            return xp.full(shape, values, dtype=lams.dtype, device=lams.device)
        return xp.broadcast_to(values, shape)

    def _truncate(self, rank: Any) -> None:
        xp = namespace(self.lams)
        order = xp.argsort(-abs(self.lams), axis=-1, stable=True)
        # The inverse permutation: of each eigenvalue, its place in the order of sizes.
        position = xp.argsort(order, axis=-1, stable=True)
        self.kept = position < rank
        self._following = position == rank
        self.next = order[..., rank]  # index of the first eigenvalue left out
        self.next_lam = self._at_next(self.lams)
        with np.errstate(all="ignore"):
            self.tail = _values(self.method.tail_gain, self.next_lam) + 0 * self.next_lam
        self.gains = xp.where(self.kept, self.gains, self.tail[..., None])

    def _at_next(self, values: Any) -> Any:
        """Of `values` (..., d), the one that belongs to the first eigenvalue left out, (...)."""
        xp = namespace(values)
        # A masked sum in place of a gather, which not every
        # array library has along the last axis.
        return xp.sum(xp.where(self._following, values, 0.0), axis=-1)

    @functools.cached_property
    def _tail_table(self) -> Divided:
        with np.errstate(all="ignore"):
            return Divided.of(self.method.tail_gain, self.next_lam, self.next_lam, self.next_lam)

    @functools.cached_property
    def tail_slope(self) -> Any:
        """The derivative of the tail's gain with respect to the first eigenvalue left out, (...)."""
        return self._tail_table.first[0] + 0 * self.next_lam

    @functools.cached_property
    def tail_bend(self) -> Any:
        """Half the second derivative, (...)."""
        return self._tail_table.second + 0 * self.next_lam

    @functools.cached_property
    def flat(self) -> bool:
        """Whether the tail's gain moves with the first eigenvalue left out."""
        if not self.truncated:
            return False
        if isinstance(self.lams, np.ndarray):
            return bool(np.any(self.tail_slope != 0))
        return _moves(self.method)  # the numbers are elsewhere, and to look at them is to wait for them

    @functools.cached_property
    def divided(self) -> Any:
        """``Phi``, shape (..., d, d)."""
        return self._first(self.gains, self._pairs())

    def _pairs(self) -> Any:
        """Divided differences of the gain's formula, for all pairs."""
        lam = self.lams
        with np.errstate(all="ignore"):
            table = Divided.of(self.method.gain, lam[..., :, None], lam[..., None, :])
        return self._spread(table.first[0], (*lam.shape, lam.shape[-1]))

    def _first(self, values: Any, kept_pairs: Any) -> Any:
        """Divided differences by index: given for kept pairs, quotients across the cut, 0 in the tail."""
        if not self.truncated:
            return kept_pairs
        lam, xp = self.lams, namespace(self.lams)
        with np.errstate(all="ignore"):
            quotient = (values[..., :, None] - values[..., None, :]) / (lam[..., :, None] - lam[..., None, :])
        kept, other = self.kept[..., :, None], self.kept[..., None, :]
        return xp.where(kept & other, kept_pairs, xp.where(kept | other, quotient, 0.0))

    def derivative(self, noise: Any) -> Any:
        """``DP[E]`` in the eigenbasis, for `noise` ``Q^T E Q`` of shape (..., d, d)."""
        change = self.divided * noise
        if self.flat:
            change = change + self._tail_diagonal(self.tail_slope * self._next_entry(noise))
        return change

    def _next_entry(self, noise: Any) -> Any:
        return self._at_next(namespace(noise).linalg.diagonal(noise))

    def _tail_diagonal(self, value: Any) -> Any:
        xp, dim = namespace(value), self.lams.shape[-1]
        diagonal = xp.where(self.kept, 0.0, value[..., None])
        return diagonal[..., :, None] * xp.eye(dim, dtype=self.lams.dtype, device=self.lams.device)

    def second_derivative(self, noise: np.ndarray) -> np.ndarray:
        """Half of ``D^2 P[E, E]`` in the eigenbasis, for one spectrum (d,) and `noise` (..., d, d).

        ``sum_k phi[lam_i, lam_k, lam_j] E_ik E_kj``, plus the motion of a flat tail to second order.
        """
        if not hasattr(self, "_triples"):
            self._triples = self._second()
        change = np.einsum("ikj,...ik,...kj->...ij", self._triples, noise, noise)
        return change + self._tail_second(noise) if self.flat else change

    def _second(self) -> np.ndarray:
        """Second divided differences ``[i, k, j]`` by index, shape (d, d, d)."""
        return np.stack([self.second_differences(k) for k in range(len(self.lams))], axis=1)

    def second_differences(self, k: int) -> np.ndarray:
        """Second divided differences ``[i, k, j]`` by index of one k, for one spectrum, shape (d, d)."""
        lam, first, own = self.lams, self.divided, self.lams[k : k + 1]
        with np.errstate(all="ignore"):
            table = Divided.of(self.method.gain, lam[:, None], own[:, None], lam[None, :])
            smooth = np.broadcast_to(np.asarray(table.second, dtype=float), first.shape)
            if not self.truncated:
                return smooth
            # f[i,k,j] is symmetric: difference across a pair of which one is kept and one is not.
            ends = (first[:, k, None] - first[k]) / (lam[:, None] - lam)
            left = (first - first[k]) / (lam[:, None] - own)
        i, middle, j = self.kept[:, None], self.kept[k], self.kept
        # Where i and j are alike, k is the odd one, and the pair (i, k) is across the cut.
        mixed = np.where(i != j, ends, left)
        return np.where(i & middle & j, smooth, np.where(i | middle | j, mixed, 0.0))

    def _tail_second(self, noise: np.ndarray) -> np.ndarray:
        row = noise[..., self.next, :]
        return self.tail_second(self._next_entry(noise)[..., None, None] * noise, row**2)

    def tail_second(self, moving: np.ndarray, squares: np.ndarray) -> np.ndarray:
        """Second order of ``(phi_t(lam_{r+1}(H+E)) - phi_t) * (projector on the tail of H+E)``.

        Of ``moving = E_nn E`` (..., d, d) and ``squares = E_nk^2`` (..., d), n the first mode left out, or of
        their means.
        """
        if not hasattr(self, "_projector"):
            self._projector = self._first(np.where(self.kept, 0.0, 1.0), 0.0)
        gap = self.lams[self.next] - self.lams
        gap[self.next] = np.inf
        if np.min(np.abs(gap)) <= _rounding(self.lams):
            raise NotSmooth(
                f"The first eigenvalue left out ({self.next_lam:.4g}) is a multiple one, which Hessian noise "
                "splits: a flat tail's gain has no second derivative. Use order=1, or tail='damping'.",
                modes=np.flatnonzero(np.abs(gap) <= _rounding(self.lams)),
            )
        # Perturbation theory: lambda_(r+1) moves by E_nn and, in
        # second order, by the sum of E_nk^2 / (lam_n - lam_k).
        second = self.tail_slope * np.sum(squares / gap, axis=-1) + self.tail_bend * squares[..., self.next]
        return self.tail_slope * self._projector * moving + self._tail_diagonal(second)


def _values(formula: Any, nodes: Any) -> Any:
    """A formula at `nodes` of any namespace; what it gives for one number where it is constant."""
    result = formula(Divided.variable(nodes))
    return result.value[0] if isinstance(result, Divided) else result


def _moves(method: Gains) -> bool:
    """Whether the tail's gain is anything but constant, found on numbers of both signs and many sizes."""
    sizes = 10.0 ** np.arange(-60, 61, 2)
    nodes = np.concatenate([-sizes[::-1], sizes])
    with np.errstate(all="ignore"):
        return bool(np.any(Divided.of(method.tail_gain, nodes, nodes).first[0] != 0))


def jumps(method: Gains, lams: np.ndarray, reach: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The gain's nearest jump or pole within ``lam +- reach``: distance (d,), and height over the gain (d,).

    An interval across which the gain changes is halved, always towards the larger change: of a continuous
    gain nothing is left in the end. The distance is infinite where there is none.
    """
    ends = np.stack([lams - reach, lams + reach])
    near = np.broadcast_to(lams, ends.shape)
    gain = _plain(method)
    with np.errstate(all="ignore"):
        for _ in range(_HALVINGS):
            middle = near + (ends - near) / 2
            first, second = gain(middle) - gain(near), gain(ends) - gain(middle)
            left = ~(np.abs(second) > np.abs(first))  # a change that is nan, at a pole, is followed too
            near, ends = np.where(left, near, middle), np.where(left, middle, ends)
        height = np.abs((gain(ends) - gain(near)) / gain(lams))
        height = np.where(np.isnan(height), np.inf, height)
    distance = np.where(height > _CONTINUOUS, np.abs(near - lams), np.inf)
    side = np.argmin(distance, axis=0)[None]
    return np.take_along_axis(distance, side, 0)[0], np.take_along_axis(height, side, 0)[0]


def _plain(method: Gains) -> Callable[[np.ndarray], np.ndarray]:
    """The gain on plain arrays, whatever its formula is made of."""
    return lambda nodes: numbers_of("gain", _values(method.gain, nodes) + 0 * nodes).astype(float)


def gains_at(method: Gains, lams: np.ndarray) -> np.ndarray:
    """The gain at eigenvalues of any shape, one number for each: of a formula of a user's own, real."""
    return _real(method.gain(lams), lams.shape) + 0.0 * lams


def _real(values: Any, shape: tuple[int, ...]) -> np.ndarray:
    """What a gain gave for eigenvalues of this shape: real numbers, one for each or one for all."""
    found = numbers_of("gain", values)
    try:
        return np.broadcast_to(found, shape)
    except ValueError:
        raise ValueError(
            f"`gain` must give one number per eigenvalue, shape {shape}; got shape {found.shape}. Write it "
            "as plain arithmetic of its argument."
        ) from None


def singular_directions(method: Gains, lams: np.ndarray) -> int:
    """How many eigenvalues (d,) lie on a pole of the gain, up to rounding of the spectrum."""
    return int(np.count_nonzero(_on_poles(method, lams)))


def _on_poles(method: Gains, lams: np.ndarray, exact: Any = False) -> np.ndarray:
    lams = np.asarray(lams, dtype=float)
    sizes = np.where(exact, np.abs(lams), np.max(np.abs(lams), initial=0.0))
    nudge = 8 * np.finfo(float).eps * len(lams) * np.maximum(sizes, 1e-290)
    # A pole at 0 that keeps its sign, such as |lam|^-p, is found by hitting it.
    lams = np.where(np.abs(lams) <= nudge, 0.0, lams)
    with np.errstate(all="ignore"):
        here, right, left, far = (
            gains_at(method, x) for x in (lams, lams + nudge, lams - nudge, lams + 4 * nudge)
        )
    # A pole changes the gain's sign and is steep; a zero changes it too, but the gain grows away from it.
    return ~np.isfinite(here) | ((np.sign(right) != np.sign(left)) & (np.abs(right) > np.abs(far)))


def _rounding(lams: np.ndarray) -> float:
    """Differences of eigenvalues (d,) that their rounding makes."""
    return 8 * np.finfo(float).eps * len(lams) * float(np.max(np.abs(lams)))


def check_regular(method: Gains, lams: np.ndarray, *, exact: Any = False) -> None:
    """Raise where ``P(H)`` does not exist, naming the directions and a method that does.

    Eigenvalues (d,) that are `exact`, as a diagonal matrix's, are told by a bool for each or for all; others
    are known to rounding of the largest.
    """
    with np.errstate(all="ignore"):
        undefined = np.isnan(gains_at(method, lams)) & np.isfinite(lams)
    # 0 / 0 at a pole is nan too: there it has values beside it.
    beside = lams[undefined] * (1 + 1e-6) + 1e-300
    with np.errstate(all="ignore"):
        lost = lams[undefined][np.isnan(gains_at(method, beside))]
    if len(lost):
        raise NotSmooth(
            f"The gain of {method.name} is not a number at {len(lost)} of {len(lams)} eigenvalues, "
            f"{lost[0]:.4g} among them. Write it for both signs: with abs(lam), or with "
            "numpy.where(lam > 0, ..., ...).",
            modes=np.flatnonzero(undefined),
        )
    poles = np.flatnonzero(_on_poles(method, lams, exact))
    if len(poles):
        with np.errstate(all="ignore"):
            infinite = not np.isfinite(gains_at(method, lams[poles])).all()
        told = "its gain is infinite there"
        if not infinite:
            told = (
                f"to rounding of the largest, {np.max(np.abs(lams)):.3g}, {told}. Bring the coordinates "
                "to one scale, as by standardized columns"
            )
        raise NotSmooth(
            f"The curvature is singular for {method.name} along {len(poles)} of {len(lams)} directions: "
            f"{told}; {method.remedy()}.",
            modes=poles,
        )


def check_cut(method: Gains, lams: np.ndarray) -> None:
    """Raise where a truncation cuts through eigenvalues (d,) of equal size, up to rounding."""
    if method.rank is None or method.rank >= len(lams):
        return
    order = np.argsort(-np.abs(lams), kind="stable")
    last, following = order[method.rank - 1], order[method.rank]
    kept = float(np.abs(lams[last]))
    if kept - abs(lams[following]) <= _rounding(lams):
        raise NotSmooth(
            f"rank {method.rank} cuts through eigenvalues of equal size ({kept:.4g}): P(H + Eh) is not "
            "differentiable there and the linearised Hessian noise does not exist. Choose another rank, or "
            "hessian_batch=inf.",
            modes=(last, following),
        )
