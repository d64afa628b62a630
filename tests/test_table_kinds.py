"""Tables as people have them: every dialect gives the numbers of the plain one, and every advice works."""

import bz2
import gzip
import io
import json
import lzma
import os
import shlex
import socket
import tarfile
import zipfile

import numpy as np
import pytest
from click.testing import CliRunner

import stability as st
from stability import cli
from stability.datasets import columns, dialect, source
from stability.datasets import table as tables
from stability.datasets.cells import is_date, number
from stability.datasets.refusal import Refused

RNG = np.random.default_rng(0)
N = 24
VALUES = RNG.normal(size=(N, 3)).round(3)
LABELS = (VALUES[:, 0] + RNG.normal(size=N) > 0).astype(int)


def table(separator=",", cell=str, names=("a", "b", "c", "y"), end="\n", tail="", labels=None):
    """The same numbers in any dialect."""
    rows = [separator.join(names) + tail] if names else []
    for i in range(N):
        label = LABELS[i] if labels is None else labels[i % len(labels)]
        rows.append(separator.join([*map(cell, map(float, VALUES[i])), str(label)]) + tail)
    return end.join(rows) + end


def comma(value):
    return str(value).replace(".", ",")


def beside(cells, name="d"):
    """The plain table with another column before it."""
    head, *rows = table().splitlines()
    return (
        "\n".join([f"{name},{head}", *(f"{cells[i % len(cells)]},{row}" for i, row in enumerate(rows))])
        + "\n"
    )


def grouped(value, thousands, decimal):
    return f"{value * 1e4:,.2f}".replace(",", "T").replace(".", decimal).replace("T", thousands)


PLAIN = table()
LINES = PLAIN.splitlines()
BODY = "\n".join(LINES[1:]) + "\n"


