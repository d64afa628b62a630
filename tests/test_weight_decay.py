"""Decoupled weight decay of every method: in its name, in theory, in paths and in training, or refused."""

import numpy as np
import pytest
from conftest import GAMMA, assert_close, smooth_methods
from scipy.linalg import solve_discrete_lyapunov
from test_minimize import assert_same_run, logistic

import stability as st
from stability.linear.modes import mode_limits
from stability.portraits.critical import CriticalPoint

THETA = 0.3
MADE = {
    "SGD": st.SGD(weight_decay=THETA),
    "Newton": st.Newton(weight_decay=THETA),
    "damped Newton": st.DampedNewton(damping=0.1, weight_decay=THETA),
    "SFN": st.SFN(damping=0.1, weight_decay=THETA),
    "LRSFN": st.LRSFN(rank=2, damping=0.1, tail="flat", weight_decay=THETA),
    "SignSGD": st.SignSGD(weight_decay=THETA),
    "RMSprop": st.RMSprop(0.9, weight_decay=THETA),
    "Adam": st.Adam(weight_decay=THETA),
    "momentum": st.Momentum(st.SFN(damping=0.1, weight_decay=THETA), 0.5, nesterov=True),
    "own": st.Method(gain=lambda lam, eps: 1 / (lam**2 + eps), name="own", eps=0.2, weight_decay=THETA),
    "gallery": st.gallery.rsfn(eps=0.1).with_weight_decay(THETA),
}


class TestTheObjects:
    @pytest.mark.parametrize("name", MADE)
    def test_they_say_it_and_are_kept_with_it(self, name, tmp_path):
        method = MADE[name]
        assert method.weight_decay == THETA
        assert f"weight_decay={THETA}" in repr(method)
        assert "decay 0.3" in method.label or method.label == "AdamW"
        back = st.load(st.save(method, tmp_path / "method"))
        assert (back.weight_decay, back.label, repr(back)) == (THETA, method.label, repr(method))

    @pytest.mark.parametrize("name", MADE)
    def test_it_is_taken_away_and_given(self, name):
        without = MADE[name].with_weight_decay(0)
        assert without.weight_decay == 0.0
        assert "decay" not in repr(without) + without.label
        assert repr(without.with_weight_decay(THETA)) == repr(MADE[name])
        assert MADE[name].weight_decay == THETA  # the first is as it was

    @pytest.mark.parametrize("name", ["SFN", "LRSFN", "own", "RMSprop"])
    def test_without_it_they_are_kept_as_by_earlier_versions(self, name):
        assert "weight_decay" not in MADE[name].with_weight_decay(0.0)._kept()
        assert MADE[name]._kept()["weight_decay"] == THETA

    @pytest.mark.parametrize("wrong", [-0.1, np.nan, np.inf, "0.1", True])
    @pytest.mark.parametrize(
        "make",
        [
            lambda theta: st.SGD(weight_decay=theta),
            lambda theta: st.SFN(damping=0.1, weight_decay=theta),
            lambda theta: st.SignSGD(weight_decay=theta),
            lambda theta: st.Momentum(st.SGD()).with_weight_decay(theta),
        ],
    )
    def test_numbers_out_of_range_are_refused(self, make, wrong):
        with pytest.raises(ValueError, match="`weight_decay` must be a finite number >= 0; got"):
            make(wrong)


INNER = [*smooth_methods(), st.Method(gain=lambda lam: 1 / (1 + lam**2))]
MEMORIES = {"none": None, "heavy ball": (0.6, False), "Nesterov": (0.6, True)}


def remembered(method, name):
    memory = MEMORIES[name]
    return method if memory is None else st.Momentum(method, memory[0], nesterov=memory[1])


