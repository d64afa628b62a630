"""Only ratios mean something: the same problem in other units has the same answer in those units."""

import functools
import math
from functools import partial
from typing import NamedTuple

import numpy as np
import pytest
import scipy.stats

import stability as st

UNITS = [2.0**-40, 1.0, 2.0**40]


class TestPlacesThatHadAnAbsoluteNumber:
    @pytest.mark.parametrize("h", [2.0**40])
    def test_the_almost_sure_limit_is_as_sharp_in_any_unit(self, h):
        mode = st.exact_mode(st.SGD(), curvature=h, noise=st.Noise(curvature=0.5 * h))
        assert mode.almost_sure_limit * h == pytest.approx(2.083476754206, rel=1e-11)

    @pytest.mark.parametrize("noise", [1e-6, 1e-12, 1e-30])
    def test_hessian_noise_may_be_as_small_as_it_likes(self, noise):
        mode = st.exact_mode(st.SGD(), curvature=1.0, noise=st.Noise(gradient=1.0, curvature=noise))
        assert mode.mean_square_limit == pytest.approx(2.0, rel=4 * noise**2 + 1e-12)
        assert mode.variance(1.0) == pytest.approx(1.0, rel=4 * noise**2 + 1e-12)

    def test_a_slow_mode_decays_and_a_flat_one_does_not(self):
        def linear(*eigenvalues):
            flow = st.Flow(st.quadratic(eigenvalues), st.SGD(), st.Noise(gradient=1e-7), step=0.1)
            return st.linearize(flow)

        assert linear(9e-14).step_limit() == pytest.approx(2 / 9e-14, rel=1e-12)
        assert linear(9e-14, 1e-20).covariance()[1, 1] == pytest.approx(0.1 * 1e-14 / 2e-20, rel=1e-6)
        for flat in ([0.0], [1.0, 0.0], [1e-14, 0.0]):
            with pytest.raises(st.Unstable, match=r"1 of [12] modes do not decay"):
                linear(*flat).step_limit()

    def test_a_gradient_is_small_beside_the_problem_not_beside_one(self):
        tiny = st.expression("(x/a)**4/4 - (x/a)**2/2".replace("a", "1e-9"), ["x"])
        with pytest.raises(ValueError, match="`at` must be a critical point"):
            st.linearize(st.Flow(tiny, st.SGD(), step=1e-20), at=[0.5e-9])
        assert st.linearize(st.Flow(tiny, st.SGD(), step=1e-20), at=[1e-18]).rates[0] > 0
        large = st.expression("(x/1e9)**4/4 - (x/1e9)**2/2", ["x"])
        # The minimum as a search finds it, to rounding; the saddle within a millionth of the landscape.
        for at, sign in ((1e9 * (1 + 4e-16), -1), (1e-3, 1)):
            assert np.sign(st.linearize(st.Flow(large, st.SGD(), step=1e17), at=[at]).rates[0]) == sign

    @pytest.mark.parametrize("unit", UNITS)
    def test_what_has_diverged_does_not_hang_on_the_unit(self, unit):
        def ended(step, noise):
            flow = st.Flow(st.quadratic([1.0]), st.SGD(), st.Noise(gradient=noise * unit), step=step)
            return st.simulate(flow, start=[unit], t_end=60 * step, paths=20, level="iteration")

        assert not ended(0.1, 1e7).diverged.any()
        lost = ended(2.5, 0.1)
        assert lost.diverged.all()
        assert np.median(lost.diverged_at) == pytest.approx(35 * 2.5)  # (3/2)^k exceeds a million there

    def test_without_noise_a_wrong_theory_is_not_agreed_with_in_small_units(self):
        flow, other = (st.Flow(st.quadratic([lam]), st.SGD(), step=0.1) for lam in (1.0, 1.5))
        ens = st.simulate(flow, start=[1e-12], t_end=1.0, paths=4)
        assert st.compare(st.linearize(flow), ens).max_z == 0
        assert st.compare(st.linearize(other), ens).max_z == np.inf

    def test_steps_of_a_billionth_are_told_apart(self):
        flow, other = (st.Flow(st.quadratic([1e8]), st.SGD(), step=step) for step in (1e-9, 2e-9))
        ens = st.simulate(flow, start=[1.0], t_end=1e-8, paths=4, level="iteration")
        with pytest.raises(ValueError, match=r"The ensemble was run at step 1e-09; the linear flow has"):
            st.compare(st.linearize(other), ens)

    def test_single_precision_does_not_square_what_it_cannot_hold(self):
        def flow(F):
            return st.Flow(st.quadratic([F, 2 * F]), st.SGD(), st.Noise(gradient=0.1), step=0.1 / F)

        message = r"`dtype`='float32' does not hold the squares.*the curvature at the start is 2e\+30"
        with pytest.raises(ValueError, match=message):
            st.simulate(flow(1e30), start=[1.0, 1.0], t_end=1e-30, paths=4, dtype="float32")
        assert not st.simulate(flow(1e30), start=[1.0, 1.0], t_end=1e-30, paths=4).diverged.any()

    @pytest.mark.parametrize("unit", [1.0, 1e7])
    def test_a_path_that_leaves_a_saddle_for_a_far_minimum_has_not_diverged(self, unit):
        well = st.expression(f"(x/{unit:g})**4/4 - (x/{unit:g})**2/2", ["x"])
        flow = st.Flow(well, st.SGD(), st.Noise(gradient=1e-9 / unit), step=0.1 * unit**2)
        ens = st.simulate(flow, start=[0.0], t_end=40 * unit**2, paths=20, seed=0)
        assert not ens.diverged.any()
        assert np.abs(ens.states[-1] / unit) == pytest.approx(1.0, rel=1e-2)


