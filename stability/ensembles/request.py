"""What `simulate` is asked for, checked before anything large is made."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypedDict

import numpy as np

from .. import _check, _fast
from .._array import Backend, backend_of
from .._cores import cores
from .._law import Law
from .._streams import block_size
from ..flow import Flow
from ..linear.linearize import linearize
from ..methods.response import check_cut, check_regular
from ..objectives.base import trait
from ..objectives.gate import bare
from .clock import scheduled
from .control import feature_count
from .doubled import DoubledModes
from .plan import EnsemblePlan
from .steps import SCHEMES, Modes

LARGEST = 1e100
"""The farthest that a path may be from the starting mean, lest squares overflow."""
SINGLE = 1e12
"""The largest size, and one over the smallest, whose squares and their sums single precision holds."""
MAX_STEPS = 10**9
PATHS = 1000
"""Where neither `paths` nor `target_error` says how many."""
MAX_PATHS = 10**7
"""Paths that `target_error` may ask for unless `paths` says otherwise."""


class Options(TypedDict, total=False):
    """The rarer arguments of `simulate`, which says what they are."""

    keep: str
    quantiles: Any
    average: float | None
    state: bool
    observables: dict[str, Callable[[Any], Any]] | None
    refine: int
    workers: int | None
    accelerate: bool | None
    dtype: str
    device: str | Backend
    rng: str | None
    progress: bool
    check: bool


DEFAULTS: Options = {
    "keep": "states",
    "quantiles": None,
    "average": None,
    "state": False,
    "observables": None,
    "refine": 0,
    "workers": None,
    "accelerate": None,
    "dtype": "float64",
    "device": "cpu",
    "rng": None,
    "progress": False,
    "check": True,
}


def known(options: Options) -> Options:
    """All of the rarer arguments: those that were given, and the defaults of the others."""
    for name in options:
        if name not in DEFAULTS:
            raise TypeError(
                f"`{name}` is no option of st.simulate. The rarer ones are {', '.join(DEFAULTS)}."
            )
    return {**DEFAULTS, **options}


class Request:
    """The arguments that depend on one another, checked: start, time grid, critical point."""

    def __init__(
        self,
        flow: Flow,
        start: Any,
        t_end: float,
        *,
        seed: int,
        paths: int | None,
        wished: bool = False,
        dt: float | None,
        level: str,
        scheme: str = "euler",
        at: Any = None,
        refine: int = 0,
        keep: str = "states",
    ):
        if not isinstance(flow, Flow):
            raise ValueError(f"`flow` must be a st.Flow(objective, method, noise, step=...); got {flow!r}.")
        _check.choice("level", level, ("sde", "iteration"))
        self.keep = _check.choice("keep", keep, ("states", "moments"))
        _check.choice("scheme", scheme, SCHEMES)
        self.refine = _check.count("refine", refine, least=0, most=20)
        for name, given in (
            ("dt", dt is not None),
            ("scheme", scheme != "euler"),
            ("refine", self.refine > 0),
        ):
            if level == "iteration" and given:
                raise ValueError(
                    f"`{name}` is for level='sde'; the iteration's time step is the flow's `step`."
                )
        self.flow, self.level, self.scheme = flow, level, scheme
        self._check_kind(dt)
        if self.refine and not flow.noise_model.linear:
            raise ValueError(
                "`refine` needs a noise made of standard normals: st.Noise, not a class with its own "
                "`sample`."
            )
        self.seed = _check.seed(seed)
        self._set_clock(t_end, dt)
        start = _check.array("start", start, ndim=(1, 2), shape=f"({flow.dim},) or (paths, {flow.dim})")
        self.common, self.chosen = start.ndim == 1, paths is not None or not wished
        if paths is None:
            paths = (MAX_PATHS if wished else PATHS) if self.common else len(start)
        paths = _check.count("paths", paths)
        if start.shape not in ((flow.dim,), (paths, flow.dim)):
            raise ValueError(
                f"`start` must have shape ({flow.dim},) or ({paths}, {flow.dim}); got {start.shape}."
            )
        self.paths = _affordable(paths, flow.dim, keep) if self.common and not self.chosen else paths
        # The least it can take, before the starts are looked at; `saved` knows times and dtype.
        _check_memory(1, self.paths, flow.dim, keep, 4)
        self.start = np.broadcast_to(start, (self.paths, flow.dim))
        self.center = start if self.common else start.mean(axis=0)
        _check_start(flow, self.start[0], level)
        self._at = None if at is None else _check.shaped("at", at, (flow.dim,))
        flow.noise_model.check_declared(flow.dim)
        flow.noise_model.check_drawn()
        self.modes = self._modes() if scheme == "exponential" else None
        if level == "sde" and scheme == "euler":
            self._warn_beyond_limit()

    def _check_kind(self, dt: float | None) -> None:
        """What a metric, weight decay or a schedule has no equation or no scheme for."""
        flow = self.flow
        if flow.metric is not None and self.level == "sde":
            flow.gradient_law  # noqa: B018 - raises where its SDE is not known
        if self.scheme == "exponential" and not flow.plain:
            what = "a schedule" if flow.schedule is not None else repr(flow.method)
            raise ValueError(
                "scheme='exponential' is for one linear part, of a flow whose preconditioner follows the "
                f"curvature alone and whose steps have one length; got {what}. Use scheme='euler'."
            )
        if flow.schedule is not None and dt is not None:
            raise ValueError(
                "With a schedule the time steps are its own: leave `dt` out, or halve them by `refine`."
            )

    def _set_clock(self, t_end: float, dt: float | None) -> None:
        """The time grid; with a schedule `dt` is nan, and `steady` is the flow at its longest step."""
        end, flow = _check.positive("t_end", t_end), self.flow
        self.schedule = None if flow.schedule is None else scheduled(flow, end, self.refine)
        if self.schedule is not None:
            self.dt, self.steps = math.nan, len(self.schedule.times) - 1
            longest = float(self.schedule.steps.max())
            self.end, self.steady = float(self.schedule.times[-1]), flow.at_step(longest)
            self.longest = longest / 2**self.refine
            return
        # `t_end` is a multiple of the coarse step, so that every refinement ends at the same time.
        coarse = flow.step if dt is None else _check.positive("dt", dt)
        self.dt = self.longest = coarse / 2**self.refine
        _check.whole_steps("t_end", end, coarse, most=MAX_STEPS)
        self.steps = _check.whole_steps("t_end", end, self.dt, most=MAX_STEPS)
        self.end, self.steady = self.steps * self.dt, flow

    def _modes(self) -> Modes | DoubledModes:
        """What the exponential scheme is exact for."""
        if self.flow.memory is None:
            return Modes.at(self.flow, self.at)
        if self.refine or not self.flow.noise_model.linear:
            what = "`refine`" if self.refine else "a noise class with its own `sample`"
            raise ValueError(
                f"scheme='exponential' with momentum draws two samples a step, which {what} does not have. "
                "Use scheme='euler'."
            )
        return Modes.at(self.flow, self.at)

    @property
    def law(self) -> Law:
        """The law of the paths that are asked for."""
        return Law.simulated(self.level, self.scheme, self.dt)

    @property
    def at(self) -> np.ndarray:
        """The critical point (d,) to linearise at."""
        at = self.flow.reference if self._at is None else self._at
        if at is None:
            raise ValueError(
                f"`at`, the critical point to linearise at, must be given: {self.flow.objective!r} has no "
                "reference point."
            )
        return linearize(self.flow.without_memory(), at=at).at  # raises where it is not a critical point

    def _warn_beyond_limit(self) -> None:
        # At the start and where paths are held: what lies between is not known before they are run.
        places = {"at the start": self.start[:1] if self.common else self.start[:1000]}
        if self.flow.reference is not None:
            places = {"at the reference point": self.flow.reference[None], **places}
        for place, states in places.items():
            # With a schedule the longest step decides.
            fastest = float(np.max(self.steady.pulls(states), initial=0.0))
            limit = _euler_limit(self.steady, fastest)
            if self.longest > limit * (1 + 1e-9):
                other = ", or scheme='exponential'" if self.flow.plain else ""
                _check.warn(
                    f"dt = {self.longest:g} is beyond the Euler scheme's stability limit {limit:.4g} (the "
                    f"fastest rate {place} is {fastest:.4g}): "
                    f"its paths grow where the SDE's do not. Take a smaller dt{other}.",
                )
                return

    def radius(self, radius: float | None) -> float:
        if radius is not None:
            return _check.positive("radius", radius)
        # Far beyond anything that a stable run visits, near enough that squares do not overflow.
        spread = 0.0 if self.common else float(np.max(np.linalg.norm(self.start - self.center, axis=1)))
        size = spread + self.steady.length(self.center, self.end)
        return min(1e6 * (size or 1.0), LARGEST)

    def fits(self, dtype: str) -> None:
        """Raise where the problem's numbers have squares that single precision does not hold."""
        if dtype != "float32":
            return
        hessian = float(np.max(np.abs(self.flow.objective.hessian(self.center))))
        length = self.steady.length(self.center, self.end)
        for what, size in (("the curvature", hessian), ("the largest length", length)):
            if 0 < size < math.inf and not 1 / SINGLE < size < SINGLE:
                raise ValueError(
                    f"`dtype`='float32' does not hold the squares of this problem's numbers: {what} at the "
                    f"start is {size:.3g}. Use dtype='float64', or units in which it is nearer to 1."
                )

    def saved(self, save: Any, dtype: str, *, control: bool, width: int, observed: int = 0) -> np.ndarray:
        """The step numbers to save at, checked against memory before anything large is made."""
        whole = isinstance(save, (int, np.integer)) and not isinstance(save, bool)
        if whole:
            _check.count("save", save, most=self.steps)
        times = 1 if save is None else save + 1 if whole else np.size(save)
        _check_memory(
            times,
            self.paths if self.chosen else 1,
            width,
            self.keep,
            4 if dtype == "float32" else 8,
            control=control,
            observed=observed,
        )
        if save is None:
            return np.array([self.steps])
        if whole:
            return np.unique(np.round(np.linspace(0, self.steps, int(save) + 1)).astype(int))
        if self.schedule is not None:
            return self.schedule.numbers("save", _check.saved_times("save", save, 0.0, self.end))
        times = _check.saved_times("save", save, self.dt, self.end)
        return np.round(times / self.dt).astype(int)


