"""`drmm sort` and `drmm audit` as a user gives them."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import QUICK, read_csv, refused, sets
from PIL import Image
from sklearn.datasets import load_digits

from drmm.cli import sort as sorting
from drmm.data import load
from drmm.errors import RunError
from drmm.files import write_csv
from drmm.report.answers import Sorting
from drmm.sorting import apply


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """Thirty pictures in nested folders, some called the same, with a broken one and a note."""
    folder = tmp_path / "digits"
    for i, levels in enumerate(load_digits().images[:30]):
        file = folder / "abc"[i % 3] / f"{i // 3}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((levels * 15.9).astype(np.uint8)).save(file)
    (folder / "a" / "broken.png").write_bytes(b"no picture")
    (folder / "note.txt").write_text("a note")
    return folder


REPORT = sorting.write_report


@pytest.fixture(autouse=True)
def _report(monkeypatch: pytest.MonkeyPatch) -> None:
    """No report, which takes a while, but the names that it would show."""

    def report(_: Path, out: Path, sorting: Sorting) -> None:
        out.write_text(" ".join(answer.file for answer in sorting.answers), errors="replace")

    monkeypatch.setattr(sorting, "write_report", report)


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("way", [[], ["--copy"], ["--link"], ["--move"]])
def test_there_and_back(
    way: list[str], run: Path, digits: Path, tmp_path: Path, run_drmm, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not way:
        monkeypatch.setattr(sorting, "write_report", REPORT)
    before, into = everything(digits), tmp_path / "sorted"
    code, out, err = run_drmm("sort", digits, "--into", into, "--run", run, "--promise", 0.5, *way)
    assert code == 0, err
    assert "2 skipped: 1 x not a picture (.txt), 1 x no complete picture is in it" in out
    rows = read_csv(into / "sort.csv")
    assert len(rows) == 30
    for row in rows:
        content = before[str(Path(row["file"]).relative_to(digits))]
        assert (into / row["sorted"]).read_bytes() == content
        assert (into / row["sorted"]).is_symlink() == (way == ["--link"])
        folders = {"unsure": "_unsure", "unfamiliar": "_unfamiliar", "sorted": row["label"]}
        assert row["sorted"].partition("/")[0] == folders[row["decision"]]
        assert row["second"] != row["label"]
    assert {row["file"].rpartition("/")[2] for row in read_csv(into / "skipped.csv")} == {"broken.png", "note.txt"}
    page = (into / "report.html").read_text()
    if not way:  # the real one
        assert "30 pictures of " in page
        assert "note.txt" not in page
    assert any(f"{Path(row['file']).relative_to(digits)}" in page for row in rows)
    left = everything(digits)
    assert set(left) == ({"a/broken.png", "note.txt"} if way == ["--move"] else set(before))
    code, out, err = run_drmm("sort", digits, "--into", into, "--run", run)
    assert (code, out.splitlines()[-1]) == (0, f"no new pictures in {digits}"), err
    code, out, err = run_drmm("sort", "--undo", into)
    assert (code, out) == (0, "30 pictures are where they were\n"), err
    assert everything(digits) == before
    assert not into.exists()


def test_as_predicted(run: Path, digits: Path, tmp_path: Path, run_drmm) -> None:
    (digits / "a" / "broken.png").unlink()
    Image.new("L", (8, 8), 255).save(digits / "white.png")
    run_drmm("predict", run, digits, "--out", tmp_path / "p.csv", "--promise", 0.01)
    run_drmm("sort", digits, "--into", tmp_path / "sorted", "--run", run, "--promise", 0.01)
    names = ("label", "confidence", "second", "second_confidence", "familiarity", "decision")
    predicted = {row["image"]: [row[name] for name in names] for row in read_csv(tmp_path / "p.csv")}
    rows = read_csv(tmp_path / "sorted" / "sort.csv")
    assert {row["file"]: [row[name] for name in names] for row in rows} == predicted
    assert len({row["decision"] for row in rows}) > 1, "control"
    assert len(predicted) == 31


def test_the_report_is_of_what_was_sorted_last(run: Path, digits: Path, tmp_path: Path, run_drmm) -> None:
    into = tmp_path / "sorted"
    sort = ["sort", digits, "--into", into, "--run", run]
    run_drmm(*sort)
    assert len((into / "report.html").read_text().split()) == 30
    Image.new("L", (8, 8), 255).save(digits / "new.png")
    run_drmm(*sort)
    assert (into / "report.html").read_text() == "new.png"


def test_new_pictures_and_a_dry_run(run: Path, digits: Path, tmp_path: Path, run_drmm) -> None:
    into = tmp_path / "sorted"
    sort = ["sort", digits, "--into", into, "--run", run, "--promise", 0.01]
    code, out, err = run_drmm(*sort, "--dry-run")
    assert code == 0, err
    assert out.endswith("nothing was written\n")
    assert not into.exists()
    counted = sum(int(line.split()[1]) for line in out[out.index("such as") :].splitlines()[1:-1])
    assert counted == 30
    run_drmm(*sort)
    before = everything(into)
    shutil.copy(digits / "b" / "1.png", digits / "again.png")
    Image.new("L", (20, 30), 200).save(digits / "new.png")
    code, out, err = run_drmm(*sort, "--dry-run")
    assert "new.png" in out
    assert "again.png" not in out
    assert everything(into) == before
    run_drmm(*sort)
    assert len(read_csv(into / "sort.csv")) == 31


def test_after_a_stop_the_same_command_goes_on(
    run: Path, digits: Path, tmp_path: Path, run_drmm, monkeypatch: pytest.MonkeyPatch
) -> None:
    into, before = tmp_path / "sorted", everything(digits)
    move, moves = apply.move, []

    def stopped(*paths: object) -> bool:
        moves.append(paths)
        if len(moves) == 12:
            raise KeyboardInterrupt
        return move(*paths)  # type: ignore[arg-type]

    words = ["sort", digits, "--into", into, "--run", run, "--move"]
    with monkeypatch.context() as patch:
        patch.setattr(apply, "move", stopped)
        code, _, err = run_drmm(*words)
        assert code == 130
        assert "a sort with the same command" in err
    assert not (into / "sort.csv").exists()
    code, out, err = run_drmm(*words)
    assert code == 0, err
    assert f"finished what was stopped before: 30 pictures are in {into}" in out
    rows = read_csv(into / "sort.csv")
    assert {Path(row["file"]).relative_to(digits).as_posix() for row in rows} == {
        name for name in before if name.endswith(".png") and "broken" not in name
    }
    run_drmm("sort", "--undo", into)
    assert everything(digits) == before


TRAINED = [*QUICK, *sets("training.epochs=1", "model.width=2", "trust.folds=2")]


def classes(folder: Path) -> Path:
    """Six labelled pictures of three classes, and six without a label."""
    names = [f"{name}/{i}.png" for name in ("CON", "_unsure", "cat") for i in range(2)]
    for i, name in enumerate([*names, *(f"unlabelled/{i}.png" for i in range(6))]):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (12, 12), 20 * i).save(folder / name)
    return folder


@pytest.mark.filterwarnings("ignore:fewer than 3 labels")
def test_without_a_run_one_is_trained_and_labels_count(tmp_path: Path, run_drmm) -> None:
    folder, into = classes(tmp_path / "set"), tmp_path / "sorted"
    words = ["sort", folder, "--into", into, "--promise", 0.01, *TRAINED]
    code, out, err = run_drmm(*words, "--dry-run")
    assert code == 0, err
    assert "the model was not kept" in out
    assert not into.exists()
    code, out, err = run_drmm(*words)
    assert code == 0, err
    assert "training a model first, into" in out
    by_label = [row for row in read_csv(into / "sort.csv") if row["decision"] == "labelled"]
    assert {row["sorted"]: row["label"] for row in by_label} == {
        f"{name}/{i}.png": label
        for name, label in (("%43ON", "CON"), ("%5Funsure", "_unsure"), ("cat", "cat"))
        for i in range(2)
    }
    assert set(load(into).classes) == {"CON", "_unsure", "cat"}, "what was sorted can be learned from"
    Image.new("L", (12, 12), 250).save(folder / "unlabelled" / "new.png")
    code, out, err = run_drmm(*words)
    assert code == 0, err
    assert "which was trained before" in out
    assert len(read_csv(into / "sort.csv")) == 13
    code, out, err = run_drmm("sort", "--undo", into)
    assert f"kept {into / '_run'}: the model that was trained" in out
    code, out, err = run_drmm(*words)
    assert code == 0, err
    assert len(read_csv(into / "sort.csv")) == 13


def test_what_is_refused(run: Path, digits: Path, tmp_path: Path, run_drmm) -> None:
    into = tmp_path / "sorted"
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "mine.txt").write_text("mine")
    archive = tmp_path / "x.zip"
    archive.write_bytes(b"PK")
    (tmp_path / "empty").mkdir()
    before = everything(tmp_path)
    for words, says in [
        ([tmp_path / "empty", "--into", into, "--run", run], "empty holds no pictures that can be read: add some"),
        ([digits], "drmm sort PICTURES --into SORTED"),
        (["--into", into], "drmm sort PICTURES --into SORTED"),
        ([digits, "--into", into, "--link", "--move"], "choose one of --link and --move"),
        ([digits, "--into", into, "--run", tmp_path / "no"], "no holds no model"),
        ([tmp_path / "no", "--into", into], "no is no folder"),
        ([archive, "--into", into], "unpack an archive first"),
        ([digits, "--into", digits, "--run", run], "lies in"),
        ([digits, "--into", digits / "x", "--run", run], "lies in"),
        ([digits / "a", "--into", digits, "--run", run], "lies in"),
        ([digits, "--into", mine, "--run", run], "mine exists: it holds what is not from sorting"),
        ([digits, "--into", mine / "mine.txt", "--run", run], "exists"),
        ([digits, "--into", into, "--run", run, "--promise", 98], "a promise is the share"),
        ([digits, "--into", into, "--run", run, "--promise", "nan"], "a promise is the share"),
        ([digits, "--into", into, "--run", run, "--size", 8], "leave --size out"),
        ([digits, "--into", into, "--run", run, "--recipe", "kl"], "leave --recipe out"),
        ([digits, "--into", into, "--recipe", "none"], "no recipe"),
        ([digits, "--into", into, "--run", run, "--prior", "estimate"], "leave --prior out"),
        ([digits, "--into", into, "--run", run, *QUICK], "leave --set out"),
        ([digits, "--into", into, "--set", "training.epoch=1"], "no setting training.epoch"),
        (["--undo", into, "--shape", "pad"], "--undo takes the folder of sorted pictures alone"),
        (["--undo", into, *QUICK], "--undo takes the folder of sorted pictures alone"),
        (["--undo"], "drmm sort --undo SORTED"),
        (["--undo", into, "--dry-run"], "--undo takes the folder of sorted pictures alone"),
        (["--undo", into, "--move"], "--undo takes the folder of sorted pictures alone"),
        (["--undo", mine], "mine is no folder of drmm sort"),
        (["--undo", into], "sorted is no folder of drmm sort"),
    ]:
        refused(run_drmm("sort", *words), says)
    assert everything(tmp_path) == before


@pytest.mark.parametrize("refuses", ["_check_removable", "check_room"])
def test_what_is_refused_in_the_end_leaves_nothing(
    refuses: str, run: Path, digits: Path, tmp_path: Path, run_drmm, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RunError("no room")

    command = ["sort", digits, "--into", tmp_path / "sorted", "--run", run, "--move"]
    with monkeypatch.context() as patch:
        patch.setattr(f"drmm.sorting.{'apply' if refuses == 'check_room' else 'plan'}.{refuses}", refuse)
        refused(run_drmm(*command), "no room")
    assert not (tmp_path / "sorted").exists(), "not even a report"
    assert run_drmm(*command)[0] == 0
    assert (tmp_path / "sorted" / "report.html").exists(), "control"


def test_an_audit_is_proposed_where_there_is_something_to_look_at(
    run: Path, digits: Path, tmp_path: Path, run_drmm
) -> None:
    for promise, proposed in ((0.999999, False), (0.2, True)):
        into = tmp_path / str(promise)
        _, out, _ = run_drmm("sort", digits, "--into", into, "--run", run, "--promise", promise)
        assert (f"drmm audit {into}" in out) == proposed
        assert (run_drmm("audit", into)[0] == 0) == proposed


def test_names_of_all_kinds(run: Path, digits: Path, tmp_path: Path, run_drmm) -> None:
    into = tmp_path / "sorted"
    odd = ["=1+1.png", "a\nb.png", "\udcff.png", "[red].png", "é.png", "e\u0301.png", 80 * "名" + ".png", "-2.png"]
    for i, name in enumerate(odd):
        Image.new("L", (8, 8), 30 * i).save(digits / name)
    before = everything(digits)
    code, out, err = run_drmm("sort", digits, "--into", into, "--run", run, "--move", "--promise", 0.01)
    assert code == 0, err
    assert len(read_csv(into / "sort.csv")) == 38
    code, out, err = run_drmm("audit", into, "--n", 38)
    assert code == 0, err
    answer(into)
    code, out, err = run_drmm("audit", into)
    assert "pictures: 0 wrong" in out, err
    (into / "audit.csv").unlink()
    code, out, err = run_drmm("sort", "--undo", into)
    assert code == 0, err
    assert everything(digits) == before


def test_links_and_what_they_lead_to(run: Path, digits: Path, tmp_path: Path, run_drmm) -> None:
    """A move takes the file, not a link to it that comes first, and nothing that lies outside."""
    into, outside = tmp_path / "sorted", tmp_path / "outside"
    outside.mkdir()
    (digits / "b" / "9.png").rename(outside / "far.png")
    (digits / "0 link.png").symlink_to("a/0.png")
    (digits / "elsewhere").symlink_to(outside)
    before = everything(digits)
    code, _, err = run_drmm("sort", digits, "--into", into, "--run", run, "--move", "--promise", 0.01)
    assert code == 0, err
    assert (outside / "far.png").exists()
    assert not (digits / "a" / "0.png").exists()
    assert not any(path.is_symlink() for path in into.rglob("*"))
    reasons = {Path(row["file"]).name: row["reason"] for row in read_csv(into / "skipped.csv")}
    assert reasons["0 link.png"] == "read already (as a/0.png)"
    assert reasons["far.png"].startswith("not moved")
    run_drmm("sort", "--undo", into)
    assert everything(digits) == before


def test_a_flat_folder_with_a_table_of_labels(tmp_path: Path, run: Path, run_drmm) -> None:
    folder, into, table = tmp_path / "set", tmp_path / "sorted", tmp_path / "labels.csv"
    folder.mkdir()
    for i in range(12):
        Image.new("L", (12, 14), 20 * i).save(folder / f"{i}.png")
    write_csv(table, ["file", "label"], [(f"{i}.png", "dark" if i < 3 else "light") for i in range(6)])
    words = ["sort", folder, "--into", into, "--labels", table, "--promise", 0.01, *TRAINED]
    refused(run_drmm(*words, "--run", run), "--run has learned already: leave --labels out")
    code, out, err = run_drmm(*words)
    assert code == 0, err
    rows = read_csv(into / "sort.csv")
    assert len(rows) == 12
    assert {row["sorted"] for row in rows if row["decision"] == "labelled"} == {
        f"{'dark' if i < 3 else 'light'}/{i}.png" for i in range(6)
    }
    Image.new("L", (12, 14), 250).save(folder / "new.png")
    out = run_drmm(*words)[1]
    assert "labels in" not in out
    assert len(read_csv(into / "sort.csv")) == 13
    write_csv(table, ["file", "label"], [(f"{i}.png", "dark" if i < 4 else "light") for i in range(1, 7)])
    Image.new("L", (12, 14), 252).save(folder / "newer.png")
    out = run_drmm(*words)[1]
    assert "3 labels in" in out, "0 has none now, 3 another one, 6 one"
    assert "to train anew, sort into another folder" in out
    Image.new("L", (12, 14), 254).save(folder / "newest.png")
    assert run_drmm(*words, "--dry-run", "--recipe", "few-labels")[0] == 0, "as it was"
    for option, name in ((["--size", 8], "data.size"), (["--shape", "pad"], "data.shape")):
        refused(run_drmm(*words, *option), f"was trained with another {name}: leave that out, or train anew")
    refused(run_drmm(*words, "--prior", "uniform"), "another objective.prior")
    refused(run_drmm(*words, "--recipe", "kl"), "another objective.reconstruction")
    refused(run_drmm(*words, "--set", "model.width=3"), "another model.width")
    assert len(read_csv(into / "sort.csv")) == 14


@pytest.mark.filterwarnings("ignore:fewer than 3 labels")
def test_killed_before_training_began(tmp_path: Path, run_drmm) -> None:
    folder, into = classes(tmp_path / "set"), tmp_path / "sorted"
    (into / "_run").mkdir(parents=True)
    (into / "_run" / ".drmm-0123456789abcdef").write_text("{")
    code, _, err = run_drmm("sort", folder, "--into", into, *TRAINED)
    assert code == 0, err


def test_what_cannot_be_learned_leaves_nothing(digits: Path, tmp_path: Path, run_drmm) -> None:
    table, into = tmp_path / "labels.csv", tmp_path / "sorted"
    write_csv(table, ["file", "label"], [("a/0.png", "zero"), ("a/1.png", "zero")])
    refused(run_drmm("sort", digits, "--into", into, "--labels", table), "only one class, zero: label images of")
    assert not into.exists()


def test_more_than_half_unreadable(run: Path, digits: Path, tmp_path: Path, run_drmm) -> None:
    for i in range(31):
        (digits / f"{i}.jpg").write_bytes(b"broken")
    answer = run_drmm("sort", digits, "--into", tmp_path / "sorted", "--run", run)
    refused(answer, "cannot read picture", "nor 31 others of 62")
    assert not (tmp_path / "sorted").exists()
    (digits / "0.jpg").unlink()
    (digits / "1.jpg").unlink()
    code, _, err = run_drmm("sort", digits, "--into", tmp_path / "sorted", "--run", run)
    assert code == 0, err


# --- audit -----------------------------------------------------------------------------------------------


def answer(into: Path, *wrong: int, blank: int = 0) -> None:
    rows = read_csv(into / "audit.csv")
    for i, row in enumerate(rows):
        row["right"] = "" if i >= len(rows) - blank else "No" if i in wrong else "YES "
    write_csv(into / "audit.csv", list(rows[0]), [list(row.values()) for row in rows])


@pytest.fixture
def sorted_digits(run: Path, digits: Path, tmp_path: Path, run_drmm) -> Path:
    run_drmm("sort", digits, "--into", tmp_path / "sorted", "--run", run, "--promise", 0.01)
    return tmp_path / "sorted"


def test_an_audit(sorted_digits: Path, run_drmm) -> None:
    into = sorted_digits
    code, out, err = run_drmm("audit", into, "--n", 12, "--promise", 0.8)
    assert code == 0, err
    assert out.startswith("12 of 30 pictures to look at")
    rows = read_csv(into / "audit.csv")
    assert [list(row) for row in rows] == 12 * [["number", "file", "class", "right"]]
    assert all((into / row["file"]).exists() and row["class"] == row["file"].partition("/")[0] for row in rows)
    page = (into / "audit.html").read_text()
    assert page.count("data:image/jpeg") == 12
    assert all(f">{row['file']}<" in page for row in rows)
    assert "has no answers yet" in run_drmm("audit", into)[1]
    answer(into)
    code, out, err = run_drmm("audit", into, "--promise", 0.8)
    # Of 30 with 5 wrong, 12 that are all right are drawn with a probability of 6.0 %, with 6 wrong of 3.1 %.
    assert out.splitlines()[1:] == [
        "at most 16.67 % of them all are wrong (5), at 95 % confidence",
        "the promise of 80 % holds",
    ]
    assert "not shown: it takes 11 more that are all right" in run_drmm("audit", into, "--promise", 0.95)[1]


def test_an_audit_that_goes_on(sorted_digits: Path, run_drmm) -> None:
    into = sorted_digits
    run_drmm("audit", into, "--n", 12)
    answer(into, 3)
    first = read_csv(into / "audit.csv")
    assert "12 of 30 pictures: 1 wrong" in run_drmm("audit", into)[1]
    out = run_drmm("audit", into, "--n", 20)[1]
    assert out.startswith("8 of 30 pictures")
    rows = read_csv(into / "audit.csv")
    assert [row | {"right": row["right"].lower().strip()} for row in rows[:12]] == [
        row | {"right": row["right"].lower().strip()} for row in first
    ]
    assert len({row["file"] for row in rows}) == 20
    answer(into, 3, blank=2)
    out = run_drmm("audit", into, "--promise", 0.9)[1]
    assert "2 are not filled in, and count as wrong" in out
    assert "at 90 % confidence, for 2 looks" in out
    assert "fill in the others" in out
    assert "does not hold: it allows 0 wrong ones" in run_drmm("audit", into, "--promise", 0.99)[1]


def test_answers_that_are_none(sorted_digits: Path, run_drmm) -> None:
    into = sorted_digits
    run_drmm("audit", into, "--n", 5)
    good = (into / "audit.csv").read_text()
    for bad, says in [
        (good.replace(",\n", ",maybe\n"), "write yes or no"),
        (good.replace(",", ";"), "with commas between"),
        ("\n".join(good.splitlines()[:3]), "other pictures than were drawn"),
        ("", "other pictures than were drawn"),
    ]:
        (into / "audit.csv").write_text(bad)
        refused(run_drmm("audit", into), "audit.csv", says)
    (into / "audit.csv").unlink()
    run_drmm("audit", into, "--n", 5)
    assert (into / "audit.csv").read_text() == good, "the same seed"


def test_a_draw_of_all(sorted_digits: Path, run_drmm) -> None:
    run_drmm("audit", sorted_digits, "--n", 1000)
    answer(sorted_digits, 1, 2)
    for _ in range(2):
        out = run_drmm("audit", sorted_digits, "--n", 1000, "--promise", 0.9)[1]
        assert "at most 6.67 % of them all are wrong (2), at 95 % confidence\nthe promise of 90 % holds" in out


def test_an_audit_is_refused(sorted_digits: Path, digits: Path, run: Path, tmp_path: Path, run_drmm) -> None:
    refused(run_drmm("audit", digits), "no folder of drmm sort")
    refused(run_drmm("audit", sorted_digits, "--promise", 1), "a promise is the share")
    run_drmm("sort", digits, "--into", tmp_path / "unsure", "--run", run, "--promise", 0.999999)
    refused(run_drmm("audit", tmp_path / "unsure"), "no picture in", "was sorted by a model")
    (sorted_digits / "audit.csv").write_text("mine")
    refused(run_drmm("audit", sorted_digits), "of no audit here", "--force")


def test_undo_keeps_answers(sorted_digits: Path, run_drmm) -> None:
    run_drmm("audit", sorted_digits, "--n", 5)
    answer(sorted_digits)
    out = run_drmm("sort", "--undo", sorted_digits)[1]
    assert "kept" in out
    assert set(everything(sorted_digits)) == {"audit.csv"}


def test_sorting_itself_needs_no_torch() -> None:
    script = (
        "import sys, drmm.sorting.apply, drmm.sorting.undo, drmm.sorting.plan; "
        "sys.exit(bool({'torch', 'matplotlib', 'sklearn'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
    assert torch, "control: it is there"
