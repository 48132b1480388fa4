"""The command line as a stranger meets it: help, runs, predictions, pictures, and one line for every mistake."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import pytest
import torch
import typer
from commands import EM, FIT, QUICK, files, pixels, read_csv, refused, sets
from PIL import Image
from safetensors.torch import load_file
from typer.main import get_command
from typer.testing import CliRunner

from drmm.cli import app as cli
from drmm.cli.demo import NAMES, experiments
from drmm.data import load
from drmm.learning.em import loop
from drmm.learning.metrics import predict_logits
from drmm.learning.objective import Objective
from drmm.runs.experiment import Experiment
from drmm.storage.models import load_model
from drmm.studies.reproduce import BENCHMARKS
from drmm.trust.decisions import UNFAMILIAR
from drmm.trust.familiarity import PARTS

COMMANDS = [
    "sort",
    "audit",
    "check",
    "demo",
    "fit",
    "settings",
    "predict",
    "explain",
    "report",
    "card",
    "sample",
    "prune",
    "scenes",
    "reproduce",
    "bench",
    "dp",
]


def plain(*words: str, columns: int = 200) -> str:
    result = CliRunner().invoke(cli.cli, list(words), env={"COLUMNS": str(columns), "NO_COLOR": "1"})
    assert result.exit_code == 0, result.output
    return result.output


def test_help_reads_like_a_table_of_contents() -> None:
    panels = plain("--help").split("╭")[1:]
    titles = [panel.split("╮")[0].strip("─ ") for panel in panels]
    assert titles == ["Options", "Your pictures", "Your models", "The theory"]
    first_words = [line[1:].split()[0] for panel in panels[1:] for line in panel.splitlines() if line[:1] == "│"]
    assert [word for word in first_words if word in COMMANDS] == COMMANDS


def unexplained(app: typer.Typer) -> list[str]:
    """Options of an app's commands, and of the app itself, that have no help text."""
    group = get_command(app)
    commands = {"": group, **getattr(group, "commands", {})}
    return [
        f"{name} {option.opts[0]}".strip()
        for name, command in commands.items()
        for option in command.params
        if option.param_type_name == "option" and not (getattr(option, "help", None) or "").strip()
    ]


@pytest.mark.parametrize("command", [[], *([name] for name in get_command(cli.cli).commands)])
def test_help_has_a_short_form(command: list[str]) -> None:
    assert plain(*command, "-h") == plain(*command, "--help")
    assert "Usage: " in plain(*command, "-h")
    assert CliRunner().invoke(cli.cli, [*command, "--hlep"]).exit_code == 2, "control"


def swallowed(app: typer.Typer, *command: str) -> list[str]:
    """Help texts of a command that are not shown as they are."""
    result = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "300", "NO_COLOR": "1"})
    shown = "".join(result.output.replace("│", "").split())
    parsed = get_command(app)
    for name in command:
        parsed = parsed.commands[name]
    texts = [getattr(option, "help", None) or "" for option in parsed.params]
    return [text for text in texts if "".join(text.replace("\\[", "[").split()) not in shown]


@pytest.mark.parametrize("command", get_command(cli.cli).commands)
def test_help_shows_every_word_that_it_has(command: str) -> None:
    assert swallowed(cli.cli, command) == []


def test_a_package_in_brackets_would_be_swallowed() -> None:
    app = typer.Typer(rich_markup_mode="rich")

    @app.command()
    def bake(
        oven: Annotated[int, typer.Option(help="Needs bread[oven].")] = 180,
        salt: Annotated[int, typer.Option(help="Needs bread\\[salt].")] = 1,
    ) -> None: ...

    assert swallowed(app) == ["Needs bread[oven]."]


def test_every_option_is_explained() -> None:
    assert unexplained(cli.cli) == []
    app = typer.Typer()

    @app.callback()
    def of_all(quiet: Annotated[bool, typer.Option(help="Say nothing.")] = False) -> None: ...

    @app.command()
    def bake(
        oven: Annotated[int, typer.Option(help="Degrees.")] = 180,
        sugar: int = 3,
        salt: Annotated[int, typer.Option(help=" ")] = 1,
    ) -> None: ...

    assert unexplained(app) == ["bake --sugar", "bake --salt"], "control"


def test_settings_lists_every_field_of_every_record() -> None:
    text = " ".join(plain("settings").split())
    for table, settings in Experiment.read().settings().items():
        for setting in settings:
            assert f" {table}.{setting.name} " in text
            assert setting.meaning, "a setting that nobody explains"
            assert setting.meaning.split()[0] in text
    assert "luck" not in text, "control"
    for name in ("few-labels", "best", "hard-taught"):
        assert f" {name} " in text


def test_settings_of_one_table_as_a_recipe_has_them(run_drmm) -> None:
    text = plain("settings", "objective", "--recipe", "best")
    rows = {line.split()[0]: line.split()[1] for line in text.splitlines() if "objective." in line}
    assert (rows["objective.mixup"], rows["objective.reconstruction"]) == ("1.0", "0.0")
    assert "training." not in text
    default = plain("settings", "objective")
    rows = {line.split()[0]: line.split()[1] for line in default.splitlines() if "objective." in line}
    assert (rows["objective.mixup"], rows["objective.reconstruction"]) == ("0.0", "none"), "control"
    refused(run_drmm("settings", "objectiv"), "no settings 'objectiv': did you mean 'objective'?")
    refused(run_drmm("settings", "--recipe", "bset"), "no recipe 'bset'", "did you mean 'best'?")