@pytest.fixture
def write(tmp_path):
    def to(content, name="table.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return to


def read(path, **options):
    return st.datasets.read_table(path, **{"target": "y", "model": "logistic", **options})


def bound(path, *options, target="y", model="logistic"):
    command = ["bound", "--csv", str(path), "--target", target, "--model", model, "--batch", "2", *options]
    return CliRunner().invoke(cli.main, command)


SAME = {
    "semicolons, decimal commas": table(";", comma),
    "semicolons, decimal points": table(";"),
    "tabs": table("\t"),
    "tabs, decimal commas": table("\t", comma),
    "pipes": table("|"),
    "spaces": table(" "),
    "columns of fixed width": "\n".join("  " + line for line in table("   ").splitlines()),
    "decimal commas in quotes": table(cell=lambda v: f'"{comma(v)}"'),
    "thousands with points": table(";", lambda v: grouped(v, ".", ",")),
    "thousands with commas": table(",", lambda v: f'"{grouped(v, ",", ".")}"'),
    "thousands with spaces": table(";", lambda v: grouped(v, "\u202f", ",")),
    "thousands with apostrophes": table(";", lambda v: grouped(v, "'", ".")),
    "the minus of typography": table(cell=lambda v: str(v).replace("-", "\u2212")),
    "every cell in quotes": table(cell=lambda v: f'"{v}"'),
    "percent": table(cell=lambda v: f"{v}%"),
    "currency": table(";", lambda v: f"{comma(v)} €"),
    "units": table(cell=lambda v: f"{v} cm"),
    "UTF-8 with a mark": PLAIN.encode("utf-8-sig"),
    "UTF-16": PLAIN.encode("utf-16"),
    "UTF-16, big end first": b"\xfe\xff" + PLAIN.encode("utf-16-be"),
    "UTF-32": PLAIN.encode("utf-32"),
    "line ends of Windows": table(end="\r\n"),
    "line ends of old Macs": table(end="\r"),
    "a separator at every end": table(tail=","),
    "a separator at the rows' ends": LINES[0] + "\n" + "".join(f"{line},\n" for line in LINES[1:]),
    "a separator at the header's end": f"{LINES[0]},\n" + BODY,
    "remarks above": "# made by hand\n# on a Monday\n" + PLAIN,
    "a remark among the rows": "\n".join([*LINES[:9], "# noon", *LINES[9:]]) + "\n",
    "NumPy's savetxt": "# " + PLAIN,
    "Excel's first line": "sep=;\n" + table(";", comma),
    "blank lines": "\n\n" + "\n\n".join(LINES) + "\n\n",
    "lines of separators": PLAIN + ",,,\n,,,\n",
    "spaces around names": table(names=(" a", "b ", "\u00a0c", "y\u00a0")),
    "no line end at the end": PLAIN[:-1],
    "names that hold the separator": PLAIN.replace("a,b,c", '"a",b,"c"', 1),
    "pandas' index": beside([*range(N)], ""),
    "R's index": beside([*range(1, N + 1)], '""'),
    "an index in another order": beside([*range(N - 1, -1, -1)], ""),
    "an index saved twice": beside([*range(N)], "Unnamed: 0"),
    "an index of part of a table": beside([7 * i for i in range(N)], ""),
    "names of the rows": beside([f"car {i}" for i in range(N)], ""),
    "R's write.table": "a b c y\n"
    + "".join(f'"{i}" {line.replace(",", " ")}\n' for i, line in enumerate(LINES[1:], 1)),
    "R's names of rows": '"a","b","c","y"\n'
    + "".join(f'"car {i}",{line}\n' for i, line in enumerate(LINES[1:])),
    "gzip": gzip.compress(PLAIN.encode()),
    "bzip2": bz2.compress(PLAIN.encode()),
    "xz": lzma.compress(PLAIN.encode()),
}


@pytest.mark.parametrize("content", SAME.values(), ids=SAME)
def test_every_dialect_gives_the_numbers_of_the_plain_table(write, content):
    plain, found = read(write(PLAIN)), read(write(content, "other"))
    assert found.columns == plain.columns
    assert found.classes == ("0", "1")
    np.testing.assert_allclose(found.X, plain.X, atol=1e-12)
    np.testing.assert_array_equal(found.y, plain.y)


def test_a_table_in_a_zip_file_is_read_and_other_archives_are_told(write, tmp_path):
    for names, message in (
        (["t.csv", "__MACOSX/._t.csv"], None),
        (["a.csv", "b.csv"], r"holds 2 files\. Unpack it and give the path of one\."),
        (
            ["[Content_Types].xml", "xl/workbook.xml"],
            r"is a workbook or a document.* Save the table as CSV\.",
        ),
    ):
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            for name in names:
                archive.writestr(name, PLAIN)
        path = write(packed.getvalue(), "t.zip")
        if message is None:
            np.testing.assert_array_equal(read(path).X, read(write(PLAIN)).X)
        else:
            with pytest.raises(ValueError, match=message):
                read(path)
    with tarfile.open(tmp_path / "t.tar.gz", "w:gz") as archive:
        archive.add(write(PLAIN), "t.csv")
    (tmp_path / "u").write_bytes((tmp_path / "t.tar.gz").read_bytes())
    for name in ("t.tar.gz", "u"):
        with pytest.raises(ValueError, match=r"is an archive of files \(tar\)\. Unpack it"):
            read(tmp_path / name)
    for content, kind in (
        (b"PAR1", "a Parquet file"),
        (b"\x89PNG", "a picture"),
        (b"\xd0\xcf\x11\xe0", "old Excel"),
    ):
        with pytest.raises(ValueError, match=rf"{kind}.*Save the table as CSV\."):
            read(write(content + bytes(50), "t.csv"))
    with pytest.raises(ValueError, match=r"is named \.gz, and nothing of that kind is in it"):
        read(write(PLAIN, "t.csv.gz"))
    with pytest.raises(ValueError, match=r"cannot be read: "):
        read(write(gzip.compress(PLAIN.encode())[:-20], "t.csv.gz"))


def test_nothing_is_handed_to_a_network_and_no_pipe_is_waited_for(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a network was asked")

    monkeypatch.setattr(socket, "socket", refuse)
    for address in ("http://localhost/t.csv", "ftp://localhost/t.csv", "s3://bucket/t.csv", "file://x/t.csv"):
        with pytest.raises(ValueError, match=r"is an address.*Download the file"):
            read(address)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(ValueError, match="is a pipe, not a file"):
            read(tmp_path / "pipe")
    if os.path.exists("/dev/zero"):
        with pytest.raises(ValueError, match="is a device, not a file"):
            read("/dev/zero")


def test_widths_and_lines_without_end_are_refused_by_a_count(write, monkeypatch):
    wide = ",".join(f"c{i}" for i in range(10**5)) + ",y\n" + ",".join(["1"] * 10**5) + ",0\n"
    with pytest.raises(
        ValueError, match=r"has 100,001 columns; 50,000 are read at most\. Give a table with fewer"
    ):
        read(write(wide))
    monkeypatch.setattr(dialect, "MAX_COLUMNS", 4)
    assert read(write(PLAIN)).X.shape == (N, 4)
    for name, size in (("MAX_LINE", 3000), ("SAMPLE", 1000)):
        monkeypatch.setattr(source, name, size)
    for content in ("0" * 5000, PLAIN + "0" * 600_000):
        with pytest.raises(ValueError, match=r"A line is longer than 3,000 characters"):
            read(write(gzip.compress(content.encode())))


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, "zip"])
def test_what_unpacks_without_end_is_refused_by_its_size(write, tmp_path, monkeypatch, pack):
    monkeypatch.setattr(source, "MAX_UNPACKED", 200_000)
    content = PLAIN.encode() + 3_000_000 * b"\n"  # blank lines are no cells
    if pack == "zip":
        path = tmp_path / "table.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("table.csv", content)
    else:
        path = write(pack(content))
    with pytest.raises(ValueError, match=r"has [\d,]+ bytes and unpacks to more than [\d,]+, as no table"):
        read(path)
    assert read(write(content)).X.shape == (N, 4)  # as the message says
    assert read(write(gzip.compress(PLAIN.encode()))).X.shape == (N, 4)


