"""What does exactness cost? `make frontier`.

The same net learns from 4,000 digits of MNIST, 100 of them labelled, under more and more of the theory's
constraint: signed, with the penalty on negative templates at two weights, and non-negative by construction,
alone and taught by the signed net. Measured on the 1,000 test images: the error, the certificate's gap in units
of the score, and the share of images for which it is 0.
"""

import argparse
import statistics
from itertools import product
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from nonnegativity import measure
from sklearn.frozen import FrozenEstimator

from drmm import DRMMClassifier, as_images
from drmm.data import Dataset, load, mask_labels, stratified_labels
from drmm.explain.plots import save_figure
from drmm.files import write_json
from drmm.learning.metrics import certified_percent
from drmm.progress import track
from drmm.runs.run import versions

SETTINGS: dict[str, Any] = {"width": 16, "epochs": 15}
SIGNED, TAUGHT = "signed", "hard, taught by the signed net"
BARE = {"reconstruction": 0.0, "nonnegativity": 0.0}
MODELS: dict[str, dict[str, Any]] = {
    SIGNED: BARE,
    "soft, NN 0.5": {"reconstruction": 0.0, "nonnegativity": 0.5},
    "soft, NN 5,000": {"reconstruction": 0.0, "nonnegativity": 5000.0},
    "hard": {**BARE, "constraint": "hard"},
    TAUGHT: {**BARE, "constraint": "hard"},
}

Figures = dict[str, dict[str, list[float]]]


def learn(name: str, data: Dataset, seed: int, teacher: DRMMClassifier | None) -> DRMMClassifier:
    """One of the models, on a label draw."""
    labels = mask_labels(data.y_train, stratified_labels(data.y_train, 10, seed=seed))
    teaches = None if teacher is None else FrozenEstimator(teacher)
    learner = DRMMClassifier(teacher=teaches, random_state=seed, **SETTINGS, **MODELS[name])
    return learner.fit(data.x_train, labels)


def draw(found: Figures) -> Figure:
    """Test error against the gap: every draw, and the mean."""
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axis = figure.subplots()
    for i, (name, figures) in enumerate(found.items()):
        axis.scatter(figures["gap"], figures["test_error"], s=18, color=f"C{i}", alpha=0.5)
        middle = statistics.median(figures["gap"]), statistics.mean(figures["test_error"])
        axis.scatter(*middle, s=90, color=f"C{i}", edgecolor="white", label=name, zorder=3)
    axis.set_xscale("symlog", linthresh=1)
    axis.set_xlim(-0.4, None)
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.set_axisbelow(True)
    axis.set(xlabel="certificate's gap, in scores (0 is a proof)", ylabel="test error, %")
    axis.set_ylim(0, None)
    axis.grid(color="#e4e8ee", linewidth=0.8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=9, loc="center")
    return figure


def main() -> None:
    """Learn, measure, draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("results/frontier.json"))
    parser.add_argument("--picture", type=Path, default=Path("docs/frontier.png"))
    asked = parser.parse_args()
    data = load("mnist-5k")
    x, y = as_images(data.x_test), torch.from_numpy(data.y_test)
    found: Figures = {name: {} for name in MODELS}
    signed: dict[int, DRMMClassifier] = {}
    for seed, name in track(list(product(range(asked.seeds), MODELS)), "nets"):
        learner = learn(name, data, seed, signed[seed] if name == TAUGHT else None)
        if name == SIGNED:
            signed[seed] = learner
        figures = {**measure(learner.model_, x, y), "certified": certified_percent(learner.model_, x)}
        for key, value in figures.items():
            found[name].setdefault(key, []).append(round(value, 4))
    about = {"command": "make frontier", "seeds": asked.seeds, "settings": SETTINGS}
    write_json(asked.out, {**about, "models": found, "versions": versions()})
    save_figure(draw(found), asked.picture)


if __name__ == "__main__":
    main()
