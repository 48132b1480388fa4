"""What do pictures without a label bring? `make unlabelled DATA=folder with MNIST and CIFAR-10`.

The same net (`conv_small`) learns for as many steps from the labels alone, by the slides' objective (KL, drawn),
and by agreement between views with and without the KL and the drawing; the default recipe is the latter, with
five times the weight on drawing, and by shares of the classes that the unlabelled images allow. Sets:
scikit-learn's digits, 5,000 of MNIST's, four classes and all of CIFAR-10 (as JPEG, so no figure compares with
published ones), and fours beside nines of MNIST, of which nines are one in ten, with labels drawn at random, and
with as many of each. Given are the error, and of how many images the net claims to be sure at 99.9 %, and is
wrong about, uncalibrated. `--tune` measures on images held out of the training part, by draws that are reported
nowhere. Resumable: each net is kept in the folder of the results.
"""

from __future__ import annotations

import time
from argparse import Namespace
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from drmm import DRMMClassifier, Objective
from drmm.data import load
from drmm.progress import track
from scripts.photographs import Draw, first_labels
from scripts.study import Results, difference, kept, spread, study

Array = np.ndarray[Any, Any]
HELD_OUT, TUNED = 2000, 1000  # images to measure on; the first draw that is not reported
SURE = 0.999


class Task(NamedTuple):
    """What is to be learned.

    Attributes:
        source: of the images.
        classes: codes, or all where there are none.
        labels: of each class; where they are drawn at random, of the images in all.
        images: to learn from, in all.
        rare: share of the last class; 0 leaves classes as they are.
        views: what leaves an image's class.
        at_random: whether labels are drawn as classes come, and not so many of each.
    """

    source: str
    classes: tuple[int, ...]
    labels: int
    images: int
    rare: float
    views: tuple[str, ...]
    at_random: bool = False


AFFINE, PHOTO = ("affine", "brightness"), ("affine", "brightness", "crop", "flip")
TASKS = {
    "digits x 10": Task("digits", (), 10, 1000, 0, AFFINE),
    "mnist-5k x 10": Task("mnist-5k", (), 10, 3000, 0, AFFINE),
    "mnist 4, 9 at 90/10": Task("mnist", (4, 9), 50, 3000, 0.1, AFFINE, at_random=True),
    "mnist 4, 9 at 90/10, labels equal": Task("mnist", (4, 9), 25, 3000, 0.1, AFFINE),
    "4 photos x 25": Task("cifar10", (0, 3, 7, 8), 25, 2000, 0, PHOTO),
    "10 photos x 10": Task("cifar10", (), 10, 5000, 0, PHOTO),
}
NOTHING_DRAWN = {"reconstruction": 0.0, "nonnegativity": 0.0}
ARMS: dict[str, dict[str, Any]] = {
    "labels alone": {"kl": 0.0, "balance": 0.0},
    "labels alone, views": {"agreement": 1.0, "kl": 0.0, "balance": 0.0, **NOTHING_DRAWN},
    "KL, drawn": {},
    "KL, nothing drawn": NOTHING_DRAWN,
    "agreement": {"agreement": 1.0, "kl": 0.0, "warm_up": 0.25, **NOTHING_DRAWN},
    "agreement, KL": {"agreement": 1.0, "warm_up": 0.25, **NOTHING_DRAWN},
    "agreement, drawn": {"agreement": 1.0, "kl": 0.0, "warm_up": 0.25, "reconstruction": 1.0},
    "agreement, KL, drawn": {"agreement": 1.0, "warm_up": 0.25, "reconstruction": 1.0},
    "the default": {"agreement": 1.0, "warm_up": 0.25, "reconstruction": 5.0, "prior": "auto"},
    "the default, no KL": {"agreement": 1.0, "kl": 0.0, "warm_up": 0.25, "reconstruction": 5.0, "prior": "auto"},
}


