"""A run can be stopped, moved, gone on with and trained further; it stops where its data or teacher changed."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from photos import small, write_photos
from PIL import Image
from safetensors.torch import load_file

from drmm.cli.apply import predict
from drmm.cli.fit import asked_for
from drmm.cli.prune import prune
from drmm.data.listing import Listing
from drmm.data.store import taken
from drmm.errors import InputError, RunError
from drmm.files import locked, read_json, write_csv
from drmm.learning import trainer
from drmm.report import write_report
from drmm.runs import fit
from drmm.runs.experiment import Experiment
from drmm.runs.fit import fit_run
from drmm.runs.parts import parts_of
from drmm.runs.run import Run


def quiet(experiment: Experiment, folder: Path, **options: object) -> dict:
    return fit_run(experiment, folder, progress=False, **options)


def resume(folder: Path, **training: object) -> dict:
    """Go on as `drmm fit --out RUN --resume` does, with some settings of the training."""
    everyday = {f"training.{name}": value for name, value in training.items()}
    return quiet(asked_for(None, folder, everyday, ()), folder, resume=True)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pictures and a run of one epoch on them; no test changes it."""
    folder = tmp_path_factory.mktemp("made")
    quiet(small(write_photos(folder / "photos")), folder / "run")
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path) -> Path:
    """A copy of one's own, whose run knows its own pictures."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    run = Run.open(tmp_path / "run")
    assert run.experiment is not None
    run.keep_experiment(run.experiment.changed("data", source=str(tmp_path / "photos")))
    return tmp_path


def stop_in_epoch(patch: pytest.MonkeyPatch, epoch: int) -> None:
    """Ctrl-C in the first step of an epoch."""
    step = trainer._Learner.training_step

    def stopping(self: trainer._Learner, batch: object, number: int) -> torch.Tensor:
        if self.current_epoch == epoch:
            raise KeyboardInterrupt
        return step(self, batch, number)

    patch.setattr(trainer._Learner, "training_step", stopping)


# --- where it is -------------------------------------------------------------------------------------------


def test_a_run_is_used_and_trained_further_from_another_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_photos(tmp_path / "photos")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    quiet(small("photos"), Path("run"))
    assert Run.open("run").experiment.data.source == str(tmp_path / "photos")
    monkeypatch.chdir(tmp_path / "elsewhere")
    moved = Path("moved")
    shutil.move(tmp_path / "run", moved)
    assert predict(moved, [tmp_path / "photos" / "red"], Path("labels.csv")) == 6
    write_report(moved, Path("report.html"), images=2)
    prune(moved, Path("smaller"), keep=0.5)
    assert resume(moved, epochs=2)["epochs"] == 2


def test_pictures_can_be_moved_too(here: Path) -> None:
    (here / "photos").rename(here / "pictures")
    with pytest.raises(InputError, match="no data set, folder or zip archive"):
        resume(here / "run", epochs=2)
    everyday = {"data.source": str(here / "pictures"), "training.epochs": 2}
    results = quiet(asked_for(None, here / "run", everyday, ()), here / "run", resume=True)
    assert results["epochs"] == 2
    assert Run.open(here / "run").experiment.data.source == str(here / "pictures")


# --- when the data or the teacher changed ------------------------------------------------------------------


def bytes_of_a_file(photos: Path) -> None:
    shutil.copy(photos / "red" / "1.png", photos / "red" / "0.png")


def name_of_a_file(photos: Path) -> None:
    (photos / "red" / "0.png").rename(photos / "red" / "00.png")


def another_file(photos: Path) -> None:
    shutil.copy(photos / "red" / "0.png", photos / "unlabelled" / "new.png")


def one_file_less(photos: Path) -> None:
    (photos / "unlabelled" / "5.png").unlink()


def a_label(photos: Path) -> None:
    (photos / "red" / "5.png").rename(photos / "blue" / "6.png")


def name_of_a_class(photos: Path) -> None:
    (photos / "red").rename(photos / "reddish")


CHANGES = [bytes_of_a_file, name_of_a_file, another_file, one_file_less, a_label, name_of_a_class]


def uses(here: Path) -> dict[str, Callable[[], object]]:
    run = here / "run"
    return {
        "resume": lambda: resume(run),
        "train further": lambda: resume(run, epochs=2),
        "prune": lambda: prune(run, here / "smaller", keep=0.5),
        "report": lambda: write_report(run, here / "report.html", images=2),
    }


@pytest.mark.parametrize("change", CHANGES)
def test_changed_images_stop_what_needs_them(change: Callable[[Path], None], here: Path) -> None:
    change(here / "photos")
    before = contents(here)
    for use in uses(here).values():
        with pytest.raises(RunError, match=r"photos holds other images or labels now than .*run learned") as error:
            use()
        assert "\n" not in str(error.value)
    assert contents(here) == before, "nothing was written"
    assert predict(here / "run", [here / "photos" / "blue"], here / "labels.csv") >= 6, (
        "labels need no training images"
    )


def test_images_that_are_as_they_were_stop_nothing(here: Path) -> None:
    """The control: read again, copied, and put back."""
    shutil.copytree(here / "photos", here / "copy")
    shutil.rmtree(here / "photos")
    (here / "copy").rename(here / "photos")
    (here / "photos" / "notes.txt").write_text("no picture")
    for use in uses(here).values():
        use()


def test_another_teacher_stops_a_resume(here: Path) -> None:
    teacher, pupil = here / "run", here / "pupil"
    quiet(small(here / "photos").changed("teacher", source=str(teacher)), pupil)
    assert read_json(pupil / "run.json")["teacher"]["source"] == str(teacher)
    assert resume(pupil) == Run.open(pupil).results, "control: the same one"
    moved = here / "moved"
    teacher.rename(moved)
    elsewhere = asked_for(None, pupil, {"teacher.source": str(moved)}, ())
    assert quiet(elsewhere, pupil, resume=True) == Run.open(pupil).results, "control: it may be somewhere else"
    moved.rename(teacher)
    resume(teacher, epochs=2)
    before = contents(pupil)
    with pytest.raises(
        RunError, match=r"the teacher's model is another one than .*pupil was started with"
    ) as error:
        resume(pupil)
    assert "\n" not in str(error.value)
    assert contents(pupil) == before


def test_a_recipe_teaches(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is learned first on the same images; a second time its model is there."""
    read = Experiment.read
    quick = {"epochs": 1, "min_steps": 0, "batch_size": 8, "labelled_per_batch": 4}
    monkeypatch.setattr(Experiment, "read", lambda name="few-labels": read(name).changed("training", **quick))
    learned, learn = [], fit.learn
    monkeypatch.setattr(
        fit, "learn", lambda lesson, *parts, **rest: learned.append(lesson) or learn(lesson, *parts, **rest)
    )
    pupil = small(here / "photos").changed("model", constraint="hard").changed("teacher", source="kl")
    quiet(pupil, here / "pupil")
    assert [(one.model.constraint, one.objective.kl) for one in learned] == [("soft", 0.5), ("hard", 0.0)]
    assert Run(here / "pupil" / "teacher", None).recipe.constraint == "soft"
    assert read_json(here / "pupil" / "run.json")["teacher"] == {"source": "kl", "digest": ""}
    (here / "pupil" / "results.json").unlink()
    resume(here / "pupil")
    assert len(learned) == 3, "the pupil alone"


