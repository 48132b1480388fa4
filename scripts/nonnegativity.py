"""What does the penalty on negative templates do? `make nonnegativity`.

The same small net learns from 4,000 digits of MNIST, 100 of them labelled, with 𝓛_NN at several weights, several
times. Measured on the 1,000 test images: the share of the templates' energy that is negative, at the levels that
the penalty sees; the certificate's gap relative to the score; and the error.

A first run, at the weights 0 and 0.5 only, had twice the width and ten epochs. It found no effect either; the
larger weights were added, on a smaller net, to see whether the penalty was merely too weak.
"""

import itertools
import math
import statistics
from argparse import Namespace

import torch

from drmm import DRMM, DRMMClassifier, Objective, as_images
from drmm.data import load, mask_labels, stratified_labels
from drmm.learning.metrics import error_percent
from drmm.progress import track
from drmm.studies.predictions import LEAST, MARGINS, interval, judge
from scripts.study import Results, study

WIDTH, EPOCHS = 8, 6
WEIGHTS = (0.0, 0.5, 50.0, 5000.0)  # none, the default, and what would be seen if that were too little
PROVED = 1e-6  # scores: a gap that is rounding

Runs = dict[str, list[float]]


@torch.no_grad()
def measure(model: DRMM, x: torch.Tensor, y: torch.Tensor) -> dict[str, float]:
    """Negative energy of the templates in %, the gap in units of the score, and the test error in %."""
    latents = model.infer(x)
    _, *templates = model.levels.render_levels(model.templates.weight[latents.label], latents.switches)
    chosen = zip(templates, latents.switches.parts, strict=True)
    shares = [z.clamp(max=0).square().sum() / z.square().sum() for z, part in chosen if any(part.leaves())]
    return {
        "negative": 100 * float(torch.stack(shares).mean()),
        "gap": float((latents.gap / latents.score.abs()).median()),
        "test_error": error_percent(model, x, y),
    }


def verdict(by_weight: dict[float, Runs]) -> Results:
    """The prediction, for the weight that comes closest: that the gap falls to a thousandth of the score."""
    seeds = len(by_weight[WEIGHTS[0]]["gap"])
    closed = [interval([-math.log10(max(gap, PROVED)) for gap in runs["gap"]]) for runs in by_weight.values()]
    closest = max(closed, key=lambda found: found.mean)
    rows = [
        f"{weight:g}: {spread(runs['negative'])} % negative, gap {statistics.median(runs['gap']):,.0f} scores, "
        f"test error {spread(runs['test_error'])} %"
        for weight, runs in by_weight.items()
    ]
    return {
        "claim": "The penalty 𝓛_NN brings a trained net to the non-negative model, for which inference is exact",
        "slide": "Application: Semi-supervised Learning for Visual Recognition",
        "law": "T18",
        "verdict": judge(closest, MARGINS["a closed gap"]),
        "says": (
            f"A small net (width {WIDTH}, {EPOCHS} epochs, {seeds} seeds), by the "
            f"penalty's weight: {'; '.join(rows)}. A gap of 0 would prove the joint maximum; where it is smallest "
            f"it is 10^{-closest.mean:.1f} scores [10^{-closest.high:.1f}, 10^{-closest.low:.1f}]."
        ),
    }


def spread(values: list[float]) -> str:
    """Mean and standard deviation."""
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


def run(asked: Namespace) -> Results:
    """Learn, measure, and judge."""
    data = load("mnist-5k")
    x, y = as_images(data.x_test), torch.from_numpy(data.y_test)
    by_weight: dict[float, Runs] = {weight: {} for weight in WEIGHTS}
    for seed, weight in track(list(itertools.product(range(asked.seeds), WEIGHTS)), "nets"):
        labels = mask_labels(data.y_train, stratified_labels(data.y_train, 10, seed=seed))
        objective = Objective(nonnegativity=weight)
        classifier = DRMMClassifier(model={"width": WIDTH}, objective=objective, epochs=EPOCHS, random_state=seed)
        classifier.fit(data.x_train, labels)
        for key, value in measure(classifier.model_, x, y).items():
            by_weight[weight].setdefault(key, []).append(round(value, 4))
    figures = {f"{weight:g}": runs for weight, runs in by_weight.items()}
    return {**verdict(by_weight), "settings": {"width": WIDTH, "epochs": EPOCHS}, "figures": figures}


if __name__ == "__main__":
    study(run, name="predictions/T18", target="nonnegativity", seeds=LEAST)
