"""Tables of many columns: second moments from samples' own curvature against whole matrices."""

import numpy as np
import pytest

import stability as st
from stability.linear import bounds, modes, products
from stability.linear.samples import Samples
from stability.noise import DataNoise

DAMPING = 0.2
METHODS = {
    "SGD": st.SGD(),
    "Newton": st.Newton(),
    "damped Newton": st.DampedNewton(damping=DAMPING),
    "SFN": st.SFN(damping=DAMPING),
    "LRSFN": st.LRSFN(rank=3, damping=DAMPING),
    "LRSFN, flat tail": st.LRSFN(rank=3, damping=DAMPING, tail="flat"),
    "a gain of one's own": st.Method(gain=lambda lam: 1 / (lam**2 + 0.3)),
}


def table(n: int, d: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Samples of unequal size in columns of unequal size, and targets that are mostly linear in them."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d)) * np.geomspace(2, 0.3, d) * np.exp(0.5 * rng.standard_normal((n, 1)))
    return X, X @ rng.standard_normal(d) + rng.standard_normal(n)


def objective(model: str, n: int, d: int, *, l2: float = 0.01):
    X, y = table(n, d)
    if model == "least squares":
        return st.least_squares(X, y, l2=l2)
    if model == "logistic":
        return st.logistic(X, y > 0, l2=l2)
    return st.logistic(X[:, : d // 3], np.digitize(y, np.quantile(y, [0.25, 0.5, 0.75])), l2=l2)


def linear(F, method: st.Method, kind=None, *, step: float = 1e-9, **batches) -> st.results.LinearFlow:
    batches = {"batch": 8, "hessian_batch": 5, **batches}
    lin = st.linearize(st.Flow(F, method, st.Noise.from_data(F, None, **batches), step=step))
    if kind is not None:
        lin._dynamics.noise = kind(lin.flow, lin._dynamics.noise.turned, lin._dynamics.frame)
    return lin


@pytest.mark.parametrize("coupling", ["independent", "nested"])
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("model", ["least squares", "logistic", "four classes"])
def test_what_samples_say_of_second_moments_is_what_whole_matrices_say(model, name, coupling):
    F = objective(model, 40, 12)
    root, m = np.random.default_rng(5).standard_normal((12, 12)), np.linspace(-1, 2, 12)
    M, told = root @ root.T, []
    for kind in (modes.FactoredNoise, modes.SampledNoise):
        noise = linear(F, METHODS[name], kind, coupling=coupling)._dynamics.noise
        told.append(
            [noise.kick(M), noise.gradient_share(M), noise.hessian_spread(), noise.cross(m), noise.push]
        )
    size = [np.abs(noise.kick(M)).max(), 0, 0, np.abs(m).max(), 1]  # cross may be nothing but rounding
    for whole, samples, extra in zip(*told, size, strict=True):
        assert samples == pytest.approx(whole, rel=1e-10, abs=1e-11 * np.abs(whole).max() + 1e-13 * extra)


@pytest.mark.parametrize("coupling", ["independent", "nested"])
@pytest.mark.parametrize("name", list(METHODS)[1:])
@pytest.mark.parametrize("model", ["logistic", "four classes"])
def test_order_2_by_samples_is_order_2_by_whole_matrices(model, name, coupling):
    F = objective(model, 40, 12)
    root = np.random.default_rng(5).standard_normal((12, 12))
    told = []
    for kind in (modes.FactoredNoise, modes.SampledNoise):
        drift, spread, additive = linear(
            F, METHODS[name], kind, coupling=coupling
        )._dynamics.noise.second_order
        told.append([drift, spread(root @ root.T), additive])
    for whole, samples in zip(*told, strict=True):
        assert samples == pytest.approx(whole, rel=1e-9, abs=1e-11 * np.abs(whole).max())


def test_order_2_of_more_columns_than_its_operations_allow_is_refused_with_their_number(monkeypatch):
    F = objective("logistic", 60, 36)
    lin = linear(F, METHODS["SFN"], batch=32, hessian_batch=59)
    assert lin.step_limit(order=2) == pytest.approx(lin.step_limit(), rel=0.3)
    monkeypatch.setattr(modes, "_MOST_WORK", 1e6)
    with pytest.raises(ValueError, match=r"takes 3e\+06 operations on 60 samples; 1e\+06 are .* order=1"):
        linear(F, METHODS["SFN"]).step_limit(order=2)


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_products_in_blocks_are_those_of_whole_matrices(rank, kind, monkeypatch):
    monkeypatch.setattr("stability.linear.samples._BLOCK", 40)  # halves of halves, some larger by one
    rng = np.random.default_rng(1)
    rows, M = rng.standard_normal((9, rank, 300)).astype(kind), rng.standard_normal((300, 300))
    M = M + M.T
    each = np.einsum("soi,soj->sij", rows, rows, dtype=float)
    expected = np.mean(each @ M @ each, axis=0)
    found = Samples(rows).feed(M)
    assert found.dtype == kind
    assert np.array_equal(found, found.T)
    size = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, atol=(1e-4 if kind == np.float32 else 1e-12) * size, rtol=0)


@pytest.mark.parametrize("name", ["SGD", "damped Newton", "LRSFN, flat tail"])
def test_theory_from_samples_is_theory_from_whole_matrices(name):
    F = objective("logistic", 60, 12)
    whole, samples = (
        linear(F, METHODS[name], kind, step=0.05) for kind in (modes.FactoredNoise, modes.SampledNoise)
    )
    for ask in (
        lambda lin: lin.step_limit(),
        lambda lin: lin.covariance(),
        lambda lin: lin.covariance("continuous"),
        lambda lin: lin.excess_risk("chain", 0.1),
        lambda lin: lin.moments(0.5, lin.at + 0.1)[1],
        lambda lin: lin.validity,
        lambda lin: lin.tail_exceeds_two,
        lambda lin: list(lin.limit().shares.values()),
    ):
        assert ask(samples) == pytest.approx(ask(whole), rel=1e-9, abs=1e-14)


def kronecker_limit(F, step: float, batch: int) -> float:
    """Radius of SGD's second-moment map at a step, as one matrix of Kronecker products."""
    eye, n = np.eye(F.dim), F.n_samples
    each, H = F.per_sample_hessian(F.reference), F.hessian(F.reference)
    p = (n - batch) / (batch * (n - 1))
    spread = sum(np.kron(E, E) for E in each - H) / n
    drift = eye - step * H
    return np.max(np.abs(np.linalg.eigvals(np.kron(drift, drift) + step**2 * p * spread)))


@pytest.mark.parametrize("model", ["least squares", "four classes"])
def test_sgds_map_has_radius_one_at_the_limit_of_many_columns(model, monkeypatch):
    monkeypatch.setattr("stability.noise.data.WHOLE", 0)
    F = objective(model, 30, 9)
    assert isinstance(linear(F, st.SGD())._dynamics.noise, modes.SampledNoise)
    assert kronecker_limit(F, linear(F, st.SGD()).step_limit(), 8) == pytest.approx(1, abs=1e-10)


@pytest.mark.parametrize("name", ["SGD", "damped Newton", "LRSFN", "LRSFN, flat tail"])
def test_large_maps_are_searched_in_single_precision_and_measured_in_double(name, monkeypatch):
    F = objective("logistic", 60, 36)

    def told() -> list[float]:
        lin = linear(F, METHODS[name], step=0.001)
        assert isinstance(lin._dynamics.noise, modes.SampledNoise)
        radii = [lin._dynamics.balance(dt, 1).radius()[0] for dt in (0.0, 0.0005)]
        shares.append(list(lin.limit().shares.values()))
        return [lin.step_limit(), lin.excess_risk(), lin.excess_risk("continuous"), *radii]

    shares: list[list[float]] = []
    exact = told()
    monkeypatch.setattr(modes, "_DEAR", 0)
    assert told() == pytest.approx(exact, rel=1e-6)
    assert shares[1] == pytest.approx(shares[0], abs=1e-5)


@pytest.mark.parametrize("unit", [2.0**-40, 2.0**23, 2.0**40])
@pytest.mark.parametrize("name", ["SGD", "damped Newton", "LRSFN, flat tail"])
def test_large_maps_of_columns_in_any_units_are_those_of_columns_in_others(name, unit, monkeypatch):
    monkeypatch.setattr(modes, "_DEAR", 0)
    monkeypatch.setattr("stability.linear.samples._SINGLE", 0)
    X, y = table(60, 36)

    def told(unit: float) -> list[float]:
        damping, step = DAMPING * unit**2, 0.001 / unit**2 if name == "SGD" else 0.001
        method = {
            "SGD": st.SGD(),
            "damped Newton": st.DampedNewton(damping=damping),
            "LRSFN, flat tail": st.LRSFN(rank=3, damping=damping, tail="flat"),
        }[name]
        lin = linear(st.least_squares(X * unit, y, l2=0.01 * unit**2), method, step=step)
        return [lin.step_limit() / step, lin.excess_risk(), *lin.limit().shares.values()]

    assert told(unit) == pytest.approx(told(1.0), rel=1e-6, abs=3e-5)


def test_the_gradient_noise_away_from_the_minimum_is_the_spread_of_the_samples_gradients():
    F = objective("least squares", 50, 36)
    noise, w = st.Noise.from_data(F, None, 8), F.reference + np.linspace(-1, 1, 36)
    expected = np.cov(F.per_sample_gradient(w), rowvar=False, bias=True) * 42 / (8 * 49)
    assert noise.gradient_covariance(w) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_fewer_samples_than_columns_are_the_theory_of_the_directions_they_span():
    X, y = table(20, 45)
    directions = np.linalg.svd(X, full_matrices=False)[2].T
    wide, narrow = st.least_squares(X, y, l2=0.1), st.least_squares(X @ directions, y, l2=0.1)
    for name in ("SGD", "damped Newton", "LRSFN"):
        one, other = (linear(F, METHODS[name], step=1e-3) for F in (wide, narrow))
        assert isinstance(one._dynamics.noise, modes.SampledNoise)
        assert one.step_limit() == pytest.approx(other.step_limit(), rel=1e-9)
        assert one.covariance() == pytest.approx(
            directions @ other.covariance() @ directions.T, rel=1e-8, abs=1e-14
        )


def test_at_an_interpolating_minimum_the_directions_that_no_sample_sees_rest():
    X, _ = table(20, 45)
    directions = np.linalg.svd(X, full_matrices=False)[2].T
    w = directions @ np.ones(20)
    limits = []
    for inputs, at in ((X, w), (X @ directions, np.ones(20))):
        F = st.least_squares(inputs, X @ w)
        noise = st.Noise.from_data(F, at, 4)
        limits.append(st.linearize(st.Flow(F, st.SGD(), noise, step=1e-3), at).step_limit())
    assert limits[0] == pytest.approx(limits[1], rel=1e-9)


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.25])
def test_minibatch_steps_keep_the_leading_second_moment_exactly_at_the_limit(factor):
    X, _ = table(60, 40)
    F = st.least_squares(X, X @ np.ones(40))
    lin = linear(F, st.SGD(), batch=4)
    assert isinstance(lin._dynamics.noise, modes.SampledNoise)
    limit, leading = lin._limits.mean_square(1)
    rng, paths = np.random.default_rng(3), 20_000
    root = lin.vectors @ np.linalg.cholesky(leading + 1e-12 * np.eye(40))
    before = rng.standard_normal((paths, 40)) @ root.T
    batches = lin.flow.noise_model.draw_batches(paths, rng).gradient
    after = before - factor * limit * F.gradient(lin.at + before, batch=batches)
    grown = np.sum(after**2, axis=1) - np.sum(before**2, axis=1)
    z = grown.mean() / (grown.std() / np.sqrt(paths))
    if factor == 1:
        assert abs(z) < 4
    else:
        assert np.sign(factor - 1) * z > 8


