"""The command line speaks of its own options, whatever the library calls them."""

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
    ],
)
def test_what_the_library_says_of_an_argument_is_said_of_its_option(asked, said, table):
    told = refusal(*(table if part == "TABLE" else part for part in asked))
    assert said in told
    named = re.findall("`([^`]*)`", told)
    assert all(name.startswith("--") or name.isupper() for name in named)


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
        st.read_table(table, model="logistic")


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
    shown = repr(st.read_table(path, target="y", model="logistic", drop=[f"c{j}" for j in range(6, 60, 7)]))
    assert len(shown.splitlines()) <= 14
    assert all(name in shown for name in ("c0", "...", "intercept"))


def test_one_dimension_is_one():
    assert "1 sample in 1 dimension," in repr(st.least_squares([[1.0]], [1.0]))
    assert repr(st.quadratic([1.0])) == "quadratic in 1 dimension"
    assert repr(st.quadratic([1.0, 2.0])) == "quadratic in 2 dimensions"
