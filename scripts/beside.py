"""Who sorts a messy folder, how well, and at what cost? `make beside DATA=folder with CIFAR-10`.

5,000 files as scripts/messy_folder.py makes them, 100 with a label, drawn at random: handwritten digits, or four
classes of photographs (CIFAR-10). Of each draw learn, with one thread and each in a process of its own:

- logistic regression on standardised pixels, and label spreading along the nearest neighbours, both of
  scikit-learn, with what they are set to cross-validated on the labels;
- the net of `drmm sort`, from the labels alone, for as many steps;
- `drmm sort` as it was: the same net from all pictures, without calibration;
- `drmm sort`, the command, at a promise of 98 %; and of 90 %, by the model that it made.

The others get their pictures from the reader of `drmm sort`, as a loop of one's own ends at the first broken file;
where, is counted. They sort what they are 98 % sure of. Errors are of pictures that have no label in the user's
table and are not blank. Resumable: each cell is kept in the folder of the results.
"""

from __future__ import annotations

import csv
import os
from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import product
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.semi_supervised import LabelSpreading

from drmm import DRMMClassifier, Objective
from drmm.cli import sort as command
from drmm.cli.app import cli
from drmm.data import Dataset, load
from drmm.progress import track
from drmm.runs.experiment import Experiment
from scripts.folders import in_a_process
from scripts.messy_folder import write
from scripts.study import Results, kept, spread, study
from scripts.trust import PHOTOS

Array = np.ndarray[Any, Any]
Learn = Callable[[Dataset, int], Array]  # data and seed to probabilities (N, C)

SETS = ("mnist-5k", "photos")
LABELS, FOLDS = 100, 5
SURE = 0.98
PROMISES = (0.98, 0.9)
STRENGTHS = np.logspace(-4, 2, 7)
NEIGHBOURS, ALPHAS = (5, 10, 20), (0.2, 0.8)
SHARES = np.arange(1, 101) / 100


class Answer(NamedTuple):
    """What is said of a picture.

    Attributes:
        file: its relative path.
        label: its class.
        confidence: how sure that is.
        is_sorted: whether it goes into the folder of its class.
    """

    file: str
    label: str
    confidence: float
    is_sorted: bool


# --- who learns ------------------------------------------------------------------------------------------


def regression(data: Dataset, seed: int) -> Array:
    """Logistic regression."""
    x, known = flat(data), data.y_train >= 0
    learner = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    search = GridSearchCV(learner, {"logisticregression__C": STRENGTHS}, cv=folds(seed))
    return search.fit(x[known], data.y_train[known]).predict_proba(x)


def spreading(data: Dataset, seed: int) -> Array:
    """Label spreading; of one without a labelled picture around, nothing is known, and every probability is 0."""
    x, y = flat(data), data.y_train
    known = np.flatnonzero(y >= 0)

    def spread(labels: Array, neighbours: int, alpha: float) -> LabelSpreading:
        return LabelSpreading("knn", n_neighbors=neighbours, alpha=alpha, max_iter=1000).fit(x, labels)

    def right(choice: tuple[int, float]) -> int:
        found = 0
        for _, part in folds(seed).split(known):
            fewer = y.copy()
            fewer[known[part]] = -1
            found += (spread(fewer, *choice).transduction_[known[part]] == y[known[part]]).sum()
        return found

    return spread(y, *max(product(NEIGHBOURS, ALPHAS), key=right)).label_distributions_


def labels_alone(data: Dataset, seed: int, epochs: int | None) -> Array:
    """The net, supervised."""
    return uncalibrated(data, seed, epochs, objective=Experiment.read("supervised").objective, labels_only=True)


def uncalibrated(
    data: Dataset, seed: int, epochs: int | None, *, objective: Objective | None = None, **training: Any
) -> Array:
    """The net by the recipe of `drmm sort`, or by another objective: its own softmax."""
    training |= {} if epochs is None else {"min_steps": 0}
    learner = DRMMClassifier(objective=objective, training=training, epochs=epochs, random_state=seed)
    return learner.fit(data.x_train, data.y_train).predict_proba(data.x_train)


