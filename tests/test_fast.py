"""The accelerator's kernels: NumPy's own bits where they are promised, LAPACK's accuracy where that is."""

import functools
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import stability as st
from stability import _fast
from stability._fast import compiler, normals, planar, programs, tridiagonal

pytestmark = [
    pytest.mark.delicate,
    pytest.mark.skipif(not _fast.available(), reason="numba is not installed, or does not compile"),
]

GAINS = {
    "SFN": st.SFN(damping=0.3).gain,
    "Newton": st.Newton().gain,
    "damped Newton": st.DampedNewton(damping=0.3).gain,
    "user": st.Method(gain=lambda lam, eps: 1 / np.sqrt(lam**2 + eps), eps=0.01).gain,
}


def generators(seed=5):
    return (np.random.Generator(np.random.SFC64(seed)) for _ in range(2))


def same_state(one, other):
    return str(one.bit_generator.state) == str(other.bit_generator.state)


def same_bits(a, b):
    return np.array_equal(np.ascontiguousarray(a).view(np.uint64), np.ascontiguousarray(b).view(np.uint64))


# --- Normals --------------------------------------------------------------------------------------


def test_three_million_normals_have_numpys_bits_tails_included():
    ours, theirs = generators()
    out, expected = np.empty((2, 3_000_000))
    _fast.fill(ours, out)
    theirs.standard_normal(out=expected)
    assert normals._trusted()  # else this test would compare NumPy with itself
    assert np.abs(expected).max() > 4.5  # the ziggurat's tail, from 3.65 on, was visited
    assert same_bits(out, expected)
    assert same_state(ours, theirs)


@pytest.mark.parametrize("shape", [(0,), (1,), (7,), (3, 0, 2), (16, 2, 512), (5, 3, 11)])
def test_any_shape_and_other_draws_in_between(shape):
    ours, theirs = generators()
    for _ in range(3):
        out, expected = np.empty(shape), np.empty(shape)
        _fast.fill(ours, out)
        theirs.standard_normal(out=expected)
        assert same_bits(out, expected)
        assert ours.random(dtype=np.float32) == theirs.random(
            dtype=np.float32
        )  # half a word stays in the generator
        assert ours.standard_normal() == theirs.standard_normal()
        assert same_state(ours, theirs)


def test_chunks_give_the_same_stream_as_one_fill():
    ours, theirs = generators()
    out, expected = np.empty((2, 5000))
    _fast.fill(ours, expected)
    for start, end in ((0, 1), (1, 1), (1, 700), (700, 5000)):
        _fast.fill(theirs, out[start:end])
    assert same_bits(out, expected)


def test_another_bit_generator_is_left_to_numpy():
    ours, theirs = (np.random.Generator(np.random.PCG64(3)) for _ in range(2))
    out = np.empty(50)
    _fast.fill(ours, out)
    assert same_bits(out, theirs.standard_normal(50))


def test_normals_that_are_not_numpys_are_never_used(monkeypatch):
    width, bound, density = normals._ziggurat()
    out = np.empty(1000)
    for tables in ((width * (1 + 1e-15), bound, density), (width, bound, density[::-1].copy()), ()):
        monkeypatch.setattr(normals, "_ziggurat", lambda tables=tables: tables if tables else missing())
        monkeypatch.setattr(normals, "_trusted", functools.cache(normals._trusted.__wrapped__))
        assert not normals._trusted()
        ours, theirs = generators()
        _fast.fill(ours, out)
        assert same_bits(out, theirs.standard_normal(1000))


def missing():
    raise ImportError("numba.np.random._constants")


@pytest.mark.parametrize(
    "out",
    [np.empty((3, 4)).T, np.empty(8)[::2], np.empty(4, dtype=np.float32)],
    ids=["transposed", "strided", "float32"],
)
def test_an_array_that_cannot_be_filled_is_refused(out):
    with pytest.raises(ValueError, match="C-contiguous float64"):
        _fast.fill(next(generators()), out)


def test_two_threads_fill_as_one_does():
    def draw(seed):
        out = np.empty(200_000)
        _fast.fill(np.random.Generator(np.random.SFC64(seed)), out)
        return out

    with ThreadPoolExecutor(2) as pool:
        shared = list(pool.map(draw, range(6)))
    assert all(same_bits(a, draw(seed)) for seed, a in enumerate(shared))


