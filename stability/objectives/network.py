"""Networks on arrays of any library: fully connected layers, their gradients and block Hessian products."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from .. import _check
from .._array import namespace, take_rows, transpose
from ._layers import (
    ACTIVATIONS,
    LOSSES,
    Activation,
    Errors,
    Layer,
    Linearized,
    Trace,
    block_products,
    layers_of,
    multiply_into,
    tile,
)
from .base import Objective

LARGEST_HESSIAN = 5000
LEAST_CHANCE = 1e-6
"""Added to the probabilities that residuals are divided by the roots of."""


class Network(Objective):
    """A fully connected network's loss on data; see `mlp` and `autoencoder`.

    ``F(w) = (1/n) sum_i loss(z(x_i; w), y_i) + l2 |w|^2 / 2``.

    The state holds each layer's weights (inputs, outputs) row by row and then its biases, layer after layer.
    Every derivative takes ``batch=``: sample indices, shape (b,) for all states or (..., b) along with them.
    States and directions of another width than `dtype` are converted to it.

    Attributes
    ----------
    sizes : tuple of int
        Widths of the inputs, the hidden layers and the outputs.
    dim, n_samples : int
        ``d`` and ``n``.
    X : array (n, sizes[0])
    y : array (n,) of labels or (n, sizes[-1]) of targets; None where the targets are the inputs
    activation, loss : str
    l2 : float
    """

    n_samples: int

    def __init__(
        self,
        X: np.ndarray,
        y: np.ndarray | None,
        sizes: tuple[int, ...],
        *,
        activation: str,
        loss: str,
        l2: float,
    ):
        self.X, self.y = X, y
        self.sizes, self.activation, self.loss, self.l2 = sizes, activation, loss, l2
        self._layers = layers_of(sizes)
        self.dim, self.n_samples = self._layers[-1].stop, len(X)
        _check.room(f"A state of {self.dim} weights needs", self.dim, advice="Take narrower `hidden` layers.")

    @property
    def dtype(self) -> str:  # type: ignore[override]
        """``"float64"`` or ``"float32"``: of the data, and so of all arithmetic."""
        # torch says "torch.float32".
        return str(self.X.dtype).rpartition(".")[2]

    def initial(self, seed: int | np.random.Generator = 0) -> Any:
        """A state to start from, (d,); `seed` is 0 by default.

        Weights are normal with variance ``2 / (inputs + outputs)`` (Glorot), biases zero.
        """
        if not isinstance(seed, np.random.Generator):
            seed = _check.seed(seed)
        rng, w = np.random.default_rng(seed), np.zeros(self.dim)
        for layer in self._layers:
            scale = np.sqrt(2 / (layer.inputs + layer.outputs))
            w[layer.start : layer.middle] = scale * rng.standard_normal(layer.inputs * layer.outputs)
        return self._here(w)

    # --- derivatives ---

    def value(self, w: Any, batch: Any = None) -> Any:
        """``F(w)``, (..., d) -> (...)."""
        w, _, errors = self._passed(w, batch)
        return self._mean(w, errors)

    def gradient(self, w: Any, batch: Any = None) -> Any:
        """(..., d) -> (..., d)."""
        return self._slope(*self._passed(w, batch))

    def value_and_gradient(self, w: Any, batch: Any = None) -> tuple[Any, Any]:
        """``F(w)`` and its gradient from one pass: (..., d) -> (...), (..., d)."""
        w, trace, errors = self._passed(w, batch)
        return self._mean(w, errors), self._slope(w, trace, errors)

    def products(self, w: Any, batch: Any = None) -> Callable[[Any], Any]:
        """The Hessian at ``w`` (d,) as a map of blocks (d, k) -> (d, k); the pass over the data is done here.

        A block goes through in tiles of samples and columns, which change nothing but the rounding. It comes
        back in the order (C or Fortran) it went in; Fortran order saves two transpositions.
        """
        w, rows, targets = self._at(w, batch)
        if w.ndim != 1 or rows.ndim != 2:
            raise ValueError(
                f"`products` linearizes at one state ({self.dim},) on one batch (b,); got {tuple(w.shape)}, "
                f"{tuple(rows.shape[:-1])}. Use `hvp`."
            )
        # Whoever steps in place must not move the point under the products.
        w = namespace(w).asarray(w, copy=True)
        samples = rows.shape[0]
        height, columns = tile(samples, sum(self.sizes[1:]), on_host=isinstance(rows, np.ndarray))
        slices = [(slice(i, i + height), ...) for i in range(0, samples, height)]
        # Each tile is given the share of one sample in the
        # whole batch's mean, so that the tiles add up to it.
        parts = [self._linearized(w, rows[part], targets[part], 1 / samples) for part in slices]

        def product(V: Any) -> Any:
            V = self._here(V)
            if V.ndim != 2 or V.shape[0] != self.dim:
                raise ValueError(f"`V` must have shape ({self.dim}, k); got shape {tuple(V.shape)}.")
            return block_products(parts, columns, self.l2, V)

        return product

    def hvp(self, w: Any, V: Any, batch: Any = None) -> Any:
        """Block Hessian product ``H(w) V``: (..., d), (..., d, k) -> (..., d, k)."""
        w, V = self._state(w), self._here(V)
        batch = None if batch is None else self._indices(batch)
        # The case of every solver: no axes to spread, and the state is passed through the layers once for
        # all columns.
        if w.ndim == 1 and V.ndim == 2 and (batch is None or batch.ndim == 1):
            return self.products(w, batch)(V)
        if V.ndim < 2:
            raise ValueError(
                f"`V` must have shape (..., {self.dim}, k); got shape {tuple(V.shape)}. Give one vector as "
                "V[:, None]."
            )
        xp = namespace(w)
        lead = np.broadcast_shapes(w.shape[:-1], V.shape[:-2], () if batch is None else batch.shape[:-1])
        states, blocks = (_along(array, lead, kept) for array, kept in ((w, 1), (V, 2)))
        batches = [None] * len(states) if batch is None else _along(batch, lead, 1)
        found = [self.products(*at)(block) for *at, block in zip(states, batches, blocks, strict=True)]
        return xp.reshape(xp.stack(found), (*lead, *V.shape[-2:]))

    def hessian(self, w: Any, batch: Any = None) -> Any:
        """(..., d) -> (..., d, d), for small networks."""
        if self.dim > LARGEST_HESSIAN:
            raise ValueError(
                f"The Hessian would have {self.dim}^2 entries; it is built up to dimension "
                f"{LARGEST_HESSIAN}. Use `products` or `hvp`."
            )
        w = self._state(w)
        return self.hvp(w, namespace(w).eye(self.dim, dtype=w.dtype, device=w.device), batch)

    def per_sample_gradient(self, w: Any, batch: Any = None) -> Any:
        """Gradients of the samples' own losses, regularization included: (..., n, d)."""
        w, trace, errors = self._passed(w, batch)
        xp = namespace(w)
        parts: list[Any] = []
        for layer, a, delta in self._deltas(w, trace, errors.slopes):
            outer = a[..., :, None] * delta[..., None, :]
            # The last layer comes first, the state begins with
            # the first one: each is put before those behind it.
            parts = [xp.reshape(outer, (*delta.shape[:-1], layer.inputs * layer.outputs)), delta, *parts]
        return xp.concat(parts, axis=-1) + self.l2 * w[..., None, :]

    @property
    def outputs(self) -> int:
        """Of a sample."""
        return self.sizes[-1]

    def residuals(self, w: Any, batch: Any = None) -> tuple[Any, Any]:
        """Half squares with the losses' gradients and Gauss-Newton curvature at one state, ridge left out.

        Values (n, outputs) and their gradients (n, outputs, d): ``sum J r`` is a sample's gradient, ``J^T J``
        its curvature by the outputs alone. Probabilities in it are kept above 1e-6.
        """
        w, trace, errors = self._passed(w, batch)
        xp, width = namespace(w), self.sizes[-1]
        eye = xp.eye(width, dtype=w.dtype, device=w.device)
        if self.loss == "cross-entropy":
            z = trace.outputs - xp.max(trace.outputs, axis=-1, keepdims=True)
            p = xp.exp(z) / xp.sum(xp.exp(z), axis=-1, keepdims=True)
            held = (p + LEAST_CHANCE) / (1 + width * LEAST_CHANCE)
            root = xp.sqrt(held)
            # The Hessian diag(p) - p p^T is S S^T with S = diag(sqrt p) - p sqrt(p)^T; here its transpose.
            seeds = root.T[:, :, None] * (eye[:, None, :] - held[None, :, :])
            values = errors.slopes / root
        else:
            share = width**0.5
            seeds = xp.broadcast_to(eye[:, None, :] / share, (width, *trace.outputs.shape))
            values = errors.slopes * share
        parts: list[Any] = []
        for layer, a, delta in self._deltas(w, trace, seeds):
            outer = a[..., :, None] * delta[..., None, :]
            parts = [xp.reshape(outer, (*delta.shape[:-1], layer.inputs * layer.outputs)), delta, *parts]
        return values, xp.permute_dims(xp.concat(parts, axis=-1), (1, 0, 2))

    def per_sample_hessian(self, w: Any, batch: Any = None) -> Any:
        """Hessians of the samples' own losses, ridge included, one by one: (..., n, d, d)."""
        batch = self._indices(np.arange(self.n_samples) if batch is None else batch)
        return namespace(self.X).stack(
            [self.hessian(w, batch[..., i : i + 1]) for i in range(batch.shape[-1])], axis=-3
        )

    def per_sample_along(self, w: Any, V: Any, batch: Any = None) -> tuple[Any, Any]:
        """Samples' own slopes and curvatures, ridge included, along directions at one state (d,).

        (d, k) -> (n, k) and (n, k, k): in passes forward alone, whatever the number of weights.

        Examples
        --------
        >>> import numpy as np, stability as st
        >>> F = st.mlp([[0.1], [0.7], [0.4]], [0.0, 1.0, 2.0], hidden=[2])
        >>> w, V = F.initial(0), np.eye(F.dim)[:, :2]
        >>> slopes, curvatures = F.per_sample_along(w, V)
        >>> bool(np.allclose(curvatures.mean(axis=0), V.T @ F.hessian(w) @ V))
        True
        """
        w, rows, targets = self._at(w, batch)
        V, xp = self._here(V), namespace(w)
        height, columns = tile(rows.shape[0], sum(self.sizes[1:]), on_host=isinstance(rows, np.ndarray))
        # All directions go through at once, so that a tile of as many numbers has fewer samples.
        height = max(1, height * columns // V.shape[1])
        directions = xp.asarray(V.T, copy=True)
        parts = [slice(i, i + height) for i in range(0, rows.shape[0], height)]
        found = [self._linearized(w, rows[p, ...], targets[p, ...], 1.0).along(directions) for p in parts]
        slopes, curvatures = (xp.concat(each, axis=0) for each in zip(*found, strict=True))
        if self.l2:
            slopes, curvatures = slopes + self.l2 * (w @ V), curvatures + self.l2 * (V.T @ V)
        return slopes, curvatures

    # --- predictions ---

    def predict(self, w: Any, X: Any) -> Any:
        """Outputs of the network, of classes the scores before the softmax.

        (..., d), (n, sizes[0]) -> (..., n, sizes[-1]).
        """
        if isinstance(self.X, np.ndarray) or isinstance(X, np.ndarray | list | tuple):
            X = _data("X", X, self.dtype)
        if X.ndim != 2 or X.shape[1] != self.sizes[0]:
            raise ValueError(f"`X` must have shape (n, {self.sizes[0]}); got shape {tuple(X.shape)}.")
        return self._forward(self._state(w), self._here(X)).outputs

    def accuracy(self, w: Any, batch: Any = None) -> Any:
        """Share of the samples whose label has the highest score, (..., d) -> (...)."""
        if self.loss != "cross-entropy":
            raise ValueError(f"`accuracy` needs labels; this network's loss is {self.loss}. Read `value`.")
        w, rows, labels = self._at(w, batch)
        xp = namespace(w)
        right = xp.argmax(self._forward(w, rows).outputs, axis=-1) == labels
        return xp.mean(xp.astype(right, w.dtype), axis=-1)

    def on(self, X: Any, y: Any = None) -> Network:
        """The same network on other data, for validation, beside its own; an autoencoder takes no `y`."""
        table = _data("X", X, self.dtype)
        if table.shape[1] != self.sizes[0]:
            raise ValueError(
                f"`X` must have {self.sizes[0]} columns, as the network's own; got shape {table.shape}."
            )
        if (self.y is None) != (y is None):
            raise ValueError(
                "`y` must be given, one entry per row of `X`."
                if y is None
                else "An autoencoder's targets are its inputs. Leave out `y`."
            )
        other = copy.copy(self)
        other.X, other.n_samples = self._beside(table), len(table)
        if self.loss == "cross-entropy":
            other.y = self._beside(_labels(y, len(table), self.sizes[-1]))
        elif self.y is not None:
            other.y = self._beside(_targets(y, len(table), self.dtype, self.sizes[-1]))
        return other

    # --- inside ---

    def _passed(self, w: Any, batch: Any) -> tuple[Any, Trace, Errors]:
        w, rows, targets = self._at(w, batch)
        trace = self._forward(w, rows)
        return w, trace, LOSSES[self.loss](trace.outputs, targets)

    def _at(self, w: Any, batch: Any) -> tuple[Any, Any, Any]:
        """State, inputs and targets: (..., d), (n, p) or (..., b, p), and labels or targets of as many."""
        w, rows, targets = self._state(w), self.X, self.y
        if batch is not None:
            batch = self._indices(batch)
            rows, targets = take_rows(rows, batch), None if targets is None else take_rows(targets, batch)
        return w, rows, rows if targets is None else targets

    def _state(self, w: Any) -> Any:
        w = self._here(w)
        if w.ndim == 0 or w.shape[-1] != self.dim:
            raise ValueError(
                f"`w` must have shape (..., {self.dim}), the last axis being the state; got shape "
                f"{tuple(w.shape)}."
            )
        return w

    def _forward(self, w: Any, rows: Any) -> Trace:
        inputs, preactivations = [rows], []
        for layer in self._layers:
            z = inputs[-1] @ layer.weights(w)
            z += layer.biases(w)[..., None, :]
            if layer is not self._layers[-1]:
                preactivations.append(z)
                inputs.append(self._activation.value(z))
        return Trace(inputs, preactivations, z)

    def _mean(self, w: Any, errors: Errors) -> Any:
        losses, xp = errors.losses(), namespace(w)
        value = xp.sum(losses, axis=-1) / losses.shape[-1]
        return value + (0.5 * self.l2) * xp.sum(w * w, axis=-1) if self.l2 else value

    def _slope(self, w: Any, trace: Trace, errors: Errors) -> Any:
        """The gradient, written layer by layer where it belongs."""
        xp = namespace(w)
        *lead, samples, _ = errors.slopes.shape
        gradient = xp.empty((*lead, self.dim), dtype=w.dtype, device=w.device)
        for layer, a, delta in self._deltas(w, trace, errors.slopes / samples):
            # Straight into the gradient: joining the layers' parts afterwards would copy every weight
            # again.
            multiply_into(gradient, layer.start, layer.middle, transpose(a), delta)
            gradient[..., layer.middle : layer.stop] = xp.sum(delta, axis=-2)
        if self.l2:
            gradient += self.l2 * w
        return gradient

    def _deltas(self, w: Any, trace: Trace, delta: Any) -> Iterator[tuple[Layer, Any, Any]]:
        """Each layer, from the last to the first, with its inputs and its preactivation's derivative."""
        for index in reversed(range(len(self._layers))):
            layer, a = self._layers[index], trace.inputs[index]
            yield layer, a, delta
            if index:
                # Through the weights before the bend: the slope of an activation stands at its inputs.
                delta = delta @ transpose(layer.weights(w))
                # In place: the product above made this array, so nobody else holds it.
                delta *= self._activation.slope(trace.preactivations[index - 1], a)

    def _linearized(self, w: Any, rows: Any, targets: Any, share: float) -> Linearized:
        trace = self._forward(w, rows)
        return Linearized(
            self._layers, w, trace, LOSSES[self.loss](trace.outputs, targets), self._activation, share
        )

    @property
    def _activation(self) -> Activation:
        return ACTIVATIONS[self.activation]

    def _here(self, values: Any) -> Any:
        """Values as floats beside the data: in their namespace, on their device, as wide."""
        X = self.X
        if isinstance(X, np.ndarray):
            return np.asarray(values, dtype=X.dtype)
        return namespace(X).asarray(values, dtype=X.dtype, device=X.device)

    def _beside(self, host: np.ndarray) -> Any:
        """A host array beside the data, its type kept."""
        return (
            host if isinstance(self.X, np.ndarray) else namespace(self.X).asarray(host, device=self.X.device)
        )

    def _indices(self, batch: Any) -> Any:
        """Sample indices beside the data.

        Those of the host are checked; to check a device's own would wait for it.
        """
        if isinstance(batch, np.ndarray) or not hasattr(batch, "shape"):
            batch = self._beside(self._checked(np.asarray(batch)))
        if not batch.shape or 0 in batch.shape:
            raise ValueError(
                f"`batch` must be a non-empty array of sample indices; got shape {tuple(batch.shape)}."
            )
        return batch

    def _checked(self, batch: np.ndarray) -> np.ndarray:
        if batch.size == 0:
            return batch
        if batch.dtype.kind not in "iu":
            raise ValueError(f"`batch` must hold sample indices, which are integers; got {batch.dtype}.")
        # A negative index becomes a huge one: one comparison.
        if batch.astype(np.uint64).max() >= self.n_samples:
            raise ValueError(
                f"`batch` must hold sample indices from 0 to {self.n_samples - 1}; got {batch.min()} to "
                f"{batch.max()}."
            )
        return batch

    def __repr__(self) -> str:
        widths = "-".join(map(str, self.sizes))
        return (
            f"Network {widths} ({self.activation}, {self.loss}) on {self.n_samples} samples in {self.dim} "
            f"dimensions, l2={self.l2:g}"
        )


def _along(array: Any, lead: tuple[int, ...], kept: int) -> list[Any]:
    """`array` broadcast over leading axes, as the list of its parts of `kept` axes."""
    xp = namespace(array)
    own = tuple(array.shape[array.ndim - kept :])
    flat = xp.reshape(xp.broadcast_to(array, (*lead, *own)), (-1, *own))
    return [flat[i, ...] for i in range(flat.shape[0])]


@_check.by_name
def mlp(
    X: Any,
    y: Any,
    hidden: Sequence[int] = (128, 64),
    *,
    activation: str = "tanh",
    loss: str = "cross-entropy",
    classes: int | None = None,
    l2: float = 0.0,
    dtype: str = "float64",
) -> Network:
    """A multilayer perceptron's loss on a data table; its output layer is linear.

    Parameters
    ----------
    X : array, shape (n, p)
    y : array, shape (n,) or (n, m)
        Labels 0, 1, ..., classes - 1 for cross-entropy; targets for the squared loss.
    hidden : sequence of int
        Widths of the hidden layers; ``()`` is linear.
    activation : {"tanh", "sigmoid", "softplus", "silu"}
    loss : {"cross-entropy", "squared"}
        Softmax cross-entropy in nats, or ``(z - y)^2 / 2`` averaged over the outputs; both averaged over the
        samples.
    classes : int, optional
        Number of classes, where `y` does not show the last ones; one more than its largest label by default.
    l2 : float
        Weight of ``|w|^2 / 2``, biases included, >= 0.
    dtype : {"float64", "float32"}
        Of the data and of all arithmetic.

    Raises
    ------
    ValueError
        If shapes disagree, data are not finite, labels are not whole numbers in range, or the activation is
        not smooth.

    Examples
    --------
    Without hidden layers and with one output it is linear least squares with an intercept:

    >>> import stability as st
    >>> F = st.mlp([[0.0], [1.0], [2.0]], [1.0, 3.0, 5.0], hidden=(), loss="squared")
    >>> print(F.value([2.0, 1.0]), F.gradient([2.0, 0.0]))
    0.0 [-1. -1.]
    >>> print(F.hessian([0.0, 0.0]).round(3))
    [[1.667 1.   ]
     [1.    1.   ]]
    """
    X, loss = _data("X", X, _dtype(dtype)), _check.choice("loss", loss, LOSSES)
    if loss == "squared":
        if classes is not None:
            raise ValueError(
                f"`classes` is for cross-entropy; got {classes} with the squared loss. Leave it out."
            )
        y = _targets(y, len(X), dtype)
        outputs = y.shape[1]
    else:
        classes = None if classes is None else _check.count("classes", classes, least=2)
        y = _labels(y, len(X), classes)
        outputs = classes or _classes(y)
    return Network(
        X,
        y,
        (X.shape[1], *_hidden(hidden), outputs),
        activation=_activation(activation),
        loss=loss,
        l2=_check.nonnegative("l2", l2),
    )


@_check.by_name
def autoencoder(
    X: Any,
    hidden: Sequence[int] = (64, 16, 64),
    *,
    activation: str = "tanh",
    l2: float = 0.0,
    dtype: str = "float64",
) -> Network:
    """A network that reproduces its inputs through a narrow layer.

    The loss is squared, against `X` itself; the output layer is linear.

    Parameters
    ----------
    X : array, shape (n, p)
    hidden : sequence of int
        Widths of the hidden layers.
    activation : {"tanh", "sigmoid", "softplus", "silu"}
    l2 : float
        Weight of ``|w|^2 / 2``, biases included, >= 0.
    dtype : {"float64", "float32"}

    Returns
    -------
    Network
        Whose value is ``(z - x)^2 / 2`` averaged over samples and columns: half the mean squared error.

    Raises
    ------
    ValueError
        If data are not finite, or the activation is not smooth.

    Examples
    --------
    >>> import numpy as np, stability as st
    >>> F = st.gallery.autoencoder(np.eye(4), hidden=(2,))
    >>> F.sizes, F.dim, float(F.value(np.zeros(F.dim)))
    ((4, 2, 4), 22, 0.125)
    """
    X = _data("X", X, _dtype(dtype))
    sizes = (X.shape[1], *_hidden(hidden), X.shape[1])
    return Network(
        X, None, sizes, activation=_activation(activation), loss="squared", l2=_check.nonnegative("l2", l2)
    )


def _dtype(dtype: str) -> str:
    return _check.choice("dtype", dtype, ("float64", "float32"))


def _activation(name: str) -> str:
    if name in ("relu", "leaky_relu", "leaky-relu"):
        raise ValueError(
            f"`activation` must be smooth; got {name}, which has no second derivative where it bends and a "
            "zero one elsewhere. Use softplus."
        )
    return _check.choice("activation", name, ACTIVATIONS)


def _hidden(widths: Any) -> tuple[int, ...]:
    if isinstance(widths, str) or not isinstance(widths, Sequence):
        raise ValueError(f"`hidden` must be a sequence of widths such as (128, 64); got {widths!r}.")
    return tuple(_check.count("hidden", width) for width in widths)


def _data(name: str, values: Any, dtype: str) -> np.ndarray:
    """A finite table of one's own, (n, p), row by row."""
    found = _check.numbers_of(name, values)
    if found.ndim != 2:
        _check.array(name, found, ndim=2, shape="(n, p)")
    with np.errstate(over="ignore"):
        table = found.astype(dtype, order="C")  # not by way of float64: pictures are many
    if not np.isfinite(table).all():
        _check.array(name, values, advice=_check.IMPUTE)
        raise ValueError(
            f"`{name}` must fit into {dtype}; its largest entry does not. Scale it, or use dtype='float64'."
        )
    if table.size == 0:
        raise ValueError(f"`{name}` must hold at least one sample and one column; got shape {table.shape}.")
    return table


def _labels(y: Any, samples: int, classes: int | None) -> np.ndarray:
    found = _check.array("y", y, ndim=1, shape=f"({samples},)", advice=_check.IMPUTE)
    _same_length(found, samples)
    fractions = found[found != np.floor(found)]
    if fractions.size:
        raise ValueError(
            f"`y` must hold whole-number labels for cross-entropy; got {fractions[0]:g}. Use loss='squared' "
            "for targets."
        )
    if found.min() < 0 or (classes is not None and found.max() >= classes):
        most = "classes - 1" if classes is None else classes - 1
        raise ValueError(
            f"`y` must hold labels from 0 to {most}; got {found.min():g} to {found.max():g}. Number the "
            "classes from 0."
        )
    return found.astype(np.int64)


def _classes(labels: np.ndarray) -> int:
    most = int(labels.max())
    if most >= max(1000, len(labels)):  # a network would be built with as many outputs
        raise ValueError(
            f"`y` holds the label {most} on {len(labels)} samples. Number the classes 0, 1, 2, ..., or give "
            "`classes`."
        )
    return max(2, most + 1)


def _targets(y: Any, samples: int, dtype: str, outputs: int | None = None) -> np.ndarray:
    shape = f"({samples},) or ({samples}, m)"
    found = _check.array("y", y, ndim=(1, 2), shape=shape, advice=_check.IMPUTE)
    _same_length(found, samples)
    found = _data("y", found.reshape(samples, -1), dtype)
    if outputs not in (None, found.shape[1]):
        raise ValueError(
            f"`y` must have {outputs} columns, as the network has outputs; got {found.shape[1]}."
        )
    return found


def _same_length(y: np.ndarray, samples: int) -> None:
    if len(y) != samples:
        raise ValueError(f"`y` must have one entry per row of `X` ({samples}); got {len(y)}.")
