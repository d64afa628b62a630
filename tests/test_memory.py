"""Momentum: a method with a buffer of its steps, and its linear theory against matrices written out."""

import copy
import itertools
import pickle

import numpy as np
import pytest
import scipy

import stability as st
from stability.methods.memory import Memory
from stability.portraits.critical import CriticalPoint
from stability.trajectories.equations import chain_step

QUIET = st.Noise(gradient=0.1)
HEAVY = st.Momentum(st.SFN(damping=0.1), beta=0.9)


def flow(method=HEAVY, spectrum=(1.0, 0.2), **options):
    return st.Flow(st.quadratic(spectrum), method, options.pop("noise", QUIET), step=0.1)


class TestMomentum:
    @pytest.mark.parametrize(
        "inner",
        [
            st.SGD(),
            st.Newton(),
            st.SFN(damping=0.1),
            st.LRSFN(rank=1, damping=0.1, tail="flat"),
            st.Method(lambda lam, eps: 1 / (lam**2 + eps) ** 0.5, name="root", eps=0.01),
        ],
        ids=lambda m: m.label,
    )
    def test_its_preconditioner_is_the_inner_methods(self, inner):
        method, lams = st.Momentum(inner, 0.5, True), np.array([3.0, 1.7, 0.5])
        assert np.array_equal(method.gains(lams), inner.gains(lams))
        assert np.array_equal(method.divided_differences(lams), inner.divided_differences(lams))
        assert method.parameters == inner.parameters
        assert (method.rank, method.is_identity) == (inner.rank, inner.is_identity)
        assert method.label == f"{inner.label} + Nesterov 0.5"
        assert repr(method) == f"Momentum({inner!r}, beta=0.5, nesterov=True)"

    def test_the_inner_methods_own_numbers_are_at_hand(self):
        assert HEAVY.damping == 0.1
        assert HEAVY.with_parameters(damping=0.5).gain(0.5) == 1.0
        assert (HEAVY.beta, HEAVY.nesterov, HEAVY.memory.average) == (0.9, False, False)
        with pytest.raises(AttributeError, match="no attribute 'colour'"):
            _ = HEAVY.colour

    @pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])  # noqa: S301
    def test_it_is_copied_and_sent_to_other_processes(self, how):
        assert repr(how(HEAVY)) == repr(HEAVY)
        assert how(HEAVY).gain(0.9) == 1.0

    def test_other_methods_have_no_memory(self):
        assert st.SGD().memory is None
        assert st.Method(lambda lam: 2.0).memory is None

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda: st.Momentum(st.SGD(), beta=1.0), r"`beta` must be in \[0, 1\); got 1.0"),
            (lambda: st.Momentum(st.SGD(), beta=-0.1), r"`beta` must be in \[0, 1\); got -0.1"),
            (lambda: st.Momentum(st.SGD(), beta=np.nan), r"`beta` must be in \[0, 1\); got nan"),
            (lambda: st.Momentum(st.SGD(), beta="0.9"), r"`beta` must be"),
            (lambda: st.Momentum(st.SGD(), nesterov="no"), r"`nesterov` must be True or False; got 'no'"),
            (
                lambda: st.Momentum(HEAVY),
                r"must have no momentum of its own; got Momentum.*Wrap the method inside",
            ),
            (
                lambda: st.Momentum(st.Adam()),
                r"must have no momentum of its own; got Adam.* Use its own `beta1`",
            ),
            (lambda: st.Momentum(st.SGD), r"`method` must be a st.Method such as st.SGD\(\)"),
            (lambda: st.Momentum("SGD"), r"`method` must be a st.Method such as st.SGD\(\) .*; got 'SGD'"),
        ],
    )
    def test_bad_input(self, call, message):
        with pytest.raises(ValueError, match=message):
            call()


ASKED = {
    "st.exact_mode": lambda: st.exact_mode(HEAVY, curvature=1.0, noise=QUIET),
    "theorem 'noise-amplification'": lambda: st.theorem("noise-amplification", method=HEAVY),
}


@pytest.mark.parametrize("who", ASKED)
def test_what_does_not_know_momentum_refuses_it(who):
    inside = r"Use SFN\(damping=0.1\), the method inside"
    with pytest.raises(
        ValueError, match=rf"must have no momentum: {who} knows nothing of it yet; .*{inside}"
    ):
        ASKED[who]()


def test_a_start_of_neither_length_names_both():
    one = st.linearize(flow())
    with pytest.raises(
        ValueError, match=r"`mean0` must have shape \(2,\) or \(4,\), with the buffer; got shape \(3,\)"
    ):
        one.moments(1.0, np.ones(3))
    with pytest.raises(ValueError, match=r"`cov0` must have shape \(2, 2\) or \(4, 4\)"):
        one.moments(1.0, np.ones(2), np.eye(3))
    whole = one.moments(1.0, [1.0, 2.0, 0.0, 0.0], np.diag([1.0, 1.0, 0.0, 0.0]))
    np.testing.assert_array_equal(whole[1], one.moments(1.0, [1.0, 2.0], np.eye(2))[1])


def test_one_mode_exactly_names_who_knows_momentum():
    with pytest.raises(
        ValueError, match=r"or st.lyapunov_exponents\(flow\) and st.linearize\(flow\).tail_index"
    ):
        ASKED["st.exact_mode"]()
    noisy = st.Flow(st.quadratic([1.0]), HEAVY, st.Noise(gradient=0.1, curvature=0.3), step=0.1)
    assert st.lyapunov_exponents(noisy, iterations=20, products=10).exponents.shape == (2,)
    assert st.linearize(noisy).tail_index > 0


# -- linear theory, against matrices written out here -----------------------------------------------------


def circle(f, H, kept):
    """``P(H)`` and ``E -> DP[E]`` by Cauchy's integral around the `kept` largest eigenvalues of H (d, d)."""
    lam = np.linalg.eigvalsh(H)[-kept:]
    centre, radius = lam.mean(), 0.5 * np.ptp(lam) + 0.12
    turns = np.exp(2j * np.pi * (np.arange(120) + 0.5) / 120)
    resolvents = np.linalg.inv((centre + radius * turns)[:, None, None] * np.eye(len(H)) - H)
    weights = radius * turns * f(centre + radius * turns) / 120
    P = np.einsum("n,nij->ij", weights, resolvents).real
    return P, lambda E: np.einsum("n,nij,jk,nkl->il", weights, resolvents, E, resolvents).real