# --- d = 2 ----------------------------------------------------------------------------------------


def affine_numpy(noise, x, a, c):
    for rows in noise:
        x = np.stack([((a[i, 0] * x[0] + a[i, 1] * x[1]) + c[i]) + rows[i] for i in (0, 1)])
        rows[...] = x
    return x


def test_an_affine_chunk_has_the_bits_of_numpy(rng, monkeypatch):
    a, c = rng.standard_normal((2, 2)), rng.standard_normal(2)
    noise, x = rng.standard_normal((16, 2, 513)), rng.standard_normal((2, 513))
    expected = noise.copy()
    final = affine_numpy(expected, x.copy(), a, c)
    for compiled in (True, False):
        monkeypatch.setattr(compiler, "available", lambda compiled=compiled: compiled)
        states, end = noise.copy(), x.copy()
        _fast.affine_planar(states, end, a, c)
        assert same_bits(states, expected)
        assert same_bits(end, final)


def test_an_affine_chunk_may_be_cut_anywhere(rng):
    a, c = rng.standard_normal((2, 2)), rng.standard_normal(2)
    noise, x = rng.standard_normal((16, 2, 40)), rng.standard_normal((2, 40))
    whole, end, parts, last = noise.copy(), x.copy(), noise.copy(), x.copy()
    _fast.affine_planar(whole, end, a, c)
    for start, stop in ((0, 5), (5, 5), (5, 16)):
        _fast.affine_planar(parts[start:stop], last, a, c)
    assert same_bits(whole, parts)
    assert same_bits(end, last)


def planar_problem(rng, count=600):
    hessian = rng.standard_normal((count, 2, 2))
    hessian += hessian.transpose(0, 2, 1)
    hessian[:200] *= 10.0 ** rng.uniform(-100, 100, (200, 1, 1))
    hessian[200:220] = np.eye(2) * rng.standard_normal((20, 1, 1))  # r = 0
    hessian[220:240] = 0.0
    hessian[240:300, 0, 1] = hessian[240:300, 1, 0] = 0.0
    return hessian, rng.standard_normal((2, count)), rng.standard_normal((2, count))


def planar_parts(hessian, gain, v, x):
    h11, h12, h22 = hessian[:, 0, 0], hessian[:, 0, 1], hessian[:, 1, 1]
    lams, shape, out = np.empty_like(v), np.empty_like(v), x.copy()
    _fast.planar_eigenvalues(h11, h12, h22, lams, shape)
    with np.errstate(all="ignore"):
        phi = gain(lams)
    _fast.planar_step(h12, shape, phi, v, out, np.empty((4, v.shape[1])))
    return lams, shape, out


@pytest.mark.parametrize("gain", GAINS.values(), ids=GAINS)
def test_both_planar_forms_have_the_same_bits(rng, gain, monkeypatch):
    hessian, v, x = planar_problem(rng)
    compiled = planar_parts(hessian, gain, v, x)
    monkeypatch.setattr(compiler, "available", lambda: False)
    for a, b in zip(compiled, planar_parts(hessian, gain, v, x), strict=True):
        assert np.array_equal(np.isnan(a), np.isnan(b))
        assert same_bits(np.nan_to_num(a), np.nan_to_num(b))


def test_planar_eigenvalues_are_right_to_three_ulp_of_the_larger(rng):
    hessian, v, x = planar_problem(rng)
    lams = planar_parts(hessian, GAINS["SFN"], v, x)[0]
    exact = np.array([planar_exact(h) for h in hessian]).T
    assert (np.abs(lams - exact) <= 3 * 2.0**-52 * np.abs(exact).max(axis=0)).all()


def planar_exact(h):
    import mpmath

    with mpmath.workdps(60):
        a, b, c = (mpmath.mpf(float(t)) for t in (h[0, 0], h[0, 1], h[1, 1]))
        r = mpmath.sqrt(((a - c) / 2) ** 2 + b**2)
        return float((a + c) / 2 + r), float((a + c) / 2 - r)


