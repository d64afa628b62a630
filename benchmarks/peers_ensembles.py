"""The peers in the forms that their users would call fast; which is fastest here is measured."""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
from _measure import Contender
from _problems import DAMPING, Problem, quartic

CHUNK = 2**15
"""Normals per call of the bare draw: 256 kB, within a core's cache."""

FRESH = "torchsde*"
"""torchsde with a Brownian motion of our own that draws fresh normals at every query: what diffrax ships and
torchsde does not.
"""


def missing(name: str) -> str | None:
    """Why a peer cannot be measured, as a sentence; None if it can."""
    needs = {
        "diffrax": ("jax", "diffrax"),
        "torchsde": ("torch", "torchsde"),
        FRESH: ("torch", "torchsde"),
        "sdeint": ("sdeint",),
        "draw": (),
    }[name]
    absent = [package for package in needs if find_spec(package) is None]
    return f"{name} is left out: {' and '.join(absent)} not installed (extra `peers`)." if absent else None


def contenders(name: str, problem: Problem, threads: int, most: int | None = None) -> list[Contender]:
    """The variants of a peer on a problem; with `most`, the first ones, which won in full runs."""
    variants = {
        "draw": _draw,
        "diffrax": _diffrax,
        "torchsde": _torchsde,
        FRESH: _torchsde_fresh,
        "sdeint": _sdeint,
    }[name](problem, threads)[:most]
    return [Contender(name, variant, run, paths, problem.steps) for variant, run, paths in variants]


def _draw(problem: Problem, threads: int) -> list:
    """NumPy drawing as many normals as the ensemble needs, and nothing else."""
    whole, rest = divmod(problem.paths * problem.steps * problem.dim, CHUNK)
    buffer = np.empty(CHUNK)

    def run(seed: int) -> None:
        rng = np.random.Generator(np.random.SFC64(seed))
        for _ in range(whole):
            rng.standard_normal(out=buffer)
        rng.standard_normal(out=buffer[:rest])

    return [(f"SFC64, {CHUNK} at a time", run, problem.paths)]


# --- diffrax ---


def _diffrax(problem: Problem, threads: int) -> list:
    import jax

    jax.config.update("jax_enable_x64", True)
    forms = _diffrax_ou(problem) if problem.kind == "ou" else _diffrax_sfn(problem)
    variants = [(form, solve("threefry2x32"), problem.paths) for form, solve in forms.items()]
    if (
        problem.kind == "ou"
    ):  # JAX's other generator; SFN's cost is the eigendecomposition, whatever the generator
        variants.append(("one batched solve, rbg keys", forms["one batched solve"]("rbg"), problem.paths))
    return variants


def _solve(problem: Problem, terms: Callable, y0: np.ndarray, key):
    """One compiled diffrax solve; `terms` makes its terms from a Brownian path."""
    import diffrax

    path = diffrax.UnsafeBrownianPath(shape=y0.shape, key=key)
    solution = diffrax.diffeqsolve(
        terms(path),
        diffrax.Euler(),
        0.0,
        problem.t_end,
        problem.dt,
        y0,
        saveat=diffrax.SaveAt(t1=True),
        adjoint=diffrax.ForwardMode(),  # no tape: nothing is differentiated
        max_steps=None,
        throw=False,
    )
    return solution.ys[-1]


def _together(problem: Problem, terms: Callable, columns: bool = False) -> Callable:
    """One batched solve: the whole ensemble is the state, (paths, d) or, as columns, (d, paths)."""

    def with_keys(kind: str) -> Callable[[int], np.ndarray]:
        import jax

        y0 = jax.numpy.asarray(np.tile(problem.start, (problem.paths, 1)))
        y0 = y0.T.copy() if columns else y0
        compiled = jax.jit(lambda key: _solve(problem, terms, y0, key))

        def run(seed: int) -> np.ndarray:
            states = np.asarray(compiled(jax.random.key(seed, impl=kind)))
            return states.T if columns else states

        return run

    return with_keys


def _apart(problem: Problem, terms: Callable) -> Callable:
    """``vmap`` over paths, one solve each."""

    def with_keys(kind: str) -> Callable[[int], np.ndarray]:
        import jax

        y0 = jax.numpy.asarray(problem.start)
        compiled = jax.jit(jax.vmap(lambda key: _solve(problem, terms, y0, key)))
        return lambda seed: np.asarray(
            compiled(jax.random.split(jax.random.key(seed, impl=kind), problem.paths))
        )

    return with_keys


