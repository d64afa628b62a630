"""Networks on arrays: derivatives by differences and autodiff, block products, array libraries, bad input."""

from dataclasses import replace

import mpmath
import numpy as np
import pytest

from stability._array import moved
from stability.lowrank.randomized import randomized_eigh
from stability.noise import Noise
from stability.objectives import _layers
from stability.objectives.network import autoencoder, mlp

ACTIVATIONS = ("tanh", "sigmoid", "softplus", "silu")
SAMPLES = 20


def data(seed=0, columns=4, classes=3):
    rng = np.random.default_rng(seed)
    return (
        rng.standard_normal((SAMPLES, columns)),
        rng.integers(0, classes, SAMPLES),
        rng.standard_normal((SAMPLES, 2)),
    )


def networks(activation="tanh", dtype="float64", l2=0.03):
    """One of each kind, small enough for dense Hessians."""
    X, labels, targets = data()
    return {
        "classifier": mlp(X, labels, (5, 3), activation=activation, l2=l2, dtype=dtype),
        "regression": mlp(X, targets, (5, 3), activation=activation, loss="squared", l2=l2, dtype=dtype),
        "autoencoder": autoencoder(X, (3, 2, 3), activation=activation, l2=l2, dtype=dtype),
        "linear": mlp(X, labels, (), l2=l2, dtype=dtype),
    }


KINDS = list(networks())


def state(F, seed=1):
    return F.initial(seed) + 0.3 * np.random.default_rng(seed).standard_normal(F.dim)


def block(F, columns=5, seed=2):
    return np.random.default_rng(seed).standard_normal((F.dim, columns))


def differences(function, w, h=1e-4):
    """Central differences of fourth order along every axis, stacked last."""
    slopes = []
    for e in np.eye(len(w)):
        near, far = (
            function(w + h * e) - function(w - h * e),
            function(w + 2 * h * e) - function(w - 2 * h * e),
        )
        slopes.append((8 * near - far) / (12 * h))
    return np.stack(slopes, axis=-1)


# --- derivatives ---


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_gradient_and_hessian_are_the_differences_of_the_value(kind, activation):
    F = networks(activation)[kind]
    w = state(F)
    np.testing.assert_allclose(F.gradient(w), differences(F.value, w), atol=1e-9)
    np.testing.assert_allclose(F.hessian(w), differences(F.gradient, w), atol=1e-9)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_do_not_overflow(activation):
    functions = _layers.ACTIVATIONS[activation]
    z = np.array([-800.0, -40.0, 0.0, 40.0, 800.0])
    a = functions.value(z)
    s = functions.slope(z, a)
    assert np.isfinite([a, s, functions.bend(z, a, s)]).all()
    limits = {"tanh": (-1, 1), "sigmoid": (0, 1), "softplus": (0, 800), "silu": (0, 800)}[activation]
    np.testing.assert_allclose((a[0], a[-1]), limits, atol=1e-12)


def test_cross_entropy_does_not_overflow():
    F = mlp([[1.0], [1.0]], [0, 1], ())
    w = np.array([1000.0, -1000.0, 0.0, 0.0])  # scores 1000 and -1000
    assert F.value(w) == 1000.0
    np.testing.assert_allclose(F.gradient(w), [0.5, -0.5, 0.5, -0.5])


def test_value_and_gradient_are_one_pass_of_both():
    for F in networks().values():
        value, gradient = F.value_and_gradient(state(F))
        assert value == F.value(state(F))
        np.testing.assert_array_equal(gradient, F.gradient(state(F)))


def test_a_softmax_of_zero_scores_loses_log_of_the_classes():
    F = mlp(np.ones((6, 2)), [0, 1, 2, 0, 1, 2], (4,), classes=5)
    assert F.sizes == (2, 4, 5)
    assert F.value(np.zeros(F.dim)) == pytest.approx(np.log(5))
    assert mlp(np.ones((6, 2)), np.zeros(6), (4,)).sizes == (2, 4, 2)  # labels that show one class only