def test_version(run_drmm) -> None:
    code, out, _ = run_drmm("--version")
    assert code == 0
    assert out.startswith("drmm ")


def test_a_run_explains_itself(run: Path) -> None:
    assert {path.name for path in run.iterdir()} == {
        "run.json", "labels.csv", "checkpoints", "logs", "model.json", "model.safetensors", "results.json",
        "trust.json", "trust.safetensors",
    }  # fmt: skip
    results = json.loads((run / "results.json").read_text())
    assert results["labels"] == 50
    assert 0 <= results["test_error"] <= 100
    assert results["versions"]["torch"] == torch.__version__
    rows = read_csv(run / "labels.csv")
    assert [sum(row["label"] == str(c) for row in rows) for c in range(10)] == [5] * 10
    model, recipe = load_model(run)
    assert recipe.image_shape == (1, 8, 8)
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_an_existing_run_is_not_overwritten(run: Path, run_drmm) -> None:
    before = (run / "model.safetensors").read_bytes()
    refused(run_drmm(*FIT, "--out", run), "exists", "--resume")
    assert (run / "model.safetensors").read_bytes() == before


def test_a_hard_model_is_taught_by_another_run(run: Path, tmp_path: Path, run_drmm) -> None:
    taught, pruned = tmp_path / "taught", tmp_path / "pruned"
    words = [*FIT, *sets("model.constraint=hard"), "--teacher", run, "--out", taught]
    code, _, err = run_drmm(*words)
    assert code == 0, err
    plan, results = (json.loads((taught / name).read_text()) for name in ("run.json", "results.json"))
    assert plan["teacher"]["source"] == str(run)
    assert plan["objective"]["kl"] == plan["objective"]["balance"] == 0
    assert results["labels"] == 50, "what a teacher says is no label"
    assert (taught / "labels.csv").read_text() == (run / "labels.csv").read_text()
    code, _, err = run_drmm(*words, "--resume")
    assert code == 0, err
    code, _, err = run_drmm("prune", taught, "--keep", 0.5, "--epochs", 1, "--out", pruned)
    assert code == 0, err


def test_a_taught_model_agrees_with_its_teacher(run: Path, tmp_path: Path, run_drmm) -> None:
    """More than one that learned from the same labels without a teacher."""
    x = torch.from_numpy(load("digits").x_train)
    words = [*FIT, "--epochs", 10, *sets("training.batch_size=64", "data.images=500")]
    agreement = {}
    for name, more in (("taught", ["--teacher", run]), ("alone", [])):
        code, _, err = run_drmm(*words, "--seed", 1, *more, "--out", tmp_path / name)
        assert code == 0, err
        models = (load_model(folder)[0] for folder in (run, tmp_path / name))
        teacher, student = (predict_logits(model, x).argmax(1) for model in models)
        agreement[name] = float((teacher == student).double().mean())
    assert agreement["taught"] > agreement["alone"] + 0.1


@pytest.mark.filterwarnings("ignore:every image", "ignore:fewer than 3 labels")
def test_who_cannot_teach(run: Path, tmp_path: Path, run_drmm) -> None:
    for words, says in (
        ([*FIT, "--teacher", tmp_path / "nobody"], "nobody"),
        (["fit", "digits", "--teacher", run], "nothing to teach"),
        (["fit", "mnist-5k", "--labels-per-class", 2, "--teacher", run], "other classes or image sizes"),
    ):
        refused(run_drmm(*words, "--out", tmp_path / "new"), says)
        assert not (tmp_path / "new").exists()


def test_a_finished_run_resumes_to_itself(run: Path, run_drmm) -> None:
    before = {name: (run / name).read_bytes() for name in files(run)}
    for words in ([*FIT, "--out", run, "--resume"], ["fit", "--out", run, "--resume"]):
        code, out, err = run_drmm(*words)
        assert code == 0, err
        assert "was finished before: for more training, add more --epochs to --resume" in " ".join(out.split())
    assert {name: (run / name).read_bytes() for name in files(run)} == before


def test_of_what_does_not_go_on_learning_nothing_is_said_of_more_epochs(em_run: Path, run_drmm) -> None:
    code, out, err = run_drmm("fit", "--out", em_run, "--resume")
    assert code == 0, err
    assert "was finished before" in out
    assert "--epochs" not in out
    code, out, err = answer = run_drmm("fit", "--out", em_run, "--resume", "--epochs", 3)
    refused(answer, "learned by em does not go on learning")
    assert "more, by a new schedule" not in out


def test_a_run_says_nothing_of_an_earlier_end_when_it_ends(tmp_path: Path, run_drmm) -> None:
    code, out, err = run_drmm(*FIT, "--epochs", 1, "--out", tmp_path / "run")
    assert code == 0, err
    assert "finished before" not in out


def test_resuming_with_other_options_is_refused(run: Path, run_drmm) -> None:
    refused(run_drmm(*FIT, "--out", run, "--resume", "--seed", 3), "training.seed", "same settings")
    refused(run_drmm("fit", "--out", run, "--resume", *sets("objective.kl=0.1")), "objective.kl", "same settings")
    refused(run_drmm("fit", "--out", run, "--resume", "--epochs", 1), "for 2 epochs", "as many, or more")


