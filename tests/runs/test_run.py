"""What a run's folder says: of this version and of version 0.1.0, finished or not, damaged or moved."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from photos import CLASSES, small, write_photos

from drmm.cli.apply import predict
from drmm.cli.prune import prune
from drmm.data import load
from drmm.errors import RunError
from drmm.files import read_json, write_json
from drmm.learning.metrics import error_percent
from drmm.runs.fit import fit_run
from drmm.runs.run import Run
from drmm.storage.models import load_model

OLD = Path(__file__).parent / "of_version_0_1"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    fit_run(small(write_photos(folder / "photos")), folder / "run", progress=False, command="drmm fit photos")
    return folder / "run"


def test_run_json_is_the_experiment(finished: Path) -> None:
    run = Run.open(finished)
    assert run.experiment is not None
    assert read_json(finished / "run.json") == json.loads(json.dumps(run.experiment.tables()))
    asked = small(finished.parent / "photos")
    assert set(asked.resolved().differences(run.experiment)) == {
        "data.digest", "data.size", "model.preset", "model.image_shape", "model.classes",
    }  # fmt: skip
    assert run.experiment.resolved() == run.experiment
    assert run.experiment.data.digest == load(finished.parent / "photos").digest
    assert run.recipe == run.experiment.model


def test_a_run_says_what_came_out(finished: Path) -> None:
    run = Run.open(finished)
    assert (run.name, run.finished, run.clusters, run.rows) == ("", True, False, {})
    assert run.command == "drmm fit photos"
    assert run.versions["torch"] == torch.__version__
    assert "train/loss" in run.curves
    assert run.recipe.classes == CLASSES
    assert run.data().classes == CLASSES


def test_labels_csv_names_files(finished: Path) -> None:
    rows = [line.split(",") for line in (finished / "labels.csv").read_text().splitlines()]
    assert rows[0] == ["index", "label", "file"]
    data = load(finished.parent / "photos")
    assert len(rows) == 1 + 12
    for index, label, file in rows[1:]:
        assert file == data.files[int(index)]
        assert file.startswith(f"{label}/")
    labels = Run.open(finished).labels
    assert labels == tuple((int(index), label) for index, label, _ in rows[1:])


def test_an_unfinished_run_has_no_model(finished: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    for name in ("model.json", "results.json"):
        (folder / name).unlink()
    run = Run.open(folder)
    assert (run.has_model, run.finished, run.results) == (False, False, {})
    with pytest.raises(RunError, match=r"has not finished: go on with drmm fit --out .* --resume"):
        _ = run.model


def test_a_folder_without_anything(tmp_path: Path) -> None:
    for open_it in (Run.open, Run.to_resume):
        with pytest.raises(RunError, match="holds no"):
            open_it(tmp_path)


@pytest.mark.parametrize("content", ["[]", "{", '{"data": 3}', '{"spec": {"data": "digits", "training": 3}}'])
def test_a_damaged_record_is_one_line(content: str, finished: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    Run.open(folder)  # the control
    (folder / "run.json").write_text(content)
    with pytest.raises(RunError, match=r"is damaged|does not say what was run") as error:
        Run.open(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_labels_that_are_not_all_there_are_one_line(share: float, finished: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    table = (folder / "labels.csv").read_text()
    (folder / "labels.csv").write_text(table[: round(share * len(table))])
    if share == 1:  # the control
        assert len(Run.open(folder).labels) == read_json(folder / "results.json")["labels"]
        return
    with pytest.raises(RunError, match=r"labels\.csv is damaged \(\d+ labels of \d+\)"):
        _ = Run.open(folder).labels


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"drmm": "9.0.0", "padding": 2}, "says 'padding', as drmm 9.0.0 does: update drmm"),
        ({"width": -3}, "a level needs 1 template or more"),
        ({"width": 10**9}, "does not describe a model"),
        ({"image_shape": {"a": 1}}, "does not describe a model"),
        ({"classes": 3}, "does not describe a model"),
        ({}, ""),
    ],
)
def test_a_model_of_another_kind_is_one_line(change: dict, says: str, finished: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    write_json(folder / "model.json", {**read_json(folder / "model.json"), **change})
    if not change:  # the control
        assert load_model(folder)[1] == load_model(finished)[1]
        return
    with pytest.raises(RunError, match=says):
        load_model(folder)


def test_a_name_that_is_no_unicode_is_kept(tmp_path: Path) -> None:
    """As Linux allows: JSON brings it back, and a table shows it."""
    odd = b"caf\xe9".decode("utf-8", "surrogateescape")
    run = Run.create(tmp_path / "run", small(odd))
    assert Run.open(tmp_path / "run").experiment == run.experiment
    data = load(write_photos(tmp_path / "photos"))
    object.__setattr__(data, "files", tuple(f"{odd}/{name}" for name in data.files))
    run.keep_labels(data, [0])
    assert r"0,blue,caf\udce9/blue/0.png" in (tmp_path / "run" / "labels.csv").read_text()


# --- version 0.1.0 -----------------------------------------------------------------------------------------


def test_a_run_of_version_0_1_says_what_was_asked() -> None:
    run = Run.open(OLD / "fitted")
    experiment = run.experiment
    assert experiment is not None
    assert (experiment.data.source, experiment.data.labels_per_class, experiment.data.validation) == (
        "digits",
        5,
        100,
    )
    assert (experiment.model.preset, experiment.model.width) == ("conv_small", 2)
    assert (experiment.training.epochs, experiment.training.min_steps) == (2, 0)
    assert experiment.objective.kl == 0.5
    assert experiment.machine.precision == "32-true"
    assert (experiment.teacher, bool(experiment.select)) == (None, False)
    assert run.command.startswith("drmm fit digits")
    assert run.versions["drmm"] == "0.1.0"
    assert len(run.labels or ()) == 50
    assert run.curves["val/error"] == ((1.0, 2.0), (87.0, 81.0))


def test_a_model_of_version_0_1_errs_as_it_did() -> None:
    run = Run.open(OLD / "fitted")
    data = run.data()
    x, y = torch.from_numpy(data.x_test), torch.from_numpy(data.y_test)
    assert error_percent(run.model, x, y) == pytest.approx(run.results["test_error"])
    pruned = Run.open(OLD / "pruned").model
    assert error_percent(pruned, x, y) != pytest.approx(run.results["test_error"]), "control"


def test_a_pruned_model_of_version_0_1() -> None:
    run = Run.open(OLD / "pruned")
    assert run.experiment == Run.open(OLD / "fitted").experiment
    assert run.recipe.channels == (1, 2, 2, 4)
    assert (run.finished, run.results, len(run.labels or ())) == (False, {}, 50)
    assert run.command.startswith("drmm prune")


@pytest.mark.parametrize("name", ["fitted", "pruned"])
def test_runs_of_version_0_1_label_images(name: str, tmp_path: Path) -> None:
    data = load("digits")
    images, out = tmp_path / "images.npy", tmp_path / "predictions.csv"
    np.save(images, data.x_test[:7])
    assert predict(OLD / name, [images], out) == 7
    model, recipe = load_model(OLD / name)
    expected = [recipe.classes[c] for c in model(torch.from_numpy(data.x_test[:7]).float() / 255).argmax(1)]
    assert [line.split(",")[1] for line in out.read_text().splitlines()[1:]] == expected


def test_a_run_of_version_0_1_is_resumed_to_itself_and_trained_further(tmp_path: Path) -> None:
    folder = shutil.copytree(OLD / "fitted", tmp_path / "run")
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    experiment = Run.open(folder).experiment
    assert experiment is not None
    assert fit_run(experiment, folder, resume=True, progress=False) == json.loads(before["results.json"])
    with pytest.raises(RunError, match=r"another objective\.warm_up"):
        fit_run(experiment.set("objective.warm_up=0.5"), folder, resume=True, progress=False)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    results = fit_run(experiment.changed("training", epochs=3), folder, resume=True, progress=False)
    assert results["epochs"] == 3
    assert results["earlier"] == [json.loads(before["results.json"])]
    assert "spec" not in read_json(folder / "run.json"), "it is one of this version now"


def test_a_run_of_version_0_1_is_pruned(tmp_path: Path) -> None:
    results = prune(OLD / "fitted", tmp_path / "smaller", keep=0.5)
    assert results["channels"]["after"] == [1, 2, 2, 4]
    assert Run.open(tmp_path / "smaller").experiment == Run.open(OLD / "fitted").experiment
