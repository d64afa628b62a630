"""What networks are made of: smooth activations, losses, and Hessian products of one pass over the data."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from .._array import namespace, transpose

HOST_NUMBERS, DEVICE_NUMBERS = 2**19, 2**26  # of a tile, in one intermediate array
PIECE = 1024


class Activation(NamedTuple):
    """A smooth function of ``z``, its slope by ``z`` and the value ``a``, its bend by these and the slope."""

    value: Callable[[Any], Any]
    slope: Callable[[Any, Any], Any]
    bend: Callable[[Any, Any, Any], Any]


def _tanh(z: Any) -> Any:
    return namespace(z).tanh(z)


def _sigmoid(z: Any) -> Any:
    xp = namespace(z)
    size = xp.abs(z)
    # e^min(z, 0) / (1 + e^-|z|): without overflow, and not lost to rounding where it is small.
    return xp.exp(0.5 * (z - size)) / (1 + xp.exp(-size))


def _softplus(z: Any) -> Any:
    xp = namespace(z)
    size = xp.abs(z)
    # log(1 + e^z) = max(z, 0) + log(1 + e^-|z|): no exponential overflows.
    return xp.log1p(xp.exp(-size)) + 0.5 * (z + size)


def _silu_slope(z: Any, a: Any) -> Any:
    p = _sigmoid(z)
    return p + a * (1 - p)


def _silu_bend(z: Any, a: Any, s: Any) -> Any:
    p = _sigmoid(z)
    # (z p)'' for p' = p (1 - p).
    return p * (1 - p) * (2 + z * (1 - 2 * p))


ACTIVATIONS = {
    "tanh": Activation(_tanh, lambda z, a: 1 - a * a, lambda z, a, s: -2 * a * s),
    "sigmoid": Activation(_sigmoid, lambda z, a: a * (1 - a), lambda z, a, s: s * (1 - 2 * a)),
    "softplus": Activation(_softplus, lambda z, a: _sigmoid(z), lambda z, a, s: s * (1 - s)),
    "silu": Activation(lambda z: z * _sigmoid(z), _silu_slope, _silu_bend),
}


class Errors(NamedTuple):
    """A sample's loss at the outputs: its value (..., b), its gradient (..., b, m), its Hessian as a map.

    The map, which `curvature` prepares, takes and gives arrays such as the gradient, and may overwrite what
    it is given.
    """

    losses: Callable[[], Any]
    slopes: Any
    curvature: Callable[[], Callable[[Any], Any]]


def cross_entropy(z: Any, labels: Any) -> Errors:
    """``log sum_j exp z_j - z_label`` and its derivatives, to relative rounding however small the loss.

    A fitted label's probability is 1 within rounding, and what is subtracted from it would be lost. So its
    slope is minus the sum of the others', and the curvature acts on directions as they differ from the most
    probable class's.
    """
    xp = namespace(z)
    width = z.shape[-1]
    chosen = xp.astype(labels[..., None] == xp.arange(width, device=z.device), z.dtype)
    one = xp.ones((width, 1), dtype=z.dtype, device=z.device)  # a product sums few numbers faster than a sum
    z = z - xp.max(z, axis=-1, keepdims=True)
    exponentials = xp.exp(z)
    picked = chosen * exponentials
    others = exponentials - picked
    own, rest = picked @ one, others @ one
    total = own + rest

    def losses() -> Any:
        # Where the label is the most probable `own` is exactly 1: log1p keeps every digit of a small loss.
        return (xp.log1p(rest + (own - 1)) - (chosen * z) @ one)[..., 0]

    def curvature() -> Callable[[Any], Any]:
        samples, p = z.shape[0], exponentials / total
        top = xp.argmax(z, axis=-1) + width * xp.arange(samples, device=z.device)

        def curve(r: Any) -> Any:
            # diag(p) - p p^T does not see a constant added to r. Where p_top is
            # nearly 1, r_top - p . r would be all rounding; with r_top = 0 it is not.
            r -= xp.reshape(xp.take(xp.reshape(r, (-1, samples * width)), top, axis=-1), (-1, samples, 1))
            r -= _times(p * r, one)
            r *= p
            return r

        return curve

    return Errors(losses, (others - chosen * rest) / total, curvature)


def squared(z: Any, targets: Any) -> Errors:
    """``mean_j (z_j - y_j)^2 / 2``."""
    gap, share = z - targets, 1 / z.shape[-1]
    return Errors(
        lambda: (0.5 * share) * namespace(gap).sum(gap * gap, axis=-1),
        gap * share,
        lambda: lambda r: r * share,
    )


LOSSES = {"cross-entropy": cross_entropy, "squared": squared}


class Trace(NamedTuple):
    """A forward pass: the inputs of every layer, the preactivations of the hidden ones, and the outputs."""

    inputs: list[Any]
    preactivations: list[Any]
    outputs: Any


class Layer(NamedTuple):
    """Where a layer's numbers lie in the state: weights (inputs, outputs) by rows, biases (outputs,)."""

    start: int
    inputs: int
    outputs: int

    @property
    def middle(self) -> int:
        return self.start + self.inputs * self.outputs

    @property
    def stop(self) -> int:
        return self.middle + self.outputs

    def weights(self, w: Any) -> Any:
        """(..., d) -> (..., inputs, outputs)."""
        return namespace(w).reshape(
            w[..., self.start : self.middle], (*w.shape[:-1], self.inputs, self.outputs)
        )

    def affine(self, w: Any) -> Any:
        """Weights and, as their last row, biases: (..., d) -> (..., inputs + 1, outputs)."""
        return namespace(w).reshape(
            w[..., self.start : self.stop], (*w.shape[:-1], self.inputs + 1, self.outputs)
        )

    def biases(self, w: Any) -> Any:
        """(..., d) -> (..., outputs)."""
        return w[..., self.middle : self.stop]


