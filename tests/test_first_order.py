"""Momentum, metrics, weight decay and schedules in `minimize`: step for step, resumed, refused."""

import numpy as np
import pytest
from conftest import GAMMA, assert_close
from test_minimize import Watched, assert_same_run, least_squares, logistic, run_of, stop_at

import stability as st
from stability.linear.modes import mode_limits

BETA = 0.8
INNER = [
    st.SGD(),
    st.SFN(damping=0.1),
    st.LRSFN(rank=2, damping=0.1),
    st.Method(gain=lambda lam: 1 / (1 + lam**2)),
    st.SignSGD(),
    st.RMSprop(beta2=0.9),
]


def torch_of():
    return pytest.importorskip("torch", reason="torch is not installed")


class TestMomentum:
    @pytest.mark.parametrize("inner", [one for one in INNER if one.rank is None], ids=lambda m: m.label)
    @pytest.mark.parametrize("nesterov", [False, True])
    def test_it_gathers_what_the_steps_would_be_without_it(self, inner, nesterov):
        F, start, means = Watched(logistic(dim=6, l2=0.1)), np.full(6, 0.2), {}
        method = st.Momentum(inner, BETA, nesterov=nesterov)
        found = st.minimize(
            F, start, method=method, step=0.05, batch=8, iterations=7, keep_every=1, check=False
        )
        w, u = start, np.zeros(6)
        for k, rows in enumerate(F.gradients):
            force = F.inner.gradient(w, batch=rows)
            if inner.uses_hessian:  # that of the batch, inside the buffer
                lam, Q = np.linalg.eigh(F.inner.hessian(w, batch=F.hessians[k]))
                force = Q @ (inner.gains(lam) * (Q.T @ force))
            elif not inner.spectral:
                force = inner.direction(force, means)
            u = BETA * u + force
            w = w - 0.05 * (force + BETA * u if nesterov else u)
            assert_close(found.states[k], w, rtol=1e-10)

    @pytest.mark.parametrize("inner", INNER, ids=lambda m: m.label)
    def test_the_option_is_short_for_it(self, inner):
        options = {"step": 0.05, "batch": 8, "sweeps": 4}
        first = st.minimize(logistic(), np.zeros(8), method=inner, momentum=BETA, **options)
        again = st.minimize(logistic(), np.zeros(8), method=st.Momentum(inner, BETA), **options)
        assert_same_run(first, again)
        assert first.provenance["method"] == repr(st.Momentum(inner, BETA))

    def test_of_adam_the_option_gathers_steps(self):
        F, u, w, means = Watched(logistic()), np.zeros(8), np.zeros(8), {}
        found = st.minimize(F, w, method=st.Adam(), momentum=BETA, step=0.05, batch=8, sweeps=2, check=False)
        for rows in F.gradients:
            u = BETA * u + st.Adam().direction(F.inner.gradient(w, batch=rows), means)
            w = w - 0.05 * u
        assert_close(found.final, w)
        assert found.provenance["method"] == f"{st.Adam()!r} + momentum {BETA:g}"

    def test_low_rank_with_nesterov_is_the_plain_loop_on_its_kept_pairs(self):
        F = st.quadratic([5.0, 2.0, 0.5], rotation_seed=1)
        method = st.LRSFN(rank=3, damping=GAMMA)
        found = st.minimize(
            F, np.ones(3), method=st.Momentum(method, BETA, nesterov=True), step=0.1, iterations=9
        )
        H = F.hessian(np.zeros(3))
        lam, Q = np.linalg.eigh(H)
        P = Q @ np.diag(1 / (np.abs(lam) + GAMMA)) @ Q.T
        w, u = np.ones(3), np.zeros(3)
        for _ in range(9):
            force = P @ H @ w
            u = BETA * u + force
            w = w - 0.1 * (force + BETA * u)
        assert_close(found.final, w, rtol=1e-10)

    @pytest.mark.parametrize("inner", [one for one in INNER if one.spectral], ids=lambda m: m.label)
    @pytest.mark.parametrize("nesterov", [False, True])
    def test_it_is_the_iteration_of_the_flow(self, inner, nesterov):
        F, start = st.quadratic([3.0, -2.0, 0.5], rotation_seed=3), np.array([1.0, -1.0, 0.5])
        flow = st.Flow(F, st.Momentum(inner, BETA, nesterov=nesterov), step=0.05)
        whole = flow.rest(start)
        for _ in range(6):
            whole = flow.iterate(whole, np.random.default_rng(0))
        found = st.minimize(F, start, method=flow.method, step=0.05, iterations=6)
        assert_close(found.final, whole[:3], rtol=1e-11)

    def test_none_is_momentum_of_zero(self):
        options = {"step": 0.05, "batch": 8, "sweeps": 2}
        plain = st.minimize(logistic(), np.zeros(8), method=st.SGD(), **options)
        none = st.minimize(logistic(), np.zeros(8), method=st.Momentum(st.SGD(), 0.0), **options)
        np.testing.assert_array_equal(plain.final, none.final)
        assert none.provenance["momentum"] == 0.0

    @pytest.mark.parametrize("nesterov", [False, True])
    @pytest.mark.parametrize("theta", [0.0, 0.3])
    def test_a_run_is_stable_below_the_reported_limit_and_not_above(self, nesterov, theta):
        F = st.quadratic([5.0, 2.0, 0.5, 0.25])
        inner = st.LRSFN(rank=2, damping=GAMMA, tail="flat")
        options = {
            "method": st.Momentum(inner, 0.6, nesterov=nesterov),
            "weight_decay": theta,
            "iterations": 300,
        }
        limit = st.minimize(F, np.ones(4), step=1e-3, **options).step_limits[0]
        below, above = (
            st.minimize(F, np.ones(4), step=factor * limit, **options).loss for factor in (0.97, 1.03)
        )
        assert below < 1e-4
        assert above > 1e4


