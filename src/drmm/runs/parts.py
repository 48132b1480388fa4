"""What a run learns from: which images, which of their labels, which are held out."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from drmm.data import Dataset, holdout, mask_labels, stratified_labels
from drmm.data.base import digest_of
from drmm.data.duplicates import alike
from drmm.data.labels import UNLABELLED, warn_if_all_labelled
from drmm.data.store import taken
from drmm.errors import InputError, RunError
from drmm.files import read_bytes
from drmm.learning.metrics import labels_from_folder
from drmm.runs.experiment import Experiment
from drmm.storage.models import MODEL_FILES, Recipe

__all__ = [
    "Parts",
    "fitted_recipe",
    "is_clustering",
    "parts_of",
    "taught_by",
    "teacher_digest",
    "warn_of_few",
    "warn_of_leaks",
]


_FEW, _SHOWN = 3, 5


@dataclass(frozen=True)
class Parts:
    """What a run learns from.

    Attributes:
        images: levels, uint8 (N, C, H, W).
        labels: class indices (N,), -1 where hidden.
        known: indices in the data set's training part of the images with a label.
        validation: held-out images and labels.
    """

    images: Tensor
    labels: Tensor
    known: npt.NDArray[np.int64]
    validation: tuple[Tensor, Tensor] | None


def parts_of(experiment: Experiment, data: Dataset) -> Parts:
    """Take some images if asked, hold out the validation part, draw the labels to keep, hide the others.

    Raises:
        InputError: if the labels do not allow it.
    """
    asked, seed = experiment.data, experiment.training.seed
    kept = _taken(asked.images, len(data.x_train), seed)
    validation = None
    if asked.validation:
        held_out = kept[holdout(data.y_train[kept], asked.validation, seed=seed)]
        images, labels = taken(data.x_train, held_out), data.y_train[held_out]
        validation = (torch.from_numpy(images), torch.from_numpy(labels))
        kept = np.setdiff1d(kept, held_out)
        kept = _without_copies(data, kept, held_out)
    images, labels = taken(data.x_train, kept), data.y_train[kept]
    clustering = is_clustering(experiment, data)
    if not clustering:
        _check_labels(labels, data, asked.labels_per_class or 1)
    if asked.labels_per_class == 0:
        labels = np.full_like(labels, UNLABELLED)
    elif asked.labels_per_class is not None:
        labels = mask_labels(labels, stratified_labels(labels, asked.labels_per_class, seed=seed))
    if asked.clusters is not None and not clustering:
        raise InputError(
            "clusters need images without labels: keep none (--labels-per-class 0), or leave clusters out"
        )
    if not clustering:
        warn_of_few(labels, data.classes)
        warn_if_all_labelled(labels)
    return Parts(torch.from_numpy(images), torch.from_numpy(labels), kept[labels >= 0], validation)


def _without_copies(
    data: Dataset, kept: npt.NDArray[np.int64], held_out: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Leave out what is nearly the same picture as a held-out one, which would be no test of anything.

    Data sets that are arrays are as their makers split them.
    """
    groups = alike(data.x_train) if data.files else np.arange(len(data.x_train))
    copies = np.isin(groups[kept], groups[held_out])
    if copies.any():
        first = data.files[kept[copies][0]]
        message = f"{copies.sum()} pictures are nearly the same as held-out ones, and not learned from: {first}"
        warnings.warn(message, UserWarning, stacklevel=3)
    return np.asarray(kept[~copies])


def warn_of_leaks(data: Dataset) -> None:
    """Say how many pictures to learn from are nearly the same as some to test with."""
    if not data.files or not len(data.x_test):
        return
    groups = alike(data.x_train, data.x_test)
    train, test = np.split(groups, [len(data.x_train)])
    if n := int(np.isin(test, train).sum()):
        message = f"{n} of {len(test)} pictures to test with are nearly the same as some to learn from"
        warnings.warn(f"{message}: the test error flatters; drmm check shows them", UserWarning, stacklevel=3)


def _check_labels(labels: npt.NDArray[np.int64], data: Dataset, least: int) -> None:
    """Refuse classes with too few labels to learn from."""
    counts = np.bincount(labels[labels >= 0], minlength=len(data.classes))
    if not counts.any():
        raise InputError(
            f"all images of {data.name} are unlabelled: label at least one image of each class, by folder or table"
        )
    if len(counts) < 2:
        raise InputError(f"{data.name} has only one class, {data.classes[0]}: label images of a second one")
    if counts.min() < least:
        few = f"class {data.classes[int(counts.argmin())]} has {counts.min()} to learn from"
        raise InputError(f"{least} labels of each class are too many, {few}: label more, or ask for fewer")


def warn_of_few(labels: npt.NDArray[np.int64], classes: Sequence[str]) -> None:
    """Say which classes are known by next to nothing.

    Args:
        labels: class indices (N,); -1 means unlabelled.
        classes: their names.
    """
    counts = np.bincount(labels[labels >= 0], minlength=len(classes))
    few = [f"{name} has {n}" for name, n in zip(classes, counts.tolist(), strict=True) if n < _FEW]
    if few:
        named = ", ".join(few[:_SHOWN]) + (f" and {len(few) - _SHOWN} classes more" if len(few) > _SHOWN else "")
        what = "so few may not show what a class is, and its pictures go to others"
        warnings.warn(
            f"fewer than {_FEW} labels: {named}; {what}: label {_FEW} or more", UserWarning, stacklevel=3
        )


def is_clustering(experiment: Experiment, data: Dataset) -> bool:
    """Whether no image has a label, so that images fall into clusters."""
    asked = experiment.data
    unlabelled = bool((data.y_train == UNLABELLED).all())
    return asked.labels_per_class == 0 or (asked.clusters is not None and unlabelled)


def fitted_recipe(experiment: Experiment, data: Dataset) -> Recipe:
    """The model for these images and classes, or clusters."""
    channels, height, width = data.x_train.shape[1:]
    classes = tuple(data.classes)
    if is_clustering(experiment, data):
        clusters = experiment.data.clusters
        classes = tuple(f"cluster {i}" for i in range(len(classes) if clusters is None else clusters))
        if len(classes) < 2:
            raise InputError(f"images cannot fall into {len(classes)} clusters: say how many there are, 2 or more")
    return experiment.model.fitted((channels, height, width), classes)


def taught_by(folder: Path, recipe: Recipe, parts: Parts) -> Parts:
    """The same with the labels of a trained model where there is none.

    Raises:
        InputError: if every image has a label, or the model knows other classes or images.
        RunError: if there is no such model.
    """
    if len(parts.known) == len(parts.labels):
        raise InputError("there is nothing to teach: every image has a label; leave the teacher out")
    labels = labels_from_folder(folder, recipe.classes, recipe.image_shape, parts.images, parts.labels)
    return replace(parts, labels=labels)


def teacher_digest(folder: Path) -> str:
    """Of the model's files.

    Raises:
        RunError: if there is no model.
    """
    if not (folder / MODEL_FILES[0]).is_file():
        raise RunError(f"the teacher {folder} holds no model: name a folder of drmm fit, or a recipe")
    return digest_of([read_bytes(folder / name) for name in MODEL_FILES])


def _taken(images: int | None, total: int, seed: int) -> npt.NDArray[np.int64]:
    """Indices of the training images to take, sorted."""
    if images is None or images >= total:
        return np.arange(total)
    return np.sort(np.random.default_rng(seed).permutation(total)[:images])
