"""Pictures that somebody should look at: by name, by what was held out, and what was sorted."""

import re
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made import trusted, write_pictures, write_run
from PIL import Image

from drmm.data import Dataset, load
from drmm.data.base import Skipped
from drmm.display.text import printable
from drmm.errors import RunError
from drmm.files import read_json, write_json
from drmm.report import write_report
from drmm.report.answers import Answer, Sorting
from drmm.report.blocks import Charts, Gallery, Table
from drmm.report.context import Context
from drmm.report.evaluation import confusion_matrix, evaluate, held_out_images
from drmm.report.examination import examined_pictures, learned_parts
from drmm.report.sections.pictures import findings, next_steps, sorted_pictures
from drmm.report.sections.reliability import calibration_error, hardest
from drmm.report.sections.training import labels
from drmm.report.sprites import Sprites
from drmm.runs.parts import Parts
from drmm.runs.run import Run

WRONG = (1, 8)  # of the training images


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("data") / "pets")


@pytest.fixture(scope="module")
def data(folder: Path) -> Dataset:
    with warnings.catch_warnings(action="ignore"):  # of the broken picture
        return load(folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, folder: Path, data: Dataset) -> Run:
    written = write_run(
        tmp_path_factory.mktemp("runs") / "a", replace(data, name=str(folder)), labels_per_class=None
    )
    (written / "labels.csv").unlink()
    results = read_json(written / "results.json")
    shares = {name: {"estimate": 0.5, "low": 0.25, "high": 0.75, "bbse": 0.1} for name in data.classes}
    write_json(written / "results.json", {**results, "test_error": None, "class_shares": shares})
    Run.open(written).keep_labels(data, np.flatnonzero(data.y_train >= 0))
    return trusted(written, data, WRONG)


@pytest.fixture(scope="module")
def context(run: Run, data: Dataset) -> Context:
    parts = learned_parts(run, data)
    evaluation = evaluate(run.model, data, 1000, 0, run.assessment, parts)
    return Context(run, data, "", evaluation, 0, examined_pictures(run, data, parts))


def names(gallery: Gallery) -> list[str]:
    return [picture.name for picture in gallery.pictures]


def test_without_a_test_part_the_answers_are_those_that_had_not_learned_the_label(run, data, context) -> None:
    evaluation, held_out = context.evaluation, run.assessment.held_out
    assert evaluation.held_out.sum() == 18
    for row in np.flatnonzero(evaluation.held_out):
        (at,) = np.flatnonzero(held_out.index == evaluation.index[row])
        np.testing.assert_allclose(evaluation.probability[row], np.exp(held_out.log_probability[at]), rtol=1e-12)
    assert evaluation.index[evaluation.wrong].tolist() == list(WRONG)
    counts = confusion_matrix(evaluation, 3)
    assert np.diag(counts).sum() == 16
    own = evaluate(run.model, data, 1000, 0, run.assessment)  # control: without what it learned from, its own
    assert own.wrong.sum() != 2
    assert not own.held_out.any()
    free = ~evaluation.held_out
    np.testing.assert_array_equal(own.probability[free], evaluation.probability[free])


def test_labelled_pictures_are_looked_at_first(run, data) -> None:
    some = evaluate(run.model, data, 20, 0, run.assessment, learned_parts(run, data))
    assert some.held_out.sum() == 18
    assert (np.diff(some.index) > 0).all()
    assert evaluate(run.model, data, 20, 0, run.assessment).held_out.sum() == 0, "control"


def test_a_label_that_was_learned_and_not_held_out_is_no_test(run, data) -> None:
    parts, assessment = learned_parts(run, data), run.assessment
    fewer = replace(
        assessment,
        held_out=replace(
            assessment.held_out,
            **{
                name: getattr(assessment.held_out, name)[3:]
                for name in ("index", "label", "log_probability", "rank")
            },
        ),
    )
    assert evaluate(run.model, data, 1000, 0, fewer, parts).known.sum() == 15


def test_of_some_of_the_images_and_labels_the_right_ones_are_meant(run, data) -> None:
    generator = np.random.default_rng(0)
    kept = np.sort(generator.permutation(len(data.x_train))[:20])
    y = torch.from_numpy(data.y_train[kept])
    labelled = np.flatnonzero(y.numpy() >= 0)
    held_out = generator.permutation(labelled)[:5]  # rows of what it learned from
    parts = Parts(torch.from_numpy(data.x_train[kept]), y, kept[labelled], None)
    some = replace(run.assessment, held_out=replace(run.assessment.held_out, index=held_out))
    assert held_out_images(some, parts).tolist() == kept[held_out].tolist()