def _diffrax_ou(problem: Problem) -> dict:
    import diffrax
    import jax.numpy as jnp
    import lineax as lx

    matrix, strength = jnp.asarray(problem.matrix()), np.sqrt(problem.dt) * problem.sigma

    def terms(drift: Callable) -> Callable:
        def make(path):
            noise = diffrax.ControlTerm(
                lambda t, y, args: lx.DiagonalLinearOperator(jnp.full(y.shape, strength)), path
            )
            return diffrax.MultiTerm(diffrax.ODETerm(drift), noise)

        return make

    if problem.diagonal:
        values = jnp.diag(matrix)
        simple = terms(lambda t, y, args: -y * values)
        turned = terms(lambda t, y, args: -y * values[:, None])
        return {
            "one batched solve": _together(problem, simple),
            "one batched solve (d, paths)": _together(problem, turned, columns=True),
        }
    forms = {
        "one batched solve": _together(problem, terms(lambda t, y, args: -(y @ matrix))),
        "one batched solve (d, paths)": _together(
            problem, terms(lambda t, y, args: -(matrix @ y)), columns=True
        ),
        "vmap": _apart(problem, terms(lambda t, y, args: -(matrix @ y))),
    }
    if problem.dim <= 2:  # small enough that a sum which XLA fuses may beat its matrix product
        fused = terms(lambda t, y, args: -sum(matrix[:, i : i + 1] * y[i] for i in range(problem.dim)))
        forms["one batched solve (d, paths), product as a sum"] = _together(problem, fused, columns=True)
    return forms


def _diffrax_sfn(problem: Problem) -> dict:
    import diffrax
    import jax.numpy as jnp
    import lineax as lx

    strength = np.sqrt(problem.dt) * problem.sigma

    def local(w):
        gradient, hessian = quartic(w, jnp)
        values, vectors = jnp.linalg.eigh(hessian)
        return gradient, vectors, 1 / (jnp.abs(values) + DAMPING)

    def apply(vectors, gains, v):
        return (vectors @ (gains[..., None] * (jnp.swapaxes(vectors, -1, -2) @ v[..., None])))[..., 0]

    def drift(t, w, args):
        gradient, vectors, gains = local(w)
        return -apply(vectors, gains, gradient)

    def diffusion(t, w, args):
        _, vectors, gains = local(w)
        if w.ndim == 1:
            return strength * (vectors * gains) @ vectors.T
        return lx.FunctionLinearOperator(lambda v: strength * apply(vectors, gains, v), w)

    class Shared(diffrax.AbstractTerm):
        """Drift and noise in one term, so that one preconditioner serves both."""

        path: diffrax.UnsafeBrownianPath

        def vf(self, t, y, args):
            return local(y)

        def contr(self, t0, t1, **kwargs):
            return t1 - t0, self.path.evaluate(t0, t1)

        def prod(self, vf, control):
            gradient, vectors, gains = vf
            return apply(vectors, gains, strength * control[1] - control[0] * gradient)

    def separate(path):
        return diffrax.MultiTerm(diffrax.ODETerm(drift), diffrax.ControlTerm(diffusion, path))

    return {
        "vmap, drift and diffusion": _apart(problem, separate),
        "one batched solve, drift and diffusion": _together(problem, separate),
        "vmap, one shared term": _apart(problem, Shared),
        "one batched solve, one shared term": _together(problem, Shared),
    }


# --- torchsde ---


def _torchsde(problem: Problem, threads: int) -> list:
    """torchsde as it ships: BrownianInterval, which can answer any query again.

    As it comes, and with the steps told in advance.
    """
    import torch
    import torchsde

    size = (problem.paths, problem.dim)
    interval = functools.partial(
        torchsde.BrownianInterval, t0=0.0, t1=problem.t_end, size=size, dtype=torch.float64
    )
    noises = {
        "BrownianInterval(dt)": lambda seed: interval(entropy=seed, dt=problem.dt),
        "BrownianInterval(dt, long cache)": lambda seed: interval(
            entropy=seed, dt=problem.dt, cache_size=2 * problem.steps
        ),
        "BrownianInterval": lambda seed: interval(entropy=seed),
    }
    equations = _torch_equations(problem)
    variants = [
        (form, noise, count) for form in equations for noise in noises for count in _thread_counts(threads)
    ]
    return [
        (
            f"{form}, {noise}, threads: {count}",
            _torch_run(problem, equations[form], noises[noise], count),
            problem.paths,
        )
        for form, noise, count in variants
    ]


def _torchsde_fresh(problem: Problem, threads: int) -> list:
    equations, noise = (
        _torch_equations(problem),
        functools.partial(_fresh_normals(), (problem.paths, problem.dim)),
    )
    variants = [(form, count) for form in equations for count in _thread_counts(threads)]
    return [
        (
            f"{form}, fresh normals, threads: {count}",
            _torch_run(problem, equations[form], noise, count),
            problem.paths,
        )
        for form, count in variants
    ]


def _thread_counts(threads: int) -> list[int]:
    """PyTorch's threads do not always pay: one is tried, too."""
    return sorted({1, threads}, reverse=True)


