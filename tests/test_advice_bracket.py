"""The bracket of a limit from few directions holds the limit of all modes, and says what it is."""

import dataclasses
import math

import numpy as np
import pytest

import stability as st
from stability.advice.closure import Blocks, Closed
from stability.methods.memory import Memory


class Plain:
    """A user's own objective, with samples' Hessians and no factors: few directions are paid for."""

    def __init__(self, F):
        self.F, self.dim, self.n_samples = F, F.dim, F.n_samples

    def gradient(self, w, batch=None):
        return self.F.gradient(w, batch=batch)

    def hvp(self, w, V, batch=None):
        return self.F.hvp(w, V, batch=batch)

    def per_sample_gradient(self, w, batch=None):
        return self.F.per_sample_gradient(w, batch=batch)

    def per_sample_hessian(self, w, batch=None):
        return self.F.per_sample_hessian(w, batch=batch)


def flat():
    """A spectrum without a gap."""
    rng = np.random.default_rng(3)
    X = rng.normal(size=(300, 50)) * np.linspace(1.0, 0.6, 50)
    return st.least_squares(X, rng.normal(size=300)), np.zeros(50)


def long_rows():
    rng = np.random.default_rng(4)
    X = rng.normal(size=(400, 40)) * rng.lognormal(0, 0.7, (400, 1))
    return st.least_squares(X, rng.normal(size=400)), np.zeros(40)


def rare_columns():
    """Of 0.5 % of the rows: few samples carry each."""
    rng = np.random.default_rng(1)
    X = (rng.random((1000, 50)) < 0.005).astype(float)
    X[:, :10] = rng.normal(size=(1000, 10))
    X = (X - X.mean(axis=0)) / np.maximum(X.std(axis=0), 1e-3)
    return st.least_squares(X, rng.normal(size=1000)), np.zeros(50)


def cubic():
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed")
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler

    X, y = datasets.load_diabetes(return_X_y=True)
    X = PolynomialFeatures(3, include_bias=False).fit_transform(StandardScaler().fit_transform(X))
    X = StandardScaler().fit_transform(X)[:, np.random.default_rng(0).permutation(X.shape[1])[:40]]
    return st.least_squares(X, y / y.std()), np.zeros(40)


