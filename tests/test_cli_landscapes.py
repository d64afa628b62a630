"""`stability simulate` and `stability portrait`, as they are typed."""

import json
import re
import sys

import numpy as np
import pytest
from click.testing import CliRunner

import stability as st
from stability import cli
from stability.cli._methods import SPECTRAL, method_of

WELL = "x^4/4 - x^2/2 + y^2"


def run(*arguments):
    return CliRunner().invoke(cli.main, list(map(str, arguments)))


class TestSimulate:
    def test_it_does_what_the_library_does(self):
        options = {"t_end": 2.0, "paths": 300, "seed": 3}
        result = run(
            "simulate",
            "--expression",
            WELL,
            "--method",
            "sfn",
            "--start",
            "1,0.5",
            "--t-end",
            2,
            "--paths",
            300,
            "--seed",
            3,
            "--save",
            4,
            "--json",
        )
        assert result.exit_code == 0
        flow = st.Flow(st.expression(WELL), st.SFN(damping=0.1), st.Noise(gradient=0.1), step=0.1)
        ens = st.simulate(flow, start=[1, 0.5], save=4, **options)
        found = json.loads(result.stdout)
        np.testing.assert_array_equal(found["mean"], ens.mean)
        np.testing.assert_array_equal(found["covariance"], ens.covariance)
        assert found["provenance"]["seed"] == 3

    def test_a_formula_is_shown_as_it_was_understood_and_its_parameters_are_set(self):
        typed = ["simulate", "--t-end", 1, "--paths", 50, "--json", "--expression"]
        result = run(*typed, "a x² + 2|y|", "--set", "a=0.5")
        assert result.stderr == "Read as a*x^2 + 2*abs(y)\n"
        plain = run(*typed, "0.5*x^2 + 2*abs(y)")
        assert plain.stderr == ""
        assert json.loads(result.stdout)["mean"] == json.loads(plain.stdout)["mean"]

    def test_at_a_critical_point_theory_stands_beside(self):
        result = run(
            "simulate",
            "--expression",
            WELL,
            "--method",
            "sgd",
            "--start",
            "1,0",
            "--at",
            "1,0",
            "--curvature",
            0.05,
        )
        assert result.exit_code == 0
        assert "SGD at a critical point" in result.stdout
        assert "predicted" in result.stdout

    def test_at_a_saddle_the_paths_are_shown_and_why_there_is_no_theory(self):
        result = run("simulate", "--expression", WELL, "--method", "sfn", "--at", "0,0", "--t-end", 2)
        assert result.exit_code == 0
        assert "1000 paths" in result.stdout
        assert "Use st.escape" in result.stdout

    def test_with_nothing_but_a_formula(self):
        result = run("simulate", "--expression", WELL, "--method", "newton", "--t-end", 1)
        assert result.exit_code == 0
        assert "1000 paths of the SDE, dt = 0.1, to t = 1" in result.stdout

    @pytest.mark.slow
    def test_it_is_kept_and_drawn(self, tmp_path):
        result = run(
            "simulate",
            "--landscape",
            "rosenbrock",
            "--dim",
            3,
            "--method",
            "sfn",
            "--t-end",
            1,
            "--paths",
            8,
            "--save",
            5,
            "--out",
            tmp_path / "deep" / "run.png",
        )
        assert result.exit_code == 0
        assert sorted(p.name for p in (tmp_path / "deep").iterdir()) == [
            "run.json",
            "run.npz",
            "run.png",
            "run.svg",
        ]
        assert st.load(tmp_path / "deep" / "run").states.shape == (6, 8, 3)

    @pytest.mark.parametrize("ending", [".npz", ".json", ".png", ".svg"])
    def test_a_place_that_is_taken_is_found_out_before_the_computing(self, tmp_path, monkeypatch, ending):
        def run_too_soon(*arguments, **options):
            pytest.fail("computed before the place was looked at")

        monkeypatch.setattr(sys.modules["stability.ensembles.simulate"], "simulate", run_too_soon)
        (tmp_path / f"run{ending}").mkdir()
        result = run("simulate", "--expression", WELL, "--out", tmp_path / "run")
        assert result.exit_code == 2
        assert f"run{ending} cannot be written (it is a folder). Choose another place." in result.stderr

    def test_ctrl_c_keeps_what_was_finished(self, tmp_path, monkeypatch):
        flow = st.Flow(st.expression(WELL), st.SGD(), st.Noise(gradient=0.1), step=0.1)
        part = st.simulate(flow, start=[0, 0], t_end=1.0, paths=5, seed=0, save=2)

        def stopped(*arguments, **options):
            raise st.Interrupted("stopped", part)

        monkeypatch.setattr(sys.modules["stability.ensembles.simulate"], "simulate", stopped)
        result = run("simulate", "--expression", WELL, "--out", tmp_path / "part")
        assert result.exit_code == 1
        assert "the 5 paths that were finished are in" in result.stderr
        assert len(st.load(tmp_path / "part").diverged) == 5
        assert "are lost: --out saves them" in run("simulate", "--expression", WELL).stderr