GAINS = {
    "SGD": (st.SGD(), lambda z: 0 * z + 1, 3, 0.0),
    "damped Newton": (st.DampedNewton(damping=0.3), lambda z: 1 / (z + 0.3), 3, 0.0),
    "SFN": (st.SFN(damping=0.5), lambda z: 1 / (z + 0.5), 3, 0.0),
    "LRSFN": (st.LRSFN(rank=1, damping=0.4), lambda z: 1 / (z + 0.4) - 1 / 0.4, 1, 1 / 0.4),
    "own": (st.Method(lambda x, eps: (x**2 + eps) ** -0.5, eps=0.5), lambda z: (z**2 + 0.5) ** -0.5, 3, 0.0),
}
SPECTRUM = np.array([1.0, 0.6, 0.3])
MEMORIES = {
    "none": (0.0, False),
    "light": (0.5, False),
    "heavy": (0.9, False),
    "Nesterov": (0.9, True),
}
COUPLINGS = {
    "independent": {"batch": 2, "hessian_batch": 3},
    "nested": {"batch": 4, "hessian_batch": 2, "coupling": "nested"},
    "same": {"batch": 2, "hessian_batch": 2, "coupling": "nested"},
}


class Dense:
    """Second moments of ``(w, u)`` as one matrix on vectors (4 d^2,), from the definition."""

    def __init__(self, H, P, C, noise):
        self.H, self.P, self.C, self.noise = H, P, C, noise
        self.dim, self.A = len(H), P @ H

    def matrices(self, beta, nesterov, step):
        eye = np.eye(self.dim)
        c, e = (1 + beta, beta**2) if nesterov else (1.0, beta)
        B = np.block([[eye - step * c * self.A, -step * e * eye], [self.A, beta * eye]])
        return B, np.vstack([-step * c * eye, eye])

    def lifted(self, b):
        first = np.hstack([np.eye(self.dim), np.zeros((self.dim, self.dim))])
        return np.kron(b, b) @ self.noise @ np.kron(first, first), (
            b @ self.P @ self.C @ self.P @ b.T
        ).ravel()

    def radius(self, *memory):
        B, b = self.matrices(*memory)
        return np.abs(np.linalg.eigvals(np.kron(B, B) + self.lifted(b)[0])).max()

    def covariance(self, *memory):
        B, b = self.matrices(*memory)
        noise, source = self.lifted(b)
        found = np.linalg.solve(np.eye(len(source)) - np.kron(B, B) - noise, source)
        return found.reshape((2 * self.dim,) * 2)

    def stationary(self, J, b):
        """In continuous time."""
        noise, source = self.lifted(b)
        eye = np.eye(2 * self.dim)
        return np.linalg.solve(-np.kron(J, eye) - np.kron(eye, J) - noise, source).reshape(J.shape)


def goe(P, DP, H, tau, batch, hessian_batch, coupling="independent"):
    """``E[G (x) G]`` of ``G = P Eg + DP[Eh] H``, by the four-index covariance of symmetric noise."""
    dim = len(H)
    eye = np.eye(dim)
    law = tau**2 * (np.einsum("ik,jl->ijkl", eye, eye) + np.einsum("il,jk->ijkl", eye, eye)).reshape(
        dim**2, -1
    )
    basis = np.eye(dim**2).reshape(-1, dim, dim)
    own = np.stack([(P @ E).ravel() for E in basis], axis=1)
    other = np.stack([(DP(E) @ H).ravel() for E in basis], axis=1)
    shared = 1 / batch if coupling == "nested" else 0.0
    total = own @ law @ own.T / batch + other @ law @ other.T / hessian_batch
    mixed = shared * own @ law @ other.T
    G = (total + mixed + mixed.T).reshape((dim,) * 4)
    return G.transpose(0, 2, 1, 3).reshape(dim**2, dim**2)


def problem(name, coupling, beta, nesterov, step=0.05):
    method, f, kept, rest = GAINS[name]
    F = st.quadratic(SPECTRUM, rotation_seed=3)
    H = F.hessian(np.zeros(3))
    C = np.array([[0.3, 0.1, 0.0], [0.1, 0.2, 0.05], [0.0, 0.05, 0.1]])
    options = COUPLINGS[coupling]
    P, DP = circle(f, H, kept)
    P = P + rest * np.eye(3)
    dense = Dense(H, P, C / options["batch"], goe(P, DP, H, 0.25, **options))
    noise = st.Noise(gradient=C, curvature=0.25, **options)
    flow = st.Flow(F, st.Momentum(method, beta, nesterov), noise, step=step)
    return dense, st.linearize(flow)


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("coupling", COUPLINGS)
@pytest.mark.parametrize("name", GAINS)
def test_the_limit_and_the_covariance_are_the_dense_maps(name, coupling, memory):
    beta, nesterov = MEMORIES[memory]
    dense, linear = problem(name, coupling, beta, nesterov)
    limit = linear.step_limit()
    assert dense.radius(beta, nesterov, limit) == pytest.approx(1, abs=1e-10)
    assert dense.radius(beta, nesterov, limit * 1.001) > 1
    limit = linear.step_limit("mean")
    size = [
        np.abs(np.linalg.eigvals(dense.matrices(beta, nesterov, limit * x)[0])).max() for x in (0.999, 1.001)
    ]
    assert size[0] < 1 < size[1]
    step = 0.4 * linear.step_limit()
    dense, linear = problem(name, coupling, beta, nesterov, step)
    expected = dense.covariance(beta, nesterov, step)
    size = np.abs(expected).max()
    np.testing.assert_allclose(linear.covariance(state=True), expected, rtol=0, atol=1e-10 * size)
    np.testing.assert_allclose(
        linear.covariance(), expected[:3, :3], rtol=0, atol=1e-10 * np.abs(expected[:3, :3]).max()
    )
    assert sum(linear.limit().shares.values()) == pytest.approx(1)


