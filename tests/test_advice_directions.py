"""Directions in blocks are the columns of one matrix, and are never put together."""

import numpy as np
import pytest

from stability._array import Backend
from stability.advice import directions
from stability.advice.directions import Directions

HOST = Backend("numpy", np)


@pytest.fixture(params=[3, 10_000])
def blocks(request, monkeypatch):
    """Orthonormal, five columns in three blocks; what is worked on at a time is a part, or all."""
    monkeypatch.setattr(directions, "PIECE", request.param)
    Q = np.linalg.qr(np.random.default_rng(0).normal(size=(40, 5)))[0]
    return Q, Directions(HOST, [Q[:, :2], Q[:, 2:3], Q[:, 3:]])


def test_columns_across_blocks_are_the_matrixs(blocks):
    Q, V = blocks
    assert V.shape == (40, 5)
    for at in (slice(None), slice(1, 4), slice(2, 3), slice(4, 9), 0, 3):
        np.testing.assert_array_equal(V[:, at], Q[:, at])
    twice = V.scaled(lambda columns: 2 * columns)
    np.testing.assert_array_equal(twice[:, 1:], 2 * Q[:, 1:])


def test_what_lies_along_them_is_taken_away(blocks):
    Q, V = blocks
    W = np.random.default_rng(1).normal(size=(40, 3))
    kept = W.copy()
    np.testing.assert_allclose(V.off(W), W - Q @ (Q.T @ W), atol=1e-14)
    np.testing.assert_array_equal(W, kept)
    assert V.off(W, fresh=True) is W
    assert np.abs(Q.T @ W).max() < 1e-14


def test_products_with_small_matrices(blocks):
    Q, V = blocks
    A = np.random.default_rng(2).normal(size=(40, 40))
    A = A + A.T
    np.testing.assert_allclose(V.gram(lambda v: A @ v), Q.T @ A @ Q, atol=1e-13)
    weights = np.arange(10.0).reshape(5, 2)
    np.testing.assert_allclose(V.combined(weights), Q @ weights, atol=1e-13)
    more = V.joined(np.ones((40, 1)))
    assert more.shape == (40, 6)
    assert V.shape == (40, 5)
