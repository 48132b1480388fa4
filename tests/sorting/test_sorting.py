"""Where pictures go, what stays as it is, what is refused, and the way back."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from folders import chosen, fill, pictures, tree

from drmm.errors import InputError, RunError
from drmm.files import read_csv
from drmm.sorting.apply import finish_sorting, known_digests, sort_files
from drmm.sorting.plan import check_apart
from drmm.sorting.undo import undo

WAYS = ["copy", "link", "move"]
every_way = pytest.mark.parametrize("how", WAYS)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return fill(tmp_path / "photos")


@pytest.fixture
def into(tmp_path: Path) -> Path:
    return tmp_path / "sorted"


def test_each_picture_goes_where_it_was_decided(photos: Path, into: Path) -> None:
    plan = sort_files(chosen(photos), into, "copy", [("x.txt", "not a picture (.txt)")])
    assert plan is not None
    assert plan.left == {}
    assert set(pictures(into)) == {
        "class 0/0.png",
        "class 1/1.png",
        "_unsure/2.png",
        "_unfamiliar/3.png",
        "class 1/0.png",  # labelled
        "class 2/1.png",
        "class 0/2.png",
    }
    rows = read_csv(into / "sort.csv")
    assert list(rows[0]) == ["file", "sorted", "decision", "label", "confidence"]
    for row in rows:
        assert Path(row["file"]).read_bytes() == (into / row["sorted"]).read_bytes()
    assert read_csv(into / "skipped.csv") == [{"file": "x.txt", "reason": "not a picture (.txt)"}]


@pytest.mark.parametrize("how", ["copy", "link"])
def test_sources_are_never_changed(how: str, photos: Path, into: Path) -> None:
    before = tree(photos)
    changed = {path: path.stat().st_ctime_ns for path in photos.rglob("*")}
    sort_files(chosen(photos), into, how)
    assert tree(photos) == before
    assert {path: path.stat().st_ctime_ns for path in photos.rglob("*")} == changed
    undo(into)
    assert tree(photos) == before
    assert not into.exists()


def test_control_a_move_changes_them(photos: Path, into: Path) -> None:
    before = pictures(photos)
    sort_files(chosen(photos), into, "move")
    assert pictures(photos) == {}
    assert sorted(map(str, pictures(into).values())) == sorted(map(str, before.values()))


@pytest.mark.parametrize("how", ["copy", "move"])
def test_times_and_permissions_are_kept(how: str, photos: Path, into: Path) -> None:
    before = sorted(map(str, pictures(photos).values()))
    sort_files(chosen(photos), into, how)
    assert sorted(map(str, pictures(into).values())) == before


@every_way
def test_files_of_one_name_in_one_class(how: str, photos: Path, into: Path) -> None:
    alike = [replace(choice, label="x", decision="sorted") for choice in chosen(photos)]
    sort_files(reversed(alike), into, how)
    assert sorted(pictures(into)) == [f"x/{name}.png" for name in ("0-2", "0", "1-2", "1", "2-2", "2", "3")]
    # The first in the order of paths keeps its name, whatever the order in which they come.
    assert (into / "x" / "0.png").read_bytes() == b"picture 0"


@every_way
def test_new_pictures_later(how: str, photos: Path, into: Path) -> None:
    sort_files(chosen(photos), into, how)
    first = pictures(into)
    assert sort_files(chosen(photos), into, how) is None, "nothing new"
    (photos / "a" / "new.png").write_bytes(b"new")
    (photos / "a" / "copied.png").write_bytes(b"picture 0")  # what is there already
    both = [replace(choice, label="class 0", decision="sorted") for choice in chosen(photos)]
    plan = sort_files(both, into, how)
    assert plan is not None
    assert [step.target for step in plan.steps] == ["class 0/new.png"]
    assert {**pictures(into), **first} == pictures(into)
    assert len(read_csv(into / "sort.csv")) == 8
    undo(into)
    assert len(pictures(photos)) == 9
    assert not into.exists()


def test_what_was_taken_out_of_the_sorted_ones_does_not_come_back(photos: Path, into: Path) -> None:
    sort_files(chosen(photos), into, "copy")
    (into / "_unsure" / "2.png").rename(into / "class 0" / "mine.png")
    assert sort_files(chosen(photos), into, "copy") is None
    assert not (into / "_unsure" / "2.png").exists()


def test_a_source_that_changes_meanwhile_is_left(photos: Path, into: Path) -> None:
    for how in WAYS:
        choices = chosen(photos)
        (photos / "a" / "0.png").write_bytes(b"pixture 0")  # as long as before
        (photos / "a" / "1.png").unlink()
        plan = sort_files([choice for choice in choices if choice.source.name == "0.png"], into, how)
        assert plan is not None
        assert list((plan.left or {}).values()) == ["changed since it was looked at"]
        assert read_csv(into / "skipped.csv")[0]["reason"] == "changed since it was looked at"
        with pytest.raises(RunError, match=r"1\.png: No such file"):
            sort_files(choices[1:2], into, how)
        # As it is now it is sorted, the next time.
        sort_files(chosen(photos), into, how)
        assert read_csv(into / "skipped.csv") == []
        undo(into)
        shutil.rmtree(photos)
        fill(photos)


def test_a_link_is_sorted_as_what_it_leads_to(tmp_path: Path, photos: Path, into: Path) -> None:
    outside = tmp_path / "outside.png"
    outside.write_bytes(b"outside")
    link = photos / "link.png"
    link.symlink_to("../outside.png")
    before = tree(photos)
    for how in WAYS:
        only = [replace(choice, label="x", decision="sorted") for choice in chosen(photos)]
        sort_files([choice for choice in only if choice.source == link], into, how)
        made = into / "x" / "link.png"
        assert made.read_bytes() == b"outside"
        assert made.is_symlink() == (how != "copy")
        assert link.is_symlink() == (how != "move")
        assert outside.read_bytes() == b"outside"
        undo(into)
        assert tree(photos) == before


def test_hard_links_are_two_pictures(photos: Path, into: Path) -> None:
    os.link(photos / "a" / "0.png", photos / "a" / "same.png")
    before = tree(photos)
    for how in WAYS:
        sort_files(chosen(photos), into, how)
        assert len(pictures(into)) == 8
        undo(into)
        assert tree(photos) == before


# --- refused ---------------------------------------------------------------------------------------------


def test_a_folder_that_holds_anything_else(photos: Path, into: Path) -> None:
    into.mkdir()
    (into / "mine.txt").write_text("mine")
    with pytest.raises(RunError, match="not from sorting"):
        sort_files(chosen(photos), into, "copy")
    assert set(tree(into)) == {"mine.txt"}
    (into / "mine.txt").unlink()
    (into / "_run").mkdir()  # a model that was trained for it
    assert sort_files(chosen(photos), into, "copy")


@pytest.mark.parametrize("inner", ["", "a", "a/deep/er"])
def test_folders_within_each_other(inner: str, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(photos)
    for name in ("photos", "alias"):
        with pytest.raises(RunError, match="lies in"):
            check_apart(photos, tmp_path / name / inner)
        with pytest.raises(RunError, match="lies in"):
            check_apart(tmp_path / name / "a", tmp_path / name)
    check_apart(photos, tmp_path / "photos 2")


@pytest.mark.parametrize("how", ["copy", "move"])
def test_a_disk_that_is_too_small(how: str, photos: Path, into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=7 * 4096 - 1))
    if how == "copy":
        before = tree(photos)
        with pytest.raises(RunError, match=r"take 28\.7 kB, and the disk of .* has 28\.7 kB left"):
            sort_files(chosen(photos), into, how)
        assert tree(photos) == before
        assert not into.exists()
        sort_files(chosen(photos)[1:], into, how)
    else:
        sort_files(chosen(photos), into, how)  # it takes no room


def test_a_disk_that_fills_meanwhile(photos: Path, into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = shutil.copy2, []

    def full(*paths: Path) -> None:
        calls.append(paths)
        if len(calls) == 4:
            raise OSError(28, "No space left on device")
        real(*paths)

    monkeypatch.setattr(shutil, "copy2", full)
    with pytest.raises(RunError, match="No space left on device; mend that and give the same command again"):
        sort_files(chosen(photos), into, "copy")
    assert len(pictures(into)) == 3
    assert finish_sorting(into)
    assert len(pictures(into)) == 7
    assert len(calls) == 8, "none is copied twice"


def test_pictures_that_cannot_be_moved_away(photos: Path, into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "b" and access(path, mode))
    before = tree(photos)
    with pytest.raises(RunError, match=r"photos/b, which is read-only: copy or link"):
        sort_files(chosen(photos), into, "move")
    assert tree(photos) == before
    assert not into.exists()
    assert sort_files(chosen(photos), into, "copy")


def test_a_picture_that_may_not_be_removed_stays(
    photos: Path, into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlink = Path.unlink

    def sticky(path: Path, missing_ok: bool = False) -> None:
        if path.parts[-2:] == ("a", "0.png"):
            raise PermissionError(1, "Operation not permitted")
        unlink(path, missing_ok)

    before = pictures(photos)
    monkeypatch.setattr(Path, "unlink", sticky)
    plan = sort_files(chosen(photos), into, "move")
    assert plan is not None
    assert plan.left == {"class 0/0.png": "Operation not permitted"}
    assert set(pictures(photos)) == {"a/0.png"}
    assert not (into / "class 0" / "0.png").exists()
    undo(into)
    assert pictures(photos) == before


@pytest.mark.parametrize("name", ["", 300 * "a"])
def test_a_class_that_no_folder_can_be_called(name: str, photos: Path, into: Path) -> None:
    with pytest.raises(InputError, match="class"):
        sort_files([replace(choice, label=name) for choice in chosen(photos)], into, "copy")
    assert not into.exists()


def test_a_file_where_a_folder_is_to_be(photos: Path, into: Path) -> None:
    sort_files(chosen(photos)[:1], into, "copy")
    (into / "class 1").write_text("mine")
    with pytest.raises(RunError, match="class 1 is a file"):
        sort_files(chosen(photos), into, "copy")
    assert (into / "class 1").read_text() == "mine"


def test_a_file_that_appears_meanwhile_is_not_replaced(
    photos: Path, into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("drmm.sorting.plan._names_in", lambda _: [])
    for how in WAYS:
        sort_files(chosen(photos)[:1], into, "copy")
        mine = into / "class 1" / "1.png"
        mine.parent.mkdir()
        mine.write_bytes(b"mine")
        plan = sort_files(chosen(photos), into, how)
        assert plan is not None
        assert plan.left == {"class 1/1.png": f"another file is at {mine}"}
        undone = undo(into)
        assert undone.kept == {"class 1/1.png": "not made by sorting"}
        assert mine.read_bytes() == b"mine"
        shutil.rmtree(into)


# --- back ------------------------------------------------------------------------------------------------


@every_way
def test_what_was_changed_or_added_is_kept(how: str, photos: Path, into: Path) -> None:
    before = pictures(photos)
    sort_files(chosen(photos), into, how)
    (into / "class 0" / "note.txt").write_text("mine")
    (into / "_run").mkdir()
    changed = into / "class 1" / "1.png"
    changed.unlink()
    changed.write_bytes(b"pixture 2pixture 2pixture 2")
    undone = undo(into)
    assert undone.back == 6
    assert not undone.to_try_again
    assert sorted(undone.kept) == ["_run", "class 0/note.txt", "class 1/1.png"]
    assert "changed since it was sorted" in undone.kept["class 1/1.png"]
    assert set(tree(into)) == {"_run", "class 0", "class 0/note.txt", "class 1", "class 1/1.png"}
    missing = {"a/1.png"} if how == "move" else set()
    assert pictures(photos) == {name: what for name, what in before.items() if name not in missing}


@every_way
def test_what_was_moved_on_by_hand(how: str, photos: Path, into: Path) -> None:
    before = pictures(photos)
    sort_files(chosen(photos), into, how)
    moved = into / "class 2" / "renamed.png"
    (into / "_unsure" / "2.png").rename(moved)
    undone = undo(into)
    assert pictures(photos) == before
    assert undone.gone == []
    assert moved.exists() == (how != "move"), "a copy is not known to be ours any more"


def test_another_file_at_the_old_place_is_not_replaced(photos: Path, into: Path) -> None:
    before = pictures(photos)
    sort_files(chosen(photos), into, "move")
    old = photos / "a" / "0.png"
    old.write_bytes(b"newer!!!!")
    undone = undo(into)
    assert undone.to_try_again
    assert undone.kept == {"class 0/0.png": f"another file is at {old}"}
    assert old.read_bytes() == b"newer!!!!"
    assert (into / "class 0" / "0.png").read_bytes() == b"picture 0"
    for refused in (lambda: sort_files([], into, "copy"), lambda: known_digests(into)):
        with pytest.raises(RunError, match="being taken back: finish that"):
            refused()
    old.unlink()
    undone = undo(into)
    assert (undone.kept, undone.to_try_again) == ({}, False)
    assert pictures(photos) == before
    assert not into.exists()


def test_a_source_that_was_changed_after_it_was_copied(photos: Path, into: Path) -> None:
    sort_files(chosen(photos), into, "copy")
    old = photos / "a" / "0.png"
    old.write_bytes(b"newer")
    sort_files(chosen(photos), into, "copy")
    assert (into / "class 0" / "0-2.png").read_bytes() == b"newer"
    undone = undo(into)
    assert undone.kept == {"class 0/0.png": f"another file is at {old}"}
    assert not undone.to_try_again
    assert set(pictures(into)) == {"class 0/0.png"}
    assert old.read_bytes() == b"newer"


def test_a_source_folder_that_is_gone_is_made_again(photos: Path, into: Path) -> None:
    for how in ("copy", "move"):
        before = pictures(photos)
        sort_files(chosen(photos), into, how)
        shutil.rmtree(photos)
        assert undo(into).back == 7
        assert pictures(photos) == before


def test_pictures_that_are_nowhere_are_named(photos: Path, into: Path) -> None:
    sort_files(chosen(photos), into, "move")
    (into / "class 0" / "0.png").unlink()
    undone = undo(into)
    assert undone.gone == [str(photos / "a" / "0.png")]
    assert undone.back == 6


def test_tables_that_were_written_in_are_kept(photos: Path, into: Path) -> None:
    sort_files(chosen(photos), into, "copy")
    with (into / "sort.csv").open("a") as file:
        file.write("mine\n")
    assert undo(into).kept == {"sort.csv": "not made by sorting"}
    assert set(tree(into)) == {"sort.csv"}


def test_a_folder_that_was_moved_away_can_be_taken_back(photos: Path, into: Path, tmp_path: Path) -> None:
    before = pictures(photos)
    sort_files(chosen(photos), into, "move")
    into.rename(tmp_path / "elsewhere")
    undo(tmp_path / "elsewhere")
    assert pictures(photos) == before


def test_nothing_to_take_back(photos: Path, tmp_path: Path) -> None:
    for folder in (photos, tmp_path / "nothing"):
        with pytest.raises(RunError, match="no folder of drmm sort"):
            undo(folder)


@pytest.mark.parametrize(
    "damage", [lambda text: text[:40], lambda text: text.replace("digest", "x"), lambda _: "[]"]
)
def test_a_damaged_plan_is_one_line(damage: Callable[[str], str], photos: Path, into: Path) -> None:
    sort_files(chosen(photos), into, "copy")
    plan = into / ".drmm" / "1.json"
    plan.write_text(damage(plan.read_text()))
    for action in (lambda: undo(into), lambda: sort_files([], into, "copy")):
        with pytest.raises(RunError, match=r"1\.json is damaged"):
            action()
    assert len(pictures(into)) == 7
