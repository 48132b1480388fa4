"""`drmm predict --shard`: the rows of one, in parts that are made once."""

import json
import shutil
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from commands import read_csv, refused
from pyarrow import parquet

from drmm.cli import shards
from drmm.data.tables import cell
from drmm.files import read_json, write_json
from drmm.predicting.rows import Rows


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_all_shards_have_the_rows_of_one_in_order(run, pictures, tmp_path, out, run_drmm) -> None:
    (pictures / "digit2.png").write_bytes(b"no picture")
    (pictures / "notes.txt").write_text("no picture")
    for number in (3, 1, 2):
        code, said, err = run_drmm("predict", run, pictures, "--shard", f"{number}/3", "--out", out)
        assert code == 0, err
        assert f"out/part-{number}-of-3.parquet" in said
        assert "1 skipped: 1 x not a picture (.txt)" in said
    assert "2 predictions written" in said
    assert "1 of 2 pictures cannot be read, such as" in err
    assert err.startswith("warning: ")
    assert names(out) == [f"part-{number}-of-3.parquet" for number in (1, 2, 3)]
    together = parquet.read_table(out)
    code, said, err = run_drmm("predict", run, pictures, "--shard", "1/1", "--out", tmp_path / "one")
    assert code == 0, err
    one = parquet.read_table(tmp_path / "one")
    assert together.equals(one)
    rows = one.to_pylist()
    assert [Path(row["image"]).name for row in rows] == [f"digit{i}.png" for i in range(5)]
    broken = rows.pop(2)
    assert broken["reason"]
    assert {value for name, value in broken.items() if name not in {"image", "reason"}} == {None}
    (pictures / "digit2.png").unlink()
    assert run_drmm("predict", run, pictures, "--out", tmp_path / "out.csv")[0] == 0
    told = [{name: str(cell(value)) for name, value in row.items() if name != "reason"} for row in rows]
    assert told == read_csv(tmp_path / "out.csv"), "as without shards"
    assert {row["reason"] for row in rows} == {""}


@pytest.mark.parametrize("is_data_set", [True, False])
def test_shards_may_lie_in_the_source(is_data_set, run, pictures, run_drmm, monkeypatch) -> None:
    if is_data_set:
        contents = [file.read_bytes() for file in sorted(pictures.iterdir())]
        shutil.rmtree(pictures)
        pictures.mkdir()
        parquet.write_table(pa.table({"image": contents}), pictures / "a.parquet")
    monkeypatch.chdir(pictures)
    for number in (1, 2, 1):
        code, _, err = run_drmm("predict", run, ".", "--shard", f"{number}/2")
        assert code == 0, err
    names = [f"a.parquet[{i}]" for i in range(5)] if is_data_set else [f"digit{i}.png" for i in range(5)]
    assert parquet.read_table("predictions").column("image").to_pylist() == names


def test_names_that_are_no_unicode(run, pictures, out, run_drmm) -> None:
    (pictures / "digit0.png").rename(pictures / b"caf\xe9.png".decode("utf-8", "surrogateescape"))
    (pictures / "digit1.png").rename(pictures / "a\nb.png")
    (pictures / "digit2.png").write_bytes(b"")
    code, _, err = run_drmm("predict", run, pictures, "--shard", "1/1", "--out", out)
    assert (code, err.count("\n")) == (0, 1)
    rows = parquet.read_table(out).column("image").to_pylist()
    assert [name.removeprefix(f"{pictures}/") for name in rows[:2]] == ["a\nb.png", r"caf\udce9.png"]


def test_more_shards_than_pictures(run, pictures, out, run_drmm) -> None:
    for number in range(1, 13):
        assert run_drmm("predict", run, pictures, "--shard", f"{number}/12", "--out", out)[0] == 0
    assert names(out)[0] == "part-01-of-12.parquet"
    assert parquet.read_table(out / "part-01-of-12.parquet").num_rows == 0
    assert parquet.read_table(out).num_rows == 5


@pytest.mark.parametrize("shard", ["0/4", "5/4", "1/0", "1", "1/", "-1/4", "a/b", "1.5/4", "1/4/2", ""])
def test_a_shard_number_out_of_range(shard, run, pictures, out, run_drmm) -> None:
    refused(
        run_drmm("predict", run, pictures, f"--shard={shard}", "--out", out), "the shards of four, say, are 1/4"
    )
    assert not out.exists()
    assert run_drmm("predict", run, pictures, "--shard= 4/4", "--out", out)[0] == 0, "control"


