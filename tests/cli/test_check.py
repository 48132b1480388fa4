"""`drmm check`: a page, a CSV and a table about a folder in which something is wrong."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import QUICK, refused, sets
from PIL import Image
from sklearn.datasets import load_digits

from drmm.files import read_csv
from drmm.runs.run import Run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve different pictures of two classes; one copied to the other class, one blank, one broken."""
    generator = np.random.default_rng(0)
    root = tmp_path / "pets"
    for i in range(12):
        coarse = generator.integers(0, 256, (5, 5, 3)).astype(np.uint8)
        path = root / ("cat", "dog")[i % 2] / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(coarse).resize((40, 40), Image.Resampling.BICUBIC).save(path)
    (root / "dog" / "copy.png").write_bytes((root / "cat" / "00.png").read_bytes())
    Image.new("RGB", (40, 40), "white").save(root / "cat" / "white.png")
    (root / "cat" / "broken <b>.png").write_bytes(b"no picture")
    return root


def kinds(table: Path) -> dict[str, list[str]]:
    named: dict[str, list[str]] = {}
    for row in read_csv(table):
        named.setdefault(row["kind"], []).append(row["file"])
    return named


@pytest.mark.filterwarnings("ignore:cannot read picture")
def test_what_is_wrong_is_shown_and_listed(folder: Path, tmp_path: Path, run_drmm) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*.png")}
    code, out, _ = run_drmm("check", folder, "--out", tmp_path / "a" / "check.html")
    assert code == 0
    named = kinds(tmp_path / "a" / "check.csv")
    assert named["copy"] == named["contradiction"] == ["cat/00.png", "dog/copy.png"]
    assert named["blank"] == ["cat/white.png"]
    assert named["unreadable"] == ["cat/broken <b>.png"]
    assert not named.keys() & {"leak", "near copy", "size"}
    for words in ("the same picture with two labels", "blank pictures", "none: ", "labels: cat 7"):
        assert words in out
    page = (tmp_path / "a" / "check.html").read_text()
    assert "dog/copy.png" in page
    assert "broken &lt;b&gt;.png" in page
    assert "<b>.png" not in page
    assert {path: path.read_bytes() for path in folder.rglob("*.png")} == before, "nothing is changed"


def test_a_sound_folder_is_said_to_be_sound(folder: Path, tmp_path: Path, run_drmm) -> None:
    for name in ("dog/copy.png", "cat/white.png", "cat/broken <b>.png"):
        (folder / name).unlink()
    code, out, _ = run_drmm("check", folder, "--out", tmp_path / "check.html")
    assert code == 0
    assert "0 pictures to look at" in out
    assert kinds(tmp_path / "check.csv") == {}


def test_a_picture_in_both_parts_is_found(folder: Path, tmp_path: Path, run_drmm) -> None:
    (folder / "cat" / "broken <b>.png").unlink()
    whole = tmp_path / "split"
    folder.rename(tmp_path / "train")
    whole.mkdir()
    (tmp_path / "train").rename(whole / "train")
    (whole / "test" / "cat").mkdir(parents=True)
    Image.open(whole / "train" / "cat" / "02.png").resize((80, 80)).save(whole / "test" / "cat" / "again.jpg")
    code, _, _ = run_drmm("check", whole, "--out", tmp_path / "check.html")
    assert code == 0
    assert kinds(tmp_path / "check.csv")["leak"] == ["train/cat/02.png", "test/cat/again.jpg"]


def test_a_flat_folder_and_one_with_a_table_of_labels(folder: Path, tmp_path: Path, run_drmm) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in [*folder.rglob("0*.png"), folder / "dog" / "copy.png"]:
        path.rename(flat / path.name)
    code, _, _ = run_drmm("check", flat, "--out", tmp_path / "check.html")
    assert code == 0
    assert kinds(tmp_path / "check.csv") == {"copy": ["00.png", "copy.png"]}
    (tmp_path / "labels.csv").write_text("file,label\n00.png,cat\ncopy.png,dog\n")
    code, _, _ = run_drmm(
        "check", flat, "--labels", tmp_path / "labels.csv", "--out", tmp_path / "check.html", "--force"
    )
    assert code == 0
    assert kinds(tmp_path / "check.csv")["contradiction"] == ["00.png", "copy.png"]