LAWS = {
    "gamma": scipy.stats.gamma(0.1, scale=0.5),
    "arcsine": scipy.stats.beta(0.5, 0.5, loc=-0.5),
    "two edges": scipy.stats.beta(0.1, 0.2, loc=-0.5),
    "far edge": scipy.stats.beta(0.5, 0.5, loc=0.5),
}
FORMULAS = {  # density of a unit s, mean, variance
    "edge at 0": (lambda e: 0.5 / math.sqrt(e) if 0 < e < 1 else 0.0, 1 / 3, 4 / 45),
    "edge elsewhere": (lambda e: 0.5 / math.sqrt(e - 0.3) if 0.3 < e < 1.3 else 0.0, 19 / 30, 4 / 45),
    "both edges": (lambda e: 1 / (math.pi * math.sqrt(0.25 - e * e)) if abs(e) < 0.5 else 0.0, 0, 1 / 8),
    "pole inside": (
        lambda e: 0.25 / math.sqrt(abs(e - 0.3)) if 0 < abs(e - 0.3) < 1 else 0.0,
        0.3,
        1 / 5,
    ),
    "gap": (lambda e: 0.5 if 0.5 < abs(e) < 1.5 else 0.0, 0, 13 / 12),
    "Gaussian": (lambda e: math.exp(-0.5 * e * e) / math.sqrt(2 * math.pi), 0, 1),
    "heavy tail": (lambda e: 0.375 * (1 + e * e / 4) ** -2.5, 0, 2),
}
SAME = st.Noise(curvature=1.0, coupling="nested")  # one batch for both: E_g = E_h has the density too


def limit(density, curvature, mean, variance):
    """The mean-square limit over the exact ``2 E X / E X^2`` of ``X = curvature + E_h``, and its error."""
    mode = st.exact_mode(st.SGD(), curvature=curvature, noise=SAME, density=density)
    exact = 2 * (curvature + mean) / ((curvature + mean) ** 2 + variance)
    return mode.mean_square_limit / exact, mode.mean_square_error / exact


class TestDensitiesSingularAtTheirEdges:
    """The stated error covers the true one, in any unit."""

    @pytest.mark.parametrize("unit", [2.0**-40, 1.0])
    @pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
    def test_of_scipy(self, law, unit):
        name, options = law.dist, dict(law.kwds)
        scaled = name(*law.args, loc=unit * options.get("loc", 0.0), scale=unit * options.get("scale", 1.0))
        ratio, error = limit(scaled, unit, unit * law.mean(), unit**2 * law.var())
        assert abs(ratio - 1) <= 4 * error + 1e-14
        assert error < 1e-6

    @pytest.mark.parametrize(("density", "mean", "variance"), FORMULAS.values(), ids=FORMULAS)
    def test_of_a_formula(self, density, mean, variance):
        unit = 2.0**-40  # in unit 1 too: scipy's, above
        ratio, error = limit(lambda e: density(e / unit) / unit, unit, unit * mean, unit**2 * variance)
        assert abs(ratio - 1) <= 4 * error + 1e-14
        assert error < 1e-9

    def test_a_density_far_smaller_than_the_curvature(self):
        ratio, error = limit(lambda e: 1e12 * FORMULAS["both edges"][0](1e12 * e), 1.0, 0.0, 1e-24 / 8)
        assert abs(ratio - 1) <= 4 * error + 1e-14

    def test_nowhere_positive_is_told(self):
        with pytest.raises(ValueError, match=r"`density` must integrate to 1; got 0 at 6401 points"):
            st.exact_mode(st.SGD(), curvature=1.0, noise=SAME, density=lambda e: 0.0)