def network():
    """Overfitted: its samples bend down too."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, 4))
    F = st.mlp(X, (X[:, 0] * X[:, 1] > 0).astype(int), hidden=(4,))
    w = st.minimize(F, F.initial(0), method=st.SGD(), step=0.3, batch=16, sweeps=60, seed=0).final
    return F, w


PLAIN, BALL = st.SGD(), st.Momentum(st.SGD(), 0.9)
NESTEROV, DECAY = st.Momentum(st.SGD(), 0.8, nesterov=True), st.SGD(weight_decay=0.5)
CASES = [  # batch, samples looked at of how many there are, and whether the objective is a user's own
    (flat, PLAIN, 8, 2048, True),
    (flat, PLAIN, 8, 100, True),
    (long_rows, PLAIN, 8, 2048, True),
    (long_rows, NESTEROV, 8, 2048, True),
    (long_rows, DECAY, 8, 150, True),
    (rare_columns, PLAIN, 32, 2048, True),
    (rare_columns, PLAIN, 32, 300, False),
    (cubic, PLAIN, 32, 2048, True),
    (cubic, BALL, 32, 2048, True),
    (cubic, st.Adam(), 32, 2048, True),
    (network, BALL, 16, 2048, False),
    (network, st.Adam(), 16, 2048, True),
    (network, PLAIN, 16, 60, True),
]


def held(case, seeds):
    """Whether the bracket held the truth, and both ends over it, of each seed."""
    make, method, batch, samples, plain = case
    F, w = make()
    truth = st.advise(F, w, method=method, step=1e-3, batch=batch, exact=True).step_limit
    found = []
    for seed in seeds:
        advice = st.advise(
            Plain(F) if plain else F,
            w,
            method=method,
            step=1e-3,
            batch=batch,
            samples=samples,
            exact=False,
            seed=seed,
        )
        low, high = np.array(advice.step_limit_bracket) / truth
        assert low <= advice.step_limit / truth <= high * (1 + 1e-9)
        assert math.isnan(advice.confidence)
        assert advice.stats["gradients"] <= 61
        found.append((low <= 1 + 1e-6 and high >= 1 - 1e-6, low, high))
    return np.array(found)


def name(case):
    return f"{case[0].__name__}-{case[1].label}-{case[3]}"


@pytest.mark.parametrize("case", [CASES[i] for i in (1, 2, 5, 8, 10)], ids=name)
def test_the_bracket_holds_the_limit_of_all_modes(case):
    """Where the interval that was told with probability .95 held it in one of four."""
    assert held(case, range(2))[:, 0].all()


@pytest.mark.slow
def test_brackets_hold_the_limit_as_often_as_a_reader_would_expect():
    """Of 104 cases and starts; in none is the lower end below a hundredth where all samples were seen."""
    found = {name(case): held(case, range(100, 108)) for case in CASES}
    every = np.concatenate(list(found.values()))
    assert len(every) >= 100
    assert every[:, 0].mean() >= 0.95, {key: value[:, 0].mean() for key, value in found.items()}
    whole = np.concatenate([found[name(case)] for case in CASES if case[3] == 2048])
    assert whole[:, 1].min() > 0.01
    assert np.median(whole[:, 1]) > 0.1
    assert np.median(whole[:, 2]) < 3


# -- directions alone bound the limit -----------------------------------------------------------------


@pytest.mark.parametrize("memory", [Memory(0.0), Memory(0.9), Memory(0.9, average=True)])
def test_directions_that_are_no_eigenvectors_allow_more_than_all_do(memory):
    """With memory only if their spread over eigenvectors is counted: else some would say less."""
    rng = np.random.default_rng(0)
    Z = rng.normal(size=(200, 6)) * np.array([3.0, 2.0, 1.0, 0.7, 0.5, 0.3])
    Z[0] = 12.0  # a sample that leans on all of them
    samples = Z[:, :, None] * Z[:, None]
    H = samples.mean(axis=0)
    every, turned = Blocks.of(samples, H, 0)
    leader = Closed(every, 0.1, memory).leader
    over, without = [], []
    for size in (0.0, 0.1, 0.3, 1.0):
        lead = turned @ np.linalg.eigh(leader.W)[1][:, -2:]
        V = np.linalg.qr(lead + size * rng.normal(size=(6, 2)))[0]
        block, turn = Blocks.of(V.T @ samples @ V, V.T @ H @ V, 0)
        leak = turn.T @ V.T @ H @ (np.eye(6) - V @ V.T) @ H @ V @ turn
        without.append(Closed(block, 0.1, memory).leader.limit / leader.limit)
        over.append(Closed(dataclasses.replace(block, leak=leak), 0.1, memory).leader.limit / leader.limit)
    assert min(over) >= 1 - 1e-9
    if memory.beta:
        assert min(without) < 0.995
    else:
        np.testing.assert_allclose(over, without)


# -- and says what it is ------------------------------------------------------------------------------


def test_what_the_bracket_is_stands_beside_it():
    F, w = flat()
    known = st.advise(F, w, step=0.1, batch=8)
    assert known.exact
    assert known.confidence == 1
    assert known.step_limit_bracket == (known.step_limit, known.step_limit)
    guessed = st.advise(F, w, step=0.1, batch=8, exact=False)
    low, high = guessed.step_limit_bracket
    assert f"{low:.3g} to {high:.3g}, estimated" in str(guessed)
    assert "probability" not in str(guessed)
    whole = st.advise(F, w, step=0.1, batch=300, exact=False)  # all samples: no noise
    assert whole.confidence == 0.95
    assert "with probability 0.95" in str(whole)
    assert whole.step_limit_bracket[0] < st.advise(F, w, step=0.1, batch=300).step_limit
    assert guessed.to_json()["confidence"] is None
