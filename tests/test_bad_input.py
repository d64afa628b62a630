"""Bad input gets one clear error: what must be given, what was given, and what to do."""

import inspect
import math

import numpy as np
import pytest

import stability as st

NAN, INF = math.nan, math.inf
NOT_POSITIVE = [0, -1, NAN, True, "0.1"]
RNG = np.random.default_rng(0)
X = RNG.standard_normal((20, 2))
Y = (X[:, 0] + RNG.standard_normal(20) > 0).astype(float)
DATA = st.logistic(X, Y, l2=0.1)
VALLEY = st.quadratic([1.0, 0.1])


def flow(method=None, objective=VALLEY, noise=None, step=0.1):
    return st.Flow(objective, method or st.SGD(), noise, step=step)


def linear(method=None, spectrum=(1.0, 0.1), noise=None, step=0.1):
    return st.linearize(flow(method, st.quadratic(spectrum), noise or st.Noise(gradient=1.0), step))


def simulate(a_flow=None, **options):
    return st.simulate(
        a_flow or flow(noise=st.Noise(gradient=1.0)),
        **{"start": [0.0, 0.0], "t_end": 1.0, "paths": 4, "seed": 0, **options},
    )


class Stop:
    """Ctrl-C after three iterations."""

    left = 3

    def __call__(self, progress):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


class Users(st.Objective):
    """A user's own quadratic in two dimensions, with whatever Hessian and gradient it is told to give."""

    dim = 2
    reference = np.zeros(2)

    def __init__(self, matrix, gradient=None):
        self.matrix, self.slope = np.array(matrix, dtype=float), gradient

    def value(self, w):
        return np.zeros(np.shape(w)[:-1])

    def gradient(self, w):
        return np.zeros_like(w) if self.slope is None else self.slope(w)

    def hessian(self, w):
        return np.broadcast_to(self.matrix, (*np.shape(w)[:-1], *self.matrix.shape))

    def third(self, w, v):
        return np.zeros((*np.shape(w), 2))


def cases(*rows):
    """One test per row: a call, the message it must raise, and its kind if not ValueError."""
    return pytest.mark.parametrize(
        ("call", "message"), [pytest.param(call, message, id=name) for name, call, message in rows]
    )