def radius(step, h, variance, beta, nesterov, theta):
    """Of the map of second moments of position and buffer, entry by entry."""
    c, e = (1 + beta, beta**2) if nesterov else (1.0, beta)
    B = np.array([[1 - step * theta - step * c * h, -step * e], [h, beta]])
    G = np.array([[-step * c, 0.0], [1.0, 0.0]])
    return np.abs(np.linalg.eigvals(np.kron(B, B) + variance * np.kron(G, G))).max()


class TestModeLimits:
    @pytest.mark.parametrize("beta", [0.0, 0.5, 0.95])
    @pytest.mark.parametrize("nesterov", [False, True])
    @pytest.mark.parametrize("theta", [0.0, 0.05, 3.0])
    @pytest.mark.parametrize("variance", [0.0, 0.1, 4.0])
    @pytest.mark.parametrize("h", [0.3, 2.0])
    def test_they_are_where_second_moments_stop_shrinking(self, h, variance, beta, nesterov, theta):
        limit = mode_limits(
            np.ones(1),
            np.array([h]),
            gradient=variance,
            momentum=beta,
            nesterov=nesterov,
            weight_decay=theta,
        )[0]
        shrinks = [
            radius(limit * f, h, variance, beta, nesterov, theta) < 1 for f in np.linspace(0.02, 0.998, 25)
        ]
        assert all(shrinks)
        assert radius(1.002 * limit, h, variance, beta, nesterov, theta) > 1

    def test_weight_decay_attracts_where_the_mode_does_not(self):
        lam = np.array([-0.1, -0.3])
        found = mode_limits(np.ones(2), lam, weight_decay=0.2)
        assert found[0] == pytest.approx(2 / 0.1)  # 2 / (theta + lam)
        assert found[1] == np.inf

    def test_by_bisection_they_are_the_formula(self):
        h, variance = np.array([0.5, 2.0, -1.0]), np.array([0.3, 0.0, 1.0])
        exact = mode_limits(np.ones(3), h, gradient=variance, momentum=0.7)
        found = mode_limits(np.ones(3), h, gradient=variance, momentum=0.7, weight_decay=1e-300)
        assert_close(found[:2], exact[:2], rtol=1e-12)
        assert np.isinf([found[2], exact[2]]).all()