# -- the property: everything in other units ---------------------------------------------------------


class Units(NamedTuple):
    """By what lengths, values of the objective and times are multiplied: powers of two, so exactly."""

    w: float = 1.0
    F: float = 1.0
    t: float = 1.0

    def of(self, kind):
        """The factor of a kind of quantity."""
        i, j, k = KINDS[kind]
        return self.w**i * self.F**j * self.t**k


KINDS = {  # exponents of w, F and t; t = iteration * step, so a step is a time
    "number": (0, 0, 0),
    "length": (1, 0, 0),
    "square": (2, 0, 0),
    "density": (-1, 0, 0),
    "value": (0, 1, 0),
    "gradient": (-1, 1, 0),
    "hessian": (-2, 1, 0),
    "third": (-3, 1, 0),
    "gain": (2, -1, -1),  # P g step is a length
    "time": (0, 0, 1),
    "rate": (0, 0, -1),
    "drift": (1, 0, -1),
    "diffusion": (2, 0, -1),
}


class Scaled(st.Objective):
    """``F f(w / a)`` of an objective f, exactly."""

    def __init__(self, f, u):
        self.f, self.u, self.dim = f, u, f.dim
        self.reference = None if f.reference is None else f.reference * u.w
        self.constant_hessian, self.n_samples = f.constant_hessian, f.n_samples

    def value(self, w, **batch):
        return self.u.F * self.f.value(w / self.u.w, **batch)

    def gradient(self, w, **batch):
        return self.u.of("gradient") * self.f.gradient(w / self.u.w, **batch)

    def hessian(self, w, **batch):
        return self.u.of("hessian") * self.f.hessian(w / self.u.w, **batch)

    def third(self, w, v):
        return self.u.of("hessian") * self.f.third(w / self.u.w, v / self.u.w)

    def hvp(self, w, V, **batch):
        return self.u.of("hessian") * self.f.hvp(w / self.u.w, V, **batch)


def methods(u):
    """Each method that these units allow: SGD's gain is 1, a step of Newton's is a number."""
    damping = 0.5 * u.of("hessian")
    found = {
        "gain": st.Method(
            gain=lambda lam, damping, u: u / (abs(lam) + damping), name="any", damping=damping, u=1 / u.t
        )
    }
    if u.of("gain") == 1:
        found["SGD"] = st.SGD()
    if u.t == 1:
        found |= {
            "Newton": st.Newton(),
            "SFN": st.SFN(damping=damping),
            "LRSFN": st.LRSFN(rank=1, damping=damping, tail="flat"),
            "natural": st.gallery.natural_gradient(variance=1.0, eps=damping),
            "R-SFN": st.gallery.rsfn(eps=damping**2),
        }
    return found


def noise(u, **options):
    sizes = {"gradient": 0.125 * u.of("gradient"), "curvature": 0.0625 * u.of("hessian")}
    return st.Noise(**sizes | options)


def bowl(u, *eigenvalues):
    return st.quadratic([lam * u.of("hessian") for lam in eigenvalues], rotation_seed=1)


WELL = st.expression("x**4/4 - x**2/2", ["x"])
WELLS = st.expression("x**4/4 - x**2/2 + y**2 + x*y/4", ["x", "y"])


