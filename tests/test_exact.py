"""One mode without linearisation: closed forms, direct samples of the random factor, the iteration itself."""

import itertools
import math

import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats

import stability as st
from stability._special import gaussian_log_moment
from stability.exact import law
from stability.exact.mode import exact_mode

INF = math.inf
DRAWS = 200_000


class InverseRoot(st.Method):
    """``phi = |lam|^(-1/2)``: a pole of order one half."""

    name = "inverse root"

    def __init__(self):
        pass

    def gain(self, lam):
        return 1 / abs(lam) ** 0.5


DATA = st.Noise.from_data(st.least_squares(np.eye(4), np.ones(4)), batch=2)
SHIFTED = st.Method(gain=lambda lam: 1 / abs(lam - 0.4) ** 0.5, name="shifted inverse root")


def noise(spread=0.3, **options):
    """Noise whose curvature has this standard deviation along a mode (the GOE diagonal's is 2 tau^2)."""
    return st.Noise(**{"gradient": 1.0, "curvature": spread / math.sqrt(2), **options})


def mode(method=None, lam=1.0, spread=0.3, density=None, **options):
    return exact_mode(method or st.SGD(), curvature=lam, noise=noise(spread, **options), density=density)


def draw(method, lam, model, seed=5):
    """`DRAWS` rates X and gains phi, from the noise's own sampler."""
    sample = model.sample(np.zeros(1), DRAWS, np.random.default_rng(seed))
    gains = method.gain(lam + sample.Eh[:, 0, 0])
    return gains * (lam + sample.Eg[:, 0, 0]), gains


def z_score(sample, value):
    return (sample.mean() - value) / (sample.std(ddof=1) / math.sqrt(len(sample)))


def gaussian_power(order, mean, spread):
    """``E|N(mean, spread^2)|^order`` in closed form, also for -1 < order < 0."""
    power = spread**order * 2 ** (order / 2) * scipy.special.gamma((1 + order) / 2) / math.sqrt(math.pi)
    return power * scipy.special.hyp1f1(-order / 2, 0.5, -((mean / spread) ** 2) / 2)


# -- closed forms ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"coupling": "nested"},
        {"hessian_batch": INF},
        {"batch": 4, "hessian_batch": 2, "coupling": "nested"},
    ],
    ids=str,
)
def test_sgd_has_the_closed_form_whatever_the_hessian_batch(options):
    found = mode(spread=0.3, **options)
    variance = 0.09 / options.get("batch", 1)
    assert found.mean_square_limit == pytest.approx(2 / (1 + variance), rel=1e-13)
    law = scipy.stats.norm(0.6, 0.4 * math.sqrt(variance))
    parts = (
        scipy.integrate.quad(lambda m: abs(m) ** 3.7 * law.pdf(m), *ends, epsabs=0, epsrel=1e-13)[0]
        for ends in ((-1, 0), (0, 0.6), (0.6, 2.5))
    )
    assert found.moment(3.7, 0.4).value == pytest.approx(sum(parts), rel=1e-12)
    assert found.moment(4, 1.5).value == pytest.approx(
        scipy.stats.norm(0.5, 1.5 * math.sqrt(variance)).moment(4), rel=1e-12
    )
    assert found.variance(0.4) == pytest.approx(
        0.16 / options.get("batch", 1) / (1 - 0.36 - 0.16 * variance), rel=1e-12
    )


@pytest.mark.parametrize("order", [0.3, 1.0, 7.5, 59.0, 61.0, 800.0])
def test_the_moments_of_sgd_agree_between_one_batch_and_two(order):
    """One batch: the quadrature does all the work; two: the closed form of the inner integral does."""
    one, two = mode(coupling="nested").moment(order, 0.2), mode().moment(order, 0.2)
    assert one.value == pytest.approx(two.value, rel=1e-11)
    assert mode(coupling="nested").almost_sure_limit == pytest.approx(
        mode(hessian_batch=INF).almost_sure_limit, rel=1e-11
    )