def test_squared_losses_are_means_over_samples_and_outputs():
    X, _, targets = data()
    F = mlp(X, targets, (3,), loss="squared")
    assert F.value(np.zeros(F.dim)) == pytest.approx(np.mean(targets**2) / 2)
    G = autoencoder(X, (3,))
    assert G.value(np.zeros(G.dim)) == pytest.approx(np.mean(X**2) / 2)


def test_the_forward_pass_is_that_of_its_formula():
    F = networks()["classifier"]
    w = state(F)
    first, second, third = w[:25].reshape(5, 5), w[25:43].reshape(6, 3), w[43:].reshape(4, 3)
    hidden = np.tanh(np.tanh(F.X @ first[:4] + first[4]) @ second[:5] + second[5])
    scores = hidden @ third[:3] + third[3]
    np.testing.assert_allclose(F.predict(w, F.X), scores)
    assert F.accuracy(w) == np.mean(scores.argmax(axis=1) == F.y)
    assert F.accuracy(w, batch=[3]) in (0.0, 1.0)


def test_regularization_is_of_every_parameter():
    with_l2, without = networks(l2=0.2), networks(l2=0.0)
    for kind, F in with_l2.items():
        G, w, V = without[kind], state(F), block(F)
        assert F.value(w) - G.value(w) == pytest.approx(0.1 * w @ w)
        np.testing.assert_allclose(F.gradient(w) - G.gradient(w), 0.2 * w, atol=1e-14)
        np.testing.assert_allclose(F.hvp(w, V) - G.hvp(w, V), 0.2 * V, atol=1e-14)
        np.testing.assert_allclose(
            F.per_sample_gradient(w) - G.per_sample_gradient(w), np.tile(0.2 * w, (SAMPLES, 1)), atol=1e-14
        )


# --- block products ---


def test_the_hessian_is_symmetric():
    for F in networks().values():
        H = F.hessian(state(F))
        np.testing.assert_allclose(H, H.T, atol=1e-15)
        assert np.abs(H - 0.03 * np.eye(F.dim)).max() > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_a_block_product_is_the_product_of_its_columns_in_either_order(kind):
    F = networks()[kind]
    w, V = state(F), block(F, 37)
    expected = F.hessian(w) @ V
    products, before = F.products(w), V.copy()
    for given in (V, np.asfortranarray(V), np.repeat(V, 2, axis=1)[:, ::2]):
        found = products(given)
        np.testing.assert_allclose(found, expected, atol=1e-13)
    np.testing.assert_array_equal(V, before)
    assert products(V).flags.c_contiguous
    assert products(np.asfortranarray(V)).flags.f_contiguous
    np.testing.assert_allclose(products(V[:, 3:4])[:, 0], expected[:, 3], atol=1e-13)
    assert products(V[:, :0]).shape == (F.dim, 0)


def test_tiles_of_samples_and_columns_change_only_the_rounding(monkeypatch):
    F = networks()["classifier"]
    w, V = state(F), block(F, 11)
    whole = F.hvp(w, V)
    monkeypatch.setattr(_layers, "PIECE", 7)
    for rows, columns in ((20, 3), (7, 11), (6, 4), (1, 1)):
        monkeypatch.setattr(
            "stability.objectives.network.tile", lambda *_, shape=(rows, columns), **__: shape
        )
        np.testing.assert_allclose(F.hvp(w, V), whole, atol=1e-14)
        np.testing.assert_allclose(F.hvp(w, np.asfortranarray(V)), whole, atol=1e-14)


def test_a_tile_fits_the_cache_and_uses_all_of_a_device():
    assert _layers.tile(256, 202, on_host=True) == (256, 10)
    assert _layers.tile(10**6, 202, on_host=True) == (648, 4)
    assert _layers.tile(64, 202, on_host=True) == (64, 16)
    assert _layers.tile(10**6, 10**4, on_host=True) == (256, 4)
    rows, columns = _layers.tile(256, 202, on_host=False)
    assert rows == 256
    assert columns > 1000


def test_products_stay_at_their_point_when_the_state_moves():
    F = networks()["classifier"]
    w = state(F)
    products, H = F.products(w), F.hessian(w)
    w += 1.0
    np.testing.assert_allclose(products(np.eye(F.dim)), H, atol=1e-14)


