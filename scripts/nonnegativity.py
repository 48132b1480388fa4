"""What does the penalty on negative templates do? `make nonnegativity`.

The same small net learns from 4,000 digits of MNIST, 100 of them labelled, with 𝓛_NN at several weights, several
times. Measured on the 1,000 test images: the share of the templates' energy that is negative, at the levels that
the penalty sees; the certificate's gap relative to the score; and the error.

A first run, at the weights 0 and 0.5 only, had twice the width and ten epochs. It found no effect either; the
larger weights were added, on a smaller net, to see whether the penalty was merely too weak.
"""

import argparse
import itertools
import statistics
from pathlib import Path
from typing import Any

import torch

from drmm import DRMM, DRMMClassifier, as_images
from drmm.data import load, mask_labels, stratified_labels
from drmm.files import write_json
from drmm.learning.metrics import error_percent
from drmm.progress import track
from drmm.runs.run import versions

SETTINGS: dict[str, Any] = {"width": 8, "epochs": 6}
WEIGHTS = (0.0, 0.5, 50.0, 5000.0)  # none, the default, and what would be seen if that were too little

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


def verdict(found: dict[float, Runs]) -> dict[str, Any]:
    """The prediction: confirmed if a weight closes the gap, refuted if at each it stays larger than the score."""
    seeds = len(found[WEIGHTS[0]]["gap"])
    smallest = min(statistics.median(runs["gap"]) for runs in found.values())
    rows = [
        f"{weight:g}: {spread(runs['negative'])} % negative, gap {statistics.median(runs['gap']):,.0f} scores, "
        f"test error {spread(runs['test_error'])} %"
        for weight, runs in found.items()
    ]
    return {
        "claim": "The penalty 𝓛_NN brings a trained net to the non-negative model, for which inference is exact",
        "slide": "Application: Semi-supervised Learning for Visual Recognition",
        "law": "T18",
        "verdict": "confirmed" if smallest < 1e-3 else "refuted" if smallest > 1 else "inconclusive",
        "says": (
            f"A small net (width {SETTINGS['width']}, {SETTINGS['epochs']} epochs, {seeds} seeds), by the "
            f"penalty's weight: {'; '.join(rows)}. A gap of 0 would prove the joint maximum."
        ),
    }


def spread(values: list[float]) -> str:
    """Mean and standard deviation."""
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


def main() -> None:
    """Learn, measure, and write the verdict."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("results/predictions/T18.json"))
    arguments = parser.parse_args()
    data = load("mnist-5k")
    x, y = as_images(data.x_test), torch.from_numpy(data.y_test)
    found: dict[float, Runs] = {weight: {} for weight in WEIGHTS}
    for seed, weight in track(list(itertools.product(range(arguments.seeds), WEIGHTS)), "nets"):
        labels = mask_labels(data.y_train, stratified_labels(data.y_train, 10, seed=seed))
        classifier = DRMMClassifier(nonnegativity=weight, random_state=seed, **SETTINGS)
        classifier.fit(data.x_train, labels)
        for key, value in measure(classifier.model_, x, y).items():
            found[weight].setdefault(key, []).append(round(value, 4))
    figures = {f"{weight:g}": runs for weight, runs in found.items()}
    about = {"command": "make nonnegativity", "seeds": arguments.seeds, "settings": SETTINGS, "figures": figures}
    write_json(arguments.out, {**verdict(found), **about, "versions": versions()})


if __name__ == "__main__":
    main()