def _torch_equations(problem: Problem) -> dict:
    """The forms of a problem, best first."""
    return _torch_ou(problem) if problem.kind == "ou" else _torch_sfn(problem)


def _torch_run(problem: Problem, sde, noise: Callable, threads: int) -> Callable[[int], np.ndarray]:
    import torch
    import torchsde

    y0 = torch.tensor(np.tile(problem.start, (problem.paths, 1)))
    times = torch.tensor([0.0, problem.t_end], dtype=torch.float64)

    def run(seed: int) -> np.ndarray:
        torch.set_num_threads(threads)
        with torch.inference_mode():
            return torchsde.sdeint(sde, y0, times, bm=noise(seed), method="euler", dt=problem.dt)[-1].numpy()

    return run


@functools.cache
def _fresh_normals() -> type:
    """Like diffrax's UnsafeBrownianPath: new normals at every query, good for fixed steps only."""
    import torch
    import torchsde

    class FreshNormals(torchsde.BaseBrownian):
        dtype, device, levy_area_approximation, shape = torch.float64, torch.device("cpu"), "none", None

        def __init__(self, size: tuple[int, int], seed: int):
            self.shape, self.generator = size, torch.Generator().manual_seed(seed)

        def __call__(self, ta, tb=None, return_U=False, return_A=False):
            return torch.randn(self.shape, dtype=torch.float64, generator=self.generator).mul_(
                float(tb - ta) ** 0.5
            )

        def __repr__(self) -> str:
            return "fresh normals"

    return FreshNormals


class _Equation:
    """What torchsde asks of an equation: its types, and its callables by their names there."""

    sde_type = "ito"

    def __init__(self, noise_type: str, **callables: Callable):
        self.noise_type = noise_type
        vars(self).update(callables)


def _torch_ou(problem: Problem) -> dict[str, _Equation]:
    import torch

    matrix, strength = torch.tensor(problem.matrix()), np.sqrt(problem.dt) * problem.sigma
    values = torch.diagonal(matrix).clone()
    ones = torch.full((problem.paths, problem.dim), strength, dtype=torch.float64)

    def drift(t, y):
        return -values * y if problem.diagonal else -(y @ matrix)

    return {
        "diagonal noise, g_prod": _Equation(
            "diagonal", f=drift, g=lambda t, y: ones, g_prod=lambda t, y, v: strength * v
        ),
        "diagonal noise": _Equation("diagonal", f=drift, g=lambda t, y: ones),
    }


def _torch_sfn(problem: Problem) -> dict[str, _Equation]:
    import torch

    strength, eye = np.sqrt(problem.dt) * problem.sigma, torch.eye(problem.dim - 1, dtype=torch.float64)

    def local(w):
        x, y = w[:, :1], w[:, 1:]
        square, side, across = (y**2).sum(dim=1, keepdim=True), 0.5 * (1 + x**2), x * y
        gradient = torch.cat([x**3 - x + 0.5 * x * square, side * y], dim=1)
        below = torch.cat([across[:, :, None], side[:, :, None] * eye], dim=2)
        hessian = torch.cat([torch.cat([3 * x**2 - 1 + 0.5 * square, across], dim=1)[:, None], below], dim=1)
        values, vectors = torch.linalg.eigh(hessian)
        return gradient, vectors, 1 / (values.abs() + DAMPING)

    def apply(vectors, gains, v):
        return (vectors @ (gains[..., None] * (vectors.mT @ v[..., None])))[..., 0]

    def drift(t, w):
        gradient, vectors, gains = local(w)
        return -apply(vectors, gains, gradient)

    def diffusion(t, w):
        _, vectors, gains = local(w)
        return strength * (vectors * gains[:, None]) @ vectors.mT

    def both(t, w, v):
        gradient, vectors, gains = local(w)
        return -apply(vectors, gains, gradient), strength * apply(vectors, gains, v)

    return {
        "one shared f_and_g_prod": _Equation("general", f=drift, g=diffusion, f_and_g_prod=both),
        "drift and diffusion": _Equation("general", f=drift, g=diffusion),
    }


# --- sdeint ---


def _sdeint(problem: Problem, threads: int) -> list:
    """One path per call: few paths are enough for a cost per path-step."""
    import sdeint

    matrix, diffusion = problem.matrix(), np.sqrt(problem.dt) * problem.sigma * np.eye(problem.dim)
    times = np.arange(problem.steps + 1) * problem.dt
    paths = min(problem.paths, 200)

    def run(seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        solve = functools.partial(
            sdeint.itoEuler,
            lambda y, t: -(matrix @ y),
            lambda y, t: diffusion,
            problem.start,
            times,
            generator=rng,
        )
        return np.stack([solve()[-1] for _ in range(paths)])

    return [("itoEuler, path by path", run, paths)]
