"""Labels in a table beside the pictures."""

import sys
import unicodedata

import pyarrow as pa
import pytest
from pyarrow import parquet
from test_folders import fill

from drmm.data import load
from drmm.errors import InputError, RunError
from drmm.files import write_csv

FLAT = dict.fromkeys(["1.png", "2.png", "3.png", "4.jpg"], (8, 9))
NESTED = dict.fromkeys(["2024/may/1.png", "2024/june/1.png", "2023/2.png", "x.png"], (8, 9))


def table(path, *rows, head="file,label"):
    path.write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")
    return path


def labelled(folder, labels):
    data = load(folder, labels=labels)
    return {file: data.classes[y] for file, y in zip(data.files, data.y_train.tolist(), strict=True) if y >= 0}


def test_a_flat_folder_has_the_labels_of_its_table(tmp_path):
    labels = table(tmp_path / "labels.csv", "1.png,cat", "2.png,dog", "3.png,")
    data = load(fill(tmp_path / "set", FLAT), labels=labels)
    assert data.files == ("1.png", "2.png", "3.png", "4.jpg")
    assert data.y_train.tolist() == [0, 1, -1, -1]
    assert data.classes == ("cat", "dog")
    assert data.digest != load(tmp_path / "set").digest, "other labels are other data"
    table(labels, "2.png,dog", "1.png,cat")
    assert load(tmp_path / "set", labels=labels).digest == data.digest


@pytest.mark.parametrize(
    "name", ["2024/may/1.png", "./2024/may/1.png", r"2024\may\1.png", "2024/may/1", "{root}/2024/may/1.png"]
)
def test_a_picture_by_its_path(tmp_path, name):
    root = fill(tmp_path / "set", NESTED)
    labels = table(tmp_path / "labels.csv", f"{name.format(root=root)},cat", "2,dog", "x.png,dog")
    assert labelled(root, labels) == {"2024/may/1.png": "cat", "2023/2.png": "dog", "x.png": "dog"}


def test_names_that_look_alike_are_one(tmp_path):
    composed, apart = (unicodedata.normalize(form, "café.png") for form in ("NFC", "NFD"))
    root = fill(tmp_path / "set", {apart: (8, 9), "x.png": (8, 9)})
    assert labelled(root, table(tmp_path / "labels.csv", f"{composed},cat")) == {apart: "cat"}


@pytest.mark.parametrize(
    ("head", "row"),
    [
        ("file;label", "1.png;cat"),
        ("file\tlabel", "1.png\tcat"),
        ("\ufeffFile, Label", "1.png, cat"),
        ("index,label,file", "0,cat,1.png"),
        ("image,label,confidence", "1.png,cat,0.98"),
        ("id,class", "1,cat"),
        ("label,filename", '"cat","1.png"'),
    ],
)
def test_any_usual_table(tmp_path, head, row):
    root = fill(tmp_path / "set", FLAT)
    assert labelled(root, table(tmp_path / "labels.csv", row, head=head)) == {"1.png": "cat"}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("above", ["", "\r\n \r\n"])
def test_tables_as_spreadsheets_write_them(tmp_path, encoding, separator, above):
    root = fill(tmp_path / "set", {"é.png": (8, 9), "2.png": (8, 9)})
    text = above + "\r\n".join(
        separator.join(row) for row in [("file", "label"), ("é.png", "кот"), ("2.png", "dog")]
    )
    mark = "\ufeff" * (encoding == "utf-16-be")  # which Python writes with "utf-16" alone
    (tmp_path / "labels.csv").write_bytes((mark + text).encode(encoding))
    assert labelled(root, tmp_path / "labels.csv") == {"é.png": "кот", "2.png": "dog"}


@pytest.mark.parametrize("head", ["file,label,label", "label,file,label"])
def test_a_column_that_is_there_twice_is_refused(tmp_path, head):
    root = fill(tmp_path / "set", FLAT)
    with pytest.raises(RunError, match=r"labels.csv has several columns called label: keep one"):
        load(root, labels=table(tmp_path / "labels.csv", "1.png,cat,dog", head=head))
    kept = table(tmp_path / "labels.csv", "1.png,cat,,", head="file,label,,")
    assert labelled(root, kept) == {"1.png": "cat"}, "control: columns without a name are nobody's"


def test_names_that_a_spreadsheet_would_compute(tmp_path):
    root = fill(tmp_path / "set", {"=1.png": (8, 9), "-2.png": (8, 9)})
    write_csv(tmp_path / "labels.csv", ["file", "label"], [("=1.png", "+cat"), ("-2.png", "dog")])
    assert labelled(root, tmp_path / "labels.csv") == {"=1.png": "+cat", "-2.png": "dog"}


