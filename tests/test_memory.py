"""Momentum: a method with a buffer of its steps, and its linear theory against matrices written out."""

import copy
import itertools
import pickle

import numpy as np
import pytest
import scipy

import stability as st
from stability.portraits.critical import CriticalPoint

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
            (lambda: st.Momentum(st.SGD(), beta=-0.1), r"`beta` must be a finite number >= 0; got -0.1"),
            (lambda: st.Momentum(st.SGD(), beta=np.nan), r"`beta` must be a finite number"),
            (lambda: st.Momentum(st.SGD(), beta="0.9"), r"`beta` must be"),
            (lambda: st.Momentum(st.SGD(), nesterov="no"), r"`nesterov` must be True or False; got 'no'"),
            (
                lambda: st.Momentum(HEAVY),
                r"must have no momentum of its own; got Momentum.*Wrap the method inside",
            ),
            (lambda: st.Momentum(st.SGD), r"`method` must be a st.Method such as st.SGD\(\)"),
            (lambda: st.Momentum("SGD"), r"`method` must be a st.Method such as st.SGD\(\) .*; got 'SGD'"),
        ],
    )
    def test_bad_input(self, call, message):
        with pytest.raises(ValueError, match=message):
            call()


LINE = st.expression("x**4 - x**2")
ASKED = {
    "st.stationary_density": lambda: st.stationary_density(flow(), 2),
    "st.trajectory": lambda: st.trajectory(flow(), [1.0, 1.0], 1.0),
    "st.lyapunov_exponents": lambda: st.lyapunov_exponents(flow()),
    "st.almost_sure_limit": lambda: st.almost_sure_limit(flow()),
    "st.exact_mode": lambda: st.exact_mode(HEAVY, curvature=1.0, noise=QUIET),
    "st.portrait": lambda: st.portrait(st.landscape("coupled_quartic"), 2, [HEAVY]),
    "st.profile": lambda: st.profile(LINE, 2, [HEAVY]),
    "the table of a critical point": lambda: CriticalPoint(np.zeros(1), 0.0, np.ones(1), 1, False).methods(
        [HEAVY]
    ),
    "a spectrum": lambda: st.spectrum(lambda V: V, n=3).amplification(HEAVY),
    "st.theorem": lambda: st.theorem("noise-amplification", method=HEAVY),
    "st.method_table": lambda: st.method_table([HEAVY]),
}


@pytest.mark.parametrize("who", ASKED)
def test_what_does_not_know_momentum_refuses_it(who):
    inside = r"Use SFN\(damping=0.1\), the method inside"
    with pytest.raises(
        ValueError, match=rf"must have no momentum: {who} knows nothing of it yet; .*{inside}"
    ):
        ASKED[who]()


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