def test_pictures_to_test_with_that_have_no_label_are_no_test(run, data) -> None:
    more = replace(data, x_test=data.x_train[:3], y_test=np.full(3, -1), test_files=("x", "y", "z"))
    assert evaluate(run.model, more, 1000, 0, run.assessment, learned_parts(run, data)).held_out.sum() == 18
    more = replace(more, y_test=np.zeros(3, np.int64))
    assert evaluate(run.model, more, 1000, 0, run.assessment, learned_parts(run, data)).part == "test", "control"


def test_mistakes_have_the_whole_names_of_their_files(context, data) -> None:
    mistakes = hardest(context).blocks[0]
    assert mistakes.caption == "Mistakes: 2"
    assert sorted(names(mistakes)) == sorted(data.files[i] for i in WRONG)
    assert all(len(name) > 60 for name in names(mistakes))


def test_the_least_confident_are_pictures_without_a_label(context, data) -> None:
    unsure = hardest(context).blocks[1]
    assert {Path(name).parts[0] for name in names(unsure)} == {"unlabelled"}


def test_both_diagrams_are_drawn(context) -> None:
    (charts,) = calibration_error(context).blocks
    assert isinstance(charts, Charts)
    assert len(charts.charts) == 3
    plain = replace(context.evaluation, own=context.evaluation.probability)
    (charts,) = calibration_error(replace(context, evaluation=plain)).blocks
    assert len(charts.charts) == 2, "control: what is not calibrated is one diagram"


def test_class_shares_stand_beside_the_labels(context) -> None:
    (table,) = [block for block in labels(context).blocks if isinstance(block, Table)]
    assert table.rows[0][1:] == ("33.3\u00a0%", "50.0\u00a0%", "25.0 to 75.0 %")


def test_copies_blanks_and_wrong_labels_are_named(context, data) -> None:
    galleries = {block.caption.partition(":")[0]: block for block in findings(context).blocks}
    assert set(names(galleries["Exact copies"])) >= {"unlabelled/copy.png"}
    assert names(galleries["Blank pictures"]) == ["unlabelled/blank.png"]
    doubtful = galleries["Labels that may be wrong"]
    assert sorted(names(doubtful)) == sorted(data.files[i] for i in WRONG)
    assert doubtful.pictures[0].caption.startswith("labelled ")
    by_look = examined_pictures(context.source, data, None)
    assert not [one.found for one in by_look if one.kind == "label" and one.found], (
        "control: noise looks like nothing"
    )


def test_nets_that_know_nothing_refute_no_label(context, data, tmp_path: Path) -> None:
    folder = context.source.folder
    (tmp_path / "a").mkdir()
    for file in folder.glob("*.*"):
        (tmp_path / "a" / file.name).write_bytes(file.read_bytes())
    ignorant = trusted(tmp_path / "a", data, range(12))
    (finding,) = [
        one for one in examined_pictures(ignorant, data, learned_parts(ignorant, data)) if one.kind == "label"
    ]
    assert not finding.found
    assert "33%" in finding.unknown


def answers(n: int, decision: str, files: tuple[str, ...]) -> tuple[Answer, ...]:
    return tuple(
        Answer(files[i % len(files)], "ab"[i % 2], decision, 0.3 + i / 100, "c", i / 1000) for i in range(n)
    )


def sorting(folder: Path, data: Dataset) -> Sorting:
    files = data.files
    each = {"sorted": 30, "unsure": 24, "unfamiliar": 3, "labelled": 5}
    made = tuple(one for decision, n in each.items() for one in answers(n, decision, files))
    return Sorting(
        folder, folder.parent / "out", 0.9, made, (Skipped("x/broken.png", "it is empty", is_loss=True),)
    )


def test_what_was_sorted_is_counted_and_the_least_sure_shown(context, folder, data) -> None:
    section = sorted_pictures(replace(context, sorting=sorting(folder, data)))
    facts, table, *galleries = section.blocks
    assert [fact.value for fact in facts.facts] == ["30", "5", "24", "3"]
    assert table.rows == (("a", "3", "15", "18"), ("b", "2", "15", "17"))
    assert [block.caption for block in galleries] == ["Sorted, but least sure: 30", "Unsure: 24", "Unfamiliar: 3"]
    assert [len(block.pictures) for block in galleries] == [24, 24, 3]
    assert "And 6 more: in sort.csv." in galleries[0].lead
    assert "more" not in galleries[1].lead
    assert galleries[0].pictures[0].caption == "a (30\u00a0%), or c"
    assert names(galleries[2])[0] == data.files[0]
    assert galleries[2].pictures[1].caption == "as strange: 0.1\u00a0% of what it learned from"
    one = Sorting(folder, folder, 0.9, (Answer(data.files[0], "a", "unfamiliar", 0.4, "b", 0.001, "pixels"),))
    *_, strange = sorted_pictures(replace(context, sorting=one)).blocks
    assert strange.pictures[0].caption.startswith("strangest in pixels; as strange")
    assert sorted_pictures(context) is None, "control: nothing was sorted"


