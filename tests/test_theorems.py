"""Theorems: their literal closed forms, their checks, and that both fail where a gain is changed."""

import ast
import dataclasses
import functools
import itertools
import json
import math
import time
import typing

import matplotlib.mathtext
import mpmath
import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import sympy
from conftest import GAMMA
from sources import FILES, nodes

import stability as st
from stability.methods.formula import Symbolic
from stability.symbolic.limit import limited
from stability.symbolic.mode import RESERVED
from stability.symbolic.registry import STATEMENTS, vanishes
from stability.symbolic.theorem import applies, shipped

NAMES = st.theorems()
METHODS = {
    "SGD": st.SGD(),
    "Newton": st.Newton(),
    "damped Newton": st.DampedNewton(damping=GAMMA),
    "SFN": st.SFN(damping=GAMMA),
    "LRSFN": st.LRSFN(rank=1, damping=GAMMA),
    "LRSFN flat": st.LRSFN(rank=1, damping=GAMMA, tail="flat"),
}

# The gains and their derivatives once more, literally: of a kept mode, and off the kept subspace.
KEPT = {
    "SGD": (lambda x: 1.0, lambda x: 0.0),
    "Newton": (lambda x: 1 / x, lambda x: -1 / x**2),
    "damped Newton": (lambda x: 1 / (x + GAMMA), lambda x: -1 / (x + GAMMA) ** 2),
    "SFN": (lambda x: 1 / (abs(x) + GAMMA), lambda x: -np.sign(x) / (abs(x) + GAMMA) ** 2),
}
KEPT["LRSFN"] = KEPT["LRSFN flat"] = KEPT["SFN"]
TAIL = {"LRSFN": lambda following: 1 / GAMMA, "LRSFN flat": lambda following: 1 / (following + GAMMA)}


def noise(v, p, d):
    """K, the variance of ``phi E_g + phi' lambda E_h``."""
    return p**2 * v["s_g"] ** 2 + 2 * p * d * v["lam"] * v["c_gh"] + d**2 * v["lam"] ** 2 * v["s_h"] ** 2


def hypergeometric(v, p):
    rate, diffusion = -p * v["lam"], v["step"] * p**2 * v["sigma"] ** 2
    return float(v["R"] ** 2 / diffusion * mpmath.hyp2f2(1, 1, 1.5, 2, -rate * v["R"] ** 2 / diffusion))


def pole_density(v, place):
    return 2 * scipy.stats.norm.pdf(place - v["lam"], scale=v["s_h"])


# Per theorem: the closed form from the literal gain p and slope d (the tail's where it is about the tail).
CLOSED = {
    "noise-amplification": lambda m, v, p, d: v["step"] * v["sigma"] ** 2 * p / (2 * v["lam"]),
    "excess-risk": lambda m, v, p, d: v["step"] * v["sigma"] ** 2 * p / 4,
    "aligned-noise": lambda m, v, p, d: v["step"] * v["sigma"] ** 2 * p / 2,
    "equal-rates": lambda m, v, p, d: (
        KEPT[m][0](v["lam"]) / (TAIL[m](v["lam_next"]) if m in TAIL else KEPT[m][0](v["lam_min"]))
    ),
    "discrete-vs-continuous": lambda m, v, p, d: (
        v["step"] * v["sigma"] ** 2 * p / (v["lam"] * (2 - v["dt"] * p * v["lam"]))
    ),
    "damping": lambda m, v, p, d: p * v["lam"],
    "mean-square-step-limit": lambda m, v, p, d: 2 * p * v["lam"] / (p**2 * v["lam"] ** 2 + noise(v, p, d)),
    "same-batch-cancellation": lambda m, v, p, d: (
        2 * p * v["lam"] / (p**2 * v["lam"] ** 2 + v["s_g"] ** 2 * (p + d * v["lam"]) ** 2)
    ),
    "truncation-gap": lambda m, v, p, d: (p - TAIL[m](v["lam_next"])) / (v["lam"] - v["lam_next"]),
    "truncation-limit": lambda m, v, p, d: 2 / (p * v["lam_next"]),
    "finite-data-limit": lambda m, v, p, d: (
        2 * v["lam"] / (p * (v["lam"] ** 2 + v["V"] * (v["n"] - v["b"]) / (v["b"] * (v["n"] - 1))))
    ),
    "student-t": lambda m, v, p, d: 1 + 2 * p * v["lam"] / (v["step"] * noise(v, p, d)),
    "heavy-tailed-newton": lambda m, v, p, d: {
        "Newton": pole_density(v, 0.0),
        "damped Newton": pole_density(v, -GAMMA),
    }.get(m, 0.0),
    "bounded-sfn-step": lambda m, v, p, d: {"SGD": 1.0, "Newton": math.inf, "damped Newton": math.inf}.get(
        m, 1 / GAMMA
    ),
    "saddle-attraction": lambda m, v, p, d: -p * v["lam"],
    "escape-time": lambda m, v, p, d: hypergeometric(v, p),
    "trajectory-noise": lambda m, v, p, d: -p * v["h"] - d * v["k"] * v["g"],
    "weak-order": lambda m, v, p, d: (
        -((p * v["lam"]) ** 2) * v["t"] * math.exp(-2 * p * v["lam"] * v["t"]) * v["delta_0"] ** 2
    ),
    "averaging": lambda m, v, p, d: v["sigma"] ** 2 / v["lam"] ** 2,
    "noise-exponent": lambda m, v, p, d: v["step"] * v["c"] * v["lam"] ** v["g"] * p / 4,
    "damping-removes-the-edge": lambda m, v, p, d: 2 / (p * v["lam"]),
    "critical-batch": lambda m, v, p, d: 1 / (p * v["lam"]) / (1 + v["sigma"] ** 2 / v["g"] ** 2 / v["b"]),
    "noise-floor": lambda m, v, p, d: v["step"] * p * v["sigma"] ** 2 / 4,
    "streaming-limit": lambda m, v, p, d: 2 * v["b"] / ((v["b"] + 2) * p * v["lam"]),
    "wishart-newton": lambda m, v, p, d: (
        2 * (v["m"] - v["d"]) * (v["m"] - v["d"] - 3) / (v["m"] * (v["m"] - 1))
    ),
    "sample-space": lambda m, v, p, d: 2 / (p * v["lam"]),
    "batch-sharpness": lambda m, v, p, d: p * (v["lam"] ** 2 + v["s_g"] ** 2) / v["lam"],
    "momentum": lambda m, v, p, d: (
        2
        * (1 - v["beta"] ** 2)
        * p
        * v["lam"]
        / ((1 + v["beta"]) * noise(v, p, d) + (1 - v["beta"]) * (p * v["lam"]) ** 2)
    ),
    "adaptive-metric": lambda m, v, p, d: v["step"] * v["sigma"] ** 2 / (2 * v["lam"] * (v["sigma"] + 1e-8)),
}


def values(name, rng):
    """One admissible set of values for every symbol that any statement takes."""
    lam = rng.uniform(0.7, 2.0)
    drawn = {
        "lam": lam,
        "lam_next": lam * rng.uniform(0.3, 0.9),
        "step": rng.uniform(0.05, 0.3),
        "sigma": rng.uniform(0.2, 2.0),
    }
    drawn |= {
        "s_g": rng.uniform(0.1, 0.5),
        "s_h": rng.uniform(0.1, 0.5),
        "dt": rng.uniform(0.01, 0.3),
        "R": rng.uniform(0.1, 0.5),
    }
    drawn |= {
        "c_gh": rng.uniform(-1, 1) * drawn["s_g"] * drawn["s_h"],
        "V": rng.uniform(0.1, 2.0),
        "n": 20.0,
        "b": 5.0,
        "t": 0.7,
        "delta_0": rng.normal(),
    }
    drawn |= {
        "h": rng.choice([-1, 1]) * rng.uniform(0.5, 2.0),
        "g": rng.normal(),
        "k": rng.normal(),
        "lam_min": 0.02,
        "c": rng.uniform(0.2, 2.0),
        "m": 40.0,
        "beta": rng.uniform(0.1, 0.95),
    }
    if name == "wishart-newton":
        drawn["d"] = 3
    if name in ("saddle-attraction", "escape-time"):
        drawn["lam"] = -lam
    if name == "equal-rates":
        drawn["lam_next"] = drawn["lam_min"]
    return drawn


def evaluated(theorem, drawn):
    return theorem.evaluate(**{key: value for key, value in drawn.items() if theorem.takes(key)})


@functools.cache
def derived(name, method):
    """A theorem of one of these methods: most tests that look at one share the derivation."""
    return st.theorem(name, method=METHODS[method])


PAIRS = [(name, method) for name in NAMES for method in METHODS if applies(name, METHODS[method])]
ONCE = [  # where a statement is of kept modes alone both truncated methods have saddle-free Newton's gain
    pytest.param(name, method, marks=[pytest.mark.slow])
    if method == "LRSFN flat" and "tail" not in STATEMENTS[name].branches
    else (name, method)
    for name, method in PAIRS
]


