"""The command line speaks of its own options, whatever the library calls them."""

import json
import re
import warnings

import click
import pytest
from click.testing import CliRunner

import stability as st
from stability.cli import main
from stability.cli._main import Command

TABLE = "a,b,y\n1,2,0\n3,1,1\n2,2,1\n1,1,0\n"


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(TABLE)
    return str(path)


def refusal(*asked: str) -> str:
    result = CliRunner().invoke(main, asked)
    assert result.exit_code == 2, result.output
    return result.stderr


BOUND = ("bound", "--csv", "TABLE", "--target", "y", "--model", "logistic")
FORMULA = ("simulate", "--expression", "x^2")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("simulate", "--landscape", "hill"), "`--landscape` must be one of"),
        ((*FORMULA, "--start", "1,2"), "`--start` must have shape (1,)"),
        ((*FORMULA, "--t-end", "0.05"), "`--t-end` must be a multiple"),
        ((*FORMULA, "--noise", "-1"), "`--noise` must hold standard deviations"),
        ((*FORMULA, "--save", "0"), "`--save` must be"),
        (("portrait", "--expression", "x^2+y^2", "--resolution", "1"), "`--resolution` must be"),
        (("simulate", "--expression", "x^2+E*y^2"), "must be listed, --variables E,x,y:"),
        ((*BOUND, "--hessian-batch", "9"), "`--hessian-batch` must be"),
        ((*BOUND, "--drop", "y"), "Leave it out of `--drop`"),
        (("train", "--data", "digits", "--activation", "relu"), "`--activation` must be smooth"),
        (("theorems", "pythagoras"), "`NAME` must be one of"),
        ((*FORMULA, "--beta", "0.5"), "`--beta` is for momentum and nesterov; sfn has none."),
        ((*FORMULA, "--method", "sign", "--eps", "0.5"), "leave it out, or use --method rmsprop"),
        ((*FORMULA, "--method", "adam", "--damping", "1"), "`--damping` is for damped-newton, sfn"),
        ((*FORMULA, "--method", "adam", "--beta", "0.5"), "adam has none. Leave it out, or use --method mom"),
        ((*FORMULA, "--method", "adam", "--beta1", "1"), "`--beta1` must be in [0, 1); got 1"),
        ((*FORMULA, "--weight-decay", "-1"), "`--weight-decay` must be a finite number >= 0; got -1"),
        ((*BOUND, "--beta2", "0.9"), "sgd, newton, damped-newton, sfn, lrsfn and lrsfn-flat have none."),
        ((*BOUND, "--method", "sgd", "--method", "adam", "--rank", "1"), "sgd and adam have none."),
        (("portrait", "--expression", "x^2", "--rank", "1"), "sgd, newton and sfn have none."),
        (("train", "--data", "digits", "--method", "lbfgs", "--eps", "1"), "`--eps` is for rmsprop, adam"),
        (("theorems", "--beta", "0.5"), "`--beta` is a number for one theorem: name it"),
        (("theorems", "excess-risk", "--beta", "0.5"), "`--beta` changes nothing in 'excess-risk'"),
        (("theorems", "momentum", "--method", "nesterov", "--beta", "1"), "`--beta` must be in"),
    ],
)
def test_what_the_library_says_of_an_argument_is_said_of_its_option(asked, said, table):
    told = refusal(*(table if part == "TABLE" else part for part in asked))
    assert said.lower() in told.lower()
    named = re.findall("`([^`]*)`", told)
    assert all(name.startswith("--") or name.isupper() for name in named)


@pytest.mark.parametrize(
    ("asked", "method"),
    [
        (("--method", "adam", "--beta1", "0.5", "--beta2", "0.9"), "Adam(beta1=0.5, beta2=0.9, eps=1e-08)"),
        (("--method", "rmsprop", "--eps", "0.5"), "RMSprop(beta2=0.99, eps=0.5)"),
        (
            ("--method", "sfn", "--damping", "2", "--weight-decay", "0.5"),
            "SFN(damping=2.0, weight_decay=0.5)",
        ),
        (("--method", "momentum", "--weight-decay", "0"), "Momentum(SGD(), beta=0.9)"),
    ],
)
def test_a_number_is_the_methods_that_have_it(asked, method):
    shown = CliRunner().invoke(main, [*FORMULA, *asked, "--paths", "2", "--t-end", "0.1"])
    assert shown.exit_code == 0, shown.output
    assert method in shown.output


