"""Which model is kept, and how far it can be trusted: nets learn without some labels, and in a simpler way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from drmm.data.duplicates import copies
from drmm.learning.config import Machine, Training
from drmm.learning.objective import Objective
from drmm.model.deep import DRMM
from drmm.runs.experiment import Trust
from drmm.runs.stages import BY_LABELS, FOLD, MODEL
from drmm.trust.assessment import Assessment, Simpler, assess, assess_guarded
from drmm.trust.crossfit import Fold, cross_fit, cross_fit_head

__all__ = ["Lesson", "assessed"]

_UNTUNED = "tuned nets make more mistakes on labels held out than heads on the net as it was: such a head is kept"
_BY_LABELS = (
    "nets that learn from pictures without a label too make more mistakes on labels held out than nets that learn "
    "from the labels alone: such a net is kept"
)


@dataclass(frozen=True, eq=False)
class Lesson:
    """How a net learns.

    Attributes:
        training: how.
        objective: by what.
        machine: on what.
        labels: class indices (N,), -1 where there is none to learn from.
        purpose: what for, of `drmm.runs.stages`.
        fold: which part of the labels is held out, as "1 of 5"; "" for none.
    """

    training: Training
    objective: Objective
    machine: Machine
    labels: Tensor
    purpose: str = MODEL
    fold: str = ""


def assessed(
    model: DRMM,
    x: Tensor,
    lesson: Lesson,
    trust: Trust,
    learn: Callable[[Lesson], DRMM],
    tell: Callable[[str], object],
    *,
    same: Callable[[npt.NDArray[Any]], npt.NDArray[np.int64]] = copies,
) -> tuple[DRMM, Assessment]:
    """The model to keep, and how far it can be trusted; by no label where there is none.

    A tuned net is held beside class templates on the net as it was, and one that learns from images without a
    label beside one of the labels alone: the simpler one is kept where the other makes more mistakes on labels
    held out.

    Args:
        model: in evaluation mode.
        x: images that it learned from, (N, C, H, W).
        lesson: how it did.
        trust: how it is found out how far it can be trusted.
        learn: makes a model by another lesson on these images.
        tell: is told where a simpler one is kept.
        same: as of `drmm.trust.crossfit.cross_fit`.
    """
    y, training = lesson.labels, lesson.training
    if not trust.folds or not bool((y >= 0).any()):
        return model, assess(model, x, y, ())

    def of_nets(how: Lesson) -> list[Fold]:
        def without(fold: str, labels: Tensor) -> DRMM:
            return learn(replace(how, labels=labels, fold=fold))

        return cross_fit(without, model, x, y, folds=trust.folds, seed=training.seed, same=same)

    def of_heads(model: DRMM, how: Lesson) -> list[Fold]:
        return cross_fit_head(model, x, y, how.objective, how.training, folds=trust.folds, same=same)

    if training.learning == "head":
        return model, assess(model, x, y, of_heads(model, lesson))
    shortened, objective = trust.lesson(training, lesson.objective)
    folds = of_nets(replace(lesson, training=shortened, objective=objective, purpose=FOLD))
    if training.learning == "tune":
        untuned = replace(
            lesson, training=replace(training, learning="head"), objective=lesson.objective.of_head()
        )
        head = learn(untuned)
        return assess_guarded(model, x, y, folds, Simpler(of_heads(head, untuned), lambda: head, _UNTUNED), tell)
    if (by_labels := trust.lesson_of_labels(training, lesson.objective, lesson.machine, y)) is None:
        return model, assess(model, x, y, folds)
    alone = replace(
        lesson, training=training.of_labels(), objective=lesson.objective.of_labels(), purpose=BY_LABELS
    )
    of_labels = of_nets(replace(alone, training=by_labels[0], objective=by_labels[1]))
    return assess_guarded(model, x, y, folds, Simpler(of_labels, lambda: learn(alone), _BY_LABELS), tell)
