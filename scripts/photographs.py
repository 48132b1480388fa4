"""Photographs from few labels, by what a net knows of ImageNet: `make photographs DATA=folder with CIFAR-10`.

Four classes of CIFAR-10 (as JPEG, so no figure compares with published ones) with 25 labels each, and all ten
with 40 to 4,000 labels in all, beside thousands of pictures without one, enlarged to 112 x 112 pixels. By
EfficientNet-Lite0 and its weights of ImageNet: logistic regression and label spreading on its features
(scikit-learn, both cross-validated on the labels); the whole net fine-tuned on the labels, by a loop as people
write it; and the recipe `photos-quick`, whose confidence is calibrated by cross-fitting. Measured on pictures that
nothing was learned from: the error, the expected calibration error, the processor's seconds, and the most memory.
Features of the pictures as they are have been computed before, so that no method waits for them. Resumable.
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
from drmm.progress import track
from drmm.storage.models import Recipe, start_model
from scripts.beside import Learn, regression, spreading
from scripts.folders import in_a_process
from scripts.study import Results, kept, spread, study
from scripts.trust import error_of

Array = np.ndarray[Any, Any]
PRESET, SIDE = "efficientnet_lite0", 112
FOUR = ("airplane", "cat", "horse", "ship")
TEST = 2000
STEPS, BATCH, RATE = 300, 32, 3e-4  # of the loop that people write


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
    """Pictures of a task: levels (N, 3, 112, 112), features (N, D) and labels, -1 where they are not known."""

    x: Array
    features: Array
    y: Array
    x_test: Array
    features_test: Array
    y_test: Array


def draw(data: Dataset, task: Task, seed: int) -> Draw:
    """Pictures and labels by the seed; the test pictures are of the test part."""
    generator = np.random.default_rng(seed)
    codes = [data.classes.index(name) for name in task.classes] or list(range(len(data.classes)))
    rows = generator.permutation(np.flatnonzero(np.isin(data.y_train, codes)))[: task.pictures]
    tests = generator.permutation(np.flatnonzero(np.isin(data.y_test, codes)))[:TEST]
    truth, y_test = (np.searchsorted(codes, y) for y in (data.y_train[rows], data.y_test[tests]))
    y = np.full(len(rows), -1)
    for c in range(len(codes)):
        some = np.flatnonzero(truth == c)[: task.labels]
        y[some] = c
    x, x_test = enlarged(data.x_train[rows]), enlarged(data.x_test[tests])
    return Draw(x, features(x), y, x_test, features(x_test), y_test)


def enlarged(x: Array) -> Array:
    """Pictures as `drmm fit` resizes them, uint8 (N, 3, 112, 112)."""
    pictures = (Image.fromarray(picture.transpose(1, 2, 0)) for picture in x)
    resized = [np.asarray(one.resize((SIDE, SIDE), Image.Resampling.BILINEAR)) for one in pictures]
    return np.stack(resized).transpose(0, 3, 1, 2)


def features(x: Array) -> Array:
    """What the net makes of them, (N, D); kept in the user's cache folder."""
    net = start_model(Recipe(PRESET, (3, SIDE, SIDE), ("a", "b"), weights="published"), seed=0)
    return features_of(net.levels, torch.from_numpy(np.ascontiguousarray(x))).numpy()


def on_features(learn: Learn) -> Callable[[Draw, int], Array]:
    """A method of `scripts.beside`, on features: the test pictures are among those without a label."""

    def method(drawn: Draw, seed: int) -> Array:
        x = np.concatenate([drawn.features, drawn.features_test])
        y = np.concatenate([drawn.y, np.full(len(drawn.y_test), -1)])
        classes = tuple(map(str, np.unique(drawn.y_test)))
        return learn(Dataset("features", x, y, x[:0], y[:0], classes), seed)[len(drawn.y) :]

    return method


def fine_tuned(drawn: Draw, seed: int) -> Array:
    """The whole net on the labels, its norms in evaluation mode: mirrored pictures, Adam, a cosine."""
    torch.manual_seed(seed)
    known = drawn.y >= 0
    x, y = torch.from_numpy(drawn.x[known]), torch.from_numpy(drawn.y[known])
    net = start_model(Recipe(PRESET, (3, SIDE, SIDE), tuple(map(str, np.unique(y))), weights="published"), seed)
    optimiser = torch.optim.Adam(net.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    for _ in range(STEPS):
        rows = torch.randint(len(x), (BATCH,))
        mirrored = torch.where(torch.rand(BATCH, 1, 1, 1) < 0.5, x[rows], x[rows].flip(3))
        optimiser.zero_grad()
        cross_entropy(net(pixels(mirrored)), y[rows]).backward()
        optimiser.step()
        schedule.step()
    return predict_logits(net.eval(), torch.from_numpy(drawn.x_test)).softmax(1).numpy()


def quick(drawn: Draw, seed: int) -> Array:
    """The recipe of class templates."""
    learner = DRMMClassifier("photos-quick", calibrate=True, random_state=seed).fit(drawn.x, drawn.y)
    return np.asarray(learner.predict_proba(drawn.x_test))


METHODS: dict[str, Callable[[Draw, int], Array]] = {
    "logistic regression": on_features(regression),
    "label spreading": on_features(spreading),
    "fine-tuned on the labels": fine_tuned,
    "photos-quick": quick,
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
    cells: Results = {name: {method: [] for method in METHODS} for name in asked.tasks}
    for name, seed in track(list(product(asked.tasks, range(asked.seeds))), "draws"):
        files = {method: folder / f"{name}-{seed}-{method}.json".replace(" ", "_") for method in METHODS}
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
    options = {"--tasks": {"nargs": "+", "choices": list(TASKS), "default": list(TASKS), "help": "what to learn"}}
    study(run, table, name="photographs", target="photographs", seeds=5, options=options)