@pytest.mark.parametrize("memory", ["heavy", "Nesterov"])
def test_the_chain_and_continuous_time_are_the_dense_ones(memory):
    beta, nesterov = MEMORIES[memory]
    step = 0.1
    dense, linear = problem("SFN", "nested", beta, nesterov, step)
    eye, none = np.eye(3), np.zeros((3, 3))
    J = np.block(
        [[-nesterov * dense.A, -(beta if nesterov else 1) * eye], [dense.A / step, -(1 - beta) / step * eye]]
    )
    b = np.vstack([-nesterov * np.sqrt(step) * eye, eye / np.sqrt(step)])
    expected = dense.stationary(J, b)
    atol = 1e-11 * np.abs(expected).max()
    np.testing.assert_allclose(linear.covariance("continuous", state=True), expected, rtol=0, atol=atol)
    np.testing.assert_allclose(
        linear.covariance("chain", state=True), linear.covariance(state=True), rtol=1e-12
    )
    # The symplectic chain: the buffer first, then the position with the new one.
    dt = step / 4
    keeps = 1 - (1 - beta) * dt / step
    buffer = np.hstack([dense.A * dt / step, keeps * eye])
    kicked = np.sqrt(dt / step) * eye
    ahead = np.hstack([eye, none]) - dt * (beta * buffer + np.hstack([dense.A, none]) if nesterov else buffer)
    moved = -dt * beta * kicked - np.sqrt(step * dt) * eye if nesterov else -dt * kicked
    B, b = np.vstack([ahead, buffer]), np.vstack([moved, kicked])
    noise, source = dense.lifted(b)
    expected = np.linalg.solve(np.eye(36) - np.kron(B, B) - noise, source).reshape(6, 6)
    np.testing.assert_allclose(
        linear.covariance("chain", dt, state=True), expected, rtol=0, atol=1e-10 * np.abs(expected).max()
    )


