"""What a run of `st.minimize` records of `st.advise`: the same numbers, at no charge, and never a guess."""

import numpy as np
import pytest

import stability as st
from stability.training import run as runs
from stability.training.asked import ADVISED


def regression(samples=60, dim=4):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((samples, dim)) * [1.0, 0.5, 0.3, 0.2][:dim]
    return st.logistic(X, (X @ np.ones(dim) + rng.standard_normal(samples) > 0).astype(float), l2=0.05)


F = regression()
METHODS = {
    "SGD": {"method": st.SGD(), "step": 0.3},
    "momentum and weight decay": {"method": st.SGD(), "step": 0.1, "momentum": 0.9, "weight_decay": 0.1},
    "Nesterov": {"method": st.Momentum(st.SGD(), 0.5, nesterov=True), "step": 0.1},
    "RMSprop": {"method": st.RMSprop(), "step": 0.01},
    "LRSFN": {"method": st.LRSFN(rank=2, damping=0.1), "step": 0.3, "hessian_batch": 20},
    "a schedule": {"method": st.SGD(), "step": lambda k: 0.3 / (1 + k)},
}


def run_of(name="SGD", **options):
    return st.minimize(F, np.full(4, 0.5), **{"batch": 10, "iterations": 9, **METHODS[name], **options})


@pytest.mark.parametrize("name", METHODS)
def test_it_is_what_is_advised_at_the_iterates(name):
    run, plain = run_of(name, advise_every=4, keep_every=4), run_of(name)
    np.testing.assert_array_equal(run.final, plain.final)
    assert run.stats["sweeps"] == plain.stats["sweeps"]
    assert run.stats["gradients"] == plain.stats["gradients"]
    assert run.advice["iteration"].tolist() == run.kept_at.tolist() == [4, 8]
    np.testing.assert_array_equal(run.advice["sweeps"], run.sweeps[[3, 7]])
    np.testing.assert_array_equal(run.advice["step"], run.steps[[3, 7]])
    method, decay = METHODS[name]["method"], METHODS[name].get("weight_decay", 0.0)
    method = method.with_weight_decay(decay) if decay else method
    method = st.Momentum(method, 0.9) if "momentum" in METHODS[name] else method
    for i, w in enumerate(run.states):
        own = {"hessian_batch": 20} if name == "LRSFN" else {}
        told = st.advise(F, w, method=method, step=float(run.steps[3 + 4 * i]), batch=10, **own)
        for quantity in ADVISED:
            assert run.advice[quantity][i] == pytest.approx(float(getattr(told, quantity)), rel=1e-9), (
                quantity
            )
    assert (run.advice["share"] > 0).all()
    assert not plain.advice


def test_of_the_untuned_rule_it_is_the_metric_as_it_stands():
    rest = st.minimize(F, np.full(4, 0.5), method="L-BFGS-B", sweeps=100).final
    run = st.minimize(F, rest, batch=30, sweeps=30, advise_every=6, limits=True)
    known = np.searchsorted(run.refreshed_at, run.advice["sweeps"], side="right") - 1
    # Curvature moves little here since the refresh before, where all modes were taken.
    np.testing.assert_allclose(run.advice["step_limit"], run.step_limits[known], rtol=0.2)
    assert np.nanmax(run.advice["share"]) < 1


def test_it_is_shown_saved_and_drawn(tmp_path):
    run = run_of(advise_every=4)
    limit = run.advice["step_limit"][-1]
    assert f"advised after iteration 8: step 0.3 is {0.3 / limit:.2g} of the largest stable one" in str(run)
    assert st.load(run.save(tmp_path / "run")) == run
    labels = [line.get_label() for axis in st.plot(run).axes for line in axis.lines]
    assert "advised limit" in labels


def test_what_is_not_known_is_nan_and_says_why():
    concave = st.quadratic([-1.0, -2.0])
    run = st.minimize(concave, [1.0, 1.0], method=st.SGD(), step=0.1, iterations=4, advise_every=2)
    assert np.isnan(run.advice["step_limit"]).all()
    assert run.stats["advice_unknown"]
    assert "the largest stable step is not known" in str(run)
    run = st.minimize(st.quadratic([1.0]), [1e200], method=st.SGD(), step=1e200, iterations=4, advise_every=1)
    assert np.isnan(run.advice["share"][-1])
    assert "no step was taken" in run.stats["advice_unknown"]


def test_without_samples_there_is_no_noise_in_it():
    run = st.minimize(
        st.quadratic([2.0, 1.0]), [1.0, 1.0], method=st.SGD(), step=0.1, iterations=2, advise_every=2
    )
    assert run.advice["step_limit"] == pytest.approx([1.0])
    assert run.advice["noise_floor"] == pytest.approx([0.0])


def test_a_run_that_is_cut_short_while_it_asks_asks_again(tmp_path, monkeypatch):
    whole, calls = run_of(advise_every=3), []
    found = runs.Adviser.at

    def cut(self, w, step):
        calls.append(step)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return found(self, w, step)

    monkeypatch.setattr(runs.Adviser, "at", cut)
    with pytest.raises(st.Interrupted) as caught:
        run_of(advise_every=3, checkpoint=tmp_path / "state")
    assert caught.value.result.advice["iteration"].tolist() == [3]
    again = run_of(advise_every=3, checkpoint=tmp_path / "state")
    for name, column in whole.advice.items():
        np.testing.assert_array_equal(again.advice[name], column)
    with pytest.raises(ValueError, match="was made with `advise_every` = '3'"):
        run_of(advise_every=2, checkpoint=tmp_path / "state")


def test_ctrl_c_during_advice_is_meant_for_the_run(monkeypatch):
    def pressed(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("stability.advice.exact.Exact.advice", pressed)
    with pytest.raises(st.Interrupted, match="of 3 iterations"):
        run_of(advise_every=3)


def test_a_memory_on_a_memory_is_refused():
    with pytest.raises(ValueError, match=r"no momentum of its own.*`beta1`"):
        run_of(method=st.Adam(), momentum=0.5, advise_every=3)


def test_an_objective_without_curvature_is_refused():
    class Plain:
        dim = 2

        def value(self, w):
            return float(w @ w)

        def gradient(self, w):
            return 2 * w

    with pytest.raises(ValueError, match=r"advise_every.*hvp"):
        st.minimize(Plain(), [1.0, 1.0], method=st.SGD(), step=0.1, iterations=2, advise_every=1)