def test_every_theorem_has_a_closed_form_here_and_the_table_of_names_is_whole():
    assert set(CLOSED) == set(NAMES) == set(STATEMENTS)
    assert len(PAIRS) >= 95


class TestClosedForms:
    @pytest.mark.parametrize(("name", "method"), ONCE)
    def test_the_statement_is_the_literal_closed_form(self, name, method):
        theorem, rng = derived(name, method), np.random.default_rng(3)
        for _ in range(4):  # formulas that agree to eleven digits at random points are one
            drawn = values(name, rng)
            at = drawn["h"] if name == "trajectory-noise" else drawn["lam"]
            p, d = (part(at) for part in KEPT[method])
            if theorem.mode.branch == "tail":
                p, d = TAIL[method](drawn["lam_next"]), 0.0
            assert evaluated(theorem, drawn) == pytest.approx(CLOSED[name](method, drawn, p, d), rel=1e-11)

    @pytest.mark.slow
    def test_those_that_are_typed_out_in_full(self):
        lam, s, t, g = 0.7, 0.3, 0.2, GAMMA
        given = {"lam": lam, "s_g": s, "s_h": t, "c_gh": 0.0}
        limit = {
            name: st.theorem("mean-square-step-limit", method=METHODS[name]).evaluate(**given)
            for name in METHODS
        }
        assert limit["SGD"] == pytest.approx(2 * lam / (lam**2 + s**2))
        assert limit["Newton"] == pytest.approx(2 / (1 + (s**2 + t**2) / lam**2))
        damped = (
            2
            * (lam / (lam + g))
            / (lam**2 / (lam + g) ** 2 + s**2 / (lam + g) ** 2 + lam**2 * t**2 / (lam + g) ** 4)
        )
        assert limit["damped Newton"] == limit["SFN"] == limit["LRSFN"] == pytest.approx(damped)
        assert st.theorem("same-batch-cancellation", method=st.Newton()).statement.rhs == 2
        assert st.theorem("truncation-limit", method=METHODS["LRSFN"]).evaluate(
            lam_next=0.5
        ) == pytest.approx(2 * g / 0.5)
        assert st.theorem("truncation-limit", method=METHODS["LRSFN flat"]).evaluate(lam_next=0.5) > 2
        gap = st.theorem("truncation-gap", method=METHODS["LRSFN"]).evaluate(lam=0.7, lam_next=0.5)
        assert abs(gap) == pytest.approx(0.7 / (g * (0.7 + g) * 0.2))
        assert st.theorem("student-t", method=st.Newton()).evaluate(
            lam=lam, step=0.1, s_g=0, s_h=t, c_gh=0
        ) == pytest.approx(1 + 2 * lam**2 / (0.1 * t**2))

    def test_corollaries(self):
        lam = np.array([1.0, 0.4, 0.1])
        assert st.theorem("excess-risk", method=st.SGD()).evaluate(
            "total", d=3, step=0.2, sigma=1.5
        ) == pytest.approx(0.2 * 1.5**2 * 3 / 4)
        assert st.theorem("excess-risk", method=st.Newton()).evaluate(
            "total", lam=lam, step=0.2, sigma=1.0
        ) == pytest.approx(0.05 * np.sum(1 / lam))
        lrsfn = st.theorem("excess-risk", method=st.LRSFN(rank=2, damping=GAMMA))
        assert lrsfn.evaluate("total", lam=lam, step=0.2, sigma=1.0) == pytest.approx(
            0.05 * (1 / (1 + GAMMA) + 1 / (0.4 + GAMMA) + 1 / GAMMA)
        )
        assert st.theorem("aligned-noise", method=st.Newton()).evaluate(
            "excess-risk", lam=0.01, step=0.2, sigma=1.0
        ) == pytest.approx(0.05)
        embedded = st.theorem("discrete-vs-continuous", method=st.SGD()).evaluate(
            "embedding", lam=0.5, step=0.2
        )
        assert embedded == pytest.approx(-math.log(0.9) / 0.2)
        assert st.theorem("damping", method=METHODS["SFN"]).evaluate("largest-gain") == pytest.approx(
            1 / GAMMA
        )
        assert (
            st.theorem("heavy-tailed-newton", method=st.gallery.fractional(power=0.5)).evaluate("tail-index")
            == 2
        )
        growth = st.theorem("trajectory-noise", method=st.SGD()).evaluate(
            "noise-growth", h=0.5, S=0.3, step=0.1, sigma=2.0
        )
        assert growth == pytest.approx(-2 * 0.5 * 0.3 + 0.1 * 4.0)

    @pytest.mark.parametrize(("g", "told"), [(0, 50.5), (1, 19.3), (2, 3.17)])
    def test_how_much_newton_amplifies_depends_on_the_exponent_of_the_noise(self, g, told):
        lam = 1 / np.arange(1.0, 101.0)
        newton = st.theorem("noise-exponent", method=st.Newton())
        ratio = newton.evaluate("amplification", lam=lam, g=g)
        assert ratio == pytest.approx(np.sum(lam ** (g - 1)) / np.sum(lam**g))
        assert ratio == pytest.approx(told, rel=2e-3)
        # Flat modes carry the risk without bound where its exponent is negative: below g = 1.
        assert newton.evaluate("slope", lam=0.5, g=g) == g - 1
        assert st.theorem("noise-exponent", method=st.SGD()).evaluate("slope", lam=0.5, g=g) == g

    @pytest.mark.parametrize(
        ("method", "batch", "step"),
        [(st.SGD(), 1.01, 0.9695), (st.Newton(), 100.0, 0.2424), (st.SFN(damping=0.1), 2.00, 1.0362)],
    )
    def test_the_critical_batch_is_the_metrics_own(self, method, batch, step):
        theorem = st.theorem("critical-batch", method=method, dim=2)
        given = {"lam_1": 1.0, "lam_2": 0.01, "g_1": 1.0, "g_2": 0.01}
        given |= {"Sigma_11": 1.0, "Sigma_12": 0.0, "Sigma_22": 1.0}
        assert theorem.evaluate("critical-batch", **given) == pytest.approx(batch, rel=2e-3)
        assert theorem.evaluate(**given, b=32) == pytest.approx(step, abs=6e-5)

    @pytest.mark.parametrize(
        ("m", "d", "best", "contraction"),
        [(20, 10, 0.18421, 0.59064), (50, 10, 0.60408, 0.22554), (400, 100, 0.55827, 0.25315)],
    )
    def test_newton_with_a_wishart_hessian(self, m, d, best, contraction):
        theorem = st.theorem("wishart-newton")
        assert theorem.evaluate("best-step", m=m, d=d) == pytest.approx(best, abs=5e-6)
        assert theorem.evaluate(m=m, d=d) == 2 * theorem.evaluate("best-step", m=m, d=d)
        assert theorem.evaluate("contraction", m=m, d=d) == pytest.approx(contraction, abs=5e-6)

    @pytest.mark.parametrize(
        ("spectrum", "batch", "limit"),
        [
            (np.ones(100), 1, 0.019608),
            (np.ones(100), 32, 0.48120),
            (1 / np.arange(1.0, 101.0), 1, 0.33692),
            (1 / np.arange(1.0, 101.0), 32, 1.87264),
        ],
    )
    def test_streaming_limits(self, spectrum, batch, limit):
        theorem = st.theorem("streaming-limit", method=st.SGD())
        noise = st.Noise.streaming(batch=batch)
        flow = st.Flow(st.quadratic(spectrum), st.SGD(), noise, step=1.0)
        found = st.linearize(flow).step_limit()
        assert found == pytest.approx(limit, rel=2e-5)
        assert theorem.evaluate("sum", lam=spectrum, b=batch, step=found) == pytest.approx(1)
        most = theorem.evaluate("at-most", lam=spectrum, b=batch)
        assert most == pytest.approx(found) if np.ptp(spectrum) == 0 else most > found

    def test_the_noise_floor_needs_no_common_axes(self):
        lam, P, S = (
            np.array([2.0, 0.5]),
            np.array([[1.0, 0.4], [0.4, 0.6]]),
            np.array([[1.0, -0.3], [-0.3, 0.8]]),
        )
        given = {"P_11": 1.0, "P_12": 0.4, "P_22": 0.6, "Sigma_11": 1.0, "Sigma_12": -0.3, "Sigma_22": 0.8}
        A, Q = P @ np.diag(lam), 0.1 * P @ S @ P
        theorem = st.theorem("noise-floor", dim=2)
        covariance = scipy.linalg.solve_continuous_lyapunov(A, Q)
        floor = theorem.evaluate(**given, step=0.1)
        assert (
            floor == pytest.approx(0.5 * lam @ np.diag(covariance)) == pytest.approx(0.1 * np.sum(P * S) / 4)
        )
        stein = scipy.linalg.solve_discrete_lyapunov(np.eye(2) - 0.1 * A, 0.1 * Q)
        H = np.diag(lam)
        own = np.trace((H - 0.05 * H @ P @ H) @ stein)
        assert theorem.evaluate("discrete", **given, step=0.1) == pytest.approx(own)

    def test_batch_sharpness_at_the_limit(self):
        given = {"lam": 0.7, "s_g": 0.4}
        theorem = st.theorem("batch-sharpness", method=METHODS["SFN"])
        assert theorem.evaluate(**given) * theorem.evaluate("step-limit", **given) == pytest.approx(2)
        # Of b Gaussian inputs the batch's own is larger at the limit: 10 / 3 over the step for b = 1.
        limit = st.theorem("streaming-limit", method=METHODS["SFN"]).evaluate(lam=0.7, b=1)
        assert theorem.evaluate("own", **given, b=1) * limit == pytest.approx(10 / 3)

    @pytest.mark.parametrize("dim", [1, 2, 3])
    def test_with_a_metric_of_its_own_axes_it_is_two_over_the_largest_step(self, dim):
        """At the leading second moment of the map written out; P and H do not commute."""
        rng = np.random.default_rng(dim)
        H, root = np.diag(np.sort(rng.uniform(0.3, 2.0, dim))[::-1]), rng.normal(size=(dim, dim))
        P, tau, eye = root @ root.T + 0.3 * np.eye(dim), 0.4, np.eye(dim)

        def moved(M, step):
            A = eye - step * P @ H
            return A @ M @ A.T + step**2 * tau**2 * P @ (M + np.trace(M) * eye) @ P

        def leading(step):
            units = np.eye(dim * dim).reshape(-1, dim, dim)
            values, vectors = np.linalg.eig(np.stack([moved(one, step).ravel() for one in units], axis=1))
            top = np.argmax(values.real)
            M = vectors[:, top].real.reshape(dim, dim)
            return values[top].real, 0.5 * (M + M.T) * np.sign(np.trace(M))

        theorem = st.theorem("batch-sharpness", method=METHODS["SFN"], dim=dim)
        given = {f"lam_{i + 1}": H[i, i] for i in range(dim)} | {"tau_g": tau}
        for i, j in itertools.combinations_with_replacement(range(dim), 2):
            given[f"P_{i + 1}{j + 1}"] = P[i, j]
        limit = theorem.evaluate("step-limit", **given)
        radius, M = leading(limit)
        assert radius == pytest.approx(1.0, abs=1e-12)
        for i, j in itertools.combinations_with_replacement(range(dim), 2):
            given[f"M_{i + 1}{j + 1}"] = M[i, j]
        assert theorem.evaluate(**given) == pytest.approx(2 / limit, rel=1e-10)

    def test_the_plateaus_of_batch_sharpness_with_momentum(self):
        theorem = st.theorem("batch-sharpness", method=METHODS["Newton"])
        told = {0.001: 3.80, 0.3: 1.53, 1.0: 0.380, 3.0: 0.221, 30.0: 0.200}
        for noise, level in told.items():
            found = theorem.evaluate("with-momentum", lam=0.7, s_g=0.7 * noise, beta=0.9)
            assert found == pytest.approx(level, rel=2e-3)
        assert theorem.evaluate("large-batches", beta=0.9) == pytest.approx(3.8)
        assert theorem.evaluate("small-batches", beta=0.9) == pytest.approx(0.2)

    def test_momentum_by_its_numbers(self):
        sgd = st.theorem("momentum", method=st.SGD())
        given = {"lam": 1.0, "s_g": math.sqrt(0.3), "s_h": 0, "c_gh": 0, "beta": 0.9}
        assert sgd.evaluate("variance", **given, sigma=1.0, step=0.05) == pytest.approx(0.2742, abs=5e-5)
        # Without a buffer it is plain SGD; noise takes back what a buffer seems to give.
        for kind in (None, "nesterov-mean-square"):
            assert sgd.evaluate(kind, **{**given, "beta": 0.0}) == pytest.approx(2 / 1.3)
        assert sgd.evaluate(**given) < 2 / 1.3 < sgd.evaluate("mean", lam=1.0, beta=0.9)

    @pytest.mark.parametrize("nesterov", [pytest.param(False, marks=pytest.mark.slow), True])
    def test_a_method_with_a_buffer_has_the_theorems_that_speak_of_one(self, nesterov):
        method = st.Momentum(st.SFN(damping=GAMMA), 0.7, nesterov=nesterov)
        speak = [name for name in NAMES if applies(name, method)]
        assert speak == [*([] if nesterov else ["noise-floor"]), "momentum", "batch-sharpness"]
        for name in speak:
            verdict = st.theorem(name, method=method).check(points=3, ensemble=False)
            assert verdict, str(verdict)
        # Its own beta is taken where none is given.
        limit = st.theorem("momentum", method=method).evaluate("mean", lam=0.5)
        linear = st.linearize(st.Flow(st.quadratic([0.5]), method, st.Noise(gradient=1.0), step=0.1))
        assert limit == pytest.approx(linear.step_limit("mean"))
        with pytest.raises(ValueError, match=r"theorem 'damping' knows nothing.*Use SFN\(damping"):
            st.theorem("damping", method=method)
        with pytest.raises(ValueError, match="the buffer forgets: 0 <= beta < 1"):
            st.theorem("momentum", method=method).evaluate("mean", lam=0.5, beta=1.0)

    def test_the_floor_with_a_buffer_needs_no_common_axes_either(self):
        method = st.Momentum(st.SFN(damping=GAMMA), 0.7)
        verdict = st.theorem("noise-floor", method=method, dim=2).check(points=3)
        assert verdict, str(verdict)

    def test_the_underdamped_variance_is_the_numeric_theorys(self):
        method = st.Momentum(st.SFN(damping=GAMMA), 0.7)
        flow = st.Flow(st.quadratic([0.5]), method, st.Noise(gradient=1.3), step=0.1)
        given = {"lam": 0.5, "sigma": 1.3, "step": 0.1, "s_g": 0.0, "s_h": 0.0, "c_gh": 0.0}
        theorem = st.theorem("momentum", method=method)
        for name, law in (("underdamped", "continuous"), ("variance", "discrete")):
            (found,) = st.linearize(flow).covariance(law).ravel()
            assert theorem.evaluate(name, **given) == pytest.approx(found, rel=1e-10)

    @pytest.mark.parametrize(
        ("method", "told"),
        [
            (st.RMSprop(eps=0.1), 0.1 * 4.0 / (2 * 0.7 * 2.1)),
            (st.Adam(weight_decay=0.5, eps=0.1), 0.1 * 4.0 / (2 * 2.1 * (0.7 + 0.5 * 2.1))),
            (st.SignSGD(), 0.1 * 2.0 / (2 * 0.7) * math.sqrt(math.pi / 2)),
        ],
        ids=str,
    )
    def test_metrics_that_follow_the_noise(self, method, told):
        theorem = st.theorem("adaptive-metric", method=method)
        assert theorem.evaluate(lam=0.7, sigma=2.0, step=0.1) == pytest.approx(told)
        assert theorem.check(points=3)
        assert st.theorem("adaptive-metric", method=method, dim=2).check(points=2)
        assert not applies("noise-amplification", method)

    def test_signs_of_two_coordinates(self):
        theorem = st.theorem("adaptive-metric", method=st.SignSGD())
        assert theorem.evaluate("correlation", rho=0.5) == pytest.approx(1 / 3)
        drift = theorem.evaluate("drift", delta=np.array([-1.0, 0.5]), lam=0.7, sigma=2.0)
        np.testing.assert_allclose(drift, 2 * scipy.stats.norm.cdf(-0.35 * np.array([-1.0, 0.5])) - 1)
        with pytest.raises(ValueError, match="rho is a correlation"):
            theorem.evaluate("correlation", rho=1.5)

    def test_a_decay_inside_the_metric_joins_the_curvature(self):
        """``M = alpha p sigma^2 / (2 (lambda + theta))``, around ``lambda w_0 / (lambda + theta)``."""
        method = st.Adam(weight_decay=0.1, decoupled=False)
        theorem = st.theorem("adaptive-metric", method=method)
        given = {"lam": 0.7, "sigma": 2.0, "step": 0.1}
        assert theorem.evaluate(**given) == pytest.approx(0.1 * 4 / (2 * 0.8 * (2 + 1e-8)))
        assert theorem.evaluate("center", lam=0.7, w_0=3.0, V=1.0) == pytest.approx(0.7 * 3 / 0.8)
        assert theorem.check(points=3)
        assert st.theorem("adaptive-metric", method=method, dim=2).check(points=2)
        rows = {row.point: row for row in st.gallery.method_table([method]).rows}
        assert rows["saddle"].attracts == "if |lambda| < theta"
        flow = st.Flow(st.quadratic([0.7]), method, st.Noise(gradient=2.0), step=1e-4)
        lin = st.linearize(flow)
        numbers = {"lambda": 0.7, "theta": 0.1, "sigma": 2.0, "epsilon": 1e-8, "beta1": 0.9}
        for told, found in (
            (rows["minimum"].rate, lin.rates[0]),
            (rows["minimum"].step_limit, lin.step_limit("mean")),
        ):
            put = {symbol: numbers[symbol.name] for symbol in told.free_symbols}
            assert float(told.subs(put)) == pytest.approx(found, rel=1e-3)

    def test_a_damped_step_of_two_is_stable_whatever_the_curvature(self):
        theorem = st.theorem("damping-removes-the-edge", method=METHODS["SFN"])
        limits = theorem.evaluate(lam=np.geomspace(1e-6, 1e6, 13))
        assert np.all(np.diff(limits) < 0)
        assert limits.min() > theorem.evaluate("whatever-the-curvature") == 2
        natural = st.gallery.natural_gradient(variance=3.0, eps=0.1)
        assert st.theorem("damping-removes-the-edge", method=natural).evaluate(
            "whatever-the-curvature"
        ) == pytest.approx(6.0)
        for other in (st.SGD(), st.Newton(), st.Method(gain=lambda lam: 1 / (abs(lam) ** 0.5 + 1))):
            with pytest.raises(ValueError, match="says nothing about"):
                st.theorem("damping-removes-the-edge", method=other)