def _euler_limit(flow: Flow, fastest: float) -> float:
    """The largest `dt` at which the Euler scheme's mode of this rate decays."""
    decay = flow.method.weight_decay if flow.method.decoupled else 0.0
    if flow.memory is None:
        return 2 / (fastest + decay) if fastest + decay > 0 else math.inf
    # Without a force the buffer's own decay is followed up to here.
    low, high = 0.0, 2 * flow.step / (1 - flow.memory.beta)
    pull = np.array([max(fastest, 1e-9 / high)])
    if flow.memory.motion(flow.step, high * (1 - 1e-9), decay).stable(pull).all():
        return high
    for _ in range(50):
        middle = 0.5 * (low + high)
        stable = bool(flow.memory.motion(flow.step, middle, decay).stable(pull).all())
        low, high = (middle, high) if stable else (low, middle)
    return high


def averaging(average: Any, flow: Flow, *, state: bool) -> float | None:
    """The decay of the average that is asked for, checked."""
    if average is None:
        return None
    if state:
        raise ValueError(
            "`state` keeps positions and buffer, `average` the averaged positions: give one of the two."
        )
    return _check.fraction("average", average)


def _check_start(flow: Flow, w: np.ndarray, level: str) -> None:
    """Misuse that would make every path diverge at once is an error: the physics first."""
    dim, many = flow.dim, flow.dim + 1  # a number of states that no axis of one state could be taken for
    hessian = _check.shaped("hessian", flow.objective.hessian(w), (dim, dim), at=w)
    hessian = _check.symmetric("hessian", hessian)
    _check.shaped("gradient", flow.objective.gradient(w), (dim,), at=w)
    for name, shape in (("gradient", (many, dim)), ("hessian", (many, dim, dim))):
        found = _batched_shape(getattr(bare(flow.objective), name), np.tile(w, (many, 1)))
        if found != shape:
            raise ValueError(
                f"`{name}` must take leading axes as batch: {many} states, shape ({many}, {dim}), should "
                f"give shape {shape}; got {found}."
            )
    # The compiled steps read the formula alone, and would follow it wherever it went.
    if dim == 2 and trait(flow.objective, "planar") is not None:
        _check_planar(flow, np.tile(w, (3, 1)))
    if flow.method.uses_hessian:
        values = np.linalg.eigvalsh(hessian)
        check_regular(flow.method, values, exact=bool(trait(flow.objective, "diagonal_hessian")))
        # Only the SDE: the iteration decomposes each sampled Hessian and linearises nothing.
        if flow.bends and level == "sde":
            check_cut(flow.method, values)