def whole(method, H, step):
    """The iteration ``z+ = B z + b zeta`` of positions and buffer, written out: B (2 d, 2 d), b (2 d, d)."""
    one, (lam, Q) = np.eye(len(H)), np.linalg.eigh(H)
    inner = method.method if isinstance(method, st.Momentum) else method
    P = (Q * inner.gains(lam)) @ Q.T
    beta = method.beta if inner is not method else 0.0
    c, e = (1 + beta, beta**2) if inner is not method and method.nesterov else (1.0, beta)
    B = np.block([[(1 - step * THETA) * one - step * c * P @ H, -step * e * one], [P @ H, beta * one]])
    return B, np.concatenate([-step * c * P, P])


class TestTheory:
    @pytest.mark.parametrize("inner", INNER, ids=lambda m: m.label)
    @pytest.mark.parametrize("memory", MEMORIES)
    def test_the_covariance_is_the_iterations(self, inner, memory):
        F = st.quadratic([1.5, 0.6, 0.2], rotation_seed=2)
        C = np.array([[1.0, 0.3, 0.0], [0.3, 0.5, 0.1], [0.0, 0.1, 0.8]])
        method = remembered(inner.with_weight_decay(THETA), memory)
        B, b = whole(method, F.hessian(np.zeros(3)), 0.1)
        expected = solve_discrete_lyapunov(B, b @ C @ b.T)[:3, :3]
        lin = st.linearize(st.Flow(F, method, st.Noise(gradient=C), step=0.1))
        assert_close(lin.covariance(time="discrete"), expected, rtol=1e-10)

    @pytest.mark.parametrize("inner", smooth_methods(), ids=lambda m: m.label)
    @pytest.mark.parametrize("memory", MEMORIES)
    def test_the_mean_limit_is_where_the_iteration_stops_shrinking(self, inner, memory):
        F = st.quadratic([1.5, 0.6, 0.2], rotation_seed=2)
        method = remembered(inner.with_weight_decay(THETA), memory)
        limit = st.linearize(st.Flow(F, method, step=0.1)).step_limit("mean")
        radii = [
            np.abs(np.linalg.eigvals(whole(method, F.hessian(np.zeros(3)), factor * limit)[0])).max()
            for factor in (0.999, 1.001)
        ]
        assert radii[0] < 1 < radii[1]

    @pytest.mark.parametrize("inner", [st.SGD(), st.SFN(damping=GAMMA)], ids=lambda m: m.label)
    @pytest.mark.parametrize("memory", MEMORIES)
    @pytest.mark.parametrize("theta", [0.0, THETA])
    def test_the_mean_square_limit_of_one_mode_is_the_optimizers(self, inner, memory, theta):
        noise = st.Noise(gradient=0.1, curvature=0.7, batch=4, hessian_batch=8)
        method = remembered(inner.with_weight_decay(theta), memory)
        expected = st.linearize(st.Flow(st.quadratic([1.5]), method, noise, step=0.05)).step_limit(
            "mean-square"
        )
        gain = inner.gains([1.5])
        slope = 0.0 if inner.is_identity else -(gain**2)
        beta, nesterov = MEMORIES[memory] or (0.0, False)
        found = mode_limits(
            gain,
            np.array([1.5]),
            slopes=slope,
            gradient=2 * 0.7**2 / 4,
            hessian=2 * 0.7**2 / 8,
            momentum=beta,
            nesterov=nesterov,
            weight_decay=theta,
        )
        assert_close(found[0], expected, rtol=1e-8)

    def test_it_moves_the_centre(self):
        F = st.expression("(x - 1)^2 + (y + 2)^2/4 + x*y/5")
        at = st.critical_points(F, 3)[0].w
        lin = st.linearize(st.Flow(F, st.SGD(weight_decay=THETA), st.Noise(gradient=0.1), step=0.1), at=at)
        assert_close(
            lin.center, np.linalg.solve(F.hessian(at) + THETA * np.eye(2), F.hessian(at) @ at), rtol=1e-8
        )


SHAKEN = st.Noise(gradient=0.1, curvature=0.8, batch=2)


