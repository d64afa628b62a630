"""Metrics from the noise: sign steps, RMSprop, Adam, as methods and in the linear theory."""

import re
from typing import ClassVar

import numpy as np
import pytest

import stability as st
from stability.linear import modes
from stability.linear.frames import Frame
from stability.methods.method import told_apart
from stability.objectives.quadratic import QuadraticModel

METRICS = [
    st.SignSGD(),
    st.RMSprop(beta2=0.95, eps=1e-3),
    st.Adam(),
    st.Adam(0.8, 0.99, 1e-6, weight_decay=0.1),
    st.Adam(weight_decay=0.1, decoupled=False),
]


class TestTheObjects:
    def test_their_defaults_are_pytorchs(self):
        assert repr(st.Adam()) == "Adam(beta1=0.9, beta2=0.999, eps=1e-08)"
        assert repr(st.RMSprop()) == "RMSprop(beta2=0.99, eps=1e-08)"
        assert repr(st.SignSGD()) == "SignSGD()"

    @pytest.mark.parametrize("method", METRICS, ids=repr)
    def test_a_repr_makes_an_equal_one(self, method):
        name, _, rest = repr(method)[:-1].partition("(")
        given = dict(part.split("=") for part in rest.split(", ") if part)
        read = {"False": False, "True": True}
        same = getattr(st, name)(**{k: read[v] if v in read else float(v) for k, v in given.items()})
        assert same == method
        assert hash(same) == hash(method)

    def test_others_are_not_equal(self):
        assert len({*METRICS, st.Adam(weight_decay=0.2), st.RMSprop(), st.SGD()}) == len(METRICS) + 3

    @pytest.mark.parametrize("method", METRICS, ids=repr)
    def test_saved_they_come_back(self, method, tmp_path):
        back = st.load(st.save(method, tmp_path / "method"))
        assert back == method
        assert back.label == method.label

    @pytest.mark.parametrize("given", [0.001, np.float32(0.001), 0.0999])
    def test_a_lone_number_that_looks_like_a_learning_rate_is_refused(self, given):
        message = r"st.Adam\(0\.[0-9]+\) would be beta1=.*st.Flow\(\.\.\., step=0.*Write st.Adam\(beta1=0"
        with pytest.raises(ValueError, match=message):
            st.Adam(given)
        with pytest.raises(ValueError, match=r"would be beta2="):
            st.RMSprop(given)
        assert st.Adam(beta1=given).beta1 == pytest.approx(0.001, abs=0.1)
        assert (st.Adam(0.0).beta1, st.Adam(0.01, 0.9).beta1, st.RMSprop(0.95).beta2) == (0.0, 0.01, 0.95)

    def test_those_with_one_label_are_told_apart(self):
        kinds = [
            st.SFN(damping=0.1),
            st.SFN(damping=0.2),
            st.RMSprop(),
            st.RMSprop(beta2=0.95),
            st.Momentum(st.SFN(damping=0.1)),
            st.Adam(weight_decay=0.1),
            st.Adam(weight_decay=0.2),
            st.SGD(),
            st.SGD(),
        ]
        expected = [
            "SFN (damping 0.1)",
            "SFN (damping 0.2)",
            "RMSprop (beta2 0.99)",
            "RMSprop (beta2 0.95)",
            "SFN + momentum 0.9",
            "AdamW (weight decay 0.1)",
            "AdamW (weight decay 0.2)",
            "SGD (1)",
            "SGD (2)",
        ]
        table = st.bounds(st.quadratic([1.0, 0.5]), st.Noise(gradient=0.1), kinds, step=0.01)
        assert [row.method for row in table.rows] == expected
        seen = st.profile(WELL, 1.5, kinds[:3], paths=100, t_end=0.05)
        assert seen.methods.tolist() == [*expected[:2], "RMSprop"]
        point = str(st.critical_points(WELL, 1.5)[0].methods(kinds[:2]))
        assert "SFN (damping 0.2)" in point

    def test_two_of_ones_own_with_one_name_have_two_labels(self):
        """Nothing but their gains tells them apart; everywhere where several methods stand side by side."""
        own = [st.Method(gain=gain) for gain in (lambda lam: 1 / (1 + lam**2), lambda lam: 1 / (2 + lam**2))]
        name, F, noise = own[0].label, st.quadratic([1.0, 0.5]), st.Noise(gradient=0.1)
        wanted = [f"{name} (1)", f"{name} (2)"]
        assert [row.method for row in st.bounds(F, noise, own, step=0.1).rows] == wanted
        remembered = [st.Momentum(method) for method in own]
        labels = [row.method for row in st.bounds(F, noise, remembered, step=0.1).rows]
        assert labels == [f"{name} + momentum 0.9 ({k})" for k in (1, 2)]
        portrait = st.portrait(F, 1.0, own, noise=noise, resolution=8, paths=0, t_end=0.2)
        assert portrait.methods.tolist() == wanted
        table = st.gallery.method_table(own)
        assert [row.method for row in table.rows if row.point == "minimum"] == wanted
        assert told_apart([*own, st.Method(gain=lambda lam: lam, name=wanted[0])]) == [
            f"{name} (2)",
            f"{name} (3)",
            wanted[0],
        ]

    def test_labels_tell_two_ways_of_weight_decay_apart(self):
        assert [one.label for one in METRICS] == ["SignSGD", "RMSprop", "Adam", "AdamW", "Adam + L2 0.1"]

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: st.Adam(beta1=1.0), r"`beta1` must be in \[0, 1\); got 1.0"),
            (lambda: st.Adam(beta2=-0.1), r"`beta2` must be in \[0, 1\); got -0.1"),
            (lambda: st.RMSprop(eps=-1e-8), "`eps` must be a finite number >= 0"),
            (lambda: st.Adam(eps=np.nan), "`eps` must be a finite number >= 0"),
            (lambda: st.Adam(weight_decay=-1), "`weight_decay` must be a finite number >= 0"),
            (lambda: st.Adam(decoupled="no"), "`decoupled` must be True or False"),
        ],
    )
    def test_numbers_out_of_range_are_refused(self, make, message):
        with pytest.raises(ValueError, match=message):
            make()


