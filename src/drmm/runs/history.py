"""What a run's model learned from, and how it would go on."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from drmm.data import Dataset, holdout, load
from drmm.data.labels import UNLABELLED
from drmm.errors import InputError, RunError
from drmm.files import read_json
from drmm.learning.metrics import taught_labels
from drmm.learning.objective import Objective
from drmm.learning.train import Training, train
from drmm.model.deep import DRMM
from drmm.model.storage import Recipe, load_model

__all__ = ["Past", "past_of"]


@dataclass(frozen=True)
class Past:
    """What a model learned from, and how.

    Attributes:
        spec: as its run was asked.
        data: the data set.
        images: those that it learned from, uint8 (N, C, H, W).
        labels: place in the data set's training part and name of the class of each label that it knew.
        kept: places of the images there.
    """

    spec: dict[str, Any]
    data: Dataset
    images: Tensor
    labels: list[tuple[int, str]]
    kept: npt.NDArray[np.int64]

    @property
    def y(self) -> Tensor:
        """Class indices of the images, (N,), -1 where the model knew no label."""
        labels = np.full(len(self.data.y_train), UNLABELLED)
        known = [place for place, _ in self.labels]
        labels[known] = self.data.y_train[known]
        return torch.from_numpy(labels[self.kept])

    def learning(self, epochs: int) -> Callable[[DRMM], DRMM]:
        """How to go on for some more epochs.

        Raises:
            InputError: if the run learned by EM, which does not start from templates that are there.
            RunError: if the run does not say how it learned, or its teacher is gone.
        """
        if epochs == 0:
            return lambda model: model
        try:
            objective, training = Objective(**self.spec["objective"]), Training(**self.spec["training"])
        except (KeyError, TypeError) as error:
            raise RunError(f"the run does not say how it learned ({error}): leave --epochs out") from error
        if training.learning == "em":
            raise InputError("a model that was learned by em does not go on learning: leave --epochs out")
        config = replace(training, epochs=epochs, min_steps=0, initialisation=None, patience=None)
        y, teacher = self.y, self.spec.get("teacher")
        if teacher is not None:
            y = taught_labels(load_model(Path(teacher))[0], self.images, y)
        return lambda model: train(model, self.images, y, objective=objective, config=config, progress=False)


def past_of(run: Path, recipe: Recipe, data_dir: Path | None) -> Past:
    """What a run, or the one that a pruned model comes from, learned from."""
    found = [run / name for name in ("run.json", "pruning.json") if (run / name).is_file()]
    if not found:
        raise RunError(f"{run} holds no run.json to say what its model learned from: take a folder of drmm fit")
    spec = read_json(found[0]).get("spec")
    try:
        name, size, seed = spec["data"], spec["size"], int(spec["training"]["seed"])  # type: ignore[index]
        held_out = int(spec["validation"])  # type: ignore[index]
        with (run / "labels.csv").open(encoding="utf-8", newline="") as file:
            labels = [(int(row["index"]), row["label"]) for row in csv.DictReader(file)]
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise RunError(f"{run} does not say what it learned from ({error}): train it again") from error
    try:
        data = load(name, data_dir=data_dir, size=None if size is None else tuple(size))
    except InputError as error:
        raise RunError(f"the images that {run} learned from are gone ({error}): put them back") from error
    if data.x_train.shape[1:] != recipe.image_shape or any(i >= len(data.x_train) for i, _ in labels):
        raise RunError(f"{name} holds other images now than {run} learned from: put the former ones back")
    kept = np.arange(len(data.x_train))
    if held_out:
        kept = np.setdiff1d(kept, holdout(data.y_train, held_out, seed=seed))
    return Past(cast("dict[str, Any]", spec), data, torch.from_numpy(data.x_train[kept]), labels, kept)
