"""Flows whose step is a schedule: t is the sum of the steps."""

import numpy as np
import pytest

import stability as st

STEPS = 0.2 / (1 + np.arange(12))
ENDS = np.concatenate([[0.0], np.cumsum(STEPS)])


def falling(k):
    return 0.2 / (1 + k)


def flow(method=None, step=STEPS, **noise):
    noise = st.Noise(gradient=0.3, reference=[0.0, 0.0], **noise)
    F = st.expression("x**4/4 - x**2/2 + y**2", ["x", "y"])
    return st.Flow(F, method or st.SGD(), noise, step=step)


def run(one, **options):
    return st.simulate(one, **{"start": [1.0, 0.5], "t_end": ENDS[8], "paths": 20, "seed": 1, **options})


@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_steps_of_a_narrower_type_are_those_that_were_written(kind):
    """Ten steps of float32(0.1) end at 1, as ten of 0.1 do; in `minimize` too."""
    steps = np.full(12, 0.1, dtype=kind)
    assert run(flow(step=steps), t_end=1.0).times == pytest.approx(1.0, rel=1e-12)
    F = st.least_squares(np.eye(4), np.ones(4))
    options = {"method": st.SGD(), "batch": 2, "iterations": 10}
    one, other = (st.minimize(F, np.zeros(4), step=given, **options) for given in (steps, np.full(12, 0.1)))
    assert np.array_equal(one.steps, other.steps)
    assert np.array_equal(one.final, other.final)


METHODS = [st.SGD(), st.Momentum(st.SFN(damping=0.5)), st.Adam()]


@pytest.mark.parametrize("level", ["sde", "iteration"])
@pytest.mark.parametrize("method", METHODS, ids=["SGD", "momentum", "Adam"])
class TestPaths:
    def test_each_iteration_has_its_own_step(self, method, level):
        one = flow(method)
        ens = run(one, level=level, save=8, state=True)
        np.testing.assert_allclose(ens.times, ENDS[:9], rtol=1e-14)
        rng = st._streams.stream(1, 0)  # the first block's normals
        z = one.rest(np.tile([1.0, 0.5], (256, 1)), level)
        normals = one.noise_model.normals(2)
        own = one.own_normals if level == "sde" else 0
        draws = rng.standard_normal((8, normals + own, 256))
        for k, step in enumerate(STEPS[:8]):
            sample = one.noise_model.combine(draws[k, :normals], 2)
            now = one.at_step(step)
            if level == "iteration":
                z = now.update(z, sample, k)
            else:
                z = now.euler(z, st.flow.Driven(sample, draws[k, normals:].T) if own else sample, step)
        np.testing.assert_allclose(ens.states[-1], z[:20], rtol=1e-12, atol=1e-14)

    def test_a_function_is_its_steps(self, method, level):
        first, second = (run(flow(method, step), level=level).states for step in (STEPS, falling))
        np.testing.assert_array_equal(first, second)

    def test_equal_steps_are_one_step(self, method, level):
        first, second = (
            run(flow(method, step), level=level, t_end=1.0).states for step in (0.1, np.full(10, 0.1))
        )
        np.testing.assert_allclose(first, second, rtol=1e-11, atol=1e-13)

    def test_workers_change_nothing(self, method, level):
        first, second = (run(flow(method), level=level, paths=900, workers=n).states for n in (1, 3))
        np.testing.assert_array_equal(first, second)


def test_refined_they_follow_the_same_brownian_paths():
    still = flow(step=STEPS, curvature=0.1)
    ends = [run(still, refine=refine, paths=400).states[-1] for refine in (0, 3, 4)]
    gaps = [np.sqrt(np.mean((end - ends[-1]) ** 2)) for end in ends[:2]]
    assert gaps[1] < 0.4 * gaps[0]


def test_averages_forget_by_the_iteration():
    w, found = (run(flow(), average=average, save=8) for average in (None, 0.7))
    a = w.states[0]
    for k in range(1, 9):
        a = 0.7 * a + 0.3 * w.states[k]
    np.testing.assert_allclose(found.states[-1], a, rtol=1e-13)


def test_exits_and_losses_are_timed_by_the_sum_of_the_steps():
    ens = run(flow(), exit=lambda w: w[:, 0] > 0.95, radius=0.3, paths=300)
    for times in (ens.exit_times, ens.diverged_at):
        seen = np.unique(times[np.isfinite(times)])
        assert len(seen) > 2
        assert np.min(np.abs(seen[:, None] - ENDS[:9]), axis=1).max() < 1e-14