@pytest.mark.parametrize("memory", ["heavy", "Nesterov"])
def test_moments_of_minibatches_are_those_of_all_of_them(memory):
    """SGD on least squares is linear: every batch enumerated, its gradient correlated with its curvature."""
    beta, nesterov = MEMORIES[memory]
    rng = np.random.default_rng(2)
    X, y, step = rng.normal(size=(5, 2)), rng.normal(size=5), 0.05
    F = st.least_squares(X, y)
    centre = np.linalg.solve(X.T @ X, X.T @ y)
    noise = st.Noise.from_data(F, centre, batch=2)
    linear = st.linearize(st.Flow(F, st.Momentum(st.SGD(), beta, nesterov), noise, step=step), centre)
    batches = [list(pair) for pair in itertools.combinations(range(5), 2)]
    c, e = (1 + beta, beta**2) if nesterov else (1.0, beta)
    total, eye = 0.0, np.eye(2)
    for batch in batches:
        H, g = X[batch].T @ X[batch] / 2, X[batch].T @ (X[batch] @ centre - y[batch]) / 2
        one = np.block(
            [
                [eye - step * c * H, -step * e * eye, -step * c * g[:, None]],
                [H, beta * eye, g[:, None]],
                [np.zeros((1, 4)), np.ones((1, 1))],
            ]
        )
        total += np.kron(one, one) / len(batches)
    start = np.array([0.4, -0.7, 0.0, 0.0, 1.0])
    second = (np.linalg.matrix_power(total, 7) @ np.kron(start, start)).reshape(5, 5)
    mean, cov = linear.moments(7 * step, centre + start[:2], state=True)
    np.testing.assert_allclose(mean[:2] - centre, second[:2, 4], rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(mean[2:], second[2:4, 4], rtol=1e-12, atol=1e-14)
    expected = second[:4, :4] - np.outer(second[:4, 4], second[:4, 4])
    np.testing.assert_allclose(cov, expected, rtol=0, atol=1e-13 * np.abs(expected).max())
    alone = linear.moments(7 * step, centre + start[:2])
    assert np.array_equal(alone[0], mean[:2])
    assert np.array_equal(alone[1], cov[:2, :2])
    # ... and it goes on from there.
    later = linear.moments(2 * step, mean, cov, state=True)
    straight = linear.moments(9 * step, centre + start[:2], state=True)
    for one, other in zip(later, straight, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("time", ["continuous", "chain", "discrete"])
@pytest.mark.parametrize("memory", ["heavy", "Nesterov"])
def test_moments_of_quiet_curvature_settle_as_the_covariance_says(memory, time):
    F, step = st.quadratic(np.geomspace(1.0, 0.05, 20)), 0.1
    linear = st.linearize(st.Flow(F, st.Momentum(st.SGD(), *MEMORIES[memory]), QUIET, step=step))
    mean, cov = linear.moments(400.0, np.ones(20), time=time, state=True)
    expected = linear.covariance(time, state=True)
    np.testing.assert_allclose(cov, expected, rtol=0, atol=1e-11 * np.abs(expected).max())
    assert np.abs(mean).max() < 1e-6
    # On the way: what is there grows out of what went in.
    first = linear.moments(3.0, np.ones(20), time=time, state=True)
    later = linear.moments(2.0, *first, time=time, state=True)
    for one, other in zip(later, linear.moments(5.0, np.ones(20), time=time, state=True), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-12 * np.abs(other).max())


@pytest.mark.parametrize("nesterov", [False, True])
def test_what_grows_leaves_the_rest_be(nesterov):
    linear = st.linearize(flow(st.Momentum(st.SGD(), 0.9, nesterov), (1.0, -1.0)))
    for time in ("discrete", "continuous"):
        mean, cov = linear.moments(100.0, [1.0, 1.0], time=time)
        alone = st.linearize(flow(st.Momentum(st.SGD(), 0.9, nesterov), (1.0, 0.5))).covariance(time)
        assert cov[0, 0] == pytest.approx(alone[0, 0], rel=1e-12)
        assert abs(mean[0]) < 1e-12
        assert 1e150 < cov[1, 1] < np.inf
        assert not np.isfinite(linear.moments(1e5, [1.0, 1.0], time=time)[1][1, 1])


@pytest.mark.parametrize("nesterov", [False, True])
def test_underdamped_moments_are_the_differential_equations(nesterov):
    linear = st.linearize(flow(st.Momentum(st.SGD(), 0.8, nesterov)))
    H, step = np.diag([1.0, 0.2]), 0.1
    J = np.block([[-nesterov * H, -(0.8 if nesterov else 1) * np.eye(2)], [H / step, -2 * np.eye(2)]])
    b = np.vstack([-nesterov * np.eye(2), np.eye(2) / step]) * np.sqrt(step) * 0.1
    found = linear.moments(1.5, [1.0, 2.0], time="continuous", state=True)
    np.testing.assert_allclose(found[0], scipy.linalg.expm(1.5 * J) @ [1.0, 2.0, 0.0, 0.0], rtol=1e-12)
    settled = scipy.linalg.solve_continuous_lyapunov(J, -b @ b.T)
    gone = scipy.linalg.expm(1.5 * J)
    np.testing.assert_allclose(found[1], settled - gone @ settled @ gone.T, rtol=0, atol=1e-13)


def line(h, s, sigma, beta, nesterov=False, step=0.05):
    """One mode of SGD: curvature h, of standard deviation s over batches, gradient noise sigma."""
    noise = st.Noise(gradient=sigma, curvature=s / np.sqrt(2))
    return st.linearize(st.Flow(st.quadratic([h]), st.Momentum(st.SGD(), beta, nesterov), noise, step=step))


class TestOneMode:
    @pytest.mark.parametrize(
        ("h", "s", "beta"), [(1.0, 0.3, 0.9), (0.2, 0.5, 0.5), (3.0, 1.0, 0.99), (1.0, 0.3, 0.0)]
    )
    def test_the_heavy_balls_closed_forms(self, h, s, beta):
        linear = line(h, s, 0.7, beta)
        expected = 2 * (1 - beta**2) * h / ((1 + beta) * s**2 + (1 - beta) * h**2)
        assert linear.step_limit() == pytest.approx(expected, rel=1e-12)
        assert linear.step_limit("mean") == pytest.approx(2 * (1 + beta) / h, rel=1e-14)
        step = 0.3 * expected
        first = step * 0.49 * (1 + beta) / ((1 - beta) * h * (2 * (1 + beta) - step * h))
        found = line(h, s, 0.7, beta, step=step).covariance()[0, 0]
        assert found == pytest.approx(first / (1 - s**2 * first / 0.49), rel=1e-12)

    @pytest.mark.parametrize(("h", "beta"), [(1.0, 0.9), (0.2, 0.5), (3.0, 0.99)])
    def test_nesterovs_closed_forms(self, h, beta):
        def variance(step):
            top = step * 0.49 * (1 + beta + step * beta * (1 + 2 * beta) * h)
            return top / (h * (1 - beta + step * beta * h) * (2 * (1 + beta) - (1 + 2 * beta) * step * h))

        linear = line(h, 0.4, 0.7, beta, True)
        assert linear.step_limit("mean") == pytest.approx(2 * (1 + beta) / (h * (1 + 2 * beta)), rel=1e-14)
        assert 0.4**2 * variance(linear.step_limit()) == pytest.approx(0.49, rel=1e-11)
        step = 0.3 * linear.step_limit()
        expected = variance(step) / (1 - 0.4**2 * variance(step) / 0.49)
        assert line(h, 0.4, 0.7, beta, True, step).covariance()[0, 0] == pytest.approx(expected, rel=1e-12)

    def test_checked_numbers(self):
        assert line(1.0, np.sqrt(0.3), 1.0, 0.9).covariance()[0, 0] == pytest.approx(0.2742, abs=5e-5)
        # Batch sharpness at the edge, in units of the step: from 2 (1 + beta) to 2 (1 - beta).
        edges = [line(1.0, s, 0.1, 0.9).step_limit() * (1 + s**2) for s in (0.001, 0.3, 1.0, 3.0, 30.0)]
        np.testing.assert_allclose(edges, [3.80, 1.53, 0.380, 0.221, 0.200], rtol=3e-3)

    def test_an_average_is_a_shorter_step(self):
        full, average = Memory(0.9), Memory(0.9, average=True)
        pull = np.array([1.0, 0.2])
        for dt in (0.0, 0.05, 0.2):
            one, other = average.motion(0.2, dt), full.motion(0.02, 0.1 * dt)
            # A unit of the shorter step's time is 0.1 of the other's; noise kicks per iteration.
            np.testing.assert_allclose(one.response(pull), other.response(pull), rtol=1e-13)
        assert average.mean_limit(1.0) == pytest.approx(38.0)
        assert average.effective(0.2) == pytest.approx(0.2)
        assert full.effective(0.2) == pytest.approx(2.0)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("name", GAINS)
def test_without_momentum_it_is_the_method_inside(name, nesterov):
    method = GAINS[name][0]
    noise = st.Noise(gradient=[0.3, 0.2, 0.1], curvature=0.1, batch=2, coupling="nested", hessian_batch=1)
    plain, other = (
        st.linearize(st.Flow(st.quadratic(SPECTRUM, rotation_seed=1), m, noise, step=0.2))
        for m in (method, st.Momentum(method, 0.0, nesterov))
    )
    for time, dt in (("discrete", None), ("chain", 0.2)):
        np.testing.assert_allclose(other.covariance(time, dt), plain.covariance(time, dt), rtol=0, atol=1e-15)
        for one, two in zip(
            other.moments(2.0, np.ones(3), time=time, dt=dt), plain.moments(2.0, np.ones(3)), strict=True
        ):
            np.testing.assert_allclose(one, two, rtol=0, atol=1e-13)
    assert other.step_limit() == pytest.approx(plain.step_limit(), rel=1e-12)
    assert other.step_limit("mean") == pytest.approx(plain.step_limit("mean"), rel=1e-14)
    assert other.limit().shares == pytest.approx(plain.limit().shares, abs=1e-10)


def test_short_steps_with_momentum_are_longer_ones_without():
    """The overdamped limit: 1 / (1 - beta) times the step, to first order in it."""
    gaps = []
    for step in (1e-3, 5e-4):
        one, other = (
            st.linearize(st.Flow(st.quadratic(SPECTRUM), m, QUIET, step=alpha))
            for m, alpha in ((st.Momentum(st.SGD(), 0.9), step), (st.SGD(), 10 * step))
        )
        ratio = one.covariance("continuous") / np.where(np.eye(3) > 0, other.covariance("continuous"), 1.0)
        np.testing.assert_allclose(np.diag(ratio), 1.0, rtol=1e-12)
        gaps.append(np.diag(one.covariance()) / np.diag(other.covariance()) - 1)
    np.testing.assert_allclose(gaps[0] / gaps[1], 2.0, rtol=0.02)
    np.testing.assert_allclose(one.amplification, 10.0, rtol=1e-12)


@pytest.mark.parametrize("name", GAINS)
def test_liu_ziyin_and_uedas_covariance(name):
    """Their equation for heavy-ball SGD with a preconditioner (2021), by what it leaves over."""
    step, beta = 0.2, 0.7
    method = GAINS[name][0]
    F = st.quadratic(SPECTRUM, rotation_seed=5)
    C = np.array([[0.3, 0.1, 0.0], [0.1, 0.2, 0.05], [0.0, 0.05, 0.1]])
    linear = st.linearize(st.Flow(F, st.Momentum(method, beta), st.Noise(gradient=C), step=step))
    H = F.hessian(np.zeros(3))
    lam, Q = np.linalg.eigh(H)
    P = Q @ np.diag(method.gains(lam)) @ Q.T
    A, S = P @ H, linear.covariance()
    left = (1 - beta) * step * (A @ S + S @ A.T) - (1 + beta**2) / (1 - beta**2) * step**2 * A @ S @ A.T
    left += beta / (1 - beta**2) * step**2 * (A @ A @ S + S @ A.T @ A.T)
    right = step**2 * P @ C @ P
    np.testing.assert_allclose(left, right, rtol=0, atol=1e-12 * np.abs(right).max())
    # Excess risk needs nothing but the trace of P C.
    expected = step * np.trace(P @ C) / (4 * (1 - beta))
    assert linear.excess_risk("continuous") == pytest.approx(expected, rel=1e-12)
    weighted = np.trace((H - step / (2 * (1 + beta)) * H @ P @ H) @ S)
    assert weighted == pytest.approx(2 * expected, rel=1e-12)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize(("n", "d"), [(30, 4), pytest.param(40, 205, id="single precision")])
def test_the_limit_by_sample_weights(n, d, nesterov):
    """At the limit the positive matrix between samples has radius one, with few columns and with many."""
    beta, rng = 0.8, np.random.default_rng(4)
    X, y = rng.normal(size=(n, d)) * np.geomspace(1, 0.2, d), rng.normal(size=n)
    F, centre = st.least_squares(X, y), np.linalg.lstsq(X, y, rcond=None)[0]
    noise = st.Noise.from_data(F, centre, batch=3)
    flow = st.Flow(F, st.Momentum(st.SGD(), beta, nesterov), noise, step=1e-3)
    step = st.linearize(flow, centre).step_limit()
    values, U = np.linalg.eigh(X @ X.T / n)
    kept = values > 1e-10 * values[-1]
    lam, Z = values[kept], np.sqrt(n * values[kept]) * U[:, kept]
    c, e = (1 + beta, beta**2) if nesterov else (1.0, beta)
    B = np.array([[[1 - step * c * h, -step * e], [h, beta]] for h in lam])
    b = np.outer([-step * c, 1.0], [-step * c, 1.0]).ravel()
    maps = np.eye(4) - np.einsum("jac,kbd->jkabcd", B, B).reshape(len(lam), len(lam), 4, 4)
    R = np.linalg.solve(maps, np.broadcast_to(b[:, None], (*maps.shape[:2], 4, 1)))[..., 0, 0]
    share = (n - 3) / (3 * (n - 1))
    R = share * R / (1 + share * R * np.outer(lam, lam))
    pairs = (Z[:, :, None] * Z[:, None]).reshape(n, -1)
    between = (pairs * R.ravel()) @ pairs.T / n
    assert np.abs(np.linalg.eigvals(between)).max() == pytest.approx(1, abs=1e-10 if d < 10 else 1e-5)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("inner", [st.RMSprop(eps=0.1), st.SignSGD()], ids=lambda m: m.label)
def test_with_a_metric_that_does_not_commute_with_the_curvature(inner, nesterov):
    step, beta = 0.05, 0.7
    F, C = (
        st.quadratic(SPECTRUM, rotation_seed=5),
        np.array([[0.3, 0.1, 0.0], [0.1, 0.2, 0.05], [0.0, 0.05, 0.1]]),
    )
    linear = st.linearize(st.Flow(F, st.Momentum(inner, beta, nesterov), st.Noise(gradient=C), step=step))
    H, P, K = F.hessian(np.zeros(3)), np.diag(linear.metric), inner.kicks(C)
    assert np.abs(P @ H - H @ P).max() > 0.1
    B, b = Dense(H, P, K, 0.0).matrices(beta, nesterov, step)
    S = scipy.linalg.solve_discrete_lyapunov(B, b @ P @ K @ P @ b.T)
    np.testing.assert_allclose(linear.covariance(state=True), S, rtol=0, atol=1e-12 * np.abs(S).max())
    if isinstance(inner, st.RMSprop):  # the metric follows the iterates' own covariance
        S = linear.covariance()
        np.testing.assert_allclose(linear.metric, inner.scale(np.diag(C + H @ S @ H)), rtol=1e-12)
    if not nesterov:
        A, S = P @ H, linear.covariance()
        left = (1 - beta) * step * (A @ S + S @ A.T) - (1 + beta**2) / (1 - beta**2) * step**2 * A @ S @ A.T
        left += beta / (1 - beta**2) * step**2 * (A @ A @ S + S @ A.T @ A.T)
        np.testing.assert_allclose(left, step**2 * P @ K @ P, rtol=0, atol=1e-12 * step**2)
        weighted = np.trace((H - step / (2 * (1 + beta)) * H @ P @ H) @ S)
        assert weighted == pytest.approx(step * np.trace(P @ K) / (2 * (1 - beta)), rel=1e-12)


class TestQuestions:
    @pytest.mark.parametrize("nesterov", [False, True])
    def test_spectral_sums_are_the_linear_theorys(self, nesterov):
        F, method = st.quadratic(SPECTRUM, rotation_seed=1), st.Momentum(st.SFN(damping=0.2), 0.8, nesterov)
        sums = st.spectrum(lambda V: F.hessian(np.zeros(3)) @ V, n=3, deflate=3)
        linear = st.linearize(st.Flow(F, method, QUIET, step=0.1))
        for time in ("continuous", "discrete"):
            asked = {"step": 0.1, "noise": QUIET, "time": time}
            assert sums.variance(method, **asked).value == pytest.approx(
                np.trace(linear.covariance(time)), rel=1e-9
            )
            assert sums.excess_risk(method, **asked).value == pytest.approx(
                linear.excess_risk(time), rel=1e-9
            )
        plain = sums.amplification(method.method).value
        assert sums.amplification(method).value == pytest.approx(5 * plain, rel=1e-9)
        with pytest.raises(st.Unstable, match="no stationary law under SFN"):
            sums.variance(method, step=6.0, noise=QUIET, time="discrete")

    def test_at_a_critical_point_it_is_faster_and_noisier_at_small_steps(self):
        point = CriticalPoint(np.zeros(2), 0.0, np.array([0.5, 2.0]), 1, False)
        rows = point.methods(
            [st.SGD(), st.Momentum(st.SGD(), 0.5), st.Momentum(st.SGD(), 0.5, True)]
        ).splitlines()[-3:]
        assert [row.split()[-5:] for row in rows] == [
            ["-2", "...", "-0.5", "1", "1"],
            ["-4", "...", "-1", "2", "1.5"],
            ["-4", "...", "-1", "2", "0.75"],
        ]

    def test_a_momentum_method_beside_the_others(self):
        F, noise = st.quadratic([1.0, 0.1]), st.Noise(gradient=0.1, curvature=0.2, batch=4)
        methods = [
            st.SGD(),
            st.SFN(damping=0.1),
            st.Momentum(st.SGD()),
            st.Momentum(st.SFN(damping=0.1), 0.5, True),
        ]
        table = st.bounds(F, noise, methods, step=0.05)
        assert [row.method for row in table.rows][2:] == ["SGD + momentum 0.9", "SFN + Nesterov 0.5"]
        for row, method in zip(table.rows, methods, strict=True):
            own = st.linearize(st.Flow(F, method, noise, step=0.05))
            assert (row.step_limit, row.excess_risk) == (own.step_limit(), own.excess_risk())
        assert table.rows[2].amplification == pytest.approx(10.0)
        assert "order=2" in table.rows[3].note
        assert np.isnan(table.rows[3].excess_risk_L2)

    def test_many_samples_in_a_batch_let_momentum_go_further(self):
        small, large = ([line(1.0, s, 0.1, beta).step_limit() for beta in (0.0, 0.9)] for s in (3.0, 0.03))
        assert small[1] == pytest.approx(0.1 * small[0], rel=0.12)
        assert large[1] > 1.7 * large[0]

    def test_nested_batches_shift_the_mean_no_less(self):
        rng = np.random.default_rng(0)
        F = st.logistic(rng.normal(size=(60, 2)), rng.integers(2, size=60), l2=0.1)
        centre = np.zeros(2)
        for _ in range(10):
            centre = centre - np.linalg.solve(F.hessian(centre), F.gradient(centre))
        noise = st.Noise.from_data(F, centre, batch=8, hessian_batch=4, coupling="nested")
        one, other = (
            st.linearize(st.Flow(F, m, noise, step=0.1), centre)
            for m in (st.SFN(damping=0.1), st.Momentum(st.SFN(damping=0.1)))
        )
        assert np.array_equal(one.mean_shift, other.mean_shift)
        assert one.validity == other.validity

    def test_of_tails_it_says_whether_the_variance_is_finite(self):
        assert line(1.0, 0.0, 0.1, 0.9).tail_index == np.inf
        near = line(1.0, 1.0, 0.1, 0.9, step=1.0)
        assert near.tail_index < 2
        # In continuous time the variance is infinite from 2 (1 - beta) h / s^2 on.
        assert not near.tail_exceeds_two
        assert line(1.0, 1.0, 0.1, 0.9, step=0.19).tail_exceeds_two
        assert not line(1.0, 1.0, 0.1, 0.9, step=0.21).tail_exceeds_two

    def test_an_interpolating_minimum_rests_in_its_flat_directions(self):
        rng = np.random.default_rng(1)
        X, truth = rng.normal(size=(3, 5)), rng.normal(size=5)
        F = st.least_squares(X, X @ truth)
        noise = st.Noise.from_data(F, truth, batch=1)
        linear = st.linearize(st.Flow(F, st.Momentum(st.SGD(), 0.5), noise, step=0.05), truth)
        assert np.array_equal(linear.covariance(), np.zeros((5, 5)))
        assert linear.covariance(state=True).shape == (10, 10)
        assert 0 < linear.step_limit() < linear.step_limit("mean")

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (
                lambda: st.linearize(flow(spectrum=(1.0, -0.1))).covariance(),
                r"does not exist .*: 1 of 2 modes do not",
            ),
            (lambda: st.linearize(flow(spectrum=(1.0, -0.1))).step_limit(), r"A stable step does not exist"),
            (
                lambda: st.linearize(flow(st.Momentum(st.SGD(), 0.5), (40.0, 1.0))).covariance(),
                r"the step 0.1 is beyond the mean limit 0.075, set by mode 0",
            ),
            (
                lambda: st.linearize(flow(st.Momentum(st.SGD(), 0.5), (20.0, 1.0))).covariance("chain", 0.3),
                r"the chain's time step 0.3 is too long, set by mode 0",
            ),
            (
                lambda: line(1.0, 1.0, 0.1, 0.9, step=0.3).covariance(),
                r"relative radius 1.6.* >= 1 at step 0.3, led by mode 0",
            ),
        ],
    )
    def test_what_does_not_exist_says_why(self, call, message):
        with pytest.raises(st.Unstable, match=message):
            call()

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (
                lambda: st.linearize(flow(st.SGD())).covariance(state=True),
                r"`state=True` is for methods with momentum",
            ),
            (
                lambda: st.linearize(flow(st.SGD())).moments(1.0, state=True),
                r"SGD has no state but w. Leave it out",
            ),
            (lambda: st.linearize(flow()).covariance(state="yes"), r"`state` must be True or False"),
            (lambda: st.linearize(flow()).moments(1.0, np.ones(3)), r"`mean0` must have shape \(2,\)"),
            (lambda: st.linearize(flow()).moments(1.0, cov0=np.eye(3)), r"`cov0` must have shape \(2, 2\)"),
            (
                lambda: line(1.0, 0.1, 0.1, 0.9).under(st.Momentum(st.SFN(damping=0.1))).covariance(order=2),
                r"`order=2` is not known with momentum; .* Use order=1, or the method inside",
            ),
        ],
    )
    def test_bad_input(self, call, message):
        with pytest.raises(ValueError, match=message):
            call()

    def test_without_hessian_noise_both_orders_are_one(self):
        linear = line(1.0, 0.1, 0.1, 0.9)
        assert linear.step_limit(order=2) == linear.step_limit()
        assert np.array_equal(linear.covariance(order=2), linear.covariance())


