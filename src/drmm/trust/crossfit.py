"""What nets say of labelled images whose label they have not learned: cross-fitting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from drmm.data.duplicates import copies
from drmm.data.splits import label_folds
from drmm.learning.config import Training
from drmm.learning.features import features_of
from drmm.learning.head import learn_head
from drmm.learning.metrics import is_worse, predict_logits
from drmm.learning.objective import Objective
from drmm.model.deep import DRMM

__all__ = ["Fold", "as_sure_as", "cross_fit", "cross_fit_head", "does_harm", "evenly_spread", "pool_of"]

Figures = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

_POOL = 1000  # unlabelled images by which nets are compared
_TINY = 1e-6  # the lead where logits tell nothing apart


@dataclass(frozen=True, eq=False)
class Fold:
    """Answers of one net for labelled images whose label it did not know.

    Attributes:
        index: of the images, (m,).
        logits: (m, C), as large as the model's that they are to judge.
        pool: the same for `pool_of` the images, (M, C).
    """

    index: Indices
    logits: Figures
    pool: Figures


def cross_fit(
    learn: Callable[[str, Tensor], nn.Module],
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    folds: int,
    seed: int,
    same: Callable[[npt.NDArray[Any]], Indices] = copies,
) -> list[Fold]:
    """Learn without each fold of the labels in turn, and ask for it.

    Nets of a shorter schedule are less sure of everything. Their logits are made as large as the model's, by the
    lead of the best class before the second in the median of the same images: of what was tried, this calibrates
    the images without a label best, which are those to be sorted.

    Args:
        learn: trains a net: told which fold it is ("1 of 5"), and the labels (N,) without it.
        model: whose answers are to be judged, in evaluation mode.
        x: images (N, C, H, W).
        y: class indices (N,), -1 where there is no label.
        folds: as of `drmm.data.splits.label_folds`.
        seed: likewise.
        same: the group of each of n labelled images, (n,): a net that has learned one is not asked for another.

    Returns:
        The folds; none if no class has two labels.
    """
    pool, answers = pool_of(x, y), []
    groups = np.zeros(len(y), np.int64)
    groups[y >= 0] = same(x[y >= 0].numpy())
    parts = label_folds(y.numpy(), folds, seed=seed, groups=groups)
    for number, held_out in enumerate(parts, 1):
        fewer = y.clone()
        fewer[held_out] = -1
        net = learn(f"{number} of {len(parts)}", fewer)
        of_held_out, of_pool = (predict_logits(net, images).double().numpy() for images in (x[held_out], pool))
        answers.append(Fold(held_out, of_held_out, of_pool))
    return as_sure_as(model, answers, pool)


def as_sure_as(model: nn.Module, folds: Sequence[Fold], pool: Tensor) -> list[Fold]:
    """The folds with logits as large as a model's for the same pool of images."""
    size = _lead(predict_logits(model, pool).double().numpy())
    factors = [size / _lead(fold.pool) for fold in folds]
    return [Fold(f.index, by * f.logits, by * f.pool) for f, by in zip(folds, factors, strict=True)]


def cross_fit_head(
    model: DRMM,
    x: Tensor,
    y: Tensor,
    objective: Objective,
    config: Training,
    *,
    folds: int,
    same: Callable[[npt.NDArray[Any]], Indices] = copies,
) -> list[Fold]:
    """The same for class templates that were learned on features which stay as they are: of the features alone.

    Args:
        model: whose class templates were learned by `drmm.learning.head`.
        x: as of `cross_fit`, as the others are.
        y: likewise.
        objective: as of `drmm.learning.head.train_head`.
        config: likewise; its seed is that of the folds.
        folds: as of `cross_fit`.
        same: likewise.
    """
    features = features_of(model.levels, x, progress=False)
    groups = same(x[y >= 0].numpy())

    def without(_: str, fewer: Tensor) -> nn.Module:
        return learn_head(features, fewer, model.class_prior, objective, seed=config.seed)[0]

    return cross_fit(without, model.templates, features, y, folds=folds, seed=config.seed, same=lambda _: groups)


def does_harm(folds: Sequence[Fold], without: Sequence[Fold], y: Tensor, weight: Tensor) -> bool:
    """Whether nets make more mistakes on images held out than others that learned less, beyond chance.

    Args:
        folds: answers of the first.
        without: of the others, for the same images.
        y: class indices of all images, (N,).
        weight: of each class, (C,): how much more frequent it is than among the labels.
    """
    labels = y.numpy()
    wrong, other = torch.zeros(2, len(labels), dtype=torch.bool)
    for row, answers in ((wrong, folds), (other, without)):
        for fold in answers:
            row[fold.index] = torch.from_numpy(fold.logits.argmax(1) != labels[fold.index])
    return is_worse(wrong, other, weight[y.clamp(min=0)])


def pool_of(x: Tensor, y: Tensor) -> Tensor:
    """Images by which nets are compared: some without a label, evenly spread, or of all where there are few."""
    unlabelled = np.flatnonzero(y.numpy() < 0)
    among = unlabelled if len(unlabelled) >= _POOL else np.arange(len(y))
    return x[torch.from_numpy(evenly_spread(among))]


def evenly_spread(indices: Indices, most: int = _POOL) -> Indices:
    """All of them, or so many of more."""
    return indices[np.linspace(0, len(indices) - 1, min(len(indices), most)).astype(np.int64)]


def _lead(logits: Figures) -> float:
    """Of the best class before the second, in the median of images."""
    best = np.sort(logits, 1)
    return max(float(np.median(best[:, -1] - best[:, -2])), _TINY)
