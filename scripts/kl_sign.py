"""What does the sign of the KL term do? `make kl`.

The demo's net and settings learn from scikit-learn's digits, 100 of them labelled, on ten label draws: with 𝓛_KL
as the slides print it, with the opposite sign, which the authors' code has, and from the labels alone. Measured is
the error on the 500 test images.
"""

from argparse import Namespace
from itertools import product

import torch

from drmm import DRMMClassifier
from drmm.cli.demo import experiments
from drmm.data import load, mask_labels, stratified_labels
from drmm.learning.metrics import error_percent
from drmm.progress import track
from scripts.study import Results, study

DEMO = experiments()
SLIDES = DEMO["soft"].changed("objective", views=(), warm_up=0)
LEARNERS = {
    "printed": SLIDES.set("objective.kl_sign=printed"),
    "confident": SLIDES,
    "labels alone": DEMO["supervised"],
}


def run(asked: Namespace) -> Results:
    """Learn and measure."""
    data = load("digits")
    x, y = torch.from_numpy(data.x_test), torch.from_numpy(data.y_test)
    errors: dict[str, list[float]] = {name: [] for name in LEARNERS}
    for seed, (name, experiment) in track(list(product(range(asked.seeds), LEARNERS.items())), "nets"):
        labels = mask_labels(data.y_train, stratified_labels(data.y_train, 10, seed=seed))
        learner = DRMMClassifier(
            model={"preset": "conv_small"},
            objective=experiment.objective,
            training=experiment.training,
            random_state=seed,
        ).fit(data.x_train, labels)
        errors[name].append(error_percent(learner.model_, x, y))
    return {"dataset": data.name, "labels": 100, "epochs": DEMO["soft"].training.epochs, "test_error": errors}


if __name__ == "__main__":
    study(run, name="kl_sign", target="kl", seeds=10)