@pytest.mark.parametrize("order", [0.3, 1.0, 5.5, 40.0, 300.0])
@pytest.mark.parametrize("ratio", [0.0, 0.5, 5.0, 13.9, 14.1, 60.0, 1e4])
def test_the_inner_moment_agrees_with_a_quadrature(order, ratio):
    peak = 0.5 * (ratio + math.sqrt(ratio**2 + 4 * order))

    def height(u):
        return (
            order * math.log(u / peak)
            - 0.5 * (u - ratio) ** 2
            + 0.5 * (peak - ratio) ** 2
            + math.log1p(math.exp(-2 * u * ratio))
            if u
            else -INF
        )

    pieces = [0.0, *(p for p in peak + np.array([-9.0, -3.0, 0.0, 3.0, 9.0]) if p > 0)]
    pieces = pieces[1:] if peak > 10 else pieces
    integral = sum(
        scipy.integrate.quad(lambda u: math.exp(height(u)), a, b, epsabs=0, epsrel=1e-13, limit=200)[0]
        for a, b in itertools.pairwise(pieces)
    )
    log = math.log(integral / math.sqrt(2 * math.pi)) + order * math.log(peak) - 0.5 * (peak - ratio) ** 2
    assert gaussian_log_moment(order, np.array([ratio]), np.array([1.0]))[0] == pytest.approx(
        log, abs=3e-12 * max(1.0, abs(log))
    )


def test_sgd_without_noise():
    found = exact_mode(st.SGD(), curvature=0.5, noise=st.Noise())
    assert (found.mean_square_limit, found.almost_sure_limit) == (pytest.approx(4), pytest.approx(4))
    assert found.tail_index(1.0) == INF
    assert found.lyapunov(1.0).value == pytest.approx(math.log(0.5))
    assert (found.variance(1.0), found.variance(5.0)) == (0.0, INF)


def test_a_mode_that_nothing_moves_or_that_grows_has_no_limit():
    assert exact_mode(st.SGD(), curvature=0.0, noise=st.Noise()).almost_sure_limit == 0
    saddle = mode(st.SFN(damping=0.1), lam=-1.0)
    assert (saddle.mean_square_limit, saddle.almost_sure_limit) == (0.0, 0.0)
    barely = mode(lam=-1e-5, spread=1.0)  # stable at a step of 1e-3, yet not at small ones
    assert barely.lyapunov(1e-3).value < 0 < barely.lyapunov(1e-6).value
    assert barely.almost_sure_limit == 0


@pytest.mark.parametrize("lam", [0.1, 2.0])
def test_chi_square_curvature_has_a_third_of_the_limit(lam):
    """Gaussian inputs of one batch: X = lam chi^2_1, E X^2 = 3 lam^2."""
    found = mode(lam=lam, spread=0.0, coupling="nested", density=scipy.stats.chi2(1, loc=-lam, scale=lam))
    assert found.mean_square_limit == pytest.approx(2 / (3 * lam), rel=1e-12)
    assert found.moment(4, 1 / lam).value == pytest.approx(60, rel=1e-11)  # E(1 - chi^2)^4
    assert found.lyapunov(1e-3 / lam).value == pytest.approx(
        -1e-3 - 1.5e-6 - 5e-9 - 105e-12 / 4 - 189e-15, abs=1e-14
    )


def test_uniform_curvature_in_closed_form():
    low, high, step = 0.4, 1.6, 1.1
    found = mode(spread=0.0, coupling="nested", density=scipy.stats.uniform(-0.6, 1.2))
    a, b = 1 - step * high, 1 - step * low
    assert found.lyapunov(step).value == pytest.approx(
        (b * math.log(b) + -a * math.log(-a)) / (b - a) - 1, rel=1e-12
    )
    assert found.moment(0.3, step).value == pytest.approx((b**1.3 + (-a) ** 1.3) / (1.3 * (b - a)), rel=1e-12)
    assert found.tail_index(step) == INF  # |1 - step X| < 1 always
    beyond = 1.5
    p = found.tail_index(beyond)
    a, b = 1 - beyond * high, 1 - beyond * low
    assert (b ** (p + 1) + (-a) ** (p + 1)) / ((p + 1) * (b - a)) == pytest.approx(1, rel=1e-9)


