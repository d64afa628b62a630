"""A method at given spectra: its preconditioner ``P`` and the derivatives of ``P`` in the Hessian's eigenbasis."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from ._divided import Divided


class Gains(Protocol):
    """What is asked of a method here: its formulas and its rank."""

    name: str
    rank: int | None

    def gain(self, lam: Any) -> Any: ...
    def tail_gain(self, lam_next: Any) -> Any: ...
    def remedy(self) -> str: ...


class SpectralResponse:
    """A method at given spectra: ``P``, ``DP`` and ``D^2 P`` in the Hessian's eigenbasis.

    Parameters
    ----------
    method : Method
    lams : array, shape (..., d)
        Eigenvalues in any order; ranks are by ``|lam|``, ties by position.

    Notes
    -----
    For `LRSFN` the preconditioner is the spectral function that is ``phi`` on the kept eigenvalues and locally
    constant on the rest (divided differences by index), plus, with the flat tail, the motion of that constant
    with ``lam_{r+1}``. Everything below is exact for distinct ``|lam_r| > |lam_{r+1}|``; where they coincide
    ``Phi`` is infinite: the truncation is not differentiable there.
    """

    def __init__(self, method: Gains, lams: np.ndarray):
        self.method, self.lams = method, lams
        dim = lams.shape[-1]
        self.truncated = method.rank is not None and method.rank < dim
        if method.rank is not None and method.rank > dim:
            raise ValueError(f"`rank` must be <= the dimension {dim}; got {method.rank}.")
        with np.errstate(all="ignore"):
            self.gains = np.broadcast_to(np.asarray(method.gain(lams), dtype=float), lams.shape)
        if self.truncated:
            self._truncate(method.rank)

    def _truncate(self, rank: Any) -> None:
        order = np.argsort(-np.abs(self.lams), axis=-1, kind="stable")
        position = np.empty_like(order)
        np.put_along_axis(position, order, np.broadcast_to(np.arange(order.shape[-1]), order.shape), axis=-1)
        self.kept = position < rank
        self.next = order[..., rank]  # index of the first eigenvalue left out
        self.next_lam = np.take_along_axis(self.lams, self.next[..., None], axis=-1)[..., 0]
        nodes = Divided.variable(self.next_lam, self.next_lam, self.next_lam)
        table = self.method.tail_gain(nodes)
        self.tail = np.asarray(table.value[0]) + 0 * self.next_lam
        self.tail_slope = np.asarray(table.first[0]) + 0 * self.next_lam
        self.tail_bend = np.asarray(table.second) + 0 * self.next_lam  # half the second derivative
        self.gains = np.where(self.kept, self.gains, self.tail[..., None])

    @property
    def flat(self) -> bool:
        """Whether the tail's gain moves with the first eigenvalue left out."""
        return self.truncated and bool(np.any(self.tail_slope != 0))

    @property
    def divided(self) -> np.ndarray:
        """``Phi``, shape (..., d, d)."""
        if not hasattr(self, "_divided"):
            self._divided = self._first(self.gains, self._pairs())
        return self._divided

    def _pairs(self) -> np.ndarray:
        """Divided differences of the gain's formula, for all pairs."""
        lam = self.lams
        with np.errstate(all="ignore"):
            table = self._read(lam[..., :, None], lam[..., None, :])
        return np.broadcast_to(np.asarray(table.first[0], dtype=float), (*lam.shape, lam.shape[-1]))

    def _first(self, values: np.ndarray, kept_pairs: Any) -> np.ndarray:
        """Divided differences of `values` by index: given for kept pairs, quotients across the cut, 0 in the tail."""
        if not self.truncated:
            return kept_pairs
        lam = self.lams
        with np.errstate(all="ignore"):
            quotient = (values[..., :, None] - values[..., None, :]) / (lam[..., :, None] - lam[..., None, :])
        kept, other = self.kept[..., :, None], self.kept[..., None, :]
        return np.where(kept & other, kept_pairs, np.where(kept | other, quotient, 0.0))

    def _read(self, *nodes: np.ndarray) -> Divided:
        variable = Divided.variable(*nodes)
        result = self.method.gain(variable)
        return result if isinstance(result, Divided) else variable * 0.0 + result

    def derivative(self, noise: np.ndarray) -> np.ndarray:
        """``DP[E]`` in the eigenbasis, for `noise` ``Q^T E Q`` of shape (..., d, d)."""
        change = self.divided * noise
        if self.flat:
            change = change + self._tail_diagonal(self.tail_slope * self._next_entry(noise))
        return change

    def _next_entry(self, noise: np.ndarray) -> np.ndarray:
        index = np.broadcast_to(self.next[..., None, None], (*noise.shape[:-2], 1, noise.shape[-1]))
        row = np.take_along_axis(noise, index, axis=-2)
        return np.take_along_axis(row, index[..., :1], axis=-1)[..., 0, 0]

    def _tail_diagonal(self, value: np.ndarray) -> np.ndarray:
        diagonal = np.where(self.kept, 0.0, value[..., None])
        return diagonal[..., :, None] * np.eye(self.lams.shape[-1])

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
        lam, first = self.lams, self.divided
        with np.errstate(all="ignore"):
            table = self._read(lam[:, None, None], lam[None, :, None], lam[None, None, :])
            smooth = np.broadcast_to(np.asarray(table.second, dtype=float), (len(lam),) * 3)
            if not self.truncated:
                return smooth
            # f[i,k,j] is symmetric: difference across a pair of which one is kept and one is not.
            ends = (first[:, :, None] - first[None, :, :]) / (lam[:, None, None] - lam[None, None, :])
            left = (first[:, None, :] - first[None, :, :]) / (lam[:, None, None] - lam[None, :, None])
        i, k, j = self.kept[:, None, None], self.kept[None, :, None], self.kept[None, None, :]
        mixed = np.where(i != j, ends, left)
        return np.where(i & k & j, smooth, np.where(i | k | j, mixed, 0.0))

    def _tail_second(self, noise: np.ndarray) -> np.ndarray:
        """Second order of ``(phi_t(lam_{r+1}(H+E)) - phi_t) * (projector on the tail of H+E)``."""
        if not hasattr(self, "_projector"):
            self._projector = self._first(np.where(self.kept, 0.0, 1.0), 0.0)
        entry = self._next_entry(noise)
        row = noise[..., self.next, :]
        gap = self.lams[self.next] - self.lams
        gap[self.next] = np.inf
        second = self.tail_slope * np.sum(row**2 / gap, axis=-1) + self.tail_bend * entry**2
        turned = (self.tail_slope * entry)[..., None, None] * (self._projector * noise)
        return turned + self._tail_diagonal(second)