def matrices(method, H, step, rng, size, chain):
    """Of the iteration, or of its chain, written out with weight decay: (size, n, n)."""
    d = len(H)
    inner = method.method if isinstance(method, st.Momentum) else method
    entries = rng.standard_normal((2, size, d, d))
    Eg, Eh = 0.8 / np.sqrt(2) * (entries + np.swapaxes(entries, -1, -2)) / np.sqrt(2)
    lam, Q = np.linalg.eigh(H if chain else H + Eh)
    P = Q * inner.gains(lam)[..., None, :] @ np.swapaxes(Q, -1, -2)
    X = P @ (H + Eg)
    if chain:
        Phi = inner.divided_differences(lam)
        X = X + Q @ (Phi * (Q.T @ Eh @ Q)) @ Q.T @ H
    X = np.broadcast_to(X, (size, d, d))
    if inner is method:
        return (1 - step * THETA) * np.eye(d) - step * X
    beta, one = method.beta, np.broadcast_to(np.eye(d), X.shape)
    c, e = (1 + beta, beta**2) if method.nesterov else (1.0, beta)
    top = np.concatenate([(1 - step * THETA) * one - step * c * X, -step * e * one], axis=2)
    return np.concatenate([top, np.concatenate([X, beta * one], axis=2)], axis=1)


class TestProducts:
    """Random products: weight decay takes a share of the positions in each factor."""

    @pytest.mark.parametrize("chain", [False, True], ids=["iteration", "chain"])
    @pytest.mark.parametrize("memory", MEMORIES)
    @pytest.mark.parametrize("inner", [st.SGD(), st.SFN(damping=0.5)], ids=lambda m: m.label)
    @pytest.mark.slow
    def test_exponents_are_those_of_matrices_written_out(self, inner, memory, chain):
        F, step = st.quadratic([1.0, 0.3], rotation_seed=2), 0.4
        method = remembered(inner.with_weight_decay(THETA), memory)
        H, options = F.hessian(np.zeros(2)), {"iterations": 200, "products": 50}
        level = "sde" if chain else "iteration"
        found = st.lyapunov_exponents(st.Flow(F, method, SHAKEN, step=step), level=level, **options)
        own = st.lyapunov_exponents(
            lambda rng, size: matrices(method, H, step, rng, size, chain), seed=1, **options
        )
        z = (found.exponents - own.exponents) / np.hypot(found.errors, own.errors)
        assert np.max(np.abs(z)) < 4
        # That of a few thousand matrices is no estimate of a radius with an error bar of its own.
        assert abs(found.mean_square - own.mean_square) < 5 * np.hypot(
            found.mean_square_error, own.mean_square_error
        )

    @pytest.mark.parametrize("memory", MEMORIES)
    def test_without_noise_the_limit_is_the_means(self, memory):
        method = remembered(st.SGD(weight_decay=THETA), memory)
        flow = st.Flow(st.quadratic([1.5, 0.2], rotation_seed=1), method, step=0.1)
        expected = st.linearize(flow).step_limit("mean")
        assert_close(st.almost_sure_limit(flow).limit, expected, rtol=1e-3)

    @pytest.mark.parametrize("memory", MEMORIES)
    def test_with_noise_its_exponent_vanishes_there(self, memory):
        flow = st.Flow(
            st.quadratic([1.0, 0.3]), remembered(st.SGD(weight_decay=THETA), memory), SHAKEN, step=0.4
        )
        found = st.almost_sure_limit(flow, iterations=200, products=50)
        there = st.lyapunov_exponents(flow.at_step(found.limit), iterations=400, products=50, rank=1, seed=3)
        slope = np.gradient(found.exponents, found.steps)[np.argmax(found.steps > found.limit)]
        assert abs(there.exponents[0]) < 4 * np.hypot(there.errors[0], slope * found.error)

    def test_one_mode_is_exact(self):
        """Of SGD: ``1 - step (h + theta)`` with a normal h."""
        noise = st.Noise(gradient=0.5, curvature=0.4)
        mode = st.exact_mode(st.SGD(weight_decay=THETA), curvature=0.7, noise=noise)
        rate, square = 0.7 + THETA, 2 * 0.4**2
        assert_close(mode.mean_square_limit, 2 * rate / (rate**2 + square), rtol=1e-10)
        m2 = (1 - 0.3 * rate) ** 2 + 0.3**2 * square
        assert_close(mode.moment(2, 0.3).value, m2, rtol=1e-10)
        assert_close(mode.variance(0.3), 0.3**2 * 0.25 / (1 - m2), rtol=1e-10)
        flow = st.Flow(st.quadratic([0.7]), st.SGD(weight_decay=THETA), noise, step=0.3)
        assert_close(mode.variance(0.3), st.linearize(flow).covariance(time="discrete")[0, 0], rtol=1e-10)
        found = st.lyapunov_exponents(flow, iterations=300, products=60)
        assert abs(found.exponents[0] - mode.lyapunov(0.3).value) < 4 * found.errors[0]
        own = st.Flow(st.quadratic([0.7]), st.SFN(damping=0.2, weight_decay=THETA), noise, step=0.3)
        both = st.exact_mode(own.method, curvature=0.7, noise=noise)
        assert_close(st.linearize(own).tail("discrete").value, both.tail_index(0.3), rtol=1e-6)
        assert_close(st.linearize(flow).tail("discrete").value, mode.tail_index(0.3), rtol=1e-6)


