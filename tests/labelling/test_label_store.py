import copy
import os
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from picture_folders import pictures

from drmm.data import load_folder_splits
from drmm.data.label_files import read_labels
from drmm.errors import InputError, RunError
from drmm.labelling.pool import Pool
from drmm.labelling.store import Store, store_file

A, B, C = ("a" * 32, "b" * 32, "c" * 32)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "pictures.labels.sqlite"


# --- against a simple model: what there was after each deed ----------------------------------------------


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.file = Path(self.folder.name) / "labels.sqlite"
        self.store = Store(self.file)
        self.past = [({}, {}, set())]  # classes, labels, skipped
        self.future = []
        self.events = self.made = 0

    def did(self, change) -> None:
        now = copy.deepcopy(self.past[-1])
        change(*now)
        self.past.append(now)
        self.future = []
        self.events += 1

    @property
    def numbers(self) -> list[int]:
        return sorted(self.past[-1][0])

    @rule(
        name=st.sampled_from(["cat", "dog", "=1+1", "Cat", "é", "a,b"]), first=st.sampled_from([(), (A,), (B, C)])
    )
    def add(self, name, first):
        if name in self.past[-1][0].values():
            with pytest.raises(InputError, match="already"):
                self.store.add_class(name, first)
            return
        number = self.store.add_class(name, first)
        assert number == self.made, "numbers are never used again"
        self.made += 1

        def change(classes, labels, skipped):
            classes[number] = name
            labels.update(dict.fromkeys(first, number))
            skipped.difference_update(first)

        self.did(change)

    @precondition(lambda self: self.numbers)
    @rule(picture=st.sampled_from([A, B, C]), which=st.integers(0, 9))
    def label(self, picture, which):
        number = self.numbers[which % len(self.numbers)]
        self.store.label(picture, number)
        self.did(lambda _, labels, skipped: (labels.update({picture: number}), skipped.discard(picture)))

    @rule(picture=st.sampled_from([A, B, C]))
    def skip(self, picture):
        self.store.skip(picture)
        self.did(lambda _, labels, skipped: (labels.pop(picture, None), skipped.add(picture)))

    @precondition(lambda self: self.numbers)
    @rule(which=st.integers(0, 9))
    def rename(self, which):
        number = self.numbers[which % len(self.numbers)]
        self.store.rename_class(number, f"renamed {self.events}")
        name = f"renamed {self.events}"
        self.did(lambda classes, *_: classes.update({number: name}))

    @precondition(lambda self: len(self.numbers) > 1)
    @rule(which=st.integers(0, 9))
    def merge(self, which):
        old, new = self.numbers[which % len(self.numbers)], self.numbers[(which + 1) % len(self.numbers)]
        self.store.merge_classes(old, new)

        def change(classes, labels, _):
            del classes[old]
            labels.update({picture: new for picture, label in labels.items() if label == old})

        self.did(change)

    @rule()
    def undo(self):
        event = self.store.undo()
        assert (event is None) == (len(self.past) == 1)
        if event is not None:
            self.future.append(self.past.pop())
            self.events += 1

    @rule()
    def redo(self):
        event = self.store.redo()
        assert (event is None) == (not self.future)
        if event is not None:
            self.past.append(self.future.pop())
            self.events += 1

    @rule()
    def restart(self):
        self.store.close()
        self.store = Store(self.file)

    @invariant()
    def same(self):
        assert (self.store.classes, self.store.labels, self.store.skipped) == self.past[-1]
        assert self.store.version == self.events == len(self.store.since(0))

    def teardown(self):
        self.store.close()
        self.folder.cleanup()


Machine.TestCase.settings = settings(max_examples=12, stateful_step_count=20, deadline=None)
TestMachine = Machine.TestCase


# --- one deed, once; threads and processes ---------------------------------------------------------------


def test_a_deed_that_comes_twice_happens_once_even_after_a_restart(file):
    with Store(file) as store:
        cat = store.add_class("cat", once="1")
        assert store.add_class("cat", once="1") == cat, "the second time it is no other class of that name"
        first = store.label(A, cat, once="2")
        assert store.label(A, cat, once="2") == first
        store.undo(once="3")
        store.undo(once="3")
        assert (store.version, store.classes, store.labels) == (3, {cat: "cat"}, {})
    with Store(file) as store:
        store.undo(once="3")
        assert store.version == 3
        store.undo(once="4")
        assert store.classes == {}, "control: under another name it happens again"