def draw(task: Task, seed: int, asked: Namespace) -> Draw:
    """Images and labels by the seed; those to measure on are of the test part, or of the training part to tune."""
    data = load(task.source, data_dir=asked.data_dir)
    generator = np.random.default_rng(seed)
    codes = np.array(task.classes or range(len(data.classes)))
    rows = generator.permutation(np.flatnonzero(np.isin(data.y_train, codes)))
    if asked.tune or task.source == "mnist-5k":  # which has a small test part
        n = min(HELD_OUT, len(rows) // 4)
        tests, rows = rows[-n:], rows[:-n]
        x_test, y_test = data.x_train[tests], data.y_train[tests]
    else:
        tests = generator.permutation(np.flatnonzero(np.isin(data.y_test, codes)))[:HELD_OUT]
        x_test, y_test = data.x_test[tests], data.y_test[tests]
    rows = generator.permutation(mixed(rows, data.y_train, codes, task)) if task.rare else rows[: task.images]
    truth = np.searchsorted(codes, data.y_train[rows])
    few = np.where(np.arange(len(truth)) < task.labels, truth, -1)
    y = few if task.at_random else first_labels(truth, task.labels)
    return Draw(data.x_train[rows], y, x_test, np.searchsorted(codes, y_test))


def mixed(rows: Array, y: Array, codes: Array, task: Task) -> Array:
    """As many as the task has, the last class as rare as it is there."""
    few = round(task.rare * task.images)
    is_rare = y[rows] == codes[-1]
    chosen = np.isin(rows, np.concatenate([rows[~is_rare][: task.images - few], rows[is_rare][:few]]))
    return rows[chosen]


def cell(task: Task, arm: str, seed: int, asked: Namespace) -> Results:
    """One net."""
    drawn, terms = draw(task, seed, asked), ARMS[arm]
    views = task.views if "agreement" in terms else ()
    training = {"labels_only": arm.startswith("labels alone"), "min_steps": asked.steps}
    start = time.process_time()
    learner = DRMMClassifier(
        objective=Objective(views=views, **terms), training=training, epochs=1, random_state=seed
    )
    probability = learner.fit(drawn.x, drawn.y).predict_proba(drawn.x_test)
    wrong, is_sure = probability.argmax(1) != drawn.y_test, probability.max(1) >= SURE
    by_class = [wrong[drawn.y_test == c].mean() for c in np.unique(drawn.y_test)]
    rare = wrong @ np.where(drawn.y_test == drawn.y_test.max(), task.rare, 1 - task.rare) / len(wrong) * 2
    return {
        "seed": seed,
        "error": round(100 * float(rare if task.rare else wrong.mean()), 2),
        "balanced": round(100 * float(np.mean(by_class)), 2),
        "recall_of_last": round(100 * float(1 - by_class[-1]), 2),
        "sure": round(100 * float(is_sure.mean()), 1),
        "sure_wrong": round(100 * float(wrong[is_sure].mean()), 2) if is_sure.any() else None,
        "seconds": round(time.process_time() - start, 1),
    }


def run(asked: Namespace) -> Results:
    """Every task, every draw, every arm that is not there yet."""
    folder = asked.out / "unlabelled" / f"{'tuned-' if asked.tune else ''}{asked.steps}"
    first = TUNED if asked.tune else 0
    cells: Results = {name: {arm: [] for arm in asked.arms} for name in asked.tasks}
    work = list(product(range(first, first + asked.seeds), asked.tasks, asked.arms))
    for seed, name, arm in track(work, "nets"):
        file = folder / f"{name}-{seed}-{arm}.json".replace(", ", "_").replace(" ", "_").replace("/", "-")
        cells[name][arm].append(kept(file, lambda: cell(TASKS[name], arm, seed, asked)))  # noqa: B023
    return {"steps": asked.steps, "tasks": cells}


def table(results: Results) -> str:
    """Means and standard deviations over the draws, in percent."""
    lines = ["| task | learned | error | less the labels' | recall, last class | sure | wrong of it | seconds |"]
    lines.append("|---|---|--:|--:|--:|--:|--:|--:|")
    for name, arms in results["tasks"].items():
        base = {row["seed"]: row["error"] for row in next(iter(arms.values()))}
        for arm, rows in arms.items():
            errors = {row["seed"]: row["error"] for row in rows}
            wrong = [row["sure_wrong"] for row in rows if row["sure_wrong"] is not None]
            columns = [spread([row[what] for row in rows]) for what in ("error", "recall_of_last", "sure")]
            change = "–" if errors == base else difference(errors, base)
            columns[1:1] = [change]
            columns += [spread(wrong) if wrong else "–", f"{np.mean([row['seconds'] for row in rows]):,.0f}"]
            lines.append(f"| {name} | {arm} | {' | '.join(columns)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    study(
        run,
        table,
        name="unlabelled",
        target="unlabelled",
        seeds=5,
        options={
            "--tasks": {"nargs": "+", "choices": list(TASKS), "default": list(TASKS), "help": "what to learn"},
            "--arms": {"nargs": "+", "choices": list(ARMS), "default": list(ARMS), "help": "by what"},
            "--steps": {"type": int, "default": 1000, "help": "of each net"},
            "--tune": {"action": "store_true", "help": "by draws and images that are not reported"},
        },
    )