TORCHS = {
    "SGD": (st.SGD(), "SGD", {}),
    "heavy ball": (st.Momentum(st.SGD(), BETA), "SGD", {"momentum": BETA}),
    "Nesterov": (
        st.Momentum(st.SGD(), BETA, nesterov=True),
        "SGD",
        {"momentum": BETA, "nesterov": True},
    ),
    "RMSprop": (st.RMSprop(beta2=0.95, eps=1e-3), "RMSprop", {"alpha": 0.95, "eps": 1e-3}),
    "RMSprop, its defaults": (st.RMSprop(), "RMSprop", {}),
    "RMSprop with momentum": (st.Momentum(st.RMSprop(), BETA), "RMSprop", {"momentum": BETA}),
    "Adam": (st.Adam(), "Adam", {}),
    "Adam, others": (st.Adam(0.7, 0.95, 1e-2), "Adam", {"betas": (0.7, 0.95), "eps": 1e-2}),
    "Adam with a ridge": (
        st.Adam(weight_decay=0.3, decoupled=False),
        "Adam",
        {"weight_decay": 0.3},
    ),
    "AdamW": (st.Adam(weight_decay=0.3), "AdamW", {"weight_decay": 0.3}),
}


class TestAgainstTorch:
    def walked(self, name, options, F, w, lengths):
        """torch's optimizer on the gradients of our batches, drawn as `minimize` draws them."""
        torch = torch_of()
        at = torch.tensor(w.copy(), requires_grad=True)
        theirs = getattr(torch.optim, name)([at], lr=lengths[0], **options)
        for rows, length in zip(F.gradients, lengths, strict=True):
            theirs.param_groups[0]["lr"] = length
            at.grad = torch.tensor(F.inner.gradient(at.detach().numpy(), batch=rows))
            theirs.step()
        return at.detach().numpy()

    @pytest.mark.parametrize("name", TORCHS)
    @pytest.mark.parametrize("scheduled", [False, True])
    def test_the_same_gradients_give_the_same_steps(self, name, scheduled):
        method, theirs, options = TORCHS[name]
        lengths = 0.05 / (1 + np.arange(40)) if scheduled else np.full(40, 0.05)
        F, start = Watched(logistic()), np.linspace(-1, 1, 8)
        step = lengths if scheduled else 0.05
        found = st.minimize(F, start, method=method, step=step, batch=16, iterations=40, check=False)
        expected = self.walked(theirs, options, F, start, lengths)
        np.testing.assert_allclose(found.final, expected, rtol=1e-12, atol=1e-13)

    @pytest.mark.parametrize("nesterov", [False, True])
    def test_weight_decay_of_torchs_sgd_is_a_ridge(self, nesterov):
        F, start = Watched(logistic(l2=0.3)), np.linspace(-1, 1, 8)
        method = st.Momentum(st.SGD(), BETA, nesterov=nesterov)
        found = st.minimize(F, start, method=method, step=0.05, batch=16, iterations=40, check=False)
        F.inner = logistic(l2=0.0)
        options = {"momentum": BETA, "nesterov": nesterov, "weight_decay": 0.3}
        np.testing.assert_allclose(
            found.final, self.walked("SGD", options, F, start, np.full(40, 0.05)), rtol=1e-12, atol=1e-13
        )

    def test_without_momentum_it_is_the_decoupled_one_too(self):
        F, start = Watched(logistic()), np.linspace(-1, 1, 8)
        options = {"method": st.SGD(), "step": 0.05, "batch": 16, "iterations": 40, "check": False}
        found = st.minimize(F, start, weight_decay=0.3, **options)
        expected = self.walked("SGD", {"weight_decay": 0.3}, F, start, np.full(40, 0.05))
        np.testing.assert_allclose(found.final, expected, rtol=1e-12, atol=1e-13)


class TestMetrics:
    def test_signs(self):
        F = Watched(least_squares())
        found = st.minimize(F, np.zeros(6), method=st.SignSGD(), step=0.01, batch=10, iterations=12)
        w = np.zeros(6)
        for rows in F.gradients:
            w = w - 0.01 * np.sign(F.inner.gradient(w, batch=rows))
        assert_close(found.final, w)

    def test_without_eps_what_never_had_a_gradient_stays(self):
        F = st.quadratic(np.diag([1.0, 0.0]))
        for method in (st.RMSprop(eps=0.0), st.Adam(eps=0.0), st.Momentum(st.RMSprop(eps=0.0), 0.5)):
            found = st.minimize(F, [1.0, 3.0], method=method, step=0.01, iterations=50)
            assert found.done
            assert found.final[1] == 3.0
            assert found.final[0] < 0.9

    @pytest.mark.parametrize("method", [st.SignSGD(), st.RMSprop(), st.Adam(weight_decay=0.1)], ids=repr)
    def test_they_see_no_curvature_and_say_so(self, method):
        found = st.minimize(logistic(), np.zeros(8), method=method, step=0.01, batch=8, sweeps=1)
        assert found.step_limits.size == found.eigenvalues.size == 0
        assert found.provenance["method"] == repr(method)
        for option in ({"refresh": 3}, {"noise_margin": 1.0}, {"warm": False}):
            with pytest.raises(ValueError, match=f"{method.label} knows no curvature"):
                st.minimize(logistic(), np.zeros(8), method=method, step=0.01, sweeps=1, **option)