def layers_of(sizes: tuple[int, ...]) -> tuple[Layer, ...]:
    """The layers of a network with these widths, one after the other in the state."""
    found, start = [], 0
    for inputs, outputs in pairwise(sizes):
        found.append(Layer(start, inputs, outputs))
        start = found[-1].stop
    return tuple(found)


def multiply_into(target: Any, start: int, stop: int, left: Any, right: Any) -> None:
    """``target[..., start:stop] = left @ right``, row by row; on NumPy without a copy."""
    shape = (*target.shape[:-1], left.shape[-2], right.shape[-1])
    if isinstance(target, np.ndarray):
        # Splitting the last axis of a slice makes a view: the product is written into `target` itself.
        np.matmul(left, right, out=target[..., start:stop].reshape(shape))
    else:
        target[..., start:stop] = namespace(target).reshape(left @ right, (*target.shape[:-1], stop - start))


class Linearized:
    """The Hessian of a mean loss at one state, over some rows of the data, as a map of directions (c, d).

    The pass forward and backward is done once; a product is that pass's derivative along each direction (the
    R-operator), all directions together. They lie as rows, so that a layer's part of each is a matrix where
    it is.
    """

    def __init__(
        self,
        layers: tuple[Layer, ...],
        w: Any,
        trace: Trace,
        errors: Errors,
        activation: Activation,
        share: float,
    ):
        xp = namespace(w)
        self._layers, self._curve, self._share = layers, errors.curvature(), share
        self._weights = [layer.weights(w) for layer in layers]
        one = xp.ones((trace.outputs.shape[0], 1), dtype=w.dtype, device=w.device)
        # Biases are weights of a constant input.
        self._inputs = [xp.concat([a, one], axis=-1) for a in trace.inputs]
        self._slopes: list[Any] = []
        self._bends: list[Any] = []
        self._deltas = [errors.slopes * share]
        for z, a, weights in reversed(
            list(zip(trace.preactivations, trace.inputs[1:], self._weights[1:], strict=True))
        ):
            back, slope = self._deltas[0] @ transpose(weights), activation.slope(z, a)
            self._slopes.insert(0, slope)
            self._bends.insert(0, back * activation.bend(z, a, slope))
            self._deltas.insert(0, back * slope)

    def __call__(self, directions: Any, out: Any) -> None:
        """Write the products of `directions` (c, d) into `out` (c, d)."""
        moved, tangents = self._forward(directions)
        self._backward(directions, moved, tangents, out)

    def along(self, directions: Any) -> tuple[Any, Any]:
        """Every sample's own slope (b, c) and curvatures (b, c, c) along the directions, by a pass forward.

        Second derivatives of a composition are those of its parts, each weighed with what the loss makes of
        its outputs, which the pass backward has left.
        """
        moved, tangents = self._forward(directions)
        xp = namespace(directions)

        def each(one: Any, other: Any) -> Any:
            return xp.permute_dims(one, (1, 0, 2)) @ xp.permute_dims(other, (1, 2, 0))

        slopes = xp.permute_dims(xp.sum(tangents[-1] * self._deltas[-1], axis=-1), (1, 0)) / self._share
        found = each(tangents[-1], self._curve(tangents[-1] + 0.0))
        for tangent, bend in zip(tangents[:-1], self._bends, strict=True):
            found += each(tangent, tangent * (bend / self._share))
        for layer, delta, before in zip(self._layers[1:], self._deltas[1:], moved, strict=True):
            crossed = each(delta @ transpose(layer.weights(directions)), before) / self._share
            # A weight and what comes before it move along one direction or the other: both orders are the
            # same pair.
            found += crossed + xp.permute_dims(crossed, (0, 2, 1))
        return slopes, found

    def _forward(self, directions: Any) -> tuple[list[Any], list[Any]]:
        """Derivatives, along each direction, of the inputs of layers 1, 2, ... and of all preactivations."""
        moved: list[Any] = []
        tangents: list[Any] = []
        for index, layer in enumerate(self._layers):
            tangent = self._inputs[index] @ layer.affine(directions)
            if index:
                tangent += _times(moved[-1], self._weights[index])
            tangents.append(tangent)
            if index < len(self._slopes):
                moved.append(tangent * self._slopes[index])
        return moved, tangents

    def _backward(self, directions: Any, moved: list[Any], tangents: list[Any], out: Any) -> None:
        delta = self._curve(tangents.pop())
        delta *= self._share
        for index in reversed(range(len(self._layers))):
            layer = self._layers[index]
            multiply_into(out, layer.start, layer.stop, transpose(self._inputs[index]), delta)
            if not index:  # the data do not move with the state
                return
            part = out[..., layer.start : layer.middle]
            part += namespace(out).reshape(transpose(moved.pop()) @ self._deltas[index], part.shape)
            back = _times(delta, transpose(self._weights[index]))
            back += self._deltas[index] @ transpose(layer.weights(directions))
            back *= self._slopes[index - 1]
            # R{back * slope(z)} = slope * R{back} + back * bend(z) *
            # R{z}, the last product's first factors kept as `_bends`.
            bent = tangents.pop()
            bent *= self._bends[index - 1]
            back += bent
            delta = back