class Scaled(st.SFN):
    """Saddle-free Newton with another damping than it says: for every reader."""

    def gain(self, lam):
        return 1 / (abs(lam) + 1.2 * self.damping)


class TwoFaced(st.SFN):
    """The same, for symbols only."""

    def gain(self, lam):
        return 1 / (abs(lam) + (1.2 if isinstance(lam, Symbolic) else 1.0) * self.damping)


class TwoFacedLowRank(st.LRSFN):
    """A truncated method that shows symbols another gain and another tail."""

    def gain(self, lam):
        return 1 / (abs(lam) + (1.2 if isinstance(lam, Symbolic) else 1.0) * self.damping)

    def tail_gain(self, lam_next):
        return self.gain(0 * lam_next)


@functools.cache
def confirmed(name):
    """A theorem of one of these methods that its witness bears out: derived and checked once."""
    if name == "adaptive-metric":
        right = st.theorem(name, method=st.RMSprop())
    else:
        right = derived(name, "damped Newton" if (name, "damped Newton") in PAIRS else "Newton")
    assert right.check(points=1, ensemble=False)
    return right


class TestTheyCanFail:
    @pytest.mark.parametrize(
        "name",
        [
            name
            for name in NAMES
            if name not in ("heavy-tailed-newton", "averaging") and applies(name, METHODS["SFN"])
        ],
    )
    def test_a_changed_gain_leaves_the_closed_form(self, name):
        """Not those two: no pole, and a statement that does not depend on the gain; their turn is below."""
        theorem, drawn = (
            st.theorem(name, method=Scaled(damping=GAMMA)),
            values(name, np.random.default_rng(4)),
        )
        p, d = (part(drawn["h"] if name == "trajectory-noise" else drawn["lam"]) for part in KEPT["SFN"])
        assert abs(evaluated(theorem, drawn) / CLOSED[name]("SFN", drawn, p, d) - 1) > 1e-3

    def test_a_changed_pole_leaves_the_closed_form(self):
        class Shifted(st.DampedNewton):
            def gain(self, lam):
                return 1 / (lam + 1.2 * self.damping)

        drawn = values("heavy-tailed-newton", np.random.default_rng(4))
        ours = evaluated(st.theorem("heavy-tailed-newton", method=Shifted(damping=GAMMA)), drawn)
        assert abs(ours / pole_density(drawn, -GAMMA) - 1) > 1e-3

    @pytest.mark.parametrize(
        "name", [name for name in NAMES if name != "heavy-tailed-newton" and applies(name, METHODS["SFN"])]
    )
    def test_a_gain_changed_for_symbols_only_is_caught(self, name):
        assert not st.theorem(name, method=TwoFaced(damping=GAMMA)).check(points=1, ensemble=False)

    @pytest.mark.parametrize("name", [name for name in NAMES if "truncation" in name])
    def test_a_truncated_gain_changed_for_symbols_only_is_caught(self, name):
        assert not st.theorem(name, method=TwoFacedLowRank(rank=1, damping=GAMMA)).check(
            points=5, ensemble=False
        )

    def test_a_pole_seen_by_symbols_only_is_caught(self):
        class Pole(st.SFN):
            def gain(self, lam):
                return 1 / lam if isinstance(lam, Symbolic) else super().gain(lam)

        assert not st.theorem("heavy-tailed-newton", method=Pole(damping=GAMMA)).check(
            points=5, ensemble=False
        )

    @pytest.mark.parametrize(
        "name",
        ["noise-amplification", "escape-time", "mean-square-step-limit", "saddle-attraction", "student-t"],
    )
    @pytest.mark.slow
    def test_the_ensemble_alone_catches_a_wrong_statement(self, name):
        class Wrong(st.SFN):
            def gain(self, lam):
                return 1 / (abs(lam) + (4.0 if isinstance(lam, Symbolic) else 1.0) * self.damping)

        (outcome,) = st.theorem(name, method=Wrong(damping=0.5)).check(points=1).outcomes
        assert abs(outcome.z) > 4

    CHECKED: typing.ClassVar = {
        "noise-amplification": ("amplification", "coupling"),
        "excess-risk": ("total",),
        "aligned-noise": ("excess-risk",),
        "discrete-vs-continuous": ("iteration", "ratio", "embedding"),
        "damping": ("largest-gain", "excess-risk-bound"),
        "mean-square-step-limit": ("independent-batches", "coupling", "exact-Hessian"),
        "same-batch-cancellation": ("noise",),
        "student-t": ("scale-squared", "variance"),
        "heavy-tailed-newton": ("tail-index",),
        "saddle-attraction": ("growth",),
        "escape-time": ("log-mean", "rate", "diffusion"),
        "trajectory-noise": ("noise-growth",),
        "averaging": ("streaming-risk",),
        "noise-exponent": ("slope", "total", "amplification"),
        "damping-removes-the-edge": ("whatever-the-curvature",),
        "critical-batch": ("critical-batch", "decrease"),
        "noise-floor": ("discrete", "momentum", "momentum-discrete", "total"),
        "streaming-limit": ("sum", "at-most"),
        "wishart-newton": ("best-step", "contraction"),
        "batch-sharpness": ("step-limit", "own", "with-momentum", "large-batches", "small-batches"),
        "momentum": (
            "mean",
            "variance",
            "nesterov-mean-square",
            "nesterov-mean",
            "nesterov-variance",
            "underdamped",
            "relaxation",
        ),
        "adaptive-metric": ("variance", "mean-square"),
        "sample-space": ("whatever-the-batch", "linearized", "floor", "wishart-floor", "projection"),
    }

    @pytest.mark.parametrize(
        ("name", "corollary"), [(name, corollary) for name, many in CHECKED.items() for corollary in many]
    )
    def test_a_wrong_corollary_is_caught(self, name, corollary):
        right = confirmed(name)
        wrong = [
            c._replace(equation=sympy.Eq(c.equation.lhs, 1.001 * c.equation.rhs))
            if c.name == corollary
            else c
            for c in right.corollaries
        ]
        points = 5 if corollary == "relaxation" else 1  # about modes that swing: not every draw does
        assert not dataclasses.replace(right, corollaries=tuple(wrong)).check(points=points, ensemble=False)

    @pytest.mark.slow
    def test_every_corollary_is_among_them(self):
        assert {
            name: many for name in NAMES if (many := tuple(c.name for c in st.theorem(name).corollaries))
        } == self.CHECKED

    def test_a_derivation_that_does_not_close_raises(self):
        x = sympy.Symbol("x")
        with pytest.raises(ArithmeticError, match="does not close for this gain: x should vanish"):
            vanishes(x, "a reason")