def test_a_planar_step_is_that_of_eigh(rng):
    hessian, v, x = planar_problem(rng)
    out = planar_parts(hessian, GAINS["SFN"], v, x)[2]
    assert np.abs((out - x).T - by_eigh(hessian, v.T, GAINS["SFN"])).max() < 1e-13


@pytest.mark.parametrize("compiled", [True, False])
def test_a_planar_hessian_that_is_not_finite_gives_nan_for_its_path_only(rng, compiled, monkeypatch):
    monkeypatch.setattr(compiler, "available", lambda: compiled)
    hessian, v, x = planar_problem(rng)
    clean = planar_parts(hessian, GAINS["SFN"], v, x)[2]
    bad = []
    for path, value in ((3, np.nan), (250, np.inf), (400, -np.inf)):
        for shift, entries in enumerate(([(0, 0)], [(0, 1), (1, 0)], [(1, 1)], [(0, 0), (1, 1)])):
            bad.append(path + shift)
            for entry in entries:
                hessian[path + shift][entry] = value
    out = planar_parts(hessian, GAINS["SFN"], v, x)[2]
    good = np.setdiff1d(np.arange(600), bad)
    assert np.isnan(out[:, bad]).all()
    assert same_bits(out[:, good], clean[:, good])


# --- 3 <= d ---------------------------------------------------------------------------------------


def by_eigh(hessian, v, gain):
    values, vectors = np.linalg.eigh(hessian)
    return np.einsum("bij,bj->bi", vectors, gain(values) * np.einsum("bji,bj->bi", vectors, v))


def with_eigenvalues(rng, lams):
    """Symmetric matrices with these eigenvalues (B, d), their eigenvectors, and a vector each."""
    b, d = lams.shape
    q = np.linalg.qr(rng.standard_normal((b, d, d)))[0]
    h = (q * lams[:, None, :]) @ q.transpose(0, 2, 1)
    return (h + h.transpose(0, 2, 1)) / 2, q, rng.standard_normal((b, d))


SPECTRA = {
    "random": lambda rng, b, d: rng.standard_normal((b, d)),
    "clustered": lambda rng, b, d: 1 + 1e-9 * rng.standard_normal((b, d)),
    "two clusters": lambda rng, b, d: (
        np.where(np.arange(d) < d / 2, -1.0, 2.0) + 1e-14 * rng.standard_normal((b, d))
    ),
    "repeated": lambda rng, b, d: np.broadcast_to(np.where(np.arange(d) % 3, 1.5, -0.5), (b, d)),
    "zero": lambda rng, b, d: np.zeros((b, d)),
    "singular": lambda rng, b, d: np.broadcast_to(np.where(np.arange(d) < 2, 2.0, 0.0), (b, d)),
    "graded": lambda rng, b, d: np.broadcast_to(10.0 ** -(2.0 * np.arange(d)), (b, d)),
}


@pytest.mark.parametrize("d", [2, 3, 4, 8, 13, 24])
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_sfn_steps_match_the_chosen_eigenvalues_to_lapacks_accuracy(rng, spectrum, d):
    lams = np.array(SPECTRA[spectrum](rng, 21, d))
    h, q, v = with_eigenvalues(rng, lams)
    gain = GAINS["SFN"]
    exact = np.einsum("bij,bj->bi", q, gain(lams) * np.einsum("bji,bj->bi", q, v))
    # |P(H + E) - P(H)| <= |E| / damping^2 up to a factor log d; |E| is d ulp here.
    bound = 1e-15 * d * np.linalg.norm(v, axis=1) * (1 + np.abs(lams).max()) / 0.3**2
    assert (np.abs(_fast.spectral_apply(h, v, gain) - exact).max(axis=1) <= bound).all()
    assert (np.abs(_fast.spectral_apply(h, v, gain) - by_eigh(h, v, gain)).max(axis=1) <= bound).all()