# --- EM, clusters, structures ---


def test_every_weight_reaches_the_objective(tmp_path: Path, run_drmm) -> None:
    weights = {
        "cross_entropy": 2.0, "reconstruction": 0.1, "kl": 0.2, "balance": 0.3, "nonnegativity": 0.4,
        "kl_sign": "printed", "mixup": 0.6, "warm_up": 0.7, "cool_down": 0.8, "translation": 3, "cutmix": 0.9,
        "prior": "uniform", "agreement": 0.5,
    }  # fmt: skip
    assignments = sets(
        *(f"objective.{name}={value}" for name, value in weights.items()), "objective.views=flip,crop"
    )
    code, _, err = run_drmm(*FIT, *assignments, "--out", tmp_path / "run")
    assert code == 0, err
    kept = json.loads((tmp_path / "run" / "run.json").read_text())["objective"]
    assert kept == {**weights, "views": ["flip", "crop"]}
    assert set(kept) == set(Objective().get_params()), "all there are"


@pytest.mark.parametrize(
    ("words", "views", "agreement"),
    [
        ((), ["affine", "brightness"], 1),  # of grey digits
        (("--views", "flip, affine"), ["flip", "affine"], 1),
        (("--views", "usual,crop"), ["affine", "brightness", "crop"], 1),
        (("--views", "none"), [], 0),
        (sets("objective.views=none"), [], 0),
    ],
)
def test_views_are_named_or_usual(tmp_path: Path, run_drmm, words, views, agreement) -> None:
    code, _, err = run_drmm(*FIT, *words, "--out", tmp_path / "run")
    assert code == 0, err
    kept = json.loads((tmp_path / "run" / "run.json").read_text())["objective"]
    assert (kept["views"], kept["agreement"]) == (views, agreement)


@pytest.mark.parametrize("views", ["turn", "affine,turn", "flip,none"])
def test_views_that_there_are_not_are_refused(tmp_path: Path, run_drmm, views) -> None:
    code, _, err = run_drmm(*FIT, "--views", views, "--out", tmp_path / "run")
    assert code != 0
    assert "views cannot be" in err
    assert "some of affine, brightness, crop, flip, usual" in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_recipe_sets_what_is_not_given(tmp_path: Path, run_drmm) -> None:
    row = Experiment.read("best")
    words = ["--recipe", "best", *sets("objective.nonnegativity=0.25"), "--out", tmp_path / "run"]
    code, _, err = run_drmm(*FIT, *words)
    assert code == 0, err
    tables = json.loads((tmp_path / "run" / "run.json").read_text())
    expected = row.changed("objective", nonnegativity=0.25).resolved()
    assert tables["objective"] == json.loads(json.dumps(expected.tables()["objective"]))
    assert tables["objective"] != Experiment().resolved().tables()["objective"], "control: without it"
    training = tables["training"]
    assert (training["epochs"], training["batch_size"], training["min_steps"]) == (2, 256, 0), "as they are given"
    assert (training["labelled_per_batch"], training["weight_average"]) == (16, 0.999)


def test_a_recipe_of_ones_own(tmp_path: Path, run_drmm) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text('extends = "best"\n[objective]\nkl = 0.125\n[training]\nmin_steps = 0\n')
    words = ["fit", "digits", "--labels-per-class", 5, "--recipe", recipe, "--epochs", 1, "--width", 2]
    code, _, err = run_drmm(*words, "--out", tmp_path / "run")
    assert code == 0, err
    tables = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (tables["objective"]["kl"], tables["objective"]["mixup"]) == (0.125, 1)
    assert tables["training"]["weight_average"] == 0.999


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--recipe", "bset"], "no recipe 'bset': did you mean 'best'?"),
        (["--recipe", "none.toml"], "cannot read recipe none.toml"),
        (sets("objective.kll=1"), "no setting objective.kll: did you mean 'objective.kl'?"),
        (sets("training.kl=1"), "no setting training.kl: did you mean 'objective.kl'?"),
        (sets("trainig.epochs=1"), "no settings trainig: did you mean 'training'?"),
        (sets("objective.kl"), "write table.name=value"),
        (sets("objective.kl=much"), "kl cannot be 'much': it is a number or none"),
        (sets("training.epochs=1.5"), "epochs cannot be '1.5': it is a whole number"),
        (sets("objective.cutmix=0.5"), "cutmix is a part of mixup"),
        (sets("data.digest=1"), "no setting data.digest"),
    ],
)
def test_a_setting_that_there_is_not(words: list[str], message: str, tmp_path: Path, run_drmm) -> None:
    refused(run_drmm(*FIT, *words, "--out", tmp_path / "run"), message)
    assert not (tmp_path / "run").exists()


def test_an_em_run_explains_itself(em_run: Path) -> None:
    assert files(em_run) == {
        "run.json", "labels.csv", "logs/em.csv", "em/em.safetensors", "model.json", "model.safetensors",
        "results.json", "trust.json", "trust.safetensors",
    }  # fmt: skip
    results = json.loads((em_run / "results.json").read_text())
    assert results["learning"] == "em"
    assert results["labels"] == 50
    assert 0 <= results["test_error"] < 60
    assert results["cluster_accuracy"] is None
    rows = read_csv(em_run / "logs" / "em.csv")
    assert list(rows[0]) == ["iteration", "objective", "seconds"]
    objective = [float(row["objective"]) for row in rows]
    assert len(objective) == 2
    assert objective[1] > objective[0]


