"""A network and its loss as an objective for `stability.minimize`."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from networks import assert_close, seeded  # noqa: E402, F401
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402

import stability as st  # noqa: E402
from stability.torch import hessian_products, objective  # noqa: E402


def made(dtype=torch.float64):
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Dropout(0.2), nn.Linear(5, 1)).to(dtype).eval()
    x = torch.randn(40, 3, dtype=dtype)
    return model, x, x[:, :1] ** 2 - x[:, 1:2]


def squares(model, batch):
    x, y = batch
    return ((model(x) - y) ** 2).mean(1)


@pytest.mark.parametrize("together", [7, 1024])
def test_value_gradient_and_products_are_the_models(together, monkeypatch):
    monkeypatch.setattr("stability.torch.network.TOGETHER", together)
    model, x, y = made()
    O = objective(model, squares, (x, y))  # noqa: E741
    assert (O.dim, O.n_samples, O.dtype) == (26, 40, "float64")
    loss = F.mse_loss(model(x), y)
    grads = torch.autograd.grad(loss, list(model.parameters()))
    assert O.value(O.start) == pytest.approx(loss.item(), rel=1e-12)
    assert_close(O.gradient(O.start), torch.cat([g.reshape(-1) for g in grads]).numpy(), 1e-10)
    hvp, n = hessian_products(model, lambda: F.mse_loss(model(x), y))
    V = np.random.default_rng(0).standard_normal((n, 3))
    assert_close(O.hvp(O.start, V), hvp(torch.from_numpy(V)).numpy(), 1e-10)
    # The mean over disjoint batches is that of all samples.
    halves = [np.arange(20), np.arange(20, 40)]
    assert_close(
        np.mean([O.gradient(O.start, batch=rows) for rows in halves], axis=0), O.gradient(O.start), 1e-10
    )


@pytest.mark.parametrize("kind", ["loader", "dataset", "mean loss", "list"])
def test_data_in_other_forms_are_the_same_samples(kind):
    model, x, y = made()
    data = {
        "loader": lambda: DataLoader(TensorDataset(x, y), batch_size=16, shuffle=True),
        "dataset": lambda: TensorDataset(x, y),
        "mean loss": lambda: (x, y),
        "list": lambda: [(x[:15], y[:15]), (x[15:], y[15:])],
    }[kind]()
    loss = squares if kind != "mean loss" else lambda model, batch: squares(model, batch).mean()
    O, plain = objective(model, loss, data), objective(model, squares, (x, y))  # noqa: E741
    assert O.n_samples == 40
    assert_close(O.gradient(O.start), plain.gradient(O.start), 1e-10)


def test_it_is_trained_with_nothing_to_tune_and_put_back():
    model, x, y = made(torch.float32)
    O = objective(model, squares, (x, y))  # noqa: E741
    drawn, before = torch.get_rng_state(), O.start
    run = st.minimize(O, O.start, batch=10, sweeps=150)
    assert torch.equal(torch.get_rng_state(), drawn)
    np.testing.assert_array_equal(objective(model, squares, (x, y)).start, before)  # the model has not moved
    O.load(run.final)
    with torch.no_grad():
        assert F.mse_loss(model(x), y).item() == pytest.approx(run.loss, rel=1e-4)
    assert run.loss < 0.1 * run.losses[0]


def test_what_is_no_model_loss_or_data_is_refused():
    model, x, y = made()
    with pytest.raises(ValueError, match=r"`model` must be a torch.nn.Module; got 3"):
        objective(3, squares, (x, y))
    with pytest.raises(ValueError, match="`loss` must be a function of the model and a batch"):
        objective(model, lambda: 1.0, (x, y))
    with pytest.raises(ValueError, match="`data` must be batches that can be joined"):
        objective(model, lambda m, b: m(b[0][..., :3]).mean((1, 2)), [(x[:, None],), (x[:, None, None],)])
    with pytest.raises(ValueError, match="`w` must have shape"):
        objective(model, squares, (x, y)).load(np.zeros(3))