def test_numbers_stand_for_the_symbols_of_a_theorem():
    asked = ["theorems", "batch-sharpness", "--beta", "0.9"]
    told = CliRunner().invoke(main, asked).output.partition("With beta = 0.9")[2]
    assert re.findall(r"= ([\d.]+)\n", told) == ["3.8", "0.2"]
    written = json.loads(CliRunner().invoke(main, [*asked, "--json"]).output)
    assert written["given"] == {"beta": 0.9}
    assert written["numbers"]["small-batches"] == r"B \alpha = 0.2"
    refused = CliRunner().invoke(main, [*asked[:-1], "2"])
    assert refused.exit_code == 2
    assert "it needs that the buffer forgets: 0 <= beta < 1; got beta = 2" in refused.stderr


@pytest.mark.parametrize("name", ["advise", "bound", "simulate", "portrait", "train", "theorems"])
def test_help_has_examples_with_the_numbers_of_methods(name):
    command = main.commands[name]
    assert command.epilog.startswith("Examples:  stability")
    known = {option for one in command.params for option in one.opts}
    used = set(re.findall(r"--[\w-]+", command.epilog))
    assert used <= known
    assert used & {"--beta", "--damping", "--weight-decay"}


def test_advice_is_given_in_options_but_python_in_brackets_stays():
    simulate = main.commands["simulate"]
    assert isinstance(simulate, Command)
    said = simulate.in_options("Use level='iteration', dt=0.5 or order=1, as in Noise(batch=2).")
    assert said == "Use --level iteration, --dt 0.5 or order=1, as in Noise(batch=2)."


def test_a_warning_speaks_of_options_too():
    def work(step: float) -> None:
        click.echo(warnings.formatwarning("`step` is long.", UserWarning, "a file", 1))

    command = Command("work", params=[click.Option(["--step"])], callback=work)
    assert CliRunner().invoke(command, ["--step", "1"]).output == "Warning: `--step` is long.\n\n"


@pytest.mark.parametrize("command", ["bound", "train"])
def test_without_a_target_the_columns_are_listed(command, table):
    asked = ("--csv", table, "--model", "logistic") if command == "bound" else ("--data", table)
    assert "`--target` must be given: the column to predict." in refusal(command, *asked)
    assert "table.csv has the columns a, b, y." in refusal(command, *asked)
    with pytest.raises(ValueError, match=r"`target` must be given.* has the columns a, b, y"):
        st.datasets.read_table(table, model="logistic")


@pytest.mark.slow
def test_the_coordinates_of_a_formula_are_named_in_order():
    asked = ("simulate", "--expression", "x^2 + E*y^2", "--variables", "y,E,x", "--paths", "2")
    shown = CliRunner().invoke(main, [*asked, "--t-end", "0.1"])
    assert re.findall(r"^(\w)  ", shown.output, re.M) == ["y", "E", "x"]
    assert "leave it out with `--landscape`" in refusal(
        "simulate", "--landscape", "rosenbrock", "--variables", "x"
    )


def test_a_table_of_many_columns_shows_its_first_and_its_last(tmp_path):
    path = tmp_path / "wide.csv"
    rows = [[f"c{j}" for j in range(60)], *([(i * j) % 7 for j in range(1, 61)] for i in range(8))]
    lines = [",".join(map(str, [*row, "y" if i == 0 else i % 2])) for i, row in enumerate(rows)]
    path.write_text("\n".join(lines))
    shown = repr(
        st.datasets.read_table(path, target="y", model="logistic", drop=[f"c{j}" for j in range(6, 60, 7)])
    )
    assert len(shown.splitlines()) <= 14
    assert all(name in shown for name in ("c0", "...", "intercept"))


def test_one_dimension_is_one():
    assert "1 sample in 1 dimension," in repr(st.least_squares([[1.0]], [1.0]))
    assert repr(st.quadratic([1.0])) == "quadratic in 1 dimension"
    assert repr(st.quadratic([1.0, 2.0])) == "quadratic in 2 dimensions"