class TestArrays:
    @cases(
        ("nan", lambda: st.quadratic([1.0, NAN]), r"`spectrum` must be finite; 1 of its 2 entries"),
        ("words", lambda: st.quadratic("abc"), r"`spectrum` must be an array of numbers; got 'abc'"),
        ("complex", lambda: st.quadratic(np.array([1.0 + 2.0j])), r"`spectrum` must be an array of numbers"),
        (
            "number",
            lambda: st.quadratic(1.0),
            r"`spectrum` must have shape \(d,\) or \(d, d\); got shape \(\)",
        ),
        (
            "stack",
            lambda: st.quadratic(np.ones((1, 2, 2))),
            r"`spectrum` must have shape .*; got shape \(1, 2, 2\)",
        ),
        (
            "oblong",
            lambda: st.quadratic(np.ones((2, 3))),
            r"`spectrum` must have shape .*; got shape \(2, 3\)",
        ),
        ("nothing", lambda: st.quadratic([]), r"at least one eigenvalue"),
        (
            "rotation",
            lambda: st.quadratic([1.0], rotation_seed=-1),
            r"`rotation_seed` must be an integer >= 0; got -1",
        ),
    )
    def test_of_a_quadratic(self, call, message):
        with pytest.raises(ValueError, match=message):
            call()

    @pytest.mark.parametrize("model", [st.logistic, st.least_squares])
    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ((X[:, 0], Y), r"`X` must have shape \(n, d\); got shape \(20,\)"),
            ((X, X), r"`y` must have shape \(n,\); got shape \(20, 2\)"),
            ((X, Y[:5]), r"`y` must have one entry per row of `X` \(20\); got 5"),
            (
                (X + NAN, Y),
                r"`X` must be finite; 40 of its 40 entries are nan or infinite. Remove or impute them",
            ),
            ((X, np.where(Y > 0, INF, 0.0)), r"`y` must be finite"),
            ((X[:, :0], Y), r"`X` must hold at least one sample and one column; got shape \(20, 0\)"),
            (("words", Y), r"`X` must be an array of numbers; got 'words'"),
        ],
        ids=["one-axis", "two-axes", "lengths", "nan", "inf", "no-columns", "words"],
    )
    def test_of_a_regression(self, model, arrays, message):
        with pytest.raises(ValueError, match=message):
            model(*arrays)

    @cases(
        (
            "one class",
            lambda: st.logistic(X, np.ones(20)),
            r"`y` must hold two classes or more; got 1 \(1\)",
        ),
        (
            "many classes",
            lambda: st.logistic(X, np.arange(20)),
            r"got 20 values on 20 samples \(0, 1, 2, 3, \.\.\.\)",
        ),
        ("ridge below 0", lambda: st.logistic(X, Y, l2=-1), r"`l2` must be a finite number >= 0; got -1"),
        (
            "ridge of nan",
            lambda: st.least_squares(X, Y, l2=NAN),
            r"`l2` must be a finite number >= 0; got nan",
        ),
        (
            "collinear",
            lambda: st.least_squares(X[:, [0, 0]], Y).reference,
            r"no isolated minimum .* Drop one of them, or use l2 > 0",
        ),
    )
    def test_of_a_regressions_labels_and_ridge(self, call, message):
        with pytest.raises(ValueError, match=message):
            call()

    @cases(
        ("nan", lambda: st.Noise(gradient=NAN), r"`gradient` must be finite"),
        (
            "below 0",
            lambda: st.Noise(gradient=[1.0, -2.0]),
            r"`gradient` must hold standard deviations >= 0; got a smallest entry of -2",
        ),
        (
            "three axes",
            lambda: st.Noise(gradient=np.ones((1, 1, 1))),
            r"`gradient` must have shape \(\), \(d,\) or \(d, d\)",
        ),
        (
            "not symmetric",
            lambda: st.Noise(gradient=[[1, 0.5], [0, 1]]),
            r"`gradient` must be symmetric; .* is 0.5 against entries up to 1",
        ),
        (
            "indefinite",
            lambda: st.Noise(gradient=[[1, 2], [2, 1]]),
            r"`gradient` must be positive semidefinite; its smallest eigenvalue is -1",
        ),
        ("0 x 0", lambda: st.Noise(gradient=np.zeros((0, 0))), r"`gradient` must"),
        (
            "other dim",
            lambda: flow(noise=st.Noise(gradient=[1.0, 2.0, 3.0])),
            r"`gradient` noise was given for 3 dimensions; the objective has 2",
        ),
        (
            "sampled elsewhere",
            lambda: st.Noise(gradient=[1.0]).factors(np.zeros(2)),
            r"`gradient` was given for 1 dimension; the state has 2",
        ),
        (
            "reference",
            lambda: st.Noise(reference=[[0.0]]),
            r"`reference` must have shape \(d,\); got shape \(1, 1\)",
        ),
        (
            "reference dim",
            lambda: flow(noise=st.Noise(curvature=1, reference=np.zeros(3))),
            r"`reference` has 3 entries; the objective has 2 dimensions",
        ),
        (
            "curvature",
            lambda: st.Noise(curvature=-0.1),
            r"`curvature` must be a finite number >= 0; got -0.1",
        ),
        (
            "curvature inf",
            lambda: st.Noise(curvature=INF),
            r"`curvature` must be a finite number >= 0; got inf",
        ),
    )
    def test_of_noise(self, call, message):
        with pytest.raises(ValueError, match=message):
            call()

    @pytest.mark.parametrize(
        ("point", "message"),
        [
            ([0.0], r"must have shape .*; got (shape )?\(1,\)"),
            ([NAN, 0.0], r"must be finite; 1 of its 2 entries"),
            (np.zeros((3, 3, 2)), r"must have shape .*; got (shape )?\(3, 3, 2\)"),
            ("a", r"must be an array of numbers; got 'a'"),
        ],
        ids=["short", "nan", "axes", "word"],
    )
    @pytest.mark.parametrize(
        ("name", "call"),
        [
            ("start", lambda point: simulate(start=point)),
            ("at", lambda point: st.linearize(flow(), at=point)),
            ("at", lambda point: st.Noise.from_data(DATA, point, 4)),
            ("mean0", lambda point: linear().moments(1.0, point)),
        ],
        ids=["simulate", "linearize", "from_data", "moments"],
    )
    def test_of_a_point(self, name, call, point, message):
        with pytest.raises(ValueError, match=f"`{name}` {message}"):
            call(point)

    def test_of_one_start_per_path_for_other_paths(self):
        with pytest.raises(ValueError, match=r"`start` must have shape \(2,\) or \(4, 2\); got \(3, 2\)"):
            simulate(start=np.zeros((3, 2)))

    @pytest.mark.parametrize(
        "call",
        [lambda w: flow().iterate(w, np.random.default_rng(0)), lambda w: st.check_derivatives(VALLEY, w)],
    )
    def test_of_a_state(self, call):
        with pytest.raises(
            ValueError,
            match=r"must have shape \(\.\.\., 2\), the last axis being the state; got shape \(3,\)",
        ):
            call([0.0, 0.0, 0.0])

    @cases(
        (
            "shape",
            lambda: linear().moments(1.0, cov0=[1.0, 2.0]),
            r"`cov0` must have shape .*; got shape \(2,\)",
        ),
        (
            "other dim",
            lambda: linear().moments(1.0, cov0=np.eye(3)),
            r"`cov0` must have shape .*; got shape \(3, 3\)",
        ),
        (
            "indefinite",
            lambda: linear().moments(1.0, cov0=[[1, 2], [2, 1]]),
            r"`cov0` must be positive semidefinite; its smallest eigenvalue is -1",
        ),
    )
    def test_of_a_starting_covariance(self, call, message):
        with pytest.raises(ValueError, match=message):
            call()


