"""Where a path meets places that are not smooth.

Jumps of the drift, poles and kinks of the gain, truncations that change their directions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .. import _check
from ..flow import Flow
from ..linear.trust import VALID
from ..methods.method import Method
from ..methods.response import SpectralResponse
from ..objectives.base import defines
from .equations import Place, positions

JUMP = 1e-6
"""Of the drift itself: a smaller jump is rounding."""
MAX_NOTES = 8
NOT_SMOOTH = "beyond, the drift or its Jacobian is not finite or not smooth"

Eigenpairs = tuple[np.ndarray, np.ndarray]  # eigenvalues (d,), vectors (d, d)


class Here(NamedTuple):
    """What is known at a place."""

    drift: np.ndarray
    jacobian: np.ndarray
    spectrum: Eigenpairs | None  # None where the preconditioner does not move


class Watch:
    """Goes along a path, place by place, and says what lies between: notes, doubts, and reasons to stop."""

    def __init__(self, flow: Flow, begin: Place, *, continuous: bool):
        self.flow, self.begin, self.continuous = flow, begin, continuous
        self.stopped, self.doubt = "", ""
        self.notes: list[str] = []
        self.across: np.ndarray | None = None  # how deviations are carried across the jump just met
        self.seen: list[tuple[float, float, float]] = []  # every step's time, validity and rate
        self.here = self._at(begin[1])
        # At a critical point the drift is rounding, against which everything would look like a jump.
        self.fastest = max(float(np.linalg.norm(self.here.drift)), 1e-10 * self._steepness(begin[1]))
        bends = flow.metric is None and not flow.method.is_identity
        self.kinked = bends and flow.method.rank is None and _kinked(flow)
        self.usual = math.inf  # a metric has no poles
        if flow.metric is None:
            lams = np.linalg.eigvalsh(
                np.asarray(flow.objective.hessian(positions(flow, begin[1])), dtype=float)
            )
            self.usual = float(np.median(np.abs(SpectralResponse(flow.method, lams).gains)))
        self._look(begin)

    def follow(self, flow: Flow, w: np.ndarray) -> None:
        """Go on from a state under a flow of another step, which moves what is remembered otherwise."""
        if flow is self.flow:
            return
        self.flow = flow
        if flow.remembered:
            self.here = self._at(w)

    def stop(self, t: float, why: str) -> None:
        self.stopped = f"stopped at t = {t:.6g}: {why}"

    def _note(self, text: str, *, doubt: str = "") -> None:
        self.doubt = self.doubt or doubt
        if len(self.notes) < MAX_NOTES and text not in self.notes:
            self.notes.append(text)

    def _at(self, w: np.ndarray) -> Here:
        still = self.flow.method.is_identity or self.flow.constant_hessian or self.flow.metric is not None
        x = positions(self.flow, w)
        spectrum = None if still else np.linalg.eigh(_check.array("hessian", self.flow.objective.hessian(x)))
        return Here(self.flow.drift(w), self.flow.jacobian(w), spectrum)

    def _steepness(self, w: np.ndarray) -> float:
        return float(np.linalg.norm(self.here.jacobian)) * float(np.linalg.norm(w))

    def passes(self, last: Place, place: Place) -> bool:
        """Look at what lies between two places; False where the path may not go on."""
        behind = self.here
        if outside(self.flow, place[1]).any():
            self.stop(last[0], "the mean path leaves the domain of the objective")
            return False
        try:
            self.here = self._at(place[1])
        except ValueError:  # the gain is singular exactly here, or the curvature is not finite
            self.stop(last[0], self.obstacle(last[1]))
            return False
        if not (np.isfinite(self.here.jacobian).all() and np.isfinite(self.here.drift).all()):
            self.stop(last[0], self.obstacle(last[1]))
        else:
            self._look(place)
            self._gain(last, place, behind)
            self._jump(last, place, behind)
        return not self.stopped

    def _look(self, place: Place) -> None:
        J = self.here.jacobian
        self.seen.append((place[0], nonlinearity(self.flow, *place[1:], J), float(np.linalg.norm(J, 2))))

    def _gain(self, last: Place, place: Place, behind: Here) -> None:
        """Poles and kinks of the gain that an eigenvalue has passed."""
        if behind.spectrum is None or self.here.spectrum is None:
            return
        t, ahead, before, after = last[0], place[0], behind.spectrum[0], self.here.spectrum[0]
        if (pole := _pole(self.flow.method, before, after)) is not None:
            if self.continuous:
                whose = f"{self.flow.method.label}'s gain, at the eigenvalue {pole:.3g}"
                return self.stop(t, f"the path meets a pole of {whose}: the drift has no value there")
            met = f"mean path steps over a pole of the gain at t = {ahead:.4g}"
            self._note(f"The {met}: deviations do not follow the Jacobian there.", doubt=f"the {met}")
        for i in np.flatnonzero((np.sign(before) != np.sign(after)) & self.kinked):
            off = self._straddled(last, place, behind, int(i))
            text = (
                f"at t = {ahead:.4g} the tube straddles a kink of the gain: S may be off by {off:.2g} of "
                "itself from there"
            )
            told = (
                f"At t = {ahead:.4g} an eigenvalue changes its sign, where the gain has a kink: J jumps, "
                "drift and covariance do not."
            )
            self._note(told, doubt=text if off > VALID else "")

    def _straddled(self, last: Place, place: Place, behind: Here, i: int) -> float:
        """How far the covariance may be off, relative to itself, as paths meet a kink not when the mean does.

        ``2 |J+ - J-|`` times by how much earlier or later: in continuous time one standard deviation over the
        speed; of a chain one step, for the share of the paths that are on the other side.
        """
        assert behind.spectrum is not None
        assert self.here.spectrum is not None
        jump, times = float(np.linalg.norm(self.here.jacobian - behind.jacobian, 2)), []
        sides = ((last, behind.drift, behind.spectrum), (place, self.here.drift, self.here.spectrum))
        for (_, w, S), drift, (lams, vectors) in sides:
            u = vectors[:, i]
            # The eigenvalue's gradient: by it the tube and the drift are read along the eigenvalue.
            x, dim = positions(self.flow, w), self.flow.dim
            slope = np.array([u @ self.flow.objective.third(x, e) @ u for e in np.eye(dim)])
            S, drift = S[:dim, :dim], drift[:dim]
            spread, speed = math.sqrt(max(float(slope @ S @ slope), 0.0)), abs(float(slope @ drift))
            if self.continuous:
                times.append(spread / speed if speed > 0 else math.inf)
            else:
                beyond = 0.5 * math.erfc(abs(float(lams[i])) / max(spread, 1e-300) / math.sqrt(2))
                times.append((place[0] - last[0]) * beyond)
        return 2 * jump * (min(times) if self.continuous else sum(times))

    def _jump(self, last: Place, place: Place, behind: Here) -> None:
        """A jump of the drift between two places; in continuous time, how deviations are carried across."""
        if self.stopped:
            return
        t, move, change = f"t = {place[0]:.4g}", place[1] - last[1], self.here.drift - behind.drift
        # The trapezoidal rule for the drift along the move:
        # what it misses of a smooth drift is of third order.
        missed = change - 0.5 * (behind.jacobian + self.here.jacobian) @ move
        self.fastest = max(self.fastest, float(np.linalg.norm(self.here.drift)))
        # Bisection is dear: only where the drift changes as its Jacobians do not say.
        strange = np.linalg.norm(missed) > 1e-3 * np.linalg.norm(change)
        sides = self.edge(last[1], place[1]) if strange else None
        swapped = self._swapped(behind.spectrum, self.here.spectrum)
        if sides is None:
            if swapped:
                self._note(f"At {t} the truncation keeps other directions; the drift does not jump.")
            return
        first, then = (self.flow.drift(w) for w in sides)
        size = f"{np.linalg.norm(then - first) / max(float(np.linalg.norm(first)), 1e-300):.2g} of itself"
        why = f"At {t} the truncation keeps other directions: the drift" if swapped else f"At {t} the drift"
        normal = self._normal(*sides, place[1], swapped=swapped) if self.continuous else None
        if normal is None:
            whose = "the mean path's" if self.continuous else "the chain's"
            return self._note(
                f"{why} jumps by {size}, which {whose} Jacobian does not see.",
                doubt=f"the drift jumps by {size} at {t}",
            )
        if not normal @ first > 0 < normal @ then:
            why = "the drift jumps here and points back on both sides: no path goes on, one slides along"
            return self.stop(last[0], why)
        # The saltation matrix: it turns a deviation along the
        # drift before into the same one along the drift after.
        self.across = np.eye(len(move)) + np.outer(then - first, normal) / (normal @ first)
        self._note(f"{why} jumps by {size}, and the covariance was carried across.")

    def edge(self, w: np.ndarray, ahead: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """The last state before a jump of the drift and the first behind it; None where it does not jump."""
        first, then = self.flow.drift(w), self.flow.drift(ahead)
        rounding = min(1e-12 * self._steepness(w), 1e-3 * self.fastest) + 1e-9 * self.fastest
        for _ in range(100):
            if not np.linalg.norm(then - first) > max(rounding, JUMP * float(np.linalg.norm(first))):
                return None
            middle = 0.5 * (w + ahead)
            if (middle == w).all() or (middle == ahead).all():
                break
            try:
                drift = self.flow.drift(middle)
            except ValueError:  # a pole
                return None
            # Always into the half in which the drift changes more:
            # of a jump all is left in the end, of a slope nothing.
            if np.linalg.norm(drift - first) > np.linalg.norm(then - drift):
                ahead, then = middle, drift
            else:
                w, first = middle, drift
        beside = 64 * (ahead - w)  # on the very place a derivative may have the mean of its two sides
        return w - beside, ahead + beside

    def _normal(
        self, w: np.ndarray, ahead: np.ndarray, place: np.ndarray, *, swapped: bool
    ) -> np.ndarray | None:
        """Normal to the place of a jump, in the path's direction; None where the cause is not known.

        A gradient that jumps does so along the normal, for the objective is continuous; a Hessian's jump is
        ``a n n^T`` where the gradient is. A swap's normal is read at `place`, further on: where two
        eigenvalues are all but equal, rounding mixes their vectors.
        """
        objective = self.flow.objective
        gradients, hessians = (
            [np.asarray(part(positions(self.flow, x)), dtype=float) for x in (w, ahead, place)]
            for part in (objective.gradient, objective.hessian)
        )
        if _differ(*gradients):
            normal = gradients[1] - gradients[0]
        elif _differ(*hessians):
            values, vectors = np.linalg.eigh(hessians[1] - hessians[0])
            normal = vectors[:, np.argmax(np.abs(values))]
        elif swapped and self.here.spectrum is not None:
            normal = _swap_normal(self.flow, positions(self.flow, place), self.here.spectrum)
        else:
            return None
        normal = np.pad(normal, (0, len(w) - len(normal)))  # where it jumps does not hang on the buffer
        return normal if normal @ self.flow.drift(w) > 0 else -normal

    def _swapped(self, before: Eigenpairs | None, after: Eigenpairs | None) -> bool:
        """Whether a truncation keeps other directions: some kept one turned by more than 60 degrees."""
        rank = self.flow.method.rank or self.flow.dim
        if before is None or after is None or rank == self.flow.dim:
            return False
        # The smallest singular value is the cosine of the largest angle between the two spaces.
        return bool(np.linalg.svd(_space(before, rank).T @ _space(after, rank), compute_uv=False)[-1] < 0.5)

    def why(self, last: np.ndarray, m: np.ndarray, far: float) -> str:
        """Why a walk cannot go on from its last good state to a state `m` that is not."""
        if np.isnan(m).any() or not np.isfinite(self.flow.jacobian(last)).all():
            return self.obstacle(last)
        return "the covariance overflowed" if np.linalg.norm(m) <= far else "the mean path diverged"

    def obstacle(self, w: np.ndarray) -> str:
        """What keeps a path from going on beyond a state, as its spectrum tells."""
        method, x = self.flow.method, positions(self.flow, w)
        if self.flow.metric is not None:
            return NOT_SMOOTH
        lams = np.linalg.eigvalsh(self.flow.objective.hessian(x))
        gains = np.asarray(SpectralResponse(method, lams).gains)
        steep = int(np.argmax(np.abs(gains)))
        if not abs(gains[steep]) < 1e4 * self.usual:
            return (
                f"the gain of {method.label} has a pole here (eigenvalue {lams[steep]:.3g}, gain "
                f"{gains[steep]:.3g})"
            )
        size, rank = np.sort(np.abs(lams))[::-1], method.rank or self.flow.dim
        if rank < self.flow.dim and size[rank - 1] - size[rank] < 1e-6 * size[0]:
            return f"rank {rank} cuts through eigenvalues of equal size here, and the drift is not smooth"
        return NOT_SMOOTH


def outside(flow: Flow, w: np.ndarray) -> np.ndarray:
    """Whether states (..., d) lie outside the objective's domain, though a derivative may have a value."""
    if not defines(flow.objective, "value"):  # an objective need not have one
        return np.zeros(w.shape[:-1], dtype=bool)
    return np.isnan(flow.objective.value(positions(flow, w)))


