"""What a run leaves behind: its words and its picture, and what SciPy's optimizers do not tell."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

import stability as st
from stability import _archive

BASELINES = ("L-BFGS-B", "Newton-CG")


def logistic():
    X = np.random.default_rng(0).standard_normal((40, 3))
    return st.logistic(X, np.random.default_rng(1).integers(0, 2, 40), l2=0.1)


def lrsfn(**options):
    F = logistic()
    return st.minimize(
        F, np.zeros(F.dim), method=st.LRSFN(rank=2, damping=0.1), step=0.5, iterations=8, **options
    )


@pytest.mark.parametrize("name", BASELINES)
def test_the_steps_of_scipys_optimizers_are_not_made_up(name):
    F, shown = logistic(), []
    found = st.minimize(
        F, np.zeros(F.dim), method=name, sweeps=60, callback=lambda progress: shown.append(progress.step)
    )
    assert len(found.steps) == len(found.losses) == len(shown) > 1
    assert np.isnan(found.steps).all()
    assert np.isnan(shown).all()


@pytest.mark.parametrize("name", BASELINES)
def test_the_losses_of_scipys_optimizers_are_of_all_samples_after_the_step(name):
    F, seen = logistic(), []
    found = st.minimize(
        F, np.zeros(F.dim), method=name, sweeps=60, callback=lambda progress: seen.append(progress.w.copy())
    )
    np.testing.assert_allclose(found.losses, [F.value(w) for w in seen], rtol=1e-12)
    assert found.losses[-1] == pytest.approx(found.loss)


@pytest.mark.parametrize("name", BASELINES)
def test_runs_of_scipys_optimizers_are_printed_saved_and_drawn(name, tmp_path):
    F = logistic()
    found = st.minimize(F, np.zeros(F.dim), method=name, sweeps=60)
    assert "nan" not in str(found)
    assert "batch loss" not in str(found)
    assert f"loss after the first iteration {found.losses[0]:.5g} -> {found.loss:.5g}" in str(found)
    assert np.isnan(st.load(st.save(found, tmp_path / "run")).steps).all()
    figure = st.plot(found)
    figure.canvas.draw()
    (loss,) = figure.axes  # no panel for steps that nobody knows
    labels = [line.get_label() for line in loss.lines]
    assert labels[0] == "all samples, after the step"
    assert "gradient batch, before the step" in [line.get_label() for line in st.plot(lrsfn()).axes[0].lines]


def test_the_largest_step_is_printed_and_not_the_last():
    found = lrsfn(decay="linear")
    assert found.steps[0] == 0.5 > found.steps[-1]
    text = str(found)
    assert "largest step of the run 0.5, last predicted mean-square limit" in text
    assert "loss 0.69" in text
    assert "batch loss" in text
    assert "largest step of the run 0," in str(
        replace(found, steps=np.zeros(0))
    )  # ended within the first iteration


class Plain:
    """An objective with nothing but value and gradient; Ctrl-C at one of its gradients."""

    def __init__(self, stop_at=None):
        self.inner, self.gradients, self.stop_at = logistic(), 0, stop_at
        self.dim = self.inner.dim

    def value(self, w):
        return self.inner.value(w)

    def gradient(self, w):
        self.gradients += 1
        if self.gradients == self.stop_at:
            raise KeyboardInterrupt
        return self.inner.gradient(w)


class Curved(Plain):
    def hvp(self, w, V):
        return self.inner.hvp(w, V)


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("stop_at", [1, 4])
def test_ctrl_c_in_scipys_optimizers_leaves_the_history_so_far(name, stop_at):
    F, seen = Curved(stop_at), []
    with pytest.raises(
        st.Interrupted, match=r"the history of \d iterations is in this exception's `.result`"
    ) as stopped:
        st.minimize(
            F,
            np.zeros(F.dim),
            method=name,
            sweeps=60,
            check=False,  # the gradients of the run itself are counted
            callback=lambda progress: seen.append(progress.w.copy()),
        )
    found = stopped.value.result
    assert found.status == f"interrupted after {len(seen)} iterations"
    assert len(found.losses) == len(seen)
    assert (len(seen) > 0) == (stop_at > 1)
    np.testing.assert_array_equal(found.final, seen[-1] if seen else np.zeros(F.dim))
    assert found.loss == pytest.approx(F.value(found.final))
    assert found.stats["gradients"] == stop_at
    str(found)


def test_newton_cg_says_what_the_objective_lacks_before_any_work():
    F = Plain()
    with pytest.raises(
        ValueError, match=r"`objective` lacks hvp, which Newton-CG needs.*or use method='L-BFGS-B'"
    ):
        st.minimize(F, np.zeros(F.dim), method="Newton-CG", sweeps=5)
    assert F.gradients == 0
    assert st.minimize(F, np.zeros(F.dim), method="L-BFGS-B", sweeps=5).status == "done"


@pytest.mark.parametrize("name", BASELINES)
def test_as_many_iterations_as_were_wanted_are_done(name):
    F = logistic()
    found = st.minimize(F, np.zeros(F.dim), method=name, iterations=2)
    assert found.status == "done"
    assert len(found.losses) == 2
    assert found.loss == pytest.approx(found.losses[-1])


@pytest.mark.parametrize("name", [*BASELINES, "lrsfn"])
def test_a_stop_by_the_callback_reads_the_same_for_every_optimizer(name):
    def stop(progress):
        return progress.iteration == 1

    F = logistic()
    found = (
        lrsfn(callback=stop)
        if name == "lrsfn"
        else st.minimize(F, np.zeros(F.dim), method=name, sweeps=60, callback=stop)
    )
    assert found.status == "ended by the callback after iteration 1"
    assert len(found.losses) == 2


class Wrong(Plain):
    """Its gradient points the other way: SciPy's line search finds nothing."""

    def gradient(self, w):
        return -self.inner.gradient(w)