class TestHessian:
    @pytest.mark.parametrize(
        ("matrix", "message"),
        [
            (
                [[1, 0.25], [0, 1]],
                r"`hessian` must be symmetric; its largest \|H_ij - H_ji\| is 0.25 against entries up to "
                r"1.*st\.check_derivatives",
            ),
            ([[1, 0], [0, NAN]], r"`hessian` must be finite; 1 of its 4 entries"),
            (np.eye(3), r"`hessian` must have shape .*; got shape \(3, 3\)"),
        ],
        ids=["asymmetric", "nan", "shape"],
    )
    @pytest.mark.parametrize(
        "use", [st.linearize, lambda f: simulate(f, start=[1.0, 1.0])], ids=["linearize", "simulate"]
    )
    def test_of_a_users_objective_is_checked(self, use, matrix, message):
        with pytest.raises(ValueError, match=message):
            use(flow(st.SFN(damping=0.1), Users(matrix)))

    @pytest.mark.parametrize(
        "use", [st.linearize, lambda f: simulate(f, start=[1.0, 1.0])], ids=["linearize", "simulate"]
    )
    def test_a_users_gradient_of_another_shape_is_an_error(self, use):
        with pytest.raises(ValueError, match=r"`gradient` must have shape"):
            use(flow(objective=Users(np.eye(2), lambda w: np.zeros(3))))

    @pytest.mark.parametrize("part", ["gradient", "hessian"])
    def test_a_users_objective_for_one_state_only_is_told_of_the_batch(self, part):
        single = Users(np.diag([1.0, 2.0]))
        setattr(
            single, part, (lambda w: single.matrix @ w) if part == "gradient" else (lambda w: single.matrix)
        )
        with pytest.raises(ValueError, match=rf"`{part}` must take leading axes as batch"):
            simulate(flow(objective=single), start=[1.0, 1.0])

    def test_a_matrix_that_is_not_symmetric_is_refused(self):
        with pytest.raises(
            ValueError,
            match=r"`spectrum` must be symmetric; its largest \|H_ij - H_ji\| is 1 against entries up to 4",
        ):
            st.quadratic([[1, 2], [3, 4]])

    def test_rounding_is_not_asymmetry(self):
        assert st.quadratic([[1, 0.5], [0.5 + 1e-12, 1]]).hessian(np.zeros(2))[0, 1] == pytest.approx(0.5)

    @pytest.mark.parametrize(
        "use", [st.linearize, lambda f: simulate(f, start=np.ones(f.dim))], ids=["linearize", "simulate"]
    )
    @pytest.mark.parametrize(
        ("method", "objective", "directions"),
        [
            (st.Newton(), st.quadratic([1.0, 0.0, 0.0]), "Newton along 2 of 3"),
            (st.Newton(), st.quadratic([1.0, 0.5, 0.0], rotation_seed=1), "Newton along 1 of 3"),
            (st.DampedNewton(damping=0.5), st.quadratic([1.0, -0.5]), "damped Newton along 1 of 2"),
        ],
        ids=["Newton", "Newton-rotated", "damped-Newton"],
    )
    def test_a_singular_gain_names_how_many_directions_and_suggests_sfn(
        self, use, method, objective, directions
    ):
        with pytest.raises(
            ValueError,
            match=rf"The curvature is singular for {directions} directions: .* use st\.SFN\(damping=\.\.\.\)",
        ):
            use(flow(method, objective))

    def test_newton_at_a_degenerate_saddle_is_singular_in_every_direction(self):
        with pytest.raises(ValueError, match="Newton along 2 of 2 directions"):
            st.linearize(flow(st.Newton(), st.landscape("monkey_saddle")))

    @pytest.mark.parametrize("method", [st.SGD(), st.SFN(damping=1e-3)], ids=["SGD", "SFN"])
    def test_bounded_gains_are_never_called_singular(self, method):
        assert np.isfinite(st.linearize(flow(method, st.quadratic([1e16, 1e-3]))).gains).all()

    def test_away_from_a_critical_point_the_error_names_the_trajectory(self):
        with pytest.raises(
            ValueError,
            match=r"`at` must be a critical point; the gradient there has norm 1 \(curvature 1\)\. Use "
            r"st\.trajectory",
        ):
            st.linearize(flow(), at=[1.0, 0.0])

    def test_without_a_reference_the_point_must_be_given(self):
        with pytest.raises(
            ValueError,
            match="`at` must be given: landscape 'michalewicz' in 2 dimensions has no reference point",
        ):
            st.linearize(flow(objective=st.landscape("michalewicz")))