def test_a_density_may_be_a_distribution_or_a_function():
    law = scipy.stats.norm(0, 0.3)
    for density in (
        law,
        lambda e: math.exp(-0.5 * (e / 0.3) ** 2) / (0.3 * math.sqrt(2 * math.pi)) if abs(e) < 10 else 0.0,
    ):
        found, gaussian = mode(st.SFN(damping=0.1), density=density), mode(st.SFN(damping=0.1))
        assert found.mean_square_limit == pytest.approx(gaussian.mean_square_limit, rel=1e-11)
        assert found.lyapunov(0.4).value == pytest.approx(gaussian.lyapunov(0.4).value, rel=1e-10)
    box = mode(st.SFN(damping=0.1), density=lambda e: 0.5 * (abs(e) < 1))
    assert box.gain_moment(1).value == pytest.approx(math.log(2.1 / 0.1) / 2, rel=1e-10)


def test_a_kept_mode_of_lrsfn_is_one_of_sfn():
    assert (
        mode(st.LRSFN(rank=1, damping=0.1)).mean_square_limit == mode(st.SFN(damping=0.1)).mean_square_limit
    )


# -- infinite moments ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "pole", "order"),
    [
        (st.Newton(), 0.0, 1.0),
        (st.DampedNewton(damping=0.2), -0.2, 1.0),
        (InverseRoot(), 0.0, 0.5),
        (SHIFTED, 0.4, 0.5),
    ],
    ids=lambda v: getattr(v, "name", v),
)
def test_a_pole_makes_moments_infinite_from_its_index_on(method, pole, order):
    found = mode(method)
    density = scipy.stats.norm(1, 0.3).pdf(pole)
    reason = (
        f"phi has a pole of order {order:g} at lambda = {pole:g}, where the density of lambda + E_h is "
        f"{density:.3g}: "
    )
    reason += f"moments from {1 / order:g} up are infinite"
    assert found.gain_moment(1 / order) == (INF, 0.0, reason)
    below = found.gain_moment(0.999 / order)
    assert (below.reason, below.value) == ("", pytest.approx(gaussian_power(-0.999, 1 - pole, 0.3), rel=2e-9))
    assert found.moment(1 / order, 0.1).reason == reason.replace("phi", "X")
    assert found.moment(2, 0.1).value == INF
    assert (found.mean_square_limit, found.mean_square_error, found.variance(0.1)) == (0.0, 0.0, INF)
    assert 0.8 < found.tail_index(0.1) * order < 1  # E|1 - step X|^s rises through 1 before it is infinite
    assert found.tail_index(0.01) > found.tail_index(0.1)


def test_a_pole_far_in_the_tail_is_still_a_pole():
    found = mode(st.Newton(), spread=0.01)
    assert found.mean_square_limit == 0
    assert "density of lambda + E_h is 10^-2170" in found.moment(2, 0.1).reason
    assert found.tail_index(0.1) == 1
    bounded = mode(st.Newton(), spread=0.0, density=scipy.stats.uniform(-0.5, 1.0))
    assert bounded.mean_square_limit == pytest.approx(2 * math.log(3) / (1 / 0.5 - 1 / 1.5), rel=1e-12)


def test_newton_with_one_batch_contracts_exactly_yet_its_noise_has_tail_index_one():
    found = mode(st.Newton(), coupling="nested")
    assert (found.mean_square_limit, found.almost_sure_limit) == (pytest.approx(2), pytest.approx(2))
    assert found.lyapunov(0.3).value == pytest.approx(math.log(0.7))
    assert (found.tail_index(0.3), found.variance(0.3)) == (1.0, INF)
    assert found.moment(2, 0.3).value == pytest.approx(0.49)
    assert found.lyapunov(1.0) == (-INF, 0.0, "1 - step X vanishes: one iteration reaches the critical point")
    assert mode(st.Newton(), coupling="nested", gradient=0.0).variance(0.3) == 0


def test_a_bounded_gain_has_all_moments_however_small_the_damping():
    found = mode(st.SFN(damping=1e-10))
    square = found.gain_moment(2)
    inner = 2 * scipy.stats.norm(1, 0.3).pdf(0) / 1e-10  # the peak; the rest is of order one
    assert (square.reason, square.value) == ("", pytest.approx(inner, abs=3))
    assert 0 < found.mean_square_limit < 1e-6