def radius_by_weights(F, step: float, batch: int) -> float:
    """Of SGD's map at a step, on one weight per sample: an n x n matrix, nothing of this package in it."""
    lam, Q = np.linalg.eigh(F.X.T @ F.X / len(F.X))
    Z, n = F.X @ Q, len(F.X)
    p = (n - batch) / (batch * (n - 1))
    R = step / (lam[:, None] + lam - step * np.outer(lam, lam))
    R = p * R / (1 + p * R * np.outer(lam, lam))
    T = np.array([np.einsum("sj,sj->s", (Z * z) @ R, Z * z) for z in Z]) / n
    return np.max(np.abs(np.linalg.eigvals(T)))


@pytest.mark.slow
def test_three_hundred_columns_have_the_limit_of_the_weights_of_their_samples():
    rng = np.random.default_rng(2)
    X = (rng.random((400, 300)) < 0.05) * rng.lognormal(0, 0.5, (400, 300))
    F = st.least_squares((X - X.mean(0)) / X.std(0), rng.standard_normal(400))
    lin = linear(F, st.SGD(), batch=32)
    assert radius_by_weights(F, lin.step_limit(), 32) == pytest.approx(1, abs=1e-6)
    assert lin.step_limit() < 0.3 * lin.step_limit("mean")


