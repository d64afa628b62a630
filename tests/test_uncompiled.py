"""Numba that does not compile (NUMBA_DISABLE_JIT=1, as some debuggers set): every kind of step still runs."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import stability as st
from stability import _fast

SPREAD = st.Noise(gradient=0.1)
BENT = st.Noise(gradient=0.1, curvature=0.1)
SFN = st.SFN(damping=0.3)


def eigenvalues(dim):
    return np.linspace(1.0, -0.2, dim)


FLOWS = {
    "affine": lambda dim: st.Flow(st.quadratic(eigenvalues(dim), rotation_seed=1), SFN, SPREAD, step=0.1),
    "diagonal": lambda dim: st.Flow(st.quadratic(eigenvalues(dim)), SFN, SPREAD, step=0.1),
    "planar": lambda dim: st.Flow(
        st.expression("x**4/4 - x**2/2 + y**2 + x*y/2", ["x", "y"]), SFN, SPREAD, step=0.1
    ),
    "stepwise": lambda dim: st.Flow(st.quadratic(eigenvalues(dim), rotation_seed=1), SFN, BENT, step=0.1),
}
WAYS = {
    "sde": {"level": "sde"},
    "exponential": {"scheme": "exponential"},
    "iteration": {"level": "iteration"},
}
CASES = [
    (kind, dim, way) for kind in FLOWS for dim in (2, 3, 16) for way in WAYS if kind != "planar" or dim == 2
]


def case(kind, dim, way, accelerate):
    """What was compiled, and the mean of a few paths."""
    options = {**WAYS[way], "start": np.full(dim, 0.5), "t_end": 1.0, "paths": 70, "seed": 3}
    found = st.simulate(FLOWS[kind](dim), at=np.zeros(dim), accelerate=accelerate, **options)
    return found.stats["compiled"], found.mean[-1].tolist()


def report():
    """Run by another process, whose Numba does not compile."""
    print(json.dumps({"available": _fast.available(), "cases": [case(*one, None) for one in CASES]}))


@functools.cache
def uncompiled():
    """What `report` found."""
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    command = [sys.executable, "-c", "import test_uncompiled; test_uncompiled.report()"]
    done = subprocess.run(
        command, cwd=Path(__file__).parent, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


pytestmark = pytest.mark.skipif(
    not _fast.available(), reason="Numba is not installed, or does not compile here"
)


def test_the_accelerator_says_that_it_is_not_there():
    assert not uncompiled()["available"]


@pytest.mark.parametrize(("kind", "dim", "way"), CASES)
def test_every_kind_of_step_gives_the_numbers_of_numpy(kind, dim, way):
    compiled, mean = uncompiled()["cases"][CASES.index((kind, dim, way))]
    assert not compiled
    np.testing.assert_allclose(mean, case(kind, dim, way, False)[1], rtol=1e-12)
