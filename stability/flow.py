"""A flow: objective + method + noise + step, as an SDE and as the stochastic iteration it stands for."""

from __future__ import annotations

import copy
import functools
import math
import operator
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from . import _check
from ._array import Backend, joined, like, matvec, moved, transpose
from ._saving import Kept
from .methods.adapted import Adapted
from .methods.gradients import GradientLaw
from .methods.memory import Memory
from .methods.method import Method
from .methods.metrics import Force, Metric
from .methods.momentum import Momentum
from .methods.preconditioner import Diagonal, Identity, Spectral, preconditioner, spectral
from .methods.response import check_regular
from .noise import Minibatches, Noise, Sample
from .objectives.base import bend, require, trait
from .objectives.gate import bare
from .objectives.quadratic import QuadraticModel

_NAMES = {"first": "mean gradient", "second": "mean square"}
"""What readers are told of a metric's means."""


class Driven(NamedTuple):
    """The noise of one step of a metric's SDE: samples, and normals (m, d) of its means' own."""

    sample: Sample
    own: Any


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
    step : float, callable or array
        The learning rate ``alpha`` > 0. A schedule, which is a function of the iteration (counted from 0) or
        an array with one for each, is for `simulate`, `escape` and `trajectory`: t is the sum of the steps.

    Raises
    ------
    ValueError
        If `step` is not > 0 (a function's: where it is followed), the objective has no gradient or Hessian,
        the rank exceeds its dimension, or curvature noise has no reference point.

    Examples
    --------
    >>> import stability as st
    >>> flow = st.Flow(st.quadratic([1.0, 0.1]), st.Newton(), st.Noise(gradient=0.1), step=0.5)
    >>> flow.drift([1.0, 1.0])
    array([-1., -1.])
    """

    @_check.by_name
    def __init__(self, objective: Any, method: Method, noise: Noise | None = None, *, step: Any):
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
        self.schedule = _schedule(step) if _check.is_schedule(step) else None
        self._step = math.nan if self.schedule is not None else _check.positive("step", step)
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
    def step(self) -> float:
        """The learning rate; an error where it is a schedule, which has no single one."""
        if self.schedule is not None:
            raise ValueError(
                f"The flow's `step` is a schedule, {self._told_step()}, and only st.simulate, st.escape and "
                "st.trajectory follow one. For this make a flow of one step: st.Flow(..., step=0.1), or "
                "flow.at_step(0.1)."
            )
        return self._step

    def at_step(self, step: float) -> Flow:
        """The same flow at another step."""
        other = copy.copy(self)
        other.schedule, other._step = None, _check.positive("step", step)
        return other

    @property
    def memory(self) -> Memory | None:
        """The law of the momentum buffer; None where a step remembers nothing."""
        return self.method.memory if isinstance(self.method, Momentum) else None

    @property
    def metric(self) -> Metric | None:
        """The metric that the gradient's noise gives the coordinates; None where curvature gives it."""
        inner = self.method.method if isinstance(self.method, Momentum) else self.method
        return inner if isinstance(inner, Metric) else None

    @property
    def remembered(self) -> tuple[str, ...]:
        """What a whole state has beside its positions, d numbers each: a buffer, a metric's means."""
        return tuple(_NAMES.get(name, name) for name in self._kept_parts)

    @property
    def _kept_parts(self) -> tuple[str, ...]:
        buffer = () if self.memory is None else ("buffer",)
        return buffer + (() if self.metric is None else self.metric.means)

    @property
    def state_dim(self) -> int:
        """How many numbers a whole state has: d positions, and d of each that is `remembered`."""
        return self.dim * (1 + len(self.remembered))

    @property
    def inertia(self) -> Memory | None:
        """What keeps a motion going: a momentum buffer, or a metric's own running mean of gradients."""
        return self.metric.averaging if self.memory is None and self.metric is not None else self.memory

    @property
    def coasting(self) -> float:
        """How far, in time, a motion goes on without a force."""
        return 0.0 if self.inertia is None else self.step / (1 - self.inertia.beta)

    def without_memory(self) -> Flow:
        """The same flow without its momentum."""
        if not isinstance(self.method, Momentum):
            return self
        other = copy.copy(self)
        other.method = self.method.method
        return other

    def rest(self, w: Any, level: str = "iteration") -> np.ndarray:
        """Whole states (..., state_dim) at rest at positions (..., d).

        Buffers and means are zero, as where an iteration starts. The means of the SDE (``level="sde"``),
        which corrects no start's bias, are where they would settle there.
        """
        w = _check.state("w", w, self.dim)
        kept = {name: np.zeros_like(w) for name in self._kept_parts}
        if level == "sde" and self.metric is not None:
            kept |= self.metric.rest(self._slope(w), self._law_at(w).variances)
        return np.concatenate([w, *kept.values()], axis=-1) if kept else w

    def rest_slope(self, w: np.ndarray) -> np.ndarray:
        """How the SDE's whole states at rest change with positions (d,): (state_dim, d)."""
        parts = [np.eye(self.dim)] + ([] if self.memory is None else [np.zeros((self.dim,) * 2)])
        if self.metric is not None:
            local = self._adapted_at(w, w[self.dim :])
            parts += [local.targets(mean, self._bent(w)) for mean in local.means.values()]
        return np.concatenate(parts)

    @functools.cached_property
    def gradient_law(self) -> GradientLaw:
        """The law of the gradient's noise, at the reference point, under which a metric's SDE is known.

        ValueError where it is of another kind.
        """
        assert self.metric is not None
        noise = self.noise_model
        if not noise.linear:
            raise ValueError(
                f"The SDE of {self.metric.name} is known for Gaussian noise; {noise!r} draws its own. "
                "Use st.simulate(..., level='iteration'), or st.Noise(gradient=..., curvature=...)."
            )
        at = np.zeros(self.dim) if self.reference is None else self.reference
        everywhere = not noise.has_curvature
        law = GradientLaw(noise.gradient_covariance(at, at), everywhere=everywhere).checked()
        self.metric.require_law(law)
        return law

    def _law_at(self, w: Any, *, slopes: bool = False) -> GradientLaw:
        """The law of the gradient's noise at states (..., d) of any library; `slopes` on the host."""
        law = self.gradient_law
        if law.everywhere:
            return law
        offset = w - like(self.reference, w)  # type: ignore[arg-type]
        noise = self.noise_model
        bent = noise.variance_slopes(offset) if slopes else None
        return GradientLaw(noise.gradient_covariances(offset), bent, everywhere=False)

    def _parted(self, w: Any, *, settled: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """Positions and what is remembered of a user's whole states; of a metric's, perhaps positions alone.

        Its means are then where they settle, if that is `settled` for the one who asks.
        """
        w = _check.floats("w", w)
        alone = settled and self.memory is None and w.shape[-1:] == (self.dim,)
        if self.remembered and not alone and w.shape[-1:] != (self.state_dim,):
            rest = "flow.rest(w), which adds what an iteration starts with"
            if settled and self.metric is not None:
                rest = "flow.rest(w, level='sde'), which adds what the SDE starts with"
            raise ValueError(
                f"`w` must have shape (..., {self.state_dim}), positions and {', '.join(self.remembered)}; "
                f"got shape {w.shape}. Use {rest}."
            )
        return w[..., : self.dim], w[..., self.dim :]

    def _slope(self, w: np.ndarray) -> np.ndarray:
        """The gradient, with the weight decay that joins it, on the host."""
        return self._joined_decay(w, np.asarray(self.objective.gradient(w), dtype=float))

    def _adapted_at(self, w: np.ndarray, kept: np.ndarray) -> Adapted:
        """A metric's equation at positions with what is remembered; settled where that is nothing."""
        assert self.metric is not None
        parts = dict(zip(self._kept_parts, np.split(kept, len(self._kept_parts) or 1, axis=-1), strict=False))
        parts.pop("buffer", None)
        means = parts if kept.shape[-1] else None
        return self.metric.adapted(self._slope(w), means, self._law_at(w, slopes=True), self.step)

    def _whole(self, moved: Any, buffer: Any, *means: Any) -> Any:
        """What the whole state gains per unit of t: positions would gain `moved`, and the means these."""
        first = moved if self.memory is None else self.gained(moved, buffer, 0.0)
        return np.concatenate([first, *means], axis=-1) if means else first

    def gained(self, increment: Any, buffer: Any, dt: float) -> Any:
        """What positions and buffer (..., 2 d) gain, where positions alone would gain `increment` (..., d).

        In a step of length `dt`; per unit of time where that is 0.
        """
        assert self.memory is not None
        motion = self.memory.motion(self.step, dt)
        (straight, driven), reach = motion.force.tolist(), float(motion.free[0, 1])
        # A gradient pushes the buffer, and an increment points down it.
        force = increment * (-1 / dt if dt else -1.0)
        return joined(straight * force + reach * buffer, driven * force - motion.decay * buffer)

    @functools.cached_property
    def reference(self) -> np.ndarray | None:
        """The noise's reference point ``w*`` (d,): its own, or else the objective's."""
        own = self.noise_model.reference
        return trait(self.objective, "reference") if own is None else own

    @property
    def plain(self) -> bool:
        """Whether all steps have one length, and nothing but curvature and memory changes their direction."""
        return self.schedule is None and self.method.spectral and not self.method.weight_decay

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
            exact = bool(trait(self.objective, "diagonal_hessian"))
            check_regular(self.method, local.response.lams, exact=exact)
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
        step = self._step if self.schedule is None else self.schedule
        if callable(step):
            raise ValueError(
                "A flow whose `step` is a function cannot be saved. Give the steps as an array: "
                "numpy.array([step(k) for k in range(iterations)])."
            )
        return {"objective": own, "method": self.method, "noise": self.noise_model, "step": step}

    @classmethod
    def _restored(cls, **values: Any) -> Flow:
        noise, objective = values.pop("noise"), values.pop("objective")
        return cls(noise.objective if objective is None else objective, noise=noise, **values)

    def drift(self, w: Any) -> np.ndarray:
        """``-P(H(w)) g(w)``, (..., d) -> (..., d); and ``-weight_decay w``, where there is some.

        With momentum that of whole states (..., 2 d), positions and buffer: ``-u`` of the positions,
        ``(P g - (1 - beta) u) / step`` of the buffer; see `rest`. With a metric that follows the noise, of
        whole states too: positions and running means. Positions alone (..., d) are then taken with means that
        have settled: ``-g / (sqrt(g^2 + diag Sigma) + eps)`` of RMSprop and Adam; of a sign, which has none,
        ``-erf(g / sqrt(2 diag Sigma))``. Curvature noise makes Sigma one of the place, ``Sigma(w)``.
        """
        w, kept = self._parted(w)
        if self.metric is not None:
            push, *means = self._adapted_at(w, kept).drift()
        else:
            push, means = -self._checked(w).apply(self.objective.gradient(w)), []
        gained = self._whole(push, kept[..., : self.dim], *means)
        return gained - self._decay * np.concatenate([w, 0 * kept], axis=-1) if self._decay else gained

    def jacobian(self, w: Any) -> np.ndarray:
        """Jacobian of the drift, ``v -> -P H v - DP[third(w, v)] g``: (..., d) -> (..., d, d).

        Of whole states it is (..., state_dim, state_dim), as the drift is of whole states.

        Raises
        ------
        ValueError
            If ``P`` moves with the state and the objective has no `third`; where the gain is singular.
        """
        w, kept = self._parted(w)
        rows = (
            [[self._jacobian(w)]]
            if self.metric is None
            else self._adapted_at(w, kept).jacobian(self._bent(w))
        )
        if self.memory is not None:  # nothing that a force or a mean depends on is in the buffer
            rows = [[first, 0 * first, *others] for first, *others in rows]
        push, *means = (np.concatenate(row, axis=-1) for row in rows)
        decay = np.zeros(push.shape[-1])
        decay[: self.dim] = self._decay
        # Its columns are what the drift gains where one number of the state does.
        buffer = np.zeros_like(push)
        if self.memory is not None:
            buffer[..., self.dim : 2 * self.dim] = np.eye(self.dim)
        whole = np.swapaxes(
            self._whole(*(np.swapaxes(part, -1, -2) for part in (push, buffer, *means))), -1, -2
        )
        return whole - np.diag(decay) if self._decay else whole

    def _bent(self, w: np.ndarray) -> np.ndarray:
        """The Hessian, with the weight decay that joins the gradient."""
        hessian = np.asarray(self.objective.hessian(w), dtype=float)
        joined = 0.0 if self.method.decoupled else self.method.weight_decay
        return hessian + joined * np.eye(self.dim) if joined else hessian

    @property
    def _decay(self) -> float:
        """Weight decay of the weights themselves."""
        return self.method.weight_decay if self.method.decoupled else 0.0

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

    def noise(self, w: Any, sample: Sample | Driven) -> np.ndarray:
        """The linear noise map ``P zeta + P Eg (w - w*) + DP[Eh] g``, with one noise sample per state.

        States as in `drift`; the law of the samples is `noise_model`. The mean square of a metric has noise
        of its own beside the gradient's, which ``flow.draw(size, rng, level="sde")`` draws too.
        """
        w, kept = self._parted(w)
        sample, own = sample if isinstance(sample, Driven) else (sample, np.zeros(self.dim))
        zeta, Eg, Eh = (np.asarray(part, dtype=float) for part in sample)
        if self.metric is not None:
            offset = np.zeros_like(w) if self.reference is None else w - self.reference
            squares = self._law_at(w).square(own)
            return self.kicked(w, kept, zeta + (Eg @ offset[..., None])[..., 0], squares)
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

    def kicked(self, w: np.ndarray, kept: np.ndarray, force: np.ndarray, squares: Any = 0.0) -> np.ndarray:
        """What noise `force` of the gradient gives a metric's whole states, and noise of the squares' own."""
        return self._noisy(*self._adapted_at(w, kept).noise(force, squares + 0 * force))

    def _noisy(self, force: np.ndarray, *means: np.ndarray) -> np.ndarray:
        """What a linear noise (..., d) of positions, and of a metric's means, does to the whole state."""
        return self._whole(force, 0 * force, *means)

    def diffusion(self, w: Any) -> np.ndarray:
        """Covariance that the noise adds per unit of t, ``step * E[b b^T]``: (..., d) -> (..., d, d).

        ``b = P zeta + P Eg (w - w*) + DP[Eh] g`` is the linear noise map; the noise's own factors stand for
        its law. Of whole states it is (..., state_dim, state_dim), as the drift is of whole states.

        Raises
        ------
        ValueError
            If the noise is a class with its own `sample` but no `factors` of its own.
        """
        w, kept = self._parted(w)
        # The factors' axis comes first, and each meets all states.
        lift = (slice(None), *(None,) * (w.ndim - 1))
        zeta, Eg, Eh = (part[lift] for part in self.noise_model.law(w))
        offset = w - (w if self.reference is None else self.reference)
        force = zeta + (Eg @ offset[..., None])[..., 0]
        if self.metric is not None:
            kicks = self.kicked(w, kept, force)
            if self.own_normals:  # a sample, and the squares' own normals, are independent
                normals = np.broadcast_to(np.eye(self.dim)[lift], (self.dim, *w.shape))
                squares = self._law_at(w).square(normals)
                kicks = np.concatenate([kicks, self.kicked(w, kept, 0 * squares, squares)])
            return self.step * np.einsum("k...i,k...j->...ij", kicks, kicks)
        local = self._checked(w)
        kicks = local.apply(force)
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
        # The steps that a buffer adds up.
        far = 1.0 if self.memory is None else self.memory.weight / (1 - self.memory.beta)
        if self.metric is not None:  # a step is about `step` long in every coordinate, and t is their sum
            return max(size for size in (*found, far * t * math.sqrt(self.dim)) if not math.isnan(size))
        values = np.linalg.eigvalsh(self.objective.hessian(w))
        with np.errstate(all="ignore"):
            gains = far * np.abs(self.method.gains(values))
            soon = min(t, float(1 / np.max(gains * np.abs(values))))
            pushed = soon * float(np.linalg.norm(self.objective.gradient(w)))
            kicked = math.sqrt(self.step * soon) * self.gradient_noise(w)
            found += [float(np.max(gains)) * size for size in (pushed, kicked)]
        return max(size for size in found if not math.isnan(size))

    def settled_drift(self, w: np.ndarray) -> np.ndarray:
        """The drift of positions (m, d) whose buffer, and whose running means, have settled there."""
        longer = 1.0 if self.memory is None else self.memory.weight / (1 - self.memory.beta)
        if self.metric is None:
            push = -self.local(w, bends=False).apply(self.objective.gradient(w))
        else:
            (push,) = self._adapted_at(w, w[..., self.dim :]).drift()
        return longer * push - self._decay * w if self._decay else longer * push

    def pulls(self, w: np.ndarray) -> np.ndarray:
        """Curvatures under the preconditioner, ``phi lam``, at states (m, d): those of the finite ones.

        A metric's is that of its SDE at rest.
        """
        hessian = self._bent(w)
        finite = np.isfinite(hessian).all(axis=(-2, -1))
        hessian = hessian[finite]
        with np.errstate(all="ignore"):
            if self.metric is None:
                values = np.linalg.eigvalsh(hessian).reshape(-1, self.dim)
                return self.method.gains(values) * values
            variances = np.broadcast_to(self._law_at(w[finite]).variances, hessian.shape[:-1])
            gradient = self._slope(w)[finite]
            # ``P H`` is not symmetric; ``P^(1/2) H P^(1/2)`` is, and has its eigenvalues.
            root = np.sqrt(self.metric.scale(self.metric.rest(gradient, variances).get("second", variances)))
            return np.linalg.eigvalsh(root[..., :, None] * hessian * root[..., None, :])

    @property
    def bends(self) -> bool:
        """Whether Hessian noise reaches the preconditioner at all."""
        return self.noise_model.has_curvature and self.noise_model.scales[2] > 0 and self.method.uses_hessian

    @property
    def own_normals(self) -> int:
        """Standard normals of a step of the SDE beside the noise's: those of a metric's mean squares."""
        return self.dim if self.metric is not None and self.metric.means else 0

    def draw(self, size: int, rng: np.random.Generator, *, level: str) -> Any:
        """The noise of `size` steps of the SDE (``level="sde"``) or of the iteration ("iteration")."""
        if level == "iteration" and self.noise_model.objective is not None:
            return self.noise_model.draw_batches(size, rng)
        sample = self.noise_model.drawn(np.zeros(self.dim), size, rng)
        if level == "sde" and self.own_normals:
            return Driven(sample, rng.standard_normal((size, self.dim)))
        return sample

    def euler(self, w: Any, sample: Sample | Driven, dt: float) -> Any:
        """One Euler-Maruyama step of length `dt` for whole states (m, state_dim).

        One preconditioner serves drift and noise. With momentum the buffer moves first, and then the
        positions with the new buffer: at ``dt = step`` it is the iteration, linear in the noise.
        """
        metric = self.metric
        if metric is None:
            return self._stepped(w, dt, lambda x: self._euler(x, sample, dt))  # type: ignore[arg-type]
        drawn, own = sample if isinstance(sample, Driven) else (sample, None)

        def gain(x: Any, means: dict[str, Any]) -> Any:
            gradient = self._joined_decay(x, self.objective.gradient(x))
            force = Force(gradient, self._force(x, drawn), own, self._law_at(x))
            return metric.chained(force, means, step=self.step, dt=dt)

        return self._adapted(w, dt, gain)

    def _adapted(
        self, w: Any, dt: float, gain: Callable[[Any, dict[str, Any]], Any], count: int | None = None
    ) -> Any:
        """Whole states a step later, from what positions gain in it: ``gain(positions, means)``."""
        assert self.metric is not None
        driven = self.dim if self.memory is None else 2 * self.dim  # what a buffer moves is before the means
        names, dim = self.metric.means, self.dim
        # Copies: means are renewed in place, and the states before a step stay.
        means: dict[str, Any] = {
            name: w[:, driven + k * dim : driven + (k + 1) * dim] + 0.0 for k, name in enumerate(names)
        }
        if count is not None:
            means["count"] = count
        moved = self._stepped(w[:, :driven], dt, lambda x: iter([gain(x, means)]))
        return joined(moved, *(means[name] for name in names))

    def _euler(self, w: Any, sample: Sample, dt: float) -> Iterator[Any]:
        local, gradient = self.local(w, bends=self.bends), self.objective.gradient(w)
        strength = math.sqrt(self.step * dt)
        yield local.apply(strength * self._force(w, sample) - dt * gradient)
        if self.bends:
            yield strength * local.derivative(sample[2], gradient)

    def _stepped(self, w: Any, dt: float, increments: Callable[[Any], Iterator[Any]]) -> Any:
        """Whole states (m, state_dim) a step later, from the `increments` of the flow without momentum."""
        decay = self._decay
        if self.memory is None:
            ahead = functools.reduce(operator.add, increments(w), w)
            return ahead - (dt * decay) * w if decay else ahead
        positions, buffer = w[:, : self.dim], w[:, self.dim :]
        gained = self.gained(functools.reduce(operator.add, increments(positions)), buffer, dt)
        # Beside the buffer, as beside the preconditioner.
        return w + gained - (dt * decay) * joined(positions, 0 * buffer) if decay else w + gained

    def parts(self, w: Any, sample: Sample) -> tuple[Any, Any]:
        """Drift and linear noise (m, d) of the Ito equation at states (m, d), apart."""
        local, gradient = self.local(w, bends=self.bends), self.objective.gradient(w)
        force = local.apply(self._force(w, sample))
        return -local.apply(gradient), force + local.derivative(sample[2], gradient) if self.bends else force

    def update(self, w: Any, sample: Sample | Minibatches, done: int = 0) -> Any:
        """One step of the true stochastic iteration for whole states (m, state_dim), with the noise given.

        Nothing is linearised: with momentum the batch's own preconditioner acts inside the buffer. `done`
        iterations were taken before: Adam's means know their start by it.
        """
        metric = self.metric
        if metric is None:
            return self._stepped(w, self.step, lambda x: iter([self._update(x, sample)]))

        def gain(x: Any, means: dict[str, Any]) -> Any:
            return -self.step * metric.direction(self._batch_slope(x, sample), means)

        return self._adapted(w, self.step, gain, count=done)

    def _batch_slope(self, w: Any, sample: Sample | Minibatches) -> Any:
        """The batch's gradient, with the weight decay that joins it."""
        if isinstance(sample, Minibatches):
            gradient = self.objective.gradient(w, batch=sample.gradient)
        else:
            gradient = self.objective.gradient(w) + self._force(w, sample)
        return self._joined_decay(w, gradient)

    def _joined_decay(self, w: Any, gradient: Any) -> Any:
        """A gradient with the weight decay that joins it."""
        decay = 0.0 if self.method.decoupled else self.method.weight_decay
        return gradient + decay * w if decay else gradient

    def _update(self, w: Any, sample: Sample | Minibatches) -> Any:
        gradient = self._batch_slope(w, sample)
        if isinstance(sample, Minibatches):
            local = (
                Identity()
                if self.method.is_identity
                else self._applied(self.objective.hessian(w, batch=sample.hessian), bends=False)
            )
            return -self.step * local.apply(gradient)
        if not self.bends:
            return -self.step * self.local(w, bends=False).apply(gradient)
        return -self.step * self._applied(self.objective.hessian(w) + sample[2], bends=False).apply(gradient)

    def iterate(self, w: Any, rng: np.random.Generator, done: int = 0) -> np.ndarray:
        """One step of the true stochastic iteration, drawing its noise: (..., d) -> (..., d).

        With memory, of whole states (..., state_dim): momentum's buffer, a metric's means; see `rest`. `done`
        iterations were taken before: Adam's means know their start by it.
        """
        if self.remembered:
            self._parted(w, settled=False)
        w = _check.state("w", w, self.state_dim)
        flat = w.reshape(-1, self.state_dim)
        return self.update(flat, self.draw(len(flat), rng, level="iteration"), done).reshape(w.shape)

    def __repr__(self) -> str:
        return f"Flow({self.objective!r}, {self.method!r}, {self.noise_model!r}, step={self._told_step()})"

    def _told_step(self) -> str:
        if self.schedule is None:
            return f"{self._step:g}"
        if callable(self.schedule):
            return getattr(self.schedule, "__name__", type(self.schedule).__name__)
        return f"{len(self.schedule)} steps from {self.schedule[0]:g} to {self.schedule[-1]:g}"


def _schedule(step: Any) -> Any:
    """A user's schedule: a function as it is, or its steps as an array that nobody else writes into."""
    if callable(step):
        return step
    steps = _check.as_written(_check.numbers_of("step", step))
    steps = _check.array("step", steps, ndim=1, shape="(iterations,), one step for each")
    if not len(steps):
        raise ValueError("`step` must hold a step for each iteration; got none.")
    return _check.steps("step", steps, "end it before: step[:{k}]")
