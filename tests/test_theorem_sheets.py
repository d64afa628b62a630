"""The command line's sheets and the documents' lists of theorems: generated, and held to their sources."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

import stability as st
from stability import cli

ROOT = Path(__file__).parents[1]
README, NOTES = (ROOT / "README.md").read_text(), (ROOT / "paper_notes.md").read_text()


def run(*arguments):
    return CliRunner().invoke(cli.main, ["theorems", *arguments])


class TestCommandLine:
    def test_without_a_name_it_lists_them_and_prints_the_table(self):
        result = run()
        assert result.exit_code == 0
        assert [line.split()[0] for line in result.stdout.splitlines()[: len(st.theorems())]] == list(
            st.theorems()
        )
        assert str(st.method_table()) in result.stdout

    def test_one_sheet(self):
        result = run("truncation-limit", "--method", "lrsfn")
        assert (
            result.stdout.strip()
            == str(st.theorem("truncation-limit", method=st.LRSFN(rank=1, damping=0.2))).strip()
        )
        assert "Hypotheses" in result.stdout
        assert "Derivation" in result.stdout

    def test_latex_and_json(self):
        assert run("noise-amplification", "--latex").stdout.startswith(r"\begin{align*}")
        assert (
            json.loads(run("noise-amplification", "--method", "newton", "--json").stdout)["method"]
            == "Newton"
        )
        everything = json.loads(run("--json").stdout)
        assert [one["name"] for one in everything["theorems"]] == list(st.theorems())
        assert len(everything["table"]) == 24
        assert len(run("--latex").stdout.splitlines()) == len(st.theorems())

    @pytest.mark.parametrize("method", cli.METHODS)
    def test_every_method_by_name(self, method):
        result = run("same-batch-cancellation", "--method", method, "--dim", "2")
        assert result.exit_code == 0, result.output

    def test_a_check_prints_its_verdict_and_sets_the_exit_code(self, monkeypatch):
        result = run("truncation-gap", "--check")
        assert result.exit_code == 0
        assert "LRSFN flat tail" in result.stdout
        assert json.loads(run("truncation-gap", "--check", "--json").stdout)["check"][0]["passed"] is True
        monkeypatch.setattr(
            st.SFN,
            "gain",
            lambda self, lam: 1 / (abs(lam) + (2 if hasattr(lam, "expression") else 1) * self.damping),
        )
        failed = run("truncation-gap", "--check")
        assert failed.exit_code == 1
        assert "FAILED" in failed.stdout

    def test_everything_about_one_method(self):
        result = run("--method", "sgd")
        assert "heavy-tailed-newton" in result.stdout
        assert "truncation-gap:" not in result.stdout

    def test_the_json_of_many_sheets_is_one_document(self):
        sheets = json.loads(run("--method", "sgd", "--json").stdout)
        assert [sheet["method"] for sheet in sheets] == ["SGD"] * len(sheets)
        assert len(sheets) > 10

    def test_bad_input_is_one_sentence(self):
        for arguments, message in (
            (("theorem-1",), "`name` must be one of noise-amplification"),
            (("truncation-gap", "--method", "sgd"), "'truncation-gap' says nothing about SGD"),
            (("--dim", "2"), "`--dim` belongs to one theorem"),
            (("noise-amplification", "--dim", "7"), "`dim` must be one of 1, 2, 3; got 7"),
        ):
            result = run(*arguments)
            assert result.exit_code == 2
            assert message in result.stderr
            assert "Traceback" not in result.output


class TestDocuments:
    def test_the_readmes_table_is_generated(self):
        block = re.search(r"<!-- methods -->\n(.*?)\n<!-- /methods -->", README, re.S).group(1)
        assert block == st.method_table().markdown()

    def test_the_notes_table_is_printed(self):
        assert re.search(r"<!-- table -->\n```\n(.*?)\n```\n<!-- /table -->", NOTES, re.S).group(1) == str(
            st.method_table()
        )

    def test_the_notes_name_every_theorem_and_none_that_does_not_exist(self):
        block = re.search(r"<!-- theorems -->\n(.*?)\n<!-- /theorems -->", NOTES, re.S).group(1)
        assert re.findall(r"^\| `([a-z-]+)` \|", block, re.M) == list(st.theorems())
        for name in st.theorems():
            assert f"| `{name}` | {st.theorem(name).title} |" in block

    def test_the_notes_claims_point_at_theorems(self):
        claims = NOTES[NOTES.index("## Claims") : NOTES.index("## Theorems")]
        named = set(re.findall(r"`([a-z]+(?:-[a-z]+)+)`", claims))
        figures = {"condition-number", "step-limit", "equal-rates", "real-data"}
        assert named <= set(st.theorems()) | figures
        assert len(named & set(st.theorems())) >= 12
