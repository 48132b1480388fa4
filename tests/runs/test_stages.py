"""The steps that are told before a run starts are those that it makes, stage by stage."""

from pathlib import Path

import pytest
import torch
from photos import small, write_photos
from safetensors.torch import load_file

from drmm.learning import trainer
from drmm.learning.em.deep import DeepLearner
from drmm.runs import fit
from drmm.runs.experiment import Experiment
from drmm.runs.fit import fit_run
from drmm.runs.stages import stages

FOLDS = ("trust", {"folds": 2, "epochs_share": 0.5})


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many steps each training made; with EM, iterations."""
    steps: list[int] = []
    learn, step, e_step = fit.learn, trainer._Learner.training_step, DeepLearner.e_step

    def learning(*args: object, **options: object) -> torch.nn.Module:
        steps.append(0)
        return learn(*args, **options)

    def counted(self: trainer._Learner, batch: object, number: int) -> torch.Tensor:
        steps[-1] += 1
        return step(self, batch, number)

    def iterated(self: DeepLearner) -> float:
        steps[-1] += 1
        return e_step(self)

    monkeypatch.setattr(fit, "learn", learning)
    monkeypatch.setattr(trainer._Learner, "training_step", counted)
    monkeypatch.setattr(DeepLearner, "e_step", iterated)
    return steps


@pytest.mark.parametrize(
    "changes",
    [
        [FOLDS],
        [FOLDS, ("data", {"labels_per_class": 2})],
        [FOLDS, ("data", {"labels_per_class": 2}), ("training", {"min_steps": 9})],
        [FOLDS, ("data", {"labels_per_class": 2}), ("training", {"labels_only": True})],
        [FOLDS, ("training", {"learning": "em", "tolerance": 0.0})],
        [FOLDS, ("data", {"labels_per_class": 0})],
        [("select", {"width": (2, 3)}), ("model", {"width": None})],
        [("data", {"labels_per_class": 2}), ("teacher", {"source": "few-labels"})],
    ],
)
@pytest.mark.filterwarnings("ignore:every image is labelled")
def test_the_stages_are_those_that_are_made(
    changes: list, made: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = small(write_photos(tmp_path / "photos", each=4), epochs=2).changed("training", batch_size=5)
    for table, values in changes:
        experiment = experiment.changed(table, **values)
    read, found = Experiment.read, []
    quick = {"epochs": 1, "min_steps": 0, "batch_size": 8, "labelled_per_batch": 4}
    monkeypatch.setattr(Experiment, "read", lambda name: read(name).changed("training", **quick))
    monkeypatch.setattr(fit, "stages", lambda *args: found.extend(stages(*args)) or found)
    fit_run(experiment, tmp_path / "run")
    assert [steps for _, steps, _ in found] == made


def test_it_is_told_and_changes_nothing(tmp_path: Path) -> None:
    """What is told takes nothing from any stream of randomness; a control tells nothing."""
    experiment = small(write_photos(tmp_path / "photos", each=4), epochs=2).changed("training", batch_size=5)
    experiment = experiment.changed("trust", folds=2)
    told: list[str] = []
    fit_run(experiment, tmp_path / "loud", tell=told.append)
    quiet: list[str] = []
    fit_run(experiment, tmp_path / "quiet", progress=False, tell=quiet.append)
    assert sum("training takes about" in line for line in told) == 1
    assert not any("training takes about" in line for line in quiet)
    for name in ("model.safetensors", "trust.safetensors"):
        one, other = (load_file(tmp_path / run / name) for run in ("loud", "quiet"))
        assert all(torch.equal(value, other[key]) for key, value in one.items())