@pytest.mark.slow
class TestChecks:
    """Random admissible values against the numeric theory and an ensemble, for every method at once."""

    @pytest.mark.parametrize("name", NAMES)
    def test_every_theorem_holds_for_every_shipped_method(self, name):
        verdict = st.theorem(name).check(points=20)
        assert verdict, str(verdict)
        assert len(verdict.outcomes) == sum(applies(name, method) for method in shipped())

    @pytest.mark.parametrize("dim", [1, 2, pytest.param(3, marks=pytest.mark.slow)])
    @pytest.mark.parametrize("name", [name for name in NAMES if STATEMENTS[name].matrix])
    def test_full_matrices_agree_with_the_numeric_theory(self, name, dim):
        every = shipped() if dim < 3 else [METHODS["SFN"], METHODS["LRSFN flat"], st.SignSGD(), st.Adam()]
        for method in (method for method in every if applies(name, method)):
            verdict = st.theorem(name, method=method, dim=dim).check(points=3)
            assert verdict, str(verdict)

    MINE = (
        st.gallery.rsfn(eps=0.05),
        st.gallery.newsamp(rank=1),
        st.gallery.natural_gradient(variance=2.0, eps=0.1),
        st.gallery.fractional(power=0.5),
        st.Method(gain=lambda lam: lam / (lam**2 + 0.1), name="bump"),
        st.Method(gain=1 / sympy.sqrt(sympy.Symbol("x") ** 2 + sympy.Rational(1, 10)), name="expression"),
    )

    @pytest.mark.parametrize("method", MINE, ids=lambda method: method.name)
    def test_a_users_own_gain_gets_its_theorems_with_no_further_code(self, method):
        for name in NAMES:
            if applies(name, method):
                verdict = st.theorem(name, method=method).check(points=5, ensemble=False)
                assert verdict, str(verdict)

    def test_truncated_methods_have_two_branches(self):
        method = METHODS["LRSFN"]
        kept, tail = (
            st.theorem("noise-amplification", method=method, branch=branch) for branch in ("kept", "tail")
        )
        assert kept.statement == st.theorem("noise-amplification", method=METHODS["SFN"]).statement
        assert tail.evaluate(lam=0.5, step=0.1, sigma=1.0) == pytest.approx(0.1 / GAMMA / (2 * 0.5))
        assert kept.check(points=5)

    @pytest.mark.parametrize(("rank", "tail"), [(2, "damping"), (5, "flat")])
    def test_whatever_the_rank(self, rank, tail):
        method = st.LRSFN(rank=rank, damping=GAMMA, tail=tail)
        for name in (name for name in NAMES if applies(name, method)):
            for branch in STATEMENTS[name].branches:
                verdict = st.theorem(name, method=method, branch=branch).check(points=3, ensemble=False)
                assert verdict, str(verdict)
        assert st.theorem("noise-amplification", method=method, dim=3).check(points=3)

    def test_the_first_mode_of_a_flat_tail_feels_its_own_noise(self):
        """By hand: theory's ``K_ii`` for it, with ``phi_t' = -1 / (lambda + gamma)^2``."""
        theorem, lam = st.theorem("mean-square-step-limit", method=METHODS["LRSFN flat"], branch="tail"), 0.5
        p, d = 1 / (lam + GAMMA), -1 / (lam + GAMMA) ** 2
        K = (p * 0.1) ** 2 + 2 * p * d * lam * 0.01 + (d * lam * 0.3) ** 2
        assert theorem.evaluate(lam=lam, lam_next=lam, s_g=0.1, s_h=0.3, c_gh=0.01) == pytest.approx(
            2 * p * lam / ((p * lam) ** 2 + K)
        )
        (row,) = (
            row for row in st.gallery.method_table([METHODS["LRSFN flat"]]).rows if row.point == "minimum"
        )
        given = {
            s: {"lambda": lam, "lambda_next": lam, "gamma": GAMMA, "s_g": 0.1, "s_h": 0.3}[s.name]
            for s in row.mean_square_limit.free_symbols
        }
        K -= 2 * p * d * lam * 0.01
        assert float(row.mean_square_limit.subs(given)) == pytest.approx(2 * p * lam / ((p * lam) ** 2 + K))

    def test_the_verdict_prints_and_says_what_was_compared(self):
        verdict = st.theorem("noise-amplification", method=st.SGD()).check(points=3)
        assert "SGD" in str(verdict)
        assert verdict.to_json()[0]["passed"] is True


