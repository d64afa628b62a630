"""What `dir(st)` shows, what has moved to a room of its own, and how old names are told."""

import warnings

import numpy as np
import pytest

import stability as st
from stability import _check

NAMES = {
    "methods": "SGD Newton DampedNewton SFN LRSFN Method Momentum SignSGD RMSprop Adam gallery",
    "objectives": "quadratic expression landscape logistic least_squares mlp datasets Objective "
    "check_derivatives",
    "flows": "Flow Noise",
    "theory": "linearize bounds advise exact_mode exit_time theorem theorems trajectory "
    "stationary_density almost_sure_limit lyapunov_exponents",
    "measurement": "simulate escape compare tail_index critical_points portrait profile",
    "solver": "minimize randomized_eigh spectrum sweep Backend",
    "results": "plot save load results Study",
    "what goes wrong": "Interrupted StabilityWarning Unstable BadProducts",
}


def listed():
    return {name for group in NAMES.values() for name in group.split()}


def test_the_public_names_are_these_and_no_more_than_55():
    assert set(dir(st)) == set(st.__all__) == listed()
    assert len(listed()) <= 55


def test_every_class_of_results_is_there():
    for name in dir(st.results):
        assert isinstance(getattr(st.results, name), type), name
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = st.results.Nothing


@pytest.mark.parametrize("name", sorted(set(st.results.__all__) - {"Dataset", "Study", "Verdict"}))
def test_a_class_of_results_under_its_old_name_warns(name):
    with pytest.warns(DeprecationWarning, match=rf"`st\.{name}` is called `st\.results\.{name}` now") as told:
        assert getattr(st, name) is getattr(st.results, name)
    assert told[0].filename == __file__  # the line that is to be changed


@pytest.mark.parametrize(
    ("room", "name"),
    [
        ("gallery", "Armijo"),
        ("gallery", "SpectralStep"),
        ("gallery", "autoencoder"),
        ("gallery", "batch_sharpness"),
        ("gallery", "method_table"),
        ("datasets", "read_table"),
    ],
)
def test_what_moved_to_a_room_of_its_kind_warns_under_its_old_name(room, name):
    assert name in dir(getattr(st, room))
    with pytest.warns(DeprecationWarning, match=rf"`st\.{name}` is called `st\.{room}\.{name}` now") as told:
        assert getattr(st, name) is getattr(getattr(st, room), name)
    assert told[0].filename == __file__


def test_what_never_was_a_name_is_none():
    with pytest.raises(AttributeError, match="module 'stability' has no attribute 'Nothing'"):
        _ = st.Nothing


class TestRenamed:
    def test_an_old_keyword_is_accepted_and_told(self):
        @_check.renamed(old="new")
        def double(*, new):
            return 2 * new

        with pytest.warns(DeprecationWarning, match="`old` is called `new` now; the old name goes") as told:
            assert double(old=3) == 6
        assert told[0].filename == __file__
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert double(new=3) == 6
        with pytest.raises(TypeError, match="`old` is the old name of `new`; give `new` alone"):
            double(old=1, new=2)

    def test_an_old_keyword_beside_the_new_one_by_position_is_refused(self):
        with pytest.raises(TypeError, match="`w0` is the old name of `start`; give `start` alone"):
            st.minimize(st.quadratic([1.0]), [1.0], w0=[1.0])

    def test_an_old_attribute_is_read_and_told(self):
        class Thing:
            new = 5
            old = _check.renamed_attribute("old", "new")

        with pytest.warns(DeprecationWarning, match=r"`\.old` is called `\.new` now") as told:
            assert Thing().old == 5
        assert told[0].filename == __file__


NEWTON = st.Flow(st.quadratic([1.0, 0.5]), st.Newton(), st.Noise(gradient=0.1), step=0.5)
OLD_KEYWORDS = {
    "lyapunov_exponents(count=)": (
        lambda: st.lyapunov_exponents(NEWTON, count=1),
        "`count` is called `rank`",
    ),
}


@pytest.mark.parametrize("call", OLD_KEYWORDS)
def test_a_keyword_under_its_old_name_works_and_warns(call):
    run, told = OLD_KEYWORDS[call]
    with pytest.warns(DeprecationWarning, match=told):
        run()


def test_a_saved_comparison_of_an_earlier_version_is_read(tmp_path):
    ensemble = st.simulate(NEWTON, start=[0, 0], t_end=2, paths=50, seed=0)
    found = st.compare(st.linearize(NEWTON), ensemble)
    found.save(tmp_path / "new")
    with pytest.warns(DeprecationWarning, match=r"`\.mean_error` is called `\.standard_error`"):
        assert found.mean_error is found.standard_error
    kept = found._kept()
    kept["mean_error"] = kept.pop("standard_error")
    assert st.results.Comparison._restored(**kept).standard_error is found.standard_error


class TestEquality:
    """A result is equal to what was made the same way, and to what was saved and read back."""

    @staticmethod
    def made():
        flow = st.Flow(st.quadratic([1.0, 0.5]), st.SFN(damping=0.1), st.Noise(gradient=0.1), step=0.1)
        mode = st.exact_mode(st.SFN(damping=0.1), curvature=0.5, noise=st.Noise(curvature=0.1))
        theorem = st.theorem("truncation-limit", method=st.LRSFN(rank=5, damping=0.1))
        ensemble = st.simulate(flow, start=[1, 0], t_end=1, paths=20)
        return [st.linearize(flow), mode, theorem, ensemble, st.exit_time(rate=1, diffusion=1, radius=2)]

    def test_of_what_was_saved(self, tmp_path):
        for number, result in enumerate(self.made()):
            assert st.load(result.save(tmp_path / str(number))) == result

    def test_of_what_was_made_the_same_way_and_not_of_anything_else(self):
        for one, other in zip(self.made(), self.made(), strict=True):
            if not isinstance(one, st.results.Ensemble):  # which keeps its seconds
                assert one == other
            assert one != "another thing"
        one = st.Study("s", {"x": np.array([1.0, np.nan])}, {"p": np.nan})
        assert one == st.Study("s", {"x": np.array([1.0, np.nan])}, {"p": np.nan})
        assert one != st.Study("s", {"x": np.array([1.0, 2.0])}, {"p": np.nan})
        assert one != st.Study("s", {"x": np.array([1.0, np.nan])}, {"p": 1.0})


@pytest.mark.parametrize(
    "ask",
    [
        lambda flow: st.linearize(flow).covariance(),
        lambda flow: st.escape(flow, radius=0.1, paths=5, t_end=1),
        lambda flow: st.trajectory(flow, np.ones(4), t_end=1),
    ],
)
def test_a_loop_over_spectra_survives_a_tie(ask):
    noise = st.Noise(gradient=0.1, curvature=0.01)
    flow = st.Flow(st.quadratic([1.0] * 4), st.LRSFN(rank=2, damping=0.1), noise, step=0.1)
    with pytest.raises(st.Unstable, match="cuts through eigenvalues of equal size"):
        ask(flow)
