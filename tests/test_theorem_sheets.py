"""The command line's sheets and the documents' lists of theorems: generated, and held to their sources."""

import functools
import json
import re
import xml.etree.ElementTree
from pathlib import Path

import matplotlib.mathtext
import pytest
from click.testing import CliRunner

import stability as st
from stability import cli
from stability.symbolic.registry import STATEMENTS
from stability.symbolic.typeset import inline

ROOT = Path(__file__).parents[1]
README, NOTES = (ROOT / "README.md").read_text(), (ROOT / "paper_notes.md").read_text()


def run(*arguments):
    return CliRunner().invoke(cli.main, ["theorems", *arguments])


PARSER = matplotlib.mathtext.MathTextParser("path")
METHODS = [
    None,
    st.SignSGD(),
    st.Adam(weight_decay=0.1),
    st.Newton(),
    st.SFN(damping=0.2),
    st.LRSFN(rank=1, damping=0.2),
    st.gallery.rsfn(eps=0.1),
]


@functools.cache
def compiles(formula):
    """Mathtext reads all that we print but matrices and cases; of those the braces are counted."""
    assert formula.count("{") == formula.count("}")
    assert formula.count(r"\left") == formula.count(r"\right")
    if r"\begin" not in formula:
        PARSER.parse(f"${formula}$".replace(r"\middle|", "|").replace(r"\limits", ""))


def sheets():
    for name in st.theorems():
        for method in METHODS:
            try:
                yield st.theorem(name, method=method)
            except ValueError:  # says nothing about this method
                continue


@functools.cache
def whole_table():
    return st.gallery.method_table()


class TestLatex:
    @pytest.mark.slow
    def test_every_row_of_every_sheet_compiles_and_its_words_hold_no_formula(self):
        for theorem in sheets():
            sheet = theorem._repr_latex_()
            begin, *rows, end = sheet.split("\n")
            assert (begin, end) == (r"\begin{align*}", r"\end{align*}")
            steps = len(theorem.derivation) + 1 + len(theorem.corollaries)
            assert len(rows) == len(theorem.hypotheses) + steps
            assert [row.endswith(r" \\") for row in rows] == [True] * (len(rows) - 1) + [False]
            for row in rows:
                equation, reason = row.removesuffix(r" \\").removeprefix("& ").split(" && ")
                compiles(equation)
                compiles(reason)
            for words in re.findall(r"\\text\{(.*?)\}", sheet):
                assert not re.search(r"[_^=<>|]|\b(alpha|lambda|phi|sigma|gamma|delta|epsilon)\b", words), (
                    words
                )

    def test_hypotheses_are_in_it_as_mathematics(self):
        sheet = st.theorem("mean-square-step-limit", method=st.SFN(damping=0.1))._repr_latex_()
        assert r"\text{the mode decays: }\phi(\lambda) \lambda > 0 && \text{given}" in sheet
        assert r"|c_{gh}| \leq s_{g} s_{h}" in sheet

    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("attracted where a < 0", "attracted where $a < 0$"),
            ("a batch of b multiplies M", "a batch of $b$ multiplies $M$"),
            ("T'(0) = 0 by symmetry", "$T'(0) = 0$ by symmetry"),
            ("the drift (Ito)", "the drift (Ito)"),
            ("it is (K = 2, as before)", "it is ($K = 2$, as before)"),
            ("the method's gain", "the method's gain"),
            ("2F2(1, 1; -z^2)", "${}_2F_2(1, 1; -z^2)$"),
            ("DP[E]_ij != 0", r"$DP[E]_{ij} \neq 0$"),
        ],
    )
    def test_a_sentence_is_typeset(self, text, shown):
        assert inline(text) == shown

    @pytest.mark.slow
    def test_the_methods_table_compiles(self):
        _begin, array, *rows, end = whole_table()._repr_latex_().split("\n")
        assert (array, end) == (r"\begin{array}{lllllll}", r"\end{array}$")
        assert len(rows) == 1 + 48
        for row in rows:
            cells = row.removesuffix(r" \\").split(" & ")
            assert len(cells) == 7
            for cell in cells:
                compiles(cell)
                assert "|lambda|" not in cell

    def test_a_notebook_gets_one_table_with_formulas(self):
        theorem = st.theorem("truncation-limit", method=st.LRSFN(rank=5, damping=0.1))
        page = xml.etree.ElementTree.fromstring(f"<div>{theorem._repr_html_()}</div>")
        cells = [cell.text for cell in page.iter("td")]
        assert r"$\displaystyle \alpha_{max} = \frac{2 \gamma}{\lambda_{next}}$" in cells
        assert r"the tail decays: $\phi_{t} \lambda_{next} > 0$" in cells