def _times(stack: Any, matrix: Any) -> Any:
    """(c, b, m) @ (m, n) as one product of tall matrices."""
    xp, (count, rows, width) = namespace(stack), stack.shape
    return xp.reshape(xp.reshape(stack, (count * rows, width)) @ matrix, (count, rows, matrix.shape[-1]))


def tile(rows: int, width: int, *, on_host: bool) -> tuple[int, int]:
    """Samples and columns that go through together in a network of `width` numbers a sample after its inputs.

    On the host a tile's intermediate arrays stay within a fast cache; on a device, within its memory.
    """
    numbers = HOST_NUMBERS if on_host else DEVICE_NUMBERS
    rows = min(rows, max(256, numbers // (4 * width)))
    columns = max(4, numbers // (rows * width))
    return rows, min(columns, 16) if on_host else columns


def block_products(parts: list[Linearized], columns: int, l2: float, V: Any) -> Any:
    """The sum of some linearizations' products, and ``l2 V``, on a block (d, k), ordered as `V` is."""
    xp, (dim, count) = namespace(V), V.shape
    result = xp.empty_like(V)
    by_rows = isinstance(V, np.ndarray) and V.flags.f_contiguous
    room = (
        ()
        if by_rows
        else tuple(xp.empty((min(columns, count), dim), dtype=V.dtype, device=V.device) for _ in range(2))
    )
    for start in range(0, count, columns):
        chunk = slice(start, min(start + columns, count))
        if by_rows:
            # Columns in Fortran order are rows of the transpose,
            # as `Linearized` wants them: nothing is copied.
            _add_up(parts, l2, V[:, chunk].T, result[:, chunk].T)
            continue
        directions, out = (array[: chunk.stop - start, ...] for array in room)
        _copy(V[:, chunk], transpose(directions))
        _add_up(parts, l2, directions, out)
        _copy(transpose(out), result[:, chunk])
    return result


def _add_up(parts: list[Linearized], l2: float, directions: Any, out: Any) -> None:
    parts[0](directions, out)
    for part in parts[1:]:
        more = namespace(out).empty_like(out)
        part(directions, more)
        out += more
    if l2:
        out += l2 * directions


def _copy(source: Any, target: Any) -> None:
    """Copy a tall matrix into one of the other order, on the host in pieces that a fast cache holds."""
    height = PIECE if isinstance(target, np.ndarray) else target.shape[0]
    for start in range(0, target.shape[0], height):
        piece = slice(start, min(start + height, target.shape[0])), ...
        target[piece] = source[piece]
