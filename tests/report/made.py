"""Runs without training: a tiny model with random weights, written as `drmm fit` would have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from drmm.data import Dataset
from drmm.files import write_csv, write_json
from drmm.model.storage import Recipe, save_model
from drmm.runs.experiment import Data, Experiment
from drmm.runs.run import Run

HOSTILE = (
    "<script>document.title='owned'</script>",
    "\"><img src=x onerror=document.title='owned'>",
    "</style></script><svg onload=document.title='owned'>",
    "{{ 7 * 7 }} ${7*7} {% raw %}",
    "a name " * 60,
    "число Ω 数字 🙂",
    "\u202egnp.exe",
)


def dataset(
    classes: Sequence[str] = ("0", "1", "2"),
    shape: tuple[int, int, int] = (1, 12, 12),
    *,
    train: int = 30,
    test: int = 40,
    seed: int = 0,
) -> Dataset:
    """Noise, with classes in turn."""
    generator = np.random.default_rng(seed)
    x_train, x_test = (generator.integers(0, 256, (n, *shape), np.uint8) for n in (train, test))
    y_train, y_test = (np.arange(n) % len(classes) for n in (train, test))
    return Dataset("noise", x_train, y_train, x_test, y_test, tuple(classes))


def write_run(
    folder: Path,
    data: Dataset,
    *,
    classes: Sequence[str] | None = None,
    preset: str = "conv_small",
    constraint: str = "soft",
    width: int = 2,
    labels_per_class: int | None = 2,
) -> Path:
    """A folder as `drmm fit` leaves it."""
    shape = data.x_train.shape[1:]
    recipe = Recipe(preset, shape, tuple(data.classes if classes is None else classes), constraint, width)
    save_model(recipe.build(0).eval(), recipe, folder)
    command = "drmm fit noise --labels-per-class 2 --out '<b>here</b>'"
    versions = {"drmm": "0.1.0", "torch": "2"}
    asked = Data(data.name, labels_per_class, digest=data.digest)
    Run(folder, None).keep_experiment(Experiment(data=asked, model=recipe))
    results = {"test_error": 12.5, "seconds": 3.0, "command": command, "versions": versions}
    write_json(folder / "results.json", results)
    labelled = [i for i in range(2 * len(data.classes)) if i < len(data.y_train) and data.y_train[i] >= 0]
    write_csv(folder / "labels.csv", ["index", "label"], [(i, data.classes[data.y_train[i]]) for i in labelled])
    logged = [(e, 10 * e, 1 / (e + 1), 0.5) for e in range(3)]
    write_csv(folder / "logs" / "metrics.csv", ["epoch", "step", "train/loss", "val/error"], logged)
    return folder
