"""The optimizer's report of its largest stable step, against dense algebra on losses that are known."""

import copy
import dataclasses
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from networks import seeded  # noqa: E402, F401
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

import stability as st  # noqa: E402
from stability.torch import LRSFN  # noqa: E402

N = 120
SPECTRA = {
    "whitened": np.linalg.svd(np.random.default_rng(0).standard_normal((2 * N, N)))[1] ** 2 / (2 * N),
    "slow": 1 / np.arange(1.0, N + 1),
    "outliers and a bulk": np.r_[50.0, 20.0, 10.0, np.linspace(0.01, 1, N - 3)],
    "indefinite": np.linspace(-3, 3, N),
    "clusters": np.r_[np.full(15, 3.0), np.full(15, 2.9), np.linspace(0, 1, N - 30)],
}


def turned(spectrum):
    Q = np.linalg.qr(np.random.default_rng(1).standard_normal((len(spectrum),) * 2))[0]
    return Q * spectrum @ Q.T


def preconditioner(opt, group):
    """``P`` of a parameter group as its step is taken, from the state alone."""
    state = opt.state[group["params"][0]]
    U, lam = state["vectors"].double().numpy(), np.abs(state["eigenvalues"])
    flat = group["tail"] == "flat"
    sizes, edge = (np.maximum(lam, state["scale"]), state["scale"]) if flat else (lam, 0.0)
    rest = 1 / (edge + group["damping"])
    return U @ np.diag(1 / (sizes + group["damping"]) - rest) @ U.T + rest * np.eye(len(U))


def true_limit(opt, H, group=0):
    """By which lr of the group, the others' in proportion, the linearised iteration comes to 1."""
    parts = [
        preconditioner(opt, g) * g["lr"] / opt.param_groups[group]["lr"] / (1 + g["momentum"])
        for g in opt.param_groups
    ]
    sizes = np.cumsum([0, *map(len, parts)])
    P = np.zeros_like(H)
    for part, start, stop in zip(parts, sizes, sizes[1:], strict=False):
        P[start:stop, start:stop] = part
    decay = np.concatenate([np.full(len(p), g["weight_decay"]) for p, g in zip(parts, opt.param_groups)])  # noqa: B905
    return 2 / np.linalg.eigvals(P @ (H + np.diag(decay))).real.max()


@pytest.mark.parametrize("tail", ["flat", "damping"])
@pytest.mark.parametrize("name", SPECTRA)
def test_on_a_quadratic_it_is_below_the_true_one_and_near_it(name, tail):
    H = turned(SPECTRA[name])
    A = torch.tensor(H)
    for options in (
        {"rank": 20, "damping": 0.1},
        {"rank": 5, "damping": 1e-3, "momentum": 0.9},
        {"rank": 30, "damping": 1.0, "weight_decay": 0.3},
    ):
        w = nn.Parameter(torch.randn(N, dtype=torch.float64))
        opt = LRSFN([w], lr=1e-6, tail=tail, **options)
        for _ in range(2):
            opt.step(lambda w=w: w @ A @ w / 2)
        report, true = opt.report(), true_limit(opt, H)
        assert 0.9 * true < report.step_limit <= true * (1 + 1e-9)
        assert report.step_limit_bracket[0] <= true * (1 + 1e-9) <= report.step_limit_bracket[1] * (1 + 2e-9)


@pytest.mark.filterwarnings("ignore:The loss has risen:stability.StabilityWarning")
def test_runs_grow_beyond_its_upper_end_and_not_below_its_lower():
    A = torch.tensor(turned(SPECTRA["whitened"]))
    for end, factor, grows in ((0, 0.98, False), (1, 1.02, True)):
        w = nn.Parameter(torch.randn(N, dtype=torch.float64))
        opt = LRSFN([w], lr=1e-6, rank=12, damping=0.1, refresh=10**6)
        loss = lambda w=w: w @ A @ w / 2  # noqa: E731
        opt.step(loss)
        opt.param_groups[0]["lr"] = factor * float(opt.report().step_limit_bracket[end])
        losses = [float(opt.step(loss)) for _ in range(200)]
        assert (losses[-1] > 10 * losses[0]) == grows