class TestIterations:
    @pytest.mark.parametrize("name", [name for name in MADE if name != "Newton"])
    def test_in_minimize_it_is_the_option(self, name):
        options = {"step": 0.05, "batch": 8, "sweeps": 3}
        inside = st.minimize(logistic(), np.ones(8), method=MADE[name], **options)
        beside = st.minimize(
            logistic(), np.ones(8), method=MADE[name].with_weight_decay(0.0), weight_decay=THETA, **options
        )
        np.testing.assert_array_equal(inside.final, beside.final)

    @pytest.mark.parametrize("name", MADE)
    def test_the_flow_iterates_as_minimize_does(self, name):
        F, start = st.quadratic([3.0, -2.0, 0.5], rotation_seed=3), np.array([1.0, -1.0, 0.5])
        flow = st.Flow(F, MADE[name], step=0.05)
        state = flow.rest(start)
        found = st.minimize(F, start, method=flow.method, step=0.05, iterations=1)
        assert_close(found.final, flow.iterate(state, np.random.default_rng(0))[:3], rtol=1e-11)

    @pytest.mark.slow
    @pytest.mark.parametrize("memory", ["none", "Nesterov"])
    @pytest.mark.parametrize("level", ["sde", "iteration"])
    def test_paths_have_the_law_of_theory(self, memory, level):
        method = remembered(st.SFN(damping=0.5, weight_decay=THETA), memory)
        noise = st.Noise(gradient=[0.4, 0.2], curvature=0.2, hessian_batch=np.inf)  # exact, then
        flow = st.Flow(st.quadratic([1.0, 0.2], rotation_seed=1), method, noise, step=0.1)
        ens = st.simulate(flow, start=[1.0, -1.0], t_end=2.0, paths=1000, seed=1, level=level)
        found = st.compare(st.linearize(flow), ens)
        assert max(np.nanmax(np.abs(z)) for z in (found.mean_z, found.covariance_z)) < 4

    def test_the_drift_has_it_and_its_derivative(self):
        F, w = st.quadratic([3.0, 0.5], rotation_seed=3), np.array([1.0, -0.5])
        plain, flow = (st.Flow(F, m, step=0.1) for m in (st.SFN(damping=0.1), DECAYED))
        assert_close(flow.drift(w), plain.drift(w) - THETA * w)
        assert_close(flow.jacobian(w), plain.jacobian(w) - THETA * np.eye(2))

    def test_with_momentum_the_buffers_do_not_decay(self):
        F, state = st.quadratic([3.0, 0.5], rotation_seed=3), np.array([1.0, -0.5, 0.3, 0.2])
        method = st.Momentum(st.SFN(damping=0.1), 0.5)
        plain, flow = (st.Flow(F, one, step=0.1) for one in (method, method.with_weight_decay(THETA)))
        decay = THETA * np.array([1.0, 1.0, 0.0, 0.0])
        assert_close(flow.drift(state), plain.drift(state) - decay * state)
        assert_close(flow.jacobian(state), plain.jacobian(state) - np.diag(decay))

    def test_a_checkpoint_is_for_the_same_decay(self, tmp_path):
        options = {"step": 0.05, "batch": 8, "iterations": 9, "checkpoint": tmp_path / "state"}
        first = st.minimize(logistic(), np.ones(8), method=MADE["SFN"], **options)
        assert_same_run(first, st.minimize(logistic(), np.ones(8), method=MADE["SFN"], **options))
        with pytest.raises(ValueError, match="was made with `method`"):
            st.minimize(logistic(), np.ones(8), method=MADE["SFN"].with_weight_decay(0.1), **options)

    def test_twice_is_refused(self):
        with pytest.raises(ValueError, match=r"`weight_decay` is in `method` already: SFN\(.*\)\. Leave"):
            st.minimize(logistic(), np.ones(8), method=MADE["SFN"], weight_decay=0.1, step=0.1, sweeps=1)