class TestNumbers:
    @pytest.mark.parametrize("value", [*NOT_POSITIVE, INF], ids=str)
    @pytest.mark.parametrize(
        ("name", "call"),
        [
            ("step", lambda v: flow(step=v)),
            ("damping", lambda v: st.SFN(damping=v)),
            ("damping", lambda v: st.DampedNewton(damping=v)),
            ("damping", lambda v: st.LRSFN(rank=1, damping=v)),
            ("dt", lambda v: simulate(dt=v)),
            ("t_end", lambda v: simulate(t_end=v)),
            ("radius", lambda v: simulate(radius=v)),
            ("exit", lambda v: simulate(exit=v)),
            ("dt", lambda v: linear().covariance("chain", v)),
        ],
        ids=["step", "SFN", "DampedNewton", "LRSFN", "dt", "t_end", "radius", "exit", "chain"],
    )
    def test_must_be_positive_and_finite(self, name, call, value):
        with pytest.raises(ValueError, match=f"`{name}` must be a finite number > 0; got {value!r}"):
            call(value)

    @pytest.mark.parametrize("digits", [400, 5000])
    @pytest.mark.parametrize(
        ("name", "call"),
        [
            ("step", lambda v: flow(step=v)),
            ("damping", lambda v: st.SFN(damping=v)),
            ("power", lambda v: st.gallery.fractional(power=v)),
            ("l2", lambda v: st.least_squares(np.eye(2), [0.0, 1.0], l2=v)),
            ("curvature", lambda v: st.Noise(curvature=v)),
            ("rate", lambda v: st.exit_time(rate=v, diffusion=1.0, radius=1.0)),
            ("spectrum", lambda v: st.quadratic([v, 1.0])),
            ("start", lambda v: st.minimize(st.quadratic([1.0]), [v], method=st.SGD(), step=0.1)),
            ("t_end", lambda v: simulate(t_end=v)),
            ("paths", lambda v: simulate(paths=v)),
            ("save", lambda v: simulate(save=v)),
            ("t", lambda v: linear().moments(v, [1.0, 0.0], np.eye(2), time="chain", dt=0.1)),
            ("dim", lambda v: st.landscape("rosenbrock", dim=v)),
            ("hidden", lambda v: st.mlp(np.eye(2), [0, 1], hidden=(v,))),
            ("classes", lambda v: st.logistic(np.eye(2), [0, 1], classes=v)),
            (
                "iterations",
                lambda v: st.minimize(st.quadratic([1.0]), [1.0], method=st.SGD(), step=0.1, iterations=v),
            ),
            (
                "average",
                lambda v: st.minimize(
                    st.quadratic([1.0]), [1.0], method=st.SGD(), step=0.1, iterations=1, average=v
                ),
            ),
            ("'a'", lambda v: st.expression("a*x^2", a=v)),
        ],
        ids=lambda one: one if isinstance(one, str) else "",
    )
    def test_whole_numbers_that_no_float_holds_are_refused(self, name, call, digits):
        for sign in (1, -1):
            with pytest.raises(ValueError, match=f"{name}.*(must (be|hold)|time steps)"):
                call(sign * 10**digits)

    @pytest.mark.slow
    def test_seeds_may_have_any_length(self):
        seed = 2**300 + 1
        assert st.quadratic([1.0, 2.0], rotation_seed=seed).dim == 2
        assert simulate(seed=seed).states.shape == simulate(seed=0).states.shape
        with pytest.raises(ValueError, match="`seed` must be an integer >= 0; got -1"):
            st.mlp(np.eye(2), [0, 1], hidden=(2,)).initial(-1)

    def test_powers_of_any_size_are_taken_at_once(self):
        one = st.Method(gain=lambda lam: lam**200 / lam**199)
        assert st.linearize(flow(method=one)).rates == pytest.approx([-1.0, -0.01])
        assert st.gallery.fractional(power=1e300).gains(np.array([0.5])) == [np.inf]

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda: st.SFN(0.1), "`SFN` takes `damping` by name: write SFN(damping=0.1)."),
            (lambda: st.LRSFN(3, 0.1), "takes `rank`, `damping` by name: write LRSFN(rank=3, damping=0.1)."),
            (lambda: st.LRSFN(3, damping=0.1), "takes `rank` by name: write LRSFN(rank=3)."),
            (lambda: st.Noise(0.1), "write Noise(gradient=0.1)."),
            (lambda: st.Noise.wishart(np.eye(2), 4), "write Noise.wishart(..., samples=4)."),
            (lambda: st.Flow(st.quadratic([1.0]), st.SGD(), None, 0.1), "write Flow(..., step=0.1)."),
            (lambda: st.landscape("rosenbrock", 3), "write landscape(..., dim=3)."),
            (lambda: st.exit_time(0.5, 0.1, 1.0), "write exit_time(rate=0.5, diffusion=0.1, radius=1.0)."),
            (lambda: st.simulate(flow(), [1.0, 0.0], 1.0), "(..., start=[1.0, 0.0], t_end=1.0)."),
            (
                lambda: st.minimize(st.quadratic([1.0]), [1.0], st.SGD(), 0.1),
                "(..., method=SGD(), step=0.1).",
            ),
            (lambda: st.gallery.newsamp(3), "write newsamp(rank=3)."),
        ],
        ids=lambda one: one if isinstance(one, str) else "",
    )
    def test_what_goes_by_name_is_named(self, call, message):
        with pytest.raises(TypeError) as told:
            call()
        assert str(told.value).endswith(message)

    def test_everything_public_that_takes_names_says_them(self):
        """By one decorator, which no public function or constructor with such arguments is without."""
        for name in st.__all__:
            function = getattr(st, name)
            if inspect.isclass(function):
                function = function.__init__
            if not inspect.isfunction(function) or name in ("save", "Unstable"):
                continue
            kinds = [parameter.kind for parameter in inspect.signature(function).parameters.values()]
            if inspect.Parameter.KEYWORD_ONLY in kinds:
                told = f"{name} needs @_check.by_name"
                assert function.__code__.co_filename.endswith("_check.py"), told

    def test_work_without_end_is_what_was_asked_for(self):
        found = st.minimize(DATA, np.zeros(2), method=st.SGD(), step=0.1, sweeps=1e308, iterations=2)
        assert len(found.losses) == 2
        stop = Stop()
        with pytest.raises(st.Interrupted) as told:
            st.minimize(DATA, np.zeros(2), method=st.SGD(), step=0.1, sweeps=1e308, callback=stop)
        assert len(told.value.result.losses) == 3

    def test_numbers_that_are_times_beyond_all_steps_are_refused(self):
        with pytest.raises(ValueError, match=r"`t` = 1e\+308 is inf time steps of 0\.1"):
            linear().moments(1e308, [1.0, 0.0], np.eye(2), time="chain", dt=0.1)

    @pytest.mark.parametrize("value", NOT_POSITIVE, ids=str)
    @pytest.mark.parametrize("name", ["batch", "hessian_batch"])
    def test_batches_must_be_positive(self, name, value):
        with pytest.raises(ValueError, match=f"`{name}` must be a number > 0; got {value!r}"):
            st.Noise(**{name: value})

    @pytest.mark.parametrize("value", [*NOT_POSITIVE, INF, 2.5, 21], ids=str)
    @pytest.mark.parametrize("name", ["batch", "hessian_batch"])
    def test_batches_of_data_are_whole_and_no_larger_than_the_data(self, name, value):
        with pytest.raises(
            ValueError,
            match=rf"`{name}` must be an integer >= 1 and <= 20 \(drawn without replacement\); got {value!r}",
        ):
            st.Noise.from_data(DATA, **{"batch": 4, name: value})

    def test_with_replacement_a_batch_may_be_larger_than_the_data(self):
        assert st.Noise.from_data(DATA, batch=21, replacement=True).batch == 21

    @pytest.mark.parametrize(
        "make", [st.Noise, lambda **k: st.Noise.from_data(DATA, **k)], ids=["Noise", "from_data"]
    )
    def test_a_nested_hessian_batch_lies_inside_the_batch(self, make):
        with pytest.raises(
            ValueError,
            match=r"nested Hessian batch lies inside .* `hessian_batch` must be <= `batch` = 4; got 5",
        ):
            make(batch=4, hessian_batch=5, coupling="nested")
        assert make(batch=4, hessian_batch=5).hessian_batch == 5

    @pytest.mark.parametrize("value", [0, -1, 1.5, NAN, True, "1"], ids=str)
    def test_a_rank_is_a_whole_number_of_at_least_one(self, value):
        with pytest.raises(ValueError, match=f"`rank` must be an integer >= 1; got {value!r}"):
            st.LRSFN(rank=value, damping=0.1)

    def test_a_rank_is_at_most_the_dimension(self):
        with pytest.raises(ValueError, match="`rank` must be <= the objective's dimension 2; got 3"):
            flow(st.LRSFN(rank=3, damping=0.1))
        with pytest.raises(ValueError, match="`rank` must be <= the dimension 2; got 3"):
            st.LRSFN(rank=3, damping=0.1).gains([1.0, 0.5])

    @pytest.mark.parametrize(
        ("name", "value"),
        [("paths", 0), ("paths", 2.5), ("paths", True), ("seed", -1), ("seed", None), ("workers", 0)],
    )
    def test_counts_of_a_simulation_are_whole(self, name, value):
        with pytest.raises(ValueError, match=rf"`{name}` must be an integer >= [01]; got {value}"):
            simulate(**{name: value})