def test_sub_batches_average_to_the_whole():
    for F in networks().values():
        w, V = state(F), block(F)
        parts = np.random.default_rng(3).permutation(SAMPLES).reshape(4, 5)
        for whole, function in (
            (F.value(w), F.value),
            (F.gradient(w), F.gradient),
            (F.hvp(w, V), lambda w, batch, V=V, F=F: F.hvp(w, V, batch)),
        ):
            np.testing.assert_allclose(
                np.mean([function(w, batch=part) for part in parts], axis=0), whole, atol=1e-14
            )


def test_per_sample_derivatives_are_those_of_one_sample_alone():
    for F in networks().values():
        w = state(F)
        gradients, hessians = F.per_sample_gradient(w), F.per_sample_hessian(w, batch=[4, 4, 9])
        np.testing.assert_allclose(gradients, [F.gradient(w, [i]) for i in range(SAMPLES)], atol=1e-14)
        np.testing.assert_allclose(hessians, [F.hessian(w, [i]) for i in (4, 4, 9)], atol=1e-14)
        np.testing.assert_allclose(F.per_sample_hessian(w).mean(axis=0), F.hessian(w), atol=1e-14)


def test_a_small_network_gives_its_own_minibatch_noise():
    F = mlp(*data()[:2], (2,), l2=0.1)
    w = state(F)
    noise = Noise.from_data(F, w, batch=5, replacement=True)
    gradients = F.per_sample_gradient(w)
    np.testing.assert_allclose(noise.gradient_covariance(w), np.cov(gradients.T, bias=True) / 5, atol=1e-12)


def test_leading_axes_are_states_on_their_own():
    for F in networks().values():
        states = np.stack([state(F, seed) for seed in range(6)]).reshape(2, 3, F.dim)
        batches = np.random.default_rng(5).integers(0, SAMPLES, (2, 3, 4))
        V = block(F)
        for batch in (None, np.array([1, 7]), batches):
            each = [
                (w, None if batch is None else batch[index] if batch.ndim == 3 else batch)
                for index, w in ((i, states[i]) for i in np.ndindex(2, 3))
            ]
            for function in (
                F.value,
                F.gradient,
                F.hessian,
                F.per_sample_gradient,
                lambda w, batch, V=V, F=F: F.hvp(w, V, batch),
            ):
                found, expected = (
                    function(states, batch=batch),
                    np.stack([function(w, batch=b) for w, b in each]),
                )
                np.testing.assert_allclose(found, expected.reshape(2, 3, *expected.shape[1:]), atol=1e-13)
        assert F.per_sample_hessian(states[0], batch=[0, 1]).shape == (3, 2, F.dim, F.dim)
        one = states[0, 0]
        np.testing.assert_allclose(F.value(one, batches)[1, 2], F.value(one, batches[1, 2]))
        np.testing.assert_allclose(F.hessian(one, batches)[1, 2], F.hessian(one, batches[1, 2]), atol=1e-14)
        np.testing.assert_allclose(F.hvp(one, np.stack([V, 2 * V]))[1], 2 * F.hvp(one, V), atol=1e-13)


# --- samples fitted to a tiny loss ---


LOSSES = (1e-6, 1e-9, 1e-12)


def fitted(loss, hidden, classes, *, activation="tanh", dtype="float64", samples=None, reach=1.0):
    """A classifier and a state at which every sample has about this loss: outputs interpolate scores."""
    rng = np.random.default_rng(7)
    samples = samples or hidden + 1
    labels = np.arange(samples) % classes
    F = mlp(rng.standard_normal((samples, 2)), labels, (hidden,), activation=activation, dtype=dtype)
    w = reach * rng.standard_normal(F.dim)
    first, last = F._layers
    a = _layers.ACTIVATIONS[activation].value(F.X @ first.weights(w) + first.biases(w))
    scores = np.log((classes - 1) / loss) * np.eye(classes)[labels] + 0.3 * rng.standard_normal(
        (samples, classes)
    )
    w[last.start :] = np.linalg.lstsq(np.column_stack([a, np.ones(samples)]), scores, rcond=None)[0].ravel()
    return F, w.astype(dtype)


