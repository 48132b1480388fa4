"""A row for each picture: which class, how sure, whether the model knows such pictures, and what to do with it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.special import softmax
from torch import Tensor

from drmm.display.text import one_line
from drmm.learning.metrics import CERTIFIED_AT_ONCE, at_once
from drmm.runs.run import Run
from drmm.trust.assessment import Answers, Assessment
from drmm.trust.decisions import UNFAMILIAR
from drmm.trust.familiarity import PARTS
from drmm.trust.promise import PROMISE, check_promise

__all__ = ["FACTS", "Predictor", "notes_of"]

FACTS = ("confidence", "second", "second_confidence", "familiarity", "strange_in")
"""Columns between label and decision: what is known of a picture whose label a model says."""

_COLUMNS = ("label", *FACTS, "decision")
_OF_INFERENCE = ("log_joint", "gap", "certified")
_LOWER, _MORE = (0.95, 0.9, 0.8), 0.05  # promises that are named where they sort so much more of the pictures


class Predictor:
    """Makes rows of pictures by a run's model.

    A run that does not say how far it can be trusted (a pruned model, one of an earlier version) has the net's own
    confidence, which is too high as a rule, and neither familiarity nor decision.

    Args:
        run: opened.
        promise: share of the sorted pictures that is to be right.
        all_classes: a column for the probability of each class, and for the familiarity of each part of a picture.
        inference: columns for log-joint, gap and certificate, which take as long again.

    Attributes:
        promise: as given.

    Raises:
        InputError: if the promise is no share between 0 and 1.
        RunError: if there is no model, or a file is damaged.
    """

    def __init__(
        self, run: Run, *, promise: float = PROMISE, all_classes: bool = False, inference: bool = True
    ) -> None:
        check_promise(promise)
        self._model, self._classes = run.model, run.recipe.classes
        self._assessment, self.promise = run.assessment, promise
        self._all, self._inference = all_classes, inference

    @property
    def header(self) -> list[str]:
        """Names of the columns."""
        parts, classes = (PARTS, map(one_line, self._classes)) if self._all else ((), ())
        return [
            *_COLUMNS,
            *(_OF_INFERENCE if self._inference else ()),
            *(f"familiarity({part})" for part in parts),
            *(f"p({name})" for name in classes),
        ]

    def rows(self, x: Tensor) -> list[tuple[object, ...]]:
        """Of images (N, C, H, W), float; None where a run does not say."""
        return [row for part in x.split(at_once(x, CERTIFIED_AT_ONCE)) for row in self._rows(part)]

    @torch.no_grad()
    def _rows(self, x: Tensor) -> list[tuple[object, ...]]:
        latents = self._model.infer(x)
        if self._assessment is None:
            probability, each = softmax(latents.logits.double().numpy(), 1), np.full((len(x), len(PARTS)), None)
            known: list[tuple[object, ...]] = [(None, None, None)] * len(x)
        else:
            answers = self._assessment.answers(self._model, x, latents)
            decided = self._assessment.decide(answers, self.promise).tolist()
            facts = (answers.familiarity.tolist(), _strange_in(answers), decided)
            probability, known, each = answers.probability, list(zip(*facts, strict=True)), answers.parts
        best = np.argsort(-probability, 1, kind="stable")[:, :2].tolist()
        inference = (
            (self._model.log_joint(x, latents), latents.gap, latents.certified()) if self._inference else ()
        )
        more = np.concatenate([each, probability], 1)[:, : None if self._all else 0].tolist()
        columns = zip(best, probability.tolist(), known, more, *(part.tolist() for part in inference), strict=True)
        return [
            (*self._named(pair, p), *of_picture, *of_inference, *others)
            for pair, p, of_picture, others, *of_inference in columns
        ]

    def _named(self, pair: Sequence[int], probability: Sequence[float]) -> list[object]:
        """The two best classes, each with its probability."""
        return [cell for c in pair for cell in (self._classes[c], probability[c])]

    def notes(self) -> Sequence[str]:
        """What to say of the decisions, in lines."""
        if self._assessment is None:
            return ("the run does not say how far to trust it: confidence is not calibrated, nothing is decided",)
        return notes_of(self._assessment, self.promise)


def _strange_in(answers: Answers) -> list[str]:
    """The strangest part of each picture that is unfamiliar; of others an empty text, as columns have a type."""
    strangest = [PARTS[part] for part in answers.parts.argmin(1).tolist()]
    unfamiliar = (answers.familiarity < UNFAMILIAR).tolist()
    return [part if strange else "" for part, strange in zip(strangest, unfamiliar, strict=True)]


def notes_of(assessment: Assessment, promise: float) -> Sequence[str]:
    """Whether the pictures are like the labelled ones, if not; what may be sorted, and if the promise is kept."""
    if not assessment.strangers:
        return (_kept_promise(assessment, promise),)
    return (assessment.warning, _kept_promise(assessment, promise))


def _kept_promise(assessment: Assessment, promise: float) -> str:
    surest, labels = assessment.surest(promise), len(assessment.held_out.label)
    right, share = f"{100 * promise:g} %", f"the surest {100 * surest.share:.0f} % of pictures may be sorted"
    if surest.promised:
        return f"{share}: {right} or more of them are right, at 95 % confidence"
    confidence = "the calibrated confidence" if labels else "the net's own confidence, which is not calibrated"
    guess = f"{share}: {right} of them should be right, by {confidence}"
    if not surest.share:
        guess = f"no picture may be sorted: {confidence} is nowhere high enough for {right} right answers"
    if assessment.strangers:
        return f"{guess}; of pictures that are not like the labelled ones nothing can be promised"
    if surest.labels is None:
        return f"{guess}; no number of labels can show so much"
    needed = f"{labels} labels cannot prove it, {max(surest.labels, labels + 1)} or more might"
    return f"{guess}{_with_less(assessment, promise)}; {needed}"


def _with_less(assessment: Assessment, promise: float) -> str:
    """How much may be sorted at lower promises, where it is more."""
    before, said = assessment.surest(promise).share, []
    for lower in _LOWER:
        share = assessment.surest(lower).share
        if lower < promise and share >= before + _MORE:
            said.append(f"{100 * share:.0f} % with --promise {lower:g}")
            before = share
    return f" ({', '.join(said)})" if said else ""