def test_a_class_with_a_law_of_its_own_is_not_read_as_the_datas():
    class Doubled(DataNoise):
        def factors(self, w):
            return type(super().factors(w))(*(2 * part for part in super().factors(w)))

    F = objective("least squares", 60, 36)
    noise = Doubled(F, None, 8, hessian_batch=None, replacement=False, coupling="independent")
    plain = st.Noise.from_data(F, None, 8)
    limits = [st.linearize(st.Flow(F, st.SGD(), law, step=1e-3)).step_limit() for law in (plain, noise)]
    assert limits[1] < 0.7 * limits[0]


def test_minibatches_of_many_columns_are_simulated_and_their_sde_is_refused_with_its_size():
    F = objective("least squares", 20, 150)
    flow = st.Flow(F, st.SGD(), st.Noise.from_data(F, None, 4), step=1e-3)
    moved = st.simulate(flow, start=F.reference, t_end=2e-3, paths=3, seed=0, level="iteration")
    assert np.isfinite(moved.states).all()
    with pytest.raises(ValueError, match=r"takes 1\.1 GB in 150 dimensions; 139 .* \(level='iteration'\)"):
        st.simulate(flow, start=F.reference, t_end=2e-3, paths=3, seed=0)


@pytest.mark.parametrize("replacement", [False, True])
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.slow
def test_the_batch_that_a_row_is_valid_from_is_the_smallest_that_is(name, replacement):
    F = objective("logistic", 200, 12)
    start = linear(F, METHODS[name], replacement=replacement).valid_from
    if name == "SGD":
        assert start == 1
        return
    assert 5 < start < 1e5
    for size, valid in ((start, True), (start - 1, False)):
        batch = {"hessian_batch": int(size), "replacement": replacement}
        assert linear(F, METHODS[name], **batch).valid == valid


