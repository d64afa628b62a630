"""The engine: chunks, schemes, refined paths, controls, wanted accuracy, streaming, interrupts, devices."""

import dataclasses
import inspect
import itertools
import os
import re
import signal
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import stability as st
from stability import _fast
from stability._progress import Bar
from stability._streams import block_count, block_rows, block_size, stream
from stability.ensembles import block, gather, normals, request
from stability.ensembles import plan as plans
from stability.noise import Sample

NOISE = st.Noise(gradient=0.3)
CURVED = st.Noise(gradient=0.3, curvature=0.05, batch=2, hessian_batch=1)


def quadratic_flow(lam=(1.0, 0.5, 0.2), *, method=None, noise=NOISE, rotation=1, step=0.2):
    return st.Flow(st.quadratic(lam, rotation_seed=rotation), method or st.SFN(damping=0.5), noise, step=step)


def quartic_flow(*, noise=0.5, step=0.05, dim=2):
    return st.Flow(
        st.landscape("coupled_quartic", dim=dim), st.SFN(damping=0.1), st.Noise(gradient=noise), step=step
    )


def run(flow, **options):
    start = np.full(flow.dim, 0.5)
    return st.simulate(flow, **{"start": start, "t_end": 4.0, "paths": 300, "seed": 1, **options})


FLOWS = {
    "affine": quadratic_flow(),
    "affine, planar": quadratic_flow((1.0, 0.3)),
    "diagonal": quadratic_flow(rotation=None),
    "curved noise": quadratic_flow(noise=CURVED),
    "planar": quartic_flow(step=0.2),
    "separable": st.Flow(st.landscape("double_well", dim=3), st.SFN(damping=0.1), NOISE, step=0.2),
    "five dimensions": quartic_flow(step=0.2, dim=5),
    "truncated": st.Flow(
        st.landscape("coupled_quartic", dim=3), st.LRSFN(rank=1, damping=0.3), NOISE, step=0.2
    ),
}


@pytest.fixture(params=FLOWS.values(), ids=FLOWS)
def flow(request):
    return request.param


@pytest.mark.parametrize("dim", [1, 8, 20, 128, 500])
def test_blocks_cover_all_paths_once(dim):
    rows = [block_rows(number, dim) for number in range(40)]
    assert [r.start for r in rows] == [0, *(r.stop for r in rows[:-1])]
    assert max(map(len, rows)) == block_size(dim)
    for paths in (1, 255, 256, 257, 512, 513, 2047, 2048, 2049, 4096, 5000):
        assert rows[block_count(paths, dim) - 1].start < paths <= rows[block_count(paths, dim) - 1].stop


class TestSameNumbers:
    @pytest.mark.parametrize("chunk", [1, 7, 2000])
    def test_however_many_steps_are_drawn_at_once(self, flow, chunk, monkeypatch):
        whole = run(flow, save=5)
        monkeypatch.setattr(plans.EnsemblePlan, "chunk", lambda self, width: chunk)
        np.testing.assert_array_equal(run(flow, save=5).states, whole.states)

    @pytest.mark.parametrize("paths", [1, 100, 2100])
    def test_the_first_paths_of_more(self, flow, paths):
        np.testing.assert_array_equal(
            run(flow, paths=paths, t_end=2.0).states, run(flow, paths=4500, t_end=2.0).states[:, :paths]
        )

    def test_for_any_number_of_workers(self, flow):
        first, second = (run(flow, paths=4500, workers=n, t_end=2.0, quantiles=[0.1, 0.9]) for n in (1, 3))
        for name in ("states", "mean", "covariance", "covariance_error", "quantiles"):
            np.testing.assert_array_equal(getattr(first, name), getattr(second, name))

    @pytest.mark.skipif(not _fast.available(), reason="Numba is not installed (extra `fast`)")
    def test_with_and_without_the_accelerator(self, flow):
        with_it, without = (run(flow, t_end=20.0, accelerate=yes) for yes in (True, False))
        np.testing.assert_allclose(with_it.states, without.states, rtol=1e-12, atol=1e-13)

    def test_whether_states_are_kept_or_not(self, flow):
        kept, dropped = (run(flow, paths=2500, keep=k, save=2) for k in ("states", "moments"))
        assert dropped.states.shape == (3, 0, flow.dim)
        for name in ("mean", "covariance", "covariance_error", "diverged"):
            np.testing.assert_array_equal(getattr(kept, name), getattr(dropped, name))

    def test_the_accelerator_is_asked_for_by_name_or_not_at_all(self, monkeypatch):
        monkeypatch.setattr(_fast, "available", lambda: False)
        assert not run(quadratic_flow()).stats["compiled"]
        with pytest.raises(
            ValueError, match=r"`accelerate` needs Numba: pip install 'sfn-stability\[fast\]'"
        ):
            run(quadratic_flow(), accelerate=True)

    def test_float32_is_float64_rounded(self, flow):
        wide, narrow = run(flow), run(flow, dtype="float32")
        assert narrow.states.dtype == np.float32
        assert 0 < np.abs(wide.states - narrow.states).max() < 1e-4