class TestNames:
    @pytest.mark.parametrize("name", ["saddle", 3, None, ["rosenbrock"]], ids=str)
    def test_an_unknown_landscape_lists_the_known_ones(self, name):
        with pytest.raises(
            ValueError,
            match="`name` must be one of double_well, coupled_quartic, monkey_saddle, rosenbrock, "
            "michalewicz; got",
        ):
            st.landscape(name)

    @pytest.mark.parametrize("dim", [0, 1, 3, 2.0, True])
    def test_a_landscape_exists_in_its_dimensions_only(self, dim):
        with pytest.raises(ValueError, match=rf"`dim` must be 2 for monkey_saddle; got {dim}"):
            st.landscape("monkey_saddle", dim=dim)

    @pytest.mark.parametrize("method", ["SGD", st.SFN, None], ids=str)
    def test_an_unknown_method_lists_the_known_ones(self, method):
        known = (
            r"st\.SGD\(\), st\.Newton\(\), st\.DampedNewton\(damping=\.\.\.\), st\.SFN\(.*\), "
            r"st\.LRSFN\(.*\), st\.Method\(gain=\.\.\.\), st\.Momentum\(\.\.\.\)"
        )
        with pytest.raises(ValueError, match=f"`method` must be one of {known}; got"):
            st.Flow(VALLEY, method, step=0.1)

    @cases(
        (
            "tail",
            lambda: st.LRSFN(rank=1, damping=1.0, tail="x"),
            "`tail` must be one of damping, flat; got 'x'",
        ),
        (
            "coupling",
            lambda: st.Noise(coupling="x"),
            "`coupling` must be one of independent, nested; got 'x'",
        ),
        ("level", lambda: simulate(level="x"), "`level` must be one of sde, iteration; got 'x'"),
        (
            "time",
            lambda: linear().covariance("x"),
            "`time` must be one of continuous, chain, discrete; got 'x'. The iteration's is discrete;",
        ),
        ("theory level", lambda: linear().covariance(order="x"), "`order` must be one of 1, 2; got 'x'"),
        ("limit", lambda: linear().step_limit("x"), "`kind` must be one of mean, mean-square; got 'x'"),
    )
    def test_an_unknown_choice_lists_the_known_ones(self, call, message):
        with pytest.raises(ValueError, match=message):
            call()

    @cases(
        (
            "objective",
            lambda: st.Flow([1.0, 2.0], st.SGD(), step=0.1),
            r"`objective` lacks dim, gradient, hessian, which st\.Flow needs; got \[1\.0, 2\.0\]\. Give it",
        ),
        ("noise", lambda: flow(noise=0.1), r"`noise` must be .*st\.Noise\(.*; got 0\.1"),
        (
            "no samples",
            lambda: st.Noise.from_data(VALLEY),
            r"`F` lacks .*n_samples, which Noise\.from_data needs; got quadratic .*Use st\.logistic",
        ),
        (
            "no methods",
            lambda: st.bounds(VALLEY, st.Noise(), [], step=0.1),
            "`methods` must hold at least one method",
        ),
    )
    def test_an_object_of_another_kind_is_refused(self, call, message):
        with pytest.raises(ValueError, match=message):
            call()

    @pytest.mark.parametrize("part", ["value", "gradient", "hessian", "third"])
    def test_a_part_that_a_users_objective_lacks_is_named(self, part):
        class Lacking(st.Objective):
            dim = 1

        arguments = (np.zeros(1), np.zeros(1)) if part == "third" else (np.zeros(1),)
        with pytest.raises(ValueError, match=rf"`objective` lacks {part}, which .*; got .*Give it {part}\(w"):
            getattr(Lacking(), part)(*arguments)

    def test_only_lrsfn_has_a_tail(self):
        with pytest.raises(TypeError, match="SFN keeps every eigenvalue: it has no tail"):
            st.SFN(damping=1.0).tail_gain(0.1)


