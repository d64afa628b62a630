"""The peers' own formulas, written here a second time, against the linear theory and the theorems.

Liu, Ziyin and Ueda 2021 (discrete covariance), Mandt, Hoffman and Blei 2017 (Ornstein-Uhlenbeck model), the
Student t of a Pearson diffusion, Polyak and Juditsky 1992 (averages), streaming least squares, and the exact
embedding of an AR(1) chain. Curvature and noise share no eigenvectors here unless a test says so, and nothing
is computed in an eigenbasis that need not be.
"""

import functools
import itertools

import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
import scipy.stats
from conftest import GAMMA, label

import stability as st

EPS, STEP, BATCH = 0.05, 0.25, 3
SPECTRA = {2: [1.0, 0.3], 3: [1.3, 0.6, 0.2], 5: [1.6, 1.1, 0.7, 0.35, 0.15]}


def inverse_of_size(H):
    """``(|H| + gamma)^-1`` by the polar decomposition, which needs no eigenvalues."""
    return np.linalg.inv(scipy.linalg.polar(H)[1] + GAMMA * np.eye(len(H)))


def leading(H, rank):
    """Eigenpairs of the `rank` + 1 largest ``|lam|``, ascending."""
    d = len(H)
    return scipy.linalg.eigh(scipy.linalg.polar(H)[1], subset_by_index=[d - rank - 1, d - 1])


def woodbury(H, rank):
    """The published low-rank step: ``(U |L| U^T + gamma)^-1`` by Woodbury's identity."""
    size, U = leading(H, rank)
    return (np.eye(len(H)) - U[:, 1:] * (size[1:] / (size[1:] + GAMMA)) @ U[:, 1:].T) / GAMMA


def flat(H, rank):
    """The same with the tail's curvature at the first eigenvalue left out."""
    size, U = leading(H, rank)
    kept = U[:, 1:]
    return kept / (size[1:] + GAMMA) @ kept.T + (np.eye(len(H)) - kept @ kept.T) / (size[0] + GAMMA)


# One object per method: a derivation is then made once for all the tests that read it.
SGD, NEWTON, DAMPED = st.SGD(), st.Newton(), st.DampedNewton(damping=GAMMA)
SFN, RSFN = st.SFN(damping=GAMMA), st.gallery.rsfn(eps=EPS)
derived = functools.cache(st.theorem)


def rank_in(d):
    return d // 2


PEERS = {
    "SGD": (lambda d: SGD, lambda H: np.eye(len(H))),
    "Newton": (lambda d: NEWTON, np.linalg.inv),
    "damped-Newton": (lambda d: DAMPED, lambda H: np.linalg.inv(H + GAMMA * np.eye(len(H)))),
    "SFN": (lambda d: SFN, inverse_of_size),
    "LRSFN": (lambda d: st.LRSFN(rank=rank_in(d), damping=GAMMA), lambda H: woodbury(H, rank_in(len(H)))),
    "LRSFN-flat": (
        lambda d: st.LRSFN(rank=rank_in(d), damping=GAMMA, tail="flat"),
        lambda H: flat(H, rank_in(len(H))),
    ),
    "R-SFN": (lambda d: RSFN, lambda H: np.linalg.inv(scipy.linalg.sqrtm(H @ H + EPS * np.eye(len(H))))),
}
each_method = pytest.mark.parametrize("name", PEERS)
each_dim = pytest.mark.parametrize("d", SPECTRA)
# Deriving takes longest of all here: in three dimensions a method without parameters and both tails, and for
# positive curvatures SFN is damped Newton.
each_derivation = pytest.mark.parametrize(
    ("name", "d"),
    [*((name, 2) for name in PEERS if name != "damped-Newton"), ("SGD", 3), ("LRSFN", 3), ("LRSFN-flat", 3)],
)


