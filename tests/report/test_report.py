"""`drmm report`: true, whole, small, and deaf to what names say."""

import base64
import hashlib
import json
import re
import shutil
import sys
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from made import HOSTILE, dataset, write_run
from PIL import Image
from sklearn.metrics import precision_recall_fscore_support
from typer.testing import CliRunner

from drmm.cli import app as cli
from drmm.data import Dataset, load
from drmm.display.text import one_line
from drmm.errors import InputError, RunError
from drmm.files import read_json, write_json
from drmm.report import context, templating, write_report
from drmm.report.blocks import Table
from drmm.report.charts import bars, histogram, lines, power
from drmm.report.context import Context, percent
from drmm.report.evaluation import calibration, confusion_matrix, evaluate
from drmm.report.sections.reliability import confusions
from drmm.report.sprites import Sprites, room
from drmm.runs import experiment as runs
from drmm.runs.run import Run
from drmm.storage.models import load_model, save_model

SECTIONS = [
    "summary", "next", "hardest", "confusion", "calibration", "labels", "explanations", "templates", "samples",
    "levels", "paths", "certificates", "model", "training", "command",
]  # fmt: skip


class Page(HTMLParser):
    """What a browser would make of it: tags with their attributes, and the text outside of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.scripts, self._within = "", [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))
        self._within = tag

    def handle_endtag(self, tag) -> None:
        self._within = ""

    def handle_data(self, data) -> None:
        if self._within == "script":
            self.scripts.append(data)
        elif self._within != "style":
            self.text += data + " "

    def count(self, tag: str) -> int:
        return sum(one == tag for one, _ in self.tags)

    @property
    def sections(self) -> list[str]:
        return [str(attrs["id"]) for tag, attrs in self.tags if tag == "section"]


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch):
    """Puts a data set where the report looks for it; without one the images are gone."""

    def put(data: Dataset | None) -> None:
        def shelved(name: str, **_: object) -> Dataset:
            if data is None:
                raise InputError(f"no data set, folder or zip archive {name!r}")
            return data

        monkeypatch.setattr(runs, "load", shelved)

    return put


def written(run: Path, **options: object) -> str:
    out = run.parent / "report.html"
    size = write_report(run, out, **options)
    text = out.read_text("utf-8")
    assert size == len(text.encode()) == out.stat().st_size
    return text


def test_a_report_has_all_sections(tmp_path: Path, shelf) -> None:
    data = dataset()
    shelf(data)
    page = Page(written(write_run(tmp_path / "a", data)))
    assert page.sections == SECTIONS
    for words in (
        "12.50 %",
        "6 labels of 30 training images",
        "drmm fit noise --labels-per-class 2 --out '<b>here",
    ):
        assert words in page.text


def test_a_report_loads_nothing(tmp_path: Path, shelf) -> None:
    data = dataset()
    shelf(data)
    text = written(write_run(tmp_path / "a", data))
    page = Page(text)
    assert not {tag for tag, _ in page.tags} & {"link", "img", "iframe", "object", "embed", "base", "form"}
    assert not [attrs for _, attrs in page.tags if {"src", "srcset", "action", "background"} & attrs.keys()]
    assert all(address.startswith("data:image/png;base64,") for address in re.findall(r"url\(([^)]*)\)", text))
    assert not re.search(r"https?://|@import", text)


def test_only_the_reports_own_script_may_run(tmp_path: Path, shelf) -> None:
    data = dataset()
    shelf(data)
    page = Page(written(write_run(tmp_path / "a", data)))
    policy = next(
        attrs["content"] for _, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy"
    )
    own = base64.b64encode(hashlib.sha256(page.scripts[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{own}'" in str(policy)
    assert "default-src 'none'" in str(policy)
    json.loads(page.scripts[0])


def dangerous(text: str) -> list[str]:
    """What names have made of a page."""
    page = Page(text)
    alive = [f"{tag} {name}" for tag, attrs in page.tags for name in attrs if name.startswith("on")]
    alive += ["script"] * (page.count("script") - 2) + ["img"] * page.count("img")
    return alive + ["49"] * len(re.findall(r"\b49 \$", page.text))


def test_names_are_text(tmp_path: Path, shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    data = dataset(HOSTILE, train=28)
    shelf(data)
    run = write_run(tmp_path / "<i>&run", data)
    text = written(run)
    assert dangerous(text) == []
    for name in HOSTILE:
        assert one_line(name) in Page(text).text
    assert "a name " * 30 not in text
    monkeypatch.setattr(templating, "Environment", lambda autoescape, **rest: REAL(autoescape=False, **rest))
    assert dangerous(written(run))  # the control: unescaped, the same names take the page over


REAL = templating.Environment


def test_the_same_run_gives_the_same_bytes(tmp_path: Path, shelf) -> None:
    data = dataset()
    shelf(data)
    run = write_run(tmp_path / "a", data)
    assert written(run) == written(run)
    assert written(run) != written(run, seed=1)


@pytest.mark.parametrize(
    ("shape", "classes", "images", "most"),
    [((1, 28, 28), 10, 1000, 3_000_000), ((3, 64, 64), 100, 150, 10_000_000), ((3, 96, 54), 5, 20, 10_000_000)],
)
def test_a_report_is_small(tmp_path: Path, shelf, shape, classes: int, images: int, most: int) -> None:
    # Noise cannot be compressed: no images of this size take more.
    data = dataset([f"class {i}" for i in range(classes)], shape, train=4 * classes, test=images)
    shelf(data)
    run = write_run(tmp_path / "a", data, width=1)
    assert len(written(run, images=images)) < most


def test_what_would_be_too_much_is_left_out() -> None:
    assert room((3, 64, 64), 1_800_000) < 200 < room((1, 28, 28), 1_800_000)


def test_without_images_a_report_says_what_it_can(tmp_path: Path, shelf) -> None:
    data = dataset()
    run = write_run(tmp_path / "a", data)
    shelf(None)
    page = Page(written(run))
    assert page.sections == [
        "summary", "next", "labels", "templates", "samples", "model", "training", "command",
    ]  # fmt: skip
    assert "The images are not here (no data set, folder or zip archive 'noise')" in page.text
    assert "12.50 %" in page.text


@pytest.mark.parametrize("what", ["pixels", "labels", "classes", "shape"])
def test_a_report_about_other_images_is_refused(tmp_path: Path, shelf, what: str) -> None:
    data = dataset()
    shelf(data)
    run = write_run(tmp_path / "a", data)
    written(run)  # the control: the images that the run learned from
    shelf({
        "pixels": replace(data, x_test=255 - data.x_test),
        "labels": replace(data, y_train=data.y_train[::-1].copy()),
        "classes": dataset(("0", "1", "3")),
        "shape": dataset(shape=(1, 14, 12)),
    }[what])  # fmt: skip
    with pytest.raises(RunError, match=r"noise holds other images or labels now than .* learned from") as error:
        write_report(run, tmp_path / "x.html")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "x.html").exists()


def test_without_test_labels(tmp_path: Path, shelf) -> None:
    data = dataset()
    data = replace(data, y_test=np.full_like(data.y_test, -1))
    shelf(data)
    page = Page(written(write_run(tmp_path / "a", data)))
    assert page.sections == SECTIONS
    assert "No test image has a label to compare with" in page.text
    assert "calibration is not defined here" in page.text


def test_without_a_test_set_training_images_are_named_so(tmp_path: Path, shelf) -> None:
    data = dataset()
    data = replace(data, x_test=data.x_test[:0], y_test=data.y_test[:0])
    shelf(data)
    assert "flatters the model" in Page(written(write_run(tmp_path / "a", data))).text


def test_clusters(tmp_path: Path, shelf) -> None:
    data = dataset()
    shelf(data)
    names = [f"cluster {i}" for i in range(5)]
    run = write_run(tmp_path / "a", data, classes=names, labels_per_class=0)
    (run / "labels.csv").write_text("index,label\n")
    page = Page(written(run))
    assert page.sections == [name for name in SECTIONS if name != "next"]
    for words in ("Clusters have no true class", "the model found clusters", "cluster 4"):
        assert words in page.text
    assert ", predicted" not in page.text


def test_of_a_net_that_draws_nothing_no_drawing_is_shown(tmp_path: Path, shelf, monkeypatch) -> None:
    data = dataset()
    shelf(data)
    run = write_run(tmp_path / "a", data)
    drawn = Page(written(run))
    assert {"templates", "samples"} <= set(drawn.sections)
    assert "draws next to nothing" not in drawn.text
    monkeypatch.setattr(context, "LEAST_DRAWN", 2.0)
    silent = Page(written(run))
    assert silent.sections == [name for name in drawn.sections if name not in {"templates", "samples"}]
    assert "draws next to nothing" in silent.text


@pytest.mark.parametrize(
    "options",
    [
        {"preset": "dense"},
        {"constraint": "hard"},
        {"constraint": "weight_norm"},
        {"classes": ["only"]},
    ],
)
def test_every_kind_of_model(tmp_path: Path, shelf, options) -> None:
    data = dataset(options.get("classes", ("a", "b")), (3, 12, 14))
    shelf(data)
    page = Page(written(write_run(tmp_path / "a", data, **options)))
    undrawn = {"templates", "samples"} if options.get("classes") == ["only"] else set()  # by these weights
    assert page.sections == [name for name in SECTIONS if name not in undrawn]
    assert ("here for 100\u00a0% of the images" in page.text) == (options.get("constraint") == "hard")


def test_one_image_and_many_classes(tmp_path: Path, shelf) -> None:
    data = dataset([f"c{i}" for i in range(100)], train=100, test=1)
    shelf(data)
    page = Page(written(write_run(tmp_path / "a", data)))
    assert page.sections == SECTIONS
    # Explanations, recall, levels, paths, versions and settings; the matrix is a chart.
    assert page.count("table") == 6


def test_a_demo_compares_its_models_and_shows_the_soft_one(tmp_path: Path, shelf) -> None:
    data = dataset()
    shelf(data)
    run = write_run(tmp_path / "a", data)
    demo = tmp_path / "demo"
    names = {"supervised": "convnet", "soft": "DRMM", "hard": "<b>hard</b>"}
    for name in names:
        save_model(*load_model(run), demo / name)
    rows = {
        key: {"name": name, "test_error": 2.5 + i, "certified": 0, "seconds": 1}
        for i, (key, name) in enumerate(names.items())
    }
    write_json(demo / "results.json", {"dataset": "noise", "images": 30, "labels": 6, "seed": 7, "models": rows})
    page = Page(written(demo))
    assert page.sections == [*SECTIONS[:2], "models", *SECTIONS[2:]]
    for words in ("DRMM — in detail below", "3.50 %", "<b>hard</b>", "6 labels were known", "seed 7"):
        assert words in page.text
    assert "Nothing was logged" in page.text


def test_a_demo_leads_nowhere_else(tmp_path: Path, shelf) -> None:
    data = dataset()
    shelf(data)
    write_run(tmp_path / "secret", data)
    (tmp_path / "demo").mkdir()
    write_json(tmp_path / "demo" / "results.json", {"models": {"../secret": {}}})
    with pytest.raises(RunError, match="holds no model"):
        write_report(tmp_path / "demo", tmp_path / "x.html")


def damage(run: Path, how: str) -> str:
    """Break a run, and say what the error must name."""
    if how == "no model":
        shutil.rmtree(run)
        run.mkdir()
        return "holds no model"
    if how == "unfinished":
        (run / "model.json").unlink()
        return "has not finished"
    name = {"json": "run.json", "weights": "model.safetensors", "labels": "labels.csv", "logs": "logs/metrics.csv"}
    (run / name[how]).write_bytes(b"index,label\n\xff\xfe{" + bytes(40))
    return f"{Path(name[how]).name} is damaged"


@pytest.mark.parametrize("how", ["no model", "unfinished", "json", "weights", "labels", "logs"])
def test_a_broken_run_is_one_line(tmp_path: Path, shelf, how: str, capsys, monkeypatch) -> None:
    data = dataset()
    shelf(data)
    run = write_run(tmp_path / "a", data)
    words = damage(run, how)
    monkeypatch.setattr(sys, "argv", ["drmm", "report", str(run), "--out", str(tmp_path / "r.html")])
    with pytest.raises(SystemExit) as leave:
        cli.main()
    assert leave.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert words in error
    assert not (tmp_path / "r.html").exists()


def test_a_pruned_model(tmp_path: Path, shelf) -> None:
    data = dataset()
    shelf(data)
    run = write_run(tmp_path / "a", data)
    plan = read_json(run / "run.json")
    Run(run, None).keep_pruning({"command": "drmm prune fit --keep 0.5", "experiment": plan})
    for name in ("run.json", "results.json"):
        (run / name).unlink()
    page = Page(written(run))
    assert page.sections == SECTIONS
    assert "drmm prune fit" in page.text
    assert "of 40 images" in page.text


def test_odd_figures_are_unknown_ones(tmp_path: Path, shelf) -> None:
    data = dataset()
    shelf(data)
    run = write_run(tmp_path / "a", data)
    write_json(run / "results.json", {"test_error": "<b>", "seconds": None, "labels": [1], "models": 3})
    (run / "logs" / "metrics.csv").write_text("epoch,step,train/loss\n0,1,nan\n1,2,0.5\n2,3\n")
    page = Page(written(run))
    assert page.sections == SECTIONS
    assert "test error" in page.text  # measured here


def test_a_report_is_written_whole_or_not_at_all(tmp_path: Path, shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    data = dataset()
    shelf(data)
    run, out = write_run(tmp_path / "a", data), tmp_path / "r.html"
    out.write_text("before")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(RunError, match="cannot write"):
        write_report(run, out)
    assert out.read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "r.html"]


def test_a_folder_of_pictures_by_the_command_line(tmp_path: Path) -> None:
    data = dataset(("<b>cat", "dog 🙂"), (3, 12, 12), train=8, test=8)
    for part, images, labels in (("train", data.x_train, data.y_train), ("test", data.x_test, data.y_test)):
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            place = tmp_path / "pets" / part / data.classes[label]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.transpose(1, 2, 0)).save(place / f"{i}<script>.png")
    run = write_run(tmp_path / "a", replace(load(tmp_path / "pets"), name=str(tmp_path / "pets")))
    out = tmp_path / "r.html"
    result = CliRunner().invoke(cli.cli, ["report", str(run), "--out", str(out), "--images", "5"])
    assert result.exit_code == 0, result.output
    page = Page(out.read_text())
    assert "5 of 8 test images" in page.text
    assert "<b>cat" in page.text
    assert dangerous(out.read_text()) == []


def test_options_are_pinned() -> None:
    text = CliRunner().invoke(cli.cli, ["report", "--help"], env={"COLUMNS": "250", "NO_COLOR": "1"}).output
    assert set(re.findall(r"--[a-z-]+", text)) == {"--out", "--images", "--data-dir", "--force", "--help"}


def test_it_needs_an_image_to_look_at(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="pass 1 or more"):
        write_report(tmp_path, tmp_path / "r.html", images=0)


# --- figures ----------------------------------------------------------------------------------------------


@pytest.fixture
def seen(tmp_path: Path, shelf):
    data = dataset(test=60)
    shelf(data)
    run = Run.open(write_run(tmp_path / "a", data, width=4))
    return run.model, evaluate(run.model, data, 1000)


def test_an_evaluation_is_what_the_model_says(seen) -> None:
    model, evaluation = seen
    x = evaluation.images.float() / 255
    latents = model.infer(x)
    torch.testing.assert_close(torch.from_numpy(evaluation.probability).float(), latents.logits.softmax(1))
    assert (evaluation.predicted == latents.label.numpy()).all()
    np.testing.assert_allclose(evaluation.gap, latents.gap.detach().numpy(), rtol=1e-5)
    residual = ((x - model.reconstruct(x)) ** 2).sum((1, 2, 3)) / (x**2).sum((1, 2, 3))
    np.testing.assert_allclose(evaluation.explained, 1 - residual.detach().numpy(), atol=1e-5)


def test_the_confusion_matrix_counts_images(seen) -> None:
    _, evaluation = seen
    counts = confusion_matrix(evaluation, 3)
    for i in range(3):
        for j in range(3):
            assert counts[i, j] == ((evaluation.truth == i) & (evaluation.predicted == j)).sum()
    unknown = replace(evaluation, truth=np.where(evaluation.truth == 0, -1, evaluation.truth))
    assert confusion_matrix(unknown, 3)[0].sum() == 0


def test_recall_and_precision_are_scikit_learns(tmp_path: Path, shelf) -> None:
    data = dataset(test=60)
    shelf(data)
    run = Run.open(write_run(tmp_path / "a", data, width=4))
    evaluation = evaluate(run.model, data, 1000)
    predicted = np.where(np.arange(60) % 4, evaluation.truth, 1)  # class 1 takes some of the others' images
    evaluation = replace(evaluation, predicted=predicted, probability=np.eye(3)[predicted])
    section = confusions(Context(run, data, "", evaluation))
    table = next(block for block in section.blocks if isinstance(block, Table))
    precision, recall, f1, images = precision_recall_fscore_support(evaluation.truth, predicted)
    assert [row[0] for row in table.rows] == [str(c) for c in np.argsort(recall, kind="stable")]
    for name, n, *figures in table.rows:
        c = int(name)
        assert int(n) == images[c]
        assert figures == [percent(value) for value in (recall[c], precision[c], f1[c])]
    assert len(set(recall)) > 1  # the control: the columns differ
    assert set(recall) != set(precision)


def test_a_class_that_is_never_predicted_has_no_precision(tmp_path: Path, shelf) -> None:
    data = dataset(test=60)
    shelf(data)
    run = Run.open(write_run(tmp_path / "a", data, width=4))
    evaluation = evaluate(run.model, data, 1000)
    predicted = np.zeros(60, np.int64)
    section = confusions(Context(run, data, "", replace(evaluation, predicted=predicted)))
    table = next(block for block in section.blocks if isinstance(block, Table))
    assert [row[3] for row in table.rows] == ["–", "–", percent(1 / 3)]


def test_calibration_error(seen) -> None:
    _, evaluation = seen
    # The control: a model that is right as often as it says has no error, one that is too sure has its excess.
    n = 1000
    truth = np.zeros(n, np.int64)
    label = (np.arange(n) >= 800).astype(np.int64)
    for said, error in ((0.8, 0.0), (0.95, 0.15)):
        p = np.where(np.arange(2) == label[:, None], said, 1 - said)
        made = replace(evaluation, truth=truth, predicted=label, probability=p)
        assert calibration(made).error == pytest.approx(error)
        assert calibration(made).counts.sum() == n
        assert made.loss[made.known].mean() == pytest.approx(-0.8 * np.log(said) - 0.2 * np.log(1 - said))


def test_the_hardest_images_are_the_surest_mistakes(tmp_path: Path, shelf, seen) -> None:
    _, evaluation = seen
    context = Context(Run.open(tmp_path / "a"), None, "", evaluation)
    others = np.setdiff1d(np.flatnonzero(evaluation.wrong), context.hardest)
    assert evaluation.wrong[context.hardest].all()
    assert evaluation.confidence[context.hardest].min() >= evaluation.confidence[others].max()
    assert (
        evaluation.margin[context.least_confident].max()
        <= np.delete(evaluation.margin, context.least_confident).min()
    )
    assert set(context.hardest) | set(context.least_confident) | set(context.examples) <= set(context.opened)
    assert len(set(context.opened.tolist())) == len(context.opened) == 60


def test_a_draw_of_images_is_spread_over_the_data(seen) -> None:
    model, _ = seen
    data = dataset(test=60)
    some = evaluate(model, replace(data, y_test=np.sort(data.y_test)), 30)
    assert some.total == 60
    assert (np.diff(some.index) > 0).all()
    assert set(some.truth) == {0, 1, 2}  # the first 30 would be of two classes


# --- pictures and charts ----------------------------------------------------------------------------------


def decoded(uri: str) -> Image.Image:
    return Image.open(BytesIO(base64.b64decode(uri.partition(",")[2])))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_sheet_holds_every_picture_where_it_says(channels: int) -> None:
    images = torch.randint(0, 256, (87, channels, 6, 5), dtype=torch.uint8)
    sheet = Sprites().pictures(images)
    whole = decoded(sheet.uri)
    assert whole.size == (5 * sheet.grid[0], 6 * sheet.grid[1])
    for place in (0, 39, 40, 86):
        # CSS: x % of a background aligns that point of the picture with that point of its box.
        left, top = (p / 100 * (s - b) for p, s, b in zip(sheet.offset(place), whole.size, (5, 6), strict=True))
        crop = np.array(whole.crop((round(left), round(top), round(left) + 5, round(top) + 6))).reshape(6, 5, -1)
        assert (crop == images[place].permute(1, 2, 0).numpy()).all()


def test_evidence_is_red_for_and_blue_against_and_nothing_where_there_is_none() -> None:
    sheet = Sprites().evidence(torch.tensor([[[0.0, 2.0], [-1.0, 0.0]]]))
    (none, most), (against, _) = np.array(decoded(sheet.uri).convert("RGBA"))
    assert none[3] == 0
    assert most[3] == 255
    assert most[0] > most[2]
    assert against[2] > against[0]
    assert 0 < against[3] < 255


def test_large_pictures_are_shrunk() -> None:
    sheet = Sprites().pictures(torch.zeros(2, 3, 300, 150, dtype=torch.uint8))
    assert sheet.size == (32, 64)


def test_charts_escape_and_label() -> None:
    name = HOSTILE[1]
    for chart in (lines({name: ([1.0], [2.0])}, name, name), bars({name: 1.0}, {name: name}, name)):
        page = Page(str(chart))
        assert {tag for tag, _ in page.tags} <= {"svg", "path", "text", "circle", "title", "rect"}
        assert page.tags[0][1]["aria-label"]


def test_charts_of_odd_values() -> None:
    for values in ([0.0], [5.0, 5.0], [-1e-9, 1e9]):
        assert "NaN" not in lines({"a": (list(range(len(values))), values)}, "x", "y")
        assert "nan" not in histogram(np.array(values), "x")
    assert "nan" not in bars({"a": 0.0}, {"a": "0"}, "none")


def test_words_for_numbers() -> None:
    assert [percent(x) for x in (0, 0.0001, 0.5, 0.9999, 1)] == [
        f"{figure}\u00a0%" for figure in ("0", "< 0.1", "50.0", "> 99.9", "100")
    ]
    assert [power(x) for x in (0, 3, 12.3)] == ["1", "1,000", "2.0·10¹²"]


def test_a_run_keeps_what_was_logged(tmp_path: Path, shelf) -> None:
    data = dataset()
    shelf(data)
    run = Run.open(write_run(tmp_path / "a", data))
    assert run.curves["train/loss"] == ((1.0, 2.0, 3.0), (1.0, 0.5, pytest.approx(1 / 3)))
    assert run.command == read_json(tmp_path / "a" / "results.json")["command"]