class TestCommandLine:
    @pytest.mark.slow
    def test_without_a_name_it_lists_them_and_prints_the_table(self):
        result = run()
        assert result.exit_code == 0
        assert [line.split()[0] for line in result.stdout.splitlines()[: len(st.theorems())]] == list(
            st.theorems()
        )
        assert str(whole_table()) in result.stdout

    def test_one_sheet(self):
        result = run("truncation-limit", "--method", "lrsfn")
        assert (
            result.stdout.strip()
            == str(st.theorem("truncation-limit", method=st.LRSFN(rank=1, damping=0.2))).strip()
        )
        assert "Hypotheses" in result.stdout
        assert "Derivation" in result.stdout

    @pytest.mark.slow
    def test_latex_and_json(self):
        assert run("noise-amplification", "--latex").stdout.startswith(r"\begin{align*}")
        assert (
            json.loads(run("noise-amplification", "--method", "newton", "--json").stdout)["method"]
            == "Newton"
        )
        everything = json.loads(run("--json").stdout)
        assert [one["name"] for one in everything["theorems"]] == list(st.theorems())
        assert len(everything["table"]) == 48
        assert len(run("--latex").stdout.splitlines()) == len(st.theorems())

    @pytest.mark.slow
    @pytest.mark.parametrize("method", cli.METHODS)
    def test_every_method_by_name(self, method):
        names = dict.fromkeys(("rmsprop", "adam", "adamw", "sign"), "adaptive-metric")
        names |= {"momentum": "noise-floor", "nesterov": "momentum"}
        dim = [] if method == "nesterov" else ["--dim", "2"]
        result = run(names.get(method, "same-batch-cancellation"), "--method", method, *dim)
        assert result.exit_code == 0, result.output

    @pytest.mark.slow
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

    @pytest.mark.slow
    def test_everything_about_one_method(self):
        result = run("--method", "sgd")
        assert "heavy-tailed-newton" in result.stdout
        assert "truncation-gap:" not in result.stdout

    @pytest.mark.slow
    def test_the_json_of_many_sheets_is_one_document(self):
        sheets = json.loads(run("--method", "sgd", "--json").stdout)
        assert [sheet["method"] for sheet in sheets] == ["SGD"] * len(sheets)
        assert len(sheets) > 10

    def test_bad_input_is_one_sentence(self):
        for arguments, message in (
            (("theorem-1",), "`NAME` must be one of noise-amplification"),
            (("truncation-gap", "--method", "sgd"), "'truncation-gap' says nothing about SGD"),
            (
                ("damping", "--method", "nesterov"),
                "'damping' says nothing about --method nesterov; momentum, "
                "batch-sharpness do. Use --method sgd",
            ),
            (("damping", "--method", "adam"), "'damping' says nothing about Adam"),
            (("momentum", "--method", "adam"), "What does: adaptive-metric."),
            (("--dim", "2"), "`--dim` belongs to one theorem"),
            (("noise-amplification", "--dim", "7"), "`--dim` must be one of 1, 2, 3; got 7"),
        ):
            result = run(*arguments)
            assert result.exit_code == 2
            assert message in result.stderr
            assert "Traceback" not in result.output


class TestDocuments:
    def test_the_readmes_table_is_generated(self):
        block = re.search(r"<!-- methods -->\n(.*?)\n<!-- /methods -->", README, re.S).group(1)
        assert block == whole_table().markdown()

    def test_the_notes_table_is_printed(self):
        assert re.search(r"<!-- table -->\n```\n(.*?)\n```\n<!-- /table -->", NOTES, re.S).group(1) == str(
            whole_table()
        )

    def test_the_notes_name_every_theorem_and_none_that_does_not_exist(self):
        block = re.search(r"<!-- theorems -->\n(.*?)\n<!-- /theorems -->", NOTES, re.S).group(1)
        assert re.findall(r"^\| `([a-z-]+)` \|", block, re.M) == list(st.theorems())
        for name in st.theorems():
            assert f"| `{name}` | {STATEMENTS[name].title} |" in block  # as the theorem's own, underived

    def test_the_notes_claims_point_at_theorems(self):
        claims = NOTES[NOTES.index("## Claims") : NOTES.index("## Theorems")]
        named = set(re.findall(r"`([a-z]+(?:-[a-z]+)+)`", claims))
        figures = {"condition-number", "step-limit", "equal-rates", "real-data"}
        assert named <= set(st.theorems()) | figures
        assert len(named & set(st.theorems())) >= 12


def widest(theorem):
    return max(map(len, str(theorem).splitlines()))


@pytest.mark.slow
def test_sheets_are_no_wider_than_a_screen():
    for name in ("noise-floor", "momentum", "batch-sharpness", "averaging", "streaming-limit"):
        assert widest(st.theorem(name)) <= 160
    assert widest(st.theorem("mean-square-step-limit", dim=2)) <= 160
    # Parts get names on both sides of an equation, whose sides are not weighed against each other.
    assert "False" not in str(st.theorem("mean-square-step-limit", dim=2))
    # What the widest equations repeat has a name.
    sheet = str(st.theorem("momentum"))
    assert re.search(r"with\n +d +\n +z₁ = ──\(φ\(λ\)\)", sheet)


@pytest.mark.slow
def test_no_sheet_is_wider_than_a_large_screen():
    for theorem in sheets():
        assert widest(theorem) < 200, theorem.name
    # A part that got a name may be too wide itself.
    assert widest(st.theorem("finite-data-limit", dim=2)) <= 160


def test_hypotheses_show_no_tiny_numbers():
    shown = repr((st.theorem("momentum").hypotheses, st.theorem("noise-floor", dim=2).hypotheses))
    assert "Hypothesis('the buffer forgets: 0 <= beta < 1', Min(beta, 1 - beta) >= 0)" in shown
    assert "Hypothesis('the point is a minimum: lambda > 0', lambda > 0)" in shown
    assert not re.search(r"e-\d|\d{6}", shown)
