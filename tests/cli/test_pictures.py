"""What the command line says of folders of pictures and of arrays: in its own words, never in those of Python."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import refused
from PIL import Image

from drmm.data.images import as_images
from drmm.data.tables import read_table
from drmm.errors import InputError

PYTHON = re.compile(r"\b(size|per_class|image_shape|pixel_range|channels|classes)=|\by (==|is|has)\b|\bX\b|load_")

few = pytest.mark.filterwarnings(
    "ignore:.*a single picture in class", "ignore:every image", "ignore:fewer than 3 labels"
)


def fill(folder: Path, *names: str, sizes: tuple[int, ...] = (12,)) -> Path:
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (sizes[i % len(sizes)], 12), 50 * i).save(folder / name)
    return folder


@few
@pytest.mark.parametrize(
    ("names", "sizes", "options", "says"),
    [
        (["cat/1.png", "cat/2.png"], (12,), [], "has only one class, cat: label images of a second one"),
        (["unlabelled/1.png"], (12,), [], "all images of set are unlabelled: label at least one image of each cl"),
        (["unlabelled/1.png"], (12,), ["--validation", 1], "there are no labels to draw from"),
        (["cat/1.png", "dog/1.png"], (12,), ["--validation", 1], "a holdout of 1 images is impossible"),
        (
            ["cat/1.png", "dog/1.png"],
            (12,),
            ["--labels-per-class", 2],
            "2 labels of each class are too many, class cat has 1 to learn from: label more, or ask for fewer",
        ),
        (["train/1.png", "test/1.png"], (12,), [], "may be parts or classes: move pictures to train/<class>/, or"),
        (
            ["Unlabelled pets/1.png", "cat/1.png"],
            (12,),
            [],
            "may be a class or pictures without a label: rename it",
        ),
        (
            ["1.png"],
            (12,),
            [],
            "all images of set are unlabelled: label at least one image of each class, by folder",
        ),
    ],
)
def test_what_is_wrong_with_a_folder(names, sizes, options, says, tmp_path: Path, run_drmm) -> None:
    folder = fill(tmp_path / "set", *names, sizes=sizes)
    answer = run_drmm("fit", folder, "--out", tmp_path / "run", *options)
    refused(answer, says)
    assert not PYTHON.search(answer[2])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.full((2, 8, 8), -1.0), "pixels run from -1 to -1, outside 0 to 1"),
        (np.full((2, 8, 8), np.nan), "image 0 contains NaN or inf"),
        (np.zeros((2, 99)), r"rows have 99 values, but the shape (1, 8, 8) needs 64"),
        (np.zeros(5), "its array of shape (5,) is not a batch of images"),
        (np.zeros((2, 8, 8, 7)), "images of shape (8, 8, 7) have no first or last axis of size 1 to 4"),
        (np.array(["a"]), "its array has dtype <U1, not numbers"),
        (np.zeros((0, 8, 8)), "found 0 sample(s)"),
        (np.zeros((8, 8, 3)), "its array of shape (8, 8, 3) looks like one picture"),
        (np.zeros((2, 8, 8, 3), complex), "Complex data not supported"),
    ],
    ids=str,
)
def test_what_is_wrong_with_an_array(array, says: str, run: Path, tmp_path: Path, run_drmm) -> None:
    np.save(tmp_path / "x.npy", array)
    answer = run_drmm("predict", run, tmp_path / "x.npy", "--out", tmp_path / "out.csv")
    refused(answer, "x.npy: ", says, "save uint8 levels 0..255, or floats 0..1")
    assert not PYTHON.search(answer[2])


def test_control_python_is_told_of_arguments() -> None:
    with pytest.raises(InputError, match=PYTHON):
        as_images(np.full((2, 8, 8), -1.0))


@few
def test_a_class_that_is_called_like_a_part(tmp_path: Path, run_drmm) -> None:
    folder = fill(tmp_path / "set", "train/1.png", "test/1.png", "Unlabelled/1.png")
    words = [
        "fit",
        folder,
        "--epochs",
        1,
        "--width",
        2,
        "--set",
        "training.min_steps=0",
        "--out",
        tmp_path / "run",
    ]
    refused(run_drmm(*words), "may be parts or classes", "data.classes")
    words += ["--set", "data.classes=train,test,Unlabelled"]
    code, said, err = run_drmm(*words)
    assert code == 0, err
    assert said.startswith("3 labelled images of 3 classes (Unlabelled: 1, test: 1, train: 1), no test part\n")
    code, _, err = run_drmm("report", tmp_path / "run", "--out", tmp_path / "report.html")
    assert code == 0, err


def test_an_archive_is_labelled_like_its_folder(run: Path, pictures: Path, tmp_path: Path, run_drmm) -> None:
    archive = shutil.make_archive(str(tmp_path / "zipped"), "zip", pictures)
    labels = []
    for name, source in (("a.csv", pictures), ("b.csv", archive)):
        code, _, err = run_drmm("predict", run, source, "--out", tmp_path / name)
        assert code == 0, err
        labels.append([line.split(",")[1:] for line in (tmp_path / name).read_text().splitlines()])
    assert labels[0] == labels[1]


@pytest.mark.filterwarnings("ignore:1 of 4 files in", "ignore:.* files resized")
def test_a_flat_folder_and_a_table_from_fit_to_predictions(tmp_path: Path, run_drmm) -> None:
    folder = fill(tmp_path / "set", *[f"{i}.png" for i in range(5)], sizes=(12, 30))
    (tmp_path / "labels.csv").write_text("file,label\n0.png,cat\n1.png,dog\n2.png,\ngone.png,cat\n")
    quick = ["--epochs", 1, "--width", 2, "--set", "training.min_steps=0", "--shape", "pad"]
    run, out = tmp_path / "run", tmp_path / "out.parquet"
    code, said, told = run_drmm("fit", folder, "--labels", tmp_path / "labels.csv", "--out", run, *quick)
    assert code == 0, told
    assert "2 labelled images of 2 classes (cat: 1, dog: 1), 3 unlabelled" in said
    assert "8x8 pixels, padded from 12x12 to 12x30" in said
    assert "gone.png,labelled, but not there" in (run / "skipped.csv").read_text().replace('"', "")
    assert run_drmm("predict", run, folder, "--out", out)[0] == 0
    assert {row["label"] for row in read_table(out)} <= {"cat", "dog"}
    answer = run_drmm("fit", folder, "--out", tmp_path / "other", *quick)
    refused(answer, "all images of set are unlabelled")  # the control
