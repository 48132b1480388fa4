"""Users' own folders of pictures."""

import os
import shutil
import unicodedata
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drmm.data import Skipped, load, load_folder, load_folder_splits
from drmm.errors import InputError, RunError


def picture(*shape, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def fill(root, spec):
    """Write pictures: `spec` maps a relative path to the shape of one."""
    for seed, (path, shape) in enumerate(spec.items()):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        picture(*shape, seed=seed).save(root / path)
    return root


# Most folders here hold as few pictures as do.
pytestmark = pytest.mark.filterwarnings("ignore:.*a single picture in class")

GREY = {"cat/1.png": (8, 9), "cat/deep/2.png": (8, 9), "dog/1.png": (8, 9), "unlabelled/x.png": (8, 9)}


def test_classes_are_folders_and_unlabelled_is_minus_one(tmp_path):
    x, y, classes = load_folder(fill(tmp_path, GREY))
    assert x.shape == (4, 1, 8, 9)
    assert x.dtype == np.uint8
    assert y.tolist() == [0, 0, 1, -1]
    assert classes == ("cat", "dog")
    assert np.array_equal(x[2, 0], np.asarray(picture(8, 9, seed=2)))


def test_one_colour_picture_makes_all_colour(tmp_path):
    x, _, _ = load_folder(fill(tmp_path, GREY | {"dog/2.png": (8, 9, 3)}))
    assert x.shape == (5, 3, 8, 9)
    assert np.array_equal(x[0, 0], x[0, 2])


def test_a_size_is_given_or_a_rule_gives_one(tmp_path):
    assert load(fill(tmp_path, GREY)).resized == ""
    fill(tmp_path, GREY | {"dog/2.png": (16, 18)})
    data = load(tmp_path)
    assert data.x_train.shape == (5, 1, 8, 8)
    assert "8x8 pixels, stretched from 8x9 to 16x18" in data.account()
    assert load_folder(tmp_path, size=(4, 6))[0].shape == (5, 1, 4, 6)
    assert load(tmp_path, size=(4, 6)).x_train.shape == (5, 1, 4, 6)


def test_splits(tmp_path):
    root = fill(tmp_path / "pets", {f"train/{path}": shape for path, shape in GREY.items()})
    fill(root, {"test/dog/9.png": (8, 9)})
    data = load_folder_splits(root)
    assert data.name == "pets"
    assert data.y_train.tolist() == [0, 0, 1, -1]
    assert data.y_test.tolist() == [1]
    assert data.x_test.shape == (1, 1, 8, 9)
    fill(root, {"test/cow/9.png": (8, 9)})
    with pytest.raises(InputError, match="test class cow has no training folder"):
        load_folder_splits(root)
    fill(root, {"unlabelled/9.png": (8, 9)})
    with pytest.raises(InputError, match="holds unlabelled/ beside train/: move it"):
        load_folder_splits(root)


def test_without_splits_there_is_no_test_set(tmp_path):
    data = load(str(fill(tmp_path, GREY)))
    assert data.x_train.shape == (4, 1, 8, 9)
    assert data.x_test.shape == (0, 1, 8, 9)
    assert data.y_test.shape == (0,)


@pytest.mark.parametrize("base", [".", ".."])
def test_zip_is_read_like_the_folder_wrapped_or_not(tmp_path, base):
    root = fill(tmp_path / "pets", GREY)
    (root / "__MACOSX" / "cat").mkdir(parents=True)
    (root / "__MACOSX" / "cat" / "._1.png").write_bytes(b"resource fork")
    inside = "pets" if base == ".." else "."
    archive = shutil.make_archive(str(tmp_path / "zipped"), "zip", root / base, inside)
    for one, other in zip(load_folder(archive), load_folder(root), strict=True):
        assert np.array_equal(one, other)
    assert load(archive).name == "zipped"


def test_broken_zip_and_member_are_named(tmp_path):
    archive = tmp_path / "pets.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("cat/1.png", b"not a picture")
        zipped.writestr("dog/1.png", b"not a picture")
    with pytest.raises(RunError, match=r"cannot read picture .*pets.zip/cat/1.png"):
        load_folder(archive)
    content = archive.read_bytes()
    archive.write_bytes(content.replace(b"not a picture", b"not the crc32", 1))
    with pytest.raises(RunError, match=r"pets.zip/cat/1.png \(does not unpack \(Bad CRC"):
        load_folder(archive)
    archive.write_bytes(content[:-5])
    with pytest.raises(RunError, match="not a folder or complete zip"):
        load_folder(archive)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({}, "holds no pictures"),
        (
            {"unlabelled images/1.png": (8, 9)},
            "unlabelled images/ may be a class or pictures without a label: rename",
        ),
        (
            {"unlabled/1.png": (8, 9)},
            "unlabled/ may be a class or pictures without a label: rename it to unlabelled/",
        ),
    ],
)
def test_folders_that_cannot_be_used(tmp_path, spec, message):
    with pytest.raises(InputError, match=message):
        load_folder(fill(tmp_path, spec))