def test_other_libraries_give_numpys_paths(xp_backend):
    watch = {"save": 4, "exit": lambda w: w[:, 0] > 0.95, "radius": 0.5}
    here = run(flow(METHODS[1]), device=xp_backend, rng="host", **watch)
    wanted = run(flow(METHODS[1]), **watch)
    assert wanted.diverged.any()
    assert np.isfinite(wanted.exit_times).any()
    np.testing.assert_array_equal(here.diverged_at, wanted.diverged_at)
    np.testing.assert_allclose(here.states, wanted.states, rtol=1e-11)
    np.testing.assert_array_equal(here.exit_times, wanted.exit_times)


def quadratic_flow(method, step=STEPS):
    return st.Flow(
        st.quadratic([1.0, 0.4], rotation_seed=1), method, st.Noise(gradient=[0.3, 0.1]), step=step
    )


class TestTrajectory:
    """The mean path and its tube, under each iteration's own step."""

    @pytest.mark.parametrize("beta", [0.0, 0.6])
    def test_on_a_quadratic_it_is_the_iterations_recursion(self, beta):
        method = st.SFN(damping=0.5) if not beta else st.Momentum(st.SFN(damping=0.5), beta)
        one, start = quadratic_flow(method), np.array([1.0, -0.5])
        H = one.objective.hessian(np.zeros(2))
        lam, Q = np.linalg.eigh(H)
        P, eye = (Q / (lam + 0.5)) @ Q.T, np.eye(2)
        z, S = np.concatenate([start, [0, 0]]), np.zeros((4, 4))
        for step in STEPS[:7]:
            B = np.block([[eye - step * P @ H, -step * beta * eye], [P @ H, beta * eye]])
            b = np.concatenate([-step * P, P])
            z, S = B @ z, B @ S @ B.T + b @ np.diag([0.09, 0.01]) @ b.T
        path = st.trajectory(one, start, ENDS[7], time="discrete", save=2, state=True)
        np.testing.assert_allclose(path.times, ENDS[[0, 4, 7]], rtol=1e-14)
        np.testing.assert_allclose(path.mean[-1], z[: 2 + 2 * (beta > 0)], rtol=1e-11)
        size = 2 + 2 * (beta > 0)
        np.testing.assert_allclose(path.covariance[-1], S[:size, :size], rtol=1e-10, atol=1e-15)

    def test_in_continuous_time_it_is_the_moments_one_after_the_other(self):
        """Two steps in turn, each long enough for the other solver and short enough for this one."""
        steps = np.repeat([0.2, 0.05], [30, 4])
        one, start, S = quadratic_flow(st.SGD(), steps), np.array([1.0, -0.5]), np.zeros((2, 2))
        t, mean = 0.0, start
        for step, count in ((0.2, 30), (0.05, 4)):
            lin = st.linearize(one.at_step(step))
            mean, S = lin.moments(count * step, mean, S, time="continuous")
            t += count * step
        path = st.trajectory(one, start, t, save=[1.0, 6.0, t])
        np.testing.assert_allclose(path.mean[-1], mean, rtol=1e-8)
        np.testing.assert_allclose(path.covariance[-1], S, rtol=1e-8)
        assert np.isnan(path.step)

    @pytest.mark.parametrize("level", ["sde", "iteration"])
    @pytest.mark.parametrize("method", [*METHODS[:2], st.SignSGD()], ids=["SGD", "momentum", "sign"])
    def test_paths_have_its_law(self, method, level):
        one = flow(method, 0.2 * STEPS, curvature=0.1)
        ens = st.simulate(
            one, start=[1.2, 0.5], t_end=0.2 * ENDS[12], paths=2_000, seed=3, level=level, save=3
        )
        time = {"sde": "chain", "iteration": "discrete"}[level]
        path = st.trajectory(one, [1.2, 0.5], 0.2 * ENDS[12], time=time, save=ens.times)
        found = st.compare(path, ens)
        assert max(np.nanmax(np.abs(z)) for z in (found.mean_z, found.covariance_z)) < 4
        assert "steps of a schedule" in str(path)
        if level == "sde":  # a few signs are no Gaussian
            assert path.departure(ens).z.max() < 4

    def test_equal_steps_are_one_step(self):
        for method in (st.Momentum(st.SGD(), 0.5), st.RMSprop()):
            paths = [
                st.trajectory(flow(method, step), [1.0, 0.5], 1.0, time="chain", save=2)
                for step in (0.1, np.full(10, 0.1))
            ]
            np.testing.assert_allclose(paths[0].covariance, paths[1].covariance, rtol=1e-9, atol=1e-14)

    def test_what_does_not_go_together_is_told(self, monkeypatch):
        one, start, end = flow(), [1.0, 0.5], ENDS[8]
        with pytest.raises(ValueError, match=r"the time steps are its own: leave `dt` out"):
            st.trajectory(one, start, end, time="chain", dt=0.1)
        path = st.trajectory(one, start, end, time="chain", save=1)
        with pytest.raises(ValueError, match=r"only the trajectory's step is a schedule"):
            st.compare(path, st.simulate(one.at_step(end / 8), start=start, t_end=end, paths=5))
        with pytest.raises(ValueError, match=r"refined.*refine=0"):
            st.compare(path, run(one, refine=1))
        with pytest.raises(ValueError, match=r"another law.*time='discrete'"):
            st.compare(path, run(one, level="iteration"))
        monkeypatch.setattr("stability.trajectories.pace.MAX_STRETCHES", 4)
        with pytest.raises(ValueError, match=r"changes 8 times.*Use time='chain'"):
            st.trajectory(one, start, end)
        monkeypatch.setattr("stability.trajectories.pace.MAX_STEPS", 4)
        with pytest.raises(ValueError, match=r"is 8 iterations of the schedule away.*smaller t_end"):
            st.trajectory(one, start, end, time="chain")


