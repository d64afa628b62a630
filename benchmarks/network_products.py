"""Block Hessian products of a network, this library against JAX, side by side on one core each.

python benchmarks/network_products.py [--quick] [--out FILE]

A product is the whole way: from a state, a batch and a block of directions to the block of products, the pass
at the state (ours: `products`; JAX: `linearize`) included. Everything runs in one child process that is
confined to one core; contenders are compared with each other, warm up (compile), then take turns. A full run
writes benchmarks/results/network_products.json.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
from _command import command
from _goals import Goal
from _measure import say, summary

INPUTS, HIDDEN, CLASSES = 64, (128, 64), 10
COLUMNS, ROUNDS = 40, 21
BATCHES = (256, 64, 512)
GOALS = {("float64", 256): 1.0, ("float32", 256): 1.3}
TOLERANCE = {"float64": 1e-12, "float32": 1e-5}


def goals() -> list[Goal]:
    """Shares of JAX's time, for blocks (n, 40) as an eigensolver holds them; "by rows" is Fortran order."""
    cells = [(dtype, batch) for batch in BATCHES for dtype in TOLERANCE]
    return [
        Goal(f"{dtype}/batch-{batch}", "numpy", "jax", GOALS.get((dtype, batch)), "most")
        for dtype, batch in cells
    ] + [
        Goal(f"{dtype}/batch-256", ours, theirs, None, "most")
        for dtype in TOLERANCE
        for ours, theirs in (("by rows", "jax"), ("reused", "numpy"))
    ]


def measured(quick: bool) -> dict:
    rounds = 7 if quick else ROUNDS
    return {
        "cells": {
            f"{dtype}/batch-{batch}": _cell(dtype, batch, rounds) for batch in BATCHES for dtype in TOLERANCE
        },
        "notes": [] if find_spec("jax") else ["jax is not installed (extra `peers`)."],
        "rounds": rounds,
        "problem": {
            "sizes": [INPUTS, *HIDDEN, CLASSES],
            "columns": COLUMNS,
            "activation": "tanh",
            "loss": "cross-entropy",
        },
    }


def _cell(dtype: str, batch: int, rounds: int) -> dict:
    """Every contender's milliseconds on one problem, the best variant of JAX for JAX."""
    began = time.perf_counter()
    contenders, absent = _ours(dtype, batch), {}
    if find_spec("jax"):
        contenders |= _jax(dtype, batch)
    else:
        absent["jax"] = "jax is not installed (extra `peers`)"
    reference, errors = contenders["numpy"](), {}
    for name, run in contenders.items():
        found = run()
        errors[name] = float(np.abs(found - reference).max() / np.abs(reference).max())
    times = _in_turns(contenders, rounds)
    measured = {
        name: {**summary(times[name]), "error": errors[name], "right": errors[name] < TOLERANCE[dtype]}
        for name in contenders
    }
    variants = {name: measured.pop(name) for name in list(measured) if name.startswith("jax")}
    if variants:
        best = min(variants, key=lambda name: variants[name]["median"])
        measured["jax"] = {
            **variants[best],
            "variant": best,
            "screened": {name: round(v["median"], 3) for name, v in variants.items()},
        }
    say(f"{dtype}/batch-{batch}: {time.perf_counter() - began:.0f} s")
    return {"unit": "ms", "contenders": measured, "absent": absent}


def _in_turns(contenders: dict[str, Callable[[], np.ndarray]], rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            gc.collect()
            began = time.perf_counter()
            run()
            times[name].append((time.perf_counter() - began) * 1e3)
    return times


def _problem(dtype: str, batch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs, labels and directions by column."""
    rng = np.random.default_rng(0)
    size = sum((a + 1) * b for a, b in zip((INPUTS, *HIDDEN), (*HIDDEN, CLASSES), strict=True))
    X, V = rng.standard_normal((batch, INPUTS)), rng.standard_normal((size, COLUMNS))
    return X.astype(dtype), rng.integers(0, CLASSES, batch), V.astype(dtype)


def _ours(dtype: str, batch: int) -> dict[str, Callable[[], np.ndarray]]:
    from stability.objectives.network import mlp

    X, y, V = _problem(dtype, batch)
    F = mlp(X, y, HIDDEN, classes=CLASSES, dtype=dtype)
    w, by_rows = F.initial(0), np.asfortranarray(V)
    products = F.products(w)
    return {
        "numpy": lambda: F.products(w)(V),
        "by rows": lambda: F.products(w)(by_rows),
        "reused": lambda: products(V),
    }


def _jax(dtype: str, batch: int) -> dict[str, Callable[[], np.ndarray]]:
    """The same by `linearize` and `vmap`, compiled as one, over columns and over rows of the block."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    from stability.objectives.network import mlp

    X, y, V = _problem(dtype, batch)
    w = jnp.asarray(mlp(X, y, HIDDEN, classes=CLASSES, dtype=dtype).initial(0))
    X, y = jnp.asarray(X), jnp.asarray(y)

    def loss(w: jax.Array, X: jax.Array) -> jax.Array:
        start, a = 0, X
        for inputs, outputs in zip((INPUTS, *HIDDEN), (*HIDDEN, CLASSES), strict=True):
            middle = start + inputs * outputs
            a = jnp.tanh(a) if start else a
            a, start = (
                a @ w[start:middle].reshape(inputs, outputs) + w[middle : middle + outputs],
                middle + outputs,
            )
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(a), y[:, None], axis=1))

    def contender(axis: int, block: np.ndarray) -> Callable[[], np.ndarray]:
        @jax.jit
        def run(w: jax.Array, X: jax.Array, V: jax.Array) -> jax.Array:
            _, product = jax.linearize(lambda w: jax.grad(loss)(w, X), w)
            return jax.vmap(product, in_axes=axis, out_axes=axis)(V)

        V = jnp.asarray(block)
        return lambda: (
            np.asarray(run(w, X, V).block_until_ready())
            if axis
            else np.asarray(run(w, X, V).block_until_ready()).T
        )

    return {"jax columns": contender(1, V), "jax rows": contender(0, V.T)}


if __name__ == "__main__":
    command(__file__, __doc__, measured, goals())
