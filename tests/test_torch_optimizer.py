"""The PyTorch optimizer against dense Hessians, closed forms, the theory; what it saves, skips, refuses."""

import copy
import dataclasses
import io
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

import array_api_compat.torch  # noqa: E402
from networks import Once, assert_close, seeded  # noqa: E402, F401
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

import stability as st  # noqa: E402
from stability.torch.optimizer import LRSFN  # noqa: E402
from stability.torch.products import hessian_products  # noqa: E402
from stability.torch.report import advice  # noqa: E402

TOLERANCE = {torch.float32: 2e-4, torch.float64: 1e-10}
DTYPES = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)


def mlp(dtype=torch.float64):
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).to(dtype)


def conv(dtype=torch.float64):
    net = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1),
        nn.BatchNorm2d(2),
        nn.Softplus(),
        nn.Conv2d(2, 3, 3, stride=2),
        nn.Flatten(),
        nn.Linear(3, 3),
    )
    net[1].running_mean += 0.3
    return net.to(dtype).eval()


def data(net, count=32, dtype=torch.float64):
    shape = (1, 4, 4) if isinstance(net[0], nn.Conv2d) else (4,)
    return torch.randn(count, *shape, dtype=dtype), torch.randint(0, 3, (count,))


def per_sample(net, x, y):
    return lambda rows: F.cross_entropy(net(x[rows]), y[rows], reduction="none")


def flat(tensors):
    return torch.cat([t.detach().reshape(-1) for t in tensors])


def dense(net, x, y):
    """Gradient (n,) and Hessian (n, n) of the mean loss as a function of all parameters in one vector."""
    names, sizes = zip(*((name, p.shape) for name, p in net.named_parameters()), strict=True)

    def loss(w):
        pieces = [
            piece.view(size)
            for piece, size in zip(w.split([size.numel() for size in sizes]), sizes, strict=True)
        ]
        return F.cross_entropy(torch.func.functional_call(net, dict(zip(names, pieces, strict=True)), x), y)

    w = flat(net.parameters())
    return torch.func.grad(loss)(w).numpy(), torch.autograd.functional.hessian(loss, w).numpy()


# -- a least-squares model whose Hessian is known: H = X^T X / b -----------------------------------


class Regression:
    """``loss_i = (x_i . w - y_i)^2 / 2``, with the rows that were asked for."""

    def __init__(self, scales=(3.0, 1.0, 0.3, 0.1), count=40, seed=3):
        rng = np.random.default_rng(seed)
        self.X = (
            rng.standard_normal((count, len(scales)))
            @ np.diag(scales)
            @ np.linalg.qr(rng.standard_normal((len(scales),) * 2))[0]
        )
        self.y = self.X @ np.ones(len(scales)) + 0.1 * rng.standard_normal(count)
        self.x, self.target, self.asked = torch.from_numpy(self.X), torch.from_numpy(self.y), []
        self.w = nn.Parameter(torch.zeros(len(scales), dtype=torch.float64))

    def losses(self, rows):
        self.asked.append(rows)
        return 0.5 * (self.x[rows] @ self.w - self.target[rows]) ** 2

    def mean(self):
        return (0.5 * (self.x @ self.w - self.target) ** 2).mean()

    def hessian(self, rows=slice(None)):
        return self.X[rows].T @ self.X[rows] / len(self.X[rows])

    def gradient(self, w):
        return self.X.T @ (self.X @ w - self.y) / len(self.X)

    def spectrum(self, rows=slice(None)):
        lam, U = np.linalg.eigh(self.hessian(rows))
        return lam[::-1], U[:, ::-1]


# -- products --------------------------------------------------------------------------------------


@DTYPES
@pytest.mark.parametrize("make", [mlp, conv])
def test_products_are_those_of_the_dense_hessian(make, dtype):
    net = make(dtype)
    x, y = data(net, dtype=dtype)
    hvp, n = hessian_products(net, lambda: F.cross_entropy(net(x), y))
    block = torch.randn(n, 19, dtype=dtype)
    found = hvp(block)
    assert (found.shape, found.dtype) == (block.shape, dtype)
    assert_close(found.numpy(), dense(net, x, y)[1] @ block.numpy(), TOLERANCE[dtype])


def test_products_know_their_arrays():
    net = mlp(torch.float32)
    hvp, n = hessian_products(net, lambda: sum((p**2).sum() for p in net.parameters()) / 2)
    eig = st.randomized_eigh(hvp, n, 3)
    assert (eig.vectors.dtype, tuple(eig.vectors.shape)) == (torch.float32, (n, 3))
    np.testing.assert_allclose(eig.eigenvalues, 1.0, rtol=1e-5)
    assert (hvp.backend.name, hvp.backend.dtype, hvp.n) == ("torch", "float32", n)


@pytest.mark.parametrize(
    "params",
    [[torch.ones(2, dtype=torch.float16)], [torch.ones(2), torch.ones(2, dtype=torch.float64)]],
    ids=["half", "two types"],
)
def test_products_of_other_types_are_refused(params):
    params = [p.requires_grad_() for p in params]
    with pytest.raises(ValueError, match="all be float32 or all float64"):
        hessian_products(params, lambda: sum((p.double() ** 2).sum() for p in params))


def test_products_where_the_loss_is_linear_in_a_parameter():
    a, b, c = (torch.ones(2, dtype=torch.float64, requires_grad=True) for _ in range(3))
    hvp, n = hessian_products([a, b, c], lambda: (a * b).sum() + 2 * c.sum())
    expected = np.kron([[0, 1, 0], [1, 0, 0], [0, 0, 0]], np.eye(2))
    np.testing.assert_array_equal(hvp(torch.eye(n, dtype=torch.float64)).numpy(), expected)
    hvp, n = hessian_products([c], lambda: c.sum())
    np.testing.assert_array_equal(hvp(torch.eye(n, dtype=torch.float64)).numpy(), np.zeros((2, 2)))


