"""What a run will train, one after the other, in steps: to tell how long it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from drmm.data.splits import label_folds
from drmm.learning.recipes import is_recipe
from drmm.learning.selection import held_out
from drmm.learning.train import steps_in
from drmm.runs.experiment import Experiment
from drmm.runs.parts import Parts
from drmm.storage.models import Recipe

__all__ = ["BY_LABELS", "CHOICE", "FOLD", "MODEL", "TEACHER", "is_cross_fitted", "lesson_of", "stages"]

TEACHER = "to learn a teacher"
CHOICE = "to choose a structure"
MODEL = "to learn"
FOLD = "to find out how far to trust it"
BY_LABELS = "to find out whether the labels alone are better"


def lesson_of(experiment: Experiment) -> Experiment:
    """How the teacher of an experiment is learned first, which is a recipe."""
    source = "" if experiment.teacher is None else experiment.teacher.source
    lesson = Experiment.read(source).resolved()
    lesson = replace(lesson, data=experiment.data, machine=experiment.machine)
    return lesson.changed("training", seed=experiment.training.seed)


def is_cross_fitted(experiment: Experiment, parts: Parts) -> bool:
    """Whether labels are held out in turn: not where no image has one, or a teacher has seen them."""
    return bool(experiment.trust.folds and experiment.teacher is None and len(parts.known))


def stages(
    experiment: Experiment, parts: Parts, candidates: Sequence[Recipe], done: int | None
) -> list[tuple[str, int, float]]:
    """What each training is for, its steps at the most, and how long they are beside other steps, in order.

    Those that a resumed run has done are among them.

    Args:
        experiment: resolved.
        parts: what it learns from.
        candidates: structures to choose from, or the one.
        done: epochs of a finished run that is trained further, or None.
    """
    y, training = parts.labels, experiment.training
    found: list[tuple[str, int, float]] = []
    if experiment.teacher is not None:
        if is_recipe(experiment.teacher.source):
            found.append((TEACHER, steps_in(y, lesson_of(experiment).training), 1))
        y = torch.zeros_like(y)  # all images will have a label
    if done is not None:
        further = replace(training, epochs=training.epochs - done, min_steps=0)
        found.append((MODEL, steps_in(y, further), 1))
    else:
        if len(candidates) > 1:
            chosen_by = steps_in(y[held_out(y, training.seed)[1]], training)
            found += [(CHOICE, chosen_by, 1)] * len(candidates)
        found.append((MODEL, steps_in(y, training), 1))
    if is_cross_fitted(experiment, parts):
        shortened, objective = experiment.trust.lesson(training, experiment.objective)
        draws = objective == experiment.objective
        # Cross-fitting holds copies together, which may make it fewer folds: to look for them takes too long here.
        alone = experiment.trust.lesson_of_labels(training, experiment.objective, experiment.machine, parts.labels)
        by_labels = []
        for fold in label_folds(y.numpy(), experiment.trust.folds, seed=training.seed):
            fewer = y.clone()
            fewer[fold] = -1
            found.append((FOLD, steps_in(fewer, shortened), 1 if draws else 0.5))
            if alone is not None:
                by_labels.append((BY_LABELS, steps_in(fewer, alone[0]), 0.5))
        found += by_labels
    return found