@pytest.mark.parametrize("d", [3, 8, 16])
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_eigenvalues_and_the_decomposition_are_right_relative_to_the_norm(rng, spectrum, d):
    lams = np.array(SPECTRA[spectrum](rng, 30, d))
    h, _, v = with_eigenvalues(rng, lams)
    work = _fast.Tridiagonal(d)
    found, y = work.forward(h, v)
    norm = np.abs(lams).max()
    assert np.abs(np.sort(found, axis=1) - np.sort(lams, axis=1)).max() <= 1e-15 * d * norm
    assert np.abs(np.linalg.norm(y, axis=1) / np.linalg.norm(v, axis=1) - 1).max() < 1e-14
    found = found.copy()
    assert np.abs(work.backward(y) - v).max() < 2e-14  # Q Q^T v
    assert (
        np.abs(work.backward(found * y) - np.einsum("bij,bj->bi", h, v)).max() <= 3e-15 * d * norm
    )  # Q L Q^T v


@pytest.mark.parametrize("name", GAINS)
@pytest.mark.parametrize("d", [3, 8])
def test_every_methods_step_is_that_of_eigh(rng, name, d):
    lams = rng.uniform(0.5, 2, (60, d)) * np.where(rng.random((60, d)) < 0.5, -1, 1)
    h, _, v = with_eigenvalues(rng, lams)
    assert np.abs(_fast.spectral_apply(h, v, GAINS[name]) - by_eigh(h, v, GAINS[name])).max() < 1e-12


@pytest.mark.parametrize("scale", [1e-300, 1e-150, 1e150, 1e300])
def test_a_tiny_or_huge_matrix_keeps_all_its_digits(rng, scale):
    h, _, v = with_eigenvalues(rng, rng.standard_normal((20, 8)))
    work = _fast.Tridiagonal(8)
    unit = work.forward(h, v)[0].copy()
    assert np.abs(work.forward(h * scale, v)[0] / scale - unit).max() < 1e-14


def test_a_badly_scaled_matrix_is_right_relative_to_its_norm(rng):
    sizes = 10.0 ** rng.uniform(-300, 0, (40, 6))
    sizes[:10] = 10.0 ** np.array([0, 0, -8, -100, -200, -200])  # ends in a block whose squares underflow
    h = rng.standard_normal((40, 6, 6))
    h = (h + h.transpose(0, 2, 1)) * np.sqrt(sizes[:, :, None] * sizes[:, None, :])
    found = _fast.Tridiagonal(6).forward(h, np.ones((40, 6)))[0]
    exact = np.linalg.eigvalsh(h)
    assert (np.abs(np.sort(found, axis=1) - exact).max(axis=1) <= 1e-14 * np.abs(exact).max(axis=1)).all()


def test_a_diagonal_matrix_is_exact(rng):
    lams, v = rng.standard_normal((30, 5)), rng.standard_normal((30, 5))
    work = _fast.Tridiagonal(5)
    found, y = work.forward(lams[:, :, None] * np.eye(5), v)
    assert same_bits(found, lams)
    assert same_bits(y, v)


def test_what_is_not_finite_or_does_not_converge_is_nan_for_its_path_only(rng):
    h, _, v = with_eigenvalues(rng, rng.standard_normal((40, 6)))
    clean = _fast.spectral_apply(h, v, GAINS["SFN"])
    h[3, 2, 2], h[9, 5, 0], h[10, 1, 0], v[20, 4] = np.nan, np.inf, -np.inf, np.nan
    found = _fast.spectral_apply(h, v, GAINS["SFN"])
    bad = [3, 9, 10, 20]
    assert np.isnan(found[bad]).all()
    assert same_bits(np.delete(found, bad, axis=0), np.delete(clean, bad, axis=0))


def test_the_sweeps_are_capped_path_by_path(rng):
    h, _, v = with_eigenvalues(rng, rng.standard_normal((16, 8)))
    h[::2] = np.diag(np.arange(8.0))
    work = _fast.Tridiagonal(8)
    work._ranges = work._ranges[:, :3].copy()  # room for two sweeps
    lams, y = work.forward(h, v)
    assert np.isnan(lams[1::2]).all()
    assert np.isnan(y[1::2]).all()
    assert same_bits(lams[::2], np.tile(np.arange(8.0), (8, 1)))


@pytest.mark.parametrize("d", [3, 8])
def test_a_paths_numbers_depend_on_neither_place_nor_neighbors_nor_sub_blocks(rng, d):
    h, _, v = with_eigenvalues(rng, rng.standard_normal((150, d)) * 10.0 ** rng.uniform(-3, 3, (150, 1)))
    whole = _fast.spectral_apply(h, v, GAINS["SFN"])
    order = rng.permutation(150)
    assert same_bits(_fast.spectral_apply(h[order], v[order], GAINS["SFN"]), whole[order])
    assert same_bits(_fast.spectral_apply(h, v, GAINS["SFN"], _fast.Tridiagonal(d, 19)), whole)