@pytest.mark.parametrize("accelerate", [False, None], ids=["numpy", "default"])
@pytest.mark.parametrize("name", [name for name, flow in FLOWS.items() if not flow.noise_model.has_curvature])
def test_the_engines_paths_are_sdeints_on_the_numbers_that_it_drew(name, accelerate):
    sdeint, flow, steps, paths = pytest.importorskip("sdeint"), FLOWS[name], 20, 3
    ens = run(flow, save=steps, accelerate=accelerate)
    normals = stream(1, 0).standard_normal((steps, flow.dim, 256))[:, :, :paths]
    root = 0.3 if name != "planar" and name != "five dimensions" else 0.5

    def columns(w, t):
        return (
            np.sqrt(flow.step)
            * flow.noise(
                np.tile(w, (flow.dim, 1)),
                Sample(root * np.eye(flow.dim), *np.zeros((2, flow.dim, flow.dim, flow.dim))),
            ).T
        )

    for path in range(paths):
        theirs = sdeint.itoEuler(
            lambda w, t: flow.drift(w),
            columns,
            ens.start[path],
            ens.times,
            dW=np.sqrt(ens.dt) * normals[:, :, path],
        )
        np.testing.assert_allclose(ens.states[:, path], theirs, rtol=1e-11, atol=1e-12)


class TestExponential:
    LAM, STEP = (50.0, 1.0, 0.01), 0.02

    def flow(self, **options):
        return quadratic_flow(self.LAM, method=st.SGD(), step=self.STEP, **options)

    @pytest.mark.parametrize("dt", [0.02, 1.0])
    @pytest.mark.parametrize("covariance", ["isotropic", "general"])
    def test_is_the_sdes_own_law_for_additive_noise_at_any_dt(self, dt, covariance, rng):
        factor = rng.standard_normal((3, 3))
        flow = self.flow(noise=NOISE if covariance == "isotropic" else st.Noise(gradient=factor @ factor.T))
        ens = run(flow, dt=dt, t_end=5.0, paths=20_000, scheme="exponential", save=[dt, 5.0])
        comparison = st.compare(st.linearize(flow), ens)
        assert comparison.law.startswith("continuous")
        assert comparison.max_z < 4, str(comparison)

    def test_eulers_own_chain_would_be_told_apart(self):
        flow = self.flow(rotation=None)
        euler = run(flow, dt=0.02, t_end=5.0, paths=20_000)
        fake = dataclasses.replace(euler, scheme="exponential")
        assert st.compare(st.linearize(flow), fake).max_z > 6

    def test_is_stable_where_euler_is_not(self):
        stiff = st.Flow(st.quadratic([1e4, 1.0]), st.SGD(), NOISE, step=1e-5)
        with pytest.warns(
            st.StabilityWarning, match=r"dt = 0\.1 is beyond the Euler scheme's stability limit 0\.0002"
        ):
            euler = st.simulate(stiff, start=[1, 1], t_end=20.0, dt=0.1, paths=50, seed=0)
        assert euler.diverged.all()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            exact = st.simulate(
                stiff, start=[1, 1], t_end=20.0, dt=0.1, paths=4000, seed=0, scheme="exponential"
            )
        assert st.compare(st.linearize(stiff), exact).max_z < 4

    @pytest.mark.parametrize(
        "make",
        [lambda: quartic_flow(noise=0.5, step=0.1), lambda: quadratic_flow(noise=CURVED)],
        ids=["nonlinear", "curved noise"],
    )
    def test_converges_with_dt_to_what_euler_converges_to(self, make):
        flow = make()
        more = {"start": [1, 0.2], "at": [1, 0]} if flow.dim == 2 else {}
        fine = run(flow, t_end=1.0, dt=0.25, refine=8, paths=256, **more).states[-1]
        errors = [
            np.abs(
                run(flow, t_end=1.0, dt=0.25, refine=k, paths=256, scheme="exponential", **more).states[-1]
                - fine
            ).mean()
            for k in (1, 3, 5)
        ]
        assert errors[0] / errors[1] > 1.7
        assert errors[1] / errors[2] > 1.7

    def test_needs_a_critical_point(self):
        flow = st.Flow(st.landscape("michalewicz"), st.SFN(damping=0.1), NOISE, step=0.1)
        with pytest.raises(ValueError, match="`at`, the critical point to linearise at, must be given"):
            run(flow, scheme="exponential")
        with pytest.raises(ValueError, match="gradient"):
            run(quartic_flow(step=0.2), scheme="exponential", at=[0.5, 0.5])

    def test_belongs_to_the_sde(self):
        for option in ({"scheme": "exponential"}, {"refine": 1}, {"dt": 0.2}):
            with pytest.raises(ValueError, match=r"`\w+` is for level='sde'"):
                run(quadratic_flow(), level="iteration", **option)