NO_FUNCTION = (
    "metric is diagonal in the coordinates and depends on the noise; it is no function of the Hessian's "
    r"eigenvalues. Use st.linearize, st.simulate, st.minimize, or a spectral method: st.SFN\(damping=...\)"
)


WELL = st.expression("x**4/4 - x**2/2", ["x"])
SADDLE = st.expression("x**4/4 - x**2/2 + y**2", ["x", "y"])
CURVED = st.Noise(gradient=1.0, curvature=0.1, reference=[0.0, 0.0])
ASKED = {
    "gain": lambda method: method.gain(1.0),
    "tail_gain": lambda method: method.tail_gain(1.0),
    "gains": lambda method: method.gains([1.0, 0.5]),
    "divided_differences": lambda method: method.divided_differences([1.0, 0.5]),
    "exact_mode": lambda method: st.exact_mode(method, curvature=1.0, noise=st.Noise(gradient=1.0)),
    "lyapunov_exponents": lambda method: st.lyapunov_exponents(
        st.Flow(st.quadratic([1.0, 0.5]), method, CURVED, step=0.1)
    ),
    "almost_sure_limit": lambda method: st.almost_sure_limit(
        st.Flow(st.quadratic([1.0, 0.5]), method, CURVED, step=0.1)
    ),
    "critical_points": lambda method: st.critical_points(WELL, [(-2, 2)])[0].methods([method]),
    "spectrum": lambda method: st.spectrum(st.quadratic([1.0, 0.5]), at=[0.0, 0.0]).amplification(method),
}


@pytest.mark.parametrize("method", [METRICS[0], METRICS[1], METRICS[2], st.Momentum(METRICS[1])], ids=repr)
@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED)
def test_who_asks_for_a_function_of_eigenvalues_is_told(method, ask):
    with pytest.raises(ValueError, match=NO_FUNCTION):
        ask(method)


STEP, DIM = 0.05, 3
RNG = np.random.default_rng(5)
TURN = np.linalg.qr(RNG.normal(size=(DIM, DIM)))[0]
HESSIAN = TURN @ np.diag([1.0, 0.4, 0.15]) @ TURN.T
SIGMA = np.array([[1.0, 0.3, -0.2], [0.3, 0.5, 0.1], [-0.2, 0.1, 0.8]])
CENTER = np.array([0.6, -0.4, 0.5])
TAU = 0.1


def goe(tau):
    """Factors of a Gaussian symmetric matrix, written apart from the package's."""
    found = []
    for i in range(DIM):
        for j in range(i + 1):
            E = np.zeros((DIM, DIM))
            E[i, j] += tau
            E[j, i] += tau
            found.append(E if i != j else E / np.sqrt(2))
    return found


def inputs(batch):
    """Factors of ``mean x x^T - H`` for Gaussian inputs of covariance H."""
    values, vectors = np.linalg.eigh(HESSIAN)
    root = (vectors * np.sqrt(values)) @ vectors.T
    return [root @ E @ root for E in goe(1 / np.sqrt(batch))]


def at_point(method, noise, *, step=STEP, hessian=HESSIAN, at=CENTER):
    return st.linearize(st.Flow(QuadraticModel(hessian, at), method, noise, step=step), at)


def second_moment(A, C, time, step, dt):
    """Of the linear recursion or equation with drift -A and noise covariance C(M), by Kronecker products."""
    return whole_moment(A, np.eye(len(A)), C, time, step, dt)


def whole_moment(A, b, C, time, step, dt):
    """As `second_moment`, where the noise of positions enters a state by ``b`` (n, d)."""
    eye, size, dim = np.eye(len(A)), len(A) ** 2, b.shape[1]

    def noise(M):
        return b @ C(M[:dim, :dim]) @ b.T

    spread = np.stack([(noise(E.reshape(A.shape)) - noise(0 * A)).ravel() for E in np.eye(size)], axis=1)
    if time == "continuous":
        system, strength = np.kron(A, eye) + np.kron(eye, A), step
    else:
        B = eye - dt * A
        system, strength = np.eye(size) - np.kron(B, B), step * dt
    return np.linalg.solve(system - strength * spread, strength * noise(0 * A).ravel()).reshape(A.shape)


def remembered(method, pull, C, time, step, dt):
    """As `second_moment` of Adam's running mean: ``w+ = (1 - dt decay) w - dt m+``, with ``pull = P H``."""
    eye, decay = np.eye(DIM), method.weight_decay if method.decoupled else 0.0
    rate = (1 - method.beta1) / step
    m = rate * np.hstack([-pull, eye])  # the rate at which m is lost
    if time == "continuous":
        A, b = np.vstack([np.hstack([decay * eye, eye]), m]), np.vstack([0 * eye, rate * eye])
    else:  # w moves with the new m
        A = np.vstack([np.hstack([decay * eye, eye]) - dt * m, m])
        b = np.vstack([-dt * rate * eye, rate * eye])
    return whole_moment(A, b, C, time, step, dt)