def test_a_gaussian_laws_batch_is_told_from_any_batch_and_where_none_is_large_enough():
    F = st.quadratic([1.0, 0.1])
    for size in (4, np.inf):
        noise = st.Noise(curvature=0.3, batch=4, hessian_batch=size)
        assert st.linearize(st.Flow(F, st.SFN(damping=0.1), noise, step=0.1)).valid_from == 450
    jump = st.Method(gain=lambda lam: np.where(lam < 1.0, 1.0, 2.0))
    noise = st.Noise(curvature=0.3)
    assert st.linearize(st.Flow(F, jump, noise, step=0.1)).valid_from > 1e15


def test_a_table_of_bounds_says_from_which_hessian_batch_a_row_holds():
    F = objective("logistic", 200, 12)
    noise = st.Noise.from_data(F, None, 8, hessian_batch=5)
    table = st.bounds(F, noise, [st.SGD(), st.SFN(damping=DAMPING)], step=0.05)
    assert [row.valid_from for row in table.rows] == [1, linear(F, st.SFN(damping=DAMPING)).valid_from]
    assert table.to_json()["methods"][1]["valid_from"] == table.rows[1].valid_from
    assert "valid from" in str(table)
    assert f"  {table.rows[1].valid_from:.0f}  " in str(table)


@pytest.mark.parametrize("model", ["least squares", "logistic", "four classes"])
def test_rows_fewer_than_columns_have_the_same_theory_in_the_space_they_span(model):
    wide = objective(model, 14, 60, l2=0.1)
    narrow = wide.in_row_space()
    assert narrow.dim == wide.outputs * 14 < wide.dim
    assert narrow.in_row_space() is narrow
    one, other = (linear(F, st.SFN(damping=DAMPING), step=1e-3, batch=4) for F in (wide, narrow))
    assert other.step_limit() == pytest.approx(one.step_limit(), rel=1e-8)
    assert other.excess_risk() == pytest.approx(one.excess_risk(), rel=1e-6)
    assert narrow.value(narrow.reference) == pytest.approx(wide.value(wide.reference), rel=1e-10)