class TestRefinement:
    def test_halved_increments_add_up_to_the_coarse_path(self):
        free = st.Flow(st.quadratic([0.0, 0.0]), st.SGD(), st.Noise(gradient=1.0), step=1.0)
        coarse, fine = (
            st.simulate(free, start=[0, 0], t_end=8.0, paths=40, seed=3, save=8, refine=k) for k in (0, 3)
        )
        assert fine.dt == 0.125
        np.testing.assert_allclose(coarse.states, fine.states, atol=1e-13)

    def test_bridged_increments_are_independent_and_normal(self):
        plan = dataclasses.replace(_plan(quadratic_flow()), refine=2)
        z = normals.Normals(plan, 0).draw(8).reshape(8, -1)
        count = z.shape[1]
        np.testing.assert_allclose(z @ z.T / count, np.eye(8), atol=4 * np.sqrt(2 / count))
        assert abs((z**4).mean() - 3) < 4 * np.sqrt(96 / z.size)

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("noise", "order"),
        [(st.Noise(gradient=0.5), 1.0), (st.Noise(gradient=0.5, curvature=0.5), 0.5)],
        ids=["additive", "multiplicative"],
    )
    def test_gives_the_strong_order(self, noise, order):
        flow = st.Flow(st.quadratic([1.0, 0.5]), st.SGD(), noise, step=1.0)
        paths = [
            st.simulate(flow, start=[1, 1], t_end=1.0, dt=0.125, refine=k, paths=2000, seed=5).states[-1]
            for k in range(8)
        ]
        errors = [np.sqrt(((a - paths[-1]) ** 2).mean()) for a in paths[1:5]]
        slope = -np.polyfit(range(4), np.log2(errors), 1)[0]
        assert abs(slope - order) < 0.1

    def test_differences_of_levels_shrink(self):
        flow = st.Flow(st.landscape("coupled_quartic"), st.SGD(), st.Noise(gradient=0.5), step=0.2)
        levels = [run(flow, start=[1, 0.2], t_end=2.0, refine=k, paths=2000) for k in range(3)]
        differences = [(b.states - a.states).var() for a, b in itertools.pairwise(levels)]
        assert differences[0] > 2 * differences[1] > 0
        assert differences[0] < 0.1 * levels[0].states.var()


def _plan(flow, **options):
    seen = []

    def gather(plan, *rest, **more):
        seen.append(plan)
        raise RuntimeError

    patch = pytest.MonkeyPatch()
    patch.setattr(sys.modules["stability.ensembles.simulate"], "gather", gather)
    with pytest.raises(RuntimeError):
        run(flow, **options)
    patch.undo()
    return seen[0]


class TestControl:
    @pytest.mark.parametrize("step", [0.01, 0.05])
    def test_sharpens_the_moments_of_a_weakly_nonlinear_flow(self, step):
        flow = quartic_flow(step=step)
        options = {"start": [1, 0], "t_end": 10.0, "dt": 0.1, "at": [1, 0]}
        sharp = st.simulate(flow, paths=4096, seed=1, control=True, **options)
        plain = st.simulate(flow, paths=60_000, seed=2, **options)
        factors = np.diagonal(sharp.covariance_reduction[-1])
        assert (factors > 20).all()
        error = np.hypot(sharp.covariance_error, plain.covariance_error)
        assert np.abs((sharp.covariance - plain.covariance) / error).max() < 4
        assert (
            np.abs((sharp.mean - plain.mean) / np.hypot(sharp.standard_error, plain.standard_error)).max() < 4
        )
        np.testing.assert_allclose(
            factors,
            np.diagonal(plain.covariance_error[-1] / sharp.covariance_error[-1]) ** 2 * 60_000 / 4096,
            rtol=0.3,
        )
        assert "cut the variance" in str(sharp)

    @pytest.mark.parametrize("noise", [NOISE, CURVED], ids=["additive", "curved"])
    @pytest.mark.parametrize(
        "method", [st.SGD(), st.SFN(damping=0.5), st.LRSFN(rank=1, damping=0.5)], ids=lambda m: m.name
    )
    def test_a_linear_flow_is_its_own_control_and_comes_out_exactly(self, noise, method):
        flow = quadratic_flow(noise=noise, method=method)
        ens, lin = run(flow, control=True, save=4), st.linearize(flow)
        for t, mean, covariance in zip(ens.times, ens.mean, ens.covariance, strict=True):
            exact = lin.moments(t, ens.start[0], time="chain")
            np.testing.assert_allclose(mean, exact[0], rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(covariance, exact[1], rtol=1e-7, atol=1e-12)

    def test_is_left_out_where_paths_diverge(self):
        flow = st.Flow(st.landscape("double_well"), st.SGD(), st.Noise(gradient=1.0), step=0.7)
        ens = st.simulate(flow, start=[1.0, 0.0], t_end=35.0, paths=400, seed=0, radius=20.0, control=True)
        assert ens.diverged.any()
        assert (ens.covariance_reduction == 1).all()
        assert any("left out" in note for note in ens.notes)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"level": "iteration"}, "`control` is for level='sde'"),
            ({"start": np.ones((300, 3))}, "`control` needs one start"),
            ({"scheme": "exponential"}, "needs additive noise"),
        ],
    )
    def test_refuses_what_it_does_not_know(self, options, message):
        with pytest.raises(ValueError, match=message):
            run(quadratic_flow(noise=CURVED), control=True, **options)


