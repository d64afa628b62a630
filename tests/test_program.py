"""Formulas as instructions: NumPy's numbers, bit for bit, or a refusal that costs nothing but speed."""

import numpy as np
import pytest
from conftest import all_methods, label

import stability as st
from stability import _fast
from stability.ensembles.planar import PlanarChunks, PlanarSteps
from stability.methods.program import LONGEST, Program, Untraceable

PLANAR = ["double_well", "coupled_quartic", "monkey_saddle", "rosenbrock"]
OPERATIONS = (
    np.add,
    np.subtract,
    np.multiply,
    np.divide,
    lambda a, b: -a,
    lambda a, b: np.abs(a),
    lambda a, b: np.sqrt(a),
)


def follow(program, *values):
    """The instructions carried out by NumPy."""
    registers = [*values, *program.constants, *[None] * len(program.code)]
    for kind, to, a, b in program.code:
        registers[to] = OPERATIONS[kind](registers[a], registers[b])
    return [np.broadcast_to(registers[i], np.shape(values[0])) for i in program.results]


@pytest.mark.parametrize(
    "formula",
    [
        lambda x: 1 / (abs(x) + 0.1),
        lambda x: (x - 3) * (x + x**2) / -x,
        lambda x: 1 / np.sqrt(x**2 + 0.01),
        lambda x: np.float64(2.0) * +x - np.square(x),
        lambda x: (2 - x) ** 2 + abs(x) ** 0.5,
        lambda x: 0.5,
        lambda x: x,
    ],
)
def test_instructions_round_as_the_formula_does(formula, rng):
    x = rng.standard_normal(50)
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(follow(Program(formula, 1), x)[0], np.broadcast_to(formula(x), x.shape))


@pytest.mark.parametrize(
    "formula",
    [
        lambda x: x if x > 0 else -x,
        lambda x: x**3,
        lambda x: np.sin(x),
        lambda x: np.where(x > 0, x, 0),
        lambda x: float(x),
        lambda x: "x",
        lambda x: x.real,
    ],
)
def test_what_is_no_list_of_operations_is_refused(formula):
    with pytest.raises(Untraceable):
        Program(formula, 1)


def test_long_formulas_are_refused():
    def doubling(x):
        for _ in range(LONGEST + 1):
            x = x + x
        return x

    with pytest.raises(Untraceable, match=f"more than {LONGEST} operations"):
        Program(doubling, 1)


@pytest.mark.parametrize("name", PLANAR)
def test_a_landscapes_planar_formula_is_its_gradient_and_hessian(name, rng):
    F, w = st.landscape(name), rng.standard_normal((40, 2))
    first, second, h11, h12, h22 = (np.broadcast_to(part, 40) for part in F.planar(w[:, 0], w[:, 1]))
    np.testing.assert_allclose(np.stack([first, second], axis=-1), F.gradient(w), rtol=1e-12, atol=1e-11)
    hessian = np.stack([np.stack([h11, h12], axis=-1), np.stack([h12, h22], axis=-1)], axis=-2)
    np.testing.assert_allclose(hessian, F.hessian(w), rtol=1e-12, atol=1e-11)


def flow_of(name, method, *, noise=0.2):
    return st.Flow(
        st.landscape(name), method, st.Noise(gradient=noise), step=0.001 if name == "rosenbrock" else 0.02
    )


def run(flow, **options):
    return st.simulate(
        flow,
        start=[0.9, 0.3],
        t_end=40 * flow.step,
        paths=400,
        seed=1,
        radius=5.0,
        save=4,
        exit=0.7,
        **options,
    )


def states_of(ens):
    return ens.states, ens.diverged_at, ens.exit_times


@pytest.mark.skipif(not _fast.available(), reason="Numba is not installed (extra `fast`)")
@pytest.mark.parametrize("level", ["sde", "iteration"])
@pytest.mark.parametrize(
    "method",
    [
        *all_methods(1),
        st.LRSFN(rank=2, damping=0.1),
        st.gallery.rsfn(eps=0.1),
        st.Method(gain=lambda lam: 0.5),
        st.Momentum(st.SGD(), beta=0.7),
        st.Momentum(st.SFN(damping=0.1), beta=0.7, nesterov=True),
    ],
    ids=label,
)
@pytest.mark.parametrize("name", PLANAR)
@pytest.mark.filterwarnings("ignore::stability.StabilityWarning")
def test_compiled_or_not_the_bits_are_the_same(name, method, level):
    for ours, theirs in zip(
        *(states_of(run(flow_of(name, method), level=level, accelerate=yes)) for yes in (True, False)),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    "method",
    [
        st.SGD(),
        st.SFN(damping=0.1),
        st.LRSFN(rank=1, damping=0.1),
        st.Momentum(st.SFN(damping=0.1), beta=0.7),
        st.Momentum(st.SGD(), beta=0.7, nesterov=True),
    ],
    ids=label,
)
@pytest.mark.parametrize("name", PLANAR)
def test_the_planar_steps_are_the_flows_own(name, method, monkeypatch):
    flow = flow_of(name, method)
    found = run(flow)
    monkeypatch.setattr(PlanarSteps, "fit", lambda flow, modes: False)
    np.testing.assert_allclose(found.states, run(flow).states, rtol=1e-9, atol=1e-11)


class Wavy(st.Objective):
    """``cos x + y^2 / 2``, whose planar formula has no instructions."""

    dim, reference = 2, np.array([np.pi, 0.0])

    def gradient(self, w):
        return np.stack([-np.sin(w[..., 0]), w[..., 1]], axis=-1)

    def hessian(self, w):
        zero = 0 * w[..., 0]
        return np.stack(
            [np.stack([-np.cos(w[..., 0]), zero], axis=-1), np.stack([zero, zero + 1], axis=-1)], axis=-2
        )

    def third(self, w, v):
        raise NotImplementedError

    def planar(self, x, y):
        return -np.sin(x), y, -np.cos(x), 0.0, 1


def test_a_formula_without_instructions_runs_in_numpy():
    flow = st.Flow(Wavy(), st.SFN(damping=0.1), st.Noise(gradient=0.2), step=0.05)
    assert PlanarSteps.fit(flow, None)
    with pytest.raises(Untraceable):
        PlanarChunks(flow, 0.05, "sde")
    found = run(flow)
    flow.objective.planar = None
    np.testing.assert_allclose(found.states, run(flow).states, rtol=1e-9)


def test_a_formula_of_the_wrong_kind_is_named():
    class Wrong(Wavy):
        def planar(self, x, y):
            return x, y

    with pytest.raises(ValueError, match=r"`planar` must give \(g1, g2, h11, h12, h22\)"):
        run(st.Flow(Wrong(), st.SFN(damping=0.1), st.Noise(gradient=0.2), step=0.05))


def test_a_formula_of_another_function_is_caught():
    class Other(Wavy):
        def planar(self, x, y):
            return -np.sin(x), y, np.cos(x), 0.0, 1

    with pytest.raises(ValueError, match="at the start, where gradient and hessian give"):
        run(st.Flow(Other(), st.SFN(damping=0.1), st.Noise(gradient=0.2), step=0.05))