def test_what_is_there_is_not_made_again(run, pictures, tmp_path, out, run_drmm, monkeypatch) -> None:
    words = ["predict", run, pictures, "--shard", "1/2", "--out", out]
    assert run_drmm(*words)[0] == 0
    monkeypatch.setattr(shards, "Rows", lambda *_, **__: pytest.fail("it was made again"))
    code, said, err = run_drmm(*words)
    assert (code, err) == (0, "")
    assert "part-1-of-2.parquet is there already: nothing to do" in said
    words[1] = shutil.copytree(run, tmp_path / "copy")
    assert run_drmm(*words)[0] == 0, "the same model, elsewhere"
    with pytest.raises(pytest.fail.Exception):  # the control
        run_drmm("predict", run, pictures, "--shard", "2/2", "--out", out)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("run", "part-1-of-2.parquet was made by another run: choose another --out"),
        ("promise", "part-1-of-2.parquet was made with other settings: choose another --out"),
        ("classes", "part-1-of-2.parquet was made with other settings: choose another --out"),
        ("source", "part-1-of-2.parquet was made of another source: choose another --out"),
        ("added", "part-1-of-2.parquet was made of another source: choose another --out"),
        ("changed", "part-1-of-2.parquet was made before its pictures changed: choose another --out"),
        ("number", "part-1-of-2.parquet is one of another number of shards: choose another --out"),
        ("foreign", "part-1-of-2.parquet is no shard of drmm predict: choose another --out"),
        ("damaged", "part-1-of-2.parquet is no shard of drmm predict: choose another --out"),
        ("force", "shards replace no file"),
    ],
)
@pytest.mark.parametrize("number", [1, 2])
def test_what_was_made_otherwise_is_not_mixed(
    change, number, says, run, pictures, tmp_path, out, run_drmm
) -> None:
    words = ["predict", run, pictures, "--out", out, "--shard"]
    assert run_drmm(*words, "1/2")[0] == 0
    file, shard = out / "part-1-of-2.parquet", f"{number}/2"
    if change == "run":
        words[1] = shutil.copytree(run, tmp_path / "copy")
        table = read_json(words[1] / "run.json")
        table["data"]["shape"] = "pad"
        write_json(words[1] / "run.json", table)
    elif change in {"promise", "classes", "force"}:
        words[1:1] = {"promise": ["--promise", 0.9], "classes": ["--all-classes"], "force": ["--force"]}[change]
    elif change == "source":
        words[2] = shutil.copytree(pictures, tmp_path / "other")
    elif change == "added":
        shutil.copy(pictures / "digit0.png", pictures / "digit9.png")
    elif change == "changed":
        (pictures / "digit0.png").write_bytes((pictures / "digit0.png").read_bytes() + b"more")
    elif change == "number":
        shard = f"{number}/3"
    elif change == "foreign":
        parquet.write_table(parquet.read_table(file).replace_schema_metadata(None), file)
    elif change == "damaged":
        file.write_bytes(b"PAR1")
    before = file.read_bytes()
    answer = run_drmm(*words, shard)
    if change == "changed" and number == 2:
        assert answer[0] == 0, "its own pictures are as they were"
        return
    refused(answer, says)
    assert names(out) == ["part-1-of-2.parquet"]
    assert file.read_bytes() == before


@pytest.mark.parametrize("change", ["added", "replaced", "removed", "nothing"])
def test_a_source_that_changes_under_way(change, run, pictures, out, run_drmm, monkeypatch) -> None:
    answered = Rows.of_decoded

    def meanwhile(self, found):
        if change == "added":
            shutil.copy(pictures / "digit0.png", pictures / "digit9.png")
        elif change == "replaced":
            shutil.copy(pictures / "digit1.png", pictures / "digit0.png")
        elif change == "removed":
            (pictures / "digit0.png").unlink()
        return answered(self, found)

    monkeypatch.setattr(Rows, "of_decoded", meanwhile)
    answer = run_drmm("predict", run, pictures, "--shard", "1/2", "--out", out)
    if change == "nothing":  # the control
        assert answer[0] == 0, answer[2]
        assert names(out) == ["part-1-of-2.parquet"]
        return
    refused(answer, f"{pictures} changed while it was read: start again")
    assert names(out) == []


def test_a_stop_leaves_nothing_half_written(run, pictures, out, run_drmm, monkeypatch) -> None:
    monkeypatch.setattr(shards, "CERTIFIED_AT_ONCE", 2)
    answered, calls = Rows.of_decoded, []

    def until_stopped(self, found):
        calls.append(len(found))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return answered(self, found)

    monkeypatch.setattr(Rows, "of_decoded", until_stopped)
    assert run_drmm("predict", run, pictures, "--shard", "1/1", "--out", out)[0] == 130
    assert (calls, names(out)) == ([2, 2], [])
    assert run_drmm("predict", run, pictures, "--shard", "1/1", "--out", out)[0] == 0
    assert calls == [2, 2, 2, 2, 1]
    assert parquet.read_table(out).num_rows == 5


def test_what_a_shard_says_of_itself(run, pictures, out, run_drmm) -> None:
    assert run_drmm("predict", run, pictures, "--shard", "2/2", "--out", out, "--promise", 0.9)[0] == 0
    said = json.loads(parquet.read_schema(out / "part-2-of-2.parquet").metadata[b"drmm"])
    assert said["settings"] == "promise 0.9, all classes False"
    assert {name: len(text) for name, text in said.items() if name != "settings"} == {
        "run": 32, "source": 32, "pictures": 32,
    }  # fmt: skip


def test_before_any_work(run, pictures, tmp_path, out, run_drmm, monkeypatch) -> None:
    words = ["predict", run, pictures, "--shard", "1/2", "--out"]
    (tmp_path / "file").touch()
    refused(run_drmm(*words, tmp_path / "file"), "file is no folder")
    for name in ("table.csv", "table.PARQUET"):
        refused(run_drmm(*words, tmp_path / name), f"{name} is to be a folder, of a file for each shard: leave .")
        assert not (tmp_path / name).exists()
    refused(run_drmm("predict", tmp_path, *words[2:], out), "holds no model")
    refused(run_drmm(*words[:2], tmp_path / "gone", *words[3:], out), "no file or folder")
    refused(run_drmm(*words, out, "--promise", 98), "as in 0.98")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refused(run_drmm(*words, out), "--shard needs pyarrow: pip install 'drmm[parquet]'")
    assert not out.exists()
