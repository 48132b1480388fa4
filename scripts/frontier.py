"""What does exactness cost? `make frontier`.

The same net learns from 4,000 digits of MNIST, 100 of them labelled, under more and more of the theory's
constraint: signed, with the penalty on negative templates at two weights, and non-negative by construction,
alone and taught by the signed net. Measured on the 1,000 test images: the error, the certificate's gap in units
of the score, and the share of images for which it is 0.
"""

import statistics
from argparse import Namespace
from itertools import product

import torch
from matplotlib.figure import Figure
from sklearn.frozen import FrozenEstimator

from drmm import DRMMClassifier, Objective, as_images
from drmm.data import Dataset, load, mask_labels, stratified_labels
from drmm.learning.metrics import certified_percent
from drmm.progress import track
from drmm.studies.reproduce import spread
from scripts.nonnegativity import measure
from scripts.study import Results, study

WIDTH, EPOCHS = 16, 15
SIGNED, TAUGHT = "signed", "hard, taught by the signed net"
NONNEGATIVITY = {SIGNED: 0.0, "soft, NN 0.5": 0.5, "soft, NN 5,000": 5000.0, "hard": 0.0, TAUGHT: 0.0}
HARD = {"hard", TAUGHT}

Figures = dict[str, dict[str, list[float]]]


def learn(name: str, data: Dataset, seed: int, teacher: DRMMClassifier | None) -> DRMMClassifier:
    """One of the models, on a label draw."""
    labels = mask_labels(data.y_train, stratified_labels(data.y_train, 10, seed=seed))
    learner = DRMMClassifier(
        model={"width": WIDTH, "constraint": "hard" if name in HARD else "soft"},
        objective=Objective(reconstruction=0.0, nonnegativity=NONNEGATIVITY[name]),
        teacher=None if teacher is None else FrozenEstimator(teacher),
        epochs=EPOCHS,
        random_state=seed,
    )
    return learner.fit(data.x_train, labels)


def figure(results: Results) -> Figure:
    """Test error against the gap: every draw, and the mean."""
    drawn = Figure(figsize=(7.2, 4.2), layout="constrained")
    axis = drawn.subplots()
    for i, (name, figures) in enumerate(results["models"].items()):
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
    return drawn


def table(results: Results) -> str:
    """Test error against the certificate's gap, as Markdown."""
    rows = [
        f"| 4,000 digits, 100 labels, {results['seeds']} draws | test error (%) | gap, in scores | proved (%) |",
        "|---|--:|--:|--:|",
    ]
    for name, figures in results["models"].items():
        gap, proved = statistics.median(figures["gap"]), statistics.mean(figures["certified"])
        rows.append(f"| {name} | {spread(figures['test_error'])} | {gap:,.0f} | {proved:.0f} |")
    return "\n".join(rows)


def run(asked: Namespace) -> Results:
    """Learn and measure."""
    data = load("mnist-5k")
    x, y = as_images(data.x_test), torch.from_numpy(data.y_test)
    models: Figures = {name: {} for name in NONNEGATIVITY}
    signed: dict[int, DRMMClassifier] = {}
    for seed, name in track(list(product(range(asked.seeds), NONNEGATIVITY)), "nets"):
        learner = learn(name, data, seed, signed[seed] if name == TAUGHT else None)
        if name == SIGNED:
            signed[seed] = learner
        figures = {**measure(learner.model_, x, y), "certified": certified_percent(learner.model_, x)}
        for key, value in figures.items():
            models[name].setdefault(key, []).append(round(value, 4))
    return {"settings": {"width": WIDTH, "epochs": EPOCHS}, "models": models}


if __name__ == "__main__":
    study(run, table, figure, name="frontier", target="frontier")