@pytest.mark.parametrize("df", [1.5, 2.0, 4.5])
def test_heavy_tailed_curvature(df):
    found = mode(spread=0.0, coupling="nested", density=scipy.stats.t(df, scale=0.3))
    if df <= 2:
        assert found.mean_square_limit == 0
        assert (
            found.moment(2, 0.1).reason
            == f"the density of E_h falls like |E_h|^{-df - 1:g} while X grows like |E_h|^1: moments from "
            f"{df:g} up are infinite"
        )
    else:
        assert found.mean_square_limit == pytest.approx(2 / (1 + 0.09 * df / (df - 2)), rel=1e-12)
    assert found.moment(0.98 * df, 0.1).reason == ""
    assert 0.5 * df < found.tail_index(0.1) < df
    assert found.gain_moment(50).value == pytest.approx(1)


def test_light_tails_are_no_power_laws():
    for density in (scipy.stats.lognorm(1.0, loc=-0.5, scale=0.5), scipy.stats.laplace(scale=0.3)):
        assert mode(spread=0.0, coupling="nested", density=density).moment(12, 0.1).reason == ""


# -- sampling --------------------------------------------------------------------------------------

NOISES = [
    {},
    {"coupling": "nested"},
    {"batch": 4, "hessian_batch": 2, "coupling": "nested"},
    {"hessian_batch": 4},
]
METHODS = [st.SGD(), st.Newton(), st.DampedNewton(damping=0.3), st.SFN(damping=0.1), InverseRoot()]


@pytest.mark.parametrize("options", NOISES, ids=str)
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_direct_sampling_of_the_factor(method, options):
    found, step = mode(method, lam=0.5, **options), 0.7
    rates, gains = draw(method, 0.5, noise(**options))
    factor = np.abs(1 - step * rates)
    if factor.std() > 1e-9:  # Newton with one batch does not vary
        assert abs(z_score(np.log(factor), found.lyapunov(step).value)) < 4
        assert abs(z_score(factor**0.4, found.moment(0.4, step).value)) < 4
    if not found.moment(4, step).reason and not found._constant(step, found._sites(step)[0]):
        assert abs(z_score(factor**2, found.moment(2, step).value)) < 4
        limit = found.mean_square_limit
        assert abs(z_score((1 - limit * rates) ** 2, 1.0)) < 4
    if not found.gain_moment(0.8).reason and method.name != "SGD":
        assert abs(z_score(np.abs(gains) ** 0.4, found.gain_moment(0.4).value)) < 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "lam", "step"),
    [
        (st.SFN(damping=0.1), 0.5, 0.8),
        (st.SFN(damping=0.1), 0.5, 1.2),
        (st.Newton(), 0.15, 0.4),
        (st.SGD(), 0.3, 3.0),
    ],
    ids=str,
)
def test_kestens_root(method, lam, step):
    found = mode(method, lam=lam)
    index = found.tail_index(step)
    if isinstance(method, st.Newton):
        assert index < 0.5  # below it the sample's variance is finite
    rates, _ = draw(method, lam, noise(), seed=9)
    assert abs(z_score(np.abs(1 - step * rates) ** index, 1.0)) < 4
    assert abs(z_score(np.log(np.abs(1 - found.almost_sure_limit * rates)), 0.0)) < 4


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"coupling": "nested"}], ids=str)
def test_the_stationary_variance_of_the_iteration(options):
    model, step = noise(0.15, **options), 0.2
    method = st.SFN(damping=0.1)
    found = exact_mode(method, curvature=0.5, noise=model)
    assert found.tail_index(step) > 8  # the variance's standard error exists
    paths = st.simulate(
        st.Flow(st.quadratic([0.5]), method, model, step=step),
        start=[0.0],
        t_end=12.0,
        paths=24_000,
        seed=3,
        level="iteration",
    )
    assert abs(paths.covariance[-1, 0, 0] - found.variance(step)) < 4 * paths.covariance_error[-1, 0, 0]
    linear = st.linearize(st.Flow(st.quadratic([0.5]), method, model, step=step)).covariance()[0, 0]
    assert abs(paths.covariance[-1, 0, 0] - linear) > 10 * paths.covariance_error[-1, 0, 0]


@pytest.mark.slow
def test_the_tail_of_a_long_run():
    """Hill's estimate on the stationary law: an asymptotic statement, hence its wide window."""
    found, step = mode(lam=0.5, coupling="nested", spread=1.0), 0.9
    rng = np.random.default_rng(2)
    w = np.zeros(200_000)
    for _ in range(80):
        w = (1 - step * (0.5 + rng.standard_normal(len(w)))) * w - step * rng.standard_normal(len(w))
    top = np.sort(np.abs(w))[-401:]
    hill = 1 / np.mean(np.log(top[1:] / top[0]))
    assert hill == pytest.approx(found.tail_index(step), rel=0.15)