class TestReading:
    @pytest.mark.parametrize("name", NAMES)
    def test_a_theorem_is_a_chain_of_equations_each_with_a_reason(self, name):
        theorem = st.theorem(name)
        assert len(theorem.derivation) >= 3
        for step in theorem.derivation:
            assert isinstance(step.equation, (sympy.Rel, sympy.Eq)), step
            assert 5 < len(step.reason) < 160
            assert "\n" not in step.reason
        sheet = str(theorem)
        assert theorem.title in sheet
        assert all(hypothesis.text in sheet for hypothesis in theorem.hypotheses)
        assert json.loads(json.dumps(theorem.to_json()))["statement"] == theorem.latex()

    @pytest.mark.slow
    @pytest.mark.parametrize("name", NAMES)
    def test_statements_are_typeset(self, name):
        parser = matplotlib.mathtext.MathTextParser("path")
        for theorem in (
            st.theorem(name),
            *(st.theorem(name, method=METHODS[m]) for n, m in PAIRS if n == name),
        ):
            text = (
                theorem.latex()
                .replace(r"\middle|", "|")
                .replace(r"\begin{matrix}", "")
                .replace(r"\end{matrix}", "")
                .replace("\\\\", "")
            )
            parser.parse(f"${text.replace('&', '')}$")
            whole = theorem.latex(derivation=True)
            assert whole.count("{") == whole.count("}")
            assert whole.count(r"\\") >= len(theorem.derivation)

    def test_every_method_is_derived_from_its_own_formula(self):
        for method, expected in (("SFN", "1/(gamma + lambda)"), ("Newton", "1/lambda"), ("SGD", "1")):
            assert (
                str(st.theorem("noise-amplification", method=METHODS[method]).derivation[0].equation.rhs)
                == expected
            )

    def test_parameters_come_from_the_method_or_from_the_caller(self):
        theorem = st.theorem("damping", method=st.SFN(damping=0.5))
        assert theorem.evaluate(lam=0.5, step=0.1) == pytest.approx(0.5)
        assert (
            theorem.evaluate(lam=0.5, step=0.1, damping=1.5)
            == theorem.evaluate(lam=0.5, alpha=0.1, gamma=1.5)
            == pytest.approx(0.25)
        )
        np.testing.assert_allclose(theorem.evaluate(curvature=np.array([0.5, 1.5]), step=0.1), [0.5, 0.75])

    @pytest.mark.parametrize(
        "name",
        [pytest.param(name, marks=[pytest.mark.slow] if i % 7 else []) for i, name in enumerate(NAMES)],
    )
    @pytest.mark.slow
    def test_pictures(self, name, tmp_path):
        theorem = st.theorem(name)
        study = theorem.data()
        assert np.isfinite(study["y"]).any()
        assert study["y"].shape == (len(study["names"]), len(study["x"]))
        st.plot(st.load(st.save(study, tmp_path / "study"))).savefig(tmp_path / "picture.png", dpi=40)
        assert (tmp_path / "picture.png").stat().st_size > 2000

    def test_a_picture_of_one_method_holds_what_was_given(self):
        study = st.theorem("noise-amplification", method=st.Newton()).data(step=0.5, sigma=2.0)
        np.testing.assert_allclose(study["y"][0], 0.5 * 4 / (2 * study["x"] ** 2))

    def test_numbers_are_put_where_they_mean_something(self):
        floor = st.theorem("noise-floor", method=st.SGD())
        put = floor.at(lam=2.0, step=0.1)["discrete"].rhs
        (sigma,) = put.free_symbols
        whole = floor.evaluate("discrete", lam=2.0, step=0.1, sigma=1)
        assert float(put.subs(sigma, 1)) == pytest.approx(whole, rel=1e-5)
        # A curvature is none of a spectrum's.
        assert "total" in st.theorem("noise-floor").at(step=0.1)
        assert "total" not in st.theorem("noise-floor").at(lam=2.0)
        with pytest.raises(ValueError, match=r"`lam` must be one number; got shape \(2,\)"):
            floor.at(lam=[2.0, 1.0])
        with pytest.raises(ValueError, match="it needs that the point is a minimum"):
            floor.at(lam=-1.0)

    def test_a_picture_takes_every_name_that_evaluate_takes(self):
        named = st.theorem("noise-amplification", method=st.SFN(damping=0.5)).data(alpha=0.5, gamma=0.2)
        usual = st.theorem("noise-amplification", method=st.SFN(damping=0.2)).data(step=0.5)
        np.testing.assert_array_equal(named["y"], usual["y"])
        assert np.isfinite(named["y"]).all()
        assert "step" not in named.parameters["fixed"]
        assert "damping" not in named.parameters["fixed"]

    @pytest.mark.slow
    def test_a_picture_takes_what_one_of_its_methods_takes(self):
        plain, held = (st.theorem("noise-amplification").data(**given) for given in ({}, {"damping": 0.7}))
        differs = (plain["y"] != held["y"]).any(axis=1)
        assert dict(zip(held["names"], differs, strict=True))["SFN"]
        assert not dict(zip(held["names"], differs, strict=True))["SGD"]

    def test_a_picture_refuses_what_evaluate_refuses(self):
        theorem = st.theorem("noise-amplification", method=st.SFN(damping=0.5))
        with pytest.raises(ValueError, match=r"has no 'beta' to hold fixed; it takes .*alpha, .*gamma"):
            theorem.data(beta=0.5)
        with pytest.raises(ValueError, match=r"`curvature` runs along the axis.*use `evaluate`"):
            theorem.data(curvature=0.5)
        with pytest.raises(ValueError, match="`step` and `alpha` are the same value"):
            theorem.data(step=0.5, alpha=0.4)
        with pytest.raises(ValueError, match=r"`step` must have shape \(\), one number"):
            theorem.data(step=[0.1, 0.2])
        with pytest.raises(ValueError, match=r"`sigma` must be >= 0; got -1\.0"):
            theorem.data(sigma=-1.0)


@functools.cache
def whole_table():
    return st.gallery.method_table()


