"""Is confidence what it says, and the cross-fitted error? `make trust DATA=folder with CIFAR-10`.

The classifier learns from a hundred labels by the default recipe, without and with calibration: scikit-learn's
digits, 5,000 of MNIST's, and 2,000 photographs of four classes (CIFAR-10 as JPEG, so no figure compares with
published ones). On images that it did not learn from, beside each other: the expected calibration error of the
net's own confidence and of the calibrated one, the test error and the cross-fitted one with its interval, and what
is sorted at a promise of 90 and 98 %. Resumable: each cell is kept in the folder of the results.
"""

from __future__ import annotations

import time
from argparse import Namespace
from itertools import product
from typing import Any

import numpy as np
from scipy.special import softmax

from drmm import DRMMClassifier
from drmm.cli.demo import DEMO_EPOCHS
from drmm.data import Dataset, load, mask_labels, stratified_labels
from drmm.progress import track
from drmm.trust.calibration import reliability
from scripts.study import Results, kept, mean_and_sd, spread, study

PHOTOS = ("airplane", "cat", "dog", "ship")
EACH = (500, 250)  # photographs of a class, to learn from and to test on
LABELS = 100
SETTINGS: dict[str, dict[str, Any]] = {
    "digits": {},
    "mnist-5k": {"epochs": DEMO_EPOCHS, "training": {"min_steps": 0}},
    "photos": {},
}
PROMISES = (0.9, 0.98)


def photos(asked: Namespace) -> Dataset:
    """Four classes of CIFAR-10."""
    data = load("cifar10", data_dir=asked.data_dir)
    codes = [data.classes.index(name) for name in PHOTOS]
    parts = []
    for x, y, each in zip((data.x_train, data.x_test), (data.y_train, data.y_test), EACH, strict=True):
        rows = np.concatenate([np.flatnonzero(y == c)[:each] for c in codes])
        parts += [shrunk(x[rows], asked.photo_size), np.repeat(np.arange(len(codes)), each)]
    return Dataset("photos", *parts, PHOTOS)


def shrunk(x: np.ndarray, size: int) -> np.ndarray:
    """Images whose pixels are means of squares, (N, C, size, size), uint8."""
    step = x.shape[2] // size
    return np.rint(x.reshape(*x.shape[:2], size, step, size, step).mean((3, 5))).astype(np.uint8)


def cell(data: Dataset, seed: int, asked: Namespace) -> dict[str, Any]:
    """One draw of the labels: learn, and compare what is said with what is so."""
    labels = mask_labels(data.y_train, stratified_labels(data.y_train, LABELS // len(data.classes), seed=seed))
    settings = dict(SETTINGS[data.name])
    if data.name == "photos" and asked.photo_epochs is not None:
        settings["epochs"] = asked.photo_epochs
    start = time.process_time()
    learner = DRMMClassifier(random_state=seed, **settings)
    net = learner.fit(data.x_train, labels)
    alone = time.process_time() - start
    calibrated = DRMMClassifier(random_state=seed, calibrate=True, **settings).fit(data.x_train, labels)
    both = time.process_time() - start - alone
    own, better = softmax(net.decision_function(data.x_test), 1), calibrated.predict_proba(data.x_test)
    wrong = calibrated.predict(data.x_test) != data.y_test
    known = calibrated.assessment_
    figures: dict[str, Any] = {
        "test_error": round(100 * float(wrong.mean()), 2),
        "cross_fitted": None if known is None else known.error(),
        "ece": [round(error_of(p, data.y_test), 4) for p in (own, better)],
        "temperature": None if known is None else known.calibration.temperature,
        "overconfident": [round(100 * float((p.max(1) >= 0.999).mean()), 1) for p in (own, better)],
        "unfamiliar": round(100 * float((calibrated.familiarity(data.x_test) < 0.01).mean()), 2),
        "seconds": [round(alone, 1), round(both, 1)],
    }
    for promise in PROMISES:
        chosen = calibrated.decide(data.x_test, promise) == "sorted"
        figures[f"sorted_at_{promise:g}"] = {
            "share": round(100 * float(chosen.mean()), 1),
            "wrong": round(100 * float(wrong[chosen].mean()), 2) if chosen.any() else None,
            "promised": known is not None and known.surest(promise).promised,
        }
    return figures


def error_of(probability: np.ndarray, y: np.ndarray) -> float:
    """Expected calibration error of probabilities (N, K)."""
    return reliability(probability.max(1), probability.argmax(1) == y).error


def run(asked: Namespace) -> Results:
    """Every set, every draw."""
    sets = {name: photos(asked) if name == "photos" else load(name) for name in asked.sets}
    folder = asked.out / "trust"
    cells: dict[str, list[Results]] = {name: [] for name in sets}
    for seed, name in track(list(product(range(asked.seeds), sets)), "cells"):
        cells[name].append(kept(folder / f"{name}-{seed}.json", lambda: cell(sets[name], seed, asked)))  # noqa: B023
    return {"labels": LABELS, "sets": cells}


def table(results: Results) -> str:
    """Means and standard deviations over the draws."""
    lines = [
        "| images | test error | cross-fitted | ECE of the net | calibrated | sorted at 90 % | wrong | cost |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, cells in results["sets"].items():
        columns = [
            [c["test_error"] for c in cells],
            [c["cross_fitted"]["error"] for c in cells],
            *([100 * c["ece"][i] for c in cells] for i in (0, 1)),
            [c["sorted_at_0.9"]["share"] for c in cells],
            [c["sorted_at_0.9"]["wrong"] or 0 for c in cells],
        ]
        shown = [f"{spread(column)} %" for column in columns]
        cost = mean_and_sd([c["seconds"][1] / c["seconds"][0] for c in cells])["mean"]
        lines.append(f"| {name} ({len(cells)} draws) | {' | '.join(shown)} | {cost:.1f} × |")
    return "\n".join(lines)


if __name__ == "__main__":
    study(
        run,
        table,
        name="trust",
        target="trust",
        seeds=5,
        options={
            "--sets": {"nargs": "+", "choices": list(SETTINGS), "default": list(SETTINGS), "help": "of images"},
            "--photo-size": {"type": int, "default": 32, "help": "side of a photograph in pixels, 16 or 32"},
            "--photo-epochs": {"type": int, "help": "passes over the photographs; the recipe's by default"},
        },
    )
