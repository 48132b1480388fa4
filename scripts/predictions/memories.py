"""How a net remembers a class: what excites it most, and whether that is a mixture over nuisances (T15).

The model of `make demo` on MNIST, 100 labels, several seeds. For each class its renderings of training images are
clustered; the templates are judged by the energy of test images that the best of them explains. The class is a
mixture over nuisances if several templates explain more than one by more than 5 points. The picture that excites a
class most is sought from many starts, by closed form and by steps along the gradient. Writes
results/predictions/t15.json and docs/memories.png: `make predictions`.
"""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

import drmm
from drmm.data import load, mask_labels, stratified_labels
from drmm.data.images import pixels
from drmm.explain import ascend, class_mixture, closed_form
from drmm.explain.plots import Row, save_figure, sheet
from drmm.learning.config import Training
from drmm.learning.train import train
from drmm.progress import track
from drmm.studies.predictions import LEAST, MARGINS, Interval, Verdict, interval, judge
from scripts.study import Results, study

EPOCHS, TEMPLATES, STARTS = 15, (1, 2, 4, 8), 20
SHOWN = 6  # templates of the picture


def learn(x: Tensor, y: np.ndarray, seed: int) -> drmm.DRMM:
    """As the demo does."""
    torch.manual_seed(seed)
    labels = torch.from_numpy(mask_labels(y, stratified_labels(y, 10, seed=seed)))
    config = Training(epochs=EPOCHS, seed=seed)
    return train(drmm.presets.conv_small(), x, labels, config=config, progress=False).eval()


def remember(model: drmm.DRMM, x: Tensor, held_out: Tensor, label: int, seed: int) -> dict[str, Any]:
    """One class of one model."""
    explained = {k: class_mixture(model, x, label, k, held_out=held_out, seed=seed).explained for k in TEMPLATES}
    starts = held_out[:STARTS]
    closed, ascended = closed_form(model, starts, label), ascend(model, starts, label)
    pictures = ascended.image.flatten(1)
    alike = (pictures @ pictures.T)[~torch.eye(len(pictures), dtype=torch.bool)]
    return {
        "explained": {str(k): round(value, 4) for k, value in explained.items()},
        "score": {
            "of the images": _mean(_scores(model, starts, label)),
            "closed form": _mean(closed.score),
            "ascent": _mean(ascended.score),
        },
        "cosine of closed form and ascent": _mean(F.cosine_similarity(closed.image.flatten(1), pictures)),
        "cosine of pictures from different starts": _mean(alike),
    }


def _scores(model: drmm.DRMM, x: Tensor, label: int) -> Tensor:
    """Scores of images, made as long as those that excite."""
    with torch.no_grad():
        return model(F.normalize(x.flatten(1)).reshape(x.shape))[:, label]


def _mean(values: Tensor) -> float:
    return round(float(values.mean()), 4)


def conclude(runs: list[dict[str, Any]]) -> tuple[Verdict, dict[str, Any]]:
    """The verdict, over models and classes."""

    def over_both(values: list[float]) -> Interval:
        return interval(np.reshape(values, (-1, 10)))  # models come one after the other, each with every class

    gain = over_both([run["explained"]["8"] - run["explained"]["1"] for run in runs])
    alike = over_both([run["cosine of pictures from different starts"] for run in runs])
    many = {k: 100 * float(np.mean([run["explained"][k] for run in runs])) for k in ("1", "8")}
    says = (
        f"Of the energy of test digits one template of their class explains {many['1']:.0f} %, eight "
        f"{many['8']:.0f} % (gain {100 * gain.mean:.1f} points [{100 * gain.low:.1f}, {100 * gain.high:.1f}]). "
        f"Pictures that excite a class most have a cosine of {alike.mean:.2f} if they are sought from different "
        f"starts: there is not one of them. {gain.n} models."
    )
    verdict = Verdict(
        claim="The image that excites a class most is a sum of renderings, a mixture over nuisances",
        slide="How are Memories of Objects Stored in a Convnet?",
        law="T15",
        verdict=judge(gain, MARGINS["templates"]),
        says=says,
        command="make predictions",
    )
    return verdict, {"gain": asdict(gain), "cosine_between_starts": asdict(alike)}


def picture(model: drmm.DRMM, x: Tensor, y: Tensor) -> list[Row]:
    """The templates of each class, in a column, and what excites it most."""
    mixtures = [class_mixture(model, x[y == c], c, SHOWN, held_out=x[y == c]) for c in range(10)]
    one = torch.cat([class_mixture(model, x[y == c], c, 1, held_out=x[y == c]).templates for c in range(10)])
    rows = [Row("one template", one, "stretched")]
    rows += [
        Row(f"{i + 1} of {SHOWN}", torch.stack([mixture.templates[i] for mixture in mixtures]), "stretched")
        for i in range(SHOWN)
    ]
    for i in range(2):
        starts = torch.stack([x[y == c][i] for c in range(10)])
        rows.append(
            Row("excites most\n(from a digit)", ascend(model, starts, torch.arange(10)).image, "stretched")
        )
    return rows


def run(asked: Namespace) -> Results:
    """Learn, remember, conclude, draw."""
    data = load("mnist-5k")
    x, images, held_out = torch.from_numpy(data.x_train), pixels(torch.from_numpy(data.x_train)), data.x_test
    y, y_held = torch.from_numpy(data.y_train), torch.from_numpy(data.y_test)
    tested, runs = pixels(torch.from_numpy(held_out)), []
    for seed in track(range(asked.seeds), "models"):
        model = learn(x, data.y_train, seed)
        for c in range(10):
            found = remember(model, images[y == c], tested[y_held == c], c, seed)
            runs.append({"seed": seed, "class": c, **found})
        if seed == 0:
            save_figure(sheet(picture(model, images, y), data.classes), asked.pictures / "memories.png")
    verdict, figures = conclude(runs)
    settings = {"epochs": EPOCHS, "labels": 100, "starts": STARTS}
    return {**asdict(verdict), **figures, "settings": settings, "runs": runs}


if __name__ == "__main__":
    study(run, name="predictions/t15", target="predictions", seeds=LEAST)