# -- limits of small noise and small steps ---------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"coupling": "nested"}], ids=str)
def test_small_noise_is_the_linearised_theory(options):
    spreads, gaps = np.array([0.08, 0.04, 0.02]), []
    for spread in spreads:
        method, model = st.SFN(damping=0.5), noise(spread, **options)
        linear = st.linearize(st.Flow(st.quadratic([1.0]), method, model, step=0.1)).step_limit()
        gaps.append(abs(exact_mode(method, curvature=1.0, noise=model).mean_square_limit / linear - 1))
    assert np.polyfit(np.log(spreads), np.log(gaps), 1)[0] == pytest.approx(2.0, abs=0.1)


def test_the_tail_index_of_a_small_step_is_that_of_the_sde():
    steps, gaps = np.array([0.08, 0.04, 0.02]), []
    for step in steps:
        sde = st.linearize(st.Flow(st.quadratic([1.0]), st.SGD(), noise(1.0), step=step)).tail_index
        gaps.append(abs(mode(spread=1.0, coupling="nested").tail_index(step) / sde - 1))
    assert np.polyfit(np.log(steps), np.log(gaps), 1)[0] == pytest.approx(1.0, abs=0.1)


def test_linearisation_can_promise_twice_the_limit():
    """Hessian noise only, lambda = 1, damping = 0.01, s = 0.3: by a plain quadrature, X = phi(1 + E)."""
    law = scipy.stats.norm(1, 0.3)

    def gain_power(k):
        return scipy.integrate.quad(
            lambda x: law.pdf(x) / (abs(x) + 0.01) ** k,
            -3,
            5,
            points=[0, 1],
            epsabs=0,
            epsrel=1e-12,
            limit=500,
        )[0]

    first, second = gain_power(1), gain_power(2)
    found = exact_mode(
        st.SFN(damping=0.01), curvature=1.0, noise=noise(0.0), density=scipy.stats.norm(0, 0.3)
    )
    assert found.mean_square_limit == pytest.approx(2 * first / second, rel=1e-11)
    assert found.mean_square_limit == pytest.approx(0.92194, abs=1e-5)
    assert 2 * 1.01 / (1 + 0.09 / 1.01**2) / found.mean_square_limit == pytest.approx(2, abs=0.05)


def test_the_known_variance():
    """SFN, lambda .5, damping .1, Hessian noise .15 only, step .2: .445, .366 by the linearisation."""
    found = exact_mode(
        st.SFN(damping=0.1), curvature=0.5, noise=noise(0.0), density=scipy.stats.norm(0, 0.15)
    )
    assert found.variance(0.2) == pytest.approx(0.44483, abs=1e-5)