class TestWeightDecay:
    @pytest.mark.parametrize("inner", [*INNER, st.Adam()], ids=lambda m: m.label)
    def test_it_is_decoupled_for_every_method(self, inner):
        options = {"method": inner, "step": 0.05, "batch": 8, "iterations": 1}
        start = np.linspace(-1, 1, 8)
        plain, decayed = (
            st.minimize(logistic(), start, weight_decay=theta, **options).final for theta in (0, 0.4)
        )
        assert_close(decayed, plain - 0.05 * 0.4 * start)

    def test_with_momentum_it_stays_out_of_the_buffer(self):
        F, w, u = least_squares(), np.ones(6), np.zeros(6)
        found = st.minimize(F, w, method=st.SGD(), momentum=BETA, weight_decay=0.4, step=0.1, iterations=9)
        for _ in range(9):
            u = BETA * u + F.gradient(w)
            w = (1 - 0.1 * 0.4) * w - 0.1 * u
        assert_close(found.final, w)

    def test_that_of_the_method_is_the_same(self):
        options = {"step": 0.05, "batch": 8, "sweeps": 3}
        inside = st.minimize(logistic(), np.ones(8), method=st.Adam(weight_decay=0.2), **options)
        beside = st.minimize(logistic(), np.ones(8), method=st.Adam(), weight_decay=0.2, **options)
        np.testing.assert_array_equal(inside.final, beside.final)

    def test_beside_momentum_it_is_not_lost(self):
        options = {"step": 0.05, "batch": 8, "sweeps": 3, "momentum": 0.5}
        for decoupled in (True, False):
            adam = st.Adam(weight_decay=0.2, decoupled=decoupled)
            found, other = (
                st.minimize(logistic(), np.ones(8), method=one, **options).final for one in (adam, st.Adam())
            )
            assert np.abs(found - other).max() > 1e-3


LENGTHS = 0.1 / np.sqrt(1 + np.arange(48))


class TestSchedules:
    @pytest.mark.parametrize(
        "step",
        [LENGTHS, list(LENGTHS), lambda k: 0.1 / np.sqrt(1 + k), np.append(LENGTHS, np.nan)],
        ids=["array", "list", "function", "longer than the run"],
    )
    def test_each_iteration_has_its_length(self, step):
        F = Watched(least_squares())
        found = st.minimize(F, np.zeros(6), method=st.SGD(), step=step, batch=10, sweeps=8)
        w = np.zeros(6)
        for rows, length in zip(F.gradients, LENGTHS, strict=True):
            w = w - length * F.inner.gradient(w, batch=rows)
        assert_close(found.final, w)
        assert_close(found.steps, LENGTHS)
        assert_close(found.times, np.cumsum(LENGTHS))

    def test_a_constant_one_is_the_number(self):
        options = {"method": st.Adam(), "batch": 10, "sweeps": 4}
        constant = st.minimize(least_squares(), np.zeros(6), step=0.03, **options)
        scheduled = st.minimize(least_squares(), np.zeros(6), step=lambda k: 0.03, **options)
        np.testing.assert_array_equal(constant.final, scheduled.final)
        assert constant.provenance["step"] == "0.03"
        assert scheduled.provenance["step"].startswith("24 steps 0.03 to 0.03")

    def test_hessian_products_make_it_end_sooner_than_planned(self):
        method = st.LRSFN(rank=2, damping=0.1)
        found = st.minimize(logistic(), np.zeros(8), method=method, step=LENGTHS, batch=16, sweeps=12)
        assert 0 < len(found.steps) < 48
        assert_close(found.steps, LENGTHS[: len(found.steps)])

    @pytest.mark.parametrize(
        ("step", "message", "mended"),
        [
            (
                LENGTHS[:20],
                r"a length for each of 48 iterations; got 20\. Give 48, or end .*: iterations=20\.",
                {"iterations": 20},
            ),
            (
                lambda k: 0.1 * (1 - k / 30),
                r"> 0 at every iteration; got 0 at iteration 30, .* end the run there: iterations=30\.",
                {"iterations": 30},
            ),
            (np.full(48, np.inf), r"finite number > 0 at every iteration; got inf at iteration 0", None),
            (np.r_[0.1, np.nan, np.ones(46)], "got nan at iteration 1", {"iterations": 1}),
            (np.r_[0.0, np.ones(47)], r"got 0 at iteration 0, counted from 0\. Keep it above 0\.$", None),
            (lambda k: "0.1", "got nan at iteration 0", None),
            (np.ones((48, 1)), r"`step` must have shape \(iterations,\); got shape \(48, 1\)", None),
            (["0.1"] * 48, "`step` must be an array of numbers", None),
            (st.gallery.Armijo, "`step` must be a finite number > 0", None),
        ],
        ids=["short", "reaches 0", "inf", "nan", "0 at once", "text", "matrix", "texts", "a class"],
    )
    def test_one_that_ends_or_reaches_zero_is_refused_with_what_mends_it(self, step, message, mended):
        options = {"method": st.SGD(), "step": step, "batch": 10, "sweeps": 8}
        with pytest.raises(ValueError, match=message):
            st.minimize(least_squares(), np.zeros(6), **options)
        if mended:
            assert st.minimize(least_squares(), np.zeros(6), **options, **mended).done

    def test_a_function_is_not_asked_for_ever(self):
        options = {"method": st.SGD(), "step": lambda k: 0.1}
        with pytest.raises(ValueError, match=r"is a function, which is asked .* End the run sooner: iter"):
            st.minimize(least_squares(), np.zeros(6), iterations=10**9, **options)


