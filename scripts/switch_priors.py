"""Priors over switches, coarse to fine, on small digits: independent, of patches, learned: `make switch-priors`.

A net with a width of 16 learns to draw the 1,297 digits of 8 x 8 pixels, all with labels. Then 50 digits of every
class are drawn with the switches of each prior. Columns are those of `make samples`, but for the judge, a support
vector machine on pixels: recognised, in %; spread, the mean distance of two of one class, both scaled to length 1;
to_image, the distance to the nearest training image in pixel values, 5 % and 50 % below; and log p(g | c) of the
switches of test images, in nats, by each prior that gives every one a chance.

No setting was chosen on these figures. Writes results/switch_priors.json and docs/switch_priors.png.
"""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace

import torch
from sklearn.svm import SVC
from torch import Tensor, nn

import drmm
from drmm.data import load
from drmm.data.images import pixels
from drmm.explain.plots import Row, save_figure, sheet
from drmm.learning.config import Training
from drmm.learning.learned_prior import learn_prior
from drmm.learning.metrics import error_percent
from drmm.learning.train import train
from drmm.model.patch_prior import borrow
from drmm.model.priors import Prior
from drmm.storage.models import Recipe
from scripts.samples import PER_CLASS, RECONSTRUCTION, Jury, Part, of_images, of_priors, reconstructions
from scripts.study import Results, study

RECIPE = Recipe("conv_small", (1, 8, 8), tuple("0123456789"), width=16)
CONFIG = Training(epochs=20, batch_size=64, min_steps=0)
BACKOFF = 0.05
SEED = 0


class Judge(nn.Module):
    """A support vector machine on pixels, which shares nothing with the model."""

    def __init__(self, learned: Part) -> None:
        super().__init__()
        self.machine = SVC().fit(learned.x.flatten(1).numpy(), learned.y.numpy())

    def forward(self, x: Tensor) -> Tensor:
        """Scores (N, 10)."""
        return torch.from_numpy(self.machine.decision_function(x.flatten(1).numpy()))


def parts() -> tuple[Part, Part]:
    """To learn from, and to report."""
    data = load("digits")
    found = (data.x_train, data.y_train), (data.x_test, data.y_test)
    learned, test = (Part(pixels(torch.from_numpy(x)), torch.from_numpy(y)) for x, y in found)
    return learned, test


def priors(model: drmm.DRMM, learned: Part) -> dict[str, Prior | None]:
    """Every way to draw switches; None is the model's own."""
    patches = borrow(model, learned.x, learned.y)
    return {
        "independent": None,
        "independent in each class": patches.tuned(backoff=1.0),
        "patches": patches,
        f"patches, backoff {BACKOFF:g}": patches.tuned(backoff=BACKOFF),
        "learned": learn_prior(model, learned.x, learned.y, seed=SEED),
    }


def run(asked: Namespace) -> Results:
    """Learn, draw, judge."""
    learned, test = parts()
    objective = drmm.Objective(reconstruction=RECONSTRUCTION)
    model = train(RECIPE.build(SEED), learned.x, learned.y, objective=objective, config=replace(CONFIG, seed=SEED))
    jury = Jury(Judge(learned), model, learned.x, reconstructions(model, learned.x))
    rows, samples = of_priors(jury, priors(model, learned), test, SEED)
    shown = {"test image": torch.stack([test.x[test.y == c][0] for c in range(10)])}
    shown["its rendering"] = reconstructions(model, shown["test image"])
    for name, pictures in samples.items():
        shown |= {name + " " * i: pictures[i::PER_CLASS] for i in range(2)}
    pictures = [Row(caption.strip(), images, "stretched") for caption, images in shown.items()]
    save_figure(sheet(pictures, RECIPE.classes), asked.pictures / "switch_priors.png")
    error = error_percent(model, test.x, test.y)
    return {"images": len(learned.x), "model_error": error, "rows": of_images(jury, "test", test) | rows}


def table(results: Results) -> str:
    """A row for each way to draw, as Markdown."""
    rows = ["| | recognised (%) | spread | to image, 5 % | 50 % | log p(g of test) |", "|---|--:|--:|--:|--:|--:|"]
    for name, row in results["rows"].items():
        near, middle = row["to_image"]
        judged = f"{row['log_prior_of_test']:,.0f}" if "log_prior_of_test" in row else "–"
        figures = f"{row['recognised']:.0f} | {row['spread']:.2f} | {near:.2f} | {middle:.2f}"
        rows.append(f"| {name} | {figures} | {judged} |")
    return "\n".join(rows)


if __name__ == "__main__":
    study(run, table, name="switch_priors", target="switch-priors", seeds=1)