def test_a_flat_folder_has_no_labels_and_loose_pictures_have_none(tmp_path):
    fill(tmp_path, {"1.png": (8, 9), "2.png": (8, 9)})
    data = load(tmp_path)
    assert (data.y_train.tolist(), data.classes) == ([-1, -1], ())
    fill(tmp_path, {"cat/1.png": (8, 9), "dog/1.png": (8, 9)})
    with pytest.warns(UserWarning, match=r"no label for pictures in no folder: 1.png, 2.png"):
        assert load(tmp_path).y_train.tolist() == [-1, -1, 0, 1]


def files(*paths):
    return dict.fromkeys(paths, (8, 9))


SPLIT = files("train/cat/1.png", "train/dog/1.png", "test/cat/2.png")


def test_a_class_may_be_called_train_or_test(tmp_path):
    spec = files("bus/1.png", "train/1.png", "train/2.png", "test/1.png", "unlabelled/1.png")
    fill(tmp_path, spec)
    data = load_folder_splits(tmp_path)
    assert data.classes == ("bus", "test", "train")
    assert data.y_train.tolist() == [0, 1, 2, 2, -1]
    assert len(data.x_test) == 0
    assert load_folder(tmp_path)[2] == data.classes


def test_control_a_class_called_train_within_a_split(tmp_path):
    data = load_folder_splits(fill(tmp_path, SPLIT | files("train/train/1.png", "test/train/1.png")))
    assert data.classes == ("cat", "dog", "train")
    assert data.y_test.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            files("train/1.png", "test/1.png"),
            "test/ and train/ may be parts or classes: move pictures to train/<cl",
        ),
        (files("train/1.png", "test/1.png", "unlabelled/1.png"), "test/ and train/ may be parts or classes"),
        (
            SPLIT | files("bus/1.png"),
            "holds bus/ beside train/: move it into train/ or test/, or, if train is a cl",
        ),
        (files("bus/1.png", "train/ice/1.png"), "or, if train is a class, put its pictures into train/ itself"),
        (
            files("bus/1.png", "test/cat/1.png"),
            "test/ holds folders: rename it, parts are called train/ and test/",
        ),
        (files("training/cat/1.png", "testing/cat/1.png"), "testing/ holds folders: rename it"),
        (files("val/1.png", "validation/1.png"), "val/ and validation/ may be parts or classes"),
        (SPLIT | files("val/cat/1.png"), "val/ holds folders: rename it"),
        (SPLIT | files("train/3.png"), "train/ holds pictures beside folders: move them into train/<class>/"),
        (SPLIT | files("loose.png"), "picture loose.png is in no class folder"),
        (
            files("cat/Train/1.png", "cat/test/1.png", "dog/1.png"),
            "class folders hold test/: move its pictures up",
        ),
        (
            files("cat/unlabeled/1.png", "dog/1.png"),
            "class folders hold unlabeled/: move its pictures up, to unlab",
        ),
    ],
)
def test_what_may_be_a_part_or_a_class_is_never_guessed(tmp_path, spec, message):
    with pytest.raises(InputError, match=message):
        load_folder_splits(fill(tmp_path, spec))


def test_control_what_lies_deeper_is_of_the_class(tmp_path):
    spec = files("cat/train/1.png", "dog/old/deep/1.png", "unlabelled/train/1.png", "unlabelled/test/1.png")
    assert load(fill(tmp_path, spec)).y_train.tolist() == [0, 1, -1, -1]


def test_parts_are_no_classes(tmp_path):
    with pytest.raises(InputError, match="is split into train/ and test/: read it with load_folder_splits"):
        load_folder(fill(tmp_path, SPLIT))
    assert load_folder(tmp_path / "train")[2] == ("cat", "dog")


# --- names of folders ---


@pytest.mark.parametrize(
    "name",
    [
        "Unlabelled",
        "UNLABELLED",
        "unlabeled",
        "Unlabeled ",
        " unlabelled",
        "_unlabelled",
        "un-labelled",
        "ｕnlabelled",
    ],
)
def test_unlabelled_is_known_however_it_is_spelt(tmp_path, name):
    data = load(fill(tmp_path, files("cat/1.png", "dog/1.png", f"{name}/1.png")))
    assert data.classes == ("cat", "dog")
    assert sorted(data.y_train.tolist()) == [-1, 0, 1]