RESUMED = {
    "Nesterov": {"method": st.Momentum(st.SGD(), 0.7, nesterov=True), "step": 0.05},
    "momentum of SFN": {
        "method": st.Momentum(st.SFN(damping=0.1), 0.7),
        "step": 0.1,
        "hessian_batch": 16,
        "refresh": 4,
    },
    "RMSprop": {"method": st.RMSprop(), "step": 0.01},
    "sign, scheduled": {"method": st.SignSGD(), "step": lambda k: 0.1 / (k + 1)},
    "AdamW": {"method": st.Adam(weight_decay=0.1), "step": 0.05, "dtype": "float32"},
    "Adam with a ridge": {"method": st.Adam(weight_decay=0.1, decoupled=False), "step": 0.05},
    "decaying": {"method": st.LRSFN(rank=2, damping=0.1), "step": 0.1, "weight_decay": 0.2, "momentum": 0.5},
}


def resumed(name, **options):
    given = {"batch": 8, "keep_every": 7, "iterations": 40, **RESUMED[name], **options}
    return st.minimize(logistic(dim=12), np.full(12, 0.1), **given)


class TestCheckpoints:
    @pytest.mark.parametrize("name", RESUMED)
    def test_interrupted_and_resumed_it_gives_the_same_numbers(self, name, tmp_path):
        with pytest.raises(st.Interrupted):
            resumed(name, callback=stop_at(17), checkpoint=tmp_path / "state")
        assert_same_run(resumed(name, checkpoint=tmp_path / "state"), resumed(name))

    @pytest.mark.parametrize(
        ("name", "word", "change"),
        [
            ("Nesterov", "nesterov", {"method": st.Momentum(st.SGD(), 0.7)}),
            ("Nesterov", "momentum", {"method": st.SGD()}),
            ("sign, scheduled", "step", {"step": lambda k: 0.1 / (k + 2)}),
            ("sign, scheduled", "step", {"step": 0.1}),
            ("AdamW", "method", {"method": st.Adam()}),
            ("Adam with a ridge", "method", {"method": st.Adam(weight_decay=0.1)}),
            ("decaying", "weight_decay", {"weight_decay": 0.1}),
            ("RMSprop", "method", {"method": st.RMSprop(beta2=0.9)}),
        ],
        # A function's repr is another in every process: workers would not agree on the test's name.
        ids=lambda part: part if isinstance(part, str) else "changed",
    )
    def test_it_is_for_the_same_arguments_alone(self, name, word, change, tmp_path):
        with pytest.raises(st.Interrupted):
            resumed(name, callback=stop_at(5), checkpoint=tmp_path / "state")
        with pytest.raises(ValueError, match=f"was made with `{word}`"):
            resumed(name, checkpoint=tmp_path / "state", **change)

    def test_one_of_the_short_form_is_gone_on_from_by_the_long_one(self, tmp_path):
        name = "momentum, averaged, decaying"
        with pytest.raises(st.Interrupted):
            run_of(name, callback=stop_at(17), checkpoint=tmp_path / "state")
        long = {"method": st.Momentum(st.SGD(), 0.9), "momentum": 0.0}
        assert_same_run(run_of(name, checkpoint=tmp_path / "state", **long), run_of(name))

    def test_in_older_ones_adam_was_no_method(self, tmp_path):
        with pytest.raises(st.Interrupted):
            run_of("Adam", callback=stop_at(17), checkpoint=tmp_path / "state")
        slot = tmp_path / "state.b"
        found = st.load(slot)
        found.values["identity"]["digests"]["method"] = 64 * "0"
        st.save(found, slot)
        assert_same_run(run_of("Adam", checkpoint=tmp_path / "state"), run_of("Adam"))

    def test_older_ones_had_no_nesterov_and_no_weight_decay(self, tmp_path):
        def aged():
            found = st.load(slot)
            for word in ("nesterov", "weight_decay"):
                found.values["identity"].pop(word)
            st.save(found, slot)

        slot = tmp_path / "state.b"
        with pytest.raises(st.Interrupted):
            run_of("SGD", callback=stop_at(17), checkpoint=tmp_path / "state")
        aged()
        with pytest.raises(ValueError, match=r"was made with `weight_decay` = 0\.0, this run has 0\.1"):
            run_of("SGD", checkpoint=tmp_path / "state", weight_decay=0.1)
        assert_same_run(run_of("SGD", checkpoint=tmp_path / "state"), run_of("SGD"))