class TestTable:
    def test_its_rates_are_those_of_the_numeric_theory(self):
        rows = {(row.method, row.point): row for row in whole_table().rows}
        table = whole_table()
        for label, method in zip(dict.fromkeys(row.method for row in table.rows), table.methods, strict=True):
            if method.rank is not None or method.memory is not None or not method.spectral:
                continue
            for point, lam in (("minimum", 0.7), ("saddle", -0.7)):
                row = rows[label, point]
                given = {
                    s: method.parameters["damping"] if s.name == "gamma" else 0.7
                    for s in row.rate.free_symbols | row.gain.free_symbols
                }
                rate = float(st.linearize(st.Flow(st.quadratic([lam]), method, step=0.1)).rates[0])
                assert float(row.rate.subs(given)) == pytest.approx(rate)
                assert float(row.gain.subs(given)) * -lam == pytest.approx(rate)
                if row.attracts in ("yes", "no"):
                    assert (row.attracts == "yes") == (rate < 0)

    def test_what_the_theory_says_of_saddles_and_flat_points(self):
        rows = {(row.method, row.point): row for row in whole_table().rows}
        attracts = {
            name: rows[name, "saddle"].attracts
            for name in dict.fromkeys(row.method for row in whole_table().rows)
        }
        expected = {
            "SGD": "no",
            "Newton": "yes",
            "damped Newton": "if |lambda| > gamma",
            "SFN": "no",
            "LRSFN tail": "no",
            "LRSFN flat tail": "no",
            "SGD + momentum": "no",
            "SGD + Nesterov": "no",
            "RMSprop": "no",
            "Adam": "no",
            "AdamW": "if |lambda| < theta*(epsilon + sigma)",
            "SignSGD": "no",
        }
        assert attracts == expected
        assert rows["Newton", "flat"].attracts == "singular"
        assert rows["SFN", "flat"].gain == 1 / sympy.Symbol("gamma", positive=True)
        assert all(rows[name, "maximum"].attracts == answer for name, answer in expected.items())

    @pytest.mark.parametrize("nesterov", [False, True])
    def test_with_a_buffer_its_limits_are_those_of_the_numeric_theory(self, nesterov):
        method = st.Momentum(st.SFN(damping=GAMMA), 0.8, nesterov=nesterov)
        (row, *_) = st.gallery.method_table([method]).rows
        noise = st.Noise(curvature=0.1)
        linear = st.linearize(st.Flow(st.quadratic([0.7]), method, noise, step=0.1))
        own = 0.1 * math.sqrt(2)  # a diagonal entry's
        given = {"lambda": 0.7, "gamma": GAMMA, "beta": 0.8, "s_g": own, "s_h": own}
        for expression, kind in ((row.step_limit, "mean"), (row.mean_square_limit, "mean-square")):
            found = expression.subs({s: given[s.name] for s in expression.free_symbols})
            assert float(found) == pytest.approx(linear.step_limit(kind), rel=1e-9)

    @pytest.mark.parametrize("method", [st.RMSprop(), st.Adam(), st.Adam(0.7, weight_decay=0.3)], ids=str)
    def test_a_metrics_limit_is_where_the_step_with_that_metric_turns_its_sign(self, method):
        (row, *_) = st.gallery.method_table([method]).rows
        first = getattr(method, "beta1", 0.0)
        given = {"lambda": 0.7, "sigma": 0.4, "epsilon": 1e-8, "beta1": first, "theta": method.weight_decay}
        step = float(row.step_limit.subs({s: given[s.name] for s in row.step_limit.free_symbols}))
        h = 0.7 / (0.4 + 1e-8)
        # The average m first, then w by the new one; weights decay beside it.
        average = np.array([first, (1 - first) * h])
        moved = np.array([0.0, 1 - step * method.weight_decay]) - step * average
        assert np.min(np.real(np.linalg.eigvals([average, moved]))) == pytest.approx(-1, rel=1e-7)

    @pytest.mark.parametrize(
        ("gain", "told"),
        [
            (lambda lam: 1 / ((lam - 1) * (lam + 2) ** 2), "yes"),  # a pole of even order changes no sign
            (lambda lam: (lam + 3) / (lam**2 + 1), "if |lambda| > 3"),
            (lambda lam: 1 / (abs(lam) - 2), "if |lambda| < 2"),
            (lambda lam: (lam + 3) / (lam + 2), "where phi(lambda) < 0"),  # between 2 and 3
        ],
    )
    def test_what_a_saddle_attracts_is_read_off_the_signs_between_poles_and_zeros(self, gain, told):
        method = st.Method(gain=gain)
        rows = {row.point: row for row in st.gallery.method_table([method]).rows}
        assert rows["saddle"].attracts == told
        size = np.array([0.5, 1.5, 2.5, 3.5])
        decays = method.gain(-size) < 0
        words = {"yes": size > 0, "if |lambda| > 3": size > 3, "if |lambda| < 2": size < 2}
        assert (decays == words.get(told, (size > 2) & (size < 3))).all()

    def test_a_flat_point_is_singular_from_either_side(self):
        sides = (
            lambda lam: np.where(lam < 0, 1 / lam, 1 / (lam + 1)),
            lambda lam: np.where(lam > 0, 1 / lam, 1.0),
        )
        for gain in sides:
            rows = {row.point: row for row in st.gallery.method_table([st.Method(gain=gain)]).rows}
            assert rows["flat"].attracts == "singular"

    def test_it_prints_and_goes_into_documents(self):
        table = st.gallery.method_table([st.SGD(), st.gallery.fractional(power=0.5)])
        assert len(str(table).splitlines()) == 9
        assert table.markdown().count("\n") == 3
        assert len(json.dumps(table.to_json())) > 100


