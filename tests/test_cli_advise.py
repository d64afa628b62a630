"""`stability advise`: how large a step, from the command line, and what a user may get wrong."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

import stability as st
from stability import cli
from stability.cli import _training

SMALL = ("--hidden", 4, "--sweeps", 2, "--batch", 16)


def advise(*options):
    return CliRunner().invoke(cli.main, ["advise", *map(str, options)])


def found(*options):
    result = advise(*options, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A CSV file with two classes told apart by two columns, and a number."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((160, 2))
    k = (X.sum(1) + rng.standard_normal(160) > 0).astype(int)
    size = X @ [2, -1] + 0.3 * rng.standard_normal(160)
    rows = [f"{a:.4f},{b:.4f},{('no', 'yes')[c]},{s:.4f}" for (a, b), c, s in zip(X, k, size, strict=True)]
    path = tmp_path_factory.mktemp("tables") / "table.csv"
    path.write_text("a,b,label,size\n" + "\n".join(rows) + "\n")
    return path


LABEL = ("--target", "label", "--drop", "size")


def test_a_regression_is_asked_at_its_minimum_and_answered_as_bound_does(table):
    of = ("--csv", table, *LABEL, "--model", "logistic", "--batch", 8, "--step", 0.01, "--hessian-batch", 8)
    names = ("newton", "lrsfn", "sgd", "momentum", "adam")
    every = [part for name in names for part in ("--method", name)]
    asked = map(str, ("bound", *of, *every, "--rank", 2, "--json"))
    rows = json.loads(CliRunner().invoke(cli.main, list(asked)).stdout)["methods"]
    for name, row in zip(names, rows, strict=True):
        drawn = of if name in ("newton", "lrsfn") else of[:-2]
        told = found(*drawn, "--method", name, *(("--rank", 2) if name == "lrsfn" else ()))
        assert told["exact"]
        # Adam's metric has the mean gradient's square in it there, which vanishes here but for rounding.
        assert told["step_limit"] == pytest.approx(row["step_limit"], rel=0.02 if name == "adam" else 1e-9)
        assert told["share"] == pytest.approx(0.01 / told["step_limit"])


def test_a_network_is_asked_about_where_its_training_ended(table):
    of = ("--data", table, *LABEL, *SMALL, "--method", "nesterov", "--beta", 0.5, "--step", 0.02)
    told = found(*of, "--seed", 3)
    chosen = {"model": "mlp", "hidden": (4,), "activation": "tanh", "target": "label", "l2": 0.0}
    F = _training.prepare(
        str(table), **chosen, dtype="float32", seed=3, reading={"drop": ["size"], "columns": ()}
    ).train
    method = st.Momentum(st.SGD(), 0.5, nesterov=True)
    run = {"method": method, "step": 0.02, "batch": 16, "seed": 3}
    history = st.minimize(F, F.initial(3), **run, sweeps=2, dtype="float32")
    advice = st.advise(F, history.final, **run)
    assert told["step_limit"] == advice.step_limit
    assert told["noise_floor"] == float(advice.noise_floor)
    assert told["trained"]["loss"] == history.loss


def test_the_page_says_what_was_trained_and_what_to_do(table, tmp_path):
    out = tmp_path / "advice"
    result = advise("--data", table, *LABEL, *SMALL, "--method", "adamw", "--epochs", 1, "--out", out)
    assert result.exit_code == 0, result.stderr
    assert "after 1 sweeps of training at step 0.001: loss " in result.stdout
    assert "AdamW: lr 0.001 is" in result.stdout
    assert str(st.load(out)) in result.stdout
    assert result.stdout.endswith(f"{out}.png, .svg, .json, .npz\n")


def test_at_the_start_nothing_is_trained(table):
    told = found("--data", table, *LABEL, "--hidden", 4, "--sweeps", 0)
    assert told["trained"] is None
    assert told["batch"] == 32


def test_training_that_raised_the_loss_is_told(table):
    result = advise("--data", table, *LABEL, *SMALL, "--step", 20)
    assert "note: training raised the loss" in result.stdout


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("--model", "logistic", "--sweeps", "3"), "`--sweeps` is for networks; logistic is asked at its"),
        (("--model", "logistic", "--hidden", "3"), "`--hidden` is for networks; logistic has no layers"),
        (("--batch", "161"), "`--batch` must be an integer >= 1 and <= 128"),
        (("--hessian-batch", "4"), "`--hessian-batch` is for methods with curvature; sgd has none."),
        (("--method", "lrsfn", "--hessian-batch", "0"), "`--hessian-batch` must be an integer >= 1"),
        (("--budget", "3"), "`--budget` must be at least 20 gradients; got 3. Leave it out for 60."),
        (("--samples", "1"), "1 is not in the range x>=2"),
        (("--horizon", "0"), "0 is not in the range x>=1"),
        (("--step", "0"), "`--step` must be a finite number > 0"),
        (("--sweeps", "-1"), "`--sweeps` must be a finite number >= 0"),
        (("--method", "newton", "--beta", "0.5"), "`--beta` is for momentum and nesterov; newton has none"),
    ],
)
def test_what_does_not_fit_is_one_sentence(table, asked, said):
    result = advise("--data", table, *LABEL, *asked)
    assert result.exit_code == 2
    assert said in result.stderr
    assert "Network" not in result.stdout  # nothing was trained for it


def test_images_have_no_regression():
    result = advise("--data", "digits", "--model", "logistic")
    assert "`--model logistic` is for a CSV file: give one, or use --model mlp." in result.stderr


def test_a_network_whose_training_ended_nowhere_is_refused(table):
    result = advise("--data", table, *LABEL, *SMALL, "--model", "autoencoder", "--step", 1e9)
    assert result.exit_code == 2
    assert "cannot be asked about where its training ended: diverged" in result.stderr
    assert "Give a smaller `--step`, or --sweeps 0" in result.stderr


@pytest.mark.parametrize("stage", ["take_limits", "take_noise"])
def test_ctrl_c_leaves_what_is_known(table, monkeypatch, tmp_path, stage):
    def pressed(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"stability.advice.exact.Exact.{stage}", pressed)
    of = ("--csv", table, *LABEL, "--model", "logistic", "--out", tmp_path / "advice")
    result = advise(*of)
    assert result.exit_code == 1
    assert "Interrupted: what was not reached is not known." in result.stdout
    kept = st.load(tmp_path / "advice")
    assert kept.interrupted
    assert np.isfinite(kept.step_limit) == (stage == "take_noise")
    assert (tmp_path / "advice.png").exists()
    assert not kept.sentence.endswith(", ")  # no reason follows where there is none


class TestWhatNoStepMoves:
    """Weights of an input that is always 0 have a gradient of 0, and a metric without `eps` is infinite."""

    @pytest.mark.parametrize("method", [st.SignSGD(), st.RMSprop(eps=0)])
    @pytest.mark.parametrize("exact", [True, False])
    def test_it_changes_nothing(self, method, exact):
        X = np.random.default_rng(0).standard_normal((100, 3))
        y = (X[:, 0] > 0).astype(int)
        net, padded = (st.mlp(part, y, (2,)) for part in (X, np.insert(X, 1, 0, axis=1)))
        w = net.initial(0)
        weights = np.insert(w[:6].reshape(3, 2), 1, 0.5, axis=0).ravel()
        assert padded.value(np.append(weights, w[6:])) == pytest.approx(net.value(w))
        limits = [
            st.advise(F, at, method=method, step=0.01, batch=8, exact=exact, budget=200).step_limit
            for F, at in ((net, w), (padded, np.append(weights, w[6:])))
        ]
        assert limits[1] == pytest.approx(limits[0], rel=1e-6 if exact else 0.5)

    @pytest.mark.parametrize(
        ("method", "fix"), [(st.SignSGD(), "or ask where"), (st.RMSprop(eps=0), "Give it `eps` > 0, or")]
    )
    @pytest.mark.parametrize("exact", [True, False])
    def test_what_curvature_would_move_is_refused(self, method, fix, exact):
        F = st.expression("x^2 + y^2")
        with pytest.raises(ValueError, match=f"metric is infinite .* as entry 0 here.*{fix}"):
            st.advise(F, [0, 1], method=method, step=0.1, noise=st.Noise(gradient=[0, 1]), exact=exact)