REFUSED = {
    "cp1252": (table(names=("größe", "b", "c", "y")).encode("cp1252"), {}, {"encoding": "cp1252"}),
    "latin-1": (table(names=("\x81", "b", "c", "y")).encode("latin-1"), {}, {"encoding": "latin-1"}),
    "another encoding": (PLAIN.replace("a,", "ä,", 1).encode(), {"encoding": "ascii"}, {"encoding": "utf-8"}),
    "UTF-16 taken for cp1252": (PLAIN.encode("utf-16"), {"encoding": "cp1252"}, {"encoding": "utf-16"}),
    "UTF-16 taken for UTF-8": (PLAIN.encode("utf-16"), {"encoding": "utf-8"}, {"encoding": "utf-16"}),
    "UTF-16 without a mark": (PLAIN.encode("utf-16-le"), {}, {"encoding": "utf-16-le"}),
    "UTF-16 without a mark, big end first": (PLAIN.encode("utf-16-be"), {}, {"encoding": "utf-16-be"}),
    "no header": (BODY, {}, {"header": False, "target": "4"}),
    "no header, labels in words": (
        "\n".join(f"{a},{b},{'xy'[k]}a" for (a, b, _), k in zip(VALUES, LABELS, strict=True)),
        {},
        {"header": False, "target": "3"},
    ),
    "no header, a gap in the first row": ("," + BODY.split(",", 1)[1], {}, None),
    "no header, words only": (
        "".join(f"{'pq'[i % 2]},{'xyz'[i % 3]},{'ab'[LABELS[i]]}\n" for i in range(N)),
        {},
        {"header": False, "target": "3", "one_hot": True},
    ),
    "years as names": (table(names=("1990", "1991", "1992", "1993")), {"target": "1993"}, {"header": True}),
    "1,234 beside 12": (table(";", lambda v: f"{int(v * 1e3):,}"), {}, {"decimal": ","}),
    "two columns of one name": (PLAIN.replace("a,b", "a,a", 1), {}, {"drop": ["a"]}),
    "another target": (PLAIN.replace("y", "Label", 1), {"target": "lable"}, {"target": "Label"}),
    "missing numbers": (beside(["1", "2", "", "4"]), {}, {"missing": "drop"}),
    "NA, ? and n/a": (beside(["1", "2", "NA", "4", "?", "5", "n/a", "9"]), {}, {"missing": "drop"}),
    "gaps in most rows": (beside(["1", "", "", "", "4"]), {}, {"missing": "median"}),
    "no row without a gap": (beside(["1", ""]), {"missing": "drop"}, None),
    "gaps in the target": (table(labels=["0", "1", "", "NA"]), {}, None),
    "words": (beside(["red", "green", "blue"]), {}, {"one_hot": True}),
    "words with gaps": (beside(["red", "green", "red", ""]), {}, {"one_hot": True, "missing": "drop"}),
    "NA among words": (beside(["red", "NA", "None"]), {}, {"one_hot": True}),
    "a word among numbers": (beside([*range(10), "oops"]), {}, {"drop": ["d"]}),
    "too many words": (beside([f"word {i}" for i in range(N)]), {"one_hot": True}, {"drop": ["d"]}),
    "hexadecimal": (beside(["0x1F", "0x2A"]), {}, {"one_hot": True}),
    "one word": (beside(["x"]), {}, {"one_hot": True, "drop": ["d"]}),
    "a constant": (beside(["5"]), {}, {"drop": ["d"]}),
    "a constant once rows are left out": (
        beside(["5", "5", "5", ""]),
        {},
        {"missing": "drop", "drop": ["d"]},
    ),
    "an empty column": (beside([""]), {}, {"drop": ["d"]}),
    "infinity": (beside(["1", "2", "-inf"]), {}, {"drop": ["d"]}),
    "hundreds of digits": (beside(["1", "2", "9" * 400]), {}, {"drop": ["d"]}),
    "a name with commas and quotes": (beside(["x", *range(9)], '"a ""b"", c"'), {}, {"drop": ['a "b", c']}),
    "several units": (beside(["5 cm", "7 m"]), {}, {"drop": ["d"]}),
    "percent and none": (beside(["5%", "7"]), {}, {"drop": ["d"]}),
    "both decimal marks": (beside(['"1,5"', '"2,25"']), {}, {"drop": ["d"]}),
    "dates": (beside([f"2020-01-{i + 1:02d}" for i in range(N)]), {}, {"drop": ["d"]}),
    "dates of day and month": (beside([f"{i + 1}.1.2020" for i in range(N)]), {}, {"drop": ["d"]}),
    "dates in eight digits": (beside([20240101 + i for i in range(N)]), {}, {"drop": ["d"]}),
    "times": (beside([f"{i % 24:02d}:30" for i in range(N)]), {}, {"drop": ["d"]}),
    "a date with a comma": (
        beside([f'"Jan {i + 1}, 2020"' for i in range(N)], '"day, month"'),
        {},
        {"drop": ["day, month"]},
    ),
    "a bit of everything": (
        "\n".join(
            f"{head},{line}"
            for head, line in zip(
                [
                    "when,what,k,e",
                    *(f"{i + 1}/3/2020,{'rg'[i % 2]},5,{'' if i % 5 else i}" for i in range(N)),
                ],
                LINES,
                strict=True,
            )
        ),
        {},
        None,
    ),
    "classes for least squares": (
        table(labels=["cat", "dog", "owl"]),
        {"model": "least-squares"},
        {"model": "logistic"},
    ),
    "numbers for classes": (table(labels=VALUES[:, 1]), {}, {"model": "least-squares"}),
    "thirty whole numbers for classes": (table(labels=range(30)), {}, {"model": "least-squares"}),
}


