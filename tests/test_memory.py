"""Momentum: a method with a buffer of its steps, and its linear theory against matrices written out."""

import copy
import pickle

import numpy as np
import pytest

import stability as st

QUIET = st.Noise(gradient=0.1)
HEAVY = st.Momentum(st.SFN(damping=0.1), beta=0.9)


def flow(method=HEAVY, spectrum=(1.0, 0.2), **options):
    return st.Flow(st.quadratic(spectrum), method, options.pop("noise", QUIET), step=0.1)


class TestMomentum:
    @pytest.mark.parametrize(
        "inner",
        [
            st.SGD(),
            st.Newton(),
            st.SFN(damping=0.1),
            st.LRSFN(rank=1, damping=0.1, tail="flat"),
            st.Method(lambda lam, eps: 1 / (lam**2 + eps) ** 0.5, name="root", eps=0.01),
        ],
        ids=lambda m: m.label,
    )
    def test_its_preconditioner_is_the_inner_methods(self, inner):
        method, lams = st.Momentum(inner, 0.5, True), np.array([3.0, 1.7, 0.5])
        assert np.array_equal(method.gains(lams), inner.gains(lams))
        assert np.array_equal(method.divided_differences(lams), inner.divided_differences(lams))
        assert method.parameters == inner.parameters
        assert (method.rank, method.is_identity) == (inner.rank, inner.is_identity)
        assert method.label == f"{inner.label} + Nesterov 0.5"
        assert repr(method) == f"Momentum({inner!r}, beta=0.5, nesterov=True)"

    def test_the_inner_methods_own_numbers_are_at_hand(self):
        assert HEAVY.damping == 0.1
        assert HEAVY.with_parameters(damping=0.5).gain(0.5) == 1.0
        assert (HEAVY.beta, HEAVY.nesterov, HEAVY.memory.average) == (0.9, False, False)
        with pytest.raises(AttributeError, match="no attribute 'colour'"):
            _ = HEAVY.colour

    @pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])  # noqa: S301
    def test_it_is_copied_and_sent_to_other_processes(self, how):
        assert repr(how(HEAVY)) == repr(HEAVY)
        assert how(HEAVY).gain(0.9) == 1.0

    def test_other_methods_have_no_memory(self):
        assert st.SGD().memory is None
        assert st.Method(lambda lam: 2.0).memory is None

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda: st.Momentum(st.SGD(), beta=1.0), r"`beta` must be in \[0, 1\); got 1.0"),
            (lambda: st.Momentum(st.SGD(), beta=-0.1), r"`beta` must be a finite number >= 0; got -0.1"),
            (lambda: st.Momentum(st.SGD(), beta=np.nan), r"`beta` must be a finite number"),
            (lambda: st.Momentum(st.SGD(), beta="0.9"), r"`beta` must be"),
            (lambda: st.Momentum(st.SGD(), nesterov="no"), r"`nesterov` must be True or False; got 'no'"),
            (
                lambda: st.Momentum(HEAVY),
                r"must have no momentum of its own; got Momentum.*Wrap the method inside",
            ),
            (lambda: st.Momentum(st.SGD), r"`method` must be a st.Method such as st.SGD\(\)"),
            (lambda: st.Momentum("SGD"), r"`method` must be a st.Method such as st.SGD\(\) .*; got 'SGD'"),
        ],
    )
    def test_bad_input(self, call, message):
        with pytest.raises(ValueError, match=message):
            call()


LINE = st.expression("x**4 - x**2")
ASKED = {
    "st.stationary_density": lambda: st.stationary_density(flow(), 2),
    "st.trajectory": lambda: st.trajectory(flow(), [1.0, 1.0], 1.0),
    "st.lyapunov_exponents": lambda: st.lyapunov_exponents(flow()),
    "st.almost_sure_limit": lambda: st.almost_sure_limit(flow()),
    "st.exact_mode": lambda: st.exact_mode(HEAVY, curvature=1.0, noise=QUIET),
    "st.portrait": lambda: st.portrait(st.landscape("coupled_quartic"), 2, [HEAVY]),
    "st.profile": lambda: st.profile(LINE, 2, [HEAVY]),
    "the table of a critical point": lambda: st.critical_points(LINE, 2)[0].methods([HEAVY]),
    "a spectrum": lambda: st.spectrum(lambda V: V, n=3).amplification(HEAVY),
    "st.theorem": lambda: st.theorem("noise-amplification", method=HEAVY),
    "st.method_table": lambda: st.method_table([HEAVY]),
}


@pytest.mark.parametrize("who", ASKED)
def test_what_does_not_know_momentum_refuses_it(who):
    inside = r"Use SFN\(damping=0.1\), the method inside"
    with pytest.raises(
        ValueError, match=rf"must have no momentum: {who} knows nothing of it yet; .*{inside}"
    ):
        ASKED[who]()
