"""The documents: their tables are the tracked numbers, their examples run, what they name exists."""

import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from sources import tree

import stability as st
from stability import claims, cli

ROOT = Path(__file__).parents[1]
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
README, NOTES = (ROOT / "README.md").read_text(), (ROOT / "paper_notes.md").read_text()


def block(name):
    return re.search(rf"<!-- {name} -->\n```\n(.*?)\n```\n<!-- /{name} -->", README, re.S).group(1)


def test_the_readmes_benchmark_is_the_one_that_was_measured():
    cells = json.loads((ROOT / "benchmarks/results/ensembles.json").read_text(encoding="utf-8"))["cells"]
    block = README[README.index("<!-- bench -->") : README.index("<!-- /bench -->")]
    rows = [
        line.strip("| ").split(" | ") for line in block.splitlines() if line.startswith(("| OU", "| SFN"))
    ]
    assert len(rows) == 5
    for title, *figures in rows:
        kind, dim = title.split(", d = ")
        found = cells[f"{'ou' if kind == 'OU' else 'sfn'}-{dim}/one"]["contenders"]
        for name, figure in zip(
            ("numba", "numpy", "draw", "diffrax", "torchsde", "sdeint"), figures, strict=True
        ):
            assert (figure == "–") == (name not in found)
            assert figure == "–" or float(figure.replace(",", "")) == pytest.approx(
                found[name]["median"], rel=0.03
            )
    seconds = [float(x) for x in re.findall(r"([\d.]+) s\b", block)]
    measured = [
        cells[f"covariance-{step}/one"]["contenders"][name]["median"]
        for step in ("0.01", "0.05")
        for name in ("controlled", "plain")
    ]
    assert seconds == pytest.approx(measured, rel=0.05)


@pytest.mark.slow
def test_the_readmes_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len(blocks) == 6
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    code = "".join(blocks)
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "largest |z|" in done.stdout
    assert (tmp_path / "ensemble.png").exists()
    assert (tmp_path / "portrait.png").exists()


@pytest.mark.slow
def test_the_readmes_torch_example_runs():
    pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    (code,) = re.findall(r"```py\n(.*?)```", README, re.S)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "lambda" in done.stdout


def test_the_readmes_measured_table_is_the_tracked_one():
    assert block("real-data") == claims.summary(st.load(ROOT / "figures/data/real-data"))


@pytest.mark.slow
def test_the_readmes_bound_is_what_its_commands_print(tmp_path):
    pytest.importorskip("sklearn", reason="the breast-cancer table comes with scikit-learn")
    commands = re.findall(
        r"^    (python analysis_scripts/breast_cancer_csv\.py|stability bound) (.*)$", README, re.M
    )
    (_, file), (_, options) = commands[-2:]
    path = tmp_path / Path(file).name
    subprocess.run(
        [sys.executable, ROOT / "analysis_scripts/breast_cancer_csv.py", path],
        check=True,
        capture_output=True,
    )
    result = CliRunner().invoke(cli.main, ["bound", *options.replace(file, str(path)).split()])
    assert result.stdout.strip() == block("bound")


@pytest.mark.slow
def test_the_readmes_advice_is_what_its_command_prints():
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    (options,) = re.findall(r"^    stability advise (.*)$", README, re.M)
    shown = CliRunner().invoke(cli.main, ["advise", *options.split()]).stdout
    number = r"(?<![\w^-])\d[\d,]*\.?\d*(?:e[+-]?\d+)?"
    here, there = (re.split(f"({number})", text) for text in (shown.strip(), block("advise")))
    assert [each.split() for each in here[::2]] == [each.split() for each in there[::2]]
    # Other processors round otherwise, and five sweeps of training carry that along.
    found, told = ([float(each.replace(",", "")) for each in part[1::2]] for part in (here, there))
    assert found == pytest.approx(told, rel=0.25)


@pytest.mark.parametrize("name", sorted(claims.STUDIES))
def test_every_study_has_its_tracked_numbers_pictures_and_script(name):
    study = st.load(ROOT / "figures/data" / name)
    assert study.name == name
    assert (ROOT / "figures" / f"{name}.png").stat().st_size > 10_000
    assert (ROOT / "figures" / f"{name}.svg").exists()
    assert f'draw("{name}")' in (ROOT / "analysis_scripts" / f"{name.replace('-', '_')}.py").read_text()
    assert f"figures/{name}.png" in (ROOT / "analysis_scripts/README.md").read_text()
    assert all(check.passed for check in claims.check(study))


def test_the_notes_name_tests_and_modules_that_exist():
    sources = {path.name: path.read_text() for path in (ROOT / "tests").glob("test_*.py")}
    everything = "".join(sources.values())
    for file, rest in re.findall(r"`(test_\w+\.py)((?:::\w+)*)`", NOTES):
        assert file in sources
        assert all(name in sources[file] for name in rest.split("::") if name)
    for names in re.findall(r"`(Test\w+(?:::\w+)?)`", NOTES):
        assert all(name in everything for name in names.split("::"))
    for module in re.findall(r"`([\w/]+(?:\.py|/))`", NOTES):
        assert (ROOT / "stability" / module).exists() or module in sources, module


def test_every_promise_has_its_test():
    text = CONTRIBUTING.read_text(encoding="utf-8")
    table = text[text.index("## What is promised") : text.index("Not promised:")]
    rows = [line for line in table.splitlines() if line.startswith("| ") and "| test |" not in line]
    assert len(rows) > 25
    for row in rows:
        named = re.findall(r"`(test_\w+\.py)((?:::\w+)+)`", row.split("|")[2])
        assert named, f"no test: {row}"
        for file, names in named:
            body = tree(ROOT / "tests" / file).body
            for name in names.split("::")[1:]:
                found = [node for node in body if getattr(node, "name", None) == name]
                assert found, f"{file} has no {names}"
                body = found[0].body


def test_the_steps_without_make_are_those_of_make():
    steps = re.search(r"Without `make`.*?\n\n((?:    .*\n)+)", README, re.S).group(1)
    recipes = (ROOT / "Makefile").read_text(encoding="utf-8").replace("'", '"')
    for command in (
        '-c constraints.txt -e ".[all]"',
        "stability reproduce --out out",
        "ruff check .",
        "ruff format --check .",
        "mypy",
        'python -m pytest -n auto -m "not slow"',
    ):
        assert command in steps
        assert command in recipes


def test_links_lead_somewhere():
    for text in (README, NOTES):
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            assert target.startswith("https://") or (ROOT / target).exists(), target


def test_no_document_has_a_gap_left_to_fill():
    for path in [*ROOT.glob("*.md"), *ROOT.glob("*/README.md")]:
        assert not re.search(r"@[A-Z]+@|TODO|FIXME", path.read_text()), path


def needed(name, extras):
    """Names of all installed distributions that one needs, as far as they can be known here."""
    found, ahead = set(), [(name, tuple(extras))]
    while ahead:
        one = ahead.pop()
        if one in found:
            continue
        try:
            lines = importlib.metadata.requires(one[0]) or []
        except importlib.metadata.PackageNotFoundError:  # of an extra that is not installed
            continue
        found.add(one)
        for requirement in map(Requirement, lines):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *one[1])):
                ahead.append((canonicalize_name(requirement.name), tuple(requirement.extras)))
    return {name for name, _ in found}


def test_every_version_that_make_installs_is_pinned():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {canonicalize_name(line.split("==")[0]) for line in lines if "==" in line}
    wanted = needed("sfn-stability", ("all", "torch")) - {"sfn-stability"}
    assert len(wanted) > 25
    assert wanted <= pinned