def exact(F, w):
    """Value, gradient and Hessian by differences of the formula in 100 digits."""
    activations = {
        "tanh": mpmath.tanh,
        "sigmoid": lambda z: 1 / (1 + mpmath.exp(-z)),
        "softplus": lambda z: mpmath.log(1 + mpmath.exp(z)),
        "silu": lambda z: z / (1 + mpmath.exp(-z)),
    }

    def value(w):
        total = mpmath.mpf(0)
        for row, label in zip(F.X.tolist(), F.y.tolist(), strict=True):
            a = [mpmath.mpf(x) for x in row]
            for layer in F._layers:
                m = layer.outputs
                a = [
                    mpmath.fdot(a, w[layer.start + j : layer.middle : m]) + w[layer.middle + j]
                    for j in range(m)
                ]
                scores, a = a, [activations[F.activation](z) for z in a]
            total += mpmath.log(mpmath.fsum(mpmath.exp(z - scores[label]) for z in scores))
        return total / F.n_samples

    with mpmath.workdps(100):
        w, h = [mpmath.mpf(v) for v in w.tolist()], mpmath.mpf(10) ** -20
        known = {}

        def at(*steps):
            key = tuple(sorted(steps))
            if key not in known:
                point = list(w)
                for axis, sign in steps:
                    point[axis] += sign * h
                known[key] = value(point)
            return known[key]

        axes = range(F.dim)
        gradient = np.array([float((at((i, 1)) - at((i, -1))) / (2 * h)) for i in axes])
        hessian = np.empty((F.dim, F.dim))
        for i in axes:
            for j in range(i + 1):
                mixed = sum(a * b * at((i, a), (j, b)) for a in (1, -1) for b in (1, -1))
                hessian[i, j] = hessian[j, i] = float(mixed / (4 * h * h))
        return float(value(w)), gradient, hessian


def relative(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-10), ("float32", 1e-4)])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("classes", [2, 10])
def test_products_are_symmetric_however_small_the_loss(classes, loss, dtype, tolerance):
    F, w = fitted(loss, 40, classes, dtype=dtype, samples=30)
    assert F.value(w) == pytest.approx(loss, rel=1)
    V = np.linalg.qr(block(F, 8))[0]
    inside = V.T @ F.products(w)(V)
    assert relative(inside, inside.T) < tolerance
    # Products that are not symmetric raise.
    assert np.isfinite(randomized_eigh(F.products(w), F.dim, 5, dtype=dtype).eigenvalues).all()


@pytest.mark.slow
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 3e-4)])
@pytest.mark.parametrize("loss", LOSSES)
def test_derivatives_are_exact_however_small_the_loss(loss, dtype, tolerance, activation):
    F, w = fitted(loss, 2, 3, activation=activation, dtype=dtype)
    value, gradient, hessian = exact(F, w)
    assert value == pytest.approx(loss, rel=1)
    assert F.value(w) == pytest.approx(value, rel=tolerance)
    assert relative(F.gradient(w), gradient) < tolerance
    assert relative(F.per_sample_gradient(w).mean(axis=0), gradient) < tolerance
    assert relative(F.hessian(w), hessian) < tolerance


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_derivatives_of_saturated_units_are_exact_but_for_the_scores(activation):
    F, w = fitted(1e-9, 2, 3, activation=activation, reach=15)
    _, gradient, hessian = exact(F, w)
    rounding = 10 * np.finfo(float).eps * np.abs(w).max()  # of a score, and so of its exponential
    assert relative(F.gradient(w), gradient) < rounding
    assert relative(F.hessian(w), hessian) < rounding


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_units_that_are_off_keep_their_value_and_slope(dtype):
    z = np.array([-80, -40, -17, -5, -0.1], dtype=dtype)
    with mpmath.workdps(60):
        p = np.array([float(1 / (1 + mpmath.exp(-v))) for v in z.tolist()])
        softplus = np.array([float(mpmath.log(1 + mpmath.exp(v))) for v in z.tolist()])
    for name, value, slope in (
        ("sigmoid", p, p * (1 - p)),
        ("softplus", softplus, p),
        ("silu", z * p, p * (1 + z * (1 - p))),
    ):
        functions = _layers.ACTIVATIONS[name]
        a = functions.value(z)
        assert a.dtype == dtype
        np.testing.assert_allclose(a, value, rtol=8 * np.finfo(dtype).eps)
        np.testing.assert_allclose(functions.slope(z, a), slope, rtol=8 * np.finfo(dtype).eps)