class TestTimes:
    @cases(
        (
            "not a multiple",
            lambda: simulate(t_end=0.95),
            r"`t_end` must be a multiple of the time step 0\.1; got 0\.95\. Try 0\.9\.",
        ),
        (
            "less than one",
            lambda: simulate(t_end=0.01),
            r"`t_end` must be a multiple of the time step 0\.1; got 0\.01\. Try 0\.1\.",
        ),
        (
            "endless",
            lambda: simulate(t_end=1e9),
            r"`t_end` = 1e\+09 is 1e\+10 time steps of 0\.1; at most 1e\+09 are taken",
        ),
        ("of dt", lambda: simulate(dt=0.3), r"`t_end` must be a multiple of the time step 0\.3; got 1\."),
        (
            "iteration",
            lambda: simulate(dt=0.1, level="iteration"),
            r"`dt` is for level='sde'; the iteration's time step is the flow's `step`",
        ),
        ("saved twice", lambda: simulate(save=[0.5, 0.5]), r"`save` must hold increasing times in \[0, 1\]"),
        ("saved late", lambda: simulate(save=[2.0]), r"`save` must hold increasing times in \[0, 1\]"),
        ("saved never", lambda: simulate(save=[]), r"`save` must hold increasing times in \[0, 1\]"),
        ("saved between", lambda: simulate(save=[0.05]), r"`save` must hold multiples of the time step 0\.1"),
        ("saved too often", lambda: simulate(save=11), r"`save` must be an integer >= 1 and <= 10; got 11"),
        (
            "moments between",
            lambda: linear().moments(0.05),
            r"`t` must be a multiple of the time step 0\.1; got 0\.05",
        ),
        ("moments before", lambda: linear().moments(-1.0), r"`t` must be a finite number >= 0; got -1"),
        (
            "dt of no chain",
            lambda: linear().covariance("discrete", 0.1),
            r"`dt` belongs to time='chain'; got dt=0\.1 with time='discrete'",
        ),
        (
            "L2 of no iteration",
            lambda: linear().covariance("continuous", order=2),
            r"`order=2` corrects towards the stochastic iteration: use it with time=",
        ),
    )
    def test_must_fit_the_time_step(self, call, message):
        with pytest.raises(ValueError, match=message):
            call()

    def test_a_multiple_up_to_rounding_is_taken(self):
        assert simulate(t_end=0.1 * 7).times[-1] == pytest.approx(0.7)

    @pytest.mark.parametrize(
        "options", [{"paths": 10**11}, {"paths": 10**5, "t_end": 1e6, "save": 10**7}], ids=["paths", "times"]
    )
    def test_a_request_larger_than_memory_is_refused_before_computing(self, options):
        with pytest.raises(
            ValueError, match=r"The states need [\d.]+ GB of \d+ GB: .* Save fewer times or paths"
        ):
            simulate(**options)

    def test_a_compare_of_one_path_is_refused(self):
        with pytest.raises(
            ValueError, match="At least two paths that did not diverge are needed; 1 were run and 0 diverged"
        ):
            st.compare(linear(), simulate(paths=1))

    def test_a_compare_with_nothing_to_compare_is_refused(self):
        with pytest.raises(ValueError, match="time"):
            st.compare(linear(), simulate(save=[0.0]))


