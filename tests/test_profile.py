"""Profiles on a line: two witnesses of one density, and what is said where there is none."""

import numpy as np
import pytest

import stability as st

WELL = st.expression("x^4/4 - x^2/2")
METHODS = [st.SGD(), st.Newton(), st.SFN(damping=0.3)]


@pytest.fixture(scope="module")
def seen():
    return st.profile(WELL, 2, METHODS, paths=4000, t_end=3.0, step=0.04)


class TestWitnesses:
    @pytest.mark.slow
    def test_paths_keep_the_predicted_density(self, seen):
        assert seen.agrees.tolist() == [True, True, True]
        assert (seen.variation[:, 0] < 1.5 * seen.variation[:, 1]).all()

    def test_sgds_density_is_gibbs(self, seen):
        gibbs = np.exp(-2 * seen.values / 0.04)
        np.testing.assert_allclose(
            seen.density[0], gibbs / (gibbs.sum() * (seen.x[1] - seen.x[0])), rtol=2e-3, atol=1e-12
        )  # midpoint sum

    def test_the_drift_is_the_flows(self, seen):
        for m, method in enumerate(METHODS):
            flow = st.Flow(WELL, method, st.Noise(gradient=1.0), step=0.04)
            np.testing.assert_allclose(seen.drift[m, ::40], flow.drift(seen.x[::40, None])[:, 0])

    def test_newton_gathers_at_the_maximum_and_sfn_does_not(self, seen):
        near = np.abs(seen.x) < 0.3
        mass = seen.density[:, near].sum(axis=1) * (seen.x[1] - seen.x[0])
        assert mass[1] > 0.1
        assert mass[0] < 1e-3
        assert mass[2] < 1e-3

    def test_paths_from_one_well_differ(self):
        """Barriers keep them there: what the total variation must see."""
        one = st.profile(WELL, 2, [st.SGD()], start=1.0, paths=1000, t_end=5.0, step=0.04)
        assert not one.agrees.any()
        assert one.variation[0, 0] > 0.4
        assert "DIFFER" in str(one)

    def test_counts_and_what_lies_outside(self, seen):
        assert (seen.counts.sum(axis=1) + seen.outside == 4000).all()
        assert len(seen.edges) == seen.counts.shape[1] + 1


class TestResult:
    def test_it_prints_is_saved_and_drawn(self, seen, tmp_path):
        text = str(seen)
        assert "maximum at 0" in text
        assert "Newton: the gain is infinite near" in text
        again = st.load(st.save(seen, tmp_path / "line"))
        assert str(again) == text
        figure = st.plot(again)
        assert [axis.get_title() for axis in figure.axes[:3]] == ["SGD", "Newton", "SFN"]

    def test_where_nothing_confines(self):
        seen = st.profile(st.expression("-x^2"), 1, [st.SGD()], start=0.0, paths=200, t_end=1.0)
        assert any("SGD" in note for note in seen.notes)
        st.plot(seen)

    def test_where_all_paths_run_away_or_none_can_start(self):
        away = st.profile(st.expression("-x^2"), 2, [st.SGD()], paths=100, t_end=10.0)
        assert away.outside.tolist() == [100]
        outside = st.profile(st.expression("log(x)"), 2, [st.SGD(), st.Newton()], paths=100, t_end=1.0)
        assert outside.outside.tolist() == [100, 100]
        assert any("no paths" in note for note in outside.notes)
        st.plot(outside)

    def test_without_noise_there_is_no_density(self):
        seen = st.profile(WELL, 2, [st.SGD()], noise=st.Noise(), start=0.5, paths=100, t_end=1.0)
        assert np.isnan(seen.density).all()
        assert np.isnan(seen.variation).all()
        assert not seen.agrees.any()
        assert any("no stationary density" in note for note in seen.notes)
        st.plot(seen)
        str(seen)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"paths": 99}, "`paths`"),
        ({"methods": []}, "at least one method"),
        ({"start": [0.0, 1.0]}, "`start` must have shape"),
        ({"step": -1}, "`step`"),
        ({"t_end": 0}, "`t_end`"),
        ({"region": [1, 0]}, "low < high"),
    ],
    ids=str,
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        st.profile(WELL, **({"region": 2, "paths": 100} | options))


def test_two_dimensions_are_for_portraits():
    with pytest.raises(ValueError, match=r"needs one dimension; .* has 2. In two, use st.portrait"):
        st.profile(st.landscape("double_well"), 1)


class TestMemory:
    def test_with_momentum_sgds_positions_have_kramers_density(self):
        kinds = [st.Momentum(st.SGD(), 0.8), st.Momentum(st.SFN(damping=0.3)), st.RMSprop()]
        seen = st.profile(WELL, 2, kinds, noise=st.Noise(gradient=1.5), paths=2000, t_end=4.0, step=0.04)
        kramers = np.exp(-2 * 0.2 * seen.values / (0.04 * 1.5**2))
        width = seen.x[1] - seen.x[0]
        np.testing.assert_allclose(seen.density[0], kramers / (kramers.sum() * width), rtol=2e-3, atol=1e-12)
        assert seen.agrees.tolist()[0]
        assert np.isnan(seen.density[1:]).all()
        assert [note.split(":")[0] for note in seen.notes[:2]] == ["SFN + momentum 0.9", "RMSprop"]
        assert (seen.counts.sum(axis=1) + seen.outside == 2000).all()

    def test_the_drift_is_that_of_what_has_settled(self):
        kinds = [st.Momentum(st.SGD(), 0.8), st.RMSprop(), st.SFN(damping=0.3, weight_decay=0.2)]
        seen = st.profile(WELL, 2, kinds, paths=100, t_end=0.2)
        g = seen.x**3 - seen.x
        np.testing.assert_allclose(seen.drift[0], -5 * g, rtol=1e-12)
        np.testing.assert_allclose(seen.drift[1], -g / (np.sqrt(g**2 + 1) + 1e-8), rtol=1e-12)
        gain = 1 / (np.abs(3 * seen.x**2 - 1) + 0.3)
        np.testing.assert_allclose(seen.drift[2], -gain * g - 0.2 * seen.x, atol=1e-12)

    def test_a_sign_has_a_density_and_weight_decay_is_in_it(self):
        kinds = [st.SignSGD(), st.SFN(damping=0.3, weight_decay=0.2)]
        seen = st.profile(WELL, 2, kinds, noise=st.Noise(gradient=1.5), paths=2000, t_end=2.0, step=0.1)
        assert seen.agrees.all()