def test_an_em_run_resumes_to_itself(em_run: Path, run_drmm) -> None:
    before, seen = load_file(em_run / "model.safetensors"), files(em_run)
    code, _, err = run_drmm(*EM, "--out", em_run, "--resume")
    assert code == 0, err
    after = load_file(em_run / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert files(em_run) == seen
    refused(
        run_drmm(*EM, *sets("training.tolerance=0.5"), "--out", em_run, "--resume"),
        "training.tolerance",
        "same settings",
    )


def test_an_em_run_interrupted_after_an_iteration_goes_on(
    em_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_drmm
) -> None:
    """Ctrl-C when the first state has been written."""
    out, write = tmp_path / "run", loop.write_bytes

    def interrupted(path: Path, content: bytes) -> None:
        write(path, content)
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "write_bytes", interrupted)
    code, _, err = run_drmm(*EM, "--out", out)
    assert code == 130
    assert "--resume" in err
    assert any(name.startswith("em/latents/1-") for name in files(out))
    monkeypatch.setattr(loop, "write_bytes", write)
    code, _, err = run_drmm(*EM, "--out", out, "--resume")
    assert code == 0, err
    whole, resumed = (load_file(folder / "model.safetensors") for folder in (em_run, out))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert files(out) == files(em_run)


def test_a_damaged_em_run_is_one_line(em_run: Path, tmp_path: Path, run_drmm) -> None:
    out = shutil.copytree(em_run, tmp_path / "run")
    (out / "results.json").unlink()  # as if it had been stopped: a finished run needs its state no more
    path = out / "em" / "em.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    refused(run_drmm(*EM, "--out", out, "--resume"), "em.safetensors", "damaged")


def test_models_learned_by_em_predict_and_draw(em_run: Path, pictures: Path, tmp_path: Path, run_drmm) -> None:
    code, _, err = run_drmm("predict", em_run, pictures, "--out", tmp_path / "predictions.csv")
    assert code == 0, err
    assert len(read_csv(tmp_path / "predictions.csv")) == 5
    code, _, err = run_drmm("sample", em_run, "--out", tmp_path / "samples.png", "--n", 10)
    assert code == 0, err


@pytest.mark.parametrize("learning", ["em", "eg"])
def test_no_labels_at_all_are_clusters(learning: str, tmp_path: Path, run_drmm) -> None:
    out = tmp_path / "run"
    words = ["fit", "digits", "--labels-per-class", 0, "--clusters", 12, "--epochs", 2, "--width", 4]
    code, text, err = run_drmm(
        *words, *sets(f"training.learning={learning}"), *QUICK, "--preset", "dense", "--out", out
    )
    assert code == 0, err
    results = json.loads((out / "results.json").read_text())
    assert results["labels"] == 0
    assert results["test_error"] is None
    assert 20 < results["cluster_accuracy"] <= 100  # all in one cluster: 10
    assert f"cluster accuracy {results['cluster_accuracy']} %" in " ".join(text.split())
    assert load_model(out)[1].classes == tuple(f"cluster {i}" for i in range(12))
    assert (out / "labels.csv").read_text() == "index,label,file\n"
    assert not (out / "em" / "latents").exists()


def test_as_many_clusters_as_classes_by_default(tmp_path: Path, run_drmm) -> None:
    out = tmp_path / "run"
    code, _, err = run_drmm(*EM[:-1], 0, *sets("model.depth=1"), "--out", out)
    assert code == 0, err
    model, recipe = load_model(out)
    assert recipe.classes == tuple(f"cluster {i}" for i in range(10))
    assert recipe.depth == 1
    assert model.templates.in_features == 4


def test_a_folder_without_any_class_needs_a_number_of_clusters(tmp_path: Path, run_drmm) -> None:
    photos, out = tmp_path / "photos", tmp_path / "run"
    (photos / "unlabelled").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(12):
        Image.fromarray(rng.integers(0, 255, (12, 12)).astype(np.uint8)).save(photos / "unlabelled" / f"{i}.png")
    words = ["fit", photos, "--epochs", 1, "--width", 2, *sets("training.learning=em"), "--out", out]
    refused(run_drmm(*words), "unlabelled", "label at least one image")
    refused(run_drmm(*words, "--labels-per-class", 0), "0 clusters", "say how many")
    assert not out.exists()
    code, _, err = run_drmm(*words, "--clusters", 3)
    assert code == 0, err
    assert json.loads((out / "results.json").read_text())["cluster_accuracy"] is None


@pytest.mark.parametrize("constraint", ["soft", "weight_norm"])
@pytest.mark.parametrize("start", ["data", "orthonormal", "glorot", "default"])
def test_every_start_and_constraint(start: str, constraint: str, tmp_path: Path, run_drmm) -> None:
    out = tmp_path / "run"
    words = [*EM, "--epochs", 1]
    words += sets("model.depth=1", f"training.initialisation={start}", f"model.constraint={constraint}")
    code, _, err = run_drmm(*words, "--out", out)
    assert code == 0, err
    assert json.loads((out / "run.json").read_text())["training"]["initialisation"] == start
    assert load_model(out)[1].constraint == constraint


