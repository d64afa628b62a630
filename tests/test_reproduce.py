"""`stability reproduce` leaves pictures with their numbers; what would stop it is found beforehand."""

import json
import sys

import numpy as np
import pytest
from click.testing import CliRunner

import stability as st
from stability import claims, cli

FILES = {"equal-rates.png", "equal-rates.svg", "data/equal-rates.npz", "data/equal-rates.json"}


def reproduce(out, *options):
    return CliRunner().invoke(
        cli.main, ["reproduce", "--quick", "--only", "equal-rates", "--out", str(out), *options]
    )


def files(out):
    return {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """The real thing, once: its result and its folder."""
    out = tmp_path_factory.mktemp("real") / "new" / "out"
    return reproduce(out, "--seed", "3"), out


@pytest.fixture
def light(monkeypatch):
    """A study that takes no time: records how it was asked for, and is drawn as one small axis."""
    asked = []

    def run(name, **options):
        asked.append((name, options))
        options["report"]("working")
        return st.Study(name, {"a": np.arange(3.0)}, {"seed": options["seed"]})

    def draw(study):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(1, 1))
        figure.subplots().plot(study["a"], marker="o", clip_on=True)
        return figure

    monkeypatch.setattr(claims, "run", run)
    monkeypatch.setattr(claims, "check", lambda study: [claims.Check("it holds", True, "by [design]")])
    monkeypatch.setattr(claims, "summary", lambda study: "")
    for name in claims.STUDIES:
        monkeypatch.setitem(sys.modules["stability.pictures.plot"]._STUDIES, name, draw)
    return asked


@pytest.fixture
def never(monkeypatch):
    def run(*args, **options):
        pytest.fail("computed before the input was checked")

    monkeypatch.setattr(claims, "run", run)


class TestARealRun:
    def test_ends_well_and_says_so(self, real):
        result, out = real
        assert result.exit_code == 0, result.output
        assert "equal-rates.png" in result.stdout
        assert "FAIL" not in result.stdout
        assert result.stdout.count("  ok ") == len(claims.check(st.load(out / "data" / "equal-rates")))

    def test_leaves_the_pictures_and_their_numbers_and_nothing_else(self, real):
        assert files(real[1]) == FILES
        assert (real[1] / "equal-rates.png").read_bytes().startswith(b"\x89PNG")
        assert b"<svg" in (real[1] / "equal-rates.svg").read_bytes()

    def test_the_numbers_load_back_with_their_provenance_and_can_be_drawn_again(self, real):
        study = st.load(real[1] / "data" / "equal-rates")
        assert isinstance(study, st.Study)
        assert study.parameters["seed"] == 3
        assert study.provenance["versions"]["numpy"] == np.__version__
        secondary = ["Newton", "damped Newton", "SFN", "LRSFN"]
        assert list(study["methods"]) == ["SGD", *secondary, "momentum", "Adam"]
        assert len(st.plot(study).axes) == 3

    def test_the_provenance_is_strict_json(self, real):
        def refuse(name):
            raise AssertionError(f"{name} is not JSON")

        record = json.loads((real[1] / "data" / "equal-rates.json").read_text(), parse_constant=refuse)
        assert record["values"]["parameters"]["seed"] == 3


class TestRefusedBeforeComputing:
    @pytest.mark.parametrize(
        "blocked", ["out", "out/data", "."], ids=["a-file", "its-data-a-file", "under-a-file"]
    )
    def test_an_output_folder_that_cannot_be_written(self, tmp_path, never, blocked):
        place = tmp_path / "place"
        if blocked == ".":
            place.touch()
        else:
            (place / blocked).parent.mkdir(parents=True)
            (place / blocked).touch()
        before = files(tmp_path)
        result = reproduce(place / "out")
        assert result.exit_code == 2
        assert isinstance(result.exception, SystemExit)
        assert "cannot be written" in result.stderr
        assert "Choose another one." in result.stderr
        assert result.stderr.count("\n") == 1
        assert result.stdout == ""
        assert files(tmp_path) == before

    def test_a_read_only_folder(self, tmp_path, never, monkeypatch):
        """Root writes anywhere, so the refusal is played."""

        def refuse(**options):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("tempfile.TemporaryFile", refuse)
        result = reproduce(tmp_path)
        assert result.exit_code == 2
        assert (
            f"The output folder {tmp_path} cannot be written (Permission denied). Choose another one."
            in result.stderr
        )

    def test_an_unknown_study_lists_the_known_ones(self, tmp_path, never):
        result = reproduce(tmp_path / "out", "--only", "equal-steps")
        assert result.exit_code == 2
        assert f"`--only` must be one of {', '.join(claims.STUDIES)}; got 'equal-steps'" in result.stderr
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("options", [["--seed", "-1"], ["--seed", "x"], ["--fast"]], ids=" ".join)
    def test_wrong_usage(self, tmp_path, never, options):
        result = reproduce(tmp_path / "out", *options)
        assert result.exit_code == 2
        assert "Error: " in result.stderr


