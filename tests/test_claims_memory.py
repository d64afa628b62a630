"""The studies of momentum and of metrics: their checks can fail, and their pictures show their numbers."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import stability as st
from stability import claims

DATA = Path(__file__).parents[1] / "figures/data"


@pytest.fixture(scope="module", params=["momentum", "metrics"])
def study(request):
    return st.load(DATA / request.param)


def failed(study, **arrays):
    """Which checks fail with other numbers."""
    other = dataclasses.replace(study, arrays={**study.arrays, **arrays})
    return [k for k, one in enumerate(claims.check(other)) if not one.passed]


def test_every_check_fails_where_its_numbers_are_others(study):
    assert failed(study) == []
    if study.name == "momentum":
        limit = study["limit"].copy()
        limit[0, 1:, -1] *= 0.8
        assert failed(study, ratio=1 / study["ratio"]) == [0]
        assert failed(study, measured=1.1 * study["measured"]) == [1]
        assert failed(study, limit=limit) == [3]
        assert 2 in failed(study, limit=study["limit"][:, ::-1])
    else:
        kappa = study["kappa"]
        turned = kappa.copy()
        turned[0] *= np.linspace(1, 2, kappa.shape[-1])
        assert failed(study, kappa=turned) == [0]
        assert failed(study, kappa=kappa[[0, 0, 2]]) == [1]
        assert failed(study, loss=study["loss"][[0, 0]]) == [2]
        measured = study["measured"].copy()
        measured[0, 0, 0, 0] += 9 * measured[0, 0, 0, 1]
        assert failed(study, measured=measured) == [3]


def test_its_picture_holds_its_numbers(study):
    shown = [line.get_ydata() for axis in st.plot(study).axes for line in axis.lines]

    def holds(wanted):
        return any(len(y) == len(wanted) and np.allclose(y, wanted) for y in shown)

    if study.name == "momentum":
        whole = 1 / (1 - study["betas"])
        assert all(holds(w * y) for w, y in zip(whole, study["limit"][0], strict=True))
        assert all(holds(w * y) for w, y in zip(whole, study["measured"], strict=True))
    else:
        assert all(holds(y) for y in (*study["kappa"][1], *study["kappa"][[0, 2], 0]))
        assert all(holds(y) for one in study["loss"] for y in one)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["momentum", "metrics"])
def test_quick_its_statements_hold_too(name):
    assert all(one.passed for one in claims.check(claims.run(name, quick=True, seed=1)))