def flags(options):
    """Options of the command line from keywords."""
    for name, value in options.items():
        if name == "header":
            yield "--header" if value else "--no-header"
        elif value is True:
            yield f"--{name.replace('_', '-')}"
        else:
            yield from (
                f"--{name.replace('_', '-')}",
                ",".join(value) if isinstance(value, list) else str(value),
            )


@pytest.mark.parametrize(("content", "options", "remedy"), REFUSED.values(), ids=REFUSED)
def test_an_advice_followed_to_the_letter_reads_the_table(write, content, options, remedy, monkeypatch):
    path, options = write(content), {"target": "y", "model": "logistic", **options}
    with pytest.raises(Refused) as refused:
        st.datasets.read_table(path, **options)
    advised = refused.value.remedy
    assert advised
    assert remedy is None or advised == remedy
    for name, value in advised.items():
        assert f"{name}={value!r}" in str(refused.value)
    found = st.datasets.read_table(path, **{**options, **advised})
    assert np.isfinite(found.X).all()
    # The same in the words of the command line, split as a shell splits them.
    own = list(flags({k: v for k, v in options.items() if k not in ("target", "model")}))
    told = bound(path, *own, target=options["target"], model=options["model"])
    assert told.exit_code == 2
    advice = shlex.split(told.stderr.rpartition("se --")[2].strip().removesuffix("."))
    follow = ["bound", "--csv", str(path), *own, f"--{advice[0]}", *advice[1:]]
    for name in ("target", "model"):  # unless they are what the advice is about
        if f"--{name}" not in follow:
            follow += [f"--{name}", options[name]]
    read = []  # what is then bound does not matter here, and takes longer than all the rest

    def stop(objective, *given, **options):
        read.append(objective)
        raise ValueError("it was read")

    monkeypatch.setattr("stability.linear.bounds.bounds", stop)
    result = CliRunner().invoke(cli.main, follow)
    assert read, result.stderr


def test_an_encoding_that_fails_far_down_the_file_is_named(write, monkeypatch):
    monkeypatch.setattr(source, "SAMPLE", 1000)
    path = write((PLAIN + BODY * 900).encode() + b"1,2,3,\xe9\n")
    with pytest.raises(
        Refused, match=r"is not a text in UTF-8\. Save it as UTF-8\. Or use encoding='cp1252'\.$"
    ):
        read(path)
    assert read(path, encoding="cp1252").classes == ("0", "1", "é")


class TestTheTarget:
    @pytest.mark.parametrize(
        "labels",
        [
            ("cat", "dog", "owl"),
            ("None", "mild"),
            ("EU", "NA"),
            ("null", "set"),
            ("1.0", "2.0"),
            ("01", "02"),
        ],
        ids=" ".join,
    )
    @pytest.mark.parametrize("model", ["logistic", "network"])
    def test_labels_stay_as_they_are_written(self, write, labels, model):
        found = read(write(table(labels=labels)), model=model)
        assert found.classes == labels
        np.testing.assert_array_equal(found.y, np.arange(N) % len(labels))

    def test_labels_that_differ_in_case_alone_are_told(self, write):
        labels = ["Yes", "yes", "no", "No"] * 5
        found = read(write(table(labels=labels)))
        assert found.classes == ("No", "Yes", "no", "yes")
        assert "upper and lower case alone are different classes: 'No' and 'no', 'Yes' and 'yes'" in str(
            found
        )
        assert "case" not in str(read(write(table(labels=["Yes", "no"]))))

    def test_spaces_and_forms_of_accents_make_no_new_label(self, write):
        assert read(write(table(labels=["café", "café ", "cafe\u0301", " thé"]))).classes == ("café", "thé")

    def test_names_are_compared_in_one_form(self, write):
        for name, asked in (("é", "e\u0301"), ("e\u0301", "é"), ("y ", "y"), ("\ufeffy", " y\u00a0")):
            found = read(write(table(names=("a", "b", "c", name))), target=asked)
            assert found.target == asked.strip().replace("e\u0301", "é")

    def test_whole_numbers_are_classes_for_logistic_and_numbers_for_least_squares(self, write):
        path = write(table(labels="0123"))
        assert read(path).classes == ("0", "1", "2", "3")
        assert read(path, model="least-squares").classes == ()

    def test_rows_without_a_label_are_left_out_where_asked(self, write):
        for missing in ("drop", "median"):
            found = read(write(table(labels=["0", "1", ""])), missing=missing)
            assert (len(found.y), found.notes) == (
                N * 2 // 3,
                (f"{N // 3} rows with missing values left out",),
            )


