"""Folders of classes and names of files: what any system takes, and back again."""

import os
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drmm.errors import InputError
from drmm.sorting.journal import RESERVED
from drmm.sorting.names import Names, folder_names, same

DEVICES = ["CON", "con", "nul.txt", "Aux .x", "com1", "LPT9.tar.gz", "COM¹"]
ODD = [
    "a/b",
    "..",
    ".",
    "/etc",
    "\\\\host\\x",
    "C:",
    "cat.",
    "cat ",
    "cat...",
    "a\nb",
    "100%",
    "%2F",
    "é",
    "?*",
    "~",
]
OURS = ["_unsure", "_unfamiliar", "_run", "_", ".drmm", "sort.csv", "SORT.CSV", "Report.html", "audit.csv"]


@pytest.mark.parametrize("label", DEVICES + ODD + OURS + ["cat", "Kätzchen", "名前", "a b", "con-tent", "console"])
def test_a_folder_has_a_name_that_any_system_takes(label: str) -> None:
    folder = folder_names([label], RESERVED)[label]
    assert unquote(folder) == label
    assert not set('/\\:*?"<>|\n') & set(folder)
    assert folder[0] not in "._"
    assert folder[-1] not in ". "
    assert same(folder) not in RESERVED
    assert folder.split(".")[0].strip().lower() not in {"con", "nul", "aux", "com1", "lpt9", "com¹"}


def test_control_plain_names_stay() -> None:
    plain = ["cat", "Kätzchen", "名前", "a b", "con-tent", "console", "1", "A.b", "it's", "x_y"]
    assert folder_names(plain, RESERVED) == {label: label for label in plain}
    assert folder_names(["CON"], ()) != {"CON": "CON"}


@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=8), unique=True, max_size=6))
def test_no_two_classes_share_a_folder(labels: list[str]) -> None:
    folders = folder_names(labels, RESERVED)
    assert len({same(folder) for folder in folders.values()}) == len(labels)
    assert all(unquote(folder) == label for label, folder in folders.items())


def test_names_that_differ_in_case_or_spelling_alone() -> None:
    labels = ["Cat", "cat", "CAT", "é", "e\u0301"]
    folders = folder_names(labels, ())
    assert folders["Cat"] == "Cat"
    assert len({same(folder) for folder in folders.values()}) == 5
    assert [unquote(folder) for folder in folders.values()] == labels


@pytest.mark.parametrize("label", ["", 300 * "a", 100 * "é/"])
def test_what_no_folder_can_be_called(label: str) -> None:
    with pytest.raises(InputError, match="class"):
        folder_names([label], ())


def test_files_that_are_called_the_same() -> None:
    names = Names(["A.png"])
    assert [names.free(name) for name in ("a.png", "b.png", "B.PNG", "b-2.png", "b.png")] == [
        "a-2.png",
        "b.png",
        "B-2.PNG",
        "b-2-2.png",
        "b-3.png",
    ]
    assert [names.free(name) for name in ("x", "x", "x.tar.gz", "x.tar.gz")] == [
        "x",
        "x-2",
        "x.tar.gz",
        "x.tar-2.gz",
    ]


def test_names_do_not_grow_too_long() -> None:
    names = Names([])
    longest = 83 * "名" + ".png"
    found = [names.free(longest) for _ in range(12)]
    assert len(set(found)) == 12
    assert all(len(os.fsencode(name)) <= 255 and name.endswith(".png") for name in found)