def test_two_tabs_lose_nothing(file):
    with Store(file) as store:
        number = store.add_class("cat")

        def tab(which: int) -> None:
            for i in range(20):
                store.label(f"{which}{i:031}", number)

        tabs = [threading.Thread(target=tab, args=(which,)) for which in (1, 2)]
        for one in tabs:
            one.start()
        for one in tabs:
            one.join()
        assert len(store.labels) == 40
    with Store(file) as store:
        assert len(store.labels) == 40
        assert [event.number for event in store.since(0)] == list(range(1, 42))


def test_a_label_for_a_class_that_another_tab_has_merged_is_of_what_it_became(file):
    with Store(file) as store:
        cat, kitten = store.add_class("cat"), store.add_class("kitten")
        store.merge_classes(kitten, cat)
        store.label(A, kitten)
        assert store.labels == {A: cat}
        with pytest.raises(InputError, match="no class of number 7"):
            store.label(A, 7)


def test_another_who_wants_it_is_refused_in_a_line(file):
    with Store(file) as store:
        store.add_class("cat")
        with pytest.raises(RunError, match=r"^another drmm label has .*: close it first$"):
            Store(file)
        store.add_class("dog")
    with Store(file) as store:
        assert list(store.classes.values()) == ["cat", "dog"]


# --- what cannot be --------------------------------------------------------------------------------------


INVISIBLE = ("\u200d", "no\u200cne", "\u202ecat", "cat\u2066", "\u00ad", "\ufeff")


def test_names_of_other_scripts_and_emoji_are_kept_as_they_are(file):
    names = (
        "\u0645\u062f\u0627\u062f\u200c\u0631\u0646\u06af\u06cc",
        "\U0001f469\u200d\U0001f680",
        "\u732b",
        "<b>'\"&",
    )
    with Store(file) as store:
        for name in names:
            store.add_class(name)
    with Store(file) as store:
        assert tuple(store.classes.values()) == names


def test_names_that_no_class_can_have_are_refused(file):
    with Store(file) as store:
        for name in ("", " ", "none", "-1", "NaN", "two\nlines", "a\x00b", "\ud800", "x" * 300, *INVISIBLE):
            with pytest.raises(InputError) as told:
                store.add_class(name)
            assert "\n" not in str(told.value)
        assert store.version == 0
        store.add_class("cafe\u0301 ")
        with pytest.raises(InputError, match="already"):
            store.add_class("caf\u00e9")
        store.add_class("A"), store.add_class("a")
        with pytest.raises(InputError, match="digest"):
            store.label("../../etc/passwd", 0)
        with pytest.raises(InputError, match="two to merge"):
            store.merge_classes(0, 0)
        with pytest.raises(InputError, match="already"):
            store.rename_class(0, "a")
        assert store.version == 3


def test_files_that_are_no_store_are_refused_in_a_line_and_stay_as_they_are(file, tmp_path):
    with Store(file) as store:
        store.add_class("cat")
    whole = file.read_bytes()
    file.write_bytes(whole[:100] + b"\xff" * (len(whole) - 100))
    _refused(file, "is damaged")
    file.write_bytes(b"no database at all, but a text")
    _refused(file, "is damaged")
    file.write_bytes(whole)
    with closing(sqlite3.connect(file)) as table, table:
        table.execute("UPDATE events SET deed = '{'")
    _refused(file, "is damaged")
    file.write_bytes(whole)
    with closing(sqlite3.connect(file)) as table, table:
        table.execute("UPDATE events SET number = 2")
    _refused(file, "is damaged")
    file.write_bytes(whole)
    with closing(sqlite3.connect(file)) as table:
        table.execute("PRAGMA user_version = 99")
    _refused(file, "later version of drmm")
    with closing(sqlite3.connect(tmp_path / "other.sqlite")) as table, table:
        table.execute("CREATE TABLE notes (text)")
    _refused(tmp_path / "other.sqlite", "no store of labels")
    _refused(tmp_path, "cannot write")
    _refused(file / "below a file", "cannot write")
    file.write_bytes(whole)
    with Store(file) as store:
        assert store.classes == {0: "cat"}, "control: the whole one opens"


def _refused(file: Path, why: str) -> None:
    before = file.read_bytes() if file.is_file() else None
    with pytest.raises(RunError, match=why) as told:
        Store(file)
    assert "\n" not in str(told.value)
    assert before is None or file.read_bytes() == before


def test_a_full_disk_is_told_and_nothing_counts_that_is_not_written(file):
    with Store(file) as store:
        store.add_class("cat")
        pages = store._table.execute("PRAGMA page_count").fetchone()[0]
        store._table.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(RunError, match=r"cannot write .*full.*free space"):  # noqa: PT012
            for i in range(1000):
                store.label([f"{i:032}"], 0)
        n = len(store.labels)
        store._table.execute("PRAGMA max_page_count = 100000")
        store.label(A, 0)
        assert len(store.labels) == n + 1
    with Store(file) as store:
        assert len(store.labels) == n + 1


