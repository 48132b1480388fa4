"""What a model predicts for images that it did not learn from, one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
from drmm.trust.calibration import Calibration, Reliability, reliability

__all__ = ["Evaluation", "calibration", "clusters_named", "confusion_matrix", "evaluate", "worst"]

_CHUNK = 50
_TINY = 1e-12  # a probability that is not 0

Indices = npt.NDArray[np.int64]
Figures = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Images and what the model predicts for them; N of them, in the order of the data set.

    Attributes:
        part: of the data set that they are from.
        total: how many images that part has.
        index: their indices there, (N,).
        images: levels, uint8 (N, C, H, W).
        truth: index of the true class, -1 where it is unknown, (N,).
        predicted: index of the best class of the model, (N,).
        probability: of each class, calibrated where the run is, (N, C).
        score: of the best class, (N,).
        gap: upper bound less score, (N,); infinite where there is no bound.
        certified: whether inference was provably exact, (N,).
        explained: share of the picture's energy that the reconstruction explains, (N,).
    """

    part: Literal["test", "training"]
    total: int
    index: Indices
    images: Tensor
    truth: Indices
    predicted: Indices
    probability: Figures
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
    model: DRMM, data: Dataset, most: int, seed: int = 0, calibration: Calibration | None = None
) -> Evaluation:
    """Infer test images, or training images where there are no others.

    Args:
        model: in evaluation mode.
        data: whose images.
        most: so many at most, drawn at random.
        seed: of the draw.
        calibration: of the logits; None takes them as they are.
    """
    tested = len(data.x_test) > 0
    x, y = (data.x_test, data.y_test) if tested else (data.x_train, data.y_train)
    index = np.arange(len(x))
    if len(x) > most:
        index = np.sort(np.random.default_rng(seed).choice(len(x), most, replace=False))
    images = torch.from_numpy(x[index])
    calibrated = Calibration() if calibration is None else calibration
    parts = [_infer(model, pixels(part), calibrated) for part in track(images.split(_CHUNK), "evaluating images")]
    predicted, probability, score, gap, certified, explained = (
        np.concatenate(column) for column in zip(*parts, strict=True)
    )
    return Evaluation(
        part="test" if tested else "training",
        total=len(x),
        index=index,
        images=images,
        truth=y[index],
        predicted=predicted,
        probability=probability.astype(float),
        score=score.astype(float),
        gap=gap.astype(float),
        certified=certified,
        explained=explained.astype(float),
    )


@torch.no_grad()
def _infer(model: DRMM, x: Tensor, calibration: Calibration) -> tuple[npt.NDArray[np.generic], ...]:
    latents = model.infer(x)
    residual = (x - model.picture(latents)).flatten(1).square().sum(1)
    explained = 1 - residual / x.flatten(1).square().sum(1).clamp(min=_TINY)
    probability = np.exp(calibration.log_probability(latents.logits.double().numpy()))
    parts = (
        torch.from_numpy(probability.argmax(1)),
        torch.from_numpy(probability),
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