def test_a_table_of_fewer_rows_than_columns_is_bound_in_the_space_of_its_rows(tmp_path):
    from click.testing import CliRunner

    from stability.cli import main

    X, y = table(12, 300)
    lines = [",".join([*(f"c{i}" for i in range(300)), "y"]), *(",".join(map(str, r)) for r in np.c_[X, y])]
    path = tmp_path / "genes.csv"
    path.write_text("\n".join(lines))
    asked = ["bound", "--csv", str(path), "--target", "y", "--model", "least-squares", "--batch", "4"]
    shown = CliRunner().invoke(main, asked)
    assert shown.exit_code == 0
    assert "12 rows span 12 of 301 dimensions; the others have the curvature l2 = 0.01" in shown.output


def test_columns_that_do_not_fit_into_memory_are_refused_with_the_number_and_a_way_out():
    rows = np.broadcast_to(np.ones(1), (3, 200_000)).copy()
    wide = st.least_squares(rows * np.arange(1, 4)[:, None] ** 0.5, np.ones(3), l2=0.1)
    noise = st.Noise.from_data(wide, np.zeros(wide.dim), 1)
    with pytest.raises(ValueError, match=r"need [\d.]+ GB of \d+ GB\. Take `F\.in_row_space\(\)`"):
        st.linearize(st.Flow(wide, st.SGD(), noise, step=0.1), np.zeros(wide.dim))
    narrow = wide.in_row_space()
    assert linear(narrow, st.SGD(), batch=1, hessian_batch=1).step_limit() > 0


ROWS = {"SGD": st.SGD(), "LRSFN": METHODS["LRSFN"], "LRSFN, flat tail": METHODS["LRSFN, flat tail"]}


def crowd(kind: str):
    """A table of many directions: Gaussian ones, a sample that carries the curvature, or a few in each."""
    rng = np.random.default_rng(4)
    X = rng.standard_normal((500, 120)) * np.arange(1, 121) ** -0.5
    if kind == "one heavy sample":
        X[7] *= 20
    if kind == "sparse":
        X = (rng.random((400, 120)) < 0.05) * rng.lognormal(0, 0.5, (400, 120))
        X = (X - X.mean(0)) / X.std(0)
    y = X @ rng.standard_normal(120) + rng.standard_normal(len(X))
    return st.logistic(X, y > 0, l2=0.01) if kind == "logistic" else st.least_squares(X, y, l2=0.01)


@pytest.fixture
def by_products(monkeypatch):
    """Every table is too wide, and has few leading modes."""
    monkeypatch.setattr(products, "WORK", 0.0)
    for module in (products, bounds):
        monkeypatch.setattr(module, "MODES", 12)


@pytest.mark.parametrize("kind", ["gaussian", "one heavy sample", "logistic", "sparse"])
@pytest.mark.slow
def test_rows_from_products_alone_are_the_rows_of_all_modes_within_their_error(kind, by_products):
    F = crowd(kind)
    noise = st.Noise.from_data(F, None, 16, hessian_batch=200)
    table = st.bounds(F, noise, [*ROWS.values(), st.Newton()], step=1e-3)
    for row, method in zip(table.rows, ROWS.values(), strict=False):
        lin = st.linearize(st.Flow(F, method, noise, step=1e-3))
        exact = lin.step_limit()
        assert abs(row.step_limit - exact) < row.step_limit_error < 0.1 * exact
        assert row.step_limit > 0.999 * exact  # Ritz: never below, but for the probes of a trace
        assert row.excess_risk == pytest.approx(lin.excess_risk(), rel=0.01)
        assert row.validity == pytest.approx(lin.validity)
        assert row.valid_from == lin.valid_from
        assert row.limited_by == lin.limit().cause
    shown = str(table)
    assert "+-" in shown
    assert "SGD, LRSFN(3), LRSFN(3) flat tail: estimated from products alone: 12 leading modes" in shown
    assert "Newton: data so large are asked by products alone" in shown
    assert table.to_json()["methods"][0]["step_limit_error"] == table.rows[0].step_limit_error


