"""Minibatches of sample indices: a stream of shuffled epochs, or independent draws."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._streams import stream

PARTS = 4
"""Sub-batches of a Hessian batch, whose spread is the curvature's sampling noise."""


class Batches:
    """Gradient and Hessian batches of one run, each from its own random stream.

    Parameters
    ----------
    samples : int
    batch, hessian_batch : int
        The whole of the data where equal to `samples`.
    nested : bool
        The Hessian batch is the first part of the gradient batch (of all samples: a draw of its own).
    epochs : bool
        Gradient batches walk through a new shuffle of all samples, epoch after epoch; else each is an
        independent draw.
    seed : int
    """

    def __init__(
        self, samples: int, batch: int, hessian_batch: int, *, nested: bool, epochs: bool, seed: int
    ):
        self.samples, self.batch, self.hessian_batch = samples, batch, hessian_batch
        self.nested, self.epochs = nested, epochs
        self._gradient, self._hessian = stream(seed, 0), stream(seed, 1)
        self._queue = np.zeros(0, dtype=np.int64)

    def gradient(self) -> np.ndarray | None:
        """The next gradient batch; None for all samples."""
        if self.batch == self.samples:
            return None
        if not self.epochs:
            # In random order: a nested Hessian batch is its first part.
            return self._gradient.choice(self.samples, self.batch, replace=False)
        # A batch may hold the end of one epoch and the beginning of the next.
        while len(self._queue) < self.batch:
            self._queue = np.concatenate([self._queue, self._gradient.permutation(self.samples)])
        rows, self._queue = self._queue[: self.batch], self._queue[self.batch :]
        return rows

    def hessian(self, gradient: np.ndarray | None) -> np.ndarray:
        """A Hessian batch."""
        if self.nested and gradient is not None:
            return gradient[: self.hessian_batch]
        # A stream of its own: how often curvature is renewed does not change which gradients are seen.
        return self._hessian.permutation(self.samples)[: self.hessian_batch]

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"queue": self._queue, "streams": [_packed(rng) for rng in (self._gradient, self._hessian)]}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self._queue = np.asarray(state["queue"], dtype=np.int64)
        for rng, packed in zip((self._gradient, self._hessian), state["streams"], strict=True):
            rng.bit_generator.state = _unpacked(packed)


def parts(rows: np.ndarray) -> list[np.ndarray]:
    """A Hessian batch in `PARTS` equal parts, up to three samples left out; fewer samples: one each."""
    number = min(PARTS, len(rows))
    return np.split(rows[: len(rows) // number * number], number)


def _packed(rng: np.random.Generator) -> dict[str, Any]:
    state: Any = rng.bit_generator.state
    return {**state, "state": {key: np.asarray(value).tolist() for key, value in state["state"].items()}}


def _unpacked(packed: dict[str, Any]) -> Any:
    return {
        **packed,
        "state": {key: np.asarray(value, dtype=np.uint64) for key, value in packed["state"].items()},
    }