@functools.cache
def problem(d):
    """Eigenvectors, a dense Hessian, and a noise covariance (of the batch) that does not commute with it."""
    rng = np.random.default_rng(100 + d)
    Q = np.linalg.qr(rng.standard_normal((d, d)))[0]
    H = Q * SPECTRA[d] @ Q.T
    root = rng.standard_normal((d, d))
    H, Sigma = (H + H.T) / 2, root @ root.T
    assert np.linalg.norm(H @ Sigma - Sigma @ H) > 0.1 * np.linalg.norm(H) * np.linalg.norm(Sigma)
    return Q, H, Sigma


def flow_of(method, H, Sigma, step=STEP):
    return st.Flow(st.quadratic(H), method, st.Noise(gradient=BATCH * Sigma, batch=BATCH), step=step)


def setting(name, d):
    """Linearised flow, and the peers' ``P``, ``A = P H`` and source ``alpha P Sigma P``."""
    _, H, Sigma = problem(d)
    method, preconditioner = PEERS[name]
    P = preconditioner(H)
    return st.linearize(flow_of(method(d), H, Sigma)), P, P @ H, STEP * P @ Sigma @ P


def balance(A, source, dt=0.0):
    """``A S + S A^T - dt A S A^T = source`` by vectorisation; Lyapunov's equation at dt = 0."""
    one = np.eye(len(A))
    whole = np.kron(A, one) + np.kron(one, A) - dt * np.kron(A, A)
    return np.linalg.solve(whole, source.ravel()).reshape(A.shape)


def assert_close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-10 * np.max(np.abs(theirs)))


@functools.cache
def theorem(statement, name, dim=None, **more):
    matrix = {} if dim is None else {"dim": dim}
    return derived(statement, method=PEERS[name][0](dim or 3), **matrix, **more)


def in_eigenbasis(d):
    """What a theorem with full matrices is told: curvatures, and the noise covariance in their basis."""
    Q, _, Sigma = problem(d)
    turned = Q.T @ Sigma @ Q
    values = {
        f"Sigma_{i + 1}{j + 1}": turned[i, j] for i, j in itertools.combinations_with_replacement(range(d), 2)
    }
    return values | {f"lam_{i + 1}": lam for i, lam in enumerate(SPECTRA[d])} | {"step": STEP}


def largest_z(ens, S):
    """Of all entries of the final covariance, and of the mean about 0."""
    z = (ens.covariance[-1] - S) / ens.covariance_error[-1]
    return max(np.max(np.abs(z)), np.max(np.abs(ens.mean[-1] / ens.standard_error[-1])))


class TestLiuZiyinUeda:
    """``A S + S A^T - alpha A S A^T = alpha P Sigma P``: the exact covariance of the discrete iteration."""

    @each_method
    @each_dim
    def test_the_discrete_covariance_is_theirs(self, name, d):
        lin, _, A, source = setting(name, d)
        assert_close(lin.covariance("discrete"), balance(A, source, STEP))

    @each_method
    def test_the_chain_covariance_is_theirs_with_its_own_time_step(self, name):
        lin, _, A, source = setting(name, 3)
        assert_close(lin.covariance("chain", dt=0.6 * STEP), balance(A, source, 0.6 * STEP))

    @pytest.mark.slow
    @each_derivation
    def test_the_theorem_is_their_solution_in_the_eigenbasis(self, name, d):
        Q = problem(d)[0]
        _, _, A, source = setting(name, d)
        found = theorem("discrete-vs-continuous", name, d).evaluate(**in_eigenbasis(d), dt=STEP)
        assert_close(found, Q.T @ balance(A, source, STEP) @ Q)

    @each_method
    def test_one_mode_of_the_theorem_is_their_scalar_formula(self, name):
        lam, sigma = 0.7, 1.3
        method = PEERS[name][0](2)
        more = {} if method.rank is None else {"branch": "kept"}
        P = PEERS["SFN" if method.rank else name][1](np.array([[lam]]))
        S = balance(P * lam, STEP * sigma**2 * P @ P, STEP)[0, 0]
        assert theorem("discrete-vs-continuous", name, **more).evaluate(
            "iteration", lam=lam, step=STEP, sigma=sigma
        ) == pytest.approx(S, rel=1e-12)

    @pytest.mark.parametrize("name", ["Newton", "damped-Newton"])
    def test_it_holds_at_the_saddles_that_attract_newton(self, name):
        Q, _, Sigma = problem(3)
        H = Q * np.array([1.3, -0.9, 0.2]) @ Q.T
        H = (H + H.T) / 2
        P = PEERS[name][1](H)
        lin = st.linearize(flow_of(PEERS[name][0](3), H, Sigma))
        assert_close(lin.covariance("discrete"), balance(P @ H, STEP * P @ Sigma @ P, STEP))