def test_strides_and_readonly_arrays_and_the_upper_triangle_do_not_matter(rng):
    h, _, v = with_eigenvalues(rng, rng.standard_normal((10, 5)))
    whole = _fast.spectral_apply(h, v, GAINS["SFN"])
    planes, rows = np.empty((5, 5, 20)), np.empty((5, 20))
    planes[..., ::2], rows[..., ::2] = h.transpose(1, 2, 0), v.T
    planes[np.triu_indices(5, 1)] = np.nan  # never read
    planes.flags.writeable = rows.flags.writeable = False
    assert same_bits(
        _fast.spectral_apply(planes[..., ::2].transpose(2, 0, 1), rows[..., ::2].T, GAINS["SFN"]), whole
    )


def test_two_threads_precondition_as_one_does(rng):
    problems = [with_eigenvalues(rng, rng.standard_normal((200, 6))) for _ in range(6)]
    alone = [_fast.spectral_apply(h, v, GAINS["SFN"]) for h, _, v in problems]
    with ThreadPoolExecutor(2) as pool:
        shared = list(pool.map(lambda p: _fast.spectral_apply(p[0], p[2], GAINS["SFN"]), problems))
    assert all(same_bits(a, b) for a, b in zip(alone, shared, strict=True))


def test_misuse_is_named():
    with pytest.raises(ValueError, match=r"`dim` must be in 2\.\.64; got 65"):
        _fast.Tridiagonal(65)
    work = _fast.Tridiagonal(3, 4)
    with pytest.raises(ValueError, match=r"`hessian` must be at most \(4, 3, 3\)"):
        work.forward(np.zeros((5, 3, 3)), np.zeros((5, 3)))
    with pytest.raises(ValueError, match=r"`hessian` must be at most \(4, 3, 3\)"):
        work.forward(np.zeros((4, 3, 2)), np.zeros((4, 3)))
    with pytest.raises(ValueError, match=r"`y` must be at most \(4, 3\)"):
        work.backward(np.zeros((5, 3)))


# --- Installation ---------------------------------------------------------------------------------


def test_importing_the_package_imports_no_numba():
    code = "import sys, stability._fast; print('numba' in sys.modules)"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "False"
    )


def test_a_cache_that_cannot_be_written_only_costs_the_next_compilation(monkeypatch):
    import numba

    asked = []

    def njit(*arguments, cache, **options):
        asked.append(cache)
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: function

    monkeypatch.setattr(numba, "njit", njit)
    step = planar._planar_step
    assert compiler._compiled.__wrapped__(step, planar.KERNELS[step], None) is step
    assert asked == [True, False]


def kernels():
    for function, types in (normals.KERNELS | planar.KERNELS).items():
        yield compiler.kernel(function, types)
    for function, types in tridiagonal.KERNELS.items():
        yield compiler.kernel(function, types, tridiagonal._register)
    for function, types in programs.KERNELS.items():
        yield compiler.kernel(function, types, programs._register)


def test_no_call_compiles_a_second_form():
    assert all(len(kernel.signatures) == 1 and not kernel._can_compile for kernel in kernels())


def test_kernels_release_the_lock_and_neither_fuse_nor_start_threads():
    for options in (kernel.targetoptions for kernel in kernels()):
        assert options["nogil"]
        assert not options["fastmath"]
        assert not options.get("parallel")


def test_only_the_tridiagonal_kernels_register_their_instructions():
    code = """
import numpy as np
from stability import _fast
from stability._fast import lanes
_fast.fill(np.random.Generator(np.random.SFC64(0)), np.empty(8))
_fast.affine_planar(np.zeros((1, 2, 3)), np.zeros((2, 3)), np.eye(2), np.zeros(2))
print(lanes.register.cache_info().currsize)
_fast.spectral_apply(np.eye(3)[None], np.ones((1, 3)), abs)
print(lanes.register.cache_info().currsize)
"""
    assert subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split() == ["0", "1"]
