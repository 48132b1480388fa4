"""`drmm label` before the page opens: what cannot be is one line, and nothing is written or replaced."""

from io import BytesIO
from pathlib import Path

import pytest
from commands import files, refused
from PIL import Image

from drmm.errors import RunError
from drmm.labelling.server.explaining import Explainer
from drmm.labelling.store import Store
from drmm.runs.run import Run


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], ("no folder",)),
        (["empty"], ("no pictures",)),
        (["pictures", "--host", "203.0.113.9"], ("cannot listen at 203.0.113.9",)),
        (["pictures", "--host", "no such name"], ("cannot listen at no such name",)),
        (["pictures", "--host", "a" * 100], ("cannot listen at",)),
        (["pictures", "--labels", "nothing.csv"], ("nothing.csv",)),
        (["pictures", "--out", "pictures"], ("is a folder",)),
        (["pictures", "--out", "labels.png"], ("let it end in .csv",)),
        (["pictures", "--run", "empty"], ("no model",)),
        (["pictures", "--store", "notes.txt"], ("notes.txt",)),
    ],
)
def test_what_cannot_be(run_drmm, pictures: Path, monkeypatch: pytest.MonkeyPatch, words, said) -> None:
    monkeypatch.chdir(pictures.parent)
    Path("empty").mkdir()
    Path("notes.txt").write_text("no labels")
    before = files(pictures.parent)
    refused(run_drmm("label", *words), *said)
    assert files(pictures.parent) - before <= {"pictures.labels.sqlite"}
    assert Path("notes.txt").read_text() == "no labels"


def test_a_table_of_somebody_else_is_not_replaced(run_drmm, pictures: Path) -> None:
    table = pictures.with_name("pictures.labels.csv")
    table.write_text("file,label\ndigit0.png,zero\n")
    refused(run_drmm("label", pictures), "pictures.labels.csv", "--labels", "--out")
    refused(run_drmm("label", pictures, "--labels", table), "--out")
    assert table.read_text().endswith("zero\n")


def test_one_page_at_a_time(run_drmm, pictures: Path) -> None:
    with Store(pictures.with_name("pictures.labels.sqlite")):
        refused(run_drmm("label", pictures), "another drmm label")


def test_a_trained_model_explains(run: Path, pictures: Path) -> None:
    explainer = Explainer(Run.open(run))
    told = explainer.explained((pictures / "digit3.png").read_bytes(), "digit3.png")
    assert len(told.answers) == 3
    assert 0 < told.answers[2][1] <= told.answers[0][1] <= 1
    captions = [caption for caption, _ in told.drawings]
    assert captions[0] == "as the model sees it"
    assert captions[1].startswith("evidence")
    assert captions[2:] == [f"drawn as {name}" for name, _ in told.answers]
    for _, png in told.drawings:
        with Image.open(BytesIO(png)) as drawing:
            assert drawing.size == (8, 8)
    with pytest.raises(RunError, match="cannot read picture"):
        explainer.explained(b"<svg/>", "digit3.png")