def nonlinearity(flow: Flow, m: np.ndarray, S: np.ndarray, J: np.ndarray) -> float:
    """What the linearised drift misses one standard deviation away, over its change there: 2 at most."""
    values, vectors = np.linalg.eigh(S)
    offsets = (vectors * np.sqrt(np.maximum(values, 0.0))).T
    offsets = np.concatenate([offsets, -offsets])
    change, linear = flow.drift(m + offsets) - flow.drift(m), offsets @ J.T
    scale = max(float(np.linalg.norm(change)), float(np.linalg.norm(linear)))
    if not math.isfinite(scale) or outside(flow, m + offsets).any():
        return 2.0  # a pole, or the end of the domain, lies within the tube
    rounding = 1e-12 * float(np.linalg.norm(J)) * float(np.linalg.norm(m))
    return float(np.linalg.norm(change - linear)) / scale if scale > rounding else 0.0


def _differ(before: np.ndarray, after: np.ndarray, further: np.ndarray) -> bool:
    """Whether a derivative jumps between two states."""
    # Both may be zero but for rounding, hence its size further on.
    size = max(float(np.linalg.norm(part)) for part in (before, after, further))
    return float(np.linalg.norm(after - before)) > JUMP * size


def _space(spectrum: Eigenpairs, rank: int) -> np.ndarray:
    """The directions (d, rank) that a truncation keeps."""
    lams, vectors = spectrum
    return vectors[:, np.argsort(-np.abs(lams), kind="stable")[:rank]]