def heavy(pull, decay, beta, C, time, step, dt):
    """As `second_moment` of a heavy ball, with the buffer of its steps."""
    eye = np.eye(DIM)
    u = np.hstack([-pull, (1 - beta) * eye]) / step  # the rate at which the buffer is lost
    if time == "continuous":
        A, b = np.vstack([np.hstack([decay * eye, eye]), u]), np.vstack([0 * eye, eye / step])
    else:
        A = np.vstack([np.hstack([decay * eye, eye]) - dt * u, u])
        b = np.vstack([-dt * eye, eye]) / step
    return whole_moment(A, b, C, time, step, dt)[:DIM, :DIM]


def settled(method, covariance, factors, time="discrete", step=STEP, dt=None, hessian=HESSIAN, at=CENTER):
    """Metric, drift, centre and covariance of RMSprop, Adam and AdamW, by plain iteration of dense solves."""
    H, eye, v = hessian, np.eye(DIM), np.diag(covariance).copy()
    inside = 0.0 if method.decoupled else method.weight_decay
    outside = method.weight_decay if method.decoupled else 0.0
    S = np.full((DIM, DIM), np.inf)
    for _ in range(400):
        before, P = S, np.diag(1 / (np.sqrt(v) + method.eps))
        A = P @ (H + inside * eye) + outside * eye
        apart = np.linalg.solve(A, P @ H @ at) - at

        def drawn(M, apart=apart):
            return covariance + sum(E @ (M + np.outer(apart, apart)) @ E for E in factors)

        law = (lambda M, P=P: P @ drawn(M) @ P), time, step, step if dt is None else dt
        if isinstance(method, st.Adam) and method.beta1:
            whole = remembered(method, P @ (H + inside * eye), *law)
            S = whole[:DIM, :DIM]
        else:
            S = whole = second_moment(A, *law)
        mean = H @ apart + inside * (at + apart)
        full = H + inside * eye
        v = np.diag(drawn(S) + full @ S @ full) + mean**2
        if np.allclose(S, before, rtol=1e-14, atol=0):
            break
    return np.diag(P), A, at + apart, whole


ADAPTIVE = [
    st.RMSprop(eps=1e-3),
    st.Adam(),
    st.Adam(weight_decay=0.2),
    st.Adam(weight_decay=0.2, decoupled=False),
]
NOISES = {
    "additive": (st.Noise(gradient=SIGMA), SIGMA, []),
    "Gaussian matrix": (st.Noise(gradient=SIGMA, curvature=TAU), SIGMA, goe(TAU)),
    "streaming": (st.Noise.streaming(label_noise=0.7, batch=8), 0.49 / 8 * HESSIAN, inputs(8)),
}
LAWS = [("discrete", None), ("continuous", None), ("chain", 0.02)]


class TestOtherLibrariesWords:
    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: st.Adam(lr=1e-3), r"`Adam` has no `lr`. The learning rate is the flow's: st.Flow\("),
            (lambda: st.Adam(betas=(0.9, 0.99)), "Use beta1=... and beta2=..."),
            (lambda: st.RMSprop(lr=1e-3), "`RMSprop` has no `lr`"),
            (lambda: st.RMSprop(alpha=0.9), "beta2="),
            (lambda: st.RMSprop(momentum=0.9), r"st.Momentum\(st.RMSprop\(\), beta=...\)"),
        ],
    )
    def test_are_told_what_is_meant(self, make, message):
        with pytest.raises(TypeError, match=message):
            make()

    def test_what_they_are_told_works(self):
        assert st.Momentum(st.RMSprop(beta2=0.9), beta=0.9).memory.beta == 0.9


