"""Photographs from few labels, by what a net knows of ImageNet: `make photographs DATA=folder with CIFAR-10`.

Four classes of CIFAR-10 (as JPEG, so no figure compares with published ones) with 25 labels each, and all ten
with 40 to 4,000 labels in all, beside thousands of pictures without one. By EfficientNet-Lite0 and its weights
of ImageNet: logistic regression and label spreading on its features (scikit-learn, both cross-validated on the
labels), from pictures of 160 x 160 pixels; the whole net fine-tuned on the labels, by a loop as people write
it, from 112 x 112, which is all that it has time for; and the recipes `photos-quick` and `photos` (160 x 160),
whose confidence is calibrated by cross-fitting. Measured on pictures that nothing
was learned from: the error, the expected calibration error, the processor's seconds, and the most memory.
Resumable.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import cross_entropy

from drmm import DRMMClassifier
from drmm.data import Dataset, load
from drmm.data.images import pixels
from drmm.learning.features import features_of
from drmm.learning.metrics import predict_logits
from drmm.model.deep import DRMM
from drmm.progress import track
from drmm.storage.models import Recipe, start_model
from scripts.beside import Learn, regression, spreading
from scripts.folders import in_a_process
from scripts.study import Results, kept, spread, study
from scripts.trust import error_of

Array = np.ndarray[Any, Any]
PRESET, SIDE, SMALL = "efficientnet_lite0", 160, 112
FOUR = ("airplane", "cat", "horse", "ship")
TEST = 2000
STEPS, EPOCHS, BATCH, RATE = 150, 5, 32, 3e-4  # of the loop that people write: at the least


class Task(NamedTuple):
    """What is to be learned.

    Attributes:
        classes: names, or all where there are none.
        labels: of each class.
        pictures: to learn from, in all.
    """

    classes: tuple[str, ...]
    labels: int
    pictures: int


TASKS = {
    "4 classes x 25": Task(FOUR, 25, 2000),
    "10 classes x 4": Task((), 4, 5000),
    "10 classes x 10": Task((), 10, 5000),
    "10 classes x 25": Task((), 25, 5000),
    "10 classes x 100": Task((), 100, 5000),
    "10 classes x 400": Task((), 400, 10_000),
}


class Draw(NamedTuple):
    """Pictures of a task: levels (N, 3, 32, 32), and labels, -1 where they are not known."""

    x: Array
    y: Array
    x_test: Array
    y_test: Array


def draw(data: Dataset, task: Task, seed: int) -> Draw:
    """Pictures and labels by the seed; the test pictures are of the test part."""
    generator = np.random.default_rng(seed)
    codes = [data.classes.index(name) for name in task.classes] or list(range(len(data.classes)))
    rows = generator.permutation(np.flatnonzero(np.isin(data.y_train, codes)))[: task.pictures]
    tests = generator.permutation(np.flatnonzero(np.isin(data.y_test, codes)))[:TEST]
    truth, y_test = (np.searchsorted(codes, y) for y in (data.y_train[rows], data.y_test[tests]))
    return Draw(data.x_train[rows], first_labels(truth, task.labels), data.x_test[tests], y_test)


def first_labels(truth: Array, per_class: int) -> Array:
    """The labels of the first so many of each class; -1 of all others."""
    y = np.full(len(truth), -1)
    for c in np.unique(truth):
        y[np.flatnonzero(truth == c)[:per_class]] = c
    return y


def enlarged(x: Array, side: int) -> Array:
    """Pictures as `drmm fit` resizes them, uint8 (N, 3, side, side)."""
    pictures = (Image.fromarray(picture.transpose(1, 2, 0)) for picture in x)
    resized = [np.asarray(one.resize((side, side), Image.Resampling.BILINEAR)) for one in pictures]
    return np.ascontiguousarray(np.stack(resized).transpose(0, 3, 1, 2))


def pretrained(side: int, classes: int, seed: int) -> DRMM:
    """The net for pictures of that size, with fresh class templates."""
    return start_model(Recipe(PRESET, (3, side, side), tuple(map(str, range(classes))), weights="published"), seed)


# --- who learns ------------------------------------------------------------------------------------------


def on_features(learn: Learn, drawn: Draw, seed: int) -> Array:
    """A method of `scripts.beside`, on features: the test pictures are among those without a label."""
    pictures = enlarged(np.concatenate([drawn.x, drawn.x_test]), SIDE)
    x = features_of(pretrained(SIDE, 2, seed).levels, torch.from_numpy(pictures)).numpy()
    y = np.concatenate([drawn.y, np.full(len(drawn.y_test), -1)])
    classes = tuple(map(str, np.unique(drawn.y_test)))
    return learn(Dataset("features", x, y, x[:0], y[:0], classes), seed)[len(drawn.y) :]


def fine_tuned(drawn: Draw, seed: int) -> Array:
    """The whole net on the labels, its norms in evaluation mode: mirrored pictures, Adam, a cosine."""
    torch.manual_seed(seed)
    known = drawn.y >= 0
    x, y = torch.from_numpy(enlarged(drawn.x[known], SMALL)), torch.from_numpy(drawn.y[known])
    net, steps = pretrained(SMALL, int(y.max()) + 1, seed), max(STEPS, EPOCHS * len(y) // BATCH)
    optimiser = torch.optim.Adam(net.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        rows = torch.randint(len(x), (BATCH,))
        mirrored = torch.where(torch.rand(BATCH, 1, 1, 1) < 0.5, x[rows], x[rows].flip(3))
        optimiser.zero_grad()
        cross_entropy(net(pixels(mirrored)), y[rows]).backward()
        optimiser.step()
        schedule.step()
    return predict_logits(net.eval(), torch.from_numpy(enlarged(drawn.x_test, SMALL))).softmax(1).numpy()


def ours(recipe: str, drawn: Draw, seed: int) -> Array:
    """A recipe for photographs."""
    learner = DRMMClassifier(recipe, calibrate=True, random_state=seed).fit(enlarged(drawn.x, SIDE), drawn.y)
    return np.asarray(learner.predict_proba(enlarged(drawn.x_test, SIDE)))


METHODS: dict[str, Callable[[Draw, int], Array]] = {
    "logistic regression": partial(on_features, regression),
    "label spreading": partial(on_features, spreading),
    "fine-tuned on the labels": fine_tuned,
    "photos-quick": partial(ours, "photos-quick"),
    "photos": partial(ours, "photos"),
}


def answered(drawn: Draw, method: str, seed: int) -> Results:
    """What a method says of the test pictures."""
    return {"probability": METHODS[method](drawn, seed)}


def cell(drawn: Draw, method: str, seed: int) -> Results:
    """Figures of one method, in a process of its own."""
    made = in_a_process(partial(answered, drawn, method, seed))
    probability = made["probability"]
    return {
        "error": round(100 * float((probability.argmax(1) != drawn.y_test).mean()), 2),
        "ece": round(100 * error_of(probability, drawn.y_test), 2),
        "seconds": made["processor_seconds"],
        "peak_mb": made["peak_mb"],
    }


def run(asked: Namespace) -> Results:
    """Every task, every draw, every method that is not there yet."""
    data = load("cifar10", data_dir=asked.data_dir)
    folder = asked.out / "photographs"
    cells: Results = {name: {method: [] for method in asked.methods} for name in asked.tasks}
    for name, seed in track(list(product(asked.tasks, range(asked.seeds))), "draws"):
        files = {method: folder / f"{name}-{seed}-{method}.json".replace(" ", "_") for method in asked.methods}
        drawn = None if all(file.exists() for file in files.values()) else draw(data, TASKS[name], seed)
        for method, file in files.items():
            cells[name][method].append(kept(file, lambda: cell(drawn, method, seed)))  # noqa: B023
    return {"preset": PRESET, "side": SIDE, "tasks": cells}


def table(results: Results) -> str:
    """Means and standard deviations over the draws: errors, and calibration errors, in percent."""
    lines = ["| task | method | test error | calibration error | seconds | MB |", "|---|---|--:|--:|--:|--:|"]
    for name, methods in results["tasks"].items():
        for method, rows in methods.items():
            figures = " | ".join(spread([row[what] for row in rows]) for what in ("error", "ece"))
            costs = " | ".join(f"{np.mean([row[what] for row in rows]):,.0f}" for what in ("seconds", "peak_mb"))
            lines.append(f"| {name} | {method} | {figures} | {costs} |")
    return "\n".join(lines)


if __name__ == "__main__":
    study(
        run,
        table,
        name="photographs",
        target="photographs",
        seeds=5,
        options={
            "--tasks": {"nargs": "+", "choices": list(TASKS), "default": list(TASKS), "help": "what to learn"},
            "--methods": {"nargs": "+", "choices": list(METHODS), "default": list(METHODS), "help": "by what"},
        },
    )
