"""Pictures with missing pixels: what a model makes of them, by how the gaps are filled in.

MNIST digits, 0 to 80 % of whose pixels are missing at random, or a square of them. Three models: the demo's, with
100 labels; the same with all labels; and one that learned with gaps, to tell and to draw the whole picture. Five
ways to fill in: black; the mean of the training images; the rendering alone, iterated from there (EM, if noise
were independent from pixel to pixel); the neighbours alone; and `infer(x, observed=...)`, which takes both
neighbours and rendering. Accuracy in %, and mean squared error on the missing pixels.

`--validate` learns without a part of the training images and reads that instead of the test images; settings were
chosen so. Writes results/missing_pixels.json and docs/missing_pixels.png: `make missing`.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import drmm
from drmm.data import holdout, load, mask_labels, stratified_labels
from drmm.data.images import pixels
from drmm.explain.plots import Row, save_figure, sheet
from drmm.files import read_json
from drmm.learning.config import Training
from drmm.learning.objective import cross_entropy, reconstruction
from drmm.learning.train import train
from drmm.model.deep import fit_amplitude, per_image
from drmm.model.inpainting import from_neighbours
from drmm.progress import track
from drmm.studies.corruptions import occlude
from scripts.study import Results, study

RATES = tuple(rate / 10 for rate in range(9))
SQUARES = (8, 12, 16)  # sides of the occlusion, in pixels
EPOCHS, GAPPY_EPOCHS, BATCH = 15, 20, 128
MOST, DRAWING = 0.9, 3.0  # largest share of gaps, and weight of the reconstruction, while learning with gaps
POWERS = (4, 6, 8)
SWEEPS = 3  # of the rendering alone
CHUNK = 250
SHOWN = ("50 %", "80 %", "12 × 12")

Fill = Callable[[Tensor, Tensor], Tensor]
Figures = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """Images to learn from and to be judged on, float (N, 1, 28, 28), labels, and which of these to hide."""

    x: Tensor
    y: Tensor
    few: Tensor
    x_judged: Tensor
    y_judged: Tensor


def make_task(*, validate: bool) -> Task:
    """Split the data as the demo does, or its training images in two."""
    data = load("mnist-5k")
    few = mask_labels(data.y_train, stratified_labels(data.y_train, 10, seed=0))
    kept, judged = np.arange(len(data.y_train)), (data.x_test, data.y_test)
    if validate:
        out = holdout(data.y_train, 500, seed=0)
        kept, judged = np.setdiff1d(kept, out), (data.x_train[out], data.y_train[out])
    arrays = (data.y_train[kept], few[kept], judged[1])
    y, hidden, y_judged = (torch.from_numpy(array) for array in arrays)
    x, x_judged = (pixels(torch.from_numpy(array)) for array in (data.x_train[kept], judged[0]))
    return Task(x, y, hidden, x_judged, y_judged)


def at_random(x: Tensor, generator: torch.Generator, rate: float | Tensor) -> Tensor:
    """Which pixels are seen, if each is missing with a probability of its own image."""
    return torch.rand(x.shape, generator=generator) >= rate


def outside_a_square(x: Tensor, generator: torch.Generator, side: int) -> Tensor:
    """Which pixels are seen, if a square anywhere in the picture is missing."""
    return occlude(torch.ones_like(x), side, generator, value=0).bool()


def patterns() -> dict[str, Callable[[Tensor, torch.Generator], Tensor]]:
    """What may be missing, by name."""
    found = {f"{100 * rate:.0f} %": partial(at_random, rate=rate) for rate in RATES}
    return found | {f"{side} × {side}": partial(outside_a_square, side=side) for side in SQUARES}


def learn(x: Tensor, y: Tensor) -> drmm.DRMM:
    """As the demo does."""
    torch.manual_seed(0)
    return train(drmm.presets.conv_small(), x, y, config=Training(epochs=EPOCHS, seed=0), progress=False)


def learn_with_gaps(x: Tensor, y: Tensor) -> drmm.DRMM:
    """Tell the class of pictures whose gaps the neighbours filled, and draw what was there."""
    torch.manual_seed(0)
    generator, model = torch.Generator().manual_seed(0), drmm.presets.conv_small().train()
    steps = GAPPY_EPOCHS * (len(x) // BATCH)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps, pct_start=0.1)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.99))

    def draw_batch() -> tuple[Tensor, Tensor, Tensor]:
        chosen = torch.randint(len(x), (BATCH,), generator=generator)
        rate = MOST * torch.rand(BATCH, 1, 1, 1, generator=generator)
        return from_neighbours(x[chosen], at_random(x[chosen], generator, rate)), x[chosen], y[chosen]

    for _ in range(steps):
        filled, whole, label = draw_batch()
        features, switches = model.levels.infer(filled)
        drawn = model.levels.render(model.templates.weight[label], switches)
        loss = cross_entropy(model.templates(features), label) + DRAWING * reconstruction(whole, drawn)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        average.update_parameters(model)
    learned: drmm.DRMM = average.module
    learned.calibrate(draw_batch()[0] for _ in range(40))
    learned.eval().settle(draw_batch()[0] for _ in range(40))
    return learned


def by_rendering(model: drmm.DRMM, mean: Tensor) -> Fill:
    """Missing pixels as the model draws them, again and again: what is best if noise is independent."""

    def fill(x: Tensor, seen: Tensor) -> Tensor:
        filled = torch.where(seen, x, mean)
        for _ in range(SWEEPS):
            drawn = model.render(model.infer(filled))
            filled = torch.where(seen, x, per_image(fit_amplitude(x, drawn, seen)) * drawn)
        return filled

    return fill


def ways(model: drmm.DRMM, mean: Tensor, *, powers: bool) -> dict[str, Fill]:
    """How to fill in; settings of the neighbours too."""
    found: dict[str, Fill] = {
        "zeros": lambda x, seen: torch.where(seen, x, 0.0),
        "mean": lambda x, seen: torch.where(seen, x, mean),
        "rendering": by_rendering(model, mean),
        "neighbours": from_neighbours,
        "observed": model.inpaint,
    }
    for power in POWERS if powers else ():
        found[f"neighbours, power {power}"] = lambda x, seen, power=power: from_neighbours(x, seen, power)
    return found


@torch.no_grad()
def judge(model: drmm.DRMM, fill: Fill, task: Task, seen: Tensor) -> tuple[float, float]:
    """Accuracy in percent, and mean squared error on the missing pixels (0 if there are none)."""
    right, error = 0, 0.0
    for x, y, mask in zip(*(part.split(CHUNK) for part in (task.x_judged, task.y_judged, seen)), strict=True):
        filled = fill(x, mask)
        right += int((model(filled).argmax(1) == y).sum())
        error += float((filled - x).square().sum())
    return 100 * right / len(seen), error / max(1, int((~seen).sum()))


def judged(model: drmm.DRMM, task: Task, seeds: int, *, powers: bool) -> Figures:
    """Every way for every pattern: mean and standard deviation over masks."""
    rows: Figures = {}
    fills = ways(model, task.x.mean(0), powers=powers)
    for gaps, hide in patterns().items():
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in fills}
        for seed in range(seeds if gaps != "0 %" else 1):  # nothing missing is the same for all
            seen = hide(task.x_judged, torch.Generator().manual_seed(seed))
            for name, fill in fills.items():
                if name != "rendering" or seed == 0:  # the slowest, and far off
                    found[name].append(judge(model, fill, task, seen))
        rows[gaps] = {name: summary(values) for name, values in found.items()}
    return rows


def summary(values: list[tuple[float, float]]) -> dict[str, float]:
    """Mean and standard deviation of accuracy, mean of the error."""
    accuracy, error = np.array(values).T
    sd = float(accuracy.std(ddof=1)) if len(values) > 1 else 0.0
    return {
        "accuracy": round(float(accuracy.mean()), 2),
        "sd": round(sd, 2),
        "squared_error": round(float(error.mean()), 4),
    }


@torch.no_grad()
def picture(model: drmm.DRMM, task: Task) -> list[Row]:
    """One digit of every class, with gaps, and filled in."""
    x = task.x_judged[torch.stack([torch.nonzero(task.y_judged == c)[0, 0] for c in range(10)])]
    rows = [Row("input", x)]
    for gaps in SHOWN:
        seen = patterns()[gaps](x, torch.Generator().manual_seed(0))
        rows.append(Row(f"{gaps} missing\n(grey)", torch.where(seen, x, 0.5)))
        rows.append(Row("inpainted", model.inpaint(x, seen)))
    return rows


def run(asked: Namespace) -> Results:
    """Learn, judge, draw; what was found by the other of the two ways stays as it was."""
    task = make_task(validate=asked.validate)
    recipes = {
        "100 labels": lambda: learn(task.x, task.few),
        "all labels": lambda: learn(task.x, task.y),
        "all labels, learned with gaps": lambda: learn_with_gaps(task.x, task.y),
    }
    models: Figures = {}
    for name, recipe in track(list(recipes.items()), "models"):
        model = recipe()
        models[name] = judged(model, task, asked.seeds, powers=asked.validate)
    if not asked.validate:
        save_figure(
            sheet(picture(model, task), [str(c) for c in range(10)]), asked.pictures / "missing_pixels.png"
        )
    found = {"images": len(task.x), "judged_on": len(task.x_judged), "seeds": asked.seeds, "models": models}
    this, other = ("validation", "test") if asked.validate else ("test", "validation")
    file = asked.out / "missing_pixels.json"
    before = read_json(file) if file.exists() else {}
    return {**{name: before[name] for name in before if name == other}, this: found}


def table(results: Results) -> str:
    """Accuracy on digits with gaps by how they are filled in, and squared errors of the fill, as Markdown."""
    names = {
        "zeros": "black",
        "mean": "mean image",
        "rendering": "rendering alone",
        "neighbours": "neighbours alone",
        "observed": "`infer(x, observed=)`",
    }
    errors = {"neighbours": "error, neighbours alone", "observed": "error, `inpaint`"}
    head = [*names.values(), *errors.values()]
    rows = [f"| model | missing | {' | '.join(head)} |", f"|---|---|{'--:|' * len(head)}"]
    for model, patterns_of in results["test"]["models"].items():
        for gaps, row in patterns_of.items():
            cells = [f"{row[name]['accuracy']:.1f}" for name in names]
            cells += [f"{row[name]['squared_error']:.3f}" for name in errors]
            rows.append(f"| {model} | {gaps} | {' | '.join(cells)} |")
    return "\n".join(rows)


if __name__ == "__main__":
    options = {"--validate": {"action": "store_true", "help": "judge on training images that were left out"}}
    study(run, table, name="missing_pixels", target="missing", options=options)