class TestSettled:
    @pytest.mark.parametrize("noise", NOISES)
    @pytest.mark.parametrize("method", ADAPTIVE, ids=repr)
    @pytest.mark.slow
    def test_covariances_are_those_of_dense_solves(self, method, noise):
        law, covariance, factors = NOISES[noise]
        lin = at_point(method, law)
        for time, dt in LAWS:
            metric, A, center, whole = settled(method, covariance, factors, time, dt=dt)
            S = whole[:DIM, :DIM]
            if len(whole) > DIM:
                np.testing.assert_allclose(lin.covariance(time, dt, state=True), whole, rtol=1e-9, atol=1e-11)
            np.testing.assert_allclose(lin.covariance(time, dt), S, rtol=1e-10, atol=1e-12)
            if time == "discrete":
                np.testing.assert_allclose(lin.metric, metric, rtol=1e-10)
                np.testing.assert_allclose(lin.center, center, rtol=1e-10)
                np.testing.assert_allclose(lin.vectors @ np.diag(lin.rates), -A @ lin.vectors, atol=1e-10)
                apart = center - CENTER
                risk = 0.5 * np.trace(HESSIAN @ (S + np.outer(apart, apart)))
                np.testing.assert_allclose(lin.excess_risk(), risk, rtol=1e-10)
                np.testing.assert_allclose(lin.mean_shift, apart, atol=1e-12)

    @pytest.mark.parametrize("method", ADAPTIVE, ids=repr)
    def test_moments_follow_the_dense_recursion(self, method):
        law, covariance, factors = NOISES["streaming"]
        lin, eye = at_point(method, law), np.eye(DIM)
        P, beta = np.diag(lin.metric), getattr(method, "beta1", 0.0)
        inside, outside = (0.0, method.weight_decay)[:: 1 if method.decoupled else -1]
        start, spread = np.array([1.0, 2.0, -1.0]), 0.1 * eye
        # The first moment of (1, w - w*, m) and their second ones, as of one vector.
        B, kicks = np.zeros((7, 7)), []
        B[0, 0] = 1
        B[4:, 1:4], B[4:, 4:] = (1 - beta) * P @ (HESSIAN + inside * eye), beta * eye
        B[4:, 0] = (1 - beta) * inside * P @ CENTER
        B[1:4] = np.eye(7)[1:4] - STEP * outside * np.eye(7)[1:4] - STEP * B[4:]
        B[1:4, 0] -= STEP * outside * CENTER
        for E in factors:
            G = np.zeros((7, 7))
            G[4:, 1:4] = (1 - beta) * P @ E
            G[1:4] = -STEP * G[4:]
            kicks.append(G)
        root = np.linalg.cholesky(covariance)
        for column in root.T:
            constant = np.zeros((7, 7))
            constant[4:, 0] = (1 - beta) * P @ column
            constant[1:4] = -STEP * constant[4:]
            kicks.append(constant)
        first = np.concatenate([[1.0], start - CENTER, np.zeros(DIM)])
        M = np.outer(first, first)
        M[1:4, 1:4] += spread
        for _ in range(7):
            M = B @ M @ B.T + sum(G @ M @ G.T for G in kicks)
        mean, cov = lin.moments(7 * STEP, start, spread)
        np.testing.assert_allclose(mean, CENTER + M[1:4, 0], rtol=1e-10)
        np.testing.assert_allclose(cov, M[1:4, 1:4] - np.outer(M[0, 1:4], M[0, 1:4]), rtol=1e-9, atol=1e-13)
        if beta:
            mean, cov = lin.moments(7 * STEP, start, spread, state=True)
            np.testing.assert_allclose(mean[DIM:], M[4:, 0], rtol=1e-10, atol=1e-13)
            np.testing.assert_allclose(cov, (M - np.outer(M[0], M[0]))[1:, 1:], rtol=1e-9, atol=1e-12)

    @pytest.mark.parametrize("noise", NOISES)
    @pytest.mark.parametrize("method", ADAPTIVE[:3], ids=repr)
    def test_step_limits_are_those_of_the_dense_map(self, method, noise):
        law, _, factors = NOISES[noise]
        lin, eye = at_point(method, law), np.eye(DIM)
        P, beta = np.diag(lin.metric), getattr(method, "beta1", 0.0)

        def matrices(step):
            m = (1 - beta) * np.hstack([P @ HESSIAN, beta / (1 - beta) * eye])
            B = np.vstack([np.hstack([(1 - step * method.weight_decay) * eye, 0 * eye]) - step * m, m])
            kicks = [(1 - beta) * np.kron([[-step, 0], [1, 0]], P @ E) for E in factors]
            return B, np.kron(B, B) + sum((np.kron(G, G) for G in kicks), np.zeros((36, 36)))

        for kind, which in (("mean", 0), ("mean-square", 1)):
            matrix = matrices(lin.step_limit(kind))[which]
            assert np.max(np.abs(np.linalg.eigvals(matrix))) == pytest.approx(1, abs=1e-9)
        assert sum(lin.limit().shares.values()) == pytest.approx(1)

    def test_it_is_liu_ziyin_and_uedas_covariance_of_a_metric_that_does_not_commute(self):
        lin = at_point(st.RMSprop(), st.Noise(gradient=SIGMA), step=0.3)
        P, S = np.diag(lin.metric), lin.covariance()
        A = P @ HESSIAN
        assert np.linalg.norm(P @ HESSIAN - HESSIAN @ P) > 0.05
        left, right = A @ S + S @ A.T - 0.3 * A @ S @ A.T, 0.3 * P @ SIGMA @ P
        np.testing.assert_allclose(left, right, rtol=1e-12, atol=1e-14)
        # Of any metric, the excess risk in continuous time: step tr(P Sigma) / 4.
        S = lin.covariance("continuous")
        P = np.diag(1 / (np.sqrt(np.diag(SIGMA + HESSIAN @ S @ HESSIAN)) + 1e-8))
        assert lin.excess_risk("continuous") == pytest.approx(0.3 * np.trace(P @ SIGMA) / 4, rel=1e-12)

    @pytest.mark.parametrize("step", [1e-3, 0.3, 3.0])
    def test_it_settles_at_steps_far_beyond_the_noises_own_limit(self, step):
        noise = st.Noise(gradient=0.1 * SIGMA, curvature=0.3)
        lin = at_point(st.RMSprop(), noise, step=step)
        S, P = lin.covariance(), np.diag(lin.metric)
        drawn = 0.1 * SIGMA + sum(E @ S @ E for E in goe(0.3))
        v = np.diag(drawn + HESSIAN @ S @ HESSIAN)
        np.testing.assert_allclose(np.diag(P), 1 / (np.sqrt(v) + 1e-8), rtol=1e-8)
        assert lin.validity == pytest.approx(max(0.01, 1 - np.sqrt(np.min(np.diag(0.1 * SIGMA) / v))))
        assert lin.valid is (step < 0.1)
        assert lin.valid_from == (1.0 if step < 0.1 else np.inf)

    def test_with_hardly_any_noise_it_oscillates_as_far_as_half_a_step(self):
        lin = at_point(st.RMSprop(), st.Noise(gradient=1e-3), hessian=np.diag([1.0, 0.5, 2.0]))
        np.testing.assert_allclose(lin.covariance(), np.eye(DIM) * (STEP / 2) ** 2, rtol=0.01, atol=1e-9)
        assert lin.validity == pytest.approx(1, abs=0.1)