# --- more epochs -------------------------------------------------------------------------------------------


def test_more_epochs_train_a_finished_run_further(here: Path) -> None:
    run = here / "run"
    first, before = Run.open(run).results, weights(run)
    second = resume(run, epochs=3)
    assert (first["epochs"], second["epochs"]) == (1, 3)
    assert second["earlier"] == [first]
    assert not same(before, weights(run))
    assert read_json(run / "run.json")["training"]["epochs"] == 3
    third = resume(run, epochs=4)
    assert third["earlier"] == [first, {name: value for name, value in second.items() if name != "earlier"}]
    assert first["seconds"] <= second["seconds"] <= third["seconds"]
    assert read_json(run / "results.json") == third


def test_what_is_stopped_while_it_is_trained_further_ends_as_if_it_had_not(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped, whole = here / "run", shutil.copytree(here / "run", here / "whole")
    first, before = contents(stopped), weights(stopped)
    resume(whole, epochs=4)
    with monkeypatch.context() as patch:
        stop_in_epoch(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            resume(stopped, epochs=4)
    assert {name: value for name, value in contents(stopped).items() if "further" not in name} == first
    assert (stopped / "further" / "4" / "checkpoints" / "last.ckpt").exists(), "control: it had begun"
    results = resume(stopped, epochs=4)
    assert (results["epochs"], results["resumed"], len(results["earlier"])) == (4, True, 1)
    assert same(weights(stopped), weights(whole))
    assert not same(weights(stopped), before)


def test_a_finished_run_is_left_as_it_is(here: Path) -> None:
    before = contents(here / "run")
    assert resume(here / "run") == Run.open(here / "run").results
    assert contents(here / "run") == before


def test_epochs_never_become_fewer(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resume(here / "run", epochs=2)
    with pytest.raises(RunError, match="was started for 2 epochs: resume with as many, or more"):
        resume(here / "run", epochs=1)
    with monkeypatch.context() as patch:
        stop_in_epoch(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            quiet(small(here / "photos", epochs=3), here / "new")
    for epochs, says in (
        (2, "as many, or more"),
        (4, "has not finished its 3 epochs: resume it with as many first"),
    ):
        with pytest.raises(RunError, match=says):
            resume(here / "new", epochs=epochs)
    assert resume(here / "new")["epochs"] == 3


def test_a_run_learned_by_em_is_not_trained_further(here: Path) -> None:
    experiment = small(here / "photos", learning="em").changed("model", preset="dense")
    quiet(experiment, here / "em")
    before = contents(here / "em")
    with pytest.raises(InputError, match="learned by em does not go on learning"):
        resume(here / "em", epochs=5)
    assert contents(here / "em") == before


# --- a stop ------------------------------------------------------------------------------------------------


def test_a_stopped_run_ends_as_if_it_had_not_been(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = small(here / "photos", epochs=3)
    whole = quiet(experiment, here / "whole")
    with monkeypatch.context() as patch:
        stop_in_epoch(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            quiet(experiment, here / "stopped")
    assert not (here / "stopped" / "model.json").exists()
    results = resume(here / "stopped")
    assert same(weights(here / "stopped"), weights(here / "whole"))
    assert (whole["resumed"], results["resumed"]) == (False, True)


def test_seconds_are_those_of_all_sessions(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first session's are made to be many: what a checkpoint says is counted."""
    with monkeypatch.context() as patch:
        stop_in_epoch(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            quiet(small(here / "photos", epochs=2), here / "new")
    checkpoint = here / "new" / "checkpoints" / "last.ckpt"
    state = torch.load(checkpoint, weights_only=True)
    assert 0 < state["seconds"] < 500
    torch.save(state | {"seconds": 1000.0}, checkpoint)
    first = resume(here / "new")["seconds"]
    assert 1000 <= first < 1500
    second = resume(here / "new", epochs=3)["seconds"]
    assert first <= second < 1500, "each session once"
    assert Run.open(here / "run").results["seconds"] < 500, "control"


def test_a_mistake_that_learning_finds_leaves_no_folder(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise InputError("the loss is not finite")

    monkeypatch.setattr(fit, "train", refuse)
    with pytest.raises(InputError, match="not finite"):
        quiet(small(here / "photos"), here / "new")
    assert not (here / "new").exists()
    before = contents(here / "run")
    with pytest.raises(InputError, match="not finite"):
        resume(here / "run", epochs=2)
    assert contents(here / "run") == before, "control: what was there stays"


# --- what is no run to resume ------------------------------------------------------------------------------


def test_what_holds_no_run_to_resume(here: Path) -> None:
    prune(here / "run", here / "smaller", keep=0.5)
    before = contents(here / "smaller")
    for folder in (here / "smaller", here / "none", here / "photos"):
        with pytest.raises(RunError, match="holds no run to resume: leave --resume out"):
            resume(folder)
        with pytest.raises(RunError, match="holds no run to resume: leave --resume out"):
            quiet(small(here / "photos"), folder, resume=True)
    assert contents(here / "smaller") == before


def test_other_settings_are_named(here: Path) -> None:
    for assignment, name in (
        ("objective.kl=0.125", "objective.kl"),
        ("training.seed=3", "training.seed"),
        ("data.validation=2", "data.validation"),
        ("model.width=3", "model.width"),
        ("model.preset=dense", "model.preset"),
        ("select.width=2,3", "select.width"),
    ):
        with pytest.raises((RunError, InputError), match=name.replace(".", r"\.")):
            quiet(asked_for(None, here / "run", {}, [assignment]), here / "run", resume=True)
    other_machine = asked_for(None, here / "run", {"machine.accelerator": "cpu"}, ())
    assert quiet(other_machine, here / "run", resume=True), "control: a machine is no setting of the model"


def test_a_run_that_was_selected_says_what_was_asked_and_goes_on(here: Path) -> None:
    experiment = small(here / "photos").set("model.width=none", "select.width=1,2", "select.criterion=picture")
    results = quiet(experiment, here / "selected")
    plan = read_json(here / "selected" / "run.json")
    assert (plan["model"]["width"], plan["select"]["width"]) == (None, [1, 2])
    winner = next(row["width"] for row in results["selection"]["candidates"] if row["winner"])
    assert Run.open(here / "selected").recipe.width == winner
    assert resume(here / "selected") == results
    further = resume(here / "selected", epochs=2)
    assert further["selection"] == results["selection"]
    assert Run.open(here / "selected").recipe.width == winner


def test_the_results_are_what_the_file_says(made: Path) -> None:
    results = json.loads((made / "run" / "results.json").read_text())
    assert (results["dataset"], results["labels"], results["images"]) == ("photos", 12, 18)
    assert results["test_error"] is None, "there are no test images"


# --- with others about ----------------------------------------------------------------------------------------


def test_two_do_not_write_one_run(here: Path) -> None:
    before = contents(here / "run")
    with locked(here / "run"), pytest.raises(RunError, match="another process is writing"):
        resume(here / "run", epochs=2)
    assert contents(here / "run") == before
    assert resume(here / "run", epochs=2)["epochs"] == 2, "control"


def test_a_folder_that_is_there_is_found_before_any_picture_is_read(here: Path, monkeypatch) -> None:
    monkeypatch.setattr(fit.Experiment, "load", lambda *_, **__: pytest.fail("it read pictures"))
    with pytest.raises(RunError, match="exists"):
        quiet(small(here / "photos"), here / "run")
    with pytest.raises(pytest.fail.Exception):  # the control
        quiet(small(here / "photos"), here / "new")


@pytest.mark.parametrize("epochs", ["{}", '{"epochs": null}', '{"epochs": "x"}', '{"epochs": 1}'])
def test_damaged_results_are_not_taken_for_the_end(epochs: str, here: Path) -> None:
    (here / "run" / "results.json").write_text(epochs)
    if epochs == '{"epochs": 1}':
        assert resume(here / "run") == {"epochs": 1}, "control"
        return
    with pytest.raises(RunError, match=r"results in .* are damaged"):
        resume(here / "run")


LEFT_OVER = {
    "torchrun": {
        "LOCAL_RANK": "1",
        "RANK": "3",
        "WORLD_SIZE": "4",
        "MASTER_PORT": "x",
        "TORCHELASTIC_RUN_ID": "7",
    },
    "slurm": {"SLURM_NTASKS": "8", "SLURM_JOB_NAME": "a", "SLURM_PROCID": "5", "SLURM_JOB_ID": "3"},
    "ours, of another time": {"DRMM_LEADER": "-1", "LOCAL_RANK": "1"},
    "kubeflow": {"KUBERNETES_PORT": "1", "MASTER_ADDR": "x", "MASTER_PORT": "1", "WORLD_SIZE": "2", "RANK": "1"},
}


@pytest.mark.parametrize("launcher", LEFT_OVER)
def test_ranks_that_other_launchers_left_change_nothing(launcher: str, here: Path, monkeypatch) -> None:
    for name, value in LEFT_OVER[launcher].items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(trainer.rank_zero_only, "rank", 1)  # as Lightning reads it when it is imported
    asked = small(here / "photos")
    assert quiet(asked, here / "alone")["epochs"] == 1
    assert (here / "alone" / "logs" / "metrics.csv").stat().st_size > 0
    assert same(weights(here / "alone"), weights(here / "run"))
    assert os.environ.get("LOCAL_RANK") == LEFT_OVER[launcher].get("LOCAL_RANK"), "it is not ours to take away"
    monkeypatch.setenv("DRMM_LEADER", str(os.getppid()))  # the control: one that a parent of ours started
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert quiet(asked, here / "helped") == {}
    assert not (here / "helped" / "run.json").exists()


# --- decoded pictures ------------------------------------------------------------------------------------------


def test_pictures_are_decoded_once_and_mapped(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = here / "run"
    assert {file.name for file in (run / "pixels").iterdir()} == {"pixels.bin", "pixels.json"}
    monkeypatch.setattr(Listing, "decoded", lambda *_, **__: pytest.fail("it decoded pictures"))
    data = Run.open(run).data()
    assert isinstance(data.x_train, np.memmap)
    assert np.shares_memory(parts_of(small(here / "photos"), data).images.numpy(), data.x_train)
    resume(run, epochs=2)
    write_report(run, here / "report.html")
    prune(run, here / "smaller", keep=0.5)
    with pytest.raises(pytest.fail.Exception):  # the control
        quiet(small(here / "photos"), here / "new")


def test_held_out_pictures_are_mapped_too(here: Path) -> None:
    experiment = small(here / "photos").changed("data", validation=4)
    parts = parts_of(experiment, Run.open(here / "run").data())
    assert parts.validation is not None
    assert isinstance(taken(Run.open(here / "run").data().x_train, np.arange(2, 9)), np.memmap)
    assert len(parts.images) + len(parts.validation[0]) == 18


def test_a_run_without_its_pixels_decodes_them_again(here: Path) -> None:
    before = Run.open(here / "run").data()
    shutil.rmtree(here / "run" / "pixels")
    after = Run.open(here / "run").data()
    assert np.array_equal(before.x_train, after.x_train)
    assert not (here / "run" / "pixels").exists(), "who only reads writes nothing"


def test_the_chosen_size_is_kept(here: Path) -> None:
    write_photos(here / "mixed")
    write_photos(here / "large", size=96)
    shutil.move(here / "large" / "red", here / "mixed" / "red" / "large")
    told: list[str] = []
    fit_run(small(here / "mixed"), here / "new", progress=False, tell=told.append)
    assert read_json(here / "new" / "run.json")["data"]["size"] == [8, 8]
    assert "8x8 pixels, stretched from 12x12 to 96x96" in told[0]
    assert told[1].startswith("the model: conv_small for colour images of 8x8 pixels, ")
    assert resume(here / "new", epochs=2)["epochs"] == 2
    cropped = small(here / "mixed").changed("data", shape="crop", size=(16, 16))
    quiet(cropped, here / "cropped")
    with pytest.raises(RunError, match=r"another data\.shape"):
        quiet(cropped.changed("data", shape="pad"), here / "cropped", resume=True)


def test_labels_of_a_table(here: Path) -> None:
    rows = [(f"{name}/{i}.png", name if i < 3 else "") for name in ("blue", "red") for i in range(6)]
    write_csv(here / "labels.csv", ["file", "label"], rows)
    experiment = small(here / "photos").changed("data", labels=str(here / "labels.csv"))
    assert quiet(experiment, here / "new")["labels"] == 6
    assert resume(here / "new", epochs=2)["epochs"] == 2
    write_csv(here / "labels.csv", ["file", "label"], rows[::-1])
    assert len(Run.open(here / "new").data().x_train) == 18, "control: the same labels in another order"
    write_csv(here / "labels.csv", ["file", "label"], [*rows[:-1], ("red/5.png", "red")])
    with pytest.raises(RunError, match="holds other images or labels now"):
        Run.open(here / "new").data()


@pytest.mark.parametrize("mistake", [{"labels_per_class": 50}, {"validation": 50}])
def test_a_mistake_before_learning_leaves_no_pixels(here: Path, mistake: dict[str, int]) -> None:
    with pytest.raises(InputError):
        quiet(small(here / "photos").changed("data", **mistake), here / "new")
    assert not (here / "new").exists()


def test_a_folder_that_was_left_by_a_kill_is_free_and_one_of_others_is_not(here: Path) -> None:
    (here / "new" / "pixels").mkdir(parents=True)
    (here / "new" / "pixels" / ".drmm-0123").write_bytes(b"half")
    quiet(small(here / "photos"), here / "new")
    (here / "mine" / "pixels").mkdir(parents=True)
    (here / "mine" / "pixels" / "cat.png").write_bytes(b"a picture")
    (here / "mine" / "pixels" / "pixels.bin").write_bytes(b"of somebody's")
    before = contents(here / "mine")
    with pytest.raises(RunError, match="exists: choose another --out"):
        quiet(small(here / "photos"), here / "mine")
    assert contents(here / "mine") == before


# --- how far it can be trusted -----------------------------------------------------------------------------


def test_a_run_without_test_images_says_how_good_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = small(write_photos(tmp_path / "photos"), epochs=4).changed("trust", folds=3, epochs_share=0.5)
    epochs = []
    learn = fit.learn
    monkeypatch.setattr(
        fit, "learn", lambda lesson, *a, **o: (epochs.append(lesson.training.epochs), learn(lesson, *a, **o))[1]
    )
    results = quiet(experiment, tmp_path / "run")
    assert epochs == [4, 2, 2, 2, 1, 1, 1], "and from the labels alone"
    assert results["test_error"] is None
    assert results["cross_fitted"]["labels"] == 12
    assert not (tmp_path / "run" / "folds").exists()
    run = Run.open(tmp_path / "run")
    assert run.assessment is not None
    assert (
        run.assessment.error() == results["cross_fitted"] == read_json(tmp_path / "run/trust.json")["cross_fitted"]
    )
    told = run.cross_fitted_files
    assert set(told) == set(run.labelled_files)
    wrong = sum(run.recipe.classes[row.argmax()] != run.labelled_files[file] for file, row in told.items())
    assert results["cross_fitted"]["error"] == round(100 * wrong / 12, 2)
    (tmp_path / "run" / "trust.safetensors").write_bytes(b"broken")
    with pytest.raises(RunError, match="damaged"):
        _ = Run.open(tmp_path / "run").assessment


def test_nearly_the_same_pictures_are_held_out_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = write_photos(tmp_path / "photos", size=32)
    for path in sorted((photos / "blue").iterdir()):
        brighter = np.asarray(Image.open(path)) + np.uint8(3)
        Image.fromarray(brighter).save(photos / "blue" / f"near-{path.name}")
    labels, learn = [], fit.learn
    monkeypatch.setattr(
        fit,
        "learn",
        lambda lesson, recipe, parts, **o: (labels.append(parts.labels), learn(lesson, recipe, parts, **o))[1],
    )
    quiet(small(photos).changed("trust", folds=4), tmp_path / "run")
    whole, *fewer = labels
    assert len(fewer) == 2 * 4, "and from the labels alone"
    for known in fewer:
        blue = known[:12].reshape(2, 6) >= 0  # each picture, and what is nearly the same
        assert bool((blue[0] == blue[1]).all())
        assert (known >= 0).sum() < (whole >= 0).sum(), "control"


def test_a_run_stopped_while_it_cross_fits_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = small(write_photos(tmp_path / "photos")).changed("trust", folds=2)
    whole = quiet(experiment, tmp_path / "whole")

    def stopping(lesson: Experiment, *args: object, folder: Path, **options: object) -> torch.nn.Module:
        if folder.name == "2":
            raise KeyboardInterrupt
        return learn(lesson, *args, folder=folder, **options)

    learn = fit.learn
    with monkeypatch.context() as patch:
        patch.setattr(fit, "learn", stopping)
        with pytest.raises(KeyboardInterrupt):
            quiet(experiment, tmp_path / "run")
    assert (tmp_path / "run" / "folds" / "1").is_dir()
    assert resume(tmp_path / "run")["cross_fitted"] == whole["cross_fitted"]
    one, other = (load_file(tmp_path / name / "trust.safetensors") for name in ("whole", "run"))
    assert same(one, other)


@pytest.mark.parametrize("value", [1, -1])
def test_folds_are_two_or_more_or_none(value: int) -> None:
    with pytest.raises(InputError, match="2 or more"):
        Experiment().changed("trust", folds=value)


@pytest.mark.parametrize("value", [0, 1.5, -0.1])
def test_folds_have_a_share_of_the_epochs(value: float) -> None:
    with pytest.raises(InputError, match="at most 1"):
        Experiment().changed("trust", epochs_share=value)
