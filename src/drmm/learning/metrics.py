"""How good a model is: errors, certificates, and how well clusters fit classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.metrics.cluster import contingency_matrix
from torch import Tensor, nn

from drmm.data.images import pixels
from drmm.errors import InputError
from drmm.model.deep import DRMM
from drmm.storage.models import load_model

__all__ = [
    "CERTIFIED_AT_ONCE",
    "at_once",
    "certified_percent",
    "cluster_accuracy",
    "error_percent",
    "is_worse",
    "labels_from_folder",
    "name_clusters",
    "predict_logits",
    "recall_percent",
    "taught_labels",
]

Labels = npt.NDArray[np.int64]

_CHUNK = 500  # images per forward pass
_NUMBERS = 2**20  # of pixels and channels in one
CERTIFIED_AT_ONCE = 100  # images whose certificates are computed at once


def is_worse(wrong: Tensor, other: Tensor, weight: Tensor | float = 1.0) -> bool:
    """Whether one of two classifiers makes more mistakes on the same images, beyond a standard error (McNemar).

    Args:
        wrong: which images it mistakes, bool (N,).
        other: which the other one does.
        weight: how many images each stands for, (N,), or all alike.
    """
    more = weight * (wrong.double() - other.double())
    return float(more.sum()) > math.sqrt(float(more.square().sum()))


def name_clusters(clusters: Labels, y: Labels, *, one_to_one: bool = False) -> dict[int, int]:
    """The class of each cluster.

    Args:
        clusters: of each image, (N,).
        y: classes (N,), -1 where unknown.
        one_to_one: every class names one cluster at most (the assignment that fits most images); otherwise a
            cluster is what most of its images are.

    Raises:
        InputError: if no class is known.
    """
    known = y >= 0
    if not known.any():
        raise InputError("no image has a label to name the clusters by: label a few")
    table = contingency_matrix(clusters[known], y[known])
    rows, columns = np.unique(clusters[known]), np.unique(y[known])
    best = linear_sum_assignment(-table) if one_to_one else (np.arange(len(rows)), table.argmax(1))
    return {int(rows[i]): int(columns[j]) for i, j in zip(*best, strict=True)}


def cluster_accuracy(clusters: Labels, y: Labels, names: dict[int, int]) -> float:
    """Share of images whose cluster is named like their class, in percent; a cluster without a name is wrong."""
    named = np.array([names.get(int(cluster), -1) for cluster in clusters])
    return round(100 * float((named == y)[y >= 0].mean()), 4)


def labels_from_folder(
    folder: Path, classes: Sequence[str], image_shape: tuple[int, int, int], x: Tensor, y: Tensor
) -> Tensor:
    """`taught_labels` by the model in a folder.

    Args:
        folder: of a trained model.
        classes: names of the classes of y.
        image_shape: (C, H, W) of the images.
        x: images, as of `taught_labels`.
        y: class indices (N,), -1 where there is no label.

    Raises:
        InputError: if the model knows other classes or images.
        RunError: if there is no model.
    """
    teacher, known = load_model(folder)
    if (known.classes, known.image_shape) != (tuple(classes), image_shape):
        raise InputError(f"the model in {folder} knows other classes or image sizes: take one of the same data")
    return taught_labels(teacher, x, y)


def taught_labels(teacher: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Labels as they are, and where there is none the class that a teacher finds most probable.

    A model that finds it hard to learn from few labels, as the hard constraint's does, learns from them what
    another one has found out.

    Args:
        teacher: a trained model, in evaluation mode.
        x: images (N, C, H, W); uint8 images are scaled to [0, 1].
        y: class indices (N,), -1 where there is no label.
    """
    return torch.where(y >= 0, y, predict_logits(teacher, x).argmax(1))


@torch.no_grad()
def predict_logits(model: nn.Module, x: Tensor) -> Tensor:
    """Logits (N, C) of images, chunk by chunk; uint8 images are scaled to [0, 1]."""
    return torch.cat([model(pixels(part)) for part in x.split(at_once(x))])


def at_once(x: Tensor, most: int = _CHUNK) -> int:
    """How many of the images (N, ...) to take at a time, so that memory stays flat where they are large."""
    return min(most, max(1, _NUMBERS // max(1, x[:1].numel())))


def error_percent(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of images whose label is not the most probable class, in percent."""
    return round(100 * float((predict_logits(model, x).argmax(1) != y).double().mean()), 4)


def recall_percent(model: nn.Module, x: Tensor, y: Tensor, n_classes: int) -> list[float | None]:
    """Share of each class's images that are found, in percent; None where a class has no image.

    Args:
        model: in evaluation mode.
        x: images (N, C, H, W).
        y: their classes, (N,).
        n_classes: how many there are.
    """
    correct = predict_logits(model, x).argmax(1) == y
    of_class = [correct[y == c] for c in range(n_classes)]
    return [round(100 * float(own.double().mean()), 4) if len(own) else None for own in of_class]


@torch.no_grad()
def certified_percent(model: DRMM, x: Tensor) -> float:
    """Share of images for which inference was provably the joint MAP, in percent."""
    certified = [model.infer(pixels(part)).certified() for part in x.split(at_once(x, CERTIFIED_AT_ONCE))]
    return round(100 * float(torch.cat(certified).double().mean()), 2)