class TestColumns:
    def test_a_word_is_a_column_of_zeros_and_ones_beside_the_first(self, write):
        found = read(write(beside(["red", "green", "blue"])), one_hot=True)
        assert found.columns[:2] == ("d=green", "d=red")
        np.testing.assert_allclose(
            found.X[:, 0], (np.arange(N) % 3 == 1) / np.sqrt(2 / 9) - 1 / 3 / np.sqrt(2 / 9), rtol=1e-12
        )

    def test_a_gap_is_filled_with_the_median_or_the_most_frequent_word(self, write):
        filled = read(write(beside(["1", "2", "", "40"])), missing="median")
        np.testing.assert_allclose(filled.X, read(write(beside(["1", "2", "2", "40"]))).X, atol=1e-12)
        options = {"one_hot": True, "missing": "median"}
        filled = read(write(beside(["red", "red", "", "blue"])), **options)
        np.testing.assert_allclose(filled.X, read(write(beside(["red", "red", "red", "blue"])), **options).X)
        assert filled.notes == (
            "6 missing values filled in with their column's median or most frequent word",
        )

    def test_columns_are_chosen_and_left_out_by_name(self, write):
        path = write(table(names=("a, cm", "b", "c", "y")).replace("a, cm", '"a, cm"', 1))
        assert read(path, columns=["c", "a, cm"]).columns == ("c", "a, cm", "intercept")
        assert read(path, drop=["b"]).columns == ("a, cm", "c", "intercept")
        assert '"b"' not in bound(path, "--drop", "b", "--json").stdout
        found = json.loads(bound(path, "--columns", '"a, cm",b', "--json").stdout)
        assert found["columns"] == ["a, cm", "b", "intercept"]
        for option, value, message in (
            (
                "columns",
                ["z"],
                r"`columns` names 'z', which .* does not have\. Its columns: a, cm, b, c, y\.",
            ),
            ("drop", ["z"], r"`drop` names 'z', which"),
            ("drop", ["y"], r"`drop` names 'y', the target\. Leave it out of `drop`\."),
            ("drop", "b", r"`drop` must be a sequence of names; got 'b'\. Give a list\."),
            ("separator", "ab", r"`separator` must be one character, or one of comma, .*; got 'ab'"),
            ("decimal", "x", r"`decimal` must be one of \., ,; got 'x'"),
            ("missing", "zero", r"`missing` must be one of drop, median; got 'zero'"),
            ("target", 4, r"`target` must be the name of a column; got 4"),
            ("header", "no", r"`header` must be True or False; got 'no'"),
        ):
            with pytest.raises(ValueError, match=message):
                read(path, **{option: value})

    def test_what_was_understood_is_said(self, write):
        path = write(table(";", comma, names=("é", "b", "c", "y")).encode("cp1252"), "other.csv")
        assert read(path, encoding="cp1252").reading == "separator semicolon, decimal comma, cp1252"
        shown = json.loads(bound(path, "--encoding", "cp1252", "--json").stdout)
        assert shown["reading"] == "separator semicolon, decimal comma, cp1252"
        shown = bound(write(beside([*range(N)], "") + ",,,,\n")).stdout
        assert "note: column 1 has no name and counts the rows: left out\n" in shown
        assert "note: 1 empty rows left out\n" in shown
        three = bound(write(table(";", labels=["cat", "dog", "owl"])))
        assert three.stdout.startswith(
            f"table.csv (separator semicolon, decimal point): {N} samples, 4 columns with the intercept, "
            "logistic for 'y', 3 classes, l2 = 0.01\n"
        )

    def test_a_named_column_that_counts_is_kept_and_reported(self, write):
        for name, cells in (("visits", range(1, N + 1)), ("user_id", [i * 17 % 977 for i in range(N)])):
            found = read(write(beside([*cells], name)))
            assert found.columns[0] == name
            assert found.notes == (
                f"column {name!r} holds another whole number in each row, as identifiers do: drop it if "
                "it is one",
            )
        assert read(write(beside([*VALUES[:, 0] + 5.5], ""))).columns[0] == "column 1"
        assert read(write(beside([*VALUES[:, 0] + 5.5], "")), drop=["column 1"]).columns[0] == "a"

    def test_numbers_as_names_are_a_header_where_words_stand_over_numbers(self, write):
        assert read(write(table(names=("0", "1", "2", "y")))).columns == ("0", "1", "2", "intercept")
        assert read(write(table(names=("0", "1", "2", "3"))), target="3").columns[0] == "0"
        assert read(write(BODY), header=False, target="4").columns == ("1", "2", "3", "intercept")
        assert len(read(write(BODY), header=True, target=LINES[1].split(",")[3]).y) == N - 1

    def test_whole_numbers_beyond_floats_keep_their_differences(self, write):
        found = read(write(beside([10**18 + 7 * (i % 5) for i in range(N)])))
        np.testing.assert_allclose(
            found.X, read(write(beside([7 * (i % 5) for i in range(N)]))).X, atol=1e-12
        )

    @pytest.mark.parametrize("late", ["0,5", "1,234", "1.234", "12.345,6"])
    def test_a_decimal_mark_that_comes_late_counts_for_all_rows(self, write, late):
        """After the lines that are looked at: 1,234 must be neither 1234 without a word nor 1.234."""
        rows = "".join(f"{i};{i * 7 % 5};{i % 2}\n" for i in range(400))
        path = write(f"a;b;y\n{rows}{late};2;1\n")
        unclear = late in ("1,234", "1.234")
        if unclear:
            with pytest.raises(Refused, match=r"nothing tells whether that is 1\.234 or 1234"):
                read(path)
        found = read(path, **({"decimal": ","} if unclear else {}))
        assert found.reading == "separator semicolon, decimal comma"
        raw = np.r_[np.arange(400), number(late, ",")[0]]
        np.testing.assert_allclose(found.X[:, 0], (raw - raw.mean()) / raw.std(), atol=1e-12)

    def test_a_header_longer_than_what_is_looked_at_is_seen_beside_data(self, write, monkeypatch):
        monkeypatch.setattr(source, "SAMPLE", 5)
        found = read(write(table(";", comma) + BODY.replace(",", ";").replace(".", ",")))
        assert (found.reading, len(found.y)) == ("separator semicolon, decimal comma", 2 * N)

    def test_a_table_without_labels_is_told(self, write):
        with pytest.raises(ValueError, match=r"The target 'y' is given in 1 rows; at least 2 are needed"):
            read(write(PLAIN.replace(",0\n", ",\n").replace(",1\n", ",\n") + "1,2,3,1\n"), missing="drop")

    def test_words_of_a_wide_table_are_counted_before_they_are_encoded(self, write, monkeypatch):
        monkeypatch.setattr(columns, "MAX_CELLS", 5 * N)
        assert read(write(beside(["red", "green", "blue"])), one_hot=True).X.shape == (N, 6)
        with pytest.raises(ValueError, match=r"With a column for each word the table has 6 columns"):
            read(write(beside(["red", "green", "blue", "black"])), one_hot=True)

    def test_given_options_are_not_guessed(self, write):
        path = write(table(";", lambda v: f"{int(v * 1e3):,}"))
        comma, point = (read(path, decimal=mark).X for mark in ",.")
        assert np.abs(comma - point).max() > 1
        assert read(write(table(";")), separator="semicolon").reading == "separator semicolon, decimal point"
        with pytest.raises(ValueError, match="has no column 'y'"):
            read(write(table(";")), separator=",")


