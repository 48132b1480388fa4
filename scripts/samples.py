"""Samples of digits by how their switches are drawn: recognised, copied, varied, probable?

A net learns to draw 3,200 digits of MNIST (the demo's recipe with all labels and a stronger reconstruction term).
Then it draws digits of every class with switches that are independent, independent within a class, or of the
patch prior of its training images (`drmm.borrow`), with few neighbours or many, with or without a backoff.
Beside them validation and test images and their renderings. For each:

- recognised: by a plain convnet that learned real images with all labels, and shares no weight with the model, in
  %; "noisy" is with the model's pixel noise.
- to_image: distance to the nearest training image, in pixel values; to_rendering: to the nearest rendering of a
  training image, both scaled to length 1, so that a copy is 0 whatever its brightness. 5 % and 50 % lie below.
- spread: mean distance of two of one class, both scaled to length 1.
- log_joint: by the model and its own, independent prior, in nats: 5 %, 50 % and 95 % of the images lie below.

And log p(g | c) of the switches of test images, in nats, by each prior that gives every one a chance.

Settings were chosen beside 800 validation images, which neither the model nor the judge learned from. Writes
results/samples.json and docs/samples.png: `make samples`.
"""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import drmm
from drmm.data import holdout, load
from drmm.data.images import pixels
from drmm.explain.plots import Row, save_figure, sheet
from drmm.learning.config import Training
from drmm.learning.metrics import error_percent
from drmm.learning.train import train
from drmm.model.deep import Latents
from drmm.model.patch_prior import PatchPrior, borrow
from drmm.model.priors import Prior
from drmm.progress import track
from drmm.storage.models import Recipe
from scripts.study import Results, study

RECIPE = Recipe("conv_small", (1, 28, 28), tuple("0123456789"))
EPOCHS, RECONSTRUCTION, SEED = 15, 20.0, 0
JUDGE_EPOCHS, BATCH = 10, 64
NEIGHBOURS, BACKOFFS = (1, 2, 5, 20, 100), (0.05, 0.2, 0.5, 1.0)
CHOSEN = 5  # neighbours where the backoff varies
PER_CLASS = 50
CHUNK = 200
JUDGED = 5  # one test image in so many is judged by the priors

Figures = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """Images, float (N, 1, 28, 28), and labels (N,)."""

    x: Tensor
    y: Tensor


def parts() -> tuple[Part, Part, Part]:
    """MNIST's 5,000: to learn from, to choose settings by, to report."""
    data = load("mnist-5k")
    held = holdout(data.y_train, 800, seed=0)
    kept = np.setdiff1d(np.arange(len(data.y_train)), held)
    x, y = torch.from_numpy(data.x_train), torch.from_numpy(data.y_train)
    test = Part(pixels(torch.from_numpy(data.x_test)), torch.from_numpy(data.y_test))
    return Part(pixels(x[kept]), y[kept]), Part(pixels(x[held]), y[held]), test


def learn(learned: Part, seed: int) -> drmm.DRMM:
    """The model."""
    objective, config = drmm.Objective(reconstruction=RECONSTRUCTION), Training(epochs=EPOCHS, seed=seed)
    return train(RECIPE.build(seed), learned.x, learned.y, objective=objective, config=config)