def flat(data: Dataset) -> Array:
    """Pixels from 0 to 1, (N, D)."""
    return data.x_train.reshape(len(data.x_train), -1).astype(np.float32) / 255


def folds(seed: int) -> KFold:
    """Of the labels."""
    return KFold(FOLDS, shuffle=True, random_state=seed)


NETS = {"the net, labels alone": labels_alone, "`drmm sort` as it was": uncalibrated}
METHODS = {"logistic regression": regression, "label spreading": spreading, **NETS}
SORT = "`drmm sort`"


# --- in a process of its own -----------------------------------------------------------------------------


def learned(learn: Learn, folder: Path, seed: int) -> Results:
    """What a method says of a folder."""
    os.environ["XDG_CACHE_HOME"] = str(folder.with_name("cache"))  # nobody has seen the folder before
    data = load(folder, labels=table_of(folder, "labels"))
    probability = learn(data, seed)
    best, sure = probability.argmax(1), probability.max(1)
    names = [data.classes[c] for c in best]
    return {"answers": list(map(Answer, data.files, names, sure.tolist(), (sure >= SURE).tolist()))}


def commanded(folder: Path, into: Path, *arguments: str, epochs: int | None) -> Results:
    """What `drmm sort` does with a folder; the model of a dry run learns for some epochs."""
    os.environ["XDG_CACHE_HOME"] = str(folder.with_name("cache"))
    shorter = {} if epochs is None else {"epochs": epochs, "min_steps": 0}
    asked_for = command.asked_for
    with patch.object(command, "asked_for", lambda *given: asked_for(*given).changed("training", **shorter)):
        cli(["sort", str(folder), "--into", str(into), *arguments], standalone_mode=False)
    return {"answers": list(answers_of(folder, into))}


def answers_of(folder: Path, into: Path) -> Iterator[Answer]:
    """What `sort.csv` says of the pictures without a label."""
    for row in rows_of(into / "sort.csv"):
        if row["decision"] != "labelled":
            file = Path(row["file"]).resolve().relative_to(folder.resolve()).as_posix()
            yield Answer(file, row["label"], float(row["confidence"]), row["decision"] == "sorted")


def draw(folder: Path, name: str, data_dir: Path | None, files: int, seed: int) -> Results:
    """Write the messy folder, and count where a loop of one's own ends."""
    write(folder, pictures_of(name, data_dir), n=files, labels=LABELS, seed=seed, by_class=False)
    return by_hand(folder)


def pictures_of(name: str, data_dir: Path | None) -> Dataset:
    """Those that files are drawn from: no part of them is to test with."""
    if name == "mnist-5k":
        data, codes = load(name), range(10)
        x, y = np.concatenate([data.x_train, data.x_test]), np.concatenate([data.y_train, data.y_test])
    else:
        data = load("cifar10", data_dir=data_dir)
        codes, x, y = [data.classes.index(photo) for photo in PHOTOS], data.x_train, data.y_train
    chosen = np.isin(y, codes)
    classes = tuple(data.classes[c] for c in codes)
    return Dataset(name, x[chosen], np.searchsorted(codes, y[chosen]), x[:0], y[:0], classes)


def by_hand(folder: Path) -> Results:
    """A loop that opens every file in order: how many it could not, and which was the first."""
    fails = []
    for number, file in enumerate(sorted(path for path in folder.rglob("*") if path.is_file()), 1):
        try:
            with Image.open(file) as picture:
                picture.convert("RGB").resize((32, 32))
        except (OSError, SyntaxError, ValueError):  # whatever Pillow raises
            fails.append(number)
    return {"first": fails[0] if fails else None, "fails": len(fails)}


def idle() -> Results:
    """Nothing, after the imports that all have."""
    return {}


# --- how well --------------------------------------------------------------------------------------------