def settled(A, source, t, cov0):
    """``e^{-At} S0 e^{-A^T t} + int_0^t e^{-As} source e^{-A^T s} ds``.

    Both from one block exponential (Van Loan 1978).
    """
    d = len(A)
    block = scipy.linalg.expm(t * np.block([[-A, source], [np.zeros((d, d)), A.T]]))
    decayed = block[:d, :d]
    return decayed @ cov0 @ decayed.T + block[:d, d:] @ decayed.T


class TestMandtHoffmanBlei:
    """The Ornstein-Uhlenbeck model with a constant preconditioner: ``A S + S A^T = alpha P Sigma P``."""

    @each_method
    @each_dim
    def test_the_continuous_covariance_is_theirs(self, name, d):
        lin, _, A, source = setting(name, d)
        assert_close(lin.covariance("continuous"), balance(A, source))

    @each_derivation
    def test_the_theorem_is_their_solution_in_the_eigenbasis(self, name, d):
        Q = problem(d)[0]
        _, _, A, source = setting(name, d)
        assert_close(
            theorem("noise-amplification", name, d).evaluate(**in_eigenbasis(d)), Q.T @ balance(A, source) @ Q
        )

    @each_method
    @each_dim
    def test_moments_on_the_way_are_its_time_dependent_solution(self, name, d):
        lin, _, A, source = setting(name, d)
        rng = np.random.default_rng(d)
        mean0, root = rng.standard_normal(d), rng.standard_normal((d, d))
        for t in (0.3, 2.0):
            mean, cov = lin.moments(t, mean0, root @ root.T, time="continuous")
            assert_close(mean, scipy.linalg.expm(-A * t) @ mean0)
            assert_close(cov, settled(A, source, t, root @ root.T))

    @each_method
    def test_moments_of_the_iteration_are_powers_of_its_matrix(self, name):
        lin, _, A, source = setting(name, 3)
        mean, cov = np.array([1.0, -2.0, 0.5]), np.eye(3)
        ours = lin.moments(7 * STEP, mean, cov, time="discrete")
        B = np.eye(3) - STEP * A
        for _ in range(7):
            mean, cov = B @ mean, B @ cov @ B.T + STEP * source
        assert_close(ours[0], mean)
        assert_close(ours[1], cov)

    @each_method
    @each_dim
    def test_the_excess_risk_is_the_trace_of_their_equation(self, name, d):
        """Times ``P^-1``, its trace says ``2 tr(H S) = alpha tr(P Sigma)``.

        For SGD ``tr(H S) / 2 = alpha tr(Sigma) / 4``, whatever the curvature.
        """
        lin, P, _, _ = setting(name, d)
        assert lin.excess_risk("continuous") == pytest.approx(
            STEP / 4 * np.trace(P @ problem(d)[2]), rel=1e-12
        )

    @each_method
    def test_so_is_the_theorem_on_excess_risk(self, name):
        P = setting(name, 2)[1]
        assert theorem("excess-risk", name, 2).evaluate(**in_eigenbasis(2)) == pytest.approx(
            STEP / 4 * np.trace(P @ problem(2)[2]), rel=1e-11
        )

    @each_method
    @each_dim
    def test_noise_proportional_to_curvature_leaves_the_preconditioner_itself(self, name, d):
        """``Sigma = c H`` gives ``S = (alpha c / 2) P``: SGD's a sphere, Newton's of shape ``H^-1``.

        The latter is the posterior's.
        """
        _, H, _ = problem(d)
        c, P = 0.8, PEERS[name][1](H)
        lin = st.linearize(flow_of(PEERS[name][0](d), H, c * H))
        assert_close(lin.covariance("continuous"), STEP * c / 2 * P)

    @each_method
    def test_so_says_the_theorem_on_aligned_noise(self, name):
        Q, H, _ = problem(2)
        values = {key: value for key, value in in_eigenbasis(2).items() if not key.startswith("Sigma")}
        found = theorem("aligned-noise", name, 2).evaluate(**values, sigma=0.9)
        assert_close(found, STEP * 0.81 / 2 * Q.T @ PEERS[name][1](H) @ Q)

    def test_the_inverse_of_the_noise_is_the_preconditioner_that_samples_the_posterior(self):
        """Their optimal preconditioner ``P = k Sigma^-1`` gives ``S = (alpha k / 2) H^-1``.

        A gain expresses it for ``Sigma = H^2``.
        """
        _, H, _ = problem(3)
        k = 0.02
        lin = st.linearize(flow_of(st.Method(gain=lambda lam, k: k / lam**2, k=k), H, H @ H))
        assert_close(lin.covariance("continuous"), STEP * k / 2 * np.linalg.inv(H))