def learn_judge(learned: Part, seed: int) -> nn.Module:
    """A plain convnet of another kind, trained on real images alone."""
    torch.manual_seed(seed + 1)
    judge = nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Dropout(0.4), nn.Linear(64 * 49, 128), nn.ReLU(), nn.Dropout(0.4), nn.Linear(128, 10)),
    )
    steps = JUDGE_EPOCHS * (len(learned.x) // BATCH)
    optimizer = torch.optim.Adam(judge.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for _ in track(range(steps), "judge"):
        batch = torch.randint(len(learned.x), (BATCH,))
        loss = F.cross_entropy(judge(learned.x[batch]), learned.y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return judge.eval()


@dataclass(frozen=True)
class Jury:
    """All that samples are held against."""

    judge: nn.Module
    model: drmm.DRMM
    images: Tensor
    renderings: Tensor

    @torch.no_grad()
    def recognised(self, x: Tensor, y: Tensor) -> float:
        """Share of images that the judge takes for their class, in percent."""
        found = torch.cat([self.judge(part).argmax(1) for part in x.split(CHUNK)])
        return round(100 * float((found == y).double().mean()), 2)

    def figures(self, x: Tensor, y: Tensor, log_joint: Tensor) -> Figures:
        """Every figure of some images but those that need a prior."""
        return {
            "recognised": self.recognised(x, y),
            "to_image": quantiles(nearest(x.flatten(1), self.images.flatten(1))[0], 0.05, 0.5),
            "to_rendering": quantiles(nearest(unit(x), unit(self.renderings))[0], 0.05, 0.5),
            "spread": spread(x, y),
            "log_joint": quantiles(log_joint, 0.05, 0.5, 0.95),
        }

    def of_samples(self, latents: Latents, generator: torch.Generator) -> Figures:
        """Those of samples: of their pictures, and with noise for the log-joint."""
        picture = self.model.picture(latents).detach()
        noisy = picture + self.model.noise.sqrt() * torch.randn(picture.shape, generator=generator)
        figures = self.figures(picture, latents.label, self.model.log_joint(noisy, latents))
        return figures | {"recognised_noisy": self.recognised(noisy, latents.label)}


def unit(x: Tensor) -> Tensor:
    """Images (N, ...) as vectors of length 1."""
    return F.normalize(x.flatten(1), dim=1)


def nearest(x: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Distance of each row to the nearest of the others, (N,), and which that is."""
    # By the products alone, rounding would make the distance of a copy about 0.001.
    mode = "donot_use_mm_for_euclid_dist"
    found = [torch.cdist(part, others, compute_mode=mode).min(1) for part in x.split(CHUNK)]
    return torch.cat([part.values for part in found]), torch.cat([part.indices for part in found])


def quantiles(values: Tensor, *shares: float) -> list[float]:
    """As plain numbers."""
    return [round(float(values.quantile(share)), 4) for share in shares]


def spread(x: Tensor, y: Tensor) -> float:
    """Mean distance of two images of one class, both of length 1."""
    return round(float(torch.stack([F.pdist(unit(x[y == c])).mean() for c in y.unique()]).mean()), 4)


def priors(patches: PatchPrior) -> dict[str, Prior | None]:
    """Every way to draw switches; None is the model's own."""
    ways: dict[str, Prior | None] = {"independent": None}
    for k in NEIGHBOURS:
        ways[f"borrowed, {k} neighbours" if k > 1 else "borrowed, 1 neighbour"] = patches.tuned(neighbours=k)
    for backoff in BACKOFFS:
        name = f"borrowed, {CHOSEN} neighbours, backoff {backoff:g}"
        ways["independent in each class" if backoff == 1 else name] = patches.tuned(
            neighbours=CHOSEN, backoff=backoff
        )
    return ways


@torch.no_grad()
def reconstructions(model: drmm.DRMM, x: Tensor) -> Tensor:
    """Renderings of images as bright as they should be."""
    return torch.cat([model.reconstruct(part) for part in x.split(CHUNK)])


@torch.no_grad()
def of_images(jury: Jury, name: str, part: Part) -> Figures:
    """Two rows of the table: images and their renderings."""
    latents = jury.model.infer(part.x)
    log_joint = jury.model.log_joint(part.x, latents)
    pictures = {f"{name} images": part.x, f"{name} images rendered": jury.model.picture(latents)}
    return {caption: jury.figures(x, part.y, log_joint) for caption, x in pictures.items()}


@torch.no_grad()
def of_priors(
    jury: Jury, ways: dict[str, Prior | None], test: Part, seed: int
) -> tuple[Figures, dict[str, Tensor]]:
    """A row of the table for each prior, and its pictures, class by class."""
    model, rows, pictures = jury.model, {}, {}
    label = torch.arange(10).repeat_interleave(PER_CLASS)
    known = Part(test.x[::JUDGED], test.y[::JUDGED])
    latents = model.infer(known.x, known.y)
    for name, prior in track(list(ways.items()), "priors"):
        generator = torch.Generator().manual_seed(seed)
        drawn = model.sample_latents(len(label), label, generator, prior)
        rows[name] = jury.of_samples(drawn, generator)
        if not isinstance(prior, PatchPrior) or prior.backoff > 0:
            log_p = model.log_prior(latents, prior) - model.class_prior.log()[known.y]
            rows[name]["log_prior_of_test"] = round(float(log_p.mean()), 1)
        pictures[name] = model.picture(drawn)
    return rows, pictures


@torch.no_grad()
def picture(jury: Jury, test: Part, samples: dict[str, Tensor]) -> list[Row]:
    """One image of every class in each row; all as bright as they can be."""
    x = torch.stack([test.x[test.y == c][0] for c in range(10)])
    chosen = f"borrowed, {CHOSEN} neighbours"
    rows = {"test image": x, "its rendering": jury.model.reconstruct(x)}
    rows |= {name: samples[name][::PER_CLASS] for name in ("independent", "independent in each class")}
    rows |= {chosen + " " * i: samples[chosen][i::PER_CLASS] for i in range(3)}
    last = samples[chosen][2::PER_CLASS]
    rows["nearest training rendering"] = jury.renderings[nearest(unit(last), unit(jury.renderings))[1]]
    name = f"borrowed, {max(NEIGHBOURS)} neighbours"
    rows[name] = samples[name][::PER_CLASS]
    return [Row(caption.strip(), images, "stretched") for caption, images in rows.items()]


def run(asked: Namespace) -> Results:
    """Learn, draw, judge."""
    learned, validation, test = parts()
    if asked.run is not None and (asked.run / "model.json").exists():
        model, _ = drmm.load_model(asked.run)
    else:
        model = learn(learned, SEED)
        if asked.run is not None:
            drmm.save_model(model, RECIPE, asked.run)
    jury = Jury(learn_judge(learned, SEED), model, learned.x, reconstructions(model, learned.x))
    rows, samples = of_priors(jury, priors(borrow(model, learned.x, learned.y)), test, SEED)
    held = of_images(jury, "validation", validation) | of_images(jury, "test", test)
    save_figure(sheet(picture(jury, test, samples), RECIPE.classes), asked.pictures / "samples.png")
    return {
        "images": len(learned.x),
        "samples": 10 * PER_CLASS,
        "epochs": EPOCHS,
        "reconstruction": RECONSTRUCTION,
        "model_error": error_percent(model, test.x, test.y),
        "rows": held | rows,
    }


if __name__ == "__main__":
    options = {"--run": {"type": Path, "help": "a folder for the model, which is read from there if it exists"}}
    study(run, name="samples", target="samples", seeds=1, options=options)
