"""Studies of momentum, metrics and batch sharpness: checks can fail, and pictures show the numbers."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import stability as st
from stability import claims

DATA = Path(__file__).parents[1] / "figures/data"


@pytest.fixture(scope="module", params=["momentum", "metrics", "sharpness"])
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
    elif study.name == "sharpness":
        late = study["late"]
        assert failed(study, ended=np.zeros_like(study["ended"])) == [0]
        for entry, check in (((0, -1), 1), ((1, -1), 2), ((1, 0), 3), ((0, 0), 4)):
            for factor in (0.1, 1.6):
                other = late.copy()
                other[entry] *= factor
                assert failed(study, late=other) == [check]
        assert failed(study, late=late[::-1]) == [1, 2, 3, 4]
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
    elif study.name == "sharpness":
        assert all(holds(y) for y in study["course"][:, [0, -1]].reshape(4, -1))
        assert all(holds(y) for y in study["late"][:, :, 0])
        for level in (2.0, 3.8, 0.2):
            assert holds([level, level])
    else:
        assert all(holds(y) for y in (*study["kappa"][1], *study["kappa"][[0, 2], 0]))
        assert all(holds(y) for one in study["loss"] for y in one)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["momentum", "metrics", "sharpness"])
def test_quick_its_statements_hold_too(name):
    assert all(one.passed for one in claims.check(claims.run(name, quick=True, seed=1)))