def linearized(u, method):
    flow = st.Flow(bowl(u, 2.0, 1.0, 0.25), methods(u)[method], noise(u), step=0.25 * u.t)
    lin = st.linearize(flow)
    start, spread = np.array([1.0, 0.5, 0.25]) * u.w, 0.25 * u.w**2 * np.eye(3)
    found = {
        "eigenvalues": (lin.eigenvalues, "hessian"),
        "gains": (lin.gains, "gain"),
        "rates": (lin.rates, "rate"),
        "amplification": (lin.amplification, "gain"),
        "validity": (lin.validity, "number"),
        "mean limit": (lin.step_limit("mean"), "time"),
        "limit": (lin.step_limit(), "time"),
        "second limit": (lin.step_limit(order=2), "time"),
        "shares": (list(lin.limit().shares.values()), "number"),
        "mode": (lin.limit().mode, "number"),
        "shift": (lin.mean_shift, "length"),
        "light tail": (lin.tail_exceeds_two, "number"),
    }
    for law in ("continuous", "chain", "discrete"):
        found[f"covariance, {law}"] = (lin.covariance(law), "square")
        found[f"risk, {law}"] = (lin.excess_risk(law), "value")
        mean, covariance = lin.moments(4 * u.t, start, spread, time=law)
        found |= {f"mean, {law}": (mean, "length"), f"moments, {law}": (covariance, "square")}
    found["corrected"] = (lin.covariance(order=2), "square")
    alone = st.linearize(st.Flow(bowl(u, 1.0), methods(u)[method], noise(u), step=0.25 * u.t))
    return found | {"tail": (alone.tail_index, "number")}


def one_mode(u, method, density=None):
    law = None if density is None else density(scale=0.25 * u.of("hessian"))
    mode = st.exact_mode(methods(u)[method], curvature=u.of("hessian"), noise=noise(u), density=law)
    step = 0.25 * u.t
    return {
        "limit": (mode.mean_square_limit, "time"),
        "growth": (mode.lyapunov(step).value, "number"),
        "moment": (mode.moment(3, step).value, "number"),
        "gain": (mode.gain_moment(1).value, "gain"),
        "variance": (mode.variance(step), "square"),
    }


def sure(u, method):
    mode = st.exact_mode(methods(u)[method], curvature=u.of("hessian"), noise=noise(u))
    return {"limit": (mode.almost_sure_limit, "time")}


def tail_of_one_mode(u, method):
    many = noise(u, curvature=0.5 * u.of("hessian"))
    mode = st.exact_mode(methods(u)[method], curvature=u.of("hessian"), noise=many)
    return {"tail": (mode.tail_index(0.25 * u.t), "number")}


def exits(u, rate):
    law = st.exit_time(rate=rate * u.of("rate"), diffusion=0.5 * u.of("diffusion"), radius=2 * u.w)
    return {
        "mean": (law.mean, "time"),
        "asymptotic": (law.asymptotic, "time"),
        "survival": (law.survival(np.array([0.5, 2.0, 8.0]) * u.t), "number"),
        "median": (law.quantile(0.5), "time"),
        "watched": (law.chain(0.25 * u.t).mean, "time"),
    }


def escaped(u, method):
    flow = st.Flow(bowl(u, 1.0, -0.5), methods(u)[method], noise(u, curvature=0.0), step=0.25 * u.t)
    found = st.escape(flow, radius=u.w, along="unstable", paths=64, seed=0, workers=1)
    return {
        "times": (found.times, "time"),
        "exits": (found.exits, "length"),
        "law": (found.mode.mean, "time"),
        "chain": (found.chain.survival(np.array([4, 16])), "number"),
    }


def ensemble(u, method, level, objective, start, **options):
    F = Scaled(objective, u) if objective is not None else bowl(u, 1.0, 0.25)
    flow = st.Flow(F, methods(u)[method], noise(u, reference=np.zeros(2)), step=0.125 * u.t)
    where = {"paths": 64, "seed": 0, "save": 4, "workers": 1, "accelerate": False}
    ens = st.simulate(flow, start=np.array(start) * u.w, t_end=4 * u.t, level=level, **where | options)
    return {
        "times": (ens.times, "time"),
        "states": (ens.states, "length"),
        "mean": (ens.mean, "length"),
        "covariance": (ens.covariance, "square"),
        "error": (ens.standard_error, "length"),
        "covariance error": (ens.covariance_error, "square"),
        "diverged": (ens.diverged, "number"),
        "diverged at": (ens.diverged_at, "time"),
        "exits": (ens.exit_times, "time"),
    }