class TestSign:
    @pytest.mark.parametrize(("time", "dt"), LAWS)
    def test_its_covariance_is_that_of_signs_of_gaussian_gradients(self, time, dt):
        lin = at_point(st.SignSGD(), st.Noise(gradient=SIGMA, curvature=TAU))
        D = np.diag(np.diag(SIGMA) ** -0.5)
        A, C = np.sqrt(2 / np.pi) * D @ HESSIAN, 2 / np.pi * np.arcsin(np.clip(D @ SIGMA @ D, -1, 1))
        np.fill_diagonal(C, 1.0)
        expected = second_moment(A, lambda M: C, time, STEP, STEP if dt is None else dt)
        np.testing.assert_allclose(lin.covariance(time, dt), expected, rtol=1e-10, atol=1e-13)
        np.testing.assert_allclose(lin.metric, np.sqrt(2 / np.pi) * np.diag(D), rtol=1e-12)
        assert lin.step_limit() == pytest.approx(2 / np.max(np.linalg.eigvals(A).real), rel=1e-12)

    def test_its_validity_is_the_share_of_its_own_motion(self):
        lin = at_point(st.SignSGD(), st.Noise(gradient=SIGMA))
        motion = np.diag(HESSIAN @ lin.covariance() @ HESSIAN)
        assert lin.validity == pytest.approx(1 - (1 + np.max(motion / np.diag(SIGMA))) ** -0.5, rel=1e-10)


def advised(error):
    """The method that an error names."""
    name = re.search(r" or (\w+\(.*\))\.$", str(error.value))[1]
    return eval(name, vars(st))  # noqa: S307 (of our own message)


class TestWithoutNoise:
    @pytest.mark.parametrize(
        "method",
        [
            st.SignSGD(),
            st.RMSprop(beta2=0.9, eps=0.0),
            st.RMSprop(),
            st.Adam(eps=0),
            st.Adam(),
            st.Momentum(st.RMSprop(), 0.5, nesterov=True),
        ],
        ids=repr,
    )
    def test_a_coordinate_without_noise_is_named_and_the_eps_that_is_advised_works(self, method):
        noise = st.Noise(gradient=[1.0, 0.0, 0.5])
        with pytest.raises(ValueError, match=r"entry 1 has no noise: there .* metric is .*eps=") as error:
            at_point(method, noise, hessian=np.diag([2.0, 1.0, 0.5]))
        lin = at_point(advised(error), noise, hessian=np.diag([2.0, 1.0, 0.5]))
        assert lin.metric[1] == pytest.approx(1 / lin.flow.method.eps)
        if not isinstance(method, st.SignSGD):  # nothing else of it has changed
            old, new = (re.sub("eps=[^,)]+", "", repr(one)) for one in (method, lin.flow.method))
            assert old == new
        assert np.diag(lin.covariance())[1] == 0

    @pytest.mark.parametrize("method", [st.SignSGD(), st.RMSprop(), st.Adam()], ids=repr)
    @pytest.mark.filterwarnings("ignore:overflow")
    def test_noise_whose_square_is_no_number_is_refused(self, method):
        flow = st.Flow(st.quadratic([1.0]), method, st.Noise(gradient=1e200), step=0.1)
        for ask in (lambda: st.linearize(flow), lambda: st.simulate(flow, start=[0.0], t_end=0.1, paths=2)):
            with pytest.raises(ValueError, match=r"beyond all floats.* in larger units"):
                ask()

    @pytest.mark.parametrize("method", [st.SignSGD(), st.RMSprop(), st.Adam()], ids=repr)
    def test_so_is_a_flow_without_any(self, method):
        with pytest.raises(ValueError, match="entries 0, 1, 2 have no noise") as error:
            at_point(method, None)
        assert not at_point(advised(error), None).covariance().any()

    def test_noise_of_other_coordinates_is_enough_where_curvature_couples_them(self):
        lin = at_point(st.RMSprop(), st.Noise(gradient=[1.0, 0.0, 0.5]))
        assert lin.metric[1] > 1
        with pytest.raises(ValueError, match="entry 1 has no noise"):  # of signs theory takes the noise's own
            at_point(st.SignSGD(), st.Noise(gradient=[1.0, 0.0, 0.5]))

    def test_a_step_too_short_for_eps_to_matter_is_answered(self):
        noise = st.Noise(gradient=[1.0, 0.0, 0.5])
        lin = at_point(st.Adam(), noise, step=1e-9, hessian=np.diag([2.0, 1.0, 0.5]))
        np.testing.assert_allclose(lin.metric, [1.0, 1e8, 2.0], rtol=1e-6)

    def test_gradients_with_hardly_any_noise_beside_their_motion_are_refused(self):
        noise = st.Noise(gradient=1e-9)
        with pytest.raises(ValueError, match="hardly any noise beside what steps this long") as error:
            at_point(st.RMSprop(), noise)
        assert at_point(advised(error), noise).valid

    def test_in_a_table_of_bounds_it_is_a_note(self):
        noise, compared = st.Noise(gradient=[1.0, 0.0, 0.5]), [st.SGD(), st.Adam(), st.SignSGD()]
        compared.append(st.Adam(weight_decay=50.0))
        rows = st.bounds(st.quadratic([2.0, 1.0, 0.5]), noise, compared, step=STEP).rows
        assert "entry 1 has no noise" in rows[1].note
        assert "entry 1 has no noise" in rows[2].note
        assert "beyond 2 / step" in rows[3].note
        assert np.isnan(rows[1].step_limit)
        assert not rows[0].note

    def test_a_table_of_bounds_says_why_a_row_is_not_to_be_trusted(self):
        F, noise = st.quadratic([2.0, 0.5]), st.Noise(gradient=0.1, curvature=0.3)
        fast = st.RMSprop(beta2=0.8)
        table = st.bounds(F, noise, [st.SGD(), st.RMSprop()], step=0.3)
        assert [row.doubt[:39] for row in table.rows] == ["", "Theory is of first order in the step: a"]
        assert "\n! Theory is of first order in the step" in str(table)
        assert "Hessian" not in str(table)
        both = str(st.bounds(F, noise, [st.Newton(), st.RMSprop(), fast], step=0.3))
        for line in (
            "Newton: Hessian noise bends",
            "RMSprop (beta2 0.8): Theory is of first order in 1 - beta2",
        ):
            assert f"\n! {line}" in both
        # What they say to do helps.
        assert st.bounds(F, noise, [st.RMSprop()], step=1e-4).rows[0].valid
        assert st.bounds(F, noise, [st.RMSprop(beta2=0.91)], step=1e-4).rows[0].valid
        # A row that was left out is not doubted.
        still = st.Noise(gradient=[1.0, 0.0])
        assert "\n!" not in str(st.bounds(F, still, [st.SGD(), st.SignSGD()], step=0.3))

    def test_weight_decay_beyond_its_own_limit_is_told(self):
        with pytest.raises(st.Unstable, match="weight decay 50 is beyond 2 / step"):
            at_point(st.Adam(weight_decay=50.0), st.Noise(gradient=SIGMA))