# --- data, start, other data ---


def test_the_start_has_the_variance_of_glorot_and_no_biases():
    F = mlp(np.ones((2, 300)), [0, 1], (200,))
    w, first = F.initial(0), F._layers[0]
    assert np.var(w[first.start : first.middle]) == pytest.approx(2 / 500, rel=0.02)
    assert not w[first.middle : first.stop].any()
    np.testing.assert_array_equal(w, F.initial(0))
    assert (w != F.initial(np.random.default_rng(1))).any()


def test_the_same_network_on_other_data():
    X, labels, targets = data(seed=9)
    for F, y in zip(networks().values(), (labels, targets, None, labels), strict=True):
        G = F.on(X[:7], None if y is None else y[:7])
        assert (G.n_samples, G.dim, F.n_samples) == (7, F.dim, SAMPLES)
        w = state(F)
        assert G.value(w) != F.value(w)
        assert F.on(F.X, F.y).value(w) == F.value(w)


def test_a_network_keeps_its_own_copy_of_the_data():
    X, labels, _ = data()
    F = mlp(X, labels, (3,))
    before = F.value(F.initial(0))
    X += 1
    assert F.value(F.initial(0)) == before


def test_pictures_of_bytes_are_taken_as_they_are():
    F = mlp(
        np.arange(12, dtype=np.uint8).reshape(4, 3),
        np.array([0, 1, 1, 0], dtype=np.uint8),
        (2,),
        dtype="float32",
    )
    assert (F.X.dtype, F.y.dtype, F.dtype) == (np.float32, np.int64, "float32")


def test_it_prints_what_it_is():
    assert (
        repr(networks()["classifier"])
        == "Network 4-5-3-3 (tanh, cross-entropy) on 20 samples in 55 dimensions, l2=0.03"
    )


# --- arrays of every library, both widths ---


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_array_library_gives_the_same_numbers(xp_backend, kind, dtype):
    backend = replace(xp_backend, dtype=dtype)
    host = networks()[kind]
    F, w, V, batch = moved(host, backend), state(host), block(host), np.array([3, 1, 4, 1, 5])
    there, block_there, indices = backend.asarray(w), backend.asarray(V), backend.indices(batch)
    pairs = [
        (F.value(there), host.value(w)),
        (F.gradient(there, indices), host.gradient(w, batch)),
        (F.gradient(there, batch), host.gradient(w, batch)),
        (F.gradient(backend.asarray(np.stack([w, w]))), host.gradient(np.stack([w, w]))),
        (F.hvp(there, block_there, indices), host.hvp(w, V, batch)),
        (F.products(there)(block_there), host.products(w)(V)),
        (F.hessian(there), host.hessian(w)),
        (F.per_sample_gradient(there), host.per_sample_gradient(w)),
        (F.per_sample_hessian(there, indices), host.per_sample_hessian(w, batch)),
        (F.predict(there, backend.asarray(host.X)), host.predict(w, host.X)),
        (F.initial(3), host.initial(3)),
        (F.on(host.X[:5], None if host.y is None else host.y[:5]).value(there), host.value(w, np.arange(5))),
    ]
    if host.loss == "cross-entropy":
        pairs.append((F.accuracy(there), host.accuracy(w)))
    for found, expected in pairs:
        assert str(found.dtype).endswith(dtype)
        np.testing.assert_allclose(
            backend.host(found), expected, rtol=0, atol=1e-13 if dtype == "float64" else 5e-6
        )
    assert F.dtype == dtype