def _check_planar(flow: Flow, states: np.ndarray) -> None:
    """The formula of a user's objective must say what its gradient and Hessian say."""
    found = flow.objective.planar(states[:, 0], states[:, 1])
    if (
        not isinstance(found, tuple)
        or len(found) != 5
        or any(np.shape(part) not in ((), (3,)) for part in found)
    ):
        raise ValueError(
            "`planar` must give (g1, g2, h11, h12, h22), each a number or an array like its arguments."
        )
    first, second, h11, h12, h22 = (np.broadcast_to(part, 3)[0] for part in found)
    gradient, hessian = flow.objective.gradient(states[0]), flow.objective.hessian(states[0])
    ours, theirs = (
        np.array([first, second, h11, h12, h22]),
        np.array([*gradient, hessian[0, 0], hessian[0, 1], hessian[1, 1]]),
    )
    # Each entry beside the largest of its own kind: one that vanishes has no relative error.
    scale = np.repeat([np.max(np.abs(part)) for part in (gradient, hessian)], [2, 3])
    if not (np.abs(ours - theirs) <= 1e-6 * scale).all():
        raise ValueError(
            f"`planar` gives (g1, g2, h11, h12, h22) = {ours} at the start, where gradient and hessian give "
            f"{theirs}."
        )


def _batched_shape(function: Callable[[np.ndarray], np.ndarray], states: np.ndarray) -> Any:
    try:
        return np.shape(function(states))
    except Exception as error:  # a user's function may fail in any way when given a batch
        return f"{type(error).__name__}: {error}"