class TestEnsembles:
    """The same equations against simulated paths, for noise that does not commute with curvature."""

    METHOD, BIG, PATHS = st.LRSFN(rank=1, damping=GAMMA), 0.6, 12_000

    def matrices(self):
        _, H, Sigma = problem(3)
        P = woodbury(H, 1)
        return flow_of(self.METHOD, H, Sigma, self.BIG), P @ H, self.BIG * P @ Sigma @ P

    def test_the_iteration_has_the_discrete_covariance_and_not_the_continuous_one(self):
        flow, A, source = self.matrices()
        ens = st.simulate(
            flow, start=np.zeros(3), t_end=50 * self.BIG, paths=self.PATHS, seed=1, level="iteration"
        )
        assert largest_z(ens, balance(A, source, self.BIG)) < 4
        assert largest_z(ens, balance(A, source)) > 8  # the ensemble could have told

    def test_the_sde_integrated_at_dt_has_the_covariance_of_that_chain(self):
        flow, A, source = self.matrices()
        dt = self.BIG / 3
        ens = st.simulate(flow, start=np.zeros(3), t_end=150 * dt, dt=dt, paths=self.PATHS, seed=2)
        assert largest_z(ens, balance(A, source, dt)) < 4
        assert largest_z(ens, balance(A, source, self.BIG)) > 8

    def test_the_sde_on_its_way_has_the_time_dependent_covariance(self):
        """After ten steps from rest: the chain's own sum, which is a quadrature of the OU integral."""
        flow, A, source = self.matrices()
        dt = self.BIG / 5
        B, S = np.eye(3) - dt * A, np.zeros((3, 3))
        for _ in range(10):
            S = B @ S @ B.T + dt * source
        ens = st.simulate(flow, start=np.zeros(3), t_end=10 * dt, dt=dt, paths=self.PATHS, seed=3)
        assert largest_z(ens, S) < 4
        assert largest_z(ens, balance(A, source, dt)) > 8