def line(u, method, **options):
    flow = st.Flow(
        Scaled(WELL, u),
        methods(u)[method],
        noise(u, gradient=0.5 * u.of("gradient"), curvature=0.0),
        step=0.25 * u.t,
    )
    options = {name: value * u.t if name == "dt" else value for name, value in options.items()}
    found = st.stationary_density(flow, 2.5 * u.w, cells=40, **options)
    rates = found.kramers(-u.w, u.w)
    return {
        "density": (found.density, "density"),
        "mass": (found.mass, "number"),
        "mean": (found.mean, "length"),
        "covariance": (found.covariance, "square"),
        "drift": (found.drift, "drift"),
        "passage": (found.passage_time(-u.w, u.w), "time"),
        "well": (rates.well, "length"),
        "top": (rates.top, "length"),
        "over": (rates.mean, "time"),
    }


def plane(u, method):
    F = Scaled(WELLS, u)
    flow = st.Flow(
        F, methods(u)[method], noise(u, gradient=0.5 * u.of("gradient"), curvature=0.0), step=0.25 * u.t
    )
    found = st.stationary_density(flow, 2.5 * u.w, cells=24)
    return {"mass": (found.mass, "number"), "covariance": (found.covariance, "square")}


def exponents(u, method, level):
    flow = st.Flow(bowl(u, 1.0, 0.25), methods(u)[method], noise(u), step=0.25 * u.t)
    size = {"iterations": 40, "products": 20, "seed": 0, "level": level}
    found, limit = st.lyapunov_exponents(flow, **size), st.almost_sure_limit(flow, **size)
    return {
        "exponents": (found.exponents, "number"),
        "rates": (found.rates, "rate"),
        "mean square": (found.mean_square, "number"),
        "limit": (limit.limit, "time"),
        "error": (limit.error, "time"),
    }


def tails(u):
    found = st.tail_index(np.random.default_rng(0).standard_t(3, (600, 2)) * u.w)
    return {
        "index": (found.index, "number"),
        "hill": (found.hill, "number"),
        "error": (found.error, "number"),
    }


def eigenpairs(u, method):
    H = np.diag(0.75 ** np.arange(40.0)) * np.where(np.arange(40) % 3, 1, -1)
    found = st.randomized_eigh(lambda V: u.of("hessian") * (H @ V), 40, 6, method=method, seed=0)
    vector = found.vectors[:, 0] * np.sign(found.vectors[0, 0])
    return {
        "eigenvalues": (found.eigenvalues, "hessian"),
        "residual": (found.residual, "hessian"),
        "vector": (vector, "number"),
        "columns": (found.columns, "number"),
        "solved": (found.solve(np.ones(40) * u.of("gradient"), damping=0.5 * u.of("hessian")), "length"),
    }


X = np.random.default_rng(0).standard_normal((40, 3))
DATA = st.logistic(X, (X @ [1.0, -1.0, 0.5] > 0.3).astype(float), l2=0.125)


def run(u, method, **options):
    chosen = st.Adam(eps=0.125 * u.of("gradient")) if method == "Adam" else methods(u)[method]
    step = 0.25 * (u.w if method == "Adam" else u.t)  # Adam's step is a length
    found = st.minimize(
        Scaled(DATA, u),
        np.ones(3) * u.w,
        method=chosen,
        step=step,
        batch=10,
        iterations=30,
        seed=0,
        **options,
    )
    return {
        "losses": (found.losses, "value"),
        "final": (found.final, "length"),
        "eigenvalues": (found.eigenvalues, "hessian"),
        "limits": (found.step_limits, "time"),
        "status": (found.status == "done", "number"),
    }


def searched(u, method):
    found = st.minimize(Scaled(DATA, u), np.ones(3) * u.w, method=method, sweeps=60)
    return {"losses": (found.losses, "value"), "final": (found.final, "length")}


def data(u, logistic):
    """Of a table whose columns are in other units: the loss is a number, so F is one."""
    y = X @ [1.0, -1.0, 0.5] + np.cos(np.arange(40.0))
    if logistic:
        F = st.logistic(X / u.w, (y > 0.3).astype(float), l2=0.125 / u.w**2)
    else:
        F = st.least_squares(X / u.w, y)
    flow = st.Flow(F, methods(u)["gain"], st.Noise.from_data(F, batch=8), step=0.0625 * u.t)
    lin = st.linearize(flow)
    return {
        "at": (lin.at, "length"),
        "eigenvalues": (lin.eigenvalues, "hessian"),
        "limit": (lin.step_limit(), "time"),
        "covariance": (lin.covariance(), "square"),
        "risk": (lin.excess_risk(), "value"),
    }