def averaged(matrices, kick, noise, keep):
    """Variances of a moving average beside one mode's state: a Stein equation of one more dimension."""
    size = len(matrices) + 1
    B, b = np.zeros((size, size)), np.append(kick, (1 - keep) * kick[0])
    B[:-1, :-1], B[-1, :-1], B[-1, -1] = matrices, (1 - keep) * matrices[0], keep
    return scipy.linalg.solve_discrete_lyapunov(B, noise * np.outer(b, b))[-1, -1]


class TestAverages:
    def test_the_noisy_quadratic_models_number(self):
        plain = st.linearize(st.Flow(st.quadratic([1.0]), st.SGD(), st.Noise(gradient=1.0), step=0.1))
        assert plain.covariance(average=0.99)[0, 0] == pytest.approx(0.00458837, abs=5e-9)
        assert plain.excess_risk(average=0.99) == pytest.approx(0.00458837 / 2, abs=5e-9)
        assert np.array_equal(plain.covariance(average=0.0), plain.covariance())

    @pytest.mark.parametrize("nesterov", [False, True])
    def test_of_one_mode_with_momentum(self, nesterov):
        h, s, sigma, beta, step = 0.7, 0.3, 0.5, 0.8, 0.2
        linear = line(h, s, sigma, beta, nesterov, step)
        M = linear.covariance()[0, 0]
        c, e = (1 + beta, beta**2) if nesterov else (1.0, beta)
        B, b = np.array([[1 - step * c * h, -step * e], [h, beta]]), np.array([-step * c, 1.0])
        expected = averaged(B, b, sigma**2 + s**2 * M, 0.95)
        assert linear.covariance(average=0.95)[0, 0] == pytest.approx(expected, rel=1e-11)
        # The chain forgets as much in as many steps of it as make one iteration.
        dt, keeps = step / 2, 1 - (1 - beta) / 2
        M = linear.covariance("chain", dt)[0, 0]
        ahead = (beta if nesterov else 1.0) * np.array([0.5 * h, keeps]) + nesterov * np.array([h, 0.0])
        B = np.array([[1 - dt * ahead[0], -dt * ahead[1]], [0.5 * h, keeps]])
        kick = np.sqrt(0.5)
        b = np.array([-dt * (beta if nesterov else 1.0) * kick - nesterov * step * kick, kick])
        expected = averaged(B, b, sigma**2 + s**2 * M, np.sqrt(0.95))
        assert linear.covariance("chain", dt, average=0.95)[0, 0] == pytest.approx(expected, rel=1e-11)

    @pytest.mark.parametrize("time", ["continuous", "chain", "discrete"])
    @pytest.mark.parametrize("method", [st.SGD(), st.Momentum(st.SGD(), 0.7)], ids=lambda m: m.label)
    def test_moments_settle_as_the_covariance_says(self, method, time):
        noise = st.Noise(gradient=[[0.2, 0.1], [0.1, 0.3]], curvature=0.2)
        linear = st.linearize(st.Flow(st.quadratic([1.0, 0.4], rotation_seed=1), method, noise, step=0.1))
        mean, cov = linear.moments(400.0, [1.0, 2.0], time=time, average=0.9)
        expected = linear.covariance(time, average=0.9)
        np.testing.assert_allclose(cov, expected, rtol=0, atol=1e-10 * np.abs(expected).max())
        assert np.all(np.diag(expected) < np.diag(linear.covariance(time)))
        assert np.abs(mean).max() < 1e-9
        begun = linear.moments(0.0, [1.0, 2.0], np.eye(2), time=time, average=0.9)
        np.testing.assert_allclose(begun[0], [1.0, 2.0], rtol=1e-14)
        np.testing.assert_allclose(begun[1], np.eye(2), atol=1e-14)

    @pytest.mark.slow
    @pytest.mark.parametrize("options", [{"level": "iteration"}, {"dt": 0.05}], ids=["iteration", "chain"])
    @pytest.mark.parametrize("average", [None, 0.9])
    @pytest.mark.parametrize("method", [st.SGD(), st.Momentum(st.SGD(), 0.7, True)], ids=lambda m: m.label)
    def test_beside_paths(self, method, average, options):
        one = flow(method, noise=st.Noise(gradient=0.1, curvature=0.1))
        asked = {"start": [0.5, 0.2], "t_end": 3.0, "paths": 3000, "seed": 4, "save": [0.5, 3.0]}
        ens = st.simulate(one, average=average, **asked, **options)
        found = st.compare(st.linearize(one), ens)
        assert found.max_z < 4
        assert ("averaged with decay 0.9" in found.law) == (average is not None)

    def test_a_tail_that_is_not_known_is_no_obstacle(self):
        one = st.Flow(st.quadratic([1.0]), HEAVY, st.Noise(gradient=0.1, curvature=0.05), step=0.02)
        ens = st.simulate(one, start=[0.5], t_end=1.0, paths=400, seed=4, level="iteration")
        assert not any("by theory" in note for note in st.compare(st.linearize(one), ens).notes)

    def test_bad_input(self):
        linear = st.linearize(flow())
        with pytest.raises(ValueError, match=r"`average` must be in \[0, 1\); got 1.0"):
            linear.covariance(average=1.0)
        with pytest.raises(ValueError, match="give one of the two"):
            linear.covariance(average=0.5, state=True)
        bent = st.Flow(
            st.quadratic([1.0]), st.SFN(damping=0.1), st.Noise(gradient=0.1, curvature=0.05), step=0.1
        )
        with pytest.raises(ValueError, match="`average` is known with order=1 only"):
            st.linearize(bent).moments(1.0, average=0.5, order=2)
        still = st.Flow(st.quadratic([1.0]), st.SGD(), QUIET, step=0.1)
        asked = {"start": [0.5], "t_end": 1.0, "paths": 50, "seed": 4, "average": 0.5}
        ens = st.simulate(still, scheme="exponential", **asked)
        with pytest.raises(ValueError, match="Simulate with scheme='euler', or without `average`"):
            st.compare(st.linearize(still), ens)
        ens = st.simulate(still, **asked)
        path = st.trajectory(still, [0.5], 1.0, time=ens.law, save=ens.times)
        with pytest.raises(ValueError, match="a trajectory tells of the iterates"):
            st.compare(path, ens)


