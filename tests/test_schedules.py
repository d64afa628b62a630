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
            lambda: st.trajectory(one, [1.0, 1.0], 1.0),
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