class TestTargetError:
    def test_takes_as_many_paths_as_are_needed(self):
        ens = run(quadratic_flow(), paths=None, target_error=0.01)
        stats = ens.stats
        assert stats["target_met"]
        assert stats["error"] <= 0.01
        assert stats["predicted_paths"][0] == 20_000
        assert 0.8 < stats["predicted_paths"][-1] / 20_000 < 1.3
        assert 15_000 < len(ens.diverged) < 30_000
        np.testing.assert_array_equal(ens.states[:, :500], run(quadratic_flow(), paths=500).states)

    def test_a_control_needs_fewer(self):
        ens = st.simulate(
            quartic_flow(), start=[1, 0], at=[1, 0], t_end=5.0, seed=0, target_error=0.01, control=True
        )
        assert ens.stats["target_met"]
        assert len(ens.diverged) < 5000

    def test_says_so_when_paths_do_not_suffice(self):
        with pytest.warns(st.StabilityWarning, match=r"`target_error` 0\.001 was not met with 5000 paths"):
            ens = run(quadratic_flow(), paths=5000, target_error=0.001)
        assert not ens.stats["target_met"]
        assert len(ens.diverged) == 5000

    def test_without_either_there_are_a_thousand_paths(self):
        assert len(run(quadratic_flow(), paths=None).diverged) == 1000

    def test_says_what_it_expects_first(self, capsys):
        run(quadratic_flow(), paths=None, target_error=0.05, progress=True)
        assert "To reach 0.05: 800 paths" in capsys.readouterr().out


class TestProgress:
    """One bar for ensembles, training and spectra."""

    @staticmethod
    def work(name, progress=True):
        if name == "paths":
            return run(quadratic_flow(), paths=20, progress=progress)
        if name == "loss":
            return st.minimize(
                st.quadratic([1.0]), [1.0], method=st.SGD(), step=0.1, iterations=9, progress=progress
            )
        return st.spectrum(st.quadratic([1.0, 2.0]), progress=progress)

    @pytest.mark.parametrize("name", ["paths", "loss", "Hessian products"])
    def test_is_shown_in_a_terminal(self, name, capsys, monkeypatch):
        monkeypatch.setenv("TTY_COMPATIBLE", "1")
        monkeypatch.setenv("TERM", "xterm")
        self.work(name)
        shown = capsys.readouterr().out
        assert name in shown
        assert "100%" in shown

    @pytest.mark.parametrize("name", ["paths", "loss", "Hessian products"])
    def test_leaves_nothing_in_a_pipe(self, name, capsys, monkeypatch):
        for variable in ("FORCE_COLOR", "TTY_COMPATIBLE"):
            monkeypatch.delenv(variable, raising=False)
        self.work(name)
        assert capsys.readouterr() == ("", "")

    def test_loads_rich_only_if_it_is_asked_for(self):
        code = (
            "import sys, stability as st\n"
            "for progress in (False, True):\n"
            "    st.spectrum(st.quadratic([1.0, 2.0]), progress=progress)\n"
            "    print('rich' in sys.modules)\n"
        )
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert found.stdout.split() == ["False", "True"]

    def test_is_drawn_two_hundred_times_at_most_whatever_the_threads(self):
        drawn = []
        bar = Bar(10_000, lambda completed, total: drawn.append(completed))
        with ThreadPoolExecutor(4) as pool:
            for _ in range(10_000):
                pool.submit(bar.advance, 1)
        assert drawn == list(range(50, 10_001, 50))


class TestGathering:
    @staticmethod
    def parts(count):
        plan = _plan(quadratic_flow(), paths=5000)
        return plan, [block.simulated_block(plan, number, block.Signals()) for number in range(count)]

    def test_nothing_is_taken_after_a_block_that_was_stopped(self):
        """Paths would no longer be the first ones of a larger ensemble."""
        plan, (first, second, third) = self.parts(3)
        gathered = gather.Gathered(plan, None)
        for part in (first, dataclasses.replace(second, plan=dataclasses.replace(plan, steps=3)), third):
            gathered.add(part)
        assert gathered.count == 256

    def test_few_paths_meet_a_wish_by_a_margin_only(self, monkeypatch):
        plan, parts = self.parts(5)
        gathered, met = gather.Gathered(plan, 0.01), []
        monkeypatch.setattr(gather.Gathered, "error", 0.009)
        for part in parts:
            gathered.add(part)
            met.append(gathered.met)
        assert met == [False, False, False, True, True]