class TestSeen:
    """Plain iterations, written apart from the package's, against what theory says of them."""

    C, S = np.cos(0.6), np.sin(0.6)
    TURN = np.array([[C, -S], [S, C]])
    HESSIAN = TURN @ np.diag([1.0, 0.4]) @ TURN.T
    SIGMA = np.array([[1.0, 0.3], [0.3, 0.5]])
    CENTER = np.array([0.8, -0.5])
    KINDS: ClassVar = {
        "SignSGD": lambda step: st.SignSGD(),
        "RMSprop": lambda step: st.RMSprop(beta2=1 - 0.2 * step),
        "Adam": lambda step: st.Adam(beta1=0.5, beta2=1 - 0.2 * step),
        "AdamW": lambda step: st.Adam(beta1=0.5, beta2=1 - 0.2 * step, weight_decay=0.3),
    }

    def iterates(self, method, step, paths, lin):
        """Positions after each step, from about the stationary law."""
        rng, root = np.random.default_rng(7), np.linalg.cholesky(self.SIGMA)
        w = lin.center + rng.standard_normal((paths, 2)) @ np.linalg.cholesky(lin.covariance()).T
        m, v = 0 * w, (0 * w + 1 / lin.metric) ** 2
        beta, decay = getattr(method, "beta1", 0.0), method.weight_decay
        while True:
            g = (w - self.CENTER) @ self.HESSIAN + rng.standard_normal((paths, 2)) @ root.T
            if isinstance(method, st.SignSGD):
                w = w - step * np.sign(g)
            else:
                v = method.beta2 * v + (1 - method.beta2) * g * g
                m = beta * m + (1 - beta) * g
                w = (1 - step * decay) * w - step * m / (np.sqrt(v) + method.eps)
            yield w

    def excess(self, method, step, paths):
        """Measured less predicted second moments about the centre, over `step`, and their errors."""
        objective = QuadraticModel(self.HESSIAN, self.CENTER)
        lin = st.linearize(st.Flow(objective, method, st.Noise(gradient=self.SIGMA), step=step), self.CENTER)
        each, count = 0.0, int(30 / step)
        for k, w in zip(range(2 * count), self.iterates(method, step, paths, lin), strict=False):
            apart = w - lin.center
            each = each + (k >= count) * apart[:, :, None] * apart[:, None, :] / count
        return (each.mean(axis=0) - lin.covariance()) / step, each.std(axis=0) / np.sqrt(paths) / step

    def check(self, kind, paths):
        (far, far_error), (near, error) = (self.excess(self.KINDS[kind](a), a, paths) for a in (0.4, 0.2))
        assert np.all(np.abs(2 * near - far) < 4 * np.hypot(2 * error, far_error))
        return far / far_error

    @pytest.mark.parametrize("kind", KINDS)
    def test_what_theory_leaves_out_is_of_first_order_in_the_step(self, kind):
        self.check(kind, 2000)

    @pytest.mark.slow
    @pytest.mark.parametrize("kind", KINDS)
    def test_and_it_is_seen_with_many_paths(self, kind):
        assert np.min(self.check(kind, 12000)) < -3


class TestRotation:
    def test_a_turned_problem_is_another_one_to_adam_and_the_same_to_sgd(self):
        """Label noise, Sigma = H: along the axes Adam's metric takes the root of the condition number."""
        spectrum, ratios = [1.0, 1e-2, 1e-4], {}
        for turned in (False, True):
            H = TURN @ np.diag(spectrum) @ TURN.T if turned else np.diag(spectrum)
            for method in (st.SGD(), st.SFN(damping=0.1), st.Adam(), st.SignSGD()):
                lin = at_point(method, st.Noise(gradient=H), step=1e-5, hessian=H)
                ratios[method.name, turned] = np.max(lin.rates) / np.min(lin.rates), lin.excess_risk()
        for name in ("SGD", "SFN"):
            np.testing.assert_allclose(ratios[name, True], ratios[name, False], rtol=1e-9)
        for name in ("Adam", "SignSGD"):
            assert 1 / ratios[name, False][0] == pytest.approx(100, rel=0.01)
            assert 1 / ratios[name, True][0] > 2000


