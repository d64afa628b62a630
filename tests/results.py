"""One result of every kind, small and quick: what the tests of showing, saving and frames look at."""

import numpy as np

import stability as st


def flow(method=None, step=0.1):
    return st.Flow(st.quadratic([1.0, 0.1]), method or st.SGD(), st.Noise(gradient=0.1), step=step)


def one_of_each():
    """By the name of its class."""
    return {type(result).__name__: result for result in (*_linear(), *_paths(), *_landscapes(), *_others())}


def _linear():
    linear = st.linearize(flow())
    bounds = st.bounds(st.quadratic([1.0]), st.Noise(), [st.SGD(), st.Newton()], step=0.1)
    mode = st.exact_mode(st.SFN(damping=0.1), curvature=0.5, noise=st.Noise(curvature=0.1))
    theorem = st.theorem("damping")
    yield from (linear, linear.limit(), bounds, bounds.rows[0], mode, mode.moment(2, step=0.5))
    yield from (
        theorem,
        theorem.check(points=2, ensemble=False),
        st.gallery.method_table([st.SFN(damping=0.1)]),
    )


def _paths():
    options = {"paths": 200, "seed": 0, "save": [0.0, 1.0, 2.0], "quantiles": [0.5], "exit": 1.5}
    ensemble = st.simulate(
        flow(), start=[1.0, 0.0], t_end=2.0, observables={"F": lambda w: w[:, 0]}, **options
    )
    path = st.trajectory(flow(), [1.0, 0.0], 2.0, save=[0.0, 1.0, 2.0], time="chain", dt=0.1)
    yield from (ensemble, st.compare(st.linearize(flow()), ensemble), path, path.departure(ensemble))
    yield st.tail_index(np.random.default_rng(0).standard_t(3, 500))
    yield from (st.lyapunov_exponents(flow(), iterations=50), st.almost_sure_limit(flow(), iterations=50))
    saddle = st.Flow(st.quadratic([1.0, -0.5]), st.SGD(), st.Noise(gradient=0.1), step=0.05)
    yield st.escape(saddle, [0.0, 0.0], radius=0.2, along="unstable", paths=200, seed=0)
    yield st.exit_time(rate=0.5, diffusion=0.01, radius=1.0)


def _landscapes():
    plane, line = st.expression("x^4/4 - x^2/2 + y^2"), st.expression("x^4/4 - x^2/2")
    points = st.critical_points(plane, 2, starts=64)
    yield from (points, points[0], st.check_derivatives(plane, [0.5, 0.5]))
    yield st.portrait(plane, 2, [st.SGD()], resolution=16, paths=2)
    yield st.profile(line, 2, [st.SGD()], paths=200, t_end=1.0)
    density = st.stationary_density(st.Flow(line, st.SGD(), st.Noise(gradient=1.0), step=0.2), 2)
    sample = np.random.default_rng(0).normal(size=50)
    yield from (density, density.kramers(-1, 1), density.total_variation(sample))


def _others():
    seen = np.array([[200, 0.1, 0.5, 2.0, 4.0, 1.0], [400, 0.1, 0.08, 1.0, 8.0, 0.5]]).T
    yield st.results.Watched("SGD", seen[0].astype(int), *seen[1:], batch=32, samples=64)
    yield st.advise(
        st.quadratic([1.0, 0.1]), [1.0, 0.5], step=0.1, noise=st.Noise(gradient=0.1, curvature=0.1)
    )
    eig = st.randomized_eigh(lambda block: np.diag([3.0, 2.0, 1.0]) @ block, 3, 2)
    yield from (eig, st.spectrum(st.quadratic(np.linspace(1.0, 2.0, 40))))
    yield st.minimize(st.quadratic([1.0, 0.1]), [1.0, 1.0], method=st.SGD(), step=0.5, sweeps=8)
    X, y = np.array([[-1.0, 1.0], [1.0, 1.0]]), np.array([0, 1])
    yield st.results.Table(X, y, ("length", "intercept"), target="kind")
    yield st.results.Dataset("corners", [[0.0, 0.0], [1.0, 1.0]] * 5, [0, 1] * 5, ("low", "high"), (1, 2))
    yield st.Study("decay", {"t": np.arange(3.0)}, {"seed": 0})