class Cube(torch.autograd.Function):
    """``x^3`` whose second derivative reads a number, which vmap cannot batch."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, g):
        return Slope.apply(ctx.saved_tensors[0], g)


class Slope(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, g):
        ctx.save_for_backward(x, g)
        return 3 * x**2 * g

    @staticmethod
    def backward(ctx, v):
        x, g = ctx.saved_tensors
        return (6 * x * g * v if v.abs().max().item() > 0 else v), 3 * x**2 * v


def test_products_column_by_column_where_vmap_cannot():
    w = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64, requires_grad=True)
    hvp, n = hessian_products([w], lambda: Cube.apply(w).sum())
    assert_close(hvp(torch.eye(n, dtype=torch.float64)).numpy(), np.diag([6.0, -12.0, 3.0]))
    assert not hvp.batched


def test_an_operation_that_hides_its_second_derivative_is_refused():
    w = torch.ones(2, requires_grad=True)
    with pytest.raises(
        ValueError, match="differentiable twice; it holds an operation marked `once_differentiable`"
    ):
        hessian_products([w], lambda: (Once.apply(w) ** 2).sum())


class Stuck(Cube):
    @staticmethod
    def backward(ctx, g):
        return NoSlope.apply(ctx.saved_tensors[0], g)


class NoSlope(Slope):
    @staticmethod
    def backward(ctx, v):
        raise RuntimeError("not implemented")


def test_an_operation_without_second_derivative_says_what_it_is_for():
    w = torch.ones(2, requires_grad=True)
    hvp, n = hessian_products([w], lambda: Stuck.apply(w).sum())
    with pytest.raises(RuntimeError, match="not implemented") as caught:
        hvp(torch.eye(n))
    assert "twice" in caught.value.__notes__[0]


def test_products_drive_the_eigensolver():
    net = mlp()
    x, y = data(net)
    hvp, n = hessian_products(net, per_sample(net, x, y))
    expected = np.linalg.eigvalsh(dense(net, x, y)[1])
    eig = st.randomized_eigh(hvp, n, n, device=st.Backend("torch", array_api_compat.torch, "cpu"))
    assert_close(eig.eigenvalues, expected[np.argsort(-np.abs(expected))])


@pytest.mark.parametrize("shape", [(5,), (3, 2)])
def test_products_of_another_dimension_are_refused(shape):
    w = torch.ones(5, requires_grad=True)
    with pytest.raises(ValueError, match=r"shape \(5, k\); got shape"):
        hessian_products([w], lambda: (w**3).sum())[0](torch.ones(shape))


@pytest.mark.parametrize("params", [[], [torch.ones(2)]])
def test_products_need_parameters_that_can_be_differentiated(params):
    with pytest.raises(ValueError, match="`params` must hold tensors that require gradients"):
        hessian_products(params, lambda: torch.ones(()))


def test_products_of_what_is_no_tensor_are_refused():
    w = torch.ones(5, requires_grad=True)
    hvp, n = hessian_products([w], lambda: (w**3).sum())
    with pytest.raises(
        ValueError, match=r"take a tensor of shape \(5, k\); got type ndarray. .* torch.as_tensor"
    ):
        hvp(np.eye(n))


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ([1, 2], "got 1, of type int"),
        (3, "got 3, of type int"),
        ([("w", None)], "got None, of type NoneType"),
    ],
)
def test_products_need_tensors(params, words):
    with pytest.raises(ValueError, match=f"`params` must be a module or tensors; {words}"):
        hessian_products(params, lambda: torch.ones(()))


def test_products_of_a_single_tensor():
    w = torch.tensor([1.0, 2.0], requires_grad=True)
    hvp, n = hessian_products(w, lambda: (w**3).sum())
    assert torch.equal(hvp(torch.eye(n)), torch.diag(torch.tensor([6.0, 12.0])))


def test_a_module_whose_parameters_are_all_frozen_says_so():
    net = nn.Linear(2, 1).requires_grad_(False)
    for use in (LRSFN, lambda net: hessian_products(net, lambda: torch.ones(()))):
        with pytest.raises(
            ValueError,
            match=r"`params` must hold tensors that require gradients; none of Linear's 2 parameters does\. "
            r"Call requires_grad_",
        ):
            use(net)


def test_attention_on_the_cpu_is_evaluated_by_the_kernel_that_has_a_second_derivative():
    net, x = nn.MultiheadAttention(4, 1, batch_first=True), torch.randn(2, 5, 4)
    closure = lambda: net(x, x, x, need_weights=False)[0].square().mean()  # noqa: E731
    opt = LRSFN(net, rank=2)
    opt.step(closure)
    assert opt.skipped == 0

    def kernels_of_ones_own():
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.FLASH_ATTENTION):
            return closure()

    hvp, n = hessian_products(net, kernels_of_ones_own)
    with pytest.raises(RuntimeError, match="scaled_dot_product") as caught:
        hvp(torch.eye(n)[:, :2])
    assert "from torch.nn.attention import sdpa_kernel, SDPBackend" in caught.value.__notes__[0]
    assert "with sdpa_kernel(SDPBackend.MATH):" in caught.value.__notes__[0]


# -- the step --------------------------------------------------------------------------------------


@DTYPES
@pytest.mark.parametrize("make", [mlp, conv])
def test_full_rank_is_dense_saddle_free_newton(make, dtype):
    net = make(dtype)
    x, y = data(net, dtype=dtype)
    g, H = dense(net, x, y)
    lam, U = np.linalg.eigh(H)
    assert lam[0] < -1e-3  # a saddle
    before = flat(net.parameters()).numpy()
    loss = LRSFN(net, lr=0.5, rank=len(g), damping=0.1, tail="damping").step(
        lambda: F.cross_entropy(net(x), y)
    )
    expected = before - 0.5 * U @ ((U.T @ g) / (np.abs(lam) + 0.1))
    assert_close(flat(net.parameters()).numpy() - before, expected - before, 50 * TOLERANCE[dtype])
    assert loss.shape == ()
    assert not loss.requires_grad


@pytest.mark.parametrize("tail", ["damping", "flat"])
def test_low_rank_is_the_formula_on_the_leading_pairs(tail):
    model = Regression(scales=(3.0, 1.0, 1e-4, 1e-5))  # the solver is exact up to what follows the kept pairs
    lam, U = model.spectrum()
    LRSFN([model.w], lr=0.7, rank=2, damping=0.05, tail=tail).step(model.mean)
    rest = 1 / 0.05 if tail == "damping" else 1 / (lam[1] + 0.05)
    along = U.T @ model.gradient(np.zeros(4))
    assert_close(
        model.w.detach().numpy(),
        -0.7 * U @ (along * [1 / (lam[0] + 0.05), 1 / (lam[1] + 0.05), rest, rest]),
        1e-6,
    )


def test_the_flat_tails_scale_falls_by_no_more_than_half():
    w = nn.Parameter(torch.tensor([1.0, 1.0], dtype=torch.float64))
    opt = LRSFN([w], lr=1e-3, rank=1, damping=0.1, refresh=1)
    for curvature in (8.0, 2.0, 3.0):
        opt.step(lambda c=curvature: c * w[0] ** 2 / 2 + 0 * w.sum())
    report = opt.report()
    assert report.eigenvalues == pytest.approx([3.0])  # after 8, then 2 taken as 4
    assert report.tail_gain == pytest.approx(1 / 3.1)
    opt.step(lambda: 0.2 * w[0] ** 2 / 2 + 0 * w.sum())
    assert opt.report().tail_gain == pytest.approx(1 / 1.6)
    assert opt.report().gains == pytest.approx([1 / 1.6])
    before = float(w[0].detach())
    opt.step(lambda: 0.8 * w[0] ** 2 / 2 + 0 * w.sum())  # 0.75 by now, and 0.8 is above it
    assert float(w[0].detach()) == pytest.approx(before * (1 - 1e-3 * 0.8 / 0.9))
    before = float(w[0].detach())
    opt.step(lambda: 0.2 * w[0] ** 2 / 2 + 0 * w.sum())
    assert float(w[0].detach()) == pytest.approx(before * (1 - 1e-3 * 0.2 / 0.5), rel=1e-9)


def test_weight_decay_is_a_quadratic_in_loss_and_curvature():
    net = mlp()
    x, y = data(net)
    twin = copy.deepcopy(net)
    options = {"lr": 0.3, "rank": 43, "damping": 0.1, "refresh": 2}
    opt, other = LRSFN(net, weight_decay=0.2, **options), LRSFN(twin, **options)
    for _ in range(3):
        opt.step(lambda: F.cross_entropy(net(x), y))
        other.step(lambda: F.cross_entropy(twin(x), y) + 0.1 * sum((p**2).sum() for p in twin.parameters()))
    assert_close(flat(net.parameters()).numpy(), flat(twin.parameters()).numpy())


def test_momentum_gathers_preconditioned_gradients():
    model = Regression()
    lam, U = model.spectrum()
    P = U @ np.diag(1 / (lam + 0.1)) @ U.T
    opt = LRSFN([model.w], lr=0.2, rank=4, damping=0.1, momentum=0.9, refresh=3)
    w = v = np.zeros(4)
    for _ in range(7):
        opt.step(model.mean)
        v = 0.9 * v + P @ model.gradient(w)
        w = w - 0.2 * v
    assert_close(model.w.detach().numpy(), w, 1e-9)


def test_groups_are_blocks_with_options_of_their_own():
    net = mlp()
    x, y = data(net)
    g, H = dense(net, x, y)
    before = flat(net.parameters()).numpy()
    groups = [
        {"params": net[0].parameters(), "damping": 0.3},
        {"params": net[2].parameters(), "lr": 0.1, "rank": 18, "weight_decay": 0.05},
    ]
    opt = LRSFN(groups, lr=0.5, rank=25, damping=0.1)
    opt.step(lambda: F.cross_entropy(net(x), y))
    step = flat(net.parameters()).numpy() - before
    for part, lr, damping, decay in ((slice(0, 25), 0.5, 0.3, 0.0), (slice(25, 43), 0.1, 0.1, 0.05)):
        lam, U = np.linalg.eigh(H[part, part] + decay * np.eye(part.stop - part.start))
        sizes = np.maximum(np.abs(lam), np.abs(lam).min())
        assert_close(step[part], -lr * U @ ((U.T @ (g + decay * before)[part]) / (sizes + damping)), 1e-8)
    assert [opt.report(i).parameters for i in range(2)] == [25, 18]


def test_schedulers_set_the_step():
    model = Regression()
    opt = LRSFN([model.w], lr=0.5, rank=4)
    scheduler = torch.optim.lr_scheduler.LambdaLR(opt, lambda epoch: 0.1**epoch if epoch < 2 else 0.0)
    steps = []
    for _ in range(3):
        before = model.w.detach().clone()
        opt.zero_grad()
        opt.step(model.mean)
        scheduler.step()
        steps.append(
            float(
                (model.w.detach() - before).norm() / torch.from_numpy(model.gradient(before.numpy())).norm()
            )
        )
    assert steps[1] / steps[0] == pytest.approx(0.1, rel=0.5)
    assert steps[2] == 0.0


def test_curvature_is_refreshed_every_so_many_steps_from_the_last_one():
    model = Regression(scales=0.7 ** np.arange(30))
    opt = LRSFN([model.w], lr=0.1, rank=8, refresh=3)
    counts = []
    for _ in range(7):
        opt.step(model.mean)
        counts.append((opt.report().refreshes, opt.report().products))
    assert counts == [(1, 16)] * 3 + [(2, 29)] * 3 + [
        (3, 42)
    ]  # twice the rank, then the rank and 5 fresh columns


def test_the_rank_may_change_between_refreshes():
    model = Regression()
    opt = LRSFN([model.w], lr=0.1, rank=2, refresh=1)
    for rank in (2, 3, 1):
        opt.param_groups[0]["rank"] = rank
        opt.step(model.mean)
        assert len(opt.report().eigenvalues) == rank
    opt.param_groups[0]["rank"] = 2.5
    with pytest.raises(ValueError, match=r"`rank` must be an integer >= 1; got 2.5"):
        opt.step(model.mean)


# -- samples ---------------------------------------------------------------------------------------


def hessian_rows(model):
    return [rows.numpy() for rows in model.asked if not isinstance(rows, slice)]


def test_hessian_batches_are_four_disjoint_draws_by_the_seed():
    drawn = []
    for seed in (0, 0, 1):
        model = Regression()
        opt = LRSFN([model.w], lr=0.1, rank=2, refresh=1, hessian_batch=26, seed=seed)
        for _ in range(2):
            opt.step(model.losses)
        assert [len(rows) for rows in hessian_rows(model)] == [6] * 8
        drawn.append(np.array(hessian_rows(model)).reshape(2, 24))
    assert all(len(set(rows)) == 24 and rows.max() < 40 for rows in drawn[0])
    assert not np.array_equal(*drawn[0])
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])
    assert opt.report().hessian_batch == 24


def test_a_smaller_last_batch_is_used_as_far_as_it_goes():
    model = Regression(count=6)
    opt = LRSFN([model.w], lr=0.1, rank=2, hessian_batch=64)
    opt.step(model.losses)
    assert [len(rows) for rows in hessian_rows(model)] == [1] * 4
    assert (opt.report().batch, opt.report().hessian_batch) == (6, 4)


def test_mean_losses_with_a_batch_size_are_as_good_as_losses_per_sample():
    first, second = Regression(), Regression()
    LRSFN([first.w], rank=2, hessian_batch=16).step(first.losses)
    opt = LRSFN([second.w], rank=2, hessian_batch=16)
    opt.step(lambda rows: second.losses(rows).mean(), batch_size=40)
    np.testing.assert_array_equal(first.w.detach(), second.w.detach())
    assert opt.report().batch == 40


def test_arguments_with_defaults_are_left_alone():
    model = Regression()
    LRSFN([model.w], rank=2).step(lambda model=model: model.mean())
    assert model.w.detach().abs().sum() > 0
    assert not model.asked


def test_noise_widens_the_kept_eigenvalues():
    model = Regression()
    opt = LRSFN([model.w], lr=1.0, rank=4, damping=0.1, noise_margin=2.0, hessian_batch=20, tail="damping")
    opt.step(model.losses)
    rows = hessian_rows(model)
    lam, U = model.spectrum(np.concatenate(rows))
    quotients = np.array([np.diag(U.T @ model.hessian(r) @ U) for r in rows])
    over_batches = quotients.std(axis=0, ddof=1) * np.sqrt(5 / 40)
    assert_close(
        model.w.detach().numpy(),
        -U @ ((U.T @ model.gradient(np.zeros(4))) / (lam + 2 * over_batches + 0.1)),
        1e-9,
    )


def test_one_sample_left_over_waits_for_the_next_batch_with_the_curvature_there_is():
    model = Regression(count=33)
    opt = LRSFN([model.w], lr=0.1, rank=2, hessian_batch=16, noise_margin=1.0, refresh=2)
    found = []
    for _ in range(4):
        for part in torch.arange(33).split(16):  # 16, 16, 1
            opt.step(lambda rows, part=part: model.losses(part[rows]))
            found.append((opt.report().refreshes, opt.report().batch))
    assert [batch for _, batch in found] == [16] * 12
    assert [count for count, _ in found] == [
        1,
        1,
        1,
        2,
        2,
        2,
        3,
        3,
        3,
        4,
        4,
        4,
    ]  # due at each third step, done one later
    assert torch.isfinite(model.w).all()


def test_batches_of_one_sample_only_are_waited_for_one_period_and_keep_the_noise():
    model = Regression()
    opt = LRSFN([model.w], lr=0.1, rank=3, noise_margin=1.0, refresh=2)
    opt.step(model.losses)
    noise = opt.report().std * math.sqrt(40)
    counts = []
    for i in range(7):
        opt.step(lambda rows, i=i: model.losses(slice(i, i + 1))[rows])
        counts.append(opt.report().refreshes)
    assert counts == [1, 1, 1, 2, 2, 3, 3]  # then one sample is what a batch has
    np.testing.assert_allclose(opt.report().std, noise)
    opt.param_groups[0]["rank"] = 4
    opt.step(lambda rows: model.losses(slice(0, 1))[rows])
    np.testing.assert_allclose(opt.report().std, [*noise, noise[-1]])


@pytest.mark.parametrize(
    ("options", "count"), [({"hessian_batch": 1}, 40), ({"hessian_batch": 64}, 1), ({}, 1)]
)
def test_noise_that_one_sample_cannot_tell_is_refused_at_once(options, count):
    model = Regression(count=count)
    opt = LRSFN([model.w], rank=2, noise_margin=1.0, **options)
    with pytest.raises(ValueError, match=r"`noise_margin`=1 needs .* two samples; got a .* batch of 1. Give"):
        opt.step(model.losses)
    assert not model.w.detach().any()


def test_noise_asked_for_later_is_found_at_once():
    model = Regression()
    opt = LRSFN([model.w], lr=0.1, rank=2, refresh=100)
    opt.step(model.mean)
    opt.param_groups[0]["noise_margin"] = 1.0
    assert np.isnan(opt.report().gains).all()
    opt.step(model.losses)
    assert np.isfinite(opt.report().std).all()
    assert opt.report().refreshes == 2


# -- the report ------------------------------------------------------------------------------------


def test_the_report_is_the_linearised_theory_of_the_model():
    model = Regression()
    opt = LRSFN([model.w], lr=1.0, rank=3, damping=0.05, hessian_batch=20, tail="damping")
    opt.step(model.losses)
    report, rows = opt.report(), hessian_rows(model)
    lam, U = model.spectrum(np.concatenate(rows))
    lam, U = lam[:3], U[:, :3]
    per_sample = np.array([np.diag(U.T @ model.hessian(r) @ U) for r in rows]).std(axis=0, ddof=1) * np.sqrt(
        5
    )
    assert_close(report.eigenvalues, lam, 1e-4)
    assert_close(report.std, per_sample / np.sqrt(20), 1e-3)
    assert_close(report.noise_ratio, per_sample / np.sqrt(20) / lam, 1e-3)
    assert_close(report.amplification, 1 / (lam + 0.05), 1e-3)
    assert report.effective_dimension == pytest.approx(np.sum(lam / (lam + 0.05)), rel=1e-3)
    for i in range(3):  # one mode, in the theory's terms: a diagonal entry of its noise has variance 2 tau^2
        noise = st.Noise(curvature=report.std[i] * np.sqrt(20 / 2), batch=40, hessian_batch=20)
        flow = st.Flow(st.quadratic([report.eigenvalues[i]]), st.SFN(damping=0.05), noise, step=1.0)
        assert report.step_limits[i] == pytest.approx(st.linearize(flow).step_limit(), rel=1e-9)
    assert report.tail_gain == pytest.approx(20)
    assert report.tail_limit == pytest.approx(2 * 0.05 / abs(report.next_eigenvalue))


@pytest.mark.filterwarnings("ignore:The loss has risen:stability.StabilityWarning")
@pytest.mark.parametrize("tail", ["damping", "flat"])  # limited by the tail, and by the largest curvature
def test_beyond_the_reported_limit_the_iteration_grows(tail):
    for factor, grows in ((0.95, False), (1.05, True)):
        model = Regression()
        opt = LRSFN([model.w], lr=1.0, rank=2, damping=0.01, tail=tail, momentum=0.5, refresh=1000)
        opt.step(model.mean)
        opt.param_groups[0]["lr"] = factor * opt.report().step_limit
        losses = [float(opt.step(model.mean)) for _ in range(150)]
        assert (losses[-1] > 10 * losses[0]) == grows


def test_a_negative_mode_has_no_limit_and_no_amplification():
    w = nn.Parameter(torch.tensor([1.0, 1.0], dtype=torch.float64))
    opt = LRSFN([w], rank=2, damping=0.1, tail="damping")
    opt.step(lambda: 2 * w[0] ** 2 - w[1] ** 2)
    report = opt.report()
    assert report.eigenvalues == pytest.approx([4.0, -2.0])
    np.testing.assert_allclose(report.step_limits, [2 * 4.1 / 4, np.inf])
    np.testing.assert_allclose(report.amplification, [1 / 4.1, np.nan])
    assert "1 of 2 kept eigenvalues positive" in str(report)
    assert "positive, next -;" in str(dataclasses.replace(report, next_eigenvalue=np.nan))


def test_the_report_prints_what_a_reader_asks():
    model = Regression()
    opt = LRSFN([model.w], lr=50.0, rank=2, hessian_batch=20)
    opt.step(model.losses)
    text = str(opt.report())
    assert text.startswith("LRSFN after 1 steps (0 skipped): 1 refreshes, 4 Hessian products, 4 parameters")
    assert "batches: gradient 40, Hessian 20" in text
    assert "lr = 50 is beyond it" in text
    assert text.endswith(opt.report().advice)
    opt.param_groups[0]["lr"] = 0.01
    assert "lr = 0.01 is within it" in str(opt.report())


def test_without_samples_the_noise_is_said_to_be_unknown():
    model = Regression()
    opt = LRSFN([model.w], rank=2)
    opt.step(model.mean)
    report = opt.report()
    assert np.isnan(report.std).all()
    assert "gradient unknown, Hessian unknown" in str(report)
    assert "noise is not known" in report.advice
    gain = 1 / (report.eigenvalues + 0.1)
    np.testing.assert_allclose(report.step_limits, 2 / (gain * report.eigenvalues))


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ((1e5, math.nan, 0.1), "noise is not known"),
        ((1e5, 2.0, 0.1), "larger hessian_batch, or Adam"),
        ((1e5, 0.2, 3.0), "batches are too small"),
        ((50.0, 0.2, 0.3), "the kept modes do not tell"),
        ((50.0, 0.2, 0.3, True), "momentum or Adam"),
        ((1e5, 0.01, 0.3), "L-BFGS"),
        ((1e5, 0.2, 0.3), "second order pays"),
    ],
)
def test_advice_is_one_sentence_by_curvature_noise_and_batch(numbers, words):
    sentence = advice(*numbers)
    assert words in sentence
    assert sentence.endswith(".")


def test_an_eigenvalue_below_its_noise_says_nothing_of_the_condition_number():
    net, x, y = (
        torch.nn.Linear(3, 1),
        torch.randn(64, 3, generator=torch.Generator().manual_seed(0)),
        torch.zeros(64, 1),
    )
    opt = LRSFN(net, rank=3, hessian_batch=32)
    opt.step(lambda rows: ((net(x[rows]) - y[rows]) ** 2).mean(dim=1))
    lam, std = np.array([1e3, 1.0, 1e-6]), np.array([100.0, 0.1, 1e-3])
    told = dataclasses.replace(opt.report(), eigenvalues=lam, std=std, gains=1e-3 / lam)
    assert "1e+03" in told.advice


# -- saving ----------------------------------------------------------------------------------------


def trained(steps, opt, net, x, y, first=0):
    for i in range(first, first + steps):
        part = slice(8 * (i % 4), 8 * (i % 4) + 8)
        opt.step(per_sample(net, x[part], y[part]))


def test_the_margins_old_name_is_read_and_told():
    model = Regression()
    with pytest.warns(DeprecationWarning, match="`noise` is called `noise_margin` now"):
        opt = LRSFN([model.w], rank=2, noise=1.5)
    assert opt.param_groups[0]["noise_margin"] == 1.5
    with pytest.warns(DeprecationWarning, match="`noise` is called `noise_margin` now"):
        opt = LRSFN([{"params": [model.w], "noise": 2.5}], rank=2)
    assert opt.param_groups[0]["noise_margin"] == 2.5
    state = opt.state_dict()
    state["param_groups"][0]["noise"] = state["param_groups"][0].pop("noise_margin")
    other = LRSFN([model.w], rank=2)
    other.load_state_dict(state)  # what an earlier version saved
    assert other.param_groups[0]["noise_margin"] == 2.5
    with pytest.raises(ValueError, match="`state_dict` must be"):
        other.load_state_dict({"param_groups": 1})


@DTYPES
def test_resumed_is_bit_equal(dtype):
    net = mlp(dtype)
    x, y = data(net, dtype=dtype)
    options = {"rank": 3, "hessian_batch": 8, "refresh": 3, "momentum": 0.9, "noise_margin": 1.0}
    opt = LRSFN(net, lr=0.05, seed=5, **options)
    trained(5, opt, net, x, y)
    stream = io.BytesIO()
    torch.save({"model": net.state_dict(), "optimizer": opt.state_dict()}, stream)
    trained(9, opt, net, x, y, first=5)
    stream.seek(0)
    saved = torch.load(stream, weights_only=True)  # tensors, numbers and lists: nothing to unpickle
    other = mlp(dtype)
    other.load_state_dict(saved["model"])
    resumed = LRSFN(other, rank=3)
    resumed.load_state_dict(saved["optimizer"])
    trained(9, resumed, other, x, y, first=5)
    np.testing.assert_array_equal(flat(other.parameters()), flat(net.parameters()))
    assert str(resumed.report()) == str(opt.report())


def damage(path, value):
    def apply(state):
        target = state
        for key in path[:-1]:
            target = target[key]
        if value is KeyError:
            del target[path[-1]]
        else:
            target[path[-1]] = value

    return apply


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (damage(["state"], KeyError), "without 'state'"),
        (damage(["param_groups"], []), "0 parameter groups"),
        (damage(["param_groups", 0, "rank"], KeyError), "without 'rank'"),
        (damage(["param_groups", 0, "damping"], -1.0), "`damping` must be"),
        (damage(["param_groups", 0, "lr"], math.nan), "`lr` must be"),
        (damage(["param_groups", 0, "params"], None), "NoneType"),
        (damage(["state", 0, "vectors"], KeyError), "without 'vectors'"),
        (damage(["state", 0, "vectors"], torch.ones(7, 3)), "vectors are not a finite tensor"),
        (damage(["state", 0, "vectors"], torch.ones(43, 3)), "not orthonormal"),
        (damage(["state", 0, "velocity"], torch.full((43,), math.nan)), "velocity are not a finite tensor"),
        (damage(["state", 0, "velocity"], "text"), "velocity are not a finite tensor"),
        (damage(["state", 0, "eigenvalues"], [1.0, 1.0, math.inf]), "not finite"),
        (damage(["state", 0, "std"], [1.0]), "not numbers"),
        (damage(["state", 0, "age"], -1), "`age` must be"),
        (damage(["state", 0, "batch"], 0.5), "`batch` must be"),
        (damage(["state", 0, "scale"], math.nan), "`scale` must be"),
        (damage(["param_groups", 0, "rank"], 300000), "holds 3 eigenvalues for `rank`=43"),
        (damage(["param_groups", 0, "rank"], 2), "holds 3 eigenvalues for `rank`=2"),
        (damage(["state", 0, "std"], [1.0, -1.0, 1.0]), "standard deviations are not numbers >= 0, or nan"),
        (
            damage(["state", 0, "std"], [1.0, math.inf, 1.0]),
            "standard deviations are not numbers >= 0, or nan",
        ),
        (damage(["state", 0, "exp_avg"], 0), "exp_avg"),
    ],
)
def test_a_damaged_state_is_refused_and_changes_nothing(harm, words):
    net = mlp()
    x, y = data(net)
    opt = LRSFN(net, rank=3, momentum=0.5)
    trained(2, opt, net, x, y)
    state = copy.deepcopy(opt.state_dict())
    harm(state)
    before = str(opt.report())
    with pytest.raises(ValueError, match="`state_dict` must be what") as caught:
        opt.load_state_dict(state)
    assert words in str(caught.value)
    assert str(opt.report()) == before


def test_a_rank_changed_between_refreshes_can_be_saved():
    net = mlp()
    x, y = data(net)
    opt = LRSFN(net, rank=3, refresh=10)
    trained(2, opt, net, x, y)
    opt.param_groups[0]["rank"] = 5
    trained(1, opt, net, x, y, first=2)
    assert len(opt.report().eigenvalues) == 5
    LRSFN(net).load_state_dict(opt.state_dict())


def test_the_state_of_another_optimizer_is_refused():
    net = mlp()
    with pytest.raises(ValueError, match=r"LRSFN.state_dict\(\) returned"):
        LRSFN(net).load_state_dict(torch.optim.Adam(net.parameters()).state_dict())
    with pytest.raises(ValueError, match=r"LRSFN.state_dict\(\) returned"):
        LRSFN(net).load_state_dict([])


def test_the_state_of_other_parameters_is_refused():
    net = mlp()
    x, y = data(net)
    opt = LRSFN(net, rank=3)
    trained(1, opt, net, x, y)
    other = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    with pytest.raises(ValueError, match="vectors are not a finite tensor of shape"):
        LRSFN(other, rank=3).load_state_dict(opt.state_dict())


# -- steps that are not taken ----------------------------------------------------------------------


def test_a_step_from_a_loss_that_is_not_finite_is_not_taken():
    model = Regression()
    opt = LRSFN([model.w], rank=2, momentum=0.9)
    opt.step(model.mean)
    before = model.w.detach().clone()
    assert math.isnan(opt.step(lambda: model.mean() * math.nan))
    assert torch.equal(model.w.detach(), before)
    assert opt.skipped == 1
    assert "(1 skipped)" in str(opt.report())
    assert "Last step not taken: the loss or its gradient is nan or infinite" in str(opt.report())
    assert opt.state[model.w]["velocity"] is None  # what led here is forgotten
    opt.step(model.mean)
    assert (opt.report().steps, opt.skipped) == (2, 1)


def test_a_step_from_curvature_that_is_not_finite_is_not_taken():
    w = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    opt = LRSFN([w], rank=2)
    with pytest.warns(st.StabilityWarning, match="The first step was not taken: the Hessian's products"):
        opt.step(lambda: (w.abs() ** 1.5).sum() + w.sum())  # the gradient is finite at 0, the Hessian is not
    assert opt.skipped == 1
    assert not w.detach().any()
    with pytest.raises(ValueError, match=r"no curvature to report before the first step .*nan or infinite"):
        opt.report()


def test_a_step_that_overflows_is_not_taken():
    w = nn.Parameter(torch.ones(2))
    opt = LRSFN([w], rank=1, damping=1e-30, tail="damping")
    with pytest.warns(st.StabilityWarning, match=r"The first step was not taken: the preconditioned step is"):
        opt.step(lambda: 1e20 * w.sum() + w[0] ** 2)
    assert opt.skipped == 1
    assert torch.equal(w.detach(), torch.ones(2))


@pytest.mark.parametrize("lr", [math.nan, math.inf, -0.1])
def test_a_learning_rate_out_of_range_is_refused_before_anything_is_touched(lr):
    net = mlp()
    x, y = data(net)
    opt = LRSFN([{"params": net[0].parameters()}, {"params": net[2].parameters()}], rank=3)
    before = flat(net.parameters())
    opt.param_groups[1]["lr"] = lr
    with pytest.raises(ValueError, match="`lr` must be a finite number >= 0; got"):
        opt.step(lambda: F.cross_entropy(net(x), y))
    assert torch.equal(flat(net.parameters()), before)
    assert not opt.state


@pytest.mark.parametrize("lr", [1e39, 3e38])  # not a float32; one, and its product with the step is not
def test_a_learning_rate_that_overflows_the_parameters_is_a_step_not_taken(lr):
    net = mlp(torch.float32)
    x, y = data(net, dtype=torch.float32)
    opt = LRSFN(
        [
            {"params": net[0].parameters()},
            {"params": net[2].parameters(), "lr": 1e-9, "damping": 1e-6, "tail": "damping"},
        ],
        rank=3,
        momentum=0.5,
    )
    loss = lambda: 1e3 * F.cross_entropy(net(x), y)  # noqa: E731
    opt.step(loss)
    before = flat(net.parameters())
    opt.param_groups[1]["lr"] = lr
    opt.step(loss)
    assert torch.equal(flat(net.parameters()), before)
    assert opt.skipped == 1
    assert "Last step not taken: the parameters after it would be nan or infinite (lr = " in str(opt.report())


class Twist(torch.autograd.Function):
    """``sum x^2 / 2`` with the wrong second derivative ``I + tilt e_1 e_2^T``."""

    tilt = 1.0

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return 0.5 * (x**2).sum()

    @staticmethod
    def backward(ctx, g):
        return g * Tilt.apply(ctx.saved_tensors[0])


class Tilt(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, g):
        return g + Twist.tilt * torch.roll(g, 1, -1) * torch.tensor([1.0, 0.0, 0.0], dtype=g.dtype)


def test_products_that_are_not_symmetric_from_the_beginning_are_an_error():
    w = nn.Parameter(torch.ones(3, dtype=torch.float64))
    opt = LRSFN([w], rank=2)
    with pytest.raises(st.BadProducts, match="must be one symmetric operator") as caught:
        opt.step(lambda: Twist.apply(w))
    assert "torch.autograd.gradgradcheck" in caught.value.__notes__[0]
    assert torch.equal(w.detach(), torch.ones(3, dtype=torch.float64))


def test_products_that_are_not_symmetric_later_are_a_step_not_taken(monkeypatch):
    w = nn.Parameter(torch.ones(3, dtype=torch.float64))
    opt = LRSFN([w], rank=2, refresh=1)
    monkeypatch.setattr(Twist, "tilt", 0.0)
    opt.step(lambda: Twist.apply(w))
    before = w.detach().clone()
    monkeypatch.setattr(Twist, "tilt", 1.0)
    opt.step(lambda: Twist.apply(w))
    assert torch.equal(w.detach(), before)
    assert opt.skipped == 1
    assert "Last step not taken: the Hessian's products are not symmetric" in str(opt.report())


# -- misuse ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lr": 0.0}, "`lr` must be a finite number > 0; got 0.0"),
        ({"lr": "fast"}, "`lr` must be a finite number > 0; got 'fast'"),
        ({"rank": 0}, "`rank` must be an integer >= 1"),
        ({"damping": 0.0}, "`damping` must be a finite number > 0; got 0.0"),
        ({"hessian_batch": 0}, "`hessian_batch` must be an integer >= 1"),
        ({"refresh": 0}, "`refresh` must be an integer >= 1"),
        ({"momentum": 1.0}, r"`momentum` must be in \[0, 1\)"),
        ({"weight_decay": -1.0}, "`weight_decay` must be a finite number >= 0"),
        ({"noise_margin": -1.0}, "`noise_margin` must be a finite number >= 0"),
        ({"tail": "none"}, "`tail` must be one of adaptive, damping, flat"),
        ({"seed": -1}, "`seed` must be an integer >= 0"),
    ],
)
def test_options_out_of_range(options, words):
    with pytest.raises(ValueError, match=words):
        LRSFN(mlp(), **{"rank": 3, **options})
    with pytest.raises(ValueError, match=words):  # in a group too
        LRSFN([{"params": mlp().parameters(), **options}], rank=3)


def test_frozen_parameters_of_a_module_are_left_out_and_given_alone_refused():
    net = mlp()
    net[0].requires_grad_(False)
    assert len(LRSFN(net, rank=3).param_groups[0]["params"]) == 2
    with pytest.raises(ValueError, match="`params` must require gradients; parameter 0 of group 0"):
        LRSFN(net.parameters(), rank=3)


def test_parameters_of_two_types_or_devices_or_of_too_few_bits():
    one, other, far, half = (
        nn.Parameter(torch.ones(3, **kind))
        for kind in ({}, {"dtype": torch.float64}, {"device": "meta"}, {"dtype": torch.float16})
    )
    with pytest.raises(
        ValueError, match=r"of one type, on one device; parameter 1 of group 0.* is torch.float64 on cpu"
    ):
        LRSFN([one, other], rank=1)
    with pytest.raises(
        ValueError, match=r"parameter 0 of group 1.* is torch.float32 on meta, the first torch.float32 on cpu"
    ):
        LRSFN([{"params": [one]}, {"params": [far]}], rank=1)
    with pytest.raises(ValueError, match="float32 or float64"):
        LRSFN([half], rank=1)


def test_a_refused_group_is_not_added():
    net = mlp()
    opt = LRSFN(net[0].parameters(), rank=3)
    with pytest.raises(ValueError, match="`rank`"):
        opt.add_param_group({"params": net[2].bias, "rank": 0})
    assert len(opt.param_groups) == 1
    opt.add_param_group({"params": net[2].parameters()})
    assert len(opt.param_groups) == 2


def closures(net, x, y):
    loss = lambda: F.cross_entropy(net(x), y)  # noqa: E731

    def backward():
        value = loss()
        value.backward()
        return value

    return {
        "None": (None, r"step\(\) without a closure takes the gradients .* Call loss.backward\(create_graph"),
        "a loss": (torch.ones(()), "must be a function that returns the loss; got tensor"),
        "number": (lambda: loss().item(), "as a tensor; got .* of type float"),
        "detached": (lambda: loss().detach(), "without a graph"),
        "matrix": (lambda: net(x), r"got shape \(32, 3\). Take losses.flatten"),
        "empty": (
            lambda: F.cross_entropy(net(x[:0]), y[:0], reduction="none"),
            r"got shape \(0,\). Leave out",
        ),
        "backward": (backward, "not call backward, which torch.optim.LBFGS asks for"),
        "arguments": (
            lambda x, y: loss(),
            "no argument, or one called `rows`; got one that needs x, y. Bind",
        ),
        "unused": (
            lambda: x.clone().requires_grad_().square().mean(),
            r"does not on 0.weight of shape \(5, 4\), 0.bias",
        ),
        "rows ignored": (
            lambda rows: F.cross_entropy(net(x), y, reduction="none"),
            "got 32 losses for 8 `rows`. Let it return",
        ),
    }


@pytest.mark.parametrize("name", closures(None, None, None))
def test_closures_that_return_no_loss(name):
    net = mlp()
    x, y = data(net)
    closure, words = closures(net, x, y)[name]
    before = flat(net.parameters())
    with pytest.raises(ValueError, match=words):
        LRSFN(net, rank=3).step(closure)
    assert torch.equal(flat(net.parameters()), before)


def test_a_graph_that_is_broken_otherwise_is_torchs_to_tell():
    w = nn.Parameter(torch.ones(3))

    def closure():
        scaled = w * 2
        loss = scaled.square().sum()
        with torch.no_grad():
            scaled.zero_()
        return loss

    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        LRSFN([w], rank=2).step(closure)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"hessian_batch": 8}, "`hessian_batch`=8 needs single samples"),
        ({"noise_margin": 1.0}, "`noise_margin`=1 needs"),
    ],
)
def test_what_needs_samples_says_so(options, words):
    model = Regression()
    with pytest.raises(ValueError, match=words):
        LRSFN([model.w], rank=2, **options).step(model.mean)
    with pytest.raises(ValueError, match=words):
        LRSFN([model.w], rank=2, **options).step(lambda rows: model.losses(rows).mean())


def test_a_batch_size_that_is_not_the_batchs():
    model = Regression()
    with pytest.raises(ValueError, match=r"got 40 losses for `batch_size`=8. Pass len"):
        LRSFN([model.w], rank=2).step(model.losses, batch_size=8)


def test_a_batch_size_beyond_the_batch():
    model = Regression()
    with pytest.raises(
        ValueError,
        match="`batch_size` must be the number of samples in the batch; got 80, and the closure has no such "
        "`rows`",
    ) as caught:
        LRSFN([model.w], rank=2).step(lambda rows: model.losses(rows).mean(), batch_size=80)
    assert isinstance(caught.value.__cause__, IndexError)


def test_an_error_that_is_the_closures_own_is_passed_on():
    with pytest.raises(ZeroDivisionError):
        LRSFN(mlp(), rank=3).step(lambda: 1 / 0)


def test_no_report_before_the_first_step_nor_of_a_group_that_is_not_there():
    opt = LRSFN(mlp(), rank=3)
    with pytest.raises(ValueError, match=r"no curvature to report before the first step\. Call step"):
        opt.report()
    with pytest.raises(ValueError, match="`group` must be"):
        opt.report(1)


# -- networks --------------------------------------------------------------------------------------


def test_nothing_of_the_networks_size_goes_to_the_host(monkeypatch):
    net = nn.Linear(2000, 3)
    x, y = torch.randn(8, 2000), torch.randint(0, 3, (8,))
    sizes = []
    for name in ("__array__", "numpy", "tolist"):
        original = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor,
            name,
            lambda self, *args, original=original, **kwargs: (
                sizes.append(self.numel()),
                original(self, *args, **kwargs),
            )[1],
        )
    opt = LRSFN(net, rank=2, refresh=1, momentum=0.5)
    for _ in range(2):
        opt.step(per_sample(net, x, y))
    opt.report()
    assert sizes
    assert max(sizes) < 200


def test_dropout_and_batch_norm_in_training_do_not_break_a_step():
    net = nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Softplus(), nn.Dropout(0.5), nn.Linear(8, 3)
    ).double()
    x, _ = data(net)
    y = (x[:, 0] > 0).long()
    opt = LRSFN(net, rank=4, refresh=2, lr=0.3)
    losses = [float(opt.step(per_sample(net, x, y))) for _ in range(30)]
    assert opt.skipped == 0
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


def test_digits_are_learned():
    digits = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed").load_digits()
    x, y = torch.tensor(digits.data / 16, dtype=torch.float32)[:800], torch.tensor(digits.target)[:800]
    net = nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10))
    opt = LRSFN(net, lr=0.5, rank=10, hessian_batch=32, noise_margin=1.0)
    order = torch.Generator().manual_seed(0)
    for _ in range(3):
        for index in torch.randperm(len(x), generator=order).split(48):
            opt.step(per_sample(net, x[index], y[index]))
    with torch.no_grad():
        assert F.cross_entropy(net(x), y) < 0.8  # 2.3 at the start
    assert opt.skipped == 0