def test_what_is_there_is_not_replaced(folder: Path, tmp_path: Path, run_drmm) -> None:
    (tmp_path / "check.csv").write_text("mine")
    refused(run_drmm("check", folder, "--out", tmp_path / "check.html"), "check.csv exists", "--force")
    assert (tmp_path / "check.csv").read_text() == "mine"
    assert not (tmp_path / "check.html").exists()


@pytest.mark.parametrize(("make", "says"), [(None, "no file or folder"), ([], "holds no pictures")])
def test_a_folder_without_pictures(make, says: str, tmp_path: Path, run_drmm) -> None:
    if make is not None:
        (tmp_path / "empty").mkdir()
    refused(run_drmm("check", tmp_path / "empty", "--out", tmp_path / "check.html"), says)
    assert not (tmp_path / "check.html").exists()


@pytest.mark.filterwarnings("ignore:every image is labelled")
def test_the_answers_of_a_run_judge_its_labels(
    folder: Path, tmp_path: Path, run_drmm, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("dog/copy.png", "cat/white.png", "cat/broken <b>.png"):
        (folder / name).unlink()
    few = [*QUICK, *sets("training.epochs=1", "model.width=2", "trust.folds=2"), "--size", "8"]
    assert run_drmm("fit", folder, "--out", tmp_path / "run", *few)[0] == 0
    check = ["check", folder, "--run", tmp_path / "run", "--force", "--out", tmp_path / "check.html"]
    answers = {
        file: np.array([0.9, 0.1] if file[:3] == "cat" else [0.1, 0.9])
        for file in Run.open(tmp_path / "run").cross_fitted_files
    }
    assert len(answers) == 12
    answers["cat/02.png"] = np.array([0.05, 0.95])
    with monkeypatch.context() as patch:
        patch.setattr(Run, "cross_fitted_files", answers)
        run_drmm(*check)
    assert kinds(tmp_path / "check.csv")["label"] == ["cat/02.png"]
    shutil.copytree(folder, tmp_path / "elsewhere" / "pets")  # control: other files
    check[1] = tmp_path / "elsewhere" / "pets"
    with monkeypatch.context() as patch:
        patch.setattr(Run, "cross_fitted_files", answers)
        run_drmm(*check)
    assert kinds(tmp_path / "check.csv").get("label") != ["cat/02.png"]


def test_pictures_are_told_apart_by_pixels_or_by_a_model(run: Path, tmp_path: Path, run_drmm) -> None:
    levels, labels = load_digits(return_X_y=True)
    wrong = (labels[0] + 1) % 10
    for i in range(200):
        path = tmp_path / "digits" / f"{labels[i] if i else wrong}" / f"{i:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((levels[i] * 15.9).astype(np.uint8).reshape(8, 8)).save(path)
    assert run_drmm("check", tmp_path / "digits", "--out", tmp_path / "pixels.html")[0] == 0
    assert kinds(tmp_path / "pixels.csv")["label"][0] == f"{wrong}/000.png"
    code, out, _ = run_drmm("check", tmp_path / "digits", "--run", run, "--out", tmp_path / "model.html")
    assert code == 0
    by_model = kinds(tmp_path / "model.csv").get("label")
    assert by_model != kinds(tmp_path / "pixels.csv")["label"], "two epochs see less than the pixels"
    assert by_model is not None or "not known: labels that may be wrong" in out
    refused(run_drmm("check", tmp_path / "digits", "--run", tmp_path, "--out", tmp_path / "b.html"), "no model")
