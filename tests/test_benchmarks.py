"""The committed benchmark numbers: complete, consistent with their goals, readable; nothing is timed here."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

import stability as st

FOLDER = Path(__file__).parent.parent / "benchmarks"
RESULT = FOLDER / "results" / "ensembles.json"
NEEDED = {"date", "cpu", "cores", "system", "python", "packages", "blas", "load", "pinning"}


def load(name):
    spec = importlib.util.spec_from_file_location(f"benchmarks{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


goals, problems = load("_goals"), load("_problems")


@pytest.fixture(scope="module")
def document():
    if not RESULT.exists():
        pytest.skip(
            "benchmarks/results/ensembles.json has not been measured yet (python benchmarks/ensembles.py)"
        )
    return json.loads(RESULT.read_text(encoding="utf-8"))


# -- the solver's ----------------------------------------------------------------------------------


@pytest.fixture(params=["eigensolver", "network_products", "steps"])
def solver(request, monkeypatch):
    """A benchmark's goals, and what was measured."""
    monkeypatch.syspath_prepend(str(FOLDER))
    module = importlib.import_module(request.param)
    return module.goals(), json.loads(
        (FOLDER / "results" / f"{request.param}.json").read_text(encoding="utf-8")
    )


def test_the_solvers_rows_follow_from_its_cells(solver):
    asked, found = solver
    assert [row["id"] for row in found["rows"]] == [goal.id for goal in asked]
    assert goals.rows(found["cells"], asked) == found["rows"]
    assert all(row["status"] == "ok" for row in found["rows"])
    assert not found["quick"]
    assert set(found["environment"]) >= NEEDED
    assert not any(word in json.dumps(found) for word in ("/home", "/root", "/tmp", "/work", "http"))


def test_training_is_told_as_it_was_measured():
    found = json.loads((FOLDER / "results" / "training.json").read_text(encoding="utf-8"))
    table = load("_training_table")
    assert not found["settings"]["quick"]
    assert not set(found["settings"]["seeds"]) & set(found["settings"]["tuning_seeds"])
    contenders = {cell["contender"] for cell in found["cells"].values()}
    assert len(found["cells"]) == len(found["tasks"]) * len(contenders)
    assert table.tables(found) in (FOLDER / "results" / "training.md").read_text(encoding="utf-8")


# -- the adviser's ---------------------------------------------------------------------------------


@pytest.fixture
def adviser(monkeypatch):
    """What was measured, and the modules that judge it."""
    monkeypatch.syspath_prepend(str(FOLDER))
    found = json.loads((FOLDER / "results" / "adviser.json").read_text(encoding="utf-8"))
    return found, importlib.import_module("_adviser_table"), importlib.import_module("_criterion")


def test_advice_is_told_as_it_was_measured(adviser):
    found, table, _ = adviser
    assert not found["quick"]
    assert set(found["environment"]) >= NEEDED
    assert not any(word in json.dumps(found) for word in ("/home", "/root", "/tmp", "/work", "http"))
    assert table.tables(found) + "\n" == (FOLDER / "results" / "adviser.md").read_text(encoding="utf-8")
    networks = table.cells(found, "network")
    assert len(networks) >= 18
    assert {cell["batch"] for cell in networks.values()} == {8, 32, 128}
    assert len(table.cells(found, "table")) >= 3


def test_a_cell_outside_its_goal_is_shown_and_looked_at(adviser):
    found, table, _ = adviser
    outside = [
        name
        for name, cell in table.cells(found, "network", "table").items()
        if not table.within(table.ratio(cell), table.CELL)
    ]
    assert set(outside) == set(table.LOOKED)
    assert all(name in table.verdict(found) for name in outside)


@pytest.mark.parametrize("beta", [0.0, 0.9])
def test_the_criterion_finds_an_edge_that_is_known(adviser, beta):
    """One mode whose curvature is h or 0, each half of the time: the limit is closed-form."""
    criterion, h = adviser[2], np.array([2.0, 0.0])
    edge = 2 * (1 - beta**2) / ((1 + beta) + (1 - beta))  # of mean 1 and variance 1
    rows = np.sqrt(h)[:, None]
    assert criterion.exact_limit(rows, 1.0, beta) == pytest.approx(edge, rel=1e-3)

    rng, seeds = np.random.default_rng(0), 200
    lrs = edge * 2.0 ** (np.arange(-6, 5) / 2)
    w, u, states = np.zeros((len(lrs), seeds)), np.zeros((len(lrs), seeds)), []
    for _ in range(300):
        u = beta * u + rng.choice(h, seeds) * w + rng.standard_normal(seeds)
        w = w - lrs[:, None] * u
        states.append(w.reshape(-1, 1))
    halves = [criterion.variance(np.array(part), np.ones(1)) for part in (states[:150], states[150:])]
    early, late = (half.reshape(w.shape) for half in halves)
    record = criterion.Record(lrs, early, late, early, late)
    score = criterion.growth(record, 1 / (2 * (1 - beta)))
    assert criterion.edge(lrs, score) == pytest.approx(edge, rel=0.3)