def interrupted():
    with pytest.raises(st.Interrupted) as stopped:
        st.minimize(Plain(3), np.zeros(3), method=st.SGD(), step=0.1, iterations=9, check=False)
    return stopped.value.result


def from_the_minimum(**options):
    rng = np.random.default_rng(0)
    F = st.least_squares(rng.standard_normal((60, 4)), rng.standard_normal(60))
    return st.minimize(F, F.reference, batch=2, sweeps=20, **options)


ENDINGS = {
    "done": lrsfn,
    "ended by the callback": lambda: lrsfn(callback=lambda progress: True),
    "ended by SciPy": lambda: st.minimize(Wrong(), np.ones(3), method="L-BFGS-B", sweeps=200, check=False),
    "interrupted": interrupted,
    "diverged": lambda: st.minimize(
        st.quadratic([1.0, 2.0]), np.ones(2), method=st.SGD(), step=3.0, iterations=30
    ),
    "lost": from_the_minimum,
    "done, but": lambda: from_the_minimum(method=st.SGD(), step=1e-3),
}


@pytest.mark.parametrize("status", ENDINGS)
def test_how_a_run_ended_is_told_in_words_and_to_programs(status, tmp_path):
    found = ENDINGS[status]()
    assert found.status.startswith(status)
    end = status.removesuffix(", but")
    file = st.save(found, tmp_path / "run")
    arrays, text = _archive.unpack(file)
    record = json.loads(text)
    assert record["values"].pop("end") == end
    now = st.load(file)
    file.write_bytes(_archive.pack(arrays, json.dumps(record)))  # as when a history had its status alone
    for one in (found, now, st.load(file)):
        assert (one.end, one.done, one.diverged, one.lost) == (
            end,
            end == "done",
            end == "diverged",
            end == "lost",
        )


@pytest.mark.parametrize("module", ["stability.training.baselines", "stability.spectra.lanczos"])
def test_the_import_of_a_module_does_not_bind_scipy(module):
    code = f"import importlib; print('scipy' in vars(importlib.import_module({module!r})))"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "False"
    )