class TestStudentT:
    """``d delta = a delta dt + sqrt(alpha (C + K delta^2)) dW`` is Student t.

    Its degrees of freedom are ``nu = 1 + 2|a| / (alpha K)``.
    """

    LAM, SIGMA, B, BH, PATHS = 0.8, 0.5, 5.0, 2.0, 2560
    METHODS = (SGD, NEWTON, SFN)

    def case(self, method, nu):
        """A flow whose law has this `nu`, its scale, and what the theorem is told; gain and slope literal."""
        lam, g = self.LAM, self.LAM + GAMMA
        phi, slope = {"SGD": (1.0, 0.0), "Newton": (1 / lam, -1 / lam**2), "SFN": (1 / g, -1 / g**2)}[
            method.name
        ]
        tau, own, other = (
            0.9,
            2 / self.B,
            2 / self.BH,
        )  # a diagonal entry of a Gaussian symmetric matrix has variance 2 tau^2
        K = tau**2 * (own * phi**2 + other * (slope * lam) ** 2)
        step = 2 * phi * lam / (K * (nu - 1))
        noise = st.Noise(
            gradient=self.SIGMA * np.sqrt(self.B), curvature=tau, batch=self.B, hessian_batch=self.BH
        )
        flow = st.Flow(st.quadratic([lam]), method, noise, step=step)
        values = {
            "lam": lam,
            "step": step,
            "sigma": self.SIGMA,
            "s_g": tau * np.sqrt(own),
            "s_h": tau * np.sqrt(other),
            "c_gh": 0.0,
        }
        return flow, np.sqrt((phi * self.SIGMA) ** 2 / (K * nu)), values, phi * lam

    @pytest.mark.parametrize("method", METHODS, ids=label)
    @pytest.mark.parametrize("nu", [1.5, 3.0, 12.0])
    def test_degrees_of_freedom_and_scale_are_the_pearson_diffusions(self, method, nu):
        flow, scale, values, _ = self.case(method, nu)
        theorem = derived("student-t", method=method)
        assert theorem.evaluate(**values) == pytest.approx(nu, rel=1e-12)
        assert theorem.evaluate("scale-squared", **values) == pytest.approx(scale**2, rel=1e-12)
        assert st.linearize(flow).tail_index == pytest.approx(nu, rel=1e-12)
        assert st.linearize(flow).tail_exceeds_two == (nu > 2)

    @pytest.mark.parametrize("method", METHODS, ids=label)
    def test_the_density_solves_the_stationary_fokker_planck_equation(self, method):
        """Its probability flux vanishes, with the noise strength measured on the flow's own noise map."""
        flow, scale, values, rate = self.case(method, 2.6)
        nu = derived("student-t", method=method).evaluate(**values)
        x = np.linspace(-4, 4, 33) * scale
        factors = flow.noise_model.factors(np.zeros(1))
        kicks = [type(factors)(*parts) for parts in zip(*factors, strict=True)]
        spread = np.array([sum(flow.noise(np.array([at]), kick)[0] ** 2 for kick in kicks) for at in x])
        law, h = scipy.stats.t(nu, scale=scale).pdf, 1e-5 * scale
        slope = (law(x + h) - law(x - h)) / (2 * h)
        strength = np.gradient(spread, x, edge_order=2)  # exact for a parabola
        flux = flow.drift(x[:, None])[:, 0] * law(x) - flow.step / 2 * (strength * law(x) + spread * slope)
        np.testing.assert_allclose(flux, 0, atol=1e-7 * rate * scale * law(0.0))

    @pytest.mark.parametrize("method", METHODS, ids=label)
    def test_the_variance_exists_above_two_degrees_only(self, method):
        flow, scale, values, _ = self.case(method, 3.0)
        theorem = derived("student-t", method=method)
        expected = scipy.stats.t(3.0, scale=scale).var()
        assert theorem.evaluate("variance", **values) == pytest.approx(expected, rel=1e-12)
        assert st.linearize(flow).covariance("continuous")[0, 0] == pytest.approx(expected, rel=1e-12)
        for nu in (1.2, 1.9, 2.0 - 1e-9):
            heavy, _, values, _ = self.case(method, nu)
            with pytest.raises(ValueError, match="nu > 2"):
                theorem.evaluate("variance", **values)
            with pytest.raises(st.Unstable, match="second-moment map"):
                st.linearize(heavy).covariance("continuous")

    @staticmethod
    def euler_distance(nu, h):
        """Largest distance between Euler's stationary distribution and the t's, by iterating transitions.

        In units of the scale and the relaxation time one step is ``N((1 - h) x, h k (nu + x^2))``, ``k = 2 /
        (nu - 1)``.
        """
        k, u = 2 / (nu - 1), np.linspace(-12, 12, 601)
        x, weight = np.sinh(u), np.cosh(u) * (u[1] - u[0])
        kernel = scipy.stats.norm.pdf(x, (1 - h) * x[:, None], np.sqrt(h * k * (nu + x**2))[:, None]) * weight
        kernel /= kernel.sum(axis=1, keepdims=True)
        law = scipy.stats.t(nu)
        p = law.pdf(x) * weight / np.sum(law.pdf(x) * weight)
        for _ in range(int(10 / h)):
            p = p @ kernel
        return np.max(np.abs(np.cumsum(p) - p / 2 - law.cdf(x)))

    @pytest.mark.parametrize("nu", [1.5, 3.0])
    def test_eulers_chain_tends_to_this_law_at_first_order(self, nu):
        coarse, fine = self.euler_distance(nu, 0.02), self.euler_distance(nu, 0.01)
        assert coarse < 0.0045
        assert 1.8 < coarse / fine < 2.4

    @pytest.mark.parametrize("method", METHODS, ids=label)
    @pytest.mark.parametrize("nu", [1.5, 3.0])
    def test_the_sde_has_this_law_and_no_gaussian(self, method, nu):
        """Independent paths at one late time: 8 relaxation times from rest.

        Euler's own law is within 0.004 of the t's (the test before); 2560 paths reject at 0.038.
        """
        flow, _, values, rate = self.case(method, nu)
        theorem = derived("student-t", method=method)
        law = scipy.stats.t(
            theorem.evaluate(**values), scale=np.sqrt(theorem.evaluate("scale-squared", **values))
        )
        dt = 0.02 / rate
        states = st.simulate(
            flow, start=[0.0], t_end=400 * dt, dt=dt, paths=self.PATHS, seed=self.METHODS.index(method)
        ).states[-1, :, 0]
        width = law.std() if nu > 2 else law.ppf(0.75) / scipy.stats.norm.ppf(0.75)
        assert scipy.stats.kstest(states, law.cdf).pvalue > 1e-3
        assert scipy.stats.kstest(states, scipy.stats.norm(scale=width).cdf).pvalue < 1e-4