def test_between_the_limit_and_its_estimate_from_above_no_risk_is_told(by_products):
    F = crowd("sparse")
    noise = st.Noise.from_data(F, None, 16, hessian_batch=200)
    row = st.bounds(F, noise, [st.SGD()], step=1e-3).rows[0]
    near = st.bounds(F, noise, [st.SGD()], step=row.step_limit - 0.5 * row.step_limit_error).rows[0]
    assert np.isnan(near.excess_risk)
    assert "no stationary covariance at this step" in near.note


def test_samples_that_carry_the_curvature_are_among_the_directions(by_products):
    F = crowd("sparse")
    noise = st.Noise.from_data(F, None, 16, hessian_batch=200)
    flow = st.Flow(F, st.SGD(), noise, step=1e-3)
    leading = products.Leading.of(noise, 12)
    exact = st.linearize(flow).step_limit()
    assert products.Closed(leading, flow).limit().limit > 1.3 * exact
    joined = products.refined(leading, flow)
    assert joined.found.limit == pytest.approx(exact, rel=0.005)


def test_products_alone_are_for_what_is_large_and_nested_batches_for_none_but_sgd(by_products, monkeypatch):
    F = crowd("gaussian")
    nested = st.Noise.from_data(F, None, 16, hessian_batch=8, coupling="nested")
    rows = st.bounds(F, nested, list(ROWS.values()), step=1e-3).rows
    assert [np.isnan(row.step_limit) for row in rows] == [False, True, True]
    for other in (st.SGD(weight_decay=0.1), st.Momentum(st.SGD(), 0.9), st.Adam()):
        assert not products.served(other, nested)
    few = objective("least squares", 20, 45, l2=0.1)
    assert not products.too_wide(st.Noise.from_data(few, None, 4))  # the space of its rows is exact
    monkeypatch.setattr(products, "WORK", 1e30)
    assert not products.too_wide(nested)
    monkeypatch.setattr("stability._check.memory", lambda: 1e6)
    assert products.too_wide(nested)
    with pytest.raises(ValueError, match="`at` must be a critical point"):
        st.bounds(F, nested, [st.SGD()], step=1e-3, at=F.reference + 1)


def test_three_classes_from_products_alone(by_products):
    F = objective("four classes", 300, 120)
    noise = st.Noise.from_data(F, None, 16, hessian_batch=200)
    for row, method in zip(st.bounds(F, noise, ROWS.values(), step=1e-3).rows, ROWS.values(), strict=True):
        exact = st.linearize(st.Flow(F, method, noise, step=1e-3)).step_limit()
        assert abs(row.step_limit - exact) < row.step_limit_error < 0.1 * exact


@pytest.mark.parametrize("model", ["least squares", "logistic", "four classes"])
def test_the_minimum_is_found_by_products_too(model, monkeypatch):
    F, again = (objective(model, 60, 12, l2=0.01) for _ in range(2))
    monkeypatch.setattr("stability.objectives._newton.DENSE", 0)
    found = again.reference
    monkeypatch.undo()
    assert found == pytest.approx(F.reference, rel=1e-7, abs=1e-9)


def test_no_minimum_is_told_without_a_hessian(monkeypatch):
    monkeypatch.setattr("stability.objectives._newton.DENSE", 0)
    monkeypatch.setattr("stability.objectives._newton.CONJUGATE", 3)
    F = objective("least squares", 60, 12, l2=1e-9)
    with pytest.raises(ValueError, match=r"no minimum on these data that 3 steps .* Use l2 = 0\.0"):
        F.reference  # noqa: B018
    monkeypatch.setattr("stability.objectives._newton.CONJUGATE", 2000)
    assert np.isfinite(F.reference).all()


def test_the_command_line_says_that_rows_are_estimates(tmp_path, by_products):
    from click.testing import CliRunner

    from stability.cli import main

    X, y = table(200, 60)
    lines = [",".join([*(f"c{i}" for i in range(60)), "y"]), *(",".join(map(str, r)) for r in np.c_[X, y])]
    path = tmp_path / "wide.csv"
    path.write_text("\n".join(lines))
    asked = ["bound", "--csv", str(path), "--target", "y", "--model", "least-squares", "--rank", "3"]
    shown = CliRunner().invoke(main, asked)
    assert shown.exit_code == 0
    assert "... (the largest of 61)" in shown.output
    assert "SGD, LRSFN(3) flat tail: estimated from products alone" in shown.output
    assert "LRSFN(3): no stationary covariance at this step; estimated from products alone" in shown.output