class TestAlongAPath:
    @pytest.mark.parametrize(("time", "dt"), [("continuous", None), ("chain", 0.05), ("discrete", None)])
    @pytest.mark.parametrize("nesterov", [False, True])
    def test_on_a_quadratic_it_is_the_linear_theory(self, nesterov, time, dt):
        noise = st.Noise(gradient=0.1, curvature=0.2)
        one = st.Flow(
            st.quadratic([1.0, 0.3], rotation_seed=1), st.Momentum(st.SGD(), 0.8, nesterov), noise, step=0.1
        )
        path = st.trajectory(one, [1.0, 2.0], 1.0, time=time, dt=dt, state=True, save=2)
        mean, covariance = st.linearize(one).moments(1.0, [1.0, 2.0], time=time, dt=dt, state=True)
        np.testing.assert_allclose(path.mean[-1], mean, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(
            path.covariance[-1], covariance, rtol=0, atol=1e-9 * np.abs(covariance).max()
        )
        assert path.status == "ok"
        alone = st.trajectory(one, [1.0, 2.0], 1.0, time=time, dt=dt, save=2)
        assert np.array_equal(alone.covariance, path.covariance[:, :2, :2])
        assert np.array_equal(alone.start, [1.0, 2.0])
        assert alone.jacobian.shape == (3, 2, 2)
        np.testing.assert_allclose(path.growth, np.linalg.eigvals(path.jacobian).real.max(axis=-1))

    @pytest.mark.parametrize("nesterov", [False, True])
    def test_a_step_of_the_chain_and_its_derivative(self, nesterov):
        """The mean's step is the simulation's without noise, and deviations follow its differences."""
        one = st.Flow(
            st.expression("x^4/4 - x^2/2 + y^2 + 0.3*x*y"),
            st.Momentum(st.SFN(damping=0.5), 0.7, nesterov),
            step=0.05,
        )
        place, spread, dt = np.array([1.1, 0.4, 0.3, -0.2]), np.diag([1.0, 2.0, 3.0, 4.0]), 0.02
        ahead, covariance = chain_step(one, place, spread, dt)
        still = one.draw(1, np.random.default_rng(0), level="sde")
        np.testing.assert_allclose(ahead, one.euler(place[None], still, dt)[0], rtol=1e-14)
        moves = 1e-5 * np.eye(4)
        J = [
            chain_step(one, place + e, spread, dt)[0] - chain_step(one, place - e, spread, dt)[0]
            for e in moves
        ]
        J = np.array(J).T / 2e-5
        np.testing.assert_allclose(covariance, J @ spread @ J.T, rtol=1e-8, atol=1e-9)

    def test_beside_paths(self):
        F = st.expression("x^4/4 - x^2/2 + y^2 + 0.3*x*y")
        one = st.Flow(F, st.Momentum(st.SGD(), 0.7), st.Noise(gradient=0.02), step=0.05)
        ens = st.simulate(one, start=[0.7, 1.0], t_end=1.0, paths=3000, seed=3, save=[0.5, 1.0])
        path = st.trajectory(one, [0.7, 1.0], 1.0, time=ens.law, save=ens.times)
        assert path.valid
        assert st.compare(path, ens).max_z < 4
        assert np.all(np.abs(path.departure(ens).z) < 4)

    @pytest.mark.slow
    def test_across_a_jump_of_the_drift(self):
        """A force that jumps where x is 0: the law behind is that of all the paths."""
        one = st.Flow(
            st.expression("abs(x) + 0.1*x"), st.Momentum(st.SGD(), 0.5), st.Noise(gradient=0.01), step=0.05
        )
        path = st.trajectory(one, [0.5], 0.45, save=[0.45], state=True)
        assert any("the covariance was carried across" in note for note in path.notes)
        ens = st.simulate(one, start=[0.5], t_end=0.45, dt=0.05 / 256, paths=1000, seed=1, state=True)
        gap = np.abs(ens.covariance[-1] - path.covariance[-1])
        assert np.all(gap < 4 * ens.covariance_error[-1])
        assert np.all(np.abs(ens.mean[-1] - path.mean[-1]) < 4 * ens.standard_error[-1] + 0.002)