def many_modes(u, method):
    lams = np.geomspace(1, 1e-3, 40) * u.of("hessian")
    shaken = noise(u, curvature=2.0**-7 * u.of("hessian"))
    lin = st.linearize(st.Flow(st.quadratic(lams), methods(u)[method], shaken, step=0.125 * u.t))
    mean, covariance = lin.moments(4 * u.t, np.ones(40) * u.w, time="continuous")
    return {
        "limit": (lin.step_limit(), "time"),
        "covariance": (lin.covariance(), "square"),
        "mean": (mean, "length"),
        "moments": (covariance, "square"),
    }


def pictured(u, method):
    found = st.portrait(
        Scaled(WELLS, u),
        2.0 * u.w,
        [methods(u)[method]],
        noise=noise(u, curvature=0.0),
        step=0.125 * u.t,
        t_end=2 * u.t,
        resolution=12,
    )
    return {
        "points": (found.points, "length"),
        "rates": (found.rates, "rate"),
        "basins": (found.basins, "number"),
    }


def critical(u):
    found = st.critical_points(Scaled(WELLS, u), 2.0 * u.w, starts=64)
    return {
        "states": (found.states, "length"),
        "values": (found.values, "value"),
        "eigenvalues": (found.eigenvalues, "hessian"),
        "hits": (found.hits, "number"),
        "kinds": ([one.index for one in found], "number"),
        "status": (found.status == "ok", "number"),
    }


def table(u, every=False):
    chosen = [one for name, one in methods(u).items() if name == "gain" or (every and name != "SGD")]
    found = st.bounds(bowl(u, 1.0, 0.25), noise(u), chosen, step=0.25 * u.t)
    kinds = {
        "step_limit": "time",
        "step_limit_L2": "time",
        "amplification": "gain",
        "excess_risk": "value",
        "excess_risk_L2": "value",
        "validity": "number",
        "valid_from": "number",
    }
    return {name: ([getattr(row, name) for row in found.rows], kind) for name, kind in kinds.items()}


def compared(u, method):
    flow = st.Flow(bowl(u, 1.0, 0.25), methods(u)[method], noise(u), step=0.125 * u.t)
    ens = st.simulate(flow, start=[u.w, u.w], t_end=4 * u.t, paths=64, workers=1, accelerate=False)
    along = st.trajectory(flow, ens.start[0], 4 * u.t, time="chain")
    found = [st.compare(theory, ens) for theory in (st.linearize(flow), along)]
    return {
        "mean": ([one.mean_z for one in found], "number"),
        "covariance": ([one.covariance_z for one in found], "number"),
    }


def derivatives(u):
    found = st.check_derivatives(Scaled(WELLS, u), np.array([0.5, -0.25]) * u.w)
    names = ("gradient", "hessian", "third", "hvp", "asymmetry", "ok")
    return {name: (getattr(found, name), "number") for name in names}


def path(u, method, **options):
    flow = st.Flow(Scaled(WELLS, u), methods(u)[method], noise(u, curvature=0.0), step=0.125 * u.t)
    found = st.trajectory(flow, np.array([0.5, 0.5]) * u.w, 0.5 * u.t, **options)
    return {"mean": (found.mean, "length"), "covariance": (found.covariance, "square")}


def freely(function, *names, **options):
    """A case for a gain of any unit of time, where the units of w, F and t are independent."""
    return partial(function, *names, method="gain", **options)