class TestElsewhere:
    def test_at_a_saddle_the_metric_is_the_noises_own(self):
        lin = at_point(st.Adam(), st.Noise(gradient=SIGMA), hessian=TURN @ np.diag([1.0, -0.3, 0.1]) @ TURN.T)
        np.testing.assert_allclose(lin.metric, 1 / (np.sqrt(np.diag(SIGMA)) + 1e-8), rtol=1e-12)
        assert np.sum(lin.rates > 0) == 1
        with pytest.raises(st.Unstable, match="1 of 3 modes do not decay"):
            lin.covariance()
        assert lin.moments(1.0)[1].shape == (3, 3)

    def test_a_flat_direction_that_noise_enters_leaves_the_others_to_settle(self):
        H = TURN @ np.diag([1.0, 0.3, 0.0]) @ TURN.T
        lin = at_point(st.RMSprop(), st.Noise(gradient=SIGMA), hessian=H)
        assert np.all(lin.metric < 1 / np.sqrt(np.diag(SIGMA)))
        with pytest.raises(st.Unstable, match="do not decay"):
            lin.covariance()

    def test_weight_decay_holds_a_saddle_and_moves_nothing_at_the_origin(self):
        method = st.Adam(weight_decay=1.0)
        lin = at_point(method, st.Noise(gradient=SIGMA), hessian=np.diag([1.0, -0.3, 0.1]), at=np.zeros(3))
        assert np.all(lin.rates < 0)
        assert lin.center is lin.at
        with pytest.raises(st.Unstable, match="cancels a negative curvature exactly"):
            at_point(
                st.Adam(weight_decay=1.0, eps=1.0),
                st.Noise(gradient=[0.0, 0.0, 0.0]),
                hessian=np.diag([1.0, -1.0, 0.1]),
            )

    @pytest.mark.parametrize("method", METRICS, ids=repr)
    def test_saved_it_answers_as_before(self, method, tmp_path):
        lin = at_point(method, st.Noise(gradient=SIGMA, curvature=TAU))
        back = st.load(lin.save(tmp_path / "linear"))
        assert str(back) == str(lin)
        np.testing.assert_array_equal(back.covariance("continuous"), lin.covariance("continuous"))

    def test_methods_of_both_kinds_share_a_point(self):
        noise = st.Noise(gradient=SIGMA, curvature=TAU)
        sgd = at_point(st.SGD(), noise)
        for method in METRICS:
            np.testing.assert_array_equal(
                sgd.under(method).covariance(), at_point(method, noise).covariance()
            )
            np.testing.assert_array_equal(sgd.under(method).under(st.SGD()).rates, sgd.rates)
        bounds = st.bounds(QuadraticModel(HESSIAN, CENTER), noise, [st.SGD(), *METRICS], step=STEP, at=CENTER)
        assert [row.method for row in bounds.rows] == ["SGD", *(one.label for one in METRICS)]
        for row, method in zip(bounds.rows[1:], METRICS, strict=True):
            assert row.step_limit == at_point(method, noise).step_limit()
            assert not row.note

    @pytest.mark.parametrize("method", ADAPTIVE, ids=repr)
    def test_minibatches_samples_of_few_rows_are_what_matrices_say(self, method, monkeypatch):
        rng = np.random.default_rng(0)
        X = rng.normal(size=(60, 5)) * [1.0, 0.5, 0.3, 0.2, 0.1] @ np.linalg.qr(rng.normal(size=(5, 5)))[0]
        F = st.least_squares(X, X @ rng.normal(size=5) + 0.5 * rng.normal(size=60), l2=0.05)
        found = []
        for whole in (34, 2):
            monkeypatch.setattr("stability.noise.data.WHOLE", whole)
            lin = st.linearize(st.Flow(F, method, st.Noise.from_data(F, batch=8), step=0.02))
            cov, moments = lin.covariance(), lin.moments(0.2, np.ones(5))
            found.append([lin.metric, cov, *moments, lin.step_limit(), lin.limit().shares["gradient batch"]])
        for whole, by_rows in zip(*found, strict=True):
            np.testing.assert_allclose(by_rows, whole, rtol=1e-8, atol=1e-11)

    def test_order_two_is_order_one_where_no_hessian_noise_bends(self):
        lin = at_point(st.Adam(weight_decay=0.1), st.Noise(gradient=SIGMA, curvature=TAU))
        np.testing.assert_array_equal(lin.covariance(order=2), lin.covariance())