# -- errors, display -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message", "kind"),
    [
        (lambda: exact_mode(1 / 2, curvature=1.0, noise=noise()), r"`method` must be a st.Method; got "
                                                                  r"0.5", ValueError),
        (lambda: mode(lam=math.nan), r"`curvature` must be finite", ValueError),
        (lambda: mode(lam=[1.0]), r"`curvature` must have shape \(\)", ValueError),
        (lambda: exact_mode(st.SGD(), curvature=1.0, noise=0.1), r"`noise` must be a st.Noise; got 0.1, "
                                                                 r"which has no single-mode law. "
                                                                 r"Give", ValueError),
        (lambda: exact_mode(st.SGD(), curvature=1.0, noise=DATA), r"has no single-mode law. Give "
                                                                  r"Noise\(", ValueError),
        (lambda: mode(gradient=[1.0, 2.0]), r"`noise` must have a gradient of one mode, a number; got shape "
                                            r"\(2,\)", ValueError),
        (lambda: mode(density=0.3), r"`density` must be a frozen scipy.stats distribution or a function of "
                                    r"E_h; got 0.3", ValueError),
        (lambda: mode(density=lambda e: math.exp(-e * e)), r"`density` must integrate to 1; got 1.77245385. "
                                                           r"Divide", ValueError),
        (lambda: mode(density=lambda e: 0.0 * e), r"`density` must integrate to 1; got 0", ValueError),
        (lambda: mode(density=scipy.stats.norm(), hessian_batch=INF), r"got it with hessian_batch=inf. "
                                                                      r"Change `noise`", ValueError),
        (
            lambda: mode(density=scipy.stats.norm(), batch=4, hessian_batch=2, coupling="nested"),
            r"got it with nested batches 4 and 2",
            ValueError,
        ),
        (lambda: mode(st.Newton(), lam=0.0, hessian_batch=INF), r"The curvature is singular for "
                                                                r"Newton", ValueError),
        (lambda: mode().moment(0, 0.1), r"`order` must be a finite number > 0; got 0", ValueError),
        (lambda: mode().moment(1, -0.1), r"`step` must be a finite number > 0; got -0.1", ValueError),
        (lambda: mode().gain_moment(-1), r"`order` must be", ValueError),
        (lambda: mode().lyapunov(0), r"`step` must be", ValueError),
        (lambda: mode().tail_index(math.nan), r"`step` must be", ValueError),
        (lambda: mode().variance(INF), r"`step` must be", ValueError),
        (
            lambda: mode().moment(5000, 0.1),
            r"order 5000 is finite but exp\(3172\), beyond the largest float",
            ArithmeticError,
        ),
        (lambda: mode(st.Method(lambda lam: 1 / np.maximum(lam, 0))),
         r"from lambda = -\d.* to 0, where the noise reaches, it is infinite or not a number", ValueError),
        (lambda: mode(st.Method(lambda lam: np.exp(-lam))).gain_moment(1),
         r"beyond the largest float at lambda = -.*Give a `density` of bounded support", ArithmeticError),
        (lambda: mode().tail_index(2.5), r"for SGD at step 2.5: E log\|1 - step X\| = 0.2.* >= 0, "
                                         r"almost-sure stability ends at step 2.217", st.Unstable),
    ],
)  # fmt: skip
def test_misuse_is_named(call, message, kind):
    with pytest.raises(kind, match=message):
        call()


def test_a_gain_that_overflows_far_out_has_moments_under_a_bounded_density():
    bounded = mode(
        st.Method(lambda lam: np.exp(-lam)), lam=1.0, density=scipy.stats.truncnorm(-8, 8, scale=0.5)
    )
    assert bounded.gain_moment(0.1).value == pytest.approx(np.exp(-0.1 + 0.1**2 * 0.25 / 2), rel=1e-10)


def test_a_quadrature_that_fails_raises(monkeypatch):
    found = mode(st.SFN(damping=0.1))
    monkeypatch.setattr(law, "_TOLERANCE", 1e-30)
    with pytest.raises(
        ArithmeticError, match=r"The quadrature reached .* of the integrand's size; 1e-30 was asked for"
    ):
        found.lyapunov(0.1)


def test_error_estimates_are_honest():
    found = mode(st.SFN(damping=0.01), lam=0.2, coupling="nested")
    law = scipy.stats.norm(0.2, 0.3)

    def log(x):
        return law.pdf(x) * math.log(abs(1 - 1.3 * x / (abs(x) + 0.01)))

    pole = 0.01 / 0.3  # where 1.3 x = x + 0.01
    parts = (
        scipy.integrate.quad(log, a, b, epsabs=1e-13, limit=500)[0]
        for a, b in ((-3, 0), (0, pole), (pole, 1), (1, 4))
    )
    estimate = found.lyapunov(1.3)
    assert abs(estimate.value - sum(parts)) < 1e-11
    assert 0 < estimate.error < 1e-11


@pytest.mark.slow
def test_print():
    text = str(mode(st.SFN(damping=0.1), lam=0.5))
    assert text.splitlines()[0] == "SFN, one mode, lambda = 0.5: the iteration itself, nothing linearised"
    assert f"{mode(st.SFN(damping=0.1), lam=0.5).mean_square_limit:.6g}" in text
    assert "infinite" not in text
    text = str(mode(st.Newton()))
    assert "E phi^2 is infinite: phi has a pole of order 1 at lambda = 0" in text
    assert "no step is mean-square stable: X has a pole" in text
    assert "no step is mean-square stable: E X <= 0" in str(mode(lam=-1.0))
