"""The low-rank eigensolver against a double pass without oversampling, at equal products.

The latter is a common default.

python benchmarks/eigensolver.py [--quick] [--out FILE]

Errors on matrices with chosen eigenvalues, errors of warm starts along a training path, and what the solver
costs beyond its products. All in one child process on one core. A full run (some minutes) writes
benchmarks/results/eigensolver.json; --quick only where --out says.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from _command import command
from _goals import Goal
from _measure import say, summary

N, RANK = 2000, 40
SPECTRA = ("geometric", "harmonic", "network", "repeated")
NOTES = [
    "krylov: block-krylov at 2r products; double: double pass without oversampling, 2r; power: oversampling "
    "10 and one power step, 3(r + 10); "
    "nystrom: 1.5 r; eigsh: to convergence.",
    "geometric: +-0.95^i; harmonic: +-1/i; network: ten outliers 30 * 0.75^i and a bulk 1/(1 + i/100), a "
    "quarter negative; "
    "repeated: +-1 fifteen times each and a tail 0.1 i^-1/2. n = 2000, r = 40; step with "
    "damping |lambda_41|.",
    "path: perceptron 64-12-10 on the digits (n = 910), SGD 0.3, batches of 32; r = 20, a fresh Hessian "
    "batch of 256 every ten steps.",
    "beyond: CPU seconds beside the products, n = 109,061, r = 20; qr: a double pass with LAPACK's QR; +std: "
    "four sub-batches.",
]


def eigenvalues(name: str) -> np.ndarray:
    """Indefinite spectra, by decreasing absolute value."""
    i = np.arange(N)
    sign = np.where(i % 2, -1.0, 1.0)
    if name == "geometric":
        return sign * 0.95**i
    if name == "harmonic":
        return sign / (1.0 + i)
    if (
        name == "network"
    ):  # ten outliers, and a bulk of both signs that hardly decays: three quarters of it positive
        outliers = 30.0 * 0.75 ** np.arange(10)
        return np.concatenate(
            [outliers, np.where(i[10:] % 4, 1.0, -1.0) * (1.0 + (i[10:] - 10) / 100.0) ** -1.0]
        )
    return np.concatenate([np.ones(15), -np.ones(15), 0.1 * sign[30:] * (i[30:] - 29.0) ** -0.5])


def goals() -> list[Goal]:
    ours, theirs = "krylov", "double"
    found = [
        Goal(f"{kind}-{name}", ours, theirs, goal, "most")
        for name in ("geometric", "harmonic")
        for kind, goal in (("error", 0.5), ("step", 0.6))
    ]
    found += [Goal(f"{kind}-network", ours, theirs, 1.05, "most") for kind in ("error", "step")]
    found += [
        Goal("error-repeated", ours, theirs, 1 / 3, "most"),
        Goal("step-repeated", ours, theirs, None, "most"),
    ]
    found += [
        Goal("error-path", "warm", theirs, 1 / 3, "most"),
        Goal("products-path", "warm", theirs, 0.65, "most"),
    ]
    found += [
        Goal(f"{kind}-{name}", other, theirs, None, "most")
        for name in SPECTRA
        for other in ("power", "nystrom", "eigsh")
        for kind in ("error", "step")
    ]
    found += [Goal("error-path", "krylov", theirs, None, "most")]
    for width in ("float32", "float64"):
        found += [
            Goal(f"beyond-{width}", ours, "qr", None, "most"),
            Goal(f"beyond-{width}", ours, "products", None, "most"),
        ]
        found += [
            Goal(f"beyond-{width}", f"{ours}+std", "products", None, "most"),
            Goal(f"beyond-{width}", "warm", "products-warm", None, "most"),
        ]
    return found


METHODS: dict[str, dict] = {
    "krylov": {"method": "block-krylov"},
    "double": {"method": "double-pass"},
    "power": {"method": "double-pass", "oversampling": 10, "power": 1},
    "nystrom": {"method": "nystrom", "residuals": False},
    "eigsh": {"method": "eigsh"},
}


def spectrum_cells(name: str, seeds: int) -> dict[str, dict]:
    """Error of the matrix in units of |lambda_41|, and relative error of the step with that damping."""
    from stability.lowrank.randomized import randomized_eigh

    lam = eigenvalues(name)
    damping = abs(lam[RANK])
    errors: dict[str, list[float]] = {method: [] for method in METHODS}
    steps: dict[str, list[float]] = {method: [] for method in METHODS}
    products = {}
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        q, g = np.linalg.qr(rng.standard_normal((N, N)))[0], rng.standard_normal(N)
        h, u = (q * lam) @ q.T, q[:, :RANK]
        exact = g / damping + u @ ((1 / (np.abs(lam[:RANK]) + damping) - 1 / damping) * (u.T @ g))
        for method, options in METHODS.items():
            eig = randomized_eigh(lambda block, h=h: h @ block, N, RANK, seed=seed, **options)
            errors[method].append(norm(h, eig) / damping)
            steps[method].append(
                float(np.linalg.norm(eig.solve(g, damping=damping) - exact) / np.linalg.norm(exact))
            )
            products[method] = eig.columns
    return {
        f"error-{name}": cell("|l_r+1|", errors, products=products),
        f"step-{name}": cell("relative", steps, products=products),
    }


def norm(h: np.ndarray, eig) -> float:
    """``|H - H_r|_2``."""
    from scipy.sparse.linalg import LinearOperator, eigsh

    def rest(column: np.ndarray) -> np.ndarray:
        return h @ column - eig.apply(column)

    first = np.random.default_rng(0).standard_normal(len(h))
    return float(
        abs(
            eigsh(
                LinearOperator(h.shape, matvec=rest, dtype=float),
                k=1,
                tol=1e-3,
                v0=first,
                return_eigenvectors=False,
            )[0]
        )
    )


def path_cells(seeds: int, refreshes: int, rank: int = 20) -> dict[str, dict]:
    """A perceptron on the digits, trained by SGD, its Hessian on a fresh batch of 256 every ten steps.

    Each warm start is from the one before.
    """
    from sklearn.datasets import load_digits

    from stability.lowrank.randomized import randomized_eigh
    from stability.objectives.network import mlp

    X, y = load_digits(return_X_y=True)
    F = mlp(X / 16.0, y, (12,))
    errors: dict[str, list[float]] = {"warm": [], "double": [], "krylov": []}
    products: dict[str, list[float]] = {name: [] for name in errors}
    for seed in range(seeds):
        rng, w, before = np.random.default_rng(seed), F.initial(seed), None
        for refresh in range(refreshes):
            for _ in range(10):
                w = w - 0.3 * F.gradient(w, rng.integers(0, len(y), 32))
            batch = rng.integers(0, len(y), 256)
            hvp, h = F.products(w, batch), F.hessian(w, batch)
            size = np.sort(np.abs(np.linalg.eigvalsh(h)))[-rank - 1]
            found = {
                name: randomized_eigh(hvp, F.dim, rank, seed=refresh, method=method)
                for name, method in (("krylov", "block-krylov"), ("double", "double-pass"))
            }
            if before is not None:
                found["warm"] = randomized_eigh(hvp, F.dim, rank, seed=refresh, method="warm", start=before)
            before = found.get("warm", found["krylov"])
            for name, eig in found.items():
                errors[name].append(norm(h, eig) / size)
                products[name].append(eig.columns)
    return {"error-path": cell("|l_r+1|", errors), "products-path": cell("products", products)}


def beyond_cell(width: str, rounds: int, rank: int = 20) -> dict:
    """CPU seconds in the products and beyond them, of a 784-128-64-5 perceptron and 256 samples.

    It has n = 109,061 weights.
    """
    from stability.lowrank.randomized import randomized_eigh
    from stability.objectives.network import mlp

    rng = np.random.default_rng(0)
    F = mlp(rng.standard_normal((256, 784)), rng.integers(0, 5, 256), (128, 64), dtype=width)
    w, n, spent = F.initial(0), F.dim, [0.0]

    def clocked(hvp: Callable) -> Callable:
        def product(block: np.ndarray) -> np.ndarray:
            began = time.process_time()
            answer = hvp(block)
            spent[0] += time.process_time() - began
            return answer

        return product

    whole, quarters = clocked(F.products(w)), [clocked(F.products(w, np.arange(i, 256, 4))) for i in range(4)]
    start = randomized_eigh(whole, n, rank, dtype=width)
    runs = {
        "krylov": lambda: randomized_eigh(whole, n, rank, dtype=width),
        "krylov+std": lambda: randomized_eigh(quarters, n, rank, dtype=width),
        "warm": lambda: randomized_eigh(whole, n, rank, method="warm", start=start),
        "qr": lambda: with_lapack(whole, n, rank, width),
    }
    seconds: dict[str, list[float]] = {name: [] for name in (*runs, "products", "products-warm")}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            spent[0], began = 0.0, time.process_time()
            run()
            taken = time.process_time() - began
            if turn:  # the first warms up
                seconds[name].append(taken - spent[0])
                if name in ("krylov", "warm"):
                    seconds["products" if name == "krylov" else "products-warm"].append(spent[0])
    return cell("s", seconds, n=n)


def with_lapack(hvp: Callable, n: int, rank: int, width: str) -> tuple[np.ndarray, np.ndarray]:
    """The double pass as one writes it down: Householder QR of the tall block."""
    q = np.linalg.qr(hvp(np.random.default_rng(0).standard_normal((n, rank)).astype(width)))[0]
    core = q.T @ hvp(q)
    values, turn = np.linalg.eigh((core + core.T) / 2)
    return values, q @ turn


def cell(unit: str, values: dict[str, list[float]], **more: object) -> dict:
    return {
        "unit": unit,
        "contenders": {name: {**summary(v), "right": True} for name, v in values.items()},
        "absent": {},
        **more,
    }


def measured(quick: bool) -> dict:
    cells = {}
    for name in SPECTRA:
        cells |= spectrum_cells(name, 2 if quick else 9)
        say(f"{name} done")
    cells |= path_cells(1 if quick else 5, 6 if quick else 40)
    say("path done")
    cells |= {f"beyond-{width}": beyond_cell(width, 2 if quick else 7) for width in ("float32", "float64")}
    return {"cells": cells, "notes": NOTES}


if __name__ == "__main__":
    command(__file__, __doc__, measured, goals())