@pytest.mark.parametrize(("train", "test"), [("Train", "TEST"), ("train ", " Test"), ("_train", "test_")])
def test_parts_are_known_however_they_are_spelt(tmp_path, train, test):
    spec = files(f"{train}/cat/1.png", f"{train}/dog/1.png", f"{train}/Unlabeled/1.png", f"{test}/cat/2.png")
    data = load(fill(tmp_path, spec))
    assert data.classes == ("cat", "dog")
    assert len(data.x_test) == 1


def test_any_name_is_a_class_by_saying_so(tmp_path):
    fill(tmp_path, files("Unlabelled/1.png", "train/a/1.png", "cat/1.png", "unlabelled things/1.png"))
    names = ("Unlabelled", "train", "unlabelled things")
    data = load(tmp_path, classes=names)
    assert data.classes == ("Unlabelled", "cat", "train", "unlabelled things")
    assert data.y_train.min() == 0
    with pytest.raises(InputError, match="declare a class of that name"):  # the control
        load(tmp_path, classes=names[:2])
    with pytest.raises(InputError, match="holds no pictures of class cow: leave it out"):
        load(tmp_path, classes=(*names, "cow"))


def test_names_that_look_alike_are_one_class(tmp_path):
    composed, apart = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    data = load(fill(tmp_path, files(f"train/{composed}/1.png", "train/dog/1.png", f"test/{apart}/2.png")))
    assert data.classes == (composed, "dog")
    assert data.y_test.tolist() == [0]
    before = data.digest
    (tmp_path / "train" / composed).rename(tmp_path / "train" / apart)
    assert load(tmp_path).digest == before, "the same folder, copied from another system"
    fill(tmp_path, files("train/dog /2.png"))
    with pytest.warns(UserWarning, match="folders 'dog', 'dog ' are one class, dog"):
        assert load(tmp_path).classes == (composed, "dog")