def test_an_edge_beyond_the_steps_that_were_tried_is_said_so(adviser):
    criterion, lrs = adviser[2], np.array([1.0, 2.0, 4.0])
    assert criterion.edge(lrs, np.array([-1.0, -1.0, 1.0])) == pytest.approx(8**0.5)
    assert criterion.edge(lrs, -np.ones(3)) == np.inf
    assert criterion.edge(lrs, np.ones(3)) == 0


# -- any -------------------------------------------------------------------------------------------


def cell(**costs):
    contenders = {name: {"median": cost, "right": True} for name, cost in costs.items()}
    return {
        "unit": "ns/path-step",
        "contenders": contenders,
        "absent": {"numba": "numba is not installed (extra `fast`)."},
    }


def test_every_goal_has_its_row_once(document):
    assert [row["id"] for row in document["rows"]] == [goal.id for goal in goals.goals()]


def test_each_row_follows_from_its_medians(document):
    again = goals.rows(document["cells"], goals.goals())
    assert again == document["rows"]
    for row in document["rows"]:
        if row["ratio"] is None:
            assert row["met"] is None
            assert row["why"]
        elif row["goal"] is not None:
            assert row["met"] == (
                row["status"] == "ok" and goals.holds(row["ratio"], row["goal"], row["bound"])
            )


def test_the_environment_is_told_without_names_or_paths(document):
    assert set(document["environment"]) >= NEEDED
    assert {"numpy", "numba", "jax", "torch"} <= set(document["environment"]["packages"])
    text = json.dumps(document)
    assert not any(word in text for word in ("/home", "/root", "/tmp", "/work", "http"))


def test_the_committed_run_is_a_full_one_and_checked_every_ensemble(document):
    assert not document["quick"]
    for name, part in document["cells"].items():
        if "covariance" not in name:
            assert all(
                one["right"] == (one["z"] is None or one["z"] < 5) for one in part["contenders"].values()
            ), name
            assert all(len(one["all"]) >= 5 for one in part["contenders"].values()), name


def test_the_table_names_what_is_missed(document):
    text = goals.table(document)
    assert text.splitlines()[-1].startswith("Missed: ")
    assert all(row["cell"] in text for row in document["rows"])


def test_a_missed_goal_and_an_absent_engine_are_told_apart():
    asked = [
        goals.Goal("ou", "numpy", "draw", 1.35, "most"),
        goals.Goal("ou", "numba", "draw", 0.75, "most"),
        goals.Goal("ou", "numpy", "peer", 3.0),
    ]
    found = goals.rows({"ou": cell(numpy=20.0, draw=10.0, peer=70.0)}, asked)
    assert [row["met"] for row in found] == [False, None, True]
    *_, before, last = goals.table({"rows": found}).splitlines()
    assert before == "Not available: 1 goals (ou: numba vs draw)."
    assert last == "Missed: ou: numpy vs draw."


def test_nobody_wins_with_a_wrong_ensemble():
    part = cell(numpy=1.0, peer=100.0)
    part["contenders"]["numpy"]["right"] = False
    (row,) = goals.rows({"ou": part}, [goals.Goal("ou", "numpy", "peer", 3.0)])
    assert row["status"] == "WRONG"
    assert row["met"] is False
    assert "WRONG" in goals.table({"rows": [row]})


@pytest.mark.parametrize("dim", [2, 5])
def test_the_peers_are_given_our_landscape(dim):
    w = np.random.default_rng(3).standard_normal((4, dim))
    ours = st.landscape("coupled_quartic", dim=dim)
    gradient, hessian = problems.quartic(w)
    np.testing.assert_allclose(gradient, ours.gradient(w), atol=1e-14)
    np.testing.assert_allclose(hessian, ours.hessian(w), atol=1e-14)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "dim"), [("ou", 3), ("sfn", 2)])
def test_the_check_passes_the_right_ensemble_and_no_other(kind, dim):
    problem = problems.Problem(kind, dim, paths=4000, steps=16)
    law, states = problems.expected(problem), simulated(problem)
    assert problems.largest_z(states, law) < 5
    assert problems.largest_z(states + 0.02, law) > 5
    assert problems.largest_z(states.mean(axis=0) + 0.9 * (states - states.mean(axis=0)), law) > 5
    assert problems.largest_z(np.where(states > 1e9, states, np.nan), law) == np.inf


def simulated(problem):
    return st.simulate(
        problem.flow(), start=problem.start, t_end=problem.t_end, dt=problem.dt, paths=problem.paths, seed=0
    ).states[-1]
