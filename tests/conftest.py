"""Shared by the tests: methods with literal closed forms, chosen matrices, arrays of every library."""

import os
import signal
from dataclasses import dataclass
from functools import reduce

import numpy as np
import pytest
from results import one_of_each

import stability as st
from stability._array import Backend

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what runs in its background
    signal.signal(signal.SIGINT, signal.default_int_handler)

GAMMA = 0.3

# The literal closed forms, written a second time on purpose: gain, its derivative and its second derivative.
LITERAL = {
    "SGD": (lambda x: np.ones_like(x), lambda x: np.zeros_like(x), lambda x: np.zeros_like(x)),
    "Newton": (lambda x: 1 / x, lambda x: -1 / x**2, lambda x: 2 / x**3),
    "damped Newton": (
        lambda x: 1 / (x + GAMMA),
        lambda x: -1 / (x + GAMMA) ** 2,
        lambda x: 2 / (x + GAMMA) ** 3,
    ),
    "SFN": (
        lambda x: 1 / (np.abs(x) + GAMMA),
        lambda x: -np.sign(x) / (np.abs(x) + GAMMA) ** 2,
        lambda x: 2 / (np.abs(x) + GAMMA) ** 3,
    ),
}


COSTLY = 5.0
"""Seconds of processor time from which on a test that is not marked slow is named at the end of a run."""


def processor_time():
    """Of this process and of those that it started and waited for."""
    return sum(os.times()[:4])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    before = processor_time()
    try:
        return (yield)
    finally:
        if processor_time() - before > COSTLY and not item.get_closest_marker("slow"):
            item.user_properties.append(("processor time", processor_time() - before))


def pytest_terminal_summary(terminalreporter):
    """Named, not failed: how long a test takes is the machine's affair too."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.getreports(kind)]
    for report in reports:
        seconds = dict(report.user_properties).get("processor time")
        if seconds and report.when == "call":
            terminalreporter.line(f"{report.nodeid} took {seconds:.1f} s of processor time: make it cheaper")


@pytest.fixture(autouse=True, scope="session")
def ctrl_c_is_heard():
    """What a shell starts in the background has Ctrl-C ignored: tests that press it would wait in vain."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def smooth_methods():
    return [st.SGD(), st.Newton(), st.DampedNewton(damping=GAMMA), st.SFN(damping=GAMMA)]


def all_methods(rank=2):
    return [
        *smooth_methods(),
        st.LRSFN(rank=rank, damping=GAMMA),
        st.LRSFN(rank=rank, damping=GAMMA, tail="flat"),
    ]


def label(method):
    return method.label.replace(" ", "-")


@pytest.fixture
def rotation():
    return np.linalg.qr(np.random.default_rng(7).standard_normal((5, 5)))[0]


@pytest.fixture
def rng():
    return np.random.default_rng(11)


@dataclass(frozen=True)
class ReadOnly(Backend):
    """NumPy whose arrays may not be written: what writes into its arguments is found out."""

    def asarray(self, values):
        array = np.array(super().asarray(values))
        array.flags.writeable = False
        return array


def _strict():
    strict = pytest.importorskip("array_api_strict", reason="array-api-strict is not installed")
    return Backend("array_api_strict", strict, strict.Device("device1"))


def _torch():
    pytest.importorskip("torch", reason="torch is not installed")
    import array_api_compat.torch as xp

    return Backend("torch", xp, "cpu")


def _cupy():
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    if not cupy.is_available():  # importing it succeeds without a GPU; the first allocation would not
        pytest.skip("CuPy finds no GPU")
    import array_api_compat.cupy as xp

    return Backend("cupy", xp)


BACKENDS = {
    "numpy": lambda: Backend("numpy", np),
    "read-only-numpy": lambda: ReadOnly("numpy", np),
    "strict": _strict,
    "torch": _torch,
    "cupy": _cupy,
}


@pytest.fixture(params=BACKENDS)
def xp_backend(request):
    """Where arrays live, one library after the other: float64; `dataclasses.replace` for another type."""
    return BACKENDS[request.param]()


@pytest.fixture
def no_sync(monkeypatch):
    """Let no number be read from an array of array-api-strict: on a GPU, it would be waited for."""
    array = type(pytest.importorskip("array_api_strict").asarray(0.0))

    def refuse(self, *args, **kwargs):
        raise AssertionError("a number was read from a device array")

    for name in ("__float__", "__bool__", "__int__", "__index__", "__complex__", "__array__"):
        monkeypatch.setattr(array, name, refuse)


def blocks_of(states, *sizes):
    return np.split(states, np.cumsum(sizes), axis=1)


def merged(parts):
    return reduce(lambda a, b: a.merge(b), parts)


def assert_close(found, expected, rtol=1e-12):
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol * np.max(np.abs(expected)))


def results(moments):
    return moments.mean, moments.standard_error, moments.covariance, moments.covariance_error


@pytest.fixture(scope="session")
def every_result():
    """One result of every kind, by the name of its class."""
    return one_of_each()