def judged(answers: list[Answer], truth: list[dict[str, str]], labelled: set[str]) -> Results:
    """Figures of a method.

    Args:
        answers: of the pictures, labelled ones as well or not.
        truth: rows of the table that the messy folder came with.
        labelled: files with a label.

    Returns:
        In percent: error, share that is sorted, error of these, and error of the surest pictures by how many they
        are. As numbers: of how many pictures; sound ones without an answer; broken and blank ones that are sorted.
    """
    kinds, classes = ({row["file"]: row[name] for row in truth} for name in ("kind", "truth"))
    open_ones = {answer.file: answer for answer in answers if answer.file not in labelled}
    counted = [one for one in open_ones.values() if kinds[one.file] not in {"broken", "blank"}]
    counted.sort(key=lambda one: -one.confidence)
    wrong = np.array([one.label != classes[one.file] for one in counted])
    is_sorted = np.array([one.is_sorted for one in counted])
    sums = wrong.cumsum()
    surest = np.ceil(SHARES * len(wrong)).astype(int)
    sound = {file for file, kind in kinds.items() if kind != "broken"} - labelled
    sorted_kinds = [kinds[one.file] for one in open_ones.values() if one.is_sorted]
    return {
        "pictures": len(wrong),
        "error": percent(wrong),
        "sorted": percent(is_sorted),
        "sorted_error": percent(wrong[is_sorted]),
        "surest_error": (100 * sums[surest - 1] / surest).round(2).tolist(),
        "lost": len(sound - open_ones.keys()),
        "broken_sorted": sorted_kinds.count("broken"),
        "blank_sorted": sorted_kinds.count("blank"),
    }


def percent(flags: Array) -> float | None:
    """Share that is true; None of none."""
    return round(100 * float(flags.mean()), 2) if len(flags) else None


def rows_of(file: Path) -> list[dict[str, str]]:
    """Of a table."""
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def table_of(folder: Path, what: str) -> Path:
    """A table beside the messy folder."""
    return folder.with_name(f"{folder.name}.{what}.csv")


# --- the study -------------------------------------------------------------------------------------------


def measured(method: str, folder: Path, seed: int, epochs: int | None) -> Results:
    """Figures of a method by name; `drmm sort` has one for each promise."""
    truth = rows_of(table_of(folder, "truth"))
    labelled = {row["file"] for row in rows_of(table_of(folder, "labels"))}

    def figures(work: Callable[[], Results]) -> Results:
        made = in_a_process(work)
        return {**judged(made.pop("answers"), truth, labelled), **made}

    if method in METHODS:
        learn = partial(NETS[method], epochs=epochs) if method in NETS else METHODS[method]
        return {method: figures(partial(learned, learn, folder, seed))}
    rows: Results = {}
    model = ("--labels", str(table_of(folder, "labels")))
    for promise in PROMISES:
        into = folder.with_name(f"sorted at {promise:g}")
        work = partial(commanded, folder, into, *model, "--promise", f"{promise:g}", epochs=epochs)
        rows[f"{SORT}, {100 * promise:g} %"] = figures(work)
        model = ("--run", str(folder.with_name(f"sorted at {PROMISES[0]:g}") / "_run"))
    return rows


def run(asked: Namespace) -> Results:
    """Every set, every draw, every method that is not there yet.

    This process holds no pictures: what it held would count as its children's, as Linux has it.
    """
    kept_in = asked.out / "beside" / (f"{asked.files}" + (f"-{asked.epochs}" if asked.epochs else ""))
    cells = list(product(asked.sets, range(asked.seeds), ("folder", *METHODS, SORT)))
    sets: Results = {name: [] for name in asked.sets}
    with TemporaryDirectory() as above:

        @cache
        def drawn(name: str, seed: int) -> tuple[Path, Results]:
            folder = Path(above) / f"{name}-{seed}" / "pictures"
            folder.parent.mkdir()
            return folder, in_a_process(partial(draw, folder, name, asked.data_dir, asked.files, seed))

        def cell(name: str, seed: int, what: str) -> Results:
            folder, counted = drawn(name, seed)
            return counted if what == "folder" else measured(what, folder, seed, asked.epochs)

        for name, seed, what in track(cells, "cells"):
            file = kept_in / f"{name}-{seed}-{what.replace('`', '').replace(',', '').replace(' ', '_')}.json"
            found = kept(file, partial(cell, name, seed, what))
            if what == "folder":
                sets[name].append({"by_hand": found, "methods": {}})
            else:
                sets[name][-1]["methods"] |= found
    settings = {"files": asked.files, "labels": LABELS, "sure": SURE, "epochs": asked.epochs}
    return {**settings, "idle_mb": in_a_process(idle)["peak_mb"], "sets": sets}