def test_a_single_precision_network_computes_in_single_precision(monkeypatch):
    widths = set()
    tanh = np.tanh
    monkeypatch.setattr(np, "tanh", lambda z: widths.add(z.dtype) or tanh(z))
    for F in networks(dtype="float32").values():
        w, V = state(F), block(F)  # both float64
        for found in (
            F.value(w),
            F.gradient(w),
            F.hvp(w, V),
            F.per_sample_gradient(w),
            F.initial(0),
            F.predict(w, F.X),
        ):
            assert found.dtype == np.float32
    assert widths == {np.dtype("float32")}


def test_no_number_is_read_from_a_device(xp_backend, no_sync):
    if xp_backend.name != "array_api_strict":
        pytest.skip("only array-api-strict tells")
    host = networks()["classifier"]
    F = moved(host, xp_backend)
    there, indices = xp_backend.asarray(state(host)), xp_backend.indices(np.array([3, 1, 4]))
    value, gradient = F.value_and_gradient(there, indices)
    assert (value.shape, gradient.shape) == ((), (F.dim,))
    assert F.products(there, indices)(xp_backend.asarray(block(host))).shape == (F.dim, 5)


# --- against automatic differentiation ---


def torch_value(torch, F, w):
    """An independent forward pass in torch, from its own building blocks."""
    functions = {
        "tanh": torch.tanh,
        "sigmoid": torch.sigmoid,
        "softplus": torch.nn.functional.softplus,
        "silu": torch.nn.functional.silu,
    }
    a, start, X = torch.tensor(F.X), 0, torch.tensor(F.X)
    for index, (inputs, outputs) in enumerate(zip(F.sizes[:-1], F.sizes[1:], strict=True)):
        weight, bias = (
            w[start : start + inputs * outputs],
            w[start + inputs * outputs : start + inputs * outputs + outputs],
        )
        start += (inputs + 1) * outputs
        a = torch.nn.functional.linear(a, weight.reshape(inputs, outputs).T, bias)
        a = functions[F.activation](a) if index < len(F.sizes) - 2 else a
    if F.loss == "cross-entropy":
        loss = torch.nn.functional.cross_entropy(a, torch.tensor(F.y))
    else:
        loss = torch.nn.functional.mse_loss(a, X if F.y is None else torch.tensor(F.y)) / 2
    return loss + F.l2 / 2 * (w**2).sum()


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_derivatives_agree_with_torch(kind, activation):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    F = networks(activation)[kind]
    w, V = state(F), block(F)
    point = torch.tensor(w)
    hessian = torch.autograd.functional.hessian(lambda w: torch_value(torch, F, w), point).numpy()
    gradient = torch.autograd.functional.jacobian(lambda w: torch_value(torch, F, w), point).numpy()
    assert F.value(w) == pytest.approx(float(torch_value(torch, F, point)), rel=1e-13)
    np.testing.assert_allclose(F.gradient(w), gradient, atol=1e-14)
    np.testing.assert_allclose(F.hvp(w, V), hessian @ V, atol=1e-13)


def test_a_wide_single_precision_network_agrees_with_torch():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    rng = np.random.default_rng(4)
    X, labels = rng.standard_normal((64, 30)), rng.integers(0, 5, 64)
    F = mlp(X, labels, (40, 20), dtype="float32")
    G = mlp(X, labels, (40, 20))
    w, V = F.initial(0), rng.standard_normal((F.dim, 9)).astype(np.float32)
    point = torch.tensor(w, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(torch_value(torch, G, point), point, create_graph=True)
    columns = [
        torch.autograd.grad(gradient, point, torch.tensor(v, dtype=torch.float64), retain_graph=True)[
            0
        ].numpy()
        for v in V.T
    ]
    found = F.hvp(w, V)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.stack(columns, axis=1), atol=3e-6)


# --- bad input ---