def test_pictures_that_the_run_has_not_seen_are_read(context, folder, data, tmp_path: Path) -> None:
    Image.new("RGB", (300, 200), (255, 0, 0)).save(tmp_path / "new.png")
    new = Sorting(tmp_path, tmp_path / "out", 0.9, (Answer("new.png", "a", "unsure", 0.4, "b", 0.5),))
    levels = replace(context, sorting=new).thumbnails(["new.png"])
    assert levels.shape == (1, 3, 64, 64)
    assert levels[0, 0].max() == 255
    assert levels[0, 1].max() == 0
    assert context.thumbnails(data.files[:2]).shape == (2, 1, 12, 12), "control: its own are as it saw them"


def test_a_picture_may_have_any_name(context, tmp_path: Path) -> None:
    odd = ["=1+1.png", "a\nb\x1b[2J.png", "\udcff.png", "e\u0301 \u202egnp.png"]
    for name in odd:
        Image.new("L", (8, 8), 50).save(tmp_path / name)
    new = Sorting(tmp_path, tmp_path / "a b", 0.9, tuple(Answer(name, "a", "sorted", 0.4) for name in odd))
    *_, gallery = sorted_pictures(replace(context, sorting=new)).blocks
    assert sorted(names(gallery)) == sorted(printable(name) for name in odd)
    assert not any(name.encode("utf-8").count(b"\x1b") for name in names(gallery))
    steps = next_steps(replace(context, sorting=new)).blocks[0].steps
    assert any(step.endswith("/a b' says how many are wrong at most.") for step in steps), "as a shell reads it"


def test_a_page_about_a_sorting(run, folder, data, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    with warnings.catch_warnings(action="ignore"):  # of the broken picture
        write_report(run.folder, out, sorting=sorting(folder, data))
    text = out.read_text()
    order = re.findall(r'<section id="(\w+)"', text)
    assert order[:6] == ["summary", "next", "sorted", "hardest", "pictures", "skipped"]
    counts = "62 pictures of pets: 30 sorted by the model and 5 by their labels"
    for words in (counts, "<bdi>out</bdi>", "x/broken.png", "drmm audit", "&lt;script&gt;.png"):
        assert words in text
    assert "<script>.png" not in text


def test_a_sorting_by_a_run_whose_pictures_have_changed(run, folder, data, tmp_path: Path) -> None:
    new = folder / "unlabelled" / "new.png"
    Image.new("L", (12, 12), 99).save(new)
    try:
        with warnings.catch_warnings(action="ignore"):  # of the broken picture
            write_report(run.folder, tmp_path / "page.html", sorting=sorting(folder, data))
            with pytest.raises(RunError, match="other images"):  # control: of the run alone
                write_report(run.folder, tmp_path / "other.html")
    finally:
        new.unlink()
    text = (tmp_path / "page.html").read_text()
    assert 'id="sorted"' in text
    assert "other images or labels now" in text
    assert 'id="confusion"' not in text


def test_names_of_test_pictures(tmp_path: Path) -> None:
    for i, place in enumerate(["train/a", "train/b", "test/b", "test/a"]):
        (tmp_path / place).mkdir(parents=True)
        Image.new("L", (12, 12), i).save(tmp_path / place / "x.png")
    with warnings.catch_warnings(action="ignore"):  # one picture of each class
        data = load(tmp_path)
    assert data.test_files == ("test/a/x.png", "test/b/x.png")
    assert data.x_test[:, 0, 0, 0].tolist() == [3, 2]


def test_photographs_take_a_fraction_of_the_bytes() -> None:
    x = torch.linspace(0, 255, 64)[None, None, :, None] + torch.randn(24, 3, 64, 64) * 8
    levels = x.clamp(0, 255).to(torch.uint8)
    exact, small = Sprites().pictures(levels), Sprites().photographs(levels.numpy())
    assert small.uri.startswith("data:image/jpeg;base64,")
    assert len(small.uri) < len(exact.uri) / 3
    assert small.offset(23) == exact.offset(23)