def test_groups_are_limited_together_each_in_its_own_lr():
    """Each group alone would allow up to twice as much: the curvature between them counts."""
    H = turned(SPECTRA["whitened"])
    A = torch.tensor(H)
    u, v = (nn.Parameter(torch.randn(N // 2, dtype=torch.float64)) for _ in range(2))
    opt = LRSFN(
        [
            {"params": [u], "lr": 2e-6, "momentum": 0.9, "weight_decay": 0.2},
            {"params": [v], "lr": 1e-6, "momentum": 0.3, "tail": "damping"},
        ],
        rank=8,
        damping=0.5,
    )

    def loss():
        w = torch.cat([u, v])
        return w @ A @ w / 2

    opt.step(loss)
    for group in (0, 1):
        true = true_limit(opt, H, group)
        assert 0.9 * true < opt.report(group).step_limit <= true * (1 + 1e-9)
    # The map of both groups, with their own momenta, comes to 1 there.
    limit = true_limit(opt, H, 0)
    P = np.zeros_like(H)
    beta = np.repeat([0.9, 0.3], N // 2)
    for i, group in enumerate(opt.param_groups):
        part = slice(i * N // 2, (i + 1) * N // 2)
        P[part, part] = preconditioner(opt, group) * group["lr"] / opt.param_groups[0]["lr"]
    K = P @ (H + np.diag(np.repeat([0.2, 0.0], N // 2)))
    for factor in (0.999, 1.001):
        step = factor * limit * K
        eye = np.eye(N)
        whole = np.block([[eye - step + np.diag(beta), -np.diag(beta)], [eye, 0 * eye]])
        assert (np.abs(np.linalg.eigvals(whole)).max() > 1) == (factor > 1)
    opt.param_groups[1]["lr"] = 0.0
    assert "its `lr` is 0" not in opt.report(0).unknown
    assert "the group's `lr` is 0" in opt.report(1).unknown
    assert math.isnan(opt.report(1).step_limit)


def columns(drawn, **options):
    """An optimizer after 12 steps on least squares, on batches drawn anew or on all samples at every step."""
    g = torch.Generator().manual_seed(0)
    X = (torch.rand(400, 60, generator=g) < 0.02).double() * 7  # few samples carry a column's curvature
    y = torch.randn(400, generator=g, dtype=torch.float64)
    w = nn.Parameter(torch.zeros(60, dtype=torch.float64))
    opt = LRSFN([w], lr=0.05, rank=10, damping=0.1, **options)
    for _ in range(12):
        b = torch.randperm(400, generator=g)[:64] if drawn else slice(None)
        opt.step(lambda rows, b=b: (X[b][rows] @ w - y[b][rows]) ** 2 / 2)
    return opt, (X.T @ X / 400).numpy(), lambda rows: (X[rows] @ w - y[rows]) ** 2 / 2


def test_of_batches_drawn_anew_it_is_not_known_and_says_so():
    opt, H, everything = columns(drawn=True)
    report = opt.report()
    assert math.isnan(report.step_limit)
    assert 0 < report.deterministic_limit < np.inf
    text = str(report)
    assert "steps see different batches" in text
    assert "stability.torch.advise" in text
    assert "within it" not in text
    told = opt.report(closure=everything)  # of all samples, but still without what batches add
    assert math.isnan(told.step_limit)
    true = true_limit(opt, H)
    assert 0.9 * true < told.deterministic_limit <= true * (1 + 1e-9)
    opt.param_groups[0]["lr"] = 1.1 * report.step_limit_bracket[1]
    assert "is beyond even that" in str(opt.report())
    opt.param_groups[0]["lr"] = 0.9 * report.step_limit_bracket[0]
    assert "is below that" in str(opt.report())
    opt.param_groups[0]["lr"] = float(np.mean(report.step_limit_bracket))
    assert "is between the two" in str(opt.report())


def test_of_the_same_samples_at_every_step_it_is_known():
    opt, H, _ = columns(drawn=False)
    report, true = opt.report(), true_limit(opt, H)
    assert 0.9 * true < report.step_limit <= true * (1 + 1e-9)
    assert report.step_limit == report.deterministic_limit
    assert "if every step sees this loss; lr = 0.05 is within it" in str(report)
    lower, upper = report.step_limit_bracket
    assert f"{lower:.3g} ({upper:.3g} at most)" in str(report)
    for lr, where in (((lower + upper) / 2, "between the two"), (1.01 * upper, "beyond it")):
        assert f"is {where}." in str(dataclasses.replace(report, lr=float(lr)))
    narrow = lower * np.array([1 - 1e-6, 1 + 1e-6])
    assert "is at it." in str(dataclasses.replace(report, lr=float(lower), step_limit_bracket=narrow))
    opt.step(lambda rows: opt.param_groups[0]["params"][0][:1].repeat(50)[rows] ** 2 + 0 * report.step_limit)
    assert "steps see different batches" in opt.report().unknown  # of another size: the sizes alone tell


def test_a_digits_network_is_told_the_limit_of_its_whole_curvature():
    digits = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed").load_digits()
    x, y = torch.tensor(digits.data[:100, ::3] / 16, dtype=torch.float32), torch.tensor(digits.target[:100])
    net = nn.Sequential(nn.Linear(22, 4), nn.Tanh(), nn.Linear(4, 10))
    opt = LRSFN(net, lr=0.2, rank=10, damping=0.1)
    closure = lambda: F.cross_entropy(net(x), y)  # noqa: E731
    for _ in range(12):
        opt.step(closure)
    names, sizes = zip(*((name, p.shape) for name, p in net.named_parameters()), strict=True)

    def loss(w):
        parts = w.split([size.numel() for size in sizes])
        given = {name: part.view(size) for name, part, size in zip(names, parts, sizes, strict=True)}
        return F.cross_entropy(torch.func.functional_call(net, given, x), y)

    w = torch.cat([p.detach().reshape(-1) for p in net.parameters()])
    true = true_limit(opt, torch.autograd.functional.hessian(loss, w).double().numpy())
    report = opt.report()
    assert "is below it, and batch noise, if there is any, lowers it." in str(report)
    assert 0.8 * true < report.step_limit < 1.001 * true
    assert min(report.step_limits) > 1.1 * true  # what each mode alone would allow


def test_it_is_saved_with_the_report_and_one_of_an_earlier_version_has_none(tmp_path):
    report = columns(drawn=True)[0].report()
    report.save(tmp_path / "report")
    back = st.load(tmp_path / "report")
    assert str(back) == str(report)
    np.testing.assert_array_equal(back.step_limit_bracket, report.step_limit_bracket)
    fields = ("step_limit", "deterministic_limit", "step_limit_bracket", "unknown")
    old = {f.name: getattr(report, f.name) for f in dataclasses.fields(report) if f.name not in fields}
    assert "largest stable lr not known: an earlier version saved this report." in str(type(report)(**old))


def test_a_report_moves_neither_parameters_nor_random_numbers():
    net = nn.Sequential(nn.Linear(6, 5), nn.Dropout(0.5), nn.Linear(5, 1))
    x = torch.randn(20, 6)
    opt = LRSFN(net, rank=2)
    opt.step(lambda: net(x).square().mean())
    before, weights = torch.get_rng_state(), copy.deepcopy(net.state_dict())
    left = [p.grad.clone() for p in net.parameters()]
    assert opt.report().step_limit > 0
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(weights[name], p) for name, p in net.state_dict().items())
    assert all(torch.equal(p.grad, g) for p, g in zip(net.parameters(), left, strict=True))


def test_where_there_is_no_loss_to_ask_it_is_not_known():
    net = nn.Linear(3, 1)
    x = torch.randn(8, 3)
    batches = iter([x, x])
    opt = LRSFN(net, rank=2)
    opt.step(lambda: net(next(batches)).square().mean())
    report = opt.report()
    assert math.isnan(report.step_limit)
    assert "cannot be asked again (StopIteration" in str(report)
    assert opt.report(closure=lambda: net(x).square().mean()).step_limit > 0
    for other in (copy.deepcopy(opt), LRSFN(net, rank=2)):
        other.load_state_dict(opt.state_dict())
        assert "has taken no step since it was made or loaded" in other.report().unknown
    steep = opt.report(closure=lambda: math.nan * net(x).square().mean())
    assert "curvature cannot be used here" in steep.unknown