def weights_of_last_half(gain, lam, step, N):
    """How much each of 2N gradient noises weighs in the mean of the last N iterates, from rest."""
    powers = (1 - step * gain * lam) ** np.arange(2 * N)
    late = np.cumsum(powers)[N - 1 :: -1]  # a noise of the last half is seen to the end
    early = powers[N:0:-1] * late[0]  # one of the first half is seen through what is left of it
    return step * gain / N * np.concatenate([early, late])


class TestAveraging:
    """Polyak and Juditsky: the mean of many iterates forgets the preconditioner.

    And the last iterate in streaming least squares.
    """

    LAM, SIGMA, B = np.array([1.0, 0.4, 0.1]), 0.7, 4
    STREAMS = (
        (SGD, 0.8),
        (NEWTON, 0.5),
        (st.LRSFN(rank=1, damping=GAMMA), 0.5),
        (st.LRSFN(rank=1, damping=GAMMA, tail="flat"), 0.6),
    )
    streams = pytest.mark.parametrize(
        ("method", "step"), STREAMS, ids=[label(method) for method, _ in STREAMS]
    )

    def matrices(self, method):
        """A dense ``H``, and the peers' own ``P``."""
        Q = problem(3)[0]
        H = Q * self.LAM @ Q.T
        own = {
            "SGD": np.eye(3),
            "Newton": np.linalg.inv(H),
            "LRSFN(1)": woodbury(H, 1),
            "LRSFN(1) flat tail": flat(H, 1),
        }
        return (H + H.T) / 2, own[method.label]

    def risk(self, method, step):
        values = {"lam": self.LAM, "step": step, "sigma": self.SIGMA, "b": self.B}
        return derived("averaging", method=method).evaluate("streaming-risk", **values)

    @pytest.mark.slow
    @streams
    def test_the_streaming_risk_solves_the_moment_equation_of_gaussian_inputs(self, method, step):
        """``E[H_B M H_B] = H M H + (H M H + tr(H M) H) / b`` by Isserlis, in full matrices."""
        H, P = self.matrices(method)
        A, one, b = P @ H, np.eye(3), self.B
        noise = (P @ H @ P).ravel()
        whole = (
            np.kron(A, one)
            + np.kron(one, A)
            - step * (1 + 1 / b) * np.kron(A, A)
            - step / b * np.outer(noise, H.ravel())
        )
        M = np.linalg.solve(whole, step * self.SIGMA**2 / b * noise).reshape(3, 3)
        assert self.risk(method, step) == pytest.approx(np.trace(H @ M) / 2, rel=1e-10)

    @streams
    def test_the_streaming_risk_is_measured_in_streaming_least_squares(self, method, step):
        """Fresh samples in every batch; z over independent replicas, each averaged over time."""
        H, P = self.matrices(method)
        rng, root = np.random.default_rng(17), scipy.linalg.sqrtm(H)
        delta, risk = np.zeros((500, 3)), np.zeros(500)
        for k in range(500):
            x = rng.standard_normal((500, self.B, 3)) @ root
            residual = (x @ delta[:, :, None])[..., 0] - self.SIGMA * rng.standard_normal((500, self.B))
            delta = delta - step / self.B * (residual[:, None, :] @ x)[:, 0] @ P
            if k >= 100:
                risk += np.sum(delta * (delta @ H), axis=1) / 2 / 400
        error = risk.std() / np.sqrt(500)
        assert abs(risk.mean() - self.risk(method, step)) < 4 * error
        without_inputs = (
            step * self.SIGMA**2 / (4 * self.B) * np.trace(P @ H)
        )  # Ornstein-Uhlenbeck, label noise alone
        assert abs(risk.mean() - without_inputs) > 8 * error

    def test_for_newton_it_is_the_formula_of_equal_gains(self):
        step, limit = 0.5, 2 * self.B / (3 + self.B + 1)
        expected = step * 3 * self.SIGMA**2 / (4 * self.B) / (1 - step / limit)
        assert self.risk(NEWTON, step) == pytest.approx(expected, rel=1e-12)
        with pytest.raises(ValueError, match="S < 1"):
            self.risk(NEWTON, 1.001 * limit)

    @pytest.mark.parametrize("method", [SGD, NEWTON, SFN], ids=label)
    def test_the_limit_is_reached_as_one_over_the_number_of_iterates(self, method):
        lam, step, sigma = 0.3, 0.5, 1.3
        gain = {"SGD": 1.0, "Newton": 1 / lam, "SFN": 1 / (lam + GAMMA)}[method.name]
        limit = derived("averaging", method=method).evaluate(lam=lam, step=step, sigma=sigma)
        short = [
            1 - N * sigma**2 * np.sum(weights_of_last_half(gain, lam, step, N) ** 2) / limit
            for N in (500, 1000)
        ]
        assert 0 < short[1] < 1 / (1000 * step * gain * lam)
        assert short[0] / short[1] == pytest.approx(2, abs=0.01)

    def test_newton_and_sgd_differ_in_their_last_iterate_and_not_in_their_mean(self):
        lam, step, sigma, N = 0.1, 0.5, 1.3, 600
        last, averages = [], []
        for method, gain in ((SGD, 1.0), (NEWTON, 1 / lam)):
            flow = st.Flow(st.quadratic([lam]), method, st.Noise(gradient=sigma), step=step)
            save = step * np.arange(N + 1, 2 * N + 1)
            states = st.simulate(
                flow,
                start=[0.0],
                t_end=save[-1],
                save=save,
                paths=1024,
                seed=23 + len(last),
                level="iteration",
            ).states[..., 0]
            square = states.mean(axis=0) ** 2
            exact = sigma**2 * np.sum(weights_of_last_half(gain, lam, step, N) ** 2)
            assert abs(square.mean() - exact) < 4 * square.std() / np.sqrt(len(square))
            limit = derived("averaging", method=method).evaluate(lam=lam, step=step, sigma=sigma)
            assert abs(N * square.mean() - limit) < 4 * N * square.std() / np.sqrt(len(square))
            last.append(states[-1].var())
            averages.append(square.mean())
        assert last[1] / last[0] > 10
        assert abs(np.log(averages[1] / averages[0])) < 4 * np.sqrt(
            2 * 2 / 1024
        )  # the logarithms of two variances of 1024 Gaussians


