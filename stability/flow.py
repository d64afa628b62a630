"""A flow: objective + method + noise + step, as an SDE and as the stochastic iteration it stands for."""

from __future__ import annotations

import copy
import functools
import math
import operator
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from . import _check
from ._array import Backend, joined, like, matvec, moved, transpose
from ._saving import Kept
from .methods.memory import Memory
from .methods.method import Method
from .methods.preconditioner import Diagonal, Identity, Spectral, preconditioner, spectral
from .methods.response import check_regular
from .noise import Minibatches, Noise, Sample
from .objectives.base import bend, require, trait
from .objectives.gate import bare
from .objectives.quadratic import QuadraticModel


class Flow(Kept):
    """A stochastic optimizer on an objective.

    In continuous time (``t = iteration * step``) it is the Ito equation ``dW = -P(H) g dt + sqrt(step) [P
    zeta + P Eg (W - w*) + DP[Eh] g]``, linear in the noise; the stochastic iteration behind it is ``w+ = w -
    step * P(H + Eh) (g + zeta + Eg (w - w*))`` or, for noise estimated from data, one minibatch step.

    Parameters
    ----------
    objective : Objective
    method : Method
    noise : Noise, optional
        The law of the samples, kept as `noise_model`; None for the deterministic flow. `Flow.noise` is the
        linear map that carries a sample to the state.
    step : float
        The learning rate ``alpha`` > 0.

    Raises
    ------
    ValueError
        If `step` is not > 0, the objective has no gradient or Hessian, the rank exceeds its dimension, or
        curvature noise has no reference point.

    Examples
    --------
    >>> import stability as st
    >>> flow = st.Flow(st.quadratic([1.0, 0.1]), st.Newton(), st.Noise(gradient=0.1), step=0.5)
    >>> flow.drift([1.0, 1.0])
    array([-1., -1.])
    """

    def __init__(self, objective: Any, method: Method, noise: Noise | None = None, *, step: float):
        objective = require(objective, "st.Flow", "dim", "gradient", "hessian")
        if not isinstance(method, Method):
            known = (
                "st.SGD(), st.Newton(), st.DampedNewton(damping=...), st.SFN(damping=...), "
                "st.LRSFN(rank=..., damping=...), st.Method(gain=...), st.Momentum(...)"
            )
            raise ValueError(f"`method` must be one of {known}; got {method!r}.")
        if method.rank is not None and method.rank > objective.dim:
            raise ValueError(
                f"`rank` must be <= the objective's dimension {objective.dim}; got {method.rank}."
            )
        self.objective, self.method = objective, method
        self.noise_model = Noise() if noise is None else noise
        self.step = _check.positive("step", step)
        self.dim = int(objective.dim)
        self._check_noise()
        self.noise_model = self.noise_model.of(bare(objective))

    @property
    def variables(self) -> tuple[str, ...]:
        """What the formula calls the state's coordinates; empty where there is no formula."""
        return getattr(self.objective, "variables", ())

    def _check_noise(self) -> None:
        noise = self.noise_model
        if not isinstance(noise, Noise):
            raise ValueError(
                "`noise` must be made by st.Noise(...) or st.Noise.from_data(...), or be a subclass; got "
                f"{noise!r}."
            )
        if noise.objective is None and noise.gradient.ndim and len(noise.gradient) != self.dim:
            raise ValueError(
                f"`gradient` noise was given for {_check.counted(len(noise.gradient), 'dimension')}; "
                f"the objective has {self.dim}."
            )
        if noise.objective is not None and noise.objective is not bare(self.objective):
            raise ValueError(
                "The noise was estimated from another objective; call Noise.from_data on this flow's "
                "objective."
            )
        if noise.has_curvature and self.reference is None:
            raise ValueError(
                f"Curvature noise needs a reference point, and {self.objective!r} has none. Use Noise(..., "
                "reference=...)."
            )
        if self.reference is not None and len(self.reference) != self.dim:
            raise ValueError(
                f"The noise's `reference` has {len(self.reference)} entries; the objective has {self.dim} "
                "dimensions."
            )

    @property
    def memory(self) -> Memory | None:
        """The law of the momentum buffer; None where a step remembers nothing."""
        return self.method.memory

    @property
    def state_dim(self) -> int:
        """How many numbers a whole state has: d positions, and with momentum a buffer of as many."""
        return self.dim * (1 if self.memory is None else 2)

    def without_memory(self) -> Flow:
        """The same flow without its momentum."""
        if self.memory is None:
            return self
        return Flow(self.objective, self.method.method, self.noise_model, step=self.step)  # type: ignore[attr-defined]

    def rest(self, w: Any) -> np.ndarray:
        """Whole states (..., state_dim) at rest at positions (..., d): with momentum, a buffer of zeros."""
        w = _check.state("w", w, self.dim)
        return w if self.memory is None else np.concatenate([w, np.zeros_like(w)], axis=-1)

    def _parted(self, w: Any) -> tuple[np.ndarray, np.ndarray]:
        """Positions and buffer (..., d) of a user's whole states; no buffer without momentum."""
        w = _check.floats("w", w)
        if self.memory is not None and w.shape[-1:] != (self.state_dim,):
            raise ValueError(
                f"`w` must have shape (..., {self.state_dim}), positions and momentum buffer; got shape "
                f"{w.shape}. Use flow.rest(w), which adds a buffer of zeros."
            )
        return w[..., : self.dim], w[..., self.dim :]

    def gained(self, increment: Any, buffer: Any, dt: float) -> Any:
        """What positions and buffer (..., 2 d) gain, where positions alone would gain `increment` (..., d).

        In a step of length `dt`; per unit of time where that is 0.
        """
        assert self.memory is not None
        motion = self.memory.motion(self.step, dt)
        (straight, driven), reach = motion.force.tolist(), float(motion.free[0, 1])
        force = increment * (-1 / dt if dt else -1.0)
        return joined(straight * force + reach * buffer, driven * force - motion.decay * buffer)

    @functools.cached_property
    def reference(self) -> np.ndarray | None:
        """The noise's reference point ``w*`` (d,): its own, or else the objective's."""
        own = self.noise_model.reference
        return trait(self.objective, "reference") if own is None else own

    @property
    def constant_hessian(self) -> bool:
        """Whether the objective is a quadratic: its spectrum is then computed once."""
        return bool(trait(self.objective, "constant_hessian"))

    def local(self, w: Any, *, bends: bool = True) -> Any:
        """The preconditioner at states (..., d), in the cheapest form that has what is asked for.

        Its derivative is asked for with `bends`.
        """
        if self.method.is_identity:
            return Identity()
        if self.constant_hessian:
            return self._constant
        if not bends and trait(self.objective, "diagonal_hessian"):
            return Diagonal(self.method, self.objective.hessian_diagonal(w))
        return self._applied(self.objective.hessian(w), bends=bends)

    def _checked(self, w: np.ndarray) -> Any:
        """As `local`, with the error that a single state (d,) deserves where the gain is singular."""
        local = self.local(w)
        if local.response is not None and local.response.lams.ndim == 1:
            check_regular(self.method, local.response.lams)
        return local

    @functools.cached_property
    def _constant(self) -> Spectral:
        origin = np.zeros(self.dim) if self._backend is None else self._backend.asarray(np.zeros(self.dim))
        return spectral(self.method, self.objective.hessian(origin))

    def _applied(self, hessian: Any, *, bends: bool) -> Any:
        one = hessian.ndim == 2
        return (
            spectral(self.method, hessian)
            if bends or one
            else preconditioner(self.method, hessian, compiled=self._compiled)
        )

    _compiled = False
    _backend: Backend | None = None

    def on(self, backend: Backend, *, compiled: bool = False) -> Flow:
        """A copy whose objective's arrays live on `backend`, and which may use compiled code."""
        host = backend.xp is np and backend.dtype == "float64"
        other = self._with(self.objective if host else moved(self.objective, backend))
        other._backend, other._compiled = backend, compiled and host
        return other

    def tangent(self, at: np.ndarray) -> Flow:
        """What `linearize` describes, as paths: this flow on the quadratic model at a critical point (d,)."""
        return self._with(QuadraticModel(np.asarray(self.objective.hessian(at), dtype=float), at))

    def _with(self, objective: Any) -> Flow:
        other = copy.copy(self)
        other.__dict__.pop("_constant", None)
        other.objective, other.reference = (
            objective,
            self.reference,
        )  # a host array: `like` puts it beside the states
        return other

    def _kept(self) -> dict[str, Any]:
        # Noise estimated from data brings the objective along: both must be one and the same.
        own = None if self.noise_model.objective is not None else bare(self.objective)
        return {"objective": own, "method": self.method, "noise": self.noise_model, "step": self.step}

    @classmethod
    def _restored(cls, **values: Any) -> Flow:
        noise, objective = values.pop("noise"), values.pop("objective")
        return cls(noise.objective if objective is None else objective, noise=noise, **values)

    def drift(self, w: Any) -> np.ndarray:
        """``-P(H(w)) g(w)``, (..., d) -> (..., d).

        With momentum that of whole states (..., 2 d), positions and buffer: ``-u`` of the positions,
        ``(P g - (1 - beta) u) / step`` of the buffer; see `rest`.
        """
        w, buffer = self._parted(w)
        push = -self._checked(w).apply(self.objective.gradient(w))
        return push if self.memory is None else self.gained(push, buffer, 0.0)

    def jacobian(self, w: Any) -> np.ndarray:
        """Jacobian of the drift, ``v -> -P H v - DP[third(w, v)] g``: (..., d) -> (..., d, d).

        With momentum that of whole states: (..., 2 d) -> (..., 2 d, 2 d).

        Raises
        ------
        ValueError
            If ``P`` moves with the state and the objective has no `third`; where the gain is singular.
        """
        w, _ = self._parted(w)
        found = self._jacobian(w)
        if self.memory is None:
            return found
        # Its columns are what the drift gains where one number of the state does.
        rows, one = np.swapaxes(found, -1, -2), np.broadcast_to(np.eye(self.dim), found.shape)
        gained = [self.gained(rows, 0 * rows, 0.0), self.gained(0 * rows, one, 0.0)]
        return np.swapaxes(np.concatenate(gained, axis=-2), -1, -2)

    def _jacobian(self, w: np.ndarray) -> np.ndarray:
        hessian = np.asarray(self.objective.hessian(w), dtype=float)
        if self.method.is_identity:
            return -hessian
        local = self._checked(w)
        assert local.vectors is not None
        assert local.response is not None
        preconditioner = (local.vectors * local.response.gains[..., None, :]) @ transpose(local.vectors)
        if self.constant_hessian:  # P does not move, even where a truncation has no derivative
            return -preconditioner @ hessian
        require(
            self.objective,
            "the Jacobian of the drift (st.trajectory, Flow.jacobian)",
            "third",
            advice=", or use st.SGD, whose preconditioner does not move",
        )
        gradient = np.asarray(self.objective.gradient(w), dtype=float)
        columns = [
            local.derivative(self.objective.third(w, np.broadcast_to(e, w.shape)), gradient)
            for e in np.eye(self.dim)
        ]
        return -preconditioner @ hessian - np.stack(columns, axis=-1)

    def noise(self, w: Any, sample: Sample) -> np.ndarray:
        """The linear noise map ``P zeta + P Eg (w - w*) + DP[Eh] g``, with one noise sample per state.

        States (..., d) -> (..., d), with momentum whole states (..., 2 d) -> (..., 2 d); the law of the
        samples is `noise_model`.
        """
        w, _ = self._parted(w)
        zeta, Eg, Eh = (np.asarray(part, dtype=float) for part in sample)
        if self.reference is None and Eg.any():
            raise ValueError(
                f"Curvature noise needs a reference point, and {self.objective!r} has none. Use Noise(..., "
                "reference=...)."
            )
        offset = w - (w if self.reference is None else self.reference)
        local = self._checked(w)
        force = local.apply(zeta + (Eg @ offset[..., None])[..., 0])
        if (
            not Eh.any()
        ):  # DP may be infinite, at a truncation through equal eigenvalues, where nothing asks for it
            return self._noisy(force)
        return self._noisy(force + local.derivative(Eh, np.asarray(self.objective.gradient(w), dtype=float)))

    def _noisy(self, force: np.ndarray) -> np.ndarray:
        """What a linear noise (..., d) of the flow without momentum does to the whole state."""
        return force if self.memory is None else self.gained(force, 0 * force, 0.0)

    def diffusion(self, w: Any) -> np.ndarray:
        """Covariance that the noise adds per unit of t, ``step * E[b b^T]``: (..., d) -> (..., d, d).

        With momentum that of whole states: (..., 2 d) -> (..., 2 d, 2 d).

        ``b = P zeta + P Eg (w - w*) + DP[Eh] g`` is the linear noise map; the noise's own factors stand for
        its law.

        Raises
        ------
        ValueError
            If the noise is a class with its own `sample` but no `factors` of its own.
        """
        w, _ = self._parted(w)
        lift = (slice(None), *(None,) * (w.ndim - 1))
        zeta, Eg, Eh = (part[lift] for part in self.noise_model.law(w))
        local, offset = self._checked(w), w - (w if self.reference is None else self.reference)
        kicks = local.apply(zeta + (Eg @ offset[..., None])[..., 0])
        if self.bends:
            kicks = kicks + local.derivative(Eh, np.asarray(self.objective.gradient(w), dtype=float))
        kicks = self._noisy(kicks)
        return self.step * np.einsum("k...i,k...j->...ij", kicks, kicks)

    def _force(self, w: Any, sample: Sample) -> Any:
        """Gradient-batch noise ``zeta + Eg (w - w*)``."""
        if not self.noise_model.has_curvature:
            return sample[0]
        assert self.reference is not None  # checked when the flow was made
        return sample[0] + matvec(sample[1], w - like(self.reference, w))

    def gradient_noise(self, w: np.ndarray) -> float:
        """The length of ``zeta + Eg (w - w*)``, as a standard deviation, at one state (d,); 0 of data's."""
        noise = self.noise_model
        if noise.objective is not None:  # an estimate over all data; their objective has lengths of its own
            return 0.0
        if noise.linear:
            return math.sqrt(np.trace(noise.gradient_covariance(w, self.reference)))
        zeta = noise.sample(np.zeros(self.dim), 100, np.random.default_rng(0))[0]
        return float(np.sqrt(np.mean(np.sum(np.square(zeta), axis=-1))))

    def length(self, w: np.ndarray, t: float) -> float:
        """The largest length that the problem has at one state (d,) in a time `t`; 0 where it has none.

        Of the state and its distance from the reference point, of the landscape, and of what drift and noise
        move until the fastest mode has settled, or for the whole time.
        """
        found = [float(np.linalg.norm(w)), bend(self.objective, w)]
        if self.reference is not None:
            found.append(float(np.linalg.norm(w - self.reference)))
        values = np.linalg.eigvalsh(self.objective.hessian(w))
        with np.errstate(all="ignore"):
            gains = np.abs(self.method.gains(values))
            if self.memory is not None:  # the steps that a buffer adds up
                gains = gains * self.memory.weight / (1 - self.memory.beta)
            soon = min(t, float(1 / np.max(gains * np.abs(values))))
            pushed = soon * float(np.linalg.norm(self.objective.gradient(w)))
            kicked = math.sqrt(self.step * soon) * self.gradient_noise(w)
            found += [float(np.max(gains)) * size for size in (pushed, kicked)]
        return max(size for size in found if not math.isnan(size))

    @property
    def bends(self) -> bool:
        """Whether Hessian noise reaches the preconditioner at all."""
        return self.noise_model.has_curvature and self.noise_model.scales[2] > 0 and self.method.uses_hessian

    def draw(self, size: int, rng: np.random.Generator, *, level: str) -> Sample | Minibatches:
        """The noise of `size` steps of the SDE (``level="sde"``) or of the iteration ("iteration")."""
        if level == "iteration" and self.noise_model.objective is not None:
            return self.noise_model.draw_batches(size, rng)
        return self.noise_model.drawn(np.zeros(self.dim), size, rng)

    def euler(self, w: Any, sample: Sample, dt: float) -> Any:
        """One Euler-Maruyama step of length `dt` for whole states (m, state_dim).

        One preconditioner serves drift and noise. With momentum the buffer moves first, and then the
        positions with the new buffer: at ``dt = step`` it is the iteration, linear in the noise.
        """
        return self._stepped(w, dt, lambda x: self._euler(x, sample, dt))

    def _euler(self, w: Any, sample: Sample, dt: float) -> Iterator[Any]:
        local, gradient = self.local(w, bends=self.bends), self.objective.gradient(w)
        strength = math.sqrt(self.step * dt)
        yield local.apply(strength * self._force(w, sample) - dt * gradient)
        if self.bends:
            yield strength * local.derivative(sample[2], gradient)

    def _stepped(self, w: Any, dt: float, increments: Callable[[Any], Iterator[Any]]) -> Any:
        """Whole states (m, state_dim) a step later, from the `increments` of the flow without momentum."""
        if self.memory is None:
            return functools.reduce(operator.add, increments(w), w)
        positions, buffer = w[:, : self.dim], w[:, self.dim :]
        return w + self.gained(functools.reduce(operator.add, increments(positions)), buffer, dt)

    def parts(self, w: Any, sample: Sample) -> tuple[Any, Any]:
        """Drift and linear noise (m, d) of the Ito equation at states (m, d), apart."""
        local, gradient = self.local(w, bends=self.bends), self.objective.gradient(w)
        force = local.apply(self._force(w, sample))
        return -local.apply(gradient), force + local.derivative(sample[2], gradient) if self.bends else force

    def update(self, w: Any, sample: Sample | Minibatches) -> Any:
        """One step of the true stochastic iteration for whole states (m, state_dim), with the noise given.

        Nothing is linearised: with momentum the batch's own preconditioner acts inside the buffer.
        """
        return self._stepped(w, self.step, lambda x: iter([self._update(x, sample)]))

    def _update(self, w: Any, sample: Sample | Minibatches) -> Any:
        if isinstance(sample, Minibatches):
            gradient = self.objective.gradient(w, batch=sample.gradient)
            local = (
                Identity()
                if self.method.is_identity
                else self._applied(self.objective.hessian(w, batch=sample.hessian), bends=False)
            )
            return -self.step * local.apply(gradient)
        gradient = self.objective.gradient(w) + self._force(w, sample)
        if not self.bends:
            return -self.step * self.local(w, bends=False).apply(gradient)
        return -self.step * self._applied(self.objective.hessian(w) + sample[2], bends=False).apply(gradient)

    def iterate(self, w: Any, rng: np.random.Generator) -> np.ndarray:
        """One step of the true stochastic iteration, drawing its noise: (..., d) -> (..., d).

        With momentum of whole states (..., 2 d), positions and buffer; see `rest`.
        """
        if self.memory is not None:
            self._parted(w)
        w = _check.state("w", w, self.state_dim)
        flat = w.reshape(-1, self.state_dim)
        return self.update(flat, self.draw(len(flat), rng, level="iteration")).reshape(w.shape)

    def __repr__(self) -> str:
        return f"Flow({self.objective!r}, {self.method!r}, {self.noise_model!r}, step={self.step:g})"
