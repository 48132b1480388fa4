"""Runs without training: a tiny model with random weights, written as `drmm fit` would have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from drmm.data import Dataset
from drmm.files import write_csv, write_json
from drmm.runs.experiment import Data, Experiment
from drmm.runs.run import Run
from drmm.storage.models import Recipe, save_model
from drmm.trust.assessment import assess
from drmm.trust.crossfit import Fold

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


def write_pictures(folder: Path) -> Path:
    """Noise of three classes, six each, in class folders, 12 without a label; a copy, a blank and a broken one."""
    generator = np.random.default_rng(0)
    for place in [f"{c}/{i}" for c in "abc" for i in range(6)] + [f"unlabelled/{i}" for i in range(12)]:
        path = folder / f"{place}{' of a very long name' * 5} <script>.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (12, 12), np.uint8)).save(path)
    first = next((folder / "a").iterdir())
    (folder / "unlabelled" / "copy.png").write_bytes(first.read_bytes())
    Image.new("L", (12, 12), 77).save(folder / "unlabelled" / "blank.png")
    (folder / "unlabelled" / "broken.png").write_bytes(first.read_bytes()[:60])
    return folder


def trusted(folder: Path, data: Dataset, wrong: Sequence[int] = ()) -> Run:
    """The run with answers for each label as if it had been held out: right, but for some, of which it is surest.

    Args:
        folder: of `write_run`.
        data: its images.
        wrong: indices of training images that are said to be of the next class.
    """
    run = Run.open(folder)
    known = np.flatnonzero(data.y_train >= 0)[::-1].copy()  # in any order
    said = data.y_train[known].copy()
    said[np.isin(known, wrong)] = (said[np.isin(known, wrong)] + 1) % len(data.classes)
    sure = np.where(np.isin(known, wrong), 6.0, 4.0) + np.arange(len(known)) / 100
    logits = np.eye(len(data.classes))[said] * sure[:, None]
    x, y = torch.from_numpy(data.x_train), torch.from_numpy(data.y_train)
    pool = np.tile(logits, (len(x), 1))[: len(x)]
    run.keep_assessment(assess(run.model, x, y, [Fold(known, logits, pool)]))
    return Run.open(folder)