class TestWeightDecay:
    """Of every method, against dense solves: drift ``P H + decay I``, noise about the moved centre."""

    METHODS: ClassVar = [
        st.SGD(weight_decay=0.3),
        st.SFN(damping=0.2, weight_decay=0.3),
        st.Momentum(st.SFN(damping=0.2, weight_decay=0.3), beta=0.6),
    ]

    @pytest.mark.parametrize("coupling", ["independent", "nested"])
    @pytest.mark.parametrize("method", METHODS, ids=repr)
    def test_covariances_risks_and_moments(self, method, coupling):
        lin = at_point(method, st.Noise(gradient=SIGMA, curvature=TAU, coupling=coupling))
        P = np.eye(DIM) if method.is_identity else np.linalg.inv(HESSIAN + 0.2 * np.eye(DIM))
        bent = 0 * P if method.is_identity else P  # DP[E] = -P E P at a minimum
        drawn = np.array([[P @ E, -bent @ E @ P @ HESSIAN] for E in goe(TAU)])
        kicks = drawn.sum(axis=1) if coupling == "nested" else drawn.reshape(-1, DIM, DIM)
        A = P @ HESSIAN + 0.3 * np.eye(DIM)
        beside = 0.3 * (0.4 if method.memory else 1.0) * np.eye(DIM)
        apart = np.linalg.solve(P @ HESSIAN + beside, P @ HESSIAN @ CENTER) - CENTER

        def noise(M):
            return P @ SIGMA @ P + sum(G @ (M + np.outer(apart, apart)) @ G.T for G in kicks)

        for time, dt in LAWS:
            law = noise, time, STEP, STEP if dt is None else dt
            expected = heavy(P @ HESSIAN, 0.3, 0.6, *law) if method.memory else second_moment(A, *law)
            np.testing.assert_allclose(lin.covariance(time, dt), expected, rtol=1e-10, atol=1e-12)
            risk = 0.5 * np.trace(HESSIAN @ (expected + np.outer(apart, apart)))
            np.testing.assert_allclose(lin.excess_risk(time, dt), risk, rtol=1e-10)
        np.testing.assert_allclose(lin.mean_shift, apart, rtol=1e-10)
        np.testing.assert_allclose(lin.center, CENTER + apart, rtol=1e-12)
        mean, cov = lin.moments(1000 * STEP, [1.0, 2.0, -1.0])
        np.testing.assert_allclose(mean, lin.center, rtol=1e-5)
        np.testing.assert_allclose(cov, lin.covariance(), rtol=1e-5)

    @pytest.mark.parametrize("nesterov", [False, True])
    def test_with_momentum_the_centre_is_where_plain_steps_end(self, nesterov):
        lin = at_point(
            st.Momentum(st.SGD(weight_decay=0.3), beta=0.6, nesterov=nesterov), st.Noise(gradient=1.0)
        )
        w, u = np.zeros(DIM), np.zeros(DIM)
        for _ in range(3000):
            g = HESSIAN @ (w - CENTER)
            u = 0.6 * u + g
            w = (1 - STEP * 0.3) * w - STEP * (g + 0.6 * u if nesterov else u)
        np.testing.assert_allclose(lin.center, w, rtol=1e-10)
        mean, _ = lin.moments(500.0, [1.0, 2.0, -1.0], state=True)
        np.testing.assert_allclose(mean, np.concatenate([w, u]), rtol=1e-8)

    def test_a_saddle_that_momentum_tears_open_is_no_minimum_to_weight_decay(self):
        F = st.quadratic([1.0, -0.2])
        for method, held in (
            (st.SGD(weight_decay=0.3), True),
            (st.Momentum(st.SGD(weight_decay=0.3)), False),
        ):
            lin = st.linearize(st.Flow(F, method, st.Noise(gradient=1.0), step=0.01))
            assert bool(np.all(lin.rates < 0)) is held
            if held:
                assert lin.covariance().shape == (2, 2)
            else:
                with pytest.raises(st.Unstable, match="1 of 2 modes do not decay"):
                    lin.covariance()

    @pytest.mark.parametrize("method", METHODS[:2], ids=repr)
    def test_amplification_and_limit_of_single_modes(self, method):
        lin = at_point(method, st.Noise(gradient=0.7))
        phi = lin.gains
        np.testing.assert_allclose(lin.rates, -phi * lin.eigenvalues - 0.3)
        np.testing.assert_allclose(
            lin.amplification, phi**2 * lin.eigenvalues / (phi * lin.eigenvalues + 0.3), rtol=1e-12
        )
        assert lin.step_limit() == pytest.approx(2 / np.max(-lin.rates), rel=1e-12)

    @pytest.mark.parametrize("method", [METHODS[0], st.Momentum(METHODS[0], beta=0.5)], ids=repr)
    def test_the_tail_index_is_two_at_the_mean_square_limit(self, method):
        flow = st.Flow(st.quadratic([1.0]), method, st.Noise(curvature=0.6), step=0.1)
        at_limit = st.linearize(flow.at_step(st.linearize(flow).step_limit()))
        assert at_limit.tail("discrete").value == pytest.approx(2, abs=1e-5)

    def test_order_two_is_refused_where_it_is_another(self):
        lin = at_point(self.METHODS[1], st.Noise(gradient=SIGMA, curvature=TAU))
        with pytest.raises(ValueError, match=r"`order=2` is not derived with weight decay\. Use order=1"):
            lin.covariance(order=2)
        table = st.bounds(
            QuadraticModel(HESSIAN, CENTER), lin.flow.noise_model, self.METHODS[:2], step=STEP, at=CENTER
        )
        assert table.rows[1].step_limit == lin.step_limit()
        assert np.isnan(table.rows[1].step_limit_L2)


class TestSkewNoise:
    @pytest.mark.parametrize("noise", [st.Noise(curvature=0.3), st.Noise.streaming(np.diag([1.0, 0.5, 0.2]))])
    def test_on_orthonormal_modes_it_is_the_other(self, noise):
        """One law, told in two ways: what it does, what is the gradient's, and how single samples spread."""
        flow = st.Flow(st.quadratic([1.0, 0.5, 0.2]), st.SGD(), noise, step=0.1)
        known = st.linearize(flow, at=np.zeros(3))._dynamics.noise
        frame = Frame.spectral(flow.method, known.eigenvalues, known.vectors)
        skew = modes.SkewNoise(flow, known.turned, frame)
        M = np.array([[2.0, 0.3, -0.1], [0.3, 1.0, 0.2], [-0.1, 0.2, 0.5]])
        np.testing.assert_allclose(skew.kick(M), known.kick(M), rtol=1e-13)
        np.testing.assert_allclose(skew.sample_spread(), known.sample_spread(), rtol=1e-13)
        assert skew.gradient_share(M) == pytest.approx(known.gradient_share(M), rel=1e-13)