class TestNames:
    @pytest.mark.parametrize("mark", ["^", "~", ":", "\x1f"])
    def test_a_rare_separator_is_named_and_reads_the_table(self, write, mark):
        path = write(table(mark))
        with pytest.raises(Refused, match=r"Its columns: a.b.c.y\. Use separator=") as refused:
            read(path)
        assert refused.value.remedy == {"separator": mark}
        np.testing.assert_array_equal(read(path, **refused.value.remedy).X, read(write(PLAIN)).X)

    def test_names_below_a_title_are_found(self, write):
        with pytest.raises(ValueError, match="It stands in data row 1: remove what is above the names"):
            read(write("My table,,,\n" + PLAIN))

    def test_names_in_a_remark_are_the_header_where_the_target_is_among_them(self, write):
        words = table(labels=["ill", "well"])
        found = read(write("#" + words))
        assert found.columns == ("a", "b", "c", "intercept")
        np.testing.assert_array_equal(found.X, read(write(words)).X)
        assert "1 line of remarks" in read(write("# a, b, c, y\n" + words)).notes[0]  # those stand below too

    def test_marks_without_width_around_a_name_are_no_part_of_it(self, write):
        text = PLAIN.replace("a,b,c,y", "\u200ea\u200f,\u2060b,\u00adc\u202c,\u2068y\u2069")
        assert read(write(text)).columns == ("a", "b", "c", "intercept")

    def test_no_two_columns_share_a_name(self, write):
        found = read(write(PLAIN.replace("a,b,c,y", "intercept,b,c,y")))
        assert found.columns == ("intercept", "b", "c", "intercept 2")
        assert found.to_frame().shape == (N, 5)
        text = beside(["red", "green"], "d").replace("d,a,b,c,y", "d,d=red,b,c,y")
        assert read(write(text), one_hot=True).columns == ("d=red 2", "d=red", "b", "c", "intercept")

    def test_few_numbers_that_are_not_whole_are_no_classes(self, write):
        path = write(table(labels=["0.5", "1.5", "2.5"]))
        with pytest.raises(Refused, match=r"holds numbers .* logistic regression cannot predict") as refused:
            read(path)
        assert read(path, **refused.value.remedy).classes == ()

    def test_a_word_of_too_many_is_shown(self, write):
        crores = [f"{i},23,45,678" for i in range(1, N + 1)]
        with pytest.raises(ValueError, match=r"too many different words .* \('1,23,45,678' in data row 1\)"):
            read(write(beside([f'"{cell}"' for cell in crores])), one_hot=True)


