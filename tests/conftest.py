"""Shared by the tests: the methods with literal closed forms, and matrices with chosen eigenvalues."""

import numpy as np
import pytest

import stability as st

GAMMA = 0.3

# The literal closed forms, written a second time on purpose: gain, its derivative and its second derivative.
LITERAL = {
    "SGD": (lambda x: np.ones_like(x), lambda x: np.zeros_like(x), lambda x: np.zeros_like(x)),
    "Newton": (lambda x: 1 / x, lambda x: -1 / x**2, lambda x: 2 / x**3),
    "damped Newton": (lambda x: 1 / (x + GAMMA), lambda x: -1 / (x + GAMMA) ** 2, lambda x: 2 / (x + GAMMA) ** 3),
    "SFN": (lambda x: 1 / (np.abs(x) + GAMMA), lambda x: -np.sign(x) / (np.abs(x) + GAMMA) ** 2, lambda x: 2 / (np.abs(x) + GAMMA) ** 3),
}


def smooth_methods():
    return [st.SGD(), st.Newton(), st.DampedNewton(damping=GAMMA), st.SFN(damping=GAMMA)]


def all_methods(rank=2):
    return [*smooth_methods(), st.LRSFN(rank=rank, damping=GAMMA), st.LRSFN(rank=rank, damping=GAMMA, tail="flat")]


def label(method):
    return method.label.replace(" ", "-")


@pytest.fixture
def rotation():
    return np.linalg.qr(np.random.default_rng(7).standard_normal((5, 5)))[0]


@pytest.fixture
def rng():
    return np.random.default_rng(11)