REFUSED = {
    "momentum twice": (
        {"method": st.Momentum(st.SGD(), 0.5), "momentum": 0.9},
        r"leave `momentum` out, or give method=SGD\(\)",
    ),
    "momentum of a momentum": (
        {"method": st.Momentum(st.SGD(), 0.5), "step": "auto"},
        r"step='auto' chooses the momentum too: give method=SGD\(\), or a number",
    ),
    "weight decay twice": (
        {"method": st.Adam(weight_decay=0.1), "weight_decay": 0.1},
        r"`weight_decay` is in `method` already: Adam\(.*weight_decay=0.1\)",
    ),
    "weight decay < 0": ({"weight_decay": -0.1}, "`weight_decay` must be a finite number >= 0"),
    "auto with weight decay": (
        {"step": "auto", "method": None, "weight_decay": 0.1},
        "leave `weight_decay` out",
    ),
    "SciPy's with weight decay": (
        {"step": "auto", "method": "L-BFGS-B", "batch": None, "weight_decay": 0.1},
        "leave `weight_decay` out",
    ),
    "SciPy's with a schedule": (
        {"step": np.full(3, 0.1), "method": "L-BFGS-B"},
        "leave `step` out",
    ),
    "two schedules": ({"step": np.full(16, 0.1), "decay": "linear"}, "leave `decay` out"),
    "SpectralStep with a metric": (
        {"method": st.RMSprop(), "step": st.gallery.SpectralStep(1.0)},
        "SpectralStep needs the eigenvalues of a low-rank method",
    ),
    "auto with a metric": ({"method": st.Adam(), "step": "auto"}, "'Adam' needs a number"),
    "a class": ({"method": st.Adam}, "`method` must be a method such as"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_it_is_refused_with_the_reason(case):
    options, message = case
    with pytest.raises(ValueError, match=message):
        st.minimize(
            logistic(), np.zeros(8), **{"method": st.SGD(), "step": 0.1, "batch": 8, "sweeps": 2, **options}
        )


class TestArrays:
    @pytest.mark.parametrize("name", [name for name in RESUMED if name != "AdamW"])
    def test_every_array_library_gives_the_same_numbers(self, name, xp_backend):
        if xp_backend.name in ("torch", "cupy") and name == "decaying":
            pytest.skip("its random start blocks are its own")
        found, expected = resumed(name, device=xp_backend), resumed(name)
        np.testing.assert_allclose(found.final, expected.final, rtol=1e-8, atol=1e-10)