@pytest.mark.parametrize(
    ("cell", "point", "comma"),
    [
        ("1.5", 1.5, None),
        ("1,5", None, 1.5),
        ("1.234", 1.234, 1234.0),
        ("1,234.5", 1234.5, None),
        ("1.234.567", None, 1234567.0),
        ("0,123", None, 0.123),
        ("12,34,567", None, None),
        ("-1'234.5", -1234.5, None),
        ("1e-3", 1e-3, 1e-3),
        ("1.2.2020", None, None),
        ("1_000", None, None),
        ("0x1F", None, None),
        ("Q1", None, None),
    ],
)
def test_a_cell_is_a_number_with_one_mark_or_the_other(cell, point, comma):
    for mark, expected in ((".", point), (",", comma)):
        found = number(cell, mark)
        assert (None if found is None else found[0]) == expected


def test_dates_are_told_from_words_and_numbers():
    days = ["2020-01-31", "31.1.2020", "1/31/20", "2020-01-31T12:00:00Z", "5 May 2020", "May 5, 2020"]
    assert all(map(is_date, [*days, "12:30", "Mar 2020", "2020-W05", "2020Q1"]))
    assert not any(map(is_date, ["2020", "20200131", "1.5", "May", "Room 12", "version 1.2.3", "10-12 cm"]))


@pytest.mark.parametrize("error", ["#NV", "#N/D", "#DIV/0!", "#WERT!", "#¡VALOR!", "#NAME?", "#Н/Д", "#REF!"])
def test_a_spreadsheets_errors_are_missing_values_in_any_language(error, write):
    path = write(f"a;w;y\n1,5;u;0\n{error};v;1\n2,5;{error};0\n3,5;u;1\n4,5;v;1\n5,5;u;0\n")
    with pytest.raises(ValueError, match=r"'a' has 1 missing values.* of its kind: 'w'"):
        read(path, one_hot=True)
    assert read(path, one_hot=True, missing="drop").X.shape[0] == 4


def test_words_with_a_number_sign_are_words(write):
    path = write("w;y\n#1;0\n#Tag!;1\n#NVX;0\n#1;1\n#Tag!;1\n#NVX;0\n")
    assert read(path, one_hot=True).X.shape == (6, 3)  # with the intercept


def test_columns_of_another_kind_are_told_by_their_own_trouble(write):
    path = write("d;n;e;x;y\n1.1.2024;1;2.1.2023;3;0\n2.1.2024;a;3.1.2023;4;1\n3.1.2024;2;4.1.2023;6;0\n")
    told = (
        r"'d' holds dates .* There is another of its kind: 'e'\. Column 'n' holds text \('a' in data row 2\)"
        r".*drop=\['d', 'n', 'e'\]"
    )
    with pytest.raises(ValueError, match=told):
        read(path)


def test_a_network_is_trained_on_the_same_dialects(write):
    path = write(table(";", comma, labels=["cat", "dog", "owl"]))
    command = ["train", "--data", str(path), "--target", "y", "--hidden", "3", "--sweeps", "1"]
    shown = CliRunner().invoke(cli.main, command)
    assert shown.exit_code == 0, shown.stderr
    assert "(separator semicolon, decimal comma): 24 samples, 3 columns, 'y' is 3 classes" in shown.stdout
    refused = CliRunner().invoke(cli.main, [*command[:2], "digits", "--one-hot"])
    assert refused.stderr == "Error: `--one-hot` is for a CSV file.\n"


