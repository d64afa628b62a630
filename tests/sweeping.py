"""Studies for the tests of sweeps; workers import them from here."""

import os
import signal
import time
from pathlib import Path

import numpy as np

import stability as st

GAIN = 2.0


def note(log):
    """Leave a mark that the study was called; appends of a few bytes are whole."""
    if log:
        with open(log, "ab") as stream:
            stream.write(b".")


def square(x, log=""):
    note(log)
    return {"y": GAIN * x * x}


def plane(x, y):
    return {"sum": x + y, "stable": x * y < 2.0, "word": f"{x}-{y}", "path": [x, y, x * y]}


def draws(x, rng, seed=None):
    return {"normals": rng.standard_normal(3), "shifted": x + rng.random()}


def stable(rate, step):
    if step * rate >= 2.0:
        raise st.Unstable(f"the step {step:g} is beyond {2 / rate:g}")
    return {"radius": abs(1 - step * rate)}


def radius(rate, step):
    return {"radius": abs(1 - step * rate)}


def fails(x, log="", until=""):
    note(log)
    if x == 2 and not (until and Path(until).exists()):
        raise RuntimeError("no such thing")
    return {"y": float(x)}


def dies(x):
    if x == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"y": float(x)}


def waits(x, log="", seconds=0.02):
    note(log)
    time.sleep(seconds)
    return {"y": np.sqrt(x), "parts": np.arange(3.0) * x}


def returns(kind):
    return {
        "ragged": {"y": [[1.0], [1.0, 2.0]]},
        "nan": {"y": np.nan},
        "told": {"y": np.inf, "reason": "it diverged"},
        "text": "a text",
        "complex": {"y": 1j},
        "own name": {"kind": 1.0},
        "reserved": {"status": 1.0},
        "many": {"y": np.zeros(200_000)},
        "number": 3.0,
        "estimate": {"y": st.exact_mode(st.SGD(), curvature=1.0, noise=st.Noise()).moment(2, step=0.5)},
        "exit": {},
    }[kind]


def lengths(n, deep=False):
    return {"y": np.ones((n, n)) if deep else np.ones(n)}


def threads(x):
    import threadpoolctl

    from stability._cores import cores

    counts = [pool["num_threads"] for pool in threadpoolctl.threadpool_info()]
    return {"blas": max(counts), "cores": cores()}


def method(kappa, method):
    flow = st.Flow(st.quadratic([1.0, 1 / kappa]), method, st.Noise(gradient=1.0), step=0.1)
    return {"limit": st.linearize(flow).step_limit()}


def stops(x):
    raise SystemExit


def length(x):
    return {"y": len(x)}


def four(a, b, c, d):
    return {"sum": a + b + c + d}


def odd(k, seed):
    return {"a": [1, 2], "a_0": 3.0, "k_seed": 1.0, "text": "x\0y\udc80", "empty": np.zeros(0)}