class TestBadInput:
    def test_names_methods_branches_and_dimensions(self):
        with pytest.raises(ValueError, match="`name` must be one of noise-amplification, excess-risk"):
            st.theorem("theorem 1")
        with pytest.raises(
            ValueError,
            match=r"`method` must be a st\.Method such as st\.SFN\(damping=0\.1\), or None; got 'sfn'",
        ):
            st.theorem("damping", method="sfn")
        with pytest.raises(ValueError, match="'truncation-gap' says nothing about SGD"):
            st.theorem("truncation-gap", method=st.SGD())
        with pytest.raises(ValueError, match="`branch` is for truncated methods; SGD has none"):
            st.theorem("noise-amplification", method=st.SGD(), branch="tail")
        with pytest.raises(ValueError, match="`branch` must be one of kept"):
            st.theorem("student-t", method=METHODS["LRSFN"], branch="tail")
        with pytest.raises(ValueError, match="`dim` must be one of 1, 2, 3; got 4"):
            st.theorem("noise-amplification", dim=4)
        with pytest.raises(
            ValueError, match=r"'student-t' speaks of one mode; with full matrices .* noise-amplification"
        ):
            st.theorem("student-t", dim=2)

    @pytest.mark.parametrize(
        ("name", "method", "given", "failed"),
        [
            (
                "noise-amplification",
                "Newton",
                {"lam": 0.0, "step": 0.1, "sigma": 1},
                "the point is a minimum: lambda > 0; got lam = 0",
            ),
            (
                "noise-amplification",
                "SFN",
                {"lam": 1.0, "step": 0.1, "sigma": 1, "damping": 0.0},
                "gamma > 0; got gamma = 0",
            ),
            (
                "noise-amplification",
                "SFN",
                {"lam": 1.0, "step": 0.1, "sigma": 1, "damping": -1.0},
                "gamma > 0; got gamma = -1",
            ),
            (
                "noise-amplification",
                "SGD",
                {"lam": 1.0, "step": 0.0, "sigma": 1},
                "the step is positive: alpha > 0",
            ),
            (
                "discrete-vs-continuous",
                "SGD",
                {"lam": 1.0, "step": 0.1, "dt": 2.5, "sigma": 1},
                r"the mean is stable: dt phi\(lambda\) lambda < 2",
            ),
            (
                "saddle-attraction",
                "damped Newton",
                {"lam": -GAMMA},
                "the gain is finite there: no pole of phi",
            ),
            (
                "saddle-attraction",
                "SGD",
                {"lam": 0.5},
                "the direction is one of negative curvature: lambda < 0",
            ),
            (
                "mean-square-step-limit",
                "SFN",
                {"lam": 1, "s_g": 0.1, "s_h": 0.1, "c_gh": 0.5},
                r"\|c_gh\| <= s_g s_h",
            ),
            ("truncation-gap", "LRSFN", {"lam": 0.5, "lam_next": 0.5}, "lambda > lambda_next > 0"),
            ("equal-rates", "SFN", {"lam": 0.1, "lam_min": 0.5}, "lambda_min is the slowest mode of both"),
            ("finite-data-limit", "SGD", {"lam": 1, "V": 1, "n": 5, "b": 7}, "n >= 2, 1 <= b <= n"),
            ("escape-time", "SGD", {"lam": -1, "step": 0.1, "sigma": 1, "R": 0}, "the radius is positive"),
            ("trajectory-noise", "SFN", {"h": 0, "g": 1, "k": 1}, "h is not zero"),
            (
                "noise-exponent",
                "Newton",
                {"lam": 0.0, "step": 0.1, "c": 1, "g": 0.5},
                "the point is a minimum: lambda > 0; got lam = 0",
            ),
            ("critical-batch", "SFN", {"lam": 1, "sigma": 1, "g": 0, "b": 4}, "gradient is not zero"),
            ("critical-batch", "SFN", {"lam": 1, "sigma": 1, "g": 1, "b": 0.2}, "at least one sample"),
            ("damping-removes-the-edge", "SFN", {"lam": -1.0}, "the point is a minimum"),
            ("wishart-newton", "Newton", {"m": 13, "d": 10}, r"m > d \+ 3; got d = 10"),
            ("streaming-limit", "SGD", {"lam": 1.0, "b": 0}, "at least one sample"),
        ],
    )
    def test_a_failed_hypothesis_is_named(self, name, method, given, failed):
        with pytest.raises(ValueError, match=f"does not hold here: it needs that .*{failed}"):
            st.theorem(name, method=METHODS[method]).evaluate(**given)

    @pytest.mark.parametrize(
        ("method", "given", "failed"),
        [
            (st.SGD(), {"lam": [1.0], "step": 1.9}, "each mode alone is stable"),
            (
                st.SGD(),
                {"lam": [1.0, 0.5, 0.2], "step": 1.3},
                "the step is below the limit of streaming least squares: S < 1",
            ),
            (
                st.LRSFN(rank=1, damping=0.01),
                {"lam": [1, 0.4, 0.1], "step": 0.5},
                "each mode alone is stable",
            ),
            (
                st.LRSFN(rank=4, damping=0.01),
                {"lam": [1, 0.4, 0.1], "step": 0.5},
                "at least as many curvatures as the method keeps: d >= r; got d = 3, r = 4",
            ),
            (st.SGD(), {"lam": [1.0, -0.5], "step": 0.1}, "every curvature is positive"),
        ],
    )
    @pytest.mark.parametrize("branch", ["kept", "tail"])
    def test_a_statement_on_a_spectrum_has_hypotheses_on_every_mode(self, method, given, failed, branch):
        theorem = st.theorem("averaging", method=method, branch=branch if method.rank else None)
        with pytest.raises(ValueError, match=f"does not hold here: it needs that .*{failed}"):
            theorem.evaluate("streaming-risk", **given, sigma=1.0, b=4.0)

    def test_a_tail_faster_than_one_mode_of_the_spectrum_would_allow_is_no_objection(self):
        theorem = st.theorem("averaging", method=st.LRSFN(rank=1, damping=0.05))
        given = {"lam": [1, 0.04, 0.01], "step": 0.5, "sigma": 1.0, "b": 4.0}
        pull = 0.5 * np.array([1, 0.04, 0.01]) / np.array([1.05, 0.05, 0.05])
        S = np.sum(pull / (4 * (2 - pull * 1.25)))
        assert theorem.evaluate("streaming-risk", **given) == pytest.approx(S / (1 - S) / 2)

    @pytest.mark.parametrize(
        ("given", "failed"),
        [
            ({"step": 3.0, "dt": 3.0}, "the mean is stable"),
            ({"Sigma_12": 5.0}, "Sigma is positive semidefinite"),
            ({"Sigma_22": -1.0}, "Sigma is positive semidefinite"),
            ({"dt": -0.1}, "the time step is not negative"),
            ({"lam_2": 2.0}, "curvatures are positive and fall"),
        ],
    )
    def test_full_matrices_have_hypotheses_too(self, given, failed):
        theorem = st.theorem("discrete-vs-continuous", method=st.SGD(), dim=2)
        right = {
            "lam_1": 1.0,
            "lam_2": 0.5,
            "Sigma_11": 1.0,
            "Sigma_12": 1.0,
            "Sigma_22": 1.0,
            "step": 0.3,
            "dt": 0.3,
        }
        assert np.isfinite(theorem.evaluate(**right)).all()
        with pytest.raises(ValueError, match=f"does not hold here: it needs that .*{failed}"):
            theorem.evaluate(**{**right, **given})

    def test_matrices_off_their_hypotheses(self):
        jacobian = st.theorem("trajectory-noise", method=st.LRSFN(rank=1, damping=0.1), dim=2)
        given = {
            "lam_1": 1.0,
            "lam_2": -0.5,
            "g_1": 1.0,
            "g_2": 0.5,
            "k_111": 0.1,
            "k_112": 0.2,
            "k_122": 0.3,
        }
        assert np.isfinite(jacobian.evaluate(**given)).all()
        with pytest.raises(ValueError, match="the curvatures differ and none is zero"):
            jacobian.evaluate(**{**given, "lam_2": 1.0})
        with pytest.raises(ValueError, match="their sizes fall"):
            jacobian.evaluate(**{**given, "lam_2": -1.5})
        limit = st.theorem("mean-square-step-limit", method=st.SFN(damping=0.1), dim=2)
        with pytest.raises(ValueError, match=r"\|c\| <= tau_g tau_h"):
            limit.evaluate(lam_1=1.0, lam_2=0.5, tau_g=0.1, tau_h=0.1, c=0.5)

    def test_a_gain_of_the_wrong_sign(self):
        theorem = st.theorem("noise-amplification", method=st.Method(gain=lambda lam: lam - 1), dim=1)
        with pytest.raises(ValueError, match="every mode decays"):
            theorem.evaluate(lam_1=0.5, Sigma_11=1.0, step=0.1)

    def test_a_variance_that_is_infinite(self):
        theorem = st.theorem("student-t", method=st.Newton())
        given = {"lam": 0.1, "step": 0.5, "sigma": 1.0, "s_g": 0.1, "s_h": 0.3, "c_gh": 0.0}
        assert theorem.evaluate(**given) < 2
        with pytest.raises(ValueError, match="it needs that the variance is finite: nu > 2"):
            theorem.evaluate("variance", **given)

    def test_values(self):
        theorem = st.theorem("noise-amplification", method=st.SGD())
        with pytest.raises(ValueError, match="'noise-amplification' needs a value for sigma"):
            theorem.evaluate(lam=1.0, step=0.1)
        with pytest.raises(ValueError, match="'noise-amplification' has no 'kappa'; it takes"):
            theorem.evaluate(lam=1.0, step=0.1, sigma=1.0, kappa=3.0)
        with pytest.raises(ValueError, match="`lam` must be finite"):
            theorem.evaluate(lam=np.nan, step=0.1, sigma=1.0)
        with pytest.raises(
            ValueError,
            match=r"`quantity` must be None for the statement or one of its corollaries \(amplification, "
            r"coupling\); got 'x'",
        ):
            theorem.evaluate("x", lam=1.0)
        with pytest.raises(ValueError, match="'noise-amplification' holds for any gain: choose one"):
            st.theorem("noise-amplification").evaluate(lam=1.0, step=0.1, sigma=1.0)
        with pytest.raises(ValueError, match="'damping' needs a value for gamma"):
            st.theorem("damping").evaluate(lam=1.0, step=0.1)

    def test_a_gain_too_large_for_symbols_says_so(self):
        def gain(lam):
            for k in range(1, 80):
                lam = lam / (1 + lam**2 / k)
            return lam

        huge = st.Method(gain=gain, name="huge")
        with pytest.raises(ValueError, match="take gains of up to 100 operations"):
            st.theorem("noise-amplification", method=huge)

    @pytest.mark.parametrize(
        "gain",
        [lambda lam: 1 / (lam + 1) ** 101, 1 / (1 + sympy.Symbol("x") ** 1000), lambda lam: lam**-200.0],
        ids=["function", "expression", "float"],
    )
    def test_a_power_counts_as_its_degree(self, gain):
        with pytest.raises(ValueError, match="take gains of up to 100 operations"):
            st.theorem("noise-amplification", method=st.Method(gain=gain))

    def test_a_derivation_that_takes_too_long_says_so(self):
        with (
            pytest.raises(ValueError, match=r"SymPy did not derive 'x' for this gain in 0\.05 seconds"),
            limited("'x'", 0.05),
        ):
            time.sleep(20)

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"lam": 1.0, "curvature": 2.0}, "`lam` and `curvature` are the same value; give it once"),
            ({"lam": 1.0, "alpha": 0.2}, "`step` and `alpha` are the same value"),
            ({"lam": 1.0, "sigma": -1.0}, "`sigma` must be >= 0"),
            (
                {"lam": [1.0, 2.0], "sigma": [1.0, 2.0, 3.0]},
                r"The values' shapes do not go together: lambda \(2,\), sigma \(3,\)",
            ),
        ],
    )
    def test_values_that_do_not_go_together(self, given, message):
        theorem = st.theorem("noise-amplification", method=st.SGD())
        with pytest.raises(ValueError, match=message):
            theorem.evaluate(**{"step": 0.1, "sigma": 1.0, **given})

    @pytest.mark.parametrize(
        ("method", "given", "message"),
        [
            (st.SGD(), {"d": -3}, "`d` must be an integer >= 1"),
            (st.SGD(), {"d": 2.5}, "`d` must be an integer >= 1"),
            (st.Newton(), {"lam": [1, 0.1, 0.01], "d": 2}, "`d` = 2 is not the number of curvatures, 3"),
            (
                st.Newton(),
                {"lam": [[1, 0.1], [1, 0.01]]},
                r"`lam` must be the list of curvatures, shape \(d,\); got shape \(2, 2\)",
            ),
            (st.Newton(), {"lam": [1, 0.1], "step": [0.1, 0.2]}, "takes single numbers beside a spectrum"),
        ],
    )
    def test_spectra_of_the_wrong_kind(self, method, given, message):
        with pytest.raises(ValueError, match=message):
            st.theorem("excess-risk", method=method).evaluate("total", **{"step": 0.1, "sigma": 1.0, **given})

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"b": 0}, "1 <= b <= n"),
            ({"b": 0.4}, "1 <= b <= n"),
            ({"n": 5.5}, "`n` must be a whole number"),
            ({"V": -0.3}, "`V` must be >= 0"),
        ],
    )
    def test_batches_are_counted_in_whole_samples(self, given, message):
        with pytest.raises(ValueError, match=message):
            st.theorem("finite-data-limit", method=st.SGD()).evaluate(
                **{"lam": 1, "V": 0.3, "n": 5, "b": 2, **given}
            )

    def test_times_batches_and_poles(self):
        with pytest.raises(ValueError, match="the time is positive"):
            st.theorem("weak-order", method=st.SGD()).evaluate(lam=1, t=-1, delta_0=1)
        with pytest.raises(ValueError, match="at least one sample: b >= 1"):
            st.theorem("averaging", method=st.SGD()).evaluate(
                "streaming-risk", lam=[1, 0.5], step=0.1, sigma=1, b=0.4
            )
        with pytest.raises(ValueError, match="no pole of phi"):
            st.theorem("trajectory-noise", method=st.DampedNewton(damping=1.0)).evaluate(h=-1, g=1, k=1)

    def test_checks_and_pictures_that_make_no_sense(self):
        with pytest.raises(ValueError, match="`points` must be an integer >= 1; got 0"):
            st.theorem("damping").check(points=0)
        with pytest.raises(ValueError, match="has no curve to draw"):
            st.plot(st.theorem("noise-amplification", dim=2))

    def test_a_gain_under_which_nothing_decays(self):
        with pytest.raises(ValueError, match="nothing decays, it needs that phi"):
            st.theorem("noise-amplification", method=st.Method(gain=lambda lam: 0 * lam))
        falling = st.Method(gain=lambda lam: 1 / lam, rank=1, tail_gain=lambda lam_next: -1.0)
        with pytest.raises(ValueError, match="the tail decays"):
            st.theorem("truncation-limit", method=falling).evaluate(lam_next=1.0)