class TestExactEmbedding:
    """A process of rate ``-log(1 - alpha phi lambda) / alpha``, seen at every step, is the iteration."""

    METHODS = (SGD, NEWTON, SFN, RSFN)
    modes = pytest.mark.parametrize("method", METHODS, ids=label)
    GAINS = {  # noqa: RUF012
        "SGD": lambda x: 1.0,
        "Newton": lambda x: 1 / x,
        "SFN": lambda x: 1 / (x + GAMMA),
        "R-SFN": lambda x: (x**2 + EPS) ** -0.5,
    }

    @modes
    def test_its_autocorrelation_is_the_iterations(self, method):
        """The process's by its power spectrum ``r / pi / (r^2 + w^2)`` (Wiener, Khinchin), at the steps."""
        lam, step = 0.6, 0.4
        rate = derived("discrete-vs-continuous", method=method).evaluate(
            "embedding", lam=lam, step=step, sigma=1.0
        )
        factor = 1 - step * self.GAINS[method.name](lam) * lam
        for k in (1, 2, 5):
            found = scipy.integrate.quad(
                lambda w: 2 * rate / np.pi / (rate**2 + w**2), 0, np.inf, weight="cos", wvar=k * step
            )[0]
            assert found == pytest.approx(factor**k, abs=1e-8)

    @each_method
    def test_its_rates_are_the_eigenvalues_of_a_matrix_logarithm(self, name):
        Q, H, _ = problem(3)
        method = PEERS[name][0](3)
        generator = Q.T @ -scipy.linalg.logm(np.eye(3) - STEP * PEERS[name][1](H) @ H) @ Q / STEP
        for i, lam in enumerate(SPECTRA[3]):
            branch = {} if method.rank is None else {"branch": "kept" if i < method.rank else "tail"}
            more = (
                {"lam_next": SPECTRA[3][method.rank]}
                if branch.get("branch") == "tail" and method.tail == "flat"
                else {}
            )
            rate = theorem("discrete-vs-continuous", name, **branch).evaluate(
                "embedding", lam=lam, step=STEP, sigma=1.0, **more
            )
            assert rate == pytest.approx(generator[i, i], rel=1e-9)
        assert_close(generator, np.diag(np.diag(generator)))

    def test_simulated_steps_are_correlated_as_it_says_and_not_as_at_the_linear_rate(self):
        """Products of a path's states k steps apart have mean ``M e^(-r k alpha)``, in all modes."""
        Q, H, Sigma = problem(3)
        step, k, method = 1.1, 2, SFN
        end = 40 * step
        ens = st.simulate(
            flow_of(method, H, Sigma, step),
            start=np.zeros(3),
            t_end=end,
            save=[end - k * step, end],
            paths=20_000,
            seed=29,
            level="iteration",
        )
        before, after = ens.states @ Q
        theorem = derived("discrete-vs-continuous", method=method)
        for i, lam in enumerate(SPECTRA[3]):
            values = {"lam": lam, "step": step, "sigma": np.sqrt((Q.T @ Sigma @ Q)[i, i])}
            product, M = before[:, i] * after[:, i], theorem.evaluate("iteration", **values)
            error = product.std() / np.sqrt(len(product))
            assert (
                abs(product.mean() - M * np.exp(-k * step * theorem.evaluate("embedding", **values)))
                < 4 * error
            )
            assert abs(product.mean() - M * np.exp(-k * step * lam / (lam + GAMMA))) > 6 * error

    @modes
    def test_an_iteration_that_overshoots_embeds_in_none(self, method):
        lam = 0.6
        step = 1.001 / (self.GAINS[method.name](lam) * lam)
        theorem = derived("discrete-vs-continuous", method=method)
        with pytest.raises(ValueError, match=r"alpha phi\(lambda\) lambda < 1"):
            theorem.evaluate("embedding", lam=lam, step=step, sigma=1.0)
        assert (
            theorem.evaluate("iteration", lam=lam, step=step, sigma=1.0) > 0
        )  # it has a stationary law all the same
