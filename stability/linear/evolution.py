"""Means and second moments of a linearised flow in one time: where they settle, and the way there."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _check
from .limits import Limits
from .memory import Course, pairs_of, whole
from .moments import Balance, Map, embedded, evolve


class Evolution:
    """Moments in one time: of the SDE, of a chain, or of the iteration.

    Parameters
    ----------
    limits : Limits
        Of the dynamics in this time.
    dt : float
        Time step of the chain; 0 in continuous time.
    """

    def __init__(self, limits: Limits, dt: float):
        self.limits, self.dt, self.dynamics = limits, dt, limits.dynamics

    def covariance(self, order: int, average: float | None = None, *, state: bool = False) -> np.ndarray:
        """Stationary (d, d), of an average of iterates or of whole states (2d, 2d)."""
        here = self.dynamics
        balance, M = self._stationary(order)
        if state or average is not None:
            M = self._parts(balance, M, average)
        # What does not move is where it is, and has no variance.
        return here.frame.outward(embedded(M, np.tile(here.moving, 2 if state else 1)))

    def _stationary(self, order: int) -> tuple[Balance, np.ndarray]:
        """The balance of moving modes, and `covariance` among them."""
        here = self.dynamics
        balance, moving = here.balance(self.dt, order), here.moving
        if not moving.all():
            balance = balance.restricted(moving)
        if not moving.any():
            return balance, np.zeros((0, 0))
        self.limits.require(balance, self.dt, order, "A stationary covariance", moving)
        return balance, balance.stationary()

    def _parts(self, balance: Balance, M: np.ndarray, average: float | None) -> np.ndarray:
        """Of moving modes: the second moment of their whole states, or of an average, from the positions'."""
        here = self.dynamics
        pairs = M[..., None, None]
        if here.memory is not None:
            noise = balance.source if balance.kick is None else balance.source + balance.kick(M)
            pairs = pairs_of(here.motion(here.flow.step, self.dt), here.pull[here.moving], noise)
        if average is None:
            return whole(pairs)
        return self._course(here.moving).mean_of(pairs, average, here.flow.step)

    def _course(self, modes: Any = slice(None)) -> Course:
        """What some of the modes do with all that they remember."""
        here, step = self.dynamics, self.dynamics.flow.step
        if here.memory is None:
            return Course.alone(-here.rates[modes], step, self.dt)
        return Course.of(here.motion(step, self.dt), here.pull[modes])

    def excess_risk(self, order: int, average: float | None) -> float:
        """Stationary, of the iterates or of their average."""
        here = self.dynamics
        moving, apart, method = here.moving, here.offset, here.flow.method
        balance, M = self._stationary(order)
        if average is not None:
            M = self._parts(balance, M, average)
        risk = float(0.5 * here.frame.eigenvalues[moving] @ np.diag(M))
        if apart.any():
            risk += 0.5 * float(here.frame.eigenvalues @ apart**2)
        if method.decoupled or not method.weight_decay:
            return risk
        # Inside the gradient weight decay is curvature to the modes, and none to the objective.
        spread = float(np.trace(here.frame.outward(embedded(M, moving))))
        return risk - 0.5 * method.weight_decay * (spread + float(np.sum((here.center - here.at) ** 2)))

    def moments(
        self, t: float, mean0: np.ndarray, cov0: np.ndarray, order: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mean (d,) and covariance (d, d) after time `t`."""
        here = self.dynamics
        offset = here.frame.inverse @ (mean0 - here.center)
        start = here.frame.inward(cov0) + np.outer(offset, offset)
        push = here.noise.push if order == 2 else np.zeros_like(offset)
        # The noise is per iteration here, and a rate per unit of t is `step` times that.
        coupled = self._coupling(push, here.flow.step)
        mean, M = evolve(here.balance(self.dt, order), coupled, t, self.dt, offset, start, push)
        # About the centre moments close; the mean that they hold is taken off in the end.
        return here.center + here.frame.vectors @ mean, here.frame.outward(M - np.outer(mean, mean))

    def _require_start(self, name: str, given: np.ndarray, axes: int, most: int) -> None:
        """Raise where what is given is neither of positions nor of whole states."""
        known = [(size,) * axes for size in dict.fromkeys((self.dynamics.flow.dim, most))]
        if given.shape not in known:
            whole = ", with the buffer" if len(known) > 1 else ""
            raise ValueError(
                f"`{name}` must have shape {' or '.join(map(str, known))}{whole}; got shape {given.shape}."
            )

    def state_moments(
        self, t: float, mean0: Any, cov0: Any, average: float | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """`moments` of whole states, with the average last; a start of positions has an empty buffer."""
        here = self.dynamics
        dim, course = here.flow.dim, self._course()
        most = dim * len(course.kick)
        rest, mean = (np.pad(place, (0, most - dim)) for place in (here.center, here.at))
        # At the centre what the buffer moves undoes what weight decay takes.
        rest[dim:] = -here.decoupled * here.center[: most - dim]
        cov = np.zeros((most,) * 2)
        if mean0 is not None:
            given = _check.array("mean0", mean0)
            self._require_start("mean0", given, 1, most)
            mean[: len(given)] = given
        if cov0 is not None:
            given = _check.array("cov0", cov0)
            self._require_start("cov0", given, 2, most)
            cov[: len(given), : len(given)] = _check.covariance("cov0", cov0)
        if average is not None:  # begins as a copy of the positions
            course, with_copy = course.averaged(average, here.flow.step), np.r_[:most, :dim]
            rest, mean, cov = rest[with_copy], mean[with_copy], cov[np.ix_(with_copy, with_copy)]
        coupled = self._coupling(np.zeros(dim), 1.0)
        offset = ((mean - rest).reshape(-1, dim) @ here.frame.inverse.T).ravel()
        start = here.frame.inward(cov) + np.outer(offset, offset)
        if here.noise.kick is None:
            offset, M = course.evolved(here.source, t, offset, start)
        else:
            balance = course.balance(here.noise.kick, here.source)
            lifted = None if coupled is None else course.lifted(coupled)
            offset, M = evolve(balance, lifted, t, self.dt, offset, start, np.zeros_like(offset))
        with np.errstate(all="ignore"):  # what grows may have overflown
            mean = rest + (offset.reshape(-1, dim) @ here.frame.vectors.T).ravel()
            return mean, here.frame.outward(M - np.outer(offset, offset))

    def _coupling(self, push: np.ndarray, step: float) -> Map | None:
        """What a mean m adds to the second moment's source.

        Correlated data noise, at order 2 the push of nested batches, and with weight decay the curvature
        noise between the centre and the critical point.
        """
        here = self.dynamics
        cross, kick, apart = here.noise.cross, here.noise.kick, here.offset
        moved = kick is not None and apart.any()
        if cross is None and not moved:
            return None

        def coupled(m: np.ndarray) -> np.ndarray:
            found = np.zeros((len(m),) * 2) if cross is None else step * cross(m)
            if kick is not None and moved:
                found = found + step * kick(np.outer(apart, m) + np.outer(m, apart))
            return found - np.outer(push, m) - np.outer(m, push)

        return coupled
