"""Claims and their verdicts: criteria decide, and numbers keep where they come from."""

import json
import math

import pytest

from stability._saving import Study
from stability.claims.registry import CLAIMS
from stability.claims.verdict import Claim, ClaimVerdict, Criterion, Number, Run, Verdict, decide


def criteria(*held, needed=True):
    return [Criterion(f"condition {k}", holds, "", needed) for k, holds in enumerate(held)]


def claim(**changed):
    words = {
        "number": 2,
        "title": "noise",
        "statement": "It is so.",
        "experiment": "a grid",
        "criteria": ("condition 0",),
        "measure": lambda run: Study("claim-2", {}, {}),
        "judge": lambda study: None,
    }
    return Claim(**{**words, **changed})


class TestVerdict:
    @pytest.mark.parametrize(
        ("held", "verdict"),
        [
            ((True, True), "supported"),
            ((True, False), "qualified"),
            ((True, None), "qualified"),
            ((False, False), "not supported"),
            ((False, None), "not supported"),
            ((None, None), "not tested here"),
        ],
    )
    def test_needed_criteria_decide(self, held, verdict):
        assert decide(criteria(*held)) == verdict

    def test_others_do_not(self):
        assert decide([*criteria(True), *criteria(False, needed=False)]) == Verdict.SUPPORTED

    def test_it_shows_itself_and_is_strict_json(self):
        found = claim().found([Number("effect", 2.0, (1.5, 2.5), "steps")], criteria(True), "Because.")
        assert "2 [1.5, 2.5] steps" in str(found)
        assert found.interval == (1.5, 2.5)
        assert json.loads(json.dumps(found.to_json(), allow_nan=False))["numbers"]["effect"]["value"] == 2.0
        assert list(found.to_frame()["number"]) == ["effect"]

    def test_a_given_verdict_stands(self):
        assert claim().found([], criteria(True), "", Verdict.QUALIFIED).verdict == "qualified"

    def test_an_unknown_verdict_is_refused(self):
        with pytest.raises(ValueError, match="is not a valid Verdict"):
            ClaimVerdict(1, "", "perhaps", (), None, "", ())

    def test_a_number_is_found_by_its_name(self):
        found = claim().found([Number("a", 1.0), Number("b", math.nan)], criteria(None), "None.")
        assert math.isnan(found["b"].value)
        assert found["a"].interval is None


def double(x):
    return {"twice": 2.0 * x}


def test_a_run_keeps_the_points_of_its_grids(tmp_path):
    pytest.importorskip("xarray")
    told = []
    run = Run(quick=True, seed=3, report=told.append, store=tmp_path / "store")
    assert list(run.sweep("doubled", {"x": [1.0, 2.0]}, double)["twice"].values) == [2.0, 4.0]
    assert told == ["doubled"]
    assert (tmp_path / "store" / "doubled").is_dir()


def test_claims_are_listed_by_their_numbers():
    assert [claim.number for claim in CLAIMS.values()] == sorted(CLAIMS)
    for number, one in CLAIMS.items():
        assert one.number == number
        assert one.criteria
