"""What a model says of images whose label it did not learn, one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from drmm.data import Dataset
from drmm.data.images import pixels
from drmm.learning.metrics import name_clusters
from drmm.model.deep import DRMM
from drmm.progress import track
from drmm.runs.parts import Parts
from drmm.trust.assessment import Assessment
from drmm.trust.calibration import Reliability, reliability

__all__ = [
    "Evaluation",
    "calibration",
    "clusters_named",
    "confusion_matrix",
    "evaluate",
    "held_out_images",
    "worst",
]

_CHUNK = 50
_TINY = 1e-12  # a probability that is not 0

Indices = npt.NDArray[np.int64]
Figures = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Images and what the model predicts for them; N of them, in the order of the data set.

    Where no test image has a label, they are training images, and what is said of those with a label is what a net
    said that had not learned it (cross-fitting), if the run has that.

    Attributes:
        part: of the data set that they are from.
        total: how many images that part has.
        index: their indices there, (N,).
        names: of their files, or what else they are called, (N,).
        images: levels, uint8 (N, C, H, W).
        held_out: whether their answer is one of cross-fitting, (N,).
        truth: index of the true class, -1 where it is unknown, (N,).
        predicted: index of the best class, (N,).
        probability: of each class, calibrated where the run is, (N, C).
        own: the same before it was calibrated, (N, C).
        familiarity: p-values (N,); not a number where the run has none.
        score: of the best class, (N,).
        gap: upper bound less score, (N,); infinite where there is no bound.
        certified: whether inference was provably exact, (N,).
        explained: share of the picture's energy that the reconstruction explains, (N,).
    """

    part: Literal["test", "training"]
    total: int
    index: Indices
    names: tuple[str, ...]
    images: Tensor
    held_out: npt.NDArray[np.bool_]
    truth: Indices
    predicted: Indices
    probability: Figures
    own: Figures
    familiarity: Figures
    score: Figures
    gap: Figures
    certified: npt.NDArray[np.bool_]
    explained: Figures

    @property
    def confidence(self) -> Figures:
        """Probability of the best class, (N,)."""
        return np.asarray(self.probability.max(1), float)

    @property
    def known(self) -> npt.NDArray[np.bool_]:
        """Where the true class is known, (N,)."""
        return np.asarray(self.truth >= 0)

    @property
    def wrong(self) -> npt.NDArray[np.bool_]:
        """Which are misclassified, of those whose class is known, (N,)."""
        return np.asarray(self.known & (self.predicted != self.truth))

    @property
    def judged(self) -> str:
        """What the images are whose true class is known."""
        return "labelled pictures (each held out in turn)" if self.held_out.any() else f"{self.part} images"

    @property
    def loss(self) -> Figures:
        """-log of the true class's probability, in nats, (N,); -inf where it is unknown."""
        true = self.probability[np.arange(len(self.truth)), self.truth.clip(0)]
        return np.where(self.known, -np.log(true.clip(_TINY)), -np.inf)

    @property
    def margin(self) -> Figures:
        """Probability of the best class less that of the second, (N,)."""
        best = np.sort(self.probability, 1)[:, -2:]
        return np.asarray(best[:, -1] - best[:, 0] if best.shape[1] > 1 else best[:, -1], float)


def evaluate(
    model: DRMM,
    data: Dataset,
    most: int,
    seed: int = 0,
    assessment: Assessment | None = None,
    parts: Parts | None = None,
) -> Evaluation:
    """Infer test images, or training images where there are no others.

    Args:
        model: in evaluation mode.
        data: whose images.
        most: so many at most, drawn at random; of training images those first that were held out in turn.
        seed: of the draw.
        assessment: of the model; None takes its logits as they are.
        parts: what it learned from, if that is known.
    """
    held_out = held_out_images(assessment, parts)
    tested = len(data.x_test) > 0 and ((data.y_test >= 0).any() or not len(held_out))
    x, y, files = (
        (data.x_test, data.y_test, data.test_files) if tested else (data.x_train, data.y_train, data.files)
    )
    part: Literal["test", "training"] = "test" if tested else "training"
    held_out = held_out[:0] if tested else held_out
    index = _drawn(len(x), held_out, most, seed)
    images = torch.from_numpy(x[index])
    columns = [
        _infer(model, pixels(some), assessment) for some in track(images.split(_CHUNK), "evaluating images")
    ]
    predicted, probability, own, familiarity, score, gap, certified, explained = (
        np.concatenate(column) for column in zip(*columns, strict=True)
    )
    evaluation = Evaluation(
        part=part,
        total=len(x),
        index=index,
        names=tuple(files[i] if files else f"{part} image {i}" for i in index.tolist()),
        images=images,
        held_out=np.isin(index, held_out),
        truth=y[index],
        predicted=predicted,
        probability=probability.astype(float),
        own=own.astype(float),
        familiarity=familiarity.astype(float),
        score=score.astype(float),
        gap=gap.astype(float),
        certified=certified,
        explained=explained.astype(float),
    )
    return _cross_fitted(evaluation, assessment, parts, held_out)


