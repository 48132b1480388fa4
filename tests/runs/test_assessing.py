"""A model that learns from unlabelled images is kept unless nets that learn from the labels alone are better."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from photos import small, write_photos
from torch import Tensor

from drmm import Objective
from drmm.learning.config import Machine, Training
from drmm.model.deep import DRMM
from drmm.runs.assessing import Lesson, assessed
from drmm.runs.experiment import Trust
from drmm.runs.fit import fit_run
from drmm.runs.run import Run
from drmm.runs.stages import BY_LABELS, FOLD
from drmm.storage.models import Recipe
from drmm.trust import assessment

N, CLASSES = 90, 3
TRUTH = torch.arange(N) % CLASSES
Y = torch.where(torch.arange(N) % 9 < 6, TRUTH, -1)
SHARED = Lesson(Training(), Objective(), Machine(), Y)


def pictures() -> Tensor:
    """Bumps at the place of their class."""
    x = 0.2 * torch.rand(N, 1, 1, 6, generator=torch.Generator().manual_seed(0))
    x[torch.arange(N), 0, 0, 2 * TRUTH] += 0.8
    return x


def net(right: bool) -> DRMM:
    """One that tells the bumps apart, or takes each for the next class."""
    model = Recipe("dense", width=CLASSES, depth=1).fitted((1, 1, 6), ("a", "b", "c")).build(0).eval()
    templates = torch.eye(CLASSES) if right else torch.eye(CLASSES).roll(1, 0)
    with torch.no_grad():
        dictionary = next(p for p in model.levels.parameters() if p.shape == (CLASSES, 6))
        dictionary.zero_()
        for c in range(CLASSES):
            dictionary.view(CLASSES, -1)[c, 2 * c] = 1.0
        model.templates.weight.copy_(templates)
        model.templates.bias.zero_()
    return model


@pytest.mark.parametrize(("shared", "alone"), [(True, True), (True, False), (False, True), (False, False)])
def test_the_one_that_errs_less_on_labels_held_out_is_kept(shared: bool, alone: bool) -> None:
    asked, told = list[Lesson](), list[str]()

    def learn(lesson: Lesson) -> DRMM:
        asked.append(lesson)
        return net(alone if lesson.purpose == BY_LABELS else shared)

    model = net(shared)
    kept, known = assessed(model, pictures(), SHARED, Trust(folds=3), learn, told.append)
    harm = alone and not shared
    assert (kept is model) != harm
    assert any("such a net is kept" in line for line in told) == harm
    assert known.error()["error"] == (0 if shared or alone else 100)
    folds = [lesson for lesson in asked if lesson.fold]
    assert [lesson.purpose for lesson in folds] == 3 * [FOLD] + 3 * [BY_LABELS]
    for lesson in folds:
        assert 0 < (lesson.labels >= 0).sum() < (Y >= 0).sum(), "some labels are held out"
    whole = [lesson for lesson in asked if not lesson.fold]
    assert len(whole) == harm, "it is learned from all labels only where it is kept"
    for lesson in (*folds[3:], *whole):
        assert lesson.training.labels_only
        assert not lesson.objective.asks_unlabelled


@pytest.mark.parametrize(
    "lesson",
    [
        replace(SHARED, labels=TRUTH),
        replace(SHARED, objective=Objective(kl=0, balance=0)),
        replace(SHARED, training=Training(labels_only=True)),
        replace(SHARED, training=Training(learning="em")),
        replace(SHARED, machine=Machine(devices=2)),
    ],
)
def test_where_nothing_else_is_learned_from_there_is_nothing_to_compare(lesson: Lesson) -> None:
    def by(lesson: Lesson) -> tuple[Training, Objective] | None:
        return Trust().lesson_of_labels(lesson.training, lesson.objective, lesson.machine, lesson.labels)

    assert by(lesson) is None
    assert by(SHARED) is not None, "control"


@pytest.mark.parametrize("does_harm", [False, True])
def test_a_run_keeps_what_the_labels_alone_teach_where_the_others_do_harm(
    does_harm: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = list[str]()
    monkeypatch.setattr(assessment, "does_harm", lambda *_: does_harm)
    experiment = small(write_photos(tmp_path / "photos")).changed("data", labels_per_class=3)
    experiment = experiment.changed("training", min_steps=4)
    alone = experiment.changed("training", labels_only=True).changed("objective", kl=0.0, balance=0.0)
    fit_run(alone, tmp_path / "alone", progress=False)
    fit_run(experiment.changed("trust", folds=2), tmp_path / "run", progress=False, tell=told.append)
    of_labels, kept = (Run.open(tmp_path / name).model.state_dict() for name in ("alone", "run"))
    same = all(torch.equal(of_labels[name], kept[name]) for name in of_labels)
    assert same == does_harm
    assert any("such a net is kept" in line for line in told) == does_harm
    assert not (tmp_path / "run" / "folds").exists()