def test_parquet(tmp_path, monkeypatch):
    root = fill(tmp_path / "set", FLAT)
    for labels in (["cat", None, "dog"], [1.0, float("nan"), 2.0], [1, None, 2]):
        rows = pa.table({"file": ["1.png", "2.png", "3.png"], "label": labels})
        parquet.write_table(rows, tmp_path / "labels.parquet")
        expected = ("cat", "dog") if labels[0] == "cat" else ("1", "2")
        assert labelled(root, tmp_path / "labels.parquet") == dict(zip(("1.png", "3.png"), expected, strict=True))
    (tmp_path / "labels.parquet").write_bytes(b"no table")
    with pytest.raises(RunError, match=r"labels.parquet: it is no Parquet file"):
        load(root, labels=tmp_path / "labels.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"needs pyarrow: pip install 'drmm\[parquet\]', or name a CSV file"):
        load(root, labels=tmp_path / "labels.parquet")


def test_what_cannot_be_used_is_listed_and_stops_nothing(tmp_path):
    root = fill(tmp_path / "set", NESTED | FLAT)
    labels = table(
        tmp_path / "labels.csv",
        "x.png,cat",
        "gone.png,cat",
        "also/gone.png,",
        "1,cat",
        "2.png,cat",
        "2.png,dog",
        "3.png,dog",
        "3.png,dog",
        "3.png,",
    )
    with pytest.warns(
        UserWarning, match=r"4 of 6 files in .*labels.csv cannot be used, such as gone.png, labelled, but no"
    ):
        data = load(root, labels=labels)
    assert [data.files[i] for i in range(len(data.files)) if data.y_train[i] >= 0] == ["3.png", "x.png"]
    assert {one.file: one.reason for one in data.skipped} == {
        "gone.png": "labelled, but not there (labels.csv)",
        "also/gone.png": "labelled, but not there (labels.csv)",
        "1": "labelled, but there are several (labels.csv)",
        "2.png": "labelled as several classes: taken as unlabelled (cat, dog)",
    }
    assert "2 x labelled, but not there (labels.csv)" in data.account()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "names no files"),
        ("1.png,cat\n2.png,dog\n", r"has no columns file and label \(1.png, cat\): name them so in its first row"),
        ("file,label\n", "names no files: give each picture a row"),
        ("\n\n", "names no files"),
        ("file,label\n,cat\n", "names no files"),
        ("file,label\n1.png,none\n", "1.png has label 'none': leave it blank"),
        ("file,label\n1.png,-1\n", "1.png has label '-1': leave it blank"),
        ("file,label\ngone.png,cat\n", "has no picture of .*: give paths relative to it, not gone.png"),
    ],
)
def test_a_table_that_does_not_fit(tmp_path, content, message):
    root = fill(tmp_path / "set", FLAT)
    (tmp_path / "labels.csv").write_text(content)
    with pytest.raises(InputError, match=message):
        load(root, labels=tmp_path / "labels.csv")


def test_a_table_that_cannot_be_read(tmp_path):
    root = fill(tmp_path / "set", FLAT)
    with pytest.raises(RunError, match=r"cannot read .*labels.csv: No such file"):
        load(root, labels=tmp_path / "labels.csv")
    (tmp_path / "labels.csv").write_bytes("file,label\n1.png,kätzchen\n".encode("latin-1"))
    with pytest.raises(RunError, match="save it as CSV in UTF-8"):
        load(root, labels=tmp_path / "labels.csv")
    with pytest.raises(InputError, match="digits is no folder of pictures"):
        load("digits", labels=tmp_path / "labels.csv")


def test_folders_are_no_classes_beside_a_table_but_parts_are_parts(tmp_path):
    spec = dict.fromkeys(
        ["train/a/1.png", "train/b/2.png", "train/3.png", "test/4.png", "Unlabelled/5.png"], (8, 9)
    )
    root = fill(tmp_path / "set", spec)
    labels = table(tmp_path / "labels.csv", "1.png,cat", "3.png,dog", "4.png,cat")
    data = load(root, labels=labels)
    assert data.classes == ("cat", "dog")
    assert dict(zip(data.files, data.y_train.tolist(), strict=True)) == {
        "Unlabelled/5.png": -1,
        "train/a/1.png": 0,
        "train/b/2.png": -1,
        "train/3.png": 1,
    }
    assert data.y_test.tolist() == [0]