class TestPortrait:
    def test_a_picture_a_table_and_the_numbers(self, tmp_path):
        base = tmp_path / "wells"
        result = run(
            "portrait",
            "--expression",
            WELL,
            "--method",
            "sgd",
            "--method",
            "newton",
            "--resolution",
            12,
            "--region",
            "-1.5,1.5,-1,1",
            "--out",
            base,
        )
        assert result.exit_code == 0
        assert "saddle (0, 0)" in result.stdout
        seen = st.load(base)
        assert seen.methods.tolist() == ["SGD", "Newton"]
        assert (seen.x[0], seen.x[-1], seen.y[0], seen.y[-1]) == (-1.5, 1.5, -1, 1)
        assert str(seen) in result.stdout
        assert {p.suffix for p in tmp_path.iterdir()} == {".png", ".svg", ".json", ".npz"}

    @pytest.mark.slow
    def test_on_a_line(self, tmp_path):
        result = run(
            "portrait",
            "--expression",
            "x^4/4 - x^2/2",
            "--method",
            "sgd",
            "--noise",
            1,
            "--paths",
            200,
            "--t-end",
            1,
            "--out",
            tmp_path / "line",
        )
        assert result.exit_code == 0
        assert "paths against density" in result.stdout
        assert "maximum at (0)" in result.stdout
        assert st.load(tmp_path / "line").agrees.tolist() == [True]

    @pytest.mark.slow
    @pytest.mark.parametrize("region", ["1", "-1,1"])
    def test_regions(self, region, tmp_path):
        run(
            "portrait",
            "--landscape",
            "double_well",
            "--method",
            "sgd",
            "--resolution",
            8,
            "--region",
            region,
            "--out",
            tmp_path / "p",
        )
        assert st.load(tmp_path / "p").y.tolist() == np.linspace(-1, 1, 8).tolist()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ["--noise", "1e-400"],
            "'--noise': 1e-400 is too small for a computer's numbers .* Give 0, or change",
        ),
        (["--noise=-1e-310"], "-1e-310 is too small"),
        (["--step", "1e-9999"], "1e-9999 is too small"),
        (["--noise", "small"], "is not a valid float"),
        (["--save", "out/run"], "'out/run' is no number of intervals. Results go to files by --out"),
        (["--times", "2.5"], "'2.5' is no number of intervals"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_a_value_that_is_no_number_is_told(given, message):
    result = run("simulate", "--expression", "x^2", *given)
    assert result.exit_code == 2
    assert re.search(message, result.stderr)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["simulate"], "Give either `--expression` or `--landscape`"),
        (["simulate", "--landscape", "rosenbrock", "--set", "a=1"], "leave it out with `--landscape`"),
        (["simulate", "--expression", "a*x^2", "--set", "a"], "`--set` must be a name and a number"),
        (["simulate", "--expression", "a*x^2", "--set", "text=1"], "`--set` must be a name and a number"),
        (["simulate", "--expression", "a*x^2", "--set", "b=1"], "no 'b' to set"),
        (["simulate", "--expression", "a*x^2", "--set", "a=1e-400"], "`--set a`: 1e-400 is too small for"),
        (["simulate", "--expression", "x^2", "--start", "1e-400"], "`--start`: 1e-400 is too small"),
        (["simulate", "--expression", "x^2", "--times=-1"], "must be an integer >= 1"),
        (["simulate", "--expression", "a*x^2", "--set", "a=1", "--set", "a=2"], "must give each name once"),
        (["simulate", "--expression", "x", "--landscape", "rosenbrock"], "Give either"),
        (["simulate", "--expression", "__import__('os')"], "The expression"),
        (
            ["simulate", "--expression", "x^2", "--start", "a"],
            "`--start` must be numbers separated by commas",
        ),
        (["simulate", "--landscape", "hills"], "must be one of double_well"),
        (["simulate", "--expression", "x^2 + y", "--at", "0,0"], "`--at` must be a critical point"),
        (["simulate", "--expression", "x^2", "--curvature", "1"], "`--curvature` needs `--at`"),
        (["simulate", "--expression", "x^2", "--step", "0"], "`--step` must be"),
        (["simulate", "--expression", "x^2 + y^2", "--start", "1"], r"`--start` must have shape \(2,\)"),
        (["simulate", "--expression", "x^2", "--method", "lrsfn", "--rank", "2"], "`--rank` must be <="),
        (["portrait", "--expression", "x^2 + y^2 + z^2"], "A phase portrait needs two dimensions"),
        (["portrait", "--expression", "a*x^2 + y^2"], "on the command line --set a=1"),
        (["portrait", "--expression", "x^2", "--out", "p q.pdf"], r"\.png and \.svg, .* Write --out 'p q'\."),
        (["portrait", "--expression", "x^2", "--start", "1,2"], "`--start` must have shape"),
        (["portrait", "--expression", "x^2 + y^2", "--region", "1,2,3"], "`--region` must be one number"),
        (["portrait", "--expression", "x^2 + y^2", "--region", "1,0"], "low < high"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_bad_input_is_one_sentence(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert len(result.stderr.strip().splitlines()) == 1
    with pytest.raises(ValueError, match=message):
        raise ValueError(result.stderr)


def test_methods_are_named_in_any_case_and_files_are_told(tmp_path):
    out = tmp_path / "run.1.NPZ"
    command = ["simulate", "--expression", "x^2", "--method", "SFN", "--paths", "10", "--t-end", "1"]
    assert run(*command, "--out", out).stdout.endswith(f"\n{tmp_path / 'run.1'}.png, .svg, .json, .npz\n")
    assert (tmp_path / "run.1.png").exists()
    assert ".npz" not in run(*command).stdout


@pytest.mark.parametrize("name", SPECTRAL)
def test_methods_have_their_damping_and_rank(name):
    method = method_of(name, damping=0.3, rank=2)
    if "damping" in method.parameters:
        assert method.parameters["damping"] == 0.3
    if method.rank is not None:
        assert method.rank == 2
    assert name == "newton" or np.isfinite(method.gain(0.5))


class TestMethodsWithMomentumAndMetrics:
    @pytest.fixture
    def table(self, tmp_path):
        rng = np.random.default_rng(0)
        X = rng.normal(size=(120, 2)) * [1.0, 0.3]
        rows = np.c_[X, X @ [1.0, -1.0] + 0.3 * rng.normal(size=120)]
        np.savetxt(tmp_path / "table.csv", rows, delimiter=",", header="a,b,y", comments="")
        return ("bound", "--csv", tmp_path / "table.csv", "--target", "y", "--model", "least-squares")

    def test_bound_asks_the_methods_that_are_named(self, table):
        names = ("momentum", "nesterov", "adam", "SIGN", "adam")
        named = [part for name in names for part in ("--method", name)]
        result = run(*table, *named, "--beta", 0.8, "--json")
        assert result.exit_code == 0, result.output
        rows = json.loads(result.stdout)["methods"]
        assert [row["method"] for row in rows] == [
            "SGD + momentum 0.8",
            "SGD + Nesterov 0.8",
            "Adam",
            "SignSGD",
        ]
        assert all(row["step_limit"] > 0 for row in rows)
        plain = json.loads(run(*table, "--json").stdout)["methods"]
        assert [row["method"] for row in plain][:2] == ["SGD", "Newton"]
        assert len(plain) == 6

    def test_a_momentum_that_forgets_nothing_is_refused(self, table):
        result = run(*table, "--method", "nesterov", "--beta", 1)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "`--beta` must be in [0, 1); got 1" in result.stderr

    def test_paths_have_the_momentum_that_is_named(self):
        typed = ("--expression", WELL, "--start", "1,0", "--t-end", 0.2, "--paths", 20, "--json")
        result = run("simulate", *typed, "--method", "nesterov", "--beta", 0.5)
        flow = st.Flow(
            st.expression(WELL), st.Momentum(st.SGD(), 0.5, nesterov=True), st.Noise(gradient=0.1), step=0.1
        )
        ens = st.simulate(flow, start=[1, 0], t_end=0.2, paths=20, seed=0, save=2)
        np.testing.assert_array_equal(json.loads(result.stdout)["mean"], ens.mean)

    def test_a_portrait_draws_them_too(self, tmp_path):
        options = ("--beta", "0.8", "--beta2", "0.95", "--resolution", "8", "--t-end", "0.5")
        methods = [part for name in ("momentum", "rmsprop", "sign") for part in ("--method", name)]
        result = run("portrait", "--expression", WELL, *methods, *options, "--out", tmp_path / "x")
        assert result.exit_code == 0, result.stderr
        told = st.load(tmp_path / "x.npz").provenance["methods"]
        assert told == ["Momentum(SGD(), beta=0.8)", "RMSprop(beta2=0.95, eps=1e-08)", "SignSGD()"]
        # The table of a point knows momentum; a metric is the noise's too.
        assert result.stdout.count("SGD + momentum 0.8") == 1 + result.stdout.count("noise gain")
        assert (tmp_path / "x.png").exists()

    def test_a_portrait_refuses_weight_decay_in_one_sentence(self, tmp_path):
        result = run("portrait", "--expression", WELL, "--method", "adamw", "--out", tmp_path / "x")
        assert result.exit_code == 2
        assert "must have no weight decay: st.portrait knows nothing of it yet" in result.stderr