def singular_directions(method: Gains, lams: np.ndarray) -> int:
    """How many eigenvalues (d,) lie on a pole of the gain, up to rounding of the spectrum."""
    lams = np.asarray(lams, dtype=float)
    nudge = 8 * np.finfo(float).eps * len(lams) * max(float(np.max(np.abs(lams), initial=0.0)), 1e-290)

    lams = np.where(np.abs(lams) <= nudge, 0.0, lams)  # a pole at 0 that keeps its sign, such as |lam|^-p, is found by hitting it
    with np.errstate(all="ignore"):
        here, right, left, far = (np.asarray(method.gain(x) + 0 * x, dtype=float) for x in (lams, lams + nudge, lams - nudge, lams + 4 * nudge))
    # A pole changes the gain's sign and is steep; a zero changes it too, but the gain grows away from it.
    return int(np.count_nonzero(~np.isfinite(here) | ((np.sign(right) != np.sign(left)) & (np.abs(right) > np.abs(far)))))


def check_regular(method: Gains, lams: np.ndarray) -> None:
    """Raise where ``P(H)`` does not exist, naming the directions and a method that does."""
    count = singular_directions(method, lams)
    if count:
        raise ValueError(f"The curvature is singular for {method.name} along {count} of {len(lams)} directions: its gain is infinite there; {method.remedy()}.")


def check_cut(method: Gains, lams: np.ndarray) -> None:
    """Raise where a truncation cuts through eigenvalues (d,) of equal size, up to rounding: ``P`` is not differentiable there."""
    if method.rank is None or method.rank >= len(lams):
        return
    size = np.sort(np.abs(lams))[::-1]
    kept, dropped = size[method.rank - 1], size[method.rank]
    if kept - dropped <= 8 * np.finfo(float).eps * len(lams) * size[0]:
        raise ValueError(
            f"rank {method.rank} cuts through eigenvalues of equal size ({kept:.4g}): P(H + Eh) is not differentiable there "
            "and the linearised Hessian noise does not exist. Choose another rank, or hessian_batch=inf."
        )