def _affordable(paths: int, dim: int, keep: str) -> int:
    """As many of the paths as a third of the memory can hold."""
    return int(min(paths, _check.memory() / 3 / ((8.0 * dim if keep == "states" else 0.0) + 24.0)))


def _check_memory(
    times: int, paths: int, dim: int, keep: str, width: int, *, control: bool = False, observed: int = 0
) -> None:
    per_path = float(width) * times * dim * (keep == "states") + 24.0
    # What blocks hold while they run: snapshots, states, Hessians.
    working = 8.0 * cores() * min(paths, block_size(dim)) * (2.0 * times * dim + 8.0 * dim * dim)
    block = 8.0 * cores() * min(paths, block_size(dim))
    watching = 4 * block * times * observed  # a block's values at all times, and what their moments need
    working += watching
    if control:  # sums of products of all features, for blocks that wait their turn
        working += 8.0 * 2 * times * feature_count(dim) ** 2 * (4 * cores() + 4)
    advice = "Save fewer times or paths" + (", or use keep='moments'." if keep == "states" else ".")
    if working > per_path * paths:
        advice = "Take fewer dimensions: every path's Hessian is held while it runs."
        if times * dim > 8 * dim * dim:
            advice = "Save fewer times."
        if watching > working / 2:
            advice = "Save fewer times, or give fewer `observables`."
    _check.room(
        "The states need",
        (per_path * paths + working) / 8,
        advice=advice,
        why=f"{times} times x {paths} paths x {dim}",
    )


def region(exit: Any, flow: Flow, center: np.ndarray, backend: Backend) -> Callable[[Any], Any] | None:
    """The region that `exit` names, as a function of states; None without."""
    if exit is None:
        return None
    if callable(exit):
        _ask("exit", exit, backend.asarray(np.stack([center] * 3)), "bool")
        return lambda w: _answer("exit", exit(w), w, "bool")
    advice = " For another region than a ball give a function of states, (m, d) -> (m,) bool."
    size = _check.positive("exit", exit, advice=advice)
    middle = backend.asarray(center if flow.reference is None else flow.reference)
    return lambda w: backend.xp.sum((w - middle) ** 2, axis=-1) < size * size