DECAYED = MADE["SFN"]


THEOREMS = (
    "noise-amplification",
    "discrete-vs-continuous",
    "excess-risk",
    "aligned-noise",
    "mean-square-step-limit",
)


@pytest.mark.parametrize("name", THEOREMS)
@pytest.mark.parametrize(
    "method",
    [
        MADE["SFN"],
        pytest.param(MADE["SGD"], marks=pytest.mark.slow),
        pytest.param(MADE["LRSFN"], marks=pytest.mark.slow),
    ],
    ids=lambda m: m.label,
)
def test_theorems_of_one_mode_have_it_in_their_rate(name, method):
    sheet = st.theorem(name, method=method)
    assert "theta" in str(sheet.statement)
    verdict = sheet.check(points=2, seed=1, ensemble=False)
    assert all(one.deviation < 1e-10 for one in verdict.outcomes), str(verdict)
    assert "+ decay" in str(verdict)


def test_its_number_is_the_weight_decay_of_the_method():
    """``alpha sigma^2 phi^2 / (2 (phi lambda + theta))``, written out."""
    found = st.theorem("noise-amplification", method=MADE["SFN"]).evaluate(step=0.2, sigma=3.0, lam=0.7)
    phi = 1 / (0.7 + 0.1)
    assert_close(found, 0.2 * 9.0 * phi**2 / (2 * (phi * 0.7 + THETA)))


def flow():
    return st.Flow(st.quadratic([1.0, 0.5]), DECAYED, st.Noise(gradient=0.1), step=0.1)


ASKED = {
    "st.portrait": lambda: st.portrait(st.landscape("coupled_quartic"), 2, [DECAYED]),
    "the table of a critical point": lambda: CriticalPoint(np.zeros(1), 0.0, np.ones(1), 1, False).methods(
        [DECAYED]
    ),
    "a spectrum": lambda: st.spectrum(lambda V: V, n=3).amplification(DECAYED),
    "theorem 'equal-rates'": lambda: st.theorem("equal-rates", method=DECAYED),
    "theorem 'excess-risk'": lambda: st.theorem("excess-risk", method=DECAYED, dim=2),
    "st.gallery.method_table": lambda: st.gallery.method_table([DECAYED]),
}


@pytest.mark.parametrize("who", ASKED)
def test_what_does_not_know_it_refuses_it(who):
    with pytest.raises(
        ValueError, match=rf"no weight decay: {who} knows nothing of it yet; .* Use SFN\(damping=0.1\);"
    ):
        ASKED[who]()