CASES = {
    "linearize": freely(linearized),
    "exact mode": freely(one_mode),
    "exact mode, a density": freely(one_mode, density=partial(scipy.stats.t, 6)),
    "exact mode, tail index": freely(tail_of_one_mode),
    "exact mode, almost sure": freely(sure),
    "exit time, saddle": partial(exits, rate=1.0),
    "exit time, minimum": partial(exits, rate=-0.5),
    "exit time, far": partial(exits, rate=16.0),
    "escape": freely(escaped),
    "simulate, quadratic": freely(ensemble, level="sde", objective=None, start=[1.0, 0.5]),
    "simulate, iteration": freely(ensemble, level="iteration", objective=None, start=[1.0, 0.5]),
    "simulate, wells": freely(ensemble, level="sde", objective=WELLS, start=[0.0, 0.0], exit=None),
    "simulate, wells, iteration": freely(ensemble, level="iteration", objective=WELLS, start=[0.5, 0.0]),
    "density, line": freely(line),
    "density, chain": freely(line, time="chain", dt=0.25),
    "density, plane": freely(plane),
    "lyapunov, iteration": freely(exponents, level="iteration"),
    "lyapunov, sde": freely(exponents, level="sde"),
    "tail index": tails,
    "eigenpairs": partial(eigenpairs, method="block-krylov"),
    "eigenpairs, nystrom": partial(eigenpairs, method="nystrom"),
    "eigenpairs, double-pass": partial(eigenpairs, method="double-pass"),
    "minimize": freely(run),
    "minimize, momentum": freely(run, momentum=0.5),
    "minimize, Adam": partial(run, method="Adam"),
    "minimize, L-BFGS-B": partial(searched, method="L-BFGS-B"),
    "minimize, Newton-CG": partial(searched, method="Newton-CG"),
    "data, least squares": partial(data, logistic=False),
    "data, logistic": partial(data, logistic=True),
    "linearize, many modes": freely(many_modes),
    "portrait": freely(pictured),
    "critical points": critical,
    "bounds": table,
    "compare": freely(compared),
    "derivatives": derivatives,
    "trajectory": freely(path),
    "trajectory, chain": freely(path, time="chain"),
}
FIXED = (
    {  # SGD's time is w^2 / F, and Newton's step a number: their units are not independent
        f"{name}, {method}": partial(CASES[name].func, **CASES[name].keywords | {"method": method})
        for method in ("SGD", "Newton", "SFN", "LRSFN", "natural", "R-SFN")
        for name in ("linearize", "minimize", "simulate, quadratic")
        if (name, method) != ("minimize", "natural")  # which is for convex spectra
    }
    | {
        f"{name}, {method}": partial(CASES[name].func, **CASES[name].keywords | {"method": method})
        for method in ("SGD", "SFN")
        for name in ("exact mode", "lyapunov, iteration", "density, line", "trajectory", "simulate, wells")
    }
    | {"bounds, all": partial(table, every=True)}
)


def units(name, powers):
    """The units that a case may be asked in."""
    w, F, t = (2.0**power for power in powers)
    F = 1.0 if name.startswith("data") else F
    return Units(w, F, w**2 / F if name.endswith("SGD") else 1.0 if name in FIXED else t)


@functools.cache
def plain(name):
    return {**CASES, **FIXED}[name](Units())


def same(name, u):
    """The answers in other units, read in plain ones."""
    for what, (found, kind) in {**CASES, **FIXED}[name](u).items():
        want = np.asarray(plain(name)[what][0], dtype=float)
        got = np.asarray(found, dtype=float) / u.of(kind)
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12, err_msg=f"{what} in {u}")


FAR = [(40, -40, 20), (-40, 20, -40)]
LONG = {
    "exact mode, almost sure",
    "exact mode, tail index",
    "exact mode, a density",
    "trajectory",
    "trajectory, SGD",
    "trajectory, SFN",
    "density, chain",
    "portrait",
    "bounds, all",
}
BOTH = ("lyapunov, iteration", "critical points")
USUAL = [(name, FAR[k % 2]) for k, name in enumerate((*CASES, *FIXED)) if name not in LONG | {*BOTH}]
USUAL += [(name, powers) for name in BOTH for powers in FAR]


@pytest.mark.parametrize(("name", "powers"), USUAL)
def test_in_other_units_the_answer_is_the_same(name, powers):
    same(name, units(name, powers))


EVERY = list(
    zip((-40, -20, -10, 10, 20, 40), (-10, 20, -40, 40, -20, 10), (20, -10, 40, -20, 10, -40), strict=True)
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "powers"),
    [(name, one) for name in (*CASES, *FIXED) for one in (EVERY[::3] if name in LONG else EVERY)],
)
def test_in_every_unit_the_answer_is_the_same(name, powers):
    same(name, units(name, powers))


@pytest.mark.parametrize("name", [name for name, _ in USUAL])
def test_each_case_says_something(name):
    """Numbers, not nothing: most of what is compared is finite."""
    told = [np.isfinite(np.asarray(found, dtype=float)).any() for found, _ in plain(name).values()]
    assert np.mean(told) > 0.5
