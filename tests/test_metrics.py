"""Metrics from the noise: sign steps, RMSprop, Adam, as methods and in the linear theory."""

import numpy as np
import pytest

import stability as st

METRICS = [
    st.SignSGD(),
    st.RMSprop(beta2=0.95, eps=1e-3),
    st.Adam(),
    st.Adam(0.8, 0.99, 1e-6, weight_decay=0.1),
    st.Adam(weight_decay=0.1, decoupled=False),
]


class TestTheObjects:
    def test_their_defaults_are_pytorchs(self):
        assert repr(st.Adam()) == "Adam(beta1=0.9, beta2=0.999, eps=1e-08)"
        assert repr(st.RMSprop()) == "RMSprop(beta2=0.99, eps=1e-08)"
        assert repr(st.SignSGD()) == "SignSGD()"

    @pytest.mark.parametrize("method", METRICS, ids=repr)
    def test_a_repr_makes_an_equal_one(self, method):
        name, _, rest = repr(method)[:-1].partition("(")
        given = dict(part.split("=") for part in rest.split(", ") if part)
        read = {"False": False, "True": True}
        same = getattr(st, name)(**{k: read[v] if v in read else float(v) for k, v in given.items()})
        assert same == method
        assert hash(same) == hash(method)

    def test_others_are_not_equal(self):
        assert len({*METRICS, st.Adam(weight_decay=0.2), st.RMSprop(), st.SGD()}) == len(METRICS) + 3

    @pytest.mark.parametrize("method", METRICS, ids=repr)
    def test_saved_they_come_back(self, method, tmp_path):
        back = st.load(st.save(method, tmp_path / "method"))
        assert back == method
        assert back.label == method.label

    def test_labels_tell_two_ways_of_weight_decay_apart(self):
        assert [one.label for one in METRICS] == ["SignSGD", "RMSprop", "Adam", "AdamW", "Adam"]

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: st.Adam(beta1=1.0), r"`beta1` must be in \[0, 1\); got 1.0"),
            (lambda: st.Adam(beta2=-0.1), "`beta2` must be a finite number >= 0; got -0.1"),
            (lambda: st.RMSprop(beta2=1.0), r"`beta2` must be in \[0, 1\)"),
            (lambda: st.RMSprop(eps=-1e-8), "`eps` must be a finite number >= 0"),
            (lambda: st.Adam(eps=np.nan), "`eps` must be a finite number >= 0"),
            (lambda: st.Adam(weight_decay=-1), "`weight_decay` must be a finite number >= 0"),
            (lambda: st.Adam(decoupled="no"), "`decoupled` must be True or False"),
        ],
    )
    def test_numbers_out_of_range_are_refused(self, make, message):
        with pytest.raises(ValueError, match=message):
            make()


NO_FUNCTION = (
    "metric is diagonal in the coordinates and depends on the noise; it is no function of the Hessian's "
    r"eigenvalues. Use st.linearize, st.simulate, st.minimize, or a spectral method: st.SFN\(damping=...\)"
)


@pytest.mark.parametrize("method", [METRICS[0], METRICS[1], METRICS[2]], ids=repr)
@pytest.mark.parametrize(
    "ask",
    [
        lambda method: method.gain(1.0),
        lambda method: method.tail_gain(1.0),
        lambda method: method.gains([1.0, 0.5]),
        lambda method: method.divided_differences([1.0, 0.5]),
        lambda method: st.exact_mode(method, curvature=1.0, noise=st.Noise(gradient=1.0)),
    ],
    ids=["gain", "tail_gain", "gains", "divided_differences", "exact_mode"],
)
def test_who_asks_for_a_function_of_eigenvalues_is_told(method, ask):
    with pytest.raises(ValueError, match=NO_FUNCTION):
        ask(method)