DAYS = [f"2020-01-{i + 1:02d}" for i in range(N)]
BY_HAND = {  # what is refused, what its message says to do by hand, and the table after that
    "infinity": (
        beside(["1", "2", "inf"]),
        {},
        "Remove or impute it",
        (beside(["1", "2", "3"]), {}),
    ),
    "huge": (beside(["1", "2", "9" * 400]), {}, "Correct it", (beside(["1", "2", "9"]), {})),
    "dates": (beside(DAYS), {}, "days since the first", (beside([i**2 for i in range(N)]), {})),
    "units": (beside(["5 cm", "7 m"]), {}, "Give all in one", (beside(["5 cm", "700 cm"]), {})),
    "marks": (
        beside(['"1,5"', '"2,25"']),
        {},
        "Write all numbers with one mark",
        (beside(["1.5", "2.25"]), {}),
    ),
    "a word": (beside([*range(10), "oops"]), {}, "Encode it as numbers", (beside([*range(10), 11]), {})),
    "names": (
        table(labels=[f"name{i}" for i in range(N)]),
        {},
        "Group them into fewer classes",
        (table(labels=[f"group{i % 3}" for i in range(N)]), {}),
    ),
    "twice": (PLAIN.replace("a,b", "a,a", 1), {}, "Rename one", (PLAIN, {})),
    "cp1252": (
        table(names=("größe", "b", "c", "y")).encode("cp1252"),
        {},
        "Save it as UTF-8",
        (table(names=("größe", "b", "c", "y")), {}),
    ),
    "the target dropped": (PLAIN, {"drop": ["y"]}, "Leave it out of `drop`", (PLAIN, {"drop": []})),
    "unknown columns": (PLAIN, {"columns": ["q"]}, "Its columns: a, b, c, y", (PLAIN, {"columns": ["a"]})),
    "a name for a list": (PLAIN, {"drop": "a"}, "Give a list", (PLAIN, {"drop": ["a"]})),
    "a long separator": (PLAIN, {"separator": "comma!"}, "comma, semicolon", (PLAIN, {"separator": "comma"})),
    "encoding": (PLAIN, {"encoding": "rot13"}, "such as utf-8", (PLAIN, {"encoding": "utf-8"})),
    "too few names": (
        PLAIN.replace("a,b,", "a,", 1),
        {"header": True},
        "Give every column a name",
        (PLAIN, {"header": True}),
    ),
    "a title above the names": (
        "title,\n" + PLAIN,
        {"header": True},
        "remove what stands above the names",
        (PLAIN, {"header": True}),
    ),
    "decimal commas": (
        table(cell=comma),
        {"header": True},
        "put decimal commas in quotes",
        (table(cell=lambda value: f'"{comma(value)}"'), {"header": True}),
    ),
    "a separator in a name": (
        PLAIN.replace("a,b", "a,x,b", 1),
        {"header": True},
        "Put names that hold a separator in quotes",
        (PLAIN.replace("a,b", '"a,x",b', 1), {"header": True}),
    ),
    "dates to predict": (
        table(labels=DAYS),
        {"model": "least-squares"},
        "days since the first",
        (table(labels=range(N)), {"model": "least-squares"}),
    ),
    "an infinite target": (
        table(labels=["1", "inf", "2"]),
        {"model": "least-squares"},
        "in data row 2. Correct it",
        (table(labels=["1", "3", "2"]), {"model": "least-squares"}),
    ),
    "a huge target": (
        table(labels=["1", "9" * 400, "2"]),
        {"model": "least-squares"},
        "too large .* Correct it",
        (table(labels=["1", "9", "2"]), {"model": "least-squares"}),
    ),
    "too many columns of words": (
        beside([f"word{i % 9}" for i in range(N)]),
        {"one_hot": True, "limit": 150},
        "Drop columns of words",
        (beside([f"word{i % 9}" for i in range(N)]), {"one_hot": True, "drop": ["d"], "limit": 150}),
    ),
    "too many cells": (
        PLAIN,
        {"limit": 90},
        "a random sample of its rows",
        ("\n".join(LINES[:13]), {"limit": 90}),
    ),
}


@pytest.mark.parametrize(("content", "options", "message", "after"), BY_HAND.values(), ids=BY_HAND)
def test_what_is_to_be_done_by_hand_works(write, monkeypatch, content, options, message, after):
    def take(content, options):
        options = {"model": "logistic", **options}
        if limit := options.pop("limit", None):
            for module in (columns, tables):
                monkeypatch.setattr(module, "MAX_CELLS", limit)
        return st.datasets.read_table(write(content), target="y", **options)

    with pytest.raises(ValueError, match=message):
        take(content, options)
    assert np.isfinite(take(*after).X).all()


def test_what_packs_several_tables_is_unpacked_as_told(tmp_path):
    for name in ("one.csv", "two.csv"):
        (tmp_path / name).write_text(PLAIN)
    with zipfile.ZipFile(tmp_path / "both.zip", "w") as archive:
        archive.write(tmp_path / "one.csv", "one.csv")
        archive.write(tmp_path / "two.csv", "two.csv")
    with tarfile.open(tmp_path / "both.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "one.csv", "one.csv")
    for name, message in (
        ("both.zip", r"holds 2 files\. Unpack it and give the path of one"),
        ("both.tar.gz", r"archive of files \(tar\)\. Unpack it and give the path of a table"),
    ):
        with pytest.raises(ValueError, match=message):
            read(tmp_path / name)
    with zipfile.ZipFile(tmp_path / "both.zip") as archive:
        archive.extract("two.csv", tmp_path / "out")
    assert read(tmp_path / "out" / "two.csv").X.shape == (N, 4)
