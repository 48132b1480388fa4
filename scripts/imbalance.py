"""What does a prior do for classes that are not equally frequent? `make imbalance`.

Fours and nines of MNIST, of which nines are one in ten or one in fifty; 25 of each have a label, so the labels
say that they are equally frequent. Learned are small nets with the prior of the labels (as by default), with the
one that is estimated from the unlabelled images, and with a uniform one, on five draws of images and labels.
Measured on the test images: the error where classes are as frequent as in training, the balanced one, and the
recall of each class. Every net is kept in results/imbalance, so that a stopped study goes on.
"""

from argparse import Namespace
from dataclasses import replace
from itertools import product

import numpy as np
import torch
from sklearn.metrics import recall_score

from drmm import DRMMClassifier
from drmm.data import load
from drmm.learning.class_prior import estimate_shares
from drmm.runs.experiment import Experiment
from scripts.study import Results, kept, spread, study

PRIORS = ("labels", "estimate", "uniform")
RARE = {"90/10": 0.1, "1:50": 1 / 51}
CLASSES, LABELS = (4, 9), 25  # of each class
RECIPE = Experiment()  # without views


def run(asked: Namespace) -> Results:
    """Learn and measure what is not there yet."""
    data = load("mnist", data_dir=asked.data_dir)
    cells = product(range(asked.seeds), RARE, PRIORS)
    folder = asked.out / "imbalance" / f"{asked.images}_{asked.epochs}"
    rows = [
        kept(
            folder / f"{mix.replace('/', '-').replace(':', '-')}_{prior}_{seed}.json",
            lambda cell=(seed, mix, prior): measured(data, *cell, images=asked.images, epochs=asked.epochs),
        )
        for seed, mix, prior in cells
    ]
    return {
        "dataset": data.name,
        "labels": 2 * LABELS,
        "images": asked.images,
        "epochs": asked.epochs,
        "rows": rows,
    }


def measured(data, seed: int, mix: str, prior: str, *, images: int, epochs: int) -> Results:
    """One net."""
    generator = np.random.default_rng(seed)
    counts = [images - round(RARE[mix] * images) + LABELS, round(RARE[mix] * images) + LABELS]
    drawn = [
        generator.permutation(np.flatnonzero(data.y_train == c))[:n] for c, n in zip(CLASSES, counts, strict=True)
    ]
    x = data.x_train[np.concatenate(drawn)]
    y = np.full(len(x), -1)
    y[:LABELS], y[counts[0] : counts[0] + LABELS] = CLASSES
    learner = DRMMClassifier(
        model={"preset": "conv_small", "width": 8},
        objective=replace(RECIPE.objective, prior=prior),
        training=replace(RECIPE.training, epochs=epochs),
        random_state=seed,
    ).fit(x, y)
    tested = np.isin(data.y_test, CLASSES)
    recall = recall_score(data.y_test[tested], learner.predict(data.x_test[tested]), average=None)
    shares = estimate_shares(torch.from_numpy(x), torch.from_numpy(np.searchsorted((-1, *CLASSES), y) - 1), 2)
    return {
        "mix": mix,
        "prior": prior,
        "seed": seed,
        "recall": (100 * recall).round(2).tolist(),
        "balanced_error": round(float(100 * (1 - recall.mean())), 2),
        "error": round(float(100 * (1 - recall @ [1 - RARE[mix], RARE[mix]])), 2),
        "estimate": [round(float(column[1]), 4) for column in (shares.em, shares.low, shares.high, shares.bbse)],
    }


def table(results: Results) -> str:
    """Mean and standard deviation over the draws, in percent."""
    lines = ["| mix | prior | error | balanced error | recall of the rare class |", "|---|---|---|---|---|"]
    for mix, prior in product(RARE, PRIORS):
        rows = [row for row in results["rows"] if (row["mix"], row["prior"]) == (mix, prior)]
        columns = (
            [row["error"] for row in rows],
            [row["balanced_error"] for row in rows],
            [row["recall"][1] for row in rows],
        )
        figures = " | ".join(map(spread, columns))
        lines.append(f"| {mix} | {prior} | {figures} |")
    return "\n".join(lines)


if __name__ == "__main__":
    study(
        run,
        table,
        name="imbalance",
        target="imbalance",
        seeds=5,
        options={"--images": {"type": int, "default": 1000}, "--epochs": {"type": int, "default": 20}},
    )
