"""The eigensolvers: each is a way to choose the space of a small eigenproblem."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from .operator import Operator, Space, check_symmetric
from .orthogonal import combined, couplings
from .result import LowRank

BLOCKS = 5  # of a Krylov basis of twice the rank
FRESH = 5  # columns beside the previous vectors in a warm start
STARTS = 3  # of ARPACK, before it is believed that it cannot
CONVERGED = 0.05
"""Largest residual, beside its eigenvalue, of a pair that counts as found."""
LEAK = 0.4
"""Share of the previous vectors' image that may lie off them; along a training path it is 0.1 to 0.25."""


def by_size(core: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues of a small symmetric matrix by decreasing absolute value, and their vectors."""
    values, vectors = np.linalg.eigh(0.5 * (core + core.T))
    order = np.argsort(-np.abs(values), kind="stable")
    return values[order], vectors[:, order]


def _spread(cores: np.ndarray, weights: np.ndarray) -> np.ndarray | None:
    """Standard deviation over the sub-batches of the Rayleigh quotients of the columns ``Q weights``."""
    if len(cores) == 1:
        return None
    return np.stack([np.sum(weights * (core @ weights), axis=0) for core in cores]).std(axis=0, ddof=1)


def _status(values: np.ndarray, residual: np.ndarray, dtype: str, *notes: str, allowed: float = 0.0) -> str:
    """What was found on the way, the numerical rank and pairs that have not converged included.

    A pair has where its residual is below a share of its eigenvalue, or below `allowed`.
    """
    sizes = np.abs(values)
    seen = sizes > 100 * np.finfo(dtype).eps * np.max(sizes, initial=0.0)
    rank = f"numerical rank {seen.sum()} < {len(values)}" if not seen.all() else ""
    far = seen & (residual > np.maximum(CONVERGED * sizes, allowed))
    worst = np.max(residual[far] / sizes[far], initial=0.0)
    apart = (
        f"{far.sum()} of {len(values)} pairs have not converged: residuals up to {worst:.2g} of the "
        "eigenvalue"
        if far.any()
        else ""
    )
    return "; ".join(note for note in (*notes, apart, rank) if note) or "ok"


def _saturated(values: np.ndarray, residual: np.ndarray, dtype: str, width: int) -> str:
    """A note where an eigenvalue was found as often as it can be from a start block of this width.

    A Krylov space holds no more than `width` vectors of one eigenvalue, however often H has it; no residual
    tells. Of the last eigenvalue nothing more was asked.
    """
    sizes = np.abs(values)
    rounding = np.finfo(dtype).eps ** 0.5 * np.max(sizes, initial=0.0)
    found = (residual <= CONVERGED * sizes) & (sizes > rounding)
    apart = 2 * (residual[:, None] + residual) + rounding  # what lies nearer is not told apart
    copies = ((np.abs(values[:, None] - values) <= apart) & found).sum(axis=1)
    followed = (sizes < sizes[:, None] - apart).any(axis=1)
    most = int(np.max(copies[found & followed], initial=0))
    if most < width:
        return ""
    return f"an eigenvalue was found {most} times, as often as a block is wide: there may be more of it"


def ritz(
    space: Space, rank: int, method: str, *notes: str, width: int | None = None, allowed: float = 0.0
) -> LowRank:
    """The leading pairs of the core: eigenvalues, vectors, residuals, spread.

    `width` is that of the block that a Krylov space started with.
    """
    operator, dtype = space.operator, space.operator.backend.dtype
    values, turn = by_size(space.core)
    kept = turn[:, :rank]
    squares = [np.sum(kept[columns] * (gram @ kept[columns]), axis=0) for columns, gram in space.loose]
    # A bound by the triangle inequality where several blocks were left; exact where one was.
    residual = sum((np.sqrt(np.maximum(square, 0.0)) for square in squares), np.zeros(rank))
    residual = np.maximum(residual, _rounding(values, dtype))
    following = float(values[rank]) if len(values) > rank else (0.0 if rank == operator.n else math.nan)
    spread = _spread(space.cores[:, : space.filled, : space.filled], kept)
    vectors = combined(space.basis, kept, operator.backend).T
    values = values[:rank]
    more = "" if width is None else _saturated(values, residual, dtype, width)
    status = _status(values, residual, dtype, *notes, more, allowed=allowed)
    return LowRank(values, vectors, operator.columns, residual, spread, following, method, status)


def projected(operator: Operator, rows: Any, method: str) -> LowRank:
    """H projected onto the span of rows (rank, n): as many products, for residuals and spread."""
    space = Space(operator, rows.shape[0])
    space.leave(space.extend(operator.orthonormal(rows)[0]))
    return ritz(space, rows.shape[0], method)


def _rounding(values: np.ndarray, dtype: str) -> float:
    """What no residual can be known below: the products' own rounding, at least."""
    return float(np.finfo(dtype).eps * np.max(np.abs(values), initial=0.0))


def exact(operator: Operator, rank: int, tolerance: float | None = None) -> LowRank:
    """All of H, in n products."""
    space = Space(operator, operator.n)
    space.extend(operator.backend.asarray(np.eye(operator.n)))
    if tolerance is None:
        return ritz(space, rank, "exact")
    return _above(space, rank, tolerance, "exact", sure=True)


def _above(space: Space, rank: int, tolerance: float, method: str, *, sure: bool) -> LowRank:
    """The pairs beyond the tolerance, and a note where these may not be all.

    `sure` says that nothing beyond it lies off the basis.
    """
    large = int(np.count_nonzero(np.abs(np.linalg.eigvalsh(space.core)) > tolerance * _largest(space)))
    short = f"reached with {rank}" if large >= rank else f"confirmed within {space.operator.columns} products"
    note = "" if sure and large <= rank else f"tolerance {tolerance:g} not {short}"
    allowed = math.inf if note else tolerance * _largest(space)
    return ritz(space, min(max(large, 1), rank), method, note, allowed=allowed)


def block_krylov(operator: Operator, rank: int, start: Any = None) -> LowRank:
    """Five blocks, each the image of the one before; all are kept.

    Smaller blocks would reach higher powers of H with the same products, but eigenvalues are only found with
    as many vectors as a block has: two fifths of the rank is the best of both.
    """
    size = 2 * rank
    width = max(-(-size // BLOCKS), min(rank, 2))
    # The first block is the narrower one, so that every image but the last is in the span.
    first = size % width or width
    seed = operator.filled(start, width)
    space = Space(operator, size)
    block, factor = operator.orthonormal(seed[:first, :])[0], None
    while True:
        image = space.extend(block, factor)
        if space.filled == size:
            break
        fill = seed[first:, :] if image.shape[0] < width else None
        block, factor = space.next_block(image, fill)
    space.leave(image)
    return ritz(space, rank, "block-krylov", width=width)


def grown(operator: Operator, rank: int, tolerance: float, start: Any = None) -> LowRank:
    """Chains of four Krylov blocks from fresh random ones, until H is small on what one leads to.

    The second block of a chain is the image of fresh test vectors off the basis, where the approximation is
    zero: what H makes of it is the error of the approximation after one power step, at no products beyond
    those of the chain. A last chain without room for that step still has the error's Frobenius norm from the
    test vectors themselves, which is no less. A `start` comes first, in a chain that is not tested: where its
    image lies within it, nothing new is led to.
    """
    size = 2 * rank
    width = min(max(8, -(-rank // 6)), -(-rank // 2))
    space, reached = Space(operator, size), False
    settled = start is None or _begun(space, start[:, :rank].T, tolerance, spare=2 * width)
    while space.filled < size and not reached:
        off = operator.n - space.filled
        fresh = operator.filled(None, min(width, size - space.filled))
        block, factor = operator.orthonormal(fresh, space.basis)[0], None
        for step in range(4):
            image = space.extend(block, factor)
            over = step == 3 or space.filled + block.shape[0] > size
            if step == 1 or (step == 0 and over):
                squares = np.linalg.eigvalsh(operator.squares(image))
                # Of random unit vectors in `off` dimensions the mean of |H x|^2 is |H|_F^2 / off.
                square = squares[-1] if step == 1 else off * squares.mean()
                reached = math.sqrt(max(square, 0.0)) <= tolerance * _largest(space)
            if reached or over:
                break
            block, factor = space.next_block(image)
        space.leave(image)
    return _above(space, rank, tolerance, "block-krylov", sure=reached and settled)


def _begun(space: Space, rows: Any, tolerance: float, *, spare: int) -> bool:
    """Begin with these rows and up to three blocks of what their images have off the basis.

    Only what is beyond the tolerance is followed; False where room ran out first.
    """
    operator = space.operator
    block, expected, all_followed = operator.orthonormal(rows)[0], None, True
    for step in range(4):
        image = space.extend(block, expected)
        width, whole = block.shape[0], operator.squares(image)
        along = space.last_couplings(width)
        squares = np.linalg.eigvalsh(whole - along.T @ along)  # of what lies off the basis
        beyond = int(np.count_nonzero(squares > (tolerance * _largest(space)) ** 2))
        more = min(beyond, max(space.size - space.filled - spare, 0))
        if step == 3:
            break
        all_followed &= more == beyond
        if more == 0:
            break
        block, expected = _following(space, image, whole, more)
        space.loose.append(
            (slice(space.filled - width, space.filled), whole - along.T @ along - expected.T @ expected)
        )
    space.leave(image)
    return all_followed


def _largest(space: Space) -> float:
    return float(np.max(np.abs(np.linalg.eigvalsh(space.core))))


def double_pass(operator: Operator, rank: int, oversampling: int, power: int, start: Any = None) -> LowRank:
    """Q spans the image of a random block (after `power` further products); H is then projected onto it."""
    width = rank + oversampling
    probe = block = operator.filled(start, width)
    factor = np.zeros((0, 0))
    for _ in range(power + 1):
        # A view would keep the whole block alive.
        probe = operator.backend.xp.asarray(block[:2, :], copy=True)
        block, factor = operator.orthonormal(operator.image(block, block[:0, :])[0])
    space = Space(operator, width)
    image = space.extend(block)
    del block
    # With HX = Q R known from before, X^T (H Q) must be R^T: a test of symmetry at no product.
    pair = couplings(probe, image, operator.backend), factor[:, : probe.shape[0]].T
    check_symmetric([pair], space.core, operator.unit)
    space.leave(image)
    return ritz(space, rank, "double-pass")


def _beside(operator: Operator, start: Any, rank: int, width: int) -> Any:
    """Orthonormal rows: the leading vectors of `start`, and random ones off them.

    A LowRank's vectors are orthonormal as they are.
    """
    if not isinstance(start, LowRank):
        return operator.orthonormal(operator.filled(None if start is None else start[:, :rank], width))[0]
    known = start.vectors[:, :rank].T
    if known.shape[0] == width:
        return known
    fresh = operator.orthonormal(operator.filled(None, width - known.shape[0]), known)[0]
    return operator.backend.xp.concat([known, fresh], axis=0)


def nystrom(operator: Operator, rank: int, width: int, start: Any = None, *, residuals: bool) -> LowRank:
    """One pass over a block of this width, see `_single_pass`; then another over the vectors found.

    Without the second pass nothing is known of the pairs: the nearest multiplied vectors are random ones.
    """
    space = Space(operator, width)
    image = space.extend(_beside(operator, start, min(rank, width), width))
    found = _single_pass(space, image, operator.squares(image), rank, informed=start is not None)
    if residuals:
        return projected(operator, found.vectors.T, "nystrom")
    return replace(found, residual=np.full(rank, np.nan), std=None, status="residuals not computed")


def _single_pass(space: Space, image: Any, whole: np.ndarray, rank: int, *, informed: bool) -> LowRank:
    """``Y f(C_r) Y.T`` from the image Y of an orthonormal block P and the core ``C = P.T Y``.

    The core is cut to the rank; `whole` is the image's Gram matrix.

    Nystrom's f is ``1 / theta``. The core of an indefinite operator may have eigenvalues near zero where Y is
    not small: uncut, the approximation reaches many times the norm of H, and a cut does not always help.
    """
    operator, backend = space.operator, space.operator.backend
    space.rows = None  # all that follows is in its core and in the image
    theta, kept, off = _cut(space.core, whole, rank)
    sketch, factor = operator.orthonormal(combined(image, kept, backend))
    bound = 2 * math.sqrt(operator.n / space.filled * max(np.linalg.eigvalsh(whole)[-1], 0.0))
    inverse = _inverse(theta, off if informed else np.zeros(rank), backend.dtype)
    values, rotation = by_size((factor * inverse) @ factor.T)
    values = np.clip(values, -bound, bound)  # |H| as a random block's share of it shows it, twice over
    # Y.T U = P.T H U is about P.T U lambda: the directions of P nearest to the vectors found.
    nearest = kept @ (factor.T @ rotation)
    nearest /= np.maximum(np.linalg.norm(nearest, axis=0), np.finfo(float).tiny)
    quotient = np.sum(nearest * (space.core @ nearest), axis=0)
    residual = np.sqrt(np.maximum(np.sum(nearest * (whole @ nearest), axis=0) - quotient**2, 0.0))
    # An eigenvalue lies within the residual of the quotient, and so near to the value given.
    residual = np.maximum(residual + np.abs(values - quotient), _rounding(values, backend.dtype))
    vectors = combined(sketch, rotation, backend).T
    return LowRank(
        values,
        vectors,
        operator.columns,
        residual,
        _spread(space.cores, nearest),
        math.nan,
        "nystrom",
        _status(values, residual, backend.dtype),
    )


def _cut(core: np.ndarray, whole: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The leading pairs of a block's core, and how much of their images lies off the block, squared."""
    theta, turn = by_size(core)
    theta, kept = theta[:rank], turn[:, :rank]
    return theta, kept, np.maximum(np.sum(kept * (whole @ kept), axis=0) - theta**2, 0.0)


def _inverse(theta: np.ndarray, off: np.ndarray, dtype: str) -> np.ndarray:
    """``1 / theta``, and less where much of the image lies off the block.

    A column with image ``theta`` on P and ``rho`` off it gets the eigenvalue ``(theta^2 + rho^2) f``. With
    ``f = theta^3 / (theta^4 + rho^4)`` that is Nystrom's to fourth order in ``rho / theta``, and at most 1.21
    theta.
    """
    negligible = np.abs(theta) <= np.finfo(dtype).eps * np.max(np.abs(theta))
    safe = np.where(negligible, 1.0, theta)
    return np.where(negligible, 0.0, 1.0 / (safe * (1.0 + (off / safe**2) ** 2)))


def warm(operator: Operator, rank: int, start: Any, oversampling: int) -> LowRank:
    """Nystrom on the previous vectors and fresh ones, with a second block where these are far off.

    Along a training path both blocks together are as accurate as a cold start that costs as much, ``2 rank``
    products; from vectors that tell nothing, little worse than a double pass.
    """
    width = rank + oversampling
    space = Space(operator, width)
    image = space.extend(_beside(operator, start, rank, width))
    whole = operator.squares(image)
    theta, _, off = _cut(space.core, whole, rank)
    leak = math.sqrt(np.sum(off) / max(np.sum(off + theta**2), np.finfo(float).tiny))
    if leak <= LEAK:
        return replace(_single_pass(space, image, whole, rank, informed=True), method="warm")
    more = min(max(2 * rank - width, -(-rank // 2)), operator.n - width)
    block, along = _following(space, image, whole, more)
    # The image's squares, less what lies on its own block and on the one that follows.
    space.loose.append((slice(0, width), whole - space.core @ space.core - along.T @ along))
    del image  # room for what follows
    space.make_room(more)
    space.leave(space.extend(block, along))
    found = ritz(space, rank, "warm")
    note = f"{leak:.0%} of the image of `start` lies off it: a second block was added"
    return replace(found, status=note if found.status == "ok" else f"{note}; {found.status}")


def _following(space: Space, image: Any, whole: np.ndarray, width: int) -> tuple[Any, np.ndarray]:
    """Orthonormal leading directions of the last image off the basis, and their couplings with it."""
    backend, along = space.operator.backend, space.last_couplings(image.shape[0])
    leading = np.linalg.eigh(whole - along.T @ along)[1][:, ::-1][:, :width]
    block, _ = space.operator.orthonormal(combined(image, leading, backend), space.basis, along @ leading)
    return block, couplings(block, image, backend)


def lanczos(operator: Operator, rank: int) -> LowRank:
    """SciPy's `eigsh`, one column at a time on the host.

    From one start vector one copy of a multiple eigenvalue is found, the others by rounding or not at all:
    what it leaves is searched once more, until nothing larger is off the vectors. They are multiplied again
    in the end, for residuals and spread.
    """
    values, vectors = _largest_pairs(operator, rank, np.zeros((operator.n, 0)))
    if not values.size:  # the operator is zero
        return projected(operator, operator.normals((rank, operator.n)), "eigsh")
    eps = float(np.finfo(operator.backend.dtype).eps)
    for _ in range(rank):
        # What counts as missed: larger than the least that was found,
        # beyond ARPACK's accuracy and the rounding of the largest.
        least = max(np.abs(values).min() * (1 + 10 * eps**0.5), 100 * eps * np.abs(values).max())
        if not (np.abs(_largest_pairs(operator, 1, vectors, tolerance=0.01)[0]) > least).any():
            break
        missed, direction = _largest_pairs(operator, 1, vectors)
        order = np.argsort(-np.abs(np.append(values, missed)), kind="stable")[:rank]
        values, vectors = np.append(values, missed)[order], np.column_stack([vectors, direction])[:, order]
    return projected(operator, operator.backend.asarray(vectors.T), "eigsh")


def _largest_pairs(
    operator: Operator, count: int, off: np.ndarray, tolerance: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """ARPACK's pairs (count,), (n, count) of H off the orthonormal columns `off`; none where H is zero there.

    The values are in units of their own, those of the operator's first image.
    """
    from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

    backend, n = operator.backend, operator.n
    nothing = backend.asarray(np.zeros((0, n)))
    scale = 0.0  # ARPACK takes eigenvalues far below one for converged too early

    def outside(column: np.ndarray) -> np.ndarray:
        return column - off @ (off.T @ column)

    def product(column: np.ndarray) -> np.ndarray:
        nonlocal scale
        image = operator.image(backend.asarray(outside(column).reshape(1, n)), nothing)[0]
        answer = outside(np.asarray(backend.host(image), dtype=float)[0])
        scale = scale or 2.0 ** -np.frexp(np.max(np.abs(answer)))[1] * bool(answer.any())
        return answer * scale if scale else answer

    matrix = LinearOperator((n, n), matvec=product, dtype=float)
    for left in reversed(range(STARTS)):
        first = outside(np.asarray(backend.host(operator.normals((1, n))), dtype=float)[0])
        try:
            values, vectors = eigsh(matrix, k=count, which="LM", v0=first, tol=tolerance)
        except ArpackError:
            # Off the columns the operator may be zero, where ARPACK has nothing to iterate on: no error.
            if off.size or not scale:
                break
            # Of an operator of lower rank than asked for it can run out of shifts, by rounding: not from
            # every start.
            if not left:
                raise
        else:
            return values / (scale or 1.0), vectors
    return np.zeros(0), np.zeros((n, 0))
