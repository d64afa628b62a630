"""`stability bound` on a user's table: the library's numbers, or one sentence and exit code 2."""

import gzip
import json
import re

import click
import numpy as np
import pytest
from click.testing import CliRunner

import stability as st
from stability import cli
from stability.datasets import table as tables

GOOD = "a,b,y\n1,2,0\n2,1,1\n3,5,0\n4,1,1\n2,2,1\n0,3,0\n"


@pytest.fixture
def write(tmp_path):
    def to(content, name="table.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return to


def bound(path, *options, target="y", model="logistic"):
    return CliRunner().invoke(
        cli.main,
        ["bound", "--csv", str(path), "--target", target, "--model", model, "--batch", "2", *options],
    )


def strict(text):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


BAD = {
    "missing values": (
        "a,b,y\n1,,0\n2,1,1\n3,,0\n",
        {},
        r"Column 'b' has 2 missing values, the first in data row 1\. Remove or impute them\.",
    ),
    "text in numbers": (
        "a,b,y\n1,2,0\n2,x,1\n",
        {},
        r"Column 'b' holds text \('x' in data row 2\)\. Encode it as numbers or drop the column\.",
    ),
    "dates": (
        "a,y\n2020-01-01,0\n2020-01-02,1\n",
        {},
        r"Column 'a' holds dates or times \('2020-01-01' in data row 1\)\. Give a number instead",
    ),
    "infinite": (
        "a,y\n1,0\ninf,1\n3,1\n",
        {},
        r"Column 'a' holds an infinite value \(data row 2\)\. Remove or impute it\.$",
    ),
    "huge whole number": (
        "a,y\n1,0\n2,1\n" + "9" * 400 + ",1\n",
        {},
        r"Column 'a' holds a number that is too large .* \('9{20}\.\.\.', data row 3\)\. Correct it\.$",
    ),
    "infinite target": ("a,y\n1,0\n2,inf\n", {}, r"The target 'y' holds an infinite value, in data row 2\."),
    "huge target": ("a,y\n1,0\n2," + "9" * 400 + "\n", {}, r"The target 'y' holds a number too large"),
    "dates to predict": (
        "a,y\n1,1 May 2020\n2,2 May 2020\n",
        {},
        r"The target 'y' holds dates or times \('1 May 2020'\)\. Give a number instead",
    ),
    "constant column": (
        "a,b,y\n1,2,0\n1,1,1\n1,1,1\n",
        {},
        r"Column 'a' is constant: it carries no information beside the intercept\. Drop it\.",
    ),
    "constant target": (
        "a,y\n1,2\n2,2\n",
        {"model": "least-squares"},
        r"The target 'y' is constant: there is nothing to fit\.",
    ),
    "one class": (
        "a,y\n1,0\n2,0\n",
        {},
        r"The target 'y' has one class only \(0\): there is nothing to tell apart\.",
    ),
    "numbers, not classes": (
        "a,y\n1,0\n2,1\n3,2\n",
        {},
        r"The target 'y' holds numbers \(3 different ones in 3 rows\), which logistic regression cannot "
        r"predict\. Use model='least-squares'\.$",
    ),
    "names, not classes": (
        "a,y\n1,Ann\n2,Bob\n3,Cy\n",
        {},
        r"holds 3 different words in 3 rows: names rather than classes\. Group them into fewer classes\.$",
    ),
    "missing label": (
        "a,y\n1,0\n2,\n3,1\n",
        {},
        r"Column 'y' has 1 missing values, the first in data row 2\.",
    ),
    "text target": (
        "a,y\n1,0\n2,x\n",
        {"model": "least-squares"},
        r"Column 'y' holds text \('x' in data row 2\), which least squares cannot predict\. Use "
        r"model='logistic'\.$",
    ),
    "missing target": (
        GOOD,
        {"target": "label"},
        r"table\.csv has no column 'label'\. Its columns: a, b, y\.",
    ),
    "missing target of many": (
        ",".join(f"c{i}" for i in range(20)) + "\n" + 2 * (",".join(map(str, range(20))) + "\n"),
        {},
        r"Its columns: c0, c1, .*, c11, \.\.\.\.",
    ),
    "empty": ("", {}, r"table\.csv is empty\."),
    "blank": ("\n\n", {}, r"table\.csv is empty\."),
    "header only": ("a,b,y\n", {}, r"has a header but 0 data rows: at least 2 are needed\."),
    "one row": ("a,y\n1,0\n", {}, r"has a header but 1 data row: at least 2 are needed\."),
    "only the target": ("y\n0\n1\n", {}, r"has no column besides the target 'y': nothing to predict from\."),
    "one row too long": (
        "a,b,y\n1,2,0\n1,2,3,4\n",
        {},
        r"is not a readable CSV table: expected 3 values in line 3, saw 4\.",
    ),
    "one row too short": (
        "a,b,y\n1,2,0\n1,2\n2,1,1\n",
        {},
        r"Column 'y' has 1 missing values, the first in data row 2\.",
    ),
    "all rows too long": (
        "a,b,y\n1,2,0,9\n5,2,1,8\n2,1,1,7\n",
        {"model": "least-squares"},
        r"has more values in its rows \(4\) than names in its header \(3\)\. Give every column a name",
    ),
    "open quote": (
        GOOD + '1,"2,0\n2,1,1\n',
        {},
        r"is not a readable CSV table: a quoted cell has no end; it begins in data row 7\.",
    ),
    "binary": (bytes(range(256)) * 20, {}, r"is not a text in UTF-8 or its like: it holds bytes of zero\.$"),
    "binary without zeros": (
        bytes(range(1, 256)) * 20,
        {},
        r"is not a text in UTF-8\. It is no text at all\.$",
    ),
    "unknown encoding": (GOOD, {"encoding": "rot13"}, r"`encoding` must be .*utf-8, .*cp1252.*; got 'rot13'"),
}


@pytest.mark.parametrize(("content", "options", "message"), BAD.values(), ids=BAD)
def test_a_bad_table_gets_one_sentence_and_exit_code_2(write, content, options, message):
    path, options = write(content), dict(options)
    with pytest.raises(ValueError, match=message):
        st.datasets.read_table(path, **{"target": "y", "model": "logistic", **options})
    encoding = options.pop("encoding", None)
    result = bound(path, *(["--encoding", encoding] if encoding else []), **options)
    assert_one_sentence(result)
    assert result.stderr.startswith("Error: ")


def assert_one_sentence(result):
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.output


@pytest.mark.parametrize("name", ["table.csv.gz", "table.csv.bz2", "table.csv.xz", "table.csv.zip"])
def test_a_damaged_archive_is_refused(write, name):
    path = write("hello", name)
    with pytest.raises(ValueError, match=r"table.* cannot be read: "):
        st.datasets.read_table(path, target="y", model="logistic")
    assert_one_sentence(bound(path))


def test_a_missing_file_a_folder_and_an_impossible_name_are_told_apart(tmp_path):
    for path, message in (
        (tmp_path / "no.csv", r"no\.csv does not exist\."),
        (tmp_path, r"is a folder, not a file\. Give the path of a file\."),
        (tmp_path / ("a" * 300), r"cannot be read \(File name too long\)"),
    ):
        with pytest.raises(ValueError, match=message):
            st.datasets.read_table(path, target="y", model="logistic")
        assert_one_sentence(bound(path))


def test_a_table_larger_than_the_limit_is_refused_before_it_is_kept(write, monkeypatch):
    path = write(GOOD)
    monkeypatch.setattr(tables, "MAX_CELLS", 18)
    assert bound(path).exit_code == 0
    monkeypatch.setattr(tables, "MAX_CELLS", 17)
    with pytest.raises(
        ValueError,
        match=r"has more than 2e\+01 cells \(rows x columns\), the largest table .* Pass a random sample of "
        r"its rows\.",
    ):
        st.datasets.read_table(path, target="y", model="logistic")
    assert_one_sentence(bound(path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch", "0"], "`--batch` must be an integer >= 1 and <= 6 (drawn without replacement); got 0"),
        (["--batch", "7"], "`--batch` must be an integer >= 1 and <= 6 (drawn without replacement); got 7"),
        (["--hessian-batch", "0"], "`--hessian-batch` must be an integer >= 1"),
        (
            ["--hessian-batch", "3", "--coupling", "nested"],
            "A nested Hessian batch lies inside the gradient batch",
        ),
        (["--step", "0"], "`--step` must be a finite number > 0; got 0"),
        (["--step", "nan"], "`--step` must be a finite number > 0; got nan"),
        (["--damping", "-1"], "`--damping` must be a finite number > 0; got -1"),
        (["--rank", "0"], "`--rank` must be an integer >= 1; got 0"),
        (["--rank", "4"], "`--rank` must be <= the objective's dimension 3; got 4"),
        (["--l2", "-1"], "`--l2` must be a finite number >= 0; got -1"),
        (["--l2", "nan"], "`--l2` must be a finite number >= 0; got nan"),
        (["--l2", "0"], "no isolated minimum"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_bad_option_gets_one_sentence_and_exit_code_2(write, options, message):
    result = bound(write("a,b,y\n1,2,0\n2,4,1\n3,6,0\n4,8,1\n2,4,1\n0,0,0\n"), *options)
    assert_one_sentence(result)
    assert message in result.stderr


@pytest.mark.parametrize(
    "options", [["--model", "ridge"], ["--coupling", "x"], ["--step", "x"], ["--what"]], ids=" ".join
)
def test_wrong_usage_is_exit_code_2(write, options):
    result = bound(write(GOOD), *options)
    assert result.exit_code == 2
    assert "Error: " in result.stderr
    assert "--help" in result.stderr


def test_an_unknown_model_is_refused_in_python_too(write):
    with pytest.raises(
        ValueError, match="`model` must be one of logistic, least-squares, network; got 'ridge'"
    ):
        st.datasets.read_table(write(GOOD), target="y", model="ridge")


class TestGoodTables:
    @pytest.mark.parametrize(
        ("content", "classes"),
        [
            (GOOD, ("0", "1")),
            (GOOD.replace(",0\n", ",no\n").replace(",1\n", ",yes\n"), ("no", "yes")),
            (GOOD.replace(",0\n", ",False\n").replace(",1\n", ",True\n"), ("False", "True")),
            (GOOD.replace(",0\n", ",-1.5\n").replace(",1\n", ",2\n"), ("-1.5", "2")),
            (GOOD.encode("utf-8-sig"), ("0", "1")),
            (GOOD.replace(",", ", ").replace("\n", "\r\n"), ("0", "1")),
        ],
        ids=["numbers", "words", "booleans", "floats", "byte-order-mark", "spaces"],
    )
    def test_columns_are_standardized_and_the_two_labels_kept(self, write, content, classes):
        table = st.datasets.read_table(write(content), target="y", model="logistic")
        assert (table.columns, table.target, table.classes) == (("a", "b", "intercept"), "y", classes)
        raw = np.array([[1, 2], [2, 1], [3, 5], [4, 1], [2, 2], [0, 3]], dtype=float)
        np.testing.assert_allclose(table.X[:, :2], (raw - raw.mean(axis=0)) / raw.std(axis=0), rtol=1e-13)
        np.testing.assert_array_equal(table.X[:, 2], 1.0)
        np.testing.assert_array_equal(table.y, [0, 1, 0, 1, 1, 0])

    @pytest.mark.parametrize("scale", [1e-200, 1e200])
    def test_columns_of_any_size_are_standardized(self, write, scale):
        rows = "".join(f"{a * scale},{y}\n" for a, y in ((1, 0), (2, 1), (4, 1), (5, 0)))
        table = st.datasets.read_table(write("a,y\n" + rows), target="y", model="logistic")
        np.testing.assert_allclose(table.X[:, 0], np.array([-2, -1, 1, 2]) / np.sqrt(2.5), rtol=1e-12)

    def test_a_compressed_table_is_read(self, write):
        assert st.datasets.read_table(
            write(gzip.compress(GOOD.encode()), "table.csv.gz"), target="y", model="logistic"
        ).X.shape == (6, 3)

    def test_least_squares_standardizes_the_target(self, write):
        table = st.datasets.read_table(write("a,y\n1,10\n2,20\n4,70\n"), target="y", model="least-squares")
        np.testing.assert_allclose(table.y, (np.array([10, 20, 70]) - 100 / 3) / np.std([10, 20, 70]))
        assert table.classes == ()

    def test_the_target_may_be_any_column(self, write):
        table = st.datasets.read_table(write("y,a\n0,1\n1,2\n0,4\n"), target="y", model="logistic")
        assert table.columns == ("a", "intercept")

    def test_a_word_far_down_the_file_is_found(self, write):
        """Past the chunk in which pandas settles each column's type."""
        with pytest.raises(ValueError, match=r"Column 'a' holds text \('x' in data row 100001\)"):
            st.datasets.read_table(
                write("a,y\n" + "1,0\n2,1\n" * 50_000 + "x,1\n"), target="y", model="logistic"
            )

    def test_two_labels_are_two_labels_even_if_words_come_late(self, write):
        table = st.datasets.read_table(
            write("a,y\n" + "1,0\n2,0\n" * 50_000 + "1,0\n3,yes\n"), target="y", model="logistic"
        )
        assert table.classes == ("0", "yes")
        assert table.y.sum() == 1


class TestBound:
    @pytest.mark.parametrize("model", ["logistic", "least-squares"])
    @pytest.mark.parametrize("coupling", ["independent", "nested"])
    def test_json_holds_the_librarys_own_numbers(self, write, model, coupling):
        path = write(GOOD)
        options = [
            "--hessian-batch",
            "1",
            "--coupling",
            coupling,
            "--step",
            "0.05",
            "--damping",
            "0.3",
            "--rank",
            "2",
            "--l2",
            "0.2",
            "--json",
        ]
        result = bound(path, *options, model=model)
        assert result.exit_code == 0
        assert result.stderr == ""
        answer = strict(result.stdout)
        table = st.datasets.read_table(path, target="y", model=model)
        objective = (st.logistic if model == "logistic" else st.least_squares)(table.X, table.y, l2=0.2)
        noise = st.Noise.from_data(objective, batch=2, hessian_batch=1, coupling=coupling)
        expected = [
            ("SGD", st.SGD()),
            ("Newton", st.Newton()),
            ("damped Newton", st.DampedNewton(damping=0.3)),
            ("SFN", st.SFN(damping=0.3)),
            ("LRSFN(2)", st.LRSFN(rank=2, damping=0.3)),
            ("LRSFN(2) flat tail", st.LRSFN(rank=2, damping=0.3, tail="flat")),
        ]
        assert [row["method"] for row in answer["methods"]] == [name for name, _ in expected]
        for row, (_, method) in zip(answer["methods"], expected, strict=True):
            linear = st.linearize(st.Flow(objective, method, noise, step=0.05))
            assert row["step_limit"] == pytest.approx(linear.step_limit(), rel=1e-9)
            assert row["validity"] == pytest.approx(linear.validity, rel=1e-9)
            assert row["valid"] is linear.valid
            assert row["amplification"] == pytest.approx(linear.amplification.max(), rel=1e-9)
            if row["excess_risk"] is None:
                with pytest.raises(st.Unstable):
                    linear.excess_risk()
            else:
                assert row["excess_risk"] == pytest.approx(linear.excess_risk(), rel=1e-9)
        assert (answer["samples"], answer["columns"], answer["step"]) == (6, ["a", "b", "intercept"], 0.05)
        assert answer["classes"] == (["0", "1"] if model == "logistic" else [])
        assert answer["minimum"] == pytest.approx(float(objective.value(objective.reference)))

    def test_what_is_missing_is_null_with_a_reason_not_nan(self, write):
        answer = strict(bound(write(GOOD), "--step", "1000", "--json").stdout)
        assert all(
            row["excess_risk"] is None and "does not exist" in row["note"] for row in answer["methods"]
        )

    def test_the_printed_table_names_the_file_the_setting_and_every_method(self, write):
        result = bound(
            write(GOOD), "--hessian-batch", "1", "--coupling", "nested", "--replacement", "--step", "0.05"
        )
        assert result.exit_code == 0
        head, *rest = result.stdout.splitlines()
        assert head == (
            "table.csv (separator comma, decimal point): 6 samples, 3 columns with the intercept, logistic "
            "for 'y', l2 = 0.01"
        )
        assert "batches: gradient 2, Hessian 1, nested, with replacement; step 0.05, damping 0.1" in rest
        for name in ("SGD", "Newton", "damped Newton", "SFN", "LRSFN(3)", "LRSFN(3) flat tail"):
            assert any(line.startswith(name) for line in rest)
        assert "nan" not in result.stdout

    @pytest.mark.slow
    def test_a_million_rows_work_end_to_end(self, write):
        rng = np.random.default_rng(0)
        X = rng.standard_normal((1000, 3)).round(3)
        y = (X.sum(axis=1) + rng.standard_normal(1000) > 0).astype(int)
        block = "".join(f"{a},{b},{c},{label}\n" for (a, b, c), label in zip(X, y, strict=True))
        path = write("a,b,c,y\n" + block * 1000, "million.csv")
        result = bound(path, "--batch", "32", "--hessian-batch", "8", "--json")
        answer = strict(result.stdout)
        assert answer["samples"] == 10**6
        small = strict(
            bound(
                write("a,b,c,y\n" + block), "--batch", "32", "--hessian-batch", "8", "--replacement", "--json"
            ).stdout
        )
        np.testing.assert_allclose(answer["eigenvalues"], small["eigenvalues"], rtol=1e-9)
        # A repeated table has the same noise, but for drawing without replacement: a factor 1 - 31/10^6.
        for row, other in zip(answer["methods"], small["methods"], strict=True):
            assert row["step_limit"] == pytest.approx(other["step_limit"], rel=1e-4)


@pytest.mark.parametrize("command", [[], ["bound"], ["reproduce"]], ids=lambda c: " ".join(c) or "main")
def test_help_shows_an_example(command):
    result = CliRunner().invoke(cli.main, [*command, "--help"], terminal_width=200)
    assert result.exit_code == 0
    assert re.search("Examples?:  stability " + " ".join(command), result.stdout)


def test_every_command_is_asked_for_its_help():
    assert set(cli.main.commands) >= {"bound", "reproduce"}
    for name, command in cli.main.commands.items():
        assert f"stability {name}" in (command.epilog or ""), name
        assert not command.get_short_help_str(limit=65).endswith("..."), name  # what 80 columns leave of it
        options = [one for one in command.params if isinstance(one, click.Option)]
        assert all(one.help for one in options), name


def test_the_version_is_the_packages():
    result = CliRunner().invoke(cli.main, ["--version"])
    assert result.stdout.startswith("stability, version ")


def test_two_columns_of_one_name_are_refused(write):
    with pytest.raises(ValueError, match=r"has two columns named 'a'\. Rename one"):
        st.datasets.read_table(write("a,a,y\n1,2,0\n2,1,1\n3,3,1\n"), target="y", model="logistic")