def _kinked(flow: Flow) -> bool:
    """Whether the gain has a kink at 0: the slopes' difference between the two sides stays, however near."""

    def gap(h: float) -> float:
        right, left = np.diag(SpectralResponse(flow.method, np.array([h, -h])).divided)
        return abs(float(right - left))

    with np.errstate(all="ignore"):
        far, near = gap(1e-100), gap(1e-102)  # nearer than any damping
    return bool(0 < far < math.inf and 0.5 < near / far < 2)


def _pole(method: Method, before: np.ndarray, after: np.ndarray) -> float | None:
    """An eigenvalue at which the gain has a pole, passed between two spectra and read at both."""
    spectra = [SpectralResponse(method, lams) for lams in (before, after)]
    if spectra[0].truncated:
        read: list[tuple[Callable[[Any], Any], int]] = [
            (method.gain, int(i)) for i in np.flatnonzero(spectra[0].kept & spectra[1].kept)
        ]
        read += [(method.tail_gain, int(spectra[0].next))] if spectra[0].next == spectra[1].next else []
    else:
        read = [(method.gain, i) for i in range(len(before))]
    poles = (_pole_between(formula, before[i], after[i]) for formula, i in read)
    return next((pole for pole in poles if pole is not None), None)


def _pole_between(formula: Callable[[np.ndarray], np.ndarray], start: float, stop: float) -> float | None:
    """Where a gain has a pole: infinite at a passed zero, or of another sign behind and larger between."""
    between = np.linspace(start, stop, 35)
    with np.errstate(all="ignore"):
        gains, at_zero = (np.asarray(formula(lam) + 0 * lam) for lam in (between, np.zeros(1)))
    if start * stop < 0 and np.isinf(at_zero).any():
        return 0.0
    inside, ends = np.abs(gains[1:-1]), np.abs(gains[[0, -1]])
    if np.sign(gains[0]) == np.sign(gains[-1]) or inside.max() < 2 * ends.max():
        return None
    return float(between[1:-1][np.nanargmax(inside)])


def _swap_normal(flow: Flow, w: np.ndarray, spectrum: Eigenpairs) -> np.ndarray:
    """Gradient of ``|lam_new| - |lam_old|``, normal to where a truncation swaps these two directions."""
    lams, vectors = spectrum
    rank, order = int(flow.method.rank or 0), np.argsort(-np.abs(lams), kind="stable")
    third = [flow.objective.third(w, e) for e in np.eye(flow.dim)]
    new, old = (
        np.array([np.sign(lams[i]) * vectors[:, i] @ T @ vectors[:, i] for T in third])
        for i in order[rank - 1 : rank + 1]
    )
    return new - old