def named(key):
    """Saddle-free Newton with damping 0.1, its parameter called `key`."""
    return st.Method(gain=lambda lam, **given: 1 / (abs(lam) + given[key]), **{key: 0.1})


@functools.cache
def saddle_free(name):
    """What `named` is compared with, derived once."""
    return st.theorem(name, method=st.SFN(damping=0.1))


class TestUsersGains:
    KEYS = (
        "alpha",
        "sigma",
        "R",
        "t",
        "M",
        "y",
        "h",
        "b",
        "s_h",
        "g",
        "r",
        "d",
        "dt",
        "a",
        "K",
        "n",
        "p",
        "k",
        "i",
        "gamma",
        "lambda_next",
        "X",
        "c",
        "lam_1",
    )

    @pytest.mark.slow
    @pytest.mark.parametrize("key", KEYS)
    def test_a_parameters_name_is_no_symbol_of_the_theory(self, key):
        rng = np.random.default_rng(8)
        for name in (
            "noise-amplification",
            "escape-time",
            "student-t",
            "weak-order",
            "bounded-sfn-step",
            "finite-data-limit",
            "trajectory-noise",
        ):
            drawn = values(name, rng)
            theirs, ours = saddle_free(name), st.theorem(name, method=named(key))
            assert evaluated(ours, {k: v for k, v in drawn.items() if theirs.takes(k)}) == pytest.approx(
                evaluated(theirs, drawn), rel=1e-12
            )

    def test_every_symbol_of_the_theory_is_reserved(self):
        used = set()
        for node in (node for path in FILES if path.parent.name == "symbolic" for node in nodes(path)):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in (
                "Symbol",
                "symbols",
                "IndexedBase",
            ):
                (text, *_) = node.args
                used |= set(text.value.split()) if isinstance(text, ast.Constant) else set()
        names = {name for name in used if name.isidentifier()}
        assert len(names) > 60
        assert names - RESERVED == set()

    POLES = (  # gain, parameters, supremum, tail index
        (lambda lam, c: 1 / (lam + c), {"c": -0.5}, math.inf, 1),
        (lambda lam, a, b: 1 / (lam + a - b), {"a": 1.0, "b": 2.0}, math.inf, 1),
        (lambda lam: 1 / (lam**3 - 3 * lam + 1), {}, math.inf, 1),
        (lambda lam: 1 / (lam**5 - lam - 1), {}, math.inf, 1),
        (lambda lam: 1 / (lam - 2) ** 2, {}, math.inf, 0.5),
        (lambda lam, c: 1 / ((lam - c) ** 2 + 1), {"c": -2.0}, 1.0, math.inf),
        (lambda lam: lam / (lam**2 + 1), {}, 0.5, math.inf),
    )

    @pytest.mark.slow
    @pytest.mark.parametrize(("gain", "parameters", "largest", "index"), POLES)
    def test_poles_and_stationary_points_are_found_wherever_they_are(self, gain, parameters, largest, index):
        method = st.Method(gain=gain, **parameters)
        assert st.theorem("bounded-sfn-step", method=method).evaluate() == pytest.approx(largest)
        heavy = st.theorem("heavy-tailed-newton", method=method)
        assert heavy.evaluate("tail-index", lam=1.0, s_h=0.5) == index
        finite = (
            st.exact_mode(method, curvature=0.3, noise=st.Noise(curvature=0.5)).gain_moment(0.4).reason == ""
        )
        assert finite
        assert math.isinf(
            st.exact_mode(method, curvature=0.3, noise=st.Noise(curvature=0.5)).gain_moment(1.1).value
        ) == math.isfinite(index)
        assert heavy.check(points=3, ensemble=False)

    @pytest.mark.parametrize(
        ("gain", "told"),
        [
            (lambda lam: np.where(lam > 0, 1 / lam, 1 / (1 - lam)), "pole at 0 is not alike"),
            (lambda lam: np.where(lam > 0, 1 / lam, -2 / lam), "pole at 0 is not alike"),
            (lambda lam: np.where(lam < 1, 1 / (1 - lam), 2.0), "infinite near lambda = 0.99"),
        ],
    )
    def test_a_pole_of_one_side_is_refused(self, gain, told):
        """Of the first ``u P(|phi| > u)`` tends to half the density at 0, of the last SymPy sees no pole."""
        method = st.Method(gain=gain)
        with pytest.raises(ValueError, match=told):
            st.theorem("heavy-tailed-newton", method=method)
        exact = st.exact_mode(method, curvature=0.5, noise=st.Noise(curvature=0.5))
        assert math.isinf(exact.gain_moment(1.1).value)

    def test_a_pole_that_a_parameter_would_move_across_zero_is_a_hypothesis(self):
        theorem = st.theorem(
            "heavy-tailed-newton", method=st.Method(gain=lambda lam, c: 1 / (lam + c), c=-0.5)
        )
        with pytest.raises(ValueError, match="as at the method's own parameters"):
            theorem.evaluate(lam=1.0, s_h=0.5, c_phi=0.5)

    def test_a_truncated_method_has_no_pole_of_its_own(self):
        """A mode on its way to the pole is dropped first; large gains are rarer than 1 / t, simulated."""
        with pytest.raises(ValueError, match="'heavy-tailed-newton' says nothing about NewSamp"):
            st.theorem("heavy-tailed-newton", method=st.gallery.newsamp(rank=1))

    def test_what_sympy_cannot_solve_it_says(self):
        clipped = st.Method(gain=lambda lam: 2 / (abs(lam) + 0.1 + abs(abs(lam) - 0.1)))
        with pytest.raises(ValueError, match=r"SymPy cannot solve .* Use st\.exact_mode"):
            st.theorem("bounded-sfn-step", method=clipped)

    def test_a_sympy_symbol_with_a_sign_is_refused(self):
        x = sympy.Symbol("x", positive=True)
        with pytest.raises(ValueError, match=r"takes both signs, yet x is assumed to have one"):
            st.Method(gain=1 / (abs(x) + 1))

    def test_an_exponentially_long_escape_has_a_logarithm(self):
        theorem = st.theorem("escape-time", method=st.Newton())
        given = {"lam": -1.0, "step": 0.001, "R": 1.0, "sigma": 1.0}
        assert math.isinf(theorem.evaluate(**given))
        assert theorem.evaluate("log-mean", **given) == pytest.approx(
            st.exit_time(rate=-1.0, diffusion=0.001, radius=1.0).log_mean, rel=1e-12
        )