def test_classes_without_pictures_and_with_one_are_said(tmp_path):
    fill(tmp_path, files("cat/1.png", "cat/2.png", "dog/1.png"))
    for name in ("cow", ".git", "unlabelled"):
        (tmp_path / name).mkdir()
    (tmp_path / "owl").mkdir()
    (tmp_path / "owl" / "1.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    with pytest.warns(UserWarning, match="no class for|single picture|cannot read") as said:
        data = load(tmp_path)
    assert data.classes == ("cat", "dog")
    told = "\n".join(str(warning.message) for warning in said)
    assert "no class for cow/, owl/, where no picture can be read" in told
    assert "a single picture in class dog" in told
    assert "owl/1.heic (HEIC: pip install pillow-heif): skipped" in told


def test_a_whole_class_is_said_nothing_of(tmp_path):
    """The control."""
    fill(tmp_path, files("cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png"))
    with warnings.catch_warnings():
        warnings.resetwarnings()
        warnings.simplefilter("error")
        assert load(tmp_path).skipped == ()


ODD = [
    "x.png",
    "[red]",
    "$x^{$",
    "new\nline",
    b"caf\xe9".decode("utf-8", "surrogateescape"),
    "n" * 255,
    "-",
    "a b",
]


@pytest.mark.parametrize("name", ODD)
def test_any_name_of_a_folder_or_file(tmp_path, name):
    fill(tmp_path, files("cat/1.png", f"{name}/1.png", "cat/deep.png/2.png"))
    (tmp_path / "cat" / "1.png").rename(tmp_path / "cat" / name)
    data = load(tmp_path)
    assert set(data.classes) == {"cat", name}
    assert f"cat/{name}" in data.files
    assert len(data.digest) == 32
    assert "\n" not in data.account()


# --- a folder of drmm sort ---

SORTED = files("%43ON/1.png", "a%2Fb/1.png", "cat/1.png", "cat/2.png", "_unsure/1.png", "_unfamiliar/1.png")


def sorted_folder(root):
    fill(root, SORTED)
    for name in (".drmm/1.json", "_run/model.safetensors", "_run/run.json", "sort.csv", "report.html"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("{}")
    return root


@pytest.mark.parametrize("form", ["folder", "zip", "zip of its files"])
def test_what_was_sorted_is_read_as_it_was_meant(tmp_path, form):
    path = sorted_folder(tmp_path / "sorted")
    if form != "folder":
        top = tmp_path if form == "zip" else path
        path = Path(shutil.make_archive(str(tmp_path / "archive"), "zip", top, "sorted" if form == "zip" else "."))
    with warnings.catch_warnings(action="error"):
        warnings.filterwarnings("ignore", ".*a single picture in class")
        data = load(path)
    assert data.classes == ("CON", "a/b", "cat")
    found = dict(zip(data.files, data.y_train.tolist(), strict=True))
    unknown = ["_unfamiliar/1.png", "_unsure/1.png"]
    if form == "folder":
        assert data.skipped[1] == Skipped("_run/", "made by drmm sort")
    assert found == {
        "%43ON/1.png": 0,
        "a%2Fb/1.png": 1,
        "cat/1.png": 2,
        "cat/2.png": 2,
        **dict.fromkeys(unknown, -1),
    }


def test_control_without_a_journal_names_are_what_they_are(tmp_path):
    shutil.rmtree(sorted_folder(tmp_path / "sorted") / ".drmm")
    with pytest.warns(UserWarning, match="no class for _run/"):
        data = load(tmp_path / "sorted")
    assert set(data.classes) == {"%43ON", "a%2Fb", "cat", "_unsure", "_unfamiliar"}


# --- every file ---


def test_every_file_is_a_picture_or_skipped_with_a_reason(tmp_path):
    fill(tmp_path, files("cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png", "unlabelled/1.png"))
    (tmp_path / "dog" / "2.png").rename(tmp_path / "dog" / "two")
    for name in ("notes.txt", "cat/Thumbs.db", "cat/.DS_Store", "dog/list", "@eaDir/1.png", ".git/x", "dog/x.npy"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"no picture")
    (tmp_path / "cat" / "cut.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.warns(UserWarning, match="cannot read picture .*cat/cut.jpg"):
        data = load(tmp_path)
    assert data.files == ("cat/1.png", "cat/2.png", "dog/1.png", "dog/two", "unlabelled/1.png")
    assert {one.file: one.reason for one in data.skipped if not one.is_loss} == {
        "notes.txt": "not a picture (.txt)",
        "dog/list": "not a picture (no suffix)",
        "dog/x.npy": "not a picture (.npy)",
        **dict.fromkeys(["cat/Thumbs.db", "cat/.DS_Store", "@eaDir/", ".git/"], "hidden"),
    }
    assert [one.file for one in data.skipped if one.is_loss] == ["cat/cut.jpg"]
    line = data.account()
    assert line.startswith(
        "4 labelled images of 2 classes (cat: 2, dog: 2), 1 unlabelled, no test part; 8 skipped: "
    )
    assert "4 x hidden" in line
    assert "3 x not a picture (" in line


def test_more_than_half_unreadable_is_an_error(tmp_path):
    fill(tmp_path, files("cat/1.png", "dog/1.png"))
    for name in ("cat/2.png", "dog/2.png"):
        (tmp_path / name).write_bytes(b"")
    with pytest.warns(UserWarning, match=r"cat/2.png \(it is empty\), nor 1 other of 4: skipped"):
        assert len(load(tmp_path).x_train) == 2
    (tmp_path / "cat" / "3.png").write_bytes(b"text")
    with pytest.raises(
        RunError, match=r"cannot read picture .*cat/2.png \(it is empty\), nor 2 others of 5: repair"
    ):
        load(tmp_path)


def test_several_frames_are_said(tmp_path):
    fill(tmp_path, files("cat/1.png", "dog/1.png"))
    picture(8, 9).save(tmp_path / "dog" / "2.tif", save_all=True, append_images=[picture(8, 9, seed=1)])
    with pytest.warns(UserWarning, match=r"the first frame counts of each file with several: dog/2.tif"):
        assert len(load(tmp_path).x_train) == 3


def test_a_folder_without_pictures_says_what_it_holds(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(InputError, match=r"holds no pictures \(1 skipped: 1 x not a picture \(.txt\)\): add some"):
        load(tmp_path)


# --- links ---


def test_links_are_followed(tmp_path):
    disk = fill(tmp_path / "disk", files("cows/1.png", "cows/2.png", "rest/1.png", "owl.png"))
    root = fill(tmp_path / "set", files("cat/1.png", "dog/1.png"))
    (root / "cow").symlink_to(disk / "cows")
    (root / "unlabelled").symlink_to(disk / "rest")
    (root / "cat" / "owl.png").symlink_to(disk / "owl.png")
    data = load(root)
    assert data.classes == ("cat", "cow", "dog")
    assert data.files == ("cat/1.png", "cat/owl.png", "cow/1.png", "cow/2.png", "dog/1.png", "unlabelled/1.png")


def test_links_that_lead_in_circles_end(tmp_path):
    root = fill(tmp_path / "set", files("cat/1.png", "dog/1.png"))
    plain = load(root)
    (root / "cat" / "root").symlink_to(root)
    (root / "cat" / "above").symlink_to(tmp_path)
    (root / "dog" / "itself").symlink_to(root / "dog")
    (root / "dog" / "self.png").symlink_to("self.png")
    with pytest.warns(UserWarning, match=r"dog/self.png \(a broken link\)"):
        data = load(root)
    assert (data.files, data.digest) == (plain.files, plain.digest)
    reasons = {one.file: one.reason for one in data.skipped}
    assert reasons["cat/root/"] == reasons["cat/above/"] == "a link to a folder that is read already"
    others = [tmp_path / "web" / f"{i}" for i in range(6)]
    for folder in others:
        fill(folder, files("1.png"))
        for other in others:
            (folder / f"to{other.name}").symlink_to(other)
    (root / "web").symlink_to(tmp_path / "web")
    with pytest.warns(UserWarning, match="a broken link"):
        assert sum(name.startswith("web/") for name in load(root).files) == 6


def test_a_file_that_several_links_lead_to_counts_once(tmp_path):
    root = fill(tmp_path / "set", files("cat/1.png", "dog/1.png", "dog/2.png"))
    (root / "cat" / "again.png").symlink_to("1.png")
    (root / "unlabelled").mkdir()
    (root / "unlabelled" / "1.png").symlink_to("../dog/1.png")
    data = load(root)
    assert data.y_train.tolist() == [0, 1, 1]
    reasons = {one.file: one.reason for one in data.skipped}
    assert reasons == {
        "cat/again.png": "read already (as cat/1.png)",
        "unlabelled/1.png": "read already (as dog/1.png)",
    }
    (root / "cat" / "dog.png").symlink_to("../dog/1.png")
    with pytest.raises(InputError, match=r"cat/dog.png and dog/1.png are one file in two places: keep one"):
        load(root)


def test_what_is_no_file_is_skipped(tmp_path):
    root = fill(tmp_path / "set", files("cat/1.png", "dog/1.png"))
    os.mkfifo(root / "cat" / "pipe.png")
    (root / "cow").symlink_to(tmp_path / "unplugged")
    with pytest.warns(UserWarning, match=r"cannot read picture .*set/cow \(a broken link\): skipped"):
        data = load(root)
    assert {one.file: one.reason for one in data.skipped} == {
        "cat/pipe.png": "no file that can be read",
        "cow": "a broken link",
    }


def test_a_folder_that_cannot_be_opened_is_said(tmp_path, monkeypatch):
    root = fill(tmp_path, files("cat/1.png", "dog/1.png", "cat/locked/1.png"))
    scandir = os.scandir

    def deny(folder):
        if Path(folder).name == "locked":
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", deny)
    with pytest.warns(UserWarning, match=r"cat/locked/? \(cannot be opened \(Permission denied\)\): skipped"):
        assert len(load(root).x_train) == 2


# --- archives ---


def test_every_file_of_an_archive_is_accounted_for(tmp_path):
    root = fill(tmp_path / "pets", files("cat/1.png", "cat/2.png", "dog/1.png", "dog/two.png"))
    names = {"cat/1.png": r"pets\cat\1.png", "dog/two.png": "/pets/dog/two", "cat/2.png": "pets/cat/2.png"}
    with zipfile.ZipFile(tmp_path / "pets.zip", "w") as archive:
        for name in ("cat/1.png", "cat/2.png", "dog/1.png", "dog/two.png"):
            archive.write(root / name, names.get(name, f"pets/{name}"))
        archive.writestr("pets/notes.txt", "no picture")
        archive.writestr("__MACOSX/pets/cat/._1.png", "a resource fork")
        archive.writestr("pets/cow/", "")
        archive.writestr("pets/cat/3.png", "")
    with pytest.warns(UserWarning, match=r"no class for cow/|cat/3.png \(it is empty\)") as said:
        data = load(tmp_path / "pets.zip")
    assert len(said) == 2
    assert data.files == ("cat/1.png", "cat/2.png", "dog/1.png", "dog/two")
    assert {one.reason for one in data.skipped} == {"not a picture (.txt)", "hidden", "it is empty"}


def test_what_has_no_size_or_class_folders_takes_none():
    for options in ({"size": (16, 16)}, {"classes": ("train",)}):
        with pytest.raises(InputError, match="digits is no folder of pictures"):
            load("digits", **options)