def held_out_images(assessment: Assessment | None, parts: Parts | None) -> Indices:
    """Which training images the cross-fitted answers are of, (n,).

    Args:
        assessment: of the model.
        parts: what it learned from; none are known without either.
    """
    if assessment is None or parts is None:
        return np.zeros(0, np.int64)
    labelled = np.flatnonzero(parts.labels.numpy() >= 0)
    return np.asarray(parts.known[np.searchsorted(labelled, assessment.held_out.index)])


def _drawn(total: int, first: Indices, most: int, seed: int) -> Indices:
    """Some of all, at random, those that are to come first before others; ascending."""
    order = np.random.default_rng(seed).permutation(total)
    return np.sort(order[np.argsort(~np.isin(order, first), kind="stable")][:most])


def _cross_fitted(
    evaluation: Evaluation, assessment: Assessment | None, parts: Parts | None, held_out: Indices
) -> Evaluation:
    """With the answers of nets that had not learned the label, and without other labels that were learned."""
    if assessment is None or parts is None or not len(held_out):
        return evaluation
    order = np.argsort(held_out)
    answers = order[np.searchsorted(held_out[order], evaluation.index[evaluation.held_out])]
    logs, here = assessment.held_out.log_probability[answers], evaluation.held_out
    probability, own, truth = evaluation.probability.copy(), evaluation.own.copy(), evaluation.truth.copy()
    probability[here], own[here] = np.exp(logs), np.exp(assessment.calibration.undone(logs))
    truth[np.isin(evaluation.index, parts.known) & ~here] = -1
    return replace(evaluation, probability=probability, own=own, truth=truth, predicted=probability.argmax(1))


@torch.no_grad()
def _infer(model: DRMM, x: Tensor, assessment: Assessment | None) -> tuple[npt.NDArray[np.generic], ...]:
    latents = model.infer(x)
    residual = (x - model.picture(latents)).flatten(1).square().sum(1)
    explained = 1 - residual / x.flatten(1).square().sum(1).clamp(min=_TINY)
    own = latents.logits.double().softmax(1)
    probability, familiarity = own, torch.full((len(x),), torch.nan)
    if assessment is not None:
        answers = assessment.answers(model, x, latents)
        probability, familiarity = torch.from_numpy(answers.probability), torch.from_numpy(answers.familiarity)
    parts = (
        probability.argmax(1),
        probability,
        own,
        familiarity,
        latents.score,
        latents.gap,
        latents.certified(),
        explained,
    )
    return tuple(part.numpy() for part in parts)


def confusion_matrix(evaluation: Evaluation, n_classes: int) -> Indices:
    """Images by true class (rows) and predicted class or cluster (columns), (n_classes, C)."""
    counts = np.zeros((n_classes, evaluation.probability.shape[1]), np.int64)
    np.add.at(counts, (evaluation.truth[evaluation.known], evaluation.predicted[evaluation.known]), 1)
    return counts


def calibration(evaluation: Evaluation) -> Reliability:
    """Confidence and accuracy of the images whose class is known."""
    known = evaluation.known
    return reliability(evaluation.confidence[known], (evaluation.predicted == evaluation.truth)[known])


def clusters_named(evaluation: Evaluation) -> dict[int, int]:
    """The majority class of each cluster."""
    return name_clusters(evaluation.predicted, evaluation.truth)


def worst(values: Figures, n: int, among: Sequence[int] | Indices) -> Indices:
    """The indices of the n largest values among some, largest first."""
    candidates = np.asarray(among, np.int64)
    return candidates[np.argsort(-values[candidates], kind="stable")[:n]]