class TestWhatItDoes:
    def test_runs_every_study_in_order_by_default(self, tmp_path, light):
        result = CliRunner().invoke(cli.main, ["reproduce", "--out", str(tmp_path), "--seed", "7"])
        assert result.exit_code == 0
        assert [name for name, _ in light] == list(claims.STUDIES)
        assert all((options["quick"], options["seed"]) == (False, 7) for _, options in light)
        assert files(tmp_path) == {
            file.replace("equal-rates", name) for file in FILES for name in claims.STUDIES
        }

    def test_runs_the_chosen_ones_in_their_small_form(self, tmp_path, light):
        assert reproduce(tmp_path, "--only", "real-data").exit_code == 0
        assert [(name, options["quick"]) for name, options in light] == [
            ("equal-rates", True),
            ("real-data", True),
        ]

    def test_statements_are_printed_as_they_are(self, tmp_path, light):
        assert "  ok   it holds: by [design]" in reproduce(tmp_path).stdout

    def test_a_failing_check_is_exit_code_1_and_still_leaves_everything(self, tmp_path, light, monkeypatch):
        checks = [
            claims.Check("first", True, "yes"),
            claims.Check("second", False, "z = 9"),
            claims.Check("third", False, "no"),
        ]
        monkeypatch.setattr(claims, "check", lambda study: checks)
        result = reproduce(tmp_path)
        assert result.exit_code == 1
        assert "  ok   first: yes" in result.stdout
        assert "  FAIL second: z = 9" in result.stdout
        assert "2 checks failed" in result.stdout
        assert files(tmp_path) == FILES

    def test_the_same_numbers_give_the_same_bytes(self, tmp_path, light):
        for name in ("first", "second"):
            assert reproduce(tmp_path / name).exit_code == 0
        for file in ("equal-rates.png", "equal-rates.svg", "data/equal-rates.npz"):
            assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes(), file

    def test_a_study_that_lacks_its_data_ends_with_one_sentence(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
        result = CliRunner().invoke(
            cli.main, ["reproduce", "--quick", "--only", "real-data", "--out", str(tmp_path)]
        )
        assert result.exit_code == 2
        assert 'comes with scikit-learn: pip install "sfn-stability[data]"' in result.stderr


class TestChecks:
    """The statements are tested on the study's own numbers: spoil the numbers and they fail."""

    def test_ensembles_off_their_prediction_are_noticed(self, real):
        study = st.load(real[1] / "data" / "equal-rates")
        good = claims.check(study)
        assert all(one.passed for one in good)
        measured = study["measured"].copy()
        measured[0, 0, 0, 0, 0] += 10 * measured[0, 0, 0, 0, 1]
        spoiled = claims.check(st.Study(study.name, {**study.arrays, "measured": measured}, study.parameters))
        assert [one.statement for one in good] == [one.statement for one in spoiled]
        assert not spoiled[0].passed

    def test_a_method_with_more_risk_than_sgd_is_noticed(self, real):
        study = st.load(real[1] / "data" / "equal-rates")
        theory = study["theory"].copy()
        theory[1, -1, 0] = 1.01 * theory[0, -1, 0]
        failed = [
            one.statement
            for one in claims.check(
                st.Study(study.name, {**study.arrays, "theory": theory}, study.parameters)
            )
            if not one.passed
        ]
        assert len(failed) == 1
        assert "has more excess risk than SGD" in failed[0]