X, LABELS, TARGETS = data()
BAD_DATA = [
    (lambda: mlp(X, LABELS[:-1]), "one entry per row of `X`"),
    (lambda: mlp(X, TARGETS[:-1], loss="squared"), "one entry per row of `X`"),
    (lambda: mlp(X[0], LABELS), r"`X` must have shape \(n, p\)"),
    (lambda: mlp(np.where(X > 1, np.nan, X), LABELS), "`X` must be finite"),
    (lambda: mlp([[np.inf]], [0]), "`X` must be finite"),
    (lambda: mlp([[1e300]], [0], dtype="float32"), "`X` must fit into float32"),
    (lambda: mlp(X, np.where(TARGETS > 0, np.inf, TARGETS), loss="squared"), "`y` must be finite"),
    (lambda: mlp(np.ones((0, 3)), []), "at least one sample"),
    (lambda: mlp(X, TARGETS[:, :0], loss="squared"), "at least one"),
    (lambda: mlp([["a"]], [0]), "array of numbers"),
    (lambda: mlp(X, LABELS + 0.5), "whole-number labels.*got"),
    (lambda: mlp(X, LABELS - 1), "labels from 0 to classes - 1; got -1"),
    (lambda: mlp(X, LABELS, classes=2), "labels from 0 to 1; got 0 to 2"),
    (lambda: mlp(X, LABELS, classes=1), "`classes` must be an integer >= 2"),
    (lambda: mlp(X, LABELS * 10**6), "Number the classes 0, 1, 2"),
    (lambda: mlp(X, TARGETS, loss="squared", classes=3), "`classes` is for cross-entropy"),
    (lambda: mlp(X, LABELS, activation="relu"), "no second derivative.*Use softplus"),
    (lambda: autoencoder(X, activation="relu"), "no second derivative.*Use softplus"),
    (lambda: mlp(X, LABELS, activation="sine"), "`activation` must be one of tanh"),
    (lambda: mlp(X, LABELS, loss="hinge"), "`loss` must be one of cross-entropy, squared"),
    (lambda: mlp(X, LABELS, dtype="float16"), "`dtype` must be one of"),
    (lambda: mlp(X, LABELS, l2=-1), "`l2` must be"),
    (lambda: mlp(X, LABELS, (5, 0)), "`hidden` must be an integer >= 1"),
    (lambda: mlp(X, LABELS, 5), "`hidden` must be a sequence of widths"),
]
F = mlp(X, LABELS, (5, 3))
A = autoencoder(X, (2,))
W = np.zeros(F.dim)
BAD_CALLS = [
    (lambda: F.value(W[:-1]), r"`w` must have shape \(..., 55\)"),
    (lambda: F.predict(W[:-1], X), r"`w` must have shape \(..., 55\)"),
    (lambda: F.products(np.stack([W, W])), "linearizes at one state"),
    (lambda: F.products(W)(np.ones((54, 2))), r"`V` must have shape \(55, k\)"),
    (lambda: F.hvp(W, W), r"`V` must have shape \(..., 55, k\).*V\[:, None\]"),
    (lambda: F.gradient(W, batch=[]), "non-empty"),
    (lambda: F.gradient(W, batch=3), "non-empty"),
    (lambda: F.gradient(W, batch=[0.5]), "integers"),
    (lambda: F.gradient(W, batch=np.ones(SAMPLES, bool)), "integers"),
    (lambda: F.gradient(W, batch=[0, 20]), "from 0 to 19; got 0 to 20"),
    (lambda: F.gradient(W, batch=[-1, 3]), "from 0 to 19; got -1 to 3"),
    (lambda: F.predict(W, X[:, :3]), r"`X` must have shape \(n, 4\)"),
    (lambda: F.predict(W, X * np.nan), "`X` must be finite"),
    (lambda: F.on(X[:, :3], LABELS), "4 columns"),
    (lambda: F.on(X, LABELS + 1), "labels from 0 to 2"),
    (lambda: F.on(X), "`y` must be given"),
    (lambda: A.on(X, LABELS), "targets are its inputs"),
    (lambda: mlp(X, TARGETS, loss="squared").on(X, LABELS), "2 columns"),
    (lambda: A.accuracy(np.zeros(A.dim)), "needs labels"),
    (lambda: mlp(X, LABELS, (100, 50)).hessian(np.zeros(5703)), "Use `products`"),
]


@pytest.mark.parametrize(
    ("call", "message"), BAD_DATA + BAD_CALLS, ids=lambda value: value[:24] if isinstance(value, str) else ""
)
def test_misuse_is_told_in_a_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()