class TestNoiseAndPlace:
    def test_curvature_noise_needs_a_reference(self):
        with pytest.raises(
            ValueError,
            match=r"Curvature noise needs a reference point, and landscape 'michalewicz' .* Use "
            r"Noise\(\.\.\., reference",
        ):
            flow(objective=st.landscape("michalewicz"), noise=st.Noise(curvature=1.0))

    def test_curvature_noise_centred_elsewhere_is_refused(self):
        with pytest.raises(
            ValueError,
            match=r"Curvature noise is centred 2 away from `at`\. Use Noise\(\.\.\., reference=at\)",
        ):
            st.linearize(
                flow(objective=st.landscape("double_well"), noise=st.Noise(curvature=1.0)), at=[-1.0, 0.0]
            )

    def test_noise_estimated_from_another_objective_is_refused(self):
        with pytest.raises(
            ValueError,
            match=r"estimated from another objective; call Noise\.from_data on this flow's objective",
        ):
            flow(objective=DATA, noise=st.Noise.from_data(st.logistic(X, Y, l2=0.2), batch=4))

    @pytest.mark.parametrize("rotation", [None, 1], ids=["diagonal", "rotated"])
    @pytest.mark.parametrize("spectrum", [[1.0, 1.0, 0.5], [1.0, -1.0, 0.5]], ids=["equal", "opposite"])
    def test_a_rank_that_splits_equal_sizes_has_no_linearised_hessian_noise(self, spectrum, rotation):
        tied = st.quadratic(spectrum, rotation_seed=rotation)
        lrsfn = st.LRSFN(rank=1, damping=0.1)
        split = st.linearize(flow(lrsfn, tied, st.Noise(curvature=0.1)))
        with pytest.raises(
            ValueError,
            match=r"rank 1 cuts through eigenvalues of equal size \(1\): .* Choose another rank, or "
            r"hessian_batch=inf",
        ):
            split.moments(1.0)
        without = st.Noise(curvature=0.1, hessian_batch=INF)
        assert np.isfinite(st.linearize(flow(lrsfn, tied, without)).moments(1.0)[1]).all()

    def test_a_loop_over_spectra_that_catches_unstable_survives_a_tie_and_a_pole(self):
        answers = []
        for kappa, method in (
            (10.0, st.LRSFN(rank=1, damping=0.1)),
            (1.0, st.LRSFN(rank=1, damping=0.1)),
            (np.inf, st.Newton()),
        ):
            try:
                here = flow(method, st.quadratic([1.0, 1 / kappa]), st.Noise(curvature=0.01))
                answers.append(st.linearize(here).step_limit())
            except st.Unstable as error:
                answers.append(error.modes)
        assert answers[0] > 0
        assert answers[1:] == [(0, 1), (1,)]

    @pytest.mark.slow
    def test_the_sde_cannot_start_on_such_a_cut_but_the_iteration_linearises_nothing_and_can(self):
        tied = flow(st.LRSFN(rank=1, damping=0.1), st.quadratic([1.0, 1.0, 0.5]), st.Noise(curvature=0.01))
        with pytest.raises(ValueError, match="rank 1 cuts through eigenvalues of equal size"):
            simulate(tied, start=np.ones(3))
        assert np.isfinite(simulate(tied, start=np.ones(3), level="iteration").mean).all()

    def test_a_law_with_too_many_factors_is_refused(self):
        with pytest.raises(
            ValueError, match=r"too many factors in 300 dimensions \(1e\+08 numbers at most\)"
        ):
            st.Noise(curvature=1.0).factors(np.zeros(300))

    def test_a_network_with_too_many_weights_is_refused(self):
        wide = st.mlp(np.ones((4, 20)), [0, 1, 0, 1], hidden=(8,))
        with pytest.raises(ValueError, match=r"\d GB in 186 dimensions; 139 .* Use a network with fewer"):
            st.Noise.from_data(wide, np.zeros(wide.dim), batch=1)

    def test_data_noise_needs_a_point(self):
        with pytest.raises(ValueError, match="`at` must be given: the objective has no reference point"):
            st.Noise.from_data(Pointless(), batch=1)

    @pytest.mark.parametrize("inside", [lambda w: True, lambda w: w], ids=["one-answer", "per-axis"])
    def test_an_exit_region_answers_once_per_path(self, inside):
        with pytest.raises(ValueError, match="`exit`"):
            simulate(exit=inside)