# --- pictures and tables ---------------------------------------------------------------------------------


def test_labels_lie_beside_the_folder(tmp_path, monkeypatch):
    (tmp_path / "pictures").mkdir()
    assert store_file(tmp_path / "pictures") == tmp_path / "pictures.labels.sqlite"
    monkeypatch.chdir(tmp_path / "pictures")
    assert store_file(Path()) == tmp_path / "pictures.labels.sqlite"
    with pytest.raises(InputError, match="no place is beside"):
        store_file(Path("/"))


def test_labels_follow_pictures_that_move(tmp_path, file):
    folder = pictures(tmp_path / "before", 4)
    with Store(file) as store:
        pool = Pool(folder)
        numbers = [store.add_class("cat"), store.add_class("dog")]
        for i in range(3):
            store.label(pool.digest(i), numbers[i % 2])
        moved = tmp_path / "after"
        folder.rename(moved)
        (moved / "inner").mkdir()
        (moved / "000.png").rename(moved / "inner" / "zero.png")
        (moved / "001.png").unlink()
        exported = store.export(tmp_path / "labels.csv", Pool(moved))
    assert exported == (2, 1, ())
    assert read_labels(tmp_path / "labels.csv") == [("002.png", "cat"), ("inner/zero.png", "cat")]


def test_a_table_is_read_by_sorting_as_it_is_written_whatever_the_names(tmp_path, file):
    folder = pictures(tmp_path / "pictures", 8)
    names = [
        "=1+1.png",
        "a, b.png",
        'say "so".png',
        "-5.png",
        "né.png",
        "back\\slash.png",
        " ends.png",
        b"\xe9.png",
    ]
    for i, name in enumerate(names):
        (folder / f"{i:03}.png").rename(folder / os.fsdecode(name))
    pool = Pool(folder)
    classes = ["=cmd|' /C calc'!A0", "'quoted'", "7", "a;b"]
    with Store(file) as store:
        for name in classes:
            store.add_class(name)
        for i in range(len(names)):
            store.label(pool.digest(i), i % len(classes))
        exported = store.export(tmp_path / "labels.csv", pool)
    assert sorted(map(str, exported.unnamed)) == [" ends.png", "\udce9.png"], "said, not lost in silence"
    assert exported.rows == 6
    data = load_folder_splits(folder, labels=tmp_path / "labels.csv")
    read = {file: data.classes[y] for file, y in zip(data.files, data.y_train.tolist(), strict=True) if y >= 0}
    told = enumerate(map(str, pool.files))
    assert read == {name: classes[i % 4] for i, name in told if name not in {" ends.png", "\udce9.png"}}
    assert "\n=" not in (tmp_path / "labels.csv").read_text(), "no spreadsheet computes it"


def test_a_table_is_taken_by_one_deed(tmp_path, file):
    folder = pictures(tmp_path / "pictures", 4)
    table = tmp_path / "told.csv"
    table.write_text("file,label\n000.png,cat\n001.png,dog\n002.png,\n")
    pool = Pool(folder)
    with Store(file) as store:
        dog = store.add_class("dog")
        assert store.import_table(table, pool) == 2
        assert store.labels == {pool.digest(0): dog + 1, pool.digest(1): dog}
        assert store.import_table(table, pool) == 0
        assert store.version == 2
        store.undo()
        assert (store.labels, store.classes) == ({}, {dog: "dog"})
    table.write_text("file,label\n000.png,two\\nlines\n001.png,none\n")
    with Store(file) as store:
        with pytest.raises(InputError, match="none"):
            store.import_table(table, pool)
        assert store.version == 3


def test_random_questions_stay_such_only_if_nothing_was_known(file):
    with Store(file) as store:
        cat, dog = store.add_class("cat"), store.add_class("dog")
        store.label(A, cat, drawn=True)
        store.label(B, cat)
        store.label(B, dog, drawn=True)
        assert store.state.drawn == {A}
        store.label(A, dog)
        assert store.state.drawn == {A}, "a label that is corrected is still of a random picture"
        store.skip(A)
        assert store.state.drawn == set()


def test_a_state_is_a_copy(file):
    with Store(file) as store:
        store.label(A, store.add_class("cat"))
        state = store.state
        state.labels.clear()
        state.classes.clear()
        assert (len(store.labels), len(store.classes)) == (1, 1)


def test_many_labels_are_read_again_quickly_enough(file):
    with Store(file) as store:
        number = store.add_class("cat")
        store.label([f"{i:032x}" for i in np.arange(100_000)], number)
        store.undo()
        store.redo()
        assert len(store.labels) == 100_000