def test_a_full_disk_is_one_line_and_leaves_no_model(tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk: the checkpoint is the first that does not fit."""
    code = "import resource, sys; from drmm.cli.app import main; "
    code += "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)); main()"
    out = tmp_path / "run"
    words = [sys.executable, "-W", "ignore", "-c", code, *FIT, "--out", str(out)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("error: cannot write")
    assert "Traceback" not in done.stderr
    assert not (out / "model.safetensors").exists()
    assert [path.name for path in out.rglob("*") if "last" in path.name] == []


def test_nothing_to_resume(tmp_path: Path, run_drmm) -> None:
    refused(run_drmm(*FIT, "--out", tmp_path / "none", "--resume"), "no run to resume")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fit", "no-such-set"], "no-such-set"),
        (["fit", "digits", "--labels-per-class", "5000"], "5000"),
        ([*FIT, "--preset", "transformer"], "preset"),
        ([*FIT, *sets("training.learning_rate=-1")], "training: learning_rate must be positive"),
        ([*FIT, "--device", "abacus"], "choose another device, auto or cpu"),
        (
            [*FIT, "--teacher", "nobody"],
            "the teacher nobody holds no model: name a folder of drmm fit, or a recipe",
        ),
        ([*FIT, "--teacher", ""], "--teacher is empty"),
        ([*FIT, "--device", ""], "--device is empty"),
        ([*FIT, "--preset", ""], "--preset is empty"),
        (["fit", ""], "DATA is empty"),
        ([*FIT, *sets("machine.precision=7-bit")], "7-bit"),
        ([*FIT, *sets("machine.devices=0")], "0 devices"),
        ([*FIT, "--clusters", "12"], "clusters need images without labels"),
        ([*FIT, *sets("model.depth=7")], "choose from 1 to 4 levels"),
        ([*EM, *sets("model.constraint=hard")], "learn a hard model by 'sgd' or 'eg'"),
        ([*FIT, *sets("model.constraint=hard", "training.initialisation=glorot")], "templates of both signs"),
        ([*EM[:-1], "0", "--clusters", "2000"], "cannot fall into 2000 clusters"),
    ],
)
def test_a_mistake_leaves_no_run_behind(words: list[str], message: str, tmp_path: Path, run_drmm) -> None:
    refused(run_drmm(*words, "--epochs", 1, "--out", tmp_path / "run"), message)
    assert not (tmp_path / "run").exists()


def test_predictions(run: Path, pictures: Path, tmp_path: Path, run_drmm) -> None:
    out = tmp_path / "predictions.csv"
    code, _, err = run_drmm("predict", run, pictures, "--out", out)
    assert code == 0, err
    rows = read_csv(out)
    assert [Path(row["image"]).name for row in rows] == [f"digit{i}.png" for i in range(5)]
    model, _ = load_model(run)
    x = torch.stack([torch.from_numpy(pixels(path)).float()[None] / 255 for path in sorted(pictures.iterdir())])
    assert [row["label"] for row in rows] == [str(int(c)) for c in model(x).argmax(1)]
    assert all(0 < float(row["confidence"]) <= 1 and np.isfinite(float(row["log_joint"])) for row in rows)
    assert {row["certified"] for row in rows} <= {"yes", "no"}
    assert all(float(row["second_confidence"]) <= float(row["confidence"]) for row in rows)
    assert all(row["label"] != row["second"] and 0 < float(row["familiarity"]) <= 1 for row in rows)
    assert {row["decision"] for row in rows} <= {"sorted", "unsure", "unfamiliar"}


def test_a_column_for_each_class(run: Path, pictures: Path, tmp_path: Path, run_drmm) -> None:
    out = tmp_path / "predictions.csv"
    code, said, err = run_drmm("predict", run, pictures, "--out", out, "--all-classes", "--promise", "0.6")
    assert code == 0, err
    assert "may be sorted" in said
    assert "60 %" in said
    for row in read_csv(out):
        of_classes = {row_name[2:-1]: float(p) for row_name, p in row.items() if row_name.startswith("p(")}
        assert len(of_classes) == 10
        assert sum(of_classes.values()) == pytest.approx(1)
        assert of_classes[row["label"]] == float(row["confidence"]) == max(of_classes.values())
        assert of_classes[row["second"]] == float(row["second_confidence"])
        of_parts = {part: float(row[f"familiarity({part})"]) for part in PARTS}
        assert all(0 < p <= 1 for p in of_parts.values())
        strangest = min(of_parts, key=lambda part: of_parts[part])
        assert row["strange_in"] == (strangest if float(row["familiarity"]) < UNFAMILIAR else "")


def test_noise_and_blanks_are_unfamiliar(run: Path, tmp_path: Path, run_drmm) -> None:
    strange = np.random.default_rng(0).integers(0, 256, (20, 8, 8)).astype(np.uint8)
    strange[10:] = 200
    np.save(tmp_path / "strange.npy", strange)
    np.save(tmp_path / "known.npy", load("digits").x_test[:100, 0])
    shares = {}
    for name in ("strange", "known"):
        out = tmp_path / f"{name}.csv"
        code, _, err = run_drmm("predict", run, tmp_path / f"{name}.npy", "--out", out)
        assert code == 0, err
        rows = read_csv(out)
        shares[name] = np.mean([row["decision"] == "unfamiliar" for row in rows])
        assert all((row["strange_in"] in PARTS) == (row["decision"] == "unfamiliar") for row in rows)
    assert shares["strange"] == 1
    assert shares["known"] < 0.1, "control"


def test_a_model_alone_decides_nothing(run: Path, pictures: Path, tmp_path: Path, run_drmm) -> None:
    (tmp_path / "alone").mkdir()
    for name in ("model.json", "model.safetensors"):
        shutil.copy(run / name, tmp_path / "alone")
    out = tmp_path / "predictions.csv"
    code, said, err = run_drmm("predict", tmp_path / "alone", pictures, "--out", out)
    assert code == 0, err
    assert "not calibrated" in said
    assert {(row["familiarity"], row["decision"]) for row in read_csv(out)} == {("", "")}
    assert all(float(row["confidence"]) > 0 for row in read_csv(out))


@pytest.mark.parametrize("promise", ["98", "0", "1", "-1"])
def test_a_promise_is_a_share(run: Path, pictures: Path, promise: str, run_drmm) -> None:
    refused(run_drmm("predict", run, pictures, "--promise", promise), "as in 0.98")


@pytest.mark.filterwarnings("default:cannot read picture")
def test_every_file_of_a_folder_is_labelled_or_said(run: Path, pictures: Path, tmp_path: Path, run_drmm) -> None:
    (pictures / "broken.png").write_bytes((pictures / "digit0.png").read_bytes()[:40])
    (pictures / "notes.txt").write_text("no picture")
    out = tmp_path / "predictions.csv"
    code, said, err = run_drmm("predict", run, pictures, "--out", out)
    assert code == 0, err
    assert len(read_csv(out)) == 5
    assert "5 predictions written" in said
    assert "2 skipped: " in said
    assert "1 x not a picture (.txt)" in said
    assert err.startswith("warning: cannot read picture ")
    assert "broken.png" in err
    assert err.count("\n") == 1


def test_a_corrupt_image_leaves_no_csv(run: Path, pictures: Path, tmp_path: Path, run_drmm) -> None:
    (pictures / "broken.png").write_bytes((pictures / "digit0.png").read_bytes()[:40])
    out = tmp_path / "predictions.csv"
    refused(run_drmm("predict", run, pictures / "broken.png", "--out", out), "broken.png")
    assert not out.exists()


def test_predicting_without_a_model(tmp_path: Path, pictures: Path, run_drmm) -> None:
    refused(run_drmm("predict", tmp_path / "none", pictures), "holds no model", "drmm fit")


def test_samples_are_a_picture(run: Path, tmp_path: Path, run_drmm) -> None:
    for extra in ([], ["--label", "3"], ["--noise"], ["--patches", "5"], ["--patches", "2", "--noise"]):
        out = tmp_path / "samples.png"
        code, _, err = run_drmm("sample", run, "--out", out, "--n", 12, "--force", *extra)
        assert code == 0, err
        assert pixels(out).shape[1] > 300
    refused(run_drmm("sample", run, "--out", tmp_path / "x.png", "--label", "kitten"), "kitten")
    (tmp_path / "bare").mkdir()
    for name in ("model.json", "model.safetensors"):
        shutil.copy(run / name, tmp_path / "bare")
    bare = run_drmm("sample", tmp_path / "bare", "--out", tmp_path / "x.png", "--patches", "5")
    refused(bare, "drmm fit")
    assert not (tmp_path / "x.png").exists()


def test_a_place_that_cannot_be_written(run: Path, pictures: Path, run_drmm) -> None:
    refused(run_drmm("predict", run, pictures, "--out", "/proc/none/predictions.csv"), "cannot write")


# --- pruning ---


def test_a_pruned_run_is_a_smaller_model(run: Path, pictures: Path, tmp_path: Path, run_drmm) -> None:
    before, out = files(run), tmp_path / "smaller"
    code, text, err = run_drmm("prune", run, "--keep", 0.5, "--out", out)
    assert code == 0, err
    assert files(run) == before
    assert files(out) == {"model.json", "model.safetensors", "labels.csv", "pruning.json"}
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    results = json.loads((out / "pruning.json").read_text())
    assert results["channels"] == {"before": [4, 8, 8, 16], "after": [2, 4, 4, 8]}
    for on, kept in zip(results["probability_on"], results["kept"], strict=True):
        assert min(on[i] for i in kept) >= max(p for i, p in enumerate(on) if i not in kept)
        assert f"{100 * min(on[i] for i in kept):.0f} %" in text
    rows = results["models"]
    assert list(rows) == ["before", "on", "magnitude"]
    sizes = {name: (row["parameters"], row["bytes"]) for name, row in rows.items()}
    assert sizes["on"] == sizes["magnitude"] < sizes["before"]
    assert rows["on"]["bytes"] == (out / "model.safetensors").stat().st_size
    assert rows["before"]["bytes"] == (run / "model.safetensors").stat().st_size
    assert rows["before"]["test_error"] == json.loads((run / "results.json").read_text())["test_error"]
    assert rows["before"]["same_label"] == 100
    for row in rows.values():
        for cell in (f"{row['parameters']:,}", f"{row['test_error']:.2f} %", f"{row['images_per_second']:,}"):
            assert cell in text
    model, recipe = load_model(out)
    assert recipe.channels == (2, 4, 4, 8)
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    code, _, err = run_drmm("predict", out, pictures, "--out", tmp_path / "predictions.csv")
    assert code == 0, err
    assert len(read_csv(tmp_path / "predictions.csv")) == 5
    code, _, err = run_drmm("sample", out, "--out", tmp_path / "samples.png", "--n", 10)
    assert code == 0, err


def test_a_pruned_model_goes_on_learning_and_can_be_pruned_again(run: Path, tmp_path: Path, run_drmm) -> None:
    once, twice = tmp_path / "once", tmp_path / "twice"
    code, text, err = run_drmm("prune", run, "--keep", 0.5, "--epochs", 2, "--synapses", 0.9, "--out", once)
    assert code == 0, err
    assert "not 0" in text
    rows = json.loads((once / "pruning.json").read_text())["models"]
    assert rows["on"]["nonzero"] < rows["on"]["parameters"]
    assert (once / "labels.csv").read_text() == (run / "labels.csv").read_text()
    code, _, err = run_drmm("prune", once, "--keep", 0.5, "--criterion", "magnitude", "--out", twice)
    assert code == 0, err
    results = json.loads((twice / "pruning.json").read_text())
    assert results["channels"] == {"before": [2, 4, 4, 8], "after": [1, 2, 2, 4]}
    assert list(results["models"]) == ["before", "magnitude"]
    assert results["experiment"] == json.loads((run / "run.json").read_text())


def test_learning_on_helps_a_pruned_model(tmp_path: Path, run_drmm) -> None:
    run, errors = tmp_path / "run", []
    words = [*FIT, "--epochs", 3, "--width", 6, "--validation", 200]
    assert run_drmm(*words, "--out", run)[0] == 0
    for epochs in (0, 3):
        out = tmp_path / str(epochs)
        code, _, err = run_drmm("prune", run, "--keep", 0.4, "--epochs", epochs, "--out", out)
        assert code == 0, err
        errors.append(json.loads((out / "pruning.json").read_text())["models"]["on"]["test_error"])
    assert errors[1] < errors[0] - 5


def test_pruned_clusters_have_no_error(tmp_path: Path, run_drmm) -> None:
    run, out = tmp_path / "run", tmp_path / "smaller"
    assert run_drmm(*EM[:-1], 0, *sets("model.depth=1"), "--out", run)[0] == 0
    code, text, err = run_drmm("prune", run, "--keep", 0.5, "--out", out)
    assert code == 0, err
    assert "test error" not in text
    assert json.loads((out / "pruning.json").read_text())["models"]["on"]["test_error"] is None
    refused(run_drmm("prune", run, "--epochs", 1, "--out", tmp_path / "x"), "em", "leave --epochs out")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--keep", 0], "keep must lie in (0, 1], not 0.0"),
        (["--keep", 1.5], "keep must lie in (0, 1]"),
        (["--synapses", -0.1], "keep must lie in (0, 1]"),
    ],
)
def test_impossible_shares(words: list[object], message: str, run: Path, tmp_path: Path, run_drmm) -> None:
    refused(run_drmm("prune", run, *words, "--out", tmp_path / "x"), message)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_pruned(run: Path, tmp_path: Path, run_drmm) -> None:
    out = tmp_path / "out"
    refused(run_drmm("prune", tmp_path / "none", "--out", out), "holds no model")
    refused(run_drmm("prune", run, "--out", run), "exists", "choose another --out")
    broken = shutil.copytree(run, tmp_path / "broken")
    (broken / "run.json").unlink()
    refused(run_drmm("prune", broken, "--out", out), "does not say how its model learned")
    plan = json.loads((run / "run.json").read_text())
    for table, values, message in (
        ("data", {"validation": "x"}, "does not say what was run (data: validation cannot be 'x'"),
        ("data", {"source": str(tmp_path / "gone")}, "are gone"),
        ("data", {"source": "mnist-5k"}, "other images or labels now"),
        ("objective", {"luck": 1}, "does not say what was run (objective: no setting 'luck'"),
    ):
        (broken / "run.json").write_text(json.dumps({**plan, table: {**plan[table], **values}}))
        refused(run_drmm("prune", broken, "--out", out), message)
    for table in (3, [1], "x"):
        (broken / "run.json").write_text(json.dumps({**plan, "training": table}))
        refused(run_drmm("prune", broken, "--out", out), "does not say what was run")
    refused(run_drmm("prune", run, "--out", "/proc/none/x"), "cannot write")
    assert not out.exists()


def test_a_net_of_classes_alone_has_nothing_to_prune(tmp_path: Path, run_drmm) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    words = [*FIT, "--preset", "dense", *sets("model.depth=1"), "--width", 10, "--epochs", 1]
    assert run_drmm(*words, "--out", run)[0] == 0
    refused(run_drmm("prune", run, "--out", out), "nothing to prune")
    assert not out.exists()


def test_a_full_disk_leaves_no_pruned_model(run: Path, tmp_path: Path, monkeypatch, run_drmm) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    refused(run_drmm("prune", run, "--keep", 0.5, "--out", tmp_path / "out"), "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_colour_images_with_few_labels(tmp_path: Path, run_drmm) -> None:
    rng = np.random.default_rng(0)
    for name, colour in (("red", 0), ("blue", 2), ("unlabelled", 0)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(6):
            photo = rng.integers(0, 80, (16, 16, 3)).astype(np.uint8)
            photo[..., colour] += 150
            Image.fromarray(photo).save(tmp_path / "photos" / name / f"{i}.png")
    out = tmp_path / "run"
    (tmp_path / "photos" / "notes.txt").write_text("no picture")
    code, said, err = run_drmm("fit", tmp_path / "photos", "--epochs", 1, "--width", 4, *QUICK, "--out", out)
    assert code == 0, err
    counted = "12 labelled images of 2 classes (blue: 6, red: 6), 6 unlabelled, no test part"
    assert said.startswith(f"{counted}; 1 skipped: 1 x not a picture (.txt)\n")
    assert read_csv(out / "skipped.csv") == [{"file": "notes.txt", "reason": "not a picture (.txt)"}]
    assert json.loads((out / "results.json").read_text())["labels"] == 12
    assert load_model(out)[1].classes == ("blue", "red")


def test_the_demo_in_small(tmp_path: Path, run_drmm, monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = {
        name: one.changed("model", width=4).changed("data", images=600) for name, one in experiments(1).items()
    }
    monkeypatch.setattr("drmm.cli.demo.experiments", lambda *_: narrow)
    code, out, err = run_drmm("demo", "--out", tmp_path / "demo", "--epochs", 1)
    assert code == 0, err
    results = json.loads((tmp_path / "demo" / "results.json").read_text())
    assert set(results["models"]) == set(NAMES)
    for row in results["models"].values():
        assert f"{row['test_error']:.2f} %" in out
    assert pixels(tmp_path / "demo" / "demo.png").shape[1] > 1000


def test_explain(run: Path, pictures: Path, tmp_path: Path, run_drmm) -> None:
    out = tmp_path / "explanation.png"
    for extra in ([], ["--label", "3", "--other", "5", "--paths", "7"]):
        code, said, err = run_drmm("explain", run, pictures / "digit0.png", "--out", out, *extra)
        assert code == 0, err
        assert "explanation.png" in said
        assert pixels(out).shape[1] > 1000
        out.unlink()
    for words, says in (
        (["digit0.png", "--label", "kitten"], "no class 'kitten'"),
        (["digit0.png", "--label", "3", "--other", "3"], "same class"),
        ([".", "--label", "3"], "holds 5 images"),
        (["nothing.png"], "nothing.png"),
    ):
        refused(run_drmm("explain", run, pictures / words[0], *words[1:], "--out", out), says)
    assert not out.exists()


def test_reproduce(tmp_path: Path, run_drmm) -> None:
    small = ["--labels", 20, "--recipe", "kl", "--seeds", 1, "--epochs", 1, "--width", 2, "--images", 200]
    for _ in range(2):  # the second time there is nothing left to do
        code, out, err = run_drmm("reproduce", "mnist-5k", "--out", tmp_path / "r", *small, "--workers", 1)
        assert code == 0, err
        assert "KL, no rendering" in out
    run = json.loads((tmp_path / "r" / "mnist-5k" / "20" / "kl-0.json").read_text())
    assert run["command"].startswith("drmm")
    table = (tmp_path / "r" / "table.md").read_text().splitlines()
    assert len(table) == 5, "a caption, and one row below its head"
    assert table[-1].startswith("| KL, no rendering |")
    assert pixels(tmp_path / "r" / "table.png").shape[1] > 300
    refused(run_drmm("reproduce", "mnist-5k", "--out", tmp_path / "r", *small, "--labels", 25), "25 labels")
    refused(run_drmm("reproduce", "imagenet"), "imagenet")
    refused(run_drmm("reproduce", "mnist-5k", "--recipe", "magic"), "no row 'magic'")
    refused(
        run_drmm("reproduce", "mnist-5k", "--out", tmp_path / "r", *small, "--epochs", 2),
        "run with other settings",
    )


def test_a_dry_run_tells_in_one_line(tmp_path: Path, run_drmm, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    small = ("reproduce", "svhn", "--dry-run", 2, "--width", 2, "--device", "cpu")
    code, out, err = run_drmm(*small, *sets("machine.precision=bf16-mixed"))
    assert code == 0, err
    assert out.count("\n") == 1
    batch = BENCHMARKS["svhn"].experiment("rc+kl+nn", 500, 0).training
    sizes = f"batches of {batch.batch_size} ({batch.labelled_per_batch} labelled), cpu, bf16-mixed: loss"
    for word in ("svhn, rc+kl+nn: 868 parameters", sizes, "in 2 steps of"):
        assert word in out
    for words, says in (
        (("--dry-run", 0), "0 steps"),
        (sets("machine.devices=0"), "0 devices"),
        (sets("machine.devices=5"), "5 devices"),
        (sets("machine.precision=7-bit"), "7-bit"),
        (sets("objective.kl=0"), "a table's rows are fixed"),
        (("--device", "abacus"), "abacus"),
        (("--recipe", "magic"), "magic"),
    ):
        refused(run_drmm(*small, *words), says)
    assert not list(tmp_path.iterdir())


def test_a_machine_that_is_not_there_is_refused_before_any_run(tmp_path: Path, run_drmm) -> None:
    for words, says in (
        (("--device", "abacus"), "abacus"),
        (sets("machine.precision=7-bit"), "7-bit"),
        (sets("machine.devices=0"), "0 devices"),
        (sets("machine.devices=5"), "5 devices"),
    ):
        refused(run_drmm("reproduce", "mnist-5k", "--out", tmp_path / "r", *words), says)
    assert not (tmp_path / "r").exists()