class TestStreaming:
    def test_quantiles_are_those_of_the_states(self):
        levels = [0.01, 0.5, 0.99]
        ens = run(quadratic_flow(), paths=6000, save=3, quantiles=levels)
        assert ens.quantiles.shape == (4, 3, 3)
        exact = np.quantile(ens.states, levels, axis=1, method="inverted_cdf").swapaxes(0, 1)
        away = np.abs(exact - ens.mean[:, None])
        assert (
            np.abs(ens.quantiles - exact) <= 2e-3 * away + 2e-2 * ens.standard_error[:, None] + 1e-12
        ).all()
        np.testing.assert_array_equal(ens.quantile_levels, levels)

    def test_observables_have_means_and_errors(self):
        F = st.quadratic([1.0, 0.5, 0.2], rotation_seed=1)
        flow = st.Flow(F, st.SGD(), NOISE, step=0.2)
        ens = run(flow, paths=5000, save=2, observables={"risk": F.value, "first": lambda w: w[:, 0]})
        np.testing.assert_allclose(ens.observables["risk"], F.value(ens.states).mean(axis=1), rtol=1e-12)
        np.testing.assert_allclose(ens.observable_errors["first"], ens.standard_error[:, 0], rtol=1e-12)
        assert "risk = " in str(ens)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"observables": {"x": lambda w: w}}, "numbers once per state"),
            ({"observables": {"x": lambda w: 1 / 0}}, "it raised ZeroDivisionError"),
            ({"observables": lambda w: w}, "must be a dict of functions by name"),
            ({"quantiles": [1.5]}, r"levels in \[0, 1\]"),
            ({"keep": "all"}, "`keep` must be one of"),
            ({"dtype": "int32"}, "`dtype` must be one of"),
            ({"refine": -1}, "`refine`"),
            ({"scheme": "milstein"}, "`scheme` must be one of euler, exponential"),
            ({"target_error": 0.0}, "`target_error`"),
            ({"device": "tpu"}, "`device` must be one of cpu, cuda"),
            ({"rng": "device"}, "`rng`='device' needs a device"),
            ({"rng": "disk"}, "`rng` must be one of host, device; got 'disk'"),
            ({"exit": lambda w: w[:, 0]}, "bool once per state"),
            ({"paths": 10**10, "save": 1000}, r"GB of .* GB: \d+ times x 10000000000 paths x 3"),
        ],
    )
    def test_bad_input_is_refused(self, options, message):
        if options.get("save"):
            options["t_end"] = 200.0
        with pytest.raises(ValueError, match=message):
            run(quadratic_flow(), **options)

    @pytest.mark.slow
    def test_ten_million_paths_fit_in_a_gigabyte(self):
        code = (
            "import re, stability as st\n"
            "flow = st.Flow(st.quadratic([1.0, 0.5]), st.SGD(), st.Noise(gradient=1.0), step=0.1)\n"
            "ens = st.simulate(flow, start=[0, 0], t_end=0.2, paths=10**7, seed=0, observables={'risk': "
            "flow.objective.value}, exit=1.0)\n"
            "assert len(ens.diverged) == 10**7 and ens.covariance_error[0, 0, 0] < 1e-5 and "
            "ens.exit_times.shape == (10**7,)\n"
            # `ru_maxrss` would count what the process that started this one had, too.
            "print(int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) / 1e6)\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert float(done.stdout) < 1.0


class TestInterrupts:
    @staticmethod
    def interrupted(**options):
        """An ensemble that Ctrl-C hits on the way."""
        threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(st.Interrupted, match=r"`\.ensemble`") as caught:
            run(quadratic_flow(), **options)
        return caught.value.ensemble

    def test_finished_blocks_are_kept(self):
        options = {"paths": 10**7, "t_end": 20.0, "keep": "moments"}
        ens = self.interrupted(**options)
        count = len(ens.diverged)
        assert 2000 < count < 10**7
        assert ens.stats["interrupted"]
        np.testing.assert_array_equal(ens.mean, run(quadratic_flow(), **{**options, "paths": count}).mean)

    def test_a_lone_block_is_kept_as_far_as_it_came(self):
        ens = self.interrupted(paths=50, t_end=1e6)
        assert ens.states.shape == (1, 50, 3)
        assert 0 < ens.times[-1] < 1e6
        same = run(quadratic_flow(), paths=50, t_end=float(ens.times[-1]))
        np.testing.assert_array_equal(same.states, ens.states)


class TestUnstable:
    def test_the_summary_says_what_theory_expected(self):
        flow = quadratic_flow((1.0, 0.5, 0.2), method=st.SGD(), step=2.5)
        ens = run(flow, level="iteration", t_end=2500.0)
        assert ens.diverged.all()
        text = str(ens)
        assert "More than 10% diverged: the flow is unstable here." in text
        assert "at most 2 in the mean" in text

    def test_stats_tell_the_cost(self):
        stats = run(quadratic_flow(), paths=5000).stats
        assert stats["path_steps"] == 5000 * 20
        assert 0 < stats["noise_share"] < 1
        assert stats["path_steps_per_second"] > 0


def test_where_numbers_are_drawn_has_an_old_name_that_is_told():
    with pytest.warns(DeprecationWarning, match="`noise` is called `rng` now") as caught:
        ens = run(quadratic_flow(), t_end=2.0, noise="host")
    assert caught[0].filename.endswith("test_engine.py")
    np.testing.assert_array_equal(ens.states, run(quadratic_flow(), t_end=2.0).states)


def test_a_warning_points_at_the_line_of_the_users():
    flow = quadratic_flow(lam=(1.0, 0.5, 0.2), step=5.0)
    with pytest.warns(st.StabilityWarning, match="beyond the Euler scheme's stability limit") as caught:
        run(flow, t_end=10.0)
    assert caught[0].filename.endswith("test_engine.py")


class TestDevices:
    def test_host_noise_gives_the_hosts_paths(self, flow, xp_backend):
        if xp_backend.name == "numpy":
            pytest.skip("this is the host")
        here = run(flow, t_end=2.0, save=2, exit=0.8)
        there = run(flow, t_end=2.0, save=2, exit=0.8, device=xp_backend, rng="host")
        np.testing.assert_allclose(there.states, here.states, rtol=1e-11, atol=1e-12)
        np.testing.assert_array_equal(np.isnan(there.exit_times), np.isnan(here.exit_times))
        np.testing.assert_allclose(there.covariance, here.covariance, rtol=1e-9, atol=1e-14)

    @pytest.mark.parametrize(
        "options",
        [
            {"scheme": "exponential"},
            {"control": True},
            {"level": "iteration"},
            {"refine": 2},
            {"paths": 3000},
        ],
        ids=str,
    )
    def test_every_option_works_there(self, options, xp_backend):
        if xp_backend.name == "numpy":
            pytest.skip("this is the host")
        flow = quadratic_flow(noise=NOISE if "scheme" in options else CURVED)
        here, there = (
            run(flow, t_end=2.0, **options, **place) for place in ({}, {"device": xp_backend, "rng": "host"})
        )
        np.testing.assert_allclose(there.states, here.states, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(there.mean, here.mean, rtol=1e-9, atol=1e-12)

    def test_nothing_waits_for_the_device_inside_the_loop(self, flow, no_sync):
        strict = pytest.importorskip("array_api_strict")
        there = run(
            flow,
            t_end=2.0,
            device=st.Backend("array_api_strict", strict, strict.Device("device1")),
            exit=0.8,
            radius=5.0,
        )
        assert there.states.shape == (1, 300, flow.dim)

    def test_divergence_there_is_told_per_path(self, xp_backend):
        if xp_backend.name == "numpy":
            pytest.skip("this is the host")
        flow = st.Flow(st.landscape("double_well"), st.SGD(), st.Noise(gradient=1.0), step=0.7)
        options = {"start": [1.0, 0.0], "t_end": 35.0, "paths": 400, "seed": 0, "radius": 20.0}
        here, there = (
            st.simulate(flow, **options, **place) for place in ({}, {"device": xp_backend, "rng": "host"})
        )
        assert 10 < there.diverged.sum() < 390
        # Paths that pass near a basin's edge amplify rounding: a few may end differently.
        assert (here.diverged != there.diverged).sum() <= 8

    def test_the_devices_own_noise_has_the_same_law(self, xp_backend):
        if xp_backend.normals(0) is None:
            pytest.skip("no generator of its own")
        flow = quadratic_flow()
        ens = run(flow, device=xp_backend, paths=20_000, t_end=10.0)
        assert st.compare(st.linearize(flow), ens).max_z < 4
        assert not np.array_equal(ens.states[:, :300], run(flow, t_end=10.0).states)

    def test_cuda_without_a_gpu_says_what_to_do(self):
        try:
            import cupy

            if cupy.is_available():
                pytest.skip("there is a GPU")
        except ImportError:
            pass
        with pytest.raises(ValueError, match="`device`='cuda' needs"):
            run(quadratic_flow(), device="cuda")

    def test_real_minibatches_stay_on_the_host(self, rng):
        strict = pytest.importorskip("array_api_strict")
        F = st.least_squares(rng.standard_normal((60, 2)), rng.standard_normal(60), l2=0.1)
        flow = st.Flow(F, st.SFN(damping=0.5), st.Noise.from_data(F, batch=8), step=0.2)
        with pytest.raises(ValueError, match="use device='cpu'"):
            run(flow, level="iteration", device=st.Backend("array_api_strict", strict))

    def test_fleets_are_as_small_as_the_memory_wants(self, monkeypatch):
        strict = pytest.importorskip("array_api_strict")
        whole = run(quadratic_flow(), paths=1100, t_end=1.0, save=2, quantiles=[0.5])
        monkeypatch.setattr(gather, "DEVICE_BYTES", 1)
        parts = run(
            quadratic_flow(),
            paths=1100,
            t_end=1.0,
            save=2,
            quantiles=[0.5],
            device=st.Backend("array_api_strict", strict),
        )
        np.testing.assert_allclose(parts.states, whole.states, rtol=1e-12, atol=1e-14)
        assert np.isnan(parts.stats["noise_share"])


class Well(st.Objective):
    """``(w^2 - 1)^2 / 4``."""

    dim, reference = 1, np.zeros(1)

    def gradient(self, w):
        return w**3 - w

    def hessian(self, w):
        return (3 * w**2 - 1)[..., None]

    def third(self, w, v):
        return (6 * w * v)[..., None]


class TestOddRequests:
    """What an independent reader tried."""

    @pytest.mark.slow
    @pytest.mark.parametrize(("t_end", "radius"), [(3.0, None), (20.0, None), (60.0, None), (20.0, 3.0)])
    def test_a_control_that_runs_away_does_no_harm(self, t_end, radius):
        flow = st.Flow(Well(), st.SGD(), st.Noise(gradient=0.5), step=0.1)
        options = {"start": [0.1], "t_end": t_end, "radius": radius}
        sharp, plain = (
            st.simulate(flow, paths=n, seed=k, control=c, **options)
            for k, (n, c) in enumerate([(3000, True), (20_000, False)])
        )
        assert (
            abs(sharp.covariance - plain.covariance).max()
            < 4 * np.hypot(sharp.covariance_error, plain.covariance_error).max()
        )
        assert (
            abs(sharp.mean - plain.mean).max()
            < 4 * np.hypot(sharp.standard_error, plain.standard_error).max()
        )

    def test_a_control_beyond_all_numbers_is_left_out(self):
        flow = st.Flow(Well(), st.SGD(), st.Noise(gradient=0.5), step=0.1)
        ens = st.simulate(flow, start=[0.1], t_end=800.0, paths=300, seed=0, control=True)
        assert ens.notes == ("The control variate was left out: the linearised flow left all bounds.",)

    def test_without_noise_there_is_nothing_to_cut(self):
        assert "cut the variance" not in str(run(quadratic_flow(noise=st.Noise()), control=True))

    def test_a_hopeless_wish_is_given_up_soon(self):
        flow = st.Flow(st.quadratic([-5.0, 0.5]), st.SGD(), NOISE, step=0.2)
        with pytest.warns(st.StabilityWarning, match="there is no finite variance"):
            ens = run(flow, paths=None, target_error=0.1, t_end=100.0)
        assert ens.diverged.all()
        assert len(ens.diverged) <= 1024

    def test_a_wish_reserves_no_memory_before_it_is_needed(self):
        flow = st.Flow(st.quadratic(np.linspace(1, 2, 300)), st.SGD(), NOISE, step=0.2)
        assert run(flow, paths=None, target_error=0.2, t_end=0.4, save=2).stats["target_met"]
        starts = np.random.default_rng(0).standard_normal((700, 3))
        assert len(run(quadratic_flow(), start=starts, paths=None, target_error=0.5).diverged) <= 700

    def test_own_samples_cannot_be_bridged(self):
        class Laplace(st.Noise):
            def sample(self, w, size, rng):
                still = np.zeros((size, len(w), len(w)))
                return rng.laplace(size=(size, len(w))), still, still

        ens = run(quadratic_flow(noise=Laplace()), paths=300)
        assert ens.states.std() > 0.1
        with pytest.raises(ValueError, match="`refine` needs a noise made of standard normals"):
            run(quadratic_flow(noise=Laplace()), refine=1)

    def test_own_curvature_noise_must_be_declared(self):
        class Silent(st.Noise):
            def sample(self, w, size, rng):
                return (
                    np.zeros((size, len(w))),
                    rng.standard_normal((size, len(w), len(w))),
                    np.zeros((size, len(w), len(w))),
                )

        flow = quadratic_flow(noise=Silent())
        for ask in (run, st.linearize, st.lyapunov_exponents):
            with pytest.raises(
                ValueError, match=r"Silent\.sample gives curvature noise, but its `has_curvature` is False"
            ):
                ask(flow)

    def test_masks_stay_masks_in_single_precision(self):
        class Masked(st.Objective):
            dim, reference = 3, np.zeros(3)

            def __init__(self):
                self.mask = np.array([True, False, True])

            def gradient(self, w):
                g = np.zeros_like(w)
                g[..., self.mask] = w[..., self.mask]
                return g

            def hessian(self, w):
                return np.broadcast_to(np.diag(self.mask.astype(w.dtype)), (*w.shape, 3))

            def third(self, w, v):
                return np.zeros((*w.shape, 3))

        flow = st.Flow(Masked(), st.SGD(), NOISE, step=0.2)
        assert np.abs(run(flow).states - run(flow, dtype="float32").states).max() < 1e-5

    @pytest.mark.parametrize("backend", ["host", "strict"])
    def test_a_path_may_leave_the_region_at_the_step_that_loses_it(self, backend):
        flow = st.Flow(st.quadratic([-3.0, -3.0]), st.SGD(), st.Noise(gradient=5.0), step=1.0)
        place = (
            {}
            if backend == "host"
            else {"device": st.Backend("array_api_strict", pytest.importorskip("array_api_strict"))}
        )
        ens = st.simulate(flow, start=[0, 0], t_end=5.0, paths=500, seed=0, exit=2.5, radius=3.0, **place)
        assert ens.diverged.all()
        assert (ens.exit_times <= ens.diverged_at).all()

    def test_a_path_that_starts_outside_left_at_once(self):
        starts = np.stack([np.zeros(3), np.full(3, 2.0)])
        assert (
            run(quadratic_flow(noise=st.Noise()), start=starts, paths=2, exit=1.0).exit_times.tolist()[1]
            == 0.0
        )

    @pytest.mark.parametrize(("dtype", "radius"), [("float64", 1e200), ("float32", 1e25), ("float32", 1e200)])
    def test_a_radius_may_be_as_good_as_none(self, dtype, radius):
        flow = st.Flow(st.landscape("double_well"), st.SGD(), st.Noise(gradient=1.0), step=0.7)
        ens = st.simulate(
            flow, start=[1.0, 0.0], t_end=35.0, paths=300, seed=0, radius=radius, dtype=dtype, exit=1e200
        )
        assert 0 < ens.diverged.sum() < 300
        assert np.isfinite(ens.states).all()

    def test_tiny_noise_in_single_precision(self):
        ens = run(quadratic_flow(method=st.SGD(), noise=st.Noise(gradient=1e-38)), dtype="float32")
        assert not ens.diverged.any()

    @pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
    def test_observables_of_all_kinds(self):
        ens = run(
            quadratic_flow(),
            observables={
                "log": lambda w: np.log(w[:, 0]),
                "left": lambda w: w[:, 0] < 0,
                "whole": lambda w: np.ones(len(w), int),
            },
        )
        assert np.isnan(ens.observables["log"]).all()
        assert "Not finite on some state, and therefore without a mean: log." in str(ens)
        assert ens.observables["left"][-1] == (ens.states[-1, :, 0] < 0).mean()
        assert ens.observables["whole"][-1] == 1

        def spoil(w):
            w[:] = 0
            return w[:, 0]

        with pytest.raises(ValueError, match="read-only"):
            run(quadratic_flow(), observables={"spoil": spoil})
        with pytest.raises(
            ValueError,
            match=r"`observables\['few'\]` must give one number per state; 256 states gave shape \(3,\)",
        ):
            run(quadratic_flow(), observables={"few": lambda w: w[:3, 0]})

    @pytest.mark.parametrize("chunk", [1, 5, 64])
    def test_bridged_paths_do_not_depend_on_chunks(self, chunk, monkeypatch):
        whole = run(quadratic_flow(), refine=3)
        monkeypatch.setattr(plans.EnsemblePlan, "chunk", lambda self, width: chunk)
        np.testing.assert_array_equal(run(quadratic_flow(), refine=3).states, whole.states)

    def test_many_halvings_take_little_memory_and_not_too_many_steps(self):
        assert run(quadratic_flow(), t_end=0.2, paths=3, refine=12).stats["path_steps"] == 3 * 4096
        with pytest.raises(ValueError, match="time steps of"):
            run(quadratic_flow(), t_end=2e5, paths=3, refine=20)

    @pytest.mark.parametrize("option", ["control", "progress", "accelerate"])
    def test_yes_and_no_are_no_texts(self, option):
        with pytest.raises(ValueError, match=f"`{option}` must be True or False; got 'no'"):
            run(quadratic_flow(), **{option: "no"})

    def test_what_is_no_flow_is_told(self):
        with pytest.raises(ValueError, match=r"`flow` must be a st\.Flow"):
            st.simulate(st.quadratic([1.0]), start=[0.0], t_end=1.0, paths=3, seed=0)

    @pytest.mark.parametrize("error", [1e-200, 1e300, 2.0])
    def test_accuracies_out_of_reach_are_refused(self, error):
        with pytest.raises(ValueError, match="`target_error` is relative"):
            run(quadratic_flow(), paths=None, target_error=error)


class TestLaw:
    """What an ensemble's paths follow is told by the ensemble; theory takes it as it is."""

    FLOW = quadratic_flow((1.0,), step=0.2)

    @pytest.mark.parametrize(
        ("options", "law", "words"),
        [
            ({"dt": 0.1}, ("chain", 0.1), {"time": "chain", "dt": 0.1}),
            ({"scheme": "exponential", "dt": 0.1}, ("continuous", 0.0), {"time": "continuous"}),
            ({"level": "iteration"}, ("discrete", 0.2), {"time": "discrete"}),
        ],
        ids=["chain", "continuous", "discrete"],
    )
    def test_every_time_of_the_theory_takes_it(self, options, law, words, tmp_path):
        ens, lin = run(self.FLOW, **options), st.linearize(self.FLOW)
        assert ens.law == law
        assert st.load(st.save(ens, tmp_path / "ens")).law == law
        assert lin.covariance(time=ens.law) == lin.covariance(**words)
        assert lin.excess_risk(time=ens.law) == lin.excess_risk(**words)
        assert lin.moments(1.0, [0.5], time=ens.law) == lin.moments(1.0, [0.5], **words)
        ours, theirs = (
            st.trajectory(self.FLOW, [0.5], 4.0, save=[4.0], **how) for how in ({"time": ens.law}, words)
        )
        assert ours.law == theirs.law == law
        np.testing.assert_array_equal(ours.covariance, theirs.covariance)
        assert st.compare(ours, ens).law == f"{law[0]} along the path"
        if law[0] != "discrete":
            one, other = (
                st.stationary_density(self.FLOW, 2, cells=40, **how) for how in ({"time": ens.law}, words)
            )
            assert one.covariance == other.covariance
        if law[0] != "chain":
            s, asked = (
                st.spectrum(st.quadratic([1.0, 0.5])),
                {"method": st.SGD(), "step": 0.2, "noise": st.Noise(gradient=0.3)},
            )
            assert s.variance(time=ens.law, **asked) == s.variance(time=law[0], **asked)

    def test_what_does_not_belong_together_is_refused(self):
        lin = st.linearize(self.FLOW)
        other = run(quadratic_flow((1.0,), step=0.1), level="iteration", t_end=1.0)
        with pytest.raises(ValueError, match=r"iteration at step 0\.1; the flow has step 0\.2"):
            lin.covariance(time=other.law)
        with pytest.raises(
            ValueError, match=r"`dt` is part of the law that `time` names \(time='chain', dt=0\.2"
        ):
            lin.covariance(time=run(self.FLOW).law, dt=0.2)
        with pytest.raises(ValueError, match="`time` must be one of continuous, chain; got 'discrete'"):
            st.stationary_density(self.FLOW, 2, time=run(self.FLOW, level="iteration").law)


class TestArguments:
    def test_an_unknown_one_is_refused_by_name(self):
        with pytest.raises(
            TypeError,
            match=r"`thread` is no option of st\.simulate\. .* keep, .*workers, .*progress",
        ):
            run(quadratic_flow(), thread=2)

    @pytest.mark.parametrize("function", [st.simulate, st.escape], ids=lambda f: f.__name__)
    def test_every_one_is_documented(self, function):
        names = set(inspect.signature(function).parameters) - {"options"}
        names |= set(request.DEFAULTS) if function is st.simulate else set()
        said = re.findall(r"^([a-z_, ]+) : ", inspect.getdoc(function), flags=re.M)
        assert names <= {name for line in said for name in line.split(", ")}

    def test_the_seed_is_0_by_default(self):
        found = st.simulate(FLOWS["planar"], start=[0.5, 0.5], t_end=1.0, paths=10)
        np.testing.assert_array_equal(found.states, run(FLOWS["planar"], t_end=1.0, paths=10, seed=0).states)
