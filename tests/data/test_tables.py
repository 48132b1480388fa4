"""Tables that are written as their rows come."""

import sys

import pytest
from pyarrow import parquet

from drmm.data import tables
from drmm.data.tables import read_table, table_in_parts
from drmm.errors import InputError, RunError
from drmm.files import read_csv

TYPES = {"file": str, "p": float, "sure": bool}
PARTS = [[("a.png", 0.1234567891, True), ("=b", 1.0, False)], [("c\nd", float("inf"), True)]]


def write(path):
    with table_in_parts(path, TYPES) as add:
        for part in PARTS:
            add(part)
    return path


def stopped(path, error):
    with table_in_parts(path, TYPES) as add:
        add(PARTS[0])
        raise error


def test_csv_as_it_goes(tmp_path):
    rows = read_csv(write(tmp_path / "out.csv"))
    assert [tuple(row.values()) for row in rows] == [
        ("a.png", "0.123456789", "yes"),
        ("=b", "1", "no"),
        ("c\nd", "inf", "yes"),
    ]


def test_parquet_keeps_types(tmp_path):
    for name in ("out.parquet", "out.PQ"):
        rows = read_table(write(tmp_path / name))
        assert [tuple(row.values()) for row in rows] == [row for part in PARTS for row in part]


def test_rows_are_on_the_disk_before_the_end_and_the_name_is_new_in_the_end(tmp_path):
    with table_in_parts(tmp_path / "out.csv", TYPES) as add:
        add(PARTS[0])
        [part] = tmp_path.iterdir()
        assert part.name.startswith(".drmm-")
        assert part.read_text().count("\n") == 3
    assert [file.name for file in tmp_path.iterdir()] == ["out.csv"]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_mistake_leaves_what_was_there(tmp_path, suffix):
    out = tmp_path / f"out{suffix}"
    out.write_text("before")
    with pytest.raises(InputError):
        stopped(out, InputError("a mistake"))
    assert [file.name for file in tmp_path.iterdir()] == [out.name]
    assert out.read_text() == "before"
    write(out)
    assert len(read_table(out)) == 3, "control"


@pytest.mark.parametrize("name", ["out.csv", "out.parquet"])
def test_a_full_disk(tmp_path, monkeypatch, name):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "elsewhere"))
    with pytest.raises(RunError, match=rf"cannot write .*{name}: No space left on .* so far are in ") as told:
        stopped(tmp_path / name, OSError(28, "No space left on device"))
    [kept] = (tmp_path / "elsewhere").iterdir()
    assert str(told.value).endswith(str(kept))
    assert len(read_table(kept)) == 2
    assert not (tmp_path / name).exists()


def test_without_pyarrow(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "replacing", lambda _: pytest.fail("it began"))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"needs pyarrow: pip install 'drmm\[parquet\]', or name a CSV file"):
        write(tmp_path / "out.parquet")


def test_parquet_of_many_parts(tmp_path):
    with table_in_parts(tmp_path / "out.parquet", {"n": int, "x": float}) as add:
        for n in range(5):
            add([(n, n / 7)])
    assert parquet.read_table(tmp_path / "out.parquet").column("n").to_pylist() == [0, 1, 2, 3, 4]
    with table_in_parts(tmp_path / "none.parquet", {"n": int, "x": float}):
        pass
    none = parquet.read_table(tmp_path / "none.parquet")
    assert none.schema == parquet.read_schema(tmp_path / "out.parquet")
    assert len(none) == 0


def test_parquet_is_written_by_many_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "_GROUP", 4)
    with table_in_parts(tmp_path / "out.parquet", {"n": int}) as add:
        for n in range(11):
            add([(n,)])
    with parquet.ParquetFile(tmp_path / "out.parquet") as file:
        assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [4, 4, 3]
        assert file.read().column("n").to_pylist() == list(range(11))


def test_parquet_of_cells_that_are_none_and_names_that_are_no_unicode(tmp_path):
    odd = b"caf\xe9".decode("utf-8", "surrogateescape")
    with table_in_parts(tmp_path / "out.parquet", {odd: str, "x": float, "sure": bool}, {"made": "of"}) as add:
        add([(None, None, None)])
        add([(odd, 0.5, True)])
    table = parquet.read_table(tmp_path / "out.parquet")
    assert table.to_pylist() == [
        {r"caf\udce9": None, "x": None, "sure": None},
        {r"caf\udce9": r"caf\udce9", "x": 0.5, "sure": True},
    ]
    assert table.schema.metadata[b"made"] == b"of"