def as_many(figures: Results, draw: Results) -> float | None:
    """Error of a method's surest pictures, as many as `drmm sort` sorts of the same draw at its first promise."""
    share = draw["methods"][f"{SORT}, {100 * PROMISES[0]:g} %"]["sorted"]
    return figures["surest_error"][max(round(share), 1) - 1] if share else None


def table(results: Results) -> str:
    """Means and standard deviations over the draws."""
    lines = [
        "| | error | sorted | wrong of it | of as many as `drmm sort` | seconds | MB | lost, broken, blank |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, draws in results["sets"].items():
        lines.append(f"| **{name}**, {len(draws)} draw{'s' * (len(draws) > 1)} | | | | | | | |")
        for method in draws[0]["methods"]:
            rows = [draw["methods"][method] for draw in draws]
            shares = [[row[what] for row in rows] for what in ("error", "sorted", "sorted_error")]
            shares.append([as_many(row, draw) for row, draw in zip(rows, draws, strict=True)])
            costs = [f"{mean(row[what] for row in rows):,.0f}" for what in ("processor_seconds", "peak_mb")]
            failures = [f"{mean(row[f] for row in rows):.0f}" for f in ("lost", "broken_sorted", "blank_sorted")]
            lines.append(f"| {method} | {' | '.join([*map(shown, shares), *costs, ', '.join(failures)])} |")
    hands = [draw["by_hand"] for draws in results["sets"].values() for draw in draws]
    ends = sorted(hand["first"] for hand in hands)
    fails = mean(hand["fails"] for hand in hands)
    return "\n".join(lines) + (
        "\n\nIn percent. The last column counts pictures without an answer, and what is sorted though "
        f"broken or blank. A loop of one's own ends at file {ends[0]} to {ends[-1]} of {results['files']:,}, and "
        f"fails on {fails:.0f} in all. Importing alone takes {results['idle_mb']} MB."
    )


def shown(values: list[float | None]) -> str:
    """Mean and deviation of those that are there."""
    there = [value for value in values if value is not None]
    return spread(there) if there else "–"


def figure(results: Results) -> Figure:
    """Error of the surest pictures by how many they are, and where each method stops."""
    drawn = Figure(figsize=(4.6 * len(results["sets"]), 4), layout="constrained")
    axes = drawn.subplots(1, len(results["sets"]), squeeze=False)[0]
    for axis, (name, draws) in zip(axes, results["sets"].items(), strict=True):
        for i, method in enumerate(draws[0]["methods"]):
            rows = [draw["methods"][method] for draw in draws]
            colour = f"C{min(i, len(METHODS))}"  # a model has one curve, and a point for each promise
            if i <= len(METHODS):
                errors = np.mean([row["surest_error"] for row in rows], 0)
                axis.plot(100 * SHARES, errors, color=colour, label=method.partition(",")[0].replace("`", ""))
            points = [(row["sorted"], row["sorted_error"]) for row in rows if row["sorted"]]
            axis.scatter(*zip(*points, strict=True) if points else ([], []), s=18, color=colour)
        axis.set(title=name, xlabel="sorted, % of the pictures", ylabel="wrong of what is sorted, %")
        axis.set_ylim(0, None)
        axis.grid(color="#e4e8ee", linewidth=0.8)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, fontsize=9)
    return drawn


if __name__ == "__main__":
    study(
        run,
        table,
        figure,
        name="beside",
        target="beside",
        options={
            "--sets": {"nargs": "+", "choices": SETS, "default": list(SETS), "help": "of pictures"},
            "--files": {"type": int, "default": 5000, "help": "of the folder"},
            "--epochs": {"type": int, "help": "of each net; the recipe's by default"},
        },
    )