class TestRefused:
    def test_a_schedule_that_is_shorter_than_the_run(self):
        with pytest.raises(ValueError, match=r"its 12 end at .*Give more of them, or t_end=(\S+)\.$") as told:
            run(flow(), t_end=1.0)
        run(flow(), t_end=float(str(told.value).rsplit("t_end=")[1].rstrip(".")))

        # Three steps of 0.1 add up to a little more than 0.3.
        with pytest.raises(ValueError, match=r"its 3 end at 0\.3\. Give more of them, or t_end=0\.3\.$"):
            run(flow(step=[0.1] * 3), t_end=1.0)
        run(flow(step=[0.1] * 3), t_end=0.3)

    def test_one_that_reaches_zero(self):
        def linear(k):
            return 0.1 * (1 - k / 4)

        with pytest.raises(ValueError, match=r"got 0 at iteration 4, counted from 0.*t_end=(\S+)\.$") as told:
            run(flow(step=linear), t_end=1.0)
        run(flow(step=linear), t_end=float(str(told.value).rsplit("t_end=")[1].rstrip(".")))
        with pytest.raises(ValueError, match="got nan at iteration 0"):
            run(flow(step=lambda k: "0.1"))

        with pytest.raises(ValueError, match=r"got 0 at iteration 2, counted from 0.*before: step\[:2\]"):
            flow(step=[0.1, 0.2, 0.0])
        with pytest.raises(ValueError, match=r"got -0.1 at iteration 0, counted from 0. Keep it above 0\.$"):
            flow(step=[-0.1, 0.2])

    def test_a_time_that_is_no_sum_of_steps(self):
        with pytest.raises(ValueError, match=r"`t_end` must be sums.*got 0\.25\. The nearest") as told:
            run(flow(), t_end=0.25)
        run(flow(), t_end=float(str(told.value).rsplit("and ")[1].rstrip(".")))
        with pytest.raises(ValueError, match=r"`save` must be sums.*got 0\.25"):
            run(flow(), save=[0.25])
        np.testing.assert_allclose(run(flow(), save=ENDS[[2, 5]]).times, ENDS[[2, 5]])

    def test_a_series_that_never_gets_there(self, monkeypatch):
        monkeypatch.setattr("stability.ensembles.clock.MOST", 1000)
        with pytest.raises(ValueError, match=r"more than 1e\+03 iterations away.*smaller t_end"):
            run(flow(step=lambda k: 0.5**k * 0.1 + 1e-9), t_end=1.0)

    def test_what_has_no_schedule(self):
        one = flow()
        for ask in (
            lambda: st.linearize(one, at=[1.0, 0.0]),
            lambda: one.diffusion([1.0, 1.0]),
            lambda: run(one).law,
        ):
            with pytest.raises(ValueError, match=r"schedule.*at_step"):
                ask()
        assert st.linearize(one.at_step(0.1), at=[1.0, 0.0]).flow.step == 0.1
        with pytest.raises(ValueError, match=r"leave `dt` out.*`refine`"):
            run(one, dt=0.1)
        with pytest.raises(ValueError, match=r"a schedule\. Use scheme='euler'"):
            run(one, scheme="exponential", at=[1.0, 0.0])
        with pytest.raises(ValueError, match=r"a schedule\. Use control=False"):
            run(one, control=True, at=[1.0, 0.0])
        with pytest.raises(ValueError, match=r"must hold a step for each iteration; got none"):
            flow(step=[])
        with pytest.raises(ValueError, match=r"`step` must have shape"):
            flow(step=[[0.1]])

    def test_a_function_is_not_saved(self, tmp_path):
        result = st.linearize(flow(step=0.1), at=[1.0, 0.0])
        result.flow.schedule = falling
        with pytest.raises(ValueError, match="whose `step` is a function cannot be saved"):
            result.flow._kept()
