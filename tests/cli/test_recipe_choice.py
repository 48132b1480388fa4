"""Which experiment a command line asks for, where it names no recipe."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drmm.cli import fit
from drmm.cli.fit import asked_for, of_pictures
from drmm.runs.experiment import Experiment
from drmm.runs.fit import fit_run
from drmm.runs.run import Run


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes in colour, and pictures without a label."""
    generator = np.random.default_rng(0)
    for name, channel in (("red", 0), ("blue", 2), ("unlabelled", 1)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(8):
            photo = generator.integers(0, 80, (36, 36, 3)).astype(np.uint8)
            photo[..., channel] += 150
            Image.fromarray(photo).save(tmp_path / "photos" / name / f"{i}.png")
    return tmp_path / "photos"


def asked(photos: Path, *, recipe: str | None = None, size: int | None = None, sets=(), **options) -> Experiment:
    everyday = of_pictures(str(photos), None, size, None, None, None)
    return asked_for(recipe, None, {**everyday, **options}, sets)


@pytest.fixture
def quick(monkeypatch):
    """Runs learn for a step."""

    def shorter(experiment, *args, **options):
        few = experiment.changed("training", epochs=1, min_steps=0).changed("trust", folds=2)
        return fit_run(few, *args, **options)

    monkeypatch.setattr(fit, "fit_run", shorter)


@pytest.mark.usefixtures("quick")
def test_a_folder_of_photographs_is_learned_on_a_net_that_knows_some(photos, tmp_path, run_drmm):
    out = tmp_path / "run"
    code, said, err = run_drmm("fit", photos, "--out", out, "--size", 36)
    assert code == 0, err
    assert said.startswith("24 of 24 pictures are in colour: learning by --recipe photos,")
    kept = Run.open(out).experiment
    assert kept.model.preset == "efficientnet_lite0"
    assert (kept.training.learning, kept.data.size) == ("tune", (36, 36))
    code, said, err = run_drmm("fit", photos, "--out", out, "--size", 36, "--resume")
    assert code == 0, err
    assert "pictures are in colour" not in said, "a run goes on as it was"


def test_options_that_suit_any_recipe_leave_the_choice(photos, capsys):
    said = {"data.labels_per_class": 2, "training.seed": 0, "machine.accelerator": "cpu", "data.validation": 0}
    chosen = asked(photos, size=48, **said)
    assert chosen.model.preset == "efficientnet_lite0"
    assert chosen.data.size == (48, 48)
    assert chosen.data.labels_per_class == 2
    assert "in colour" in capsys.readouterr().out


@pytest.mark.parametrize(
    "otherwise",
    [
        {"recipe": "few-labels"},
        {"size": 16},
        {"sets": ["training.min_steps=0"]},
        {"model.width": 4},
        {"model.preset": "conv_small"},
        {"training.epochs": 3},
        {"teacher.source": "best"},
        {"data.labels_per_class": 0},
        {"data.clusters": 3},
        {"objective.views": "flip"},
    ],
)
def test_who_says_how_to_learn_gets_no_other_recipe(photos, otherwise, capsys):
    assert asked(photos, **otherwise).model.weights == ""
    assert capsys.readouterr().out == ""
