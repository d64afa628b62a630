"""The joint tail index of coupled modes: the order at which moments of the random products stop shrinking.

Near a critical point a law's tail is that of ``w+ = B w + additive noise``: its moments are finite up to the
order s at which ``E|B_n ... B_1|^s`` neither grows nor shrinks (Kesten 1973).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from .._check import Unstable
from .._estimate import Estimate
from .._law import Law
from ..exact.mode import exact_mode
from ..methods.memory import Motion
from ..noise import GaussianInputs
from . import growth
from .directions import sharpened
from .draws import Draw, chain_rates, iteration_rates, slope_rates
from .growth import Generator, Plane, Step, zero
from .memory import Course
from .modes import ModalNoise
from .moves import Carry, Move, of_gaussian, of_inputs, of_matrices
from .population import found

DEGREES = {1: 0, 2: 32, 3: 8, 4: 6, 5: 6, 6: 4, 7: 4, 8: 4}
"""Of the polynomials on the sphere, by its dimension: those of two degrees less tell the error."""
MOST = 24
"""Coordinates up to which squares alone, polynomials of degree 2, are few enough."""
ROUGH = 5e-3
"""Share of the index that its error is at least, where only squares are known."""
SHARP = 0.01
"""Share of the index that polynomials may miss before a population of directions is asked."""
CHEAP = 3
"""Coordinates up to which polynomials on the sphere are few."""
ANGLES = (24, 48, 96, 192)
"""On the circle: the first that resolve a kernel."""
FAR = 100.0
"""Indices beyond it that no closed form tells are told by a lower bound."""
ALIKE = 1e-9
"""Relative difference of rates that are held to be equal."""


class Products(NamedTuple):
    """The random products of a linearised flow, and the law of its paths.

    Attributes
    ----------
    noise : ModalNoise
    rates : array (d,)
        Of the modes, with weight decay.
    modes : array (d,) bool
        Which of them move.
    law : Law
    """

    noise: ModalNoise
    rates: np.ndarray
    modes: np.ndarray
    law: Law

    @property
    def continuous(self) -> bool:
        return self.law.time == "continuous"

    @property
    def pull(self) -> np.ndarray:
        """The force on modes that move: minus their rates, without what decays beside a memory's buffer."""
        return -(self.rates if self.motion is None else self.noise.rates)[self.modes]

    @property
    def whole(self) -> bool:
        """Whether the iteration's Hessian noise goes through the gain itself, not its derivative."""
        return self.law.time == "discrete" and self.noise.bends

    @property
    def gaussian(self) -> bool:
        """Whether the matrices are Gaussian, or so many that only their second moments matter."""
        noise = self.noise.noise
        minibatches = self.law.time == "discrete" and noise.objective is not None
        return self.continuous or (noise.linear and not minibatches and not self.whole)

    @property
    def motion(self) -> Motion | None:
        """Of a method with memory: what it does to one mode's state."""
        method, step = self.noise.flow.method, self.noise.flow.step
        memory = method.memory
        return None if memory is None else memory.motion(step, self.law.dt, method.weight_decay)

    @property
    def cheap(self) -> bool:
        """Whether the index is a quadrature, or a matrix's of few entries."""
        noise, size = self.noise, len(self.pull) * (1 if self.motion is None else 2)
        if (
            noise.response is None
            or not noise.noise.has_curvature
            or (size == 1 and (self.gaussian or noise.noise.isotropic))
        ):
            return True
        if self.continuous:
            return size <= CHEAP
        return self.gaussian and (size == 2 or (self.motion is None and _isotropic(self)))

    def kick(self, M: np.ndarray) -> np.ndarray:
        """``E[G M G^T]`` on the modes that move, per iteration."""
        modes = np.flatnonzero(self.modes)
        inner = np.zeros((*M.shape[:-2], len(self.modes), len(self.modes)))
        inner[..., modes[:, None], modes] = M
        assert self.noise.kick is not None
        return self.noise.kick(inner)[..., modes[:, None], modes]

    @property
    def step(self) -> Step:
        """Of positions, or of whole states ``(x, u)`` where there is a memory."""
        course = self.course
        mean = np.block([[np.diag(one) for one in row] for row in course.matrices.transpose(1, 2, 0)])
        lifted, dt = course.lifted(self.kick), course.dt or 1.0
        return Step(mean, lambda M: dt * lifted(M), self.continuous)

    @property
    def course(self) -> Course:
        """What the mean does to one mode's state."""
        if self.motion is not None:
            return Course.of(self.motion, self.pull)
        return Course.alone(self.pull, self.noise.flow.step, self.law.dt)

    def move(self) -> Move:
        """Directions moved by matrices of their own."""
        noise, law, motion = self.noise, self.law, self.motion
        alone = Carry(np.eye(1), np.array([-law.dt]))
        carry = alone if motion is None else Carry(motion.free, motion.force)
        ratio = law.dt / noise.flow.step
        if self.gaussian:
            return of_gaussian(carry, self.pull, lambda M: self.kick(M) / ratio)
        if type(noise.noise) is GaussianInputs and not noise.bends and self.modes.all():
            side = 1.0 if law.time == "discrete" else -1 / math.sqrt(ratio)
            return of_inputs(carry, self.pull, side, noise)
        return of_matrices(carry, self.draw())

    def draw(self) -> Draw:
        """Matrices X of the modes that move."""
        noise, modes = self.noise, np.flatnonzero(self.modes)
        decay = np.diag(noise.rates - self.rates)
        if self.law.time == "chain":
            drawn, inward = chain_rates(noise, self.law.dt / noise.flow.step), np.eye(len(decay))
        elif noise.bends:
            drawn, inward = iteration_rates(noise.flow, noise.at), noise.vectors
        else:
            drawn, inward = slope_rates(noise), np.eye(len(decay))

        def draw(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
            X, reach = drawn(rng, size)
            return (inward.T @ X @ inward + decay)[:, modes[:, None], modes], reach

        return draw


def tail(products: Products, seed: int) -> Estimate:
    """The tail index of what the products carry, and its error; see `LinearFlow.tail`."""
    flow, noise = products.noise.flow, products.noise.noise
    if products.noise.response is None:
        return Estimate(math.inf, 0.0, "the steps of a metric that follows the noise are bounded")
    if not products.modes.any() or not noise.has_curvature or not any(noise.scales):
        return Estimate(math.inf, 0.0, "no noise of the curvature")
    if not products.whole and not np.any(products.kick(np.eye(len(products.pull)))):
        return Estimate(math.inf, 0.0, "one batch undoes the other: no noise of the curvature is left")
    index = _index(products, seed)
    if index.value == 0:
        raise Unstable(
            f"A stationary law does not exist for {flow.method.name} at step {flow.step:g} ({products.law}): "
            "paths grow almost surely. Take a smaller step, larger batches, more damping or less momentum."
        )
    return index


def _index(products: Products, seed: int) -> Estimate:
    step = products.step
    if products.motion is None:
        alone = _alone(products)
        if alone is not None:
            return alone
        alike = _alike(products)
        if alike is not None:
            return alike
    if products.continuous:
        return _continuous(step, products.noise.flow.step, seed)
    if len(step.mean) == 2 and products.gaussian:
        index = _plane(step)
        if index is not None:
            return index
    most, why = _pole(products)
    return found(products.move(), step, seed, exact=not products.whole, most=most, pole=why)


def _told(index: float, error: float) -> Estimate:
    if math.isinf(index):
        return Estimate(index, 0.0, "moments of every order shrink")
    return Estimate(index, error * index)


def _alone(products: Products) -> Estimate | None:
    """Of one mode: in closed form, or by the quadratures of `exact_mode`; None where neither has it."""
    flow, noise = products.noise.flow, products.noise.noise
    if len(products.pull) > 1:
        return None
    pull = float(products.pull[0])
    if products.continuous:
        strength = flow.step * float(products.kick(np.ones((1, 1)))[0, 0])
        # A geometric Brownian motion: |w|^s grows at the rate s ((s - 1) strength / 2 - pull), zero at this
        # s.
        return Estimate(1 + 2 * pull / strength, 0.0)
    plain = noise.isotropic and flow.dim == 1
    if products.law.time == "discrete" and plain:
        lam = float(products.noise.eigenvalues[0])
        mode = exact_mode(flow.method, curvature=lam, noise=noise.multiplicative())
        return _told(mode.tail_index(flow.step), 1e-9)
    return None


def _alike(products: Products) -> Estimate | None:
    """Where one mode is alone, or the law of the matrices is the same in every basis; None elsewhere."""
    noise, dim, pull = products.noise, len(products.pull), float(np.mean(products.pull))
    if products.whole or (dim > 1 and not _isotropic(products)):
        return None
    if not products.gaussian:
        return (
            _inputs(products, pull)
            if isinstance(noise.noise, GaussianInputs) and _isotropic(products)
            else None
        )
    first = np.zeros((dim, dim))
    first[0, 0] = 1.0
    along, across = np.diag(products.kick(first))[[0, -1]]
    step, dt = noise.flow.step, products.law.dt
    if products.continuous:
        # Growth of |w|^s: -s pull + s step ((s - 1) along + (dim - 1) across) / 2.
        index = 1 + (2 * pull / step - (dim - 1) * across) / along
        return Estimate(max(float(index), 0.0), 0.0)
    return _told(zero(growth.of_gaussian(1 - dt * pull, step * dt * along, step * dt * across, dim)), 1e-9)


def _isotropic(products: Products) -> bool:
    """Whether all modes have one curvature and the noise is the same in every basis."""
    noise = products.noise
    model, lam = noise.noise, noise.eigenvalues
    if noise.response.truncated or not products.modes.all() or not _level(lam):
        return False
    if isinstance(model, GaussianInputs):
        inputs: Any = model.covariance
        return type(model) is GaussianInputs and _level(np.linalg.eigvalsh(inputs))
    return model.isotropic


def _level(values: np.ndarray) -> bool:
    return bool(np.ptp(values) <= ALIKE * np.max(np.abs(values)))


def _inputs(products: Products, pull: float) -> Estimate | None:
    """Of one batch of Gaussian inputs of one size in all directions; None where two batches are drawn."""
    noise, model = products.noise, products.noise.noise
    size = float(np.mean(np.linalg.eigvalsh(model.covariance)))  # type: ignore[attr-defined]
    strength, batch = noise.gains[0] * size, model.batch
    if noise.bends:
        if not math.isinf(batch):
            return None
        strength, batch = noise.response.divided[0, 0] * noise.eigenvalues[0] * size, model.hessian_batch
    dt = products.law.dt
    # Noise of the iteration is against the step, of the SDE's chain along it: these laws are skewed.
    side = -1.0 if products.law.time == "discrete" else 1.0
    kick = side * math.sqrt(noise.flow.step * dt) * float(strength)
    law = (1 - dt * pull - kick, -kick / batch, batch, len(products.pull))
    index = zero(growth.of_inputs(*law))
    # The same integrals on a coarser grid: what they differ by is more than the finer one misses.
    rough = zero(growth.of_inputs(*law, fine=20), index or 2.0)
    return _told(index, max(1e-9, abs(rough / index - 1)) if 0 < index < math.inf else 0.0)


def _continuous(step: Step, length: float, seed: int) -> Estimate:
    """By polynomials on the sphere, in coordinates made for the index itself; `length` is a step's.

    Where few of them are known, and they do not settle it, a population of directions goes on from there.
    """
    dim = len(step.mean)
    if dim > MOST:
        chain = f"lin.tail('chain', dt={0.1 * length:g}) is that of a chain of short time steps"
        return Estimate(
            math.nan, math.nan, f"known here of up to {MOST} coordinates, and not of {dim}: {chain}"
        )
    bound, degree = step.bound(), DEGREES.get(dim, 2)
    if bound > FAR:
        return _beyond(bound)
    indices = [bound]
    # Coordinates are made for the index found last. Few functions come near it; all of them twice, whose
    # difference tells whether coordinates have settled; then few in the same coordinates, whose difference
    # tells what still more functions would change.
    for finer in (degree - 2, degree, degree, degree - 2):
        index = zero(Generator(step, indices[-1], finer).rate, indices[-1])
        if not 0 < index < math.inf:
            break
        indices.append(index)
    # A search that ends below the bound, which second moments give exactly, has followed an eigenfunction
    # of changing sign.
    if len(indices) < 5 or 2 < bound > indices[-2]:
        if bound > 2:
            return _beyond(bound)
        # Paths that do not contract have no index at any degree.
        sure = all(zero(Generator(step, 2.0, few).rate) == 0 for few in range(0, degree + 1, 2))
        return Estimate(0.0, 0.0) if sure else Estimate(1.0, 1.0, "below 2: where is not resolved")
    before, index, rough = indices[-3:]
    least = (1e-9 if dim in DEGREES else ROUGH) * index
    error = max(abs(index - before), abs(index - rough), least)
    if error > SHARP * index:
        # Squares suffice to it, and are the same work in few coordinates as in many.
        sharper = sharpened(step, index, 2, seed)
        if sharper is not None and sharper[0] > bound - sharper[1] and sharper[1] < error:
            return Estimate(sharper[0], max(sharper[1], ROUGH * index))
    return Estimate(index, error)


def _beyond(bound: float) -> Estimate:
    return Estimate(bound, math.inf, f"at least {bound:.4g}: where beyond is not resolved")


def _plane(step: Step) -> Estimate | None:
    """By the kernel on the circle; None where the noise does not spread every direction over it."""
    angles = np.pi * np.arange(8) / 8
    u = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    spread = step.noise(u[:, :, None] * u[:, None, :])
    if np.min(np.linalg.eigvalsh(spread)) <= 1e-6 * np.max(spread):
        return None
    bound = step.bound()
    if bound > FAR:
        return _beyond(bound)
    for count in ANGLES:
        plane = Plane(step, count)
        if plane.resolved:
            return _told(zero(plane.rate, bound), 1e-9)
    return None


def _pole(products: Products) -> tuple[float, str]:
    """The order from which one step has no moment, as a Gaussian Hessian batch reaches a pole, and why."""
    flow, noise = products.noise.flow, products.noise.noise
    truncated = flow.method.rank is not None and flow.method.rank < flow.dim
    if not products.whole or not noise.isotropic or truncated:
        return math.inf, ""
    try:
        mode = exact_mode(
            flow.method, curvature=float(products.noise.eigenvalues[0]), noise=noise.multiplicative()
        )
    except ArithmeticError:
        return math.inf, ""
    return mode.pole