class Pointless(Users):
    """Data without a distinguished point."""

    reference = None
    n_samples = 1

    def __init__(self):
        super().__init__(np.eye(2))

    def per_sample_gradient(self, w):
        return np.zeros((1, 2))

    def per_sample_hessian(self, w):
        return np.zeros((1, 2, 2))


class TestUnstable:
    @pytest.mark.parametrize("method", [st.SGD(), st.SFN(damping=0.25)], ids=lambda m: m.name)
    @pytest.mark.parametrize(
        "ask",
        [
            lambda f: f.covariance(),
            lambda f: f.step_limit(),
            lambda f: f.step_limit("mean"),
            lambda f: f.excess_risk(),
        ],
    )
    def test_a_saddle_names_its_growing_modes_and_their_rates(self, method, ask):
        saddle = linear(method, (1.0, -0.5, 0.25, -0.125))
        with pytest.raises(
            st.Unstable,
            match=rf"does not exist for {method.name}: 2 of 4 modes do not decay: mode 1 \(lambda = -0\.5, "
            r"rate = ",
        ) as caught:
            ask(saddle)
        assert caught.value.modes == (1, 3)
        np.testing.assert_allclose(
            caught.value.rates, [0.5 * method.gain(-0.5), 0.125 * method.gain(-0.125)], rtol=1e-14
        )

    def test_newton_is_attracted_to_the_saddle_and_has_a_covariance_there(self):
        assert np.isfinite(linear(st.Newton(), (1.0, -0.5)).covariance()).all()

    def test_a_flat_direction_does_not_decay(self):
        with pytest.raises(st.Unstable, match="1 of 2 modes do not decay") as caught:
            linear(spectrum=(1.0, 0.0)).covariance()
        assert caught.value.modes == (1,)
        assert caught.value.rates == (0.0,)

    @pytest.mark.parametrize("time", ["discrete", "chain"])
    def test_a_step_beyond_the_mean_limit_names_the_stiff_modes(self, time):
        with pytest.raises(
            st.Unstable,
            match=r"the step 0\.3 is beyond the mean limit 0\.2, set by mode 0 \(lambda = 10, rate = -10\)",
        ) as caught:
            linear(spectrum=(10.0, 8.0, 1.0), step=0.3).covariance(time)
        assert caught.value.modes == (0, 1)
        assert caught.value.rates == (-10.0, -8.0)

    def test_the_same_step_is_stable_in_continuous_time(self):
        assert np.isfinite(linear(spectrum=(10.0, 1.0), step=0.3).covariance("continuous")).all()

    def test_a_step_beyond_the_mean_square_limit_names_the_leading_mode(self):
        shaken = linear(spectrum=(10.0,), noise=st.Noise(gradient=1.0, curvature=5.0), step=0.19)
        with pytest.raises(
            st.Unstable, match=r"relative radius .* >= 1 at step 0\.19, led by mode 0 .* Take a smaller step"
        ) as caught:
            shaken.covariance()
        assert caught.value.modes == (0,)
        assert caught.value.rates == (-10.0,)
        assert shaken.step_limit() < 0.19 < shaken.step_limit("mean")

    @pytest.mark.parametrize("what", ["tail_index", "tail_exceeds_two"])
    def test_a_saddle_has_no_tail_index(self, what):
        with pytest.raises(st.Unstable, match="do not decay"):
            getattr(linear(spectrum=(1.0, -1.0)), what)

    def test_bounds_turn_what_one_method_lacks_into_a_note(self):
        rows = st.bounds(
            st.quadratic([1.0, 0.0]), st.Noise(gradient=1.0), [st.SGD(), st.Newton()], step=0.1
        ).rows
        assert "1 of 2 modes do not decay" in rows[0].note
        assert "singular for Newton along 1 of 2 directions" in rows[1].note
        assert math.isnan(rows[0].excess_risk)
        assert math.isnan(rows[1].step_limit)