def _ask(name: str, function: Callable[[Any], Any], states: Any, kind: str) -> None:
    """A user's function must answer once per state."""
    try:
        answer = function(states)
    except Exception as error:  # it may fail in any way
        raise ValueError(
            f"`{name}` must take three states, shape {tuple(states.shape)}; it raised "
            f"{type(error).__name__}: {error}."
        ) from None
    _answer(name, answer, states, kind)


def _answer(name: str, answer: Any, w: Any, kind: str) -> Any:
    """What a user's function said of states w (m, d): an array of bool, or of numbers, of w's library."""
    states = w.shape[0]  # not every library has len
    if isinstance(w, np.ndarray) or not hasattr(answer, "dtype"):
        answer = _check.numbers_of(name, answer)
    wrong = "bool" not in str(answer.dtype) if kind == "bool" else answer.dtype.kind not in "fiub"
    if tuple(answer.shape) != (states,) or wrong:
        raise ValueError(
            f"`{name}` must answer {kind} once per state: {states} states should give shape ({states},) of "
            f"{kind}; got {answer.dtype} {tuple(answer.shape)}."
        )
    return answer


def watched(observables: Any, w: np.ndarray) -> dict[str, Callable[[Any], Any]]:
    """The user's observables, each tried once."""
    if observables is None:
        return {}
    if not isinstance(observables, dict) or not all(
        isinstance(name, str) and callable(f) for name, f in observables.items()
    ):
        raise ValueError(
            "`observables` must be a dict of functions by name, such as {'risk': objective.value}; got "
            f"{observables!r}."
        )
    for name, function in observables.items():
        _ask(f"observables[{name!r}]", function, np.stack([w] * 3), "numbers")
    return observables


def levels(quantiles: Any) -> tuple[float, ...]:
    """Quantile levels, checked."""
    if quantiles is None:
        return ()
    levels = np.atleast_1d(_check.array("quantiles", quantiles, ndim=(0, 1), shape="(levels,)"))
    if ((levels < 0) | (levels > 1)).any():
        raise ValueError(f"`quantiles` must hold levels in [0, 1]; got {levels}.")
    return tuple(levels.tolist())


def arrays_of(device: Any, dtype: str) -> Backend:
    """The arrays to compute with."""
    _check.choice("dtype", dtype, ("float64", "float32"))
    return backend_of(
        device if isinstance(device, Backend) else _check.choice("device", device, ("cpu", "cuda")), dtype
    )


def compiled(accelerate: bool | None) -> bool:
    """Whether to use Numba."""
    if accelerate is not None:
        _check.flag("accelerate", accelerate)
    if accelerate is None:
        return _fast.available()
    if accelerate and not _fast.available():
        raise ValueError(
            "`accelerate` needs Numba: pip install 'sfn-stability[fast]' (and no NUMBA_DISABLE_JIT)."
        )
    return bool(accelerate)


def wanted_error(target_error: Any) -> float | None:
    """The relative standard error to reach; None where the number of paths is given instead."""
    if target_error is None:
        return None
    error = _check.positive("target_error", target_error)
    if not 1e-6 <= error < 1:
        raise ValueError(f"`target_error` is relative: it must be in [1e-6, 1); got {error:g}.")
    return error


def threads(plan: EnsemblePlan, workers: int | None) -> int:
    """How many blocks to run at once; None for as many as help."""
    return plan.useful_workers if workers is None else _check.count("workers", workers)


def host_noise(rng: str | None, plan: EnsemblePlan, backend: Backend) -> bool:
    """Whether random numbers come from the host, and whether a device can run this plan at all."""
    if rng is not None:
        _check.choice("rng", rng, ("host", "device"))
    if backend.name == "numpy":
        if rng == "device":
            raise ValueError(
                "`rng`='device' needs a device: with device='cpu' the random numbers are the host's."
            )
        return True
    if plan.draws_samples:
        raise ValueError(
            "Real minibatches and a noise class's own samples are drawn on the host: use device='cpu'."
        )
    if rng == "device" and plan.refine:
        raise ValueError("`refine` bridges the host's random numbers: use rng='host'.")
    return rng == "host" or bool(plan.refine) or backend.normals(0) is None
